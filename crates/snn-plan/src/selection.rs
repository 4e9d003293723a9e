//! Products with one-hot rows, which choose elements or add them up: the rows are never written.

use snn_ir::{CompileError, Contraction, DType, Graph, Node, Op, Reduction, Value};

/// A product or sum of [`Op::RedundantOneHot`] of one axis of labels.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The labels.
    pub labels: Value,
    /// How many labels there are.
    pub count: usize,
    /// Labels are below this.
    pub classes: usize,
    /// What is chosen or added.
    pub kind: SelectionKind,
}

/// What happens with the one-hot rows.
#[derive(Clone, Debug)]
pub enum SelectionKind {
    /// Their sum: how often each class occurs.
    Counts,
    /// A product with `x[outer, middle, inner]`, over its middle axis.
    Product {
        /// The other operand.
        x: Value,
        /// Before the axis that is summed.
        outer: usize,
        /// After it.
        inner: usize,
        /// Are classes summed, so that each label chooses an element? Else elements are added to the class of their label.
        chooses: bool,
        /// Are the chosen places the first axis of the result, and not the last?
        first: bool,
    },
}

impl Selection {
    /// The selection that a node is, if it is one.
    pub fn new(graph: &Graph, node: &Node) -> Result<Option<Selection>, CompileError> {
        if let Op::Reduce { kind: Reduction::Sum, axes } = &node.op {
            let Some(mut found) = one_hot(graph, node.operands[0])? else { return Ok(None) };
            found.kind = SelectionKind::Counts;
            return Ok((axes.as_slice() == [0]).then_some(found));
        }
        let Op::Contract(c) = &node.op else { return Ok(None) };
        for first in [true, false] {
            if let Some(found) = product(graph, node, c, first)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What is read.
    pub fn reads(&self) -> Vec<Value> {
        match self.kind {
            SelectionKind::Counts => vec![self.labels],
            SelectionKind::Product { x, .. } => vec![self.labels, x],
        }
    }
}

/// A one-hot tensor of one axis of labels.
fn one_hot(graph: &Graph, v: Value) -> Result<Option<Selection>, CompileError> {
    let Op::RedundantOneHot { classes, repeat: 1 } = graph.op(v) else { return Ok(None) };
    let labels = graph.node(v.node).operands[0];
    let sizes = graph.ty(labels).sizes()?;
    let ([count], DType::I64) = (sizes.as_slice(), graph.ty(labels).dtype) else { return Ok(None) };
    Ok(Some(Selection { labels, count: *count, classes: *classes as usize, kind: SelectionKind::Counts }))
}

/// A product whose first or second operand is one-hot.
fn product(graph: &Graph, node: &Node, c: &Contraction, first: bool) -> Result<Option<Selection>, CompileError> {
    let (own, other) = if first { (0, 1) } else { (1, 0) };
    let (own_sum, other_sum) = if first { (&c.lhs_sum, &c.rhs_sum) } else { (&c.rhs_sum, &c.lhs_sum) };
    let ([summed], [axis], true) = (own_sum.as_slice(), other_sum.as_slice(), c.lhs_batch.is_empty()) else { return Ok(None) };
    let Some(found) = one_hot(graph, node.operands[own])? else { return Ok(None) };
    let x = node.operands[other];
    let sizes = graph.ty(x).sizes()?;
    let kind = SelectionKind::Product {
        x,
        outer: sizes[..*axis].iter().product(),
        inner: sizes[axis + 1..].iter().product(),
        chooses: *summed == 1,
        first,
    };
    Ok(Some(Selection { kind, ..found }))
}

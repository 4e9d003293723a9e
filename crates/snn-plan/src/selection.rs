//! Rows that are chosen by number, multiplied, and added up by number: products with one-hot rows, `take` and `scatter_add`, and a chain
//! of these, as the messages along the edges of a graph are. One-hot rows and messages are never written.

use snn_ir::{BinaryOp, CompileError, Contraction, DType, Graph, Node, Op, Reduction, Value};

/// One of [`SelectionKind`].
#[derive(Clone, Debug)]
pub struct Selection {
    /// What is computed.
    pub kind: SelectionKind,
    /// Where the chosen or added rows are in the result.
    pub place: Place,
}

/// What is done with rows.
#[derive(Clone, Debug)]
pub enum SelectionKind {
    /// The sum of one-hot rows: how often each label occurs.
    Counts(Labels),
    /// Rows are written in their order.
    Chosen(Rows),
    /// Rows are added to the row of the result that has the number of their label, in their order.
    Added {
        /// What is added.
        rows: Rows,
        /// One for each row.
        labels: Labels,
        /// To what it is added; nothing for zeros.
        to: Option<Value>,
    },
}

/// Numbers of rows.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// The numbers, of any shape.
    pub value: Value,
    /// How many there are.
    pub count: usize,
    /// They are below this.
    pub classes: usize,
    /// Do they stand for one-hot rows, whose zeros make an infinite element of any other row not a number? Else they are indices.
    pub one_hot: bool,
}

/// Rows of `x[outer, size, inner]` along its middle axis.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Their tensor.
    pub x: Value,
    /// Before the axis of rows.
    pub outer: usize,
    /// How many rows `x` has.
    pub size: usize,
    /// After the axis of rows.
    pub inner: usize,
    /// Which rows, if not all.
    pub chosen: Option<Labels>,
    /// What each row is multiplied by.
    pub factors: Option<Value>,
}

/// Where rows are in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `[row, outer, inner]`.
    First,
    /// `[outer, row, inner]`.
    Middle,
    /// `[outer, inner, row]`.
    Last,
}

impl Rows {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.chosen.map_or(self.size, |labels| labels.count)
    }

    fn reads(&self) -> impl Iterator<Item = Value> {
        [Some(self.x), self.chosen.map(|labels| labels.value), self.factors].into_iter().flatten()
    }

    /// All rows of a tensor of floats along an axis.
    fn all(graph: &Graph, x: Value, axis: usize) -> Result<Option<Rows>, CompileError> {
        let sizes = graph.ty(x).sizes()?;
        let [outer, inner] = [&sizes[..axis], &sizes[axis + 1..]].map(|sizes| sizes.iter().product());
        let rows = Rows { x, outer, size: sizes[axis], inner, chosen: None, factors: None };
        Ok((graph.ty(x).dtype == DType::F32).then_some(rows))
    }

    /// The rows of a tensor along an axis, from where they come: chosen from another, and each multiplied by a factor.
    fn traced(graph: &Graph, x: Value, axis: usize) -> Result<Option<Rows>, CompileError> {
        let unscaled = |x: Value| Ok(Rows::picked(graph, x, axis)?.or(Rows::all(graph, x, axis)?));
        let node = graph.node(x.node);
        if let (Op::Binary(BinaryOp::Mul), [a, b]) = (&node.op, node.operands.as_slice()) {
            for (rows, factors) in [(*a, *b), (*b, *a)] {
                if matches!(graph.op(factors), Op::Broadcast { axes, .. } if axes.as_slice() == [axis]) {
                    let factors = Some(graph.node(factors.node).operands[0]);
                    return Ok(unscaled(rows)?.map(|rows| Rows { factors, ..rows }));
                }
            }
        }
        unscaled(x)
    }

    /// The rows of a tensor that a selection chooses, if one does.
    fn picked(graph: &Graph, x: Value, axis: usize) -> Result<Option<Rows>, CompileError> {
        let node = graph.node(x.node);
        // A product has its rows first, from where they may be moved.
        let moved = matches!(&node.op, Op::Transpose { permutation } if permutation.len() > axis && moves_first(permutation, axis));
        let source = if moved { graph.node(node.operands[0].node) } else { node };
        let place = if moved || axis == 0 && matches!(node.op, Op::Contract(_)) { Place::First } else { Place::Middle };
        let Some(Selection { kind: SelectionKind::Chosen(rows), place: found }) = Selection::new(graph, source)? else {
            return Ok(None);
        };
        let sizes = graph.ty(x).sizes()?;
        let fits = found == place && rows.outer == sizes[..axis].iter().product::<usize>() && rows.count() == sizes[axis];
        Ok(fits.then_some(rows))
    }
}

/// Does a permutation move the first axis to `axis`, and leave the others in their order?
fn moves_first(permutation: &[usize], axis: usize) -> bool {
    let mut others = (1..permutation.len()).collect::<Vec<_>>();
    others.insert(axis, 0);
    permutation == others
}

impl Selection {
    /// The selection that a node is, if it is one.
    ///
    /// # Errors
    /// If a size is not known.
    pub fn new(graph: &Graph, node: &Node) -> Result<Option<Selection>, CompileError> {
        if let Op::Reduce { kind: Reduction::Sum, axes } = &node.op {
            let labels = one_hot(graph, node.operands[0])?.filter(|_| axes.as_slice() == [0]);
            return Ok(labels.map(|labels| Selection { kind: SelectionKind::Counts(labels), place: Place::First }));
        }
        if let Op::Contract(c) = &node.op {
            let found = product(graph, node, c, Place::First)?;
            return if found.is_some() { Ok(found) } else { product(graph, node, c, Place::Last) };
        }
        if let Op::Gather { axis } = &node.op {
            let Some(rows) = Rows::all(graph, node.operands[0], *axis)? else { return Ok(None) };
            let chosen = Some(indices(graph, node.operands[1], rows.size)?);
            return Ok(Some(Selection { kind: SelectionKind::Chosen(Rows { chosen, ..rows }), place: Place::Middle }));
        }
        let Op::ScatterAdd { axis } = &node.op else { return Ok(None) };
        let [to, places, updates] = node.operands[..] else { return Ok(None) };
        let classes = graph.ty(to).sizes()?[*axis];
        let labels = indices(graph, places, classes)?;
        // The updates have the axes of the places where the result has one.
        let rows = if graph.ty(places).rank() == 1 { Rows::traced(graph, updates, *axis)? } else { None };
        let is_zero = crate::plan::immediate(graph, to).is_some_and(|t| t.dtype() == DType::F32 && t.as_f32()[0].to_bits() == 0);
        let to = (!is_zero).then_some(to);
        Ok(rows.map(|rows| Selection { kind: SelectionKind::Added { rows, labels, to }, place: Place::Middle }))
    }

    /// What is read.
    pub fn reads(&self) -> Vec<Value> {
        match &self.kind {
            SelectionKind::Counts(labels) => vec![labels.value],
            SelectionKind::Chosen(rows) => rows.reads().collect(),
            SelectionKind::Added { rows, labels, to } => rows.reads().chain([labels.value]).chain(*to).collect(),
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        let chosen =
            |rows: &Rows| rows.chosen.map_or_else(|| format!("{} rows", rows.size), |l| format!("{} of {} rows", l.count, l.classes));
        match &self.kind {
            SelectionKind::Counts(labels) => format!("counts of {} classes in {} labels", labels.classes, labels.count),
            SelectionKind::Chosen(rows) => chosen(rows),
            SelectionKind::Added { rows, labels, .. } => {
                let factors = if rows.factors.is_some() { ", multiplied," } else { "" };
                format!("{}{factors} added to {}", chosen(rows), labels.classes)
            }
        }
    }

    /// How many elements are added.
    pub fn sums(&self) -> usize {
        match &self.kind {
            SelectionKind::Counts(labels) => labels.count,
            SelectionKind::Chosen(_) => 0,
            SelectionKind::Added { rows, .. } => rows.count() * rows.outer * rows.inner,
        }
    }
}

fn indices(graph: &Graph, value: Value, classes: usize) -> Result<Labels, CompileError> {
    Ok(Labels { value, count: graph.ty(value).sizes()?.iter().product(), classes, one_hot: false })
}

/// The labels of a one-hot tensor of one axis of them.
fn one_hot(graph: &Graph, v: Value) -> Result<Option<Labels>, CompileError> {
    let Op::RedundantOneHot { classes, repeat: 1 } = graph.op(v) else { return Ok(None) };
    let labels = graph.node(v.node).operands[0];
    let one_axis = graph.ty(labels).rank() == 1 && graph.ty(labels).dtype == DType::I64;
    if !one_axis {
        return Ok(None);
    }
    Ok(Some(Labels { one_hot: true, ..indices(graph, labels, *classes as usize)? }))
}

/// A product whose first or last operand is one-hot.
fn product(graph: &Graph, node: &Node, c: &Contraction, place: Place) -> Result<Option<Selection>, CompileError> {
    let (own, other, own_sum, other_sum) =
        if place == Place::First { (0, 1, &c.lhs_sum, &c.rhs_sum) } else { (1, 0, &c.rhs_sum, &c.lhs_sum) };
    let ([summed], [axis], true) = (own_sum.as_slice(), other_sum.as_slice(), c.lhs_batch.is_empty()) else { return Ok(None) };
    let Some(labels) = one_hot(graph, node.operands[own])? else { return Ok(None) };
    let x = node.operands[other];
    // Where classes are summed, each label chooses a row; else rows are added.
    let kind = if *summed == 1 {
        Rows::all(graph, x, *axis)?.map(|rows| SelectionKind::Chosen(Rows { chosen: Some(labels), ..rows }))
    } else {
        Rows::traced(graph, x, *axis)?.map(|rows| SelectionKind::Added { rows, labels, to: None })
    };
    Ok(kind.map(|kind| Selection { kind, place }))
}

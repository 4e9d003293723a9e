//! What an operation costs: about the bytes that it moves and the work that it does, in units of one elementwise operation on
//! one element. Sizes that are not known count as 16.

use std::collections::HashSet;

use snn_ir::{BinaryOp, Graph, Op, Type, UnaryOp};

use crate::enode::{ENode, Name};
use crate::facts::{Terms, operation, rough};

/// A graph in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Operations that compute, those of step functions and loops included.
    pub operations: usize,
    /// Bytes that operations write, views not counted.
    pub bytes: f64,
    /// The cost.
    pub cost: f64,
}

fn elements(ty: &Type) -> f64 {
    ty.shape.iter().map(rough).product()
}

/// What one element of an elementwise operation costs; what else stands in a step counts as one.
fn weight(op: &Op) -> f64 {
    if let Op::Unary(u) = op {
        match u {
            UnaryOp::Exp | UnaryOp::Log | UnaryOp::Sin | UnaryOp::Cos | UnaryOp::Tanh | UnaryOp::Erf => 8.0,
            UnaryOp::Sqrt => 3.0,
            UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Floor | UnaryOp::Round | UnaryOp::Not | UnaryOp::Detach => 1.0,
        }
    } else if let Op::Binary(b) = op {
        match b {
            BinaryOp::Pow | BinaryOp::Rem => 16.0,
            BinaryOp::Div => 3.0,
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Max | BinaryOp::Min | BinaryOp::And | BinaryOp::Or => 1.0,
            BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => 1.0,
        }
    } else {
        1.0
    }
}

/// What an operation costs, its operands not counted.
pub fn cost(op: &Op, operands: &[&Type], results: &[Type]) -> f64 {
    let size = elements(&results[0]);
    // Something for each operation, so that of two equally costly graphs the smaller wins.
    1.0 + match op {
        Op::Input { .. } | Op::Parameter { .. } | Op::Constant(_) | Op::Size(_) | Op::Reshape { .. } => 0.0,
        Op::Broadcast { .. } => 0.05 * size,
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast { .. } | Op::Spike { .. } => weight(op) * size,
        Op::Contract(c) => {
            let summed: f64 = c.lhs_sum.iter().map(|a| rough(&operands[0].shape[*a])).product();
            size * (1.0 + 0.2 * summed)
        }
        Op::Conv(_) => {
            let kernel = elements(operands[1]) / rough(&operands[1].shape[0]).max(1.0);
            size * (1.0 + 0.2 * kernel)
        }
        // As the convolution: each of its products once.
        Op::ConvInputGradient(_) => {
            let kernel = elements(operands[1]) / rough(&operands[1].shape[0]).max(1.0);
            size + 0.2 * kernel * elements(operands[0])
        }
        Op::ConvWeightGradient(_) => {
            let kernel = size / rough(&results[0].shape[0]).max(1.0);
            size + 0.2 * kernel * elements(operands[1])
        }
        Op::Scan(s) => {
            let body: f64 = s.body.nodes().map(|(_, n)| weight(&n.op)).sum();
            elements(operands[0]) * (1.0 + 0.3 * body)
        }
        Op::Loop(l) => rough(&l.steps) * totals(&l.body).cost,
        Op::Window { .. } => 0.05 * size,
        Op::Reduce { .. } | Op::ArgMax { .. } => elements(operands[0]),
        // Zeros, and a few ones.
        Op::RedundantOneHot { .. } => 0.1 * size,
        Op::Delay { .. } => 2.0 * size,
        // Copies that are not fused.
        Op::Iota { .. } | Op::Random { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Concat { .. } => 4.0 * size,
        Op::Gather { .. } | Op::ScatterAdd { .. } | Op::CumSum { .. } | Op::FirstSpike { .. } => 4.0 * size,
        Op::MaxPoolGradient(_) | Op::ThresholdMargin { .. } => 4.0 * size,
    }
}

/// The classes that something reads as a whole tensor: a root, or an operation that is no part of a step kernel. Any other
/// class may be a delay at no cost, because step kernels read at an offset.
pub fn read_whole(terms: &Terms, roots: impl IntoIterator<Item = egg::Id>) -> HashSet<egg::Id> {
    let mut whole: HashSet<egg::Id> = roots.into_iter().map(|id| terms.find(id)).collect();
    for term in terms.classes().flat_map(|c| &c.nodes) {
        if let Some((op, _, operands)) = operation(terms, term)
            && !op.is_elementwise()
            && !matches!(op, Op::Scan(_) | Op::Delay { .. })
        {
            whole.extend(operands.iter().map(|v| terms.find(*v)));
        }
    }
    whole
}

/// The cost of a term, its children not counted.
pub fn term_cost(terms: &Terms, term: &ENode, class: egg::Id, read_whole: &HashSet<egg::Id>) -> f64 {
    let Some((op, _, operands)) = operation(terms, term) else {
        return if matches!(term.name, Name::Attributes(_)) { 0.0 } else { 1e-3 };
    };
    let types: Vec<&Type> = operands.iter().map(|v| terms[*v].data.ty()).collect();
    let own = cost(&op, &types, &terms[class].data.types);
    if matches!(op, Op::Delay { .. }) && !read_whole.contains(&class) { 0.05 * own } else { own }
}

/// The totals of a graph.
pub fn totals(graph: &Graph) -> Totals {
    let live = graph.live_nodes();
    let mut all = Totals::default();
    for (id, node) in graph.nodes().filter(|(id, _)| live[id.index()]) {
        let operands: Vec<&Type> = node.operands.iter().map(|v| graph.ty(*v)).collect();
        all.cost += cost(&node.op, &operands, &node.types);
        let view = matches!(
            node.op,
            Op::Input { .. }
                | Op::Parameter { .. }
                | Op::Constant(_)
                | Op::Size(_)
                | Op::Reshape { .. }
                | Op::Broadcast { .. }
                | Op::Window { .. }
        );
        if view {
            continue;
        }
        all.bytes += graph.results(id).map(|v| elements(graph.ty(v)) * graph.ty(v).dtype.bytes() as f64).sum::<f64>();
        let inner = node.op.recurrence().map_or(1, |(_, body)| totals(body).operations);
        all.operations += inner;
    }
    all
}

//! Which values are binary: every element is `+0` or `1`, as those of spikes are.

use crate::describe::Class;
use crate::graph::{Graph, Value};
use crate::op::{BinaryOp, Op, Reduction, Scan, UnaryOp};
use crate::types::DType;

/// What is known about the operands of an operation.
pub trait Known {
    /// Is operand `i` binary?
    fn is_binary(&self, i: usize) -> bool;
    /// Is every element of operand `i` 1?
    fn is_one(&self, i: usize) -> bool;
    /// The element type of operand `i`.
    fn dtype(&self, i: usize) -> DType;
}

/// Is `+0` or 1 all that an element can be?
pub fn is_zero_or_one(x: f32) -> bool {
    x.to_bits() == 0 || x == 1.0
}

/// Is the only result of an operation binary, a float? Inputs and parameters are not, as far as is known here, and [`scan`] says it of scans.
pub fn is_binary(op: &Op, dtype: DType, operands: usize, known: &dyn Known) -> bool {
    let all = || operands > 0 && (0..operands).all(|i| known.is_binary(i));
    let is = if let Op::Constant(t) = op {
        t.dtype() == DType::F32 && t.as_f32().iter().all(|x| is_zero_or_one(*x))
    } else if let Op::Cast { .. } = op {
        known.dtype(0) == DType::Bool
    } else if let Op::Reduce { kind, .. } = op {
        *kind != Reduction::Sum && known.is_binary(0)
    } else if let Op::Gather { .. } = op {
        known.is_binary(0)
    } else if let Op::Pad { value, .. } = op {
        is_zero_or_one(*value) && known.is_binary(0)
    } else if let Op::Select = op {
        known.is_binary(1) && known.is_binary(2)
    } else if let Op::Binary(BinaryOp::Sub) = op {
        known.is_one(0) && known.is_binary(1)
    } else {
        let moves = op.class() == Class::Movement && !matches!(op, Op::ScatterAdd { .. });
        let keeps = matches!(op, Op::Unary(UnaryOp::Detach | UnaryOp::Abs | UnaryOp::Floor | UnaryOp::Round) | Op::Delay { .. })
            || matches!(op, Op::Binary(BinaryOp::Mul | BinaryOp::Max | BinaryOp::Min));
        matches!(op, Op::Spike { .. } | Op::RedundantOneHot { .. }) || ((moves || keeps) && all())
    };
    is && dtype == DType::F32
}

/// What is known about the values of a graph.
struct OfGraph<'a> {
    graph: &'a Graph,
    known: &'a [Vec<bool>],
    operands: &'a [Value],
}

impl Known for OfGraph<'_> {
    fn is_binary(&self, i: usize) -> bool {
        self.operands.get(i).is_some_and(|v| self.known[v.node.index()][v.result as usize])
    }

    fn is_one(&self, i: usize) -> bool {
        let Some(mut at) = self.operands.get(i).copied() else { return false };
        while let Op::Broadcast { .. } | Op::Reshape { .. } = self.graph.op(at) {
            at = self.graph.node(at.node).operands[0];
        }
        self.graph.constant_f32(at) == Some(1.0)
    }

    fn dtype(&self, i: usize) -> DType {
        self.operands.get(i).map_or(DType::F32, |v| self.graph.ty(*v).dtype)
    }
}

/// For each node of a graph, which of its results are binary; `inputs` says it of the graph's inputs.
pub fn values(graph: &Graph, inputs: &[bool]) -> Vec<Vec<bool>> {
    let mut known: Vec<Vec<bool>> = graph.nodes().map(|(_, node)| vec![false; node.types.len()]).collect();
    for (v, is) in graph.inputs.iter().zip(inputs) {
        known[v.node.index()][v.result as usize] = *is;
    }
    for (id, node) in graph.nodes() {
        if let Op::Input { .. } = &node.op {
            continue;
        }
        let of = OfGraph { graph, known: &known, operands: &node.operands };
        known[id.index()] = if let Op::Scan(s) = &node.op {
            let sequences: Vec<bool> = (0..s.roles.sequences).map(|i| of.is_binary(i)).collect();
            scan(s, &sequences)
        } else if let [ty] = node.types.as_slice() {
            vec![is_binary(&node.op, ty.dtype, node.operands.len(), &of)]
        } else {
            continue;
        };
    }
    known
}

/// Which results of a scan are binary, from the sequences that are. States may be anything before the first step.
pub fn scan(s: &Scan, sequences: &[bool]) -> Vec<bool> {
    let known = values(&s.body, sequences);
    let mut results: Vec<bool> = s.body.outputs.iter().map(|(_, v)| known[v.node.index()][v.result as usize]).collect();
    // Where there are no steps, the last state is the first.
    results[s.roles.outputs..].fill(false);
    results
}

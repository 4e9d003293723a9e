//! Delays inside of loops as ring buffers: a step moves one row, however long the delay is.
//!
//! A delay of `d` steps on a cycle is a state `[d, ...]` of the loop: its first row is what comes out, and the next state is the other rows with the
//! newest behind them. Where nothing else reads the state, its rows stay where they are, and a place goes around.

use snn_ir::{DType, Graph, Loop, NodeId, Op, Value};

/// Shorter delays are moved as a whole.
const SHORTEST: usize = 4;

/// What a node of a ring does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingPart {
    /// Gives the oldest row, which is there before the step.
    Oldest,
    /// The rows that stay: nothing is done for them.
    Rest,
    /// The newest row, which takes the oldest's place after the step.
    Next,
}

/// A state of a loop that is a ring buffer.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Which state.
    pub state: usize,
    /// Its oldest row in the body.
    pub oldest: Value,
    /// The nodes that are not computed as such.
    pub nodes: [(NodeId, RingPart); 3],
}

/// The states of a loop's body that are ring buffers.
pub fn find(body: &Graph, l: &Loop) -> Vec<Ring> {
    let first = l.roles.first_state();
    let mut users: Vec<Vec<NodeId>> = vec![vec![]; body.len()];
    for (id, node) in body.nodes() {
        node.operands.iter().for_each(|v| users[v.node.index()].push(id));
    }
    let given = |v: Value| body.outputs.iter().filter(|(_, o)| *o == v).count();
    (0..l.roles.states)
        .filter_map(|state| {
            let (input, next) = (body.inputs[first + state], body.outputs[l.roles.outputs + state].1);
            let ty = body.ty(input);
            let steps = ty.shape.first().and_then(|d| d.as_constant()).filter(|d| *d >= SHORTEST as i64)?;
            if ty.dtype != DType::F32 || given(input) > 0 || given(next) != 1 || !users[next.node.index()].is_empty() {
                return None;
            }
            let Op::Concat { axis: 0 } = body.op(next) else { return None };
            let [rest, _] = body.node(next.node).operands[..] else { return None };
            let slice = |v: Value, start: i64, rows: i64| {
                matches!(body.op(v), Op::Slice { axis: 0, start: s, step: 1, .. } if s.as_constant() == Some(start))
                    && body.node(v.node).operands[0] == input
                    && body.ty(v).shape[0].as_constant() == Some(rows)
            };
            let oldest = users[input.node.index()].iter().copied().find(|n| *n != rest.node)?;
            let oldest = Value { node: oldest, result: 0 };
            let fits = users[input.node.index()].len() == 2
                && slice(rest, 1, steps - 1)
                && slice(oldest, 0, 1)
                && users[rest.node.index()] == [next.node]
                && given(rest) == 0
                && given(oldest) == 0;
            let nodes = [(oldest.node, RingPart::Oldest), (rest.node, RingPart::Rest), (next.node, RingPart::Next)];
            fits.then_some(Ring { state, oldest, nodes })
        })
        .collect()
}

//! Which spikes are in memory as booleans, a byte each, and not as floats of four.
//!
//! A value that is 0 or 1 everywhere is kept so where all that read it can read booleans: step kernels, products, convolutions and the gradients of
//! their weights, max pools and their gradients, and what moves elements. What a kernel computes with them does not change.

use std::collections::{BTreeSet, HashSet};

use snn_ir::{DType, NodeId, Op, Reduction, Value, binary};

use crate::plan::{Planner, is_given};
use crate::reduction::ReductionShape;

/// Smaller values, in bytes of floats, stay in the caches.
const SMALLEST: usize = 1 << 16;

/// The values that are kept as booleans, of those that must be in memory.
pub(crate) fn stored_as_bytes(planner: &Planner<'_>, demanded: &HashSet<Value>) -> BTreeSet<Value> {
    let graph = planner.graph;
    let known = binary::values(graph, &[]);
    // What is made of a large value may be small.
    let is_large = |v: &Value| is_moved(graph.op(*v)) || is_pool(planner, v.node) || graph.ty(*v).byte_len() >= SMALLEST;
    let is_binary = |v: &Value| known[v.node.index()][v.result as usize] && is_large(v);
    let mut spikes: BTreeSet<Value> = demanded.iter().copied().filter(|v| is_binary(v) && is_written(planner, *v)).collect();
    graph.roots().for_each(|v| {
        spikes.remove(&v);
    });
    for (id, _) in graph.nodes() {
        for v in read_as_floats(planner, demanded, id) {
            spikes.remove(&v);
        }
    }
    // What is moved stays what it was, and pools of floats give floats.
    loop {
        let before = spikes.len();
        for (id, node) in graph.nodes() {
            let result = Value { node: id, result: 0 };
            if spikes.contains(&result) && is_pool(planner, id) && !planner.reads(id).iter().all(|v| spikes.contains(v)) {
                spikes.remove(&result);
            }
            if !is_moved(&node.op) {
                continue;
            }
            let all: Vec<Value> = node.operands.iter().copied().chain([result]).collect();
            if demanded.contains(&result) && !all.iter().all(|v| spikes.contains(v)) {
                all.iter().for_each(|v| {
                    spikes.remove(v);
                });
            }
        }
        if spikes.len() == before {
            return spikes;
        }
    }
}

/// Are the elements of the result those of its operands, or 0 or 1?
fn is_moved(op: &Op) -> bool {
    matches!(op, Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Window { .. } | Op::Concat { .. })
}

/// Can what computes a value write booleans?
fn is_written(planner: &Planner<'_>, v: Value) -> bool {
    let op = planner.graph.op(v);
    if let Op::Scan(s) = op {
        return planner.group_of.contains_key(&v.node) && (v.result as usize) < s.roles.outputs;
    }
    !is_given(op) && (planner.group_of.contains_key(&v.node) || is_moved(op) || is_pool(planner, v.node))
}

/// Is it a max pool over windows, read where they are?
fn is_pool(planner: &Planner<'_>, id: NodeId) -> bool {
    matches!(planner.graph.node(id).op, Op::Reduce { kind: Reduction::Max, .. }) && ReductionShape::windows(planner.graph, id).is_some()
}

/// What a node reads from memory and cannot read as booleans.
fn read_as_floats(planner: &Planner<'_>, demanded: &HashSet<Value>, id: NodeId) -> Vec<Value> {
    let (graph, node) = (planner.graph, planner.graph.node(id));
    if !planner.live[id.index()] || is_given(&node.op) {
        return vec![];
    }
    if let Some(g) = planner.group_of.get(&id) {
        if planner.groups[*g].pool == Some(id) {
            return vec![node.operands[2]];
        }
        // Step kernels read all but the first values of states.
        let Op::Scan(s) = &node.op else { return vec![] };
        let (shape, first) = (&planner.groups[*g].shape, s.roles.first_state());
        let states = node.operands.iter().enumerate().skip(first);
        return states.filter_map(|(i, v)| planner.step_source(&node.op, i, *v, shape)).collect();
    }
    if !graph.results(id).any(|v| demanded.contains(&v)) {
        return vec![];
    }
    let all = planner.reads(id);
    let convolves =
        matches!(&node.op, Op::Conv(c) if c.stride.len() <= 2) || matches!(&node.op, Op::ConvWeightGradient(c) if c.stride.len() <= 2);
    if planner.selection(node).is_some() {
        all
    } else if convolves {
        vec![node.operands[1]]
    } else if let Op::MaxPoolGradient(_) = &node.op {
        vec![node.operands[2]]
    } else if matches!(node.op, Op::Contract(_)) || is_moved(&node.op) || is_pool(planner, id) {
        vec![]
    } else {
        all.into_iter().filter(|v| graph.ty(*v).dtype == DType::F32).collect()
    }
}

//! A sequence of which only the last step is used becomes a state: weights that change at every step, a readout's membrane.
//! Memory does not grow with the number of steps then.

use std::sync::Arc;

use crate::build::Build;
use crate::dim::Dim;
use crate::graph::{Graph, Node, NodeId, Value};
use crate::op::{Op, Roles};
use crate::types::{DType, Type};

/// See [`Graph::with_last_steps`].
pub(crate) fn with_last_steps(graph: &Graph) -> Graph {
    let users = users(graph);
    let wanted = |id: NodeId, node: &Node| -> Vec<usize> {
        let Some((roles, _)) = node.op.recurrence() else { return vec![] };
        let used = |i: &usize| ends_only(graph, node, &users[id.index()][*i]) && node.types[*i].dtype == DType::F32;
        (0..roles.outputs).filter(used).collect()
    };
    let mut changed = false;
    let new = graph.rebuild(|new, id, mut node| {
        let own = graph.node(id);
        // The slice of the last step is the state itself.
        if let (Op::Slice { .. }, Some(source)) = (&own.op, own.operands.first())
            && wanted(source.node, graph.node(source.node)).contains(&(source.result as usize))
        {
            return vec![node.operands[0]];
        }
        if let Op::Loop(l) = &mut node.op {
            l.body = with_last_steps(&l.body);
        }
        let outputs = wanted(id, own);
        if outputs.is_empty() {
            let id = new.push(node);
            return new.results(id).collect();
        }
        changed = true;
        with_states(new, node, &outputs)
    });
    if changed { new.pruned() } else { new }
}

/// Who uses each result of each node; `None` is the graph itself.
fn users(graph: &Graph) -> Vec<Vec<Vec<Option<NodeId>>>> {
    let mut users: Vec<Vec<Vec<Option<NodeId>>>> = graph.nodes().map(|(_, n)| vec![vec![]; n.types.len()]).collect();
    for (id, node) in graph.nodes() {
        node.operands.iter().for_each(|v| users[v.node.index()][v.result as usize].push(Some(id)));
    }
    graph.roots().for_each(|v| users[v.node.index()][v.result as usize].push(None));
    users
}

/// Do all users take the step that is computed last?
fn ends_only(graph: &Graph, node: &Node, users: &[Option<NodeId>]) -> bool {
    let Some(steps) = node.types.first().and_then(|t| t.shape.first()) else { return false };
    let end = if is_reverse(&node.op) { Dim::constant(0) } else { steps.minus(&1.into()) };
    let ends = |user: &Option<NodeId>| {
        user.is_some_and(|id| {
            let user = graph.node(id);
            matches!(&user.op, Op::Slice { axis: 0, start, step: 1, .. } if *start == end && user.types[0].shape[0].is_one())
        })
    };
    !users.is_empty() && users.iter().all(ends)
}

fn is_reverse(op: &Op) -> bool {
    if let Op::Scan(s) = op {
        s.reverse
    } else if let Op::Loop(l) = op {
        l.reverse
    } else {
        false
    }
}

/// The node with a state for each of some outputs, in whose place its results are the last values of those, as sequences of one step.
fn with_states(new: &mut Graph, mut node: Node, outputs: &[usize]) -> Vec<Value> {
    let Some((Roles { outputs: count, states, .. }, body)) = node.op.recurrence() else { unreachable!("only recurrences have steps") };
    let mut body = body.clone();
    // What a state is next needs no second one.
    let mut places = Vec::new();
    for output in outputs {
        let value = body.outputs[*output].1;
        if let Some(known) = body.outputs[count..].iter().position(|(_, next)| *next == value) {
            places.push(count + known);
            continue;
        }
        places.push(body.outputs.len());
        let ty = body.ty(value).clone();
        let before = body.input(format!("in{}", body.len()), ty.clone());
        body.inputs.push(before);
        body.outputs.push((format!("last{}", body.len()), value));
        node.operands.push(Build(new).full(0.0, &ty));
    }
    let one_step = |i: &usize| {
        let mut ty = node.types[*i].clone();
        ty.shape[0] = 1.into();
        ty
    };
    let sliced: Vec<Type> = outputs.iter().map(one_step).collect();
    let added = body.outputs.len() - count - states;
    let mut is_scan = false;
    if let Op::Scan(s) = &mut node.op {
        let s = Arc::make_mut(s);
        (s.roles.states, s.body, is_scan) = (states + added, body, true);
    } else if let Op::Loop(l) = &mut node.op {
        (l.roles.states, l.body) = (states + added, body);
    }
    // The state of a neuron has no axis of steps.
    for (ty, place) in sliced.iter().zip(&places) {
        if *place >= node.types.len() {
            node.types.push(if is_scan { Type::new(ty.dtype, ty.shape[1..].to_vec()) } else { ty.clone() });
        }
    }
    let id = new.push(node);
    let mut results: Vec<Value> = new.results(id).collect();
    for ((output, ty), place) in outputs.iter().zip(sliced).zip(places) {
        let last = results[place];
        results[*output] = if is_scan { new.add(Op::Reshape { shape: ty.shape }, &[last]) } else { last };
    }
    results.truncate(count + states);
    results
}

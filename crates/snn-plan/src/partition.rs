//! Loops over independent samples: the body for a part of the samples, so that threads run through all time steps by themselves.
//!
//! Each value of a body either is the same for all samples, or has an axis of samples. An operation that mixes samples (a sum
//! over that axis, a shift along it) ends the attempt: then the loop is run as a whole, and its kernels divide their work.

use std::collections::HashMap;

use snn_ir::axes::{self, Axis};
use snn_ir::{DType, Graph, Loop, Node, Op, Type, Value};

/// Samples of a part, at most and at least. They do not depend on the number of threads, so that no result does.
const SHARE: std::ops::RangeInclusive<usize> = 4..=16;
/// Loops that compute fewer numbers than this in all are not divided.
const SMALLEST: usize = 1 << 16;

/// A body for some of the samples.
#[derive(Debug)]
pub struct Partitioned {
    /// It computes one part.
    pub body: Graph,
    /// How many parts there are.
    pub parts: usize,
    /// How many runs of samples a slice of a sequence has: the steps of a piece, or one.
    pub runs: usize,
    /// Along which axis each of the loop's operands is divided (a sequence has time before it); others are the same for all samples.
    pub operands: Vec<Option<usize>>,
}

/// How many runs of how many samples a slice of a sequence has: they lie along its first axis of more than one element, or, after
/// `skipped` others, of pieces, along a later one.
fn samples(ty: &Type, skipped: usize) -> Option<[usize; 2]> {
    let mut sizes = ty.sizes().ok()?.into_iter().filter(|n| *n != 1);
    let runs = sizes.by_ref().take(skipped).product();
    Some([runs, sizes.next()?])
}

/// How many of so many samples a part has, if they can be divided.
fn share(count: usize) -> Option<usize> {
    SHARE.rev().find(|n| *n < count && count.is_multiple_of(*n))
}

/// The first axis of that many samples, after so many runs of them.
fn axis_of(ty: &Type, [runs, count]: [usize; 2]) -> Option<usize> {
    let sizes = ty.sizes().ok()?;
    (0..sizes.len()).find(|a| sizes[*a] == count && (runs == 1 || sizes[..*a].iter().product::<usize>() == runs))
}

/// Divides a loop of that many steps, if it has enough samples and they do not meet.
pub fn partition_batch(l: &Loop, steps: usize) -> Option<Partitioned> {
    (0..2).find_map(|skipped| partition_along(l, steps, skipped))
}

/// [`partition_batch`] along an axis of the sequences, see [`samples`].
fn partition_along(l: &Loop, steps: usize, skipped: usize) -> Option<Partitioned> {
    let whole = &l.body;
    let (first_state, ty) = (l.roles.first_state(), |v: Value| whole.ty(v));
    let sequences = || whole.inputs[..l.roles.sequences].iter().chain(whole.outputs[..l.roles.outputs].iter().map(|(_, v)| v));
    let at = samples(ty(*sequences().next()?), skipped)?;
    let [runs, count] = at;
    let share = share(count)?;
    let elements = |v: &Value| ty(*v).sizes().map_or(0, |s| s.iter().product::<usize>());
    let numbers = steps * whole.outputs.iter().map(|(_, v)| elements(v)).sum::<usize>();
    let floats = whole.outputs.iter().all(|(_, v)| ty(*v).dtype == DType::F32);
    if !floats || numbers < SMALLEST || sequences().any(|v| samples(ty(*v), skipped) != Some(at)) {
        return None;
    }
    let mut d = Partitioner { whole, body: Graph::new(whole.name.clone()), share: share as i64, known: HashMap::new() };
    d.body.parameters = whole.parameters.clone();
    let mut operands = Vec::with_capacity(whole.inputs.len());
    for (i, v) in whole.inputs.iter().enumerate() {
        let varies = i < l.roles.sequences || i >= first_state;
        let of = if i < l.roles.sequences { at } else { [1, count] };
        let axis = if varies { Some(axis_of(ty(*v), of)?) } else { None };
        let node = whole.node(v.node).clone().with_types(vec![d.part_of(ty(*v), axis)]);
        let input = Value { node: d.body.push(node), result: 0 };
        d.known.insert(*v, (input, axis));
        d.body.inputs.push(input);
        operands.push(axis);
    }
    let live = whole.live_nodes();
    for (id, node) in whole.nodes() {
        if live[id.index()] && !whole.inputs.iter().any(|v| v.node == id) {
            let (node, axes) = d.node(node)?;
            let new = d.body.push(node);
            for (v, axis) in whole.results(id).zip(axes) {
                d.known.insert(v, (Value { node: new, result: v.result }, axis));
            }
        }
    }
    for (i, (name, v)) in whole.outputs.iter().enumerate() {
        let axis = if i < l.roles.outputs { axis_of(ty(*v), at) } else { operands[first_state + i - l.roles.outputs] };
        let part = d.part(*v, axis?)?;
        d.body.outputs.push((name.clone(), part));
    }
    debug_assert!(snn_ir::verify(&d.body).is_ok(), "a part is well-typed: {:?}", snn_ir::verify(&d.body));
    Some(Partitioned { body: d.body, parts: count / share, runs, operands })
}

/// A value of the new body, and its axis of samples.
type Known = (Value, Option<usize>);

struct Partitioner<'a> {
    whole: &'a Graph,
    body: Graph,
    /// The samples of a part.
    share: i64,
    known: HashMap<Value, Known>,
}

impl Partitioner<'_> {
    fn part_of(&self, ty: &Type, axis: Option<usize>) -> Type {
        let mut ty = ty.clone();
        if let Some(axis) = axis {
            ty.shape[axis] = self.share.into();
        }
        ty
    }

    /// A value with its samples along `axis`: divided already, or the same thing repeated for each of them, of which fewer will do.
    fn part(&mut self, v: Value, axis: usize) -> Option<Value> {
        let (new, known) = self.known[&v];
        if let Some(known) = known {
            return (known == axis).then_some(new);
        }
        let node = self.body.node(new.node).clone();
        let Op::Broadcast { axes, .. } = &node.op else { return None };
        let source = self.body.ty(node.operands[0]).sizes().ok()?;
        let repeated = axes.iter().position(|a| *a == axis).is_none_or(|i| source[i] == 1);
        repeated.then(|| {
            let types = vec![self.part_of(&node.types[0], Some(axis))];
            Value { node: self.body.push(node.with_types(types)), result: 0 }
        })
    }

    /// An operation on parts: with its operands in the new body, and the axis of samples of each result.
    fn node(&mut self, node: &Node) -> Option<(Node, Vec<Option<usize>>)> {
        let known: Vec<Known> = node.operands.iter().map(|v| self.known[v]).collect();
        let mut new = Node { operands: known.iter().map(|(v, _)| *v).collect(), ..node.clone() };
        if known.iter().all(|(_, axis)| axis.is_none()) {
            let same = !matches!(node.op, Op::Random { .. } | Op::Input { .. });
            return same.then(|| (new, vec![None; node.types.len()]));
        }
        let types: Vec<&Type> = node.operands.iter().map(|v| self.whole.ty(*v)).collect();
        // Where an axis of an operand goes in the first result: the axis of samples must get to one place.
        let goes = |operand: usize, a: usize, result: usize| axes::axis(&node.op, &types, &node.types, operand, a, result);
        let carried: Vec<(usize, usize)> = known.iter().enumerate().filter_map(|(i, (_, a))| Some((i, (*a)?))).collect();
        let place = |result: usize| {
            let mut places = carried.iter().map(|(i, a)| goes(*i, *a, result));
            match places.next()? {
                Axis::Kept(at) if places.all(|p| p == Axis::Kept(at)) => Some(at),
                Axis::Kept(_) | Axis::Causal(_) | Axis::Mixed => None,
            }
        };
        let results: Vec<Option<usize>> = (0..node.types.len()).map(|r| place(r).map(Some)).collect::<Option<_>>()?;
        let first = results[0]?;
        // An operand that is the same for all samples along an axis that meets theirs is narrowed too.
        for (i, v) in node.operands.iter().enumerate().filter(|(i, _)| known[*i].1.is_none()) {
            let meets = (0..types[i].rank()).find(|a| goes(i, *a, 0) == Axis::Kept(first));
            if let Some(own) = meets.filter(|a| !types[i].shape[*a].is_one()) {
                new.operands[i] = self.part(*v, own)?;
            }
        }
        let types = new.types.iter().zip(&results).map(|(ty, axis)| self.part_of(ty, *axis)).collect();
        Some((new.with_types(types), results))
    }
}

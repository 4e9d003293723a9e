//! What an operation does to the axes of its operands: the one place that knows it.
//!
//! Recurrence asks which operands carry time, the planner whether samples meet, the optimiser what a delay moves through, and
//! `--batch` whether a net may be run in pieces. All of them read [`axis`] and [`follow`].

use std::collections::HashMap;

use crate::dim::Dim;
use crate::graph::{Graph, NodeId, Value};
use crate::op::Op;
use crate::types::Type;

/// What becomes of an axis of an operand in a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Index `i` of that axis of the result depends on index `i` of this one, and on no other.
    Kept(usize),
    /// Index `i` of that axis of the result depends on the indices `0 ..= i` of this one.
    Causal(usize),
    /// Anything else: it is summed, reversed, moved along, cut or folded into another.
    Mixed,
}

/// What becomes of axis `axis` of operand `operand` in result `result`. `operands` and `results` are the types of all of them.
pub fn axis(op: &Op, operands: &[&Type], results: &[Type], operand: usize, axis: usize, result: usize) -> Axis {
    use Axis::{Causal, Kept, Mixed};
    let own = operands[operand];
    let unless = |mixed: bool| if mixed { Mixed } else { Kept(axis) };
    match op {
        Op::Input { .. } | Op::Parameter { .. } | Op::Constant(_) | Op::Size(_) | Op::Iota { .. } | Op::Random { .. } => Mixed,
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast { .. } | Op::Spike { .. } => Kept(axis),
        Op::RedundantOneHot { .. } | Op::ThresholdMargin { .. } => Kept(axis),
        Op::Broadcast { axes, .. } => {
            if own.shape[axis] == results[0].shape[axes[axis]] {
                Kept(axes[axis])
            } else {
                Mixed
            }
        }
        Op::Reshape { .. } => {
            let to = &results[0].shape;
            let before = Dim::product(&own.shape[..axis]);
            (0..to.len()).find(|a| to[*a] == own.shape[axis] && Dim::product(&to[..*a]) == before).map_or(Mixed, Kept)
        }
        Op::Transpose { permutation } => permutation.iter().position(|a| *a == axis).map_or(Mixed, Kept),
        Op::Slice { axis: along, .. } | Op::Pad { axis: along, .. } | Op::Concat { axis: along } | Op::Window { axis: along, .. } => {
            unless(axis == *along)
        }
        Op::MaxPoolGradient(p) => unless(axis >= own.rank() - p.axes.len()),
        Op::Gather { axis: along } => match operand {
            0 if axis < *along => Kept(axis),
            0 if axis == *along => Mixed,
            0 => Kept(axis + operands[1].rank() - 1),
            _ => Kept(along + axis),
        },
        Op::ScatterAdd { axis: along } => match operand {
            0 => unless(axis == *along),
            1 => Mixed,
            _ if axis < *along => Kept(axis),
            _ if axis < along + operands[1].rank() => Mixed,
            _ => Kept(axis + 1 - operands[1].rank()),
        },
        Op::Reduce { axes, .. } => {
            if axes.contains(&axis) {
                Mixed
            } else {
                Kept(axis - axes.iter().filter(|a| **a < axis).count())
            }
        }
        Op::ArgMax { axis: along } => {
            if axis == *along {
                Mixed
            } else {
                Kept(axis - usize::from(axis > *along))
            }
        }
        Op::CumSum { axis: along } | Op::FirstSpike { axis: along } => {
            if axis == *along {
                Causal(axis)
            } else {
                Kept(axis)
            }
        }
        Op::Contract(c) => {
            let (lhs, rhs) = c.free_axes(operands[0].rank(), operands[1].rank());
            let (batch, sum, free) = if operand == 0 { (&c.lhs_batch, &c.lhs_sum, &lhs) } else { (&c.rhs_batch, &c.rhs_sum, &rhs) };
            let first_free = batch.len() + if operand == 0 { 0 } else { lhs.len() };
            match (batch.iter().position(|a| *a == axis), free.iter().position(|a| *a == axis)) {
                (Some(i), _) => Kept(i),
                (None, Some(i)) => Kept(first_free + i),
                (None, None) => {
                    debug_assert!(sum.contains(&axis));
                    Mixed
                }
            }
        }
        Op::Conv(c) => unless(operand > 0 || axis + c.stride.len() + 1 >= own.rank()),
        Op::ConvInputGradient(c) => unless(operand > 0 || axis + c.stride.len() + 1 >= own.rank()),
        Op::ConvWeightGradient(_) => Mixed,
        Op::Delay { .. } => {
            if axis == 0 {
                Causal(0)
            } else {
                Kept(axis)
            }
        }
        Op::Scan(s) => {
            let rank = operands[0].rank();
            // Invariants and states are aligned with the last axes of a step.
            let at = if operand < s.roles.sequences { axis } else { axis + rank - own.rank() };
            let grows = operand >= s.roles.sequences && own.shape[axis] != operands[0].shape[at];
            match at {
                _ if grows => Mixed,
                0 if s.reverse || result >= s.roles.outputs => Mixed,
                0 => Causal(0),
                at if result < s.roles.outputs => Kept(at),
                at => Kept(at - 1),
            }
        }
        Op::Loop(l) => {
            if operand < l.roles.sequences && axis == 0 {
                return if l.reverse || result >= l.roles.outputs { Mixed } else { Causal(0) };
            }
            let seeds = HashMap::from([(l.body.inputs[operand], axis)]);
            match follow(&l.body, &seeds) {
                Ok(known) => known.get(&l.body.outputs[result].1).map_or(Mixed, |a| Kept(*a)),
                Err(_) => Mixed,
            }
        }
    }
}

/// Follows an axis from some values through a graph: where it is in every value that has it. Other values are the same for
/// all its indices.
///
/// # Errors
/// The first operation whose result at one index depends on other indices.
pub fn follow(graph: &Graph, seeds: &HashMap<Value, usize>) -> Result<HashMap<Value, usize>, NodeId> {
    let mut known = seeds.clone();
    for (id, node) in graph.nodes() {
        let carried: Vec<(usize, usize)> =
            node.operands.iter().enumerate().filter_map(|(i, v)| known.get(v).map(|axis| (i, *axis))).collect();
        if carried.is_empty() {
            continue;
        }
        if let Op::Loop(l) = &node.op {
            follow_loop(l, &carried).ok_or(id)?.into_iter().for_each(|(result, axis)| {
                known.insert(Value { node: id, result }, axis);
            });
            continue;
        }
        let operands: Vec<&Type> = node.operands.iter().map(|v| graph.ty(*v)).collect();
        for result in 0..node.types.len() {
            let mut places = carried.iter().map(|(operand, a)| axis(&node.op, &operands, &node.types, *operand, *a, result));
            let Some(Axis::Kept(at)) = places.next() else { return Err(id) };
            if places.any(|p| p != Axis::Kept(at)) {
                return Err(id);
            }
            known.insert(Value { node: id, result: result as u16 }, at);
        }
    }
    Ok(known)
}

/// [`follow`] through a loop: the results that carry the axis. A state carries it where its first or its next value does.
fn follow_loop(l: &crate::op::Loop, carried: &[(usize, usize)]) -> Option<Vec<(u16, usize)>> {
    if carried.iter().any(|(operand, axis)| *operand < l.roles.sequences && *axis == 0) {
        return None;
    }
    let mut seeds: HashMap<Value, usize> = carried.iter().map(|(operand, axis)| (l.body.inputs[*operand], *axis)).collect();
    loop {
        let inside = follow(&l.body, &seeds).ok()?;
        let mut grown = false;
        for state in 0..l.roles.states {
            let input = l.body.inputs[l.roles.first_state() + state];
            if let Some(next) = inside.get(&l.body.outputs[l.roles.outputs + state].1) {
                match seeds.insert(input, *next) {
                    Some(before) if before != *next => return None,
                    Some(_) => {}
                    None => grown = true,
                }
            } else if seeds.contains_key(&input) {
                // It begins with one value for each index and ends with one for all.
                continue;
            }
        }
        if !grown {
            let results = l.body.outputs.iter().enumerate();
            return Some(results.filter_map(|(i, (_, v))| inside.get(v).map(|a| (i as u16, *a))).collect());
        }
    }
}

/// Why a graph cannot be computed for some indices of a dimension at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixes {
    /// The operation, in words.
    pub what: String,
    /// Where it was written.
    pub span: Option<crate::SourceSpan>,
    /// What it does with the dimension.
    pub why: &'static str,
}

/// Proves that each index of the outputs along the dimension called `name` depends on that index of the inputs only, and gives the
/// random operations that have the dimension, by their stream, with its axis. The graph has the dimension as a symbol.
///
/// # Errors
/// The first operation for which it is not so.
pub fn independent(graph: &Graph, name: &str) -> Result<std::collections::BTreeMap<u32, usize>, Mixes> {
    let mentions = |d: &Dim| d.names().contains(&name);
    let mut random = std::collections::BTreeMap::new();
    let live = graph.live_nodes();
    for (_, node) in graph.nodes().filter(|(id, _)| live[id.index()]) {
        let fail = |why| {
            let what = node.name.clone().unwrap_or_else(|| crate::text::op_name(&node.op));
            Err(Mixes { what, span: node.span, why })
        };
        // Where the dimension is in a type: at one place, as it is.
        let place = |ty: &Type| {
            let mut at = (0..ty.rank()).filter(|a| mentions(&ty.shape[*a]));
            match (at.next(), at.next()) {
                (None, _) => Ok(None),
                (Some(a), None) if ty.shape[a].as_name() == Some(name) => Ok(Some(a)),
                _ => Err(()),
            }
        };
        let Ok(results) = node.types.iter().map(place).collect::<Result<Vec<_>, ()>>() else {
            return fail("makes another dimension of it");
        };
        if let Op::Size(d) = &node.op
            && mentions(d)
        {
            return fail("uses its size");
        }
        if let (Op::Iota { .. }, Some(_)) = (&node.op, results.first().copied().flatten()) {
            return fail("counts along it");
        }
        if let (Op::Parameter { .. }, Some(_)) = (&node.op, results.first().copied().flatten()) {
            return fail("is a parameter with that dimension");
        }
        if let (Op::Random { stream, .. }, Some(axis)) = (&node.op, results.first().copied().flatten()) {
            random.insert(*stream, axis);
        }
        if let Op::Loop(l) = &node.op {
            if mentions(&l.steps) {
                return fail("goes along it step by step");
            }
            independent(&l.body, name)?;
            // Its operands are those of the body, which are looked at there.
            continue;
        }
        let types: Vec<&Type> = node.operands.iter().map(|v| graph.ty(*v)).collect();
        for (operand, ty) in types.iter().enumerate() {
            let Ok(Some(a)) = place(ty) else { continue };
            for (result, to) in results.iter().enumerate() {
                if axis(&node.op, &types, &node.types, operand, a, result) != to.map_or(Axis::Mixed, Axis::Kept) {
                    return fail("mixes its indices");
                }
            }
        }
    }
    Ok(random)
}

//! Delays: chains become one, and a delay moves through whatever acts step by step and maps zero to zero.
//!
//! Moving outwards, to the outputs, lets the delays of a chain of layers meet. What a delay does to a value is to put `+0` in
//! front, so an operation lets it through where its value at `+0` is `+0`, to the bit: that is evaluated, not assumed.

use egg::Id;
use snn_ir::axes::{self, Axis};
use snn_ir::{DType, Op, Reduction, Tensor, Type};

use super::{built, each, elementwise};
use crate::facts::{evaluated, is_zero};
use crate::rule::{Context, Rule};

pub(super) const RULES: [Rule; 8] = [
    built(
        "delay-chain",
        "(delay ?d ?x)",
        chain,
        "y[t] = x[t - a] and z[t] = y[t - b] give z[t] = x[t - a - b], zero before; one rule for the whole chain",
    ),
    built("delay-zero", "(delay ?d ?x)", zero, "x[t - 0] = x[t]"),
    built("delay-past-end", "(delay ?d ?x)", past_end, "where d >= T no step of x is left, and all is zero"),
    elementwise(
        "delay-through-elementwise",
        through_elementwise,
        "f(0, ..., c) = +0 is evaluated for the constants at hand; the least of the operands' delays moves out",
    ),
    each(
        "delay-through-movement",
        &[
            "reshape",
            "permute",
            "slice",
            "pad",
            "broadcast_to",
            "concat",
            "take",
            "window",
            "sum",
            "max",
            "min",
            "argmax",
            "cumsum",
            "first_spike_index",
        ],
        through_movement,
        "each step of the result comes from the same step of the operand, and zeros give zeros; a running sum of zeros is zero",
    ),
    each(
        "delay-through-product",
        &["contract", "conv"],
        through_product,
        "each step of the result is a sum of products of the same step with finite weights, and 0 w + 0 w ... from +0 is +0",
    ),
    built("delay-into-product", "(delay ?d (contract ?c ?x ?w))", into_product, "the rule before, backwards: the smaller side is delayed"),
    each(
        "delay-through-neuron",
        &["result"],
        through_neuron,
        "a neuron that gives +0 for zero input and keeps its first state, to the bit, waits: this is evaluated for its step function, its settings and its first state",
    ),
];

fn steps(c: &Context<'_>) -> Option<i64> {
    match c.op("?d") {
        Some(Op::Delay { steps }) => Some(steps),
        _ => None,
    }
}

fn chain(c: &mut Context<'_>) -> Option<Id> {
    let (inner, source) = c.facts("?x").delayed.filter(|d| d.0 > 0)?;
    let total = steps(c)?.saturating_add(inner);
    Some(c.add(Op::Delay { steps: total }, &[source]))
}

fn zero(c: &mut Context<'_>) -> Option<Id> {
    (steps(c)? == 0).then(|| c.id("?x"))
}

fn past_end(c: &mut Context<'_>) -> Option<Id> {
    let ty = c.ty("?x");
    let length = ty.shape[0].as_constant()?;
    (steps(c)? >= length).then(|| c.filled(Tensor::zeros(ty.dtype, []), &ty))
}

/// An operand as something that is delayed.
enum Part {
    /// By how much, and what.
    Delayed(i64, Id),
    /// The same in every step and every element.
    Constant,
}

fn part(c: &Context<'_>, id: Id) -> Option<Part> {
    let facts = &c.terms[id].data;
    match (&facts.fill, facts.delayed) {
        (Some(_), _) => Some(Part::Constant),
        (None, Some((d, source))) if d > 0 => Some(Part::Delayed(d, source)),
        _ => None,
    }
}

/// The least delay of the parts, and the parts without it.
fn without_least(c: &mut Context<'_>, operands: &[Id]) -> Option<(i64, Vec<Id>)> {
    let parts: Vec<Part> = operands.iter().map(|v| part(c, *v)).collect::<Option<_>>()?;
    let least = parts.iter().filter_map(|p| if let Part::Delayed(d, _) = p { Some(*d) } else { None }).min()?;
    let rest = operands
        .iter()
        .zip(parts)
        .map(|(id, p)| match p {
            Part::Delayed(d, source) if d == least => source,
            Part::Delayed(d, source) => c.add(Op::Delay { steps: d - least }, &[source]),
            Part::Constant => *id,
        })
        .collect();
    Some((least, rest))
}

/// A value of zeros, or the constant that it is.
fn at_rest(c: &Context<'_>, id: Id) -> Tensor {
    let facts = &c.terms[id].data;
    facts.fill.clone().unwrap_or_else(|| Tensor::zeros(facts.ty().dtype, []))
}

fn delayed(c: &mut Context<'_>, op: Op, operands: &[Id], steps: i64) -> Id {
    let ty = c.own_type();
    let inner = c.add(op.with_result(&ty), operands);
    c.add(Op::Delay { steps }, &[inner])
}

fn through_elementwise(c: &mut Context<'_>) -> Option<Id> {
    let (op, operands) = c.operation()?;
    if c.own_type().rank() == 0 {
        return None;
    }
    let (steps, rest) = without_least(c, &operands)?;
    let zeros: Vec<Tensor> = operands.iter().map(|v| at_rest(c, *v)).collect();
    let value = evaluated(&op, &zeros.iter().collect::<Vec<_>>(), &[Type::scalar(c.own_type().dtype)])?.remove(0);
    is_zero(&value).then(|| delayed(c, op, &rest, steps))
}

fn through_movement(c: &mut Context<'_>) -> Option<Id> {
    let (op, operands) = c.operation()?;
    let to = c.own_type();
    let waits = |i: usize| match fate(c, &op, &operands, &to, i) {
        Axis::Kept(at) => at == 0,
        // A running sum of later steps is a later running sum.
        Axis::Causal(at) => at == 0,
        Axis::Mixed => false,
    };
    // The rule is for movement and running sums, of which these alone can put other numbers than 0 in.
    let zeros = if let Op::Pad { value, .. } = &op {
        value.to_bits() == 0
    } else if let Op::Reduce { kind, .. } = &op {
        *kind == Reduction::Sum || to.dtype == DType::F32
    } else {
        true
    };
    if to.rank() == 0 || !zeros || !(0..operands.len()).all(|i| is_index(&op, i) || waits(i)) {
        return None;
    }
    // Indices are not delayed.
    let data = if is_index(&op, 1) { 1 } else { operands.len() };
    let all_zero = |c: &Context<'_>, v: &Id| c.terms[*v].data.fill.as_ref().is_none_or(is_zero);
    if !operands[..data].iter().all(|v| all_zero(c, v)) {
        return None;
    }
    let (steps, mut rest) = without_least(c, &operands[..data])?;
    rest.extend_from_slice(&operands[data..]);
    Some(delayed(c, op, &rest, steps))
}

/// Is an operand a place and no data?
fn is_index(op: &Op, operand: usize) -> bool {
    matches!(op, Op::Gather { .. }) && operand == 1
}

/// What becomes of axis 0 of an operand.
fn fate(c: &Context<'_>, op: &Op, operands: &[Id], to: &Type, operand: usize) -> Axis {
    let types: Vec<&Type> = operands.iter().map(|v| c.terms[*v].data.ty()).collect();
    if types[operand].rank() == 0 { Axis::Mixed } else { axes::axis(op, &types, std::slice::from_ref(to), operand, 0, 0) }
}

/// Is axis 0 of a product axis 0 of the left operand, and nothing else?
fn keeps_time(c: &Context<'_>, op: &Op, operands: &[Id], to: &Type) -> bool {
    fate(c, op, operands, to, 0) == Axis::Kept(0) && fate(c, op, operands, to, 1) != Axis::Kept(0)
}

fn through_product(c: &mut Context<'_>) -> Option<Id> {
    let (op, operands) = c.operation()?;
    let (steps, source) = c.terms[operands[0]].data.delayed.filter(|d| d.0 > 0)?;
    if !keeps_time(c, &op, &operands, &c.own_type()) || !c.take_finite(operands[1]) {
        return None;
    }
    Some(delayed(c, op, &[source, operands[1]], steps))
}

fn into_product(c: &mut Context<'_>) -> Option<Id> {
    let (product, x, w) = (c.op("?c")?, c.id("?x"), c.id("?w"));
    let steps = steps(c).filter(|s| *s > 0)?;
    let to = c.own_type();
    if !keeps_time(c, &product, &[x, w], &to) || !c.take_finite(w) {
        return None;
    }
    let x = c.add(Op::Delay { steps }, &[x]);
    Some(c.add(product, &[x, w]))
}

fn through_neuron(c: &mut Context<'_>) -> Option<Id> {
    let term = c.term.clone()?;
    let crate::enode::Name::Result(index) = term.name else { return None };
    for node in c.terms[term.children[0]].nodes.clone() {
        let Some((Op::Scan(scan), _, operands)) = crate::facts::operation(c.terms, &node) else { continue };
        // The state after the last step is not that of a neuron that has waited.
        if index as usize >= scan.roles.outputs || scan.reverse {
            continue;
        }
        let (sequences, fixed) = operands.split_at(scan.roles.sequences);
        let is_still = |v: &Id| c.terms[*v].data.fill.as_ref().is_none_or(is_zero);
        let settings: Option<Vec<Tensor>> = fixed.iter().map(|v| c.terms[*v].data.fill.clone()).collect();
        let (Some(settings), true) = (settings, sequences.iter().all(is_still)) else { continue };
        let zeros: Vec<Tensor> = sequences.iter().map(|v| Tensor::zeros(c.terms[*v].data.ty().dtype, [1])).collect();
        let given: Vec<&Tensor> = zeros.iter().chain(&settings).collect();
        let types: Vec<Type> = scan
            .body
            .outputs
            .iter()
            .enumerate()
            .map(|(i, (_, v))| Type::new(scan.body.ty(*v).dtype, if i < scan.roles.outputs { vec![1.into()] } else { vec![] }))
            .collect();
        let Some(results) = evaluated(&Op::Scan(scan.clone()), &given, &types) else { continue };
        let (outputs, states) = results.split_at(scan.roles.outputs);
        let rests = states.iter().zip(&settings[scan.roles.invariants..]).all(|(after, before)| after.same_bits(before));
        if !rests || !is_zero(&outputs[index as usize]) {
            continue;
        }
        let Some((steps, mut rest)) = without_least(c, sequences) else { continue };
        rest.extend_from_slice(fixed);
        let waiting = c.add(Op::Scan(scan), &rest);
        let result = c.result(waiting, index);
        return Some(c.add(Op::Delay { steps }, &[result]));
    }
    None
}

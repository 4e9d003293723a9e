//! Linear layers: what rounds differently, and moves work from activations into weights. All need `--fast-math`.

use egg::Id;
use snn_ir::{BinaryOp, Contraction, Op, Reduction, Tensor};

use super::{built, fast, when};
use crate::facts::operation;
use crate::rule::{Context, Rule};

pub(super) const RULES: [Rule; 12] = [
    fast(built(
        "scale-into-weights",
        "(mul ?y ?s)",
        scale_into_weights,
        "(x w) s = x (w s) for a scale of each output: a setting before a neuron, an evaluated batch norm",
    )),
    fast(built("weights-take-scale", "(mul ?s ?y)", scale_into_weights, "(x w) s = x (w s) for a scale of each output")),
    fast(built(
        "norm-scale",
        "(mul (sub ?y ?m) ?s)",
        norm_scale,
        "(y - m) s = y s - m s, where y is a product that takes the scale into its weights",
    )),
    fast(built("linear-linear", "(contract ?c (contract ?d ?x ?v) ?w)", linear_linear, "(x v) w = x (v w)")),
    fast(built(
        "mean-through-linear",
        "(sum ?r (contract ?c ?x ?w))",
        sum_through_linear,
        "the sum over steps of x w is the sum over steps of x, times w",
    )),
    fast(built("mul-mul", "(mul (mul ?x ?a) ?b)", mul_mul, "(x a) b = x (a b) for numbers a, b")),
    fast(built("mul-div", "(div (mul ?x ?a) ?b)", mul_div, "(x a) / b = x (a / b) for numbers a, b")),
    fast(built("div-mul", "(mul (div ?x ?a) ?b)", div_mul, "(x / a) b = x (b / a) for numbers a, b")),
    fast(built("add-add", "(add (add ?x ?a) ?b)", add_add, "(x + a) + b = x + (a + b) for numbers a, b")),
    fast(built("div-by-number", "(div ?x ?a)", div_by_number, "x / a = x (1 / a) for a number a")),
    fast(when("add-zero", "(add ?x ?z)", zero, "?x", "but for the sign of zero")),
    fast(when("zero-add", "(add ?z ?x)", zero, "?x", "but for the sign of zero")),
];

fn zero(c: &Context<'_>) -> bool {
    c.facts("?z").is_zero()
}

fn mul(c: &mut Context<'_>, a: Id, b: Id) -> Id {
    c.add(Op::Binary(BinaryOp::Mul), &[a, b])
}

/// A scale that is the same for all elements of an output channel: its source, with the axis of the channel in the output, or
/// a number.
enum Scale {
    Number(Tensor),
    /// The source has one element for each of the outputs that these axes of the result tell apart.
    Axes(Id, Vec<usize>),
}

fn scale(c: &Context<'_>, id: Id) -> Option<Scale> {
    let facts = &c.terms[id].data;
    if let Some(t) = &facts.fill {
        return Some(Scale::Number(t.clone()));
    }
    c.find(id, |op, of| {
        let Op::Broadcast { axes, .. } = op else { return None };
        let shape = &c.terms[of[0]].data.ty().shape;
        let told: Vec<usize> = axes.iter().zip(shape).filter(|(_, d)| !d.is_one()).map(|(a, _)| *a).collect();
        Some(Scale::Axes(of[0], told))
    })
}

/// The weights times a scale, if the scale is one of output channels.
fn scaled_weights(c: &mut Context<'_>, scale: &Scale, product: &Op, ranks: (usize, usize), w: Id) -> Option<Id> {
    let weights = c.terms[w].data.ty().clone();
    let factor = match scale {
        Scale::Number(t) => c.filled(t.clone(), &weights),
        Scale::Axes(source, axes) => {
            // Which axis of the weights each axis of the scale is.
            let own: Vec<usize> = if let Op::Contract(k) = product {
                let (left, right) = k.free_axes(ranks.0, ranks.1);
                let before = k.lhs_batch.len() + left.len();
                axes.iter().map(|a| a.checked_sub(before).and_then(|i| right.get(i).copied())).collect::<Option<_>>()?
            } else if let Op::Conv(k) = product {
                (axes[..] == [ranks.0 - k.stride.len() - 1]).then(|| vec![0])?
            } else {
                return None;
            };
            if !own.windows(2).all(|p| p[0] < p[1]) {
                return None;
            }
            let shape = own.iter().map(|a| weights.shape[*a].clone()).collect();
            let flat = c.add(Op::Reshape { shape }, &[*source]);
            c.add(Op::Broadcast { axes: own, shape: weights.shape }, &[flat])
        }
    };
    Some(mul(c, w, factor))
}

fn products(c: &Context<'_>, id: Id) -> Vec<(Op, Vec<Id>)> {
    let nodes = c.terms[id].nodes.iter();
    nodes
        .filter_map(|n| operation(c.terms, n))
        .filter(|(op, _, _)| matches!(op, Op::Contract(_) | Op::Conv(_)))
        .map(|(op, _, v)| (op, v))
        .collect()
}

fn scale_into_weights(c: &mut Context<'_>) -> Option<Id> {
    let (y, s) = (c.id("?y"), c.id("?s"));
    let scale = scale(c, s)?;
    for (product, operands) in products(c, y) {
        let ranks = (c.terms[operands[0]].data.ty().rank(), c.terms[operands[1]].data.ty().rank());
        if let Some(w) = scaled_weights(c, &scale, &product, ranks, operands[1]) {
            return Some(c.add(product, &[operands[0], w]));
        }
    }
    None
}

fn norm_scale(c: &mut Context<'_>) -> Option<Id> {
    let (y, m, s) = (c.id("?y"), c.id("?m"), c.id("?s"));
    if products(c, y).is_empty() || scale(c, m).is_none() || scale(c, s).is_none() {
        return None;
    }
    let (scaled, shift) = (mul(c, y, s), mul(c, m, s));
    Some(c.add(Op::Binary(BinaryOp::Sub), &[scaled, shift]))
}

fn linear_linear(c: &mut Context<'_>) -> Option<Id> {
    let (Some(Op::Contract(outer)), Some(Op::Contract(inner))) = (c.op("?c"), c.op("?d")) else { return None };
    let (x, v, w) = (c.id("?x"), c.id("?v"), c.id("?w"));
    let (x_rank, v_rank, w_rank) = (c.ty("?x").rank(), c.ty("?v").rank(), c.ty("?w").rank());
    let plain = |k: &Contraction| k.lhs_batch.is_empty() && k.lhs_sum.len() == 1;
    if !plain(&outer) || !plain(&inner) || v_rank != 2 || w_rank != 2 || outer.lhs_sum != [x_rank - 1] {
        return None;
    }
    // v has one axis that is summed with x, and one that is summed with w.
    let middle = 1 - inner.rhs_sum[0];
    let both = Contraction { lhs_sum: vec![middle], rhs_sum: outer.rhs_sum, ..Contraction::default() };
    let joined = c.add(Op::Contract(both), &[v, w]);
    let product = Contraction { lhs_sum: inner.lhs_sum, rhs_sum: vec![0], ..Contraction::default() };
    Some(c.add(Op::Contract(product), &[x, joined]))
}

fn sum_through_linear(c: &mut Context<'_>) -> Option<Id> {
    let (Some(Op::Reduce { kind: Reduction::Sum, axes }), Some(Op::Contract(k))) = (c.op("?r"), c.op("?c")) else { return None };
    let (x, w) = (c.id("?x"), c.id("?w"));
    let (left, _) = k.free_axes(c.ty("?x").rank(), c.ty("?w").rank());
    if !k.lhs_batch.is_empty() {
        return None;
    }
    let summed: Vec<usize> = axes.iter().map(|a| left.get(*a).copied()).collect::<Option<_>>()?;
    let reduced = c.add(Op::Reduce { kind: Reduction::Sum, axes: summed.clone() }, &[x]);
    let after = |a: &usize| a - summed.iter().filter(|s| *s < a).count();
    let product = Contraction { lhs_sum: k.lhs_sum.iter().map(after).collect(), ..k };
    Some(c.add(Op::Contract(product), &[reduced, w]))
}

/// The numbers that `?a` and `?b` are, through `f`, as a value of the type that matched.
fn number(c: &mut Context<'_>, f: fn(f32, f32) -> f32) -> Option<Id> {
    let (a, b) = (c.facts("?a").fill_f32()?, c.facts("?b").fill_f32()?);
    let ty = c.own_type();
    let x = f(a, b);
    x.is_normal().then(|| c.filled(Tensor::scalar(x), &ty))
}

fn mul_mul(c: &mut Context<'_>) -> Option<Id> {
    let factor = number(c, |a, b| a * b)?;
    let x = c.id("?x");
    Some(mul(c, x, factor))
}

fn mul_div(c: &mut Context<'_>) -> Option<Id> {
    let factor = number(c, |a, b| a / b)?;
    let x = c.id("?x");
    Some(mul(c, x, factor))
}

fn div_mul(c: &mut Context<'_>) -> Option<Id> {
    let factor = number(c, |a, b| b / a)?;
    let x = c.id("?x");
    Some(mul(c, x, factor))
}

fn add_add(c: &mut Context<'_>) -> Option<Id> {
    let term = number(c, |a, b| a + b)?;
    let x = c.id("?x");
    Some(c.add(Op::Binary(BinaryOp::Add), &[x, term]))
}

fn div_by_number(c: &mut Context<'_>) -> Option<Id> {
    let a = c.facts("?a").fill_f32()?;
    let inverse = 1.0 / a;
    if !a.is_normal() || !inverse.is_normal() {
        return None;
    }
    let (x, ty) = (c.id("?x"), c.own_type());
    let inverse = c.filled(Tensor::scalar(inverse), &ty);
    Some(mul(c, x, inverse))
}

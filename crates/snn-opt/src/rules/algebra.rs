//! Algebra that is exact in IEEE 754 arithmetic, for NaN, infinities, `-0` and denormal numbers too.
//!
//! What is missing here is wrong for one of those: `x + 0` (for -0), `0 x` and `x - x` (for NaN and infinities), `x / c = x (1 / c)`
//! (rounds, unless `c` is a power of two), `!(a < b) = a >= b` (for NaN), `a + b = b + a` would be right and is left out because
//! it doubles every sum.

use egg::Id;
use snn_ir::{DType, Op, Tensor, Type};

use super::{built, elementwise, exact, when};
use crate::rule::{Context, Rule};

pub(super) const RULES: [Rule; 34] = [
    when("sub-zero", "(sub ?x ?z)", is_zero, "?x", "x - (+0) is x, -0 included"),
    when("add-negative-zero", "(add ?x ?z)", adds_nothing, "?x", "x + (-0) is x, and i + 0 is i for integers; x + (+0) is not, for x = -0"),
    when("mul-one", "(mul ?x ?one)", is_one, "?x", "1 x is x, to the bit"),
    when("one-mul", "(mul ?one ?x)", is_one, "?x", "1 x is x, to the bit"),
    when("div-one", "(div ?x ?one)", is_one, "?x", "x / 1 is x, to the bit"),
    built(
        "div-by-power-of-two",
        "(div ?x ?c)",
        by_power_of_two,
        "1 / 2^k is a float, and both x / 2^k and x 2^-k round the same real number",
    ),
    exact("neg-neg", "(neg (neg ?x))", "?x", "the sign bit twice"),
    exact("abs-neg", "(abs (neg ?x))", "(abs ?x)", "abs clears the sign"),
    exact("abs-abs", "(abs (abs ?x))", "(abs ?x)", "abs clears the sign"),
    exact("add-neg", "(add ?a (neg ?b))", "(sub ?a ?b)", "IEEE subtraction is addition of the negative"),
    exact("sub-neg", "(sub ?a (neg ?b))", "(add ?a ?b)", "IEEE subtraction is addition of the negative"),
    exact("max-same", "(maximum ?x ?x)", "?x", "NaN too"),
    exact("min-same", "(minimum ?x ?x)", "?x", "NaN too"),
    exact("and-same", "(and ?x ?x)", "?x", "booleans"),
    exact("or-same", "(or ?x ?x)", "?x", "booleans"),
    exact("not-not", "(not (not ?x))", "?x", "booleans"),
    exact("select-same", "(where ?c ?x ?x)", "?x", "both branches are the same"),
    exact("select-not", "(where (not ?c) ?a ?b)", "(where ?c ?b ?a)", "the branches change places"),
    when("select-true", "(where ?c ?a ?b)", is_true, "?a", "the condition is known"),
    when("select-false", "(where ?c ?a ?b)", is_false, "?b", "the condition is known"),
    when("and-true", "(and ?x ?c)", is_true, "?x", "booleans"),
    when("or-false", "(or ?x ?c)", is_false, "?x", "booleans"),
    exact("floor-floor", "(floor (floor ?x))", "(floor ?x)", "an integer, an infinity or NaN stays"),
    exact("round-round", "(round (round ?x))", "(round ?x)", "an integer, an infinity or NaN stays"),
    exact("detach", "(detach ?x)", "?x", "its value is its operand; gradients are made before the optimiser runs"),
    built("cast-same", "(cast ?a ?x)", cast_same, "the type is that of the operand"),
    built(
        "cast-back",
        "(cast ?a (cast ?b ?x))",
        cast_back,
        "booleans, and floats that are 0 or 1, survive the way to the other type and back",
    ),
    when("binary-square", "(mul ?x ?x)", is_binary, "?x", "0 0 = 0 and 1 1 = 1"),
    when("binary-abs", "(abs ?x)", is_binary, "?x", "0 and 1 are not negative"),
    when("binary-relu", "(maximum ?x ?z)", binary_and_zero, "?x", "0 and 1 are not negative"),
    when("relu-binary", "(maximum ?z ?x)", binary_and_zero, "?x", "0 and 1 are not negative"),
    when("binary-times-zero", "(mul ?x ?z)", binary_and_zero, "?z", "0 0 and 1 0 are +0; 0 x is not, for x infinite, NaN or negative"),
    when("zero-times-binary", "(mul ?z ?x)", binary_and_zero, "?z", "0 0 and 1 0 are +0; 0 x is not, for x infinite, NaN or negative"),
    elementwise("repeat-after", repeat_after, "the same function of the same numbers, once instead of for each copy"),
];

fn is_zero(c: &Context<'_>) -> bool {
    c.facts("?z").is_zero()
}

fn adds_nothing(c: &Context<'_>) -> bool {
    let z = c.facts("?z");
    if z.ty().dtype == DType::F32 { z.is_fill(-0.0) } else { z.is_zero() }
}

fn is_one(c: &Context<'_>) -> bool {
    c.facts("?one").fill.as_ref().is_some_and(|t| t.to_f32()[0] == 1.0)
}

fn is_true(c: &Context<'_>) -> bool {
    c.facts("?c").fill.as_ref().is_some_and(|t| t.to_i64()[0] != 0)
}

fn is_false(c: &Context<'_>) -> bool {
    c.facts("?c").fill.as_ref().is_some_and(|t| t.to_i64()[0] == 0)
}

fn is_binary(c: &Context<'_>) -> bool {
    c.facts("?x").is_binary()
}

fn binary_and_zero(c: &Context<'_>) -> bool {
    is_binary(c) && c.facts("?z").is_fill(0.0)
}

fn by_power_of_two(c: &mut Context<'_>) -> Option<Id> {
    let divisor = c.facts("?c").fill_f32()?;
    let inverse = 1.0 / divisor;
    let is_power = divisor.to_bits() & 0x007f_ffff == 0;
    if !is_power || !divisor.is_normal() || !inverse.is_normal() {
        return None;
    }
    let (x, ty) = (c.id("?x"), c.own_type());
    let inverse = c.filled(Tensor::scalar(inverse), &ty);
    Some(c.add(Op::Binary(snn_ir::BinaryOp::Mul), &[x, inverse]))
}

fn cast_same(c: &mut Context<'_>) -> Option<Id> {
    (c.ty("?x") == c.own_type()).then(|| c.id("?x"))
}

fn cast_back(c: &mut Context<'_>) -> Option<Id> {
    let source = c.facts("?x");
    let Some(Op::Cast { dtype: between }) = c.op("?b") else { return None };
    let survives = source.is_binary() || (source.ty().dtype == DType::Bool && matches!(between, DType::F32 | DType::I64));
    (survives && *source.ty() == c.own_type()).then(|| c.id("?x"))
}

/// `f(repeat(a), repeat(b))` is `repeat(f(a, b))`, where both are repeated in the same way.
fn repeat_after(c: &mut Context<'_>) -> Option<Id> {
    let (op, operands) = c.operation()?;
    let ty = c.own_type();
    let mut way: Option<(Vec<usize>, Vec<snn_ir::Dim>)> = None;
    let mut sources: Vec<Option<Id>> = Vec::new();
    for v in &operands {
        if c.terms[*v].data.fill.is_some() {
            sources.push(None);
            continue;
        }
        let found = c.find(*v, |op, of| {
            let Op::Broadcast { axes, .. } = op else { return None };
            Some((axes, c.terms[of[0]].data.ty().shape.clone(), of[0]))
        });
        let (axes, shape, source) = found?;
        if way.get_or_insert_with(|| (axes.clone(), shape.clone())) != &(axes, shape) {
            return None;
        }
        sources.push(Some(source));
    }
    let (axes, shape) = way?;
    // Growing nothing is not worth a move.
    if shape == ty.shape {
        return None;
    }
    let small: Vec<Id> = operands
        .iter()
        .zip(sources)
        .map(|(v, source)| {
            source.unwrap_or_else(|| {
                let facts = &c.terms[*v].data;
                let (fill, ty) = (facts.fill.clone(), Type::new(facts.ty().dtype, shape.clone()));
                c.filled(fill.unwrap_or_else(|| Tensor::scalar(0.0)), &ty)
            })
        })
        .collect();
    let value = c.add(op, &small);
    Some(c.add(Op::Broadcast { axes, shape: ty.shape }, &[value]))
}

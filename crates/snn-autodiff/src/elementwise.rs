//! Derivatives of elementwise operations, as PyTorch defines them.

use std::collections::HashMap;

use snn_ir::{BinaryOp, Build, DType, Graph, Op, Type, UnaryOp, Value};

use crate::reverse::Reverse;

impl Reverse {
    /// Passes the adjoint `g` of `y = op(operands)` on.
    pub(crate) fn elementwise(&mut self, op: &Op, operands: &[Value], y: Value, g: Value) {
        if let Op::Unary(u) = op {
            if let Some(d) = unary(&mut self.build(), *u, operands[0], y, g) {
                self.add(operands[0], d);
            }
        } else if let Op::Binary(b) = op {
            self.binary(*b, operands[0], operands[1], y, g);
        } else if let Op::Select = op {
            let (condition, a, b) = (operands[0], operands[1], operands[2]);
            let zero = self.build().like(0.0, g);
            if self.is_active(a) {
                let d = self.build().select(condition, g, zero);
                self.add(a, d);
            }
            if self.is_active(b) {
                let d = self.build().select(condition, zero, g);
                self.add(b, d);
            }
        } else if let Op::Cast { .. } = op {
            self.add(operands[0], g);
        } else if let Op::Spike { surrogate, .. } = op {
            let derivative = put_in(&mut self.build(), surrogate, operands[0]);
            let d = self.build().mul(g, derivative);
            self.add(operands[0], d);
        } else {
            // A function of elements that is new.
            self.refused = Some(op.name());
        }
    }

    fn binary(&mut self, op: BinaryOp, a: Value, b: Value, y: Value, g: Value) {
        let (for_a, for_b) = (self.is_active(a), self.is_active(b));
        let mut build = self.build();
        let (da, db) = match op {
            BinaryOp::Add => (for_a.then_some(g), for_b.then_some(g)),
            BinaryOp::Sub => (for_a.then_some(g), for_b.then(|| build.neg(g))),
            BinaryOp::Mul => (for_a.then(|| build.mul(g, b)), for_b.then(|| build.mul(g, a))),
            BinaryOp::Div => (
                for_a.then(|| build.div(g, b)),
                for_b.then(|| {
                    let ratio = build.div(y, b);
                    let d = build.mul(g, ratio);
                    build.neg(d)
                }),
            ),
            BinaryOp::Pow => (for_a.then(|| power_base(&mut build, a, b, g)), for_b.then(|| power_exponent(&mut build, a, b, y, g))),
            // x % y is x - floor(x / y) y.
            BinaryOp::Rem => (
                for_a.then_some(g),
                for_b.then(|| {
                    let ratio = build.div(a, b);
                    // Not the floor of the ratio, whose rounding may reach the next integer.
                    let rest = build.div(y, b);
                    let whole = build.sub(ratio, rest);
                    let whole = build.unary(UnaryOp::Round, whole);
                    // Partitioned by 0 nothing remains.
                    let remains = build.binary(BinaryOp::Eq, y, y);
                    let whole = build.select(remains, whole, ratio);
                    // A ratio below 0 that is rounded to 0, where what remains is not `x`.
                    let (zero, minus_one) = (build.like(0.0, a), build.like(-1.0, a));
                    let (is_zero, moved) = (build.binary(BinaryOp::Eq, ratio, zero), build.binary(BinaryOp::Ne, y, a));
                    let underflow = build.binary(BinaryOp::And, is_zero, moved);
                    let whole = build.select(underflow, minus_one, whole);
                    let d = build.mul(g, whole);
                    build.neg(d)
                }),
            ),
            BinaryOp::Max => (for_a.then(|| larger(&mut build, a, b, g)), for_b.then(|| larger(&mut build, b, a, g))),
            BinaryOp::Min => (for_a.then(|| smaller(&mut build, a, b, g)), for_b.then(|| smaller(&mut build, b, a, g))),
            BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge | BinaryOp::And | BinaryOp::Or => {
                (None, None)
            }
        };
        if let Some(d) = da {
            self.add(a, d);
        }
        if let Some(d) = db {
            self.add(b, d);
        }
    }
}

/// `g` where `a` is the larger, half of it where both are equal.
fn larger(build: &mut Build<'_>, a: Value, b: Value, g: Value) -> Value {
    chosen(build, BinaryOp::Gt, a, b, g)
}

fn smaller(build: &mut Build<'_>, a: Value, b: Value, g: Value) -> Value {
    chosen(build, BinaryOp::Lt, a, b, g)
}

fn chosen(build: &mut Build<'_>, comparison: BinaryOp, a: Value, b: Value, g: Value) -> Value {
    let (zero, half) = (build.like(0.0, g), build.like(0.5, g));
    let halved = build.mul(g, half);
    let (wins, ties) = (build.binary(comparison, a, b), build.binary(BinaryOp::Eq, a, b));
    let otherwise = build.select(ties, halved, zero);
    build.select(wins, g, otherwise)
}

/// `g b a^(b - 1)`, 0 where `b` is 0.
fn power_base(build: &mut Build<'_>, a: Value, b: Value, g: Value) -> Value {
    let (one, zero) = (build.like(1.0, b), build.like(0.0, b));
    let less = build.sub(b, one);
    let power = build.binary(BinaryOp::Pow, a, less);
    let slope = build.mul(b, power);
    let d = build.mul(g, slope);
    let is_zero = build.binary(BinaryOp::Eq, b, zero);
    build.select(is_zero, zero, d)
}

/// `g y log(a)`, 0 where `a` is 0 and `b` is not negative.
fn power_exponent(build: &mut Build<'_>, a: Value, b: Value, y: Value, g: Value) -> Value {
    let zero = build.like(0.0, a);
    let logarithm = build.unary(UnaryOp::Log, a);
    let slope = build.mul(y, logarithm);
    let d = build.mul(g, slope);
    let (base, exponent) = (build.binary(BinaryOp::Eq, a, zero), build.binary(BinaryOp::Ge, b, zero));
    let flat = build.binary(BinaryOp::And, base, exponent);
    build.select(flat, zero, d)
}

fn unary(build: &mut Build<'_>, op: UnaryOp, x: Value, y: Value, g: Value) -> Option<Value> {
    Some(match op {
        UnaryOp::Neg => build.neg(g),
        UnaryOp::Abs => {
            let zero = build.like(0.0, x);
            let (positive, negative) = (build.binary(BinaryOp::Gt, x, zero), build.binary(BinaryOp::Lt, x, zero));
            let minus = build.neg(g);
            let otherwise = build.select(negative, minus, zero);
            build.select(positive, g, otherwise)
        }
        UnaryOp::Exp => build.mul(g, y),
        UnaryOp::Log => build.div(g, x),
        UnaryOp::Sqrt => {
            let two = build.like(2.0, y);
            let twice = build.mul(two, y);
            build.div(g, twice)
        }
        UnaryOp::Sin => {
            let slope = build.unary(UnaryOp::Cos, x);
            build.mul(g, slope)
        }
        UnaryOp::Cos => {
            let sine = build.unary(UnaryOp::Sin, x);
            let d = build.mul(g, sine);
            build.neg(d)
        }
        UnaryOp::Tanh => {
            let (one, square) = (build.like(1.0, y), build.mul(y, y));
            let slope = build.sub(one, square);
            build.mul(g, slope)
        }
        UnaryOp::Erf => {
            let square = build.mul(x, x);
            let minus = build.neg(square);
            let bell = build.unary(UnaryOp::Exp, minus);
            let scale = build.like(std::f32::consts::FRAC_2_SQRT_PI, x);
            let slope = build.mul(scale, bell);
            build.mul(g, slope)
        }
        UnaryOp::Floor | UnaryOp::Round | UnaryOp::Not | UnaryOp::Detach => return None,
    })
}

/// A graph of scalars with one input, on every element of a value.
pub fn put_in(build: &mut Build<'_>, body: &Graph, x: Value) -> Value {
    let shape = build.0.ty(x).shape.clone();
    let mut values: HashMap<Value, Value> = HashMap::new();
    for (id, node) in body.nodes() {
        let own = Value { node: id, result: 0 };
        let ty = Type::new(node.types[0].dtype, shape.clone());
        let value = if let Op::Input { .. } = &node.op {
            x
        } else if let Op::Constant(_) = &node.op {
            let scalar = build.0.add(node.op.clone(), &[]);
            build.broadcast(scalar, vec![], shape.clone())
        } else {
            let operands: Vec<Value> = node.operands.iter().map(|v| values[v]).collect();
            build.0.add(node.op.clone().with_result(&ty), &operands)
        };
        values.insert(own, value);
    }
    let derivative = values[&body.outputs[0].1];
    debug_assert_eq!(build.0.ty(derivative).dtype, DType::F32);
    derivative
}

//! Elementwise operations.

use crate::interpret::RuntimeError;
use crate::math::{self, Lanes, Scalar};
use crate::op::{BinaryOp, UnaryOp};
use crate::tensor::{Data, Tensor};
use crate::types::DType;

/// One float through a unary function.
pub fn unary_f32(op: UnaryOp, x: f32) -> f32 {
    let l = &mut Scalar;
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Exp => math::exp(l, x),
        UnaryOp::Log => math::log(l, x),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Sin => math::sin(l, x),
        UnaryOp::Cos => math::cos(l, x),
        UnaryOp::Tanh => math::tanh(l, x),
        UnaryOp::Erf => math::erf(l, x),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Round => x.round_ties_even(),
        UnaryOp::Not | UnaryOp::Detach => x,
    }
}

/// Two floats through a function that gives a float.
pub fn binary_f32(op: BinaryOp, a: f32, b: f32) -> f32 {
    let l = &mut Scalar;
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Rem => math::rem(l, a, b),
        BinaryOp::Pow => math::pow(l, a, b),
        BinaryOp::Max => l.max(a, b),
        BinaryOp::Min => l.min(a, b),
        BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge | BinaryOp::And | BinaryOp::Or => {
            f32::from(compare(op, &a, &b))
        }
    }
}

fn compare<T: PartialOrd>(op: BinaryOp, a: &T, b: &T) -> bool {
    match op {
        BinaryOp::Eq => a == b,
        BinaryOp::Ne => a != b,
        BinaryOp::Lt => a < b,
        BinaryOp::Le => a <= b,
        BinaryOp::Gt => a > b,
        BinaryOp::Ge => a >= b,
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem | BinaryOp::Pow => false,
        BinaryOp::Max | BinaryOp::Min | BinaryOp::And | BinaryOp::Or => false,
    }
}

pub(super) fn unary(op: UnaryOp, x: &Tensor) -> Tensor {
    let shape = x.shape().to_vec();
    match (op, x.data()) {
        (UnaryOp::Detach, _) => x.clone(),
        (_, Data::F32(v)) => Tensor::f32(shape, v.iter().map(|x| unary_f32(op, *x)).collect()),
        (UnaryOp::Neg, Data::I64(v)) => Tensor::i64(shape, v.iter().map(|x| x.wrapping_neg()).collect()),
        (UnaryOp::Abs, Data::I64(v)) => Tensor::i64(shape, v.iter().map(|x| x.wrapping_abs()).collect()),
        (UnaryOp::Not, Data::Bool(v)) => Tensor::bool(shape, v.iter().map(|x| 1 - x).collect()),
        (op, _) => unreachable!("the verifier lets no {op:?} of {} through", x.dtype()),
    }
}

pub(super) fn binary(op: BinaryOp, a: &Tensor, b: &Tensor) -> Result<Tensor, RuntimeError> {
    let shape = a.shape().to_vec();
    Ok(match (a.data(), b.data()) {
        (Data::F32(x), Data::F32(y)) => {
            let pairs = x.iter().zip(y.iter());
            if op.is_comparison() {
                Tensor::bool(shape, pairs.map(|(a, b)| u8::from(compare(op, a, b))).collect())
            } else {
                Tensor::f32(shape, pairs.map(|(a, b)| binary_f32(op, *a, *b)).collect())
            }
        }
        (Data::I64(x), Data::I64(y)) => {
            let pairs = x.iter().zip(y.iter());
            if op.is_comparison() {
                return Ok(Tensor::bool(shape, pairs.map(|(a, b)| u8::from(compare(op, a, b))).collect()));
            }
            let mut data = Vec::with_capacity(x.len());
            for (i, (a, b)) in pairs.enumerate() {
                data.push(match op {
                    BinaryOp::Add => a.wrapping_add(*b),
                    BinaryOp::Sub => a.wrapping_sub(*b),
                    BinaryOp::Mul => a.wrapping_mul(*b),
                    BinaryOp::Max => *a.max(b),
                    BinaryOp::Min => *a.min(b),
                    BinaryOp::Rem if *b == 0 => return Err(RuntimeError::RemainderByZero(i)),
                    BinaryOp::Rem => {
                        let r = a.wrapping_rem(*b);
                        if r != 0 && (r < 0) != (*b < 0) { r + b } else { r }
                    }
                    BinaryOp::Div | BinaryOp::Pow | BinaryOp::And | BinaryOp::Or => {
                        unreachable!("the verifier lets no {op:?} of i64 through")
                    }
                    BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => {
                        unreachable!("comparisons are done above")
                    }
                });
            }
            Tensor::i64(shape, data)
        }
        (Data::Bool(x), Data::Bool(y)) | (Data::U8(x), Data::U8(y)) => {
            let pairs = x.iter().zip(y.iter());
            let data = pairs.map(|(a, b)| match op {
                BinaryOp::And => a & b,
                BinaryOp::Or => a | b,
                BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => u8::from(compare(op, a, b)),
                BinaryOp::Add
                | BinaryOp::Sub
                | BinaryOp::Mul
                | BinaryOp::Div
                | BinaryOp::Rem
                | BinaryOp::Pow
                | BinaryOp::Max
                | BinaryOp::Min => {
                    unreachable!("the verifier lets no {op:?} of booleans through")
                }
            });
            Tensor::bool(shape, data.collect())
        }
        _ => unreachable!("the verifier lets no {op:?} of {} and {} through", a.dtype(), b.dtype()),
    })
}

pub(super) fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    fn pick<T: Copy>(c: &[u8], a: &[T], b: &[T]) -> Vec<T> {
        c.iter().zip(a.iter().zip(b)).map(|(c, (a, b))| if *c != 0 { *a } else { *b }).collect()
    }
    let shape = a.shape().to_vec();
    let Data::Bool(c) = condition.data() else { unreachable!("the verifier demands a bool condition") };
    match (a.data(), b.data()) {
        (Data::F32(a), Data::F32(b)) => Tensor::f32(shape, pick(c, a, b)),
        (Data::I64(a), Data::I64(b)) => Tensor::i64(shape, pick(c, a, b)),
        (Data::Bool(a), Data::Bool(b)) => Tensor::bool(shape, pick(c, a, b)),
        (Data::U8(a), Data::U8(b)) => Tensor::u8(shape, pick(c, a, b)),
        _ => unreachable!("the verifier demands equal branches"),
    }
}

pub(super) fn cast(x: &Tensor, to: DType) -> Tensor {
    let shape = x.shape().to_vec();
    match to {
        _ if to == x.dtype() => x.clone(),
        DType::F32 => Tensor::f32(shape, x.to_f32()),
        DType::I64 => Tensor::i64(shape, x.to_i64()),
        DType::U8 => Tensor::u8(shape, x.to_i64().into_iter().map(|v| v as u8).collect()),
        DType::Bool => match x.data() {
            Data::F32(v) => Tensor::bool(shape, v.iter().map(|x| u8::from(*x != 0.0)).collect()),
            Data::I64(_) | Data::Bool(_) | Data::U8(_) => Tensor::bool(shape, x.to_i64().into_iter().map(|v| u8::from(v != 0)).collect()),
        },
    }
}

pub(super) fn spike(strict: bool, x: &Tensor) -> Tensor {
    let fires = |u: &f32| if strict { *u > 0.0 } else { *u >= 0.0 };
    let data = x.as_f32().iter().map(|u| f32::from(fires(u))).collect();
    Tensor::f32(x.shape().to_vec(), data)
}

//! Short words for the operations that passes build graphs of.

use crate::{BinaryOp, DType, Dim, Graph, Op, Reduction, Tensor, Type, UnaryOp, Value};

/// A graph that is being added to.
pub struct Build<'a>(pub &'a mut Graph);

#[allow(missing_docs)]
impl Build<'_> {
    /// A value of a type whose every element is `x`.
    pub fn full(&mut self, x: f32, ty: &Type) -> Value {
        let scalar = match ty.dtype {
            DType::I64 => Tensor::i64([], vec![x as i64]),
            DType::Bool => Tensor::bool([], vec![u8::from(x != 0.0)]),
            DType::U8 => Tensor::u8([], vec![x as u8]),
            DType::F32 => Tensor::scalar(x),
        };
        let scalar = self.0.add(Op::Constant(scalar), &[]);
        if ty.rank() == 0 { scalar } else { self.0.add(Op::Broadcast { axes: vec![], shape: ty.shape.clone() }, &[scalar]) }
    }

    /// A value like `v` whose every element is `x`.
    pub fn like(&mut self, x: f32, v: Value) -> Value {
        let ty = self.0.ty(v).clone();
        self.full(x, &ty)
    }

    pub fn unary(&mut self, op: UnaryOp, a: Value) -> Value {
        self.0.add(Op::Unary(op), &[a])
    }

    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Value {
        self.0.add(Op::Binary(op), &[a, b])
    }

    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Add, a, b)
    }

    pub fn sub(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Sub, a, b)
    }

    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Mul, a, b)
    }

    pub fn div(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Div, a, b)
    }

    pub fn neg(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::Neg, a)
    }

    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        self.0.add(Op::Select, &[condition, a, b])
    }

    /// Conversion to another type of elements.
    pub fn cast(&mut self, a: Value, dtype: DType) -> Value {
        self.0.add(Op::Cast { dtype }, &[a])
    }

    pub fn reshape(&mut self, a: Value, shape: Vec<Dim>) -> Value {
        if self.0.ty(a).shape == shape { a } else { self.0.add(Op::Reshape { shape }, &[a]) }
    }

    pub fn transpose(&mut self, a: Value, permutation: Vec<usize>) -> Value {
        let same = permutation.iter().copied().eq(0..permutation.len());
        if same { a } else { self.0.add(Op::Transpose { permutation }, &[a]) }
    }

    /// What was transposed by a permutation, back in its own order.
    pub fn untranspose(&mut self, a: Value, permutation: &[usize]) -> Value {
        let mut inverse = vec![0; permutation.len()];
        permutation.iter().enumerate().for_each(|(i, p)| inverse[*p] = i);
        self.transpose(a, inverse)
    }

    pub fn broadcast(&mut self, a: Value, axes: Vec<usize>, shape: Vec<Dim>) -> Value {
        if self.0.ty(a).shape == shape { a } else { self.0.add(Op::Broadcast { axes, shape }, &[a]) }
    }

    pub fn sum(&mut self, a: Value, axes: Vec<usize>) -> Value {
        if axes.is_empty() { a } else { self.0.add(Op::Reduce { kind: Reduction::Sum, axes }, &[a]) }
    }

    /// The sum of a gradient over the axes along which its value was repeated, aligned at the last axis.
    pub fn summed_to(&mut self, gradient: Value, like: Value) -> Value {
        let (from, to) = (self.0.ty(gradient).shape.clone(), self.0.ty(like).shape.clone());
        let extra = from.len() - to.len();
        let axes = (0..from.len()).filter(|a| *a < extra || from[*a] != to[*a - extra]).collect();
        let sum = self.sum(gradient, axes);
        self.reshape(sum, to)
    }

    pub fn slice(&mut self, a: Value, axis: usize, start: Dim, length: Dim) -> Value {
        self.0.add(Op::Slice { axis, start, length, step: 1 }, &[a])
    }

    pub fn pad(&mut self, a: Value, axis: usize, low: Dim, high: Dim) -> Value {
        if low.as_constant() == Some(0) && high.as_constant() == Some(0) {
            return a;
        }
        self.0.add(Op::Pad { axis, low, high, value: 0.0 }, &[a])
    }

    /// `0 ... n - 1` as integers.
    pub fn iota(&mut self, n: Dim) -> Value {
        self.0.add(Op::Iota { length: n }, &[])
    }

    /// Integers times a number.
    pub fn scaled(&mut self, a: Value, factor: i64) -> Value {
        if factor == 1 {
            return a;
        }
        let ty = self.0.ty(a).clone();
        let scalar = self.0.add(Op::Constant(Tensor::i64([], vec![factor])), &[]);
        let factor = self.broadcast(scalar, vec![], ty.shape);
        self.mul(a, factor)
    }

    /// The elements of an axis in the opposite order.
    pub fn flipped(&mut self, a: Value, axis: usize) -> Value {
        let n = self.0.ty(a).shape[axis].clone();
        if n.is_one() {
            return a;
        }
        let forward = self.iota(n.clone());
        let last = self.0.add(Op::Size(n.minus(&1.into())), &[]);
        let last = self.broadcast(last, vec![], vec![n]);
        let backward = self.sub(last, forward);
        self.0.add(Op::Gather { axis }, &[a, backward])
    }
}

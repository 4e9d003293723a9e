//! The elements of a tensor at other places.

use snn_ir::{DType, Dim, Op, Type, Value};
use snn_syntax::Span;

use crate::builtins::Arguments;
use crate::context::{Lowerer, Result};
use crate::value::Val;

impl Lowerer<'_> {
    /// The tensors of a list, and the first of them.
    fn parts(&mut self, name: &str, a: &Arguments) -> Result<(Vec<Value>, Value)> {
        let (Val::List(items) | Val::Tuple(items)) = a.get(0) else {
            return self.fail_help(
                a.span(0),
                format!("`{name}` takes a list of tensors"),
                "here",
                format!("write `{name}([a, b], axis = 0)`"),
            );
        };
        let mut parts = Vec::new();
        for item in items {
            parts.push(self.lift(item, None, a.span(0))?);
        }
        match parts.first().copied() {
            Some(first) => Ok((parts, first)),
            None => self.fail(a.span(0), format!("`{name}` of nothing"), "here"),
        }
    }

    /// `concat(parts; axis)`.
    pub(super) fn joined(&mut self, a: &Arguments) -> Result<Value> {
        let (parts, first) = self.parts("concat", a)?;
        let ty = self.ty(first);
        let axis = self.axis(a.get(1), 0, &ty, a.span(1))?;
        self.emit(Op::Concat { axis }, &parts, a.span)
    }

    /// `stack(parts; axis)`.
    pub(super) fn stacked(&mut self, a: &Arguments) -> Result<Value> {
        let (mut parts, first) = self.parts("stack", a)?;
        let mut ty = self.ty(first);
        ty.shape.push(1.into());
        let axis = self.axis(a.get(1), 0, &ty, a.span(1))?;
        for p in &mut parts {
            *p = self.unsqueeze(*p, axis, a.span)?;
        }
        self.emit(Op::Concat { axis }, &parts, a.span)
    }

    /// `reshape(x, shape)`.
    pub(super) fn reshaped(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.first(a)?;
        let mut shape = self.integers(a.get(1), a.span(1))?;
        // One -1 stands for what is left.
        let open: Vec<usize> = (0..shape.len()).filter(|i| shape[*i].as_constant() == Some(-1)).collect();
        if let [at] = open.as_slice() {
            shape[*at] = 1.into();
            let rest = Dim::product(&shape);
            match Dim::product(&ty.shape).divided_exactly(&rest) {
                Some(d) => shape[*at] = d,
                None => {
                    return self.fail(a.span(1), format!("{ty} does not divide into {}", snn_ir::types::shape_text(&shape)), "here");
                }
            }
        }
        self.emit(Op::Reshape { shape }, &[x], a.span)
    }

    /// `broadcast_to(x, shape)`.
    pub(super) fn broadcast_to(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.first(a)?;
        let shape = self.integers(a.get(1), a.span(1))?;
        if !snn_ir::infer::broadcasts(&ty.shape, &shape) {
            return self.fail(a.span, format!("{ty} does not broadcast to {}", snn_ir::types::shape_text(&shape)), "here");
        }
        self.broadcast(x, &shape, a.span)
    }

    /// `transpose(x; a, b)`.
    pub(super) fn transposed(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.first(a)?;
        let i = self.axis(a.get(1), -2, &ty, a.span)?;
        let j = self.axis(a.get(2), -1, &ty, a.span)?;
        let mut permutation: Vec<usize> = (0..ty.rank()).collect();
        permutation.swap(i, j);
        self.emit(Op::Transpose { permutation }, &[x], a.span)
    }

    /// `permute(x, order)`.
    pub(super) fn permuted(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.first(a)?;
        let mut permutation = Vec::new();
        for d in self.integers(a.get(1), a.span(1))? {
            permutation.push(self.axis(Val::Int(d), 0, &ty, a.span(1))?);
        }
        self.emit(Op::Transpose { permutation }, &[x], a.span)
    }

    /// `unsqueeze(x, axis)`.
    pub(super) fn with_axis(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.first(a)?;
        let mut longer = ty;
        longer.shape.push(1.into());
        let axis = self.axis(a.get(1), 0, &longer, a.span(1))?;
        self.unsqueeze(x, axis, a.span)
    }

    /// `squeeze(x, axis)`.
    pub(super) fn without_axis(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.first(a)?;
        let axis = self.axis(a.get(1), 0, &ty, a.span(1))?;
        let mut shorter = ty;
        shorter.shape.remove(axis);
        self.emit(Op::Reshape { shape: shorter.shape }, &[x], a.span)
    }

    /// `take(x, indices; axis)`.
    pub(super) fn taken(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.first(a)?;
        let indices = self.lift(a.get(1), Some(DType::I64), a.span(1))?;
        let axis = self.axis(a.get(2), 0, &ty, a.span(2))?;
        self.emit(Op::Gather { axis }, &[x, indices], a.span)
    }

    /// `window(x; axis, size, stride, dilation)`.
    pub(super) fn windows(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.first(a)?;
        let axis = self.axis(a.get(1), -1, &ty, a.span(1))?;
        let size = self.known(a, 2, "size")?;
        let stride = if matches!(a.get(3), Val::Nothing) { size } else { self.known(a, 3, "stride")? };
        let dilation = if matches!(a.get(4), Val::Nothing) { 1 } else { self.known(a, 4, "dilation")? };
        self.emit(Op::Window { axis, size, stride, dilation }, &[x], a.span)
    }

    /// `pad(x, pad; value)`.
    pub(super) fn padded(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.first(a)?;
        // As PyTorch's `pad`: pairs for the last axis first.
        let pads = self.integers(a.get(1), a.span(1))?;
        let value = match a.get(2) {
            Val::Nothing => 0.0,
            v => match v.number() {
                Some(x) => self.fill_value(x, ty.dtype, a.span(2))?,
                None => return self.fail(a.span(2), "padding is done with a number", "here"),
            },
        };
        if pads.len() % 2 != 0 || pads.len() / 2 > ty.rank() {
            return self.fail(a.span(1), format!("{} numbers do not pad {ty}: a pair for each axis, the last first", pads.len()), "here");
        }
        let mut v = x;
        for (i, pair) in pads.chunks_exact(2).enumerate() {
            if pair.iter().all(|d| d.as_constant() == Some(0)) {
                continue;
            }
            let op = Op::Pad { axis: ty.rank() - 1 - i, low: pair[0].clone(), high: pair[1].clone(), value };
            v = self.emit(op, &[v], a.span)?;
        }
        Ok(v)
    }

    /// `scatter_add(target, indices, updates; axis)`.
    pub(super) fn scattered(&mut self, a: &Arguments) -> Result<Value> {
        let target = self.lift(a.get(0), None, a.span(0))?;
        let ty = self.ty(target);
        let indices = self.lift(a.get(1), Some(DType::I64), a.span(1))?;
        let updates = self.lift(a.get(2), Some(ty.dtype), a.span(2))?;
        let axis = self.axis(a.get(3), 0, &ty, a.span(3))?;
        self.emit(Op::ScatterAdd { axis }, &[target, indices, updates], a.span)
    }

    /// The first argument, with its type.
    pub(super) fn first(&mut self, a: &Arguments) -> Result<(Value, Type)> {
        let x = self.lift(a.get(0), None, a.span(0))?;
        Ok((x, self.ty(x)))
    }

    /// A number that elements of a type can be.
    fn fill_value(&self, x: f64, dtype: DType, span: Span) -> Result<f32> {
        let y = x as f32;
        let whole = |low: f64, high: f64| f64::from(y) == x && x.fract() == 0.0 && (low..=high).contains(&x);
        let fits = match dtype {
            DType::F32 => true,
            DType::I64 => whole(-9.2e18, 9.2e18),
            DType::Bool => whole(0.0, 1.0),
            DType::U8 => whole(0.0, 255.0),
        };
        if fits { Ok(y) } else { self.fail(span, format!("{x} is no value of a {dtype} tensor"), "padded with this") }
    }
}

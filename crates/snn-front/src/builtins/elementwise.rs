//! Functions of the elements at one place, and spikes.

use snn_ir::{BinaryOp, DType, Op, Tensor, UnaryOp, Value};
use snn_syntax::Span;

use crate::builtins::Arguments;
use crate::context::{Lowerer, Result, Stop};
use crate::value::Val;

impl Lowerer<'_> {
    pub(super) fn unary_function(&mut self, op: UnaryOp, v: Val, span: Span) -> Result<Val> {
        if let Some(x) = v.number() {
            let y = match op {
                UnaryOp::Abs => x.abs(),
                UnaryOp::Cos => x.cos(),
                UnaryOp::Exp => x.exp(),
                UnaryOp::Floor => x.floor(),
                UnaryOp::Log => x.ln(),
                UnaryOp::Round => x.round_ties_even(),
                UnaryOp::Sin => x.sin(),
                UnaryOp::Sqrt => x.sqrt(),
                UnaryOp::Tanh => x.tanh(),
                UnaryOp::Detach => return Ok(v),
                // As the compiled function has it.
                UnaryOp::Erf => f64::from(snn_ir::interpret::elementwise::unary_f32(UnaryOp::Erf, x as f32)),
                UnaryOp::Neg | UnaryOp::Not => f64::NAN,
            };
            if !y.is_nan() {
                return Ok(Val::Float(y));
            }
            if !x.is_nan() {
                return self.fail(span, format!("{} of {x} is not a number", format!("{op:?}").to_lowercase()), "here");
            }
        }
        let wanted = (!matches!(op, UnaryOp::Abs | UnaryOp::Detach)).then_some(DType::F32);
        let mut x = self.lift(v, wanted, span)?;
        if wanted.is_some() {
            x = self.cast(x, DType::F32, span)?;
        }
        let x = self.emit(Op::Unary(op), &[x], span)?;
        Ok(self.tensor(x))
    }

    /// `f32(x)`, `i64(x)` and `bool(x)`.
    pub(super) fn converted(&mut self, to: DType, a: &Arguments) -> Result<Val> {
        if let (Val::Int(d), DType::F32) = (a.get(0), to)
            && let Some(n) = d.as_constant()
        {
            return Ok(Val::Float(n as f64));
        }
        if let (Val::Float(x), DType::I64) = (a.get(0), to) {
            return match x.is_finite() && x.abs() < 9.2e18 {
                true => Ok(Val::int(x.trunc() as i64)),
                false => self.fail(a.span, format!("{x} is no integer"), "here"),
            };
        }
        let v = self.lift(a.get(0), None, a.span(0))?;
        let v = self.cast(v, to, a.span)?;
        Ok(self.tensor(v))
    }

    /// `maximum(a, b)` and `minimum(a, b)`.
    pub(super) fn larger_or_smaller(&mut self, op: BinaryOp, a: &Arguments) -> Result<Val> {
        if let (Some(x), Some(y)) = (a.get(0).number(), a.get(1).number()) {
            let larger = (x >= y) == (op == BinaryOp::Max);
            return Ok(if larger { a.get(0) } else { a.get(1) });
        }
        self.elementwise(op, a.get(0), a.get(1), a.span, (a.span(0), a.span(1)))
    }

    pub(super) fn spike(&mut self, a: &Arguments) -> Result<Val> {
        let surrogate = match a.get(1) {
            Val::Surrogate(s) => s,
            Val::Nothing => match self.call_name("sigmoid", vec![], a.span, a.span)? {
                Val::Surrogate(s) => s,
                _ => return Err(Stop::Said),
            },
            other => {
                return self.fail_help(
                    a.span(1),
                    format!("a surrogate is needed, not {}", other.describe()),
                    "here",
                    "for instance `surrogate = atan()`",
                );
            }
        };
        let strict = match a.get(2) {
            Val::Nothing => false,
            Val::Bool(b) => b,
            other => return self.fail(a.span(2), format!("`strict` is true or false, not {}", other.describe()), "here"),
        };
        let u = self.lift(a.get(0), Some(DType::F32), a.span(0))?;
        let u = self.cast(u, DType::F32, a.span)?;
        if !matches!(a.get(3), Val::Nothing) {
            return self.spike_with(u, a.get(3), strict, a);
        }
        // Where a setting is a tensor, the derivative is one as well: it is computed where the spike is.
        if surrogate.settings.iter().any(|s| s.value.is_tensor()) {
            let derivative = self.surrogate_value(&surrogate, u, a.span)?;
            return self.spike_with(u, derivative, strict, a);
        }
        let graph = self.surrogate_graph(&surrogate, a.span)?;
        let v = self.emit(Op::Spike { strict, surrogate: Box::new(graph) }, &[u], a.span)?;
        Ok(self.tensor(v))
    }

    /// A spike whose derivative is a value: `s` with the derivative `d` with respect to `u`, written as `s + d (u - detach(u))`.
    fn spike_with(&mut self, u: Value, derivative: Val, strict: bool, a: &Arguments) -> Result<Val> {
        let span = a.span;
        let ty = self.ty(u);
        let zero = self.constant(Tensor::scalar(0.0), span)?;
        let zero = self.broadcast(zero, &ty.shape, span)?;
        let op = if strict { BinaryOp::Gt } else { BinaryOp::Ge };
        let fires = self.emit(Op::Binary(op), &[u, zero], span)?;
        let s = self.cast(fires, DType::F32, span)?;
        let d = self.lift(derivative, Some(DType::F32), a.span(3))?;
        let d = self.broadcast(d, &ty.shape, a.span(3))?;
        let d = self.emit(Op::Unary(UnaryOp::Detach), &[d], span)?;
        let still = self.emit(Op::Unary(UnaryOp::Detach), &[u], span)?;
        let change = self.emit(Op::Binary(BinaryOp::Sub), &[u, still], span)?;
        let change = self.emit(Op::Binary(BinaryOp::Mul), &[d, change], span)?;
        let v = self.emit(Op::Binary(BinaryOp::Add), &[s, change], span)?;
        Ok(self.tensor(v))
    }
}

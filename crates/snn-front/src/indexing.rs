//! Indices: `x[0, 1:3, :, ...]` of tensors, lists and tuples.

use snn_ir::{DType, Dim, Op, Value};
use snn_syntax::Span;
use snn_syntax::ast::{ExprId, Subscript};

use crate::context::{Lowerer, Result};
use crate::value::Val;

impl Lowerer<'_> {
    pub fn index(&mut self, base: Val, subscripts: &[Subscript], span: Span) -> Result<Val> {
        match base {
            Val::Unknown => Ok(Val::Unknown),
            Val::List(items) if items.iter().any(|v| matches!(v, Val::List(_))) => {
                let v = self.lift(Val::List(items), None, span)?;
                let v = self.tensor(v);
                self.index(v, subscripts, span)
            }
            Val::List(items) => self.list_index(items, subscripts, span, Val::List),
            Val::Tuple(items) => self.list_index(items, subscripts, span, Val::Tuple),
            Val::Tensor { context, value } => {
                if self.in_step() {
                    return self.fail(span, "an index inside the step of a neuron", "a step sees one element");
                }
                let v = self.import(context, value, span)?;
                let v = self.tensor_index(v, subscripts, span)?;
                Ok(self.tensor(v))
            }
            other => self.fail(span, format!("{} has no elements", other.describe()), "indexed here"),
        }
    }

    fn known_int(&mut self, e: ExprId) -> Result<i64> {
        let span = self.ast(self.frames.last().map_or(0, |f| f.file)).expr(e).span;
        match self.eval(e)? {
            Val::Int(d) if d.as_constant().is_some() => Ok(d.as_constant().unwrap_or(0)),
            other => self.fail(span, format!("an index of a list is a known integer, not {}", other.describe()), "here"),
        }
    }

    fn list_index(&mut self, items: Vec<Val>, subscripts: &[Subscript], span: Span, wrap: fn(Vec<Val>) -> Val) -> Result<Val> {
        let n = items.len() as i64;
        match subscripts {
            [Subscript::At(e)] => {
                let i = self.known_int(*e)?;
                let at = if i < 0 { i + n } else { i };
                match items.get(usize::try_from(at).unwrap_or(usize::MAX)) {
                    Some(v) => Ok(v.clone()),
                    None => self.fail(span, format!("index {i} is outside of {n} elements"), "here"),
                }
            }
            [Subscript::Span { low, high, step: None }] => {
                let low = low.map(|e| self.known_int(e)).transpose()?.unwrap_or(0);
                let high = high.map(|e| self.known_int(e)).transpose()?.unwrap_or(n);
                let clamp = |i: i64| (if i < 0 { i + n } else { i }).clamp(0, n) as usize;
                Ok(wrap(items.get(clamp(low)..clamp(high).max(clamp(low))).unwrap_or(&[]).to_vec()))
            }
            _ => self.fail(span, "a list takes one index or span", "here"),
        }
    }

    fn tensor_index(&mut self, value: Value, subscripts: &[Subscript], span: Span) -> Result<Value> {
        let rank = self.ty(value).rank();
        let rests = subscripts.iter().filter(|s| matches!(s, Subscript::Rest)).count();
        let used = subscripts.len() - rests;
        if used > rank || rests > 1 {
            let ty = self.ty(value);
            return self.fail(span, format!("{used} indices for {ty}"), format!("it has {rank} dimensions"));
        }
        let mut v = value;
        let mut axis = 0;
        for s in subscripts {
            match s {
                Subscript::Rest => axis += rank - used,
                Subscript::Span { low, high, step } => {
                    v = self.slice(v, axis, *low, *high, *step, span)?;
                    axis += 1;
                }
                Subscript::At(e) => match self.eval(*e)? {
                    Val::Int(i) => {
                        let n = self.ty(v).shape[axis].clone();
                        let i = self.counted_from_end(i, &n);
                        let inside = i.as_constant().is_none_or(|k| k >= 0) && n.minus(&i).as_constant().is_none_or(|room| room >= 1);
                        if !inside {
                            let ty = self.ty(v);
                            return self.fail(span, format!("index {i} is outside of dimension {axis} of {ty}"), "here");
                        }
                        let mut shape = self.ty(v).shape;
                        v = self.emit(Op::Slice { axis, start: i, length: 1.into(), step: 1 }, &[v], span)?;
                        shape.remove(axis);
                        v = self.emit(Op::Reshape { shape }, &[v], span)?;
                    }
                    other => {
                        let indices = self.lift(other, Some(DType::I64), span)?;
                        let more = self.ty(indices).rank();
                        v = self.emit(Op::Gather { axis }, &[v, indices], span)?;
                        axis += more;
                    }
                },
            }
        }
        Ok(v)
    }

    fn counted_from_end(&self, i: Dim, n: &Dim) -> Dim {
        if i.as_constant().is_some_and(|k| k < 0) { n.plus(&i) } else { i }
    }

    fn bound(&mut self, e: Option<ExprId>, default: Dim, n: &Dim) -> Result<Dim> {
        let Some(e) = e else { return Ok(default) };
        let span = self.ast(self.frames.last().map_or(0, |f| f.file)).expr(e).span;
        let d = match self.eval(e)? {
            Val::Int(d) => self.counted_from_end(d, n),
            other => return self.fail(span, format!("a bound is an integer, not {}", other.describe()), "here"),
        };
        // As in Python, bounds outside are moved to the ends.
        Ok(match (d.as_constant(), n.as_constant()) {
            (Some(k), Some(n)) => Dim::constant(k.clamp(0, n)),
            (Some(k), None) => Dim::constant(k.max(0)),
            _ => d,
        })
    }

    /// `x[high:low:-step]`, as Python's: from the last element on, or from `low`.
    fn backwards(&mut self, v: Value, axis: usize, (low, high, step): (Option<ExprId>, Option<ExprId>, i64), span: Span) -> Result<Value> {
        let n = self.ty(v).shape[axis].clone();
        let Some(n) = n.as_constant() else {
            return self.undecided(span, format!("the length {n} of what is read backwards must be known when the program is compiled"));
        };
        let mut place = |e: Option<ExprId>, default: i64| -> Result<i64> {
            let Some(e) = e else { return Ok(default) };
            let i = self.known_int(e)?;
            Ok((if i < 0 { i + n } else { i }).clamp(-1, n - 1))
        };
        let (start, end) = (place(low, n - 1)?, place(high, -1)?);
        let mut places = Vec::new();
        let mut i = start;
        while i > end {
            places.push(i);
            i = i.saturating_add(step);
        }
        let indices = self.constant(snn_ir::Tensor::i64([places.len()], places), span)?;
        self.emit(Op::Gather { axis }, &[v, indices], span)
    }

    fn slice(
        &mut self,
        v: Value,
        axis: usize,
        low: Option<ExprId>,
        high: Option<ExprId>,
        step: Option<ExprId>,
        span: Span,
    ) -> Result<Value> {
        let n = self.ty(v).shape[axis].clone();
        let step = step.map(|e| self.known_int(e)).transpose()?.unwrap_or(1);
        if step < 0 {
            return self.backwards(v, axis, (low, high, step), span);
        }
        let start = self.bound(low, Dim::constant(0), &n)?;
        let end = self.bound(high, n.clone(), &n)?;
        if step == 0 {
            return self.fail(span, "a step of an index is not 0", "here");
        }
        if start == Dim::constant(0) && end == n && step == 1 {
            return Ok(v);
        }
        let length = end.minus(&start);
        let length = match length.as_constant() {
            Some(k) => Dim::constant(if k <= 0 { 0 } else { (k - 1) / step + 1 }),
            None => length.plus(&(step - 1).into()).floor_div(&step.into()),
        };
        self.emit(Op::Slice { axis, start, length, step }, &[v], span)
    }
}

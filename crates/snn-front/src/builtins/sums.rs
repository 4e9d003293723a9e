//! Reductions, products of tensors, convolutions.

use snn_ir::{Contraction, ConvGradient, Convolution, DType, Op, Reduction, Type, Value};

use crate::builtins::Arguments;
use crate::context::{Lowerer, Result, Stop};
use crate::value::Val;

impl Lowerer<'_> {
    /// The first argument as numbers, with its type.
    fn numbers(&mut self, a: &Arguments) -> Result<(Value, Type)> {
        let (x, ty) = self.first(a)?;
        let x = if matches!(ty.dtype, DType::Bool | DType::U8) { self.cast(x, DType::I64, a.span)? } else { x };
        Ok((x, ty))
    }

    /// `argmax(x; axis)`.
    pub(super) fn largest_index(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.numbers(a)?;
        let axis = self.axis(a.get(1), -1, &ty, a.span(1))?;
        self.emit(Op::ArgMax { axis }, &[x], a.span)
    }

    /// `cumsum(x; axis)`.
    pub(super) fn running_sum(&mut self, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.numbers(a)?;
        let axis = self.axis(a.get(1), -1, &ty, a.span(1))?;
        self.emit(Op::CumSum { axis }, &[x], a.span)
    }

    /// `sum`, `max` and `min` of `x; axis, keep`.
    pub(super) fn reduced(&mut self, kind: Reduction, a: &Arguments) -> Result<Value> {
        let (x, ty) = self.numbers(a)?;
        let axes = self.axes(a.get(1), &ty, a.span(1))?;
        let v = self.emit(Op::Reduce { kind, axes: axes.clone() }, &[x], a.span)?;
        if !matches!(a.get(2), Val::Bool(true)) {
            return Ok(v);
        }
        let mut kept = self.ty(v);
        axes.iter().for_each(|i| kept.shape.insert(*i, 1.into()));
        self.emit(Op::Reshape { shape: kept.shape }, &[v], a.span)
    }

    /// `einsum("bij,bjk->bik", a, b)`: sums of products over the letters that the result lacks, as `torch.einsum` of one or two tensors.
    pub(super) fn einsum(&mut self, a: &Arguments) -> Result<Value> {
        let span = a.span;
        let Val::Text(equation) = a.get(0) else {
            return self.fail_help(
                a.span(0),
                "`einsum` begins with its equation",
                "this is no text",
                "write `einsum(\"ij,jk->ik\", a, b)`",
            );
        };
        let (left, right) = match equation.split_once("->") {
            Some((l, r)) => (l.to_string(), r.trim().to_string()),
            None => return self.fail(a.span(0), "the equation says what the result has: `ij,jk->ik`", "there is no `->`"),
        };
        let parts: Vec<Vec<char>> = left.split(',').map(|p| p.trim().chars().collect()).collect();
        let result: Vec<char> = right.chars().collect();
        let given = if matches!(a.get(2), Val::Nothing) { 1 } else { 2 };
        if parts.len() != given {
            return self.fail(a.span(0), format!("the equation has {} operands, and {given} are given", parts.len()), "here");
        }
        let mut operands = Vec::new();
        for (i, letters) in parts.iter().enumerate() {
            let v = self.lift(a.get(i + 1), Some(DType::F32), a.span(i + 1))?;
            let v = self.cast(v, DType::F32, a.span(i + 1))?;
            let ty = self.ty(v);
            let twice = letters.iter().enumerate().any(|(k, c)| letters[..k].contains(c));
            if letters.len() != ty.rank() || twice || letters.iter().any(|c| !c.is_ascii_alphabetic()) {
                let text: String = letters.iter().collect();
                return self.fail(a.span(i + 1), format!("`{text}` does not name the axes of {ty}, each by a letter of its own"), "here");
            }
            operands.push((v, letters.clone()));
        }
        if let Some(c) = result.iter().enumerate().find(|(i, c)| result[..*i].contains(c) || !parts.iter().any(|p| p.contains(c))) {
            return self.fail(a.span(0), format!("the result has `{}` once, as an axis of an operand", c.1), "here");
        }
        // Letters that only one operand has and the result lacks are summed first.
        for i in 0..operands.len() {
            let other = operands.get(1 - i.min(1)).map(|o| o.1.clone()).filter(|_| operands.len() > 1).unwrap_or_default();
            let (v, letters) = operands[i].clone();
            let axes: Vec<usize> = (0..letters.len()).filter(|k| !other.contains(&letters[*k]) && !result.contains(&letters[*k])).collect();
            if !axes.is_empty() {
                let kept = letters.iter().enumerate().filter(|(k, _)| !axes.contains(k)).map(|(_, c)| *c).collect();
                operands[i] = (self.emit(Op::Reduce { kind: Reduction::Sum, axes }, &[v], span)?, kept);
            }
        }
        let (v, letters) = match operands.as_slice() {
            [(x, p), (y, q)] => {
                let shared: Vec<char> = p.iter().copied().filter(|c| q.contains(c)).collect();
                let place = |list: &[char], c: &char| list.iter().position(|k| k == c).unwrap_or(0);
                let (batch, sum): (Vec<char>, Vec<char>) = shared.iter().partition(|c| result.contains(c));
                let c = Contraction {
                    lhs_batch: batch.iter().map(|c| place(p, c)).collect(),
                    rhs_batch: batch.iter().map(|c| place(q, c)).collect(),
                    lhs_sum: sum.iter().map(|c| place(p, c)).collect(),
                    rhs_sum: sum.iter().map(|c| place(q, c)).collect(),
                };
                let free = p.iter().chain(q).copied().filter(|c| !shared.contains(c));
                let letters: Vec<char> = batch.iter().copied().chain(free).collect();
                (self.emit(Op::Contract(c), &[*x, *y], span)?, letters)
            }
            [(x, p)] => (*x, p.clone()),
            _ => return Err(Stop::Said),
        };
        let permutation: Vec<usize> = result.iter().filter_map(|c| letters.iter().position(|k| k == c)).collect();
        self.emit(Op::Transpose { permutation }, &[v], span)
    }

    pub(super) fn convolution(&mut self, a: &Arguments) -> Result<Value> {
        let x = self.lift(a.get(0), Some(DType::F32), a.span(0))?;
        let w = self.lift(a.get(1), Some(DType::F32), a.span(1))?;
        let n = self.ty(w).rank().saturating_sub(2);
        let c = Convolution {
            stride: self.for_each_axis(a, 2, n, 1)?,
            padding: self.for_each_axis(a, 3, n, 0)?,
            dilation: self.for_each_axis(a, 4, n, 1)?,
            groups: if matches!(a.get(5), Val::Nothing) { 1 } else { self.known(a, 5, "groups")? },
        };
        self.emit(Op::Conv(c), &[x, w], a.span)
    }

    /// A setting of a convolution over `n` axes: a number for all of them, or one for each.
    fn for_each_axis(&mut self, a: &Arguments, i: usize, n: usize, default: i64) -> Result<Vec<i64>> {
        let v = if matches!(a.get(i), Val::Nothing) { vec![default] } else { self.known_integers(a.get(i), a.span(i))? };
        match v.as_slice() {
            [one] => Ok(vec![*one; n]),
            v if v.len() == n => Ok(v.to_vec()),
            v => self.fail(a.span(i), format!("one number or {n} are needed, not {}", v.len()), "here"),
        }
    }

    /// The transposed convolution of `x[..., C, spatial]` by `weight[C, O / groups, kernel]`: the gradient of the input of a
    /// convolution by these weights.
    pub(super) fn transposed_convolution(&mut self, a: &Arguments) -> Result<Value> {
        let x = self.lift(a.get(0), Some(DType::F32), a.span(0))?;
        let w = self.lift(a.get(1), Some(DType::F32), a.span(1))?;
        let (from, weight) = (self.ty(x).clone(), self.ty(w).clone());
        let n = weight.rank().saturating_sub(2);
        let Some(channels) = from.rank().checked_sub(n + 1).filter(|_| n > 0) else {
            return self.fail(a.span(1), format!("weights {weight} do not fit {from}"), "they are `[C, O / groups, kernel...]`");
        };
        if from.shape[channels] != weight.shape[0] {
            let (takes, has) = (&weight.shape[0], &from.shape[channels]);
            return self.fail(a.span(0), format!("the weights take {takes} channels, and {from} has {has}"), "here");
        }
        let mut c = Convolution {
            stride: self.for_each_axis(a, 2, n, 1)?,
            padding: self.for_each_axis(a, 3, n, 0)?,
            dilation: self.for_each_axis(a, 5, n, 1)?,
            groups: if matches!(a.get(6), Val::Nothing) { 1 } else { self.known(a, 6, "groups")? },
        };
        let more = self.for_each_axis(a, 4, n, 0)?;
        let mut ty = from.clone();
        ty.shape[channels] = weight.shape[1].times(&c.groups.into());
        // Axes whose result is cut from one without padding.
        let mut cuts = vec![];
        for (i, more) in more.into_iter().enumerate() {
            let (stride, dilation) = (c.stride[i].max(1), c.dilation[i].max(1));
            if more < 0 || more >= stride.max(dilation) {
                let message = format!("an output padding of {} is not below the stride {stride} or the dilation {dilation}", more);
                return self.fail(a.span(4), message, "here");
            }
            let Some(kernel) = weight.shape[2 + i].as_constant() else {
                return self.fail(a.span(1), "the kernel of a convolution has a known size".to_string(), "here");
            };
            let axis = channels + 1 + i;
            let whole = from.shape[axis].minus(&1.into()).times(&stride.into()).plus(&(dilation * (kernel - 1) + 1).into());
            let size = whole.plus(&(more - 2 * c.padding[i]).into());
            if size.as_constant().is_some_and(|size| size < 1) {
                return self.fail(a.span(0), format!("a padding of {} leaves nothing of {from}", c.padding[i]), "here");
            }
            ty.shape[axis] = size.clone();
            if more >= stride {
                // More than the windows of a convolution leave over.
                ty.shape[axis] = whole;
                cuts.push((axis, std::mem::take(&mut c.padding[i]), more, size));
            }
        }
        let mut y = self.emit(Op::ConvInputGradient(ConvGradient { convolution: c, shape: ty.shape }), &[x, w], a.span)?;
        for (axis, padding, more, size) in cuts {
            // What no window reaches is zero.
            let beyond = (more - padding).max(0);
            let pad = Op::Pad { axis, low: 0.into(), high: beyond.into(), value: 0.0 };
            let padded = self.emit(pad, &[y], a.span)?;
            y = self.emit(Op::Slice { axis, start: padding.into(), length: size, step: 1 }, &[padded], a.span)?;
        }
        Ok(y)
    }
}

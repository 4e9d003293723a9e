//! Operators: on numbers at once, on tensors as operations with broadcasting and promotion as in PyTorch.

use snn_ir::types::shape_text;
use snn_ir::{BinaryOp, Contraction, DType, Dim, Op, Tensor, UnaryOp, Value};
use snn_syntax::ast::{BinaryOperator, UnaryOperator};
use snn_syntax::{Diagnostic, Span};

use crate::context::{Lowerer, Result, Stop};
use crate::value::{Val, same};

impl Lowerer<'_> {
    /// A value as a tensor of this graph. Numbers become scalars of type `wanted`, or of their own.
    pub fn lift(&mut self, value: Val, wanted: Option<DType>, span: Span) -> Result<Value> {
        match value {
            Val::Tensor { context, value } => self.import(context, value, span),
            Val::Int(d) => {
                let dtype = if wanted == Some(DType::F32) { DType::F32 } else { DType::I64 };
                match (d.as_constant(), dtype) {
                    (Some(n), DType::F32) => self.constant(Tensor::scalar(n as f32), span),
                    (Some(n), _) => self.constant(Tensor::i64([], vec![n]), span),
                    (None, dtype) => {
                        let v = self.emit(Op::Size(d), &[], span)?;
                        self.cast(v, dtype, span)
                    }
                }
            }
            Val::Float(x) => self.constant(Tensor::scalar(x as f32), span),
            Val::Bool(b) => self.constant(Tensor::bool([], vec![u8::from(b)]), span),
            Val::List(items) => self.list_tensor(items, wanted, span),
            Val::Poison | Val::Unknown => Err(Stop::Said),
            other => self.fail(span, format!("a tensor is needed, not {}", other.describe()), "here"),
        }
    }

    /// A list of numbers is a constant; a list of tensors is stacked.
    fn list_tensor(&mut self, items: Vec<Val>, wanted: Option<DType>, span: Span) -> Result<Value> {
        let list = Val::List(items);
        let mut shape = Vec::new();
        let mut numbers = Vec::new();
        if flatten_numbers(&list, 0, &mut shape, &mut numbers) {
            let all_integers = numbers.iter().all(|v| matches!(v, Val::Int(_)));
            let all_truths = !numbers.is_empty() && numbers.iter().all(|v| matches!(v, Val::Bool(_)));
            let values = numbers.iter().map(|v| v.number().unwrap_or(0.0));
            let tensor = if all_truths {
                Tensor::bool(shape, values.map(|x| x as u8).collect())
            } else if all_integers && wanted != Some(DType::F32) {
                let integer = |v: &Val| if let Val::Int(d) = v { d.as_constant().unwrap_or(0) } else { 0 };
                Tensor::i64(shape, numbers.iter().map(integer).collect())
            } else {
                Tensor::f32(shape, values.map(|x| x as f32).collect())
            };
            return self.constant(tensor, span);
        }
        let Val::List(items) = list else { return Err(Stop::Said) };
        if items.is_empty() {
            return self.constant(Tensor::f32([0], vec![]), span);
        }
        let mut parts = Vec::new();
        for item in items {
            let v = self.lift(item, wanted.or(Some(DType::F32)), span)?;
            parts.push(self.unsqueeze(v, 0, span)?);
        }
        let first = self.ty(parts[0]);
        for p in &parts {
            let ty = self.ty(*p);
            if ty != first {
                return self.fail(span, format!("the rows of the list differ: {first} and {ty}"), "here");
            }
        }
        self.emit(Op::Concat { axis: 0 }, &parts, span)
    }

    pub fn unsqueeze(&mut self, v: Value, axis: usize, span: Span) -> Result<Value> {
        let mut ty = self.ty(v);
        ty.shape.insert(axis, 1.into());
        self.emit(Op::Reshape { shape: ty.shape }, &[v], span)
    }

    pub fn unary_operator(&mut self, op: UnaryOperator, v: Val, span: Span) -> Result<Val> {
        match (op, v) {
            (_, Val::Poison) => Err(Stop::Said),
            (_, Val::Unknown) => Ok(Val::Unknown),
            (UnaryOperator::Minus, Val::Int(d)) => Ok(Val::Int(Dim::constant(0).minus(&d))),
            (UnaryOperator::Minus, Val::Float(x)) => Ok(Val::Float(-x)),
            (UnaryOperator::Not, Val::Bool(b)) => Ok(Val::Bool(!b)),
            (op, v @ (Val::Tensor { .. } | Val::List(_))) => {
                let value = self.lift(v, None, span)?;
                let op = if op == UnaryOperator::Minus { UnaryOp::Neg } else { UnaryOp::Not };
                let value = self.emit(Op::Unary(op), &[value], span)?;
                Ok(self.tensor(value))
            }
            (_, other) => self.fail(span, format!("this operator does not take {}", other.describe()), "here"),
        }
    }

    /// `spans` are those of the operands.
    pub fn binary_operator(&mut self, op: BinaryOperator, a: Val, b: Val, span: Span, spans: (Span, Span)) -> Result<Val> {
        use BinaryOperator as B;
        if matches!(a, Val::Poison) || matches!(b, Val::Poison) {
            return Err(Stop::Said);
        }
        if matches!(op, B::Eq | B::Ne) {
            let decided = match (&a, &b) {
                (Val::Unknown, Val::Nothing) | (Val::Nothing, Val::Unknown) => Some(false),
                _ => same(&a, &b).filter(|_| !a.is_tensor() && !b.is_tensor() || matches!(a, Val::Nothing) || matches!(b, Val::Nothing)),
            };
            // A list is compared element by element, with a number too.
            let number = |v: &Val| matches!(v, Val::Int(_) | Val::Float(_) | Val::Bool(_));
            let list = |v: &Val| matches!(v, Val::List(_));
            let lists = list(&a) && (list(&b) || number(&b)) || number(&a) && list(&b);
            if let (Some(equal), false) = (decided, lists) {
                return Ok(Val::Bool(equal == (op == B::Eq)));
            }
        }
        if let Some(v) = self.fold_numbers(op, &a, &b, span)? {
            return Ok(v);
        }
        if op == B::MatMul {
            return self.matmul(a, b, spans);
        }
        match (&a, &b) {
            (Val::Unknown, Val::Unknown) => return Ok(Val::Unknown),
            // The type of the other operand is the best guess, if it is a tensor.
            (Val::Unknown, other) | (other, Val::Unknown) => {
                return Ok(if other.is_tensor() && self.dry > 0 { other.clone() } else { Val::Unknown });
            }
            _ => {}
        }
        let op = match op {
            B::Add => BinaryOp::Add,
            B::Sub => BinaryOp::Sub,
            B::Mul => BinaryOp::Mul,
            B::Div => BinaryOp::Div,
            B::FloorDiv => {
                let quotient = self.elementwise(BinaryOp::Div, a, b, span, spans)?;
                let v = self.lift(quotient, None, span)?;
                let v = self.emit(Op::Unary(UnaryOp::Floor), &[v], span)?;
                return Ok(self.tensor(v));
            }
            B::Rem => BinaryOp::Rem,
            B::Pow => return self.power(a, b, span, spans),
            B::Eq => BinaryOp::Eq,
            B::Ne => BinaryOp::Ne,
            B::Lt => BinaryOp::Lt,
            B::Le => BinaryOp::Le,
            B::Gt => BinaryOp::Gt,
            B::Ge => BinaryOp::Ge,
            B::And => BinaryOp::And,
            B::Or => BinaryOp::Or,
            B::Pipe | B::OrElse | B::MatMul => return Err(Stop::Said),
        };
        self.elementwise(op, a, b, span, spans)
    }

    /// Numbers with numbers, and lists with lists.
    fn fold_numbers(&mut self, op: BinaryOperator, a: &Val, b: &Val, span: Span) -> Result<Option<Val>> {
        use BinaryOperator as B;
        if let (B::Add, Val::List(x), Val::List(y)) = (op, a, b) {
            // Lists of dimensions are joined; tables of numbers are tensors and added.
            if x.iter().chain(y).all(|v| matches!(v, Val::Int(_))) {
                return Ok(Some(Val::List(x.iter().chain(y).cloned().collect())));
            }
        }
        if let (Val::Bool(x), Val::Bool(y)) = (a, b) {
            match op {
                B::And => return Ok(Some(Val::Bool(*x && *y))),
                B::Or => return Ok(Some(Val::Bool(*x || *y))),
                _ => {}
            }
        }
        if let (Val::Int(x), Val::Int(y)) = (a, b) {
            let known = x.as_constant().zip(y.as_constant());
            let v = match op {
                B::Add => Some(Val::Int(x.plus(y))),
                B::Sub => Some(Val::Int(x.minus(y))),
                B::Mul => Some(Val::Int(x.times(y))),
                B::Div if y.as_constant() == Some(0) => return self.fail(span, "a division by zero", "here"),
                B::Div => match x.divided_exactly(y) {
                    Some(d) => Some(Val::Int(d)),
                    None => known.map(|(p, q)| Val::Float(p as f64 / q as f64)),
                },
                B::Rem => match known {
                    Some((_, 0)) => return self.fail(span, "a remainder of a division by zero", "here"),
                    Some((p, q)) => Some(Val::int(snn_ir::dim::floor_rem(p, q).unwrap_or(0))),
                    None => None,
                },
                B::FloorDiv if y.as_constant() == Some(0) => return self.fail(span, "a division by zero", "here"),
                B::FloorDiv => Some(Val::Int(x.floor_div(y))),
                B::Pow => match known {
                    Some((p, q)) if q >= 0 => match u32::try_from(q).ok().and_then(|q| p.checked_pow(q)) {
                        Some(n) => Some(Val::int(n)),
                        None => return self.fail_help(span, "an integer does not fit 64 bits", "here", "write a float: `2.0 ^ 70`"),
                    },
                    Some((p, q)) => Some(Val::Float((p as f64).powf(q as f64))),
                    None => None,
                },
                _ => known.and_then(|(p, q)| compare(op, p, q)).map(Val::Bool),
            };
            if v.is_some() {
                return Ok(v);
            }
        }
        let (Some(x), Some(y)) = (a.number(), b.number()) else { return Ok(None) };
        if matches!(a, Val::Bool(_)) || matches!(b, Val::Bool(_)) {
            return Ok(None);
        }
        Ok(match op {
            B::Add => Some(Val::Float(x + y)),
            B::Sub => Some(Val::Float(x - y)),
            B::Mul => Some(Val::Float(x * y)),
            B::Div if y == 0.0 => return self.fail(span, "a division by zero", "here"),
            B::Div => Some(Val::Float(x / y)),
            B::Rem if y == 0.0 => return self.fail(span, "a remainder of a division by zero", "here"),
            B::Rem => Some(Val::Float(float_rem(x, y))),
            B::FloorDiv if y == 0.0 => return self.fail(span, "a division by zero", "here"),
            B::FloorDiv => Some(Val::Float((x / y).floor())),
            B::Pow => Some(Val::Float(x.powf(y))),
            _ => compare(op, x, y).map(Val::Bool),
        })
    }

    /// A small whole power is a product, as in PyTorch; others are `pow`.
    fn power(&mut self, a: Val, b: Val, span: Span, spans: (Span, Span)) -> Result<Val> {
        let exponent = b.number();
        match exponent {
            Some(1.0) => return Ok(a),
            Some(0.5) => {
                let v = self.lift(a, Some(DType::F32), spans.0)?;
                let v = self.cast(v, DType::F32, span)?;
                let v = self.emit(Op::Unary(UnaryOp::Sqrt), &[v], span)?;
                return Ok(self.tensor(v));
            }
            Some(n) if n.fract() == 0.0 && (2.0..=4.0).contains(&n.abs()) || n == -1.0 => {
                // The reciprocal comes first: the square of what is divided by may underflow where the derivative does not overflow.
                let base = if n < 0.0 { self.elementwise(BinaryOp::Div, Val::Float(1.0), a, span, spans)? } else { a };
                let mut product = base.clone();
                for _ in 1..n.abs() as i64 {
                    product = self.elementwise(BinaryOp::Mul, product, base.clone(), span, (spans.0, spans.0))?;
                }
                return Ok(product);
            }
            _ => {}
        }
        self.elementwise(BinaryOp::Pow, a, b, span, spans)
    }

    /// An elementwise function of two values, at least one of them a tensor.
    pub fn elementwise(&mut self, op: BinaryOp, a: Val, b: Val, span: Span, spans: (Span, Span)) -> Result<Val> {
        let (x, y) = self.promoted(a, b, spans, matches!(op, BinaryOp::Div | BinaryOp::Pow))?;
        let (x, y) = self.aligned(x, y, span, spans)?;
        let v = self.emit(Op::Binary(op), &[x, y], span)?;
        Ok(self.tensor(v))
    }

    /// Both values as tensors of one element type. A number takes the type of the tensor, unless that cannot hold it.
    fn promoted(&mut self, a: Val, b: Val, spans: (Span, Span), floats: bool) -> Result<(Value, Value)> {
        let type_of = |l: &mut Self, v: &Val, span| -> Result<Option<DType>> {
            Ok(match v {
                Val::Tensor { context, value } => {
                    let v = l.import(*context, *value, span)?;
                    Some(l.ty(v).dtype)
                }
                _ => None,
            })
        };
        let types = (type_of(self, &a, spans.0)?, type_of(self, &b, spans.1)?);
        let number_type = |v: &Val, other: DType| match v {
            Val::Float(_) => DType::F32,
            Val::Int(_) if other == DType::Bool || other == DType::U8 => DType::I64,
            _ => other,
        };
        let mut dtype = match types {
            (Some(p), Some(q)) => p.promote(q),
            (Some(p), None) => number_type(&b, p),
            (None, Some(q)) => number_type(&a, q),
            (None, None) => DType::I64,
        };
        if floats {
            dtype = DType::F32;
        }
        let is_list = |v: &Val| matches!(v, Val::List(_));
        let wanted = if is_list(&a) && is_list(&b) { None } else { Some(dtype) };
        let x = self.lift(a, wanted, spans.0)?;
        let y = self.lift(b, wanted, spans.1)?;
        let common = self.ty(x).dtype.promote(self.ty(y).dtype);
        let common = if floats { DType::F32 } else { common };
        Ok((self.cast(x, common, spans.0)?, self.cast(y, common, spans.1)?))
    }

    /// Both repeated to their common shape.
    fn aligned(&mut self, x: Value, y: Value, span: Span, spans: (Span, Span)) -> Result<(Value, Value)> {
        let (a, b) = (self.ty(x).shape, self.ty(y).shape);
        let Some(shape) = common_shape(&a, &b) else {
            let d = Diagnostic::error(format!("the shapes {} and {} do not fit", shape_text(&a), shape_text(&b)));
            let d = self.at(d, spans.0, format!("this is {}", shape_text(&a)));
            let (right, _) = self.user_span(spans.1);
            let d = d.label(right, format!("this is {}", shape_text(&b)));
            return Err(Stop::Say(Box::new(d.help("dimensions are aligned at the last one, and must be equal or 1"))));
        };
        Ok((self.broadcast(x, &shape, span)?, self.broadcast(y, &shape, span)?))
    }

    pub fn select(&mut self, c: Val, a: Val, b: Val, span: Span) -> Result<Val> {
        if c.is_unknown() || a.is_unknown() || b.is_unknown() {
            return Ok(Val::Unknown);
        }
        if let Val::Bool(c) = c {
            return Ok(if c { a } else { b });
        }
        let c = self.lift(c, Some(DType::Bool), span)?;
        let c = self.cast(c, DType::Bool, span)?;
        let both_numbers = !a.is_tensor() && !b.is_tensor();
        let (x, y) = if both_numbers {
            let floats = !matches!((&a, &b), (Val::Int(_), Val::Int(_)) | (Val::Bool(_), Val::Bool(_)));
            let wanted = Some(if floats || self.in_step() { DType::F32 } else { DType::I64 });
            (self.lift(a, wanted, span)?, self.lift(b, wanted, span)?)
        } else {
            self.promoted(a, b, (span, span), false)?
        };
        let (x, y) = self.aligned(x, y, span, (span, span))?;
        let (shape, cond) = (self.ty(x).shape, self.ty(c).shape);
        let Some(common) = common_shape(&shape, &cond) else {
            return self.fail(
                span,
                format!("the condition {} and the values {} do not fit", shape_text(&cond), shape_text(&shape)),
                "here",
            );
        };
        let operands = [self.broadcast(c, &common, span)?, self.broadcast(x, &common, span)?, self.broadcast(y, &common, span)?];
        let v = self.emit(Op::Select, &operands, span)?;
        Ok(self.tensor(v))
    }

    /// `a @ b`, as PyTorch's `matmul`.
    pub fn matmul(&mut self, a: Val, b: Val, spans: (Span, Span)) -> Result<Val> {
        if a.is_unknown() || b.is_unknown() {
            return Ok(Val::Unknown);
        }
        if self.in_step() {
            return self.fail(spans.0, "a product of tensors inside the step of a neuron", "a step sees one element");
        }
        let x = self.lift(a, Some(DType::F32), spans.0)?;
        let y = self.lift(b, Some(DType::F32), spans.1)?;
        let (x, y) = (self.cast(x, DType::F32, spans.0)?, self.cast(y, DType::F32, spans.1)?);
        let (tx, ty) = (self.ty(x), self.ty(y));
        if tx.rank() == 0 || ty.rank() == 0 {
            return self.fail(spans.0, format!("`@` needs tensors with dimensions, not {tx} and {ty}"), "here");
        }
        let sum_y = ty.rank().saturating_sub(2);
        let k = (&tx.shape[tx.rank() - 1], &ty.shape[sum_y]);
        if k.0 != k.1 {
            let d = Diagnostic::error(format!("{tx} @ {ty}: {} columns meet {} rows", k.0, k.1));
            let d = self.at(d, spans.0, format!("this is {tx}"));
            let (right, _) = self.user_span(spans.1);
            return Err(Stop::Say(Box::new(d.label(right, format!("this is {ty}")))));
        }
        // Leading axes of the right operand are batch axes, and must be those of the left.
        let batch = ty.rank().saturating_sub(2);
        // One matrix for all of them is one product, which is not repeated for each.
        if tx.rank() == 2 && batch > 0 {
            let c = Contraction { lhs_batch: vec![], rhs_batch: vec![], lhs_sum: vec![1], rhs_sum: vec![sum_y] };
            let v = self.emit(Op::Contract(c), &[x, y], spans.0)?;
            let permutation = (1..=batch).chain([0, batch + 1]).collect();
            let v = self.emit(Op::Transpose { permutation }, &[v], spans.0)?;
            return Ok(self.tensor(v));
        }
        let (x, y, batch) = if batch > 0 {
            let lead = tx.rank().saturating_sub(2);
            let Some(common) = common_shape(&tx.shape[..lead], &ty.shape[..batch]) else {
                return self.fail(spans.0, format!("the leading dimensions of {tx} and {ty} do not fit"), "here");
            };
            let full = |t: &snn_ir::Type| -> Vec<Dim> { common.iter().chain(&t.shape[t.rank().saturating_sub(2)..]).cloned().collect() };
            if tx.rank() < 2 {
                return self.fail(spans.0, format!("{tx} @ {ty}: the left operand needs two dimensions"), "here");
            }
            let (sx, sy) = (full(&tx), full(&ty));
            (self.broadcast(x, &sx, spans.0)?, self.broadcast(y, &sy, spans.1)?, common.len())
        } else {
            (x, y, 0)
        };
        let (rx, ry) = (self.ty(x).rank(), self.ty(y).rank());
        let c = Contraction {
            lhs_batch: (0..batch).collect(),
            rhs_batch: (0..batch).collect(),
            lhs_sum: vec![rx - 1],
            rhs_sum: vec![ry.saturating_sub(2)],
        };
        let v = self.emit(Op::Contract(c), &[x, y], spans.0)?;
        Ok(self.tensor(v))
    }
}

fn compare<T: PartialOrd>(op: BinaryOperator, x: T, y: T) -> Option<bool> {
    use BinaryOperator as B;
    Some(match op {
        B::Lt => x < y,
        B::Le => x <= y,
        B::Gt => x > y,
        B::Ge => x >= y,
        B::Eq => x == y,
        B::Ne => x != y,
        _ => return None,
    })
}

/// The remainder with the sign of the divisor.
fn float_rem(x: f64, y: f64) -> f64 {
    let r = x % y;
    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
}

/// The shape that two shapes broadcast to, aligned at the last axis.
pub(crate) fn common_shape(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map(|k| s[k].clone());
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (Some(x), Some(y)) if x == y || y.is_one() => Some(x),
            (Some(x), Some(y)) if x.is_one() => Some(y),
            (Some(_), Some(_)) => None,
            (Some(x), None) | (None, Some(x)) => Some(x),
            (None, None) => None,
        })
        .collect()
}

/// The numbers of a nested list in order, and its shape; false if it holds anything else or is ragged.
fn flatten_numbers(v: &Val, depth: usize, shape: &mut Vec<usize>, numbers: &mut Vec<Val>) -> bool {
    match v {
        Val::List(items) => {
            if shape.len() == depth {
                if !numbers.is_empty() {
                    return false;
                }
                shape.push(items.len());
            }
            shape[depth] == items.len() && items.iter().all(|i| flatten_numbers(i, depth + 1, shape, numbers))
        }
        Val::Int(d) if d.as_constant().is_none() => false,
        Val::Int(_) | Val::Float(_) | Val::Bool(_) => {
            numbers.push(v.clone());
            shape.len() == depth
        }
        _ => false,
    }
}

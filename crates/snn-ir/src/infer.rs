//! The types of results: what each operation demands of its operands and gives.

use std::fmt;

use crate::dim::Dim;
use crate::op::{BinaryOp, Op, UnaryOp};
use crate::types::{DType, Type, shape_text};

/// Why operands do not fit an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TypeError {
    /// What is wrong.
    pub message: String,
    /// The operands that it concerns.
    pub operands: Vec<usize>,
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Makes a [`TypeError`] about the given operands.
pub fn type_error<T>(message: impl Into<String>, operands: &[usize]) -> Result<T, TypeError> {
    Err(TypeError { message: message.into(), operands: operands.to_vec() })
}

/// The types of the results of `op`.
///
/// # Errors
/// If the number, types or shapes of the operands do not fit.
pub fn infer(op: &Op, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
    check_count(op, operands.len())?;
    let one = |t: Type| Ok(vec![t]);
    match op {
        Op::Input { ty, .. } | Op::Parameter { ty, .. } => one(ty.clone()),
        Op::Constant(t) => one(t.ty()),
        Op::Size(_) => one(Type::scalar(DType::I64)),
        Op::Iota { length } => one(Type::new(DType::I64, [length.clone()])),
        Op::Random { shape, .. } => one(Type::new(DType::F32, shape.clone())),
        Op::Unary(u) => {
            let t = operands[0];
            let fits = match u {
                UnaryOp::Not => t.dtype == DType::Bool,
                UnaryOp::Neg | UnaryOp::Abs => matches!(t.dtype, DType::F32 | DType::I64),
                UnaryOp::Detach => true,
                UnaryOp::Exp | UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Sin | UnaryOp::Cos => t.dtype == DType::F32,
                UnaryOp::Tanh | UnaryOp::Erf | UnaryOp::Floor | UnaryOp::Round => t.dtype == DType::F32,
            };
            if !fits {
                return type_error(format!("{u:?} does not take {} elements", t.dtype).to_lowercase(), &[0]);
            }
            one(t.clone())
        }
        Op::Binary(b) => binary(*b, operands[0], operands[1]),
        Op::Select => {
            let [c, a, b] = operands else { unreachable!() };
            if c.dtype != DType::Bool {
                return type_error(format!("a condition is bool, not {}", c.dtype), &[0]);
            }
            if a != b || a.shape != c.shape {
                return type_error(format!("the branches {a} and {b} and the condition {c} differ"), &[0, 1, 2]);
            }
            one((*a).clone())
        }
        Op::Cast { dtype } => one(operands[0].with_dtype(*dtype)),
        Op::Spike { .. } => {
            if operands[0].dtype != DType::F32 {
                return type_error(format!("spike takes f32, not {}", operands[0].dtype), &[0]);
            }
            one(operands[0].clone())
        }
        Op::Broadcast { axes, shape } => {
            let (from, to) = (operands[0], Type::new(operands[0].dtype, shape.clone()));
            let fits = axes.len() == from.rank()
                && axes.windows(2).all(|w| w[0] < w[1])
                && axes.iter().zip(&from.shape).all(|(a, d)| to.shape.get(*a).is_some_and(|n| n == d || d.is_one()));
            if !fits {
                return type_error(format!("{from} cannot be repeated to {to} along {axes:?}"), &[0]);
            }
            one(to)
        }
        Op::Reshape { shape } => {
            let (from, to) = (operands[0], Type::new(operands[0].dtype, shape.clone()));
            if Dim::product(&from.shape) != Dim::product(&to.shape) {
                return type_error(
                    format!("{from} has {} elements, {to} has {}", Dim::product(&from.shape), Dim::product(&to.shape)),
                    &[0],
                );
            }
            one(to)
        }
        Op::Transpose { permutation } => {
            let t = operands[0];
            let mut sorted = permutation.clone();
            sorted.sort_unstable();
            if sorted != (0..t.rank()).collect::<Vec<_>>() {
                return type_error(format!("{permutation:?} is not an order of the {} axes of {t}", t.rank()), &[0]);
            }
            one(Type::new(t.dtype, permutation.iter().map(|a| t.shape[*a].clone()).collect::<Vec<_>>()))
        }
        Op::Slice { axis, start, length, step } => {
            let from = operands[0];
            check_axis(*axis, from)?;
            let mut to = from.clone();
            to.shape[*axis] = length.clone();
            if *step < 1 || start.as_constant().is_some_and(|s| s < 0) {
                return type_error(format!("the slice {to} from {start} is not inside {from}"), &[0]);
            }
            let last = start.plus(&to.shape[*axis].minus(&1.into()).times(&(*step).into()));
            let inside = match from.shape[*axis].minus(&last).as_constant() {
                Some(room) => room >= 1 || to.shape[*axis].as_constant().is_some_and(|n| n <= 0),
                None => true,
            };
            if !inside {
                return type_error(format!("the slice {to} from {start} is not inside {from}"), &[0]);
            }
            one(to)
        }
        Op::Pad { axis, low, high, .. } => {
            let t = operands[0];
            check_axis(*axis, t)?;
            if low.as_constant().is_some_and(|n| n < 0) || high.as_constant().is_some_and(|n| n < 0) {
                return type_error("padding is not negative", &[0]);
            }
            let mut t = t.clone();
            t.shape[*axis] = t.shape[*axis].plus(low).plus(high);
            one(t)
        }
        Op::Concat { axis } => {
            let first = operands[0];
            check_axis(*axis, first)?;
            let mut t = first.clone();
            for (i, other) in operands.iter().enumerate().skip(1) {
                if !same_but(*axis, first, other) {
                    return type_error(format!("{first} and {other} differ beside axis {axis}"), &[0, i]);
                }
                t.shape[*axis] = t.shape[*axis].plus(&other.shape[*axis]);
            }
            one(t)
        }
        Op::Gather { axis } => one(gathered(*axis, operands[0], operands[1])?),
        Op::ScatterAdd { axis } => {
            let t = gathered(*axis, operands[0], operands[1])?;
            if t != *operands[2] {
                return type_error(format!("the updates are {}, not {t}", operands[2]), &[2]);
            }
            one(operands[0].clone())
        }
        Op::Window { axis, size, stride, dilation } => {
            let t = operands[0];
            check_axis(*axis, t)?;
            if *size < 1 || *stride < 1 || *dilation < 1 {
                return type_error("size, stride and dilation of a window are at least 1", &[0]);
            }
            let mut t = t.clone();
            t.shape[*axis] =
                window_count(&t.shape[*axis], *size, *stride, *dilation).map_err(|m| TypeError { message: m, operands: vec![0] })?;
            t.shape.push((*size).into());
            one(t)
        }
        Op::MaxPoolGradient(p) => {
            let (x, y) = (operands[0], operands[1]);
            let lead = x.rank().checked_sub(p.axes.len());
            let fits = lead.is_some_and(|n| y.rank() == x.rank() && x.shape[..n] == y.shape[..n]);
            if operands.iter().any(|t| t.dtype != DType::F32) || !fits || operands[1] != operands[2] {
                return type_error(format!("the gradient of a pool of {x} does not take {y} and {}", operands[2]), &[0, 1, 2]);
            }
            if p.axes.iter().any(|a| a.size < 1 || a.stride < 1 || a.dilation < 1 || a.padding < 0) {
                return type_error("size, stride and dilation of a pool are at least 1, padding at least 0", &[]);
            }
            one(x.clone())
        }
        Op::Reduce { axes, .. } => {
            let t = operands[0];
            if !matches!(t.dtype, DType::F32 | DType::I64) {
                return type_error(format!("a reduction takes numbers, not {}", t.dtype), &[0]);
            }
            if axes.iter().any(|a| *a >= t.rank()) || !axes.windows(2).all(|w| w[0] < w[1]) {
                return type_error(format!("{axes:?} are not axes of {t}"), &[0]);
            }
            let shape: Vec<Dim> = t.shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect();
            one(Type::new(t.dtype, shape))
        }
        Op::ArgMax { axis } => {
            let t = operands[0];
            check_axis(*axis, t)?;
            let mut shape = t.shape.clone();
            shape.remove(*axis);
            one(Type::new(DType::I64, shape))
        }
        Op::CumSum { axis } => {
            check_axis(*axis, operands[0])?;
            if !matches!(operands[0].dtype, DType::F32 | DType::I64) {
                return type_error(format!("cumsum takes numbers, not {}", operands[0].dtype), &[0]);
            }
            one(operands[0].clone())
        }
        Op::Contract(c) => contraction(c, operands[0], operands[1]),
        Op::Conv(c) => convolution(c, operands[0], operands[1]),
        Op::ConvInputGradient(c) => {
            let x = Type::new(DType::F32, c.shape.clone());
            convolution_gradient(c, (&x, operands[1]), operands[0], &x)
        }
        Op::ConvWeightGradient(c) => {
            let w = Type::new(DType::F32, c.shape.clone());
            convolution_gradient(c, (operands[0], &w), operands[1], &w)
        }
        Op::Delay { steps } => {
            if operands[0].rank() == 0 {
                return type_error("a delay needs a time dimension, and this is a scalar", &[0]);
            }
            if *steps < 0 {
                return type_error(format!("a delay of {steps} steps would look into the future"), &[]);
            }
            one(operands[0].clone())
        }
        Op::FirstSpike { axis } => {
            check_axis(*axis, operands[0])?;
            one(operands[0].with_dtype(DType::Bool))
        }
        Op::RedundantOneHot { classes, repeat } => {
            let t = operands[0];
            if t.dtype != DType::I64 {
                return type_error(format!("labels are i64, not {}", t.dtype), &[0]);
            }
            if *classes < 1 || *repeat < 1 {
                return type_error(format!("{classes} classes of {repeat} columns: both must be at least 1"), &[]);
            }
            let mut shape = t.shape.clone();
            shape.push(Dim::constant(*classes).times(&(*repeat).into()));
            one(Type::new(DType::F32, shape))
        }
        Op::ThresholdMargin { .. } => {
            if operands[0].dtype != DType::F32 {
                return type_error(format!("a threshold margin takes a one-hot f32 label, not {}", operands[0].dtype), &[0]);
            }
            one(operands[0].clone())
        }
        Op::Scan(s) => scan(s, operands),
        Op::Loop(l) => repeated(l, operands),
    }
}

fn check_count(op: &Op, n: usize) -> Result<(), TypeError> {
    let wanted = match op {
        Op::Input { .. } | Op::Parameter { .. } | Op::Constant(_) | Op::Size(_) | Op::Iota { .. } | Op::Random { .. } => 0,
        Op::Binary(_) | Op::Gather { .. } | Op::Contract(_) => 2,
        Op::Conv(_) | Op::ConvInputGradient(_) | Op::ConvWeightGradient(_) => 2,
        Op::Select | Op::ScatterAdd { .. } | Op::MaxPoolGradient(_) => 3,
        Op::Concat { .. } => n.max(1),
        Op::Scan(s) => s.roles.first_state() + s.roles.states,
        Op::Loop(l) => l.roles.first_state() + l.roles.states,
        Op::Unary(_)
        | Op::Cast { .. }
        | Op::Spike { .. }
        | Op::Broadcast { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Slice { .. } => 1,
        Op::Pad { .. } | Op::Window { .. } | Op::Reduce { .. } | Op::ArgMax { .. } | Op::CumSum { .. } => 1,
        Op::Delay { .. } | Op::FirstSpike { .. } | Op::RedundantOneHot { .. } | Op::ThresholdMargin { .. } => 1,
    };
    if n == wanted { Ok(()) } else { type_error(format!("it takes {wanted} operand{}, not {n}", if wanted == 1 { "" } else { "s" }), &[]) }
}

fn check_axis(axis: usize, t: &Type) -> Result<(), TypeError> {
    if axis < t.rank() { Ok(()) } else { type_error(format!("{t} has no axis {axis}"), &[0]) }
}

fn same_but(axis: usize, a: &Type, b: &Type) -> bool {
    a.dtype == b.dtype && a.rank() == b.rank() && (0..a.rank()).all(|i| i == axis || a.shape[i] == b.shape[i])
}

fn binary(op: BinaryOp, a: &Type, b: &Type) -> Result<Vec<Type>, TypeError> {
    if a != b {
        return type_error(format!("the operands {a} and {b} differ"), &[0, 1]);
    }
    let is_number = matches!(a.dtype, DType::F32 | DType::I64);
    let fits = match op {
        BinaryOp::And | BinaryOp::Or => a.dtype == DType::Bool,
        BinaryOp::Eq | BinaryOp::Ne => true,
        BinaryOp::Div | BinaryOp::Pow => a.dtype == DType::F32,
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Rem | BinaryOp::Max | BinaryOp::Min => is_number,
        BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => is_number,
    };
    if !fits {
        return type_error(format!("{op:?} does not take {} elements", a.dtype).to_lowercase(), &[0, 1]);
    }
    Ok(vec![if op.is_comparison() { a.with_dtype(DType::Bool) } else { a.clone() }])
}

fn gathered(axis: usize, x: &Type, indices: &Type) -> Result<Type, TypeError> {
    check_axis(axis, x)?;
    if indices.dtype != DType::I64 {
        return type_error(format!("indices are i64, not {}", indices.dtype), &[1]);
    }
    let shape: Vec<Dim> = x.shape[..axis].iter().chain(&indices.shape).chain(&x.shape[axis + 1..]).cloned().collect();
    Ok(Type::new(x.dtype, shape))
}

/// How many windows an axis has.
///
/// # Errors
/// If it is shorter than one window.
pub fn window_count(length: &Dim, size: i64, stride: i64, dilation: i64) -> Result<Dim, String> {
    let extent = dilation.checked_mul(size - 1).and_then(|n| n.checked_add(1)).ok_or("the window is too large")?;
    let room = length.minus(&extent.into());
    if room.as_constant().is_some_and(|r| r < 0) {
        return Err(format!("a window of {extent} does not fit into {length} elements"));
    }
    Ok(room.floor_div(&stride.into()).plus(&1.into()))
}

fn contraction(c: &crate::op::Contraction, a: &Type, b: &Type) -> Result<Vec<Type>, TypeError> {
    if a.dtype != DType::F32 || b.dtype != DType::F32 {
        return type_error(format!("a product of tensors takes f32, not {} and {}", a.dtype, b.dtype), &[0, 1]);
    }
    let axes_fit = |axes: &[usize], t: &Type| axes.iter().all(|x| *x < t.rank());
    if !axes_fit(&c.lhs_batch, a) || !axes_fit(&c.lhs_sum, a) || !axes_fit(&c.rhs_batch, b) || !axes_fit(&c.rhs_sum, b) {
        return type_error(format!("{a} and {b} lack axes of the product"), &[0, 1]);
    }
    let distinct =
        |batch: &[usize], sum: &[usize]| batch.iter().chain(sum).collect::<std::collections::HashSet<_>>().len() == batch.len() + sum.len();
    if c.lhs_batch.len() != c.rhs_batch.len() || c.lhs_sum.len() != c.rhs_sum.len() {
        return type_error("a product pairs each axis of one operand with one of the other", &[0, 1]);
    }
    if !distinct(&c.lhs_batch, &c.lhs_sum) || !distinct(&c.rhs_batch, &c.rhs_sum) {
        return type_error("an axis of a product is paired twice", &[0, 1]);
    }
    let pairs = c.lhs_batch.iter().zip(&c.rhs_batch).chain(c.lhs_sum.iter().zip(&c.rhs_sum));
    for (i, j) in pairs {
        if a.shape[*i] != b.shape[*j] {
            return type_error(format!("{} of {a} does not match {} of {b}", a.shape[*i], b.shape[*j]), &[0, 1]);
        }
    }
    let (free_a, free_b) = c.free_axes(a.rank(), b.rank());
    let shape: Vec<Dim> =
        (c.lhs_batch.iter().chain(&free_a).map(|i| &a.shape[*i])).chain(free_b.iter().map(|i| &b.shape[*i])).cloned().collect();
    Ok(vec![Type::new(DType::F32, shape)])
}

fn convolution(c: &crate::op::Convolution, x: &Type, w: &Type) -> Result<Vec<Type>, TypeError> {
    let n = c.stride.len();
    if x.dtype != DType::F32 || w.dtype != DType::F32 {
        return type_error(format!("a convolution takes f32, not {} and {}", x.dtype, w.dtype), &[0, 1]);
    }
    if w.rank() != n + 2 || x.rank() < n + 1 || c.padding.len() != n || c.dilation.len() != n {
        return type_error(format!("a convolution over {n} axes does not fit {x} and weights {w}"), &[0, 1]);
    }
    if c.groups < 1 || c.stride.iter().chain(&c.dilation).any(|s| *s < 1) || c.padding.iter().any(|p| *p < 0) {
        return type_error("stride, dilation and groups are at least 1, padding at least 0", &[]);
    }
    let channels = x.rank() - n - 1;
    if x.shape[channels] != w.shape[1].times(&c.groups.into()) {
        return type_error(
            format!("the weights take {} channels, and {} has {}", w.shape[1].times(&c.groups.into()), x, x.shape[channels]),
            &[0, 1],
        );
    }
    if w.shape[0].as_constant().is_some_and(|o| o % c.groups != 0) {
        return type_error(format!("{} output channels do not divide into {} groups", w.shape[0], c.groups), &[1]);
    }
    let mut shape = x.shape.clone();
    shape[channels] = w.shape[0].clone();
    for i in 0..n {
        let Some(kernel) = w.shape[2 + i].as_constant() else {
            return type_error("the kernel of a convolution has a known size", &[1]);
        };
        let padded = x.shape[channels + 1 + i].plus(&c.padding[i].saturating_mul(2).into());
        shape[channels + 1 + i] =
            window_count(&padded, kernel, c.stride[i], c.dilation[i]).map_err(|m| TypeError { message: m, operands: vec![0] })?;
    }
    Ok(vec![Type::new(DType::F32, shape)])
}

/// The gradient of an operand of a convolution of `x` and `w`, whose result has the type of `g`.
fn convolution_gradient(c: &crate::op::Convolution, (x, w): (&Type, &Type), g: &Type, of: &Type) -> Result<Vec<Type>, TypeError> {
    let result = convolution(c, x, w).map_err(|e| TypeError { operands: vec![0, 1], ..e })?;
    if result[0] != *g {
        return type_error(format!("a convolution of {x} by {w} gives {}, not {g}", result[0]), &[0, 1]);
    }
    Ok(vec![of.clone()])
}

/// Does `from` broadcast against `to`, aligned at the last axis?
pub fn broadcasts(from: &[Dim], to: &[Dim]) -> bool {
    from.len() <= to.len() && from.iter().rev().zip(to.iter().rev()).all(|(a, b)| a == b || a.is_one())
}

fn scan(s: &crate::op::Scan, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
    if s.roles.sequences == 0 {
        return type_error("a scan needs at least one sequence", &[]);
    }
    let first = operands[0];
    if first.rank() == 0 {
        return type_error("a neuron needs a time dimension first, and its input is a scalar", &[0]);
    }
    for (i, t) in operands.iter().enumerate().take(s.roles.sequences).skip(1) {
        if t.shape != first.shape {
            return type_error(format!("the inputs {first} and {t} differ"), &[0, i]);
        }
    }
    let element = &first.shape[1..];
    for (i, t) in operands.iter().enumerate().skip(s.roles.sequences) {
        if !broadcasts(&t.shape, element) {
            return type_error(format!("{t} does not broadcast against the state {}", shape_text(element)), &[0, i]);
        }
    }
    let inputs = &s.body.inputs;
    if inputs.len() != operands.len() || s.body.outputs.len() != s.roles.outputs + s.roles.states {
        return type_error("the step function has other inputs or outputs than the scan", &[]);
    }
    for (i, (t, v)) in operands.iter().zip(inputs).enumerate() {
        if *s.body.ty(*v) != Type::scalar(t.dtype) {
            return type_error(format!("the step function takes {}, not {}", s.body.ty(*v), t.dtype), &[i]);
        }
    }
    let results = s.body.outputs.iter().enumerate().map(|(i, (_, v))| {
        let shape = if i < s.roles.outputs { first.shape.clone() } else { element.to_vec() };
        Type::new(s.body.ty(*v).dtype, shape)
    });
    Ok(results.collect())
}

fn repeated(l: &crate::op::Loop, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
    let inputs = &l.body.inputs;
    if inputs.len() != operands.len() || l.body.outputs.len() != l.roles.outputs + l.roles.states {
        return type_error("the body has other inputs or outputs than the loop", &[]);
    }
    for (i, (t, v)) in operands.iter().zip(inputs).enumerate() {
        let mut expected = (*t).clone();
        if i < l.roles.sequences {
            if t.rank() == 0 || t.shape[0] != l.steps {
                return type_error(format!("{t} does not have {} steps", l.steps), &[i]);
            }
            expected.shape[0] = 1.into();
        }
        if *l.body.ty(*v) != expected {
            return type_error(format!("the body takes {}, not {expected}", l.body.ty(*v)), &[i]);
        }
    }
    let mut results = Vec::new();
    for (i, (name, v)) in l.body.outputs.iter().enumerate() {
        let mut t = l.body.ty(*v).clone();
        if i < l.roles.outputs {
            if t.shape.first().is_none_or(|d| !d.is_one()) {
                return type_error(format!("the output `{name}` of the body is {t}, not one step"), &[]);
            }
            t.shape[0] = l.steps.clone();
        } else if t != *operands[l.roles.first_state() + i - l.roles.outputs] {
            return type_error(format!("the state `{name}` changes its type to {t}"), &[]);
        }
        results.push(t);
    }
    Ok(results)
}

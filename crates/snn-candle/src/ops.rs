//! Movement, reductions and integer arithmetic as candle operations.

use candle_core::{DType as CandleType, Device, Result, Tensor};
use snn_ir::{BinaryOp, DType, Dims, Op, Reduction, Type, UnaryOp};

use crate::convert::candle_type;

/// The result of an operation, or nothing where candle has no way to compute it, or where it would be an error.
///
/// Operands are contiguous and so is the result.
pub fn evaluate(op: &Op, operands: &[&Tensor], dtypes: &[DType], ty: &Type, device: &Device) -> Result<Option<Tensor>> {
    let Ok(shape) = ty.sizes() else { return Ok(None) };
    let dtype = candle_type(ty.dtype);
    if shape.contains(&0) && !matches!(op, Op::ScatterAdd { .. } | Op::Gather { .. } | Op::RedundantOneHot { .. }) {
        return Tensor::zeros(shape, dtype, device).map(Some);
    }
    let sum = matches!(op, Op::Concat { .. } | Op::Reduce { kind: Reduction::Sum, .. });
    if !sum && operands.iter().any(|t| t.elem_count() == 0) {
        return Ok(None);
    }
    let constant = |d: &snn_ir::Dim| d.evaluate(&Dims::new()).ok().and_then(|n| usize::try_from(n).ok());
    let x = || operands[0].clone();
    let result = match op {
        Op::Iota { .. } => Tensor::arange(0i64, shape[0] as i64, device)?,
        Op::Unary(UnaryOp::Neg) => operands[0].zeros_like()?.sub(operands[0])?,
        Op::Unary(UnaryOp::Abs) => operands[0].maximum(&operands[0].zeros_like()?.sub(operands[0])?)?,
        Op::Unary(UnaryOp::Detach) => x(),
        Op::Binary(b) if dtypes[0] != DType::F32 => match binary(*b, operands[0], operands[1])? {
            Some(t) => t,
            None => return Ok(None),
        },
        Op::Select => operands[0].where_cond(operands[1], operands[2])?,
        Op::Cast { .. } => match cast(operands[0], dtypes[0], ty.dtype)? {
            Some(t) => t,
            None => return Ok(None),
        },
        Op::Broadcast { axes, .. } => {
            let mut aligned = vec![1; shape.len()];
            axes.iter().zip(operands[0].dims()).for_each(|(a, n)| aligned[*a] = *n);
            operands[0].reshape(aligned)?.broadcast_as(shape)?.contiguous()?
        }
        Op::Reshape { .. } => operands[0].reshape(shape)?,
        Op::Transpose { permutation } => operands[0].permute(permutation.as_slice())?.contiguous()?,
        Op::Slice { axis, start, step, .. } => {
            let Some(start) = constant(start) else { return Ok(None) };
            strided(operands[0], *axis, start, shape[*axis], *step as usize)?
        }
        Op::Pad { axis, low, high, value } => {
            let (Some(low), Some(high)) = (constant(low), constant(high)) else { return Ok(None) };
            let side = |n: usize| {
                let mut shape = shape.clone();
                shape[*axis] = n;
                Tensor::full(*value, shape, device)?.to_dtype(dtype)
            };
            let parts = [side(low)?, x(), side(high)?];
            joined(&parts, *axis)?
        }
        Op::Concat { axis } => joined(&operands.iter().map(|t| (*t).clone()).collect::<Vec<_>>(), *axis)?,
        Op::Gather { axis } => {
            if !within(operands[1], operands[0].dims()[*axis])? {
                return Ok(None);
            }
            operands[0].index_select(&operands[1].flatten_all()?, *axis)?.reshape(shape)?
        }
        Op::ScatterAdd { axis } => {
            if !within(operands[1], shape[*axis])? {
                return Ok(None);
            }
            let mut flat = shape.clone();
            flat[*axis] = operands[1].elem_count();
            operands[0].index_add(&operands[1].flatten_all()?, &operands[2].reshape(flat)?, *axis)?
        }
        Op::Window { axis, size, stride, dilation } => {
            windows(operands[0], *axis, *size as usize, *stride as usize, *dilation as usize, shape[*axis])?
        }
        Op::Reduce { kind, axes } if dtypes[0] == DType::F32 => reduce(operands[0], *kind, axes)?.reshape(shape)?,
        Op::ArgMax { axis } if dtypes[0] == DType::F32 => first_largest(operands[0], *axis)?,
        Op::Delay { steps } => {
            let by = usize::try_from(*steps).unwrap_or(usize::MAX).min(shape[0]);
            let mut before = shape.clone();
            before[0] = by;
            let parts = [Tensor::zeros(before, dtype, device)?, operands[0].narrow(0, 0, shape[0] - by)?];
            joined(&parts, 0)?
        }
        Op::RedundantOneHot { classes, repeat } => {
            if !within(operands[0], *classes as usize)? {
                return Ok(None);
            }
            let width = (classes * repeat) as usize;
            let class: Vec<i64> = (0..width as i64).map(|i| i / repeat).collect();
            let class = Tensor::from_vec(class, (1, width), device)?;
            let labels = operands[0].to_dtype(CandleType::I64)?.flatten_all()?.unsqueeze(1)?;
            let n = labels.elem_count();
            let hits = labels.broadcast_as((n, width))?.eq(&class.broadcast_as((n, width))?)?;
            hits.to_dtype(CandleType::F32)?.reshape(shape)?
        }
        Op::ThresholdMargin { off, on } => {
            let ones = operands[0].eq(&operands[0].ones_like()?)?;
            let of = |value: f32| Tensor::full(value, shape.clone(), device);
            ones.where_cond(&of(*on)?, &of(*off)?)?
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// Arithmetic on integers. A remainder may be one by zero, and is not computed here.
fn binary(op: BinaryOp, a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    Ok(Some(match op {
        BinaryOp::Add => a.add(b)?,
        BinaryOp::Sub => a.sub(b)?,
        BinaryOp::Mul | BinaryOp::And => a.mul(b)?,
        BinaryOp::Max | BinaryOp::Or => a.maximum(b)?,
        BinaryOp::Min => a.minimum(b)?,
        BinaryOp::Eq => a.eq(b)?,
        BinaryOp::Ne => a.ne(b)?,
        BinaryOp::Lt => a.lt(b)?,
        BinaryOp::Le => a.le(b)?,
        BinaryOp::Gt => a.gt(b)?,
        BinaryOp::Ge => a.ge(b)?,
        BinaryOp::Div | BinaryOp::Rem | BinaryOp::Pow => return Ok(None),
    }))
}

/// Conversions whose meaning is the same on every device. Floats to integers saturate on some only.
fn cast(x: &Tensor, from: DType, to: DType) -> Result<Option<Tensor>> {
    Ok(match (from, to) {
        (_, DType::Bool) => Some(x.ne(&x.zeros_like()?)?),
        (DType::Bool | DType::U8, DType::U8) => Some(x.clone()),
        (DType::F32, DType::I64) if !x.device().is_cpu() => None,
        (_, DType::U8) => None,
        _ => Some(x.to_dtype(candle_type(to))?),
    })
}

/// Are all indices between 0 and `n - 1`?
fn within(indices: &Tensor, n: usize) -> Result<bool> {
    if indices.elem_count() == 0 {
        return Ok(true);
    }
    let flat = indices.flatten_all()?.to_dtype(CandleType::I64)?;
    let (low, high) = (flat.min(0)?.to_scalar::<i64>()?, flat.max(0)?.to_scalar::<i64>()?);
    Ok(low >= 0 && (high as u64) < n as u64)
}

fn joined(parts: &[Tensor], axis: usize) -> Result<Tensor> {
    let full: Vec<&Tensor> = parts.iter().filter(|t| t.elem_count() > 0).collect();
    match full.as_slice() {
        [one] => one.contiguous(),
        _ => Tensor::cat(&full, axis)?.contiguous(),
    }
}

/// `count` elements along an axis, from `start`, `step` apart.
fn strided(x: &Tensor, axis: usize, start: usize, count: usize, step: usize) -> Result<Tensor> {
    if step == 1 {
        return x.narrow(axis, start, count)?.contiguous();
    }
    let places: Vec<u32> = (0..count).map(|i| (start + i * step) as u32).collect();
    x.index_select(&Tensor::new(places, x.device())?, axis)
}

/// All windows of an axis; the place in the window is a new last axis.
fn windows(x: &Tensor, axis: usize, size: usize, stride: usize, dilation: usize, count: usize) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let whole = size == stride && dilation == 1;
    let split = if whole {
        x.narrow(axis, 0, count * size)?.contiguous()?
    } else {
        let places: Vec<u32> = (0..count).flat_map(|i| (0..size).map(move |k| (i * stride + k * dilation) as u32)).collect();
        x.index_select(&Tensor::new(places, x.device())?, axis)?
    };
    shape[axis] = count;
    shape.insert(axis + 1, size);
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.remove(axis + 1);
    order.push(axis + 1);
    split.reshape(shape)?.permute(order)?.contiguous()
}

/// Windows over the last two axes, reduced.
pub fn pool(x: &Tensor, kind: Reduction, output: [usize; 2], size: [usize; 2], stride: [usize; 2]) -> Result<Tensor> {
    let rank = x.rank();
    let y = windows(x, rank - 2, size[0], stride[0], 1, output[0])?;
    let y = windows(&y, rank - 1, size[1], stride[1], 1, output[1])?;
    reduce(&y, kind, &[rank, rank + 1])
}

/// Reduces axes, which vanish. A NaN is the largest and the smallest, as in PyTorch.
pub fn reduce(x: &Tensor, kind: Reduction, axes: &[usize]) -> Result<Tensor> {
    if kind == Reduction::Sum {
        // Long sums are accumulated in f64 where the device sums one after the other; a GPU sums in a tree.
        return match x.device() {
            Device::Cpu => x.to_dtype(CandleType::F64)?.sum(axes)?.to_dtype(CandleType::F32),
            _ => x.sum(axes),
        };
    }
    let mut y = x.clone();
    for axis in axes.iter().rev() {
        let missing = y.ne(&y)?.max(*axis)?;
        let best = if kind == Reduction::Max { y.max(*axis)? } else { y.min(*axis)? };
        y = missing.where_cond(&Tensor::full(f32::NAN, best.shape(), best.device())?, &best)?;
    }
    Ok(y)
}

/// The index of the first largest element; a NaN is the largest.
fn first_largest(x: &Tensor, axis: usize) -> Result<Tensor> {
    let n = x.dims()[axis];
    let missing = x.ne(x)?;
    let any_missing = missing.max_keepdim(axis)?.broadcast_as(x.shape())?.contiguous()?;
    let is_largest = x.eq(&x.max_keepdim(axis)?.broadcast_as(x.shape())?)?;
    let wanted = any_missing.where_cond(&missing, &is_largest)?;
    let mut along = vec![1; x.rank()];
    along[axis] = n;
    let place = Tensor::arange(0i64, n as i64, x.device())?.reshape(along)?.broadcast_as(x.shape())?.contiguous()?;
    let beyond = Tensor::full(n as i64, x.shape(), x.device())?;
    wanted.where_cond(&place, &beyond)?.min(axis)
}

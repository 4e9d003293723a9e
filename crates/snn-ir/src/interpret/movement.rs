//! Operations that move elements without computing.

use std::sync::Arc;

use crate::interpret::RuntimeError;
use crate::tensor::{Data, Tensor, element_count, row_major_strides};
use crate::types::DType;

/// The tensor whose element `i` is element `source(i)` of `x`, or `fill` where that is `None`.
fn pick(x: &Tensor, shape: &[usize], fill: f32, source: impl Fn(usize) -> Option<usize>) -> Tensor {
    let n = element_count(shape).unwrap_or(0);
    fn gather<T: Copy>(v: &[T], n: usize, fill: T, source: impl Fn(usize) -> Option<usize>) -> Arc<Vec<T>> {
        Arc::new((0..n).map(|i| source(i).map_or(fill, |s| v[s])).collect())
    }
    let data = match x.data() {
        Data::F32(v) => Data::F32(gather(v, n, fill, source)),
        Data::I64(v) => Data::I64(gather(v, n, fill as i64, source)),
        Data::Bool(v) => Data::Bool(gather(v, n, fill as u8, source)),
        Data::U8(v) => Data::U8(gather(v, n, fill as u8, source)),
    };
    Tensor::new(shape, data)
}

/// Picks with a stride of the source for each axis of the result, from an offset.
fn strided(x: &Tensor, shape: &[usize], offset: usize, strides: &[usize]) -> Tensor {
    let own = row_major_strides(shape);
    pick(x, shape, 0.0, |i| Some(offset + shape.iter().zip(&own).zip(strides).map(|((n, o), s)| i / o % n * s).sum::<usize>()))
}

pub(super) fn broadcast(x: &Tensor, axes: &[usize], shape: &[usize]) -> Tensor {
    let mut strides = vec![0; shape.len()];
    for ((axis, size), stride) in axes.iter().zip(x.shape()).zip(row_major_strides(x.shape())) {
        strides[*axis] = if *size == 1 { 0 } else { stride };
    }
    strided(x, shape, 0, &strides)
}

pub(super) fn transpose(x: &Tensor, permutation: &[usize]) -> Tensor {
    let from = row_major_strides(x.shape());
    let shape: Vec<usize> = permutation.iter().map(|a| x.shape()[*a]).collect();
    let strides: Vec<usize> = permutation.iter().map(|a| from[*a]).collect();
    strided(x, &shape, 0, &strides)
}

pub(super) fn slice(x: &Tensor, axis: usize, start: i64, step: i64, n: usize) -> Tensor {
    let mut strides = row_major_strides(x.shape());
    let offset = start as usize * strides[axis];
    strides[axis] *= step as usize;
    let mut shape = x.shape().to_vec();
    shape[axis] = n;
    strided(x, &shape, offset, &strides)
}

pub(super) fn pad(x: &Tensor, axis: usize, low: i64, n: usize, value: f32) -> Tensor {
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let (old, mut shape) = (x.shape()[axis], x.shape().to_vec());
    shape[axis] = n;
    pick(x, &shape, value, |i| {
        let (outer, at, rest) = (i / inner / n, (i / inner % n) as i64 - low, i % inner);
        (at >= 0 && (at as usize) < old).then(|| (outer * old + at as usize) * inner + rest)
    })
}

pub(super) fn concat(parts: &[&Tensor], axis: usize) -> Tensor {
    let first = parts[0].shape();
    let (outer, inner): (usize, usize) = (first[..axis].iter().product(), first[axis + 1..].iter().product());
    let mut shape = first.to_vec();
    shape[axis] = parts.iter().map(|p| p.shape()[axis]).sum();
    fn join<T: Copy>(parts: &[(&[T], usize)], outer: usize) -> Arc<Vec<T>> {
        let mut joined = Vec::with_capacity(parts.iter().map(|(v, _)| v.len()).sum());
        for o in 0..outer {
            parts.iter().for_each(|(v, n)| joined.extend_from_slice(&v[o * n..(o + 1) * n]));
        }
        Arc::new(joined)
    }
    macro_rules! joined {
        ($kind:ident) => {{
            let slices: Vec<_> = parts
                .iter()
                .map(|p| match p.data() {
                    Data::$kind(v) => (v.as_slice(), p.shape()[axis] * inner),
                    _ => unreachable!("the verifier demands one type"),
                })
                .collect();
            Data::$kind(join(&slices, outer))
        }};
    }
    let data = match parts[0].dtype() {
        DType::F32 => joined!(F32),
        DType::I64 => joined!(I64),
        DType::Bool => joined!(Bool),
        DType::U8 => joined!(U8),
    };
    Tensor::new(shape, data)
}

fn checked_indices(indices: &Tensor, size: usize) -> Result<Vec<usize>, RuntimeError> {
    let check = |value: i64| match usize::try_from(value) {
        Ok(i) if i < size => Ok(i),
        _ => Err(RuntimeError::IndexOutOfRange { value, last: size as i64 - 1 }),
    };
    indices.to_i64().into_iter().map(check).collect()
}

pub(super) fn gather(x: &Tensor, indices: &Tensor, axis: usize) -> Result<Tensor, RuntimeError> {
    let at = checked_indices(indices, x.shape()[axis])?;
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let shape: Vec<usize> = [&x.shape()[..axis], indices.shape(), &x.shape()[axis + 1..]].concat();
    let (outer, size) = (x.shape()[..axis].iter().product::<usize>(), x.shape()[axis]);
    fn rows<T: Copy>(v: &[T], at: &[usize], outer: usize, size: usize, inner: usize) -> Arc<Vec<T>> {
        let mut out = Vec::with_capacity(outer * at.len() * inner);
        for o in 0..outer {
            let plane = &v[o * size * inner..(o + 1) * size * inner];
            at.iter().for_each(|i| out.extend_from_slice(&plane[i * inner..(i + 1) * inner]));
        }
        Arc::new(out)
    }
    let data = match x.data() {
        Data::F32(v) => Data::F32(rows(v, &at, outer, size, inner)),
        Data::I64(v) => Data::I64(rows(v, &at, outer, size, inner)),
        Data::Bool(v) => Data::Bool(rows(v, &at, outer, size, inner)),
        Data::U8(v) => Data::U8(rows(v, &at, outer, size, inner)),
    };
    Ok(Tensor::new(shape, data))
}

pub(super) fn scatter_add(target: &Tensor, indices: &Tensor, updates: &Tensor, axis: usize) -> Result<Tensor, RuntimeError> {
    let at = checked_indices(indices, target.shape()[axis])?;
    let inner: usize = target.shape()[axis + 1..].iter().product();
    let (n, size) = (at.len(), target.shape()[axis]);
    // Row by row, in the order of the updates.
    fn rows<T: Copy>(to: &mut [T], v: &[T], at: &[usize], (n, size, inner): (usize, usize, usize), add: impl Fn(T, T) -> T) {
        if n * inner == 0 {
            return;
        }
        for (o, plane) in v.chunks(n * inner).enumerate() {
            for (row, i) in plane.chunks(inner).zip(at) {
                let start = (o * size + i) * inner;
                to[start..start + inner].iter_mut().zip(row).for_each(|(t, x)| *t = add(*t, *x));
            }
        }
    }
    let mut result = target.clone();
    match (result.data_mut(), updates.data()) {
        (Data::F32(to), Data::F32(v)) => rows(Arc::make_mut(to).as_mut_slice(), v, &at, (n, size, inner), |a, b| a + b),
        (Data::I64(to), Data::I64(v)) => rows(Arc::make_mut(to).as_mut_slice(), v, &at, (n, size, inner), i64::wrapping_add),
        _ => unreachable!("the verifier demands numbers of one type"),
    }
    Ok(result)
}

pub(super) fn window(x: &Tensor, axis: usize, size: i64, stride: i64, dilation: i64, count: usize) -> Tensor {
    let from = row_major_strides(x.shape());
    let (mut shape, mut strides) = (x.shape().to_vec(), from.clone());
    shape[axis] = count;
    strides[axis] = from[axis] * stride as usize;
    shape.push(size as usize);
    strides.push(from[axis] * dilation as usize);
    strided(x, &shape, 0, &strides)
}

pub(super) fn delay(x: &Tensor, steps: i64) -> Tensor {
    let inner: usize = x.shape()[1..].iter().product();
    let by = usize::try_from(steps).unwrap_or(usize::MAX).min(x.shape()[0]) * inner;
    pick(x, x.shape(), 0.0, |i| i.checked_sub(by))
}

//! Reductions, products and convolutions.

use crate::interpret::RuntimeError;
use crate::math::{Lanes, Scalar};
use crate::op::{Contraction, Convolution, Reduction};
use crate::tensor::{Data, Tensor, element_count, row_major_strides};

/// Sums of floats are accumulated in f64, so that long sums do not depend on their order.
pub(super) fn reduce(x: &Tensor, kind: Reduction, axes: &[usize]) -> Result<Tensor, RuntimeError> {
    let own = row_major_strides(x.shape());
    let kept: Vec<usize> = (0..x.shape().len()).filter(|a| !axes.contains(a)).collect();
    let shape: Vec<usize> = kept.iter().map(|a| x.shape()[*a]).collect();
    let out = row_major_strides(&shape);
    let place = |i: usize| kept.iter().zip(&out).map(|(a, o)| i / own[*a] % x.shape()[*a] * o).sum::<usize>();
    let n = element_count(&shape).unwrap_or(0);
    if kind != Reduction::Sum && x.is_empty() && n > 0 {
        return Err(RuntimeError::EmptyReduction(if kind == Reduction::Max { "maximum" } else { "minimum" }));
    }
    let l = &mut Scalar;
    Ok(match (kind, x.data()) {
        (Reduction::Sum, Data::F32(v)) => {
            let mut sums = vec![0f64; n];
            v.iter().enumerate().for_each(|(i, x)| sums[place(i)] += f64::from(*x));
            Tensor::f32(shape, sums.into_iter().map(|s| s as f32).collect())
        }
        (_, Data::F32(v)) => {
            let start = if kind == Reduction::Max { f32::NEG_INFINITY } else { f32::INFINITY };
            let mut best = vec![start; n];
            for (i, x) in v.iter().enumerate() {
                let b = &mut best[place(i)];
                *b = if kind == Reduction::Max { l.max(*b, *x) } else { l.min(*b, *x) };
            }
            Tensor::f32(shape, best)
        }
        (_, _) => {
            let v = x.to_i64();
            let start = match kind {
                Reduction::Sum => 0,
                Reduction::Max => i64::MIN,
                Reduction::Min => i64::MAX,
            };
            let mut best = vec![start; n];
            for (i, x) in v.iter().enumerate() {
                let b = &mut best[place(i)];
                *b = match kind {
                    Reduction::Sum => b.wrapping_add(*x),
                    Reduction::Max => (*b).max(*x),
                    Reduction::Min => (*b).min(*x),
                };
            }
            Tensor::i64(shape, best)
        }
    })
}

pub(super) fn argmax(x: &Tensor, axis: usize) -> Result<Tensor, RuntimeError> {
    let (n, inner) = (x.shape()[axis], x.shape()[axis + 1..].iter().product::<usize>());
    let mut shape = x.shape().to_vec();
    shape.remove(axis);
    let count = element_count(&shape).unwrap_or(0);
    if n == 0 && count > 0 {
        return Err(RuntimeError::EmptyReduction("argmax"));
    }
    let values = x.to_f32();
    let integers = matches!(x.data(), Data::I64(_)).then(|| x.to_i64());
    let larger = |a: usize, b: usize| match &integers {
        Some(v) => v[a] > v[b],
        None => values[a] > values[b] || (values[a].is_nan() && !values[b].is_nan()),
    };
    let best = |i: usize| {
        let at = |k: usize| (i / inner * n + k) * inner + i % inner;
        (1..n).fold(0, |best, k| if larger(at(k), at(best)) { k } else { best }) as i64
    };
    Ok(Tensor::i64(shape, (0..count).map(best).collect()))
}

pub(super) fn cumsum(x: &Tensor, axis: usize) -> Tensor {
    let (n, inner) = (x.shape()[axis], x.shape()[axis + 1..].iter().product::<usize>());
    let first = |i: usize| (i / inner).is_multiple_of(n);
    match x.data() {
        Data::F32(v) => {
            let mut sums = v.to_vec();
            (0..sums.len()).filter(|i| !first(*i)).for_each(|i| sums[i] += sums[i - inner]);
            Tensor::f32(x.shape(), sums)
        }
        _ => {
            let mut sums = x.to_i64();
            (0..sums.len()).filter(|i| !first(*i)).for_each(|i| sums[i] = sums[i].wrapping_add(sums[i - inner]));
            Tensor::i64(x.shape(), sums)
        }
    }
}

/// The offsets that a list of axes reaches, in row-major order.
fn offsets(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    let strides = row_major_strides(shape);
    axes.iter().fold(vec![0], |list, a| {
        list.iter().flat_map(|base| (0..shape[*a]).map(move |i| (base, i))).map(|(base, i)| base + i * strides[*a]).collect()
    })
}

/// Adds in the order of the summed axes, in f32.
pub(super) fn contract(a: &Tensor, b: &Tensor, c: &Contraction, shape: &[usize]) -> Tensor {
    let (free_a, free_b) = c.free_axes(a.shape().len(), b.shape().len());
    let [batch_a, rows, sum_a] = [&c.lhs_batch, &free_a, &c.lhs_sum].map(|axes| offsets(a.shape(), axes));
    let [batch_b, columns, sum_b] = [&c.rhs_batch, &free_b, &c.rhs_sum].map(|axes| offsets(b.shape(), axes));
    let (x, y) = (a.as_f32(), b.as_f32());
    let mut result = Vec::with_capacity(element_count(shape).unwrap_or(0));
    for (pa, pb) in batch_a.iter().zip(&batch_b) {
        for r in &rows {
            for q in &columns {
                let pairs = sum_a.iter().zip(&sum_b);
                result.push(pairs.fold(0f32, |sum, (i, j)| sum + x[pa + r + i] * y[pb + q + j]));
            }
        }
    }
    Tensor::f32(shape, result)
}

/// Adds channel by channel, and in each the kernel in row-major order, in f32.
pub(super) fn convolve(x: &Tensor, w: &Tensor, c: &Convolution, shape: &[usize]) -> Tensor {
    let n = c.stride.len();
    let lead = x.shape().len() - n - 1;
    let batch: usize = x.shape()[..lead].iter().product();
    let (channels, out_channels) = (x.shape()[lead], w.shape()[0]);
    let (in_space, out_space, kernel) = (&x.shape()[lead + 1..], &shape[lead + 1..], &w.shape()[2..]);
    let size = |s: &[usize]| s.iter().product::<usize>();
    let coordinates =
        |i: usize, space: &[usize]| -> Vec<usize> { row_major_strides(space).iter().zip(space).map(|(s, n)| i / s % n).collect() };
    let taps: Vec<Vec<usize>> = (0..size(kernel)).map(|k| coordinates(k, kernel)).collect();
    let in_strides = row_major_strides(in_space);
    let (xs, ws) = (x.as_f32(), w.as_f32());
    let per_group = w.shape()[1];
    let mut result = Vec::with_capacity(element_count(shape).unwrap_or(0));
    for b in 0..batch {
        for o in 0..out_channels {
            let group = o / (out_channels / c.groups as usize);
            for at in 0..size(out_space) {
                let place = coordinates(at, out_space);
                let mut sum = 0f32;
                for i in 0..per_group {
                    let plane = (b * channels + group * per_group + i) * size(in_space);
                    for (k, tap) in taps.iter().enumerate() {
                        let source = (0..n).try_fold(0usize, |offset, d| {
                            let p = (place[d] as i64 * c.stride[d] + tap[d] as i64 * c.dilation[d]) - c.padding[d];
                            (p >= 0 && (p as usize) < in_space[d]).then(|| offset + p as usize * in_strides[d])
                        });
                        if let Some(source) = source {
                            sum += xs[plane + source] * ws[(o * per_group + i) * taps.len() + k];
                        }
                    }
                }
                result.push(sum);
            }
        }
    }
    Tensor::f32(shape, result)
}

//! Reductions, products and convolutions.

use crate::interpret::RuntimeError;
use crate::math::{Lanes, Scalar};
use crate::op::{Contraction, Convolution, MaxPool, Reduction};
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
    fn best<T: Copy>(v: &[T], count: usize, n: usize, inner: usize, larger: impl Fn(T, T) -> bool) -> Vec<i64> {
        let best = |i: usize| {
            let at = |k: usize| v[(i / inner * n + k) * inner + i % inner];
            (1..n).fold(0, |best, k| if larger(at(k), at(best)) { k } else { best }) as i64
        };
        (0..count).map(best).collect()
    }
    let places = match x.data() {
        Data::F32(v) => best(v, count, n, inner, |a, b| a > b || (a.is_nan() && !b.is_nan())),
        Data::I64(v) => best(v, count, n, inner, |a, b| a > b),
        Data::Bool(v) | Data::U8(v) => best(v, count, n, inner, |a, b| a > b),
    };
    Ok(Tensor::i64(shape, places))
}

/// Running sums along an axis. Floats are accumulated in f64, as those of [`reduce`].
pub(super) fn cumsum(x: &Tensor, axis: usize) -> Tensor {
    match x.data() {
        Data::F32(v) => Tensor::f32(x.shape(), running(v, x.shape(), axis, 0f64, |sum, x| sum + f64::from(x), |sum| sum as f32)),
        Data::I64(_) | Data::Bool(_) | Data::U8(_) => integer_sums(x, axis),
    }
}

/// Running sums along an axis, step by step in the elements' own type: those that define a first spike.
pub(super) fn steps_summed(x: &Tensor, axis: usize) -> Tensor {
    match x.data() {
        Data::F32(v) => Tensor::f32(x.shape(), running(v, x.shape(), axis, 0f32, |sum, x| sum + x, |sum| sum)),
        Data::I64(_) | Data::Bool(_) | Data::U8(_) => integer_sums(x, axis),
    }
}

fn integer_sums(x: &Tensor, axis: usize) -> Tensor {
    Tensor::i64(x.shape(), running(&x.to_i64(), x.shape(), axis, 0i64, i64::wrapping_add, |sum| sum))
}

fn running<T: Copy, S: Copy>(v: &[T], shape: &[usize], axis: usize, zero: S, add: impl Fn(S, T) -> S, give: impl Fn(S) -> T) -> Vec<T> {
    let (n, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let mut out = v.to_vec();
    if n * inner == 0 {
        return out;
    }
    let mut sums = vec![zero; inner];
    for outer in out.chunks_mut(n * inner) {
        sums.fill(zero);
        for row in outer.chunks_mut(inner) {
            for (x, sum) in row.iter_mut().zip(&mut sums) {
                *sum = add(*sum, *x);
                *x = give(*sum);
            }
        }
    }
    out
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

/// The places of a convolution: which element of an image each output meets with each element of the kernel.
struct Places {
    groups: usize,
    channels: usize,
    out_channels: usize,
    plane: usize,
    out_plane: usize,
    /// For each output, for each element of the kernel in row-major order: where in a plane, unless it is padding.
    met: Vec<Vec<Option<usize>>>,
}

impl Places {
    /// Of the shapes of the input, the weights and the result.
    fn new(c: &Convolution, x: &[usize], w: &[usize], y: &[usize]) -> Places {
        let n = c.stride.len();
        let (space, out_space, kernel) = (&x[x.len() - n..], &y[y.len() - n..], &w[2..]);
        let size = |s: &[usize]| s.iter().product::<usize>();
        let coordinates =
            |i: usize, space: &[usize]| -> Vec<usize> { row_major_strides(space).iter().zip(space).map(|(s, n)| i / s % n).collect() };
        let taps: Vec<Vec<usize>> = (0..size(kernel)).map(|k| coordinates(k, kernel)).collect();
        let strides = row_major_strides(space);
        let place = |at: &[usize], tap: &[usize]| {
            (0..n).try_fold(0usize, |offset, d| {
                let p = at[d] as i64 * c.stride[d] + tap[d] as i64 * c.dilation[d] - c.padding[d];
                (p >= 0 && (p as usize) < space[d]).then(|| offset + p as usize * strides[d])
            })
        };
        let met = (0..size(out_space)).map(|q| {
            let at = coordinates(q, out_space);
            taps.iter().map(|tap| place(&at, tap)).collect()
        });
        Places {
            groups: c.groups as usize,
            channels: x[x.len() - n - 1],
            out_channels: w[0],
            plane: size(space),
            out_plane: size(out_space),
            met: met.collect(),
        }
    }

    /// Input channels of a group.
    fn per_group(&self) -> usize {
        self.channels / self.groups
    }

    /// The input channels that an output channel meets.
    fn meets(&self, o: usize) -> std::ops::Range<usize> {
        let first = o / (self.out_channels / self.groups) * self.per_group();
        first..first + self.per_group()
    }

    fn taps(&self) -> usize {
        self.met.first().map_or(0, Vec::len)
    }
}

/// Adds channel by channel, and in each the kernel in row-major order, in f32.
pub(super) fn convolve(x: &Tensor, w: &Tensor, c: &Convolution, shape: &[usize]) -> Tensor {
    let p = Places::new(c, x.shape(), w.shape(), shape);
    let (xs, ws) = (x.as_f32(), w.as_f32());
    let n = element_count(shape).unwrap_or(0);
    let mut result = Vec::with_capacity(n);
    for b in 0..n.checked_div(p.out_channels * p.out_plane).unwrap_or(0) {
        for o in 0..p.out_channels {
            for met in &p.met {
                let mut sum = 0f32;
                for (i, channel) in p.meets(o).enumerate() {
                    let plane = (b * p.channels + channel) * p.plane;
                    for (k, source) in met.iter().enumerate() {
                        // Padding is zeros, which are multiplied like all else.
                        let x = source.map_or(0.0, |source| xs[plane + source]);
                        sum += x * ws[(o * p.per_group() + i) * met.len() + k];
                    }
                }
                result.push(sum);
            }
        }
    }
    Tensor::f32(shape, result)
}

/// See [`crate::Op::ConvInputGradient`].
pub(super) fn convolution_input_gradient(g: &Tensor, w: &Tensor, c: &Convolution, shape: &[usize]) -> Tensor {
    let p = Places::new(c, shape, w.shape(), g.shape());
    let (gs, ws) = (g.as_f32(), w.as_f32());
    // What meets an element of a plane, kernel element by kernel element.
    let mut meeting: Vec<Vec<(usize, usize)>> = vec![Vec::new(); p.plane];
    for k in 0..p.taps() {
        for (q, met) in p.met.iter().enumerate() {
            if let Some(place) = met[k] {
                meeting[place].push((k, q));
            }
        }
    }
    let mut result = vec![0f32; element_count(shape).unwrap_or(0)];
    for (image, out) in result.chunks_exact_mut((p.channels * p.plane).max(1)).enumerate() {
        for o in 0..p.out_channels {
            let gradient = &gs[(image * p.out_channels + o) * p.out_plane..][..p.out_plane];
            for (i, channel) in p.meets(o).enumerate() {
                let kernel = &ws[(o * p.per_group() + i) * p.taps()..][..p.taps()];
                for (out, meeting) in out[channel * p.plane..][..p.plane].iter_mut().zip(&meeting) {
                    *out = meeting.iter().fold(*out, |sum, (k, q)| sum + gradient[*q] * kernel[*k]);
                }
            }
        }
    }
    Tensor::f32(shape, result)
}

/// See [`crate::Op::ConvWeightGradient`].
pub(super) fn convolution_weight_gradient(x: &Tensor, g: &Tensor, c: &Convolution, shape: &[usize]) -> Tensor {
    let p = Places::new(c, x.shape(), shape, g.shape());
    let (xs, gs) = (x.as_f32(), g.as_f32());
    let taps: usize = shape[2..].iter().product();
    let images = gs.len().checked_div(p.out_channels * p.out_plane).unwrap_or(0);
    let mut result = Vec::with_capacity(element_count(shape).unwrap_or(0));
    for o in 0..p.out_channels {
        for channel in p.meets(o) {
            for k in 0..taps {
                let mut sum = 0f32;
                for b in 0..images {
                    let plane = (b * p.channels + channel) * p.plane;
                    let gradient = &gs[(b * p.out_channels + o) * p.out_plane..][..p.out_plane];
                    let places = p.met.iter().zip(gradient).filter_map(|(met, g)| Some((met[k]?, g)));
                    sum = places.fold(sum, |sum, (place, g)| sum + xs[plane + place] * g);
                }
                result.push(sum);
            }
        }
    }
    Tensor::f32(shape, result)
}

/// See [`crate::Op::MaxPoolGradient`].
pub(super) fn max_pool_gradient(x: &Tensor, y: &Tensor, g: &Tensor, pool: &MaxPool) -> Tensor {
    let lead = x.shape().len() - pool.axes.len();
    let (space, windows) = (&x.shape()[lead..], &y.shape()[lead..]);
    let sizes: Vec<usize> = pool.axes.iter().map(|a| a.size as usize).collect();
    let product = |s: &[usize]| s.iter().product::<usize>();
    let (plane, few, taps) = (product(space), product(windows), product(&sizes));
    let (own, of_window, of_tap) = (row_major_strides(space), row_major_strides(windows), row_major_strides(&sizes));
    let (xs, ys, gs) = (x.as_f32(), y.as_f32(), g.as_f32());
    let mut out = vec![0f32; xs.len()];
    for p in 0..xs.len().checked_div(plane).unwrap_or(0) {
        for w in 0..few {
            let best = ys[p * few + w];
            let place = |k: usize| {
                (0..space.len()).try_fold(p * plane, |at, d| {
                    let (i, tap) = (w / of_window[d] % windows[d], k / of_tap[d] % sizes[d]);
                    pool.axes[d].place(i, tap, space[d]).map(|inside| at + inside * own[d])
                })
            };
            let hit = (0..taps).filter_map(place).find(|at| xs[*at] == best || xs[*at].is_nan() && best.is_nan());
            if let Some(at) = hit {
                out[at] += gs[p * few + w];
            }
        }
    }
    Tensor::f32(x.shape(), out)
}

//! The gradient of a max pool: in each window the first element that is the pool's result gets what the result got.

use rayon::prelude::*;
use snn_ir::PoolAxis;
use snn_ir::tensor::row_major_strides;
use snn_plan::max_pool::MaxPoolGradient;

use crate::simd::simd_dispatch;

/// Planes of fewer elements than this in all are computed by one thread.
const WORTH_A_THREAD: usize = 1 << 14;

/// The gradient of a max pool that is computed.
pub struct MaxPoolBackward<'a>(pub &'a MaxPoolGradient);

impl std::ops::Deref for MaxPoolBackward<'_> {
    type Target = MaxPoolGradient;

    fn deref(&self) -> &MaxPoolGradient {
        self.0
    }
}

/// What is pooled: numbers, or booleans.
pub trait Pooled: Copy + Send + Sync + Default {
    /// Is it the largest element of its window, which is `best`?
    fn is(self, best: Self) -> bool;
}

impl Pooled for f32 {
    fn is(self, best: f32) -> bool {
        (self == best) | self.is_nan()
    }
}

impl Pooled for u8 {
    fn is(self, best: u8) -> bool {
        self == best
    }
}

/// Memory of a thread.
#[derive(Default)]
pub struct Scratch<T> {
    notes: Notes<T>,
    rows: Rows<T>,
}

/// What is read: what was pooled, the results, and what they got.
#[derive(Clone, Copy)]
pub struct Sources<'a, T> {
    /// What was pooled.
    pub x: &'a [T],
    /// The results.
    pub y: &'a [T],
    /// What they got.
    pub gradient: &'a [f32],
}

impl MaxPoolBackward<'_> {
    /// Writes the gradient of `x` into `out`.
    pub fn execute<T: Pooled>(&self, sources: Sources<'_, T>, out: &mut [f32]) {
        if out.is_empty() || sources.y.is_empty() {
            return out.fill(0.0);
        }
        let unit = self.unit();
        let some = if self.tile() == Some([2, 2]) { (PAIRS / self.space[1]).max(1) } else { 1 };
        let one = |scratch: &mut Scratch<T>, (i, out): (usize, &mut [f32])| self.units(i * some, sources, out, scratch);
        let least = WORTH_A_THREAD.div_ceil(some * unit);
        out.par_chunks_mut(some * unit).enumerate().with_min_len(least).for_each_init(Scratch::default, one);
    }

    /// The elements of what can be computed by itself: the rows of one row of tiles, or a plane.
    fn unit(&self) -> usize {
        self.tile().map_or_else(|| self.space.iter().product(), |[height, _]| height * self.space[1])
    }

    /// Writes the gradient of the elements from `first` on, which begin a plane, into `out`, whole planes.
    pub fn part<T: Pooled>(&self, first: usize, sources: Sources<'_, T>, out: &mut [f32], scratch: &mut Scratch<T>) {
        if sources.y.is_empty() {
            return out.fill(0.0);
        }
        debug_assert!([first, out.len()].iter().all(|n| n.is_multiple_of(self.space.iter().product())), "parts are whole planes");
        self.units(first / self.unit(), sources, out, scratch);
    }

    /// The gradient of some units from number `first` on.
    fn units<T: Pooled>(&self, first: usize, sources: Sources<'_, T>, out: &mut [f32], scratch: &mut Scratch<T>) {
        let unit = self.unit();
        let of_windows = sources.y.len() / (sources.x.len() / unit);
        let count = out.len() / unit;
        let own = |i: usize, count: usize| Sources {
            x: &sources.x[i * unit..(i + count) * unit],
            y: &sources.y[i * of_windows..(i + count) * of_windows],
            gradient: &sources.gradient[i * of_windows..(i + count) * of_windows],
        };
        if self.tile() == Some([2, 2]) {
            let some = (PAIRS / self.space[1]).max(1);
            for (i, out) in out.chunks_mut(some * unit).enumerate() {
                let Sources { x, y, gradient } = own(first + i * some, out.len() / unit);
                squares(x, y, gradient, out, of_windows, &mut scratch.notes);
            }
            return;
        }
        for (i, out) in (first..first + count).zip(out.chunks_exact_mut(unit)) {
            match (self.tile(), self.pool.axes.as_slice()) {
                (Some(tile), _) => self.tiles(tile, own(i, 1), out),
                (None, [columns]) => self.plane([&ONE_ROW, columns], own(i, 1), out, &mut scratch.rows),
                (None, [rows, columns]) => self.plane([rows, columns], own(i, 1), out, &mut scratch.rows),
                (None, _) => self.general(own(i, 1), out),
            }
        }
    }

    /// One row of tiles.
    fn tiles<T: Pooled>(&self, [height, width]: [usize; 2], sources: Sources<'_, T>, out: &mut [f32]) {
        for (t, (y, gradient)) in sources.y.iter().zip(sources.gradient).enumerate() {
            let mut wanted = true;
            for row in 0..height {
                let at = row * self.space[1] + t * width;
                for (out, x) in out[at..at + width].iter_mut().zip(&sources.x[at..at + width]) {
                    let hit = wanted & x.is(*y);
                    wanted &= !hit;
                    *out = if hit { 0.0 + *gradient } else { 0.0 };
                }
            }
        }
    }

    /// A plane of windows over at most two axes that overlap, or have padding.
    fn plane<T: Pooled>(&self, axes: [&PoolAxis; 2], sources: Sources<'_, T>, out: &mut [f32], scratch: &mut Rows<T>) {
        let two = |sizes: &[usize]| if let [columns] = sizes { [1, *columns] } else { [sizes[0], sizes[1]] };
        let Sources { x, y, gradient } = sources;
        overlapping(axes, two(&self.space), two(&self.windows)[1], (x, y, gradient), out, scratch);
    }

    /// A plane of windows over more axes, in their order.
    fn general<T: Pooled>(&self, sources: Sources<'_, T>, out: &mut [f32]) {
        let axes = self.pool.axes.len();
        let own = row_major_strides(&self.space);
        // For each axis and window: the positions of its elements that are not padding.
        let inside: Vec<Vec<Vec<usize>>> = (0..axes)
            .map(|d| {
                let a = &self.pool.axes[d];
                let positions = |i| (0..a.size as usize).filter_map(|k| a.place(i, k, self.space[d])).map(|p| p * own[d]).collect();
                (0..self.windows[d]).map(positions).collect()
            })
            .collect();
        out.fill(0.0);
        let mut at = vec![0; axes];
        for (y, gradient) in sources.y.iter().zip(sources.gradient) {
            let is_best = |i: &usize| sources.x[*i].is(*y);
            if let Some(i) = first(&inside, &at, 0, 0, &is_best) {
                out[i] += gradient;
            }
            for d in (0..axes).rev() {
                at[d] += 1;
                if at[d] < self.windows[d] {
                    break;
                }
                at[d] = 0;
            }
        }
    }
}

/// The first element of window `at` for which `is` holds, in row-major order.
fn first(inside: &[Vec<Vec<usize>>], at: &[usize], axis: usize, base: usize, is: &impl Fn(&usize) -> bool) -> Option<usize> {
    let positions = inside[axis][at[axis]].iter().map(|p| base + p);
    if axis + 1 == inside.len() {
        return positions.into_iter().find(is);
    }
    positions.into_iter().find_map(|p| first(inside, at, axis + 1, p, is))
}

/// The bytes that a thread takes for the gradient of a pool.
pub fn bytes(plan: &MaxPoolGradient) -> usize {
    let plane: usize = plan.space.iter().product();
    match (plan.tile(), plan.space.last()) {
        (Some([2, 2]), Some(columns)) => size_of::<[u64; 2]>() * PAIRS.max(2 * columns),
        (Some(_), _) | (None, None) => 0,
        (None, Some(_)) => {
            let taps: usize = plan.pool.axes.iter().map(|a| a.size as usize).product();
            let row = plan.windows.last().copied().unwrap_or(0);
            size_of::<f32>().saturating_mul((taps + 1).saturating_mul(row).saturating_add(plane.saturating_mul(2)))
        }
    }
}

/// The axis of rows where there is only one.
const ONE_ROW: PoolAxis = PoolAxis { size: 1, stride: 1, dilation: 1, padding: 0 };

/// What a thread notes of a plane. The columns of a row that are a stride apart lie side by side.
#[derive(Default)]
struct Rows<T> {
    x: Vec<T>,
    out: Vec<f32>,
    /// For each element of a window, where it is the first that is the result, along a row of windows.
    hits: Vec<u32>,
    /// Which windows have none yet.
    open: Vec<u32>,
}

/// Along a row of windows, one of their elements: it is in windows `first..end`, and in the first of these at `at`; those of the next follow.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    end: usize,
    at: usize,
}

impl Run {
    /// Element `k` of the windows of an axis.
    fn new(axis: &PoolAxis, k: i64, space: usize, windows: usize) -> Run {
        let (offset, stride) = (k * axis.dilation - axis.padding, axis.stride);
        let (phase, shift) = (offset.rem_euclid(stride), offset.div_euclid(stride));
        // How many columns there are of a phase, and of those before it.
        let length = |phase: i64| (space as i64 - phase + stride - 1).div_euclid(stride).max(0);
        let before: i64 = (0..phase).map(length).sum();
        let first = (-shift).clamp(0, windows as i64);
        let end = (length(phase) - shift).clamp(first, windows as i64);
        // What is padding in all windows is nowhere.
        let at = if first < end { before + shift + first } else { 0 };
        Run { first: first as usize, end: end as usize, at: at as usize }
    }
}

// Loops over indices, because iterators of a function as large as those below are called and not inlined, and then have no wide vectors.

/// Notes which elements are the first of their windows that are the result, and that these windows have one.
#[inline(always)]
fn note_first<T: Pooled>(hits: &mut [u32], open: &mut [u32], x: &[T], y: &[T]) {
    let n = hits.len();
    let (open, x, y) = (&mut open[..n], &x[..n], &y[..n]);
    for i in 0..n {
        hits[i] = open[i] & u32::from(x[i].is(y[i])).wrapping_neg();
        open[i] &= !hits[i];
    }
}

/// The elements of a row that are a stride apart, side by side.
#[inline(always)]
fn split<T: Copy>(row: &[T], stride: usize, mut to: &mut [T]) {
    for phase in 0..stride.min(row.len()) {
        let (own, rest) = to.split_at_mut((row.len() - phase).div_ceil(stride));
        own.iter_mut().zip(row[phase..].iter().step_by(stride)).for_each(|(to, x)| *to = *x);
        to = rest;
    }
}

/// [`split`] for a stride of two, for which there are instructions.
#[inline(always)]
fn split_pairs<T: Copy>(row: &[T], to: &mut [T]) {
    let (pairs, last) = row.as_chunks::<2>();
    let (even, odd) = to.split_at_mut(row.len().div_ceil(2));
    let (even, last_even) = even.split_at_mut(pairs.len());
    let odd = &mut odd[..pairs.len()];
    for i in 0..pairs.len() {
        [even[i], odd[i]] = pairs[i];
    }
    last_even.copy_from_slice(last);
}

/// The opposite of [`split`].
#[inline(always)]
fn join<T: Copy>(mut from: &[T], stride: usize, row: &mut [T]) {
    for phase in 0..stride.min(row.len()) {
        let (own, rest) = from.split_at((row.len() - phase).div_ceil(stride));
        row[phase..].iter_mut().step_by(stride).zip(own).for_each(|(to, x)| *to = *x);
        from = rest;
    }
}

/// The opposite of [`split_pairs`].
#[inline(always)]
fn join_pairs<T: Copy>(from: &[T], row: &mut [T]) {
    let (even, odd) = from.split_at(row.len().div_ceil(2));
    let (pairs, last) = row.as_chunks_mut::<2>();
    let (even, last_even) = even.split_at(pairs.len());
    let odd = &odd[..pairs.len()];
    for i in 0..pairs.len() {
        pairs[i] = [even[i], odd[i]];
    }
    last.copy_from_slice(last_even);
}

/// Adds gradients where a hit is noted.
#[inline(always)]
fn add_where(to: &mut [f32], hits: &[u32], gradient: &[f32]) {
    let n = hits.len();
    let (to, gradient) = (&mut to[..n], &gradient[..n]);
    for i in 0..n {
        to[i] += f32::from_bits(gradient[i].to_bits() & hits[i]);
    }
}

simd_dispatch! {
    /// One plane: in each row of windows first where the results come from, then what these places get, in the order of windows.
    fn overlapping<T: Pooled>(axes: [&PoolAxis; 2], space: [usize; 2], windows: usize, sources: (&[T], &[T], &[f32]), out: &mut [f32], scratch: &mut Rows<T>) {
        let ([rows, columns], [height, width], (x, y, gradient)) = (axes, space, sources);
        let stride = columns.stride as usize;
        scratch.x.resize(x.len(), T::default());
        for (row, to) in x.chunks_exact(width).zip(scratch.x.chunks_exact_mut(width)) {
            if stride == 2 { split_pairs(row, to) } else { split(row, stride, to) }
        }
        scratch.out.clear();
        scratch.out.resize(x.len(), 0.0);
        let size = columns.size as usize;
        scratch.hits.resize(rows.size as usize * size * windows, 0);
        let runs: Vec<Run> = (0..columns.size).map(|k| Run::new(columns, k, width, windows)).collect();
        for (i, (y, gradient)) in y.chunks_exact(windows).zip(gradient.chunks_exact(windows)).enumerate() {
            scratch.open.clear();
            scratch.open.resize(windows, u32::MAX);
            let lines = || (0..rows.size as usize).filter_map(|k| rows.place(i, k, height).map(|row| (k * size * windows, row * width)));
            for (noted, line) in lines() {
                for (run, hits) in runs.iter().zip(scratch.hits[noted..].chunks_exact_mut(windows)) {
                    let range = run.first..run.end;
                    note_first(&mut hits[range.clone()], &mut scratch.open[range.clone()], &scratch.x[line + run.at..], &y[range]);
                }
            }
            // An element is in later windows the further left it is in them.
            for (noted, line) in lines() {
                for (run, hits) in runs.iter().zip(scratch.hits[noted..].chunks_exact(windows)).rev() {
                    let range = run.first..run.end;
                    add_where(&mut scratch.out[line + run.at..], &hits[range.clone()], &gradient[range]);
                }
            }
        }
        for (to, from) in out.chunks_exact_mut(width).zip(scratch.out.chunks_exact(width)) {
            if stride == 2 { join_pairs(from, to) } else { join(from, stride, to) }
        }
    }
}

/// Pairs of columns that are looked at together, at least: what is noted of them stays in the L1 cache.
const PAIRS: usize = 512;

/// What is noted of some rows of tiles: numbers for the left and the right element of a pair of columns, in one word.
#[derive(Default)]
struct Notes<T> {
    best: Vec<T>,
    gradients: Vec<u64>,
    hits: Vec<u64>,
}

simd_dispatch! {
    /// Tiles of two by two, as those of most pools are: `width` in a row, some rows. Each pass is one operation on all pairs.
    fn squares<T: Pooled>(x: &[T], y: &[T], gradient: &[f32], out: &mut [f32], width: usize, notes: &mut Notes<T>) {
        let pairs = x.len() / 2;
        notes.best.resize(pairs, T::default());
        notes.gradients.resize(pairs, 0);
        notes.hits.resize(pairs, 0);
        let Notes { best, gradients, hits } = notes;
        let both = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        // Both rows of a tile see its result and its gradient.
        for (best, y) in best.chunks_exact_mut(2 * width).zip(y.chunks_exact(width)) {
            let (upper, lower) = best.split_at_mut(width);
            upper.copy_from_slice(y);
            lower.copy_from_slice(y);
        }
        for (to, gradient) in gradients.chunks_exact_mut(2 * width).zip(gradient.chunks_exact(width)) {
            let (upper, lower) = to.split_at_mut(width);
            upper.iter_mut().zip(gradient).for_each(|(to, g)| *to = both(g.to_bits(), g.to_bits()));
            lower.copy_from_slice(upper);
        }
        let rows = x.as_chunks::<2>().0;
        for ((hits, x), best) in hits.iter_mut().zip(rows).zip(&*best) {
            *hits = both(u32::from(x[0].is(*best)).wrapping_neg(), u32::from(x[1].is(*best)).wrapping_neg());
        }
        // The upper row comes before the lower, and in a row the left one first.
        for hits in hits.chunks_exact_mut(2 * width) {
            let (upper, lower) = hits.split_at_mut(width);
            lower.iter_mut().zip(upper).for_each(|(hits, above)| *hits &= !(*above | *above >> 32 | *above << 32));
        }
        for ((to, hits), gradient) in out.as_chunks_mut::<2>().0.iter_mut().zip(hits).zip(gradients) {
            let word = *gradient & *hits & !(*hits << 32);
            // A sum that begins with 0 is never -0.
            *to = [0.0 + f32::from_bits(word as u32), 0.0 + f32::from_bits((word >> 32) as u32)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snn_ir::interpret::{Randomness, evaluate};
    use snn_ir::math::{Lanes, Scalar};
    use snn_ir::{DType, MaxPool, Op, Tensor, Type};

    /// The largest element of each window; a NaN is larger than all.
    fn pooled(plan: &MaxPoolGradient, x: &[f32], planes: usize) -> Vec<f32> {
        let own = row_major_strides(&plan.space);
        let (plane, few) = (plan.space.iter().product::<usize>(), plan.windows.iter().product::<usize>());
        let taps: usize = plan.pool.axes.iter().map(|a| a.size as usize).product();
        let of_window = row_major_strides(&plan.windows);
        let of_tap = row_major_strides(&plan.pool.axes.iter().map(|a| a.size as usize).collect::<Vec<_>>());
        let window = |i: usize| {
            let place = |tap: usize| {
                let along = |(d, a): (usize, &PoolAxis)| {
                    a.place(i % few / of_window[d] % plan.windows[d], tap / of_tap[d] % a.size as usize, plan.space[d])
                        .map(|at| at * own[d])
                };
                plan.pool.axes.iter().enumerate().map(along).sum::<Option<usize>>().map(|at| x[i / few * plane + at])
            };
            (0..taps).filter_map(place).fold(f32::NEG_INFINITY, |a, b| Scalar.max(a, b))
        };
        (0..planes * few).map(window).collect()
    }

    #[test]
    fn gradients_are_those_of_the_interpreter_to_the_bit() {
        // Planes, sizes, and for each axis size, stride, dilation and padding of a window.
        type Case = (usize, &'static [usize], &'static [[i64; 4]]);
        let cases: [Case; 15] = [
            (3, &[6, 8], &[[2, 2, 1, 0], [2, 2, 1, 0]]),
            (50, &[4, 28], &[[2, 2, 1, 0], [2, 2, 1, 0]]),
            (2, &[2, 1100], &[[2, 2, 1, 0], [2, 2, 1, 0]]),
            (2, &[6, 9], &[[2, 2, 1, 0], [3, 3, 1, 0]]),
            (4, &[32, 32], &[[3, 2, 1, 1], [3, 2, 1, 1]]),
            (5, &[7, 10], &[[3, 1, 1, 0], [2, 1, 1, 0]]),
            (2, &[9, 11], &[[2, 1, 3, 1], [3, 2, 2, 1]]),
            (2, &[5, 3], &[[2, 4, 1, 0], [2, 5, 1, 1]]),
            (3, &[13], &[[4, 2, 1, 2]]),
            (3, &[12], &[[2, 2, 1, 0]]),
            (2, &[3, 5, 6], &[[2, 1, 1, 1], [2, 2, 1, 0], [3, 1, 1, 1]]),
            (1, &[4, 4], &[[1, 1, 1, 0], [1, 3, 1, 0]]),
            // Elements of windows that are always padding.
            (2, &[1, 1], &[[5, 1, 1, 2], [5, 1, 1, 2]]),
            (2, &[3, 2], &[[7, 1, 1, 3], [7, 2, 1, 3]]),
            // No windows.
            (2, &[2, 5], &[[3, 1, 1, 0], [2, 1, 1, 0]]),
        ];
        let mut next = crate::testing::numbers(7);
        for (planes, space, axes) in cases {
            let axis = |a: &[i64; 4]| PoolAxis { size: a[0], stride: a[1], dilation: a[2], padding: a[3] };
            let pool = MaxPool { axes: axes.iter().map(axis).collect() };
            let windows: Vec<usize> = axes
                .iter()
                .zip(space)
                .map(|([size, stride, dilation, padding], n)| ((*n as i64 + 2 * padding - dilation * (size - 1) - 1) / stride + 1) as usize)
                .collect();
            let of = |sizes: &[usize]| [&[planes], sizes].concat();
            let count = |sizes: &[usize]| of(sizes).iter().product::<usize>();
            // Few values, so that there are many ties.
            let values = [0.0, 1.0, -0.0, 2.0, f32::NAN, f32::NEG_INFINITY, 1.0, 0.0];
            let x: Vec<f32> = (0..count(space)).map(|_| values[(next() * 7.99) as usize]).collect();
            let nothing = snn_ir::Value { node: snn_ir::NodeId(0), result: 0 };
            let plan = MaxPoolGradient { x: nothing, y: nothing, gradient: nothing, pool: pool.clone(), space: space.to_vec(), windows };
            let y = pooled(&plan, &x, planes);
            let windows = &plan.windows;
            let g: Vec<f32> = (0..count(windows)).map(|_| if next() < 0.1 { -0.0 } else { next() - 0.5 }).collect();
            let tensors = [Tensor::f32(of(space), x.clone()), Tensor::f32(of(windows), y.clone()), Tensor::f32(of(windows), g.clone())];
            let ty = Type::new(DType::F32, of(space).iter().map(|n| (*n as i64).into()).collect::<Vec<_>>());
            let op = Op::MaxPoolGradient(pool);
            let want = evaluate(&op, &tensors.each_ref(), &[ty], &mut Randomness::Counter { seed: 0 }).unwrap().remove(0);
            for found in crate::simd::of_every_width(|| {
                let mut out = vec![f32::NAN; x.len()];
                MaxPoolBackward(&plan).execute(Sources { x: &x, y: &y, gradient: &g }, &mut out);
                Tensor::f32(want.shape().to_vec(), out)
            }) {
                assert!(found.same_bits(&want), "{planes} {space:?} {axes:?}");
            }
            let spikes: Vec<u8> = x.iter().map(|x| u8::from(*x > 0.0)).collect();
            let x: Vec<f32> = spikes.iter().map(|x| f32::from(*x)).collect();
            let y = pooled(&plan, &x, planes);
            let pooled: Vec<u8> = y.iter().map(|y| *y as u8).collect();
            let [mut found, mut want] = [vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]];
            MaxPoolBackward(&plan).execute(Sources { x: &spikes, y: &pooled, gradient: &g }, &mut found);
            MaxPoolBackward(&plan).execute(Sources { x: &x, y: &y, gradient: &g }, &mut want);
            assert!(found.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "booleans: {planes} {space:?} {axes:?}");
        }
    }
}

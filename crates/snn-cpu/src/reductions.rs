//! Reductions and pools with plain loops.

use rayon::prelude::*;
use snn_ir::Reduction;
use snn_ir::math::{Lanes, Scalar};
use snn_plan::reduction::{ReductionPlan, ReductionShape};

use crate::shared::offset;
use crate::simd::simd_dispatch;

/// Columns that are reduced together: their sums stay in the L1 cache.
const COLUMNS: usize = 512;
/// Fewer columns than this are reduced one by one.
const FEWEST_COLUMNS: usize = 8;
/// Fewer elements than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 15;

/// A reduction that is computed.
pub struct Reduce<'a>(pub &'a ReductionPlan);

impl std::ops::Deref for Reduce<'_> {
    type Target = ReductionPlan;

    fn deref(&self) -> &ReductionPlan {
        self.0
    }
}

impl Reduce<'_> {
    /// Reduces `x` into `out`. Sums are accumulated in f64 in the order of the elements.
    pub fn execute(&self, x: &[f32], out: &mut [f32]) {
        match &self.shape {
            ReductionShape::Block { reduced, inner } => {
                let outer = out.len().checked_div(*inner).unwrap_or(0);
                if out.is_empty() || *reduced == 0 {
                    out.fill(0.0);
                } else if *inner == 1 {
                    self.rows(x, out, *reduced);
                } else {
                    self.axes(x, out, &[(outer, reduced * inner), (*inner, 1)], &[(*reduced, *inner)]);
                }
            }
            ReductionShape::Axes { kept, reduced } => self.axes(x, out, kept, reduced),
            ReductionShape::Windows { input, output, size, stride } => {
                let (plane, out_plane) = (input[0] * input[1], output[0] * output[1]);
                if out_plane == 0 {
                    return;
                }
                let choose = match self.kind {
                    Reduction::Max => Some(largest_of_squares as Squares),
                    Reduction::Min => Some(smallest_of_squares as Squares),
                    Reduction::Sum => None,
                };
                if let (Some(choose), Some(some)) = (choose, self.squares()) {
                    // All rows of all planes follow each other.
                    let work = |(out, x): (&mut [f32], &[f32])| choose(x, out, output[1]);
                    out.par_chunks_mut(some).zip(x.par_chunks(4 * some)).with_min_len((1 << 13) / some + 1).for_each(work);
                    return;
                }
                let work = |(out, x): (&mut [f32], &[f32])| self.pool(x, out, input[1], output[1], *size, *stride);
                out.par_chunks_mut(out_plane).zip(x.par_chunks(plane)).with_min_len((1 << 13) / plane.max(1) + 1).for_each(work);
            }
        }
    }

    /// A max pool of booleans: is any of a window 1?
    pub fn any(&self, x: &[u8], out: &mut [u8]) {
        let ReductionShape::Windows { input, output, size, stride } = &self.shape else {
            unreachable!("only pools are planned of booleans")
        };
        let (plane, out_plane) = (input[0] * input[1], output[0] * output[1]);
        if out_plane == 0 {
            return;
        }
        if let Some(some) = self.squares() {
            let work = |(out, x): (&mut [u8], &[u8])| any_of_squares(x, out, output[1]);
            return out.par_chunks_mut(some).zip(x.par_chunks(4 * some)).with_min_len((1 << 15) / some + 1).for_each(work);
        }
        let work = |(out, x): (&mut [u8], &[u8])| pool_rows(x, out, input[1], output[1], *size, *stride, |a, b| a | b);
        out.par_chunks_mut(out_plane).zip(x.par_chunks(plane)).with_min_len((1 << 15) / plane.max(1) + 1).for_each(work);
    }

    /// How many windows of several whole rows are computed together, where these are squares of two by two that tile all planes.
    fn squares(&self) -> Option<usize> {
        let ReductionShape::Windows { input, output, size, stride } = &self.shape else { return None };
        let squares = *size == [2, 2] && *stride == [2, 2] && [0, 1].iter().all(|a| input[*a] == 2 * output[*a]);
        (squares && (1..=PAIRS).contains(&(2 * output[1]))).then(|| (PAIRS / (2 * output[1])) * output[1])
    }

    fn axes(&self, x: &[f32], out: &mut [f32], kept: &[(usize, usize)], reduced: &[(usize, usize)]) {
        if let Some(((width, 1), outer)) = kept.split_last()
            && *width >= FEWEST_COLUMNS
        {
            return self.columns(x, out, outer, *width, reduced);
        }
        let Some(((inner, step), outer)) = reduced.split_last() else { return };
        let rows: usize = outer.iter().map(|(n, _)| n).product();
        let one = |(i, value): (usize, &mut f32)| {
            let start = offset(kept.iter().copied(), i);
            let mut fold = Accumulator::new(self.kind);
            for row in 0..rows {
                let start = start + offset(outer.iter().copied(), row);
                if *step == 1 && self.kind == Reduction::Sum {
                    fold.sum += sum_of(&x[start..start + inner]);
                } else if *step == 1 {
                    x[start..start + inner].iter().for_each(|v| fold.add(*v));
                } else {
                    (0..*inner).for_each(|k| fold.add(x[start + k * step]));
                }
            }
            *value = fold.value();
        };
        if x.len() < WORTH_A_THREAD {
            out.iter_mut().enumerate().for_each(one);
        } else {
            out.par_iter_mut().enumerate().for_each(one);
        }
    }

    fn pool(&self, x: &[f32], out: &mut [f32], width: usize, out_width: usize, size: [usize; 2], stride: [usize; 2]) {
        match self.kind {
            Reduction::Max => return pool_rows(x, out, width, out_width, size, stride, |a, b| Scalar.max(a, b)),
            Reduction::Min => return pool_rows(x, out, width, out_width, size, stride, |a, b| Scalar.min(a, b)),
            Reduction::Sum => {}
        }
        for (oy, line) in out.chunks_exact_mut(out_width).enumerate() {
            for (ox, value) in line.iter_mut().enumerate() {
                let mut fold = Accumulator::new(self.kind);
                for y in 0..size[0] {
                    let start = (oy * stride[0] + y) * width + ox * stride[1];
                    for v in &x[start..start + size[1]] {
                        fold.add(*v);
                    }
                }
                *value = fold.value();
            }
        }
    }

    /// Whole rows are reduced. Long ones are summed in pieces of a fixed length, so that the result does not depend on threads.
    fn rows(&self, x: &[f32], out: &mut [f32], reduced: usize) {
        const PIECE: usize = 1 << 15;
        let some = match self.kind {
            Reduction::Sum if out.len() < 4 && reduced > PIECE => {
                for (value, row) in out.iter_mut().zip(x.chunks_exact(reduced)) {
                    let pieces: Vec<f64> = row.par_chunks(PIECE).map(sum_of).collect();
                    *value = pieces.iter().sum::<f64>() as f32;
                }
                return;
            }
            Reduction::Sum => sum_rows,
            Reduction::Max => largest_of_rows,
            Reduction::Min => smallest_of_rows,
        };
        if x.len() < PIECE {
            some(x, reduced, out);
        } else {
            let together = (PIECE / 2 / reduced).max(1);
            out.par_chunks_mut(together).zip(x.par_chunks(together * reduced)).for_each(|(out, x)| some(x, reduced, out));
        }
    }

    /// The last axis is kept: rows of `width` elements side by side are reduced element by element, in order.
    fn columns(&self, x: &[f32], out: &mut [f32], outer: &[(usize, usize)], width: usize, reduced: &[(usize, usize)]) {
        let rows: usize = reduced.iter().map(|(n, _)| n).product();
        let few = out.len() / width < 8;
        let block = if few { width.div_ceil(4).next_multiple_of(16).min(COLUMNS) } else { width.min(COLUMNS) };
        let blocks = |(o, row): (usize, _)| {
            let row: &mut [f32] = row;
            row.chunks_mut(block).enumerate().map(move |(c, out)| (o, c * block, out))
        };
        let tasks: Vec<(usize, usize, &mut [f32])> = out.chunks_mut(width).enumerate().flat_map(blocks).collect();
        let one = |(o, column, out): (usize, usize, &mut [f32])| {
            let first = offset(outer.iter().copied(), o) + column;
            let starts = Starts { first, reduced, rows };
            match self.kind {
                Reduction::Sum => sum_columns(x, starts, out),
                Reduction::Max => largest_of_columns(x, starts, out),
                Reduction::Min => smallest_of_columns(x, starts, out),
            }
        };
        if x.len() < WORTH_A_THREAD {
            tasks.into_iter().for_each(one);
        } else {
            tasks.into_par_iter().for_each(one);
        }
    }
}

/// Where the rows begin that are reduced.
#[derive(Clone, Copy)]
struct Starts<'a> {
    first: usize,
    reduced: &'a [(usize, usize)],
    rows: usize,
}

impl Starts<'_> {
    #[inline(always)]
    fn row<'x>(&self, x: &'x [f32], i: usize, width: usize) -> &'x [f32] {
        &x[self.first + offset(self.reduced.iter().copied(), i)..][..width]
    }
}

simd_dispatch! {
    fn sum_columns(x: &[f32], starts: Starts<'_>, out: &mut [f32]) {
        let mut sums = [0f64; COLUMNS];
        let (sums, width) = (&mut sums[..out.len()], out.len());
        let mut i = 0;
        // Four rows for each time that sums are read and written; each sum adds them in order.
        while i + 4 <= starts.rows {
            let [a, b, c, d] = [0, 1, 2, 3].map(|k| starts.row(x, i + k, width));
            for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum = *sum + f64::from(*a) + f64::from(*b) + f64::from(*c) + f64::from(*d);
            }
            i += 4;
        }
        while i < starts.rows {
            sums.iter_mut().zip(starts.row(x, i, width)).for_each(|(sum, x)| *sum += f64::from(*x));
            i += 1;
        }
        out.iter_mut().zip(sums).for_each(|(value, sum)| *value = *sum as f32);
    }
}

simd_dispatch! {
    fn largest_of_columns(x: &[f32], starts: Starts<'_>, out: &mut [f32]) {
        choose_columns(x, starts, out, f32::NEG_INFINITY, |a, b| Scalar.max(a, b));
    }
}

simd_dispatch! {
    fn smallest_of_columns(x: &[f32], starts: Starts<'_>, out: &mut [f32]) {
        choose_columns(x, starts, out, f32::INFINITY, |a, b| Scalar.min(a, b));
    }
}

#[inline(always)]
fn choose_columns(x: &[f32], starts: Starts<'_>, out: &mut [f32], start: f32, choose: impl Fn(f32, f32) -> f32) {
    out.fill(start);
    for i in 0..starts.rows {
        let row = starts.row(x, i, out.len());
        out.iter_mut().zip(row).for_each(|(best, x)| *best = choose(*best, *x));
    }
}

/// Floats of the rows of pairs that are held at once.
const PAIRS: usize = 2048;

/// A pool over squares of two by two: what is read, what is written, and how wide that is.
type Squares = fn(&[f32], &mut [f32], usize);

simd_dispatch! {
    fn largest_of_squares(x: &[f32], out: &mut [f32], out_width: usize) {
        squares(x, out, out_width, |a, b| Scalar.max(a, b));
    }
}

simd_dispatch! {
    fn smallest_of_squares(x: &[f32], out: &mut [f32], out_width: usize) {
        squares(x, out, out_width, |a, b| Scalar.min(a, b));
    }
}

simd_dispatch! {
    fn any_of_squares(x: &[u8], out: &mut [u8], out_width: usize) {
        squares(x, out, out_width, |a, b| a | b);
    }
}

/// First all pairs that lie side by side, in one long row, then those that lie one above the other.
#[inline(always)]
fn squares<T: Copy + Default>(x: &[T], out: &mut [T], out_width: usize, choose: impl Fn(T, T) -> T) {
    let mut pairs = [T::default(); PAIRS];
    let pairs = &mut pairs[..x.len() / 2];
    pairs.iter_mut().zip(x.as_chunks::<2>().0).for_each(|(best, pair)| *best = choose(pair[0], pair[1]));
    for (line, rows) in out.chunks_exact_mut(out_width).zip(pairs.chunks_exact(2 * out_width)) {
        let (upper, lower) = rows.split_at(out_width);
        line.iter_mut().zip(upper.iter().zip(lower)).for_each(|(value, (a, b))| *value = choose(*a, *b));
    }
}

/// A pool of a choice: first over the rows of each window, element by element, then along them.
fn pool_rows<T: Copy + Default>(
    x: &[T],
    out: &mut [T],
    width: usize,
    out_width: usize,
    size: [usize; 2],
    stride: [usize; 2],
    choose: impl Fn(T, T) -> T,
) {
    let mut best = vec![T::default(); width];
    for (oy, line) in out.chunks_exact_mut(out_width).enumerate() {
        let first = oy * stride[0] * width;
        best.copy_from_slice(&x[first..first + width]);
        for y in 1..size[0] {
            let row = &x[first + y * width..][..width];
            best.iter_mut().zip(row).for_each(|(b, v)| *b = choose(*b, *v));
        }
        for (ox, value) in line.iter_mut().enumerate() {
            let window = &best[ox * stride[1]..][..size[1]];
            *value = window[1..].iter().fold(window[0], |a, b| choose(a, *b));
        }
    }
}

simd_dispatch! {
    fn sum_rows(x: &[f32], reduced: usize, out: &mut [f32]) {
        for (value, row) in out.iter_mut().zip(x.chunks_exact(reduced)) {
            *value = sum(row) as f32;
        }
    }
}

simd_dispatch! {
    /// Adds the sums of rows, in f64, to every `apart`th of `sums`.
    pub fn add_rows(x: &[f32], reduced: usize, sums: &mut [f64], apart: usize) {
        for (i, row) in x.chunks_exact(reduced).enumerate() {
            sums[i * apart] += sum(row);
        }
    }
}

/// The sum of a row in f64.
fn sum_of(row: &[f32]) -> f64 {
    let mut total = [0.0];
    add_rows(row, row.len().max(1), &mut total, 1);
    total[0]
}

/// The sum of a row in f64, eight elements side by side: integers are exact, others within a rounding of f64.
#[inline(always)]
fn sum(row: &[f32]) -> f64 {
    let (blocks, rest) = row.as_chunks::<8>();
    let mut sums = [0f64; 8];
    for block in blocks {
        sums.iter_mut().zip(block).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    // One after the other: sums of pairs would have the compiler sort the elements of each block by pairs.
    sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x)).sum::<f64>()
}

simd_dispatch! {
    fn largest_of_rows(x: &[f32], reduced: usize, out: &mut [f32]) {
        choose_rows(x, reduced, out, f32::NEG_INFINITY, |a, b| Scalar.max(a, b));
    }
}

simd_dispatch! {
    fn smallest_of_rows(x: &[f32], reduced: usize, out: &mut [f32]) {
        choose_rows(x, reduced, out, f32::INFINITY, |a, b| Scalar.min(a, b));
    }
}

/// A choice for each row, eight elements side by side: which comes first makes no difference, to the bit.
#[inline(always)]
fn choose_rows(x: &[f32], reduced: usize, out: &mut [f32], start: f32, choose: impl Fn(f32, f32) -> f32) {
    for (value, row) in out.iter_mut().zip(x.chunks_exact(reduced)) {
        let (blocks, rest) = row.as_chunks::<8>();
        let mut best = [start; 8];
        for block in blocks {
            best.iter_mut().zip(block).for_each(|(best, x)| *best = choose(*best, *x));
        }
        best.iter_mut().zip(rest).for_each(|(best, x)| *best = choose(*best, *x));
        let [a, b, c, d, e, f, g, h] = best;
        *value = choose(choose(choose(a, b), choose(c, d)), choose(choose(e, f), choose(g, h)));
    }
}

#[derive(Clone, Copy)]
struct Accumulator {
    kind: Reduction,
    sum: f64,
    best: f32,
}

impl Accumulator {
    fn new(kind: Reduction) -> Accumulator {
        let best = if kind == Reduction::Max { f32::NEG_INFINITY } else { f32::INFINITY };
        Accumulator { kind, sum: 0.0, best }
    }

    #[inline]
    fn add(&mut self, x: f32) {
        match self.kind {
            Reduction::Sum => self.sum += f64::from(x),
            Reduction::Max => self.best = Scalar.max(self.best, x),
            Reduction::Min => self.best = Scalar.min(self.best, x),
        }
    }

    fn value(self) -> f32 {
        if self.kind == Reduction::Sum { self.sum as f32 } else { self.best }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_of_vectors_gives_the_same() {
        let numbers = [0.0, -0.0, 1.5, f32::NAN, f32::INFINITY, -3.0, 1e-40, f32::NEG_INFINITY, 2.0];
        let x: Vec<f32> = (0..8 * 76).map(|i| numbers[(i * i + i / 7) % numbers.len()]).collect();
        for (choose, plain) in [
            (largest_of_squares as Squares, (|a, b| Scalar.max(a, b)) as fn(f32, f32) -> f32),
            (smallest_of_squares, |a, b| Scalar.min(a, b)),
        ] {
            let found = crate::simd::of_every_width(|| {
                let mut out = vec![0f32; 4 * 38];
                choose(&x, &mut out, 38);
                out.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            });
            let mut want = vec![0f32; 4 * 38];
            pool_rows(&x, &mut want, 76, 38, [2, 2], [2, 2], plain);
            let want: Vec<u32> = want.into_iter().map(f32::to_bits).collect();
            assert!(found.iter().all(|f| *f == want));
        }
        type Rows = fn(&[f32], usize, &mut [f32]);
        type Choice = fn(f32, f32) -> f32;
        let bits = |rows: Rows, reduced: usize| {
            let mut out = vec![0f32; x.len() / reduced];
            rows(&x, reduced, &mut out);
            out.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        for reduced in [1, 3, 8, 19, 32] {
            let choices: [(Rows, f32, Choice); 2] =
                [(largest_of_rows, f32::NEG_INFINITY, |a, b| Scalar.max(a, b)), (smallest_of_rows, f32::INFINITY, |a, b| Scalar.min(a, b))];
            for (rows, start, plain) in choices {
                let want: Vec<u32> = x.chunks_exact(reduced).map(|row| row.iter().fold(start, |a, b| plain(a, *b)).to_bits()).collect();
                assert!(crate::simd::of_every_width(|| bits(rows, reduced)).iter().all(|f| *f == want), "{reduced}");
            }
        }
    }
}

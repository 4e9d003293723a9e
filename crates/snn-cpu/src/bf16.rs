//! Dense products of operands that are rounded to bf16, whose sums are f32: `--dtype bf16`.
//!
//! An instruction of AVX512_BF16 multiplies 32 pairs of numbers and adds them to 16 sums, where one of f32 has 16 of either: twice as many
//! in the same time. bf16 is the upper half of f32: 8 bits of a mantissa, so that a product is off by up to 2^-8 of itself; spikes and
//! integers up to 256 are exact.
#![allow(unsafe_code)]

use rayon::prelude::*;

use crate::panels::LANES;
use crate::products::{Matrix, MatrixMut};
use crate::shared::threads;
use crate::simd::simd_dispatch;

/// Numbers that an instruction multiplies for each sum.
const DEPTH: usize = 2;
/// Columns of a panel: four registers.
const WIDTH: usize = 4 * LANES;
/// Rows whose sums are in registers at a time.
const ROWS: usize = 6;
/// Rows of one task.
const BAND: usize = 16 * ROWS;
/// Fewer products than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 19;

/// Two numbers of bf16, the first in the lower half.
type Pair = [u16; DEPTH];

/// Has this processor products of bf16?
pub fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::Width;
        Width::of_this_processor() == Width::Avx512 && std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The nearest number of bf16, ties to even. Not a number stays so.
fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { bits >> 16 | 0x40 } else { nearest }) as u16
}

simd_dispatch! {
    /// Two rows of a matrix as pairs, column by column.
    fn pair_rows(first: &[f32], second: &[f32], to: &mut [Pair]) {
        for ((to, a), b) in to.iter_mut().zip(first).zip(second) {
            *to = [rounded(*a), rounded(*b)];
        }
    }
}

simd_dispatch! {
    /// A row as pairs of neighbours.
    fn pair_row(row: &[f32], to: &mut [Pair]) {
        let (pairs, rest) = row.as_chunks::<DEPTH>();
        for (to, pair) in to.iter_mut().zip(pairs) {
            *to = [rounded(pair[0]), rounded(pair[1])];
        }
        if let ([x], Some(last)) = (rest, to.last_mut()) {
            *last = [rounded(*x), 0];
        }
    }
}

/// `b[k, n]` as `[panel][k / DEPTH][WIDTH]`, filled up with zeros.
fn panels_of(b: Matrix<'_>, [k, n]: [usize; 2], to: &mut Vec<Pair>) {
    let depths = k.div_ceil(DEPTH);
    to.clear();
    to.resize(n.div_ceil(WIDTH) * depths * WIDTH, [0; DEPTH]);
    let mut rows = [[0f32; WIDTH]; DEPTH];
    for (p, panel) in to.chunks_exact_mut(depths * WIDTH).enumerate() {
        let width = WIDTH.min(n - p * WIDTH);
        for (d, to) in panel.chunks_exact_mut(WIDTH).enumerate() {
            for (i, row) in rows.iter_mut().enumerate() {
                let Some(values) = (d * DEPTH + i < k).then(|| &b.values[(d * DEPTH + i) * b.row + p * WIDTH * b.column..]) else {
                    row.fill(0.0);
                    continue;
                };
                if b.column == 1 {
                    row[..width].copy_from_slice(&values[..width]);
                } else {
                    row[..width].iter_mut().zip(values.iter().step_by(b.column)).for_each(|(to, x)| *to = *x);
                }
            }
            pair_rows(&rows[0][..width], &rows[1][..width], to);
        }
    }
}

/// Rows `first ..` of `a[m, k]` as `[row][k / DEPTH]`.
fn rows_of(a: Matrix<'_>, k: usize, first: usize, to: &mut [Pair]) {
    let depths = k.div_ceil(DEPTH);
    if a.column == 1 {
        for (i, to) in to.chunks_exact_mut(depths).enumerate() {
            pair_row(&a.values[(first + i) * a.row..][..k], to);
        }
        return;
    }
    // Column by column: those of a transposed matrix lie in memory as they are read.
    let height = to.len() / depths;
    let mut columns = [[0f32; BAND]; DEPTH];
    let mut pairs = [[0; DEPTH]; BAND];
    for d in 0..depths {
        for (i, column) in columns.iter_mut().enumerate() {
            let column = &mut column[..height];
            if d * DEPTH + i >= k {
                column.fill(0.0);
                continue;
            }
            let values = &a.values[first * a.row + (d * DEPTH + i) * a.column..];
            if a.row == 1 {
                column.copy_from_slice(&values[..height]);
            } else {
                column.iter_mut().zip(values.iter().step_by(a.row)).for_each(|(to, x)| *to = *x);
            }
        }
        pair_rows(&columns[0][..height], &columns[1][..height], &mut pairs);
        to.iter_mut().skip(d).step_by(depths).zip(&pairs).for_each(|(to, pair)| *to = *pair);
    }
}

/// Memory of one thread, which lasts as long as it.
#[derive(Default)]
struct Scratch {
    panels: Vec<Pair>,
    rows: Vec<Pair>,
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

/// `out[m, n] = a[m, k] b[k, n]` of rounded operands, or, where `add` is set, that is added; `divided` among threads where that pays.
pub fn multiply(k: usize, a: Matrix<'_>, b: Matrix<'_>, out: &mut MatrixMut<'_>, add: bool, divided: bool) {
    let [m, n] = out.sizes();
    let depths = k.div_ceil(DEPTH);
    // Taken out meanwhile: a thread that waits for others may begin another product.
    let mut scratch = SCRATCH.take();
    panels_of(b, [k, n], &mut scratch.panels);
    let panels = &scratch.panels;
    let task = |rows: &mut Vec<Pair>, (band, out): (usize, &mut [&mut [f32]])| {
        rows.resize(out.len() * depths, [0; DEPTH]);
        rows_of(a, k, band * BAND, rows);
        for (p, panel) in panels.chunks_exact(depths * WIDTH).enumerate() {
            for (rows, out) in rows.chunks(ROWS * depths).zip(out.chunks_mut(ROWS)) {
                let mut sums = [[0f32; WIDTH]; ROWS];
                sums_of(rows, panel, &mut sums);
                for (row, sums) in out.iter_mut().zip(&sums) {
                    let to = row[p * WIDTH..].iter_mut().zip(sums);
                    if add {
                        to.for_each(|(to, sum)| *to += sum);
                    } else {
                        to.for_each(|(to, sum)| *to = *sum);
                    }
                }
            }
        }
    };
    let mut rows = out.rows_mut();
    if divided && threads() > 1 && m * n * k > WORTH_A_THREAD {
        rows.par_chunks_mut(BAND).enumerate().for_each_init(Vec::new, task);
    } else {
        rows.chunks_mut(BAND).enumerate().for_each(|band| task(&mut scratch.rows, band));
    }
    SCRATCH.set(scratch);
}

/// The sums of up to [`ROWS`] rows `[row][depth]` in a panel.
fn sums_of(rows: &[Pair], panel: &[Pair], sums: &mut [[f32; WIDTH]; ROWS]) {
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        // SAFETY: the processor has been asked.
        return unsafe { avx512_bf16(rows, panel, sums) };
    }
    plain(rows, panel, sums);
}

fn plain(rows: &[Pair], panel: &[Pair], sums: &mut [[f32; WIDTH]; ROWS]) {
    let float = |x: u16| f32::from_bits(u32::from(x) << 16);
    for (row, sums) in rows.chunks_exact((panel.len() / WIDTH).max(1)).zip(sums) {
        for (x, weights) in row.iter().zip(panel.chunks_exact(WIDTH)) {
            for (sum, w) in sums.iter_mut().zip(weights) {
                *sum += float(x[1]) * float(w[1]);
                *sum += float(x[0]) * float(w[0]);
            }
        }
    }
}

/// As [`plain`]. It is bound by its products: 24 for four loads of weights.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn avx512_bf16(rows: &[Pair], panel: &[Pair], sums: &mut [[f32; WIDTH]; ROWS]) {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps as add_products, _mm512_loadu_si512 as load, _mm512_set1_epi32 as repeat,
        _mm512_setzero_ps as zero, _mm512_storeu_ps as store,
    };
    // SAFETY: both are 512 bits, of which every pattern is a value.
    let numbers = |x: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(x) };
    let depths = panel.len() / WIDTH;
    // A missing row is the first once more; its sums are not used.
    let mut row = [&rows[..depths]; ROWS];
    row.iter_mut().zip(rows.chunks_exact(depths.max(1))).for_each(|(row, own)| *row = own);
    let mut all = [[zero(); WIDTH / LANES]; ROWS];
    for (d, weights) in panel.as_chunks::<WIDTH>().0.iter().enumerate() {
        let mut w = [numbers(repeat(0)); WIDTH / LANES];
        for (w, weights) in w.iter_mut().zip(weights.as_chunks::<LANES>().0) {
            // SAFETY: 64 bytes are read from an array of 16 pairs.
            *w = numbers(unsafe { load(weights.as_ptr().cast()) });
        }
        for (row, sums) in row.iter().zip(&mut all) {
            let pair = row[d];
            let x = numbers(repeat((u32::from(pair[1]) << 16 | u32::from(pair[0])) as i32));
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = add_products(*sum, x, w);
            }
        }
    }
    for (sums, all) in sums.iter_mut().zip(all) {
        for (sums, sum) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(all) {
            // SAFETY: sixteen floats are written to an array of sixteen.
            unsafe { store(sums.as_mut_ptr(), sum) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbers;

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        let back = |x: f32| f32::from_bits(u32::from(rounded(x)) << 16);
        for x in [0.0, -0.0, 1.0, -2.5, 256.0, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(back(x).to_bits(), x.to_bits());
        }
        // Ties go to the even neighbour, and the largest numbers to infinity.
        assert_eq!([1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8)].map(back), [1.0, 1.0 + 2f32.powi(-6)]);
        assert_eq!(back(f32::MAX), f32::INFINITY);
        assert!(back(f32::NAN).is_nan() && back(f32::from_bits(0x7f80_0001)).is_nan());
    }

    #[test]
    fn products_are_those_of_rounded_numbers() {
        for (m, n, k) in [(1, 1, 1), (7, 65, 3), (6, 64, 128), (200, 70, 333), (97, 130, 64)] {
            let mut next = numbers((m * n + k) as u64);
            let a: Vec<f32> = (0..m * k).map(|_| next() - 0.5).collect();
            let b: Vec<f32> = (0..k * n).map(|_| next() - 0.5).collect();
            let near = |x: f32| f64::from(f32::from_bits(u32::from(rounded(x)) << 16));
            let sum = |i: usize| (0..k).map(|d| near(a[i / n * k + d]) * near(b[d * n + i % n])).sum::<f64>();
            let want: Vec<f64> = (0..m * n).map(sum).collect();
            // Operands as they are and transposed; a result by itself and added.
            let (at, bt): (Vec<f32>, Vec<f32>) =
                ((0..k * m).map(|i| a[i % m * k + i / m]).collect(), (0..n * k).map(|i| b[i % k * n + i / k]).collect());
            for transposed in [false, true] {
                let of = |values, row, column, t| Matrix {
                    values,
                    row: if transposed { 1 } else { row },
                    column: if transposed { t } else { column },
                };
                let (left, right) = if transposed { (&at, &bt) } else { (&a, &b) };
                let results = crate::simd::of_every_width(|| {
                    let mut out = vec![1f32; m * n];
                    multiply(k, of(left, k, 1, m), of(right, n, 1, k), &mut MatrixMut::new(&mut out, m, n, n), true, true);
                    out
                });
                for out in results {
                    assert!(out.iter().zip(&want).all(|(x, y)| (f64::from(*x) - 1.0 - y).abs() < 1e-5 * k as f64), "{m} {n} {k}");
                }
            }
        }
    }
}

//! Sums of products of a few rows, which stay in registers. Operands are read where they are: `gemm` copies both into an order of its own, which
//! takes most of the time where rows are few, and for a convolution windows have to be unrolled first. Here a list says where the
//! terms of a sum are, as in the *indirect convolution* of Dukhan (2019). Multiplying and adding bounds it, at what the processor can do, as long
//! as both operands are in the L1 or L2 cache.
#![allow(unsafe_code)]

/// Rows that are computed at a time.
pub const ROWS: usize = 8;
/// Columns of the result.
pub const COLUMNS: usize = 32;

/// A row of the result.
pub type Columns = [f32; COLUMNS];

/// Where the terms of a sum are.
#[derive(Debug)]
pub struct Terms {
    /// For each of some terms how far from the first element of a row of `a` and from the first of `b` its factors begin.
    pairs: Vec<[u32; 2]>,
    /// How often these follow each other, and how far apart then.
    times: usize,
    steps: [usize; 2],
    /// The last factors.
    last: [usize; 2],
}

impl Terms {
    /// Terms that follow each other `times` times, each time `steps` further.
    pub fn new(pairs: Vec<[u32; 2]>, times: usize, steps: [usize; 2]) -> Terms {
        let last = |i: usize| pairs.iter().map(|p| p[i] as usize).max().unwrap_or(0) + times.saturating_sub(1) * steps[i];
        Terms { last: [last(0), last(1)], pairs, times, steps }
    }
}

/// `c[m][n] += Σ a[m row + p] b[q + n]` over the terms, of up to [`ROWS`] rows, `c_row` apart.
pub fn add_products(terms: &Terms, a: &[f32], row: usize, b: &[f32], c: &mut [Columns], c_row: usize) {
    let rows = c.len().div_ceil(c_row);
    if rows == 0 || terms.times == 0 || terms.pairs.is_empty() {
        return;
    }
    assert!(rows <= ROWS && terms.last[0] + (rows - 1) * row < a.len() && terms.last[1] + COLUMNS <= b.len());
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::Width;
        match Width::of_this_processor() {
            // SAFETY: the processor has been asked, and the assertion bounds what is read.
            Width::Avx512 => return unsafe { avx512::rows(terms, a.as_ptr(), row, b.as_ptr(), c, c_row) },
            // SAFETY: as above.
            Width::Avx2 if multiplies_and_adds() => return unsafe { avx2::rows(terms, a.as_ptr(), row, b.as_ptr(), c, c_row) },
            Width::Avx2 | Width::Plain => {}
        }
    }
    plain(terms, a, row, b, c, c_row);
}

#[cfg(target_arch = "x86_64")]
fn multiplies_and_adds() -> bool {
    std::arch::is_x86_feature_detected!("fma")
}

/// Is [`add_products`] more than a loop, on this processor?
pub fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::simd::Width::of_this_processor() > crate::simd::Width::Plain && multiplies_and_adds();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// [`add_products`] for every processor.
fn plain(terms: &Terms, a: &[f32], row: usize, b: &[f32], c: &mut [Columns], c_row: usize) {
    for (m, c) in c.iter_mut().step_by(c_row).enumerate() {
        for time in 0..terms.times {
            for [p, q] in &terms.pairs {
                let a = a[m * row + time * terms.steps[0] + *p as usize];
                let b = &b[time * terms.steps[1] + *q as usize..];
                c.iter_mut().zip(b).for_each(|(c, b)| *c += a * b);
            }
        }
    }
}

/// [`add_products`] in vectors of some lanes: tiles of `$rows` rows and two vectors, whose sums are registers.
#[cfg(target_arch = "x86_64")]
macro_rules! vectors {
    ($name:ident, $features:literal, $lanes:literal, $rows:literal, $load:ident, $store:ident, $set:ident, $multiply_add:ident) => {
        mod $name {
            use std::arch::x86_64::{$load, $multiply_add, $set, $store};

            use super::{COLUMNS, Columns, Terms};

            /// # Safety
            /// The processor has to have the features, and the terms have to be inside of `a` for each row, and inside of `b`.
            #[target_feature(enable = $features)]
            pub unsafe fn rows(terms: &Terms, a: *const f32, row: usize, b: *const f32, c: &mut [Columns], c_row: usize) {
                for (i, c) in c.chunks_mut($rows * c_row).enumerate() {
                    for first in (0..COLUMNS).step_by(2 * $lanes) {
                        let a = a.wrapping_add(i * $rows * row);
                        // SAFETY: the tile has as many rows as `c`, and two vectors begin at its first column.
                        unsafe {
                            match c.len().div_ceil(c_row) {
                                1 => tile::<1>(terms, a, row, b, c, c_row, first),
                                2 => tile::<2>(terms, a, row, b, c, c_row, first),
                                3 => tile::<3>(terms, a, row, b, c, c_row, first),
                                4 => tile::<4>(terms, a, row, b, c, c_row, first),
                                5 => tile::<5>(terms, a, row, b, c, c_row, first),
                                6 => tile::<6>(terms, a, row, b, c, c_row, first),
                                7 => tile::<7>(terms, a, row, b, c, c_row, first),
                                _ => tile::<$rows>(terms, a, row, b, c, c_row, first),
                            }
                        }
                    }
                }
            }

            /// # Safety
            /// As for [`rows`], and `c` has to have that many rows, with two vectors from column `first` on.
            #[target_feature(enable = $features)]
            unsafe fn tile<const ROWS: usize>(
                terms: &Terms,
                a: *const f32,
                row: usize,
                b: *const f32,
                c: &mut [Columns],
                c_row: usize,
                first: usize,
            ) {
                // SAFETY: rows of `c` have two vectors there, and the terms are inside of `a` and `b`.
                unsafe {
                    let at = |row: &Columns| row.as_ptr().add(first);
                    let mut sums: [_; ROWS] = std::array::from_fn(|m| [$load(at(&c[m * c_row])), $load(at(&c[m * c_row]).add($lanes))]);
                    for time in 0..terms.times {
                        let (a, b) = (a.add(time * terms.steps[0]), b.add(time * terms.steps[1] + first));
                        for [p, q] in &terms.pairs {
                            let (a, b) = (a.add(*p as usize), b.add(*q as usize));
                            let b = [$load(b), $load(b.add($lanes))];
                            for m in 0..ROWS {
                                let a = $set(*a.add(m * row));
                                sums[m] = [$multiply_add(a, b[0], sums[m][0]), $multiply_add(a, b[1], sums[m][1])];
                            }
                        }
                    }
                    for m in 0..ROWS {
                        let to = c[m * c_row].as_mut_ptr().add(first);
                        $store(to, sums[m][0]);
                        $store(to.add($lanes), sums[m][1]);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
vectors!(avx512, "avx512f", 16, 8, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps);
#[cfg(target_arch = "x86_64")]
vectors!(avx2, "avx2,fma", 8, 4, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::of_every_width;

    #[test]
    fn tiles_are_sums_of_products() {
        let mut next = crate::testing::numbers(5);
        let values: Vec<f32> = (0..2000).map(|_| next() - 0.5).collect();
        for (rows, c_row) in (1..=ROWS).flat_map(|rows| [(rows, 1), (rows, 3)]) {
            for (pairs, times, steps) in
                [(vec![[0, 0]], 1, [0, 0]), (vec![[3, 64], [0, 7], [9, 128]], 5, [11, 70]), (vec![], 4, [1, 1]), (vec![[1, 2]], 0, [3, 3])]
            {
                let terms = Terms::new(pairs, times, steps);
                let c: Vec<Columns> = (0..(rows - 1) * c_row + 1).map(|_| std::array::from_fn(|_| next() - 0.5)).collect();
                let mut want = c.clone();
                plain(&terms, &values, 13, &values, &mut want, c_row);
                assert_eq!(want != c, terms.times * terms.pairs.len() > 0);
                for found in of_every_width(|| {
                    let mut found = c.clone();
                    add_products(&terms, &values, 13, &values, &mut found, c_row);
                    found
                }) {
                    let close = found.as_flattened().iter().zip(want.as_flattened()).all(|(a, b)| (a - b).abs() < 1e-5);
                    assert!(close, "{rows} rows, {terms:?}");
                }
            }
        }
    }
}

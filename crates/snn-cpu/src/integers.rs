//! Products of spikes, or of small counts, and integer weights, by the processor's dot products of bytes.
//!
//! Where weights are integers of 8 bits times a power of two for each column, as `--weights-dtype i8` makes them, and inputs are integers up to
//! [`LARGEST`], sums of so few terms that they stay below 2^24 are the same in integers and in f32, in every order: so the result is that of the
//! other ways to the bit. An instruction of AVX-512 VNNI multiplies and adds 64 pairs of bytes, four for each of 16 columns, where one of f32 has 16.
#![allow(unsafe_code)]

use rayon::prelude::*;

use crate::panels::LANES;
use crate::products::Matrix;
use crate::shared::threads;
use crate::simd::simd_dispatch;
use crate::spikes::Elements;

/// The largest input: two products of it and a weight fit in 16 bits, which AVX2 adds them in.
pub const LARGEST: u32 = 128;
/// Inputs that an instruction sums for each column.
pub const DEPTH: usize = 4;
/// Columns of a panel: four registers of AVX-512.
pub const WIDTH: usize = 4 * LANES;
/// Rows whose sums are in registers at a time.
const ROWS: usize = 6;
/// Rows of one task.
pub const BAND: usize = 16 * ROWS;
/// Fewer products than this are not worth a second thread.
pub const WORTH_A_THREAD: usize = 1 << 20;
/// Sums below it are exact in f32.
const EXACT: usize = 1 << 24;

/// Integer weights in panels.
#[derive(Debug)]
pub struct Integers {
    /// `[panel][inputs / DEPTH][WIDTH][DEPTH]`, filled up with zeros.
    data: Vec<i8>,
    /// The power of two of each column, filled up with zeros.
    scales: Vec<f32>,
    inputs: usize,
    columns: usize,
}

/// The largest power of two that a float is a multiple of, and how often; `None` for what is not finite.
fn power_of_two(x: f32) -> Option<(i32, u32)> {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32;
    let (mantissa, exponent) = if exponent == 0 { (bits & 0x7f_ffff, 1) } else { (bits & 0x7f_ffff | 0x80_0000, exponent) };
    let zeros = mantissa.trailing_zeros();
    (exponent < 0xff && mantissa != 0).then(|| (exponent + zeros as i32, mantissa >> zeros))
}

impl Integers {
    /// The integers of a matrix `[inputs, columns]`; `None` where they are none of 8 bits.
    pub fn new(w: Matrix<'_>, sizes: [usize; 2]) -> Option<Integers> {
        Integers::of(|i, o| w.values[i * w.row + o * w.column], sizes)
    }

    /// The integers of weights by their input and column.
    pub fn of(at: impl Fn(usize, usize) -> f32, [inputs, columns]: [usize; 2]) -> Option<Integers> {
        let depths = inputs.div_ceil(DEPTH);
        let panels = columns.div_ceil(WIDTH);
        let mut integers = Integers { data: vec![0; panels * depths * WIDTH * DEPTH], scales: vec![0.0; panels * WIDTH], inputs, columns };
        for o in 0..columns {
            let mut least = i32::MAX;
            for i in 0..inputs {
                let x = at(i, o);
                match power_of_two(x) {
                    // Most weights that are no integers end it here.
                    Some((_, odd)) if odd > 127 => return None,
                    Some((power, _)) => least = least.min(power),
                    None if x == 0.0 => {}
                    None => return None,
                }
            }
            // Sums of much larger ones might be infinite only for a while.
            if (250..i32::MAX).contains(&least) {
                return None;
            }
            // A column of zeros has any scale; powers are those of the last bit of a mantissa.
            let scale = if least == i32::MAX { 1.0 } else { (f64::from(least) - 150.0).exp2() as f32 };
            integers.scales[o] = scale;
            for i in 0..inputs {
                let q = at(i, o) / scale;
                if q.abs() > 127.0 {
                    return None;
                }
                integers.data[((o / WIDTH * depths + i / DEPTH) * WIDTH + o % WIDTH) * DEPTH + i % DEPTH] = q as i8;
            }
        }
        Some(integers)
    }

    /// Are sums with inputs up to `most` the same in f32?
    pub fn is_exact(&self, most: u32) -> bool {
        most <= LARGEST && most as usize * 127 * self.inputs < EXACT
    }

    /// How many instructions sum up a row.
    pub fn depths(&self) -> usize {
        self.inputs.div_ceil(DEPTH)
    }

    /// How many panels there are.
    pub fn panels(&self) -> usize {
        self.columns.div_ceil(WIDTH)
    }

    /// The power of two of each column of a panel.
    pub fn scales_of(&self, panel: usize) -> &[f32] {
        &self.scales[panel * WIDTH..][..WIDTH.min(self.columns - panel * WIDTH)]
    }

    /// Gives the sums of each row `[row][depth]`, of inputs up to `most`, in the columns of a panel.
    pub fn sums(&self, rows: &[[u8; DEPTH]], panel: usize, most: u32, mut act: impl FnMut(usize, &[i32; WIDTH])) {
        let (way, depths) = (Way::of_this_processor(), self.depths());
        let weights = &self.data.as_chunks::<DEPTH>().0.as_chunks::<WIDTH>().0[panel * depths..][..depths];
        let mut sums = [[0i32; WIDTH]; ROWS];
        for (i, rows) in rows.chunks(ROWS * depths).enumerate() {
            way.sums(rows, weights, &mut sums, most <= 1);
            sums[..rows.len() / depths].iter().enumerate().for_each(|(r, sums)| act(i * ROWS + r, sums));
        }
    }

    /// Bytes of weights `[inputs, columns]`.
    pub fn bytes([inputs, columns]: [usize; 2]) -> usize {
        columns.next_multiple_of(WIDTH).saturating_mul(inputs.next_multiple_of(DEPTH) + size_of::<f32>())
    }
}

/// Numbers as bytes, and the largest of them; a number that is no byte makes that larger than [`LARGEST`].
pub fn narrow(from: Elements<'_>, to: &mut [u8], most: &mut u32) {
    match from {
        Elements::Floats(from) => narrow_floats(from, to, most),
        Elements::Spikes(from) => {
            to[..from.len()].copy_from_slice(from);
            *most = (*most).max(1);
        }
    }
}

simd_dispatch! {
    fn narrow_floats(from: &[f32], to: &mut [u8], most: &mut u32) {
        let mut own = *most;
        for (to, x) in to.iter_mut().zip(from) {
            let whole = *x as i32;
            // A negative number is large too.
            own = own.max(if whole as f32 == *x { whole as u32 } else { u32::MAX });
            *to = whole as u8;
        }
        *most = own;
    }
}

/// Bytes that inputs take on so many threads.
pub fn scratch_bytes([rows, inputs]: [usize; 2], threads: usize) -> usize {
    rows.min(threads.saturating_mul(BAND)).saturating_mul(inputs.next_multiple_of(DEPTH))
}

/// Has this processor products of bytes?
pub fn are_fast() -> bool {
    Way::of_this_processor() != Way::Plain
}

/// Are products of bytes faster than adding the rows of active inputs, where so many are?
pub fn pay_at(density: f64) -> bool {
    match Way::of_this_processor() {
        Way::Plain => false,
        #[cfg(target_arch = "x86_64")]
        Way::Avx2 => density >= 0.5,
        #[cfg(target_arch = "x86_64")]
        Way::Vnni => density >= 0.25,
    }
}

/// `out[rows, columns]` of `x[rows, inputs]`; `false` where an input is none of the integers that are meant, or a sum may be too large.
pub fn product(x: Elements<'_>, w: &Integers, out: &mut [f32]) -> bool {
    let rows = x.len() / w.inputs;
    assert_eq!(out.len(), rows * w.columns, "the output has a place for every sum");
    if out.is_empty() {
        return true;
    }
    let stride = w.depths() * DEPTH;
    let band = rows.div_ceil(2 * threads().max(1)).next_multiple_of(ROWS).min(BAND);
    let (per, own) = (band * w.inputs, band * w.columns);
    let task = |bytes: &mut Vec<u8>, (i, out): (usize, &mut [f32])| {
        let x = x.range(i * per..x.len().min((i + 1) * per));
        bytes.resize(x.len() / w.inputs * stride, 0);
        let mut most = 0;
        for (row, x) in bytes.chunks_exact_mut(stride).zip(x.chunks(w.inputs)) {
            narrow(x, row, &mut most);
        }
        if !w.is_exact(most) {
            return false;
        }
        for panel in 0..w.panels() {
            let scales = w.scales_of(panel);
            w.sums(bytes.as_chunks::<DEPTH>().0, panel, most, |r, sums| {
                let to = &mut out[r * w.columns + panel * WIDTH..][..scales.len()];
                to.iter_mut().zip(sums).zip(scales).for_each(|((to, sum), scale)| *to = *sum as f32 * scale);
            });
        }
        true
    };
    if threads() > 1 && rows * w.inputs * w.columns > WORTH_A_THREAD {
        out.par_chunks_mut(own).enumerate().map_init(Vec::new, task).all(|done| done)
    } else {
        let mut bytes = Vec::new();
        out.chunks_mut(own).enumerate().all(|part| task(&mut bytes, part))
    }
}

/// Which instructions sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    /// Products of two bytes added to 16 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Products of four bytes added to 32 bits.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Way {
    fn of_this_processor() -> Way {
        #[cfg(target_arch = "x86_64")]
        {
            use crate::simd::Width;
            match Width::of_this_processor() {
                Width::Avx512 if std::arch::is_x86_feature_detected!("avx512vnni") => return Way::Vnni,
                Width::Avx512 | Width::Avx2 => return Way::Avx2,
                Width::Plain => {}
            }
        }
        Way::Plain
    }

    /// The sums of up to [`ROWS`] rows `[row][depth]` in a panel; `ones` where no input is more than 1.
    fn sums(self, rows: &[[u8; DEPTH]], weights: &[[[i8; DEPTH]; WIDTH]], sums: &mut [[i32; WIDTH]; ROWS], ones: bool) {
        match self {
            Way::Plain => plain(rows, weights, sums),
            // SAFETY: the processor has been asked.
            #[cfg(target_arch = "x86_64")]
            Way::Avx2 => unsafe { avx2(rows, weights, sums, ones) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Way::Vnni => unsafe { vnni(rows, weights, sums) },
        }
        let _ = ones;
    }
}

fn plain(rows: &[[u8; DEPTH]], weights: &[[[i8; DEPTH]; WIDTH]], sums: &mut [[i32; WIDTH]; ROWS]) {
    for (row, sums) in rows.chunks(weights.len().max(1)).zip(sums) {
        *sums = [0; WIDTH];
        for (x, weights) in row.iter().zip(weights) {
            for (sum, w) in sums.iter_mut().zip(weights) {
                *sum += x.iter().zip(w).map(|(x, w)| i32::from(*x) * i32::from(*w)).sum::<i32>();
            }
        }
    }
}

/// As [`plain`]. It is bound by its loads: four of weights for 24 instructions that multiply.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn vnni(rows: &[[u8; DEPTH]], weights: &[[[i8; DEPTH]; WIDTH]], sums: &mut [[i32; WIDTH]; ROWS]) {
    use std::arch::x86_64::{
        _mm512_dpbusd_epi32 as add_products, _mm512_loadu_si512 as load, _mm512_set1_epi32 as repeat, _mm512_setzero_si512 as zero,
        _mm512_storeu_si512 as store,
    };
    let depths = weights.len();
    // A missing row is the first once more; its sums are not used.
    let mut row = [&rows[..depths]; ROWS];
    row.iter_mut().zip(rows.chunks_exact(depths.max(1))).for_each(|(row, own)| *row = own);
    let mut all = [[zero(); WIDTH / LANES]; ROWS];
    for (d, weights) in weights.iter().enumerate() {
        let mut w = [zero(); WIDTH / LANES];
        for (w, weights) in w.iter_mut().zip(weights.as_chunks::<LANES>().0) {
            // SAFETY: 64 bytes are read from an array of 16 times 4.
            *w = unsafe { load(weights.as_ptr().cast()) };
        }
        for (row, sums) in row.iter().zip(&mut all) {
            let x = repeat(i32::from_le_bytes(row[d]));
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = add_products(*sum, x, w);
            }
        }
    }
    for (sums, all) in sums.iter_mut().zip(all) {
        for (sums, sum) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(all) {
            // SAFETY: sixteen integers are written to an array of sixteen.
            unsafe { store(sums.as_mut_ptr().cast(), sum) };
        }
    }
}

/// As [`plain`]: sums of a few steps in 16 bits, then in 32.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(rows: &[[u8; DEPTH]], weights: &[[[i8; DEPTH]; WIDTH]], sums: &mut [[i32; WIDTH]; ROWS], ones: bool) {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi16 as add, _mm256_add_epi32 as add_wide, _mm256_loadu_si256 as load, _mm256_madd_epi16 as pairs,
        _mm256_maddubs_epi16 as products, _mm256_set1_epi16 as repeat_short, _mm256_set1_epi32 as repeat, _mm256_setzero_si256 as zero,
        _mm256_storeu_si256 as store,
    };
    /// Columns of a register, and registers of a block of columns.
    const ACROSS: usize = 8;
    const TOGETHER: usize = 4;
    // Two products of a spike and a weight are at most 254 in size, and 128 of them fit in 16 bits.
    let steps = if ones { 128 } else { 1 };
    let depths = weights.len();
    let one = repeat_short(1);
    for first in (0..WIDTH).step_by(ACROSS * TOGETHER) {
        for (row, sums) in rows.chunks_exact(depths.max(1)).zip(sums.iter_mut()) {
            let mut wide = [zero(); TOGETHER];
            for (row, weights) in row.chunks(steps).zip(weights.chunks(steps)) {
                let mut short = [zero(); TOGETHER];
                for (x, weights) in row.iter().zip(weights) {
                    let x = repeat(i32::from_le_bytes(*x));
                    for (j, short) in short.iter_mut().enumerate() {
                        // SAFETY: eight columns of four bytes are read from an array of so many that this block is inside of it.
                        let w = unsafe { load(weights[first + j * ACROSS..][..ACROSS].as_ptr().cast::<__m256i>()) };
                        *short = add(*short, products(x, w));
                    }
                }
                for (wide, short) in wide.iter_mut().zip(short) {
                    *wide = add_wide(*wide, pairs(short, one));
                }
            }
            for (j, wide) in wide.iter().enumerate() {
                let to = &mut sums[first + j * ACROSS..][..ACROSS];
                // SAFETY: eight integers are written to a slice of eight.
                unsafe { store(to.as_mut_ptr().cast::<__m256i>(), *wide) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbers;

    /// Inputs up to `most` and weights `[columns, inputs]` of integers times powers of two.
    fn example(rows: usize, inputs: usize, columns: usize, most: f32) -> (Vec<f32>, Vec<f32>) {
        let mut next = numbers((rows * inputs + columns) as u64);
        let x = (0..rows * inputs).map(|_| (next() * (most + 1.0)).floor().min(most)).collect();
        let mut weight = |o: usize| (next() * 254.9 - 127.0).trunc() * ((o % 9) as f32 - 6.0).exp2();
        let w = (0..columns * inputs).map(|i| weight(i / inputs)).collect();
        (x, w)
    }

    fn integers(w: &[f32], [inputs, columns]: [usize; 2]) -> Option<Integers> {
        Integers::new(Matrix { values: w, row: 1, column: inputs }, [inputs, columns])
    }

    #[test]
    fn products_are_those_of_floats_to_the_bit() {
        for (rows, inputs, columns, most) in
            [(1, 1, 1, 1.0), (5, 70, 10, 1.0), (6, 784, 64, 1.0), (13, 1030, 65, 1.0), (97, 64, 130, 128.0), (200, 300, 33, 3.0)]
        {
            let (x, w) = example(rows, inputs, columns, most);
            let packed = integers(&w, [inputs, columns]).unwrap();
            let sum = |i: usize| (0..inputs).fold(0f32, |s, k| s + x[i / columns * inputs + k] * w[i % columns * inputs + k]);
            let want: Vec<u32> = (0..rows * columns).map(|i| sum(i).to_bits()).collect();
            let results = crate::simd::of_every_width(|| {
                let mut out = vec![f32::NAN; rows * columns];
                assert!(product(x[..].into(), &packed, &mut out));
                if most == 1.0 {
                    let (booleans, mut same): (Vec<u8>, _) = (x.iter().map(|x| *x as u8).collect(), vec![f32::NAN; rows * columns]);
                    assert!(product(Elements::Spikes(&booleans), &packed, &mut same) && same == out);
                }
                out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            });
            for got in results {
                assert!(got == want, "{rows} {inputs} {columns} {most}");
            }
        }
    }

    #[test]
    fn what_is_not_exact_is_refused() {
        assert!(integers(&[0.1, 0.5], [2, 1]).is_none());
        assert!(integers(&[1.0, 0.001_953_125], [2, 1]).is_none(), "a scale for both is none of 8 bits");
        assert!(integers(&[f32::NAN, 0.5], [2, 1]).is_none());
        assert!(integers(&[f32::INFINITY, 0.5], [2, 1]).is_none());
        assert!(integers(&[-0.0, 0.0], [2, 1]).is_some());
        assert!(integers(&[f32::from_bits(3), f32::from_bits(127)], [2, 1]).is_some());
        let packed = integers(&[127.0; 2000], [2000, 1]).unwrap();
        let mut out = [0.0];
        assert!(product([1.0; 2000][..].into(), &packed, &mut out) && out == [254_000.0]);
        for x in [0.5, -1.0, 129.0, f32::NAN, f32::INFINITY, 128.0] {
            assert!(!product([x; 2000][..].into(), &packed, &mut out), "{x}");
        }
    }
}

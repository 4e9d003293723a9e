//! Spikes as bits: found in a tensor of zeros and ones, a word for sixty-four inputs.
#![allow(unsafe_code)]

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::simd::Width;

/// Inputs of a word.
pub const WORD: usize = u64::BITS as usize;
/// Rows that are handled together.
const GROUP: usize = 128;
/// Above this density the dense product is faster.
pub const DENSEST: f64 = 0.6;
/// Elements that are looked at before the density is believed.
const SAMPLE: usize = 1 << 13;
/// Fewer elements than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 16;

/// Which elements of a matrix `[rows, inputs]` are spikes.
#[derive(Debug, Default)]
pub struct Spikes {
    /// `[group][word][row of the group]`, bit `i` of word `w` for input `w * per_word + i`.
    pub bits: Vec<u64>,
    /// How many rows there are.
    pub rows: usize,
    /// Rows of a group.
    pub group: usize,
    /// Words of a row.
    pub words: usize,
    /// How many spikes there are.
    pub count: usize,
}

impl Spikes {
    /// Finds the spikes of `x[rows, inputs]`; `None` where they are many, or a value is neither 0 nor 1.
    pub fn find(x: &[f32], inputs: usize) -> Option<Spikes> {
        if !are_few(x, inputs) {
            return None;
        }
        let rows = x.len() / inputs;
        let (group, words) = (rows.min(GROUP), inputs.div_ceil(WORD));
        let mut bits = vec![0u64; rows.div_ceil(group) * words * group];
        let looker = Looker::new();
        let part = |(x, bits): (&[f32], &mut [u64])| -> Option<usize> {
            let mut count = 0;
            for (r, row) in x.chunks_exact(inputs).enumerate() {
                for (w, values) in row.chunks(WORD).enumerate() {
                    let word = looker.look(values)?;
                    bits[w * group + r] = word;
                    count += word.count_ones() as usize;
                }
            }
            Some(count)
        };
        let per = words * group;
        let count = if x.len() < WORTH_A_THREAD {
            x.chunks(group * inputs).zip(bits.chunks_mut(per)).map(part).try_fold(0, |sum, n| Some(sum + n?))
        } else {
            x.par_chunks(group * inputs).zip(bits.par_chunks_mut(per)).map(part).try_reduce(|| 0, |a, b| Some(a + b))
        }?;
        (count as f64 <= 1.2 * DENSEST * x.len() as f64).then_some(Spikes { bits, rows, group, words, count })
    }

    /// A matrix without spikes; their places are to be set, and then counted.
    pub fn none(rows: usize, words: usize) -> Spikes {
        let group = rows.clamp(1, GROUP);
        Spikes { bits: vec![0; rows.div_ceil(group) * words * group], rows, group, words, count: 0 }
    }

    /// Takes all spikes away; their places, in one group of rows, are to be set, and then counted.
    pub fn clear(&mut self, rows: usize, words: usize) {
        self.bits.clear();
        self.bits.resize(rows * words, 0);
        (self.rows, self.group, self.words, self.count) = (rows, rows, words, 0);
    }

    /// Counts the spikes.
    pub fn recount(&mut self) {
        self.count = self.bits.iter().map(|word| word.count_ones() as usize).sum();
    }

    /// Spikes of all places.
    pub fn density(&self) -> f64 {
        self.count as f64 / (self.rows * self.words * WORD) as f64
    }

    /// The same spikes with rows and inputs exchanged.
    pub fn transposed(&self, inputs: usize) -> Spikes {
        let (group, words) = (inputs.min(GROUP), self.rows.div_ceil(WORD));
        let mut bits = vec![0; inputs.div_ceil(group) * words * group];
        bits.par_chunks_mut(words * group).enumerate().for_each(|(g, out)| {
            let mut block = [0u64; WORD];
            for (word, out) in out.chunks_exact_mut(group).enumerate() {
                // Groups are whole blocks of rows, but for a single one of fewer.
                let first = word * WORD;
                let source = &self.bits[first / self.group * self.words * self.group..];
                for (k, out) in out.chunks_mut(WORD).enumerate() {
                    let w = g * group / WORD + k;
                    if w >= self.words {
                        break;
                    }
                    let rows = &source[w * self.group + first % self.group..][..WORD.min(self.group - first % self.group)];
                    block[..rows.len()].copy_from_slice(rows);
                    block[rows.len()..].fill(0);
                    transpose(&mut block);
                    out.copy_from_slice(&block[..out.len()]);
                }
            }
        });
        Spikes { bits, rows: inputs, group, words, count: self.count }
    }
}

/// Do a few rows from all over hold few enough spikes that it is worth looking at all of them?
pub fn are_few(x: &[f32], inputs: usize) -> bool {
    let rows = x.len() / inputs;
    let looked = (SAMPLE / inputs).clamp(1, rows);
    let active: usize = (0..looked).map(|i| x[i * rows / looked * inputs..][..inputs].iter().filter(|v| **v != 0.0).count()).sum();
    active as f64 <= DENSEST * (looked * inputs) as f64
}

/// Exchanges bit `j` of word `i` and bit `i` of word `j`: squares of half the size are exchanged, down to single bits.
fn transpose(block: &mut [u64; WORD]) {
    let (mut width, mut mask) = (WORD / 2, u64::from(u32::MAX));
    while width > 0 {
        let mut k = 0;
        while k < WORD {
            let exchanged = ((block[k] >> width) ^ block[k + width]) & mask;
            block[k] ^= exchanged << width;
            block[k + width] ^= exchanged;
            k = (k + width + 1) & !width;
        }
        width /= 2;
        mask ^= mask << width;
    }
}

/// Which of up to sixty-four values are 1; `None` where one is neither 1 nor +0.
type Look = unsafe fn(&[f32]) -> Option<u64>;

/// The fastest [`Look`] of this processor.
#[derive(Clone, Copy)]
pub struct Looker(Look);

impl Looker {
    /// For the simd_dispatch vectors of this processor.
    pub fn new() -> Looker {
        #[cfg(target_arch = "x86_64")]
        match Width::of_this_processor() {
            Width::Avx512 => return Looker(look_avx512),
            Width::Avx2 => return Looker(look_avx2),
            Width::Plain => {}
        }
        Looker(look)
    }

    /// Looks at up to sixty-four values.
    #[inline]
    pub fn look(self, values: &[f32]) -> Option<u64> {
        // SAFETY: `new` takes what the processor has.
        unsafe { (self.0)(values) }
    }
}

fn look(values: &[f32]) -> Option<u64> {
    let one = 1f32.to_bits();
    let flags = values.iter().enumerate().map(|(j, v)| (u64::from(v.to_bits() == one) << j, v.to_bits() != one && v.to_bits() != 0));
    let (ones, others) = flags.fold((0, false), |(ones, others), (bit, other)| (ones | bit, others | other));
    (!others).then_some(ones)
}

/// Looks at as many values at a time as a register holds: `ones` and `others` of these. Those that are left over are looked at one by one.
macro_rules! look_with {
    ($values:expr, $lanes:literal, $v:ident => $ones:expr, $others:expr) => {{
        let (whole, rest) = $values.as_chunks::<$lanes>();
        let (mut ones, mut others) = (0u64, 0u32);
        for (k, $v) in whole.iter().enumerate() {
            let found = $ones;
            ones |= u64::from(found as u32) << ($lanes * k);
            others |= $others ^ (found as u32);
        }
        let left = look(rest)?;
        (others == 0).then_some(if rest.is_empty() { ones } else { ones | left << ($lanes * whole.len()) })
    }};
}

/// As [`look`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn look_avx512(values: &[f32]) -> Option<u64> {
    use std::arch::x86_64::{_mm512_cmpeq_epi32_mask, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_test_epi32_mask};
    let one = _mm512_set1_epi32(1f32.to_bits() as i32);
    // SAFETY: sixteen floats are read from an array of sixteen.
    let load = |v: &[f32; 16]| unsafe { _mm512_loadu_si512(v.as_ptr().cast()) };
    look_with!(values, 16, v => _mm512_cmpeq_epi32_mask(load(v), one), u32::from(_mm512_test_epi32_mask(load(v), load(v))))
}

/// As [`look`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn look_avx2(values: &[f32]) -> Option<u64> {
    use std::arch::x86_64::{
        _mm256_castsi256_ps, _mm256_cmpeq_epi32, _mm256_loadu_si256, _mm256_movemask_ps, _mm256_set1_epi32, _mm256_setzero_si256,
    };
    let (one, zero) = (_mm256_set1_epi32(1f32.to_bits() as i32), _mm256_setzero_si256());
    // SAFETY: eight floats are read from an array of eight.
    let load = |v: &[f32; 8]| unsafe { _mm256_loadu_si256(v.as_ptr().cast()) };
    let equal = |v, to| _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(load(v), to))) as u32;
    look_with!(values, 8, v => equal(v, one), !equal(v, zero) & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbers;

    /// Random spikes.
    fn example(n: usize) -> Vec<f32> {
        let mut next = numbers(n as u64);
        (0..n).map(|_| f32::from(u8::from(next() < 0.3))).collect()
    }

    #[test]
    fn every_way_of_looking_sees_the_same() {
        let mut next = numbers(3);
        for n in 0..=WORD {
            let mut values: Vec<f32> = (0..n).map(|_| f32::from(u8::from(next() < 0.5))).collect();
            for other in [None, Some(0.5), Some(-0.0), Some(f32::NAN)] {
                if let (Some(other), Some(last)) = (other, values.last_mut()) {
                    *last = other;
                }
                let want = look(&values);
                assert_eq!(want.is_none(), other.is_some() && n > 0);
                for found in crate::simd::of_every_width(|| Looker::new().look(&values)) {
                    assert_eq!(found, want);
                }
            }
        }
    }

    #[test]
    fn rows_and_inputs_are_exchanged() {
        for (rows, inputs) in [(1, 1), (3, 70), (64, 64), (130, 40), (300, 200), (129, 257)] {
            let x = example(rows * inputs);
            let turned = Spikes::find(&x, inputs).unwrap().transposed(inputs);
            let want: usize = x.iter().map(|v| *v as usize).sum();
            assert_eq!(turned.count, want);
            for (i, r) in (0..inputs).flat_map(|i| (0..rows).map(move |r| (i, r))) {
                let word = turned.bits[((i / turned.group) * turned.words + r / WORD) * turned.group + i % turned.group];
                assert_eq!(word >> (r % WORD) & 1, x[r * inputs + i] as u64, "{rows} {inputs}: {r} {i}");
            }
            assert_eq!(turned.bits.iter().map(|b| b.count_ones() as usize).sum::<usize>(), want);
        }
    }

    #[test]
    fn what_is_not_sparse_or_not_spikes_is_refused() {
        assert!(Spikes::find(&[1.0; 64], 32).is_none());
        assert!(Spikes::find(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5], 8).is_none());
    }
}

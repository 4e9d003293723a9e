//! Spikes as bits: what is not zero in a tensor of few such elements, a word for sixty-four inputs. Where these are not all 1, as
//! sums and means of spikes are not, [`Values`] says where each is.
#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;
use snn_ir::{Data, Tensor};
use snn_plan::buffers::{Buffers, Scratch};

#[cfg(target_arch = "x86_64")]
use crate::simd::Width;
use crate::simd::simd_dispatch;

/// Inputs of a word.
pub const WORD: usize = u64::BITS as usize;
/// Rows that are handled together.
const GROUP: usize = 128;
/// Rows of a group that are sorted together, at most: a byte says which it is.
pub const SORTED: usize = 1 << u8::BITS;
/// Fewer rows than this are sorted by comparing them.
const FEWEST_COUNTED: usize = 8;

/// Up to which densities the rows of active inputs are added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Densest {
    /// Where all that is not zero is 1.
    pub ones: f64,
    /// Where it has other values, by which weights are multiplied.
    pub values: f64,
}

impl Densest {
    /// Always.
    pub const ANY: Densest = Densest { ones: 1.0, values: 1.0 };

    /// The smaller of each.
    pub fn at_most(self, other: Densest) -> Densest {
        Densest { ones: self.ones.min(other.ones), values: self.values.min(other.values) }
    }

    /// As long as the dense product is not faster, by the vectors of this processor; `windows` says whether those of a convolution would be unrolled for
    /// it. Measured with products of 1,024 x 512 x 1,024, pointwise convolutions of 256 channels and others of 64 and 128 (Zen 5, before that Zen 4); not
    /// measured anew on each machine, so that equal processors compute equal bits.
    pub fn fastest(windows: bool) -> Densest {
        #[cfg(target_arch = "x86_64")]
        if Width::of_this_processor() == Width::Avx512 {
            return Densest { ones: 0.9, values: if windows { 0.75 } else { 0.4 } };
        }
        let _ = windows;
        Densest { ones: 0.6, values: 0.4 }
    }
}

/// Elements that are looked at before the density is believed.
const SAMPLE: usize = 1 << 13;
/// Fewer elements than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 16;

/// The elements of a tensor in which spikes are looked for.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'x> {
    /// Numbers.
    Floats(&'x [f32]),
    /// Booleans: 0 or 1.
    Spikes(&'x [u8]),
}

impl<'x> From<&'x [f32]> for Elements<'x> {
    fn from(x: &'x [f32]) -> Elements<'x> {
        Elements::Floats(x)
    }
}

impl<'x> From<&'x Tensor> for Elements<'x> {
    fn from(t: &'x Tensor) -> Elements<'x> {
        if let Data::Bool(v) = t.data() { Elements::Spikes(v) } else { Elements::Floats(t.as_f32()) }
    }
}

impl<'x> Elements<'x> {
    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Elements::Floats(x) => x.len(),
            Elements::Spikes(x) => x.len(),
        }
    }

    /// Are there none?
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Some of them.
    pub fn range(self, range: Range<usize>) -> Elements<'x> {
        match self {
            Elements::Floats(x) => Elements::Floats(&x[range]),
            Elements::Spikes(x) => Elements::Spikes(&x[range]),
        }
    }

    /// So many at a time, and then what is left.
    pub fn chunks(self, n: usize) -> impl Iterator<Item = Elements<'x>> {
        (0..self.len()).step_by(n).map(move |first| self.range(first..self.len().min(first + n)))
    }

    /// The numbers, where it matters what those are that are not zero: of booleans, none.
    pub fn values(self) -> &'x [f32] {
        if let Elements::Floats(x) = self { x } else { &[] }
    }

    /// All as numbers, in memory that is `held` where they are booleans.
    pub fn floats<'h, 'b>(self, buffers: &'b Buffers, held: &'h mut Option<Scratch<'b>>) -> &'h [f32]
    where
        'x: 'h,
    {
        match self {
            Elements::Floats(x) => x,
            Elements::Spikes(x) => {
                let to = held.insert(buffers.scratch(x.len()));
                to.par_chunks_mut(WORTH_A_THREAD).zip(x.par_chunks(WORTH_A_THREAD)).for_each(|(to, x)| {
                    to.iter_mut().zip(x).for_each(|(to, x)| *to = f32::from(*x));
                });
                to
            }
        }
    }
}

/// Where the elements of a matrix are: that of a row and an input is the one of number `rows[row] + inputs[input]` of a tensor.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// For each row.
    pub rows: Vec<i32>,
    /// For each bit of each word of a row.
    pub inputs: Vec<i32>,
}

/// Which elements of a matrix `[rows, inputs]` are spikes.
#[derive(Debug, Default)]
pub struct Spikes {
    /// `[group][word][row of the group]`, bit `i` of word `w` for input `w * per_word + i`.
    pub bits: Vec<u64>,
    /// How many rows there are.
    pub rows: usize,
    /// `[group][word][row of the group]`: the rows of each block of [`SORTED`], by how many spikes they have in a word, rising.
    pub order: Vec<u8>,
    /// Rows of a group.
    pub group: usize,
    /// Words of a row.
    pub words: usize,
    /// How many spikes there are.
    pub count: usize,
    /// Where the elements are, if they are not all 1.
    pub values: Option<Values>,
}

impl Spikes {
    /// Finds what is not zero in `x[rows, inputs]`; `None` where that is much.
    pub fn find(x: Elements<'_>, inputs: usize, densest: Densest) -> Option<Spikes> {
        // All of a small matrix is looked at below.
        let sampled = x.len() > SAMPLE;
        if sampled && !are_few(x, inputs, densest) {
            return None;
        }
        let rows = x.len() / inputs;
        let (group, words) = (rows.min(GROUP), inputs.div_ceil(WORD));
        let mut bits = vec![0u64; rows.div_ceil(group) * words * group];
        let looker = Looker::new();
        let per = words * group;
        let part = |(i, bits): (usize, &mut [u64])| {
            let mut all = Found::default();
            let x = x.range(i * group * inputs..x.len().min((i + 1) * group * inputs));
            for (r, row) in x.chunks(inputs).enumerate() {
                for (w, values) in row.chunks(WORD).enumerate() {
                    let found = looker.look(values);
                    bits[w * group + r] = found.mask;
                    all = all.and(found);
                }
            }
            all
        };
        let found = if x.len() < WORTH_A_THREAD {
            bits.chunks_mut(per).enumerate().map(part).fold(Found::default(), Found::and)
        } else {
            bits.par_chunks_mut(per).enumerate().map(part).reduce(Found::default, Found::and)
        };
        let values = (!found.are_ones()).then(|| Values {
            rows: (0..rows).map(|r| (r * inputs) as i32).collect(),
            inputs: (0..words * WORD).map(|i| i as i32).collect(),
        });
        let few = if sampled { found.are_few(x.len(), densest) } else { found.are_at_most(x.len(), densest) };
        if x.len() >= 1 << 30 || !few {
            return None;
        }
        let mut spikes = Spikes { bits, rows, group, words, values, ..Spikes::default() };
        spikes.sort();
        Some(spikes)
    }

    /// The most bytes that a matrix takes as bits, with the indices of its values.
    pub fn bytes([rows, inputs]: [usize; 2]) -> usize {
        let (group, words) = (rows.clamp(1, GROUP), inputs.div_ceil(WORD));
        let bits = rows.next_multiple_of(group).saturating_mul(words).saturating_mul(size_of::<u64>() + 1);
        bits.saturating_add(size_of::<i32>() * (rows + words * WORD))
    }

    /// A matrix without spikes; their bits are to be set, and then sorted.
    pub fn none(rows: usize, words: usize) -> Spikes {
        let group = rows.clamp(1, GROUP);
        Spikes { bits: vec![0; rows.div_ceil(group) * words * group], rows, group, words, ..Spikes::default() }
    }

    /// Takes all spikes away; their bits, in one group of rows, are to be set, and then sorted.
    pub fn clear(&mut self, rows: usize, words: usize) {
        self.bits.clear();
        self.bits.resize(rows * words, 0);
        (self.rows, self.group, self.words, self.count, self.values) = (rows, rows, words, 0, None);
    }

    /// Counts the spikes and sorts the rows, when all bits are set.
    pub fn sort(&mut self) {
        self.order.resize(self.bits.len(), 0);
        let of_word = |(bits, order): (&[u64], &mut [u8])| {
            let mut count = 0;
            bits.chunks(SORTED).zip(order.chunks_mut(SORTED)).for_each(|(bits, order)| sort_rows(bits, order, &mut count));
            count
        };
        let group = self.group.max(1);
        self.count = if self.bits.len() * WORD < WORTH_A_THREAD {
            self.bits.chunks(group).zip(self.order.chunks_mut(group)).map(of_word).sum()
        } else {
            self.bits.par_chunks(group).zip(self.order.par_chunks_mut(group)).map(of_word).sum()
        };
    }

    /// The share of elements that are spikes.
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
        let values = self.values.as_ref().map(|v| {
            let mut rows = v.rows.clone();
            rows.resize(words * WORD, 0);
            Values { rows: v.inputs[..inputs].to_vec(), inputs: rows }
        });
        let mut transposed = Spikes { bits, rows: inputs, group, words, values, ..Spikes::default() };
        transposed.sort();
        transposed
    }
}

simd_dispatch! {
    /// The order of up to [`SORTED`] words by how many ones they have, rising; `count` grows by all of these.
    fn sort_rows(bits: &[u64], order: &mut [u8], count: &mut usize) {
        let mut counts = [0u8; SORTED];
        counts.iter_mut().zip(bits).for_each(|(count, word)| *count = word.count_ones() as u8);
        let counts = &counts[..bits.len()];
        *count += counts.iter().map(|ones| *ones as usize).sum::<usize>();
        if counts.len() < FEWEST_COUNTED {
            order.iter_mut().enumerate().for_each(|(r, to)| *to = r as u8);
            order.sort_unstable_by_key(|r| counts[*r as usize]);
            return;
        }
        let mut places = [0u16; WORD + 1];
        counts.iter().for_each(|ones| places[*ones as usize] += 1);
        let mut before = 0;
        places.iter_mut().for_each(|place| (*place, before) = (before, before + *place));
        for (r, ones) in counts.iter().enumerate() {
            let place = &mut places[*ones as usize];
            order[*place as usize] = r as u8;
            *place += 1;
        }
    }
}

/// What a few rows from all over hold: how many elements, how many that are not zero, and whether one of these is not 1.
fn sample(x: Elements<'_>, inputs: usize) -> (usize, usize, bool) {
    // Short rows are looked at several at a time.
    let inputs = inputs.max(WORD).min(x.len());
    let rows = x.len() / inputs;
    let looked = (SAMPLE / inputs).clamp(1, rows);
    let looker = Looker::new();
    let row = |i: usize| x.range(i * rows / looked * inputs..(i * rows / looked + 1) * inputs);
    let found = (0..looked).flat_map(|i| row(i).chunks(WORD)).map(|values| looker.look(values)).fold(Found::default(), Found::and);
    (looked * inputs, found.count, !found.are_ones())
}

/// The share of a few rows from all over that is not zero.
pub fn sampled_density(x: Elements<'_>, inputs: usize) -> f64 {
    let (looked, active, _) = sample(x, inputs);
    active as f64 / looked as f64
}

/// Is little of a few rows from all over not zero, so that it is worth looking at all of them?
pub fn are_few(x: Elements<'_>, inputs: usize, densest: Densest) -> bool {
    let (looked, active, others) = sample(x, inputs);
    active as f64 <= if others { densest.values } else { densest.ones } * looked as f64
}

simd_dispatch! {
    /// Exchanges bit `j` of word `i` and bit `i` of word `j`: squares of half the size are exchanged, down to single bits. Words that are less than eight
    /// apart are moved to where they are as many times eight apart, so that all is done with whole vectors.
    pub fn transpose(block: &mut [u64; WORD]) {
        let mut words = *block;
        exchange(&mut words, 8);
        turn(&words, block);
        exchange(block, 1);
        words = *block;
        turn(&words, block);
    }
}

/// Of words whose numbers differ in the fourth to sixth bit only, exchanges the bits whose places differ by `places` times the same.
#[inline(always)]
fn exchange(words: &mut [u64; WORD], places: u32) {
    for apart in [32, 16, 8] {
        let shift = apart as u32 / 8 * places;
        // As many ones as zeros, from the lowest bit on.
        let mask = u64::MAX / ((1 << shift) + 1);
        for pair in words.chunks_exact_mut(2 * apart) {
            let (low, high) = pair.split_at_mut(apart);
            for (low, high) in low.iter_mut().zip(high) {
                let exchanged = ((*low >> shift) ^ *high) & mask;
                *low ^= exchanged << shift;
                *high ^= exchanged;
            }
        }
    }
}

/// Moves word `8 i + j` to `8 j + i`.
#[inline(always)]
fn turn(from: &[u64; WORD], to: &mut [u64; WORD]) {
    for (i, words) in from.chunks_exact(8).enumerate() {
        words.iter().enumerate().for_each(|(j, word)| to[8 * j + i] = *word);
    }
}

/// What was seen in some values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Bits of the values that are not zero; of the last that were looked at.
    pub mask: u64,
    /// How many are not zero.
    count: usize,
    /// How many are 1.
    ones: usize,
}

impl Found {
    /// What was seen in both.
    pub fn and(self, other: Found) -> Found {
        Found { mask: other.mask, count: self.count + other.count, ones: self.ones + other.ones }
    }

    /// Is everything that is not zero 1?
    pub fn are_ones(self) -> bool {
        self.count == self.ones
    }

    /// Are they few of so many that the dense product is not faster? What a sample said is believed until there are a fifth more.
    pub fn are_few(self, of: usize, densest: Densest) -> bool {
        self.are_at_most(of, Densest { ones: 1.2 * densest.ones, values: 1.2 * densest.values })
    }

    fn are_at_most(self, of: usize, densest: Densest) -> bool {
        self.count as f64 <= if self.are_ones() { densest.ones } else { densest.values } * of as f64
    }

    fn new(mask: u64, ones: u64) -> Found {
        Found { mask, count: mask.count_ones() as usize, ones: ones.count_ones() as usize }
    }
}

/// Looks at up to sixty-four values.
type Look = unsafe fn(&[f32]) -> Found;

/// The fastest [`Look`] of this processor.
#[derive(Clone, Copy)]
pub struct Looker(Look);

impl Looker {
    /// For the widest vectors of this processor.
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
    pub fn look(self, values: Elements<'_>) -> Found {
        match values {
            // SAFETY: `new` takes what the processor has.
            Elements::Floats(values) => unsafe { (self.0)(values) },
            Elements::Spikes(values) => look_at_bytes(values),
        }
    }
}

/// Booleans whose bits are gathered at once.
const GATHERED: usize = 16;

/// As [`look`], at booleans.
#[inline]
fn look_at_bytes(values: &[u8]) -> Found {
    let (whole, rest) = values.as_chunks::<GATHERED>();
    let mut mask = whole.iter().enumerate().fold(0, |mask, (k, bytes)| mask | gathered(bytes) << (GATHERED * k));
    if !rest.is_empty() {
        let mut last = [0; GATHERED];
        last[..rest.len()].copy_from_slice(rest);
        mask |= gathered(&last) << (GATHERED * whole.len());
    }
    Found::new(mask, mask)
}

/// The lowest bits of bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
fn gathered(bytes: &[u8; GATHERED]) -> u64 {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_movemask_epi8, _mm_slli_epi16};
    // SAFETY: sixteen bytes are read from an array of sixteen; every x86-64 processor has these instructions.
    let highest = unsafe { _mm_movemask_epi8(_mm_slli_epi16::<7>(_mm_loadu_si128(bytes.as_ptr().cast()))) };
    highest as u64
}

/// The lowest bits of bytes.
#[cfg(not(target_arch = "x86_64"))]
fn gathered(bytes: &[u8; GATHERED]) -> u64 {
    bytes.iter().enumerate().fold(0, |mask, (i, byte)| mask | u64::from(*byte) << i)
}

fn look(values: &[f32]) -> Found {
    let bits = |is: fn(f32) -> bool| values.iter().enumerate().fold(0, |bits, (j, v)| bits | u64::from(is(*v)) << j);
    Found::new(bits(|v| v != 0.0), bits(|v| v == 1.0))
}

/// Looks at as many values at a time as a register holds: which of these are not zero and which are 1. Those that are left over are
/// looked at one by one.
macro_rules! look_with {
    ($values:expr, $lanes:literal, $v:ident => $mask:expr, $ones:expr) => {{
        let (whole, rest) = $values.as_chunks::<$lanes>();
        let (mut mask, mut ones) = (0u64, 0u64);
        for (k, $v) in whole.iter().enumerate() {
            mask |= u64::from($mask as u32) << ($lanes * k);
            ones |= u64::from($ones as u32) << ($lanes * k);
        }
        let found = Found::new(mask, ones);
        if rest.is_empty() {
            return found;
        }
        let left = look(rest);
        Found { mask: mask | left.mask << ($lanes * whole.len()), ..found.and(left) }
    }};
}

/// As [`look`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,popcnt")]
fn look_avx512(values: &[f32]) -> Found {
    use std::arch::x86_64::{_CMP_EQ_OQ, _CMP_NEQ_UQ, _mm512_cmp_ps_mask, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps};
    let (one, zero) = (_mm512_set1_ps(1.0), _mm512_setzero_ps());
    // SAFETY: sixteen floats are read from an array of sixteen.
    let load = |v: &[f32; 16]| unsafe { _mm512_loadu_ps(v.as_ptr()) };
    look_with!(values, 16, v => _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(load(v), zero), _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(load(v), one))
}

/// As [`look`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
fn look_avx2(values: &[f32]) -> Found {
    use std::arch::x86_64::{
        _CMP_EQ_OQ, _CMP_NEQ_UQ, _mm256_cmp_ps, _mm256_loadu_ps, _mm256_movemask_ps, _mm256_set1_ps, _mm256_setzero_ps,
    };
    let (one, zero) = (_mm256_set1_ps(1.0), _mm256_setzero_ps());
    // SAFETY: eight floats are read from an array of eight.
    let load = |v: &[f32; 8]| unsafe { _mm256_loadu_ps(v.as_ptr()) };
    look_with!(
        values, 8,
        v => _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(load(v), zero)),
        _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(load(v), one))
    )
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
                assert_eq!(want.are_ones(), n == 0 || other.is_none_or(|x| x == 0.0));
                for found in crate::simd::of_every_width(|| Looker::new().look(values[..].into())) {
                    assert_eq!(found, want);
                }
                if want.are_ones() {
                    let bytes: Vec<u8> = values.iter().map(|v| u8::from(*v != 0.0)).collect();
                    assert_eq!(Looker::new().look(Elements::Spikes(&bytes)), want);
                }
            }
        }
    }

    #[test]
    fn rows_and_inputs_are_exchanged() {
        for (rows, inputs) in [(1, 1), (3, 70), (64, 64), (130, 40), (300, 200), (129, 257)] {
            let x = example(rows * inputs);
            let transposed = Spikes::find(x[..].into(), inputs, Densest::fastest(false)).unwrap().transposed(inputs);
            let want: usize = x.iter().map(|v| *v as usize).sum();
            assert_eq!(transposed.count, want);
            for (i, r) in (0..inputs).flat_map(|i| (0..rows).map(move |r| (i, r))) {
                let word =
                    transposed.bits[((i / transposed.group) * transposed.words + r / WORD) * transposed.group + i % transposed.group];
                assert_eq!(word >> (r % WORD) & 1, x[r * inputs + i] as u64, "{rows} {inputs}: {r} {i}");
            }
            assert_eq!(transposed.bits.iter().map(|b| b.count_ones() as usize).sum::<usize>(), want);
        }
    }

    #[test]
    fn what_is_not_sparse_is_refused_and_values_are_found() {
        assert!(Spikes::find([1.0; 64][..].into(), 32, Densest::fastest(false)).is_none());
        let found = Spikes::find([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5][..].into(), 4, Densest::fastest(false)).unwrap();
        assert_eq!((found.count, &found.bits[..]), (2, &[0b10, 0b1000][..]));
        let index = |values: &Values, row: usize, input: usize| values.rows[row] + values.inputs[input];
        assert_eq!(index(&found.values.as_ref().unwrap().clone(), 1, 3), 7);
        assert_eq!(index(&found.transposed(4).values.unwrap(), 3, 1), 7);
        assert!(Spikes::find([0.0, 1.0, 0.0, 0.0][..].into(), 2, Densest::fastest(false)).unwrap().values.is_none());
    }
}

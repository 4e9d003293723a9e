//! Products of spikes: the weight rows of the active inputs, added.
//!
//! A row of spikes times a matrix is the sum of the matrix rows where there is a spike. Weights are packed in panels of
//! [`PANEL`] columns, which stay in the second cache while all rows of spikes pass over them, [`BLOCK`] inputs at a time; the
//! sums of a panel stay in registers. Rows are added in the order of the inputs, so the result equals the interpreter's sum to
//! the bit: spikes are exactly 0 and 1 and weights are finite, which is checked.
#![allow(unsafe_code)]

use rayon::prelude::*;

use crate::shared::Shared;

/// Columns of a panel.
const PANEL: usize = 96;
/// Inputs that are handled at a time.
const BLOCK: usize = 1024;
/// Above this density the dense product is faster.
const DENSEST: f64 = 0.2;
/// Elements that are looked at before the density is believed.
const SAMPLE: usize = 1 << 13;

/// Weights in panels.
#[derive(Debug)]
pub struct Packed {
    /// `[panel][input][PANEL]`, the last panel filled up with zeros.
    data: Vec<f32>,
    inputs: usize,
    columns: usize,
}

impl Packed {
    /// Packs `w[input, column]` with the given strides; `None` where a weight is not finite.
    pub fn new(w: &[f32], inputs: usize, columns: usize, input_stride: usize, column_stride: usize) -> Option<Packed> {
        let panels = columns.div_ceil(PANEL);
        let mut data = vec![0f32; panels * inputs * PANEL];
        let finite = data.par_chunks_mut(inputs * PANEL).enumerate().map(|(p, panel)| {
            let mut finite = true;
            let width = PANEL.min(columns - p * PANEL);
            for first in (0..inputs).step_by(16) {
                for j in 0..width {
                    let from = (p * PANEL + j) * column_stride;
                    for i in first..(first + 16).min(inputs) {
                        let x = w[from + i * input_stride];
                        finite &= x.is_finite();
                        panel[i * PANEL + j] = x;
                    }
                }
            }
            finite
        });
        finite.reduce(|| true, |a, b| a && b).then_some(Packed { data, inputs, columns })
    }
}

/// The places of spikes, row by row.
pub struct Events {
    indices: Vec<u32>,
    ends: Vec<usize>,
}

impl Events {
    /// Finds the spikes of `x[rows, inputs]`; `None` where they are many, or a value is neither 0 nor 1.
    pub fn find(x: &[f32], inputs: usize) -> Option<Events> {
        // A few rows from all over tell whether it is worth looking at all of them.
        let rows = x.len() / inputs;
        let looked = (SAMPLE / inputs).clamp(1, rows);
        let sampled = (0..looked).map(|i| &x[i * rows / looked * inputs..][..inputs]);
        let active: usize = sampled.map(|row| row.iter().filter(|v| **v != 0.0).count()).sum();
        if active as f64 > DENSEST * (looked * inputs) as f64 {
            return None;
        }
        let parts: Vec<Option<(Vec<u32>, Vec<usize>)>> =
            x.par_chunks(inputs * rows.div_ceil(rayon::current_num_threads() * 2)).map(|part| rows_of(part, inputs)).collect();
        let mut events = Events { indices: Vec::new(), ends: Vec::with_capacity(rows) };
        for part in parts {
            let (indices, ends) = part?;
            let start = events.indices.len();
            events.ends.extend(ends.into_iter().map(|e| e + start));
            events.indices.extend(indices);
        }
        (events.indices.len() as f64 <= 1.5 * DENSEST * x.len() as f64).then_some(events)
    }

    /// The same spikes column by column: for each of `inputs` the rows in which it fires, in order.
    pub fn transposed(&self, inputs: usize) -> Option<Events> {
        let mut ends = vec![0usize; inputs];
        self.indices.iter().for_each(|i| ends[*i as usize] += 1);
        let mut next = Vec::with_capacity(inputs);
        let mut total = 0;
        for end in &mut ends {
            next.push(total);
            total += *end;
            *end = total;
        }
        let mut indices = vec![0u32; self.indices.len()];
        for r in 0..self.ends.len() {
            let row = u32::try_from(r).ok()?;
            for i in self.row(r) {
                indices[next[*i as usize]] = row;
                next[*i as usize] += 1;
            }
        }
        Some(Events { indices, ends })
    }

    fn row(&self, r: usize) -> &[u32] {
        let start = if r == 0 { 0 } else { self.ends[r - 1] };
        &self.indices[start..self.ends[r]]
    }
}

/// Indices of ones and where each row's end; `None` where a value is neither 0 nor 1.
fn rows_of(part: &[f32], inputs: usize) -> Option<(Vec<u32>, Vec<usize>)> {
    let (mut indices, mut ends) = (Vec::new(), Vec::new());
    let look = looker();
    for row in part.chunks_exact(inputs) {
        let (whole, rest) = row.as_chunks::<16>();
        let mut last = [0f32; 16];
        last[..rest.len()].copy_from_slice(rest);
        // Sixteen at a time: most are silent.
        for (c, chunk) in whole.iter().chain((!rest.is_empty()).then_some(&last)).enumerate() {
            // SAFETY: `looker` has asked for the features.
            let (mut ones, others) = unsafe { look(chunk) };
            if others {
                return None;
            }
            while ones != 0 {
                indices.push((c * 16) as u32 + ones.trailing_zeros());
                ones &= ones - 1;
            }
        }
        ends.push(indices.len());
    }
    Some((indices, ends))
}

/// Which of sixteen values are 1, and whether any is neither 1 nor +0.
type Look = unsafe fn(&[f32; 16]) -> (u32, bool);

fn looker() -> Look {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return look_avx512;
    }
    look_plain
}

/// # Safety
/// None is needed; it has the type of the other.
unsafe fn look_plain(values: &[f32; 16]) -> (u32, bool) {
    let one = 1f32.to_bits();
    let flags = values.iter().enumerate().map(|(j, v)| (u32::from(v.to_bits() == one) << j, v.to_bits() != one && v.to_bits() != 0));
    flags.fold((0, false), |(ones, others), (bit, other)| (ones | bit, others | other))
}

/// As [`look_plain`], with two comparisons.
///
/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn look_avx512(values: &[f32; 16]) -> (u32, bool) {
    use std::arch::x86_64::{_mm512_cmpeq_epi32_mask, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_test_epi32_mask};
    // SAFETY: sixteen floats are read from an array of sixteen.
    let v = unsafe { _mm512_loadu_si512(values.as_ptr().cast()) };
    let ones = _mm512_cmpeq_epi32_mask(v, _mm512_set1_epi32(1f32.to_bits() as i32));
    (u32::from(ones), _mm512_test_epi32_mask(v, v) != ones)
}

/// `out[rows, columns]` = spikes times weights.
pub fn product(events: &Events, w: &Packed, out: &mut [f32]) {
    let rows = events.ends.len();
    assert_eq!(out.len(), rows * w.columns, "the output has a place for every sum");
    let panels = w.columns.div_ceil(PANEL);
    let threads = rayon::current_num_threads();
    let parts = if panels >= threads { 1 } else { (threads * 2).min(rows) };
    let per = rows.div_ceil(parts.max(1)).max(1);
    let target = Shared(out.as_mut_ptr());
    let add = fastest();
    let task = |t: usize| {
        let (p, part) = (t % panels, t / panels);
        let width = PANEL.min(w.columns - p * PANEL);
        let panel = &w.data[p * w.inputs * PANEL..(p + 1) * w.inputs * PANEL];
        let mut sums = [0f32; PANEL];
        for first in (0..w.inputs.max(1)).step_by(BLOCK) {
            let end = first + BLOCK;
            for r in part * per..((part + 1) * per).min(rows) {
                let all = events.row(r);
                let from = if first == 0 { 0 } else { all.partition_point(|i| (*i as usize) < first) };
                let to = if end >= w.inputs { all.len() } else { all.partition_point(|i| (*i as usize) < end) };
                // SAFETY: row `r` and this panel are inside of the output, whose length is asserted above.
                let line = unsafe { target.get().add(r * w.columns + p * PANEL) };
                if first == 0 {
                    sums.fill(0.0);
                } else {
                    // SAFETY: `width` elements of row `r` from this panel on belong to this task.
                    unsafe { std::ptr::copy_nonoverlapping(line, sums.as_mut_ptr(), width) };
                }
                // SAFETY: every index is below the number of inputs, and `fastest` has asked for the features.
                unsafe { add(&all[from..to], panel, &mut sums) };
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), line, width) };
            }
        }
    };
    let count = panels * rows.div_ceil(per);
    if threads > 1 && events.indices.len() * w.columns > 1 << 16 {
        (0..count).into_par_iter().for_each(task);
    } else {
        (0..count).for_each(task);
    }
}

type Add = unsafe fn(&[u32], &[f32], &mut [f32; PANEL]);

/// The widest vectors that this processor has.
fn fastest() -> Add {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return add_avx512;
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            return add_avx2;
        }
    }
    add_plain
}

/// Adds the rows of a panel, in order.
///
/// # Safety
/// None is needed; it has the type of the others.
unsafe fn add_plain(rows: &[u32], panel: &[f32], sums: &mut [f32; PANEL]) {
    for i in rows {
        let row = &panel[*i as usize * PANEL..][..PANEL];
        sums.iter_mut().zip(row).for_each(|(s, w)| *s += w);
    }
}

/// As [`add_plain`], with the sums in twelve registers.
///
/// # Safety
/// The processor has AVX2, and every row is inside of the panel.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn add_avx2(rows: &[u32], panel: &[f32], sums: &mut [f32; PANEL]) {
    use std::arch::x86_64::{_mm256_add_ps, _mm256_loadu_ps, _mm256_storeu_ps};
    // SAFETY: the caller's promise; `sums` has PANEL elements.
    unsafe {
        let mut s: [_; PANEL / 8] = std::array::from_fn(|k| _mm256_loadu_ps(sums.as_ptr().add(8 * k)));
        for i in rows {
            let row = panel.as_ptr().add(*i as usize * PANEL);
            for (k, s) in s.iter_mut().enumerate() {
                *s = _mm256_add_ps(*s, _mm256_loadu_ps(row.add(8 * k)));
            }
        }
        for (k, s) in s.iter().enumerate() {
            _mm256_storeu_ps(sums.as_mut_ptr().add(8 * k), *s);
        }
    }
}

/// As [`add_plain`], with the sums in six registers.
///
/// # Safety
/// The processor has AVX-512, and every row is inside of the panel.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn add_avx512(rows: &[u32], panel: &[f32], sums: &mut [f32; PANEL]) {
    use std::arch::x86_64::{_mm512_add_ps, _mm512_loadu_ps, _mm512_storeu_ps};
    // SAFETY: the caller's promise; `sums` has PANEL elements.
    unsafe {
        let mut s: [_; PANEL / 16] = std::array::from_fn(|k| _mm512_loadu_ps(sums.as_ptr().add(16 * k)));
        for i in rows {
            let row = panel.as_ptr().add(*i as usize * PANEL);
            for (k, s) in s.iter_mut().enumerate() {
                *s = _mm512_add_ps(*s, _mm512_loadu_ps(row.add(16 * k)));
            }
        }
        for (k, s) in s.iter().enumerate() {
            _mm512_storeu_ps(sums.as_mut_ptr().add(16 * k), *s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_plain_order_to_the_bit() {
        let mut state = 7u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 16_777_216.0
        };
        for (rows, inputs, columns) in [(1, 40, 10), (5, 300, 96), (3, 2500, 200), (7, 1024, 97)] {
            let x: Vec<f32> = (0..rows * inputs).map(|_| f32::from(u8::from(next() < 0.1))).collect();
            let w: Vec<f32> = (0..columns * inputs).map(|_| next() - 0.5).collect();
            let packed = Packed::new(&w, inputs, columns, 1, inputs).unwrap();
            let events = Events::find(&x, inputs).unwrap();
            let mut out = vec![f32::NAN; rows * columns];
            product(&events, &packed, &mut out);
            for r in 0..rows {
                for c in 0..columns {
                    let want = (0..inputs).fold(0f32, |s, i| s + x[r * inputs + i] * w[c * inputs + i]);
                    assert_eq!(out[r * columns + c].to_bits(), want.to_bits(), "{rows} {inputs} {columns}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_sparse_or_not_spikes_is_refused() {
        assert!(Events::find(&[1.0; 64], 32).is_none());
        assert!(Events::find(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5], 8).is_none());
        assert!(Packed::new(&[1.0, f32::INFINITY], 2, 1, 1, 2).is_none());
        assert!(Packed::new(&[1.0, f32::NAN], 2, 1, 1, 2).is_none());
    }
}

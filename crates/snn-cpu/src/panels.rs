//! Products of spikes: the weight rows of the active inputs, added.
//!
//! A row of spikes times a matrix is the sum of the matrix rows where there is a spike. [`Packed`] holds the weights in panels of up
//! to [`WIDEST`] columns. One word of a panel after the other, which stays in the L1 cache, passes over a group of rows, whose sums
//! stay in the second; the sums of a row are in registers meanwhile. Rows of weights are added in the order of the inputs, so the
//! result equals the interpreter's sum to the bit: spikes are exactly 0 and 1 and weights are finite, which is checked.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use snn_plan::buffers::Buffers;

use crate::integers::{self, Integers};
use crate::products::Matrix;
use crate::shared::{Shared, threads};
#[cfg(target_arch = "x86_64")]
use crate::simd::Width;
use crate::simd::{prefetch, simd_dispatch, transpose, transpose_to};
use crate::spikes::{Elements, SORTED, Spikes, WORD};

/// Floats that are added at a time: registers of every width divide it.
pub const LANES: usize = 16;
/// Columns of the widest panel.
const WIDEST: usize = 4 * LANES;
/// Fewer additions than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 19;

/// By what a tensor is known again: elements that are shared, and so cannot have changed, or a name that is given once.
#[derive(Clone, Debug)]
pub enum Identity {
    /// The elements themselves.
    Shared(Arc<Vec<f32>>),
    /// A name of a backend's own.
    Named(String),
}

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        match (self, other) {
            (Identity::Shared(a), Identity::Shared(b)) => Arc::ptr_eq(a, b),
            (Identity::Named(a), Identity::Named(b)) => a == b,
            _ => false,
        }
    }
}

/// The weights of the last run in the form that they were multiplied in: one at a time, so that they take no more memory than the larger.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<Forms>>);

/// Forms of some weights: nothing where one was not asked for or was given up, `Some(None)` where they have none such.
#[derive(Debug)]
struct Forms {
    of: Identity,
    panels: Option<Option<Arc<Packed>>>,
    integers: Option<Option<Arc<Integers>>>,
}

impl Kept {
    fn with<T>(&self, identity: Identity, act: impl FnOnce(&mut Forms) -> T) -> T {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *kept {
            Some(forms) if forms.of == identity => act(forms),
            kept => act(kept.insert(Forms { of: identity, panels: None, integers: None })),
        }
    }

    /// Weights in panels, for the rows of active inputs; made unless they are there.
    pub fn panels(&self, identity: Identity, pack: impl FnOnce() -> Option<Packed>) -> Option<Arc<Packed>> {
        self.with(identity, |forms| {
            if forms.panels.is_none() {
                forms.integers = forms.integers.take().filter(Option::is_none);
            }
            forms.panels.get_or_insert_with(|| pack().map(Arc::new)).clone()
        })
    }

    /// The weights in panels, if they are there and nobody else has them.
    pub fn into_panels(self) -> Option<Packed> {
        let forms = self.0.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        Arc::try_unwrap(forms.panels??).ok()
    }

    /// Weights as integers, where inputs of this density pay for it; made unless they are there. What is there already is used for a little less or more.
    pub fn integers(
        &self,
        identity: Identity,
        density: impl FnOnce() -> f64,
        pack: impl FnOnce() -> Option<Integers>,
    ) -> Option<Arc<Integers>> {
        self.with(identity, |forms| {
            let preferred = match (&forms.integers, &forms.panels) {
                (Some(None), _) => return None,
                (Some(Some(_)), _) => 1.5,
                (None, Some(Some(_))) => 0.75,
                (None, _) => 1.0,
            };
            if !integers::pay_at(density() * preferred) {
                return None;
            }
            let found = forms.integers.get_or_insert_with(|| pack().map(Arc::new)).clone();
            if found.is_some() {
                forms.panels = None;
            }
            found
        })
    }
}

/// Weights in panels.
#[derive(Debug)]
pub struct Packed {
    /// `[panel][word][WORD inputs][lanes][LANES]`, filled up with zeros.
    data: Vec<f32>,
    words: usize,
    /// How many columns there are.
    pub columns: usize,
    /// How many [`LANES`] a panel is wide.
    pub lanes: usize,
}

impl Packed {
    /// Packs a matrix `[inputs, columns]`, `per_word` inputs to a word, into memory of a size that `memory` gives; `None` where a
    /// weight is not finite.
    pub fn new(w: Matrix<'_>, sizes: [usize; 2], per_word: usize, memory: impl FnOnce(usize) -> Vec<f32>) -> Option<Packed> {
        Packed::in_width(Packed::width_of(sizes[1]), w, sizes, per_word, memory)
    }

    /// [`Packed::new`] in panels of a width, of which the last may be wider than its columns.
    pub fn in_width(
        width: usize,
        w: Matrix<'_>,
        [inputs, columns]: [usize; 2],
        per_word: usize,
        memory: impl FnOnce(usize) -> Vec<f32>,
    ) -> Option<Packed> {
        let (input_stride, column_stride, w) = (w.row, w.column, w.values);
        let (lanes, words) = (width / LANES, inputs.div_ceil(per_word));
        let mut data = memory(Packed::len_in_width(width, [inputs, columns], per_word));
        let finite = data.par_chunks_mut(WORD * width).enumerate().map(|(i, panel)| {
            let (first_column, first_input) = (i / words * width, i % words * per_word);
            let (across, down) = (width.min(columns - first_column), per_word.min(inputs - first_input));
            if across < width || down < WORD {
                panel.fill(0.0);
            }
            if column_stride == 1 {
                for (i, row) in panel.chunks_exact_mut(width).enumerate().take(down) {
                    row[..across].copy_from_slice(&w[(first_input + i) * input_stride + first_column..][..across]);
                }
            } else {
                // Squares, so that both sides stay in cache.
                let squares = (0..down).step_by(LANES).flat_map(|first| (0..across).step_by(LANES).map(move |column| (first, column)));
                for (first, column) in squares {
                    let [rows, columns] = [LANES.min(across - column), LANES.min(down - first)];
                    let from = &w[(first_input + first) * input_stride + (first_column + column) * column_stride..];
                    let to = &mut panel[first * width + column..];
                    if input_stride == 1 {
                        transpose(from, column_stride, [rows, columns], to, width);
                    } else {
                        for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                            to[c * width + r] = from[r * column_stride + c * input_stride];
                        }
                    }
                }
            }
            panel.chunks_exact(width).take(down).all(|row| row[..across].iter().fold(true, |all, x| all & x.is_finite()))
        });
        finite.reduce(|| true, |a, b| a && b).then_some(Packed { data, words, columns, lanes })
    }

    /// How many [`LANES`] panels are wide for so many columns.
    fn lanes_of(columns: usize) -> usize {
        let cost = |lanes: usize| columns.div_ceil(lanes * LANES) * (2 * lanes + 1);
        (1..=WIDEST / LANES).rev().min_by_key(|lanes| cost(*lanes)).unwrap_or(1)
    }

    /// How many floats a matrix `[inputs, columns]` takes when it is packed.
    pub fn len(sizes: [usize; 2], per_word: usize) -> usize {
        Packed::len_in_width(Packed::width_of(sizes[1]), sizes, per_word)
    }

    fn len_in_width(width: usize, [inputs, columns]: [usize; 2], per_word: usize) -> usize {
        columns.div_ceil(width).saturating_mul(inputs.div_ceil(per_word)).saturating_mul(WORD * width)
    }

    /// How many floats [`product_once`] takes, on so many threads.
    pub fn once_len([inputs, columns, per_word]: [usize; 3], threads: usize) -> usize {
        let width = Packed::width_of(columns);
        threads.min(columns.div_ceil(width)).saturating_mul(Packed::len([inputs, width.min(columns)], per_word))
    }

    /// The memory, for something else.
    pub fn into_memory(self) -> Vec<f32> {
        self.data
    }

    fn panels(&self) -> usize {
        self.columns.div_ceil(self.width())
    }

    /// The columns of each panel of so many columns.
    pub fn width_of(columns: usize) -> usize {
        Packed::lanes_of(columns) * LANES
    }

    /// A panel: `[word][WORD inputs][width]`.
    pub fn panel(&self, p: usize) -> &[f32] {
        let size = self.words * WORD * self.width();
        &self.data[p * size..][..size]
    }

    /// The columns of a panel.
    pub fn width(&self) -> usize {
        self.lanes * LANES
    }
}

/// Where the sums of a product go.
pub struct Target<'a> {
    to: Shared<f32>,
    of: PhantomData<&'a mut [f32]>,
    rows: usize,
    columns: usize,
    /// The distances of rows and columns.
    row: usize,
    column: usize,
    /// So many rows are that far apart, and those after them begin so far from the first.
    block: usize,
    blocks: usize,
}

impl<'a> Target<'a> {
    /// `out[rows, columns]`, or, `transposed`, `out[columns, rows]`.
    pub fn matrix(rows: usize, columns: usize, transposed: bool, out: &'a mut [f32]) -> Target<'a> {
        assert_eq!(out.len(), rows * columns, "the output has a place for every sum");
        let (row, column) = if transposed { (1, rows) } else { (columns, 1) };
        Target { to: Shared(out.as_mut_ptr()), of: PhantomData, rows, columns, row, column, block: rows.max(1), blocks: 0 }
    }

    /// `out[image, column, position]`, of rows for each position of each image.
    pub fn images(positions: usize, columns: usize, out: &'a mut [f32]) -> Target<'a> {
        assert!(out.len().is_multiple_of(positions * columns), "the output has a place for every sum");
        let (rows, to) = (out.len() / columns, Shared(out.as_mut_ptr()));
        Target { to, of: PhantomData, rows, columns, row: 1, column: positions, block: positions, blocks: positions * columns }
    }
}

/// Spikes times weights. `x` is the tensor that the spikes were found in.
pub fn product(spikes: &Spikes, x: Elements<'_>, w: &Packed, to: &Target<'_>) {
    let part = Part { spikes, x, w, first_column: 0 };
    let tasks = w.panels() * part.groups();
    if threads() > 1 && spikes.count * w.columns > WORTH_A_THREAD {
        (0..tasks).into_par_iter().for_each_init(Vec::new, |sums, t| part.compute(t, sums, to));
    } else {
        let mut sums = Vec::new();
        (0..tasks).for_each(|t| part.compute(t, &mut sums, to));
    }
}

/// [`product`] with weights `[inputs, columns]`, `per_word` inputs to a word, that are wanted for it only: they are packed panel by panel, just before each
/// is used. `false` where one is not finite.
pub fn product_once(
    spikes: &Spikes,
    x: Elements<'_>,
    w: Matrix<'_>,
    [inputs, columns, per_word]: [usize; 3],
    buffers: &Buffers,
    to: &Target<'_>,
) -> bool {
    let worth = threads() > 1 && spikes.count * columns > WORTH_A_THREAD;
    let width = Packed::width_of(columns);
    let panels = columns.div_ceil(width);
    let each = worth && panels >= threads();
    let panel = |sums: &mut Vec<[f32; LANES]>, p: usize| {
        let first_column = p * width;
        let own = Matrix { values: &w.values[first_column * w.column..], ..w };
        let sizes = [inputs, width.min(columns - first_column)];
        let Some(packed) = Packed::new(own, sizes, per_word, |n| buffers.take(n)) else { return false };
        let part = Part { spikes, x, w: &packed, first_column };
        let tasks = packed.panels() * part.groups();
        if worth && !each {
            (0..tasks).into_par_iter().for_each_init(Vec::new, |sums, t| part.compute(t, sums, to));
        } else {
            (0..tasks).for_each(|t| part.compute(t, sums, to));
        }
        buffers.give(packed.into_memory());
        true
    };
    if each {
        (0..panels).into_par_iter().map_init(Vec::new, panel).all(|done| done)
    } else {
        (0..panels).all(|p| panel(&mut Vec::new(), p))
    }
}

/// Spikes times some columns of weights.
struct Part<'a> {
    spikes: &'a Spikes,
    x: Elements<'a>,
    w: &'a Packed,
    first_column: usize,
}

impl Part<'_> {
    fn groups(&self) -> usize {
        self.spikes.rows.div_ceil(self.spikes.group)
    }

    /// Task `t`: a panel and a group of rows. Only [`product`] and [`product_once`] call this, each task once.
    fn compute(&self, t: usize, sums: &mut Vec<[f32; LANES]>, to: &Target<'_>) {
        let (spikes, w) = (self.spikes, self.w);
        let (p, g) = (t / self.groups(), t % self.groups());
        sums_of(spikes, self.x.values(), g, w, p, sums);
        let (first_row, first_column) = (g * spikes.group, self.first_column + p * w.width());
        let rows = spikes.group.min(spikes.rows - first_row);
        let columns = w.width().min(w.columns - p * w.width());
        assert!(first_row + rows <= to.rows && first_column + columns <= to.columns, "all sums have a place");
        let mut done = 0;
        while done < rows {
            let (block, row) = ((first_row + done) / to.block, (first_row + done) % to.block);
            let some = (to.block - row).min(rows - done);
            // SAFETY: these rows and columns are inside of the output, as is asserted above and where the target was made, and belong to this task.
            unsafe {
                let place = to.to.get().add(block * to.blocks + row * to.row + first_column * to.column);
                write(&sums[done * w.lanes..(done + some) * w.lanes], w.lanes, columns, place, to.row, to.column);
            }
            done += some;
        }
    }
}

/// Writes sums `[row][lanes]` of `width` columns, with the distances of rows and columns.
///
/// # Safety
/// All these elements are inside of what `to` points to, and nobody else reads or writes them.
unsafe fn write(sums: &[[f32; LANES]], lanes: usize, width: usize, to: *mut f32, row: usize, column: usize) {
    if column == 1 {
        for (r, sums) in sums.chunks_exact(lanes).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr().cast(), to.add(r * row), width) };
        }
        return;
    }
    assert_eq!(row, 1, "rows or columns are side by side");
    for (block, sums) in sums.chunks(LANES * lanes).enumerate() {
        for first in (0..width).step_by(LANES) {
            let size = [sums.len() / lanes, LANES.min(width - first)];
            // SAFETY: the caller's promise.
            unsafe { transpose_to(&sums.as_flattened()[first..], lanes * LANES, size, to.add(block * LANES + first * column), column) };
        }
    }
}

/// Writes sums `[row][lanes]` as `out[column]`, `distance` apart.
pub fn write_transposed(sums: &[[f32; LANES]], lanes: usize, width: usize, distance: usize, out: &mut [f32]) {
    let rows = sums.len() / lanes;
    assert!(rows <= distance && (width - 1) * distance + rows <= out.len(), "the output has a place for every sum");
    // SAFETY: the assertion above, and `out` belongs to the caller.
    unsafe { write(sums, lanes, width, out.as_mut_ptr(), 1, distance) };
}

/// The sums of a group of rows in a panel, `[row][lanes]`.
pub fn sums_of(spikes: &Spikes, x: &[f32], group: usize, w: &Packed, panel: usize, sums: &mut Vec<[f32; LANES]>) {
    assert_eq!(spikes.words, w.words, "spikes and weights have the same inputs");
    sums.clear();
    sums.resize(spikes.group * w.lanes, [0.0; LANES]);
    let per = WORD * w.lanes;
    let weights = &w.data.as_chunks::<LANES>().0[panel * w.words * per..(panel + 1) * w.words * per];
    for (n, sums) in sums.chunks_mut(SORTED * w.lanes).enumerate() {
        let first = group * spikes.words * spikes.group + n * SORTED;
        let block = Block {
            bits: &spikes.bits[first..],
            order: &spikes.order[first..],
            rows: sums.len() / w.lanes,
            distance: spikes.group,
            // Most of the weights of a word are wanted then.
            ahead: spikes.group as f64 * spikes.density() >= 1.0,
        };
        let Some(values) = &spikes.values else {
            match w.lanes {
                1 => add::<1>(block, weights, sums),
                2 => add::<2>(block, weights, sums),
                3 => add::<3>(block, weights, sums),
                _ => add::<4>(block, weights, sums),
            }
            continue;
        };
        let rows = &values.rows[(group * spikes.group + n * SORTED).min(values.rows.len())..];
        match w.lanes {
            1 => add_values_1(block, weights, x, rows, &values.inputs, sums),
            2 => add_values_2(block, weights, x, rows, &values.inputs, sums),
            3 => add_values_3(block, weights, x, rows, &values.inputs, sums),
            _ => add_values_4(block, weights, x, rows, &values.inputs, sums),
        }
    }
}

/// The spikes of up to [`SORTED`] rows.
#[derive(Clone, Copy)]
struct Block<'a> {
    /// `[word][row]`.
    bits: &'a [u64],
    /// The same of the order of rows.
    order: &'a [u8],
    /// How many rows there are.
    rows: usize,
    /// How far apart words are, of which there may be more rows.
    distance: usize,
    /// Are the weights of the next word asked for while those of one are added?
    ahead: bool,
}

impl<'a> Block<'a> {
    /// The bits of a word, the rows two by two where their sums stay in registers, and the others.
    #[inline(always)]
    fn word<const N: usize>(self, w: usize) -> (&'a [u64], &'a [[u8; 2]], &'a [u8]) {
        let places = w * self.distance..w * self.distance + self.rows;
        let order = &self.order[places.clone()];
        let (pairs, rest) = if two_rows_fit(N) { order.as_chunks::<2>() } else { (&[][..], order) };
        (&self.bits[places], pairs, rest)
    }

    /// Of `words` the one after `w`, if it is asked for: parts for each pair of rows, or each row.
    #[inline(always)]
    fn ahead<'w, const N: usize>(self, words: &'w [[[[f32; LANES]; N]; WORD]], w: usize) -> Ahead<'w, N> {
        let next: &[[[f32; LANES]; N]] = if self.ahead { words.get(w + 1).map_or(&[], |next| next) } else { &[] };
        Ahead(next.chunks(next.len().div_ceil(self.rows.div_ceil(2)).max(1)))
    }
}

/// Weights that are asked for before they are added.
struct Ahead<'w, const N: usize>(std::slice::Chunks<'w, [[f32; LANES]; N]>);

impl<const N: usize> Ahead<'_, N> {
    /// Asks for the next part.
    #[inline(always)]
    fn ask(&mut self) {
        self.0.next().unwrap_or_default().as_flattened().iter().for_each(prefetch);
    }
}

/// Do the sums of two rows stay in registers together, with something left?
#[inline(always)]
fn two_rows_fit(lanes: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    let floats = match Width::of_this_processor() {
        Width::Avx512 => 32 * 16,
        Width::Avx2 => 16 * 8,
        Width::Plain => 16 * 4,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let floats = 32 * 4;
    2 * lanes * LANES <= floats / 4 * 3
}

/// A sum in each lane with a product added. Arrays that are made whole, and have names of their own, stay in registers.
#[inline(always)]
fn added(sum: [f32; LANES], value: f32, w: &[f32; LANES]) -> [f32; LANES] {
    std::array::from_fn(|i| sum[i] + value * w[i])
}

/// Makes the function for panels of so many lanes.
macro_rules! add_values {
    ($name:ident: $($sum:ident $other:ident $lane:literal),*) => {
        simd_dispatch! {
            /// As [`add`], with weights multiplied by the values of the spikes. These are the elements of `x` of number
            /// `rows[row] + inputs[input]`; rows that are missing there have no spikes.
            fn $name(block: Block<'_>, weights: &[[f32; LANES]], x: &[f32], rows: &[i32], inputs: &[i32], sums: &mut [[f32; LANES]]) {
                const N: usize = [$($lane),*].len();
                let sums = sums.as_chunks_mut::<N>().0;
                let words = weights.as_chunks::<N>().0.as_chunks::<WORD>().0;
                for (w, (weights, inputs)) in words.iter().zip(inputs.as_chunks::<WORD>().0).enumerate() {
                    let (bits, pairs, rest) = block.word::<N>(w);
                    let mut ahead = block.ahead(words, w);
                    for pair in pairs {
                        ahead.ask();
                        let [r, s] = pair.map(usize::from);
                        let (mut first, mut second) = (bits[r], bits[s]);
                        if second == 0 {
                            continue;
                        }
                        let ([$(mut $sum),*], [$(mut $other),*]) = (sums[r], sums[s]);
                        let (row, other) = (if first == 0 { 0 } else { rows[r] }, rows[s]);
                        while let Some(i) = next_one(&mut first) {
                            let j = next_one(&mut second).unwrap_or_default();
                            let (v, w) = (x[(row + inputs[i]) as usize], x[(other + inputs[j]) as usize]);
                            $($sum = added($sum, v, &weights[i][$lane]);)*
                            $($other = added($other, w, &weights[j][$lane]);)*
                        }
                        while let Some(j) = next_one(&mut second) {
                            let w = x[(other + inputs[j]) as usize];
                            $($other = added($other, w, &weights[j][$lane]);)*
                        }
                        (sums[r], sums[s]) = ([$($sum),*], [$($other),*]);
                    }
                    for r in rest {
                        ahead.ask();
                        let r = *r as usize;
                        let mut ones = bits[r];
                        if ones == 0 {
                            continue;
                        }
                        let (row, [$(mut $sum),*]) = (rows[r], sums[r]);
                        while let Some(i) = next_one(&mut ones) {
                            let value = x[(row + inputs[i]) as usize];
                            $($sum = added($sum, value, &weights[i][$lane]);)*
                        }
                        sums[r] = [$($sum),*];
                    }
                }
            }
        }
    };
}
add_values!(add_values_1: a e 0);
add_values!(add_values_2: a e 0, b f 1);
add_values!(add_values_3: a e 0, b f 1, c g 2);
add_values!(add_values_4: a e 0, b f 1, c g 2, d h 3);

/// Takes the lowest one of a word away, and says which it was.
#[inline(always)]
fn next_one(ones: &mut u64) -> Option<usize> {
    let lowest = ones.trailing_zeros() as usize;
    (*ones != 0).then(|| {
        *ones &= *ones - 1;
        lowest % WORD
    })
}

/// Adds the weights of a spike. The sums of a row are an array of a known size, which the compiler keeps in registers, however wide these are.
#[inline(always)]
fn add_row<const N: usize>(sum: &mut [[f32; LANES]; N], weights: &[[f32; LANES]; N]) {
    for (sum, w) in sum.iter_mut().zip(weights) {
        sum.iter_mut().zip(w).for_each(|(sum, w)| *sum += w);
    }
}

simd_dispatch! {
    /// Adds to the sums of rows, `[row][lanes]`, the weights, `[word][WORD inputs][lanes]`, of their spikes, word by word. Rows are taken in an order in
    /// which none has fewer spikes than the one before, so that the loop over them ends where the processor expects it.
    ///
    /// Bound by reading weights from the L1 cache: about three cycles for sixty-four floats on a Zen 5.
    fn add<const N: usize>(block: Block<'_>, weights: &[[f32; LANES]], sums: &mut [[f32; LANES]]) {
        let sums = sums.as_chunks_mut::<N>().0;
        let words = weights.as_chunks::<N>().0.as_chunks::<WORD>().0;
        for (w, weights) in words.iter().enumerate() {
            let (bits, pairs, rest) = block.word::<N>(w);
            let mut ahead = block.ahead(words, w);
            for pair in pairs {
                ahead.ask();
                let [r, s] = pair.map(usize::from);
                let (mut first, mut second) = (bits[r], bits[s]);
                if second == 0 {
                    continue;
                }
                let (mut a, mut b) = (sums[r], sums[s]);
                while let Some(i) = next_one(&mut first) {
                    let j = next_one(&mut second).unwrap_or_default();
                    add_row(&mut a, &weights[i]);
                    add_row(&mut b, &weights[j]);
                }
                while let Some(j) = next_one(&mut second) {
                    add_row(&mut b, &weights[j]);
                }
                (sums[r], sums[s]) = (a, b);
            }
            for r in rest {
                ahead.ask();
                let r = *r as usize;
                let (mut ones, mut sum) = (bits[r], sums[r]);
                while let Some(i) = next_one(&mut ones) {
                    add_row(&mut sum, &weights[i]);
                }
                sums[r] = sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spikes::Densest;
    use crate::testing::numbers;

    /// Packs into memory that held something else.
    fn packed(w: &[f32], sizes: [usize; 2], row: usize, column: usize) -> Option<Packed> {
        Packed::new(Matrix { values: w, row, column }, sizes, WORD, |n| vec![7.0; n])
    }

    /// Random spikes `[rows, inputs]`, or values of few elements, weights `[columns, inputs]`, and their product in the plain order.
    fn example(rows: usize, inputs: usize, columns: usize, density: f32, ones: bool) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let mut next = numbers((rows * inputs + columns) as u64);
        let mut value = || {
            if next() >= density {
                0.0
            } else if ones {
                1.0
            } else {
                next() - 0.5
            }
        };
        let x: Vec<f32> = (0..rows * inputs).map(|_| value()).collect();
        let w: Vec<f32> = (0..columns * inputs).map(|_| next() - 0.5).collect();
        let sum = |i: usize| (0..inputs).fold(0f32, |s, k| s + x[i / columns * inputs + k] * w[i % columns * inputs + k]);
        let product = (0..rows * columns).map(sum).collect();
        (x, w, product)
    }

    #[test]
    fn sums_are_those_of_the_plain_order_to_the_bit() {
        for (density, ones) in [(0.0, true), (0.01, true), (0.04, true), (0.1, true), (0.5, true), (0.02, false), (0.3, false)] {
            for (rows, inputs, columns) in [(1, 40, 10), (5, 300, 96), (3, 2500, 200), (7, 1024, 97), (130, 64, 33), (257, 65, 17)] {
                let (x, w, want) = example(rows, inputs, columns, density, ones);
                let weights = packed(&w, [inputs, columns], 1, inputs).unwrap();
                let spikes = Spikes::find(x[..].into(), inputs, Densest::ANY).unwrap();
                let mut out = vec![f32::NAN; rows * columns];
                product(&spikes, x[..].into(), &weights, &Target::matrix(rows, columns, false, &mut out));
                let same = out.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{rows} {inputs} {columns} {density}");
                // The same weights the other way round, and the result too.
                let w: Vec<f32> = (0..w.len()).map(|i| w[i % columns * inputs + i / columns]).collect();
                let weights = packed(&w, [inputs, columns], columns, 1).unwrap();
                product(&spikes, x[..].into(), &weights, &Target::matrix(rows, columns, true, &mut out));
                let same = out.iter().enumerate().all(|(i, a)| a.to_bits() == want[i % rows * columns + i / rows].to_bits());
                assert!(same, "{rows} {inputs} {columns} {density}, transposed");
            }
        }
    }

    #[test]
    fn every_width_of_vectors_gives_the_same() {
        for lanes in 1..=WIDEST / LANES {
            let (x, w, _) = example(9, 128, lanes * LANES, 0.3, lanes % 2 == 0);
            let spikes = Spikes::find(x[..].into(), 128, Densest::ANY).unwrap();
            let weights = packed(&w, [128, lanes * LANES], 1, 128).unwrap();
            assert_eq!(weights.lanes, lanes);
            let sums = crate::simd::of_every_width(|| {
                let mut sums = Vec::new();
                sums_of(&spikes, &x, 0, &weights, 0, &mut sums);
                sums
            });
            assert!(sums.iter().all(|s| *s == sums[0]));
        }
    }

    #[test]
    fn weights_that_are_not_finite_are_refused() {
        assert!(packed(&[1.0, f32::INFINITY], [2, 1], 1, 2).is_none());
        assert!(packed(&[1.0, f32::NAN], [2, 1], 1, 2).is_none());
    }
}

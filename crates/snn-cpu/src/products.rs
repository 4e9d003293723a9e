//! Contractions: through the `gemm` crate, or by spike indices.
#![allow(unsafe_code)]

use gemm::Parallelism;
use rayon::prelude::*;

use snn_plan::buffers::Buffers;
use snn_plan::product::{ProductPlan, Side};

use crate::integers::{self, Integers};
use crate::panels::{Identity, Kept, Packed, Target, product, product_once};
use crate::shared::offset;
use crate::spikes::{Densest, Elements, Spikes, WORD, sampled_density};
use crate::ways::Products;

/// A product that is computed.
pub struct Product<'a> {
    /// What is multiplied.
    pub plan: &'a ProductPlan,
    /// The packed weights of the last run, by [`ProductPlan::packed`].
    pub packed: &'a [Kept],
    /// Where memory for a product comes from.
    pub buffers: &'a Buffers,
    /// How it is computed.
    pub products: Products,
}

impl std::ops::Deref for Product<'_> {
    type Target = ProductPlan;

    fn deref(&self) -> &ProductPlan {
        self.plan
    }
}

/// Are the additions for spikes in `k` rows so many fewer than the products that it pays to write sums only after all of them?
fn worth_adding(spikes: &Spikes, k: usize) -> bool {
    let density = spikes.density();
    k as f64 * (1.0 - 1.4 * density) > 32.0
}

impl Product<'_> {
    /// Computes the product by spike indices, if either operand holds few of them and the other is finite.
    pub fn execute_spikes(&self, lhs: Elements<'_>, rhs: Elements<'_>, identity: impl FnOnce() -> Identity, out: &mut [f32]) -> bool {
        self.m > 0
            && (self.spikes_times_weights(lhs, rhs, identity, out)
                || self.spikes_of_rows(lhs, rhs, out)
                || self.few_times_values(lhs, rhs, out))
    }

    /// Rows of few spikes with values that are new at each run, as delayed weights and one-hot rows of a graph are: packing them
    /// must pay too.
    fn few_times_values(&self, lhs: Elements<'_>, rhs: Elements<'_>, out: &mut [f32]) -> bool {
        let (m, n, k) = (self.m, self.n, self.k);
        let rows = self.batch.is_empty() && !self.plan.spikes && self.lhs.sum == 1 && self.lhs.free == k && m * k == lhs.len();
        let Elements::Floats(rhs) = rhs else { return false };
        if !rows || n < 16 || m < 64 || k < 64 {
            return false;
        }
        // Packing an element costs about as much as twenty products.
        let pays = |s: &Spikes, densest: Densest| s.density() < densest.ones - 20.0 / m as f64;
        let Some(spikes) = self.spikes(lhs, k, pays) else { return false };
        self.times(&spikes, lhs, Matrix { values: rhs, row: self.rhs.sum, column: self.rhs.free }, [k, n], false, out)
    }

    /// The spikes of a matrix, where it pays to add rows for them, or where that is asked for.
    fn spikes(&self, x: Elements<'_>, inputs: usize, pays: impl Fn(&Spikes, Densest) -> bool) -> Option<Spikes> {
        let densest = self.products.densest()?;
        Spikes::find(x, inputs, densest).filter(|spikes| densest == Densest::ANY || pays(spikes, densest))
    }

    /// Spikes times values that are packed for this product only; `false` where one is not finite.
    fn times(&self, spikes: &Spikes, x: Elements<'_>, values: Matrix<'_>, sizes: [usize; 2], transposed: bool, out: &mut [f32]) -> bool {
        let to = Target::matrix(spikes.rows, sizes[1], transposed, out);
        product_once(spikes, x, values, [sizes[0], sizes[1], WORD], self.buffers, &to)
    }

    fn spikes_times_weights(&self, lhs: Elements<'_>, weights: Elements<'_>, identity: impl FnOnce() -> Identity, out: &mut [f32]) -> bool {
        let Elements::Floats(weights) = weights else { return false };
        if !self.plan.spikes {
            return false;
        }
        let weights = Matrix { values: weights, row: self.rhs.sum, column: self.rhs.free };
        let (lhs, sizes) = (lhs.range(0..self.m * self.k), [self.k, self.n]);
        // Those that the run changes are packed for this product only.
        let kept = self.plan.packed.and_then(|i| self.packed.get(i)).map(|kept| (kept, identity()));
        if integers::are_fast() {
            let pack = || Integers::new(weights, sizes);
            let density = || sampled_density(lhs, self.k);
            let integers = match &kept {
                Some((kept, identity)) => kept.integers(identity.clone(), density, pack),
                None => Kept::default().integers(Identity::Named(String::new()), density, pack),
            };
            if integers.is_some_and(|w| integers::product(lhs, &w, out)) {
                return true;
            }
        }
        let Some(spikes) = self.spikes(lhs, self.k, |_, _| true) else { return false };
        let Some((kept, identity)) = kept else { return self.times(&spikes, lhs, weights, sizes, false, out) };
        let Some(packed) = kept.panels(identity, || Packed::new(weights, sizes, WORD, |n| vec![0.0; n])) else { return false };
        product(&spikes, lhs, &packed, &Target::matrix(self.m, self.n, false, out));
        true
    }

    /// Is it the gradient of weights: both operands `[k, ...]`, summed over the rows of both?
    fn is_of_rows(&self) -> bool {
        let whole = |side: &Side, n: usize| side.free == 1 && side.sum == n;
        self.batch.is_empty() && whole(&self.lhs, self.m) && whole(&self.rhs, self.n) && self.m.min(self.n) >= 16 && self.k >= 16
    }

    fn spikes_of_rows(&self, lhs: Elements<'_>, rhs: Elements<'_>, out: &mut [f32]) -> bool {
        let (m, n, k) = (self.m, self.n, self.k);
        if !self.is_of_rows() {
            return false;
        }
        let pays = |s: &Spikes, _| worth_adding(s, k);
        // Weights have the spikes' layer as the last axis more often than as the first.
        if let Elements::Floats(lhs) = lhs
            && let Some(spikes) = self.spikes(rhs.range(0..k * n), n, pays)
        {
            return self.times(&spikes.transposed(n), rhs, Matrix { values: lhs, row: m, column: 1 }, [k, m], true, out);
        }
        let Elements::Floats(rhs) = rhs else { return false };
        let Some(spikes) = self.spikes(lhs.range(0..k * m), m, pays) else { return false };
        self.times(&spikes.transposed(m), lhs, Matrix { values: rhs, row: n, column: 1 }, [k, n], false, out)
    }

    /// Computes the product into `out`.
    pub fn execute(&self, lhs: &[f32], rhs: &[f32], out: &mut [f32]) {
        let (m, n, k) = (self.m, self.n, self.k);
        if m * n == 0 {
            return;
        }
        let count = out.len() / (m * n);
        let threads = crate::shared::threads();
        let at = |strides: &[usize], i: usize| offset(self.batch.iter().copied().zip(strides.iter().copied()), i);
        let one = |i: usize, out: &mut [f32], parallelism| {
            let (a, b) = (&lhs[at(&self.lhs.batch, i).min(lhs.len())..], &rhs[at(&self.rhs.batch, i).min(rhs.len())..]);
            let a = Matrix { values: a, row: self.lhs.free, column: self.lhs.sum };
            let b = Matrix { values: b, row: self.rhs.sum, column: self.rhs.free };
            self.products.multiply(k, a, b, &mut MatrixMut::new(out, m, n, n), false, parallelism);
        };
        if count == 1 {
            // gemm divides rows and columns, never a sum: the result does not depend on the number of threads.
            one(0, out, if threads > 1 && m * n * k > 1 << 16 { Parallelism::Rayon(threads) } else { Parallelism::None });
        } else {
            out.par_chunks_mut(m * n).enumerate().for_each(|(i, out)| one(i, out, Parallelism::None));
        }
    }
}

/// A matrix: elements, and the distances of its rows and of its columns.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// From the first element on.
    pub values: &'a [f32],
    /// From a row to the next.
    pub row: usize,
    /// From a column to the next.
    pub column: usize,
}

impl Matrix<'_> {
    /// Are so many rows and columns inside?
    fn has(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// A matrix that is written: rows of elements side by side, which may be part of longer ones.
pub struct MatrixMut<'a> {
    values: *mut f32,
    rows: usize,
    columns: usize,
    /// From a row to the next.
    row: usize,
    of: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: a matrix is the only one with its elements, as a mutable slice is.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// The first columns of rows that are `row` elements apart.
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize, row: usize) -> MatrixMut<'a> {
        assert!(rows == 0 || columns == 0 || columns <= row && (rows - 1) * row + columns <= values.len());
        MatrixMut { values: values.as_mut_ptr(), rows, columns, row, of: std::marker::PhantomData }
    }

    /// Blocks of up to `columns` columns, from left to right.
    pub fn column_blocks(self, columns: usize) -> Vec<MatrixMut<'a>> {
        let block = |first: usize| {
            // SAFETY: the first element of a column of the matrix; where there are no rows, nothing is read or written there.
            let values = if self.rows == 0 { self.values } else { unsafe { self.values.add(first) } };
            MatrixMut { values, columns: columns.min(self.columns - first), ..self }
        };
        (0..self.columns).step_by(columns).map(block).collect()
    }

    /// Blocks of up to `rows` rows, from top to bottom.
    pub fn row_blocks(self, rows: usize) -> Vec<MatrixMut<'a>> {
        let block = |first: usize| {
            // SAFETY: the first element of a row of the matrix; each row is in one block.
            let values = unsafe { self.values.add(first * self.row) };
            MatrixMut { values, rows: rows.min(self.rows - first), ..self }
        };
        (0..self.rows).step_by(rows).map(block).collect()
    }

    /// Some of the rows.
    fn row_block(&mut self, rows: std::ops::Range<usize>) -> MatrixMut<'_> {
        assert!(rows.end <= self.rows);
        // SAFETY: the first element of a row of the matrix, which is borrowed meanwhile.
        let values = unsafe { self.values.add(rows.start * self.row) };
        MatrixMut { values, rows: rows.len(), columns: self.columns, row: self.row, of: std::marker::PhantomData }
    }

    /// How many rows and columns there are.
    pub fn sizes(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// All rows.
    pub fn rows_mut(&mut self) -> Vec<&mut [f32]> {
        // SAFETY: rows of the matrix, which do not overlap, and are borrowed meanwhile.
        (0..self.rows).map(|i| unsafe { std::slice::from_raw_parts_mut(self.values.add(i * self.row), self.columns) }).collect()
    }
}

/// Rows that one call of `gemm` multiplies on one thread: it copies all of them.
const MULTIPLIED_ROWS: usize = 1024;

/// `out[m, n] = a[m, k] b[k, n]`, or, where `add` is set, that is added.
pub(crate) fn multiply(k: usize, a: Matrix<'_>, b: Matrix<'_>, out: &mut MatrixMut<'_>, add: bool, parallelism: Parallelism) {
    let (m, n) = (out.rows, out.columns);
    if m * n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            out.rows_mut().into_iter().for_each(|row| row.fill(0.0));
        }
        return;
    }
    if m > MULTIPLIED_ROWS && matches!(parallelism, Parallelism::None) {
        for first in (0..m).step_by(MULTIPLIED_ROWS) {
            let a = Matrix { values: &a.values[first * a.row..], ..a };
            multiply(k, a, b, &mut out.row_block(first..m.min(first + MULTIPLIED_ROWS)), add, parallelism);
        }
        return;
    }
    assert!(a.has(m, k) && b.has(k, n));
    // SAFETY: the assertion above bounds every element of the operands that the strides reach, and `out` has its own; it aliases
    // neither, and is read only where something is added to it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.values,
            1,
            out.row as isize,
            add,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
    // A sum begins at +0, which one product of a zero and a negative number does not show.
    if k == 1 && !add {
        out.rows_mut().into_iter().flatten().for_each(|x| *x += 0.0);
    }
}

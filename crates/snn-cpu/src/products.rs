//! Contractions: through the `gemm` crate, or by the places of spikes.
#![allow(unsafe_code)]

use gemm::Parallelism;
use rayon::prelude::*;

use snn_plan::product::{ProductPlan, Side};

use crate::panels::{Identity, Kept, Packed, product};
use crate::spikes::{Spikes, WORD};

/// A product that is computed.
pub struct Product<'a> {
    /// What is multiplied.
    pub plan: &'a ProductPlan,
    /// The packed weights of the last run, by [`ProductPlan::packed`].
    pub packed: &'a [Kept],
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
    /// Computes the product by the places of spikes, if either operand holds few of them and the other is finite.
    pub fn execute_spikes(&self, lhs: &[f32], rhs: &[f32], identity: impl FnOnce() -> Identity, out: &mut [f32]) -> bool {
        self.m > 0
            && (self.spikes_times_weights(lhs, rhs, identity, out)
                || self.spikes_of_rows(lhs, rhs, out)
                || self.few_times_values(lhs, rhs, out))
    }

    /// Rows of few spikes with values that are new at each run, as one-hot rows of a graph are: packing them must pay too.
    fn few_times_values(&self, lhs: &[f32], rhs: &[f32], out: &mut [f32]) -> bool {
        let (m, n, k) = (self.m, self.n, self.k);
        let rows = self.batch.is_empty() && self.plan.packed.is_none() && self.lhs.sum == 1 && self.lhs.free == k && m * k == lhs.len();
        let whole = self.rhs.free == 1 && self.rhs.sum == n && k * n == rhs.len();
        if !rows || !whole || n < 32 || m < 64 || k < 64 {
            return false;
        }
        let Some(spikes) = Spikes::find(lhs, k).filter(|s| s.density() < 0.05) else { return false };
        let Some(packed) = Packed::new(rhs, k, WORD, n, n, 1) else { return false };
        product(&spikes, &packed, false, out);
        true
    }

    fn spikes_times_weights(&self, lhs: &[f32], weights: &[f32], identity: impl FnOnce() -> Identity, out: &mut [f32]) -> bool {
        let Some(kept) = self.plan.packed.and_then(|i| self.packed.get(i)) else { return false };
        let Some(spikes) = Spikes::find(&lhs[..self.m * self.k], self.k) else { return false };
        let pack = || Packed::new(weights, self.k, WORD, self.n, self.rhs.sum, self.rhs.free);
        let Some(packed) = kept.packed(identity(), pack) else { return false };
        product(&spikes, &packed, false, out);
        true
    }

    /// Is it the gradient of weights: both operands `[k, ...]`, summed over the rows of both?
    fn is_of_rows(&self) -> bool {
        let whole = |side: &Side, n: usize| side.free == 1 && side.sum == n;
        self.batch.is_empty() && whole(&self.lhs, self.m) && whole(&self.rhs, self.n) && self.m.min(self.n) >= 16 && self.k >= 16
    }

    fn spikes_of_rows(&self, lhs: &[f32], rhs: &[f32], out: &mut [f32]) -> bool {
        let (m, n, k) = (self.m, self.n, self.k);
        if !self.is_of_rows() {
            return false;
        }
        // Weights have the spikes' layer as the last axis more often than as the first.
        if let Some(spikes) = Spikes::find(&rhs[..k * n], n).filter(|s| worth_adding(s, k)) {
            let Some(packed) = Packed::new(lhs, k, WORD, m, m, 1) else { return false };
            product(&spikes.transposed(n), &packed, true, out);
            return true;
        }
        let Some(spikes) = Spikes::find(&lhs[..k * m], m).filter(|s| worth_adding(s, k)) else { return false };
        let Some(packed) = Packed::new(rhs, k, WORD, n, n, 1) else { return false };
        product(&spikes.transposed(m), &packed, false, out);
        true
    }

    /// Computes the product into `out`.
    pub fn execute(&self, lhs: &[f32], rhs: &[f32], out: &mut [f32]) {
        let (m, n, k) = (self.m, self.n, self.k);
        if m * n == 0 {
            return;
        }
        let count = out.len() / (m * n);
        let threads = crate::shared::threads();
        let at = |strides: &[usize], mut i: usize| {
            let mut offset = 0;
            for (size, stride) in self.batch.iter().zip(strides).rev() {
                offset += i % size * stride;
                i /= size;
            }
            offset
        };
        let one = |i: usize, out: &mut [f32], parallelism| {
            let (a, b) = (&lhs[at(&self.lhs.batch, i).min(lhs.len())..], &rhs[at(&self.rhs.batch, i).min(rhs.len())..]);
            matrix_product(m, n, k, a, self.lhs.free, self.lhs.sum, b, self.rhs.sum, self.rhs.free, out, parallelism);
        };
        if count == 1 {
            // gemm divides rows and columns, never a sum: the result does not depend on the number of threads.
            one(0, out, if threads > 1 && m * n * k > 1 << 16 { Parallelism::Rayon(threads) } else { Parallelism::None });
        } else {
            out.par_chunks_mut(m * n).enumerate().for_each(|(i, out)| one(i, out, Parallelism::None));
        }
    }
}

/// `out[m, n] = a[m, k] b[k, n]`, with the strides of rows and columns of both operands.
#[allow(clippy::too_many_arguments)]
pub(crate) fn matrix_product(
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_row: usize,
    a_column: usize,
    b: &[f32],
    b_row: usize,
    b_column: usize,
    out: &mut [f32],
    parallelism: Parallelism,
) {
    if k == 0 {
        out.fill(0.0);
        return;
    }
    let last = |rows: usize, row: usize, columns: usize, column: usize| (rows - 1) * row + (columns - 1) * column;
    assert!(last(m, a_row, k, a_column) < a.len() && last(k, b_row, n, b_column) < b.len() && m * n <= out.len());
    // SAFETY: the assertion above bounds every element that the strides reach; `out` is not read and aliases neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            a_column as isize,
            a_row as isize,
            b.as_ptr(),
            b_column as isize,
            b_row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
    // A sum begins at +0, which one product of a zero and a negative number does not show.
    if k == 1 {
        out[..m * n].iter_mut().for_each(|x| *x += 0.0);
    }
}

/// `out[m, n] += a[m, k] b[n, k]`: rows of `a` are `a_row` apart, `b` and `out` are whole.
pub(crate) fn add_matrix_product(m: usize, n: usize, k: usize, a: &[f32], a_row: usize, b: &[f32], out: &mut [f32]) {
    if m * n * k == 0 {
        return;
    }
    assert!((m - 1) * a_row + k <= a.len() && n * k <= b.len() && m * n <= out.len());
    // SAFETY: the assertion above bounds every element that the strides reach; `out` aliases neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            true,
            a.as_ptr(),
            1,
            a_row as isize,
            b.as_ptr(),
            k as isize,
            1,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

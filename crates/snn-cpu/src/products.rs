//! Contractions: through the `gemm` crate, or by the places of spikes.
#![allow(unsafe_code)]

use gemm::Parallelism;
use rayon::prelude::*;
use snn_ir::tensor::row_major_strides;
use snn_ir::{CompileError, Contraction, Graph, Node, Op, Value};

use crate::panels::{Identity, Kept, Packed, product};
use crate::spikes::{Spikes, WORD};

/// One operand of a product: a matrix for each batch, read where it is.
#[derive(Clone, Debug)]
pub struct Side {
    /// The tensor.
    pub source: Value,
    /// The order of axes to copy it into, where strides cannot describe it.
    pub permutation: Option<Vec<usize>>,
    batch: Vec<usize>,
    free: usize,
    sum: usize,
}

/// A product `[batch, m, k] x [batch, k, n]`.
#[derive(Debug)]
pub struct ProductPlan {
    /// The left operand.
    pub lhs: Side,
    /// The right operand.
    pub rhs: Side,
    batch: Vec<usize>,
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Summed.
    pub k: usize,
    /// May spikes be multiplied by their places? Then the packed weights of the last run are kept.
    spikes: Option<Kept>,
}

/// Smaller products than this are dense.
const SMALLEST_FOR_SPIKES: usize = 1 << 12;

/// Are the additions for spikes in `k` rows so many fewer than the products that it pays to write sums only after all of them?
fn worth_adding(spikes: &Spikes, k: usize) -> bool {
    let density = spikes.density();
    k as f64 * (1.0 - 1.4 * density) > 32.0
}

/// The single stride that walks over several axes in row-major order, if there is one.
fn one_stride(sizes: &[usize], strides: &[usize], axes: &[usize]) -> Option<usize> {
    let long: Vec<usize> = axes.iter().copied().filter(|a| sizes[*a] != 1).collect();
    let fits = long.windows(2).all(|w| strides[w[0]] == strides[w[1]] * sizes[w[1]]);
    fits.then(|| long.last().map_or(0, |a| strides[*a]))
}

/// `sum_first` says how an operand lies that must be copied: `[batch, sum, free]`, or `[batch, free, sum]`.
fn side(graph: &Graph, value: Value, batch: &[usize], free: &[usize], sum: &[usize], sum_first: bool) -> Result<Side, CompileError> {
    let sizes = graph.ty(value).sizes()?;
    // A transposed operand is read where it is.
    let permutation = if let Op::Transpose { permutation } = graph.op(value) { Some(permutation) } else { None };
    let (source, strides) = match permutation {
        Some(permutation) => {
            let source = graph.node(value.node).operands[0];
            let own = row_major_strides(&graph.ty(source).sizes()?);
            (source, permutation.iter().map(|a| own[*a]).collect())
        }
        None => (value, row_major_strides(&sizes)),
    };
    if let (Some(f), Some(s)) = (one_stride(&sizes, &strides, free), one_stride(&sizes, &strides, sum)) {
        return Ok(Side { source, permutation: None, batch: batch.iter().map(|a| strides[*a]).collect(), free: f, sum: s });
    }
    let (first, second) = if sum_first { (sum, free) } else { (free, sum) };
    let order: Vec<usize> = batch.iter().chain(first).chain(second).copied().collect();
    let full = match permutation {
        Some(permutation) => order.iter().map(|a| permutation[*a]).collect(),
        None => order.clone(),
    };
    let shape: Vec<usize> = order.iter().map(|a| sizes[*a]).collect();
    let own = row_major_strides(&shape);
    let row: usize = second.iter().map(|a| sizes[*a]).product();
    let (free, sum) = if sum_first { (1, row) } else { (row, 1) };
    Ok(Side { source, permutation: Some(full), batch: own[..batch.len()].to_vec(), free, sum })
}

impl ProductPlan {
    /// Plans a contraction.
    pub fn new(graph: &Graph, node: &Node, c: &Contraction) -> Result<ProductPlan, CompileError> {
        let (a, b) = (graph.ty(node.operands[0]).sizes()?, graph.ty(node.operands[1]).sizes()?);
        let (free_a, free_b) = c.free_axes(a.len(), b.len());
        let size = |s: &[usize], axes: &[usize]| axes.iter().map(|i| s[*i]).product::<usize>();
        let lhs = side(graph, node.operands[0], &c.lhs_batch, &free_a, &c.lhs_sum, false)?;
        let rhs = side(graph, node.operands[1], &c.rhs_batch, &free_b, &c.rhs_sum, true)?;
        let (m, n, k) = (size(&a, &free_a), size(&b, &free_b), size(&a, &c.lhs_sum));
        let rows = lhs.sum == 1 && (lhs.free == k || m == 1) && lhs.permutation.is_none() && rhs.permutation.is_none();
        let lasting = matches!(graph.op(rhs.source), Op::Parameter(_) | Op::Input(_));
        let spikes = c.lhs_batch.is_empty() && rows && lasting && n * k >= SMALLEST_FOR_SPIKES;
        let batch = c.lhs_batch.iter().map(|i| a[*i]).collect();
        Ok(ProductPlan { lhs, rhs, batch, m, n, k, spikes: spikes.then(Kept::default) })
    }

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
        let rows = self.batch.is_empty() && self.spikes.is_none() && self.lhs.sum == 1 && self.lhs.free == k && m * k == lhs.len();
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
        let Some(kept) = &self.spikes else { return false };
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

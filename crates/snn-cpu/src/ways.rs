//! How products are computed: one way for all of them, or the fastest by what is in their operands.

use gemm::Parallelism;
use rayon::prelude::*;
use snn_plan::convolution::Windows;

use crate::bf16;
use crate::products::{Matrix, MatrixMut, multiply};
use crate::simd::simd_dispatch;
use crate::spikes::Densest;

/// Which kernel computes a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProductKernel {
    /// The fastest at the density of the operands, which is looked at in each run.
    #[default]
    Fastest,
    /// The weights of active inputs are added, row by row, at any density.
    Rows,
    /// All products and sums, by `gemm`.
    Dense,
    /// As [`ProductKernel::Rows`], and what has no such form in the same order: every sum is the interpreter's, to the bit.
    Exact,
}

/// How products and convolutions are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Products {
    /// Which kernel.
    pub kernel: ProductKernel,
    /// Are the operands of dense products rounded to bf16? Sums are f32.
    pub bf16: bool,
}

impl Products {
    /// Up to which densities the rows of active inputs are added; nothing where they never are.
    pub fn densest(self) -> Option<Densest> {
        self.densest_of(false)
    }

    /// The same for a convolution.
    pub fn densest_in(self, windows: &Windows) -> Option<Densest> {
        self.densest_of(windows.taps() > 1)
    }

    fn densest_of(self, windows: bool) -> Option<Densest> {
        match self.kernel {
            ProductKernel::Fastest => Some(Densest::fastest(windows)),
            ProductKernel::Rows | ProductKernel::Exact => Some(Densest::ANY),
            ProductKernel::Dense => None,
        }
    }

    /// May any kernel be taken, and none of its operands be rounded?
    pub fn are_fastest(self) -> bool {
        self.kernel == ProductKernel::Fastest && !self.bf16
    }

    /// Is every sum that of the interpreter?
    pub fn is_exact(self) -> bool {
        self.kernel == ProductKernel::Exact
    }

    /// `out[m, n] = a[m, k] b[k, n]`, or, where `add` is set, that is added.
    pub(crate) fn multiply(self, k: usize, a: Matrix<'_>, b: Matrix<'_>, out: &mut MatrixMut<'_>, add: bool, parallelism: Parallelism) {
        let divided = !matches!(parallelism, Parallelism::None);
        if self.is_exact() {
            in_order(k, a, b, out, add, divided);
        } else if self.bf16 && k > 0 && out.sizes().iter().all(|n| *n > 0) {
            bf16::multiply(k, a, b, out, add, divided);
        } else {
            multiply(k, a, b, out, add, parallelism);
        }
    }
}

/// The product with every sum in the order of `k`, each product rounded before it is added, as the interpreter has it.
fn in_order(k: usize, a: Matrix<'_>, b: Matrix<'_>, out: &mut MatrixMut<'_>, add: bool, divided: bool) {
    let [m, n] = out.sizes();
    // Rows of `b` side by side.
    let rows: Vec<f32>;
    let b = if b.column == 1 || m * n * k == 0 {
        b
    } else {
        rows = (0..k * n).map(|i| b.values[i / n * b.row + i % n * b.column]).collect();
        Matrix { values: &rows, row: n, column: 1 }
    };
    let row = |(i, out): (usize, &mut [f32])| {
        if !add {
            out.fill(0.0);
        }
        (0..k).for_each(|d| add_product(out, a.values[i * a.row + d * a.column], &b.values[d * b.row..][..n]));
    };
    if divided {
        out.rows_mut().into_par_iter().enumerate().for_each(row);
    } else {
        out.rows_mut().into_iter().enumerate().for_each(row);
    }
}

simd_dispatch! {
    /// Adds a number times a row.
    fn add_product(sums: &mut [f32], x: f32, row: &[f32]) {
        sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += x * w);
    }
}

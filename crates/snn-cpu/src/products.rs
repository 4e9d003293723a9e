//! Contractions and convolutions through the `gemm` crate.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use gemm::Parallelism;
use rayon::prelude::*;
use snn_ir::tensor::row_major_strides;
use snn_ir::{CompileError, Contraction, Convolution, Graph, Node, Op, Value};

use crate::spikes::{self, Events, Packed};

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
    spikes: Option<Mutex<Kept>>,
}

/// Weights, and what they are packed into; `None` where they cannot be.
type Kept = Option<(Identity, Option<Arc<Packed>>)>;

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

/// Smaller products than this are dense.
const SMALLEST_FOR_SPIKES: usize = 1 << 12;

/// The single stride that walks over several axes in row-major order, if there is one.
fn one_stride(sizes: &[usize], strides: &[usize], axes: &[usize]) -> Option<usize> {
    let long: Vec<usize> = axes.iter().copied().filter(|a| sizes[*a] != 1).collect();
    let fits = long.windows(2).all(|w| strides[w[0]] == strides[w[1]] * sizes[w[1]]);
    fits.then(|| long.last().map_or(0, |a| strides[*a]))
}

fn side(graph: &Graph, value: Value, batch: &[usize], free: &[usize], sum: &[usize]) -> Result<Side, CompileError> {
    let sizes = graph.ty(value).sizes()?;
    // A transposed operand is read where it is.
    let (source, strides) = match graph.op(value) {
        Op::Transpose { permutation } => {
            let source = graph.node(value.node).operands[0];
            let own = row_major_strides(&graph.ty(source).sizes()?);
            (source, permutation.iter().map(|a| own[*a]).collect())
        }
        _ => (value, row_major_strides(&sizes)),
    };
    if let (Some(f), Some(s)) = (one_stride(&sizes, &strides, free), one_stride(&sizes, &strides, sum)) {
        return Ok(Side { source, permutation: None, batch: batch.iter().map(|a| strides[*a]).collect(), free: f, sum: s });
    }
    let order: Vec<usize> = batch.iter().chain(free).chain(sum).copied().collect();
    let full = match graph.op(value) {
        Op::Transpose { permutation } => order.iter().map(|a| permutation[*a]).collect(),
        _ => order.clone(),
    };
    let shape: Vec<usize> = order.iter().map(|a| sizes[*a]).collect();
    let own = row_major_strides(&shape);
    let k: usize = sum.iter().map(|a| sizes[*a]).product();
    Ok(Side { source, permutation: Some(full), batch: own[..batch.len()].to_vec(), free: k, sum: 1 })
}

impl ProductPlan {
    /// Plans a contraction.
    pub fn new(graph: &Graph, node: &Node, c: &Contraction) -> Result<ProductPlan, CompileError> {
        let (a, b) = (graph.ty(node.operands[0]).sizes()?, graph.ty(node.operands[1]).sizes()?);
        let (free_a, free_b) = c.free_axes(a.len(), b.len());
        let size = |s: &[usize], axes: &[usize]| axes.iter().map(|i| s[*i]).product::<usize>();
        let lhs = side(graph, node.operands[0], &c.lhs_batch, &free_a, &c.lhs_sum)?;
        let rhs = side(graph, node.operands[1], &c.rhs_batch, &free_b, &c.rhs_sum)?;
        let (m, n, k) = (size(&a, &free_a), size(&b, &free_b), size(&a, &c.lhs_sum));
        let rows = lhs.sum == 1 && (lhs.free == k || m == 1) && lhs.permutation.is_none() && rhs.permutation.is_none();
        let lasting = matches!(graph.op(rhs.source), Op::Parameter(_) | Op::Input(_));
        let spikes = c.lhs_batch.is_empty() && rows && lasting && n * k >= SMALLEST_FOR_SPIKES && u32::try_from(k).is_ok();
        let batch = c.lhs_batch.iter().map(|i| a[*i]).collect();
        Ok(ProductPlan { lhs, rhs, batch, m, n, k, spikes: spikes.then(|| Mutex::new(None)) })
    }

    /// Computes the product by the places of spikes, if it is one of few spikes with lasting weights.
    pub fn execute_spikes(&self, lhs: &[f32], weights: &[f32], identity: impl FnOnce() -> Identity, out: &mut [f32]) -> bool {
        let Some(kept) = &self.spikes else { return false };
        if self.m == 0 {
            return false;
        }
        let Some(events) = Events::find(&lhs[..self.m * self.k], self.k) else { return false };
        let identity = identity();
        let packed = {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                Some((old, packed)) if *old == identity => packed.clone(),
                _ => {
                    let packed = Packed::new(weights, self.k, self.n, self.rhs.sum, self.rhs.free).map(Arc::new);
                    *kept = Some((identity, packed.clone()));
                    packed
                }
            }
        };
        let Some(packed) = packed else { return false };
        spikes::product(&events, &packed, out);
        true
    }

    /// Is it the gradient of weights: both operands `[k, ...]`, summed over the rows of both?
    fn is_of_rows(&self) -> bool {
        let whole = |side: &Side, n: usize| side.permutation.is_none() && side.free == 1 && side.sum == n;
        self.batch.is_empty() && whole(&self.lhs, self.m) && whole(&self.rhs, self.n) && self.m.min(self.n) >= 16 && self.k >= 16
    }

    /// Computes the gradient of weights by the places of spikes, if it is one and either operand holds few spikes.
    pub fn execute_spikes_of_rows(&self, lhs: &[f32], rhs: &[f32], out: &mut [f32]) -> bool {
        let (m, n, k) = (self.m, self.n, self.k);
        if !self.is_of_rows() {
            return false;
        }
        // Weights have the spikes' layer as the last axis more often than as the first.
        if let Some(events) = Events::find(&rhs[..k * n], n).and_then(|e| e.transposed(n)) {
            let Some(packed) = Packed::new(lhs, k, m, m, 1) else { return false };
            let mut turned = vec![0f32; m * n];
            spikes::product(&events, &packed, &mut turned);
            crate::moves::transpose(&turned, n, m, out);
            return true;
        }
        let Some(events) = Events::find(&lhs[..k * m], m).and_then(|e| e.transposed(m)) else { return false };
        let Some(packed) = Packed::new(rhs, k, n, n, 1) else { return false };
        spikes::product(&events, &packed, out);
        true
    }

    /// Computes the product into `out`.
    pub fn execute(&self, lhs: &[f32], rhs: &[f32], out: &mut [f32]) {
        let (m, n, k) = (self.m, self.n, self.k);
        if m * n == 0 {
            return;
        }
        let count = out.len() / (m * n);
        let threads = rayon::current_num_threads();
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
fn matrix_product(
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
}

/// `out[m, n] += a[m, k] b[n, k]`: rows of `a` are `a_row` apart, `b` and `out` are whole.
fn add_matrix_product(m: usize, n: usize, k: usize, a: &[f32], a_row: usize, b: &[f32], out: &mut [f32]) {
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

/// A convolution over one or two axes.
#[derive(Clone, Debug)]
pub struct ConvolutionPlan {
    groups: usize,
    channels: usize,
    out_channels: usize,
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl ConvolutionPlan {
    /// Plans a convolution; over one axis it is one over two with a height of one.
    pub fn new(graph: &Graph, node: &Node, c: &Convolution) -> Result<ConvolutionPlan, CompileError> {
        let (x, w) = (graph.ty(node.operands[0]).sizes()?, graph.ty(node.operands[1]).sizes()?);
        let out = node.types[0].sizes()?;
        let n = c.stride.len();
        let two = |v: &[usize], one: usize| if n == 1 { [one, v[0]] } else { [v[0], v[1]] };
        let numbers = |v: &[i64]| v.iter().map(|x| *x as usize).collect::<Vec<_>>();
        Ok(ConvolutionPlan {
            groups: c.groups as usize,
            channels: x[x.len() - n - 1],
            out_channels: w[0],
            input: two(&x[x.len() - n..], 1),
            output: two(&out[out.len() - n..], 1),
            kernel: two(&w[2..], 1),
            stride: two(&numbers(&c.stride), 1),
            padding: two(&numbers(&c.padding), 0),
            dilation: two(&numbers(&c.dilation), 1),
        })
    }

    /// Computes the convolution of all images in `x` into `out`.
    pub fn execute(&self, x: &[f32], w: &[f32], out: &mut [f32]) {
        let size = |d: [usize; 2]| d[0] * d[1];
        let (plane, out_plane, taps) = (size(self.input), size(self.output), size(self.kernel));
        let (image, out_image) = (self.channels * plane, self.out_channels * out_plane);
        let per_group = (self.channels / self.groups, self.out_channels / self.groups);
        let rows = per_group.0 * taps;
        if out.is_empty() || out_image == 0 {
            return;
        }
        if self.groups == 1 && out_plane * 8 <= taps && out_plane * self.channels > 0 {
            return self.few_outputs(x, w, out);
        }
        out.par_chunks_mut(out_image).enumerate().for_each_init(
            || vec![0f32; rows * out_plane],
            |columns, (i, out)| {
                let x = &x[i * image..(i + 1) * image];
                for g in 0..self.groups {
                    for c in 0..per_group.0 {
                        let channel = g * per_group.0 + c;
                        let part = &mut columns[c * taps * out_plane..(c + 1) * taps * out_plane];
                        self.unroll(&x[channel * plane..(channel + 1) * plane], part);
                    }
                    let w = &w[g * per_group.1 * rows..(g + 1) * per_group.1 * rows];
                    let out = &mut out[g * per_group.1 * out_plane..(g + 1) * per_group.1 * out_plane];
                    matrix_product(per_group.1, out_plane, rows, w, rows, 1, columns, out_plane, 1, out, Parallelism::None);
                }
            },
        );
    }

    /// Few outputs of a large kernel, as the gradient of weights is: channel by channel, the inputs that each output meets are
    /// rows, and the sum over channels is one in the products.
    fn few_outputs(&self, x: &[f32], w: &[f32], out: &mut [f32]) {
        let size = |d: [usize; 2]| d[0] * d[1];
        let (plane, out_plane, taps) = (size(self.input), size(self.output), size(self.kernel));
        let images = out.len() / (self.out_channels * out_plane);
        // The kernel and the outputs change places.
        let turned =
            ConvolutionPlan { kernel: self.output, output: self.kernel, stride: self.dilation, dilation: self.stride, ..self.clone() };
        let some = images.div_ceil(rayon::current_num_threads().max(1)).clamp(1, 16);
        out.par_chunks_mut(some * self.out_channels * out_plane).enumerate().for_each_init(
            || (vec![0f32; some * out_plane * taps], vec![0f32; some * out_plane * self.out_channels]),
            |(rows, sums), (chunk, out)| {
                let count = out.len() / (self.out_channels * out_plane);
                let n = count * out_plane;
                sums.fill(0.0);
                for channel in 0..self.channels {
                    for i in 0..count {
                        let image = chunk * some + i;
                        let start = (image * self.channels + channel) * plane;
                        turned.unroll(&x[start..start + plane], &mut rows[i * out_plane * taps..(i + 1) * out_plane * taps]);
                    }
                    let w = &w[channel * taps..];
                    add_matrix_product(
                        self.out_channels,
                        n,
                        taps,
                        w,
                        self.channels * taps,
                        &rows[..n * taps],
                        &mut sums[..n * self.out_channels],
                    );
                }
                for (i, out) in out.chunks_exact_mut(self.out_channels * out_plane).enumerate() {
                    for (o, out) in out.chunks_exact_mut(out_plane).enumerate() {
                        out.copy_from_slice(&sums[o * n + i * out_plane..o * n + (i + 1) * out_plane]);
                    }
                }
            },
        );
    }

    /// One row for each tap of the kernel: the input elements that it meets.
    fn unroll(&self, plane: &[f32], columns: &mut [f32]) {
        let [height, width] = self.input;
        let [out_height, out_width] = self.output;
        for (tap, row) in columns.chunks_exact_mut(out_height * out_width).enumerate() {
            let (ky, kx) = (tap / self.kernel[1] * self.dilation[0], tap % self.kernel[1] * self.dilation[1]);
            for (oy, line) in row.chunks_exact_mut(out_width).enumerate() {
                let y = (oy * self.stride[0] + ky).wrapping_sub(self.padding[0]);
                if y >= height {
                    line.fill(0.0);
                    continue;
                }
                let source = &plane[y * width..(y + 1) * width];
                if self.stride[1] == 1 {
                    // x = ox + kx - padding: a run of the source between zeros.
                    let low = self.padding[1].saturating_sub(kx).min(out_width);
                    let high = (width + self.padding[1]).saturating_sub(kx).clamp(low, out_width);
                    line[..low].fill(0.0);
                    line[high..].fill(0.0);
                    if high > low {
                        let start = low + kx - self.padding[1];
                        line[low..high].copy_from_slice(&source[start..start + high - low]);
                    }
                } else {
                    for (ox, value) in line.iter_mut().enumerate() {
                        let x = (ox * self.stride[1] + kx).wrapping_sub(self.padding[1]);
                        *value = source.get(x).copied().unwrap_or(0.0);
                    }
                }
            }
        }
    }
}

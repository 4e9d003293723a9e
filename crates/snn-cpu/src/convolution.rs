//! Convolutions: windows unrolled for the `gemm` crate, or, where the input is spikes, as bits ([`crate::spike_windows`]).

use gemm::Parallelism;
use rayon::prelude::*;
use snn_ir::{CompileError, Convolution, Graph, Node};

use crate::panels::{Identity, Kept};
use crate::products::{add_matrix_product, matrix_product};
use crate::shared::threads;

/// A convolution over one or two axes.
#[derive(Debug)]
pub struct ConvolutionPlan {
    windows: Windows,
    /// For each group the packed weights of the last run.
    kept: Vec<Kept>,
}

/// Which inputs each output meets.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    pub groups: usize,
    /// Of all groups.
    pub channels: usize,
    /// Of all groups.
    pub out_channels: usize,
    /// Height and width of an image.
    pub input: [usize; 2],
    /// Height and width of a result.
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
}

impl ConvolutionPlan {
    /// Plans a convolution; over one axis it is one over two with a height of one.
    pub fn new(graph: &Graph, node: &Node, c: &Convolution) -> Result<ConvolutionPlan, CompileError> {
        let (x, w) = (graph.ty(node.operands[0]).sizes()?, graph.ty(node.operands[1]).sizes()?);
        let out = node.types[0].sizes()?;
        let n = c.stride.len();
        let two = |v: &[usize], one: usize| if n == 1 { [one, v[0]] } else { [v[0], v[1]] };
        let numbers = |v: &[i64]| v.iter().map(|x| *x as usize).collect::<Vec<_>>();
        let windows = Windows {
            groups: c.groups as usize,
            channels: x[x.len() - n - 1],
            out_channels: w[0],
            input: two(&x[x.len() - n..], 1),
            output: two(&out[out.len() - n..], 1),
            kernel: two(&w[2..], 1),
            stride: two(&numbers(&c.stride), 1),
            padding: two(&numbers(&c.padding), 0),
            dilation: two(&numbers(&c.dilation), 1),
        };
        let kept = (0..windows.groups).map(|_| Kept::default()).collect();
        Ok(ConvolutionPlan { windows, kept })
    }

    /// Computes the convolution of all images in `x` into `out`; weights of a known identity are packed once.
    pub fn execute(&self, x: &[f32], w: &[f32], identity: impl FnOnce() -> Identity, out: &mut [f32]) {
        if !self.windows.by_spikes(x, w, &self.kept, identity, out) {
            self.windows.dense(x, w, out);
        }
    }
}

impl Windows {
    /// Channels of a group, before and after.
    pub fn per_group(&self) -> (usize, usize) {
        (self.channels / self.groups, self.out_channels / self.groups)
    }

    fn dense(&self, x: &[f32], w: &[f32], out: &mut [f32]) {
        let size = |d: [usize; 2]| d[0] * d[1];
        let (plane, out_plane, taps) = (size(self.input), size(self.output), size(self.kernel));
        let (image, out_image) = (self.channels * plane, self.out_channels * out_plane);
        let per_group = self.per_group();
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
        let turned = Windows { kernel: self.output, output: self.kernel, stride: self.dilation, dilation: self.stride, ..self.clone() };
        let some = images.div_ceil(threads().max(1)).clamp(1, 16);
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

//! Convolutions: windows unrolled for the `gemm` crate, or, where the input is spikes, as bits ([`crate::spike_windows`]).

use gemm::Parallelism;
use rayon::prelude::*;
use snn_plan::convolution::{ConvolutionPlan, Windows};

use crate::panels::{Identity, Kept};
use crate::products::{add_matrix_product, matrix_product};
use crate::shared::threads;
use crate::spike_windows::BySpikes;

/// Computes the convolution of all images in `x` into `out`; weights of a known identity are packed once, into `packed`.
pub fn convolve(plan: &ConvolutionPlan, packed: &[Kept], x: &[f32], w: &[f32], identity: impl FnOnce() -> Identity, out: &mut [f32]) {
    let (windows, packed) = (&plan.windows, &packed[plan.packed..plan.packed + plan.windows.groups]);
    if !BySpikes(windows).compute(x, w, packed, identity, out) {
        Dense(windows).compute(x, w, out);
    }
}

/// Windows that are unrolled.
struct Dense<'a>(&'a Windows);

impl std::ops::Deref for Dense<'_> {
    type Target = Windows;

    fn deref(&self) -> &Windows {
        self.0
    }
}

impl Dense<'_> {
    fn compute(&self, x: &[f32], w: &[f32], out: &mut [f32]) {
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
        let turned = Windows { kernel: self.output, output: self.kernel, stride: self.dilation, dilation: self.stride, ..self.0.clone() };
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
                        Dense(&turned).unroll(&x[start..start + plane], &mut rows[i * out_plane * taps..(i + 1) * out_plane * taps]);
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

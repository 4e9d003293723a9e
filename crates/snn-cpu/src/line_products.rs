//! The gradient of a convolution's weights, line by line: an element of it is the product of the gradient's lines with the lines of
//! the input that they meet, which are where they are, so that nothing is unrolled.
//!
//! What bounds it: [`OUTS`] products for one load more than that.

use rayon::prelude::*;
use snn_plan::convolution::Windows;

use crate::panels::LANES;
use crate::shared::threads;
use crate::simd::simd_dispatch;

/// Output channels whose sums are in registers together.
const OUTS: usize = 4;
/// Tasks that a gradient is divided into at least, if it has enough channels.
const FEWEST_TASKS: usize = 8;
/// Shorter lines than this leave too much of a register empty.
const SHORTEST: usize = LANES;
/// Fewer products than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 18;

/// Sums of one block of output channels: for each element of the kernel and output channel, a sum in each lane.
type Sums = [[f32; LANES]; OUTS];

/// Is this faster than to unroll windows for `gemm`? There each element that is unrolled is worth as many products as there are
/// output channels, and each of the gradient, which is transposed, as many as there are channels and elements of the kernel.
pub fn fits(windows: &Windows) -> bool {
    let (channels, outs) = windows.per_group();
    windows.output[1] >= SHORTEST && (outs <= 16 || channels * windows.kernel[0] * windows.kernel[1] < 64)
}

/// The gradient of weights into `out[output channel, channel of a group, kernel]`, from the input and the gradient of the result.
pub fn weight_gradient(windows: &Windows, x: &[f32], g: &[f32], out: &mut [f32]) {
    let (per_group, taps) = (windows.per_group(), windows.kernel[0] * windows.kernel[1]);
    // A task has one channel, and some of the output channels that meet it.
    let parts = FEWEST_TASKS.div_ceil(windows.channels).min(per_group.1.div_ceil(OUTS));
    let outs = per_group.1.div_ceil(parts).next_multiple_of(OUTS);
    let of_channel = |c: usize| {
        let first = c / per_group.0 * per_group.1;
        (first..first + per_group.1).step_by(outs).map(move |o| (c, o..(o + outs).min(first + per_group.1)))
    };
    let tasks: Vec<_> = (0..windows.channels).flat_map(of_channel).collect();
    let one = |(c, outs): &(usize, std::ops::Range<usize>)| Lines { windows, x, g }.sums(*c, outs.clone());
    let sums: Vec<Vec<f32>> = if threads() > 1 && g.len() * per_group.0 * taps > WORTH_A_THREAD {
        tasks.par_iter().with_max_len(1).map(one).collect()
    } else {
        tasks.iter().map(one).collect()
    };
    for ((c, outs), sums) in tasks.into_iter().zip(sums) {
        for (o, sums) in outs.zip(sums.chunks_exact(taps)) {
            out[(o * per_group.0 + c % per_group.0) * taps..][..taps].copy_from_slice(sums);
        }
    }
}

struct Lines<'a> {
    windows: &'a Windows,
    x: &'a [f32],
    g: &'a [f32],
}

impl Lines<'_> {
    /// The sums of one channel and some output channels over all images, `[output channel, kernel]`.
    fn sums(&self, channel: usize, outs: std::ops::Range<usize>) -> Vec<f32> {
        let w = self.windows;
        let ([height, width], [out_height, out_width]) = (w.input, w.output);
        let (plane, out_plane, taps) = (height * width, out_height * out_width, w.kernel[0] * w.kernel[1]);
        let padded_width = width + 2 * w.padding[1];
        let blocks = outs.len().div_ceil(OUTS);
        let mut sums: Vec<Sums> = vec![[[0.0; LANES]; OUTS]; blocks * taps];
        let mut padded = vec![0f32; ((out_height - 1) * w.stride[0] + (w.kernel[0] - 1) * w.dilation[0] + 1) * padded_width];
        let mut picked = Vec::new();
        for image in 0..self.x.len() / (w.channels * plane) {
            let source = &self.x[(image * w.channels + channel) * plane..][..plane];
            for (y, line) in padded.chunks_exact_mut(padded_width).enumerate() {
                if let Some(y) = y.checked_sub(w.padding[0]).filter(|y| *y < height) {
                    line[w.padding[1]..][..width].copy_from_slice(&source[y * width..][..width]);
                }
            }
            let gradient = &self.g[(image * w.out_channels + outs.start) * out_plane..][..outs.len() * out_plane];
            for ky in 0..w.kernel[0] {
                let lines = &padded[ky * w.dilation[0] * padded_width..];
                let step = w.stride[0] * padded_width;
                for kx in 0..w.kernel[1] {
                    let from = &lines[kx * w.dilation[1]..];
                    // Where windows are apart, what one element of the kernel meets is put side by side.
                    let (from, step) = if w.stride[1] == 1 {
                        (from, step)
                    } else {
                        picked.clear();
                        for line in 0..out_height {
                            picked.extend(from[line * step..].iter().step_by(w.stride[1]).take(out_width));
                        }
                        (&picked[..], out_width)
                    };
                    for (b, gradient) in gradient.chunks(OUTS * out_plane).enumerate() {
                        // Where output channels are missing, one is summed again, for nobody.
                        let last = gradient.len() / out_plane - 1;
                        let of: [&[f32]; OUTS] = std::array::from_fn(|o| &gradient[o.min(last) * out_plane..][..out_plane]);
                        add_products(of, out_width, from, step, &mut sums[b * taps + ky * w.kernel[1] + kx]);
                    }
                }
            }
        }
        let sum = |o: usize, k: usize| sums[o / OUTS * taps + k][o % OUTS].iter().sum::<f32>();
        (0..outs.len()).flat_map(|o| (0..taps).map(move |k| (o, k))).map(|(o, k)| sum(o, k)).collect()
    }
}

simd_dispatch! {
    /// Adds to the sums of an element of the kernel the products of the lines of [`OUTS`] gradients, `width` long, with lines of `x`
    /// that are `step` apart.
    fn add_products(g: [&[f32]; OUTS], width: usize, x: &[f32], step: usize, sums: &mut Sums) {
        let [mut a, mut b, mut c, mut d] = *sums;
        for line in 0..g[0].len() / width {
            let (x, x_rest) = x[line * step..][..width].as_chunks::<LANES>();
            // Said one by one, without a call, so that the sums stay in registers.
            let at = line * width;
            let (ga, a_rest) = g[0][at..][..width].as_chunks::<LANES>();
            let (gb, b_rest) = g[1][at..][..width].as_chunks::<LANES>();
            let (gc, c_rest) = g[2][at..][..width].as_chunks::<LANES>();
            let (gd, d_rest) = g[3][at..][..width].as_chunks::<LANES>();
            for ((((x, ga), gb), gc), gd) in x.iter().zip(ga).zip(gb).zip(gc).zip(gd) {
                a = added(a, x, ga);
                b = added(b, x, gb);
                c = added(c, x, gc);
                d = added(d, x, gd);
            }
            if !x_rest.is_empty() {
                let x = filled(x_rest);
                a = added(a, &x, &filled(a_rest));
                b = added(b, &x, &filled(b_rest));
                c = added(c, &x, &filled(c_rest));
                d = added(d, &x, &filled(d_rest));
            }
        }
        *sums = [a, b, c, d];
    }
}

/// A sum in each lane with a product added. Arrays that are made whole stay in registers.
#[inline(always)]
fn added(sum: [f32; LANES], x: &[f32; LANES], g: &[f32; LANES]) -> [f32; LANES] {
    std::array::from_fn(|i| sum[i] + x[i] * g[i])
}

/// A few elements, and zeros.
#[inline(always)]
fn filled(values: &[f32]) -> [f32; LANES] {
    let mut all = [0.0; LANES];
    all[..values.len()].copy_from_slice(values);
    all
}

//! The gradient of the input of convolutions along lines: for each element of the kernel a product with the gradient of the result, moved
//! by as many elements. Nothing is unrolled; products bound it, as long as the weights of one element of the kernel stay in the L2 cache.

use gemm::Parallelism;
use rayon::prelude::*;
use snn_plan::buffers::Buffers;
use snn_plan::convolution::Windows;

use crate::products::{Matrix, MatrixMut};
use crate::shared::threads;
use crate::ways::Products;

/// Fewer channels than this on either side leave too much of a product empty.
const FEWEST_CHANNELS: usize = 16;
/// So do shorter lines.
const SHORTEST: usize = 48;
/// Fewer elements of a kernel than this are not worth an order of their own.
const FEWEST_TAPS: usize = 3;
/// Fewer products than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 18;

/// Is this faster than unrolled windows?
pub fn fits_input_gradient(windows: &Windows) -> bool {
    let lines = windows.input[0] == 1 && windows.output[0] == 1 && windows.kernel[0] == 1;
    lines
        && windows.groups == 1
        && windows.stride[1] == 1
        && windows.kernel[1] >= FEWEST_TAPS
        && windows.channels.min(windows.out_channels) >= FEWEST_CHANNELS
        && windows.input[1].min(windows.output[1]) >= SHORTEST
}

/// How many floats the gradient takes: the weights in another order.
pub fn scratch_floats(windows: &Windows) -> usize {
    windows.channels.saturating_mul(windows.out_channels).saturating_mul(windows.taps())
}

/// The gradient of the input into `out`, from that of the result.
pub fn input_gradient(windows: &Windows, products: Products, buffers: &Buffers, g: &[f32], w: &[f32], out: &mut [f32]) {
    let (channels, outs, taps) = (windows.channels, windows.out_channels, windows.taps());
    let (input, output) = (windows.input[1], windows.output[1]);
    let images = out.len() / (channels * input);
    // `[tap, output channel, channel]`.
    let mut weights = buffers.scratch(w.len());
    crate::moves::transpose(w, [outs * channels, taps], &mut weights);
    let weights = &weights[..];
    let some = |(g, out): (&[f32], &mut [f32])| {
        out.fill(0.0);
        for (tap, weights) in weights.chunks_exact(outs * channels).enumerate() {
            // Element `i` of the result meets element `i + tap dilation - padding` of the input.
            let [forward, back] = [tap * windows.dilation[1], windows.padding[1]];
            let (first, end) = (back.saturating_sub(forward), output.min((input + back).saturating_sub(forward)));
            if first >= end {
                continue;
            }
            let weights = Matrix { values: weights, row: 1, column: channels };
            for (g, out) in g.chunks_exact(outs * output).zip(out.chunks_exact_mut(channels * input)) {
                let g = Matrix { values: &g[first..], row: output, column: 1 };
                let mut out = MatrixMut::new(&mut out[first + forward - back..], channels, end - first, input);
                products.multiply(outs, weights, g, &mut out, true, Parallelism::None);
            }
        }
    };
    // As many images for each thread: the weights of an element of the kernel serve all of them.
    let worth = threads() > 1 && g.len() * channels * taps > WORTH_A_THREAD;
    let together = if worth { images.div_ceil(threads()).max(1) } else { images };
    g.par_chunks(together * outs * output).zip(out.par_chunks_mut(together * channels * input)).for_each(some);
}

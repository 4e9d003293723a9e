//! The gradient of the input of convolutions along lines with long kernels, as learnt delays have them: sums over all elements of a kernel
//! become products of frequencies, by the convolution theorem of the discrete Fourier transform (Oppenheim and Schafer, *Discrete-Time Signal
//! Processing*, section 8.7). A line is as long as gradient and kernel together, so that nothing wraps around.
//!
//! Transforms are products with matrices of cosines and sines, since lines are short and of any length, and channels and samples many. For each
//! frequency the spectrum of the result's gradient is multiplied by that of the weights: complex matrices, written as real ones of twice
//! the size. Reading weights and their spectra bounds it.
//!
//! The error of an element is that of adding up the largest ones of its line, so that what should be zero may be a rounding of these. As
//! in [`winograd`](crate::winograd), spikes decide nothing here.

use std::f64::consts::TAU;

use gemm::Parallelism;
use rayon::prelude::*;
use snn_plan::buffers::{Buffers, Scratch};
use snn_plan::convolution::Windows;

use crate::products::{Matrix, MatrixMut, multiply};

/// Shorter kernels are faster element by element.
const FEWEST_TAPS: usize = 12;
/// So are fewer channels than this on either side.
const FEWEST_CHANNELS: usize = 64;
/// Fewer images than this do not repay the spectra of the weights.
const FEWEST_IMAGES: usize = 8;
/// Frequencies that are handled at once: the spectra of their weights stay in the L3 cache.
const BLOCK: usize = 8;

/// Is this faster than a product for each element of the kernel, where [`taps`](crate::taps) fits?
pub fn fits(windows: &Windows, images: usize) -> bool {
    windows.kernel[1] >= FEWEST_TAPS && windows.channels.min(windows.out_channels) >= FEWEST_CHANNELS && images >= FEWEST_IMAGES
}

/// How many floats the gradient takes for so many images: shared, and for each thread.
pub fn scratch_floats(windows: &Windows, images: usize) -> [usize; 2] {
    let of_out = windows.channels.saturating_mul(images);
    let of_block = BlockSizes::new(windows, images).0.into_iter().fold(0, usize::saturating_add);
    [Angles::new(windows).rows().saturating_mul(of_out), of_block]
}

/// The gradient of the input into `out`, from that of the result. `false` where a sum is not finite: then `out` has to be computed in another way,
/// since here an infinite number reaches its whole line.
pub fn input_gradient(windows: &Windows, buffers: &Buffers, g: &[f32], w: &[f32], out: &mut [f32]) -> bool {
    let (channels, outs, taps) = (windows.channels, windows.out_channels, windows.taps());
    let (input, output) = (windows.input[1], windows.output[1]);
    let images = out.len() / (channels * input);
    let (of_g, of_w, of_out) = (images * outs, outs * channels, images * channels);
    let angles = Angles::new(windows);
    let (of_times, of_taps) = (angles.forward(output, 1), angles.forward(taps, windows.dilation[1]));
    // `[frequency, real or imaginary, image, channel]`.
    let mut x_spectra = buffers.scratch(angles.rows() * of_out);
    let sizes = BlockSizes::new(windows, images);
    let block = |[g_spectra, w_spectra, factor]: &mut [Scratch<'_>; 3], (first, x_spectra): (usize, &mut [f32])| {
        let rows = x_spectra.len() / of_out;
        let transform = |matrix: &[f32], n: usize, values: &[f32], lines: usize, to: &mut [f32]| {
            let matrix = Matrix { values: &matrix[first * n..], row: n, column: 1 };
            let mut to = MatrixMut::new(to, rows, lines, lines);
            multiply(n, matrix, Matrix { values, row: 1, column: n }, &mut to, false, Parallelism::None);
        };
        transform(&of_times, output, g, of_g, g_spectra);
        transform(&of_taps, taps, w, of_w, w_spectra);
        let spectra = g_spectra.chunks_exact(2 * of_g).zip(w_spectra.chunks_exact(2 * of_w));
        for ((g, w), x) in spectra.zip(x_spectra.chunks_exact_mut(2 * of_out)) {
            // The real part is `[re, -im]` of the gradient times `[re; im]` of the weights, the imaginary part `[im, re]` times that.
            let (re, im) = g.split_at(of_g);
            let (real, imaginary) = factor.split_at_mut(2 * of_g);
            let halves = |to: &mut [f32], first: &[f32], second: &[f32], sign: f32| {
                for ((to, first), second) in to.chunks_exact_mut(2 * outs).zip(first.chunks_exact(outs)).zip(second.chunks_exact(outs)) {
                    to[..outs].copy_from_slice(first);
                    to[outs..].iter_mut().zip(second).for_each(|(to, x)| *to = sign * x);
                }
            };
            halves(real, re, im, -1.0);
            halves(imaginary, im, re, 1.0);
            let (factor, w) = (Matrix { values: factor, row: 2 * outs, column: 1 }, Matrix { values: w, row: channels, column: 1 });
            let mut x = MatrixMut::new(x, 2 * images, channels, channels);
            multiply(2 * outs, factor, w, &mut x, false, Parallelism::None);
        }
    };
    x_spectra
        .par_chunks_mut(2 * BLOCK * of_out)
        .enumerate()
        .map(|(i, spectra)| (2 * BLOCK * i, spectra))
        .for_each_init(|| sizes.0.map(|n| buffers.scratch(n)), block);
    let back = angles.back(windows.padding[1], input);
    let back = Matrix { values: &back, row: input, column: 1 };
    out.par_chunks_mut(channels * input)
        .enumerate()
        .map(|(image, out)| {
            let x = Matrix { values: &x_spectra[image * channels..], row: 1, column: of_out };
            multiply(angles.rows(), x, back, &mut MatrixMut::new(out, channels, input, input), false, Parallelism::None);
            out.iter().all(|x| x.is_finite())
        })
        .reduce(|| true, |a, b| a & b)
}

/// The floats of the spectra of the gradient and of the weights in a block of frequencies, and of the gradient of one frequency as a real matrix.
struct BlockSizes([usize; 3]);

impl BlockSizes {
    fn new(windows: &Windows, images: usize) -> BlockSizes {
        let (of_g, of_w) = (windows.out_channels.saturating_mul(images), windows.out_channels.saturating_mul(windows.channels));
        BlockSizes([of_g.saturating_mul(2 * BLOCK), of_w.saturating_mul(2 * BLOCK), of_g.saturating_mul(4)])
    }
}

/// Cosines and sines of all multiples of a circle's part.
struct Angles {
    /// The elements of a line.
    length: usize,
    circle: Vec<(f64, f64)>,
}

impl Angles {
    /// For lines that hold gradient and kernel, and all elements of the input.
    fn new(windows: &Windows) -> Angles {
        let whole = windows.output[1] + (windows.kernel[1] - 1) * windows.dilation[1];
        let length = whole.max(windows.padding[1] + windows.input[1]).next_multiple_of(2);
        let angle = |i: usize| TAU * i as f64 / length as f64;
        Angles { length, circle: (0..length).map(|i| (angle(i).cos(), angle(i).sin())).collect() }
    }

    /// Real and imaginary parts of all frequencies: of real lines half of them say all.
    fn rows(&self) -> usize {
        self.length + 2
    }

    fn at(&self, frequency: usize, i: usize) -> (f64, f64) {
        self.circle[frequency * i % self.length]
    }

    /// `[rows, n]`: from `n` elements that are `apart` elements from each other to a spectrum.
    fn forward(&self, n: usize, apart: usize) -> Vec<f32> {
        let of = |row: usize, i: usize| {
            let (cos, sin) = self.at(row / 2, i * apart);
            if row.is_multiple_of(2) { cos as f32 } else { -sin as f32 }
        };
        (0..self.rows()).flat_map(|row| (0..n).map(move |i| of(row, i))).collect()
    }

    /// `[rows, n]`: from a spectrum to `n` elements of a line, the first of which is `first`.
    fn back(&self, first: usize, n: usize) -> Vec<f32> {
        let of = |row: usize, i: usize| {
            // The frequencies between none and the highest stand for two.
            let share = if row < 2 || row >= self.length { 1.0 } else { 2.0 } / self.length as f64;
            let (cos, sin) = self.at(row / 2, first + i);
            (share * if row.is_multiple_of(2) { cos } else { -sin }) as f32
        };
        (0..self.rows()).flat_map(|row| (0..n).map(move |i| of(row, i))).collect()
    }
}

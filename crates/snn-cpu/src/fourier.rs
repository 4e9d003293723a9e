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
/// Longer lines than this have large matrices.
const LONGEST: usize = 512;
/// How many times fewer products there must be, since spectra are written and read.
const LEAST_GAIN: usize = 2;
/// Frequencies that are handled at once: the spectra of their weights stay in the L3 cache.
const BLOCK: usize = 8;

/// Is this faster than a product for each element of the kernel, where [`taps`](crate::taps) fits?
pub fn fits(windows: &Windows, images: usize) -> bool {
    let (channels, outs, taps, length) = (windows.channels, windows.out_channels, windows.taps(), length(windows));
    let large = taps >= FEWEST_TAPS && channels.min(outs) >= FEWEST_CHANNELS && length <= LONGEST;
    let product = |factors: [usize; 4]| factors.into_iter().fold(1, usize::saturating_mul);
    let each = product([images, channels, outs, windows.output[1]]).saturating_mul(taps);
    // Lines to and from spectra, kernels to spectra, and the products of complex numbers of half as many frequencies.
    let transforms =
        product([images, channels.saturating_add(outs), length, length]).saturating_add(product([channels, outs, taps, length]));
    let complex = product([2 * images, channels, outs, length]);
    large && transforms.saturating_add(complex).saturating_mul(LEAST_GAIN) <= each
}

/// How many floats the gradient takes for so many images: shared, and for each thread.
pub fn scratch_floats(windows: &Windows, images: usize) -> [usize; 2] {
    let of_block = BlockSizes::new(windows, images).0.into_iter().fold(0, usize::saturating_add);
    let matrices = windows.output[1].saturating_add(windows.input[1]).saturating_add(windows.taps());
    let columns = windows.channels.saturating_mul(images).saturating_add(matrices);
    [rows(length(windows)).saturating_mul(columns), of_block]
}

/// The length of lines that hold gradient and kernel, and all elements of the input; it is even.
fn length(windows: &Windows) -> usize {
    let whole = windows.output[1].saturating_add((windows.kernel[1] - 1).saturating_mul(windows.dilation[1]));
    whole.max(windows.padding[1].saturating_add(windows.input[1])).saturating_add(1) / 2 * 2
}

/// Real and imaginary parts of all frequencies: of real lines half of them say all.
fn rows(length: usize) -> usize {
    length + 2
}

/// The gradient of the input into `out`, from that of the result. `false` where a sum is not finite: then `out` has to be computed in another way,
/// since here an infinite number reaches its whole line.
pub fn input_gradient(windows: &Windows, buffers: &Buffers, g: &[f32], w: &[f32], out: &mut [f32]) -> bool {
    let (channels, outs, taps) = (windows.channels, windows.out_channels, windows.taps());
    let (input, output) = (windows.input[1], windows.output[1]);
    let images = out.len() / (channels * input);
    let (of_g, of_w, of_out) = (images * outs, outs * channels, images * channels);
    let angles = Angles::new(length(windows));
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
    /// For lines of this length.
    fn new(length: usize) -> Angles {
        let angle = |i: usize| TAU * i as f64 / length as f64;
        Angles { length, circle: (0..length).map(|i| (angle(i).cos(), angle(i).sin())).collect() }
    }

    fn rows(&self) -> usize {
        rows(self.length)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taps;
    use crate::ways::Products;
    use snn_ir::Convolution;

    #[test]
    fn frequencies_give_what_elements_give() {
        // Images, channels, channels of results, input, kernel, padding, dilation.
        for [images, channels, outs, input, kernel, padding, dilation] in [
            [8, 70, 64, 124, 25, 0, 1],
            [3, 64, 66, 61, 24, 30, 2],
            [1, 65, 64, 50, 13, 6, 1],
            [9, 16, 17, 49, 12, 40, 1],
            [2, 64, 64, 300, 15, 0, 3],
        ] {
            let output = input + 2 * padding - dilation * (kernel - 1);
            let list = |n: usize| vec![1, n as i64];
            let c = Convolution { stride: vec![1, 1], padding: vec![0, padding as i64], dilation: list(dilation), groups: 1 };
            let windows = Windows::new(&c, &[images, channels, 1, input], &[outs, channels, 1, kernel], &[images, outs, 1, output]);
            let mut next = crate::testing::numbers(input as u64);
            let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| next() - 0.5).collect() };
            let (g, w) = (numbers(images * outs * output), numbers(outs * channels * kernel));
            let buffers = Buffers::new(0);
            let [mut found, mut want] = [(); 2].map(|()| vec![f32::NAN; images * channels * input]);
            assert!(input_gradient(&windows, &buffers, &g, &w, &mut found));
            taps::input_gradient(&windows, Products::default(), &buffers, &g, &w, &mut want);
            let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            let off = found.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(off <= 2e-6 * largest, "{off} of {largest}");
        }
    }

    #[test]
    fn short_kernels_and_long_lines_are_left_alone() {
        let windows = |input: usize, kernel: usize, channels: usize| {
            let c = Convolution { stride: vec![1, 1], padding: vec![0, 0], dilation: vec![1, 1], groups: 1 };
            Windows::new(&c, &[16, channels, 1, input], &[channels, channels, 1, kernel], &[16, channels, 1, input + 1 - kernel])
        };
        assert!(fits(&windows(124, 25, 256), 16));
        for (input, kernel, channels, images) in
            [(124, 9, 256, 16), (124, 25, 32, 16), (124, 25, 256, 1), (2048, 25, 256, 16), (400, 12, 64, 16)]
        {
            assert!(!fits(&windows(input, kernel, channels), images), "{input} {kernel} {channels} {images}");
        }
    }
}

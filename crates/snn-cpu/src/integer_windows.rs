//! Convolutions of spikes, or of small counts, by integer weights: the products of [`crate::integers`].
//!
//! Images become bytes with their channels side by side, between zeros: then what an output meets is a few runs of bytes, which are copied behind each
//! other as a row of the product.
#![allow(unsafe_code)]

use std::sync::Arc;

use rayon::prelude::*;
use snn_plan::convolution::Windows;

use crate::integers::{BAND, DEPTH, Integers, WIDTH, WORTH_A_THREAD, are_fast, narrow};
use crate::panels::{Identity, Kept};
use crate::shared::{Shared, threads};
use crate::spikes::{Elements, sampled_density};

/// Fewer output channels than this leave too much of a panel empty.
const FEWEST_CHANNELS: usize = 16;
/// Fewer terms of a sum than this are not worth being copied.
const FEWEST_TERMS: usize = 64;

/// A convolution of small integers.
pub struct ByIntegers<'a>(pub &'a Windows);

impl std::ops::Deref for ByIntegers<'_> {
    type Target = Windows;

    fn deref(&self) -> &Windows {
        self.0
    }
}

impl ByIntegers<'_> {
    /// Is it worth looking for integers?
    fn fits(&self) -> bool {
        let (channels, out_channels) = self.per_group();
        are_fast() && out_channels >= FEWEST_CHANNELS && channels * self.taps() >= FEWEST_TERMS
    }

    /// The height and width of what all windows together meet.
    fn padded(&self) -> [usize; 2] {
        [0, 1].map(|a| (self.output[a] - 1) * self.stride[a] + (self.kernel[a] - 1) * self.dilation[a] + 1)
    }

    /// Terms of a sum.
    fn terms(&self) -> usize {
        self.per_group().0 * self.taps()
    }

    /// Bytes of weights that are kept, of all groups.
    pub fn kept_bytes(&self) -> usize {
        if self.fits() { self.groups.saturating_mul(Integers::bytes([self.terms(), self.per_group().1])) } else { 0 }
    }

    /// Bytes that are taken for inputs of so many elements on so many threads.
    pub fn scratch_bytes(&self, inputs: usize, threads: usize) -> usize {
        if !self.fits() {
            return 0;
        }
        let [height, width] = self.padded();
        let images = self.images(inputs);
        let own = BAND * (self.terms().next_multiple_of(DEPTH) + WIDTH * size_of::<f32>());
        images.saturating_mul(self.channels * height * width).saturating_add(threads.saturating_mul(own))
    }

    /// Computes the convolution; `false` where weights or inputs are not such integers, or so few inputs are active that their weights are added faster.
    pub fn compute(&self, x: Elements<'_>, w: &[f32], kept: &[Kept], identity: &Identity, out: &mut [f32]) -> bool {
        if !self.fits() || x.is_empty() {
            return false;
        }
        let ((channels, out_channels), taps) = (self.per_group(), self.taps());
        // The terms of a sum in the order of the bytes: element by element of the kernel, channel by channel.
        let pack = |g: usize| {
            let at = |i: usize, o: usize| w[((g * out_channels + o) * channels + i % channels) * taps + i / channels];
            kept[g].integers(identity.clone(), || sampled_density(x, self.input[1]), || Integers::of(at, [self.terms(), out_channels]))
        };
        let Some(weights) = (0..self.groups).map(pack).collect::<Option<Vec<_>>>() else { return false };
        let (bytes, most) = self.bytes_of(x);
        if !weights.iter().all(|w| w.is_exact(most)) {
            return false;
        }
        let positions = out.len() / self.out_channels;
        let bands = positions.div_ceil(BAND);
        let target = Shared(out.as_mut_ptr());
        let task = |scratch: &mut (Vec<u8>, Vec<f32>), t: usize| {
            let (band, g) = (t / self.groups, t % self.groups);
            let own = band * BAND..positions.min((band + 1) * BAND);
            self.band(&bytes, &weights[g], g, own, most, scratch, &target);
        };
        let tasks = bands * self.groups;
        if threads() > 1 && out.len() * self.terms() > WORTH_A_THREAD {
            (0..tasks).into_par_iter().for_each_init(Default::default, task);
        } else {
            let mut scratch = Default::default();
            (0..tasks).for_each(|t| task(&mut scratch, t));
        }
        true
    }

    /// The images `[line][element][channel]` as bytes between zeros, and the largest element.
    fn bytes_of(&self, x: Elements<'_>) -> (Vec<u8>, u32) {
        let ([height, width], [lines, line]) = (self.padded(), self.input);
        let (image, padded) = (self.channels * self.plane(), self.channels * height * width);
        let mut bytes = vec![0u8; x.len() / image * padded];
        let one = |row: &mut Vec<u8>, (i, to): (usize, &mut [u8])| {
            row.resize(line, 0);
            let mut most = 0;
            for (c, plane) in x.range(i * image..(i + 1) * image).chunks(self.plane()).enumerate() {
                for (y, values) in plane.chunks(line).enumerate().take(lines) {
                    narrow(values, row, &mut most);
                    let y = y + self.padding[0];
                    // What no window meets is not needed.
                    let inside = width.saturating_sub(self.padding[1]).min(line);
                    if y < height && inside > 0 {
                        let first = (y * width + self.padding[1]) * self.channels + c;
                        to[first..].iter_mut().step_by(self.channels).zip(&row[..inside]).for_each(|(to, x)| *to = *x);
                    }
                }
            }
            most
        };
        let most = bytes.par_chunks_mut(padded).enumerate().map_init(Vec::new, one).reduce(|| 0, u32::max);
        (bytes, most)
    }

    /// The results of a group at some positions, counted through all images.
    #[allow(clippy::too_many_arguments)]
    fn band(
        &self,
        bytes: &[u8],
        weights: &Arc<Integers>,
        group: usize,
        positions: std::ops::Range<usize>,
        most: u32,
        (rows, results): &mut (Vec<u8>, Vec<f32>),
        target: &Shared<f32>,
    ) {
        let ((channels, out_channels), out_plane) = (self.per_group(), self.out_plane());
        let [height, width] = self.padded();
        let stride = weights.depths() * DEPTH;
        rows.clear();
        rows.resize(positions.len() * stride, 0);
        let together = self.groups == 1 && self.dilation[1] == 1;
        for (row, p) in rows.chunks_exact_mut(stride).zip(positions.clone()) {
            let (image, place) = (p / out_plane, p % out_plane);
            let (y, x) = (place / self.output[1] * self.stride[0], place % self.output[1] * self.stride[1]);
            let first = ((image * height + y) * width + x) * self.channels + group * channels;
            let lines = row[..self.terms()].chunks_exact_mut(self.kernel[1] * channels);
            for (ky, line) in lines.enumerate() {
                let from = &bytes[first + ky * self.dilation[0] * width * self.channels..];
                if together {
                    line.copy_from_slice(&from[..line.len()]);
                    continue;
                }
                for (kx, element) in line.chunks_exact_mut(channels).enumerate() {
                    element.copy_from_slice(&from[kx * self.dilation[1] * self.channels..][..channels]);
                }
            }
        }
        results.resize(WIDTH * BAND, 0.0);
        for panel in 0..weights.panels() {
            let scales = weights.scales_of(panel);
            weights.sums(rows.as_chunks::<DEPTH>().0, panel, most, |r, sums| {
                for ((to, sum), scale) in results[r..].iter_mut().step_by(BAND).zip(sums).zip(scales) {
                    *to = *sum as f32 * scale;
                }
            });
            // Runs of positions of one image.
            let mut at = positions.start;
            while at < positions.end {
                let (image, place) = (at / out_plane, at % out_plane);
                let n = (out_plane - place).min(positions.end - at);
                for (o, own) in results.chunks_exact(BAND).enumerate().take(scales.len()) {
                    let channel = image * self.out_channels + group * out_channels + panel * WIDTH + o;
                    let own = &own[at - positions.start..][..n];
                    // SAFETY: these positions of this group belong to this task, and the result has a place for each.
                    unsafe { std::ptr::copy_nonoverlapping(own.as_ptr(), target.0.add(channel * out_plane + place), n) };
                }
                at += n;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbers;
    use snn_ir::interpret::{Randomness, evaluate};
    use snn_ir::{Convolution, DType, Op, Tensor, Type};

    /// Images, channels and groups, sizes, kernel, stride, padding and dilation, and the largest input.
    type Case = (usize, [usize; 3], [usize; 2], [usize; 2], [usize; 2], [usize; 2], [usize; 2], f32);

    const CASES: &[Case] = &[
        (3, [8, 16, 1], [9, 7], [3, 3], [1, 1], [1, 1], [1, 1], 1.0),
        (2, [16, 70, 1], [12, 13], [3, 3], [2, 2], [1, 1], [1, 1], 1.0),
        (40, [64, 32, 1], [2, 2], [3, 3], [1, 1], [1, 1], [1, 1], 3.0),
        (2, [32, 64, 2], [6, 8], [3, 3], [1, 2], [0, 2], [2, 1], 1.0),
        (2, [16, 16, 1], [10, 9], [2, 3], [1, 1], [2, 0], [1, 3], 100.0),
        (5, [128, 16, 1], [5, 5], [1, 1], [2, 2], [0, 0], [1, 1], 1.0),
        (4, [20, 24, 1], [1, 50], [1, 5], [1, 1], [0, 2], [1, 1], 1.0),
    ];

    #[test]
    fn convolutions_are_the_interpreters_to_the_bit() {
        for case in CASES {
            let (images, [channels, out_channels, groups], input, kernel, stride, padding, dilation, most) = *case;
            let out = [0, 1].map(|a| (input[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a] + 1);
            let list = |v: [usize; 2]| v.iter().map(|n| *n as i64).collect::<Vec<_>>();
            let c = Convolution { stride: list(stride), padding: list(padding), dilation: list(dilation), groups: groups as i64 };
            let (x_shape, w_shape) = ([images, channels, input[0], input[1]], [out_channels, channels / groups, kernel[0], kernel[1]]);
            let y_shape = [images, out_channels, out[0], out[1]];
            let windows = Windows::new(&c, &x_shape, &w_shape, &y_shape);
            let mut next = numbers((channels * out_channels + input[1]) as u64);
            let x = Tensor::f32(x_shape, (0..x_shape.iter().product()).map(|_| (next() * 1.4 * (most + 1.0)).floor().min(most)).collect());
            let per = w_shape[1..].iter().product::<usize>();
            let mut weight = |i: usize| (next() * 254.9 - 127.0).trunc() * ((i / per % 9) as f32 - 8.0).exp2();
            let w = Tensor::f32(w_shape, (0..out_channels * per).map(&mut weight).collect());
            let ty = Type::new(DType::F32, y_shape.map(|n| (n as i64).into()).to_vec());
            let want = evaluate(&Op::Conv(c), &[&x, &w], &[ty], &mut Randomness::Counter { seed: 0 }).unwrap().remove(0);
            let results = crate::simd::of_every_width(|| {
                let kept: Vec<Kept> = (0..groups).map(|_| Kept::default()).collect();
                let mut out = vec![f32::NAN; want.len()];
                let done = ByIntegers(&windows).compute(x.as_f32().into(), w.as_f32(), &kept, &Identity::Named("w".into()), &mut out);
                done.then(|| Tensor::f32(y_shape, out))
            });
            // Without vectors of bytes there is nothing to gain, and nothing is done.
            assert!(results[0].is_none() && results.iter().skip(1).all(|r| r.as_ref().is_some_and(|r| r.same_bits(&want))), "{case:?}");
            // What is no small integer is left to others.
            let kept: Vec<Kept> = (0..groups).map(|_| Kept::default()).collect();
            let half: Vec<f32> = x.as_f32().iter().map(|x| x + 0.5).collect();
            let mut out = vec![0.0; want.len()];
            assert!(!ByIntegers(&windows).compute(half[..].into(), w.as_f32(), &kept, &Identity::Named("w".into()), &mut out));
        }
    }
}

//! Convolutions of few channels and long lines, and their gradients: line by line, where they are, so that nothing is unrolled for
//! products that are too few to pay for it.
//!
//! What bounds them: [`OUTS`] products for each load of a line, and as many for each load of a line of the gradient in that of
//! weights, which is near the speed of multiplication while lines stay in cache. Sums of a convolution and of the gradient of its
//! input are added in the interpreter's order.

use std::ops::Range;

use rayon::prelude::*;
use snn_plan::convolution::Windows;

use crate::panels::LANES;
use crate::shared::threads;
use crate::simd::simd_dispatch;
use crate::spikes::Densest;

/// Output channels whose sums are in registers together.
const OUTS: usize = 4;
/// Tasks that a gradient is divided into at least, if it has enough channels.
const FEWEST_TASKS: usize = 8;
/// Shorter lines than this leave too much of a register empty.
const SHORTEST: usize = LANES;
/// Fewer products than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 18;

/// More output channels than this are worth unrolling windows for `gemm`.
const MOST_OUTS: usize = 16;
/// So are so many terms of a sum.
const FEW_TERMS: usize = 64;

/// Elements of lines that are joined for the gradient of weights: those of [`OUTS`] channels and of the input stay in the L1 cache.
const JOINED: usize = 1024;

/// Sums of one block of output channels: for each element of the kernel and output channel, a sum in each lane.
type Sums = [[f32; LANES]; OUTS];

/// Is this faster than to unroll windows for `gemm`? There each element that is unrolled is worth as many products as there are
/// output channels, and each of the gradient, which is transposed, as many as there are channels and elements of the kernel.
pub fn fits_weight_gradient(windows: &Windows) -> bool {
    windows.output[1] >= SHORTEST && (windows.per_group().1 <= MOST_OUTS || has_few_terms(windows))
}

/// Has each sum so few terms that neither spikes nor unrolled windows are worth looking for?
pub fn has_few_terms(windows: &Windows) -> bool {
    windows.per_group().0 * windows.taps() < FEW_TERMS
}

/// The gradient of weights into `out[output channel, channel of a group, kernel]`, from the input and the gradient of the result.
pub fn weight_gradient(windows: &Windows, x: &[f32], g: &[f32], out: &mut [f32]) {
    let (per_group, taps) = (windows.per_group(), windows.taps());
    // A task has some of the output channels of a group, and the channels that meet them: all, if these are few, so that the gradient is read once.
    let together = if has_few_terms(windows) { per_group.0 } else { 1 };
    let parts = FEWEST_TASKS.div_ceil(windows.channels / together).min(per_group.1.div_ceil(OUTS));
    let outs = per_group.1.div_ceil(parts).next_multiple_of(OUTS);
    let of_channels = |c: usize| {
        let first = c / per_group.0 * per_group.1;
        (first..first + per_group.1).step_by(outs).map(move |o| (c..c + together, o..(o + outs).min(first + per_group.1)))
    };
    let tasks: Vec<_> = (0..windows.channels).step_by(together).flat_map(of_channels).collect();
    let one = |(channels, outs): &(Range<usize>, Range<usize>)| Lines { windows, x, g }.sums(channels.clone(), outs.clone());
    let sums: Vec<Vec<f32>> = if threads() > 1 && g.len() * per_group.0 * taps > WORTH_A_THREAD {
        tasks.par_iter().with_max_len(1).map(one).collect()
    } else {
        tasks.iter().map(one).collect()
    };
    for ((channels, outs), sums) in tasks.into_iter().zip(sums) {
        let places = channels.flat_map(|c| outs.clone().map(move |o| (o * per_group.0 + c % per_group.0) * taps));
        for (at, sums) in places.zip(sums.chunks_exact(taps)) {
            out[at..][..taps].copy_from_slice(sums);
        }
    }
}

/// Is the convolution faster line by line than by unrolled windows?
pub fn fits_forward(windows: &Windows) -> bool {
    let few = windows.per_group().1 <= MOST_OUTS || has_few_terms(windows);
    windows.output[1] >= SHORTEST && windows.stride[1] == 1 && few
}

/// Up to which density of spikes their weights are added sooner than lines are multiplied: the registers that sums of spikes are in are full
/// with [`MOST_OUTS`] channels. Measured at 0.05 to 0.4; nothing where spikes are not worth looking for.
pub fn sparse(windows: &Windows) -> Option<Densest> {
    let full = windows.per_group().1 as f64 / MOST_OUTS as f64;
    (!has_few_terms(windows)).then_some(Densest { ones: 0.2 * full, values: 0.15 * full })
}

/// Is the gradient of its input?
pub fn fits_input_gradient(windows: &Windows) -> bool {
    let reach = |a: usize| windows.dilation[a] * (windows.kernel[a] - 1);
    let fits = windows.stride == [1, 1] && windows.input[1] >= SHORTEST && windows.per_group().0 <= MOST_OUTS;
    fits && [0, 1].iter().all(|a| windows.padding[*a] <= reach(*a))
}

/// A convolution of `x` by `w` into `out`.
pub fn forward(windows: &Windows, x: &[f32], w: &[f32], out: &mut [f32]) {
    let (channels, taps) = (windows.per_group().0, windows.taps());
    let sums = LineSums {
        groups: windows.groups,
        channels,
        outs: windows.per_group().1,
        input: windows.input,
        output: windows.output,
        padding: windows.padding,
        step: windows.stride[0],
        reach: [0, 1].map(|a| windows.dilation[a] * (windows.kernel[a] - 1)),
        terms: (0..channels * taps)
            .map(|i| {
                let (ky, kx) = (i % taps / windows.kernel[1], i % windows.kernel[1]);
                (i / taps, [ky * windows.dilation[0], kx * windows.dilation[1]])
            })
            .collect(),
    };
    sums.compute(x, |o, i| w[o * channels * taps + i], out);
}

/// The gradient of a convolution's input, from that of its result.
pub fn input_gradient(windows: &Windows, g: &[f32], w: &[f32], out: &mut [f32]) {
    let (channels, outs) = windows.per_group();
    let taps = windows.taps();
    let reach = [0, 1].map(|a| windows.dilation[a] * (windows.kernel[a] - 1));
    let sums = LineSums {
        groups: windows.groups,
        channels: outs,
        outs: channels,
        input: windows.output,
        output: windows.input,
        padding: [0, 1].map(|a| reach[a] - windows.padding[a]),
        step: 1,
        reach,
        // An element of the kernel that comes later meets an earlier position.
        terms: (0..outs * taps)
            .map(|i| {
                let (ky, kx) = (i % taps / windows.kernel[1], i % windows.kernel[1]);
                (i / taps, [reach[0] - ky * windows.dilation[0], reach[1] - kx * windows.dilation[1]])
            })
            .collect(),
    };
    // Output channel `o` of the sums is an input channel of the convolution, whose group it shares with the terms.
    sums.compute(g, |o, i| w[((o / channels * outs + i / taps) * channels + o % channels) * taps + i % taps], out);
}

/// Puts the lines of a plane into lines of `padded_width` with zeros around them, of which the first is number `from`; what is
/// padding stays as it is.
pub fn put_inside(
    plane: &[f32],
    [height, width]: [usize; 2],
    [top, left]: [usize; 2],
    from: usize,
    padded_width: usize,
    lines: &mut [f32],
) {
    let n = width.min(padded_width - left);
    for (y, line) in lines.chunks_exact_mut(padded_width).enumerate() {
        if let Some(y) = (from + y).checked_sub(top).filter(|y| *y < height) {
            line[left..][..n].copy_from_slice(&plane[y * width..][..n]);
        }
    }
}

/// Sums of lines times weights.
struct LineSums {
    groups: usize,
    /// Of a group, of what is summed.
    channels: usize,
    /// Of a group, of the result.
    outs: usize,
    input: [usize; 2],
    output: [usize; 2],
    /// Zeros before and after.
    padding: [usize; 2],
    /// Lines between two of the result.
    step: usize,
    /// How much further than the position of a result its terms reach.
    reach: [usize; 2],
    /// What is summed: a channel, and how far from the position of the result, in padded lines.
    terms: Vec<(usize, [usize; 2])>,
}

impl LineSums {
    /// `weight` gives that of an output channel, of all, for a term.
    fn compute(&self, x: &[f32], weight: impl Fn(usize, usize) -> f32, out: &mut [f32]) {
        let [out_height, out_width] = self.output;
        let (plane, out_plane) = (self.input[0] * self.input[1], out_height * out_width);
        let padded = [(out_height - 1) * self.step + self.reach[0] + 1, out_width + self.reach[1]];
        let size = padded[0] * padded[1];
        let offsets: Vec<usize> = self.terms.iter().map(|(c, [y, x])| c * size + y * padded[1] + x).collect();
        // For each block of output channels, the weights of all terms side by side.
        let blocks = self.outs.div_ceil(OUTS);
        let of_block = |b: usize, i: usize| {
            let (group, first) = (b / blocks, b % blocks * OUTS);
            std::array::from_fn(|o| if first + o < self.outs { weight(group * self.outs + first + o, i) } else { 0.0 })
        };
        let weights: Vec<Vec<[f32; OUTS]>> =
            (0..self.groups * blocks).map(|b| (0..self.terms.len()).map(|i| of_block(b, i)).collect()).collect();
        let one = |lines: &mut Vec<f32>, (part, out): (usize, &mut [f32])| {
            lines.clear();
            lines.resize(self.channels * size, 0.0);
            for (c, lines) in lines.chunks_exact_mut(size).enumerate() {
                put_inside(&x[(part * self.channels + c) * plane..][..plane], self.input, self.padding, 0, padded[1], lines);
            }
            for (b, out) in out.chunks_mut(OUTS * out_plane).enumerate() {
                let weights = &weights[part % self.groups * blocks + b];
                sum_lines(lines, self.step * padded[1], &offsets, weights, out_width, out_plane, out);
            }
        };
        let of_part = self.outs * out_plane;
        if threads() > 1 && out.len() * self.terms.len() > WORTH_A_THREAD {
            out.par_chunks_mut(of_part).enumerate().for_each_init(Vec::new, one);
        } else {
            let mut lines = Vec::new();
            out.chunks_mut(of_part).enumerate().for_each(|part| one(&mut lines, part));
        }
    }
}

simd_dispatch! {
    /// For each position of up to [`OUTS`] planes the sum of weights times elements, which are `offsets` from the position in lines that are
    /// `step` apart.
    fn sum_lines(x: &[f32], step: usize, offsets: &[usize], weights: &[[f32; OUTS]], width: usize, plane: usize, out: &mut [f32]) {
        for line in 0..plane / width {
            let mut column = 0;
            while column < width {
                // The last lanes of a line are computed again where it is no multiple of them.
                let first = column.min(width - LANES);
                let x = &x[line * step + first..];
                let [mut a, mut b, mut c, mut d] = [[0f32; LANES]; OUTS];
                for (offset, w) in offsets.iter().zip(weights) {
                    let Some(x) = x[*offset..].first_chunk::<LANES>() else { break };
                    a = added(a, x, &[w[0]; LANES]);
                    b = added(b, x, &[w[1]; LANES]);
                    c = added(c, x, &[w[2]; LANES]);
                    d = added(d, x, &[w[3]; LANES]);
                }
                for (out, sum) in out.chunks_exact_mut(plane).zip([a, b, c, d]) {
                    out[line * width + first..][..LANES].copy_from_slice(&sum);
                }
                column += LANES;
            }
        }
    }
}

struct Lines<'a> {
    windows: &'a Windows,
    x: &'a [f32],
    g: &'a [f32],
}

impl Lines<'_> {
    /// The sums of some channels and output channels over all images, `[channel, output channel, kernel]`.
    fn sums(&self, channels: Range<usize>, outs: Range<usize>) -> Vec<f32> {
        if self.windows.stride == [1, 1] {
            let sums = self.summed(channels.clone(), outs.clone(), true);
            // Zeros between lines make NaN of what is not finite, also where no window meets it.
            if sums.iter().all(|sum| sum.is_finite()) {
                return sums;
            }
        }
        self.summed(channels, outs, false)
    }

    /// [`Lines::sums`]; where windows follow each other, some lines of the gradient may become one long line, with zeros between them so that they
    /// are as far apart as those of the input.
    fn summed(&self, channels: Range<usize>, outs: Range<usize>, joined: bool) -> Vec<f32> {
        let w = self.windows;
        let [out_height, out_width] = w.output;
        let (plane, out_plane, taps) = (w.plane(), w.out_plane(), w.taps());
        let padded_width = w.padded_input()[1];
        let blocks = outs.len().div_ceil(OUTS);
        let mut sums: Vec<Sums> = vec![[[0.0; LANES]; OUTS]; channels.len() * blocks * taps];
        let reach = (w.kernel[0] - 1) * w.dilation[0];
        let inside = ((out_height - 1) * w.stride[0] + reach + 1) * padded_width;
        let band = (JOINED / padded_width).clamp(1, out_height);
        let long = (band * padded_width).next_multiple_of(LANES);
        // From where a cache line begins on, so that no load of a register takes two of them.
        let mut lines = vec![0f32; if joined { OUTS * long + LANES } else { 0 }];
        let aligned = lines.as_ptr().align_offset(size_of::<[f32; LANES]>()).min(lines.len());
        let lines = &mut lines[aligned..];
        let behind = if joined { band * padded_width + w.kernel[1] * w.dilation[1] + LANES } else { 0 };
        let mut padded = vec![vec![0f32; inside + behind]; channels.len()];
        let mut picked = Vec::new();
        for image in 0..self.x.len() / (w.channels * plane) {
            for (channel, padded) in channels.clone().zip(&mut padded) {
                let source = &self.x[(image * w.channels + channel) * plane..][..plane];
                put_inside(source, w.input, w.padding, 0, padded_width, &mut padded[..inside]);
            }
            let gradient = &self.g[(image * w.out_channels + outs.start) * out_plane..][..outs.len() * out_plane];
            for (b, gradient) in gradient.chunks(OUTS * out_plane).enumerate() {
                // Where output channels are missing, one is summed again, for nobody.
                let last = gradient.len() / out_plane - 1;
                let of: [&[f32]; OUTS] = std::array::from_fn(|o| &gradient[o.min(last) * out_plane..][..out_plane]);
                // Where each element of the kernel begins in each channel, and where its sums are.
                let terms = || {
                    padded.iter().enumerate().flat_map(|(c, padded)| {
                        (0..taps).map(move |tap| {
                            let (ky, kx) = (tap / w.kernel[1] * w.dilation[0], tap % w.kernel[1] * w.dilation[1]);
                            (&padded[ky * padded_width + kx..], (c * blocks + b) * taps + tap)
                        })
                    })
                };
                if joined {
                    for first in (0..out_height).step_by(band) {
                        for (to, from) in lines.chunks_exact_mut(long).zip(of) {
                            put_inside(from, w.output, [0, 0], first, padded_width, &mut to[..band * padded_width]);
                            to[(out_height - first).min(band) * padded_width..].fill(0.0);
                        }
                        for (from, sum) in terms() {
                            let lines = std::array::from_fn(|o| &lines[o * long..][..long]);
                            add_products(lines, long, &from[first * padded_width..], long, &mut sums[sum]);
                        }
                    }
                    continue;
                }
                for (from, sum) in terms() {
                    let step = w.stride[0] * padded_width;
                    if w.stride[1] == 1 {
                        add_products(of, out_width, from, step, &mut sums[sum]);
                        continue;
                    }
                    // Where windows are apart, what one element of the kernel meets is put side by side.
                    picked.clear();
                    for line in 0..out_height {
                        picked.extend(from[line * step..].iter().step_by(w.stride[1]).take(out_width));
                    }
                    add_products(of, out_width, &picked, out_width, &mut sums[sum]);
                }
            }
        }
        let of_channel = |c: usize| (0..outs.len()).flat_map(move |o| (0..taps).map(move |k| (c, o, k)));
        let sum = |(c, o, k): (usize, usize, usize)| sums[(c * blocks + o / OUTS) * taps + k][o % OUTS].iter().sum::<f32>();
        (0..channels.len()).flat_map(of_channel).map(sum).collect()
    }
}

simd_dispatch! {
    /// Adds to the sums of an element of the kernel the products of the lines of [`OUTS`] gradients, `width` long, with lines of `x`
    /// that are `step` apart.
    fn add_products(g: [&[f32]; OUTS], width: usize, x: &[f32], step: usize, sums: &mut Sums) {
        let [mut a, mut b, mut c, mut d] = *sums;
        // The last lanes of a line that is no multiple of them begin before those that were added.
        let done = width / LANES * LANES;
        let again = (LANES + done).saturating_sub(width);
        for line in 0..g[0].len() / width {
            // Said one by one, without a call, so that the sums stay in registers.
            let (at, x) = (line * width, &x[line * step..][..width]);
            let (ga, gb, gc, gd) = (&g[0][at..][..width], &g[1][at..][..width], &g[2][at..][..width], &g[3][at..][..width]);
            for ((((x, ga), gb), gc), gd) in chunks(x).zip(chunks(ga)).zip(chunks(gb)).zip(chunks(gc)).zip(chunks(gd)) {
                a = added(a, x, ga);
                b = added(b, x, gb);
                c = added(c, x, gc);
                d = added(d, x, gd);
            }
            if done < width
                && let Some(x) = x.last_chunk()
                && let (Some(ga), Some(gb), Some(gc), Some(gd)) = (ga.last_chunk(), gb.last_chunk(), gc.last_chunk(), gd.last_chunk())
            {
                let x = without_first(x, again);
                a = added(a, &x, &without_first(ga, again));
                b = added(b, &x, &without_first(gb, again));
                c = added(c, &x, &without_first(gc, again));
                d = added(d, &x, &without_first(gd, again));
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

/// The whole registers of a line.
#[inline(always)]
fn chunks(line: &[f32]) -> impl Iterator<Item = &[f32; LANES]> {
    line.as_chunks::<LANES>().0.iter()
}

/// The elements with zeros for the first ones.
#[inline(always)]
fn without_first(values: &[f32; LANES], n: usize) -> [f32; LANES] {
    std::array::from_fn(|i| if i < n { 0.0 } else { values[i] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_stays_where_it_is_met() {
        // Only the first element of the kernel meets the first column of an image.
        let windows = Windows {
            groups: 1,
            channels: 1,
            out_channels: 1,
            input: [3, 20],
            output: [3, 18],
            kernel: [1, 3],
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
        };
        let mut x = vec![1.0; 60];
        x[20] = f32::INFINITY;
        let (g, mut out) = (vec![1.0; 54], vec![0.0; 3]);
        weight_gradient(&windows, &x, &g, &mut out);
        assert_eq!(out, [f32::INFINITY, 54.0, 54.0]);
    }
}

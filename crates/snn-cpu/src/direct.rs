//! Dense convolutions and their gradients without unrolled windows: a list says which inputs and weights a sum has, and
//! [`crate::microkernel`] adds them up.
//!
//! The eight rows of a tile are positions along a line of a padded image. Where images are small, they are the same position of eight
//! images; then an element of the kernel is multiplied only where it meets one of the image, which at 2 x 2 positions and a kernel of
//! 3 x 3 is less than half of the time. Products bound it, and, where weights are larger than the cache, reading them.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use snn_plan::buffers::Buffers;
use snn_plan::convolution::{Direction, Windows};

use crate::lines::put_inside;
use crate::microkernel::{self, COLUMNS, Columns, ROWS, Terms, add_products};
use crate::panels::{Identity, Kept, LANES, Packed};
use crate::products::{Matrix, MatrixMut};
use crate::shared::threads;
use crate::simd::{prefetch, transpose};
use crate::spike_windows::inputs_of_a_word;
use crate::spikes::WORD;
use crate::winograd;

/// Fewer images than this leave too much of a tile empty.
const FEWEST_IMAGES: usize = 4;
/// Images of more places than this are computed line by line.
const MOST_PLACES: usize = 64;
/// Of a convolution forward, whose lists are longer.
const MOST_PLACES_FORWARD: usize = 16;
/// Sums of one channel that a task has at a time: with those of the other columns of a panel they stay in the L2 cache.
const SUMS: usize = 256;
/// Words of inputs whose weights pass over all of these: they stay in the L1 cache.
const WORDS: usize = 3;
/// Terms of all places together: their lists stay in the L2 cache.
const MOST_TERMS: usize = 1 << 14;
/// Floats of a padded image, or of what all images of a gradient have: they stay in the L2 cache.
const MOST_FLOATS: usize = 1 << 18;
/// Floats of all padded images of a gradient of weights.
const MOST_PADDED: usize = 1 << 20;
/// Kernels less wide than this leave too much of a tile empty.
const FEWEST_ACROSS: usize = 3;
/// Into how many parts the channels of a gradient of weights are divided.
const TASKS: usize = 8;
/// Channels of the result whose weights are in another order at a time.
const BLOCK: usize = 64;
/// How many channels of the result ahead weights are asked for.
const AHEAD: usize = 8;

/// What the rows of a tile are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// The same place of some images.
    Images,
    /// Positions along a line.
    Positions,
}

/// Is a convolution of so many images faster than with unrolled windows, and how?
fn rows(windows: &Windows, images: usize) -> Option<Rows> {
    let per_word = inputs_of_a_word(windows).filter(|_| microkernel::is_fast() && windows.groups == 1 && windows.taps() > 1)?;
    let (image, terms) = (windows.channels.saturating_mul(windows.plane()), windows.channels.saturating_mul(windows.taps()));
    let of_list = if per_word.is_multiple_of(windows.taps()) { 2 * per_word } else { terms };
    if !Packed::width_of(windows.out_channels).is_multiple_of(COLUMNS) || windows.out_channels < COLUMNS {
        return None;
    }
    let small = windows.out_plane() <= MOST_PLACES_FORWARD && windows.out_plane().saturating_mul(of_list) <= MOST_TERMS;
    if images >= FEWEST_IMAGES && small && image <= MOST_FLOATS {
        return Some(Rows::Images);
    }
    (windows.output[1] >= ROWS && padded(windows) <= MOST_FLOATS).then_some(Rows::Positions)
}

/// Is a convolution of so many images faster than with unrolled windows?
pub fn fits_forward(windows: &Windows, images: usize) -> bool {
    rows(windows, images).is_some()
}

/// Is the gradient of the input?
pub fn fits_input_gradient(windows: &Windows, images: usize) -> bool {
    let [x, g] = [windows.channels.saturating_mul(windows.plane()), windows.out_channels.saturating_mul(windows.out_plane())];
    microkernel::is_fast()
        && windows.groups == 1
        && windows.taps() > 1
        && windows.channels.min(windows.out_channels) >= COLUMNS
        && images >= FEWEST_IMAGES
        && windows.plane().max(windows.out_plane()) <= MOST_PLACES
        && images.saturating_mul(x.max(g)) <= MOST_FLOATS
}

/// Is the gradient of weights, where it is not filtered?
pub fn fits_weight_gradient(windows: &Windows, images: usize) -> bool {
    microkernel::is_fast()
        && windows.groups == 1
        && (FEWEST_ACROSS..=ROWS).contains(&windows.kernel[1])
        && windows.out_channels.is_multiple_of(COLUMNS)
        && images.saturating_mul(padded(windows)) <= MOST_PADDED
        && !winograd::fits_weight_gradient(windows, images)
}

/// The floats that all threads share, and that each takes; none where it does not fit.
pub fn scratch_floats(windows: &Windows, direction: Direction, images: usize) -> [usize; 2] {
    let width = Packed::width_of(windows.out_channels);
    match direction {
        Direction::Forward => match rows(windows, images) {
            Some(Rows::Images) => [0, images_together(windows) * windows.out_plane() * width],
            Some(Rows::Positions) => [0, padded(windows) + lines_together(windows) * windows.output[1] * width],
            None => [0, 0],
        },
        Direction::InputGradient if fits_input_gradient(windows, images) => {
            [0, COLUMNS * (images * windows.plane() + BLOCK * windows.taps())]
        }
        Direction::WeightGradient if fits_weight_gradient(windows, images) => {
            [images * padded(windows), COLUMNS * channels_together(windows) * windows.taps()]
        }
        Direction::InputGradient | Direction::WeightGradient => [0, 0],
    }
}

/// Images that a task computes at a time.
fn images_together(windows: &Windows) -> usize {
    (SUMS / windows.out_plane()).next_multiple_of(ROWS)
}

/// Lines of an image that a task computes at a time.
fn lines_together(windows: &Windows) -> usize {
    (SUMS / windows.output[1]).clamp(1, windows.output[0])
}

/// Channels whose gradients of weights a task sums.
fn channels_together(windows: &Windows) -> usize {
    windows.channels.div_ceil(TASKS)
}

/// Floats of a padded image.
fn padded(windows: &Windows) -> usize {
    windows.padded_input().iter().fold(windows.channels, |n, size| n.saturating_mul(*size))
}

/// A convolution of `x` by weights that are kept packed, or packed panel by panel into memory of `packing`; `false` where one is not
/// finite. It has to fit.
pub fn forward(
    windows: &Windows,
    kept: &Kept,
    packing: Option<&Buffers>,
    buffers: &Buffers,
    (x, w): (&[f32], &[f32]),
    identity: &Identity,
    out: &mut [f32],
) -> bool {
    let (outs, inputs) = (windows.out_channels, windows.channels * windows.taps());
    let of_out = outs * windows.out_plane();
    let images = out.len() / of_out;
    let (Some(rows), Some(per_word)) = (rows(windows, images), inputs_of_a_word(windows)) else { return false };
    let width = Packed::width_of(outs);
    let forward = Forward { windows, rows, width, parts: parts(windows, rows, per_word, width), x, buffers };
    let weights = Matrix { values: w, row: 1, column: inputs };
    let panels = MatrixMut::new(out, images, of_out, of_out).column_blocks(width * windows.out_plane());
    let each = panels.len() >= threads();
    let Some(buffers) = packing else {
        let pack = || Packed::new(weights, [inputs, outs], per_word, |n| vec![0.0; n]);
        let Some(packed) = kept.panels(identity.clone(), pack) else { return false };
        panels.into_par_iter().enumerate().for_each(|(p, out)| forward.panel(packed.panel(p), out, true));
        return true;
    };
    let once = |(p, out): (usize, MatrixMut<'_>)| {
        let own = Matrix { values: &w[p * width * inputs..], ..weights };
        let sizes = [inputs, width.min(outs - p * width)];
        let Some(packed) = Packed::in_width(width, own, sizes, per_word, |n| buffers.take(n)) else { return false };
        forward.panel(packed.panel(0), out, !each);
        buffers.give(packed.into_memory());
        true
    };
    if each { panels.into_par_iter().enumerate().all(once) } else { panels.into_iter().enumerate().all(once) }
}

/// Some of the inputs of sums.
struct SomeInputs {
    /// How far from the first elements of a row and of the weights they begin.
    first: [usize; 2],
    /// Those of each place, or of all positions: equal parts share them.
    terms: Arc<[Terms]>,
}

/// The inputs of all sums, some words at a time.
fn parts(windows: &Windows, rows: Rows, per_word: usize, width: usize) -> Vec<SomeInputs> {
    let (taps, inputs) = (windows.taps(), windows.channels * windows.taps());
    let [padded_height, padded_width] = windows.padded_input();
    let (places, of_channel) = match rows {
        Rows::Images => (windows.out_plane(), windows.plane()),
        Rows::Positions => (1, padded_height * padded_width),
    };
    // The elements of the kernel that are met from each place, and where in a channel.
    let tap_at = |tap: usize, place: usize| match rows {
        Rows::Images => met(windows, tap, place),
        Rows::Positions => Some(windows.tap(tap, padded_width)),
    };
    let met: Vec<Vec<[usize; 2]>> =
        (0..places).map(|place| (0..taps).filter_map(|tap| Some([tap, tap_at(tap, place)?])).collect()).collect();
    let terms = |inputs: Range<usize>, times: usize, steps: [usize; 2]| -> Arc<[Terms]> {
        let of_place = |met: &Vec<[usize; 2]>| {
            let channels = inputs.start / taps..inputs.end.div_ceil(taps);
            let all = channels.flat_map(|c| met.iter().map(move |[tap, at]| (c * taps + tap, c * of_channel + at)));
            let own = all.filter(|(k, _)| inputs.contains(k));
            Terms::new(own.map(|(k, at)| [at as u32, ((k / per_word * WORD + k % per_word) * width) as u32]).collect(), times, steps)
        };
        met.iter().map(of_place).collect()
    };
    // Where words have whole channels, all of them have the same terms.
    let words = if per_word.is_multiple_of(taps) { inputs / per_word } else { 0 };
    let steps = [per_word / taps * of_channel, WORD * width];
    let mut parts = Vec::new();
    for words in [0..words - words % WORDS, words - words % WORDS..words].into_iter().filter(|words| !words.is_empty()) {
        let terms = terms(0..per_word, words.len().min(WORDS), steps);
        parts.extend(words.step_by(WORDS).map(|first| SomeInputs { first: steps.map(|step| first * step), terms: terms.clone() }));
    }
    let rest = (words * per_word..inputs).step_by(WORDS * per_word);
    parts.extend(rest.map(|k| SomeInputs { first: [0, 0], terms: terms(k..inputs.min(k + WORDS * per_word), 1, [0, 0]) }));
    parts
}

/// The place of the input that an element of the kernel meets from a place of the result.
fn met(windows: &Windows, tap: usize, place: usize) -> Option<usize> {
    let at = |axis: usize, tap: usize, out: usize| {
        let at = out * windows.stride[axis] + tap * windows.dilation[axis];
        at.checked_sub(windows.padding[axis]).filter(|at| *at < windows.input[axis])
    };
    let y = at(0, tap / windows.kernel[1], place / windows.output[1])?;
    Some(y * windows.input[1] + at(1, tap % windows.kernel[1], place % windows.output[1])?)
}

struct Forward<'a> {
    windows: &'a Windows,
    rows: Rows,
    /// Of the columns of a panel.
    width: usize,
    parts: Vec<SomeInputs>,
    x: &'a [f32],
    buffers: &'a Buffers,
}

/// Some rows whose sums are computed at once.
struct Tile {
    /// Which [`Terms`] they have.
    terms: usize,
    /// Where the first begins.
    from: usize,
    /// Which sums are theirs, and those between.
    sums: Range<usize>,
}

impl Forward<'_> {
    /// Some channels of the result, whose weights are a panel, for all images.
    fn panel(&self, weights: &[f32], out: MatrixMut<'_>, parallel: bool) {
        let together = match self.rows {
            Rows::Images => images_together(self.windows),
            Rows::Positions => 1,
        };
        let scratch = || self.buffers.scratch(scratch_floats(self.windows, Direction::Forward, self.windows.images(self.x.len()))[1]);
        let some = |scratch: &mut [f32], (i, mut out): (usize, MatrixMut<'_>)| {
            let images = out.sizes()[0];
            let x = &self.x[i * together * self.of_image()..][..images * self.of_image()];
            match self.rows {
                Rows::Images => self.images(x, weights, scratch, &mut out),
                Rows::Positions => self.image(x, weights, scratch, &mut out),
            }
        };
        let tasks = out.row_blocks(together);
        if parallel {
            tasks.into_par_iter().enumerate().with_max_len(1).for_each_init(scratch, |scratch, task| some(scratch, task));
        } else {
            let mut scratch = scratch();
            tasks.into_iter().enumerate().for_each(|task| some(&mut scratch, task));
        }
    }

    fn of_image(&self) -> usize {
        self.windows.channels * self.windows.plane()
    }

    fn images(&self, x: &[f32], weights: &[f32], scratch: &mut [f32], out: &mut MatrixMut<'_>) {
        let places = self.windows.out_plane();
        let count = out.sizes()[0];
        let tile = |place: usize, first: usize| Tile {
            terms: place,
            from: first * self.of_image(),
            sums: first * places + place..(count.min(first + ROWS) - 1) * places + place + 1,
        };
        let tiles: Vec<Tile> = (0..places).flat_map(|place| (0..count).step_by(ROWS).map(move |first| tile(place, first))).collect();
        let sums = self.add(&tiles, places, (x, self.of_image()), weights, scratch.as_chunks_mut().0, count * places);
        for (i, out) in out.rows_mut().into_iter().enumerate() {
            write(sums.iter().map(|sums| &sums[i * places..][..places]), places, out);
        }
    }

    fn image(&self, x: &[f32], weights: &[f32], scratch: &mut [f32], out: &mut MatrixMut<'_>) {
        let windows = self.windows;
        let ([_, width], [down, across]) = (windows.padded_input(), windows.stride);
        let (image, scratch) = scratch.split_at_mut(padded(windows));
        pad(windows, x, image);
        let [out_height, out_width] = windows.output;
        let together = lines_together(windows);
        for out in out.rows_mut() {
            for first in (0..out_height).step_by(together) {
                let lines = together.min(out_height - first);
                let tile = |line: usize, x: usize| Tile {
                    terms: 0,
                    from: (first + line) * down * width + x * across,
                    sums: line * out_width + x..line * out_width + out_width.min(x + ROWS),
                };
                let tiles: Vec<Tile> = (0..lines).flat_map(|line| (0..out_width).step_by(ROWS).map(move |x| tile(line, x))).collect();
                let sums = self.add(&tiles, 1, (image, across), weights, scratch.as_chunks_mut().0, lines * out_width);
                write(sums.iter().copied(), windows.out_plane(), &mut out[first * out_width..]);
            }
        }
    }

    /// The sums of tiles, for each [`COLUMNS`] of the panel by themselves. The rows of `x` are `row` apart, and their sums `of_sums`.
    fn add<'s>(
        &self,
        tiles: &[Tile],
        of_sums: usize,
        (x, row): (&[f32], usize),
        weights: &[f32],
        sums: &'s mut [Columns],
        count: usize,
    ) -> Vec<&'s [Columns]> {
        let sums = &mut sums[..self.width / COLUMNS * count];
        sums.fill([0.0; COLUMNS]);
        for part in &self.parts {
            let (x, weights) = (&x[part.first[0]..], &weights[part.first[1]..]);
            // Weights that are read once come late otherwise.
            let next = weights.get(WORDS * WORD * self.width..).unwrap_or_default();
            next[..next.len().min(WORDS * WORD * self.width)].iter().step_by(LANES).for_each(prefetch);
            for (weights, sums) in (0..self.width).step_by(COLUMNS).map(|first| &weights[first..]).zip(sums.chunks_exact_mut(count)) {
                for tile in tiles {
                    add_products(&part.terms[tile.terms], &x[tile.from..], row, weights, &mut sums[tile.sums.clone()], of_sums);
                }
            }
        }
        sums.chunks_exact(count).collect()
    }
}

/// An image with zeros around it.
fn pad(windows: &Windows, image: &[f32], to: &mut [f32]) {
    let [height, width] = windows.padded_input();
    to.fill(0.0);
    for (plane, to) in image.chunks_exact(windows.plane()).zip(to.chunks_exact_mut(height * width)) {
        put_inside(plane, windows.input, windows.padding, 0, width, to);
    }
}

/// Sums of some places, [`COLUMNS`] channels after the other: `out[channel][place]` for each channel whose first place there is.
fn write<'s>(sums: impl Iterator<Item = &'s [Columns]>, plane: usize, out: &mut [f32]) {
    for (sums, out) in sums.zip(out.chunks_mut(COLUMNS * plane)) {
        for (lanes, out) in (0..COLUMNS).step_by(LANES).zip(out.chunks_mut(LANES * plane)) {
            for (i, sums) in sums.chunks(LANES).enumerate() {
                let size = [sums.len(), out.len().div_ceil(plane)];
                transpose(&sums.as_flattened()[lanes..], COLUMNS, size, &mut out[i * LANES..], plane);
            }
        }
    }
}

/// The gradient of the input into `out`, from that of the result. It has to fit.
pub fn input_gradient(windows: &Windows, buffers: &Buffers, g: &[f32], w: &[f32], out: &mut [f32]) {
    let (channels, outs, taps) = (windows.channels, windows.out_channels, windows.taps());
    let (plane, out_plane) = (windows.plane(), windows.out_plane());
    let images = windows.images(out.len());
    let of_g = outs * out_plane;
    // What meets each place.
    let mut pairs = vec![Vec::new(); plane];
    for (tap, out_place) in (0..taps).flat_map(|tap| (0..out_plane).map(move |place| (tap, place))) {
        if let Some(place) = met(windows, tap, out_place) {
            pairs[place].push([out_place as u32, (tap * COLUMNS) as u32]);
        }
    }
    let terms_of =
        |count: usize| -> Vec<Terms> { pairs.iter().map(|pairs| Terms::new(pairs.clone(), count, [out_plane, taps * COLUMNS])).collect() };
    let terms = [terms_of(BLOCK), terms_of(outs % BLOCK)];
    let part = |scratch: &mut [f32], (i, mut out): (usize, MatrixMut<'_>)| {
        let (sums, weights) = scratch.split_at_mut(images * plane * COLUMNS);
        let sums = sums.as_chunks_mut::<COLUMNS>().0;
        sums.fill([0.0; COLUMNS]);
        for first in (0..outs).step_by(BLOCK) {
            let end = outs.min(first + BLOCK);
            kernels(w, [channels, taps], i * COLUMNS, first..end, weights);
            for (place, terms) in terms[usize::from(end - first < BLOCK)].iter().enumerate() {
                for (group, sums) in sums.chunks_mut(ROWS * plane).enumerate() {
                    let end = sums.len() - plane + place + 1;
                    add_products(terms, &g[group * ROWS * of_g + first * out_plane..], of_g, weights, &mut sums[place..end], plane);
                }
            }
        }
        out.rows_mut().iter_mut().zip(sums.chunks_exact(plane)).for_each(|(out, sums)| write([sums].into_iter(), plane, out));
    };
    let parts = MatrixMut::new(out, images, channels * plane, channels * plane).column_blocks(COLUMNS * plane);
    let scratch = || buffers.scratch(scratch_floats(windows, Direction::InputGradient, images)[1]);
    parts.into_par_iter().enumerate().with_max_len(1).for_each_init(scratch, |scratch, p| part(scratch, p));
}

/// The weights of some channels of the result for [`COLUMNS`] channels: `[channel of the result][tap][channel]`.
fn kernels(w: &[f32], [channels, taps]: [usize; 2], first: usize, outs: Range<usize>, to: &mut [f32]) {
    let own = COLUMNS.min(channels - first) * taps;
    for (o, to) in outs.zip(to.chunks_exact_mut(taps * COLUMNS)) {
        // Those of one channel of the result are far from those of the next.
        if let Some(soon) = w.get(((o + AHEAD) * channels + first) * taps..).and_then(|w| w.get(..own)) {
            soon.iter().step_by(LANES).for_each(prefetch);
        }
        let w = &w[(o * channels + first) * taps..][..own];
        for (lanes, w) in w.chunks(LANES * taps).enumerate() {
            for tap in (0..taps).step_by(LANES) {
                let size = [w.len() / taps, LANES.min(taps - tap)];
                transpose(&w[tap..], taps, size, &mut to[tap * COLUMNS + lanes * LANES..], COLUMNS);
            }
        }
    }
}

/// The gradient of the weights into `out`, from the input and the gradient of the result as `[position, channel]`. It has to fit. The rows
/// of a tile are the elements of a line of the kernel, and the terms of a sum are positions.
pub fn weight_gradient(windows: &Windows, buffers: &Buffers, x: &[f32], g: &[f32], out: &mut [f32]) {
    let (channels, outs, taps) = (windows.channels, windows.out_channels, windows.taps());
    let ([height, width], [out_height, out_width]) = (windows.padded_input(), windows.output);
    let of_image = channels * windows.plane();
    let [shared, own] = scratch_floats(windows, Direction::WeightGradient, windows.images(x.len()));
    let mut images = buffers.scratch(shared);
    images.par_chunks_exact_mut(padded(windows)).zip(x.par_chunks_exact(of_image)).for_each(|(to, image)| pad(windows, image, to));
    let images = &images[..];
    // What a position and a line more is on both sides.
    let pairs: Vec<[u32; 2]> = (0..out_width).map(|x| [(x * windows.stride[1]) as u32, (x * outs) as u32]).collect();
    let steps = [windows.stride[0] * width, out_width * outs];
    let together = lines_together(windows);
    let terms = [together, out_height % together].map(|lines| Terms::new(pairs.clone(), lines, steps));
    let part = |scratch: &mut [f32], (first_column, first, mut out): (usize, usize, MatrixMut<'_>)| {
        let own = out.sizes()[1] / taps;
        let sums = &mut scratch.as_chunks_mut::<COLUMNS>().0[..own * taps];
        sums.fill([0.0; COLUMNS]);
        for (image, g) in images.chunks_exact(padded(windows)).zip(g.chunks_exact(windows.out_plane() * outs)) {
            let image = &image[first * height * width..][..own * height * width];
            for line in (0..out_height).step_by(together) {
                let terms = &terms[usize::from(out_height - line < together)];
                let g = &g[line * steps[1] + first_column..];
                for (i, sums) in sums.chunks_exact_mut(windows.kernel[1]).enumerate() {
                    let (channel, ky) = (i / windows.kernel[0], i % windows.kernel[0]);
                    let image = &image[channel * height * width + line * steps[0] + ky * windows.dilation[0] * width..];
                    add_products(terms, image, windows.dilation[1], g, sums, 1);
                }
            }
        }
        for (lane, row) in out.rows_mut().into_iter().enumerate() {
            row.iter_mut().zip(sums.iter()).for_each(|(to, sums)| *to = sums[lane]);
        }
    };
    let mut parts = Vec::new();
    for (i, rows) in MatrixMut::new(out, outs, channels * taps, channels * taps).row_blocks(COLUMNS).into_iter().enumerate() {
        let blocks = rows.column_blocks(channels_together(windows) * taps).into_iter().enumerate();
        parts.extend(blocks.map(|(c, out)| (i * COLUMNS, c * channels_together(windows), out)));
    }
    parts.into_par_iter().with_max_len(1).for_each_init(|| buffers.scratch(own), |scratch, p| part(scratch, p));
}

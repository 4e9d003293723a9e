//! Convolutions of spikes, and of other images of few elements that are not zero: their windows as bits, the weights of whose
//! spikes are added.
//!
//! What an output meets are words of bits in the order channel, row, column, as [`crate::products`] has the inputs of a layer. So a convolution
//! is a product of spikes whose rows are the outputs of an image, and the sums of an output are added in the interpreter's order.
//!
//! Where outputs lie as the elements of a channel do, what all of them meet of one element of the kernel is the channel's bits, moved: see [`Shifts`].
//! Squares of such bits are transposed. Elsewhere the rows of an image are words of bits, of which an output meets a run: see [`unroll`].

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use snn_plan::buffers::Buffers;
use snn_plan::convolution::Windows;

use crate::panels::{Identity, Kept, LANES, Packed, Target, product, product_once, sums_of, write_transposed};
use crate::products::Matrix;
use crate::shared::threads;
use crate::simd::simd_dispatch;
use crate::spikes::{Densest, Elements, Found, Looker, Spikes, Values, WORD, are_few, transpose};

/// Outputs that are computed together, of one image or of several small ones: their sums stay in the L2 cache.
const OUTPUTS: usize = 256;
/// Groups with fewer output channels than this leave too much of a panel empty.
const FEWEST_CHANNELS: usize = 8;
/// Outputs whose bits are found all at once, at most.
const MOST_OUTPUTS: usize = 1024;
/// Packed weights, in floats, that are too many for the L2 cache.
const MANY_WEIGHTS: usize = 1 << 18;
/// Smaller convolutions than this are dense.
const SMALLEST: usize = 1 << 14;

/// How the inputs that an output meets are divided into words.
#[derive(Clone, Copy)]
struct Runs {
    /// Bits of a run: a row of the kernel, or, where its columns are apart, one element of it.
    bits: usize,
    /// Runs of a row of the kernel.
    per_row: usize,
    /// Runs of a word.
    per_word: usize,
}

/// Where the inputs of windows come from.
struct Layout<'a> {
    runs: Runs,
    /// How far from the first element that a window meets the input of each bit is: see [`BySpikes::inputs`].
    inputs: Vec<i32>,
    /// If positions lie so.
    shifts: Option<Shifts<'a>>,
}

/// Memory of one thread.
#[derive(Default)]
struct Scratch {
    /// The spikes of one channel of one image.
    plane: Vec<u64>,
    /// Are all elements that are not zero 1?
    are_ones: bool,
    /// The planes of channels, as [`Shifts`] has them, or the padded rows of images, an integer number of words each: `[image][channel][row]`.
    lines: Vec<u64>,
    spikes: Spikes,
    sums: Vec<[f32; LANES]>,
}

/// A convolution of spikes.
pub struct BySpikes<'a> {
    /// Which inputs each output meets.
    pub windows: &'a Windows,
    /// Up to which densities.
    pub densest: Densest,
    /// Where memory for packed weights comes from, if they are not kept.
    pub buffers: Option<&'a Buffers>,
}

impl std::ops::Deref for BySpikes<'_> {
    type Target = Windows;

    fn deref(&self) -> &Windows {
        self.windows
    }
}

impl BySpikes<'_> {
    /// Computes the convolution by spike indices; `false` where the input holds many of them, or a weight is not finite.
    pub fn compute(&self, x: Elements<'_>, w: &[f32], kept: &[Kept], identity: &Identity, out: &mut [f32]) -> bool {
        let Some(runs) = self.runs() else { return false };
        let (channels, out_channels) = self.per_group();
        let rows = channels * self.taps();
        let (plane, out_plane) = (self.plane(), self.out_plane());
        let (image, out_image) = (self.channels * plane, self.out_channels * out_plane);
        if out_channels < FEWEST_CHANNELS || out.len() * rows < SMALLEST || x.is_empty() || !are_few(x, self.input[1], self.densest) {
            return false;
        }
        if self.goes_by_panels(out.len() / out_image) && image * (out.len() / out_image) <= 1 << 30 {
            return self.by_panels(runs, x, w, &kept[0], identity, out);
        }
        let memory = |n: usize| self.buffers.map_or_else(|| vec![0.0; n], |buffers| buffers.take(n));
        let pack = |g: usize| {
            let w = &w[g * out_channels * rows..(g + 1) * out_channels * rows];
            let w = Matrix { values: w, row: 1, column: rows };
            let per_word = runs.bits * runs.per_word;
            kept[g].panels(identity.clone(), || Packed::new(w, [rows, out_channels], per_word, memory))
        };
        let Some(packed) = (0..self.groups).map(pack).collect::<Option<Vec<_>>>() else { return false };
        let share = (out.len() / out_image).div_ceil(threads().max(1));
        let together = (OUTPUTS / out_plane).clamp(1, share);
        if together * image > 1 << 30 {
            return false;
        }
        let layout = Layout { runs, inputs: self.inputs(runs), shifts: Shifts::new(self.windows, together) };
        let some = |scratch: &mut Scratch, (i, out): (usize, &mut [f32])| {
            let x = x.range(i * together * image..x.len().min((i + 1) * together * image));
            self.images(&layout, x, &packed, out, scratch).is_some()
        };
        out.par_chunks_mut(together * out_image).enumerate().map_init(Scratch::default, some).all(|done| done)
    }

    /// Are there so few outputs, and so many weights, that threads had better share the weights than the images?
    fn goes_by_panels(&self, images: usize) -> bool {
        self.groups == 1 && images * self.out_plane() <= MOST_OUTPUTS && self.packed_floats() >= MANY_WEIGHTS && Shifts::fits(self.windows)
    }

    /// Finds what all outputs meet, and then goes panel by panel through the weights, which are read once, and packed so if they are wanted once.
    fn by_panels(&self, runs: Runs, x: Elements<'_>, w: &[f32], kept: &Kept, identity: &Identity, out: &mut [f32]) -> bool {
        let (inputs, outs, per_word) = (self.channels * self.taps(), self.out_channels, runs.bits * runs.per_word);
        let images = out.len() / (outs * self.out_plane());
        let Some(shifts) = Shifts::new(self.windows, images) else { return false };
        let (planes, found) = shifts.planes(x, images);
        if !found.are_few(x.len(), self.densest) {
            return false;
        }
        let mut spikes = Spikes::default();
        spikes.clear(images * self.out_plane(), inputs.div_ceil(per_word));
        let words = spikes.bits.par_chunks_exact_mut(spikes.rows).zip(shifts.rows.par_chunks(per_word));
        words.for_each(|(bits, rows)| gather(&shifts, rows, 0, &planes, bits));
        spikes.sort();
        if !found.are_ones() {
            spikes.values = Some(Values { rows: self.rows(images, 0, 0..self.output[0]), inputs: self.inputs(runs) });
        }
        let weights = Matrix { values: w, row: 1, column: inputs };
        let to = Target::images(self.out_plane(), outs, out);
        if let Some(buffers) = self.buffers {
            return product_once(&spikes, x, weights, [inputs, outs, per_word], buffers, &to);
        }
        let pack = || Packed::new(weights, [inputs, outs], per_word, |n| vec![0.0; n]);
        let Some(packed) = kept.panels(identity.clone(), pack) else { return false };
        product(&spikes, x, &packed, &to);
        true
    }

    /// How many floats weights that are not kept are packed into, and how many bytes the bits of all outputs are if they are found at once, for so many
    /// images on so many threads.
    pub fn scratch(&self, images: usize, threads: usize) -> [usize; 2] {
        let Some(runs) = self.runs().filter(|_| self.goes_by_panels(images)) else { return [self.packed_floats(), 0] };
        let inputs = self.channels * self.taps();
        let floats = Packed::once_len([inputs, self.out_channels, runs.bits * runs.per_word], threads);
        [floats, 2 * Spikes::bytes([images * self.out_plane(), inputs])]
    }

    /// How many floats the packed weights of all groups are; 0 where spikes are not looked for.
    pub fn packed_floats(&self) -> usize {
        let (channels, out_channels) = self.per_group();
        let Some(runs) = self.runs().filter(|_| out_channels >= FEWEST_CHANNELS) else { return 0 };
        self.groups.saturating_mul(Packed::len([channels * self.taps(), out_channels], runs.bits * runs.per_word))
    }

    fn runs(&self) -> Option<Runs> {
        let (bits, per_row) = if self.dilation[1] == 1 { (self.kernel[1], 1) } else { (1, self.kernel[1]) };
        (1..=WORD).contains(&bits).then(|| Runs { bits, per_row, per_word: WORD / bits })
    }

    /// How far from the first element that a window meets, in the first channel of its group, the input of each bit is.
    fn inputs(&self, runs: Runs) -> Vec<i32> {
        let channels = self.per_group().0;
        let count = channels * self.kernel[0] * runs.per_row;
        let mut inputs = vec![0; count.div_ceil(runs.per_word) * WORD];
        for run in 0..count {
            let (channel, ky) = (run / (runs.per_row * self.kernel[0]), run / runs.per_row % self.kernel[0] * self.dilation[0]);
            let first = (channel * self.input[0] + ky) * self.input[1] + run % runs.per_row * self.dilation[1];
            let bits = &mut inputs[run / runs.per_word * WORD + run % runs.per_word * runs.bits..][..runs.bits];
            bits.iter_mut().enumerate().for_each(|(kx, to)| *to = (first + kx) as i32);
        }
        inputs
    }

    /// Where the first element that each position of some lines meets is, in the images that are computed together.
    fn rows(&self, images: usize, group: usize, lines: Range<usize>) -> Vec<i32> {
        let first = |i: usize| (i * self.channels + group * self.per_group().0) * self.input[0] * self.input[1];
        let position = |i: usize, y: usize, x: usize| {
            let at = |axis: usize, i: usize| (i * self.stride[axis]) as i32 - self.padding[axis] as i32;
            first(i) as i32 + at(0, y) * self.input[1] as i32 + at(1, x)
        };
        (0..images).flat_map(|i| lines.clone().flat_map(move |y| (0..self.output[1]).map(move |x| position(i, y, x)))).collect()
    }

    /// The convolution of a few images; `None` where too much of it is not zero.
    fn images(&self, layout: &Layout<'_>, x: Elements<'_>, packed: &[Arc<Packed>], out: &mut [f32], scratch: &mut Scratch) -> Option<()> {
        let (looker, runs) = (Looker::new(), layout.runs);
        let [height, width] = self.output;
        let count = out.len() / (self.out_channels * height * width);
        // One image at a time is computed band by band.
        let band = if count == 1 { (OUTPUTS / width).clamp(1, height) } else { height };
        let channels = self.per_group().0;
        let words = (channels * self.kernel[0] * runs.per_row).div_ceil(runs.per_word);
        for (g, packed) in packed.iter().enumerate() {
            match &layout.shifts {
                Some(shifts) => self.planes(looker, shifts, x, g, scratch)?,
                None => self.lines(looker, x, g, scratch)?,
            }
            for first in (0..height).step_by(band) {
                let lines = first..(first + band).min(height);
                let outputs = lines.len() * width;
                scratch.spikes.clear(count * outputs, words);
                if let Some(shifts) = &layout.shifts {
                    let positions = lines.start * width..lines.start * width + count * outputs;
                    let rows = shifts.rows[..channels * self.taps()].chunks(runs.bits * runs.per_word);
                    for (bits, rows) in scratch.spikes.bits.chunks_exact_mut(positions.len()).zip(rows) {
                        gather(shifts, rows, positions.start, &scratch.lines, bits);
                    }
                } else {
                    (0..count).for_each(|i| unroll(self, runs, i, lines.clone(), &scratch.lines, &mut scratch.spikes));
                }
                scratch.spikes.sort();
                if !scratch.are_ones {
                    scratch.spikes.values = Some(Values { rows: self.rows(count, g, lines.clone()), inputs: layout.inputs.clone() });
                }
                for p in 0..packed.columns.div_ceil(packed.width()) {
                    sums_of(&scratch.spikes, x.values(), 0, packed, p, &mut scratch.sums);
                    let first_channel = g * packed.columns + p * packed.width();
                    let panel = packed.width().min(packed.columns - p * packed.width());
                    for (i, sums) in scratch.sums.chunks_exact(outputs * packed.lanes).enumerate() {
                        let from = (i * self.out_channels + first_channel) * height * width + lines.start * width;
                        write_transposed(sums, packed.lanes, panel, height * width, &mut out[from..]);
                    }
                }
            }
        }
        Some(())
    }

    /// The planes of a group's channels as bits; `None` where too much is not zero.
    fn planes(&self, looker: Looker, shifts: &Shifts<'_>, x: Elements<'_>, group: usize, scratch: &mut Scratch) -> Option<()> {
        let (channels, plane) = (self.per_group().0, self.plane());
        let count = x.len() / (self.channels * plane);
        scratch.lines.clear();
        scratch.lines.resize(channels * shifts.of_channel() + BEHIND, 0);
        let image =
            |i: usize| x.range((i * self.channels + group * channels) * plane..(i * self.channels + (group + 1) * channels) * plane);
        let all = (0..count).map(|i| shifts.read(looker, i, image(i), &mut scratch.lines)).fold(Found::default(), Found::and);
        scratch.are_ones = all.are_ones();
        all.are_few(count * channels * plane, self.densest).then_some(())
    }

    /// The rows of a group's channels as bits; `None` where too much is not zero.
    fn lines(&self, looker: Looker, x: Elements<'_>, group: usize, scratch: &mut Scratch) -> Option<()> {
        let [height, width] = self.input;
        let (plane, words) = (height * width, line_words(self));
        let channels = self.per_group().0;
        let count = x.len() / (self.channels * plane);
        scratch.lines.clear();
        scratch.lines.resize(count * channels * height * words, 0);
        let mut all = Found::default();
        for (i, lines) in scratch.lines.chunks_exact_mut(height * words).enumerate() {
            let channel = i / channels * self.channels + group * channels + i % channels;
            let values = x.range(channel * plane..(channel + 1) * plane);
            scratch.plane.clear();
            for values in values.chunks(WORD) {
                let found = looker.look(values);
                scratch.plane.push(found.mask);
                all = all.and(found);
            }
            scratch.plane.push(0);
            for (y, line) in lines.chunks_exact_mut(words).enumerate() {
                for from in (0..width).step_by(WORD) {
                    let bits = fetch(&scratch.plane, y * width + from) & ones(WORD.min(width - from));
                    put(line, self.padding[1] + from, bits);
                }
            }
        }
        scratch.are_ones = all.are_ones();
        all.are_few(count * channels * plane, self.densest).then_some(())
    }
}

/// How many inputs of a window a word has, in the order channel, row, column; nothing where a row of the kernel is longer than a word.
pub fn inputs_of_a_word(windows: &Windows) -> Option<usize> {
    let runs = BySpikes { windows, densest: Densest::ANY, buffers: None }.runs()?;
    Some(runs.bits * runs.per_word)
}

/// Words of a padded row; one more, so that a run may begin anywhere.
fn line_words(windows: &Windows) -> usize {
    windows.padded_input()[1].div_ceil(WORD) + 1
}

/// What the positions of all results meet in `x`, as bits: a row for each channel and element of the kernel, `[channels and kernel,
/// positions]`, positions image by image in row-major order. `None` where much of it is not zero.
pub fn spikes_of_windows(windows: &Windows, x: Elements<'_>, densest: Densest) -> Option<Spikes> {
    let ([_, width], [out_height, out_width]) = (windows.input, windows.output);
    let (plane, taps) = (windows.plane(), windows.taps());
    let images = x.len() / (windows.channels * plane).max(1);
    if x.is_empty() || x.len() > 1 << 30 || !are_few(x, width, densest) {
        return None;
    }
    let mut spikes = Spikes::none(windows.channels * taps, (images * out_height * out_width).div_ceil(WORD));
    let own_words = spikes.words;
    let few = |found: Found| found.are_few(x.len(), densest);
    let found = match Shifts::new(windows, images) {
        Some(shifts) => shifted_planes(&shifts, x, images, &mut spikes, few)?,
        None => runs_of_lines(windows, x, images, &mut spikes, few)?,
    };
    spikes.sort();
    if !found.are_ones() {
        let position = |p: usize| {
            let (image, y, x) = (p / (out_height * out_width), p / out_width % out_height, p % out_width);
            let at = |axis: usize, i: usize| (i * windows.stride[axis]) as i32 - windows.padding[axis] as i32;
            (image * windows.channels * plane) as i32 + at(0, y) * width as i32 + at(1, x)
        };
        spikes.values = Some(Values {
            rows: (0..windows.channels * taps).map(|r| (r / taps * plane + windows.tap(r % taps, width)) as i32).collect(),
            inputs: (0..own_words * WORD).map(position).collect(),
        });
    }
    Some(spikes)
}

/// How the bits of windows are found where positions lie as the elements of images do, or as every so many of them, by the stride: the bits of a channel
/// that are a stride apart, moved by as many as an element of the kernel is away, without those that come from another line or image.
struct Shifts<'a> {
    windows: &'a Windows,
    /// Planes of a channel: of elements that are a stride apart.
    phases: usize,
    /// Words of a plane: those of all positions, and [`Shifts::margin`] before and behind.
    words: usize,
    margin: usize,
    /// Where the bits begin that a row, a channel and an element of the kernel, has in the planes of all channels, and in [`Shifts::inside`].
    rows: Vec<[usize; 2]>,
    /// `[tap][word]`: where what is that far away is in the same image, and on the line that is meant; one word more for each, and [`BEHIND`].
    inside: Vec<u64>,
}

impl Shifts<'_> {
    /// Do positions lie so?
    fn fits(windows: &Windows) -> bool {
        (0..2).all(|a| windows.input[a] == windows.output[a] * windows.stride[a])
    }

    /// For so many images, if their positions lie so.
    fn new(windows: &Windows, images: usize) -> Option<Shifts<'_>> {
        if !Shifts::fits(windows) {
            return None;
        }
        let ([height, width], plane) = (windows.output, windows.out_plane());
        let phases = windows.stride[0] * windows.stride[1];
        // How far away each element of the kernel is, in lines and columns that are a stride apart, and which of these it is among.
        let along = |tap: usize, axis: usize| {
            let k = if axis == 0 { tap / windows.kernel[1] } else { tap % windows.kernel[1] };
            let at = (k * windows.dilation[axis]) as isize - windows.padding[axis] as isize;
            let stride = windows.stride[axis] as isize;
            (at.div_euclid(stride), at.rem_euclid(stride) as usize)
        };
        let distance = |tap: usize| along(tap, 0).0 * width as isize + along(tap, 1).0;
        let margin = (0..windows.taps()).map(|tap| distance(tap).unsigned_abs()).max().unwrap_or(0).div_ceil(WORD) + 1;
        let own_words = (images * plane).div_ceil(WORD) + 1;
        let words = own_words + 2 * margin;
        let begin = |tap: usize| {
            let phase = along(tap, 0).1 * windows.stride[1] + along(tap, 1).1;
            [((phase * words + margin) * WORD).wrapping_add_signed(distance(tap)), tap * own_words * WORD]
        };
        let taps: Vec<_> = (0..windows.taps()).map(begin).collect();
        let channel = |c: usize| taps.iter().map(move |[from, inside]| [c * phases * words * WORD + from, *inside]);
        let rows = (0..windows.channels).flat_map(channel).collect();
        let mut inside = vec![0u64; windows.taps() * own_words + BEHIND];
        for (tap, inside) in inside.chunks_exact_mut(own_words).enumerate().take(windows.taps()) {
            let range = |d: isize, n: usize| (-d).clamp(0, n as isize) as usize..(n as isize - d).clamp(0, n as isize) as usize;
            let (rows, columns) = (range(along(tap, 0).0, height), range(along(tap, 1).0, width));
            for first in (0..images).flat_map(|i| rows.clone().map(move |y| i * plane + y * width)) {
                columns.clone().step_by(WORD).for_each(|x| put(inside, first + x, ones(WORD.min(columns.end - x))));
            }
        }
        Some(Shifts { windows, phases, words, margin, rows, inside })
    }

    /// Words of the planes of a channel.
    fn of_channel(&self) -> usize {
        self.phases * self.words
    }

    /// Sets the bits of some channels of image `i`, `x[channel][element]`, in their planes.
    fn read(&self, looker: Looker, i: usize, x: Elements<'_>, planes: &mut [u64]) -> Found {
        let [vertical, horizontal] = self.windows.stride;
        let [height, width] = if self.phases == 1 { [1, self.windows.plane()] } else { self.windows.input };
        let first = self.margin * WORD + i * self.windows.out_plane();
        // The line that is read, among those that are a stride apart which of them and in which phase, and how much of it has been read.
        let (mut channels, mut all) = (planes.chunks_exact_mut(self.of_channel()), Found::default());
        let Some(mut channel) = channels.next() else { return all };
        let (mut line, mut row, mut phase, mut column) = (0, 0, 0, 0);
        for values in x.chunks(WORD) {
            let found = looker.look(values);
            all = all.and(found);
            let (mut mask, mut left) = (found.mask, values.len());
            while left > 0 {
                let length = (width - column).min(left);
                let bits = mask & ones(length);
                if self.phases == 1 {
                    put(channel, first + column, bits);
                } else {
                    let own = &mut channel[phase * horizontal * self.words..][..horizontal * self.words];
                    let place = first + row * self.windows.output[1];
                    for skipped in 0..horizontal.min(length) {
                        // Lines are hardly ever read in parts.
                        let (at, of) =
                            if column == 0 { (0, skipped) } else { ((column + skipped) / horizontal, (column + skipped) % horizontal) };
                        put(&mut own[of * self.words..][..self.words], place + at, every(bits >> skipped, horizontal));
                    }
                }
                (mask, left, column) = (if length < WORD { mask >> length } else { 0 }, left - length, column + length);
                if column == width {
                    (column, line, phase) = (0, line + 1, phase + 1);
                    if phase == vertical {
                        (phase, row) = (0, row + 1);
                    }
                }
                if line == height {
                    (line, row, phase) = (0, 0, 0);
                    channel = channels.next().unwrap_or_default();
                }
            }
        }
        all
    }

    /// The planes of all channels, and what was seen in them.
    fn planes(&self, x: Elements<'_>, images: usize) -> (Vec<u64>, Found) {
        let (channels, plane) = (self.windows.channels, self.windows.plane());
        let mut planes = vec![0u64; channels * self.of_channel() + BEHIND];
        let (bits, _) = planes.split_at_mut(channels * self.of_channel());
        // Some channels at a time, so that small planes are looked at together.
        let together = channels.div_ceil(4 * threads()).max(WORD.div_ceil(plane)).min(channels);
        let of_channels = |(n, planes): (usize, &mut [u64])| {
            let looker = Looker::new();
            let channels_of = |i: usize| i * channels + n * together..i * channels + channels.min((n + 1) * together);
            let image = |i: usize| x.range(channels_of(i).start * plane..channels_of(i).end * plane);
            (0..images).map(|i| self.read(looker, i, image(i), planes)).fold(Found::default(), Found::and)
        };
        let found = bits.par_chunks_mut(together * self.of_channel()).enumerate().map(of_channels).reduce(Found::default, Found::and);
        (planes, found)
    }

    /// What sixty-four positions from `at` on meet of a row.
    #[inline(always)]
    fn fetch(&self, planes: &[u64], [from, inside]: [usize; 2], at: usize) -> u64 {
        fetch(planes, from + at) & fetch(&self.inside, inside + at)
    }
}

simd_dispatch! {
    /// What positions from the first on meet of the inputs of a word, in the planes of channels as [`Shifts`] has them: a word for each position.
    fn gather(shifts: &Shifts<'_>, inputs: &[[usize; 2]], first: usize, planes: &[u64], bits: &mut [u64]) {
        for (n, bits) in bits.chunks_mut(TOGETHER * WORD).enumerate() {
            let at = first + n * TOGETHER * WORD;
            let mut blocks = [[0; WORD]; TOGETHER];
            for (j, [from, inside]) in inputs.iter().enumerate() {
                let (from, inside) = (fetch_some(planes, from + at), fetch_some(&shifts.inside, inside + at));
                blocks.iter_mut().zip(from).zip(inside).for_each(|((block, from), inside)| block[j] = from & inside);
            }
            for (block, bits) in blocks.iter_mut().zip(bits.chunks_mut(WORD)) {
                transpose(block);
                bits.copy_from_slice(&block[..bits.len()]);
            }
        }
    }
}

/// Words that are fetched at once.
const TOGETHER: usize = 4;
/// Words behind all others, so that as many can be fetched anywhere.
const BEHIND: usize = TOGETHER;

/// [`TOGETHER`] times sixty-four bits from bit `at` on; there are [`BEHIND`] words behind the last that is wanted.
#[inline(always)]
fn fetch_some(words: &[u64], at: usize) -> [u64; TOGETHER] {
    let (word, shift) = (at / WORD, at % WORD);
    let Some(words) = words[word..].first_chunk::<{ TOGETHER + 1 }>() else { return [0; TOGETHER] };
    std::array::from_fn(|i| words[i] >> shift | (words[i + 1] << 1) << (WORD - 1 - shift))
}

/// [`spikes_of_windows`] where positions lie as [`Shifts`] has them.
fn shifted_planes(shifts: &Shifts<'_>, x: Elements<'_>, images: usize, spikes: &mut Spikes, few: impl Fn(Found) -> bool) -> Option<Found> {
    let (planes, found) = shifts.planes(x, images);
    if !few(found) {
        return None;
    }
    let (group, words) = (spikes.group, spikes.words);
    spikes.bits.par_chunks_mut(words * group).enumerate().for_each(|(g, bits)| {
        let rows = &shifts.rows[g * group..shifts.rows.len().min((g + 1) * group)];
        for (w, bits) in bits.chunks_exact_mut(group).enumerate() {
            bits.iter_mut().zip(rows).for_each(|(to, row)| *to = shifts.fetch(&planes, *row, w * WORD));
        }
    });
    Some(found)
}

/// [`spikes_of_windows`] line by line.
fn runs_of_lines(windows: &Windows, x: Elements<'_>, images: usize, spikes: &mut Spikes, few: impl Fn(Found) -> bool) -> Option<Found> {
    let ([height, width], [out_height, out_width]) = (windows.input, windows.output);
    let (plane, taps) = (windows.plane(), windows.taps());
    // The rows of each channel as bits, padded; where windows are apart, those that one element of the kernel meets side by side.
    let (stride, padded) = (windows.stride[1], windows.padded_input()[1]);
    let words = padded.div_ceil(stride).div_ceil(WORD) + 2;
    let per_line = stride * words;
    let mut lines = vec![0u64; windows.channels * images * height * per_line];
    let looker = Looker::new();
    let image = |i: usize, c: usize| x.range((i * windows.channels + c) * plane..(i * windows.channels + c + 1) * plane);
    let of_channel = |(c, lines): (usize, &mut [u64])| {
        let (mut line, mut all) = (0, Found::default());
        for i in 0..images {
            for values in image(i, c).chunks(width) {
                let target = &mut lines[line * per_line..][..per_line];
                line += 1;
                for (n, values) in values.chunks(WORD).enumerate() {
                    let found = looker.look(values);
                    let mut ones = found.mask;
                    while ones != 0 {
                        let at = windows.padding[1] + n * WORD + ones.trailing_zeros() as usize;
                        ones &= ones - 1;
                        let (phase, at) = (at % stride, at / stride);
                        target[phase * words + at / WORD] |= 1 << (at % WORD);
                    }
                    all = all.and(found);
                }
            }
        }
        all
    };
    let found = lines.par_chunks_mut(images * height * per_line).enumerate().map(of_channel).reduce(Found::default, Found::and);
    if !few(found) {
        return None;
    }
    let (group, own_words) = (spikes.group, spikes.words);
    spikes.bits.par_chunks_mut(own_words * group).enumerate().for_each(|(g, bits)| {
        for r in 0..group.min(windows.channels * taps - g * group) {
            let (channel, tap) = ((g * group + r) / taps, (g * group + r) % taps);
            let (ky, kx) = (tap / windows.kernel[1] * windows.dilation[0], tap % windows.kernel[1] * windows.dilation[1]);
            for line in 0..images * out_height {
                let y = (line % out_height * windows.stride[0] + ky).wrapping_sub(windows.padding[0]);
                if y >= height {
                    continue;
                }
                let from = ((channel * images + line / out_height) * height + y) * per_line + kx % stride * words;
                let source = &lines[from..][..words];
                for first in (0..out_width).step_by(WORD) {
                    let run = fetch(source, kx / stride + first) & ones(WORD.min(out_width - first));
                    let position = line * out_width + first;
                    let (word, shift) = (position / WORD, position % WORD);
                    bits[word * group + r] |= run << shift;
                    let rest = (run >> 1) >> (WORD - 1 - shift);
                    if rest != 0 {
                        bits[(word + 1) * group + r] |= rest;
                    }
                }
            }
        }
    });
    Some(found)
}

simd_dispatch! {
    /// What the outputs in `rows` of image `i` meet, as bits.
    fn unroll(windows: &Windows, runs: Runs, i: usize, rows: Range<usize>, lines: &[u64], spikes: &mut Spikes) {
        let (channels, words, width) = (windows.per_group().0, line_words(windows), windows.output[1]);
        let outputs = rows.len() * width;
        let (mask, step) = (ones(runs.bits), windows.stride[1]);
        // So many outputs meet a word that is read at once.
        let some = (WORD - runs.bits) / step + 1;
        for run in 0..channels * windows.kernel[0] * runs.per_row {
            let (ky, kx) = (run / runs.per_row % windows.kernel[0] * windows.dilation[0], run % runs.per_row * windows.dilation[1]);
            let channel = i * channels + run / (runs.per_row * windows.kernel[0]);
            let shift = run % runs.per_word * runs.bits;
            let target = &mut spikes.bits[run / runs.per_word * spikes.rows + i * outputs..][..outputs];
            for (oy, target) in rows.clone().zip(target.chunks_exact_mut(width)) {
                let y = (oy * windows.stride[0] + ky).wrapping_sub(windows.padding[0]);
                if y >= windows.input[0] {
                    continue;
                }
                let line = &lines[(channel * windows.input[0] + y) * words..][..words];
                for (n, target) in target.chunks_mut(some).enumerate() {
                    let bits = fetch(line, n * some * step + kx);
                    for (j, word) in target.iter_mut().enumerate() {
                        *word |= ((bits >> (j * step % WORD)) & mask) << shift;
                    }
                }
            }
        }
    }
}

/// Sixty-four bits from bit `at` on; there is a word after the last.
#[inline(always)]
fn fetch(words: &[u64], at: usize) -> u64 {
    let (word, shift) = (at / WORD, at % WORD);
    words[word] >> shift | (words[word + 1] << 1) << (WORD - 1 - shift)
}

/// Sets up to sixty-four bits from bit `at` on; there is a word after the last.
#[inline(always)]
fn put(words: &mut [u64], at: usize, bits: u64) {
    let (word, shift) = (at / WORD, at % WORD);
    words[word] |= bits << shift;
    words[word + 1] |= (bits >> 1) >> (WORD - 1 - shift);
}

/// The bits that are a stride apart, from the first on, side by side.
fn every(mut bits: u64, stride: usize) -> u64 {
    if stride != 2 {
        return (0..WORD.div_ceil(stride)).fold(0, |all, i| all | (bits >> (i * stride) & 1) << i);
    }
    bits &= 0x5555_5555_5555_5555;
    for (shift, kept) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        bits = (bits | bits >> shift) & kept;
    }
    bits
}

/// That many ones, at least one.
fn ones(n: usize) -> u64 {
    u64::MAX >> (WORD - n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The convolution of one output, in the interpreter's order.
    fn plain(c: &Windows, x: &[f32], w: &[f32], i: usize, o: usize, at: [usize; 2]) -> f32 {
        let (channels, out_channels) = c.per_group();
        let mut sum = 0f32;
        for k in 0..channels * c.kernel[0] * c.kernel[1] {
            let (channel, ky, kx) = (k / (c.kernel[0] * c.kernel[1]), k / c.kernel[1] % c.kernel[0], k % c.kernel[1]);
            let y = (at[0] * c.stride[0] + ky * c.dilation[0]).wrapping_sub(c.padding[0]);
            let z = (at[1] * c.stride[1] + kx * c.dilation[1]).wrapping_sub(c.padding[1]);
            if y < c.input[0] && z < c.input[1] {
                let channel = i * c.channels + o / out_channels * channels + channel;
                sum += x[(channel * c.input[0] + y) * c.input[1] + z] * w[o * channels * c.kernel[0] * c.kernel[1] + k];
            }
        }
        sum
    }

    #[test]
    fn sums_are_those_of_the_plain_order_to_the_bit() {
        // Images, groups, channels, output channels, input, kernel, stride, padding, dilation.
        type Case = (usize, usize, usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 2], [usize; 2]);
        let cases: [Case; 19] = [
            (3, 1, 4, 8, [12, 12], [3, 3], [1, 1], [1, 1], [1, 1]),
            (1, 1, 7, 70, [28, 28], [3, 3], [1, 1], [1, 1], [1, 1]),
            (2, 2, 8, 32, [9, 11], [5, 4], [2, 3], [2, 0], [1, 1]),
            (2, 1, 3, 16, [20, 40], [3, 3], [1, 2], [4, 4], [2, 3]),
            (2, 1, 2, 16, [6, 150], [3, 5], [1, 1], [1, 2], [1, 1]),
            (5, 1, 64, 8, [14, 14], [12, 12], [1, 1], [0, 0], [1, 1]),
            (2, 1, 5, 9, [1, 300], [1, 64], [1, 70], [0, 3], [1, 1]),
            (2, 1, 70, 24, [8, 8], [1, 1], [1, 1], [0, 0], [1, 1]),
            (4, 1, 16, 16, [7, 64], [7, 7], [1, 1], [3, 64], [1, 1]),
            (90, 2, 8, 32, [2, 2], [3, 3], [1, 1], [1, 1], [1, 1]),
            (5, 1, 6, 16, [8, 8], [3, 3], [2, 2], [1, 1], [1, 1]),
            (2, 1, 3, 16, [16, 36], [7, 7], [2, 2], [3, 3], [1, 1]),
            (2, 2, 4, 16, [10, 14], [3, 3], [1, 1], [2, 2], [2, 2]),
            (300, 1, 64, 8, [1, 1], [1, 1], [1, 1], [0, 0], [1, 1]),
            (3, 1, 5, 8, [3, 300], [3, 3], [1, 1], [1, 1], [1, 1]),
            (2, 1, 6, 8, [12, 24], [4, 4], [4, 4], [0, 0], [1, 1]),
            // Weights that do not stay in cache, with few outputs.
            (2, 1, 64, 500, [4, 4], [3, 3], [1, 1], [1, 1], [1, 1]),
            (3, 1, 60, 512, [6, 6], [3, 3], [2, 2], [1, 1], [1, 1]),
            (70, 1, 512, 520, [1, 1], [1, 1], [1, 1], [0, 0], [1, 1]),
        ];
        for (images, groups, channels, out_channels, input, kernel, stride, padding, dilation) in cases {
            let size = |a: usize| (input[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a] + 1;
            let output = [size(0), size(1)];
            let windows = Windows { groups, channels, out_channels, input, output, kernel, stride, padding, dilation };
            let c = BySpikes { windows: &windows, densest: Densest::fastest(true), buffers: None };
            let mut next = crate::testing::numbers((channels * out_channels) as u64);
            let x: Vec<f32> = (0..images * channels * input[0] * input[1]).map(|_| f32::from(u8::from(next() < 0.3))).collect();
            let w: Vec<f32> = (0..out_channels * channels / groups * kernel[0] * kernel[1]).map(|_| next() - 0.5).collect();
            let (plane, mut out) = (output[0] * output[1], vec![f32::NAN; images * out_channels * output[0] * output[1]]);
            let kept: Vec<Kept> = (0..groups).map(|_| Kept::default()).collect();
            assert!(c.compute(x[..].into(), &w, &kept, &Identity::Named("w".into()), &mut out));
            for (at, value) in out.iter().enumerate() {
                let (i, o, at) = (at / plane / out_channels, at / plane % out_channels, at % plane);
                let want = plain(&windows, &x, &w, i, o, [at / output[1], at % output[1]]);
                assert_eq!(value.to_bits(), want.to_bits(), "{windows:?}, image {i}, channel {o}, output {at}");
            }
            // The same with weights that are packed once.
            let buffers = Buffers::new(0);
            let (once, mut same) = (BySpikes { buffers: Some(&buffers), ..c }, vec![f32::NAN; out.len()]);
            let new: Vec<Kept> = (0..groups).map(|_| Kept::default()).collect();
            assert!(once.compute(x[..].into(), &w, &new, &Identity::Named("w".into()), &mut same));
            assert_eq!(same, out, "{windows:?}");
            // Values that are no spikes, and one weight that is not finite.
            let other: Vec<f32> = x.iter().map(|x| x * (next() - 0.5)).collect();
            assert!(c.compute(other[..].into(), &w, &kept, &Identity::Named("w".into()), &mut out));
            for (at, value) in out.iter().enumerate() {
                let (i, o, at) = (at / plane / out_channels, at / plane % out_channels, at % plane);
                let want = plain(&windows, &other, &w, i, o, [at / output[1], at % output[1]]);
                assert_eq!(value.to_bits(), want.to_bits(), "values, {windows:?}, image {i}, channel {o}, output {at}");
            }
            let mut infinite = w.clone();
            infinite[0] = f32::INFINITY;
            assert!(!c.compute(x[..].into(), &infinite, &kept, &Identity::Named("other".into()), &mut out));
        }
    }
}

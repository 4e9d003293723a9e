//! The gradients of convolutions with kernels of 3 x 3, by the minimal filtering F(2 x 2, 3 x 3) of Winograd, as Lavin and Gray have it
//! (*Fast Algorithms for Convolutional Neural Networks*, 2016, section 4.1): 16 products for each four sums of nine terms instead of 36.
//!
//! A tile of 4 x 4 elements `d` and a kernel `f` give 2 x 2 elements of a convolution: `Aᵀ [(G f Gᵀ) ⊙ (Bᵀ d B)] A`. The gradient of the
//! input is a convolution of that of the result by the kernel turned round. With a tile of 2 x 2 elements `g` of the gradient of the
//! result, that of the kernel is `Gᵀ [(A g Aᵀ) ⊙ (Bᵀ d B)] G`, because the three are one sum of products of all of them. What is summed over, channels or
//! tiles, is summed between the brackets, so that each of the 16 places is a matrix product, which `gemm` computes; that is what bounds it.
//!
//! A sum meets the elements that it is made of and no others, and its error is a few times that of adding up products. Spikes decide
//! nothing here, which is why convolutions forward, whose rounding can make a spike, are not computed like this.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;
use snn_plan::buffers::Buffers;
use snn_plan::convolution::{Direction, Windows};

use crate::panels::LANES;
use crate::products::{Matrix, MatrixMut, multiply};
use crate::shared::threads;
use crate::simd::{simd_dispatch, transposed};

/// Elements of a tile that is read, and of the product of it.
const PLACES: usize = 16;
/// Elements of a kernel.
const TAPS: usize = 9;
/// Fewer channels than this on either side are not worth the sums around the products.
const FEWEST_CHANNELS: usize = 32;
/// Fewer tiles than this are not worth the sums over the kernels.
const FEWEST_TILES: usize = 48;
/// Floats of the tiles of a block: about as many as the L2 cache has.
const BLOCK: usize = 1 << 18;
/// Parts that the gradient of kernels is summed in at most, and the floats of their sums.
const PARTS: usize = 8;
const SUMS: usize = 1 << 20;
/// Fewer products than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 18;

/// An element of each of some channels.
type Lanes = [f32; LANES];

/// Is this faster than unrolled windows, for so many images?
pub fn fits(windows: &Windows, images: usize) -> bool {
    let same = windows.kernel == [3, 3] && windows.stride == [1, 1] && windows.dilation == [1, 1] && windows.groups == 1;
    let tiles: usize = windows.output.iter().map(|n| n.div_ceil(2)).product();
    same && windows.padding.iter().all(|n| *n <= 2)
        && windows.channels.min(windows.out_channels) >= FEWEST_CHANNELS
        && images.saturating_mul(tiles) >= FEWEST_TILES
}

/// Is the gradient of weights, whose sums are few enough for each part to have its own?
pub fn fits_weight_gradient(windows: &Windows, images: usize) -> bool {
    fits(windows, images) && Sizes::new(windows).parts() > 1
}

/// The floats that a convolution or gradient takes for so many images: shared, and for each thread; none where it does not fit.
pub fn scratch_floats(windows: &Windows, direction: Direction, images: usize) -> [usize; 2] {
    let sizes = Sizes::new(windows);
    match direction {
        Direction::InputGradient if fits(windows, images) => {
            let kernels = windows.out_channels.saturating_mul(sizes.of_kernel());
            [kernels, sizes.of_block(&sizes.tiling(windows.input, images))]
        }
        Direction::WeightGradient if fits_weight_gradient(windows, images) => {
            [sizes.parts().saturating_mul(sizes.of_sums()), sizes.of_block(&sizes.tiling(windows.output, images))]
        }
        Direction::Forward | Direction::InputGradient | Direction::WeightGradient => [0; 2],
    }
}

/// The gradient of the input into `out`, from that of the result. `false` where a sum is not finite: then `out` has to be computed
/// in another way, since here an infinite number reaches sums that it is not part of.
pub fn input_gradient(windows: &Windows, buffers: &Buffers, g: &[f32], w: &[f32], out: &mut [f32]) -> bool {
    let sizes = Sizes::new(windows);
    let (of_g, of_out) = (windows.out_channels * windows.out_plane(), windows.channels * windows.plane());
    let images = out.len() / of_out;
    let tiling = sizes.tiling(windows.input, images);
    let mut kernels = buffers.scratch(windows.out_channels * sizes.of_kernel());
    sizes.kernels(w, &mut kernels);
    let read = Planes { size: windows.output, before: windows.padding.map(|n| 2 - n), channels: windows.out_channels };
    let gradient = InputGradient { sizes: &sizes, tiling: &tiling, read, kernels: &kernels };
    // As many blocks for each thread.
    let together = images.div_ceil(images.div_ceil(tiling.images).next_multiple_of(threads()));
    let some = |scratch: &mut [f32], (g, out): (&[f32], &mut [f32])| {
        tiling.bands().fold(true, |all, lines| all & gradient.block(lines, g, scratch, out))
    };
    let of_block = sizes.of_block(&tiling);
    if sizes.are_worth_a_thread(images) {
        let parts = g.par_chunks(together * of_g).zip(out.par_chunks_mut(together * of_out));
        parts.map_init(|| buffers.scratch(of_block), |scratch, part| some(scratch, part)).reduce(|| true, |a, b| a & b)
    } else {
        let mut scratch = buffers.scratch(of_block);
        g.chunks(together * of_g).zip(out.chunks_mut(together * of_out)).fold(true, |all, part| all & some(&mut scratch, part))
    }
}

/// The gradient of the weights into `out`, from the input and the gradient of the result. `false` as in [`input_gradient`].
pub fn weight_gradient(windows: &Windows, buffers: &Buffers, x: &[f32], g: &[f32], out: &mut [f32]) -> bool {
    let sizes = Sizes::new(windows);
    let images = windows.images(x.len());
    let tiling = sizes.tiling(windows.output, images);
    let read_x = Planes { size: windows.input, before: windows.padding, channels: windows.channels };
    let read_g = Planes { size: windows.output, before: [0; 2], channels: windows.out_channels };
    let blocks: Vec<(usize, Range<usize>)> =
        (0..images).step_by(tiling.images).flat_map(|image| tiling.bands().map(move |lines| (image, lines))).collect();
    // Each part has sums of its own, so that what it writes stays in the cache of a thread, and their number is not that of threads.
    let parts = sizes.parts().min(blocks.len());
    let of_sums = sizes.of_sums();
    let mut sums = buffers.scratch(parts * of_sums);
    let of_tiles = sizes.of_tiles(&tiling);
    let add_part = |scratch: &mut [f32], (part, sums): (usize, &mut [f32])| {
        let (scratch, planes) = scratch.split_at_mut(of_tiles);
        for (i, (image, lines)) in blocks.iter().skip(part).step_by(parts).enumerate() {
            let count = tiling.images.min(images - image);
            let n = count * lines.len() * tiling.count[1];
            let [x_place, g_place] = [sizes.channels, sizes.outs].map(|channels| place_of(n, channels));
            let (x_tiles, g_tiles) = scratch.split_at_mut(PLACES * x_place);
            let of_block = |size: usize| image * size..(image + count) * size;
            read_x.transform(&tiling, lines.clone(), &x[of_block(read_x.of_image())], planes, sizes.channels, transform_tiles, x_tiles);
            read_g.transform(&tiling, lines.clone(), &g[of_block(read_g.of_image())], planes, sizes.outs, transform_gradients, g_tiles);
            for (place, sums) in sums.chunks_mut(of_sums / PLACES).enumerate() {
                let g = Matrix { values: &g_tiles[place * g_place..], row: 1, column: sizes.outs };
                let x = Matrix { values: &x_tiles[place * x_place..], row: sizes.channels, column: 1 };
                let mut sums = MatrixMut::new(sums, windows.out_channels, sizes.channels, sizes.channels);
                multiply(n, g, x, &mut sums, i > 0, Parallelism::None);
            }
        }
    };
    let scratch = || buffers.scratch(sizes.of_block(&tiling));
    if sizes.are_worth_a_thread(images) {
        let all = sums.par_chunks_mut(of_sums).enumerate().with_max_len(1);
        all.for_each_init(scratch, |scratch, part| add_part(scratch, part));
    } else {
        let mut scratch = scratch();
        sums.chunks_mut(of_sums).enumerate().for_each(|part| add_part(&mut scratch, part));
    }
    let one = |(o, out): (usize, &mut [f32])| {
        for (first, out) in out.chunks_mut(LANES * TAPS).enumerate() {
            let mut kernel = [[0.0; LANES]; TAPS];
            transform_sums(&sums[o * sizes.channels + first * LANES..], of_sums, parts, &mut kernel);
            for (lane, out) in out.chunks_exact_mut(TAPS).enumerate() {
                out.iter_mut().zip(&kernel).for_each(|(to, x)| *to = x[lane]);
            }
        }
        out.iter().fold(true, |all, x| all & x.is_finite())
    };
    out.par_chunks_mut(windows.channels * TAPS).enumerate().with_min_len(8).map(one).reduce(|| true, |a, b| a & b)
}

/// Floats of one place of so many tiles: it begins in other lines of the cache than the one before.
fn place_of(tiles: usize, channels: usize) -> usize {
    tiles * channels + LANES
}

/// Channels, filled up to whole lanes.
struct Sizes<'a> {
    windows: &'a Windows,
    /// Of the result.
    outs: usize,
    /// Of the input.
    channels: usize,
}

impl Sizes<'_> {
    fn new(windows: &Windows) -> Sizes<'_> {
        let [outs, channels] = [windows.out_channels, windows.channels].map(|n| n.next_multiple_of(LANES));
        Sizes { windows, outs, channels }
    }

    fn both(&self) -> usize {
        self.outs + self.channels
    }

    fn are_worth_a_thread(&self, images: usize) -> bool {
        let w = self.windows;
        threads() > 1 && images * w.out_plane() * w.channels * w.out_channels > WORTH_A_THREAD
    }

    fn tiling(&self, size: [usize; 2], images: usize) -> Tiling {
        Tiling::new(size.map(|n| n.div_ceil(2)), self.both(), images)
    }

    /// Floats of the kernels of one channel of the result, `[place][channels]`: a few more than channels, so that rows do not all begin in the same lines of the cache.
    fn of_kernel(&self) -> usize {
        PLACES * (self.channels + LANES)
    }

    /// Floats of the sums of kernels, `[place][outs][channels]`.
    fn of_sums(&self) -> usize {
        PLACES.saturating_mul(self.windows.out_channels).saturating_mul(self.channels)
    }

    /// Parts that the gradient of kernels is summed in.
    fn parts(&self) -> usize {
        (SUMS / self.of_sums()).min(PARTS)
    }

    /// Floats of the tiles of a block, before and after products, or of both sides.
    fn of_tiles(&self, tiling: &Tiling) -> usize {
        [self.outs, self.channels].map(|channels| PLACES * place_of(tiling.most(), channels)).iter().sum()
    }

    /// Floats that a thread takes: tiles, the planes of an image, and some lanes that are moved there.
    fn of_block(&self, tiling: &Tiling) -> usize {
        self.of_tiles(tiling) + (LANES + self.outs.max(self.channels)) * tiling.plane(tiling.lines)
    }

    /// `G f Gᵀ` of each kernel, turned round: `[channel of the result][place][channel]`.
    fn kernels(&self, w: &[f32], to: &mut [f32]) {
        let one = |(to, w): (&mut [f32], &[f32])| {
            for first in (0..self.windows.channels).step_by(LANES) {
                let mut kernel = [[0.0; LANES]; TAPS];
                for (lane, w) in w[first * TAPS..].chunks_exact(TAPS).take(LANES).enumerate() {
                    w.iter().rev().zip(&mut kernel).for_each(|(w, to)| to[lane] = *w);
                }
                transform_kernel(&kernel, &mut to[first..], self.channels + LANES);
            }
        };
        to.par_chunks_exact_mut(self.of_kernel()).with_min_len(8).zip(w.par_chunks_exact(self.windows.channels * TAPS)).for_each(one);
    }
}

/// How images are divided into tiles of 2 x 2 elements, and those into blocks: all tiles of some images, or lines of them of one.
struct Tiling {
    /// Down and across an image.
    count: [usize; 2],
    /// Of a block at most.
    images: usize,
    /// Of tiles, of a block at most.
    lines: usize,
}

impl Tiling {
    fn new(count: [usize; 2], channels: usize, images: usize) -> Tiling {
        let tiles = (BLOCK / (PLACES * channels)).max(1);
        let of_image = count[0] * count[1];
        if 2 * tiles >= of_image {
            Tiling { count, images: (tiles / of_image).clamp(1, images.max(1)), lines: count[0] }
        } else {
            Tiling { count, images: 1, lines: (tiles / count[1]).max(1) }
        }
    }

    /// The lines of tiles of each block of some images.
    fn bands(&self) -> impl Iterator<Item = Range<usize>> {
        let height = self.count[0];
        (0..height).step_by(self.lines).map(move |first| first..height.min(first + self.lines))
    }

    /// Tiles of a block at most.
    fn most(&self) -> usize {
        self.images * self.lines * self.count[1]
    }

    /// Elements of a plane of some lines of tiles, with a border of one element around them.
    fn plane(&self, lines: usize) -> usize {
        (2 * lines + 2) * self.padded_width()
    }

    fn padded_width(&self) -> usize {
        2 * self.count[1] + 2
    }
}

/// Images that are read in tiles.
struct Planes {
    /// Height and width.
    size: [usize; 2],
    /// Zeros before them, down and across.
    before: [usize; 2],
    /// Of an image.
    channels: usize,
}

/// [`transform_tiles`] or [`transform_gradients`].
type Transform = fn(&[Lanes], usize, [usize; 2], &mut [f32], usize, usize);

impl Planes {
    fn of_image(&self) -> usize {
        self.channels * self.size[0] * self.size[1]
    }

    /// Transforms the tiles of some lines of some images into `[place][tile][channels]`; `scratch` takes the planes of one image.
    #[allow(clippy::too_many_arguments)]
    fn transform(
        &self,
        tiling: &Tiling,
        lines: Range<usize>,
        images: &[f32],
        scratch: &mut [f32],
        channels: usize,
        transform: Transform,
        to: &mut [f32],
    ) {
        let [height, width] = self.size;
        let (plane, of_image) = (tiling.plane(lines.len()), lines.len() * tiling.count[1]);
        let count = images.len() / self.of_image();
        let (planes, flat) = scratch.as_chunks_mut::<LANES>().0.split_at_mut(plane * channels / LANES);
        for (i, image) in images.chunks_exact(self.of_image()).enumerate() {
            for (group, plane) in planes.chunks_exact_mut(plane).enumerate() {
                self.read(tiling, lines.clone(), &image[group * LANES * height * width..], flat, plane);
            }
            let to = &mut to[i * of_image * channels..];
            transform(planes, plane, [lines.len(), tiling.count[1]], to, place_of(count * of_image, channels), channels);
        }
    }

    /// The lines of some planes that lines of tiles meet, side by side, with zeros around them.
    fn read(&self, tiling: &Tiling, lines: Range<usize>, planes: &[f32], flat: &mut [Lanes], to: &mut [Lanes]) {
        let ([height, width], [top, left]) = (self.size, self.before);
        let line = |y: usize| y.saturating_sub(top).min(height);
        let (first, end) = (line(2 * lines.start), line(2 * lines.end + 2));
        let flat = &mut flat[..(end - first) * width];
        lanes_of_planes(&planes[first * width..], height * width, flat);
        let across = width.min(tiling.padded_width() - left);
        for (y, to) in (2 * lines.start..).zip(to.chunks_exact_mut(tiling.padded_width())) {
            match y.checked_sub(top).filter(|y| *y < height) {
                Some(y) => {
                    to[..left].fill([0.0; LANES]);
                    to[left..][..across].copy_from_slice(&flat[(y - first) * width..][..across]);
                    to[left + across..].fill([0.0; LANES]);
                }
                None => to.fill([0.0; LANES]),
            }
        }
    }
}

struct InputGradient<'a> {
    sizes: &'a Sizes<'a>,
    tiling: &'a Tiling,
    /// The gradient of the result.
    read: Planes,
    kernels: &'a [f32],
}

impl InputGradient<'_> {
    /// Some lines of tiles of some images, whose gradients are `g` and `out`; are they finite?
    fn block(&self, lines: Range<usize>, g: &[f32], scratch: &mut [f32], out: &mut [f32]) -> bool {
        let Sizes { windows, outs, channels } = *self.sizes;
        let of_image = lines.len() * self.tiling.count[1];
        let images = windows.images(out.len());
        let tiles = images * of_image;
        let (before_place, after_place) = (place_of(tiles, outs), place_of(tiles, channels));
        let (before, scratch) = scratch.split_at_mut(PLACES * before_place);
        let (after, planes) = scratch.split_at_mut(PLACES * after_place);
        self.read.transform(self.tiling, lines.clone(), g, planes, outs, transform_tiles, before);
        for place in 0..PLACES {
            let row = self.sizes.of_kernel();
            let a = Matrix { values: &before[place * before_place..], row: outs, column: 1 };
            let b = Matrix { values: &self.kernels[place * (channels + LANES)..], row, column: 1 };
            let mut after = MatrixMut::new(&mut after[place * after_place..][..tiles * channels], tiles, channels, channels);
            multiply(windows.out_channels, a, b, &mut after, false, Parallelism::None);
        }
        let [height, width] = windows.input;
        let (planes, plane) = (planes.as_chunks_mut::<LANES>().0, self.tiling.plane(lines.len()));
        let written = (2 * lines.len()).min(height - 2 * lines.start) * width;
        let mut finite = true;
        for (i, out) in out.chunks_exact_mut(windows.channels * windows.plane()).enumerate() {
            let after = &after[i * of_image * channels..];
            transform_products(after, after_place, channels, planes, plane, width, [lines.len(), self.tiling.count[1]]);
            for (group, plane) in planes.chunks_exact(plane).take(channels / LANES).enumerate() {
                let out = &mut out[group * LANES * windows.plane() + 2 * lines.start * width..];
                planes_of_lanes(&plane[..written], out, windows.plane(), &mut finite);
            }
        }
        finite
    }
}

#[inline(always)]
fn add(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] + b[i])
}

#[inline(always)]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] - b[i])
}

#[inline(always)]
fn half(a: Lanes) -> Lanes {
    std::array::from_fn(|i| 0.5 * a[i])
}

/// `Bᵀ d` of four elements.
#[inline(always)]
fn before([a, b, c, d]: [Lanes; 4]) -> [Lanes; 4] {
    [sub(a, c), add(b, c), sub(c, b), sub(b, d)]
}

/// `Aᵀ m` of four products.
#[inline(always)]
fn after([a, b, c, d]: [Lanes; 4]) -> [Lanes; 2] {
    [add(add(a, b), c), sub(sub(b, c), d)]
}

/// `G f` of three elements.
#[inline(always)]
fn kernel([a, b, c]: [Lanes; 3]) -> [Lanes; 4] {
    let ends = add(a, c);
    [a, half(add(ends, b)), half(sub(ends, b)), c]
}

// These are functions and not closures, which would have no wide vectors of their own.

/// `Bᵀ d` of column `c` of a tile.
#[inline(always)]
fn before_column(lines: &[Lanes], width: usize, c: usize) -> [Lanes; 4] {
    before([lines[c], lines[width + c], lines[2 * width + c], lines[3 * width + c]])
}

/// `Aᵀ m` of column `c` of the products of a tile.
#[inline(always)]
fn after_column(from: &[f32], place: usize, c: usize) -> [Lanes; 2] {
    after([lanes(from, c * place), lanes(from, (4 + c) * place), lanes(from, (8 + c) * place), lanes(from, (12 + c) * place)])
}

#[inline(always)]
fn lanes(from: &[f32], at: usize) -> Lanes {
    *from[at..].first_chunk().expect("all lanes are there")
}

/// `A g` of two elements.
#[inline(always)]
fn gradient(a: Lanes, b: Lanes) -> [Lanes; 4] {
    [a, add(a, b), sub(a, b), sub([0.0; LANES], b)]
}

/// `Gᵀ m` of four sums.
#[inline(always)]
fn taps(a: Lanes, b: Lanes, c: Lanes, d: Lanes) -> [Lanes; 3] {
    let both = half(add(b, c));
    [add(a, both), half(sub(b, c)), add(both, d)]
}

/// `Gᵀ m` of column `c` of the sums of a kernel, of which each part has its own.
#[inline(always)]
fn taps_of_column(from: &[f32], all: usize, parts: usize, c: usize) -> [Lanes; 3] {
    let place = all / PLACES;
    let mut m = [lanes(from, c * place), lanes(from, (4 + c) * place), lanes(from, (8 + c) * place), lanes(from, (12 + c) * place)];
    for part in 1..parts {
        for (r, m) in m.iter_mut().enumerate() {
            *m = add(*m, lanes(from, part * all + (4 * r + c) * place));
        }
    }
    taps(m[0], m[1], m[2], m[3])
}

/// Writes the places of a row.
#[inline(always)]
fn put([a, b, c, d]: [Lanes; 4], to: &mut [f32], place: usize) {
    to[..LANES].copy_from_slice(&a);
    to[place..][..LANES].copy_from_slice(&b);
    to[2 * place..][..LANES].copy_from_slice(&c);
    to[3 * place..][..LANES].copy_from_slice(&d);
}

simd_dispatch! {
    /// `Bᵀ d B` of each tile of some planes of [`LANES`] channels: place `p` of tile `t` at `p * place + t * tile`.
    fn transform_tiles(planes: &[[f32; LANES]], plane: usize, count: [usize; 2], to: &mut [f32], place: usize, tile: usize) {
        let [down, across] = count;
        let width = 2 * across + 2;
        for (y, x) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
            for group in 0..tile / LANES {
                let lines = &planes[group * plane + 2 * y * width + 2 * x..][..3 * width + 4];
                let a = before_column(lines, width, 0);
                let b = before_column(lines, width, 1);
                let c = before_column(lines, width, 2);
                let d = before_column(lines, width, 3);
                for r in 0..4 {
                    let at = 4 * r * place + (y * across + x) * tile + group * LANES;
                    put(before([a[r], b[r], c[r], d[r]]), &mut to[at..], place);
                }
            }
        }
    }
}

simd_dispatch! {
    /// `Aᵀ m A` of each tile, into lines of planes. What a tile has beyond the end of a line is overwritten by the next line.
    fn transform_products(from: &[f32], place: usize, tile: usize, planes: &mut [[f32; LANES]], plane: usize, width: usize, count: [usize; 2]) {
        let [down, across] = count;
        for (y, x) in (0..down).flat_map(|y| (0..across).rev().map(move |x| (y, x))) {
            for group in 0..tile / LANES {
                let from = &from[(y * across + x) * tile + group * LANES..];
                let a = after_column(from, place, 0);
                let b = after_column(from, place, 1);
                let c = after_column(from, place, 2);
                let d = after_column(from, place, 3);
                for r in 0..2 {
                    let line = &mut planes[group * plane + (2 * y + r) * width + 2 * x..][..2];
                    [line[0], line[1]] = after([a[r], b[r], c[r], d[r]]);
                }
            }
        }
    }
}

simd_dispatch! {
    /// Elements of up to [`LANES`] planes, which are `plane` elements apart, side by side.
    fn lanes_of_planes(planes: &[f32], plane: usize, to: &mut [[f32; LANES]]) {
        let count = to.len();
        let planes: Vec<&[f32]> = planes.chunks(plane).take(LANES).map(|p| &p[..count]).collect();
        let (squares, rest) = to.as_chunks_mut::<LANES>();
        let mut done = 0;
        if planes.len() == LANES {
            for (i, square) in squares.iter_mut().enumerate() {
                let mut rows = [[0.0; LANES]; LANES];
                rows.iter_mut().zip(&planes).for_each(|(row, plane)| *row = lanes(plane, i * LANES));
                *square = transposed(&rows);
            }
            done = squares.len() * LANES;
        }
        let to = if done == 0 { to } else { rest };
        for (lane, plane) in planes.iter().enumerate() {
            to.iter_mut().zip(&plane[done..]).for_each(|(to, x)| to[lane] = *x);
        }
    }
}

simd_dispatch! {
    /// The opposite of [`lanes_of_planes`]; clears `finite` where an element is not.
    fn planes_of_lanes(from: &[[f32; LANES]], planes: &mut [f32], plane: usize, finite: &mut bool) {
        let mut largest = [true; LANES];
        for x in from {
            largest.iter_mut().zip(x).for_each(|(all, x)| *all &= x.is_finite());
        }
        *finite &= largest.iter().all(|x| *x);
        let (squares, rest) = from.as_chunks::<LANES>();
        let count = from.len();
        let mut planes: Vec<&mut [f32]> = planes.chunks_mut(plane).take(LANES).map(|p| &mut p[..count]).collect();
        for (i, square) in squares.iter().enumerate() {
            for (plane, row) in planes.iter_mut().zip(transposed(square)) {
                plane[i * LANES..][..LANES].copy_from_slice(&row);
            }
        }
        for (lane, plane) in planes.iter_mut().enumerate() {
            plane[squares.len() * LANES..].iter_mut().zip(rest).for_each(|(to, x)| *to = x[lane]);
        }
    }
}

simd_dispatch! {
    /// `G f Gᵀ` of a kernel for some channels: place `p` at `p * place`.
    fn transform_kernel(f: &[[f32; LANES]; TAPS], to: &mut [f32], place: usize) {
        let a = kernel([f[0], f[3], f[6]]);
        let b = kernel([f[1], f[4], f[7]]);
        let c = kernel([f[2], f[5], f[8]]);
        for r in 0..4 {
            put(kernel([a[r], b[r], c[r]]), &mut to[4 * r * place..], place);
        }
    }
}

simd_dispatch! {
    /// As [`transform_tiles`], `A g Aᵀ` of the first 2 x 2 elements of each tile.
    fn transform_gradients(planes: &[[f32; LANES]], plane: usize, count: [usize; 2], to: &mut [f32], place: usize, tile: usize) {
        let [down, across] = count;
        let width = 2 * across + 2;
        for (y, x) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
            for group in 0..tile / LANES {
                let lines = &planes[group * plane + 2 * y * width + 2 * x..][..width + 2];
                let a = gradient(lines[0], lines[width]);
                let b = gradient(lines[1], lines[width + 1]);
                for r in 0..4 {
                    let at = 4 * r * place + (y * across + x) * tile + group * LANES;
                    put(gradient(a[r], b[r]), &mut to[at..], place);
                }
            }
        }
    }
}

simd_dispatch! {
    /// `Gᵀ m G` of the sums of a kernel for some channels: place `p` of a part is `p` sixteenths of `all` after its first.
    fn transform_sums(from: &[f32], all: usize, parts: usize, kernel: &mut [[f32; LANES]; TAPS]) {
        let a = taps_of_column(from, all, parts, 0);
        let b = taps_of_column(from, all, parts, 1);
        let c = taps_of_column(from, all, parts, 2);
        let d = taps_of_column(from, all, parts, 3);
        for r in 0..3 {
            [kernel[3 * r], kernel[3 * r + 1], kernel[3 * r + 2]] = taps(a[r], b[r], c[r], d[r]);
        }
    }
}

//! The gradient of the input of convolutions with kernels of 3 x 3, by the minimal filtering F(2 x 2, 3 x 3) of Winograd, as Lavin and
//! Gray have it (*Fast Algorithms for Convolutional Neural Networks*, 2016, section 4.1): 16 products for each four sums of nine terms
//! instead of 36.
//!
//! A tile of 4 x 4 elements `d` of the gradient of the result and a kernel `f`, turned round, give 2 x 2 elements of the gradient of the
//! input: `Aᵀ [(G f Gᵀ) ⊙ (Bᵀ d B)] A`. The sum over channels is taken between the brackets, so that each of the 16 places is a matrix
//! product over all tiles, which `gemm` computes; that is what bounds it. A sum meets the elements that it is made of and no others,
//! and its error is a few times that of adding up products. Spikes decide nothing here, which is why convolutions forward, whose
//! rounding can make a spike, are not computed like this.

use gemm::Parallelism;
use rayon::prelude::*;
use snn_plan::buffers::Buffers;
use snn_plan::convolution::Windows;

use crate::panels::LANES;
use crate::products::{Matrix, MatrixMut, multiply};
use crate::shared::threads;
use crate::simd::{simd_dispatch, transposed};

/// Elements of a tile that is read, and of the product of it.
const PLACES: usize = 16;
/// Fewer channels than this on either side are not worth the sums around the products.
const FEWEST_CHANNELS: usize = 32;
/// Fewer tiles than this are not worth the sums over the kernels.
const FEWEST_TILES: usize = 48;
/// Floats of the tiles of a block: they stay in the L2 cache.
const BLOCK: usize = 1 << 18;
/// Fewer products than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 18;

/// An element of each of some channels.
type Lanes = [f32; LANES];

/// Where the tiles of an image are.
#[derive(Clone, Copy)]
struct Tiles {
    /// Down and across.
    count: [usize; 2],
    /// Zeros before the gradient of the result.
    before: [usize; 2],
}

impl Tiles {
    fn new(windows: &Windows) -> Tiles {
        Tiles { count: windows.input.map(|n| n.div_ceil(2)), before: windows.padding.map(|n| 2 - n) }
    }

    fn of_image(self) -> usize {
        self.count[0] * self.count[1]
    }
}

/// Lines of tiles that are computed together: all of some images, or a band of one.
#[derive(Clone, Copy)]
struct Block {
    images: usize,
    first_line: usize,
    lines: usize,
}

/// Is this faster than unrolled windows, for so many images?
pub fn fits(windows: &Windows, images: usize) -> bool {
    let same = windows.kernel == [3, 3] && windows.stride == [1, 1] && windows.dilation == [1, 1] && windows.groups == 1;
    same && windows.padding.iter().all(|n| *n <= 2)
        && windows.channels.min(windows.out_channels) >= FEWEST_CHANNELS
        && images.saturating_mul(Tiles::new(windows).of_image()) >= FEWEST_TILES
}

/// The floats of [`Plan::kernels`] for so many images, and those of each thread.
pub fn scratch_floats(windows: &Windows, images: usize) -> [usize; 2] {
    let plan = Plan::new(windows, images);
    [windows.out_channels.saturating_mul(plan.of_kernel()), plan.of_block()]
}

/// The gradient of the input into `out`, from that of the result. `false` where a sum is not finite: then `out` has to be computed
/// in another way, since here an infinite number reaches sums that it is not part of.
pub fn input_gradient(windows: &Windows, buffers: &Buffers, g: &[f32], w: &[f32], out: &mut [f32]) -> bool {
    let images = out.len() / (windows.channels * windows.plane());
    let plan = Plan::new(windows, images);
    let mut kernels = buffers.scratch(windows.out_channels * plan.of_kernel());
    plan.kernels(w, &mut kernels);
    let (most, lines) = plan.together();
    // As many blocks for each thread.
    let together = images.div_ceil(images.div_ceil(most).next_multiple_of(threads()));
    let (of_g, of_out) = (windows.out_channels * windows.out_plane(), windows.channels * windows.plane());
    let some = |scratch: &mut [f32], (g, out): (&[f32], &mut [f32])| {
        let bands = (0..plan.tiles.count[0]).step_by(lines);
        let block = |first_line: usize| Block { images: g.len() / of_g, first_line, lines: lines.min(plan.tiles.count[0] - first_line) };
        bands.fold(true, |all, first| all & plan.block(block(first), g, &kernels, scratch, out))
    };
    let parts = g.par_chunks(together * of_g).zip(out.par_chunks_mut(together * of_out));
    if threads() > 1 && images * windows.out_plane() * windows.channels * windows.out_channels > WORTH_A_THREAD {
        parts.map_init(|| buffers.scratch(plan.of_block()), |scratch, part| some(scratch, part)).reduce(|| true, |a, b| a & b)
    } else {
        let mut scratch = buffers.scratch(plan.of_block());
        g.chunks(together * of_g).zip(out.chunks_mut(together * of_out)).fold(true, |all, part| all & some(&mut scratch, part))
    }
}

/// How a gradient is computed.
struct Plan<'a> {
    windows: &'a Windows,
    tiles: Tiles,
    /// Channels of the result, and of the input, filled up to whole lanes.
    outs: usize,
    channels: usize,
    images: usize,
}

impl Plan<'_> {
    fn new(windows: &Windows, images: usize) -> Plan<'_> {
        let [outs, channels] = [windows.out_channels, windows.channels].map(|n| n.next_multiple_of(LANES));
        Plan { windows, tiles: Tiles::new(windows), outs, channels, images }
    }

    /// Floats of the kernels of one channel of the result, `[place][channels]`: a few more than channels, so that rows do not all begin in the same lines of the cache.
    fn of_kernel(&self) -> usize {
        PLACES * (self.channels + LANES)
    }

    /// Images of a block at most, and lines of tiles.
    fn together(&self) -> (usize, usize) {
        let tiles = (BLOCK / (PLACES * (self.outs + self.channels))).max(1);
        let [height, width] = self.tiles.count;
        if 2 * tiles >= self.tiles.of_image() {
            ((tiles / self.tiles.of_image()).clamp(1, self.images), height)
        } else {
            (1, (tiles / width).max(1))
        }
    }

    /// Floats that a thread needs for a block: the tiles before and after products, and a few channels of a plane.
    fn of_block(&self) -> usize {
        let (images, lines) = self.together();
        let tiles = images * lines * self.tiles.count[1];
        PLACES * (tiles * (self.outs + self.channels) + 2 * LANES) + (LANES + self.outs.max(self.channels)) * self.plane(lines)
    }

    /// Elements of a plane of a block, with the zeros around it.
    fn plane(&self, lines: usize) -> usize {
        (2 * lines + 2) * self.padded_width()
    }

    fn padded_width(&self) -> usize {
        2 * self.tiles.count[1] + 2
    }

    /// `G f Gᵀ` of each kernel, turned round: `[channel of the result][place][channel]`.
    fn kernels(&self, w: &[f32], to: &mut [f32]) {
        let (taps, row) = (9, self.channels + LANES);
        let one = |(to, w): (&mut [f32], &[f32])| {
            for first in (0..self.windows.channels).step_by(LANES) {
                let mut kernel = [[0.0; LANES]; 9];
                for (lane, w) in w[first * taps..].chunks_exact(taps).take(LANES).enumerate() {
                    w.iter().rev().zip(&mut kernel).for_each(|(w, to)| to[lane] = *w);
                }
                transform_kernel(&kernel, &mut to[first..], row);
            }
        };
        let size = self.windows.channels * taps;
        to.par_chunks_exact_mut(self.of_kernel()).with_min_len(8).zip(w.par_chunks_exact(size)).for_each(one);
    }

    /// The block of some images. `g` and `out` are those images.
    fn block(&self, block: Block, g: &[f32], kernels: &[f32], scratch: &mut [f32], out: &mut [f32]) -> bool {
        let of_image = block.lines * self.tiles.count[1];
        let tiles = block.images * of_image;
        // A place begins in other lines of the cache than the one before.
        let (before_place, after_place) = (tiles * self.outs + LANES, tiles * self.channels + LANES);
        let (before, scratch) = scratch.split_at_mut(PLACES * before_place);
        let (after, planes) = scratch.split_at_mut(PLACES * after_place);
        let (planes, flat) = planes.as_chunks_mut::<LANES>().0.split_at_mut(self.plane(block.lines) * self.outs.max(self.channels) / LANES);
        for (i, g) in g.chunks_exact(self.windows.out_channels * self.windows.out_plane()).enumerate() {
            for (group, plane) in planes.chunks_exact_mut(self.plane(block.lines)).take(self.outs / LANES).enumerate() {
                self.read(block, &g[group * LANES * self.windows.out_plane()..], flat, plane);
            }
            let to = &mut before[i * of_image * self.outs..];
            transform_tiles(planes, self.plane(block.lines), [block.lines, self.tiles.count[1]], to, before_place, self.outs);
        }
        for place in 0..PLACES {
            let row = PLACES * (self.channels + LANES);
            let a = Matrix { values: &before[place * before_place..], row: self.outs, column: 1 };
            let b = Matrix { values: &kernels[place * (self.channels + LANES)..], row, column: 1 };
            let after = &mut after[place * after_place..][..tiles * self.channels];
            let mut after = MatrixMut::new(after, tiles, self.channels, self.channels);
            multiply(self.windows.out_channels, a, b, &mut after, false, Parallelism::None);
        }
        let mut finite = true;
        for (i, out) in out.chunks_exact_mut(self.windows.channels * self.windows.plane()).enumerate() {
            let from = &after[i * of_image * self.channels..];
            transform_products(
                from,
                after_place,
                self.channels,
                planes,
                self.plane(block.lines),
                self.windows.input[1],
                [block.lines, self.tiles.count[1]],
            );
            for (group, plane) in planes.chunks_exact(self.plane(block.lines)).take(self.channels / LANES).enumerate() {
                finite &= self.write(block, plane, &mut out[group * LANES * self.windows.plane()..]);
            }
        }
        finite
    }

    /// The lines of some planes that a block meets, side by side, with zeros around them.
    fn read(&self, block: Block, planes: &[f32], flat: &mut [Lanes], to: &mut [Lanes]) {
        let ([height, width], [top, left]) = (self.windows.output, self.tiles.before);
        let line = |y: usize| (2 * block.first_line + y).saturating_sub(top).min(height);
        let (first, end) = (line(0), line(2 * block.lines + 2));
        let flat = &mut flat[..(end - first) * width];
        lanes_of_planes(&planes[first * width..], height * width, flat);
        let across = width.min(self.padded_width() - left);
        for (y, to) in to.chunks_exact_mut(self.padded_width()).take(2 * block.lines + 2).enumerate() {
            match (2 * block.first_line + y).checked_sub(top).filter(|y| *y < height) {
                Some(y) => {
                    to[..left].fill([0.0; LANES]);
                    to[left..][..across].copy_from_slice(&flat[(y - first) * width..][..across]);
                    to[left + across..].fill([0.0; LANES]);
                }
                None => to.fill([0.0; LANES]),
            }
        }
    }

    /// Writes the lines of a block to some planes; are they finite?
    fn write(&self, block: Block, from: &[Lanes], planes: &mut [f32]) -> bool {
        let [height, width] = self.windows.input;
        let first = 2 * block.first_line;
        let lines = (2 * block.lines).min(height - first);
        let mut finite = true;
        planes_of_lanes(&from[..lines * width], &mut planes[first * width..], height * width, &mut finite);
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
    fn transform_kernel(f: &[[f32; LANES]; 9], to: &mut [f32], place: usize) {
        let a = kernel([f[0], f[3], f[6]]);
        let b = kernel([f[1], f[4], f[7]]);
        let c = kernel([f[2], f[5], f[8]]);
        for r in 0..4 {
            put(kernel([a[r], b[r], c[r]]), &mut to[4 * r * place..], place);
        }
    }
}

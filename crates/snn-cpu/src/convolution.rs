//! Convolutions and their gradients: which way is the fastest, and windows unrolled for the `gemm` crate, some positions at a time so that
//! they stay in cache, where no other way fits. Where the input is spikes, windows are bits ([`crate::spike_windows`]).
//!
//! With the windows of some positions of the result as a matrix `U[input channels and kernel, positions]`, for each group of channels:
//! the result is `W U`, the gradient of the input is what `Wᵀ G` gives back to where `U` came from, and that of the weights is
//! the sum of `G Uᵀ` over all positions. How positions are divided does not depend on the number of threads, so sums do not either.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;
use snn_plan::buffers::Buffers;
use snn_plan::convolution::{ConvolutionPlan, Direction, Windows};

use crate::direct;
use crate::fourier;
use crate::integer_windows::ByIntegers;
use crate::lines;
use crate::panels::{Identity, Kept, Target, product_once};
use crate::products::{Matrix, MatrixMut};
use crate::shared::threads;
use crate::spike_windows::{BySpikes, spikes_of_windows};
use crate::spikes::{Densest, Elements, WORD, are_few};
use crate::taps;
use crate::ways::Products;
use crate::winograd;

/// Positions of the result that are computed together: their unrolled windows stay in the L2 cache for up to a thousand rows.
const POSITIONS: usize = 256;
/// Planes of fewer positions leave too much of a product empty.
const SMALL_PLANE: usize = 48;
/// Positions that the gradient of weights sums over at a time.
const SUMMED_POSITIONS: usize = 256;
/// Columns of unrolled windows that one task sums over all positions.
const UNROLLED_COLUMNS: usize = 160;
/// Output channels that one task has, where that is summed over planes where they are.
const OUTS_TOGETHER: usize = 128;
/// Parts of the positions that the gradient of few weights is summed over by themselves.
const PARTS: usize = 4;
/// Fewer products than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 18;

/// Computes a convolution, or one of its gradients, into `out`. `a` and `b` are the operands of the operation; weights of a known
/// identity are packed once, into `packed`; other memory comes from `buffers`.
pub fn convolve(
    plan: &ConvolutionPlan,
    packed: &[Kept],
    buffers: &Buffers,
    (a, b): (Elements<'_>, &[f32]),
    identity: impl FnOnce() -> Identity,
    products: Products,
    out: &mut [f32],
) {
    let windows = &plan.windows;
    let mut held = None;
    if out.is_empty() {
        return;
    }
    if plan.direction != Direction::Forward && (a.is_empty() || b.is_empty()) {
        return out.fill(0.0);
    }
    match plan.direction {
        Direction::Forward => {
            let identity = identity();
            if let Some(first) = plan.packed {
                return forward(windows, products, &packed[first..first + windows.groups], None, buffers, (a, b), &identity, out);
            }
            // What weights that are computed anew are packed into is given back.
            let once: Vec<Kept> = (0..windows.groups).map(|_| Kept::default()).collect();
            forward(windows, products, &once, Some(buffers), buffers, (a, b), &identity, out);
            once.into_iter().filter_map(Kept::into_panels).for_each(|panels| buffers.give(panels.into_memory()));
        }
        Direction::InputGradient => {
            let a = a.floats(buffers, &mut held);
            let images = windows.images(out.len());
            if lines::fits_input_gradient(windows) {
                lines::input_gradient(windows, a, b, out);
            } else if taps::fits_input_gradient(windows) {
                let transforms = !products.is_exact() && fourier::fits(windows, images);
                if !transforms || !fourier::input_gradient(windows, buffers, a, b, out) {
                    taps::input_gradient(windows, products, buffers, a, b, out);
                }
            } else {
                let filters = !products.is_exact() && winograd::fits(windows, images);
                if filters && winograd::input_gradient(windows, buffers, a, b, out) {
                    return;
                }
                if products.are_fastest() && direct::fits_input_gradient(windows, images) {
                    direct::input_gradient(windows, buffers, a, b, out);
                } else {
                    Unrolled { windows, products }.input_gradient(a, b, out);
                }
            }
        }
        Direction::WeightGradient => {
            if lines::fits_weight_gradient(windows) && !products.is_exact() {
                return lines::weight_gradient(windows, a.floats(buffers, &mut held), b, out);
            }
            if filters_weight_gradient(windows, products, a) {
                let a = a.floats(buffers, &mut held);
                if winograd::weight_gradient(windows, buffers, a, b, out) {
                    return;
                }
            }
            let unrolled = Unrolled { windows, products };
            let sparse = products.densest_in(windows).is_some_and(|densest| are_few(a, windows.input[1], densest));
            if !sparse && unrolled.multiplies_planes() && windows.groups == 1 {
                return unrolled.weight_gradient_of_planes(a.floats(buffers, &mut held), b, out);
            }
            let mut rows = buffers.scratch(b.len());
            // The gradient of results as `[positions, channels]`.
            crate::moves::transpose(b, [windows.out_channels, windows.out_plane()], &mut rows);
            if !weight_gradient_of_spikes(windows, buffers, products, (a, &rows), out) {
                let a = a.floats(buffers, &mut held);
                if products.are_fastest() && direct::fits_weight_gradient(windows, windows.images(a.len())) {
                    direct::weight_gradient(windows, buffers, a, &rows, out);
                } else {
                    unrolled.weight_gradient(a, &rows, out);
                }
            }
        }
    }
}

/// Up to which densities of the input the gradient of weights is faster by spikes than by filtering.
const SPARSE: Densest = Densest { ones: 0.35, values: 0.3 };

/// And up to which a convolution is faster by spikes than by [`direct`]. Measured with 64 channels at 16 x 16 places, 128 at 8 x 8 and 256 at 4 x 4.
const DIRECTLY: Densest = Densest { ones: 0.75, values: 0.5 };

/// Is the gradient of weights faster by filtering?
fn filters_weight_gradient(windows: &Windows, products: Products, x: Elements<'_>) -> bool {
    let images = windows.images(x.len());
    let dense = products.densest().is_none_or(|densest| densest != Densest::ANY && !are_few(x, windows.input[1], SPARSE));
    !products.is_exact() && winograd::fits_weight_gradient(windows, images) && dense
}

/// A convolution. `kept` has the packed weights of each group; those that are not there are packed, into memory of `packing` if they are given back.
#[allow(clippy::too_many_arguments)]
fn forward(
    windows: &Windows,
    products: Products,
    kept: &[Kept],
    packing: Option<&Buffers>,
    buffers: &Buffers,
    (x, w): (Elements<'_>, &[f32]),
    identity: &Identity,
    out: &mut [f32],
) {
    let by_lines = lines::fits_forward(windows) && !x.is_empty() && !products.is_exact();
    if ByIntegers(windows).compute(x, w, kept, identity, out) {
        return;
    }
    let sparse = |densest| lines::sparse(windows).is_some_and(|sparse| densest == Densest::ANY || are_few(x, windows.input[1], sparse));
    let directly = products.are_fastest() && !by_lines && direct::fits_forward(windows, windows.images(x.len()));
    let by_spikes = products
        .densest_in(windows)
        .map(|densest| if directly { densest.at_most(DIRECTLY) } else { densest })
        .filter(|densest| !by_lines || sparse(*densest));
    if by_spikes.is_some_and(|densest| BySpikes { windows, densest, buffers: packing }.compute(x, w, kept, identity, out)) {
        return;
    }
    let mut held = None;
    let x = x.floats(buffers, &mut held);
    if by_lines {
        lines::forward(windows, x, w, out);
    } else if !directly || !direct::forward(windows, &kept[0], packing, buffers, (x, w), identity, out) {
        Unrolled { windows, products }.forward(x, w, out);
    }
}

/// The gradient of weights from spike indices; `false` where much of the input is not zero, or a gradient is not finite.
fn weight_gradient_of_spikes(
    windows: &Windows,
    buffers: &Buffers,
    products: Products,
    (x, g_rows): (Elements<'_>, &[f32]),
    out: &mut [f32],
) -> bool {
    let outs = windows.out_channels;
    let positions = g_rows.len() / outs;
    if windows.groups != 1 || outs < 8 || g_rows.len() < 1 << 12 {
        return false;
    }
    // The rows of the gradient that a spike meets are added.
    let Some(spikes) = products.densest_in(windows).and_then(|densest| spikes_of_windows(windows, x, densest)) else { return false };
    let rows = Matrix { values: g_rows, row: outs, column: 1 };
    product_once(&spikes, x, rows, [positions, outs, WORD], buffers, &Target::matrix(spikes.rows, outs, true, out))
}

/// A convolution whose windows are unrolled.
struct Unrolled<'a> {
    windows: &'a Windows,
    products: Products,
}

impl std::ops::Deref for Unrolled<'_> {
    type Target = Windows;

    fn deref(&self) -> &Windows {
        self.windows
    }
}

/// Lines of results that are computed together: all of some images, or a band of one.
#[derive(Clone, Copy)]
struct Block {
    first_image: usize,
    images: usize,
    first_line: usize,
    lines: usize,
}

/// The most floats that each thread unrolls, and copies beside that, for a convolution that is not done line by line.
pub fn unrolled_floats(windows: &Windows, direction: Direction) -> usize {
    let unrolled = Unrolled { windows, products: Products::default() };
    let positions = match direction {
        Direction::Forward | Direction::InputGradient => POSITIONS,
        Direction::WeightGradient => SUMMED_POSITIONS,
    };
    // A block has up to twice as many positions where that is a whole image.
    let block = (positions / windows.out_plane().max(1)).max(1) * windows.out_plane().min(2 * positions.max(windows.output[1]));
    let rows = match direction {
        Direction::Forward | Direction::InputGradient => unrolled.rows() + windows.per_group().1,
        Direction::WeightGradient => UNROLLED_COLUMNS.max(windows.taps()),
    };
    block.saturating_mul(rows)
}

/// The most floats of sums of parts of the positions, beside the result, of a gradient of weights.
pub fn floats_of_parts(windows: &Windows) -> usize {
    let unrolled = Unrolled { windows, products: Products::default() };
    if unrolled.has_few_tasks() { (PARTS - 1).saturating_mul(windows.out_channels.saturating_mul(unrolled.rows())) } else { 0 }
}

/// Memory of one thread.
#[derive(Default)]
struct Scratch {
    columns: Vec<f32>,
    positions: Vec<f32>,
    lines: Vec<f32>,
}

/// That many floats, whose values do not matter.
fn sized(v: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if v.len() < n {
        v.resize(n, 0.0);
    }
    &mut v[..n]
}

/// Rows `[images][plane]`, `n` elements in all, of planes that are anywhere: `of(row, image)`.
fn side_by_side<'p>(rows: &mut [f32], n: usize, plane: usize, of: impl Fn(usize, usize) -> &'p [f32]) {
    for (r, row) in rows.chunks_exact_mut(n).enumerate() {
        row.chunks_exact_mut(plane).enumerate().for_each(|(i, to)| to.copy_from_slice(of(r, i)));
    }
}

impl Unrolled<'_> {
    /// Rows of the unrolled windows of a group.
    fn rows(&self) -> usize {
        self.per_group().0 * self.taps()
    }

    /// Is a window one element, and the result as large as the image? Then nothing needs to be unrolled.
    fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.input == self.output && self.padding == [0, 0]
    }

    /// Are whole planes multiplied where they are? Not if they are small, or weights are rounded for each product.
    fn multiplies_planes(&self) -> bool {
        self.is_pointwise() && self.out_plane() >= SMALL_PLANE && !self.products.bf16
    }

    /// The blocks of `images` images, of about `positions` positions each.
    fn blocks(&self, images: usize, positions: usize) -> Vec<Block> {
        let [height, width] = self.output;
        let together = (positions / self.out_plane()).clamp(1, images);
        let lines = if self.out_plane() <= 2 * positions { height } else { (positions / width).clamp(1, height) };
        let of_images = |first_image: usize| {
            let images = together.min(images - first_image);
            (0..height).step_by(lines).map(move |first_line| Block {
                first_image,
                images,
                first_line,
                lines: lines.min(height - first_line),
            })
        };
        (0..images).step_by(together).flat_map(of_images).collect()
    }

    fn size(&self, block: Block) -> usize {
        block.images * block.lines * self.output[1]
    }

    /// How a kernel divides its work: each thread parts of its own, or all threads in each block.
    fn divided(&self, parts: usize, products: usize) -> (bool, Parallelism) {
        let threads = threads();
        let worth = threads > 1 && products > WORTH_A_THREAD;
        let whole = worth && (parts >= 2 * threads || parts.is_multiple_of(threads));
        (whole, if worth && !whole { Parallelism::Rayon(threads) } else { Parallelism::None })
    }

    /// Computes a result of images of `size` elements block by block; `act` gets the part of the result of a block's images.
    fn each_block(&self, out: &mut [f32], size: usize, products: usize, act: impl Fn(Block, &mut [f32], &mut Scratch, Parallelism) + Sync) {
        let whole = self.multiplies_planes();
        let positions = if whole { self.out_plane() } else { POSITIONS };
        let blocks = self.blocks(out.len() / size, positions);
        // Bands of one image are computed one after the other, because they meet in the gradient of the input.
        let bands = blocks.iter().take_while(|b| b.first_image == 0).count();
        let part = blocks[0].images * size;
        let (whole, parallelism) = self.divided(blocks.len() / bands, products);
        let some = |scratch: &mut Scratch, (blocks, out): (&[Block], &mut [f32])| {
            blocks.iter().for_each(|block| act(*block, out, scratch, parallelism));
        };
        if whole {
            blocks.par_chunks(bands).zip(out.par_chunks_mut(part)).for_each_init(Scratch::default, some);
        } else {
            let mut scratch = Scratch::default();
            blocks.chunks(bands).zip(out.chunks_mut(part)).for_each(|part| some(&mut scratch, part));
        }
    }

    fn forward(&self, x: &[f32], w: &[f32], out: &mut [f32]) {
        let (image, out_image) = (self.channels * self.plane(), self.out_channels * self.out_plane());
        self.each_block(out, out_image, out.len() * self.rows(), |block, out, scratch, parallelism| {
            let x = &x[block.first_image * image..][..block.images * image];
            self.forward_block(block, x, w, out, scratch, parallelism);
        });
    }

    fn forward_block(&self, block: Block, x: &[f32], w: &[f32], out: &mut [f32], scratch: &mut Scratch, parallelism: Parallelism) {
        let (per_group, rows, n) = (self.per_group(), self.rows(), self.size(block));
        let (out_plane, first_place) = (self.out_plane(), block.first_line * self.output[1]);
        for g in 0..self.groups {
            let weights = Matrix { values: &w[g * per_group.1 * rows..][..per_group.1 * rows], row: rows, column: 1 };
            let own = &mut out[g * per_group.1 * out_plane..];
            if self.is_pointwise() && block.images == 1 {
                let columns = Matrix { values: &x[g * per_group.0 * out_plane + first_place..], row: out_plane, column: 1 };
                let mut own = MatrixMut::new(&mut own[first_place..], per_group.1, n, out_plane);
                self.products.multiply(rows, weights, columns, &mut own, false, parallelism);
                continue;
            }
            let columns = sized(&mut scratch.columns, rows * n);
            if self.is_pointwise() {
                side_by_side(columns, n, out_plane, |c, i| &x[(i * self.channels + g * per_group.0 + c) * out_plane..][..out_plane]);
            } else {
                self.unroll(block, x, g, columns, &mut scratch.lines, parallelism);
            }
            let columns = Matrix { values: columns, row: n, column: 1 };
            if block.images == 1 {
                let mut own = MatrixMut::new(&mut own[first_place..], per_group.1, n, out_plane);
                self.products.multiply(rows, weights, columns, &mut own, false, parallelism);
                continue;
            }
            let positions = sized(&mut scratch.positions, per_group.1 * n);
            self.products.multiply(rows, weights, columns, &mut MatrixMut::new(positions, per_group.1, n, n), false, parallelism);
            for (o, positions) in positions.chunks_exact(n).enumerate() {
                for (i, positions) in positions.chunks_exact(out_plane).enumerate() {
                    own[(i * self.out_channels + o) * out_plane..][..out_plane].copy_from_slice(positions);
                }
            }
        }
    }

    /// The gradient of a group's results in a block, `[channel, position]`: where it is, or copied so that positions of several images
    /// lie side by side.
    fn gradient<'g>(&self, block: Block, g: &'g [f32], group: usize, positions: &'g mut Vec<f32>) -> Matrix<'g> {
        let (outs, out_plane, n) = (self.per_group().1, self.out_plane(), self.size(block));
        let first = |image: usize| ((block.first_image + image) * self.out_channels + group * outs) * out_plane;
        if block.images == 1 {
            return Matrix { values: &g[first(0) + block.first_line * self.output[1]..], row: out_plane, column: 1 };
        }
        let positions = sized(positions, outs * n);
        side_by_side(positions, n, out_plane, |o, i| &g[first(i) + o * out_plane..][..out_plane]);
        Matrix { values: positions, row: n, column: 1 }
    }

    fn input_gradient(&self, g: &[f32], w: &[f32], out: &mut [f32]) {
        let image = self.channels * self.plane();
        self.each_block(out, image, g.len() * self.rows(), |block, out, scratch, parallelism| {
            // What is given back is added, unless it is written where it is.
            if block.first_line == 0 && !self.is_pointwise() {
                out.fill(0.0);
            }
            self.input_gradient_block(block, g, w, out, scratch, parallelism);
        });
    }

    fn input_gradient_block(&self, block: Block, g: &[f32], w: &[f32], out: &mut [f32], scratch: &mut Scratch, parallelism: Parallelism) {
        let (per_group, rows, n, plane) = (self.per_group(), self.rows(), self.size(block), self.plane());
        for group in 0..self.groups {
            let weights = Matrix { values: &w[group * per_group.1 * rows..][..per_group.1 * rows], row: 1, column: rows };
            let gradient = self.gradient(block, g, group, &mut scratch.positions);
            let own = &mut out[group * per_group.0 * plane..];
            if self.is_pointwise() && block.images == 1 {
                let first_place = block.first_line * self.output[1];
                let mut own = MatrixMut::new(&mut own[first_place..], rows, n, plane);
                self.products.multiply(per_group.1, weights, gradient, &mut own, false, parallelism);
                continue;
            }
            let columns = sized(&mut scratch.columns, rows * n);
            self.products.multiply(per_group.1, weights, gradient, &mut MatrixMut::new(columns, rows, n, n), false, parallelism);
            let channels = columns.chunks_exact(self.taps() * n);
            let of_image = self.channels * plane;
            // Each image gets its channels from the columns of all of them.
            let planes = |image: &mut [f32], i: usize, c: usize, columns: &[f32], lines: &mut Vec<f32>| {
                let to = &mut image[c * plane..][..plane];
                if self.is_pointwise() {
                    to.copy_from_slice(&columns[i * plane..][..plane]);
                } else {
                    self.give_back(block, i, columns, to, lines);
                }
            };
            if matches!(parallelism, Parallelism::None) {
                for (c, columns) in channels.enumerate() {
                    for (i, image) in own.chunks_mut(of_image).enumerate() {
                        planes(image, i, c, columns, &mut scratch.lines);
                    }
                }
            } else {
                let columns: Vec<&[f32]> = channels.collect();
                own.par_chunks_mut(of_image).enumerate().for_each_init(Vec::new, |lines, (i, image)| {
                    columns.iter().enumerate().for_each(|(c, columns)| planes(image, i, c, columns, lines));
                });
            }
        }
    }

    /// The gradient of weights of a pointwise convolution image by image, where planes are: some output channels are a task, whose sums stay in the L2 cache.
    fn weight_gradient_of_planes(&self, x: &[f32], g: &[f32], out: &mut [f32]) {
        let (outs, channels, plane) = (self.out_channels, self.channels, self.plane());
        let some = |(i, out): (usize, &mut [f32])| {
            let rows = out.len() / channels;
            let mut out = MatrixMut::new(out, rows, channels, channels);
            for (image, x) in x.chunks_exact(channels * plane).enumerate() {
                let gradient = Matrix { values: &g[(image * outs + i * OUTS_TOGETHER) * plane..], row: plane, column: 1 };
                let x = Matrix { values: x, row: 1, column: plane };
                self.products.multiply(plane, gradient, x, &mut out, image > 0, Parallelism::None);
            }
        };
        if threads() > 1 && g.len() * channels > WORTH_A_THREAD {
            out.par_chunks_mut(OUTS_TOGETHER * channels).enumerate().for_each(some);
        } else {
            out.chunks_mut(OUTS_TOGETHER * channels).enumerate().for_each(some);
        }
    }

    /// Channels of a task of the gradient of weights.
    fn channels_of_task(&self) -> usize {
        (UNROLLED_COLUMNS / self.taps()).clamp(1, self.per_group().0)
    }

    fn has_few_tasks(&self) -> bool {
        self.per_group().0.div_ceil(self.channels_of_task()) * self.groups < PARTS
    }

    /// `g_rows` is the gradient as `[positions, channels]`.
    fn weight_gradient(&self, x: &[f32], g_rows: &[f32], out: &mut [f32]) {
        let (per_group, rows, image) = (self.per_group(), self.rows(), self.channels * self.plane());
        let blocks = self.blocks(x.len() / image, SUMMED_POSITIONS);
        // Each task has some channels, and sums over all positions, or, where there are few tasks, over a part of them.
        let channels = self.channels_of_task();
        let few = self.has_few_tasks() && !self.products.is_exact();
        let parts = if few { PARTS.min(blocks.len()) } else { 1 };
        let size = out.len();
        let mut others = vec![0f32; (parts - 1) * size];
        let mut tasks = Vec::new();
        for (p, sums) in std::iter::once(&mut *out).chain(others.chunks_mut(size)).enumerate() {
            for (group, sums) in sums.chunks_mut(per_group.1 * rows).enumerate() {
                let columns = MatrixMut::new(sums, per_group.1, rows, rows).column_blocks(channels * self.taps());
                tasks.extend(columns.into_iter().enumerate().map(|(c, columns)| (p, group, c * channels, columns)));
            }
        }
        let task = |scratch: &mut Scratch, (p, group, first_channel, mut out): (usize, usize, usize, MatrixMut<'_>)| {
            let channels = group * per_group.0 + first_channel..group * per_group.0 + (first_channel + channels).min(per_group.0);
            let width = channels.len() * self.taps();
            for (i, block) in blocks.iter().skip(p).step_by(parts).enumerate() {
                let n = self.size(*block);
                let columns = sized(&mut scratch.columns, n * width);
                let x = &x[block.first_image * image..][..block.images * image];
                self.unroll_places(*block, x, channels.clone(), columns, &mut scratch.lines);
                let first = block.first_image * self.out_plane() + block.first_line * self.output[1];
                let gradient = &g_rows[first * self.out_channels + group * per_group.1..];
                let gradient = Matrix { values: gradient, row: 1, column: self.out_channels };
                self.products.multiply(n, gradient, Matrix { values: columns, row: width, column: 1 }, &mut out, i > 0, Parallelism::None);
            }
        };
        if threads() > 1 && g_rows.len() * rows > WORTH_A_THREAD {
            tasks.into_par_iter().with_max_len(1).for_each_init(Scratch::default, task);
        } else {
            let mut scratch = Scratch::default();
            tasks.into_iter().for_each(|t| task(&mut scratch, t));
        }
        for sums in others.chunks(size) {
            out.iter_mut().zip(sums).for_each(|(to, x)| *to += x);
        }
    }

    /// The lines of a plane that a block meets, with the zeros around them.
    fn padded(&self, block: Block, plane: &[f32], lines: &mut Vec<f32>) {
        lines.clear();
        lines.resize(self.met_lines(block) * self.padded_width(), 0.0);
        lines::put_inside(plane, self.input, self.padding, block.first_line * self.stride[0], self.padded_width(), lines);
    }

    fn padded_width(&self) -> usize {
        self.padded_input()[1]
    }

    fn met_lines(&self, block: Block) -> usize {
        (block.lines - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1
    }

    /// Where an element of the kernel meets the first position of a line of a block, in [`Self::padded`] lines.
    fn met(&self, tap: usize, line: usize) -> usize {
        line * self.stride[0] * self.padded_width() + self.tap(tap, self.padded_width())
    }

    /// One row for each channel of a group and element of the kernel: what the positions of a block meet in `x`, the block's images.
    fn unroll(&self, block: Block, x: &[f32], group: usize, columns: &mut [f32], lines: &mut Vec<f32>, parallelism: Parallelism) {
        let (channels, taps, n) = (self.per_group().0, self.taps(), self.size(block));
        let (width, stride) = (self.output[1], self.stride[1]);
        let channel = |c: usize, columns: &mut [f32], lines: &mut Vec<f32>| {
            for i in 0..block.images {
                let plane = &x[(i * self.channels + group * channels + c) * self.plane()..][..self.plane()];
                self.padded(block, plane, lines);
                for (tap, row) in columns.chunks_exact_mut(n).enumerate() {
                    let row = &mut row[i * block.lines * width..][..block.lines * width];
                    for (line, row) in row.chunks_exact_mut(width).enumerate() {
                        let from = &lines[self.met(tap, line)..];
                        if stride == 1 {
                            row.iter_mut().zip(from).for_each(|(to, x)| *to = *x);
                        } else {
                            row.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, x)| *to = *x);
                        }
                    }
                }
            }
        };
        if matches!(parallelism, Parallelism::None) {
            columns.chunks_exact_mut(taps * n).enumerate().for_each(|(c, columns)| channel(c, columns, lines));
        } else {
            let columns = columns.par_chunks_exact_mut(taps * n).enumerate().with_min_len(4);
            columns.for_each_init(Vec::new, |lines, (c, columns)| channel(c, columns, lines));
        }
    }

    /// One row for each position of a block: what it meets in some channels of `x`, the block's images, `[channels and kernel]`.
    fn unroll_places(&self, block: Block, x: &[f32], channels: Range<usize>, rows: &mut [f32], lines: &mut Vec<f32>) {
        let (taps, row, padded) = (self.taps(), channels.len() * self.taps(), self.padded_width());
        let (stride, dilation) = (self.stride[1], self.dilation);
        for i in 0..block.images {
            for (c, channel) in channels.clone().enumerate() {
                self.padded(block, &x[(i * self.channels + channel) * self.plane()..][..self.plane()], lines);
                for line in 0..block.lines {
                    let first = (i * block.lines + line) * self.output[1];
                    let from = &lines[line * self.stride[0] * padded..];
                    for (position, row) in rows[first * row..].chunks_exact_mut(row).take(self.output[1]).enumerate() {
                        let from = &from[position * stride..];
                        for (ky, row) in row[c * taps..][..taps].chunks_exact_mut(self.kernel[1]).enumerate() {
                            let from = &from[ky * dilation[0] * padded..];
                            row.iter_mut().enumerate().for_each(|(kx, to)| *to = from[kx * dilation[1]]);
                        }
                    }
                }
            }
        }
    }

    /// Adds to a plane of image `i` what its positions have for it in the rows `[kernel, positions]` of its channel.
    fn give_back(&self, block: Block, i: usize, columns: &[f32], plane: &mut [f32], lines: &mut Vec<f32>) {
        let (width, n, stride) = (self.output[1], self.size(block), self.stride[1]);
        lines.clear();
        lines.resize(self.met_lines(block) * self.padded_width(), 0.0);
        for (tap, row) in columns.chunks_exact(n).enumerate() {
            let row = &row[i * block.lines * width..][..block.lines * width];
            for (line, row) in row.chunks_exact(width).enumerate() {
                let to = &mut lines[self.met(tap, line)..];
                if stride == 1 {
                    to.iter_mut().zip(row).for_each(|(to, x)| *to += x);
                } else {
                    to.iter_mut().step_by(stride).zip(row).for_each(|(to, x)| *to += x);
                }
            }
        }
        let (width, [top, left]) = (self.input[1], self.padding);
        for (y, line) in lines.chunks_exact(self.padded_width()).enumerate() {
            if let Some(y) = (block.first_line * self.stride[0] + y).checked_sub(top).filter(|y| *y < self.input[0]) {
                plane[y * width..][..width].iter_mut().zip(&line[left..]).for_each(|(to, x)| *to += x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ways::ProductKernel;
    use snn_ir::interpret::{Randomness, evaluate};
    use snn_ir::{ConvGradient, Convolution, DType, Op, Tensor, Type};

    /// Images, groups, channels, output channels, input, kernel, stride, padding, dilation.
    type Case = (usize, usize, usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 2], [usize; 2]);

    const CASES: [Case; 38] = [
        (3, 1, 4, 8, [12, 12], [3, 3], [1, 1], [1, 1], [1, 1]),
        (1, 1, 7, 70, [28, 28], [3, 3], [1, 1], [1, 1], [1, 1]),
        (2, 2, 8, 32, [9, 11], [5, 4], [2, 3], [2, 0], [1, 1]),
        (2, 1, 3, 16, [20, 40], [3, 3], [1, 2], [4, 4], [2, 3]),
        (2, 1, 2, 16, [6, 150], [3, 5], [1, 1], [1, 2], [1, 1]),
        (3, 1, 6, 8, [14, 14], [12, 12], [1, 1], [0, 0], [1, 1]),
        (2, 1, 5, 9, [1, 300], [1, 64], [1, 70], [0, 3], [1, 1]),
        (2, 1, 70, 24, [8, 8], [1, 1], [1, 1], [0, 0], [1, 1]),
        (4, 1, 3, 10, [8, 7], [1, 1], [2, 2], [0, 0], [1, 1]),
        (17, 1, 20, 12, [2, 2], [3, 3], [1, 1], [1, 1], [1, 1]),
        (3, 2, 6, 6, [5, 5], [3, 3], [1, 1], [1, 1], [1, 1]),
        (9, 4, 4, 8, [4, 4], [3, 3], [2, 2], [1, 1], [1, 1]),
        (2, 1, 4, 16, [7, 64], [7, 7], [1, 1], [3, 64], [1, 1]),
        (1, 1, 3, 8, [40, 40], [5, 5], [2, 2], [2, 2], [1, 1]),
        (2, 1, 8, 24, [20, 20], [3, 3], [1, 1], [1, 1], [1, 1]),
        (5, 1, 1, 1, [1, 9], [1, 3], [1, 4], [0, 0], [1, 1]),
        // Bands of lines, of which the last has fewer.
        (3, 1, 2, 9, [37, 64], [3, 3], [1, 1], [1, 1], [1, 1]),
        (2, 1, 1, 5, [50, 40], [3, 5], [1, 1], [2, 1], [2, 1]),
        // Positions that lie as every second or third element of an image.
        (6, 1, 12, 16, [16, 12], [3, 3], [2, 2], [1, 1], [1, 1]),
        (5, 1, 10, 24, [18, 30], [3, 3], [3, 3], [1, 1], [1, 1]),
        (8, 1, 20, 16, [16, 16], [1, 1], [2, 2], [0, 0], [1, 1]),
        (2, 1, 9, 16, [8, 140], [3, 3], [2, 2], [1, 1], [1, 1]),
        (4, 1, 9, 16, [10, 44], [3, 5], [1, 2], [1, 3], [1, 2]),
        // Lines and the elements of a kernel: padding that reaches further than the kernel and less far.
        (5, 1, 40, 33, [1, 60], [1, 5], [1, 1], [0, 2], [1, 1]),
        (2, 1, 32, 48, [1, 70], [1, 4], [1, 1], [0, 0], [1, 3]),
        (3, 1, 33, 32, [1, 50], [1, 3], [1, 1], [0, 7], [1, 2]),
        // Lines and a long kernel, whose gradient is a product of frequencies.
        (8, 1, 64, 70, [1, 124], [1, 25], [1, 1], [0, 0], [1, 1]),
        // Tiles of 4 x 4: whole ones and not, several images and bands of one, every padding.
        (9, 1, 40, 33, [7, 6], [3, 3], [1, 1], [1, 1], [1, 1]),
        (2, 1, 32, 48, [37, 50], [3, 3], [1, 1], [1, 1], [1, 1]),
        (3, 1, 33, 32, [12, 9], [3, 3], [1, 1], [0, 2], [1, 1]),
        (14, 1, 64, 64, [4, 4], [3, 3], [1, 1], [2, 0], [1, 1]),
        // Places of small images: words of whole channels and not, one that no element of the kernel meets, and channels that fill no tile.
        (11, 1, 38, 64, [5, 6], [3, 3], [2, 2], [1, 1], [1, 1]),
        (4, 1, 33, 70, [2, 2], [5, 5], [1, 1], [3, 2], [1, 1]),
        (9, 1, 130, 128, [2, 2], [3, 3], [1, 1], [1, 1], [1, 1]),
        // Positions along lines of padded images: bands of them, and tiles that are not full.
        (2, 1, 3, 64, [45, 41], [7, 7], [2, 2], [3, 3], [1, 1]),
        (3, 1, 30, 64, [9, 22], [3, 5], [1, 1], [2, 3], [2, 1]),
        // The last panel of weights has fewer columns than the others, and would be narrower by itself.
        (2, 1, 4, 100, [11, 20], [3, 3], [1, 1], [1, 1], [1, 1]),
        (6, 1, 9, 100, [4, 3], [3, 3], [1, 1], [1, 1], [1, 1]),
    ];

    fn close(found: &[f32], want: &[f32], what: &str) {
        let largest = want.iter().fold(1f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in found.iter().zip(want).enumerate() {
            assert!((a - b).abs() <= 2e-5 * largest, "{what}, element {i}: {a} instead of {b}");
        }
    }

    #[test]
    fn every_direction_is_the_interpreters() {
        for case in CASES {
            let (images, groups, channels, out_channels, input, kernel, stride, padding, dilation) = case;
            let out = |a: usize| (input[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a] + 1;
            let list = |v: [usize; 2]| v.iter().map(|n| *n as i64).collect::<Vec<_>>();
            let c = Convolution { stride: list(stride), padding: list(padding), dilation: list(dilation), groups: groups as i64 };
            let x_shape = vec![images, channels, input[0], input[1]];
            let w_shape = vec![out_channels, channels / groups, kernel[0], kernel[1]];
            let y_shape = vec![images, out_channels, out(0), out(1)];
            let windows = Windows::new(&c, &x_shape, &w_shape, &y_shape);
            let mut next = crate::testing::numbers((channels * out_channels + input[1]) as u64);
            for density in [0.2f32, 0.6, 2.0] {
                let mut tensor = |shape: &[usize], spikes: bool| {
                    let mut value = |_| if spikes { f32::from(u8::from(next() < density)) } else { next() - 0.5 };
                    Tensor::f32(shape.to_vec(), (0..shape.iter().product()).map(&mut value).collect())
                };
                let (x, w, g) = (tensor(&x_shape, density < 1.0), tensor(&w_shape, false), tensor(&y_shape, false));
                let of = |shape: &[usize]| {
                    let shape = shape.iter().map(|n| (*n as i64).into()).collect();
                    ConvGradient { convolution: c.clone(), shape }
                };
                let directions = [
                    (Direction::Forward, Op::Conv(c.clone()), [&x, &w], &y_shape),
                    (Direction::InputGradient, Op::ConvInputGradient(of(&x_shape)), [&g, &w], &x_shape),
                    (Direction::WeightGradient, Op::ConvWeightGradient(of(&w_shape)), [&x, &g], &w_shape),
                ];
                for (direction, op, operands, shape) in directions {
                    let ty = Type::new(DType::F32, shape.iter().map(|n| (*n as i64).into()).collect::<Vec<_>>());
                    let want = evaluate(&op, &operands, &[ty], &mut Randomness::Counter { seed: 0 }).unwrap();
                    let kept: Vec<Kept> = (0..groups).map(|_| Kept::default()).collect();
                    let plan = ConvolutionPlan { direction, windows: windows.clone(), packed: (density < 1.0).then_some(0) };
                    let [a, b] = operands.map(Tensor::as_f32);
                    let of_plan = |plan: &ConvolutionPlan, a: Elements<'_>| {
                        let mut out = vec![f32::NAN; shape.iter().product()];
                        convolve(plan, &kept, &Buffers::new(0), (a, b), || Identity::Named("w".into()), Products::default(), &mut out);
                        out
                    };
                    let of = |a: Elements<'_>| of_plan(&plan, a);
                    let run = || of(a.into());
                    let found = run();
                    if plan.packed.is_none() && direction == Direction::Forward {
                        let kept = ConvolutionPlan { packed: Some(0), ..plan.clone() };
                        assert_eq!(of_plan(&kept, a.into()), found, "weights that are kept, {case:?}");
                    }
                    if a.iter().all(|x| *x == 0.0 || *x == 1.0) {
                        let booleans: Vec<u8> = a.iter().map(|x| *x as u8).collect();
                        assert_eq!(of(Elements::Spikes(&booleans)), found, "booleans, {direction:?} of {case:?}");
                    }
                    close(&found, want[0].as_f32(), &format!("{direction:?} of {case:?}, density {density}"));
                    for threads in [1, 3] {
                        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                        assert_eq!(pool.install(run), found, "{direction:?} of {case:?} on {threads} threads");
                    }
                }
            }
        }
    }

    /// The cases above have all that [`direct`] does in them.
    #[test]
    fn cases_are_computed_directly() {
        let windows = |(_, _, channels, outs, input, kernel, stride, padding, dilation): Case| {
            let output = [0, 1].map(|a| (input[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a] + 1);
            Windows { groups: 1, channels, out_channels: outs, input, output, kernel, stride, padding, dilation }
        };
        let ungrouped = || CASES.into_iter().filter(|case| case.1 == 1);
        let forward = ungrouped().filter(|case| direct::fits_forward(&windows(*case), case.0)).count();
        let weights = ungrouped().filter(|case| direct::fits_weight_gradient(&windows(*case), case.0)).count();
        let back = ungrouped().filter(|case| direct::fits_input_gradient(&windows(*case), case.0)).count();
        if crate::microkernel::is_fast() {
            assert!(forward >= 6 && back >= 4 && weights >= 4, "{forward} forward, {back} of gradients of inputs, {weights} of weights");
        } else {
            assert_eq!((forward, back, weights), (0, 0, 0));
        }
    }

    /// An element that is not finite reaches the sums that it is part of and no others, in every direction.
    #[test]
    fn infinities_stay_where_they_are() {
        let tiles = infinities(9, [32, 40], [7, 7], [3, 3], [1, 1]);
        assert!(winograd::fits_weight_gradient(&tiles, 9));
        let places = infinities(5, [40, 64], [2, 3], [3, 3], [1, 1]);
        assert!(!winograd::fits(&places, 5));
        let lines = infinities(8, [64, 65], [1, 60], [1, 17], [0, 8]);
        assert!(taps::fits_input_gradient(&lines) && fourier::fits(&lines, 8));
    }

    fn infinities(images: usize, [channels, outs]: [usize; 2], size: [usize; 2], kernel: [usize; 2], padding: [usize; 2]) -> Windows {
        let c = Convolution { stride: vec![1, 1], padding: padding.map(|n| n as i64).to_vec(), dilation: vec![1, 1], groups: 1 };
        let x_shape = [images, channels, size[0], size[1]];
        let (w_shape, y_shape) = ([outs, channels, kernel[0], kernel[1]], [images, outs, size[0], size[1]]);
        let windows = Windows::new(&c, &x_shape, &w_shape, &y_shape);
        let mut next = crate::testing::numbers(3);
        let mut tensor = |shape: [usize; 4]| -> Vec<f32> { (0..shape.iter().product()).map(|_| next() - 0.5).collect() };
        let (x, w, mut g) = (tensor(x_shape), tensor(w_shape), tensor(y_shape));
        g[size[1] + 2] = f32::INFINITY;
        g[4 * outs * size[0] * size[1] + 3] = f32::NAN;
        for (direction, a, b, n) in [(Direction::InputGradient, &g, &w, x.len()), (Direction::WeightGradient, &x, &g, w.len())] {
            let plan = ConvolutionPlan { direction, windows: windows.clone(), packed: None };
            let [found, want] = [ProductKernel::Fastest, ProductKernel::Exact].map(|kernel| {
                let products = Products { kernel, ..Products::default() };
                let mut out = vec![7.0; n];
                convolve(&plan, &[], &Buffers::new(0), (a[..].into(), b), || Identity::Named("w".into()), products, &mut out);
                out
            });
            assert!(want.iter().any(|x| x.is_finite()) || direction == Direction::WeightGradient);
            for (i, (a, b)) in found.iter().zip(&want).enumerate() {
                assert!(
                    a.is_finite() == b.is_finite() && (!a.is_finite() || (a - b).abs() < 1e-4),
                    "{direction:?}, element {i}: {a} instead of {b}"
                );
            }
        }
        windows
    }
}

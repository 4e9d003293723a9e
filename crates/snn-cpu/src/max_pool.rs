//! The gradient of a max pool: in each window the first element that is the pool's result gets what the result got.

use rayon::prelude::*;
use snn_ir::tensor::row_major_strides;
use snn_plan::max_pool::MaxPoolGradient;

use crate::simd::simd_dispatch;

/// Planes of fewer elements than this in all are computed by one thread.
const WORTH_A_THREAD: usize = 1 << 14;

/// The gradient of a max pool that is computed.
pub struct MaxPoolBackward<'a>(pub &'a MaxPoolGradient);

impl std::ops::Deref for MaxPoolBackward<'_> {
    type Target = MaxPoolGradient;

    fn deref(&self) -> &MaxPoolGradient {
        self.0
    }
}

impl MaxPoolBackward<'_> {
    /// Writes the gradient of `x` into `out`.
    pub fn execute(&self, x: &[f32], y: &[f32], gradient: &[f32], out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let Some([height, width]) = self.tile() else { return self.general(x, y, gradient, out) };
        let columns = self.space[1];
        let (band, few) = (height * columns, columns / width);
        // A band is the rows of one row of tiles.
        let one = |(i, out): (usize, &mut [f32])| {
            let x = &x[i * band..(i + 1) * band];
            let (y, gradient) = (&y[i * few..(i + 1) * few], &gradient[i * few..(i + 1) * few]);
            if [height, width] == [2, 2] {
                return squares(x, y, gradient, out);
            }
            for (t, (y, gradient)) in y.iter().zip(gradient).enumerate() {
                let mut wanted = true;
                for row in 0..height {
                    let at = row * columns + t * width;
                    for (out, x) in out[at..at + width].iter_mut().zip(&x[at..at + width]) {
                        let hit = wanted & ((x == y) | x.is_nan());
                        wanted &= !hit;
                        *out = if hit { *gradient } else { 0.0 };
                    }
                }
            }
        };
        out.par_chunks_mut(band).enumerate().with_min_len(WORTH_A_THREAD.div_ceil(band)).for_each(one);
    }

    /// Windows that overlap, or have padding: plane by plane, in the order of windows.
    fn general(&self, x: &[f32], y: &[f32], gradient: &[f32], out: &mut [f32]) {
        let (plane, few) = (self.space.iter().product::<usize>(), self.windows.iter().product::<usize>());
        let axes = self.pool.axes.len();
        let own = row_major_strides(&self.space);
        // For each axis and window: the positions of its elements that are not padding.
        let inside: Vec<Vec<Vec<usize>>> = (0..axes)
            .map(|d| {
                let a = &self.pool.axes[d];
                let positions = |i| (0..a.size as usize).filter_map(|k| a.place(i, k, self.space[d])).map(|p| p * own[d]).collect();
                (0..self.windows[d]).map(positions).collect()
            })
            .collect();
        let one = |(p, out): (usize, &mut [f32])| {
            out.fill(0.0);
            let x = &x[p * plane..(p + 1) * plane];
            let mut at = vec![0; axes];
            for w in p * few..(p + 1) * few {
                let is_best = |i: &usize| (x[*i] == y[w]) | x[*i].is_nan();
                if let Some(i) = first(&inside, &at, 0, 0, &is_best) {
                    out[i] += gradient[w];
                }
                for d in (0..axes).rev() {
                    at[d] += 1;
                    if at[d] < self.windows[d] {
                        break;
                    }
                    at[d] = 0;
                }
            }
        };
        out.par_chunks_mut(plane).enumerate().with_min_len(WORTH_A_THREAD.div_ceil(plane)).for_each(one);
    }
}

/// The first element of window `at` for which `is` holds, in row-major order.
fn first(inside: &[Vec<Vec<usize>>], at: &[usize], axis: usize, base: usize, is: &impl Fn(&usize) -> bool) -> Option<usize> {
    let positions = inside[axis][at[axis]].iter().map(|p| base + p);
    if axis + 1 == inside.len() {
        return positions.into_iter().find(is);
    }
    positions.into_iter().find_map(|p| first(inside, at, axis + 1, p, is))
}

/// Tiles that are looked at side by side.
const LANES: usize = 16;

simd_dispatch! {
    /// A row of tiles of two by two, as those of most pools are.
    fn squares(x: &[f32], y: &[f32], gradient: &[f32], out: &mut [f32]) {
        let (upper, lower) = x.split_at(x.len() / 2);
        let (out_upper, out_lower) = out.split_at_mut(x.len() / 2);
        let whole = y.len() / LANES * LANES;
        let pairs = |row| -> &[[f32; 2 * LANES]] { <[f32]>::as_chunks(row).0 };
        let sources = pairs(upper).iter().zip(pairs(lower)).zip(y.as_chunks::<LANES>().0.iter().zip(gradient.as_chunks::<LANES>().0));
        let targets = out_upper.as_chunks_mut::<{ 2 * LANES }>().0.iter_mut().zip(out_lower.as_chunks_mut::<{ 2 * LANES }>().0);
        for (((a, b), (y, gradient)), (to_a, to_b)) in sources.zip(targets) {
            (*to_a, *to_b) = tiles(a, b, y, gradient);
        }
        for i in whole..y.len() {
            let x = [upper[2 * i], upper[2 * i + 1], lower[2 * i], lower[2 * i + 1]];
            let first = x.iter().position(|x| *x == y[i] || x.is_nan());
            let value = |k: usize| if first == Some(k) { gradient[i] } else { 0.0 };
            (out_upper[2 * i], out_upper[2 * i + 1]) = (value(0), value(1));
            (out_lower[2 * i], out_lower[2 * i + 1]) = (value(2), value(3));
        }
    }
}

/// What the tiles of two rows get: positions of one kind are put side by side, so that arrays that are made whole are registers.
#[inline(always)]
fn tiles(a: &[f32; 2 * LANES], b: &[f32; 2 * LANES], y: &[f32; LANES], gradient: &[f32; LANES]) -> ([f32; 2 * LANES], [f32; 2 * LANES]) {
    use std::array::from_fn;
    let of = |row: &[f32; 2 * LANES], k: usize| -> [f32; LANES] { from_fn(|i| row[2 * i + k]) };
    let hit = |x: [f32; LANES]| -> [u32; LANES] { from_fn(|i| u32::from((x[i] == y[i]) | x[i].is_nan())) };
    let (h0, h1, h2, h3) = (hit(of(a, 0)), hit(of(a, 1)), hit(of(b, 0)), hit(of(b, 1)));
    let free1: [u32; LANES] = from_fn(|i| 1 - h0[i]);
    let free2: [u32; LANES] = from_fn(|i| free1[i] & (1 - h1[i]));
    let free3: [u32; LANES] = from_fn(|i| free2[i] & (1 - h2[i]));
    let value = |h: [u32; LANES], free: [u32; LANES]| -> [f32; LANES] { from_fn(|i| if h[i] & free[i] != 0 { gradient[i] } else { 0.0 }) };
    let (v0, v1, v2, v3) = (value(h0, [1; LANES]), value(h1, free1), value(h2, free2), value(h3, free3));
    let joined =
        |even: [f32; LANES], odd: [f32; LANES]| -> [f32; 2 * LANES] { from_fn(|i| if i % 2 == 0 { even[i / 2] } else { odd[i / 2] }) };
    (joined(v0, v1), joined(v2, v3))
}

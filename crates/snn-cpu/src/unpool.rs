//! The gradient of a pool over tiles: in each tile the first element that equals the pool's result gets what the result got.

use rayon::prelude::*;
use snn_ir::{BinaryOp, Graph, NodeId, Op, Value};

use crate::plan::immediate;
use crate::wide::widest;

/// Planes of fewer elements than this in all are computed by one thread.
const WORTH_A_THREAD: usize = 1 << 14;

/// What is read, and how large a tile is.
#[derive(Clone, Copy, Debug)]
pub struct UnpoolPlan {
    /// What was pooled, `[..., rows, columns]`.
    pub x: Value,
    /// The results, `[..., rows / height, columns / width]`.
    pub y: Value,
    /// What they got.
    pub gradient: Value,
    tile: [usize; 2],
    columns: usize,
}

impl UnpoolPlan {
    /// Is a selection the gradient of a pool, as the differentiation writes it: `select(first of each tile (x == tiles of y), tiles of
    /// gradient, 0)`?
    pub fn find(graph: &Graph, id: NodeId) -> Option<UnpoolPlan> {
        let node = graph.node(id);
        let (Op::Select, [mask, gradient, zero]) = (&node.op, node.operands.as_slice()) else { return None };
        let zero = immediate(graph, *zero)?;
        let (gradient, split) = spread(graph, *gradient)?;
        let shape = node.types[0].sizes().ok()?;
        let rank = shape.len();
        let exchange: Vec<usize> = (0..rank - 1).chain([rank, rank - 1, rank + 1]).collect();
        let operand = |v: Value, is: &dyn Fn(&Op) -> bool| is(graph.op(v)).then(|| graph.node(v.node).operands[0]);
        let reshape = |v: Value| operand(v, &|op| matches!(op, Op::Reshape));
        let transpose = |v: Value| operand(v, &|op| matches!(op, Op::Transpose { permutation } if *permutation == exchange));
        let exchanged = reshape(*mask)?;
        let first = reshape(transpose(exchanged)?)?;
        let tiles = operand(first, &|op| matches!(op, Op::FirstSpike { axis } if *axis == rank))?;
        let reaches = reshape(transpose(reshape(tiles)?)?)?;
        let Op::Binary(BinaryOp::Eq) = graph.op(reaches) else { return None };
        let [x, best] = graph.node(reaches.node).operands.as_slice() else { return None };
        let (y, also) = spread(graph, *best)?;
        let as_split = |v: Value| graph.ty(v).sizes().is_ok_and(|s| s == split);
        let fits = zero.as_f32().first().is_some_and(|z| z.to_bits() == 0)
            && split == also
            && as_split(exchanged)
            && graph.ty(*x).sizes().is_ok_and(|s| s == shape)
            && shape[..rank - 2] == split[..rank - 2]
            && shape[rank - 2] == split[rank - 2] * split[rank - 1]
            && shape[rank - 1] == split[rank] * split[rank + 1];
        let (tile, columns) = ([split[rank - 1], split[rank + 1]], shape[rank - 1]);
        fits.then_some(UnpoolPlan { x: *x, y, gradient, tile, columns })
    }

    /// Writes the gradient of `x` into `out`.
    pub fn execute(&self, x: &[f32], y: &[f32], gradient: &[f32], out: &mut [f32]) {
        let ([height, width], columns) = (self.tile, self.columns);
        let (band, few) = (height * columns, columns / width.max(1));
        if out.is_empty() {
            return;
        }
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
                        let hit = wanted & (x == y);
                        wanted &= !hit;
                        *out = if hit { *gradient } else { 0.0 };
                    }
                }
            }
        };
        out.par_chunks_mut(band).enumerate().with_min_len(WORTH_A_THREAD.div_ceil(band)).for_each(one);
    }
}

widest! {
    /// A row of tiles of two by two, as those of most pools are.
    fn squares(x: &[f32], y: &[f32], gradient: &[f32], out: &mut [f32]) {
        let (upper, lower) = x.split_at(x.len() / 2);
        let (out_upper, out_lower) = out.split_at_mut(x.len() / 2);
        let sources = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0).zip(y.iter().zip(gradient));
        let targets = out_upper.as_chunks_mut::<2>().0.iter_mut().zip(out_lower.as_chunks_mut::<2>().0);
        for (((a, b), (y, gradient)), (to_a, to_b)) in sources.zip(targets) {
            let hits = [a[0] == *y, a[1] == *y, b[0] == *y, b[1] == *y];
            let first = [hits[0], hits[1] & !hits[0], hits[2] & !(hits[0] | hits[1]), hits[3] & !(hits[0] | hits[1] | hits[2])];
            let value = |hit: bool| if hit { *gradient } else { 0.0 };
            *to_a = [value(first[0]), value(first[1])];
            *to_b = [value(first[2]), value(first[3])];
        }
    }
}

/// A value `[..., rows, columns]` that is repeated in tiles: the value, and the shape `[..., rows, height, columns, width]` in which
/// it is repeated.
fn spread(graph: &Graph, v: Value) -> Option<(Value, Vec<usize>)> {
    let Op::Reshape = graph.op(v) else { return None };
    let repeated = graph.node(v.node).operands[0];
    let Op::Broadcast { axes } = graph.op(repeated) else { return None };
    let source = graph.node(repeated.node).operands[0];
    let split = graph.ty(repeated).sizes().ok()?;
    let rank = graph.ty(v).rank();
    let kept: Vec<usize> = (0..rank.checked_sub(1)?).chain([rank]).collect();
    let whole = graph.ty(source).sizes().ok()?;
    let fits = rank >= 2 && split.len() == rank + 2 && *axes == kept && kept.iter().zip(&whole).all(|(a, n)| split[*a] == *n);
    fits.then_some((source, split))
}

//! Moving elements: one strided copy for transpositions, slices, padding, joining, windows and repetition.
#![allow(unsafe_code)]

use rayon::prelude::*;
use snn_ir::tensor::row_major_strides;
use snn_ir::{Data, Op, Tensor};

use crate::shared::Shared;

/// Fewer elements than this are moved by one thread.
const SMALLEST_FOR_THREADS: usize = 1 << 14;

/// The side of the squares in which a transposition is copied: rows of 64 bytes, both of whose sides stay in the L1 cache.
const SQUARE: usize = 16;

/// A box of elements, in both tensors at some offset with some strides.
struct Block {
    sizes: Vec<usize>,
    from: usize,
    from_strides: Vec<usize>,
    to: usize,
    to_strides: Vec<usize>,
}

impl Block {
    /// Joins axes that lie behind each other in both tensors, and leaves out those of size 1.
    fn joined(mut self) -> Block {
        let mut i = self.sizes.len();
        while i > 0 {
            i -= 1;
            let next = i + 1;
            let joins = next < self.sizes.len()
                && self.from_strides[i] == self.from_strides[next] * self.sizes[next]
                && self.to_strides[i] == self.to_strides[next] * self.sizes[next];
            if joins {
                self.sizes[next] *= self.sizes[i];
            }
            if joins || self.sizes[i] == 1 {
                self.sizes.remove(i);
                self.from_strides.remove(i);
                self.to_strides.remove(i);
            }
        }
        self
    }

    /// Where place `i` of the first axes, in row-major order, is in both tensors.
    fn places(&self, axes: usize, mut i: usize) -> [usize; 2] {
        let mut at = [self.from, self.to];
        for (axis, size) in self.sizes[..axes].iter().enumerate().rev() {
            at[0] += i % size * self.from_strides[axis];
            at[1] += i % size * self.to_strides[axis];
            i /= size;
        }
        at
    }

    /// The axis along which the source is read in order, where it is another than the one along which the result is written in order.
    fn across(&self) -> Option<usize> {
        let last = self.sizes.len().checked_sub(1)?;
        let across = self.from_strides[..last].iter().rposition(|stride| *stride == 1)?;
        let both = self.sizes[last].min(self.sizes[across]) >= SQUARE / 2;
        (both && self.to_strides[last] == 1 && self.from_strides[last] != 1).then_some(across)
    }

    /// [`Block::copy`] in squares of axis `across` and the last. The places were checked.
    fn transpose<T: Copy + Send + Sync>(mut self, across: usize, from: &[T], to: &mut [T]) {
        let last = self.sizes.len() - 1;
        let (columns, from_step) = (self.sizes[last], self.from_strides[last]);
        let (rows, to_step) = (self.sizes[across], self.to_strides[across]);
        for v in [&mut self.sizes, &mut self.from_strides, &mut self.to_strides] {
            v.remove(last);
            v.remove(across);
        }
        let stripes = rows.div_ceil(SQUARE);
        let target = Shared(to.as_mut_ptr());
        let stripe = |i: usize| {
            let first = i % stripes * SQUARE;
            let height = SQUARE.min(rows - first);
            let [a, b] = self.places(self.sizes.len(), i / stripes);
            let (a, b) = (a + first, b + first * to_step);
            let target = target.get();
            for column in (0..columns).step_by(SQUARE) {
                let width = SQUARE.min(columns - column);
                let (a, b) = (a + column * from_step, b + column);
                // SAFETY: `copy` bounds both places for every index; stripes write different elements, as slabs do.
                unsafe {
                    if (height, width) == (SQUARE, SQUARE) {
                        let source = from.as_ptr().add(a);
                        let square: [[T; SQUARE]; SQUARE] =
                            std::array::from_fn(|c| source.add(c * from_step).cast::<[T; SQUARE]>().read_unaligned());
                        let turned: [[T; SQUARE]; SQUARE] = std::array::from_fn(|r| std::array::from_fn(|c| square[c][r]));
                        for (r, row) in turned.into_iter().enumerate() {
                            target.add(b + r * to_step).cast::<[T; SQUARE]>().write_unaligned(row);
                        }
                    } else {
                        for (r, c) in (0..height).flat_map(|r| (0..width).map(move |c| (r, c))) {
                            *target.add(b + r * to_step + c) = *from.get_unchecked(a + c * from_step + r);
                        }
                    }
                }
            }
        };
        let count = stripes * self.sizes.iter().product::<usize>();
        if count * SQUARE * columns < SMALLEST_FOR_THREADS {
            (0..count).for_each(stripe);
        } else {
            (0..count).into_par_iter().with_min_len((SMALLEST_FOR_THREADS / (SQUARE * columns)).max(1)).for_each(stripe);
        }
    }

    fn copy<T: Copy + Send + Sync>(self, from: &[T], to: &mut [T]) {
        let mut block = self.joined();
        let n: usize = block.sizes.iter().product();
        if n == 0 {
            return;
        }
        let reach = |offset: usize, strides: &[usize]| offset + block.sizes.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum::<usize>();
        assert!(reach(block.from, &block.from_strides) < from.len() && reach(block.to, &block.to_strides) < to.len());
        if let Some(across) = block.across() {
            return block.transpose(across, from, to);
        }
        // The last three axes are loops; the others are one index, which threads divide.
        while block.sizes.len() < 3 {
            block.sizes.insert(0, 1);
            block.from_strides.insert(0, 0);
            block.to_strides.insert(0, 0);
        }
        let first = block.sizes.len() - 3;
        let last = |v: &[usize]| [v[first], v[first + 1], v[first + 2]];
        let (size, from_step, to_step) = (last(&block.sizes), last(&block.from_strides), last(&block.to_strides));
        let outer = &block.sizes[..first];
        let runs = from_step[2] == 1 && to_step[2] == 1;
        let target = Shared(to.as_mut_ptr());
        // Many outer places take the first of the three as a loop; few give it to threads.
        let count = outer.iter().product::<usize>();
        let (slabs, depth) = if count >= 256 { (count, size[0]) } else { (count * size[0], 1) };
        let slab = |i: usize| {
            let [a, b] = block.places(outer.len(), if depth == 1 { i / size[0] } else { i });
            let first = if depth == 1 { i % size[0] } else { 0 };
            let target = target.get();
            for (z, y) in (first..first + depth).flat_map(|z| (0..size[1]).map(move |y| (z, y))) {
                let (a, b) = (a + z * from_step[0] + y * from_step[1], b + z * to_step[0] + y * to_step[1]);
                // SAFETY: the assertion above bounds both places for every index; slabs write different elements, because the
                // strides of a result are those of a tensor and no two indices meet.
                unsafe {
                    if runs && size[2] >= 8 {
                        std::ptr::copy_nonoverlapping(from.as_ptr().add(a), target.add(b), size[2]);
                    } else if size[2] == 2 && to_step[2] == 1 {
                        // Pools and what is repeated twice: a loop of two is not worth its counter.
                        *target.add(b) = *from.get_unchecked(a);
                        *target.add(b + 1) = *from.get_unchecked(a + from_step[2]);
                    } else {
                        for x in 0..size[2] {
                            *target.add(b + x * to_step[2]) = *from.get_unchecked(a + x * from_step[2]);
                        }
                    }
                }
            }
        };
        if n < SMALLEST_FOR_THREADS {
            (0..slabs).for_each(slab);
        } else {
            (0..slabs).into_par_iter().with_min_len((SMALLEST_FOR_THREADS / (depth * size[1] * size[2])).max(1)).for_each(slab);
        }
    }
}

/// Is an operation a movement that [`execute`] does?
pub fn supports(op: &Op) -> bool {
    matches!(op, Op::Transpose { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Concat { .. } | Op::Window { .. } | Op::Broadcast { .. })
}

/// The blocks that an operation copies, each from one of its operands.
fn blocks(op: &Op, operands: &[&Tensor], shape: &[usize]) -> Vec<(usize, Block)> {
    let to_strides = row_major_strides(shape);
    let own = row_major_strides(operands[0].shape());
    let whole =
        |from: usize, from_strides: Vec<usize>| Block { sizes: shape.to_vec(), from, from_strides, to: 0, to_strides: to_strides.clone() };
    let number = |d: &snn_ir::Dim| d.evaluate(&snn_ir::Dims::new()).unwrap_or(0) as usize;
    if let Op::Transpose { permutation } = op {
        vec![(0, whole(0, permutation.iter().map(|a| own[*a]).collect()))]
    } else if let Op::Slice { axis, start, step, .. } = op {
        let mut strides = own.clone();
        strides[*axis] *= *step as usize;
        vec![(0, whole(number(start) * own[*axis], strides))]
    } else if let Op::Window { axis, stride, dilation, .. } = op {
        let mut strides = own.clone();
        strides[*axis] *= *stride as usize;
        strides.push(own[*axis] * *dilation as usize);
        vec![(0, whole(0, strides))]
    } else if let Op::Broadcast { axes, .. } = op {
        let mut strides = vec![0; shape.len()];
        for (i, axis) in axes.iter().enumerate() {
            strides[*axis] = if operands[0].shape()[i] == 1 { 0 } else { own[i] };
        }
        vec![(0, whole(0, strides))]
    } else if let Op::Pad { axis, low, .. } = op {
        let to = number(low) * to_strides[*axis];
        vec![(0, Block { sizes: operands[0].shape().to_vec(), from: 0, from_strides: own, to, to_strides })]
    } else if let Op::Concat { axis } = op {
        let mut at = 0;
        let parts = operands.iter().enumerate().map(|(i, t)| {
            let to = at * to_strides[*axis];
            at += t.shape()[*axis];
            let from_strides = row_major_strides(t.shape());
            (i, Block { sizes: t.shape().to_vec(), from: 0, from_strides, to, to_strides: to_strides.clone() })
        });
        parts.collect()
    } else {
        unreachable!("only movements are planned as such")
    }
}

/// Moves the operands of a movement into a result of a shape. `floats` gives memory for floats, whatever it holds.
pub fn execute(op: &Op, operands: &[&Tensor], shape: Vec<usize>, floats: impl FnOnce(usize) -> Vec<f32>) -> Tensor {
    let n = shape.iter().product();
    let blocks = blocks(op, operands, &shape);
    let data = match operands[0].data() {
        Data::F32(_) => {
            let mut out = floats(n);
            if let Op::Pad { value, .. } = op {
                out.fill(*value);
            }
            for (i, block) in blocks {
                block.copy(operands[i].as_f32(), &mut out);
            }
            Data::F32(out.into())
        }
        Data::I64(_) => Data::I64(
            collected(blocks, operands, pad_value(op) as i64, n, |t| match t.data() {
                Data::I64(v) => v,
                _ => &[],
            })
            .into(),
        ),
        Data::Bool(_) => Data::Bool(collected(blocks, operands, u8::from(pad_value(op) != 0.0), n, bytes).into()),
        Data::U8(_) => Data::U8(collected(blocks, operands, pad_value(op) as u8, n, bytes).into()),
    };
    Tensor::new(shape, data)
}

fn bytes(t: &Tensor) -> &[u8] {
    match t.data() {
        Data::Bool(v) | Data::U8(v) => v,
        _ => &[],
    }
}

fn pad_value(op: &Op) -> f32 {
    if let Op::Pad { value, .. } = op { *value } else { 0.0 }
}

fn collected<T: Copy + Send + Sync>(
    blocks: Vec<(usize, Block)>,
    operands: &[&Tensor],
    fill: T,
    n: usize,
    of: impl Fn(&Tensor) -> &[T],
) -> Vec<T> {
    let mut out = vec![fill; n];
    for (i, block) in blocks {
        block.copy(of(operands[i]), &mut out);
    }
    out
}

/// The rows of `x`, that many steps later, with zeros before the first.
pub fn delay(x: &[f32], steps: i64, row: usize, out: &mut [f32]) {
    let by = usize::try_from(steps).unwrap_or(usize::MAX).saturating_mul(row).min(x.len());
    out[..by].fill(0.0);
    out[by..].copy_from_slice(&x[..x.len() - by]);
}

/// `out[image, column, row]` from `x[image, row, column]`.
pub fn transpose(x: &[f32], [rows, columns]: [usize; 2], out: &mut [f32]) {
    let size = rows * columns;
    let sizes = vec![x.len() / size.max(1), columns, rows];
    Block { sizes, from: 0, from_strides: vec![size, 1, columns], to: 0, to_strides: vec![size, rows, 1] }.copy(x, out);
}

/// Are all values 0 or 1, so that the first 1 of a series is its first spike?
pub fn first_spike_fits(x: &Tensor) -> bool {
    match x.data() {
        Data::F32(v) => v.par_chunks(1 << 14).all(|v| v.iter().all(|x| *x == 0.0 || *x == 1.0)),
        Data::Bool(_) => true,
        _ => false,
    }
}

/// The first 1 of each series along an axis.
pub fn first_spike(x: &Tensor, axis: usize) -> Tensor {
    let shape = x.shape();
    let steps = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    let mut out = vec![0u8; x.len()];
    if out.is_empty() {
        return Tensor::bool(shape.to_vec(), out);
    }
    fn mark<T>(x: &[T], out: &mut [u8], steps: usize, inner: usize, is: impl Fn(&T) -> bool) {
        for i in 0..inner {
            if let Some(t) = (0..steps).find(|t| is(&x[t * inner + i])) {
                out[t * inner + i] = 1;
            }
        }
    }
    // Up to eight booleans that follow each other are one word: its lowest bit is the first.
    if let (1, true, Data::Bool(v)) = (inner, steps <= 8, x.data()) {
        let one = |(out, x): (&mut [u8], &[u8])| {
            let mut word = [0u8; 8];
            word[..steps].copy_from_slice(x);
            let all = u64::from_le_bytes(word);
            out.copy_from_slice(&(all & all.wrapping_neg()).to_le_bytes()[..steps]);
        };
        let rows_of = |(out, x): (&mut [u8], &[u8])| out.chunks_exact_mut(steps).zip(x.chunks_exact(steps)).for_each(one);
        let some = steps << 12;
        out.par_chunks_mut(some).zip(v.par_chunks(some)).for_each(rows_of);
        return Tensor::bool(shape.to_vec(), out);
    }
    let one = |(o, out): (usize, &mut [u8])| {
        let range = o * steps * inner..(o + 1) * steps * inner;
        match x.data() {
            Data::F32(v) => mark(&v[range], out, steps, inner, |x| *x == 1.0),
            _ => mark(&bytes(x)[range], out, steps, inner, |x| *x != 0),
        }
    };
    out.par_chunks_mut(steps * inner).enumerate().with_min_len((1 << 13) / (steps * inner).max(1) + 1).for_each(one);
    Tensor::bool(shape.to_vec(), out)
}

//! Products with one-hot rows, without the rows: elements are chosen, or added to the class of their label.
//!
//! The result is that of the product to the bit. Each of its sums has one product by 1 for each element that is chosen or added, and
//! products by 0 for all others, which matter only where an element is not finite: 0 times that is NaN.

use rayon::prelude::*;
use snn_ir::interpret::RuntimeError;
use snn_plan::selection::{Selection, SelectionKind};

use crate::shared::threads;
use crate::simd::simd_dispatch;

/// Fewer elements than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 15;

/// A selection that is computed.
pub struct Select<'a>(pub &'a Selection);

impl Select<'_> {
    /// Writes the selection of the elements `x`, which are none for counts, into `out`.
    ///
    /// # Errors
    /// A label out of range.
    pub fn execute(&self, labels: &[i64], x: &[f32], out: &mut [f32]) -> Result<(), RuntimeError> {
        let classes = self.0.classes;
        if let Some((index, value)) = labels.iter().enumerate().find(|(_, l)| !(0..classes as i64).contains(*l)) {
            return Err(RuntimeError::LabelOutOfRange { value: *value, index, last: classes as i64 - 1 });
        }
        match self.0.kind {
            SelectionKind::Counts => {
                let mut counts = vec![0u64; classes];
                labels.iter().for_each(|l| counts[*l as usize] += 1);
                out.iter_mut().zip(counts).for_each(|(to, n)| *to = n as f32);
            }
            SelectionKind::Product { outer, inner, chooses, first, .. } => {
                Rows { labels, x, outer, inner, middle: if chooses { classes } else { labels.len() }, chooses }.write(out, first);
            }
        }
        Ok(())
    }
}

struct Rows<'a> {
    labels: &'a [i64],
    /// `[outer, middle, inner]`.
    x: &'a [f32],
    outer: usize,
    inner: usize,
    middle: usize,
    chooses: bool,
}

impl Rows<'_> {
    /// Writes `[position, outer, inner]`, or, if positions are not first, `[outer, inner, position]`.
    fn write(&self, out: &mut [f32], first: bool) {
        let width = self.outer * self.inner;
        if out.is_empty() {
            return;
        }
        if !first {
            let mut rows = vec![0f32; out.len()];
            self.write(&mut rows, true);
            let positions = out.len() / width;
            out.chunks_exact_mut(positions).enumerate().for_each(|(c, to)| {
                to.iter_mut().zip(rows[c..].iter().step_by(width)).for_each(|(to, x)| *to = *x);
            });
            return;
        }
        // Each thread has some positions of the result, and adds in the order of labels.
        let some = if self.x.len() + out.len() < WORTH_A_THREAD { out.len() } else { (out.len() / width).div_ceil(2 * threads()) * width };
        out.par_chunks_mut(some).enumerate().for_each(|(i, out)| {
            let positions = i * (some / width)..i * (some / width) + out.len() / width;
            if self.chooses {
                for (row, label) in out.chunks_exact_mut(width).zip(&self.labels[positions]) {
                    self.each(row, *label as usize, |to, x| to.iter_mut().zip(x).for_each(|(to, x)| *to = 0.0 + *x));
                }
            } else {
                out.fill(0.0);
                for (k, label) in self.labels.iter().enumerate().filter(|(_, l)| positions.contains(&(**l as usize))) {
                    let row = &mut out[(*label as usize - positions.start) * width..][..width];
                    self.each(row, k, |to, x| to.iter_mut().zip(x).for_each(|(to, x)| *to += *x));
                }
            }
        });
        if !all_finite(self.x) {
            self.broadcast(out);
        }
    }

    /// Does something with each run of a row, and the elements of number `k` of the middle axis.
    fn each(&self, row: &mut [f32], k: usize, act: impl Fn(&mut [f32], &[f32])) {
        for (o, to) in row.chunks_exact_mut(self.inner).enumerate() {
            act(to, &self.x[(o * self.middle + k) * self.inner..][..self.inner]);
        }
    }

    /// Puts NaN where 0 meets an element that is not finite: in its column, at each position that does not select it.
    fn broadcast(&self, out: &mut [f32]) {
        let width = self.outer * self.inner;
        for column in 0..width {
            let (o, i) = (column / self.inner, column % self.inner);
            let odd = (0..self.middle).filter(|k| !self.x[(o * self.middle + k) * self.inner + i].is_finite());
            // The positions that select an element: the one of its number, or of its label.
            let mut keys = odd.map(|k| if self.chooses { k } else { self.labels[k] as usize });
            let Some(first) = keys.next() else { continue };
            let several = keys.any(|key| key != first);
            for (position, to) in out[column..].iter_mut().step_by(width).enumerate() {
                let own = if self.chooses { self.labels[position] as usize } else { position };
                if several || own != first {
                    *to = f32::NAN;
                }
            }
        }
    }
}

/// Is every element finite?
fn all_finite(x: &[f32]) -> bool {
    x.par_chunks(1 << 14).all(|part| {
        let mut finite = true;
        are_finite(part, &mut finite);
        finite
    })
}

simd_dispatch! {
    fn are_finite(x: &[f32], finite: &mut bool) {
        *finite = x.iter().fold(true, |all, x| all & x.is_finite());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snn_ir::interpret::{Randomness, evaluate};
    use snn_ir::{Contraction, DType, Op, Tensor, Type};

    /// Every form of a product with one-hot rows, also of elements that are not finite, is the interpreter's to the bit.
    #[test]
    fn selections_are_products() {
        let (count, classes) = (9usize, 5usize);
        let labels: Vec<i64> = (0..count as i64).map(|i| (i * i + 1) % 4).collect();
        let one_hot_op = Op::RedundantOneHot { classes: classes as i64, repeat: 1 };
        let ty = |shape: &[usize]| Type::new(DType::F32, shape.iter().map(|n| (*n as i64).into()).collect::<Vec<_>>());
        let evaluated = |op: &Op, operands: &[&Tensor], shape: &[usize]| {
            evaluate(op, operands, &[ty(shape)], &mut Randomness::Counter { seed: 0 }).unwrap().remove(0)
        };
        let one_hot = evaluated(&one_hot_op, &[&Tensor::i64([count], labels.clone())], &[count, classes]);
        for odd in [0.0, f32::INFINITY, f32::NAN] {
            for (outer, inner) in [(1, 1), (2, 3), (1, 700), (80, 20)] {
                for (chooses, first) in [(true, true), (true, false), (false, true), (false, false)] {
                    let (middle, positions) = if chooses { (classes, count) } else { (count, classes) };
                    let mut next = crate::testing::numbers(inner as u64);
                    let mut x: Vec<f32> = (0..outer * middle * inner).map(|_| next() - 0.5).collect();
                    let last = x.len() - 1;
                    x[0] = -0.0;
                    if odd != 0.0 {
                        x[last] = odd;
                        x[last / 2] = odd;
                    }
                    let tensor = Tensor::f32([outer, middle, inner], x.clone());
                    let own = vec![usize::from(chooses)];
                    let (sums, operands) =
                        if first { ((own, vec![1]), [&one_hot, &tensor]) } else { ((vec![1], own), [&tensor, &one_hot]) };
                    let c = Contraction { lhs_sum: sums.0, rhs_sum: sums.1, ..Contraction::default() };
                    let shape = if first { [positions, outer, inner] } else { [outer, inner, positions] };
                    let want = evaluated(&Op::Contract(c), &operands, &shape);
                    let mut out = vec![7.0; want.len()];
                    Rows { labels: &labels, x: &x, outer, inner, middle, chooses }.write(&mut out, first);
                    let bits = |v: &[f32]| v.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect::<Vec<_>>();
                    assert_eq!(bits(&out), bits(want.as_f32()), "{outer} {inner} {chooses} {first} {odd}");
                }
            }
        }
    }
}

//! Rows that are chosen by number, multiplied, and added up by number, without one-hot rows and without writing what is added.
//!
//! The result is that of the operations to the bit. A sum of a product with one-hot rows has one product by 1 for each element that is
//! chosen or added, and products by 0 for all others, which matter only where an element is not finite: 0 times that is NaN.
//!
//! Memory bounds it: each row is read once for each time that it is chosen, and what is added to stays in cache where it fits.

use rayon::prelude::*;
use snn_ir::Value;
use snn_ir::interpret::RuntimeError;
use snn_plan::selection::{Labels, Place, Rows, Selection, SelectionKind};

use crate::shared::threads;
use crate::simd::simd_dispatch;

/// Fewer elements than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 15;

/// What a selection reads, in the order of the fields of its plan; what the plan has not is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// The tensor of rows.
    pub x: &'a [f32],
    /// Which rows.
    pub chosen: &'a [i64],
    /// What each is multiplied by.
    pub factors: &'a [f32],
    /// Where each is added.
    pub labels: &'a [i64],
    /// To what.
    pub to: &'a [f32],
}

impl<'a> Sources<'a> {
    /// What a selection reads, from where values are.
    ///
    /// # Errors
    /// Those of `floats` and `integers`.
    pub fn of<E>(
        selection: &Selection,
        floats: impl Fn(Value) -> Result<&'a [f32], E>,
        integers: impl Fn(Value) -> Result<&'a [i64], E>,
    ) -> Result<Sources<'a>, E> {
        let (rows, labels, to) = match &selection.kind {
            SelectionKind::Counts(labels) => (None, Some(labels), None),
            SelectionKind::Chosen(rows) => (Some(rows), None, None),
            SelectionKind::Added { rows, labels, to } => (Some(rows), Some(labels), *to),
        };
        let indices = |labels: Option<Labels>| labels.map_or(Ok(&[][..]), |labels| integers(labels.value));
        let values = |v: Option<Value>| v.map_or(Ok(&[][..]), &floats);
        Ok(Sources {
            x: values(rows.map(|rows| rows.x))?,
            chosen: indices(rows.and_then(|rows| rows.chosen))?,
            factors: values(rows.and_then(|rows| rows.factors))?,
            labels: indices(labels.copied())?,
            to: values(to)?,
        })
    }
}

/// A selection that is computed.
pub struct Select<'a>(pub &'a Selection);

impl Select<'_> {
    /// Writes the selection into `out`.
    ///
    /// # Errors
    /// A label or an index out of range.
    pub fn execute(&self, sources: Sources<'_>, out: &mut [f32]) -> Result<(), RuntimeError> {
        match &self.0.kind {
            SelectionKind::Counts(labels) => {
                check(sources.labels, labels)?;
                let mut counts = vec![0u64; labels.classes];
                sources.labels.iter().for_each(|l| counts[*l as usize] += 1);
                out.iter_mut().zip(counts).for_each(|(to, n)| *to = n as f32);
            }
            SelectionKind::Chosen(rows) => Picked::new(rows, sources)?.write(self.0.place, out),
            SelectionKind::Added { rows, labels, .. } => {
                let picked = Picked::new(rows, sources)?;
                check(sources.labels, labels)?;
                picked.add(labels, self.0.place, out);
            }
        }
        Ok(())
    }
}

fn check(labels: &[i64], of: &Labels) -> Result<(), RuntimeError> {
    let last = of.classes as i64 - 1;
    let Some((index, value)) = labels.iter().copied().enumerate().find(|(_, l)| !(0..=last).contains(l)) else { return Ok(()) };
    Err(if of.one_hot { RuntimeError::LabelOutOfRange { value, index, last } } else { RuntimeError::IndexOutOfRange { value, last } })
}

/// A part of a result: some of its rows, in one or all of the outer places.
struct Part<'o> {
    outer: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    /// `[row, outer, inner]`, or `[outer, row, inner]` of one outer place.
    out: &'o mut [f32],
}

/// Rows that are read.
struct Picked<'a> {
    rows: &'a Rows,
    sources: Sources<'a>,
}

impl<'a> Picked<'a> {
    /// Rows that are there.
    fn new(rows: &'a Rows, sources: Sources<'a>) -> Result<Picked<'a>, RuntimeError> {
        rows.chosen.map_or(Ok(()), |chosen| check(sources.chosen, &chosen))?;
        Ok(Picked { rows, sources })
    }

    /// The parts that threads compute of a result of `count` rows that are first or in the middle.
    fn parts<'o>(&self, count: usize, place: Place, out: &'o mut [f32]) -> Vec<Part<'o>> {
        let Rows { outer, inner, .. } = *self.rows;
        let wanted = if self.rows.count() * outer * inner + out.len() < WORTH_A_THREAD { 1 } else { 2 * threads() };
        if place == Place::First {
            let some = count.div_ceil(wanted).max(1);
            let part =
                |(i, out): (usize, &'o mut [f32])| Part { outer: 0..outer, rows: i * some..i * some + out.len() / (outer * inner), out };
            return out.chunks_mut(some * outer * inner).enumerate().map(part).collect();
        }
        let some = count.div_ceil(wanted.div_ceil(outer)).max(1);
        let of_plane = |(o, plane): (usize, &'o mut [f32])| {
            let parts = plane.chunks_mut(some * inner).enumerate();
            parts.map(move |(i, out)| Part { outer: o..o + 1, rows: i * some..i * some + out.len() / inner, out })
        };
        out.chunks_mut(count * inner).enumerate().flat_map(of_plane).collect()
    }

    /// Row `k` in an outer place, and what it is multiplied by.
    fn row(&self, k: usize, outer: usize) -> (&[f32], f32) {
        let Rows { size, inner, .. } = *self.rows;
        let from = if self.rows.chosen.is_some() { self.sources.chosen[k] as usize } else { k };
        let factor = if self.rows.factors.is_some() { self.sources.factors[k] } else { 1.0 };
        (&self.sources.x[(outer * size + from) * inner..][..inner], factor)
    }

    /// To what elements are added when they are chosen: a sum of products with one-hot rows begins with 0 and is never -0; -0 changes nothing.
    fn zero(&self) -> f32 {
        if self.by_one_hot() { 0.0 } else { -0.0 }
    }

    /// Are the rows chosen by one-hot rows?
    fn by_one_hot(&self) -> bool {
        self.rows.chosen.is_some_and(|labels| labels.one_hot)
    }

    /// Writes the rows.
    fn write(&self, place: Place, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        if place == Place::Last {
            return self.last(out, |first| self.write(Place::First, first));
        }
        let (count, zero) = (self.rows.count(), self.zero());
        self.parts(count, place, out).into_par_iter().for_each(|Part { outer, rows, out }| {
            let places = rows.flat_map(|k| outer.clone().map(move |o| (k, o)));
            for (to, (k, o)) in out.chunks_exact_mut(self.rows.inner).zip(places) {
                let (x, factor) = self.row(k, o);
                write(to, x, zero, factor);
            }
        });
        if self.by_one_hot() && !all_finite(self.sources.x) {
            let Rows { outer, size, inner, .. } = *self.rows;
            Broken { outer, inner, size, place, count }.put(
                |o, k, i| self.sources.x[(o * size + k) * inner + i],
                |k| k,
                |p| self.sources.chosen[p] as usize,
                out,
            );
        }
    }

    /// Adds the rows to those of their labels.
    fn add(&self, labels: &Labels, place: Place, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        if place == Place::Last {
            return self.last(out, |first| self.add(labels, Place::First, first));
        }
        // Rows of the result with elements that are not finite get such elements from rows that are not chosen too.
        if self.by_one_hot() && !all_finite(self.sources.x) {
            return self.add_written(labels, place, out);
        }
        let (places, zero) = (self.sources.labels, self.zero());
        self.parts(labels.classes, place, out).into_par_iter().for_each(|Part { outer, rows, out }| {
            let (inner, width) = (self.rows.inner, outer.len() * self.rows.inner);
            if self.sources.to.is_empty() {
                out.fill(0.0);
            } else {
                out.copy_from_slice(&self.sources.to[(outer.start * labels.classes + rows.start) * inner..][..out.len()]);
            }
            for (k, label) in places.iter().enumerate().filter(|(_, l)| rows.contains(&(**l as usize))) {
                let row = &mut out[(*label as usize - rows.start) * width..][..width];
                for (to, o) in row.chunks_exact_mut(inner).zip(outer.clone()) {
                    let (x, factor) = self.row(k, o);
                    add(to, x, zero, factor);
                }
            }
        });
        // Every row is added somewhere, so that a sum is not finite where an element is not.
        if labels.one_hot && !all_finite(out) {
            let Rows { outer, inner, .. } = *self.rows;
            let at = |o: usize, k: usize, i: usize| {
                let (x, factor) = self.row(k, o);
                (self.zero() + x[i]) * factor
            };
            let broken = Broken { outer, inner, size: places.len(), place, count: labels.classes };
            broken.put(at, |k| places[k] as usize, |p| p, out);
        }
    }

    /// [`Picked::add`] of rows that are written first: only where some are not finite.
    fn add_written(&self, labels: &Labels, place: Place, out: &mut [f32]) {
        let Rows { outer, inner, .. } = *self.rows;
        let chosen = Rows { factors: None, ..self.rows.clone() };
        let mut written = vec![0f32; outer * self.rows.count() * inner];
        Picked { rows: &chosen, sources: self.sources }.write(Place::Middle, &mut written);
        let rows = Rows { size: self.rows.count(), chosen: None, ..self.rows.clone() };
        Picked { rows: &rows, sources: Sources { x: &written, ..self.sources } }.add(labels, place, out);
    }

    /// Writes `[outer, inner, row]` from what writes `[row, outer, inner]`.
    fn last(&self, out: &mut [f32], write: impl FnOnce(&mut [f32])) {
        let width = self.rows.outer * self.rows.inner;
        let mut rows = vec![0f32; out.len()];
        write(&mut rows);
        crate::moves::transpose(&rows, [out.len() / width, width], out);
    }
}

/// A result of one-hot rows and elements that are not finite.
struct Broken {
    outer: usize,
    inner: usize,
    /// How many rows meet the one-hot rows.
    size: usize,
    place: Place,
    /// Rows of the result.
    count: usize,
}

impl Broken {
    /// Puts NaN where 0 meets an element that is not finite: in its column, at each row of the result that does not select it. `at` are the
    /// elements, `key` says what selects a row, and `own` what a row of the result selects.
    fn put(&self, at: impl Fn(usize, usize, usize) -> f32, key: impl Fn(usize) -> usize, own: impl Fn(usize) -> usize, out: &mut [f32]) {
        for (o, i) in (0..self.outer).flat_map(|o| (0..self.inner).map(move |i| (o, i))) {
            let mut keys = (0..self.size).filter(|k| !at(o, *k, i).is_finite()).map(&key);
            let Some(first) = keys.next() else { continue };
            let several = keys.any(|key| key != first);
            for row in (0..self.count).filter(|row| several || own(*row) != first) {
                let place = if self.place == Place::First { row * self.outer + o } else { o * self.count + row };
                out[place * self.inner + i] = f32::NAN;
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

/// [`write_row`] and [`add_row`] are called for rows of more elements than this; fewer are not worth the call.
const FEW: usize = 4;

/// Writes `(zero + x) factor`.
#[inline(always)]
fn write(to: &mut [f32], x: &[f32], zero: f32, factor: f32) {
    if to.len() <= FEW {
        return to.iter_mut().zip(x).for_each(|(to, x)| *to = (zero + *x) * factor);
    }
    write_row(to, x, zero, factor);
}

/// Adds `(zero + x) factor`.
#[inline(always)]
fn add(to: &mut [f32], x: &[f32], zero: f32, factor: f32) {
    if to.len() <= FEW {
        return to.iter_mut().zip(x).for_each(|(to, x)| *to += (zero + *x) * factor);
    }
    add_row(to, x, zero, factor);
}

simd_dispatch! {
    /// Writes `(zero + x) factor`.
    fn write_row(to: &mut [f32], x: &[f32], zero: f32, factor: f32) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to = (zero + *x) * factor);
    }
}

simd_dispatch! {
    /// Adds `(zero + x) factor`.
    fn add_row(to: &mut [f32], x: &[f32], zero: f32, factor: f32) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to += (zero + *x) * factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snn_ir::interpret::{Randomness, evaluate};
    use snn_ir::{BinaryOp, Contraction, Graph, Op, Tensor, Type};
    use std::convert::Infallible;

    /// Evaluates the last node of a graph as a selection, which reads so many tensors, and as the interpreter does.
    fn both(graph: &Graph, inputs: &[(Value, Tensor)], reads: usize) -> [Vec<u32>; 2] {
        let mut values: std::collections::HashMap<Value, Tensor> = inputs.iter().cloned().collect();
        let mut last = None;
        for (id, node) in graph.nodes() {
            last = Some(id);
            let result = Value { node: id, result: 0 };
            if values.contains_key(&result) {
                continue;
            }
            let operands: Vec<&Tensor> = node.operands.iter().map(|v| &values[v]).collect();
            let made = evaluate(&node.op, &operands, &node.types, &mut Randomness::Counter { seed: 0 }).unwrap().remove(0);
            values.insert(result, made);
        }
        let last = Value { node: last.unwrap(), result: 0 };
        let selection = Selection::new(graph, graph.node(last.node)).unwrap().expect("it is a selection");
        assert_eq!(selection.reads().len(), reads, "rows are read where they come from: {selection:?}");
        let floats = |v: Value| values[&v].as_f32();
        let integers = |v: Value| values[&v].as_i64();
        let Ok(sources) = Sources::of(&selection, |v| Ok::<_, Infallible>(floats(v)), |v| Ok(integers(v)));
        let mut out = vec![7.0; values[&last].len()];
        Select(&selection).execute(sources, &mut out).unwrap();
        let bits = |v: &[f32]| v.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect::<Vec<_>>();
        [bits(&out), bits(floats(last))]
    }

    /// Every form, also of elements that are not finite, is the interpreter's to the bit: rows as they are, chosen by indices or by one-hot
    /// rows, multiplied or not, and written or added by one-hot rows or indices.
    #[test]
    fn selections_are_their_operations() {
        let (count, classes, nodes) = (9usize, 5usize, 6usize);
        for odd in [0.0, f32::INFINITY, f32::NAN] {
            for (outer, inner) in [(1, 1), (2, 3), (1, 700), (80, 20)] {
                for (chosen, factors, added) in (0..3).flat_map(|c| (0..2).flat_map(move |f| (0..6).map(move |a| (c, f == 1, a)))) {
                    let mut graph = Graph::new("rows");
                    let mut inputs = Vec::new();
                    let mut next = crate::testing::numbers((inner + outer) as u64);
                    let mut input = |graph: &mut Graph, name: &str, tensor: Tensor| {
                        let ty = Type::new(tensor.dtype(), tensor.shape().iter().map(|n| (*n as i64).into()).collect::<Vec<_>>());
                        let v = graph.input(name, ty);
                        inputs.push((v, tensor));
                        v
                    };
                    let size = if chosen == 0 { count } else { nodes };
                    let mut x: Vec<f32> = (0..outer * size * inner).map(|_| next() - 0.5).collect();
                    let end = x.len() - 1;
                    x[0] = -0.0;
                    if odd != 0.0 {
                        x[end] = odd;
                        x[end / 2] = odd;
                    }
                    let mut v = input(&mut graph, "x", Tensor::f32([outer, size, inner], x));
                    let one_hot = |graph: &mut Graph, labels: Value, classes: usize| {
                        graph.add(Op::RedundantOneHot { classes: classes as i64, repeat: 1 }, &[labels])
                    };
                    if chosen > 0 {
                        let places =
                            input(&mut graph, "places", Tensor::i64([count], (0..count as i64).map(|i| (i * i + 2) % 5).collect()));
                        v = if chosen == 1 {
                            graph.add(Op::Gather { axis: 1 }, &[v, places])
                        } else {
                            let rows = one_hot(&mut graph, places, size);
                            let c = Contraction { lhs_sum: vec![1], rhs_sum: vec![1], ..Contraction::default() };
                            let product = graph.add(Op::Contract(c), &[rows, v]);
                            graph.add(Op::Transpose { permutation: vec![1, 0, 2] }, &[product])
                        };
                    }
                    if factors {
                        let values = (0..count).map(|_| next() - 0.5).collect();
                        let f = input(&mut graph, "factors", Tensor::f32([count], values));
                        let shape = [outer, count, inner].map(|n| (n as i64).into()).to_vec();
                        let f = graph.add(Op::Broadcast { axes: vec![1], shape }, &[f]);
                        v = graph.add(Op::Binary(BinaryOp::Mul), &[v, f]);
                    }
                    let of: Vec<i64> = (0..count as i64).map(|i| (i * i + 1) % 4).collect();
                    match added {
                        // Added by one-hot rows, which are the first or the last operand.
                        0 | 1 => {
                            let labels = input(&mut graph, "labels", Tensor::i64([count], of));
                            let rows = one_hot(&mut graph, labels, classes);
                            let (sums, operands) =
                                if added == 0 { ((vec![0], vec![1]), [rows, v]) } else { ((vec![1], vec![0]), [v, rows]) };
                            let c = Contraction { lhs_sum: sums.0, rhs_sum: sums.1, ..Contraction::default() };
                            graph.add(Op::Contract(c), &operands);
                        }
                        // Added to something, or to zeros.
                        2 | 3 => {
                            let labels = input(&mut graph, "labels", Tensor::i64([count], of));
                            let shape = [outer, classes, inner];
                            let to = if added == 2 {
                                input(&mut graph, "to", Tensor::f32(shape, vec![-0.0; outer * classes * inner]))
                            } else {
                                let zero = graph.add_f32(0.0);
                                let shape = shape.map(|n| (n as i64).into()).to_vec();
                                graph.add(Op::Broadcast { axes: vec![], shape }, &[zero])
                            };
                            graph.add(Op::ScatterAdd { axis: 1 }, &[to, labels, v]);
                        }
                        // Chosen: by indices, or by one-hot rows, which are the first or the last operand.
                        _ => {
                            let labels = input(&mut graph, "labels", Tensor::i64([count], of));
                            if added == 4 {
                                graph.add(Op::Gather { axis: 1 }, &[v, labels]);
                            } else {
                                let rows = one_hot(&mut graph, labels, count);
                                let c = Contraction { lhs_sum: vec![1], rhs_sum: vec![1], ..Contraction::default() };
                                graph.add(Op::Contract(c), &[v, rows]);
                            }
                        }
                    }
                    let sources = usize::from(chosen > 0) + usize::from(factors);
                    let reads = if added < 4 { 2 + sources + usize::from(added == 2) } else { 2 };
                    let [found, want] = both(&graph, &inputs, reads);
                    assert_eq!(found, want, "outer {outer}, inner {inner}, chosen {chosen}, factors {factors}, added {added}, {odd}");
                }
            }
        }
    }
}

//! Derivatives of movement and of sums: the transposed movement.

use snn_ir::{BinaryOp, Dim, Op, Reduction, Type, Value};

use crate::build::Build;
use crate::reverse::Reverse;

impl Reverse {
    /// Passes the adjoint `g` of `y = op(operands)` on.
    pub(crate) fn movement(&mut self, op: &Op, operands: &[Value], y: Value, g: Value) {
        let Some(x) = operands.first().copied() else { return };
        let from = self.graph.ty(x).clone();
        let d = match op {
            Op::Broadcast { axes } => {
                let to = self.graph.ty(y).shape.clone();
                let summed = (0..to.len()).filter(|a| match axes.iter().position(|b| b == a) {
                    None => true,
                    Some(i) => from.shape[i] != to[*a],
                });
                let summed: Vec<usize> = summed.collect();
                let mut build = self.build();
                let sum = build.sum(g, summed);
                build.reshape(sum, from.shape)
            }
            Op::Reshape => self.build().reshape(g, from.shape),
            Op::Transpose { permutation } => {
                let mut inverse = vec![0; permutation.len()];
                permutation.iter().enumerate().for_each(|(i, p)| inverse[*p] = i);
                self.build().transpose(g, inverse)
            }
            Op::Slice { axis, start, step } => {
                let count = self.graph.ty(g).shape[*axis].clone();
                let mut build = self.build();
                if *step == 1 {
                    let high = from.shape[*axis].minus(start).minus(&count);
                    build.pad(g, *axis, start.clone(), high)
                } else {
                    let steps = build.iota(count.clone());
                    let steps = build.scaled(steps, *step);
                    let start = build.0.add(Op::Size(start.clone()), &[], None);
                    let start = build.broadcast(start, vec![], vec![count]);
                    let places = build.add(start, steps);
                    let zeros = build.full(0.0, &from);
                    build.0.add(Op::ScatterAdd { axis: *axis }, &[zeros, places, g], None)
                }
            }
            Op::Pad { axis, low, .. } => self.build().slice(g, *axis, low.clone(), from.shape[*axis].clone()),
            Op::Concat { axis } => {
                let mut start = Dim::constant(0);
                for v in operands {
                    let count = self.graph.ty(*v).shape[*axis].clone();
                    if self.is_active(*v) {
                        let d = self.build().slice(g, *axis, start.clone(), count.clone());
                        self.add(*v, d);
                    }
                    start = start.plus(&count);
                }
                return;
            }
            Op::Gather { axis } => {
                let mut build = self.build();
                let zeros = build.full(0.0, &from);
                build.0.add(Op::ScatterAdd { axis: *axis }, &[zeros, operands[1], g], None)
            }
            Op::ScatterAdd { axis } => {
                if self.is_active(operands[2]) {
                    let d = self.build().0.add(Op::Gather { axis: *axis }, &[g, operands[1]], None);
                    self.add(operands[2], d);
                }
                g
            }
            Op::Window { axis, size, stride, dilation } => window(&mut self.build(), g, &from, *axis, [*size, *stride, *dilation]),
            Op::Reduce { kind: Reduction::Sum, axes } => {
                let kept = (0..from.rank()).filter(|a| !axes.contains(a)).collect();
                self.build().broadcast(g, kept, from.shape)
            }
            Op::Reduce { axes, .. } => largest(&mut self.build(), axes, x, y, g),
            Op::CumSum { axis } => {
                let mut build = self.build();
                let backward = build.flipped(g, *axis);
                let sums = build.0.add(Op::CumSum { axis: *axis }, &[backward], None);
                build.flipped(sums, *axis)
            }
            Op::Delay { steps } => {
                // The gradient of x[t] is that of y[t + d], 0 for the last d steps.
                let length = from.shape[0].clone();
                let mut build = self.build();
                if *steps == 0 {
                    g
                } else if length.as_constant().is_some_and(|n| *steps >= n) {
                    build.full(0.0, &from)
                } else {
                    let rest = build.slice(g, 0, (*steps).into(), length.minus(&(*steps).into()));
                    build.pad(rest, 0, 0.into(), (*steps).into())
                }
            }
            _ => return,
        };
        self.add(x, d);
    }
}

/// Every element of a window goes back to where it came from; where windows overlap, they add.
fn window(build: &mut Build<'_>, g: Value, from: &Type, axis: usize, [size, stride, dilation]: [i64; 3]) -> Value {
    let ty = build.0.ty(g).clone();
    let last = ty.rank() - 1;
    let count = ty.shape[axis].clone();
    // [..., windows, ..., size] to [..., windows, size, ...]
    let order = (0..=axis).chain([last]).chain(axis + 1..last).collect();
    let g = build.transpose(g, order);
    if stride == size && dilation == 1 && count.times(&size.into()) == from.shape[axis] {
        return build.reshape(g, from.shape.clone());
    }
    let places = vec![count.clone(), size.into()];
    let (windows, inside) = (build.iota(count), build.iota(size.into()));
    let (windows, inside) = (build.scaled(windows, stride), build.scaled(inside, dilation));
    let (windows, inside) = (build.broadcast(windows, vec![0], places.clone()), build.broadcast(inside, vec![1], places));
    let places = build.add(windows, inside);
    let zeros = build.full(0.0, from);
    build.0.add(Op::ScatterAdd { axis }, &[zeros, places, g], None)
}

/// The first largest (or smallest) element gets the gradient: the first "spike" among those that equal the result.
fn largest(build: &mut Build<'_>, axes: &[usize], x: Value, y: Value, g: Value) -> Value {
    let ty = build.0.ty(x).clone();
    let kept: Vec<usize> = (0..ty.rank()).filter(|a| !axes.contains(a)).collect();
    let best = build.broadcast(y, kept.clone(), ty.shape.clone());
    let reaches = build.binary(BinaryOp::Eq, x, best);
    // The axes become the last one.
    let order: Vec<usize> = kept.iter().chain(axes).copied().collect();
    let moved = build.transpose(reaches, order.clone());
    let moved_shape = build.0.ty(moved).shape.clone();
    let mut flat: Vec<Dim> = kept.iter().map(|a| ty.shape[*a].clone()).collect();
    flat.push(Dim::product(axes.iter().map(|a| &ty.shape[*a])));
    let last = flat.len() - 1;
    let row = build.reshape(moved, flat);
    let first = build.0.add(Op::FirstSpike { axis: last }, &[row], None);
    let first = build.reshape(first, moved_shape);
    let mut inverse = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, a)| inverse[*a] = i);
    let first = build.transpose(first, inverse);
    let g = build.broadcast(g, kept, ty.shape);
    let zero = build.like(0.0, g);
    build.select(first, g, zero)
}

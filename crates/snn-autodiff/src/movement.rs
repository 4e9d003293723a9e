//! Derivatives of movement and of sums: the transposed movement.

use snn_ir::{BinaryOp, Build, Dim, Graph, Op, Reduction, Type, Value};

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
            Op::Transpose { permutation } => self.build().untranspose(g, permutation),
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
            Op::Reduce { axes, .. } => {
                if let Some((source, tile)) = tiled(&self.graph, x, axes)
                    && self.is_active(source)
                {
                    let d = largest_of_tiles(&mut self.build(), source, tile, y, g);
                    return self.add(source, d);
                }
                largest(&mut self.build(), axes, x, y, g)
            }
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
    let first = build.untranspose(first, &order);
    let g = build.broadcast(g, kept, ty.shape);
    let zero = build.like(0.0, g);
    build.select(first, g, zero)
}

/// Are the reduced axes those of two windows that tile the last two axes of a tensor, as those of most pools do? The tensor, and
/// height and width of a tile.
fn tiled(graph: &Graph, windows: Value, axes: &[usize]) -> Option<(Value, [i64; 2])> {
    let outer = graph.node(windows.node);
    let Op::Window { axis: second, size: width, stride: across, dilation: 1 } = outer.op else { return None };
    let inner = graph.node(outer.operands[0].node);
    let Op::Window { axis: first, size: height, stride: down, dilation: 1 } = inner.op else { return None };
    let source = inner.operands[0];
    let shape = &graph.ty(source).shape;
    let rank = shape.len();
    let count = &outer.types[0].shape;
    let fits = first + 2 == rank
        && second + 1 == rank
        && axes == [rank, rank + 1]
        && (height, width) == (down, across)
        && shape[first] == count[first].times(&height.into())
        && shape[second] == count[second].times(&width.into());
    fits.then_some((source, [height, width]))
}

/// [`largest`] over tiles of the last two axes, without a copy of every tile.
fn largest_of_tiles(build: &mut Build<'_>, x: Value, [height, width]: [i64; 2], y: Value, g: Value) -> Value {
    let shape = build.0.ty(x).shape.clone();
    let small = build.0.ty(y).shape.clone();
    let rank = shape.len();
    let head = || small[..rank - 2].iter().cloned();
    let (rows, columns) = (small[rank - 2].clone(), small[rank - 1].clone());
    let split: Vec<Dim> = head().chain([rows.clone(), height.into(), columns.clone(), width.into()]).collect();
    let apart: Vec<Dim> = head().chain([rows.clone(), columns.clone(), height.into(), width.into()]).collect();
    let flat: Vec<Dim> = head().chain([rows, columns, (height * width).into()]).collect();
    let spread = |build: &mut Build<'_>, v: Value| {
        let axes = (0..rank - 1).chain([rank]).collect();
        let v = build.broadcast(v, axes, split.clone());
        build.reshape(v, shape.clone())
    };
    let best = spread(build, y);
    let reaches = build.binary(BinaryOp::Eq, x, best);
    let reaches = build.reshape(reaches, split.clone());
    // Exchanging the two axes in the middle is its own inverse.
    let exchange: Vec<usize> = (0..rank - 1).chain([rank, rank - 1, rank + 1]).collect();
    let tiles = build.transpose(reaches, exchange.clone());
    let tiles = build.reshape(tiles, flat);
    let first = build.0.add(Op::FirstSpike { axis: rank }, &[tiles], None);
    let first = build.reshape(first, apart);
    let first = build.transpose(first, exchange);
    let first = build.reshape(first, shape.clone());
    let g = spread(build, g);
    let zero = build.like(0.0, g);
    build.select(first, g, zero)
}

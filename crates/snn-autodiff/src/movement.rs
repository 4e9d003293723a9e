//! Derivatives of movement and of sums: the transposed movement.

use snn_ir::expand::{first_largest, pooled, window_gradient};
use snn_ir::{Dim, Op, Reduction, Value};

use crate::reverse::Reverse;

impl Reverse {
    /// Passes the adjoint `g` of `y = op(operands)` on; an operation that has no derivative is noted.
    pub(crate) fn movement(&mut self, op: &Op, operands: &[Value], y: Value, g: Value) {
        if let Err(what) = self.moved(op, operands, y, g) {
            self.refused = Some(what);
        }
    }

    fn moved(&mut self, op: &Op, operands: &[Value], y: Value, g: Value) -> Result<(), &'static str> {
        let Some(x) = operands.first().copied() else { return Ok(()) };
        let from = self.graph.ty(x).clone();
        let d = match op {
            Op::Broadcast { axes, .. } => {
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
            Op::Reshape { .. } => self.build().reshape(g, from.shape),
            Op::Transpose { permutation } => self.build().untranspose(g, permutation),
            Op::Slice { axis, start, step, .. } => {
                if *step == 1 {
                    self.add_part(x, *axis, start, g);
                    return Ok(());
                } else {
                    let count = self.graph.ty(g).shape[*axis].clone();
                    let mut build = self.build();
                    let steps = build.iota(count.clone());
                    let steps = build.scaled(steps, *step);
                    let start = build.0.add(Op::Size(start.clone()), &[]);
                    let start = build.broadcast(start, vec![], vec![count]);
                    let places = build.add(start, steps);
                    let zeros = build.full(0.0, &from);
                    build.0.add(Op::ScatterAdd { axis: *axis }, &[zeros, places, g])
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
                return Ok(());
            }
            Op::Gather { axis } => {
                let mut build = self.build();
                let zeros = build.full(0.0, &from);
                build.0.add(Op::ScatterAdd { axis: *axis }, &[zeros, operands[1], g])
            }
            Op::ScatterAdd { axis } => {
                if self.is_active(operands[2]) {
                    let d = self.build().0.add(Op::Gather { axis: *axis }, &[g, operands[1]]);
                    self.add(operands[2], d);
                }
                g
            }
            Op::Window { axis, size, stride, dilation } => window_gradient(&mut self.build(), g, &from, *axis, [*size, *stride, *dilation]),
            Op::Reduce { kind: Reduction::Sum, axes } => {
                let kept = (0..from.rank()).filter(|a| !axes.contains(a)).collect();
                self.build().broadcast(g, kept, from.shape)
            }
            Op::Reduce { kind: Reduction::Max | Reduction::Min, axes } => {
                let is_max = matches!(op, Op::Reduce { kind: Reduction::Max, .. });
                if let Some((source, pool)) = pooled(&self.graph, x, axes).filter(|_| is_max) {
                    if self.is_active(source) {
                        let d = self.build().0.add(Op::MaxPoolGradient(pool), &[source, y, g]);
                        self.add(source, d);
                    }
                    return Ok(());
                }
                let mut build = self.build();
                let first = first_largest(&mut build, axes, x, y, None);
                let kept = (0..from.rank()).filter(|a| !axes.contains(a)).collect();
                let broadcast = build.broadcast(g, kept, from.shape);
                let zero = build.like(0.0, broadcast);
                build.select(first, broadcast, zero)
            }
            Op::CumSum { axis } => {
                let mut build = self.build();
                let backward = build.flipped(g, *axis);
                let sums = build.0.add(Op::CumSum { axis: *axis }, &[backward]);
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
            // What gives integers or booleans, and labels, passes nothing on.
            Op::ArgMax { .. } | Op::FirstSpike { .. } | Op::RedundantOneHot { .. } | Op::ThresholdMargin { .. } => return Ok(()),
            Op::MaxPoolGradient(_) => return Err("the gradient of a pool"),
            Op::Input { .. } | Op::Parameter { .. } | Op::Constant(_) | Op::Size(_) | Op::Iota { .. } | Op::Random { .. } => return Ok(()),
            Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast { .. } | Op::Spike { .. } => unreachable!("done by `elementwise`"),
            Op::Contract(_) | Op::Conv(_) | Op::ConvInputGradient(_) | Op::ConvWeightGradient(_) | Op::Scan(_) | Op::Loop(_) => {
                unreachable!("each is done by a function of its own")
            }
        };
        self.add(x, d);
        Ok(())
    }
}

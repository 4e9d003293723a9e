//! Derivatives of contractions and convolutions: contractions and convolutions again.

use snn_ir::{Build, Contraction, Convolution, Dim, Op, Value};

use crate::recurrence::Hoisted;
use crate::reverse::Reverse;

impl Reverse {
    pub(crate) fn contraction(&mut self, c: &Contraction, a: Value, b: Value, g: Value) {
        if self.is_active(a) {
            let d = left(&mut self.build(), c, a, b, g);
            self.add(a, d);
        }
        if self.is_active(b) {
            // In a loop, weights that do not change wait for one product over all steps.
            let is_step = c.lhs_batch.is_empty() && !c.lhs_sum.contains(&0) && self.graph.ty(a).shape.first().is_some_and(Dim::is_one);
            if is_step && self.fixed.contains(&b) {
                self.hoisted.push(Hoisted { contraction: c.clone(), lhs: a, rhs: b, gradient: g });
                return;
            }
            let d = right(&mut self.build(), c, a, b, g);
            self.add(b, d);
        }
    }

    pub(crate) fn convolution(&mut self, c: &Convolution, x: Value, w: Value, g: Value) {
        // All axes before the channels are one batch.
        let (x_type, w_type, g_type) = (self.graph.ty(x).clone(), self.graph.ty(w).clone(), self.graph.ty(g).clone());
        let spatial = c.stride.len();
        let batch_axes = x_type.rank() - spatial - 1;
        let batch = Dim::product(&x_type.shape[..batch_axes]);
        let joined = |shape: &[Dim]| std::iter::once(batch.clone()).chain(shape[batch_axes..].iter().cloned()).collect::<Vec<_>>();
        let (x_shape, g_shape) = (joined(&x_type.shape), joined(&g_type.shape));
        let mut build = self.build();
        let g = build.reshape(g, g_shape);
        if self.is_active(x) {
            let mut build = self.build();
            let d = convolution_input(&mut build, c, g, w, &x_shape);
            let d = build.reshape(d, x_type.shape.clone());
            self.add(x, d);
        }
        if self.is_active(w) {
            let mut build = self.build();
            let flat = build.reshape(x, x_shape);
            let d = convolution_weight(&mut build, c, flat, g, &w_type.shape);
            self.add(w, d);
        }
    }
}

/// The gradient of the left operand of a contraction.
pub fn left(build: &mut Build<'_>, c: &Contraction, a: Value, b: Value, g: Value) -> Value {
    let (rank_a, rank_b) = (build.0.ty(a).rank(), build.0.ty(b).rank());
    let (free_a, free_b) = c.free_axes(rank_a, rank_b);
    let (batch, rows) = (c.lhs_batch.len(), free_a.len());
    let product = Contraction {
        lhs_batch: (0..batch).collect(),
        rhs_batch: c.rhs_batch.clone(),
        lhs_sum: (batch + rows..batch + rows + free_b.len()).collect(),
        rhs_sum: free_b,
    };
    let d = build.0.add(Op::Contract(product), &[g, b], None);
    // Batch, free axes of a, then the summed axes in the order of b.
    let mut summed = c.rhs_sum.clone();
    summed.sort_unstable();
    let place = |axis: usize| -> usize {
        if let Some(i) = c.lhs_batch.iter().position(|x| *x == axis) {
            return i;
        }
        if let Some(i) = free_a.iter().position(|x| *x == axis) {
            return batch + i;
        }
        let pair = c.lhs_sum.iter().position(|x| *x == axis).map_or(0, |i| c.rhs_sum[i]);
        batch + rows + summed.iter().position(|x| *x == pair).unwrap_or(0)
    };
    build.transpose(d, (0..rank_a).map(place).collect())
}

/// The gradient of the right operand of a contraction.
pub fn right(build: &mut Build<'_>, c: &Contraction, a: Value, b: Value, g: Value) -> Value {
    let (rank_a, rank_b) = (build.0.ty(a).rank(), build.0.ty(b).rank());
    let (free_a, free_b) = c.free_axes(rank_a, rank_b);
    let (batch, rows) = (c.lhs_batch.len(), free_a.len());
    let product = Contraction {
        lhs_batch: c.lhs_batch.clone(),
        rhs_batch: (0..batch).collect(),
        lhs_sum: free_a,
        rhs_sum: (batch..batch + rows).collect(),
    };
    let d = build.0.add(Op::Contract(product), &[a, g], None);
    // Batch, the summed axes in the order of a, then the free axes of b.
    let mut summed = c.lhs_sum.clone();
    summed.sort_unstable();
    let place = |axis: usize| -> usize {
        if let Some(i) = c.rhs_batch.iter().position(|x| *x == axis) {
            return i;
        }
        if let Some(i) = free_b.iter().position(|x| *x == axis) {
            return batch + summed.len() + i;
        }
        let pair = c.rhs_sum.iter().position(|x| *x == axis).map_or(0, |i| c.lhs_sum[i]);
        batch + summed.iter().position(|x| *x == pair).unwrap_or(0)
    };
    build.transpose(d, (0..rank_b).map(place).collect())
}

/// The gradient of the input `[N, C, spatial]`: a convolution of the gradient, spread by the stride, with turned weights.
fn convolution_input(build: &mut Build<'_>, c: &Convolution, g: Value, w: Value, x_shape: &[Dim]) -> Value {
    let w_shape = build.0.ty(w).shape.clone();
    let groups = Dim::constant(c.groups);
    // [O, C / groups, K] to [C, O / groups, K], each group by itself, and turned.
    let out = w_shape[0].divided_exactly(&groups).unwrap_or_else(|| w_shape[0].clone());
    let kernel = &w_shape[2..];
    let with = |head: Vec<Dim>| head.into_iter().chain(kernel.iter().cloned()).collect::<Vec<_>>();
    let split = build.reshape(w, with(vec![groups.clone(), out.clone(), w_shape[1].clone()]));
    let order = [0, 2, 1].into_iter().chain(3..3 + kernel.len()).collect();
    let swapped = build.transpose(split, order);
    let mut weights = build.reshape(swapped, with(vec![groups.times(&w_shape[1]), out]));
    let mut spread = g;
    for (i, size) in kernel.iter().enumerate() {
        let axis = 2 + i;
        weights = build.flipped(weights, axis);
        spread = spread_out(build, spread, axis, c.stride[i]);
        // Zeros around, so that every input is met by every weight that has met it.
        let size = size.as_constant().unwrap_or(1);
        let reach = Dim::constant(c.dilation[i] * (size - 1) - c.padding[i]);
        let have = build.0.ty(spread).shape[axis].clone();
        let want = x_shape[axis].plus(&(c.dilation[i] * (size - 1)).into());
        let high = want.minus(&have).minus(&reach);
        spread = pad_or_cut(build, spread, axis, &reach, &high);
    }
    let plain =
        Convolution { stride: vec![1; c.stride.len()], padding: vec![0; c.stride.len()], dilation: c.dilation.clone(), groups: c.groups };
    build.0.add(Op::Conv(plain), &[spread, weights], None)
}

/// Puts `stride - 1` zeros between the elements of an axis.
fn spread_out(build: &mut Build<'_>, g: Value, axis: usize, stride: i64) -> Value {
    if stride == 1 {
        return g;
    }
    let shape = build.0.ty(g).shape.clone();
    let n = shape[axis].clone();
    let mut split = shape.clone();
    split.insert(axis + 1, 1.into());
    let g = build.reshape(g, split);
    let g = build.pad(g, axis + 1, 0.into(), (stride - 1).into());
    let mut joined = shape;
    joined[axis] = n.times(&stride.into());
    build.reshape(g, joined)
}

/// Pads an axis, or cuts where the number is negative.
fn pad_or_cut(build: &mut Build<'_>, g: Value, axis: usize, low: &Dim, high: &Dim) -> Value {
    let negative = |d: &Dim| d.as_constant().filter(|n| *n < 0).map(|n| -n);
    let (cut_low, cut_high) = (negative(low).unwrap_or(0), negative(high).unwrap_or(0));
    let mut g = g;
    if cut_low > 0 || cut_high > 0 {
        let count = build.0.ty(g).shape[axis].minus(&(cut_low + cut_high).into());
        g = build.slice(g, axis, cut_low.into(), count);
    }
    let at_least_zero = |d: &Dim| if negative(d).is_some() { 0.into() } else { d.clone() };
    build.pad(g, axis, at_least_zero(low), at_least_zero(high))
}

/// The gradient of the weights `[O, C / groups, K]`: a convolution of the input with the gradient, channels and batch exchanged.
fn convolution_weight(build: &mut Build<'_>, c: &Convolution, x: Value, g: Value, w_shape: &[Dim]) -> Value {
    let spatial = c.stride.len();
    let swap: Vec<usize> = [1, 0].into_iter().chain(2..2 + spatial).collect();
    let (x, g) = (build.transpose(x, swap.clone()), build.transpose(g, swap.clone()));
    // Stride and dilation change places.
    let product = Convolution { stride: c.dilation.clone(), padding: c.padding.clone(), dilation: c.stride.clone(), groups: 1 };
    let groups = Dim::constant(c.groups);
    let out = w_shape[0].divided_exactly(&groups).unwrap_or_else(|| w_shape[0].clone());
    let mut parts = Vec::new();
    for group in 0..c.groups {
        let (x, g) = if c.groups == 1 {
            (x, g)
        } else {
            let start = |size: &Dim| size.times(&group.into());
            (build.slice(x, 0, start(&w_shape[1]), w_shape[1].clone()), build.slice(g, 0, start(&out), out.clone()))
        };
        let mut d = build.0.add(Op::Conv(product.clone()), &[x, g], None);
        for i in 0..spatial {
            // Inputs that no window reached give rows too many.
            if build.0.ty(d).shape[2 + i] != w_shape[2 + i] {
                d = build.slice(d, 2 + i, 0.into(), w_shape[2 + i].clone());
            }
        }
        parts.push(build.transpose(d, swap.clone()));
    }
    if parts.len() == 1 { parts[0] } else { build.0.add(Op::Concat { axis: 0 }, &parts, None) }
}

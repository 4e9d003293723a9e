//! Derivatives of contractions and convolutions: contractions and convolutions again.

use snn_ir::{Build, Contraction, ConvGradient, Convolution, Dim, Op, Value};

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
        if self.is_active(x) {
            self.product(Op::ConvInputGradient(self.gradient_of(c, x)), [g, w], x);
        }
        if self.is_active(w) {
            self.product(Op::ConvWeightGradient(self.gradient_of(c, w)), [x, g], w);
        }
    }

    /// What passes through the gradient of a convolution's input: it is linear in the gradient and in the weights.
    pub(crate) fn convolution_input_gradient(&mut self, c: &Convolution, gradient: Value, w: Value, g: Value) {
        if self.is_active(gradient) {
            self.product(Op::Conv(c.clone()), [g, w], gradient);
        }
        if self.is_active(w) {
            self.product(Op::ConvWeightGradient(self.gradient_of(c, w)), [g, gradient], w);
        }
    }

    /// What passes through the gradient of a convolution's weights: it is linear in the input and in the gradient.
    pub(crate) fn convolution_weight_gradient(&mut self, c: &Convolution, x: Value, gradient: Value, g: Value) {
        if self.is_active(x) {
            self.product(Op::ConvInputGradient(self.gradient_of(c, x)), [gradient, g], x);
        }
        if self.is_active(gradient) {
            self.product(Op::Conv(c.clone()), [x, g], gradient);
        }
    }

    /// The gradient of a convolution with respect to a value.
    fn gradient_of(&self, c: &Convolution, of: Value) -> ConvGradient {
        ConvGradient { convolution: c.clone(), shape: self.graph.ty(of).shape.clone() }
    }

    /// Adds a product to the gradient of a value, whose type it has.
    fn product(&mut self, op: Op, operands: [Value; 2], of: Value) {
        let d = self.graph.add(op, &operands);
        self.add(of, d);
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
    let d = build.0.add(Op::Contract(product), &[g, b]);
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
    let d = build.0.add(Op::Contract(product), &[a, g]);
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

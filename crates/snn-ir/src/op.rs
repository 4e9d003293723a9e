//! The operations of the IR.

use crate::dim::{Dim, Dims};
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// An operation. Unless it says otherwise it has one result, whose type follows from its operands and attributes (see
/// [`crate::infer()`]).
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A tensor given at run time, by name.
    Input {
        /// Its name.
        name: String,
        /// Its type.
        ty: Type,
    },
    /// A parameter or buffer, by name; [`Graph::parameters`] describes it.
    Parameter {
        /// Its name.
        name: String,
        /// Its type.
        ty: Type,
    },
    /// A constant.
    Constant(Tensor),
    /// An `i64` scalar: the value of a dimension.
    Size(Dim),
    /// `0, 1, ..., length - 1` as `i64`.
    Iota {
        /// How many.
        length: Dim,
    },
    /// Random numbers. In a parameter's initial value they come from the generator that equals PyTorch's; elsewhere from a
    /// counter-based one keyed by the seed and `stream`.
    Random {
        /// How they are distributed.
        distribution: Distribution,
        /// Tells apart the random operations of a graph.
        stream: u32,
        /// How many.
        shape: Vec<Dim>,
    },

    /// An elementwise function.
    Unary(UnaryOp),
    /// An elementwise function of two operands of one type.
    Binary(BinaryOp),
    /// `condition ? a : b`, elementwise.
    Select,
    /// Conversion to another element type. To `bool`: is it not zero?
    Cast {
        /// Which.
        dtype: DType,
    },
    /// 1 where the operand is `>= 0` (`strict`: `> 0`), else 0. Its derivative is the surrogate: a scalar graph of one input.
    Spike {
        /// Fire above the threshold only, not at it.
        strict: bool,
        /// The derivative at the operand.
        surrogate: Box<Graph>,
    },

    /// Repeats the operand: its axis `i` becomes axis `axes[i]` of the result; an axis of size 1 may grow.
    Broadcast {
        /// Where each axis of the operand goes, ascending.
        axes: Vec<usize>,
        /// The shape of the result.
        shape: Vec<Dim>,
    },
    /// The same elements in another shape.
    Reshape {
        /// The shape of the result.
        shape: Vec<Dim>,
    },
    /// Axis `i` of the result is axis `permutation[i]` of the operand.
    Transpose {
        /// The order of the axes.
        permutation: Vec<usize>,
    },
    /// `x[start + step * i]` along an axis.
    Slice {
        /// The axis.
        axis: usize,
        /// The first index.
        start: Dim,
        /// How many elements along the axis are taken.
        length: Dim,
        /// The distance of two indices, at least 1.
        step: i64,
    },
    /// Adds `low` elements of `value` before and `high` after along an axis.
    Pad {
        /// The axis.
        axis: usize,
        /// How many before.
        low: Dim,
        /// How many after.
        high: Dim,
        /// With what.
        value: f32,
    },
    /// Joins operands along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// `x[..., indices, ...]` along an axis: the axes of the indices take its place. An index out of range is an error.
    Gather {
        /// The axis.
        axis: usize,
    },
    /// The operands are a target, indices, and updates in the shape that `Gather` would give; adds the updates to the target.
    ScatterAdd {
        /// The axis.
        axis: usize,
    },
    /// All windows of an axis: `y[..., i, ..., k] = x[..., stride * i + dilation * k, ...]`; `k` is a new last axis.
    Window {
        /// The axis.
        axis: usize,
        /// The length of a window.
        size: i64,
        /// The distance of two windows.
        stride: i64,
        /// The distance of two elements of a window.
        dilation: i64,
    },

    /// The gradient of a pool that keeps the largest element of each window. Operands: what was pooled `[..., sizes]`, the pool's
    /// result `[..., windows]`, and the gradient of that. The first element of a window, in row-major order, that is its result
    /// (where that is NaN, the first NaN) gets the window's gradient; where windows overlap, gradients add in the order of windows.
    /// Padding gets nothing.
    MaxPoolGradient(MaxPool),

    /// Reduces axes, which vanish. The empty sum is 0; other empty reductions are errors.
    Reduce {
        /// With what.
        kind: Reduction,
        /// The axes, ascending.
        axes: Vec<usize>,
    },
    /// The index of the first largest element along an axis, as `i64`; a NaN is the largest.
    ArgMax {
        /// The axis.
        axis: usize,
    },
    /// Running sum along an axis.
    CumSum {
        /// The axis.
        axis: usize,
    },
    /// A product of tensors summed over shared axes. The result has the batch axes, then the free axes of the left operand,
    /// then those of the right.
    Contract(Contraction),
    /// A convolution (cross-correlation, as PyTorch's): `x[..., C, spatial...]` with `w[O, C / groups, kernel...]`.
    Conv(Convolution),
    /// The gradient of the input of [`Op::Conv`]. Operands: the gradient of the result, and the weights. Sums
    /// go over output channels, and for each over the kernel in row-major order; this is also what a transposed convolution computes.
    ConvInputGradient(ConvGradient),
    /// The gradient of the weights of [`Op::Conv`]. Operands: the input, and the gradient of the result. Sums
    /// go over samples, and for each over the places of the result in row-major order.
    ConvWeightGradient(ConvGradient),

    /// `y[t] = x[t - steps]` along axis 0, zero before.
    Delay {
        /// How many steps, at least 0.
        steps: i64,
    },
    /// True at the first spike along an axis: `cumsum(cumsum(x)) == 1`.
    FirstSpike {
        /// The axis of time.
        axis: usize,
    },
    /// `labels[B]` to f32 `[B, classes * repeat]`: ones at columns `label * repeat ... label * repeat + repeat - 1`. A label
    /// out of range is an error.
    RedundantOneHot {
        /// The number of classes.
        classes: i64,
        /// Columns of each class.
        repeat: i64,
    },
    /// The threshold of a neuron in training: `on` where its operand, a one-hot label, is 1, and `off` elsewhere. In evaluation
    /// `set_threshold_margin` is a constant.
    ThresholdMargin {
        /// The threshold where the label is 0.
        off: f32,
        /// The threshold where the label is 1.
        on: f32,
    },

    /// A step function over time, elementwise: every neuron. See [`Scan`].
    Scan(std::sync::Arc<Scan>),
    /// A graph over time, step by step: recurrent connections. See [`Loop`].
    Loop(Box<Loop>),
}

/// A distribution of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// Uniform on `[0, 1)`, 24 bits.
    Uniform,
    /// Normal with mean 0 and variance 1.
    Normal,
}

/// Elementwise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum UnaryOp {
    Neg,
    Abs,
    Exp,
    Log,
    Sqrt,
    Sin,
    Cos,
    Tanh,
    Erf,
    /// Rounds down.
    Floor,
    /// Rounds to the nearest, ties to even.
    Round,
    /// Of booleans.
    Not,
    /// The operand; its derivative is 0.
    Detach,
}

/// Elementwise functions of two operands. Comparisons give `bool`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    /// Of floats.
    Div,
    /// The remainder with the sign of the divisor, as Python's `%`.
    Rem,
    Pow,
    /// NaN where either is NaN.
    Max,
    /// NaN where either is NaN.
    Min,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Of booleans.
    And,
    /// Of booleans.
    Or,
}

impl BinaryOp {
    /// Does it give booleans for numbers?
    pub fn is_comparison(self) -> bool {
        use BinaryOp::*;
        matches!(self, Eq | Ne | Lt | Le | Gt | Ge)
    }
}

/// How axes are reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reduction {
    Sum,
    Max,
    Min,
}

/// Which axes of both operands a contraction pairs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Contraction {
    /// Axes of the left operand that are kept, one for each in `rhs_batch`.
    pub lhs_batch: Vec<usize>,
    /// Axes of the right operand that are kept.
    pub rhs_batch: Vec<usize>,
    /// Axes of the left operand that are summed, one for each in `rhs_sum`.
    pub lhs_sum: Vec<usize>,
    /// Axes of the right operand that are summed.
    pub rhs_sum: Vec<usize>,
}

impl Contraction {
    /// The axes that are neither kept nor summed, of the left and of the right operand.
    pub fn free_axes(&self, lhs_rank: usize, rhs_rank: usize) -> (Vec<usize>, Vec<usize>) {
        let free = |rank, batch: &[usize], sum: &[usize]| (0..rank).filter(|a| !batch.contains(a) && !sum.contains(a)).collect();
        (free(lhs_rank, &self.lhs_batch, &self.lhs_sum), free(rhs_rank, &self.rhs_batch, &self.rhs_sum))
    }
}

/// The settings of a convolution, one number for each spatial axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// The distance of two windows.
    pub stride: Vec<i64>,
    /// Zeros added on both sides, which are multiplied like all else: an infinite weight makes NaN of them.
    pub padding: Vec<i64>,
    /// The distance of two elements of a window.
    pub dilation: Vec<i64>,
    /// Into how many independent groups the channels are divided.
    pub groups: i64,
}

/// A convolution, and the shape of what its gradient is taken of, which the strides do not tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvGradient {
    /// The convolution.
    pub convolution: Convolution,
    /// The shape of its input, or of its weights: that of the gradient.
    pub shape: Vec<Dim>,
}

impl std::ops::Deref for ConvGradient {
    type Target = Convolution;

    fn deref(&self) -> &Convolution {
        &self.convolution
    }
}

/// The windows of a pool over the last axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool {
    /// One for each axis that is pooled, in order; they are the last ones.
    pub axes: Vec<PoolAxis>,
}

/// The windows along one axis of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolAxis {
    /// The length of a window.
    pub size: i64,
    /// The distance of two windows.
    pub stride: i64,
    /// The distance of two elements of a window.
    pub dilation: i64,
    /// Elements of padding before the first.
    pub padding: i64,
}

impl PoolAxis {
    /// Where element `k` of window `i` is in an axis of `length` elements, unless it is padding.
    pub fn place(&self, i: usize, k: usize, length: usize) -> Option<usize> {
        let at = i as i64 * self.stride + k as i64 * self.dilation - self.padding;
        usize::try_from(at).ok().filter(|at| *at < length)
    }
}

/// A step function along axis 0 of its sequences.
///
/// Operands: `sequences` tensors of one shape `[T, S...]`, `invariants` that broadcast against `[S...]`, then one initial
/// value for each state, which broadcasts against `[S...]` too. Results: `outputs` sequences `[T, S...]`, then the state after
/// the last step, `[S...]`.
///
/// The body is a graph of scalars. Its inputs are one element of each sequence, invariant and state; its outputs are the
/// outputs of the step and then the next states.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// What its operands and results are.
    pub roles: Roles,
    /// Does it run from the last step to the first?
    pub reverse: bool,
    /// One step for one element.
    pub body: Graph,
}

/// A graph run step by step along axis 0 of its sequences.
///
/// Operands and results are as in [`Scan`], but of any shapes. The body's inputs are slices of length 1 of the sequences,
/// `[1, ...]`, then invariants and states as they are; its outputs are slices `[1, ...]` and then the next states.
#[derive(Clone, Debug, PartialEq)]
pub struct Loop {
    /// What its operands and results are.
    pub roles: Roles,
    /// Does it run from the last step to the first?
    pub reverse: bool,
    /// The number of steps, for a loop without sequences.
    pub steps: Dim,
    /// One step.
    pub body: Graph,
}

impl Op {
    /// Does each element of the result depend on the elements at the same place of the operands only?
    pub fn is_elementwise(&self) -> bool {
        self.class() == crate::describe::Class::Elementwise
    }

    /// Puts sizes in for names of dimensions in the attributes that do not tell the type of the result, see [`Op::set_result`]; bodies are
    /// not looked at.
    pub(crate) fn bind(&mut self, dims: &Dims) {
        if let Op::Size(d) = self {
            let bound = d.bind(dims);
            *self = match bound.as_constant() {
                Some(n) => Op::Constant(Tensor::i64([], vec![n])),
                None => Op::Size(bound),
            };
        } else if let Op::Slice { start, .. } = self {
            *start = start.bind(dims);
        } else if let Op::Pad { low, high, .. } = self {
            (*low, *high) = (low.bind(dims), high.bind(dims));
        } else if let Op::Loop(l) = self {
            l.steps = l.steps.bind(dims);
        }
    }

    /// The same with a result of another type, where attributes tell it: what a pass does that changes shapes.
    pub fn with_result(mut self, result: &Type) -> Op {
        self.set_result(result);
        self
    }

    /// Changes the attributes that tell the type of the result, if there are any, to those of another type.
    pub(crate) fn set_result(&mut self, result: &Type) {
        if let Op::Input { ty, .. } | Op::Parameter { ty, .. } = self {
            *ty = result.clone();
        } else if let Op::Iota { length } = self {
            *length = result.shape.first().cloned().unwrap_or_default();
        } else if let Op::Random { shape, .. } | Op::Broadcast { shape, .. } | Op::Reshape { shape } = self {
            shape.clone_from(&result.shape);
        } else if let Op::Cast { dtype } = self {
            *dtype = result.dtype;
        } else if let Op::Slice { axis, length, .. } = self {
            *length = result.shape.get(*axis).cloned().unwrap_or_default();
        } else if let Op::ConvInputGradient(c) | Op::ConvWeightGradient(c) = self {
            c.shape.clone_from(&result.shape);
        }
    }

    /// The graphs inside this operation.
    pub fn bodies(&self) -> Vec<&Graph> {
        if let Op::Spike { surrogate, .. } = self {
            return vec![surrogate];
        }
        self.recurrence().map(|(_, body)| body).into_iter().collect()
    }

    /// The graphs inside this operation.
    pub fn bodies_mut(&mut self) -> Vec<&mut Graph> {
        if let Op::Spike { surrogate, .. } = self {
            vec![surrogate]
        } else if let Op::Scan(s) = self {
            vec![&mut std::sync::Arc::make_mut(s).body]
        } else if let Op::Loop(l) = self {
            vec![&mut l.body]
        } else {
            vec![]
        }
    }

    /// The roles of operands and results of a scan or a loop, and its body.
    pub fn recurrence(&self) -> Option<(Roles, &Graph)> {
        if let Op::Scan(s) = self {
            Some((s.roles, &s.body))
        } else if let Op::Loop(l) = self {
            Some((l.roles, &l.body))
        } else {
            None
        }
    }
}

/// What scans and loops share: their operands are sequences, invariants and then first states, their results outputs and then last
/// states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// How many operands are sequences.
    pub sequences: usize,
    /// How many operands do not change over time.
    pub invariants: usize,
    /// How many states there are.
    pub states: usize,
    /// How many outputs each step has.
    pub outputs: usize,
}

impl Roles {
    /// The first operand that is a state.
    pub fn first_state(&self) -> usize {
        self.sequences + self.invariants
    }
}

//! Operations said in other operations, for differentiation and for devices that lack them.

use crate::{BinaryOp, Build, Convolution, DType, Dim, Graph, MaxPool, Op, Type, Value};

/// The gradient of [`Op::Window`]: every element of a window goes back to where it came from; where windows overlap, they add.
pub fn window_gradient(build: &mut Build<'_>, g: Value, from: &Type, axis: usize, [size, stride, dilation]: [i64; 3]) -> Value {
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
    build.0.add(Op::ScatterAdd { axis }, &[zeros, places, g])
}

/// Which elements of `x` get the gradient of `y = max(x, axes)` (or min): the first that is `y`, in row-major order of the axes;
/// the first NaN where that is NaN. Only elements where `candidates` is true, if that is given.
pub fn first_largest(build: &mut Build<'_>, axes: &[usize], x: Value, y: Value, candidates: Option<Value>) -> Value {
    let ty = build.0.ty(x).clone();
    let kept: Vec<usize> = (0..ty.rank()).filter(|a| !axes.contains(a)).collect();
    let best = build.broadcast(y, kept.clone(), ty.shape.clone());
    let equal = build.binary(BinaryOp::Eq, x, best);
    let mut reaches = equal;
    if ty.dtype == DType::F32 {
        // Where an element is NaN the result is.
        let nan = build.binary(BinaryOp::Ne, x, x);
        reaches = build.binary(BinaryOp::Or, equal, nan);
    }
    if let Some(c) = candidates {
        reaches = build.binary(BinaryOp::And, reaches, c);
    }
    // The axes become the last one.
    let order: Vec<usize> = kept.iter().chain(axes).copied().collect();
    let moved = build.transpose(reaches, order.clone());
    let moved_shape = build.0.ty(moved).shape.clone();
    let mut flat: Vec<Dim> = kept.iter().map(|a| ty.shape[*a].clone()).collect();
    flat.push(Dim::product(axes.iter().map(|a| &ty.shape[*a])));
    let last = flat.len() - 1;
    let row = build.reshape(moved, flat);
    let first = build.0.add(Op::FirstSpike { axis: last }, &[row]);
    let first = build.reshape(first, moved_shape);
    build.untranspose(first, &order)
}

/// [`Op::MaxPoolGradient`] by windows that are written out.
pub fn max_pool_gradient(build: &mut Build<'_>, pool: &MaxPool, x: Value, y: Value, g: Value) -> Value {
    let from = build.0.ty(x).clone();
    let lead = from.rank() - pool.axes.len();
    let mut padded = x;
    let mut inside = build.full(1.0, &from.with_dtype(DType::Bool));
    let mut types = Vec::new();
    for (i, a) in pool.axes.iter().enumerate() {
        let axis = lead + i;
        // What the last window needs, and no more.
        let count = build.0.ty(y).shape[axis].clone();
        let reach = count.minus(&1.into()).times(&a.stride.into()).plus(&(a.dilation * (a.size - 1) + 1).into());
        let high = reach.minus(&from.shape[axis]).minus(&a.padding.into());
        let high = Dim::constant(high.as_constant().unwrap_or(0).max(0));
        padded = build.0.add(Op::Pad { axis, low: a.padding.into(), high: high.clone(), value: f32::NEG_INFINITY }, &[padded]);
        inside = build.0.add(Op::Pad { axis, low: a.padding.into(), high, value: 0.0 }, &[inside]);
    }
    let whole = build.0.ty(padded).clone();
    for (i, a) in pool.axes.iter().enumerate() {
        let window = Op::Window { axis: lead + i, size: a.size, stride: a.stride, dilation: a.dilation };
        types.push(build.0.ty(padded).clone());
        padded = build.0.add(window.clone(), &[padded]);
        inside = build.0.add(window, &[inside]);
    }
    let rank = from.rank();
    let axes: Vec<usize> = (rank..rank + pool.axes.len()).collect();
    // A window may see less than the last elements: the counts are those of `y`.
    let first = first_largest(build, &axes, padded, y, Some(inside));
    let shape = build.0.ty(first).shape.clone();
    let repeated = build.broadcast(g, (0..rank).collect(), shape);
    let zero = build.like(0.0, repeated);
    let mut d = build.select(first, repeated, zero);
    for (i, a) in pool.axes.iter().enumerate().rev() {
        d = window_gradient(build, d, &types[i], lead + i, [a.size, a.stride, a.dilation]);
    }
    debug_assert_eq!(build.0.ty(d), &whole);
    for (i, a) in pool.axes.iter().enumerate() {
        d = build.slice(d, lead + i, a.padding.into(), from.shape[lead + i].clone());
    }
    d
}

/// Are the reduced axes of `x` those of the windows of a pool? What is pooled, and how.
pub fn pooled(graph: &Graph, x: Value, axes: &[usize]) -> Option<(Value, MaxPool)> {
    let (k, rank) = (axes.len(), graph.ty(x).rank());
    let base = rank.checked_sub(k)?;
    let lead = base.checked_sub(k)?;
    if k == 0 || !axes.iter().copied().eq(base..rank) {
        return None;
    }
    let mut pool = MaxPool { axes: Vec::new() };
    let mut v = x;
    for i in (0..k).rev() {
        let node = graph.node(v.node);
        let Op::Window { axis, size, stride, dilation } = node.op else { return None };
        if axis != lead + i {
            return None;
        }
        pool.axes.insert(0, crate::PoolAxis { size, stride, dilation, padding: 0 });
        v = node.operands[0];
    }
    while let Op::Pad { axis, low, value, .. } = graph.op(v)
        && *value == f32::NEG_INFINITY
        && *axis >= lead
        && let Some(low) = low.as_constant()
        && pool.axes[axis - lead].padding == 0
    {
        pool.axes[axis - lead].padding = low;
        v = graph.node(v.node).operands[0];
    }
    (graph.ty(v).dtype == DType::F32).then_some((v, pool))
}

/// [`Op::ConvInputGradient`] as a convolution of the gradient, dilated by the stride, with flipped weights.
pub fn convolution_input_gradient(build: &mut Build<'_>, c: &Convolution, g: Value, w: Value, of: &Type) -> Value {
    let w_shape = build.0.ty(w).shape.clone();
    let g = with_one_batch(build, g, c);
    let x_shape = &one_batch(&of.shape, c);
    let groups = Dim::constant(c.groups);
    // [O, C / groups, K] to [C, O / groups, K], each group by itself, and flipped.
    let out = w_shape[0].divided_exactly(&groups).unwrap_or_else(|| w_shape[0].clone());
    let kernel = &w_shape[2..];
    let with = |head: Vec<Dim>| head.into_iter().chain(kernel.iter().cloned()).collect::<Vec<_>>();
    let split = build.reshape(w, with(vec![groups.clone(), out.clone(), w_shape[1].clone()]));
    let order = [0, 2, 1].into_iter().chain(3..3 + kernel.len()).collect();
    let swapped = build.transpose(split, order);
    let mut weights = build.reshape(swapped, with(vec![groups.times(&w_shape[1]), out]));
    let mut dilated = g;
    for (i, size) in kernel.iter().enumerate() {
        let axis = 2 + i;
        weights = build.flipped(weights, axis);
        dilated = dilate(build, dilated, axis, c.stride[i]);
        // Zeros around, so that every input is met by every weight that has met it.
        let size = size.as_constant().unwrap_or(1);
        let reach = Dim::constant(c.dilation[i] * (size - 1) - c.padding[i]);
        let have = build.0.ty(dilated).shape[axis].clone();
        let want = x_shape[axis].plus(&(c.dilation[i] * (size - 1)).into());
        let high = want.minus(&have).minus(&reach);
        dilated = pad_or_cut(build, dilated, axis, &reach, &high);
    }
    let plain =
        Convolution { stride: vec![1; c.stride.len()], padding: vec![0; c.stride.len()], dilation: c.dilation.clone(), groups: c.groups };
    let d = build.0.add(Op::Conv(plain), &[dilated, weights]);
    build.reshape(d, of.shape.clone())
}

/// A shape whose axes before the channels are one.
fn one_batch(shape: &[Dim], c: &Convolution) -> Vec<Dim> {
    let channels = shape.len() - c.stride.len() - 1;
    std::iter::once(Dim::product(&shape[..channels])).chain(shape[channels..].iter().cloned()).collect()
}

fn with_one_batch(build: &mut Build<'_>, x: Value, c: &Convolution) -> Value {
    let shape = one_batch(&build.0.ty(x).shape, c);
    build.reshape(x, shape)
}

/// Puts `stride - 1` zeros between the elements of an axis.
fn dilate(build: &mut Build<'_>, g: Value, axis: usize, stride: i64) -> Value {
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

/// [`Op::ConvWeightGradient`] as a convolution of the input with the gradient, channels and batch exchanged.
pub fn convolution_weight_gradient(build: &mut Build<'_>, c: &Convolution, x: Value, g: Value, of: &Type) -> Value {
    let (w_shape, spatial) = (&of.shape, c.stride.len());
    let (x, g) = (with_one_batch(build, x, c), with_one_batch(build, g, c));
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
        let mut d = build.0.add(Op::Conv(product.clone()), &[x, g]);
        for i in 0..spatial {
            // Inputs that no window reached give rows too many.
            if build.0.ty(d).shape[2 + i] != w_shape[2 + i] {
                d = build.slice(d, 2 + i, 0.into(), w_shape[2 + i].clone());
            }
        }
        parts.push(build.transpose(d, swap.clone()));
    }
    if parts.len() == 1 { parts[0] } else { build.0.add(Op::Concat { axis: 0 }, &parts) }
}

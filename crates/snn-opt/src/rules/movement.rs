//! Moving elements without changing them: two moves become one, or none.

use egg::Id;
use snn_ir::{Contraction, Dim, Op};

use super::{built, each, elementwise};
use crate::rule::{Context, Rule};

pub(super) const RULES: [Rule; 16] = [
    built("reshape-same", "(reshape ?s ?x)", same, "the shape is that of the operand"),
    built("reshape-reshape", "(reshape ?s (reshape ?r ?x))", reshape_reshape, "the order of the elements never changes"),
    built("transpose-same", "(permute ?p ?x)", transpose_same, "no axis moves"),
    built("transpose-transpose", "(permute ?p (permute ?q ?x))", transpose_transpose, "permutations compose"),
    built("broadcast-same", "(broadcast_to ?s ?x)", same, "the shape is that of the operand"),
    built("broadcast-broadcast", "(broadcast_to ?s (broadcast_to ?r ?x))", broadcast_broadcast, "axes are mapped twice"),
    built(
        "broadcast-inserted",
        "(broadcast_to ?s (reshape ?r ?x))",
        broadcast_inserted,
        "axes of size 1 that a reshape inserts are grown or kept by the broadcast itself",
    ),
    elementwise(
        "elementwise-inserted",
        elementwise_inserted,
        "axes of size 1 that a reshape inserts may as well be inserted after an operation on each element",
    ),
    each("reduce-inserted", &["sum", "max", "min"], reduce_inserted, "axes of size 1 that a reshape inserts add nothing"),
    built("slice-whole", "(slice ?s ?x)", slice_whole, "every element is taken"),
    built("slice-slice", "(slice ?s (slice ?r ?x))", slice_slice, "(r + q (s + p i)) = (r + q s) + (q p) i"),
    each("slice-concat", &["slice"], slice_concat, "the slice lies inside one part"),
    each("concat-one", &["concat"], concat_one, "there is nothing to join"),
    each("concat-slices", &["concat"], concat_slices, "slices that follow each other are one slice"),
    built(
        "transpose-of-product",
        "(permute ?p (contract ?c ?a ?b))",
        transpose_of_product,
        "(a b) transposed is b a transposed: the same products, in the same order of sums",
    ),
    each(
        "transpose-into-product",
        &["contract"],
        transpose_into_product,
        "a product says itself which axes it pairs; the order of its sums does not change",
    ),
];

fn same(c: &mut Context<'_>) -> Option<Id> {
    (c.ty("?x") == c.own_type()).then(|| c.id("?x"))
}

fn reshape_reshape(c: &mut Context<'_>) -> Option<Id> {
    let (x, ty) = (c.id("?x"), c.own_type());
    Some(c.add(Op::Reshape { shape: ty.shape }, &[x]))
}

fn permutation(c: &Context<'_>, var: &str) -> Option<Vec<usize>> {
    match c.op(var) {
        Some(Op::Transpose { permutation }) => Some(permutation),
        _ => None,
    }
}

fn transpose_same(c: &mut Context<'_>) -> Option<Id> {
    let p = permutation(c, "?p")?;
    p.iter().copied().eq(0..p.len()).then(|| c.id("?x"))
}

fn transpose_transpose(c: &mut Context<'_>) -> Option<Id> {
    let (p, q) = (permutation(c, "?p")?, permutation(c, "?q")?);
    let x = c.id("?x");
    Some(c.add(Op::Transpose { permutation: p.iter().map(|a| q[*a]).collect() }, &[x]))
}

fn broadcast_broadcast(c: &mut Context<'_>) -> Option<Id> {
    let (Some(Op::Broadcast { axes: outer, .. }), Some(Op::Broadcast { axes: inner, .. })) = (c.op("?s"), c.op("?r")) else { return None };
    let (x, ty) = (c.id("?x"), c.own_type());
    Some(c.add(Op::Broadcast { axes: inner.iter().map(|a| outer[*a]).collect(), shape: ty.shape }, &[x]))
}

/// Where the axes of a shape are in a wider one that has some more of size 1.
fn places_in(narrow: &[Dim], wide: &[Dim]) -> Option<Vec<usize>> {
    let mut left = narrow.iter().peekable();
    let mut places = Vec::new();
    for (axis, size) in wide.iter().enumerate() {
        if left.peek() == Some(&size) {
            left.next();
            places.push(axis);
        } else if !size.is_one() {
            return None;
        }
    }
    (left.peek().is_none() && places.len() < wide.len()).then_some(places)
}

fn broadcast_inserted(c: &mut Context<'_>) -> Option<Id> {
    let (Some(Op::Broadcast { axes, .. }), Some(Op::Reshape { shape: wide })) = (c.op("?s"), c.op("?r")) else { return None };
    let (x, ty, source) = (c.id("?x"), c.own_type(), c.ty("?x"));
    let kept = places_in(&source.shape, &wide)?.into_iter().map(|i| axes[i]).collect();
    Some(c.add(Op::Broadcast { axes: kept, shape: ty.shape }, &[x]))
}

/// What a class is without axes of size 1, where it is a reshape that inserts them; and where the others are.
fn without_inserted(c: &Context<'_>, id: Id) -> Option<(Id, Vec<usize>)> {
    let wide = c.terms[id].data.ty().shape.clone();
    c.find(id, |op, operands| {
        let Op::Reshape { .. } = op else { return None };
        let places = places_in(&c.terms[operands[0]].data.ty().shape, &wide)?;
        Some((operands[0], places))
    })
}

fn elementwise_inserted(c: &mut Context<'_>) -> Option<Id> {
    let (op, operands) = c.operation()?;
    let ty = c.own_type();
    let places = operands.iter().find_map(|id| without_inserted(c, *id)).map(|(_, places)| places)?;
    let shape: Vec<Dim> = places.iter().map(|axis| ty.shape[*axis].clone()).collect();
    let mut narrow = Vec::with_capacity(operands.len());
    for id in operands {
        if let Some((source, _)) = without_inserted(c, id).filter(|(_, own)| *own == places) {
            narrow.push(source);
            continue;
        }
        // What is repeated is repeated along fewer axes; a value of its own would only be reshaped once more.
        let (source, axes) =
            c.find(id, |op, operands| if let Op::Broadcast { axes, .. } = op { Some((operands[0], axes)) } else { None })?;
        let kept: Vec<(usize, usize)> =
            axes.iter().enumerate().filter_map(|(i, axis)| Some((i, places.iter().position(|p| p == axis)?))).collect();
        let own = c.terms[source].data.ty().shape.clone();
        let source = if kept.len() == axes.len() {
            source
        } else {
            c.add(Op::Reshape { shape: kept.iter().map(|(i, _)| own[*i].clone()).collect() }, &[source])
        };
        narrow.push(c.add(Op::Broadcast { axes: kept.into_iter().map(|(_, axis)| axis).collect(), shape: shape.clone() }, &[source]));
    }
    let result = c.add(op, &narrow);
    Some(c.add(Op::Reshape { shape: ty.shape }, &[result]))
}

fn reduce_inserted(c: &mut Context<'_>) -> Option<Id> {
    let (Op::Reduce { kind, axes }, operands) = c.operation()? else { return None };
    let (source, places) = without_inserted(c, operands[0])?;
    let left: Vec<usize> = places.iter().enumerate().filter(|(_, axis)| axes.contains(axis)).map(|(i, _)| i).collect();
    // A sum of one is not always the same: it has no -0.
    if left.is_empty() {
        return None;
    }
    let ty = c.own_type();
    let result = c.add(Op::Reduce { kind, axes: left }, &[source]);
    let same = c.terms[result].data.ty() == &ty;
    Some(if same { result } else { c.add(Op::Reshape { shape: ty.shape }, &[result]) })
}

fn slice(c: &Context<'_>, var: &str) -> Option<(usize, Dim, i64)> {
    match c.op(var) {
        Some(Op::Slice { axis, start, step, .. }) => Some((axis, start, step)),
        _ => None,
    }
}

fn slice_whole(c: &mut Context<'_>) -> Option<Id> {
    let (_, start, step) = slice(c, "?s")?;
    (start.as_constant() == Some(0) && step == 1 && c.ty("?x") == c.own_type()).then(|| c.id("?x"))
}

fn slice_slice(c: &mut Context<'_>) -> Option<Id> {
    let ((axis, start, step), (inner_axis, inner_start, inner_step)) = (slice(c, "?s")?, slice(c, "?r")?);
    if axis != inner_axis {
        return None;
    }
    let start = inner_start.plus(&start.times(&inner_step.into()));
    let (x, ty) = (c.id("?x"), c.own_type());
    let length = ty.shape[axis].clone();
    Some(c.add(Op::Slice { axis, start, length, step: step.checked_mul(inner_step)? }, &[x]))
}

fn slice_concat(c: &mut Context<'_>) -> Option<Id> {
    let (Op::Slice { axis, start, length, step }, operands) = c.operation()? else { return None };
    let (start, count) = (start.as_constant()?, length.as_constant()?);
    let last = start + step.checked_mul((count - 1).max(0))?;
    let (part, first) = c.find(operands[0], |op, parts| {
        let Op::Concat { axis: joined } = op else { return None };
        let mut first = 0;
        for part in parts.iter().filter(|_| joined == axis) {
            let length = c.terms[*part].data.ty().shape[axis].as_constant()?;
            if start >= first && last < first + length {
                return Some((*part, first));
            }
            first += length;
        }
        None
    })?;
    Some(c.add(Op::Slice { axis, start: (start - first).into(), length, step }, &[part]))
}

fn concat_one(c: &mut Context<'_>) -> Option<Id> {
    let (_, operands) = c.operation()?;
    (operands.len() == 1).then(|| operands[0])
}

fn concat_slices(c: &mut Context<'_>) -> Option<Id> {
    let (Op::Concat { axis }, operands) = c.operation()? else { return None };
    let mut begin: Option<(Id, i64)> = None;
    let mut next = 0;
    for v in operands {
        let length = c.terms[v].data.ty().shape[axis].as_constant()?;
        let found = c.find(v, |op, of| {
            let Op::Slice { axis: a, start, step: 1, .. } = op else { return None };
            if a == axis { Some((of[0], start.as_constant()?)) } else { None }
        });
        let (source, start) = found?;
        match begin {
            None => begin = Some((source, start)),
            Some((first, _)) if c.terms.find(first) == c.terms.find(source) && start == next => {}
            Some(_) => return None,
        }
        next = start + length;
    }
    let (source, start) = begin?;
    let length = c.own_type().shape[axis].clone();
    Some(c.add(Op::Slice { axis, start: start.into(), length, step: 1 }, &[source]))
}

fn transpose_into_product(c: &mut Context<'_>) -> Option<Id> {
    let (Op::Contract(k), operands) = c.operation()? else { return None };
    let untransposed = |id: Id| c.find(id, |op, of| if let Op::Transpose { permutation } = op { Some((permutation, of[0])) } else { None });
    let (lhs, rhs) = (untransposed(operands[0]), untransposed(operands[1]));
    if lhs.is_none() && rhs.is_none() {
        return None;
    }
    let ranks = [c.terms[operands[0]].data.ty().rank(), c.terms[operands[1]].data.ty().rank()];
    let (free_l, free_r) = k.free_axes(ranks[0], ranks[1]);
    // The free axes must come in the same order as before.
    let through = |p: &Option<(Vec<usize>, Id)>, axes: &[usize]| -> Vec<usize> {
        p.as_ref().map_or_else(|| axes.to_vec(), |(p, _)| axes.iter().map(|a| p[*a]).collect())
    };
    let ascending = |axes: &[usize]| axes.windows(2).all(|w| w[0] < w[1]);
    let left_fits = ascending(&through(&lhs, &free_l));
    let right_fits = ascending(&through(&rhs, &free_r));
    let lhs = lhs.filter(|_| left_fits);
    let rhs = rhs.filter(|_| right_fits);
    if lhs.is_none() && rhs.is_none() {
        return None;
    }
    let new = Contraction {
        lhs_batch: through(&lhs, &k.lhs_batch),
        rhs_batch: through(&rhs, &k.rhs_batch),
        lhs_sum: through(&lhs, &k.lhs_sum),
        rhs_sum: through(&rhs, &k.rhs_sum),
    };
    let operands = [lhs.map_or(operands[0], |(_, x)| x), rhs.map_or(operands[1], |(_, x)| x)];
    Some(c.add(Op::Contract(new), &operands))
}

fn transpose_of_product(c: &mut Context<'_>) -> Option<Id> {
    let (p, Some(Op::Contract(k))) = (permutation(c, "?p")?, c.op("?c")) else { return None };
    let (a, b) = (c.id("?a"), c.id("?b"));
    let (left, right) = k.free_axes(c.ty("?a").rank(), c.ty("?b").rank());
    let batch = k.lhs_batch.len();
    // Batch axes stay, then the free axes of b, then those of a.
    let swapped = (0..batch).chain(batch + left.len()..batch + left.len() + right.len()).chain(batch..batch + left.len());
    if left.is_empty() || right.is_empty() || !p.iter().copied().eq(swapped) {
        return None;
    }
    let swapped = Contraction { lhs_batch: k.rhs_batch, rhs_batch: k.lhs_batch, lhs_sum: k.rhs_sum, rhs_sum: k.lhs_sum };
    Some(c.add(Op::Contract(swapped), &[b, a]))
}

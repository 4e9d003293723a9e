//! The five helpers: what they are written as by hand becomes the operation. A threshold margin in evaluation has no operands
//! and folds to its constant like everything else; initial values of parameters are no part of the graph and stay.

use egg::Id;
use snn_ir::Op;

use super::{built, exact};
use crate::rule::{Context, Rule};

pub(super) const RULES: [Rule; 4] = [
    built("first-spike", "(eq (cumsum ?a (cumsum ?a ?x)) ?one)", first_spike, "this is its definition"),
    exact("first-spike-swapped", "(eq ?one (cumsum ?a (cumsum ?a ?x)))", "(eq (cumsum ?a (cumsum ?a ?x)) ?one)", "equality is symmetric"),
    built(
        "shifted-one-hots",
        "(add ?a ?b)",
        shifted_one_hots,
        "one_hot(n l) + ... + one_hot(n l + n - 1) has ones at n l ... n l + n - 1; the columns are disjoint, so the sum is exact",
    ),
    built(
        "repeated-one-hot",
        "(reshape ?r (broadcast_to ?b (redundant_one_hot ?h ?l)))",
        repeated_one_hot,
        "each column n times, side by side",
    ),
];

fn first_spike(c: &mut Context<'_>) -> Option<Id> {
    let Some(Op::CumSum { axis }) = c.op("?a") else { return None };
    let one = c.facts("?one").fill.as_ref()?;
    if one.to_f32()[0] != 1.0 {
        return None;
    }
    let x = c.id("?x");
    Some(c.add(Op::FirstSpike { axis }, &[x]))
}

fn shifted_one_hots(c: &mut Context<'_>) -> Option<Id> {
    let run = c.terms[c.class].data.run?;
    let whole = run.first == 0 && run.count == run.stride && run.stride > 1 && run.columns % run.stride == 0;
    whole.then(|| c.add(Op::RedundantOneHot { classes: run.columns / run.stride, repeat: run.stride }, &[run.label]))
}

fn repeated_one_hot(c: &mut Context<'_>) -> Option<Id> {
    let Some(Op::RedundantOneHot { classes, repeat }) = c.op("?h") else { return None };
    let Some(Op::Broadcast { axes, shape: wide }) = c.op("?b") else { return None };
    let rank = c.ty("?l").rank() + 1;
    let times = wide.last()?.as_constant()?;
    // [B, C] to [B, C, n], then to [B, C n].
    let repeats = wide.len() == rank + 1 && axes.iter().copied().eq(0..rank) && times >= 1;
    let joined = c.own_type();
    let joins = joined.rank() == rank && joined.shape[..rank - 1] == wide[..rank - 1];
    if !repeats || !joins {
        return None;
    }
    let label = c.id("?l");
    Some(c.add(Op::RedundantOneHot { classes, repeat: repeat.checked_mul(times)? }, &[label]))
}

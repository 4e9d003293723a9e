//! Neurons. Their step functions are graphs, which the other rules rewrite; what nobody uses of them is removed after all rules.

use std::collections::HashMap;

use egg::Id;
use snn_ir::{Graph, Op, Tensor};

use super::each;
use crate::rule::{Context, Rule};

pub(super) const RULES: [Rule; 1] = [each(
    "settings-into-step",
    &["scan"],
    settings_into_step,
    "a setting that is the same number for all elements is a constant of the step function",
)];

fn settings_into_step(c: &mut Context<'_>) -> Option<Id> {
    let (Op::Scan(scan), operands) = c.operation()? else { return None };
    let settings = scan.roles.sequences..scan.roles.first_state();
    let known: Vec<Option<Tensor>> =
        operands.iter().enumerate().map(|(i, v)| if settings.contains(&i) { c.terms[*v].data.fill.clone() } else { None }).collect();
    if known.iter().all(Option::is_none) {
        return None;
    }
    let mut new = (*scan).clone();
    new.body = with_constants(&scan.body, &known);
    new.roles.invariants -= known.iter().flatten().count();
    let rest: Vec<Id> = operands.iter().zip(&known).filter(|(_, k)| k.is_none()).map(|(v, _)| *v).collect();
    Some(c.add(Op::Scan(std::sync::Arc::new(new)), &rest))
}

/// A step function with constants for some of its inputs.
fn with_constants(body: &Graph, known: &[Option<Tensor>]) -> Graph {
    let mut new = Graph::new(body.name.clone());
    let mut map = HashMap::new();
    for (v, known) in body.inputs.iter().zip(known) {
        let value = match known {
            Some(t) => new.add(Op::Constant(t.clone()), &[]),
            None => new.add_input(body.input_name(*v), body.ty(*v).clone()),
        };
        map.insert(*v, value);
    }
    new.append(body, &mut map);
    new.outputs = body.outputs.iter().map(|(n, v)| (n.clone(), map[v])).collect();
    new
}

//! Neurons. Their step functions are graphs, which the other rules rewrite; what nobody uses of them is removed after all rules.

use egg::Id;
use snn_ir::{Graph, Op, Tensor, Value};

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
    let settings = scan.sequences..scan.sequences + scan.invariants;
    let known: Vec<Option<Tensor>> =
        operands.iter().enumerate().map(|(i, v)| if settings.contains(&i) { c.terms[*v].data.fill.clone() } else { None }).collect();
    if known.iter().all(Option::is_none) {
        return None;
    }
    let mut new = (*scan).clone();
    new.body = with_constants(&scan.body, &known);
    new.invariants -= known.iter().flatten().count();
    let rest: Vec<Id> = operands.iter().zip(&known).filter(|(_, k)| k.is_none()).map(|(v, _)| *v).collect();
    Some(c.add(Op::Scan(Box::new(new)), &rest))
}

/// A step function with constants for some of its inputs.
fn with_constants(body: &Graph, known: &[Option<Tensor>]) -> Graph {
    let mut new = Graph::new(body.name.clone());
    let mut values: Vec<Value> = Vec::with_capacity(body.len());
    for (id, node) in body.nodes() {
        let input = body.inputs.iter().position(|v| v.node == id);
        let value = match input {
            Some(i) => match &known[i] {
                Some(t) => new.add(Op::Constant(t.clone()), &[], None),
                None => new.add_input(body.input_name(body.inputs[i]), node.types[0].clone()),
            },
            None => {
                let mut node = node.clone();
                node.operands.iter_mut().for_each(|v| *v = values[v.node.index()]);
                Value { node: new.push(node), result: 0 }
            }
        };
        values.push(value);
    }
    // Inputs keep their order, whatever the order of their nodes.
    new.inputs = body.inputs.iter().zip(known).filter(|(_, k)| k.is_none()).map(|(v, _)| values[v.node.index()]).collect();
    new.outputs = body.outputs.iter().map(|(n, v)| (n.clone(), values[v.node.index()])).collect();
    new
}

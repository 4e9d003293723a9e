//! Where the first number that is none comes from.

use std::collections::HashMap;

use snn_ir::interpret::{Randomness, evaluate};
use snn_ir::{Graph, Op, Tensor};

/// The first value of a graph that has a NaN or an infinity, by the name of its node, in the order of computation.
pub fn first_non_finite(graph: &Graph, tensors: &HashMap<String, Tensor>, seed: u64) -> Option<String> {
    let live = graph.live_nodes();
    let mut values: Vec<Vec<Tensor>> = Vec::with_capacity(graph.len());
    let mut last_name = None;
    for (id, node) in graph.nodes() {
        if !live[id.index()] {
            values.push(vec![]);
            continue;
        }
        let results = match &node.op {
            Op::Input(name) | Op::Parameter(name) => {
                let t = tensors.get(name)?.clone();
                if !finite(&t) {
                    return Some(format!("`{name}`, which is given"));
                }
                if matches!(node.op, Op::Parameter(_)) {
                    last_name = name.rsplit_once('.').map(|(layer, _)| layer.to_string()).or_else(|| Some(name.clone()));
                }
                vec![t]
            }
            op => {
                let operands: Vec<&Tensor> = node.operands.iter().map(|v| &values[v.node.index()][v.result as usize]).collect();
                evaluate(op, &operands, &node.types, &mut Randomness::Counter { seed }).ok()?
            }
        };
        if !results.iter().all(finite) {
            let what = node.name.clone().unwrap_or_else(|| snn_ir::text::op_name(&node.op));
            return Some(match last_name {
                Some(layer) if node.name.is_none() => format!("`{what}`, at or after the layer `{layer}`"),
                _ => format!("`{what}`"),
            });
        }
        values.push(results);
    }
    None
}

fn finite(t: &Tensor) -> bool {
    t.dtype() != snn_ir::DType::F32 || t.as_f32().iter().all(|x| x.is_finite())
}

//! Where the first number that is none comes from.

use std::collections::HashMap;

use snn_ir::interpret::{Randomness, interpret_watched};
use snn_ir::{Graph, Node, Op, Tensor};

/// The first value of a graph that has a NaN or an infinity, by the name of its node, in the order of computation.
pub fn first_non_finite(graph: &Graph, tensors: &HashMap<String, Tensor>, seed: u64) -> Option<String> {
    let mut layer: Option<String> = None;
    let mut found: Option<String> = None;
    let watch = |node: &Node, results: &[Tensor]| {
        if found.is_some() {
            return;
        }
        let all_finite = results.iter().all(finite);
        match &node.op {
            Op::Input { name, .. } | Op::Parameter { name, .. } if !all_finite => found = Some(format!("`{name}`, which is given")),
            Op::Parameter { name, .. } => layer = Some(name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer).to_string()),
            _ if !all_finite => {
                let what = node.name.clone().unwrap_or_else(|| snn_ir::text::op_name(&node.op));
                found = Some(match &layer {
                    Some(layer) if node.name.is_none() => format!("`{what}`, at or after the layer `{layer}`"),
                    _ => format!("`{what}`"),
                });
            }
            _ => {}
        }
    };
    // A program that fails on the way has told what it has found until then.
    let _ = interpret_watched(graph, tensors, &mut Randomness::Counter { seed }, watch);
    found
}

fn finite(t: &Tensor) -> bool {
    t.dtype() != snn_ir::DType::F32 || t.as_f32().iter().all(|x| x.is_finite())
}

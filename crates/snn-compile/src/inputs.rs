//! Graphs that get more inputs: gradients of outputs, and numbers that are drawn outside.

use std::collections::{BTreeMap, BTreeSet};

use snn_ir::{Build, DType, Graph, Op, Value};

/// What the names of inputs begin with that are gradients of outputs.
pub const COTANGENT: &str = "cotangent.";

/// The input that stands for a random operation.
pub fn drawn_name(stream: u32) -> String {
    format!("random.{stream}")
}

/// What the names of a net's own outputs begin with, beside their gradients.
pub const OUTPUT: &str = "output.";

/// The scalar `sum(output * cotangent)` over all outputs of floats, with the cotangents as inputs, and after it the outputs.
pub(crate) fn with_cotangents(mut graph: Graph) -> Graph {
    let mut total = None;
    let (said, own): (Vec<_>, Vec<_>) = graph.outputs.iter().cloned().partition(|(name, _)| snn_front::is_observation(name));
    for (name, v) in own.clone() {
        let ty = graph.ty(v).clone();
        if ty.dtype != DType::F32 {
            continue;
        }
        let cotangent = graph.add_input(format!("{COTANGENT}{name}"), ty.clone());
        let mut build = Build(&mut graph);
        let product = build.mul(v, cotangent);
        let sum = build.sum(product, (0..ty.rank()).collect());
        total = Some(total.map_or(sum, |t| build.add(t, sum)));
    }
    let total = total.unwrap_or_else(|| graph.add_f32(0.0));
    graph.outputs = vec![("loss".into(), total)];
    graph.outputs.extend(own.into_iter().map(|(name, v)| (format!("{OUTPUT}{name}"), v)));
    graph.outputs.extend(said);
    graph
}

/// What the names of inputs begin with that are rounded parameters.
pub const QUANTISED: &str = "quantised.";

/// A graph that reads some parameters as inputs; they are parameters all the same.
pub(crate) fn with_quantised_inputs(graph: &Graph, names: &BTreeSet<String>) -> Graph {
    let mut inputs: BTreeMap<String, Value> = BTreeMap::new();
    let mut graph = graph.rebuild(|new, _, mut node| {
        if let Op::Parameter { name, .. } = &node.op
            && names.contains(name)
        {
            if let Some(known) = inputs.get(name) {
                return vec![*known];
            }
            let name = name.clone();
            node.op = Op::Input { name: format!("{QUANTISED}{name}"), ty: node.types[0].clone() };
            let value = Value { node: new.push(node), result: 0 };
            inputs.insert(name, value);
            return vec![value];
        }
        let id = new.push(node);
        new.results(id).collect()
    });
    graph.inputs.extend(inputs.into_values());
    graph
}

/// A graph whose random operations of some streams are inputs.
pub(crate) fn with_random_inputs(graph: &Graph, streams: &BTreeMap<u32, usize>) -> Graph {
    let mut inputs = Vec::new();
    let mut graph = graph.rebuild(|new, _, mut node| {
        if let Op::Random { stream, .. } = node.op
            && streams.contains_key(&stream)
        {
            node.op = Op::Input { name: drawn_name(stream), ty: node.types[0].clone() };
            let value = Value { node: new.push(node), result: 0 };
            inputs.push(value);
            return vec![value];
        }
        let id = new.push(node);
        new.results(id).collect()
    });
    graph.inputs.extend(inputs);
    graph
}

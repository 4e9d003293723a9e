//! The verifier: the rules of the IR, checked.

use std::collections::HashSet;

use crate::graph::{Graph, Value};
use crate::infer::infer;
use crate::op::Op;

/// A rule that a graph breaks: a defect of the compiler, never of its user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("graph `{graph}`, node {node}: {message}")]
pub struct VerifyError {
    /// The graph.
    pub graph: String,
    /// The place of the node in its arena.
    pub node: usize,
    /// What is wrong.
    pub message: String,
}

/// Checks that operands come before users and fit, that types are those that the operations give, that the bodies of scans
/// and surrogates are scalar, and that names are unique.
///
/// # Errors
/// The first rule that is broken.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    let fail = |node: usize, message: String| Err(VerifyError { graph: graph.name.clone(), node, message });
    let exists = |v: &Value, before: usize| v.node.index() < before && (v.result as usize) < graph.node(v.node).types.len();
    for (id, node) in graph.nodes() {
        let i = id.index();
        if let Some(v) = node.operands.iter().find(|v| !exists(v, i)) {
            return fail(i, format!("the operand {v:?} does not come before it"));
        }
        let operands: Vec<_> = node.operands.iter().map(|v| graph.ty(*v)).collect();
        match infer(&node.op, &operands, node.types.first()) {
            Ok(types) if types == node.types => {}
            Ok(types) => return fail(i, format!("its types are {:?}, and it gives {:?}", texts(&node.types), texts(&types))),
            Err(e) => return fail(i, e.message),
        }
        if let Op::Parameter(name) = &node.op {
            match graph.parameter(name) {
                Some(p) if p.ty == node.types[0] => {}
                Some(p) => return fail(i, format!("the parameter `{name}` is {}, not {}", p.ty, node.types[0])),
                None => return fail(i, format!("there is no parameter `{name}`")),
            }
        }
        for body in node.op.bodies() {
            verify(body)?;
            if !matches!(node.op, Op::Loop(_))
                && let Some((j, n)) = body.nodes().find(|(_, n)| n.types.iter().any(|t| t.rank() > 0))
            {
                return fail(i, format!("node {} of its body is {}, not a scalar", j.index(), n.types[0]));
            }
        }
    }
    let n = graph.len();
    if let Some(v) = graph.inputs.iter().find(|v| !exists(v, n) || !matches!(graph.op(**v), Op::Input(_))) {
        return fail(v.node.index(), "it is listed as an input and is none".into());
    }
    if let Some(v) = graph.roots().find(|v| !exists(v, n)) {
        return fail(v.node.index(), "an output does not exist".into());
    }
    for names in [
        graph.outputs.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        graph.inputs.iter().map(|v| graph.input_name(*v)).collect(),
        graph.parameters.iter().map(|p| p.name.as_str()).collect(),
    ] {
        let mut seen = HashSet::new();
        if let Some(name) = names.into_iter().find(|n| !seen.insert(*n)) {
            return fail(n, format!("the name `{name}` is taken twice"));
        }
    }
    for parameter in &graph.parameters {
        verify(&parameter.initial)?;
    }
    Ok(())
}

fn texts(types: &[crate::Type]) -> Vec<String> {
    types.iter().map(ToString::to_string).collect()
}

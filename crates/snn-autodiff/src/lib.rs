//! Reverse-mode differentiation, IR to IR.
//!
//! # What it does
//!
//! [`differentiate`] takes a graph with a scalar output and gives a graph with that output and, for each asked input or
//! parameter, its gradient. Nothing is executed and nobody writes a backward step: each operation has one rule.
//!
//! * The derivative of a spike is its surrogate, a scalar graph that is put in where the spike is ([`elementwise`]).
//! * The backward of a scan is a scan against time ([`recurrence`]): its step function computes the forward step again from the
//!   state before the step, which the forward scan gives as one more sequence, and then the derivative of that step. Nothing
//!   else is stored. A loop is treated in the same way, but that it keeps the results of its products too; and products with weights that
//!   do not change over time are taken out of it: their gradients are one product over all steps.
//! * `detach`, comparisons, roundings, labels and `first_spike` have no gradient.
//! * Where several elements are the largest, the first one gets the gradient of a `max` over axes, as in PyTorch's pools and
//!   `max(dim)`, and padding never does; `maximum(a, b)` gives half to each.
//!
//! What nobody needs (gradients of other inputs, unused sequences) is removed by [`Graph::pruned`] at the end.

// A new operation must be looked at wherever operations are matched.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod elementwise;
pub mod movement;
pub mod products;
pub mod recurrence;
mod reverse;

use snn_ir::{Build, DType, Graph, Op, Type, Value};

use crate::recurrence::Kept;
use crate::reverse::Reverse;

/// Why a graph has no gradient.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum GradientError {
    #[error("the net has no output to differentiate")]
    NoOutput,
    #[error("a loss is one number, and `{name}` is {found}: use `sum`, `mean` or a loss function")]
    NotScalar { name: String, found: String },
    #[error("there is no input or parameter `{name}` to differentiate with respect to; there are: {known}")]
    Unknown { name: String, known: String },
    #[error("`{name}` is {found}: only floats have gradients")]
    NotFloat { name: String, found: String },
    #[error("{what} is not differentiable, and the loss depends on it; use `detach` on what passes through it")]
    NotDifferentiable { what: &'static str },
}

/// A graph with gradients.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The outputs of the original, the loss first and called `loss`, then `grad.<name>` for each name.
    pub graph: Graph,
    /// Names that the loss does not depend on: their gradients are zero.
    pub independent: Vec<String>,
}

/// The output that is differentiated: the one called `loss`, else the first.
///
/// # Errors
/// If there is none, or it is not a float scalar.
pub fn loss_output(graph: &Graph) -> Result<(String, Value), GradientError> {
    let named = graph.outputs.iter().find(|(n, _)| n == "loss").or(graph.outputs.first());
    let (name, value) = named.ok_or(GradientError::NoOutput)?;
    let ty = graph.ty(*value);
    if *ty != Type::scalar(DType::F32) {
        return Err(GradientError::NotScalar { name: name.clone(), found: ty.to_string() });
    }
    Ok((name.clone(), *value))
}

/// The gradients of a scalar with respect to inputs and parameters, by name.
///
/// # Errors
/// See [`GradientError`].
pub fn differentiate(graph: &Graph, wrt: &[String]) -> Result<Gradients, GradientError> {
    loss_output(graph)?;
    let mut kept = Kept::of(&graph.pruned());
    let (loss_name, loss) = loss_output(&kept.graph)?;
    let mut sources = Vec::new();
    for name in wrt {
        sources.push(source(&mut kept.graph, name)?);
    }
    let mut reverse = Reverse::new(kept, &sources);
    let one = Build(&mut reverse.graph).full(1.0, &Type::scalar(DType::F32));
    reverse.add(loss, one);
    reverse.run();
    if let Some(what) = reverse.refused {
        return Err(GradientError::NotDifferentiable { what });
    }
    let mut independent = Vec::new();
    let mut gradients = Vec::new();
    for (name, v) in wrt.iter().zip(&sources) {
        let gradient = match reverse.adjoint(*v) {
            Some(g) => g,
            None => {
                independent.push(name.clone());
                let ty = reverse.graph.ty(*v).clone();
                Build(&mut reverse.graph).full(0.0, &ty)
            }
        };
        gradients.push((format!("grad.{name}"), gradient));
    }
    let mut graph = reverse.graph;
    let others = graph.outputs.iter().filter(|(n, _)| *n != loss_name).cloned();
    graph.outputs = std::iter::once(("loss".to_string(), loss)).chain(others).chain(gradients).collect();
    let graph = graph.pruned();
    debug_assert!(snn_ir::verify(&graph).is_ok(), "{:?}\n{graph}", snn_ir::verify(&graph));
    Ok(Gradients { graph, independent })
}

/// The value of an input or parameter. A parameter that the graph does not read gets a node.
fn source(graph: &mut Graph, name: &str) -> Result<Value, GradientError> {
    let is = |op: &Op| matches!(op, Op::Input { name: n, .. } | Op::Parameter { name: n, .. } if n == name);
    let found = graph.nodes().find(|(_, n)| is(&n.op)).map(|(id, _)| Value { node: id, result: 0 });
    let value = match (found, graph.parameter(name).map(|p| p.ty.clone())) {
        (Some(v), _) => v,
        (None, Some(ty)) => graph.add(Op::Parameter { name: name.into(), ty }, &[]),
        (None, None) => {
            let inputs = graph.inputs.iter().map(|v| graph.input_name(*v));
            let known: Vec<&str> = inputs.chain(graph.parameters.iter().map(|p| p.name.as_str())).collect();
            return Err(GradientError::Unknown { name: name.into(), known: known.join(", ") });
        }
    };
    let ty = graph.ty(value);
    if ty.dtype == DType::F32 { Ok(value) } else { Err(GradientError::NotFloat { name: name.into(), found: ty.to_string() }) }
}

//! The verifier: the rules of the IR, checked. It is total: whatever [`crate::text::parse`] reads, it accepts or names every
//! node that breaks a rule, and it never panics.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::dim::take_overflow;
use crate::graph::{Graph, Node, SourceSpan, Value};
use crate::infer::infer;
use crate::op::Op;
use crate::types::{DType, Type};

/// A rule that a graph breaks. Where the graph comes from a pass, it is a defect of the compiler, never of its user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", self.place())]
pub struct VerifyError {
    /// The graphs from the outermost to the one at hand, by name.
    pub graphs: Vec<String>,
    /// The first result of the node, as the text form numbers it, and its operation; `None` for the graph as a whole.
    pub node: Option<(usize, &'static str)>,
    /// Where the node was written.
    pub span: Option<SourceSpan>,
    /// What is wrong.
    pub message: String,
}

impl VerifyError {
    fn place(&self) -> String {
        let graph = format!("graph `{}`", self.graphs.join("`, in it `"));
        match self.node {
            Some((label, op)) => format!("{graph}, `%{label} = {op}`"),
            None => graph,
        }
    }
}

/// All rules that a graph breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyErrors(pub Vec<VerifyError>);

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            write!(f, "{}{e}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for VerifyErrors {}

impl VerifyErrors {
    /// The errors with line and column, for a graph that [`crate::text::parse`] read from this text.
    pub fn located(&self, text: &str) -> String {
        let line = |e: &VerifyError| match e.span {
            Some(span) => {
                let (line, column) = crate::text::place(text, span.start as usize);
                format!("line {line}, column {column}: {e}")
            }
            None => e.to_string(),
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Checks that operands come before users and fit, that types are those that the operations give, that the graphs inside of
/// scans, loops and spikes have the form that these demand, that inputs and parameters are declared, and that names are unique.
///
/// # Errors
/// Every rule that is broken, in order of nodes. What depends on a node that is wrong is not checked.
pub fn verify(graph: &Graph) -> Result<(), VerifyErrors> {
    let mut verifier = Verifier::default();
    verifier.graph(graph);
    if verifier.errors.is_empty() { Ok(()) } else { Err(VerifyErrors(verifier.errors)) }
}

/// A node that is looked at.
#[derive(Clone, Copy)]
struct At {
    label: usize,
    op: &'static str,
    span: Option<SourceSpan>,
}

#[derive(Default)]
struct Verifier {
    graphs: Vec<String>,
    errors: Vec<VerifyError>,
}

fn exists(graph: &Graph, v: Value, before: usize) -> bool {
    v.node.index() < before && (v.result as usize) < graph.node(v.node).types.len()
}

fn texts(types: &[Type]) -> String {
    types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Verifier {
    fn fail(&mut self, at: Option<At>, message: impl Into<String>) {
        let (node, span) = (at.map(|at| (at.label, at.op)), at.and_then(|at| at.span));
        self.errors.push(VerifyError { graphs: self.graphs.clone(), node, span, message: message.into() });
    }

    /// Is everything right in the graph?
    fn graph(&mut self, graph: &Graph) -> bool {
        let before = self.errors.len();
        self.graphs.push(graph.name.clone());
        let mut label = 0;
        for (id, node) in graph.nodes() {
            self.node(graph, id.index(), At { label, op: node.op.name(), span: node.span }, node);
            label += node.types.len();
        }
        self.inputs(graph);
        self.outputs(graph);
        self.parameters(graph);
        self.graphs.pop();
        self.errors.len() == before
    }

    fn node(&mut self, graph: &Graph, index: usize, at: At, node: &Node) {
        if let Some(i) = node.operands.iter().position(|v| !exists(graph, *v, index)) {
            return self.fail(Some(at), format!("its operand {} is not a value that comes before it", i + 1));
        }
        let before = self.errors.len();
        for body in node.op.bodies() {
            self.graph(body);
            if !body.parameters.is_empty() || !body.updates.is_empty() {
                self.fail(Some(at), "the graph inside of it has parameters or updates");
            }
        }
        if self.errors.len() > before {
            // Its types follow from a graph that is wrong.
            return;
        }
        let operands: Vec<&Type> = node.operands.iter().map(|v| graph.ty(*v)).collect();
        take_overflow();
        let inferred = infer(&node.op, &operands);
        if take_overflow() {
            return self.fail(Some(at), "a size is too large");
        }
        match inferred {
            Ok(types) if types == node.types => {}
            Ok(types) => return self.fail(Some(at), format!("it gives {}, not {}", texts(&types), texts(&node.types))),
            Err(e) => return self.fail(Some(at), e.message),
        }
        if let Op::Parameter { name, .. } = &node.op {
            match graph.parameter(name) {
                Some(p) if p.ty == node.types[0] => {}
                Some(p) => self.fail(Some(at), format!("the parameter `{name}` is {}, not {}", p.ty, node.types[0])),
                None => self.fail(Some(at), format!("there is no parameter `{name}`")),
            }
        } else if let Op::Spike { surrogate, .. } = &node.op {
            let scalar = Type::scalar(DType::F32);
            let fits = surrogate.inputs.len() == 1 && surrogate.outputs.len() == 1;
            if !fits || *surrogate.ty(surrogate.inputs[0]) != scalar || *surrogate.ty(surrogate.outputs[0].1) != scalar {
                self.fail(Some(at), "its derivative is a graph from one f32[] to one f32[]");
            }
            self.scalars(at, surrogate);
        } else if let Op::Scan(s) = &node.op {
            self.scalars(at, &s.body);
        }
    }

    /// The body of a scan and a derivative compute with scalars.
    fn scalars(&mut self, at: At, body: &Graph) {
        if let Some((_, n)) = body.nodes().find(|(_, n)| n.types.iter().any(|t| t.rank() > 0)) {
            self.fail(Some(at), format!("the graph inside of it computes {}, not a scalar, with `{}`", texts(&n.types), n.op.name()));
        }
    }

    fn inputs(&mut self, graph: &Graph) {
        let is_input = |v: &Value| exists(graph, *v, graph.len()) && matches!(graph.op(*v), Op::Input { .. });
        if let Some(i) = graph.inputs.iter().position(|v| !is_input(v)) {
            return self.fail(None, format!("input {} is not the result of an `input`", i + 1));
        }
        let listed: HashSet<Value> = graph.inputs.iter().copied().collect();
        if listed.len() < graph.inputs.len() {
            self.fail(None, "an input is listed twice");
        }
        if graph.nodes().filter(|(_, n)| matches!(n.op, Op::Input { .. })).count() > listed.len() {
            self.fail(None, "an `input` is not listed among the inputs");
        }
        self.unique("input", graph.inputs.iter().map(|v| graph.input_name(*v)));
    }

    fn outputs(&mut self, graph: &Graph) {
        for (name, v) in graph.outputs.iter().chain(&graph.updates) {
            if !exists(graph, *v, graph.len()) {
                self.fail(None, format!("the output `{name}` does not exist"));
            }
        }
        self.unique("output", graph.outputs.iter().map(|(n, _)| n.as_str()));
        self.unique("update", graph.updates.iter().map(|(n, _)| n.as_str()));
    }

    fn parameters(&mut self, graph: &Graph) {
        self.unique("parameter", graph.parameters.iter().map(|p| p.name.as_str()));
        for p in &graph.parameters {
            if !self.graph(&p.initial) {
                continue;
            }
            match p.initial.outputs.as_slice() {
                [(_, v)] if *p.initial.ty(*v) == p.ty && p.initial.inputs.is_empty() => {}
                _ => self.fail(None, format!("the first value of `{}` is a graph without inputs that gives one {}", p.name, p.ty)),
            }
        }
    }

    fn unique<'a>(&mut self, what: &str, names: impl Iterator<Item = &'a str>) {
        let mut count: HashMap<&str, usize> = HashMap::new();
        for name in names {
            let seen = count.entry(name).or_default();
            *seen += 1;
            if *seen == 2 {
                self.fail(None, format!("the {what} `{name}` stands twice"));
            }
        }
    }
}

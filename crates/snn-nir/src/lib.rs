//! The Neuromorphic Intermediate Representation (Pedersen et al., Nature Communications 2024): graphs of nodes in continuous time, in HDF5 files.
//!
//! A graph is nodes by name and edges between them. What a node computes is an equation in continuous time: the step, the integrator, the order of
//! updates and the reset are not in the file, so [`import`] is told them and writes them into the program.

mod cycles;
mod discretisation;
mod equation;
mod export;
mod import;
mod read;
mod shape;
mod write;

use std::path::PathBuf;

pub use discretisation::{Compare, Discretisation, Emit, Integrator, Options, Order, Preset, Reset};
pub use export::{ExportOptions, Exported, export};
pub use import::{Imported, import};
pub use read::{read, read_bytes};
pub use shape::shapes;
pub use write::write;

/// The version of the Python package whose files are written.
pub const VERSION: &str = "1.0.8";

/// What a field holds. Numbers are f64, in which every f32 is exact.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Numbers and their shape; were they integers, or how many bytes had they?
    Numbers {
        /// Sizes of the axes, none for a scalar.
        shape: Vec<usize>,
        /// Elements in row-major order.
        data: Vec<f64>,
        /// What they were in the file.
        element: Element,
    },
    /// A text, such as a padding of `same`.
    Text(String),
}

/// Element types of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// 64-bit floats.
    F64,
    /// Integers.
    I64,
}

/// A node: its kind and its fields, and the graph inside where it is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Its fields by name, those of [`Kind::fields`].
    pub fields: Vec<(String, Value)>,
    /// The graph of a [`Kind::NirGraph`].
    pub graph: Option<Graph>,
}

/// Nodes by name and edges between their names. Edges that meet in a node add.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Nodes in the order of the file.
    pub nodes: Vec<(String, Node)>,
    /// Edges from a node to a node; one that is there twice counts twice.
    pub edges: Vec<(String, String)>,
}

/// A file.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The version of the Python package that wrote it.
    pub version: String,
    /// Its graph.
    pub graph: Graph,
    /// What is odd in it.
    pub warnings: Vec<String>,
}

/// Kinds of nodes, with their equations: `x` is the input, `y` the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub enum Kind {
    /// Where data enter. Field: `shape`.
    Input,
    /// Where data leave. Field: `shape`.
    Output,
    /// `y = W x + b`.
    Affine,
    /// `y = W x`.
    Linear,
    /// `y = x scale`.
    Scale,
    /// Convolution of `[C, L]` as PyTorch's.
    Conv1d,
    /// Convolution of `[C, H, W]` as PyTorch's.
    Conv2d,
    /// Sums of windows.
    SumPool2d,
    /// Means of windows.
    AvgPool2d,
    /// Axes from `start_dim` to `end_dim` become one.
    Flatten,
    /// `y(t) = x(t - delay)`, in seconds.
    Delay,
    /// `y = x > threshold`.
    Threshold,
    /// `v' = r x`, `y = v`.
    I,
    /// `v' = r x`; fires where `v > v_threshold`.
    If,
    /// `tau v' = v_leak - v + r x`, `y = v`.
    Li,
    /// `tau v' = v_leak - v + r x`; fires where `v > v_threshold`.
    Lif,
    /// `tau_syn i' = w_in x - i`, `tau_mem v' = v_leak - v + r i`, `y = v`.
    CubaLi,
    /// As [`Kind::CubaLi`]; fires where `v > v_threshold`.
    CubaLif,
    /// `y = x`.
    Identity,
    /// A graph inside.
    NirGraph,
}

use Kind::*;

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 20] = [
        Input, Output, Affine, Linear, Scale, Conv1d, Conv2d, SumPool2d, AvgPool2d, Flatten, Delay, Threshold, I, If, Li, Lif, CubaLi,
        CubaLif, Identity, NirGraph,
    ];

    /// Its name in files, and its fields: those that must be there, and others.
    fn about(self) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
        match self {
            Input => ("Input", &["shape"], &[]),
            Output => ("Output", &["shape"], &[]),
            Affine => ("Affine", &["weight", "bias"], &[]),
            Linear => ("Linear", &["weight"], &[]),
            Scale => ("Scale", &["scale"], &[]),
            Conv1d | Conv2d => (
                if self == Conv1d { "Conv1d" } else { "Conv2d" },
                &["weight", "stride", "padding", "dilation", "groups"],
                &["bias", "input_shape"],
            ),
            SumPool2d => ("SumPool2d", &["kernel_size", "stride", "padding"], &[]),
            AvgPool2d => ("AvgPool2d", &["kernel_size", "stride", "padding"], &[]),
            Flatten => ("Flatten", &["start_dim", "end_dim"], &["input_type"]),
            Delay => ("Delay", &["delay"], &[]),
            Threshold => ("Threshold", &["threshold"], &[]),
            I => ("I", &["r"], &[]),
            If => ("IF", &["r", "v_threshold"], &["v_reset"]),
            Li => ("LI", &["tau", "r", "v_leak"], &[]),
            Lif => ("LIF", &["tau", "r", "v_leak", "v_threshold"], &["v_reset"]),
            CubaLi => ("CubaLI", &["tau_syn", "tau_mem", "r", "v_leak"], &["w_in"]),
            CubaLif => ("CubaLIF", &["tau_syn", "tau_mem", "r", "v_leak", "v_threshold"], &["v_reset", "w_in"]),
            Identity => ("Identity", &[], &["input_type"]),
            NirGraph => ("NIRGraph", &[], &[]),
        }
    }

    /// Its name in files.
    pub fn name(self) -> &'static str {
        self.about().0
    }

    /// Fields that it must have, and fields that it may have.
    pub fn fields(self) -> (&'static [&'static str], &'static [&'static str]) {
        (self.about().1, self.about().2)
    }

    /// Has it a state that goes from step to step?
    pub fn is_neuron(self) -> bool {
        match self {
            I | If | Li | Lif | CubaLi | CubaLif => true,
            Input | Output | Affine | Linear | Scale | Conv1d | Conv2d | SumPool2d | AvgPool2d | Flatten | Delay | Threshold | Identity
            | NirGraph => false,
        }
    }

    /// Does it fire?
    pub fn is_spiking(self) -> bool {
        matches!(self, If | Lif | CubaLif)
    }
}

impl Node {
    /// Numbers of a field and their shape.
    pub fn numbers(&self, field: &str) -> Option<(&[usize], &[f64])> {
        self.fields.iter().find(|(n, _)| n == field).and_then(|(_, v)| match v {
            Value::Numbers { shape, data, .. } => Some((&shape[..], &data[..])),
            Value::Text(_) => None,
        })
    }

    /// Numbers of a field as whole ones.
    pub fn whole(&self, field: &str) -> Option<Vec<i64>> {
        self.numbers(field).map(|(_, d)| d.iter().map(|x| *x as i64).collect())
    }

    /// The text of a field.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == field).and_then(|(_, v)| match v {
            Value::Text(t) => Some(&t[..]),
            Value::Numbers { .. } => None,
        })
    }
}

/// What is wrong with a file or a graph.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NirError {
    #[error("cannot read `{path}`: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write `{path}`: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("this is not a NIR file: {0}")]
    Format(String),
    #[error("the node `{node}`{}: {reason}", kind.map(|k| format!(" ({})", k.name())).unwrap_or_default())]
    Node { node: String, kind: Option<Kind>, reason: String },
    #[error("{}", .0.message)]
    Program(Box<snn_syntax::Diagnostic>),
    #[error("{0}")]
    Graph(String),
    #[error("{0}")]
    Open(String),
}

impl NirError {
    fn node(name: &str, node: &Node, reason: impl Into<String>) -> NirError {
        NirError::Node { node: name.into(), kind: Some(node.kind), reason: reason.into() }
    }
}

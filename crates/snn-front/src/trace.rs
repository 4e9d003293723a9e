//! How a graph came to be, for those who say a program in other words.

use std::collections::HashMap;

use snn_ir::recurrence::Recursion;
use snn_ir::{Graph, Value};

use crate::call::{Bound, Given};
use crate::context::Lowerer;
use crate::value::{ItemRef, Val};

/// The graph of a net as it was written, with what the library was asked for.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The graph before recursive values become loops: each is an input.
    pub graph: Graph,
    /// The recursive values.
    pub recursions: Vec<Recursion>,
    /// Calls of functions, neurons and nets of the library that give one tensor, inner ones before outer ones.
    pub calls: Vec<LibraryCall>,
    /// What `let` calls values in nets of the user.
    pub names: HashMap<Value, String>,
}

/// A call of an item of the library.
#[derive(Clone, Debug)]
pub struct LibraryCall {
    /// The item.
    pub item: String,
    /// Its settings, with defaults.
    pub settings: Vec<(String, Recorded)>,
    /// Its inputs that are tensors.
    pub inputs: Vec<Value>,
    /// How many nodes the graph had before it: those after, up to its result, are its own.
    pub first: usize,
    /// What it gave.
    pub output: Value,
}

/// What a setting was.
#[derive(Clone, Debug, PartialEq)]
pub enum Recorded {
    /// A number, or a boolean as 1 or 0.
    Number(f64),
    /// A text.
    Text(String),
    /// Numbers.
    List(Vec<f64>),
    /// A tensor of the graph.
    Value(Value),
    /// Something else, such as a surrogate or `none`.
    Other,
}

impl Trace {
    /// The outermost call of the library that a value belongs to.
    pub fn call_of(&self, value: Value) -> Option<&LibraryCall> {
        let at = value.node.index();
        self.calls.iter().filter(|c| c.first <= at && at <= c.output.node.index()).max_by_key(|c| c.output.node.index() - c.first)
    }
}

impl LibraryCall {
    /// A setting.
    pub fn setting(&self, name: &str) -> &Recorded {
        self.settings.iter().find(|(n, _)| n == name).map_or(&Recorded::Other, |(_, v)| v)
    }
}

impl Lowerer<'_> {
    /// What will be recorded of a call, if anything: without its result.
    pub fn recording(&self, item: ItemRef, settings: &[Bound], inputs: Vec<Value>) -> Option<LibraryCall> {
        if self.trace.is_none() || item.file != 1 || self.contexts.len() != 1 || self.dry > 0 {
            return None;
        }
        let number = |v: &Val| v.number();
        let recorded = |v: &Val| match v {
            Val::Tensor { value, .. } => Recorded::Value(*value),
            Val::Text(t) => Recorded::Text(t.clone()),
            Val::List(items) => items.iter().map(number).collect::<Option<Vec<f64>>>().map_or(Recorded::Other, Recorded::List),
            other => number(other).map_or(Recorded::Other, Recorded::Number),
        };
        let settings = settings.iter().map(|s| (s.name.clone(), recorded(&s.value))).collect();
        let (first, output) = (self.contexts[0].graph.len(), Value { node: snn_ir::NodeId(0), result: 0 });
        Some(LibraryCall { item: self.item(item).name.text.clone(), settings, inputs, first, output })
    }

    /// As [`Self::recording`], of a function, whose inputs may be numbers: those are recorded as settings.
    pub fn recording_function(&self, item: ItemRef, inputs: &[Given], settings: &[Bound]) -> Option<LibraryCall> {
        self.trace.as_ref()?;
        let mut all = settings.to_vec();
        let mut tensors = Vec::new();
        for (declared, g) in self.item(item).inputs.iter().zip(inputs) {
            match g.value {
                Val::Tensor { value, .. } => tensors.push(value),
                _ => all.push(Bound { name: declared.name.text.clone(), value: g.value.clone(), span: g.span }),
            }
        }
        self.recording(item, &all, tensors)
    }

    /// Records a call with its result.
    pub fn record(&mut self, call: Option<LibraryCall>, result: &Val) {
        if let (Some(call), Some(trace), Val::Tensor { value, .. }) = (call, &mut self.trace, result) {
            trace.calls.push(LibraryCall { output: *value, ..call });
        }
    }

    /// Records what `let` calls a value.
    pub fn record_name(&mut self, name: &str, value: &Val) {
        let own = self.frames.last().is_some_and(|f| f.file != 1);
        if let (true, Some(trace), Val::Tensor { value, .. }) = (own && self.contexts.len() == 1, &mut self.trace, value) {
            trace.names.entry(*value).or_insert_with(|| name.to_string());
        }
    }
}

//! The state of lowering: graphs that are being built, scopes, layers, diagnostics.

use std::collections::{BTreeMap, HashMap};

use snn_ir::infer::TypeError;
use snn_ir::recurrence::Recursion;
use snn_ir::{DType, Dim, Graph, NodeId, Op, ParameterInfo, SourceSpan, Tensor, Type, Value};
use snn_syntax::ast::{Ast, Item};
use snn_syntax::{Diagnostic, Severity, Span};

use crate::call::{Bound, Given};
use crate::observe::Observation;
use crate::value::{ItemRef, Val};
use crate::{Module, Options, standard_library};

/// An error stops the evaluation of a statement: with something to say, or after it was said.
#[derive(Debug)]
pub(crate) enum Stop {
    Say(Box<Diagnostic>),
    Said,
    /// A size that is symbolic must be known: the value is unknown.
    Undecided,
}

pub(crate) type Result<T> = std::result::Result<T, Stop>;

/// What a graph that is being built is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A net.
    Net,
    /// The step of a neuron or a surrogate: scalars only. Values of the enclosing graph become inputs.
    Step,
    /// The initial value of a parameter: nothing from outside.
    Initial,
}

/// A graph that is being built.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub id: u32,
    pub graph: Graph,
    pub purpose: Purpose,
    /// Values of the enclosing graph that a step uses, with its inputs for them.
    pub captured: Vec<(Value, Value)>,
    /// In the step of a neuron: what its sequences are, and the random sequences outside with the step's inputs for them.
    pub sequence: Option<Type>,
    pub noise: Vec<(Value, Value)>,
    pub recursions: Vec<Recursion>,
    /// Parameter nodes, by name.
    pub parameters: HashMap<String, Value>,
}

/// One item that is being evaluated.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub file: u16,
    pub item_name: String,
    pub scopes: Vec<HashMap<String, Val>>,
    /// What `...` stands for.
    pub rest: Option<Vec<Dim>>,
    /// What the parameters of this net begin with.
    pub prefix: String,
    /// Where it was called.
    pub call: Option<Span>,
    /// Next values of the states of a neuron, or of buffers.
    pub assigned: BTreeMap<String, Val>,
    /// The states of a neuron, with their initial values outside and inputs inside.
    pub states: Vec<(String, Value, Value)>,
    /// Initial values of states that the caller gives.
    pub inits: HashMap<String, Given>,
    pub emitted: Vec<Val>,
    pub buffers: Vec<String>,
    /// Are inputs unknown, and only parameters wanted?
    pub declaring: bool,
    /// Does a statement ask for Kaiming's initialisation, of which parameters?
    pub kaiming: Vec<(String, Span)>,
}

/// An instance of a net or neuron.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub name: String,
    pub item: ItemRef,
    pub settings: Vec<Bound>,
    /// What its parameters begin with, with the dot.
    pub prefix: String,
    pub span: Span,
    pub used: bool,
    /// Has one of its parameters or states been read?
    pub read: bool,
    /// Its states after its last application.
    pub states: HashMap<String, Val>,
    /// The place and shape of the label by which `set_threshold_margin` changed it.
    pub margin: Option<(Span, Type)>,
}

/// A declared parameter.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub info: ParameterInfo,
    /// Where it and the layer that it belongs to are declared: what makes two of one name the same.
    pub origin: (Span, Option<Span>),
    /// Is it the weight of a linear or convolution layer of the library?
    pub is_weight: bool,
}

pub(crate) struct Lowerer<'a> {
    pub module: &'a Module,
    pub options: &'a Options,
    pub contexts: Vec<Context>,
    pub frames: Vec<Frame>,
    pub layers: Vec<Layer>,
    pub parameters: Vec<Declared>,
    pub updates: Vec<(String, Value)>,
    /// What `print` and `assert` say of data.
    pub observations: Vec<(Observation, Value)>,
    pub diagnostics: Vec<Diagnostic>,
    /// What each name of the user's file is bound to, for editors.
    pub bindings: Vec<(Span, String)>,
    pub next_context: u32,
    pub streams: u32,
    /// Names of inputs and settings of user items that were looked up.
    pub looked_up: std::collections::HashSet<(String, String)>,
    /// Are diagnostics thrown away (a first look at a recursive value)?
    pub dry: usize,
    /// Names whose `let` is being evaluated.
    pub defining: Vec<String>,
    /// Expressions that were evaluated so far.
    pub evaluated: usize,
    /// What is said when there are too many, by whatever stops because of it.
    pub exhausted: Option<Box<Diagnostic>>,
    /// What library items were called with, where someone asks.
    pub trace: Option<crate::trace::Trace>,
    /// What must be known and is not, while sizes are symbolic: `check` leaves it to a run, whose sizes are known.
    pub undecided: Option<Box<Diagnostic>>,
}

impl<'a> Lowerer<'a> {
    pub fn new(module: &'a Module, options: &'a Options) -> Self {
        Lowerer {
            module,
            options,
            contexts: vec![],
            frames: vec![],
            layers: vec![],
            parameters: vec![],
            updates: vec![],
            observations: vec![],
            diagnostics: vec![],
            next_context: 0,
            streams: 0,
            looked_up: Default::default(),
            dry: 0,
            defining: vec![],
            evaluated: 0,
            exhausted: None,
            undecided: None,
            trace: None,
            bindings: vec![],
        }
    }

    pub fn ast(&self, file: u16) -> &'a Ast {
        match file {
            0 => &self.module.ast,
            1 => standard_library(),
            used => &self.module.files[used as usize - 2].ast,
        }
    }

    pub fn item(&self, item: ItemRef) -> &'a Item {
        &self.ast(item.file).items[item.index]
    }

    pub fn open(&mut self, name: &str, purpose: Purpose) {
        self.contexts.push(Context {
            id: self.next_context,
            graph: Graph::new(name),
            purpose,
            captured: vec![],
            sequence: None,
            noise: vec![],
            recursions: vec![],
            parameters: HashMap::new(),
        });
        self.next_context += 1;
    }

    pub fn close(&mut self) -> Context {
        self.contexts.pop().expect("every open context is closed once")
    }

    pub fn context(&mut self) -> &mut Context {
        self.contexts.last_mut().expect("lowering happens in a context")
    }

    pub fn graph(&mut self) -> &mut Graph {
        &mut self.context().graph
    }

    pub fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("lowering happens in a frame")
    }

    pub fn in_step(&self) -> bool {
        self.contexts.last().is_some_and(|c| c.purpose == Purpose::Step)
    }

    /// Where in the user's file something happened: the place itself, or the call that led to it.
    pub fn user_span(&self, span: Span) -> (Span, Option<Span>) {
        if span.file != 1 {
            return (span, None);
        }
        let call = self.frames.iter().rev().find_map(|f| f.call.filter(|c| c.file != 1));
        match call {
            Some(c) => (c, Some(span)),
            None => (span, None),
        }
    }

    /// A diagnostic at a place; a place in the library is shown as the call that led there.
    pub fn at(&self, diagnostic: Diagnostic, span: Span, label: impl Into<String>) -> Diagnostic {
        let (user, inner) = self.user_span(span);
        let diagnostic = diagnostic.label(user, label);
        match inner {
            Some(inner) => {
                let text = self.module.sources.text(inner).lines().next().unwrap_or("").trim();
                // A message is said already.
                let text = text.strip_prefix("assert ").and_then(|t| t.split_once(", \"")).map_or(text, |(condition, _)| condition);
                let name = self.frames.iter().rev().find(|f| f.file == 1).map_or("the library", |f| f.item_name.as_str());
                diagnostic.note(format!("inside `{name}` of the standard library: `{text}`"))
            }
            None => diagnostic,
        }
    }

    pub fn fail<T>(&self, span: Span, message: impl Into<String>, label: impl Into<String>) -> Result<T> {
        Err(Stop::Say(Box::new(self.at(Diagnostic::error(message), span, label))))
    }

    pub fn fail_help<T>(&self, span: Span, message: impl Into<String>, label: impl Into<String>, help: impl Into<String>) -> Result<T> {
        Err(Stop::Say(Box::new(self.at(Diagnostic::error(message), span, label).help(help))))
    }

    /// A size that is symbolic must be known.
    pub fn undecided<T>(&mut self, span: Span, message: String) -> Result<T> {
        let d = self.at(Diagnostic::error(message), span, "here");
        self.undecided.get_or_insert(Box::new(d));
        Err(Stop::Undecided)
    }

    pub fn warn(&mut self, span: Span, diagnostic: Diagnostic, label: impl Into<String>) {
        let d = self.at(diagnostic, span, label);
        self.report(d);
    }

    pub fn report(&mut self, diagnostic: Diagnostic) {
        if self.dry == 0 || diagnostic.severity == Severity::Error {
            self.diagnostics.push(diagnostic);
        }
    }

    /// A value of the graph that is being built; those of an enclosing graph are captured.
    pub fn import(&mut self, context: u32, value: Value, span: Span) -> Result<Value> {
        let depth = self.contexts.iter().position(|c| c.id == context);
        let here = self.contexts.len() - 1;
        match depth {
            Some(d) if d == here => Ok(value),
            Some(d) if d + 1 == here && self.contexts[here].purpose == Purpose::Step => {
                if let Some((_, inner)) = self.contexts[here].captured.iter().find(|(o, _)| *o == value) {
                    return Ok(*inner);
                }
                let ty = Type::scalar(self.contexts[d].graph.ty(value).dtype);
                let n = self.contexts[here].captured.len();
                let graph = &mut self.contexts[here].graph;
                let inner = graph.input(format!("setting{n}"), ty);
                self.contexts[here].captured.push((value, inner));
                Ok(inner)
            }
            _ if self.contexts[here].purpose == Purpose::Initial => self.fail_help(
                span,
                "an initial value depends on a tensor",
                "this is not known before the program runs",
                "use settings, numbers, `zeros`, `ones`, `rand` and `randn`",
            ),
            _ => self.fail(span, "a tensor is used where only numbers can be", "this is a tensor of the net around it"),
        }
    }

    /// Appends an operation; an error of types is reported at `span`.
    pub fn emit(&mut self, op: Op, operands: &[Value], span: Span) -> Result<Value> {
        let node = self.emit_node(op, operands, span)?;
        Ok(Value { node, result: 0 })
    }

    pub fn emit_node(&mut self, op: Op, operands: &[Value], span: Span) -> Result<NodeId> {
        let (user, _) = self.user_span(span);
        let in_step = self.in_step();
        match self.graph().try_add(op, operands) {
            Ok(id) if in_step && self.graph().node(id).types.iter().any(|t| t.rank() > 0) => {
                let ty = self.graph().node(id).types[0].to_string();
                self.fail(span, format!("{ty} inside the step of a neuron or surrogate"), "a step sees one element, so this cannot be used")
            }
            Ok(id) => {
                self.graph().node_mut(id).span = Some(SourceSpan { file: user.file, start: user.start as u32, end: user.end as u32 });
                Ok(id)
            }
            Err(TypeError { message, .. }) => self.fail(span, message, "here"),
        }
    }

    pub fn tensor(&mut self, value: Value) -> Val {
        Val::Tensor { context: self.context().id, value }
    }

    pub fn ty(&mut self, value: Value) -> Type {
        self.graph().ty(value).clone()
    }

    pub fn constant(&mut self, tensor: Tensor, span: Span) -> Result<Value> {
        self.emit(Op::Constant(tensor), &[], span)
    }

    pub fn cast(&mut self, value: Value, dtype: DType, span: Span) -> Result<Value> {
        let ty = self.ty(value);
        if ty.dtype == dtype {
            return Ok(value);
        }
        self.emit(Op::Cast { dtype }, &[value], span)
    }

    /// Repeats a value to a shape that it broadcasts against, aligned at the last axis.
    pub fn broadcast(&mut self, value: Value, shape: &[Dim], span: Span) -> Result<Value> {
        let ty = self.ty(value);
        if ty.shape == shape {
            return Ok(value);
        }
        let axes = (shape.len() - ty.rank()..shape.len()).collect();
        self.emit(Op::Broadcast { axes, shape: shape.to_vec() }, &[value], span)
    }

    pub fn lookup(&mut self, name: &str) -> Option<Val> {
        let frame = self.frames.last()?;
        let found = frame.scopes.iter().rev().find_map(|s| s.get(name)).cloned();
        if found.is_some() && frame.file == 0 {
            let key = (frame.item_name.clone(), name.to_string());
            self.looked_up.insert(key);
        }
        found
    }

    pub fn bind(&mut self, name: &str, value: Val) {
        if let Some(scope) = self.frame().scopes.last_mut() {
            scope.insert(name.to_string(), value);
        }
    }

    /// Notes for editors what a name of the user's file is.
    pub fn note(&mut self, span: Span, value: &Val) {
        let known = !value.is_unknown() && !matches!(value, Val::Poison);
        if known && span.file == 0 && self.frames.last().is_some_and(|f| f.file == 0) {
            let text = match value {
                Val::Tensor { context, value } => {
                    let owner = self.contexts.iter().find(|c| c.id == *context);
                    owner.map_or_else(|| "a tensor".to_string(), |c| c.graph.ty(*value).to_string())
                }
                other => other.describe(),
            };
            self.bindings.push((span, text));
        }
    }

    /// Names that can be used here, for "did you mean".
    pub fn known_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        if let Some(frame) = self.frames.last() {
            names.extend(frame.scopes.iter().flat_map(|s| s.keys().cloned()));
        }
        names.extend(self.module.ast.items.iter().map(|i| i.name.text.clone()));
        names.extend(standard_library().items.iter().map(|i| i.name.text.clone()));
        names.extend(crate::builtins::names().map(str::to_string));
        names.sort();
        names
    }
}

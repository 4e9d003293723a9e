//! Nets, statements and expressions.

use std::collections::{BTreeMap, HashMap};

use snn_ir::recurrence;
use snn_ir::{DType, Dim, Graph, Type, Value};
use snn_syntax::ast::{BinaryOperator, Block, Body, Dimension, ExprId, ExprKind, Item, ItemKind, Name, Statement, StatementKind};
use snn_syntax::{Diagnostic, Span, nearest};

use crate::call::{Bound, Given};
use crate::context::{Frame, Lowerer, Purpose, Result, Stop};
use crate::observe::Observation;
use crate::trace::Trace;
use crate::value::{ItemRef, Val};
use crate::{Module, Options};

/// How deep calls may be nested; more is a recursion without end.
const MAX_CALLS: usize = 200;
/// Expressions that a net may evaluate to, all calls inlined. A ResNet of 18 layers has some ten thousand.
const MAX_EVALUATIONS: usize = 1_000_000;
/// The longest list that is made at compile time.
pub(crate) const MAX_LIST: usize = 1 << 20;
/// How many layers a net may have, those inside of layers counted.
pub(crate) const MAX_LAYERS: usize = 1 << 14;

/// The graph of a net, and everything there is to say about it.
pub(crate) fn lower(module: &Module, net: &str, options: &Options) -> Outcome {
    let mut l = Lowerer::new(module, options);
    let mut too_large = false;
    let graph = match l.entry(net) {
        Ok(graph) => Some(graph),
        Err(stop) => {
            too_large = l.exhausted.is_some();
            l.conclude(stop);
            None
        }
    };
    let numbers = |layer: &crate::context::Layer| {
        let known = layer.settings.iter().filter_map(|s| Some((s.name.clone(), s.value.number()?))).collect();
        (layer.prefix.trim_end_matches('.').to_string(), known)
    };
    let layers = l.layers.iter().map(numbers).collect();
    let observations = if options.observe { l.observations.into_iter().map(|(o, _)| o).collect() } else { vec![] };
    Outcome { graph, diagnostics: l.diagnostics, undecided: l.undecided.map(|d| *d), layers, observations, too_large }
}

/// How the graph of a net came to be.
pub(crate) fn trace(module: &Module, net: &str, options: &Options) -> std::result::Result<Trace, Vec<Diagnostic>> {
    let mut l = Lowerer::new(module, options);
    l.trace = Some(Trace::default());
    match l.entry(net) {
        Ok(_) => Ok(l.trace.take().unwrap_or_default()),
        Err(stop) => {
            l.conclude(stop);
            l.diagnostics.extend(l.undecided.take().map(|d| *d));
            Err(l.diagnostics)
        }
    }
}

/// What lowering gives.
pub(crate) struct Outcome {
    pub graph: Option<Graph>,
    pub diagnostics: Vec<Diagnostic>,
    /// What could not be decided because a size is symbolic.
    pub undecided: Option<Diagnostic>,
    pub layers: Vec<(String, Vec<(String, f64)>)>,
    pub observations: Vec<Observation>,
    /// It ended where it had evaluated as many expressions as a net may have.
    pub too_large: bool,
}

/// What each name of the user's file is bound to in a net, as far as it can be lowered: a type, or a description.
pub(crate) fn bindings(module: &Module, net: &str, options: &Options) -> Vec<(Span, String)> {
    let mut l = Lowerer::new(module, options);
    // What is wrong is told by others.
    let _ = l.entry(net);
    l.bindings
}

/// The declared inputs of a net.
pub(crate) fn signature(module: &Module, net: &str, options: &Options) -> std::result::Result<Vec<(String, Type)>, Vec<Diagnostic>> {
    let mut l = Lowerer::new(module, options);
    let Some(index) = module.ast.items.iter().position(|i| i.name.text == net) else { return Ok(vec![]) };
    l.open(net, Purpose::Net);
    let result = l
        .enter(ItemRef { file: 0, index }, "", None)
        .and_then(|()| l.bind_defaults(index))
        .and_then(|()| l.entry_inputs(&module.ast.items[index]));
    result.map_err(|stop| {
        l.conclude(stop);
        std::mem::take(&mut l.diagnostics)
    })
}

/// Checks a neuron that no net may use, by running it once.
pub(crate) fn check_neuron(module: &Module, item: &Item) -> Vec<Diagnostic> {
    let options = Options::default();
    let mut l = Lowerer::new(module, &options);
    let Some(index) = module.ast.items.iter().position(|i| std::ptr::eq(i, item)) else { return vec![] };
    let item_ref = ItemRef { file: 0, index };
    l.open("check", Purpose::Net);
    let result = l.enter(item_ref, "", None).and_then(|()| {
        let given = vec![None; item.settings.len()];
        let settings = l.fill_settings(item_ref, given, item.name.span)?;
        let mut inputs = Vec::new();
        for input in &item.inputs {
            let value = l.graph().add_input(input.name.text.clone(), Type::new(DType::F32, [Dim::name("T"), Dim::name("N")]));
            inputs.push(Given { name: None, value: l.tensor(value), span: input.name.span });
        }
        l.apply_neuron(item_ref, &settings, "n.", inputs, HashMap::new(), item.name.span)
    });
    if let Err(stop) = result {
        l.conclude(stop);
    }
    l.warn_unused_settings(item);
    l.diagnostics
}

/// The names that a statement binds.
pub(crate) fn bound_names(statement: &Statement) -> Vec<String> {
    match &statement.kind {
        StatementKind::Let { names, .. } => names.iter().map(|n| n.text.clone()).collect(),
        StatementKind::Layer { name, .. } | StatementKind::Parameter { name, .. } | StatementKind::State { name, .. } => {
            vec![name.text.clone()]
        }
        _ => vec![],
    }
}

impl<'a> Lowerer<'a> {
    /// Why lowering has stopped, as diagnostics. Where that is a size that is not known, there may be none.
    fn conclude(&mut self, stop: Stop) {
        if let Stop::Say(d) = stop {
            self.diagnostics.push(*d);
        }
        if let Some(d) = self.exhausted.take() {
            self.diagnostics = vec![*d];
        }
    }

    /// Begins the evaluation of an item.
    pub fn enter(&mut self, item: ItemRef, prefix: &str, call: Option<Span>) -> Result<()> {
        let name = self.item(item).name.text.clone();
        if self.frames.len() >= MAX_CALLS {
            let span = call.unwrap_or(self.item(item).name.span);
            // Push a frame all the same: the caller pops one.
            let stop = self.fail(span, format!("`{name}` calls itself without end"), "this call");
            self.push_frame(item, name, prefix, call);
            return stop;
        }
        self.push_frame(item, name, prefix, call);
        Ok(())
    }

    fn push_frame(&mut self, item: ItemRef, item_name: String, prefix: &str, call: Option<Span>) {
        self.frames.push(Frame {
            file: item.file,
            item_name,
            scopes: vec![HashMap::new()],
            rest: None,
            prefix: prefix.to_string(),
            call,
            assigned: BTreeMap::new(),
            states: vec![],
            inits: HashMap::new(),
            emitted: vec![],
            buffers: vec![],
            declaring: false,
            kaiming: vec![],
        });
    }

    fn bind_defaults(&mut self, index: usize) -> Result<()> {
        let item = ItemRef { file: 0, index };
        let declared = self.item(item);
        let span = declared.name.span;
        if let Some(name) = self.options.settings.keys().find(|n| !declared.settings.iter().any(|s| s.name.text == **n)) {
            let known: Vec<&str> = declared.settings.iter().map(|s| s.name.text.as_str()).collect();
            let list = if known.is_empty() { "it has none".to_string() } else { format!("it has: {}", known.join(", ")) };
            let near = nearest(name, known.iter().copied()).map(|n| format!("did you mean `{n}`? "));
            let message = format!("the net `{}` has no setting `{name}`", declared.name.text);
            return self.fail_help(span, message, "this net", near.unwrap_or_default() + &list);
        }
        let value = |s: &snn_syntax::ast::Setting| {
            let given = self.options.settings.get(&s.name.text)?;
            Some(Given { name: Some(s.name.text.clone()), value: Val::from_setting(given), span: s.name.span })
        };
        let given = declared.settings.iter().map(value).collect();
        let settings = self.fill_settings(item, given, span)?;
        settings.into_iter().for_each(|s| self.bind(&s.name, s.value));
        Ok(())
    }

    fn entry_inputs(&mut self, item: &Item) -> Result<Vec<(String, Type)>> {
        let mut inputs: Vec<(String, Type)> = Vec::new();
        for input in &item.inputs {
            let Some(ty) = &input.ty else {
                let help = format!("write `{}: f32[T, B, 10]`", input.name.text);
                return self.fail_help(input.name.span, format!("the input `{}` has no type", input.name.text), "here", help);
            };
            if inputs.iter().any(|(n, _)| *n == input.name.text) {
                return self.fail(input.name.span, format!("the input `{}` is declared twice", input.name.text), "again here");
            }
            let rests: Vec<Span> = ty.dimensions.iter().filter_map(|d| if let Dimension::Rest(s) = d { Some(*s) } else { None }).collect();
            if rests.len() > 1 {
                return self.fail(rests[1], "a type has one `...` at most", "a second one");
            }
            if !rests.is_empty() && self.frame().rest.is_none() {
                let size = |i: usize| format!("_{i}");
                let bound = |n: String| self.options.dims.get(&n).map_or_else(|| Dim::name(&n), |v| Dim::constant(*v));
                let rest = (0..self.options.rest.unwrap_or(1)).map(|i| bound(size(i))).collect();
                self.frame().rest = Some(rest);
            }
            let ty = self.declared_type(ty, true)?;
            inputs.push((input.name.text.clone(), ty));
        }
        Ok(inputs)
    }

    fn entry(&mut self, net: &str) -> Result<Graph> {
        let index = self.module.ast.items.iter().position(|i| i.name.text == net && i.kind == ItemKind::Net);
        let Some(index) = index else {
            return Err(Stop::Say(Box::new(Diagnostic::error(format!("there is no net `{net}`")))));
        };
        let item = &self.module.ast.items[index];
        self.open(net, Purpose::Net);
        self.enter(ItemRef { file: 0, index }, "", None)?;
        self.bind_defaults(index)?;
        for (name, ty) in self.entry_inputs(item)? {
            let value = self.graph().add_input(name.clone(), ty);
            let bound = self.tensor(value);
            self.bind(&name, bound);
        }
        let first_layer = self.layers.len();
        let outputs = self.net_outputs(item)?;
        for (name, value) in outputs {
            self.graph().outputs.push((name, value));
        }
        if self.options.observe {
            let said: Vec<_> = self.observations.iter().map(|(o, v)| (o.output.clone(), *v)).collect();
            self.graph().outputs.extend(said);
        }
        self.warn_unused(item, first_layer);
        self.frames.pop();
        let context = self.close();
        let mut graph = context.graph;
        graph.updates = std::mem::take(&mut self.updates);
        graph.parameters = self.parameters.iter().map(|p| p.info.clone()).collect();
        if let Some(trace) = &mut self.trace {
            trace.graph = graph.clone();
            trace.recursions = context.recursions.clone();
        }
        let graph = recurrence::close(&graph, &context.recursions).map_err(|e| Stop::Say(Box::new(crate::recursion::diagnostic(e))))?;
        if self.diagnostics.iter().any(|d| d.severity == snn_syntax::Severity::Error) {
            return Err(Stop::Said);
        }
        let graph = graph.pruned();
        if let Err(e) = snn_ir::verify(&graph) {
            debug_assert!(false, "{e}\n{graph}");
            return Err(Stop::Say(Box::new(Diagnostic::error(format!("a defect of the compiler: {e}")))));
        }
        Ok(graph)
    }

    /// Evaluates the body of a net and checks its results against what is declared.
    fn net_outputs(&mut self, item: &Item) -> Result<Vec<(String, Value)>> {
        let value = self.body_value(&item.body)?;
        let kaiming = std::mem::take(&mut self.frame().kaiming);
        kaiming.into_iter().for_each(|(prefix, span)| self.draw_first(&prefix, span));
        self.buffer_updates(item)?;
        let place = match &item.body {
            Body::Block(b) => b.statements.last().map_or(b.span, |s| s.span),
            Body::Expression(e) => self.ast(self.frames.last().map_or(0, |f| f.file)).expr(*e).span,
        };
        let values = match value {
            Val::Tuple(items) if item.results.len() != 1 => items,
            Val::Poison => return Err(Stop::Said),
            other => vec![other],
        };
        if !item.results.is_empty() && values.len() != item.results.len() {
            let message = format!("`{}` declares {} results and gives {}", item.name.text, item.results.len(), values.len());
            return self.fail(place, message, "this is its value");
        }
        let mut outputs: Vec<(String, Value)> = Vec::new();
        for (i, value) in values.into_iter().enumerate() {
            let declared = item.results.get(i);
            if let Some(name) = declared.and_then(|r| r.name.as_ref())
                && outputs.iter().any(|(n, _)| *n == name.text)
            {
                return self.fail(name.span, format!("two results are called `{}`", name.text), "again here");
            }
            let dtype = declared.and_then(|r| r.ty.as_ref()?.dtype.parse().ok());
            if matches!(value, Val::Unknown) {
                return Err(Stop::Said);
            }
            let v = self.lift(value, dtype, place)?;
            let actual = self.ty(v);
            if let Some(result) = declared
                && let Some(ty) = &result.ty
            {
                let expected = self.declared_type(ty, true)?;
                if expected != actual {
                    let what = result.name.as_ref().map_or("the result".to_string(), |n| format!("the result `{}`", n.text));
                    let d = Diagnostic::error(format!("{what} of `{}` is {actual}, and {expected} is declared", item.name.text));
                    let d = self.at(d, place, format!("this is {actual}"));
                    let d = if ty.span.file == 0 { d.label(ty.span, format!("declared as {expected} here")) } else { d };
                    let d = if expected.dtype != actual.dtype { d.help(format!("convert it: `{}(...)`", expected.dtype)) } else { d };
                    return Err(Stop::Say(Box::new(d)));
                }
            }
            let name = match declared.and_then(|r| r.name.as_ref()) {
                Some(n) => n.text.clone(),
                None if i == 0 => "out".to_string(),
                None => format!("out{i}"),
            };
            outputs.push((name, v));
        }
        Ok(outputs)
    }

    fn buffer_updates(&mut self, item: &Item) -> Result<()> {
        let assigned = std::mem::take(&mut self.frame().assigned);
        if self.options.mode != crate::Mode::Train || self.dry > 0 {
            return Ok(());
        }
        for (name, value) in assigned {
            let full = format!("{}{name}", self.frame().prefix);
            if let Val::Tensor { context, value } = value {
                let value = self.import(context, value, item.name.span)?;
                self.updates.retain(|(n, _)| *n != full);
                // Where the layer is applied again, its buffer is what this application made of it.
                self.context().parameters.insert(full.clone(), value);
                self.updates.push((full, value));
            }
        }
        Ok(())
    }

    /// Inlines a net.
    pub fn apply_net(&mut self, item: ItemRef, settings: Vec<Bound>, prefix: String, inputs: Vec<Given>, span: Span) -> Result<Val> {
        let declared = self.item(item);
        if self.in_step() {
            return self.fail(span, format!("`{}` is a net and cannot be used inside the step of a neuron", declared.name.text), "here");
        }
        if inputs.iter().any(|g| g.value.is_unknown()) {
            return Ok(Val::Unknown);
        }
        let mut tensors = Vec::new();
        for (input, g) in declared.inputs.iter().zip(inputs) {
            let wanted = input.ty.as_ref().and_then(|t| t.dtype.parse::<DType>().ok());
            let value = self.lift(g.value, wanted, g.span)?;
            tensors.push((value, g.span));
        }
        let recording = self.recording(item, &settings, tensors.iter().map(|(v, _)| *v).collect());
        let result = self.enter(item, &prefix, Some(span)).and_then(|()| {
            settings.into_iter().for_each(|s| self.bind(&s.name, s.value));
            for (input, (value, place)) in declared.inputs.iter().zip(tensors) {
                let actual = self.ty(value);
                if let Some(ty) = &input.ty {
                    self.match_type(ty, &input.name.text, &actual, place)?;
                }
                let bound = self.tensor(value);
                self.bind(&input.name.text, bound);
            }
            self.net_outputs(declared)
        });
        self.frames.pop();
        let mut values: Vec<Val> = result?.into_iter().map(|(_, v)| self.tensor(v)).collect();
        let value = if values.len() == 1 { values.remove(0) } else { Val::Tuple(values) };
        self.record(recording, &value);
        Ok(value)
    }

    /// The value of a body: of its last expression. An error in a statement is reported, and the next ones go on.
    pub fn body_value(&mut self, body: &Body) -> Result<Val> {
        match body {
            Body::Expression(e) => self.eval(*e),
            Body::Block(b) => self.block_value(b),
        }
    }

    pub fn block_value(&mut self, block: &Block) -> Result<Val> {
        let Some((last, rest)) = block.statements.split_last() else {
            return self.fail(block.span, "an empty body has no value", "here");
        };
        let mut failed = false;
        let mut at = 0;
        while at < rest.len() {
            // Recursive values that follow each other may mention each other.
            let group = rest[at..].iter().take_while(|s| matches!(s.kind, StatementKind::Let { recursive: true, .. })).count().max(1);
            let result = if matches!(rest[at].kind, StatementKind::Let { recursive: true, .. }) {
                self.recursive(&rest[at..at + group])
            } else {
                self.statement(&rest[at])
            };
            if let Err(stop) = result {
                failed = true;
                if let Stop::Say(d) = stop {
                    self.diagnostics.push(*d);
                }
                for name in rest[at..at + group].iter().flat_map(bound_names) {
                    self.bind(&name, Val::Poison);
                }
                // What follows in a body of the library relies on it, and is not the user's to mend.
                let of_library = self.frames.last().is_some_and(|f| f.file != 0);
                if self.dry > 0 || of_library {
                    return Err(Stop::Said);
                }
            }
            at += group;
        }
        let value = match &last.kind {
            StatementKind::Expression(e) => self.eval(*e),
            _ => self
                .statement(last)
                .and_then(|()| self.fail_help(last.span, "the body has no value", "it ends with this", "end it with an expression")),
        };
        match value {
            Ok(_) if failed => Err(Stop::Said),
            other => other,
        }
    }

    pub fn statement(&mut self, statement: &Statement) -> Result<()> {
        let span = statement.span;
        match &statement.kind {
            StatementKind::Layer { name, value } => {
                if self.in_step() {
                    return self.fail(span, "a neuron has no layers", "here");
                }
                self.declare_layer(name, *value)
            }
            StatementKind::Parameter { name, ty, value, learnable } => {
                if !*learnable {
                    let buffer = name.text.clone();
                    self.frame().buffers.push(buffer);
                }
                let v = self.declare_parameter(name, ty.as_ref(), *value, *learnable)?;
                self.bind(&name.text, v);
                Ok(())
            }
            StatementKind::State { name, value } => {
                let v = self.eval(*value)?;
                if self.frame().declaring {
                    self.bind(&name.text, Val::Unknown);
                    return Ok(());
                }
                self.declare_state(&name.text, v, span)
            }
            StatementKind::Let { recursive: true, .. } => self.recursive(std::slice::from_ref(statement)),
            StatementKind::Let { names, ty, value, .. } => {
                self.defining.extend(names.iter().map(|n| n.text.clone()));
                let result = self.eval(*value);
                self.defining.truncate(self.defining.len() - names.len());
                let mut v = result?;
                if let (Some(ty), false) = (ty, v.is_unknown()) {
                    v = self.annotated(v, ty, *value)?;
                }
                self.bind_pattern(names, v, span)
            }
            StatementKind::Assign { name, value } => {
                let frame = self.frames.last();
                let is_state =
                    frame.is_some_and(|f| f.states.iter().any(|s| s.0 == name.text) || f.buffers.contains(&name.text) || f.declaring);
                if !is_state {
                    let help = format!("name a new value with `let {} = ...`; only `state`s and `buffer`s are assigned", name.text);
                    return self.fail_help(name.span, format!("`{}` is not a state", name.text), "assigned here", help);
                }
                let v = self.eval(*value)?;
                self.bind(&name.text, v.clone());
                self.frame().assigned.insert(name.text.clone(), v);
                Ok(())
            }
            StatementKind::Assert { condition, message } => self.assertion(*condition, message.as_deref(), span),
            StatementKind::Emit(value) => {
                if !self.in_step() && !self.frame().declaring {
                    return self.fail_help(span, "`emit` stands in a neuron", "not here", "a net's value is its last expression");
                }
                let v = self.eval(*value)?;
                self.frame().emitted.push(v);
                Ok(())
            }
            StatementKind::Expression(e) => {
                let said = self.observations.len();
                let v = self.eval(*e)?;
                if v.is_tensor() && said == self.observations.len() && self.frames.last().is_some_and(|f| f.file == 0) {
                    self.warn(
                        span,
                        Diagnostic::warning("this value is not used").help("name it with `let`, or remove it"),
                        "computed and dropped",
                    );
                }
                Ok(())
            }
        }
    }

    fn annotated(&mut self, value: Val, ty: &snn_syntax::ast::TypeExpr, e: ExprId) -> Result<Val> {
        let span = self.ast(self.frames.last().map_or(0, |f| f.file)).expr(e).span;
        let expected = self.declared_type(ty, true)?;
        let v = self.lift(value, Some(expected.dtype), span)?;
        let actual = self.ty(v);
        if actual != expected {
            let d = Diagnostic::error(format!("the value is {actual}, and {expected} is declared"));
            return Err(Stop::Say(Box::new(self.at(d, span, format!("this is {actual}")).label(ty.span, format!("{expected} here")))));
        }
        Ok(self.tensor(v))
    }

    fn bind_pattern(&mut self, names: &[Name], value: Val, span: Span) -> Result<()> {
        if let [only] = names {
            self.note(only.span, &value);
            self.record_name(&only.text, &value);
            self.bind(&only.text, value);
            return Ok(());
        }
        match value {
            Val::Tuple(items) | Val::List(items) if items.len() == names.len() => {
                for (n, v) in names.iter().zip(items) {
                    self.note(n.span, &v);
                    self.bind(&n.text, v);
                }
                Ok(())
            }
            Val::Unknown => {
                names.iter().for_each(|n| self.bind(&n.text, Val::Unknown));
                Ok(())
            }
            other => self.fail(span, format!("{} names for {}", names.len(), other.describe()), "here"),
        }
    }

    // ---------------------------------------------------------------- expressions

    pub fn eval(&mut self, id: ExprId) -> Result<Val> {
        stacker::maybe_grow(128 << 10, 8 << 20, || self.eval_plain(id))
    }

    fn eval_plain(&mut self, id: ExprId) -> Result<Val> {
        let file = self.frame().file;
        let expr = self.ast(file).expr(id);
        let span = expr.span;
        self.evaluated += 1;
        if self.evaluated > MAX_EVALUATIONS {
            let message = format!("the net is too large: more than {MAX_EVALUATIONS} expressions, all calls counted");
            let d = self.at(Diagnostic::error(message), span, "reached here");
            let d = d.help("does a function, net or layer call itself, or another one twice, at every level?");
            self.exhausted.get_or_insert(Box::new(d));
            return Err(Stop::Said);
        }
        let value = self.eval_kind(id, expr, file, span)?;
        if snn_ir::dim::take_overflow() {
            return self.fail_help(
                span,
                "an integer does not fit 64 bits",
                "computed here",
                "integers and sizes are exact at compile time; write a float, `1.0`, where it may be rounded",
            );
        }
        Ok(value)
    }

    fn eval_kind(&mut self, id: ExprId, expr: &'a snn_syntax::ast::Expr, file: u16, span: Span) -> Result<Val> {
        match &expr.kind {
            ExprKind::Int(n) => Ok(Val::int(*n)),
            ExprKind::Float(x) => Ok(Val::Float(*x)),
            ExprKind::Bool(b) => Ok(Val::Bool(*b)),
            ExprKind::Nothing => Ok(Val::Nothing),
            ExprKind::Text(t) => Ok(Val::Text(t.clone())),
            ExprKind::Comprehension { element, name, items } => self.comprehension(*element, name, *items, span),
            ExprKind::ThisNet => Ok(Val::ThisNet),
            ExprKind::Name(name) => self.name(name, span),
            ExprKind::List(items) => Ok(Val::List(items.iter().map(|e| self.eval(*e)).collect::<Result<_>>()?)),
            ExprKind::Tuple(items) => Ok(Val::Tuple(items.iter().map(|e| self.eval(*e)).collect::<Result<_>>()?)),
            ExprKind::Unary(op, e) => {
                let v = self.eval(*e)?;
                self.unary_operator(*op, v, span)
            }
            ExprKind::Binary(BinaryOperator::Pipe, ..) => self.pipe(id),
            ExprKind::Binary(op, a, b) => {
                let left = self.eval(*a)?;
                // `and`, `or` and `or else` do not look at what they do not need.
                match (op, &left) {
                    (BinaryOperator::OrElse, Val::Nothing) => return self.eval(*b),
                    (BinaryOperator::OrElse, _) => return Ok(left),
                    (BinaryOperator::And, Val::Bool(false)) | (BinaryOperator::Or, Val::Bool(true)) => return Ok(left),
                    _ => {}
                }
                let right = self.eval(*b)?;
                let spans = (self.ast(file).expr(*a).span, self.ast(file).expr(*b).span);
                self.binary_operator(*op, left, right, span, spans)
            }
            ExprKind::Call { callee, arguments } => {
                if let ExprKind::Name(name) = &self.ast(file).expr(*callee).kind
                    && name == "fold"
                    && self.lookup(name).is_none()
                {
                    return self.fold(arguments, span);
                }
                let given = self.given(arguments)?;
                self.call(*callee, given, span)
            }
            ExprKind::Index { base, subscripts } => {
                let v = self.eval(*base)?;
                self.index(v, subscripts, span)
            }
            ExprKind::Field { base, name } => {
                // A layer that is called so as a whole.
                if let Some(path) = self.dotted(id)
                    && let Some(v) = self.lookup(&path)
                {
                    return Ok(v);
                }
                let v = self.eval(*base)?;
                match v {
                    Val::Layer(i) => self.layer_field(i, name, span),
                    Val::ThisNet => match self.lookup(&name.text) {
                        Some(v) => Ok(v),
                        // The first part of a longer name.
                        None if self.frame().scopes.iter().any(|s| s.keys().any(|k| k.starts_with(&format!("{}.", name.text)))) => {
                            Ok(Val::ThisNet)
                        }
                        None => self.fail(name.span, format!("the net has no layer or value `{}` here", name.text), "not found"),
                    },
                    Val::List(items) if name.text.chars().all(|c| c.is_ascii_digit()) => {
                        let at = name.text.parse().ok().and_then(|i: usize| items.get(i).cloned());
                        at.map_or_else(|| self.fail(name.span, format!("the list has {} elements", items.len()), "outside of it"), Ok)
                    }
                    Val::File(file) => match self.item_of_file(file, &name.text, &[ItemKind::Surrogate]) {
                        Some(item) => self.call_item(item, vec![], span),
                        None => match self.item_of_file(file, &name.text, &[ItemKind::Constant]) {
                            Some(item) => self.constant_value(item, span),
                            None => match self.item_of_file(file, &name.text, &[ItemKind::Function, ItemKind::Net, ItemKind::Neuron]) {
                                Some(item) => Ok(Val::Item(item)),
                                None => self.fail(name.span, format!("the file has no `{}`", name.text), "not found"),
                            },
                        },
                    },
                    Val::Unknown => Ok(Val::Unknown),
                    Val::Poison => Err(Stop::Said),
                    other => self.fail(span, format!("{} has no `.{}`", other.describe(), name.text), "only layers have fields"),
                }
            }
            ExprKind::If { condition, then, otherwise } => {
                let c = self.eval(*condition)?;
                let place = self.ast(file).expr(*condition).span;
                match c {
                    Val::Bool(true) => self.scoped(then),
                    Val::Bool(false) => self.scoped(otherwise),
                    Val::Poison => Err(Stop::Said),
                    Val::Tensor { .. } => {
                        let a = self.scoped(then)?;
                        let b = self.scoped(otherwise)?;
                        self.select(c, a, b, span)
                    }
                    Val::Unknown => Ok(Val::Unknown),
                    other => self.fail_help(
                        place,
                        format!("a condition is true or false, not {}", other.describe()),
                        "here",
                        "compare it: `x > 0`",
                    ),
                }
            }
        }
    }

    /// `a.b.c` as a text; what stands behind `net.` by itself.
    fn dotted(&self, id: ExprId) -> Option<String> {
        let file = self.frames.last()?.file;
        let mut parts = Vec::new();
        let mut at = id;
        loop {
            match &self.ast(file).expr(at).kind {
                ExprKind::Field { base, name } => {
                    parts.push(name.text.as_str());
                    at = *base;
                }
                ExprKind::Name(first) => {
                    parts.push(first);
                    break;
                }
                ExprKind::ThisNet => break,
                _ => return None,
            }
        }
        parts.reverse();
        Some(parts.join("."))
    }

    /// `[element for name in items]`
    fn comprehension(&mut self, element: ExprId, name: &Name, items: ExprId, span: Span) -> Result<Val> {
        let items = match self.eval(items)? {
            Val::List(items) | Val::Tuple(items) => items,
            Val::Unknown => return Ok(Val::Unknown),
            other => {
                let message = format!("`for` goes over a list, not {}", other.describe());
                return self.fail_help(span, message, "here", "for instance `[f(k) for k in range(0, 4)]`");
            }
        };
        let mut values = Vec::new();
        for item in items {
            self.frame().scopes.push(HashMap::from([(name.text.clone(), item)]));
            let value = self.eval(element);
            self.frame().scopes.pop();
            values.push(value?);
        }
        Ok(Val::List(values))
    }

    /// `assert condition, "message"`: what is known when the program is compiled is decided then, what depends on data in each run.
    fn assertion(&mut self, condition: ExprId, message: Option<&str>, span: Span) -> Result<()> {
        match self.eval(condition)? {
            Val::Bool(true) | Val::Unknown => Ok(()),
            Val::Bool(false) => {
                let text = message.map_or_else(|| "an assertion does not hold".to_string(), |m| self.interpolated(m));
                self.fail(span, text, if span.file == 0 { "asserted here" } else { "in this call" })
            }
            Val::Poison => Err(Stop::Said),
            // Sizes that are still open are decided when they are known.
            Val::Tensor { context, value } if self.depends_on_sizes_only(context, value) => Ok(()),
            data @ Val::Tensor { .. } => {
                let text = message.map_or_else(|| "an assertion does not hold".to_string(), |m| self.interpolated(m));
                self.assert_data(data, text, span, condition)
            }
            other => self.fail(span, format!("an assertion is true or false, not {}", other.describe()), "here"),
        }
    }

    fn depends_on_sizes_only(&self, context: u32, value: Value) -> bool {
        let Some(owner) = self.contexts.iter().find(|c| c.id == context) else { return false };
        let mut stack = vec![value.node];
        while let Some(id) = stack.pop() {
            let node = owner.graph.node(id);
            if matches!(node.op, snn_ir::Op::Input { .. } | snn_ir::Op::Parameter { .. } | snn_ir::Op::Random { .. }) {
                return false;
            }
            stack.extend(node.operands.iter().map(|v| v.node));
        }
        true
    }

    /// A message with `{name}` replaced by what the name is: tensors by their types.
    fn interpolated(&mut self, message: &str) -> String {
        let mut out = String::new();
        let mut rest = message;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                rest = after;
                break;
            };
            let text = match self.lookup(name) {
                Some(v) => self.shown(&v),
                None => format!("{{{name}}}"),
            };
            out.push_str(&text);
            rest = after;
        }
        out + rest
    }

    fn shown(&self, value: &Val) -> String {
        match value {
            Val::Tensor { context, value } => {
                self.contexts.iter().find(|c| c.id == *context).map_or_else(String::new, |c| c.graph.ty(*value).to_string())
            }
            Val::Int(d) => d.to_string(),
            Val::Float(x) => x.to_string(),
            Val::Text(t) => t.clone(),
            Val::List(items) | Val::Tuple(items) => {
                let items: Vec<String> = items.iter().map(|i| self.shown(i)).collect();
                format!("[{}]", items.join(", "))
            }
            other => other.describe(),
        }
    }

    fn scoped(&mut self, block: &Block) -> Result<Val> {
        self.frame().scopes.push(HashMap::new());
        let result = self.block_value(block);
        self.frame().scopes.pop();
        result
    }

    fn name(&mut self, name: &str, span: Span) -> Result<Val> {
        if let Some(v) = self.lookup(name) {
            return if matches!(v, Val::Poison) { Err(Stop::Said) } else { Ok(v) };
        }
        use ItemKind::{Constant, Function, Net, Neuron, Surrogate};
        if let Some(item) = self.resolve_item(name, &[Constant]) {
            return self.constant_value(item, span);
        }
        let own = self.frame().file;
        if let Some(item) = self.ast(own).items.iter().find(|i| i.kind == ItemKind::Use && i.name.text == name)
            && let Some(file) = self.module.used(own, item)
        {
            return Ok(Val::File(file));
        }
        // A surrogate without brackets has its defaults.
        if let Some(item) = self.resolve_item(name, &[Surrogate]) {
            return self.call_item(item, vec![], span);
        }
        if let Some(item) = self.resolve_item(name, &[Function, Net, Neuron]) {
            return Ok(Val::Item(item));
        }
        match name {
            "pi" => return Ok(Val::Float(std::f64::consts::PI)),
            "inf" => return Ok(Val::Float(f64::INFINITY)),
            "training" => return Ok(Val::Bool(self.options.mode == crate::Mode::Train)),
            _ => {}
        }
        if let Some(n) = crate::builtins::names().find(|n| *n == name) {
            return Ok(Val::Builtin(n));
        }
        let help = self.help_for_unknown(name, span).unwrap_or_else(|| {
            let known = self.known_names();
            let near = nearest(name, known.iter().map(String::as_str)).map(|n| format!("did you mean `{n}`?"));
            near.unwrap_or_else(|| format!("name it first: `let {name} = ...`"))
        });
        self.fail_help(span, format!("`{name}` is not known"), "not found", help)
    }

    /// What a name that is not known probably means, where it is not a misspelling.
    pub fn help_for_unknown(&self, name: &str, span: Span) -> Option<String> {
        if let Some(help) = snn_syntax::foreign_name(name) {
            return Some(help.to_string());
        }
        if self.defining.iter().any(|n| n == name) {
            return Some(format!("a value that mentions itself is recursive: `let rec {name} = ...`, with a `delay` on the way"));
        }
        let whole = self.module.sources.whole(span.file);
        let after = whole.get(span.end..).unwrap_or_default().trim_start();
        let in_call = whole.get(..span.start).unwrap_or_default().trim_end().ends_with(['(', ',']);
        (after.starts_with("==") && in_call).then(|| format!("a setting is given with one `=`: `{name} = ...`"))
    }

    /// The value of a constant at the top of a file, which sees the file's other constants.
    fn constant_value(&mut self, item: ItemRef, span: Span) -> Result<Val> {
        let Body::Expression(e) = &self.item(item).body else { return Err(Stop::Said) };
        let result = self.enter(item, "", Some(span)).and_then(|()| self.eval(*e));
        self.frames.pop();
        result
    }

    /// `x |> f |> g(1)`, from left to right without recursion.
    fn pipe(&mut self, id: ExprId) -> Result<Val> {
        let file = self.frame().file;
        let mut stages = Vec::new();
        let mut first = id;
        while let ExprKind::Binary(BinaryOperator::Pipe, a, b) = &self.ast(file).expr(first).kind {
            stages.push(*b);
            first = *a;
        }
        let mut value = self.eval(first)?;
        let mut span = self.ast(file).expr(first).span;
        for stage in stages.into_iter().rev() {
            if matches!(value, Val::Poison) {
                return Err(Stop::Said);
            }
            let expr = self.ast(file).expr(stage);
            let mut given = vec![Given { name: None, value, span }];
            let callee = match &expr.kind {
                ExprKind::Call { callee, arguments } => {
                    given.extend(self.given(arguments)?);
                    *callee
                }
                _ => stage,
            };
            value = self.call(callee, given, expr.span)?;
            span = expr.span;
        }
        Ok(value)
    }

    /// `fold(n, k, e)`: the sum of `e` for `k = 0 ... n - 1`.
    fn fold(&mut self, arguments: &[snn_syntax::ast::Argument], span: Span) -> Result<Val> {
        let file = self.frame().file;
        let [n, k, e] = arguments else { return self.fail(span, "`fold` takes a number, a name and an expression", "here") };
        let n = match self.eval(n.value)? {
            Val::Int(d) => d.as_constant(),
            _ => None,
        };
        if n.is_some_and(|n| n > MAX_LIST as i64) {
            return self.fail(span, format!("a fold has at most {MAX_LIST} terms"), "this has more");
        }
        let (Some(n), ExprKind::Name(name)) = (n, &self.ast(file).expr(k.value).kind) else {
            return self.fail_help(span, "the number of terms must be known", "here", "write `fold(4, k, k * x)`");
        };
        let mut sum: Option<Val> = None;
        for i in 0..n {
            self.frame().scopes.push(HashMap::from([(name.clone(), Val::int(i))]));
            let term = self.eval(e.value);
            self.frame().scopes.pop();
            let term = term?;
            sum = Some(match sum {
                None => term,
                Some(s) => self.binary_operator(BinaryOperator::Add, s, term, span, (span, span))?,
            });
        }
        Ok(sum.unwrap_or(Val::Float(0.0)))
    }

    // ---------------------------------------------------------------- warnings

    fn warn_unused(&mut self, item: &Item, first_layer: usize) {
        let layers: Vec<(String, Span)> = self.layers[first_layer..]
            .iter()
            .filter(|l| !l.used && !l.read && l.span.file == 0)
            .map(|l| (l.name.clone(), l.span))
            .collect();
        for (name, span) in layers {
            // Only those that this net declares itself.
            if span.start >= item.span.start && span.end <= item.span.end {
                self.warn(span, Diagnostic::warning(format!("the layer `{name}` is never applied")), "unused");
            }
        }
        for input in &item.inputs {
            if !self.looked_up.contains(&(item.name.text.clone(), input.name.text.clone())) {
                let d = Diagnostic::warning(format!("the input `{}` is not used", input.name.text));
                self.warn(input.name.span, d, "unused");
            }
        }
        self.warn_unused_settings(item);
    }

    fn warn_unused_settings(&mut self, item: &Item) {
        for s in &item.settings {
            if !self.looked_up.contains(&(item.name.text.clone(), s.name.text.clone())) {
                self.warn(s.name.span, Diagnostic::warning(format!("the setting `{}` is not used", s.name.text)), "unused");
            }
        }
    }
}

//! Neurons: a body becomes the step function of a scan.

use std::collections::HashMap;

use snn_ir::infer::broadcasts;
use snn_ir::types::shape_text;
use snn_ir::{DType, Dim, Graph, Op, Roles, Scan, Type, Value};
use snn_syntax::ast::Body;
use snn_syntax::{Diagnostic, Span};

use crate::call::{Bound, Given};
use crate::context::{Lowerer, Purpose, Result, Stop};
use crate::value::{ItemRef, SurrogateValue, Val};

impl Lowerer<'_> {
    /// Runs a neuron over its inputs: its output, and the sequences of its states.
    pub fn apply_neuron(
        &mut self,
        item: ItemRef,
        settings: &[Bound],
        prefix: &str,
        inputs: Vec<Given>,
        inits: HashMap<String, Given>,
        span: Span,
    ) -> Result<(Val, HashMap<String, Val>)> {
        let declared = self.item(item);
        let name = declared.name.text.clone();
        let state_names = crate::parameter::state_names(declared);
        if inputs.iter().any(|g| g.value.is_unknown()) {
            let states = state_names.iter().map(|s| (s.to_string(), Val::Unknown)).collect();
            return Ok((Val::Unknown, states));
        }
        if self.in_step() {
            return self.fail(span, format!("`{name}` is a neuron and cannot be used inside the step of another"), "here");
        }
        // Inputs of one shape, with time first.
        let mut sequences = Vec::new();
        for g in &inputs {
            let v = self.lift(g.value.clone(), Some(DType::F32), g.span)?;
            sequences.push(self.cast(v, DType::F32, g.span)?);
        }
        let Some(first) = sequences.first().copied() else {
            return self.fail(span, format!("`{name}` has no input"), "a neuron needs one");
        };
        let ty = self.ty(first);
        if ty.rank() == 0 {
            return self.fail(
                inputs[0].span,
                format!("`{name}` needs a time dimension first, and its input is a scalar"),
                "this is a scalar",
            );
        }
        for (v, g) in sequences.iter().zip(&inputs).skip(1) {
            let other = self.ty(*v);
            if other.shape != ty.shape {
                let d = Diagnostic::error(format!("the inputs of `{name}` differ: {ty} and {other}"));
                return Err(Stop::Say(Box::new(
                    self.at(d, g.span, format!("this is {other}")).label(inputs[0].span, format!("this is {ty}")),
                )));
            }
        }
        let at = ty.shape.iter().position(|d| d.as_name() == Some("T"));
        if let Some(at) = at.filter(|at| *at > 0) {
            let mut order: Vec<usize> = (0..ty.rank()).collect();
            order.swap(0, at);
            let d = Diagnostic::warning(format!("`{name}` runs along the first dimension, and `T` is dimension {at} of {ty}"))
                .help(format!("bring time to the front and back: `x |> permute({order:?}) |> {name} |> permute({order:?})`"));
            self.warn(inputs[0].span, d, format!("the first dimension of this is {}", ty.shape[0]));
        } else if ty.shape[0].as_name() == Some("B") {
            let d = Diagnostic::warning(format!("`{name}` runs along the first dimension, which is `B`, the samples, in {ty}")).help(
                format!("time comes first: `x |> repeat(4) |> {name}` runs 4 steps of the same input, `unsqueeze(x, 0)` is one step"),
            );
            self.warn(inputs[0].span, d, "the first dimension of this is B");
        }
        let element = ty.shape[1..].to_vec();
        // A list of numbers is a tensor of the net around the step.
        let mut settings = settings.to_vec();
        for s in &mut settings {
            if let Val::List(items) = &s.value
                && items.iter().all(|i| i.number().is_some())
            {
                let v = self.lift(s.value.clone(), Some(DType::F32), s.span)?;
                s.value = self.tensor(v);
            }
        }
        self.check_settings(&name, &settings, &element)?;
        let recording = self.recording(item, &settings, sequences.clone());

        self.open(&name, Purpose::Step);
        self.context().sequence = Some(ty.clone());
        let entered = self.enter(item, prefix, Some(span));
        let built = entered.and_then(|()| {
            self.frame().inits = inits;
            for s in &settings {
                self.bind(&s.name, s.value.clone());
            }
            let mut inner = Vec::new();
            for input in &declared.inputs {
                let v = self.graph().input(input.name.text.clone(), Type::scalar(DType::F32));
                inner.push(v);
                let value = self.tensor(v);
                self.bind(&input.name.text, value);
            }
            let Body::Block(block) = &declared.body else { return Err(Stop::Said) };
            for statement in &block.statements {
                self.statement(statement)?;
            }
            self.finish_step(&name, inner, span)
        });
        self.frames.pop();
        let context = self.close();
        let step = built?;
        let mut body = context.graph;

        // Operands: sequences, what was captured, initial states.
        let mut operands = sequences;
        operands.extend(context.noise.iter().map(|n| n.0));
        let sequences = operands.len();
        for (outer, _) in &context.captured {
            let actual = self.ty(*outer);
            if !broadcasts(&actual.shape, &element) {
                let message =
                    format!("a setting of `{name}` is {actual} and does not broadcast against the state {}", shape_text(&element));
                return self.fail(span, message, "here");
            }
            operands.push(*outer);
        }
        operands.extend(step.states.iter().map(|s| s.initial));
        body.inputs = step
            .inputs
            .iter()
            .copied()
            .chain(context.noise.iter().map(|n| n.1))
            .chain(context.captured.iter().map(|c| c.1))
            .chain(step.states.iter().map(|s| s.input))
            .collect();
        body.outputs =
            step.emitted.iter().enumerate().map(|(i, v)| (if i == 0 { "out".to_string() } else { format!("out{i}") }, *v)).collect();
        body.outputs.extend(step.states.iter().map(|s| (format!("{}[]", s.name), s.next)));
        body.outputs.extend(step.states.iter().map(|s| (s.name.clone(), s.next)));
        let (emitted, states) = (step.emitted.len(), step.states.len());
        let roles = Roles { sequences, invariants: context.captured.len(), states, outputs: emitted + states };
        let scan = Scan { roles, reverse: false, body };
        let id = self.emit_node(Op::Scan(std::sync::Arc::new(scan)), &operands, span)?;
        let label = prefix.trim_end_matches('.');
        self.graph().node_mut(id).name = Some(if label.is_empty() { name } else { label.to_string() });
        let mut outputs: Vec<Val> = Vec::new();
        for i in 0..emitted {
            outputs.push(self.tensor(Value { node: id, result: i as u16 }));
        }
        let mut sequences = HashMap::new();
        for (i, s) in step.states.iter().enumerate() {
            let value = self.tensor(Value { node: id, result: (emitted + i) as u16 });
            sequences.insert(s.name.clone(), value);
        }
        let value = if outputs.len() == 1 { outputs.remove(0) } else { Val::Tuple(outputs) };
        self.record(recording, &value);
        Ok((value, sequences))
    }

    /// Tensor settings must broadcast against the state.
    fn check_settings(&mut self, name: &str, settings: &[Bound], element: &[Dim]) -> Result<()> {
        for s in settings {
            if let Val::Tensor { context, value } = &s.value {
                let value = self.import(*context, *value, s.span)?;
                let actual = self.ty(value);
                if !broadcasts(&actual.shape, element) {
                    let message =
                        format!("`{}` of `{name}` is {actual} and does not broadcast against the state {}", s.name, shape_text(element));
                    return self.fail(s.span, message, format!("this is {actual}"));
                }
            }
        }
        Ok(())
    }

    fn finish_step(&mut self, name: &str, inputs: Vec<Value>, span: Span) -> Result<Step> {
        let emitted = std::mem::take(&mut self.frame().emitted);
        if emitted.is_empty() {
            return self.fail_help(span, format!("the neuron `{name}` emits nothing"), "used here", "end its body with `emit s`");
        }
        let mut outputs = Vec::new();
        for e in emitted {
            let items = if let Val::Tuple(items) = e { items } else { vec![e] };
            for item in items {
                let v = self.lift(item, Some(DType::F32), span)?;
                outputs.push(self.cast(v, DType::F32, span)?);
            }
        }
        let declared = self.frame().states.clone();
        let assigned = self.frame().assigned.clone();
        let mut states = Vec::new();
        for (state, initial, input) in declared {
            let next = match assigned.get(&state) {
                Some(v) => {
                    let v = self.lift(v.clone(), Some(DType::F32), span)?;
                    self.cast(v, DType::F32, span)?
                }
                None => {
                    if self.frame().file == 0 {
                        let d = Diagnostic::warning(format!("the state `{state}` of `{name}` never changes"))
                            .help(format!("give its next value: `{state} = ...`"));
                        self.warn(span, d, "used here");
                    }
                    input
                }
            };
            states.push(StepState { name: state, initial, input, next });
        }
        Ok(Step { inputs, emitted: outputs, states })
    }

    /// `state name = value` in a neuron: the value belongs to the net around it.
    pub fn declare_state(&mut self, name: &str, value: Val, span: Span) -> Result<()> {
        if !self.in_step() {
            return self.fail(span, "only a neuron has states", "here");
        }
        let given = self.frame().inits.get(name).cloned();
        if let Some(g) = &given {
            let sequence = self.context().sequence.clone();
            let step = self.close();
            let checked = self.lift(g.value.clone(), Some(DType::F32), g.span).and_then(|v| {
                let ty = self.ty(v);
                let element = sequence.map(|s| s.shape[1..].to_vec()).unwrap_or_default();
                if !broadcasts(&ty.shape, &element) {
                    let text = shape_text(&element);
                    return self.fail(g.span, format!("the state `{name}` is {text}, and its initial value {ty}"), format!("this is {ty}"));
                }
                self.cast(v, DType::F32, g.span)
            });
            self.contexts.push(step);
            let context = self.contexts[self.contexts.len() - 2].id;
            return self.declare_state_from(name, Val::Tensor { context, value: checked? }, span);
        }
        self.declare_state_from(name, value, span)
    }

    fn declare_state_from(&mut self, name: &str, value: Val, span: Span) -> Result<()> {
        let initial = match value {
            Val::Tensor { context, value } if Some(context) == self.contexts.iter().rev().nth(1).map(|c| c.id) => value,
            Val::Tensor { .. } | Val::Unknown => {
                return self.fail(span, "a state starts with a setting or a number", "this is computed inside the step");
            }
            other => {
                let step = self.close();
                let v = self.lift(other, Some(DType::F32), span);
                self.contexts.push(step);
                v?
            }
        };
        let input = self.graph().input(name.to_string(), Type::scalar(DType::F32));
        let bound = self.tensor(input);
        self.bind(name, bound);
        self.frame().states.push((name.to_string(), initial, input));
        Ok(())
    }

    /// The derivative of a spike as a graph of one scalar.
    pub fn surrogate_graph(&mut self, surrogate: &SurrogateValue, span: Span) -> Result<Graph> {
        let item = self.item(surrogate.item);
        self.open(&item.name.text, Purpose::Step);
        let input = item.inputs.first().map_or_else(|| "u".to_string(), |i| i.name.text.clone());
        let u = self.graph().add_input(input, Type::scalar(DType::F32));
        let result = self.surrogate_value(surrogate, u, span).and_then(|value| {
            let v = self.lift(value, Some(DType::F32), span)?;
            self.cast(v, DType::F32, span)
        });
        let mut graph = self.close().graph;
        graph.outputs = vec![("derivative".into(), result?)];
        Ok(graph.pruned())
    }

    /// The derivative of a surrogate at `u`, in the graph that is being built.
    pub fn surrogate_value(&mut self, surrogate: &SurrogateValue, u: Value, span: Span) -> Result<Val> {
        let item = self.item(surrogate.item);
        let result = self.enter(surrogate.item, "", Some(span)).and_then(|()| {
            for s in &surrogate.settings {
                self.bind(&s.name, s.value.clone());
            }
            let Some(input) = item.inputs.first() else {
                return self.fail(span, format!("the surrogate `{}` has no input", item.name.text), "it needs one");
            };
            let value = self.tensor(u);
            self.bind(&input.name.text, value);
            self.body_value(&item.body)
        });
        self.frames.pop();
        let value = result?;
        if matches!(value, Val::List(_) | Val::Tuple(_)) {
            let message = format!("the surrogate `{}` gives {}, not one number", item.name.text, value.describe());
            return self.fail(span, message, "used here");
        }
        Ok(value)
    }
}

struct Step {
    inputs: Vec<Value>,
    emitted: Vec<Value>,
    states: Vec<StepState>,
}

struct StepState {
    name: String,
    initial: Value,
    input: Value,
    next: Value,
}

//! Layers and parameters: declaring them, and their values.

use snn_ir::{DType, Distribution, Graph, Op, ParameterInfo, Tensor, Type, Value};
use snn_syntax::ast::{Body, ExprId, ExprKind, ItemKind, Name, StatementKind, TypeExpr};
use snn_syntax::{Diagnostic, Span};

use crate::call::{Bound, Given, has_parameters, sort_arguments, take_inits};
use crate::context::{Declared, Layer, Lowerer, Purpose, Result, Stop};
use crate::value::{ItemRef, Val};

/// What a `layer` line makes: an instance, or a list.
enum Made {
    One(ItemRef, Vec<Bound>),
    Many(Vec<Made>),
}

/// The layers of the library whose weights `kaiming_normal_conv_linear_weight` draws.
const WEIGHTED: [&str; 4] = ["linear", "conv1d", "conv2d", "conv3d"];

impl Lowerer<'_> {
    /// `layer name = f(...)`, or a list of such.
    pub fn declare_layer(&mut self, name: &Name, value: ExprId) -> Result<()> {
        let file = self.frame().file;
        // A conversion hides the layer's name.
        if matches!(name.text.as_str(), "f32" | "i64" | "bool" | "u8")
            && !self.module.sources.whole(file).contains(&format!("net.{}", name.text))
        {
            let d = Diagnostic::warning(format!("`{}` is a reserved word, and in an expression not this layer", name.text));
            let d = d.help(format!("call it otherwise, or write `net.{}` where it is used", name.text));
            self.warn(name.span, d, "this layer");
        }
        if let Some(Val::Layer(_)) = self.frames.last().and_then(|f| f.scopes.last()).and_then(|s| s.get(&name.text)) {
            return self.fail(name.span, format!("there is a layer `{}` already", name.text), "declared again here");
        }
        let span = self.ast(file).expr(value).span;
        let made = self.instances(value)?;
        let value = self.instantiate(&name.text, name.span, made, span)?;
        self.bind(&name.text, value);
        Ok(())
    }

    /// Makes layers of instances; those of a list are called by their numbers.
    fn instantiate(&mut self, name: &str, name_span: Span, made: Made, span: Span) -> Result<Val> {
        let (item, settings) = match made {
            Made::One(item, settings) => (item, settings),
            Made::Many(list) => {
                let layers = list.into_iter().enumerate().map(|(i, one)| self.instantiate(&format!("{name}.{i}"), name_span, one, span));
                return Ok(Val::List(layers.collect::<Result<_>>()?));
            }
        };
        if self.layers.len() >= crate::lower::MAX_LAYERS {
            let message = format!("the net has more than {} layers, those inside of layers counted", crate::lower::MAX_LAYERS);
            return self.fail_help(span, message, "one too many", "does a net have two layers of another net at every level?");
        }
        let prefix = format!("{}{name}.", self.frame().prefix);
        let layer = Layer {
            name: name.to_string(),
            item,
            settings,
            prefix,
            span: name_span,
            used: false,
            read: false,
            states: Default::default(),
            margin: None,
        };
        self.layers.push(layer);
        let index = self.layers.len() - 1;
        self.declare_parameters_of(index, span)?;
        Ok(Val::Layer(index))
    }

    /// What the right side of a `layer` line makes: calls are given settings there, not inputs.
    fn instances(&mut self, value: ExprId) -> Result<Made> {
        let file = self.frame().file;
        let expr = self.ast(file).expr(value);
        match &expr.kind {
            ExprKind::List(items) => Ok(Made::Many(items.iter().map(|e| self.instances(*e)).collect::<Result<_>>()?)),
            ExprKind::Binary(snn_syntax::ast::BinaryOperator::Add, a, b) => match (self.instances(*a)?, self.instances(*b)?) {
                (Made::Many(mut first), Made::Many(second)) => {
                    first.extend(second);
                    Ok(Made::Many(first))
                }
                _ => self.fail(expr.span, "only lists of layers are joined", "one side is no list"),
            },
            ExprKind::Comprehension { element, name, items } => {
                let items = match self.eval(*items)? {
                    Val::List(items) | Val::Tuple(items) => items,
                    other => return self.fail(expr.span, format!("`for` goes over a list, not {}", other.describe()), "here"),
                };
                let mut made = Vec::new();
                for item in items {
                    self.frame().scopes.push([(name.text.clone(), item)].into());
                    let one = self.instances(*element);
                    self.frame().scopes.pop();
                    made.push(one?);
                }
                Ok(Made::Many(made))
            }
            ExprKind::If { condition, then, otherwise } => {
                let block = match self.eval(*condition)? {
                    Val::Bool(true) => then,
                    Val::Bool(false) => otherwise,
                    _ => return self.fail(expr.span, "which layer it is must be known when the program is compiled", "here"),
                };
                let Some((last, before)) = block.statements.split_last() else {
                    return self.fail(block.span, "an empty body has no value", "here");
                };
                let StatementKind::Expression(e) = &last.kind else {
                    return self.fail(last.span, "a layer is an instance of a net or neuron", "this is neither");
                };
                self.frame().scopes.push(Default::default());
                let made = before.iter().try_for_each(|s| self.statement(s)).and_then(|()| self.instances(*e));
                self.frame().scopes.pop();
                made
            }
            ExprKind::Call { callee, arguments } => {
                let callee_expr = self.ast(file).expr(*callee);
                if let ExprKind::Name(name) = &callee_expr.kind
                    && self.frames.last().is_some_and(|f| f.scopes.iter().all(|s| matches!(s.get(name), None | Some(Val::Layer(_)))))
                {
                    let item = self.layer_item(name, callee_expr.span)?;
                    let given = self.given(arguments)?;
                    return self.instance(item, given, expr.span);
                }
                match self.eval(*callee)? {
                    Val::Item(item) => {
                        let given = self.given(arguments)?;
                        self.instance(item, given, expr.span)
                    }
                    Val::Partial(p) => {
                        let given = self.given(arguments)?;
                        let more: Vec<&str> = given.iter().filter_map(|g| g.name.as_deref()).collect();
                        let before = p.given.iter().filter(|g| !more.contains(&g.name.as_deref().unwrap_or_default()));
                        let all = before.cloned().chain(given.iter().cloned()).collect();
                        self.instance(p.item, all, expr.span)
                    }
                    Val::Unknown => Err(Stop::Said),
                    _ => {
                        let value = self.eval(value)?;
                        self.instances_of(value, expr.span)
                    }
                }
            }
            ExprKind::Name(name) if self.lookup(name).is_none() => {
                let item = self.layer_item(name, expr.span)?;
                self.instance(item, vec![], expr.span)
            }
            _ => {
                let value = self.eval(value)?;
                self.instances_of(value, expr.span)
            }
        }
    }

    /// A value as what a `layer` line makes.
    fn instances_of(&mut self, value: Val, span: Span) -> Result<Made> {
        match value {
            Val::Item(item) => self.instance(item, vec![], span),
            Val::Partial(p) => self.instance(p.item, p.given.clone(), span),
            Val::List(items) => Ok(Made::Many(items.into_iter().map(|v| self.instances_of(v, span)).collect::<Result<_>>()?)),
            other => self.fail(span, format!("a layer is an instance of a net or neuron, not {}", other.describe()), "this is neither"),
        }
    }

    /// The net or neuron that a name means on a `layer` line.
    fn layer_item(&mut self, name: &str, span: Span) -> Result<ItemRef> {
        if let Some(item) = self.resolve_item(name, &[ItemKind::Net, ItemKind::Neuron]) {
            return Ok(item);
        }
        let known: Vec<&str> = [0u16, 1]
            .iter()
            .flat_map(|f| &self.ast(*f).items)
            .filter(|i| matches!(i.kind, ItemKind::Net | ItemKind::Neuron))
            .map(|i| i.name.text.as_str())
            .collect();
        let near = snn_syntax::nearest(name, known).map(|n| format!("did you mean `{n}`?"));
        let is_function = self.resolve_item(name, &[ItemKind::Function]).is_some() || crate::builtins::names().any(|n| n == name);
        if is_function {
            let message = format!("`{name}` is a function, without parameters or settings to keep");
            return self.fail_help(span, message, "not a layer", format!("call it: `x |> {name}(...)`"));
        }
        let help = near.unwrap_or_else(|| "declare it as a `net` or `neuron`".into());
        self.fail_help(span, format!("there is no layer `{name}`"), "not found", help)
    }

    /// An instance of an item with settings that are given by place or name.
    fn instance(&mut self, item: ItemRef, given: Vec<Given>, span: Span) -> Result<Made> {
        let declared = self.item(item);
        if !matches!(declared.kind, ItemKind::Net | ItemKind::Neuron) {
            return self.fail(span, format!("`{}` is neither a net nor a neuron", declared.name.text), "not a layer");
        }
        let names: Vec<&str> = declared.settings.iter().map(|s| s.name.text.as_str()).collect();
        let sorted = sort_arguments(self, &declared.name.text, &names, given)?;
        Ok(Made::One(item, self.fill_settings(item, sorted, span)?))
    }

    /// Declares the parameters of a layer in order, with its inputs unknown.
    fn declare_parameters_of(&mut self, index: usize, span: Span) -> Result<()> {
        let layer = self.layers[index].clone();
        let item = self.item(layer.item);
        let Body::Block(block) = &item.body else { return Ok(()) };
        if !has_parameters(item) {
            return Ok(());
        }
        let last = block.statements.iter().rposition(|s| matches!(s.kind, StatementKind::Parameter { .. } | StatementKind::Layer { .. }));
        self.open(&item.name.text, Purpose::Net);
        let entered = self.enter(layer.item, &layer.prefix, Some(span));
        let mut result = entered;
        if result.is_ok() {
            self.frame().declaring = true;
            for s in &layer.settings {
                self.bind(&s.name, s.value.clone());
            }
            for input in &item.inputs {
                self.bind(&input.name.text, Val::Unknown);
                for name in input.ty.iter().flat_map(|t| self.dimension_names(t, layer.item.file)).collect::<Vec<_>>() {
                    if self.frame().scopes.iter().all(|s| !s.contains_key(&name)) {
                        self.bind(&name, Val::Unknown);
                    }
                }
            }
            for statement in &block.statements[..=last.unwrap_or(0)] {
                if let Err(stop) = self.statement(statement) {
                    // A value that needs the inputs is not needed yet.
                    if matches!(statement.kind, StatementKind::Parameter { .. } | StatementKind::Layer { .. }) {
                        result = Err(stop);
                        break;
                    }
                    for name in crate::lower::bound_names(statement) {
                        self.bind(&name, Val::Unknown);
                    }
                }
            }
        }
        self.frames.pop();
        self.close();
        result
    }

    fn dimension_names(&self, ty: &TypeExpr, file: u16) -> Vec<String> {
        ty.dimensions
            .iter()
            .filter_map(|d| match d {
                snn_syntax::ast::Dimension::Expression(e) => match &self.ast(file).expr(*e).kind {
                    ExprKind::Name(n) => Some(n.clone()),
                    _ => None,
                },
                snn_syntax::ast::Dimension::Rest(_) => None,
            })
            .collect()
    }

    /// `param name: type = value`
    pub fn declare_parameter(&mut self, name: &Name, ty: Option<&TypeExpr>, value: ExprId, learnable: bool) -> Result<Val> {
        let ty = match ty {
            Some(t) => self.declared_type(t, false)?,
            None => Type::scalar(DType::F32),
        };
        let full = format!("{}{}", self.frame().prefix, name.text);
        let span = self.ast(self.frames.last().map_or(0, |f| f.file)).expr(value).span;
        self.open(&full, Purpose::Initial);
        let evaluated = self.eval(value).and_then(|v| self.initial_value(v, &ty, span));
        let context = self.close();
        let initial = match evaluated? {
            None => return Ok(Val::Nothing),
            Some(v) => {
                let mut graph = context.graph;
                graph.outputs = vec![("out".into(), v)];
                graph.pruned()
            }
        };
        // The same parameter is met again where its layer is applied.
        let layer = self.layers.iter().rev().find(|l| Some(&l.prefix) == self.frames.last().map(|f| &f.prefix));
        let origin = (name.span, layer.map(|l| l.span));
        let frame = self.frame();
        let is_weight = frame.file == 1 && WEIGHTED.contains(&frame.item_name.as_str()) && name.text == "weight";
        let info = ParameterInfo { name: full.clone(), ty, initial: initial.into(), drawn_first: false, learnable };
        match self.parameters.iter().find(|p| p.info.name == full) {
            Some(p) if p.origin == origin && p.info.ty == info.ty => {}
            Some(p) => {
                let first = p.origin.1.unwrap_or(p.origin.0);
                let here = origin.1.unwrap_or(name.span);
                let d = Diagnostic::error(format!("two parameters are called `{full}`"));
                let d = self.at(d, here, "declared here").label(first, "and here");
                return Err(Stop::Say(Box::new(
                    d.help("make an instance of one of the nets: `layer a = net_name()`, then its parameters are `a....`"),
                )));
            }
            None => self.parameters.push(Declared { info, origin, is_weight }),
        }
        if self.frame().declaring {
            return Ok(Val::Unknown);
        }
        let value = self.parameter_value(&full)?;
        // In the step of a neuron the parameter is a value of the net around it.
        let depth = self.contexts.iter().rposition(|c| c.purpose != Purpose::Step).unwrap_or(0);
        Ok(Val::Tensor { context: self.contexts[depth].id, value })
    }

    /// The value of a parameter in the innermost net.
    pub fn parameter_value(&mut self, name: &str) -> Result<Value> {
        let depth = self.contexts.iter().rposition(|c| c.purpose != Purpose::Step).unwrap_or(0);
        let Some(ty) = self.parameters.iter().find(|p| p.info.name == name).map(|p| p.info.ty.clone()) else {
            unreachable!("a parameter is declared before it is read");
        };
        let context = &mut self.contexts[depth];
        if let Some(v) = context.parameters.get(name) {
            return Ok(*v);
        }
        let value = context.graph.add(Op::Parameter { name: name.into(), ty }, &[]);
        context.parameters.insert(name.into(), value);
        Ok(value)
    }

    fn initial_value(&mut self, value: Val, ty: &Type, span: Span) -> Result<Option<Value>> {
        if matches!(value, Val::Nothing) {
            return Ok(None);
        }
        if matches!(value, Val::Unknown) {
            return self.fail(span, "an initial value depends on an input", "this is not known when the layer is declared");
        }
        let v = self.lift(value, Some(ty.dtype), span)?;
        let v = self.cast(v, ty.dtype, span)?;
        let actual = self.ty(v);
        if !snn_ir::infer::broadcasts(&actual.shape, &ty.shape) {
            return self.fail(span, format!("the initial value is {actual}, and the parameter is {ty}"), "this has another shape");
        }
        self.broadcast(v, &ty.shape, span).map(Some)
    }

    /// Redraws the weights of linear and convolution layers below a prefix first, from Kaiming's normal distribution.
    pub fn draw_first(&mut self, prefix: &str, span: Span) {
        let mut found = false;
        for p in &mut self.parameters {
            if p.is_weight && p.info.name.starts_with(prefix) {
                found = true;
                p.info.drawn_first = true;
                p.info.initial = kaiming_normal(&p.info.ty).into();
            }
        }
        if !found {
            let d = Diagnostic::warning("`kaiming_normal_conv_linear_weight` finds no layer to initialise")
                .help("it draws the weights of `linear`, `conv1d`, `conv2d` and `conv3d` layers");
            self.warn(span, d, "has no effect");
        }
    }

    /// What `layer.name` is.
    pub fn layer_field(&mut self, index: usize, field: &Name, span: Span) -> Result<Val> {
        self.layers[index].read = true;
        let layer = self.layers[index].clone();
        if let Some(v) = layer.states.get(&field.text) {
            return Ok(v.clone());
        }
        let full = format!("{}{}", layer.prefix, field.text);
        if self.parameters.iter().any(|p| p.info.name == full) {
            let value = self.parameter_value(&full)?;
            return Ok(self.tensor(value));
        }
        if let Some(s) = layer.settings.iter().find(|s| s.name == field.text) {
            return Ok(s.value.clone());
        }
        // A layer inside of it, or a list of them; of several applications the last.
        let inner = format!("{full}.");
        if let Some(i) = self.layers.iter().rposition(|l| l.prefix == inner) {
            self.layers[i].read = true;
            return Ok(Val::Layer(i));
        }
        let numbered = |n: usize| format!("{inner}{n}.");
        let list: Vec<Val> = (0..).map_while(|n| self.layers.iter().rposition(|l| l.prefix == numbered(n))).map(Val::Layer).collect();
        if !list.is_empty() {
            return Ok(Val::List(list));
        }
        let item = self.item(layer.item);
        let states = state_names(item);
        if states.contains(&field.text.as_str()) {
            let message = format!("`{}` is not applied before its state `{}` is asked for", layer.name, field.text);
            return self.fail_help(span, message, "not known yet", format!("apply it first: `let y = {}(x)`", layer.name));
        }
        let parameters = self.parameters.iter().filter_map(|p| p.info.name.strip_prefix(&layer.prefix).map(str::to_string));
        let known: Vec<String> =
            parameters.chain(layer.settings.iter().map(|s| s.name.clone())).chain(states.iter().map(|s| s.to_string())).collect();
        let near = snn_syntax::nearest(&field.text, known.iter().map(String::as_str)).map(|n| format!("did you mean `{n}`?"));
        let help = near.unwrap_or_else(|| format!("it has: {}", known.join(", ")));
        self.fail_help(field.span, format!("the layer `{}` has no `{}`", layer.name, field.text), "not found", help)
    }

    /// Applies a layer to its inputs.
    pub fn apply_layer(&mut self, index: usize, given: Vec<Given>, span: Span) -> Result<Val> {
        let layer = self.layers[index].clone();
        self.layers[index].used = true;
        let item = self.item(layer.item);
        let names: Vec<&str> = item.inputs.iter().map(|i| i.name.text.as_str()).collect();
        if let Some(g) = given.iter().find(|g| g.name.as_ref().is_some_and(|n| layer.settings.iter().any(|s| s.name == *n))) {
            let message = "the settings of a layer are given where it is declared";
            let help = format!("write `layer {} = {}(..., {})`", layer.name, item.name.text, self.module.sources.text(g.span));
            return self.fail_help(g.span, message, "this is a setting", help);
        }
        let (given, inits) = take_inits(item, given);
        let sorted = sort_arguments(self, &layer.name, &names, given)?;
        let inputs = self.required_inputs(item, sorted, span)?;
        if item.kind == ItemKind::Net {
            return self.apply_net(layer.item, layer.settings, layer.prefix, inputs, span);
        }
        if let (Some((place, label)), Some(Val::Tensor { context, value })) = (&layer.margin, inputs.first().map(|g| g.value.clone())) {
            let value = self.import(context, value, span)?;
            let actual = self.ty(value);
            if !actual.shape[usize::from(actual.rank() > 0)..].ends_with(&label.shape) {
                let message = format!(
                    "the output of `{}` is {actual}, which does not end in the label's {}",
                    layer.name,
                    snn_ir::types::shape_text(&label.shape)
                );
                let d = self.at(Diagnostic::error(message), *place, format!("this label is {label}"));
                return Err(Stop::Say(Box::new(d.label(span, format!("applied to {actual} here")))));
            }
        }
        let (value, states) = self.apply_neuron(layer.item, &layer.settings, &layer.prefix, inputs, inits, span)?;
        self.layers[index].states = states;
        Ok(value)
    }
}

pub(crate) fn state_names(item: &snn_syntax::ast::Item) -> Vec<&str> {
    let Body::Block(block) = &item.body else { return vec![] };
    block
        .statements
        .iter()
        .filter_map(|s| match &s.kind {
            StatementKind::State { name, .. } => Some(name.text.as_str()),
            _ => None,
        })
        .collect()
}

/// `N(0, gain^2 / fan_in)` with `gain = sqrt(2 / (1 + 5))`: PyTorch's `kaiming_normal_(w, a = sqrt(5))`.
fn kaiming_normal(ty: &Type) -> Graph {
    let mut graph = Graph::new("kaiming_normal");
    let fan_in = snn_ir::Dim::product(&ty.shape[1..]).as_constant().unwrap_or(1).max(1);
    let deviation = (2.0f64 / 6.0).sqrt() / (fan_in as f64).sqrt();
    let random = graph.add(Op::Random { distribution: Distribution::Normal, stream: 0, shape: ty.shape.clone() }, &[]);
    let scale = graph.add(Op::Constant(Tensor::scalar(deviation as f32)), &[]);
    let scale = graph.add(Op::Broadcast { axes: vec![], shape: ty.shape.clone() }, &[scale]);
    let out = graph.add(Op::Binary(snn_ir::BinaryOp::Mul), &[random, scale]);
    graph.outputs.push(("out".into(), out));
    graph
}

//! Calls: which argument is which, and what is called.

use std::collections::HashMap;
use std::rc::Rc;

use snn_syntax::ast::{Argument, ExprKind, Item, ItemKind};
use snn_syntax::{Diagnostic, Span, nearest};

use crate::context::{Lowerer, Result, Stop};
use crate::value::{ItemRef, Partial, SurrogateValue, Val};

/// The value of a setting or input, with the place that gave it.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub name: String,
    pub value: Val,
    pub span: Span,
}

/// An argument whose value is known.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub name: Option<String>,
    pub value: Val,
    pub span: Span,
}

/// Sorts arguments to the names that a callee has; positional ones go in order. `None` where nothing was given.
pub(crate) fn sort_arguments(lowerer: &Lowerer<'_>, callee: &str, names: &[&str], given: Vec<Given>) -> Result<Vec<Option<Given>>> {
    let mut sorted: Vec<Option<Given>> = vec![None; names.len()];
    let mut next = 0;
    for argument in given {
        let slot = match &argument.name {
            Some(name) => match names.iter().position(|n| n == name) {
                Some(i) => i,
                None => {
                    let near = nearest(name, names.iter().copied()).map(|n| format!("did you mean `{n}`? "));
                    let list = if names.is_empty() { "it takes nothing".into() } else { format!("it takes: {}", names.join(", ")) };
                    let message = format!("`{callee}` has no setting `{name}`");
                    return lowerer.fail_help(argument.span, message, "not known", near.unwrap_or_default() + &list);
                }
            },
            None => {
                while next < sorted.len() && sorted[next].is_some() {
                    next += 1;
                }
                next
            }
        };
        if slot >= sorted.len() {
            let list = if names.is_empty() { "it takes nothing".into() } else { format!("it takes: {}", names.join(", ")) };
            return lowerer.fail_help(argument.span, format!("too many arguments for `{callee}`"), "this one is left over", list);
        }
        if let Some(before) = &sorted[slot] {
            let d = Diagnostic::error(format!("`{}` of `{callee}` is given twice", names[slot]));
            return Err(Stop::Say(Box::new(lowerer.at(d, argument.span, "again here").label(before.span, "first here"))));
        }
        sorted[slot] = Some(argument);
    }
    Ok(sorted)
}

impl Lowerer<'_> {
    pub fn given(&mut self, arguments: &[Argument]) -> Result<Vec<Given>> {
        let file = self.frame().file;
        let mut given = Vec::new();
        for a in arguments {
            let span = a
                .name
                .as_ref()
                .map_or(self.ast(file).expr(a.value).span, |n| Span { end: self.ast(file).expr(a.value).span.end, ..n.span });
            let value = self.eval(a.value)?;
            if matches!(value, Val::Poison) {
                return Err(Stop::Said);
            }
            self.decimal_comma(given.last(), a, span)?;
            given.push(Given { name: a.name.as_ref().map(|n| n.text.clone()), value, span });
        }
        Ok(given)
    }

    /// `tau=2,0`: a number that a comma has made two arguments of.
    fn decimal_comma(&self, before: Option<&Given>, a: &Argument, span: Span) -> Result<()> {
        let Some(b) = before.filter(|b| b.name.is_some() && a.name.is_none()) else { return Ok(()) };
        let (first, second) = (self.module.sources.text(b.span), self.module.sources.text(span));
        let whole = self.module.sources.whole(span.file);
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|c| c.is_ascii_digit());
        let number = first.rsplit('=').next().unwrap_or_default().trim();
        if b.span.file == span.file && whole.get(b.span.end..span.start) == Some(",") && digits(number) && digits(second) {
            let place = Span { end: span.end, ..b.span };
            let help = format!("write `{number}.{second}`, or a space after the comma where two arguments are meant");
            return self.fail_help(place, "a decimal point is a point, not a comma", "two arguments", help);
        }
        Ok(())
    }

    /// The item that a name means in this frame.
    pub fn resolve_item(&self, name: &str, kinds: &[ItemKind]) -> Option<ItemRef> {
        let own = self.frames.last().map_or(0, |f| f.file);
        self.item_of_file(own, name, kinds).or_else(|| self.item_of_file(1, name, kinds))
    }

    /// The item that a name means in a file, or in a file that it has chosen the name from.
    pub fn item_of_file(&self, file: u16, name: &str, kinds: &[ItemKind]) -> Option<ItemRef> {
        let items = &self.ast(file).items;
        if file == 1 {
            // The library uses no files.
            let index = crate::library_items(name).iter().copied().find(|i| kinds.contains(&items[*i].kind))?;
            return Some(ItemRef { file, index });
        }
        if let Some(index) = items.iter().position(|i| i.name.text == name && kinds.contains(&i.kind)) {
            return Some(ItemRef { file, index });
        }
        let chosen = |i: &&Item| i.uses.as_ref().is_some_and(|u| u.chosen.iter().any(|n| n.text == name));
        let from = items.iter().find(chosen).and_then(|i| self.module.used(file, i))?;
        self.item_of_file(from, name, kinds)
    }

    /// A call by name or of a value, with its evaluated arguments.
    pub fn call(&mut self, callee: snn_syntax::ast::ExprId, given: Vec<Given>, span: Span) -> Result<Val> {
        let file = self.frame().file;
        let expr = self.ast(file).expr(callee);
        if let ExprKind::Name(name) = &expr.kind
            && self.frames.last().is_some_and(|f| f.scopes.iter().all(|s| !s.contains_key(name)))
        {
            return self.call_name(name, given, span, expr.span);
        }
        let value = self.eval(callee)?;
        self.call_value(value, given, span, expr.span)
    }

    /// Calls a value; a list of layers is applied one after the other.
    pub fn call_value(&mut self, value: Val, given: Vec<Given>, span: Span, place: Span) -> Result<Val> {
        match value {
            Val::Layer(index) => self.apply_layer(index, given, span),
            Val::Item(item) => self.call_item(item, given, span),
            Val::Partial(p) => self.call_partial(&p, given, span),
            Val::Builtin(name) => self.call_builtin(name, given, span),
            Val::List(items) => {
                let mut given = given;
                if items.is_empty() {
                    return match given.as_slice() {
                        [Given { name: None, value, .. }] => Ok(value.clone()),
                        _ => self.fail(place, "an empty list of layers takes one value, and gives it", "this is called"),
                    };
                }
                let mut result = Val::Nothing;
                for (i, item) in items.into_iter().enumerate() {
                    if i > 0 {
                        given = vec![Given { name: None, value: result, span }];
                    }
                    result = self.call_value(item, std::mem::take(&mut given), span, place)?;
                }
                Ok(result)
            }
            Val::Poison => Err(Stop::Said),
            Val::Unknown => Ok(Val::Unknown),
            Val::ThisNet => self.fail_help(
                place,
                "`net` is a reserved word: it means the net that is being written",
                "this is called",
                "give the layer another name, or call it `net.net`",
            ),
            other => self.fail(place, format!("{} cannot be called", other.describe()), "this is called"),
        }
    }

    /// A net or neuron that has some settings already is given more, or its inputs.
    fn call_partial(&mut self, partial: &Partial, given: Vec<Given>, span: Span) -> Result<Val> {
        let more: Vec<&str> = given.iter().filter_map(|g| g.name.as_deref()).collect();
        let before = partial.given.iter().filter(|g| !more.contains(&g.name.as_deref().unwrap_or_default()));
        let all = before.cloned().chain(given.iter().cloned()).collect();
        self.call_item(partial.item, all, span)
    }

    pub fn call_name(&mut self, name: &str, given: Vec<Given>, span: Span, name_span: Span) -> Result<Val> {
        use ItemKind::{Function, Net, Neuron, Surrogate};
        // A surrogate may share its name with a function of tensors: that one is called with a tensor.
        let with_tensor = given.iter().any(|g| g.name.is_none());
        let surrogate = self.resolve_item(name, &[Surrogate]).filter(|_| !with_tensor);
        if let Some(item) = surrogate.or_else(|| self.resolve_item(name, &[Function, Net, Neuron])) {
            return self.call_item(item, given, span);
        }
        if let Some(name) = crate::builtins::names().find(|n| *n == name) {
            return self.call_builtin(name, given, span);
        }
        let known = self.known_names();
        let near = || nearest(name, known.iter().map(String::as_str)).map(|n| format!("did you mean `{n}`?"));
        let help = self.help_for_unknown(name, name_span).or_else(near);
        let help = help.unwrap_or_else(|| "declare it as a `net`, `neuron`, `surrogate` or `fn` of this file".into());
        self.fail_help(name_span, format!("`{name}` is not known"), "not found", help)
    }

    pub fn call_item(&mut self, item: ItemRef, given: Vec<Given>, span: Span) -> Result<Val> {
        let declared = self.item(item);
        match declared.kind {
            ItemKind::Constant | ItemKind::Use => self.fail(span, format!("`{}` is not a function", declared.name.text), "called here"),
            ItemKind::Function => self.call_function(item, given, span),
            ItemKind::Surrogate => {
                let names: Vec<&str> = declared.settings.iter().map(|s| s.name.text.as_str()).collect();
                let sorted = sort_arguments(self, &declared.name.text, &names, given)?;
                let settings = self.fill_settings(item, sorted, span)?;
                Ok(Val::Surrogate(Rc::new(SurrogateValue { item, settings })))
            }
            ItemKind::Neuron | ItemKind::Net => {
                let is_setting = |g: &Given| g.name.as_ref().is_some_and(|n| declared.settings.iter().any(|s| s.name.text == *n));
                let (given, inits) = take_inits(declared, given);
                if !declared.inputs.is_empty() && given.iter().all(is_setting) {
                    return Ok(Val::Partial(Rc::new(Partial { item, given })));
                }
                let names = input_and_setting_names(declared);
                let mut sorted = sort_arguments(self, &declared.name.text, &names, given)?;
                let settings = sorted.split_off(declared.inputs.len());
                let inputs = self.required_inputs(declared, sorted, span)?;
                let has_parameters =
                    item.file == 1 && has_parameters(declared) || declared.kind == ItemKind::Neuron && has_parameters(declared);
                if has_parameters {
                    let name = &declared.name.text;
                    return self.fail_help(
                        span,
                        format!("`{name}` has parameters of its own"),
                        "used without a `layer` line",
                        format!("declare it: `layer a = {name}(...)`, then `a(x)`"),
                    );
                }
                let settings = self.fill_settings(item, settings, span)?;
                if declared.kind == ItemKind::Neuron {
                    let (value, _) = self.apply_neuron(item, &settings, "", inputs, inits, span)?;
                    Ok(value)
                } else {
                    let prefix = self.frame().prefix.clone();
                    self.apply_net(item, settings, prefix, inputs, span)
                }
            }
        }
    }

    pub fn required_inputs(&self, item: &Item, sorted: Vec<Option<Given>>, span: Span) -> Result<Vec<Given>> {
        let mut inputs = Vec::new();
        for (declared, given) in item.inputs.iter().zip(sorted) {
            match given {
                Some(g) => inputs.push(g),
                None => {
                    let (name, missing) = (&item.name.text, &declared.name.text);
                    return self.fail(span, format!("`{name}` needs its input `{missing}`"), "not given here");
                }
            }
        }
        Ok(inputs)
    }

    /// The values of all settings of an item: those given, else the defaults, which see the settings before them.
    pub fn fill_settings(&mut self, item: ItemRef, given: Vec<Option<Given>>, span: Span) -> Result<Vec<Bound>> {
        let declared = self.item(item);
        let mut settings: Vec<Bound> = Vec::new();
        for (setting, given) in declared.settings.iter().zip(given) {
            let name = setting.name.text.clone();
            let bound = match (given, setting.default) {
                (Some(g), _) => Bound { name, value: g.value, span: g.span },
                (None, Some(default)) => {
                    let value = self.enter(item, "", Some(span)).and_then(|()| {
                        for s in &settings {
                            self.bind(&s.name, s.value.clone());
                        }
                        self.eval(default)
                    });
                    self.frames.pop();
                    Bound { name, value: value?, span: setting.name.span }
                }
                (None, None) => {
                    let callee = &declared.name.text;
                    let all: Vec<&str> = declared.settings.iter().map(|s| s.name.text.as_str()).collect();
                    return self.fail_help(
                        span,
                        format!("`{callee}` needs its setting `{name}`"),
                        "not given here",
                        format!("its settings are: {}", all.join(", ")),
                    );
                }
            };
            settings.push(bound);
        }
        Ok(settings)
    }

    fn call_function(&mut self, item: ItemRef, given: Vec<Given>, span: Span) -> Result<Val> {
        let declared = self.item(item);
        let names = input_and_setting_names(declared);
        let mut sorted = sort_arguments(self, &declared.name.text, &names, given)?;
        let settings = sorted.split_off(declared.inputs.len());
        let inputs = self.required_inputs(declared, sorted, span)?;
        let settings = self.fill_settings(item, settings, span)?;
        let recording = self.recording_function(item, &inputs, &settings);
        let result = self.enter(item, "", Some(span)).and_then(|()| self.function_body(declared, inputs, settings));
        self.frames.pop();
        if let Ok(value) = &result {
            self.record(recording, value);
        }
        result
    }

    fn function_body(&mut self, declared: &Item, inputs: Vec<Given>, settings: Vec<Bound>) -> Result<Val> {
        for s in settings {
            self.bind(&s.name, s.value);
        }
        for (input, g) in declared.inputs.iter().zip(inputs) {
            if let (Some(ty), Val::Tensor { value, context }) = (&input.ty, &g.value) {
                let value = self.import(*context, *value, g.span)?;
                let actual = self.ty(value);
                self.match_type(ty, &input.name.text, &actual, g.span)?;
            }
            self.bind(&input.name.text, g.value);
        }
        self.body_value(&declared.body)
    }
}

/// Initial values of states, which are given as `init_NAME`, apart from the other arguments.
pub(crate) fn take_inits(item: &Item, given: Vec<Given>) -> (Vec<Given>, HashMap<String, Given>) {
    let states = crate::parameter::state_names(item);
    let mut inits = HashMap::new();
    let mut others = Vec::new();
    for g in given {
        let state = g.name.as_deref().and_then(|n| n.strip_prefix("init_")).filter(|n| states.contains(n)).map(str::to_string);
        // A setting of that name comes first.
        let is_setting = item.settings.iter().any(|s| Some(&s.name.text) == g.name.as_ref());
        match state.filter(|_| !is_setting) {
            Some(state) => {
                inits.insert(state, g);
            }
            None => others.push(g),
        }
    }
    (others, inits)
}

pub(crate) fn input_and_setting_names(item: &Item) -> Vec<&str> {
    item.inputs.iter().map(|i| i.name.text.as_str()).chain(item.settings.iter().map(|s| s.name.text.as_str())).collect()
}

/// Does the body of an item declare parameters or layers?
pub(crate) fn has_parameters(item: &Item) -> bool {
    use snn_syntax::ast::{Body, StatementKind};
    match &item.body {
        Body::Expression(_) => false,
        Body::Block(b) => b.statements.iter().any(|s| matches!(s.kind, StatementKind::Parameter { .. } | StatementKind::Layer { .. })),
    }
}

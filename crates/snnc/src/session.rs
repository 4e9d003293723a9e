//! A session of the REPL: definitions, layers and values that live from one entry to the next.
//!
//! Nothing is interpreted here. An entry becomes a net whose inputs are the session's values and whose first lines are the session's
//! layers, and goes through the same compiler as a file. An entry that fails changes nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use snn_ir::{DType, Graph, Tensor};

use crate::error::SessionError;
use crate::{Backends, CompileOptions, Error, Mode, Options, Program};

/// The name of the net that an entry becomes.
const NET: &str = "session";

/// What lives from one entry to the next.
#[derive(Clone)]
pub struct Session {
    /// Items by name: nets, neurons, surrogates, functions.
    items: Vec<(String, String)>,
    /// Lines of the session's net: layers by name, and calls of helpers.
    lines: Vec<(Option<String>, String)>,
    /// Values by name.
    values: Vec<(String, Tensor)>,
    /// Parameters and buffers of the layers.
    weights: Vec<(String, Tensor)>,
    /// The expression that applied each layer last, so that later entries can read its states, `n.v`.
    applied: Vec<(String, String)>,
    /// How entries are compiled.
    pub options: CompileOptions,
}

/// What an entry gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Values by name.
    Values(Vec<(String, Tensor)>),
    /// Something to say; empty where there is nothing.
    Said(String),
}

/// An entry by its first word.
enum Entry<'a> {
    Item(&'a str),
    Line(Option<&'a str>),
    Let(&'a str, &'a str),
    Expression,
}

impl Session {
    /// An empty session. Layers come one after the other: `partial` is set, so that a new one's parameters are drawn and the others stay.
    pub fn new(options: CompileOptions) -> Session {
        Session { items: vec![], lines: vec![], values: vec![], weights: vec![], applied: vec![], options: options.partial(true) }
    }

    /// Evaluates one entry of the language.
    ///
    /// # Errors
    /// What is wrong with it. The session is as before.
    pub fn enter(&mut self, text: &str) -> Result<Reply, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Reply::Said(String::new()));
        }
        // A defect below must not take the session with it.
        let entered = catch_unwind(AssertUnwindSafe(|| self.entered(text)));
        let entered = entered.unwrap_or_else(|_| Err(SessionError::Defect.into()));
        entered.map_err(|e| as_typed(e, text))
    }

    fn entered(&mut self, text: &str) -> Result<Reply, Error> {
        match classify(text) {
            Entry::Item(name) => {
                let mut next = self.clone();
                let replaced = remove(&mut next.items, name);
                next.items.push((name.to_string(), text.to_string()));
                next.lowered("0.0")?;
                next.check_last_item()?;
                *self = next;
                Ok(Reply::Said(if replaced { format!("`{name}` is replaced") } else { String::new() }))
            }
            Entry::Line(name) => {
                let mut next = self.clone();
                let mut said = String::new();
                if let Some(name) = name {
                    let before = next.lines.len();
                    next.lines.retain(|(n, _)| n.as_deref() != Some(name));
                    if next.lines.len() < before || remove(&mut next.values, name) {
                        said = format!("`{name}` is replaced");
                    }
                    next.weights.retain(|(n, _)| !n.starts_with(&format!("{name}.")));
                    remove(&mut next.applied, name);
                } else {
                    // A helper's later call is the one that counts: `set_threshold_margin(out, ...` for the same layer.
                    let call = |line: &str| line.split([',', ')']).next().unwrap_or_default().replace(' ', "");
                    next.lines.retain(|(n, line)| n.is_some() || call(line) != call(text));
                    if text.starts_with("kaiming_normal_conv_linear_weight") {
                        next.weights.clear();
                    }
                }
                next.lines.push((name.map(str::to_string), text.to_string()));
                next.lowered("0.0")?;
                *self = next;
                Ok(Reply::Said(said))
            }
            Entry::Let(name, value) => {
                let mut outputs = self.evaluate(value)?;
                if outputs.len() != 1 {
                    return Err(SessionError::Several { name: name.to_string(), count: outputs.len() }.into());
                }
                let replaced = remove(&mut self.values, name);
                self.lines.retain(|(n, _)| n.as_deref() != Some(name));
                self.values.push((name.to_string(), outputs.remove(0).1));
                self.note_applied(value);
                Ok(Reply::Said(if replaced { format!("`{name}` is replaced") } else { String::new() }))
            }
            Entry::Expression => {
                let values = self.evaluate(text)?;
                self.note_applied(text);
                // The last value that was shown is `_`.
                if let [(_, value)] = values.as_slice() {
                    remove(&mut self.values, LAST);
                    self.values.push((LAST.to_string(), value.clone()));
                }
                Ok(Reply::Values(values))
            }
        }
    }

    /// Remembers which layers an expression has applied.
    fn note_applied(&mut self, expression: &str) {
        let layers: Vec<String> = self.lines.iter().filter_map(|(n, line)| n.clone().filter(|_| line.starts_with("layer"))).collect();
        for layer in layers.into_iter().filter(|n| applies(expression, n)) {
            remove(&mut self.applied, &layer);
            self.applied.push((layer, expression.to_string()));
        }
    }

    /// An error if something is wrong with the item that was entered last. Others, which may call it, are told when they are used.
    fn check_last_item(&self) -> Result<(), Error> {
        let program = self.program("0.0")?;
        let start: usize = self.items.iter().rev().skip(1).map(|(_, text)| text.len() + 1).sum();
        let end = self.items.last().map_or(start, |(_, text)| start + text.len());
        let own = |d: &crate::Diagnostic| d.labels.first().is_some_and(|(s, _)| s.file == 0 && s.start >= start && s.end <= end);
        let mut wrong = program.check(self.options.mode);
        wrong.retain(|d| d.severity == crate::Severity::Error && own(d));
        if wrong.is_empty() { Ok(()) } else { Err(program.error(wrong)) }
    }

    /// The program that an expression becomes.
    fn program(&self, expression: &str) -> Result<Program, Error> {
        let mut text = String::new();
        for (_, item) in &self.items {
            text.push_str(item);
            text.push('\n');
        }
        let used = |n: &str| n != LAST || mentions(expression, LAST, |_| true, |_| true);
        let inputs: Vec<String> = self.values.iter().filter(|(n, _)| used(n)).map(|(n, t)| format!("{n}: {}", t.ty())).collect();
        text.push_str(&format!("net {NET}({}) {{\n", inputs.join(", ")));
        for (_, line) in &self.lines {
            text.push_str(&format!("    {line}\n"));
        }
        // A layer whose states are read and that the entry does not apply itself: as it was applied last.
        for (k, (layer, last)) in self.applied.iter().enumerate() {
            if reads_fields(expression, layer) && !applies(expression, layer) {
                text.push_str(&format!("    let session_{k} = {last}\n"));
            }
        }
        text.push_str(&format!("    {expression}\n}}\n"));
        Program::parse("session", &text)
    }

    /// The graph of an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn lowered(&self, expression: &str) -> Result<Graph, Error> {
        let options = Options { mode: self.options.mode, dims: self.options.dims.clone(), rest: None, ..Default::default() };
        self.program(expression).and_then(|p| p.lower(Some(NET), &options)).map_err(without_warnings).map_err(|e| as_typed(e, expression))
    }

    /// An expression at a stage of the compiler, as text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn stage(&self, expression: &str, stage: crate::stages::Stage) -> Result<String, Error> {
        let made =
            self.program(expression).and_then(|p| crate::stages::stage(&p, Some(NET), stage, &self.passes(), crate::DeviceName::Cpu));
        made.map_err(without_warnings).map_err(|e| as_typed(e, expression))
    }

    /// The graph of an expression as it is written, and after the optimiser.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn before_and_after(&self, expression: &str) -> Result<[Graph; 2], Error> {
        let made = self.program(expression).and_then(|p| crate::stages::before_and_after(&p, Some(NET), &self.passes()));
        made.map_err(without_warnings).map_err(|e| as_typed(e, expression))
    }

    fn passes(&self) -> crate::PassOptions {
        self.options.passes(Options { mode: self.options.mode, dims: self.options.dims.clone(), rest: None, ..Default::default() })
    }

    /// The syntax tree of an expression, as text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn syntax(&self, expression: &str) -> Result<String, Error> {
        let program = Program::parse("session", &format!("net {NET}() {{\n    {expression}\n}}\n"))?;
        Ok(snn_syntax::dump(&program.module().ast))
    }

    fn run(&self, expression: &str, options: &CompileOptions) -> Result<crate::Run, Error> {
        let net = self.program(expression)?.compile(Some(NET), options)?;
        let weights = net.own_weights(&self.weights).map_err(without_warnings)?;
        net.run(&self.values, &weights).map_err(without_warnings)
    }

    fn evaluate(&mut self, expression: &str) -> Result<Vec<(String, Tensor)>, Error> {
        let run = self.run(expression, &self.options)?;
        for (name, tensor) in run.parameters.into_iter().chain(run.updates) {
            remove(&mut self.weights, &name);
            self.weights.push((name, tensor));
        }
        Ok(run.outputs.into())
    }

    /// The value of a scalar expression and its gradients with respect to values and parameters of the session.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn gradient(&self, expression: &str, wrt: &[String]) -> Result<Vec<(String, Tensor)>, Error> {
        let options = self.options.clone().gradients(wrt.to_vec());
        Ok(self.run(expression, &options).map_err(|e| as_typed(e, expression))?.outputs.into())
    }

    /// Milliseconds to compile an expression, and the least of several runs.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn time(&self, expression: &str) -> Result<(f64, f64), Error> {
        self.timed(expression).map_err(without_warnings).map_err(|e| as_typed(e, expression))
    }

    fn timed(&self, expression: &str) -> Result<(f64, f64), Error> {
        let ms = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        let net = self.program(expression)?.compile(Some(NET), &self.options)?;
        let prepared = net.prepare(&self.values, &net.own_weights(&self.weights)?)?;
        let compile = ms(start);
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            let run = prepared.run()?;
            best = best.min(ms(start));
            prepared.recycle(run);
        }
        Ok((compile, best))
    }

    /// Reads a program's items, or a file's tensors as values.
    ///
    /// # Errors
    /// If the file cannot be read, or a name is none of the language.
    pub fn load(&mut self, path: &str) -> Result<String, Error> {
        if !path.ends_with(".snn") {
            let tensors = crate::load(path)?;
            let mut names = Vec::new();
            for (name, tensor) in tensors {
                // Names of a state_dict are parameters of layers.
                let list = if name.contains('.') { &mut self.weights } else { &mut self.values };
                remove(list, &name);
                names.push(format!("{name}: {}", tensor.ty()));
                list.push((name, tensor));
            }
            return Ok(names.join("\n"));
        }
        let text = std::fs::read_to_string(path).map_err(|reason| SessionError::Unreadable { path: path.to_string(), reason })?;
        self.define(path, &text)
    }

    /// Takes the items of a program, and gives their names; `path` is what messages call it.
    ///
    /// # Errors
    /// What is wrong with the program.
    pub fn define(&mut self, path: &str, text: &str) -> Result<String, Error> {
        let program = Program::parse(path, text)?;
        let mut next = self.clone();
        let mut names = Vec::new();
        for item in &program.module().ast.items {
            let name = item.name.text.clone();
            remove(&mut next.items, &name);
            let span = item.span;
            next.items.push((name.clone(), text[span.start..span.end].to_string()));
            names.push(name);
        }
        // A program with a mistake anywhere changes nothing.
        let mut wrong = program.check(self.options.mode);
        wrong.retain(|d| d.severity == crate::Severity::Error);
        if !wrong.is_empty() {
            return Err(program.error(wrong));
        }
        next.lowered("0.0")?;
        *self = next;
        Ok(names.join(", "))
    }

    /// The text of a net, neuron, surrogate or function of the session.
    pub fn item(&self, name: &str) -> Option<&str> {
        self.items.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }

    /// The fields of a layer of the session: its parameters, and the states of its neuron.
    pub fn fields(&self, layer: &str) -> Vec<String> {
        let Some((_, line)) = self.lines.iter().find(|(n, _)| n.as_deref() == Some(layer)) else { return vec![] };
        let called = line.split_once('=').map_or("", |(_, call)| call.trim());
        let called = &called[..called.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(called.len())];
        let text = self.item(called).map(str::to_string).or_else(|| snn_front::documentation(called)).unwrap_or_default();
        let states = snn_syntax::declarations(&text).filter(|(word, ..)| *word == "state").map(|(_, name, _)| name);
        let prefix = format!("{layer}.");
        let parameters = self.weights.iter().filter_map(|(n, _)| n.strip_prefix(&prefix).map(str::to_string));
        let mut all: Vec<String> = states.chain(parameters).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Moves the parameters of the session's layers along the gradient of a scalar, by Adam, and gives the losses before the first and after the last of `steps`.
    ///
    /// # Errors
    /// What is wrong with the expression, and a loss that is not finite.
    pub fn train(&mut self, expression: &str, steps: usize, learning_rate: f64) -> Result<(f32, f32), Error> {
        self.trained(expression, steps, learning_rate).map_err(without_warnings).map_err(|e| as_typed(e, expression))
    }

    fn trained(&mut self, expression: &str, steps: usize, learning_rate: f64) -> Result<(f32, f32), Error> {
        let update = snn_train::Update::from(snn_train::Optimizer::ADAM);
        let options = self.options.clone().update(update.clone());
        let program = self.program(expression)?;
        let mut trainer = crate::Trainer::new(&program, NET, &options)?;
        let own = program.compile(Some(NET), &self.options)?.own_weights(&self.weights).map_err(without_warnings)?;
        let (mut state, independent) = trainer.start(&self.values, &own).map_err(without_warnings)?;
        let moves = |n: &String| !n.starts_with(snn_train::update::PREFIX) && !independent.contains(n);
        if !state.tensors.iter().any(|(n, _)| moves(n)) {
            return Err(SessionError::NothingToTrain.into());
        }
        let (mut first, mut last) = (None, f32::NAN);
        for step in 0..steps {
            let numbers = update.numbers(learning_rate, |rate| rate, step as u64 + 1, snn_train::Part::WHOLE);
            state.set_numbers(numbers);
            let result = snn_train::Step::step(&mut trainer, &self.values, &mut state.tensors, step as u64)?;
            last = result.loss;
            if !result.loss.is_finite() || result.not_finite.is_some() {
                return Err(SessionError::Diverged { loss: result.loss, step: step + 1 }.into());
            }
            first.get_or_insert(last);
            if snn_ir::interrupt::is_wanted() {
                break;
            }
        }
        snn_train::Step::sync_to_host(&mut trainer, &mut state.tensors)?;
        for (name, tensor) in state.tensors.into_iter().filter(|(n, _)| !n.starts_with(snn_train::update::PREFIX)) {
            remove(&mut self.weights, &name);
            self.weights.push((name, tensor));
        }
        Ok((first.unwrap_or(last), last))
    }

    /// A value by name.
    pub fn value(&self, name: &str) -> Option<&Tensor> {
        self.values.iter().chain(&self.weights).find(|(n, _)| n == name).map(|(_, t)| t)
    }

    /// All names with what they are.
    pub fn names(&self) -> Vec<(String, String)> {
        let items = self.items.iter().map(|(n, t)| (n.clone(), t.split_whitespace().next().unwrap_or_default().to_string()));
        let layers = self.lines.iter().filter_map(|(n, t)| Some((n.clone()?, t.clone())));
        let tensors = self.values.iter().chain(&self.weights).map(|(n, t)| (n.clone(), t.ty().to_string()));
        items.chain(layers).chain(tensors).collect()
    }

    /// Forgets everything but the options.
    pub fn reset(&mut self) {
        *self = Session::new(self.options.clone());
    }

    /// Chooses evaluation or training, or a backend, by name.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn set(&mut self, what: &str, name: &str) -> Result<(), Error> {
        match (what, name) {
            ("mode", "eval") => self.options.mode = Mode::Eval,
            ("mode", "train") => self.options.mode = Mode::Train,
            ("mode", _) => {
                return Err(Error::Unknown { what: "there is no mode", name: name.to_string(), known: vec!["eval", "train"] });
            }
            _ => {
                let backend: Backends = name.parse()?;
                backend.backend(1, snn_cpu::Products::default())?;
                self.options.backend = backend;
            }
        }
        Ok(())
    }
}

/// What the last value that was shown is called.
const LAST: &str = "_";

/// Is a name in a text, followed by what `after` accepts?
fn mentions(text: &str, name: &str, before: impl Fn(&str) -> bool, after: impl Fn(&str) -> bool) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let (left, right) = (&text[..at], &text[at + name.len()..]);
        !left.ends_with(|c| is_word(c) || c == '.') && !right.starts_with(is_word) && (before(left) || after(right))
    })
}

/// Does an expression apply a layer, as `n(...)` or `|> n`?
fn applies(expression: &str, layer: &str) -> bool {
    mentions(expression, layer, |left| left.trim_end().ends_with("|>"), |right| right.starts_with('('))
}

/// Does an expression read a field of a layer, `n.v`?
fn reads_fields(expression: &str, layer: &str) -> bool {
    mentions(expression, layer, |_| false, |right| right.starts_with('.'))
}

/// An error with places in what was typed, rather than in the program that it became.
fn as_typed(error: Error, typed: &str) -> Error {
    let Error::Source { sources, mut diagnostics } = error else { return error };
    // The program is the session's, or a file's.
    let whole = sources.whole(0).to_string();
    if sources.name(0) != "session" {
        return Error::Source { sources, diagnostics };
    }
    // Of `let x = e` only `e` is there.
    let value = typed.strip_prefix("let ").and_then(|t| t.split_once('=')).map_or(typed, |(_, v)| v.trim());
    let found = [typed, value].into_iter().find_map(|part| Some((whole.rfind(part)?, typed.rfind(part)?, part.len())));
    let Some((start, own, len)) = found else { return Error::Source { sources, diagnostics } };
    let mut shown = crate::Sources::default();
    shown.add("entry", typed);
    for file in 1..sources.len() {
        shown.add(sources.name(file as u16), sources.whole(file as u16));
    }
    let session = shown.add("session", whole);
    for (span, _) in diagnostics.iter_mut().flat_map(|d| &mut d.labels).filter(|(s, _)| s.file == 0) {
        if span.start >= start && span.end <= start + len {
            (span.start, span.end) = (span.start - start + own, span.end - start + own);
        } else if span.start >= start + len {
            // What is missing at the end.
            (span.start, span.end) = (own + len, own + len);
        } else {
            span.file = session;
        }
    }
    Error::Source { sources: Box::new(shown), diagnostics }
}

/// Values of the session that an expression does not use are inputs of its net that are not used, which is no fault.
fn without_warnings(e: Error) -> Error {
    match e {
        Error::Source { sources, mut diagnostics } => {
            diagnostics.retain(|d| d.severity == crate::Severity::Error);
            Error::Source { sources, diagnostics }
        }
        other => other,
    }
}

fn remove<T>(list: &mut Vec<(String, T)>, name: &str) -> bool {
    let before = list.len();
    list.retain(|(n, _)| n != name);
    list.len() < before
}

fn classify(text: &str) -> Entry<'_> {
    let (first, rest) = text.split_once(|c: char| c.is_whitespace() || c == '(').unwrap_or((text, ""));
    let name_of = |rest: &'_ str| -> usize { rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()) };
    let rest = rest.trim_start();
    let name = &rest[..name_of(rest)];
    match first {
        "net" | "neuron" | "surrogate" | "fn" => Entry::Item(name),
        "layer" | "param" | "buffer" => Entry::Line(Some(name)),
        "set_threshold_margin" | "kaiming_normal_conv_linear_weight" => Entry::Line(None),
        "let" if name == "rec" => {
            let rest = rest[3..].trim_start();
            Entry::Line(Some(&rest[..name_of(rest)]))
        }
        "let" if name.is_empty() => Entry::Line(None),
        "let" => match rest[name.len()..].split_once('=') {
            // A type that is written with the name is checked by the compiler in a line of its own.
            Some((between, value)) if between.trim().is_empty() && !value.starts_with('=') => Entry::Let(name, value.trim()),
            _ => Entry::Line(Some(name)),
        },
        _ => Entry::Expression,
    }
}

/// Is a bracket open, or does the text end where an expression must go on?
pub fn is_unfinished(text: &str) -> bool {
    let mut depth = 0i64;
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        for c in code.chars() {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
        }
    }
    let last = text.trim_end();
    depth > 0 || ["|>", "+", "-", "*", "/", "=", ",", "&&", "||", "@"].iter().any(|end| last.ends_with(end))
}

/// A tensor as PyTorch prints it, its type first; a spike train also as a raster.
pub fn show(t: &Tensor) -> String {
    if t.shape().is_empty() {
        return format!("{} {}", t.ty(), number(t, 0, false));
    }
    let mut text = format!("{}\n", t.ty());
    if t.is_empty() {
        return text + "[]";
    }
    let spikes = t.dtype() == DType::Bool || (t.dtype() == DType::F32 && t.as_f32().iter().all(|x| *x == 0.0 || *x == 1.0));
    // A large raster says more than its digits.
    let picture = if spikes { raster(t) } else { None };
    if let Some(picture) = picture.as_ref().filter(|_| t.len() > WRITTEN) {
        return text + picture;
    }
    let shorten = t.len() > 1000;
    let width = (0..t.len().min(2000)).map(|i| number(t, i, spikes).len()).max().unwrap_or(0);
    nested(t, 0, 0, shorten, spikes, width, &mut text);
    if let Some(picture) = picture {
        text.push('\n');
        text.push_str(&picture);
    }
    text
}

/// The most elements of a raster that are written as digits as well.
const WRITTEN: usize = 60;
/// The most neurons and columns of a raster: what fits a terminal.
const ROWS: usize = 20;
const COLUMNS: usize = 72;

/// The text of a raster of `[T]` or `[T, N]` in which something fires: a line for each neuron, a mark for each step, or for several where they are many.
pub fn raster(t: &Tensor) -> Option<String> {
    let values = Some(t.to_f32()).filter(|v| v.iter().any(|x| *x != 0.0))?;
    let (steps, n) = match t.shape() {
        [steps] => (*steps, 1),
        [steps, n] => (*steps, *n),
        _ => return None,
    };
    if steps < 2 {
        return None;
    }
    let each = steps.div_ceil(COLUMNS);
    let mark = |neuron: usize, column: usize| {
        let own = column * each..((column + 1) * each).min(steps);
        let count = own.len();
        let fired = own.filter(|s| values[s * n + neuron] != 0.0).count();
        match (fired, 2 * fired >= count) {
            (0, _) => '·',
            (_, true) => '|',
            (_, false) => ':',
        }
    };
    let line = |neuron: usize| format!("{neuron:>3} {}", (0..steps.div_ceil(each)).map(|c| mark(neuron, c)).collect::<String>());
    let mut lines: Vec<String> = (0..n.min(ROWS)).map(line).collect();
    if n > ROWS {
        lines.push(format!("    and {} more", n - ROWS));
    }
    if n > ROWS || each > 1 {
        let rate = values.iter().filter(|x| **x != 0.0).count() as f64 / values.len() as f64;
        let marks = if each > 1 { format!("; a mark is {each} steps: `|` half of them or more, `:` fewer") } else { String::new() };
        lines.push(format!("    firing rate {rate:.3}{marks}"));
    }
    Some(lines.join("\n"))
}

fn number(t: &Tensor, i: usize, spikes: bool) -> String {
    match t.data() {
        snn_ir::Data::F32(v) if spikes => format!("{}", v[i] as i64),
        snn_ir::Data::F32(v) => {
            let x = v[i];
            if x != 0.0 && x.is_finite() && (x.abs() < 1e-4 || x.abs() >= 1e6) { format!("{x:.4e}") } else { format!("{x:.4}") }
        }
        snn_ir::Data::I64(v) => v[i].to_string(),
        snn_ir::Data::Bool(v) => (v[i] != 0).to_string(),
        snn_ir::Data::U8(v) => v[i].to_string(),
    }
}

fn nested(t: &Tensor, axis: usize, start: usize, shorten: bool, spikes: bool, width: usize, text: &mut String) {
    let n = t.shape()[axis];
    let row: usize = t.shape()[axis + 1..].iter().product();
    let last = axis + 1 == t.shape().len();
    text.push('[');
    let mut first = true;
    for i in 0..n {
        if shorten && n > 6 && i == 3 {
            text.push_str(if last { ", ..." } else { ",\n" });
            if !last {
                text.push_str(&" ".repeat(axis + 1));
                text.push_str("...");
            }
        }
        if shorten && n > 6 && (3..n - 3).contains(&i) {
            continue;
        }
        if !first {
            text.push(',');
            if last {
                text.push(' ');
            } else {
                text.push('\n');
                text.push_str(&" ".repeat(axis + 1));
            }
        }
        first = false;
        if last {
            text.push_str(&format!("{:>width$}", number(t, start + i, spikes)));
        } else {
            nested(t, axis + 1, start + i * row, shorten, spikes, width, text);
        }
    }
    text.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_goes_on_while_a_bracket_is_open() {
        assert!(is_unfinished("net a(x: f32[T]) {"));
        assert!(is_unfinished("x |>"));
        assert!(!is_unfinished("x + 1 // ("));
        assert!(!is_unfinished("f(x)"));
    }

    #[test]
    fn layers_come_one_after_the_other() {
        let mut session = Session::new(CompileOptions::default());
        let mut enter = |text: &str| session.enter(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        enter("layer a = linear(2, 2)");
        let first = enter("a([1.0, 2.0])");
        enter("layer k = klif()");
        enter("k([1.5, 0.4])");
        assert_eq!(enter("a([1.0, 2.0])"), first);
    }

    #[test]
    fn tensors_print_as_in_pytorch() {
        assert_eq!(show(&Tensor::scalar(1.5)), "f32[] 1.5000");
        let t = Tensor::f32([2, 2], vec![1.0, -2.5, 0.25, 3.0]);
        assert_eq!(show(&t), "f32[2, 2]\n[[ 1.0000, -2.5000],\n [ 0.2500,  3.0000]]");
        let spikes = Tensor::f32([4], vec![0.0, 1.0, 0.0, 1.0]);
        assert_eq!(show(&spikes), "f32[4]\n[0, 1, 0, 1]\n  0 ·|·|");
        assert!(show(&Tensor::f32([2000], vec![0.5; 2000])).ends_with("[0.5000, 0.5000, 0.5000, ..., 0.5000, 0.5000, 0.5000]"));
    }
}

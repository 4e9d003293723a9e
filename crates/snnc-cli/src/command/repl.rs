//! `snnc repl` and `snnc eval`

use std::collections::HashSet;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use reedline::{
    ColumnarMenu, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder, Reedline, ReedlineEvent, ReedlineMenu, Signal,
    default_emacs_keybindings,
};
use snnc::session::{Reply, Session, is_unfinished, show};
use snnc::stages::Stage;
use snnc::{CompileOptions, Error, Tensor};

use super::editing::{Arrow, Brackets, Colours, Names, Signatures};
use super::{Failure, colour};
use crate::command::say::{remark_part, say, say_part};

const HELP: &str = "\
an expression     its value, `_` in the next entry; `let x = ...` keeps it
net, neuron, surrogate, fn, layer, let rec, set_threshold_margin(...)   as in a file
                  after `n(x)` of a layer `n` its states are `n.v`
:type E           the type of an expression, the signature of a function
:ast E  :ir E     its syntax tree, its graph
:opt E            its graph before and after the optimiser, and the rules that fired
:clif E  :asm E   the generated code
:dot E [FILE]     the graph for Graphviz; with FILE.svg or .png a picture
:time E           milliseconds to compile and to run
:grad E wrt x, y  the value of a scalar and its gradients
:train E [N] [LR] moves the parameters of layers along the gradient of a scalar, N steps of Adam (100, 0.01)
:plot E [FILE]    a raster or traces, in the terminal, or as .svg or .png
:load FILE        a program, or tensors: .snn .npz .safetensors
:save NAME FILE   writes a value
:vars  :reset     lists, forgets everything
:mode train|eval  :backend cranelift|interpreter|candle  :set memory-limit BYTES
:doc [NAME]       text, equation and example of a function, neuron, surrogate or layer; without a name all of them
:quit             leaves, as `exit` and Ctrl-D do";

const COMMANDS: [&str; 21] = [
    ":help", ":type", ":ast", ":ir", ":opt", ":clif", ":asm", ":dot", ":time", ":grad", ":train", ":plot", ":load", ":save", ":vars",
    ":reset", ":mode", ":backend", ":set", ":doc", ":quit",
];

#[derive(Args)]
pub struct ReplArguments {
    /// A program whose definitions are there from the start.
    file: Option<PathBuf>,
    /// The seed of parameters and random operations.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// From standard input: print each entry before its answer, and errors among the answers, as a transcript.
    #[arg(long)]
    echo: bool,
}

#[derive(Args)]
pub struct EvalArguments {
    /// Entries, as at the prompt; the value of the last is printed.
    #[arg(required = true)]
    entries: Vec<String>,
    /// Print one JSON object: name, type, shape and data of each value.
    #[arg(long)]
    json: bool,
    /// The seed of parameters and random operations.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn session(seed: u64) -> Session {
    Session::new(CompileOptions::default().seed(seed).memory_limit(super::machine_memory()))
}

pub fn eval(a: &EvalArguments) -> Result<(), Failure> {
    let mut session = session(a.seed);
    let mut last = Reply::Said(String::new());
    for entry in &a.entries {
        last = session.enter(entry)?;
    }
    match last {
        Reply::Values(values) if a.json => {
            let object: serde_json::Map<String, serde_json::Value> = values.iter().map(|(n, t)| (n.clone(), json(t))).collect();
            say!("{}", serde_json::Value::Object(object));
        }
        Reply::Values(values) => say!("{}", values_text(&values)),
        Reply::Said(text) if !text.is_empty() => say!("{text}"),
        Reply::Said(_) => {}
    }
    Ok(())
}

fn json(t: &Tensor) -> serde_json::Value {
    let data: Vec<serde_json::Value> = match t.data() {
        // JSON has no NaN and no infinity: they are text.
        snn_ir::Data::F32(v) => {
            v.iter().map(|x| if x.is_finite() { serde_json::json!(x) } else { serde_json::json!(x.to_string()) }).collect()
        }
        snn_ir::Data::Bool(v) => v.iter().map(|b| serde_json::json!(*b != 0)).collect(),
        _ => t.to_i64().iter().map(|i| serde_json::json!(i)).collect(),
    };
    serde_json::json!({ "type": t.dtype().name(), "shape": t.shape(), "data": data })
}

pub(super) fn values_text(values: &[(String, Tensor)]) -> String {
    let many = values.len() > 1;
    let lines: Vec<String> = values.iter().map(|(n, t)| if many { format!("{n} = {}", show(t)) } else { show(t) }).collect();
    lines.join("\n")
}

pub fn repl(a: &ReplArguments) -> Result<(), Failure> {
    // While the first entry is typed the library is read.
    std::thread::spawn(snn_front::prepare);
    let mut session = session(a.seed);
    if let Some(file) = &a.file {
        session.load(&file.display().to_string())?;
    }
    if std::io::stdin().is_terminal() { interactive(&mut session) } else { script(&mut session, a.echo) }
}

/// Entries from standard input, with their answers, until one is `:quit`.
fn script(session: &mut Session, echo: bool) -> Result<(), Failure> {
    let mut entry = String::new();
    let mut said = Said { echo, failed: false };
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Failure::Text(format!("cannot read standard input: {e}")))?;
        entry.push_str(&line);
        entry.push('\n');
        if is_unfinished(&entry) {
            continue;
        }
        let text = std::mem::take(&mut entry);
        if !answer(session, text.trim(), &mut said) {
            return Ok(());
        }
    }
    answer(session, entry.trim(), &mut said);
    if said.failed && !echo { Err(Failure::Said) } else { Ok(()) }
}

/// How answers are given, and whether one was an error.
struct Said {
    echo: bool,
    failed: bool,
}

/// Answers one entry; `false` leaves.
fn answer(session: &mut Session, text: &str, said: &mut Said) -> bool {
    if said.echo && !text.is_empty() {
        say!("> {}", text.replace('\n', "\n. "));
    }
    let leaves = ["exit", "quit", "exit()", "quit()"].contains(&text) && session.value(text).is_none() && session.item(text).is_none();
    if text == ":quit" || text == ":q" || leaves {
        return false;
    }
    let result = if let Some(command) = text.strip_prefix(':') { run_command(session, command) } else { evaluated(session, text) };
    match result {
        Ok(text) if text.is_empty() => {}
        Ok(text) => say!("{text}"),
        Err(e) => {
            said.failed = true;
            let _ = std::io::stdout().flush();
            let text = match e {
                Failure::Error(Error::Source { sources, diagnostics }) => sources.render(&diagnostics, colour() && !said.echo),
                Failure::Error(e) => format!("Error: {e}\n"),
                Failure::Text(text) => format!("Error: {text}\n"),
                Failure::Said => String::new(),
            };
            if said.echo { say_part!("{text}") } else { remark_part!("{text}") }
        }
    }
    true
}

fn evaluated(session: &mut Session, text: &str) -> Result<String, Failure> {
    Ok(match session.enter(text)? {
        Reply::Values(values) => values_text(&values),
        Reply::Said(text) => text,
    })
}

fn run_command(session: &mut Session, command: &str) -> Result<String, Failure> {
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let needs = |what: &str| if rest.is_empty() { Err(Failure::Text(format!("`:{name}` needs {what}"))) } else { Ok(()) };
    match name {
        "help" | "h" => return Ok(HELP.to_string()),
        "vars" => {
            let names = session.names().into_iter().map(|(n, what)| format!("{n}: {what}"));
            return Ok(names.collect::<Vec<_>>().join("\n"));
        }
        "reset" => {
            session.reset();
            return Ok("everything is forgotten".into());
        }
        "type" | "ast" | "ir" | "opt" | "clif" | "asm" | "dot" | "time" => needs("an expression")?,
        "grad" => needs("an expression: `:grad sum(x * x) wrt x`")?,
        "load" => needs("a file")?,
        "save" => needs("a value and a file: `:save x x.npz`")?,
        "train" => needs("a scalar: `:train mse_loss(fc(x), y) 200`")?,
        "plot" => needs("a tensor: `:plot s` or `:plot s raster.svg`")?,
        _ => {}
    }
    match name {
        "type" if session.item(rest).is_some() => Ok(snn_syntax::head(session.item(rest).unwrap_or_default())),
        "type" if session.value(rest).is_none() && snn_front::signature_of(rest).is_some() => {
            Ok(snn_front::signature_of(rest).unwrap_or_default())
        }
        "type" => {
            let graph = session.lowered(rest)?;
            let types = graph.outputs.iter().map(|(_, v)| graph.ty(*v).to_string());
            Ok(types.collect::<Vec<_>>().join("\n"))
        }
        "ast" => Ok(session.syntax(rest)?.trim_end().to_string()),
        "ir" => Ok(session.lowered(rest)?.pruned().to_string().trim_end().to_string()),
        "opt" => {
            let [before, after] = session.before_and_after(rest)?;
            let report = session.stage(rest, Stage::Explain)?;
            Ok(format!("{}{after}\n{report}", before.pruned()).trim_end().to_string())
        }
        "clif" => Ok(session.stage(rest, "clif".parse()?)?),
        "asm" => Ok(session.stage(rest, Stage::Assembly)?),
        "dot" => {
            let (expression, file) = match rest.rsplit_once(char::is_whitespace) {
                Some((e, f)) if [".dot", ".svg", ".png"].iter().any(|end| f.ends_with(end)) => (e, Some(f)),
                _ => (rest, None),
            };
            if let Some(f) = file.filter(|f| !f.ends_with(".dot")) {
                let [before, after] = session.before_and_after(expression)?;
                snn_plot::graphs(Path::new(f), &[("as written", &before), ("optimised", &after)])
                    .map_err(|e| Failure::Text(e.to_string()))?;
                return Ok(String::new());
            }
            let text = snn_ir::dot::dot(&session.lowered(expression)?);
            match file {
                Some(f) => std::fs::write(f, text).map(|()| String::new()).map_err(|e| Failure::Text(format!("cannot write `{f}`: {e}"))),
                None => Ok(text),
            }
        }
        "time" => {
            let (compile, run) = session.time(rest)?;
            Ok(format!("compile {compile:.3} ms, run {run:.4} ms"))
        }
        "grad" => {
            let (expression, names) = rest.rsplit_once(" wrt ").unwrap_or((rest, ""));
            let names: Vec<String> = names.split(',').map(|n| n.trim().to_string()).filter(|n| !n.is_empty()).collect();
            Ok(values_text(&session.gradient(expression, &names)?))
        }
        "train" => train(session, rest),
        "plot" => plot(session, rest),
        "load" => Ok(session.load(rest)?),
        "save" => {
            let (name, file) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let Some(value) = session.value(name) else {
                return Err(Failure::Text(format!("there is no value `{name}`; `:vars` lists them")));
            };
            snnc::save(Path::new(file.trim()), &[(name.to_string(), value.clone())])?;
            Ok(String::new())
        }
        "mode" | "backend" => {
            session.set(name, rest)?;
            Ok(String::new())
        }
        "set" => match rest.split_once(char::is_whitespace) {
            Some(("memory-limit", bytes)) => {
                session.options.memory_limit = super::parse_bytes(bytes).map_err(Failure::Text)?;
                Ok(String::new())
            }
            _ => Err(Failure::Text("`:set` knows `memory-limit`: `:set memory-limit 2G`".into())),
        },
        "doc" if rest.is_empty() => Ok(everything(session)),
        "doc" if session.item(rest).is_some() => Ok(session.item(rest).unwrap_or_default().trim_end().to_string()),
        "doc" => documentation(rest),
        _ => {
            let near = snn_syntax::nearest(name, COMMANDS.iter().map(|c| &c[1..])).map(|n| format!("; did you mean `:{n}`?"));
            Err(Failure::Text(format!("there is no command `:{name}`{}", near.unwrap_or_else(|| "; `:help` lists them".into()))))
        }
    }
}

/// `:train E [N] [LR]`
fn train(session: &mut Session, rest: &str) -> Result<String, Failure> {
    let (mut expression, mut numbers) = (rest, Vec::new());
    // Numbers that stand alone at the end.
    while let Some((before, last)) = expression.rsplit_once(char::is_whitespace)
        && numbers.len() < 2
        && !before.trim_end().ends_with(|c: char| "+-*/=,(^@".contains(c))
        && let Ok(number) = last.parse::<f64>()
    {
        numbers.insert(0, number);
        expression = before.trim_end();
    }
    let steps = numbers.first().copied().unwrap_or(100.0);
    let rate = numbers.get(1).copied().unwrap_or(0.01);
    if steps < 1.0 || steps.fract() != 0.0 || rate <= 0.0 || !rate.is_finite() {
        return Err(Failure::Text(format!("`:train` takes a number of steps and a learning rate above 0, not {steps} and {rate}")));
    }
    let (first, last) = session.train(expression, steps as usize, rate)?;
    Ok(format!("{first:.4} before, {last:.4} in the last of {steps} steps"))
}

/// `:plot E [FILE]`
fn plot(session: &mut Session, rest: &str) -> Result<String, Failure> {
    let (expression, file) = match rest.rsplit_once(char::is_whitespace) {
        Some((e, f)) if [".svg", ".png"].iter().any(|end| f.ends_with(end)) => (e, Some(f)),
        _ => (rest, None),
    };
    let Reply::Values(values) = session.enter(expression)? else {
        return Err(Failure::Text("`:plot` draws the value of an expression".into()));
    };
    let Some(file) = file else {
        return Ok(values.iter().map(|(_, t)| super::terminal::drawn(t)).collect::<Vec<_>>().join("\n"));
    };
    super::terminal::picture(Path::new(file), &values).map_err(|e| Failure::Text(e.to_string()))?;
    Ok(String::new())
}

/// All names to read about, by part.
fn everything(session: &Session) -> String {
    let own: Vec<String> = session.names().into_iter().map(|(n, _)| n).filter(|n| session.item(n).is_some()).collect();
    let built_in: Vec<String> = snn_front::known_names().collect();
    let library = snn_front::library_parts();
    let of_library: HashSet<&String> = library.iter().flat_map(|(_, names)| names).collect();
    let built_in: Vec<String> = built_in.into_iter().filter(|n| !of_library.contains(n)).collect();
    let parts = [("of this session".to_string(), own), ("built-in functions".to_string(), built_in)].into_iter().chain(library.clone());
    let written = |(title, names): (String, Vec<String>)| {
        let known = |n: &String| snn_front::documentation(n).is_some() || session.item(n).is_some();
        let mut names: Vec<String> = names.into_iter().filter(known).collect();
        names.dedup();
        (!names.is_empty()).then(|| format!("{title}:\n{}", wrapped(&names)))
    };
    parts.filter_map(written).collect::<Vec<_>>().join("\n")
}

/// Names in lines of 100 characters.
fn wrapped(names: &[String]) -> String {
    let mut lines = vec![String::from(" ")];
    for name in names {
        if lines.last().is_some_and(|l| l.len() + name.len() > 100) {
            lines.push(String::from(" "));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(name);
        }
    }
    lines.join("\n")
}

/// The text about something that is built in or of the library.
fn documentation(name: &str) -> Result<String, Failure> {
    // A terminal needs no fences around code.
    let plain = |text: String| text.lines().filter(|l| !l.starts_with("```")).collect::<Vec<_>>().join("\n");
    snn_front::documentation(name).map(plain).ok_or_else(|| {
        let names: Vec<String> = snn_front::known_names().collect();
        let near = snn_syntax::nearest(name, names.iter().map(String::as_str)).map(|n| format!(": did you mean `{n}`?"));
        Failure::Text(format!("there is nothing called `{name}` to read about{}", near.unwrap_or_default()))
    })
}

/// Where the history of entries is kept: `$XDG_DATA_HOME/snnc` or `~/.local/share/snnc`.
fn history_file() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")))?;
    Some(folder.join("snnc/history"))
}

fn interactive(session: &mut Session) -> Result<(), Failure> {
    say!("snnc {}; `:help` lists commands, Ctrl-D leaves", env!("CARGO_PKG_VERSION"));
    let mut keys = default_emacs_keybindings();
    let menu = ReedlineEvent::UntilFound(vec![ReedlineEvent::Menu("names".into()), ReedlineEvent::MenuNext]);
    keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, menu);
    let mut editor = Reedline::create()
        .with_edit_mode(Box::new(Emacs::new(keys)))
        .with_validator(Box::new(Brackets))
        .with_hinter(Box::new(Signatures))
        // What only one name begins with is completed at once, what several share as far as they share it.
        .with_quick_completions(true)
        .with_partial_completions(true)
        .with_menu(ReedlineMenu::EngineCompleter(Box::new(ColumnarMenu::default().with_name("names"))));
    // Without a place for it the history lives as long as the session.
    if let Some(history) = history_file().and_then(|f| FileBackedHistory::with_file(10_000, f).ok()) {
        editor = editor.with_history(Box::new(history));
    }
    let library: Vec<String> = snn_front::known_names().chain(COMMANDS.iter().map(|c| (*c).to_string())).collect();
    // While a line is edited Ctrl-C is a key; while something runs it is a signal, which stops that and not the session.
    let _ = ctrlc::set_handler(snn_ir::interrupt::request);
    let mut said = Said { echo: false, failed: false };
    loop {
        snn_ir::interrupt::clear();
        let own: Vec<String> = session.names().into_iter().map(|(n, _)| n).collect();
        let fields = own.iter().flat_map(|n| session.fields(n).into_iter().map(move |f| format!("{n}.{f}")));
        let keywords = snn_syntax::KEYWORDS.iter().map(|k| (*k).to_string());
        let names: Vec<String> = own.iter().cloned().chain(fields).chain(library.iter().cloned()).chain(keywords).collect();
        let known: HashSet<String> = names.iter().cloned().collect();
        editor = editor.with_highlighter(Box::new(Colours(known))).with_completer(Box::new(Names(names)));
        match editor.read_line(&Arrow) {
            Ok(Signal::Success(text)) => {
                if !answer(session, text.trim(), &mut said) {
                    return Ok(());
                }
            }
            Ok(Signal::CtrlD) => return Ok(()),
            // The line is forgotten, the session goes on.
            Ok(_) => {}
            Err(e) => return Err(Failure::Text(format!("the terminal cannot be used: {e}"))),
        }
    }
}

//! From syntax tree to IR: names, layers, settings, types and shapes.
//!
//! A [`Module`] is a parsed file beside the standard library. [`Module::check`] lowers every net with symbolic dimensions and
//! reports what is wrong; [`Module::lower`] makes the graph of one net. Lowering *evaluates* a net: settings, dimensions and
//! other constants have values at once, tensors are values of the graph that grows, and calls are inlined.

mod arithmetic;
mod builtins;
mod call;
mod context;
mod documentation;
mod indexing;
mod lower;
mod neuron;
mod observe;
mod parameter;
mod recursion;
mod shapes;
mod trace;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use documentation::{OPERATIONS, declaration, documentation, known_names, library_parts, signature_of};
pub use observe::{Observation, Observed, is_observation};
use snn_ir::{Dims, Graph, Type};
use snn_syntax::ast::ItemKind;
use snn_syntax::{Ast, Diagnostic, Severity, Sources};
pub use trace::{LibraryCall, Recorded, Trace};

/// The text of the standard library.
pub const STANDARD_LIBRARY: &str = concat!(
    include_str!("../../../grammar/std.snn"),
    include_str!("../../../grammar/std/functions.snn"),
    include_str!("../../../grammar/std/norms.snn"),
    include_str!("../../../grammar/std/snntorch.snn"),
    include_str!("../../../grammar/std/norse.snn"),
    include_str!("../../../grammar/std/lava.snn"),
    include_str!("../../../grammar/std/nir.snn"),
    include_str!("../../../grammar/std/plasticity.snn"),
);

/// What the library is called in messages.
pub const STANDARD_LIBRARY_NAME: &str = "std.snn";

/// What a net is compiled for. It decides batch norm, dropout and `set_threshold_margin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Mode {
    /// Evaluation.
    #[default]
    Eval,
    /// Training.
    Train,
}

/// How to lower a net.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Evaluation or training.
    pub mode: Mode,
    /// Sizes of dimensions; the others stay symbolic.
    pub dims: Dims,
    /// How many dimensions `...` stands for in the inputs; 1 where it is not given.
    pub rest: Option<usize>,
    /// Settings of the net instead of their defaults.
    pub settings: Settings,
    /// Does the graph give what `print` and `assert` say of data?
    pub observe: bool,
}

/// Settings by name.
pub type Settings = BTreeMap<String, Setting>;

/// The value of a setting that is given from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// `none`.
    Nothing,
    /// A text.
    Text(String),
    /// Several.
    List(Vec<Setting>),
}

// Settings are part of what a net is compiled for: equal bits are equal numbers there.
impl Eq for Setting {}

impl std::hash::Hash for Setting {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Setting::Int(n) => n.hash(state),
            Setting::Float(x) => x.to_bits().hash(state),
            Setting::Bool(b) => b.hash(state),
            Setting::Nothing => 0u8.hash(state),
            Setting::Text(t) => t.hash(state),
            Setting::List(items) => items.hash(state),
        }
    }
}

impl std::str::FromStr for Setting {
    type Err = String;

    /// As it is written in a program: `3`, `0.5`, `true`, `none`, `"text"`, `[1, 2]`; what is nothing else is a text.
    fn from_str(text: &str) -> Result<Setting, String> {
        let text = text.trim();
        if let Some(inside) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let items = inside.split(',').map(str::trim).filter(|t| !t.is_empty());
            return Ok(Setting::List(items.map(str::parse).collect::<Result<_, _>>()?));
        }
        Ok(match text {
            "true" => Setting::Bool(true),
            "false" => Setting::Bool(false),
            "none" => Setting::Nothing,
            _ => match (text.parse(), text.parse()) {
                (Ok(n), _) => Setting::Int(n),
                (_, Ok(x)) => Setting::Float(x),
                _ => Setting::Text(text.trim_matches('"').to_string()),
            },
        })
    }
}

/// A graph, with warnings about its source.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The graph.
    pub graph: Graph,
    /// What is suspicious.
    pub warnings: Vec<Diagnostic>,
    /// The layers by name, with their settings that are numbers.
    pub layers: Vec<(String, Vec<(String, f64)>)>,
    /// The outputs that are said and not given, where [`Options::observe`] asks for them.
    pub observations: Vec<Observation>,
}

/// A parsed file and the standard library.
#[derive(Clone, Debug)]
pub struct Module {
    /// The user's file.
    pub ast: Ast,
    /// The texts, for messages: 0 is the user's, 1 the library's, and then those of `files`.
    pub sources: Sources,
    /// The files that it uses, and those that they use.
    pub files: Vec<UsedFile>,
    /// What each `use` of a file means, by the file and the path as written.
    uses: BTreeMap<(u16, String), u16>,
}

/// A file that another one uses.
#[derive(Clone, Debug)]
pub struct UsedFile {
    /// Its path, by which two uses are the same.
    pub path: PathBuf,
    /// What it holds.
    pub ast: Ast,
}

/// Reads a used file: its path, and its text.
pub type Reader<'a> = dyn Fn(&Path) -> std::io::Result<(PathBuf, String)> + 'a;

pub(crate) fn standard_library() -> &'static Ast {
    static LIBRARY: OnceLock<Ast> = OnceLock::new();
    LIBRARY.get_or_init(|| match snn_syntax::parse(STANDARD_LIBRARY, 1) {
        Ok(ast) => ast,
        // A defect of this crate that every test meets.
        Err(d) => panic!("the standard library does not parse: {d:?}"),
    })
}

/// The numbers of the standard library's items of a name.
pub(crate) fn library_items(name: &str) -> &'static [usize] {
    static ITEMS: OnceLock<HashMap<&'static str, Vec<usize>>> = OnceLock::new();
    let items = ITEMS.get_or_init(|| {
        let mut all: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, item) in standard_library().items.iter().enumerate() {
            all.entry(item.name.text.as_str()).or_default().push(i);
        }
        all
    });
    items.get(name).map_or(&[], Vec::as_slice)
}

/// Parses the standard library, if that has not been done: it takes some milliseconds, which the first program that needs it would wait.
pub fn prepare() {
    standard_library();
}

/// Items of one name. A surrogate may share its name with a function of tensors.
fn declared_twice(ast: &Ast) -> Vec<Diagnostic> {
    let mut first: BTreeMap<(&str, bool), snn_syntax::Span> = BTreeMap::new();
    let mut errors = Vec::new();
    let chosen = ast.items.iter().flat_map(|i| i.uses.iter().flat_map(|u| &u.chosen)).map(|n| (n, false));
    let own = ast.items.iter().filter(|i| i.uses.as_ref().is_none_or(|u| u.chosen.is_empty()));
    for (name, is_surrogate) in own.map(|i| (&i.name, i.kind == ItemKind::Surrogate)).chain(chosen) {
        if let Some(before) = first.insert((&name.text, is_surrogate), name.span) {
            errors.push(
                Diagnostic::error(format!("`{}` is declared twice", name.text)).label(name.span, "here again").label(before, "first here"),
            );
        }
    }
    errors
}

impl Module {
    /// Parses a file; `name` is what messages call it, and files that it uses are looked for beside it.
    ///
    /// # Errors
    /// Syntax errors, and names that are declared twice.
    pub fn parse(name: &str, text: &str) -> Result<Module, (Sources, Vec<Diagnostic>)> {
        let read = |path: &Path| {
            let path = path.canonicalize()?;
            let text = std::fs::read_to_string(&path)?;
            Ok((path, text))
        };
        Module::parse_with(name, text, &read)
    }

    /// Parses a file; `read` gives the files that it uses.
    ///
    /// # Errors
    /// Syntax errors, names that are declared twice, files that cannot be read or use each other.
    pub fn parse_with(name: &str, text: &str, read: &Reader<'_>) -> Result<Module, (Sources, Vec<Diagnostic>)> {
        let mut sources = Sources::default();
        sources.add(name, text);
        sources.add(STANDARD_LIBRARY_NAME, STANDARD_LIBRARY);
        let ast = match snn_syntax::parse_all(text, 0) {
            Ok(ast) => ast,
            Err(all) => return Err((sources, all)),
        };
        let mut errors = declared_twice(&ast);
        let mut module = Module { ast, sources, files: vec![], uses: BTreeMap::new() };
        let own = Path::new(name).canonicalize().unwrap_or_else(|_| PathBuf::from(name));
        if let Err(d) = module.load_uses(0, &mut vec![own], read) {
            errors.push(*d);
        }
        if errors.is_empty() { Ok(module) } else { Err((module.sources, errors)) }
    }

    /// Loads what a file uses, and what that uses. `open` are the files on the way here.
    fn load_uses(&mut self, file: u16, open: &mut Vec<PathBuf>, read: &Reader<'_>) -> Result<(), Box<Diagnostic>> {
        let uses: Vec<snn_syntax::ast::Use> = self.file_ast(file).items.iter().filter_map(|i| i.uses.clone()).collect();
        for u in uses {
            let (written, span) = u.path.clone();
            let folder = open.last().and_then(|p| p.parent()).unwrap_or(Path::new(""));
            let fail = |message: String, label: &str| Err(Box::new(Diagnostic::error(message).label(span, label)));
            let (path, text) = match read(&folder.join(&written)) {
                Ok(found) => found,
                Err(e) => return fail(format!("cannot use `{written}`: {e}"), "looked for beside this file"),
            };
            if open.contains(&path) {
                let names: Vec<String> = open.iter().chain([&path]).map(|p| p.display().to_string()).collect();
                return fail(format!("files use each other: {}", names.join(" -> ")), "closes the circle");
            }
            let known = self.files.iter().position(|f| f.path == path).map(|i| i as u16 + 2);
            let number = match known {
                Some(n) => n,
                None => {
                    let number = self.sources.add(path.display().to_string(), text.clone());
                    let ast = snn_syntax::parse(&text, number)?;
                    if let Some(d) = declared_twice(&ast).pop() {
                        return Err(Box::new(d));
                    }
                    self.files.push(UsedFile { path: path.clone(), ast });
                    open.push(path);
                    self.load_uses(number, open, read)?;
                    open.pop();
                    number
                }
            };
            for name in &u.chosen {
                let items = &self.file_ast(number).items;
                if !items.iter().any(|i| i.name.text == name.text && i.kind != ItemKind::Use) {
                    let known = items.iter().map(|i| i.name.text.as_str());
                    let near = snn_syntax::nearest(&name.text, known).map(|n| format!("did you mean `{n}`?"));
                    let d = Diagnostic::error(format!("`{written}` has no `{}`", name.text)).label(name.span, "chosen here");
                    return Err(Box::new(match near {
                        Some(help) => d.help(help),
                        None => d,
                    }));
                }
            }
            self.uses.insert((file, written), number);
        }
        Ok(())
    }

    fn file_ast(&self, file: u16) -> &Ast {
        if file == 0 { &self.ast } else { &self.files[file as usize - 2].ast }
    }

    /// The file that a `use` of a file means.
    pub(crate) fn used(&self, file: u16, item: &snn_syntax::ast::Item) -> Option<u16> {
        let u = item.uses.as_ref()?;
        self.uses.get(&(file, u.path.0.clone())).copied()
    }

    /// The names of the nets in the file.
    pub fn nets(&self) -> Vec<&str> {
        self.ast.items.iter().filter(|i| i.kind == ItemKind::Net).map(|i| i.name.text.as_str()).collect()
    }

    /// Is it the name of an input of some net in the file?
    pub fn is_input(&self, name: &str) -> bool {
        self.ast.items.iter().any(|i| i.kind == ItemKind::Net && i.inputs.iter().any(|input| input.name.text == name))
    }

    /// The net that is meant where none is named: the only one, else `main`.
    ///
    /// # Errors
    /// If there is none, or several and none called `main`.
    pub fn default_net(&self, name: Option<&str>) -> Result<String, Diagnostic> {
        let nets = self.nets();
        let list = || format!("the file has: {}", nets.join(", "));
        match name {
            Some(n) if nets.contains(&n) => Ok(n.to_string()),
            Some(n) => {
                let near = snn_syntax::nearest(n, nets.iter().copied()).map(|k| format!("did you mean `{k}`?"));
                Err(Diagnostic::error(format!("there is no net `{n}`")).help(near.unwrap_or_else(list)))
            }
            None if nets.len() == 1 => Ok(nets[0].to_string()),
            None if nets.contains(&"main") => Ok("main".to_string()),
            None if nets.is_empty() => {
                Err(Diagnostic::error("the file has no net").help("write `net main(x: f32[T, B, 10]) -> f32[T, B, 10] { x |> lif() }`"))
            }
            None => Err(Diagnostic::error("the file has several nets and none is called `main`").help(format!("name one; {}", list()))),
        }
    }

    /// Lowers everything with symbolic dimensions and gives all errors and warnings.
    pub fn check(&self, mode: Mode) -> Vec<Diagnostic> {
        let mut all = Vec::new();
        for item in &self.ast.items {
            let options = Options { mode, ..Options::default() };
            match item.kind {
                // A net with settings that have no default is checked where it is used.
                ItemKind::Net if item.settings.iter().all(|s| s.default.is_some()) => {
                    // What depends on the sizes of data is decided when they are there.
                    let outcome = stacker::grow(64 << 20, || lower::lower(self, &item.name.text, &options));
                    all.extend(outcome.diagnostics);
                    // Nets that use this one, or that it uses, would each take as long to say the same.
                    if outcome.too_large {
                        break;
                    }
                }
                ItemKind::Neuron if item.settings.iter().all(|s| s.default.is_some()) => {
                    all.extend(lower::check_neuron(self, item));
                }
                _ => {}
            }
        }
        let mut unique: Vec<Diagnostic> = Vec::new();
        for d in all {
            if !unique.contains(&d) {
                unique.push(d);
            }
        }
        unique.sort_by_key(|d| (std::cmp::Reverse(d.severity), d.labels.first().map_or(0, |(s, _)| s.start)));
        unique
    }

    /// The declared inputs of a net.
    ///
    /// # Errors
    /// If their types make no sense.
    pub fn signature(&self, net: &str, options: &Options) -> Result<Vec<(String, Type)>, Vec<Diagnostic>> {
        lower::signature(self, net, options)
    }

    /// What each name that is bound in the file is when a net is lowered with symbolic dimensions: its type, or what else it is.
    /// A name in an item that is called several times is there several times.
    pub fn bindings(&self, net: &str, mode: Mode) -> Vec<(snn_syntax::Span, String)> {
        let options = Options { mode, ..Options::default() };
        stacker::grow(64 << 20, || lower::bindings(self, net, &options))
    }

    /// What a net is made of: its graph as it was written, and the calls of the library that made it.
    ///
    /// # Errors
    /// Everything that is wrong with it, with the warnings.
    pub fn trace(&self, net: &str, options: &Options) -> Result<Trace, Vec<Diagnostic>> {
        stacker::grow(64 << 20, || lower::trace(self, net, options))
    }

    /// The graph of a net.
    ///
    /// # Errors
    /// Everything that is wrong with it, with the warnings.
    pub fn lower(&self, net: &str, options: &Options) -> Result<Lowered, Vec<Diagnostic>> {
        let outcome = stacker::grow(64 << 20, || lower::lower(self, net, options));
        let is_error = |d: &Diagnostic| d.severity == Severity::Error;
        match outcome.graph {
            Some(graph) if !outcome.diagnostics.iter().any(is_error) => {
                Ok(Lowered { graph, warnings: outcome.diagnostics, layers: outcome.layers, observations: outcome.observations })
            }
            _ => {
                let mut diagnostics = outcome.diagnostics;
                if !diagnostics.iter().any(is_error) {
                    diagnostics.extend(outcome.undecided);
                }
                Err(diagnostics)
            }
        }
    }
}

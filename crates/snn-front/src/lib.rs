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
mod parameter;
mod recursion;
mod shapes;
mod value;

use std::collections::BTreeMap;
use std::sync::OnceLock;

pub use documentation::{OPERATIONS, documentation, known_names, library_parts, signature_of};
use snn_ir::{Dims, Graph, Type};
use snn_syntax::ast::ItemKind;
use snn_syntax::{Ast, Diagnostic, Severity, Sources};

/// The text of the standard library.
pub const STANDARD_LIBRARY: &str = include_str!("../../../grammar/std.snn");

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
}

/// A graph, with warnings about its source.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The graph.
    pub graph: Graph,
    /// What is suspicious.
    pub warnings: Vec<Diagnostic>,
}

/// A parsed file and the standard library.
#[derive(Clone, Debug)]
pub struct Module {
    /// The user's file.
    pub ast: Ast,
    /// The texts, for messages: 0 is the user's, 1 the library's.
    pub sources: Sources,
}

pub(crate) fn standard_library() -> &'static Ast {
    static LIBRARY: OnceLock<Ast> = OnceLock::new();
    LIBRARY.get_or_init(|| match snn_syntax::parse(STANDARD_LIBRARY, 1) {
        Ok(ast) => ast,
        // A defect of this crate that every test meets.
        Err(d) => panic!("the standard library does not parse: {d:?}"),
    })
}

/// Parses the standard library, if that has not been done: it takes some milliseconds, which the first program that needs it would wait.
pub fn prepare() {
    standard_library();
}

impl Module {
    /// Parses a file; `name` is what messages call it.
    ///
    /// # Errors
    /// Syntax errors, and names that are declared twice.
    pub fn parse(name: &str, text: &str) -> Result<Module, (Sources, Vec<Diagnostic>)> {
        let mut sources = Sources::default();
        sources.add(name, text);
        sources.add(STANDARD_LIBRARY_NAME, STANDARD_LIBRARY);
        let ast = match snn_syntax::parse(text, 0) {
            Ok(ast) => ast,
            Err(d) => return Err((sources, vec![*d])),
        };
        // A surrogate may share its name with a function of tensors.
        let mut first: BTreeMap<(&str, bool), snn_syntax::Span> = BTreeMap::new();
        let mut errors = Vec::new();
        for item in &ast.items {
            if let Some(before) = first.insert((&item.name.text, item.kind == ItemKind::Surrogate), item.name.span) {
                errors.push(
                    Diagnostic::error(format!("`{}` is declared twice", item.name.text))
                        .label(item.name.span, "here again")
                        .label(before, "first here"),
                );
            }
        }
        if errors.is_empty() { Ok(Module { ast, sources }) } else { Err((sources, errors)) }
    }

    /// The names of the nets in the file.
    pub fn nets(&self) -> Vec<&str> {
        self.ast.items.iter().filter(|i| i.kind == ItemKind::Net).map(|i| i.name.text.as_str()).collect()
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

    /// The graph of a net.
    ///
    /// # Errors
    /// Everything that is wrong with it, with the warnings.
    pub fn lower(&self, net: &str, options: &Options) -> Result<Lowered, Vec<Diagnostic>> {
        let outcome = stacker::grow(64 << 20, || lower::lower(self, net, options));
        let is_error = |d: &Diagnostic| d.severity == Severity::Error;
        match outcome.graph {
            Some(graph) if !outcome.diagnostics.iter().any(is_error) => Ok(Lowered { graph, warnings: outcome.diagnostics }),
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

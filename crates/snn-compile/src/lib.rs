//! The pipeline: everything between a parsed program and the graph that a backend compiles, as named passes in one list.
//!
//! [`PASSES`] is the list, in order. [`Compilation`] is what they work on, as Cranelift's `Context` is for its passes. Running,
//! training, `emit`, the REPL and the library all call [`compile`] or [`compile_until`]; nobody else strings passes together.
//! The verifier runs after each pass in debug builds and where [`Options::verify`] asks for it.

mod fixed;
mod inputs;

use std::collections::{BTreeMap, BTreeSet};

use snn_front::Module;
use snn_ir::{CompileError, DimError, Graph, VerifyErrors};
use snn_syntax::Diagnostic;

pub use fixed::{FixedPoint, largest_states, own_name};
pub use inputs::{COTANGENT, OUTPUT, QUANTISED, drawn_name};

/// What the optimiser may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Optimise {
    /// Nothing: the graph runs as it was written.
    Off,
    /// What keeps every bit.
    #[default]
    Exact,
    /// What may round differently too.
    Fast,
}

/// Which gradients are computed. An empty list of names stands for all learnable parameters.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Gradients {
    /// None.
    #[default]
    None,
    /// Those of the net's scalar, which is then called `loss`, with respect to these inputs and parameters, as outputs
    /// `grad.<name>`.
    Scalar(Vec<String>),
    /// Those of `sum(output * cotangent)` over all outputs of floats, where the cotangents are inputs `cotangent.<output>`. The
    /// outputs are `output.<name>`.
    Outputs(Vec<String>),
}

/// What a net is compiled for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Mode, sizes of dimensions, how many `...` stands for, and settings.
    pub front: snn_front::Options,
    /// Must every size be known after `bind`?
    pub closed: bool,
    /// Random operations whose numbers are given as inputs, by their stream, with the axis of samples.
    pub random_inputs: BTreeMap<u32, usize>,
    /// Parameters that the net reads rounded: as inputs [`QUANTISED`], whose gradients are those of the parameters (straight-through).
    pub quantised: BTreeSet<String>,
    /// States of neurons in this format of fixed point.
    pub states: Option<FixedPoint>,
    /// Which gradients.
    pub gradients: Gradients,
    /// With gradients: keep the states of neurons every so many steps only, and compute those between again.
    pub checkpoint: Option<usize>,
    /// With gradients: let parameters follow them. New values are updates of the run.
    pub update: Option<snn_train::Update>,
    /// What the optimiser may do.
    pub optimise: Optimise,
    /// May rules take parameters to be infinite too? Then [`Compilation::finite`] is empty.
    pub may_be_infinite: bool,
    /// Use this rule of the optimiser alone, by its name, and take what it makes wherever it fires, whatever that costs.
    pub rule: Option<&'static str>,
    /// Let the optimiser's report say what each rule saves and why the results are equal.
    pub explain: bool,
    /// Run the verifier after each pass in a release build too.
    pub verify: bool,
}

/// Why a net cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is wrong with the source.
    #[error("{}", .0.iter().map(|d| d.message.as_str()).collect::<Vec<_>>().join("\n"))]
    Source(Vec<Diagnostic>),
    /// A size is not known, or too large.
    #[error("{0}; give an input that has it, or `--dims`")]
    Size(#[from] DimError),
    /// The net cannot be differentiated as asked.
    #[error(transparent)]
    Gradient(#[from] snn_autodiff::GradientError),
    /// The optimiser step cannot be made.
    #[error(transparent)]
    Train(#[from] snn_train::TrainError),
    /// A rule of the optimiser is wrong.
    #[error(transparent)]
    Optimiser(#[from] snn_opt::WrongRule),
    /// A pass made a graph that breaks the rules of the IR.
    #[error("a defect of the compiler, please report it: after the pass `{pass}`\n{errors}")]
    Verify {
        /// Which pass.
        pass: &'static str,
        /// The rules.
        errors: VerifyErrors,
    },
    /// Planning or code generation failed.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// A net on its way through the passes.
#[derive(Clone, Debug, Default)]
pub struct Compilation {
    /// The graph after the last pass that ran.
    pub graph: Graph,
    /// The layers with their settings that are numbers.
    pub layers: Vec<(String, Vec<(String, f64)>)>,
    /// The outputs that are said and not given, where [`snn_front::Options::observe`] asks for them.
    pub observations: Vec<snn_front::Observation>,
    /// After `differentiate`: names that the scalar does not depend on.
    pub independent: Vec<String>,
    /// After `optimise`: parameters that must be finite for the graph to equal the one before.
    pub finite: BTreeSet<String>,
    /// After `optimise`: what it did.
    pub report: Option<snn_opt::Report>,
}

/// A pass over the graph.
type Work = fn(&mut Compilation, &Input<'_>, &Options) -> Result<(), Error>;

/// What is compiled.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A net of a parsed program.
    Net {
        /// The program.
        module: &'a Module,
        /// The name of the net.
        net: &'a str,
    },
    /// A graph, as [`snn_ir::text::parse`] reads it.
    Graph(&'a Graph),
}

/// What a pass works on.
#[derive(Clone, Copy)]
enum Kind {
    /// The text; `Module::parse` has done it.
    Text,
    /// The graph.
    Graph {
        /// Is there something to do?
        wanted: fn(&Options) -> bool,
        work: Work,
    },
    /// Done by a backend: the text is what the CPU's makes.
    Backend(fn(&Graph) -> Result<String, CompileError>),
}

/// A pass of the compiler.
#[derive(Clone, Copy)]
pub struct Pass {
    /// What `emit --after` calls it.
    pub name: &'static str,
    /// What it does, in a line.
    pub does: &'static str,
    kind: Kind,
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Pass {
    /// The pass of a name.
    pub fn named(name: &str) -> Option<&'static Pass> {
        PASSES.iter().find(|p| p.name == name)
    }

    /// Does it change the graph, rather than the text before or the code after?
    pub fn is_on_graph(&self) -> bool {
        matches!(self.kind, Kind::Graph { .. })
    }
}

const fn graph(name: &'static str, does: &'static str, wanted: fn(&Options) -> bool, work: Work) -> Pass {
    Pass { name, does, kind: Kind::Graph { wanted, work } }
}

/// All passes, in order.
pub const PASSES: [Pass; 15] = [
    Pass { name: "parse", does: "text to syntax tree", kind: Kind::Text },
    graph("lower", "syntax tree to graph, with symbolic dimensions", |_| true, lower),
    graph("bind", "sizes are put in for dimensions", |_| true, bind),
    graph("fixed-point", "states of neurons are rounded to fixed point", |o| o.states.is_some(), fix),
    graph("draw", "random numbers that are drawn outside become inputs", |o| !o.random_inputs.is_empty(), draw),
    graph("quantise", "the net reads rounded weights, which are inputs", |o| !o.quantised.is_empty(), quantise),
    graph(
        "cotangents",
        "outputs are multiplied by their gradients, which are inputs",
        |o| matches!(o.gradients, Gradients::Outputs(_)),
        seed,
    ),
    graph("hoist", "what is the same at every step moves out of neurons and loops", is_hoisted, hoist),
    graph("last", "sequences of which only the last step is used become states", is_hoisted, last),
    graph("checkpoint", "neurons keep their states every few steps only", |o| checkpoint_steps(o).is_some(), checkpoint),
    graph("differentiate", "gradients of the scalar are computed too", |o| o.gradients != Gradients::None, differentiate),
    graph("update", "parameters follow their gradients: the optimiser step", |o| o.update.is_some(), update),
    graph("optimise", "rules rewrite the graph to a cheaper one", |o| o.optimise != Optimise::Off, optimise),
    Pass { name: "plan", does: "operations become kernels and buffers", kind: Kind::Backend(plan) },
    Pass { name: "generate", does: "kernels become machine code", kind: Kind::Backend(generate) },
];

/// The plan for threads, as the CPU runs it.
fn plan(graph: &Graph) -> Result<String, CompileError> {
    snn_ir::backend::check_sizes(graph)?;
    let (graph, plan) = snn_plan::prepared(graph)?;
    Ok(snn_plan::describe(&graph, &plan, 0))
}

fn generate(graph: &Graph) -> Result<String, CompileError> {
    snn_cpu::listing(graph, snn_cpu::Listing::Clif)
}

/// Runs all passes that work on the graph.
///
/// # Errors
/// The first pass that fails.
pub fn compile(input: Input<'_>, options: &Options) -> Result<Compilation, Error> {
    compile_until(input, options, "optimise")
}

/// Runs the passes up to the one of this name, or all that work on the graph where that comes later.
///
/// # Errors
/// The first pass that fails.
pub fn compile_until(input: Input<'_>, options: &Options, last: &str) -> Result<Compilation, Error> {
    let mut compilation = Compilation::default();
    for pass in &PASSES {
        if let Kind::Graph { wanted, work } = pass.kind
            && wanted(options)
        {
            work(&mut compilation, &input, options)?;
            verify(pass, &compilation.graph, options)?;
        }
        if pass.name == last {
            break;
        }
    }
    Ok(compilation)
}

/// A net after a pass, as text: the syntax tree, a graph, the CPU's plan, or Cranelift's intermediate form.
///
/// # Errors
/// The first pass that fails.
pub fn text_after(input: Input<'_>, options: &Options, pass: &Pass) -> Result<String, Error> {
    match pass.kind {
        Kind::Text => Ok(match input {
            Input::Net { module, .. } => snn_syntax::dump(&module.ast),
            Input::Graph(graph) => graph.to_string(),
        }),
        Kind::Graph { .. } => Ok(compile_until(input, options, pass.name)?.graph.to_string()),
        Kind::Backend(text) => Ok(text(&compile(input, options)?.graph)?),
    }
}

/// A graph that is not made from a net, such as one time step of it, through the optimiser alone.
///
/// # Errors
/// If a rule is wrong.
pub fn optimised(graph: Graph, options: &Options) -> Result<Compilation, Error> {
    let mut compilation = Compilation { graph, ..Compilation::default() };
    if options.optimise != Optimise::Off {
        rewrite(&mut compilation, options)?;
    }
    Ok(compilation)
}

/// A graph that is not made from a net, with the gradients of its scalar.
///
/// # Errors
/// If it has no scalar, or a name is unknown or not of floats.
pub fn gradients(graph: &Graph, wrt: &[String]) -> Result<snn_autodiff::Gradients, snn_autodiff::GradientError> {
    snn_autodiff::differentiate(graph, &asked_for(graph, wrt))
}

/// The names to differentiate with respect to; without any, all learnable parameters.
fn asked_for(graph: &Graph, wrt: &[String]) -> Vec<String> {
    let all = || graph.parameters.iter().filter(|p| p.learnable).map(|p| p.name.clone()).collect();
    if wrt.is_empty() { all() } else { wrt.to_vec() }
}

fn verify(pass: &Pass, graph: &Graph, options: &Options) -> Result<(), Error> {
    if !(options.verify || cfg!(debug_assertions)) {
        return Ok(());
    }
    snn_ir::verify(graph).map_err(|errors| Error::Verify { pass: pass.name, errors })
}

fn lower(c: &mut Compilation, input: &Input<'_>, options: &Options) -> Result<(), Error> {
    match input {
        Input::Net { module, net } => {
            let lowered = module.lower(net, &options.front).map_err(Error::Source)?;
            c.graph = lowered.graph;
            c.layers = lowered.layers;
            c.observations = lowered.observations;
        }
        Input::Graph(graph) => c.graph = (*graph).clone(),
    }
    Ok(())
}

fn bind(c: &mut Compilation, _: &Input<'_>, options: &Options) -> Result<(), Error> {
    c.graph = c.graph.bind(&options.front.dims);
    if options.closed {
        // What is missing is better said than that a size is unknown later.
        for ty in c.graph.nodes().flat_map(|(_, n)| &n.types) {
            ty.sizes()?;
        }
    }
    Ok(())
}

fn fix(c: &mut Compilation, _: &Input<'_>, options: &Options) -> Result<(), Error> {
    if let Some(format) = options.states {
        c.graph = fixed::with_fixed_states(&c.graph, format, options.gradients != Gradients::None);
    }
    Ok(())
}

fn draw(c: &mut Compilation, _: &Input<'_>, options: &Options) -> Result<(), Error> {
    c.graph = inputs::with_random_inputs(&c.graph, &options.random_inputs);
    Ok(())
}

fn quantise(c: &mut Compilation, _: &Input<'_>, options: &Options) -> Result<(), Error> {
    c.graph = inputs::with_quantised_inputs(&c.graph, &options.quantised);
    Ok(())
}

fn seed(c: &mut Compilation, _: &Input<'_>, _: &Options) -> Result<(), Error> {
    c.graph = inputs::with_cotangents(std::mem::take(&mut c.graph));
    Ok(())
}

/// A rule that is looked at alone sees neurons as they were written, and so does who wants nothing to be optimised.
fn is_hoisted(options: &Options) -> bool {
    options.rule.is_none() && options.optimise != Optimise::Off
}

fn hoist(c: &mut Compilation, _: &Input<'_>, _: &Options) -> Result<(), Error> {
    c.graph = c.graph.hoisted();
    Ok(())
}

fn last(c: &mut Compilation, _: &Input<'_>, _: &Options) -> Result<(), Error> {
    c.graph = c.graph.with_last_steps();
    Ok(())
}

fn checkpoint_steps(options: &Options) -> Option<usize> {
    options.checkpoint.filter(|every| *every > 1 && options.gradients != Gradients::None)
}

fn checkpoint(c: &mut Compilation, _: &Input<'_>, options: &Options) -> Result<(), Error> {
    if let Some(every) = checkpoint_steps(options) {
        c.graph = snn_autodiff::recurrence::with_checkpoints(&c.graph, every);
    }
    Ok(())
}

fn differentiate(c: &mut Compilation, _: &Input<'_>, options: &Options) -> Result<(), Error> {
    let wrt = match &options.gradients {
        Gradients::None => return Ok(()),
        Gradients::Scalar(wrt) | Gradients::Outputs(wrt) => wrt,
    };
    // What is rounded hands its gradient on to what it was rounded from.
    let read = |name: String| if options.quantised.contains(&name) { format!("{QUANTISED}{name}") } else { name };
    let wrt: Vec<String> = asked_for(&c.graph, wrt).into_iter().map(read).collect();
    let gradients = snn_autodiff::differentiate(&c.graph, &wrt)?;
    let own = |name: String| name.strip_prefix(QUANTISED).map(str::to_string).unwrap_or(name);
    c.graph = gradients.graph;
    for (name, _) in &mut c.graph.outputs {
        if let Some(parameter) = name.strip_prefix("grad.").and_then(|n| n.strip_prefix(QUANTISED)) {
            *name = format!("grad.{parameter}");
        }
    }
    c.independent = gradients.independent.into_iter().map(own).collect();
    Ok(())
}

fn update(c: &mut Compilation, _: &Input<'_>, options: &Options) -> Result<(), Error> {
    if let Some(update) = &options.update {
        // A parameter that the loss does not depend on stays, as in PyTorch, where its gradient is `None`.
        let independent = &c.independent;
        c.graph.outputs.retain(|(n, _)| n.strip_prefix("grad.").is_none_or(|p| !independent.iter().any(|i| i == p)));
        c.graph = update.extend(&c.graph)?;
    }
    Ok(())
}

fn optimise(c: &mut Compilation, _: &Input<'_>, options: &Options) -> Result<(), Error> {
    rewrite(c, options)
}

fn rewrite(c: &mut Compilation, options: &Options) -> Result<(), Error> {
    let rules = snn_opt::Options {
        prefer_new: options.rule.is_some(),
        only: options.rule.into_iter().collect(),
        fast_math: options.optimise == Optimise::Fast,
        // Weights that move may become infinite; a rule that takes them to be finite would have to look each time.
        assume_finite: !options.may_be_infinite && options.update.is_none(),
        explain: options.explain,
        ..snn_opt::Options::default()
    };
    let optimised = snn_opt::optimise(&c.graph, &rules)?;
    c.graph = optimised.graph;
    c.finite = optimised.finite;
    c.report = Some(optimised.report);
    Ok(())
}

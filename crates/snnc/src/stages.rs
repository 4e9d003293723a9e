//! What the compiler makes of a net, stage by stage, as text.

use snn_ir::Graph;

use crate::{CompileOptions, DeviceName, Dims, Error, Optimise, Options, Program};

/// A stage of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// The syntax tree.
    Ast,
    /// The graph, which can be read back.
    Ir,
    /// The graph with the gradients of the net's scalar, before the optimiser.
    Grad,
    /// The graph after the optimiser.
    Opt,
    /// The plan of kernels and Cranelift's intermediate form; needs all dimensions.
    Clif,
    /// Machine code; needs all dimensions.
    Asm,
    /// The plan on candle's device, with the source of its kernels; needs all dimensions.
    Candle,
    /// The graph for Graphviz, after the optimiser unless `--no-opt`.
    Dot,
    /// All that the optimiser found equal, for Graphviz.
    Egraph,
}

impl std::str::FromStr for Stage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Stage, Error> {
        <Stage as clap::ValueEnum>::from_str(name, false)
            .map_err(|_| Error::Data(format!("there is no stage `{name}`: ast, ir, grad, opt, clif, asm, candle, dot and egraph are")))
    }
}

/// How a stage is made.
#[derive(Clone, Debug)]
pub struct View {
    /// What the optimiser may do.
    pub optimise: Optimise,
    /// With gradients with respect to these, all learnable parameters where the list is empty.
    pub gradients: Option<Vec<String>>,
    /// For which device candle's plan is.
    pub device: DeviceName,
    /// Of the optimiser: which rules fired, what each saves, and why the results are equal.
    pub explain: bool,
}

impl Default for View {
    fn default() -> Self {
        View { optimise: Optimise::Exact, gradients: None, device: DeviceName::Cuda(0), explain: false }
    }
}

/// A net at a stage, as text.
///
/// # Errors
/// What is wrong with its source, or sizes that the stage needs and nobody gives.
pub fn stage(program: &Program, net: Option<&str>, stage: Stage, options: &Options, view: &View) -> Result<String, Error> {
    if stage == Stage::Ast {
        return Ok(snn_syntax::dump(&program.module().ast));
    }
    let mut graph = program.lower(net, options)?.bind(&options.dims);
    if stage == Stage::Grad || view.gradients.is_some() && stage != Stage::Ir {
        graph = crate::gradients(&graph, view.gradients.as_deref().unwrap_or_default())?.graph;
    }
    let optimised = || view.optimise.apply(graph.clone(), true).map(|o| o.0);
    let opt = || snn_opt::Options { fast_math: view.optimise == Optimise::Fast, explain: view.explain, ..snn_opt::Options::default() };
    Ok(match stage {
        Stage::Dot => snn_ir::dot::dot(&optimised()?),
        Stage::Egraph => snn_opt::e_graph_dot(&graph, &opt())?,
        Stage::Clif => listing(&optimised()?, snn_cpu::Listing::Clif)?,
        Stage::Asm => listing(&optimised()?, snn_cpu::Listing::Assembly)?,
        Stage::Candle => snn_candle::describe::describe(&optimised()?, view.device).map_err(unknown_sizes)?,
        Stage::Opt if view.explain => snn_opt::optimise(&graph, &opt())?.report.to_string(),
        Stage::Opt => optimised()?.to_string(),
        Stage::Ir | Stage::Grad | Stage::Ast => graph.to_string(),
    })
}

fn listing(graph: &Graph, kind: snn_cpu::Listing) -> Result<String, Error> {
    snn_cpu::listing(graph, kind).map_err(unknown_sizes)
}

fn unknown_sizes(e: snn_ir::CompileError) -> Error {
    match e {
        snn_ir::CompileError::UnknownSize(e) => Error::Data(format!("{e}; machine code is made for known sizes: give `--dims T=16,B=64`")),
        other => other.into(),
    }
}

/// A stage of a net as it is compiled with some options.
///
/// # Errors
/// As [`stage`], or an unknown stage.
pub fn text(program: &Program, net: &str, name: &str, dims: &Dims, options: &CompileOptions) -> Result<String, Error> {
    let (name, explain) = if name == "explain" { ("opt", true) } else { (name, false) };
    let view = View { optimise: options.optimise, gradients: options.gradients.clone(), explain, ..View::default() };
    stage(program, Some(net), name.parse()?, &lowering(dims, options), &view)
}

fn lowering(dims: &Dims, options: &CompileOptions) -> Options {
    let mut all = options.dims.clone();
    all.extend(dims.iter().map(|(n, v)| (n.clone(), *v)));
    Options { mode: options.mode, dims: all, rest: None, settings: options.settings.clone() }
}

/// The graph of a net as a picture, in SVG.
///
/// # Errors
/// As [`stage`].
pub fn svg(program: &Program, net: &str, dims: &Dims, options: &CompileOptions) -> Result<String, Error> {
    let lowering = lowering(dims, options);
    let graph = program.lower(Some(net), &lowering)?.bind(&lowering.dims);
    let (graph, _) = options.optimise.apply(graph, true)?;
    crate::plot::as_svg(|path| crate::plot::graphs(path, &[(net, &graph)]))
}

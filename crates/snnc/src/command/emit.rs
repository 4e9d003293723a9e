//! `snnc emit`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use snnc::{Dims, Optimise, Options};

use super::{Failure, ModeName, OptimiseArguments, load_program, parse_dims};
use crate::command::say::say_part;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
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

#[derive(Args)]
pub struct EmitArguments {
    /// The program.
    file: PathBuf,
    /// What to print.
    #[arg(long, value_enum)]
    stage: Stage,
    /// Which net.
    #[arg(long)]
    net: Option<String>,
    /// Sizes of dimensions.
    #[arg(long, value_name = "T=16,B=64", value_parser = parse_dims)]
    dims: Option<Dims>,
    /// How many dimensions `...` stands for, at most 32.
    #[arg(long, value_name = "N", value_parser = parse_rest)]
    rest: Option<usize>,
    /// Evaluation or training.
    #[arg(long, value_enum, default_value_t = ModeName::Eval)]
    mode: ModeName,
    #[command(flatten)]
    optimise: OptimiseArguments,
    /// Look at the graph with gradients, at every stage after `ir`.
    #[arg(long)]
    grad: bool,
    /// With respect to which inputs and parameters; all learnable parameters where it is not given.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    wrt: Vec<String>,
    /// With `--stage candle`: for which device, present or not.
    #[arg(long, default_value = "cuda", value_name = "DEVICE")]
    device: snnc::DeviceName,
    /// With `--stage opt`: which rules fired, what each saves, and why the results are equal.
    #[arg(long)]
    explain: bool,
}

pub fn emit(a: &EmitArguments) -> Result<(), Failure> {
    let program = load_program(&a.file)?;
    if a.stage == Stage::Ast {
        say_part!("{}", snn_syntax::dump(&program.module().ast));
        return Ok(());
    }
    let dims = a.dims.clone().unwrap_or_default();
    let options = Options { mode: a.mode.into(), dims: dims.clone(), rest: a.rest, ..Default::default() };
    let mut graph = program.lower(a.net.as_deref(), &options)?.bind(&dims);
    if a.stage == Stage::Grad || (a.grad && a.stage != Stage::Ir) {
        graph = snnc::gradients(&graph, &a.wrt)?.graph;
    }
    if a.explain && a.stage != Stage::Opt {
        return Err(Failure::Text("`--explain` is for `--stage opt`".into()));
    }
    let optimised = || a.optimise.level().apply(graph.clone(), true).map(|o| o.0);
    let text = match a.stage {
        Stage::Dot => snn_ir::dot::dot(&optimised()?),
        Stage::Egraph => snn_opt::e_graph_dot(&graph, &options_of(a)).map_err(snnc::Error::from)?,
        Stage::Clif => listing(&optimised()?, snn_cpu::Listing::Clif)?,
        Stage::Asm => listing(&optimised()?, snn_cpu::Listing::Assembly)?,
        Stage::Candle => snn_candle::describe::describe(&optimised()?, a.device).map_err(unknown_sizes)?,
        Stage::Opt if a.explain => snn_opt::optimise(&graph, &options_of(a)).map_err(snnc::Error::from)?.report.to_string(),
        Stage::Opt => optimised()?.to_string(),
        Stage::Ir | Stage::Grad | Stage::Ast => graph.to_string(),
    };
    say_part!("{text}");
    Ok(())
}

fn options_of(a: &EmitArguments) -> snn_opt::Options {
    snn_opt::Options { fast_math: a.optimise.level() == Optimise::Fast, explain: a.explain, ..snn_opt::Options::default() }
}

fn listing(graph: &snnc::Graph, kind: snn_cpu::Listing) -> Result<String, Failure> {
    snn_cpu::listing(graph, kind).map_err(unknown_sizes)
}

fn unknown_sizes(e: snn_ir::CompileError) -> Failure {
    match e {
        snn_ir::CompileError::UnknownSize(e) => {
            Failure::Text(format!("{e}; machine code is made for known sizes: give `--dims T=16,B=64`"))
        }
        other => Failure::Error(other.into()),
    }
}

fn parse_rest(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n <= 32).ok_or_else(|| "`...` stands for 0 to 32 dimensions".to_string())
}

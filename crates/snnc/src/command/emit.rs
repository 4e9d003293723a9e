//! `snnc emit`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use snnc::stages::{Stage, View};
use snnc::{Dims, Options};

use super::{Failure, ModeName, OptimiseArguments, load_program, parse_dims};
use crate::command::say::say_part;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StageName {
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
    /// The program, or a `.nir` file.
    file: PathBuf,
    /// What to print.
    #[arg(long, value_enum)]
    stage: StageName,
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
    #[command(flatten)]
    nir: super::nir::NirArguments,
}

pub fn emit(a: &EmitArguments) -> Result<(), Failure> {
    let (program, _) = load_program(&a.file, &a.nir)?;
    if a.explain && a.stage != StageName::Opt {
        return Err(Failure::Text("`--explain` is for `--stage opt`".into()));
    }
    let stage = match a.stage {
        StageName::Ast => Stage::Ast,
        StageName::Ir => Stage::Ir,
        StageName::Grad => Stage::Grad,
        StageName::Opt => Stage::Opt,
        StageName::Clif => Stage::Clif,
        StageName::Asm => Stage::Asm,
        StageName::Candle => Stage::Candle,
        StageName::Dot => Stage::Dot,
        StageName::Egraph => Stage::Egraph,
    };
    let options = Options { mode: a.mode.into(), dims: a.dims.clone().unwrap_or_default(), rest: a.rest, ..Default::default() };
    let gradients = (a.grad || a.stage == StageName::Grad).then(|| a.wrt.clone());
    let view = View { optimise: a.optimise.level(), gradients, device: a.device, explain: a.explain };
    say_part!("{}", snnc::stages::stage(&program, a.net.as_deref(), stage, &options, &view)?);
    Ok(())
}

fn parse_rest(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n <= 32).ok_or_else(|| "`...` stands for 0 to 32 dimensions".to_string())
}

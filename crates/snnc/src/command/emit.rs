//! `snnc emit`

use std::path::PathBuf;

use clap::Args;
use snnc::stages::{Stage, View};
use snnc::{Dims, Options};

use super::{Failure, ModeName, OptimiseArguments, load_program, parse_dims};
use crate::command::say::say_part;

#[derive(Args)]
pub struct EmitArguments {
    /// The program, or a `.nir` file.
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
    #[command(flatten)]
    nir: super::nir::NirArguments,
}

pub fn emit(a: &EmitArguments) -> Result<(), Failure> {
    let (program, _) = load_program(&a.file, &a.nir)?;
    if a.explain && a.stage != Stage::Opt {
        return Err(Failure::Text("`--explain` is for `--stage opt`".into()));
    }
    let options = Options { mode: a.mode.into(), dims: a.dims.clone().unwrap_or_default(), rest: a.rest, ..Default::default() };
    let gradients = (a.grad || a.stage == Stage::Grad).then(|| a.wrt.clone());
    let view = View { optimise: a.optimise.level(), gradients, device: a.device, explain: a.explain };
    say_part!("{}", snnc::stages::stage(&program, a.net.as_deref(), a.stage, &options, &view)?);
    Ok(())
}

fn parse_rest(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n <= 32).ok_or_else(|| "`...` stands for 0 to 32 dimensions".to_string())
}

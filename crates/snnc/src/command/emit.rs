//! `snnc emit`

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use snnc::stages::Stage;
use snnc::{Dims, Gradients, Options, PASSES, Pass, PassOptions};

use super::train::OptimizerName;
use super::{Failure, ModeName, OptimiseArguments, load_program, parse_dims};
use crate::command::say::say_part;

#[derive(Args)]
pub struct EmitArguments {
    /// The program, or a `.nir` file.
    file: PathBuf,
    /// What to print.
    #[arg(long, value_name = "STAGE", value_parser = stages(), required_unless_present = "after")]
    stage: Option<String>,
    /// Print what a pass of the compiler leaves.
    #[arg(long, value_name = "PASS", value_parser = passes(), conflicts_with = "stage")]
    after: Option<String>,
    /// Check the rules of the IR after each pass.
    #[arg(long)]
    verify: bool,
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
    /// With gradients: keep the states of neurons every K steps only and compute those between again.
    #[arg(long, value_name = "K")]
    checkpoint: Option<usize>,
    /// With the step of an optimiser, which needs gradients with respect to all learnable parameters.
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "wrt")]
    optimizer: Option<OptimizerName>,
    /// With `--stage candle`: for which device, present or not.
    #[arg(long, default_value = "cuda", value_name = "DEVICE")]
    device: snnc::DeviceName,
    /// With `--stage opt`: which rules fired, what each saves, and why the results are equal.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    nir: super::nir::NirArguments,
}

fn stages() -> PossibleValuesParser {
    Stage::names().map(|(name, what)| PossibleValue::new(name).help(what)).collect::<Vec<_>>().into()
}

fn passes() -> PossibleValuesParser {
    PASSES.iter().map(|p| PossibleValue::new(p.name).help(p.does)).collect::<Vec<_>>().into()
}

pub fn emit(a: &EmitArguments) -> Result<(), Failure> {
    let (program, _) = load_program(&a.file, &a.nir)?;
    let after = a.after.as_deref().and_then(Pass::named).map(Stage::After);
    let stage = match (after, a.stage.as_deref()) {
        (Some(stage), _) => stage,
        (None, Some("opt")) if a.explain => Stage::Explain,
        (None, name) => name.unwrap_or("ir").parse()?,
    };
    if a.explain && !matches!(stage, Stage::Explain) {
        return Err(Failure::Text("`--explain` is for `--stage opt`".into()));
    }
    let wanted = a.grad || a.optimizer.is_some() || !a.wrt.is_empty() || a.checkpoint.is_some();
    let options = PassOptions {
        front: Options { mode: a.mode.into(), dims: a.dims.clone().unwrap_or_default(), rest: a.rest, ..Default::default() },
        gradients: if wanted { Gradients::Scalar(a.wrt.clone()) } else { Gradients::None },
        checkpoint: a.checkpoint,
        update: a.optimizer.map(|name| name.update(0.0)),
        optimise: a.optimise.level(),
        verify: a.verify,
        ..PassOptions::default()
    };
    say_part!("{}", snnc::stages::stage(&program, a.net.as_deref(), stage, &options, a.device)?);
    Ok(())
}

fn parse_rest(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n <= 32).ok_or_else(|| "`...` stands for 0 to 32 dimensions".to_string())
}

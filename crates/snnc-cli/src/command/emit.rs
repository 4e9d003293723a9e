//! `snnc emit`

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use snnc::stages::Stage;
use snnc::{Dims, Gradients, Graph, Options, PASSES, Pass, PassOptions, Program};

use super::train::OptimizerName;
use super::{Failure, ModeName, OptimiseArguments, load_program, parse_dims, read_text};
use crate::command::say::say_part;

#[derive(Args)]
pub struct EmitArguments {
    /// The program, a `.nir` file, or a graph in the text form of the IR, `.ir`.
    file: PathBuf,
    #[command(flatten)]
    options: EmitOptions,
    #[command(flatten)]
    nir: super::nir::NirArguments,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["stage", "after"]))]
pub struct EmitOptions {
    /// What to print.
    #[arg(long, value_name = "STAGE", value_parser = stages())]
    stage: Option<String>,
    /// Print what a pass of the compiler leaves.
    #[arg(long, value_name = "PASS", value_parser = passes())]
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
    /// States of neurons in fixed point: `Q7.8` has a sign, 7 bits before the point and 8 after it.
    #[arg(long, value_name = "FORMAT")]
    states: Option<snnc::FixedPoint>,
    /// With `--stage candle`: for which device, present or not.
    #[arg(long, default_value = "cuda", value_name = "DEVICE")]
    device: snnc::DeviceName,
    /// With `--stage opt`: which rules fired, what each saves, and why the results are equal.
    #[arg(long)]
    explain: bool,
    /// Use this rule of the optimiser alone, and take what it makes whatever it costs.
    #[arg(long, value_name = "RULE", value_parser = rules(), hide_possible_values = true, conflicts_with = "no_opt")]
    rule: Option<String>,
}

fn stages() -> PossibleValuesParser {
    Stage::names().map(|(name, what)| PossibleValue::new(name).help(what)).collect::<Vec<_>>().into()
}

fn passes() -> PossibleValuesParser {
    PASSES.iter().map(|p| PossibleValue::new(p.name).help(p.does)).collect::<Vec<_>>().into()
}

fn rules() -> PossibleValuesParser {
    snn_opt::rules::all().map(|r| PossibleValue::new(r.name)).collect::<Vec<_>>().into()
}

pub fn emit(a: &EmitArguments) -> Result<(), Failure> {
    if a.file.extension().is_some_and(|e| e == "ir") {
        a.nir.refuse()?;
        let text = read_text(&a.file)?;
        let graph = snn_ir::text::parse(&text).map_err(|e| Failure::Text(format!("{}: {e}", a.file.display())))?;
        let shown = a.options.text_of_graph(&text, &graph).map_err(|e| match e {
            Failure::Text(e) => Failure::Text(format!("{}: {e}", a.file.display())),
            other => other,
        })?;
        say_part!("{shown}");
        return Ok(());
    }
    let (program, _) = load_program(&a.file, &a.nir)?;
    say_part!("{}", a.options.text(&program)?);
    Ok(())
}

impl EmitOptions {
    /// What the compiler makes of a net.
    pub fn text(&self, program: &Program) -> Result<String, Failure> {
        let (stage, options) = self.request()?;
        Ok(snnc::stages::stage(program, self.net.as_deref(), stage, &options, self.device)?)
    }

    /// What the compiler makes of a graph that was read from a text.
    pub fn text_of_graph(&self, text: &str, graph: &Graph) -> Result<String, Failure> {
        let (stage, options) = self.request()?;
        // A graph of a user keeps the rules before any pass looks at it.
        snn_ir::verify(graph).map_err(|e| Failure::Text(e.located(text)))?;
        Ok(snnc::stages::stage_of_graph(graph, stage, &options, self.device)?)
    }

    fn request(&self) -> Result<(Stage, PassOptions), Failure> {
        let after = self.after.as_deref().and_then(Pass::named).map(Stage::After);
        let stage = match (after, self.stage.as_deref()) {
            (Some(stage), _) => stage,
            (None, Some("opt")) if self.explain => Stage::Explain,
            (None, name) => name.unwrap_or("ir").parse()?,
        };
        if self.explain && !matches!(stage, Stage::Explain) {
            return Err(Failure::Text("`--explain` is for `--stage opt`".into()));
        }
        let wanted = self.grad || self.optimizer.is_some() || !self.wrt.is_empty() || self.checkpoint.is_some();
        let options = PassOptions {
            front: Options { mode: self.mode.into(), dims: self.dims.clone().unwrap_or_default(), rest: self.rest, ..Default::default() },
            gradients: if wanted { Gradients::Scalar(self.wrt.clone()) } else { Gradients::None },
            checkpoint: self.checkpoint,
            states: self.states,
            update: self.optimizer.map(|name| name.update(0.0)),
            optimise: self.optimise.level(),
            verify: self.verify,
            rule: self.rule.as_deref().and_then(|name| snn_opt::rules::all().find(|r| r.name == name)).map(|r| r.name),
            ..PassOptions::default()
        };
        Ok((stage, options))
    }
}

fn parse_rest(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n <= 32).ok_or_else(|| "`...` stands for 0 to 32 dimensions".to_string())
}

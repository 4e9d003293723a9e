//! `snnc emit`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use snnc::{Dims, Options};

use super::{Failure, ModeName, load_program, parse_dims};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// The syntax tree.
    Ast,
    /// The graph, which can be read back.
    Ir,
    /// The plan of kernels and Cranelift's intermediate form; needs all dimensions.
    Clif,
    /// Machine code; needs all dimensions.
    Asm,
    /// The graph for Graphviz.
    Dot,
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
    /// How many dimensions `...` stands for.
    #[arg(long, value_name = "N")]
    rest: Option<usize>,
    /// Evaluation or training.
    #[arg(long, value_enum, default_value_t = ModeName::Eval)]
    mode: ModeName,
}

pub fn emit(a: &EmitArguments) -> Result<(), Failure> {
    let program = load_program(&a.file)?;
    if a.stage == Stage::Ast {
        print!("{}", snn_syntax::dump(&program.module().ast));
        return Ok(());
    }
    let dims = a.dims.clone().unwrap_or_default();
    let options = Options { mode: a.mode.into(), dims: dims.clone(), rest: a.rest };
    let graph = program.lower(a.net.as_deref(), &options)?.bind(&dims);
    let text = match a.stage {
        Stage::Dot => snn_ir::dot::dot(&graph),
        Stage::Clif => listing(&graph, snn_cpu::Listing::Clif)?,
        Stage::Asm => listing(&graph, snn_cpu::Listing::Assembly)?,
        _ => graph.to_string(),
    };
    print!("{text}");
    Ok(())
}

fn listing(graph: &snnc::Graph, kind: snn_cpu::Listing) -> Result<String, Failure> {
    snn_cpu::listing(graph, kind).map_err(|e| match e {
        snn_ir::CompileError::UnknownSize(e) => {
            Failure::Text(format!("{e}; machine code is made for known sizes: give `--dims T=16,B=64`"))
        }
        other => Failure::Error(other.into()),
    })
}

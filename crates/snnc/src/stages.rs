//! What the compiler makes of a net, stage by stage, as text. The passes themselves are those of `snn_compile`.

use snn_compile::Input;
use snn_ir::Graph;

use crate::{CompileOptions, DeviceName, Dims, Error, Gradients, Optimise, Options, Pass, PassOptions, Program};

/// A stage of the compiler.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// What a pass leaves.
    After(&'static Pass),
    /// Machine code; needs all dimensions.
    Assembly,
    /// The plan on candle's device, with the source of its kernels; needs all dimensions.
    Candle,
    /// The graph for Graphviz, after the optimiser unless that is off.
    Dot,
    /// All that the optimiser found equal, for Graphviz.
    EGraph,
    /// Of the optimiser: which rules fired, what each saves, and why the results are equal.
    Explain,
}

/// The names of stages, what each is, and the pass after which it is, where it is one.
const STAGES: [(&str, &str, Option<&str>); 10] = [
    ("ast", "the syntax tree", Some("parse")),
    ("ir", "the graph, which can be read back", Some("bind")),
    ("grad", "the graph with the gradients of the net's scalar, before the optimiser", Some("differentiate")),
    ("opt", "the graph after the optimiser", Some("optimise")),
    ("plan", "the kernels and buffers of the CPU; needs all dimensions", Some("plan")),
    ("clif", "the plan and Cranelift's intermediate form; needs all dimensions", Some("generate")),
    ("asm", "machine code; needs all dimensions", None),
    ("candle", "the plan on candle's device, with the source of its kernels; needs all dimensions", None),
    ("dot", "the graph for Graphviz, after the optimiser unless `--no-opt`", None),
    ("egraph", "all that the optimiser found equal, for Graphviz", None),
];

impl Stage {
    /// The names that `parse` knows, with what each stage is.
    pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
        STAGES.iter().map(|(name, what, _)| (*name, *what))
    }
}

impl std::str::FromStr for Stage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Stage, Error> {
        let pass = STAGES.iter().find(|(n, _, _)| *n == name).and_then(|(_, _, pass)| *pass);
        match (name, pass.and_then(Pass::named)) {
            (_, Some(pass)) => Ok(Stage::After(pass)),
            ("asm", None) => Ok(Stage::Assembly),
            ("candle", None) => Ok(Stage::Candle),
            ("dot", None) => Ok(Stage::Dot),
            ("egraph", None) => Ok(Stage::EGraph),
            ("explain", None) => Ok(Stage::Explain),
            _ => {
                let known = Stage::names().map(|(n, _)| n).collect();
                Err(Error::Unknown { what: "there is no stage", name: name.to_string(), known })
            }
        }
    }
}

/// A net at a stage, as text; `device` is the one of candle's plan.
///
/// # Errors
/// What is wrong with its source, or sizes that the stage needs and nobody gives.
pub fn stage(program: &Program, net: Option<&str>, stage: Stage, options: &PassOptions, device: DeviceName) -> Result<String, Error> {
    if let Stage::After(pass) = stage
        && pass.name == "parse"
    {
        return Ok(snn_syntax::dump(&program.module().ast));
    }
    let net = program.net_name(net)?;
    staged(program.input(&net), stage, options, device).map_err(|e| program.failed(e)).map_err(unknown_sizes)
}

/// A graph that was read from text, at a stage.
///
/// # Errors
/// As [`stage`].
pub fn stage_of_graph(graph: &Graph, stage: Stage, options: &PassOptions, device: DeviceName) -> Result<String, Error> {
    staged(Input::Graph(graph), stage, options, device).map_err(Error::from).map_err(unknown_sizes)
}

fn staged(input: Input<'_>, stage: Stage, options: &PassOptions, device: DeviceName) -> Result<String, snn_compile::Error> {
    let mut options = options.clone();
    let optimised = |options: &PassOptions| snn_compile::compile(input, options);
    Ok(match stage {
        Stage::After(pass) => {
            if pass.name == "differentiate" && options.gradients == Gradients::None {
                options.gradients = Gradients::Scalar(vec![]);
            }
            snn_compile::text_after(input, &options, pass)?
        }
        Stage::Assembly => snn_cpu::listing(&optimised(&options)?.graph, snn_cpu::Listing::Assembly)?,
        Stage::Candle => snn_candle::describe::describe(&optimised(&options)?.graph, device)?,
        Stage::Dot => snn_ir::dot::dot(&optimised(&options)?.graph),
        Stage::EGraph => {
            let rules = snn_opt::Options { fast_math: options.optimise == Optimise::Fast, ..snn_opt::Options::default() };
            snn_opt::e_graph_dot(&snn_compile::compile_until(input, &options, "update")?.graph, &rules)?
        }
        Stage::Explain => {
            options.explain = true;
            match optimised(&options)?.report {
                Some(report) => report.to_string(),
                None => "the optimiser is off\n".into(),
            }
        }
    })
}

fn unknown_sizes(e: Error) -> Error {
    match e {
        Error::Compile(snn_ir::CompileError::UnknownSize(e)) => Error::MachineCode(e),
        other => other,
    }
}

/// A stage of a net as it is compiled with some options.
///
/// # Errors
/// As [`stage`], or an unknown stage.
pub fn text(program: &Program, net: &str, name: &str, dims: &Dims, options: &CompileOptions) -> Result<String, Error> {
    stage(program, Some(net), name.parse()?, &options.passes(lowering(dims, options)), DeviceName::Cuda(0))
}

fn lowering(dims: &Dims, options: &CompileOptions) -> Options {
    let mut all = options.dims.clone();
    all.extend(dims.iter().map(|(n, v)| (n.clone(), *v)));
    Options { mode: options.mode, dims: all, rest: None, settings: options.settings.clone(), observe: false }
}

/// The graph of a net as it is written, and after the optimiser.
///
/// # Errors
/// What is wrong with its source.
pub fn before_and_after(program: &Program, net: Option<&str>, options: &PassOptions) -> Result<[Graph; 2], Error> {
    let net = program.net_name(net)?;
    let after = |pass| snn_compile::compile_until(program.input(&net), options, pass).map(|c| c.graph).map_err(|e| program.failed(e));
    Ok([after("update")?, after("optimise")?])
}

/// The optimised graph of a net as it is compiled with some options.
///
/// # Errors
/// As [`stage`].
pub fn optimised(program: &Program, net: &str, dims: &Dims, options: &CompileOptions) -> Result<Graph, Error> {
    let [_, graph] = before_and_after(program, Some(net), &options.passes(lowering(dims, options)))?;
    Ok(graph)
}

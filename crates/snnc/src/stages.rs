//! What the compiler makes of a net, stage by stage, as text. The passes themselves are those of `snn_compile`.

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
                let names: Vec<&str> = Stage::names().map(|(n, _)| n).collect();
                Err(Error::Data(format!("there is no stage `{name}`: {} are", names.join(", "))))
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
    let mut options = options.clone();
    let graph_after = |options: &PassOptions, pass: &str| {
        snn_compile::compile_until(program.module(), &net, options, pass).map_err(|e| program.failed(e))
    };
    Ok(match stage {
        Stage::After(pass) => {
            if pass.name == "differentiate" && options.gradients == Gradients::None {
                options.gradients = Gradients::Scalar(vec![]);
            }
            snn_compile::text_after(program.module(), &net, &options, pass).map_err(|e| unknown_sizes(program.failed(e)))?
        }
        Stage::Assembly => {
            let graph = graph_after(&options, "optimise")?.graph;
            snn_cpu::listing(&graph, snn_cpu::Listing::Assembly).map_err(|e| unknown_sizes(e.into()))?
        }
        Stage::Candle => {
            let graph = graph_after(&options, "optimise")?.graph;
            snn_candle::describe::describe(&graph, device).map_err(|e| unknown_sizes(e.into()))?
        }
        Stage::Dot => snn_ir::dot::dot(&graph_after(&options, "optimise")?.graph),
        Stage::EGraph => {
            let rules = snn_opt::Options { fast_math: options.optimise == Optimise::Fast, ..snn_opt::Options::default() };
            snn_opt::e_graph_dot(&graph_after(&options, "update")?.graph, &rules).map_err(snn_compile::Error::from)?
        }
        Stage::Explain => {
            options.explain = true;
            match graph_after(&options, "optimise")?.report {
                Some(report) => report.to_string(),
                None => "the optimiser is off\n".into(),
            }
        }
    })
}

fn unknown_sizes(e: Error) -> Error {
    match e {
        Error::Compile(snn_ir::CompileError::UnknownSize(e)) => {
            Error::Data(format!("{e}; machine code is made for known sizes: give `--dims T=16,B=64`"))
        }
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
    Options { mode: options.mode, dims: all, rest: None, settings: options.settings.clone() }
}

/// The graph of a net as it is written, and after the optimiser.
///
/// # Errors
/// What is wrong with its source.
pub fn before_and_after(program: &Program, net: Option<&str>, options: &PassOptions) -> Result<[snn_ir::Graph; 2], Error> {
    let net = program.net_name(net)?;
    let after = |pass| snn_compile::compile_until(program.module(), &net, options, pass).map(|c| c.graph).map_err(|e| program.failed(e));
    Ok([after("update")?, after("optimise")?])
}

/// The graph of a net as a picture, in SVG.
///
/// # Errors
/// As [`stage`].
pub fn svg(program: &Program, net: &str, dims: &Dims, options: &CompileOptions) -> Result<String, Error> {
    let [_, graph] = before_and_after(program, Some(net), &options.passes(lowering(dims, options)))?;
    crate::plot::as_svg(|path| crate::plot::graphs(path, &[(net, &graph)]))
}

//! `snnc import`, `snnc nir`, and NIR files in place of programs.

use std::path::{Path, PathBuf};

use clap::Args;
use snn_nir::{Compare, Emit, Graph, Integrator, Kind, Node, Options, Order, Preset, Reset};
use snnc::{Program, Tensor};

use super::{Failure, replace};
use crate::command::say::{remark, say};

/// How a NIR file, a graph in continuous time, is run in steps.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "NIR files")]
pub struct NirArguments {
    /// What a framework does with what files leave open: norse, snntorch, spikingjelly, nengo, lava, sinabs, spyx.
    #[arg(long, value_name = "FRAMEWORK", value_parser = parse::<Preset>)]
    preset: Option<Preset>,
    /// The time step in seconds.
    #[arg(long, value_name = "SECONDS")]
    dt: Option<f64>,
    /// How a step follows the equation: `euler` or `exponential`.
    #[arg(long, value_parser = parse::<Integrator>)]
    integrator: Option<Integrator>,
    /// What a spike does to the membrane: `zero` sets it to v_reset, `subtract` takes the threshold off.
    #[arg(long, value_parser = parse::<Reset>)]
    reset: Option<Reset>,
    /// A neuron fires above the threshold (`gt`), or at it as well (`ge`).
    #[arg(long, value_parser = parse::<Compare>)]
    compare: Option<Compare>,
    /// Which current a membrane takes: `current-first`, that after the step, or `voltage-first`.
    #[arg(long, value_parser = parse::<Order>)]
    order: Option<Order>,
    /// When spikes reach the next node: `now`, or in the `next` step.
    #[arg(long, value_parser = parse::<Emit>)]
    emit: Option<Emit>,
    /// An IF adds r times its input at each step, whatever the time step is.
    #[arg(long)]
    unit_if: bool,
    /// What inputs are multiplied by.
    #[arg(long, value_name = "FACTOR")]
    input_scale: Option<f64>,
}

fn parse<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T, String> {
    text.parse()
}

#[derive(Args)]
pub struct ImportArguments {
    /// The NIR file.
    file: PathBuf,
    /// The program to write.
    #[arg(short, long, value_name = "FILE.snn")]
    out: PathBuf,
    /// Where its parameters go.
    #[arg(long, value_name = "FILE")]
    weights_out: PathBuf,
    #[command(flatten)]
    nir: NirArguments,
}

#[derive(Args)]
pub struct ExportArguments {
    /// The program.
    file: PathBuf,
    /// Which net; the only one, else `main`, where it is not given.
    #[arg(long)]
    net: Option<String>,
    /// Its parameters: `.safetensors`, `.npz`, or `name=file.npy`. Drawn where they are not given.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    weights: Vec<String>,
    /// A setting of the net. May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::parse_setting)]
    set: Vec<(String, snnc::Setting)>,
    /// Sizes of dimensions that are part of a sample.
    #[arg(long, value_name = "N=10", value_parser = super::parse_dims)]
    dims: Option<snnc::Dims>,
    /// The seed of parameters that are not given.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seconds a step is, by which time constants and delays are said. A program made from a NIR file says it itself.
    #[arg(long, value_name = "SECONDS")]
    dt: Option<f64>,
    /// What time constants stand for: `euler` or `exponential`.
    #[arg(long, value_parser = parse::<Integrator>)]
    integrator: Option<Integrator>,
    /// The NIR file to write.
    #[arg(short, long, value_name = "FILE.nir")]
    out: PathBuf,
}

/// Is a file a NIR file by its name?
pub fn is_nir(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("nir"))
}

impl NirArguments {
    fn options(&self) -> Options {
        Options {
            preset: self.preset,
            dt: self.dt,
            integrator: self.integrator,
            reset: self.reset,
            compare: self.compare,
            order: self.order,
            emit: self.emit,
            unit_if: self.unit_if,
            input_scale: self.input_scale,
        }
    }

    fn is_given(&self) -> bool {
        let o = self.options();
        o.preset.is_some()
            || o.dt.is_some()
            || o.integrator.is_some()
            || o.reset.is_some()
            || o.compare.is_some()
            || o.order.is_some()
            || o.emit.is_some()
            || o.unit_if
            || o.input_scale.is_some()
    }

    fn import(&self, path: &Path) -> Result<snn_nir::Imported, Failure> {
        let named = |e: snn_nir::NirError| Failure::Text(format!("`{}`: {e}", path.display()));
        let model = snn_nir::read(path).map_err(named)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let imported = snn_nir::import(&model, &self.options(), &name).map_err(named)?;
        for w in &imported.warnings {
            remark!("Warning: `{}`: {w}", path.display());
        }
        Ok(imported)
    }

    /// The program of a NIR file and its weights.
    pub fn load(&self, path: &Path) -> Result<(Program, Vec<(String, Tensor)>), Failure> {
        let imported = self.import(path)?;
        Ok((Program::parse(&path.with_extension("snn").display().to_string(), &imported.source)?, imported.weights))
    }

    /// Options of NIR files say nothing about programs.
    pub fn refuse(&self) -> Result<(), Failure> {
        match self.is_given() {
            true => Err(Failure::Text("`--preset`, `--dt`, `--integrator`, `--reset`, `--compare`, `--order`, `--emit`, `--unit-if` and `--input-scale` are for `.nir` files; a program says them itself".into())),
            false => Ok(()),
        }
    }
}

pub fn import(a: &ImportArguments) -> Result<(), Failure> {
    let imported = a.nir.import(&a.file)?;
    let program = Program::parse(&a.out.display().to_string(), &imported.source)?;
    let text = snn_syntax::print(&program.module().ast, &imported.source);
    snnc::save(&a.weights_out, &imported.weights)?;
    replace(&a.out, &text)
}

pub fn export(a: &ExportArguments) -> Result<(), Failure> {
    let text = super::read_text(&a.file)?;
    let program = Program::parse(&a.file.display().to_string(), &text)?;
    let options = snnc::CompileOptions::default()
        .dims(a.dims.clone().unwrap_or_default())
        .seed(a.seed)
        .settings(a.set.iter().cloned().collect())
        .backend(snnc::Backends::Interpreter);
    let net = program.compile(a.net.as_deref(), &options)?;
    let weights = super::load_wanted(&a.weights, &|_| true, super::machine_memory())?.tensors;
    if weights.is_empty() && !a.weights.is_empty() {
        return Err(Failure::Text(format!("there are no weights in `{}`", a.weights.join("`, `"))));
    }
    let exported = net.export_nir(&weights, &snn_nir::ExportOptions { dt: a.dt, integrator: a.integrator })?;
    snn_nir::write(&a.out, &exported.graph).map_err(|e| Failure::Text(e.to_string()))?;
    remark!("To read it as the same net: {}", reading(&exported));
    Ok(())
}

/// The options of an import that gives the same net.
fn reading(exported: &snn_nir::Exported) -> String {
    let said: Vec<String> = exported.options.iter().map(|(n, v)| format!("--{n} {v}").trim_end().to_string()).collect();
    if said.is_empty() { "no option is needed".into() } else { said.join(" ") }
}

/// Says what is in a file.
pub fn describe(path: &Path) -> Result<(), Failure> {
    let model = snn_nir::read(path).map_err(|e| Failure::Text(format!("`{}`: {e}", path.display())))?;
    let version = if model.version.is_empty() { "of no version".to_string() } else { format!("version {}", model.version) };
    say!("{}: NIR {version}, {} nodes, {} edges", path.display(), model.graph.nodes.len(), model.graph.edges.len());
    nodes(&model.graph, 1);
    for (a, b) in &model.graph.edges {
        say!("  {a} -> {b}");
    }
    for w in &model.warnings {
        say!("odd: {w}");
    }
    match Options::default().of(&model.graph) {
        Ok(_) => say!("nothing is left open"),
        Err(open) => say!("{open}"),
    }
    Ok(())
}

fn nodes(graph: &Graph, depth: usize) {
    let space = "  ".repeat(depth);
    for (name, node) in &graph.nodes {
        let fields: Vec<String> = node.fields.iter().map(|(f, _)| field(node, f)).collect();
        let more = if fields.is_empty() { String::new() } else { format!(": {}", fields.join(", ")) };
        say!("{space}{name} ({}){more}", node.kind.name());
        if node.kind == Kind::NirGraph
            && let Some(g) = &node.graph
        {
            nodes(g, depth + 1);
        }
    }
}

fn field(node: &Node, name: &str) -> String {
    match (node.numbers(name), node.text(name)) {
        (Some((_, data)), _) if data.len() <= 4 => format!("{name} = {}", data.iter().map(f64::to_string).collect::<Vec<_>>().join(" ")),
        (Some((shape, data)), _) => {
            let (low, high) = data.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
            let values = if low == high { format!("all {low}") } else { format!("{low} to {high}") };
            format!("{name} {shape:?} {values}")
        }
        (None, text) => format!("{name} = {}", text.unwrap_or_default()),
    }
}

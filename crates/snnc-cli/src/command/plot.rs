//! `snnc plot`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use snn_plot::{Membrane, Signal, Style, graphs, raster, traces};
use snnc::{Dims, Optimise, Options, Tensor};

use super::{Failure, ModeName, load_program, parse_dims};

#[derive(Args)]
pub struct PlotArguments {
    #[command(subcommand)]
    what: What,
}

/// How pictures of signals look.
#[derive(Args)]
struct Looks {
    /// A title above the picture.
    #[arg(long)]
    title: Option<String>,
    /// Milliseconds of a time step: time is in milliseconds, and rates are in Hz.
    #[arg(long, value_name = "MS")]
    dt: Option<f64>,
    /// The width of the picture and the height of a panel, in pixels.
    #[arg(long, value_name = "WxH", value_parser = parse_size, default_value = "900x260")]
    size: (u32, u32),
    /// The size of the font, in pixels.
    #[arg(long, default_value_t = 13, value_parser = clap::value_parser!(u32).range(6..=60))]
    font_size: u32,
}

impl Looks {
    fn style(&self) -> Result<Style, Failure> {
        if let Some(dt) = self.dt.filter(|dt| !dt.is_finite() || *dt <= 0.0) {
            return Err(Failure::Text(format!("`--dt` is {dt}: a step is longer than 0 milliseconds")));
        }
        Ok(Style { title: self.title.clone(), dt: self.dt, size: self.size, font: self.font_size })
    }
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let size = text.split_once('x').and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
    size.filter(|(w, h)| (200..=10_000).contains(w) && (100..=10_000).contains(h))
        .ok_or_else(|| format!("`{text}` is not a size such as 900x260, at least 200x100 and at most 10000x10000"))
}

#[derive(Subcommand)]
enum What {
    /// Spikes of each layer over time, from tensors `[T, N]` or `[T, B, N...]`.
    Raster {
        /// What `snnc run --out` wrote, or any `.safetensors`, `.npz`, or `name=file.npy`.
        file: String,
        /// Which tensors; all that hold spikes where it is not given.
        #[arg(long, value_delimiter = ',')]
        names: Vec<String>,
        /// Which sample of the batch.
        #[arg(long, default_value_t = 0)]
        sample: usize,
        #[command(flatten)]
        looks: Looks,
        /// The picture: `.svg` or `.png`.
        #[arg(short, long)]
        out: PathBuf,
    },
    /// Membrane potentials over time, with threshold and spikes.
    Trace {
        /// What `snnc run --out` wrote.
        file: String,
        /// The tensor of the membrane, such as an output `v = out.v` of the net.
        #[arg(long, default_value = "v")]
        v: String,
        /// The tensor of its spikes.
        #[arg(long)]
        spikes: Option<String>,
        /// The tensor of the membrane before its reset, marked at the steps where it is another one.
        #[arg(long, value_name = "NAME")]
        before_reset: Option<String>,
        /// The threshold, drawn as a line.
        #[arg(long)]
        threshold: Option<f32>,
        /// Which neurons, a panel each.
        #[arg(long, value_delimiter = ',', default_value = "0")]
        neurons: Vec<usize>,
        /// Which sample of the batch.
        #[arg(long, default_value_t = 0)]
        sample: usize,
        #[command(flatten)]
        looks: Looks,
        /// The picture: `.svg` or `.png`.
        #[arg(short, long)]
        out: PathBuf,
    },
    /// The layers of a net, grouped by the nets that they belong to.
    Graph {
        /// The program.
        file: PathBuf,
        /// Which net.
        #[arg(long)]
        net: Option<String>,
        /// Sizes of dimensions.
        #[arg(long, value_name = "T=16,B=64", value_parser = parse_dims)]
        dims: Option<Dims>,
        /// Evaluation or training.
        #[arg(long, value_enum, default_value_t = ModeName::Eval)]
        mode: ModeName,
        /// How many levels of nets are drawn; deeper ones are one box each. Without it, as many as can be read.
        #[arg(long, value_name = "LEVELS", conflicts_with = "operations")]
        depth: Option<usize>,
        /// All operations instead, before and after the optimiser, side by side.
        #[arg(long)]
        operations: bool,
        /// Let the optimiser change roundings.
        #[arg(long, requires = "operations")]
        fast_math: bool,
        /// The picture: `.svg` or `.png`.
        #[arg(short, long)]
        out: PathBuf,
        #[command(flatten)]
        nir: Box<super::nir::NirArguments>,
    },
}

fn find<'a>(tensors: &'a [(String, Tensor)], name: &str) -> Result<&'a Tensor, Failure> {
    let found = tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t);
    found.ok_or_else(|| {
        let mut names: Vec<&str> = tensors.iter().map(|(n, _)| n.as_str()).collect();
        names.sort_unstable();
        Failure::Text(format!("the file has no tensor `{name}`; it has {}", names.join(", ")))
    })
}

pub fn plot(a: &PlotArguments) -> Result<(), Failure> {
    match &a.what {
        What::Raster { file, names, sample, looks, out } => {
            let tensors = snnc::load(file)?;
            let spikes = |t: &Tensor| !t.shape().is_empty() && t.to_f32().iter().all(|x| [-1.0, 0.0, 1.0].contains(x));
            let chosen: Vec<(&str, &Tensor)> = if names.is_empty() {
                tensors.iter().filter(|(_, t)| spikes(t)).map(|(n, t)| (n.as_str(), t)).collect()
            } else {
                names.iter().map(|n| Ok((n.as_str(), find(&tensors, n)?))).collect::<Result<_, Failure>>()?
            };
            if chosen.is_empty() {
                return Err(Failure::Text(format!("`{file}` has no tensor of spikes (0 and 1); `--names` draws any")));
            }
            let layers = chosen.into_iter().map(|(n, t)| Signal::new(n, t, *sample)).collect::<Result<Vec<_>, snn_plot::PlotError>>()?;
            raster(out, &layers, &looks.style()?)?;
        }
        What::Trace { file, v, spikes, before_reset, threshold, neurons, sample, looks, out } => {
            let tensors = snnc::load(file)?;
            let potential = Signal::new(v, find(&tensors, v)?, *sample)?;
            let signal = |name: &Option<String>| -> Result<Option<Signal>, Failure> {
                name.as_ref().map(|name| Ok(Signal::new(name, find(&tensors, name)?, *sample)?)).transpose()
            };
            let (spikes, before_reset) = (signal(spikes)?, signal(before_reset)?);
            let membrane = Membrane { potential, spikes, before_reset, threshold: *threshold, neurons: neurons.clone() };
            traces(out, &membrane, &looks.style()?)?;
        }
        What::Graph { file, net, dims, mode, depth, operations, fast_math, out, nir } => {
            let (program, _) = load_program(file, nir)?;
            let dims = dims.clone().unwrap_or_default();
            let options = Options { mode: (*mode).into(), dims, rest: None, ..Default::default() };
            if !operations {
                snn_plot::layers(out, &program.lower(net.as_deref(), &options)?, *depth)?;
                return Ok(());
            }
            let optimise = if *fast_math { Optimise::Fast } else { Optimise::Exact };
            let passes = snnc::PassOptions { front: options, optimise, ..Default::default() };
            let [before, after] = snnc::stages::before_and_after(&program, net.as_deref(), &passes)?;
            graphs(out, &[("as written", &before), ("optimised", &after)])?;
        }
    }
    Ok(())
}

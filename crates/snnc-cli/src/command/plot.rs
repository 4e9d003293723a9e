//! `snnc plot`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use snn_plot::{Membrane, Signal, graphs, raster, traces};
use snnc::{Dims, Optimise, Options, Tensor};

use super::{Failure, ModeName, load_program, parse_dims};

#[derive(Args)]
pub struct PlotArguments {
    #[command(subcommand)]
    what: What,
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
        /// The threshold, drawn as a line.
        #[arg(long)]
        threshold: Option<f32>,
        /// Which neurons, a panel each.
        #[arg(long, value_delimiter = ',', default_value = "0")]
        neurons: Vec<usize>,
        /// Which sample of the batch.
        #[arg(long, default_value_t = 0)]
        sample: usize,
        /// The picture: `.svg` or `.png`.
        #[arg(short, long)]
        out: PathBuf,
    },
    /// The graph of a net before and after the optimiser, side by side.
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
        /// Let the optimiser change roundings.
        #[arg(long)]
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
        What::Raster { file, names, sample, out } => {
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
            raster(out, &layers)?;
        }
        What::Trace { file, v, spikes, threshold, neurons, sample, out } => {
            let tensors = snnc::load(file)?;
            let potential = Signal::new(v, find(&tensors, v)?, *sample)?;
            let spikes = match spikes {
                Some(name) => Some(Signal::new(name, find(&tensors, name)?, *sample)?),
                None => None,
            };
            traces(out, &Membrane { potential, spikes, threshold: *threshold, neurons: neurons.clone() })?;
        }
        What::Graph { file, net, dims, mode, fast_math, out, nir } => {
            let (program, _) = load_program(file, nir)?;
            let dims = dims.clone().unwrap_or_default();
            let options = Options { mode: (*mode).into(), dims, rest: None, ..Default::default() };
            let optimise = if *fast_math { Optimise::Fast } else { Optimise::Exact };
            let passes = snnc::PassOptions { front: options, optimise, ..Default::default() };
            let [before, after] = snnc::stages::before_and_after(&program, net.as_deref(), &passes)?;
            graphs(out, &[("as written", &before), ("optimised", &after)])?;
        }
    }
    Ok(())
}

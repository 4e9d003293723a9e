//! `snnc diff`: where two versions of a net part.

use std::path::PathBuf;

use clap::Args;
use snnc::{CompileOptions, Tensor};

use super::{Failure, load_program, load_wanted, machine_memory, parse_dims, parse_setting};
use crate::command::say::say;

#[derive(Args)]
pub struct DiffArguments {
    /// The first version: a program or a `.nir` file.
    a: PathBuf,
    /// The second version; the same file again, where only weights or settings differ.
    b: PathBuf,
    /// Which net of both; the only one, else `main`, where it is not given.
    #[arg(long)]
    net: Option<String>,
    /// Inputs of both by name: `.safetensors`, `.npz`, or `name=file.npy`.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<String>,
    /// Parameters of both.
    #[arg(long, num_args = 1.., value_name = "FILE", conflicts_with_all = ["weights_a", "weights_b"])]
    weights: Vec<String>,
    /// Parameters of the first.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    weights_a: Vec<String>,
    /// Parameters of the second.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    weights_b: Vec<String>,
    /// A setting of the second only. May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    set_b: Vec<(String, snnc::Setting)>,
    /// Sizes of dimensions that no input gives.
    #[arg(long, value_name = "T=16,B=64", value_parser = parse_dims)]
    dims: Option<snnc::Dims>,
    /// The seed of parameters that are not given, and of random operations.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Values that are not spikes differ where they are further apart than this.
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    tolerance: f32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    nir: super::nir::NirArguments,
}

/// Where two tensors part.
struct Part {
    name: String,
    /// How many elements differ, of how many.
    differ: usize,
    of: usize,
    /// The first: its place, and both values.
    first: Option<(Vec<usize>, f32, f32)>,
    is_layer: bool,
}

pub fn diff(a: &DiffArguments) -> Result<(), Failure> {
    let run =
        |path: &PathBuf, own_weights: &[String], settings: &[(String, snnc::Setting)]| -> Result<(Vec<(String, Tensor)>, usize), Failure> {
            let (program, own) = load_program(path, &a.nir)?;
            let options = CompileOptions::default()
                .dims(a.dims.clone().unwrap_or_default())
                .seed(a.seed)
                .settings(settings.iter().cloned().collect())
                .memory_limit(machine_memory());
            let net = program.compile(a.net.as_deref(), &options)?;
            let names = net.names()?;
            let data = load_wanted(&a.data, &|n| names.iter().any(|k| k == n), machine_memory())?.tensors;
            let given = if own_weights.is_empty() { &a.weights } else { own_weights };
            let weights = if given.is_empty() { own } else { load_wanted(given, &|_| true, machine_memory())?.tensors };
            let outputs =
                program.lower(Some(net.net()), &snnc::Options { settings: options.settings.clone(), ..Default::default() })?.outputs.len();
            Ok((net.activity(&data, &weights)?, outputs))
        };
    let (first, outputs) = run(&a.a, &a.weights_a, &[])?;
    let (second, outputs_b) = run(&a.b, &a.weights_b, &a.set_b)?;
    let (layers, layers_b) = (first.len() - outputs, second.len() - outputs_b);
    if (layers, outputs) != (layers_b, outputs_b) {
        return Err(Failure::Text(format!(
            "the two are not versions of one net: `{}` has {layers} layers of neurons and {outputs} outputs, `{}` has {layers_b} and {outputs_b}",
            a.a.display(),
            a.b.display()
        )));
    }
    let mut parts = vec![];
    for (i, ((name, x), (other, y))) in first.iter().zip(&second).enumerate() {
        if x.shape() != y.shape() {
            return Err(Failure::Text(format!("`{name}` is {:?} in the first and `{other}` {:?} in the second", x.shape(), y.shape())));
        }
        parts.push(part(name, x, y, a.tolerance, i < layers));
    }
    report(a, &parts)
}

fn part(name: &str, x: &Tensor, y: &Tensor, tolerance: f32, is_layer: bool) -> Part {
    let (u, v) = (x.to_f32(), y.to_f32());
    let apart = |(a, b): &(&f32, &f32)| !((**a - **b).abs() <= tolerance || a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
    let mut at = u.iter().zip(&v).enumerate().filter(|(_, p)| apart(p)).map(|(i, _)| i);
    let first = at.next();
    let differ = usize::from(first.is_some()) + at.count();
    Part { name: name.into(), differ, of: u.len(), first: first.map(|i| (x.indices(i), u[i], v[i])), is_layer }
}

fn report(a: &DiffArguments, parts: &[Part]) -> Result<(), Failure> {
    // The earliest step, and in it the first layer.
    let parted = parts.iter().filter(|p| p.is_layer).filter_map(|p| p.first.as_ref().map(|f| (f.0.first().copied().unwrap_or(0), p)));
    let earliest = parted.min_by_key(|(step, _)| *step);
    if a.json {
        let first = earliest.map(|(step, p)| {
            let place = p.first.as_ref().map(|f| f.0[1..].to_vec());
            serde_json::json!({ "layer": p.name, "step": step, "neuron": place })
        });
        let list: Vec<_> =
            parts.iter().map(|p| serde_json::json!({ "name": p.name, "differ": p.differ, "of": p.of, "layer": p.is_layer })).collect();
        say!("{}", serde_json::json!({ "first": first, "parts": list }));
    } else {
        for p in parts {
            let kind = if p.is_layer { "layer" } else { "output" };
            say!("{kind} {:<20} {:>10} of {} differ", p.name, p.differ, p.of);
        }
        match earliest {
            Some((step, p)) => {
                if let Some((place, x, y)) = &p.first {
                    let neuron: Vec<String> = place[1..].iter().map(usize::to_string).collect();
                    say!("they part in layer `{}` at step {step}, neuron [{}]: {x} and {y}", p.name, neuron.join(", "));
                }
            }
            None if parts.iter().any(|p| p.differ > 0) => say!("all neurons are equal, and outputs differ"),
            None => say!("they are equal"),
        }
    }
    if parts.iter().any(|p| p.differ > 0) { Err(Failure::Said) } else { Ok(()) }
}

//! `snnc quantise`: weights as integers.

use std::path::PathBuf;

use clap::Args;
use snnc::quantise::WeightBits;
use snnc::{CompileOptions, FixedPoint};

use super::{Failure, load_program, load_wanted, machine_memory, parse_dims, parse_setting};
use crate::command::say::say;

#[derive(Args)]
pub struct QuantiseArguments {
    /// The program, or a `.nir` file.
    file: PathBuf,
    /// Which net; the only one, else `main`, where it is not given.
    #[arg(long)]
    net: Option<String>,
    /// Its parameters.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    weights: Vec<String>,
    /// Data to say on how many spikes differ.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    data: Vec<String>,
    /// How many bits: `i8` or `i16`.
    #[arg(long, default_value = "i8", value_name = "TYPE", value_parser = |t: &str| t.parse::<WeightBits>())]
    weights_dtype: WeightBits,
    /// With data: states of neurons in fixed point too. Where it is not given, formats that hold the states are said.
    #[arg(long, value_name = "FORMAT", requires = "data")]
    states: Option<FixedPoint>,
    /// A setting of the net. May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, snnc::Setting)>,
    /// Sizes of dimensions that parameters depend on.
    #[arg(long, value_name = "N=10", value_parser = parse_dims)]
    dims: Option<snnc::Dims>,
    /// Where the parameters go: the same names, with weights that integers hold.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    nir: super::nir::NirArguments,
}

pub fn quantise(a: &QuantiseArguments) -> Result<(), Failure> {
    let (program, own) = load_program(&a.file, &a.nir)?;
    let given = if a.weights.is_empty() { own } else { load_wanted(&a.weights, &|_| true, machine_memory())?.tensors };
    if given.is_empty() {
        return Err(Failure::Text("there are no weights to quantise; give them with `--weights FILE`".into()));
    }
    let options = |bits| {
        CompileOptions::default()
            .dims(a.dims.clone().unwrap_or_default())
            .settings(a.set.iter().cloned().collect())
            .weights_dtype(bits)
            .memory_limit(machine_memory())
    };
    let net = program.compile(a.net.as_deref(), &options(Some(a.weights_dtype)))?;
    let weights = net.quantised_weights(&given)?;
    for (name, before, after) in &weights.changed {
        let (u, v) = (before.as_f32(), after.as_f32());
        let power = u.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let noise = u.iter().zip(v).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
        let decibels = if noise > 0.0 { format!("{:.1} dB", 10.0 * (power / noise).log10()) } else { "exact".into() };
        say!("{name}: {} weights, signal to rounding {decibels}", u.len());
    }
    if !a.data.is_empty() {
        let float = program.compile(a.net.as_deref(), &options(None))?;
        let names = float.names()?;
        let data = load_wanted(&a.data, &|n| names.iter().any(|k| k == n), machine_memory())?.tensors;
        let rounded = program.compile(a.net.as_deref(), &options(None).states(a.states))?;
        let (x, y) = (float.activity(&data, &given)?, rounded.activity(&data, &weights.all)?);
        for ((name, u), (_, v)) in x.iter().zip(&y) {
            let differ = u.to_f32().iter().zip(v.to_f32()).filter(|(a, b)| **a != *b).count();
            say!("{name}: {differ} of {} values differ ({:.3}%)", u.len(), 100.0 * differ as f64 / u.len().max(1) as f64);
        }
        if a.states.is_none() {
            say_formats(&float.largest_states(&data, &weights.all)?);
        }
    }
    snnc::save(&a.out, &weights.all)?;
    Ok(())
}

/// Which formats of fixed point hold the states of neurons.
fn say_formats(states: &[(String, f32)]) {
    for (name, largest) in states {
        say!("{name}: at most {largest}");
    }
    let all = states.iter().fold(0f32, |m, (_, x)| if x.is_nan() { f32::NAN } else { m.max(*x) });
    let formats: Vec<String> =
        [16, 8].iter().filter_map(|bits| Some(format!("`--states {}` in {bits} bits", FixedPoint::holding(all, *bits)?))).collect();
    if !states.is_empty() && !formats.is_empty() {
        say!("states are held by {}", formats.join(", "));
    }
}

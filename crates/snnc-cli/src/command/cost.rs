//! `snnc cost`: operations and energy of a net on data.

use clap::Args;

use super::{Failure, NetArguments, load_program, warn};
use crate::command::say::say;

#[derive(Args)]
pub struct CostArguments {
    #[command(flatten)]
    net: NetArguments,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub fn cost(a: &CostArguments) -> Result<(), Failure> {
    let (program, own) = load_program(&a.net.file, &a.net.nir)?;
    warn(&program, a.net.mode.into());
    let net = program.compile(a.net.net.as_deref(), &a.net.options()?)?;
    let data = a.net.load_data(&net)?.tensors;
    let cost = net.cost(&data, &a.net.load_weights(own)?)?;
    if a.json {
        say!("{}", serde_json::to_string(&cost).map_err(|e| Failure::Text(e.to_string()))?);
        return Ok(());
    }
    say!("{:<24} {:>10} {:>14} {:>14} {:>14} {:>8} {:>12}", "layer", "weights", "dense MAC", "MAC", "AC", "inputs", "energy");
    for l in &cost.layers {
        say!(
            "{:<24} {:>10} {:>14.1} {:>14.1} {:>14.1} {:>7.2}% {:>9.4} uJ",
            l.name,
            l.parameters,
            l.dense_macs,
            l.effective_macs,
            l.effective_acs,
            100.0 * l.input_rate,
            l.energy_pj / 1e6
        );
    }
    for n in &cost.neurons {
        say!("{:<24} {:>10} neurons, firing rate {:.4}, {:.0} updates", n.name, n.neurons, n.firing_rate, n.updates);
    }
    say!(
        "one sample of {}: {:.1} of {:.1} operations, {:.4} uJ; without spikes {:.4} uJ ({:.1} times as much); {} bytes of parameters",
        cost.samples,
        cost.effective_macs + cost.effective_acs,
        cost.dense_macs,
        cost.energy_pj / 1e6,
        cost.dense_energy_pj / 1e6,
        if cost.energy_pj > 0.0 { cost.dense_energy_pj / cost.energy_pj } else { 0.0 },
        cost.parameter_bytes
    );
    Ok(())
}

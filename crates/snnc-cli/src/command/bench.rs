//! `snnc bench`

use std::time::{Duration, Instant};

use clap::Args;

use snn_ir::RuntimeError;
use snnc::Error;

use super::{Failure, NetArguments, load_program};
use crate::command::say::{remark, say, say_part};

#[derive(Args)]
pub struct BenchArguments {
    #[command(flatten)]
    net: NetArguments,
    /// How often to run, after two runs that are not counted.
    #[arg(long, default_value_t = 7)]
    repeats: usize,
    /// Time the value together with its gradients.
    #[arg(long)]
    grad: bool,
    /// With respect to which inputs and parameters; all learnable parameters where it is not given.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "grad")]
    wrt: Vec<String>,
    /// Keep the states of neurons every K steps only and compute those between again.
    #[arg(long, value_name = "K", requires = "grad")]
    checkpoint: Option<usize>,
    /// Say how long each kernel takes, with its bytes per second and its firing rate.
    #[arg(long)]
    profile: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub fn bench(a: &BenchArguments) -> Result<(), Failure> {
    let started = Instant::now();
    let (program, own) = load_program(&a.net.file, &a.net.nir)?;
    let options = a.net.options()?.gradients(a.grad.then(|| a.wrt.clone())).checkpoint(a.checkpoint);
    let net = program.compile(a.net.net.as_deref(), &options)?;
    let parsed = started.elapsed();
    let data = a.net.load_data(&net)?.tensors;
    let weights = a.net.load_weights(own)?;
    let started = Instant::now();
    let prepared = net.prepare(&data, &weights)?;
    let compile = parsed + started.elapsed();
    let mut times: Vec<Duration> = Vec::new();
    let mut bytes = 0;
    let repeats = a.repeats.max(1);
    for i in 0..repeats + 2 {
        let started = Instant::now();
        let run = match prepared.run() {
            // After Ctrl-C the runs that there were count.
            Err(Error::Run(RuntimeError::Interrupted)) if !times.is_empty() => break,
            run => run?,
        };
        if i >= 2 {
            times.push(started.elapsed());
        }
        bytes = run.outputs.iter().map(|(_, t)| t.byte_len()).sum::<usize>() + prepared.input_bytes();
        prepared.recycle(run);
    }
    times.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let (best, median, worst) = (ms(times[0]), ms(times[times.len() / 2]), ms(times[times.len() - 1]));
    let rate = bytes as f64 / times[0].as_secs_f64() / 1e9;
    if a.json {
        let report = serde_json::json!({
            "net": net.net(), "compile_ms": ms(compile), "min_ms": best, "median_ms": median, "max_ms": worst,
            "repeats": times.len(), "io_bytes": bytes, "io_gb_per_s": rate, "memory_bytes": prepared.memory(),
        });
        say!("{report}");
    } else {
        say!("compile {:.2} ms (code generation {:.2} ms)", ms(compile), ms(net.code_generation_time()));
        say!("run     {best:.3} ms min, {median:.3} median, {worst:.3} max over {} runs", times.len());
        say!("inputs and outputs: {bytes} bytes, {rate:.2} GB/s; memory beside inputs: {} bytes", prepared.memory());
    }
    if times.len() < repeats {
        remark!("interrupted after {} of {repeats} runs", times.len());
        return Err(Failure::Said);
    }
    if a.profile {
        say_part!("{}", super::profile_text(prepared.profile()?));
    }
    Ok(())
}

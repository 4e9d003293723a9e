//! `snnc run` and `snnc grad`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use snnc::{CompileOptions, DType, Run, Tensor};

use super::{Failure, NetArguments, load_program, warn};
use crate::command::say::{remark, remark_part, say};

#[derive(Args)]
pub struct RunArguments {
    #[command(flatten)]
    pub net: NetArguments,
    /// Where to write the outputs by name: `.safetensors` or `.npz`. Without it a summary is printed.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where to write the parameters that were used.
    #[arg(long, value_name = "FILE")]
    save_weights: Option<PathBuf>,
    /// Compute the sequence one time step after the other, as `snnc stream` does.
    #[arg(long, conflicts_with_all = ["profile", "trace", "batch"])]
    stream: bool,
    /// Run once more and say on standard error how long each kernel takes, with bytes and operations per second and firing rates.
    #[arg(long)]
    profile: bool,
    /// Run once more and write when each kernel ran, for chrome://tracing or ui.perfetto.dev.
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// Say on standard error how long each part took.
    #[arg(long)]
    time: bool,
}

#[derive(Args)]
pub struct GradArguments {
    #[command(flatten)]
    run: RunArguments,
    /// With respect to which inputs and parameters; all learnable parameters where it is not given.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    wrt: Vec<String>,
}

pub fn run(a: &RunArguments) -> Result<(), Failure> {
    if a.stream {
        return run_streamed(a);
    }
    compute(a, a.net.net.as_deref(), &a.net.options()?)
}

pub fn grad(a: &GradArguments) -> Result<(), Failure> {
    let (program, _) = load_program(&a.run.net.file, &a.run.net.nir)?;
    let has_loss = program.module().nets().contains(&"loss");
    let net = a.run.net.net.as_deref().or(has_loss.then_some("loss"));
    let options = a.run.net.options()?.gradients(a.wrt.clone());
    compute(&a.run, net, &options)
}

/// The whole sequence, step by step.
fn run_streamed(a: &RunArguments) -> Result<(), Failure> {
    let (program, own) = load_program(&a.net.file, &a.net.nir)?;
    warn(&program, a.net.mode.into());
    let net = program.compile(a.net.net.as_deref(), &a.net.options()?)?;
    let data = a.net.load_data(&net)?.tensors;
    let stepper = net.stepper(&data, &a.net.load_weights(own)?)?;
    let mut state = stepper.start();
    let started = Instant::now();
    let outputs = stepper.run(&mut state, &data)?;
    let time = started.elapsed();
    for (name, what) in stepper.outputs() {
        if *what == snn_ir::step::Output::Running {
            remark!("`{name}` is its value after the last step");
        }
    }
    match &a.out {
        Some(path) => snnc::save(path, &outputs)?,
        None => summary(&Run { outputs: outputs.into(), ..Run::default() }),
    }
    remark!(
        "{} steps in {:.1} ms, {:.3} ms each",
        state.steps,
        time.as_secs_f64() * 1e3,
        time.as_secs_f64() * 1e3 / state.steps.max(1) as f64
    );
    Ok(())
}

fn compute(a: &RunArguments, net: Option<&str>, options: &CompileOptions) -> Result<(), Failure> {
    let started = Instant::now();
    let (program, own) = load_program(&a.net.file, &a.net.nir)?;
    warn(&program, a.net.mode.into());
    let mut net = program.compile(net, options)?;
    let checked = started.elapsed();
    let files = a.net.load_data(&net)?;
    net.set_other_data(files.others);
    let data = files.tensors;
    let weights = a.net.load_weights(own)?;
    let loaded = started.elapsed();
    let run = net.run(&data, &weights)?;
    let ran = started.elapsed();
    for name in &run.independent {
        remark!("Warning: the loss does not depend on `{name}`; its gradient is zero");
    }
    if let Some(path) = &a.save_weights {
        let mut parameters = run.parameters.clone();
        for (name, tensor) in &run.updates {
            if let Some(slot) = parameters.iter_mut().find(|(n, _)| n == name) {
                slot.1 = tensor.clone();
            }
        }
        snnc::save(path, &parameters)?;
    }
    match &a.out {
        Some(path) => snnc::save(path, &run.outputs)?,
        None => summary(&run),
    }
    // Where the data have samples, what one of them took.
    if let Some(samples) = run.dims.get("B").filter(|n| **n > 0) {
        let time = (ran - loaded).as_secs_f64() * 1e3;
        remark!("{samples} samples in {time:.1} ms, {:.3} ms each, compilation included", time / *samples as f64);
    }
    if a.profile || a.trace.is_some() {
        let kernels = net.prepare(&data, &weights)?.profile()?;
        if let Some(path) = &a.trace {
            super::replace(path, super::trace_text(&kernels))?;
        }
        if a.profile {
            remark_part!("{}", super::profile_text(kernels));
        }
    }
    if a.time {
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
        remark!(
            "check {:.1} ms, load {:.1} ms, compile and run {:.1} ms (code generation {:.1} ms)",
            ms(checked),
            ms(loaded - checked),
            ms(ran - loaded),
            ms(net.code_generation_time())
        );
    }
    Ok(())
}

/// Shape and type, firing rate of spikes, and first values; a scalar is just printed.
fn summary(run: &Run) {
    for (name, tensor) in &run.outputs {
        if tensor.shape().is_empty() {
            let value = first_values(tensor, 1);
            if run.outputs.len() == 1 {
                say!("{value}")
            } else {
                say!("{name}: {value}")
            }
            continue;
        }
        say!("{name}: {}", tensor.ty());
        if tensor.is_empty() {
            continue;
        }
        if tensor.dtype() == DType::F32 {
            let v = tensor.as_f32();
            if v.iter().all(|x| *x == 0.0 || *x == 1.0) {
                say!("  firing rate {:.4}", v.iter().map(|x| f64::from(*x)).sum::<f64>() / v.len() as f64);
            } else if v.iter().all(|x| x.is_nan()) {
                say!("  all NaN");
            } else {
                let (low, high) = v.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
                let mean = v.iter().map(|x| f64::from(*x)).sum::<f64>() / v.len() as f64;
                say!("  mean {mean:.6}, from {low} to {high}");
            }
        }
        say!("  {}", first_values(tensor, 10));
    }
}

fn first_values(tensor: &Tensor, n: usize) -> String {
    let more = if tensor.len() > n { " ..." } else { "" };
    let values: Vec<String> = match tensor.dtype() {
        DType::F32 => tensor.as_f32().iter().take(n).map(f32::to_string).collect(),
        DType::Bool => tensor.to_i64().iter().take(n).map(|b| (*b != 0).to_string()).collect(),
        _ => tensor.to_i64().iter().take(n).map(i64::to_string).collect(),
    };
    values.join(" ") + more
}

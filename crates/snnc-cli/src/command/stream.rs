//! `snnc stream`: a net on steps as they come.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;
use snnc::{DType, State, Stepper, Tensor};

use super::{Failure, NetArguments, load_program, warn};
use crate::command::say::remark;

#[derive(Args)]
pub struct StreamArguments {
    #[command(flatten)]
    net: NetArguments,
    /// Run on a recording of an event camera instead of lines; `-` is standard input.
    #[arg(long, value_name = "FILE", requires = "bin")]
    events: Option<PathBuf>,
    /// How long a step is in the recording, such as `1ms`.
    #[arg(long, value_name = "TIME", value_parser = super::events::parse_time, requires = "events")]
    bin: Option<i64>,
    /// The format of the recording, where its first bytes and its name do not say it.
    #[arg(long, requires = "events", value_parser = |t: &str| t.parse::<snn_events::Format>())]
    format: Option<snn_events::Format>,
    /// Width and height of the sensor, where the input of the net is flat.
    #[arg(long, value_name = "34x34", value_parser = super::events::parse_size, requires = "events")]
    size: Option<(usize, usize)>,
    /// Begin with a state that `--state-out` has written.
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Where to write the state after the last step.
    #[arg(long, value_name = "FILE")]
    state_out: Option<PathBuf>,
    /// Say on standard error how long the steps took.
    #[arg(long)]
    time: bool,
}

pub fn stream(a: &StreamArguments) -> Result<(), Failure> {
    let (program, own) = load_program(&a.net.file, &a.net.nir)?;
    warn(&program, a.net.mode.into());
    let net = program.compile(a.net.net.as_deref(), &a.net.options()?)?;
    let data = a.net.load_data(&net)?.tensors;
    let stepper = net.stepper(&data, &a.net.load_weights(own)?)?;
    for (name, what) in stepper.outputs() {
        if *what == snn_ir::step::Output::Running {
            remark!("`{name}` is its value so far");
        }
    }
    let mut state = match &a.state_in {
        Some(path) => stepper.restore(&snnc::load(&path.display().to_string())?)?,
        None => stepper.start(),
    };
    let mut times = vec![];
    let result = match (&a.events, a.bin) {
        (Some(path), Some(bin)) => recording(a, path, bin, &stepper, &mut state, &mut times),
        _ => lines(&stepper, &mut state, &mut times),
    };
    // What was complete is kept, whatever came after it.
    if let Some(path) = &a.state_out {
        snnc::save(path, &state.to_tensors())?;
    }
    if a.time {
        report(&mut times);
    }
    result
}

fn lines(stepper: &Stepper, state: &mut State, times: &mut Vec<Duration>) -> Result<(), Failure> {
    let mut input = std::io::stdin().lock();
    let mut output = std::io::stdout().lock();
    let (mut line, mut number) = (Vec::new(), 0u64);
    loop {
        line.clear();
        number += 1;
        let n = input.read_until(b'\n', &mut line).map_err(|e| Failure::Text(format!("standard input cannot be read: {e}")))?;
        if n == 0 {
            return Ok(());
        }
        let is_whole = line.last() == Some(&b'\n');
        if line.trim_ascii().is_empty() {
            continue;
        }
        let at = |why: String| {
            let cut = if is_whole { "" } else { "; the input ends inside of this line" };
            Failure::Text(format!("line {number} is no step: {why}{cut}"))
        };
        let value: Value = serde_json::from_slice(line.trim_ascii()).map_err(|e| at(e.to_string()))?;
        let inputs = step_of(stepper, &value).map_err(at)?;
        if !step(stepper, state, &inputs, times, &mut output)? {
            return Ok(());
        }
    }
}

/// Takes a step and writes its outputs; false where nobody reads them any more.
fn step(
    stepper: &Stepper,
    state: &mut State,
    inputs: &[(String, Tensor)],
    times: &mut Vec<Duration>,
    output: &mut impl Write,
) -> Result<bool, Failure> {
    let started = Instant::now();
    let outputs = stepper.step(state, inputs)?;
    times.push(started.elapsed());
    let mut text = String::from("{");
    for (i, (name, tensor)) in outputs.iter().enumerate() {
        text.push_str(if i > 0 { ", " } else { "" });
        text.push_str(&format!("{}: ", Value::String(name.clone())));
        write_tensor(&mut text, tensor);
    }
    text.push_str("}\n");
    Ok(output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_ok())
}

/// The bins of a recording, as they come.
fn recording(
    a: &StreamArguments,
    path: &std::path::Path,
    bin: i64,
    stepper: &Stepper,
    state: &mut State,
    times: &mut Vec<Duration>,
) -> Result<(), Failure> {
    let failed = |e: snn_events::EventError| Failure::Text(e.to_string());
    let wanted = stepper.inputs();
    let [(name, ty, _)] = &wanted[..] else {
        return Err(Failure::Text(format!("a recording is one input, and a step of the net has {}", wanted.len())));
    };
    let shape = ty.sizes().map_err(|e| Failure::Text(e.to_string()))?;
    let reader = snn_events::Reader::open(path, a.format).map_err(failed)?;
    let total: usize = shape.iter().product();
    // `[..., channels, height, width]`, or flat.
    let from_type = match shape[..] {
        [.., c, h, w] if c * h * w == total && (c == 1 || c == 2) => Some((w, h)),
        _ => None,
    };
    let Some(size) = a.size.or(from_type).or(reader.size()) else {
        return Err(Failure::Text(format!("the input `{name}: {ty}` does not say how large the sensor is; give `--size 34x34`")));
    };
    let polarity = match total.checked_div(size.0 * size.1) {
        Some(2) if total == 2 * size.0 * size.1 => snn_events::Polarity::Split,
        Some(1) if total == size.0 * size.1 => snn_events::Polarity::Sum,
        _ => {
            return Err(Failure::Text(format!(
                "frames of {} x {} have {} elements for each polarity, and the input `{name}: {ty}` has {total}",
                size.0,
                size.1,
                size.0 * size.1
            )));
        }
    };
    let mut frames = snn_events::Frames::new(reader, bin, size, polarity);
    let mut output = std::io::stdout().lock();
    while let Some(frame) = frames.next().map_err(failed)? {
        let x = match ty.dtype {
            DType::F32 => Tensor::f32(shape.clone(), frame),
            DType::I64 => Tensor::i64(shape.clone(), frame.iter().map(|x| *x as i64).collect()),
            DType::U8 => Tensor::u8(shape.clone(), frame.iter().map(|x| x.min(255.0) as u8).collect()),
            DType::Bool => Tensor::bool(shape.clone(), frame.iter().map(|x| u8::from(*x > 0.0)).collect()),
        };
        if !step(stepper, state, &[(name.clone(), x)], times, &mut output)? {
            return Ok(());
        }
    }
    super::events::warn_broken(frames.reader().path(), frames.reader().broken());
    Ok(())
}

/// The inputs of a step from a line: an object of inputs by name, or the value of the only one.
fn step_of(stepper: &Stepper, value: &Value) -> Result<Vec<(String, Tensor)>, String> {
    let wanted = stepper.inputs();
    let names = || wanted.iter().map(|(n, t, _)| format!("`{n}: {t}`")).collect::<Vec<_>>().join(", ");
    let one = |name: &str, v: &Value| {
        let (_, ty, _) =
            wanted.iter().find(|(n, _, _)| n == name).ok_or_else(|| format!("there is no input `{name}`; a step has {}", names()))?;
        let shape = ty.sizes().map_err(|e| e.to_string())?;
        tensor(v, ty.dtype, &shape).map(|t| (name.to_string(), t)).map_err(|why| format!("the input `{name}: {ty}`: {why}"))
    };
    match value {
        Value::Object(fields) => {
            let inputs = fields.iter().map(|(n, v)| one(n, v)).collect::<Result<Vec<_>, _>>()?;
            match wanted.iter().find(|(n, _, _)| !fields.contains_key(n)) {
                Some((missing, ty, _)) => Err(format!("it lacks the input `{missing}: {ty}`")),
                None => Ok(inputs),
            }
        }
        other if wanted.len() == 1 => Ok(vec![one(&wanted[0].0, other)?]),
        _ => Err(format!("the net has several inputs, and a step is an object with {}", names())),
    }
}

/// Nested arrays of a shape; axes of length 1 may be left out.
fn tensor(value: &Value, dtype: DType, shape: &[usize]) -> Result<Tensor, String> {
    fn go(value: &Value, depth: usize, found: &mut Vec<usize>, numbers: &mut Vec<f64>) -> Result<(), String> {
        match value {
            Value::Array(items) => {
                if found.len() == depth {
                    if !numbers.is_empty() {
                        return Err("its rows have different depths".into());
                    }
                    found.push(items.len());
                }
                if found[depth] != items.len() {
                    return Err(format!("its rows have {} and {} elements", found[depth], items.len()));
                }
                items.iter().try_for_each(|i| go(i, depth + 1, found, numbers))
            }
            _ if found.len() != depth => Err("its rows have different depths".into()),
            Value::Number(n) => {
                numbers.push(n.as_f64().unwrap_or(f64::NAN));
                Ok(())
            }
            Value::Bool(b) => {
                numbers.push(f64::from(u8::from(*b)));
                Ok(())
            }
            other => Err(format!("`{other}` is no number")),
        }
    }
    let (mut found, mut numbers) = (vec![], vec![]);
    go(value, 0, &mut found, &mut numbers)?;
    let long = |s: &[usize]| s.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    if long(&found) != long(shape) {
        return Err(format!("it has the shape {found:?}"));
    }
    let whole = |low: f64, high: f64| match numbers.iter().find(|x| x.fract() != 0.0 || **x < low || **x > high) {
        Some(x) => Err(format!("{x} is no {dtype}")),
        None => Ok(()),
    };
    Ok(match dtype {
        DType::F32 => Tensor::f32(shape, numbers.iter().map(|x| *x as f32).collect()),
        DType::I64 => {
            whole(-9.007_199_254_740_992e15, 9.007_199_254_740_992e15)?;
            Tensor::i64(shape, numbers.iter().map(|x| *x as i64).collect())
        }
        DType::U8 => {
            whole(0.0, 255.0)?;
            Tensor::u8(shape, numbers.iter().map(|x| *x as u8).collect())
        }
        DType::Bool => {
            whole(0.0, 1.0)?;
            Tensor::bool(shape, numbers.iter().map(|x| *x as u8).collect())
        }
    })
}

/// A tensor as nested arrays; what is not finite is `null`, which JSON has for it.
fn write_tensor(text: &mut String, t: &Tensor) {
    let element = |i: usize| match t.data() {
        snn_ir::Data::F32(v) if v[i].is_finite() => format!("{:?}", v[i]),
        snn_ir::Data::F32(_) => "null".to_string(),
        snn_ir::Data::I64(v) => v[i].to_string(),
        snn_ir::Data::Bool(v) => (v[i] != 0).to_string(),
        snn_ir::Data::U8(v) => v[i].to_string(),
    };
    fn go(text: &mut String, shape: &[usize], at: &mut usize, element: &dyn Fn(usize) -> String) {
        let Some((n, rest)) = shape.split_first() else {
            text.push_str(&element(*at));
            *at += 1;
            return;
        };
        text.push('[');
        for i in 0..*n {
            text.push_str(if i > 0 { ", " } else { "" });
            go(text, rest, at, element);
        }
        text.push(']');
    }
    go(text, t.shape(), &mut 0, &element);
}

fn report(times: &mut [Duration]) {
    times.sort();
    let at = |q: f64| times.get(((times.len().saturating_sub(1)) as f64 * q).round() as usize).map_or(0.0, |d| d.as_secs_f64() * 1e6);
    remark!("{} steps, {:.1} us each at the median, {:.1} at the 99th percentile, {:.1} at most", times.len(), at(0.5), at(0.99), at(1.0));
}

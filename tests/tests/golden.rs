//! Every golden case: what PyTorch and SpikingJelly compute is what both backends compute.

use std::path::{Path, PathBuf};

use snnc::{Backends, CompileOptions, DType, DeviceName, Mode, Precision, Program, Tensor, load};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "snn"));
    files.sort();
    assert!(files.len() >= 70, "the golden cases are missing");
    files
}

/// As the generator of the cases says: the same type and shape, floats within `rtol` of the largest, all else equal.
fn difference(name: &str, got: &Tensor, want: &Tensor, rtol: f64) -> Option<String> {
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Some(format!("{name}: {}{:?} instead of {}{:?}", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    if want.dtype() != DType::F32 {
        return (got != want).then(|| format!("{name}: {got} instead of {want}"));
    }
    let largest = want.as_f32().iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
    let error = got.as_f32().iter().zip(want.as_f32()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    // A NaN is an error too.
    let worst = error.fold(0f64, |m, e| if e > m || e.is_nan() { e } else { m });
    (worst.is_nan() || worst > rtol * largest + 1e-7).then(|| format!("{name}: off by {worst}, largest {largest}"))
}

fn run_all(backend: Backends) {
    let mut failures = Vec::new();
    for path in cases() {
        let stem = path.with_extension("");
        let name = stem.file_name().unwrap().to_string_lossy().into_owned();
        let file = |ending: &str| format!("{}.{ending}", stem.display());
        let about: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file("json")).unwrap()).unwrap();
        let program = match Program::parse(&name, &std::fs::read_to_string(&path).unwrap()) {
            Ok(p) => p,
            Err(e) => {
                failures.push(format!("{name}: {e}"));
                continue;
            }
        };
        let options = CompileOptions::default()
            .mode(if about["mode"] == "train" { Mode::Train } else { Mode::Eval })
            .seed(about["seed"].as_u64().unwrap_or(0))
            .backend(backend);
        let data = load(&file("in.safetensors")).unwrap();
        let want = load(&file("out.safetensors")).unwrap();
        let (inputs, weights): (Vec<_>, Vec<_>) = data.into_iter().partition(|(n, _)| !n.contains('.'));
        let rtol = about["rtol"].as_f64().unwrap();
        let run = program.compile(Some("main"), &options).and_then(|net| net.run(&inputs, &weights));
        let run = match run {
            Ok(run) => run,
            Err(e) => {
                failures.push(format!("{name}: {e}"));
                continue;
            }
        };
        let loss =
            program.module().nets().contains(&"loss").then(|| {
                program.compile(Some("loss"), &options).and_then(|net| net.run(&inputs, &weights)).map(|r| r.outputs[0].1.clone())
            });
        let wrt: Vec<String> = about["wrt"].as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_string)).collect();
        let gradients = if wrt.is_empty() {
            Ok(snnc::Tensors::new())
        } else {
            let options = options.clone().gradients(wrt);
            program.compile(Some("loss"), &options).and_then(|net| net.run(&inputs, &weights)).map(|r| r.outputs)
        };
        let gradients = gradients.unwrap_or_else(|e| {
            failures.push(format!("{name}, gradients: {e}"));
            snnc::Tensors::new()
        });
        for (output, want) in &want {
            let got = if let Some(parameter) = output.strip_prefix("weight.") {
                run.parameters.iter().find(|(n, _)| n == parameter).map(|(_, t)| t.clone())
            } else if output == "loss" {
                match &loss {
                    Some(Ok(t)) => Some(t.clone()),
                    Some(Err(e)) => {
                        failures.push(format!("{name}: {e}"));
                        continue;
                    }
                    None => None,
                }
            } else if output.starts_with("grad.") {
                gradients.iter().find(|(n, _)| n == output).map(|(_, t)| t.clone())
            } else {
                run.outputs.iter().find(|(n, _)| n == output).map(|(_, t)| t.clone())
            };
            match got {
                Some(got) => failures.extend(difference(&format!("{name}, {output}"), &got, want, rtol)),
                None => failures.push(format!("{name}: there is no output {output}")),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_interpreter_computes_what_pytorch_computes() {
    run_all(Backends::Interpreter);
}

#[test]
fn candle_computes_what_pytorch_computes() {
    run_all(Backends::Candle(DeviceName::Cpu, Precision::F32));
}

#[test]
fn candles_operations_compute_what_pytorch_computes() {
    run_all(Backends::CandleOperations);
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn cuda_computes_what_pytorch_computes() {
    run_all(Backends::Candle(DeviceName::Cuda(0), Precision::F32));
}

#[cfg(feature = "metal")]
#[test]
#[ignore = "needs an Apple GPU"]
fn metal_computes_what_pytorch_computes() {
    run_all(Backends::Candle(DeviceName::Metal(0), Precision::F32));
}

#[test]
fn machine_code_computes_what_pytorch_computes() {
    run_all(Backends::Cranelift);
}

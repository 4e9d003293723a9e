//! Every function and surrogate over the whole range of f32, infinities included, beside PyTorch: `tests/ranges/generate.py`.

use snn_ir::Tensor;
use snnc::{Backends, CompileOptions, Program, load};

fn folder() -> String {
    format!("{}/ranges", env!("CARGO_MANIFEST_DIR"))
}

/// Is a result PyTorch's, up to a few roundings? Where PyTorch's is NaN nothing is asked. `precision` is what is lost where a
/// formula, here and there, subtracts numbers of that size.
fn fits(got: f32, want: f32, precision: f32) -> bool {
    want.is_nan() || got == want || (got - want).abs() <= 4e-6 * want.abs() + precision
}

/// Functions with values and slopes of about 1 that end in `1 - y` there, or here.
fn precision(net: &str) -> f32 {
    match net {
        "unary_tanh" | "unary_sigmoid" | "unary_expm1" => 1e-7,
        // `x (1 + erf(x))`.
        "unary_gelu" => 1e-6,
        _ => 1e-36,
    }
}

/// Inputs for which PyTorch says something else than the definition, or computes in double precision.
fn is_left_out(net: &str, output: &str, input: &[f32]) -> bool {
    let largest = input.iter().fold(0f32, |m, x| m.max(x.abs()));
    let of_nan = input.iter().any(|x| x.is_nan()) && output != "out";
    match net {
        // exp(x - logsumexp(x)), where the logarithm is lost in the rounding of large x.
        "row_logsumexp" => output != "out" && largest >= 88.0,
        "row_variance" => largest >= 1e19,
        "row_cumprod" => largest >= 1e19 || input.contains(&1e-20),
        // A spike there needs more than the threshold.
        "surrogate_fast_sigmoid" | "surrogate_straight_through" | "surrogate_superspike" | "surrogate_triangle" => {
            output == "out" && largest == 0.0
        }
        // A membrane that is infinite has no reset: 0 times infinity, which fused backward passes of SpikingJelly do not compute.
        _ if net.starts_with("neuron_") => output != "out" && (of_nan || largest >= f32::MAX),
        _ => of_nan,
    }
}

/// What differs, one line for each function and tensor.
fn differences(backend: Backends) -> Vec<String> {
    let text = std::fs::read_to_string(format!("{}/ranges.snn", folder())).unwrap();
    let program = Program::parse("ranges.snn", &text).unwrap_or_else(|e| panic!("{e}"));
    let known = load(&format!("{}/ranges.safetensors", folder())).unwrap();
    let get = |name: &str| &known.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1;
    let mut lines = Vec::new();
    for net in program.module().nets().into_iter().filter(|n| !n.ends_with("_sum")) {
        let inputs: Vec<(String, Tensor)> = ["x", "a", "b", "r", "s"]
            .iter()
            .filter(|n| known.iter().any(|(k, _)| *k == format!("{net}.grad.{n}")))
            .map(|n| (n.to_string(), get(n).clone()))
            .collect();
        let wrt: Vec<String> = inputs.iter().map(|(n, _)| n.clone()).collect();
        let value = program.compile(Some(net), &CompileOptions::default().backend(backend)).unwrap();
        let mut results = value.run(&inputs, &[]).unwrap().outputs;
        let sum = format!("{net}_sum");
        let gradient = program.compile(Some(&sum), &CompileOptions::default().backend(backend).gradients(wrt)).unwrap();
        results.extend(gradient.run(&inputs, &[]).unwrap().outputs.into_iter().filter(|(n, _)| n.starts_with("grad.")));
        for (name, got) in results {
            let want = get(&format!("{net}.{name}")).to_f32();
            // What the element `i` of an output, or of the gradient of an input, comes from.
            let input = |i: usize| -> Vec<f32> {
                let of = |(name, t): &(String, Tensor)| match (name.as_str(), t.to_f32()) {
                    ("r", rows) => rows[i / 3 * 3..i / 3 * 3 + 3].to_vec(),
                    ("s", steps) => vec![steps[i % t.shape()[1]]],
                    (_, values) => vec![values[i]],
                };
                inputs.iter().flat_map(of).collect()
            };
            let got = got.to_f32();
            let row = |i: usize| if name == "out" && inputs[0].0 == "r" { 3 * i } else { i };
            let wrong: Vec<usize> =
                (0..want.len()).filter(|i| !fits(got[*i], want[*i], precision(net)) && !is_left_out(net, &name, &input(row(*i)))).collect();
            if !wrong.is_empty() {
                let shown: Vec<String> =
                    wrong.iter().take(6).map(|i| format!("at {:?} {:e}, not {:e}", input(row(*i)), got[*i], want[*i])).collect();
                lines.push(format!("{net} {name}: {} of {}: {}", wrong.len(), want.len(), shown.join("; ")));
            }
        }
    }
    lines
}

#[test]
fn functions_are_pytorchs_over_the_whole_range() {
    for backend in [Backends::Interpreter, Backends::Cranelift, Backends::CandleOperations] {
        let lines = differences(backend);
        assert!(lines.is_empty(), "{backend:?}:\n{}", lines.join("\n"));
    }
}

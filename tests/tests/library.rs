//! The library beside PyTorch, snnTorch and Norse: `tests/library` has a program, and what they compute for it.

use snn_ir::Tensor;
use snnc::{Backends, CompileOptions, Program, load};

fn file(name: &str) -> Vec<(String, Tensor)> {
    load(&format!("{}/library/{name}.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn check(net: &str, inputs: &[(&str, &str)], backend: Backends) {
    check_in("library", [file("data"), file("expected")], net, inputs, backend);
}

fn check_in(program: &str, [data, expected]: [Vec<(String, Tensor)>; 2], net: &str, inputs: &[(&str, &str)], backend: Backends) {
    let text = std::fs::read_to_string(format!("{}/library/{program}.snn", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let program = Program::parse(program, &text).unwrap_or_else(|e| panic!("{e}"));
    let prefix = format!("{net}.");
    let wanted: Vec<(&str, &Tensor)> = expected.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?, t))).collect();
    assert!(!wanted.is_empty());
    let wrt: Vec<String> = wanted.iter().filter_map(|(n, _)| Some(n.strip_prefix("grad.")?.to_string())).collect();
    let options = CompileOptions { backend, gradients: (!wrt.is_empty()).then_some(wrt), ..CompileOptions::default() };
    let compiled = program.compile(Some(net), &options).unwrap_or_else(|e| panic!("{net}: {e}"));
    let of = |name: &str| data.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let given: Vec<(String, Tensor)> = inputs.iter().map(|(input, from)| (input.to_string(), of(from))).collect();
    let weights = compiled.own_weights(&file("weights")).unwrap();
    let run = compiled.run(&given, &weights).unwrap_or_else(|e| panic!("{net}: {e}"));
    for (name, want) in wanted {
        let got = run.outputs.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{net} gives no {name}")).1.to_f32();
        let want = want.to_f32();
        let largest = want.iter().fold(1f32, |m, x| m.max(x.abs()));
        let spikes = !name.starts_with("grad.") && want.iter().all(|x| *x == 0.0 || *x == 1.0);
        let limit = if spikes {
            0.0
        } else if name.starts_with("grad.") {
            1e-4 * largest
        } else {
            2e-5 * largest
        };
        for (a, b) in got.iter().zip(&want) {
            assert!((a - b).abs() <= limit, "{net}, {name}, {backend:?}: {a}, not {b}");
        }
    }
}

#[test]
fn library_is_that_of_the_frameworks() {
    for backend in [Backends::Interpreter, Backends::Cranelift, Backends::CandleOperations] {
        let (x, image, ids) = (("x", "x"), ("image", "image"), ("ids", "ids"));
        check("functions", &[x], backend);
        check("functions_loss", &[x, ("probe", "probe")], backend);
        check("layers", &[x, image, ids], backend);
        check("layers_loss", &[x, image, ids], backend);
        check("neurons", &[("x", "spikes")], backend);
        check("neurons_loss", &[("x", "spikes"), ("probe", "probe2")], backend);
        check("norse", &[("x", "spikes")], backend);
        check("norse_loss", &[("x", "spikes"), ("probe", "probe2")], backend);
    }
}

/// Padding, dilation, `ceil_mode`, `count_include_pad` and `divisor_override`, with gradients.
#[test]
fn pools_are_those_of_pytorch() {
    for backend in [Backends::Interpreter, Backends::Cranelift, Backends::CandleOperations] {
        for net in ["pools", "pools_loss"] {
            check_in("pools", [file("pools"), file("pools")], net, &[("image", "image"), ("volume", "volume")], backend);
        }
    }
}

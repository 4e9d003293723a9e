//! The library beside PyTorch, snnTorch and Norse: `tests/library` has a program, and what they compute for it.

use snn_ir::Tensor;
use snnc::{Backends, CompileOptions, Mode, Program, load};

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
    let options = CompileOptions::default().backend(backend).gradients((!wrt.is_empty()).then_some(wrt));
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

const ALL: [Backends; 3] = [Backends::Interpreter, Backends::Cranelift, Backends::CandleOperations];

#[test]
fn learning_rules_are_those_of_spikingjelly() {
    for backend in ALL {
        let check = |net: &str, inputs: &[&str]| {
            let inputs: Vec<(&str, &str)> = inputs.iter().map(|n| (*n, *n)).collect();
            check_in("plasticity", [file("plasticity"), file("plasticity")], net, &inputs, backend);
        };
        check("rules", &["x", "s", "reward", "w"]);
        check("traced", &["x1", "s1", "reward1", "w"]);
        check("online", &["x", "learner.weight"]);
    }
}

/// Norms that know the step in both modes, with their running statistics; Norse's cells; sparse connections.
#[test]
fn steps_and_sparse_connections_are_those_of_the_frameworks() {
    let all = file("steps");
    let text = std::fs::read_to_string(format!("{}/library/steps.snn", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let program = Program::parse("steps", &text).unwrap_or_else(|e| panic!("{e}"));
    let edges = ["x", "rows", "columns", "values", "delays"];
    let cases: [(&str, &[&str], &[Mode]); 6] = [
        ("norms", &["x", "image"], &[Mode::Eval, Mode::Train]),
        ("norms_loss", &["x", "image", "probe"], &[Mode::Eval, Mode::Train]),
        ("norse", &["y"], &[Mode::Eval]),
        ("norse_loss", &["y", "probe4", "probe3"], &[Mode::Eval]),
        ("sparse", &edges, &[Mode::Eval]),
        ("sparse_loss", &edges, &[Mode::Eval]),
    ];
    for backend in ALL {
        for (net, inputs, modes) in cases {
            for mode in modes {
                let prefix = format!("{net} {}.", if *mode == Mode::Eval { "eval" } else { "train" });
                let wanted: Vec<(&str, &Tensor)> = all.iter().filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?, t))).collect();
                assert!(!wanted.is_empty());
                let wrt: Vec<String> = wanted.iter().filter_map(|(n, _)| Some(n.strip_prefix("grad.")?.to_string())).collect();
                let gradients = (!wrt.is_empty()).then_some(wrt);
                let options = CompileOptions::default().backend(backend).mode(*mode).gradients(gradients);
                let compiled = program.compile(Some(net), &options).unwrap_or_else(|e| panic!("{net}: {e}"));
                let of = |name: &str| all.iter().find(|(n, _)| n == name).unwrap().1.clone();
                let given: Vec<(String, Tensor)> =
                    inputs.iter().map(|n| (if *n == "y" { "x".to_string() } else { n.to_string() }, of(n))).collect();
                let run = compiled
                    .run(&given, &compiled.own_weights(&all).unwrap_or_else(|e| panic!("{net}: {e}")))
                    .unwrap_or_else(|e| panic!("{net}: {e}"));
                for (name, want) in wanted {
                    let got = match name.strip_prefix("update.") {
                        Some(buffer) => run.updates.get(buffer),
                        None => run.outputs.get(name),
                    };
                    let got = got.unwrap_or_else(|| panic!("{prefix} gives no {name}")).to_f32();
                    let want = want.to_f32();
                    let largest = want.iter().fold(1f32, |m, x| m.max(x.abs()));
                    for (a, b) in got.iter().zip(&want) {
                        assert!((a - b).abs() <= 1e-4 * largest, "{prefix}{name}, {backend:?}: {a}, not {b}");
                    }
                }
            }
        }
    }
}

/// An index outside of a sparse matrix is an error of the run.
#[test]
fn a_sparse_index_out_of_range_is_an_error() {
    let text = "net main(x: f32[B, 2], rows: i64[E], columns: i64[E], values: f32[E]) { sparse_matmul(x, rows, columns, values, 2) }";
    let program = Program::parse("p", text).unwrap();
    for backend in ALL {
        let net = program.compile(None, &CompileOptions::default().backend(backend)).unwrap();
        let run = |rows: Vec<i64>, columns: Vec<i64>| {
            let n = rows.len();
            let data = [
                ("x".to_string(), Tensor::f32([1, 2], vec![1.0, 2.0])),
                ("rows".to_string(), Tensor::i64([n], rows)),
                ("columns".to_string(), Tensor::i64([n], columns)),
                ("values".to_string(), Tensor::f32([n], vec![1.0; n])),
            ];
            net.run(&data, &[]).map(|r| r.outputs[0].1.to_f32())
        };
        assert_eq!(run(vec![0, 1], vec![1, 0]).unwrap(), [2.0, 1.0]);
        for (rows, columns) in [(vec![2], vec![0]), (vec![0], vec![2]), (vec![-1], vec![0])] {
            let text = run(rows, columns).unwrap_err().to_string();
            assert!(text.contains("out of range") || text.contains("outside"), "{backend:?}: {text}");
        }
    }
}

fn plasticity(net: &str, options: &CompileOptions) -> snnc::Compiled {
    let text = std::fs::read_to_string(format!("{}/library/plasticity.snn", env!("CARGO_MANIFEST_DIR"))).unwrap();
    Program::parse("plasticity", &text).unwrap().compile(Some(net), options).unwrap_or_else(|e| panic!("{e}"))
}

fn tensor(shape: &[usize], f: impl Fn(usize) -> f32) -> Tensor {
    Tensor::f32(shape, (0..shape.iter().product()).map(f).collect())
}

/// Numbers between 0 and 1.
fn uneven(i: usize) -> f32 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1u32 << 24) as f32
}

#[test]
fn e_prop_forward_in_time_is_its_gradient() {
    let data = [
        ("x".to_string(), tensor(&[20, 3, 6], |i| f32::from(u8::from(uneven(i) < 0.4)))),
        ("target".to_string(), tensor(&[20, 3, 2], |i| uneven(i + 1000))),
    ];
    let weights = [
        ("first.weight".to_string(), tensor(&[5, 6], |i| uneven(i + 2000) * 1.5 - 0.3)),
        ("back.weight".to_string(), tensor(&[5, 5], |i| uneven(i + 3000) - 0.5)),
        ("out.weight".to_string(), tensor(&[2, 5], |i| uneven(i + 4000) - 0.5)),
    ];
    let names = ["first.weight".to_string(), "back.weight".to_string()];
    let backward = CompileOptions::default().gradients(names.to_vec());
    let backward = plasticity("eprop", &backward).run(&data, &weights).unwrap();
    let forward = plasticity("eprop_forward", &CompileOptions::default()).run(&data, &weights).unwrap();
    for (name, output) in [("grad.first.weight", "first"), ("grad.back.weight", "back")] {
        let (want, got) = (backward.outputs.get(name).unwrap(), forward.outputs.get(output).unwrap());
        let largest = want.as_f32().iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(largest > 0.1);
        for (a, b) in want.as_f32().iter().zip(got.as_f32()) {
            assert!((a - b).abs() < 1e-4 * largest, "{name}: {a} {b}");
        }
    }
}

/// The first time at which `2 tau v' = i - v` with `i' = -i / tau` reaches 1, in small steps.
fn simulated(times: &[f32], weights: &[f32], tau: f64) -> f64 {
    let (mut v, mut i, dt) = (0.0f64, 0.0f64, 1e-5);
    for step in 0..600_000 {
        let t = f64::from(step) * dt;
        for (at, w) in times.iter().zip(weights) {
            if (f64::from(*at) - t).abs() < dt / 2.0 {
                i += f64::from(*w);
            }
        }
        v += dt * (i - v) / (2.0 * tau);
        i -= dt * i / tau;
        if v >= 1.0 {
            return t;
        }
    }
    f64::INFINITY
}

#[test]
fn first_spikes_are_exact_in_event_times_and_so_are_their_gradients() {
    // Thousandths, so that the simulation meets them; one input never fires.
    let times = tensor(&[4, 5], |i| if i == 7 { f32::INFINITY } else { (uneven(i + 50) * 2000.0).round() / 1000.0 });
    let weights = tensor(&[3, 5], |i| uneven(i + 90) * 5.0 - 1.0);
    let data = [("times".to_string(), times.clone())];
    let own = [("w".to_string(), weights.clone())];
    let mut fired = 0;
    for backend in ALL {
        let run = plasticity("events", &CompileOptions::default().backend(backend)).run(&data, &own).unwrap();
        let got = run.outputs.get("first").unwrap().to_f32();
        for (b, inputs) in times.as_f32().chunks(5).enumerate() {
            for (o, w) in weights.as_f32().chunks(5).enumerate() {
                let (want, got) = (simulated(inputs, w, 0.8), f64::from(got[b * 3 + o]));
                assert!((want - got).abs() < 1e-3 || want == got, "{backend:?} {b} {o}: {want} {got}");
                fired += usize::from(got.is_finite());
            }
        }
    }
    assert!((12..36).contains(&fired), "some fire, some never: {fired}");
    // Finite differences of the closed form.
    let options = CompileOptions::default().gradients(vec!["w".into(), "times".into()]);
    let latest = plasticity("latest", &options);
    let run = latest.run(&data, &own).unwrap();
    let value = |data: &[(String, Tensor)], own: &[(String, Tensor)]| f64::from(latest.run(data, own).unwrap().outputs[0].1.to_f32()[0]);
    let h = 2e-3f32;
    for (name, count) in [("w", 15), ("times", 20)] {
        let gradient = run.outputs.get(&format!("grad.{name}")).unwrap().to_f32();
        for (i, analytic) in gradient.iter().enumerate().take(count) {
            let moved = |by: f32| {
                let (mut d, mut o) = (data.clone(), own.clone());
                let slot = if name == "w" { &mut o[0].1 } else { &mut d[0].1 };
                *slot = tensor(slot.shape(), |k| slot.as_f32()[k] + if k == i { by } else { 0.0 });
                value(&d, &o)
            };
            let numeric = (moved(h) - moved(-h)) / f64::from(2.0 * h);
            assert!((numeric - f64::from(*analytic)).abs() < 0.02 * (1.0 + numeric.abs()), "{name}[{i}]: {numeric} {analytic}");
        }
    }
}

#[test]
fn learning_in_a_run_holds_one_step_of_the_weights() {
    let text = "net main(x: f32[T, B, 100]) -> (spikes: f32[T, B, 100], weight: f32[100, 100]) {
        layer learner = stdp_linear(100, 100, rate = 0.01)
        learner(x)
    }";
    let program = Program::parse("p", text).unwrap();
    let memory = |steps: usize| {
        let net = program.compile(None, &CompileOptions::default().threads(1)).unwrap();
        net.prepare(&[("x".into(), Tensor::f32([steps, 1, 100], vec![0.0; steps * 100]))], &[]).unwrap().memory()
    };
    // What grows are the sequences of spikes and traces, [T, B, 100], and not weights, [100, 100].
    let more = memory(1000) - memory(100);
    assert!(more < 900 * 100 * 4 * 8, "{more} bytes for 900 steps more");
}

/// One step of Lava's bit-accurate LIF, from the definition of its published model (`PyLifModelBitAcc`), in integers of 64 bits.
fn lava_step(u: &mut i64, v: &mut i64, x: i64, [vth, du, dv, bias_mant, bias_exp]: [i64; 5]) -> i64 {
    let decayed = |state: i64, decay: i64| state.signum() * ((state.abs() * (4096 - decay)) >> 12);
    let charged = decayed(*u, du + 1) + (x << 6);
    *u = match charged {
        c if c > 1 << 23 => c - (1 << 24),
        c if c <= -(1 << 23) => c + (1 << 24),
        c => c,
    };
    let bias = if bias_exp >= 0 { bias_mant << bias_exp } else { bias_mant >> -bias_exp };
    *v = (decayed(*v, dv) + *u + bias).clamp(1 - (1 << 23), (1 << 23) - 1);
    let spike = i64::from(*v > vth << 6);
    *v *= 1 - spike;
    spike
}

#[test]
fn lava_lif_has_lavas_integers() {
    let mut random = 7u64;
    let mut next = |below: i64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as i64 % below
    };
    let (steps, neurons) = (200, 16);
    let (mut wrapped, mut clipped, mut fired) = (0, 0, 0);
    for case in 0..12 {
        // Weak and strong inputs, slow and fast decays: the strongest wrap the current around and reach the bounds of the membrane.
        let settings = [next(131072), next(4096) >> (case % 3 * 4), next(4096) >> (case % 4 * 3), next(8192) - 4096, next(11) - 3];
        let range = 1 << [6, 11, 15, 16][case as usize % 4];
        let x: Vec<i64> = (0..steps * neurons).map(|i| next(2 * range) - range + if i % 5 == 0 { range / 2 } else { 0 }).collect();
        let [vth, du, dv, bias_mant, bias_exp] = settings;
        let settled = format!("vth = {vth}, du = {du}, dv = {dv}, bias_mant = {bias_mant}, bias_exp = {bias_exp}");
        let text = format!(
            "net main(x: i64[T, N]) -> (s: f32[T, N], u: f32[T, N], v: f32[T, N]) {{\n    layer n = lava_lif({settled})\n    let s = n(f32(x))\n    (s, n.u, n.v)\n}}\n"
        );
        let (mut want, mut u, mut v) = ([vec![], vec![], vec![]], vec![0; neurons], vec![0; neurons]);
        for (i, x) in x.iter().enumerate() {
            let n = i % neurons;
            let before = u[n];
            let s = lava_step(&mut u[n], &mut v[n], *x, settings);
            wrapped += usize::from((before - u[n]).abs() > 1 << 23);
            clipped += usize::from(v[n].abs() == (1 << 23) - 1);
            fired += s;
            [s, u[n], v[n]].into_iter().zip(&mut want).for_each(|(value, all)| all.push(value));
        }
        for backend in [Backends::Interpreter, Backends::Cranelift, Backends::CandleOperations] {
            let net = Program::parse("lava.snn", &text).unwrap().compile(None, &CompileOptions::default().backend(backend)).unwrap();
            let run = net.run(&[("x".to_string(), Tensor::i64(vec![steps, neurons], x.clone()))], &[]).unwrap();
            for ((name, got), want) in run.outputs.iter().zip(&want) {
                let got: Vec<i64> = got.to_f32().iter().map(|x| *x as i64).collect();
                let at = got.iter().zip(want).position(|(a, b)| a != b);
                assert_eq!(at, None, "{settled}, {backend:?}: {name}: {:?}", at.map(|i| (i, got[i], want[i])));
            }
        }
    }
    assert!(wrapped > 50 && clipped > 50 && fired > 500, "{wrapped} {clipped} {fired}");
}

/// Rounding has slope 1: a net of such neurons is trained as one of those that do not round.
#[test]
fn lava_decay_has_the_slope_of_what_it_rounds() {
    let text = "net main(x: f32[2]) -> f32[] { sum(lava_decay(x, 1000) * [1.0, 3.0]) }";
    let options = CompileOptions::default().gradients(vec!["x".into()]);
    let net = Program::parse("lava.snn", text).unwrap().compile(None, &options).unwrap();
    let run = net.run(&[("x".to_string(), Tensor::f32(vec![2], vec![4097.0, -5.0]))], &[]).unwrap();
    assert_eq!(run.outputs[0].1.to_f32().to_vec(), [(4097 * 3096 / 4096 - 3 * (5 * 3096 / 4096)) as f32]);
    assert_eq!(run.outputs[1].1.to_f32().to_vec(), [3096.0 / 4096.0, 3.0 * 3096.0 / 4096.0]);
}

//! Gradients against finite differences, machine code against the interpreter, and what has no gradient.

use snn_tests::Dice;
use snnc::{Backends, CompileOptions, Mode, Optimise, Program, Tensor};

const INPUTS: &str = "x: f32[T, B, 4], y: f32[T, B, 4], k: f32[4], m: f32[4, 3], p: f32[B, 4, 7, 6], label: i64[B]";

/// Smooth expressions: each is summed with uneven weights to a loss.
const SMOOTH: &[&str] = &[
    "x * y + x / (y * y + 1.0) - k",
    "exp(x) + log(x * x + 1.0) + sqrt(y * y + 1.0)",
    "sin(x) * cos(y) + tanh(x * k) + erf(y)",
    "(abs(x) + 1.0) ^ (y * 0.5)",
    "(x * x + 1.0) % 0.7 * 0.0 + x ^ 3",
    "sigmoid(x) + relu(x + 7.0) + clamp(y, low = -50.0, high = 50.0)",
    "where(x < 30.0, x * y, y)",
    "maximum(x, y + 20.0) + minimum(x, y + 20.0)",
    "softmax(x) * y + log_softmax(y)",
    "x @ m",
    "permute(x, [1, 0, 2]) @ permute(y, [1, 2, 0])",
    "mean(x * y, axis = 0, keep = true) + sum(x, axis = 2, keep = true)",
    "max(x * 3.0 + k, axis = 2, keep = true) * y",
    "min(x * 3.0 + k, axis = 0, keep = true) * y",
    "cumsum(x, axis = 0) * cumsum(y, axis = 1)",
    "concat([x[:, :, 1:3], y[:, :, 0:2] * x[:, :, 2:4]], axis = 2)",
    "x[:, :, 0:4:2] * y[:, :, 1:4:2]",
    "pad(x, [1, 2], value = 3.0) * 2.0",
    "take(x, arange(3), axis = 2) * y[:, :, 0:3]",
    "reshape(permute(x, [2, 0, 1]), [4, T * B]) * 2.0 + x[0, 0, 0]",
    "delay(x, 2) * y + delay(x * y, 1)",
    "x |> non_spiking_lif(tau = 3.0)",
    "non_spiking_lif(x * k, tau = 1.5) * y",
    "p |> conv_a |> sum(axis = [2, 3])",
    "p |> conv_b",
    "p |> conv_c",
    "avg_pool2d(p, 3, stride = 2) ^ 2",
    "max_pool2d(p, 3, stride = 2)",
    "max_pool2d(p * 2.0, 2)",
    "adaptive_avg_pool2d(p, [3, 4])",
    "leaky(x, m)",
    "leaky_twice(x, m)",
    "leaky_constants(x, k, m)",
    "unsqueeze(cross_entropy(mean(x, axis = 0), label), 0)",
    "unsqueeze(mse_loss(x, y * k), 0)",
    "fractional_delay_of(x)",
    "gaussian_delay_of(x)",
];

const NETS: &str = "
net conv_a(p: f32[B, 4, 7, 6]) {
    layer c = conv2d(4, 6, 3, stride = 2, padding = 1)
    c(p)
}
net conv_b(p: f32[B, 4, 7, 6]) {
    layer c = conv2d(4, 6, [3, 2], stride = [1, 3], padding = [2, 0], dilation = [2, 1], groups = 2)
    c(p)
}
net conv_c(p: f32[B, 4, 7, 6]) {
    layer c = conv1d(7, 5, 2, stride = 2, bias = false)
    c(p)
}
net leaky(x: f32[T, B, 4], m: f32[4, 3]) {
    param w: f32[4, 4] = full([4, 4], 0.125)
    let rec h = tanh(x + delay(h, 1) @ w + delay(h, 2) * 0.5)
    h @ m
}
net leaky_twice(x: f32[T, B, 4], m: f32[4, 3]) {
    layer back = linear(4, 4)
    let rec h = non_spiking_lif(tanh(x + back(delay(h, 1))), tau = 1.5)
    h @ m
}
net leaky_constants(x: f32[T, B, 4], k: f32[4], m: f32[4, 3]) {
    layer back = linear(4, 4)
    let rec h = tanh(x * k + back(delay(h, 1)) * k - 0.5 * delay(h, 1))
    h @ m
}
net fractional_delay_of(x: f32[T, B, 4]) {
    layer d = fractional_delay(4, 3)
    d(x)
}
net gaussian_delay_of(x: f32[T, B, 4]) {
    layer d = gaussian_delay(4, 3, 0.8)
    d(x)
}
";

fn program(e: &str) -> Program {
    let text = format!(
        "{NETS}net loss({INPUTS}) -> f32[] {{\n    let e = {e}\n    sum(e * sin(f32(reshape(arange(product(shape(e))), shape(e))) + 1.0))\n}}\n"
    );
    Program::parse("gradients.snn", &text).unwrap_or_else(|e| panic!("{e}"))
}

fn data(steps: usize, batch: usize) -> Vec<(String, Tensor)> {
    let mut n = Dice(steps as u64 + 3);
    let shapes: [(&str, Vec<usize>); 5] =
        [("x", vec![steps, batch, 4]), ("y", vec![steps, batch, 4]), ("k", vec![4]), ("m", vec![4, 3]), ("p", vec![batch, 4, 7, 6])];
    let mut all: Vec<(String, Tensor)> = shapes
        .into_iter()
        .map(|(name, s)| (name.to_string(), Tensor::f32(s.clone(), (0..s.iter().product()).map(|_| n.tame()).collect())))
        .collect();
    all.push(("label".into(), Tensor::i64([batch], (0..batch).map(|i| (i * 2 % 4) as i64).collect())));
    all
}

fn options(backend: Backends, gradients: Option<Vec<String>>) -> CompileOptions {
    CompileOptions::default().backend(backend).gradients(gradients)
}

/// The gradient and the parameters, by name.
fn gradient(program: &Program, wrt: &[&str], backend: Backends, optimise: Optimise, data: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let wrt = wrt.iter().map(|n| n.to_string()).collect();
    let options = options(backend, Some(wrt)).optimise(optimise);
    let run = program.compile(Some("loss"), &options).and_then(|c| c.run(data, &[])).unwrap_or_else(|e| panic!("{e}"));
    run.outputs.into()
}

/// Within a few roundings of the largest element.
fn close(a: &Tensor, b: &Tensor) -> bool {
    let largest = a.as_f32().iter().fold(1.0f32, |m, x| m.max(x.abs()));
    a.as_f32().iter().zip(b.as_f32()).all(|(a, b)| (a - b).abs() <= 1e-5 * largest)
}

#[test]
fn gradients_are_the_slopes() {
    for e in SMOOTH {
        let program = program(e);
        for (steps, batch) in [(1, 2), (5, 3)] {
            let data = data(steps, batch);
            let names: &[&str] = if e.contains('p') && !e.contains('x') { &["p"] } else { &["x", "y", "k", "m"] };
            let found = gradient(&program, names, Backends::Interpreter, Optimise::Off, &data);
            let compiled = program.compile(Some("loss"), &options(Backends::Interpreter, None)).unwrap();
            let loss = |data: &[(String, Tensor)]| f64::from(compiled.run(data, &[]).unwrap().outputs[0].1.as_f32()[0]);
            let mut dice = Dice(9);
            for name in names {
                let slope = &found.iter().find(|(n, _)| *n == format!("grad.{name}")).unwrap().1;
                let at = data.iter().position(|(n, _)| n == name).unwrap();
                // Along a random direction, and along one axis.
                for single in [true, false] {
                    let len = slope.len();
                    let pick = (dice.tame().abs() * len as f32) as usize % len;
                    let direction: Vec<f32> = (0..len).map(|i| if single { f32::from(u8::from(i == pick)) } else { dice.tame() }).collect();
                    let step = 4e-3f32;
                    let moved = |sign: f32| {
                        let mut data = data.clone();
                        let old = data[at].1.as_f32();
                        let new = old.iter().zip(&direction).map(|(x, d)| x + sign * step * d).collect();
                        data[at].1 = Tensor::f32(data[at].1.shape().to_vec(), new);
                        loss(&data)
                    };
                    let numeric = (moved(1.0) - moved(-1.0)) / f64::from(2.0 * step);
                    let exact: f64 = slope.as_f32().iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
                    let size = 1.0 + exact.abs().max(loss(&data).abs());
                    assert!((numeric - exact).abs() < 4e-3 * size, "{e}, T = {steps}, {name}: {exact} and {numeric}");
                }
            }
        }
    }
}

#[test]
fn machine_code_and_the_optimiser_agree_with_the_plain_interpreter() {
    let spiking = [
        "x * 3.0 |> lif(surrogate = atan())",
        "lif(x * 3.0, v_threshold = abs(k) + 0.2, v_reset = none)",
        "x * 2.0 |> plif_of",
        "x * 3.0 |> if_node(v_threshold = 0.5) |> delay(1) |> lif()",
        "recurrent_of(x * 3.0)",
        "cuba_lif(x) + izhikevich(y * 2.0, a = 0.3, b = 0.2) + qif(x)",
    ];
    let nets = "net plif_of(x: f32[T, B, 4]) { layer n = plif()\n n(x) }\n\
                net recurrent_of(x: f32[T, B, 4]) {\n layer back = linear(4, 4)\n let rec h = lif(x + back(delay(h, 1)), surrogate = atan())\n h }\n";
    for e in spiking.iter().chain(SMOOTH) {
        let text = format!("{nets}{NETS}net loss({INPUTS}) -> f32[] {{\n    let e = {e}\n    sum(e * e)\n}}\n");
        let program = Program::parse("agree.snn", &text).unwrap_or_else(|e| panic!("{e}"));
        let data = data(6, 3);
        let plain = gradient(&program, &["x", "y", "k", "m", "p"], Backends::Interpreter, Optimise::Off, &data);
        for (backend, optimise) in [
            (Backends::Interpreter, Optimise::Exact),
            (Backends::Cranelift, Optimise::Off),
            (Backends::Cranelift, Optimise::Exact),
            (Backends::CandleOperations, Optimise::Exact),
        ] {
            for ((name, want), (_, got)) in plain.iter().zip(gradient(&program, &["x", "y", "k", "m", "p"], backend, optimise, &data)) {
                assert!(close(want, &got), "{e}, {name}, {backend:?}, {optimise:?}:\n{want}\n{got}");
            }
        }
    }
}

#[test]
fn ties_and_corners_are_pytorchs() {
    let data = vec![
        ("x".to_string(), Tensor::f32([4], vec![0.0, 1.0, 1.0, -1.0])),
        ("y".to_string(), Tensor::f32([4], vec![0.0, 1.0, 2.0, -1.0])),
    ];
    for (e, want) in [
        ("sum(relu(x))", [0.0, 1.0, 1.0, 0.0]),
        ("sum(maximum(x, y))", [0.5, 0.5, 0.0, 0.5]),
        ("sum(minimum(x, y))", [0.5, 0.5, 1.0, 0.5]),
        ("sum(abs(x))", [0.0, 1.0, 1.0, -1.0]),
        ("sum(clamp(x, low = 0.0, high = 1.0))", [0.0; 4]),
        ("max(x)", [0.0, 1.0, 0.0, 0.0]),
        ("sum(floor(x) + round(x) + f32(x > y)) + 0.0 * sum(x)", [0.0; 4]),
        ("sum(detach(x) * x)", [0.0, 1.0, 1.0, -1.0]),
        ("sum(x ^ 0.0)", [0.0; 4]),
        ("sum(delay(x, 1))", [1.0, 1.0, 1.0, 0.0]),
        ("sum(delay(x, 9) + x)", [1.0; 4]),
    ] {
        let text = format!("net loss(x: f32[N], y: f32[N]) -> f32[] {{ {e} }}");
        let program = Program::parse("ties.snn", &text).unwrap();
        for backend in [Backends::Interpreter, Backends::Cranelift] {
            let found = gradient(&program, &["x"], backend, Optimise::Exact, &data);
            assert_eq!(found[1].1.as_f32(), want, "{e}");
        }
    }
}

#[test]
fn what_has_no_gradient_is_said() {
    let error = |text: &str, wrt: &[&str]| {
        let program = Program::parse("wrong.snn", text).unwrap();
        let options = options(Backends::Interpreter, Some(wrt.iter().map(|n| n.to_string()).collect()));
        let x = ("x".to_string(), Tensor::f32([2], vec![1.0, 2.0]));
        let i = ("i".to_string(), Tensor::i64([2], vec![1, 2]));
        match program.compile(None, &options).and_then(|c| c.run(&[x, i], &[])) {
            Ok(run) => format!("independent: {:?}", run.independent),
            Err(e) => e.to_string(),
        }
    };
    let report = [
        error("net loss(x: f32[N]) -> f32[N] { x }", &["x"]),
        error("net loss(x: f32[N], i: i64[N]) -> f32[] { sum(x * f32(i)) }", &["i"]),
        error("net loss(x: f32[N]) -> f32[] { sum(x) }", &["y"]),
        error("net loss(x: f32[N]) -> i64[] { argmax(x) }", &["x"]),
        error("net loss(x: f32[N]) -> f32[] {\n    layer a = linear(2, 2)\n    let unused = a(x)\n    sum(x)\n}", &[]),
    ];
    insta::assert_snapshot!(report.join("\n"));
}

/// Segments of neurons are computed again, to the same bits, and less is kept.
#[test]
fn checkpoints_change_memory_and_nothing_else() {
    let text = "net loss(x: f32[T, N], k: f32[N]) -> f32[] {
    let a = lif(x * 3.0, v_threshold = abs(k) + 0.25, surrogate = atan())
    sum(izhikevich(a + x, a = 0.3, b = 0.2) * x) + sum(cuba_lif(a))
}";
    let program = Program::parse("checkpoints.snn", text).unwrap();
    let mut n = Dice(1);
    let mut data = |steps: usize| {
        let x = Tensor::f32([steps, 40], (0..steps * 40).map(|_| n.tame()).collect());
        vec![("x".to_string(), x), ("k".to_string(), Tensor::f32([40], (0..40).map(|_| n.tame()).collect()))]
    };
    for steps in [1, 7, 12, 60] {
        let data = data(steps);
        let run = |checkpoint, backend| {
            let options = options(backend, Some(vec!["x".into(), "k".into()])).checkpoint(checkpoint);
            let prepared = program.compile(None, &options).and_then(|c| c.prepare(&data, &[])).unwrap_or_else(|e| panic!("{e}"));
            (prepared.run().unwrap().outputs, prepared.memory())
        };
        for backend in [Backends::Interpreter, Backends::Cranelift] {
            let (plain, memory) = run(None, backend);
            for every in [1, 4, 6, 100] {
                let (kept, less) = run(Some(every), backend);
                for ((name, a), (_, b)) in plain.iter().zip(&kept) {
                    assert!(close(a, b), "{name}, T = {steps}, every {every}, {backend:?}");
                }
                if backend == Backends::Cranelift && steps == 60 && every == 6 {
                    assert!(less < memory, "{less} bytes instead of {memory}");
                }
            }
        }
    }
}

/// A net in two phases gives the outputs of a run, and then, from gradients of the outputs, those of the scalar `sum(output *
/// gradient)`; from one run as often as they are asked for.
#[test]
fn outputs_come_first_and_gradients_when_they_are_asked_for() {
    let text = "
        net main(x: f32[T, B, 2, 6, 6]) -> (y: f32[T, B, 5], n: i64[T, B], v: f32[T, B, 4, 6, 6]) {
            layer c = conv2d(2, 4, 3, padding = 1)
            layer bn = batch_norm2d(4)
            layer sn = plif()
            layer drop = dropout(0.3)
            layer fc = linear(36, 5)
            let h = x |> c |> bn |> sn
            let y = fc(drop(h |> max_pool2d(2) |> flatten(start = 2)))
            (y, argmax(y, axis = -1), sn.v)
        }
        net loss(x: f32[T, B, 2, 6, 6], a: f32[T, B, 5], b: f32[T, B, 4, 6, 6]) -> f32[] {
            let (y, n, v) = main(x)
            sum(y * a) + sum(v * b)
        }";
    let program = Program::parse("phases.snn", text).unwrap();
    let wrt: Vec<String> = ["x", "c.weight", "bn.weight", "sn.w", "fc.bias"].map(String::from).into();
    let mut dice = Dice(7);
    let mut random = |shape: &[usize]| {
        let n = shape.iter().product();
        Tensor::f32(shape.to_vec(), (0..n).map(|_| dice.tame()).collect())
    };
    let (x, a, b) = (random(&[3, 2, 2, 6, 6]), random(&[3, 2, 5]), random(&[3, 2, 4, 6, 6]));
    for backend in [Backends::Interpreter, Backends::Cranelift] {
        let options = CompileOptions::default().backend(backend).mode(Mode::Train);
        let data = [("x".to_string(), x.clone())];
        let plain = program.compile(Some("main"), &options).unwrap().run(&data, &[]).unwrap();
        let weights: Vec<(String, Tensor)> = plain.parameters.clone().into();
        let scalar = options.clone().gradients(wrt.clone());
        let given = [("x", &x), ("a", &a), ("b", &b)].map(|(n, t)| (n.to_string(), t.clone()));
        let want = program.compile(Some("loss"), &scalar).unwrap().run(&given, &weights).unwrap().outputs;
        let phases = options.cotangents(wrt.clone());
        let net = program.compile(Some("main"), &phases).unwrap().prepare(&data, &weights).unwrap();
        let (run, tape) = net.forward(phases.seed).unwrap();
        assert_eq!(run.outputs, plain.outputs);
        assert_eq!(run.updates, plain.updates);
        let cotangents = [("cotangent.y", &a), ("cotangent.v", &b)].map(|(n, t)| (n.to_string(), t.clone()));
        for _ in 0..2 {
            let found = tape.backward(&cotangents).unwrap();
            for name in &wrt {
                let name = format!("grad.{name}");
                let (found, want) = (found.get(&name).unwrap(), want.get(&name).unwrap());
                let largest = want.as_f32().iter().fold(1e-6f32, |m, v| m.max(v.abs()));
                let off = found.as_f32().iter().zip(want.as_f32()).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(off <= 1e-5 * largest, "{name}: {off} of {largest}");
            }
        }
        assert!(tape.backward(&cotangents[..1]).unwrap_err().to_string().contains("cotangent.v"));
    }
}

#[test]
fn a_surrogate_may_be_of_another_width_for_each_neuron() {
    let text = "net wide(x: f32[T, B, 3]) -> f32[] {
        param width: f32[3] = [1.0, 2.0, 3.0]
        sum(x |> lif(surrogate = atan(alpha = width)))
    }
    net one(x: f32[T, B, 3]) -> f32[] { sum(x[..., :1] |> lif(surrogate = atan(alpha = 1.0))) }
    net two(x: f32[T, B, 3]) -> f32[] { sum(x[..., 1:2] |> lif(surrogate = atan(alpha = 2.0))) }
    net three(x: f32[T, B, 3]) -> f32[] { sum(x[..., 2:] |> lif(surrogate = atan(alpha = 3.0))) }";
    let program = snnc::Program::parse("w.snn", text).unwrap();
    let x = snnc::Tensor::f32([5, 2, 3], (0..30).map(|i| (i * 7 % 11) as f32 * 0.3).collect());
    for backend in [snnc::Backends::Cranelift, snnc::Backends::Interpreter, snnc::Backends::CandleOperations] {
        let gradient = |net: &str| {
            let options = snnc::CompileOptions::default().backend(backend).gradients(vec!["x".into()]).partial(true);
            let run = program.compile(Some(net), &options).unwrap().run(&[("x".into(), x.clone())], &[]).unwrap();
            run.outputs.get("grad.x").unwrap().as_f32().to_vec()
        };
        let (wide, parts) = (gradient("wide"), ["one", "two", "three"].map(gradient));
        for (i, g) in wide.iter().enumerate() {
            assert!((g - parts[i % 3][i]).abs() < 1e-6 && wide.iter().any(|g| *g != 0.0), "{backend:?} {i}: {g} {}", parts[i % 3][i]);
        }
    }
}

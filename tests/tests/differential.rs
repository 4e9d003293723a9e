//! Machine code and candle against the interpreter on generated programs: to the bit, whatever the number of threads. Inputs of
//! products are small integers and spikes, so that their sums are exact in every order.

use snn_tests::Dice;
use snnc::{Backends, CompileOptions, DType, DeviceName, Mode, Optimise, Precision, Program, Tensor};

const CANDLE: Backends = Backends::Candle(DeviceName::Cpu, Precision::F32);

/// A program over `x[T, B, C]` (any numbers), `s[T, B, C]` (spikes) and `k[C]`, of elementwise operations, neurons, delays,
/// movement, products of spikes with whole weights, and sometimes a recurrent value.
fn program(d: &mut Dice) -> String {
    let mut lines = vec!["layer fc = linear(6, 6, bias = false)".to_string()];
    let mut values = vec!["x".to_string(), "s".to_string()];
    let mut spikes = vec!["s".to_string()];
    for i in 0..3 + d.roll(8) {
        let name = format!("v{i}");
        let (a, b) = (values[d.roll(values.len())].clone(), values[d.roll(values.len())].clone());
        let s = spikes[d.roll(spikes.len())].clone();
        let neuron = |d: &mut Dice| {
            let reset = d.pick(&["0.0", "none", "-0.25"]);
            match d.roll(9) {
                0 => format!("if_node(v_threshold = 0.75, v_reset = {reset})"),
                1 => format!("lif(tau = 3.0, v_reset = {reset}, decay_input = false)"),
                2 => "qif()".into(),
                3 => "eif()".into(),
                4 => "izhikevich(a = 0.3, b = 0.2)".into(),
                5 => "cuba_lif()".into(),
                6 => "ternary_lif()".into(),
                7 => "complementary_lif()".into(),
                _ => format!("lif(v_threshold = abs(k) + 0.5, v_reset = {reset})"),
            }
        };
        let (e, is_spike) = match d.roll(15) {
            0 => (format!("{a} + {b}"), false),
            1 => (format!("{a} * k - {b}"), false),
            2 => (format!("{a} / ({b} * {b} + 1.0)"), false),
            3 => (
                format!(
                    "{}({a})",
                    d.pick(&["exp", "log", "sqrt", "sin", "cos", "tanh", "erf", "abs", "floor", "round", "relu", "sigmoid"])
                ),
                false,
            ),
            4 => (format!("where({a} < {b}, {a}, k)"), false),
            5 => (format!("maximum({a}, minimum({b}, 0.5))"), false),
            6 | 7 => (format!("{a} |> {}", neuron(d)), false),
            8 => (format!("lif({a})"), true),
            9 => (format!("delay({s}, {})", d.roll(5)), true),
            10 => (format!("fc({s}) |> if_node(v_threshold = 2.0)"), true),
            11 => (format!("{a} + mean({s}, axis = {}, keep = true)", d.roll(2)), false),
            12 => (format!("permute(permute({a}, [0, 2, 1]), [0, 2, 1])[..., 0:6]"), false),
            13 => (format!("concat([{a}[0:1], {b}[1:]], axis = 0)"), false),
            _ => {
                let step = 1 + d.roll(3);
                lines.push(format!("let rec {name} = if_node({s} + fc(delay({name}, {step})), v_threshold = 1.5)"));
                spikes.push(name.clone());
                values.push(name);
                continue;
            }
        };
        lines.push(format!("let {name} = {e}"));
        if is_spike {
            spikes.push(name.clone());
        }
        values.push(name);
    }
    let n = values.len();
    let (a, b) = (&values[n - 1], &values[d.roll(n)]);
    format!(
        "net main(x: f32[T, B, 6], s: f32[T, B, 6], k: f32[6]) -> (a: f32[T, B, 6], b: f32[T, B, 6]) {{\n    {}\n    ({a}, {b} + 0.0)\n}}",
        lines.join("\n    ")
    )
}

fn check(seed: u64) {
    let mut d = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let text = program(&mut d);
    let parsed = Program::parse("generated", &text).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
    let (t, b) = ([1, 2, 5, 9][d.roll(4)], [1, 3, 50][d.roll(3)]);
    let n = t * b * 6;
    let data = vec![
        ("x".to_string(), Tensor::f32([t, b, 6], (0..n).map(|_| d.wild()).collect())),
        ("s".to_string(), Tensor::f32([t, b, 6], (0..n).map(|_| (d.roll(3) == 0) as u8 as f32).collect())),
        ("k".to_string(), Tensor::f32([6], (0..6).map(|i| i as f32 * 0.4 - 1.0).collect())),
    ];
    let weights = vec![("fc.weight".to_string(), Tensor::f32([6, 6], (0..36).map(|_| d.roll(7) as f32 - 3.0).collect()))];
    let run = |backend, threads, optimise| {
        let options = CompileOptions::default().backend(backend).threads(threads).optimise(optimise).mode(Mode::Eval);
        let result = parsed.compile(None, &options).and_then(|net| net.run(&data, &weights));
        result.unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}")).outputs
    };
    let expected = run(Backends::Interpreter, 1, Optimise::Off);
    for (backend, threads, optimise) in [
        (Backends::Interpreter, 1, Optimise::Exact),
        (Backends::Cranelift, 1, Optimise::Off),
        (Backends::Cranelift, 1, Optimise::Exact),
        (Backends::Cranelift, 3, Optimise::Exact),
        (CANDLE, 1, Optimise::Exact),
        (Backends::CandleOperations, 1, Optimise::Off),
    ] {
        for ((name, got), (_, want)) in run(backend, threads, optimise).iter().zip(&expected) {
            assert!(
                got.same_bits(want),
                "seed {seed}, output {name}, {backend:?}, {threads} threads, {optimise:?}:\n{text}\n{got}\n{want}"
            );
        }
    }
}

#[test]
fn backends_equal_the_interpreter_on_generated_programs() {
    (0..300).for_each(check);
}

/// Every elementary function on a grid of numbers and on the special ones, to the bit.
#[test]
fn elementary_functions_agree_to_the_bit() {
    let mut xs: Vec<f32> = (0..4000).map(|i| (i as f32 - 2000.0) * 0.05).collect();
    xs.extend([0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, -1e-45, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 88.72, -103.9]);
    let n = xs.len();
    let data = vec![("x".to_string(), Tensor::f32([n], xs.clone())), ("y".to_string(), Tensor::f32([n], xs.into_iter().rev().collect()))];
    let unary = ["exp(x)", "log(x)", "sqrt(x)", "sin(x)", "cos(x)", "tanh(x)", "erf(x)", "abs(x)", "floor(x)", "round(x)", "-x"];
    let binary = [
        "x ^ y",
        "x % y",
        "x / y",
        "x / 4",
        "x / 3",
        "maximum(x, y)",
        "minimum(x, y)",
        "x * y",
        "f32(x < y)",
        "f32(x >= y)",
        "f32(x == y)",
        "f32(x != y)",
    ];
    let logic = [
        "f32(bool(x))",
        "f32(!(x < y) && (x > 0) || bool(y))",
        "where(bool(x), x, y)",
        "f32(spike(x) > 0)",
        "spike(x, atan(), strict = true)",
    ];
    for e in unary.iter().chain(&binary).chain(&logic) {
        let text = format!("net main(x: f32[N], y: f32[N]) -> f32[N] {{ {e} }}");
        let program = Program::parse("t", &text).unwrap();
        let run = |backend| {
            let options = CompileOptions::default().backend(backend);
            program
                .compile(None, &options)
                .and_then(|net| net.run(&data, &[]))
                .unwrap_or_else(|e| panic!("{text}: {e}"))
                .outputs
                .remove(0)
                .1
        };
        let (got, want) = (run(Backends::Cranelift), run(Backends::Interpreter));
        assert_eq!(got.dtype(), DType::F32);
        let differs = (0..n).find(|i| {
            let (a, b) = (got.as_f32()[*i], want.as_f32()[*i]);
            a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan())
        });
        if let Some(i) = differs {
            panic!(
                "{e} at {:?}: {} and {}",
                data.iter().map(|(_, t)| t.as_f32()[i]).collect::<Vec<_>>(),
                got.as_f32()[i],
                want.as_f32()[i]
            );
        }
    }
}

/// Convolutions and pools with all their settings, on integers.
#[test]
fn convolutions_and_pools_agree() {
    let mut d = Dice(5);
    for _ in 0..40 {
        let (groups, stride, padding, dilation) = (1 + d.roll(2), 1 + d.roll(3), d.roll(3), 1 + d.roll(2));
        let pool = d.pick(&["max_pool2d", "avg_pool2d"]);
        let (kernel, pool_stride) = (1 + d.roll(3), 1 + d.roll(3));
        let text = format!(
            "net main(x: f32[T, B, 4, 11, 9], y: f32[B, 4, 15]) -> (a: f32[...], b: f32[...], c: f32[...]) {{ (x, x, x) }}\n\
             net free(x: f32[T, B, 4, 11, 9], y: f32[B, 4, 15]) {{\n\
             layer c2 = conv2d(4, 6, [{kernel}, 2], stride = {stride}, padding = {padding}, dilation = {dilation}, groups = {groups}, bias = false)\n\
             layer c1 = conv1d(4, 2, {kernel}, stride = {stride}, padding = {padding}, groups = {groups}, bias = false)\n\
             (c2(x), c1(y), {pool}(x, [{kernel}, 2], stride = {pool_stride}))\n}}"
        );
        let program = Program::parse("t", &text).unwrap();
        let mut whole = |n: usize| -> Vec<f32> { (0..n).map(|_| d.roll(5) as f32 - 2.0).collect() };
        let data = vec![
            ("x".to_string(), Tensor::f32([2, 3, 4, 11, 9], whole(2 * 3 * 4 * 99))),
            ("y".to_string(), Tensor::f32([3, 4, 15], whole(180))),
        ];
        let weights = vec![
            ("c2.weight".to_string(), Tensor::f32([6, 4 / groups, kernel, 2], whole(48 / groups * kernel))),
            ("c1.weight".to_string(), Tensor::f32([2, 4 / groups, kernel], whole(8 / groups * kernel))),
        ];
        let run = |backend| {
            let options = CompileOptions::default().backend(backend);
            program
                .compile(Some("free"), &options)
                .and_then(|net| net.run(&data, &weights))
                .unwrap_or_else(|e| panic!("{text}: {e}"))
                .outputs
        };
        let expected = run(Backends::Interpreter);
        for backend in [Backends::Cranelift, CANDLE, Backends::CandleOperations] {
            for (got, want) in run(backend).iter().zip(&expected) {
                assert_eq!(got.1, want.1, "{backend:?}: {text}");
            }
        }
    }
}

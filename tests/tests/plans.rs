//! What the planner of the CPU recognises, and that it changes no bit of a result: loops over samples that do not meet, long sequences
//! in pieces, gradients of pools, convolutions of spikes.

use snn_tests::Dice;
use snnc::{Backends, CompileOptions, DeviceName, Dims, Mode, Optimise, Options, Precision, Program, Tensor};

const CANDLE: Backends = Backends::Candle(DeviceName::Cpu, Precision::F32);

fn plan(text: &str, net: &str, wrt: Option<&[&str]>, dims: &[(&str, i64)]) -> String {
    code(text, net, wrt, dims).lines().filter(|l| l.starts_with("; ")).collect::<Vec<_>>().join("\n")
}

/// The plan and the code of its kernels.
fn code(text: &str, net: &str, wrt: Option<&[&str]>, dims: &[(&str, i64)]) -> String {
    let dims: Dims = dims.iter().map(|(n, v)| (n.to_string(), *v)).collect();
    let program = Program::parse("model.snn", text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let options = Options { mode: Mode::Eval, dims: dims.clone(), rest: None, ..Default::default() };
    let graph = program.lower(Some(net), &options).unwrap_or_else(|e| panic!("{e}\n{text}")).bind(&dims);
    let graph = match wrt {
        Some(wrt) => snnc::gradients(&graph, &wrt.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap().graph,
        None => graph,
    };
    snn_cpu::listing(&graph, snn_cpu::Listing::Clif).unwrap()
}

/// The outputs of a net, or its gradients, on the interpreter, and the same on all CPU backends with one thread and with three.
fn agrees(text: &str, net: &str, wrt: Option<&[&str]>, data: &[(String, Tensor)], weights: &[(String, Tensor)]) {
    let program = Program::parse("model.snn", text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let run = |backend, threads| {
        let gradients = wrt.map(|wrt| wrt.iter().map(ToString::to_string).collect());
        let options =
            CompileOptions::default().backend(backend).threads(threads).gradients(gradients).optimise(Optimise::Off).mode(Mode::Eval);
        let run = program.compile(Some(net), &options).and_then(|c| c.run(data, weights));
        run.unwrap_or_else(|e| panic!("{e}\n{text}")).outputs
    };
    let expected = run(Backends::Interpreter, 1);
    for (backend, threads) in [(Backends::Cranelift, 1), (Backends::Cranelift, 3), (CANDLE, 1), (Backends::CandleOperations, 1)] {
        for ((name, got), (_, want)) in run(backend, threads).iter().zip(&expected) {
            assert!(got.same_bits(want), "{name}, {backend:?}, {threads} threads\n{text}\n{got}\n{want}");
        }
    }
}

fn spikes(d: &mut Dice, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    Tensor::f32(shape.to_vec(), (0..n).map(|_| f32::from(u8::from(d.roll(3) == 0))).collect())
}

fn whole_numbers(d: &mut Dice, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    Tensor::f32(shape.to_vec(), (0..n).map(|_| d.roll(7) as f32 - 3.0).collect())
}

/// Recurrent nets over `s[T, B, 24]`, and whether their samples are independent.
const RECURRENT: [(&str, bool); 8] = [
    ("let rec h = lif(s + fc(delay(h, 1)), v_threshold = 1.5)", true),
    ("let rec h = if_node(s + fc(delay(h, 3)), v_threshold = 1.5)", true),
    ("let rec h = if_node(fc(s) + fc(delay(h, 1)), v_threshold = abs(k) + 2.0)", true),
    ("let rec h = if_node(s + reshape(fc(reshape(delay(h, 1), [T, 1, B, 24])), [T, B, 24]), v_threshold = 1.5)", true),
    ("let rec h = if_node(s + permute(permute(fc(delay(h, 1)), [0, 2, 1]), [0, 2, 1]) - mean(delay(h, 1), axis = 2, keep = true))", true),
    // These mix samples.
    ("let rec h = if_node(s + fc(delay(h, 1)) - sum(delay(h, 1), axis = 1, keep = true))", false),
    ("let rec h = if_node(s + fc(delay(h, 1)) - delay(h, 1)[:, 0:1])", false),
    ("let rec h = if_node(s + cumsum(delay(h, 1), axis = 1), v_threshold = 9.0)", false),
];

#[test]
fn loops_over_independent_samples_are_divided() {
    for (line, divides) in RECURRENT {
        let text = format!(
            "net main(s: f32[T, B, 24], k: f32[24]) -> f32[T, B, 24] {{\n    layer fc = linear(24, 24, bias = false)\n    {line}\n    h\n}}"
        );
        let mut d = Dice(7);
        let (steps, samples) = (60, 48);
        let plan = plan(&text, "main", None, &[("T", steps as i64), ("B", samples as i64)]);
        assert_eq!(plan.contains("loop in 3 parts"), divides, "{line}\n{plan}");
        let data = [
            ("s".to_string(), spikes(&mut d, &[steps, samples, 24])),
            ("k".to_string(), Tensor::f32([24], (0..24).map(|i| i as f32 * 0.25 - 3.0).collect())),
        ];
        let weights = [("fc.weight".to_string(), whole_numbers(&mut d, &[24, 24]))];
        agrees(&text, "main", None, &data, &weights);
    }
}

#[test]
fn the_backward_of_a_loop_is_divided() {
    // The gradient of what differs from neuron to neuron is a sum over samples, which is taken outside.
    let text = "net loss(s: f32[T, B, 24], k: f32[24]) -> f32[] {
    layer fc = linear(24, 24, bias = false)
    let rec h = if_node(s * k + fc(delay(h, 1)), v_threshold = 1.5, surrogate = erf(), detach_reset = true)
    sum(h * s)
}";
    let plan = plan(text, "loss", Some(&["fc.weight", "s", "k"]), &[("T", 60), ("B", 48)]);
    assert_eq!(plan.matches("loop in 3 parts").count(), 2, "{plan}");
    assert_eq!(plan.matches("product 16 x 24 x 24").count(), 2, "the way back reads the product of each step\n{plan}");
    let mut d = Dice(11);
    let k = Tensor::f32([24], (0..24).map(|_| 1.0 + d.tame() * 0.3).collect());
    let data = [("s".to_string(), spikes(&mut d, &[60, 48, 24])), ("k".to_string(), k)];
    let weights = [("fc.weight".to_string(), Tensor::f32([24, 24], (0..576).map(|_| d.tame() * 0.4).collect()))];
    let program = Program::parse("t", text).unwrap();
    let run = |backend, threads| {
        let gradients = Some(["fc.weight", "s", "k"].map(String::from).to_vec());
        let options = CompileOptions::default().backend(backend).threads(threads).gradients(gradients);
        program.compile(None, &options).and_then(|c| c.run(&data, &weights)).unwrap_or_else(|e| panic!("{e}")).outputs
    };
    let (want, one, three) = (run(Backends::Interpreter, 1), run(Backends::Cranelift, 1), run(Backends::Cranelift, 3));
    for (((name, want), (_, one)), (_, three)) in want.iter().zip(&one).zip(&three) {
        assert!(one.same_bits(three), "{name}");
        let largest = want.as_f32().iter().fold(1.0f32, |m, x| m.max(x.abs()));
        assert!(want.as_f32().iter().zip(one.as_f32()).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{name}");
    }
}

#[test]
fn gradients_of_pools_are_one_kernel() {
    for pool in ["max_pool2d(2)", "max_pool2d(3)", "max_pool2d(2, stride = 1)", "max_pool2d(3, stride = 2, padding = 1)"] {
        let text = format!("net loss(x: f32[T, B, 3, 12, 6], k: f32[]) -> f32[] {{ let y = x |> {pool}\n sum(y * (y + k)) }}");
        let plan = plan(&text, "loss", Some(&["x"]), &[("T", 4), ("B", 2)]);
        assert!(plan.contains("max-pool backward") && !plan.contains("reference"), "{plan}");
        let mut d = Dice(3);
        // Ties, zeros of both signs, and what is no number.
        let x = (0..4 * 2 * 3 * 12 * 6).map(|_| [0.0, -0.0, 1.0, 1.0, 2.0, -1.0, f32::NAN, f32::INFINITY][d.roll(8)]).collect();
        let data = [("x".to_string(), Tensor::f32([4, 2, 3, 12, 6], x)), ("k".to_string(), Tensor::f32([], vec![0.5]))];
        agrees(&text, "loss", Some(&["x"]), &data, &[]);
    }
}

#[test]
fn convolutions_of_spikes_add_in_order() {
    for conv in [
        "conv2d(8, 24, 3, padding = 1, bias = false)",
        "conv2d(8, 32, 3, stride = 2, groups = 2, bias = false)",
        "conv2d(8, 16, [2, 5], padding = [0, 2], dilation = [2, 1], bias = false)",
    ] {
        let text = format!("net main(x: f32[T, B, 8, 13, 17]) {{ layer c = {conv}\n c(x) }}");
        let mut d = Dice(5);
        let program = Program::parse("t", &text).unwrap_or_else(|e| panic!("{e}"));
        let data = [("x".to_string(), spikes(&mut d, &[3, 4, 8, 13, 17]))];
        let run = |backend| {
            let options = CompileOptions::default().backend(backend);
            program.compile(None, &options).and_then(|c| c.run(&data, &[])).unwrap_or_else(|e| panic!("{e}\n{text}")).outputs
        };
        // Weights are drawn, any numbers: the sums are equal because they are made in the same order.
        let (got, want) = (run(Backends::Cranelift), run(Backends::Interpreter));
        assert!(got[0].1.same_bits(&want[0].1), "{conv}");
    }
}

/// A delay on a cycle is a ring buffer: the same bits on every back end, forward and backward, with several delays of one value, and no time for its length.
#[test]
fn delays_of_loops_are_rings() {
    use snnc::{Backends, CompileOptions, DeviceName, Precision, Program, Tensor};
    let text = "net main(x: f32[T, B, 3]) -> (s: f32[T, B, 3], w: f32[T, B, 3]) {
        layer fc = linear(3, 3)
        layer n = lif(v_threshold = 0.1, surrogate = atan())
        let rec s: f32[T, B, 3] = n(fc(x) + 0.5 * delay(s, 7) - 0.25 * delay(s, 2) + 0.1 * delay(w, 9))
        let rec w: f32[T, B, 3] = s + 0.5 * delay(w, 5)
        (s, w)
    }
    net loss(x: f32[T, B, 3]) -> f32[] {
        let (s, w) = main(x)
        sum(s * s + w)
    }";
    let x = Tensor::f32([40, 5, 3], (0..600).map(|i| ((i * 37) % 23) as f32 / 7.0 - 1.0).collect());
    let program = Program::parse("net.snn", text).unwrap();
    let run = |backend, gradients: Option<Vec<String>>| {
        let net = if gradients.is_some() { "loss" } else { "main" };
        let options = CompileOptions::default().backend(backend).gradients(gradients);
        program.compile(Some(net), &options).unwrap().run(&[("x".into(), x.clone())], &[]).unwrap().outputs
    };
    let want = run(Backends::Interpreter, None);
    assert!(want[0].1.as_f32().contains(&1.0) && want[0].1.as_f32().contains(&0.0));
    for backend in [Backends::Cranelift, Backends::Candle(DeviceName::Cpu, Precision::F32)] {
        for ((name, a), (_, b)) in want.iter().zip(run(backend, None)) {
            assert!(a.same_bits(&b), "{backend:?}: {name}");
        }
        for ((name, a), (_, b)) in run(Backends::Interpreter, Some(vec![])).iter().zip(run(backend, Some(vec![]))) {
            let largest = a.as_f32().iter().fold(1e-6f32, |m, x| m.max(x.abs()));
            let worst = a.as_f32().iter().zip(b.as_f32()).fold(0f32, |m, (x, y)| m.max((x - y).abs()));
            assert!(worst <= 1e-5 * largest, "{backend:?}: {name} off by {worst}");
        }
    }
    // 20,000 rows of 64 elements at each of 20,000 steps would be 100 GB to move.
    let text = "net main(x: f32[T, N]) -> f32[T, N] { let rec s: f32[T, N] = x + 0.5 * delay(s, 20000)\n s }";
    let net = Program::parse("net.snn", text).unwrap().compile(None, &CompileOptions::default()).unwrap();
    let started = std::time::Instant::now();
    let y = net.run(&[("x".into(), Tensor::f32([20_001, 64], vec![1.0; 20_001 * 64]))], &[]).unwrap().outputs.remove(0).1;
    assert_eq!((y.as_f32()[0], y.as_f32()[20_000 * 64]), (1.0, 1.5));
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

/// Nets over `x[T, B, 64]`, with a threshold `k`, in the order of what they have for a piece to carry on.
const LONG: [(&str, bool); 8] = [
    ("x |> a |> if_node(v_threshold = 3.0) |> b |> if_node(v_threshold = 3.0) |> c |> if_node(v_threshold = 3.0)", true),
    // A delay that is longer than a piece and one that is shorter, and a residual sum.
    (
        "let h = x |> a |> if_node(v_threshold = 3.0)\\n    let k = b(delay(h, 70)) + delay(h, 3)\\n    c(if_node(k, v_threshold = 2.0)) + x",
        true,
    ),
    // Thresholds that are the same at all steps, and those that are not.
    (
        "let h = if_node(a(x), v_threshold = abs(k) + 2.0) |> b\\n    let p = if_node(h * mean(x, axis = 2, keep = true))\\n    c(if_node(p)) + k",
        true,
    ),
    // Convolutions and pools over other axes.
    (
        "let h = reshape(if_node(a(x)), [T, B, 4, 4, 4]) |> conv |> if_node |> max_pool2d(2)\\n    c(concat([reshape(h, [T, B, 32]), b(x)[:, :, :32]], axis = 2)) |> if_node",
        true,
    ),
    // What comes after all steps.
    (
        "let h = x |> a |> if_node(v_threshold = 3.0) |> b |> if_node(v_threshold = 3.0) |> c |> if_node(v_threshold = 3.0)\\n    sum(h, axis = 0) + h[T - 1]",
        true,
    ),
    // A running sum ends a part that runs in pieces.
    ("cumsum(x |> a |> if_node(v_threshold = 3.0) |> b |> if_node(v_threshold = 3.0) |> c, axis = 0)", true),
    // Time runs backwards, or steps meet.
    ("let h = a(x)\\n    c(b(h[:1] * h)) + sum(h, axis = 0)", false),
    ("let h = sum(a(x), axis = 0, keep = true)\\n    if_node(b(x) + h)", false),
];

#[test]
fn long_sequences_run_in_pieces() {
    let mut d = Dice(5);
    let weights = ["a", "b", "c"].map(|n| (format!("{n}.weight"), whole_numbers(&mut d, &[64, 64])));
    let weights = weights.into_iter().chain([("conv.weight".to_string(), whole_numbers(&mut d, &[8, 4, 3, 3]))]).collect::<Vec<_>>();
    for (body, in_pieces) in LONG {
        let layers = ["a", "b", "c"].map(|n| format!("    layer {n} = linear(64, 64, bias = false)\n")).concat();
        let conv = if body.contains("conv") { "    layer conv = conv2d(4, 8, 3, padding = 1, bias = false)\n" } else { "" };
        let text = format!("net main(x: f32[T, B, 64], k: f32[64]) {{\n{layers}{conv}    {}\n}}", body.replace("\\n", "\n"));
        let own: Vec<(String, Tensor)> =
            weights.iter().filter(|(n, _)| text.contains(&format!("layer {} ", &n[..n.len() - 7]))).cloned().collect();
        // Parts of samples, on each thread by itself; a sequence that pieces do not divide; samples that cannot be divided.
        for (steps, samples) in [(256i64, 32i64), (331, 16), (256, 1)] {
            let lists = plan(&text, "main", None, &[("T", steps), ("B", samples)]);
            assert_eq!(lists.contains("loop in 2 parts"), in_pieces && samples > 1, "{steps} {samples}\n{text}\n{lists}");
            let shape = [steps as usize, samples as usize, 64];
            let data = vec![("x".to_string(), spikes(&mut d, &shape)), ("k".to_string(), whole_numbers(&mut d, &[64]))];
            agrees(&text, "main", None, &data, &own);
        }
    }
}

/// A norm whose centred and scaled inputs the way back needs.
const NORMED: &str = "net loss(x: f32[T, B, 64], m: f32[256], s: f32[256], b: f32[256], w: f32[256, 64]) -> f32[] {
    let h = (matmul(x, transpose(w)) - m) * s + b
    sum(max(if_node(h, v_threshold = 3.0, surrogate = rect()), axis = 2) * 2.0)
}";

#[test]
fn cheap_values_are_computed_again_on_the_way_back() {
    let wrt = ["m", "s", "b"];
    let lists = plan(NORMED, "loss", Some(&wrt), &[("T", 8), ("B", 32)]);
    // Forward the spikes and a mask of the pool are written. The way back reads the product, and the centred and scaled input and the states nobody.
    let elements = 8 * 32 * 256;
    assert!(lists.lines().any(|l| l.contains("step kernel0") && l.contains(&format!("{} bytes", 4 * elements + elements))), "{lists}");
    assert!(lists.lines().any(|l| l.contains("before as kernel")), "{lists}");
    let mut d = Dice(11);
    let data = ["m", "s", "b"].map(|n| (n.to_string(), whole_numbers(&mut d, &[256])));
    let own = [("x".to_string(), spikes(&mut d, &[8, 32, 64])), ("w".to_string(), whole_numbers(&mut d, &[256, 64]))];
    agrees(NORMED, "loss", Some(&wrt), &data.into_iter().chain(own).collect::<Vec<_>>(), &[]);
}

/// What reads spikes, and whether all of it can read booleans.
const READERS: [(&str, bool); 11] = [
    ("conv(s)", true),
    ("conv(max_pool2d(s, 2))", true),
    ("conv(max_pool2d(s, 3, stride = 2))", true),
    ("conv(max_pool2d(s, 3, stride = 2, padding = 1))", false),
    ("conv(reshape(s, [T * B, 16, 16, 16]))", true),
    ("conv(s[1:] * 2.0 - x[1:])", true),
    ("conv(concat([s[1:], delay(s, 1)[1:]], axis = 1))", false),
    ("conv(concat([s[1:], s[:-1]], axis = 1))", true),
    ("matmul(permute(s, [0, 1, 3, 4, 2]), w)", true),
    ("matmul(flatten(s, start = 2)[:, :, :16], w)", true),
    ("conv(s) + avg_pool2d(s, 1)[:, :, :8]", false),
];

#[test]
fn spikes_are_kept_as_booleans() {
    let mut d = Dice(17);
    let (steps, samples) = (4i64, 8i64);
    let shape = [4, 8, 16, 16, 16];
    let x = ("x".to_string(), Tensor::f32(shape, whole_numbers(&mut d, &shape).as_f32().iter().map(|x| x * 0.5).collect::<Vec<f32>>()));
    let w = ("w".to_string(), whole_numbers(&mut d, &[16, 8]));
    let conv = [("conv.weight".to_string(), whole_numbers(&mut d, &[8, 16, 3, 3]))];
    for (reader, all) in READERS {
        let uses = reader.contains("conv(");
        let layer = if uses { "    layer conv = conv2d(16, 8, 3, padding = 1, bias = false)\n" } else { "" };
        let head = |net: &str, result: &str| format!("net {net}(x: f32[T, B, 16, 16, 16], w: f32[16, 8]) {result}{{\n{layer}");
        let body = format!("    let s = if_node(x, v_threshold = 3.0, surrogate = rect())\n    let y = {reader}\n");
        let text = format!("{}{body}    y\n}}\n{}{body}    sum(y * y)\n}}", head("main", ""), head("loss", "-> f32[] "));
        let lists = plan(&text, "main", None, &[("T", steps), ("B", samples)]);
        // The neuron's kernel writes a byte for each spike, or a float.
        let elements: usize = shape.iter().product();
        let written = format!("{} bytes", if all { elements } else { 4 * elements });
        assert!(lists.lines().any(|l| l.contains("if_node: step kernel") && l.contains(&written)), "{written}\n{text}\n{lists}");
        let own = if uses { &conv[..] } else { &[] };
        agrees(&text, "main", None, &[x.clone(), w.clone()], own);
        let wrt = if uses { ["x", "conv.weight"] } else { ["x", "w"] };
        agrees(&text, "loss", Some(&wrt), &[x.clone(), w.clone()], own);
    }
}

#[test]
fn results_are_written_where_operands_were() {
    // The sums of the product become spikes in the same memory, and these the result.
    let text = "net main(x: f32[T, B, 64], w: f32[64, 256]) -> f32[T, B, 256] {
    if_node(matmul(x, w), v_threshold = 3.0) * 2.0
}";
    let lists = plan(text, "main", None, &[("T", 8), ("B", 32)]);
    assert!(lists.contains(&format!("{} bytes at most", 4 * 8 * 32 * 256)), "{lists}");
    let mut d = Dice(23);
    let data = [("x".to_string(), spikes(&mut d, &[8, 32, 64])), ("w".to_string(), whole_numbers(&mut d, &[64, 256]))];
    agrees(text, "main", None, &data, &[]);
    // A result that is read again, as it is or by another name, keeps its memory.
    let text = "net main(x: f32[T, B, 64], w: f32[64, 256]) -> (a: f32[T, B, 256], b: f32[T, B * 256]) {
    let y = matmul(x, w)
    (if_node(y, v_threshold = 3.0) * 2.0, reshape(y, [T, B * 256]))
}";
    agrees(text, "main", None, &data, &[]);
}

#[test]
fn sums_of_what_a_kernel_computes_are_added_there() {
    // A batch norm's gradients for its parameters, and a loss: of [T, B, C, H, W] over all but C, and over everything.
    let text = "net loss(x: f32[T, B, 8, 16, 20], k: f32[8]) -> f32[] {
    sum(if_node(x * reshape(k, [8, 1, 1]), v_threshold = 3.0, surrogate = rect()) * x)
}";
    let wrt = ["k"];
    let lists = plan(text, "loss", Some(&wrt), &[("T", 4), ("B", 6)]);
    assert!(lists.matches("1 summed").count() == 2 && !lists.contains("reduction sum"), "{lists}");
    let mut d = Dice(29);
    let shape = [4, 6, 8, 16, 20];
    let data = [("x".to_string(), whole_numbers(&mut d, &shape)), ("k".to_string(), whole_numbers(&mut d, &[8]))];
    agrees(text, "loss", Some(&wrt), &data, &[]);
}

#[test]
fn short_runs_are_handled_together() {
    // A neuron with slopes and first membranes of its own kinds: operands that differ along some axes only, some of them in time, one that is spikes.
    let text = "neuron slow(x, s; k = 1.0, start = 0.0) {
    state v = start
    let h = v * k + x
    v = h
    emit spike(h - 1.5, rect()) + s
}
net main(x: f32[T, B, C, N], a: f32[C, 1], b: f32[T, B, 1, 1], c: f32[B, 1, N], d: f32[T, 1, C, 1], k: f32[C, 1]) -> f32[T, B, C, N] {
    let s = if_node(x)
    slow(x * a + b * c, s, k = k, start = a) * d + c
}
net loss(x: f32[T, B, C, N], a: f32[C, 1], b: f32[T, B, 1, 1], c: f32[B, 1, N], d: f32[T, 1, C, 1], k: f32[C, 1]) -> f32[] {
    let y = main(x, a, b, c, d, k)
    sum(y * y)
}";
    let sizes = |c: usize, n: usize| {
        [
            ("x", vec![5, 3, c, n]),
            ("a", vec![c, 1]),
            ("b", vec![5, 3, 1, 1]),
            ("c", vec![3, 1, n]),
            ("d", vec![5, 1, c, 1]),
            ("k", vec![c, 1]),
        ]
    };
    for (c, n, together) in
        [(40, 16, "120 runs of 16 together"), (9, 4, "27 runs of 4 together"), (300, 7, "300 runs of 7 together"), (5, 200, "")]
    {
        let dims = [("T", 5), ("B", 3), ("C", c as i64), ("N", n as i64)];
        let lists = plan(text, "main", None, &dims);
        assert!(if together.is_empty() { !lists.contains("together") } else { lists.contains(together) }, "{lists}");
        let mut d = Dice(31);
        let data: Vec<(String, Tensor)> =
            sizes(c, n).into_iter().map(|(name, shape)| (name.to_string(), whole_numbers(&mut d, &shape))).collect();
        agrees(text, "main", None, &data, &[]);
        agrees(text, "loss", Some(&["x", "a", "b", "c", "d", "k"]), &data, &[]);
    }
}

#[test]
fn gradients_of_pools_are_computed_where_they_are_read() {
    // A pool behind a neuron of spikes or of numbers, with parameters of each channel and without, and one whose gradient two kernels read.
    let nets = [
        ("if_node(x * reshape(k, [8, 1, 1]), v_threshold = 3.0, surrogate = rect())", 1),
        ("if_node(x + k[0], v_threshold = 3.0, surrogate = rect())", 1),
        ("if_node(x, v_threshold = 3.0, surrogate = rect()) * reshape(k, [8, 1, 1])", 1),
        ("x * reshape(k, [8, 1, 1]) + 1", 1),
        ("cumsum(x, axis = 0) * reshape(k, [8, 1, 1])", 1),
        ("cumsum(x, axis = 0)", 0),
    ];
    let pools = ["max_pool2d(2)", "max_pool2d(3, stride = 2, padding = 1)", "max_pool2d([2, 4])", "max_pool2d(1)"];
    for ((inside, joined), pool) in nets.into_iter().flat_map(|net| pools.map(|pool| (net, pool))) {
        let sizes: &[(usize, usize)] =
            if inside.starts_with("x *") && pool == pools[0] { &[(4, 4), (96, 96)] } else { &[(4, 4), (16, 20)] };
        for (height, width) in sizes {
            let text = format!(
                "net loss(x: f32[T, B, 8, {height}, {width}], k: f32[8]) -> f32[] {{
    let y = {inside} |> {pool}
    sum(y * y * 0.5)
}}"
            );
            let wrt = ["x", "k"];
            let lists = plan(&text, "loss", Some(&wrt), &[("T", 3), ("B", 2)]);
            // Planes that are larger than a tile are computed before.
            let joined = if *height == 96 { 0 } else { joined };
            assert_eq!(lists.matches("behind a max pool backward").count(), joined, "{text}\n{lists}");
            let mut d = Dice(41);
            let x = ("x".to_string(), whole_numbers(&mut d, &[3, 2, 8, *height, *width]));
            agrees(&text, "loss", Some(&wrt), &[x, ("k".to_string(), whole_numbers(&mut d, &[8]))], &[]);
        }
    }
}

#[test]
fn exponentials_are_computed_in_rows() {
    // By themselves, of each other, of states, with a choice of either, and beside functions that are not worth doing twice.
    let nets = [
        ("exp(x)", 1),
        ("exp(exp(x * 0.1) - x)", 2),
        ("where(x > 0.5, exp(-x), 1 + exp(x))", 2),
        ("falling(x)", 1),
        ("tanh(x) + erf(x) * exp(x)", 3),
        ("exp(x) * sin(x)", 0),
        ("if_node(x, surrogate = sigmoid()) * exp(x)", 1),
    ];
    let neuron = "neuron falling(x) {\n    state v = 0.5\n    v = exp(-v) + x\n    emit v * 2.0\n}\n";
    for (y, rows) in nets {
        let head = "(x: f32[T, N])";
        let text = format!("{neuron}net main{head} -> f32[T, N] {{ {y} }}\nnet loss{head} -> f32[] {{ let y = {y}\n sum(y * y) }}");
        let code = code(&text, "main", None, &[("T", 3), ("N", 300)]);
        // A row is given by where it is and how long.
        let calls = if code.contains("sig0 = (i64, i64)") { code.matches(" call fn0(").count() } else { 0 };
        assert_eq!(calls, rows, "{y}");
        let mut d = Dice(37);
        for n in [1, 7, 8, 255, 256, 257, 1000] {
            let values = [0.0, -0.0, 1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 88.9, -103.5, 1e-40];
            let any = |d: &mut Dice| if d.roll(20) == 0 { values[d.roll(values.len())] } else { d.tame() };
            let x = ("x".to_string(), Tensor::f32([3, n], (0..3 * n).map(|_| any(&mut d)).collect()));
            agrees(&text, "main", None, std::slice::from_ref(&x), &[]);
            let finite = |x: &f32| if x.is_finite() { *x } else { 1.0 };
            let x = (x.0, Tensor::f32([3, n], x.1.as_f32().iter().map(finite).collect()));
            agrees(&text, "loss", Some(&["x"]), &[x], &[]);
        }
    }
}

#[test]
fn weights_that_a_run_changes_are_not_kept_packed() {
    // A linear layer and a convolution; the weights of both are read in another shape too.
    let text = |updates: &str| {
        format!(
            "graph step {{
  %0 = input x : f32[8, 64]
  %1 = parameter fc : f32[64, 128]
  %2 = contract %0, %1 {{lhs_sum = [1], rhs_sum = [0]}} : f32[8, 128]
  %3 = reshape %2 : f32[8, 8, 4, 4]
  %4 = parameter c : f32[1152]
  %5 = reshape %4 : f32[16, 8, 3, 3]
  %6 = conv %3, %5 {{stride = [1, 1], padding = [1, 1], dilation = [1, 1], groups = 1}} : f32[8, 16, 4, 4]
  %7 = add %1, %1 : f32[64, 128]
  %8 = add %4, %4 : f32[1152]
  return y = %6{updates}
}}"
        )
    };
    for (updates, kept) in [("", 2), ("\n  update fc = %7", 1), ("\n  update c = %8", 1), ("\n  update fc = %7\n  update c = %8", 0)] {
        let graph = snn_ir::text::parse(&text(updates)).unwrap();
        assert_eq!(snn_plan::plan_for_threads(&graph).unwrap().packed, kept, "{updates}");
    }
}

#[test]
fn kernels_that_give_memory_back_come_first() {
    // Each running sum is summed up before the next is made, though the text has all sums at the end.
    let text = "net main(x: f32[N, 256], k: f32[256]) -> f32[] {
    let (a, b, c, d) = (cumsum(x + 1.0, axis = 0), cumsum(x + 2.0, axis = 0), cumsum(x + 3.0, axis = 0), cumsum(x + 4.0, axis = 0))
    sum(a) + sum(b) + sum(c) + sum(d)
}";
    let lists = plan(text, "main", None, &[("N", 256)]);
    let kinds: Vec<bool> =
        lists.lines().filter(|l| l.contains("cumsum:") || l.contains("sum: reduction")).map(|l| l.contains("cumsum:")).collect();
    assert_eq!(kinds, [true, false].repeat(4), "{lists}");
    agrees(
        text,
        "main",
        None,
        &[("x".to_string(), whole_numbers(&mut Dice(2), &[256, 256])), ("k".to_string(), Tensor::zeros(snnc::DType::F32, [256]))],
        &[],
    );
}

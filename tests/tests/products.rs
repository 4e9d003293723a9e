//! How products are computed on request: in the interpreter's order, by one kernel, of operands in bf16.

use snn_tests::Dice;
use snnc::{Backends, CompileOptions, Optimise, ProductKernel, Products, Program, Tensor, Tensors};

/// Programs with products of every kind, whose inputs are `x` and parameters.
const PROGRAMS: [(&str, &[usize]); 7] = [
    (
        "net loss(x: f32[B, 40]) -> f32[] {\n    layer a = linear(40, 33)\n    layer b = linear(33, 5)\n    sum(x |> a |> relu |> b) / 7.0\n}",
        &[9, 40],
    ),
    (
        "net loss(x: f32[B, 3, 11, 9]) -> f32[] {\n    layer a = conv2d(3, 10, 3, padding = 1)\n    layer b = conv2d(10, 16, 3, stride = 2, padding = 1, groups = 2)\n    sum(x |> a |> max_pool2d(2) |> relu |> b) / 7.0\n}",
        &[3, 3, 11, 9],
    ),
    (
        "net loss(x: f32[B, 4, 40]) -> f32[] {\n    layer a = conv1d(4, 9, 5, padding = 2, dilation = 2)\n    sum(tanh(a(x)) * 0.3)\n}",
        &[2, 4, 40],
    ),
    (
        "net loss(x: f32[B, 6, 20, 8]) -> f32[] {\n    let scores = matmul(x, transpose(x)) / 3.0\n    sum(matmul(softmax(scores), x) * x)\n}",
        &[2, 6, 20, 8],
    ),
    (
        "net loss(x: f32[T, B, 70]) -> f32[] {\n    layer a = linear(70, 64)\n    layer b = linear(64, 32)\n    let h = x |> a |> lif(v_threshold = 0.1, surrogate = atan()) |> b |> lif(v_threshold = 0.1, surrogate = atan())\n    sum(h * 0.7)\n}",
        &[5, 6, 70],
    ),
    (
        "net loss(x: f32[T, B, 24]) -> f32[] {\n    layer a = linear(24, 24)\n    let rec h = lif(x + a(delay(h, 1)), v_threshold = 0.3, surrogate = atan())\n    sum(h * 0.7)\n}",
        &[6, 8, 24],
    ),
    ("net loss(x: f32[B, 5, 6, 6]) -> f32[] {\n    layer a = conv_transpose2d(5, 7, 3, stride = 2)\n    sum(sin(a(x)))\n}", &[2, 5, 6, 6]),
];

fn numbers(d: &mut Dice, shape: &[usize], spikes: bool) -> Tensor {
    let n = shape.iter().product();
    Tensor::f32(shape.to_vec(), (0..n).map(|_| if spikes { f32::from(u8::from(d.roll(3) == 0)) } else { d.tame() }).collect())
}

/// The loss with its gradients by the parameters, or by the input.
fn run(text: &str, x: &Tensor, by_input: bool, backend: Backends, products: Products, threads: usize) -> Tensors {
    let program = Program::parse("model.snn", text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let wrt = if by_input { vec!["x".to_string()] } else { vec![] };
    let options = CompileOptions::default().backend(backend).products(products).threads(threads).gradients(wrt).optimise(Optimise::Off);
    let data = [("x".to_string(), x.clone())];
    let run = program.compile(Some("loss"), &options).and_then(|c| c.run(&data, &[]));
    run.unwrap_or_else(|e| panic!("{e}\n{text}")).outputs
}

/// Each program with spikes and with other numbers, differentiated by its parameters, if it has any, and by its input.
fn each(mut act: impl FnMut(&str, &Tensor, bool)) {
    let mut d = Dice(3);
    for (text, shape) in PROGRAMS {
        for (spikes, by_input) in [(false, false), (true, false), (false, true), (true, true)] {
            if by_input || text.contains("layer") {
                act(text, &numbers(&mut d, shape, spikes), by_input);
            }
        }
    }
}

#[test]
fn exact_sums_are_the_interpreters() {
    let exact = Products { kernel: ProductKernel::Exact, bf16: false };
    each(|text, x, by_input| {
        let want = run(text, x, by_input, Backends::Interpreter, Products::default(), 1);
        assert!(want.iter().count() > 1, "{text}");
        for threads in [1, 3] {
            for ((name, got), (_, want)) in run(text, x, by_input, Backends::Cranelift, exact, threads).iter().zip(&want) {
                assert!(got.same_bits(want), "{name}, {threads} threads\n{text}\n{got}\n{want}");
            }
        }
    });
}

/// How far results are apart, of the largest of each.
fn difference(found: &Tensors, want: &Tensors) -> f32 {
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |m, v| if v.is_nan() { f32::NAN } else { m.max(v.abs()) });
    let one = |(a, b): (&Tensor, &Tensor)| {
        let apart = largest(&mut a.as_f32().iter().zip(b.as_f32()).map(|(x, y)| x - y));
        apart / largest(&mut b.as_f32().iter().copied()).max(1e-3)
    };
    largest(&mut found.iter().zip(want).map(|((_, a), (_, b))| one((a, b))))
}

#[test]
fn every_kernel_computes_the_same_but_for_rounding() {
    each(|text, x, by_input| {
        let want = run(text, x, by_input, Backends::Cranelift, Products::default(), 1);
        for kernel in [ProductKernel::Rows, ProductKernel::Dense] {
            let found = run(text, x, by_input, Backends::Cranelift, Products { kernel, bf16: false }, 2);
            let off = difference(&found, &want);
            assert!(off < 1e-4, "{kernel:?}: off by {off}\n{text}");
        }
    });
}

#[test]
fn products_of_bf16_are_near() {
    let bf16 = Products { kernel: ProductKernel::Dense, bf16: true };
    if !snnc::has_bf16() {
        let refused = Program::parse("model.snn", PROGRAMS[0].0).unwrap();
        let error = refused.compile(None, &CompileOptions::default().products(bf16)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("AVX512_BF16"), "{error}");
        eprintln!("SKIPPED: this processor has no products of bf16");
        return;
    }
    let mut rounded = 0;
    // A rounding moves spikes, and which element is the largest: these are left out.
    each(|text, x, by_input| {
        if text.contains("lif") || text.contains("max_pool") {
            return;
        }
        let want = run(text, x, by_input, Backends::Cranelift, Products::default(), 1);
        let found = run(text, x, by_input, Backends::Cranelift, bf16, 1);
        let off = difference(&found, &want);
        assert!(off < 5e-2, "off by {off}\n{text}");
        rounded += usize::from(off > 1e-6);
        // Threads change no bit.
        let threaded = run(text, x, by_input, Backends::Cranelift, bf16, 3);
        assert!(found.iter().zip(&threaded).all(|((_, a), (_, b))| a.same_bits(b)), "{text}");
    });
    assert!(rounded > 5, "{rounded}");
}

//! What runs claim to hold beside inputs and parameters, against what they take: values, what kernels need meanwhile, second copies
//! for candle, and what is kept for the next run. In a file of its own: the allocator counts for the whole process.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use snn_tests::Dice;
use snnc::{Backends, CompileOptions, DeviceName, Mode, Precision, Program, Slice, SliceMut, Tensor, Tensors};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a count of what is held.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is; counting touches no memory that is given out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A name, a program, its inputs with their shapes, and whether it has gradients.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static [usize])], bool);

/// Programs in which one kind of kernel holds the most, with their inputs.
const PROGRAMS: &[Case] = &[
    (
        "neurons",
        "net loss(x: f32[T, N]) -> f32[] { sum(x |> lif() |> delay(1) |> izhikevich(a = 0.3, b = 0.2)) }",
        &[("x", &[64, 4096])],
        true,
    ),
    (
        "products",
        "net loss(x: f32[B, 512]) -> f32[] {\n    layer a = linear(512, 512)\n    layer b = linear(512, 512)\n    sum(relu(b(relu(a(x)))))\n}",
        &[("x", &[512, 512])],
        true,
    ),
    (
        "convolution",
        "net loss(x: f32[B, 8, 32, 32]) -> f32[] {\n    layer c = conv2d(8, 16, 3, padding = 1)\n    sum(relu(c(x)))\n}",
        &[("x", &[32, 8, 32, 32])],
        true,
    ),
    (
        "pools",
        "net loss(x: f32[B, 8, 32, 32]) -> f32[] { sum(max_pool2d(x, 2)) + sum(avg_pool2d(x, 3, stride = 2, padding = 1)) }",
        &[("x", &[32, 8, 32, 32])],
        true,
    ),
    (
        "running_sums",
        "net loss(x: f32[T, N]) -> f32[] { sum(cumsum(x, axis = 0) * x) + f32(sum(argmax(x, axis = 0))) }",
        &[("x", &[256, 1024])],
        true,
    ),
    (
        "movement",
        "net loss(x: f32[A, B, C]) -> f32[] { sum(permute(x, [2, 0, 1]) * 2.0) + sum(concat([x, x], axis = 1)) }",
        &[("x", &[64, 64, 64])],
        true,
    ),
    (
        "recurrent",
        "net loss(x: f32[T, B, 64]) -> f32[] {\n    layer back = linear(64, 64)\n    let rec h = lif(x + back(delay(h, 1)), surrogate = atan())\n    sum(h)\n}",
        &[("x", &[64, 64, 64])],
        true,
    ),
    (
        "long",
        "net main(x: f32[T, B, 64]) -> f32[T, B, 64] {\n    layer a = linear(64, 64)\n    layer b = linear(64, 64)\n    layer c = linear(64, 64)\n    x |> a |> lif |> b |> delay(3) |> lif |> c |> lif\n}",
        &[("x", &[307, 16, 64])],
        false,
    ),
    (
        "integers",
        "net main(x: f32[N, 64], i: i64[M]) -> (a: f32[M, 64], b: i64[N]) { (take(x, i % 64), argmax(x, axis = 1)) }",
        &[("x", &[4096, 64]), ("i", &[4096])],
        false,
    ),
];

/// A published network, the shapes of its data, and how many classes its integers name.
type Network = (&'static str, &'static [(&'static str, &'static [usize])], usize);

/// The networks of the benchmarks, smaller where that is all that differs.
const NETWORKS: &[Network] = &[
    ("dvs_gesture", &[("spikes", &[4, 2, 2, 64, 64]), ("label", &[2])], 11),
    ("shd", &[("spikes", &[50, 32, 700]), ("label", &[32])], 20),
    ("delays", &[("spikes", &[50, 16, 140]), ("label", &[16])], 20),
    ("gpt", &[("tokens", &[64, 4])], 20),
    ("s4d", &[("spikes", &[128, 4, 64]), ("probe", &[128, 4, 64])], 2),
    ("sew_resnet18", &[("x", &[4, 2, 3, 32, 32]), ("probe", &[4, 2, 10])], 2),
    ("spikformer", &[("x", &[1, 3, 32, 32]), ("probe", &[4, 1, 10])], 2),
    ("unet", &[("x", &[4, 1, 1, 64, 64]), ("mask", &[1, 64, 64])], 2),
];

/// Workspaces that threads of `gemm` keep beside all claims, each as large as the L2 cache.
const WORKSPACES: f64 = 3e6;

/// Bytes that three runs take in all, from before the first, and what is claimed.
fn measured_and_claimed(program: &Program, net: Option<&str>, data: &Tensors, options: &CompileOptions) -> (f64, f64) {
    let prepared = program.compile(net, options).unwrap().prepare(data, &[]).unwrap();
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    for _ in 0..3 {
        drop(prepared.run().unwrap());
    }
    ((PEAK.load(Ordering::Relaxed) - before) as f64, prepared.memory() as f64)
}

/// Data for inputs of these shapes; integers are below `classes`, or numbers of nodes.
fn data(inputs: &[(&str, &[usize])], classes: usize) -> Tensors {
    let mut n = Dice(1);
    let of = |(name, shape): &(&str, &[usize])| {
        let len = shape.iter().product();
        let tensor = match *name {
            "label" | "mask" | "tokens" | "i" => Tensor::i64(*shape, (0..len).map(|_| n.roll(classes) as i64).collect()),
            "spikes" => Tensor::f32(*shape, (0..len).map(|_| f32::from(n.roll(5) == 0)).collect()),
            _ => Tensor::f32(*shape, (0..len).map(|_| n.tame()).collect()),
        };
        (if *name == "spikes" { "x" } else { *name }.to_string(), tensor)
    };
    inputs.iter().map(of).collect()
}

const BACKENDS: [Backends; 3] = [Backends::Cranelift, Backends::Candle(DeviceName::Cpu, Precision::F32), Backends::CandleOperations];

/// Tests count for the whole process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The perceptron of the benchmarks and a net with convolutions, delays and a recurrence, step by step: nothing is allocated.
#[test]
fn resident_steps_allocate_nothing() {
    let _alone = ALONE.lock();
    for (text, inputs) in [
        (
            "net main(x: f32[T, B, 784]) {\n    layer a = linear(784, 1024)\n    layer b = linear(1024, 1024)\n    layer c = linear(1024, 10)\n    x |> a |> lif(v_threshold = 0.2) |> b |> lif(v_threshold = 0.2) |> c |> lif(v_threshold = 0.02)\n}",
            784,
        ),
        (
            "net main(x: f32[T, B, 2, 8, 8]) -> (s: f32[T, B, 20], rate: f32[B, 20]) {
    layer c = conv2d(2, 4, 3, padding = 1)
    layer fc = linear(64, 20)
    layer back = linear(20, 20)
    let h = x |> c |> lif(v_threshold = 0.1) |> max_pool2d(2) |> flatten(start = 2) |> delay(2) |> fc
    let rec s: f32[T, B, 20] = lif(h + back(delay(s, 1)), v_threshold = 0.05)
    (s, mean(s, axis = 0))
}",
            128,
        ),
    ] {
        let net = Program::parse("net", text).unwrap().compile(None, &CompileOptions::default()).unwrap();
        let mut resident = net.resident(&[]).unwrap();
        let x: Vec<f32> = (0..inputs).map(|i| f32::from(u8::from(i * 37 % 10 == 0))).collect();
        let mut outputs: Vec<Vec<f32>> = resident.outputs().iter().map(|a| vec![0.0; a.shape.iter().product()]).collect();
        let mut active = 0.0;
        let mut times = Vec::with_capacity(2000);
        for step in 0..2000 {
            let mut writes: Vec<SliceMut<'_>> = outputs.iter_mut().map(|y| SliceMut::from(&mut y[..])).collect();
            let (before, started) = (COUNT.load(Ordering::Relaxed), std::time::Instant::now());
            resident.step(&[Slice::from(&x[..])], &mut writes).unwrap();
            times.push(started.elapsed());
            assert_eq!(COUNT.load(Ordering::Relaxed), before, "step {step}");
            drop(writes);
            active += outputs[0].iter().sum::<f32>();
        }
        assert!(active > 0.0);
        times.sort();
        eprintln!("a step takes {:?}, and {:?} at the 99th percentile", times[1000], times[1980]);
    }
}

#[test]
fn runs_take_what_they_claim() {
    let _alone = ALONE.lock();
    let mut wrong = Vec::new();
    let mut check = |name: &str, gradient: bool, backend: Backends, (measured, claimed): (f64, f64)| {
        println!("{name}, {backend:?}, gradient {gradient}: {:.2} MB are claimed, {:.2} MB are taken", claimed / 1e6, measured / 1e6);
        // What is claimed for spikes and weights packed for them is not taken where there are none, and floats for dense products not where there are.
        let exact = matches!(backend, Backends::Cranelift);
        if measured > 1.1 * claimed + WORKSPACES || exact && claimed > 1.45 * measured + 1e6 {
            wrong.push(format!("{name}, {backend:?}, gradient {gradient}: {claimed} bytes are claimed, {measured} are taken"));
        }
    };
    for (name, text, inputs, has_gradients) in PROGRAMS {
        let program = Program::parse(name, text).unwrap();
        let data = data(inputs, 64);
        let backends = BACKENDS.into_iter().chain((*name != "products" && *name != "convolution").then_some(Backends::Interpreter));
        for backend in backends {
            for gradient in [false, true].into_iter().filter(|g| !g || *has_gradients) {
                let gradients = gradient.then(|| vec!["x".to_string()]);
                let options = CompileOptions::default().threads(1).backend(backend).gradients(gradients).mode(Mode::Train);
                check(name, gradient, backend, measured_and_claimed(&program, None, &data, &options));
            }
        }
    }
    for (name, inputs, classes) in NETWORKS {
        let path = format!("{}/../examples/benchmarks/peers/{name}.snn", env!("CARGO_MANIFEST_DIR"));
        let program = Program::parse(name, &std::fs::read_to_string(path).unwrap()).unwrap();
        let parameters = program.compile(Some("main"), &CompileOptions::default()).unwrap().draw().unwrap();
        let data = data(inputs, *classes);
        for backend in BACKENDS {
            // Gradients by candle's operations alone are slow, and a GPU's own kernels would do most of them.
            let differentiated = !matches!(backend, Backends::CandleOperations);
            for gradient in [false, true].into_iter().filter(|g| !g || differentiated) {
                let gradients = gradient.then(|| parameters.iter().map(|(n, _)| n.clone()).collect());
                let net = if gradient { "loss" } else { "main" };
                let options = CompileOptions::default().threads(2).backend(backend).gradients(gradients);
                check(name, gradient, backend, measured_and_claimed(&program, Some(net), &data, &options));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

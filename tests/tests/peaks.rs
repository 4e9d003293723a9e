//! What a run on the CPU claims to need, against what it takes when its buffers are there: no kernel takes more beside its results. In a file of its own: the allocator counts for the whole process.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use snn_tests::Dice;
use snnc::{Backends, CompileOptions, Mode, Program, Tensor, Tensors};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a count of what is held.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is; counting touches no memory that is given out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
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
        "integers",
        "net main(x: f32[N, 64], i: i64[M]) -> (a: f32[M, 64], b: i64[N]) { (take(x, i % 64), argmax(x, axis = 1)) }",
        &[("x", &[4096, 64]), ("i", &[4096])],
        false,
    ),
];

#[test]
fn runs_take_no_more_than_they_claim() {
    let mut wrong = Vec::new();
    for (name, text, inputs, gradients) in PROGRAMS {
        let program = Program::parse(name, text).unwrap();
        for gradient in [false, true] {
            if gradient && !gradients {
                continue;
            }
            let mut n = Dice(1);
            let data: Tensors = inputs
                .iter()
                .map(|(name, shape)| {
                    let len = shape.iter().product();
                    let tensor = match *name {
                        "i" => Tensor::i64(*shape, (0..len).map(|_| n.roll(64) as i64).collect()),
                        _ => Tensor::f32(*shape, (0..len).map(|_| n.tame()).collect()),
                    };
                    ((*name).to_string(), tensor)
                })
                .collect();
            let wrt = gradient.then(|| vec!["x".to_string()]);
            let options =
                CompileOptions { threads: 1, backend: Backends::Cranelift, gradients: wrt, mode: Mode::Train, ..CompileOptions::default() };
            let prepared = program.compile(None, &options).unwrap().prepare(&data, &[]).unwrap();
            // The first run packs weights and fills the buffers that later runs use again.
            drop(prepared.run().unwrap());
            let before = NOW.load(Ordering::Relaxed);
            PEAK.store(before, Ordering::Relaxed);
            let run = prepared.run().unwrap();
            let measured = PEAK.load(Ordering::Relaxed) - before;
            drop(run);
            let claimed = prepared.memory();
            if measured as f64 > 1.1 * claimed as f64 + 65536.0 {
                wrong.push(format!("{name}, gradient {gradient}: {claimed} bytes are claimed, and {measured} are taken"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

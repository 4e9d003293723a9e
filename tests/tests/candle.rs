//! The candle backend beyond the golden cases: the text of its kernels, its errors, its agreement with machine code.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::Command;

use insta::assert_snapshot;
use snn_c::kernels::{Dialect, module, name};
use snn_plan::step::Initial;
use snn_plan::{Kernel, Plan, plan};
use snn_tests::Dice;
use snnc::{Backends, CompileOptions, DeviceName, Dims, Graph, Mode, Options, Precision, Program, Tensor};

fn graph(text: &str, mode: Mode) -> Graph {
    let dims: Dims = [("T", 7), ("B", 3)].into_iter().map(|(n, v)| (n.to_string(), v)).collect();
    let program = Program::parse("model.snn", text).unwrap();
    program
        .lower(None, &Options { mode, dims: dims.clone(), rest: None, ..Default::default() })
        .unwrap_or_else(|e| panic!("{e}"))
        .bind(&dims)
}

/// Programs whose plans are step kernels only: every function of elements, every neuron, and gradients of some.
fn programs() -> Vec<(String, bool)> {
    let mut list = Vec::new();
    for f in ["exp", "log", "sqrt", "sin", "cos", "tanh", "erf", "abs", "floor", "round", "relu", "sigmoid"] {
        list.push((format!("net main(x: f32[T, B, 5], k: f32[5]) -> f32[T, B, 5] {{ {f}(x * k) }}"), false));
    }
    for e in ["maximum(x, k)", "minimum(x, k)", "x % k", "abs(x) ^ k", "x / 4.0 + x / k", "where(x > k, x, k)", "delay(x, 3)"] {
        list.push((format!("net main(x: f32[T, B, 5], k: f32[5]) -> f32[T, B, 5] {{ {e} + k }}"), false));
    }
    for neuron in [
        "if_node()",
        "lif()",
        "non_spiking_lif()",
        "ilif()",
        "resonate_and_fire()",
        "qif()",
        "eif()",
        "izhikevich(a = 0.3, b = 0.2)",
        "cuba_lif()",
        "ternary_lif()",
        "complementary_lif()",
        "liaf()",
        "lif(v_reset = none, decay_input = false)",
        "lif(v_threshold = abs(k) + 0.5)",
    ] {
        list.push((format!("net main(x: f32[T, B, 5], k: f32[5]) -> f32[T, B, 5] {{ x * k |> {neuron} }}"), false));
    }
    let surrogates = snn_front::STANDARD_LIBRARY.lines().filter_map(|l| l.strip_prefix("surrogate ")?.split('(').next());
    for surrogate in surrogates {
        list.push((format!("net main(x: f32[T, B, 5], k: f32[5]) -> f32[] {{ sum(k * lif(x, surrogate = {surrogate}())) }}"), true));
    }
    list
}

fn numbers(n: usize, dice: &mut Dice) -> Vec<f32> {
    (0..n).map(|_| dice.wild()).collect()
}

/// A C++ function that runs the kernels of a plan in order, over arrays that it reads and writes one after the other.
fn driver(graph: &Graph, plan: &Plan, number: usize) -> Option<String> {
    let mut text = format!("void run{number}(FILE *in, FILE *out) {{\n");
    let count = |v: snn_ir::Value| graph.ty(v).sizes().unwrap().iter().product::<usize>();
    let buffer = |v: snn_ir::Value| format!("b{}_{}", v.node.index(), v.result);
    for v in &graph.inputs {
        let _ = writeln!(text, "  std::vector<float> {0}({1}); fread({0}.data(), 4, {1}, in);", buffer(*v), count(*v));
    }
    for task in &plan.tasks {
        let Kernel::Step(k) = &task.kernel else { return None };
        let written: Vec<_> = k.stores.iter().map(|(v, _)| *v).chain(k.finals.iter().map(|(_, v)| *v)).collect();
        for v in &written {
            let ty = if graph.ty(*v).dtype == snnc::DType::F32 { "float" } else { "unsigned char" };
            let _ = writeln!(text, "  std::vector<{ty}> {}({});", buffer(*v), count(*v));
        }
        let starts = k.initial.iter().filter_map(|i| if let Initial::Load(l) = i { Some(l.source) } else { None });
        let all = k.loads.iter().map(|l| l.source).chain(starts).chain(written);
        let arguments: Vec<String> = all.map(|v| format!("{}.data()", buffer(v))).collect();
        let _ =
            writeln!(text, "  for (unsigned e = 0; e < {}; ++e) LAUNCH(p{number}_{}, {});", k.elements(), name(k), arguments.join(", "));
    }
    for (_, v) in &graph.outputs {
        let _ = writeln!(text, "  fwrite({0}.data(), 4, {1}, out);", buffer(*v), count(*v));
    }
    text.push_str("}\n");
    Some(text)
}

/// What stands for CUDA's and Metal's own words in C++.
const STAND_INS: [(Dialect, &str); 2] = [
    (
        Dialect::Cuda,
        "struct Place { unsigned x; }; static Place blockIdx, blockDim, threadIdx;\n#define __global__ static\n#define __device__\n\
         #define __forceinline__ inline\nstatic int __float_as_int(float x) { int i; memcpy(&i, &x, 4); return i; }\n\
         static float __int_as_float(unsigned i) { float x; memcpy(&x, &i, 4); return x; }\n\
         #define LAUNCH(f, ...) (threadIdx.x = e, f(__VA_ARGS__))\n",
    ),
    (
        Dialect::Metal,
        "#define kernel static\n#define device\ntypedef unsigned uint;\n\
         template <class T, class U> T as_type(U x) { T y; memcpy(&y, &x, 4); return y; }\n\
         namespace metal { using std::fabs; using std::sqrt; using std::floor; using std::rint; }\n\
         #define LAUNCH(f, ...) f(__VA_ARGS__, e)\n",
    ),
];

/// The text of kernels is C++ but for a few words: it is compiled here and computes what the interpreter computes, to the bit.
#[test]
fn generated_text_computes_what_the_interpreter_computes() {
    if Command::new("c++").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no C++ compiler `c++` to compile generated kernels with");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (dialect, stand_ins) in STAND_INS {
        let mut text = format!("#include <cmath>\n#include <cstdio>\n#include <cstring>\n#include <vector>\n{stand_ins}");
        let (mut calls, mut input, mut expected) = (String::new(), Vec::new(), Vec::new());
        let mut dice = Dice(5);
        let mut head = true;
        for (number, (source, differentiate)) in programs().iter().enumerate() {
            let mut graph = graph(source, Mode::Eval);
            if *differentiate {
                graph = snnc::gradients(&graph, &["x".to_string()]).unwrap().graph;
                graph.outputs.retain(|(n, _)| n == "grad.x");
            }
            let graph = graph.pruned();
            let plan = plan(&graph).unwrap();
            let Some(run) = driver(&graph, &plan, number) else { continue };
            let kernels = module(&graph, &plan, dialect).unwrap();
            let at = kernels.find("\n// ").unwrap();
            if std::mem::take(&mut head) {
                text.push_str(&kernels[..at].replace("#include <metal_stdlib>", ""));
            }
            text.push_str(&kernels[at..].replace(" kernel", &format!(" p{number}_kernel")).replace("extern \"C\"", ""));
            text.push_str(&run);
            let _ = writeln!(calls, "  run{number}(in, out);");
            let mut tensors = HashMap::new();
            for v in &graph.inputs {
                let shape = graph.ty(*v).sizes().unwrap();
                let data = numbers(shape.iter().product(), &mut dice);
                input.extend(data.iter().flat_map(|x| x.to_ne_bytes()));
                tensors.insert(graph.input_name(*v).to_string(), Tensor::f32(shape, data));
            }
            let results = snn_ir::interpret(&graph, &tensors, &mut snn_ir::interpret::Randomness::Counter { seed: 0 }).unwrap();
            expected.extend(results.outputs.into_iter().map(|(_, t)| (source.clone(), t)));
        }
        assert!(expected.len() >= 25, "only {} programs are step kernels", expected.len());
        let _ = writeln!(
            text,
            "int main(int, char **v) {{\n  FILE *in = fopen(v[1], \"rb\"), *out = fopen(v[2], \"wb\");\n{calls}  fclose(out);\n}}"
        );
        let path = |ending: &str| folder.path().join(format!("{dialect:?}.{ending}"));
        std::fs::write(path("cpp"), text).unwrap();
        std::fs::write(path("in"), input).unwrap();
        let compile = Command::new("c++")
            .args(["-std=c++17", "-O1", "-ffp-contract=off", "-fwrapv", "-w", "-o"])
            .args([path("exe"), path("cpp")])
            .output()
            .unwrap();
        assert!(compile.status.success(), "{}", String::from_utf8_lossy(&compile.stderr).lines().take(20).collect::<Vec<_>>().join("\n"));
        let ran = Command::new(path("exe")).args([path("in"), path("out")]).status().unwrap();
        assert!(ran.success());
        let bytes = std::fs::read(path("out")).unwrap();
        let mut rest = bytes.as_slice();
        for (source, want) in expected {
            let (own, after) = rest.split_at(want.len() * 4);
            rest = after;
            let got: Vec<f32> = own.chunks(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
            let got = Tensor::f32(want.shape().to_vec(), got);
            assert!(got.same_bits(&want), "{dialect:?}: {source}\n{got}\n{want}");
        }
        assert!(rest.is_empty());
    }
}

/// NVRTC needs no GPU, only its library.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs NVIDIA's compiler library NVRTC"]
fn generated_text_compiles_to_ptx() {
    let mut count = 0;
    for (source, differentiate) in programs() {
        let mut graph = graph(&source, Mode::Eval);
        if differentiate {
            graph = snnc::gradients(&graph, &["x".to_string()]).unwrap().graph;
        }
        let graph = graph.pruned();
        let Some(text) = module(&graph, &plan(&graph).unwrap(), Dialect::Cuda) else { continue };
        let ptx = snn_candle::cuda::compile(&text, "compute_80").unwrap_or_else(|e| panic!("{source}\n{e}"));
        assert!(ptx.contains(".entry kernel0") && !ptx.contains("fma.rn"), "{source}\n{ptx}");
        count += 1;
    }
    assert!(count >= 25);
    let wrong = snn_candle::cuda::compile("extern \"C\" __global__ void kernel0() {\n  int x = nothing;\n}\n", "compute_80")
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("    int x = nothing;"), "{wrong}");
}

/// What a GPU computes in one launch for all steps is what the interpreter computes, to the bit.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn kernels_on_cuda_equal_the_interpreter() {
    let cuda = Backends::Candle(DeviceName::Cuda(0), Precision::F32);
    let mut dice = Dice(3);
    for (source, _) in programs().into_iter().filter(|(_, differentiate)| !differentiate) {
        let program = Program::parse("model.snn", &source).unwrap();
        let data = vec![
            ("x".to_string(), Tensor::f32([7, 3, 5], numbers(105, &mut dice))),
            ("k".to_string(), Tensor::f32([5], numbers(5, &mut dice))),
        ];
        let run = |backend| {
            let options = CompileOptions::default().backend(backend);
            program.compile(None, &options).and_then(|net| net.run(&data, &[])).unwrap_or_else(|e| panic!("{source}\n{e}")).outputs
        };
        let (got, want) = (run(cuda), run(Backends::Interpreter));
        assert!(got[0].1.same_bits(&want[0].1), "{source}\n{}\n{}", got[0].1, want[0].1);
    }
}

#[test]
fn devices_that_cannot_be_used_are_said() {
    let open = |name: &str| {
        let program = Program::parse("model.snn", "net main(x: f32[T]) -> f32[T] { x }").unwrap();
        let backend = name.parse().and_then(|b| {
            let options = CompileOptions::default().backend(b);
            program.compile(None, &options)
        });
        backend.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_snapshot!(open("candle gpu"), @"`gpu` is not a device; there are cpu, cuda, cuda:N, metal and metal:N");
    assert_snapshot!(open("tpu"), @"there is no backend `tpu`: cranelift, interpreter and candle are");
    let without_cuda = snnc::devices().iter().any(|(n, about)| n == "cuda" && about.as_ref().is_err_and(|e| e.contains("built without")));
    if without_cuda {
        assert_snapshot!(open("candle cuda:1"), @"this snnc is built without cuda; build it with `cargo build --release --features cuda`");
    }
    let half = Backends::Candle(DeviceName::Cpu, Precision::F16);
    let program = Program::parse("model.snn", "net main(x: f32[T]) -> f32[T] { x }").unwrap();
    let e = program.compile(None, &CompileOptions::default().backend(half)).err().unwrap();
    assert_snapshot!(e, @"products of 16 bits need a GPU; on the CPU use `--dtype f32`");
}

//! Nets as C, compiled by the machine's `cc` with every warning an error, and as object files, linked by it: equal to the interpreter to the bit.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use snnc::quantise::WeightBits;
use snnc::{Backends, CBuild, CompileOptions, DType, Mode, Program, Tensor, load};

/// Is there a C compiler? Without one these tests say so and pass: they need a tool that the project does not.
fn compiler() -> bool {
    let there = Command::new("cc").arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        eprintln!("SKIPPED: there is no C compiler `cc`");
    }
    there
}

fn bytes(t: &Tensor) -> Vec<u8> {
    match t.data() {
        snn_ir::Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        snn_ir::Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        snn_ir::Data::Bool(v) | snn_ir::Data::U8(v) => v.to_vec(),
    }
}

fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::I64 => "int64_t",
        DType::Bool | DType::U8 => "uint8_t",
    }
}

/// What a net is made into.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    C,
    Object,
    /// For 64-bit Arm, run by QEMU.
    Arm,
}

/// Are a cross compiler and QEMU there for object files of another machine?
fn targets() -> &'static [Target] {
    static THERE: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let runs = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
        let there = runs("aarch64-linux-gnu-gcc") && runs("qemu-aarch64");
        if !there {
            eprintln!("SKIPPED: object files for aarch64, without `aarch64-linux-gnu-gcc` and `qemu-aarch64`");
        }
        there
    });
    if *THERE { &[Target::C, Target::Object, Target::Arm] } else { &[Target::C, Target::Object] }
}

/// Compiles a net with a main function that reads the inputs of `NAME_run` from a file, and gives what it writes.
fn run_c(folder: &Path, built: &CBuild, target: Target, inputs: &[Tensor], outputs: &[Tensor]) -> Result<Vec<u8>, String> {
    std::fs::write(folder.join("net.h"), &built.source.header).unwrap();
    let triple = match target {
        Target::C => None,
        Target::Object => Some(None),
        Target::Arm => Some(Some("aarch64-unknown-linux-gnu")),
    };
    match triple {
        None => std::fs::write(folder.join("net.c"), &built.source.source).unwrap(),
        Some(triple) => std::fs::write(folder.join("net.o"), built.object(triple).map_err(|e| e.to_string())?).unwrap(),
    }
    let mut main = String::from("#include <stdio.h>\n#include \"net.h\"\n");
    let (mut reads, mut writes, mut names) = (String::new(), String::new(), vec![]);
    for (i, t) in inputs.iter().enumerate() {
        let _ = writeln!(main, "static {} in{i}[{}];", c_type(t.dtype()), t.len().max(1));
        let _ = writeln!(reads, "  if (fread(in{i}, sizeof in{i}[0], {}, f) != {}) return 1;", t.len(), t.len());
        names.push(format!("in{i}"));
    }
    for (i, t) in outputs.iter().enumerate() {
        let _ = writeln!(main, "static {} out{i}[{}];", c_type(t.dtype()), t.len().max(1));
        let _ = writeln!(writes, "  fwrite(out{i}, sizeof out{i}[0], {}, g);", t.len());
        names.push(format!("out{i}"));
    }
    let _ = write!(
        main,
        "int main(void) {{\n  FILE *f = fopen(\"in.bin\", \"rb\"), *g = fopen(\"out.bin\", \"wb\");\n  if (!f || !g) return 2;\n{reads}  net_run({});\n{writes}  return fclose(g);\n}}\n",
        names.join(", ")
    );
    std::fs::write(folder.join("main.c"), main).unwrap();
    std::fs::write(folder.join("in.bin"), inputs.iter().flat_map(bytes).collect::<Vec<u8>>()).unwrap();
    let flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wl,--fatal-warnings", "main.c"];
    let compiler = if target == Target::Arm { "aarch64-linux-gnu-gcc" } else { "cc" };
    let file = if target == Target::C { "net.c" } else { "net.o" };
    let linked = if target == Target::Arm { "-static" } else { "-pie" };
    let compiled = Command::new(compiler).args(flags).args([file, linked, "-lm", "-o", "net"]).current_dir(folder).output().unwrap();
    if !compiled.status.success() {
        return Err(String::from_utf8_lossy(&compiled.stderr).lines().take(12).collect::<Vec<_>>().join("\n"));
    }
    let program = folder.join("net");
    let mut command = if target == Target::Arm { Command::new("qemu-aarch64") } else { Command::new(&program) };
    if target == Target::Arm {
        command.arg(&program);
    }
    let ran = command.current_dir(folder).status().unwrap();
    if !ran.success() {
        return Err(format!("it ends with {ran}"));
    }
    Ok(std::fs::read(folder.join("out.bin")).unwrap())
}

/// Builds a net for the sizes of its data, runs it, and says where it is not the interpreter's.
fn difference(program: &Program, seed: u64, data: &[(String, Tensor)], weights: &[(String, Tensor)]) -> Result<bool, String> {
    difference_of(program, CompileOptions::default().seed(seed), data, weights)
}

fn difference_of(
    program: &Program,
    options: CompileOptions,
    data: &[(String, Tensor)],
    weights: &[(String, Tensor)],
) -> Result<bool, String> {
    let options = options.mode(Mode::Eval).backend(Backends::Interpreter);
    let net = program.compile(Some("main"), &options).map_err(|e| e.to_string())?;
    let run = net.run(data, weights).map_err(|e| e.to_string())?;
    let net = program.compile(Some("main"), &options.dims(run.dims.clone())).map_err(|e| e.to_string())?;
    let built = match net.build_c("net", "net.snn", weights) {
        Ok(b) => b,
        Err(e) => return Err(format!("not built: {}", e.to_string().lines().next().unwrap_or_default())),
    };
    let declared = program.signature("main").map_err(|e| e.to_string())?;
    let inputs: Vec<Tensor> =
        declared.iter().filter_map(|(n, t)| data.iter().find(|(k, _)| k == n).map(|(_, x)| snn_data::fit(x, t.dtype).unwrap())).collect();
    let outputs: Vec<Tensor> = run.outputs.iter().map(|(_, t)| t.clone()).collect();
    for target in targets() {
        let folder = tempfile::tempdir().unwrap();
        let got = run_c(folder.path(), &built, *target, &inputs, &outputs).map_err(|e| format!("{target:?}: {e}"))?;
        compare(&got, &run.outputs).map_err(|e| format!("{target:?}: {e}"))?;
    }
    Ok(built.no_steps.is_none())
}

/// Where bytes that a program has written are not these tensors.
fn compare(got: &[u8], outputs: &[(String, Tensor)]) -> Result<(), String> {
    let mut at = 0;
    for (name, want) in outputs {
        let own = &got[at..at + want.byte_len()];
        at += want.byte_len();
        let same = match want.data() {
            snn_ir::Data::F32(v) => own.chunks(4).zip(v.iter()).all(|(b, x)| {
                let y = f32::from_le_bytes(b.try_into().unwrap());
                y.to_bits() == x.to_bits() || y.is_nan() && x.is_nan()
            }),
            _ => own == bytes(want),
        };
        if !same {
            let first: Vec<f32> = own.chunks(4).take(8).filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?))).collect();
            return Err(format!("{name}: {first:?} instead of {want}"));
        }
    }
    Ok(())
}

#[test]
fn golden_nets_are_the_interpreters_to_the_bit() {
    if !compiler() {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "snn"));
    files.sort();
    let (mut failures, mut stepped, mut whole) = (vec![], 0, 0);
    for path in files {
        let about: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path.with_extension("json")).unwrap()).unwrap();
        if about["mode"] == "train" {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let program = Program::parse(&name, &std::fs::read_to_string(&path).unwrap()).unwrap();
        let all = load(path.with_extension("in.safetensors").to_str().unwrap()).unwrap();
        let (data, weights): (Vec<_>, Vec<_>) = all.into_iter().partition(|(n, _)| !n.contains('.'));
        match difference(&program, about["seed"].as_u64().unwrap_or(0), &data, &weights) {
            Ok(true) => stepped += 1,
            Ok(false) => whole += 1,
            Err(e) => failures.push(format!("{name}: {e}")),
        }
    }
    assert!(failures.is_empty(), "{} fail, {stepped} by steps and {whole} as a whole are right:\n{}", failures.len(), failures.join("\n"));
    assert!(stepped > 50, "{stepped}");
}

/// What is run as a whole: a loop, a reduction of several axes, integers, a sequence that needs the future, time behind samples.
#[test]
fn nets_without_steps_are_the_interpreters_too() {
    if !compiler() {
        return;
    }
    for (text, steps) in [
        (
            "net main(x: f32[B, T, 4]) -> (s: f32[B, T, 3], v: f32[B, T, 3]) {
                layer fc = linear(4, 3)
                layer back = linear(3, 3)
                layer n = lif(tau = 1.5, v_threshold = 0.2)
                let h = fc(permute(x, [1, 0, 2]))
                let rec s: f32[T, B, 3] = n(h + back(delay(s, 2)))
                (permute(s, [1, 0, 2]), permute(n.v, [1, 0, 2]))
            }",
            true,
        ),
        (
            "net main(x: f32[T, B, 4]) -> (y: f32[T, B, 4], n: i64[T, B], m: f32[]) {
                let later = concat([x[1:], zeros([1, 2, 4])], axis = 0)
                (softmax(later, axis = 0), argmax(x, axis = -1) * 3 - 7 % (argmax(later, axis = -1) + 1), max(x))
            }",
            false,
        ),
        (
            "net main(x: f32[T, B, 4]) -> f32[T, B, 4] {
                let inner = cumsum(x[::-1], axis = 0)
                exp(inner) + sin(1e6 * x) + tanh(x) * erf(x) + log(abs(x) + 1e-3) + x ^ 3.5 + x % 0.7
            }",
            false,
        ),
        // Transposed convolutions, in groups and over two axes.
        (
            "net main(x: f32[T, B, 4]) -> (y: f32[T, B, 6], z: f32[T, 1, 4, 9]) {
                layer up = conv_transpose1d(2, 4, 3, stride = 2, padding = 1, groups = 2)
                layer plane = conv_transpose2d(1, 1, [2, 3], stride = 2, bias = false)
                (reshape(up(x |> lif())[:, :, 0:3], [T, B, 6]), plane(reshape(x, [T, 1, B, 4])))
            }",
            true,
        ),
        // Random numbers are those of the interpreter, by steps and as a whole.
        ("net main(x: f32[T, B, 4]) { lif(f32(x > rand([T, B, 4]))) }", true),
        ("net main(x: f32[T, B, 4]) { cumsum(x[::-1] + rand([T, B, 4]), axis = 0) }", false),
    ] {
        let program = Program::parse("net.snn", text).unwrap();
        let shape = if text.contains("f32[B, T, 4]") { [2, 6, 4] } else { [6, 2, 4] };
        let x = Tensor::f32(shape, (0..48).map(|i| ((i * 37) % 23) as f32 / 5.0 - 1.0).collect());
        match difference(&program, 5, &[("x".into(), x)], &[]) {
            Ok(stepped) => assert_eq!(stepped, steps, "{text}"),
            Err(e) => panic!("{e}\n{text}"),
        }
    }
}

fn refused(text: &str, dims: &[(&str, i64)]) -> String {
    let dims: snnc::Dims = dims.iter().map(|(n, v)| (n.to_string(), *v)).collect();
    let net = Program::parse("net.snn", text).unwrap().compile(None, &CompileOptions::default().dims(dims)).unwrap();
    match net.build_c("net", "net.snn", &[]) {
        Ok(_) => "no error".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn what_cannot_be_c_is_an_error() {
    assert!(refused("net main(x: f32[T, B, 4]) { lif(x) }", &[]).contains("--dims B="));
    assert!(refused("net main(x: f32[T, B, 4]) { x[0] }", &[("B", 1)]).contains("step by step"));
    let random = refused("net main(x: f32[T, B, 4]) {\n    x + randn([T, B, 4])\n}", &[("B", 1), ("T", 3)]);
    assert!(random.contains("random"), "{random}");
}

/// Integer weights are what the interpreter computes with, and take a quarter.
#[test]
fn integer_weights_are_stored_and_exact() {
    if !compiler() {
        return;
    }
    let text = "net main(x: f32[T, B, 2, 6, 6]) -> (s: f32[T, B, 5], y: f32[T, B, 3]) {
        layer c1 = conv2d(2, 4, 3, stride = 2, padding = 1, groups = 2)
        layer fc = linear(36, 5)
        layer back = linear(5, 5, bias = false)
        layer out = linear(5, 3)
        layer n = lif(tau = 1.5, v_threshold = 0.05)
        let h = x |> c1 |> lif(v_threshold = 0.1) |> flatten(start = 2) |> fc
        let rec s: f32[T, B, 5] = n(h + back(delay(s, 1)))
        (s, out(n.v))
    }";
    let program = Program::parse("net.snn", text).unwrap();
    let x = Tensor::f32([6, 1, 2, 6, 6], (0..432).map(|i| ((i * 37) % 23) as f32 / 9.0 - 1.0).collect());
    for bits in [WeightBits::I8, WeightBits::I16] {
        let options = CompileOptions::default().seed(5).weights_dtype(bits);
        let stepped = difference_of(&program, options.clone(), &[("x".into(), x.clone())], &[]).unwrap_or_else(|e| panic!("{e}"));
        assert!(stepped);
        // The states in fixed point too.
        let fixed = options.states("Q2.5".parse::<snnc::FixedPoint>().unwrap());
        assert_eq!(difference_of(&program, fixed, &[("x".into(), x.clone())], &[]), Ok(true));
    }
    let size = |weights_dtype| {
        let dims = [("B".to_string(), 1)];
        let net = program.compile(None, &CompileOptions::default().dims(dims).weights_dtype(weights_dtype)).unwrap();
        net.build_c("net", "net.snn", &[]).unwrap().source.constants
    };
    // 36 + 180 + 25 + 15 weights; scales and biases are floats.
    assert_eq!(size(None), 4 * (36 + 180 + 25 + 15 + 4 + 5 + 3));
    assert!(size(Some(WeightBits::I8)) <= 36 + 180 + 25 + 15 + 4 * 2 * (4 + 5 + 3) + 4 * 5);
}

/// States in fixed point are integers, floats are written where they were read: neither has a second buffer.
#[test]
fn states_take_what_their_format_does() {
    let build = |text: &str, states: Option<&str>| {
        let options = CompileOptions::default().states(states.map(|s| s.parse::<snnc::FixedPoint>().unwrap()));
        let net = Program::parse("net.snn", text).unwrap().compile(None, &options).unwrap();
        net.build_c("net", "net.snn", &[]).unwrap().source
    };
    // The neuron alone: a state, and no buffer.
    let own = "net main(x: f32[T, 100]) { lif(x) }";
    for (states, bytes, field) in
        [(None, 400, "float"), (Some("Q7.8"), 200, "int16_t"), (Some("Q2.5"), 100, "int8_t"), (Some("Q7.16"), 400, "float")]
    {
        let source = build(own, states);
        assert_eq!(source.memory, bytes, "{states:?}");
        assert!(source.header.contains(&format!("{field} state_lif_v[100]")), "{}", source.header);
    }
    // A state that is also a result is read as floats.
    let shown = "net main(x: f32[T, 100]) -> (s: f32[T, 100], v: f32[T, 100]) {
        layer n = lif(v_reset = 0.25)
        (n(x), n.v)
    }";
    if compiler() {
        for text in [own, shown] {
            let x = Tensor::f32([6, 100], (0..600).map(|i| ((i * 37) % 23) as f32 / 5.0 - 1.0).collect());
            let options = CompileOptions::default().states("Q2.5".parse::<snnc::FixedPoint>().unwrap());
            assert_eq!(difference_of(&Program::parse("net.snn", text).unwrap(), options, &[("x".into(), x)], &[]), Ok(true), "{text}");
        }
    }
}

#[test]
fn lavas_integers_are_the_same_in_c() {
    if !compiler() {
        return;
    }
    let text = "net main(x: f32[T, 8]) -> (s: f32[T, 8], u: f32[T, 8], v: f32[T, 8]) {
    layer n = lava_lif(vth = 90, du = 700, dv = 40, bias_mant = -9, bias_exp = -1)
    let s = n(x)
    (s, n.u, n.v)
}";
    let program = Program::parse("lava.snn", text).unwrap();
    let x: Vec<f32> = (0..800i32).map(|i| ((i * 7919) % 613 - 250) as f32).collect();
    assert_eq!(difference(&program, 0, &[("x".to_string(), Tensor::f32(vec![100, 8], x))], &[]), Ok(true));
}

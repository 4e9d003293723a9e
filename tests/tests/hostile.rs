//! Bad input is an error that says what is wrong, or the right answer: never a panic, a hang or an overflow of the stack.

use snn_tests::Dice;
use snnc::{CompileOptions, Error, Program, Run, Tensor, load};

fn run_with(text: &str, data: &[(&str, Tensor)], options: &CompileOptions) -> Result<Run, Error> {
    let data: Vec<(String, Tensor)> = data.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
    Program::parse("test.snn", text)?.compile(None, options)?.run(&data, &[])
}

fn run(text: &str, data: &[(&str, Tensor)]) -> Result<Run, Error> {
    run_with(text, data, &CompileOptions::default())
}

fn error(text: &str, data: &[(&str, Tensor)]) -> String {
    match run(text, data) {
        Ok(run) => panic!("no error for {text}: {run:?}"),
        Err(e) => e.to_string(),
    }
}

const LIF: &str = "net main(x: f32[T, N]) -> f32[T, N] { x |> lif() }";

#[test]
fn empty_and_broken_files_are_errors() {
    assert!(error("", &[]).contains("no net"));
    assert!(error("// nothing\n", &[]).contains("no net"));
    assert!(error("net main(x: f32[T]) -> f32[T] { x \0 }", &[]).contains("NUL"));
    assert!(error("net main(x: f32[T]) -> f32[T] { }", &[]).contains("no value"));
    assert!(error("net main(x: f32[T]) -> f32[T] { x }\nnet main(x: f32[T]) -> f32[T] { x }", &[]).contains("declared twice"));
    assert!(error("net main(x: f32[T], x: f32[T]) -> f32[T] { x }", &[]).contains("declared twice"));
    assert!(error("net main(x: f32[..., ..., T]) -> f32[T] { x }", &[]).contains("one `...`"));
}

#[test]
fn a_file_of_ten_megabytes_is_read() {
    let mut text = String::from(LIF);
    while text.len() < 10 << 20 {
        text.push_str("\n// and another line of a long comment that says nothing at all, for a whole ten megabytes");
    }
    assert!(run(&text, &[("x", Tensor::f32([1, 1], vec![3.0]))]).is_ok());
}

#[test]
fn deep_nesting_is_an_error_and_deep_nets_run() {
    let nested = format!("net main(x: f32[T]) -> f32[T] {{ {}x{} }}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(error(&nested, &[]).contains("nested"));
    let deep = format!("net main(x: f32[T, N]) -> f32[T, N] {{ x{} }}", " |> delay(0) |> lif()".repeat(2_500));
    let x = Tensor::f32([2, 1], vec![5.0, 5.0]);
    assert!(run(&deep, &[("x", x.clone())]).is_ok());
    let layers: String = (0..2_500).map(|i| format!("let a{} = lif(a{i})\n", i + 1)).collect();
    let named = format!("net main(x: f32[T, N]) -> f32[T, N] {{\nlet a0 = x\n{layers}a2500\n}}");
    assert!(run(&named, &[("x", x.clone())]).is_ok());
    let sum = format!("net main(x: f32[T, N]) -> f32[T, N] {{ {} }}", vec!["x"; 5_000].join(" + "));
    assert_eq!(run(&sum, &[("x", Tensor::f32([1, 1], vec![1.0]))]).unwrap().outputs[0].1.as_f32(), [5_000.0]);
    let endless = "fn f(x) = f(x)\nnet main(x: f32[T]) -> f32[T] { f(x) }";
    assert!(error(endless, &[]).contains("without end"));
    let endless = "net a(x: f32[T]) -> f32[T] { b(x) }\nnet b(x: f32[T]) -> f32[T] { a(x) }";
    assert!(Program::parse("t", endless).unwrap().compile(Some("a"), &CompileOptions::default()).unwrap().run(&[], &[]).is_err());
}

#[test]
fn empty_dimensions_and_single_steps_are_fine() {
    for shape in [[0, 3], [3, 0], [0, 0], [1, 1]] {
        let n = shape[0] * shape[1];
        let out = run(LIF, &[("x", Tensor::f32(shape, vec![2.0; n]))]).unwrap().outputs.remove(0).1;
        assert_eq!(out.shape(), shape);
    }
    let net = "net main(x: f32[T, B, 4]) -> f32[T, B, 3] { layer f = linear(4, 3)\n x |> f |> lif() |> delay(2) }";
    assert_eq!(run(net, &[("x", Tensor::f32([5, 0, 4], vec![]))]).unwrap().outputs[0].1.shape(), [5, 0, 3]);
    let recurrent = "net main(x: f32[T, B, 2]) -> f32[T, B, 2] { let rec h = lif(x + delay(h, 2))\n h }";
    for t in [0, 1, 5] {
        let x = Tensor::f32([t, 1, 2], vec![3.0; 2 * t]);
        assert_eq!(run(recurrent, &[("x", x)]).unwrap().outputs[0].1.shape(), [t, 1, 2]);
    }
}

#[test]
fn data_that_do_not_fit_are_named() {
    assert!(error(LIF, &[]).contains("no size") || error(LIF, &[]).contains("needs the input"));
    assert!(error(LIF, &[("x", Tensor::f32([2], vec![0.0; 2]))]).contains("dimensions"));
    assert!(error("net main(x: i64[T]) -> i64[T] { x }", &[("x", Tensor::f32([1], vec![0.5]))]).contains("exactly"));
    let two = "net main(x: f32[T, N], y: f32[T, N]) -> f32[T, N] { x + y }";
    let message = error(two, &[("x", Tensor::f32([2, 3], vec![0.0; 6])), ("y", Tensor::f32([2, 4], vec![0.0; 8]))]);
    assert!(message.contains("`N` is 3") && message.contains("`y`"), "{message}");
    let arithmetic = "net main(x: f32[2 * C]) -> f32[2 * C] { x }";
    assert!(error(arithmetic, &[("x", Tensor::f32([3], vec![0.0; 3]))]).contains("2 * C"));
    assert_eq!(run(arithmetic, &[("x", Tensor::f32([4], vec![0.0; 4]))]).unwrap().outputs[0].1.shape(), [4]);
    let labels = "net main(l: i64[B]) -> f32[B, 3] { one_hot(l, 3) }";
    let message = error(labels, &[("l", Tensor::i64([2], vec![0, 3]))]);
    assert!(message.contains("label 3 at index 1"), "{message}");
}

/// What is known of a NaN is not news each time that it is looked at: the optimiser comes to an end.
#[test]
fn constants_that_are_not_numbers_are_optimised() {
    let text = "net main(x: f32[3]) -> f32[3] {
    let z = [0.0, 0.0, 0.0]
    let q = z / z
    let y = log([-0.5, 0.0, 1.0] - 1)
    x + q * x + log(q - 1) * (q + q) + where(q == q, q, -q) + y * (y - y)
}";
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(run(text, &[("x", Tensor::f32([3], vec![1.0; 3]))]).map(|r| r.outputs[0].1.to_f32())));
    let out = ended.recv_timeout(std::time::Duration::from_secs(60)).expect("no end after a minute").unwrap();
    assert!(out.iter().all(|x| x.is_nan()));
}

#[test]
fn not_a_number_goes_through() {
    let x = Tensor::f32([2, 2], vec![f32::NAN, f32::INFINITY, 0.0, 5.0]);
    let out = run(LIF, &[("x", x)]).unwrap().outputs.remove(0).1;
    assert_eq!(out.as_f32(), [0.0, 1.0, 0.0, 0.0], "a NaN never fires, and infinity times zero is NaN");
}

#[test]
fn what_does_not_fit_memory_is_refused_before_it_is_tried() {
    let options = CompileOptions::default().memory_limit(1 << 20);
    let big = "net main(x: f32[N]) -> f32[N, N] { reshape(x, [N, 1]) * x }";
    let result = run_with(big, &[("x", Tensor::f32([4096], vec![1.0; 4096]))], &options);
    assert!(matches!(result, Err(Error::Memory { .. })));
    let huge = "net main(x: f32[T]) -> f32[4611686018427387904, 4611686018427387904] { zeros([4611686018427387904, 4611686018427387904]) }";
    let message = error(huge, &[("x", Tensor::f32([1], vec![1.0]))]);
    assert!(message.contains("large") || message.contains("no size"), "{message}");
}

#[test]
fn random_text_never_panics() {
    let words = [
        "net",
        "main",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        "x",
        ":",
        "f32",
        "T",
        ",",
        "|>",
        "lif",
        "=",
        "let",
        "rec",
        "layer",
        "1",
        "-1",
        "0.5",
        "...",
        "\n",
        "state",
        "emit",
        "if",
        "else",
        "none",
        "delay",
        ";",
        "->",
        "/",
        "^",
        "neuron",
        "param",
        "net main(x: f32[T, N]) -> f32[T, N] {",
        "linear(2, 3)",
        "sum(x)",
        "x[0]",
        "@",
        "true",
        "&&",
        "\"",
        "é",
        "//",
    ];
    let mut dice = Dice(1);
    for _ in 0..4_000 {
        let n = dice.roll(24);
        let text: Vec<&str> = (0..n).map(|_| dice.pick(&words)).collect();
        let body = text.join(" ");
        for text in [body.clone(), format!("net main(x: f32[T, N]) -> f32[T, N] {{ {body} }}")] {
            if let Ok(program) = Program::parse("fuzz", &text) {
                let _ = program.check(snnc::Mode::Eval);
            }
        }
    }
}

#[test]
fn files_that_lie_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    std::fs::write(&path, b"PK\x03\x04 this is no archive").unwrap();
    assert!(load(path.to_str().unwrap()).is_err());
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, [0u8; 7]).unwrap();
    assert!(load(path.to_str().unwrap()).is_err());
}

#[test]
fn weights_of_another_net_are_listed() {
    let text = "net main(x: f32[B, 2]) -> f32[B, 1] { layer fc = linear(2, 1, bias = false)\n fc(x) }";
    let net = Program::parse("t", text).unwrap().compile(None, &CompileOptions::default()).unwrap();
    let x = [("x".to_string(), Tensor::f32([1, 2], vec![1.0, 2.0]))];
    let unknown = [("fc1.weight".to_string(), Tensor::f32([1, 2], vec![1.0, 2.0]))];
    let message = net.run(&x, &unknown).unwrap_err().to_string();
    assert!(message.contains("fc1.weight") && message.contains("fc.weight"), "{message}");
    let wrong = [("fc.weight".to_string(), Tensor::f32([2, 1], vec![1.0, 2.0]))];
    let message = net.run(&x, &wrong).unwrap_err().to_string();
    assert!(message.contains("f32[2, 1]") && message.contains("f32[1, 2]"), "{message}");
}

#[test]
fn a_compiled_net_runs_from_several_threads() {
    let net = Program::parse("t", LIF).unwrap().compile(None, &CompileOptions::default()).unwrap();
    let expected = net.run(&[("x".into(), Tensor::f32([3, 100], vec![1.7; 300]))], &[]).unwrap().outputs;
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..20 {
                    let out = net.run(&[("x".into(), Tensor::f32([3, 100], vec![1.7; 300]))], &[]).unwrap().outputs;
                    assert_eq!(out, expected);
                }
            });
        }
    });
}

//! The command as a user types it.

use std::path::PathBuf;
use std::process::{Command, Output};

/// Runs the command from the root of the project.
fn snnc(arguments: &[&str]) -> Output {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new(env!("CARGO_BIN_EXE_snnc")).args(arguments).current_dir(root).env("NO_COLOR", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_digits_are_recognised_as_in_spikingjelly() {
    let out = snnc(&[
        "run",
        "examples/digits/digits.snn",
        "--net",
        "accuracy",
        "--data",
        "examples/digits/test.npz",
        "--weights",
        "examples/digits/digits_csnn.safetensors",
    ]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let accuracy: f64 = text(&out.stdout).trim().parse().unwrap();
    assert!((accuracy - 0.972).abs() < 0.0021, "{accuracy}");
    assert!(text(&out.stderr).contains("1000 samples"), "{}", text(&out.stderr));
}

#[test]
fn pieces_give_what_the_whole_gives() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: &str| folder.path().join(n).to_string_lossy().into_owned();
    let run = |out: &str, more: &[&str]| {
        let path = file(out);
        let mut arguments = vec![
            "run",
            "examples/digits/digits.snn",
            "--net",
            "main",
            "--data",
            "examples/digits/test.npz",
            "--weights",
            "examples/digits/digits_csnn.safetensors",
            "--out",
            &path,
        ];
        arguments.extend(more);
        let out = snnc(&arguments);
        assert!(out.status.success(), "{}", text(&out.stderr));
        snnc::load(&path).unwrap()
    };
    assert_eq!(run("whole.safetensors", &[]), run("pieces.npz", &["--batch", "300", "--threads", "1"]));
}

#[test]
fn benchmark_programs_compile() {
    for (file, dims) in
        [("lif", "T=2,N=8"), ("mlp", "T=2,B=3"), ("csnn", "T=1,B=2"), ("recurrent", "T=3,B=2"), ("delay_chain", "T=9,B=1,N=4")]
    {
        let path = format!("examples/benchmarks/{file}.snn");
        let out = snnc(&["check", &path]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let out = snnc(&["emit", &path, "--stage", "asm", "--dims", dims, "--net", "main"]);
        assert!(out.status.success() && text(&out.stdout).contains("; plan of main"), "{}", text(&out.stderr));
    }
}

#[test]
fn exit_codes_tell_whose_error_it_is() {
    assert_eq!(snnc(&["--help"]).status.code(), Some(0));
    assert_eq!(snnc(&["nonsense"]).status.code(), Some(2));
    assert_eq!(snnc(&["run"]).status.code(), Some(2));
    let out = snnc(&["check", "nowhere.snn"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("nowhere.snn"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.snn");
    std::fs::write(&path, [b'n', 0xff, b't']).unwrap();
    let out = snnc(&["check", path.to_str().unwrap()]);
    assert!(out.status.code() == Some(1) && text(&out.stderr).contains("byte 1"));
}

#[test]
fn formatting_changes_files_in_place_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.snn");
    let name = path.to_str().unwrap();
    std::fs::write(&path, "net main(x:f32[T,N])->f32[T,N]{ // why\nx|>lif()}").unwrap();
    assert_eq!(snnc(&["fmt", "--check", name]).status.code(), Some(1));
    assert!(snnc(&["fmt", name]).status.success());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "net main(x: f32[T, N]) -> f32[T, N] { // why\n    x |> lif()\n}\n");
    assert!(snnc(&["fmt", "--check", name]).status.success());
    // The programs that we ship are in their own layout.
    for file in ["grammar/std.snn", "examples/digits/digits.snn"] {
        let out = snnc(&["fmt", "--check", file]);
        assert!(out.status.success(), "{file}: {}", text(&out.stderr));
    }
}

#[test]
fn initial_weights_are_saved_and_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: &str| folder.path().join(n).to_string_lossy().into_owned();
    let (model, data, weights, a, b) = (file("m.snn"), file("x.safetensors"), file("w.safetensors"), file("a.npz"), file("b.npz"));
    std::fs::write(&model, "net main(x: f32[B, 4]) -> f32[B, 3] {\n    layer fc = linear(4, 3)\n    fc(x)\n}\n").unwrap();
    snnc::save(data.as_ref(), &[("x".into(), snnc::Tensor::f32([1, 4], vec![1.0, 2.0, 3.0, 4.0]))]).unwrap();
    let first = snnc(&["run", &model, "--data", &data, "--seed", "3", "--save-weights", &weights, "--out", &a]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert!(snnc(&["run", &model, "--data", &data, "--weights", &weights, "--out", &b]).status.success());
    assert_eq!(snnc::load(&a).unwrap(), snnc::load(&b).unwrap());
    let other = snnc(&["run", &model, "--data", &data, "--seed", "4", "--out", &b]);
    assert!(other.status.success());
    assert_ne!(snnc::load(&a).unwrap(), snnc::load(&b).unwrap());
}

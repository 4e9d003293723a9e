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

/// One epoch each, of the programs in `examples/zoo`: they learn, or say what they say there.
#[test]
fn the_zoo_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: &str| folder.path().join(n).to_string_lossy().into_owned();
    let data = "examples/digits/test.npz";
    for name in ["spikformer", "snntorch", "eprop", "ann2snn"] {
        let (program, weights) = (format!("examples/zoo/{name}.snn"), file(&format!("{name}.safetensors")));
        let out = snnc(&["train", &program, "--data", data, "--batch", "100", "--epochs", "1", "--lr", "3e-3", "--weights-out", &weights]);
        assert!(out.status.success(), "{name}: {}", text(&out.stderr));
        let loss = text(&out.stderr).split("loss ").nth(1).and_then(|t| t.split([',', '\n']).next().map(str::to_string));
        let loss: f64 = loss.unwrap().trim().parse().unwrap();
        assert!(loss < 2.6, "{name}: {loss}");
    }
    let weights = file("ann2snn.safetensors");
    let out = snnc(&["run", "examples/zoo/ann2snn.snn", "--net", "compare", "--data", data, "--weights", &weights]);
    let said = text(&out.stdout);
    let rates: Vec<f64> = said.lines().filter_map(|l| l.split(": ").nth(1)?.trim().parse().ok()).collect();
    assert!(rates.len() == 2 && (rates[0] - rates[1]).abs() < 0.05 && rates[0] > 0.5, "{said} {}", text(&out.stderr));
    let fields = file("fields.npz");
    let out = snnc(&["run", "examples/zoo/stdp.snn", "--data", data, "--out", &fields]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let fired = snnc::load(&fields).unwrap().into_iter().find(|(n, _)| n == "fired").unwrap().1.to_f32();
    assert_eq!(fired.iter().sum::<f32>(), 4000.0);
    assert!(fired.iter().filter(|n| **n > 20.0).count() > 5, "{fired:?}");
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

#[test]
fn a_net_is_trained_stopped_by_nothing_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: &str| folder.path().join(n).to_string_lossy().into_owned();
    let (weights, log, checkpoints) = (file("w.safetensors"), file("log.jsonl"), file("checkpoints"));
    let train = |more: &[&str]| {
        let common = ["train", "examples/train_digits/mlp.snn", "--data", "examples/digits/test.npz", "--batch", "100"];
        snnc(&[&common[..], more].concat())
    };
    let checkpointed = ["--checkpoint-dir", &checkpoints, "--log", &log, "--validate", "examples/digits/test.npz"];
    let out = train(&[&checkpointed[..], &["--epochs", "1", "--weights-out", &weights]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(
        text(&out.stderr).contains("epoch 1/1: loss 0.") && text(&out.stderr).contains("validation accuracy 0."),
        "{}",
        text(&out.stderr)
    );
    let out = train(&[&checkpointed[..], &["--epochs", "3", "--resume", "--weights-out", &weights]].concat());
    assert!(out.status.success() && text(&out.stderr).starts_with("resumed at epoch 2"), "{}", text(&out.stderr));
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(&log).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[2]["loss"].as_f64() < lines[0]["loss"].as_f64());
    let again = file("again.safetensors");
    let out = train(&["--epochs", "3", "--weights-out", &again]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(snnc::load(&weights).unwrap() == snnc::load(&again).unwrap(), "a resumed training gives other weights");
    let out = snnc(&["run", "examples/train_digits/mlp.snn", "--data", "examples/digits/test.npz", "--weights", &weights]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    for (more, said) in [
        (&["--batch", "1001"][..], "a batch of 1001 is larger than the data set of 1000 samples"),
        (&["--net", "main"][..], "a loss is one number, and `out` is f32[100, 10]"),
        (&["--resume", "--checkpoint-dir", &checkpoints, "--seed", "4"][..], "the checkpoint is of another training: its seed is 0"),
        (&["--resume", "--checkpoint-dir", &file("none")][..], "checkpoint.safetensors"),
        (&["--weights", &file("nothing.npz")][..], "nothing.npz"),
        (&["--weights-out", "no/such/folder/w.safetensors"][..], "there is no folder `no/such/folder`"),
        (&["--lr=-1"][..], "`--lr` is -1"),
        (&["--lr", "fc1.*=-1"][..], "`--lr` is -1"),
        (&["--lr", "1", "--lr", "2"][..], "`--lr` is given as 1 and as 2"),
        (&["--freeze", "conv*"][..], "no parameter fits the pattern `conv*`; there are `fc1.weight`, `fc1.bias`, `fc2.weight`"),
        (&["--keep", "best"][..], "`--keep best` needs `--validate FILE`"),
        (&["--resume", "--checkpoint-dir", &checkpoints, "--freeze", "fc1.*"][..], "its groups is another one"),
        (&["--schedule", "step", "--gamma", "nan"][..], "`--gamma` at least 0"),
        (&["--checkpoint-dir", &checkpoints][..], "is there already"),
        (&["--resume", "--checkpoint-dir", &checkpoints, "--lr", "0.5"][..], "its learning_rate is 0.001"),
        (&["--validate", "examples/digits/test.npz", "--predict", "nobody"][..], "there is no net `nobody`"),
    ] {
        let all: Vec<&str> = if more[0] == "--batch" {
            [&["train", "examples/train_digits/mlp.snn", "--data", "examples/digits/test.npz"], more].concat()
        } else {
            [&["train", "examples/train_digits/mlp.snn", "--data", "examples/digits/test.npz", "--batch", "100"], more].concat()
        };
        let kept = if more.contains(&"--weights-out") { vec![] } else { vec!["--weights-out", &weights] };
        let all = [all, kept].concat();
        let out = snnc(&all);
        assert_eq!(out.status.code(), Some(1), "{more:?}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains(said), "{more:?}: {}", text(&out.stderr));
    }
}

/// Groups of parameters, those that stay, and the end when it becomes no better; a net at rest is best after its first epoch.
#[test]
fn a_training_ends_early_and_keeps_its_best() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: &str| folder.path().join(n).to_string_lossy().into_owned();
    let (data, weights, best, checkpoints) = ("examples/digits/test.npz", file("w.safetensors"), file("best.safetensors"), file("c"));
    let train = |more: &[&str]| {
        let common = ["train", "examples/train_digits/mlp.snn", "--data", data, "--batch", "250", "--validate", data];
        let out = snnc(&[&common[..], more].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stderr).to_string()
    };
    let get = |path: &str, name: &str| snnc::load(path).unwrap().into_iter().find(|(n, _)| n == name).unwrap().1;
    train(&["--epochs", "1", "--weights-out", &weights]);
    let from = ["--weights", &weights, "--weights-out", &best];

    let said = train(&[&from[..], &["--epochs", "9", "--lr", "0", "--patience", "2", "--keep", "best"]].concat());
    assert_eq!(said.matches("epoch ").count() - said.matches("kept: epoch 1,").count(), 3, "{said}");
    assert!(said.contains("validation accuracy has not become better for 2 epochs: training ends"), "{said}");
    for name in ["fc1.weight", "fc2.bias"] {
        assert!(get(&best, name).same_bits(&get(&weights, name)), "{name}");
    }

    let said = train(&[&from[..], &["--epochs", "1", "--freeze", "fc1.*", "--lr", "0.1", "--lr", "*.weight=0"]].concat());
    assert!(!said.contains("kept"), "{said}");
    for name in ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"] {
        assert_eq!(get(&best, name).same_bits(&get(&weights, name)), name != "fc2.bias", "{name}");
    }

    // What was best is known after a resume: a learning rate that ruins the net does not overwrite it.
    let kept = [&from[..], &["--checkpoint-dir", &checkpoints, "--keep", "best"]].concat();
    train(&[&kept[..], &["--epochs", "1"]].concat());
    let good = get(&best, "fc1.weight");
    let said = train(&[&kept[..], &["--epochs", "3", "--resume", "--with-changes", "--lr", "100"]].concat());
    assert!(said.contains("kept: epoch 1,"), "{said}");
    assert!(get(&best, "fc1.weight").same_bits(&good));
}

#[test]
fn layers_that_cannot_learn_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: &str| folder.path().join(n).to_string_lossy().into_owned();
    let program = "net loss(x: u8[B, 28, 28], label: i64[B]) -> f32[] {
        layer fc1 = linear(784, 20)
        layer sn1 = lif(v_threshold = 1000)
        layer fc2 = linear(20, 10)
        layer sn2 = if_node(v_threshold = -1000)
        layer sn3 = lif(v_threshold = 0.05)
        let s = reshape(f32(x) / 255, [B, 784]) |> repeat(3)
        mse_loss(mean(sn2(fc2(sn1(fc1(s)) + sn3(fc1(s)))), axis = 0), one_hot(label, 10))
    }";
    std::fs::write(file("quiet.snn"), program).unwrap();
    let out = snnc(&["train", &file("quiet.snn"), "--data", "examples/digits/test.npz", "--epochs", "1", "--weights-out", &file("w.npz")]);
    let said = text(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("Warning: the layer `sn1` is silent: nothing fires for the first batch"), "{said}");
    assert!(said.contains("Warning: the layer `sn2` is saturated: all neurons fire at every step of the first batch"), "{said}");
    assert!(!said.contains("`sn3`"), "{said}");
}

#[test]
fn gradients_are_written_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.safetensors").to_string_lossy().into_owned();
    let out = snnc(&[
        "grad",
        "examples/train_digits/mlp.snn",
        "--data",
        "examples/digits/test.npz",
        "--wrt",
        "fc2.bias,fc1.weight",
        "--out",
        &path,
    ]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let names: Vec<String> = snnc::load(&path).unwrap().into_iter().map(|(n, _)| n).collect();
    assert!(["loss", "accuracy", "grad.fc2.bias", "grad.fc1.weight"].iter().all(|n| names.iter().any(|m| m == n)), "{names:?}");
    let out = snnc(&["grad", "examples/train_digits/mlp.snn", "--data", "examples/digits/test.npz", "--wrt", "fc3.bias"]);
    assert!(text(&out.stderr).contains("there is no input or parameter `fc3.bias`"), "{}", text(&out.stderr));
}

#[test]
fn the_optimiser_explains_itself() {
    let out = snnc(&["emit", "examples/benchmarks/delay_chain.snn", "--stage", "opt", "--explain"]);
    let said = text(&out.stdout);
    assert!(said.contains("operations 8 -> 1") && said.contains("delay-chain") && said.contains("why value 0 equals"), "{said}");
    let out = snnc(&["emit", "examples/benchmarks/delay_chain.snn", "--stage", "egraph"]);
    assert!(text(&out.stdout).starts_with("digraph egraph"), "{}", text(&out.stdout));
    let out = snnc(&["run", "examples/benchmarks/delay_chain.snn", "--no-opt", "--fast-math"]);
    assert_eq!(out.status.code(), Some(2));
}

/// Answers and errors of sessions, word for word. `SNNC_TRANSCRIPTS=write` writes them anew.
#[test]
fn sessions_answer_as_in_their_transcripts() {
    ["tour", "helpers", "survival", "comfort"].into_iter().for_each(transcript);
}

fn transcript(session: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/transcripts");
    let input = std::fs::File::open(folder.join(format!("{session}.in"))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snnc"));
    let out = command.arg("repl").env("NO_COLOR", "1").current_dir(&folder).stdin(input).output().unwrap();
    for (ending, bytes) in [("out", &out.stdout), ("err", &out.stderr)] {
        let name = format!("{session}.{ending}");
        let path = folder.join(&name);
        if std::env::var("SNNC_TRANSCRIPTS").is_ok_and(|v| v == "write") {
            std::fs::write(&path, bytes).unwrap();
        }
        assert_eq!(text(bytes), std::fs::read_to_string(&path).unwrap(), "{name}");
    }
}

#[test]
fn expressions_are_evaluated_from_the_command_line() {
    let out = snnc(&["eval", "first_spike_index([[0, 1, 1]])", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&text(&out.stdout)).unwrap();
    assert_eq!(value["out"], serde_json::json!({ "type": "bool", "shape": [1, 3], "data": [false, true, false] }));
    let out = snnc(&["eval", "let x = [0.0, 3.0, 0.0]", "lif(x)"]);
    assert!(text(&out.stdout).starts_with("f32[3]\n[0, 1, 0]"), "{}", text(&out.stdout));
    let out = snnc(&["eval", "log(0.0)", "--json"]);
    assert!(text(&out.stdout).contains("\"-inf\""), "{}", text(&out.stdout));
    let out = snnc(&["eval", "x"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("`x` is not known"));
}

#[test]
fn gradients_of_the_benchmarks_compile() {
    for (file, dims) in [("lif", "T=2,N=8"), ("mlp", "T=2,B=3"), ("csnn", "T=1,B=2"), ("recurrent", "T=3,B=2")] {
        let path = format!("examples/benchmarks/{file}.snn");
        let wrt: &[&str] = if file == "lif" { &["--wrt", "x"] } else { &[] };
        let common = ["emit", &path, "--net", "loss", "--mode", "train", "--grad", "--dims", dims];
        for stage in ["grad", "opt", "clif"] {
            let out = snnc(&[&common[..], &["--stage", stage], wrt].concat());
            assert!(out.status.success() && text(&out.stdout).contains("backward_of_"), "{file}, {stage}: {}", text(&out.stderr));
        }
    }
}

#[test]
fn delays_are_learned() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("w.safetensors").to_string_lossy().into_owned();
    let example = "examples/delays/delays.snn";
    assert!(snnc(&["check", example]).status.success());
    let data = ["--data", "examples/delays/train.npz", "--batch", "50", "--lr", "0.05", "--schedule", "cosine", "--weights-out", &weights];
    let out = snnc(&[&["train", example, "--epochs", "8"][..], &data].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let out = snnc(&["run", example, "--net", "accuracy", "--data", "examples/delays/test.npz", "--weights", &weights]);
    let accuracy: f64 = text(&out.stdout).trim().parse().unwrap();
    // One in nine is chance.
    assert!(accuracy > 0.3, "{accuracy}");
    let out = snnc(&["run", example, "--net", "delays", "--weights", &weights]);
    assert!(text(&out.stdout).contains("right_minus_left: f32[18]"), "{}", text(&out.stderr));
}

#[test]
fn pictures_and_traces_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: &str| folder.path().join(n).to_string_lossy().into_owned();
    let model = "net main(x: f32[T, N]) -> (s: f32[T, N], v: f32[T, N]) {\n    layer out = lif()\n    let s = x |> delay(1) |> delay(2) |> out\n    (s, out.v)\n}\n";
    std::fs::write(file("model.snn"), model).unwrap();
    let x: Vec<f32> = (0..200).map(|i| (i % 7) as f32 * 0.4).collect();
    snnc::save(&folder.path().join("x.npz"), &[("x".into(), snnc::Tensor::f32([50, 4], x))]).unwrap();
    let done = |arguments: &[&str]| {
        let out = snnc(arguments);
        assert!(out.status.success(), "{arguments:?}: {}", text(&out.stderr));
        text(&out.stderr)
    };
    let profile =
        done(&["run", &file("model.snn"), "--data", &file("x.npz"), "--out", &file("o.npz"), "--trace", &file("t.json"), "--profile"]);
    assert!(profile.contains("Gop/s") && profile.contains("out: step kernel0"), "{profile}");
    let trace: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file("t.json")).unwrap()).unwrap();
    let event = &trace["traceEvents"][0];
    assert!(event["ph"] == "X" && event["dur"].as_f64().unwrap() > 0.0 && event["args"]["operations"].as_u64().unwrap() > 0, "{trace}");

    done(&["plot", "raster", &file("o.npz"), "-o", &file("r.svg")]);
    done(&["plot", "trace", &file("o.npz"), "--spikes", "s", "--threshold", "1", "--neurons", "0,3", "-o", &file("v.svg")]);
    done(&["plot", "graph", &file("model.snn"), "--operations", "-o", &file("g.svg")]);
    done(&["plot", "graph", &file("model.snn"), "-o", &file("l.svg")]);
    let svg = |n: &str| std::fs::read_to_string(file(n)).unwrap();
    assert!(svg("r.svg").contains("s: 4 neurons, firing rate") && svg("r.svg").contains("neuron"));
    assert!(svg("v.svg").contains("v, neuron 3") && svg("v.svg").contains("#0000FF"));
    // The chain of delays is one after the optimiser.
    let graph = svg("g.svg");
    assert!(graph.contains("as written: 3 operations") && graph.contains("optimised: 2 operations"), "{graph}");
    done(&["plot", "raster", &file("o.npz"), "--names", "s", "-o", &file("r.png")]);
    assert!(std::fs::read(file("r.png")).unwrap().starts_with(b"\x89PNG"));
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file("r.png")).unwrap().permissions()) & 0o400, 0o400);

    for (arguments, said) in [
        (vec!["raster", "o.npz", "-o", "r.gif"], "its name must end in .svg or .png"),
        (vec!["raster", "o.npz", "--names", "q", "-o", "r.svg"], "the file has no tensor `q`; it has s, v"),
        (vec!["trace", "o.npz", "--neurons", "4", "-o", "r.svg"], "there is no neuron 4"),
        (vec!["raster", "x.npz", "-o", "r.svg"], "has no tensor of spikes"),
    ] {
        let own: Vec<String> = arguments.iter().map(|a| if a.contains('.') { file(a) } else { (*a).to_string() }).collect();
        let out = snnc(&[&["plot"], own.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat());
        assert!(!out.status.success() && text(&out.stderr).contains(said), "{}", text(&out.stderr));
    }
}

#[test]
fn candle_is_one_flag_away() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: &str| folder.path().join(n).to_string_lossy().into_owned();
    std::fs::write(file("model.snn"), "net main(x: f32[T, N]) -> f32[] {\n    layer fc = linear(N, 3)\n    sum(lif(fc(x)))\n}\n").unwrap();
    snnc::save(&folder.path().join("x.npz"), &[("x".into(), snnc::Tensor::f32([6, 2], vec![1.5; 12]))]).unwrap();
    let run = |more: &[&str]| snnc(&[&["run", &file("model.snn"), "--data", &file("x.npz")], more].concat());
    let (own, candle) = (run(&[]), run(&["--backend", "candle", "--device", "cpu"]));
    assert!(own.status.success() && candle.status.success(), "{}", text(&candle.stderr));
    assert_eq!(text(&own.stdout), text(&candle.stdout));
    for more in [["--exact"].as_slice(), &["--kernel", "rows"], &["--kernel", "dense"], &["--backend", "interpreter", "--exact"]] {
        assert_eq!(text(&own.stdout), text(&run(more).stdout), "{more:?}");
    }
    for (more, said) in [
        (vec!["--device", "metal"], "`--device` is for `--backend candle`"),
        (vec!["--dtype", "f16"], "`--dtype f16` is for `--backend candle`, and `bf16` for that and for `cranelift`"),
        (vec!["--backend", "candle", "--exact"], "`--kernel` and `--exact` are for `--backend cranelift`"),
        (vec!["--backend", "interpreter", "--kernel", "rows"], "`--kernel` and `--exact` are for `--backend cranelift`"),
        (vec!["--kernel", "rows", "--exact"], "cannot be used with"),
        (vec!["--dtype", "bf16", "--exact"], "`--exact` computes in f32: leave out `--dtype bf16`"),
        (vec!["--backend", "candle", "--dtype", "f16"], "products of 16 bits need a GPU"),
        (vec!["--backend", "candle", "--device", "gpu"], "`gpu` is not a device; there are cpu, cuda, cuda:N, metal and metal:N"),
        (vec!["--backend", "candle", "--device", "metal:7"], "metal"),
    ] {
        let out = run(&more);
        assert!(!out.status.success() && text(&out.stderr).contains(said), "{more:?}: {}", text(&out.stderr));
    }
    let devices = snnc(&["devices"]);
    assert!(text(&devices.stdout).starts_with("cpu: "), "{}", text(&devices.stdout));
    let grad = snnc(&["grad", &file("model.snn"), "--data", &file("x.npz"), "--backend", "candle"]);
    assert!(text(&grad.stdout).contains("grad.fc.weight"), "{}", text(&grad.stderr));
    let plan = snnc(&["emit", &file("model.snn"), "--stage", "candle", "--dims", "T=6,N=2"]);
    assert!(text(&plan.stdout).contains("__global__ void kernel0"), "{}", text(&plan.stderr));
}

/// Each stage of the compiler, every diagnostic and every rule of the optimiser: `BLESS=1` writes what is expected anew.
#[test]
fn file_tests_are_as_expected() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let folders = ["tests/filetests", "examples/file_tests"].map(|f| format!("{root}/{f}"));
    let bless = std::env::var_os("BLESS").map(|_| "--bless");
    let output = snnc(&["test", &folders[0], &folders[1]].into_iter().chain(bless).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn file_tests_fail_with_a_difference_and_are_blessed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snn");
    let file = path.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let out = snnc(arguments);
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    std::fs::write(&path, "net main(x: f32[N]) -> f32[N] { x * 2.0 }\n").unwrap();
    let (code, _, said) = run(&["test", file]);
    assert!(code == Some(1) && said.contains("has no test"), "{said}");
    std::fs::write(&path, "net main(x: f32[N]) -> f32[N] { x * 2.0 }\n\n// test: run --input x=[1.5]\n").unwrap();
    let (code, _, said) = run(&["test", file]);
    assert!(code == Some(1) && said.contains("a.snn:3") && said.contains("--bless"), "{said}");
    let (code, said, _) = run(&["test", "--bless", file]);
    assert!(code == Some(0) && said.contains("1 file changed"), "{said}");
    let blessed = std::fs::read_to_string(&path).unwrap();
    assert!(blessed.ends_with("// f32[1]\n// [3.0000]\n"), "{blessed}");
    assert_eq!(run(&["test", file]).0, Some(0));
    std::fs::write(&path, blessed.replace("3.0000", "4.0000")).unwrap();
    let (code, _, said) = run(&["test", file]);
    assert!(code == Some(1) && said.contains("-[4.0000]") && said.contains("+[3.0000]"), "{said}");
    // A command that is none stops, and a folder without tests is not a success.
    std::fs::write(&path, "net main(x: f32[N]) -> f32[N] { x }\n\n// test: fly\n// high\n").unwrap();
    let (code, _, said) = run(&["test", file]);
    assert!(code == Some(1) && said.contains("fly"), "{said}");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(run(&["test", folder.path().to_str().unwrap()]).0, Some(1));
}

#[test]
fn every_pass_can_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loss.snn");
    let program = "net loss(x: f32[B, 3]) -> f32[] {\n    layer fc = linear(3, 2)\n    sum(lif(fc(x)))\n}\n";
    std::fs::write(&path, program).unwrap();
    let file = path.to_str().unwrap();
    for pass in snnc::PASSES {
        let out = snnc(&["emit", file, "--after", pass.name, "--mode", "train", "--optimizer", "adam", "--dims", "B=4", "--verify"]);
        assert!(out.status.success() && !out.stdout.is_empty(), "{}: {}", pass.name, text(&out.stderr));
        let said = text(&out.stdout);
        assert_eq!(said.contains("update fc.weight"), matches!(pass.name, "update" | "optimise"), "{}\n{said}", pass.name);
    }
    let out = snnc(&["emit", file, "--after", "sleep"]);
    assert!(out.status.code() == Some(2) && text(&out.stderr).contains("differentiate"), "{}", text(&out.stderr));
}

#[test]
fn what_looks_like_a_mistake_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = |n: &str| folder.path().join(n).to_string_lossy().into_owned();
    std::fs::write(file("m.snn"), "net main(x: f32[T, N]) { x |> lif }\n").unwrap();
    snnc::save(&folder.path().join("x.npz"), &[("x".into(), snnc::Tensor::f32([2, 3], vec![1.0, 2.0, 3.0, f32::NAN, 1.0, f32::NAN]))])
        .unwrap();
    let out = snnc(&["run", &file("m.snn"), "--data", &file("x.npz"), "--dims", "Q=7", "--out", &file("o.npz")]);
    assert!(out.status.success());
    let said = text(&out.stderr);
    assert!(said.contains("holds NaN, first at [1, 0]"), "{said}");
    assert!(said.contains("no input of `main` has a dimension `Q` (`--dims`); they have N, T"), "{said}");
    // Rows of a profile say their layers, and rates are those of all steps of a loop.
    std::fs::write(
        file("loop.snn"),
        "net main(x: f32[T, B, 4]) -> f32[T, B, 4] {\n    layer fc = linear(4, 4)\n    layer out = lif()\n    let h = fc(x)\n    let rec s: f32[T, B, 4] = out(h * 6.0 + delay(s, 1))\n    s\n}\n",
    )
    .unwrap();
    let x = (0..40 * 2 * 4).map(|i| (i * 7 % 13) as f32 * 0.3).collect();
    snnc::save(&folder.path().join("y.npz"), &[("x".into(), snnc::Tensor::f32([40, 2, 4], x))]).unwrap();
    let out = snnc(&["run", &file("loop.snn"), "--data", &file("y.npz"), "--profile", "--out", &file("p.npz")]);
    let said = text(&out.stderr);
    assert!(said.contains("fc: contract: product"), "{said}");
    let spikes = snnc::load(&file("p.npz")).unwrap()[0].1.to_f32();
    let rate = spikes.iter().sum::<f32>() / spikes.len() as f32;
    let row = said.lines().find(|l| l.contains("out: step")).unwrap_or_else(|| panic!("{said}"));
    assert!(rate > 0.0 && row.contains(&format!("{rate:.4}")), "{rate}: {row}");
}

/// Ctrl-C ends a command with what it has, and with the exit code of shells.
#[test]
#[cfg(unix)]
fn an_interrupted_command_says_what_it_has() {
    use std::process::Stdio;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.snn");
    std::fs::write(&file, "net main() -> f32[] { sum(lif(ones([1000, 8]))) }\n// test: run\n").unwrap();
    let path = file.display().to_string();
    assert!(snnc(&["test", "--bless", &path]).status.success());
    let tests = vec![path.as_str(); 20_000];
    for (arguments, has) in [(vec!["bench", "--repeats", "100000000", &path], "run "), ([vec!["test"], tests].concat(), "")] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_snnc"));
        let child = child.args(&arguments).env("NO_COLOR", "1").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert!(said.contains("interrupted after "), "{}: {said}", arguments[0]);
        assert!(text(&output.stdout).contains(has));
        assert_eq!(output.status.code(), Some(130), "{said}");
    }
}

#[test]
fn nets_are_built_as_c_and_as_object_files() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("net.snn"), folder.path().join("out"));
    std::fs::write(&file, "net main(x: f32[T, 4]) -> f32[T, 4] { lif(x) }").unwrap();
    let build = |more: &[&str]| {
        let own = [&["build", file.to_str().unwrap(), "-o", out.to_str().unwrap()], more].concat();
        snnc(&own)
    };
    assert!(build(&[]).status.success());
    assert!(std::fs::read_to_string(out.join("net.c")).unwrap().contains("void net_step("));
    for (triple, magic) in [
        ("x86_64-unknown-linux-gnu", &b"\x7fELF\x02\x01"[..]),
        ("aarch64-unknown-linux-gnu", b"\x7fELF\x02\x01"),
        ("aarch64-apple-darwin", b"\xcf\xfa\xed\xfe"),
        ("x86_64-pc-windows-msvc", b"\x64\x86"),
    ] {
        assert!(build(&["--target", "object", "--triple", triple]).status.success(), "{triple}");
        let object = std::fs::read(out.join("net.o")).unwrap();
        assert!(object.starts_with(magic) && object.windows(8).any(|w| w == b"net_step"), "{triple}");
    }
    // What cannot be made leaves what was there.
    let before = std::fs::read(out.join("net.o")).unwrap();
    for (more, said) in [
        (&["--target", "object", "--triple", "thumbv7em-none-eabi"][..], "there are x86_64 and aarch64; for others, `--target c`"),
        (&["--target", "object", "--triple", "nonsense"], "no object file can be made for `nonsense`"),
        (&["--triple", "x86_64-unknown-linux-gnu"], "`--triple` is for `--target object`"),
    ] {
        let failed = build(more);
        assert_eq!(failed.status.code(), Some(1), "{more:?}");
        assert!(text(&failed.stderr).contains(said), "{}", text(&failed.stderr));
    }
    assert_eq!(std::fs::read(out.join("net.o")).unwrap(), before);
}

/// What a script of `examples` that needs `cc` says; nothing without one, where its test says so and passes.
fn example_with_cc(path: &str) -> Option<String> {
    if Command::new("cc").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no C compiler `cc`");
        return None;
    }
    let script = format!("{}/../../examples/{path}", env!("CARGO_MANIFEST_DIR"));
    let out = Command::new("bash").arg(script).env("SNNC", env!("CARGO_BIN_EXE_snnc")).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    Some(text(&out.stdout))
}

/// Its last part needs a compiler and an emulator of a Cortex-M, which it says itself.
#[test]
fn a_sensor_is_followed_to_the_chip() {
    let Some(said) = example_with_cc("sensor/run.sh") else { return };
    let recognised: Vec<u32> = said.lines().filter_map(|l| l.strip_suffix(" of 40 recordings")?.parse().ok()).collect();
    assert!(!recognised.is_empty() && recognised.iter().all(|n| *n >= 36), "{said}");
    assert!(said.contains("SKIPPED") || said.contains("both are equal"), "{said}");
}

#[test]
fn an_object_file_is_linked() {
    let Some(said) = example_with_cc("object/run.sh") else { return };
    assert!(said.ends_with("step 0: 0 0\nstep 1: 1 0\nstep 2: 0 0\nstep 3: 0 0\nstep 4: 1 1\n"), "{said}");
}

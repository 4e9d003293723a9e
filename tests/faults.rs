//! Faults that other people's problems found, each one of a kind: programs and data in `tests/cases`, and the right answer, which is
//! that of PyTorch, of SpikingJelly or of the definition; or an error that says what is wrong.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use snnc::Tensor;

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases").join(case)
}

/// Runs the command in the folder of a case; `OUT` in the arguments is a file that is made.
fn run(case: &str, arguments: &str) -> (Output, Vec<(String, Tensor)>) {
    let made = tempfile::tempdir().unwrap();
    let out = made.path().join("out.safetensors");
    let arguments: Vec<String> = arguments.split_whitespace().map(|a| a.replace("OUT", out.to_str().unwrap())).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_snnc")).args(&arguments).current_dir(folder(case)).output().unwrap();
    let tensors = if out.exists() { snnc::load(out.to_str().unwrap()).unwrap() } else { vec![] };
    (output, tensors)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The command fails with exit code 1 and says this.
fn refuses(case: &str, arguments: &str, said: &str) {
    let (output, tensors) = run(case, arguments);
    assert_eq!(output.status.code(), Some(1), "{case}: {}", errors(&output));
    assert!(errors(&output).contains(said), "{case}: {}", errors(&output));
    assert!(tensors.is_empty(), "{case} has written something");
}

/// The command works and gives these numbers.
fn gives(case: &str, arguments: &str, name: &str, want: &[f32]) {
    let (output, tensors) = run(case, arguments);
    assert!(output.status.success(), "{case}: {}", errors(&output));
    let found = tensors.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{case} gives no {name}"));
    let got = found.1.to_f32();
    assert_eq!(got.len(), want.len(), "{case}: {got:?}");
    for (a, b) in got.iter().zip(want) {
        assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()) || a.is_nan() && b.is_nan(), "{case}: {got:?}, not {want:?}");
    }
}

#[test]
fn derivatives_do_not_overflow() {
    gives("A1_sigmoid_grad", "grad m.snn --data d.safetensors --wrt x --out OUT", "grad.x", &[0.0, 0.0, 0.0, 0.25]);
    gives("A3_complementary_lif", "grad m.snn --data d.safetensors --wrt x --out OUT", "grad.x", &[0.0, 0.0, 0.0]);
}

#[test]
fn norms_need_two_values_and_move_their_buffers_in_order() {
    let train = "train m.snn --data d.safetensors --epochs 2 --batch 3 --weights-out OUT";
    refuses("B1_bn_last_batch_of_one", train, "more than one value for each channel");
    let train = "train m.snn --net loss --data d.safetensors --epochs 1 --batch 9 --shuffle false --lr 0 --weights-out OUT";
    gives("B3_bn_shared_twice", train, "bn.running_mean", &[0.36231, 0.30225, 0.09534, 0.19904]);
    gives("B3_bn_shared_twice", train, "bn.running_var", &[1.61175, 1.92276, 1.83646, 1.85428]);
}

#[test]
fn losses_take_the_shapes_that_pytorch_takes() {
    for case in ["C1_ce_label_column", "C3_ce_one_label"] {
        refuses(case, "run m.snn --data d.safetensors --out OUT", "`cross_entropy` takes scores [..., C] and a label for each row");
    }
}

#[test]
fn pieces_of_a_batch_are_the_whole_or_refused() {
    let case = "D1_batch_poisson";
    let whole = run(case, "run m.snn --data d.safetensors --out OUT").1;
    for backend in ["cranelift", "interpreter", "candle"] {
        let pieces = run(case, &format!("run m.snn --data d.safetensors --batch 2 --backend {backend} --out OUT")).1;
        assert!(whole[0].1.same_bits(&pieces[0].1), "{backend}");
    }
    refuses("D2_batch_mean_over_B", "run m.snn --data d.safetensors --batch 2 --out OUT", "do not stay apart");
    refuses("D5_batch_bn_train", "run m.snn --mode train --data d.safetensors --batch 2 --out OUT", "do not stay apart");
    refuses("hostile", "run 09_batch_mixes.snn --data x=09_x.npy --batch 1 --out OUT", "do not stay apart");
}

#[test]
fn functions_are_right_far_out() {
    gives("E1_remainder_large", "run m.snn --data d.safetensors --out OUT", "out", &[4.0, 2.444_961, 0.297_364_3]);
    gives("M1_cumsum_long", "run m.snn --data d.safetensors --out OUT", "out", &[49_817.363]);
    for backend in ["cranelift", "interpreter", "candle"] {
        gives("M2_sin_large", &format!("run m.snn --data d.safetensors --backend {backend} --out OUT"), "out", &[-0.349_993, -0.487_506]);
    }
    gives("M4_clamp_bound_grad", "grad m.snn --data d.safetensors --wrt x --out OUT", "grad.x", &[0.0, 0.0, 1.0]);
}

#[test]
fn learned_delays_are_numbers() {
    let run = "run m.snn --data d.safetensors --weights w.safetensors --out OUT";
    gives("F1_gaussian_delay_beyond_max", run, "out", &[0.106_479, 0.0, 0.893_257, 0.0, 0.999_736, 0.0]);
    gives("F3_gaussian_small_sigma", run, "out", &[0.5, 0.5, 0.0]);
}

#[test]
fn weights_are_whole() {
    refuses("G1_missing_key", "run m.snn --data d.safetensors --weights w.safetensors", "`--partial`");
    assert!(run("G1_missing_key", "run m.snn --data d.safetensors --weights w.safetensors --partial").0.status.success());
    refuses("G2_npz_without_arrays", "run m.snn --data d.safetensors --weights w.npz", "holds no array");
}

#[test]
fn files_are_read_as_far_as_they_are_asked_for() {
    refuses("H1_npz_bad_crc", "run m.snn --data d.npz --out OUT", "checksum");
    refuses("hostile", "run 17_id.snn --data 17_bad_crc.npz --out OUT", "checksum");
    assert!(run("H2_npz_bomb", "run m.snn --data d.npz --memory-limit 50M --out OUT").0.status.success());
    for case in ["H3_npz_unused_string", "H5_npz_f16"] {
        gives(case, "run m.snn --data d.npz --out OUT", "out", &[0.5, 1.5, 2.5, 3.5, 4.5, 5.5]);
    }
    refuses("H7_positional_savez", "run m.snn --data d.npz", "the data hold: arr_0");
    refuses("N1_npy_header_nested", "run m.snn --data x=d.npy", "a record");
}

#[test]
fn pools_select_and_do_not_multiply() {
    let want = [f32::NAN, 0.916_667, 0.444_444, 1.111_111, 1.083_333, 1.333_333, 0.888_889, 0.833_333, 1.0];
    gives("I1_adaptive_nan_spreads", "run m.snn --data d.safetensors --out OUT", "out", &want);
    refuses("I3_maxpool_padding_too_large", "run m.snn --data d.safetensors --out OUT", "at most half of its kernel");
    let mut want = [0.0; 16];
    [0, 1, 4, 5].into_iter().for_each(|i| want[i] = 1.0);
    for backend in ["cranelift", "interpreter", "candle"] {
        let grad = format!("grad m.snn --data d.safetensors --wrt x --backend {backend} --out OUT");
        gives("I4_maxpool_neginf_grad", &grad, "grad.x", &want);
    }
    gives("J1_dropout_p", "run m.snn --mode train --data d.safetensors --out OUT", "out", &[0.0; 4]);
}

#[test]
fn metrics_are_means_over_samples() {
    let train = "train m.snn --data d.safetensors --epochs 1 --batch 2 --shuffle false --lr 0 --weights-out OUT";
    let (output, _) = run("L1_epoch_metric", train);
    assert!(errors(&output).contains("accuracy 0.4286"), "{}", errors(&output));
    let train = "train m.snn --data d.safetensors --epochs 1 --batch 7 --weights-out OUT";
    assert!(errors(&run("L2_time_first_data", train).0).contains("cut along `B`, dimension 1"));
}

#[test]
fn noise_in_a_neuron_is_new_at_every_step() {
    for backend in ["cranelift", "interpreter", "candle"] {
        let (output, tensors) = run("models", &format!("run 1_frozen_noise.snn --data x.npz --backend {backend} --out OUT"));
        assert!(output.status.success(), "{}", errors(&output));
        let mut values: Vec<u32> = tensors[0].1.to_f32().iter().map(|x| x.to_bits()).collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), tensors[0].1.len(), "{backend}: the noise repeats itself");
    }
    refuses("models", "check 2_internal_error.snn", "write `randn([])`");
}

#[test]
fn what_runs_is_accepted_by_check() {
    assert!(run("models", "check 4_check_rejects.snn").0.status.success());
    assert!(run("models", "run 4_check_rejects.snn --data p.npz").0.status.success());
}

/// Every program ends soon, with an answer or an error, and never because of us.
#[test]
fn no_program_hangs_or_crashes() {
    let mut programs: Vec<PathBuf> = std::fs::read_dir(folder("hostile")).unwrap().map(|e| e.unwrap().path()).collect();
    programs.retain(|p| p.extension().is_some_and(|e| e == "snn"));
    programs.sort();
    assert!(programs.len() > 20);
    for program in programs {
        let name = program.file_name().unwrap().to_str().unwrap();
        let started = Instant::now();
        let (check, _) = run("hostile", &format!("check {name}"));
        assert!(matches!(check.status.code(), Some(0 | 1)), "{name}: {}", errors(&check));
        assert!(!errors(&check).contains("defect"), "{name}: {}", errors(&check));
        let copy = tempfile::tempdir().unwrap();
        let file = copy.path().join("m.snn");
        std::fs::copy(&program, &file).unwrap();
        let formatted = run("hostile", &format!("fmt {}", file.display())).0;
        assert!(matches!(formatted.status.code(), Some(0 | 1)), "{name}: {}", errors(&formatted));
        if formatted.status.success() {
            let again = run("hostile", &format!("fmt --check {}", file.display())).0;
            assert!(again.status.success(), "{name} is formatted differently the second time");
        }
        assert!(started.elapsed() < Duration::from_secs(40), "{name} takes too long");
    }
}

#[test]
fn integers_are_exact_or_refused() {
    let eval = |e: &str| {
        let out = Command::new(env!("CARGO_BIN_EXE_snnc")).args(["eval", "--", e]).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &errors(&out))
    };
    for (e, want) in [
        ("sum(range(0, 5000))", "12497500"),
        ("9223372036854775807 % 10", "7"),
        ("9007199254740993 > 9007199254740992", "true"),
        ("-7 div 2", "-4"),
        ("-7 % 2", "1"),
    ] {
        let (code, text) = eval(e);
        assert!(code == Some(0) && text.contains(want), "{e}: {text}");
    }
    for e in ["9223372036854775807 + 1", "(-9223372036854775807 - 1) / -1", "2 ^ 63", "1 div 0", "fill(5000000, 1)"] {
        let (code, text) = eval(e);
        assert_eq!(code, Some(1), "{e}: {text}");
    }
    let (code, text) = eval("7 // 2");
    assert!(code == Some(1) && text.contains("`div`"), "{text}");
}

#[test]
fn a_reader_that_goes_away_stops_nothing() {
    use std::process::Stdio;
    let made = tempfile::tempdir().unwrap();
    let weights = made.path().join("w.safetensors");
    let mut child = Command::new(env!("CARGO_BIN_EXE_snnc"))
        .args(["train", "m.snn", "--data", "d.safetensors", "--epochs", "3", "--batch", "7", "--weights-out", weights.to_str().unwrap()])
        .current_dir(folder("L1_epoch_metric"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert!(weights.exists());
}

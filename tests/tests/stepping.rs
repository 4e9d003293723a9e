//! A net step by step computes what it computes from the whole sequence.

use std::path::Path;

use snnc::{Backends, CompileOptions, Mode, Optimise, Program, Slice, SliceMut, Tensor, load};

struct Case {
    name: String,
    program: Program,
    data: Vec<(String, Tensor)>,
    weights: Vec<(String, Tensor)>,
    seed: u64,
}

/// The golden cases that are evaluated.
fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "snn"));
    files.sort();
    let case = |path: std::path::PathBuf| {
        let about: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path.with_extension("json")).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let all = load(path.with_extension("in.safetensors").to_str().unwrap()).unwrap();
        let (data, weights): (Vec<_>, Vec<_>) = all.into_iter().partition(|(n, _)| !n.contains('.'));
        let program = Program::parse(&name, &std::fs::read_to_string(&path).unwrap()).unwrap();
        (about["mode"] != "train").then(|| Case { name, program, data, weights, seed: about["seed"].as_u64().unwrap_or(0) })
    };
    files.into_iter().filter_map(case).collect()
}

fn options(case: &Case, backend: Backends) -> CompileOptions {
    CompileOptions::default().mode(Mode::Eval).seed(case.seed).backend(backend).optimise(Optimise::Off).threads(1)
}

/// All golden nets: the interpreter's steps are its whole, to the bit, or an error says what needs later steps.
#[test]
fn steps_are_the_whole_to_the_bit() {
    let (mut stepped, mut refused, mut failures) = (0, vec![], vec![]);
    for case in cases() {
        let net = case.program.compile(Some("main"), &options(&case, Backends::Interpreter)).unwrap();
        let stepper = match net.stepper(&case.data, &case.weights) {
            Ok(s) => s,
            Err(e) => {
                let text = e.to_string();
                refused.push(format!("{}: {}", case.name, text.lines().next().unwrap_or_default()));
                continue;
            }
        };
        let whole = net.run(&case.data, &case.weights).unwrap().outputs;
        let steps = stepper.run(&mut stepper.start(), &case.data).unwrap();
        stepped += 1;
        for ((name, a), (_, b)) in whole.iter().zip(&steps) {
            if !a.same_bits(b) {
                failures.push(format!("{}, {name}: {a} and {b}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(stepped > 0, "{stepped}");
    insta::assert_snapshot!("refused_steps", format!("{stepped} stepped\n{}", refused.join("\n")));
}

/// All golden nets of floats that go step by step, as one machine function: the interpreter's steps, to the bit; a state is come back to.
#[test]
fn resident_steps_are_the_interpreters() {
    let (mut compared, mut failures) = (0, vec![]);
    for case in cases() {
        let options = options(&case, Backends::Interpreter);
        let net = case.program.compile(Some("main"), &options).unwrap();
        let Ok(stepper) = net.stepper(&case.data, &case.weights) else { continue };
        let dims = net.run(&case.data, &case.weights).unwrap().dims;
        let net = case.program.compile(Some("main"), &options.dims(dims)).unwrap();
        let Ok(mut resident) = net.resident(&case.weights) else { continue };
        let floats = |list: &[snn_c::Argument]| list.iter().all(|a| a.dtype == snnc::DType::F32);
        // Inputs without time are arguments here.
        if !floats(resident.inputs()) || !floats(resident.outputs()) || resident.inputs().len() != stepper.inputs().len() {
            continue;
        }
        let mut state = stepper.start();
        let mut kept = None;
        for t in 0..4 {
            let mut inputs = vec![];
            for (name, _, axis) in stepper.inputs() {
                let x = &case.data.iter().find(|(n, _)| *n == name).unwrap().1;
                if t >= x.shape()[axis] {
                    break;
                }
                let mut shape = x.shape().to_vec();
                shape.remove(axis);
                inputs.push((name, part(x, axis, t, t + 1).reshaped(shape)));
            }
            if inputs.len() < stepper.inputs().len() {
                break;
            }
            let want = stepper.step(&mut state, &inputs).unwrap();
            let reads: Vec<Slice<'_>> = inputs.iter().map(|(_, x)| Slice::from(x.as_f32())).collect();
            let mut got: Vec<Vec<f32>> = want.iter().map(|(_, y)| vec![f32::NAN; y.len()]).collect();
            let step = |resident: &mut snnc::Resident, got: &mut [Vec<f32>]| {
                let mut writes: Vec<SliceMut<'_>> = got.iter_mut().map(|y| SliceMut::from(&mut y[..])).collect();
                resident.step(&reads, &mut writes).unwrap();
            };
            kept = Some(resident.state().to_vec()).filter(|_| t == 1).or(kept);
            step(&mut resident, &mut got);
            if t == 1 {
                // Once more from before the step, after a step of another sequence.
                resident.reset();
                step(&mut resident, &mut got);
                resident.restore(kept.as_ref().unwrap()).unwrap();
                step(&mut resident, &mut got);
            }
            for ((name, want), got) in want.iter().zip(got) {
                if !want.same_bits(&Tensor::f32(want.shape(), got.clone())) {
                    failures.push(format!("{}, {name}, step {t}: {got:?} instead of {want}", case.name));
                }
            }
        }
        compared += 1;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(compared > 40, "{compared}");
}

#[test]
fn a_resident_step_checks_what_it_is_given() {
    let net = |text: &str| Program::parse("net.snn", text).unwrap().compile(None, &CompileOptions::default()).unwrap();
    let mut resident = net("net main(x: f32[T, 3]) { lif(x) }").resident(&[]).unwrap();
    let (x, mut y) = ([1.0f32; 4], [0.0f32; 3]);
    let mut said = |reads: &[Slice<'_>], y: &mut [f32]| resident.step(reads, &mut [SliceMut::from(y)]).unwrap_err().to_string();
    assert_eq!(said(&[], &mut y), "a step has 1 inputs, and 0 are given");
    assert_eq!(said(&[Slice::from(&x[..])], &mut y), "input `x` is f32[1, 3], and 4 f32 elements are given");
    assert_eq!(said(&[Slice::I64(&[1, 2, 3])], &mut y), "input `x` is f32[1, 3], and 3 i64 elements are given");
    assert_eq!(said(&[Slice::from(&x[..3])], &mut y[..2]), "output `out` is f32[1, 3], and 2 f32 elements are given");
    assert!(resident.restore(&[0]).unwrap_err().to_string().contains("has 16 bytes, and 8 are given"));
    let future = net("net main(x: f32[T, 3]) { softmax(x, axis = 0) }").resident(&[]).map(|_| ()).unwrap_err();
    assert!(future.to_string().contains("step by step"), "{future}");
    let timeless = net("net main(x: f32[B, 3]) { x }").resident(&[]).map(|_| ()).unwrap_err();
    assert!(timeless.to_string().contains("has no input over time"), "{timeless}");
}

fn random_cut(state: &mut u64, n: usize) -> usize {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    1 + (*state >> 33) as usize % n
}

fn part(t: &Tensor, axis: usize, from: usize, to: usize) -> Tensor {
    let inner: usize = t.shape()[axis + 1..].iter().product();
    let (outer, n) = (t.shape()[..axis].iter().product::<usize>(), t.shape()[axis]);
    let mut shape = t.shape().to_vec();
    shape[axis] = to - from;
    let rows = |o: usize| (o * n + from) * inner..(o * n + to) * inner;
    match t.dtype() {
        snnc::DType::F32 => Tensor::f32(shape, (0..outer).flat_map(|o| t.as_f32()[rows(o)].to_vec()).collect()),
        _ => Tensor::i64(shape, (0..outer).flat_map(|o| t.to_i64()[rows(o)].to_vec()).collect()),
    }
}

/// Any cut of a sequence, with the state kept in a file's tensors between the pieces: the bits of the whole, 10,000 times.
#[test]
fn cuts_change_nothing() {
    let cases = cases();
    let steppers: Vec<_> = cases
        .iter()
        .filter_map(|c| {
            let net = c.program.compile(Some("main"), &options(c, Backends::Cranelift)).unwrap();
            net.stepper(&c.data, &c.weights).ok().map(|s| (c, s))
        })
        .collect();
    let (mut cuts, mut seed, mut round) = (0, 1u64, 0);
    while cuts < 10_000 {
        let (case, stepper) = &steppers[round % steppers.len()];
        round += 1;
        let whole = stepper.run(&mut stepper.start(), &case.data).unwrap();
        let lengths = stepper.inputs().into_iter().map(|(n, _, axis)| {
            let t = &case.data.iter().find(|(k, _)| *k == n).unwrap().1;
            (n, axis, t.shape()[axis])
        });
        let lengths: Vec<_> = lengths.collect();
        let steps = lengths[0].2;
        let (mut at, mut state, mut pieces) = (0, stepper.start(), vec![]);
        while at < steps {
            let to = (at + random_cut(&mut seed, 4)).min(steps);
            let data: Vec<(String, Tensor)> = lengths
                .iter()
                .map(|(n, axis, _)| (n.clone(), part(&case.data.iter().find(|(k, _)| k == n).unwrap().1, *axis, at, to)))
                .collect();
            pieces.push(stepper.run(&mut state, &data).unwrap());
            state = stepper.restore(&state.to_tensors()).unwrap();
            at = to;
            cuts += 1;
        }
        assert_eq!(state.steps as usize, steps);
        for (i, (name, what)) in stepper.outputs().iter().enumerate() {
            match what {
                snn_ir::step::Output::Each(axis) => {
                    let mut from = 0;
                    for piece in &pieces {
                        let to = from + piece[i].1.shape()[*axis];
                        if matches!(piece[i].1.dtype(), snnc::DType::F32 | snnc::DType::I64) {
                            assert!(part(&whole[i].1, *axis, from, to).same_bits(&piece[i].1), "{}, {name}", case.name);
                        }
                        from = to;
                    }
                }
                _ => assert!(pieces.last().unwrap()[i].1.same_bits(&whole[i].1), "{}, {name}", case.name),
            }
        }
    }
}

fn error(text: &str) -> String {
    let net = Program::parse("net.snn", text).unwrap().compile(None, &CompileOptions::default()).unwrap();
    match net.stepper(&[], &[]) {
        Ok(_) => "no error".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn what_needs_the_future_is_an_error_with_its_line() {
    for (body, want) in [
        ("x[::-1]", "net.snn:2:"),
        ("x - mean(x, axis = 0)", "net.snn:2:"),
        ("x[1:]", "net.snn:2:"),
        ("x[0]", "other steps than the last"),
        ("softmax(x, axis = 0)", "net.snn:2:"),
        ("einsum(\"tn,un->tu\", x, x)", "net.snn:2:"),
    ] {
        let text = error(&format!("net main(x: f32[T, 4]) {{\n    {body}\n}}"));
        assert!(text.contains(want) && text != "no error", "{body}: {text}");
    }
    assert!(error("net main(x: f32[B, 4]) { relu(x) }").contains("no input over time"));
    assert!(error("net main(x: f32[T, N]) { relu(x) }").contains("--dims N="));
}

/// Values over the whole sequence are given so far, and the last one is that of the whole.
#[test]
fn reductions_are_running() {
    let text = "net main(x: f32[T, B, 3]) -> (rate: f32[B, 3], last: f32[B, 3], most: f32[B, 3], when: i64[B, 3], n: i64[]) {
        let s = lif(x, tau = 1.5)
        (mean(s, axis = 0), s[-1], max(x, axis = 0), argmax(x, axis = 0), shape(x)[0])
    }";
    let x = Tensor::f32([6, 1, 3], (0..18).map(|i| ((i * 7) % 11) as f32 / 3.0).collect());
    for backend in [Backends::Interpreter, Backends::Cranelift] {
        let options = CompileOptions::default().backend(backend);
        let net = Program::parse("net.snn", text).unwrap().compile(None, &options).unwrap();
        let stepper = net.stepper(&[], &[]).unwrap();
        let mut state = stepper.start();
        for t in 0..6 {
            let now = stepper.step(&mut state, &[("x".into(), Tensor::f32([1, 3], x.as_f32()[t * 3..t * 3 + 3].to_vec()))]).unwrap();
            let so_far = net.run(&[("x".into(), part(&x, 0, 0, t + 1))], &[]).unwrap().outputs;
            for ((name, a), (_, b)) in now.iter().zip(&so_far) {
                assert!(a.same_bits(b), "{name} after {t}: {a} and {b}");
            }
        }
        let bad = stepper.step(&mut state, &[("x".into(), Tensor::f32([3], vec![0.0; 3]))]).unwrap_err().to_string();
        assert!(bad.contains("f32[1, 3]"), "{bad}");
        assert_eq!(state.steps, 6);
    }
}

/// Convolutions along time that meet earlier steps only: steps are the whole; others are refused with their reason.
#[test]
fn convolutions_along_time_keep_the_steps_that_they_meet() {
    let text = |body: &str| format!("net main(x: f32[T, B, 3], w: f32[2, 3, 4]) {{\n    let lines = permute(x, [1, 2, 0])\n    {body}\n}}");
    let ramp = |shape: &[usize]| {
        let n = shape.iter().product::<usize>();
        Tensor::f32(shape.to_vec(), (0..n).map(|i| (i * 7 % 11) as f32 - 4.5).collect())
    };
    let data = vec![("x".to_string(), ramp(&[9, 2, 3])), ("w".to_string(), ramp(&[2, 3, 4]))];
    for (body, dilated) in [("permute(conv(pad(lines, [3, 0]), w), [2, 0, 1])", 3), ("conv(pad(lines, [6, 0]), w, dilation = 2)", 6)] {
        let program = Program::parse("net.snn", &text(body)).unwrap();
        let net = program.compile(None, &CompileOptions::default().backend(Backends::Interpreter)).unwrap();
        let whole = net.run(&data, &[]).unwrap().outputs;
        let stepper = net.stepper(&data, &[]).unwrap();
        let steps = stepper.run(&mut stepper.start(), &data).unwrap();
        assert!(steps[0].1.same_bits(&whole[0].1), "{body}: {} and {}", steps[0].1, whole[0].1);
        assert_eq!(stepper.start().to_tensors().iter().map(|(_, t)| t.len()).max(), Some(2 * 3 * dilated), "{body}");
    }
    for (body, why) in [
        ("conv(pad(lines, [2, 0]), w)", "as many before as it pads"),
        ("conv(pad(lines, [4, 0]), w)", "as many before as it pads"),
        ("conv(pad(lines, [3, 0]), w, stride = 2)", "as many before as it pads"),
        ("conv(pad(lines, [2, 1]), w)", "makes another dimension of time"),
        ("pad(lines, [3, 0])", "makes another dimension of time"),
        ("tanh(pad(lines, [3, 0]))", "steps before its first"),
    ] {
        let net = Program::parse("net.snn", &text(body)).unwrap().compile(None, &CompileOptions::default()).unwrap();
        let error = net.stepper(&data, &[]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(why), "{body}: {error}");
    }
}

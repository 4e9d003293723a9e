//! `print(x)` and assertions about data, on every back end and in every kind of run.

use std::sync::{Arc, Mutex};

use snn_train::Step;
use snnc::{Backends, CompileOptions, Error, Printer, Program, Tensor, Tensors, Trainer};

const PROGRAM: &str = r#"net main(x: f32[T, B]) -> f32[T, B] {
    assert x >= 0.0, "intensities are not negative"
    param w: f32[] = 2.0
    let h = print(x * w)
    let rec s: f32[T, B] = lif(h + delay(s, 1))
    print(s)
    s
}
net loss(x: f32[T, B]) -> f32[] { mean((print(main(x)) - 1.0) ^ 2) }
"#;

fn options(lines: &Arc<Mutex<Vec<String>>>) -> CompileOptions {
    let lines = lines.clone();
    CompileOptions::default().printer(Printer(Arc::new(move |line| lines.lock().unwrap().push(line.to_string())))).partial(true)
}

fn data(values: Vec<f32>) -> Tensors {
    Tensors::from([("x", Tensor::f32([3, values.len() / 3], values))])
}

#[test]
fn every_back_end_prints_and_gives_its_outputs_alone() {
    for backend in [Backends::Cranelift, Backends::Interpreter, Backends::CandleOperations] {
        let lines = Arc::default();
        let program = Program::parse("p.snn", PROGRAM).unwrap();
        let net = program.compile(Some("main"), &options(&lines).backend(backend)).unwrap();
        let run = net.run(&data(vec![1.0, 0.0, 2.0]), &[]).unwrap();
        assert_eq!(run.outputs.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["out"]);
        let said = lines.lock().unwrap();
        assert_eq!(said[0], "x * w (p.snn:4): f32[3, 1] [2, 0, 4]", "{backend:?}");
        assert_eq!(said[1], "s (p.snn:6): f32[3, 1] [1, 0, 1]", "{backend:?}");
        assert_eq!(said.len(), 2);
    }
}

#[test]
fn long_tensors_are_printed_by_their_statistics() {
    let lines = Arc::default();
    let program = Program::parse("p.snn", "net main(x: f32[N]) -> f32[N] { print(x) }").unwrap();
    let net = program.compile(None, &options(&lines)).unwrap();
    let mut values = vec![0.0; 7];
    values.extend([4.0, f32::NAN, f32::INFINITY]);
    net.run(&[("x".into(), Tensor::f32([10], values))], &[]).unwrap();
    assert_eq!(lines.lock().unwrap()[0], "x (p.snn:1): f32[10], min 0, mean 0.5, max 4, 70.0% zeros, 1 NaN, 1 infinite");
}

#[test]
fn an_assertion_about_data_ends_the_run_with_its_line() {
    let program = Program::parse("p.snn", PROGRAM).unwrap();
    let text = |r: Result<(), Error>| r.unwrap_err().to_string();
    let bad = data(vec![1.0, -1.0, -2.0]);
    let wrong = |text: String| {
        let said = ["intensities are not negative", "p.snn:2:5", "false for 2 elements"];
        assert!(said.iter().all(|s| text.contains(s)), "{text}");
    };
    let plain = options(&Arc::default());
    let run = |o: CompileOptions, net: &str| program.compile(Some(net), &o).unwrap().run(&bad, &[]).map(|_| ());
    wrong(text(run(plain.clone(), "main")));
    wrong(text(run(plain.clone().backend(Backends::Interpreter), "main")));
    // With gradients of a scalar, of outputs, and in training.
    wrong(text(run(plain.clone().gradients(vec![]), "loss")));
    let net = program.compile(Some("main"), &plain.clone().cotangents(vec!["w".into()])).unwrap();
    wrong(text(net.prepare(&bad, &[]).unwrap().forward(0).map(|_| ())));
    let (run, tape) = net.prepare(&data(vec![1.0, 0.0, 2.0]), &[]).unwrap().forward(0).unwrap();
    assert_eq!(run.outputs.len(), 1);
    assert!(tape.backward(&[("cotangent.out".into(), Tensor::f32([3, 1], vec![1.0; 3]))]).is_ok());
    let mut trainer = Trainer::new(&program, "loss", &plain).unwrap();
    wrong(text(trainer.step(&bad, &mut vec![], 0).map(|_| ())));
    // Pieces along the batch are checked too.
    let pieces = program.compile(Some("main"), &plain.batch(1)).unwrap();
    let text = text(pieces.run(&data(vec![1.0, 1.0, 1.0, 1.0, -1.0, 1.0]), &[]).map(|_| ()));
    assert!(text.contains("false for one element"), "{text}");
}

#[test]
fn a_neuron_says_nothing_while_it_runs() {
    for (inside, what) in [("print(v)", "print"), ("assert v > 0.0", "says nothing")] {
        let body = format!("    state v = 0.0\n    v = v + x\n    {inside}\n    emit v\n");
        let source = format!("neuron n(x) {{\n{body}}}\nnet main(x: f32[T, B]) {{ x |> n }}");
        let program = Program::parse("p.snn", &source).unwrap();
        let net = program.compile(None, &options(&Arc::default())).unwrap();
        let text = net.run(&data(vec![1.0; 3]), &[]).unwrap_err().to_string();
        assert!(text.contains(what) && text.contains("p.snn:4"), "{text}");
    }
}

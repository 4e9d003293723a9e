//! What is compiled is freed. In a file of its own: no other test may share its process.
#![cfg(target_os = "linux")]

use snnc::{Backends, CompileOptions, DeviceName, Precision, Program, Tensor};

/// Machine code is given back when its program goes away.
#[test]
fn compiling_again_and_again_does_not_grow_memory() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let once = || {
        let options = CompileOptions::default().threads(1);
        let program = Program::parse("test.snn", "net main(x: f32[T, N]) -> f32[T, N] { x |> lif() }").unwrap();
        let data = [("x".to_string(), Tensor::f32([2, 8], vec![1.0; 16]))];
        program.compile(None, &options).unwrap().run(&data, &[]).unwrap();
    };
    (0..50).for_each(|_| once());
    let before = resident();
    (0..400).for_each(|_| once());
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "400 compilations have grown the process by {grown} bytes");
    // Neither backend piles up the memory that results come back in, whether a kernel of its own or candle's operation made them.
    for backend in [Backends::Cranelift, Backends::Candle(DeviceName::Cpu, Precision::F32), Backends::CandleOperations] {
        let options = CompileOptions::default().threads(1).backend(backend);
        let text = "net main(x: f32[T, N]) -> (a: f32[T, N], b: f32[N, T], c: f32[T, T]) { (lif(x), transpose(x), x @ transpose(x)) }";
        let net = Program::parse("test.snn", text).unwrap().compile(None, &options).unwrap();
        let prepared = net.prepare(&[("x".to_string(), Tensor::f32([64, 1024], vec![0.7; 64 * 1024]))], &[]).unwrap();
        let again = |n: usize| (0..n).for_each(|_| prepared.recycle(prepared.run().unwrap()));
        again(30);
        let before = resident();
        again(200);
        let grown = resident().saturating_sub(before);
        assert!(grown < 8 << 20, "200 runs on {backend:?} have grown the process by {grown} bytes");
    }
    // A session keeps what it names, not what it has evaluated.
    let mut session = snnc::session::Session::new(CompileOptions::default().threads(1));
    session.enter("let x = [[0.0, 3.0], [1.0, 2.0]]").unwrap();
    let mut evaluate = |n: usize| (0..n).for_each(|i| drop(session.enter(&format!("sum(lif(x * {i}.5))")).unwrap()));
    evaluate(50);
    let before = resident();
    evaluate(10_000);
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 << 20, "10,000 evaluations have grown the process by {grown} bytes");
}

//! A run that is asked to stop does, on every backend. In a program of its own: the request is for the whole process.

use std::time::{Duration, Instant};

use snnc::{Backends, CompileOptions, DeviceName, Precision, Program, Tensor};

#[test]
fn a_long_run_stops_when_it_is_asked_to() {
    // A recurrent net of many steps, which is many small kernels, and one neuron of many steps, which is one.
    let recurrent = "net main(x: f32[T, N]) -> f32[T, N] {\n layer back = linear(N, N)\n let rec h = lif(x + back(delay(h, 1)))\n h\n}";
    let long = "net main(x: f32[T, N]) -> f32[] {\n sum(exp(sin(exp(sin(lif(broadcast_to(x, [4096, 64, T, N])))))))\n}";
    let candle = Backends::Candle(DeviceName::Cpu, Precision::F32);
    for (text, steps, backend) in [
        (recurrent, 100_000, Backends::Cranelift),
        (recurrent, 100_000, Backends::Interpreter),
        (recurrent, 100_000, candle),
        (long, 64, Backends::Cranelift),
        (long, 64, candle),
    ] {
        let program = Program::parse("t", text).unwrap();
        let net = program.compile(None, &CompileOptions::default().backend(backend).threads(1)).unwrap();
        let prepared = net.prepare(&[("x".into(), Tensor::f32([steps, 16], vec![0.3; steps * 16]))], &[]).unwrap();
        snn_ir::interrupt::clear();
        let stopper = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(60));
            snn_ir::interrupt::request();
        });
        let started = Instant::now();
        let e = prepared.run().err().map(|e| e.to_string());
        stopper.join().unwrap();
        assert_eq!(e.as_deref(), Some("interrupted"), "{backend:?}");
        assert!(started.elapsed() < Duration::from_secs(3), "{backend:?} took {:?}", started.elapsed());
        snn_ir::interrupt::clear();
    }
}

//! A workload that is compiled and has its data.

use snn_tests::Dice;
use snn_tests::workloads::Workload;
use snnc::quantise::WeightBits;
use snnc::{CompileOptions, Prepared, Program, Tensor, Tensors};

/// Compiles a workload for one thread.
pub fn prepared(w: &Workload) -> Prepared {
    let gradients = (!w.gradients.is_empty()).then(|| w.gradients.iter().map(ToString::to_string).collect());
    let options = CompileOptions::default().threads(1).gradients(gradients).weights_dtype(w.integers.then_some(WeightBits::I8));
    let mut n = Dice(1);
    let mut element = || match w.density {
        Some(density) => f32::from(n.tame() < 2.0 * density - 1.0),
        None => n.tame(),
    };
    let x = Tensor::f32(w.shape, (0..w.shape.iter().product()).map(|_| element()).collect());
    let compiled = Program::parse(w.name, w.text).and_then(|p| p.compile(Some("main"), &options));
    compiled.and_then(|c| c.prepare(&Tensors::from([("x", x)]), &[])).expect("the program is right")
}

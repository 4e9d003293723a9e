//! Step kernels on a device: machine code on the CPU, generated source elsewhere.

use candle_core::{CpuStorage, Device, Result, Storage, Tensor};
use snn_cpu::Machine;
use snn_cpu::plan::Plan;
use snn_cpu::step::{Elements, Room, StepKernel};
use snn_ir::{CompileError, DType, Graph, Value};

/// The compiled step kernels of a plan.
pub enum Kernels {
    /// Machine code.
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
            Device::Cpu => Ok(Kernels::Machine(snn_cpu::machine(graph, plan)?)),
            #[cfg(feature = "cuda")]
            Device::Cuda(d) => Ok(Kernels::Cuda(crate::cuda::Module::new(graph, plan, d)?)),
            #[cfg(feature = "metal")]
            Device::Metal(d) => Ok(Kernels::Metal(crate::metal::Library::new(graph, plan, d)?)),
            #[allow(unreachable_patterns)]
            other => Err(CompileError::CodeGeneration(format!("this build has no kernels for {other:?}"))),
        }
    }

    /// Runs a kernel. `read` gives its operands, contiguous.
    pub fn run<'t>(&self, graph: &Graph, kernel: &StepKernel, read: impl Fn(Value) -> &'t Tensor) -> Result<Vec<(Value, Tensor)>> {
        match self {
            Kernels::Machine(machine) => on_cpu(machine, graph, kernel, read),
            #[cfg(feature = "cuda")]
            Kernels::Cuda(module) => module.run(graph, kernel, read),
            #[cfg(feature = "metal")]
            Kernels::Metal(library) => library.run(graph, kernel, read),
        }
    }
}

/// The shape of a value of a graph with known dimensions.
pub fn sizes(graph: &Graph, v: Value) -> Vec<usize> {
    graph.ty(v).sizes().unwrap_or_default()
}

/// What a tensor on the CPU holds.
pub fn elements<'s>(storage: &'s Storage, tensor: &Tensor) -> Result<Elements<'s>> {
    let start = tensor.layout().start_offset();
    let range = start..start + tensor.elem_count();
    match storage {
        Storage::Cpu(CpuStorage::F32(v)) => Ok(Elements::Floats(&v[range])),
        Storage::Cpu(CpuStorage::I64(v)) => Ok(Elements::Integers(&v[range])),
        Storage::Cpu(CpuStorage::U8(v)) => Ok(Elements::Bytes(&v[range])),
        _ => candle_core::bail!("a kernel reads {:?} on {:?}", tensor.dtype(), tensor.device()),
    }
}

fn on_cpu<'t>(machine: &Machine, graph: &Graph, kernel: &StepKernel, read: impl Fn(Value) -> &'t Tensor) -> Result<Vec<(Value, Tensor)>> {
    let sources: Vec<(Value, &Tensor)> = kernel.sources().map(|v| (v, read(v))).collect();
    let guards: Vec<_> = sources.iter().map(|(_, t)| t.storage_and_layout().0).collect();
    let slices = sources.iter().zip(&guards).map(|((v, t), g)| Ok((*v, elements(g, t)?))).collect::<Result<Vec<_>>>()?;
    let of = |v: Value| slices.iter().find(|(w, _)| *w == v).map_or(Elements::Floats(&[]), |(_, e)| *e);
    let results = kernel.execute(machine, of, |v, dtype| {
        let n = sizes(graph, v).iter().product();
        if dtype == DType::F32 { Room::Floats(vec![0.0; n]) } else { Room::Bytes(vec![0; n]) }
    });
    let mut tensors = Vec::with_capacity(results.len());
    for (v, room) in results {
        let shape = sizes(graph, v);
        let tensor = match room {
            Room::Floats(data) => Tensor::from_vec(data, shape, &Device::Cpu)?,
            Room::Bytes(data) => Tensor::from_vec(data, shape, &Device::Cpu)?,
        };
        tensors.push((v, tensor));
    }
    Ok(tensors)
}

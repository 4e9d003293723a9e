//! Step kernels on Metal: text, compiled by the driver, one dispatch for all time steps.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::op::BackpropOp;
use candle_core::{MetalDevice, MetalStorage, Result, Storage, Tensor};
use candle_metal_kernels::metal::{Buffer, ComputeCommandEncoder, ComputePipeline};
use objc2_metal::{MTLCompileOptions, MTLSize};
use snn_ir::{CompileError, DType, Graph, Value};
use snn_plan::step::{Initial, StepKernel};
use snn_plan::{Kernel, Plan};

use crate::convert::candle_type;
use crate::kernels::sizes;
use snn_c::kernels::{self as text, Dialect};

/// The compiled kernels of a plan.
pub struct Library {
    pipelines: HashMap<usize, ComputePipeline>,
    device: MetalDevice,
}

impl Library {
    /// Compiles the step kernels of a plan.
    ///
    /// # Errors
    /// If the driver refuses them; the error has its message with the lines that it names.
    pub fn new(graph: &Graph, plan: &Plan, device: &MetalDevice) -> std::result::Result<Library, CompileError> {
        let Some(source) = text::module(graph, plan, Dialect::Metal) else {
            return Ok(Library { pipelines: HashMap::new(), device: device.clone() });
        };
        let refused = |e: &dyn std::fmt::Display| CompileError::CodeGeneration(text::with_lines(&e.to_string(), &source));
        let options = MTLCompileOptions::new();
        // Fast mathematics would contract and reorder.
        #[allow(deprecated)]
        options.setFastMathEnabled(false);
        let library = device.metal_device().new_library_with_source(&source, Some(&options)).map_err(|e| refused(&e))?;
        let mut numbers = Vec::new();
        functions(plan, &mut numbers);
        let mut pipelines = HashMap::new();
        for (number, name) in numbers {
            let function = library.get_function(&name, None).map_err(|e| refused(&e))?;
            let pipeline = device.metal_device().new_compute_pipeline_state_with_function(&function).map_err(|e| refused(&e))?;
            pipelines.insert(number, pipeline);
        }
        Ok(Library { pipelines, device: device.clone() })
    }

    /// Runs a kernel.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run<'t>(&self, graph: &Graph, kernel: &StepKernel, read: impl Fn(Value) -> &'t Tensor) -> Result<Vec<(Value, Tensor)>> {
        let Some(pipeline) = self.pipelines.get(&kernel.function) else { candle_core::bail!("kernel {} is not compiled", kernel.function) };
        let starts = kernel.initial.iter().filter_map(|i| if let Initial::Load(l) = i { Some(l.source) } else { None });
        let sources: Vec<&Tensor> = kernel.loads.iter().map(|l| l.source).chain(starts).map(&read).collect();
        let guards: Vec<_> = sources.iter().map(|t| t.storage_and_layout()).collect();
        let written = kernel.stores.iter().copied().chain(kernel.finals.iter().map(|(_, v)| (*v, DType::F32)));
        let mut outputs = Vec::new();
        for (v, dtype) in written {
            let n: usize = sizes(graph, v).iter().product();
            outputs.push((v, candle_type(dtype), n, self.device.new_buffer(n.max(1), candle_type(dtype), "step")?));
        }
        let elements = kernel.elements();
        if elements > 0 {
            let commands = self.device.command_encoder()?;
            let encoder: &ComputeCommandEncoder = commands.as_ref();
            encoder.set_compute_pipeline_state(pipeline);
            let mut index = 0;
            for ((storage, layout), tensor) in guards.iter().zip(&sources) {
                let Storage::Metal(storage) = &**storage else { candle_core::bail!("a kernel on Metal reads {:?}", tensor.device()) };
                encoder.set_input_buffer(index, Some(storage.buffer()), layout.start_offset() * tensor.dtype().size_in_bytes());
                index += 1;
            }
            for (_, _, _, buffer) in &outputs {
                let buffer: &Buffer = buffer;
                encoder.set_output_buffer(index, Some(buffer), 0);
                index += 1;
            }
            let width = pipeline.max_total_threads_per_threadgroup().min(256);
            let size = |n: usize| MTLSize { width: n, height: 1, depth: 1 };
            encoder.dispatch_thread_groups(size(elements.div_ceil(width)), size(width));
        }
        let tensor = |(v, dtype, n, buffer): (Value, candle_core::DType, usize, Arc<_>)| {
            let storage = MetalStorage::new(buffer, self.device.clone(), n, dtype);
            (v, Tensor::from_storage(Storage::Metal(storage), sizes(graph, v), BackpropOp::none(), false))
        };
        Ok(outputs.into_iter().map(tensor).collect())
    }
}

/// The step kernels of a plan, by number and name.
fn functions(plan: &Plan, list: &mut Vec<(usize, String)>) {
    for task in &plan.tasks {
        match &task.kernel {
            Kernel::Step(k) => list.push((k.function, text::name(k))),
            Kernel::Loop(l) => functions(&l.plan, list),
            _ => {}
        }
    }
}

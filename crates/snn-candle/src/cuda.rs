//! Step kernels on CUDA: text, compiled by NVRTC to PTX, launched once for all time steps.
#![allow(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaSlice, CudaView, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::{self, CompileOptions};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Storage, Tensor};
use snn_ir::{CompileError, DType, Graph, Value};
use snn_plan::Plan;
use snn_plan::step::{Initial, StepKernel};

use crate::kernels::sizes;
use snn_c::kernels::{self as text, Dialect};

/// Threads of a block.
const BLOCK: u32 = 256;

/// How many devices there are, or why there are none.
///
/// # Errors
/// What the driver says.
pub fn device_count() -> std::result::Result<usize, String> {
    // The driver's library is loaded when it is first used, and its loader panics where there is none.
    let count = std::panic::catch_unwind(CudaContext::device_count);
    match count {
        Ok(Ok(n)) => Ok(usize::try_from(n).unwrap_or(0)),
        Ok(Err(e)) => Err(format!("the driver says {e:?}; it may be missing or too old")),
        Err(_) => Err("there is no CUDA driver on this machine".into()),
    }
}

/// What a device is.
///
/// # Errors
/// What the driver says.
pub fn description(n: usize) -> std::result::Result<String, String> {
    let said = |e: &dyn std::fmt::Debug| format!("the driver says {e:?}");
    let context = CudaContext::new(n).map_err(|e| said(&e))?;
    let name = context.name().map_err(|e| said(&e))?;
    let (free, total) = context.mem_get_info().map_err(|e| said(&e))?;
    let (major, minor) = context.compute_capability().map_err(|e| said(&e))?;
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    Ok(format!("{name}, compute capability {major}.{minor}, {:.1} of {:.1} GiB free", gib(free), gib(total)))
}

/// Bytes that are free on a device.
pub fn free_memory(device: &CudaDevice) -> Option<usize> {
    device.cuda_stream().context().mem_get_info().ok().map(|(free, _)| free)
}

/// The kernels of a plan, as PTX.
pub struct Module {
    /// The name under which the device keeps it: that of its text.
    name: String,
    ptx: String,
    device: CudaDevice,
}

impl Module {
    /// Compiles the step kernels of a plan.
    ///
    /// # Errors
    /// If NVRTC refuses them; the error has its log with the lines that it names.
    pub fn new(graph: &Graph, plan: &Plan, device: &CudaDevice) -> std::result::Result<Module, CompileError> {
        let Some(source) = text::module(graph, plan, Dialect::Cuda) else {
            return Ok(Module { name: String::new(), ptx: String::new(), device: device.clone() });
        };
        let stream = device.cuda_stream();
        let (major, minor) = stream.context().compute_capability().map_err(|e| CompileError::CodeGeneration(format!("{e:?}")))?;
        let architecture = format!("compute_{major}{minor}");
        let mut hasher = DefaultHasher::new();
        (&source, &architecture).hash(&mut hasher);
        let name = format!("snnc_{:016x}", hasher.finish());
        let cached = cache_folder().map(|f| f.join(format!("{name}.ptx")));
        // The cache holds the text that a file was made from, so that equal hashes of different texts do no harm.
        let mark = format!("// {architecture}\n// {}\n", source.replace('\n', "\n// "));
        if let Some(ptx) = cached.as_ref().and_then(|f| std::fs::read_to_string(f).ok()).filter(|p| p.starts_with(&mark)) {
            return Ok(Module { name, ptx, device: device.clone() });
        }
        let ptx = format!("{mark}{}", compile(&source, &architecture)?);
        if let Some(file) = cached {
            // Without a cache everything works, only later.
            let _ = store(&file, &ptx);
        }
        Ok(Module { name, ptx, device: device.clone() })
    }

    /// Runs a kernel.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run<'t>(&self, graph: &Graph, kernel: &StepKernel, read: impl Fn(Value) -> &'t Tensor) -> Result<Vec<(Value, Tensor)>> {
        let function = self.device.get_or_load_custom_func(&text::name(kernel), &self.name, &self.ptx)?;
        let stream = self.device.cuda_stream();
        let starts = kernel.initial.iter().filter_map(|i| if let Initial::Load(l) = i { Some(l.source) } else { None });
        let sources: Vec<&Tensor> = kernel.loads.iter().map(|l| l.source).chain(starts).map(&read).collect();
        let guards: Vec<_> = sources.iter().map(|t| t.storage_and_layout()).collect();
        let mut inputs = Vec::with_capacity(guards.len());
        for ((storage, layout), tensor) in guards.iter().zip(&sources) {
            let Storage::Cuda(storage) = &**storage else { candle_core::bail!("a kernel on CUDA reads {:?}", tensor.device()) };
            inputs.push(Input::new(storage, layout.start_offset(), tensor.elem_count())?);
        }
        let written = kernel.stores.iter().copied().chain(kernel.finals.iter().map(|(_, v)| (*v, DType::F32)));
        let mut outputs = Vec::new();
        for (v, dtype) in written {
            let n: usize = sizes(graph, v).iter().product();
            // SAFETY: the kernel writes every element before anyone reads it.
            outputs.push(unsafe {
                match dtype {
                    DType::F32 => (v, Output::Floats(stream.alloc::<f32>(n).w()?)),
                    _ => (v, Output::Bytes(stream.alloc::<u8>(n).w()?)),
                }
            });
        }
        let elements = kernel.elements();
        if elements > 0 {
            let blocks = u32::try_from(elements.div_ceil(BLOCK as usize)).map_err(candle_core::Error::wrap)?;
            let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (BLOCK, 1, 1), shared_mem_bytes: 0 };
            let mut launch = function.builder();
            for input in &inputs {
                match input {
                    Input::Floats(v) => launch.arg(v),
                    Input::Integers(v) => launch.arg(v),
                    Input::Bytes(v) => launch.arg(v),
                };
            }
            for (_, output) in &mut outputs {
                match output {
                    Output::Floats(v) => launch.arg(v),
                    Output::Bytes(v) => launch.arg(v),
                };
            }
            // SAFETY: the arguments are those of the generated text, in its order, each of the planned size.
            unsafe { launch.launch(config) }.w()?;
        }
        drop(inputs);
        let tensor = |(v, output): (Value, Output)| {
            let storage = match output {
                Output::Floats(s) => CudaStorage::wrap_cuda_slice(s, self.device.clone()),
                Output::Bytes(s) => CudaStorage::wrap_cuda_slice(s, self.device.clone()),
            };
            (v, Tensor::from_storage(Storage::Cuda(storage), sizes(graph, v), BackpropOp::none(), false))
        };
        Ok(outputs.into_iter().map(tensor).collect())
    }
}

enum Input<'a> {
    Floats(CudaView<'a, f32>),
    Integers(CudaView<'a, i64>),
    Bytes(CudaView<'a, u8>),
}

impl<'a> Input<'a> {
    fn new(storage: &'a CudaStorage, start: usize, n: usize) -> Result<Input<'a>> {
        Ok(match storage.slice {
            candle_core::cuda_backend::CudaStorageSlice::I64(ref s) => Input::Integers(s.slice(start..start + n)),
            candle_core::cuda_backend::CudaStorageSlice::U8(ref s) => Input::Bytes(s.slice(start..start + n)),
            _ => Input::Floats(storage.as_cuda_slice::<f32>()?.slice(start..start + n)),
        })
    }
}

enum Output {
    Floats(CudaSlice<f32>),
    Bytes(CudaSlice<u8>),
}

/// Compiles text to PTX. Products and sums are not contracted: the result is that of the other backends, to the bit.
///
/// # Errors
/// NVRTC's log, with the lines of the text that it names.
pub fn compile(source: &str, architecture: &str) -> std::result::Result<String, CompileError> {
    let options = CompileOptions {
        fmad: Some(false),
        ftz: Some(false),
        prec_div: Some(true),
        prec_sqrt: Some(true),
        options: vec![format!("--gpu-architecture={architecture}")],
        name: Some("step_kernels.cu".into()),
        ..CompileOptions::default()
    };
    let compiled = std::panic::catch_unwind(|| nvrtc::compile_ptx_with_opts(source, options));
    match compiled {
        Ok(Ok(ptx)) => Ok(ptx.to_src()),
        Ok(Err(nvrtc::CompileError::CompileError { log, .. })) => {
            Err(CompileError::CodeGeneration(text::with_lines(&log.to_string_lossy(), source)))
        }
        Ok(Err(e)) => Err(CompileError::CodeGeneration(format!("NVRTC: {e:?}"))),
        Err(_) => Err(CompileError::CodeGeneration("there is no NVRTC library on this machine; it comes with the CUDA toolkit".into())),
    }
}

/// `$XDG_CACHE_HOME/snnc`, or `~/.cache/snnc`.
fn cache_folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(base.join("snnc"))
}

/// Writes a file whole or not at all.
fn store(file: &std::path::Path, text: &str) -> std::io::Result<()> {
    let Some(folder) = file.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    let partial = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, file)
}

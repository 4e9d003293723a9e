//! The candle backend of snnc: the plan of `snn-cpu`, run on candle's devices.
//!
//! * A *step kernel* is one launch for all time steps. On the CPU it is the machine code of `snn-cpu`; for CUDA and Metal
//!   [`text`] writes it as source, which is compiled when a program is ([`kernels`]).
//! * *Contractions, convolutions, pools, reductions and movement* are candle operations ([`ops`], [`products`]). What candle
//!   has no operation for is first said in others ([`lower`]).
//! * Data stays on the device from the inputs to the outputs. Weights stay there between runs.
//!
//! What no device operation serves (remainders of integers, random numbers) is evaluated by the interpreter's functions on
//! the host; [`describe`] says so where it happens.

// A build without any device is only good for checking that none is needed to compile the rest.
#![cfg_attr(not(any(feature = "cpu", feature = "cuda", feature = "metal")), allow(unused, dead_code))]

mod convert;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod describe;
pub mod device;
mod kernels;
mod lower;
mod memory;
#[cfg(feature = "metal")]
mod metal;
mod ops;
mod products;
mod run;
pub mod values;

use candle_core::Device;
use snn_ir::backend::check_sizes;
use snn_ir::{Backend, CompileError, Executable, Graph};

pub use device::{DeviceError, DeviceName, devices};

/// In which type contractions are computed. States and everything else are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, 5 of them the exponent.
    F16,
    /// 16 bits, 8 of them the exponent.
    BF16,
}

/// Compiles graphs for a device.
pub struct Candle {
    device: Device,
    precision: Precision,
    /// Use candle's operations even where the CPU has a faster form of its own.
    plain: bool,
}

impl Candle {
    /// A backend for a device.
    ///
    /// # Errors
    /// If there is no such device, or this build does not support it.
    pub fn new(name: DeviceName, precision: Precision) -> Result<Candle, DeviceError> {
        if precision != Precision::F32 && name == DeviceName::Cpu {
            return Err(DeviceError::Precision);
        }
        Ok(Candle { device: name.open()?, precision, plain: false })
    }

    /// A backend on the CPU that computes contractions and pools exactly as it would on a GPU, by candle's operations: for tests.
    pub fn plain() -> Candle {
        Candle { device: Device::Cpu, precision: Precision::F32, plain: true }
    }
}

impl Backend for Candle {
    fn name(&self) -> &'static str {
        "candle"
    }

    fn compile(&self, graph: &Graph) -> Result<Box<dyn Executable>, CompileError> {
        check_sizes(graph)?;
        let graph = lower::lower(&graph.pruned(), self.device.is_cpu() && !self.plain);
        let plan = snn_plan::plan(&graph)?;
        Ok(Box::new(run::Runnable::new(graph, plan, self.device.clone(), self.precision, self.plain)?))
    }
}

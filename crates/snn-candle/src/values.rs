//! The values of a run: on the device, and on the CPU in host memory too, wherever they were last written or read.

use std::collections::HashMap;

use candle_core::{CpuStorage, Device, Result, Storage, StorageRef, Tensor as CandleTensor};
use snn_ir::{DType, Tensor, Value};
use snn_plan::buffers::{Buffers, InputSlice};

use crate::convert::{download, upload};

/// A value in either form, or in both.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// As the CPU's kernels write it and results are given.
    pub host: Option<Tensor>,
    /// As candle's operations read it.
    pub device: Option<CandleTensor>,
}

impl Slot {
    /// A value on the host.
    pub fn host(tensor: Tensor) -> Slot {
        Slot { host: Some(tensor), device: None }
    }

    /// A value on the device.
    pub fn device(tensor: CandleTensor) -> Slot {
        Slot { host: None, device: Some(tensor) }
    }

    /// It on the device; brought there if it is not.
    ///
    /// # Errors
    /// If the device fails.
    pub fn on_device(&mut self, device: &Device) -> Result<CandleTensor> {
        if let (None, Some(t)) = (&self.device, &self.host) {
            self.device = Some(upload(t, device)?);
        }
        self.device.clone().ok_or_else(|| candle_core::Error::Msg("a value is nowhere".into()))
    }

    /// It on the host; copied if it is not there.
    ///
    /// # Errors
    /// If the device fails.
    pub fn on_host(&self, dtype: DType, buffers: &Buffers) -> Result<Tensor> {
        match (&self.host, &self.device) {
            (Some(t), _) => Ok(t.clone()),
            (None, Some(t)) if t.device().is_cpu() && dtype == DType::F32 => {
                let reading = self.reading()?;
                let mut data = buffers.take(t.elem_count());
                data.copy_from_slice(reading.floats()?);
                Ok(Tensor::f32(t.dims().to_vec(), data))
            }
            (None, Some(t)) => download(t, dtype),
            (None, None) => candle_core::bail!("a value is nowhere"),
        }
    }

    /// It where the CPU's kernels can read it.
    ///
    /// # Errors
    /// If it is on another device.
    pub fn reading(&self) -> Result<Reading<'_>> {
        match (&self.host, &self.device) {
            (Some(t), _) => Ok(Reading::Host(t)),
            (None, Some(t)) => Ok(Reading::Candle(t.storage_and_layout().0, t)),
            (None, None) => candle_core::bail!("a value is nowhere"),
        }
    }
}

/// A value that is being read on the CPU.
pub enum Reading<'a> {
    /// In host memory.
    Host(&'a Tensor),
    /// In candle's.
    Candle(StorageRef<'a>, &'a CandleTensor),
}

impl Reading<'_> {
    /// Its elements.
    ///
    /// # Errors
    /// If it is on another device.
    pub fn elements(&self) -> Result<InputSlice<'_>> {
        match self {
            Reading::Host(t) => Ok(InputSlice::from(*t)),
            Reading::Candle(storage, t) => {
                let start = t.layout().start_offset();
                let range = start..start + t.elem_count();
                match &**storage {
                    Storage::Cpu(CpuStorage::F32(v)) => Ok(InputSlice::Floats(&v[range])),
                    Storage::Cpu(CpuStorage::I64(v)) => Ok(InputSlice::Integers(&v[range])),
                    Storage::Cpu(CpuStorage::U8(v)) => Ok(InputSlice::Bytes(&v[range])),
                    _ => candle_core::bail!("a kernel of the CPU reads {:?} on {:?}", t.dtype(), t.device()),
                }
            }
        }
    }

    /// Its elements, which are floats.
    ///
    /// # Errors
    /// If they are not.
    pub fn floats(&self) -> Result<&[f32]> {
        match self.elements()? {
            InputSlice::Floats(v) => Ok(v),
            other => candle_core::bail!("floats are needed, not {other:?}"),
        }
    }
}

/// The values that are there.
#[derive(Clone, Debug, Default)]
pub struct Values(pub HashMap<Value, Slot>);

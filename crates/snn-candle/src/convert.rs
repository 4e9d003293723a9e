//! Tensors between the host and a device.

use candle_core::{Device, Result, Tensor as CandleTensor};
use snn_ir::{DType, Data, Tensor};

/// The type in which candle holds elements: booleans are bytes.
pub fn candle_type(dtype: DType) -> candle_core::DType {
    match dtype {
        DType::F32 => candle_core::DType::F32,
        DType::I64 => candle_core::DType::I64,
        DType::Bool | DType::U8 => candle_core::DType::U8,
    }
}

/// Copies a tensor to a device.
pub fn upload(tensor: &Tensor, device: &Device) -> Result<CandleTensor> {
    match tensor.data() {
        Data::F32(v) => CandleTensor::from_slice(v, tensor.shape(), device),
        Data::I64(v) => CandleTensor::from_slice(v, tensor.shape(), device),
        Data::Bool(v) | Data::U8(v) => CandleTensor::from_slice(v, tensor.shape(), device),
    }
}

/// Copies a tensor to the host.
pub fn download(tensor: &CandleTensor, dtype: DType) -> Result<Tensor> {
    let shape = tensor.dims().to_vec();
    if tensor.elem_count() == 0 {
        return Ok(Tensor::zeros(dtype, shape));
    }
    let flat = tensor.flatten_all()?;
    Ok(match dtype {
        DType::F32 => Tensor::f32(shape, flat.to_vec1::<f32>()?),
        DType::I64 => Tensor::i64(shape, flat.to_vec1::<i64>()?),
        DType::Bool => Tensor::bool(shape, flat.to_vec1::<u8>()?),
        DType::U8 => Tensor::u8(shape, flat.to_vec1::<u8>()?),
    })
}

//! The safetensors format.

use std::borrow::Cow;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, View, serialize as write};
use snn_ir::{Data, Tensor};

use crate::convert::floats;
use crate::{FileError, Tensors};

pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Tensors, FileError> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| FileError::Format { path: path.into(), reason: e.to_string() })?;
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let unsupported = |dtype: String| FileError::ElementType { path: path.into(), name: name.clone(), dtype };
        let (shape, data) = (view.shape().to_vec(), view.data());
        macro_rules! words {
            ($t:ty) => {
                data.chunks_exact(size_of::<$t>()).map(|c| <$t>::from_le_bytes(c.try_into().unwrap_or_default()))
            };
        }
        let tensor = match view.dtype() {
            Dtype::F32 => Tensor::f32(shape, words!(f32).collect()),
            Dtype::F64 => floats(words!(f64).collect(), &shape).map_err(unsupported)?,
            Dtype::F16 => Tensor::f32(shape, words!(u16).map(|b| half::f16::from_bits(b).to_f32()).collect()),
            Dtype::BF16 => Tensor::f32(shape, words!(u16).map(|b| half::bf16::from_bits(b).to_f32()).collect()),
            Dtype::I64 => Tensor::i64(shape, words!(i64).collect()),
            Dtype::I32 => Tensor::i64(shape, words!(i32).map(i64::from).collect()),
            Dtype::I16 => Tensor::i64(shape, words!(i16).map(i64::from).collect()),
            Dtype::I8 => Tensor::i64(shape, words!(i8).map(i64::from).collect()),
            Dtype::BOOL => Tensor::bool(shape, data.iter().map(|b| u8::from(*b != 0)).collect()),
            Dtype::U8 => Tensor::u8(shape, data.to_vec()),
            other => return Err(unsupported(format!("{other:?}"))),
        };
        tensors.push((name, tensor));
    }
    // The library lists them in any order.
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(tensors)
}

struct Written<'a>(&'a Tensor);

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.data() {
            Data::F32(_) => Dtype::F32,
            Data::I64(_) => Dtype::I64,
            Data::Bool(_) => Dtype::BOOL,
            Data::U8(_) => Dtype::U8,
        }
    }
    fn shape(&self) -> &[usize] {
        self.0.shape()
    }
    fn data(&self) -> Cow<'_, [u8]> {
        match self.0.data() {
            Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::Bool(v) | Data::U8(v) => Cow::Borrowed(v.as_slice()),
        }
    }
    fn data_len(&self) -> usize {
        self.0.byte_len()
    }
}

pub(crate) fn serialize(tensors: &[(String, Tensor)], path: &Path) -> Result<Vec<u8>, FileError> {
    let views = tensors.iter().map(|(n, t)| (n.as_str(), Written(t)));
    write(views, None).map_err(|e| FileError::Write { path: path.into(), source: std::io::Error::other(e.to_string()) })
}

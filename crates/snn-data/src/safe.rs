//! The safetensors format.

use std::borrow::Cow;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, View, serialize as write};
use snn_ir::{Data, Tensor};

use crate::element::{Element, decode};
use crate::{FileError, Loaded, Request};

pub(crate) fn read(path: &Path, request: &Request<'_>, loaded: &mut Loaded) -> Result<(), FileError> {
    let bytes = std::fs::read(path).map_err(|source| FileError::Read { path: path.into(), source })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| FileError::Format { path: path.into(), reason: e.to_string() })?;
    let mut views = file.tensors();
    // The library lists them in any order.
    views.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, view) in views {
        if !(request.wanted)(&name) {
            loaded.others.push(name);
            continue;
        }
        let element = match view.dtype() {
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::F32 => Element::F32,
            Dtype::F64 => Element::F64,
            Dtype::I8 => Element::I8,
            Dtype::I16 => Element::I16,
            Dtype::I32 => Element::I32,
            Dtype::I64 => Element::I64,
            Dtype::U8 => Element::U8,
            Dtype::U16 => Element::U16,
            Dtype::U32 => Element::U32,
            Dtype::U64 => Element::U64,
            Dtype::BOOL => Element::Bool,
            other => return Err(FileError::ElementType { path: path.into(), name, dtype: format!("{other:?}") }),
        };
        request.reserve(path, &name, view.shape().iter().product::<usize>() as u64 * element.bytes_in_memory() as u64)?;
        let decoded = decode(&mut view.data(), element, view.shape(), false)
            .map_err(|e| FileError::Format { path: path.into(), reason: format!("`{name}`: {e}") })?;
        loaded.add(path, &name, decoded.tensor, decoded.rounded);
    }
    Ok(())
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

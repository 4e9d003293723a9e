//! The npy and npz formats.

use std::io::{self, Cursor, Read};
use std::path::Path;

use npyz::npz::{NpzArchive, NpzWriter};
use npyz::{DType as NpyType, NpyFile, Order, TypeChar, WriterBuilder};
use snn_ir::tensor::{element_count, row_major_strides};
use snn_ir::{Data, Tensor};

use crate::convert::floats;
use crate::{FileError, Tensors};

/// No archive holds more than this many times its own size: deflate's limit.
const MOST_COMPRESSION: u64 = 1032;

pub(crate) fn read_npy(bytes: &[u8], path: &Path, name: &str) -> Result<Tensor, FileError> {
    let file = NpyFile::new(Cursor::new(bytes)).map_err(|e| bad(path, e))?;
    tensor(file, bytes.len() as u64, path, name)
}

pub(crate) fn read_npz(bytes: &[u8], path: &Path) -> Result<Tensors, FileError> {
    let mut archive = NpzArchive::new(Cursor::new(bytes)).map_err(|e| bad(path, e))?;
    let names: Vec<String> = archive.array_names().map(str::to_string).collect();
    let mut tensors = Vec::new();
    for name in names {
        if let Some(file) = archive.by_name(&name).map_err(|e| bad(path, e))? {
            tensors.push((name.clone(), tensor(file, (bytes.len() as u64).saturating_mul(MOST_COMPRESSION), path, &name)?));
        }
    }
    Ok(tensors)
}

fn bad(path: &Path, e: io::Error) -> FileError {
    FileError::Format { path: path.into(), reason: e.to_string() }
}

fn tensor<R: Read>(file: NpyFile<R>, most_bytes: u64, path: &Path, name: &str) -> Result<Tensor, FileError> {
    let format = |reason: String| FileError::Format { path: path.into(), reason: format!("`{name}`: {reason}") };
    let unsupported = |dtype: String| FileError::ElementType { path: path.into(), name: name.into(), dtype };
    let shape: Option<Vec<usize>> = file.shape().iter().map(|n| usize::try_from(*n).ok()).collect();
    let shape = shape.ok_or_else(|| format("its shape is too large".into()))?;
    let NpyType::Plain(ty) = file.dtype() else { return Err(unsupported("a record".into())) };
    let fits = element_count(&shape).and_then(|n| (n as u64).checked_mul(ty.size_field().max(1)));
    if fits.is_none_or(|n| n > most_bytes) {
        return Err(format(format!("its shape {shape:?} needs more bytes than the file has")));
    }
    let fortran = file.order() == Order::Fortran && shape.len() > 1;
    let read = |e: io::Error| format(e.to_string());
    macro_rules! vector {
        ($t:ty) => {
            file.into_vec::<$t>().map_err(read)?
        };
    }
    let integers = |v: Vec<i64>| Tensor::i64(shape.clone(), v);
    let tensor = match (ty.type_char(), ty.size_field()) {
        (TypeChar::Float, 4) => Tensor::f32(shape.clone(), vector!(f32)),
        (TypeChar::Float, 8) => floats(vector!(f64), &shape).map_err(unsupported)?,
        (TypeChar::Int, 8) => integers(vector!(i64)),
        (TypeChar::Int, 4) => integers(vector!(i32).into_iter().map(i64::from).collect()),
        (TypeChar::Int, 2) => integers(vector!(i16).into_iter().map(i64::from).collect()),
        (TypeChar::Int, 1) => integers(vector!(i8).into_iter().map(i64::from).collect()),
        (TypeChar::Uint, 2) => integers(vector!(u16).into_iter().map(i64::from).collect()),
        (TypeChar::Uint, 4) => integers(vector!(u32).into_iter().map(i64::from).collect()),
        (TypeChar::Uint, 1) => Tensor::u8(shape.clone(), vector!(u8)),
        (TypeChar::Bool, _) => Tensor::bool(shape.clone(), vector!(bool).into_iter().map(u8::from).collect()),
        _ => return Err(unsupported(ty.to_string())),
    };
    Ok(if fortran { row_major(&tensor) } else { tensor })
}

/// Elements in column-major order put into row-major order.
fn row_major(t: &Tensor) -> Tensor {
    let shape = t.shape().to_vec();
    let strides = row_major_strides(&shape);
    let mut from = vec![1; shape.len()];
    for i in 1..shape.len() {
        from[i] = from[i - 1] * shape[i - 1];
    }
    let source = |i: usize| (0..shape.len()).map(|a| i / strides[a] % shape[a] * from[a]).sum::<usize>();
    match t.data() {
        Data::F32(v) => Tensor::f32(shape.clone(), (0..v.len()).map(|i| v[source(i)]).collect()),
        Data::I64(v) => Tensor::i64(shape.clone(), (0..v.len()).map(|i| v[source(i)]).collect()),
        Data::Bool(v) => Tensor::bool(shape.clone(), (0..v.len()).map(|i| v[source(i)]).collect()),
        Data::U8(v) => Tensor::u8(shape.clone(), (0..v.len()).map(|i| v[source(i)]).collect()),
    }
}

pub(crate) fn write_npz(tensors: &[(String, Tensor)], path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source: io::Error| FileError::Write { path: path.into(), source };
    let mut bytes = Vec::new();
    let mut archive = NpzWriter::new(Cursor::new(&mut bytes));
    for (name, tensor) in tensors {
        let shape: Vec<u64> = tensor.shape().iter().map(|n| *n as u64).collect();
        macro_rules! write {
            ($values:expr) => {{
                let builder = archive.array(name, Default::default()).map_err(failed)?;
                let mut writer = builder.default_dtype().shape(&shape).begin_nd().map_err(failed)?;
                writer.extend($values).map_err(failed)?;
                writer.finish().map_err(failed)?;
            }};
        }
        match tensor.data() {
            Data::F32(v) => write!(v.iter().copied()),
            Data::I64(v) => write!(v.iter().copied()),
            Data::Bool(v) => write!(v.iter().map(|b| *b != 0)),
            Data::U8(v) => write!(v.iter().copied()),
        }
    }
    drop(archive);
    Ok(bytes)
}

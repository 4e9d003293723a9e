//! The npy format (versions 1 to 3), and npz, which is a zip archive of it. Only what is asked for is read, with its checksum.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use snn_ir::tensor::{element_count, row_major_strides};
use snn_ir::{Data, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::element::{Element, decode};
use crate::{FileError, Loaded, Request};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The longest header that is read.
const LONGEST_HEADER: usize = 1 << 20;

/// What the header of an array says.
struct Header {
    element: Result<Element, String>,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
    /// Its own bytes, magic included.
    length: usize,
}

fn bad(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// The parts of a Python literal between commas outside of brackets and quotes.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut quote, mut start) = (Vec::new(), 0usize, None, 0);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.into_iter().filter(|p| !p.is_empty()).collect()
}

fn header(reader: &mut dyn Read) -> io::Result<Header> {
    let mut start = [0u8; 8];
    reader.read_exact(&mut start).map_err(|_| bad("it is too short for an npy header"))?;
    if &start[..6] != MAGIC {
        return Err(bad("it does not begin as an npy array"));
    }
    let (length, prefix) = match start[6] {
        1 => {
            let mut n = [0u8; 2];
            reader.read_exact(&mut n)?;
            (usize::from(u16::from_le_bytes(n)), 10)
        }
        2 | 3 => {
            let mut n = [0u8; 4];
            reader.read_exact(&mut n)?;
            (u32::from_le_bytes(n) as usize, 12)
        }
        v => return Err(bad(format!("version {v} of the npy format is not known"))),
    };
    if length > LONGEST_HEADER {
        return Err(bad(format!("its header of {length} bytes is too long")));
    }
    let mut text = vec![0u8; length];
    reader.read_exact(&mut text).map_err(|_| bad("its header is cut off"))?;
    let text = String::from_utf8(text).map_err(|_| bad("its header is not text"))?;
    let inside = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(|| bad("its header is no dictionary"))?;
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    for part in parts(inside) {
        let Some((key, value)) = part.split_once(':') else { return Err(bad("its header is no dictionary")) };
        let value = value.trim();
        match key.trim().trim_matches(['\'', '"']) {
            "descr" => descr = Some(value),
            "fortran_order" => fortran = Some(value == "True"),
            "shape" => {
                let list = value.strip_prefix('(').and_then(|v| v.strip_suffix(')')).ok_or_else(|| bad("its shape is no tuple"))?;
                let sizes: Option<Vec<usize>> = parts(list).into_iter().map(|n| n.trim_end_matches('L').parse().ok()).collect();
                shape = Some(sizes.ok_or_else(|| bad(format!("its shape is ({list})")))?);
            }
            _ => {}
        }
    }
    let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
        return Err(bad("its header lacks the type, order or shape"));
    };
    let name = descr.trim_matches(['\'', '"']);
    let big_endian = name.starts_with('>');
    let element = match name.trim_start_matches(['<', '>', '|', '=']) {
        "f2" => Ok(Element::F16),
        "f4" => Ok(Element::F32),
        "f8" => Ok(Element::F64),
        "i1" => Ok(Element::I8),
        "i2" => Ok(Element::I16),
        "i4" => Ok(Element::I32),
        "i8" => Ok(Element::I64),
        "u1" => Ok(Element::U8),
        "u2" => Ok(Element::U16),
        "u4" => Ok(Element::U32),
        "u8" => Ok(Element::U64),
        "b1" => Ok(Element::Bool),
        _ if descr.starts_with('[') => Err("a record".to_string()),
        _ => Err(name.chars().take(40).collect()),
    };
    Ok(Header { element, big_endian, fortran, shape, length: prefix + length })
}

/// Reads the array that a header describes. `available` is how many bytes there are for it, header included.
fn array(
    reader: &mut dyn Read,
    available: u64,
    path: &Path,
    name: &str,
    request: &Request<'_>,
    loaded: &mut Loaded,
) -> Result<(), FileError> {
    let format = |e: io::Error| FileError::Format { path: path.into(), reason: format!("`{name}`: {e}") };
    let h = header(reader).map_err(format)?;
    let element = h.element.map_err(|dtype| FileError::ElementType { path: path.into(), name: name.into(), dtype })?;
    let n = element_count(&h.shape).ok_or_else(|| format(bad("its shape is too large")))?;
    let bytes = (n as u64).checked_mul(element.bytes() as u64).and_then(|b| b.checked_add(h.length as u64));
    if bytes != Some(available) {
        let shape = &h.shape;
        return Err(format(bad(format!("its shape {shape:?} does not fit the {available} bytes that the file has for it"))));
    }
    request.reserve(path, name, n as u64 * element.bytes_in_memory() as u64)?;
    let decoded = decode(reader, element, &h.shape, h.big_endian).map_err(format)?;
    // At the end of a member its checksum is compared.
    let rest = io::copy(&mut reader.take(1), &mut io::sink()).map_err(format)?;
    if rest > 0 {
        return Err(format(bad("it is longer than its header says")));
    }
    let tensor = if h.fortran && h.shape.len() > 1 { row_major(&decoded.tensor, &h.shape) } else { decoded.tensor };
    loaded.add(path, name, tensor, decoded.rounded);
    Ok(())
}

pub(crate) fn read_npy(path: &Path, name: &str, request: &Request<'_>, loaded: &mut Loaded) -> Result<(), FileError> {
    let failed = |source| FileError::Read { path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    array(&mut BufReader::new(file), length, path, name, request, loaded)
}

pub(crate) fn read_npz(path: &Path, request: &Request<'_>, loaded: &mut Loaded) -> Result<(), FileError> {
    let format = |e: zip::result::ZipError| FileError::Format { path: path.into(), reason: e.to_string() };
    let file = File::open(path).map_err(|source| FileError::Read { path: path.into(), source })?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(format)?;
    let mut arrays = 0;
    for i in 0..archive.len() {
        let full = archive.by_index_raw(i).map_err(format)?.name().map_err(format)?.into_owned();
        let Some(name) = full.strip_suffix(".npy") else { continue };
        arrays += 1;
        if !(request.wanted)(name) {
            loaded.others.push(name.to_string());
            continue;
        }
        let mut member = archive.by_index(i).map_err(format)?;
        let size = member.size();
        // Deflate makes at most 1,032 bytes of one.
        if size / 1032 > member.compressed_size() {
            let reason = format!("`{name}` claims {size} bytes from {} compressed ones", member.compressed_size());
            return Err(FileError::Format { path: path.into(), reason });
        }
        array(&mut member, size, path, name, request, loaded)?;
    }
    if arrays == 0 {
        return Err(FileError::Format { path: path.into(), reason: "the archive holds no array (`.npy`)".into() });
    }
    Ok(())
}

/// Elements in column-major order put into row-major order.
fn row_major(t: &Tensor, shape: &[usize]) -> Tensor {
    let strides = row_major_strides(shape);
    let mut from = vec![1; shape.len()];
    for i in 1..shape.len() {
        from[i] = from[i - 1] * shape[i - 1];
    }
    let source = |i: usize| (0..shape.len()).map(|a| i / strides[a] % shape[a] * from[a]).sum::<usize>();
    match t.data() {
        Data::F32(v) => Tensor::f32(shape, (0..v.len()).map(|i| v[source(i)]).collect()),
        Data::I64(v) => Tensor::i64(shape, (0..v.len()).map(|i| v[source(i)]).collect()),
        Data::Bool(v) => Tensor::bool(shape, (0..v.len()).map(|i| v[source(i)]).collect()),
        Data::U8(v) => Tensor::u8(shape, (0..v.len()).map(|i| v[source(i)]).collect()),
    }
}

pub(crate) fn write_npz(tensors: &[(String, Tensor)], path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source: io::Error| FileError::Write { path: path.into(), source };
    let mut archive = ZipWriter::new(io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    for (name, tensor) in tensors {
        archive.start_file(format!("{name}.npy"), options).map_err(|e| failed(e.into()))?;
        let descr = match tensor.data() {
            Data::F32(_) => "<f4",
            Data::I64(_) => "<i8",
            Data::Bool(_) => "|b1",
            Data::U8(_) => "|u1",
        };
        let sizes: String = tensor.shape().iter().map(|n| format!("{n},")).collect();
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
        // The data begin at a multiple of 64 bytes.
        let length = (text.len() + 1 + 12).next_multiple_of(64) - 12;
        text.push_str(&" ".repeat(length - 1 - text.len()));
        text.push('\n');
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&[2, 0]);
        head.extend_from_slice(&(length as u32).to_le_bytes());
        head.extend_from_slice(text.as_bytes());
        archive.write_all(&head).map_err(failed)?;
        match tensor.data() {
            Data::F32(v) => v.iter().try_for_each(|x| archive.write_all(&x.to_le_bytes())),
            Data::I64(v) => v.iter().try_for_each(|x| archive.write_all(&x.to_le_bytes())),
            Data::Bool(v) | Data::U8(v) => archive.write_all(v),
        }
        .map_err(failed)?;
    }
    Ok(archive.finish().map_err(|e| failed(e.into()))?.into_inner())
}

//! Tensor files: `.safetensors`, `.npz` and `.npy`, read with every length checked and written whole or not at all.

mod convert;
mod numpy;
mod safe;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use snn_ir::Tensor;

pub use convert::{FitError, fit};

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FileError {
    #[error("cannot read `{path}`: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write `{path}`: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("`{path}` is not a tensor file: {reason}")]
    Format { path: PathBuf, reason: String },
    #[error("`{path}`: the tensor `{name}` has elements of type {dtype}, which are not supported; save it as f32, i64, bool or u8")]
    ElementType { path: PathBuf, name: String, dtype: String },
    #[error("`{path}` has no known ending: `.safetensors`, `.npz`, or `name=file.npy`")]
    Ending { path: PathBuf },
}

/// Tensors by name, in order.
pub type Tensors = Vec<(String, Tensor)>;

/// Reads a file: `x.safetensors`, `x.npz`, or `name=x.npy`.
///
/// # Errors
/// If it cannot be read, is cut off, or states what is not true.
pub fn load(argument: &str) -> Result<Tensors, FileError> {
    if let Some((name, path)) = argument.split_once('=') {
        let path = Path::new(path);
        let bytes = read(path)?;
        return Ok(vec![(name.to_string(), numpy::read_npy(&bytes, path, name)?)]);
    }
    let path = Path::new(argument);
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => safe::parse(&read(path)?, path),
        Some("npz") => numpy::read_npz(&read(path)?, path),
        Some("npy") => {
            Err(FileError::Format { path: path.into(), reason: "an .npy file has no name inside: write `name=file.npy`".into() })
        }
        _ => Err(FileError::Ending { path: path.into() }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|source| FileError::Read { path: path.into(), source })
}

/// Writes tensors by the ending of the path, `.safetensors` or `.npz`: to a temporary file beside it, which is then renamed.
///
/// # Errors
/// If it cannot be written; a file that was there before stays as it was.
pub fn save(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), FileError> {
    let bytes = match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => safe::serialize(tensors, path)?,
        Some("npz") => numpy::write_npz(tensors, path)?,
        _ => return Err(FileError::Ending { path: path.into() }),
    };
    replace(path, &bytes).map_err(|source| FileError::Write { path: path.into(), source })
}

/// Writes a file whole or not at all. A file that was there before keeps its permissions.
///
/// # Errors
/// If it cannot be written; a file that was there before stays as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let builder = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The folder is asked first: the temporary file's error would name a file that nobody knows.
    fs::metadata(folder)?;
    let mut file = builder.tempfile_in(folder).map_err(|e| std::io::Error::from(e.kind()))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    if let Ok(about) = fs::metadata(path) {
        file.as_file().set_permissions(about.permissions())?;
    }
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_read_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = vec![
            ("a.weight".to_string(), Tensor::f32([2, 2], vec![1.5, -0.0, f32::INFINITY, 1e-40])),
            ("n".to_string(), Tensor::i64([3], vec![i64::MIN, 0, 7])),
            ("t".to_string(), Tensor::bool([2], vec![0, 1])),
            ("u".to_string(), Tensor::u8([0, 4], vec![])),
            ("s".to_string(), Tensor::scalar(2.5)),
        ];
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        for name in ["x.safetensors", "x.npz"] {
            let path = folder.path().join(name);
            save(&path, &tensors).unwrap();
            let mut back = load(path.to_str().unwrap()).unwrap();
            back.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(back, tensors, "{name}");
        }
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let good = folder.path().join("x.safetensors");
        save(&good, &[("x".to_string(), Tensor::f32([64], vec![1.0; 64]))]).unwrap();
        let bytes = fs::read(&good).unwrap();
        let bad = folder.path().join("bad.safetensors");
        for cut in [0, 4, 8, 20, bytes.len() - 1] {
            fs::write(&bad, &bytes[..cut]).unwrap();
            assert!(load(bad.to_str().unwrap()).is_err(), "cut at {cut}");
        }
        // A header that claims to be enormous, and a shape that overflows.
        fs::write(&bad, [0xff; 16]).unwrap();
        assert!(load(bad.to_str().unwrap()).is_err());
        let header = br#"{"x":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,4]}}"#;
        let mut lying = (header.len() as u64).to_le_bytes().to_vec();
        lying.extend_from_slice(header);
        lying.extend_from_slice(&[0; 4]);
        fs::write(&bad, &lying).unwrap();
        assert!(load(bad.to_str().unwrap()).is_err());
        let npy = folder.path().join("x.npy");
        let mut text = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999), }".to_vec();
        text.resize(127, b' ');
        text.push(b'\n');
        fs::write(&npy, &text).unwrap();
        assert!(load(&format!("x={}", npy.display())).is_err());
        assert!(load("nowhere.safetensors").is_err() && load("what.txt").is_err());
    }
}

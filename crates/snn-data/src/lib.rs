//! Tensor files: `.safetensors`, `.npz` and `.npy`, read with every length checked and written whole or not at all.

mod convert;
mod element;
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
    #[error("`{path}`: `{name}` needs {needed} bytes with what was read before, and {limit} may be used (`--memory-limit`)")]
    TooLarge { path: PathBuf, name: String, needed: u64, limit: u64 },
    #[error("`{path}` has no known ending: `.safetensors`, `.npz`, or `name=file.npy`")]
    Ending { path: PathBuf },
}

/// Tensors by name, in order.
pub type Tensors = Vec<(String, Tensor)>;

/// What is read of a file.
pub struct Request<'a> {
    /// Is the tensor of that name read?
    pub wanted: &'a dyn Fn(&str) -> bool,
    /// How many bytes may be read in all, and were.
    pub limit: u64,
    used: std::cell::Cell<u64>,
}

impl<'a> Request<'a> {
    /// What is wanted, in at most `limit` bytes.
    pub fn new(wanted: &'a dyn Fn(&str) -> bool, limit: u64) -> Request<'a> {
        Request { wanted, limit, used: std::cell::Cell::new(0) }
    }

    fn reserve(&self, path: &Path, name: &str, bytes: u64) -> Result<(), FileError> {
        let needed = self.used.get().saturating_add(bytes);
        if needed > self.limit {
            return Err(FileError::TooLarge { path: path.into(), name: name.into(), needed, limit: self.limit });
        }
        self.used.set(needed);
        Ok(())
    }
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What was asked for, in the order of the file.
    pub tensors: Tensors,
    /// The names of what else there is.
    pub others: Vec<String>,
    /// What was changed on the way, in words.
    pub warnings: Vec<String>,
}

impl Loaded {
    fn add(&mut self, path: &Path, name: &str, tensor: Tensor, rounded: bool) {
        if rounded {
            self.warnings.push(format!("`{}`: `{name}` is f64, and was rounded to f32", path.display()));
        }
        self.tensors.push((name.to_string(), tensor));
    }
}

/// Reads a whole file: `x.safetensors`, `x.npz`, or `name=x.npy`.
///
/// # Errors
/// As [`load_wanted`].
pub fn load(argument: &str) -> Result<Tensors, FileError> {
    Ok(load_wanted(argument, &Request::new(&|_| true, u64::MAX))?.tensors)
}

/// Reads of a file what is asked for: `x.safetensors`, `x.npz`, or `name=x.npy`.
///
/// # Errors
/// If it cannot be read, is cut off, states what is not true, or is too large.
pub fn load_wanted(argument: &str, request: &Request<'_>) -> Result<Loaded, FileError> {
    let mut loaded = Loaded::default();
    // A path may hold `=`: only what is no file is a name and a path.
    let named = argument.split_once('=').filter(|_| !Path::new(argument).exists());
    let path = Path::new(named.map_or(argument, |(_, path)| path));
    let about = fs::metadata(path).map_err(|source| FileError::Read { path: path.into(), source })?;
    if !about.is_file() {
        let what = if about.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(FileError::Format { path: path.into(), reason: format!("it is {what}, not a file") });
    }
    match (named, path.extension().and_then(|e| e.to_str())) {
        (Some((name, _)), _) => numpy::read_npy(path, name, request, &mut loaded)?,
        (None, Some("safetensors")) => safe::read(path, request, &mut loaded)?,
        (None, Some("npz")) => numpy::read_npz(path, request, &mut loaded)?,
        (None, Some("npy")) => {
            let reason = "an .npy file has no name inside: write `name=file.npy`".into();
            return Err(FileError::Format { path: path.into(), reason });
        }
        (None, _) => return Err(FileError::Ending { path: path.into() }),
    }
    Ok(loaded)
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

/// What names of temporary files begin with. One that is left was of a process that was killed.
const TEMPORARY: &str = ".snnc-unfinished-";

/// Removes what killed processes have left in a folder that nobody else writes to.
pub fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            // What cannot be removed does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes a file whole or not at all. A file that was there before keeps its permissions.
///
/// # Errors
/// If it cannot be written; a file that was there before stays as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // A link is followed, and what is no file (a pipe, a terminal) is written to: neither is replaced by a file.
    let target = fs::canonicalize(path).ok();
    let path = target.as_deref().unwrap_or(path);
    if fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        return fs::OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let builder = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The folder is asked first: the temporary file's error would name a file that nobody knows.
    fs::metadata(folder)?;
    let mut file = builder.prefix(TEMPORARY).tempfile_in(folder).map_err(|e| std::io::Error::from(e.kind()))?;
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

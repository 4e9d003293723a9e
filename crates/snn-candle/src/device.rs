//! Devices by name.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

/// A device, as `--device` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
    /// An Apple GPU, by its number.
    Metal(usize),
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DeviceError {
    #[error("`{0}` is not a device; there are cpu, cuda, cuda:N, metal and metal:N")]
    Unknown(String),
    #[error("this snnc is built without {0}; build it with `cargo build --release --features {0}`")]
    NotBuilt(&'static str),
    #[error("{name} cannot be used: {why}; `snnc devices` lists what can")]
    Unusable { name: DeviceName, why: String },
    #[error("products of 16 bits need a GPU; on the CPU use `--dtype f32`")]
    Precision,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceName::Metal(n) => write!(f, "metal:{n}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<DeviceName, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_string());
        let (kind, number) = match text.split_once(':') {
            Some((kind, n)) => (kind, Some(n.parse::<usize>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (kind, number) {
            ("cpu", None) => Ok(DeviceName::Cpu),
            ("cuda", n) => Ok(DeviceName::Cuda(n.unwrap_or(0))),
            ("metal", n) => Ok(DeviceName::Metal(n.unwrap_or(0))),
            _ => Err(unknown()),
        }
    }
}

impl DeviceName {
    /// Opens it.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn open(self) -> Result<Device, DeviceError> {
        let unusable = |why: String| DeviceError::Unusable { name: self, why };
        match self {
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Cuda(_) if !cfg!(feature = "cuda") => Err(DeviceError::NotBuilt("cuda")),
            DeviceName::Metal(_) if !cfg!(feature = "metal") => Err(DeviceError::NotBuilt("metal")),
            DeviceName::Cuda(n) => {
                cuda_count().and_then(|count| among(n, count)).map_err(unusable)?;
                Device::new_cuda(n).map_err(|e| unusable(first_line(&e)))
            }
            DeviceName::Metal(n) => {
                among(n, metal_count()).map_err(unusable)?;
                Device::new_metal(n).map_err(|e| unusable(first_line(&e)))
            }
        }
    }
}

fn among(n: usize, count: usize) -> Result<(), String> {
    match count {
        0 => Err("the driver knows no device".into()),
        1 if n > 0 => Err("there is one device, number 0".into()),
        _ if n >= count => Err(format!("there are {count} devices, numbers 0 to {}", count - 1)),
        _ => Ok(()),
    }
}

/// How many CUDA devices there are, or why none can be used.
#[cfg(feature = "cuda")]
fn cuda_count() -> Result<usize, String> {
    crate::cuda::device_count()
}

#[cfg(not(feature = "cuda"))]
fn cuda_count() -> Result<usize, String> {
    Err("this build has no CUDA".into())
}

/// Bytes that are free on a device, where it says so.
pub(crate) fn free_memory(device: &Device) -> Option<usize> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(d) => crate::cuda::free_memory(d),
        _ => None,
    }
}

/// How many Metal devices there are.
#[cfg(feature = "metal")]
fn metal_count() -> usize {
    candle_metal_kernels::metal::Device::all().len()
}

#[cfg(not(feature = "metal"))]
fn metal_count() -> usize {
    0
}

/// An error of candle's in one line; the rest is its back trace.
pub(crate) fn first_line(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_string()
}

/// Every device: its name, and what it is or why it cannot be used.
pub fn devices() -> Vec<(String, Result<String, String>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut list = vec![("cpu".to_string(), Ok(format!("{threads} threads")))];
    match cuda_count() {
        _ if !cfg!(feature = "cuda") => list.push(("cuda".into(), Err(DeviceError::NotBuilt("cuda").to_string()))),
        Ok(count) => {
            for n in 0..count {
                list.push((DeviceName::Cuda(n).to_string(), cuda_description(n)));
            }
            if count == 0 {
                list.push(("cuda".into(), Err("the driver knows no device".into())));
            }
        }
        Err(why) => list.push(("cuda".into(), Err(why))),
    }
    let metal = DeviceName::Metal(0).open();
    list.push(("metal".into(), metal.map(|_| "an Apple GPU".into()).map_err(|e| e.to_string())));
    list
}

#[cfg(feature = "cuda")]
fn cuda_description(n: usize) -> Result<String, String> {
    crate::cuda::description(n)
}

#[cfg(not(feature = "cuda"))]
fn cuda_description(_: usize) -> Result<String, String> {
    cuda_count().map(|_| String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_one_of_a_device() {
        assert_eq!(among(0, 1), Ok(()));
        assert_eq!(among(1, 2), Ok(()));
        assert_eq!(among(0, 0).unwrap_err(), "the driver knows no device");
        assert_eq!(among(3, 1).unwrap_err(), "there is one device, number 0");
        assert_eq!(among(9, 2).unwrap_err(), "there are 2 devices, numbers 0 to 1");
    }

    #[test]
    fn names_are_read_and_written() {
        for name in ["cpu", "cuda:0", "cuda:3", "metal:1"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for name in ["", "cpu:1", "cuda:", "cuda:-1", "tpu", "metal:x"] {
            assert!(name.parse::<DeviceName>().is_err(), "{name}");
        }
    }
}

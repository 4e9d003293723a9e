//! What kernels read and write while a plan runs, and the memory that earlier kernels and runs have left.

use std::sync::{Arc, Mutex, PoisonError};

use snn_ir::{Data, Tensor};

/// The elements of a tensor that a kernel reads.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum InputSlice<'t> {
    Floats(&'t [f32]),
    Integers(&'t [i64]),
    Bytes(&'t [u8]),
}

impl<'t> From<&'t Tensor> for InputSlice<'t> {
    fn from(t: &'t Tensor) -> InputSlice<'t> {
        match t.data() {
            Data::F32(v) => InputSlice::Floats(v),
            Data::I64(v) => InputSlice::Integers(v),
            Data::Bool(v) | Data::U8(v) => InputSlice::Bytes(v),
        }
    }
}

/// Memory for one result.
pub enum OutputBuffer {
    /// Floats.
    Floats(Vec<f32>),
    /// Booleans.
    Bytes(Vec<u8>),
}

impl OutputBuffer {
    /// What has been written, as a tensor.
    pub fn tensor(self, shape: Vec<usize>) -> Tensor {
        match self {
            OutputBuffer::Floats(data) => Tensor::f32(shape, data),
            OutputBuffer::Bytes(data) => Tensor::bool(shape, data),
        }
    }
}

/// More buffers than this are given back to the system.
const KEPT_BUFFERS: usize = 64;

/// Buffers of floats that nobody holds, the oldest first.
#[derive(Debug)]
pub struct Buffers {
    spare: Mutex<Vec<Vec<f32>>>,
    /// Bytes that are kept at most.
    most: usize,
}

impl Buffers {
    /// No buffers yet. `peak` is what a run holds at most: twice that is kept, for its results are held by others meanwhile.
    pub fn new(peak: usize) -> Buffers {
        Buffers { spare: Mutex::default(), most: peak.saturating_mul(2).max(1 << 16) }
    }

    /// A buffer of that many floats. What it holds does not matter: every kernel writes its whole result.
    pub fn take(&self, n: usize) -> Vec<f32> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = spare.iter().position(|v| v.capacity() >= n && v.capacity() <= n.saturating_mul(2).max(64));
        match fits.map(|i| spare.swap_remove(i)) {
            Some(mut v) => {
                v.resize(n, 0.0);
                v
            }
            None => vec![0.0; n],
        }
    }

    /// Keeps the memory of a tensor that nobody else holds.
    pub fn keep(&self, tensor: Tensor) {
        if let Data::F32(v) = tensor.data() {
            let v = v.clone();
            drop(tensor);
            if let Ok(v) = Arc::try_unwrap(v) {
                let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
                spare.push(v);
                // What is kept and never fits must not fill the memory.
                let bytes = |spare: &[Vec<f32>]| spare.iter().map(|v| v.capacity() * 4).sum::<usize>();
                while spare.len() > KEPT_BUFFERS || bytes(&spare) > self.most {
                    spare.remove(0);
                }
            }
        }
    }
}

//! What kernels read and write while a plan runs, and the memory that earlier kernels and runs have left.

use std::collections::BTreeMap;
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

/// Buffers of floats that nobody holds.
#[derive(Debug)]
pub struct Buffers {
    spare: Mutex<Spare>,
    /// Bytes that are kept at most.
    most: usize,
}

#[derive(Debug, Default)]
struct Spare {
    /// By size, and then by when they were given.
    buffers: BTreeMap<(usize, u64), Vec<f32>>,
    bytes: usize,
    given: u64,
}

impl Buffers {
    /// No buffers yet. `peak` is what a run holds at most: twice that is kept, for its results are held by others meanwhile.
    pub fn new(peak: usize) -> Buffers {
        Buffers { spare: Mutex::default(), most: peak.saturating_mul(2).max(1 << 16) }
    }

    /// A buffer of that many floats. What it holds does not matter: every kernel writes its whole result.
    pub fn take(&self, n: usize) -> Vec<f32> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = (n, 0)..=(n.saturating_mul(2).max(64), u64::MAX);
        let found = spare.buffers.range(fits).next().map(|(key, _)| *key);
        let Some(mut v) = found.and_then(|key| spare.buffers.remove(&key)) else { return vec![0.0; n] };
        spare.bytes -= size_of::<f32>() * v.capacity();
        drop(spare);
        v.resize(n, 0.0);
        v
    }

    /// Memory for as long as a kernel runs.
    pub fn scratch(&self, n: usize) -> Scratch<'_> {
        Scratch { data: self.take(n), of: self }
    }

    /// Keeps the memory of a tensor that nobody else holds.
    pub fn keep(&self, tensor: Tensor) {
        if let Data::F32(v) = tensor.data() {
            let v = v.clone();
            drop(tensor);
            if let Ok(v) = Arc::try_unwrap(v) {
                self.give(v);
            }
        }
    }

    /// Keeps a buffer.
    pub fn give(&self, v: Vec<f32>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.given += 1;
        spare.bytes += size_of::<f32>() * v.capacity();
        let key = (v.capacity(), spare.given);
        spare.buffers.insert(key, v);
        // What is kept and never fits must not fill the memory: the oldest goes.
        while spare.bytes > self.most {
            let Some(oldest) = spare.buffers.keys().min_by_key(|(_, given)| *given).copied() else { return };
            spare.buffers.remove(&oldest);
            spare.bytes -= size_of::<f32>() * oldest.0;
        }
    }
}

/// Floats that are given back when they are dropped.
#[derive(Debug)]
pub struct Scratch<'a> {
    data: Vec<f32>,
    of: &'a Buffers,
}

impl std::ops::Deref for Scratch<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data
    }
}

impl std::ops::DerefMut for Scratch<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.of.give(std::mem::take(&mut self.data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_buffer_that_fits_is_taken_and_the_oldest_is_given_up() {
        let buffers = Buffers::new(1 << 16);
        for n in [4000, 2000, 3000] {
            buffers.give(Vec::with_capacity(n));
        }
        assert_eq!(buffers.take(1900).capacity(), 2000);
        assert_eq!(buffers.take(1900).capacity(), 3000);
        assert_eq!(buffers.take(1900).capacity(), 1900, "one of more than twice the size is left alone");
        drop(buffers.scratch(2500));
        assert_eq!(buffers.take(2500).capacity(), 4000, "scratch comes back");
        for n in [10_000, 20_000, 8000] {
            buffers.give(Vec::with_capacity(n));
        }
        assert_eq!(buffers.take(10_000).capacity(), 20_000, "the oldest went when twice the peak was exceeded");
    }
}

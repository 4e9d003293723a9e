//! What kernels read and write while a plan runs, and the memory that earlier kernels and runs have left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use snn_ir::{DType, Data, Tensor};

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

/// Buffers that nobody holds.
///
/// Together with what is held they never exceed [`Buffers::most`]: the newest are given up when another is made.
#[derive(Debug)]
pub struct Buffers {
    spare: Mutex<Spare>,
    /// Bytes that are held and kept at most.
    most: usize,
}

/// Buffers of one type, by size, and then by when they were given.
type Pool<T> = BTreeMap<(usize, u64), Vec<T>>;

#[derive(Debug, Default)]
struct Spare {
    floats: Pool<f32>,
    bytes: Pool<u8>,
    /// Bytes of all of them.
    kept: usize,
    given: u64,
    /// Bytes that are held by values and kernels.
    held: usize,
}

/// What buffers are of.
trait Element: Copy + Default {
    fn pool(spare: &mut Spare) -> &mut Pool<Self>;
}

impl Element for f32 {
    fn pool(spare: &mut Spare) -> &mut Pool<f32> {
        &mut spare.floats
    }
}

impl Element for u8 {
    fn pool(spare: &mut Spare) -> &mut Pool<u8> {
        &mut spare.bytes
    }
}

impl Spare {
    /// The smallest buffer that fits.
    fn take<T: Element>(&mut self, n: usize) -> Option<Vec<T>> {
        let pool = T::pool(self);
        let fits = (n, 0)..=(n.saturating_mul(2).max(64), u64::MAX);
        let found = pool.range(fits).next().map(|(key, _)| *key).and_then(|key| pool.remove(&key));
        let bytes = size_of::<T>() * found.as_ref().map_or(n, Vec::capacity);
        self.kept -= if found.is_some() { bytes } else { 0 };
        self.held = self.held.saturating_add(bytes);
        found
    }

    fn give<T: Element>(&mut self, v: Vec<T>) {
        let bytes = size_of::<T>() * v.capacity();
        self.given += 1;
        self.kept += bytes;
        self.held = self.held.saturating_sub(bytes);
        let key = (v.capacity(), self.given);
        T::pool(self).insert(key, v);
    }

    /// Gives up the newest buffers until all bytes are at most `most`. A run takes buffers in the same order as the one before: the oldest are wanted
    /// first.
    fn shrink(&mut self, most: usize) -> (Vec<Vec<f32>>, Vec<Vec<u8>>) {
        fn newest<T>(pool: &Pool<T>) -> Option<(usize, u64)> {
            pool.keys().max_by_key(|(_, given)| *given).copied()
        }
        let mut dropped = (Vec::new(), Vec::new());
        while self.kept > 0 && self.held.saturating_add(self.kept) > most {
            let (floats, bytes) = (newest(&self.floats), newest(&self.bytes));
            if let Some(key) = floats.filter(|f| bytes.is_none_or(|b| f.1 > b.1)) {
                dropped.0.extend(self.floats.remove(&key));
                self.kept -= size_of::<f32>() * key.0;
            } else if let Some(key) = bytes {
                dropped.1.extend(self.bytes.remove(&key));
                self.kept -= key.0;
            } else {
                break;
            }
        }
        dropped
    }
}

impl Buffers {
    /// No buffers yet. `peak` is what a run holds at most. A sixteenth more is kept, of up to a GiB, since buffers are not of one size.
    pub fn new(peak: usize) -> Buffers {
        Buffers { spare: Mutex::default(), most: peak.saturating_add((peak / 16).min(1 << 30)) }
    }

    /// The most bytes that are held and kept together.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Changes what is spare, and gives up what is then too much, outside of the lock.
    fn change<T>(&self, act: impl FnOnce(&mut Spare) -> T) -> T {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut spare);
        let dropped = spare.shrink(self.most);
        drop(spare);
        drop(dropped);
        result
    }

    /// A task begins: so many bytes are held by values, or will be without being taken from here.
    pub fn begin(&self, held: usize) {
        self.change(|spare| spare.held = held);
    }

    fn any<T: Element>(&self, n: usize) -> Vec<T> {
        let Some(mut v) = self.change(|spare| spare.take(n)) else { return vec![T::default(); n] };
        v.resize(n, T::default());
        v
    }

    /// A buffer of that many floats. What it holds does not matter: every kernel writes its whole result.
    pub fn take(&self, n: usize) -> Vec<f32> {
        self.any(n)
    }

    /// A buffer for a result of floats, or of booleans. What it holds does not matter.
    pub fn output(&self, dtype: DType, n: usize) -> OutputBuffer {
        if dtype == DType::F32 { OutputBuffer::Floats(self.any(n)) } else { OutputBuffer::Bytes(self.any(n)) }
    }

    /// Memory for as long as a kernel runs.
    pub fn scratch(&self, n: usize) -> Scratch<'_> {
        Scratch { data: self.take(n), of: self }
    }

    /// Keeps the memory of a tensor that nobody else holds.
    pub fn keep(&self, tensor: Tensor) {
        match tensor.into_data() {
            Data::F32(v) => Arc::try_unwrap(v).into_iter().for_each(|v| self.give(v)),
            Data::Bool(v) | Data::U8(v) => Arc::try_unwrap(v).into_iter().for_each(|v| self.change(|spare| spare.give(v))),
            Data::I64(_) => {}
        }
    }

    /// Keeps a buffer.
    pub fn give(&self, v: Vec<f32>) {
        self.change(|spare| spare.give(v));
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
    fn the_smallest_buffer_that_fits_is_taken() {
        let buffers = Buffers::new(4 * 16_000);
        for n in [4000, 2000, 3000] {
            buffers.give(Vec::with_capacity(n));
        }
        assert_eq!(buffers.take(1900).capacity(), 2000);
        assert_eq!(buffers.take(1900).capacity(), 3000);
        assert_eq!(buffers.take(1900).capacity(), 1900, "one of more than twice the size is left alone");
        drop(buffers.scratch(2500));
        assert_eq!(buffers.take(2500).capacity(), 4000, "scratch comes back");
    }

    #[test]
    fn what_is_held_and_kept_stays_within_the_peak() {
        let buffers = Buffers::new(4 * 16_000);
        buffers.begin(0);
        for n in [5000, 6000, 7000] {
            buffers.give(Vec::with_capacity(n));
        }
        // Of 18,000 floats that are given 11,000 are kept, so that one of 9,000 needs the newer to go.
        let taken = buffers.take(9000);
        assert_eq!(buffers.take(4000).capacity(), 5000, "the oldest is still there");
        buffers.give(taken);
        buffers.begin(4 * 15_000);
        assert_eq!(buffers.take(5000).capacity(), 5000, "a task that begins with more held leaves nothing kept");
    }
}

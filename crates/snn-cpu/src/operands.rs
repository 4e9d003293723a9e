//! Operands of step kernels that are made for a tile: runs that do not lie in order, and gradients of pools.
#![allow(unsafe_code)]

use snn_plan::buffers::InputSlice;
use snn_plan::step::{Along, Load, StepKernel};

use crate::max_pool::{self, MaxPoolBackward, Sources};

/// The loads of a kernel that are copied to where a call reads them in order, and their places.
pub fn spread(kernel: &StepKernel) -> impl Iterator<Item = (usize, &Load)> {
    kernel.loads.iter().enumerate().filter(|(_, l)| kernel.along(l) == Along::Spread)
}

/// The runs of a load that are copied one behind the other, one step of a tile.
pub struct Spread {
    /// Where each run begins at the first step.
    pub runs: Vec<*mut u8>,
    /// The bytes from a step to the next.
    pub time: usize,
    /// Their elements; these may be bytes.
    pub row: Vec<f32>,
}

impl Spread {
    /// For tiles of so many elements.
    pub fn new(tile: usize) -> Spread {
        Spread { runs: vec![], time: 0, row: vec![0.0; tile] }
    }

    /// Copies the runs, of `elements` each, of step `t`.
    ///
    /// # Safety
    /// From where each run begins at that step there must be as many elements of the load's type, or one where it is uniform.
    pub unsafe fn read(&mut self, t: usize, elements: usize, load: &Load) {
        let begins = self.runs.iter().map(|run| run.wrapping_add(t * self.time));
        // SAFETY: the row has four bytes for each element of the tile; the rest is what the caller promises.
        unsafe {
            match load.dtype.bytes() {
                1 => copy_runs(begins, self.row.as_mut_ptr().cast::<u8>(), elements, load.uniform),
                _ => copy_runs(begins.map(<*mut u8>::cast::<f32>), self.row.as_mut_ptr(), elements, load.uniform),
            }
        }
    }
}

/// Copies runs one behind the other, or repeats the first element of each where they are uniform.
///
/// # Safety
/// All runs must have so many elements, or one where they are uniform, and `to` must have room for those of all runs.
unsafe fn copy_runs<T: Copy>(runs: impl Iterator<Item = *mut T>, to: *mut T, elements: usize, uniform: bool) {
    for (i, run) in runs.enumerate() {
        // SAFETY: the caller promises it.
        unsafe {
            let to = to.add(i * elements);
            if uniform {
                let value = *run;
                (0..elements).for_each(|k| *to.add(k) = value);
            } else {
                std::ptr::copy_nonoverlapping(run, to, elements);
            }
        }
    }
}

/// What the gradient of a pool is computed from: numbers, or spikes.
pub enum PoolSources<'a> {
    /// Numbers.
    Floats(Sources<'a, f32>),
    /// Spikes.
    Bytes(Sources<'a, u8>),
    /// Where only one of them is there as spikes.
    Converted([Vec<f32>; 2], &'a [f32]),
}

impl<'a> PoolSources<'a> {
    /// From what was pooled, the results, and what they got.
    pub fn new([x, y, gradient]: [InputSlice<'a>; 3]) -> PoolSources<'a> {
        let InputSlice::Floats(gradient) = gradient else { unreachable!("gradients are floats") };
        let floats = |slice: InputSlice<'a>| match slice {
            InputSlice::Floats(v) => v.to_vec(),
            InputSlice::Bytes(v) => v.iter().map(|x| f32::from(*x)).collect(),
            InputSlice::Integers(_) => unreachable!("pools are of floats"),
        };
        match (x, y) {
            (InputSlice::Floats(x), InputSlice::Floats(y)) => PoolSources::Floats(Sources { x, y, gradient }),
            (InputSlice::Bytes(x), InputSlice::Bytes(y)) => PoolSources::Bytes(Sources { x, y, gradient }),
            (x, y) => PoolSources::Converted([floats(x), floats(y)], gradient),
        }
    }
}

/// The gradient of a pool in a tile at one step, and what is noted on the way.
pub struct PoolRow {
    pub row: Vec<f32>,
    floats: max_pool::Scratch<f32>,
    bytes: max_pool::Scratch<u8>,
}

impl PoolRow {
    /// For tiles of so many elements.
    pub fn new(tile: usize) -> PoolRow {
        PoolRow { row: vec![0.0; tile], floats: max_pool::Scratch::default(), bytes: max_pool::Scratch::default() }
    }

    /// Computes some elements, whole planes, from `first` on.
    pub fn compute(&mut self, pool: &MaxPoolBackward<'_>, sources: &PoolSources<'_>, first: usize, count: usize) {
        let row = &mut self.row[..count];
        match sources {
            PoolSources::Floats(sources) => pool.part(first, *sources, row, &mut self.floats),
            PoolSources::Bytes(sources) => pool.part(first, *sources, row, &mut self.bytes),
            PoolSources::Converted([x, y], gradient) => pool.part(first, Sources { x, y, gradient }, row, &mut self.floats),
        }
    }
}

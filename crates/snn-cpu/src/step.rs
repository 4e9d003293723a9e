//! Running a step kernel over time, tiles and threads.
#![allow(unsafe_code)]

use rayon::prelude::*;
use snn_ir::{DType, Value};
use snn_plan::buffers::{InputSlice, OutputBuffer};
use snn_plan::step::{Initial, Load, StepKernel};

use crate::emit::{KernelFunction, Machine};
use crate::shared::Shared;

/// Elements of a run that are handled at once, at least and at most: states of this length stay in the L2 cache, and rows are
/// long enough for the processor to see that they are read in order.
const TILE: [usize; 2] = [1024, 8192];
/// Fewer elements than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 15;
/// More pointers than this and the table goes on the heap.
const MOST_POINTERS: usize = 32;

/// Where a slice begins.
fn pointer(slice: InputSlice<'_>) -> Shared<u8> {
    // Loads never write; the pointer is mutable only because the kernel has one table for all.
    Shared(match slice {
        InputSlice::Floats(v) => v.as_ptr() as *mut u8,
        InputSlice::Integers(v) => v.as_ptr() as *mut u8,
        InputSlice::Bytes(v) => v.as_ptr() as *mut u8,
    })
}

/// A step kernel that is run.
pub struct Step<'a>(pub &'a StepKernel);

impl std::ops::Deref for Step<'_> {
    type Target = StepKernel;

    fn deref(&self) -> &StepKernel {
        self.0
    }
}

impl Step<'_> {
    /// Runs the kernel of a plan's machine: `inputs` gives the tensors that it reads, whole and of the planned shape, `output`
    /// the memory for each value that it writes.
    pub fn execute<'t>(
        &self,
        machine: &Machine,
        inputs: impl Fn(Value) -> InputSlice<'t>,
        mut output: impl FnMut(Value, DType) -> OutputBuffer,
    ) -> Vec<(Value, OutputBuffer)> {
        let kernel = machine.kernels[self.function];
        let mut results: Vec<(Value, OutputBuffer)> = self.stores.iter().map(|(v, t)| (*v, output(*v, *t))).collect();
        results.extend(self.finals.iter().map(|(_, v)| (*v, output(*v, DType::F32))));
        let outputs: Vec<Shared<u8>> = results
            .iter_mut()
            .map(|(_, r)| match r {
                OutputBuffer::Floats(v) => Shared(v.as_mut_ptr().cast()),
                OutputBuffer::Bytes(v) => Shared(v.as_mut_ptr()),
            })
            .collect();
        let sources: Vec<Shared<u8>> = self.loads.iter().map(|l| pointer(inputs(l.source))).collect();
        let starts: Vec<Option<Shared<u8>>> = self
            .initial
            .iter()
            .map(|i| match i {
                Initial::Constant(_) => None,
                Initial::Load(l) => Some(pointer(inputs(l.source))),
            })
            .collect();
        let row = self.elements();
        let outer: usize = self.outer.iter().product();
        let threads = crate::shared::threads();
        let size = (row / (threads * 4)).next_multiple_of(64).clamp(TILE[0], TILE[1]);
        let tiles = self.run.div_ceil(size);
        let count = outer * tiles;
        if row == 0 {
            return results;
        }
        let one = |range: std::ops::Range<usize>| {
            let mut scratch = Scratch::new(self, size.min(self.run));
            for task in range {
                if snn_ir::interrupt::is_wanted() {
                    return;
                }
                // SAFETY: tasks are different tiles of the element space; see `tile`.
                unsafe { self.tile(kernel, task / tiles, task % tiles, row, &sources, &starts, &outputs, &mut scratch) };
            }
        };
        let work = row * self.steps;
        if threads > 1 && work >= WORTH_A_THREAD && count > 1 {
            let per = count.div_ceil(threads * 4);
            (0..count.div_ceil(per)).into_par_iter().for_each(|i| one(i * per..((i + 1) * per).min(count)));
        } else {
            one(0..count);
        }
        results
    }

    /// All time steps of one tile.
    ///
    /// # Safety
    /// Sources and outputs must be the tensors that this kernel was planned for, of the planned sizes, and no other thread
    /// may run the same tile.
    #[allow(clippy::too_many_arguments)]
    unsafe fn tile(
        &self,
        kernel: KernelFunction,
        outer: usize,
        tile: usize,
        row: usize,
        sources: &[Shared<u8>],
        starts: &[Option<Shared<u8>>],
        outputs: &[Shared<u8>],
        scratch: &mut Scratch,
    ) {
        let size = scratch.tile;
        let first = tile * size;
        let n = size.min(self.run - first);
        // The position of the tile along each outer axis.
        let mut rest = outer;
        for (size, at) in self.outer.iter().zip(&mut scratch.position).rev() {
            *at = rest % size;
            rest /= size;
        }
        let offset = |l: &Load| {
            let outer: usize = l.outer.iter().zip(&scratch.position).map(|(s, at)| s * at).sum();
            outer + if l.uniform { 0 } else { first }
        };
        let own = outer * self.run + first;
        for (k, (initial, start)) in self.initial.iter().zip(starts).enumerate() {
            let state = &mut scratch.states[k * size..k * size + n];
            match (initial, start) {
                (Initial::Constant(x), _) => state.fill(*x),
                (Initial::Load(l), Some(p)) => {
                    // SAFETY: the offset and `n` elements after it (one, where uniform) lie inside the planned tensor.
                    unsafe {
                        let from = p.0.cast::<f32>().add(offset(l));
                        if l.uniform {
                            state.fill(*from);
                        } else {
                            std::ptr::copy_nonoverlapping(from, state.as_mut_ptr(), n);
                        }
                    }
                }
                (Initial::Load(_), None) => {}
            }
        }
        let loads = self.loads.len();
        let states = self.initial.len();
        scratch.offsets.clear();
        scratch.offsets.extend(self.loads.iter().map(offset));
        for k in 0..states {
            scratch.pointers[loads + k] = scratch.states[k * size..].as_mut_ptr().cast();
        }
        for step in 0..self.steps {
            let t = if self.reverse { self.steps - 1 - step } else { step };
            for (i, l) in self.loads.iter().enumerate() {
                let earlier = t as i64 - l.delay;
                scratch.pointers[i] = if earlier < 0 {
                    scratch.zeros.as_mut_ptr().cast()
                } else {
                    // SAFETY: the element exists in the planned tensor.
                    unsafe { sources[i].0.add((earlier as usize * l.time + scratch.offsets[i]) * l.dtype.bytes()) }
                };
            }
            for (i, ((_, dtype), p)) in self.stores.iter().zip(outputs).enumerate() {
                // SAFETY: row `t` of the output has `row` elements, and this tile is inside of it.
                scratch.pointers[loads + states + i] = unsafe { p.0.add((t * row + own) * dtype.bytes()) };
            }
            // SAFETY: every pointer of the table reaches `n` elements of the type that the kernel was generated for.
            unsafe { kernel(scratch.pointers.as_ptr(), n as i64) };
        }
        for ((state, _), p) in self.finals.iter().zip(&outputs[self.stores.len()..]) {
            let from = &scratch.states[state * size..state * size + n];
            // SAFETY: the last states have one row; this tile of it belongs to this thread.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), p.0.cast::<f32>().add(own), n) };
        }
    }
}

/// Memory of one thread.
struct Scratch {
    /// The elements of a tile.
    tile: usize,
    states: Vec<f32>,
    zeros: Vec<f32>,
    pointers: Vec<*mut u8>,
    offsets: Vec<usize>,
    position: Vec<usize>,
}

impl Scratch {
    fn new(kernel: &StepKernel, tile: usize) -> Scratch {
        let has_delay = kernel.loads.iter().any(|l| l.delay > 0);
        let count = kernel.loads.len() + kernel.initial.len() + kernel.stores.len();
        Scratch {
            tile,
            states: vec![0.0; kernel.initial.len() * tile],
            zeros: vec![0.0; if has_delay { tile } else { 0 }],
            pointers: vec![std::ptr::null_mut(); count.max(MOST_POINTERS)],
            offsets: Vec::with_capacity(count),
            position: vec![0; kernel.outer.len()],
        }
    }
}

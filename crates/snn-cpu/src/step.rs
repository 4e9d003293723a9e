//! Running a step kernel over time, tiles and threads.
#![allow(unsafe_code)]

use rayon::prelude::*;
use snn_ir::{DType, Value};
use snn_plan::buffers::{InputSlice, OutputBuffer};
use snn_plan::step::{InPlace, Initial, Load, StepKernel};

use crate::emit::{KernelFunction, Machine};
use crate::max_pool::{self, MaxPoolBackward};
use crate::operands::{PoolRow, PoolSources, Spread, spread};
use crate::reductions::add_rows;
use crate::shared::{Shared, offset};
use crate::tiles::{Division, Tile};

/// Fewer elements than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 15;
/// The place of what a state starts with, which is no load.
const OF_STATE: usize = usize::MAX;
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

/// A kernel with where its operands are.
struct Bound<'a> {
    kernel: &'a StepKernel,
    function: KernelFunction,
    /// What each load reads; nothing where that is computed before.
    sources: Vec<Shared<u8>>,
    /// Which of the values that are computed before each load reads.
    again: Vec<Option<usize>>,
    /// The loads of earlier steps, and how much earlier they are.
    delayed: Vec<(usize, i64)>,
    /// The loads whose runs are copied one behind the other.
    spread: Vec<usize>,
    /// What the gradient of a pool is computed from, and the load that reads it.
    pool: Option<(usize, MaxPoolBackward<'a>, PoolSources<'a>)>,
    /// What each state starts with, where that is no constant.
    starts: Vec<Option<Shared<u8>>>,
}

impl<'a> Bound<'a> {
    fn new(kernel: &'a StepKernel, machine: &Machine, source: impl Fn(usize, &Load) -> Shared<u8>) -> Bound<'a> {
        let start = |i: &Initial| if let Initial::Load(l) = i { Some(source(OF_STATE, l)) } else { None };
        Bound {
            kernel,
            function: machine.kernels[kernel.function],
            sources: kernel.loads.iter().enumerate().map(|(i, l)| source(i, l)).collect(),
            again: kernel.loads.iter().map(|l| kernel.again(l)).collect(),
            spread: spread(kernel).map(|(i, _)| i).collect(),
            pool: None,
            delayed: kernel.loads.iter().enumerate().filter(|(_, l)| l.delay > 0).map(|(i, l)| (i, l.delay)).collect(),
            starts: kernel.initial.iter().map(start).collect(),
        }
    }
}

impl Step<'_> {
    /// Runs the kernel of a plan's machine: `inputs` gives the tensors that it reads, whole and of the planned shape, `output`
    /// the memory for each value that it writes. Of what is done `in_place` the memory that `output` gives holds the operand.
    pub fn execute<'t>(
        &self,
        machine: &Machine,
        inputs: impl Fn(Value) -> InputSlice<'t>,
        in_place: &[InPlace],
        mut output: impl FnMut(Value, DType) -> OutputBuffer,
    ) -> Vec<(Value, OutputBuffer)> {
        let mut results: Vec<(Value, OutputBuffer)> = self.stores.iter().map(|(v, t)| (*v, output(*v, *t))).collect();
        results.extend(self.finals.iter().map(|(_, v)| (*v, output(*v, DType::F32))));
        let mut sums: Vec<(Value, OutputBuffer)> = self.sums.iter().map(|s| (s.result, output(s.result, DType::F32))).collect();
        let outputs: Vec<Shared<u8>> = results
            .iter_mut()
            .map(|(_, r)| match r {
                OutputBuffer::Floats(v) => Shared(v.as_mut_ptr().cast()),
                OutputBuffer::Bytes(v) => Shared(v.as_mut_ptr()),
            })
            .collect();
        let taken = |i: usize| in_place.iter().find(|p| p.load == i).map(|p| outputs[p.store]);
        let read = |l: &Load| if self.is_in_memory(l) { pointer(inputs(l.source)) } else { Shared(std::ptr::null_mut()) };
        let mut own = Bound::new(self, machine, |i, l| taken(i).unwrap_or_else(|| read(l)));
        own.pool = self.pool.as_ref().map(|p| {
            let sources = [p.gradient.x, p.gradient.y, p.gradient.gradient].map(&inputs);
            (p.load, MaxPoolBackward(&p.gradient), PoolSources::new(sources))
        });
        let before = self.before.as_deref().map(|before| {
            let taken = |i: usize| if i == OF_STATE { None } else { taken(self.loads.len() + i) };
            Bound::new(before, machine, |i, l| taken(i).unwrap_or_else(|| pointer(inputs(l.source))))
        });
        let row = self.elements();
        let threads = crate::shared::threads();
        let division = Division::new(self, threads);
        let count = division.tiles();
        let width = self.sums.len();
        let mut partial = vec![0.0; division.sums_before(count) * width];
        if row > 0 {
            let per = if threads > 1 && row * self.steps >= WORTH_A_THREAD { count.div_ceil(threads * 4) } else { count };
            let some = |first: usize, count: usize, mut partial: &mut [f64]| {
                let size = division.longest();
                let mut scratch = Scratch::new(self, size);
                let mut before = before.as_ref().map(|before| (before, Scratch::new(before.kernel, size)));
                // All time steps of each value that is computed before.
                let mut again = vec![vec![0f32; self.steps * size]; before.as_ref().map_or(0, |(before, _)| before.kernel.stores.len())];
                let again: Vec<Shared<u8>> = again.iter_mut().map(|rows| Shared(rows.as_mut_ptr().cast())).collect();
                for i in first..first + count {
                    if snn_ir::interrupt::is_wanted() {
                        return;
                    }
                    let tile = division.tile(i);
                    let sums = partial.split_off_mut(..tile.runs * width).unwrap_or_default();
                    if let Some((before, scratch)) = &mut before {
                        // SAFETY: as below; its rows are those of this thread, of all time steps of a tile.
                        unsafe { before.run(tile, Rows::OfTile(&again), &[], &mut [], scratch) };
                    }
                    // SAFETY: different tiles of the element space; see `run`.
                    unsafe { own.run(tile, Rows::OfTensors(&outputs), &again, sums, &mut scratch) };
                }
            };
            if per == count {
                some(0, count, &mut partial);
            } else {
                let mut rest = &mut partial[..];
                let split = |i: usize| {
                    let (first, count) = (i * per, per.min(count - i * per));
                    let sums = division.sums_before(first + count) - division.sums_before(first);
                    (first, count, rest.split_off_mut(..sums * width).unwrap_or_default())
                };
                let parts: Vec<(usize, usize, &mut [f64])> = (0..count.div_ceil(per)).map(split).collect();
                parts.into_par_iter().for_each(|(first, count, partial)| some(first, count, partial));
            }
        }
        for (k, (sum, (_, result))) in self.sums.iter().zip(&mut sums).enumerate() {
            let OutputBuffer::Floats(result) = result else { continue };
            let mut all = vec![0.0; result.len()];
            for (i, partial) in partial.chunks_exact(width).enumerate() {
                all[place(self, &sum.outer, i / division.parts)] += partial[k];
            }
            result.iter_mut().zip(all).for_each(|(to, sum)| *to = sum as f32);
        }
        results.extend(sums);
        results
    }
}

/// How far place `i` of the outer axes of a kernel is from the first, at these distances along them.
fn place(kernel: &StepKernel, distances: &[usize], i: usize) -> usize {
    offset(kernel.outer.iter().copied().zip(distances.iter().copied()), i)
}

/// Where results are written.
#[derive(Clone, Copy)]
enum Rows<'a> {
    /// Into whole tensors.
    OfTensors(&'a [Shared<u8>]),
    /// Into all time steps of a tile only.
    OfTile(&'a [Shared<u8>]),
}

impl Bound<'_> {
    /// All time steps of one tile; `again` has what is computed before, and `sums` gets the sums of its elements.
    ///
    /// # Safety
    /// Sources and outputs must be the tensors that this kernel was planned for, of the planned sizes, and no other thread
    /// may run the same tile. Rows of tiles have all time steps of a tile.
    unsafe fn run(&self, tile: Tile, rows: Rows<'_>, again: &[Shared<u8>], sums: &mut [f64], scratch: &mut Scratch) {
        let kernel = self.kernel;
        let (size, first, n) = (tile.size, tile.first, tile.elements);
        // Where a load begins in a run of the tile.
        let first_of = |l: &Load, run: usize| place(kernel, &l.outer, tile.outer + run) + if l.uniform { 0 } else { first };
        let own = tile.outer * kernel.run + first;
        for (k, (initial, start)) in kernel.initial.iter().zip(&self.starts).enumerate() {
            let state = &mut scratch.states[k * size..k * size + n];
            match (initial, start) {
                (Initial::Constant(x), _) => state.fill(*x),
                (Initial::Load(l), Some(p)) => {
                    let per = n / tile.runs;
                    for (i, state) in state.chunks_exact_mut(per).enumerate() {
                        // SAFETY: the offset and the elements of a run after it (one, where uniform) lie inside the planned tensor.
                        unsafe {
                            let from = p.0.cast::<f32>().add(first_of(l, i));
                            if l.uniform {
                                state.fill(*from);
                            } else {
                                std::ptr::copy_nonoverlapping(from, state.as_mut_ptr(), per);
                            }
                        }
                    }
                }
                (Initial::Load(_), None) => {}
            }
        }
        let (loads, states, stores) = (kernel.loads.len(), kernel.initial.len(), kernel.stores.len());
        // Where each operand of the first step is, and how far from there that of the next.
        scratch.walks.clear();
        for ((l, source), row) in kernel.loads.iter().zip(&self.sources).zip(&self.again) {
            scratch.walks.push(match row {
                Some(k) => (again[*k].0, size * l.dtype.bytes()),
                // What is computed for a tile has no source; it is put in below.
                None => (source.0.wrapping_add(first_of(l, 0) * l.dtype.bytes()), l.time * l.dtype.bytes()),
            });
        }
        scratch.walks.extend(scratch.states.chunks_exact_mut(size).map(|row| (row.as_mut_ptr().cast(), 0)));
        for (i, (_, dtype)) in kernel.stores.iter().enumerate() {
            scratch.walks.push(match rows {
                // SAFETY: this tile is inside of the first row of the output.
                Rows::OfTensors(outputs) => (unsafe { outputs[i].0.add(own * dtype.bytes()) }, tile.row * dtype.bytes()),
                Rows::OfTile(rows) => (rows[i].0, size * dtype.bytes()),
            });
        }
        scratch.walks.extend(scratch.summed.chunks_exact_mut(size).map(|row| (row.as_mut_ptr().cast(), 0)));
        for (i, spread) in self.spread.iter().zip(&mut scratch.spread) {
            let l = &kernel.loads[*i];
            let walk = &mut scratch.walks[*i];
            spread.runs.clear();
            // SAFETY: the first element of each run exists in the planned tensor.
            spread.runs.extend((0..tile.runs).map(|run| unsafe { self.sources[*i].0.add(first_of(l, run) * l.dtype.bytes()) }));
            spread.time = walk.1;
            *walk = (spread.row.as_mut_ptr().cast(), 0);
            if spread.time == 0 {
                // SAFETY: the runs of a load reach as many elements as its kernel was planned for.
                unsafe { spread.read(0, kernel.run, l) };
            }
        }
        if let (Some((load, ..)), Some(pool)) = (&self.pool, &mut scratch.pool) {
            scratch.walks[*load] = (pool.row.as_mut_ptr().cast(), 0);
        }
        for step in 0..kernel.steps {
            let t = if kernel.reverse { kernel.steps - 1 - step } else { step };
            for (pointer, (first, distance)) in scratch.pointers.iter_mut().zip(&scratch.walks) {
                *pointer = first.wrapping_add(t * distance);
            }
            for (i, spread) in self.spread.iter().zip(&mut scratch.spread).filter(|(_, spread)| spread.time > 0) {
                // SAFETY: as above, at step `t`.
                unsafe { spread.read(t, kernel.run, &kernel.loads[*i]) };
            }
            if let (Some((_, pool, sources)), Some(row)) = (&self.pool, &mut scratch.pool) {
                row.compute(pool, sources, t * tile.row + own, n);
            }
            for (i, delay) in &self.delayed {
                let (first, distance) = scratch.walks[*i];
                let earlier = usize::try_from(t as i64 - delay);
                scratch.pointers[*i] = earlier.map_or(scratch.zeros.as_mut_ptr().cast(), |t| first.wrapping_add(t * distance));
            }
            // SAFETY: every pointer of the table reaches `n` elements of the type that the kernel was generated for.
            unsafe { self.function.run(scratch.pointers.as_ptr(), n as i64) };
            for (k, sum) in kernel.sums.iter().enumerate() {
                // SAFETY: the kernel has written `n` floats there, and nobody changes them before its next step.
                let row = unsafe { std::slice::from_raw_parts(scratch.pointers[loads + states + sum.row].cast::<f32>(), n) };
                add_rows(row, n / tile.runs, &mut sums[k..], kernel.sums.len());
            }
        }
        let Rows::OfTensors(outputs) = rows else { return };
        for ((state, _), p) in kernel.finals.iter().zip(&outputs[stores..]) {
            let from = &scratch.states[state * size..state * size + n];
            // SAFETY: the last states have one row; this tile of it belongs to this thread.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), p.0.cast::<f32>().add(own), n) };
        }
    }
}

/// The bytes that a kernel takes beside what it reads and writes: rows of a tile for each thread, and the sums of each tile.
pub fn bytes(kernel: &StepKernel, threads: usize) -> usize {
    let division = Division::new(kernel, threads);
    let delayed = |k: &StepKernel| usize::from(k.loads.iter().any(|l| l.delay > 0));
    let rows = |k: &StepKernel| k.initial.len() + k.summed.len() + spread(k).count() + usize::from(k.pool.is_some()) + delayed(k);
    let again = kernel.before.as_deref().map_or(0, |before| rows(before) + before.stores.len() * kernel.steps);
    let rows = rows(kernel) + again;
    let pool = kernel.pool.as_ref().map_or(0, |p| max_pool::bytes(&p.gradient)).saturating_mul(threads);
    let own = threads.saturating_mul(rows).saturating_mul(division.longest()).saturating_mul(size_of::<f32>());
    own.saturating_add(pool)
        .saturating_add(division.sums_before(division.tiles()).saturating_mul(kernel.sums.len()).saturating_mul(size_of::<f64>()))
}

/// Memory of one thread.
struct Scratch {
    states: Vec<f32>,
    zeros: Vec<f32>,
    pointers: Vec<*mut u8>,
    /// For each operand, its place at the first step, and the bytes from a step to the next.
    walks: Vec<(*mut u8, usize)>,
    /// One step of values that are only summed.
    summed: Vec<f32>,
    /// The loads that are spread.
    spread: Vec<Spread>,
    /// The gradient of a pool.
    pool: Option<PoolRow>,
}

impl Scratch {
    fn new(kernel: &StepKernel, tile: usize) -> Scratch {
        let has_delay = kernel.loads.iter().any(|l| l.delay > 0);
        let count = kernel.loads.len() + kernel.initial.len() + kernel.stores.len() + kernel.summed.len();
        Scratch {
            states: vec![0.0; kernel.initial.len() * tile],
            zeros: vec![0.0; if has_delay { tile } else { 0 }],
            pointers: vec![std::ptr::null_mut(); count.max(MOST_POINTERS)],
            walks: Vec::with_capacity(count),
            summed: vec![0.0; kernel.summed.len() * tile],
            spread: spread(kernel).map(|_| Spread::new(tile)).collect(),
            pool: kernel.pool.as_ref().map(|_| PoolRow::new(tile)),
        }
    }
}

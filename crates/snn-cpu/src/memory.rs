//! What kernels take beside what they read and write, in bytes: an upper bound, since only the data say which way a product goes.

use snn_ir::{Graph, Value};
use snn_plan::convolution::{ConvolutionPlan, Direction, Windows};
use snn_plan::product::ProductPlan;
use snn_plan::selection::Place;
use snn_plan::{Kernel, Plan, Task};

use crate::convolution::{floats_of_parts, unrolled_floats};
use crate::direct;
use crate::fourier;
use crate::integer_windows::ByIntegers;
use crate::integers::{Integers, scratch_bytes};
use crate::lines;
use crate::max_pool;
use crate::panels::Packed;
use crate::spike_windows::BySpikes;
use crate::spikes::{Densest, Spikes, WORD};
use crate::step;
use crate::taps;
use crate::winograd;

const FLOAT: usize = size_of::<f32>();

/// What a kernel takes while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Taken from the [buffers](snn_plan::buffers::Buffers) of the program.
    pub shared: usize,
    /// Of its own.
    pub own: usize,
}

impl Scratch {
    /// All of it.
    pub fn all(self) -> usize {
        self.shared.saturating_add(self.own)
    }
}

/// What a kernel of a plan takes on so many threads.
pub fn scratch(graph: &Graph, plan: &Plan, task: &Task, threads: usize) -> Scratch {
    let floats = |v: Value| graph.ty(v).sizes().map_or(0, |s| s.iter().product::<usize>());
    // Booleans become floats for dense products.
    let converted = task.needs.iter().filter(|v| plan.spikes.contains(v)).map(|v| floats(*v).saturating_mul(FLOAT));
    let converted = converted.fold(0, usize::saturating_add);
    match &task.kernel {
        Kernel::Product(p) => {
            let Scratch { shared, own } = of_product(p, floats(p.lhs.source), floats(p.rhs.source), threads);
            Scratch { shared: shared.saturating_add(converted), own }
        }
        Kernel::Convolution(c) => {
            let operands = &graph.node(task.node).operands;
            of_convolution(c, [floats(operands[0]), floats(operands[1])], converted, threads)
        }
        Kernel::Selection(s) => Scratch { shared: 0, own: if s.place == Place::Last { task.computed } else { 0 } },
        Kernel::Step(s) => Scratch { shared: 0, own: step::bytes(s, threads) },
        Kernel::MaxPoolGradient(g) => Scratch { shared: 0, own: threads.saturating_mul(max_pool::bytes(g)) },
        Kernel::Alias | Kernel::Reduction(_) => Scratch::default(),
        Kernel::Delay(_) | Kernel::Ring(_) | Kernel::Move | Kernel::Loop(_) => Scratch::default(),
        Kernel::Reference | Kernel::FirstSpike(_) => Scratch::default(),
    }
}

/// What is held when a task begins, and what it will hold that is in no buffer of the program.
pub fn held(graph: &Graph, plan: &Plan, task: &Task, threads: usize) -> usize {
    let interpreted = if let Kernel::Reference | Kernel::FirstSpike(_) = task.kernel { task.computed } else { 0 };
    task.held.saturating_add(interpreted).saturating_add(scratch(graph, plan, task, threads).own)
}

fn of_product(p: &ProductPlan, lhs: usize, rhs: usize, threads: usize) -> Scratch {
    let copied = [(&p.lhs, lhs), (&p.rhs, rhs)].iter().filter(|(side, _)| side.permutation.is_some()).map(|(_, n)| n).sum::<usize>();
    let (mut shared, mut own) = (copied.saturating_mul(FLOAT), 0);
    if p.batch.is_empty() && p.spikes {
        let packed = if p.packed.is_some() { 0 } else { Packed::once_len([p.k, p.n, WORD], threads).saturating_mul(FLOAT) };
        shared = shared.max(packed);
        own = Spikes::bytes([p.m, p.k]).max(scratch_bytes([p.m, p.k], threads));
    } else if p.batch.is_empty() && p.k.min(p.m).min(p.n) >= 16 {
        shared = shared.saturating_add(FLOAT.saturating_mul(Packed::once_len([p.k, p.m.max(p.n), WORD], threads)));
        let spiking = p.m.min(p.n);
        own = Spikes::bytes([p.k, spiking]).saturating_add(Spikes::bytes([spiking, p.k]));
    }
    Scratch { shared, own }
}

/// `converted` are the bytes of the input as floats, if it is spikes.
fn of_convolution(c: &ConvolutionPlan, [first, second]: [usize; 2], converted: usize, threads: usize) -> Scratch {
    let w = &c.windows;
    let unrolled = threads.saturating_mul(unrolled_floats(w, c.direction)).saturating_mul(FLOAT);
    let images = |outs: usize| outs / (w.out_channels * w.out_plane()).max(1);
    match c.direction {
        Direction::Forward => {
            let images = w.images(first);
            let dense = if lines::fits_forward(w) { 0 } else { unrolled };
            let [packed, bits] = by_spikes(w).scratch(images, threads);
            let packed = packed.saturating_mul(FLOAT).max(ByIntegers(w).kept_bytes());
            let packed = if c.packed.is_some() { 0 } else { packed };
            let shared = converted.saturating_add(packed).saturating_add(direct_bytes(c, images, threads));
            Scratch { shared, own: dense.max(bits).max(ByIntegers(w).scratch_bytes(first, threads)) }
        }
        Direction::InputGradient if lines::fits_input_gradient(w) => Scratch { shared: converted, own: 0 },
        Direction::InputGradient if taps::fits_input_gradient(w) => {
            let images = images(first);
            let shared = if fourier::fits(w, images) { bytes_of(fourier::scratch_floats(w, images), threads) } else { 0 };
            let shared = shared.max(taps::scratch_floats(w).saturating_mul(FLOAT));
            Scratch { shared: shared.saturating_add(converted), own: 0 }
        }
        Direction::InputGradient => {
            let shared = filtered_bytes(c, images(first), threads).max(direct_bytes(c, images(first), threads));
            Scratch { shared: shared.saturating_add(converted), own: unrolled }
        }
        Direction::WeightGradient if lines::fits_weight_gradient(w) => Scratch { shared: converted, own: 0 },
        Direction::WeightGradient => {
            let positions = second / w.out_channels.max(1);
            let packed = FLOAT.saturating_mul(Packed::once_len([positions, w.out_channels, WORD], threads));
            let bits = Spikes::bytes([w.channels * w.taps(), positions]);
            // Of the gradient as rows, and what is packed of it or the input as floats; or of that and its tiles.
            let directly = direct_bytes(c, images(second), threads).saturating_add(converted);
            let rows = FLOAT.saturating_mul(second).saturating_add(packed.max(converted).max(directly));
            let filtered = filtered_bytes(c, images(second), threads).saturating_add(converted);
            let parts = FLOAT.saturating_mul(floats_of_parts(w));
            Scratch { shared: rows.max(filtered), own: bits.max(unrolled.saturating_add(parts)) }
        }
    }
}

/// What a convolution or gradient takes in [`direct`].
fn direct_bytes(c: &ConvolutionPlan, images: usize, threads: usize) -> usize {
    bytes_of(direct::scratch_floats(&c.windows, c.direction, images), threads)
}

/// What a gradient takes in [`winograd`].
fn filtered_bytes(c: &ConvolutionPlan, images: usize, threads: usize) -> usize {
    bytes_of(winograd::scratch_floats(&c.windows, c.direction, images), threads)
}

/// The bytes of floats that are shared, and of those that each thread has.
fn bytes_of([shared, own]: [usize; 2], threads: usize) -> usize {
    threads.saturating_mul(own).saturating_add(shared).saturating_mul(FLOAT)
}

/// The bytes of the packed weights of a convolution.
fn packed_bytes(w: &Windows) -> usize {
    by_spikes(w).packed_floats().saturating_mul(FLOAT).max(ByIntegers(w).kept_bytes())
}

fn by_spikes(windows: &Windows) -> BySpikes<'_> {
    BySpikes { windows, densest: Densest::ANY, buffers: None }
}

/// The bytes of weights that are kept packed from run to run, where spikes meet them.
pub fn kept(plan: &Plan) -> usize {
    let of_task = |task: &Task| match &task.kernel {
        Kernel::Product(p) if p.packed.is_some() => FLOAT.saturating_mul(Packed::len([p.k, p.n], WORD)).max(Integers::bytes([p.k, p.n])),
        Kernel::Convolution(c) if c.packed.is_some() => packed_bytes(&c.windows),
        Kernel::Loop(inner) => kept(&inner.plan),
        Kernel::Step(_) | Kernel::Alias | Kernel::Product(_) | Kernel::Convolution(_) | Kernel::Reduction(_) => 0,
        Kernel::MaxPoolGradient(_) | Kernel::Selection(_) | Kernel::Delay(_) | Kernel::Ring(_) | Kernel::Move => 0,
        Kernel::FirstSpike(_) | Kernel::Reference => 0,
    };
    plan.tasks.iter().map(of_task).fold(0, usize::saturating_add)
}

//! What a run on candle holds at most beside inputs and parameters, in bytes: the values of the plan, second copies of those that
//! both candle and the CPU's kernels read, and what operations need meanwhile.

use std::collections::{HashMap, HashSet};

use snn_ir::{Contraction, Graph, Loop, Op, Reduction, Value};
use snn_plan::product::ProductPlan;
use snn_plan::{Kernel, Plan, Task};

/// What is held while a plan is computed, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The most at one time.
    pub most: usize,
    /// From run to run: packed weights.
    pub kept: usize,
    /// For each task, when it begins: values, their second copies, and what it takes that is not among the buffers of the program.
    pub tasks: Vec<usize>,
}

/// Who computes a plan.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Are values in host memory wherever kernels of the CPU compute them?
    pub on_cpu: bool,
    /// Do these compute all that they have a form of?
    pub own_kernels: bool,
    /// On how many threads.
    pub threads: usize,
}

/// Positions whose windows candle unrolls together on the CPU.
const TILE: usize = 512;

impl Memory {
    /// What a plan holds.
    pub fn of(self, graph: &Graph, plan: &Plan) -> Held {
        let mut held = Vec::with_capacity(plan.tasks.len());
        let mut copies: HashMap<Value, usize> = HashMap::new();
        let mut on_device: HashSet<Value> = HashSet::new();
        let mut most = 0usize;
        for task in &plan.tasks {
            let candle = self.is_candle(graph, task, &on_device);
            if candle {
                for v in task.needs.iter().chain(&graph.node(task.node).operands).filter(|v| self.on_cpu && !on_device.contains(v)) {
                    copies.insert(*v, graph.ty(*v).byte_len());
                }
                on_device.extend(&task.gives);
            } else if let (Kernel::Alias, Some(v)) = (&task.kernel, task.needs.first())
                && on_device.contains(v)
            {
                on_device.extend(&task.gives);
            }
            let twice: usize = copies.values().sum();
            // What a kernel of the CPU takes, and how much of it is not among the buffers of the program.
            let (all, own) = if self.own_kernels { snn_cpu_scratch(graph, plan, task, self.threads) } else { (0, 0) };
            let before = task.held.saturating_add(twice);
            let meanwhile = if candle { self.meanwhile(graph, task, all) } else { all };
            let now = before.saturating_add(task.computed).saturating_add(meanwhile);
            most = most.max(now);
            held.push(if candle { now } else { before.saturating_add(own) });
            for v in &task.frees {
                copies.remove(v);
            }
        }
        // Results are copied to the host one after the other, while all of them are held.
        let results: usize = graph.roots().map(|v| graph.ty(v).byte_len()).sum();
        let fetched: usize = graph.roots().filter(|v| !self.on_cpu || on_device.contains(v)).map(|v| graph.ty(v).byte_len()).sum();
        let twice: usize = copies.values().sum();
        let kept = if self.own_kernels { snn_cpu_kept(plan) } else { 0 };
        Held { most: most.max(results.saturating_add(fetched).saturating_add(twice)), kept, tasks: held }
    }

    /// Does candle compute it, and not a kernel for the CPU?
    fn is_candle(self, graph: &Graph, task: &Task, on_device: &HashSet<Value>) -> bool {
        match &task.kernel {
            Kernel::Alias => false,
            Kernel::Step(_) => !self.on_cpu,
            // What has few spikes at a time is candle's.
            Kernel::Product(_) | Kernel::Loop(_) | Kernel::Reference | Kernel::Selection(_) => true,
            Kernel::Convolution(_) | Kernel::Reduction(_) | Kernel::MaxPoolGradient(_) | Kernel::Delay(_) => !self.own_kernels,
            Kernel::Move | Kernel::FirstSpike(_) => {
                !self.own_kernels || graph.node(task.node).operands.iter().any(|v| on_device.contains(v))
            }
            // Only loops for threads know rings.
            Kernel::Ring(_) => false,
        }
    }

    /// What a task of candle's needs while it runs, where a kernel of the CPU that is tried before takes `own`.
    fn meanwhile(self, graph: &Graph, task: &Task, own: usize) -> usize {
        let node = graph.node(task.node);
        let operands: usize = node.operands.iter().map(|v| graph.ty(*v).byte_len()).sum();
        match (&task.kernel, &node.op) {
            (Kernel::Loop(inner), Op::Loop(l)) => self.of_loop(graph, task, l, inner),
            (Kernel::Product(p), Op::Contract(c)) => {
                let copied = copied_sides(graph, task, p, c);
                // The kernel for spikes has a result of its own, until it finds too many of them.
                own.saturating_add(if self.own_kernels { task.computed } else { 0 }).max(copied)
            }
            (Kernel::Convolution(c), _) => {
                // Channels are brought together in a copy. The CPU unrolls windows by tiles, other devices all at once.
                let positions = task.computed / c.windows.out_channels.max(1);
                let unrolled = if self.on_cpu { size_of::<f32>() * TILE * self.threads } else { positions };
                operands.saturating_add(unrolled.saturating_mul(c.windows.per_group().0 * c.windows.taps() + c.windows.out_channels))
            }
            // On a GPU sums are accumulated in a tree.
            (_, Op::Reduce { kind: Reduction::Sum, .. }) if !self.on_cpu => 0,
            (Kernel::Reduction(f), op) => temporaries(op, graph.ty(f.source).byte_len().max(task.computed), task.computed),
            (_, op) => temporaries(op, operands, task.computed),
        }
    }

    /// A loop collects the rows of its outputs before they are joined, and holds the values of one step.
    fn of_loop(self, graph: &Graph, task: &Task, l: &Loop, inner: &snn_plan::LoopPlan) -> usize {
        let rows: usize = task.gives.iter().take(l.roles.outputs).map(|v| graph.ty(*v).byte_len()).sum();
        let states: usize = task.gives.iter().skip(l.roles.outputs).map(|v| graph.ty(*v).byte_len()).sum();
        rows.saturating_add(states).saturating_add(self.of(&inner.body, &inner.plan).most)
    }
}

#[cfg(feature = "cpu")]
fn snn_cpu_kept(plan: &Plan) -> usize {
    snn_cpu::memory::kept(plan)
}

/// What a kernel of the CPU takes, and how much of it is not among the buffers of the program.
#[cfg(feature = "cpu")]
fn snn_cpu_scratch(graph: &Graph, plan: &Plan, task: &Task, threads: usize) -> (usize, usize) {
    let scratch = snn_cpu::memory::scratch(graph, plan, task, threads);
    (scratch.all(), scratch.own)
}

#[cfg(not(feature = "cpu"))]
fn snn_cpu_kept(_: &Plan) -> usize {
    0
}

#[cfg(not(feature = "cpu"))]
fn snn_cpu_scratch(_: &Graph, _: &Plan, _: &Task, _: usize) -> (usize, usize) {
    (0, 0)
}

/// The bytes of operands of a product that are copied, because neither they nor their transposes are matrices where they lie.
fn copied_sides(graph: &Graph, task: &Task, p: &ProductPlan, c: &Contraction) -> usize {
    let operands = &graph.node(task.node).operands;
    let rank = |v: Value| graph.ty(v).shape.len();
    let (free_a, free_b) = c.free_axes(rank(operands[0]), rank(operands[1]));
    let copied = |v: Value, source: Value, batch: &[usize], rows: &[usize], columns: &[usize]| {
        let moved = if let (Op::Transpose { permutation }, true) = (graph.op(v), v != source) { Some(permutation) } else { None };
        let order = |axes: [&[usize]; 3]| {
            let axes = axes.concat();
            axes.iter().map(|a| moved.map_or(*a, |p| p[*a])).eq(0..axes.len())
        };
        let lies = order([batch, rows, columns]) || order([batch, columns, rows]);
        if lies { 0 } else { graph.ty(v).byte_len() }
    };
    copied(operands[0], p.lhs.source, &c.lhs_batch, &free_a, &c.lhs_sum).saturating_add(copied(
        operands[1],
        p.rhs.source,
        &c.rhs_batch,
        &c.rhs_sum,
        &free_b,
    ))
}

/// What candle's operations make on the way to a result, from the bytes of the operands and of the result.
fn temporaries(op: &Op, operands: usize, result: usize) -> usize {
    match op {
        Op::Unary(_) | Op::Cast { .. } => result.saturating_mul(2),
        Op::Binary(_) | Op::Select | Op::Spike { .. } | Op::Iota { .. } => 0,
        Op::Broadcast { .. } | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => 0,
        // Joined along another axis than the first, all parts are transposed, and back.
        Op::Pad { .. } | Op::Concat { .. } | Op::Delay { .. } => result.saturating_mul(2),
        Op::Gather { .. } | Op::ScatterAdd { .. } => operands,
        Op::Window { .. } => result,
        Op::MaxPoolGradient(_) => operands.saturating_add(result),
        // Sums are accumulated in f64; windows are split and brought together, axis by axis.
        Op::Reduce { .. } => operands.saturating_mul(3),
        // Places are integers of 64 bits.
        Op::ArgMax { .. } => operands.saturating_mul(7),
        Op::CumSum { .. } | Op::FirstSpike { .. } => operands.saturating_add(result.saturating_mul(2)),
        Op::RedundantOneHot { .. } => result,
        Op::ThresholdMargin { .. } => result.saturating_mul(4),
        Op::Input { .. } | Op::Parameter { .. } | Op::Constant(_) | Op::Size(_) => 0,
        // What `ops` does not compute is computed on the host, from copies of the operands.
        _ => operands.saturating_add(result),
    }
}

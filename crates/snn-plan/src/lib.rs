//! The plan: what stands between the IR and every back end.
//!
//! A graph with known dimensions becomes a [`Plan`]: a list of [`Task`]s, each a [`Kernel`] with what it reads, what it writes
//! and what nobody reads after it. A *step kernel* ([`step`]) is every elementwise part with its scans, fused into one function of
//! one time step over a run of elements; sums over whole runs of what it computes are added as it goes. Repetition, delay and transposition
//! are read in place, at strides and offsets. Everything rare is a [`Kernel::Reference`], as the interpreter does it.
//!
//! # The rules
//!
//! * A plan is data. It knows neither who runs it (machine code, candle, C) nor on how many threads, and making it changes nothing.
//! * What a task reads was given, or written by a task before it, and not freed since. [`verify()`] checks that, after each plan in
//!   debug builds.
//! * The parts into which a loop is divided ([`partition`]) do not depend on the number of threads, and so no result does.

// A new operation must be looked at wherever operations are matched.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod buffers;
pub mod convolution;
mod lifetimes;
pub mod max_pool;
pub mod partition;
mod pieces;
pub mod plan;
pub mod product;
mod recompute;
pub mod reduction;
pub mod ring;
pub mod selection;
mod spikes;
pub mod step;
mod tiles;
mod verify;

use snn_ir::{CompileError, Graph};

/// What a graph becomes on the CPU, with its plan for threads: without what no root needs, with what is cheaper computed again than held, and
/// long sequences in pieces. All sizes are known.
///
/// # Errors
/// If a size is too large.
pub fn prepared(graph: &Graph) -> Result<(Graph, Plan), CompileError> {
    let (graph, plan) = recompute::recomputed(graph.pruned())?;
    match pieces::in_pieces(&graph) {
        Some(graph) => plan_for_threads(&graph).map(|plan| (graph, plan)),
        None => Ok((graph, plan)),
    }
}

pub use plan::{Kernel, LoopPlan, Plan, Task, describe, describe_task, layer_of, operations, plan, plan_for_threads};
pub use verify::{PlanError, verify};

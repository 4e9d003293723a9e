//! The CPU backend of snnc.
//!
//! A graph with known dimensions becomes a [plan](snn_plan): a list of kernels over buffers. A *step kernel* ([`step`]) is every
//! elementwise part with its scans, fused into one function that Cranelift generates ([`emit`]): one time step over a run of
//! elements, with the state in a scratch that stays in the L1 cache. Products go through the `gemm` crate
//! ([`products`], [`convolution`]) or, where their operand is spikes, add rows of weights; pools and reductions are plain loops,
//! and everything rare is evaluated as the interpreter does.
//!
//! Threads divide independent elements and never a sum, so a result does not depend on their number.

mod avx512;
mod bf16;
mod calls;
pub mod convolution;
mod direct;
mod emit;
mod fourier;
mod integer_windows;
mod integers;
mod lines;
pub mod max_pool;
pub mod memory;
mod microkernel;
pub mod moves;
mod operands;
mod panels;
pub mod products;
pub mod reductions;
pub mod ring;
mod run;
pub mod selection;
mod shared;
mod simd;
mod spike_windows;
mod spikes;
pub mod step;
mod taps;
#[cfg(test)]
mod testing;
mod tiles;
mod ways;
mod wide;
mod winograd;

use std::sync::Arc;

use snn_ir::backend::check_sizes;
use snn_ir::lanes::LaneOf;
use snn_ir::math::Lanes;
use snn_ir::{Backend, CompileError, Executable, Graph};
use snn_plan::step::StepKernel;
use snn_plan::{Kernel, Plan};

/// Compiles graphs to machine code.
pub struct Cranelift {
    pool: Arc<rayon::ThreadPool>,
    products: Products,
}

impl Cranelift {
    /// A backend that runs on that many threads; 0 for one on each processor.
    pub fn new(threads: usize) -> Cranelift {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        // Without threads of its own the backend works on the caller's.
        let pool = pool.or_else(|_| rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build());
        let pool = Arc::new(pool.expect("a pool of the current thread needs nothing of the system"));
        Cranelift { pool, products: Products::default() }
    }

    /// The same with another way to compute products.
    #[must_use]
    pub fn with_products(self, products: Products) -> Cranelift {
        Cranelift { products, ..self }
    }
}

impl Backend for Cranelift {
    fn name(&self) -> &'static str {
        "cranelift"
    }

    fn compile(&self, graph: &Graph) -> Result<Box<dyn Executable>, CompileError> {
        check_sizes(graph)?;
        let (graph, plan) = snn_plan::prepared(graph)?;
        let mut code = emit::Code::for_this_machine()?;
        generate(&graph, &plan, &mut code)?;
        let machine = code.finish(plan.packed)?;
        Ok(Box::new(run::Runnable::new(graph, plan, machine, self.pool.clone(), self.products)?))
    }
}

pub use bf16::is_available as has_bf16;
pub use emit::Machine;
pub use panels::{Identity, Kept};
pub use ways::{ProductKernel, Products};

/// What a kernel of a plan computes.
struct Body<'a>(&'a StepKernel, &'a Graph);

impl emit::StepBody for Body<'_> {
    fn step<L: Lanes>(&self, l: &mut L, loads: &[LaneOf<L>], states: &[LaneOf<L>]) -> (Vec<LaneOf<L>>, Vec<LaneOf<L>>) {
        self.0.step(self.1, l, loads, states)
    }
}

/// Generates the step kernels of a plan, in their order.
fn generate(graph: &Graph, plan: &Plan, code: &mut emit::Code) -> Result<(), CompileError> {
    for task in &plan.tasks {
        if let Kernel::Step(k) = &task.kernel {
            for k in k.before.as_deref().into_iter().chain([&**k]) {
                code.kernel(&k.name, &k.shape(graph), &Body(k, graph))?;
            }
        } else if let Kernel::Loop(l) = &task.kernel {
            generate(&l.body, &l.plan, code)?;
        }
    }
    Ok(())
}

/// Machine code for the step kernels of a plan.
///
/// # Errors
/// If code generation fails.
pub fn machine(graph: &Graph, plan: &Plan) -> Result<Machine, CompileError> {
    let mut code = emit::Code::for_this_machine()?;
    generate(graph, plan, &mut code)?;
    code.finish(plan.packed)
}

/// What is generated for a graph, as text: Cranelift's intermediate form, or machine code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// CLIF, before it is optimised, without its calling convention, which is this machine's.
    Clif,
    /// Machine code of this machine.
    Assembly,
}

/// The generated code of a graph as text, with the plan as its head.
///
/// # Errors
/// If code generation fails.
pub fn listing(graph: &Graph, kind: Listing) -> Result<String, CompileError> {
    check_sizes(graph)?;
    let (graph, plan) = snn_plan::prepared(graph)?;
    let mut code = emit::Code::for_this_machine()?;
    code.keep_text(kind);
    generate(&graph, &plan, &mut code)?;
    let mut text = snn_plan::describe(&graph, &plan, 0);
    text.push_str(&code.text());
    code.finish(0)?;
    Ok(text)
}

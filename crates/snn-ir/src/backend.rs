//! What a backend is: something that makes a graph with known dimensions run.

use std::collections::HashMap;

use crate::graph::Graph;
use crate::interpret::{Randomness, Results, RuntimeError, interpret};
use crate::op::Op;
use crate::tensor::Tensor;

/// Why a backend cannot compile a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum CompileError {
    #[error("a size is not known: {0}")]
    UnknownSize(#[from] crate::DimError),
    #[error("the tensors of this program are too large for this machine's addresses")]
    TooLarge,
    #[error("the device has {free} bytes free and the program needs {needed}; use a smaller batch (`--batch N`)")]
    DeviceMemory { needed: usize, free: usize },
    #[error("{0} time steps of tensors without elements compute nothing; is a dimension 0 by mistake?")]
    EmptySteps(i64),
    #[error("code generation failed: {0}")]
    CodeGeneration(String),
}

/// Compiles graphs.
pub trait Backend: Send + Sync {
    /// Its name, as `--backend` takes it.
    fn name(&self) -> &'static str;

    /// Compiles a graph whose dimensions are all numbers.
    ///
    /// # Errors
    /// See [`CompileError`].
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Executable>, CompileError>;
}

/// What a kernel did in a run.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// What it computes, as the plan describes it.
    pub name: String,
    /// How long it took, all steps of a loop together.
    pub time: std::time::Duration,
    /// Bytes that it read and wrote, once each.
    pub bytes: usize,
    /// Operations on numbers that it did, as the plan counts them; 0 where it does not.
    pub operations: usize,
    /// When it ran and how long, counted from the start of the program.
    pub runs: Vec<(std::time::Duration, std::time::Duration)>,
    /// The mean of its result, where that is spikes.
    pub firing_rate: Option<f64>,
}

/// The tensors that a training moves, where a backend keeps its data. They pass from one step to the next without a copy.
pub trait DeviceState: Send {
    /// Copies of them all, by name.
    ///
    /// # Errors
    /// If the device fails.
    fn to_host(&self) -> Result<Vec<(String, Tensor)>, RuntimeError>;

    /// For the backend that made it.
    fn as_any(&self) -> &dyn std::any::Any;
}

impl KernelTime {
    /// Adds one run of a kernel to those of the same name.
    pub fn add(times: &mut Vec<KernelTime>, new: KernelTime) {
        match times.iter_mut().find(|t| t.name == new.name) {
            Some(t) => {
                // The rate of all runs, such as the steps of a loop.
                let before = t.runs.len() as f64;
                t.firing_rate = t.firing_rate.zip(new.firing_rate).map(|(old, rate)| (old * before + rate) / (before + 1.0));
                t.time += new.time;
                t.bytes += new.bytes;
                t.operations += new.operations;
                t.runs.extend(new.runs);
            }
            None => times.push(new),
        }
    }
}

/// A compiled graph, which several threads may run at once.
pub trait Executable: Send + Sync {
    /// Runs it with inputs and parameters by name.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    fn run(&self, tensors: &HashMap<String, Tensor>, seed: u64) -> Result<Results, RuntimeError>;

    /// Runs it and says how long each kernel took; a backend without kernels gives none.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    fn profile(&self, tensors: &HashMap<String, Tensor>, seed: u64) -> Result<(Results, Vec<KernelTime>), RuntimeError> {
        Ok((self.run(tensors, seed)?, Vec::new()))
    }

    /// Runs it as a step of a training: `device_state` is what the step before left on the device, and stands in front of `tensors` of the same
    /// names. A backend without one gives its updates as [`Executable::run`] does.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    fn step(
        &self,
        tensors: &HashMap<String, Tensor>,
        device_state: Option<&dyn DeviceState>,
        seed: u64,
    ) -> Result<(Results, Option<Box<dyn DeviceState>>), RuntimeError> {
        let _ = device_state;
        Ok((self.run(tensors, seed)?, None))
    }

    /// Bytes that a run allocates, beside its inputs.
    fn memory(&self) -> usize;

    /// Takes back results that are no longer needed, so that the next run can use their memory.
    fn recycle(&self, results: Results) {
        drop(results);
    }
}

/// The interpreter as a backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interpreter;

struct Interpreted {
    graph: Graph,
    memory: usize,
}

impl Backend for Interpreter {
    fn name(&self) -> &'static str {
        "interpreter"
    }

    fn compile(&self, graph: &Graph) -> Result<Box<dyn Executable>, CompileError> {
        check_sizes(graph)?;
        Ok(Box::new(Interpreted { graph: graph.clone(), memory: total_bytes(graph)? }))
    }
}

impl Executable for Interpreted {
    fn run(&self, tensors: &HashMap<String, Tensor>, seed: u64) -> Result<Results, RuntimeError> {
        interpret(&self.graph, tensors, &mut Randomness::Counter { seed })
    }

    fn memory(&self) -> usize {
        self.memory
    }
}

/// A loop may take this many steps that have no elements.
const MOST_EMPTY_STEPS: i64 = 1 << 20;

/// Checks that every value of a graph, and of the graphs inside of it, has a size that memory could hold.
///
/// # Errors
/// If a size is unknown or too large.
pub fn check_sizes(graph: &Graph) -> Result<(), CompileError> {
    for (_, node) in graph.nodes() {
        for ty in &node.types {
            let elements = crate::tensor::element_count(&ty.sizes()?).ok_or(CompileError::TooLarge)?;
            elements.checked_mul(ty.dtype.bytes()).filter(|n| *n <= isize::MAX as usize).ok_or(CompileError::TooLarge)?;
        }
        let steps = if let Op::Loop(l) = &node.op {
            l.steps.evaluate(&crate::Dims::new())?
        } else if let Op::Scan(_) = &node.op {
            graph.ty(node.operands[0]).shape[0].evaluate(&crate::Dims::new())?
        } else {
            0
        };
        if steps > MOST_EMPTY_STEPS && node.types.iter().all(|t| t.sizes().is_ok_and(|s| s.contains(&0))) {
            return Err(CompileError::EmptySteps(steps));
        }
        for body in node.op.bodies() {
            check_sizes(body)?;
        }
    }
    Ok(())
}

/// The bytes of all values of a graph.
///
/// # Errors
/// If a size is unknown or the sum does not fit.
pub fn total_bytes(graph: &Graph) -> Result<usize, CompileError> {
    let mut sum = 0usize;
    for (_, node) in graph.nodes() {
        for ty in &node.types {
            let elements = crate::tensor::element_count(&ty.sizes()?).ok_or(CompileError::TooLarge)?;
            let bytes = elements.checked_mul(ty.dtype.bytes()).ok_or(CompileError::TooLarge)?;
            sum = sum.checked_add(bytes).filter(|s| *s <= isize::MAX as usize).ok_or(CompileError::TooLarge)?;
        }
    }
    Ok(sum)
}

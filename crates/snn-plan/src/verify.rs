//! The rules of plans, checked.

use std::collections::HashSet;

use snn_ir::{Graph, Value};

use crate::plan::{Kernel, Plan, is_given};

/// A rule that a plan breaks: a defect of the planner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plan of `{graph}`, task {task}: {message}")]
pub struct PlanError {
    /// The graph.
    pub graph: String,
    /// The place of the task; the number of tasks for the plan as a whole.
    pub task: usize,
    /// What is wrong.
    pub message: String,
}

/// Checks that each task finds what it reads, that nothing is computed twice or freed while it is needed, and that the results of the
/// graph are there at the end.
///
/// # Errors
/// The first rule that is broken.
pub fn verify(graph: &Graph, plan: &Plan) -> Result<(), PlanError> {
    let given = |v: &Value| is_given(graph.op(*v));
    let mut there: HashSet<Value> = HashSet::new();
    let mut computed: HashSet<Value> = HashSet::new();
    for (i, task) in plan.tasks.iter().enumerate() {
        let fail = |message: String| Err(PlanError { graph: graph.name.clone(), task: i, message });
        if let Some(v) = task.needs.iter().find(|v| !given(v) && !there.contains(v)) {
            return fail(format!("it reads {v:?}, which is not there"));
        }
        if let Some(v) = task.gives.iter().find(|v| !computed.insert(**v)) {
            return fail(format!("it computes {v:?} again"));
        }
        there.extend(&task.gives);
        if let Some(v) = task.frees.iter().find(|v| !there.remove(v)) {
            return fail(format!("it frees {v:?}, which is not there"));
        }
        if let Kernel::Loop(l) = &task.kernel {
            // The oldest rows of rings are there before the step, whoever runs it.
            if l.rings.is_empty() {
                verify(&l.body, &l.plan)?;
            }
        }
    }
    match graph.roots().find(|v| !given(v) && !there.contains(v)) {
        Some(v) => Err(PlanError { graph: graph.name.clone(), task: plan.tasks.len(), message: format!("the result {v:?} is not there") }),
        None => Ok(()),
    }
}

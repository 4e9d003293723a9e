//! When values are held: the order of tasks, what each is the last to read, and the memory that this takes.

use std::collections::{BTreeSet, HashMap, HashSet};

use snn_ir::{CompileError, Graph, Op, Value};

use crate::plan::{Kernel, LoopPlan, Plan, Task, is_given, stored_bytes};

/// Who has the memory of a value: one in another shape shares that of its owner, which lives as long as either is read.
struct Owners(HashMap<Value, Value>);

impl Owners {
    fn new(tasks: &[Task]) -> Owners {
        let mut owners = Owners(HashMap::new());
        for task in tasks {
            if let (Kernel::Alias, Some(v), Some(of)) = (&task.kernel, task.gives.first(), task.needs.first()) {
                owners.0.insert(*v, owners.of(*of));
            }
        }
        owners
    }

    fn of(&self, v: Value) -> Value {
        self.0.get(&v).copied().unwrap_or(v)
    }
}

/// The plan of tasks, each of which reads what those before it give. `in_place` says whether step kernels write results where operands are.
pub(crate) fn planned(graph: &Graph, tasks: Vec<Task>, spikes: BTreeSet<Value>, in_place: bool) -> Result<Plan, CompileError> {
    let owners = Owners::new(&tasks);
    let mut plan = Plan { spikes, ..Plan::default() };
    plan.tasks = sooner(graph, tasks, &owners, &|v| plan.bytes(graph, *v));
    find(graph, &mut plan, &owners, in_place)?;
    Ok(plan)
}

/// The tasks in an order in which one that gives back at least as much memory as it takes, since it is the last to read something, comes as
/// soon as it can.
fn sooner(graph: &Graph, tasks: Vec<Task>, owners: &Owners, bytes: &dyn Fn(&Value) -> usize) -> Vec<Task> {
    let mut producer: HashMap<Value, usize> = HashMap::new();
    let mut readers: HashMap<Value, Vec<usize>> = HashMap::new();
    let mut reads: Vec<Vec<Value>> = Vec::with_capacity(tasks.len());
    for (i, task) in tasks.iter().enumerate() {
        producer.extend(task.gives.iter().map(|v| (*v, i)));
        let mut own: Vec<Value> = task.needs.iter().filter(|v| !is_given(graph.op(**v))).map(|v| owners.of(*v)).collect();
        own.sort_unstable();
        own.dedup();
        own.iter().for_each(|v| readers.entry(*v).or_default().push(i));
        reads.push(own);
    }
    let roots: HashSet<Value> = graph.roots().map(|v| owners.of(v)).collect();
    let mut left: HashMap<Value, usize> =
        readers.iter().map(|(v, readers)| (*v, readers.len() + usize::from(roots.contains(v) || !producer.contains_key(v)))).collect();
    let mut done = vec![false; tasks.len()];
    let mut order = Vec::with_capacity(tasks.len());
    for first in 0..tasks.len() {
        let mut stack = vec![first];
        while let Some(i) = stack.pop() {
            if std::mem::replace(&mut done[i], true) {
                continue;
            }
            order.push(i);
            reads[i].iter().for_each(|v| *left.entry(*v).or_default() -= 1);
            let meets = tasks[i].gives.iter().chain(reads[i].iter().filter(|v| left[v] == 1)).filter_map(|v| readers.get(v)).flatten();
            let shrinks = |j: &&usize| {
                let ready = || tasks[**j].needs.iter().all(|v| producer.get(v).is_none_or(|p| done[*p]));
                let freed: usize = reads[**j].iter().filter(|v| left[v] == 1).map(bytes).sum();
                let taken = || if matches!(tasks[**j].kernel, Kernel::Alias) { 0 } else { tasks[**j].gives.iter().map(bytes).sum() };
                !done[**j] && freed > 0 && freed >= taken() && ready()
            };
            let mut next: Vec<usize> = meets.filter(shrinks).copied().collect();
            next.sort_unstable_by(|a, b| b.cmp(a));
            stack.extend(next);
        }
    }
    let mut tasks: Vec<Option<Task>> = tasks.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| tasks[i].take()).collect()
}

/// What each task is the last to read, and the most memory that is held at once.
fn find(graph: &Graph, plan: &mut Plan, owners: &Owners, in_place: bool) -> Result<(), CompileError> {
    let mut last: HashMap<Value, usize> = HashMap::new();
    let mut owner_last: HashMap<Value, usize> = HashMap::new();
    for (i, task) in plan.tasks.iter().enumerate() {
        for v in task.gives.iter().chain(&task.needs) {
            last.insert(*v, i);
            owner_last.insert(owners.of(*v), i);
        }
    }
    let roots: HashSet<Value> = graph.roots().collect();
    let spikes = &plan.spikes;
    let bytes = |v: &Value| stored_bytes(graph, spikes, *v);
    let given = |v: &Value| is_given(graph.op(*v));
    let kept: HashSet<Value> = roots.iter().map(|v| owners.of(*v)).collect();
    let mut ending: Vec<Vec<Value>> = vec![Vec::new(); plan.tasks.len()];
    for (v, i) in owner_last.iter().filter(|(v, _)| !kept.contains(v) && !given(v)) {
        ending[*i].push(*v);
    }
    let mut held = 0usize;
    for (i, task) in plan.tasks.iter_mut().enumerate() {
        task.held = held;
        let mut taken_over: HashSet<Value> = HashSet::new();
        let mut written_there: HashSet<Value> = HashSet::new();
        if let (Kernel::Step(kernel), true) = (&mut task.kernel, in_place) {
            let needs = &task.needs;
            kernel.write_in_place(|v| needs.contains(&v) && ending[i].contains(&owners.of(v)));
            taken_over.extend(kernel.in_place.iter().filter_map(|p| kernel.load(p.load)).map(|l| owners.of(l.source)));
            written_there.extend(kernel.in_place.iter().map(|p| kernel.stores[p.store].0));
        }
        if !matches!(task.kernel, Kernel::Alias) {
            for v in task.gives.iter().filter(|v| !written_there.contains(v)) {
                task.computed = task.computed.checked_add(bytes(v)?).ok_or(CompileError::TooLarge)?;
            }
        }
        held = held.checked_add(task.computed).ok_or(CompileError::TooLarge)?;
        let mut ended: Vec<Value> =
            task.gives.iter().chain(&task.needs).filter(|v| last[*v] == i && !roots.contains(v) && !given(v)).copied().collect();
        ended.sort();
        ended.dedup();
        for v in ending[i].iter().filter(|v| !taken_over.contains(v)) {
            held = held.saturating_sub(bytes(v)?);
        }
        task.frees = ended;
    }
    plan.peak = plan.memory(graph, &|_, _, _| 0);
    Ok(())
}

impl Plan {
    /// The most bytes that are held at one time beside inputs and parameters, where a kernel takes `scratch` bytes beside what it
    /// reads and writes.
    pub fn memory(&self, graph: &Graph, scratch: &dyn Fn(&Graph, &Plan, &Task) -> usize) -> usize {
        let task = |task: &Task| {
            let inside = if let Kernel::Loop(inner) = &task.kernel {
                stepped(graph, task, inner).saturating_add(inner.plan.memory(&inner.body, scratch)).saturating_mul(inner.parts)
            } else {
                0
            };
            task.held.saturating_add(task.computed).saturating_add(inside).saturating_add(scratch(graph, self, task))
        };
        self.tasks.iter().map(task).max().unwrap_or(0)
    }
}

/// The bytes of a step of a part that a loop holds beside the values of its plan: slices of its sequences, and states, old and new.
fn stepped(graph: &Graph, task: &Task, inner: &LoopPlan) -> usize {
    let Op::Loop(l) = graph.op(Value { node: task.node, result: 0 }) else { return 0 };
    let inputs = inner.body.inputs.iter().enumerate().filter(|(i, _)| *i < l.roles.sequences || *i >= l.roles.first_state());
    inputs.map(|(_, v)| inner.body.ty(*v).byte_len()).sum()
}

//! Running a plan.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;
use snn_ir::interpret::{Randomness, Results, RuntimeError, checked, evaluate, stacked};
use snn_ir::tensor::element_count;
use snn_ir::{CompileError, DType, Data, Executable, Graph, KernelTime, Loop, Op, Tensor, Type, Value};

use snn_plan::buffers::{Buffers, InputSlice, OutputBuffer};
use snn_plan::convolution::Direction;
use snn_plan::ring::RingPart;
use snn_plan::step::InPlace;
use snn_plan::{Kernel, LoopPlan, Plan, Task};

use crate::convolution::convolve;
use crate::emit::Machine;
use crate::panels::Identity;
use crate::products::Product;
use crate::reductions::Reduce;
use crate::ring::Rows;
use crate::shared::alone;

use crate::max_pool::{MaxPoolBackward, Sources as Pooled};
use crate::memory;
use crate::selection::{Select, Sources};
use crate::spikes::Elements;
use crate::step::Step;
use crate::ways::Products;

/// A plan with its machine code.
pub struct Runnable {
    graph: Graph,
    plan: Plan,
    machine: Machine,
    pool: Arc<rayon::ThreadPool>,
    /// Buffers that earlier kernels and runs have left.
    spare: Buffers,
    large: bool,
    products: Products,
    /// The most bytes that a run holds beside inputs and parameters, with what is kept for the next.
    memory: usize,
    /// For each task, what is held when it begins, and what it takes that is not among the buffers.
    held: Vec<usize>,
}

impl Runnable {
    pub fn new(
        graph: Graph,
        plan: Plan,
        machine: Machine,
        pool: Arc<rayon::ThreadPool>,
        products: Products,
    ) -> Result<Runnable, CompileError> {
        let large = plan.peak >= 1 << 15;
        let threads = if large { pool.current_num_threads() } else { 1 };
        let at_once = plan.memory(&graph, &|graph, plan, task| memory::scratch(graph, plan, task, threads).all());
        let held = plan.tasks.iter().map(|task| memory::held(&graph, &plan, task, threads)).collect();
        let spare = Buffers::new(at_once);
        let memory = spare.most().saturating_add(memory::kept(&plan));
        Ok(Runnable { graph, plan, machine, pool, spare, large, products, memory, held })
    }
}

impl Executable for Runnable {
    fn run(&self, tensors: &HashMap<String, Tensor>, seed: u64) -> Result<Results, RuntimeError> {
        self.go(tensors, seed, None)
    }

    fn profile(&self, tensors: &HashMap<String, Tensor>, seed: u64) -> Result<(Results, Vec<KernelTime>), RuntimeError> {
        let mut times = Vec::new();
        let results = self.go(tensors, seed, Some(&mut times))?;
        Ok((results, times))
    }

    fn memory(&self) -> usize {
        self.memory
    }

    fn recycle(&self, results: Results) {
        results.outputs.into_iter().chain(results.updates).for_each(|(_, t)| self.spare.keep(t));
    }
}

impl Runnable {
    fn go(&self, tensors: &HashMap<String, Tensor>, seed: u64, times: Option<&mut Vec<KernelTime>>) -> Result<Results, RuntimeError> {
        let go = || {
            let mut run = Run { runnable: self, seed, started: std::time::Instant::now(), times };
            let mut values = Values::new();
            for (id, node) in self.graph.nodes() {
                let value = Value { node: id, result: 0 };
                if let Op::Input { name, .. } | Op::Parameter { name, .. } = &node.op
                    && let Some(tensor) = tensors.get(name)
                {
                    values.insert(value, checked(name, tensor, &node.types[0])?);
                }
            }
            run.plan(&self.graph, &self.plan, &self.held, &mut values)?;
            let of = |list: &[(String, Value)]| -> Result<Vec<(String, Tensor)>, RuntimeError> {
                list.iter().map(|(n, v)| Ok((n.clone(), values.get(&self.graph, *v)?.clone()))).collect()
            };
            Ok(Results { outputs: of(&self.graph.outputs)?, updates: of(&self.graph.updates)? })
        };
        // A small program is done before threads have woken up.
        if self.large { self.pool.install(go) } else { go() }
    }
}

/// The tensors that are in memory.
struct Values(HashMap<Value, Tensor>);

impl Values {
    fn new() -> Values {
        Values(HashMap::new())
    }

    fn insert(&mut self, v: Value, t: Tensor) {
        self.0.insert(v, t);
    }

    /// The floats of a value that nobody else holds; such a value is there no more.
    fn take(&mut self, v: Value) -> Option<Vec<f32>> {
        let t = self.0.remove(&v)?;
        let shape = t.shape().to_vec();
        let data = match t.into_data() {
            Data::F32(floats) => match Arc::try_unwrap(floats) {
                Ok(floats) => return Some(floats),
                Err(floats) => Data::F32(floats),
            },
            other => other,
        };
        self.insert(v, Tensor::new(shape, data));
        None
    }

    fn get<'a>(&'a self, graph: &'a Graph, v: Value) -> Result<&'a Tensor, RuntimeError> {
        match (self.0.get(&v), graph.op(v)) {
            (Some(t), _) => Ok(t),
            (None, Op::Constant(t)) => Ok(t),
            (None, Op::Parameter { name: n, .. }) => Err(RuntimeError::MissingParameter(n.clone())),
            (None, Op::Input { name: n, .. }) => Err(RuntimeError::MissingInput(n.clone())),
            (None, op) => unreachable!("the plan has computed {op:?} before its use"),
        }
    }
}

struct Run<'a> {
    runnable: &'a Runnable,
    seed: u64,
    started: std::time::Instant,
    /// Where the times of kernels go, if they are asked for.
    times: Option<&'a mut Vec<KernelTime>>,
}

impl Run<'_> {
    fn floats(&self, n: usize) -> Vec<f32> {
        self.runnable.spare.take(n)
    }

    /// All tasks of a plan. `held` is what is held when each begins; what those of a loop's body hold is a part of the loop's.
    fn plan(&mut self, graph: &Graph, plan: &Plan, held: &[usize], values: &mut Values) -> Result<(), RuntimeError> {
        for (i, task) in plan.tasks.iter().enumerate() {
            if let Some(held) = held.get(i) {
                self.runnable.spare.begin(*held);
            }
            let started = self.times.is_some().then(std::time::Instant::now);
            self.task(graph, plan, task, values)?;
            // A kernel that was stopped has not computed all that it should.
            snn_ir::interrupt::check()?;
            if let Some(started) = started {
                self.note(graph, plan, task, values, started.elapsed());
            }
            for v in &task.frees {
                if let Some(t) = values.0.remove(v) {
                    self.runnable.spare.keep(t);
                }
            }
        }
        Ok(())
    }

    /// Adds what a kernel took. Loops are told by the kernels inside.
    fn note(&mut self, graph: &Graph, plan: &Plan, task: &Task, values: &Values, time: std::time::Duration) {
        let Some(times) = self.times.as_deref_mut() else { return };
        if matches!(task.kernel, Kernel::Loop(_) | Kernel::Alias | Kernel::Ring(_)) {
            return;
        }
        let name = match snn_plan::layer_of(graph, task) {
            Some(layer) => format!("{layer}: {}", snn_plan::describe_task(graph, task)),
            None => snn_plan::describe_task(graph, task),
        };
        let bytes = task.needs.iter().chain(&task.gives).map(|v| plan.bytes(graph, *v)).sum();
        // Zeros that a state begins with are no spikes.
        let begins = matches!(graph.node(task.node).op, Op::Broadcast { .. } | Op::Constant(_));
        let first = task.gives.first().filter(|v| !begins && graph.ty(**v).dtype == DType::F32);
        let firing_rate = first.and_then(|v| values.get(graph, *v).ok()).and_then(firing_rate);
        let operations = snn_plan::operations(graph, task);
        let runs = vec![(self.started.elapsed().saturating_sub(time), time)];
        KernelTime::add(times, KernelTime { name, time, bytes, operations, runs, firing_rate });
    }

    fn task(&mut self, graph: &Graph, plan: &Plan, task: &Task, values: &mut Values) -> Result<(), RuntimeError> {
        let node = graph.node(task.node);
        let result = Value { node: task.node, result: 0 };
        let operand = |i: usize| values.get(graph, node.operands[i]);
        match &task.kernel {
            Kernel::Step(kernel) => {
                for l in &task.needs {
                    values.get(graph, *l)?;
                }
                // Memory that is written where it is read; that which somebody else holds too is only read.
                let mut taken: Vec<(InPlace, Vec<f32>)> = Vec::with_capacity(kernel.in_place.len());
                for p in &kernel.in_place {
                    taken.extend(kernel.load(p.load).and_then(|l| values.take(l.source)).map(|floats| (*p, floats)));
                }
                let in_place: Vec<InPlace> = taken.iter().map(|(p, _)| *p).collect();
                let sizes = |v: Value| graph.ty(v).sizes().unwrap_or_default();
                let read = |v: Value| match values.get(graph, v) {
                    Ok(t) => InputSlice::from(t),
                    Err(_) => unreachable!("what a kernel needs was found above"),
                };
                let results = Step(kernel).execute(&self.runnable.machine, read, &in_place, |v, dtype| {
                    let own = taken.iter().position(|(p, _)| kernel.stores[p.store].0 == v);
                    match own {
                        Some(i) => OutputBuffer::Floats(taken.swap_remove(i).1),
                        None => self.runnable.spare.output(dtype, count(&sizes(v))),
                    }
                });
                for (v, buffer) in results {
                    values.insert(v, buffer.tensor(sizes(v)));
                }
            }
            Kernel::Alias => {
                let t = operand(0)?.reshaped(node.types[0].sizes()?);
                values.insert(result, t);
            }
            Kernel::Product(p) => {
                let shape = node.types[0].sizes()?;
                let (lhs, rhs) = (self.side(graph, &p.lhs, values)?, self.side(graph, &p.rhs, values)?);
                let mut out = self.floats(count(&shape));
                let p = Product {
                    plan: p,
                    packed: self.runnable.machine.packed(),
                    buffers: &self.runnable.spare,
                    products: self.runnable.products,
                };
                let (x, w) = (Elements::from(&lhs), Elements::from(&rhs));
                if !p.execute_spikes(x, w, || identity(&rhs), &mut out) {
                    let [mut x_held, mut w_held] = [None, None];
                    p.execute(x.floats(p.buffers, &mut x_held), w.floats(p.buffers, &mut w_held), &mut out);
                }
                values.insert(result, Tensor::f32(shape, out));
            }
            Kernel::Convolution(c) if !(self.runnable.products.is_exact() && c.direction == Direction::InputGradient) => {
                let shape = node.types[0].sizes()?;
                let mut out = self.floats(count(&shape));
                let w = operand(1)?;
                let operands = (Elements::from(operand(0)?), w.as_f32());
                convolve(
                    c,
                    self.runnable.machine.packed(),
                    &self.runnable.spare,
                    operands,
                    || identity(w),
                    self.runnable.products,
                    &mut out,
                );
                values.insert(result, Tensor::f32(shape, out));
            }
            Kernel::Reduction(f) => {
                let shape = node.types[0].sizes()?;
                let stored = if plan.spikes.contains(&result) { DType::Bool } else { node.types[0].dtype };
                let mut out = self.runnable.spare.output(stored, count(&shape));
                match (values.get(graph, f.source)?.data(), &mut out) {
                    (Data::Bool(x), OutputBuffer::Bytes(out)) => Reduce(f).any(x, out),
                    (Data::Bool(x), OutputBuffer::Floats(out)) => {
                        let mut bytes = vec![0; out.len()];
                        Reduce(f).any(x, &mut bytes);
                        out.iter_mut().zip(bytes).for_each(|(to, x)| *to = f32::from(x));
                    }
                    (Data::F32(x), OutputBuffer::Floats(out)) => Reduce(f).execute(x, out),
                    (_, _) => unreachable!("the plan reduces floats, or booleans over windows"),
                }
                values.insert(result, out.tensor(shape));
            }
            Kernel::MaxPoolGradient(u) => {
                let mut out = self.floats(count(&node.types[0].sizes()?));
                let gradient = values.get(graph, u.gradient)?.as_f32();
                let [x, y] = [u.x, u.y].map(|v| values.get(graph, v).map(Elements::from));
                match (x?, y?) {
                    (Elements::Spikes(x), Elements::Spikes(y)) => MaxPoolBackward(u).execute(Pooled { x, y, gradient }, &mut out),
                    (x, y) => {
                        let [mut x_held, mut y_held] = [None, None];
                        let spare = &self.runnable.spare;
                        let (x, y) = (x.floats(spare, &mut x_held), y.floats(spare, &mut y_held));
                        MaxPoolBackward(u).execute(Pooled { x, y, gradient }, &mut out);
                    }
                }
                values.insert(result, Tensor::f32(node.types[0].sizes()?, out));
            }
            Kernel::Selection(s) => {
                let mut out = self.floats(count(&node.types[0].sizes()?));
                let floats = |v: Value| values.get(graph, v).map(Tensor::as_f32);
                let integers = |v: Value| values.get(graph, v).map(Tensor::as_i64);
                let sources = Sources::of(s, floats, integers)?;
                Select(s).execute(sources, &mut out)?;
                values.insert(result, Tensor::f32(node.types[0].sizes()?, out));
            }
            Kernel::Delay(steps) if node.types[0].dtype == DType::F32 => {
                let x = operand(0)?;
                let shape = x.shape().to_vec();
                let mut out = self.floats(x.len());
                crate::moves::delay(x.as_f32(), *steps, shape[1..].iter().product(), &mut out);
                values.insert(result, Tensor::f32(shape, out));
            }
            Kernel::Loop(inner) => {
                let Op::Loop(l) = &node.op else { unreachable!("only loops are planned as loops") };
                let operands = node.operands.iter().map(|v| values.get(graph, *v).cloned()).collect::<Result<Vec<_>, _>>()?;
                let results = self.repeat(l, inner, &operands, &node.types)?;
                for (v, t) in graph.results(task.node).zip(results) {
                    values.insert(v, t);
                }
            }
            Kernel::Ring(RingPart::Oldest | RingPart::Rest) => {}
            Kernel::Ring(RingPart::Next) => {
                let newest = operand(1)?.clone();
                values.insert(result, newest);
            }
            Kernel::Move => {
                let operands = node.operands.iter().map(|v| values.get(graph, *v)).collect::<Result<Vec<_>, _>>()?;
                let moved = crate::moves::execute(&node.op, &operands, node.types[0].sizes()?, |n| self.floats(n));
                values.insert(result, moved);
            }
            Kernel::FirstSpike(axis) if crate::moves::first_spike_fits(operand(0)?) => {
                let found = crate::moves::first_spike(operand(0)?, *axis);
                values.insert(result, found);
            }
            // The gradient of an input adds the products of each element of the kernel by themselves.
            Kernel::Convolution(_) | Kernel::Delay(_) | Kernel::FirstSpike(_) | Kernel::Reference => {
                let operands = node.operands.iter().map(|v| values.get(graph, *v)).collect::<Result<Vec<_>, _>>()?;
                let results = evaluate(&node.op, &operands, &node.types, &mut Randomness::Counter { seed: self.seed })?;
                for (v, t) in graph.results(task.node).zip(results) {
                    values.insert(v, t);
                }
            }
        }
        Ok(())
    }

    fn side(&self, graph: &Graph, side: &snn_plan::product::Side, values: &Values) -> Result<Tensor, RuntimeError> {
        let t = values.get(graph, side.source)?;
        let Some(permutation) = &side.permutation else { return Ok(t.clone()) };
        let shape = permutation.iter().map(|a| t.shape()[*a]).collect();
        let op = Op::Transpose { permutation: permutation.clone() };
        Ok(crate::moves::execute(&op, &[t], shape, |n| self.floats(n)))
    }

    /// A loop: each part of its samples through all steps.
    fn repeat(&mut self, l: &Loop, plan: &LoopPlan, operands: &[Tensor], types: &[Type]) -> Result<Vec<Tensor>, RuntimeError> {
        // Outputs of floats are written in place, so that the memory of a step serves the next.
        let mut whole: Vec<Vec<f32>> = Vec::with_capacity(l.roles.outputs);
        for ty in &types[..l.roles.outputs] {
            whole.push(if ty.dtype == DType::F32 { self.floats(count(&ty.sizes()?)) } else { Vec::new() });
        }
        let steps = l.steps.evaluate(&snn_ir::Dims::new())? as usize;
        let mut rows: Vec<Vec<&mut [f32]>> = (0..plan.parts).map(|_| Vec::with_capacity(steps * plan.runs * l.roles.outputs)).collect();
        for data in whole.iter_mut().filter(|data| !data.is_empty()) {
            let n = data.len() / (steps * plan.runs * plan.parts);
            for (i, row) in data.chunks_exact_mut(n).enumerate() {
                rows[i % plan.parts].push(row);
            }
        }
        let results: Vec<(Vec<Tensor>, Vec<Tensor>)> = if plan.parts == 1 {
            rows.into_iter().map(|rows| self.part(l, plan, 0, steps, operands, types, rows)).collect::<Result<_, _>>()?
        } else {
            let (runnable, seed, started, timed) = (self.runnable, self.seed, self.started, self.times.is_some());
            let part = |(p, rows)| {
                let mut times = Vec::new();
                let mut run = Run { runnable, seed, started, times: timed.then_some(&mut times) };
                let results = alone(|| run.part(l, plan, p, steps, operands, types, rows))?;
                Ok((results, times))
            };
            let parts = rows.into_par_iter().enumerate().map(part).collect::<Result<Vec<_>, RuntimeError>>()?;
            let mut results = Vec::with_capacity(plan.parts);
            for (result, times) in parts {
                results.push(result);
                if let Some(all) = self.times.as_deref_mut() {
                    times.into_iter().for_each(|time| KernelTime::add(all, time));
                }
            }
            results
        };
        let mut all = Vec::new();
        let (outputs, states): (Vec<_>, Vec<_>) = results.into_iter().unzip();
        let mut outputs = outputs.into_iter().next().unwrap_or_default().into_iter();
        for (data, ty) in whole.into_iter().zip(types) {
            let output = if ty.dtype == DType::F32 { Some(Tensor::f32(ty.sizes()?, data)) } else { outputs.next() };
            all.extend(output);
        }
        if let [states] = states.as_slice() {
            all.extend(states.iter().cloned());
            return Ok(all);
        }
        for (i, ty) in types[l.roles.outputs..].iter().enumerate() {
            let axis = plan.divided[l.roles.first_state() + i].unwrap_or(0);
            let parts: Vec<&Tensor> = states.iter().map(|part| &part[i]).collect();
            all.push(crate::moves::execute(&Op::Concat { axis }, &parts, ty.sizes()?, |n| self.floats(n)));
        }
        Ok(all)
    }

    /// One part of a loop's samples: the plan of its body once for each step. `rows` has the memory of the outputs of floats, output
    /// by output, step by step, run by run. The other outputs, and the last states.
    #[allow(clippy::too_many_arguments)]
    fn part(
        &mut self,
        l: &Loop,
        plan: &LoopPlan,
        part: usize,
        steps: usize,
        operands: &[Tensor],
        types: &[Type],
        mut rows: Vec<&mut [f32]>,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>), RuntimeError> {
        let body = &plan.body;
        let first_state = l.roles.first_state();
        let shape = |i: usize| body.ty(body.inputs[i]).sizes();
        let mut states = Vec::with_capacity(l.roles.states);
        for (i, state) in operands.iter().enumerate().skip(first_state) {
            states.push(match plan.divided.get(i).copied().flatten() {
                Some(axis) => {
                    let shape = shape(i)?;
                    let slice =
                        Op::Slice { axis, start: ((part * shape[axis]) as i64).into(), length: (shape[axis] as i64).into(), step: 1 };
                    crate::moves::execute(&slice, &[state], shape, |n| self.floats(n))
                }
                None => state.clone(),
            });
        }
        let mut rings: Vec<Option<Rows>> =
            (0..l.roles.states).map(|i| plan.rings.iter().any(|r| r.state == i).then(|| Rows::new(&states[i]))).collect();
        let mut others: Vec<Vec<Tensor>> = vec![Vec::new(); l.roles.outputs];
        for step in 0..steps {
            let t = if l.reverse { steps - 1 - step } else { step };
            let mut values = Values::new();
            for (i, v) in body.inputs.iter().enumerate() {
                let tensor = if i < l.roles.sequences {
                    self.slice(&operands[i], t, plan, part, shape(i)?)
                } else if i < first_state {
                    operands[i].clone()
                } else {
                    states[i - first_state].clone()
                };
                values.insert(*v, tensor);
            }
            for ring in &plan.rings {
                if let Some(rows) = &rings[ring.state] {
                    values.insert(ring.oldest, rows.oldest(self.floats(rows.row())));
                }
            }
            self.plan(body, &plan.plan, &[], &mut values)?;
            let results = body.outputs.iter().map(|(_, v)| values.get(body, *v).cloned());
            let mut results = results.collect::<Result<Vec<_>, _>>()?;
            let old = std::mem::replace(&mut states, results.split_off(l.roles.outputs));
            for (rows, newest) in rings.iter_mut().zip(&states) {
                if let Some(rows) = rows {
                    rows.push(newest);
                }
            }
            let mut floats = 0;
            for (o, row) in results.into_iter().enumerate() {
                if row.dtype() != DType::F32 {
                    others[o].push(row);
                } else if !row.is_empty() {
                    let runs = &mut rows[(floats * steps + t) * plan.runs..][..plan.runs];
                    let n = row.len() / plan.runs;
                    runs.iter_mut().zip(row.as_f32().chunks_exact(n)).for_each(|(to, run)| to.copy_from_slice(run));
                    floats += 1;
                }
            }
            // What the step has left: its slices, and the states before it.
            values.0.into_values().chain(old).for_each(|t| self.runnable.spare.keep(t));
        }
        for (state, rows) in states.iter_mut().zip(rings) {
            if let Some(rows) = rows {
                *state = rows.state();
            }
        }
        let stack = |(rows, ty): (Vec<Tensor>, &Type)| (ty.dtype != DType::F32).then(|| stacked(rows, l.reverse, ty));
        Ok((others.into_iter().zip(types).filter_map(stack).collect::<Result<_, _>>()?, states))
    }

    /// Slice `t` of a sequence, in a shape: of all samples, or those of a part.
    fn slice(&self, x: &Tensor, t: usize, plan: &LoopPlan, part: usize, shape: Vec<usize>) -> Tensor {
        fn runs<'x, T>(x: &'x [T], plan: &LoopPlan, first: usize, n: usize) -> impl Iterator<Item = &'x [T]> {
            (0..plan.runs).map(move |run| &x[(first + run * plan.parts) * n..][..n])
        }
        let n = count(&shape) / plan.runs;
        let first = t * plan.runs * plan.parts + part;
        match x.data() {
            Data::F32(v) => {
                let mut data = self.floats(n * plan.runs);
                data.chunks_exact_mut(n.max(1)).zip(runs(v, plan, first, n)).for_each(|(to, run)| to.copy_from_slice(run));
                Tensor::f32(shape, data)
            }
            Data::I64(v) => Tensor::i64(shape, runs(v, plan, first, n).flatten().copied().collect()),
            Data::Bool(v) => Tensor::bool(shape, runs(v, plan, first, n).flatten().copied().collect()),
            Data::U8(v) => Tensor::u8(shape, runs(v, plan, first, n).flatten().copied().collect()),
        }
    }
}

/// The share of ones, where there are only zeros and ones.
fn firing_rate(t: &Tensor) -> Option<f64> {
    let ones = match Elements::from(t) {
        Elements::Floats(v) => v.iter().all(|x| *x == 0.0 || *x == 1.0).then(|| v.iter().map(|x| f64::from(*x)).sum::<f64>())?,
        Elements::Spikes(v) => v.iter().map(|x| f64::from(*x)).sum(),
    };
    (!t.is_empty()).then(|| ones / t.len() as f64)
}

/// Whose weights these are, so that they are packed only once.
fn identity(weights: &Tensor) -> Identity {
    let Data::F32(w) = weights.data() else { unreachable!("weights are floats") };
    Identity::Shared(w.clone())
}

/// How many elements a shape has; a graph is planned only where every shape fits.
fn count(shape: &[usize]) -> usize {
    element_count(shape).unwrap_or(0)
}

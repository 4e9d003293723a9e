//! Runs a plan on a device.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor as CandleTensor};
use snn_ir::interpret::{Randomness, checked, evaluate};
use snn_ir::{
    CompileError, Contraction, DType, Data, DeviceState, Executable, Graph, KernelTime, Loop, Op, Results, RuntimeError, Tensor, Type,
    Value,
};
use snn_plan::buffers::Buffers;
use snn_plan::product::ProductPlan;
use snn_plan::reduction::ReductionPlan;
use snn_plan::{Kernel, Plan, Task, describe_task};

use crate::Precision;
use crate::convert::{candle_type, download, upload};
use crate::device::first_line;
use crate::kernels::{Kernels, sizes};
use crate::memory::Memory;
use crate::values::{Slot, Values};
use crate::{ops, products};

/// A program on a device.
pub struct Runnable {
    graph: Graph,
    plan: Plan,
    pub(crate) kernels: Kernels,
    pub(crate) device: Device,
    pub(crate) precision: Precision,
    pub(crate) plain: bool,
    /// The parameters of the last run by name: where they came from and where they are now.
    weights: Mutex<HashMap<String, (Data, CandleTensor)>>,
    /// The constants that are read as tensors.
    constants: Values,
    /// Memory that earlier kernels and runs have left, on the CPU.
    pub(crate) buffers: Buffers,
    /// The most bytes that a run holds beside inputs and parameters.
    memory: usize,
    /// For each task, what is held when it begins, and what it takes that is not among the buffers.
    held: Vec<usize>,
}

impl Runnable {
    /// Compiles the kernels of a plan.
    ///
    /// # Errors
    /// If a compiler refuses a kernel.
    pub fn new(graph: Graph, plan: Plan, device: Device, precision: Precision, plain: bool) -> Result<Runnable, CompileError> {
        // What cannot fit is said before anything is copied.
        let given = graph.inputs.iter().map(|v| graph.ty(*v)).chain(graph.parameters.iter().map(|p| &p.ty));
        let given: usize = given.map(snn_ir::Type::byte_len).sum();
        let on_cpu = device.is_cpu();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let held = Memory { on_cpu, own_kernels: on_cpu && !plain, threads }.of(&graph, &plan);
        let buffers = Buffers::new(held.most);
        let memory = if on_cpu { buffers.most() } else { held.most }.saturating_add(held.kept);
        let needed = memory.saturating_add(given);
        if let Some(free) = crate::device::free_memory(&device).filter(|free| *free < needed) {
            return Err(CompileError::DeviceMemory { needed, free });
        }
        let kernels = Kernels::new(&graph, &plan, &device)?;
        let read = plan.tasks.iter().flat_map(|t| &t.needs).copied().chain(graph.roots());
        let constants = read.filter_map(|v| if let Op::Constant(t) = graph.op(v) { Some((v, t)) } else { None });
        let slot = |t: &Tensor| -> candle_core::Result<Slot> {
            Ok(Slot { host: device.is_cpu().then(|| t.clone()), device: Some(upload(t, &device)?) })
        };
        let constants = constants.map(|(v, t)| Ok((v, slot(t)?))).collect::<candle_core::Result<_>>();
        let constants = Values(constants.map_err(|e| CompileError::CodeGeneration(first_line(&e)))?);
        Ok(Runnable {
            graph,
            plan,
            kernels,
            device,
            precision,
            plain,
            weights: Mutex::default(),
            constants,
            buffers,
            memory,
            held: held.tasks,
        })
    }

    /// An error of candle's in our words.
    pub(crate) fn failed(&self, e: &candle_core::Error) -> RuntimeError {
        let needs = format!("; this program needs {} bytes on the device beside its inputs and parameters", self.memory);
        RuntimeError::Device(format!("{}{needs}", first_line(e)))
    }

    /// A parameter on the device. It stays there while the same elements are given.
    fn weight(&self, name: &str, tensor: &Tensor) -> candle_core::Result<CandleTensor> {
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((data, kept)) = weights.get(name)
            && shares(data, tensor.data())
        {
            return Ok(kept.clone());
        }
        let new = upload(tensor, &self.device)?;
        weights.insert(name.to_string(), (tensor.data().clone(), new.clone()));
        Ok(new)
    }

    /// Runs the program and leaves all values on the device.
    fn go<'a>(
        &'a self,
        tensors: &HashMap<String, Tensor>,
        device_state: Option<&Weights>,
        seed: u64,
        times: Option<&'a mut Vec<KernelTime>>,
    ) -> Result<(Run<'a>, Values), RuntimeError> {
        let mut values = self.constants.clone();
        for (id, node) in self.graph.nodes() {
            let value = Value { node: id, result: 0 };
            let (Op::Input { name, .. } | Op::Parameter { name, .. }) = &node.op else { continue };
            if let Some(own) = device_state.and_then(|h| h.0.iter().find(|(n, _)| n == name)) {
                values.0.insert(value, own.1.0.clone());
                continue;
            }
            let Some(tensor) = tensors.get(name) else { continue };
            let tensor = checked(name, tensor, &node.types[0])?;
            let slot = match (&node.op, &self.device) {
                // On the CPU both are read where they are, until an operation of candle's wants them.
                (_, Device::Cpu) => Ok(Slot::default()),
                (Op::Parameter { .. }, _) => self.weight(name, &tensor).map(Slot::device),
                _ => upload(&tensor, &self.device).map(Slot::device),
            };
            let slot = slot.map_err(|e| self.failed(&e))?;
            values.0.insert(value, Slot { host: self.device.is_cpu().then_some(tensor), ..slot });
        }
        let mut run = Run { runnable: self, seed, started: Instant::now(), times };
        run.plan(&self.graph, &self.plan, &self.held, &mut values)?;
        Ok((run, values))
    }

    /// Copies results to the host.
    fn fetch(&self, run: &Run<'_>, list: &[(String, Value)], values: &mut Values) -> Result<Vec<(String, Tensor)>, RuntimeError> {
        let mut copy = |v: &Value| {
            let slot = run.slot(&self.graph, *v, values)?;
            slot.on_host(self.graph.ty(*v).dtype, &self.buffers).map_err(|e| self.failed(&e))
        };
        list.iter().map(|(n, v)| Ok((n.clone(), copy(v)?))).collect()
    }

    fn results(&self, run: &Run<'_>, values: &mut Values) -> Result<Results, RuntimeError> {
        let outputs = self.fetch(run, &self.graph.outputs, values)?;
        Ok(Results { outputs, updates: self.fetch(run, &self.graph.updates, values)? })
    }
}

/// Are both the same elements in memory?
fn shares(a: &Data, b: &Data) -> bool {
    use std::sync::Arc;
    match (a, b) {
        (Data::F32(a), Data::F32(b)) => Arc::ptr_eq(a, b),
        (Data::I64(a), Data::I64(b)) => Arc::ptr_eq(a, b),
        (Data::Bool(a), Data::Bool(b)) | (Data::U8(a), Data::U8(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

impl Executable for Runnable {
    fn run(&self, tensors: &HashMap<String, Tensor>, seed: u64) -> Result<Results, RuntimeError> {
        let (run, mut values) = self.go(tensors, None, seed, None)?;
        self.results(&run, &mut values)
    }

    fn profile(&self, tensors: &HashMap<String, Tensor>, seed: u64) -> Result<(Results, Vec<KernelTime>), RuntimeError> {
        let mut times = Vec::new();
        let (run, mut values) = self.go(tensors, None, seed, Some(&mut times))?;
        let results = self.results(&run, &mut values)?;
        Ok((results, times))
    }

    fn step(
        &self,
        tensors: &HashMap<String, Tensor>,
        device_state: Option<&dyn DeviceState>,
        seed: u64,
    ) -> Result<(Results, Option<Box<dyn DeviceState>>), RuntimeError> {
        let device_state = device_state.and_then(|h| h.as_any().downcast_ref::<Weights>());
        let (run, mut values) = self.go(tensors, device_state, seed, None)?;
        let outputs = self.fetch(&run, &self.graph.outputs, &mut values)?;
        let mut new = device_state.map_or_else(Vec::new, |h| h.0.clone());
        for (name, v) in &self.graph.updates {
            let tensor = (run.slot(&self.graph, *v, &mut values)?.clone(), self.graph.ty(*v).dtype);
            match new.iter_mut().find(|(n, _)| n == name) {
                Some(slot) => slot.1 = tensor,
                None => new.push((name.clone(), tensor)),
            }
        }
        Ok((Results { outputs, updates: Vec::new() }, Some(Box::new(Weights(new)))))
    }

    fn memory(&self) -> usize {
        self.memory
    }

    fn recycle(&self, results: Results) {
        // What comes from another device is in memory of its own.
        if self.device.is_cpu() {
            results.outputs.into_iter().chain(results.updates).for_each(|(_, t)| self.buffers.keep(t));
        }
    }
}

/// What a training moves, on the device.
struct Weights(Vec<(String, (Slot, DType))>);

impl DeviceState for Weights {
    fn to_host(&self) -> Result<Vec<(String, Tensor)>, RuntimeError> {
        let copy = |(name, (slot, dtype)): &(String, (Slot, DType))| Ok((name.clone(), slot.on_host(*dtype, &Buffers::new(0))?));
        self.0.iter().map(copy).collect::<candle_core::Result<_>>().map_err(|e| RuntimeError::Device(first_line(&e)))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// One run.
pub(crate) struct Run<'a> {
    pub(crate) runnable: &'a Runnable,
    seed: u64,
    started: Instant,
    /// Where the times of kernels go, if they are asked for.
    times: Option<&'a mut Vec<KernelTime>>,
}

impl Run<'_> {
    /// A value that has been computed or given; constants are there from the first reading on.
    pub(crate) fn slot<'v>(&self, graph: &Graph, v: Value, values: &'v mut Values) -> Result<&'v mut Slot, RuntimeError> {
        match (values.0.entry(v), graph.op(v)) {
            (Entry::Occupied(e), _) => Ok(e.into_mut()),
            (Entry::Vacant(e), Op::Constant(t)) => Ok(e.insert(Slot::host(t.clone()))),
            (_, Op::Parameter { name: n, .. }) => Err(RuntimeError::MissingParameter(n.clone())),
            (_, Op::Input { name: n, .. }) => Err(RuntimeError::MissingInput(n.clone())),
            (_, op) => unreachable!("the plan has computed {op:?} before its use"),
        }
    }

    /// A value on the device.
    fn read(&self, graph: &Graph, v: Value, values: &mut Values) -> Result<CandleTensor, RuntimeError> {
        let slot = self.slot(graph, v, values)?;
        if let (Op::Parameter { name, .. }, None, Some(t)) = (graph.op(v), &slot.device, &slot.host) {
            slot.device = Some(self.runnable.weight(name, t).map_err(|e| self.runnable.failed(&e))?);
        }
        slot.on_device(&self.runnable.device).map_err(|e| self.runnable.failed(&e))
    }

    /// Are values computed by the CPU's own kernels?
    #[cfg(feature = "cpu")]
    fn has_own_kernels(&self) -> bool {
        self.runnable.device.is_cpu() && !self.runnable.plain
    }

    /// All tasks of a plan. `held` is what is held when each begins; what those of a loop's body hold is a part of the loop's.
    fn plan(&mut self, graph: &Graph, plan: &Plan, held: &[usize], values: &mut Values) -> Result<(), RuntimeError> {
        for (i, task) in plan.tasks.iter().enumerate() {
            if let Some(held) = held.get(i) {
                self.runnable.buffers.begin(*held);
            }
            let started = Instant::now();
            self.task(graph, task, values)?;
            snn_ir::interrupt::check()?;
            if self.times.is_some() && !matches!(task.kernel, Kernel::Loop(_) | Kernel::Alias) {
                self.runnable.device.synchronize().map_err(|e| self.runnable.failed(&e))?;
                self.note(graph, task, started.elapsed());
            }
            for v in &task.frees {
                if let Some(Slot { host: Some(t), .. }) = values.0.remove(v) {
                    self.runnable.buffers.keep(t);
                }
            }
        }
        Ok(())
    }

    /// Adds what a kernel took. Firing rates stay on the device.
    fn note(&mut self, graph: &Graph, task: &Task, time: Duration) {
        let Some(times) = self.times.as_deref_mut() else { return };
        let name = describe_task(graph, task);
        let bytes = task.needs.iter().chain(&task.gives).map(|v| graph.ty(*v).byte_len()).sum();
        let operations = snn_plan::operations(graph, task);
        let runs = vec![(self.started.elapsed().saturating_sub(time), time)];
        KernelTime::add(times, KernelTime { name, time, bytes, operations, runs, firing_rate: None });
    }

    fn task(&mut self, graph: &Graph, task: &Task, values: &mut Values) -> Result<(), RuntimeError> {
        let node = graph.node(task.node);
        if let (Kernel::Loop(inner), Op::Loop(l)) = (&task.kernel, &node.op) {
            let mut operands = Vec::with_capacity(node.operands.len());
            for (i, v) in node.operands.iter().enumerate() {
                // What every step reads is brought to the device once.
                if i < l.roles.first_state() {
                    self.read(graph, *v, values)?;
                }
                operands.push(self.slot(graph, *v, values)?.clone());
            }
            let results = self.repeat(l, &inner.plan, operands, &node.types)?;
            values.0.extend(graph.results(task.node).zip(results));
            return Ok(());
        }
        let failed = |e: candle_core::Error| self.runnable.failed(&e);
        if let Kernel::Step(kernel) = &task.kernel {
            #[cfg(feature = "cpu")]
            if let Some(machine) = self.runnable.kernels.machine() {
                for v in kernel.sources() {
                    self.slot(graph, v, values)?;
                }
                let results = self.on_cpu(machine, graph, kernel, values).map_err(failed)?;
                values.0.extend(results);
                return Ok(());
            }
            let mut operands: HashMap<Value, CandleTensor> = HashMap::new();
            for v in kernel.sources() {
                operands.insert(v, self.read(graph, v, values)?);
            }
            let results = self.runnable.kernels.run(graph, kernel, |v| &operands[&v]).map_err(failed)?;
            values.0.extend(results.into_iter().map(|(v, t)| (v, Slot::device(t))));
            return Ok(());
        }
        let result = Value { node: task.node, result: 0 };
        let shape = sizes(graph, result);
        #[cfg(feature = "cpu")]
        if self.has_own_kernels()
            && let Some(t) = self.own_kernel(graph, task, &shape, values)?
        {
            values.0.insert(result, Slot::host(t));
            return Ok(());
        }
        let on_device = match (&task.kernel, &node.op) {
            (Kernel::Alias, _) if self.slot(graph, node.operands[0], values)?.host.is_some() => {
                let slot = self.slot(graph, node.operands[0], values)?.clone();
                let device = slot.device.map(|t| t.reshape(shape.as_slice())).transpose().map_err(failed)?;
                values.0.insert(result, Slot { host: slot.host.map(|t| t.reshaped(shape)), device });
                return Ok(());
            }
            (Kernel::Product(p), Op::Contract(c)) => Some(self.product(graph, p, c, node.operands.as_slice(), &shape, values)?),
            (Kernel::Convolution(_), Op::Conv(c)) => {
                let (x, w) = (self.read(graph, node.operands[0], values)?, self.read(graph, node.operands[1], values)?);
                Some(products::convolve(&x, &w, c, &shape, self.runnable.precision).map_err(failed)?)
            }
            (Kernel::Reduction(f), _) => {
                let x = self.read(graph, f.source, values)?;
                Some(self.fold(f, &x, &node.op, &shape).map_err(failed)?)
            }
            _ => None,
        };
        if let Some(t) = on_device {
            values.0.insert(result, Slot::device(t));
            return Ok(());
        }
        let operands = node.operands.iter().map(|v| self.read(graph, *v, values)).collect::<Result<Vec<_>, _>>()?;
        let dtypes: Vec<DType> = node.operands.iter().map(|v| graph.ty(*v).dtype).collect();
        let borrowed: Vec<&CandleTensor> = operands.iter().collect();
        let computed = ops::evaluate(&node.op, &borrowed, &dtypes, &node.types[0], &self.runnable.device).map_err(failed)?;
        if let Some(t) = computed {
            values.0.insert(result, Slot::device(t));
            return Ok(());
        }
        // What the plan on this device says that the host does: the interpreter.
        let operands = borrowed.iter().zip(&dtypes).map(|(t, dtype)| download(t, *dtype)).collect::<candle_core::Result<Vec<_>>>();
        let operands = operands.map_err(failed)?;
        let results = evaluate(&node.op, &operands.iter().collect::<Vec<_>>(), &node.types, &mut Randomness::Counter { seed: self.seed })?;
        for (v, t) in graph.results(task.node).zip(results) {
            values.0.insert(v, Slot::host(t));
        }
        Ok(())
    }

    /// A contraction as candle's.
    fn product(
        &self,
        graph: &Graph,
        plan: &ProductPlan,
        c: &Contraction,
        operands: &[Value],
        shape: &[usize],
        values: &mut Values,
    ) -> Result<CandleTensor, RuntimeError> {
        let failed = |e: candle_core::Error| self.runnable.failed(&e);
        // The plan reads a transposed operand where it is; here it is transposed as a view.
        let mut side = |v: Value, source: Value| -> Result<CandleTensor, RuntimeError> {
            let t = self.read(graph, source, values)?;
            match graph.op(v) {
                Op::Transpose { permutation } if v != source => t.permute(permutation.as_slice()).map_err(failed),
                _ => Ok(t),
            }
        };
        let (a, b) = (side(operands[0], plan.lhs.source)?, side(operands[1], plan.rhs.source)?);
        products::contract(&a, &b, c, shape, self.runnable.precision).map_err(failed)
    }

    fn fold(&self, plan: &ReductionPlan, x: &CandleTensor, op: &Op, shape: &[usize]) -> candle_core::Result<CandleTensor> {
        if shape.contains(&0) || x.elem_count() == 0 {
            return CandleTensor::zeros(shape, candle_type(DType::F32), &self.runnable.device);
        }
        match (plan.windows(), op) {
            (Some((output, size, stride)), _) => ops::pool(x, plan.kind, output, size, stride)?.reshape(shape),
            (None, Op::Reduce { axes, .. }) => ops::reduce(x, plan.kind, axes)?.reshape(shape),
            (None, op) => unreachable!("folds are reductions: {op:?}"),
        }
    }

    /// A loop: the plan of its body once for each step.
    fn repeat(&mut self, l: &Loop, plan: &Plan, mut operands: Vec<Slot>, types: &[Type]) -> Result<Vec<Slot>, RuntimeError> {
        let runnable = self.runnable;
        let failed = |e: candle_core::Error| runnable.failed(&e);
        let steps = l.steps.evaluate(&snn_ir::Dims::new())? as usize;
        let first_state = l.roles.first_state();
        let mut states = operands.split_off(first_state);
        let sequences = operands[..l.roles.sequences].iter_mut().map(|s| s.on_device(&runnable.device));
        let sequences = sequences.collect::<candle_core::Result<Vec<_>>>().map_err(failed)?;
        let mut rows: Vec<Vec<CandleTensor>> = vec![Vec::with_capacity(steps); l.roles.outputs];
        let mut constants = Values::default();
        for (id, node) in l.body.nodes() {
            if let Op::Constant(t) = &node.op {
                let device = upload(t, &runnable.device).map_err(failed)?;
                constants.0.insert(Value { node: id, result: 0 }, Slot { host: Some(t.clone()), device: Some(device) });
            }
        }
        for step in 0..steps {
            let t = if l.reverse { steps - 1 - step } else { step };
            let mut values = constants.clone();
            for (i, v) in l.body.inputs.iter().enumerate() {
                let slot = if i < l.roles.sequences {
                    Slot::device(sequences[i].narrow(0, t, 1).map_err(failed)?)
                } else if i < first_state {
                    operands[i].clone()
                } else {
                    states[i - first_state].clone()
                };
                values.0.insert(*v, slot);
            }
            self.plan(&l.body, plan, &[], &mut values)?;
            for (o, (_, v)) in l.body.outputs[..l.roles.outputs].iter().enumerate() {
                rows[o].push(self.read(&l.body, *v, &mut values)?);
            }
            let mut next = Vec::with_capacity(states.len());
            for (_, v) in &l.body.outputs[l.roles.outputs..] {
                next.push(self.slot(&l.body, *v, &mut values)?.clone());
            }
            // What the step has left: its slices, and the states before it.
            let old = std::mem::replace(&mut states, next);
            let left = values.0.into_values().chain(old).filter_map(|slot| slot.host);
            left.for_each(|t| runnable.buffers.keep(t));
        }
        let mut all = Vec::with_capacity(types.len());
        for (mut list, ty) in rows.into_iter().zip(types) {
            if l.reverse {
                list.reverse();
            }
            let shape = ty.sizes()?;
            let whole = if shape.contains(&0) {
                CandleTensor::zeros(shape, candle_type(ty.dtype), &runnable.device)
            } else {
                CandleTensor::cat(&list, 0)
            };
            all.push(Slot::device(whole.map_err(failed)?));
        }
        all.extend(states);
        Ok(all)
    }
}

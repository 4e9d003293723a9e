//! Runs a plan on a device.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor as CandleTensor};
use snn_cpu::loops::FoldPlan;
use snn_cpu::plan::{Kernel, Plan, Task, describe_task};
use snn_cpu::products::{Identity, ProductPlan};
use snn_cpu::step::Elements;
use snn_ir::interpret::{Randomness, checked, evaluate};
use snn_ir::{
    CompileError, Contraction, DType, Data, Executable, Graph, Held, KernelTime, Loop, Op, Results, RuntimeError, Tensor, Type, Value,
};

use crate::Precision;
use crate::convert::{candle_type, download, upload};
use crate::device::first_line;
use crate::kernels::{Kernels, elements, sizes};
use crate::{ops, products};

/// A program on a device.
pub struct Runnable {
    graph: Graph,
    plan: Plan,
    kernels: Kernels,
    device: Device,
    precision: Precision,
    plain: bool,
    /// The parameters of the last run by name: where they came from and where they are now.
    weights: Mutex<HashMap<String, (Data, CandleTensor)>>,
    /// The constants that are read as tensors.
    constants: HashMap<Value, CandleTensor>,
}

impl Runnable {
    /// Compiles the kernels of a plan.
    ///
    /// # Errors
    /// If a compiler refuses a kernel.
    pub fn new(graph: Graph, plan: Plan, device: Device, precision: Precision, plain: bool) -> Result<Runnable, CompileError> {
        // What cannot fit is said before anything is copied.
        let given = graph.inputs.iter().map(|v| graph.ty(*v)).chain(graph.parameters.iter().map(|p| &p.ty));
        let given: usize = given.map(|ty| ty.sizes().map_or(0, |s| s.iter().product::<usize>() * ty.dtype.bytes())).sum();
        let needed = plan.peak.saturating_add(given);
        if let Some(free) = crate::device::free_memory(&device).filter(|free| *free < needed) {
            return Err(CompileError::DeviceMemory { needed, free });
        }
        let kernels = Kernels::new(&graph, &plan, &device)?;
        let read = plan.tasks.iter().flat_map(|t| &t.needs).copied().chain(graph.roots());
        let constants = read.filter_map(|v| if let Op::Constant(t) = graph.op(v) { Some((v, t)) } else { None });
        let constants = constants.map(|(v, t)| Ok((v, upload(t, &device)?))).collect::<candle_core::Result<_>>();
        let constants = constants.map_err(|e| CompileError::CodeGeneration(first_line(&e)))?;
        Ok(Runnable { graph, plan, kernels, device, precision, plain, weights: Mutex::default(), constants })
    }

    /// An error of candle's in our words.
    fn failed(&self, e: &candle_core::Error) -> RuntimeError {
        let needs = format!("; this program needs {} bytes on the device beside its inputs and parameters", self.plan.peak);
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
        held: Option<&Weights>,
        seed: u64,
        times: Option<&'a mut Vec<KernelTime>>,
    ) -> Result<(Run<'a>, Values), RuntimeError> {
        let mut values = Values(self.constants.clone());
        for (id, node) in self.graph.nodes() {
            let value = Value { node: id, result: 0 };
            let (Op::Input(name) | Op::Parameter(name)) = &node.op else { continue };
            if let Some(own) = held.and_then(|h| h.0.iter().find(|(n, _)| n == name)) {
                values.0.insert(value, own.1.0.clone());
                continue;
            }
            let Some(tensor) = tensors.get(name) else { continue };
            let tensor = checked(name, tensor, &node.types[0])?;
            let on_device = match &node.op {
                Op::Parameter(_) => self.weight(name, &tensor),
                _ => upload(&tensor, &self.device),
            };
            values.0.insert(value, on_device.map_err(|e| self.failed(&e))?);
        }
        let mut run = Run { runnable: self, seed, started: Instant::now(), times };
        run.plan(&self.graph, &self.plan, &mut values)?;
        Ok((run, values))
    }

    /// Copies results to the host.
    fn fetch(&self, run: &Run<'_>, list: &[(String, Value)], values: &mut Values) -> Result<Vec<(String, Tensor)>, RuntimeError> {
        let mut copy = |v: &Value| {
            let t = run.read(&self.graph, *v, values)?;
            download(&t, self.graph.ty(*v).dtype).map_err(|e| self.failed(&e))
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
        held: Option<&dyn Held>,
        seed: u64,
    ) -> Result<(Results, Option<Box<dyn Held>>), RuntimeError> {
        let held = held.and_then(|h| h.as_any().downcast_ref::<Weights>());
        let (run, mut values) = self.go(tensors, held, seed, None)?;
        let outputs = self.fetch(&run, &self.graph.outputs, &mut values)?;
        let mut new = held.map_or_else(Vec::new, |h| h.0.clone());
        for (name, v) in &self.graph.updates {
            let tensor = (run.read(&self.graph, *v, &mut values)?, self.graph.ty(*v).dtype);
            match new.iter_mut().find(|(n, _)| n == name) {
                Some(slot) => slot.1 = tensor,
                None => new.push((name.clone(), tensor)),
            }
        }
        Ok((Results { outputs, updates: Vec::new() }, Some(Box::new(Weights(new)))))
    }

    fn memory(&self) -> usize {
        self.plan.peak
    }
}

/// What a training moves, on the device.
struct Weights(Vec<(String, (CandleTensor, DType))>);

impl Held for Weights {
    fn fetch(&self) -> Result<Vec<(String, Tensor)>, RuntimeError> {
        let copy = |(name, (t, dtype)): &(String, (CandleTensor, DType))| Ok((name.clone(), download(t, *dtype)?));
        self.0.iter().map(copy).collect::<candle_core::Result<_>>().map_err(|e| RuntimeError::Device(first_line(&e)))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// The tensors that are on the device.
struct Values(HashMap<Value, CandleTensor>);

/// One run.
struct Run<'a> {
    runnable: &'a Runnable,
    seed: u64,
    started: Instant,
    /// Where the times of kernels go, if they are asked for.
    times: Option<&'a mut Vec<KernelTime>>,
}

impl Run<'_> {
    /// A value that has been computed or given; constants come to the device when they are first read.
    fn read(&self, graph: &Graph, v: Value, values: &mut Values) -> Result<CandleTensor, RuntimeError> {
        if let Some(t) = values.0.get(&v) {
            return Ok(t.clone());
        }
        match graph.op(v) {
            Op::Constant(t) => {
                let t = upload(t, &self.runnable.device).map_err(|e| self.runnable.failed(&e))?;
                values.0.insert(v, t.clone());
                Ok(t)
            }
            Op::Parameter(n) => Err(RuntimeError::MissingParameter(n.clone())),
            Op::Input(n) => Err(RuntimeError::MissingInput(n.clone())),
            op => unreachable!("the plan has computed {op:?} before its use"),
        }
    }

    fn plan(&mut self, graph: &Graph, plan: &Plan, values: &mut Values) -> Result<(), RuntimeError> {
        for task in &plan.tasks {
            let started = Instant::now();
            self.task(graph, task, values)?;
            snn_ir::interrupt::check()?;
            if self.times.is_some() && !matches!(task.kernel, Kernel::Loop(_) | Kernel::Alias) {
                self.runnable.device.synchronize().map_err(|e| self.runnable.failed(&e))?;
                self.note(graph, task, started.elapsed());
            }
            for v in &task.frees {
                values.0.remove(v);
            }
        }
        Ok(())
    }

    /// Adds what a kernel took. Firing rates stay on the device.
    fn note(&mut self, graph: &Graph, task: &Task, time: Duration) {
        let Some(times) = self.times.as_deref_mut() else { return };
        let name = describe_task(graph, task);
        let size = |v: &Value| sizes(graph, *v).iter().product::<usize>() * graph.ty(*v).dtype.bytes();
        let bytes = task.needs.iter().chain(&task.gives).map(size).sum();
        let operations = snn_cpu::plan::operations(graph, task);
        let runs = vec![(self.started.elapsed().saturating_sub(time), time)];
        KernelTime::add(times, KernelTime { name, time, bytes, operations, runs, firing_rate: None });
    }

    fn task(&mut self, graph: &Graph, task: &Task, values: &mut Values) -> Result<(), RuntimeError> {
        for v in &task.needs {
            self.read(graph, *v, values)?;
        }
        let node = graph.node(task.node);
        if let (Kernel::Loop(inner), Op::Loop(l)) = (&task.kernel, &node.op) {
            let operands = node.operands.iter().map(|v| self.read(graph, *v, values)).collect::<Result<Vec<_>, _>>()?;
            let results = self.repeat(l, inner, &operands, &node.types)?;
            values.0.extend(graph.results(task.node).zip(results));
            return Ok(());
        }
        let failed = |e: candle_core::Error| self.runnable.failed(&e);
        if let Kernel::Step(kernel) = &task.kernel {
            let read = |v: Value| &values.0[&v];
            let results = self.runnable.kernels.run(graph, kernel, read).map_err(failed)?;
            values.0.extend(results);
            return Ok(());
        }
        let result = Value { node: task.node, result: 0 };
        let shape = sizes(graph, result);
        let on_device = match (&task.kernel, &node.op) {
            (Kernel::Product(p), Op::Contract(c)) => Some(self.product(graph, p, c, node.operands.as_slice(), &shape, values)?),
            (Kernel::Convolution(_), Op::Conv(c)) => {
                let (x, w) = (self.read(graph, node.operands[0], values)?, self.read(graph, node.operands[1], values)?);
                Some(products::convolve(&x, &w, c, &shape, self.runnable.precision).map_err(failed)?)
            }
            (Kernel::Fold(f), _) => {
                let x = self.read(graph, f.source, values)?;
                Some(self.fold(f, &x, &node.op, &shape).map_err(failed)?)
            }
            _ => None,
        };
        if let Some(t) = on_device {
            values.0.insert(result, t);
            return Ok(());
        }
        let operands = node.operands.iter().map(|v| self.read(graph, *v, values)).collect::<Result<Vec<_>, _>>()?;
        let dtypes: Vec<DType> = node.operands.iter().map(|v| graph.ty(*v).dtype).collect();
        let borrowed: Vec<&CandleTensor> = operands.iter().collect();
        let computed = ops::evaluate(&node.op, &borrowed, &dtypes, &node.types[0], &self.runnable.device).map_err(failed)?;
        if let Some(t) = computed {
            values.0.insert(result, t);
            return Ok(());
        }
        // What no device operation serves, and what is an error, the interpreter says.
        let operands = borrowed.iter().zip(&dtypes).map(|(t, dtype)| download(t, *dtype)).collect::<candle_core::Result<Vec<_>>>();
        let operands = operands.map_err(failed)?;
        let results = evaluate(&node.op, &operands.iter().collect::<Vec<_>>(), &node.types, &mut Randomness::Counter { seed: self.seed })?;
        for (v, t) in graph.results(task.node).zip(results) {
            values.0.insert(v, upload(&t, &self.runnable.device).map_err(failed)?);
        }
        Ok(())
    }

    /// A contraction: by the places of spikes on the CPU where the plan sees that, else candle's.
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
        if self.runnable.device.is_cpu() && !self.runnable.plain && plan.lhs.permutation.is_none() && plan.rhs.permutation.is_none() {
            let (x, w) = (self.read(graph, plan.lhs.source, values)?, self.read(graph, plan.rhs.source, values)?);
            if let Some(t) = by_spikes(plan, &x, &w, shape).map_err(failed)? {
                return Ok(t);
            }
        }
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

    fn fold(&self, plan: &FoldPlan, x: &CandleTensor, op: &Op, shape: &[usize]) -> candle_core::Result<CandleTensor> {
        if self.runnable.device.is_cpu() && !self.runnable.plain {
            let mut out = vec![0f32; shape.iter().product()];
            let storage = x.storage_and_layout().0;
            if let Elements::Floats(v) = elements(&storage, x)? {
                plan.execute(v, &mut out);
            }
            return CandleTensor::from_vec(out, shape, &Device::Cpu);
        }
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
    fn repeat(&mut self, l: &Loop, plan: &Plan, operands: &[CandleTensor], types: &[Type]) -> Result<Vec<CandleTensor>, RuntimeError> {
        let runnable = self.runnable;
        let failed = |e: candle_core::Error| runnable.failed(&e);
        let steps = l.steps.evaluate(&snn_ir::Dims::new())? as usize;
        let first_state = l.sequences + l.invariants;
        let mut states: Vec<CandleTensor> = operands[first_state..].to_vec();
        let mut rows: Vec<Vec<CandleTensor>> = vec![Vec::with_capacity(steps); l.outputs];
        let mut constants = Values(HashMap::new());
        for (id, node) in l.body.nodes() {
            if let Op::Constant(t) = &node.op {
                constants.0.insert(Value { node: id, result: 0 }, upload(t, &runnable.device).map_err(failed)?);
            }
        }
        for step in 0..steps {
            let t = if l.reverse { steps - 1 - step } else { step };
            let mut values = Values(constants.0.clone());
            for (i, v) in l.body.inputs.iter().enumerate() {
                let tensor = if i < l.sequences {
                    operands[i].narrow(0, t, 1).map_err(failed)?
                } else if i < first_state {
                    operands[i].clone()
                } else {
                    states[i - first_state].clone()
                };
                values.0.insert(*v, tensor);
            }
            self.plan(&l.body, plan, &mut values)?;
            let results = l.body.outputs.iter().map(|(_, v)| self.read(&l.body, *v, &mut values));
            let mut results = results.collect::<Result<Vec<_>, _>>()?;
            states = results.split_off(l.outputs);
            rows.iter_mut().zip(results).for_each(|(list, row)| list.push(row));
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
            all.push(whole.map_err(failed)?);
        }
        all.extend(states);
        Ok(all)
    }
}

/// A product by the places of spikes, if either operand holds few.
fn by_spikes(plan: &ProductPlan, x: &CandleTensor, w: &CandleTensor, shape: &[usize]) -> candle_core::Result<Option<CandleTensor>> {
    let (held_x, held_w) = (x.storage_and_layout().0, w.storage_and_layout().0);
    let (Elements::Floats(a), Elements::Floats(b)) = (elements(&held_x, x)?, elements(&held_w, w)?) else { return Ok(None) };
    let mut out = vec![0f32; shape.iter().product()];
    let identity = || Identity::Named(format!("{:?}", w.id()));
    let done = plan.execute_spikes(a, b, identity, &mut out) || plan.execute_spikes_of_rows(a, b, &mut out);
    done.then(|| CandleTensor::from_vec(out, shape, &Device::Cpu)).transpose()
}

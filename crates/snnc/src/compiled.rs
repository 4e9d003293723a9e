//! A net that is ready to run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use snn_candle::{DeviceName, Precision};
use snn_compile::{COTANGENT, Gradients, OUTPUT, Optimise, QUANTISED, drawn_name};
use snn_cpu::Products;
use snn_front::{Mode, Options};
use snn_ir::{Backend, DeviceState, Dims, Executable, Graph, Interpreter, Tensor, Type};

use crate::bind::{BoundData, bind, part, rest_rank};
use crate::error::InputError;
use crate::observe::{Observer, Printer};
use crate::weights::{check_complete, check_names, parameters, without_bookkeeping};
use crate::{Diagnostic, Error, Program, Tensors};

/// Which backend runs a net.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Backends {
    /// Machine code for this processor.
    #[default]
    Cranelift,
    /// The plain meaning of every operation, slow.
    Interpreter,
    /// candle, on a device, with contractions in some precision.
    Candle(DeviceName, Precision),
    /// candle on the CPU by the operations that a GPU would use, to test them.
    CandleOperations,
}

impl std::str::FromStr for Backends {
    type Err = Error;

    /// `cranelift`, `interpreter`, or `candle`, which may be followed by a device: `candle cuda:1`.
    fn from_str(text: &str) -> Result<Backends, Error> {
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("cranelift"), None, _) => Ok(Backends::Cranelift),
            (Some("interpreter"), None, _) => Ok(Backends::Interpreter),
            (Some("candle"), device, None) => Ok(Backends::Candle(device.unwrap_or("cpu").parse()?, Precision::F32)),
            _ => {
                let known = vec!["cranelift", "interpreter", "candle"];
                Err(Error::Unknown { what: "there is no backend", name: text.to_string(), known })
            }
        }
    }
}

impl Backends {
    pub(crate) fn backend(self, threads: usize, products: Products) -> Result<Box<dyn Backend>, Error> {
        if products.bf16 && self == Backends::Cranelift && !snn_cpu::has_bf16() {
            return Err(Error::NoBf16);
        }
        Ok(match self {
            Backends::Cranelift => Box::new(snn_cpu::Cranelift::new(threads).with_products(products)),
            Backends::Interpreter => Box::new(Interpreter),
            Backends::Candle(device, precision) => Box::new(snn_candle::Candle::new(device, precision)?),
            Backends::CandleOperations => Box::new(snn_candle::Candle::plain()),
        })
    }
}

/// A backend that is none of [`Backends`].
#[derive(Clone)]
pub struct OtherBackend(pub Arc<dyn Backend>);

impl std::fmt::Debug for OtherBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

impl Backend for OtherBackend {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn compile(&self, graph: &Graph) -> Result<Box<dyn Executable>, snn_ir::CompileError> {
        self.0.compile(graph)
    }
}

/// How to compile and run a net.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CompileOptions {
    /// Evaluation or training.
    pub mode: Mode,
    /// Sizes of dimensions beside those that data give.
    pub dims: Dims,
    /// Compute the gradients of the net's scalar with respect to these inputs and parameters, as outputs `grad.<name>`; the
    /// scalar is then called `loss`. An empty list stands for all learnable parameters.
    pub gradients: Option<Vec<String>>,
    /// Instead of gradients of a scalar: those of `sum(output * cotangent)` over all outputs of floats, where the cotangents are inputs
    /// called `cotangent.<output>`; with respect to these names. The net is compiled in two phases, see [`Prepared::forward`].
    pub cotangents: Option<Vec<String>>,
    /// With gradients: keep the states of neurons every so many steps only, and compute those between again.
    pub checkpoint: Option<usize>,
    /// With gradients: let parameters follow them. New values are updates of the run.
    pub update: Option<snn_train::Update>,
    /// What the optimiser may do.
    pub optimise: Optimise,
    /// Run the verifier after each pass, which debug builds always do.
    pub verify: bool,
    /// Which backend.
    pub backend: Backends,
    /// A backend of your own, instead.
    pub other_backend: Option<OtherBackend>,
    /// Threads; 0 for one on each processor.
    pub threads: usize,
    /// The seed of parameters that are not given and of random operations.
    pub seed: u64,
    /// Bytes that a run may use.
    pub memory_limit: u64,
    /// Run the dimension `B` in pieces of this size.
    pub batch: Option<usize>,
    /// Settings of the net instead of their defaults.
    pub settings: snn_front::Settings,
    /// Draw parameters that given weights lack, instead of failing.
    pub partial: bool,
    /// Weights of products and convolutions as integers; see [`crate::quantise`]. With `update` the net is trained with rounded weights: it reads
    /// them rounded, and their gradients move what they are rounded from.
    pub weights_dtype: Option<crate::quantise::WeightBits>,
    /// States of neurons in fixed point: after each step they are rounded to this format, with slope 1 where gradients are computed.
    pub states: Option<snn_compile::FixedPoint>,
    /// How [`Backends::Cranelift`] computes products and convolutions.
    pub products: Products,
    /// Where the lines of `print` in the program go; standard error if nothing else is said.
    pub printer: Printer,
    /// Names that the data hold beside the tensors that are given, for messages.
    pub other_data: Vec<String>,
}

impl Default for CompileOptions {
    fn default() -> Self {
        CompileOptions {
            mode: Mode::Eval,
            dims: Dims::new(),
            gradients: None,
            cotangents: None,
            checkpoint: None,
            update: None,
            optimise: Optimise::default(),
            verify: false,
            backend: Backends::default(),
            other_backend: None,
            threads: 0,
            seed: 0,
            memory_limit: u64::MAX,
            batch: None,
            settings: Default::default(),
            partial: false,
            weights_dtype: None,
            states: None,
            products: Products::default(),
            printer: Printer::default(),
            other_data: vec![],
        }
    }
}

/// Methods that set one option each, and give all of them back.
macro_rules! setters {
    ($($name:ident($parameter:ty),)*) => {
        /// Each sets the option of its name: `CompileOptions::default().mode(Mode::Train).threads(2)`. What may be absent is given as it is,
        /// or as an `Option`.
        impl CompileOptions {
            $(
                #[doc = concat!("Sets [`CompileOptions::", stringify!($name), "`](struct.CompileOptions.html#structfield.", stringify!($name), ").")]
                #[must_use]
                #[allow(clippy::useless_conversion)]
                pub fn $name(mut self, $name: $parameter) -> CompileOptions {
                    self.$name = $name.into();
                    self
                }
            )*
        }
    };
}

setters! {
    mode(impl Into<Mode>),
    dims(impl Into<Dims>),
    gradients(impl Into<Option<Vec<String>>>),
    cotangents(impl Into<Option<Vec<String>>>),
    checkpoint(impl Into<Option<usize>>),
    update(impl Into<Option<snn_train::Update>>),
    optimise(Optimise),
    verify(bool),
    backend(Backends),
    other_backend(impl Into<Option<OtherBackend>>),
    threads(usize),
    seed(u64),
    memory_limit(u64),
    batch(impl Into<Option<usize>>),
    settings(snn_front::Settings),
    partial(bool),
    weights_dtype(impl Into<Option<crate::quantise::WeightBits>>),
    states(impl Into<Option<snn_compile::FixedPoint>>),
    products(Products),
    printer(Printer),
    other_data(Vec<String>),
}

impl CompileOptions {
    /// What the passes are asked for, where a net is lowered like this.
    pub(crate) fn passes(&self, front: Options) -> snn_compile::Options {
        let gradients = match (&self.cotangents, &self.gradients) {
            (Some(wrt), _) => Gradients::Outputs(wrt.clone()),
            (None, Some(wrt)) => Gradients::Scalar(wrt.clone()),
            (None, None) => Gradients::None,
        };
        snn_compile::Options {
            front,
            gradients,
            checkpoint: self.checkpoint,
            update: self.update.clone(),
            optimise: self.optimise,
            verify: self.verify,
            states: self.states,
            ..snn_compile::Options::default()
        }
    }
}

/// What a run gives.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Outputs by name, in order.
    pub outputs: Tensors,
    /// New values of buffers, in training.
    pub updates: Tensors,
    /// The parameters that were used, in order of declaration.
    pub parameters: Tensors,
    /// The sizes that the data gave to dimensions.
    pub dims: Dims,
    /// Where gradients are computed: names that the scalar does not depend on.
    pub independent: Vec<String>,
}

/// Parameters with rounded weights.
#[derive(Clone, Debug)]
pub struct Quantised {
    /// All of them.
    pub all: Vec<(String, Tensor)>,
    /// Those that were rounded: before and after.
    pub changed: Vec<(String, Tensor, Tensor)>,
}

struct Ready {
    graph: Graph,
    /// Parameters that must be finite, or the optimiser has done too much.
    finite: BTreeSet<String>,
    independent: Vec<String>,
    /// The layers with their settings that are numbers.
    layers: Vec<(String, Vec<(String, f64)>)>,
    executable: Box<dyn Executable>,
    /// Where gradients of outputs are computed: the second phase, which needs those.
    backward: Option<Backward>,
    observer: Observer,
}

/// The second phase of a net with gradients of its outputs.
struct Backward {
    executable: Box<dyn Executable>,
    /// What it reads of the first phase.
    saved: Vec<String>,
}

/// What a net is compiled for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    dims: Dims,
    /// How many dimensions `...` stands for.
    rest: Option<usize>,
    /// Are parameters taken to be finite?
    assume_finite: bool,
    /// Random operations whose numbers are given as inputs, by their stream, with the axis of samples.
    drawn_outside: BTreeMap<u32, usize>,
}

/// A net that is compiled for each set of dimensions that it meets. It can be run from several threads at once.
pub struct Compiled {
    program: Program,
    net: String,
    options: CompileOptions,
    backend: Box<dyn Backend>,
    cache: Mutex<HashMap<Key, Arc<Ready>>>,
    generating: Mutex<std::time::Duration>,
}

/// A net with its inputs and parameters, ready to run again and again.
pub struct Prepared {
    ready: Arc<Ready>,
    tensors: HashMap<String, Tensor>,
    seed: u64,
}

/// What a run has left for its gradients.
pub struct Tape {
    ready: Arc<Ready>,
    /// Inputs, parameters, and what the first phase has saved.
    tensors: HashMap<String, Tensor>,
    seed: u64,
}

impl Tape {
    /// The gradients `grad.<name>`, from those of the outputs, `cotangent.<output>`.
    ///
    /// # Errors
    /// If one is missing, or the program fails.
    pub fn backward(&self, cotangents: &[(String, Tensor)]) -> Result<Tensors, Error> {
        let Some(backward) = &self.ready.backward else { return Ok(Tensors::default()) };
        let mut tensors = self.tensors.clone();
        tensors.extend(cotangents.iter().cloned());
        Ok(backward.executable.run(&tensors, self.seed)?.outputs.into())
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        // The next run uses the memory.
        let saved = self.ready.backward.as_ref().map(|b| b.saved.as_slice()).unwrap_or_default();
        let outputs = saved.iter().filter_map(|name| self.tensors.remove_entry(name)).collect();
        self.ready.executable.recycle(snn_ir::Results { outputs, updates: vec![] });
    }
}

impl Prepared {
    /// Runs a net that is compiled with gradients of its outputs ([`CompileOptions::cotangents`]), and keeps what these need.
    ///
    /// # Errors
    /// If the program fails.
    pub fn forward(&self, seed: u64) -> Result<(Run, Tape), Error> {
        let mut tensors = self.tensors.clone();
        let mut results = self.ready.executable.run(&tensors, seed)?;
        self.ready.observer.observe(&mut results.outputs)?;
        let mut outputs = Vec::new();
        for (name, t) in results.outputs {
            match name.strip_prefix(OUTPUT) {
                Some(own) => outputs.push((own.to_string(), t)),
                None => {
                    tensors.insert(name, t);
                }
            }
        }
        let run = Run { outputs: outputs.into(), updates: results.updates.into(), ..Run::default() };
        Ok((run, Tape { ready: self.ready.clone(), tensors, seed }))
    }

    /// Runs it.
    ///
    /// # Errors
    /// If the program fails.
    pub fn run(&self) -> Result<Run, Error> {
        self.run_seeded(self.seed)
    }

    /// Takes back results that are no longer needed, so that the next run can use their memory.
    pub fn recycle(&self, run: Run) {
        self.ready.executable.recycle(snn_ir::Results { outputs: run.outputs.into(), updates: run.updates.into() });
    }

    /// The same net with other inputs and parameters of the same types; `None` where one is of another type, or where the code that
    /// was generated does not hold for it.
    pub fn with_tensors(&self, tensors: &[(String, Tensor)]) -> Option<Prepared> {
        let mut own = self.tensors.clone();
        for (name, new) in tensors {
            if let Some(slot) = own.get_mut(name) {
                let finite = || !self.ready.finite.contains(name) || new.as_f32().iter().all(|x| x.is_finite());
                if slot.dtype() != new.dtype() || slot.shape() != new.shape() || !finite() {
                    return None;
                }
                *slot = new.clone();
            }
        }
        Some(Prepared { ready: self.ready.clone(), tensors: own, seed: self.seed })
    }

    /// Runs it with another seed.
    ///
    /// # Errors
    /// If the program fails.
    pub fn run_seeded(&self, seed: u64) -> Result<Run, Error> {
        let mut results = self.ready.executable.run(&self.tensors, seed)?;
        self.ready.observer.observe(&mut results.outputs)?;
        Ok(Run { outputs: results.outputs.into(), updates: results.updates.into(), ..Run::default() })
    }

    /// Runs it as a step of a training; see [`snn_ir::Executable::step`].
    ///
    /// # Errors
    /// If the program fails.
    pub fn step(&self, device_state: Option<&dyn DeviceState>, seed: u64) -> Result<(Run, Option<Box<dyn DeviceState>>), Error> {
        let (mut results, device_state) = self.ready.executable.step(&self.tensors, device_state, seed)?;
        self.ready.observer.observe(&mut results.outputs)?;
        Ok((Run { outputs: results.outputs.into(), updates: results.updates.into(), ..Run::default() }, device_state))
    }

    /// Bytes that a run allocates, beside inputs and parameters.
    pub fn memory(&self) -> usize {
        self.ready.executable.memory()
    }

    /// Runs it and says how long each kernel took.
    ///
    /// # Errors
    /// If the program fails.
    pub fn profile(&self) -> Result<Vec<snn_ir::KernelTime>, Error> {
        Ok(self.ready.executable.profile(&self.tensors, self.seed)?.1)
    }

    /// Gives back the memory of tensors that were read in place of new ones.
    pub fn recycle_replaced(self, old: Vec<(String, Tensor)>) {
        let Prepared { ready, tensors, .. } = self;
        drop(tensors);
        ready.executable.recycle(snn_ir::Results { outputs: vec![], updates: old });
    }

    /// Names that the scalar does not depend on, where gradients are computed.
    pub fn independent(&self) -> &[String] {
        &self.ready.independent
    }

    /// Bytes of the inputs and parameters that it reads.
    pub fn input_bytes(&self) -> usize {
        self.tensors.values().map(Tensor::byte_len).sum()
    }
}

impl Compiled {
    pub(crate) fn new(program: Program, net: String, options: CompileOptions) -> Result<Compiled, Error> {
        let backend = match &options.other_backend {
            Some(other) => Box::new(other.clone()),
            None => options.backend.backend(options.threads, options.products)?,
        };
        Ok(Compiled { program, net, options, backend, cache: Mutex::new(HashMap::new()), generating: Mutex::default() })
    }

    /// Says what the data hold beside the tensors that are given, for messages.
    pub fn set_other_data(&mut self, names: Vec<String>) {
        self.options.other_data = names;
    }

    /// The names of inputs and parameters.
    ///
    /// # Errors
    /// What is wrong with the source of the inputs.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let inputs = self.signature(None)?.into_iter().map(|(n, _)| n);
        // A net whose parameters depend on sizes that are open is asked again when they are known.
        let lowered = self.lowered(self.options.dims.clone(), None);
        let parameters = lowered.map(|l| l.graph.parameters.into_iter().map(|p| p.name).collect::<Vec<_>>()).unwrap_or_default();
        Ok(inputs.chain(parameters).collect())
    }

    /// The names of the dimensions of the inputs, the `...` among them as `_0`, `_1` and so on.
    ///
    /// # Errors
    /// What is wrong with the source of the inputs.
    pub fn dimensions(&self) -> Result<BTreeSet<String>, Error> {
        let declared = self.signature(None)?;
        Ok(declared.iter().flat_map(|(_, t)| &t.shape).flat_map(|d| d.names()).map(|n| n.to_string()).collect())
    }

    /// What the data hold, for messages.
    fn held(&self, data: &[(String, Tensor)]) -> Vec<String> {
        data.iter().map(|(n, _)| n).chain(&self.options.other_data).cloned().collect()
    }

    fn missing(&self, missing: &[&str], needed: &[(&str, &Type)], data: &[(String, Tensor)]) -> InputError {
        InputError::Missing {
            net: self.net.clone(),
            missing: missing.iter().map(ToString::to_string).collect(),
            takes: needed.iter().map(|(n, t)| format!("{n}: {t}")).collect(),
            held: self.held(data),
        }
    }

    /// The name of the net.
    pub fn net(&self) -> &str {
        &self.net
    }

    /// Those of some weights that are parameters or buffers of this net.
    ///
    /// # Errors
    /// What is wrong with its source.
    pub fn own_weights(&self, weights: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
        let graph = self.lowered(self.options.dims.clone(), None)?.graph;
        Ok(weights.iter().filter(|(n, _)| graph.parameter(n).is_some()).cloned().collect())
    }

    fn lowering(&self, dims: Dims, rest: Option<usize>) -> Options {
        Options { mode: self.options.mode, dims, rest, settings: self.options.settings.clone(), observe: false }
    }

    /// The declared inputs, where `...` stands for `rest` dimensions.
    fn signature(&self, rest: Option<usize>) -> Result<Vec<(String, Type)>, Error> {
        self.program.module().signature(&self.net, &self.lowering(Dims::new(), rest)).map_err(|d| self.program.error(d))
    }

    fn ready(&self, key: Key) -> Result<Arc<Ready>, Error> {
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = cache().get(&key) {
            return Ok(ready.clone());
        }
        // Training with rounded weights: the net reads them rounded, and the optimiser moves what they are rounded from.
        let quantised = match (self.options.weights_dtype, &self.options.update) {
            (Some(_), Some(_)) => crate::quantise::weights(&self.lowered(key.dims.clone(), key.rest)?.graph),
            _ => BTreeSet::new(),
        };
        let options = snn_compile::Options {
            closed: true,
            quantised,
            random_inputs: key.drawn_outside.clone(),
            may_be_infinite: !key.assume_finite,
            ..self.options.passes(Options { observe: true, ..self.lowering(key.dims.clone(), key.rest) })
        };
        let compilation = snn_compile::compile(self.program.input(&self.net), &options).map_err(|e| self.program.failed(e))?;
        let snn_compile::Compilation { graph, layers, observations, independent, finite, report: _ } = compilation;
        let observer = Observer::new(&self.program, observations, &self.options.printer);
        let started = std::time::Instant::now();
        // What waits for gradients of outputs is a program of its own.
        let is = |prefix: &'static str| move |name: &str| name.starts_with(prefix);
        let phases = self.options.cotangents.as_ref().map(|_| snn_ir::phases::split(&graph, is(COTANGENT), is("grad.")));
        let (graph, backward) = match phases {
            Some(p) => (p.first, Some(Backward { executable: self.backend.compile(&p.second)?, saved: p.saved })),
            None => (graph, None),
        };
        let executable = self.backend.compile(&graph)?;
        *self.generating.lock().unwrap_or_else(PoisonError::into_inner) += started.elapsed();
        let given = graph.inputs.iter().map(|v| graph.ty(*v)).chain(graph.parameters.iter().map(|p| &p.ty));
        let given: u64 = given.map(|t| t.byte_len() as u64).sum();
        let later = backward.as_ref().map_or(0, |b| b.executable.memory());
        let needed = given.saturating_add(executable.memory() as u64).saturating_add(later as u64);
        if needed > self.options.memory_limit {
            return Err(Error::Memory { needed, limit: self.options.memory_limit });
        }
        let ready = Arc::new(Ready { graph, finite, independent, layers, executable, backward, observer });
        cache().insert(key, ready.clone());
        Ok(ready)
    }

    /// Runs the net on data and weights, both found by name; data that it does not ask for are ignored.
    ///
    /// # Errors
    /// If data or weights do not fit, are missing, or the program fails.
    pub fn run(&self, data: &[(String, Tensor)], weights: &[(String, Tensor)]) -> Result<Run, Error> {
        let (declared, bound, rest) = self.bound(data)?;
        let size = bound.dims.get("B").copied().unwrap_or(0) as usize;
        match self.options.batch {
            Some(piece) if piece > 0 && piece < size => {
                self.run_in_pieces(&declared, bound.tensors, bound.dims, rest, data, weights, piece)
            }
            _ => self.run_once(bound.tensors, &bound.dims, rest, data, weights, &BTreeMap::new()),
        }
    }

    /// How long code generation has taken so far.
    pub fn code_generation_time(&self) -> std::time::Duration {
        *self.generating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles for the sizes of the data and binds data and parameters, without running.
    ///
    /// # Errors
    /// As [`Compiled::run`].
    pub fn prepare(&self, data: &[(String, Tensor)], weights: &[(String, Tensor)]) -> Result<Prepared, Error> {
        self.prepare_with_parameters(data, weights).map(|(p, _)| p)
    }

    /// As [`Compiled::prepare`], with the parameters that are used.
    ///
    /// # Errors
    /// As [`Compiled::run`].
    pub fn prepare_with_parameters(
        &self,
        data: &[(String, Tensor)],
        weights: &[(String, Tensor)],
    ) -> Result<(Prepared, Vec<(String, Tensor)>), Error> {
        let (_, bound, rest) = self.bound(data)?;
        self.prepare_bound(bound.tensors, &bound.dims, rest, data, weights, &BTreeMap::new())
    }

    /// The declared inputs, the data by name with the sizes that they give, and how many dimensions `...` stands for.
    #[allow(clippy::type_complexity)]
    fn bound(&self, data: &[(String, Tensor)]) -> Result<(Vec<(String, Type)>, BoundData, Option<usize>), Error> {
        let by_name: HashMap<&str, &Tensor> = data.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let rest = rest_rank(&self.signature(None)?, &by_name);
        let declared = self.signature(rest)?;
        let bound = bind(&declared, &by_name, &self.options.dims)?;
        Ok((declared, bound, rest))
    }

    /// The first value that is not finite, in words, found by the interpreter in the graph as it was written.
    ///
    /// # Errors
    /// If data or weights do not fit the net.
    pub fn first_non_finite(&self, data: &[(String, Tensor)], weights: &[(String, Tensor)], seed: u64) -> Result<Option<String>, Error> {
        let (_, bound, rest) = self.bound(data)?;
        let dims = bound.dims;
        let (prepared, _) = self.prepare_bound(bound.tensors, &dims, rest, data, weights, &BTreeMap::new())?;
        let graph = self.lowered(dims, rest)?.graph;
        Ok(snn_train::diagnose::first_non_finite(&graph, &prepared.tensors, seed))
    }

    #[allow(clippy::too_many_arguments)]
    fn run_once(
        &self,
        tensors: HashMap<String, Tensor>,
        dims: &Dims,
        rest: Option<usize>,
        data: &[(String, Tensor)],
        weights: &[(String, Tensor)],
        drawn_outside: &BTreeMap<u32, usize>,
    ) -> Result<Run, Error> {
        let (prepared, parameters) = self.prepare_bound(tensors, dims, rest, data, weights, drawn_outside)?;
        let independent = prepared.ready.independent.clone();
        Ok(Run { parameters: parameters.into(), dims: dims.clone(), independent, ..prepared.run()? })
    }

    fn prepare_bound(
        &self,
        mut tensors: HashMap<String, Tensor>,
        dims: &Dims,
        rest: Option<usize>,
        data: &[(String, Tensor)],
        weights: &[(String, Tensor)],
        drawn_outside: &BTreeMap<u32, usize>,
    ) -> Result<(Prepared, Vec<(String, Tensor)>), Error> {
        let key = Key { dims: dims.clone(), rest, assume_finite: true, drawn_outside: drawn_outside.clone() };
        let mut ready = self.ready(key.clone()).map_err(|e| self.with_missing_inputs(e, &tensors, data))?;
        let needed = ready.graph.needed_inputs();
        let is_rounded = |name: &str| name.starts_with(QUANTISED);
        let missing: Vec<&str> = needed.iter().map(|(n, _)| *n).filter(|n| !tensors.contains_key(*n) && !is_rounded(n)).collect();
        if !missing.is_empty() {
            return Err(self.missing(&missing, &needed, data).into());
        }
        let parameters = self.parameters(&ready.graph, &ready.layers, data, weights)?;
        let is_finite = |(name, t): &(String, Tensor)| !ready.finite.contains(name) || t.as_f32().iter().all(|x| x.is_finite());
        if !parameters.iter().all(is_finite) {
            ready = self.ready(Key { assume_finite: false, ..key })?;
        }
        let needed: Vec<String> = ready.graph.needed_inputs().iter().map(|(n, _)| (*n).to_string()).collect();
        tensors.retain(|name, _| needed.contains(name));
        if let Some(bits) = self.options.weights_dtype {
            let rounded = |name: &String| {
                let own = name.strip_prefix(QUANTISED)?;
                let (_, t) = parameters.iter().find(|(n, _)| n == own)?;
                Some((name.clone(), crate::quantise::quantised(t, bits)))
            };
            tensors.extend(needed.iter().filter_map(rounded));
        }
        tensors.extend(parameters.iter().cloned());
        Ok((Prepared { ready, tensors, seed: self.options.seed }, parameters))
    }

    /// The parameters of a graph, from weights, from data, or drawn.
    pub(crate) fn parameters(
        &self,
        graph: &Graph,
        layers: &[(String, Vec<(String, f64)>)],
        data: &[(String, Tensor)],
        weights: &[(String, Tensor)],
    ) -> Result<Vec<(String, Tensor)>, Error> {
        let weights = &without_bookkeeping(weights, graph, layers)?;
        let weight_names: Vec<&str> = weights.iter().map(|(n, _)| n.as_str()).collect();
        let data_names: Vec<&str> = data.iter().map(|(n, _)| n.as_str()).collect();
        check_names(graph, &weight_names, |n| !n.contains('.') && (data_names.contains(&n) || self.program.module.is_input(n)))?;
        if !weights.is_empty() && !self.options.partial {
            check_complete(graph, &weight_names, &data_names)?;
        }
        // Weights win over tensors of the data that carry a parameter's name.
        let given: HashMap<&str, &Tensor> = data.iter().chain(weights).map(|(n, t)| (n.as_str(), t)).collect();
        let mut values = parameters(graph, &given, self.options.seed)?;
        if let Some(bits) = self.options.weights_dtype.filter(|_| self.options.update.is_none()) {
            let own = crate::quantise::weights(graph);
            for (_, t) in values.iter_mut().filter(|(n, _)| own.contains(n)) {
                *t = crate::quantise::quantised(t, bits);
            }
        }
        Ok(values)
    }

    /// How the net is compiled.
    pub(crate) fn options(&self) -> &CompileOptions {
        &self.options
    }

    /// The graph as it was written, for the sizes of data, with those sizes and with all that it reads.
    #[allow(clippy::type_complexity)]
    pub(crate) fn written(
        &self,
        data: &[(String, Tensor)],
        weights: &[(String, Tensor)],
    ) -> Result<(Graph, Dims, HashMap<String, Tensor>), Error> {
        let (_, bound, rest) = self.bound(data)?;
        let lowered = self.lowered(bound.dims.clone(), rest)?;
        let graph = lowered.graph;
        let parameters = self.parameters(&graph, &lowered.layers, data, weights)?;
        let mut tensors = bound.tensors;
        let missing: Vec<&str> = graph.needed_inputs().iter().map(|(n, _)| *n).filter(|n| !tensors.contains_key(*n)).collect();
        if !missing.is_empty() {
            return Err(self.missing(&missing, &graph.needed_inputs(), data).into());
        }
        InputError::check_sizes(&graph, None)?;
        tensors.extend(parameters);
        Ok((graph, bound.dims, tensors))
    }

    /// The net's graph as it is written, with some sizes put in, where `...` stands for `rest` dimensions.
    pub(crate) fn lowered(&self, dims: Dims, rest: Option<usize>) -> Result<snn_compile::Compilation, Error> {
        let options = self.options.passes(self.lowering(dims, rest));
        snn_compile::compile_until(self.program.input(&self.net), &options, "fixed-point").map_err(|e| self.program.failed(e))
    }

    /// The declared inputs, where `...` stands for `rest` dimensions.
    pub(crate) fn declared(&self, rest: Option<usize>) -> Result<Vec<(String, Type)>, Error> {
        self.signature(rest)
    }

    /// A graph for the backend of the net.
    pub(crate) fn compile_graph(&self, graph: &Graph) -> Result<Box<dyn Executable>, Error> {
        Ok(self.backend.compile(graph)?)
    }

    /// Diagnostics of the net's source.
    pub(crate) fn source_error(&self, diagnostics: Vec<Diagnostic>) -> Error {
        self.program.error(diagnostics)
    }

    /// Weights as [`CompileOptions::weights_dtype`] rounds them.
    ///
    /// # Errors
    /// What is wrong with the net's source, and weights that do not fit.
    pub fn quantised_weights(&self, weights: &[(String, Tensor)]) -> Result<Quantised, Error> {
        let lowered = self.lowered(self.options.dims.clone(), None)?;
        let all = self.parameters(&lowered.graph, &lowered.layers, &[], weights)?;
        let before = |name: &str| weights.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
        let own = crate::quantise::weights(&lowered.graph);
        let changed = all.iter().filter(|(n, _)| own.contains(n)).filter_map(|(n, t)| Some((n.clone(), before(n)?, t.clone()))).collect();
        Ok(Quantised { all, changed })
    }

    /// The parameters that a run without weights draws.
    ///
    /// # Errors
    /// What is wrong with the net's source, and sizes of parameters that are not known.
    pub fn draw(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let lowered = self.lowered(self.options.dims.clone(), None)?;
        self.parameters(&lowered.graph, &lowered.layers, &[], &[])
    }

    /// The net as a graph of NIR, with its parameters.
    ///
    /// # Errors
    /// What is wrong with its source or its weights, and what NIR cannot say, with its line.
    pub fn export_nir(&self, weights: &[(String, Tensor)], options: &snn_nir::ExportOptions) -> Result<snn_nir::Exported, Error> {
        let lowered = self.lowered(self.options.dims.clone(), None)?;
        let parameters = self.parameters(&lowered.graph, &lowered.layers, &[], weights)?;
        let lowering = self.lowering(self.options.dims.clone(), None);
        let trace = self.program.module().trace(&self.net, &lowering).map_err(|d| self.program.error(d))?;
        snn_nir::export(&trace, &parameters, options).map_err(|e| match e {
            snn_nir::NirError::Program(d) => self.program.error(vec![*d]),
            other => Error::Nir(other),
        })
    }

    /// A size that is not known is that of an input that is not given, where there is one.
    fn with_missing_inputs(&self, error: Error, given: &HashMap<String, Tensor>, data: &[(String, Tensor)]) -> Error {
        let Error::Input(input) = &error else { return error };
        let InputError::UnknownSize { reason, .. } = &**input else { return error };
        let reason = reason.clone();
        let declared = self.signature(None).unwrap_or_default();
        let missing = declared.iter().filter(|(n, _)| !given.contains_key(n)).map(|(n, t)| format!("`{n}` ({t})")).collect();
        InputError::UnknownSize { reason, missing, held: self.held(data) }.into()
    }

    /// Why the net cannot be run in pieces, with the line.
    fn mixes(&self, m: snn_ir::axes::Mixes) -> Error {
        let message = format!("`--batch` runs the samples of `B` in pieces, and they do not stay apart: `{}` {}", m.what, m.why);
        let mut d = Diagnostic::error(message).help("leave `--batch` out; `--memory-limit` bounds what a run may use");
        if let Some(s) = m.span {
            let span = snn_syntax::Span { file: s.file, start: s.start as usize, end: s.end as usize };
            d = d.label(span, "here the samples meet");
        }
        self.program.error(vec![d])
    }

    #[allow(clippy::too_many_arguments)]
    fn run_in_pieces(
        &self,
        declared: &[(String, Type)],
        tensors: HashMap<String, Tensor>,
        dims: Dims,
        rest: Option<usize>,
        data: &[(String, Tensor)],
        weights: &[(String, Tensor)],
        piece: usize,
    ) -> Result<Run, Error> {
        let is_batch = |d: &snn_ir::Dim| d.as_name() == Some("B");
        let mut open = dims.clone();
        open.remove("B");
        let symbolic = self.lowered(open, rest)?;
        let drawn = snn_ir::axes::independent(&symbolic.graph, "B").map_err(|m| self.mixes(m))?;
        let random: Vec<(u32, usize, snn_ir::Distribution, Type)> = symbolic
            .graph
            .nodes()
            .filter_map(|(_, n)| match n.op {
                snn_ir::Op::Random { stream, distribution, .. } => {
                    drawn.get(&stream).map(|a| (stream, *a, distribution, n.types[0].bind(&dims)))
                }
                _ => None,
            })
            .collect();
        let mut axes = Vec::new();
        for (name, v) in &symbolic.graph.outputs {
            match symbolic.graph.ty(*v).shape.iter().position(is_batch) {
                Some(axis) => axes.push(axis),
                None => {
                    let (output, net, ty) = (name.clone(), self.net.clone(), symbolic.graph.ty(*v).clone());
                    return Err(InputError::Unbatched { output, net, ty }.into());
                }
            }
        }
        let size = dims.get("B").copied().unwrap_or(0) as usize;
        let mut runs: Vec<Run> = Vec::new();
        for start in (0..size).step_by(piece) {
            let end = (start + piece).min(size);
            let mut dims = dims.clone();
            dims.insert("B".into(), (end - start) as i64);
            let mut parts = HashMap::new();
            for (name, ty) in declared {
                if let Some(t) = tensors.get(name) {
                    let tensor = ty.shape.iter().position(is_batch).map_or_else(|| t.clone(), |axis| part(t, axis, start, end));
                    parts.insert(name.clone(), tensor);
                }
            }
            // Random numbers are those that the samples have in the whole.
            for (stream, axis, distribution, ty) in &random {
                let mut shape = ty.sizes().map_err(snn_ir::RuntimeError::from)?;
                let numbers = snn_ir::random::fill_part(*distribution, self.options.seed, *stream, &shape, *axis, start..end);
                shape[*axis] = end - start;
                parts.insert(drawn_name(*stream), Tensor::f32(shape, numbers));
            }
            // What the first piece has drawn and checked serves the others.
            let run = self.run_once(parts, &dims, rest, data, runs.first().map_or(weights, |r| &r.parameters), &drawn)?;
            runs.push(run);
        }
        let mut joined = Run {
            parameters: runs[0].parameters.clone(),
            updates: runs.last().map(|r| r.updates.clone()).unwrap_or_default(),
            outputs: Tensors::new(),
            dims,
            independent: vec![],
        };
        for (i, axis) in axes.iter().enumerate() {
            let parts: Vec<&Tensor> = runs.iter().map(|r| &r.outputs[i].1).collect();
            let mut shape = parts[0].shape().to_vec();
            shape[*axis] = size;
            let types = [Type::sized(parts[0].dtype(), &shape)];
            let mut none = snn_ir::interpret::Randomness::Counter { seed: 0 };
            let tensor = snn_ir::interpret::evaluate(&snn_ir::Op::Concat { axis: *axis }, &parts, &types, &mut none)?.remove(0);
            joined.outputs.push((runs[0].outputs[i].0.clone(), tensor));
        }
        Ok(joined)
    }
}

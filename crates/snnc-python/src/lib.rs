//! The native part of the Python package: programs, nets, arrays. What Python does better stands in `python/snnc`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use numpy::{IntoPyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString};
use snn_ir::{DType, Data, RuntimeError, Tensor};
use snn_plot::PlotError;
use snnc::error::InputError;
use snnc::{Backends, CompileOptions, Compiled, Error, Mode, Optimise, Precision, Prepared, Program, Setting, Severity};

pyo3::create_exception!(_native, ProgramError, PyValueError, "A program is wrong; the text is the diagnostic with its source lines.");

/// Name, element type and shape.
type Described = (String, String, Vec<String>);
/// The same, and whether it is learned.
type Parameter = (String, String, Vec<String>, bool);
/// A kernel: name, milliseconds, bytes, operations, firing rate.
type KernelRow = (String, f64, usize, usize, Option<f64>);

fn raised(error: Error) -> PyErr {
    match &error {
        Error::Source { .. } => ProgramError::new_err(error.to_string()),
        Error::Run(RuntimeError::Interrupted) => PyKeyboardInterrupt::new_err("interrupted"),
        Error::Run(_) | Error::Compile(_) | Error::Device(_) | Error::Memory { .. } => PyRuntimeError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

/// An array as a tensor: its elements are copied once.
fn tensor(name: &str, array: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let untyped = array.cast::<PyUntypedArray>().map_err(|_| PyTypeError::new_err(format!("`{name}` is no NumPy array")))?;
    let shape = untyped.shape().to_vec();
    macro_rules! elements {
        ($t:ty) => {
            array.cast::<PyArrayDyn<$t>>().ok().map(|a| {
                let a: PyReadonlyArrayDyn<'_, $t> = a.readonly();
                match a.as_slice() {
                    Ok(slice) => slice.to_vec(),
                    Err(_) => a.as_array().iter().copied().collect(),
                }
            })
        };
    }
    if let Some(v) = elements!(f32) {
        return Ok(Tensor::f32(shape, v));
    }
    if let Some(v) = elements!(i64) {
        return Ok(Tensor::i64(shape, v));
    }
    if let Some(v) = elements!(bool) {
        return Ok(Tensor::bool(shape, v.into_iter().map(u8::from).collect()));
    }
    if let Some(v) = elements!(u8) {
        return Ok(Tensor::u8(shape, v));
    }
    Err(PyTypeError::new_err(format!("`{name}` has elements of type {}; f32, i64, bool and u8 are taken", untyped.dtype())))
}

/// A tensor as an array; its memory is handed over.
fn array<'py>(py: Python<'py>, tensor: Tensor) -> PyResult<Bound<'py, PyAny>> {
    let shape = tensor.shape().to_vec();
    fn own<T: Clone>(v: std::sync::Arc<Vec<T>>) -> Vec<T> {
        std::sync::Arc::try_unwrap(v).unwrap_or_else(|v| v.as_ref().clone())
    }
    let flat = match tensor.into_data() {
        Data::F32(v) => own(v).into_pyarray(py).reshape(shape)?.into_any(),
        Data::I64(v) => own(v).into_pyarray(py).reshape(shape)?.into_any(),
        Data::Bool(v) => v.iter().map(|b| *b != 0).collect::<Vec<bool>>().into_pyarray(py).reshape(shape)?.into_any(),
        Data::U8(v) => own(v).into_pyarray(py).reshape(shape)?.into_any(),
    };
    Ok(flat)
}

fn tensors(arrays: &Bound<'_, PyDict>) -> PyResult<Vec<(String, Tensor)>> {
    arrays
        .iter()
        .map(|(name, a)| {
            let name: String = name.extract()?;
            let t = tensor(&name, &a)?;
            Ok((name, t))
        })
        .collect()
}

fn dict<'py>(py: Python<'py>, list: Vec<(String, Tensor)>) -> PyResult<Bound<'py, PyDict>> {
    let all = PyDict::new(py);
    for (name, t) in list {
        all.set_item(name, array(py, t)?)?;
    }
    Ok(all)
}

fn setting(value: &Bound<'_, PyAny>) -> PyResult<Setting> {
    if value.is_none() {
        Ok(Setting::Nothing)
    } else if value.is_instance_of::<PyBool>() {
        Ok(Setting::Bool(value.extract()?))
    } else if value.is_instance_of::<PyInt>() {
        Ok(Setting::Int(value.extract()?))
    } else if value.is_instance_of::<PyFloat>() {
        Ok(Setting::Float(value.extract()?))
    } else if value.is_instance_of::<PyString>() {
        Ok(Setting::Text(value.extract()?))
    } else if let Ok(items) = value.cast::<PyList>() {
        Ok(Setting::List(items.iter().map(|i| setting(&i)).collect::<PyResult<_>>()?))
    } else {
        Err(PyTypeError::new_err(format!("a setting is a number, text, boolean, None or a list, not {}", value.get_type())))
    }
}

/// A module in training makes and drops the same tensors at every step; this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Kinds = Vec<(String, DType, Vec<usize>)>;

/// A compiled net with its weights.
#[pyclass(frozen)]
struct Net {
    program: Program,
    name: String,
    options: CompileOptions,
    compiled: Compiled,
    weights: Mutex<Vec<(String, Tensor)>>,
    /// What was prepared for inputs of some types and shapes.
    prepared: Mutex<HashMap<Kinds, std::sync::Arc<Prepared>>>,
}

/// Reads the options that Python gives by name.
/// Lines of `print` go where Python's own go: into a notebook, or into what tests capture.
fn printer() -> snnc::Printer {
    snnc::Printer(Arc::new(|line| {
        // A stream that is closed loses a line, and nothing else.
        let _ = Python::attach(|py| py.import("builtins")?.call_method1("print", (line,)).map(|_| ()));
    }))
}

fn options(given: &Bound<'_, PyDict>) -> PyResult<CompileOptions> {
    let mut o = CompileOptions::default().printer(printer());
    let (mut backend, mut device, mut dtype) = ("cranelift".to_string(), "cpu".to_string(), "f32".to_string());
    for (name, value) in given.iter() {
        let name: String = name.extract()?;
        match name.as_str() {
            "training" => o.mode = if value.extract()? { Mode::Train } else { Mode::Eval },
            "seed" => o.seed = value.extract()?,
            "threads" => o.threads = value.extract()?,
            "fast_math" => {
                if value.extract()? {
                    o.optimise = Optimise::Fast;
                }
            }
            "optimise" => {
                if !value.extract::<bool>()? {
                    o.optimise = Optimise::Off;
                }
            }
            "backend" => backend = value.extract()?,
            "device" => device = value.extract()?,
            "partial" => o.partial = value.extract()?,
            "dims" => o.dims = value.extract()?,
            "gradients" => o.gradients = value.extract()?,
            "cotangents" => o.cotangents = value.extract()?,
            "batch" => o.batch = value.extract()?,
            "weights_dtype" => o.weights_dtype = parsed(&value)?,
            "states" => o.states = parsed(&value)?,
            "dtype" => dtype = value.extract()?,
            "exact" => {
                if value.extract()? {
                    o.products.kernel = snnc::ProductKernel::Exact;
                }
            }
            "settings" => {
                for (n, v) in value.cast::<PyDict>()?.iter() {
                    o.settings.insert(n.extract()?, setting(&v)?);
                }
            }
            other => return Err(PyTypeError::new_err(format!("there is no option `{other}`"))),
        }
    }
    let text = if backend == "candle" { format!("candle {device}") } else { backend.clone() };
    o.backend = text.parse().map_err(raised)?;
    let is_exact = o.products.kernel == snnc::ProductKernel::Exact;
    match (&mut o.backend, dtype.as_str()) {
        (_, "f32") => {}
        (Backends::Candle(_, precision), "f16") => *precision = Precision::F16,
        (Backends::Candle(_, precision), "bf16") => *precision = Precision::BF16,
        (Backends::Cranelift, "bf16") => o.products.bf16 = true,
        _ => {
            let text = format!(
                "`dtype` is f32, bf16 (with the backends cranelift and candle) or f16 (with candle), not `{dtype}` with `{backend}`"
            );
            return Err(PyValueError::new_err(text));
        }
    }
    if is_exact && (o.products.bf16 || matches!(o.backend, Backends::Candle(..))) {
        return Err(PyValueError::new_err("`exact` is for sums in f32 on the backend cranelift"));
    }
    Ok(o)
}

/// What stands in a text, unless it is `None`.
fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(value: &Bound<'_, PyAny>) -> PyResult<Option<T>> {
    let text: Option<String> = value.extract()?;
    text.map(|t| t.parse().map_err(|e: T::Err| PyValueError::new_err(e.to_string()))).transpose()
}

/// A panic of the compiler is an exception that says so; it never ends the interpreter.
fn guarded<T>(f: impl FnOnce() -> Result<T, Error>) -> PyResult<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(raised),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(PyRuntimeError::new_err(format!("a defect of snnc: {}", text.unwrap_or_default())))
        }
    }
}

impl Net {
    /// The weights; parameters among the inputs, those of a module, stand before them.
    fn weights_with(&self, data: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, slot) in &mut weights {
            if let Some((_, given)) = data.iter().find(|(n, _)| n == name) {
                *slot = given.clone();
            }
        }
        weights
    }

    /// The net ready for some inputs, known from before where their types and shapes are; `None` where it runs in pieces.
    fn prepared(&self, data: &[(String, Tensor)]) -> Result<Option<Prepared>, Error> {
        let kinds: Kinds = data.iter().map(|(n, t)| (n.clone(), t.dtype(), t.shape().to_vec())).collect();
        let cache = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cache().get(&kinds).cloned();
        if let Some(p) = known.and_then(|p| p.with_tensors(data)) {
            return Ok(Some(p));
        }
        if self.options.batch.is_some() {
            return Ok(None);
        }
        let weights = self.weights_with(data);
        let (prepared, parameters) = self.compiled.prepare_with_parameters(data, &weights)?;
        // Parameters that were drawn are drawn once.
        if weights.is_empty() {
            *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = parameters;
        }
        let mut all = cache();
        if all.len() > 64 {
            all.clear();
        }
        if let Some(kept) = prepared.with_tensors(&[]) {
            all.insert(kinds, std::sync::Arc::new(kept));
        }
        Ok(Some(prepared))
    }
}

/// What a run of a net has left for its gradients.
#[pyclass(frozen)]
struct Tape(snnc::Tape);

#[pymethods]
impl Tape {
    /// The gradients by name, from those of the outputs, `cotangent.<output>`.
    fn backward<'py>(&self, py: Python<'py>, cotangents: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
        let given = tensors(cotangents)?;
        let gradients = py.detach(|| guarded(|| self.0.backward(&given)))?;
        py.check_signals()?;
        dict(py, gradients.into())
    }
}

#[pymethods]
impl Net {
    #[new]
    #[pyo3(signature = (text, file, net, weights, given))]
    fn new(
        py: Python<'_>,
        text: &str,
        file: &str,
        net: Option<&str>,
        weights: &Bound<'_, PyDict>,
        given: &Bound<'_, PyDict>,
    ) -> PyResult<Net> {
        let (options, weights) = (options(given)?, tensors(weights)?);
        py.detach(|| {
            guarded(|| {
                let program = Program::parse(file, text)?;
                let errors: Vec<_> = program.check(options.mode).into_iter().filter(|d| d.severity == Severity::Error).collect();
                let name = program
                    .module()
                    .default_net(net)
                    .map_err(|d| Error::Source { sources: Box::new(program.module().sources.clone()), diagnostics: vec![d] })?;
                if !errors.is_empty() && options.settings.is_empty() {
                    return Err(Error::Source { sources: Box::new(program.module().sources.clone()), diagnostics: errors });
                }
                let compiled = program.compile(Some(&name), &options)?;
                Ok(Net { program, name, options, compiled, weights: Mutex::new(weights), prepared: Mutex::default() })
            })
        })
    }

    /// The name of the net.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// The names of the nets of the program.
    #[getter]
    fn nets(&self) -> Vec<String> {
        self.program.module().nets().iter().map(ToString::to_string).collect()
    }

    /// The same program for another net, or with other options; the weights that it has stay.
    fn variant(&self, py: Python<'_>, net: Option<&str>, given: &Bound<'_, PyDict>) -> PyResult<Net> {
        let changed = options(given)?;
        let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let o = CompileOptions::default()
            .backend(self.options.backend)
            .threads(self.options.threads)
            .optimise(self.options.optimise)
            .settings(self.options.settings.clone())
            .seed(self.options.seed)
            .partial(self.options.partial)
            .dims(self.options.dims.clone())
            .weights_dtype(self.options.weights_dtype)
            .states(self.options.states)
            .mode(changed.mode)
            .gradients(changed.gradients)
            .cotangents(changed.cotangents)
            .printer(printer());
        py.detach(|| {
            guarded(|| {
                let name = net.unwrap_or(&self.name).to_string();
                let compiled = self.program.compile(Some(&name), &o)?;
                let weights = if net.is_some() { compiled.own_weights(&weights)? } else { weights };
                Ok(Net {
                    program: self.program.clone(),
                    name,
                    options: o,
                    compiled,
                    weights: Mutex::new(weights),
                    prepared: Mutex::default(),
                })
            })
        })
    }

    /// Inputs: name, element type, shape with symbols as text.
    #[getter]
    fn inputs(&self) -> PyResult<Vec<Described>> {
        let signature = self.program.signature(&self.name).map_err(raised)?;
        Ok(signature.into_iter().map(|(n, t)| (n, t.dtype.to_string(), t.shape.iter().map(ToString::to_string).collect())).collect())
    }

    /// Outputs and parameters as the graph with symbolic sizes has them: name, element type, shape, and of parameters whether they learn.
    fn described(&self) -> PyResult<(Vec<Described>, Vec<Parameter>)> {
        let lowered = snnc::Options {
            mode: self.options.mode,
            dims: self.options.dims.clone(),
            settings: self.options.settings.clone(),
            ..Default::default()
        };
        let graph = self.program.lower(Some(&self.name), &lowered).map_err(raised)?;
        let shape = |t: &snn_ir::Type| t.shape.iter().map(ToString::to_string).collect::<Vec<_>>();
        let outputs = graph.outputs.iter().map(|(n, v)| (n.clone(), graph.ty(*v).dtype.to_string(), shape(graph.ty(*v)))).collect();
        let parameters = graph.parameters.iter().map(|p| (p.name.clone(), p.ty.dtype.to_string(), shape(&p.ty), p.learnable)).collect();
        Ok((outputs, parameters))
    }

    /// Runs the net: outputs, and new values of buffers in training, by name.
    #[pyo3(signature = (inputs, seed = None))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        inputs: &Bound<'py, PyDict>,
        seed: Option<u64>,
    ) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
        let data = tensors(inputs)?;
        let run = py.detach(|| {
            guarded(|| match self.prepared(&data)? {
                Some(prepared) => prepared.run_seeded(seed.unwrap_or(self.options.seed)),
                None => self.compiled.run(&data, &self.weights_with(&data)),
            })
        })?;
        py.check_signals()?;
        Ok((dict(py, run.outputs.into())?, dict(py, run.updates.into())?))
    }

    /// Runs a net that has gradients of its outputs: outputs, new values of buffers, and what the gradients need.
    #[pyo3(signature = (inputs, seed = None))]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        inputs: &Bound<'py, PyDict>,
        seed: Option<u64>,
    ) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>, Tape)> {
        let data = tensors(inputs)?;
        let (run, tape) = py.detach(|| {
            guarded(|| {
                let prepared = self.prepared(&data)?.ok_or_else(|| Error::from(InputError::GradientsInPieces))?;
                prepared.forward(seed.unwrap_or(self.options.seed))
            })
        })?;
        py.check_signals()?;
        Ok((dict(py, run.outputs.into())?, dict(py, run.updates.into())?, Tape(tape)))
    }

    /// The weights that are used: those that were given, or drawn by the first run.
    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        dict(py, weights)
    }

    /// Other weights from now on.
    fn set_weights(&self, weights: &Bound<'_, PyDict>) -> PyResult<()> {
        let new = tensors(weights)?;
        *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// The source, as it was given.
    #[getter]
    fn source(&self) -> String {
        self.program.module().sources.whole(0).to_string()
    }

    /// A stage of the compiler as text.
    fn emit(&self, stage: &str, dims: HashMap<String, i64>) -> PyResult<String> {
        guarded(|| snnc::stages::text(&self.program, &self.name, stage, &dims.into_iter().collect(), &self.options))
    }

    /// The net step by step. `inputs` are those without time, `dims` sizes.
    fn stream(&self, py: Python<'_>, inputs: &Bound<'_, PyDict>, dims: HashMap<String, i64>) -> PyResult<Stream> {
        let data = tensors(inputs)?;
        py.detach(|| {
            guarded(|| {
                let mut options = self.options.clone();
                options.dims.extend(dims);
                let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if weights.is_empty() {
                    // Parameters that are drawn are those of the next run too.
                    weights = self.compiled.draw()?;
                    *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = weights.clone();
                }
                let stepper = self.program.compile(Some(&self.name), &options)?.stepper(&data, &weights)?;
                let state = Mutex::new(stepper.start());
                Ok(Stream { stepper, state })
            })
        })
    }

    /// Writes the net as a NIR file, and gives the options that read it as the same net.
    fn export_nir(&self, path: std::path::PathBuf, dt: Option<f64>, integrator: Option<&str>) -> PyResult<Vec<(String, String)>> {
        let integrator = integrator.map(str::parse).transpose().map_err(PyValueError::new_err)?;
        let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let options = snn_nir::ExportOptions { dt, integrator };
        let made = guarded(|| self.compiled.export_nir(&weights, &options))?;
        snn_nir::write(&path, &made.graph).map_err(|e| match e {
            snn_nir::NirError::Write { source, .. } => PyErr::from(source),
            e => PyValueError::new_err(e.to_string()),
        })?;
        Ok(made.options.into_iter().map(|(n, v)| (n.replace('-', "_"), if v.is_empty() { "True".into() } else { v })).collect())
    }

    /// What each layer of neurons gives, in order, and then the outputs.
    fn activity<'py>(&self, py: Python<'py>, inputs: &Bound<'py, PyDict>) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
        let data = tensors(inputs)?;
        let all = py.detach(|| {
            guarded(|| {
                let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone();
                self.compiled.activity(&data, &weights)
            })
        })?;
        all.into_iter().map(|(n, t)| Ok((n, array(py, t)?))).collect()
    }

    /// Operations and energy on some inputs, as JSON.
    fn cost(&self, py: Python<'_>, inputs: &Bound<'_, PyDict>) -> PyResult<String> {
        let data = tensors(inputs)?;
        py.detach(|| {
            let cost = guarded(|| {
                let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone();
                self.compiled.cost(&data, &weights)
            })?;
            serde_json::to_string(&cost).map_err(|e| PyValueError::new_err(e.to_string()))
        })
    }

    /// The files of a net as C, or as an object file for a machine, with their contents; `dims` are all sizes.
    fn build(&self, py: Python<'_>, name: &str, target: &str, triple: Option<&str>, dims: snnc::Dims) -> PyResult<Vec<(String, Vec<u8>)>> {
        let as_object = match target {
            "c" if triple.is_none() => false,
            "c" => return Err(PyValueError::new_err("`triple` is for target=\"object\"; a C file is for every machine")),
            "object" => true,
            other => return Err(PyValueError::new_err(format!("there is no target `{other}`: c and object are"))),
        };
        py.detach(|| {
            guarded(|| {
                let mut all = self.options.dims.clone();
                all.extend(dims);
                let options = self.options.clone().dims(all);
                let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let built = self.program.compile(Some(&self.name), &options)?.build_c(name, "Python", &weights)?;
                let body = match as_object {
                    true => (format!("{name}.o"), built.object(triple)?),
                    false => (format!("{name}.c"), built.source.source.into_bytes()),
                };
                Ok(vec![(format!("{name}.h"), built.source.header.into_bytes()), body])
            })
        })
    }

    /// What each kernel takes: name, milliseconds, bytes, operations, firing rate.
    fn profile(&self, py: Python<'_>, inputs: &Bound<'_, PyDict>) -> PyResult<Vec<KernelRow>> {
        let data = tensors(inputs)?;
        py.detach(|| {
            guarded(|| {
                let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let kernels = self.compiled.prepare(&data, &weights)?.profile()?;
                Ok(kernels.into_iter().map(|k| (k.name, k.time.as_secs_f64() * 1e3, k.bytes, k.operations, k.firing_rate)).collect())
            })
        })
    }
}

/// A net step by step, with its state.
#[pyclass(frozen)]
struct Stream {
    stepper: snnc::Stepper,
    state: Mutex<snnc::State>,
}

#[pymethods]
impl Stream {
    /// Inputs of a step: name, element type, shape.
    #[getter]
    fn inputs(&self) -> Vec<Described> {
        let shape = |t: &snn_ir::Type| t.shape.iter().map(ToString::to_string).collect();
        self.stepper.inputs().into_iter().map(|(n, t, _)| (n, t.dtype.to_string(), shape(&t))).collect()
    }

    /// Outputs that are values so far of something over the whole sequence.
    #[getter]
    fn running(&self) -> Vec<String> {
        let running = self.stepper.outputs().iter().filter(|(_, what)| *what == snn_ir::step::Output::Running);
        running.map(|(n, _)| n.clone()).collect()
    }

    /// Takes a step.
    fn step<'py>(&self, py: Python<'py>, inputs: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
        let data = tensors(inputs)?;
        let outputs = py.detach(|| guarded(|| self.stepper.step(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), &data)))?;
        dict(py, outputs)
    }

    /// The state as arrays, with the number of steps.
    fn get_state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).to_tensors();
        dict(py, state)
    }

    /// Another state of the same net.
    fn set_state(&self, state: &Bound<'_, PyDict>) -> PyResult<()> {
        let new = self.stepper.restore(&tensors(state)?).map_err(raised)?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The state before the first step.
    fn reset(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = self.stepper.start();
    }
}

/// Reads a file of tensors.
#[pyfunction]
fn load_tensors<'py>(py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyDict>> {
    dict(py, snnc::load(path).map_err(|e| raised(e.into()))?)
}

/// Writes a file of tensors.
#[pyfunction]
fn save_tensors(path: &str, arrays: &Bound<'_, PyDict>) -> PyResult<()> {
    snnc::save(path.as_ref(), &tensors(arrays)?).map_err(|e| raised(e.into()))
}

/// A program in its canonical layout.
/// The program of a NIR file, its weights and warnings.
#[pyfunction]
fn import_nir<'py>(
    py: Python<'py>,
    path: std::path::PathBuf,
    given: HashMap<String, String>,
) -> PyResult<(String, Bound<'py, PyDict>, Vec<String>)> {
    fn one<T: std::str::FromStr>(given: &HashMap<String, String>, name: &str) -> PyResult<Option<T>>
    where
        T::Err: std::fmt::Display,
    {
        given.get(name).map(|v| v.parse().map_err(|e| PyValueError::new_err(format!("`{name}`: {e}")))).transpose()
    }
    let options = snn_nir::Options {
        preset: one(&given, "preset")?,
        dt: one(&given, "dt")?,
        integrator: one(&given, "integrator")?,
        reset: one(&given, "reset")?,
        compare: one(&given, "compare")?,
        order: one(&given, "order")?,
        emit: one(&given, "emit")?,
        unit_if: given.get("unit_if").is_some_and(|v| v == "True"),
        input_scale: one(&given, "input_scale")?,
    };
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let failed = |e: snn_nir::NirError| match e {
        snn_nir::NirError::Read { source, .. } => PyErr::from(source),
        e => PyValueError::new_err(e.to_string()),
    };
    let model = snn_nir::read(&path).map_err(failed)?;
    let made = snn_nir::import(&model, &options, &name).map_err(failed)?;
    Ok((made.source, dict(py, made.weights)?, made.warnings))
}

#[pyfunction]
fn format_source(text: &str) -> PyResult<String> {
    let program = Program::parse("program.snn", text).map_err(raised)?;
    Ok(snn_syntax::print(&program.module().ast, text))
}

/// As [`guarded`], for pictures.
fn drawn(f: impl FnOnce() -> Result<String, PlotError>) -> PyResult<String> {
    guarded(|| Ok(f()))?.map_err(|e| PyValueError::new_err(e.to_string()))
}

/// Spike trains `[T, N]` (or one sample of `[T, B, N]`) as a raster, in SVG.
#[pyfunction]
fn raster_svg(names: Vec<String>, arrays: &Bound<'_, PyDict>, sample: usize) -> PyResult<String> {
    let all = tensors(arrays)?;
    drawn(|| {
        let of = |n: &String| all.iter().find(|(k, _)| k == n).map(|(_, t)| snn_plot::Signal::new(n, t, sample));
        let layers = names.iter().filter_map(of).collect::<Result<Vec<_>, PlotError>>()?;
        snn_plot::as_svg(|path| snn_plot::raster(path, &layers, &snn_plot::Style::default()))
    })
}

/// Membranes, with their spikes and threshold, in SVG.
#[pyfunction]
#[pyo3(signature = (v, spikes, threshold, neurons, sample))]
fn trace_svg(
    v: &Bound<'_, PyAny>,
    spikes: Option<&Bound<'_, PyAny>>,
    threshold: Option<f32>,
    neurons: Vec<usize>,
    sample: usize,
) -> PyResult<String> {
    let v = tensor("v", v)?;
    let spikes = spikes.map(|s| tensor("spikes", s)).transpose()?;
    drawn(|| {
        let potential = snn_plot::Signal::new("v", &v, sample)?;
        let spikes = spikes.map(|s| snn_plot::Signal::new("spikes", &s, sample)).transpose()?;
        let membrane = snn_plot::Membrane { potential, spikes, threshold, before_reset: None, neurons };
        snn_plot::as_svg(|path| snn_plot::traces(path, &membrane, &snn_plot::Style::default()))
    })
}

/// The graph of a net as SVG.
#[pyfunction]
fn graph_svg(net: &Net, dims: HashMap<String, i64>) -> PyResult<String> {
    let graph = guarded(|| snnc::stages::optimised(&net.program, &net.name, &dims.into_iter().collect(), &net.options))?;
    drawn(|| snn_plot::as_svg(|path| snn_plot::graphs(path, &[(&net.name, &graph)])))
}

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Net>()?;
    m.add_class::<Tape>()?;
    m.add_class::<Stream>()?;
    m.add("ProgramError", m.py().get_type::<ProgramError>())?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_function(wrap_pyfunction!(load_tensors, m)?)?;
    m.add_function(wrap_pyfunction!(save_tensors, m)?)?;
    m.add_function(wrap_pyfunction!(format_source, m)?)?;
    m.add_function(wrap_pyfunction!(import_nir, m)?)?;
    m.add_function(wrap_pyfunction!(graph_svg, m)?)?;
    m.add_function(wrap_pyfunction!(raster_svg, m)?)?;
    m.add_function(wrap_pyfunction!(trace_svg, m)?)?;
    Ok(())
}

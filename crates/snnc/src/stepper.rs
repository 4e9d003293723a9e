//! A net that is run one time step after the other, with its state in the caller's hands.

use std::collections::HashMap;

use snn_ir::step::{self, Output};
use snn_ir::{Dims, Executable, Graph, Tensor, Type};

use crate::bind::{bind, rest_rank};
use crate::error::{InputError, StepError};
use crate::{Compiled, Diagnostic, Error};

/// The dimension that steps go along.
pub const TIME: &str = "T";

/// A net compiled for one step.
pub struct Stepper {
    net: String,
    executable: Box<dyn Executable>,
    /// Parameters, constants and inputs without time, by name.
    fixed: HashMap<String, Tensor>,
    /// The state before the first step.
    first: Vec<(String, Tensor)>,
    inputs: Vec<(String, Type, usize)>,
    outputs: Vec<(String, Output)>,
    random: Vec<snn_ir::step::RandomInput>,
    seed: u64,
}

/// The state of a net between two steps: everything that the next step needs of those before.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// How many steps were taken.
    pub steps: u64,
    /// States by name: that of a layer's neuron, `sn1.v`, of a delay, or of a running sum.
    pub tensors: Vec<(String, Tensor)>,
}

impl State {
    /// As tensors of a file, with the number of steps as `steps`.
    pub fn to_tensors(&self) -> Vec<(String, Tensor)> {
        let mut all = vec![("steps".to_string(), Tensor::i64([], vec![self.steps as i64]))];
        all.extend(self.tensors.iter().map(|(n, t)| (format!("state.{n}"), t.clone())));
        all
    }
}

/// One step of a graph whose other dimensions are known.
///
/// # Errors
/// What needs a step that has not come yet.
pub(crate) fn one_step(graph: &Graph, inputs_stay: bool) -> Result<step::Step, Diagnostic> {
    step::step(graph, TIME, inputs_stay).map_err(|m| {
        let message = format!("the net cannot be computed step by step: `{}` {}", m.what, m.why);
        let d = Diagnostic::error(message).help("a step knows the steps before it; run the whole sequence with `snnc run`");
        match m.span {
            Some(s) => {
                let span = snn_syntax::Span { file: s.file, start: s.start as usize, end: s.end as usize };
                d.label(span, "not known at a step")
            }
            None => d,
        }
    })
}

/// One step, the parameters, and the declared inputs.
type Stepped = (step::Step, Vec<(String, Tensor)>, Vec<(String, Type)>);

impl Compiled {
    /// The net over time with all other sizes known, optimised, as one step; with the parameters.
    pub(crate) fn stepped(
        &self,
        dims: &Dims,
        rest: Option<usize>,
        inputs_stay: bool,
        data: &[(String, Tensor)],
        weights: &[(String, Tensor)],
    ) -> Result<Stepped, Error> {
        let lowered = self.lowered(dims.clone(), rest)?;
        let declared = self.declared(rest)?;
        let is_time = |t: &Type| t.shape.iter().any(|d| d.names().contains(&TIME));
        if !declared.iter().any(|(_, t)| is_time(t)) {
            let inputs: Vec<String> = declared.iter().map(|(n, t)| format!("{n}: {t}")).collect();
            return Err(StepError::NoTime { net: self.net().to_string(), inputs }.into());
        }
        let graph = lowered.graph;
        InputError::check_sizes(&graph, Some(TIME))?;
        let parameters = self.parameters(&graph, &lowered.layers, data, weights)?;
        let step = one_step(&graph, inputs_stay).map_err(|d| self.source_error(vec![d]))?;
        Ok((step, parameters, declared))
    }

    /// A net that is run step by step. `data` gives inputs without time and may give whole sequences, whose sizes count; `dims` gives the
    /// others, and samples are one where nobody says how many.
    ///
    /// # Errors
    /// If the net needs later steps, or sizes, data or weights do not fit.
    pub fn stepper(&self, data: &[(String, Tensor)], weights: &[(String, Tensor)]) -> Result<Stepper, Error> {
        let by_name: HashMap<&str, &Tensor> = data.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let rest = rest_rank(&self.declared(None)?, &by_name);
        let bound = bind(&self.declared(rest)?, &by_name, &self.options().dims)?;
        let mut dims = bound.dims;
        dims.remove(TIME);
        dims.entry("B".into()).or_insert(1);
        let (step, parameters, declared) = self.stepped(&dims, rest, true, data, weights)?;
        let optimised = |graph: &Graph| self.optimised(graph, &parameters);
        let mut fixed: HashMap<String, Tensor> = parameters.iter().cloned().collect();
        let is_sequence = |n: &str| step.sequences.iter().any(|(s, _)| s == n);
        for (name, tensor) in bound.tensors.into_iter().filter(|(n, _)| !is_sequence(n)) {
            fixed.insert(name, tensor);
        }
        for (name, ty) in step.graph.needed_inputs() {
            if declared.iter().any(|(n, _)| n == name) && !is_sequence(name) && !fixed.contains_key(name) {
                return Err(StepError::Constant { net: self.net().to_string(), name: name.to_string(), ty: ty.clone() }.into());
            }
        }
        let once = self.compile_graph(&optimised(&step.initial)?)?.run(&fixed, self.options().seed)?;
        let mut computed = once.outputs.into_iter().map(|(_, t)| t);
        let first: Vec<(String, Tensor)> = step.states.iter().zip(computed.by_ref()).map(|(s, t)| (s.name.clone(), t)).collect();
        fixed.extend(step.constants.iter().cloned().zip(computed));
        let executable = self.compile_graph(&optimised(&step.graph)?)?;
        let needed = executable.memory() as u64;
        if needed > self.options().memory_limit {
            return Err(Error::Memory { needed, limit: self.options().memory_limit });
        }
        let input_type = |n: &str| step.graph.inputs.iter().find(|v| step.graph.input_name(**v) == n).map(|v| step.graph.ty(*v).clone());
        let inputs = step.sequences.iter().filter_map(|(n, axis)| Some((n.clone(), input_type(n)?, *axis))).collect();
        let outputs = step.graph.outputs.iter().map(|(n, _)| n.clone()).zip(step.outputs.iter().copied()).collect();
        Ok(Stepper {
            net: self.net().to_string(),
            executable,
            fixed,
            first,
            inputs,
            outputs,
            random: step.random,
            seed: self.options().seed,
        })
    }
}

impl Stepper {
    /// The state before the first step.
    pub fn start(&self) -> State {
        State { steps: 0, tensors: self.first.clone() }
    }

    /// The inputs of a step: names, types without the axis of time, and where that axis is in a sequence.
    pub fn inputs(&self) -> Vec<(String, Type, usize)> {
        let step = |(name, ty, axis): &(String, Type, usize)| (name.clone(), without(ty, *axis), *axis);
        self.inputs.iter().map(step).collect()
    }

    /// The outputs of a step, and what each is: one step of a sequence, a value so far, or the same at all steps.
    pub fn outputs(&self) -> &[(String, Output)] {
        &self.outputs
    }

    /// The random numbers that a run of the whole sequence has at that step.
    fn draw(&self, steps: u64, tensors: &mut HashMap<String, Tensor>) -> Result<(), Error> {
        for r in &self.random {
            let shape = r.ty.sizes().map_err(snn_ir::RuntimeError::from)?;
            let n = shape.iter().product::<usize>() as u64;
            let numbers = snn_ir::random::fill_range(r.distribution, self.seed, r.stream, steps * n..(steps + 1) * n);
            tensors.insert(r.name.clone(), Tensor::f32(shape, numbers));
        }
        Ok(())
    }

    /// Checks a state that came from elsewhere, such as a file of [`State::to_tensors`].
    ///
    /// # Errors
    /// Names, types or shapes that are not those of this net.
    pub fn restore(&self, tensors: &[(String, Tensor)]) -> Result<State, Error> {
        let find = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t);
        let steps = find("steps").and_then(|t| t.to_i64().first().copied()).filter(|s| *s >= 0);
        let Some(steps) = steps else { return Err(StepError::NoCount.into()) };
        let mut state = State { steps: steps as u64, tensors: vec![] };
        for (name, first) in &self.first {
            let Some(t) = find(&format!("state.{name}")) else {
                return Err(StepError::MissingState { name: name.clone(), net: self.net.clone() }.into());
            };
            if t.dtype() != first.dtype() || t.shape() != first.shape() {
                let of = |t: &Tensor| (t.dtype(), t.shape().to_vec());
                return Err(StepError::StateType { name: name.clone(), net: self.net.clone(), found: of(t), wanted: of(first) }.into());
            }
            state.tensors.push((name.clone(), t.clone()));
        }
        Ok(state)
    }

    /// Takes one step: inputs by name, without the axis of time; moves the state, and gives the outputs of the step by name.
    ///
    /// # Errors
    /// If an input is missing or has another type than the step's; the state is then as it was.
    pub fn step(&self, state: &mut State, inputs: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
        let mut tensors = self.fixed.clone();
        for (name, ty, axis) in &self.inputs {
            let Some((_, t)) = inputs.iter().find(|(n, _)| n == name) else {
                return Err(StepError::MissingInput { name: name.clone(), ty: without(ty, *axis) }.into());
            };
            let wanted = ty.sizes().map_err(snn_ir::RuntimeError::from)?;
            let fits = t.len() == wanted.iter().product::<usize>() && t.shape() == without(ty, *axis).sizes().unwrap_or_default();
            let converted = snn_data::fit(t, ty.dtype).ok().filter(|_| fits);
            let Some(t) = converted else {
                let found = (t.dtype(), t.shape().to_vec());
                return Err(StepError::InputType { name: name.clone(), wanted: without(ty, *axis), found }.into());
            };
            tensors.insert(name.clone(), t.reshaped(wanted));
        }
        for (name, t) in &state.tensors {
            tensors.insert(format!("state.{name}"), t.clone());
        }
        self.draw(state.steps, &mut tensors)?;
        let mut results = self.executable.run(&tensors, self.seed)?.outputs;
        let next = results.split_off(self.outputs.len());
        for ((_, slot), (_, new)) in state.tensors.iter_mut().zip(next) {
            *slot = new;
        }
        state.steps += 1;
        for ((_, t), (_, what)) in results.iter_mut().zip(&self.outputs) {
            if let Output::Each(axis) = what {
                let mut shape = t.shape().to_vec();
                shape.remove(*axis);
                *t = t.reshaped(shape);
            }
        }
        Ok(results)
    }

    /// Runs whole sequences step by step: sequences of the outputs that have time, and the last value of the others.
    ///
    /// # Errors
    /// As [`Stepper::step`]; sequences of different lengths.
    pub fn run(&self, state: &mut State, data: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
        let mut length = None;
        for (name, _, axis) in &self.inputs {
            let Some((_, t)) = data.iter().find(|(n, _)| n == name) else {
                return Err(StepError::MissingSequence { net: self.net.clone(), name: name.clone() }.into());
            };
            let own = t.shape().get(*axis).copied().unwrap_or(0);
            if *length.get_or_insert(own) != own {
                return Err(StepError::Lengths { name: name.clone(), steps: own, other: length.unwrap_or(0) }.into());
            }
        }
        let length = length.unwrap_or(0);
        let mut rows: Vec<Vec<Tensor>> = vec![vec![]; self.outputs.len()];
        for t in 0..length {
            snn_ir::interrupt::check()?;
            let mut inputs = vec![];
            for (name, _, axis) in &self.inputs {
                if let Some((_, x)) = data.iter().find(|(n, _)| n == name) {
                    let part = crate::bind::part(x, *axis, t, t + 1);
                    let mut shape = part.shape().to_vec();
                    shape.remove(*axis);
                    inputs.push((name.clone(), part.reshaped(shape)));
                }
            }
            for (row, (_, value)) in rows.iter_mut().zip(self.step(state, &inputs)?) {
                row.push(value);
            }
        }
        let mut outputs = vec![];
        for ((name, what), rows) in self.outputs.iter().zip(rows) {
            let Some(last) = rows.last() else { continue };
            let value = match what {
                Output::Each(axis) => along(&rows, *axis)?,
                Output::Running | Output::Fixed => last.clone(),
            };
            outputs.push((name.clone(), value));
        }
        Ok(outputs)
    }
}

fn without(ty: &Type, axis: usize) -> Type {
    let mut ty = ty.clone();
    ty.shape.remove(axis);
    ty
}

/// Steps as a sequence, along a new axis.
fn along(rows: &[Tensor], axis: usize) -> Result<Tensor, Error> {
    let mut shape = rows[0].shape().to_vec();
    shape.insert(axis, 1);
    let parts: Vec<Tensor> = rows.iter().map(|r| r.reshaped(shape.clone())).collect();
    shape[axis] = rows.len();
    let ty = Type::sized(rows[0].dtype(), &shape);
    let refs: Vec<&Tensor> = parts.iter().collect();
    let mut none = snn_ir::interpret::Randomness::Counter { seed: 0 };
    Ok(snn_ir::interpret::evaluate(&snn_ir::Op::Concat { axis }, &refs, &[ty], &mut none)?.remove(0))
}

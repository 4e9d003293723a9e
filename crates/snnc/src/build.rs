//! A net as C.

use std::collections::HashMap;

use snn_ir::step::Output;
use snn_ir::{Backend, Dims, Graph, Interpreter, Tensor};
use snn_object::Resident;

use crate::error::{InputError, StepError};
use crate::stepper::TIME;
use crate::{Compiled, Diagnostic, Error};

/// A net as C, and what it has.
#[derive(Clone, Debug)]
pub struct CBuild {
    /// The files and their sizes.
    pub source: snn_c::Source,
    /// Why there are no functions for single steps, where there are none.
    pub no_steps: Option<String>,
}

/// How many dimensions `...` stands for: as many as sizes are given for.
fn rest_of(dims: &Dims) -> Option<usize> {
    Some(dims.keys().filter(|n| n.starts_with('_')).count()).filter(|n| *n > 0)
}

impl CBuild {
    /// The object file of the C file, for a machine as `aarch64-unknown-linux-gnu`, or for this one; the header is the same.
    ///
    /// # Errors
    /// Machines that there is no code for.
    pub fn object(&self, triple: Option<&str>) -> Result<Vec<u8>, Error> {
        Ok(snn_object::compile(&self.source, triple)?)
    }
}

impl Compiled {
    /// The net as one function for a step, in which nothing is allocated: for loops that must keep time. Sizes are those of the options;
    /// samples are one where nobody says how many. It computes what the interpreter computes, on one thread.
    ///
    /// # Errors
    /// As [`Compiled::build_c`], and nets that are not run step by step.
    pub fn resident(&self, weights: &[(String, Tensor)]) -> Result<Resident, Error> {
        let mut dims = self.options().dims.clone();
        dims.remove(TIME);
        dims.entry("B".into()).or_insert(1);
        let built = self.build_sized(&dims, "net", "a program", weights)?;
        if built.no_steps.is_some() {
            let inputs = self.declared(rest_of(&dims))?.iter().map(|(n, t)| format!("{n}: {t}")).collect();
            return Err(StepError::NoTime { net: self.net().to_string(), inputs }.into());
        }
        Ok(Resident::new(&built.source)?)
    }

    /// A graph optimised as far as that keeps bits for these parameters.
    pub(crate) fn optimised(&self, graph: &Graph, parameters: &[(String, Tensor)]) -> Result<Graph, Error> {
        let mut options = self.options().passes(snn_front::Options::default());
        let best = snn_compile::optimised(graph.clone(), &options)?;
        let is_finite = |(name, t): &(String, Tensor)| !best.finite.contains(name) || t.as_f32().iter().all(|x| x.is_finite());
        if parameters.iter().all(is_finite) {
            return Ok(best.graph);
        }
        options.may_be_infinite = true;
        Ok(snn_compile::optimised(graph.clone(), &options)?.graph)
    }

    /// The net as C, where all sizes but that of time are known: `name` is the stem of its files and names.
    ///
    /// # Errors
    /// Sizes that are not known, weights that do not fit, and operations that C does not have here, with their line.
    pub fn build_c(&self, name: &str, origin: &str, weights: &[(String, Tensor)]) -> Result<CBuild, Error> {
        self.build_sized(&self.options().dims, name, origin, weights)
    }

    fn build_sized(&self, dims: &Dims, name: &str, origin: &str, weights: &[(String, Tensor)]) -> Result<CBuild, Error> {
        let integers = self.options().weights_dtype.map(|b| match b {
            crate::quantise::WeightBits::I8 => 8,
            crate::quantise::WeightBits::I16 => 16,
        });
        let states = self.options().states.map(|f| snn_c::kernels::Fixed { bits: f.bits(), step: f.step() });
        let mut open = dims.clone();
        let steps = open.remove(TIME);
        let rest = rest_of(&open);
        let declared = self.declared(rest)?;
        let mut no_steps = None;
        let mut step = None;
        if declared.iter().any(|(_, t)| t.shape.iter().any(|d| d.names().contains(&TIME))) {
            match self.stepped(&open, rest, false, &[], weights) {
                Ok(found) => step = Some(found),
                // Without the steps it may still be run as a whole.
                Err(e) if steps.is_some() => no_steps = Some(e.to_string()),
                Err(e) => return Err(e),
            }
        } else {
            no_steps = Some(format!("no input has the dimension `{TIME}`"));
        }
        let refused = |e: snn_c::CError| match e {
            snn_c::CError::Operation { span, .. } => {
                let mut d = Diagnostic::error(e.to_string());
                if let Some(s) = span {
                    let span = snn_syntax::Span { file: s.file, start: s.start as usize, end: s.end as usize };
                    d = d.label(span, "here");
                }
                self.source_error(vec![d])
            }
            snn_c::CError::Compile(e) => e.into(),
            snn_c::CError::Run(e) => e.into(),
        };
        let whole = |parameters: &mut Vec<(String, Tensor)>| -> Result<Graph, Error> {
            let lowered = self.lowered(dims.clone(), rest)?;
            let graph = lowered.graph;
            InputError::check_sizes(&graph, None)?;
            *parameters = self.parameters(&graph, &lowered.layers, &[], weights)?;
            self.optimised(&graph, parameters)
        };
        let Some((step, parameters, _)) = step else {
            let mut parameters = vec![];
            let graph = whole(&mut parameters)?;
            let tensors: HashMap<String, Tensor> = parameters.into_iter().collect();
            let request = snn_c::Request {
                name,
                origin,
                step: None,
                whole: Some(&graph),
                seed: self.options().seed,
                integers,
                states,
                tensors: &tensors,
            };
            return Ok(CBuild { source: snn_c::write(&request).map_err(refused)?, no_steps });
        };
        let mut tensors: HashMap<String, Tensor> = parameters.iter().cloned().collect();
        // What is computed once is computed as C computes.
        let once = Interpreter.compile(&self.optimised(&step.initial, &parameters)?)?.run(&tensors, self.options().seed)?;
        let mut computed = once.outputs.into_iter().map(|(_, t)| t);
        let first: Vec<(String, Tensor)> = step.states.iter().zip(computed.by_ref()).map(|(s, t)| (s.name.clone(), t)).collect();
        tensors.extend(step.constants.iter().cloned().zip(computed));
        let graph = self.optimised(&step.graph, &parameters)?;
        let each: Vec<bool> = step.outputs.iter().map(|o| matches!(o, Output::Each(_))).collect();
        // Steps of a sequence lie behind each other where time is the first axis.
        let in_order = step.sequences.iter().all(|(_, a)| *a == 0) && step.outputs.iter().all(|o| !matches!(o, Output::Each(a) if *a > 0));
        let mut own = vec![];
        let other = if steps.is_some() && !in_order { Some(whole(&mut own)?) } else { None };
        let sequences = step.sequences.iter().map(|(n, _)| n.clone()).collect();
        let length = steps.filter(|_| in_order).map(|s| s as usize);
        let c_step = snn_c::Step { graph: &graph, first: &first, random: &step.random, steps: length, sequences, each };
        let request = snn_c::Request {
            name,
            origin,
            step: Some(c_step),
            whole: other.as_ref(),
            seed: self.options().seed,
            integers,
            states,
            tensors: &tensors,
        };
        Ok(CBuild { source: snn_c::write(&request).map_err(refused)?, no_steps })
    }
}

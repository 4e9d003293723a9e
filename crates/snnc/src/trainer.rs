//! A net's loss, its gradients and the optimiser as one compiled step.

use snn_ir::{DeviceState, Tensor};
use snn_train::{State, Step, StepResult, TrainError};

use crate::{CompileOptions, Compiled, Error, Mode, Program};

/// Runs the steps of a training.
pub struct Trainer {
    net: Compiled,
    /// Where the backend keeps what moves: newer than the tensors of the state, until they sync_to_host.
    device_state: Option<Box<dyn DeviceState>>,
}

impl Trainer {
    /// Compiles the step of a net whose value is the loss. `options.update` says how parameters follow their gradients.
    ///
    /// # Errors
    /// What is wrong with its source.
    pub fn new(program: &Program, net: &str, options: &CompileOptions) -> Result<Trainer, Error> {
        let options = options.clone().mode(Mode::Train).gradients(vec![]).batch(None);
        Ok(Trainer { net: program.compile(Some(net), &options)?, device_state: None })
    }

    /// The state at the start, with the names of parameters that the loss does not depend on. `batch` gives the sizes.
    ///
    /// # Errors
    /// If batch or weights do not fit the net, or the net has no scalar.
    pub fn start(&self, batch: &[(String, Tensor)], weights: &[(String, Tensor)]) -> Result<(State, Vec<String>), Error> {
        let (prepared, tensors) = self.net.prepare_with_parameters(batch, weights)?;
        Ok((State { tensors, ..State::default() }, prepared.independent().to_vec()))
    }

    /// Why a loss is not finite: the first value that is none, in words.
    ///
    /// # Errors
    /// If batch or weights do not fit the net.
    pub fn diagnose(&self, batch: &[(String, Tensor)], tensors: &[(String, Tensor)], seed: u64) -> Result<Option<String>, Error> {
        self.net.first_non_finite(batch, tensors, seed)
    }
}

impl Step for Trainer {
    type Error = Error;

    fn step(&mut self, batch: &[(String, Tensor)], tensors: &mut Vec<(String, Tensor)>, seed: u64) -> Result<StepResult, Error> {
        let prepared = self.net.prepare(batch, tensors)?;
        let (run, device_state) = prepared.step(self.device_state.as_deref(), seed)?;
        let number = |t: &Tensor| t.shape().is_empty().then(|| t.to_f32()[0]);
        let Some(loss) = run.outputs.first().and_then(|(_, t)| number(t)) else {
            return Err(TrainError::NoData.into());
        };
        let metrics = run.outputs.iter().skip(1).filter_map(|(n, t)| Some((n.clone(), number(t)?))).collect();
        let not_finite = snn_train::not_finite(&run.updates);
        if loss.is_finite() && not_finite.is_none() {
            let mut old = Vec::with_capacity(run.updates.len());
            for (name, new) in run.updates {
                match tensors.iter_mut().find(|(n, _)| *n == name) {
                    Some(slot) => old.push((name, std::mem::replace(&mut slot.1, new))),
                    None => tensors.push((name, new)),
                }
            }
            prepared.recycle_replaced(old);
            self.device_state = device_state.or(self.device_state.take());
        }
        Ok(StepResult { loss, metrics, not_finite })
    }

    fn sync_to_host(&mut self, tensors: &mut Vec<(String, Tensor)>) -> Result<(), Error> {
        let Some(device_state) = &self.device_state else { return Ok(()) };
        for (name, new) in device_state.to_host()? {
            match tensors.iter_mut().find(|(n, _)| *n == name) {
                Some(slot) => slot.1 = new,
                None => tensors.push((name, new)),
            }
        }
        Ok(())
    }
}

//! A training state as tensors, and back.

use std::collections::BTreeMap;

use snn_ir::Tensor;

use crate::TrainError;

const PREFIX: &str = "checkpoint.";

/// How far a training is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Finished epochs.
    pub epoch: usize,
    /// Finished batches of the current epoch.
    pub batch: usize,
    /// Finished steps.
    pub step: u64,
    /// The sum of the losses of this epoch's samples so far.
    pub loss_sum: f64,
}

/// Everything that the next step needs.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Parameters, buffers and the optimiser's tensors by name.
    pub tensors: Vec<(String, Tensor)>,
    /// How far it is.
    pub progress: Progress,
}

/// What must be the same when a run is resumed.
pub type Identity = Vec<(&'static str, i64)>;

impl State {
    /// The state as named tensors.
    pub fn to_tensors(&self, identity: &Identity) -> Vec<(String, Tensor)> {
        let number = |name: &str, n: i64| (format!("{PREFIX}{name}"), Tensor::i64([], vec![n]));
        let p = &self.progress;
        let mut all = self.tensors.clone();
        all.push(number("epoch", p.epoch as i64));
        all.push(number("batch", p.batch as i64));
        all.push(number("step", p.step as i64));
        all.push(number("loss_sum", p.loss_sum.to_bits() as i64));
        all.extend(identity.iter().map(|(name, n)| number(name, *n)));
        all
    }

    /// The state that a checkpoint holds. `fresh` is the state at the start of the same training.
    ///
    /// # Errors
    /// If the checkpoint is of another model or another training.
    pub fn from_tensors(tensors: Vec<(String, Tensor)>, fresh: &State, identity: &Identity) -> Result<State, TrainError> {
        let (numbers, tensors): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(n, _)| n.starts_with(PREFIX));
        let numbers: BTreeMap<&str, i64> =
            numbers.iter().filter_map(|(n, t)| Some((n.strip_prefix(PREFIX)?, *t.to_i64().first()?))).collect();
        let number = |name: &str| numbers.get(name).copied().ok_or_else(|| TrainError::IncompleteCheckpoint(format!("{PREFIX}{name}")));
        for (name, wanted) in identity {
            let found = number(name)?;
            if found != *wanted {
                return Err(TrainError::OtherCheckpoint {
                    what: "training",
                    detail: format!("its {name} is {found}, and this one's is {wanted}"),
                });
            }
        }
        let shapes = |all: &[(String, Tensor)]| all.iter().map(|(n, t)| (n.clone(), t.shape().to_vec())).collect::<BTreeMap<_, _>>();
        let (found, wanted) = (shapes(&tensors), shapes(&fresh.tensors));
        if found != wanted {
            let list = |a: &BTreeMap<String, Vec<usize>>, b: &BTreeMap<String, Vec<usize>>| {
                let only: Vec<String> = a.iter().filter(|(n, s)| b.get(*n) != Some(s)).map(|(n, s)| format!("`{n}` {s:?}")).collect();
                if only.is_empty() { "nothing".to_string() } else { only.join(", ") }
            };
            let detail = format!("only it has {}; only this model has {}", list(&found, &wanted), list(&wanted, &found));
            return Err(TrainError::OtherCheckpoint { what: "model", detail });
        }
        let progress = Progress {
            epoch: number("epoch")? as usize,
            batch: number("batch")? as usize,
            step: number("step")? as u64,
            loss_sum: f64::from_bits(number("loss_sum")? as u64),
        };
        // In the order of the model, whatever that of the file.
        let mut by_name: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        let tensors = fresh.tensors.iter().filter_map(|(n, _)| by_name.remove_entry(n)).collect();
        Ok(State { tensors, progress })
    }
}

//! A training state as tensors, and back.

use std::collections::BTreeMap;

use snn_ir::{DType, Tensor};

use crate::TrainError;

const PREFIX: &str = "checkpoint.";

/// How far a training is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Finished epochs.
    pub epoch: usize,
    /// Finished batches of the current epoch.
    pub batch: usize,
    /// Finished steps: batches.
    pub step: u64,
    /// How often parameters have moved: less often than there are steps where gradients are accumulated.
    pub updates: u64,
    /// The sum of the losses of this epoch's samples so far.
    pub loss_sum: f64,
    /// The sums of other scalars over this epoch's samples so far.
    pub metric_sums: Vec<(String, f64)>,
    /// The best validation so far, and after how many epochs.
    pub best: Option<(f64, usize)>,
}

/// Everything that the next step needs.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Parameters, buffers and the optimiser's tensors by name.
    pub tensors: Vec<(String, Tensor)>,
    /// How far it is.
    pub progress: Progress,
}

/// What must be the same when a run is resumed, with how it is shown.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Numbers by name.
    pub numbers: Vec<(&'static str, i64)>,
    /// Floats by name.
    pub floats: Vec<(&'static str, f64)>,
    /// Texts by name, of which a number is kept.
    pub texts: Vec<(&'static str, String)>,
}

impl Identity {
    /// Everything as numbers: floats by their bits, texts by a hash (FNV-1a).
    fn as_numbers(&self) -> Vec<(&'static str, i64)> {
        let hash = |t: &str| t.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let floats = self.floats.iter().map(|(n, x)| (*n, x.to_bits() as i64));
        let texts = self.texts.iter().map(|(n, t)| (*n, hash(t) as i64));
        self.numbers.iter().copied().chain(floats).chain(texts).collect()
    }

    /// What differs, in words.
    fn difference(&self, name: &str, found: i64) -> String {
        if let Some((_, wanted)) = self.numbers.iter().find(|(n, _)| *n == name) {
            return format!("its {name} is {found}, and this one's is {wanted}");
        }
        if let Some((_, wanted)) = self.floats.iter().find(|(n, _)| *n == name) {
            return format!("its {name} is {}, and this one's is {wanted}", f64::from_bits(found as u64));
        }
        format!("its {name} is another one")
    }
}

const METRIC: &str = "metric.";

/// Types and shapes by name.
type Kinds = BTreeMap<String, (String, Vec<usize>)>;

impl State {
    /// Sets the numbers of a step, [`crate::Update::numbers`]; those that no parameter follows are not there.
    pub fn set_numbers(&mut self, numbers: Vec<(String, Tensor)>) {
        for (name, value) in numbers {
            if let Some(slot) = self.tensors.iter_mut().find(|(n, _)| *n == name) {
                slot.1 = value;
            }
        }
    }

    /// The state as named tensors.
    pub fn to_tensors(&self, identity: &Identity) -> Vec<(String, Tensor)> {
        let number = |name: &str, n: i64| (format!("{PREFIX}{name}"), Tensor::i64([], vec![n]));
        let p = &self.progress;
        let mut all = self.tensors.clone();
        all.push(number("epoch", p.epoch as i64));
        all.push(number("batch", p.batch as i64));
        all.push(number("step", p.step as i64));
        all.push(number("updates", p.updates as i64));
        all.push(number("loss_sum", p.loss_sum.to_bits() as i64));
        all.extend(p.metric_sums.iter().map(|(name, sum)| number(&format!("{METRIC}{name}"), sum.to_bits() as i64)));
        if let Some((value, epoch)) = p.best {
            all.extend([number("best", value.to_bits() as i64), number("best_epoch", epoch as i64)]);
        }
        all.extend(identity.as_numbers().into_iter().map(|(name, n)| number(name, n)));
        all
    }

    /// The state that a checkpoint holds. `fresh` is the state at the start of the same training, whose epochs have `batches`;
    /// with `changes` the training may be another one, and only the model must be the same.
    ///
    /// # Errors
    /// If the checkpoint is of another model or another training, or damaged.
    pub fn from_tensors(
        tensors: Vec<(String, Tensor)>,
        fresh: &State,
        identity: &Identity,
        batches: usize,
        changes: bool,
    ) -> Result<State, TrainError> {
        let (numbers, tensors): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(n, _)| n.starts_with(PREFIX));
        if let Some((n, _)) = numbers.iter().find(|(_, t)| t.dtype() != DType::I64 || t.len() != 1) {
            return Err(TrainError::DamagedCheckpoint(format!("`{n}` is not one integer")));
        }
        let numbers: BTreeMap<&str, i64> =
            numbers.iter().filter_map(|(n, t)| Some((n.strip_prefix(PREFIX)?, *t.to_i64().first()?))).collect();
        let number = |name: &str| numbers.get(name).copied().ok_or_else(|| TrainError::IncompleteCheckpoint(format!("{PREFIX}{name}")));
        for (name, wanted) in identity.as_numbers() {
            if changes {
                continue;
            }
            let found = number(name)?;
            if found != wanted {
                let detail = identity.difference(name, found);
                return Err(TrainError::OtherCheckpoint { what: "training", detail });
            }
        }
        let shapes = |all: &[(String, Tensor)]| {
            all.iter().map(|(n, t)| (n.clone(), (t.dtype().to_string(), t.shape().to_vec()))).collect::<BTreeMap<_, _>>()
        };
        let (found, wanted) = (shapes(&tensors), shapes(&fresh.tensors));
        if found != wanted {
            let list = |a: &Kinds, b: &Kinds| {
                let only: Vec<String> =
                    a.iter().filter(|(n, s)| b.get(*n) != Some(s)).map(|(n, (dtype, s))| format!("`{n}` {dtype}{s:?}")).collect();
                if only.is_empty() { "nothing".to_string() } else { only.join(", ") }
            };
            let detail = format!("only it has {}; only this model has {}", list(&found, &wanted), list(&wanted, &found));
            return Err(TrainError::OtherCheckpoint { what: "model", detail });
        }
        let count = |name: &str, most: usize| {
            let n = number(name)?;
            usize::try_from(n).ok().filter(|n| *n <= most).ok_or_else(|| TrainError::DamagedCheckpoint(format!("its {name} is {n}")))
        };
        let metric_sums = numbers.iter().filter_map(|(n, x)| Some((n.strip_prefix(METRIC)?.to_string(), f64::from_bits(*x as u64))));
        let progress = Progress {
            epoch: count("epoch", usize::MAX)?,
            batch: count("batch", batches)?,
            step: count("step", usize::MAX)? as u64,
            // Checkpoints from before there was accumulation have moved parameters in each step.
            updates: count(if numbers.contains_key("updates") { "updates" } else { "step" }, usize::MAX)? as u64,
            loss_sum: f64::from_bits(number("loss_sum")? as u64),
            metric_sums: metric_sums.collect(),
            best: match numbers.get("best") {
                Some(value) => Some((f64::from_bits(*value as u64), count("best_epoch", usize::MAX)?)),
                None => None,
            },
        };
        // In the order of the model, whatever that of the file.
        let mut by_name: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        let tensors = fresh.tensors.iter().filter_map(|(n, _)| by_name.remove_entry(n)).collect();
        Ok(State { tensors, progress })
    }
}

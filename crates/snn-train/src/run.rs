//! The loop over epochs and batches.

use std::time::{Duration, Instant};

use snn_ir::{DType, Tensor, Type};

use crate::TrainError;
use crate::batches::{DataSet, order};
use crate::checkpoint::{Progress, State};
use crate::schedule::Schedule;
use crate::update::{Part, Update};

/// How to train.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often all samples are seen.
    pub epochs: usize,
    /// Samples in a step; the last batch of an epoch may be smaller.
    pub batch: usize,
    /// The learning rate.
    pub learning_rate: f64,
    /// How it changes.
    pub schedule: Schedule,
    /// Are samples shuffled?
    pub shuffle: bool,
    /// The seed of the order and of random operations.
    pub seed: u64,
    /// The optimiser.
    pub update: Update,
    /// The inputs of the loss that say how far the training is; see [`clock`].
    pub clock: Vec<(String, Type)>,
    /// After how many batches of an epoch the watcher is asked again ([`Watcher::during`]); 0 for never.
    pub during: usize,
}

/// Those of a net's inputs that say how far a training is, without those that data give: the numbers `epoch`, which counts from 0, and `epochs`.
pub fn clock_inputs(inputs: Vec<(String, Type)>, is_given: impl Fn(&str) -> bool) -> Vec<(String, Type)> {
    let is_clock = |n: &str, t: &Type| matches!(n, "epoch" | "epochs") && t.rank() == 0 && matches!(t.dtype, DType::F32 | DType::I64);
    inputs.into_iter().filter(|(n, t)| is_clock(n, t) && !is_given(n)).collect()
}

/// The values of [`clock_inputs`] in an epoch, which counts from 0.
pub fn clock(inputs: &[(String, Type)], epoch: usize, epochs: usize) -> impl Iterator<Item = (String, Tensor)> + '_ {
    inputs.iter().map(move |(name, ty)| {
        let value = if name == "epoch" { epoch } else { epochs };
        let tensor = if ty.dtype == DType::F32 { Tensor::scalar(value as f32) } else { Tensor::i64([], vec![value as i64]) };
        (name.clone(), tensor)
    })
}

/// What one step gives.
#[derive(Clone, Debug, Default)]
pub struct StepResult {
    /// The loss.
    pub loss: f32,
    /// Other scalars of the net by name.
    pub metrics: Vec<(String, f32)>,
    /// A parameter or buffer whose new value is not finite; then nothing was changed.
    pub not_finite: Option<String>,
}

/// Runs a compiled step.
pub trait Step {
    /// Why a step fails.
    type Error: From<TrainError>;

    /// Computes the loss of a batch and, if that is finite, moves `tensors`, which holds parameters, buffers, and the
    /// optimiser's tensors and numbers.
    ///
    /// # Errors
    /// If the program fails.
    fn step(&mut self, batch: &[(String, Tensor)], tensors: &mut Vec<(String, Tensor)>, seed: u64) -> Result<StepResult, Self::Error>;

    /// Brings `tensors` up to date, where steps have moved them somewhere else.
    ///
    /// # Errors
    /// If the device fails.
    fn sync_to_host(&mut self, tensors: &mut Vec<(String, Tensor)>) -> Result<(), Self::Error> {
        let _ = tensors;
        Ok(())
    }
}

/// An epoch that is over.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// Which one, counted from 1.
    pub epoch: usize,
    /// The mean loss of its samples.
    pub loss: f64,
    /// The mean of other scalars over its samples.
    pub metrics: Vec<(String, f64)>,
    /// The learning rate.
    pub learning_rate: f64,
    /// How long it took.
    pub time: Duration,
    /// How many samples it saw in that time.
    pub samples: usize,
}

/// Is told what happens, and says when to stop.
pub trait Watcher<E> {
    /// After each step: batches done of how many, the mean loss so far. `false` stops after this step.
    fn step(&mut self, epoch: usize, batches: (usize, usize), samples: usize, loss: f64) -> bool;

    /// In the middle of an epoch, after as many batches as [`Settings::during`] says. `false` ends the training here.
    ///
    /// # Errors
    /// If what it does with it fails; the training ends.
    fn during(&mut self, epoch: usize, batches: (usize, usize), state: &mut State) -> Result<bool, E> {
        let _ = (epoch, batches, state);
        Ok(true)
    }

    /// After each epoch, with `progress.best` still to be set. `false` ends the training here.
    ///
    /// # Errors
    /// If what it does with it fails; the training ends.
    fn epoch(&mut self, epoch: &Epoch, state: &mut State) -> Result<bool, E>;
}

/// How a training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All epochs are done, or the watcher ended it after one.
    Finished,
    /// The watcher stopped it.
    Stopped,
    /// The loss of a step, or a parameter or buffer after it, was not finite. The state is that before the step, if that is known.
    NotFinite {
        /// Which step, counted from 1.
        step: u64,
        /// The loss.
        loss: f32,
        /// The parameter or buffer, where it is not the loss.
        name: Option<String>,
        /// The samples of its batch.
        samples: Vec<usize>,
        /// The seed of its random numbers.
        seed: u64,
    },
}

/// The first tensor that holds something that is not finite.
pub fn not_finite(tensors: &[(String, Tensor)]) -> Option<String> {
    let bad = |t: &Tensor| t.dtype() == snn_ir::DType::F32 && !t.as_f32().iter().all(|x| x.is_finite());
    tensors.iter().find(|(_, t)| bad(t)).map(|(n, _)| n.clone())
}

/// Random numbers of a step depend on the seed and its number only.
fn seed_of(seed: u64, step: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(step)
}

/// Trains until the end, or until somebody stops it. `state` moves along and is whole after every epoch, and at the end.
///
/// # Errors
/// If the batch does not fit the data, or a step or the watcher fails.
pub fn train<S: Step>(
    step: &mut S,
    data: &DataSet,
    settings: &Settings,
    state: &mut State,
    watcher: &mut impl Watcher<S::Error>,
) -> Result<Outcome, S::Error> {
    data.check_batch(settings.batch)?;
    let batches = data.len().div_ceil(settings.batch);
    while state.progress.epoch < settings.epochs {
        let epoch = state.progress.epoch;
        let started = Instant::now();
        let order = order(data.len(), settings.shuffle, settings.seed, epoch);
        let learning_rate = settings.schedule.rate(settings.learning_rate, epoch, settings.epochs);
        let first = state.progress.batch;
        let (mut seen, mut stop) = (0, false);
        for (i, samples) in order.chunks(settings.batch).enumerate().skip(first) {
            let number = state.progress.step + 1;
            let schedule = |rate| settings.schedule.rate(rate, epoch, settings.epochs);
            // The last batches of an epoch are a smaller group.
            let group = settings.update.accumulate.max(1);
            let first_of_group = i / group * group * settings.batch;
            let of_group = (group * settings.batch).min(order.len() - first_of_group);
            let is_last = (i + 1).is_multiple_of(group) || i + 1 == batches;
            let part = Part { share: samples.len() as f64 / of_group as f64, is_last };
            state.set_numbers(settings.update.numbers(settings.learning_rate, schedule, state.progress.updates + 1, part));
            let seed = seed_of(settings.seed, number);
            let mut given = data.batch(samples);
            given.extend(clock(&settings.clock, epoch, settings.epochs));
            let result = step.step(&given, &mut state.tensors, seed)?;
            if !result.loss.is_finite() || result.not_finite.is_some() {
                step.sync_to_host(&mut state.tensors)?;
                let (loss, name) = (result.loss, result.not_finite);
                return Ok(Outcome::NotFinite { step: number, loss, name, samples: samples.to_vec(), seed });
            }
            let (p, weight) = (&mut state.progress, samples.len() as f64);
            (p.batch, p.step) = (i + 1, number);
            p.updates += u64::from(is_last);
            p.loss_sum += f64::from(result.loss) * weight;
            seen += samples.len();
            for (name, value) in result.metrics {
                let value = f64::from(value) * weight;
                match p.metric_sums.iter_mut().find(|(n, _)| *n == name) {
                    Some(s) => s.1 += value,
                    None => p.metric_sums.push((name, value)),
                }
            }
            let so_far = (i * settings.batch + samples.len()) as f64;
            let goes_on = watcher.step(epoch + 1, (i + 1, batches), samples.len(), p.loss_sum / so_far);
            stop = !goes_on;
            if stop && i + 1 < batches {
                step.sync_to_host(&mut state.tensors)?;
                return Ok(Outcome::Stopped);
            }
            if settings.during > 0 && (i + 1).is_multiple_of(settings.during) && i + 1 < batches {
                step.sync_to_host(&mut state.tensors)?;
                if not_finite(&state.tensors).is_none() && !watcher.during(epoch + 1, (i + 1, batches), state)? {
                    return Ok(Outcome::Finished);
                }
            }
        }
        step.sync_to_host(&mut state.tensors)?;
        // What moved on a device is looked at where it has arrived.
        if let Some(name) = not_finite(&state.tensors) {
            return Ok(Outcome::NotFinite {
                step: state.progress.step,
                loss: f32::NAN,
                name: Some(name),
                samples: vec![],
                seed: settings.seed,
            });
        }
        let done = Epoch {
            epoch: epoch + 1,
            loss: state.progress.loss_sum / data.len() as f64,
            metrics: state.progress.metric_sums.iter().map(|(n, s)| (n.clone(), s / data.len() as f64)).collect(),
            learning_rate,
            time: started.elapsed(),
            samples: seen,
        };
        let Progress { step: steps, updates, best, .. } = state.progress;
        state.progress = Progress { epoch: epoch + 1, step: steps, updates, best, ..Progress::default() };
        if !watcher.epoch(&done, state)? {
            return Ok(Outcome::Finished);
        }
        if stop && epoch + 1 < settings.epochs {
            return Ok(Outcome::Stopped);
        }
    }
    Ok(Outcome::Finished)
}

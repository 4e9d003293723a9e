//! `snnc train`

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use snn_train::checkpoint::Identity;
use snn_train::update::PREFIX;
use snn_train::{DataSet, Epoch, Optimizer, Outcome, Schedule, Settings, State, TrainError, Update, Watcher, train as run_training};
use snnc::{Compiled, Error, Mode, Program, Tensor, Trainer};

use super::{Failure, NetArguments, load_program, load_wanted, warn};
use crate::command::say::remark;

#[derive(Clone, Copy, ValueEnum)]
pub enum OptimizerName {
    Adam,
    Adamw,
    Sgd,
}

impl OptimizerName {
    /// The optimiser with PyTorch's defaults, its weight decay among them.
    pub fn update(self, momentum: f32) -> Update {
        match self {
            OptimizerName::Adam => Optimizer::ADAM.into(),
            OptimizerName::Adamw => Update { weight_decay: 0.01, ..Optimizer::ADAM_W.into() },
            OptimizerName::Sgd => Optimizer::Sgd { momentum }.into(),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleName {
    Constant,
    Cosine,
    Step,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MetricName {
    /// How often the largest of the prediction is at the label.
    Accuracy,
    /// The loss net on the validation data, in evaluation.
    Loss,
}

impl MetricName {
    fn words(self) -> &'static str {
        match self {
            MetricName::Accuracy => "validation accuracy",
            MetricName::Loss => "validation loss",
        }
    }

    fn is_better(self, value: f64, best: f64) -> bool {
        match self {
            MetricName::Accuracy => value > best,
            // A loss that is not a number is worse than any.
            MetricName::Loss => value < best || best.is_nan(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kept {
    Last,
    Best,
}

/// A number for all parameters, or for those that fit a pattern.
#[derive(Clone, Debug)]
struct Rate {
    pattern: Option<String>,
    value: f64,
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    let (pattern, number) = match text.rsplit_once('=') {
        Some((pattern, number)) => (Some(pattern.trim().to_string()), number),
        None => (None, text),
    };
    match number.trim().parse::<f64>() {
        Ok(value) => Ok(Rate { pattern, value }),
        Err(_) => Err(format!("`{number}` is not a number; it is `X` for all parameters, or `PATTERN=X` for some")),
    }
}

/// The number for all, and those by pattern.
fn by_pattern(option: &str, rates: &[Rate], default: f64) -> Result<(f64, Vec<(String, f64)>), Failure> {
    if let Some(Rate { value, .. }) = rates.iter().find(|r| !r.value.is_finite() || r.value < 0.0) {
        return Err(Failure::Text(format!("`{option}` is {value}: it is at least 0")));
    }
    let common: Vec<f64> = rates.iter().filter(|r| r.pattern.is_none()).map(|r| r.value).collect();
    if let [a, b, ..] = common[..] {
        return Err(Failure::Text(format!("`{option}` is given as {a} and as {b}: `PATTERN=X` says another number for some parameters")));
    }
    let patterns = rates.iter().filter_map(|r| Some((r.pattern.clone()?, r.value))).collect();
    Ok((common.first().copied().unwrap_or(default), patterns))
}

#[derive(Args)]
pub struct TrainArguments {
    #[command(flatten)]
    net: NetArguments,
    /// How often all samples are seen.
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// How parameters follow their gradients.
    #[arg(long, value_enum, default_value_t = OptimizerName::Adam)]
    optimizer: OptimizerName,
    /// The learning rate; `--lr 'delay.*=1e-2'`, as often as needed, says another one for the parameters that fit a pattern.
    #[arg(long, value_name = "X|PATTERN=X", value_parser = parse_rate, default_value = "1e-3", action = clap::ArgAction::Append)]
    lr: Vec<Rate>,
    /// Momentum of `sgd`.
    #[arg(long, default_value_t = 0.0)]
    momentum: f32,
    /// Weight decay; 0.01 for `adamw`, else 0, where it is not given; `--weight-decay 'norm.*=0'` as with `--lr`.
    #[arg(long, value_name = "X|PATTERN=X", value_parser = parse_rate)]
    weight_decay: Vec<Rate>,
    /// Parameters that stay as they are: names, in which `*` stands for any text.
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Average the gradients of this many batches before parameters move: the step of a batch that is so many times larger.
    #[arg(long, value_name = "BATCHES", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    accumulate: u64,
    /// Train with weights as integers times powers of two, as `snnc quantise` rounds them: the net reads rounded weights, in training and in validation, and their gradients move the weights that they are rounded from.
    #[arg(long, value_name = "i8|i16")]
    quantise_aware: Option<snnc::quantise::WeightBits>,
    /// The largest norm of all gradients together.
    #[arg(long)]
    clip_norm: Option<f64>,
    /// Keep the states of neurons every K steps only and compute those between again: less memory, more time.
    #[arg(long, value_name = "K")]
    checkpoint: Option<usize>,
    /// How the learning rate changes: cosine to 0 over all epochs, or in steps.
    #[arg(long, value_enum, default_value_t = ScheduleName::Constant)]
    schedule: ScheduleName,
    /// With `--schedule step`: after how many epochs.
    #[arg(long, default_value_t = 10)]
    step_size: usize,
    /// With `--schedule step`: times what.
    #[arg(long, default_value_t = 0.1)]
    gamma: f64,
    /// Are samples shuffled in each epoch?
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    shuffle: bool,
    /// The data have time before samples, `[T, B, ...]`, as the inputs declare it.
    #[arg(long)]
    time_major: bool,
    /// Data to validate on after each epoch.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    validate: Vec<String>,
    /// Validate in the middle of an epoch too, after every so many batches.
    #[arg(long, value_name = "BATCHES", requires = "validate", default_value_t = 0)]
    validate_every: usize,
    /// What is measured on them.
    #[arg(long, value_enum, default_value_t = MetricName::Accuracy)]
    metric: MetricName,
    /// The net that predicts; its first output is [B, C] or [T, B, C], and the labels are called `label`.
    #[arg(long, default_value = "main")]
    predict: String,
    /// End after this many epochs without a better validation.
    #[arg(long, value_name = "EPOCHS", requires = "validate", value_parser = clap::value_parser!(u64).range(1..))]
    patience: Option<u64>,
    /// Which parameters `--weights-out` gets: the last, or those of the best validation.
    #[arg(long, value_enum, default_value_t = Kept::Last)]
    keep: Kept,
    /// Where the state is kept after each epoch.
    #[arg(long, value_name = "FOLDER")]
    checkpoint_dir: Option<PathBuf>,
    /// Go on from the checkpoint in `--checkpoint-dir`.
    #[arg(long, requires = "checkpoint_dir")]
    resume: bool,
    /// With `--resume`: go on although the program, learning rate, schedule or another setting has changed.
    #[arg(long, requires = "resume")]
    with_changes: bool,
    /// A file to which a line of JSON is added for each epoch.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Where the trained parameters are written.
    #[arg(long, value_name = "FILE")]
    weights_out: Option<PathBuf>,
}

pub fn train(a: &TrainArguments) -> Result<(), Failure> {
    let (program, own) = load_program(&a.net.file, &a.net.nir)?;
    warn(&program, Mode::Train);
    let (learning_rate, update) = update(a)?;
    let options = a.net.options()?.update(update.clone()).checkpoint(a.checkpoint).weights_dtype(a.quantise_aware);
    if a.net.weights_dtype.is_some() {
        return Err(Failure::Text(
            "weights that were rounded after each step would not move: `--quantise-aware i8` trains with rounded weights".into(),
        ));
    }
    if a.quantise_aware.is_some() && matches!(options.backend, snnc::Backends::Candle(..)) {
        return Err(Failure::Text(
            "`--quantise-aware` trains on the CPU: candle keeps weights on its device, where they are not rounded".into(),
        ));
    }
    let loss_net = loss_net(a, &program)
        .ok_or_else(|| Failure::Text("training needs a net called `loss` whose value is one number, or `--net`".into()))?;
    if a.weights_out.is_none() {
        return Err(Failure::Text("training needs `--weights-out FILE`: without it nothing of it is kept".into()));
    }
    let data = data_set(a, &program, &loss_net, &a.net.data, false)?.0;
    let settings = Settings {
        epochs: a.epochs,
        batch: a.net.batch.unwrap_or(64.min(data.len())),
        learning_rate,
        schedule: match a.schedule {
            ScheduleName::Constant => Schedule::Constant,
            ScheduleName::Cosine => Schedule::Cosine,
            ScheduleName::Step => Schedule::Step { every: a.step_size, gamma: a.gamma },
        },
        shuffle: a.shuffle,
        seed: a.net.seed,
        update: update.clone(),
        clock: clock(&program, &loss_net, &data)?,
        during: a.validate_every,
    };
    if a.keep == Kept::Best && a.validate.is_empty() {
        return Err(Failure::Text("`--keep best` needs `--validate FILE`, by which an epoch is the best".into()));
    }
    data.check_batch(settings.batch).map_err(Error::from)?;
    // A folder that does not exist is better found before hours of training than after.
    for path in a.weights_out.iter().chain(&a.log) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(Failure::Text(format!("cannot write `{}`: there is no folder `{}`", path.display(), folder.display())));
        }
    }
    let validation = Validation::new(a, &program, &loss_net)?;
    let mut trainer = Trainer::new(&program, &loss_net, &options)?;
    let first: Vec<usize> = (0..settings.batch).collect();
    let with_clock = |samples: &[usize], epoch| {
        let mut batch = data.batch(samples);
        batch.extend(snn_train::clock(&settings.clock, epoch, settings.epochs));
        batch
    };
    let first = with_clock(&first, 0);
    let (mut state, independent) = trainer.start(&first, &a.net.load_weights(own)?)?;
    for name in &independent {
        remark!("Warning: the loss does not depend on `{name}`, which stays as it is");
    }
    let identity = Identity {
        numbers: vec![
            ("optimizer", update.optimizer.code()),
            ("batch_size", settings.batch as i64),
            ("seed", settings.seed as i64),
            ("samples", data.len() as i64),
            ("shuffle", i64::from(settings.shuffle)),
            ("accumulate", a.accumulate as i64),
            ("quantise_aware", a.quantise_aware.map_or(0, |b| b.largest() as i64)),
        ],
        floats: vec![
            ("learning_rate", learning_rate),
            ("momentum", f64::from(a.momentum)),
            ("weight_decay", update.weight_decay),
            ("clip_norm", update.clip_norm.unwrap_or(0.0)),
        ],
        texts: vec![
            (
                "schedule",
                format!("{:?} of {}", settings.schedule, if matches!(settings.schedule, Schedule::Cosine) { a.epochs } else { 0 }),
            ),
            ("groups", format!("{:?}, {:?}, {:?}", update.learning_rates, update.weight_decays, update.frozen)),
            ("program", snn_syntax::print(&program.module().ast, program.module().sources.whole(0))),
        ],
    };
    let checkpoint = a.checkpoint_dir.as_ref().map(|d| d.join("checkpoint.safetensors"));
    if let Some(folder) = &a.checkpoint_dir {
        std::fs::create_dir_all(folder).map_err(|e| Failure::Text(format!("cannot make the folder `{}`: {e}", folder.display())))?;
    }
    // Kept until the training ends.
    let _lock = a.checkpoint_dir.as_deref().map(lock).transpose()?;
    if let Some(path) = checkpoint.as_ref().filter(|p| p.exists() && !a.resume) {
        return Err(Failure::Text(format!(
            "`{}` is there already: `--resume` goes on from it; to begin anew, remove it or name another folder",
            path.display()
        )));
    }
    if let (true, Some(path)) = (a.resume, &checkpoint) {
        let tensors = snnc::load(&path.display().to_string())?;
        let batches = data.len().div_ceil(settings.batch);
        state = State::from_tensors(tensors, &state, &identity, batches, a.with_changes).map_err(|e| match e {
            snn_train::TrainError::OtherCheckpoint { what: "training", .. } => {
                Failure::Text(format!("{e}\n  `--resume --with-changes` goes on with the new settings"))
            }
            e => Failure::Error(e.into()),
        })?;
        remark!("resumed at epoch {}, batch {}", state.progress.epoch + 1, state.progress.batch + 1);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // Where signals cannot be caught, Ctrl-C ends the process at once, and the last checkpoint is whole.
    let _ = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    let save_checkpoint = |state: &State| -> Result<(), Error> {
        match &checkpoint {
            Some(path) => Ok(snnc::save(path, &state.to_tensors(&identity))?),
            None => Ok(()),
        }
    };
    let plain = a.net.options()?.mode(Mode::Train).batch(None);
    let activity = Activity { net: program.compile(Some(&loss_net), &plain)?, samples: first };
    let mut reporter =
        Reporter { a, stop: &stop, bar: None, validation, activity, save_checkpoint: &save_checkpoint, started: Instant::now() };
    let outcome = run_training(&mut trainer, &data, &settings, &mut state, &mut reporter)?;
    match outcome {
        Outcome::Finished => {
            // The best were written when they were met.
            if let (Some(path), Kept::Last) = (&a.weights_out, a.keep) {
                snnc::save(path, &weights(&state))?;
            }
            if let Some((value, epoch)) = state.progress.best.filter(|_| a.keep == Kept::Best || a.patience.is_some()) {
                let kept = if a.keep == Kept::Best { "kept" } else { "best" };
                remark!("{kept}: epoch {epoch}, {} {value:.4}", a.metric.words());
            }
            Ok(())
        }
        Outcome::Stopped => {
            save_checkpoint(&state)?;
            let p = &state.progress;
            let how = match &a.checkpoint_dir {
                Some(_) => "the same command with `--resume` goes on from here".to_string(),
                None => "nothing was kept: use `--checkpoint-dir` to be able to resume".to_string(),
            };
            Err(Failure::Text(format!("stopped in epoch {} after batch {}; {how}", p.epoch + 1, p.batch)))
        }
        Outcome::NotFinite { step, name: Some(name), .. } => {
            let kept = checkpoint.as_ref().map_or_else(String::new, |p| format!("\n  the last whole state is in `{}`", p.display()));
            let untouched = match (state.progress.best, &a.weights_out) {
                (Some((_, epoch)), Some(path)) if a.keep == Kept::Best => format!("`{}` keeps those of epoch {epoch}", path.display()),
                _ => "nothing was written".into(),
            };
            let layer = name.trim_start_matches(PREFIX).rsplit_once('.').map_or_else(String::new, |(l, _)| format!(" of layer `{l}`"));
            Err(Failure::Text(format!(
                "`{name}`{layer} is not finite after step {step} (epoch {}, batch {}); {untouched}\n  try a smaller `--lr`, `--clip-norm 1`, or look for norms with one value per channel{kept}",
                state.progress.epoch + 1,
                state.progress.batch + 1,
            )))
        }
        Outcome::NotFinite { step, loss, name: None, samples, seed } => {
            let place = trainer.diagnose(&with_clock(&samples, state.progress.epoch), &state.tensors, seed)?;
            let place = place.map_or_else(String::new, |p| format!("\n  the first value that is not finite is {p}"));
            save_checkpoint(&state)?;
            let kept = checkpoint.as_ref().map_or_else(String::new, |p| format!("\n  the state before the step is in `{}`", p.display()));
            Err(Failure::Text(format!(
                "the loss is {loss} in step {step} (epoch {}, batch {}){place}\n  try a smaller `--lr`, `--clip-norm 1`, or look for divisions by zero and logarithms of zero{kept}",
                state.progress.epoch + 1,
                state.progress.batch + 1,
            )))
        }
    }
}

/// The net that is trained.
fn loss_net(a: &TrainArguments, program: &Program) -> Option<String> {
    a.net.net.clone().or_else(|| program.module().nets().contains(&"loss").then(|| "loss".to_string()))
}

/// The learning rate and the optimiser.
fn update(a: &TrainArguments) -> Result<(f64, Update), Failure> {
    let default = a.optimizer.update(a.momentum);
    let (learning_rate, learning_rates) = by_pattern("--lr", &a.lr, 1e-3)?;
    let (weight_decay, weight_decays) = by_pattern("--weight-decay", &a.weight_decay, default.weight_decay)?;
    if matches!(a.schedule, ScheduleName::Step) && (a.step_size == 0 || !a.gamma.is_finite() || a.gamma < 0.0) {
        return Err(Failure::Text(format!("`--step-size` is at least 1 and `--gamma` at least 0, not {} and {}", a.step_size, a.gamma)));
    }
    if !a.momentum.is_finite() || !(0.0..1.0).contains(&a.momentum) {
        return Err(Failure::Text(format!("`--momentum` is {}: it is at least 0 and below 1", a.momentum)));
    }
    if let Some(most) = a.clip_norm.filter(|x| !x.is_finite() || *x < 0.0) {
        return Err(Failure::Text(format!("`--clip-norm` is {most}: it is at least 0")));
    }
    Ok((
        learning_rate,
        Update {
            weight_decay,
            clip_norm: a.clip_norm,
            learning_rates,
            weight_decays,
            frozen: a.freeze.clone(),
            accumulate: a.accumulate as usize,
            ..default
        },
    ))
}

/// The inputs of a net that say how far the training is, and that the data do not give.
fn clock(program: &Program, net: &str, data: &DataSet) -> Result<Vec<(String, snn_ir::Type)>, Failure> {
    Ok(snn_train::clock_inputs(program.signature(net)?, |n| data.has(n)))
}

/// The trained parameters without what belongs to the optimiser.
fn weights(state: &State) -> Vec<(String, Tensor)> {
    state.tensors.iter().filter(|(n, _)| !n.starts_with(PREFIX)).cloned().collect()
}

/// A folder of checkpoints belongs to one training at a time; the lock goes with the process, however that ends.
fn lock(folder: &Path) -> Result<std::fs::File, Failure> {
    let path = folder.join("lock");
    let failed = |e: std::io::Error| Failure::Text(format!("cannot lock `{}`: {e}", path.display()));
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            snn_data::remove_unfinished(folder);
            Ok(file)
        }
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Failure::Text(format!("another training uses `{}`: wait for it, or name another `--checkpoint-dir`", folder.display())))
        }
        // A file system without locks.
        Err(std::fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// The arrays that a net asks for, cut into samples along `B` where an input declares it, else along the first dimension; and the
/// labels, where they are wanted.
fn data_set(
    a: &TrainArguments,
    program: &Program,
    net: &str,
    files: &[String],
    labels: bool,
) -> Result<(DataSet, Option<Tensor>), Failure> {
    let declared = program.signature(net)?;
    let wanted = |n: &str| declared.iter().any(|(k, _)| k == n) || labels && n == "label";
    let files = load_wanted(files, &wanted, a.net.memory())?;
    let label = files.tensors.iter().find(|(n, _)| n == "label").map(|(_, t)| t.clone());
    let is_batch = |d: &snn_ir::Dim| d.as_name() == Some("B");
    let any = declared.iter().any(|(_, t)| t.shape.iter().any(is_batch));
    let mut arrays = Vec::new();
    for (name, tensor) in files.tensors {
        let Some((_, ty)) = declared.iter().find(|(n, _)| *n == name) else { continue };
        let axis = ty.shape.iter().position(is_batch);
        match axis {
            Some(axis) => {
                if axis > 0 && !a.time_major && loss_net(a, program).as_deref() == Some(net) {
                    remark!(
                        "Warning: `{name}` is {ty}: its samples are cut along `B`, dimension {axis}; `--time-major` says that this is meant"
                    );
                }
                arrays.push((name, tensor, axis));
            }
            None if any => {
                return Err(Failure::Text(format!(
                    "the input `{name}` is {ty} and has no dimension `B`, along which others are cut into batches: declare it"
                )));
            }
            None => arrays.push((name, tensor, 0)),
        }
    }
    if arrays.is_empty() && !files.others.is_empty() {
        let names: Vec<String> = declared.iter().map(|(n, t)| format!("{n}: {t}")).collect();
        return Err(Failure::Text(format!("`{net}` takes {}, and the data hold {}", names.join(", "), files.others.join(", "))));
    }
    Ok((DataSet::along(arrays).map_err(Error::from)?, label))
}

/// What is measured after each epoch.
struct Validation {
    metric: MetricName,
    net: Compiled,
    data: DataSet,
    labels: Option<DataSet>,
    batch: usize,
    clock: Vec<(String, snn_ir::Type)>,
    epochs: usize,
}

impl Validation {
    fn new(a: &TrainArguments, program: &Program, loss_net: &str) -> Result<Option<Validation>, Failure> {
        if a.validate.is_empty() {
            return Ok(None);
        }
        let net = if a.metric == MetricName::Loss { loss_net } else { &a.predict };
        if !program.module().nets().contains(&net) {
            return Err(Failure::Text(format!("there is no net `{net}` to validate with: name one with `--predict`")));
        }
        let (data, labels) = data_set(a, program, net, &a.validate, true)?;
        let labels = match (a.metric, labels) {
            (MetricName::Accuracy, None) => return Err(Failure::Text("accuracy needs labels: an array `label` in `--validate`".into())),
            (MetricName::Accuracy, Some(l)) if l.shape().first() != Some(&data.len()) => {
                return Err(Failure::Text(format!("there are {} samples to validate on, and the labels are {:?}", data.len(), l.shape())));
            }
            (MetricName::Accuracy, Some(l)) => Some(DataSet::new(vec![("label".to_string(), l)]).map_err(Error::from)?),
            (MetricName::Loss, _) => None,
        };
        let options = a.net.options()?.mode(Mode::Eval).batch(None).weights_dtype(a.quantise_aware);
        let batch = 250.min(data.len());
        let (clock, epochs) = (clock(program, net, &data)?, a.epochs);
        Ok(Some(Validation { metric: a.metric, net: program.compile(Some(net), &options)?, data, labels, batch, clock, epochs }))
    }

    /// What is measured in an epoch, which counts from 0.
    fn measure(&self, weights: &[(String, Tensor)], epoch: usize) -> Result<f64, Error> {
        let mut sum = 0.0;
        let all: Vec<usize> = (0..self.data.len()).collect();
        let weights = self.net.own_weights(weights)?;
        for samples in all.chunks(self.batch) {
            let mut batch = self.data.batch(samples);
            batch.extend(snn_train::clock(&self.clock, epoch, self.epochs));
            let run = self.net.run(&batch, &weights)?;
            let Some((_, prediction)) = run.outputs.first() else { continue };
            sum += match (&self.labels, self.metric) {
                (Some(labels), MetricName::Accuracy) => snn_train::metrics::correct(prediction, &labels.batch(samples)[0].1)? as f64,
                _ => f64::from(prediction.to_f32()[0]) * samples.len() as f64,
            };
        }
        Ok(sum / self.data.len() as f64)
    }
}

/// Looks for layers that cannot learn, because they never fire, or always.
struct Activity {
    net: Compiled,
    samples: Vec<(String, Tensor)>,
}

impl Activity {
    /// Warns of layers whose neurons are all alike for all samples.
    fn warn(&self, weights: &[(String, Tensor)]) -> Result<(), Error> {
        let weights = self.net.own_weights(weights)?;
        for (layer, given) in self.net.activity(&self.samples, &weights)? {
            if given.shape().is_empty() || given.is_empty() || given.dtype() != snnc::DType::F32 {
                continue;
            }
            let all = |x: f32| given.as_f32().iter().all(|v| *v == x);
            if all(0.0) {
                remark!(
                    "Warning: the layer `{layer}` is silent: nothing fires for the first batch\n  try larger weights, a norm before it, or a lower threshold"
                );
            } else if all(1.0) {
                remark!(
                    "Warning: the layer `{layer}` is saturated: all neurons fire at every step of the first batch\n  try smaller weights, a norm before it, or a higher threshold"
                );
            }
        }
        Ok(())
    }
}

type Save<'a> = &'a dyn Fn(&State) -> Result<(), Error>;

/// Tells people how it goes.
struct Reporter<'a> {
    a: &'a TrainArguments,
    stop: &'a AtomicBool,
    bar: Option<ProgressBar>,
    validation: Option<Validation>,
    activity: Activity,
    save_checkpoint: Save<'a>,
    started: Instant,
}

impl Reporter<'_> {
    /// Remembers a validation that is better than all before, and its parameters where those are wanted.
    fn keep_best(&self, value: f64, epoch: usize, state: &mut State) -> Result<(), Error> {
        if state.progress.best.is_none_or(|(best, _)| self.a.metric.is_better(value, best)) {
            state.progress.best = Some((value, epoch));
            if let (Some(path), Kept::Best) = (&self.a.weights_out, self.a.keep) {
                snnc::save(path, &weights(state))?;
            }
        }
        Ok(())
    }
}

impl Watcher<Error> for Reporter<'_> {
    fn step(&mut self, epoch: usize, (done, all): (usize, usize), samples: usize, loss: f64) -> bool {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("epoch {prefix} [{bar:30}] {pos}/{len} {msg} left {eta}");
                let bar = ProgressBar::new(all as u64).with_prefix(format!("{epoch}/{}", self.a.epochs));
                self.started = Instant::now();
                match style {
                    Ok(style) => bar.with_style(style.progress_chars("=> ")),
                    Err(_) => bar,
                }
            });
            bar.set_position(done as u64);
            let rate = (bar.position() as f64 * samples as f64) / self.started.elapsed().as_secs_f64().max(1e-9);
            bar.set_message(format!("loss {loss:.4}, {rate:.0} samples/s"));
        }
        !self.stop.load(Ordering::SeqCst)
    }

    fn during(&mut self, epoch: usize, (done, all): (usize, usize), state: &mut State) -> Result<bool, Error> {
        if let Some(validation) = &self.validation {
            let value = validation.measure(&weights(state), epoch - 1)?;
            let line = format!("epoch {epoch}/{}, batch {done}/{all}: {} {value:.4}", self.a.epochs, self.a.metric.words());
            match &self.bar {
                Some(bar) => bar.suspend(|| remark!("{line}")),
                None => remark!("{line}"),
            }
            self.keep_best(value, epoch, state)?;
        }
        Ok(true)
    }

    fn epoch(&mut self, epoch: &Epoch, state: &mut State) -> Result<bool, Error> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let rate = epoch.samples as f64 / epoch.time.as_secs_f64().max(1e-9);
        let measured = self.validation.as_ref().map(|v| v.measure(&weights(state), epoch.epoch - 1)).transpose()?;
        let mut line = format!("epoch {}/{}: loss {:.4}", epoch.epoch, self.a.epochs, epoch.loss);
        for (name, value) in &epoch.metrics {
            line.push_str(&format!(", {name} {value:.4}"));
        }
        let metric = self.a.metric.words();
        if let Some(x) = measured {
            line.push_str(&format!(", {metric} {x:.4}"));
        }
        line.push_str(&format!(", {rate:.0} samples/s"));
        let rest = epoch.time.mul_f64((self.a.epochs - epoch.epoch) as f64);
        if !rest.is_zero() {
            line.push_str(&format!(", {} left", seconds(rest)));
        }
        remark!("{line}");
        if epoch.epoch == 1 || epoch.epoch == self.a.epochs {
            // A hint that cannot be given is no reason to stop.
            let _ = self.activity.warn(&weights(state));
        }
        if let Some(path) = &self.a.log {
            let metrics: serde_json::Map<String, serde_json::Value> =
                epoch.metrics.iter().map(|(n, x)| (n.clone(), serde_json::json!(x))).collect();
            let mut entry = serde_json::json!({
                "epoch": epoch.epoch, "loss": epoch.loss, "metrics": metrics, "lr": epoch.learning_rate,
                "seconds": epoch.time.as_secs_f64(), "samples_per_s": rate,
            });
            if let (Some(x), Some(map)) = (measured, entry.as_object_mut()) {
                map.insert(metric.replace(' ', "_"), serde_json::json!(x));
            }
            append(path, &entry.to_string())?;
        }
        let mut goes_on = true;
        if let Some(value) = measured {
            self.keep_best(value, epoch.epoch, state)?;
            let since = state.progress.best.map_or(0, |(_, best)| epoch.epoch.saturating_sub(best));
            if self.a.patience.is_some_and(|most| since as u64 >= most) && epoch.epoch < self.a.epochs {
                remark!("{metric} has not become better for {since} epochs: training ends");
                goes_on = false;
            }
        }
        (self.save_checkpoint)(state)?;
        Ok(goes_on)
    }
}

fn append(path: &Path, line: &str) -> Result<(), TrainError> {
    let failed = |e: std::io::Error| TrainError::Unwritable { path: path.display().to_string(), reason: e.to_string() };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    writeln!(file, "{line}").map_err(failed)
}

fn seconds(d: Duration) -> String {
    let s = d.as_secs();
    if s >= 3600 {
        format!("{} h {} min", s / 3600, s % 3600 / 60)
    } else if s >= 60 {
        format!("{} min {} s", s / 60, s % 60)
    } else {
        format!("{:.1} s", d.as_secs_f64())
    }
}

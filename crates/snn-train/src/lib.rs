//! Training: what surrounds the compiled step.
//!
//! A step is one graph: the loss, its gradients, and the optimiser's equations ([`update`]), whose results are new values of
//! parameters, buffers and the optimiser's own state. So it runs as compiled kernels like everything else, and a training
//! state is nothing but tensors by name. This crate has no backend: [`train`] is given something that runs a [`Step`].
//!
//! * [`batches`] cuts a data set, whose arrays have an axis of samples, into shuffled batches.
//! * [`schedule`] says the learning rate of each epoch.
//! * [`checkpoint`] turns the state into tensors and back. A resumed run equals an uninterrupted one bit for bit, because the
//!   order of samples and all random numbers depend on the seed and the number of the step only.

pub mod batches;
pub mod checkpoint;
pub mod diagnose;
pub mod metrics;
pub mod schedule;
pub mod update;

mod run;

pub use batches::DataSet;
pub use checkpoint::{Progress, State};
pub use run::{Epoch, Outcome, Settings, Step, StepResult, Watcher, clock, clock_inputs, not_finite, train};
pub use schedule::Schedule;
pub use update::{Optimizer, Part, Update};

/// What can go wrong in training that is not the program's fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TrainError {
    #[error("the data set has no samples: `{0}` is empty")]
    Empty(String),
    #[error("there are no data: give `--data`")]
    NoData,
    #[error("the arrays of the data set differ in length: {0}")]
    Lengths(String),
    #[error("`{0}` has no dimension of samples: that is `B` where an input declares it, else the first")]
    NoSamples(String),
    #[error("a batch of {batch} is larger than the data set of {samples} samples: use `--batch {samples}` or less")]
    BatchTooLarge { batch: usize, samples: usize },
    #[error("the batch size is at least 1")]
    BatchOfNothing,
    #[error("the checkpoint is of another {what}: {detail}")]
    OtherCheckpoint { what: &'static str, detail: String },
    #[error("the checkpoint is damaged: {0}")]
    DamagedCheckpoint(String),
    #[error("no parameter fits the pattern `{pattern}`; there are {names}")]
    NoSuchParameter { pattern: String, names: String },
    #[error("every parameter is frozen: nothing is left to learn")]
    AllFrozen,
    #[error("the checkpoint lacks `{0}`")]
    IncompleteCheckpoint(String),
    #[error("accuracy is of a prediction [B, C] or [T, B, C], and this one is {0:?}")]
    PredictionShape(Vec<usize>),
    #[error("there are {predictions} predictions, and the labels are {labels:?}")]
    LabelShape { predictions: usize, labels: Vec<usize> },
    #[error("cannot write `{path}`: {reason}")]
    Unwritable { path: String, reason: String },
}

//! Everything that can go wrong, for people.

use snn_ir::{CompileError, RuntimeError};
use snn_syntax::{Diagnostic, Sources};

/// An error of the user's, or of the machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is wrong.
    #[error("{}", sources.render(diagnostics, false).trim_end())]
    Source {
        /// The texts, to print the diagnostics with source lines.
        sources: Box<Sources>,
        /// What is wrong.
        diagnostics: Vec<Diagnostic>,
    },
    /// Data do not fit the program.
    #[error("{0}")]
    Data(String),
    /// A file is wrong.
    #[error(transparent)]
    File(#[from] snn_data::FileError),
    /// The program cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The net cannot be differentiated as asked.
    #[error(transparent)]
    Gradient(#[from] snn_autodiff::GradientError),
    /// Training cannot go on.
    #[error(transparent)]
    Train(#[from] snn_train::TrainError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] snn_candle::DeviceError),
    /// A pass of the compiler fails, for another reason than the program.
    #[error(transparent)]
    Pass(snn_compile::Error),
    /// The program fails while it runs.
    #[error(transparent)]
    Run(#[from] RuntimeError),
    /// The program does not fit the memory.
    #[error("the run needs {} and may use {}; use a smaller batch (`--batch N`) or raise `--memory-limit`", bytes(*needed), bytes(*limit))]
    Memory {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that it may use.
        limit: u64,
    },
}

impl From<snn_compile::Error> for Error {
    /// What is wrong with the source needs its text: [`crate::Program::failed`].
    fn from(error: snn_compile::Error) -> Error {
        match error {
            snn_compile::Error::Compile(e) => e.into(),
            snn_compile::Error::Gradient(e) => e.into(),
            snn_compile::Error::Train(e) => e.into(),
            snn_compile::Error::Size(_) => Error::Data(error.to_string()),
            snn_compile::Error::Source(_) | snn_compile::Error::Optimiser(_) | snn_compile::Error::Verify { .. } => Error::Pass(error),
        }
    }
}

/// Bytes as people read them.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut x = n as f64;
    let mut unit = 0;
    while x >= 1024.0 && unit + 1 < units.len() {
        x /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} bytes") } else { format!("{x:.1} {}", units[unit]) }
}

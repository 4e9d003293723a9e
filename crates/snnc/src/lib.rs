//! The front door of snnc: a program is parsed, checked, compiled and run.
//!
//! ```
//! use snnc::{CompileOptions, Program, Tensor, Tensors};
//! let text = "net main(x: f32[T, N]) -> f32[T, N] { x |> lif() |> delay(1) }";
//! let program = Program::parse("example.snn", text)?;
//! let net = program.compile(None, &CompileOptions::default())?;
//! let data = Tensors::from([("x", Tensor::f32([3, 1], vec![2.5, 0.0, 2.5]))]);
//! let run = net.run(&data, &Tensors::new())?;
//! assert_eq!(run.outputs.get("out"), Some(&Tensor::f32([3, 1], vec![0.0, 1.0, 0.0])));
//! # Ok::<(), snnc::Error>(())
//! ```
//!
//! `docs/rust.md` has gradients, steps, stages, errors and back ends of your own.

mod bind;
mod build;
mod compiled;
mod cost;
pub mod error;
mod observe;
pub mod quantise;
pub mod session;
pub mod stages;
mod stepper;
mod tensors;
mod trainer;
mod weights;

use std::sync::Arc;

pub use snn_candle::{DeviceError, DeviceName, Precision, devices};
pub use snn_cpu::{ProductKernel, Products, has_bf16};

pub use build::CBuild;
pub use compiled::{Backends, CompileOptions, Compiled, OtherBackend, Prepared, Quantised, Run, Tape};
pub use cost::{Cost, LayerCost, NeuronCost, PICOJOULES};
pub use error::Error;
pub use observe::Printer;
pub use snn_compile::{COTANGENT, FixedPoint, Gradients, Optimise, Options as PassOptions, PASSES, Pass, gradients};
pub use snn_data::{load, save};
pub use snn_front::{Mode, Options, Setting, Settings};
pub use snn_ir::{DType, Dims, Graph, Tensor};
pub use snn_object::{Resident, Slice, SliceMut};
pub use snn_syntax::{Diagnostic, Severity, Sources};
pub use stepper::{State, Stepper};
pub use tensors::Tensors;
pub use trainer::Trainer;

/// A parsed program.
#[derive(Clone, Debug)]
pub struct Program {
    module: Arc<snn_front::Module>,
}

impl Program {
    /// Parses a program; `name` is what messages call its file.
    ///
    /// # Errors
    /// Syntax errors.
    pub fn parse(name: &str, text: &str) -> Result<Program, Error> {
        match snn_front::Module::parse(name, text) {
            Ok(module) => Ok(Program { module: Arc::new(module) }),
            Err((sources, diagnostics)) => Err(Error::Source { sources: Box::new(sources), diagnostics }),
        }
    }

    /// The parsed file.
    pub fn module(&self) -> &snn_front::Module {
        &self.module
    }

    /// Everything that is wrong or suspicious, with symbolic dimensions.
    pub fn check(&self, mode: Mode) -> Vec<Diagnostic> {
        self.module.check(mode)
    }

    /// The diagnostics as text with source lines.
    pub fn render(&self, diagnostics: &[Diagnostic], colour: bool) -> String {
        self.module.sources.render(diagnostics, colour)
    }

    /// The graph of a net.
    ///
    /// # Errors
    /// What is wrong with its source.
    pub fn lower(&self, net: Option<&str>, options: &Options) -> Result<Graph, Error> {
        let net = self.net_name(net)?;
        self.module.lower(&net, options).map(|l| l.graph).map_err(|d| self.error(d))
    }

    /// Prepares a net to run. Code is generated at the first run with each set of dimensions, and kept.
    ///
    /// # Errors
    /// What is wrong with its source.
    pub fn compile(&self, net: Option<&str>, options: &CompileOptions) -> Result<Compiled, Error> {
        let net = self.net_name(net)?;
        Compiled::new(self.clone(), net, options.clone())
    }

    /// The names of the inputs of a net.
    ///
    /// # Errors
    /// What is wrong with its source.
    pub fn inputs(&self, net: &str) -> Result<Vec<String>, Error> {
        let net = self.net_name(Some(net))?;
        let options = Options::default();
        self.module.signature(&net, &options).map(|s| s.into_iter().map(|(n, _)| n).collect()).map_err(|d| self.error(d))
    }

    /// The inputs of a net with their declared types.
    ///
    /// # Errors
    /// What is wrong with its source.
    pub fn signature(&self, net: &str) -> Result<Vec<(String, snn_ir::Type)>, Error> {
        let net = self.net_name(Some(net))?;
        let options = Options::default();
        self.module.signature(&net, &options).map_err(|d| self.error(d))
    }

    /// The net of a name, or the one that is meant where none is given.
    pub(crate) fn net_name(&self, net: Option<&str>) -> Result<String, Error> {
        self.module.default_net(net).map_err(|d| self.error(vec![d]))
    }

    /// A net as the passes take it.
    pub(crate) fn input<'a>(&'a self, net: &'a str) -> snn_compile::Input<'a> {
        snn_compile::Input::Net { module: &self.module, net }
    }

    /// Why a pass failed, with the text of the source where that is wrong.
    pub(crate) fn failed(&self, error: snn_compile::Error) -> Error {
        match error {
            snn_compile::Error::Source(diagnostics) => self.error(diagnostics),
            other => other.into(),
        }
    }

    pub(crate) fn error(&self, diagnostics: Vec<Diagnostic>) -> Error {
        Error::Source { sources: Box::new(self.module.sources.clone()), diagnostics }
    }
}

/// The chapter "From Rust" of the book, whose code is run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rust.md")]
pub struct Chapter;

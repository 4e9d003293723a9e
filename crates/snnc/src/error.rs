//! Everything that can go wrong, for people.

use snn_data::FitError;
use snn_ir::{CompileError, DType, Dim, DimError, Graph, RuntimeError, Type};
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
    /// Data do not fit the net.
    #[error(transparent)]
    Input(Box<InputError>),
    /// Parameters do not fit the net.
    #[error(transparent)]
    Weights(Box<WeightsError>),
    /// A net cannot be run step by step, or a state is not its own.
    #[error(transparent)]
    Step(Box<StepError>),
    /// An entry of a session, or what is asked of it.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Something is called by a name that nothing has.
    #[error("{what} `{name}`: {} are", listed(known))]
    Unknown {
        /// What there is none of: `there is no stage`.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<&'static str>,
    },
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
    /// The processor cannot multiply numbers of 16 bits.
    #[error(
        "this processor has no products of bf16 (AVX512_BF16): compile without `bf16`, or for candle (`--backend candle --dtype bf16`), which is slower here"
    )]
    NoBf16,
    /// A pass of the compiler fails, for another reason than the program.
    #[error(transparent)]
    Pass(snn_compile::Error),
    /// Machine code is asked for a net without sizes.
    #[error("{0}; machine code is made for known sizes: give `--dims T=16,B=64`")]
    MachineCode(DimError),
    /// No object file can be made.
    #[error(transparent)]
    Object(#[from] snn_object::ObjectError),
    /// The net cannot be written as NIR.
    #[error(transparent)]
    Nir(snn_nir::NirError),
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

/// Data do not fit a net.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InputError {
    /// Another number of dimensions.
    #[error("the input `{name}` is {found}, with {} dimensions, and the program declares {declared}, with {}", found.rank(), declared.rank())]
    Rank {
        /// The input.
        name: String,
        /// What is given.
        found: Type,
        /// What the program says.
        declared: Type,
    },
    /// Elements that the declared type does not have.
    #[error("the input `{name}` is {found}, and the program declares {declared}: {reason}")]
    Elements {
        /// The input.
        name: String,
        /// What is given.
        found: Type,
        /// What the program says.
        declared: Type,
        /// The element.
        reason: FitError,
    },
    /// A dimension that has two sizes.
    #[error("the dimension `{dimension}` is {known} in {first} and {size} in dimension {axis} of `{name}` ({found})")]
    Sizes {
        /// The dimension.
        dimension: String,
        /// Its size, and who gave it.
        known: i64,
        /// Who gave it: an input with its type, or `--dims`.
        first: String,
        /// The other size.
        size: i64,
        /// The axis that has it.
        axis: usize,
        /// The input that has it.
        name: String,
        /// Its type.
        found: Type,
    },
    /// An axis of another size than declared.
    #[error("dimension {axis} of the input `{name}` is {size}, and the program declares {wanted} ({declared})")]
    Size {
        /// The axis.
        axis: usize,
        /// The input.
        name: String,
        /// Its size.
        size: i64,
        /// What is declared, with its value where that is computed: `2 * N = 6`.
        wanted: String,
        /// The declared type.
        declared: Type,
    },
    /// Inputs that are not given.
    #[error("`{net}` needs the input `{}`\n  it takes: {}\n  the data hold: {}", missing.join("`, `"), takes.join(", "), list(held, "nothing"))]
    Missing {
        /// The net.
        net: String,
        /// The inputs that it lacks.
        missing: Vec<String>,
        /// All of its inputs with their types.
        takes: Vec<String>,
        /// The names that the data have.
        held: Vec<String>,
    },
    /// A dimension without a size.
    #[error("{reason}; give an input that has it, or `--dims`{}", not_given(missing, held))]
    UnknownSize {
        /// Which.
        reason: DimError,
        /// Inputs with their types that are not given.
        missing: Vec<String>,
        /// The names that the data have.
        held: Vec<String>,
    },
    /// A dimension without a size, where all must be known.
    #[error("the size of the dimension `{0}` is not known; give it with `--dims {0}=...`")]
    OpenDimension(String),
    /// An output that cannot be computed in pieces of the samples.
    #[error("`--batch` runs the dimension `B` in pieces, and the output `{output}` of `{net}` has none: {ty}")]
    Unbatched {
        /// The output.
        output: String,
        /// The net.
        net: String,
        /// Its type.
        ty: Type,
    },
    /// Gradients are not computed in pieces of the samples.
    #[error("gradients are not computed in pieces")]
    GradientsInPieces,
}

impl InputError {
    /// An error where a size is not known but of the dimension `open`.
    pub(crate) fn check_sizes(graph: &Graph, open: Option<&str>) -> Result<(), Error> {
        let names = graph.nodes().flat_map(|(_, n)| &n.types).flat_map(|t| &t.shape).flat_map(Dim::names);
        match names.into_iter().find(|n| Some(*n) != open) {
            Some(name) => Err(InputError::OpenDimension(name.to_string()).into()),
            None => Ok(()),
        }
    }

    pub(crate) fn unknown_size(reason: DimError) -> InputError {
        InputError::UnknownSize { reason, missing: vec![], held: vec![] }
    }
}

/// Names as in a sentence: `a, b and c`.
fn listed(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// Names, or what stands for none of them.
fn list(names: &[String], none: &str) -> String {
    if names.is_empty() { none.to_string() } else { names.join(", ") }
}

fn not_given(missing: &[String], held: &[String]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    format!("\n  not given: {}\n  the data hold: {}", missing.join(", "), list(held, "nothing"))
}

/// Parameters do not fit a net.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WeightsError {
    /// Wrong types or shapes, all of them.
    #[error("the weights do not fit the net:{}", wrong.iter().map(|w| format!("\n  {w}")).collect::<String>())]
    Types {
        /// Each parameter with what it is and what the net wants.
        wrong: Vec<MisfitWeight>,
    },
    /// The type of a parameter is not known.
    #[error("the parameter `{name}`: {reason}")]
    UnknownSize {
        /// The parameter.
        name: String,
        /// Which size.
        reason: DimError,
    },
    /// Names that the net does not have.
    #[error("the weights are not those of this net\n  in the file and not in the net: {}\n  in the net and not in the file: {}", unknown.join(", "), list(missing, "none"))]
    Unknown {
        /// Names of the file only.
        unknown: Vec<String>,
        /// Names of the net only.
        missing: Vec<String>,
    },
    /// Parameters that nobody gives.
    #[error("the weights lack {} of the net's {all} parameters: {}\n  `--partial` draws them as without weights", missing.len(), missing.join(", "))]
    Missing {
        /// Their names.
        missing: Vec<String>,
        /// How many the net has.
        all: usize,
    },
    /// A setting of a layer that was saved with another value than the program's.
    #[error(
        "the weights have {saved} as `{name}`, and the program has {setting} = {value} there: write it in the program, or `--ignore {name}`"
    )]
    Setting {
        /// Its name in the file.
        name: String,
        /// Its value there.
        saved: f32,
        /// Its name in the program.
        setting: String,
        /// Its value there.
        value: f64,
    },
}

/// A parameter of another type or shape.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{name}` is {found}, and the net wants {wanted}{}", reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
pub struct MisfitWeight {
    /// The parameter.
    pub name: String,
    /// What is given.
    pub found: Type,
    /// What the net wants.
    pub wanted: Type,
    /// The element that the type does not have, where the shape fits.
    pub reason: Option<FitError>,
}

/// A net cannot be run step by step, or a state or a step is not its own.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StepError {
    /// No input has the dimension of time.
    #[error("`{net}` has no input over time: steps go along the dimension `T`, and its inputs are {}", inputs.join(", "))]
    NoTime {
        /// The net.
        net: String,
        /// Its inputs with their types.
        inputs: Vec<String>,
    },
    /// An input that is the same at all steps is not given.
    #[error("`{net}` needs the input `{name}: {ty}`, which is the same at all steps, before the first")]
    Constant {
        /// The net.
        net: String,
        /// The input.
        name: String,
        /// Its type.
        ty: Type,
    },
    /// A saved state without the number of steps behind it.
    #[error("the state does not say how many `steps` it has behind it")]
    NoCount,
    /// A saved state lacks a state of the net.
    #[error("the state lacks `state.{name}`, a state of `{net}`")]
    MissingState {
        /// The state.
        name: String,
        /// The net.
        net: String,
    },
    /// A state of another type.
    #[error("`state.{name}` is {}{:?}, and that of `{net}` is {}{:?}", found.0, found.1, wanted.0, wanted.1)]
    StateType {
        /// The state.
        name: String,
        /// The net.
        net: String,
        /// What is given.
        found: (DType, Vec<usize>),
        /// What the net has.
        wanted: (DType, Vec<usize>),
    },
    /// An input of a step is not given.
    #[error("the step lacks the input `{name}: {ty}`")]
    MissingInput {
        /// The input.
        name: String,
        /// Its type in a step.
        ty: Type,
    },
    /// An input of a step of another type.
    #[error("the input `{name}` of a step is {wanted}, not {}{:?}", found.0, found.1)]
    InputType {
        /// The input.
        name: String,
        /// Its type in a step.
        wanted: Type,
        /// What is given.
        found: (DType, Vec<usize>),
    },
    /// A sequence is not given.
    #[error("`{net}` needs the input `{name}`")]
    MissingSequence {
        /// The net.
        net: String,
        /// The input.
        name: String,
    },
    /// Sequences of different lengths.
    #[error("the input `{name}` has {steps} steps, and another one {other}")]
    Lengths {
        /// The input.
        name: String,
        /// Its steps.
        steps: usize,
        /// Those of the inputs before it.
        other: usize,
    },
}

/// An entry of a session cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A name for several values.
    #[error("`{name}` would be {count} values: write `let (a, b) = ...`")]
    Several {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// A program cannot be read.
    #[error("cannot read `{path}`: {reason}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        reason: std::io::Error,
    },
    /// Nothing that could be trained.
    #[error("there is nothing to train: no layer of the session has parameters that the expression uses")]
    NothingToTrain,
    /// The loss is NaN or infinite.
    #[error("the loss is {loss} in step {step}; nothing has changed")]
    Diverged {
        /// What it is.
        loss: f32,
        /// When.
        step: usize,
    },
    /// A defect of snnc.
    #[error("this is a defect of snnc; the session is as before")]
    Defect,
}

impl From<InputError> for Error {
    fn from(error: InputError) -> Error {
        Error::Input(Box::new(error))
    }
}

impl From<WeightsError> for Error {
    fn from(error: WeightsError) -> Error {
        Error::Weights(Box::new(error))
    }
}

impl From<StepError> for Error {
    fn from(error: StepError) -> Error {
        Error::Step(Box::new(error))
    }
}

impl From<snn_compile::Error> for Error {
    /// What is wrong with the source needs its text: [`crate::Program::failed`].
    fn from(error: snn_compile::Error) -> Error {
        match error {
            snn_compile::Error::Compile(e) => e.into(),
            snn_compile::Error::Gradient(e) => e.into(),
            snn_compile::Error::Train(e) => e.into(),
            snn_compile::Error::Size(reason) => InputError::unknown_size(reason).into(),
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

//! Object files of snnc.
//!
//! [`compile`] takes a net as [`snn_c`] writes it and compiles that text with Cranelift: the part of C99 that is written there, which `grammar/c.pest`
//! describes. So an object file computes what the C file computes, and a new operation needs no second code generator. What C leaves to compilers is
//! fixed here: integers wrap, conversions of floats saturate, products and sums are never contracted.

mod generate;
mod parse;
mod resident;
mod vectors;

use cranelift_codegen::isa::{LookupError, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable, Flags};
use cranelift_module::default_libcall_names;
use cranelift_object::{ObjectBuilder, ObjectModule};
use snn_c::Source;

pub use resident::{Resident, Slice, SliceMut};

/// Why there is no object file.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// A machine that code cannot be made for.
    #[error("no object file can be made for `{triple}`: {why}")]
    Triple {
        /// As it was given.
        triple: String,
        /// Why, and what there is.
        why: String,
    },
    /// A net that is not run step by step.
    #[error("the net has no function for single steps")]
    NoStep,
    /// What a step is given does not fit.
    #[error("{what} `{name}` is {wanted}, and {found} elements are given")]
    Argument {
        /// Input or output.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wanted.
        wanted: String,
        /// What is given: how many, and of which type.
        found: String,
    },
    /// Another number of inputs or outputs.
    #[error("a step has {wanted} {what}, and {found} are given")]
    Count {
        /// Inputs or outputs.
        what: &'static str,
        /// How many it has.
        wanted: usize,
        /// How many are given.
        found: usize,
    },
    /// A state of another net.
    #[error("a state of this net has {wanted} bytes, and {found} are given")]
    State {
        /// Bytes of a state.
        wanted: usize,
        /// Bytes that are given.
        found: usize,
    },
    /// The text that was written is not what is compiled here.
    #[error("a generated file does not compile; this is a defect of snnc: {0}")]
    Generated(String),
}

/// An object file of a net for a machine, as `x86_64-unknown-linux-gnu` or `aarch64-apple-darwin`; for this one where it is not given.
///
/// Code is for every processor of the machine's kind: what it calls is in the C library and its `libm`.
///
/// # Errors
/// Machines that Cranelift has no code for, or whose pointers have 32 bits.
pub fn compile(source: &Source, triple: Option<&str>) -> Result<Vec<u8>, ObjectError> {
    let isa = machine(triple)?;
    let defect = |e: &dyn std::fmt::Display| ObjectError::Generated(e.to_string());
    let unit = parse::parse(&source.code).map_err(ObjectError::Generated)?;
    let builder = ObjectBuilder::new(isa, "net", default_libcall_names()).map_err(|e| defect(&e))?;
    let module = generate::define(ObjectModule::new(builder), source, &unit).map_err(ObjectError::Generated)?.into_module();
    module.finish().emit().map_err(|e| defect(&e))
}

fn machine(triple: Option<&str>) -> Result<OwnedTargetIsa, ObjectError> {
    let host = target_lexicon::Triple::host();
    let refuse = |why: String| ObjectError::Triple { triple: triple.map_or_else(|| host.to_string(), str::to_string), why };
    let parsed = match triple {
        Some(text) => text.parse().map_err(|e| refuse(format!("{e}")))?,
        None => host.clone(),
    };
    let other = "there are x86_64 and aarch64; for others, `--target c` and their C compiler";
    let builder = cranelift_codegen::isa::lookup(parsed).map_err(|e| match e {
        LookupError::SupportDisabled | LookupError::Unsupported => refuse(other.into()),
    })?;
    builder.finish(flags("true")?).map_err(|e| refuse(e.to_string()))
}

fn flags(is_pic: &str) -> Result<Flags, ObjectError> {
    let mut flags = settings::builder();
    let verifier = if cfg!(debug_assertions) { "true" } else { "false" };
    for (name, value) in [("opt_level", "speed"), ("enable_verifier", verifier), ("is_pic", is_pic)] {
        flags.set(name, value).map_err(|e| ObjectError::Generated(e.to_string()))?;
    }
    Ok(Flags::new(flags))
}

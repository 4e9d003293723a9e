//! C of snnc.
//!
//! [`write`] makes one C99 file and its header of a net: no allocation, nothing but `math.h`, weights as constants, the state in a structure. It follows
//! the planner of the CPU backend: fused step kernels are text through [`snn_ir::math::Lanes`] ([`kernels`]), all else is loops in the order in which the
//! interpreter adds, so that results are the interpreter's to the bit. A product skips the zeros of its left operand where its weights are finite.

pub mod kernels;
mod memory;
mod operations;
mod program;

pub use program::{Argument, Arguments, Array, Request, Row, Source, Step, write};

/// What cannot be C.
#[derive(Debug, thiserror::Error)]
pub enum CError {
    /// An operation.
    #[error("`{what}` cannot be written in C: {why}")]
    Operation {
        /// The operation, in the user's words.
        what: String,
        /// Where it was written.
        span: Option<snn_ir::SourceSpan>,
        /// Why.
        why: String,
    },
    /// The graph cannot be planned.
    #[error(transparent)]
    Compile(#[from] snn_ir::CompileError),
    /// Something that is computed when the file is made fails.
    #[error(transparent)]
    Run(#[from] snn_ir::RuntimeError),
}

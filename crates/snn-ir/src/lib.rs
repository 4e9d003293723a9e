//! The intermediate representation of snnc.
//!
//! # What a graph is
//!
//! A [`Graph`] is a list of [`Node`]s in SSA form. A node applies an [`Op`] to [`Value`]s that come before it and has one
//! result or, for [`Op::Scan`] and [`Op::Loop`], several. A value has a [`Type`]: an element type and a shape of symbolic
//! [`Dim`]ensions, which [`Graph::bind`] replaces by numbers before a program is compiled or interpreted.
//!
//! # The rules
//!
//! * Operands come before their users. There are no cycles: a recurrent connection is a [`Loop`].
//! * Types are exactly those that [`infer`] gives; nothing broadcasts or converts implicitly: [`Op::Broadcast`] and [`Op::Cast`] do.
//! * Time is axis 0 wherever an operation knows time ([`Op::Delay`], [`Op::Scan`], [`Op::Loop`]).
//! * A neuron is a [`Scan`]: a *step function*, which is itself a graph of scalars, run along time for each element. A
//!   spike's derivative is a scalar graph too. Every backend, the differentiation and the printers share this one form.
//! * Spikes are `f32` with values 0 and 1; that a value is binary is a fact to derive, not a type.
//! * Operations are total on well-typed operands, except that labels and indices can be out of range: a [`RuntimeError`].
//! * [`verify()`] checks all of this, after every pass in debug builds and tests.
//!
//! The [`interpreter`](interpret) is the meaning of every operation. [`text`] prints a graph and reads it back.

// A new operation must be looked at wherever operations are matched.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod axes;
pub mod backend;
pub mod binary;
pub mod build;
pub mod describe;
pub mod dim;
pub mod dot;
pub mod expand;
pub mod graph;
mod hoist;
pub mod infer;
pub mod interpret;
pub mod interrupt;
pub mod lanes;
mod last;
pub mod math;
pub mod op;
pub mod pattern;
pub mod phases;
mod prune;
pub mod random;
pub mod recurrence;
pub mod step;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use backend::{Backend, CompileError, DeviceState, Executable, Interpreter, KernelTime};
pub use build::Build;
pub use describe::Class;
pub use dim::{Dim, DimError, Dims};
pub use graph::{Graph, Node, NodeId, ParameterInfo, SourceSpan, Value};
pub use infer::{TypeError, infer};
pub use interpret::{Results, RuntimeError, interpret};
pub use op::{
    BinaryOp, Contraction, ConvGradient, Convolution, Distribution, Loop, MaxPool, Op, PoolAxis, Reduction, Roles, Scan, UnaryOp,
};
pub use tensor::{Data, Tensor};
pub use types::{DType, Type};
pub use verify::{VerifyError, VerifyErrors, verify};

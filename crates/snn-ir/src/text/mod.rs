//! The text form of a graph: printed by `Display`, read back by [`parse`]. `docs/ir.md` is its reference.
//!
//! ```text
//! graph main {
//!   %0 = input x : f32[T, B, 4]
//!   %1 = const 0.0
//!   %2 = broadcast_to %1 : f32[B, 4]
//!   %3, %4 = scan lif over (%0) carries (%2) : f32[T, B, 4], f32[B, 4] as hidden {
//!     %0 = input x : f32[]
//!     ...
//!     return out = %10
//!     return v = %16
//!   }
//!   return out = %3
//! }
//! ```
//!
//! Both directions read the names and attributes of [`crate::describe`]. Source positions are not printed.

mod parse;
mod print;

use crate::op::Op;

pub use parse::{ParseError, parse, place};
pub use print::attributes;

/// What a message calls an operation: its name, or that of a neuron's step function.
pub fn op_name(op: &Op) -> String {
    if let Op::Scan(s) = op { s.body.name.clone() } else { op.name().to_string() }
}

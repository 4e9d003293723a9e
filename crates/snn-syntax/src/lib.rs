//! The grammar of snnc's language: text to syntax tree with positions, diagnostics, and the formatter.
//!
//! [`parse()`] reads a file, [`print()`](print()) writes it in its canonical layout, [`Diagnostic`] is what every stage of the
//! compiler reports to a person. Nothing here knows what a program means.

pub mod ast;
pub mod diagnostic;
mod dump;
mod layout;
mod mistakes;
pub mod parse;
pub mod print;
mod typed;

pub use ast::{Ast, Span};
pub use diagnostic::{Diagnostic, Severity, Sources, nearest};
pub use dump::dump;
pub use mistakes::foreign_name;
pub use parse::{parse, parse_all, parse_expression};
pub use print::print;
pub use typed::{KEYWORDS, arguments, declarations, head, is_keyword, last_word};

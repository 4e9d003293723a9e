//! The `snnc` command: a thin user of the library.

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::main()
}

//! The `snnc` command: a thin user of the library.

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::main()
}

/// Training makes and drops the same tensors at every step; this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

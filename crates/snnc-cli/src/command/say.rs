//! What the command says: on standard output what was asked for, on standard error what else there is to know.
//!
//! A reader that goes away (`| head`) is no reason to stop: a training goes on. What is lost otherwise (a full disk) makes
//! the command fail at its end.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static LOST: AtomicBool = AtomicBool::new(false);

/// Writes to standard output.
pub fn output(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush())
        && e.kind() != ErrorKind::BrokenPipe
    {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Writes to standard error, where that can be.
pub fn aside(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Was something asked for that could not be written?
pub fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// A line on standard output.
macro_rules! say {
    ($($t:tt)*) => { $crate::command::say::output(&(format!($($t)*) + "\n")) };
}

/// A part of a line on standard output.
macro_rules! say_part {
    ($($t:tt)*) => { $crate::command::say::output(&format!($($t)*)) };
}

/// A line on standard error.
macro_rules! remark {
    ($($t:tt)*) => { $crate::command::say::aside(&(format!($($t)*) + "\n")) };
}

/// A part of a line on standard error.
macro_rules! remark_part {
    ($($t:tt)*) => { $crate::command::say::aside(&format!($($t)*)) };
}

pub(crate) use {remark, remark_part, say, say_part};

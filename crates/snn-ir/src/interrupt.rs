//! Stopping what runs: a person's Ctrl-C, between kernels and time steps.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::RuntimeError;

static WANTED: AtomicBool = AtomicBool::new(false);

/// Asks every run of this process to stop soon, with [`RuntimeError::Interrupted`].
pub fn request() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Lets runs go on again.
pub fn clear() {
    WANTED.store(false, Ordering::Relaxed);
}

/// Is a stop asked for?
pub fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// An error if a stop is asked for.
///
/// # Errors
/// [`RuntimeError::Interrupted`].
pub fn check() -> Result<(), RuntimeError> {
    if is_wanted() { Err(RuntimeError::Interrupted) } else { Ok(()) }
}

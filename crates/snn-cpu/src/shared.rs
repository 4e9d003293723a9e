//! A pointer that the threads of one kernel share.
#![allow(unsafe_code)]

/// A pointer into memory of which each thread reads what all may and writes only elements of its own: tiles, panels or rows.
#[derive(Clone, Copy)]
pub struct Shared<T>(pub *mut T);

// SAFETY: kernels give each task different elements to write; whoever reads or writes through it says why that holds there.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The pointer. A task that calls this takes the whole value with it, and not the bare pointer.
    pub fn get(self) -> *mut T {
        self.0
    }
}

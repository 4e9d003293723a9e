//! What the threads of one kernel share: a pointer, and how many they are.
#![allow(unsafe_code)]

use std::cell::Cell;

thread_local! {
    /// Does this thread do a part of something by itself?
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// How many threads a kernel may divide its work among.
pub fn threads() -> usize {
    if ALONE.get() { 1 } else { rayon::current_num_threads() }
}

/// Does something whose kernels do not divide their work, because other threads do other parts of the same.
pub fn alone<R>(work: impl FnOnce() -> R) -> R {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _before = Before(ALONE.replace(true));
    work()
}

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

/// How far the element of number `i` is from the first, for axes with sizes and distances.
#[inline(always)]
pub fn offset(axes: impl DoubleEndedIterator<Item = (usize, usize)>, mut i: usize) -> usize {
    let mut at = 0;
    for (size, distance) in axes.rev() {
        at += i % size * distance;
        i /= size;
    }
    at
}

//! Buffers of a net in one array for each type of elements, shared by values that do not live at the same time.

use snn_ir::DType;

/// An array with its free intervals.
#[derive(Clone, Debug, Default)]
struct Arena {
    /// Start and length, ascending.
    free: Vec<(usize, usize)>,
    size: usize,
}

/// All arrays.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    arenas: [Arena; 3],
}

fn arena(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 0,
        DType::I64 => 1,
        DType::Bool | DType::U8 => 2,
    }
}

/// The arrays' names.
pub const NAMES: [&str; 3] = ["work_f", "work_i", "work_b"];

impl Memory {
    /// The first place that is long enough.
    pub fn allocate(&mut self, dtype: DType, n: usize) -> usize {
        let a = &mut self.arenas[arena(dtype)];
        if let Some(i) = a.free.iter().position(|(_, length)| *length >= n) {
            let (start, length) = a.free[i];
            if length == n {
                a.free.remove(i);
            } else {
                a.free[i] = (start + n, length - n);
            }
            return start;
        }
        // What is free at the end grows.
        let start = match a.free.last() {
            Some((start, length)) if start + length == a.size => {
                let start = *start;
                a.free.pop();
                start
            }
            _ => a.size,
        };
        a.size = start + n;
        start
    }

    /// Gives a place back.
    pub fn release(&mut self, dtype: DType, start: usize, n: usize) {
        let free = &mut self.arenas[arena(dtype)].free;
        let at = free.partition_point(|(s, _)| *s < start);
        free.insert(at, (start, n));
        if at + 1 < free.len() && free[at].0 + free[at].1 == free[at + 1].0 {
            free[at].1 += free.remove(at + 1).1;
        }
        if at > 0 && free[at - 1].0 + free[at - 1].1 == free[at].0 {
            free[at - 1].1 += free.remove(at).1;
        }
    }

    /// The name of the array of a type.
    pub fn name(dtype: DType) -> &'static str {
        NAMES[arena(dtype)]
    }

    /// Name, type and length of each array that is used.
    pub fn arrays(&self) -> Vec<(&'static str, DType, usize)> {
        [DType::F32, DType::I64, DType::U8]
            .into_iter()
            .map(|t| (Memory::name(t), t, self.arenas[arena(t)].size))
            .filter(|a| a.2 > 0)
            .collect()
    }

    /// Bytes of all arrays.
    pub fn bytes(&self) -> usize {
        self.arrays().iter().map(|(_, t, n)| n * t.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_never_shared() {
        let mut m = Memory::default();
        let a = m.allocate(DType::F32, 10);
        let b = m.allocate(DType::F32, 5);
        m.release(DType::F32, a, 10);
        let c = m.allocate(DType::F32, 4);
        let d = m.allocate(DType::F32, 6);
        let e = m.allocate(DType::F32, 1);
        assert_eq!((a, b, c, d, e), (0, 10, 0, 4, 15));
        m.release(DType::F32, d, 6);
        m.release(DType::F32, c, 4);
        m.release(DType::F32, b, 5);
        assert_eq!(m.allocate(DType::F32, 15), 0);
        m.release(DType::F32, 0, 15);
        m.release(DType::F32, e, 1);
        assert_eq!((m.allocate(DType::F32, 20), m.bytes()), (0, 80));
    }
}

//! A data set and its batches.

use snn_ir::random::fill_counter_based;
use snn_ir::{Data, Distribution, Tensor};

use crate::TrainError;

/// Arrays with one number of samples.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// Names and tensors, with the axis of samples.
    arrays: Vec<(String, Tensor, usize)>,
    samples: usize,
}

impl DataSet {
    /// Checks arrays.
    ///
    /// # Errors
    /// If there are none, they are empty, or of different lengths.
    pub fn new(arrays: Vec<(String, Tensor)>) -> Result<DataSet, TrainError> {
        DataSet::along(arrays.into_iter().map(|(n, t)| (n, t, 0)).collect())
    }

    /// Checks arrays whose samples go along an axis of each.
    ///
    /// # Errors
    /// As [`DataSet::new`].
    pub fn along(arrays: Vec<(String, Tensor, usize)>) -> Result<DataSet, TrainError> {
        let Some((_, first, axis)) = arrays.first() else { return Err(TrainError::NoData) };
        if let Some((name, ..)) = arrays.iter().find(|(_, t, axis)| t.shape().len() <= *axis) {
            return Err(TrainError::NoSamples(name.clone()));
        }
        let samples = first.shape()[*axis];
        if arrays.iter().any(|(_, t, axis)| t.shape()[*axis] != samples) {
            let all: Vec<String> = arrays.iter().map(|(n, t, axis)| format!("`{n}` has {}", t.shape()[*axis])).collect();
            return Err(TrainError::Lengths(all.join(", ")));
        }
        if samples == 0 {
            return Err(TrainError::Empty(arrays[0].0.clone()));
        }
        Ok(DataSet { arrays, samples })
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples
    }

    /// Is there an array of this name?
    pub fn has(&self, name: &str) -> bool {
        self.arrays.iter().any(|(n, ..)| n == name)
    }

    /// Never: a data set has samples.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Can it be cut into batches of this size?
    ///
    /// # Errors
    /// If the size is 0 or above the number of samples.
    pub fn check_batch(&self, batch: usize) -> Result<(), TrainError> {
        match batch {
            0 => Err(TrainError::BatchOfNothing),
            _ if batch > self.samples => Err(TrainError::BatchTooLarge { batch, samples: self.samples }),
            _ => Ok(()),
        }
    }

    /// Some samples of each array.
    pub fn batch(&self, indices: &[usize]) -> Vec<(String, Tensor)> {
        self.arrays.iter().map(|(n, t, axis)| (n.clone(), rows(t, *axis, indices))).collect()
    }
}

/// Some indices of an axis.
fn rows(t: &Tensor, axis: usize, indices: &[usize]) -> Tensor {
    let mut shape = t.shape().to_vec();
    let row: usize = shape[axis + 1..].iter().product();
    let whole = shape[axis] * row;
    let outer: usize = shape[..axis].iter().product();
    shape[axis] = indices.len();
    let pick = Pick { outer, whole, row, indices };
    let data = match t.data() {
        Data::F32(v) => Data::F32(pick.of(v).into()),
        Data::I64(v) => Data::I64(pick.of(v).into()),
        Data::Bool(v) => Data::Bool(pick.of(v).into()),
        Data::U8(v) => Data::U8(pick.of(v).into()),
    };
    Tensor::new(shape, data)
}

struct Pick<'a> {
    outer: usize,
    whole: usize,
    row: usize,
    indices: &'a [usize],
}

impl Pick<'_> {
    fn of<T: Copy>(&self, v: &[T]) -> Vec<T> {
        let mut out = Vec::with_capacity(self.outer * self.indices.len() * self.row);
        for o in 0..self.outer {
            for i in self.indices {
                let start = o * self.whole + i * self.row;
                out.extend_from_slice(&v[start..start + self.row]);
            }
        }
        out
    }
}

/// The order of samples in an epoch: by themselves, or shuffled by the seed and the epoch.
pub fn order(samples: usize, shuffle: bool, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples).collect();
    if shuffle {
        // Two 24-bit numbers make a fine enough key; ties keep their order.
        let keys = fill_counter_based(Distribution::Uniform, seed ^ 0x5eed_0f5a_4b1e_5e1f, epoch as u32, 2 * samples);
        order.sort_by(|a, b| {
            (keys[2 * a], keys[2 * a + 1]).partial_cmp(&(keys[2 * b], keys[2 * b + 1])).unwrap_or(std::cmp::Ordering::Equal)
        });
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_comes_once_in_an_order_of_its_epoch() {
        let (a, b) = (order(1000, true, 1, 0), order(1000, true, 1, 1));
        assert_ne!(a, b);
        assert_eq!(a, order(1000, true, 1, 0));
        let mut sorted = a;
        sorted.sort_unstable();
        assert_eq!(sorted, order(1000, false, 1, 0));
    }

    #[test]
    fn bad_data_sets_are_named() {
        let of = |n: usize| Tensor::f32([n, 2], vec![0.0; 2 * n]);
        assert!(matches!(DataSet::new(vec![]), Err(TrainError::NoData)));
        assert!(matches!(DataSet::new(vec![("x".into(), of(0))]), Err(TrainError::Empty(_))));
        let error = DataSet::new(vec![("x".into(), of(3)), ("y".into(), of(4))]).unwrap_err();
        assert_eq!(error.to_string(), "the arrays of the data set differ in length: `x` has 3, `y` has 4");
        assert!(matches!(DataSet::new(vec![("x".into(), Tensor::scalar(1.0))]), Err(TrainError::NoSamples(_))));
        let set = DataSet::new(vec![("x".into(), Tensor::i64([3], vec![5, 6, 7]))]).unwrap();
        assert_eq!(set.batch(&[2, 0])[0].1.to_i64(), [7, 5]);
        let set = DataSet::along(vec![("x".into(), Tensor::i64([2, 3], vec![1, 2, 3, 4, 5, 6]), 1)]).unwrap();
        assert_eq!((set.len(), set.batch(&[2, 0])[0].1.to_i64()), (3, vec![3, 1, 6, 4]));
    }
}

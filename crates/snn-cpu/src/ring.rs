//! The ring buffers of a loop while it runs; [`snn_plan::ring`] finds them.

use snn_ir::Tensor;

/// The rows of a ring while its loop runs.
pub struct Rows {
    data: Vec<f32>,
    shape: Vec<usize>,
    row: usize,
    at: usize,
}

impl Rows {
    /// From a state `[d, ...]`, oldest row first.
    pub fn new(state: &Tensor) -> Rows {
        let row = state.shape()[1..].iter().product();
        Rows { data: state.as_f32().to_vec(), shape: state.shape().to_vec(), row, at: 0 }
    }

    /// The oldest row, copied out.
    pub fn oldest(&self, mut data: Vec<f32>) -> Tensor {
        data.copy_from_slice(&self.data[self.at..self.at + self.row]);
        let mut shape = self.shape.clone();
        shape[0] = 1;
        Tensor::f32(shape, data)
    }

    /// How many elements a row has.
    pub fn row(&self) -> usize {
        self.row
    }

    /// The newest row in place of the oldest.
    pub fn push(&mut self, newest: &Tensor) {
        self.data[self.at..self.at + self.row].copy_from_slice(newest.as_f32());
        self.at += self.row;
        if self.at >= self.data.len() {
            self.at = 0;
        }
    }

    /// The state, oldest row first.
    pub fn state(mut self) -> Tensor {
        self.data.rotate_left(self.at);
        Tensor::f32(self.shape, self.data)
    }
}

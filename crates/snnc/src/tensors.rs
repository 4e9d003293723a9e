//! Tensors by name.

use std::ops::{Deref, DerefMut};

use snn_ir::Tensor;

/// Tensors by name, in order: what files hold, what a net takes and what it gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors(Vec<(String, Tensor)>);

impl Tensors {
    /// None.
    pub fn new() -> Tensors {
        Tensors::default()
    }

    /// The tensor of a name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    /// Adds a tensor, or puts it in the place of the one that has the name, which is returned.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Option<Tensor> {
        let name = name.into();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => Some(std::mem::replace(old, tensor)),
            None => {
                self.0.push((name, tensor));
                None
            }
        }
    }
}

impl Deref for Tensors {
    type Target = Vec<(String, Tensor)>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Tensors {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<const N: usize> From<[(&str, Tensor); N]> for Tensors {
    fn from(list: [(&str, Tensor); N]) -> Tensors {
        list.into_iter().map(|(name, t)| (name.to_string(), t)).collect()
    }
}

impl From<Vec<(String, Tensor)>> for Tensors {
    fn from(list: Vec<(String, Tensor)>) -> Tensors {
        Tensors(list)
    }
}

impl From<Tensors> for Vec<(String, Tensor)> {
    fn from(tensors: Tensors) -> Self {
        tensors.0
    }
}

impl FromIterator<(String, Tensor)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(list: I) -> Tensors {
        Tensors(list.into_iter().collect())
    }
}

impl IntoIterator for Tensors {
    type Item = (String, Tensor);
    type IntoIter = std::vec::IntoIter<(String, Tensor)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Tensors {
    type Item = &'a (String, Tensor);
    type IntoIter = std::slice::Iter<'a, (String, Tensor)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

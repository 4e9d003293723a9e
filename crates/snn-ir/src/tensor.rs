//! Tensors: dense, row-major arrays with a shape, as the interpreter computes them and files hold them.

use std::fmt;
use std::sync::Arc;

use crate::types::{DType, Type};

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// 32-bit floats.
    F32(Arc<Vec<f32>>),
    /// 64-bit integers.
    I64(Arc<Vec<i64>>),
    /// Booleans, one byte each: 0 or 1.
    Bool(Arc<Vec<u8>>),
    /// Bytes.
    U8(Arc<Vec<u8>>),
}

/// A dense tensor in row-major order. Cloning shares the elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

/// The number of elements of a shape, or `None` where it does not fit.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes the product zero, whatever overflows beside it.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

/// The distance between neighbours along each axis of a row-major array.
pub fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1];
    }
    strides
}

impl Tensor {
    /// A tensor of the given shape.
    ///
    /// # Panics
    /// If the number of elements is not that of the shape.
    pub fn new(shape: impl Into<Vec<usize>>, data: Data) -> Tensor {
        let tensor = Tensor { shape: shape.into(), data };
        assert_eq!(element_count(&tensor.shape), Some(tensor.len()), "{:?} elements in {:?}", tensor.len(), tensor.shape);
        tensor
    }

    /// A tensor of floats.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Tensor {
        Tensor::new(shape, Data::F32(Arc::new(data)))
    }

    /// A tensor of integers.
    pub fn i64(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Tensor {
        Tensor::new(shape, Data::I64(Arc::new(data)))
    }

    /// A tensor of booleans, each 0 or 1.
    pub fn bool(shape: impl Into<Vec<usize>>, data: Vec<u8>) -> Tensor {
        debug_assert!(data.iter().all(|b| *b <= 1));
        Tensor::new(shape, Data::Bool(Arc::new(data)))
    }

    /// A tensor of bytes.
    pub fn u8(shape: impl Into<Vec<usize>>, data: Vec<u8>) -> Tensor {
        Tensor::new(shape, Data::U8(Arc::new(data)))
    }

    /// A tensor of zeros of any type.
    pub fn zeros(dtype: DType, shape: impl Into<Vec<usize>>) -> Tensor {
        let shape = shape.into();
        let n = element_count(&shape).expect("the shape fits memory");
        match dtype {
            DType::F32 => Tensor::f32(shape, vec![0.0; n]),
            DType::I64 => Tensor::i64(shape, vec![0; n]),
            DType::Bool => Tensor::bool(shape, vec![0; n]),
            DType::U8 => Tensor::u8(shape, vec![0; n]),
        }
    }

    /// A scalar float.
    pub fn scalar(value: f32) -> Tensor {
        Tensor::f32([], vec![value])
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        match self.data {
            Data::F32(_) => DType::F32,
            Data::I64(_) => DType::I64,
            Data::Bool(_) => DType::Bool,
            Data::U8(_) => DType::U8,
        }
    }

    /// The type: of the elements, with the sizes of the axes.
    pub fn ty(&self) -> Type {
        Type::sized(self.dtype(), &self.shape)
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::F32(v) => v.len(),
            Data::I64(v) => v.len(),
            Data::Bool(v) | Data::U8(v) => v.len(),
        }
    }

    /// Has it no elements?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements, handed over.
    pub fn into_data(self) -> Data {
        self.data
    }

    /// The elements, to change them; copies them if they are shared.
    pub fn data_mut(&mut self) -> &mut Data {
        &mut self.data
    }

    /// The same elements in another shape of the same size.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Tensor {
        Tensor::new(shape, self.data.clone())
    }

    /// The elements as floats.
    ///
    /// # Panics
    /// If they are not floats; the verifier has made sure of the type before.
    pub fn as_f32(&self) -> &[f32] {
        match &self.data {
            Data::F32(v) => v,
            Data::I64(_) | Data::Bool(_) | Data::U8(_) => panic!("expected f32 elements, found {}", self.dtype()),
        }
    }

    /// The elements as integers.
    ///
    /// # Panics
    /// If they are not integers; the verifier has made sure of the type before.
    pub fn as_i64(&self) -> &[i64] {
        match &self.data {
            Data::I64(v) => v,
            Data::F32(_) | Data::Bool(_) | Data::U8(_) => panic!("expected i64 elements, found {}", self.dtype()),
        }
    }

    /// The indices, one for each axis, of the element at a place in row-major order.
    pub fn indices(&self, place: usize) -> Vec<usize> {
        row_major_strides(&self.shape).iter().zip(&self.shape[..]).map(|(s, n)| place / s % n).collect()
    }

    /// The elements as integers, converted where they are not.
    pub fn to_i64(&self) -> Vec<i64> {
        match &self.data {
            Data::F32(v) => v.iter().map(|x| *x as i64).collect(),
            Data::I64(v) => v.to_vec(),
            Data::Bool(v) | Data::U8(v) => v.iter().map(|x| i64::from(*x)).collect(),
        }
    }

    /// The elements as floats, converted where they are not.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.data {
            Data::F32(v) => v.to_vec(),
            Data::I64(v) => v.iter().map(|x| *x as f32).collect(),
            Data::Bool(v) | Data::U8(v) => v.iter().map(|x| f32::from(*x)).collect(),
        }
    }

    /// The elements as raw bytes in native order.
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype().bytes()
    }

    /// Are both the same to the bit? NaNs are equal to NaNs, and -0 differs from 0.
    pub fn same_bits(&self, other: &Tensor) -> bool {
        if self.shape != other.shape || self.dtype() != other.dtype() {
            return false;
        }
        match (&self.data, &other.data) {
            (Data::F32(a), Data::F32(b)) => a.iter().zip(b.iter()).all(|(x, y)| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan())),
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.ty())?;
        const SHOWN: usize = 8;
        let more = if self.len() > SHOWN { ", ..." } else { "" };
        match &self.data {
            Data::F32(v) => {
                let items: Vec<String> = v.iter().take(SHOWN).map(|x| format!("{x}")).collect();
                write!(f, "[{}{more}]", items.join(", "))
            }
            Data::I64(_) | Data::Bool(_) | Data::U8(_) => {
                let items: Vec<String> = self.to_i64().iter().take(SHOWN).map(|x| x.to_string()).collect();
                write!(f, "[{}{more}]", items.join(", "))
            }
        }
    }
}

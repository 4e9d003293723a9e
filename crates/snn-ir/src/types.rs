//! Types of values: an element type and a shape of symbolic dimensions.

use std::fmt;
use std::str::FromStr;

use crate::dim::{Dim, DimError, Dims};

/// The type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// 32-bit float. Spikes are floats of value 0 and 1.
    F32,
    /// 64-bit signed integer.
    I64,
    /// A boolean, a byte in memory.
    Bool,
    /// A byte, for data; arithmetic is done after a cast.
    U8,
}

impl DType {
    /// Bytes of an element in memory.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::I64 => 8,
            DType::Bool | DType::U8 => 1,
        }
    }

    /// The name in the language.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::I64 => "i64",
            DType::Bool => "bool",
            DType::U8 => "u8",
        }
    }

    /// The type in which arithmetic on both takes place, as PyTorch promotes.
    pub fn promote(self, other: DType) -> DType {
        use DType::*;
        match (self, other) {
            (F32, _) | (_, F32) => F32,
            (I64, _) | (_, I64) => I64,
            (U8, _) | (_, U8) => U8,
            (Bool, Bool) => Bool,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;
    fn from_str(text: &str) -> Result<DType, String> {
        [DType::F32, DType::I64, DType::Bool, DType::U8]
            .into_iter()
            .find(|t| t.name() == text)
            .ok_or_else(|| format!("`{text}` is not a type: f32, i64, bool and u8 are"))
    }
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type {
    /// The type of the elements.
    pub dtype: DType,
    /// The size of each axis.
    pub shape: Vec<Dim>,
}

impl Type {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<Dim>>) -> Type {
        Type { dtype, shape: shape.into() }
    }

    /// A type whose sizes are known.
    pub fn sized(dtype: DType, sizes: &[usize]) -> Type {
        Type { dtype, shape: sizes.iter().map(|n| Dim::constant(*n as i64)).collect() }
    }

    /// The type of a scalar.
    pub fn scalar(dtype: DType) -> Type {
        Type { dtype, shape: Vec::new() }
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Type {
        Type { dtype, shape: self.shape.clone() }
    }

    /// The bytes of a tensor of this type; 0 where a size is not known.
    pub fn byte_len(&self) -> usize {
        self.sizes().map_or(0, |sizes| sizes.into_iter().fold(self.dtype.bytes(), usize::saturating_mul))
    }

    /// The shape with sizes put in for names.
    pub fn bind(&self, dims: &Dims) -> Type {
        Type { dtype: self.dtype, shape: self.shape.iter().map(|d| d.bind(dims)).collect() }
    }

    /// The sizes as numbers.
    ///
    /// # Errors
    /// If a name has no size, or a size is too large or negative.
    pub fn sizes(&self) -> Result<Vec<usize>, DimError> {
        let none = Dims::new();
        self.shape.iter().map(|d| usize::try_from(d.evaluate(&none)?).map_err(|_| DimError::Overflow(d.to_string()))).collect()
    }
}

/// Writes dimensions as `[T, B, 10]`.
pub fn shape_text(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, shape_text(&self.shape))
    }
}

impl FromStr for Type {
    type Err = String;
    fn from_str(text: &str) -> Result<Type, String> {
        let open = text.find('[').ok_or_else(|| format!("`{text}` is not a type: a shape in brackets is missing"))?;
        let dtype = text[..open].trim().parse()?;
        let inner = text[open + 1..].trim_end().strip_suffix(']').ok_or_else(|| format!("`{text}` lacks a `]`"))?;
        let shape =
            if inner.trim().is_empty() { Vec::new() } else { inner.split(',').map(|d| d.trim().parse()).collect::<Result<_, String>>()? };
        Ok(Type { dtype, shape })
    }
}

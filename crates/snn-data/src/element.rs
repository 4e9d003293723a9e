//! Types of elements that files have, and how they become those of a program.
//!
//! What the four types of a program hold exactly converts without a word: f16, bf16 and f32 to f32, all signed integers, u16 and
//! u32 to i64. An f64 is rounded to the nearest f32, which is said once. A u64 above the largest i64 is an error.

use std::io::{self, Read};

use snn_ir::Tensor;

/// A type of elements in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    F16,
    Bf16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

/// What reading elements gives.
pub struct Decoded {
    /// The elements.
    pub tensor: Tensor,
    /// Is an element not exactly what the file has?
    pub rounded: bool,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::I8 | Element::U8 | Element::Bool => 1,
            Element::F16 | Element::Bf16 | Element::I16 | Element::U16 => 2,
            Element::F32 | Element::I32 | Element::U32 => 4,
            Element::F64 | Element::I64 | Element::U64 => 8,
        }
    }

    /// Bytes of one in a program.
    pub fn bytes_in_memory(self) -> usize {
        match self {
            Element::U8 | Element::Bool => 1,
            Element::F16 | Element::Bf16 | Element::F32 | Element::F64 => 4,
            Element::I8 | Element::I16 | Element::I32 | Element::I64 | Element::U16 | Element::U32 | Element::U64 => 8,
        }
    }
}

/// Calls `f` with each of `n` elements of `size` bytes, the lowest byte first.
fn each(reader: &mut dyn Read, n: usize, size: usize, big_endian: bool, mut f: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0u8; size * 8192];
    let mut left = n;
    while left > 0 {
        let now = left.min(8192);
        let part = &mut buffer[..now * size];
        reader.read_exact(part)?;
        for element in part.chunks_exact_mut(size) {
            if big_endian {
                element.reverse();
            }
            f(element);
        }
        left -= now;
    }
    Ok(())
}

/// Reads a tensor.
///
/// # Errors
/// If there are too few bytes, or a u64 does not fit.
pub fn decode(reader: &mut dyn Read, element: Element, shape: &[usize], big_endian: bool) -> io::Result<Decoded> {
    let n = shape.iter().product::<usize>();
    let size = element.bytes();
    let mut rounded = false;
    macro_rules! number {
        ($t:ty, $b:expr) => {
            <$t>::from_le_bytes($b.try_into().unwrap_or_default())
        };
    }
    macro_rules! collect {
        ($make:ident, $to:ty, |$b:ident| $value:expr) => {{
            let mut data: Vec<$to> = Vec::with_capacity(n);
            each(reader, n, size, big_endian, |$b| data.push($value))?;
            Tensor::$make(shape.to_vec(), data)
        }};
    }
    let tensor = match element {
        Element::F16 => collect!(f32, f32, |b| half::f16::from_bits(number!(u16, b)).to_f32()),
        Element::Bf16 => collect!(f32, f32, |b| half::bf16::from_bits(number!(u16, b)).to_f32()),
        Element::F32 => collect!(f32, f32, |b| number!(f32, b)),
        Element::F64 => collect!(f32, f32, |b| {
            let x = number!(f64, b);
            let y = x as f32;
            rounded |= f64::from(y) != x && !x.is_nan();
            y
        }),
        Element::I8 => collect!(i64, i64, |b| i64::from(number!(i8, b))),
        Element::I16 => collect!(i64, i64, |b| i64::from(number!(i16, b))),
        Element::I32 => collect!(i64, i64, |b| i64::from(number!(i32, b))),
        Element::I64 => collect!(i64, i64, |b| number!(i64, b)),
        Element::U16 => collect!(i64, i64, |b| i64::from(number!(u16, b))),
        Element::U32 => collect!(i64, i64, |b| i64::from(number!(u32, b))),
        Element::U64 => {
            let mut too_large = None;
            let tensor = collect!(i64, i64, |b| {
                let x = number!(u64, b);
                i64::try_from(x).unwrap_or_else(|_| {
                    too_large.get_or_insert(x);
                    0
                })
            });
            if let Some(x) = too_large {
                return Err(io::Error::other(format!("{x} of type u64 is more than an i64 holds")));
            }
            tensor
        }
        Element::U8 => collect!(u8, u8, |b| b[0]),
        Element::Bool => collect!(bool, u8, |b| u8::from(b[0] != 0)),
    };
    Ok(Decoded { tensor, rounded })
}

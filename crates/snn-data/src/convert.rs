//! Data of another type than a program wants: taken where the conversion is exact.

use snn_ir::{DType, Tensor};

/// Why data cannot be taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("element {index} is {value}, which {to} cannot hold exactly")]
pub struct FitError {
    /// Which element.
    pub index: usize,
    /// Its value.
    pub value: String,
    /// The type that is wanted.
    pub to: DType,
}

/// The same values in another type.
///
/// # Errors
/// The first element that would change.
pub fn fit(tensor: &Tensor, to: DType) -> Result<Tensor, FitError> {
    if tensor.dtype() == to {
        return Ok(tensor.clone());
    }
    let shape = tensor.shape().to_vec();
    let fail = |index: usize, value: String| Err(FitError { index, value, to });
    if tensor.dtype() == DType::F32 {
        let values = tensor.as_f32();
        // Integers that both types hold.
        let whole = |x: &f32| x.fract() == 0.0 && x.abs() < 9.2e18;
        if let Some((i, x)) = values.iter().enumerate().find(|(_, x)| !whole(x)) {
            return fail(i, x.to_string());
        }
        return fit(&Tensor::i64(shape, values.iter().map(|x| *x as i64).collect()), to);
    }
    let values = tensor.to_i64();
    let holds = |v: &i64| match to {
        DType::F32 => (*v as f32) as i64 == *v && v.unsigned_abs() <= 1 << 53,
        DType::I64 => true,
        DType::Bool => (0..=1).contains(v),
        DType::U8 => (0..=255).contains(v),
    };
    if let Some((i, v)) = values.iter().enumerate().find(|(_, v)| !holds(v)) {
        return fail(i, v.to_string());
    }
    Ok(match to {
        DType::F32 => Tensor::f32(shape, values.iter().map(|v| *v as f32).collect()),
        DType::I64 => Tensor::i64(shape, values),
        DType::Bool => Tensor::bool(shape, values.iter().map(|v| *v as u8).collect()),
        DType::U8 => Tensor::u8(shape, values.iter().map(|v| *v as u8).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_conversions_pass() {
        let labels = Tensor::u8([2], vec![3, 255]);
        assert_eq!(fit(&labels, DType::I64).unwrap(), Tensor::i64([2], vec![3, 255]));
        assert_eq!(fit(&Tensor::f32([1], vec![2.0]), DType::I64).unwrap(), Tensor::i64([1], vec![2]));
        assert_eq!(fit(&Tensor::f32([2], vec![2.0, 0.5]), DType::I64).unwrap_err().index, 1);
        assert!(fit(&Tensor::i64([1], vec![16_777_217]), DType::F32).is_err());
        assert!(fit(&Tensor::f32([1], vec![f32::NAN]), DType::U8).is_err());
    }
}

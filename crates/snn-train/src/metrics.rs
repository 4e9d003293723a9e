//! Metrics of predictions.

use snn_ir::Tensor;

use crate::TrainError;

/// How many of the predictions `[B, C]`, or `[T, B, C]` summed over time, are largest at the label.
///
/// # Errors
/// If the shapes do not fit.
pub fn correct(prediction: &Tensor, labels: &Tensor) -> Result<usize, TrainError> {
    let shape = prediction.shape();
    let (steps, batch, classes) = match shape {
        [b, c] => (1, *b, *c),
        [t, b, c] => (*t, *b, *c),
        _ => return Err(TrainError::PredictionShape(shape.to_vec())),
    };
    if labels.shape() != [batch] {
        return Err(TrainError::LabelShape { predictions: batch, labels: labels.shape().to_vec() });
    }
    let p = prediction.to_f32();
    let mut right = 0;
    for (i, label) in labels.to_i64().into_iter().enumerate() {
        let total = |c: usize| (0..steps).map(|t| p[(t * batch + i) * classes + c]).sum::<f32>();
        let mut best = (0, f32::NEG_INFINITY);
        for c in 0..classes {
            let x = total(c);
            if x > best.1 {
                best = (c, x);
            }
        }
        right += usize::from(best.0 as i64 == label);
    }
    Ok(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_summed_and_the_first_largest_wins() {
        let p = Tensor::f32([2, 2, 2], vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!(correct(&p, &Tensor::i64([2], vec![0, 1])), Ok(2));
        assert!(correct(&p, &Tensor::i64([3], vec![0, 1, 0])).is_err());
    }
}

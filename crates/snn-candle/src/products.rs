//! Contractions and convolutions as candle's.

use candle_core::{DType, Result, Tensor};
use snn_ir::{Contraction, Convolution};

use crate::Precision;

fn to_precision(x: &Tensor, precision: Precision) -> Result<Tensor> {
    match precision {
        Precision::F32 => Ok(x.clone()),
        Precision::F16 => x.to_dtype(DType::F16),
        Precision::BF16 => x.to_dtype(DType::BF16),
    }
}

/// A product of tensors summed over shared axes, in the shape that the IR gives it.
pub fn contract(a: &Tensor, b: &Tensor, c: &Contraction, shape: &[usize], precision: Precision) -> Result<Tensor> {
    let (free_a, free_b) = c.free_axes(a.rank(), b.rank());
    let size = |t: &Tensor, axes: &[usize]| axes.iter().map(|i| t.dims()[*i]).product::<usize>();
    let batch = size(a, &c.lhs_batch);
    let (m, n, k) = (size(a, &free_a), size(b, &free_b), size(a, &c.lhs_sum));
    if batch * m * n == 0 || k == 0 {
        return Tensor::zeros(shape, DType::F32, a.device());
    }
    let lhs = matrices(a, &c.lhs_batch, &free_a, &c.lhs_sum, (batch, m, k))?;
    let rhs = matrices(b, &c.rhs_batch, &c.rhs_sum, &free_b, (batch, k, n))?;
    let product = to_precision(&lhs, precision)?.matmul(&to_precision(&rhs, precision)?)?;
    product.to_dtype(DType::F32)?.reshape(shape)
}

/// A tensor as one matrix for each batch: a view where its axes lie so, or so but transposed, else a copy.
fn matrices(x: &Tensor, batch: &[usize], rows: &[usize], columns: &[usize], size: (usize, usize, usize)) -> Result<Tensor> {
    let order: Vec<usize> = [batch, rows, columns].concat();
    let transposed: Vec<usize> = [batch, columns, rows].concat();
    if transposed.iter().copied().eq(0..transposed.len()) && !order.iter().copied().eq(0..order.len()) {
        return x.reshape((size.0, size.2, size.1))?.transpose(1, 2);
    }
    x.permute(order)?.contiguous()?.reshape(size)
}

/// A convolution whose settings are the same for all axes.
pub fn convolve(x: &Tensor, w: &Tensor, c: &Convolution, shape: &[usize], precision: Precision) -> Result<Tensor> {
    let n = c.stride.len();
    let spatial = x.rank() - n;
    let batch: usize = x.dims()[..spatial - 1].iter().product();
    if shape.contains(&0) || x.elem_count() == 0 || w.elem_count() == 0 {
        return Tensor::zeros(shape, DType::F32, x.device());
    }
    let images: Vec<usize> = std::iter::once(batch).chain(x.dims()[spatial - 1..].iter().copied()).collect();
    let x = to_precision(&x.reshape(images)?, precision)?;
    let w = to_precision(w, precision)?;
    let [stride, padding, dilation] = [&c.stride, &c.padding, &c.dilation].map(|v| v[0] as usize);
    let groups = c.groups as usize;
    let y = match n {
        1 => x.conv1d(&w, padding, stride, dilation, groups)?,
        _ => x.conv2d(&w, padding, stride, dilation, groups)?,
    };
    y.to_dtype(DType::F32)?.contiguous()?.reshape(shape)
}

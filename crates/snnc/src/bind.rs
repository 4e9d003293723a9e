//! Matching data with the inputs of a net: by name, with their types, and for the sizes of dimensions.

use std::collections::HashMap;

use snn_data::fit;
use snn_ir::{Dim, Dims, Tensor, Type};

use crate::Error;
use crate::error::InputError;

/// Data that a net asked for, converted, and the sizes that they give.
pub(crate) struct BoundData {
    pub tensors: HashMap<String, Tensor>,
    pub dims: Dims,
}

/// How many dimensions `...` stands for, from the ranks of the data. `declared` has one dimension for it, called `_0`.
pub(crate) fn rest_rank(declared: &[(String, Type)], data: &HashMap<&str, &Tensor>) -> Option<usize> {
    declared.iter().find_map(|(name, ty)| {
        let has_rest = ty.shape.iter().any(|d| d.as_name() == Some("_0"));
        let tensor = data.get(name.as_str()).filter(|_| has_rest)?;
        Some((tensor.shape().len() + 1).saturating_sub(ty.rank()))
    })
}

/// Converts what is given for the declared inputs and finds the sizes of dimensions. Inputs that are not given are left out.
pub(crate) fn bind(declared: &[(String, Type)], data: &HashMap<&str, &Tensor>, given: &Dims) -> Result<BoundData, Error> {
    let mut bound = BoundData { tensors: HashMap::new(), dims: given.clone() };
    let mut first: HashMap<String, String> = given.keys().map(|k| (k.clone(), "--dims".to_string())).collect();
    let mut later: Vec<(&str, &Type, usize, i64)> = Vec::new();
    for (name, ty) in declared {
        let Some(tensor) = data.get(name.as_str()) else { continue };
        if tensor.shape().len() != ty.rank() {
            return Err(InputError::Rank { name: name.clone(), found: tensor.ty(), declared: ty.clone() }.into());
        }
        let converted = fit(tensor, ty.dtype).map_err(|reason| InputError::Elements {
            name: name.clone(),
            found: tensor.ty(),
            declared: ty.clone(),
            reason,
        })?;
        bound.tensors.insert(name.clone(), converted);
        for (axis, (dim, size)) in ty.shape.iter().zip(tensor.shape()).enumerate() {
            let size = *size as i64;
            match dim.as_name() {
                Some(n) => match bound.dims.get(n) {
                    Some(known) if *known != size => {
                        let (dimension, first) = (n.to_string(), first.get(n).cloned().unwrap_or_default());
                        let (known, name, found) = (*known, name.clone(), tensor.ty());
                        return Err(InputError::Sizes { dimension, known, first, size, axis, name, found }.into());
                    }
                    Some(_) => {}
                    None => {
                        bound.dims.insert(n.to_string(), size);
                        first.insert(n.to_string(), format!("`{name}` ({})", tensor.ty()));
                    }
                },
                None => later.push((name, ty, axis, size)),
            }
        }
    }
    // Arithmetic on names: what is known must agree, one unknown name is solved for.
    for (name, ty, axis, size) in later {
        let dim = ty.shape[axis].bind(&bound.dims);
        if let Some((n, value)) = solve(&dim, size) {
            bound.dims.insert(n, value);
            continue;
        }
        if dim.as_constant() != Some(size) {
            let declared = &ty.shape[axis];
            let meaning = if dim.to_string() == declared.to_string() { String::new() } else { format!(" = {dim}") };
            let (name, wanted) = (name.to_string(), format!("{declared}{meaning}"));
            return Err(InputError::Size { axis, name, size, wanted, declared: ty.clone() }.into());
        }
    }
    Ok(bound)
}

/// The value of the only name of a dimension that is linear in it.
fn solve(dim: &Dim, size: i64) -> Option<(String, i64)> {
    let names = dim.names();
    let name = (*names.first()?).to_string();
    if names.iter().any(|n| *n != name) {
        return None;
    }
    let at = |v: i64| dim.evaluate(&Dims::from([(name.clone(), v)])).ok();
    let (zero, one) = (at(0)?, at(1)?);
    let slope = one.checked_sub(zero)?;
    if slope == 0 || (size - zero) % slope != 0 {
        return None;
    }
    let value = (size - zero) / slope;
    (at(value)? == size && value >= 0).then_some((name, value))
}

/// Takes the part `start .. end` of an axis.
pub(crate) fn part(tensor: &Tensor, axis: usize, start: usize, end: usize) -> Tensor {
    use snn_ir::Data;
    use std::sync::Arc;
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let (n, outer) = (tensor.shape()[axis], tensor.shape()[..axis].iter().product::<usize>());
    fn cut<T: Copy>(v: &[T], outer: usize, n: usize, inner: usize, start: usize, end: usize) -> Arc<Vec<T>> {
        Arc::new((0..outer).flat_map(|o| v[(o * n + start) * inner..(o * n + end) * inner].iter().copied()).collect())
    }
    let data = match tensor.data() {
        Data::F32(v) => Data::F32(cut(v, outer, n, inner, start, end)),
        Data::I64(v) => Data::I64(cut(v, outer, n, inner, start, end)),
        Data::Bool(v) => Data::Bool(cut(v, outer, n, inner, start, end)),
        Data::U8(v) => Data::U8(cut(v, outer, n, inner, start, end)),
    };
    let mut shape = tensor.shape().to_vec();
    shape[axis] = end - start;
    Tensor::new(shape, data)
}

//! The parameters of a net: from files, else from their initialisers.

use std::collections::HashMap;

use snn_data::fit;
use snn_ir::interpret::{Randomness, evaluate_closed};
use snn_ir::random::TorchGenerator;
use snn_ir::{Graph, Tensor};

use crate::Error;
use crate::error::{MisfitWeight, WeightsError};

/// The parameters of a graph by name, in order of declaration. Those that `given` lacks are drawn from a generator that
/// equals PyTorch's with that seed: first what `kaiming_normal_conv_linear_weight` names, then the rest.
///
/// # Errors
/// Parameters of a wrong shape or type, all of them.
pub(crate) fn parameters(graph: &Graph, given: &HashMap<&str, &Tensor>, seed: u64) -> Result<Vec<(String, Tensor)>, Error> {
    let mut values: Vec<Option<Tensor>> = vec![None; graph.parameters.len()];
    let mut wrong = Vec::new();
    for (p, value) in graph.parameters.iter().zip(&mut values) {
        let Some(tensor) = given.get(p.name.as_str()) else { continue };
        let sizes = p.ty.sizes().map_err(|reason| WeightsError::UnknownSize { name: p.name.clone(), reason })?;
        let found = tensor.ty();
        if tensor.shape() != sizes {
            // A scalar may be saved as one element.
            if sizes.is_empty() && tensor.len() == 1 {
                *value = fit(&tensor.reshaped([]), p.ty.dtype).ok();
                continue;
            }
            wrong.push(MisfitWeight { name: p.name.clone(), found, wanted: p.ty.clone(), reason: None });
            continue;
        }
        match fit(tensor, p.ty.dtype) {
            Ok(t) => *value = Some(t),
            Err(e) => wrong.push(MisfitWeight { name: p.name.clone(), found, wanted: p.ty.clone(), reason: Some(e) }),
        }
    }
    if !wrong.is_empty() {
        return Err(WeightsError::Types { wrong }.into());
    }
    let mut generator = TorchGenerator::new(seed);
    for first in [true, false] {
        for (p, value) in graph.parameters.iter().zip(&mut values) {
            if p.drawn_first == first && value.is_none() {
                *value = Some(evaluate_closed(&p.initial, &mut Randomness::Torch(&mut generator))?);
            }
        }
    }
    let names = graph.parameters.iter().map(|p| p.name.clone());
    Ok(names.zip(values).filter_map(|(n, v)| v.map(|v| (n, v))).collect())
}

/// Names in the weights that a net lacks are an error that lists both. Counters that PyTorch saves beside batch norms, and
/// tensors that are data of a net of the program, because one file holds both, are not weights.
///
/// # Errors
/// The names that are in one and not in the other.
pub(crate) fn check_names(graph: &Graph, given: &[&str], is_data: impl Fn(&str) -> bool) -> Result<(), Error> {
    let has = |n: &str| graph.parameters.iter().any(|p| p.name == n);
    let unknown: Vec<&str> = given.iter().filter(|n| !has(n) && !n.ends_with(".num_batches_tracked") && !is_data(n)).copied().collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = graph.parameters.iter().map(|p| p.name.as_str()).filter(|n| !given.contains(n)).collect();
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Err(WeightsError::Unknown { unknown: owned(&unknown), missing: owned(&missing) }.into())
}

/// Weights are those of the whole net: parameters that nobody gives are an error that lists them.
///
/// # Errors
/// The names that are in the net and not in the file.
pub(crate) fn check_complete(graph: &Graph, given: &[&str], data: &[&str]) -> Result<(), Error> {
    // What the optimiser keeps is no weight.
    let names = graph.parameters.iter().map(|p| p.name.as_str()).filter(|n| !n.starts_with(snn_train::update::PREFIX));
    let missing: Vec<String> = names.filter(|n| !given.contains(n) && !data.contains(n)).map(str::to_string).collect();
    if missing.is_empty() { Ok(()) } else { Err(WeightsError::Missing { missing, all: graph.parameters.len() }.into()) }
}

/// What frameworks save of layers without learning it: counters, and settings such as snnTorch's `beta` and `threshold`.
const BOOKKEEPING: [&str; 3] = ["num_batches_tracked", "reset_mechanism_val", "graded_spikes_factor"];

/// The weights without bookkeeping. A number that is a setting of its layer must be the setting.
///
/// # Errors
/// If a file has another value for a setting than the program.
pub(crate) fn without_bookkeeping(
    weights: &[(String, Tensor)],
    graph: &Graph,
    layers: &[(String, Vec<(String, f64)>)],
) -> Result<Vec<(String, Tensor)>, Error> {
    let mut kept = Vec::with_capacity(weights.len());
    for (name, tensor) in weights {
        let Some((layer, own)) = name.rsplit_once('.').filter(|_| graph.parameter(name).is_none()) else {
            kept.push((name.clone(), tensor.clone()));
            continue;
        };
        let settings = layers.iter().find(|(l, _)| l == layer).map(|(_, s)| s);
        // `Leaky.threshold` is the setting `threshold`, or `v_threshold` of other neurons.
        let setting = settings.and_then(|s| s.iter().find(|(n, _)| n == own || n.strip_prefix("v_") == Some(own)));
        match setting.filter(|_| tensor.len() == 1) {
            Some((_, value)) if tensor.to_f32()[0] == *value as f32 => {}
            Some((setting, value)) => {
                let (name, saved, setting, value) = (name.clone(), tensor.to_f32()[0], setting.clone(), *value);
                return Err(WeightsError::Setting { name, saved, setting, value }.into());
            }
            None if settings.is_some() && tensor.len() == 1 && BOOKKEEPING.contains(&own) => {}
            None => kept.push((name.clone(), tensor.clone())),
        }
    }
    Ok(kept)
}

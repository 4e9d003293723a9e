//! What a net costs: operations of its layers, dense and as far as spikes and weights are not zero.
//!
//! Counts are those of NeuroBench (Yik et al., Nature Communications 2025): of a sample, over all its steps; biases and zeros of padding do not count;
//! an operation is an accumulate where all inputs of the layer are -1, 0 or 1, and else a multiply-accumulate; it is effective where neither the input
//! nor the weight is zero.

use std::collections::HashMap;

use snn_ir::{Contraction, Convolution, Graph, Node, NodeId, Op, Tensor, Type, Value};

use crate::{Compiled, Error};

/// Energy of a multiply-accumulate and of an accumulate of 32-bit floats in 45 nm, in picojoules (Horowitz, ISSCC 2014: 3.7 + 0.9, and 0.9).
pub const PICOJOULES: [f64; 2] = [4.6, 0.9];

/// A layer of weights, for one sample.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LayerCost {
    /// The layer that its weights belong to.
    pub name: String,
    /// How many weights it has.
    pub parameters: usize,
    /// Products of all inputs with all weights.
    pub dense_macs: f64,
    /// Multiply-accumulates that are not with zero.
    pub effective_macs: f64,
    /// Accumulates that are not with zero.
    pub effective_acs: f64,
    /// The share of its inputs that are not zero.
    pub input_rate: f64,
    /// Bytes of its weights, and of its inputs over all steps.
    pub bytes: f64,
    /// Of effective operations, in picojoules.
    pub energy_pj: f64,
}

/// A layer of neurons, for one sample.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct NeuronCost {
    /// What the user calls it.
    pub name: String,
    /// How many there are.
    pub neurons: usize,
    /// The share of neurons and steps with an output that is not zero.
    pub firing_rate: f64,
    /// Updates of a state, over all steps.
    pub updates: f64,
}

/// What a net costs on some data.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Cost {
    /// How many samples the data have; all else is of one.
    pub samples: usize,
    /// Layers of weights, in order.
    pub layers: Vec<LayerCost>,
    /// Layers of neurons, in order.
    pub neurons: Vec<NeuronCost>,
    /// Bytes of all parameters.
    pub parameter_bytes: usize,
    /// Of all layers.
    pub dense_macs: f64,
    /// Of all layers.
    pub effective_macs: f64,
    /// Of all layers.
    pub effective_acs: f64,
    /// Of effective operations, in picojoules.
    pub energy_pj: f64,
    /// Of the same net with dense activations, in picojoules.
    pub dense_energy_pj: f64,
}

/// What is looked at while the net runs.
enum Probe {
    Product { layer: String, inside: Op, operands: [(usize, Type); 2], result: Type },
    Neuron { layer: String, at: usize, ty: Type },
}

/// Where probes put their values: outputs of a graph, from the first that is added on.
struct Probes {
    list: Vec<Probe>,
    values: usize,
}

impl Compiled {
    /// What a run on data costs.
    ///
    /// # Errors
    /// As [`Compiled::run`].
    pub fn cost(&self, data: &[(String, Tensor)], weights: &[(String, Tensor)]) -> Result<Cost, Error> {
        let (graph, dims, tensors) = self.written(data, weights)?;
        let mut probes = Probes { list: vec![], values: 0 };
        let own = graph.outputs.len();
        let probed = probed(&graph, &mut probes);
        let parameter_bytes = graph.parameters.iter().filter_map(|p| tensors.get(&p.name)).map(Tensor::byte_len).sum();
        let results = self.compile_graph(&probed)?.run(&tensors, self.options().seed)?.outputs;
        let values: Vec<&Tensor> = results[own..].iter().map(|(_, t)| t).collect();
        let samples = dims.get("B").map_or(1, |b| (*b).max(1) as usize);
        let mut cost = Cost {
            samples,
            layers: vec![],
            neurons: vec![],
            parameter_bytes,
            dense_macs: 0.0,
            effective_macs: 0.0,
            effective_acs: 0.0,
            energy_pj: 0.0,
            dense_energy_pj: 0.0,
        };
        for probe in &probes.list {
            match probe {
                Probe::Product { layer, inside, operands: [(a, ta), (b, tb)], result } => {
                    let (x, w) = (values[*a], values[*b]);
                    // A loop gives one step after the other.
                    let steps = |v: &Tensor, ty: &Type| -> Vec<Tensor> {
                        let n: usize = ty.sizes().unwrap_or_default().iter().product();
                        match v.len().checked_div(n) {
                            Some(1) | None => vec![v.reshaped(ty.sizes().unwrap_or_default())],
                            Some(many) => (0..many)
                                .map(|i| Tensor::f32(ty.sizes().unwrap_or_default(), v.as_f32()[i * n..(i + 1) * n].to_vec()))
                                .collect(),
                        }
                    };
                    let (xs, ws) = (steps(x, ta), steps(w, tb));
                    let (mut dense, mut effective) = (0.0, 0.0);
                    for i in 0..xs.len().max(ws.len()) {
                        let (x, w) = (&xs[i.min(xs.len() - 1)], &ws[i.min(ws.len() - 1)]);
                        let (d, e) = match inside {
                            Op::Contract(c) => contraction(x, w, c),
                            Op::Conv(c) => convolution(x, w, c),
                            Op::ConvInputGradient(c) => transposed_convolution(x, w, c, &result.sizes().unwrap_or_default()),
                            _ => (0.0, 0.0),
                        };
                        dense += d;
                        effective += e;
                    }
                    let spikes = x.as_f32().iter().all(|v| matches!(*v, -1.0 | 0.0 | 1.0));
                    let own = |v: f64| v / samples as f64;
                    let (macs, acs) = if spikes { (0.0, own(effective)) } else { (own(effective), 0.0) };
                    let nonzero = x.as_f32().iter().filter(|v| **v != 0.0).count();
                    cost.layers.push(LayerCost {
                        name: layer.clone(),
                        parameters: ws[0].len(),
                        dense_macs: own(dense),
                        effective_macs: macs,
                        effective_acs: acs,
                        input_rate: if x.is_empty() { 0.0 } else { nonzero as f64 / x.len() as f64 },
                        bytes: ws[0].byte_len() as f64 + own(x.byte_len() as f64),
                        energy_pj: macs * PICOJOULES[0] + acs * PICOJOULES[1],
                    });
                }
                Probe::Neuron { layer, at, ty } => {
                    let v = values[*at];
                    let fired = v.as_f32().iter().filter(|x| **x != 0.0).count();
                    let steps = ty.sizes().unwrap_or_default().first().copied().unwrap_or(1).max(1);
                    cost.neurons.push(NeuronCost {
                        name: layer.clone(),
                        neurons: v.len() / steps.max(1) / samples,
                        firing_rate: if v.is_empty() { 0.0 } else { fired as f64 / v.len() as f64 },
                        updates: v.len() as f64 / samples as f64,
                    });
                }
            }
        }
        let total = |f: fn(&LayerCost) -> f64| cost.layers.iter().map(f).sum::<f64>();
        let (dense, macs, acs, energy) =
            (total(|l| l.dense_macs), total(|l| l.effective_macs), total(|l| l.effective_acs), total(|l| l.energy_pj));
        (cost.dense_macs, cost.effective_macs, cost.effective_acs, cost.energy_pj) = (dense, macs, acs, energy);
        cost.dense_energy_pj = dense * PICOJOULES[0];
        Ok(cost)
    }
}

impl Compiled {
    /// The largest size that each state of a neuron comes to in a run on data, by layer and state: what a format of fixed point must hold.
    /// Neurons of recurrent layers are left out.
    ///
    /// # Errors
    /// As a run.
    pub fn largest_states(&self, data: &[(String, Tensor)], weights: &[(String, Tensor)]) -> Result<Vec<(String, f32)>, Error> {
        let (graph, _, tensors) = self.written(data, weights)?;
        let results = self.compile_graph(&snn_compile::largest_states(&graph).pruned())?.run(&tensors, self.options().seed)?.outputs;
        Ok(results.into_iter().map(|(name, t)| (name, t.to_f32()[0])).collect())
    }

    /// What each layer of neurons gives on data, in order, `[T, ...]`, and then the outputs.
    ///
    /// # Errors
    /// As [`Compiled::run`].
    pub fn activity(&self, data: &[(String, Tensor)], weights: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
        let (graph, _, tensors) = self.written(data, weights)?;
        let mut probes = Probes { list: vec![], values: 0 };
        let own = graph.outputs.len();
        let mut probed = probed(&graph, &mut probes);
        // Only neurons are looked at.
        let kept: Vec<usize> =
            probes.list.iter().filter_map(|p| if let Probe::Neuron { at, .. } = p { Some(own + at) } else { None }).collect();
        let outputs = std::mem::take(&mut probed.outputs);
        probed.outputs = kept.iter().chain(&(0..own).collect::<Vec<_>>()).map(|i| outputs[*i].clone()).collect();
        let results = self.compile_graph(&probed.pruned())?.run(&tensors, self.options().seed)?.outputs;
        let mut names = vec![];
        let mut all = vec![];
        let neurons =
            probes.list.into_iter().filter_map(|p| if let Probe::Neuron { layer, ty, .. } = p { Some((layer, ty)) } else { None });
        for ((layer, ty), (_, t)) in neurons.zip(&results) {
            let name = snn_compile::own_name(&mut names, layer);
            let shape = ty.sizes().map_err(snn_ir::RuntimeError::from)?;
            all.push((name, t.reshaped(shape)));
        }
        all.extend(results[kept.len()..].iter().cloned());
        Ok(all)
    }
}

/// The layer of a weight: that of the first parameter that it is made of.
fn layer_of(graph: &Graph, v: Value) -> Option<String> {
    let mut stack = vec![v];
    while let Some(v) = stack.pop() {
        let node = graph.node(v.node);
        if let Op::Parameter { name, .. } = &node.op {
            let base = name.strip_suffix(".weight").or_else(|| name.rsplit_once('.').map(|(layer, _)| layer)).unwrap_or(name);
            return Some(base.to_string());
        }
        stack.extend(node.operands.iter().rev());
    }
    None
}

/// The graph with everything that is counted as outputs.
fn probed(graph: &Graph, probes: &mut Probes) -> Graph {
    let mut depends = vec![false; graph.len()];
    for (id, node) in graph.nodes() {
        depends[id.index()] =
            matches!(node.op, Op::Input { .. } | Op::Random { .. }) || node.operands.iter().any(|v| depends[v.node.index()]);
    }
    let live = graph.live_nodes();
    let mut wanted: Vec<(NodeId, Probe, Vec<Value>)> = vec![];
    let mut inner: HashMap<NodeId, (Graph, Vec<Value>)> = HashMap::new();
    for (id, node) in graph.nodes().filter(|(id, _)| live[id.index()]) {
        match &node.op {
            Op::Contract(_) | Op::Conv(_) | Op::ConvInputGradient(_) if depends[id.index()] => {
                wanted.push((id, product(graph, node, &depends, None), operands(node, &depends)))
            }
            Op::Scan(s) if depends[id.index()] => {
                let name = node.name.clone().unwrap_or_else(|| s.body.name.clone());
                let v = Value { node: id, result: 0 };
                wanted.push((id, Probe::Neuron { layer: name, at: 0, ty: graph.ty(v).clone() }, vec![v]));
            }
            Op::Loop(l) => {
                // What is inside comes out as sequences of the loop.
                let body = &l.body;
                let mut outside = HashMap::new();
                for (v, input) in node.operands.iter().zip(&body.inputs) {
                    outside.insert(*input, layer_of(graph, *v));
                }
                let moving: Vec<bool> = body_depends(body, l.roles.sequences, l.roles.invariants);
                let mut out = vec![];
                for (inner_id, n) in body.nodes() {
                    match &n.op {
                        Op::Contract(_) | Op::Conv(_) | Op::ConvInputGradient(_) if moving[inner_id.index()] => {
                            let list = operands(n, &moving);
                            let name = n.operands.iter().find_map(|v| weight_name(body, *v, &outside));
                            wanted.push((id, product(body, n, &moving, name), vec![]));
                            out.push(list);
                        }
                        Op::Scan(s) => {
                            let name = n.name.clone().unwrap_or_else(|| s.body.name.clone());
                            let mut ty = body.ty(Value { node: inner_id, result: 0 }).clone();
                            ty.shape[0] = l.steps.clone();
                            wanted.push((id, Probe::Neuron { layer: name, at: 0, ty }, vec![]));
                            out.push(vec![Value { node: inner_id, result: 0 }]);
                        }
                        _ => {}
                    }
                }
                inner.insert(id, (body.clone(), out.into_iter().flatten().collect()));
            }
            _ => {}
        }
    }
    // Loops get more outputs; what they gave before moves up.
    let mut map: HashMap<Value, Value> = HashMap::new();
    let mut extra: HashMap<NodeId, Vec<Value>> = HashMap::new();
    let mut new = Graph::new(graph.name.clone());
    new.parameters = graph.parameters.clone();
    for (id, node) in graph.nodes() {
        let mut node = node.clone();
        node.operands.iter_mut().for_each(|v| *v = map[v]);
        let old = node.types.len();
        let mut outputs = old;
        let mut added = 0;
        if let (Op::Loop(l), Some((_, values))) = (&mut node.op, inner.get(&id)) {
            outputs = l.roles.outputs;
            added = values.len();
            for (k, v) in values.iter().enumerate() {
                // Slices `[1, ...]`, for values without an axis of time too.
                let own = l.body.ty(*v).clone();
                let mut shape = own.shape.clone();
                shape.insert(0, 1.into());
                let slice = snn_ir::Build(&mut l.body).reshape(*v, shape.clone());
                shape[0] = l.steps.clone();
                l.body.outputs.insert(outputs + k, (format!("probe{k}"), slice));
                node.types.insert(outputs + k, Type::new(own.dtype, shape));
            }
            l.roles.outputs += added;
        }
        let copy = new.push(node);
        for r in 0..old {
            let to = if r < outputs { r } else { r + added };
            map.insert(Value { node: id, result: r as u16 }, Value { node: copy, result: to as u16 });
        }
        extra.insert(id, (0..added).map(|k| Value { node: copy, result: (outputs + k) as u16 }).collect());
    }
    new.inputs = graph.inputs.iter().map(|v| map[v]).collect();
    new.outputs = graph.outputs.iter().map(|(n, v)| (n.clone(), map[v])).collect();
    let mut taken: HashMap<NodeId, usize> = HashMap::new();
    for (id, mut probe, values) in wanted {
        let many = if matches!(probe, Probe::Product { .. }) { 2 } else { 1 };
        let values: Vec<Value> = match values.is_empty() {
            false => values.iter().map(|v| map[v]).collect(),
            true => {
                let at = taken.entry(id).or_insert(0);
                *at += many;
                extra[&id][*at - many..*at].to_vec()
            }
        };
        let first = probes.values;
        for v in values {
            new.outputs.push((format!("probe.{}", probes.values), v));
            probes.values += 1;
        }
        match &mut probe {
            Probe::Product { operands, .. } => (operands[0].0, operands[1].0) = (first, first + 1),
            Probe::Neuron { at, .. } => *at = first,
        }
        probes.list.push(probe);
    }
    new
}

/// Which nodes of a loop's body change from step to step.
fn body_depends(body: &Graph, sequences: usize, invariants: usize) -> Vec<bool> {
    let mut moving = vec![false; body.len()];
    for (id, node) in body.nodes() {
        let input = body.inputs.iter().position(|v| v.node == id);
        moving[id.index()] =
            input.is_some_and(|i| i < sequences || i >= sequences + invariants) || node.operands.iter().any(|v| moving[v.node.index()]);
    }
    moving
}

fn weight_name(body: &Graph, v: Value, outside: &HashMap<Value, Option<String>>) -> Option<String> {
    let mut stack = vec![v];
    while let Some(v) = stack.pop() {
        if let Some(Some(name)) = outside.get(&v) {
            return Some(name.clone());
        }
        if !outside.contains_key(&v) {
            stack.extend(body.node(v.node).operands.iter().rev().filter(|o| !matches!(body.op(**o), Op::Scan(_) | Op::Contract(_))));
        }
    }
    None
}

/// The operands of a product: what comes, and its weights.
fn operands(node: &Node, depends: &[bool]) -> Vec<Value> {
    let swapped = !depends[node.operands[0].node.index()];
    if swapped { vec![node.operands[1], node.operands[0]] } else { node.operands[..2].to_vec() }
}

fn product(graph: &Graph, node: &Node, depends: &[bool], name: Option<String>) -> Probe {
    let list = operands(node, depends);
    let swapped = list[0] != node.operands[0];
    let inside = match (&node.op, swapped) {
        (Op::Contract(c), true) => Op::Contract(Contraction {
            lhs_batch: c.rhs_batch.clone(),
            rhs_batch: c.lhs_batch.clone(),
            lhs_sum: c.rhs_sum.clone(),
            rhs_sum: c.lhs_sum.clone(),
        }),
        (op, _) => op.clone(),
    };
    let weight = list[1];
    let own = (!depends[weight.node.index()]).then(|| layer_of(graph, weight)).flatten();
    let layer = name.or(own).or_else(|| node.name.clone()).unwrap_or_else(|| "matmul".into());
    let operands = [(0, graph.ty(list[0]).clone()), (0, graph.ty(weight).clone())];
    Probe::Product { layer, inside, operands, result: node.types[0].clone() }
}

/// All products, and those of two numbers that are not zero.
fn contraction(x: &Tensor, w: &Tensor, c: &Contraction) -> (f64, f64) {
    let sum_axes = |t: &Tensor, batch: &[usize], sum: &[usize]| {
        // For each index of batch and summed axes: how many elements there are, and how many are not zero.
        let strides = snn_ir::tensor::row_major_strides(t.shape());
        let axes: Vec<usize> = batch.iter().chain(sum).copied().collect();
        let n: usize = axes.iter().map(|a| t.shape()[*a]).product();
        let mut counts = vec![0f64; n];
        for (i, v) in t.as_f32().iter().enumerate() {
            if *v != 0.0 {
                let at = axes.iter().fold(0, |at, a| at * t.shape()[*a] + i / strides[*a] % t.shape()[*a]);
                counts[at] += 1.0;
            }
        }
        (counts, t.len() as f64 / n.max(1) as f64)
    };
    let ((a, many_a), (b, many_b)) = (sum_axes(x, &c.lhs_batch, &c.lhs_sum), sum_axes(w, &c.rhs_batch, &c.rhs_sum));
    (a.len() as f64 * many_a * many_b, a.iter().zip(&b).map(|(p, q)| p * q).sum())
}

/// As [`convolution`]: each element of `x` meets each element of the kernel that leads to a place of the result.
fn transposed_convolution(x: &Tensor, w: &Tensor, c: &Convolution, result: &[usize]) -> (f64, f64) {
    let n = c.stride.len();
    let lead = x.shape().len() - n - 1;
    let (channels, per_group) = (x.shape()[lead], w.shape()[1]);
    let (space, kernel, out) = (&x.shape()[lead + 1..], &w.shape()[2..], &result[result.len().saturating_sub(n)..]);
    let (strides, taps) = (snn_ir::tensor::row_major_strides(space), snn_ir::tensor::row_major_strides(kernel));
    let (plane, all_taps) = (space.iter().product::<usize>(), kernel.iter().product::<usize>());
    let leads = |p: usize, k: usize| {
        (0..n).all(|d| {
            let (at, tap) = ((p / strides[d] % space[d]) as i64, (k / taps[d] % kernel[d]) as i64);
            let place = at * c.stride[d] + tap * c.dilation[d] - c.padding[d];
            place >= 0 && (place as usize) < out[d]
        })
    };
    let leading: Vec<Vec<usize>> = (0..plane).map(|p| (0..all_taps).filter(|k| leads(p, *k)).collect()).collect();
    // For each input channel and element of the kernel: how many weights are not zero.
    let weights = |i: usize, k: usize| (0..per_group).filter(|o| w.as_f32()[(i * per_group + o) * all_taps + k] != 0.0).count() as f64;
    let counts: Vec<f64> = (0..channels * all_taps).map(|j| weights(j / all_taps, j % all_taps)).collect();
    let (mut dense, mut effective) = (0.0, 0.0);
    for (j, v) in x.as_f32().iter().enumerate() {
        let (i, leading) = (j / plane % channels, &leading[j % plane]);
        dense += (leading.len() * per_group) as f64;
        if *v != 0.0 {
            effective += leading.iter().map(|k| counts[i * all_taps + k]).sum::<f64>();
        }
    }
    (dense, effective)
}

fn convolution(x: &Tensor, w: &Tensor, c: &Convolution) -> (f64, f64) {
    let n = c.stride.len();
    let lead = x.shape().len() - n - 1;
    let batch: usize = x.shape()[..lead].iter().product();
    let (channels, outputs, per_group) = (x.shape()[lead], w.shape()[0], w.shape()[1]);
    let (space, kernel) = (&x.shape()[lead + 1..], &w.shape()[2..]);
    let out: Vec<i64> =
        (0..n).map(|d| (space[d] as i64 + 2 * c.padding[d] - c.dilation[d] * (kernel[d] as i64 - 1) - 1) / c.stride[d] + 1).collect();
    let (strides, taps) = (snn_ir::tensor::row_major_strides(space), snn_ir::tensor::row_major_strides(kernel));
    let (plane, all_taps) = (space.iter().product::<usize>(), kernel.iter().product::<usize>());
    let in_group = outputs / c.groups as usize;
    let (xs, ws) = (x.as_f32(), w.as_f32());
    // For each position of a plane and tap: is there an output for it?
    let reaches = |p: usize, k: usize| {
        (0..n).all(|d| {
            let at = (p / strides[d] % space[d]) as i64 + c.padding[d] - (k / taps[d] % kernel[d]) as i64 * c.dilation[d];
            at >= 0 && at % c.stride[d] == 0 && at / c.stride[d] < out[d]
        })
    };
    let mut hits = vec![0f64; channels * plane];
    for b in 0..batch {
        for (h, v) in hits.iter_mut().zip(&xs[b * channels * plane..(b + 1) * channels * plane]) {
            *h += f64::from(u8::from(*v != 0.0));
        }
    }
    let (mut dense, mut effective) = (0.0, 0.0);
    for k in 0..all_taps {
        for p in (0..plane).filter(|p| reaches(*p, k)) {
            for i in 0..channels {
                let (group, within) = (i / per_group, i % per_group);
                let weights = (0..in_group).filter(|o| ws[((group * in_group + o) * per_group + within) * all_taps + k] != 0.0).count();
                dense += (batch * in_group) as f64;
                effective += hits[i * plane + p] * weights as f64;
            }
        }
    }
    (dense, effective)
}

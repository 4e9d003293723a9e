//! Weights as integers.
//!
//! A weight is `q 2^e` with an integer `q` of 8 or 16 bits and an exponent for each output channel. Because scales are powers of two, a sum of weights is
//! `2^e` times the sum of their integers, and f32 holds both exactly as long as the sum of `|q|` is below 2^24: a product with spikes is the integer
//! product, to the bit, on every back end.

use std::collections::BTreeSet;

use snn_ir::{Graph, Op, Tensor, Value};

/// How many bits weights have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightBits {
    /// 8, from -127 to 127.
    I8,
    /// 16, from -32767 to 32767.
    I16,
}

impl WeightBits {
    /// The largest integer.
    pub fn largest(self) -> f32 {
        match self {
            WeightBits::I8 => 127.0,
            WeightBits::I16 => 32767.0,
        }
    }
}

impl std::str::FromStr for WeightBits {
    type Err = String;
    fn from_str(text: &str) -> Result<WeightBits, String> {
        match text {
            "i8" => Ok(WeightBits::I8),
            "i16" => Ok(WeightBits::I16),
            other => Err(format!("`{other}` is none of i8, i16")),
        }
    }
}

/// The parameters of a graph that are weights of products and convolutions, `[outputs, ...]`.
pub fn weights(graph: &Graph) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect(graph, &[], &mut names);
    names
}

fn collect(graph: &Graph, outside: &[(Value, String)], names: &mut BTreeSet<String>) {
    // A parameter that only changes its shape on the way.
    let parameter = |mut v: Value| loop {
        if let Some((_, name)) = outside.iter().find(|(o, _)| *o == v) {
            return Some(name.clone());
        }
        let node = graph.node(v.node);
        match &node.op {
            Op::Parameter { name, .. } if node.types[0].rank() >= 2 => return Some(name.clone()),
            Op::Transpose { .. } => v = node.operands[0],
            _ => return None,
        }
    };
    for (_, node) in graph.nodes() {
        match &node.op {
            Op::Contract(_) => names.extend(node.operands.iter().filter_map(|v| parameter(*v))),
            Op::Conv(_) => names.extend(parameter(node.operands[1])),
            Op::Loop(l) => {
                let inner: Vec<(Value, String)> =
                    node.operands.iter().zip(&l.body.inputs).filter_map(|(v, input)| Some((*input, parameter(*v)?))).collect();
                collect(&l.body, &inner, names);
            }
            _ => {}
        }
    }
}

/// The nearest weights that are integers times a power of two, one for each output channel.
pub fn quantised(t: &Tensor, bits: WeightBits) -> Tensor {
    let channels = t.shape().first().copied().unwrap_or(1).max(1);
    let n = t.len() / channels;
    let mut data = Vec::with_capacity(t.len());
    for row in t.as_f32().chunks(n.max(1)) {
        let most = row.iter().fold(0f32, |m, x| m.max(x.abs()));
        if most == 0.0 || !most.is_finite() {
            data.extend(row);
            continue;
        }
        let largest = bits.largest();
        let exponent = (most / largest).log2().ceil().max(-120.0);
        // A smaller scale cuts off the largest weights and holds the others better.
        let round = |e: f32| -> Vec<f32> { row.iter().map(|x| (x / e.exp2()).round().clamp(-largest, largest) * e.exp2()).collect() };
        let error = |v: &[f32]| v.iter().zip(row).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let (usual, smaller) = (round(exponent), round(exponent - 1.0));
        data.extend(if error(&smaller) < error(&usual) { smaller } else { usual });
    }
    Tensor::f32(t.shape().to_vec(), data)
}

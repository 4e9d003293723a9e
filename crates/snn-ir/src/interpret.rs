//! The interpreter: the plain meaning of every operation, the oracle of all tests. It is slow and simple on purpose.

pub mod elementwise;
mod movement;
mod sums;

use std::collections::HashMap;

use crate::graph::{Graph, Node, Value};
use crate::op::{Loop, Op, Scan};
use crate::random::{TorchGenerator, fill_counter_based};
use crate::tensor::{Data, Tensor, element_count};
use crate::types::{DType, Type};

/// What a well-typed program can still do wrong at run time.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum RuntimeError {
    #[error("the input `{0}` is not given")]
    MissingInput(String),
    #[error("the parameter `{0}` is not given")]
    MissingParameter(String),
    #[error("`{name}` is {found}, and the program wants {expected}")]
    WrongType { name: String, expected: String, found: String },
    #[error("label {value} at index {index} is outside 0 ... {last}")]
    LabelOutOfRange { value: i64, index: usize, last: i64 },
    #[error("index {value} is outside 0 ... {last}")]
    IndexOutOfRange { value: i64, last: i64 },
    #[error("the remainder of a division by zero, at element {0}")]
    RemainderByZero(usize),
    #[error("the {0} of no elements")]
    EmptyReduction(&'static str),
    #[error("a size is not known: {0}")]
    UnknownSize(#[from] crate::dim::DimError),
    #[error("interrupted")]
    Interrupted,
    #[error("the device failed: {0}")]
    Device(String),
}

/// Where random numbers come from.
pub enum Randomness<'a> {
    /// Parameters: one generator that equals PyTorch's.
    Torch(&'a mut TorchGenerator),
    /// Everything at run time: numbers that depend on the seed and the operation only.
    Counter {
        /// The seed of the run.
        seed: u64,
    },
}

/// The results of a run: outputs, and new values of buffers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// Outputs by name, in order.
    pub outputs: Vec<(String, Tensor)>,
    /// New values of buffers, by the names of the parameters.
    pub updates: Vec<(String, Tensor)>,
}

/// Runs a graph whose dimensions are all bound. `tensors` holds inputs and parameters by name.
///
/// # Errors
/// See [`RuntimeError`].
pub fn interpret(graph: &Graph, tensors: &HashMap<String, Tensor>, randomness: &mut Randomness<'_>) -> Result<Results, RuntimeError> {
    interpret_watched(graph, tensors, randomness, |_, _| {})
}

/// As [`interpret`]; `watch` sees the results of each node, in the order of computation.
///
/// # Errors
/// See [`RuntimeError`].
pub fn interpret_watched(
    graph: &Graph,
    tensors: &HashMap<String, Tensor>,
    randomness: &mut Randomness<'_>,
    mut watch: impl FnMut(&Node, &[Tensor]),
) -> Result<Results, RuntimeError> {
    let live = graph.live_nodes();
    let mut values: Vec<Vec<Tensor>> = Vec::with_capacity(graph.len());
    for (id, node) in graph.nodes() {
        if !live[id.index()] {
            values.push(Vec::new());
            continue;
        }
        crate::interrupt::check()?;
        let given = if let Op::Input { name, .. } = &node.op {
            Some((name, RuntimeError::MissingInput as fn(String) -> RuntimeError))
        } else if let Op::Parameter { name, .. } = &node.op {
            Some((name, RuntimeError::MissingParameter as fn(String) -> RuntimeError))
        } else {
            None
        };
        let results = match given {
            Some((name, missing)) => vec![checked(name, tensors.get(name).ok_or_else(|| missing(name.clone()))?, &node.types[0])?],
            None => {
                let operands: Vec<&Tensor> = node.operands.iter().map(|v| &values[v.node.index()][v.result as usize]).collect();
                evaluate(&node.op, &operands, &node.types, randomness)?
            }
        };
        debug_assert!(results.iter().zip(&node.types).all(|(r, t)| t.sizes().is_ok_and(|s| s == r.shape())), "{:?}", node.op);
        watch(node, &results);
        values.push(results);
    }
    let of = |list: &[(String, Value)]| list.iter().map(|(n, v)| (n.clone(), values[v.node.index()][v.result as usize].clone())).collect();
    Ok(Results { outputs: of(&graph.outputs), updates: of(&graph.updates) })
}

/// The value of a graph without inputs, such as a parameter's initial value.
///
/// # Errors
/// See [`RuntimeError`].
pub fn evaluate_closed(graph: &Graph, randomness: &mut Randomness<'_>) -> Result<Tensor, RuntimeError> {
    let results = interpret(graph, &HashMap::new(), randomness)?;
    Ok(results.outputs.into_iter().next().map_or_else(|| Tensor::f32([0], vec![]), |(_, t)| t))
}

/// Checks that a given tensor has the type that a program wants.
///
/// # Errors
/// [`RuntimeError::WrongType`] if not.
pub fn checked(name: &str, tensor: &Tensor, ty: &Type) -> Result<Tensor, RuntimeError> {
    if tensor.dtype() == ty.dtype && ty.sizes()? == tensor.shape() {
        return Ok(tensor.clone());
    }
    Err(RuntimeError::WrongType { name: name.into(), expected: ty.to_string(), found: tensor.ty().to_string() })
}

/// The results of one operation. `types` are those of its results, with all dimensions bound.
///
/// # Errors
/// See [`RuntimeError`].
pub fn evaluate(op: &Op, operands: &[&Tensor], types: &[Type], randomness: &mut Randomness<'_>) -> Result<Vec<Tensor>, RuntimeError> {
    let shape = types[0].sizes()?;
    let one = |t: Tensor| Ok(vec![t]);
    match op {
        Op::Input { name: n, .. } => Err(RuntimeError::MissingInput(n.clone())),
        Op::Parameter { name: n, .. } => Err(RuntimeError::MissingParameter(n.clone())),
        Op::Constant(t) => one(t.clone()),
        Op::Size(d) => one(Tensor::i64([], vec![d.evaluate(&crate::Dims::new())?])),
        Op::Iota { .. } => one(Tensor::i64(shape.clone(), (0..shape[0] as i64).collect())),
        Op::Random { distribution, stream, .. } => {
            let n = element_count(&shape).unwrap_or(0);
            let data = match randomness {
                Randomness::Torch(g) => g.fill(*distribution, n),
                Randomness::Counter { seed } => fill_counter_based(*distribution, *seed, *stream, n),
            };
            one(Tensor::f32(shape, data))
        }
        Op::Unary(u) => one(elementwise::unary(*u, operands[0])),
        Op::Binary(b) => one(elementwise::binary(*b, operands[0], operands[1])?),
        Op::Select => one(elementwise::select(operands[0], operands[1], operands[2])),
        Op::Cast { .. } => one(elementwise::cast(operands[0], types[0].dtype)),
        Op::Spike { strict, .. } => one(elementwise::spike(*strict, operands[0])),
        Op::Broadcast { axes, .. } => one(movement::broadcast(operands[0], axes, &shape)),
        Op::Reshape { .. } => one(operands[0].reshaped(shape)),
        Op::Transpose { permutation } => one(movement::transpose(operands[0], permutation)),
        Op::Slice { axis, start, step, .. } => {
            let start = start.evaluate(&crate::Dims::new())?;
            one(movement::slice(operands[0], *axis, start, *step, shape[*axis]))
        }
        Op::Pad { axis, low, value, .. } => {
            let low = low.evaluate(&crate::Dims::new())?;
            one(movement::pad(operands[0], *axis, low, shape[*axis], *value))
        }
        Op::Concat { axis } => one(movement::concat(operands, *axis)),
        Op::Gather { axis } => one(movement::gather(operands[0], operands[1], *axis)?),
        Op::ScatterAdd { axis } => one(movement::scatter_add(operands[0], operands[1], operands[2], *axis)?),
        Op::Window { axis, size, stride, dilation } => one(movement::window(operands[0], *axis, *size, *stride, *dilation, shape[*axis])),
        Op::MaxPoolGradient(p) => one(sums::max_pool_gradient(operands[0], operands[1], operands[2], p)),
        Op::Reduce { kind, axes } => one(sums::reduce(operands[0], *kind, axes)?),
        Op::ArgMax { axis } => one(sums::argmax(operands[0], *axis)?),
        Op::CumSum { axis } => one(sums::cumsum(operands[0], *axis)),
        Op::Contract(c) => one(sums::contract(operands[0], operands[1], c, &shape)),
        Op::Conv(c) => one(sums::convolve(operands[0], operands[1], c, &shape)),
        Op::ConvInputGradient(c) => one(sums::convolution_input_gradient(operands[0], operands[1], c, &shape)),
        Op::ConvWeightGradient(c) => one(sums::convolution_weight_gradient(operands[0], operands[1], c, &shape)),
        Op::Delay { steps } => one(movement::delay(operands[0], *steps)),
        Op::FirstSpike { axis } => {
            let twice = sums::steps_summed(&sums::steps_summed(&numeric(operands[0]), *axis), *axis);
            let hits = match twice.data() {
                Data::F32(v) => v.iter().map(|x| u8::from(*x == 1.0)).collect(),
                Data::I64(_) | Data::Bool(_) | Data::U8(_) => twice.to_i64().into_iter().map(|x| u8::from(x == 1)).collect(),
            };
            one(Tensor::bool(shape, hits))
        }
        Op::RedundantOneHot { classes, repeat } => one(redundant_one_hot(operands[0], *classes, *repeat, shape)?),
        Op::ThresholdMargin { off, on } => {
            let data = operands[0].as_f32().iter().map(|l| if *l == 1.0 { *on } else { *off }).collect();
            one(Tensor::f32(shape, data))
        }
        Op::Scan(s) => scan(s, operands, types, randomness),
        Op::Loop(l) => repeat(l, operands, types, randomness),
    }
}

fn numeric(t: &Tensor) -> Tensor {
    match t.dtype() {
        DType::F32 | DType::I64 => t.clone(),
        DType::Bool | DType::U8 => elementwise::cast(t, DType::I64),
    }
}

fn redundant_one_hot(labels: &Tensor, classes: i64, repeat: i64, shape: Vec<usize>) -> Result<Tensor, RuntimeError> {
    let width = (classes * repeat) as usize;
    let mut data = vec![0.0; labels.len() * width];
    for (index, value) in labels.to_i64().into_iter().enumerate() {
        if value < 0 || value >= classes {
            return Err(RuntimeError::LabelOutOfRange { value, index, last: classes - 1 });
        }
        let first = index * width + (value * repeat) as usize;
        data[first..first + repeat as usize].fill(1.0);
    }
    Ok(Tensor::f32(shape, data))
}

/// A step function on whole tensors, one time step after the other.
fn scan(s: &Scan, operands: &[&Tensor], types: &[Type], randomness: &mut Randomness<'_>) -> Result<Vec<Tensor>, RuntimeError> {
    let steps = operands[0].shape()[0];
    let element = &operands[0].shape()[1..];
    let n = element_count(element).unwrap_or(0);
    // Each scalar of the body becomes the row of that scalar for every element.
    let broadcast = |t: &Tensor| {
        let axes: Vec<usize> = (element.len() - t.shape().len()..element.len()).collect();
        movement::broadcast(t, &axes, element).reshaped([n])
    };
    let fixed: Vec<Tensor> = operands[s.roles.sequences..].iter().map(|t| broadcast(t)).collect();
    let (invariants, initial) = fixed.split_at(s.roles.invariants);
    let mut states = initial.to_vec();
    let mut collected: Vec<Vec<Tensor>> = vec![Vec::new(); s.roles.outputs];
    for step in 0..steps {
        crate::interrupt::check()?;
        let t = if s.reverse { steps - 1 - step } else { step };
        let rows = operands[..s.roles.sequences].iter().map(|x| row(x, t, n));
        let inputs: Vec<Tensor> = rows.chain(invariants.iter().cloned()).chain(states.iter().cloned()).collect();
        let mut results = lifted(&s.body, &inputs, n, randomness)?;
        states = results.split_off(s.roles.outputs);
        for (list, result) in collected.iter_mut().zip(results) {
            list.push(result);
        }
    }
    let mut all = Vec::new();
    for (rows, ty) in collected.into_iter().zip(types) {
        all.push(stacked(rows, s.reverse, ty)?);
    }
    for (state, ty) in states.into_iter().zip(&types[s.roles.outputs..]) {
        all.push(state.reshaped(ty.sizes()?));
    }
    Ok(all)
}

fn row(x: &Tensor, t: usize, n: usize) -> Tensor {
    movement::slice(x, 0, t as i64, 1, 1).reshaped([n])
}

/// One step of each row, joined along time; `reverse` where the last step came first.
///
/// # Errors
/// If a size of the type is not known.
pub fn stacked(mut rows: Vec<Tensor>, reverse: bool, ty: &Type) -> Result<Tensor, RuntimeError> {
    let shape = ty.sizes()?;
    if rows.is_empty() {
        return Ok(Tensor::zeros(ty.dtype, shape));
    }
    if reverse {
        rows.reverse();
    }
    let rows: Vec<Tensor> = rows.iter().map(|r| r.reshaped([1, r.len()])).collect();
    Ok(movement::concat(&rows.iter().collect::<Vec<_>>(), 0).reshaped(shape))
}

/// A graph of scalars, each scalar replaced by `n` of them.
fn lifted(body: &Graph, inputs: &[Tensor], n: usize, randomness: &mut Randomness<'_>) -> Result<Vec<Tensor>, RuntimeError> {
    let row_type = |t: &Type| Type::new(t.dtype, [crate::Dim::constant(n as i64)]);
    let mut values: Vec<Vec<Tensor>> = Vec::with_capacity(body.len());
    for (id, node) in body.nodes() {
        let results = if let Some(i) = body.inputs.iter().position(|v| v.node == id) {
            vec![inputs[i].clone()]
        } else {
            let operands: Vec<&Tensor> = node.operands.iter().map(|v| &values[v.node.index()][v.result as usize]).collect();
            if let Op::Constant(t) = &node.op {
                vec![movement::broadcast(&t.reshaped([1]), &[0], &[n])]
            } else {
                evaluate(&node.op, &operands, &[row_type(&node.types[0])], randomness)?
            }
        };
        values.push(results);
    }
    Ok(body.outputs.iter().map(|(_, v)| values[v.node.index()][v.result as usize].clone()).collect())
}

/// A graph once for each time step.
fn repeat(l: &Loop, operands: &[&Tensor], types: &[Type], randomness: &mut Randomness<'_>) -> Result<Vec<Tensor>, RuntimeError> {
    let steps = l.steps.evaluate(&crate::Dims::new())? as usize;
    let first_state = l.roles.first_state();
    let mut states: Vec<Tensor> = operands[first_state..].iter().map(|t| (*t).clone()).collect();
    let mut collected: Vec<Vec<Tensor>> = vec![Vec::new(); l.roles.outputs];
    for step in 0..steps {
        let t = if l.reverse { steps - 1 - step } else { step };
        let mut tensors = HashMap::new();
        for (i, v) in l.body.inputs.iter().enumerate() {
            let tensor = if i < l.roles.sequences {
                movement::slice(operands[i], 0, t as i64, 1, 1)
            } else if i < first_state {
                operands[i].clone()
            } else {
                states[i - first_state].clone()
            };
            tensors.insert(l.body.input_name(*v).to_string(), tensor);
        }
        let mut results: Vec<Tensor> = interpret(&l.body, &tensors, randomness)?.outputs.into_iter().map(|(_, t)| t).collect();
        states = results.split_off(l.roles.outputs);
        for (list, result) in collected.iter_mut().zip(results) {
            list.push(result);
        }
    }
    let mut all = Vec::new();
    for (rows, ty) in collected.into_iter().zip(types) {
        all.push(stacked(rows, l.reverse, ty)?);
    }
    all.extend(states);
    Ok(all)
}

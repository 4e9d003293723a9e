//! Elementwise operations over [`Lanes`]: what a generated kernel computes, whoever writes it.
//!
//! A code generator gives the few instructions of [`Lanes`]; the operations of the IR on elements, and with them every step
//! function, follow from here. So machine code, CUDA and Metal text are one computation in three spellings.

use std::collections::HashMap;

use crate::graph::{Graph, Value};
use crate::math::{self, Lanes};
use crate::op::{BinaryOp, Op, UnaryOp};
use crate::tensor::{Data, Tensor};
use crate::types::DType;

/// A value in a kernel: floats, booleans, or integers that were bytes.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Lane<F, I, M> {
    Float(F),
    Mask(M),
    Int(I),
}

/// The lanes of a code generator.
pub type LaneOf<L> = Lane<<L as Lanes>::F, <L as Lanes>::I, <L as Lanes>::M>;

/// A constant of a type that kernels have.
pub fn constant<L: Lanes>(l: &mut L, tensor: &Tensor) -> Option<LaneOf<L>> {
    match tensor.data() {
        Data::F32(v) => Some(Lane::Float(l.float(*v.first()?))),
        Data::Bool(v) => {
            let (one, it) = (l.int(1), l.int(i32::from(*v.first()?)));
            Some(Lane::Mask(l.int_eq(it, one)))
        }
        Data::I64(_) | Data::U8(_) => None,
    }
}

/// One elementwise operation. `constants` are those of its operands that are known; the caller has asked [`supports`].
pub fn operation<L: Lanes>(l: &mut L, op: &Op, operands: &[LaneOf<L>], to: DType, constants: &[Option<f32>]) -> LaneOf<L> {
    use Lane::{Float, Mask};
    match (op, operands) {
        (Op::Unary(UnaryOp::Not), [Mask(m)]) => Mask(l.not(*m)),
        (Op::Unary(u), [Float(x)]) => Float(unary(l, *u, *x)),
        (Op::Binary(op @ (BinaryOp::And | BinaryOp::Or)), [Mask(a), Mask(b)]) => {
            Mask(if *op == BinaryOp::And { l.and(*a, *b) } else { l.or(*a, *b) })
        }
        (Op::Binary(op), [Float(a), Float(b)]) => binary(l, *op, *a, *b, constants),
        (Op::Select, [Mask(m), Float(a), Float(b)]) => Float(l.select(*m, *a, *b)),
        (Op::Spike { strict, .. }, [Float(u)]) => {
            let (zero, one) = (l.float(0.0), l.float(1.0));
            let fires = if *strict { l.lt(zero, *u) } else { l.le(zero, *u) };
            Float(l.select(fires, one, zero))
        }
        (Op::Cast { .. }, [x]) => cast(l, *x, to),
        (Op::Unary(UnaryOp::Detach), [x]) => *x,
        (op, _) => unreachable!("kernels do not support {} here: the caller has not asked", crate::text::op_name(op)),
    }
}

fn cast<L: Lanes>(l: &mut L, x: LaneOf<L>, to: DType) -> LaneOf<L> {
    match (x, to) {
        (Lane::Mask(m), DType::F32) => {
            let (zero, one) = (l.float(0.0), l.float(1.0));
            Lane::Float(l.select(m, one, zero))
        }
        (Lane::Int(i), DType::F32) => Lane::Float(l.to_float(i)),
        (Lane::Int(i), DType::Bool) => {
            let zero = l.int(0);
            let equal = l.int_eq(i, zero);
            Lane::Mask(l.not(equal))
        }
        (Lane::Float(f), DType::Bool) => {
            let zero = l.float(0.0);
            let equal = l.eq(f, zero);
            Lane::Mask(l.not(equal))
        }
        (x, _) => x,
    }
}

fn unary<L: Lanes>(l: &mut L, op: UnaryOp, x: L::F) -> L::F {
    match op {
        UnaryOp::Neg => l.neg(x),
        UnaryOp::Abs => l.abs(x),
        UnaryOp::Sqrt => l.sqrt(x),
        UnaryOp::Floor => l.floor(x),
        UnaryOp::Round => l.round(x),
        UnaryOp::Exp => l.exponential(x),
        UnaryOp::Log => math::log(l, x),
        UnaryOp::Sin => math::sin(l, x),
        UnaryOp::Cos => math::cos(l, x),
        UnaryOp::Tanh => math::tanh(l, x),
        UnaryOp::Erf => math::erf(l, x),
        UnaryOp::Not | UnaryOp::Detach => x,
    }
}

fn binary<L: Lanes>(l: &mut L, op: BinaryOp, a: L::F, b: L::F, constants: &[Option<f32>]) -> LaneOf<L> {
    let float = match op {
        BinaryOp::Add => l.add(a, b),
        BinaryOp::Sub => l.sub(a, b),
        BinaryOp::Mul => l.mul(a, b),
        BinaryOp::Div => match constants.get(1).copied().flatten().and_then(exact_reciprocal) {
            // Division by a power of two is multiplication by its reciprocal, to the bit.
            Some(r) => {
                let r = l.float(r);
                l.mul(a, r)
            }
            None => l.div(a, b),
        },
        BinaryOp::Rem => math::rem(l, a, b),
        BinaryOp::Pow => math::pow(l, a, b),
        BinaryOp::Max => l.max(a, b),
        BinaryOp::Min => l.min(a, b),
        BinaryOp::Lt => return Lane::Mask(l.lt(a, b)),
        BinaryOp::Le => return Lane::Mask(l.le(a, b)),
        BinaryOp::Gt => return Lane::Mask(l.lt(b, a)),
        BinaryOp::Ge => return Lane::Mask(l.le(b, a)),
        BinaryOp::Eq => return Lane::Mask(l.eq(a, b)),
        BinaryOp::Ne | BinaryOp::And | BinaryOp::Or => {
            let equal = l.eq(a, b);
            return Lane::Mask(l.not(equal));
        }
    };
    Lane::Float(float)
}

/// The outputs of a graph of scalars, the step of a neuron. The caller has asked [`supports_graph`].
pub fn graph<L: Lanes>(l: &mut L, graph: &Graph, inputs: &[LaneOf<L>]) -> Vec<LaneOf<L>> {
    let mut values: HashMap<Value, LaneOf<L>> = graph.inputs.iter().copied().zip(inputs.iter().copied()).collect();
    for (id, node) in graph.nodes() {
        let value = Value { node: id, result: 0 };
        if values.contains_key(&value) {
            continue;
        }
        let lane = if let Op::Constant(t) = &node.op {
            constant(l, t)
        } else {
            let operands: Vec<LaneOf<L>> = node.operands.iter().filter_map(|v| values.get(v).copied()).collect();
            let constants: Vec<Option<f32>> = node.operands.iter().map(|v| graph.constant_f32(*v)).collect();
            Some(operation(l, &node.op, &operands, node.types[0].dtype, &constants))
        };
        if let Some(lane) = lane {
            values.insert(value, lane);
        }
    }
    graph.outputs.iter().filter_map(|(_, v)| values.get(v).copied()).collect()
}

/// `1 / x` where that is exact and normal: of powers of two.
fn exact_reciprocal(x: f32) -> Option<f32> {
    let r = 1.0 / x;
    (x.is_normal() && r.is_normal() && x.to_bits() & 0x007f_ffff == 0).then_some(r)
}

/// Can kernels do this operation on elements of these types?
pub fn supports(op: &Op, operands: &[DType], result: DType) -> bool {
    use DType::{Bool, F32, U8};
    if let Op::Unary(u) = op {
        match u {
            UnaryOp::Not => operands == [Bool],
            UnaryOp::Detach => matches!(operands, [F32 | Bool]),
            UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Exp | UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Sin => operands == [F32],
            UnaryOp::Cos | UnaryOp::Tanh | UnaryOp::Erf | UnaryOp::Floor | UnaryOp::Round => operands == [F32],
        }
    } else if let Op::Binary(b) = op {
        operands == if matches!(b, BinaryOp::And | BinaryOp::Or) { [Bool, Bool] } else { [F32, F32] }
    } else if let Op::Spike { .. } = op {
        operands == [F32]
    } else if let Op::Select = op {
        operands == [Bool, F32, F32]
    } else if let Op::Cast { .. } = op {
        matches!((operands, result), ([F32 | Bool | U8], F32 | Bool))
    } else {
        false
    }
}

/// Can kernels run this graph of scalars?
pub fn supports_graph(graph: &Graph) -> bool {
    graph.nodes().all(|(_, node)| {
        let operands: Vec<DType> = node.operands.iter().map(|v| graph.ty(*v).dtype).collect();
        if let Op::Input { .. } = &node.op {
            node.types[0].dtype == DType::F32
        } else if let Op::Constant(t) = &node.op {
            matches!(t.dtype(), DType::F32 | DType::Bool)
        } else {
            supports(&node.op, &operands, node.types[0].dtype)
        }
    }) && graph.outputs.iter().all(|(_, v)| graph.ty(*v).dtype == DType::F32)
}

//! Operations that are not fused, as loops in the interpreter's order.

use snn_ir::tensor::row_major_strides;
use snn_ir::{BinaryOp, Contraction, Convolution, DType, Distribution, Graph, Node, NodeId, Op, Reduction, UnaryOp, Value};

use crate::CError;
use crate::kernels::{c_type, literal};
use crate::program::{Body, Weights, integer};

/// Functions on integers, whose arithmetic wraps and whose conversions saturate.
pub const HELPERS: &str = "\
INLINE wide wide_of(float x) {
  if (x != x) return 0;
  if (x >= 9223372036854775808.0f) return INT64_MAX;
  if (x < -9223372036854775808.0f) return INT64_MIN;
  return (wide)x;
}
INLINE wide wide_remainder(wide a, wide b) {
  if (b == 0 || b == -1) return 0;
  const wide r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
INLINE void philox(const uint32_t key[2], uint32_t c[4]) {
  uint32_t k0 = key[0], k1 = key[1];
  for (int i = 0; i < 10; ++i) {
    const unsigned_wide p0 = (unsigned_wide)c[0] * 0xd2511f53u, p1 = (unsigned_wide)c[2] * 0xcd9e8d57u;
    const uint32_t c1 = c[1], c3 = c[3];
    c[0] = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c[1] = (uint32_t)p1;
    c[2] = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c[3] = (uint32_t)p0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
}
INLINE void uniform(float *y, unsigned_wide first, int n, unsigned_wide seed, uint32_t stream) {
  const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  for (int i = 0; i < n; ++i) {
    const unsigned_wide place = first + (unsigned_wide)i;
    uint32_t c[4] = {(uint32_t)(place / 4), (uint32_t)(place / 4 >> 32), stream, 0};
    philox(key, c);
    y[i] = (float)(c[place % 4] >> 8) / 16777216.0f;
  }
}
";

/// An error that names a node.
pub fn refuse(node: &Node, why: &str) -> CError {
    CError::Operation { what: node.name.clone().unwrap_or_else(|| snn_ir::text::op_name(&node.op)), span: node.span, why: why.into() }
}

/// The values that a node reads in memory: a product reads a transposed operand where it is.
pub fn reads(graph: &Graph, id: NodeId) -> Vec<Value> {
    let node = graph.node(id);
    let read = |v: &Value| match (&node.op, graph.op(*v)) {
        (Op::Contract(_), Op::Transpose { .. }) => graph.node(v.node).operands[0],
        _ => *v,
    };
    node.operands.iter().map(read).collect()
}

fn dims(graph: &Graph, v: Value) -> Result<Vec<usize>, CError> {
    Ok(graph.ty(v).sizes().map_err(snn_ir::RuntimeError::from)?)
}

/// A sum of products as an index.
fn index(terms: &[(String, usize)], offset: usize) -> String {
    let mut parts: Vec<String> =
        terms.iter().filter(|(_, s)| *s != 0).map(|(i, s)| if *s == 1 { i.clone() } else { format!("{i} * {s}") }).collect();
    if offset > 0 || parts.is_empty() {
        parts.push(offset.to_string());
    }
    parts.join(" + ")
}

/// Loops over axes that are longer than 1, with their strides.
fn nest(body: &mut Body, axes: &[(usize, usize)]) -> (Vec<(String, usize)>, usize) {
    let mut terms = vec![];
    for (n, stride) in axes.iter().filter(|(n, _)| *n != 1) {
        terms.push((body.open(*n), *stride));
    }
    let depth = terms.len();
    (terms, depth)
}

/// Windows over the last two axes.
#[allow(clippy::too_many_arguments)]
pub fn windows(
    body: &mut Body,
    x: &str,
    y: &str,
    kind: Reduction,
    planes: usize,
    input: [usize; 2],
    output: [usize; 2],
    size: [usize; 2],
    stride: [usize; 2],
) {
    let p = body.open(planes);
    let (i, j) = (body.open(output[0]), body.open(output[1]));
    let (ty, start) = accumulator(kind, DType::F32);
    body.line(&format!("{ty} best = {start};"));
    let (k, l) = (body.open(size[0]), body.open(size[1]));
    let plane = input[0] * input[1];
    let at = format!("{p} * {plane} + ({i} * {} + {k}) * {} + {j} * {} + {l}", stride[0], input[1], stride[1]);
    body.line(&format!("best = {};", accumulate(kind, DType::F32, "best", &format!("{x}[{at}]"))));
    body.close(2);
    body.line(&format!("{y}[({p} * {} + {i}) * {} + {j}] = (float)best;", output[0], output[1]));
    body.close(3);
}

/// What a reduction adds up in, and what it begins with.
fn accumulator(kind: Reduction, dtype: DType) -> (&'static str, &'static str) {
    match (kind, dtype) {
        // Sums of floats do not depend on their order in f64.
        (Reduction::Sum, DType::F32) => ("double", "0.0"),
        (Reduction::Max, DType::F32) => ("float", "-INFINITY"),
        (Reduction::Min, DType::F32) => ("float", "INFINITY"),
        (Reduction::Sum, _) => ("wide", "0"),
        (Reduction::Max, _) => ("wide", "INT64_MIN"),
        (Reduction::Min, _) => ("wide", "INT64_MAX"),
    }
}

fn accumulate(kind: Reduction, dtype: DType, acc: &str, x: &str) -> String {
    match (kind, dtype) {
        (Reduction::Sum, DType::F32) => format!("{acc} + (double){x}"),
        (Reduction::Max, DType::F32) => format!("largest({acc}, {x})"),
        (Reduction::Min, DType::F32) => format!("smallest({acc}, {x})"),
        (Reduction::Sum, _) => format!("(wide)((unsigned_wide){acc} + (unsigned_wide)(wide){x})"),
        (Reduction::Max, _) => format!("(wide){x} > {acc} ? (wide){x} : {acc}"),
        (Reduction::Min, _) => format!("(wide){x} < {acc} ? (wide){x} : {acc}"),
    }
}

/// Does a product have one axis of outputs, which is the first of its weights?
pub fn outputs_first(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let Op::Contract(c) = &node.op else { return false };
    let right = node.operands[1];
    let (_, free) = c.free_axes(graph.ty(node.operands[0]).rank(), graph.ty(right).rank());
    let source = |a: usize| if let Op::Transpose { permutation } = graph.op(right) { permutation[a] } else { a };
    matches!(free[..], [a] if source(a) == 0) && c.rhs_batch.is_empty()
}

/// One operation: where its operands are, and where its results go; `weights` are its second, where that is stored in the form of weights.
pub fn operation(body: &mut Body, graph: &Graph, id: NodeId, x: &[String], y: &[String], weights: Option<&Weights>) -> Result<(), CError> {
    let node = graph.node(id);
    let out = Value { node: id, result: 0 };
    let shape = dims(graph, out)?;
    let total: usize = shape.iter().product();
    let dtype = node.types[0].dtype;
    let size = c_type(dtype);
    let y = &y[0];
    let own = |i: usize| dims(graph, node.operands[i]);
    match &node.op {
        Op::Contract(c) => contract(body, graph, node, c, x, y, weights),
        Op::Conv(c) => convolve(body, graph, node, c, &shape, x, y, weights),
        Op::ConvInputGradient(c) => convolve_transposed(body, graph, node, c, &shape, x, y),
        Op::Reshape { .. } => {
            body.line(&format!("memcpy({y}, {}, {total} * sizeof({size}));", x[0]));
            Ok(())
        }
        Op::Broadcast { axes, .. } => {
            let from = own(0)?;
            let mut strides = vec![0; shape.len()];
            for ((axis, n), stride) in axes.iter().zip(&from).zip(row_major_strides(&from)) {
                strides[*axis] = if *n == 1 { 0 } else { stride };
            }
            strided(body, &shape, &strides, 0, &x[0], y);
            Ok(())
        }
        Op::Transpose { permutation } => {
            let from = row_major_strides(&own(0)?);
            let strides: Vec<usize> = permutation.iter().map(|a| from[*a]).collect();
            strided(body, &shape, &strides, 0, &x[0], y);
            Ok(())
        }
        Op::Slice { axis, start, step, .. } => {
            let start = start.evaluate(&snn_ir::Dims::new()).map_err(snn_ir::RuntimeError::from)? as usize;
            let mut strides = row_major_strides(&own(0)?);
            let offset = start * strides[*axis];
            strides[*axis] *= *step as usize;
            strided(body, &shape, &strides, offset, &x[0], y);
            Ok(())
        }
        Op::Window { axis, stride, dilation, .. } => {
            let from = row_major_strides(&own(0)?);
            let mut strides = from.clone();
            strides[*axis] = from[*axis] * *stride as usize;
            strides.push(from[*axis] * *dilation as usize);
            strided(body, &shape, &strides, 0, &x[0], y);
            Ok(())
        }
        Op::Pad { axis, low, value, .. } => {
            let low = low.evaluate(&snn_ir::Dims::new()).map_err(snn_ir::RuntimeError::from)?;
            let from = own(0)?;
            let inner: usize = shape[axis + 1..].iter().product();
            let outer: usize = shape[..*axis].iter().product();
            let fill = match dtype {
                DType::F32 if value.is_finite() => literal(*value),
                DType::F32 if value.is_nan() => "NAN".into(),
                DType::F32 => (if *value > 0.0 { "INFINITY" } else { "-INFINITY" }).to_string(),
                DType::I64 => integer(*value as i64),
                DType::Bool | DType::U8 => (*value as u8).to_string(),
            };
            let i = body.open(total);
            body.line(&format!("{y}[{i}] = {fill};"));
            body.close(1);
            // What is cut off where the padding is negative.
            let first = (-low).max(0) as usize;
            let at = low.max(0) as usize;
            let n = from[*axis].saturating_sub(first).min(shape[*axis].saturating_sub(at));
            if n > 0 {
                let o = body.open(outer);
                body.line(&format!(
                    "memcpy({y} + ({o} * {} + {at}) * {inner}, {} + ({o} * {} + {first}) * {inner}, {} * sizeof({size}));",
                    shape[*axis],
                    x[0],
                    from[*axis],
                    n * inner
                ));
                body.close(1);
            }
            Ok(())
        }
        Op::Concat { axis } => {
            let inner: usize = shape[axis + 1..].iter().product();
            let outer: usize = shape[..*axis].iter().product();
            let mut at = 0;
            for (i, place) in x.iter().enumerate() {
                let n = own(i)?[*axis];
                let o = body.open(outer);
                body.line(&format!(
                    "memcpy({y} + ({o} * {} + {at}) * {inner}, {place} + {o} * {}, {} * sizeof({size}));",
                    shape[*axis],
                    n * inner,
                    n * inner
                ));
                body.close(1);
                at += n;
            }
            Ok(())
        }
        Op::Delay { steps } => {
            let inner: usize = shape[1..].iter().product();
            let by = usize::try_from(*steps).unwrap_or(usize::MAX).min(shape[0]) * inner;
            body.line(&format!("memset({y}, 0, {by} * sizeof({size}));"));
            if total > by {
                body.line(&format!("memcpy({y} + {by}, {}, {} * sizeof({size}));", x[0], total - by));
            }
            Ok(())
        }
        Op::Gather { axis } => {
            let (from, indices) = (own(0)?, own(1)?);
            let inner: usize = from[axis + 1..].iter().product();
            let outer: usize = from[..*axis].iter().product();
            let n: usize = indices.iter().product();
            let (o, i) = (body.open(outer), body.open(n));
            body.line(&format!("const wide at = {}[{i}];", x[1]));
            body.line(&format!("if (at >= 0 && at < {}) {{", from[*axis]));
            body.line(&format!(
                "  memcpy({y} + ({o} * {n} + {i}) * {inner}, {} + ({o} * {} + at) * {inner}, {inner} * sizeof({size}));",
                x[0], from[*axis]
            ));
            body.line("} else {");
            body.line(&format!("  memset({y} + ({o} * {n} + {i}) * {inner}, 0, {inner} * sizeof({size}));"));
            body.line("}");
            body.close(2);
            Ok(())
        }
        Op::ScatterAdd { axis } => {
            let (to, indices) = (own(0)?, own(1)?);
            let inner: usize = to[axis + 1..].iter().product();
            let outer: usize = to[..*axis].iter().product();
            let n: usize = indices.iter().product();
            body.line(&format!("memcpy({y}, {}, {total} * sizeof({size}));", x[0]));
            let (o, i) = (body.open(outer), body.open(n));
            body.line(&format!("const wide at = {}[{i}];", x[1]));
            body.line(&format!("if (at < 0 || at >= {}) continue;", to[*axis]));
            let k = body.open(inner);
            let place = format!("{y}[({o} * {} + at) * {inner} + {k}]", to[*axis]);
            let value = format!("{}[({o} * {n} + {i}) * {inner} + {k}]", x[2]);
            body.line(&format!("{place} = {};", sum(dtype, &place, &value)));
            body.close(3);
            Ok(())
        }
        Op::Reduce { kind, axes } => {
            let from = own(0)?;
            let strides = row_major_strides(&from);
            let of = |wanted: bool| -> Vec<(usize, usize)> {
                (0..from.len()).filter(|a| axes.contains(a) == wanted).map(|a| (from[a], strides[a])).collect()
            };
            let element = graph.ty(node.operands[0]).dtype;
            let (ty, start) = accumulator(*kind, element);
            body.line("{");
            body.depth += 1;
            let counter = body.fresh("n");
            body.line(&format!("int {counter} = 0;"));
            let (mut terms, depth) = nest(body, &of(false));
            body.line(&format!("{ty} best = {start};"));
            let (inner, inside) = nest(body, &of(true));
            terms.extend(inner);
            body.line(&format!("best = {};", accumulate(*kind, element, "best", &format!("{}[{}]", x[0], index(&terms, 0)))));
            body.close(inside);
            body.line(&format!("{y}[{counter}++] = ({size})best;"));
            body.close(depth);
            body.close(1);
            Ok(())
        }
        Op::ArgMax { axis } => {
            let from = own(0)?;
            let n = from[*axis];
            let inner: usize = from[axis + 1..].iter().product();
            let element = graph.ty(node.operands[0]).dtype;
            let i = body.open(total);
            let (at, of) = (format!("({i} / {inner} * {n})"), format!("{i} % {inner}"));
            let element_type = if element == DType::I64 { "wide" } else { "float" };
            body.line("int best = 0;");
            body.line(&format!("{element_type} largest_so_far = ({element_type}){}[{at} * {inner} + {of}];", x[0]));
            let k = body.fresh("k");
            body.line(&format!("for (int {k} = 1; {k} < {n}; ++{k}) {{"));
            body.depth += 1;
            body.line(&format!("const {element_type} value = ({element_type}){}[({at} + {k}) * {inner} + {of}];", x[0]));
            let nan = if element == DType::I64 { "" } else { " || (value != value && largest_so_far == largest_so_far)" };
            body.line(&format!("if (value > largest_so_far{nan}) {{"));
            body.line("  largest_so_far = value;");
            body.line(&format!("  best = {k};"));
            body.line("}");
            body.close(1);
            body.line(&format!("{y}[{i}] = best;"));
            body.close(1);
            Ok(())
        }
        Op::CumSum { axis } | Op::FirstSpike { axis } => {
            let n = shape[*axis];
            let inner: usize = shape[axis + 1..].iter().product();
            let outer: usize = shape[..*axis].iter().product();
            let is_float = graph.ty(node.operands[0]).dtype == DType::F32;
            let first = matches!(node.op, Op::FirstSpike { .. });
            let ty = match (is_float, first) {
                (true, false) => "double",
                (true, true) => "float",
                (false, _) => "wide",
            };
            let (o, i) = (body.open(outer), body.open(inner));
            body.line(&format!("{ty} sum = 0;"));
            if first {
                body.line(&format!("{ty} twice = 0;"));
            }
            let t = body.open(n);
            let at = format!("({o} * {n} + {t}) * {inner} + {i}");
            let add = |a: &str, b: &str| match is_float {
                true => format!("{a} + {b}"),
                false => format!("(wide)((unsigned_wide){a} + (unsigned_wide){b})"),
            };
            body.line(&format!("sum = {};", add("sum", &format!("({ty}){}[{at}]", x[0]))));
            if first {
                body.line(&format!("twice = {};", add("twice", "sum")));
                body.line(&format!("{y}[{at}] = twice == 1;"));
            } else {
                body.line(&format!("{y}[{at}] = ({size})sum;"));
            }
            body.close(3);
            Ok(())
        }
        Op::RedundantOneHot { classes, repeat } => {
            let width = (classes * repeat) as usize;
            let n = total / width.max(1);
            body.line(&format!("memset({y}, 0, {total} * sizeof(float));"));
            let i = body.open(n);
            body.line(&format!("if ({}[{i}] < 0 || {}[{i}] >= {classes}) continue;", x[0], x[0]));
            let k = body.open(*repeat as usize);
            body.line(&format!("{y}[{i} * {width} + {}[{i}] * {repeat} + {k}] = 1.0f;", x[0]));
            body.close(2);
            Ok(())
        }
        op if op.is_elementwise() => {
            let from = graph.ty(node.operands[0]).dtype;
            let i = body.open(total);
            let at: Vec<String> = x.iter().map(|p| format!("{p}[{i}]")).collect();
            let Some(value) = element(op, from, dtype, &at) else {
                return Err(refuse(node, "elements of this type"));
            };
            body.line(&format!("{y}[{i}] = {value};"));
            body.close(1);
            Ok(())
        }
        Op::Random { distribution: Distribution::Uniform, stream, .. } => {
            body.line(&format!("uniform({y}, 0, {total}, UINT64_C({}), {stream}u);", body.seed));
            Ok(())
        }
        Op::Random { .. } => Err(refuse(node, "it draws normal random numbers; `rand` can be written")),
        Op::Scan(_) => Err(refuse(node, "its step has operations on other elements than floats")),
        Op::MaxPoolGradient(_) | Op::ConvWeightGradient(_) => Err(refuse(node, "it is a gradient")),
        _ => Err(refuse(node, "there is no text for it")),
    }
}

fn sum(dtype: DType, a: &str, b: &str) -> String {
    match dtype {
        DType::F32 => format!("{a} + {b}"),
        _ => format!("(wide)((unsigned_wide){a} + (unsigned_wide){b})"),
    }
}

/// An elementwise operation that no fused kernel has: on integers and bytes.
fn element(op: &Op, from: DType, to: DType, x: &[String]) -> Option<String> {
    let wrapped = |o: &str| format!("(wide)((unsigned_wide){} {o} (unsigned_wide){})", x[0], x[1]);
    Some(match op {
        Op::Unary(UnaryOp::Detach) => x[0].clone(),
        Op::Unary(UnaryOp::Not) => format!("!{}", x[0]),
        Op::Unary(UnaryOp::Neg) if from == DType::I64 => format!("(wide)(0u - (unsigned_wide){})", x[0]),
        Op::Unary(UnaryOp::Abs) if from == DType::I64 => format!("{} < 0 ? (wide)(0u - (unsigned_wide){}) : {}", x[0], x[0], x[0]),
        Op::Binary(op) => match op {
            BinaryOp::And => format!("{} & {}", x[0], x[1]),
            BinaryOp::Or => format!("{} | {}", x[0], x[1]),
            BinaryOp::Eq => format!("{} == {}", x[0], x[1]),
            BinaryOp::Ne => format!("{} != {}", x[0], x[1]),
            BinaryOp::Lt => format!("{} < {}", x[0], x[1]),
            BinaryOp::Le => format!("{} <= {}", x[0], x[1]),
            BinaryOp::Gt => format!("{} > {}", x[0], x[1]),
            BinaryOp::Ge => format!("{} >= {}", x[0], x[1]),
            _ if from != DType::I64 => return None,
            BinaryOp::Add => wrapped("+"),
            BinaryOp::Sub => wrapped("-"),
            BinaryOp::Mul => wrapped("*"),
            BinaryOp::Max => format!("{} > {} ? {} : {}", x[0], x[1], x[0], x[1]),
            BinaryOp::Min => format!("{} < {} ? {} : {}", x[0], x[1], x[0], x[1]),
            BinaryOp::Rem => format!("wide_remainder({}, {})", x[0], x[1]),
            BinaryOp::Div | BinaryOp::Pow => return None,
        },
        Op::Select => format!("{} ? {} : {}", x[0], x[1], x[2]),
        Op::Cast { .. } => match (from, to) {
            (_, DType::Bool) => format!("{} != 0", x[0]),
            (DType::F32, DType::I64) => format!("wide_of({})", x[0]),
            (DType::F32, DType::U8) => format!("(unsigned char)wide_of({})", x[0]),
            (_, DType::F32) => format!("(float){}", x[0]),
            (_, DType::I64) => format!("(wide){}", x[0]),
            (_, DType::U8) => format!("(unsigned char){}", x[0]),
        },
        _ => return None,
    })
}

/// A copy with a stride of the source for each axis.
fn strided(body: &mut Body, shape: &[usize], strides: &[usize], offset: usize, x: &str, y: &str) {
    body.line("{");
    body.depth += 1;
    let counter = body.fresh("n");
    body.line(&format!("int {counter} = 0;"));
    let axes: Vec<(usize, usize)> = shape.iter().copied().zip(strides.iter().copied()).collect();
    let (terms, depth) = nest(body, &axes);
    body.line(&format!("{y}[{counter}++] = {x}[{}];", index(&terms, offset)));
    body.close(depth);
    body.close(1);
}

/// Is a value a constant without infinities and NaNs, so that a factor of zero adds nothing?
fn is_finite(graph: &Graph, v: Value) -> bool {
    matches!(graph.op(v), Op::Constant(t) if t.dtype() == DType::F32 && t.as_f32().iter().all(|x| x.is_finite()))
}

fn contract(
    body: &mut Body,
    graph: &Graph,
    node: &Node,
    c: &Contraction,
    x: &[String],
    y: &str,
    weights: Option<&Weights>,
) -> Result<(), CError> {
    let scales = weights.and_then(|w| w.scales.as_ref());
    let seen = |i: usize| -> Result<(Vec<usize>, Vec<usize>, Value), CError> {
        let v = node.operands[i];
        let shape = dims(graph, v)?;
        let stored = |source: Value| -> Result<Vec<usize>, CError> {
            let shape = dims(graph, source)?;
            Ok(if i == 1 && weights.is_some_and(|w| w.transposed) { vec![1, shape[0]] } else { row_major_strides(&shape) })
        };
        match graph.op(v) {
            Op::Transpose { permutation } => {
                let source = graph.node(v.node).operands[0];
                let from = stored(source)?;
                Ok((shape, permutation.iter().map(|a| from[*a]).collect(), source))
            }
            _ => Ok((shape, stored(v)?, v)),
        }
    };
    let ((shape_a, sa, _), (shape_b, sb, source)) = (seen(0)?, seen(1)?);
    let (free_a, free_b) = c.free_axes(shape_a.len(), shape_b.len());
    let axes = |list: &[usize], shape: &[usize], strides: &[usize]| -> Vec<(usize, usize)> {
        list.iter().map(|a| (shape[*a], strides[*a])).collect()
    };
    let columns: usize = free_b.iter().map(|a| shape_b[*a]).product();
    body.line("{");
    body.depth += 1;
    let row = body.fresh("row");
    body.line(&format!("float *{row} = {y};"));
    // Batches, in both operands.
    let (mut at_a, mut at_b, mut depth) = (vec![], vec![], 0);
    for (a, b) in c.lhs_batch.iter().zip(&c.rhs_batch).filter(|(a, _)| shape_a[**a] != 1) {
        let i = body.open(shape_a[*a]);
        at_a.push((i.clone(), sa[*a]));
        at_b.push((i, sb[*b]));
        depth += 1;
    }
    let (terms, more) = nest(body, &axes(&free_a, &shape_a, &sa));
    at_a.extend(terms);
    depth += more;
    let q = body.open(columns);
    body.line(&format!("{row}[{q}] = 0.0f;"));
    body.close(1);
    let mut sums = 0;
    for (a, b) in c.lhs_sum.iter().zip(&c.rhs_sum).filter(|(a, _)| shape_a[**a] != 1) {
        let i = body.open(shape_a[*a]);
        at_a.push((i.clone(), sa[*a]));
        at_b.push((i, sb[*b]));
        sums += 1;
    }
    let has_loop = sums > 0;
    if !has_loop {
        body.line("{");
        body.depth += 1;
        sums = 1;
    }
    body.line(&format!("const float a = {}[{}];", x[0], index(&at_a, 0)));
    let skips = has_loop && is_finite(graph, source);
    if skips {
        body.line("if (a == 0.0f) continue;");
    }
    let sizes: Vec<usize> = free_b.iter().map(|a| shape_b[*a]).collect();
    let places: Vec<(usize, usize)> = sizes.iter().copied().zip(row_major_strides(&sizes)).collect();
    let (own, more) = nest(body, &places);
    let across = axes(&free_b, &shape_b, &sb);
    at_b.extend(own.iter().zip(across.iter().filter(|(n, _)| *n != 1)).map(|((i, _), (_, stride))| (i.clone(), *stride)));
    body.line(&format!("const float product = a * {}{}[{}];", if scales.is_some() { "(float)" } else { "" }, x[1], index(&at_b, 0)));
    body.line(&format!("{row}[{}] += product;", index(&own, 0)));
    body.close(more);
    body.close(sums);
    if let Some(scales) = scales {
        let q = body.open(columns);
        body.line(&format!("{row}[{q}] *= {scales}[{q}];"));
        body.close(1);
    }
    body.line(&format!("{row} += {columns};"));
    body.close(depth);
    body.close(1);
    Ok(())
}

/// Each output gets its terms channel by channel and element by element of the kernel, in the interpreter's order.
fn convolve_transposed(
    body: &mut Body,
    graph: &Graph,
    node: &Node,
    c: &Convolution,
    shape: &[usize],
    x: &[String],
    y: &str,
) -> Result<(), CError> {
    let n = c.stride.len();
    let (from, weight) = (dims(graph, node.operands[0])?, dims(graph, node.operands[1])?);
    let lead = from.len() - n - 1;
    let batch: usize = from[..lead].iter().product();
    let (channels, outputs, per_group) = (from[lead], shape[lead], weight[1]);
    let (space, out, kernel) = (&from[lead + 1..], &shape[lead + 1..], &weight[2..]);
    let product = |s: &[usize]| s.iter().product::<usize>();
    let (in_strides, out_strides, taps) = (row_major_strides(space), row_major_strides(out), row_major_strides(kernel));
    let in_group = channels / c.groups as usize;
    let b = body.open(batch);
    let zero = body.open(outputs * product(out));
    body.line(&format!("{y}[{b} * {} + {zero}] = 0.0f;", outputs * product(out)));
    body.close(1);
    let i = body.open(channels);
    let o = body.open(per_group);
    let k: Vec<String> = kernel.iter().map(|size| body.open(*size)).collect();
    let p: Vec<String> = space.iter().map(|size| body.open(*size)).collect();
    for d in 0..n {
        body.line(&format!("const int a{d} = {} * {} + {} * {} - {};", p[d], c.stride[d], k[d], c.dilation[d], c.padding[d]));
        body.line(&format!("if (a{d} < 0 || a{d} >= {}) continue;", out[d]));
    }
    let all =
        |names: &[String], strides: &[usize]| -> Vec<(String, usize)> { names.iter().cloned().zip(strides.iter().copied()).collect() };
    let target: Vec<String> = (0..n).map(|d| format!("a{d}")).collect();
    body.line(&format!(
        "const float product = {}[({b} * {channels} + {i}) * {} + {}] * {}[({i} * {per_group} + {o}) * {} + {}];",
        x[0],
        product(space),
        index(&all(&p, &in_strides), 0),
        x[1],
        product(kernel),
        index(&all(&k, &taps), 0)
    ));
    body.line(&format!(
        "{y}[({b} * {outputs} + {i} / {in_group} * {per_group} + {o}) * {} + {}] += product;",
        product(out),
        index(&all(&target, &out_strides), 0)
    ));
    body.close(2 * n + 3);
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn convolve(
    body: &mut Body,
    graph: &Graph,
    node: &Node,
    c: &Convolution,
    shape: &[usize],
    x: &[String],
    y: &str,
    weights: Option<&Weights>,
) -> Result<(), CError> {
    let n = c.stride.len();
    let (from, weight) = (dims(graph, node.operands[0])?, dims(graph, node.operands[1])?);
    let lead = from.len() - n - 1;
    let batch: usize = from[..lead].iter().product();
    let (channels, outputs, per_group) = (from[lead], weight[0], weight[1]);
    let (space, out, kernel) = (&from[lead + 1..], &shape[lead + 1..], &weight[2..]);
    let product = |s: &[usize]| s.iter().product::<usize>();
    let (in_strides, out_strides, taps) = (row_major_strides(space), row_major_strides(out), row_major_strides(kernel));
    let in_group = outputs / c.groups as usize;
    let b = body.open(batch);
    let is_sparse = is_finite(graph, node.operands[1]);
    if !is_sparse {
        // Padding is zeros, which are multiplied like all else.
        let o = body.open(outputs);
        let at: Vec<String> = out.iter().map(|size| body.open(*size)).collect();
        body.line("float sum = 0.0f;");
        let i = body.open(per_group);
        let k: Vec<String> = kernel.iter().map(|size| body.open(*size)).collect();
        let mut inside = vec![];
        for d in 0..n {
            body.line(&format!("const int p{d} = {} * {} + {} * {} - {};", at[d], c.stride[d], k[d], c.dilation[d], c.padding[d]));
            inside.push(format!("p{d} >= 0 && p{d} < {}", space[d]));
        }
        let place: Vec<(String, usize)> = (0..n).map(|d| (format!("p{d}"), in_strides[d])).collect();
        let tap: Vec<(String, usize)> = (0..n).map(|d| (k[d].clone(), taps[d])).collect();
        body.line(&format!(
            "const float v = {} ? {}[({b} * {channels} + {o} / {in_group} * {per_group} + {i}) * {} + {}] : 0.0f;",
            inside.join(" && "),
            x[0],
            product(space),
            index(&place, 0)
        ));
        body.line(&format!("const float product = v * {}[({o} * {per_group} + {i}) * {} + {}];", x[1], product(kernel), index(&tap, 0)));
        body.line("sum += product;");
        body.close(n + 1);
        let target: Vec<(String, usize)> = (0..n).map(|d| (at[d].clone(), out_strides[d])).collect();
        body.line(&format!("{y}[({b} * {outputs} + {o}) * {} + {}] = sum;", product(out), index(&target, 0)));
        body.close(n + 2);
        return Ok(());
    }
    // From what is not zero, in order: each output gets its terms channel by channel and tap by tap.
    let zero = body.open(outputs * product(out));
    body.line(&format!("{y}[{b} * {} + {zero}] = 0.0f;", outputs * product(out)));
    body.close(1);
    let i = body.open(channels);
    let p: Vec<String> = space.iter().map(|size| body.open(*size)).collect();
    let place: Vec<(String, usize)> = (0..n).map(|d| (p[d].clone(), in_strides[d])).collect();
    body.line(&format!("const float v = {}[({b} * {channels} + {i}) * {} + {}];", x[0], product(space), index(&place, 0)));
    body.line("if (v == 0.0f) continue;");
    let mut opened = 0;
    let mut tap = vec![];
    let mut target = vec![];
    for d in 0..n {
        let k = body.open(kernel[d]);
        opened += 1;
        body.line(&format!("const int a{d} = {} + {} - {k} * {};", p[d], c.padding[d], c.dilation[d]));
        if c.stride[d] == 1 {
            body.line(&format!("if (a{d} < 0 || a{d} >= {}) continue;", out[d]));
            target.push((format!("a{d}"), out_strides[d]));
        } else {
            body.line(&format!("if (a{d} < 0 || a{d} % {} != 0 || a{d} / {} >= {}) continue;", c.stride[d], c.stride[d], out[d]));
            target.push((format!("a{d} / {}", c.stride[d]), out_strides[d]));
        }
        tap.push((k, taps[d]));
    }
    let o = body.open(in_group);
    let (group, within) =
        if c.groups == 1 { ("0".to_string(), i.clone()) } else { (format!("{i} / {per_group}"), format!("{i} % {per_group}")) };
    let channel = if c.groups == 1 { o.clone() } else { format!("({group} * {in_group} + {o})") };
    let scales = weights.and_then(|w| w.scales.as_ref());
    let cast = if scales.is_some() { "(float)" } else { "" };
    body.line(&format!(
        "const float product = v * {cast}{}[({channel} * {per_group} + {within}) * {} + {}];",
        x[1],
        product(kernel),
        index(&tap, 0)
    ));
    body.line(&format!("{y}[({b} * {outputs} + {channel}) * {} + {}] += product;", product(out), index(&target, 0)));
    body.close(1 + opened + n + 1);
    if let Some(scales) = scales {
        let (o, p) = (body.open(outputs), body.open(product(out)));
        body.line(&format!("{y}[({b} * {outputs} + {o}) * {} + {p}] *= {scales}[{o}];", product(out)));
        body.close(2);
    }
    body.close(1);
    Ok(())
}

//! What candle has no operation for, said in operations that a device has: a first spike is a scan, the gradient of a max pool
//! is windows, a convolution that candle cannot do is windows and a contraction. Where the CPU's own kernels run, they have the last two.

use snn_ir::{BinaryOp, Build, Contraction, Convolution, DType, Dim, Graph, Loop, Op, Roles, Scan, Type, Value};

/// Rewrites a graph with known dimensions, and the graphs of its loops; for the CPU's own kernels, or for candle's operations only.
pub fn lower(graph: &Graph, own: bool) -> Graph {
    let graph = &without_gradients(graph, own);
    graph.rebuild(|new, id, mut node| {
        let types: Vec<Type> = node.operands.iter().map(|v| new.ty(*v).clone()).collect();
        let scannable = |ty: &Type| ty.dtype != DType::I64;
        let value = match &node.op {
            Op::FirstSpike { axis } if !own && scannable(&types[0]) => {
                let x = Build(new).cast(node.operands[0], DType::F32);
                let y = scanned(new, x, *axis, &first_spike());
                Some(Build(new).cast(y, DType::Bool))
            }
            Op::Conv(c) if !(is_candles(c) || own && c.stride.len() <= 2) => {
                Some(unrolled(new, node.operands[0], node.operands[1], c, &node.types[0]))
            }
            Op::Loop(l) => {
                node.op = Op::Loop(Box::new(Loop { body: lower(&l.body, own), ..(**l).clone() }));
                None
            }
            _ => None,
        };
        match value {
            Some(v) => {
                let (name, span) = (graph.node(id).name.clone(), graph.node(id).span);
                let made = new.node_mut(v.node);
                made.name = made.name.take().or(name);
                made.span = made.span.or(span);
                vec![v]
            }
            None => {
                let id = new.push(node);
                new.results(id).collect()
            }
        }
    })
}

/// Gradients of pools by windows and those of convolutions by convolutions, which the rest is lowered with; not those that the CPU's
/// own kernels compute.
fn without_gradients(graph: &Graph, own: bool) -> Graph {
    graph.rebuild(|new, _, node| match &node.op {
        Op::MaxPoolGradient(pool) if !own => {
            let [x, y, g] = [0, 1, 2].map(|i| node.operands[i]);
            vec![snn_ir::expand::max_pool_gradient(&mut Build(new), pool, x, y, g)]
        }
        Op::ConvInputGradient(c) if !(own && c.stride.len() <= 2) => {
            let [g, w] = [0, 1].map(|i| node.operands[i]);
            vec![snn_ir::expand::convolution_input_gradient(&mut Build(new), c, g, w, &node.types[0])]
        }
        Op::ConvWeightGradient(c) if !(own && c.stride.len() <= 2) => {
            let [x, g] = [0, 1].map(|i| node.operands[i]);
            vec![snn_ir::expand::convolution_weight_gradient(&mut Build(new), c, x, g, &node.types[0])]
        }
        _ => {
            let id = new.push(node);
            new.results(id).collect()
        }
    })
}

/// Can candle do this convolution? Its settings are one number for all axes, over one or two of them.
fn is_candles(c: &Convolution) -> bool {
    let same = |v: &[i64]| v.iter().all(|x| *x == v[0]);
    (1..=2).contains(&c.stride.len()) && same(&c.stride) && same(&c.padding) && same(&c.dilation)
}

/// A step function with one sequence and one output over any axis.
fn scanned(graph: &mut Graph, x: Value, axis: usize, scan: &Scan) -> Value {
    let rank = graph.ty(x).rank();
    let mut order: Vec<usize> = (0..rank).collect();
    order.remove(axis);
    order.insert(0, axis);
    let x = if axis == 0 { x } else { Build(graph).transpose(x, order.clone()) };
    let zero = graph.add_f32(0.0);
    let operands: Vec<Value> = std::iter::once(x).chain(std::iter::repeat_n(zero, scan.roles.states)).collect();
    let result = graph.try_add(Op::Scan(std::sync::Arc::new(scan.clone())), &operands);
    let y = match result {
        Ok(node) => Value { node, result: 0 },
        Err(e) => unreachable!("a scan of one sequence fits every sequence: {e}"),
    };
    if axis == 0 { y } else { Build(graph).untranspose(y, &order) }
}

fn scalar_step(name: &str, states: usize, step: impl FnOnce(&mut Graph, &[Value]) -> Vec<Value>) -> Scan {
    let mut body = Graph::new(name);
    let names = ["x", "a", "b"];
    let inputs: Vec<Value> = names[..=states].iter().map(|n| body.add_input(*n, Type::new(DType::F32, []))).collect();
    let outputs = step(&mut body, &inputs);
    body.outputs = ["y", "a", "b"].iter().map(ToString::to_string).zip(outputs).collect();
    Scan { roles: Roles { sequences: 1, invariants: 0, states, outputs: 1 }, reverse: false, body }
}

/// `cumsum(cumsum(x)) == 1`.
fn first_spike() -> Scan {
    scalar_step("first_spike", 2, |g, v| {
        let once = g.add(Op::Binary(BinaryOp::Add), &[v[1], v[0]]);
        let twice = g.add(Op::Binary(BinaryOp::Add), &[v[2], once]);
        let one = g.add_f32(1.0);
        let hit = g.add(Op::Binary(BinaryOp::Eq), &[twice, one]);
        let y = Build(g).cast(hit, DType::F32);
        vec![y, once, twice]
    })
}

/// A convolution as a contraction of windows.
fn unrolled(graph: &mut Graph, x: Value, w: Value, c: &Convolution, out: &Type) -> Value {
    let n = c.stride.len();
    let (xs, ws) = (graph.ty(x).shape.clone(), graph.ty(w).shape.clone());
    let batch = xs.len() - n - 1;
    let kernel: Vec<i64> = ws[2..].iter().map(|d| d.as_constant().unwrap_or(1)).collect();
    let mut x = x;
    for (i, p) in c.padding.iter().enumerate().filter(|(_, p)| **p > 0) {
        let amount = Dim::constant(*p);
        x = graph.add(Op::Pad { axis: batch + 1 + i, low: amount.clone(), high: amount, value: 0.0 }, &[x]);
    }
    for (i, size) in kernel.into_iter().enumerate() {
        let op = Op::Window { axis: batch + 1 + i, size, stride: c.stride[i], dilation: c.dilation[i] };
        x = graph.add(op, &[x]);
    }
    // [batch..., groups, channels, out..., kernel...] with [groups, outputs, channels, kernel...].
    let windows = graph.ty(x).shape.clone();
    let groups = Dim::constant(c.groups);
    let per_group = ws[1].clone();
    let outputs = Dim::constant(ws[0].as_constant().unwrap_or(0) / c.groups.max(1));
    let grouped: Vec<Dim> =
        windows[..batch].iter().cloned().chain([groups.clone(), per_group.clone()]).chain(windows[batch + 1..].iter().cloned()).collect();
    let weights: Vec<Dim> = [groups, outputs, per_group].into_iter().chain(ws[2..].iter().cloned()).collect();
    let (x, w) = (Build(graph).reshape(x, grouped), Build(graph).reshape(w, weights));
    let taps = batch + 2 + n..batch + 2 + 2 * n;
    let contraction = Contraction {
        lhs_batch: vec![batch],
        rhs_batch: vec![0],
        lhs_sum: std::iter::once(batch + 1).chain(taps).collect(),
        rhs_sum: (2..3 + n).collect(),
    };
    // The result is [groups, batch..., out..., outputs].
    let y = graph.add(Op::Contract(contraction), &[x, w]);
    let mut order: Vec<usize> = (1..=batch).collect();
    order.push(0);
    order.push(batch + n + 1);
    order.extend(batch + 1..=batch + n);
    let y = Build(graph).transpose(y, order);
    Build(graph).reshape(y, out.shape.clone())
}

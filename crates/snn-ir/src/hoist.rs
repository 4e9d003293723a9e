//! What does not change from step to step moves out of neurons and loops: the sigmoid of a learnable decay is computed once, and
//! not for each element of each step; its derivative too.

use std::collections::HashMap;
use std::sync::Arc;

use crate::build::Build;
use crate::describe::Class;
use crate::dim::Dim;
use crate::graph::{Graph, Node, Value};
use crate::op::{BinaryOp, Op, Roles, Scan, UnaryOp};
use crate::types::{DType, Type};

/// See [`Graph::hoisted`].
pub(crate) fn hoist(graph: &Graph) -> Graph {
    let mut changed = false;
    let new = graph.rebuild(|new, _, mut node| {
        if let Op::Loop(l) = &mut node.op {
            l.body = hoist(&l.body);
        }
        if let Op::Scan(s) = &node.op
            && let Some(steady) = with_steady_invariants(new, s, &node)
        {
            changed = true;
            node = steady;
        }
        if let Some(fixed) = Fixed::of(&node) {
            changed = true;
            node = fixed.moved(new, node);
        }
        let id = new.push(node);
        new.results(id).collect()
    });
    if changed { new.pruned() } else { new }
}

/// A scan whose sequences that repeat the same step are invariants instead; `None` where there are none. So their gradients are
/// summed while it runs.
fn with_steady_invariants(graph: &mut Graph, s: &Scan, node: &Node) -> Option<Node> {
    let steady: Vec<Option<Value>> = (0..s.roles.sequences).map(|i| step_of(graph, node.operands[i])).collect();
    let count = steady.iter().flatten().count();
    if count == 0 || count == s.roles.sequences {
        return None;
    }
    let is_steady = |i: usize| steady.get(i).is_some_and(Option::is_some);
    // Sequences that stay, invariants, those that were sequences, states.
    let first_state = s.roles.first_state();
    let order = (0..first_state).filter(|i| !is_steady(*i)).chain((0..s.roles.sequences).filter(|i| is_steady(*i)));
    let order: Vec<usize> = order.chain(first_state..node.operands.len()).collect();
    let mut scan = s.clone();
    scan.roles.sequences -= count;
    scan.roles.invariants += count;
    scan.body.inputs = order.iter().map(|i| s.body.inputs[*i]).collect();
    let operands = order.iter().map(|i| steady.get(*i).copied().flatten().unwrap_or(node.operands[*i])).collect();
    Some(Node { op: Op::Scan(Arc::new(scan)), operands, ..node.clone() })
}

/// The step that a sequence repeats at all times, aligned with the last axes of a step.
fn step_of(graph: &mut Graph, sequence: Value) -> Option<Value> {
    let Op::Broadcast { axes, .. } = graph.op(sequence) else { return None };
    let (axes, rank) = (axes.clone(), graph.ty(sequence).rank());
    let source = graph.node(sequence.node).operands[0];
    let first = axes.first().copied().unwrap_or(rank);
    if first == 0 {
        return None;
    }
    let mut shape = vec![Dim::constant(1); rank - first];
    axes.iter().zip(&graph.ty(source).shape).for_each(|(axis, n)| shape[axis - first] = n.clone());
    Some(Build(graph).reshape(source, shape))
}

/// Is it worth another operand to do it once?
fn is_costly(op: &Op) -> bool {
    if let Op::Unary(u) = op {
        match u {
            UnaryOp::Exp | UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Sin | UnaryOp::Cos | UnaryOp::Tanh | UnaryOp::Erf => true,
            UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Floor | UnaryOp::Round | UnaryOp::Not | UnaryOp::Detach => false,
        }
    } else if let Op::Binary(b) = op {
        matches!(b, BinaryOp::Div | BinaryOp::Rem | BinaryOp::Pow)
    } else {
        matches!(op.class(), Class::Product | Class::Reduction)
    }
}

/// Values of the body of a scan or a loop that are the same at all steps and worth computing once.
struct Fixed {
    /// Those that the rest of the body reads.
    values: Vec<Value>,
}

impl Fixed {
    fn of(node: &Node) -> Option<Fixed> {
        let (roles, body) = node.op.recurrence()?;
        let invariants = &body.inputs[roles.sequences..roles.first_state()];
        let is_scan = matches!(node.op, Op::Scan(_));
        // Which nodes depend on invariants and constants alone, and whether one of them is costly.
        let (mut fixed, mut costly) = (vec![false; body.len()], vec![false; body.len()]);
        for (id, inner) in body.nodes() {
            let of = |known: &[bool], v: &Value| known[v.node.index()];
            let value = Value { node: id, result: 0 };
            fixed[id.index()] = match inner.op.class() {
                Class::Given => invariants.contains(&value) || matches!(inner.op, Op::Constant(_) | Op::Size(_) | Op::Iota { .. }),
                // The step of a neuron is elementwise, and what is moved out of it must be.
                Class::Elementwise => !matches!(inner.op, Op::Spike { .. }) && inner.operands.iter().all(|v| of(&fixed, v)),
                Class::Movement | Class::Reduction | Class::Product | Class::Label => {
                    !is_scan && inner.operands.iter().all(|v| of(&fixed, v))
                }
                Class::Time | Class::Recurrence => false,
            };
            costly[id.index()] = fixed[id.index()] && (is_costly(&inner.op) || inner.operands.iter().any(|v| of(&costly, v)));
        }
        let moves = |v: &Value| costly[v.node.index()] && body.ty(*v).dtype == DType::F32;
        // From the results backwards: what stays, and what it reads of what moves.
        let mut stays = vec![false; body.len()];
        let mut values: Vec<Value> = Vec::new();
        let mut note = |v: &Value, stays: &mut Vec<bool>| {
            if !moves(v) {
                stays[v.node.index()] = true;
            } else if !values.contains(v) {
                values.push(*v);
            }
        };
        body.outputs.iter().for_each(|(_, v)| note(v, &mut stays));
        for (id, inner) in body.nodes().rev() {
            if stays[id.index()] {
                inner.operands.iter().for_each(|v| note(v, &mut stays));
            }
        }
        values.sort_unstable();
        (!values.is_empty()).then_some(Fixed { values })
    }

    /// The node with these values as further invariants, which are computed in `graph`.
    fn moved(&self, graph: &mut Graph, mut node: Node) -> Node {
        let Some((roles, body)) = node.op.recurrence() else { return node };
        let outside = Outside { body, roles, operands: &node.operands, is_scan: matches!(node.op, Op::Scan(_)) };
        let mut known = HashMap::new();
        let values: Vec<Value> = self.values.iter().map(|v| outside.value(graph, *v, &mut known)).collect();
        let first = roles.first_state();
        let body = self.body(body, first);
        let count = self.values.len();
        node.operands.splice(first..first, values);
        if let Op::Scan(s) = &mut node.op {
            let s = Arc::make_mut(s);
            s.roles.invariants += count;
            s.body = body;
        } else if let Op::Loop(l) = &mut node.op {
            l.roles.invariants += count;
            l.body = body;
        }
        node
    }

    /// The body with the values as inputs before the one of number `at`.
    fn body(&self, body: &Graph, at: usize) -> Graph {
        let mut new = Graph::new(body.name.clone());
        new.parameters = body.parameters.clone();
        let mut map = HashMap::new();
        let names: Vec<&str> = body.inputs.iter().map(|v| input_name(body, *v)).collect();
        let free = (0..).map(|i| format!("fixed{i}")).filter(|name| !names.contains(&name.as_str()));
        let own = body.inputs.iter().copied().zip(names.iter().map(ToString::to_string));
        let mut inputs: Vec<(Value, String)> = own.collect();
        inputs.splice(at..at, self.values.iter().copied().zip(free));
        for (v, name) in inputs {
            let input = new.add_input(name, body.ty(v).clone());
            map.insert(v, input);
        }
        new.append(body, &mut map);
        new.outputs = body.outputs.iter().map(|(n, v)| (n.clone(), map[v])).collect();
        new.pruned()
    }
}

fn input_name(body: &Graph, v: Value) -> &str {
    if let Op::Input { name, .. } = body.op(v) { name } else { "" }
}

/// Where what is the same at all steps is computed.
struct Outside<'a> {
    body: &'a Graph,
    roles: Roles,
    operands: &'a [Value],
    is_scan: bool,
}

impl Outside<'_> {
    /// A value of the body, computed once in `graph`.
    fn value(&self, graph: &mut Graph, v: Value, known: &mut HashMap<Value, Value>) -> Value {
        if let Some(value) = known.get(&v) {
            return *value;
        }
        let value = match self.body.inputs.iter().position(|i| *i == v) {
            Some(i) => self.operands[i],
            None => {
                let node = self.body.node(v.node);
                let operands: Vec<Value> = node.operands.iter().map(|o| self.value(graph, *o, known)).collect();
                self.node(graph, node, operands)
            }
        };
        debug_assert!(self.body.inputs.iter().take(self.roles.sequences).all(|i| *i != v));
        known.insert(v, value);
        value
    }

    fn node(&self, graph: &mut Graph, node: &Node, operands: Vec<Value>) -> Value {
        let mut node = Node { operands, ..node.clone() };
        if self.is_scan {
            // A number of the body is a tensor outside, whose axes are aligned with the last ones of a step.
            let shape = node.operands.iter().map(|v| graph.ty(*v).shape.clone()).fold(Vec::new(), |a: Vec<Dim>, b| joined(&a, &b));
            for v in &mut node.operands {
                let axes = shape.len() - graph.ty(*v).rank()..shape.len();
                *v = Build(graph).broadcast(*v, axes.collect(), shape.clone());
            }
            let ty = Type::new(node.types[0].dtype, shape);
            node = node.with_types(vec![ty]);
        }
        Value { node: graph.push(node), result: 0 }
    }
}

/// The shape that both broadcast to, aligned at the last axis.
fn joined(a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut shape = long.to_vec();
    for (to, from) in shape.iter_mut().rev().zip(short.iter().rev()) {
        if to.is_one() {
            *to = from.clone();
        }
    }
    shape
}

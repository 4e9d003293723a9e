//! Recurrent connections: cycles of values become a [`Loop`].
//!
//! A front end builds a recurrent value with a placeholder (an input) for itself and then says what it is. Here every
//! strongly connected part becomes one loop over time. Inside a loop, a delay on the cycle is a state that holds the last
//! steps, and a scan carries its states from one step to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::axes::{self, Axis};
use crate::build::Build;
use crate::dim::Dim;
use crate::graph::{Graph, Node, NodeId, SourceSpan, Value};
use crate::op::{Loop, Op, Roles};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// A value that mentions itself.
#[derive(Clone, Debug)]
pub struct Recursion {
    /// Its name.
    pub name: String,
    /// The input that stands for it.
    pub placeholder: Value,
    /// What it is.
    pub definition: Value,
}

/// Why a recursion cannot run step by step.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum RecurrenceError {
    /// A cycle without a delay: the values on it.
    NoDelay { cycle: Vec<(String, Option<SourceSpan>)> },
    /// An operation on the cycle needs more than one time step.
    MixesSteps { what: String, span: Option<SourceSpan> },
}

/// Replaces placeholders by loops.
///
/// # Errors
/// If a cycle has no delay, or an operation on it mixes time steps.
pub fn close(graph: &Graph, recursions: &[Recursion]) -> Result<Graph, RecurrenceError> {
    if recursions.is_empty() {
        return Ok(graph.clone());
    }
    let cyclic = Cyclic::new(graph, recursions);
    let parts = cyclic.connected_parts();
    let mut part_of: HashMap<NodeId, usize> = HashMap::new();
    for (i, part) in parts.iter().enumerate() {
        part_of.extend(part.iter().map(|n| (*n, i)));
    }
    let order = cyclic.order(&parts, &part_of)?;

    let mut new = Graph::new(graph.name.clone());
    new.parameters = graph.parameters.clone();
    let mut map: HashMap<Value, Value> = HashMap::new();
    for unit in order {
        match unit {
            Unit::Node(id) => {
                if let Some(definition) = cyclic.definition_of(id) {
                    let value = map[&definition];
                    map.insert(Value { node: id, result: 0 }, value);
                    continue;
                }
                let mut node = graph.node(id).clone();
                for v in &mut node.operands {
                    *v = map[v];
                }
                let is_input = graph.inputs.contains(&Value { node: id, result: 0 });
                let copy = new.push(node);
                if is_input {
                    new.inputs.push(Value { node: copy, result: 0 });
                }
                for (a, b) in graph.results(id).zip(new.results(copy)) {
                    map.insert(a, b);
                }
            }
            Unit::Part(i) => build_loop(&cyclic, &parts[i], &mut new, &mut map)?,
        }
    }
    new.inputs = graph.inputs.iter().filter(|v| cyclic.definition_of(v.node).is_none()).map(|v| map[v]).collect();
    new.outputs = graph.outputs.iter().map(|(n, v)| (n.clone(), map[v])).collect();
    new.updates = graph.updates.iter().map(|(n, v)| (n.clone(), map[v])).collect();
    Ok(new.pruned())
}

enum Unit {
    Node(NodeId),
    Part(usize),
}

struct Cyclic<'a> {
    graph: &'a Graph,
    recursions: &'a [Recursion],
    users: Vec<Vec<NodeId>>,
}

impl<'a> Cyclic<'a> {
    fn new(graph: &'a Graph, recursions: &'a [Recursion]) -> Self {
        let mut users = vec![Vec::new(); graph.len()];
        for (id, node) in graph.nodes() {
            for v in &node.operands {
                users[v.node.index()].push(id);
            }
        }
        for r in recursions {
            users[r.definition.node.index()].push(r.placeholder.node);
        }
        Cyclic { graph, recursions, users }
    }

    fn definition_of(&self, id: NodeId) -> Option<Value> {
        self.recursions.iter().find(|r| r.placeholder.node == id).map(|r| r.definition)
    }

    fn predecessors(&self, id: NodeId) -> Vec<NodeId> {
        let operands = self.graph.node(id).operands.iter().map(|v| v.node);
        operands.chain(self.definition_of(id).map(|v| v.node)).collect()
    }

    fn reach(&self, start: NodeId, next: impl Fn(NodeId) -> Vec<NodeId>) -> BTreeSet<NodeId> {
        let mut seen = BTreeSet::new();
        let mut stack = next(start);
        while let Some(id) = stack.pop() {
            if seen.insert(id) {
                stack.extend(next(id));
            }
        }
        seen
    }

    /// The strongly connected parts that hold a placeholder.
    fn connected_parts(&self) -> Vec<BTreeSet<NodeId>> {
        let mut parts: Vec<BTreeSet<NodeId>> = Vec::new();
        for r in self.recursions {
            let start = r.placeholder.node;
            if parts.iter().any(|p| p.contains(&start)) {
                continue;
            }
            let after = self.reach(start, |id| self.users[id.index()].clone());
            let before = self.reach(start, |id| self.predecessors(id));
            let part: BTreeSet<NodeId> = after.intersection(&before).copied().collect();
            if !part.is_empty() {
                parts.push(part);
            }
        }
        parts
    }

    /// Nodes outside of cycles and whole cycles, each after what it needs.
    fn order(&self, parts: &[BTreeSet<NodeId>], part_of: &HashMap<NodeId, usize>) -> Result<Vec<Unit>, RecurrenceError> {
        let mut done = vec![false; self.graph.len()];
        let mut order = Vec::new();
        let mut stack: Vec<(NodeId, bool)> = self.graph.nodes().rev().map(|(id, _)| (id, false)).collect();
        while let Some((id, ready)) = stack.pop() {
            if done[id.index()] {
                continue;
            }
            let members: Vec<NodeId> = match part_of.get(&id) {
                Some(i) => parts[*i].iter().copied().collect(),
                None => vec![id],
            };
            if ready {
                members.iter().for_each(|m| done[m.index()] = true);
                order.push(part_of.get(&id).map_or(Unit::Node(id), |i| Unit::Part(*i)));
                continue;
            }
            stack.push((id, true));
            for needed in members.iter().flat_map(|m| self.predecessors(*m)) {
                if !done[needed.index()] && !members.contains(&needed) {
                    stack.push((needed, false));
                }
            }
        }
        Ok(order)
    }

    /// What a user calls a node.
    fn label(&self, id: NodeId) -> (String, Option<SourceSpan>) {
        let node = self.graph.node(id);
        let name = match self.recursions.iter().find(|r| r.placeholder.node == id || r.definition.node == id) {
            Some(r) => r.name.clone(),
            None => node.name.clone().unwrap_or_else(|| crate::text::op_name(&node.op)),
        };
        (name, node.span)
    }

    /// The nodes of a part so that each comes after what it needs in the same step.
    fn step_order(&self, part: &BTreeSet<NodeId>) -> Result<Vec<NodeId>, RecurrenceError> {
        let is_delay = |id: NodeId| matches!(self.graph.node(id).op, Op::Delay { steps } if steps >= 1);
        let needs = |id: NodeId| -> Vec<NodeId> {
            if is_delay(id) { Vec::new() } else { self.predecessors(id).into_iter().filter(|p| part.contains(p)).collect() }
        };
        let mut state: BTreeMap<NodeId, u8> = BTreeMap::new();
        let mut order = Vec::new();
        for start in part {
            let mut path: Vec<(NodeId, Vec<NodeId>)> = Vec::new();
            if state.contains_key(start) {
                continue;
            }
            state.insert(*start, 1);
            path.push((*start, needs(*start)));
            while let Some((id, pending)) = path.last_mut() {
                let id = *id;
                match pending.pop() {
                    None => {
                        state.insert(id, 2);
                        order.push(id);
                        path.pop();
                    }
                    Some(next) => match state.get(&next) {
                        Some(2) => {}
                        Some(_) => {
                            let from = path.iter().position(|(n, _)| *n == next).unwrap_or(0);
                            let mut cycle: Vec<_> = path[from..].iter().rev().map(|(n, _)| self.label(*n)).collect();
                            cycle.dedup_by(|a, b| a.0 == b.0);
                            return Err(RecurrenceError::NoDelay { cycle });
                        }
                        None => {
                            state.insert(next, 1);
                            path.push((next, needs(next)));
                        }
                    },
                }
            }
        }
        Ok(order)
    }
}

/// Collects the operands of a loop while its body is built.
struct Builder<'a> {
    new: &'a mut Graph,
    outer: &'a HashMap<Value, Value>,
    body: Graph,
    steps: Dim,
    sequences: Vec<(Value, Value)>,
    invariants: Vec<(Value, Value)>,
    /// Initial value outside, input inside, next value inside.
    states: Vec<(Value, Value, Option<Value>)>,
}

impl Builder<'_> {
    fn input(&mut self, ty: Type) -> Value {
        let name = format!("in{}", self.body.len());
        self.body.input(name, ty)
    }

    /// One step of a sequence from outside.
    fn sequence(&mut self, graph: &Graph, v: Value) -> Value {
        // A repeated value is repeated inside: a step of it is small where the whole of it is not.
        if let Op::Broadcast { axes, .. } = graph.op(v) {
            let operand = graph.node(v.node).operands[0];
            let over_time = axes.first() == Some(&0);
            if !over_time || graph.ty(operand).shape[0] == graph.ty(v).shape[0] {
                let source = if over_time { self.sequence(graph, operand) } else { self.invariant(graph, operand) };
                let shape = one_step(graph.ty(v)).shape;
                return self.body.add(Op::Broadcast { axes: axes.clone(), shape }, &[source]);
            }
        }
        if let Some((_, inner)) = self.sequences.iter().find(|(o, _)| *o == self.outer[&v]) {
            return *inner;
        }
        let inner = self.input(one_step(graph.ty(v)));
        self.sequences.push((self.outer[&v], inner));
        inner
    }

    fn invariant(&mut self, graph: &Graph, v: Value) -> Value {
        // A transposed matrix is transposed inside, where the product reads it in place.
        if let Op::Transpose { .. } = graph.op(v) {
            let source = self.invariant(graph, graph.node(v.node).operands[0]);
            return self.body.add(graph.op(v).clone(), &[source]);
        }
        if let Some((_, inner)) = self.invariants.iter().find(|(o, _)| *o == self.outer[&v]) {
            return *inner;
        }
        let inner = self.input(graph.ty(v).clone());
        self.invariants.push((self.outer[&v], inner));
        inner
    }

    fn state(&mut self, initial: Value, ty: Type) -> (usize, Value) {
        let inner = self.input(ty);
        self.states.push((initial, inner, None));
        (self.states.len() - 1, inner)
    }

    /// A scalar or smaller value repeated to a shape, outside.
    fn broadcast(&mut self, value: Value, shape: &[Dim]) -> Value {
        let ty = self.new.ty(value).clone();
        if ty.shape == shape {
            return value;
        }
        let axes = (shape.len() - ty.rank()..shape.len()).collect();
        self.new.add(Op::Broadcast { axes, shape: shape.to_vec() }, &[value])
    }
}

fn one_step(ty: &Type) -> Type {
    let mut ty = ty.clone();
    ty.shape[0] = 1.into();
    ty
}

/// Which operands of an operation carry time in axis 0. An operation that needs other steps of one of them has it at `false`;
/// only a delay and a neuron may look back, because a loop keeps states for them.
fn time_operands(graph: &Graph, node: &Node) -> Vec<bool> {
    let types: Vec<&Type> = node.operands.iter().map(|v| graph.ty(*v)).collect();
    let carries = |i: usize| {
        types[i].rank() > 0
            && match axes::axis(&node.op, &types, &node.types, i, 0, 0) {
                Axis::Kept(to) => to == 0,
                Axis::Causal(_) => matches!(node.op, Op::Delay { .. } | Op::Scan(_)),
                Axis::Mixed => false,
            }
    };
    // A value that is aligned with the steps of a neuron carries no time.
    (0..types.len()).map(|i| carries(i) && !matches!(&node.op, Op::Scan(s) if i >= s.roles.sequences)).collect()
}

fn build_loop(
    cyclic: &Cyclic<'_>,
    part: &BTreeSet<NodeId>,
    new: &mut Graph,
    map: &mut HashMap<Value, Value>,
) -> Result<(), RecurrenceError> {
    let graph = cyclic.graph;
    let order = cyclic.step_order(part)?;
    let mixes = |id: NodeId| {
        let (name, span) = cyclic.label(id);
        RecurrenceError::MixesSteps { what: name, span }
    };
    let some_placeholder = order.iter().copied().find(|id| cyclic.definition_of(*id).is_some());
    let Some(placeholder) = some_placeholder else { return Ok(()) };
    let steps = match graph.node(placeholder).types[0].shape.first() {
        Some(d) => d.clone(),
        None => return Err(mixes(placeholder)),
    };
    let outer = map.clone();
    let mut b = Builder {
        new,
        outer: &outer,
        body: Graph::new(cyclic.label(placeholder).0),
        steps: steps.clone(),
        sequences: vec![],
        invariants: vec![],
        states: vec![],
    };
    let mut inner: HashMap<Value, Value> = HashMap::new();
    let mut pending: Vec<(usize, Value, Value, i64)> = Vec::new();
    for id in &order {
        let node = graph.node(*id);
        let here = Value { node: *id, result: 0 };
        if let Some(definition) = cyclic.definition_of(*id) {
            let value = inner[&definition];
            inner.insert(here, value);
            continue;
        }
        let roles = time_operands(graph, node);
        if let Op::Delay { steps: d } = node.op
            && d >= 1
        {
            let rest = &node.types[0].shape[1..];
            let shape: Vec<Dim> = std::iter::once(d.into()).chain(rest.iter().cloned()).collect();
            let zero = match node.types[0].dtype {
                DType::F32 => b.new.add_f32(0.0),
                DType::I64 | DType::Bool | DType::U8 => b.new.add(Op::Constant(Tensor::zeros(node.types[0].dtype, [])), &[]),
            };
            let initial = b.broadcast(zero, &shape);
            let ty = Type::new(node.types[0].dtype, shape);
            let (index, state) = b.state(initial, ty);
            let oldest = if d == 1 { state } else { Build(&mut b.body).slice(state, 0, 0.into(), 1.into()) };
            inner.insert(here, oldest);
            pending.push((index, state, node.operands[0], d));
            continue;
        }
        let mut operands = Vec::new();
        for (i, v) in node.operands.iter().enumerate() {
            let is_state = matches!(&node.op, Op::Scan(s) if i >= s.roles.first_state());
            operands.push(match inner.get(v) {
                Some(_) if !roles[i] => return Err(mixes(*id)),
                Some(value) => *value,
                None if is_state => {
                    let element = graph.ty(node.operands[0]).shape[1..].to_vec();
                    let initial = b.broadcast(outer[v], &element);
                    let ty = b.new.ty(initial).clone();
                    b.state(initial, ty).1
                }
                None if roles[i] => b.sequence(graph, *v),
                None => b.invariant(graph, *v),
            });
        }
        let op = if node.types[0].rank() > 0 { node.op.clone().with_result(&one_step(&node.types[0])) } else { node.op.clone() };
        let copy = b.body.try_add(op, &operands).map_err(|_| mixes(*id))?;
        b.body.node_mut(copy).name = node.name.clone();
        b.body.node_mut(copy).span = node.span;
        for (old, now) in graph.results(*id).zip(b.body.results(copy)) {
            inner.insert(old, now);
        }
        if let Op::Scan(s) = &node.op {
            let first_operand = s.roles.first_state();
            for k in 0..s.roles.states {
                let next = Value { node: copy, result: (s.roles.outputs + k) as u16 };
                if let Some(state) = b.states.iter_mut().find(|(_, input, _)| *input == operands[first_operand + k]) {
                    state.2 = Some(next);
                }
                // The state after the last step is not a sequence.
                inner.remove(&Value { node: *id, result: (s.roles.outputs + k) as u16 });
            }
        }
    }
    for (index, state, source, d) in pending {
        let newest = inner[&source];
        let next = if d == 1 {
            newest
        } else {
            let rest = Build(&mut b.body).slice(state, 0, 1.into(), (d - 1).into());
            b.body.add(Op::Concat { axis: 0 }, &[rest, newest])
        };
        b.states[index].2 = Some(next);
    }
    let mut outputs: Vec<(Value, Value)> = inner.iter().map(|(o, i)| (*o, *i)).collect();
    outputs.sort();
    outputs.retain(|(old, _)| graph.ty(*old).shape.first() == Some(&steps));
    let Builder { body, sequences, invariants, states, steps, .. } = b;
    let mut body = body;
    body.inputs = sequences.iter().chain(&invariants).map(|p| p.1).chain(states.iter().map(|s| s.1)).collect();
    body.outputs = outputs.iter().enumerate().map(|(i, (_, v))| (format!("out{i}"), *v)).collect();
    for (i, (_, input, next)) in states.iter().enumerate() {
        body.outputs.push((format!("next{i}"), next.unwrap_or(*input)));
    }
    let operands: Vec<Value> = sequences.iter().chain(&invariants).map(|p| p.0).chain(states.iter().map(|s| s.0)).collect();
    let roles = Roles { sequences: sequences.len(), invariants: invariants.len(), states: states.len(), outputs: outputs.len() };
    let l = Loop { roles, reverse: false, steps, body };
    let id = new.try_add(Op::Loop(Box::new(l)), &operands).map_err(|_| mixes(placeholder))?;
    new.node_mut(id).name = Some(cyclic.label(placeholder).0);
    for (i, (old, _)) in outputs.iter().enumerate() {
        map.insert(*old, Value { node: id, result: i as u16 });
    }
    Ok(())
}

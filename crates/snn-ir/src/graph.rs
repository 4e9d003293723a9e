//! Graphs: values in SSA form in an arena, addressed by small typed ids.

use std::collections::HashMap;
use std::sync::Arc;

use crate::dim::Dims;
use crate::infer::{TypeError, infer};
use crate::op::Op;
use crate::types::{DType, Type};

/// The id of a node in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The place in the arena.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The node.
    pub node: NodeId,
    /// Which of its results.
    pub result: u16,
}

/// A place in the source: bytes `start .. end` of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SourceSpan {
    /// Which file; 0 is the user's.
    pub file: u16,
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

/// An operation with its operands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// To what. Operands come before their users in the arena.
    pub operands: Vec<Value>,
    /// The type of each result.
    pub types: Vec<Type>,
    /// What the user calls it, for printing and errors.
    pub name: Option<String>,
    /// Where it was written.
    pub span: Option<SourceSpan>,
}

/// What a parameter starts as.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterInfo {
    /// Its name, as in a state_dict: `fc1.weight`.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Its value where no file gives one: a graph without inputs and with one output.
    pub initial: Arc<Graph>,
    /// Is it drawn before all others (`kaiming_normal_conv_linear_weight`)?
    pub drawn_first: bool,
    /// Is it changed by training through its gradient? Buffers are not.
    pub learnable: bool,
}

/// A graph. See the crate's documentation for the rules that it obeys.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Graph {
    /// The net or neuron that it was made from.
    pub name: String,
    nodes: Vec<Node>,
    /// The inputs, in order; each is the result of an [`Op::Input`].
    pub inputs: Vec<Value>,
    /// The results, by name, in order.
    pub outputs: Vec<(String, Value)>,
    /// New values of buffers after a run in training, by the name of the parameter.
    pub updates: Vec<(String, Value)>,
    /// The parameters, in order of declaration.
    pub parameters: Vec<ParameterInfo>,
}

impl Node {
    /// The same with results of other types, where they follow from operands that have other ones.
    pub fn with_types(self, types: Vec<Type>) -> Node {
        let op = match types.first() {
            Some(result) => self.op.with_result(result),
            None => self.op,
        };
        Node { op, types, ..self }
    }
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Has it no nodes?
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All nodes with their ids, operands before users.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> + ExactSizeIterator {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i as u32), n))
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A node, to rename or annotate it.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> &Type {
        &self.nodes[value.node.index()].types[value.result as usize]
    }

    /// The operation that computes a value.
    pub fn op(&self, value: Value) -> &Op {
        &self.nodes[value.node.index()].op
    }

    /// Appends a node whose types are known to be right.
    pub fn push(&mut self, node: Node) -> NodeId {
        debug_assert!(
            node.types.first().is_none_or(|t| node.op.clone().with_result(t).declared() == node.op.declared()),
            "attributes and type differ: {node:?}"
        );
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }

    /// Appends an operation; the types of its results follow.
    ///
    /// # Errors
    /// If the operands do not fit the operation.
    pub fn try_add(&mut self, op: Op, operands: &[Value]) -> Result<NodeId, TypeError> {
        let operand_types: Vec<&Type> = operands.iter().map(|v| self.ty(*v)).collect();
        let types = infer(&op, &operand_types)?;
        Ok(self.push(Node { op, operands: operands.to_vec(), types, name: None, span: None }))
    }

    /// Appends an operation with one result.
    ///
    /// # Panics
    /// If the operands do not fit: for compiler passes, which build well-typed graphs.
    pub fn add(&mut self, op: Op, operands: &[Value]) -> Value {
        match self.try_add(op, operands) {
            Ok(node) => Value { node, result: 0 },
            Err(e) => panic!("a pass built an ill-typed operation: {e}"),
        }
    }

    /// Declares an input.
    pub fn add_input(&mut self, name: impl Into<String>, ty: Type) -> Value {
        let value = self.input(name, ty);
        self.inputs.push(value);
        value
    }

    /// A tensor given by name, not yet among [`Self::inputs`].
    pub fn input(&mut self, name: impl Into<String>, ty: Type) -> Value {
        self.add(Op::Input { name: name.into(), ty }, &[])
    }

    /// A scalar float constant.
    pub fn add_f32(&mut self, x: f32) -> Value {
        self.add(Op::Constant(crate::Tensor::scalar(x)), &[])
    }

    /// Values in order of nodes: the results of one node.
    pub fn results(&self, id: NodeId) -> impl Iterator<Item = Value> + use<> {
        (0..self.nodes[id.index()].types.len() as u16).map(move |result| Value { node: id, result })
    }

    /// The numbers of values in the text form: results of nodes, in order. A value that does not exist has none of the others'.
    pub fn value_numbers(&self) -> impl Fn(Value) -> usize + use<> {
        let mut count = 0;
        let first: Vec<usize> = self
            .nodes
            .iter()
            .map(|n| {
                count += n.types.len();
                count - n.types.len()
            })
            .collect();
        move |v| first.get(v.node.index()).map_or(count + v.node.index(), |first| first + v.result as usize)
    }

    /// What the graph must compute: outputs and updates.
    pub fn roots(&self) -> impl Iterator<Item = Value> + '_ {
        self.outputs.iter().chain(&self.updates).map(|(_, v)| *v)
    }

    /// Which nodes are needed for the roots.
    pub fn live_nodes(&self) -> Vec<bool> {
        self.live_nodes_of(|node| node.operands.iter().copied())
    }

    /// Which nodes are needed for the roots, where a node reads these values.
    pub fn live_nodes_of<'a, I: IntoIterator<Item = Value>>(&'a self, reads: impl Fn(&'a Node) -> I) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for root in self.roots() {
            live[root.node.index()] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            if live[i] {
                for read in reads(&self.nodes[i]) {
                    live[read.node.index()] = true;
                }
            }
        }
        live
    }

    /// How often each value is used by nodes, by `[node][result]`; roots count as uses.
    pub fn use_counts(&self) -> Vec<Vec<usize>> {
        let mut counts: Vec<Vec<usize>> = self.nodes.iter().map(|n| vec![0; n.types.len()]).collect();
        let live = self.live_nodes();
        let operands = self.nodes.iter().zip(&live).filter(|(_, live)| **live).flat_map(|(n, _)| &n.operands);
        for v in operands.copied().chain(self.roots()) {
            counts[v.node.index()][v.result as usize] += 1;
        }
        counts
    }

    /// The inputs that the roots need, as `(name, type)`.
    pub fn needed_inputs(&self) -> Vec<(&str, &Type)> {
        let live = self.live_nodes();
        self.inputs.iter().filter(|v| live[v.node.index()]).map(|v| (self.input_name(*v), self.ty(*v))).collect()
    }

    /// The name of an input.
    pub fn input_name(&self, value: Value) -> &str {
        if let Op::Input { name, .. } = self.op(value) { name } else { "" }
    }

    /// The description of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&ParameterInfo> {
        self.parameters.iter().find(|p| p.name == name)
    }

    /// Copies the nodes of `self` into a new graph, each through `change`, which gets the new graph, the node with its new
    /// operands, and returns the new values of its results. Dead nodes are left out, inputs are kept.
    pub fn rebuild(&self, mut change: impl FnMut(&mut Graph, NodeId, Node) -> Vec<Value>) -> Graph {
        let mut graph = Graph::new(self.name.clone());
        let live = self.live_nodes();
        let mut map: Vec<Vec<Value>> = Vec::with_capacity(self.nodes.len());
        for (id, node) in self.nodes() {
            let is_input = self.inputs.iter().any(|v| v.node == id);
            if !live[id.index()] && !is_input {
                map.push(Vec::new());
                continue;
            }
            let mut node = node.clone();
            for operand in &mut node.operands {
                *operand = map[operand.node.index()][operand.result as usize];
            }
            let values = if is_input { vec![Value { node: graph.push(node), result: 0 }] } else { change(&mut graph, id, node) };
            map.push(values);
        }
        let mapped = |v: &Value| map[v.node.index()][v.result as usize];
        graph.inputs = self.inputs.iter().map(mapped).collect();
        graph.outputs = self.outputs.iter().map(|(n, v)| (n.clone(), mapped(v))).collect();
        graph.updates = self.updates.iter().map(|(n, v)| (n.clone(), mapped(v))).collect();
        graph.parameters = self.parameters.clone();
        graph
    }

    /// Takes the inputs, outputs and updates of another graph. `map` says what stands for their values here.
    pub fn take_roots(&mut self, other: &Graph, map: &HashMap<Value, Value>) {
        let of = |list: &[(String, Value)]| list.iter().map(|(name, v)| (name.clone(), map[v])).collect();
        self.inputs = other.inputs.iter().map(|v| map[v]).collect();
        (self.outputs, self.updates) = (of(&other.outputs), of(&other.updates));
    }

    /// Copies the nodes of another graph to the end of this one. `map` says what stands for values of the other, its inputs
    /// above all; it learns the values of the copies.
    pub fn append(&mut self, other: &Graph, map: &mut HashMap<Value, Value>) {
        for (id, node) in other.nodes() {
            if map.contains_key(&Value { node: id, result: 0 }) {
                continue;
            }
            let mut node = node.clone();
            node.operands.iter_mut().for_each(|v| *v = map[v]);
            let new = self.push(node);
            for v in self.results(new) {
                map.insert(Value { node: id, result: v.result }, v);
            }
        }
    }

    /// The graph with sizes put in for names of dimensions, everywhere.
    pub fn bind(&self, dims: &Dims) -> Graph {
        let mut graph = self.clone();
        graph.bind_in_place(dims);
        graph
    }

    fn bind_in_place(&mut self, dims: &Dims) {
        for node in &mut self.nodes {
            for ty in &mut node.types {
                *ty = ty.bind(dims);
            }
            node.op.bind(dims);
            if let Some(result) = node.types.first() {
                node.op.set_result(result);
            }
            for body in node.op.bodies_mut() {
                body.bind_in_place(dims);
            }
        }
        for parameter in &mut self.parameters {
            parameter.ty = parameter.ty.bind(dims);
            Arc::make_mut(&mut parameter.initial).bind_in_place(dims);
        }
    }

    /// A scalar float from a value's constant, if it is one.
    pub fn constant_f32(&self, value: Value) -> Option<f32> {
        let Op::Constant(t) = self.op(value) else { return None };
        (t.dtype() == DType::F32 && t.len() == 1).then(|| t.as_f32()[0])
    }

    /// Computes what is the same at all steps of a scan or a loop once, outside of it, where that saves a costly operation.
    pub fn hoisted(&self) -> Graph {
        crate::hoist::hoist(self)
    }

    /// Sequences of scans and loops of which only the step that is computed last is used become states, which hold one step.
    pub fn with_last_steps(&self) -> Graph {
        crate::last::with_last_steps(self)
    }

    /// Removes nodes that no root needs, and outputs of scans and loops that nobody uses with the states that only they need.
    pub fn pruned(&self) -> Graph {
        crate::prune::prune(self)
    }
}

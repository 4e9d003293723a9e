//! The walk from the outputs to the inputs.

use std::collections::{HashMap, HashSet};

use snn_ir::{Build, Class, DType, Dim, Graph, Node, NodeId, Op, Value};

use crate::recurrence::{Hoisted, Kept};

/// The adjoint of a part of a value along one axis.
#[derive(Clone, Copy)]
struct Part {
    axis: usize,
    start: i64,
    count: i64,
    gradient: Value,
}

/// A graph with the adjoints of its values, the derivatives of the loss with respect to them.
pub struct Reverse {
    /// The graph: the original nodes first, under their ids, then what gradients need.
    pub graph: Graph,
    adjoints: HashMap<Value, Value>,
    /// Adjoints of slices that are still to be put together: they are zero elsewhere.
    parts: HashMap<Value, Vec<Part>>,
    /// Nodes that depend on what is differentiated with respect to.
    active: Vec<bool>,
    /// Inside a loop: values that are the same in every step, and products with them that are left to the outside.
    pub fixed: HashSet<Value>,
    /// See [`Reverse::fixed`].
    pub hoisted: Vec<Hoisted>,
    /// How many results of products each loop gives, see [`Kept`].
    pub(crate) products: HashMap<NodeId, usize>,
    /// An operation that was met and has no derivative.
    pub refused: Option<&'static str>,
}

impl Reverse {
    /// Starts with a graph and the values whose adjoints are wanted.
    pub fn new(kept: Kept, sources: &[Value]) -> Reverse {
        let Kept { graph, products } = kept;
        let mut active = vec![false; graph.len()];
        for v in sources {
            active[v.node.index()] = true;
        }
        for (id, node) in graph.nodes() {
            active[id.index()] |= node.operands.iter().any(|v| active[v.node.index()] && graph.ty(*v).dtype == DType::F32);
        }
        Reverse {
            graph,
            adjoints: HashMap::new(),
            parts: HashMap::new(),
            active,
            fixed: HashSet::new(),
            hoisted: vec![],
            products,
            refused: None,
        }
    }

    /// Does the gradient of a value matter?
    pub fn is_active(&self, v: Value) -> bool {
        self.active.get(v.node.index()) == Some(&true) && self.graph.ty(v).dtype == DType::F32
    }

    /// The adjoint of a value, if anything depends on it.
    pub fn adjoint(&mut self, v: Value) -> Option<Value> {
        if let Some(parts) = self.parts.remove(&v) {
            self.join(v, parts);
        }
        self.adjoints.get(&v).copied()
    }

    /// Adds to the adjoint of the elements of a value from `start` on along an axis.
    pub(crate) fn add_part(&mut self, v: Value, axis: usize, start: &Dim, gradient: Value) {
        let (ty, count) = (self.graph.ty(v), &self.graph.ty(gradient).shape[axis]);
        if let (Some(start), Some(count), Some(_)) = (start.as_constant(), count.as_constant(), ty.shape[axis].as_constant()) {
            self.parts.entry(v).or_default().push(Part { axis, start, count, gradient });
            return;
        }
        let high = ty.shape[axis].minus(start).minus(count);
        let d = self.build().pad(gradient, axis, start.clone(), high);
        self.add(v, d);
    }

    /// Adds parts to an adjoint: those that do not overlap side by side, so that a value that is cut into many slices is not
    /// written and added for each of them.
    fn join(&mut self, v: Value, mut parts: Vec<Part>) {
        parts.sort_by_key(|p| (p.axis, p.start));
        while let Some(first) = parts.first().copied() {
            let ty = self.graph.ty(v).clone();
            let (mut end, mut pieces, mut later) = (0, Vec::new(), Vec::new());
            let gap = |build: &mut Build<'_>, pieces: &mut Vec<Value>, from: i64, to: i64| {
                if from < to {
                    let mut ty = ty.clone();
                    ty.shape[first.axis] = Dim::constant(to - from);
                    pieces.push(build.full(0.0, &ty));
                }
            };
            for part in parts {
                if part.axis == first.axis && part.start >= end {
                    gap(&mut self.build(), &mut pieces, end, part.start);
                    pieces.push(part.gradient);
                    end = part.start + part.count;
                } else {
                    later.push(part);
                }
            }
            let size = ty.shape[first.axis].as_constant().unwrap_or(end);
            gap(&mut self.build(), &mut pieces, end, size);
            let whole = if let [whole] = pieces[..] { whole } else { self.graph.add(Op::Concat { axis: first.axis }, &pieces) };
            self.add(v, whole);
            parts = later;
        }
    }

    /// Adds to the adjoint of a value.
    pub fn add(&mut self, v: Value, gradient: Value) {
        if !self.is_active(v) {
            return;
        }
        debug_assert_eq!(self.graph.ty(v), self.graph.ty(gradient), "the gradient of {:?}", self.graph.op(v));
        let sum = match self.adjoints.get(&v).copied() {
            Some(before) => Build(&mut self.graph).add(before, gradient),
            None => gradient,
        };
        self.adjoints.insert(v, sum);
    }

    /// To build in the graph.
    pub fn build(&mut self) -> Build<'_> {
        Build(&mut self.graph)
    }

    /// Walks all original nodes from the last to the first.
    pub fn run(&mut self) {
        for i in (0..self.active.len()).rev() {
            let id = NodeId(i as u32);
            if !self.active[i] || !self.graph.results(id).any(|v| self.adjoints.contains_key(&v) || self.parts.contains_key(&v)) {
                continue;
            }
            let node = self.graph.node(id).clone();
            self.node(id, &node);
        }
    }

    fn node(&mut self, id: NodeId, node: &Node) {
        let y = Value { node: id, result: 0 };
        if let Op::Scan(s) = &node.op {
            return self.scan(id, s, &node.operands);
        }
        if let Op::Loop(l) = &node.op {
            return self.repeated(id, l, &node.operands);
        }
        let Some(g) = self.adjoint(y) else { return };
        match node.op.class() {
            Class::Elementwise => self.elementwise(&node.op, &node.operands, y, g),
            Class::Product => {
                if let Op::Contract(c) = &node.op {
                    self.contraction(c, node.operands[0], node.operands[1], g);
                } else if let Op::Conv(c) = &node.op {
                    self.convolution(c, node.operands[0], node.operands[1], g);
                } else if let Op::ConvInputGradient(c) = &node.op {
                    self.convolution_input_gradient(c, node.operands[0], node.operands[1], g);
                } else if let Op::ConvWeightGradient(c) = &node.op {
                    self.convolution_weight_gradient(c, node.operands[0], node.operands[1], g);
                }
            }
            Class::Given | Class::Movement | Class::Reduction | Class::Time | Class::Label => {
                self.movement(&node.op, &node.operands, y, g);
            }
            Class::Recurrence => {}
        }
    }
}

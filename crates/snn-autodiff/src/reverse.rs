//! The walk from the outputs to the inputs.

use std::collections::{HashMap, HashSet};

use snn_ir::{Build, Class, DType, Graph, Node, NodeId, Op, Value};

use crate::recurrence::Hoisted;

/// A graph with the adjoints of its values, the derivatives of the loss with respect to them.
pub struct Reverse {
    /// The graph: the original nodes first, under their ids, then what gradients need.
    pub graph: Graph,
    adjoints: HashMap<Value, Value>,
    /// Nodes that depend on what is differentiated with respect to.
    active: Vec<bool>,
    /// Inside a loop: values that are the same in every step, and products with them that are left to the outside.
    pub fixed: HashSet<Value>,
    /// See [`Reverse::fixed`].
    pub hoisted: Vec<Hoisted>,
    /// An operation that was met and has no derivative.
    pub refused: Option<&'static str>,
}

impl Reverse {
    /// Starts with a graph and the values whose adjoints are wanted.
    pub fn new(graph: Graph, sources: &[Value]) -> Reverse {
        let mut active = vec![false; graph.len()];
        for v in sources {
            active[v.node.index()] = true;
        }
        for (id, node) in graph.nodes() {
            active[id.index()] |= node.operands.iter().any(|v| active[v.node.index()] && graph.ty(*v).dtype == DType::F32);
        }
        Reverse { graph, adjoints: HashMap::new(), active, fixed: HashSet::new(), hoisted: vec![], refused: None }
    }

    /// Does the gradient of a value matter?
    pub fn is_active(&self, v: Value) -> bool {
        self.active.get(v.node.index()) == Some(&true) && self.graph.ty(v).dtype == DType::F32
    }

    /// The adjoint of a value, if anything depends on it.
    pub fn adjoint(&self, v: Value) -> Option<Value> {
        self.adjoints.get(&v).copied()
    }

    /// Adds to the adjoint of a value.
    pub fn add(&mut self, v: Value, gradient: Value) {
        if !self.is_active(v) {
            return;
        }
        debug_assert_eq!(self.graph.ty(v), self.graph.ty(gradient), "the gradient of {:?}", self.graph.op(v));
        let sum = match self.adjoint(v) {
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
            if !self.active[i] || !self.graph.results(id).any(|v| self.adjoints.contains_key(&v)) {
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

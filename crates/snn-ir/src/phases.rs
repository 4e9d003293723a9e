//! A graph in two phases: what can be computed before some inputs are known, and the rest. So the outputs of a net are there before
//! the gradients of its loss are, which somebody else computes, and nothing is computed twice.

use std::collections::HashMap;

use crate::graph::{Graph, Node, Value};
use crate::op::Op;

/// What names of values begin with that the second phase reads.
const SAVED: &str = "saved.";

/// The two phases of a graph.
#[derive(Clone, Debug)]
pub struct Phases {
    /// Outputs and updates that are not late, and then what the second phase needs of the first.
    pub first: Graph,
    /// The other outputs. Its inputs are the late ones, what the first phase has computed, and inputs of the graph.
    pub second: Graph,
    /// The names of what passes from the first phase to the second.
    pub saved: Vec<String>,
}

/// Divides a graph by which of its inputs are late, and which of its outputs are, whether they depend on these inputs or not.
pub fn split(graph: &Graph, is_late_input: impl Fn(&str) -> bool, is_late_output: impl Fn(&str) -> bool) -> Phases {
    let mut late = vec![false; graph.len()];
    for (id, node) in graph.nodes() {
        let given_late = matches!(&node.op, Op::Input { name, .. } if is_late_input(name));
        late[id.index()] = given_late || node.operands.iter().any(|v| late[v.node.index()]);
    }
    let is_late = |v: &Value| late[v.node.index()];
    let mut second = Second { graph, new: Graph::new(format!("{} second", graph.name)), known: HashMap::new(), saved: vec![] };
    second.new.parameters = graph.parameters.clone();
    let live = graph.live_nodes();
    for (id, node) in graph.nodes().filter(|(id, _)| late[id.index()] && live[id.index()]) {
        let operands = node.operands.iter().map(|v| if is_late(v) { second.known[v] } else { second.carried(*v) }).collect();
        second.copy(id, Node { operands, ..node.clone() });
    }
    let (later, sooner): (Vec<_>, Vec<_>) = graph.outputs.iter().cloned().partition(|(name, v)| is_late(v) || is_late_output(name));
    second.new.outputs = later.iter().map(|(name, v)| (name.clone(), second.carried(*v))).collect();
    let Second { new, saved, .. } = second;
    let mut first = graph.clone();
    first.outputs = sooner.into_iter().chain(saved.iter().cloned()).collect();
    first.updates.retain(|(_, v)| !is_late(v));
    first.inputs.retain(|v| !is_late(v));
    Phases { first: first.pruned(), second: new.pruned(), saved: saved.into_iter().map(|(name, _)| name).collect() }
}

struct Second<'a> {
    graph: &'a Graph,
    new: Graph,
    known: HashMap<Value, Value>,
    /// Names and values of the first phase.
    saved: Vec<(String, Value)>,
}

impl Second<'_> {
    fn copy(&mut self, id: crate::graph::NodeId, node: Node) {
        let is_input = matches!(node.op, Op::Input { .. });
        let new = self.new.push(node);
        for v in self.new.results(new) {
            self.known.insert(Value { node: id, result: v.result }, v);
            if is_input {
                self.new.inputs.push(v);
            }
        }
    }

    /// A value in the second phase: what is given or costs nothing is there again, the rest is saved.
    fn carried(&mut self, v: Value) -> Value {
        if let Some(known) = self.known.get(&v) {
            return *known;
        }
        let node = self.graph.node(v.node);
        let again = match &node.op {
            Op::Broadcast { .. } | Op::Reshape { .. } => Some(vec![self.carried(node.operands[0])]),
            Op::Input { .. } | Op::Parameter { .. } | Op::Constant(_) | Op::Size(_) | Op::Iota { .. } => Some(vec![]),
            Op::Random { .. } | Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast { .. } | Op::Spike { .. } => None,
            Op::Transpose { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Concat { .. } | Op::Gather { .. } => None,
            Op::ScatterAdd { .. } | Op::Window { .. } | Op::MaxPoolGradient(_) | Op::Reduce { .. } | Op::ArgMax { .. } => None,
            Op::CumSum { .. } | Op::Contract(_) | Op::Conv(_) | Op::ConvInputGradient(_) | Op::ConvWeightGradient(_) => None,
            Op::Delay { .. } | Op::FirstSpike { .. } | Op::RedundantOneHot { .. } | Op::ThresholdMargin { .. } => None,
            Op::Scan(_) | Op::Loop(_) => None,
        };
        match again {
            Some(operands) => self.copy(v.node, Node { operands, ..node.clone() }),
            None => {
                let name = format!("{SAVED}{}", self.saved.len());
                let input = self.new.add_input(name.clone(), self.graph.ty(v).clone());
                self.known.insert(v, input);
                self.saved.push((name, v));
            }
        }
        self.known[&v]
    }
}

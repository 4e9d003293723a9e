//! What a later kernel computes again instead of reading it.
//!
//! The way back through a net needs values of the way forward. Where such a value is a few cheap operations away from one that is kept
//! anyhow, or several are from the same one (a batch norm's centred and its scaled input, both from the result of a convolution), it costs less
//! to do these operations again inside of the kernel that wants the value than to write it, hold it and read it. [`recomputed`] gives such
//! kernels operations of their own. They are the same operations on the same numbers, so no bit changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use snn_ir::describe::Class;
use snn_ir::{BinaryOp, CompileError, DType, Graph, Node, NodeId, Op, UnaryOp, Value};

use crate::plan::{Plan, plan_for_threads};

/// Smaller values stay in the caches.
const SMALLEST: usize = 1 << 16;
/// Operations that are done again for one value at most.
const MOST: usize = 12;

/// The graph in which late users of cheap values compute them themselves, where that moves fewer bytes, with its plan. All sizes are known.
///
/// # Errors
/// If a size is too large.
pub(crate) fn recomputed(graph: Graph) -> Result<(Graph, Plan), CompileError> {
    let plan = plan_for_threads(&graph)?;
    let candidates = Candidates::of(&graph);
    let chosen = candidates.chosen();
    if chosen.is_empty() {
        return Ok((graph, plan));
    }
    let new = candidates.rewritten(&chosen);
    let after = plan_for_threads(&new)?;
    let written = |plan: &Plan| plan.tasks.iter().map(|t| t.computed).sum::<usize>();
    let better = after.peak <= plan.peak && written(&after) < written(&plan);
    Ok(if better { (new, after) } else { (graph, plan) })
}

/// Is it worth less than a number in memory?
fn is_cheap(node: &Node) -> bool {
    let cheap = if let Op::Unary(u) = &node.op {
        matches!(u, UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Floor | UnaryOp::Round | UnaryOp::Not | UnaryOp::Detach)
    } else if let Op::Binary(b) = &node.op {
        !matches!(b, BinaryOp::Pow | BinaryOp::Rem)
    } else {
        node.op.is_elementwise()
    };
    cheap && matches!(node.types[0].dtype, DType::F32 | DType::Bool) && node.types[0].rank() > 0
}

/// Must all of its operands be in memory, so that no kernel goes on through it?
fn is_barrier(op: &Op) -> bool {
    match op.class() {
        Class::Given | Class::Elementwise => false,
        Class::Movement => !matches!(op, Op::Broadcast { .. }),
        Class::Recurrence => !matches!(op, Op::Scan(_)),
        Class::Reduction | Class::Product | Class::Time | Class::Label => true,
    }
}

/// Values that could be computed again.
struct Candidates<'a> {
    graph: &'a Graph,
    /// After how many barriers each node is.
    stages: Vec<usize>,
    users: Vec<Vec<NodeId>>,
    /// Is it read by kernels of its own shape only?
    fused: Vec<bool>,
}

impl<'a> Candidates<'a> {
    fn of(graph: &'a Graph) -> Candidates<'a> {
        let live = graph.live_nodes();
        let mut c = Candidates { graph, stages: vec![0; graph.len()], users: vec![vec![]; graph.len()], fused: vec![true; graph.len()] };
        graph.roots().for_each(|v| c.fused[v.node.index()] = false);
        for (id, node) in graph.nodes().filter(|(id, _)| live[id.index()]) {
            let before = node.operands.iter().map(|v| c.stages[v.node.index()]).max().unwrap_or(0);
            c.stages[id.index()] = before + usize::from(is_barrier(&node.op));
            let sequences = if let Op::Scan(s) = &node.op { s.roles.sequences } else { node.operands.len() };
            for (i, v) in node.operands.iter().enumerate() {
                c.users[v.node.index()].push(id);
                let same = node.op.is_elementwise() || matches!(node.op, Op::Scan(_)) && i < sequences;
                c.fused[v.node.index()] &= same;
            }
        }
        c
    }

    fn bytes(&self, id: NodeId) -> usize {
        self.graph.node(id).types[0].byte_len()
    }

    /// Could it be computed inside of the kernels that read it, so that it is written only for those that are late?
    fn is_fused(&self, id: NodeId) -> bool {
        self.fused[id.index()] && is_cheap(self.graph.node(id))
    }

    /// The stage of the last user, if that is too late to be in one kernel with it.
    fn late(&self, id: NodeId) -> Option<usize> {
        let stage = |id: NodeId| self.stages[id.index()];
        self.users[id.index()].iter().map(|u| stage(*u)).max().filter(|last| *last > stage(id))
    }

    /// What is read to compute a fused value again; `None` where that are too many operations.
    fn sources(&self, id: NodeId) -> Option<BTreeSet<NodeId>> {
        let (mut sources, mut seen, mut stack) = (BTreeSet::new(), BTreeSet::new(), vec![id]);
        while let Some(id) = stack.pop() {
            if !seen.insert(id) {
                continue;
            }
            if seen.len() > MOST {
                return None;
            }
            for v in &self.graph.node(id).operands {
                let op = self.graph.op(*v);
                if self.is_fused(v.node) {
                    stack.push(v.node);
                } else if !matches!(op, Op::Broadcast { .. }) && op.class() != Class::Given {
                    sources.insert(v.node);
                }
            }
        }
        Some(sources)
    }

    /// The values that are worth it: together they are at least as large as what must be held for them instead.
    fn chosen(&self) -> BTreeSet<NodeId> {
        let mut wanted: Vec<(NodeId, BTreeSet<NodeId>)> = Vec::new();
        for (id, _) in self.graph.nodes() {
            let Some(last) = self.late(id) else { continue };
            if !self.is_fused(id) || self.bytes(id) < SMALLEST {
                continue;
            }
            // What is read that late anyhow costs nothing.
            let held = |source: &NodeId| !self.users[source.index()].iter().any(|u| self.stages[u.index()] >= last);
            if let Some(sources) = self.sources(id) {
                wanted.push((id, sources.into_iter().filter(held).collect()));
            }
        }
        // Values that are computed from the same things are judged together.
        let mut groups: Vec<(BTreeSet<NodeId>, Vec<NodeId>)> = Vec::new();
        for (id, sources) in wanted {
            let (meeting, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(known, _)| !known.is_disjoint(&sources));
            groups = others;
            let mut joined = (sources, vec![id]);
            for (known, values) in meeting {
                joined.0.extend(known);
                joined.1.extend(values);
            }
            groups.push(joined);
        }
        let all = |ids: &mut dyn Iterator<Item = &NodeId>| ids.map(|id| self.bytes(*id)).sum::<usize>();
        let worth = |(sources, values): &(BTreeSet<NodeId>, Vec<NodeId>)| all(&mut sources.iter()) <= all(&mut values.iter());
        groups.into_iter().filter(worth).flat_map(|(_, values)| values).collect()
    }

    /// The graph with copies of some values for their late users.
    fn rewritten(&self, values: &BTreeSet<NodeId>) -> Graph {
        let graph = self.graph;
        // Copies, by what they are of and the stage that they are for.
        let mut copies: BTreeMap<(NodeId, usize), Value> = BTreeMap::new();
        let mut known: HashMap<Value, Value> = HashMap::new();
        let mut new = Graph::new(graph.name.clone());
        new.parameters.clone_from(&graph.parameters);
        for (id, node) in graph.nodes() {
            let stage = self.stages[id.index()];
            let mut node = Node { operands: node.operands.iter().map(|v| known[v]).collect(), ..node.clone() };
            for (own, old) in node.operands.iter_mut().zip(&graph.node(id).operands) {
                if values.contains(&old.node) && self.stages[old.node.index()] < stage {
                    *own = self.copy(&mut new, old.node, stage, &known, &mut copies);
                }
            }
            let copy = new.push(node);
            known.extend(graph.results(id).zip(new.results(copy)));
        }
        new.take_roots(graph, &known);
        debug_assert!(snn_ir::verify(&new).is_ok(), "what is computed again is well-typed: {:?}", snn_ir::verify(&new));
        new.pruned()
    }

    fn copy(
        &self,
        new: &mut Graph,
        id: NodeId,
        stage: usize,
        known: &HashMap<Value, Value>,
        copies: &mut BTreeMap<(NodeId, usize), Value>,
    ) -> Value {
        if let Some(copy) = copies.get(&(id, stage)) {
            return *copy;
        }
        let node = self.graph.node(id);
        let mut operand = |v: &Value| if self.is_fused(v.node) { self.copy(new, v.node, stage, known, copies) } else { known[v] };
        let operands = node.operands.iter().map(&mut operand).collect();
        let copy = Value { node: new.push(Node { operands, ..node.clone() }), result: 0 };
        copies.insert((id, stage), copy);
        copy
    }
}

//! What a later kernel computes again instead of reading it.
//!
//! The way back through a net needs values of the way forward. Where such a value is a few cheap operations away from one that is kept
//! anyhow, or several are from the same one (a batch norm's centred and its scaled input, both from the result of a convolution), it costs less
//! to do these operations again inside of the kernel that wants the value than to write it, hold it and read it. [`recomputed`] gives such
//! kernels operations of their own. They are the same operations on the same numbers, so no bit changes.
//!
//! So it is with the states of neurons: the way back through a neuron needs them at all time steps, in reverse. Its kernel computes them again from the
//! neuron's input, forwards through a tile that stays in the cache, and then goes back through it ([`StepKernel::before`](crate::step::StepKernel::before)).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use snn_ir::describe::Class;
use snn_ir::{BinaryOp, CompileError, DType, Graph, Node, NodeId, Op, Scan, UnaryOp, Value};

use crate::plan::{Kernel, Plan, plan_for_threads};

/// Smaller values stay in the caches.
const SMALLEST: usize = 1 << 16;
/// Operations that are done again for one value at most.
const MOST: usize = 12;
/// The nodes of a step at most that is done again for its states.
const LONGEST_STEP: usize = 24;
/// Steps at most that are done again.
const MOST_STEPS: usize = 64;

/// The graph in which late users of cheap values compute them themselves, where that moves fewer bytes, with its plan. All sizes are known.
///
/// # Errors
/// If a size is too large.
pub(crate) fn recomputed(graph: Graph) -> Result<(Graph, Plan), CompileError> {
    let plan = plan_for_threads(&graph)?;
    let before = written(&graph, &plan);
    let mut candidates = Candidates::of(&graph);
    // With the states of neurons, if there are some that are worth it, and then without.
    for scans in [true, false] {
        candidates.scans = scans;
        let chosen = candidates.chosen();
        if chosen.is_empty() || scans != chosen.iter().any(|v| matches!(graph.op(*v), Op::Scan(_))) {
            continue;
        }
        let new = candidates.rewritten(&chosen);
        let after = plan_for_threads(&new)?;
        if after.peak <= plan.peak && written(&new, &after) < before {
            return Ok((new, after));
        }
    }
    Ok((graph, plan))
}

/// The bytes that all kernels of a plan write.
fn written(graph: &Graph, plan: &Plan) -> usize {
    let writing = plan.tasks.iter().filter(|t| !matches!(t.kernel, Kernel::Alias));
    writing.flat_map(|t| &t.gives).map(|v| plan.bytes(graph, *v)).fold(0, usize::saturating_add)
}

/// Is it worth less than a number in memory?
fn is_cheap(op: &Op) -> bool {
    if let Op::Unary(u) = op {
        matches!(u, UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Floor | UnaryOp::Round | UnaryOp::Not | UnaryOp::Detach)
    } else if let Op::Binary(b) = op {
        !matches!(b, BinaryOp::Pow | BinaryOp::Rem)
    } else {
        op.is_elementwise()
    }
}

/// Is a step of it worth less than the numbers in memory that it gives, and can a tile hold all of its steps?
fn is_cheap_scan(s: &Scan, steps: usize) -> bool {
    let cheap = s.body.nodes().all(|(_, node)| node.op.class() == Class::Given || is_cheap(&node.op));
    cheap && !s.reverse && s.body.len() <= LONGEST_STEP && steps <= MOST_STEPS
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
    /// Are the states of neurons among them?
    scans: bool,
    /// After how many barriers each node is.
    stages: Vec<usize>,
    users: BTreeMap<Value, Vec<NodeId>>,
    /// What is read by others than kernels of its own shape.
    whole: BTreeSet<Value>,
}

impl<'a> Candidates<'a> {
    fn of(graph: &'a Graph) -> Candidates<'a> {
        let live = graph.live_nodes();
        let mut c = Candidates { graph, scans: true, stages: vec![0; graph.len()], users: BTreeMap::new(), whole: graph.roots().collect() };
        for (id, node) in graph.nodes().filter(|(id, _)| live[id.index()]) {
            let before = node.operands.iter().map(|v| c.stages[v.node.index()]).max().unwrap_or(0);
            c.stages[id.index()] = before + usize::from(is_barrier(&node.op));
            let sequences = if let Op::Scan(s) = &node.op { s.roles.sequences } else { node.operands.len() };
            for (i, v) in node.operands.iter().enumerate() {
                c.users.entry(*v).or_default().push(id);
                let same = node.op.is_elementwise() || matches!(node.op, Op::Scan(_)) && i < sequences;
                if !same {
                    c.whole.insert(*v);
                }
            }
        }
        c
    }

    fn bytes(&self, v: Value) -> usize {
        self.graph.ty(v).byte_len()
    }

    fn users(&self, v: Value) -> &[NodeId] {
        self.users.get(&v).map_or(&[], Vec::as_slice)
    }

    /// Could it be computed inside of the kernels that read it, so that it is written only for those that are late?
    fn is_fused(&self, v: Value) -> bool {
        let ty = self.graph.ty(v);
        let op = self.graph.op(v);
        let cheap = if let Op::Scan(s) = op {
            let steps = ty.sizes().ok().and_then(|sizes| sizes.first().copied()).unwrap_or(usize::MAX);
            self.scans && (v.result as usize) < s.roles.outputs && is_cheap_scan(s, steps)
        } else {
            is_cheap(op)
        };
        cheap && !self.whole.contains(&v) && matches!(ty.dtype, DType::F32 | DType::Bool) && ty.rank() > 0
    }

    /// The stage of the last user, if that is too late to be in one kernel with it.
    fn late(&self, v: Value) -> Option<usize> {
        let stage = |id: NodeId| self.stages[id.index()];
        self.users(v).iter().map(|u| stage(*u)).max().filter(|last| *last > stage(v.node))
    }

    /// What is read to compute a fused value again; `None` where that are too many operations.
    fn sources(&self, v: Value) -> Option<BTreeSet<Value>> {
        let (mut sources, mut seen, mut stack) = (BTreeSet::new(), BTreeSet::new(), vec![v]);
        while let Some(v) = stack.pop() {
            if !seen.insert(v.node) {
                continue;
            }
            if seen.len() > MOST {
                return None;
            }
            for v in &self.graph.node(v.node).operands {
                let op = self.graph.op(*v);
                if self.is_fused(*v) {
                    stack.push(*v);
                } else if !matches!(op, Op::Broadcast { .. }) && op.class() != Class::Given {
                    sources.insert(*v);
                }
            }
        }
        Some(sources)
    }

    /// The values that are worth it: together they are at least as large as what must be held for them instead.
    fn chosen(&self) -> BTreeSet<Value> {
        let mut wanted: Vec<(BTreeSet<Value>, Vec<Value>)> = Vec::new();
        for v in self.users.keys().copied() {
            let Some(last) = self.late(v) else { continue };
            if !self.is_fused(v) || self.bytes(v) < SMALLEST {
                continue;
            }
            // What is read that late anyhow costs nothing.
            let held = |source: &Value| !self.users(*source).iter().any(|u| self.stages[u.index()] >= last);
            if let Some(sources) = self.sources(v) {
                wanted.push((sources.into_iter().filter(held).collect(), vec![v]));
            }
        }
        // Values that are computed from the same things are judged together.
        let mut groups: Vec<(BTreeSet<Value>, Vec<Value>)> = Vec::new();
        for mut joined in wanted {
            let (meeting, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(known, _)| !known.is_disjoint(&joined.0));
            groups = others;
            for (known, values) in meeting {
                joined.0.extend(known);
                joined.1.extend(values);
            }
            groups.push(joined);
        }
        let all = |values: &mut dyn Iterator<Item = &Value>| values.map(|v| self.bytes(*v)).sum::<usize>();
        let worth = |(sources, values): &(BTreeSet<Value>, Vec<Value>)| all(&mut sources.iter()) <= all(&mut values.iter());
        groups.into_iter().filter(worth).flat_map(|(_, values)| values).collect()
    }

    /// The graph with copies of some values for their late users.
    fn rewritten(&self, values: &BTreeSet<Value>) -> Graph {
        let graph = self.graph;
        // Copies, by what they are of and the stage that they are for.
        let mut copies: BTreeMap<(NodeId, usize), NodeId> = BTreeMap::new();
        let mut known: HashMap<Value, Value> = HashMap::new();
        let mut new = Graph::new(graph.name.clone());
        new.parameters.clone_from(&graph.parameters);
        for (id, node) in graph.nodes() {
            let stage = self.stages[id.index()];
            let mut node = Node { operands: node.operands.iter().map(|v| known[v]).collect(), ..node.clone() };
            for (own, old) in node.operands.iter_mut().zip(&graph.node(id).operands) {
                if values.contains(old) && self.stages[old.node.index()] < stage {
                    *own = self.copy(&mut new, *old, stage, &known, &mut copies);
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
        v: Value,
        stage: usize,
        known: &HashMap<Value, Value>,
        copies: &mut BTreeMap<(NodeId, usize), NodeId>,
    ) -> Value {
        if let Some(copy) = copies.get(&(v.node, stage)) {
            return Value { node: *copy, result: v.result };
        }
        let node = self.graph.node(v.node);
        let mut operand = |v: &Value| if self.is_fused(*v) { self.copy(new, *v, stage, known, copies) } else { known[v] };
        let operands = node.operands.iter().map(&mut operand).collect();
        let copy = new.push(Node { operands, ..node.clone() });
        copies.insert((v.node, stage), copy);
        Value { node: copy, result: v.result }
    }
}

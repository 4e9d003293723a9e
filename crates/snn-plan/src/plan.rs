//! From a graph to a list of kernels: what is fused, what is read in place, what is copied.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use snn_ir::tensor::row_major_strides;
use snn_ir::{CompileError, Convolution, DType, Dims, Graph, Loop, Node, NodeId, Op, Value};

use snn_ir::lanes::{supports, supports_graph};

use crate::convolution::{ConvolutionPlan, Direction};
use crate::lifetimes;
use crate::max_pool::MaxPoolGradient;
use crate::partition::partition_batch;
use crate::product::ProductPlan;
use crate::reduction::{ReductionPlan, ReductionShape};
use crate::ring::{Ring, RingPart};
use crate::selection::Selection;
use crate::step::{StepKernel, build};

/// What one task does.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// Fused elementwise operations and scans.
    Step(Box<StepKernel>),
    /// The operand in another shape, shared.
    Alias,
    /// A contraction.
    Product(ProductPlan),
    /// A convolution over one or two axes.
    Convolution(ConvolutionPlan),
    /// A reduction, over windows or axes, with plain loops.
    Reduction(ReductionPlan),
    /// The gradient of a max pool.
    MaxPoolGradient(MaxPoolGradient),
    /// A product with one-hot rows that are never written. Only plans for threads have it.
    Selection(Selection),
    /// A copy of whole steps.
    Delay(i64),
    /// A strided copy.
    Move,
    /// The first spike along an axis, where values are 0 and 1.
    FirstSpike(usize),
    /// Recurrent connections.
    Loop(Box<LoopPlan>),
    /// Part of a delay inside of a loop, whose last steps are in a ring buffer. See [`crate::ring`].
    Ring(RingPart),
    /// As the interpreter does it.
    Reference,
}

/// A loop: its body, and a plan for one step.
#[derive(Clone, Debug)]
pub struct LoopPlan {
    /// One step, of all samples or of a part of them.
    pub body: Graph,
    /// Its kernels.
    pub plan: Plan,
    /// How many parts there are.
    pub parts: usize,
    /// How many runs of samples a slice of a sequence has, of each of which a part takes its own.
    pub runs: usize,
    /// Along which axis of a step each operand is divided, where there are several parts.
    pub divided: Vec<Option<usize>>,
    /// States that are ring buffers.
    pub rings: Vec<Ring>,
}

/// A kernel with what it reads and writes.
#[derive(Clone, Debug)]
pub struct Task {
    /// The node that it computes, or the last one of a fused group.
    pub node: NodeId,
    /// How.
    pub kernel: Kernel,
    /// What it reads.
    pub needs: Vec<Value>,
    /// What it writes.
    pub gives: Vec<Value>,
    /// What nobody reads after it.
    pub frees: Vec<Value>,
    /// Bytes of values that are held when it begins, beside inputs and parameters.
    pub held: usize,
    /// Bytes of the values that it computes, but for those that are written where it read another.
    pub computed: usize,
}

/// The kernels of a graph in order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The kernels.
    pub tasks: Vec<Task>,
    /// The most bytes that are held at one time, beside inputs and parameters.
    pub peak: usize,
    /// How many packed weights are kept from run to run, those of loops inside included.
    pub packed: usize,
    /// Values of 0 and 1, floats in the graph, that are in memory as booleans. Only plans for threads have some.
    pub spikes: BTreeSet<Value>,
}

impl Plan {
    /// The bytes that a value takes in memory.
    pub fn bytes(&self, graph: &Graph, v: Value) -> usize {
        stored_bytes(graph, &self.spikes, v).unwrap_or(usize::MAX)
    }
}

/// The element type of a value in memory, as a step kernel reads and writes it: spikes are bytes.
pub(crate) fn stored(graph: &Graph, spikes: &BTreeSet<Value>, v: Value) -> DType {
    if spikes.contains(&v) { DType::U8 } else { graph.ty(v).dtype }
}

/// The bytes of a value in memory.
///
/// # Errors
/// If it is too large, or its size is not known.
pub(crate) fn stored_bytes(graph: &Graph, spikes: &BTreeSet<Value>, v: Value) -> Result<usize, CompileError> {
    let n = snn_ir::tensor::element_count(&graph.ty(v).sizes()?).and_then(|n| n.checked_mul(stored(graph, spikes, v).bytes()));
    n.filter(|n| *n <= isize::MAX as usize).ok_or(CompileError::TooLarge)
}

/// A set of nodes that are fused into one kernel.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub members: Vec<NodeId>,
    pub shape: Vec<usize>,
    pub reverse: Option<bool>,
    /// Sums of members, which are added as these are computed.
    pub sums: Vec<NodeId>,
    /// Nodes that run first, forwards in time, and whose results only members read.
    pub before: Vec<NodeId>,
    /// The gradient of a max pool that only members read: it is computed tile by tile, step by step.
    pub pool: Option<NodeId>,
}

pub(crate) struct Planner<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) live: Vec<bool>,
    /// Are loops divided?
    pub(crate) divides: bool,
    pub(crate) groups: Vec<Group>,
    pub(crate) group_of: HashMap<NodeId, usize>,
    /// The first group that reads a value.
    readers: HashMap<Value, usize>,
}

/// Plans a graph; loops are run as a whole.
///
/// # Errors
/// If a size is not known or too large.
pub fn plan(graph: &Graph) -> Result<Plan, CompileError> {
    whole(graph, false)
}

/// Plans a graph for threads: each runs a part of a loop's samples through all steps, where samples do not meet.
///
/// # Errors
/// If a size is not known or too large.
pub fn plan_for_threads(graph: &Graph) -> Result<Plan, CompileError> {
    whole(graph, true)
}

fn whole(graph: &Graph, divides: bool) -> Result<Plan, CompileError> {
    let mut counts = Counts::default();
    let mut plan = plan_from(graph, divides, &mut counts)?;
    plan.packed = counts.packed;
    number_kernels(&mut plan, &mut 0);
    debug_assert_eq!(crate::verify(graph, &plan), Ok(()));
    Ok(plan)
}

/// As [`plan`]; `counts` says what has been numbered so far.
fn plan_from(graph: &Graph, divides: bool, counts: &mut Counts) -> Result<Plan, CompileError> {
    // One-hot rows that a selection reads as labels, and rows that it reads where they come from, are not computed.
    let live = graph.live_nodes_of(|node| selection(graph, node, divides).map_or_else(|| node.operands.clone(), |s| s.reads()));
    let mut p = Planner { graph, live, divides, groups: vec![], group_of: HashMap::new(), readers: HashMap::new() };
    p.form_groups()?;
    p.attach_sums();
    p.join_in_tiles();
    p.attach_pools();
    let demanded = p.demanded();
    let spikes = if divides { crate::spikes::stored_as_bytes(&p, &demanded) } else { BTreeSet::new() };
    p.schedule(&demanded, spikes, counts)
}

/// The selection that a node is, where kernels know these.
fn selection(graph: &Graph, node: &Node, divides: bool) -> Option<Selection> {
    divides.then(|| Selection::new(graph, node).ok().flatten()).flatten()
}

/// Numbers the step kernels in the order of the plan, those of loops where they stand: the order in which they are generated.
fn number_kernels(plan: &mut Plan, count: &mut usize) {
    for task in &mut plan.tasks {
        if let Kernel::Step(kernel) = &mut task.kernel {
            if let Some(before) = &mut kernel.before {
                before.function = number(count);
            }
            kernel.function = number(count);
        } else if let Kernel::Loop(inner) = &mut task.kernel {
            number_kernels(&mut inner.plan, count);
        }
    }
}

/// How many packed weights there are so far.
#[derive(Default)]
struct Counts {
    packed: usize,
}

/// The next number.
pub(crate) fn number(count: &mut usize) -> usize {
    *count += 1;
    *count - 1
}

/// A value that a step kernel reads where it is: through repetition and delay, without a copy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Access {
    /// What is read.
    pub source: Value,
    /// For each axis of the kernel, how far apart its elements are.
    pub strides: Vec<usize>,
    /// How many steps earlier.
    pub delay: i64,
}

/// Is it there before the first kernel?
pub(crate) fn is_given(op: &Op) -> bool {
    matches!(op, Op::Input { .. } | Op::Parameter { .. } | Op::Constant(_))
}

/// Is it read in place by step kernels?
pub(crate) fn is_view(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let readable = matches!(node.types[0].dtype, DType::F32 | DType::Bool | DType::U8);
    if let Op::Broadcast { axes, .. } = &node.op {
        readable && !repeats_few(graph, id, axes)
    } else {
        readable && matches!(node.op, Op::Delay { .. })
    }
}

/// Does it repeat each element only a few times in a row? A kernel that read it where it is would run over these few.
fn repeats_few(graph: &Graph, id: NodeId, axes: &[usize]) -> bool {
    let Ok(sizes) = graph.node(id).types[0].sizes() else { return false };
    let Some(last) = axes.last() else { return false };
    let tail: usize = sizes[last + 1..].iter().product();
    let rows: usize = sizes[..=*last].iter().product();
    (2..16).contains(&tail) && rows > 64
}

/// A constant that a kernel holds as an immediate.
pub(crate) fn immediate(graph: &Graph, value: Value) -> Option<&snn_ir::Tensor> {
    let op = graph.op(value);
    if let Op::Constant(t) = op {
        return (t.len() == 1 && matches!(t.dtype(), DType::F32 | DType::Bool)).then_some(t);
    }
    let repeats = matches!(op, Op::Broadcast { .. } | Op::Reshape { .. });
    if repeats { immediate(graph, graph.node(value.node).operands[0]) } else { None }
}

/// How a kernel over `shape` reads a value that is aligned with its last axes.
pub(crate) fn access(graph: &Graph, value: Value, shape: &[usize]) -> Result<Access, CompileError> {
    let mut current = value;
    let rank = graph.ty(value).rank();
    // The axis of the current value for each axis of the kernel.
    let mut map: Vec<Option<usize>> = (0..shape.len()).map(|i| (i + rank).checked_sub(shape.len())).collect();
    let mut delay = 0;
    loop {
        let node = graph.node(current.node);
        if !is_view(graph, current.node) {
            break;
        }
        if let Op::Broadcast { axes, .. } = &node.op {
            for m in &mut map {
                *m = m.and_then(|axis| axes.iter().position(|a| *a == axis));
            }
        } else if let Op::Delay { steps } = &node.op {
            // A delay is read at an offset where the kernel's time is the value's.
            if map.first() != Some(&Some(0)) || shape[0] != node.types[0].sizes()?[0] {
                break;
            }
            delay = steps.saturating_add(delay);
        }
        current = node.operands[0];
    }
    let sizes = graph.ty(current).sizes()?;
    let own = row_major_strides(&sizes);
    let strides = map.iter().map(|m| m.filter(|a| sizes[*a] != 1).map_or(0, |a| own[a])).collect();
    Ok(Access { source: current, strides, delay })
}

impl Planner<'_> {
    fn fusable(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        if let Op::Scan(s) = &node.op {
            return supports_graph(&s.body) && node.operands.iter().all(|v| self.graph.ty(*v).dtype == DType::F32);
        }
        let operands: Vec<DType> = node.operands.iter().map(|v| self.graph.ty(*v).dtype).collect();
        supports(&node.op, &operands, node.types[0].dtype)
    }

    fn full_shape(&self, id: NodeId) -> Result<Vec<usize>, CompileError> {
        let node = self.graph.node(id);
        let ty = if matches!(node.op, Op::Scan(_)) { self.graph.ty(node.operands[0]) } else { &node.types[0] };
        Ok(ty.sizes()?)
    }

    fn form_groups(&mut self) -> Result<(), CompileError> {
        // Elementwise operations by their operands. What is computed again is meant for another kernel than the first time.
        let mut known: HashMap<&[Value], Vec<NodeId>> = HashMap::new();
        for (id, node) in self.graph.nodes() {
            if !self.live[id.index()] || !self.fusable(id) {
                continue;
            }
            let shape = self.full_shape(id)?;
            let reverse = if let Op::Scan(s) = &node.op { Some(s.reverse) } else { None };
            let mut candidates: Vec<usize> = node.operands.iter().filter_map(|v| self.group_of.get(&v.node).copied()).collect();
            candidates.sort_unstable();
            candidates.dedup();
            // What reads the same tensor reads it once: kernels that share a source come last, and so are tried after those
            // that give an operand.
            let shared = node.operands.iter().filter(|v| self.graph.ty(**v).rank() > 0).filter_map(|v| self.readers.get(v).copied());
            let shared: Vec<usize> = shared.filter(|g| !candidates.contains(g)).collect();
            candidates.splice(0..0, shared);
            let alike = known.entry(&node.operands).or_default();
            let twins: Vec<usize> =
                alike.iter().filter(|n| self.graph.node(**n).op == node.op).filter_map(|n| self.group_of.get(n).copied()).collect();
            alike.push(id);
            let joined = candidates.into_iter().filter(|g| !twins.contains(g)).rev().find(|g| {
                let group = &self.groups[*g];
                let directions = group.reverse.is_none() || reverse.is_none() || group.reverse == reverse;
                group.shape == shape && directions && self.can_join(id, *g, &shape)
            });
            let g = joined.unwrap_or_else(|| {
                self.groups.push(Group { shape, ..Group::default() });
                self.groups.len() - 1
            });
            self.groups[g].members.push(id);
            for v in &node.operands {
                self.readers.entry(*v).or_insert(g);
            }
            self.groups[g].reverse = self.groups[g].reverse.or(reverse);
            self.group_of.insert(id, g);
        }
        Ok(())
    }

    /// May a node join a group without a value being needed before it is there?
    fn can_join(&self, id: NodeId, g: usize, shape: &[usize]) -> bool {
        let first = self.groups[g].members[0];
        let node = self.graph.node(id);
        for (i, v) in node.operands.iter().enumerate() {
            let in_group = self.group_of.get(&v.node) == Some(&g);
            if in_group {
                // Only values of the group's own shape pass from one operation to the next in registers.
                let is_sequence = !matches!(&node.op, Op::Scan(s) if i >= s.roles.sequences);
                let from_scan_end = matches!(&self.graph.node(v.node).op, Op::Scan(s) if v.result as usize >= s.roles.outputs);
                let same_shape = self.graph.ty(*v).sizes().is_ok_and(|s| s == shape);
                if !is_sequence || from_scan_end || !same_shape {
                    return false;
                }
            } else if self.depends_on(v.node, g, first) {
                return false;
            }
        }
        true
    }

    /// Does a node need the results of a group? Groups run as a whole.
    fn depends_on(&self, start: NodeId, g: usize, first: NodeId) -> bool {
        let mut seen: HashSet<NodeId> = HashSet::new();
        let mut stack = vec![start];
        while let Some(id) = stack.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.group_of.get(&id) {
                Some(h) if *h == g => return true,
                Some(h) => {
                    let members = &self.groups[*h].members;
                    if members.last().is_some_and(|last| *last > first) {
                        stack.extend(members.iter().flat_map(|m| self.graph.node(*m).operands.iter().map(|v| v.node)));
                    }
                }
                None if id > first => stack.extend(self.graph.node(id).operands.iter().map(|v| v.node)),
                None => {}
            }
        }
        false
    }

    pub(crate) fn selection(&self, node: &Node) -> Option<Selection> {
        selection(self.graph, node, self.divides)
    }

    /// What a node reads as a whole tensor.
    pub(crate) fn reads(&self, id: NodeId) -> Vec<Value> {
        let node = self.graph.node(id);
        if let Some(selection) = self.selection(node) {
            return selection.reads();
        }
        if let Op::Reduce { .. } = &node.op
            && let Some((source, _)) = ReductionShape::windows(self.graph, id)
        {
            return vec![source];
        }
        node.operands
            .iter()
            .map(|v| match (&node.op, self.graph.op(*v)) {
                // A product reads a transposed operand where it is.
                (Op::Contract(_), Op::Transpose { .. }) => self.graph.node(v.node).operands[0],
                _ => *v,
            })
            .collect()
    }

    /// The values that must be in memory.
    fn demanded(&self) -> HashSet<Value> {
        let mut demanded: HashSet<Value> = self.graph.roots().collect();
        for (id, node) in self.graph.nodes().rev() {
            if !self.live[id.index()] {
                continue;
            }
            if let Some(g) = self.group_of.get(&id) {
                if self.groups[*g].sums.contains(&id) {
                    continue;
                }
                if self.groups[*g].pool == Some(id) {
                    demanded.extend(self.reads(id));
                    continue;
                }
                let shape = &self.groups[*g].shape;
                for (i, v) in node.operands.iter().enumerate() {
                    let source = self.step_source(&node.op, i, *v, shape);
                    if let Some(source) = source
                        && self.group_of.get(&source.node) != Some(g)
                    {
                        demanded.insert(source);
                    }
                }
            } else {
                let wanted = self.graph.results(id).any(|v| demanded.contains(&v));
                if wanted {
                    demanded.extend(self.reads(id));
                }
            }
        }
        demanded
    }

    /// What a fused operation reads for an operand, if that is not an immediate.
    pub(crate) fn step_source(&self, op: &Op, index: usize, v: Value, shape: &[usize]) -> Option<Value> {
        if immediate(self.graph, v).is_some() {
            return None;
        }
        let is_sequence = !matches!(op, Op::Scan(s) if index >= s.roles.sequences);
        let shape = if is_sequence { shape } else { &shape[1..] };
        access(self.graph, v, shape).ok().map(|a| a.source)
    }

    fn schedule(&self, demanded: &HashSet<Value>, spikes: BTreeSet<Value>, counts: &mut Counts) -> Result<Plan, CompileError> {
        // Units: a group, or a demanded node by itself. They are ordered by what they read.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        enum Unit {
            Group(usize),
            Node(NodeId),
        }
        let unit_of = |id: NodeId| self.group_of.get(&id).map_or(Unit::Node(id), |g| Unit::Group(*g));
        let mut reads: BTreeMap<Unit, (NodeId, BTreeSet<Value>)> = BTreeMap::new();
        for (id, node) in self.graph.nodes() {
            if !self.live[id.index()] || is_given(&node.op) {
                continue;
            }
            let unit = unit_of(id);
            if let Unit::Node(_) = unit {
                if !self.graph.results(id).any(|v| demanded.contains(&v)) {
                    continue;
                }
                reads.insert(unit, (id, self.reads(id).into_iter().collect()));
                continue;
            }
            let Unit::Group(g) = unit else { continue };
            let entry = reads.entry(unit).or_insert((id, BTreeSet::new()));
            // The node of a task is its last member.
            if self.groups[g].members.binary_search(&id).is_ok() {
                entry.0 = id;
            }
            if self.groups[g].pool == Some(id) {
                entry.1.extend(self.reads(id));
                continue;
            }
            for (i, v) in node.operands.iter().enumerate() {
                if let Some(source) = self.step_source(&node.op, i, *v, &self.groups[g].shape)
                    && self.group_of.get(&source.node) != Some(&g)
                {
                    entry.1.insert(source);
                }
            }
        }
        let mut done: HashSet<Unit> = HashSet::new();
        let mut order: Vec<Unit> = Vec::new();
        for start in reads.keys() {
            let mut stack = vec![(*start, false)];
            while let Some((unit, ready)) = stack.pop() {
                if done.contains(&unit) {
                    continue;
                }
                if ready {
                    done.insert(unit);
                    order.push(unit);
                    continue;
                }
                stack.push((unit, true));
                for v in &reads[&unit].1 {
                    let needed = unit_of(v.node);
                    if reads.contains_key(&needed) && !done.contains(&needed) {
                        stack.push((needed, false));
                    }
                }
            }
        }
        let mut tasks = Vec::new();
        for unit in order {
            let (last, needs) = &reads[&unit];
            let mut needs: Vec<Value> = needs.iter().copied().collect();
            let task = match unit {
                Unit::Group(g) => {
                    let group = &self.groups[g];
                    let mut gives: Vec<Value> =
                        group.members.iter().flat_map(|m| self.graph.results(*m)).filter(|v| demanded.contains(v)).collect();
                    let kernel = build(self.graph, group, &gives, &spikes)?;
                    gives.extend(kernel.sums.iter().map(|s| s.result));
                    Task { node: *last, kernel: Kernel::Step(Box::new(kernel)), needs, gives, frees: vec![], held: 0, computed: 0 }
                }
                Unit::Node(id) => {
                    let (kernel, extra) = self.single(id, counts)?;
                    needs.extend(extra);
                    Task { node: id, kernel, needs, gives: self.graph.results(id).collect(), frees: vec![], held: 0, computed: 0 }
                }
            };
            tasks.push(task);
        }
        lifetimes::planned(self.graph, tasks, spikes, self.divides)
    }

    /// The kernel of a node that is not fused, and what it reads beside the operands that are seen already.
    fn single(&self, id: NodeId, counts: &mut Counts) -> Result<(Kernel, Vec<Value>), CompileError> {
        let node = self.graph.node(id);
        let is_float = node.types[0].dtype == DType::F32;
        if let Op::Broadcast { axes, .. } = &node.op
            && is_float
            && !repeats_few(self.graph, id, axes)
        {
            let shape = node.types[0].sizes()?;
            let value = Value { node: id, result: 0 };
            let kernel = crate::step::copy(self.graph, value, &shape)?;
            let sources = kernel.loads.iter().map(|l| l.source).collect();
            return Ok((Kernel::Step(Box::new(kernel)), sources));
        }
        let moves = matches!(node.op, Op::Transpose { .. } | Op::Slice { .. } | Op::Window { .. } | Op::Broadcast { .. })
            || matches!(node.op, Op::Pad { .. } | Op::Concat { .. });
        let kernel = if moves {
            Kernel::Move
        } else if let Some(selection) = self.selection(node) {
            Kernel::Selection(selection)
        } else if let Op::Reshape { .. } = &node.op {
            Kernel::Alias
        } else if let Op::Contract(c) = &node.op {
            Kernel::Product(ProductPlan::new(self.graph, node, c, &mut counts.packed)?)
        } else if let Some((direction, c)) = convolution(&node.op)
            && c.stride.len() <= 2
        {
            Kernel::Convolution(ConvolutionPlan::new(self.graph, node, direction, c, &mut counts.packed)?)
        } else if let Op::Delay { steps } = &node.op {
            Kernel::Delay(*steps)
        } else if let (Op::Reduce { kind, axes }, true) = (&node.op, is_float) {
            ReductionShape::plan(self.graph, id, *kind, axes)?.map_or(Kernel::Reference, Kernel::Reduction)
        } else if let Op::MaxPoolGradient(p) = &node.op {
            Kernel::MaxPoolGradient(MaxPoolGradient::new(self.graph, node, p)?)
        } else if let Op::FirstSpike { axis } = &node.op {
            Kernel::FirstSpike(*axis)
        } else if let Op::Loop(l) = &node.op {
            Kernel::Loop(Box::new(self.repeated(l, counts)?))
        } else {
            // Rare, or new: as the interpreter does it.
            Kernel::Reference
        };
        Ok((kernel, vec![]))
    }

    fn repeated(&self, l: &Loop, counts: &mut Counts) -> Result<LoopPlan, CompileError> {
        let steps = l.steps.evaluate(&Dims::new())? as usize;
        let (body, parts, runs, divided) = match self.divides.then(|| partition_batch(l, steps)).flatten() {
            Some(d) => (d.body, d.parts, d.runs, d.operands),
            None => (l.body.clone(), 1, 1, vec![]),
        };
        let mut plan = plan_from(&body, self.divides, counts)?;
        // Only loops for threads know rings.
        let rings = if self.divides { crate::ring::find(&body, l) } else { vec![] };
        for (task, (_, part)) in plan.tasks.iter_mut().filter_map(|t| {
            let found = rings.iter().find_map(|r| r.nodes.iter().find(|(n, _)| *n == t.node));
            found.map(|f| (t, *f))
        }) {
            task.kernel = Kernel::Ring(part);
        }
        Ok(LoopPlan { body, plan, parts, runs, divided, rings })
    }
}

/// Is it a convolution, or a gradient of one?
fn convolution(op: &Op) -> Option<(Direction, &Convolution)> {
    if let Op::Conv(c) = op {
        Some((Direction::Forward, c))
    } else if let Op::ConvInputGradient(c) = op {
        Some((Direction::InputGradient, c))
    } else if let Op::ConvWeightGradient(c) = op {
        Some((Direction::WeightGradient, c))
    } else {
        None
    }
}

/// Operations on numbers that a task does: each operation of a step on each element, two for each product and sum.
pub fn operations(graph: &Graph, task: &Task) -> usize {
    let elements = |v: Value| graph.ty(v).sizes().map_or(0, |s| s.iter().product::<usize>());
    match &task.kernel {
        Kernel::Step(s) => (s.count_operations(graph) + s.sums.len()) * s.elements() * s.steps,
        Kernel::Product(p) => 2 * p.k * elements(Value { node: task.node, result: 0 }),
        Kernel::Convolution(c) => {
            let result = Value { node: task.node, result: 0 };
            let output = match c.direction {
                Direction::Forward => result,
                Direction::InputGradient => graph.node(task.node).operands[0],
                Direction::WeightGradient => graph.node(task.node).operands[1],
            };
            let windows = &c.windows;
            2 * windows.per_group().0 * windows.taps() * elements(output)
        }
        Kernel::Reduction(f) => elements(f.source),
        Kernel::MaxPoolGradient(u) => elements(u.x),
        Kernel::Selection(s) => s.sums(),
        // What moves elements, and what is told by the kernels inside.
        Kernel::Alias | Kernel::Delay(_) | Kernel::Move | Kernel::FirstSpike(_) => 0,
        Kernel::Loop(_) | Kernel::Ring(_) | Kernel::Reference => 0,
    }
}

/// A kernel in words.
pub fn describe_task(graph: &Graph, task: &Task) -> String {
    let node = graph.node(task.node);
    let name = node.name.clone().unwrap_or_else(|| snn_ir::text::op_name(&node.op));
    let what = match &task.kernel {
        Kernel::Step(s) => {
            let sums = if s.sums.is_empty() { String::new() } else { format!(", {} summed", s.sums.len()) };
            let again = s.before.as_ref().map_or(String::new(), |b| format!(", {} before as kernel{}", b.operations, b.function));
            let runs = if s.joined_runs() > 1 { format!(", {} runs of {} together", s.joined_runs(), s.run) } else { String::new() };
            let pool = if s.pool.is_some() { ", behind a max pool backward" } else { "" };
            format!("step kernel{} ({} operations{sums}{again}{pool}{runs})", s.function, s.operations)
        }
        Kernel::Alias => "alias".into(),
        Kernel::Product(p) => format!("product {} x {} x {}", p.m, p.n, p.k),
        Kernel::Convolution(c) => match c.direction {
            Direction::Forward => "convolution".into(),
            Direction::InputGradient => "convolution, input gradient".into(),
            Direction::WeightGradient => "convolution, weight gradient".into(),
        },
        Kernel::Reduction(f) => format!("reduction {:?}", f.kind).to_lowercase(),
        Kernel::MaxPoolGradient(_) => "max-pool backward".into(),
        Kernel::Selection(s) => s.describe(),
        Kernel::Delay(d) => format!("delay {d}"),
        Kernel::Move => "move".into(),
        Kernel::FirstSpike(_) => "first spike".into(),
        Kernel::Loop(l) if l.parts > 1 => format!("loop in {} parts", l.parts),
        Kernel::Loop(_) => "loop".into(),
        Kernel::Ring(_) => "ring buffer".into(),
        Kernel::Reference => "reference".into(),
    };
    format!("{name}: {what} -> {}", node.types[0])
}

/// The layer that a kernel belongs to: whose parameter it reads, as it is or moved.
pub fn layer_of(graph: &Graph, task: &Task) -> Option<String> {
    let parameter = |v: &Value| {
        let mut at = *v;
        loop {
            let node = graph.node(at.node);
            // The body of a loop has parameters among its inputs.
            let name = if let Op::Parameter { name, .. } = &node.op { Some(name) } else { node.name.as_ref() };
            if let (Op::Parameter { .. } | Op::Input { .. }, Some(name)) = (&node.op, name) {
                return name.rsplit_once('.').map(|(layer, _)| layer.to_string());
            }
            if !matches!(node.op, Op::Transpose { .. } | Op::Reshape { .. } | Op::Broadcast { .. }) {
                return None;
            }
            at = node.operands[0];
        }
    };
    graph.node(task.node).operands.iter().chain(&task.needs).find_map(parameter)
}

/// The plan as text, a line for each kernel: what it is, which values it reads and writes, numbered as in the text of the graph, the
/// bytes of what it writes, and what nobody reads after it.
pub fn describe(graph: &Graph, plan: &Plan, depth: usize) -> String {
    let mut text = String::new();
    let pad = "  ".repeat(depth);
    if depth == 0 {
        text.push_str(&format!("; plan of {}: {} kernels, {} bytes at most\n", graph.name, plan.tasks.len(), plan.peak));
    }
    let numbers = graph.value_numbers();
    let list = |values: &[Value]| values.iter().map(|v| format!("%{}", numbers(*v))).collect::<Vec<_>>().join(", ");
    for task in &plan.tasks {
        let size: usize = if matches!(task.kernel, Kernel::Alias) { 0 } else { task.gives.iter().map(|v| plan.bytes(graph, *v)).sum() };
        let frees = if task.frees.is_empty() { String::new() } else { format!("; frees {}", list(&task.frees)) };
        let reads = list(&task.needs);
        let line = format!("; {pad}{} = {} ({reads}), {size} bytes{frees}", list(&task.gives), describe_task(graph, task));
        text.push_str(&line);
        text.push('\n');
        if let Kernel::Loop(l) = &task.kernel {
            text.push_str(&describe(&l.body, &l.plan, depth + 1));
        }
    }
    text
}

//! Step kernels: a fused group, and how it walks over memory.

use std::collections::{BTreeSet, HashMap};

use snn_ir::lanes::{self, LaneOf};
use snn_ir::math::Lanes;
use snn_ir::tensor::row_major_strides;
use snn_ir::{BinaryOp, CompileError, DType, Graph, NodeId, Op, Tensor, UnaryOp, Value};

use crate::max_pool::MaxPoolGradient;
use crate::plan::{Access, Group, access, immediate, stored};

/// What a kernel reads and writes.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Element type of each load, and whether it is the same for all elements of a call.
    pub loads: Vec<(DType, bool)>,
    /// How many states it carries.
    pub states: usize,
    /// Element type of each store.
    pub stores: Vec<DType>,
    /// Are there exponentials, also in other functions, and none that cost more to do twice than these?
    pub exponentials: bool,
}

/// What a kernel reads.
#[derive(Clone, Debug)]
pub struct Load {
    /// The tensor.
    pub source: Value,
    /// The type of its elements.
    pub dtype: DType,
    /// The distance of two time steps.
    pub time: usize,
    /// How many steps earlier it is read; zero before the first.
    pub delay: i64,
    /// The distance along each outer axis.
    pub outer: Vec<usize>,
    /// Are all elements of a run the same?
    pub uniform: bool,
}

/// How an operand lies along what a call handles: the joined axes and the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// One element after the other, as results do.
    InOrder,
    /// All elements are the same.
    Uniform,
    /// Each run lies somewhere else, or repeats an element: it is copied to where the call reads it in order.
    Spread,
}

/// What a state starts with.
#[derive(Clone, Debug)]
pub enum Initial {
    /// One number.
    Constant(f32),
    /// An element of a tensor.
    Load(Load),
}

/// A sum of what a kernel computes, over all elements of its runs and all of its time steps. It is accumulated in f64, tile by tile.
#[derive(Clone, Debug)]
pub struct Sum {
    /// What is summed: its place among the stores, and behind these among [`StepKernel::summed`].
    pub row: usize,
    /// The sum.
    pub result: Value,
    /// The distance in it along each outer axis.
    pub outer: Vec<usize>,
}

/// A step function with how it walks over memory: over the outer axes and a run of elements, each through all time steps.
#[derive(Clone, Debug)]
pub struct StepKernel {
    /// What it computes, in a word.
    pub name: String,
    /// Its number among the step kernels of a plan.
    pub function: usize,
    /// What it reads.
    pub loads: Vec<Load>,
    /// What each state starts with.
    pub initial: Vec<Initial>,
    /// Values that it writes at each step, with their types.
    pub stores: Vec<(Value, DType)>,
    /// Values, all f32, that are computed for their sums only.
    pub summed: Vec<Value>,
    /// What is summed.
    pub sums: Vec<Sum>,
    /// The states whose last value is written, and where.
    pub finals: Vec<(usize, Value)>,
    /// How many time steps there are.
    pub steps: usize,
    /// Does it run from the last step to the first?
    pub reverse: bool,
    /// The sizes of the outer axes.
    pub outer: Vec<usize>,
    /// The elements of a run.
    pub run: usize,
    /// So many of the last outer axes are handled in one call with a run, since runs are short: see [`StepKernel::along`].
    pub joined: usize,
    /// How many operations are fused in it.
    pub operations: usize,
    /// Stores that take over the memory of what a load reads and nobody reads after it: each element is read before it is written.
    pub in_place: Vec<InPlace>,
    /// What is computed first for all time steps of a tile. Its stores are never in memory as a whole: loads of this kernel read them.
    pub before: Option<Box<StepKernel>>,
    /// The gradient of a max pool, which is computed for a tile at each step. It is never in memory as a whole either.
    pub pool: Option<Pool>,
    program: Program,
}

/// A gradient of a max pool that a kernel reads.
#[derive(Clone, Debug)]
pub struct Pool {
    /// The load that reads it.
    pub load: usize,
    /// Of what.
    pub gradient: MaxPoolGradient,
}

/// A result that is written where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InPlace {
    /// Its place among the stores.
    pub store: usize,
    /// The place of the operand among the loads, and behind these among those of what is computed before: see [`StepKernel::load`].
    pub load: usize,
}

/// What a step kernel computes.
#[derive(Clone, Debug)]
enum Program {
    /// Nodes of the graph.
    Nodes(Vec<Member>),
    /// The same value everywhere: a constant, or what is loaded.
    Repeat(Option<Tensor>),
}

/// A fused node.
#[derive(Clone, Debug)]
struct Member {
    node: NodeId,
    /// Its operands, without the initial values of states.
    operands: Vec<Operand>,
    /// The first of its states among those of the kernel.
    first_state: usize,
}

/// What an operand is: an immediate, a result of another member, or a load.
#[derive(Clone, Debug)]
enum Operand {
    Immediate(Tensor),
    Member(Value),
    Load(usize),
}

impl Operand {
    fn constant(&self) -> Option<f32> {
        match self {
            Operand::Immediate(t) if t.dtype() == DType::F32 => Some(t.as_f32()[0]),
            Operand::Immediate(_) | Operand::Member(_) | Operand::Load(_) => None,
        }
    }
}

/// What the members of a kernel compute and read.
#[derive(Default)]
struct Collected {
    program: Vec<Member>,
    loads: Vec<(Access, DType)>,
    /// What each state starts with: a constant, or one of `state_loads`.
    initial: Vec<Result<f32, usize>>,
    /// Loads for states come after all others, so that the function does not see them.
    state_loads: Vec<Access>,
    finals: Vec<(usize, Value)>,
}

impl Collected {
    fn new(
        graph: &Graph,
        members: &[NodeId],
        shape: &[usize],
        stores: &[Value],
        spikes: &BTreeSet<Value>,
    ) -> Result<Collected, CompileError> {
        let mut c = Collected::default();
        let element: &[usize] = shape.get(1..).unwrap_or(&[]);
        for m in members {
            let node = graph.node(*m);
            let (sequences, first_state) = if let Op::Scan(s) = &node.op {
                (s.roles.sequences, s.roles.first_state())
            } else {
                (node.operands.len(), node.operands.len())
            };
            let mut member = Member { node: *m, operands: Vec::new(), first_state: c.initial.len() };
            for (i, v) in node.operands.iter().enumerate() {
                let read = || -> Result<Access, CompileError> {
                    if i < sequences {
                        return access(graph, *v, shape);
                    }
                    let mut a = access(graph, *v, element)?;
                    a.strides.insert(0, 0);
                    Ok(a)
                };
                if i >= first_state {
                    let Op::Scan(s) = &node.op else { continue };
                    let last = Value { node: *m, result: (s.roles.outputs + i - first_state) as u16 };
                    if stores.contains(&last) {
                        c.finals.push((c.initial.len(), last));
                    }
                    let start = match immediate(graph, *v) {
                        Some(t) => Ok(t.as_f32()[0]),
                        None => {
                            c.state_loads.push(read()?);
                            Err(c.state_loads.len() - 1)
                        }
                    };
                    c.initial.push(start);
                    continue;
                }
                member.operands.push(match immediate(graph, *v) {
                    Some(t) => Operand::Immediate(t.clone()),
                    None if members.binary_search(&v.node).is_ok() => Operand::Member(*v),
                    None => {
                        let a = read()?;
                        let dtype = stored(graph, spikes, a.source);
                        Operand::Load(c.load(a, dtype))
                    }
                });
            }
            c.program.push(member);
        }
        Ok(c)
    }

    /// The place of a load, which may be there already.
    fn load(&mut self, a: Access, dtype: DType) -> usize {
        self.loads.iter().position(|(b, _)| *b == a).unwrap_or_else(|| {
            self.loads.push((a, dtype));
            self.loads.len() - 1
        })
    }

    fn accesses(&self) -> impl Iterator<Item = &Access> {
        self.loads.iter().map(|(a, _)| a).chain(&self.state_loads)
    }

    /// The loads and first states of a kernel that walks like this; `first` is the place of its first operand.
    fn walked(&self, walk: &Walk, first: usize) -> (Vec<Load>, Vec<Initial>) {
        let loads = self.loads.iter().enumerate().map(|(i, (a, dtype))| walk.load(first + i, a, *dtype)).collect();
        let start = |s: &Result<f32, usize>| match s {
            Ok(x) => Initial::Constant(*x),
            Err(i) => Initial::Load(walk.load(first + self.loads.len() + i, &self.state_loads[*i], DType::F32)),
        };
        (loads, self.initial.iter().map(start).collect())
    }
}

/// Makes the kernel of a group that writes `stores`; `spikes` are in memory as booleans.
pub(crate) fn build(graph: &Graph, group: &Group, stores: &[Value], spikes: &BTreeSet<Value>) -> Result<StepKernel, CompileError> {
    let (members, shape) = (&group.members, &group.shape);
    let own = Collected::new(graph, members, shape, stores, spikes)?;
    // What is computed again before it is read tile by tile.
    let again: BTreeSet<Value> = own.loads.iter().map(|(a, _)| a.source).filter(|v| group.before.binary_search(&v.node).is_ok()).collect();
    let again: Vec<Value> = again.into_iter().collect();
    let before = Collected::new(graph, &group.before, shape, &again, spikes)?;
    let rows: Vec<Value> = stores.iter().copied().filter(|v| !own.finals.iter().any(|(_, f)| f == v)).collect();
    let timed = is_timed(graph, group, own.accesses());
    let steps = if timed { shape[0] } else { 1 };

    let of_sums: Vec<Access> = group.sums.iter().map(|id| sum_access(graph, *id, shape)).collect::<Result<_, _>>()?;
    let all: Vec<&Access> = own.accesses().chain(before.accesses()).chain(&of_sums).collect();
    let walk = Walk::new(shape, timed, &all);
    let own_count = own.accesses().count();
    let (loads, initial) = own.walked(&walk, 0);
    let joined = walk.joined(&all);

    let mut summed: Vec<Value> = Vec::new();
    let mut sums = Vec::with_capacity(of_sums.len());
    for (k, (id, access)) in group.sums.iter().zip(&of_sums).enumerate() {
        let v = graph.node(*id).operands[0];
        let row = rows.iter().chain(&summed).position(|known| *known == v && !spikes.contains(known)).unwrap_or_else(|| {
            summed.push(v);
            rows.len() + summed.len() - 1
        });
        let place = walk.load(all.len() - of_sums.len() + k, access, DType::F32);
        debug_assert!(place.uniform, "`can_sum` has seen that whole runs are summed");
        sums.push(Sum { row, result: access.source, outer: place.outer });
    }

    let name = |members: &[NodeId]| {
        let last = members.last().map(|m| graph.node(*m));
        last.map(|n| n.name.clone().unwrap_or_else(|| snn_ir::text::op_name(&n.op))).unwrap_or_default()
    };
    let before = (!again.is_empty()).then(|| {
        let (loads, initial) = before.walked(&walk, own_count);
        Box::new(StepKernel {
            name: name(&group.before),
            function: 0,
            program: Program::Nodes(before.program),
            loads,
            initial,
            stores: again.iter().map(|v| (*v, DType::F32)).collect(),
            summed: vec![],
            sums: vec![],
            finals: vec![],
            steps,
            reverse: false,
            outer: walk.outer.clone(),
            run: walk.run,
            joined,
            operations: group.before.len(),
            in_place: vec![],
            before: None,
            pool: None,
        })
    });
    let pool = group.pool.and_then(|id| {
        let (node, source) = (graph.node(id), Value { node: id, result: 0 });
        let load = loads.iter().position(|l| l.source == source)?;
        let Op::MaxPoolGradient(pool) = &node.op else { return None };
        Some(MaxPoolGradient::new(graph, node, pool).map(|gradient| Pool { load, gradient }))
    });
    let pool = pool.transpose()?;
    Ok(StepKernel {
        name: name(members),
        function: 0,
        program: Program::Nodes(own.program),
        loads,
        initial,
        stores: rows.iter().map(|v| (*v, stored(graph, spikes, *v))).collect(),
        summed,
        sums,
        finals: own.finals,
        steps,
        reverse: group.reverse.unwrap_or(false),
        outer: walk.outer.clone(),
        run: walk.run,
        joined,
        operations: members.len(),
        in_place: vec![],
        before,
        pool,
    })
}

/// Does the kernel of a group go through time steps?
fn is_timed<'a>(graph: &Graph, group: &Group, mut accesses: impl Iterator<Item = &'a Access>) -> bool {
    let is_scan = |m: &NodeId| matches!(graph.node(*m).op, Op::Scan(_));
    !group.shape.is_empty() && (group.members.iter().any(is_scan) || accesses.any(|a| a.delay > 0))
}

/// Floats of what is computed again that a tile holds at most, for all time steps: they stay in the L2 cache.
const MOST_AGAIN: usize = 1 << 17;
/// Elements of such a tile at least.
const SHORTEST_TILE: usize = 256;

/// Can the kernel of `group` compute again, tile by tile, what it reads of another group, which runs forwards in time? These values are read only there.
pub(crate) fn can_compute_before(graph: &Graph, group: &Group, before: &Group, read: &[Value]) -> bool {
    let shape = &group.shape;
    let own = row_major_strides(shape);
    let values = |v: &Value| {
        let is_row = !matches!(graph.op(*v), Op::Scan(s) if v.result as usize >= s.roles.outputs);
        is_row && graph.ty(*v).dtype == DType::F32 && graph.ty(*v).sizes().is_ok_and(|sizes| sizes == *shape)
    };
    let in_order = |m: &NodeId| {
        let node = graph.node(*m);
        let sequences = if let Op::Scan(s) = &node.op { s.roles.sequences } else { node.operands.len() };
        node.operands.iter().enumerate().all(|(i, v)| {
            let shape = if i < sequences { &shape[..] } else { &shape[1..] };
            access(graph, *v, shape).is_ok_and(|a| !read.contains(&a.source) || i < sequences && a.strides == own)
        })
    };
    let small = |steps: &usize| steps.saturating_mul(read.len()).saturating_mul(SHORTEST_TILE) <= MOST_AGAIN;
    before.shape == *shape && shape.first().is_some_and(small) && read.iter().all(values) && group.members.iter().all(in_order)
}

/// Elements at most of a plane whose pool's gradient is computed for a kernel.
const LARGEST_PLANE: usize = 1 << 13;

/// Can the kernel of a group compute the gradient of a max pool for itself? It reads it in order, and its tiles are whole planes.
pub(crate) fn can_pool_before(graph: &Graph, group: &Group, v: Value, pool: &MaxPoolGradient) -> bool {
    let (shape, plane) = (&group.shape, pool.space.iter().product::<usize>());
    let own = row_major_strides(shape);
    let is_whole = graph.ty(v).dtype == DType::F32 && graph.ty(v).sizes().is_ok_and(|sizes| sizes == *shape) && !shape.contains(&0);
    let none = BTreeSet::new();
    let read = Collected::new(graph, &group.members, shape, &[], &none);
    let before = Collected::new(graph, &group.before, shape, &[], &none);
    let sums: Result<Vec<Access>, _> = group.sums.iter().map(|id| sum_access(graph, *id, shape)).collect();
    let (Ok(read), Ok(before), Ok(sums)) = (read, before, sums) else { return false };
    let in_order = |a: &Access| a.source != v || a.strides == own && a.delay == 0;
    let only_loaded = before.accesses().chain(&read.state_loads).all(|a| a.source != v) && read.accesses().all(in_order);
    let timed = is_timed(graph, group, read.accesses());
    let all: Vec<&Access> = read.accesses().chain(before.accesses()).chain(&sums).collect();
    let walk = Walk::new(shape, timed, &all);
    // Steps begin planes.
    let axes = shape.len() - usize::from(timed);
    let fits = (2..=LARGEST_PLANE).contains(&plane) && pool.space.len() <= axes && walk.run.is_multiple_of(plane);
    is_whole && only_loaded && fits
}

/// Runs that sums make no shorter than this are long enough.
const SHORTEST_RUN: usize = 256;
/// Runs that are shorter than this are handled several in a call.
const SHORTEST_CALL: usize = 128;
/// Elements of a call that handles several runs, where there are as many.
const LONG_CALL: usize = 1024;

/// How a kernel over `shape` walks over the result of a sum of one of its values.
fn sum_access(graph: &Graph, id: NodeId, shape: &[usize]) -> Result<Access, CompileError> {
    let node = graph.node(id);
    let reduced: &[usize] = if let Op::Reduce { axes, .. } = &node.op { axes } else { &[] };
    let mut own = row_major_strides(&node.types[0].sizes()?).into_iter();
    let strides = (0..shape.len()).map(|axis| if reduced.contains(&axis) { 0 } else { own.next().unwrap_or(0) }).collect();
    Ok(Access { source: Value { node: id, result: 0 }, strides, delay: 0 })
}

/// Can the kernel of a group add a sum of one of its values as it computes this? That is so where whole runs and all time steps are summed,
/// and runs do not become short for it.
pub(crate) fn can_sum(graph: &Graph, group: &Group, id: NodeId) -> bool {
    let summed = graph.node(id).operands[0];
    let shape = &group.shape;
    let same = graph.ty(summed).sizes().is_ok_and(|sizes| sizes == *shape) && !shape.contains(&0);
    // The last value of a state is no row.
    let is_row = !matches!(&graph.node(summed.node).op, Op::Scan(s) if summed.result as usize >= s.roles.outputs);
    let read = Collected::new(graph, &group.members, shape, &[], &BTreeSet::new());
    let (Ok(own), Ok(read)) = (sum_access(graph, id, shape), read) else { return false };
    let timed = is_timed(graph, group, read.accesses());
    if !same || !is_row || graph.ty(summed).dtype != DType::F32 || (timed && own.strides[0] != 0) {
        return false;
    }
    let mut all: Vec<&Access> = read.accesses().collect();
    let before = Walk::new(shape, timed, &all);
    all.push(&own);
    let after = Walk::new(shape, timed, &all);
    after.inner[all.len() - 1] == 0 && after.run >= before.run.min(SHORTEST_RUN)
}

/// How a kernel walks over its elements: axes that all operands walk alike are one, and the last one is a run.
struct Walk {
    timed: bool,
    outer: Vec<usize>,
    run: usize,
    /// For each outer axis, how far apart the elements of each operand are.
    columns: Vec<Vec<usize>>,
    /// The same for the run.
    inner: Vec<usize>,
}

impl Walk {
    fn new(shape: &[usize], timed: bool, operands: &[&Access]) -> Walk {
        let own = row_major_strides(shape);
        let (mut sizes, mut columns): (Vec<usize>, Vec<Vec<usize>>) = (vec![], vec![]);
        for axis in usize::from(timed)..shape.len() {
            if shape[axis] == 1 {
                continue;
            }
            let column: Vec<usize> = operands.iter().map(|a| a.strides[axis]).chain([own[axis]]).collect();
            let merges = columns.last().is_some_and(|c| c.iter().zip(&column).all(|(outer, inner)| *outer == inner * shape[axis]));
            if merges {
                let at = sizes.len() - 1;
                sizes[at] *= shape[axis];
                columns[at] = column;
            } else {
                sizes.push(shape[axis]);
                columns.push(column);
            }
        }
        let run = sizes.pop().unwrap_or(1);
        let inner = columns.pop().unwrap_or_else(|| vec![0; operands.len() + 1]);
        Walk { timed, outer: sizes, run, columns, inner }
    }

    /// How many of the last outer axes a call handles with a run. Operands of earlier steps are read where they are.
    fn joined(&self, operands: &[&Access]) -> usize {
        if self.run >= SHORTEST_CALL || operands.iter().any(|a| a.delay > 0) {
            return 0;
        }
        let mut elements = self.run;
        let short = |size: &&usize| {
            let short = elements < LONG_CALL;
            elements *= **size;
            short
        };
        self.outer.iter().rev().take_while(short).count()
    }

    /// How operand `i` is read.
    fn load(&self, i: usize, a: &Access, dtype: DType) -> Load {
        Load {
            source: a.source,
            dtype,
            time: if self.timed { a.strides[0] } else { 0 },
            delay: a.delay,
            outer: self.columns.iter().map(|c| c[i]).collect(),
            uniform: self.inner[i] == 0,
        }
    }
}

/// A kernel that copies one value to a whole tensor: a repetition.
pub(crate) fn copy(graph: &Graph, value: Value, shape: &[usize]) -> Result<StepKernel, CompileError> {
    let constant = immediate(graph, value);
    let a = if constant.is_some() { None } else { Some(access(graph, value, shape)?) };
    let timed = a.as_ref().is_some_and(|a| a.delay > 0);
    let operands: Vec<&Access> = a.iter().collect();
    let walk = Walk::new(shape, timed, &operands);
    let joined = walk.joined(&operands);
    let loads: Vec<Load> = a.iter().map(|a| walk.load(0, a, DType::F32)).collect();
    Ok(StepKernel {
        name: "repeat".into(),
        function: 0,
        program: Program::Repeat(constant.cloned()),
        loads,
        initial: vec![],
        stores: vec![(value, DType::F32)],
        summed: vec![],
        sums: vec![],
        finals: vec![],
        steps: if timed { shape[0] } else { 1 },
        reverse: false,
        outer: walk.outer,
        run: walk.run,
        joined,
        operations: 1,
        in_place: vec![],
        before: None,
        pool: None,
    })
}

impl StepKernel {
    /// The elements of each step.
    pub fn elements(&self) -> usize {
        self.outer.iter().product::<usize>() * self.run
    }

    /// What one step does on one element.
    fn scalar_operations<'g>(&'g self, graph: &'g Graph) -> impl Iterator<Item = &'g Op> {
        let members = if let Program::Nodes(members) = &self.program { &members[..] } else { &[] };
        members.iter().flat_map(|m| {
            let op = graph.op(Value { node: m.node, result: 0 });
            let body = if let Op::Scan(s) = op { Some(&s.body) } else { None };
            let own = body.is_none().then_some(op);
            own.into_iter()
                .chain(body.into_iter().flat_map(|b| b.nodes()).map(|(_, n)| &n.op))
                .filter(|op| !matches!(op, Op::Input { .. } | Op::Constant(_)))
        })
    }

    /// How many operations one step does on one element.
    pub(crate) fn count_operations(&self, graph: &Graph) -> usize {
        self.scalar_operations(graph).count() + self.before.as_ref().map_or(0, |before| before.count_operations(graph))
    }

    /// How many runs the joined axes have.
    pub fn joined_runs(&self) -> usize {
        self.joined_axes().map(|(size, _)| size).product()
    }

    /// The joined axes from the last to the first: their sizes, and how far apart results are.
    fn joined_axes(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut apart = self.run;
        self.outer.iter().rev().take(self.joined).map(move |size| {
            let own = apart;
            apart *= size;
            (*size, own)
        })
    }

    /// How the operand of a load lies along what a call handles. What is computed before lies in order.
    pub fn along(&self, load: &Load) -> Along {
        let distances = || load.outer.iter().copied().rev().zip(self.joined_axes());
        if !self.is_in_memory(load) {
            Along::InOrder
        } else if load.uniform && distances().all(|(distance, _)| distance == 0) {
            Along::Uniform
        } else if (!load.uniform || self.run == 1) && distances().all(|(distance, (_, own))| distance == own) {
            Along::InOrder
        } else {
            Along::Spread
        }
    }

    fn all_loads(&self) -> impl Iterator<Item = &Load> {
        let starts = self.initial.iter().filter_map(|i| if let Initial::Load(l) = i { Some(l) } else { None });
        self.loads.iter().chain(starts)
    }

    /// The tensors that it reads, some perhaps twice, but for what is computed before.
    pub fn sources(&self) -> impl Iterator<Item = Value> + '_ {
        let before = self.before.iter().flat_map(|before| before.all_loads());
        let in_memory = self.all_loads().filter(|l| self.is_in_memory(l));
        let pooled = self.pool.iter().flat_map(|p| [p.gradient.x, p.gradient.y, p.gradient.gradient]);
        in_memory.chain(before).map(|l| l.source).chain(pooled)
    }

    /// Does a load read a tensor, and not what is computed for this kernel tile by tile?
    pub fn is_in_memory(&self, load: &Load) -> bool {
        let is_pooled = self.pool.as_ref().is_some_and(|p| self.loads[p.load].source == load.source);
        self.again(load).is_none() && !is_pooled
    }

    /// The elements of a plane whose pool's gradient is computed: tiles are whole planes.
    pub fn plane(&self) -> usize {
        self.pool.as_ref().map_or(1, |p| p.gradient.space.iter().product())
    }

    /// A load by its place, behind the own ones one of what is computed before.
    pub fn load(&self, place: usize) -> Option<&Load> {
        self.loads.iter().chain(self.before.iter().flat_map(|before| &before.loads)).nth(place)
    }

    /// Which of the values that are computed before a load reads.
    pub fn again(&self, load: &Load) -> Option<usize> {
        self.before.as_ref()?.stores.iter().position(|(v, _)| *v == load.source)
    }

    /// The most elements of a tile, so that what is computed before stays in the cache.
    pub fn longest_tile(&self) -> usize {
        let rows = self.before.as_ref().map_or(0, |before| before.stores.len() * self.steps);
        MOST_AGAIN.checked_div(rows).map_or(usize::MAX, |n| (n / SHORTEST_TILE * SHORTEST_TILE).max(SHORTEST_TILE))
    }

    /// Lets stores take over the memory of operands that `ends` says nobody else reads.
    pub(crate) fn write_in_place(&mut self, ends: impl Fn(Value) -> bool) {
        let row = self.elements();
        let mut own = row_major_strides(&[&self.outer[..], &[self.run]].concat());
        own.pop();
        // It must be read element by element where it is, and nowhere else.
        let whole = |l: &Load| l.outer == own && (!l.uniform || self.run == 1) && (self.steps == 1 || l.time == row) && l.delay == 0;
        let once = |v: Value| self.sources().filter(|s| *s == v).count() == 1;
        let fits = |(_, l): &(usize, &Load)| l.dtype == DType::F32 && self.is_in_memory(l) && whole(l) && once(l.source) && ends(l.source);
        let before = self.before.iter().flat_map(|before| &before.loads);
        let loads: Vec<usize> = self.loads.iter().chain(before).enumerate().filter(fits).map(|(i, _)| i).collect();
        let stores = self.stores.iter().enumerate().filter(|(_, (_, dtype))| *dtype == DType::F32).map(|(i, _)| i);
        self.in_place = stores.zip(loads).map(|(store, load)| InPlace { store, load }).collect();
    }

    /// What a generated function reads and writes.
    pub fn shape(&self, graph: &Graph) -> Shape {
        let all: Vec<&Op> = self.scalar_operations(graph).collect();
        let is = |kind: fn(&UnaryOp) -> bool| all.iter().any(|op| matches!(op, Op::Unary(u) if kind(u)));
        let costly = is(|u| matches!(u, UnaryOp::Sin | UnaryOp::Cos))
            || all.iter().any(|op| matches!(op, Op::Binary(BinaryOp::Rem | BinaryOp::Pow)));
        Shape {
            exponentials: is(|u| matches!(u, UnaryOp::Exp | UnaryOp::Tanh | UnaryOp::Erf)) && !costly,
            loads: self.loads.iter().map(|l| (l.dtype, self.along(l) == Along::Uniform)).collect(),
            states: self.initial.len(),
            stores: self.stores.iter().map(|(_, dtype)| *dtype).chain(self.summed.iter().map(|_| DType::F32)).collect(),
        }
    }

    /// One step for one element: from loads and states to the next states and the stores.
    pub fn step<L: Lanes>(&self, graph: &Graph, l: &mut L, loads: &[LaneOf<L>], states: &[LaneOf<L>]) -> (Vec<LaneOf<L>>, Vec<LaneOf<L>>) {
        let members = match &self.program {
            Program::Repeat(Some(t)) => return (vec![], lanes::constant(l, t).into_iter().collect()),
            Program::Repeat(None) => return (vec![], loads.to_vec()),
            Program::Nodes(members) => members,
        };
        // Floats that are in memory as bytes are floats here. Of 0 and 1, bit 29 is that of 1.
        let convert = |l: &mut L, lane: LaneOf<L>, from: DType, to: DType| match lane {
            lanes::Lane::Float(x) if from != to => {
                let bits = l.bits(x);
                lanes::Lane::Int(l.shift_right(bits, 29))
            }
            lanes::Lane::Int(x) if from != to => lanes::Lane::Float(l.to_float(x)),
            lanes::Lane::Float(_) | lanes::Lane::Int(_) | lanes::Lane::Mask(_) => lane,
        };
        let loads: Vec<LaneOf<L>> =
            loads.iter().zip(&self.loads).map(|(lane, load)| convert(l, *lane, load.dtype, graph.ty(load.source).dtype)).collect();
        let mut values: HashMap<Value, LaneOf<L>> = HashMap::new();
        let mut next = states.to_vec();
        for member in members {
            let node = graph.node(member.node);
            let mut inputs: Vec<LaneOf<L>> = Vec::with_capacity(node.operands.len());
            for operand in &member.operands {
                inputs.extend(match operand {
                    Operand::Immediate(t) => lanes::constant(l, t),
                    Operand::Member(v) => values.get(v).copied(),
                    Operand::Load(k) => Some(loads[*k]),
                });
            }
            if let Op::Scan(s) = &node.op {
                inputs.extend(&states[member.first_state..member.first_state + s.roles.states]);
                for (i, lane) in lanes::graph(l, &s.body, &inputs).into_iter().enumerate() {
                    if i < s.roles.outputs {
                        values.insert(Value { node: member.node, result: i as u16 }, lane);
                    } else {
                        next[member.first_state + i - s.roles.outputs] = lane;
                    }
                }
                continue;
            }
            let constants: Vec<Option<f32>> = member.operands.iter().map(Operand::constant).collect();
            let lane = lanes::operation(l, &node.op, &inputs, node.types[0].dtype, &constants);
            values.insert(Value { node: member.node, result: 0 }, lane);
        }
        let stores = self.stores.iter().copied().chain(self.summed.iter().map(|v| (*v, DType::F32)));
        let stores = stores.filter_map(|(v, dtype)| values.get(&v).map(|lane| convert(l, *lane, graph.ty(v).dtype, dtype)));
        (next, stores.collect())
    }
}

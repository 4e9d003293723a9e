//! Step kernels: a fused group becomes a generated function, and is run over time, tiles and threads.
#![allow(unsafe_code)]

use std::collections::HashMap;

use rayon::prelude::*;
use snn_ir::lanes::{self, LaneOf};
use snn_ir::math::Lanes;
use snn_ir::tensor::row_major_strides;
use snn_ir::{CompileError, DType, Data, Graph, NodeId, Op, Tensor, Value};

use crate::emit::{KernelFunction, Machine, Shape};
use crate::plan::{Access, Group, access, immediate};
use crate::shared::Shared;

/// Elements of a run that are handled at once, at least and at most: states of this length stay in the second cache, and rows are
/// long enough for the processor to see that they are read in order.
const TILE: [usize; 2] = [1024, 8192];
/// Fewer elements than this are not worth a second thread.
const WORTH_A_THREAD: usize = 1 << 15;
/// More pointers than this and the table goes on the heap.
const MOST_POINTERS: usize = 32;

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

/// What a state starts with.
#[derive(Clone, Debug)]
pub enum Initial {
    /// One number.
    Constant(f32),
    /// An element of a tensor.
    Load(Load),
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
    /// How many operations are fused in it.
    pub operations: usize,
    program: Program,
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
            _ => None,
        }
    }
}

/// Makes the kernel of a group.
pub(crate) fn build(graph: &Graph, group: &Group, stores: &[Value], function: usize) -> Result<StepKernel, CompileError> {
    let members: Vec<_> = group.members.to_vec();
    let is_member = |v: Value| members.binary_search(&v.node).is_ok();
    let has_scan = members.iter().any(|m| matches!(graph.node(*m).op, Op::Scan(_)));
    let shape = &group.shape;
    let element: &[usize] = shape.get(1..).unwrap_or(&[]);

    let mut accesses: Vec<(Access, DType)> = Vec::new();
    let mut initial_accesses: Vec<Result<f32, usize>> = Vec::new();
    let mut program: Vec<Member> = Vec::new();
    let mut add = |a: Access, dtype: DType| {
        accesses.iter().position(|(b, _)| *b == a).unwrap_or_else(|| {
            accesses.push((a, dtype));
            accesses.len() - 1
        })
    };
    // Loads for states come after all others, so that the function does not see them.
    let mut state_loads: Vec<(Access, DType)> = Vec::new();
    let mut finals = Vec::new();
    for m in &members {
        let node = graph.node(*m);
        let (sequences, first_state) =
            if let Op::Scan(s) = &node.op { (s.sequences, s.sequences + s.invariants) } else { (node.operands.len(), node.operands.len()) };
        let mut member = Member { node: *m, operands: Vec::new(), first_state: initial_accesses.len() };
        for (i, v) in node.operands.iter().enumerate() {
            let along_time = i < sequences;
            let read = |graph: &Graph| -> Result<Access, CompileError> {
                if along_time {
                    return access(graph, *v, shape);
                }
                let mut a = access(graph, *v, element)?;
                a.strides.insert(0, 0);
                Ok(a)
            };
            if i >= first_state {
                let Op::Scan(s) = &node.op else { continue };
                let state = initial_accesses.len();
                match immediate(graph, *v) {
                    Some(t) => initial_accesses.push(Ok(t.as_f32()[0])),
                    None => {
                        state_loads.push((read(graph)?, DType::F32));
                        initial_accesses.push(Err(state_loads.len() - 1));
                    }
                }
                let last = Value { node: *m, result: (s.outputs + i - first_state) as u16 };
                if stores.contains(&last) {
                    finals.push((state, last));
                }
                continue;
            }
            let operand = match immediate(graph, *v) {
                Some(t) => Operand::Immediate(t.clone()),
                None if is_member(*v) => Operand::Member(*v),
                None => {
                    let a = read(graph)?;
                    let dtype = graph.ty(a.source).dtype;
                    Operand::Load(add(a, dtype))
                }
            };
            member.operands.push(operand);
        }
        program.push(member);
    }
    let rows: Vec<Value> = stores.iter().copied().filter(|v| !finals.iter().any(|(_, f)| f == v)).collect();
    let has_delay = accesses.iter().any(|(a, _)| a.delay > 0);
    let timed = !shape.is_empty() && (has_scan || has_delay);

    let all: Vec<&Access> = accesses.iter().chain(&state_loads).map(|(a, _)| a).collect();
    let walk = Walk::new(shape, timed, &all);
    let load = |i: usize, a: &Access, dtype: DType| walk.load(i, a, dtype);
    let loads: Vec<Load> = accesses.iter().enumerate().map(|(i, (a, t))| load(i, a, *t)).collect();
    let initial = initial_accesses
        .iter()
        .map(|s| match s {
            Ok(x) => Initial::Constant(*x),
            Err(i) => Initial::Load(load(loads.len() + i, &state_loads[*i].0, DType::F32)),
        })
        .collect();

    let last = graph.node(members[members.len() - 1]);
    let name = last.name.clone().unwrap_or_else(|| snn_ir::text::op_name(&last.op));
    Ok(StepKernel {
        name,
        function,
        program: Program::Nodes(program),
        loads,
        initial,
        stores: rows.iter().map(|v| (*v, graph.ty(*v).dtype)).collect(),
        finals,
        steps: if timed { shape[0] } else { 1 },
        reverse: group.reverse.unwrap_or(false),
        outer: walk.outer.clone(),
        run: walk.run,
        operations: members.len(),
    })
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
pub(crate) fn copy(graph: &Graph, value: Value, shape: &[usize], function: usize) -> Result<StepKernel, CompileError> {
    let constant = immediate(graph, value);
    let a = if constant.is_some() { None } else { Some(access(graph, value, shape)?) };
    let timed = a.as_ref().is_some_and(|a| a.delay > 0);
    let walk = Walk::new(shape, timed, &a.iter().collect::<Vec<_>>());
    let loads: Vec<Load> = a.iter().map(|a| walk.load(0, a, DType::F32)).collect();
    Ok(StepKernel {
        name: "repeat".into(),
        function,
        program: Program::Repeat(constant.cloned()),
        loads,
        initial: vec![],
        stores: vec![(value, DType::F32)],
        finals: vec![],
        steps: if timed { shape[0] } else { 1 },
        reverse: false,
        outer: walk.outer,
        run: walk.run,
        operations: 1,
    })
}

/// The elements of a tensor that a kernel reads.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Elements<'t> {
    Floats(&'t [f32]),
    Integers(&'t [i64]),
    Bytes(&'t [u8]),
}

impl<'t> From<&'t Tensor> for Elements<'t> {
    fn from(t: &'t Tensor) -> Elements<'t> {
        match t.data() {
            Data::F32(v) => Elements::Floats(v),
            Data::I64(v) => Elements::Integers(v),
            Data::Bool(v) | Data::U8(v) => Elements::Bytes(v),
        }
    }
}

impl Elements<'_> {
    fn pointer(self) -> Shared<u8> {
        // Loads never write; the pointer is mutable only because the kernel has one table for all.
        Shared(match self {
            Elements::Floats(v) => v.as_ptr() as *mut u8,
            Elements::Integers(v) => v.as_ptr() as *mut u8,
            Elements::Bytes(v) => v.as_ptr() as *mut u8,
        })
    }
}

/// Memory for one result.
pub enum Room {
    /// Floats.
    Floats(Vec<f32>),
    /// Truth values.
    Bytes(Vec<u8>),
}

impl Room {
    /// What has been written, as a tensor.
    pub fn tensor(self, shape: Vec<usize>) -> Tensor {
        match self {
            Room::Floats(data) => Tensor::f32(shape, data),
            Room::Bytes(data) => Tensor::bool(shape, data),
        }
    }
}

impl StepKernel {
    /// The elements of each step.
    pub fn elements(&self) -> usize {
        self.outer.iter().product::<usize>() * self.run
    }

    /// How many operations one step does on one element.
    pub(crate) fn scalar_operations(&self, graph: &Graph) -> usize {
        let Program::Nodes(members) = &self.program else { return 0 };
        let given = |op: &Op| matches!(op, Op::Input(_) | Op::Constant(_));
        let of = |m: &Member| {
            if let Op::Scan(s) = &graph.node(m.node).op { s.body.nodes().filter(|(_, n)| !given(&n.op)).count() } else { 1 }
        };
        members.iter().map(of).sum()
    }

    /// The tensors that it reads, some perhaps twice.
    pub fn sources(&self) -> impl Iterator<Item = Value> + '_ {
        let starts = self.initial.iter().filter_map(|i| if let Initial::Load(l) = i { Some(l.source) } else { None });
        self.loads.iter().map(|l| l.source).chain(starts)
    }

    /// What a generated function reads and writes.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            loads: self.loads.iter().map(|l| (l.dtype, l.uniform)).collect(),
            states: self.initial.len(),
            stores: self.stores.iter().map(|(_, dtype)| *dtype).collect(),
        }
    }

    /// One step for one element: from loads and states to the next states and the stores.
    pub fn step<L: Lanes>(&self, graph: &Graph, l: &mut L, loads: &[LaneOf<L>], states: &[LaneOf<L>]) -> (Vec<LaneOf<L>>, Vec<LaneOf<L>>) {
        let members = match &self.program {
            Program::Repeat(Some(t)) => return (vec![], lanes::constant(l, t).into_iter().collect()),
            Program::Repeat(None) => return (vec![], loads.to_vec()),
            Program::Nodes(members) => members,
        };
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
                inputs.extend(&states[member.first_state..member.first_state + s.states]);
                for (i, lane) in lanes::graph(l, &s.body, &inputs).into_iter().enumerate() {
                    if i < s.outputs {
                        values.insert(Value { node: member.node, result: i as u16 }, lane);
                    } else {
                        next[member.first_state + i - s.outputs] = lane;
                    }
                }
                continue;
            }
            let constants: Vec<Option<f32>> = member.operands.iter().map(Operand::constant).collect();
            let lane = lanes::operation(l, &node.op, &inputs, node.types[0].dtype, &constants);
            values.insert(Value { node: member.node, result: 0 }, lane);
        }
        (next, self.stores.iter().filter_map(|(v, _)| values.get(v).copied()).collect())
    }

    /// Runs the kernel of a plan's machine: `inputs` gives the tensors that it reads, whole and of the planned shape, `room`
    /// the memory for each value that it writes.
    pub fn execute<'t>(
        &self,
        machine: &Machine,
        inputs: impl Fn(Value) -> Elements<'t>,
        mut room: impl FnMut(Value, DType) -> Room,
    ) -> Vec<(Value, Room)> {
        let kernel = machine.kernels[self.function];
        let mut results: Vec<(Value, Room)> = self.stores.iter().map(|(v, t)| (*v, room(*v, *t))).collect();
        results.extend(self.finals.iter().map(|(_, v)| (*v, room(*v, DType::F32))));
        let outputs: Vec<Shared<u8>> = results
            .iter_mut()
            .map(|(_, r)| match r {
                Room::Floats(v) => Shared(v.as_mut_ptr().cast()),
                Room::Bytes(v) => Shared(v.as_mut_ptr()),
            })
            .collect();
        let sources: Vec<Shared<u8>> = self.loads.iter().map(|l| inputs(l.source).pointer()).collect();
        let starts: Vec<Option<Shared<u8>>> = self
            .initial
            .iter()
            .map(|i| match i {
                Initial::Constant(_) => None,
                Initial::Load(l) => Some(inputs(l.source).pointer()),
            })
            .collect();
        let row = self.elements();
        let outer: usize = self.outer.iter().product();
        let threads = crate::shared::threads();
        let size = (row / (threads * 4)).next_multiple_of(64).clamp(TILE[0], TILE[1]);
        let tiles = self.run.div_ceil(size);
        let count = outer * tiles;
        if row == 0 {
            return results;
        }
        let one = |range: std::ops::Range<usize>| {
            let mut scratch = Scratch::new(self, size.min(self.run));
            for task in range {
                if snn_ir::interrupt::is_wanted() {
                    return;
                }
                // SAFETY: tasks are different tiles of the element space; see `tile`.
                unsafe { self.tile(kernel, task / tiles, task % tiles, row, &sources, &starts, &outputs, &mut scratch) };
            }
        };
        let work = row * self.steps;
        if threads > 1 && work >= WORTH_A_THREAD && count > 1 {
            let per = count.div_ceil(threads * 4);
            (0..count.div_ceil(per)).into_par_iter().for_each(|i| one(i * per..((i + 1) * per).min(count)));
        } else {
            one(0..count);
        }
        results
    }

    /// All time steps of one tile.
    ///
    /// # Safety
    /// Sources and outputs must be the tensors that this kernel was planned for, of the planned sizes, and no other thread
    /// may run the same tile.
    #[allow(clippy::too_many_arguments)]
    unsafe fn tile(
        &self,
        kernel: KernelFunction,
        outer: usize,
        tile: usize,
        row: usize,
        sources: &[Shared<u8>],
        starts: &[Option<Shared<u8>>],
        outputs: &[Shared<u8>],
        scratch: &mut Scratch,
    ) {
        let size = scratch.tile;
        let first = tile * size;
        let n = size.min(self.run - first);
        // The place of the tile along each outer axis.
        let mut rest = outer;
        for (size, at) in self.outer.iter().zip(&mut scratch.place).rev() {
            *at = rest % size;
            rest /= size;
        }
        let offset = |l: &Load| {
            let outer: usize = l.outer.iter().zip(&scratch.place).map(|(s, at)| s * at).sum();
            outer + if l.uniform { 0 } else { first }
        };
        let own = outer * self.run + first;
        for (k, (initial, start)) in self.initial.iter().zip(starts).enumerate() {
            let state = &mut scratch.states[k * size..k * size + n];
            match (initial, start) {
                (Initial::Constant(x), _) => state.fill(*x),
                (Initial::Load(l), Some(p)) => {
                    // SAFETY: the offset and `n` elements after it (one, where uniform) lie inside the planned tensor.
                    unsafe {
                        let from = p.0.cast::<f32>().add(offset(l));
                        if l.uniform {
                            state.fill(*from);
                        } else {
                            std::ptr::copy_nonoverlapping(from, state.as_mut_ptr(), n);
                        }
                    }
                }
                (Initial::Load(_), None) => {}
            }
        }
        let loads = self.loads.len();
        let states = self.initial.len();
        scratch.offsets.clear();
        scratch.offsets.extend(self.loads.iter().map(offset));
        for k in 0..states {
            scratch.pointers[loads + k] = scratch.states[k * size..].as_mut_ptr().cast();
        }
        for step in 0..self.steps {
            let t = if self.reverse { self.steps - 1 - step } else { step };
            for (i, l) in self.loads.iter().enumerate() {
                let earlier = t as i64 - l.delay;
                scratch.pointers[i] = if earlier < 0 {
                    scratch.zeros.as_mut_ptr().cast()
                } else {
                    // SAFETY: the element exists in the planned tensor.
                    unsafe { sources[i].0.add((earlier as usize * l.time + scratch.offsets[i]) * l.dtype.bytes()) }
                };
            }
            for (i, ((_, dtype), p)) in self.stores.iter().zip(outputs).enumerate() {
                // SAFETY: row `t` of the output has `row` elements, and this tile is inside of it.
                scratch.pointers[loads + states + i] = unsafe { p.0.add((t * row + own) * dtype.bytes()) };
            }
            // SAFETY: every pointer of the table reaches `n` elements of the type that the kernel was generated for.
            unsafe { kernel(scratch.pointers.as_ptr(), n as i64) };
        }
        for ((state, _), p) in self.finals.iter().zip(&outputs[self.stores.len()..]) {
            let from = &scratch.states[state * size..state * size + n];
            // SAFETY: the last states have one row; this tile of it belongs to this thread.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), p.0.cast::<f32>().add(own), n) };
        }
    }
}

/// Memory of one thread.
struct Scratch {
    /// The elements of a tile.
    tile: usize,
    states: Vec<f32>,
    zeros: Vec<f32>,
    pointers: Vec<*mut u8>,
    offsets: Vec<usize>,
    place: Vec<usize>,
}

impl Scratch {
    fn new(kernel: &StepKernel, tile: usize) -> Scratch {
        let has_delay = kernel.loads.iter().any(|l| l.delay > 0);
        let count = kernel.loads.len() + kernel.initial.len() + kernel.stores.len();
        Scratch {
            tile,
            states: vec![0.0; kernel.initial.len() * tile],
            zeros: vec![0.0; if has_delay { tile } else { 0 }],
            pointers: vec![std::ptr::null_mut(); count.max(MOST_POINTERS)],
            offsets: Vec::with_capacity(count),
            place: vec![0; kernel.outer.len()],
        }
    }
}

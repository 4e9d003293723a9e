//! A net as a function of one step: the graph over time `T` becomes a graph of one step, whose states go in and come out.
//!
//! A value that has the time axis becomes a slice of length 1 of it. Neurons, recurrent connections, delays, convolutions that meet earlier steps and
//! running sums keep states. A reduction
//! over time gives its value so far. What needs a step that has not come yet is an error with its place.

use std::collections::{HashMap, HashSet};

use crate::axes::{self, Axis, Mixes};
use crate::build::Build;
use crate::dim::{Dim, Dims};
use crate::graph::{Graph, Node, NodeId, Value};
use crate::op::{BinaryOp, Distribution, Op, Reduction};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// One step of a net.
///
/// The graph's inputs are those of the net (one step of each that has time), then those that [`Step::states`], [`Step::constants`] and [`Step::random`]
/// name. Its outputs are those of the net, one step of each that has time, and then `next.NAME` for each state.
#[derive(Clone, Debug)]
pub struct Step {
    /// One step.
    pub graph: Graph,
    /// What is computed once: the first value of each state, then each constant. Its parameters are the net's, its inputs those without time.
    pub initial: Graph,
    /// States, in the order of their outputs.
    pub states: Vec<State>,
    /// Inputs of the step that never change, by name, after the states in [`Step::initial`].
    pub constants: Vec<String>,
    /// Inputs that have time, with its axis.
    pub sequences: Vec<(String, usize)>,
    /// What each output of the net is.
    pub outputs: Vec<Output>,
    /// Inputs that are random numbers of a step.
    pub random: Vec<RandomInput>,
}

/// A state: the input `state.NAME` and the output `next.NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What the user calls it: the layer and its state, `sn1.v`.
    pub name: String,
    /// Its type.
    pub ty: Type,
}

/// Random numbers of one step: index `t` of the first axis of the whole.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomInput {
    /// The input.
    pub name: String,
    /// The stream of the operation.
    pub stream: u32,
    /// How they are distributed.
    pub distribution: Distribution,
    /// Their type, of one step.
    pub ty: Type,
}

/// What an output of a net is at each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// One step of a sequence, whose axis of time has length 1.
    Each(usize),
    /// The value so far of something over the whole sequence.
    Running,
    /// The same at all steps.
    Fixed,
}

use Output::{Each, Fixed, Running};

/// Makes a graph whose time is the dimension called `time` a graph of one step. All other dimensions are known. `inputs_stay` says that inputs without
/// time are known before the first step; else what is computed from them is computed at each step.
///
/// # Errors
/// The first operation that needs a later step, or that time has no meaning for.
pub fn step(graph: &Graph, time: &str, inputs_stay: bool) -> Result<Step, Mixes> {
    let mut s = Stepping {
        graph,
        time,
        given: if inputs_stay { vec![false; graph.len()] } else { given(graph) },
        one: Dims::from([(time.to_string(), 1)]),
        step: Step {
            graph: Graph::new(graph.name.clone()),
            initial: Graph::new(format!("initial {}", graph.name)),
            states: vec![],
            constants: vec![],
            sequences: vec![],
            outputs: vec![],
            random: vec![],
        },
        classes: HashMap::new(),
        map: HashMap::new(),
        initial: HashMap::new(),
        inputs: vec![],
        next: vec![],
        first: vec![],
        constants: vec![],
        counter: None,
        padded: HashMap::new(),
        names: HashSet::new(),
    };
    s.step.graph.parameters = graph.parameters.clone();
    s.step.initial.parameters = graph.parameters.clone();
    s.run()?;
    Ok(s.finish())
}

/// Which nodes depend on inputs.
fn given(graph: &Graph) -> Vec<bool> {
    let mut given = vec![false; graph.len()];
    for (id, node) in graph.nodes() {
        given[id.index()] = matches!(node.op, Op::Input { .. }) || node.operands.iter().any(|v| given[v.node.index()]);
    }
    given
}

struct Stepping<'a> {
    graph: &'a Graph,
    time: &'a str,
    /// What cannot be computed before the first step, though it does not change.
    given: Vec<bool>,
    one: Dims,
    step: Step,
    classes: HashMap<Value, Output>,
    /// Values of the step.
    map: HashMap<Value, Value>,
    /// Values of the graph that is computed once.
    initial: HashMap<Value, Value>,
    /// Inputs of the net in the step, in order.
    inputs: Vec<Value>,
    /// The input and the next value of each state.
    next: Vec<(Value, Option<Value>)>,
    /// The first value of each state, in the initial graph.
    first: Vec<Value>,
    /// What each constant is: its value in the initial graph, and its input.
    constants: Vec<(Value, Value)>,
    /// How many steps there were before: a state.
    counter: Option<Value>,
    /// Sequences with zeros before the first step, for a convolution along time: what was padded, its axis of time, and by how many.
    padded: HashMap<Value, (Value, usize, i64)>,
    names: HashSet<String>,
}

impl Stepping<'_> {
    fn fail<T>(&self, node: &Node, why: &'static str) -> Result<T, Mixes> {
        let what = node.name.clone().unwrap_or_else(|| crate::text::op_name(&node.op));
        Err(Mixes { what, span: node.span, why })
    }

    fn mentions(&self, d: &Dim) -> bool {
        d.names().contains(&self.time)
    }

    /// The axis of time in a type: `T`, or `T` steps of a known number of indices.
    fn place(&self, ty: &Type) -> Result<Option<usize>, ()> {
        let mut at = (0..ty.rank()).filter(|a| self.mentions(&ty.shape[*a]));
        match (at.next(), at.next()) {
            (None, _) => Ok(None),
            (Some(a), None) => {
                let part = ty.shape[a].divided_exactly(&Dim::name(self.time));
                if part.is_some_and(|p| p.as_constant().is_some_and(|n| n > 0)) { Ok(Some(a)) } else { Err(()) }
            }
            (Some(_), Some(_)) => Err(()),
        }
    }

    fn run(&mut self) -> Result<(), Mixes> {
        let graph = self.graph;
        let live = graph.live_nodes();
        for (id, node) in graph.nodes() {
            let is_input = graph.inputs.iter().any(|v| v.node == id);
            if live[id.index()] || is_input {
                self.node(id, node)?;
            }
        }
        for (name, v) in &graph.outputs {
            let Some(class) = self.classes.get(v).copied() else {
                return self.fail(graph.node(v.node), "makes another dimension of time");
            };
            self.step.outputs.push(class);
            let value = self.value(*v);
            self.step.graph.outputs.push((name.clone(), value));
        }
        Ok(())
    }

    fn finish(self) -> Step {
        let mut step = self.step;
        step.graph.inputs = self.inputs;
        for (state, (input, next)) in step.states.iter().zip(&self.next) {
            step.graph.inputs.push(*input);
            step.graph.outputs.push((format!("next.{}", state.name), next.unwrap_or(*input)));
        }
        step.graph.inputs.extend(self.constants.iter().map(|(_, input)| *input));
        let random: Vec<Value> = step
            .random
            .iter()
            .filter_map(|r| {
                step.graph
                    .nodes()
                    .find(|(_, n)| matches!(&n.op, Op::Input { name, .. } if *name == r.name))
                    .map(|(node, _)| Value { node, result: 0 })
            })
            .collect();
        step.graph.inputs.extend(random);
        let names = step.states.iter().map(|s| s.name.clone()).zip(&self.first);
        step.initial.outputs = names.map(|(n, v)| (n, *v)).collect();
        step.initial.outputs.extend(step.constants.iter().cloned().zip(self.constants.iter().map(|(v, _)| *v)));
        step.graph = step.graph.bind(&self.one);
        step.initial = step.initial.bind(&self.one);
        // Parameters that only the other graph reads are not asked for.
        for graph in [&mut step.graph, &mut step.initial] {
            let live = graph.live_nodes();
            let read: HashSet<String> = graph
                .nodes()
                .filter(|(id, _)| live[id.index()])
                .filter_map(|(_, n)| if let Op::Parameter { name: p, .. } = &n.op { Some(p.clone()) } else { None })
                .collect();
            graph.parameters.retain(|p| read.contains(&p.name));
        }
        step
    }

    /// A value in the step. One that does not change is computed again where that is no work, and else given.
    fn value(&mut self, v: Value) -> Value {
        if let Some(known) = self.map.get(&v) {
            return *known;
        }
        debug_assert_eq!(self.classes.get(&v), Some(&Fixed));
        let node = self.graph.node(v.node);
        let is_free = self.given[v.node.index()] || matches!(node.op, Op::Input { .. } | Op::Size(_)) || self.is_free(v);
        let new = if is_free {
            let operands: Vec<Value> = node.operands.iter().map(|o| self.value(*o)).collect();
            let copy = Node { operands, ..node.clone() };
            let id = self.step.graph.push(copy);
            for r in self.step.graph.results(id) {
                self.map.insert(Value { node: v.node, result: r.result }, r);
            }
            Value { node: id, result: v.result }
        } else {
            let name = format!("constant.{}", self.constants.len());
            let ty = self.graph.ty(v).clone();
            let input = self.step.graph.input(name.clone(), ty);
            self.step.constants.push(name);
            let value = self.once(v);
            self.constants.push((value, input));
            input
        };
        self.map.insert(v, new);
        new
    }

    fn is_free(&self, v: Value) -> bool {
        let node = self.graph.node(v.node);
        let repeats = matches!(node.op, Op::Broadcast { .. } | Op::Reshape { .. } | Op::Transpose { .. });
        matches!(node.op, Op::Parameter { .. } | Op::Constant(_)) || (repeats && self.is_free(node.operands[0]))
    }

    /// A value that does not change, in the graph that is computed once.
    fn once(&mut self, v: Value) -> Value {
        let mut stack = vec![v];
        while let Some(at) = stack.last().copied() {
            let node = self.graph.node(at.node);
            let missing: Vec<Value> = node.operands.iter().copied().filter(|o| !self.initial.contains_key(o)).collect();
            if !missing.is_empty() {
                stack.extend(missing);
                continue;
            }
            stack.pop();
            if self.initial.contains_key(&at) {
                continue;
            }
            let operands = node.operands.iter().map(|o| self.initial[o]).collect();
            let id = self.step.initial.push(Node { operands, ..node.clone() });
            for r in self.graph.results(at.node) {
                let new = Value { node: id, result: r.result };
                self.initial.insert(r, new);
                if matches!(node.op, Op::Input { .. }) {
                    self.step.initial.inputs.push(new);
                }
            }
        }
        self.initial[&v]
    }

    /// A state that begins with a value of the initial graph.
    fn state(&mut self, base: &str, first: Value) -> (usize, Value) {
        let mut name = base.to_string();
        let mut k = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{base}.{k}");
            k += 1;
        }
        let ty = self.step.initial.ty(first).clone();
        let input = self.step.graph.input(format!("state.{name}"), ty.clone());
        self.step.states.push(State { name, ty });
        self.next.push((input, None));
        self.first.push(first);
        (self.next.len() - 1, input)
    }

    /// A state that begins with one number everywhere.
    fn filled(&mut self, base: &str, number: f64, ty: &Type) -> (usize, Value) {
        let scalar = match ty.dtype {
            DType::F32 => Tensor::scalar(number as f32),
            DType::I64 => Tensor::i64([], vec![number as i64]),
            DType::Bool | DType::U8 => Tensor::zeros(ty.dtype, []),
        };
        let ty = ty.bind(&self.one);
        let initial = &mut self.step.initial;
        let scalar = initial.add(Op::Constant(scalar), &[]);
        let first = if ty.rank() == 0 { scalar } else { initial.add(Op::Broadcast { axes: vec![], shape: ty.shape }, &[scalar]) };
        self.state(base, first)
    }

    /// How many steps there were before this one, as `i64[]`.
    fn counter(&mut self) -> Value {
        if let Some(c) = self.counter {
            return c;
        }
        let (index, input) = self.filled("step", 0.0, &Type::scalar(DType::I64));
        let one = self.step.graph.add(Op::Constant(Tensor::i64([], vec![1])), &[]);
        let next = Build(&mut self.step.graph).add(input, one);
        self.next[index].1 = Some(next);
        self.counter = Some(input);
        input
    }

    /// The base of names of a node's states.
    fn label(&self, node: &Node) -> String {
        node.name.clone().unwrap_or_else(|| crate::text::op_name(&node.op))
    }

    fn set(&mut self, id: NodeId, class: Output, values: &[Value]) {
        for (result, v) in self.graph.results(id).zip(values) {
            self.map.insert(result, *v);
            self.classes.insert(result, class);
        }
    }

    fn node(&mut self, id: NodeId, node: &Node) -> Result<(), Mixes> {
        if let Op::Pad { axis, low, high, value: 0.0 } = &node.op
            && self.classes.get(&node.operands[0]) == Some(&Each(*axis))
            && let (Some(low), Some(0)) = (low.as_constant().filter(|n| *n > 0), high.as_constant())
        {
            self.padded.insert(Value { node: id, result: 0 }, (node.operands[0], *axis, low));
            return Ok(());
        }
        if node.operands.iter().any(|v| self.padded.contains_key(v)) {
            return self.convolution(id, node);
        }
        let Ok(places) = node.types.iter().map(|t| self.place(t)).collect::<Result<Vec<_>, ()>>() else {
            return self.fail(node, "makes another dimension of time");
        };
        let first = places.first().copied().flatten();
        if let Op::Input { name, .. } = &node.op {
            let ty = node.types[0].bind(&self.one);
            let value = self.step.graph.input(name.clone(), ty);
            self.inputs.push(value);
            if let Some(axis) = first {
                self.step.sequences.push((name.clone(), axis));
            }
            self.set(id, first.map_or(Fixed, Each), &[value]);
            return Ok(());
        }
        if let Op::Parameter { .. } | Op::Constant(_) = &node.op {
            if first.is_some() {
                return self.fail(node, "has one value for each step");
            }
            self.fixed(id);
            return Ok(());
        }
        if let Op::Size(d) = &node.op
            && self.mentions(d)
        {
            return self.size(id, node, d);
        }
        if let (Op::Iota { .. }, Some(_)) = (&node.op, first) {
            if node.types[0].shape[0].as_name().is_none() {
                return self.fail(node, "counts along time folded together with another axis");
            }
            let counter = self.counter();
            let value = Build(&mut self.step.graph).reshape(counter, vec![1.into()]);
            self.set(id, Each(0), &[value]);
            return Ok(());
        }
        if let Op::Random { distribution, stream, .. } = &node.op {
            match first {
                None => self.fixed(id),
                Some(0) => {
                    let ty = node.types[0].bind(&self.one);
                    let name = format!("random.{stream}");
                    let value = self.step.graph.input(name.clone(), ty.clone());
                    self.step.random.push(RandomInput { name, stream: *stream, distribution: *distribution, ty });
                    self.set(id, Each(0), &[value]);
                }
                Some(_) => return self.fail(node, "draws numbers for time behind another axis; draw them with time first"),
            }
            return Ok(());
        }
        let classes: Vec<Output> = node.operands.iter().map(|v| self.classes[v]).collect();
        let is_over_time = classes.iter().any(|c| *c != Fixed);
        if !is_over_time {
            match (&node.op, first) {
                (_, None) if !places.iter().any(Option::is_some) => self.fixed(id),
                (Op::Broadcast { .. }, Some(axis)) => self.copy(id, node, Each(axis)),
                _ => return self.fail(node, "makes a sequence of what is no sequence"),
            }
            return Ok(());
        }
        if !classes.iter().any(|c| matches!(c, Each(_))) {
            if places.iter().any(Option::is_some) {
                return self.fail(node, "spreads what is known at the end only over the steps before");
            }
            self.copy(id, node, Running);
            return Ok(());
        }
        self.over_time(id, node, &classes, &places)
    }

    fn fixed(&mut self, id: NodeId) {
        for v in self.graph.results(id) {
            self.classes.insert(v, Fixed);
        }
    }

    /// The operation itself, on slices.
    fn copy(&mut self, id: NodeId, node: &Node, class: Output) {
        let operands: Vec<Value> = node.operands.iter().map(|v| self.value(*v)).collect();
        let types = node.types.iter().map(|t| t.bind(&self.one)).collect();
        let new = self.step.graph.push(Node { operands, ..node.clone() }.with_types(types));
        let values: Vec<Value> = self.step.graph.results(new).collect();
        self.set(id, class, &values);
    }

    /// The size of time is the number of steps so far: `a T + b`.
    fn size(&mut self, id: NodeId, node: &Node, d: &Dim) -> Result<(), Mixes> {
        let at = |t: i64| d.bind(&Dims::from([(self.time.to_string(), t)])).as_constant();
        let (Some(zero), Some(one), Some(two)) = (at(0), at(1), at(2)) else {
            return self.fail(node, "uses the number of steps");
        };
        if two - one != one - zero || at(1000) != Some(zero + 1000 * (one - zero)) {
            return self.fail(node, "uses another function of the number of steps than a multiple");
        }
        let before = self.counter();
        let graph = &mut self.step.graph;
        let factor = graph.add(Op::Constant(Tensor::i64([], vec![one - zero])), &[]);
        // With this step: `(before + 1) a + b`.
        let rest = graph.add(Op::Constant(Tensor::i64([], vec![one])), &[]);
        let mut b = Build(graph);
        let product = b.mul(before, factor);
        let value = b.add(product, rest);
        self.set(id, Running, &[value]);
        Ok(())
    }

    fn over_time(&mut self, id: NodeId, node: &Node, classes: &[Output], places: &[Option<usize>]) -> Result<(), Mixes> {
        let along = |i: usize| if let Each(a) = classes[i] { Some(a) } else { None };
        // Several indices a step: what looks at the axis itself sees another order than time.
        let folded = (0..classes.len()).any(|i| along(i).is_some_and(|a| self.graph.ty(node.operands[i]).shape[a].as_name().is_none()));
        if classes.contains(&Running) {
            return self.fail(node, "needs the whole sequence at each step");
        }
        // A reduction over all of it does not ask for the order.
        let ordered = if let Op::CumSum { axis } | Op::FirstSpike { axis } | Op::ArgMax { axis } = &node.op {
            Some(*axis)
        } else {
            matches!(node.op, Op::Delay { .. }).then_some(0)
        };
        let looks = ordered.is_some() && along(0) == ordered;
        if looks && folded {
            return self.fail(node, "goes along time folded together with another axis");
        }
        if looks {
            if let Op::Delay { steps } = &node.op {
                self.delay(id, node, *steps);
            } else if let Op::CumSum { axis } = &node.op {
                self.cumsum(id, node, *axis);
            } else if let Op::FirstSpike { axis } = &node.op {
                self.first_spike(id, node, *axis);
            } else {
                self.argmax(id, node);
            }
            return Ok(());
        }
        if let Op::Reduce { kind, axes } = &node.op
            && along(0).is_some_and(|a| axes.contains(&a))
        {
            self.reduce(id, node, *kind);
            return Ok(());
        }
        // The last step is the one that has just come.
        if let Op::Slice { axis, start, .. } = &node.op
            && along(0) == Some(*axis)
        {
            let last = Dim::name(self.time).minus(&1.into());
            if *start != last || places[0].is_some() || !node.types[0].shape[*axis].is_one() {
                return self.fail(node, "takes other steps than the last one");
            }
            let value = self.value(node.operands[0]);
            self.set(id, Running, &[value]);
            return Ok(());
        }
        if let (Op::Scan(_), Some(0)) = (&node.op, along(0)) {
            return self.scan(id, node, classes);
        }
        if let Op::Loop(l) = &node.op
            && (0..l.roles.sequences).any(|i| along(i) == Some(0))
        {
            return self.unrolled(id, node, classes);
        }
        // Time with the indices that follow it as one axis.
        if let Op::Reshape { .. } = &node.op {
            let from = &self.graph.ty(node.operands[0]).shape;
            let (Some(a), Some(b)) = (along(0), places[0]) else { return self.fail(node, "folds time away") };
            if Dim::product(&from[..a]) != Dim::product(&node.types[0].shape[..b]) {
                return self.fail(node, "folds other axes before time into it");
            }
            self.copy(id, node, Each(b));
            return Ok(());
        }
        // What does not look along time acts on the step that has just come.
        let types: Vec<&Type> = node.operands.iter().map(|v| self.graph.ty(*v)).collect();
        for (operand, class) in classes.iter().enumerate() {
            let Each(a) = class else { continue };
            for (result, place) in places.iter().enumerate() {
                let to = axes::axis(&node.op, &types, &node.types, operand, *a, result);
                if place.is_none() || to != place.map_or(Axis::Mixed, Axis::Kept) {
                    return self.fail(node, "needs other steps than the one that has just come");
                }
            }
        }
        let Some(at) = places[0].filter(|_| places.iter().all(|p| *p == places[0])) else {
            return self.fail(node, "has results of which some have time");
        };
        self.copy(id, node, Each(at));
        Ok(())
    }

    /// A convolution along time that meets a step and those before it, which are a state.
    fn convolution(&mut self, id: NodeId, node: &Node) -> Result<(), Mixes> {
        let Op::Conv(c) = &node.op else { return self.fail(node, "reads a sequence with steps before its first") };
        let Some((x, axis, before)) = self.padded.get(&node.operands[0]).copied() else {
            return self.fail(node, "has weights that change over time");
        };
        let (rank, spatial) = (self.graph.ty(x).rank(), c.stride.len());
        let Some(along) = (axis + spatial).checked_sub(rank) else {
            return self.fail(node, "reads a sequence with steps before its first");
        };
        let weights = self.graph.ty(node.operands[1]);
        let kernel = weights.shape[weights.rank() - spatial + along].as_constant();
        let meets = kernel.is_some_and(|k| (k - 1).checked_mul(c.dilation[along]) == Some(before));
        let one_by_one = (c.stride[along], c.padding[along]) == (1, 0) && self.graph.ty(x).shape[axis].as_name().is_some();
        if !meets || !one_by_one || self.classes.get(&node.operands[1]) != Some(&Fixed) {
            return self.fail(node, "needs other steps than the one that has just come and as many before as it pads");
        }
        let (x, weights) = (self.value(x), self.value(node.operands[1]));
        let mut shape = self.step.graph.ty(x).shape.clone();
        shape[axis] = before.into();
        let ty = Type::new(self.step.graph.ty(x).dtype, shape);
        let label = self.label(node);
        let (index, state) = self.filled(&label, 0.0, &ty);
        let graph = &mut self.step.graph;
        let joined = graph.add(Op::Concat { axis }, &[state, x]);
        let next = Build(graph).slice(joined, axis, 1.into(), before.into());
        let result = graph.add(node.op.clone(), &[joined, weights]);
        self.next[index].1 = Some(next);
        self.set(id, Each(axis), &[result]);
        Ok(())
    }

    fn delay(&mut self, id: NodeId, node: &Node, steps: i64) {
        let x = self.value(node.operands[0]);
        if steps == 0 {
            self.set(id, Each(0), &[x]);
            return;
        }
        let ty = self.step.graph.ty(x).clone();
        let mut shape = ty.shape.clone();
        shape[0] = steps.into();
        let label = if node.name.is_some() { self.label(node) } else { "delay".into() };
        let (index, state) = self.filled(&label, 0.0, &Type::new(ty.dtype, shape.clone()));
        let graph = &mut self.step.graph;
        let (oldest, next) = if steps == 1 {
            (state, x)
        } else {
            let mut b = Build(graph);
            let oldest = b.slice(state, 0, 0.into(), 1.into());
            let rest = b.slice(state, 0, 1.into(), (steps - 1).into());
            (oldest, graph.add(Op::Concat { axis: 0 }, &[rest, x]))
        };
        self.next[index].1 = Some(next);
        self.set(id, Each(0), &[oldest]);
    }

    /// A sum of floats that loses nothing in f32: the sum, and what rounding took from it. The whole is added in f64.
    fn sum_so_far(&mut self, label: &str, x: Value) -> Value {
        let ty = self.step.graph.ty(x).clone();
        let (index, sum) = self.filled(label, 0.0, &ty);
        let graph = &mut self.step.graph;
        if ty.dtype != DType::F32 {
            let next = Build(graph).add(sum, x);
            self.next[index].1 = Some(next);
            return next;
        }
        let (index2, lost) = self.filled(&format!("{label}.rest"), 0.0, &ty);
        let mut b = Build(&mut self.step.graph);
        // Knuth, The Art of Computer Programming 2, 4.2.2, theorem B.
        let next = b.add(sum, x);
        let own = b.sub(next, sum);
        let before = b.sub(next, own);
        let (e1, e2) = (b.sub(sum, before), b.sub(x, own));
        let error = b.add(e1, e2);
        let rest = b.add(lost, error);
        let total = b.add(next, rest);
        // An infinite sum has no rest.
        let difference = b.sub(total, total);
        let zero = b.like(0.0, difference);
        let finite = b.binary(BinaryOp::Eq, difference, zero);
        let total = b.select(finite, total, next);
        self.next[index].1 = Some(next);
        self.next[index2].1 = Some(rest);
        total
    }

    fn cumsum(&mut self, id: NodeId, node: &Node, axis: usize) {
        let x = self.value(node.operands[0]);
        let x = Build(&mut self.step.graph).cast(x, node.types[0].dtype);
        let sum = self.sum_so_far("cumsum", x);
        self.set(id, Each(axis), &[sum]);
    }

    fn first_spike(&mut self, id: NodeId, node: &Node, axis: usize) {
        let x = self.value(node.operands[0]);
        let dtype = if self.step.graph.ty(x).dtype == DType::F32 { DType::F32 } else { DType::I64 };
        let x = Build(&mut self.step.graph).cast(x, dtype);
        let ty = self.step.graph.ty(x).clone();
        let (once, c1) = self.filled("first_spike", 0.0, &ty);
        let (twice, c2) = self.filled("first_spike", 0.0, &ty);
        let mut b = Build(&mut self.step.graph);
        let next1 = b.add(c1, x);
        let next2 = b.add(c2, next1);
        let one = b.like(1.0, next2);
        let hit = b.binary(BinaryOp::Eq, next2, one);
        self.next[once].1 = Some(next1);
        self.next[twice].1 = Some(next2);
        self.set(id, Each(axis), &[hit]);
    }

    fn reduce(&mut self, id: NodeId, node: &Node, kind: Reduction) {
        let x = self.value(node.operands[0]);
        let now = self.step.graph.add(node.op.clone(), &[x]);
        let value = match kind {
            Reduction::Sum => self.sum_so_far("sum", now),
            Reduction::Max => self.best_so_far("max", BinaryOp::Max, f64::NEG_INFINITY, now),
            Reduction::Min => self.best_so_far("min", BinaryOp::Min, f64::INFINITY, now),
        };
        self.set(id, Running, &[value]);
    }

    /// The largest or smallest of what has come, which starts at `least`.
    fn best_so_far(&mut self, label: &str, op: BinaryOp, least: f64, now: Value) -> Value {
        let ty = self.step.graph.ty(now).clone();
        let (index, best) = self.filled(label, least, &ty);
        let next = Build(&mut self.step.graph).binary(op, best, now);
        self.next[index].1 = Some(next);
        next
    }

    fn argmax(&mut self, id: NodeId, node: &Node) {
        let x = self.value(node.operands[0]);
        let dtype = if self.step.graph.ty(x).dtype == DType::I64 { DType::I64 } else { DType::F32 };
        let mut b = Build(&mut self.step.graph);
        let x = b.cast(x, dtype);
        let x = b.reshape(x, node.types[0].shape.clone());
        let ty = self.step.graph.ty(x).clone();
        let (best_index, best) = self.filled("argmax.value", f64::NEG_INFINITY, &ty);
        let (at_index, at) = self.filled("argmax", 0.0, &ty.with_dtype(DType::I64));
        let counter = self.counter();
        let mut b = Build(&mut self.step.graph);
        let now = if ty.rank() == 0 { counter } else { b.broadcast(counter, vec![], ty.shape.clone()) };
        let mut larger = b.binary(BinaryOp::Gt, x, best);
        if dtype == DType::F32 {
            let (new, old) = (b.binary(BinaryOp::Ne, x, x), b.binary(BinaryOp::Eq, best, best));
            let both = b.binary(BinaryOp::And, new, old);
            larger = b.binary(BinaryOp::Or, larger, both);
        }
        let value = b.select(larger, x, best);
        let place = b.select(larger, now, at);
        self.next[best_index].1 = Some(value);
        self.next[at_index].1 = Some(place);
        self.set(id, Running, &[place]);
    }

    /// The first value of a state of a neuron or loop, in a given shape.
    fn first_value(&mut self, node: &Node, v: Value, ty: &Type) -> Result<Value, Mixes> {
        if self.classes[&v] != Fixed || self.given[v.node.index()] {
            return self.fail(node, "begins with a value that is not known before the first step");
        }
        let first = self.once(v);
        let (own, ty) = (self.step.initial.ty(first).clone(), ty.bind(&self.one));
        if own.shape == ty.shape {
            return Ok(first);
        }
        let axes = (ty.rank() - own.rank()..ty.rank()).collect();
        Ok(self.step.initial.add(Op::Broadcast { axes, shape: ty.shape }, &[first]))
    }

    fn scan(&mut self, id: NodeId, node: &Node, classes: &[Output]) -> Result<(), Mixes> {
        let Op::Scan(s) = &node.op else { return Ok(()) };
        if s.reverse {
            return self.fail(node, "runs from the last step to the first");
        }
        let in_time = s.roles.first_state();
        if (0..in_time).any(|i| (i < s.roles.sequences) != (classes[i] == Each(0)) && classes[i] != Fixed) {
            return self.fail(node, "has a setting that changes over time");
        }
        let mut operands: Vec<Value> = node.operands[..in_time].iter().map(|v| self.value(*v)).collect();
        let label = self.label(node);
        let mut states = vec![];
        for k in 0..s.roles.states {
            let ty = &node.types[s.roles.outputs + k];
            let first = self.first_value(node, node.operands[in_time + k], ty)?;
            let name = s.body.outputs.get(s.roles.outputs + k).map_or("state", |(n, _)| n.as_str());
            let (index, input) = self.state(&format!("{label}.{name}"), first);
            states.push(index);
            operands.push(input);
        }
        let types = node.types.iter().map(|t| t.bind(&self.one)).collect();
        let new = self.step.graph.push(Node { operands, types, ..node.clone() });
        for (k, index) in states.into_iter().enumerate() {
            self.next[index].1 = Some(Value { node: new, result: (s.roles.outputs + k) as u16 });
        }
        for (old, now) in self.graph.results(id).zip(self.step.graph.results(new).collect::<Vec<_>>()) {
            self.map.insert(old, now);
            self.classes.insert(old, if usize::from(old.result) < s.roles.outputs { Each(0) } else { Running });
        }
        Ok(())
    }

    /// One step of a loop in place of it.
    fn unrolled(&mut self, id: NodeId, node: &Node, classes: &[Output]) -> Result<(), Mixes> {
        let Op::Loop(l) = &node.op else { return Ok(()) };
        if l.reverse {
            return self.fail(node, "runs from the last step to the first");
        }
        let first_state = l.roles.first_state();
        let wrong = (0..first_state).any(|i| match classes[i] {
            Each(a) => i >= l.roles.sequences || a != 0,
            Running => true,
            // A sequence that is the same at all steps has been repeated, and is one by its class.
            Fixed => i < l.roles.sequences,
        });
        if wrong {
            return self.fail(node, "needs other steps than the one that has just come");
        }
        let mut inside: HashMap<Value, Value> = HashMap::new();
        for (v, input) in node.operands[..first_state].iter().zip(&l.body.inputs) {
            let value = self.value(*v);
            inside.insert(*input, value);
        }
        let label = self.label(node);
        let mut states = vec![];
        for k in 0..l.roles.states {
            let ty = &node.types[l.roles.outputs + k];
            let first = self.first_value(node, node.operands[first_state + k], ty)?;
            let (index, input) = self.state(&label, first);
            states.push(index);
            inside.insert(l.body.inputs[first_state + k], input);
        }
        let body = l.body.bind(&self.one);
        self.step.graph.append(&body, &mut inside);
        let results: Vec<Value> = body.outputs.iter().map(|(_, v)| inside[v]).collect();
        for (k, index) in states.into_iter().enumerate() {
            self.next[index].1 = Some(results[l.roles.outputs + k]);
        }
        for (old, now) in self.graph.results(id).zip(results) {
            self.map.insert(old, now);
            self.classes.insert(old, if usize::from(old.result) < l.roles.outputs { Each(0) } else { Running });
        }
        Ok(())
    }
}

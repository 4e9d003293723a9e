//! Programs as graphs.
//!
//! The graph of a net is walked from its outputs. Products, convolutions, sums and delays are read from its operations; neurons from their step
//! functions ([`crate::equation`]), but for those of `grammar/std/nir.snn`, whose settings say what they were in a file; pools from the calls that
//! made them. What is left is an error with its line.

use std::collections::{BTreeSet, HashMap, HashSet};

use snn_front::{LibraryCall, Recorded, Trace};
use snn_ir::interpret::{Randomness, evaluate};
use snn_ir::{BinaryOp, NodeId, Op, Tensor, Type, UnaryOp, Value};
use snn_syntax::{Diagnostic, Span};

use crate::cycles::without_steps_of_cycles;
use crate::equation::{Coefficient, Equation, equation, numbers, time_constant, zip};
use crate::{Compare, Element, Graph, Integrator, Kind, NirError, Node, Order, Reset, Value as Field};

/// A graph, and how it must be read to be the same net again.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The graph.
    pub graph: Graph,
    /// Options of an import that gives the same spikes, as the command takes them.
    pub options: Vec<(&'static str, String)>,
}

/// What a graph does not say by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// Seconds of a step. Nodes of `nir_lif` and the like have their own.
    pub dt: Option<f64>,
    /// What time constants stand for; Euler where it is not given.
    pub integrator: Option<Integrator>,
}

/// Makes a graph of a net and its parameters.
///
/// # Errors
/// What NIR cannot say, with its place in the program.
pub fn export(trace: &Trace, weights: &[(String, Tensor)], options: &ExportOptions) -> Result<Exported, NirError> {
    if let Some(dt) = options.dt.filter(|dt| !dt.is_finite() || *dt <= 0.0) {
        return Err(NirError::Open(format!("the time step is positive, not {dt}")));
    }
    let mut e = Exporter::new(trace, weights, options)?;
    e.run()?;
    let graph = without_steps_of_cycles(e.out, e.dt.unwrap_or(1.0))?;
    let mut said = vec![];
    let mut say = |name, value: Option<String>| said.extend(value.map(|v| (name, v)));
    say("dt", e.dt.map(|d| format!("{d:?}")));
    say("integrator", e.said.integrator.map(|s| s.to_string()));
    say("reset", e.said.reset.map(|s| s.to_string()));
    say("compare", e.said.compare.map(|s| s.to_string()));
    say("order", e.said.order.map(|s| s.to_string()));
    say("unit-if", e.said.unit_if.filter(|u| *u).map(|_| String::new()));
    Ok(Exported { graph, options: said })
}

/// What all neurons of a file share, because the file does not say it.
#[derive(Default)]
struct Said {
    integrator: Option<Integrator>,
    reset: Option<Reset>,
    compare: Option<Compare>,
    order: Option<Order>,
    unit_if: Option<bool>,
}

/// Where a value comes from: nodes whose outputs add, or a recursive value that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    Node(usize),
    Recursion(usize),
}

struct Exporter<'a> {
    trace: &'a Trace,
    weights: HashMap<&'a str, &'a Tensor>,
    calls: HashMap<Value, &'a LibraryCall>,
    /// How many of the first axes are time and samples.
    lead: usize,
    dt: Option<f64>,
    integrator: Integrator,
    said: Said,
    depends: Vec<bool>,
    uses: Vec<usize>,
    constants: HashMap<Value, Option<Tensor>>,
    sources: HashMap<Value, Vec<Source>>,
    out: Graph,
    /// Edges from recursive values: which, and to what.
    waiting: Vec<(usize, usize)>,
    taken: HashSet<String>,
}

const POOLS: [(&str, Kind); 2] = [("avg_pool2d", Kind::AvgPool2d), ("sum_pool2d", Kind::SumPool2d)];
const NEURONS: [(&str, Kind); 6] = [
    ("nir_i", Kind::I),
    ("nir_if", Kind::If),
    ("nir_li", Kind::Li),
    ("nir_lif", Kind::Lif),
    ("nir_cuba_li", Kind::CubaLi),
    ("nir_cuba_lif", Kind::CubaLif),
];

fn kind_of(call: &LibraryCall) -> Option<Kind> {
    POOLS.iter().chain(&NEURONS).find(|(n, _)| *n == call.item).map(|(_, k)| *k).or((call.item == "nir_delay").then_some(Kind::Delay))
}

fn whole(v: &[i64]) -> Field {
    Field::Numbers { shape: vec![v.len()], data: v.iter().map(|x| *x as f64).collect(), element: Element::I64 }
}

fn one(x: i64) -> Field {
    Field::Numbers { shape: vec![], data: vec![x as f64], element: Element::I64 }
}

/// Numbers as f32 where that is exact.
fn floats(shape: Vec<usize>, data: Vec<f64>) -> Field {
    let element = if data.iter().all(|x| f64::from(*x as f32) == *x) { Element::F32 } else { Element::F64 };
    Field::Numbers { shape, data, element }
}

fn is_unit_if(call: &LibraryCall) -> bool {
    call.item == "nir_if" && *call.setting("dt") == Recorded::Number(1.0)
}

impl<'a> Exporter<'a> {
    fn new(trace: &'a Trace, weights: &'a [(String, Tensor)], options: &ExportOptions) -> Result<Self, NirError> {
        let graph = &trace.graph;
        let placeholders: HashSet<NodeId> = trace.recursions.iter().map(|r| r.placeholder.node).collect();
        let mut depends = vec![false; graph.len()];
        let mut uses = vec![0; graph.len()];
        for (id, node) in graph.nodes() {
            depends[id.index()] =
                matches!(node.op, Op::Input { .. } | Op::Random { .. }) || node.operands.iter().any(|v| depends[v.node.index()]);
            node.operands.iter().for_each(|v| uses[v.node.index()] += 1);
        }
        graph.outputs.iter().for_each(|(_, v)| uses[v.node.index()] += 1);
        trace.recursions.iter().for_each(|r| uses[r.definition.node.index()] += 1);
        let mut lead = None;
        for v in graph.inputs.iter().filter(|v| !placeholders.contains(&v.node)) {
            let ty = graph.ty(*v);
            let own = ty.shape.iter().rposition(|d| d.as_constant().is_none()).map_or(0, |i| i + 1);
            let name = graph.input_name(*v);
            if own == 0 || own > 2 {
                return Err(NirError::Graph(format!(
                    "the input `{name}` is {ty}; a graph of NIR knows one sample at one time, so declare time and samples by name before the sizes that it has: `f32[T, B, 10]` or `f32[T, 10]`"
                )));
            }
            if *lead.get_or_insert(own) != own {
                return Err(NirError::Graph(format!("the input `{name}` is {ty}, and another one has other axes before its sizes")));
            }
        }
        // Neurons of NIR files say their steps.
        let mut dt = options.dt;
        let mut integrator = options.integrator;
        for call in trace.calls.iter().filter(|c| NEURONS.iter().any(|(n, _)| *n == c.item)) {
            if let Recorded::Number(own) = *call.setting("dt")
                && !is_unit_if(call)
            {
                let said = *dt.get_or_insert(own);
                if (own - said).abs() > 1e-9 * said {
                    return Err(at(
                        trace,
                        call.output,
                        format!("this neuron has steps of {own} s, and the others, or `--dt`, {said} s"),
                        "its setting `dt`",
                    ));
                }
            }
            if let (Recorded::Text(own), None) = (call.setting("integrator"), integrator) {
                integrator = own.parse().ok();
            }
        }
        let calls = trace.calls.iter().filter(|c| kind_of(c).is_some()).map(|c| (c.output, c)).collect();
        Ok(Exporter {
            trace,
            weights: weights.iter().map(|(n, t)| (&n[..], t)).collect(),
            calls,
            lead: lead.unwrap_or(0),
            dt,
            integrator: integrator.unwrap_or(Integrator::Euler),
            said: Said::default(),
            depends,
            uses,
            constants: HashMap::new(),
            sources: HashMap::new(),
            out: Graph::default(),
            waiting: vec![],
            taken: HashSet::new(),
        })
    }

    fn fail<T>(&self, v: Value, reason: impl Into<String>) -> Result<T, NirError> {
        Err(at(self.trace, v, reason.into(), "NIR has no node for this"))
    }

    fn run(&mut self) -> Result<(), NirError> {
        let graph = &self.trace.graph;
        // What the outputs need, by the handling of each value.
        let mut needed = BTreeSet::new();
        let mut stack: Vec<Value> = graph.outputs.iter().map(|(_, v)| *v).collect();
        while let Some(v) = stack.pop() {
            if !self.depends[v.node.index()] {
                return self.fail(v, "a result does not depend on the input");
            }
            if needed.insert(v) {
                stack.extend(self.data_of(v));
            }
        }
        for v in &needed {
            let sources = self.value(*v)?;
            self.sources.insert(*v, sources);
        }
        for (recursion, to) in std::mem::take(&mut self.waiting) {
            let definition = self.trace.recursions[recursion].definition;
            for s in self.sources[&definition].clone() {
                match s {
                    Source::Node(from) => self.edge(from, to),
                    Source::Recursion(_) => return self.fail(definition, "a recursive value that is another one"),
                }
            }
        }
        for (name, v) in &graph.outputs {
            let shape = whole(&self.features(graph.ty(*v), *v)?.iter().map(|d| *d as i64).collect::<Vec<_>>());
            let to = self.add(name, Kind::Output, vec![("shape", shape)]);
            self.connect(*v, to);
        }
        Ok(())
    }

    /// The values that a node is made from.
    fn data_of(&self, v: Value) -> Vec<Value> {
        let depends = |v: &Value| self.depends[v.node.index()];
        if let Some(call) = self.calls.get(&v) {
            return call.inputs.iter().copied().filter(depends).collect();
        }
        if let Some(r) = self.recursion(v) {
            return vec![self.trace.recursions[r].definition];
        }
        let node = self.trace.graph.node(v.node);
        match &node.op {
            Op::Spike { .. } => vec![self.threshold_of(node.operands[0]).0],
            Op::Scan(_) => node.operands[..1].to_vec(),
            _ => node.operands.iter().copied().filter(depends).collect(),
        }
    }

    fn recursion(&self, v: Value) -> Option<usize> {
        self.trace.recursions.iter().position(|r| r.placeholder == v)
    }

    /// `x` and `c` of `x - c`.
    fn threshold_of(&self, v: Value) -> (Value, Option<Value>) {
        let node = self.trace.graph.node(v.node);
        match node.op {
            Op::Binary(BinaryOp::Sub) if !self.depends[node.operands[1].node.index()] => (node.operands[0], Some(node.operands[1])),
            _ => (v, None),
        }
    }

    /// The sizes of a sample at one time.
    fn features(&self, ty: &Type, v: Value) -> Result<Vec<usize>, NirError> {
        let sizes: Option<Vec<usize>> =
            ty.shape.iter().skip(self.lead).map(|d| d.as_constant().and_then(|n| usize::try_from(n).ok())).collect();
        match sizes.filter(|_| ty.rank() >= self.lead && ty.shape[..self.lead].iter().all(|d| d.as_constant().is_none())) {
            Some(sizes) => Ok(sizes),
            None => self.fail(v, format!("a value of the shape {ty}, which has other axes of time and samples than the input")),
        }
    }

    fn add(&mut self, name: &str, kind: Kind, fields: Vec<(&str, Field)>) -> usize {
        let base: String = name.replace('/', "_");
        let mut own = base.clone();
        let mut k = 2;
        while own.is_empty() || !self.taken.insert(own.clone()) {
            own = format!("{base}_{k}");
            k += 1;
        }
        let fields = fields.into_iter().map(|(n, v)| (n.to_string(), v)).collect();
        self.out.nodes.push((own, Node { kind, fields, graph: None }));
        self.out.nodes.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize) {
        let name = |i: usize| self.out.nodes[i].0.clone();
        let edge = (name(from), name(to));
        self.out.edges.push(edge);
    }

    /// Edges from all that a value is the sum of.
    fn connect(&mut self, v: Value, to: usize) {
        for s in self.sources.get(&v).cloned().unwrap_or_default() {
            match s {
                Source::Node(from) => self.edge(from, to),
                Source::Recursion(r) => self.waiting.push((r, to)),
            }
        }
    }

    /// What a value is called where nothing else names its node.
    fn name(&self, v: Value, usual: &str) -> String {
        self.trace.names.get(&v).map_or(usual.to_string(), |n| n.strip_suffix("_out").unwrap_or(n).to_string())
    }

    /// A value that no input reaches; without axes that only repeat it over time and samples.
    fn constant(&mut self, v: Value) -> Option<Tensor> {
        if let Some(known) = self.constants.get(&v) {
            return known.clone();
        }
        let graph = &self.trace.graph;
        let mut order = vec![];
        let mut seen = HashSet::new();
        let mut stack = vec![v];
        while let Some(v) = stack.pop() {
            if !self.constants.contains_key(&v) && seen.insert(v) {
                order.push(v);
                stack.extend(&graph.node(v.node).operands);
            }
        }
        order.sort();
        for v in order {
            let node = graph.node(v.node);
            let value = match &node.op {
                Op::Parameter { name, .. } => self.weights.get(&name[..]).map(|t| (*t).clone()),
                Op::Input { .. } | Op::Random { .. } => None,
                op => {
                    let operands: Option<Vec<Tensor>> = node.operands.iter().map(|o| self.constants.get(o).cloned().flatten()).collect();
                    let known = node.types.iter().all(|t| t.sizes().is_ok());
                    match (op, operands) {
                        (Op::Broadcast { axes, .. }, Some(operands)) if !known => {
                            let ty = &node.types[0];
                            let mut shape = vec![1; ty.rank()];
                            axes.iter().zip(operands[0].shape()).for_each(|(a, n)| shape[*a] = *n);
                            let repeats = |a: usize| ty.shape[a].as_constant().is_none();
                            // Sizes that are known are written out where only the first axes are open.
                            let first = (0..ty.rank()).take_while(|a| repeats(*a) && shape[*a] == 1).count();
                            Some(operands[0].reshaped(shape[first..].to_vec()))
                        }
                        (op, Some(operands)) if known => {
                            let refs: Vec<&Tensor> = operands.iter().collect();
                            let all = evaluate(op, &refs, &node.types, &mut Randomness::Counter { seed: 0 });
                            all.ok().and_then(|all| all.into_iter().nth(v.result as usize))
                        }
                        _ => None,
                    }
                }
            };
            self.constants.insert(v, value);
        }
        self.constants.get(&v).cloned().flatten()
    }

    /// A constant with one number, or one for each element of `features`.
    fn coefficient(&mut self, v: Value, features: &[usize]) -> Result<Coefficient, NirError> {
        let Some(t) = self.constant(v) else { return self.fail(v, "a value that is not known before the net runs") };
        let data = numbers(&t);
        if data.len() == 1 || t.shape() == features {
            return Ok(data);
        }
        let shape: Vec<usize> =
            std::iter::repeat_n(1, features.len().saturating_sub(t.shape().len())).chain(t.shape().iter().copied()).collect();
        if shape.len() != features.len() || shape.iter().zip(features).any(|(a, b)| *a != 1 && a != b) {
            return self.fail(v, format!("a setting of the shape {:?} for {features:?} neurons", t.shape()));
        }
        let (from, to) = (snn_ir::tensor::row_major_strides(&shape), snn_ir::tensor::row_major_strides(features));
        let n: usize = features.iter().product();
        let place =
            |i: usize| (0..features.len()).map(|a| if shape[a] == 1 { 0 } else { i / to[a] % features[a] * from[a] }).sum::<usize>();
        Ok((0..n).map(|i| data[place(i)]).collect())
    }

    fn value(&mut self, v: Value) -> Result<Vec<Source>, NirError> {
        if let Some(r) = self.recursion(v) {
            return Ok(vec![Source::Recursion(r)]);
        }
        let ty = self.trace.graph.ty(v).clone();
        let features = self.features(&ty, v)?;
        if let Some(call) = self.calls.get(&v).copied() {
            let node = self.call(call, &features)?;
            self.connect(call.inputs[0], node);
            return Ok(vec![Source::Node(node)]);
        }
        let node = self.trace.graph.node(v.node);
        let operands = node.operands.clone();
        let given = |e: &Self, i: usize| -> Result<Vec<usize>, NirError> { e.features(e.trace.graph.ty(operands[i]), v) };
        let made = match &node.op {
            Op::Input { name, .. } => {
                let shape: Vec<i64> = features.iter().map(|d| *d as i64).collect();
                return Ok(vec![Source::Node(self.add(name, Kind::Input, vec![("shape", whole(&shape))]))]);
            }
            Op::Contract(c) => {
                let weight = self.constant(operands[1]).filter(|w| {
                    w.shape().len() == 2
                        && c.lhs_batch.is_empty()
                        && c.lhs_sum == [self.trace.graph.ty(operands[0]).rank() - 1]
                        && c.rhs_sum.len() == 1
                        && self.depends[operands[0].node.index()]
                });
                let Some(weight) = weight else {
                    return self.fail(v, "a product that is not of the last axis with a matrix of parameters");
                };
                let (rows, columns) = (weight.shape()[0], weight.shape()[1]);
                let data = numbers(&weight);
                let (shape, data) = match c.rhs_sum[0] {
                    1 => (vec![rows, columns], data),
                    _ => (vec![columns, rows], (0..data.len()).map(|i| data[i % rows * columns + i / rows]).collect()),
                };
                let name = self.layer(operands[1], v, "linear");
                self.add(&name, Kind::Linear, vec![("weight", floats(shape, data))])
            }
            Op::Conv(c) => {
                let n = c.stride.len();
                let Some(weight) = self.constant(operands[1]).filter(|_| n <= 2) else {
                    return self.fail(v, "a convolution over three axes, or with weights that are not parameters");
                };
                let kind = if n == 1 { Kind::Conv1d } else { Kind::Conv2d };
                let x = given(self, 0)?;
                let numbers_of = |v: &[i64]| if n == 1 { one(v[0]) } else { whole(v) };
                let spatial: Vec<i64> = x[1..].iter().map(|d| *d as i64).collect();
                let fields = vec![
                    ("input_shape", numbers_of(&spatial)),
                    ("weight", floats(weight.shape().to_vec(), numbers(&weight))),
                    ("stride", numbers_of(&c.stride)),
                    ("padding", numbers_of(&c.padding)),
                    ("dilation", numbers_of(&c.dilation)),
                    ("groups", one(c.groups)),
                    // The Python package has no convolution without one.
                    ("bias", floats(vec![weight.shape()[0]], vec![0.0; weight.shape()[0]])),
                ];
                let name = self.layer(operands[1], v, "conv");
                self.add(&name, kind, fields)
            }
            Op::Binary(BinaryOp::Add) => return self.sum(v, &operands, &features),
            Op::Binary(BinaryOp::Sub) if operands.iter().all(|o| self.depends[o.node.index()]) => {
                let name = self.name(v, "minus");
                let minus = self.add(&name, Kind::Scale, vec![("scale", floats(features.clone(), vec![-1.0; features.iter().product()]))]);
                self.connect(operands[1], minus);
                let mut sources = self.sources.get(&operands[0]).cloned().unwrap_or_default();
                sources.push(Source::Node(minus));
                return Ok(sources);
            }
            Op::Binary(op @ (BinaryOp::Mul | BinaryOp::Div)) => {
                let (x, k) = if self.depends[operands[1].node.index()] { (1, 0) } else { (0, 1) };
                if self.depends[operands[k].node.index()] || (*op == BinaryOp::Div && k == 0) {
                    return self.fail(v, "a product or quotient of values that depend on the input");
                }
                let k = self.coefficient(operands[k], &features)?;
                let k = if *op == BinaryOp::Div { k.iter().map(|x| 1.0 / x).collect() } else { k };
                let name = self.scale_name(v);
                let node = self.add(&name, Kind::Scale, vec![("scale", broadcast(&k, &features))]);
                self.connect(operands[x], node);
                return Ok(vec![Source::Node(node)]);
            }
            Op::Unary(UnaryOp::Neg) => {
                let name = self.name(v, "minus");
                self.add(&name, Kind::Scale, vec![("scale", broadcast(&[-1.0], &features))])
            }
            Op::Unary(UnaryOp::Detach) => return Ok(self.sources.get(&operands[0]).cloned().unwrap_or_default()),
            Op::Cast { .. } if self.trace.graph.ty(operands[0]).dtype == ty.dtype => {
                return Ok(self.sources.get(&operands[0]).cloned().unwrap_or_default());
            }
            Op::Reshape { .. } => {
                let before = given(self, 0)?;
                if before == features {
                    return Ok(self.sources.get(&operands[0]).cloned().unwrap_or_default());
                }
                // One axis of the result is several of the operand.
                let start = before.iter().zip(&features).take_while(|(a, b)| a == b).count();
                let kept = before.iter().rev().zip(features.iter().rev()).take_while(|(a, b)| a == b).count();
                let kept = kept.min(features.len().saturating_sub(start + 1));
                if features.len() != start + 1 + kept || before.len() < start + 1 + kept {
                    return self.fail(v, format!("a reshape from {before:?} to {features:?}, which flattens no axes"));
                }
                let name = self.name(v, "flatten");
                let shape: Vec<i64> = before.iter().map(|d| *d as i64).collect();
                let end = before.len() - 1 - kept;
                let fields = vec![("start_dim", one(start as i64)), ("end_dim", one(end as i64)), ("input_type", whole(&shape))];
                self.add(&name, Kind::Flatten, fields)
            }
            Op::Delay { steps } => {
                let Some(dt) = self.dt else { return self.no_dt(v, "a delay") };
                let name = self.name(v, "delay");
                self.add(&name, Kind::Delay, vec![("delay", broadcast(&[*steps as f64 * dt], &features))])
            }
            Op::Spike { strict, .. } => {
                let (x, threshold) = self.threshold_of(operands[0]);
                self.compare(if *strict { Compare::Gt } else { Compare::Ge }, v)?;
                let threshold = match threshold {
                    Some(t) => self.coefficient(t, &features)?,
                    None => vec![0.0],
                };
                let name = self.name(v, "threshold");
                let node = self.add(&name, Kind::Threshold, vec![("threshold", broadcast(&threshold, &features))]);
                self.connect(x, node);
                return Ok(vec![Source::Node(node)]);
            }
            Op::Scan(scan) => {
                let states = scan.roles.outputs - scan.roles.states;
                let name = node.name.clone().unwrap_or_else(|| "neuron".into());
                let invariants = operands[scan.roles.sequences..scan.roles.first_state()].to_vec();
                let initial = operands[scan.roles.first_state()..].to_vec();
                let invariants = invariants.iter().map(|o| self.coefficient(*o, &features)).collect::<Result<Vec<_>, _>>()?;
                let initial = initial.iter().map(|o| self.coefficient(*o, &features)).collect::<Result<Vec<_>, _>>()?;
                let found = equation(scan, &invariants, &initial).and_then(|e| match v.result {
                    0 => Ok(e),
                    // The membrane of a neuron that has no spikes is its output.
                    r if usize::from(r) >= states && usize::from(r) < scan.roles.outputs && e.spike.is_none() && scan.roles.states == 1 => {
                        Ok(e)
                    }
                    _ => Err("one of its states is read, and nodes of NIR have one output".into()),
                });
                match found {
                    Ok(e) => self.neuron(&name, &e, &features, v)?,
                    Err(why) => {
                        return Err(at(self.trace, v, format!("the neuron `{name}` is none of NIR's: {why}"), "this neuron"));
                    }
                }
            }
            op => {
                let what = match (self.trace.call_of(v), op) {
                    (Some(call), _) => format!("`{}`", call.item),
                    (None, Op::Cast { .. }) => format!("a conversion to {}", ty.dtype),
                    (None, op) => format!("`{}`", snn_ir::text::op_name(op)),
                };
                return self.fail(v, format!("{what} cannot be said in NIR"));
            }
        };
        self.connect(operands[0], made);
        Ok(vec![Source::Node(made)])
    }

    /// A sum: edges that meet, or the bias of what was made just before.
    fn sum(&mut self, v: Value, operands: &[Value], features: &[usize]) -> Result<Vec<Source>, NirError> {
        let constant = operands.iter().copied().find(|o| !self.depends[o.node.index()]);
        let Some(constant) = constant else {
            return Ok(operands.iter().flat_map(|o| self.sources.get(o).cloned().unwrap_or_default()).collect());
        };
        let x = if operands[0] == constant { operands[1] } else { operands[0] };
        let only = match self.sources.get(&x).map(|s| &s[..]) {
            Some([Source::Node(n)]) if self.uses[x.node.index()] == 1 => Some(*n),
            _ => None,
        };
        let Some(bias) = self.constant(constant) else { return self.fail(v, "a sum with a value that is not known before the net runs") };
        // One number for each row of the weight.
        let rank = features.len();
        let along = |axis: usize, n: usize| {
            let at = |k: usize| (k + bias.shape().len()).checked_sub(rank).map_or(1, |i| bias.shape()[i]);
            bias.len() == 1 || (0..rank).all(|k| if k == axis { at(k) == n } else { at(k) == 1 })
        };
        let data = numbers(&bias);
        let full = |n: usize| if data.len() == 1 { vec![data[0]; n] } else { data.clone() };
        if let Some(i) = only {
            let node = &mut self.out.nodes[i].1;
            let n = node.numbers("weight").map_or(0, |(s, _)| s[0]);
            match node.kind {
                Kind::Linear if along(rank - 1, n) => {
                    node.kind = Kind::Affine;
                    node.fields.push(("bias".into(), floats(vec![n], full(n))));
                    return Ok(vec![Source::Node(i)]);
                }
                Kind::Conv1d | Kind::Conv2d if along(0, n) && node.numbers("bias").is_some_and(|(_, b)| b.iter().all(|x| *x == 0.0)) => {
                    node.fields.retain(|(f, _)| f != "bias");
                    node.fields.push(("bias".into(), floats(vec![n], full(n))));
                    return Ok(vec![Source::Node(i)]);
                }
                _ => {}
            }
        }
        if data.iter().all(|x| *x == 0.0) {
            return Ok(self.sources.get(&x).cloned().unwrap_or_default());
        }
        self.fail(v, "a constant is added to something that is no linear layer or convolution used for this alone")
    }

    /// The layer that a weight belongs to.
    fn layer(&self, weight: Value, v: Value, usual: &str) -> String {
        let mut at = weight;
        loop {
            let node = self.trace.graph.node(at.node);
            match &node.op {
                Op::Parameter { name, .. } => {
                    return name.strip_suffix(".weight").map_or_else(|| self.name(v, name), str::to_string);
                }
                Op::Transpose { .. } | Op::Reshape { .. } => at = node.operands[0],
                _ => return self.name(v, usual),
            }
        }
    }

    /// A factor is called as its parameter, `name.scale`, else as `let` calls the product.
    fn scale_name(&self, v: Value) -> String {
        self.name(v, "scale")
    }

    fn no_dt<T>(&self, v: Value, what: &str) -> Result<T, NirError> {
        Err(at(
            self.trace,
            v,
            format!("{what} is seconds in NIR, and nothing says how long a step is; say `--dt SECONDS`"),
            "counted in steps here",
        ))
    }

    fn compare(&mut self, compare: Compare, v: Value) -> Result<(), NirError> {
        if *self.said.compare.get_or_insert(compare) != compare {
            return self.fail(v, "some neurons fire at their threshold and some above it only, which a file cannot say");
        }
        Ok(())
    }

    fn firing(&mut self, reset: Reset, compare: Compare, v: Value) -> Result<(), NirError> {
        self.compare(compare, v)?;
        if *self.said.reset.get_or_insert(reset) != reset {
            return self.fail(v, "some neurons reset to a value and some by their threshold, which a file cannot say");
        }
        Ok(())
    }

    fn ordered(&mut self, order: Order, v: Value) -> Result<(), NirError> {
        if *self.said.order.get_or_insert(order) != order {
            return self.fail(v, "some membranes take the current before its step and some after, which a file cannot say");
        }
        Ok(())
    }

    fn leaky(&mut self, v: Value, integrator: Integrator) -> Result<(), NirError> {
        if *self.said.integrator.get_or_insert(integrator) != integrator {
            return self.fail(v, "neurons with two integrators, which a file cannot say");
        }
        Ok(())
    }

    fn unit(&mut self, unit: bool, v: Value) -> Result<(), NirError> {
        if *self.said.unit_if.get_or_insert(unit) != unit {
            return self.fail(v, "some IF add their input itself (`dt = 1.0`) and some `dt` of it, which a file cannot say");
        }
        Ok(())
    }

    /// A neuron by its equation.
    fn neuron(&mut self, name: &str, e: &Equation, features: &[usize], v: Value) -> Result<usize, NirError> {
        let Some(dt) = self.dt else { return self.no_dt(v, "a neuron's time constant") };
        let place = |e: &Self, why: &str| at(e.trace, v, format!("the neuron `{name}` is none of NIR's: {why}"), "this neuron");
        let mut fields: Vec<(&str, Field)> = vec![];
        let integrates = e.keep.iter().all(|a| *a == 1.0);
        let mut put = |name, c: &[f64]| fields.push((name, broadcast(c, features)));
        let mut rest = vec![0.0];
        let constant = |keep: &[f64]| time_constant(keep, dt, self.integrator);
        if integrates {
            if e.offset.iter().any(|c| *c != 0.0) {
                return Err(place(self, "it adds a constant at each step, and has no leak"));
            }
            if e.synapse.is_some() {
                return Err(place(self, "it has a current and no leak"));
            }
            put("r", &e.gain.iter().map(|g| g / dt).collect::<Vec<_>>());
        } else {
            let Some(tau) = constant(&e.keep) else {
                return Err(place(self, "what a step keeps of its membrane is no decay"));
            };
            let part = zip(&e.keep, &[0.0], |a, _| 1.0 - a);
            rest = zip(&e.offset, &part, |c, p| c / p);
            if let Some(s) = &e.synapse {
                let Some(tau) = constant(&s.keep) else {
                    return Err(place(self, "what a step keeps of its current is no decay"));
                };
                put("tau_syn", &tau);
                put("w_in", &zip(&s.gain, &s.keep, |g, a| g / (1.0 - a)));
            }
            put(if e.synapse.is_some() { "tau_mem" } else { "tau" }, &tau);
            put("r", &zip(&e.gain, &part, |g, p| g / p));
            put("v_leak", &rest);
        }
        if !zip(&e.initial, &rest, |a, b| (a - b).abs()).iter().all(|d| *d <= 1e-6) {
            return Err(place(self, "its membrane does not begin at rest"));
        }
        if let Some(f) = &e.spike {
            put("v_threshold", &f.threshold);
            if f.reset == Reset::Zero {
                put("v_reset", &f.v_reset);
            }
        }
        let kind = match (integrates, &e.synapse, &e.spike) {
            (true, _, None) => Kind::I,
            (true, _, Some(_)) => Kind::If,
            (false, None, None) => Kind::Li,
            (false, None, Some(_)) => Kind::Lif,
            (false, Some(_), None) => Kind::CubaLi,
            (false, Some(_), Some(_)) => Kind::CubaLif,
        };
        if let Some(f) = &e.spike {
            self.firing(f.reset, f.compare, v)?;
        }
        if let Some(s) = &e.synapse {
            self.ordered(s.order, v)?;
        }
        match integrates {
            true => self.unit(false, v)?,
            false => self.leaky(v, self.integrator)?,
        }
        Ok(self.add(name, kind, fields))
    }

    /// A pool, a neuron of NIR or delays, from the call that made them.
    fn call(&mut self, call: &LibraryCall, features: &[usize]) -> Result<usize, NirError> {
        let v = call.output;
        let kind = kind_of(call).unwrap_or(Kind::Identity);
        let pair = |r: &Recorded| match r {
            Recorded::Number(x) => Some(whole(&[*x as i64; 2])),
            Recorded::List(l) if l.len() == 2 => Some(whole(&[l[0] as i64, l[1] as i64])),
            Recorded::List(_) | Recorded::Text(_) | Recorded::Value(_) | Recorded::Other => None,
        };
        if POOLS.iter().any(|p| p.1 == kind) {
            let kernel = pair(call.setting("kernel_size"));
            let stride = pair(call.setting("stride")).or_else(|| kernel.clone());
            let (Some(kernel), Some(stride), Some(padding)) = (kernel, stride, pair(call.setting("padding"))) else {
                return self.fail(v, "a pool whose windows are not numbers");
            };
            let name = self.name(v, "pool");
            return Ok(self.add(&name, kind, vec![("kernel_size", kernel), ("stride", stride), ("padding", padding)]));
        }
        if kind == Kind::Delay {
            let Some(dt) = self.dt else { return self.no_dt(v, "a delay") };
            let steps = call.inputs.get(1).copied();
            let Some(steps) = steps else { return self.fail(v, "delays that are not a tensor") };
            let steps = self.coefficient(steps, features)?;
            let name = self.name(v, "delay");
            return Ok(self.add(&name, kind, vec![("delay", broadcast(&steps.iter().map(|s| s * dt).collect::<Vec<_>>(), features))]));
        }
        let text = |name: &str| if let Recorded::Text(t) = call.setting(name) { t.parse().ok() } else { None };
        if kind.is_spiking() {
            let reset = if call.setting("reset") == &Recorded::Text("subtract".into()) { Reset::Subtract } else { Reset::Zero };
            let compare = if call.setting("compare") == &Recorded::Text("ge".into()) { Compare::Ge } else { Compare::Gt };
            self.firing(reset, compare, v)?;
        }
        if let Some(integrator) = text("integrator") {
            self.leaky(v, integrator)?;
        }
        if let Recorded::Text(order) = call.setting("order") {
            let order = if order == Order::VoltageFirst.name() { Order::VoltageFirst } else { Order::CurrentFirst };
            self.ordered(order, v)?;
        }
        if kind == Kind::If {
            self.unit(is_unit_if(call), v)?;
        }
        let mut fields = vec![];
        let (required, optional) = kind.fields();
        for field in required.iter().chain(optional) {
            let c = match call.setting(field) {
                Recorded::Number(x) => vec![*x],
                Recorded::List(l) => l.clone(),
                Recorded::Value(t) => self.coefficient(*t, features)?,
                Recorded::Text(_) | Recorded::Other => return self.fail(v, format!("`{field}` is not numbers")),
            };
            // Exporters of soft resets write nothing.
            if *field == "v_reset" && self.said.reset == Some(Reset::Subtract) {
                continue;
            }
            fields.push((*field, broadcast(&c, features)));
        }
        let node = self.trace.graph.node(v.node);
        let name = node.name.clone().filter(|_| matches!(node.op, Op::Scan(_))).unwrap_or_else(|| self.name(v, "neuron"));
        Ok(self.add(&name, kind, fields))
    }
}

/// One value for each element.
fn broadcast(c: &[f64], features: &[usize]) -> Field {
    let n: usize = features.iter().product();
    floats(features.to_vec(), if c.len() == n { c.to_vec() } else { vec![c[0]; n] })
}

/// An error at the place where a value was written.
fn at(trace: &Trace, v: Value, reason: String, label: &str) -> NirError {
    let span = trace.graph.node(v.node).span.unwrap_or_default();
    let span = Span { file: span.file, start: span.start as usize, end: span.end as usize };
    NirError::Program(Box::new(Diagnostic::error(reason).label(span, label)))
}

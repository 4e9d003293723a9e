//! Derivatives through time: the backward of a scan is a scan against time, that of a loop is a loop against time.
//!
//! Both need the states before each step. [`Kept::of`] makes every scan and loop give them as further outputs, and a loop the results of
//! its products; what no gradient reads is removed again by pruning. The backward step computes the rest of the forward step again from them.

use std::collections::HashMap;

use snn_ir::{BinaryOp, Build, Class, Contraction, DType, Dim, Graph, Loop, Node, NodeId, Op, Reduction, Roles, Scan, Type, Value};

use crate::products;
use crate::reverse::Reverse;

/// A product inside a loop whose right operand is the same in every step: its gradient is taken outside, over all steps.
#[derive(Clone, Debug)]
pub struct Hoisted {
    /// The product.
    pub contraction: Contraction,
    /// Its left operand, one step of it.
    pub lhs: Value,
    /// Its right operand.
    pub rhs: Value,
    /// The adjoint of the product.
    pub gradient: Value,
}

/// A graph whose scans and loops give as further outputs, after their own, the states before each step, and then, if they are loops, the
/// results of products, which are dearer to compute again than to keep.
pub struct Kept {
    /// The graph.
    pub graph: Graph,
    /// How many results of products a loop gives.
    pub products: HashMap<NodeId, usize>,
}

impl Kept {
    /// Adds the outputs.
    pub fn of(graph: &Graph) -> Kept {
        let mut products = HashMap::new();
        let graph = graph.rebuild(|new, _, mut node| {
            let Some((roles, _)) = node.op.recurrence() else { return copy(new, node) };
            let (first, n) = (roles.first_state(), roles.outputs);
            let mut added = Vec::new();
            if let Op::Scan(s) = &mut node.op {
                added.extend((0..s.roles.states).map(|k| (format!("before.{k}"), s.body.inputs[first + k])));
                let s = std::sync::Arc::make_mut(s);
                s.body.outputs.splice(n..n, added.iter().cloned());
                s.roles.outputs += added.len();
            } else if let Op::Loop(l) = &mut node.op {
                let kept = products_of(&l.body);
                products.insert(NodeId(new.len() as u32), kept.len());
                let states = (0..l.roles.states).map(|k| (format!("before.{k}"), l.body.inputs[first + k]));
                let all: Vec<_> = states.chain(kept.into_iter().enumerate().map(|(i, v)| (format!("kept.{i}"), v))).collect();
                for (name, v) in all {
                    let shape = step_of(l.body.ty(v)).shape;
                    added.push((name, l.body.add(Op::Reshape { shape }, &[v])));
                }
                l.body.outputs.splice(n..n, added.iter().cloned());
                l.roles.outputs += added.len();
            }
            let operands: Vec<&Type> = node.operands.iter().map(|v| new.ty(*v)).collect();
            match snn_ir::infer(&node.op, &operands) {
                Ok(types) => node.types = types,
                Err(e) => unreachable!("further outputs change nothing else: {e}"),
            }
            let id = new.push(node);
            let result = |i: usize| Value { node: id, result: i as u16 };
            (0..n).chain(n + added.len()..n + added.len() + roles.states).map(result).collect()
        });
        Kept { graph, products }
    }

    /// [`Kept::of`] a body, with some values of it in the new one.
    fn of_body<const N: usize>(body: &Graph, lists: [Vec<Value>; N]) -> (Kept, [Vec<Value>; N]) {
        let mut body = body.clone();
        body.outputs = lists.iter().flatten().enumerate().map(|(i, v)| (format!("v{i}"), *v)).collect();
        let mut kept = Kept::of(&body);
        let mut values = std::mem::take(&mut kept.graph.outputs).into_iter().map(|(_, v)| v);
        let lists = lists.map(|list| values.by_ref().take(list.len()).collect());
        (kept, lists)
    }
}

/// The type of one step of a sequence of these.
fn step_of(ty: &Type) -> Type {
    let shape: Vec<Dim> = std::iter::once(1.into()).chain(ty.shape.iter().cloned()).collect();
    Type::new(ty.dtype, shape)
}

/// What a loop keeps of its products: their results, or the sums that are all that is made of these.
fn products_of(body: &Graph) -> Vec<Value> {
    let counts = body.use_counts();
    let mut reader: HashMap<Value, NodeId> = HashMap::new();
    for (id, node) in body.nodes() {
        node.operands.iter().for_each(|v| {
            reader.insert(*v, id);
        });
    }
    let mut kept = Vec::new();
    for (id, node) in body.nodes() {
        let mut v = Value { node: id, result: 0 };
        let uses = |v: Value| counts[v.node.index()][v.result as usize];
        if node.op.class() != Class::Product || uses(v) == 0 {
            continue;
        }
        while let (1, Some(next)) = (uses(v), reader.get(&v)) {
            let is_sum = matches!(body.node(*next).op, Op::Binary(BinaryOp::Add | BinaryOp::Sub));
            if !is_sum || body.node(*next).types[0] != *body.ty(v) {
                break;
            }
            v = Value { node: *next, result: 0 };
        }
        if !kept.contains(&v) {
            kept.push(v);
        }
    }
    kept
}

fn copy(graph: &mut Graph, node: Node) -> Vec<Value> {
    let id = graph.push(node);
    graph.results(id).collect()
}

/// The graph with its scans cut into segments of about `every` steps: a loop over segments keeps the states between them, and
/// its backward computes the steps of a segment again. Less memory, one more forward. The number of steps must be known; the
/// largest divisor of it that is not above `every` is taken.
pub fn with_checkpoints(graph: &Graph, every: usize) -> Graph {
    graph.rebuild(|new, _, node| {
        let Op::Scan(s) = &node.op else { return copy(new, node) };
        let steps = new.ty(node.operands[0]).shape[0].as_constant().unwrap_or(0);
        let length = (1..=i64::try_from(every).unwrap_or(i64::MAX).min(steps)).rev().find(|d| steps > *d && steps % d == 0).unwrap_or(1);
        if length > 1 { segments(new, s, &node, length) } else { copy(new, node) }
    })
}

/// A scan as a loop over segments of `length` steps.
fn segments(new: &mut Graph, s: &Scan, node: &Node, length: i64) -> Vec<Value> {
    let whole = new.ty(node.operands[0]).shape.clone();
    let count = Dim::constant(whole[0].as_constant().unwrap_or(0) / length);
    let element = whole[1..].to_vec();
    let shape = |head: &[Dim]| head.iter().cloned().chain(element.iter().cloned()).collect::<Vec<Dim>>();
    let (one, length) = (Dim::constant(1), Dim::constant(length));
    let first_state = s.roles.first_state();
    let mut body = Graph::new(format!("segment_of_{}", s.body.name));
    let mut operands = Vec::new();
    let mut inner = Vec::new();
    for (i, v) in node.operands.iter().enumerate() {
        let ty = new.ty(*v).clone();
        let mut build = Build(new);
        if i < s.roles.sequences {
            operands.push(build.reshape(*v, shape(&[count.clone(), length.clone()])));
            let slice = body.add_input(format!("in{i}"), Type::new(ty.dtype, shape(&[one.clone(), length.clone()])));
            inner.push(Build(&mut body).reshape(slice, shape(std::slice::from_ref(&length))));
        } else if i < first_state {
            operands.push(*v);
            inner.push(body.add_input(format!("in{i}"), ty));
        } else {
            // The state of a loop has one type; that of a scan may start smaller.
            let axes = (element.len() - ty.rank()..element.len()).collect();
            operands.push(build.broadcast(*v, axes, element.clone()));
            inner.push(body.add_input(format!("in{i}"), Type::new(ty.dtype, element.clone())));
        }
    }
    let types: Vec<Type> = inner.iter().map(|v| body.ty(*v).clone()).collect();
    let op = Op::Scan(std::sync::Arc::new(s.clone()));
    let types = match snn_ir::infer(&op, &types.iter().collect::<Vec<_>>()) {
        Ok(types) => types,
        Err(e) => unreachable!("a segment is typed as the whole: {e}"),
    };
    let scan = body.push(Node { op, operands: inner, types, name: node.name.clone(), span: node.span });
    for i in 0..s.roles.outputs + s.roles.states {
        let mut value = Value { node: scan, result: i as u16 };
        if i < s.roles.outputs {
            value = Build(&mut body).reshape(value, shape(&[one.clone(), length.clone()]));
        }
        body.outputs.push((format!("out{i}"), value));
    }
    let repeated = Loop { roles: s.roles, reverse: s.reverse, steps: count, body };
    let id = match new.try_add(Op::Loop(Box::new(repeated)), &operands) {
        Ok(id) => id,
        Err(e) => unreachable!("a loop over segments is typed as the scan: {e}"),
    };
    let results: Vec<Value> = new.results(id).collect();
    let joined = |(i, v): (usize, Value)| if i < s.roles.outputs { Build(new).reshape(v, whole.clone()) } else { v };
    results.into_iter().enumerate().map(joined).collect()
}

/// What is differentiated of a scan or loop.
struct Parts {
    /// Outputs of its own, without the states before.
    outputs: usize,
    sequences: usize,
    invariants: usize,
    states: usize,
    /// Results of products that a loop gives.
    kept: usize,
}

impl Parts {
    /// The place of the first state among the operands.
    fn first_state(&self) -> usize {
        self.sequences + self.invariants
    }
}

impl Reverse {
    /// Adjoints of outputs and of final states.
    fn results(&mut self, id: NodeId, p: &Parts) -> (Vec<Option<Value>>, Vec<Option<Value>>) {
        let mut of = |i: usize| self.adjoint(Value { node: id, result: i as u16 });
        let last = p.outputs + p.states + p.kept;
        ((0..p.outputs).map(&mut of).collect(), (last..last + p.states).map(of).collect())
    }

    /// The states before the steps of a scan.
    fn before_steps(&mut self, id: NodeId, p: &Parts, operands: &[Value], state: usize) -> Value {
        let given = Value { node: id, result: (p.outputs + state) as u16 };
        let ty = self.graph.ty(given).clone();
        if !ty.shape[0].is_one() {
            return given;
        }
        // Before the only step it is what it starts from.
        let first = operands[p.first_state() + state];
        let rank = self.graph.ty(first).rank();
        let mut build = self.build();
        let element = build.broadcast(first, (ty.rank() - 1 - rank..ty.rank() - 1).collect(), ty.shape[1..].to_vec());
        build.reshape(element, ty.shape)
    }

    pub(crate) fn scan(&mut self, id: NodeId, s: &Scan, operands: &[Value]) {
        let p = Parts {
            outputs: s.roles.outputs - s.roles.states,
            sequences: s.roles.sequences,
            invariants: s.roles.invariants,
            states: s.roles.states,
            kept: 0,
        };
        let (from_outputs, from_states) = self.results(id, &p);
        let first_state = p.first_state();
        // The step function, forwards.
        let mut body = s.body.clone();
        let own_inputs = body.inputs.clone();
        let is_state = |i: usize| i >= first_state && body.ty(own_inputs[i]).dtype == DType::F32;
        let wanted: Vec<bool> =
            (0..own_inputs.len()).map(|i| if i < first_state { self.is_active(operands[i]) } else { is_state(i) }).collect();
        let outputs: Vec<Value> = std::mem::take(&mut body.outputs).into_iter().map(|(_, v)| v).collect();
        let (inputs, seeds) = Inputs::declare(&mut body, &p, &own_inputs, &outputs, &wanted, &from_outputs);
        let sources: Vec<Value> = own_inputs.iter().zip(&wanted).filter(|(_, w)| **w).map(|(v, _)| *v).collect();
        // And backwards.
        let mut inner = Reverse::new(Kept { graph: body, products: HashMap::new() }, &sources);
        seeds.into_iter().for_each(|(v, g)| inner.add(v, g));
        inner.run();
        self.refused = self.refused.or(inner.refused);
        let (results, new_sequences) = inner.results_of_step(&p, &own_inputs, &wanted, &inputs, &[]);
        let mut body = inner.graph;
        body.name = format!("backward of {}", s.body.name).replace(' ', "_");
        body.inputs = inputs.in_order(&p, &own_inputs, &own_inputs[first_state..]);
        body.outputs = results;
        let backward = Scan {
            roles: Roles {
                sequences: p.sequences + p.states + inputs.gradients.len(),
                invariants: p.invariants,
                states: inputs.states.len() + inputs.sums.len(),
                outputs: new_sequences.len(),
            },
            reverse: !s.reverse,
            body: in_order(body),
        };
        let zero = self.build().full(0.0, &Type::scalar(DType::F32));
        let before = (0..p.states).map(|k| self.before_steps(id, &p, operands, k)).collect();
        let given = self.given(&p, before, operands, &wanted, &from_outputs, &from_states, |_, _| zero);
        self.take_back(Op::Scan(std::sync::Arc::new(backward)), &given, &p, operands, &wanted, &new_sequences);
    }

    /// The operands of the backward scan or loop, in the order of [`Inputs::in_order`]. `kept` are the states before the steps, and the
    /// results of products; `zero` gives a state that starts at zero, like a value.
    #[allow(clippy::too_many_arguments)]
    fn given(
        &mut self,
        p: &Parts,
        kept: Vec<Value>,
        operands: &[Value],
        wanted: &[bool],
        from_outputs: &[Option<Value>],
        from_states: &[Option<Value>],
        zero: impl Fn(&mut Build<'_>, Value) -> Value,
    ) -> Vec<Value> {
        let mut given: Vec<Value> = operands[..p.sequences].to_vec();
        given.extend(kept);
        given.extend(from_outputs.iter().flatten());
        given.extend(&operands[p.sequences..p.first_state()]);
        for k in (0..p.states).filter(|k| wanted[p.first_state() + k]) {
            given.push(from_states[k].unwrap_or_else(|| zero(&mut self.build(), operands[p.first_state() + k])));
        }
        for j in (p.sequences..p.first_state()).filter(|j| wanted[*j]) {
            given.push(zero(&mut self.build(), operands[j]));
        }
        given
    }

    /// Outputs and next states of a backward step, and which sequences it gives the gradient of.
    /// Those of the invariants in `outside` are summed elsewhere.
    fn results_of_step(
        &mut self,
        p: &Parts,
        own: &[Value],
        wanted: &[bool],
        inputs: &Inputs,
        outside: &[Summed],
    ) -> (Vec<(String, Value)>, Vec<usize>) {
        let first_state = p.first_state();
        let mut results = Vec::new();
        let mut sequences = Vec::new();
        for i in (0..p.sequences).filter(|i| wanted[*i]) {
            let d = self.adjoint(own[i]).unwrap_or_else(|| self.build().like(0.0, own[i]));
            results.push((format!("d.in{i}"), d));
            sequences.push(i);
        }
        for k in (0..p.states).filter(|k| wanted[first_state + k]) {
            let v = own[first_state + k];
            let d = self.adjoint(v).unwrap_or_else(|| self.build().like(0.0, v));
            results.push((format!("d.state{k}"), d));
        }
        let sums = (p.sequences..first_state).filter(|j| wanted[*j]).zip(&inputs.sums);
        for (j, sum) in sums {
            let inside = outside.iter().all(|s| s.invariant != j);
            let next = match self.adjoint(own[j]).filter(|_| inside) {
                Some(d) => self.build().add(*sum, d),
                None => *sum,
            };
            results.push((format!("d.sum{j}"), next));
        }
        (results, sequences)
    }

    /// Appends the backward scan or loop and passes what it gives to the operands of the forward one.
    fn take_back(&mut self, op: Op, given: &[Value], p: &Parts, operands: &[Value], wanted: &[bool], sequences: &[usize]) -> NodeId {
        let node = match self.graph.try_add(op, given) {
            Ok(node) => node,
            Err(e) => panic!("a backward step does not fit its forward step: {e}"),
        };
        let mut results = self.graph.results(node).collect::<Vec<_>>().into_iter();
        for i in sequences {
            if let Some(d) = results.next() {
                self.add(operands[*i], d);
            }
        }
        // A loop may have given steps of hoisted products in between: they are no states.
        let first_state = p.first_state();
        let last: Vec<usize> = (first_state..first_state + p.states).chain(p.sequences..first_state).filter(|i| wanted[*i]).collect();
        let count = self.graph.node(node).types.len();
        let states = (count - last.len()..count).map(|i| Value { node, result: i as u16 });
        for (i, d) in last.into_iter().zip(states) {
            let d = self.build().summed_to(d, operands[i]);
            self.add(operands[i], d);
        }
        node
    }

    pub(crate) fn repeated(&mut self, id: NodeId, l: &Loop, operands: &[Value]) {
        let kept = self.products.get(&id).copied().unwrap_or(0);
        let p = Parts {
            outputs: l.roles.outputs - l.roles.states - kept,
            sequences: l.roles.sequences,
            invariants: l.roles.invariants,
            states: l.roles.states,
            kept,
        };
        let (from_outputs, from_states) = self.results(id, &p);
        let first_state = p.first_state();
        let is_float = |i: usize| l.body.ty(l.body.inputs[i]).dtype == DType::F32;
        let wanted: Vec<bool> =
            (0..operands.len()).map(|i| if i < first_state { self.is_active(operands[i]) } else { is_float(i) }).collect();
        // The body, with its states, and later the results of its products, read from one step of what was kept.
        let mut body = Graph::new(format!("backward_of_{}", l.body.name));
        let mut map: HashMap<Value, Value> = HashMap::new();
        let mut own_inputs = Vec::new();
        let mut steps = Vec::new();
        let mut read = |body: &mut Graph, name: String, ty: Type| {
            let step = body.input(name, step_of(&ty));
            steps.push(step);
            body.add(Op::Reshape { shape: ty.shape }, &[step])
        };
        for (i, v) in l.body.inputs.iter().enumerate() {
            let ty = l.body.ty(*v).clone();
            let value =
                if i < first_state { body.input(format!("in{i}"), ty) } else { read(&mut body, format!("before{}", i - first_state), ty) };
            own_inputs.push(value);
            map.insert(*v, value);
        }
        let kept = l.body.outputs[p.outputs + p.states..][..p.kept].iter();
        let products: Vec<Value> = kept.map(|(_, v)| l.body.node(v.node).operands[0]).collect();
        let kept = products.iter().enumerate().map(|(i, v)| read(&mut body, format!("kept{i}"), l.body.ty(*v).clone())).collect();
        body.append(&l.body, &mut map);
        let outputs = l.body.outputs.iter().map(|(_, v)| map[v]).collect();
        let products = products.iter().map(|v| map[v]).collect();
        let (mut body, [outputs, own_inputs, steps, kept, products]) = Kept::of_body(&body, [outputs, own_inputs, steps, kept, products]);
        let (inputs, seeds) = Inputs::declare(&mut body.graph, &p, &own_inputs, &outputs, &wanted, &from_outputs);
        let sources: Vec<Value> = own_inputs.iter().zip(&wanted).filter(|(_, w)| **w).map(|(v, _)| *v).collect();
        let mut inner = Reverse::new(body, &sources);
        // Invariants and what is only moved of them are the same in every step.
        inner.fixed.extend(&own_inputs[p.sequences..first_state]);
        for (node_id, node) in inner.graph.nodes() {
            if matches!(node.op, Op::Transpose { .. }) && inner.fixed.contains(&node.operands[0]) {
                inner.fixed.insert(Value { node: node_id, result: 0 });
            }
        }
        seeds.into_iter().for_each(|(v, g)| inner.add(v, g));
        inner.run();
        self.refused = self.refused.or(inner.refused);
        // Sums over samples are left to the outside too, so that samples do not meet in a step.
        let mut summed = Vec::new();
        for invariant in (p.sequences..first_state).filter(|j| wanted[*j]) {
            let terms = inner.adjoint(own_inputs[invariant]).and_then(|d| sums_of(&inner.graph, d));
            summed.extend(terms.into_iter().flatten().map(|(of, axes)| Summed { invariant, of, axes }));
        }
        let (mut results, new_sequences) = inner.results_of_step(&p, &own_inputs, &wanted, &inputs, &summed);
        let mut hoisted = std::mem::take(&mut inner.hoisted);
        // What was derived from products reads what was kept of them.
        let kept: HashMap<Value, Value> = products.into_iter().zip(kept).collect();
        let reads_kept = |v: &mut Value| *v = kept.get(v).copied().unwrap_or(*v);
        for i in 0..inner.graph.len() {
            inner.graph.node_mut(NodeId(i as u32)).operands.iter_mut().for_each(reads_kept);
        }
        results.iter_mut().for_each(|(_, v)| reads_kept(v));
        hoisted.iter_mut().for_each(|h| [&mut h.lhs, &mut h.gradient].into_iter().for_each(reads_kept));
        for s in &mut summed {
            reads_kept(&mut s.of);
            let shape = step_of(inner.graph.ty(s.of)).shape;
            s.of = inner.build().reshape(s.of, shape);
        }
        // The operands of hoisted products, unless they are there outside, or given already.
        let mut body = inner.graph;
        let sequences: Vec<Value> = own_inputs[..p.sequences].iter().chain(&steps).copied().collect();
        let states = results.split_off(new_sequences.len());
        let mut given_as = |name: String, v: Value| {
            let source = unshaped(&body, v);
            if let Some(i) = sequences.iter().position(|s| *s == source) {
                return Sequence::Read(i, body.ty(v).shape.clone());
            }
            let at = results.iter().position(|(_, result)| *result == v).unwrap_or_else(|| {
                results.push((name, v));
                results.len() - 1
            });
            Sequence::Given(at)
        };
        let operands_of: Vec<[Sequence; 2]> = hoisted
            .iter()
            .enumerate()
            .map(|(i, h)| [given_as(format!("d.left{i}"), h.lhs), given_as(format!("d.right{i}"), h.gradient)])
            .collect();
        let terms: Vec<Sequence> = summed.iter().enumerate().map(|(i, s)| given_as(format!("d.term{i}"), s.of)).collect();
        let outputs = results.len();
        results.extend(states);
        body.inputs = inputs.in_order(&p, &own_inputs, &steps);
        body.outputs = results;
        let backward = Loop {
            roles: Roles {
                sequences: p.sequences + p.states + p.kept + inputs.gradients.len(),
                invariants: p.invariants,
                states: inputs.states.len() + inputs.sums.len(),
                outputs,
            },
            reverse: !l.reverse,
            steps: l.steps.clone(),
            body,
        };
        // The states of a loop have the types of what they are adjoints of.
        let before = (p.outputs..p.outputs + p.states + p.kept).map(|i| Value { node: id, result: i as u16 }).collect();
        let given = self.given(&p, before, operands, &wanted, &from_outputs, &from_states, |build, like| build.like(0.0, like));
        let inner = backward.body.clone();
        let node = self.take_back(Op::Loop(Box::new(backward)), &given, &p, operands, &wanted, &new_sequences);
        let all_steps = |build: &mut Build<'_>, sequence: Sequence| match sequence {
            Sequence::Given(i) => Value { node, result: i as u16 },
            Sequence::Read(i, step) => {
                let steps = build.0.ty(given[i]).shape[0].clone();
                build.reshape(given[i], std::iter::once(steps).chain(step.into_iter().skip(1)).collect())
            }
        };
        for (s, terms) in summed.iter().zip(terms) {
            let terms = all_steps(&mut self.build(), terms);
            let axes = std::iter::once(0).chain(s.axes.iter().map(|a| a + 1)).collect();
            let d = self.graph.add(Op::Reduce { kind: Reduction::Sum, axes }, &[terms]);
            self.add(operands[s.invariant], d);
        }
        // Products that were left outside: over all steps at once.
        for (h, sequences) in hoisted.iter().zip(operands_of) {
            let [lhs, gradient] = sequences.map(|sequence| all_steps(&mut self.build(), sequence));
            // From the invariant to the right operand there are only transpositions.
            let mut path = Vec::new();
            let mut source = h.rhs;
            while let Op::Transpose { permutation } = inner.op(source) {
                path.push(permutation.clone());
                source = inner.node(source.node).operands[0];
            }
            let Some(j) = own_inputs.iter().position(|v| *v == source) else { continue };
            let mut outside = operands[j];
            for permutation in path.iter().rev() {
                outside = self.build().transpose(outside, permutation.clone());
            }
            let mut d = products::right(&mut self.build(), &h.contraction, lhs, outside, gradient);
            for permutation in &path {
                d = self.build().untranspose(d, permutation);
            }
            self.add(operands[j], d);
        }
    }
}

/// A sum over axes inside a loop that is a part of the gradient of an invariant: it is taken outside, over all steps.
struct Summed {
    /// Which operand of the loop.
    invariant: usize,
    /// What is summed.
    of: Value,
    axes: Vec<usize>,
}

/// What a value is a sum over axes of, or several of these added.
fn sums_of(graph: &Graph, v: Value) -> Option<Vec<(Value, Vec<usize>)>> {
    let node = graph.node(v.node);
    if let Op::Reduce { kind: Reduction::Sum, axes } = &node.op {
        return Some(vec![(node.operands[0], axes.clone())]);
    }
    let Op::Binary(BinaryOp::Add) = node.op else { return None };
    let terms = node.operands.iter().map(|v| sums_of(graph, *v)).collect::<Option<Vec<_>>>()?;
    Some(terms.concat())
}

/// All steps of what a loop reads or gives.
enum Sequence {
    /// What the backward loop reads, of which one step has this shape.
    Read(usize, Vec<Dim>),
    /// What it gives.
    Given(usize),
}

/// What a value is but for its shape.
fn unshaped(graph: &Graph, mut v: Value) -> Value {
    while let Op::Reshape { .. } = graph.op(v) {
        v = graph.node(v.node).operands[0];
    }
    v
}

/// The inputs of a backward step that its forward step has not.
#[derive(Default)]
struct Inputs {
    /// Adjoints of outputs.
    gradients: Vec<Value>,
    /// Adjoints of states.
    states: Vec<Value>,
    /// Sums of the gradients of invariants.
    sums: Vec<Value>,
}

impl Inputs {
    /// Declares them in a body whose forward step gives `outputs`, with what each adjoint is the adjoint of.
    fn declare(
        body: &mut Graph,
        p: &Parts,
        own: &[Value],
        outputs: &[Value],
        wanted: &[bool],
        from_outputs: &[Option<Value>],
    ) -> (Inputs, Vec<(Value, Value)>) {
        let mut inputs = Inputs::default();
        let mut seeds = Vec::new();
        let mut declare = |name: String, like: Value| {
            let ty = body.ty(like).clone();
            body.input(name, ty)
        };
        for o in (0..p.outputs).filter(|o| from_outputs[*o].is_some()) {
            inputs.gradients.push(declare(format!("d.out{o}"), outputs[o]));
            seeds.push((outputs[o], inputs.gradients[inputs.gradients.len() - 1]));
        }
        for k in (0..p.states).filter(|k| wanted[p.first_state() + k]) {
            inputs.states.push(declare(format!("d.state{k}"), own[p.first_state() + k]));
            // After its own outputs and the states before.
            seeds.push((outputs[p.outputs + p.states + p.kept + k], inputs.states[inputs.states.len() - 1]));
        }
        for j in (p.sequences..p.first_state()).filter(|j| wanted[*j]) {
            inputs.sums.push(declare(format!("d.sum{j}"), own[j]));
        }
        (inputs, seeds)
    }

    /// The inputs of the backward step: sequences, states before the step, adjoints of outputs; invariants; states.
    fn in_order(&self, p: &Parts, own: &[Value], before: &[Value]) -> Vec<Value> {
        let sequences = own[..p.sequences].iter().chain(before).chain(&self.gradients);
        let invariants = &own[p.sequences..p.first_state()];
        sequences.chain(invariants).chain(&self.states).chain(&self.sums).copied().collect()
    }
}

/// A step function whose inputs come first, in their order, as printers and backends like it.
fn in_order(body: Graph) -> Graph {
    let mut new = Graph::new(body.name.clone());
    let mut map: HashMap<Value, Value> = HashMap::new();
    for v in &body.inputs {
        map.insert(*v, new.add_input(body.input_name(*v), body.ty(*v).clone()));
    }
    new.append(&body, &mut map);
    new.outputs = body.outputs.iter().map(|(n, v)| (n.clone(), map[v])).collect();
    new
}

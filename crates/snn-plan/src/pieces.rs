//! Long sequences, some steps at a time.
//!
//! A net of layers computes one layer for all steps after the other, so that what passes between them goes through memory once it is
//! larger than the caches. Where step `t` of everything depends on the steps up to `t` only, the same can be done for a piece of the
//! steps after the other: [`in_pieces`] makes a loop of such a part of a graph, whose body is the part for a piece and whose states are
//! what neurons and delays carry from one to the next. Nothing is summed differently, and what lies between the layers takes the memory
//! of a piece, however many steps there are.

use std::collections::{BTreeSet, HashMap};

use snn_ir::axes::{self, Axis};
use snn_ir::build::Build;
use snn_ir::{Dim, Graph, Loop, Node, NodeId, Op, Roles, Type, Value};

use crate::partition::partition_batch;

/// Bytes that the largest kernel of a piece reads and writes, where each thread takes samples of its own: both sides stay in its L2 cache.
const IN_CACHE: usize = 1 << 20;
/// The same where threads divide each kernel: fewer are not worth waking them.
const IN_SHARED_CACHE: usize = 4 << 20;
/// Pieces pay where so many times as many bytes lie between the kernels.
const WORTH_IT: usize = 4;
/// Each piece reads the weights again: what it computes is at least so many times as large.
const OVER_WEIGHTS: usize = 4;

/// The graph with loops over pieces in place of long sequences, if that keeps any in cache. All sizes are known.
pub(crate) fn in_pieces(graph: &Graph) -> Option<Graph> {
    let mut changed: Option<Graph> = None;
    let mut lengths: BTreeSet<usize> =
        graph.nodes().filter_map(|(_, node)| steps_of(&node.op, graph.ty(*node.operands.first()?))).collect();
    while let Some(steps) = lengths.pop_last() {
        while let Some(new) = Chain::find(changed.as_ref().unwrap_or(graph), steps).and_then(Chain::in_pieces) {
            changed = Some(new.pruned());
        }
    }
    changed
}

/// The steps of a neuron that runs forward.
fn steps_of(op: &Op, sequence: &Type) -> Option<usize> {
    let Op::Scan(s) = op else { return None };
    if s.reverse { None } else { sequence.sizes().ok()?.first().copied() }
}

/// Where a node is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Inside,
    After,
}

/// A part of a graph that is computed piece by piece.
struct Chain<'a> {
    graph: &'a Graph,
    /// How many steps its sequences have, and a piece.
    steps: usize,
    piece: usize,
    places: Vec<Place>,
    /// What is read in pieces, what is read as a whole by each, and what others need of the results.
    sequences: Vec<Value>,
    invariants: Vec<Value>,
    outputs: Vec<Value>,
}

impl<'a> Chain<'a> {
    fn find(graph: &'a Graph, steps: usize) -> Option<Chain<'a>> {
        let mut chain = Chain { graph, steps, piece: 0, places: vec![], sequences: vec![], invariants: vec![], outputs: vec![] };
        for (_, node) in graph.nodes() {
            let of = |place: Place| node.operands.iter().any(|v| chain.place(*v) == place);
            let place = match (of(Place::After), of(Place::Inside)) {
                (true, _) => Place::After,
                (false, _) if chain.fits(node) => Place::Inside,
                (false, true) => Place::After,
                (false, false) => Place::Before,
            };
            chain.places.push(place);
        }
        chain.see_what_crosses();
        chain.outputs.first()?;
        Some(chain)
    }

    /// The graph with the loop, where that pays: for threads that take samples of their own, or else for such as divide each kernel.
    fn in_pieces(mut self) -> Option<Graph> {
        for divided in [true, false] {
            let Some(piece) = self.piece(divided) else { continue };
            self.piece = piece;
            let (new, id) = self.rewritten();
            let parts = if let Op::Loop(l) = &new.node(id).op { partition_batch(l, self.steps / piece) } else { None };
            if !divided || parts.is_some() {
                return Some(new);
            }
        }
        None
    }

    fn place(&self, v: Value) -> Place {
        self.places[v.node.index()]
    }

    fn has_steps(&self, ty: &Type) -> bool {
        ty.shape.first().and_then(Dim::as_constant) == Some(self.steps as i64)
    }

    /// Along which axis an operand has the steps of the result, if it is not the same for all of them.
    fn steps_axis(&self, node: &Node, i: usize) -> Option<usize> {
        let types: Vec<&Type> = node.operands.iter().map(|v| self.graph.ty(*v)).collect();
        let follows = |a: usize| matches!(axes::axis(&node.op, &types, &node.types, i, a, 0), Axis::Kept(0) | Axis::Causal(0));
        (0..types[i].rank()).find(|a| !types[i].shape[*a].is_one() && follows(*a))
    }

    /// Does step `t` of all sequences that it gives depend on the steps up to `t` of sequences only, and is it known how?
    fn fits(&self, node: &Node) -> bool {
        let outputs = Self::sequences_of(node);
        let reverse = matches!(&node.op, Op::Scan(s) if s.reverse);
        // Of what else reads earlier steps, running sums among them, it is not known what it carries from piece to piece to the bit.
        let carries = matches!(node.op, Op::Scan(_) | Op::Delay { .. });
        let types: Vec<&Type> = node.operands.iter().map(|v| self.graph.ty(*v)).collect();
        let causal = |i: usize| axes::axis(&node.op, &types, &node.types, i, 0, 0) == Axis::Causal(0);
        let mut some = false;
        let mut fits = |(i, v): (usize, &Value)| {
            let inside = self.place(*v) == Place::Inside;
            let along = self.steps_axis(node, i);
            some |= inside || along == Some(0) && !self.repeats(*v);
            match along {
                Some(axis) => axis == 0 && self.has_steps(types[i]) && (carries || !causal(i)),
                None => !inside,
            }
        };
        outputs > 0
            && !reverse
            && node.types[..outputs].iter().all(|ty| self.has_steps(ty))
            && node.operands.iter().enumerate().all(&mut fits)
            && some
    }

    /// Is it the same thing repeated for each step? Each piece repeats it as often as it needs.
    fn repeats(&self, v: Value) -> bool {
        let node = self.graph.node(v.node);
        let Op::Broadcast { axes, .. } = &node.op else { return false };
        axes.first() != Some(&0) || self.graph.ty(node.operands[0]).shape[0].is_one()
    }

    /// Is it another form of something, which kernels read where that is? Each piece makes its own.
    fn is_view(&self, v: Value) -> bool {
        matches!(self.graph.op(v), Op::Constant(_) | Op::Broadcast { .. } | Op::Transpose { .. } | Op::Reshape { .. })
    }

    /// How many operands a piece of a node is given; the others are first states.
    fn given(node: &Node) -> usize {
        if let Op::Scan(s) = &node.op { s.roles.first_state() } else { node.operands.len() }
    }

    /// How many results are sequences; the others are last states.
    fn sequences_of(node: &Node) -> usize {
        if let Op::Scan(s) = &node.op { s.roles.outputs } else { node.types.len() }
    }

    fn see_what_crosses(&mut self) {
        let (mut sequences, mut invariants, mut outputs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (id, node) in self.graph.nodes() {
            if self.places[id.index()] != Place::Inside {
                outputs.extend(node.operands.iter().filter(|v| self.place(**v) == Place::Inside));
                continue;
            }
            for (i, v) in node.operands[..Self::given(node)].iter().enumerate().filter(|(_, v)| self.place(**v) != Place::Inside) {
                if self.steps_axis(node, i).is_none() {
                    self.see(*v, &mut invariants);
                } else if self.repeats(*v) {
                    self.see(self.graph.node(v.node).operands[0], &mut invariants);
                } else {
                    sequences.insert(*v);
                }
            }
        }
        outputs.extend(self.graph.roots().filter(|v| self.place(*v) == Place::Inside));
        self.sequences = sequences.into_iter().collect();
        self.invariants = invariants.into_iter().collect();
        self.outputs = outputs.into_iter().collect();
    }

    /// What is read of something that is the same at all steps.
    fn see(&self, v: Value, invariants: &mut BTreeSet<Value>) {
        if self.is_view(v) {
            self.graph.node(v.node).operands.iter().for_each(|v| self.see(*v, invariants));
        } else {
            invariants.insert(v);
        }
    }

    /// Is it one of the results that a scan gives after its last step?
    fn is_last_state(&self, v: Value) -> bool {
        v.result as usize >= Self::sequences_of(self.graph.node(v.node))
    }

    /// How many steps a piece has, where pieces pay; `divided` says that threads take samples of their own.
    fn piece(&self, divided: bool) -> Option<usize> {
        let bytes = |v: &Value| self.graph.ty(*v).byte_len();
        let crossing: usize = self.sequences.iter().chain(&self.outputs).map(bytes).sum();
        let (mut between, mut all, mut largest) = (0, crossing, 0);
        for (id, node) in self.inside() {
            // What is fused with others or only another form of them is not written.
            if node.op.is_elementwise() || matches!(node.op, Op::Reshape { .. } | Op::Broadcast { .. }) {
                continue;
            }
            let written: usize = self.graph.results(id).filter(|v| !self.is_last_state(*v)).map(|v| bytes(&v)).sum();
            let read: usize = node.operands.iter().filter(|v| self.has_steps(self.graph.ty(**v))).map(bytes).sum();
            let inside = self.graph.results(id).all(|v| !self.outputs.contains(&v));
            between += if inside { written } else { 0 };
            all += written;
            largest = largest.max(written + read);
        }
        let (cache, copies) = if divided { (IN_CACHE, 1) } else { (IN_SHARED_CACHE, 2) };
        if between < WORTH_IT * cache * copies || between < copies * crossing {
            return None;
        }
        let weights: usize = self.invariants.iter().map(bytes).sum();
        let of_weights = (OVER_WEIGHTS * weights).div_ceil((all / self.steps).max(1));
        let piece = (cache * self.steps / largest).max(of_weights).max(1);
        // Pieces of one size where that does not make them much smaller.
        let whole = (piece.div_ceil(2)..=piece).rev().find(|n| self.steps.is_multiple_of(*n));
        (2 * piece <= self.steps).then(|| whole.unwrap_or(piece))
    }

    /// The graph with the loop, and which node that is.
    fn rewritten(&self) -> (Graph, NodeId) {
        let mut new = Graph::new(self.graph.name.clone());
        new.parameters.clone_from(&self.graph.parameters);
        let mut known: HashMap<Value, Value> = HashMap::new();
        self.copy(&mut new, Place::Before, &mut known);
        let (id, last) = self.add_loop(&mut new, &known);
        known.extend(last);
        self.copy(&mut new, Place::After, &mut known);
        new.take_roots(self.graph, &known);
        debug_assert!(snn_ir::verify(&new).is_ok(), "pieces are well-typed: {:?}", snn_ir::verify(&new));
        (new, id)
    }

    /// Copies the nodes of a place as they are.
    fn copy(&self, new: &mut Graph, place: Place, known: &mut HashMap<Value, Value>) {
        for (id, node) in self.nodes(place) {
            let operands = node.operands.iter().map(|v| known[v]).collect();
            let copy = new.push(Node { operands, ..node.clone() });
            known.extend(self.graph.results(id).zip(new.results(copy)));
        }
    }

    /// The type of a piece of a sequence.
    fn type_of(ty: &Type, steps: usize) -> Type {
        let mut ty = ty.clone();
        ty.shape[0] = (steps as i64).into();
        ty
    }

    /// Adds the loop over whole pieces, and the steps that are left over, to the graph with what comes before them. Gives what stands for the outputs.
    fn add_loop(&self, new: &mut Graph, known: &HashMap<Value, Value>) -> (NodeId, HashMap<Value, Value>) {
        let (pieces, rest) = (self.steps / self.piece, self.steps % self.piece);
        let whole = pieces * self.piece;
        let mut body = Graph::new(format!("{} in pieces", self.graph.name));
        let mut inside = Known::default();
        let mut operands = Vec::new();
        for v in &self.sequences {
            let ty = Self::type_of(self.graph.ty(*v), self.piece);
            let slice = Type::new(ty.dtype, [&[Dim::from(1)], &ty.shape[..]].concat());
            let input = body.add_input(format!("in{}", body.inputs.len()), slice);
            inside.sequences.insert(*v, Build(&mut body).reshape(input, ty.shape.clone()));
            let mut all = known[v];
            if rest > 0 {
                all = Build(new).slice(all, 0, 0.into(), (whole as i64).into());
            }
            operands.push(Build(new).reshape(all, [&[Dim::from(pieces as i64)], &ty.shape[..]].concat()));
        }
        for v in &self.invariants {
            let input = body.add_input(format!("in{}", body.inputs.len()), self.graph.ty(*v).clone());
            // Users call it as the parameter, so that profiles find the layer.
            if let Op::Parameter { name, .. } = self.graph.op(*v) {
                body.node_mut(input.node).name = Some(name.clone());
            }
            inside.invariants.insert(*v, input);
            operands.push(known[v]);
        }
        let first: Vec<Value> = self.first_states(new, known);
        let states = first.iter().map(|v| body.add_input(format!("in{}", body.inputs.len()), new.ty(*v).clone())).collect();
        let next = self.piece_of(&mut body, self.piece, &mut inside, states);
        let sequences: Vec<Value> = self.outputs.iter().copied().filter(|v| !self.is_last_state(*v)).collect();
        for v in &sequences {
            let shape = [&[Dim::from(1)], &body.ty(inside.sequences[v]).shape[..]].concat();
            let output = Build(&mut body).reshape(inside.sequences[v], shape);
            body.outputs.push((format!("out{}", body.outputs.len()), output));
        }
        body.outputs.extend(next.iter().enumerate().map(|(i, v)| (format!("next{i}"), *v)));
        operands.extend(&first);
        let outputs = sequences.len();
        let roles = Roles { sequences: self.sequences.len(), invariants: self.invariants.len(), states: first.len(), outputs };
        let node = Op::Loop(Box::new(Loop { roles, reverse: false, steps: (pieces as i64).into(), body }));
        let Ok(id) = new.try_add(node, &operands) else { unreachable!("a loop over pieces is well-typed") };
        let results: Vec<Value> = new.results(id).collect();
        let mut found = HashMap::new();
        for (v, result) in sequences.iter().zip(&results) {
            found.insert(*v, Build(new).reshape(*result, Self::type_of(self.graph.ty(*v), whole).shape));
        }
        let mut last = results[outputs..].to_vec();
        if rest > 0 {
            let mut own = Known::default();
            for v in &self.sequences {
                own.sequences.insert(*v, Build(new).slice(known[v], 0, (whole as i64).into(), (rest as i64).into()));
            }
            own.invariants.extend(self.invariants.iter().map(|v| (*v, known[v])));
            last = self.piece_of(new, rest, &mut own, last);
            for v in &sequences {
                found.insert(*v, new.add(Op::Concat { axis: 0 }, &[found[v], own.sequences[v]]));
            }
        }
        for (v, state) in self.states().zip(last) {
            found.extend(v.map(|v| (v, state)));
        }
        (id, found)
    }

    /// The nodes of a place in order.
    fn nodes(&self, place: Place) -> impl Iterator<Item = (NodeId, &'a Node)> {
        self.graph.nodes().filter(move |(id, _)| self.places[id.index()] == place)
    }

    fn inside(&self) -> impl Iterator<Item = (NodeId, &'a Node)> {
        self.nodes(Place::Inside)
    }

    /// The states in order: the result that is a scan's after its last step, or nothing for the steps that a delay keeps.
    fn states(&self) -> impl Iterator<Item = Option<Value>> {
        self.inside().flat_map(|(id, node)| {
            if let Op::Scan(s) = &node.op {
                self.graph.results(id).skip(s.roles.outputs).map(Some).collect()
            } else if let Op::Delay { .. } = &node.op {
                vec![None]
            } else {
                vec![]
            }
        })
    }

    /// What the states are before the first step.
    fn first_states(&self, new: &mut Graph, known: &HashMap<Value, Value>) -> Vec<Value> {
        let mut states = Vec::new();
        for (_, node) in self.inside() {
            if let Op::Scan(s) = &node.op {
                for (v, ty) in node.operands[s.roles.first_state()..].iter().zip(&node.types[s.roles.outputs..]) {
                    let (first, rank) = (known[v], self.graph.ty(*v).rank());
                    let axes = (ty.rank() - rank..ty.rank()).collect();
                    states.push(if new.ty(first) == ty { first } else { Build(new).broadcast(first, axes, ty.shape.clone()) });
                }
            } else if let Op::Delay { steps } = &node.op {
                let ty = Self::type_of(&node.types[0], usize::try_from(*steps).unwrap_or(0));
                states.push(Build(new).full(0.0, &ty));
            }
        }
        states
    }

    /// The chain for some steps; gives the states after them.
    fn piece_of(&self, target: &mut Graph, steps: usize, known: &mut Known, states: Vec<Value>) -> Vec<Value> {
        let (mut states, mut next) = (states.into_iter(), Vec::new());
        for (id, node) in self.inside() {
            let mut operands: Vec<Value> = Vec::with_capacity(node.operands.len());
            let given = Self::given(node);
            for (i, v) in node.operands[..given].iter().enumerate() {
                operands.push(match self.steps_axis(node, i) {
                    Some(_) => self.sequence(target, *v, steps, known),
                    None => self.invariant(target, *v, known),
                });
            }
            if let Op::Delay { steps: by } = &node.op {
                let before = states.next().into_iter();
                let joined = target.add(Op::Concat { axis: 0 }, &before.chain(operands).collect::<Vec<_>>());
                let steps = Dim::from(steps as i64);
                known.sequences.insert(Value { node: id, result: 0 }, Build(target).slice(joined, 0, 0.into(), steps.clone()));
                next.push(Build(target).slice(joined, 0, steps, (*by).into()));
                continue;
            }
            operands.extend(states.by_ref().take(node.operands.len() - given));
            let outputs = Self::sequences_of(node);
            let types = node.types.iter().enumerate().map(|(i, ty)| if i < outputs { Self::type_of(ty, steps) } else { ty.clone() });
            let copy = target.push(Node { operands, ..node.clone() }.with_types(types.collect()));
            next.extend(target.results(copy).skip(outputs));
            known.sequences.extend(self.graph.results(id).zip(target.results(copy)));
        }
        next
    }

    /// What stands for a sequence in a piece.
    fn sequence(&self, target: &mut Graph, v: Value, steps: usize, known: &Known) -> Value {
        if let Some(own) = known.sequences.get(&v) {
            return *own;
        }
        let node = self.graph.node(v.node);
        let operands = vec![self.invariant(target, node.operands[0], known)];
        let types = vec![Self::type_of(&node.types[0], steps)];
        Value { node: target.push(Node { operands, ..node.clone() }.with_types(types)), result: 0 }
    }

    /// What stands for something that is the same at all steps.
    fn invariant(&self, target: &mut Graph, v: Value, known: &Known) -> Value {
        if !self.is_view(v) {
            return known.invariants[&v];
        }
        let node = self.graph.node(v.node);
        let operands = node.operands.iter().map(|v| self.invariant(target, *v, known)).collect();
        Value { node: target.push(Node { operands, ..node.clone() }), result: v.result }
    }
}

/// What stands for the values that a piece reads and computes.
#[derive(Default)]
struct Known {
    sequences: HashMap<Value, Value>,
    invariants: HashMap<Value, Value>,
}

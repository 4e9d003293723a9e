//! The optimiser: egg rewrites of the whole graph.
//!
//! A graph becomes an e-graph ([`enode`]), the [`rules`] add what is equal, and the cheapest graph is read back ([`extract`],
//! [`cost`]). [`facts`] says what is known about a value: its type, a constant, that it is binary, by how much it is delayed.
//!
//! # The rules of the rules
//!
//! * A rule is data: what it looks for, what equals that, and why. One file for each topic, see [`rules::TOPICS`].
//! * An *exact* rule keeps every bit of the result on the interpreter. A *fast* rule may round differently and needs
//!   [`Options::fast_math`]. Tests hold each rule to that, on numbers that include NaN, infinities and `-0`.
//! * Side conditions are facts, checked and not hoped. One fact is checked later: where a rule takes a parameter to be
//!   finite, [`Optimised::finite`] names it, and who loads the parameter looks, or optimises again without that.
//! * Gradients are made before: the optimiser need not keep what only a derivative would see.
//! * Large graphs are cut into pieces of a thousand operations where few values cross, so that time and memory stay linear.

// A new operation must be looked at wherever operations are matched.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod cost;
pub mod enode;
pub mod extract;
pub mod facts;
pub mod report;
pub mod rule;
pub mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use egg::{Id, Rewrite, Runner, SimpleScheduler, StopReason};
use snn_ir::describe::Structure;
use snn_ir::{Graph, Node, NodeId, Op, Value};

use crate::cost::term_cost;
use crate::enode::{ENode, Name};
use crate::facts::{FactAnalysis, Terms, add, operation};
pub use crate::report::{Fired, Report};
pub use crate::rule::{Find, Replace, Rule, Set};

/// How to optimise.
#[derive(Clone, Debug)]
pub struct Options {
    /// Use the fast rules too.
    pub fast_math: bool,
    /// May rules take parameters to be finite? They are named in [`Optimised::finite`].
    pub assume_finite: bool,
    /// How many rounds of rules a piece may take.
    pub iterations: usize,
    /// How many terms a piece may grow to.
    pub terms: usize,
    /// How long a piece may take.
    pub time: Duration,
    /// Use only these rules, if any are named.
    pub only: Vec<&'static str>,
    /// Do not use these rules.
    pub without: Vec<&'static str>,
    /// Take what rules have made wherever there is something, whatever it costs: for tests of rules.
    pub prefer_new: bool,
    /// Find out what each rule saves and why the results are equal.
    pub explain: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            fast_math: false,
            assume_finite: true,
            iterations: 64,
            terms: 40_000,
            time: Duration::from_secs(2),
            only: vec![],
            without: vec![],
            prefer_new: false,
            explain: false,
        }
    }
}

/// A graph with what is to be known about it.
#[derive(Clone, Debug)]
pub struct Optimised {
    /// The graph.
    pub graph: Graph,
    /// Parameters that must be finite for the graph to equal the original.
    pub finite: BTreeSet<String>,
    /// What was done.
    pub report: Report,
}

/// A rule is wrong: two terms of different types were made equal, or an ill-typed one was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rule of the optimiser is wrong: {0}; please report it, and use --no-opt until it is fixed")]
pub struct WrongRule(pub String);

/// Operations in one piece.
const PIECE: usize = 1000;

/// Optimises a graph with the rules of this crate.
///
/// # Errors
/// If a rule is wrong.
pub fn optimise(graph: &Graph, options: &Options) -> Result<Optimised, WrongRule> {
    if !options.only.is_empty() || !options.without.is_empty() {
        let chosen: Vec<Rule> = rules::all().copied().collect();
        return optimise_with(graph, options, &chosen);
    }
    run(graph, options, standard(options.fast_math), None)
}

/// The rules of this crate for egg, made once.
fn standard(fast_math: bool) -> &'static [Rewrite<ENode, FactAnalysis>] {
    static EXACT: OnceLock<Vec<Rewrite<ENode, FactAnalysis>>> = OnceLock::new();
    static ALL: OnceLock<Vec<Rewrite<ENode, FactAnalysis>>> = OnceLock::new();
    if fast_math {
        ALL.get_or_init(|| rules::all().map(Rule::rewrite).collect())
    } else {
        EXACT.get_or_init(|| rules::all().filter(|r| r.set == Set::Exact).map(Rule::rewrite).collect())
    }
}

/// Optimises a graph with the given rules.
///
/// # Errors
/// If a rule is wrong.
pub fn optimise_with(graph: &Graph, options: &Options, rules: &[Rule]) -> Result<Optimised, WrongRule> {
    let allowed = |r: &&Rule| {
        (options.only.is_empty() || options.only.contains(&r.name))
            && !options.without.contains(&r.name)
            && (options.fast_math || r.set == Set::Exact)
    };
    let rewrites: Vec<Rewrite<ENode, FactAnalysis>> = rules.iter().filter(allowed).map(Rule::rewrite).collect();
    run(graph, options, &rewrites, Some(rules))
}

/// The e-graph of a small program after all rules, for Graphviz.
///
/// # Errors
/// If a rule is wrong.
pub fn e_graph_dot(graph: &Graph, options: &Options) -> Result<String, WrongRule> {
    let graph = graph.pruned();
    let mut state = State::new(options, standard(options.fast_math));
    let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    let piece = state.saturate(&graph, &ids, &graph.live_nodes())?;
    Ok(piece.terms.dot().to_string())
}

fn run(
    graph: &Graph,
    options: &Options,
    rewrites: &[Rewrite<ENode, FactAnalysis>],
    rules: Option<&[Rule]>,
) -> Result<Optimised, WrongRule> {
    let started = Instant::now();
    let pruned = graph.pruned();
    let mut state = State::new(options, rewrites);
    let result = state.graph(&pruned)?;
    if cfg!(debug_assertions) {
        snn_ir::verify(&result).map_err(|e| WrongRule(e.to_string()))?;
    }
    let State { finite, mut report, .. } = state;
    report.before = cost::totals(&pruned);
    report.after = cost::totals(&result);
    report.time = started.elapsed();
    if options.explain {
        report.find_savings(graph, options, rules)?;
    }
    Ok(Optimised { graph: result, finite, report })
}

struct State<'a> {
    options: &'a Options,
    rewrites: &'a [Rewrite<ENode, FactAnalysis>],
    finite: BTreeSet<String>,
    report: Report,
    /// How many graphs are around the one at hand.
    depth: usize,
    /// Values of the original graph that are binary and cross from one piece to another.
    binary: HashSet<Value>,
}

/// The e-graph of a piece.
struct Piece {
    terms: Terms,
    /// The class of each value of the original graph that the piece knows.
    classes: HashMap<Value, Id>,
    /// The class of each node, for its name.
    named: Vec<(Id, NodeId)>,
    /// The terms before any rule.
    original: HashSet<ENode>,
}

/// What users call a class, and where it is written.
type Names = HashMap<Id, (Option<String>, Option<snn_ir::SourceSpan>)>;

impl Piece {
    fn names(&self, graph: &Graph) -> Names {
        let mut names = Names::new();
        for (class, id) in &self.named {
            let (node, class) = (graph.node(*id), self.terms.find(*class));
            let entry = names.entry(class).or_default();
            entry.0 = entry.0.take().or_else(|| node.name.clone());
            entry.1 = entry.1.or(node.span);
        }
        names
    }
}

impl<'a> State<'a> {
    fn new(options: &'a Options, rewrites: &'a [Rewrite<ENode, FactAnalysis>]) -> State<'a> {
        State { options, rewrites, finite: BTreeSet::new(), report: Report::default(), depth: 0, binary: HashSet::new() }
    }

    fn graph(&mut self, graph: &Graph) -> Result<Graph, WrongRule> {
        let live = graph.live_nodes();
        let mut out = Output::new(graph);
        let order: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let cuts = cuts(graph, &live);
        for range in cuts.windows(2) {
            let ids = &order[range[0]..range[1]];
            let mut piece = self.saturate(graph, ids, &live)?;
            let wanted = wanted(graph, ids, &live);
            let original = &piece.original;
            let prefer_new = self.options.prefer_new;
            let terms = &piece.terms;
            let read_whole = cost::read_whole(terms, wanted.iter().map(|v| piece.classes[v]));
            let roots: Vec<Id> = wanted.iter().map(|v| piece.classes[v]).collect();
            let chosen = extract::extract(terms, &roots, |term, class| {
                let penalty = prefer_new && terms[class].nodes.len() > 1 && original.contains(term);
                term_cost(terms, term, class, &read_whole) + if penalty { 1e15 } else { 0.0 }
            });
            let names = piece.names(graph);
            let mut made = HashMap::new();
            for v in &wanted {
                let class = piece.terms.find(piece.classes[v]);
                if piece.terms[class].data.is_binary() {
                    self.binary.insert(*v);
                }
                let value = out.build(&piece.terms, &names, &chosen, class, &mut made);
                out.values.insert(*v, value);
            }
            if self.options.explain && self.depth == 0 && ids.len() <= 200 {
                self.report.explain(&mut piece.terms, &chosen, &wanted.iter().map(|v| piece.classes[v]).collect::<Vec<_>>());
            }
        }
        let mut graph = out.finish(graph).pruned();
        // Step functions and loops, each as a graph by itself. They come after, because settings move into them.
        self.depth += 1;
        // Equal layers have equal step functions, each of which is optimised once, unless somebody wants to hear of all.
        let mut known: HashMap<Structure, Graph> = HashMap::new();
        for i in 0..graph.len() {
            // A derivative is not computed here.
            let op = &mut graph.node_mut(NodeId(i as u32)).op;
            let structure = matches!(op, Op::Scan(_)).then(|| op.structure());
            if let (Op::Scan(s), Some(structure)) = (&mut *op, structure) {
                let body = match known.get(&structure) {
                    Some(body) if !self.options.explain => body.clone(),
                    _ => {
                        let body = self.graph(&s.body)?;
                        known.insert(structure, body.clone());
                        body
                    }
                };
                Arc::make_mut(s).body = body;
            } else if let Op::Loop(l) = op {
                l.body = self.graph(&l.body)?;
            }
        }
        self.depth -= 1;
        Ok(graph)
    }

    fn saturate(&mut self, graph: &Graph, ids: &[NodeId], live: &[bool]) -> Result<Piece, WrongRule> {
        let analysis = FactAnalysis { assume_finite: self.options.assume_finite, ..FactAnalysis::default() };
        let mut terms = Terms::new(analysis);
        if self.options.explain {
            terms = terms.with_explanations_enabled();
        }
        let mut classes: HashMap<Value, Id> = HashMap::new();
        let mut named = Vec::new();
        let inside: HashSet<NodeId> = ids.iter().copied().collect();
        for id in ids.iter().filter(|id| live[id.index()]) {
            let node = graph.node(*id);
            let mut operands = Vec::with_capacity(node.operands.len());
            for v in &node.operands {
                let class = match classes.get(v) {
                    Some(class) => *class,
                    None => {
                        debug_assert!(!inside.contains(&v.node));
                        let class = self.outside_value(&mut terms, graph, *v);
                        classes.insert(*v, class);
                        class
                    }
                };
                operands.push(class);
            }
            let class = add(&mut terms, node.op.clone(), &operands);
            named.push((class, *id));
            if matches!(node.op, Op::Scan(_) | Op::Loop(_)) {
                for v in graph.results(*id) {
                    let result = terms.add(ENode { name: Name::Result(v.result), children: vec![class] });
                    classes.insert(v, result);
                }
            } else {
                classes.insert(Value { node: *id, result: 0 }, class);
            }
        }
        terms.rebuild();
        let original: HashSet<ENode> = if self.options.prefer_new || self.options.explain {
            terms.classes().flat_map(|c| c.nodes.iter().cloned()).collect()
        } else {
            HashSet::new()
        };
        let runner = Runner::<ENode, FactAnalysis>::new(FactAnalysis::default())
            .with_egraph(terms)
            .with_scheduler(SimpleScheduler)
            .with_iter_limit(self.options.iterations)
            .with_node_limit(self.options.terms)
            .with_time_limit(self.options.time)
            .run(self.rewrites);
        for iteration in &runner.iterations {
            for (rule, count) in &iteration.applied {
                self.report.count(rule.as_str(), *count);
            }
        }
        match &runner.stop_reason {
            Some(StopReason::Saturated) | None => {}
            Some(limit) => self.report.limit(limit),
        }
        self.report.iterations += runner.iterations.len();
        let terms = runner.egraph;
        self.report.terms += terms.total_number_of_nodes();
        self.report.folded += terms.analysis.folded;
        if let Some(problem) = terms.analysis.problems.first() {
            return Err(WrongRule(problem.clone()));
        }
        self.finite.extend(terms.analysis.assumed.iter().cloned());
        // Names of terms refer to canonical classes from here on.
        let original = original.into_iter().map(|t| canonical(&terms, t)).collect();
        Ok(Piece { terms, classes, named, original })
    }

    /// A value that another piece computes.
    fn outside_value(&mut self, terms: &mut Terms, graph: &Graph, v: Value) -> Id {
        let op = graph.op(v);
        // What costs nothing is known everywhere.
        if matches!(op, Op::Input { .. } | Op::Parameter { .. } | Op::Constant(_) | Op::Size(_)) {
            return add(terms, op.clone(), &[]);
        }
        let name = outside_name(v);
        if self.binary.contains(&v) {
            terms.analysis.binary_inputs.insert(name.clone());
        }
        add(terms, Op::Input { name, ty: graph.ty(v).clone() }, &[])
    }
}

fn canonical(terms: &Terms, mut term: ENode) -> ENode {
    term.children.iter_mut().for_each(|c| *c = terms.find(*c));
    term
}

/// No name in a program has a space.
fn outside_name(v: Value) -> String {
    format!("value {} {}", v.node.0, v.result)
}

/// Where the graph is cut: near each thousandth operation, where the fewest values cross.
fn cuts(graph: &Graph, live: &[bool]) -> Vec<usize> {
    let n = graph.len();
    if live.iter().filter(|l| **l).count() <= PIECE + PIECE / 4 {
        return vec![0, n];
    }
    let mut last_use: Vec<usize> = (0..n).collect();
    for (id, node) in graph.nodes().filter(|(id, _)| live[id.index()]) {
        for v in &node.operands {
            last_use[v.node.index()] = id.index();
        }
    }
    // How many values are alive after each node.
    let mut change = vec![0i64; n + 1];
    for (i, last) in last_use.iter().enumerate().filter(|(i, _)| live[*i]) {
        change[i] += 1;
        change[*last] -= 1;
    }
    let mut crossing = Vec::with_capacity(n);
    let mut alive = 0;
    for c in &change[..n] {
        alive += c;
        crossing.push(alive);
    }
    let mut cuts = vec![0];
    let mut at = 0;
    while n - at > PIECE + PIECE / 4 {
        let window = at + PIECE..(at + PIECE + PIECE / 4).min(n - 1);
        let best = window.min_by_key(|i| crossing[*i]).unwrap_or(n - 1);
        at = best + 1;
        cuts.push(at);
    }
    cuts.push(n);
    cuts
}

/// The values of a piece that are needed outside of it.
fn wanted(graph: &Graph, ids: &[NodeId], live: &[bool]) -> Vec<Value> {
    let inside: HashSet<NodeId> = ids.iter().copied().collect();
    let mut wanted: BTreeSet<Value> = graph.roots().filter(|v| inside.contains(&v.node)).collect();
    let last = ids.last().map_or(0, |id| id.index());
    for (_, node) in graph.nodes().skip(last + 1).filter(|(id, _)| live[id.index()]) {
        wanted.extend(node.operands.iter().filter(|v| inside.contains(&v.node)));
    }
    wanted.into_iter().collect()
}

/// The graph that is being made.
struct Output {
    graph: Graph,
    /// The new value of each value of the original graph that crosses pieces.
    values: HashMap<Value, Value>,
    /// Inputs, parameters and constants: once each.
    leaves: HashMap<enode::Attributes, Value>,
}

impl Output {
    fn new(original: &Graph) -> Output {
        let mut graph = Graph::new(original.name.clone());
        let mut leaves = HashMap::new();
        for v in &original.inputs {
            let node = original.node(v.node).clone();
            let attributes = enode::Attributes::new(node.op.clone());
            let value = Value { node: graph.push(node), result: 0 };
            graph.inputs.push(value);
            leaves.insert(attributes, value);
        }
        graph.parameters = original.parameters.clone();
        Output { graph, values: HashMap::new(), leaves }
    }

    /// Appends what computes a class, unless it is there.
    fn build(&mut self, terms: &Terms, names: &Names, chosen: &BTreeMap<Id, ENode>, root: Id, made: &mut HashMap<Id, Value>) -> Value {
        let mut stack = vec![root];
        while let Some(class) = stack.last().copied() {
            if made.contains_key(&class) {
                stack.pop();
                continue;
            }
            let term = &chosen[&class];
            let operands: Vec<Id> = match (&term.name, operation(terms, term)) {
                (_, Some((_, _, operands))) => operands.iter().map(|v| terms.find(*v)).collect(),
                _ => term.children.iter().map(|v| terms.find(*v)).collect(),
            };
            let missing: Vec<Id> = operands.iter().filter(|v| !made.contains_key(v)).copied().collect();
            if !missing.is_empty() {
                stack.extend(missing.into_iter().rev());
                continue;
            }
            stack.pop();
            let value = match &term.name {
                Name::Result(i) => Value { node: made[&operands[0]].node, result: *i },
                Name::Op(_) | Name::Attributes(_) => {
                    self.node(terms, names, term, class, &operands.iter().map(|v| made[v]).collect::<Vec<_>>())
                }
            };
            made.insert(class, value);
        }
        made[&root]
    }

    fn node(&mut self, terms: &Terms, names: &Names, term: &ENode, class: Id, operands: &[Value]) -> Value {
        let Some((op, attributes, _)) = operation(terms, term) else { unreachable!("only operations are chosen") };
        let types = terms[class].data.types.clone();
        if let Some(v) = outside(&op) {
            return self.values[&v];
        }
        if let (Some(attributes), true) = (&attributes, operands.is_empty())
            && let Some(v) = self.leaves.get(attributes)
        {
            return *v;
        }
        let (name, span) = names.get(&class).cloned().unwrap_or_default();
        let node = Node { op, operands: operands.to_vec(), types, name, span };
        let value = Value { node: self.graph.push(node), result: 0 };
        if let (Some(attributes), true) = (attributes, operands.is_empty()) {
            self.leaves.insert(attributes, value);
        }
        value
    }

    fn finish(mut self, original: &Graph) -> Graph {
        let mapped = |v: &Value| self.values[v];
        self.graph.outputs = original.outputs.iter().map(|(n, v)| (n.clone(), mapped(v))).collect();
        self.graph.updates = original.updates.iter().map(|(n, v)| (n.clone(), mapped(v))).collect();
        self.graph
    }
}

/// The value of the original graph that an input of a piece stands for.
fn outside(op: &Op) -> Option<Value> {
    let Op::Input { name, .. } = op else { return None };
    let mut words = name.strip_prefix("value ")?.split(' ');
    let node = NodeId(words.next()?.parse().ok()?);
    Some(Value { node, result: words.next()?.parse().ok()? })
}

//! What the optimiser did, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use egg::{Id, RecExpr, StopReason};
use snn_ir::Graph;

use crate::cost::Totals;
use crate::enode::ENode;
use crate::facts::Terms;
use crate::rule::Rule;
use crate::{Options, WrongRule, optimise_with, rules};

/// How often a rule fired.
#[derive(Clone, Debug, PartialEq)]
pub struct Fired {
    /// The rule.
    pub rule: String,
    /// How many new equalities it found.
    pub count: usize,
    /// Operations that the result would have more without it; known where it was asked for.
    pub operations: Option<i64>,
    /// Bytes that the result would write more without it.
    pub bytes: Option<f64>,
}

/// What the optimiser did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Rules that fired, by name.
    pub fired: Vec<Fired>,
    /// How many values turned out to be constants.
    pub folded: usize,
    /// The graph before, without what nobody uses.
    pub before: Totals,
    /// The graph after.
    pub after: Totals,
    /// Rounds of rules, over all pieces.
    pub iterations: usize,
    /// Terms in all e-graphs.
    pub terms: usize,
    /// Limits that were hit.
    pub limits: Vec<String>,
    /// How long it took.
    pub time: Duration,
    /// Why outputs equal what they were, step by step.
    pub explanations: Vec<String>,
}

/// The most terms of an expression whose equality is explained.
const LONGEST_EXPLAINED: usize = 80;

impl Report {
    pub(crate) fn count(&mut self, rule: &str, count: usize) {
        match self.fired.iter_mut().find(|f| f.rule == rule) {
            Some(f) => f.count += count,
            None if count > 0 => self.fired.push(Fired { rule: rule.into(), count, operations: None, bytes: None }),
            None => {}
        }
    }

    pub(crate) fn limit(&mut self, reason: &StopReason) {
        let text = match reason {
            StopReason::IterationLimit(n) => format!("stopped after {n} rounds of rules"),
            StopReason::NodeLimit(n) => format!("stopped at {n} terms"),
            StopReason::TimeLimit(s) => format!("stopped after {s:.1} s"),
            StopReason::Saturated | StopReason::Other(_) => format!("stopped: {reason:?}"),
        };
        if !self.limits.contains(&text) {
            self.limits.push(text);
        }
    }

    /// Says why the chosen terms of some classes equal the original ones.
    pub(crate) fn explain(&mut self, terms: &mut Terms, chosen: &BTreeMap<Id, ENode>, roots: &[Id]) {
        for root in roots {
            let before = terms.id_to_expr(*root);
            let Some(after) = expression(terms, chosen, terms.find(*root)) else { continue };
            if before == after || before.len().max(after.len()) > LONGEST_EXPLAINED {
                continue;
            }
            self.explanations.push(terms.explain_equivalence(&before, &after).get_string_with_let());
        }
    }

    /// Optimises again without each rule that fired.
    pub(crate) fn find_savings(&mut self, graph: &Graph, options: &Options, all: Option<&[Rule]>) -> Result<(), WrongRule> {
        let all: Vec<Rule> = all.map_or_else(|| rules::all().copied().collect(), <[Rule]>::to_vec);
        for fired in &mut self.fired {
            let Some(rule) = all.iter().find(|r| r.name == fired.rule) else { continue };
            let mut options = Options { explain: false, ..options.clone() };
            options.without.push(rule.name);
            let without = optimise_with(graph, &options, &all)?.report.after;
            fired.operations = Some(without.operations as i64 - self.after.operations as i64);
            fired.bytes = Some(without.bytes - self.after.bytes);
        }
        Ok(())
    }
}

/// The chosen terms below a class as one expression.
fn expression(terms: &Terms, chosen: &BTreeMap<Id, ENode>, root: Id) -> Option<RecExpr<ENode>> {
    let mut expression = RecExpr::default();
    let mut made: BTreeMap<Id, Id> = BTreeMap::new();
    let mut stack = vec![root];
    while let Some(class) = stack.last().copied() {
        if made.contains_key(&class) {
            stack.pop();
            continue;
        }
        let mut term = chosen.get(&class)?.clone();
        let children: Vec<Id> = term.children.iter().map(|c| terms.find(*c)).collect();
        let missing: Vec<Id> = children.iter().filter(|c| !made.contains_key(c)).copied().collect();
        if !missing.is_empty() {
            stack.extend(missing);
            continue;
        }
        stack.pop();
        term.children = children.iter().map(|c| made[c]).collect();
        made.insert(class, expression.add(term));
    }
    Some(expression)
}

/// Bytes as people write them.
fn bytes(n: f64) -> String {
    let sign = if n < 0.0 { "-" } else { "" };
    match n.abs() {
        n if n >= 1e9 => format!("{sign}{:.2} GB", n / 1e9),
        n if n >= 1e6 => format!("{sign}{:.2} MB", n / 1e6),
        n if n >= 1e3 => format!("{sign}{:.2} kB", n / 1e3),
        n => format!("{sign}{n:.0} bytes"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "operations {} -> {}", self.before.operations, self.after.operations)?;
        writeln!(f, "written    {} -> {}", bytes(self.before.bytes), bytes(self.after.bytes))?;
        writeln!(f, "rounds     {}, {} terms, {} constants found", self.iterations, self.terms, self.folded)?;
        for limit in &self.limits {
            writeln!(f, "limit      {limit}; the result is the best until then")?;
        }
        if self.fired.is_empty() {
            writeln!(f, "no rule fired")?;
        } else {
            writeln!(f, "{:<28} {:>6}  saves", "rule", "fired")?;
        }
        for rule in &self.fired {
            write!(f, "{:<28} {:>6}", rule.rule, rule.count)?;
            match (rule.operations, rule.bytes) {
                (Some(0), Some(0.0)) => writeln!(f, "  nothing by itself")?,
                (Some(n), Some(b)) => writeln!(f, "  {n} operations, {}", bytes(b))?,
                _ => writeln!(f)?,
            }
        }
        for (i, why) in self.explanations.iter().enumerate() {
            writeln!(f, "\nwhy value {i} equals what it was:\n{why}")?;
        }
        Ok(())
    }
}

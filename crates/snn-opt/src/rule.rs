//! What a rule is, and how egg runs it.

use egg::{Applier, Id, Language, Pattern, PatternAst, Rewrite, SearchMatches, Searcher, Subst, Symbol, Var};
use snn_ir::{Op, Tensor, Type};

use crate::enode::{ENode, Name, elementwise_names};
use crate::facts::{FactAnalysis, Facts, Terms, add, operation};

/// Does a rule keep every bit?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// The result is the same to the bit on the interpreter; a NaN stays a NaN.
    Exact,
    /// The result may round differently: only with `--fast-math`.
    Fast,
}

/// A rewrite rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// Exact or fast.
    pub set: Set,
    /// Why it is true.
    pub why: &'static str,
    /// What it looks for.
    pub find: Find,
    /// What that equals.
    pub replace: Replace,
}

/// What a rule looks for.
#[derive(Clone, Copy)]
pub enum Find {
    /// A pattern.
    Pattern(&'static str),
    /// Every term with one of these names, for operations with any number of operands; `result` is any result of a scan.
    Each(&'static [&'static str]),
    /// Every elementwise operation.
    Elementwise,
}

/// What a rule puts in place.
#[derive(Clone, Copy)]
pub enum Replace {
    /// A pattern.
    Pattern(&'static str),
    /// A pattern, where a condition holds.
    When(fn(&Context<'_>) -> bool, &'static str),
    /// A term that is computed, or nothing.
    Build(fn(&mut Context<'_>) -> Option<Id>),
}

/// Where a rule has matched.
pub struct Context<'a> {
    /// The e-graph.
    pub terms: &'a mut Terms,
    /// The class that matched.
    pub class: Id,
    subst: &'a Subst,
    /// The term that matched, for [`Find::Each`].
    pub term: Option<ENode>,
}

impl Context<'_> {
    /// The class of a variable of the pattern.
    ///
    /// # Panics
    /// If the pattern has no such variable.
    pub fn id(&self, var: &str) -> Id {
        match var.parse::<Var>() {
            Ok(v) => self.subst[v],
            Err(e) => panic!("`{var}` is not a variable: {e}"),
        }
    }

    /// What is known about a variable.
    pub fn facts(&self, var: &str) -> &Facts {
        &self.terms[self.id(var)].data
    }

    /// The type of a variable.
    pub fn ty(&self, var: &str) -> Type {
        self.facts(var).ty().clone()
    }

    /// The type of what matched.
    pub fn own_type(&self) -> Type {
        self.terms[self.class].data.types[0].clone()
    }

    /// The operation whose attributes a variable is.
    pub fn op(&self, var: &str) -> Option<Op> {
        self.facts(var).attributes.as_ref().map(|s| s.op().clone())
    }

    /// The operation and operands of the term that matched.
    pub fn operation(&self) -> Option<(Op, Vec<Id>)> {
        operation(self.terms, self.term.as_ref()?).map(|(op, _, operands)| (op, operands))
    }

    /// The first of a class's operations, with its operands, of which `f` makes something. Of a large class only the first are looked at: where a long
    /// chain has become one class, each link would look at all of it.
    pub fn find<T>(&self, id: Id, mut f: impl FnMut(Op, &[Id]) -> Option<T>) -> Option<T> {
        self.terms[id]
            .nodes
            .iter()
            .take(MOST_LOOKED_AT)
            .filter_map(|term| operation(self.terms, term))
            .find_map(|(op, _, operands)| f(op, &operands))
    }

    /// Adds an operation.
    pub fn add(&mut self, op: Op, operands: &[Id]) -> Id {
        add(self.terms, op, operands)
    }

    /// Adds a result of a scan or loop.
    pub fn result(&mut self, of: Id, index: u16) -> Id {
        self.terms.add(ENode { name: Name::Result(index), children: vec![of] })
    }

    /// Adds a value of a given type whose every element is `x`.
    pub fn filled(&mut self, x: Tensor, ty: &Type) -> Id {
        let scalar = self.add(Op::Constant(x), &[]);
        if ty.rank() == 0 { scalar } else { self.add(Op::Broadcast { axes: vec![], shape: ty.shape.clone() }, &[scalar]) }
    }

    /// May a class be taken to be finite? If so, remembers what must be checked.
    pub fn take_finite(&mut self, id: Id) -> bool {
        let Some(parameters) = self.terms[id].data.finite.clone() else { return false };
        self.terms.analysis.assumed.extend(parameters);
        true
    }
}

/// How many operations of a class a rule looks at.
const MOST_LOOKED_AT: usize = 16;

impl Rule {
    /// The rule for egg.
    ///
    /// # Panics
    /// If a pattern is malformed.
    pub fn rewrite(&self) -> Rewrite<ENode, FactAnalysis> {
        let replace = match self.replace {
            Replace::Pattern(p) => Prepared::Pattern(pattern(p)),
            Replace::When(condition, p) => Prepared::When(condition, pattern(p)),
            Replace::Build(f) => Prepared::Build(f),
        };
        let made = match self.find {
            Find::Pattern(text) => Rewrite::new(self.name, pattern(text), Apply { replace, names: None }),
            Find::Each(names) => each(self.name, replace, names.iter().copied()),
            Find::Elementwise => each(self.name, replace, elementwise_names()),
        };
        made.unwrap_or_else(|e| panic!("the rule {}: {e}", self.name))
    }
}

fn each(rule: &str, replace: Prepared, names: impl Iterator<Item = &'static str>) -> Result<Rewrite<ENode, FactAnalysis>, String> {
    let names: Vec<Name> = names.map(|n| Name::Op(n.into())).collect();
    Rewrite::new(rule, Each(names.clone()), Apply { replace, names: Some(names) })
}

fn pattern(text: &str) -> Pattern<ENode> {
    text.parse().unwrap_or_else(|e| panic!("the pattern {text}: {e}"))
}

/// Finds every class with a term of one of these names.
struct Each(Vec<Name>);

impl Searcher<ENode, FactAnalysis> for Each {
    fn search_eclass_with_limit(&self, terms: &Terms, class: Id, limit: usize) -> Option<SearchMatches<'_, ENode>> {
        let is = |t: &ENode| self.0.contains(&t.discriminant());
        (limit > 0 && terms[class].nodes.iter().any(is)).then(|| SearchMatches { eclass: class, substs: vec![Subst::default()], ast: None })
    }

    fn search_with_limit(&self, terms: &Terms, limit: usize) -> Vec<SearchMatches<'_, ENode>> {
        let mut classes: Vec<Id> = self.0.iter().filter_map(|name| terms.classes_for_op(name)).flatten().collect();
        classes.sort_unstable();
        classes.dedup();
        classes.into_iter().take(limit).filter_map(|c| self.search_eclass_with_limit(terms, c, 1)).collect()
    }

    fn vars(&self) -> Vec<Var> {
        vec![]
    }
}

struct Apply {
    replace: Prepared,
    /// The names of the terms that are tried, where no pattern has found one.
    names: Option<Vec<Name>>,
}

enum Prepared {
    Pattern(Pattern<ENode>),
    When(fn(&Context<'_>) -> bool, Pattern<ENode>),
    Build(fn(&mut Context<'_>) -> Option<Id>),
}

impl Applier<ENode, FactAnalysis> for Apply {
    fn apply_one(&self, terms: &mut Terms, class: Id, subst: &Subst, ast: Option<&PatternAst<ENode>>, rule: Symbol) -> Vec<Id> {
        match &self.replace {
            Prepared::Pattern(p) => p.apply_one(terms, class, subst, ast, rule),
            Prepared::When(condition, p) => {
                if condition(&Context { terms, class, subst, term: None }) {
                    p.apply_one(terms, class, subst, ast, rule)
                } else {
                    vec![]
                }
            }
            Prepared::Build(build) => {
                let tried: Vec<Option<ENode>> = match &self.names {
                    Some(names) => terms[class].nodes.iter().filter(|t| names.contains(&t.discriminant())).cloned().map(Some).collect(),
                    None => vec![None],
                };
                let mut changed = vec![];
                for term in tried {
                    if let Some(id) = build(&mut Context { terms, class, subst, term })
                        && terms.union_trusted(class, id, rule)
                    {
                        changed.push(id);
                    }
                }
                changed
            }
        }
    }
}

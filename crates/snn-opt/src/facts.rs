//! What is known about every class of equal terms: egg's analysis.

use std::collections::BTreeSet;

use egg::{Analysis, DidMerge, EGraph, Id};
use snn_ir::interpret::{Randomness, evaluate};
use snn_ir::{BinaryOp, DType, Data, Dim, Op, Tensor, Type, UnaryOp, binary, infer};

use crate::enode::{Attributes, ENode, Name, has_attributes, plain_op};

/// The e-graph of the IR.
pub type Terms = EGraph<ENode, FactAnalysis>;

/// The most elements of a constant that folding makes.
const LARGEST_CONSTANT: usize = 256;

/// How often the delay of some class may grow.
const MOST_LONGER: usize = 100_000;

/// What is known about a class.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The type of each result; of attributes, none.
    pub types: Vec<Type>,
    /// The attributes, if the class is a leaf of attributes.
    pub attributes: Option<Attributes>,
    /// The value, where it is known and small.
    pub constant: Option<Tensor>,
    /// The value that every element has, as a scalar.
    pub fill: Option<Tensor>,
    /// For each result: is every element `+0` or `1`?
    pub binary: Vec<bool>,
    /// No element is infinite or NaN, if these parameters have none.
    pub finite: Option<BTreeSet<String>>,
    /// It is this class, delayed: the longest such delay.
    pub delayed: Option<(i64, Id)>,
    /// An integer that is this class times a factor plus an offset.
    pub affine: Option<(Id, i64, i64)>,
    /// It is a sum of shifted one-hots.
    pub run: Option<OneHots>,
}

/// `one_hot(label * stride + first) + ... + one_hot(label * stride + first + count - 1)`, each of `columns` columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneHots {
    /// The labels.
    pub label: Id,
    /// Columns of one label.
    pub stride: i64,
    /// The first column of label 0.
    pub first: i64,
    /// How many columns follow each other.
    pub count: i64,
    /// All columns.
    pub columns: i64,
}

/// The analysis, with what it finds on its way.
#[derive(Default)]
pub struct FactAnalysis {
    /// May parameters be taken to be finite?
    pub assume_finite: bool,
    /// Values from outside that are known to be binary, by the name of their input.
    pub binary_inputs: BTreeSet<String>,
    /// Parameters that a rule took to be finite.
    pub assumed: BTreeSet<String>,
    /// Wrong rules: what became ill-typed, or equal to something of another type.
    pub problems: Vec<String>,
    /// How many constants were folded.
    pub folded: usize,
    /// How often a longer delay was found for a class. A wrong rule can make a value its own delay, which has no longest.
    pub longer: usize,
}

impl Facts {
    /// The type of the only result.
    pub fn ty(&self) -> &Type {
        &self.types[0]
    }

    /// Is more, or something else, known here than there? Values that both know are not compared: a merge keeps its own, and a NaN,
    /// which equals nothing, would be news for ever.
    fn tells_more_than(&self, other: &Facts) -> bool {
        self.constant.is_some() != other.constant.is_some()
            || self.fill.is_some() != other.fill.is_some()
            || self.binary != other.binary
            || self.finite != other.finite
            || self.delayed != other.delayed
            || self.affine != other.affine
            || self.run != other.run
    }

    /// Is its only result binary?
    pub fn is_binary(&self) -> bool {
        self.binary.first() == Some(&true)
    }

    /// The float that every element is.
    pub fn fill_f32(&self) -> Option<f32> {
        self.fill.as_ref().filter(|t| t.dtype() == DType::F32).map(|t| t.as_f32()[0])
    }

    /// Is every element this float, to the bit?
    pub fn is_fill(&self, x: f32) -> bool {
        self.fill_f32().is_some_and(|f| f.to_bits() == x.to_bits())
    }

    /// Is every element zero, not negative zero, or false?
    pub fn is_zero(&self) -> bool {
        self.fill.as_ref().is_some_and(is_zero)
    }
}

/// Is every element zero, not negative zero, or false?
pub fn is_zero(t: &Tensor) -> bool {
    match t.data() {
        Data::F32(v) => v.iter().all(|x| x.to_bits() == 0),
        Data::I64(_) | Data::Bool(_) | Data::U8(_) => t.to_i64().iter().all(|x| *x == 0),
    }
}

/// The operation of a term and its operands; `None` for attributes and results.
pub fn operation(terms: &Terms, term: &ENode) -> Option<(Op, Option<Attributes>, Vec<Id>)> {
    let Name::Op(name) = &term.name else { return None };
    match plain_op(name.as_str()) {
        Some(op) => Some((op, None, term.children.clone())),
        None => {
            let attributes = terms[*term.children.first()?].data.attributes.clone()?;
            let op = attributes.op().clone();
            Some((op, Some(attributes), term.children[1..].to_vec()))
        }
    }
}

/// Adds an operation to an e-graph.
pub fn add(terms: &mut Terms, op: Op, operands: &[Id]) -> Id {
    let name = Name::Op(op.name().into());
    let mut children = Vec::with_capacity(operands.len() + 1);
    if has_attributes(&op) {
        children.push(terms.add(ENode { name: Name::Attributes(Attributes::new(op)), children: vec![] }));
    }
    children.extend_from_slice(operands);
    terms.add(ENode { name, children })
}

impl Analysis<ENode> for FactAnalysis {
    type Data = Facts;

    fn make(terms: &mut Terms, term: &ENode, _: Id) -> Facts {
        match &term.name {
            Name::Attributes(s) => Facts { attributes: Some(s.clone()), ..Facts::default() },
            Name::Result(i) => {
                let all = &terms[term.children[0]].data;
                let i = *i as usize;
                Facts { types: vec![all.types[i].clone()], binary: vec![all.binary[i]], ..Facts::default() }
            }
            Name::Op(name) => {
                let Some((op, _, operands)) = operation(terms, term) else {
                    terms.analysis.problems.push(format!("`{name}` is not an operation"));
                    return unknown();
                };
                let types: Vec<&Type> = operands.iter().filter_map(|v| terms[*v].data.types.first()).collect();
                match infer(&op, &types) {
                    Ok(types) => derive(terms, &op, &operands, types),
                    Err(e) => {
                        terms.analysis.problems.push(format!("`{name}`: {e}"));
                        unknown()
                    }
                }
            }
        }
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        if a.types != b.types {
            let text = |f: &Facts| f.types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
            self.problems.push(format!("a value of type {} is said to equal one of type {}", text(a), text(&b)));
        }
        let before = a.clone();
        a.constant = a.constant.take().or_else(|| b.constant.clone());
        a.fill = a.fill.take().or_else(|| b.fill.clone());
        a.binary.iter_mut().zip(&b.binary).for_each(|(x, y)| *x |= *y);
        a.finite = match (a.finite.take(), &b.finite) {
            (Some(x), Some(y)) => Some(if y.len() < x.len() { y.clone() } else { x }),
            (x, y) => x.or_else(|| y.clone()),
        };
        a.delayed = match (a.delayed, b.delayed) {
            (Some(x), Some(y)) if y.0 > x.0 && self.longer < MOST_LONGER => {
                self.longer += 1;
                Some(y)
            }
            (x, y) => x.or(y),
        };
        a.run = a.run.or(b.run);
        a.affine = a.affine.or(b.affine);
        DidMerge(a.tells_more_than(&before), a.tells_more_than(&b))
    }

    fn modify(terms: &mut Terms, id: Id) {
        let facts = &terms[id].data;
        let is = |name: &str| terms[id].nodes.iter().any(|n| n.name == Name::Op(name.into()));
        let folded = match (&facts.constant, &facts.fill) {
            (Some(t), _) if t.shape().is_empty() || facts.fill.is_none() => {
                if is("const") {
                    return;
                }
                let constant = t.clone();
                add(terms, Op::Constant(constant), &[])
            }
            (_, Some(scalar)) if facts.ty().rank() > 0 => {
                let repeated = terms[id].nodes.iter().any(|n| {
                    n.name == Name::Op("broadcast_to".into()) && n.children.len() == 2 && terms[n.children[1]].data.types[0].rank() == 0
                });
                if repeated {
                    return;
                }
                let (scalar, ty) = (scalar.clone(), facts.ty().clone());
                let scalar = add(terms, Op::Constant(scalar), &[]);
                add(terms, Op::Broadcast { axes: vec![], shape: ty.shape }, &[scalar])
            }
            _ => return,
        };
        terms.analysis.folded += 1;
        terms.union_trusted(id, folded, "constants");
    }
}

fn unknown() -> Facts {
    Facts { types: vec![Type::scalar(DType::F32)], binary: vec![false], ..Facts::default() }
}

/// The value of an operation on small constants.
pub fn evaluated(op: &Op, operands: &[&Tensor], types: &[Type]) -> Option<Vec<Tensor>> {
    evaluate(op, operands, types, &mut Randomness::Counter { seed: 0 }).ok()
}

fn derive(terms: &mut Terms, op: &Op, operands: &[Id], types: Vec<Type>) -> Facts {
    let mut facts = Facts { binary: vec![false; types.len()], types, ..Facts::default() };
    let of = |v: &Id| &terms[*v].data;
    if let Op::Constant(t) = op {
        facts.constant = Some(t.clone());
    } else if !matches!(op, Op::Random { .. } | Op::Scan(_) | Op::Loop(_) | Op::Input { .. } | Op::Parameter { .. }) {
        let constants: Option<Vec<&Tensor>> = operands.iter().map(|v| of(v).constant.as_ref()).collect();
        let size = facts.types[0].sizes().ok().and_then(|s| snn_ir::tensor::element_count(&s));
        if let (Some(constants), true) = (constants, size.is_some_and(|n| n <= LARGEST_CONSTANT)) {
            facts.constant = evaluated(op, &constants, &facts.types).map(|mut v| v.remove(0));
        }
    }
    facts.fill = fill(&facts, op, operands, terms);
    facts.binary[0] = is_binary(&facts, op, operands, terms);
    let is_known = facts.binary[0] || facts.constant.as_ref().is_some_and(finite) || facts.fill.as_ref().is_some_and(finite);
    let moves = matches!(op, Op::Transpose { .. } | Op::Reshape { .. } | Op::Broadcast { .. } | Op::Slice { .. });
    facts.finite = if let (Op::Parameter { name, .. }, true) = (op, terms.analysis.assume_finite) {
        Some(BTreeSet::from([name.clone()]))
    } else if is_known {
        Some(BTreeSet::new())
    } else if moves {
        of(&operands[0]).finite.clone()
    } else {
        None
    };
    // Zeros are zeros delayed by anything.
    if let (Op::Delay { steps }, None) = (op, &facts.fill) {
        let (before, source) = of(&operands[0]).delayed.unwrap_or((0, operands[0]));
        facts.delayed = steps.checked_add(before).map(|s| (s, source));
    } else if let Op::RedundantOneHot { classes, repeat: 1 } = op {
        let (label, stride, first) = affine(terms, operands[0]);
        facts.run = Some(OneHots { label, stride, first, count: 1, columns: *classes });
    } else if let (Op::Binary(BinaryOp::Add), [Some(a), Some(b)]) = (op, [0, 1].map(|i| operands.get(i).and_then(|v| of(v).run))) {
        let (a, b) = if a.first <= b.first { (a, b) } else { (b, a) };
        let joins = terms.find(a.label) == terms.find(b.label) && (a.stride, a.columns) == (b.stride, b.columns);
        if joins && a.first + a.count == b.first {
            facts.run = Some(OneHots { count: a.count + b.count, ..a });
        }
    } else if let Op::Scan(s) = op {
        let (known, _) = operands.split_at(s.roles.sequences);
        let known: Vec<bool> = known.iter().map(|v| of(v).is_binary()).collect();
        facts.binary = binary::scan(s, &known);
    }
    if facts.types[0].dtype == DType::I64 {
        facts.affine = combined_affine(terms, op, operands);
    }
    facts
}

fn finite(t: &Tensor) -> bool {
    match t.data() {
        Data::F32(v) => v.iter().all(|x| x.is_finite()),
        Data::I64(_) | Data::Bool(_) | Data::U8(_) => true,
    }
}

/// The value that every element has.
fn fill(facts: &Facts, op: &Op, operands: &[Id], terms: &Terms) -> Option<Tensor> {
    if let Some(t) = &facts.constant {
        let first = t.len().checked_sub(1).map(|_| first_element(t))?;
        return same_everywhere(t).then_some(first);
    }
    let fills = || operands.iter().map(|v| terms[*v].data.fill.as_ref()).collect::<Option<Vec<&Tensor>>>();
    let moves = matches!(op, Op::Broadcast { .. } | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Window { .. });
    if moves || *op == Op::Unary(UnaryOp::Detach) {
        fills()?.first().map(|t| (*t).clone())
    } else if let Op::Concat { .. } = op {
        let all = fills()?;
        all.iter().all(|t| t.same_bits(all[0])).then(|| all[0].clone())
    } else if let Op::Delay { .. } = op {
        fills()?.first().filter(|t| is_zero(t)).map(|t| (*t).clone())
    } else if op.is_elementwise() {
        let ty = Type::scalar(facts.types[0].dtype);
        evaluated(op, &fills()?, &[ty]).map(|mut v| v.remove(0))
    } else {
        None
    }
}

fn first_element(t: &Tensor) -> Tensor {
    match t.data() {
        Data::F32(v) => Tensor::scalar(v[0]),
        Data::I64(v) => Tensor::i64([], vec![v[0]]),
        Data::Bool(v) => Tensor::bool([], vec![v[0]]),
        Data::U8(v) => Tensor::u8([], vec![v[0]]),
    }
}

fn same_everywhere(t: &Tensor) -> bool {
    match t.data() {
        Data::F32(v) => v.iter().all(|x| x.to_bits() == v[0].to_bits()),
        Data::I64(v) => v.iter().all(|x| *x == v[0]),
        Data::Bool(v) | Data::U8(v) => v.iter().all(|x| *x == v[0]),
    }
}

/// What is known about the operands of a term.
struct Operands<'a> {
    terms: &'a Terms,
    operands: &'a [Id],
}

impl Operands<'_> {
    fn of(&self, i: usize) -> Option<&Facts> {
        self.operands.get(i).map(|v| &self.terms[*v].data)
    }
}

impl binary::Known for Operands<'_> {
    fn is_binary(&self, i: usize) -> bool {
        self.of(i).is_some_and(Facts::is_binary)
    }

    fn is_one(&self, i: usize) -> bool {
        self.of(i).is_some_and(|f| f.is_fill(1.0))
    }

    fn dtype(&self, i: usize) -> DType {
        self.of(i).map_or(DType::F32, |f| f.ty().dtype)
    }
}

/// Is every element `+0` or `1`?
fn is_binary(facts: &Facts, op: &Op, operands: &[Id], terms: &Terms) -> bool {
    let dtype = facts.types[0].dtype;
    if let (Some(t), DType::F32) = (facts.constant.as_ref().or(facts.fill.as_ref()), dtype) {
        return t.as_f32().iter().all(|x| binary::is_zero_or_one(*x));
    }
    if let (Op::Input { name, .. }, DType::F32) = (op, dtype) {
        return terms.analysis.binary_inputs.contains(name);
    }
    binary::is_binary(op, dtype, operands.len(), &Operands { terms, operands })
}

/// What an integer is as a function of another: `class = source * factor + offset`.
fn affine(terms: &Terms, id: Id) -> (Id, i64, i64) {
    terms[id].data.affine.unwrap_or((id, 1, 0))
}

fn combined_affine(terms: &Terms, op: &Op, operands: &[Id]) -> Option<(Id, i64, i64)> {
    let Op::Binary(kind) = op else { return None };
    let number = |v: Id| terms[v].data.fill.as_ref().map(|t| t.to_i64()[0]);
    let (source, factor, offset) = match (kind, number(operands[0]), number(operands[1])) {
        (BinaryOp::Mul, None, Some(n)) => (operands[0], n, 0),
        (BinaryOp::Mul, Some(n), None) => (operands[1], n, 0),
        (BinaryOp::Add, None, Some(n)) => (operands[0], 1, n),
        (BinaryOp::Add, Some(n), None) => (operands[1], 1, n),
        _ => return None,
    };
    let (base, f, o) = affine(terms, source);
    Some((base, f.checked_mul(factor)?, o.checked_mul(factor)?.checked_add(offset)?))
}

/// A dimension as a number, where its names have no size yet a small one.
pub fn rough(dim: &Dim) -> f64 {
    dim.as_constant().unwrap_or_else(|| {
        let dims = dim.names().iter().map(|n| ((*n).to_string(), 16)).collect();
        dim.evaluate(&dims).unwrap_or(16)
    }) as f64
}

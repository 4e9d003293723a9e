//! The egg language over the IR: how an operation is written as a term, and back.
//!
//! A term has a name and children. Elementwise functions have their operands as children: `(add ?x ?y)`. Every other operation
//! has its attributes first, as a leaf: `(delay ?attributes ?x)`. So a rule can name attributes, compare them (`?s` twice is the same
//! attributes twice) and compute new ones. An operation with several results (a scan, a loop) is one term, and `result i` of it
//! is another.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use egg::{FromOp, Id, Language, Symbol};
use snn_ir::describe::Structure;
use snn_ir::{BinaryOp, Op, UnaryOp};

/// The attributes of an operation.
#[derive(Clone, Debug)]
pub struct Attributes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    op: Op,
    /// What makes the operations of two attributes the same.
    structure: Structure,
}

impl Attributes {
    /// The attributes of an operation.
    pub fn new(op: Op) -> Attributes {
        let structure = op.structure();
        Attributes(Arc::new(Inner { op, structure }))
    }

    fn key(&self) -> &Structure {
        &self.0.structure
    }

    /// The operation.
    pub fn op(&self) -> &Op {
        &self.0.op
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.key() == other.key()
    }
}
impl Eq for Attributes {}
impl Hash for Attributes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}
impl PartialOrd for Attributes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Attributes {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.key().cmp(other.key()) }
    }
}

/// What a term is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// An operation; its attributes, if it has any, are the first child.
    Op(Symbol),
    /// One result of the child.
    Result(u16),
    /// The attributes of an operation, a leaf.
    Attributes(Attributes),
}

/// A term.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ENode {
    /// What it is.
    pub name: Name,
    /// Of what.
    pub children: Vec<Id>,
}

impl Language for ENode {
    type Discriminant = Name;

    fn discriminant(&self) -> Name {
        match &self.name {
            // Rules look for any result, or for any attributes.
            Name::Result(_) => Name::Op("result".into()),
            Name::Attributes(_) => Name::Op("attributes".into()),
            op => op.clone(),
        }
    }

    fn matches(&self, other: &Self) -> bool {
        self.name == other.name && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

impl FromOp for ENode {
    type Error = std::convert::Infallible;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, Self::Error> {
        Ok(ENode { name: Name::Op(op.into()), children })
    }
}

impl fmt::Display for ENode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Op(s) => write!(f, "{s}"),
            Name::Result(i) => write!(f, "result{i}"),
            // One word, as egg's printer expects of a leaf.
            Name::Attributes(s) => {
                if let Op::Constant(t) = s.op()
                    && t.len() == 1
                {
                    return write!(f, "<{}>", t.to_f32()[0]);
                }
                let text = snn_ir::text::attributes(s.op());
                write!(f, "<{}>", text.replace([' ', '\n'], "").replace('(', "<").replace(')', ">"))
            }
        }
    }
}

/// Has the term of an operation its attributes as the first child?
pub fn has_attributes(op: &Op) -> bool {
    !matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Select)
}

/// The operation of a name without attributes.
pub fn plain_op(name: &str) -> Option<Op> {
    if name == Op::Select.name() {
        return Some(Op::Select);
    }
    UnaryOp::named(name).map(Op::Unary).or_else(|| BinaryOp::named(name).map(Op::Binary))
}

/// The names of all elementwise operations.
pub fn elementwise_names() -> impl Iterator<Item = &'static str> {
    let functions = UnaryOp::ALL.iter().map(|u| u.name()).chain(BinaryOp::ALL.iter().map(|b| b.name()));
    functions.chain(["where", "cast", "spike"])
}

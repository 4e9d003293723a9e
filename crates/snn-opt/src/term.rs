//! The egg language over the IR: how an operation is written as a term, and back.
//!
//! A term has a name and children. Elementwise functions have their operands as children: `(add ?x ?y)`. Every other operation
//! has its settings first, as a leaf: `(delay ?settings ?x)`. So a rule can name settings, compare them (`?s` twice is the same
//! settings twice) and compute new ones. An operation with several results (a scan, a loop) is one term, and `result i` of it
//! is another.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use egg::{FromOp, Id, Language, Symbol};
use snn_ir::{BinaryOp, Op, Type, UnaryOp};

/// The settings of an operation, with the type of its result where that does not follow from its operands.
#[derive(Clone, Debug)]
pub struct Settings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What makes two settings the same.
    text: String,
    op: Op,
    ty: Option<Type>,
}

impl Settings {
    /// The settings of an operation.
    pub fn new(op: Op, ty: Option<Type>) -> Settings {
        let ty = if needs_type(&op) { ty } else { None };
        let mut text = match &op {
            // Bits, because two constants that compare equal can differ: 0 and -0.
            Op::Constant(t) => match t.data() {
                snn_ir::Data::F32(v) => {
                    let bits: Vec<String> = v.iter().map(|x| format!("{:x}", x.to_bits())).collect();
                    format!("constant f32{:?} {}", t.shape(), bits.join(" "))
                }
                other => format!("constant {:?} {other:?}", t.shape()),
            },
            op => snn_ir::text::op_text(op),
        };
        if let Some(t) = &ty {
            text.push_str(&format!(" -> {t}"));
        }
        for body in op.bodies() {
            text.push_str(&body.to_string());
        }
        Settings(Arc::new(Inner { text, op, ty }))
    }

    /// The operation.
    pub fn op(&self) -> &Op {
        &self.0.op
    }

    /// The type of the result, where the operands do not tell it.
    pub fn ty(&self) -> Option<&Type> {
        self.0.ty.as_ref()
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}
impl Eq for Settings {}
impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}
impl PartialOrd for Settings {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Settings {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.text.cmp(&other.0.text)
    }
}

/// What a term is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// An operation; its settings, if it has any, are the first child.
    Op(Symbol),
    /// One result of the child.
    Result(u16),
    /// The settings of an operation, a leaf.
    Settings(Settings),
}

/// A term.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    /// What it is.
    pub name: Name,
    /// Of what.
    pub children: Vec<Id>,
}

impl Language for Term {
    type Discriminant = Name;

    fn discriminant(&self) -> Name {
        match &self.name {
            // Rules look for any result, or for any settings.
            Name::Result(_) => Name::Op("result".into()),
            Name::Settings(_) => Name::Op("settings".into()),
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

impl FromOp for Term {
    type Error = std::convert::Infallible;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, Self::Error> {
        Ok(Term { name: Name::Op(op.into()), children })
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Op(s) => write!(f, "{s}"),
            Name::Result(i) => write!(f, "result{i}"),
            // One word, as egg's printer expects of a leaf.
            Name::Settings(s) => {
                if let Op::Constant(t) = s.op()
                    && t.len() == 1
                {
                    return write!(f, "<{}>", t.to_f32()[0]);
                }
                let head = s.0.text.split("graph ").next().unwrap_or_default();
                let settings = head.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
                f.write_str(&settings.replace([' ', '\n'], "").replace('(', "<").replace(')', ">"))
            }
        }
    }
}

/// Must the type of the result be said?
pub fn needs_type(op: &Op) -> bool {
    use Op::*;
    matches!(op, Input(_) | Parameter(_) | Iota | Random { .. } | Cast | Broadcast { .. } | Reshape | Slice { .. })
}

const UNARY: [(UnaryOp, &str); 13] = [
    (UnaryOp::Neg, "neg"),
    (UnaryOp::Abs, "abs"),
    (UnaryOp::Exp, "exp"),
    (UnaryOp::Log, "log"),
    (UnaryOp::Sqrt, "sqrt"),
    (UnaryOp::Sin, "sin"),
    (UnaryOp::Cos, "cos"),
    (UnaryOp::Tanh, "tanh"),
    (UnaryOp::Erf, "erf"),
    (UnaryOp::Floor, "floor"),
    (UnaryOp::Round, "round"),
    (UnaryOp::Not, "not"),
    (UnaryOp::Detach, "detach"),
];

const BINARY: [(BinaryOp, &str); 16] = [
    (BinaryOp::Add, "add"),
    (BinaryOp::Sub, "sub"),
    (BinaryOp::Mul, "mul"),
    (BinaryOp::Div, "div"),
    (BinaryOp::Rem, "rem"),
    (BinaryOp::Pow, "pow"),
    (BinaryOp::Max, "max"),
    (BinaryOp::Min, "min"),
    (BinaryOp::Eq, "eq"),
    (BinaryOp::Ne, "ne"),
    (BinaryOp::Lt, "lt"),
    (BinaryOp::Le, "le"),
    (BinaryOp::Gt, "gt"),
    (BinaryOp::Ge, "ge"),
    (BinaryOp::And, "and"),
    (BinaryOp::Or, "or"),
];

/// The name of an operation's term.
pub fn symbol(op: &Op) -> &'static str {
    match op {
        Op::Unary(u) => UNARY.iter().find(|(v, _)| v == u).map_or("", |(_, name)| name),
        Op::Binary(b) => BINARY.iter().find(|(v, _)| v == b).map_or("", |(_, name)| name),
        Op::Select => "select",
        Op::Input(_) => "input",
        Op::Parameter(_) => "parameter",
        Op::Constant(_) => "constant",
        Op::Size(_) => "size",
        Op::Iota => "iota",
        Op::Random { .. } => "random",
        Op::Cast => "cast",
        Op::Spike { .. } => "spike",
        Op::Broadcast { .. } => "broadcast",
        Op::Reshape => "reshape",
        Op::Transpose { .. } => "transpose",
        Op::Slice { .. } => "slice",
        Op::Pad { .. } => "pad",
        Op::Concat { .. } => "concat",
        Op::Gather { .. } => "gather",
        Op::ScatterAdd { .. } => "scatter_add",
        Op::Window { .. } => "window",
        Op::MaxPoolGradient(_) => "max_pool_gradient",
        Op::Reduce { .. } => "reduce",
        Op::ArgMax { .. } => "argmax",
        Op::CumSum { .. } => "cumsum",
        Op::Contract(_) => "contract",
        Op::Conv(_) => "conv",
        Op::Delay { .. } => "delay",
        Op::FirstSpike { .. } => "first_spike",
        Op::RedundantOneHot { .. } => "redundant_one_hot",
        Op::ThresholdMargin { .. } => "threshold_margin",
        Op::Scan(_) => "scan",
        Op::Loop(_) => "loop",
    }
}

/// Has the term of an operation its settings as the first child?
pub fn has_settings(op: &Op) -> bool {
    !matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Select)
}

/// The operation of a name without settings.
pub fn plain_op(name: &str) -> Option<Op> {
    if name == "select" {
        return Some(Op::Select);
    }
    let unary = UNARY.iter().find(|(_, n)| *n == name).map(|(u, _)| Op::Unary(*u));
    unary.or_else(|| BINARY.iter().find(|(_, n)| *n == name).map(|(b, _)| Op::Binary(*b)))
}

/// The names of all elementwise operations.
pub fn elementwise_names() -> impl Iterator<Item = &'static str> {
    let functions = UNARY.iter().map(|(_, n)| *n).chain(BINARY.iter().map(|(_, n)| *n));
    functions.chain(["select", "cast", "spike"])
}

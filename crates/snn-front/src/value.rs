//! What expressions evaluate to while a net is lowered.

use std::rc::Rc;

use snn_ir::{Dim, Value};

use crate::call::{Bound, Given};

/// A value at compile time.
#[derive(Clone, Debug)]
pub(crate) enum Val {
    /// A value of the graph that is being built, with the number of that graph.
    Tensor {
        context: u32,
        value: Value,
    },
    /// An integer: a number or a dimension.
    Int(Dim),
    Float(f64),
    Bool(bool),
    Text(String),
    Nothing,
    List(Vec<Val>),
    Tuple(Vec<Val>),
    Surrogate(Rc<SurrogateValue>),
    /// An instance of a net or neuron.
    Layer(usize),
    /// An item of a file, not applied.
    Item(ItemRef),
    /// A net or neuron with some of its settings, not applied: `lif(tau = 4.0)`.
    Partial(Rc<Partial>),
    /// The names of another file, behind a prefix.
    File(u16),
    /// A built-in function, not applied.
    Builtin(&'static str),
    ThisNet,
    /// A tensor whose type is not known yet: an input where only parameters are declared, or a recursive value.
    Unknown,
    /// What an error left behind; whoever meets it keeps silent.
    Poison,
}

/// A surrogate with its settings.
#[derive(Clone, Debug)]
pub(crate) struct SurrogateValue {
    pub item: ItemRef,
    pub settings: Vec<Bound>,
}

/// A net or neuron that waits for its inputs.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    pub item: ItemRef,
    /// Settings by name, in the order in which they were given; a later one of a name counts.
    pub given: Vec<Given>,
}

/// An item with the file that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ItemRef {
    pub file: u16,
    pub index: usize,
}

impl Val {
    /// A setting that is given from outside.
    pub fn from_setting(setting: &crate::Setting) -> Val {
        use crate::Setting;
        match setting {
            Setting::Int(n) => Val::int(*n),
            Setting::Float(x) => Val::Float(*x),
            Setting::Bool(b) => Val::Bool(*b),
            Setting::Nothing => Val::Nothing,
            Setting::Text(t) => Val::Text(t.clone()),
            Setting::List(items) => Val::List(items.iter().map(Val::from_setting).collect()),
        }
    }

    /// What it is, for messages.
    pub fn describe(&self) -> String {
        match self {
            Val::Tensor { .. } | Val::Unknown => "a tensor".into(),
            Val::Int(d) => format!("the integer {d}"),
            Val::Float(x) => format!("the number {x}"),
            Val::Bool(b) => b.to_string(),
            Val::Text(t) => format!("the text {t:?}"),
            Val::Nothing => "none".into(),
            Val::List(_) => "a list".into(),
            Val::Tuple(items) => format!("a tuple of {}", items.len()),
            Val::Surrogate(_) => "a surrogate".into(),
            Val::Layer(_) => "a layer".into(),
            Val::Item(_) => "a declaration that is not called".into(),
            Val::Partial(_) => "a net or neuron that is not applied".into(),
            Val::File(_) => "a file".into(),
            Val::Builtin(n) => format!("the function `{n}`"),
            Val::ThisNet => "the net".into(),
            Val::Poison => "a value with an error".into(),
        }
    }

    pub fn int(n: i64) -> Val {
        Val::Int(Dim::constant(n))
    }

    /// A number that is known.
    pub fn number(&self) -> Option<f64> {
        match self {
            Val::Int(d) => d.as_constant().map(|n| n as f64),
            Val::Float(x) => Some(*x),
            Val::Bool(b) => Some(f64::from(u8::from(*b))),
            _ => None,
        }
    }

    pub fn is_tensor(&self) -> bool {
        matches!(self, Val::Tensor { .. } | Val::Unknown)
    }

    /// Is it of no known type, or holds such?
    pub fn is_unknown(&self) -> bool {
        match self {
            Val::Unknown => true,
            Val::List(items) | Val::Tuple(items) => items.iter().any(Val::is_unknown),
            _ => false,
        }
    }
}

/// Are both the same compile-time value? `None` where one is a tensor.
pub(crate) fn same(a: &Val, b: &Val) -> Option<bool> {
    Some(match (a, b) {
        (x, y) if x.is_tensor() || y.is_tensor() => {
            // A tensor is never `none`.
            if matches!(x, Val::Nothing) || matches!(y, Val::Nothing) {
                return Some(false);
            }
            return None;
        }
        (Val::Nothing, Val::Nothing) => true,
        (Val::Bool(x), Val::Bool(y)) => x == y,
        (Val::Text(x), Val::Text(y)) => x == y,
        (Val::Int(x), Val::Int(y)) => x == y,
        (Val::List(x), Val::List(y)) | (Val::Tuple(x), Val::Tuple(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b) == Some(true))
        }
        (Val::Surrogate(x), Val::Surrogate(y)) => Rc::ptr_eq(x, y),
        (x, y) => matches!((x.number(), y.number()), (Some(p), Some(q)) if p == q),
    })
}

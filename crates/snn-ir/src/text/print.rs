//! A graph as text.

use std::fmt::{self, Write};

use crate::describe::Attribute;
use crate::graph::{Graph, Node, Value};
use crate::op::{Op, Roles};
use crate::tensor::{Data, Tensor};
use crate::types::Type;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {} {{", Name(&self.name))?;
        body(self, 1, f)?;
        writeln!(f, "}}")
    }
}

/// A name as it is, or in quotes where it is no word.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
        if characters.next().is_some_and(is_first) && characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// A float that reads back to the bit, and that is no integer and no dimension.
struct Float(f32);

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = self.0;
        if x.is_nan() {
            return if x.to_bits() == f32::NAN.to_bits() { f.write_str("+nan") } else { write!(f, "+nan:{:x}", x.to_bits()) };
        }
        if x.is_infinite() {
            return f.write_str(if x > 0.0 { "+inf" } else { "-inf" });
        }
        write!(f, "{x:?}")
    }
}

/// Items between commas.
struct Joined<T>(Vec<T>);

impl<T: fmt::Display> fmt::Display for Joined<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

/// The values of a graph by their numbers.
struct Numbers(Box<dyn Fn(Value) -> usize>);

impl Numbers {
    fn of(graph: &Graph) -> Numbers {
        Numbers(Box::new(graph.value_numbers()))
    }

    fn label(&self, v: Value) -> String {
        format!("%{}", (self.0)(v))
    }

    fn labels(&self, values: &[Value]) -> Joined<String> {
        Joined(values.iter().map(|v| self.label(*v)).collect())
    }
}

/// What is between the braces of a graph.
fn body(graph: &Graph, depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let pad = "  ".repeat(depth);
    for p in &graph.parameters {
        let kind = if p.learnable { "parameter" } else { "buffer" };
        let first = if p.drawn_first { " first" } else { "" };
        writeln!(f, "{pad}{kind} {}: {}{first} = {} {{", Name(&p.name), p.ty, Name(&p.initial.name))?;
        body(&p.initial, depth + 1, f)?;
        writeln!(f, "{pad}}}")?;
    }
    let numbers = Numbers::of(graph);
    for (id, node) in graph.nodes() {
        let results: Vec<Value> = graph.results(id).collect();
        write!(f, "{pad}{} = ", numbers.labels(&results))?;
        operation(node, &numbers, f)?;
        if let Some(name) = &node.name {
            write!(f, " as {}", Name(name))?;
        }
        if let Op::Spike { surrogate, .. } = &node.op {
            write!(f, " derivative {}", Name(&surrogate.name))?;
        }
        for inner in node.op.bodies() {
            writeln!(f, " {{")?;
            body(inner, depth + 1, f)?;
            write!(f, "{pad}}}")?;
        }
        writeln!(f)?;
    }
    let in_order = graph.nodes().filter(|(_, n)| matches!(n.op, Op::Input { .. })).map(|(node, _)| Value { node, result: 0 });
    if !in_order.eq(graph.inputs.iter().copied()) {
        writeln!(f, "{pad}inputs ({})", numbers.labels(&graph.inputs))?;
    }
    for (keyword, values) in [("return", &graph.outputs), ("update", &graph.updates)] {
        for (name, v) in values {
            writeln!(f, "{pad}{keyword} {} = {}", Name(name), numbers.label(*v))?;
        }
    }
    Ok(())
}

/// An operation with its operands, attributes and types.
fn operation(node: &Node, numbers: &Numbers, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(node.op.name())?;
    if let Op::Input { name, .. } | Op::Parameter { name, .. } = &node.op {
        write!(f, " {}", Name(name))?;
    } else if let Op::Constant(t) = &node.op {
        write!(f, " ")?;
        constant(t, f)?;
        if says_its_type(t) && node.types == [Type::scalar(t.dtype())] {
            return Ok(());
        }
    } else if let Some((roles, body)) = node.op.recurrence() {
        recurrence(roles, &body.name, node, numbers, f)?;
    } else {
        plain(node, numbers, f)?;
    }
    write!(f, " : {}", Joined(node.types.iter().collect()))
}

/// The operands, then the attributes.
fn plain(node: &Node, numbers: &Numbers, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !node.operands.is_empty() {
        write!(f, " {}", numbers.labels(&node.operands))?;
    }
    let shown = attributes(&node.op);
    if shown.is_empty() { Ok(()) } else { write!(f, " {{{shown}}}") }
}

/// The attributes of an operation, as they stand between the braces.
pub fn attributes(op: &Op) -> String {
    let shown = op.attributes().into_iter().filter_map(|(name, value)| attribute(&value).map(|v| format!("{name} = {v}")));
    shown.collect::<Vec<_>>().join(", ")
}

/// The attribute, unless it is the one that is left out.
fn attribute(value: &Attribute) -> Option<String> {
    match value {
        Attribute::Bool(b) => b.then(|| "true".to_string()),
        Attribute::Float(bits) => Some(Float(f32::from_bits(*bits)).to_string()),
        Attribute::Dim(d) => Some(d.to_string()),
        Attribute::List(list) => (!list.is_empty()).then(|| format!("{list:?}")),
        Attribute::Name(name) => Some(Name(name).to_string()),
        // Constants are printed by `constant`.
        Attribute::Elements(_) => None,
    }
}

/// Does the text of a scalar constant tell its type?
fn says_its_type(t: &Tensor) -> bool {
    t.shape().is_empty() && !matches!(t.data(), Data::U8(_))
}

fn constant(t: &Tensor, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let items: Vec<String> = match t.data() {
        Data::F32(v) => v.iter().map(|x| Float(*x).to_string()).collect(),
        Data::I64(v) => v.iter().map(i64::to_string).collect(),
        Data::Bool(v) => v.iter().map(|b| (*b != 0).to_string()).collect(),
        Data::U8(v) => v.iter().map(u8::to_string).collect(),
    };
    if t.shape().is_empty() { write!(f, "{}", Joined(items)) } else { write!(f, "[{}]", Joined(items)) }
}

fn recurrence(roles: Roles, name: &str, node: &Node, numbers: &Numbers, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let steps = if let Op::Loop(l) = &node.op { Some(&l.steps) } else { None };
    let reversed = matches!(&node.op, Op::Scan(s) if s.reverse) || matches!(&node.op, Op::Loop(l) if l.reverse);
    write!(f, " {}{} over", Name(name), if reversed { " reversed" } else { "" })?;
    if let Some(steps) = steps {
        write!(f, " {steps}")?;
    }
    // A graph that the verifier refuses may have fewer operands than it says.
    let operands = &node.operands;
    let first = roles.sequences.min(operands.len());
    let second = (first + roles.invariants).min(operands.len());
    if first > 0 || steps.is_none() {
        write!(f, " ({})", numbers.labels(&operands[..first]))?;
    }
    for (keyword, part) in [("captures", &operands[first..second]), ("carries", &operands[second..])] {
        if !part.is_empty() {
            write!(f, " {keyword} ({})", numbers.labels(part))?;
        }
    }
    Ok(())
}

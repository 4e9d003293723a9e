//! The text form of a graph, printed and read back.
//!
//! ```text
//! graph main {
//!   %0: f32[T, 4] = input("x")
//!   %1, %2: f32[T, 4], f32[4] = scan((sequences: 1, ...)) %0 {
//!     graph lif { ... }
//!   }
//!   return out = %1
//! }
//! ```
//!
//! An operation is written as serde writes its enum in RON; its nested graphs follow in braces. Parameters stand first, each
//! with the graph of its initial value. Source positions are not printed.

use std::fmt::{self, Write};

use crate::graph::{Graph, Node, NodeId, ParameterInfo, Value};
use crate::op::Op;
use crate::types::Type;

/// The name of an operation, without its settings.
pub fn op_name(op: &Op) -> String {
    match op {
        Op::Unary(u) => format!("{u:?}").to_lowercase(),
        Op::Binary(b) => format!("{b:?}").to_lowercase(),
        Op::Scan(s) => s.body.name.clone(),
        _ => {
            let text = op_text(op);
            text.split('(').next().unwrap_or_default().to_string()
        }
    }
}

/// An operation with its settings, without its nested graphs.
pub fn op_text(op: &Op) -> String {
    ron::to_string(op).unwrap_or_else(|e| format!("unprintable: {e}")).replace(",", ", ").replace(":", ": ")
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        print(self, 0, &mut text);
        f.write_str(&text)
    }
}

fn print(graph: &Graph, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    let _ = writeln!(out, "{pad}graph {} {{", graph.name);
    for p in &graph.parameters {
        let kind = if p.learnable { "parameter" } else { "buffer" };
        let first = if p.drawn_first { " first" } else { "" };
        let _ = writeln!(out, "{pad}  {kind} {:?}{first}: {} {{", p.name, p.ty);
        print(&p.initial, depth + 2, out);
        let _ = writeln!(out, "{pad}  }}");
    }
    // Values are numbered in order.
    let mut first = Vec::with_capacity(graph.len());
    let mut count = 0;
    for (_, node) in graph.nodes() {
        first.push(count);
        count += node.types.len();
    }
    let number = |v: &Value| first[v.node.index()] + v.result as usize;
    for (id, node) in graph.nodes() {
        let ids: Vec<String> = (0..node.types.len()).map(|i| format!("%{}", first[id.index()] + i)).collect();
        let types: Vec<String> = node.types.iter().map(Type::to_string).collect();
        let _ = write!(out, "{pad}  {}: {} = {}", ids.join(", "), types.join(", "), op_text(&node.op));
        for v in &node.operands {
            let _ = write!(out, " %{}", number(v));
        }
        if let Some(name) = &node.name {
            let _ = write!(out, " as {name}");
        }
        let bodies = node.op.bodies();
        if bodies.is_empty() {
            out.push('\n');
            continue;
        }
        out.push_str(" {\n");
        for body in bodies {
            print(body, depth + 2, out);
        }
        let _ = writeln!(out, "{pad}  }}");
    }
    if !graph.inputs.is_empty() {
        let inputs: Vec<String> = graph.inputs.iter().map(|v| format!("%{}", number(v))).collect();
        let _ = writeln!(out, "{pad}  inputs {}", inputs.join(" "));
    }
    for (name, v) in &graph.outputs {
        let _ = writeln!(out, "{pad}  return {name} = %{}", number(v));
    }
    for (name, v) in &graph.updates {
        let _ = writeln!(out, "{pad}  update {name} = %{}", number(v));
    }
    let _ = writeln!(out, "{pad}}}");
}

/// Why a text is not a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Reads a graph that [`Graph`]'s `Display` printed.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut lines = Lines { lines: text.lines().map(str::trim).collect(), at: 0 };
    lines.graph()
}

struct Lines<'a> {
    lines: Vec<&'a str>,
    at: usize,
}

impl<'a> Lines<'a> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { line: self.at, message: message.into() })
    }

    fn next(&mut self) -> Result<&'a str, ParseError> {
        while let Some(line) = self.lines.get(self.at) {
            self.at += 1;
            if !line.is_empty() {
                return Ok(line);
            }
        }
        self.fail("the text ends inside a graph")
    }

    fn graph(&mut self) -> Result<Graph, ParseError> {
        let header = self.next()?;
        let Some(name) = header.strip_prefix("graph ").and_then(|h| h.strip_suffix('{')) else {
            return self.fail(format!("expected `graph name {{`, found `{header}`"));
        };
        let mut graph = Graph::new(name.trim());
        let mut values: Vec<Value> = Vec::new();
        loop {
            let line = self.next()?;
            if line == "}" {
                return Ok(graph);
            } else if let Some(rest) = line.strip_prefix("inputs ") {
                graph.inputs = self.operands(rest, &values)?;
            } else if let Some(rest) = line.strip_prefix("return ") {
                let output = self.named(rest, &values)?;
                graph.outputs.push(output);
            } else if let Some(rest) = line.strip_prefix("update ") {
                let update = self.named(rest, &values)?;
                graph.updates.push(update);
            } else if let Some(rest) = line.strip_prefix("parameter ") {
                self.parameter(rest, true, &mut graph)?;
            } else if let Some(rest) = line.strip_prefix("buffer ") {
                self.parameter(rest, false, &mut graph)?;
            } else {
                let id = self.node(line, &mut graph, &values)?;
                values.extend(graph.results(id));
            }
        }
    }

    fn parameter(&mut self, rest: &str, learnable: bool, graph: &mut Graph) -> Result<(), ParseError> {
        let Some((head, ty)) = rest.trim_end_matches('{').split_once(": ") else { return self.fail("a parameter lacks its type") };
        let drawn_first = head.ends_with(" first");
        let name = head.trim_end_matches(" first").trim_matches('"').to_string();
        let ty = ty.trim().parse().or_else(|e: String| self.fail(e))?;
        let initial = self.graph()?;
        self.close()?;
        graph.parameters.push(ParameterInfo { name, ty, initial, drawn_first, learnable });
        Ok(())
    }

    fn close(&mut self) -> Result<(), ParseError> {
        match self.next()? {
            "}" => Ok(()),
            other => self.fail(format!("expected `}}`, found `{other}`")),
        }
    }

    fn value(&self, text: &str, values: &[Value]) -> Result<Value, ParseError> {
        let known = text.strip_prefix('%').and_then(|n| n.parse::<usize>().ok()).and_then(|n| values.get(n));
        known.copied().map_or_else(|| self.fail(format!("`{text}` is not a value")), Ok)
    }

    fn operands(&self, text: &str, values: &[Value]) -> Result<Vec<Value>, ParseError> {
        text.split_whitespace().map(|t| self.value(t, values)).collect()
    }

    fn named(&self, text: &str, values: &[Value]) -> Result<(String, Value), ParseError> {
        match text.split_once(" = ") {
            Some((name, value)) => Ok((name.to_string(), self.value(value, values)?)),
            None => self.fail("expected `name = %value`"),
        }
    }

    fn node(&mut self, line: &str, graph: &mut Graph, values: &[Value]) -> Result<NodeId, ParseError> {
        let Some((head, rest)) = line.split_once(" = ") else { return self.fail(format!("`{line}` is not an operation")) };
        let Some((_, types)) = head.split_once(": ") else { return self.fail("a value lacks its type") };
        let types =
            split_types(types).into_iter().map(|t| t.parse().or_else(|e: String| self.fail(e))).collect::<Result<Vec<Type>, _>>()?;
        let (rest, has_bodies) = match rest.strip_suffix(" {") {
            Some(r) => (r, true),
            None => (rest, false),
        };
        // The operation ends where its brackets do.
        let end = op_end(rest);
        let mut op: Op = ron::from_str(&rest[..end]).or_else(|e| self.fail(format!("`{}`: {e}", &rest[..end])))?;
        let tail = rest[end..].trim();
        let (operands, name) = match tail.split_once("as ") {
            Some((operands, name)) => (operands, Some(name.to_string())),
            None => (tail, None),
        };
        let operands = self.operands(operands, values)?;
        if has_bodies {
            for body in op.bodies_mut() {
                *body = self.graph()?;
            }
            self.close()?;
        }
        Ok(graph.push(Node { op, operands, types, name, span: None }))
    }
}

/// Where the RON text of an operation ends.
fn op_end(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ' ' if depth == 0 => return i,
            _ => {}
        }
    }
    text.len()
}

/// Splits `f32[T, B], i64[]` at the commas outside of brackets.
fn split_types(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

//! A graph from text.

use std::collections::HashMap;

use crate::describe::{Attribute, Elements};
use crate::dim::{Dim, take_overflow};
use crate::graph::{Graph, Node, NodeId, ParameterInfo, SourceSpan, Value};
use crate::op::Op;
use crate::types::{DType, Type};

/// Why a text is not a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// Graphs inside of graphs.
const DEEPEST: usize = 64;

/// Reads a graph; spans of its nodes are bytes of the text. Its types and structure are not checked: [`crate::verify()`] does.
///
/// # Errors
/// The first place that cannot be read, an unknown operation, attribute or value among them.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    take_overflow();
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.whole().map_err(|(at, message)| {
        let (line, column) = place(text, at);
        ParseError { line, column, message }
    })
}

/// The line and the column of a byte of a text, from 1.
pub fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (before.matches('\n').count() + 1, column)
}

/// A byte of the text and what is wrong there.
type Stop = (usize, String);
type Parsed<T> = Result<T, Stop>;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// An operand that may be defined later, with its place.
type Label<'a> = (&'a str, usize);

/// A graph that is being read.
#[derive(Default)]
struct Open<'a> {
    graph: Graph,
    values: HashMap<&'a str, Value>,
    operands: Vec<Vec<Label<'a>>>,
    inputs: Option<Vec<Label<'a>>>,
    outputs: Vec<(String, Label<'a>)>,
    updates: Vec<(String, Label<'a>)>,
}

/// What a node is made of before its types are known.
enum Head {
    Constant { items: Vec<(Literal, usize)>, list: bool },
    Recurrence { steps: Option<Dim>, reverse: bool, name: String, roles: [usize; 3] },
    Other(Vec<(String, Attribute)>),
}

#[derive(Clone, Copy)]
enum Literal {
    Float(u32),
    Int(i64),
    Bool(bool),
}

impl<'a> Parser<'a> {
    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err((self.at, message.into()))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips space and comments.
    fn space(&mut self) {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            if !self.rest().starts_with("//") {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    /// What is next, for messages.
    fn found(&self) -> String {
        let rest = self.rest();
        let is_word = |c: char| c.is_alphanumeric() || "_.%".contains(c);
        match rest.chars().next() {
            None => "the end of the text".into(),
            Some(c) if is_word(c) => format!("`{}`", &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())]),
            Some(c) => format!("`{c}`"),
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.eat(token) { Ok(()) } else { self.fail(format!("expected `{token}`, found {}", self.found())) }
    }

    /// The word that is next, without taking it; empty where there is none.
    fn peek_word(&mut self) -> &'a str {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len());
        if rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') { "" } else { &rest[..end] }
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == word;
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn word(&mut self, what: &str) -> Parsed<&'a str> {
        let word = self.peek_word();
        if word.is_empty() {
            return self.fail(format!("expected {what}, found {}", self.found()));
        }
        self.at += word.len();
        Ok(word)
    }

    /// A word, or anything in quotes.
    fn name(&mut self, what: &str) -> Parsed<String> {
        let start = self.at;
        if !self.eat("\"") {
            return self.word(what).map(str::to_string);
        }
        let mut name = String::new();
        loop {
            let mut characters = self.rest().chars();
            let Some(c) = characters.next() else { return Err((start, "a quote is not closed".into())) };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(name),
                '\\' => {
                    if self.rest().starts_with("u{") {
                        let code = self.rest()[2..].split('}').next().unwrap_or_default();
                        let Some(c) = u32::from_str_radix(code, 16).ok().and_then(char::from_u32) else {
                            return self.fail("`\\u{...}` holds the number of a character");
                        };
                        name.push(c);
                        self.at += code.len() + 3;
                    } else if let Some(c) = self.rest().chars().next().filter(|c| "\"\\".contains(*c)) {
                        name.push(c);
                        self.at += 1;
                    } else {
                        return self.fail("`\\` stands before `\"`, `\\` and `u{...}` only");
                    }
                }
                c => name.push(c),
            }
        }
    }

    fn label(&mut self) -> Parsed<Label<'a>> {
        self.space();
        let start = self.at;
        if !self.eat("%") {
            return self.fail(format!("expected a value like `%0`, found {}", self.found()));
        }
        let digits = self.rest().find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest().len());
        if digits == 0 {
            return self.fail("a value has a number after `%`");
        }
        self.at += digits;
        Ok((&self.text[start..self.at], start))
    }

    fn labels(&mut self) -> Parsed<Vec<Label<'a>>> {
        let mut labels = vec![self.label()?];
        while self.eat(",") {
            labels.push(self.label()?);
        }
        Ok(labels)
    }

    /// Values in brackets.
    fn operand_list(&mut self) -> Parsed<Vec<Label<'a>>> {
        self.expect("(")?;
        if self.eat(")") {
            return Ok(vec![]);
        }
        let labels = self.labels()?;
        self.expect(")")?;
        Ok(labels)
    }

    /// A dimension, which ends before one of `ends` outside of brackets.
    fn dim(&mut self, ends: &[char]) -> Parsed<Dim> {
        self.space();
        let start = self.at;
        let mut depth = 0usize;
        let end = self.rest().find(|c: char| {
            match c {
                '(' => depth += 1,
                ')' if depth > 0 => depth -= 1,
                _ => return c == '\n' || depth == 0 && ends.contains(&c),
            }
            false
        });
        let text = &self.rest()[..end.unwrap_or(self.rest().len())];
        let dim = text.trim().parse::<Dim>().map_err(|message| (start, message))?;
        if take_overflow() {
            return Err((start, format!("`{}` is too large for a dimension", text.trim())));
        }
        self.at += text.len();
        Ok(dim)
    }

    fn ty(&mut self) -> Parsed<Type> {
        self.space();
        let start = self.at;
        let word = self.word("a type like `f32[T, 4]`")?;
        let dtype: DType = word.parse().map_err(|message| (start, message))?;
        self.expect("[")?;
        let mut shape = Vec::new();
        if !self.eat("]") {
            loop {
                shape.push(self.dim(&[',', ']'])?);
                if !self.eat(",") {
                    break;
                }
            }
            self.expect("]")?;
        }
        Ok(Type { dtype, shape })
    }

    /// `+nan`, `-inf` or a number with a point or an exponent; nothing is taken where it is something else.
    fn float(&mut self) -> Parsed<Option<u32>> {
        self.space();
        let rest = self.rest();
        for (word, value) in [("+inf", f32::INFINITY), ("-inf", f32::NEG_INFINITY)] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(Some(value.to_bits()));
            }
        }
        if let Some(after) = rest.strip_prefix("+nan") {
            self.at += 4;
            let Some(code) = after.strip_prefix(':') else { return Ok(Some(f32::NAN.to_bits())) };
            let code = &code[..code.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(code.len())];
            let bits = u32::from_str_radix(code, 16).ok().filter(|bits| f32::from_bits(*bits).is_nan());
            let Some(bits) = bits else { return self.fail("the bits after `+nan:` are not those of a NaN") };
            self.at += 1 + code.len();
            return Ok(Some(bits));
        }
        let bytes = rest.as_bytes();
        let mut end = usize::from(rest.starts_with('-'));
        let digits = |end: &mut usize| {
            let start = *end;
            while bytes.get(*end).is_some_and(u8::is_ascii_digit) {
                *end += 1;
            }
            *end > start
        };
        if !digits(&mut end) {
            return Ok(None);
        }
        let whole = end;
        if bytes.get(end) == Some(&b'.') {
            end += 1;
            digits(&mut end);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            end += 1;
            end += usize::from(matches!(bytes.get(end), Some(b'+' | b'-')));
            digits(&mut end);
        }
        if end == whole {
            return Ok(None);
        }
        let Ok(x) = rest[..end].parse::<f32>() else { return self.fail(format!("`{}` is not a number", &rest[..end])) };
        self.at += end;
        Ok(Some(x.to_bits()))
    }

    fn int(&mut self) -> Parsed<i64> {
        self.space();
        let rest = self.rest();
        let sign = usize::from(rest.starts_with('-'));
        let end = sign + rest[sign..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - sign);
        let Ok(n) = rest[..end].parse() else { return self.fail(format!("expected an integer, found {}", self.found())) };
        self.at += end;
        Ok(n)
    }

    fn literal(&mut self) -> Parsed<(Literal, usize)> {
        self.space();
        let start = self.at;
        let literal = match self.float()? {
            Some(bits) => Literal::Float(bits),
            None if self.eat_word("true") => Literal::Bool(true),
            None if self.eat_word("false") => Literal::Bool(false),
            None => Literal::Int(self.int()?),
        };
        Ok((literal, start))
    }

    fn attribute(&mut self) -> Parsed<Attribute> {
        if let Some(bits) = self.float()? {
            return Ok(Attribute::Float(bits));
        }
        if self.eat("[") {
            let mut list = Vec::new();
            while !self.eat("]") {
                if !list.is_empty() {
                    self.expect(",")?;
                }
                list.push(self.int()?);
            }
            return Ok(Attribute::List(list));
        }
        for value in [true, false] {
            if self.eat_word(if value { "true" } else { "false" }) {
                return Ok(Attribute::Bool(value));
            }
        }
        Ok(Attribute::Dim(self.dim(&[',', '}'])?))
    }

    fn attributes(&mut self) -> Parsed<Vec<(String, Attribute)>> {
        let mut all: Vec<(String, Attribute)> = Vec::new();
        while !self.eat("}") {
            if !all.is_empty() {
                self.expect(",")?;
            }
            let name = self.word("the name of an attribute")?;
            if all.iter().any(|(n, _)| n == name) {
                return self.fail(format!("the attribute `{name}` is given twice"));
            }
            self.expect("=")?;
            all.push((name.to_string(), self.attribute()?));
        }
        Ok(all)
    }

    fn whole(&mut self) -> Parsed<Graph> {
        if !self.eat_word("graph") {
            self.space();
            return self.fail(format!("expected `graph name {{`, found {}", self.found()));
        }
        let name = self.name("the name of the graph")?;
        let graph = self.graph(name)?;
        self.space();
        if self.rest().is_empty() { Ok(graph) } else { self.fail(format!("{} follows the graph", self.found())) }
    }

    /// A graph in braces.
    fn graph(&mut self, name: String) -> Parsed<Graph> {
        self.expect("{")?;
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.fail(format!("graphs are nested more than {DEEPEST} deep"));
        }
        let mut open = Open { graph: Graph::new(name), ..Open::default() };
        while !self.eat("}") {
            self.statement(&mut open)?;
        }
        self.depth -= 1;
        open.close()
    }

    fn statement(&mut self, open: &mut Open<'a>) -> Parsed<()> {
        self.space();
        if self.rest().starts_with('%') {
            return self.node(open);
        }
        let start = self.at;
        match self.peek_word() {
            keyword @ ("parameter" | "buffer") => {
                self.at += keyword.len();
                let name = self.name("the name of the parameter")?;
                self.expect(":")?;
                let ty = self.ty()?;
                let drawn_first = self.eat_word("first");
                self.expect("=")?;
                let inner = self.name("the name of the graph of its first value")?;
                let initial = self.graph(inner)?;
                open.graph.parameters.push(ParameterInfo {
                    name,
                    ty,
                    initial: initial.into(),
                    drawn_first,
                    learnable: keyword == "parameter",
                });
            }
            "inputs" => {
                self.at += "inputs".len();
                let inputs = self.operand_list()?;
                if open.inputs.replace(inputs).is_some() {
                    return Err((start, "`inputs` stands twice".into()));
                }
            }
            keyword @ ("return" | "update") => {
                self.at += keyword.len();
                let name = self.name("a name")?;
                self.expect("=")?;
                let value = self.label()?;
                let list = if keyword == "return" { &mut open.outputs } else { &mut open.updates };
                list.push((name, value));
            }
            _ => {
                return self.fail(format!(
                    "expected `%0 = ...`, `parameter`, `buffer`, `inputs`, `return`, `update` or `}}`, found {}",
                    self.found()
                ));
            }
        }
        Ok(())
    }

    fn node(&mut self, open: &mut Open<'a>) -> Parsed<()> {
        let results = self.labels()?;
        self.expect("=")?;
        self.space();
        let start = self.at;
        let word = self.word("the name of an operation")?;
        let (head, operands) = self.head(word)?;
        let types = match self.eat(":") {
            true => {
                let mut types = vec![self.ty()?];
                while self.eat(",") {
                    types.push(self.ty()?);
                }
                types
            }
            false => match &head {
                Head::Constant { items, list: false } => vec![Type::scalar(match items[0].0 {
                    Literal::Float(_) => DType::F32,
                    Literal::Int(_) => DType::I64,
                    Literal::Bool(_) => DType::Bool,
                })],
                Head::Constant { .. } | Head::Recurrence { .. } | Head::Other(_) => {
                    return self.fail(format!("expected `:` and the type of the result, found {}", self.found()));
                }
            },
        };
        let name = if self.eat_word("as") { Some(self.name("a name")?) } else { None };
        let body = match &head {
            Head::Recurrence { name, .. } => Some(self.graph(name.clone())?),
            Head::Constant { .. } | Head::Other(_) if self.eat_word("derivative") => {
                let inner = self.name("the name of the derivative")?;
                Some(self.graph(inner)?)
            }
            Head::Constant { .. } | Head::Other(_) => None,
        };
        let op = head.operation(word, &types, body).map_err(|message| (start, message))?;
        if results.len() != types.len() {
            return Err((start, format!("{} results with {} types", results.len(), types.len())));
        }
        if u16::try_from(results.len()).is_err() {
            return Err((start, "a node has at most 65535 results".into()));
        }
        let span = Some(SourceSpan { file: 0, start: start as u32, end: self.at as u32 });
        let id = open.graph.push(Node { op, operands: vec![], types, name, span });
        open.operands.push(operands);
        for ((label, at), value) in results.into_iter().zip(open.graph.results(id)) {
            if open.values.insert(label, value).is_some() {
                return Err((at, format!("`{label}` is defined twice")));
            }
        }
        Ok(())
    }

    /// What stands between the name of an operation and its types.
    fn head(&mut self, word: &'a str) -> Parsed<(Head, Vec<Label<'a>>)> {
        match word {
            "input" | "parameter" => {
                let name = self.name("a name")?;
                Ok((Head::Other(vec![("name".to_string(), Attribute::Name(name))]), vec![]))
            }
            "const" => {
                let list = self.eat("[");
                let mut items = Vec::new();
                if list {
                    while !self.eat("]") {
                        if !items.is_empty() {
                            self.expect(",")?;
                        }
                        items.push(self.literal()?);
                    }
                } else {
                    items.push(self.literal()?);
                }
                Ok((Head::Constant { items, list }, vec![]))
            }
            "scan" | "loop" => {
                let name = self.name("the name of the step")?;
                let reverse = self.eat_word("reversed");
                if !self.eat_word("over") {
                    return self.fail(format!("expected `over`, found {}", self.found()));
                }
                let steps = if word == "loop" { Some(self.steps()?) } else { None };
                self.space();
                let mut operands = if self.rest().starts_with('(') { self.operand_list()? } else { vec![] };
                let mut roles = [operands.len(), 0, 0];
                for (role, keyword) in [(1, "captures"), (2, "carries")] {
                    if self.eat_word(keyword) {
                        let part = self.operand_list()?;
                        roles[role] = part.len();
                        operands.extend(part);
                    }
                }
                Ok((Head::Recurrence { steps, reverse, name, roles }, operands))
            }
            _ => {
                self.space();
                let operands = if self.rest().starts_with('%') { self.labels()? } else { vec![] };
                let attributes = if self.eat("{") { self.attributes()? } else { vec![] };
                Ok((Head::Other(attributes), operands))
            }
        }
    }

    /// The number of steps of a loop: up to `(%`, a keyword or the types.
    fn steps(&mut self) -> Parsed<Dim> {
        self.space();
        let rest = self.rest();
        let line = &rest[..rest.find('\n').unwrap_or(rest.len())];
        let ends = ["(%", "()", "captures", "carries", " :"].iter().filter_map(|end| line.find(end));
        let text = &line[..ends.min().unwrap_or(line.len())];
        let dim = text.trim().parse::<Dim>().map_err(|message| (self.at, message))?;
        if take_overflow() {
            return self.fail(format!("`{}` is too large for a dimension", text.trim()));
        }
        self.at += text.len();
        Ok(dim)
    }
}

impl Head {
    fn operation(self, word: &str, types: &[Type], body: Option<Graph>) -> Result<Op, String> {
        let attributes = match self {
            Head::Other(attributes) => attributes,
            Head::Constant { items, .. } => vec![("value".to_string(), Attribute::Elements(elements(&items, types)?))],
            Head::Recurrence { steps, reverse, name: _, roles: [sequences, invariants, states] } => {
                let Some(outputs) = types.len().checked_sub(states) else {
                    return Err(format!("{states} values are carried, and there are {} results", types.len()));
                };
                let count = |n: usize| Attribute::Dim(Dim::constant(n as i64));
                let mut all = vec![
                    ("sequences".to_string(), count(sequences)),
                    ("invariants".to_string(), count(invariants)),
                    ("states".to_string(), count(states)),
                    ("outputs".to_string(), count(outputs)),
                    ("reverse".to_string(), Attribute::Bool(reverse)),
                ];
                all.extend(steps.map(|d| ("steps".to_string(), Attribute::Dim(d))));
                all
            }
        };
        let Some(result) = types.first() else { return Err("an operation has a result".into()) };
        Op::from_parts(word, attributes, result, body)
    }
}

fn elements(items: &[(Literal, usize)], types: &[Type]) -> Result<Elements, String> {
    let [ty] = types else { return Err("a constant has one type".into()) };
    let shape = ty.sizes().map_err(|_| format!("a constant has known sizes, not {ty}"))?;
    let bits = items.iter().map(|(literal, _)| match (literal, ty.dtype) {
        (Literal::Float(bits), DType::F32) => Some(i64::from(*bits)),
        (Literal::Int(n), DType::I64 | DType::U8) => Some(*n),
        (Literal::Bool(b), DType::Bool) => Some(i64::from(*b)),
        _ => None,
    });
    let bits = bits.collect::<Option<Vec<i64>>>().ok_or_else(|| format!("an element is not {}", ty.dtype))?;
    if crate::tensor::element_count(&shape) != Some(bits.len()) {
        return Err(format!("{} elements do not make {ty}", bits.len()));
    }
    Ok(Elements { dtype: ty.dtype, shape, bits })
}

impl Open<'_> {
    /// Puts values in for labels, all of which are known now.
    fn close(self) -> Parsed<Graph> {
        let Open { mut graph, values, operands, inputs, outputs, updates } = self;
        let value =
            |(label, at): Label<'_>| values.get(label).copied().ok_or_else(|| (at, format!("`{label}` is not a value of this graph")));
        for (i, labels) in operands.into_iter().enumerate() {
            graph.node_mut(NodeId(i as u32)).operands = labels.into_iter().map(value).collect::<Parsed<_>>()?;
        }
        graph.inputs = match inputs {
            Some(labels) => labels.into_iter().map(value).collect::<Parsed<_>>()?,
            None => {
                let inputs = graph.nodes().filter(|(_, n)| matches!(n.op, Op::Input { .. }));
                inputs.map(|(node, _)| Value { node, result: 0 }).collect()
            }
        };
        graph.outputs = outputs.into_iter().map(|(name, label)| Ok((name, value(label)?))).collect::<Parsed<_>>()?;
        graph.updates = updates.into_iter().map(|(name, label)| Ok((name, value(label)?))).collect::<Parsed<_>>()?;
        Ok(graph)
    }
}

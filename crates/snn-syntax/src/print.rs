//! The formatter: a syntax tree in its canonical layout, with its comments.
//!
//! Four blanks of indentation, one statement a line, brackets only where they are needed, blank lines kept as one.
//! A pipe that does not fit [`WIDTH`] columns puts each stage on a line of its own; the blocks of an `if` stand on lines of their own
//! where they have several statements or comments, or do not fit. Comments of a signature move above it.

use std::cell::Cell;

use crate::ast::*;
use crate::dump::subscript;

/// How long a line may become.
pub const WIDTH: usize = 110;

/// Writes a file. `source` is the text that `ast` was parsed from: numbers are written as they stand there.
pub fn print(ast: &Ast, source: &str) -> String {
    let mut printer = Printer { ast, source, out: String::new(), comment: Cell::new(0), last_end: Cell::new(0) };
    for item in &ast.items {
        printer.gap(item.span.start, 0);
        printer.item(item);
        let text = printer.trailing(item.span.end, 0);
        printer.append(&text);
    }
    printer.flush_comments(usize::MAX, 0);
    printer.out
}

/// The statements of a block as text, without its braces.
struct BlockText {
    lines: Vec<String>,
    /// Must they stand on lines of their own?
    tall: bool,
}

struct Printer<'a> {
    ast: &'a Ast,
    source: &'a str,
    out: String,
    /// The next comment to write.
    comment: Cell<usize>,
    /// Where in the source the last thing written ends.
    last_end: Cell<usize>,
}

impl Printer<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        self.out.push_str(&"    ".repeat(depth));
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// Adds to the last line, before its end.
    fn append(&mut self, text: &str) {
        if !text.is_empty() {
            self.out.truncate(self.out.trim_end_matches('\n').len());
            self.out.push_str(text);
            self.out.push('\n');
        }
    }

    /// Has the source a blank line between the last thing written and `start`?
    fn is_blank_before(&self, start: usize) -> bool {
        let between = self.source.get(self.last_end.get()..start).unwrap_or("");
        let lines = between.split('\n').count();
        between.split('\n').skip(1).take(lines.saturating_sub(2)).any(|l| l.trim().is_empty())
    }

    /// The next comment, if it begins before `end`.
    fn next_comment(&self, end: usize) -> Option<&Comment> {
        self.ast.comments.get(self.comment.get()).filter(|c| c.span.start < end)
    }

    /// The text of a comment, which is then written.
    fn take(&self, c: &Comment) -> String {
        self.comment.set(self.comment.get() + 1);
        self.last_end.set(self.last_end.get().max(c.span.end));
        self.source[c.span.start..c.span.end].trim_end().to_string()
    }

    fn blank_before(&mut self, start: usize) {
        if self.is_blank_before(start) && !self.out.is_empty() && !self.out.ends_with("{\n") && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    fn flush_comments(&mut self, start: usize, depth: usize) {
        while let Some(c) = self.next_comment(start).cloned() {
            self.blank_before(c.span.start);
            let text = self.take(&c);
            self.line(depth, &text);
        }
    }

    fn gap(&mut self, start: usize, depth: usize) {
        self.flush_comments(start, depth);
        self.blank_before(start);
    }

    /// Comments on the last line of what ends at `end`, and below it those inside of it that have no other place.
    fn trailing(&self, end: usize, depth: usize) -> String {
        self.last_end.set(self.last_end.get().max(end));
        let mut text = String::new();
        while let Some(c) = self.ast.comments.get(self.comment.get()) {
            let same_line = c.trailing && self.source.get(end..c.span.start).is_some_and(|t| !t.contains('\n'));
            if c.span.start < end {
                text.push_str(&format!("\n{}", "    ".repeat(depth)));
            } else if same_line {
                text.push(' ');
            } else {
                break;
            }
            text.push_str(&self.take(c));
        }
        text
    }

    fn item(&mut self, item: &Item) {
        // Comments between the words of a signature.
        let head_end = match &item.body {
            Body::Block(b) if item.kind != ItemKind::Use => b.span.start,
            Body::Expression(e) => self.ast.expr(*e).span.start,
            Body::Block(_) => item.span.end,
        };
        self.flush_comments(head_end, 0);
        let kind = match item.kind {
            ItemKind::Net => "net",
            ItemKind::Neuron => "neuron",
            ItemKind::Surrogate => "surrogate",
            ItemKind::Function => "fn",
            ItemKind::Constant => {
                if let Body::Expression(e) = &item.body {
                    let text = format!("let {} = {}", item.name.text, self.expr(*e, 0, 0));
                    self.line(0, &text);
                }
                self.last_end.set(item.span.end);
                return;
            }
            ItemKind::Use => {
                let Some(u) = &item.uses else { return };
                let path = &self.source[u.path.1.start..u.path.1.end];
                let names: Vec<&str> = u.chosen.iter().map(|n| n.text.as_str()).collect();
                let text = match names.as_slice() {
                    [] => format!("use {path} as {}", item.name.text),
                    names => format!("use {path} ({})", names.join(", ")),
                };
                self.line(0, &text);
                self.last_end.set(item.span.end);
                return;
            }
        };
        let inputs: Vec<String> = item
            .inputs
            .iter()
            .map(|i| match &i.ty {
                Some(t) => format!("{}: {}", i.name.text, self.type_expr(t)),
                None => i.name.text.clone(),
            })
            .collect();
        let settings: Vec<String> = item
            .settings
            .iter()
            .map(|s| match s.default {
                Some(d) => format!("{} = {}", s.name.text, self.expr(d, 0, 0)),
                None => s.name.text.clone(),
            })
            .collect();
        let listed = if settings.is_empty() { String::new() } else { format!("; {}", settings.join(", ")) };
        let result = match item.results.as_slice() {
            [] => String::new(),
            [ResultType { name: None, ty: Some(ty) }] => format!(" -> {}", self.type_expr(ty)),
            several => {
                let named = |r: &ResultType| {
                    let name = r.name.as_ref().map_or("out", |n| n.text.as_str());
                    match &r.ty {
                        Some(ty) => format!("{name}: {}", self.type_expr(ty)),
                        None => name.to_string(),
                    }
                };
                format!(" -> ({})", several.iter().map(named).collect::<Vec<_>>().join(", "))
            }
        };
        let mut head = format!("{kind} {}({}{listed}){result}", item.name.text, inputs.join(", "));
        // A signature that does not fit has inputs and settings in lines of their own, as many in each as fit.
        if head.chars().count() > WIDTH && !inputs.is_empty() {
            let end = if settings.is_empty() { "" } else { ";" };
            let parts = [filled(&inputs, end), filled(&settings, "")].concat();
            head = format!("{kind} {}(\n{}){result}", item.name.text, parts);
        }
        match &item.body {
            Body::Expression(e) => {
                let text = format!("{head} = {}", self.expr(*e, 0, 0));
                self.line(0, &text);
            }
            Body::Block(b) => {
                self.line(0, &format!("{head} {{"));
                self.last_end.set(b.span.start + 1);
                let text = self.trailing(b.span.start + 1, 1);
                self.append(&text);
                self.statements(b, 1);
                self.line(0, "}");
            }
        }
        self.last_end.set(item.span.end);
    }

    fn statements(&mut self, block: &Block, depth: usize) {
        for s in &block.statements {
            self.gap(s.span.start, depth);
            let text = self.statement(s, depth) + &self.trailing(s.span.end, depth);
            self.line(depth, &text);
        }
        self.flush_comments(block.span.end, depth);
    }

    fn statement(&self, s: &Statement, depth: usize) -> String {
        let typed = |name: &str, ty: &Option<TypeExpr>| match ty {
            Some(t) => format!("{name}: {}", self.type_expr(t)),
            None => name.to_string(),
        };
        let (head, value) = match &s.kind {
            StatementKind::Layer { name, value } => (format!("layer {} = ", name.text), value),
            StatementKind::Parameter { name, ty, value, learnable } => {
                let word = if *learnable { "param" } else { "buffer" };
                (format!("{word} {} = ", typed(&name.text, ty)), value)
            }
            StatementKind::State { name, value } => (format!("state {} = ", name.text), value),
            StatementKind::Let { names, recursive, ty, value } => {
                let names: Vec<&str> = names.iter().map(|n| n.text.as_str()).collect();
                let names = if names.len() == 1 { names[0].to_string() } else { format!("({})", names.join(", ")) };
                let word = if *recursive { "let rec" } else { "let" };
                (format!("{word} {} = ", typed(&names, ty)), value)
            }
            StatementKind::Assign { name, value } => (format!("{} = ", name.text), value),
            StatementKind::Emit(value) => ("emit ".to_string(), value),
            StatementKind::Assert { condition, message: Some(m) } => return format!("assert {}, {m:?}", self.expr(*condition, 0, depth)),
            StatementKind::Assert { condition, message: None } => ("assert ".to_string(), condition),
            StatementKind::Expression(value) => (String::new(), value),
        };
        // The stages of a pipe, each written once: on one line if they fit, else on a line each.
        let mut stages = Vec::new();
        let mut first = *value;
        while let ExprKind::Binary(BinaryOperator::Pipe, a, b) = &self.ast.expr(first).kind {
            stages.push((*b, String::new()));
            first = *a;
        }
        let pipe = BinaryOperator::Pipe.precedence();
        let first = head + &self.expr(first, if stages.is_empty() { 0 } else { pipe }, depth);
        stages.iter_mut().rev().for_each(|(e, text)| *text = self.expr(*e, 2, depth + 1));
        let length = stages.iter().map(|(_, s)| s.len() + 4).sum::<usize>() + first.len();
        let separator = if depth * 4 + length <= WIDTH { " ".to_string() } else { format!("\n{}", "    ".repeat(depth + 1)) };
        stages.iter().rev().fold(first, |text, (_, stage)| text + &separator + "|> " + stage)
    }

    fn type_expr(&self, ty: &TypeExpr) -> String {
        let dims: Vec<String> = ty
            .dimensions
            .iter()
            .map(|d| match d {
                Dimension::Expression(e) => self.expr(*e, 0, 0),
                Dimension::Rest(_) => "...".into(),
            })
            .collect();
        format!("{}[{}]", ty.dtype, dims.join(", "))
    }

    /// The statements of a block inside of an expression, each written once.
    fn block(&self, b: &Block, depth: usize) -> BlockText {
        let inside = |c: &&Comment| c.span.start > b.span.start && c.span.start < b.span.end;
        let mut text = BlockText { lines: vec![], tall: self.ast.comments.iter().skip(self.comment.get()).any(|c| inside(&c)) };
        // Comments before the block that nobody has written yet stand before it.
        self.last_end.set(self.last_end.get().max(b.span.start + 1));
        for s in &b.statements {
            while let Some(c) = self.next_comment(s.span.start) {
                text.lines.push(self.take(c));
            }
            if !text.lines.is_empty() && self.is_blank_before(s.span.start) {
                text.lines.push(String::new());
            }
            let line = self.statement(s, depth + 1) + &self.trailing(s.span.end, depth + 1);
            text.lines.push(line);
        }
        while let Some(c) = self.next_comment(b.span.end) {
            text.lines.push(self.take(c));
        }
        text.tall |= text.lines.len() > 1 || text.lines.iter().any(|l| l.contains('\n'));
        text
    }

    /// A block in braces, on one line or on several.
    fn braced(text: &BlockText, tall: bool, depth: usize) -> String {
        if !tall {
            let inside = text.lines.join("; ");
            return if inside.is_empty() { "{ }".into() } else { format!("{{ {inside} }}") };
        }
        let pad = "    ".repeat(depth + 1);
        let lines: Vec<String> = text.lines.iter().map(|l| if l.is_empty() { String::new() } else { format!("{pad}{l}") }).collect();
        format!("{{\n{}\n{}}}", lines.join("\n"), "    ".repeat(depth))
    }

    /// An expression, in brackets if it binds less tightly than `least`; lines of blocks in it are indented from `depth` on.
    fn expr(&self, id: ExprId, least: u8, depth: usize) -> String {
        stacker::maybe_grow(64 << 10, 4 << 20, || self.plain(id, least, depth))
    }

    fn plain(&self, id: ExprId, least: u8, depth: usize) -> String {
        let expr = self.ast.expr(id);
        let list = |items: &[ExprId]| items.iter().map(|e| self.expr(*e, 0, depth)).collect::<Vec<_>>().join(", ");
        let postfix = UNARY_PRECEDENCE + 3;
        let (text, binds) = match &expr.kind {
            ExprKind::Int(_) | ExprKind::Float(_) => (self.source[expr.span.start..expr.span.end].to_string(), u8::MAX),
            ExprKind::Bool(b) => (b.to_string(), u8::MAX),
            ExprKind::Nothing => ("none".into(), u8::MAX),
            ExprKind::ThisNet => ("net".into(), u8::MAX),
            ExprKind::Name(n) => (n.clone(), u8::MAX),
            ExprKind::Text(_) => (self.source[expr.span.start..expr.span.end].to_string(), u8::MAX),
            ExprKind::Comprehension { element, name, items } => {
                (format!("[{} for {} in {}]", self.expr(*element, 0, depth), name.text, self.expr(*items, 0, depth)), u8::MAX)
            }
            ExprKind::List(items) => (format!("[{}]", list(items)), u8::MAX),
            ExprKind::Tuple(items) if items.len() == 1 => (format!("({},)", list(items)), u8::MAX),
            ExprKind::Tuple(items) => (format!("({})", list(items)), u8::MAX),
            ExprKind::Unary(op, e) => {
                let symbol = if *op == UnaryOperator::Minus { "-" } else { "!" };
                (format!("{symbol}{}", self.expr(*e, UNARY_PRECEDENCE, depth)), UNARY_PRECEDENCE)
            }
            ExprKind::Binary(op, a, b) => {
                let p = op.precedence();
                let (left, right) = if op.is_right_associative() { (p + 1, p) } else { (p, p + 1) };
                // A unary operand binds weaker than `^`, and may still stand on its right.
                let b_is_unary = matches!(self.ast.expr(*b).kind, ExprKind::Unary(..));
                let right = if b_is_unary { 0 } else { right };
                (format!("{} {} {}", self.expr(*a, left, depth), op.symbol(), self.expr(*b, right, depth)), p)
            }
            ExprKind::Call { callee, arguments } => {
                let parts: Vec<String> = arguments
                    .iter()
                    .map(|a| match &a.name {
                        Some(n) => format!("{} = {}", n.text, self.expr(a.value, 0, depth)),
                        None => self.expr(a.value, 0, depth),
                    })
                    .collect();
                (format!("{}({})", self.expr(*callee, postfix, depth), parts.join(", ")), u8::MAX)
            }
            ExprKind::Index { base, subscripts } => {
                let parts: Vec<String> = subscripts.iter().map(|s| subscript(self.ast, s, &|e| self.expr(e, 0, depth))).collect();
                (format!("{}[{}]", self.expr(*base, postfix, depth), parts.join(", ")), u8::MAX)
            }
            ExprKind::Field { base, name } => (format!("{}.{}", self.expr(*base, postfix, depth), name.text), u8::MAX),
            ExprKind::If { condition, then, otherwise } => {
                let head = format!("if {}", self.expr(*condition, 0, depth));
                let first = self.block(then, depth);
                let chained = match otherwise.statements.as_slice() {
                    [Statement { kind: StatementKind::Expression(e), .. }] => {
                        let is_if = matches!(self.ast.expr(*e).kind, ExprKind::If { .. }) && otherwise.span == self.ast.expr(*e).span;
                        is_if.then(|| self.expr(*e, 0, depth))
                    }
                    _ => None,
                };
                let text = match chained {
                    Some(nested) => {
                        let tall = first.tall || nested.contains('\n');
                        format!("{head} {} else {nested}", Self::braced(&first, tall, depth))
                    }
                    None => {
                        let second = self.block(otherwise, depth);
                        let length = |b: &BlockText| b.lines.iter().map(|l| l.len() + 4).sum::<usize>();
                        let tall = first.tall || second.tall || depth * 4 + head.len() + length(&first) + length(&second) + 7 > WIDTH;
                        format!("{head} {} else {}", Self::braced(&first, tall, depth), Self::braced(&second, tall, depth))
                    }
                };
                (text, u8::MAX)
            }
        };
        if binds < least { format!("({text})") } else { text }
    }
}

/// Parts of a signature, one level in, in lines that fit; the last ends with `end`.
fn filled(parts: &[String], end: &str) -> String {
    let mut text = String::new();
    let mut column = 0;
    for (i, part) in parts.iter().enumerate() {
        let after = if i + 1 == parts.len() { end } else { "," };
        let length = part.chars().count() + after.len();
        if column > 0 && column + 1 + length <= WIDTH {
            text.push(' ');
            column += 1 + length;
        } else {
            if column > 0 {
                text.push('\n');
            }
            text.push_str("    ");
            column = 4 + length;
        }
        text.push_str(part);
        text.push_str(after);
    }
    if column > 0 {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn format(source: &str) -> String {
        print(&parse(source, 0).unwrap_or_else(|d| panic!("{d:?}")), source)
    }

    #[test]
    fn formatting_twice_changes_nothing_and_keeps_comments() {
        let source = "// head\n\n\nnet a( x :f32[T,B] ) -> f32[T,B] { // opens\n  let y=(x+1)*2 ;let z = y|>f(k=1e-3)\n\n\n  // below\n  (z - (y - x)) ^ -2 // why\n  }\n// end\nsurrogate s(u;alpha=2.0)=alpha/(1+abs(u))^2\n";
        let once = format(source);
        assert_eq!(format(&once), once);
        let expected = "// head\n\nnet a(x: f32[T, B]) -> f32[T, B] { // opens\n    let y = (x + 1) * 2\n    let z = y |> f(k = 1e-3)\n\n    // below\n    (z - (y - x)) ^ -2 // why\n}\n// end\nsurrogate s(u; alpha = 2.0) = alpha / (1 + abs(u)) ^ 2\n";
        assert_eq!(once, expected);
    }

    #[test]
    fn blocks_with_statements_and_comments_keep_their_lines() {
        let source = "fn f(x; // the input\n  k = 2) {\n  if k == 0 { x } else {\n    // One step.\n    let y = x + 1 // more\n\n    f(y, k = k - 1)\n    // done\n  }\n}\n";
        let once = format(source);
        assert_eq!(format(&once), once);
        let expected = "// the input\nfn f(x; k = 2) {\n    if k == 0 {\n        x\n    } else {\n        // One step.\n        let y = x + 1 // more\n\n        f(y, k = k - 1)\n        // done\n    }\n}\n";
        assert_eq!(once, expected);
    }

    #[test]
    fn nesting_is_formatted_in_linear_time() {
        let deep = (0..90).fold("x".to_string(), |inner, i| format!("if k == {i} {{ {inner} }} else {{ y |> f(k = {i}) }}"));
        let once = format(&format!("fn f(x, y; k) {{ {deep} }}"));
        assert_eq!(format(&once), once);
    }

    #[test]
    fn long_signatures_break() {
        let settings = (0..12).map(|i| format!("setting_{i} = {i}.0")).collect::<Vec<_>>().join(", ");
        let inputs = (0..5).map(|i| format!("input_{i}: f32[T, B, 784]")).collect::<Vec<_>>().join(", ");
        for source in [
            format!("net a({inputs}; {settings}) -> f32[T] {{ x }}"),
            format!("net a({inputs}) {{ x }}"),
            format!("fn a(x; {settings}) = x"),
        ] {
            let once = format(&source);
            assert!(once.lines().count() > 3 && once.lines().all(|l| l.len() <= WIDTH), "{once}");
            assert_eq!(format(&once), once);
        }
    }

    #[test]
    fn long_pipes_break() {
        let stages = ["linear(784, 256)"; 9].join(" |> ");
        let once = format(&format!("net a(x: f32[T]) -> f32[T] {{\n x |> {stages}\n}}"));
        assert!(once.lines().all(|l| l.len() <= WIDTH), "{once}");
        assert_eq!(format(&once), once);
    }
}

//! The formatter: a syntax tree in its canonical layout, with its comments.
//!
//! Four blanks of indentation, one statement a line, brackets only where they are needed, blank lines kept as one.
//! A pipe that does not fit [`WIDTH`] columns puts each stage on a line of its own.

use crate::ast::*;
use crate::dump::subscript;

/// How long a line may become.
pub const WIDTH: usize = 110;

/// Writes a file. `source` is the text that `ast` was parsed from: numbers are written as they stand there.
pub fn print(ast: &Ast, source: &str) -> String {
    let mut printer = Printer { ast, source, out: String::new(), comment: 0, last_end: 0 };
    for item in &ast.items {
        printer.gap(item.span.start, 0);
        printer.item(item);
        printer.trailing(item.span.end);
    }
    printer.comments_before(usize::MAX, 0);
    printer.out
}

struct Printer<'a> {
    ast: &'a Ast,
    source: &'a str,
    out: String,
    /// The next comment to write.
    comment: usize,
    /// Where in the source the last thing written ends.
    last_end: usize,
}

impl Printer<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        self.out.push_str(&"    ".repeat(depth));
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// A blank line where the source has one before `start`.
    fn blank_before(&mut self, start: usize) {
        let between = self.source.get(self.last_end..start).unwrap_or("");
        let lines = between.split('\n').count();
        let blank = between.split('\n').skip(1).take(lines.saturating_sub(2)).any(|l| l.trim().is_empty());
        if blank && !self.out.is_empty() && !self.out.ends_with("{\n") && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    fn comments_before(&mut self, start: usize, depth: usize) {
        while let Some(c) = self.ast.comments.get(self.comment).filter(|c| c.span.start < start) {
            self.blank_before(c.span.start);
            let text = self.source[c.span.start..c.span.end].trim_end().to_string();
            self.line(depth, &text);
            self.last_end = c.span.end;
            self.comment += 1;
        }
    }

    fn gap(&mut self, start: usize, depth: usize) {
        self.comments_before(start, depth);
        self.blank_before(start);
    }

    /// Comments that stand on the last line of what ends at `end`.
    fn trailing(&mut self, end: usize) {
        self.last_end = self.last_end.max(end);
        while let Some(c) = self.ast.comments.get(self.comment) {
            let same_line = c.trailing && self.source.get(end..c.span.start).is_some_and(|t| !t.contains('\n'));
            let inside = c.span.start < end;
            if !(same_line || inside) {
                break;
            }
            let text = self.source[c.span.start..c.span.end].trim_end().to_string();
            if same_line {
                self.out.truncate(self.out.trim_end_matches('\n').len());
                self.out.push(' ');
                self.out.push_str(&text);
                self.out.push('\n');
            } else {
                // A comment inside of an expression moves below its statement.
                let depth = self.out.trim_end().rsplit('\n').next().map_or(0, |l| (l.len() - l.trim_start().len()) / 4);
                self.line(depth, &text);
            }
            self.last_end = c.span.end.max(end);
            self.comment += 1;
        }
    }

    fn item(&mut self, item: &Item) {
        let kind = match item.kind {
            ItemKind::Net => "net",
            ItemKind::Neuron => "neuron",
            ItemKind::Surrogate => "surrogate",
            ItemKind::Function => "fn",
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
                Some(d) => format!("{} = {}", s.name.text, self.expr(d, 0)),
                None => s.name.text.clone(),
            })
            .collect();
        let settings = if settings.is_empty() { String::new() } else { format!("; {}", settings.join(", ")) };
        let result = match item.results.as_slice() {
            [] => String::new(),
            [ResultType { name: None, ty }] => format!(" -> {}", self.type_expr(ty)),
            several => {
                let named = |r: &ResultType| {
                    let name = r.name.as_ref().map_or("out", |n| n.text.as_str());
                    format!("{name}: {}", self.type_expr(&r.ty))
                };
                format!(" -> ({})", several.iter().map(named).collect::<Vec<_>>().join(", "))
            }
        };
        let head = format!("{kind} {}({}{settings}){result}", item.name.text, inputs.join(", "));
        match &item.body {
            Body::Expression(e) => {
                let text = format!("{head} = {}", self.expr(*e, 0));
                self.line(0, &text);
            }
            Body::Block(b) => {
                self.line(0, &format!("{head} {{"));
                self.last_end = b.span.start + 1;
                self.trailing(b.span.start + 1);
                self.statements(b, 1);
                self.line(0, "}");
            }
        }
        self.last_end = item.span.end;
    }

    fn statements(&mut self, block: &Block, depth: usize) {
        for s in &block.statements {
            self.gap(s.span.start, depth);
            let text = self.statement(s, depth);
            self.line(depth, &text);
            self.trailing(s.span.end);
        }
        self.comments_before(block.span.end, depth);
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
            StatementKind::Expression(value) => (String::new(), value),
        };
        let text = head.clone() + &self.expr(*value, 0);
        if depth * 4 + text.len() <= WIDTH {
            return text;
        }
        // A long pipe: a line for each stage.
        let mut stages = Vec::new();
        let mut first = *value;
        while let ExprKind::Binary(BinaryOperator::Pipe, a, b) = &self.ast.expr(first).kind {
            stages.push(*b);
            first = *a;
        }
        let mut text = head + &self.expr(first, BinaryOperator::Pipe.precedence());
        for stage in stages.iter().rev() {
            text.push_str(&format!("\n{}|> {}", "    ".repeat(depth + 1), self.expr(*stage, 2)));
        }
        text
    }

    fn type_expr(&self, ty: &TypeExpr) -> String {
        let dims: Vec<String> = ty
            .dimensions
            .iter()
            .map(|d| match d {
                Dimension::Expression(e) => self.expr(*e, 0),
                Dimension::Rest(_) => "...".into(),
            })
            .collect();
        format!("{}[{}]", ty.dtype, dims.join(", "))
    }

    fn block(&self, b: &Block) -> String {
        let parts: Vec<String> = b.statements.iter().map(|s| self.statement(s, 0)).collect();
        if parts.is_empty() { "{ }".into() } else { format!("{{ {} }}", parts.join("; ")) }
    }

    /// An expression, in brackets if it binds less tightly than `least`.
    fn expr(&self, id: ExprId, least: u8) -> String {
        stacker::maybe_grow(64 << 10, 4 << 20, || self.plain(id, least))
    }

    fn plain(&self, id: ExprId, least: u8) -> String {
        let expr = self.ast.expr(id);
        let list = |items: &[ExprId]| items.iter().map(|e| self.expr(*e, 0)).collect::<Vec<_>>().join(", ");
        let postfix = UNARY_PRECEDENCE + 3;
        let (text, binds) = match &expr.kind {
            ExprKind::Int(_) | ExprKind::Float(_) => (self.source[expr.span.start..expr.span.end].to_string(), u8::MAX),
            ExprKind::Bool(b) => (b.to_string(), u8::MAX),
            ExprKind::Nothing => ("none".into(), u8::MAX),
            ExprKind::ThisNet => ("net".into(), u8::MAX),
            ExprKind::Name(n) => (n.clone(), u8::MAX),
            ExprKind::List(items) => (format!("[{}]", list(items)), u8::MAX),
            ExprKind::Tuple(items) if items.len() == 1 => (format!("({},)", list(items)), u8::MAX),
            ExprKind::Tuple(items) => (format!("({})", list(items)), u8::MAX),
            ExprKind::Unary(op, e) => {
                let symbol = if *op == UnaryOperator::Minus { "-" } else { "!" };
                (format!("{symbol}{}", self.expr(*e, UNARY_PRECEDENCE)), UNARY_PRECEDENCE)
            }
            ExprKind::Binary(op, a, b) => {
                let p = op.precedence();
                let (left, right) = if op.is_right_associative() { (p + 1, p) } else { (p, p + 1) };
                // A unary operand binds weaker than `^`, and may still stand on its right.
                let b_is_unary = matches!(self.ast.expr(*b).kind, ExprKind::Unary(..));
                let right = if b_is_unary { 0 } else { right };
                (format!("{} {} {}", self.expr(*a, left), op.symbol(), self.expr(*b, right)), p)
            }
            ExprKind::Call { callee, arguments } => {
                let parts: Vec<String> = arguments
                    .iter()
                    .map(|a| match &a.name {
                        Some(n) => format!("{} = {}", n.text, self.expr(a.value, 0)),
                        None => self.expr(a.value, 0),
                    })
                    .collect();
                (format!("{}({})", self.expr(*callee, postfix), parts.join(", ")), u8::MAX)
            }
            ExprKind::Index { base, subscripts } => {
                let parts: Vec<String> = subscripts.iter().map(|s| subscript(self.ast, s, &|e| self.expr(e, 0))).collect();
                (format!("{}[{}]", self.expr(*base, postfix), parts.join(", ")), u8::MAX)
            }
            ExprKind::Field { base, name } => (format!("{}.{}", self.expr(*base, postfix), name.text), u8::MAX),
            ExprKind::If { condition, then, otherwise } => {
                let nested = match otherwise.statements.as_slice() {
                    [Statement { kind: StatementKind::Expression(e), .. }]
                        if matches!(self.ast.expr(*e).kind, ExprKind::If { .. }) && otherwise.span == self.ast.expr(*e).span =>
                    {
                        self.expr(*e, 0)
                    }
                    _ => self.block(otherwise),
                };
                (format!("if {} {} else {nested}", self.expr(*condition, 0), self.block(then)), u8::MAX)
            }
        };
        if binds < least { format!("({text})") } else { text }
    }
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
    fn long_pipes_break() {
        let stages = ["linear(784, 256)"; 9].join(" |> ");
        let once = format(&format!("net a(x: f32[T]) -> f32[T] {{\n x |> {stages}\n}}"));
        assert!(once.lines().all(|l| l.len() <= WIDTH), "{once}");
        assert_eq!(format(&once), once);
    }
}

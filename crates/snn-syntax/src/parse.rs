//! Text to syntax tree.

use pest::Parser;
use pest::error::{ErrorVariant, InputLocation};
use pest::iterators::Pair;

use crate::ast::*;
use crate::diagnostic::Diagnostic;
use crate::layout::layout;

mod generated {
    #![allow(missing_docs)]
    /// The parser that pest makes of the grammar.
    #[derive(pest_derive::Parser)]
    #[grammar = "../../grammar/snn.pest"]
    pub struct Grammar;
}
use generated::{Grammar, Rule};

/// Parses a file, whose number is that of its place in [`crate::Sources`].
///
/// # Errors
/// The first thing that is not in the grammar, with what was expected.
pub fn parse(text: &str, file: u16) -> Result<Ast> {
    run(text, file, Rule::file, |builder, pair| {
        for pair in pair.into_inner().filter(|p| p.as_rule() != Rule::EOI) {
            let item = builder.item(pair)?;
            builder.ast.items.push(item);
        }
        Ok(())
    })
    .map(|(ast, ())| ast)
}

/// Parses a file, and where that fails finds what is wrong in each of its items, which begin at the first column.
///
/// # Errors
/// The first thing of each item that is not in the grammar.
pub fn parse_all(text: &str, file: u16) -> std::result::Result<Ast, Vec<Diagnostic>> {
    let first = match parse(text, file) {
        Ok(ast) => return Ok(ast),
        Err(d) => *d,
    };
    let starts: Vec<usize> = text
        .split_inclusive('\n')
        .scan(0, |at, line| {
            let start = *at;
            *at += line.len();
            Some((start, line))
        })
        .filter(|(_, line)| ["net ", "neuron ", "surrogate ", "fn ", "let ", "use "].iter().any(|w| line.starts_with(w)))
        .map(|(start, _)| start)
        .collect();
    // An item alone, with blanks in place of the others, so that places stay.
    let blank = |t: &str| t.chars().map(|c| if c == '\n' { "\n".to_string() } else { " ".repeat(c.len_utf8()) }).collect::<String>();
    let mut all = vec![first];
    for (i, start) in starts.iter().enumerate().take(MOST_ITEMS) {
        let end = starts.get(i + 1).copied().unwrap_or(text.len());
        let alone = blank(&text[..*start]) + &text[*start..end];
        if let Err(d) = parse(&alone, file)
            && !all.iter().any(|known| known.labels.first().map(|l| l.0.start) == d.labels.first().map(|l| l.0.start))
        {
            all.push(*d);
        }
    }
    all.truncate(MOST_SYNTAX_ERRORS);
    Err(all)
}

/// Items that are looked at one by one after an error.
const MOST_ITEMS: usize = 200;
/// Syntax errors that are told together.
const MOST_SYNTAX_ERRORS: usize = 10;

/// Parses one expression.
///
/// # Errors
/// As [`parse()`].
pub fn parse_expression(text: &str, file: u16) -> Result<(Ast, ExprId)> {
    run(text, file, Rule::expression, |builder, pair| {
        if pair.as_span().end() < text.trim_end().len() {
            let span = Span { file, start: pair.as_span().end(), end: text.len() };
            return Err(Box::new(Diagnostic::error("the expression ends before its text").label(span, "this is left over")));
        }
        builder.expression(pair)
    })
}

/// What parsing gives.
pub type Result<T> = std::result::Result<T, Box<Diagnostic>>;

/// Runs the grammar on a stack that is large enough for the deepest nesting that `layout` lets through.
fn run<R>(text: &str, file: u16, rule: Rule, build: impl FnOnce(&mut Builder, Pair<'_, Rule>) -> Result<R>) -> Result<(Ast, R)> {
    if let Some(at) = text.find('\0') {
        let span = Span { file, start: at, end: at + 1 };
        return Err(Box::new(Diagnostic::error("the file holds a NUL byte").label(span, "here").help("is this a text file?")));
    }
    let layout = layout(text, file)?;
    let mut builder = Builder { ast: Ast { comments: layout.comments, ..Ast::default() }, file };
    stacker::grow(256 << 20, || {
        let mut pairs = Grammar::parse(rule, &layout.text).map_err(|e| builder.syntax_error(text, &e))?;
        let Some(pair) = pairs.next() else { return Err(Box::new(Diagnostic::error("there is nothing to parse"))) };
        let result = build(&mut builder, pair)?;
        Ok((std::mem::take(&mut builder.ast), result))
    })
}

struct Builder {
    ast: Ast,
    file: u16,
}

/// What waits for its right operand.
#[derive(Clone, Copy)]
enum Waiting {
    Unary(UnaryOperator, Span),
    Binary(BinaryOperator),
}

impl Waiting {
    fn precedence(self) -> u8 {
        match self {
            Waiting::Unary(..) => UNARY_PRECEDENCE,
            Waiting::Binary(op) => op.precedence(),
        }
    }
}

impl Builder {
    fn span(&self, pair: &Pair<'_, Rule>) -> Span {
        let span = pair.as_span();
        // A rule can end in blanks that it skipped.
        let end = span.start() + span.as_str().trim_end().len();
        Span { file: self.file, start: span.start(), end }
    }

    fn syntax_error(&self, text: &str, error: &pest::error::Error<Rule>) -> Box<Diagnostic> {
        let (start, end) = match error.location {
            // A whole character, however many bytes it has.
            InputLocation::Pos(at) => (at, at + text.get(at..).and_then(|t| t.chars().next()).map_or(1, char::len_utf8)),
            InputLocation::Span((a, b)) => (a, b),
        };
        let span = Span { file: self.file, start, end };
        let expected = match &error.variant {
            ErrorVariant::ParsingError { positives, .. } => {
                let mut words: Vec<&str> = positives.iter().filter_map(|r| describe(*r)).collect();
                words.sort_unstable();
                words.dedup();
                words.join(", ")
            }
            ErrorVariant::CustomError { message } => message.clone(),
        };
        if let Some(known) = crate::mistakes::mistake(text, start, self.file) {
            return Box::new(known);
        }
        let what = if expected.is_empty() { "this does not belong here".to_string() } else { format!("expected {expected}") };
        let few = !expected.is_empty() && expected.matches(", ").count() < 3;
        let message = if few { format!("expected {expected}") } else { "this does not belong here".to_string() };
        Box::new(Diagnostic::error(message).label(span, if few { "here".to_string() } else { what }))
    }

    fn name(&self, pair: &Pair<'_, Rule>) -> Name {
        Name { text: pair.as_str().to_string(), span: self.span(pair) }
    }

    fn item(&mut self, pair: Pair<'_, Rule>) -> Result<Item> {
        let span = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::net => ItemKind::Net,
            Rule::neuron => ItemKind::Neuron,
            Rule::surrogate => ItemKind::Surrogate,
            Rule::constant => ItemKind::Constant,
            Rule::use_file => return self.use_file(pair),
            _ => ItemKind::Function,
        };
        let mut item = Item {
            kind,
            name: Name { text: String::new(), span },
            inputs: vec![],
            settings: vec![],
            results: vec![],
            body: Body::Block(Block::default()),
            uses: None,
            span,
        };
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => item.name = self.name(&part),
                Rule::signature => self.signature(part, &mut item)?,
                Rule::result => item.results = self.results(part)?,
                Rule::block => item.body = Body::Block(self.block(part)?),
                Rule::expression => item.body = Body::Expression(self.expression(part)?),
                _ => {}
            }
        }
        Ok(item)
    }

    fn use_file(&mut self, pair: Pair<'_, Rule>) -> Result<Item> {
        let span = self.span(&pair);
        let (mut uses, mut prefix) = (Use::default(), None);
        let mut has_prefix = false;
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::string => uses.path = (unquoted(part.as_str()), self.span(&part)),
                Rule::keyword_as => has_prefix = true,
                Rule::name if has_prefix => prefix = Some(self.name(&part)),
                Rule::name => uses.chosen.push(self.name(&part)),
                _ => {}
            }
        }
        let name = prefix.unwrap_or(Name { text: format!("use {}", uses.path.0), span: uses.path.1 });
        let body = Body::Block(Block::default());
        Ok(Item { kind: ItemKind::Use, name, inputs: vec![], settings: vec![], results: vec![], body, uses: Some(uses), span })
    }

    fn signature(&mut self, pair: Pair<'_, Rule>, item: &mut Item) -> Result<()> {
        for list in pair.into_inner() {
            for part in list.into_inner() {
                let is_input = part.as_rule() == Rule::input;
                let mut name = None;
                let mut ty = None;
                let mut default = None;
                for piece in part.into_inner() {
                    match piece.as_rule() {
                        Rule::name => name = Some(self.name(&piece)),
                        Rule::type_ => ty = Some(self.type_expr(piece)?),
                        _ => default = Some(self.expression(piece)?),
                    }
                }
                let Some(name) = name else { continue };
                if is_input {
                    item.inputs.push(Input { name, ty });
                } else {
                    item.settings.push(Setting { name, default });
                }
            }
        }
        Ok(())
    }

    fn type_expr(&mut self, pair: Pair<'_, Rule>) -> Result<TypeExpr> {
        let span = self.span(&pair);
        let mut ty = TypeExpr { dtype: String::new(), dimensions: vec![], span };
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::dtype => ty.dtype = part.as_str().to_string(),
                Rule::rest => ty.dimensions.push(Dimension::Rest(self.span(&part))),
                _ => {
                    let id = self.expression(part)?;
                    ty.dimensions.push(Dimension::Expression(id));
                }
            }
        }
        Ok(ty)
    }

    fn results(&mut self, pair: Pair<'_, Rule>) -> Result<Vec<ResultType>> {
        let mut results = Vec::new();
        for part in pair.into_inner() {
            if part.as_rule() == Rule::type_ {
                results.push(ResultType { name: None, ty: Some(self.type_expr(part)?) });
                continue;
            }
            let mut pieces = part.into_inner();
            if let Some(name) = pieces.next() {
                let ty = pieces.next().map(|ty| self.type_expr(ty)).transpose()?;
                results.push(ResultType { name: Some(self.name(&name)), ty });
            }
        }
        Ok(results)
    }

    fn block(&mut self, pair: Pair<'_, Rule>) -> Result<Block> {
        let mut block = Block { statements: vec![], span: self.span(&pair) };
        for part in pair.into_inner() {
            if part.as_rule() == Rule::separator {
                continue;
            }
            let statement = self.statement(part)?;
            block.statements.push(statement);
        }
        Ok(block)
    }

    fn statement(&mut self, pair: Pair<'_, Rule>) -> Result<Statement> {
        let span = self.span(&pair);
        let rule = pair.as_rule();
        if rule == Rule::expression {
            return Ok(Statement { kind: StatementKind::Expression(self.expression(pair)?), span });
        }
        let (mut names, mut ty, mut value, mut recursive) = (vec![], None, None, false);
        let (mut message, mut adds) = (None, false);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name | Rule::path => names.push(self.name(&part)),
                Rule::string => message = Some(unquoted(part.as_str())),
                Rule::update => adds = part.as_str() == "+=",
                Rule::pattern => names.extend(part.into_inner().map(|p| self.name(&p))),
                Rule::keyword_rec => recursive = true,
                Rule::type_ => ty = Some(self.type_expr(part)?),
                Rule::expression => value = Some(self.expression(part)?),
                _ => {}
            }
        }
        let Some(value) = value else { return Err(Box::new(Diagnostic::error("a value is missing").label(span, "here"))) };
        if rule == Rule::emit {
            return Ok(Statement { kind: StatementKind::Emit(value), span });
        }
        if rule == Rule::assertion {
            return Ok(Statement { kind: StatementKind::Assert { condition: value, message }, span });
        }
        if rule == Rule::binding {
            return Ok(Statement { kind: StatementKind::Let { names, recursive, ty, value }, span });
        }
        let name = names.into_iter().next().unwrap_or(Name { text: String::new(), span });
        let kind = match rule {
            Rule::layer => StatementKind::Layer { name, value },
            Rule::parameter => StatementKind::Parameter { name, ty, value, learnable: true },
            Rule::buffer => StatementKind::Parameter { name, ty, value, learnable: false },
            Rule::state => StatementKind::State { name, value },
            _ if adds => {
                // `v += x` is `v = v + x`.
                let own = self.ast.add(ExprKind::Name(name.text.clone()), name.span);
                StatementKind::Assign { value: self.ast.add(ExprKind::Binary(BinaryOperator::Add, own, value), span), name }
            }
            _ => StatementKind::Assign { name, value },
        };
        Ok(Statement { kind, span })
    }

    /// Operators by precedence, with two stacks instead of recursion.
    fn expression(&mut self, pair: Pair<'_, Rule>) -> Result<ExprId> {
        let mut values: Vec<ExprId> = Vec::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        for part in pair.into_inner() {
            if part.as_rule() == Rule::operand {
                for piece in self.operand(part)? {
                    match piece {
                        Piece::Prefix(op, span) => waiting.push(Waiting::Unary(op, span)),
                        Piece::Value(id) => values.push(id),
                    }
                }
                continue;
            }
            let known = BinaryOperator::ALL.iter().find(|(_, s)| *s == part.as_str());
            let Some((op, _)) = known.copied() else { continue };
            while let Some(top) = waiting.last() {
                let binds = top.precedence() > op.precedence() || (top.precedence() == op.precedence() && !op.is_right_associative());
                if !binds {
                    break;
                }
                self.reduce(&mut values, &mut waiting)?;
            }
            waiting.push(Waiting::Binary(op));
        }
        while !waiting.is_empty() {
            self.reduce(&mut values, &mut waiting)?;
        }
        values.pop().map_or_else(|| Err(Box::new(Diagnostic::error("an expression is missing"))), Ok)
    }

    fn reduce(&mut self, values: &mut Vec<ExprId>, waiting: &mut Vec<Waiting>) -> Result<()> {
        let (Some(op), Some(right)) = (waiting.pop(), values.pop()) else { return Ok(()) };
        let end = self.ast.expr(right).span.end;
        let id = match op {
            Waiting::Unary(op, span) => self.ast.add(ExprKind::Unary(op, right), Span { end, ..span }),
            Waiting::Binary(op) => {
                let Some(left) = values.pop() else { return Ok(()) };
                let span = Span { end, ..self.ast.expr(left).span };
                let right_kind = &self.ast.expr(right).kind;
                if op == BinaryOperator::Pipe
                    && !matches!(right_kind, ExprKind::Call { .. } | ExprKind::Name(_) | ExprKind::Field { .. } | ExprKind::Index { .. })
                {
                    let place = self.ast.expr(right).span;
                    if matches!(right_kind, ExprKind::ThisNet) {
                        let d =
                            Diagnostic::error("`net` is a reserved word: the net that is being written").label(place, "this is no layer");
                        return Err(Box::new(d.help("call the layer otherwise, or write `net.net` for a layer called `net`")));
                    }
                    return Err(Box::new(
                        Diagnostic::error("`|>` needs something to call on its right")
                            .label(place, "this is not a call")
                            .help("write `x |> f` or `x |> f(more)`"),
                    ));
                }
                self.ast.add(ExprKind::Binary(op, left, right), span)
            }
        };
        values.push(id);
        Ok(())
    }

    fn operand(&mut self, pair: Pair<'_, Rule>) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut value: Option<ExprId> = None;
        for part in pair.into_inner() {
            let span = self.span(&part);
            let base = value;
            let whole = |ast: &Ast| base.map_or(span, |b| Span { end: span.end, ..ast.expr(b).span });
            match (part.as_rule(), base) {
                (Rule::prefix, _) => {
                    let op = if part.as_str() == "-" { UnaryOperator::Minus } else { UnaryOperator::Not };
                    pieces.push(Piece::Prefix(op, span));
                }
                (Rule::call, Some(callee)) => {
                    let arguments = part.into_inner().map(|a| self.argument(a)).collect::<Result<_>>()?;
                    let span = whole(&self.ast);
                    value = Some(self.ast.add(ExprKind::Call { callee, arguments }, span));
                }
                (Rule::index, Some(base)) => {
                    let subscripts = part.into_inner().map(|s| self.subscript(s)).collect::<Result<_>>()?;
                    let span = whole(&self.ast);
                    value = Some(self.ast.add(ExprKind::Index { base, subscripts }, span));
                }
                (Rule::field, Some(base)) => {
                    if let Some(name) = part.into_inner().next() {
                        let name = self.name(&name);
                        let span = whole(&self.ast);
                        value = Some(self.ast.add(ExprKind::Field { base, name }, span));
                    }
                }
                _ => value = Some(self.primary(part)?),
            }
        }
        pieces.extend(value.map(Piece::Value));
        Ok(pieces)
    }

    fn argument(&mut self, pair: Pair<'_, Rule>) -> Result<Argument> {
        let mut name = None;
        let mut value = None;
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => name = Some(self.name(&part)),
                _ => value = Some(self.expression(part)?),
            }
        }
        value.map_or_else(|| Err(Box::new(Diagnostic::error("an argument is missing"))), |value| Ok(Argument { name, value }))
    }

    fn subscript(&mut self, pair: Pair<'_, Rule>) -> Result<Subscript> {
        let (mut at, mut bounds) = (None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::rest => return Ok(Subscript::Rest),
                Rule::span => {
                    let (mut high, mut step) = (None, None);
                    for bound in part.into_inner() {
                        let rule = bound.as_rule();
                        let inner = bound.into_inner().next().map(|e| self.expression(e)).transpose()?;
                        match rule {
                            Rule::high => high = inner,
                            _ => step = inner,
                        }
                    }
                    bounds = Some((high, step));
                }
                _ => at = Some(self.expression(part)?),
            }
        }
        Ok(match (at, bounds) {
            (low, Some((high, step))) => Subscript::Span { low, high, step },
            (Some(e), None) => Subscript::At(e),
            (None, None) => Subscript::Rest,
        })
    }

    fn primary(&mut self, pair: Pair<'_, Rule>) -> Result<ExprId> {
        let span = self.span(&pair);
        let text = pair.as_str();
        let kind = match pair.as_rule() {
            Rule::number => self.number(text, span)?,
            Rule::truth => ExprKind::Bool(text == "true"),
            Rule::nothing => ExprKind::Nothing,
            Rule::string => ExprKind::Text(unquoted(text)),
            Rule::this_net => ExprKind::ThisNet,
            Rule::name | Rule::conversion => ExprKind::Name(text.to_string()),
            Rule::conditional => return self.conditional(pair),
            rule => {
                let trailing_comma = text[..text.len() - 1].trim_end().ends_with(',');
                let inner_again = pair.clone().into_inner();
                let mut inner = pair.into_inner();
                if let (Some(element), Some(generator)) = (inner.next(), inner.next().filter(|g| g.as_rule() == Rule::generator)) {
                    return self.comprehension(element, generator, span);
                }
                let items = inner_again.map(|e| self.expression(e)).collect::<Result<Vec<_>>>()?;
                match (rule, items.as_slice()) {
                    (Rule::list, _) => ExprKind::List(items),
                    // Brackets around one expression only group.
                    (_, [only]) if !trailing_comma => return Ok(*only),
                    _ => ExprKind::Tuple(items),
                }
            }
        };
        Ok(self.ast.add(kind, span))
    }

    fn comprehension(&mut self, element: Pair<'_, Rule>, generator: Pair<'_, Rule>, span: Span) -> Result<ExprId> {
        let element = self.expression(element)?;
        let (mut name, mut items) = (None, None);
        for part in generator.into_inner() {
            match part.as_rule() {
                Rule::name => name = Some(self.name(&part)),
                Rule::expression => items = Some(self.expression(part)?),
                _ => {}
            }
        }
        match (name, items) {
            (Some(name), Some(items)) => Ok(self.ast.add(ExprKind::Comprehension { element, name, items }, span)),
            _ => Err(Box::new(Diagnostic::error("`for` needs a name and a list").label(span, "write `[f(w) for w in list]`"))),
        }
    }

    fn number(&self, text: &str, span: Span) -> Result<ExprKind> {
        let bad = |why: &str| Box::new(Diagnostic::error(format!("`{text}` is not a number")).label(span, why));
        if text.contains(['.', 'e', 'E']) {
            let value: f64 = text.parse().map_err(|_| bad("this cannot be read"))?;
            return if value.is_finite() { Ok(ExprKind::Float(value)) } else { Err(bad("this is too large")) };
        }
        text.parse().map(ExprKind::Int).map_err(|_| bad("an integer fits 64 bits"))
    }

    fn conditional(&mut self, pair: Pair<'_, Rule>) -> Result<ExprId> {
        let span = self.span(&pair);
        let (mut condition, mut blocks) = (None, Vec::new());
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::expression => condition = Some(self.expression(part)?),
                Rule::block => blocks.push(self.block(part)?),
                Rule::conditional => {
                    let span = self.span(&part);
                    let nested = self.conditional(part)?;
                    let statement = Statement { kind: StatementKind::Expression(nested), span };
                    blocks.push(Block { statements: vec![statement], span });
                }
                _ => {}
            }
        }
        let mut blocks = blocks.into_iter();
        match (condition, blocks.next(), blocks.next()) {
            (Some(condition), Some(then), Some(otherwise)) => Ok(self.ast.add(ExprKind::If { condition, then, otherwise }, span)),
            _ => Err(Box::new(Diagnostic::error("`if` needs a condition and two blocks").label(span, "here"))),
        }
    }
}

/// What a string stands for.
fn unquoted(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.get(1..text.len().saturating_sub(1)).unwrap_or_default().chars();
    while let Some(c) = characters.next() {
        out.push(match c {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    out
}

enum Piece {
    Prefix(UnaryOperator, Span),
    Value(ExprId),
}

/// What a rule is called in "expected ...".
fn describe(rule: Rule) -> Option<&'static str> {
    Some(match rule {
        Rule::file | Rule::WHITESPACE | Rule::word | Rule::keyword => return None,
        Rule::EOI => "the end of the file",
        Rule::net | Rule::keyword_net => "`net`",
        Rule::neuron | Rule::keyword_neuron => "`neuron`",
        Rule::surrogate | Rule::keyword_surrogate => "`surrogate`",
        Rule::function | Rule::keyword_fn => "`fn`",
        Rule::separator => "a new line",
        Rule::use_file | Rule::keyword_use => "`use`",
        Rule::constant => "`let`",
        Rule::string => "a text in quotes",
        Rule::generator | Rule::keyword_for => "`for`",
        Rule::keyword_in => "`in`",
        Rule::keyword_as => "`as`",
        Rule::update => "`=`",
        Rule::assertion | Rule::keyword_assert => "a statement",
        Rule::type_ | Rule::dtype => "a type such as `f32[T, B]`",
        Rule::result | Rule::named_result => "a result type",
        Rule::block => "`{`",
        Rule::name | Rule::input | Rule::path | Rule::word_name => "a name",
        Rule::operator => "an operator",
        Rule::call => "`(`",
        Rule::index => "`[`",
        Rule::field => "`.`",
        Rule::keyword_else => "`else`",
        Rule::layer | Rule::parameter | Rule::buffer | Rule::state | Rule::emit | Rule::binding | Rule::assignment => "a statement",
        Rule::keyword_layer | Rule::keyword_param | Rule::keyword_buffer | Rule::keyword_state | Rule::keyword_emit | Rule::keyword_let => {
            "a statement"
        }
        Rule::setting | Rule::settings => "a setting",
        Rule::rest => "`...`",
        Rule::span | Rule::high | Rule::step | Rule::subscript => "an index",
        Rule::argument => "an argument",
        Rule::keyword_rec => "`rec`",
        _ => "an expression",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump;

    fn text(source: &str) -> String {
        let (ast, id) = parse_expression(source, 0).unwrap_or_else(|d| panic!("{source}: {d:?}"));
        dump::expression(&ast, id)
    }

    #[test]
    fn operators_bind_as_in_python() {
        assert_eq!(text("a + b * c ^ -d ^ 2"), "(+ a (* b (^ c (- (^ d 2)))))");
        assert_eq!(text("-a ^ 2 * b"), "(* (- (^ a 2)) b)");
        assert_eq!(text("a - b - c"), "(- (- a b) c)");
        assert_eq!(text("x |> f |> g(1, k = 2)"), "(|> (|> x f) (call g 1 k=2))");
        assert_eq!(text("a < b && !c == d"), "(&& (< a b) (== (! c) d))");
        assert_eq!(text("v_reset or 0.0"), "(or v_reset 0.0)");
        assert_eq!(text("x[0, 1:3, :, ...].v"), "(. (index x 0 1:3 : ...) v)");
    }

    #[test]
    fn lines_end_statements_unless_they_go_on() {
        let ast = parse("net a(x: f32[T]) -> f32[T] {\n  let y = x +\n    1\n  y\n    // why\n    |> f\n    |> g\n}\n", 0).unwrap();
        let Body::Block(block) = &ast.items[0].body else { panic!() };
        assert_eq!(block.statements.len(), 2);
        let ast = parse("fn f(x) {\n  let y = g(\n    x,\n    if x { 1\n } else { 2 })\n  -y\n}", 0).unwrap();
        let Body::Block(block) = &ast.items[0].body else { panic!() };
        assert_eq!(block.statements.len(), 2);
    }

    #[test]
    fn hostile_text_is_an_error_and_not_a_crash() {
        let open = "(".repeat(100_000);
        assert!(parse_expression(&open, 0).unwrap_err().message.contains("nested"));
        let deep = format!("{}1{}", "(".repeat(199), ")".repeat(199));
        assert!(parse_expression(&deep, 0).is_ok());
        let chain = vec!["1"; 100_000].join(" ^ ");
        assert!(parse_expression(&chain, 0).is_ok());
        assert!(parse_expression(&format!("{}x", "-".repeat(100_000)), 0).is_ok());
        assert!(parse("net \0", 0).unwrap_err().message.contains("NUL"));
        assert!(parse("", 0).unwrap().items.is_empty());
        assert!(parse("]]]}}}", 0).is_err());
        assert!(parse_expression("99999999999999999999", 0).is_err());
    }
}

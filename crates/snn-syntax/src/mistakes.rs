//! What a syntax error probably is: the habits of other languages, and what is easily forgotten.
//!
//! The grammar stops at a place; here the words around it say which mistake stops people there. What is none of them stays what the grammar says.

use crate::ast::Span;
use crate::{Diagnostic, nearest};

/// A word, number, text or sign of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Number,
    Text,
    Sign,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    start: usize,
    /// Does it stand first in its line?
    first: bool,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Can an expression end with it?
    fn ends_expression(&self) -> bool {
        self.kind != Kind::Sign || matches!(self.text, ")" | "]")
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut list = Vec::new();
    let mut rest = text.char_indices().peekable();
    let mut first = true;
    while let Some((start, c)) = rest.next() {
        let mut end = start + c.len_utf8();
        let mut take = |while_: &dyn Fn(char) -> bool| {
            while let Some((i, c)) = rest.peek().copied().filter(|(_, c)| while_(*c)) {
                end = i + c.len_utf8();
                rest.next();
            }
            end
        };
        let kind = match c {
            '\n' => {
                first = true;
                continue;
            }
            c if c.is_whitespace() || c == '\u{feff}' => continue,
            '/' if text[start..].starts_with("//") => {
                take(&|c| c != '\n');
                continue;
            }
            '/' if text[start..].starts_with("/*") => {
                let stop = text[start..].find("*/").map_or(text.len(), |i| start + i + 2);
                while rest.peek().is_some_and(|(i, _)| *i < stop) {
                    rest.next();
                }
                continue;
            }
            '"' => {
                let mut escaped = false;
                for (i, c) in rest.by_ref() {
                    end = i + c.len_utf8();
                    if c == '\n' || c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
                Kind::Text
            }
            c if c.is_ascii_digit() => {
                end = take(&|c| c.is_ascii_digit() || c == '.');
                Kind::Number
            }
            c if c.is_alphabetic() || c == '_' => {
                end = take(&|c| c.is_alphanumeric() || c == '_');
                Kind::Word
            }
            _ => Kind::Sign,
        };
        list.push(Token { kind, text: &text[start..end], start, first });
        first = false;
    }
    list
}

/// Longer files are not looked through.
const LONGEST: usize = 1 << 20;

/// The mistake at a place where the grammar stops, if it is one that is known.
pub fn mistake(text: &str, at: usize, file: u16) -> Option<Diagnostic> {
    // What is wrong with a file of megabytes is seldom a habit.
    if text.len() > LONGEST {
        return None;
    }
    let tokens = tokens(text);
    let here = tokens.iter().position(|t| t.end() > at).unwrap_or(tokens.len());
    let say = |message: &str, from: usize, to: usize, label: &str, help: &str| {
        Some(Diagnostic::error(message).label(Span { file, start: from, end: to.max(from) }, label).help(help))
    };
    let token = |i: usize| tokens.get(i).copied();
    let before = |n: usize| here.checked_sub(n).and_then(token);
    let whole = |t: &Token<'_>, message: &str, label: &str, help: &str| say(message, t.start, t.end(), label, help);

    // Words and signs of other languages, at the place or just before it, where the grammar has taken them for names.
    for i in (here.saturating_sub(2)..=here).filter(|i| *i < tokens.len()) {
        let t = tokens[i];
        if t.kind == Kind::Word
            && let Some((message, help)) = foreign_word(&t, i.checked_sub(1).and_then(token))
        {
            return whole(&t, message, "this word", help);
        }
    }
    for (i, t) in [(here.wrapping_sub(1), before(1)), (here, token(here))].into_iter().filter_map(|(i, t)| Some((i, t?))) {
        let next = token(i + 1).filter(|n| n.start == t.end()).map_or("", |n| n.text);
        let pair = |message: &str, help: &str| say(message, t.start, t.end() + next.len(), "here", help);
        match (t.text, next) {
            ("#", _) => return pair("comments begin with `//`", "write `// ...`"),
            ("“" | "”" | "‘" | "’", _) => return pair("a text stands in straight quotes", "write `\"...\"`"),
            ("'", _) => return pair("a text stands in double quotes", "write `\"...\"`"),
            ("*", "*") => return pair("a power is written `^`", "write `x ^ 2`"),
            ("+", "+") => return pair("there is no `++`", "a value is named once: `let y = x + 1`"),
            ("-" | "*" | "/", "=") => {
                return pair("only `+=` changes a state or buffer in place", "write it out: `v = v - 1`; a new value is named with `let`");
            }
            ("=", "=") if before(1).is_some_and(|b| b.kind == Kind::Word) && i == here => {}
            ("?", _) => return pair("there is no `? :`", "write `if condition { a } else { b }`, or `where(condition, a, b)` of tensors"),
            ("&", n) if n != "&" => return pair("`and` is written `&&`", "write `a && b`"),
            ("|", n) if n != "|" && n != ">" => return pair("`or` is written `||`", "write `a || b`"),
            _ => {}
        }
    }
    if let Some(t) =
        [before(1), token(here)].into_iter().flatten().find(|t| t.kind == Kind::Text && (t.text.len() == 1 || !t.text.ends_with('"')))
    {
        return say(
            "the text is never closed",
            t.start,
            t.start + t.text.trim_end().len(),
            "it ends with its line",
            "write `\"` at its end",
        );
    }
    // `//` of Python's integer division hides the rest of its line.
    let line_start = text[..at.min(text.len())].trim_end().rfind('\n').map_or(0, |i| i + 1);
    if let Some(i) = text[line_start..at.min(text.len()).max(line_start)].find("//").map(|i| i + line_start).or_else(|| {
        // The grammar may stop in a later line.
        tokens[..here]
            .last()
            .and_then(|t| text[t.end()..].trim_start().starts_with("//").then(|| text[t.end()..].find("//").unwrap_or(0) + t.end()))
    }) {
        let (left, right) = (text[..i].trim_end(), text[i + 2..].trim_start_matches(' '));
        let number = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || c == ')');
        let operand = right.chars().next().is_some_and(|c| c.is_ascii_digit()) && right.lines().next().is_some_and(|l| l.len() < 12);
        if operand && (number(left.chars().next_back()) || left.ends_with(|c: char| c.is_alphanumeric())) {
            return say(
                "`//` begins a comment",
                i,
                i + 2,
                "the rest of the line is a comment",
                "integer division is `div`: `7 div 2` is 3",
            );
        }
    }
    // A number with a unit.
    if let (Some(n), Some(w)) = (before(1), token(here))
        && n.kind == Kind::Number
        && w.kind == Kind::Word
        && n.end() == w.start
    {
        let help = format!("write the number alone: `{}`; times of neurons are in steps, or in the unit that their setting says", n.text);
        return say("numbers have no units", n.start, w.end(), "a number and a name", &help);
    }
    if let Some(w) = token(here).filter(|t| t.kind == Kind::Number)
        && let Some(n) = token(here + 1)
        && n.kind == Kind::Word
        && w.end() == n.start
    {
        let help = format!("write the number alone: `{}`; times of neurons are in steps, or in the unit that their setting says", w.text);
        return say("numbers have no units", w.start, n.end(), "a number and a name", &help);
    }
    if let Some(found) = in_brackets(text, &tokens, here, file) {
        return Some(found);
    }
    // The grammar gives an item up as a whole where its signature has a type after `=`.
    let typed = tokens[here..]
        .windows(4)
        .find(|w| w[0].kind == Kind::Word && w[1].text == "=" && matches!(w[2].text, "f32" | "i64" | "bool" | "u8") && w[3].text == "[");
    if let Some([name, equals, ty, _]) = typed {
        let help = format!("write `{}: {}[...]`", name.text, ty.text);
        return say("the type of an input stands after `:`", equals.start, equals.end(), "here", &help);
    }
    // After a signature.
    if let (Some(b), Some(t)) = (before(1), token(here))
        && b.text == ")"
        && t.text == ":"
    {
        return whole(&t, "the type of a result stands after `->`", "here", "write `net main(x: f32[T, 4]) -> f32[T, 4] { ... }`");
    }
    None
}

/// A word that other languages begin something with.
fn foreign_word(t: &Token<'_>, before: Option<Token<'_>>) -> Option<(&'static str, &'static str)> {
    let begins = t.first || before.is_some_and(|b| matches!(b.text, "{" | ";"));
    Some(match t.text {
        "return" if begins => ("a body needs no `return`", "its value is its last expression: write the expression alone"),
        "for" | "while" | "loop" if begins => (
            "there are no loops of statements",
            "time is the first axis, and neurons run along it; lists are made with `[f(i) for i in range(3)]`, sums with `fold(n, i, ...)`, recurrent values with `let rec`",
        ),
        "const" | "var" | "val" | "auto" if begins => ("a value is named with `let`", "write `let y = ...`"),
        "mut" => ("values do not change", "name a new one with `let`; a neuron's states are declared with `state v = 0.0`"),
        "import" | "from" | "include" if begins => (
            "files are used with `use`",
            "write `use \"blocks.snn\" as blocks`, or `use \"blocks.snn\" (block)`; the library is always there",
        ),
        "class" | "struct" | "module" if begins => {
            ("a net is declared with `net`", "write `net name(x: f32[T, B, 4]) -> f32[T, B, 2] { ... }`")
        }
        "def" | "function" | "func" if begins => {
            ("functions are declared with `fn`, and nets with `net`", "write `fn f(x) = ...` or `net f(x: f32[T, 4]) { ... }`")
        }
        "and" if !begins => ("`and` is written `&&`", "write `a && b`"),
        "elif" | "elsif" | "elseif" => ("`elif` is written `else if`", "write `if a { x } else if b { y } else { z }`"),
        "lambda" => ("there are no functions without a name", "declare it: `fn f(x) = ...`"),
        "try" | "except" | "with" | "async" | "match" | "switch" if begins => (
            "this word begins nothing here",
            "the statements are `let`, `layer`, `param`, `buffer`, `state`, `emit`, `assert`, assignments and expressions",
        ),
        _ => return None,
    })
}

/// Mistakes inside of brackets, and brackets that are never closed.
fn in_brackets(text: &str, tokens: &[Token<'_>], here: usize, file: u16) -> Option<Diagnostic> {
    let span = |from: usize, to: usize| Span { file, start: from, end: to };
    let closes = |open: &str| match open {
        "(" => ")",
        "[" => "]",
        _ => "}",
    };
    // Which brackets are open at the place, and the first that does not fit.
    let mut open: Vec<&Token<'_>> = vec![];
    let mut at_place: Vec<&Token<'_>> = vec![];
    let mut wrong: Option<(&Token<'_>, Option<&Token<'_>>)> = None;
    for (i, t) in tokens.iter().enumerate() {
        if i == here {
            at_place.clone_from(&open);
        }
        if t.kind != Kind::Sign {
            continue;
        }
        match t.text {
            "(" | "[" | "{" => open.push(t),
            ")" | "]" | "}" => match open.last() {
                Some(o) if closes(o.text) == t.text => {
                    open.pop();
                }
                Some(o) => {
                    wrong = Some((o, Some(t)));
                    break;
                }
                None => {
                    let d =
                        Diagnostic::error(format!("`{}` closes nothing", t.text)).label(span(t.start, t.end()), "no bracket is open here");
                    return Some(d.help("remove it, or write the opening bracket that it closes"));
                }
            },
            _ => {}
        }
    }
    if here >= tokens.len() {
        at_place.clone_from(&open);
    }
    if wrong.is_none()
        && let Some(o) = open.first()
    {
        wrong = Some((o, None));
    }
    if let Some((o, close)) = wrong {
        let want = closes(o.text);
        let mut d = Diagnostic::error(format!("`{}` is never closed", o.text)).label(span(o.start, o.end()), "opened here");
        d = match close {
            Some(c) => d.label(span(c.start, c.end()), format!("`{want}` is missing before this")),
            None => d.label(span(text.trim_end().len(), text.trim_end().len()), format!("`{want}` is missing at the end")),
        };
        return Some(d.help(format!("write `{want}` where it ends")));
    }
    let (t, inside) = (tokens.get(here)?, at_place.last().map(|o| o.text));
    let b = here.checked_sub(1).map(|i| &tokens[i]);
    match (inside, t.text) {
        (Some("["), ";") => {
            let d = Diagnostic::error("dimensions and elements are separated by commas").label(span(t.start, t.end()), "here");
            return Some(d.help("write `f32[T, B]`"));
        }
        (Some("("), ":") if b.is_some_and(|b| b.kind == Kind::Word) => {
            let name = b.map_or("tau", |b| b.text);
            let d = Diagnostic::error("a setting is given with `=`").label(span(t.start, t.end()), "here");
            return Some(d.help(format!("write `{name} = ...`")));
        }
        (_, "=" | "]")
            if tokens[here..].iter().take(2).any(|t| t.text == "=")
                && tokens[here.saturating_sub(1)..].iter().take(2).any(|t| t.text == "]") =>
        {
            let d = Diagnostic::error("an input has no default").label(span(t.start, t.end()), "here");
            return Some(d.help("what has a default is a setting, and settings stand after a `;`: `net main(x: f32[T, 4]; tau = 2.0)`"));
        }
        _ => {}
    }
    // Two expressions beside each other.
    if matches!(inside, Some("(" | "[")) && b.is_some_and(Token::ends_expression) && (t.kind != Kind::Sign || t.text == "[") {
        let from = b.map_or(t.start, Token::end);
        let d = Diagnostic::error("a comma is missing").label(span(from, t.end()), "between these two");
        let first = b.map_or("", |b| b.text);
        return Some(d.help(format!("write `{first}, {}`", t.text)));
    }
    // A type that is none: the grammar stops before it.
    let known = ["f32", "i64", "bool", "u8"];
    let after = tokens.get(here + 1).map_or("", |n| n.text);
    if t.kind == Kind::Word && after == "[" && b.is_some_and(|b| matches!(b.text, ":" | ">")) && !known.contains(&t.text) {
        let like = match t.text.to_lowercase().as_str() {
            "float" | "float32" | "double" | "float64" | "f64" | "real" | "tensor" | "half" | "f16" => Some("f32"),
            "int" | "int64" | "int32" | "i32" | "long" => Some("i64"),
            "uint8" | "byte" | "char" => Some("u8"),
            "boolean" => Some("bool"),
            other => nearest(other, known.iter().copied()),
        };
        let d = Diagnostic::error(format!("`{}` is no element type", t.text)).label(span(t.start, t.end()), "not known");
        let help = like.map_or_else(
            || "the types are f32, i64, bool and u8".to_string(),
            |l| format!("write `{l}[...]`; the types are f32, i64, bool and u8"),
        );
        return Some(d.help(help));
    }
    None
}

/// What a name of another language is called here, for names that are not known.
pub fn foreign_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "True" => "write `true`",
        "False" => "write `false`",
        "None" | "null" | "nil" | "nullptr" => "write `none`",
        "not" => "write `!condition`",
        "self" | "this" => "a layer is called by its name: `fc(x)`",
        "nn" | "torch" | "F" | "snn" | "np" | "functional" | "layer" | "neuron" | "math" => {
            "layers and functions have no prefix here: `linear(4, 2)`, `relu(x)`, `lif(x)`"
        }
        "print" => "look at values in the REPL, or give them as results; `snnc run --profile` prints firing rates",
        "float" | "double" => "write `f32(x)`",
        "int" | "long" => "write `i64(x)`, or `floor(x)`",
        "len" => "write `shape(x)[0]`",
        "append" => "lists are joined with `+`",
        "u8" => "convert to `f32`, `i64` or `bool`",
        _ => return None,
    })
}

//! Which newlines end a statement, decided before parsing.

use crate::ast::{Comment, Span};
use crate::diagnostic::Diagnostic;

/// How deep brackets may be nested.
pub const MAX_NESTING: usize = 200;

/// The text with newlines that do not end a statement made spaces, of the same length, and the comments.
pub struct Layout {
    pub text: String,
    pub comments: Vec<Comment>,
}

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Newline(usize),
    /// `// ...` or `/* ... */`
    Comment,
    /// Something that a line can begin with; whether more must follow it.
    Other {
        continues_previous: bool,
        wants_more: bool,
    },
    /// Closes a bracket: what follows is a new line unless it continues it.
    Close,
}

const OPERATORS: [&str; 21] =
    ["|>", "+=", "->", "||", "&&", "==", "!=", "<=", ">=", "<", ">", "+", "*", "/", "%", "@", "^", "=", ",", ":", "-"];

/// Finds the newlines that count.
pub fn layout(text: &str, file: u16) -> Result<Layout, Box<Diagnostic>> {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    // A byte order mark says nothing here.
    if text.starts_with('\u{feff}') {
        out[..3].fill(b' ');
    }
    let mut comments = Vec::new();
    // Opening brackets with their places.
    let mut open: Vec<(u8, usize)> = Vec::new();
    let mut wants_more = false;
    // Newlines that count unless the next token continues the line.
    let mut pending: Vec<usize> = Vec::new();
    let mut code_on_line = false;
    let mut after_operand = false;
    let mut at = if text.starts_with('\u{feff}') { 3 } else { 0 };
    while at < bytes.len() {
        let (token, length) = next(text, at);
        match token {
            None => {}
            Some(Token::Newline(_)) => {
                code_on_line = false;
                if wants_more || matches!(open.last(), Some((b'(' | b'[', _))) {
                    out[at] = b' ';
                } else {
                    pending.push(at);
                }
            }
            Some(Token::Comment) => {
                let content = &text[at..at + length];
                if content.starts_with("/*") && !(length >= 4 && content.ends_with("*/")) {
                    let span = Span { file, start: at, end: at + 2 };
                    return Err(Box::new(
                        Diagnostic::error("this comment never ends").label(span, "opened here").help("close it with `*/`"),
                    ));
                }
                let number = content.trim_start_matches('/').trim();
                if code_on_line && after_operand && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()) {
                    let span = Span { file, start: at, end: at + length };
                    return Err(Box::new(
                        Diagnostic::error("`//` begins a comment and does not divide")
                            .label(span, "this is a comment")
                            .help(format!("integer division is written `div`: `a div {number}`; for a comment, write words")),
                    ));
                }
                comments.push(Comment { span: Span { file, start: at, end: at + length }, trailing: code_on_line });
                // Blank it, so that the parser never sees it.
                out[at..at + length].fill(b' ');
            }
            Some(token) => {
                code_on_line = true;
                after_operand = !matches!(token, Token::Other { wants_more: true, .. });
                let continues = matches!(token, Token::Other { continues_previous: true, .. });
                if continues {
                    pending.iter().for_each(|i| out[*i] = b' ');
                }
                pending.clear();
                wants_more = matches!(token, Token::Other { wants_more: true, .. });
                match bytes[at] {
                    b @ (b'(' | b'[' | b'{') => {
                        open.push((b, at));
                        if open.len() > MAX_NESTING {
                            let span = Span { file, start: at, end: at + 1 };
                            return Err(Box::new(
                                Diagnostic::error(format!("brackets are nested more than {MAX_NESTING} deep"))
                                    .label(span, "this one is too deep")
                                    .help("name a part of the expression with `let`"),
                            ));
                        }
                    }
                    b')' | b']' | b'}' => {
                        open.pop();
                    }
                    _ => {}
                }
            }
        }
        at += length;
    }
    // Only ASCII bytes were replaced, and comments as a whole, so this is UTF-8.
    let text = String::from_utf8(out).unwrap_or_default();
    Ok(Layout { text, comments })
}

/// How long a text in quotes is; one that is not closed ends with its line, and the grammar says so.
fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            '\n' => return i,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    rest.len()
}

fn next(text: &str, at: usize) -> (Option<Token>, usize) {
    let rest = &text[at..];
    let first = rest.as_bytes()[0];
    if first == b'\n' {
        return (Some(Token::Newline(at)), 1);
    }
    if first.is_ascii_whitespace() {
        return (None, 1);
    }
    if rest.starts_with("//") {
        return (Some(Token::Comment), rest.find('\n').unwrap_or(rest.len()));
    }
    if let Some(inside) = rest.strip_prefix("/*") {
        return (Some(Token::Comment), inside.find("*/").map_or(rest.len(), |i| i + 4));
    }
    if first == b'"' {
        return (Some(Token::Other { continues_previous: false, wants_more: false }), text_length(rest));
    }
    if first.is_ascii_alphabetic() || first == b'_' {
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let word = &rest[..length];
        let continues = matches!(word, "else" | "or" | "div");
        return (Some(Token::Other { continues_previous: continues, wants_more: continues }), length);
    }
    if matches!(first, b')' | b']' | b'}') {
        return (Some(Token::Close), 1);
    }
    if let Some(operator) = OPERATORS.iter().find(|o| rest.starts_with(**o)) {
        // `-` can begin an expression; all others continue one.
        let continues = *operator != "-" && *operator != "=";
        return (Some(Token::Other { continues_previous: continues, wants_more: true }), operator.len());
    }
    let length = rest.chars().next().map_or(1, char::len_utf8);
    (Some(Token::Other { continues_previous: false, wants_more: false }), length)
}

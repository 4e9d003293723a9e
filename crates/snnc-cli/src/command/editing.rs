//! The line editor of the REPL: colours, completion, hints, balanced brackets, the prompt.

use std::borrow::Cow;
use std::collections::HashSet;

use reedline::{
    Color, Completer, CompletionResult, Highlighter, Hinter, History, Prompt, PromptEditMode, PromptHistorySearch, Span, StyledText,
    Suggestion, ValidationResult, Validator,
};
use snn_syntax::{arguments, is_keyword, last_word};
use snnc::session::is_unfinished;

const CONSTANTS: [&str; 9] = ["true", "false", "none", "f32", "i64", "bool", "u8", "pi", "inf"];

/// What a piece of a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Command,
    Comment,
    Number,
    Keyword,
    Constant,
    /// A function, neuron, surrogate or layer that is known.
    Known,
    Other,
}

/// The pieces of an entry, which together are the whole of it.
pub fn tokens<'a>(text: &'a str, known: &HashSet<String>) -> Vec<(Token, &'a str)> {
    let mut list = Vec::new();
    let mut rest = text;
    if text.trim_start().starts_with(':') {
        let start = text.len() - text.trim_start().len();
        let end = text[start..].find(char::is_whitespace).map_or(text.len(), |i| start + i);
        list.push((Token::Command, &text[..end]));
        rest = &text[end..];
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let until = |stop: &dyn Fn(char) -> bool| rest.find(stop).unwrap_or(rest.len());
        let (kind, n) = if rest.starts_with("//") {
            (Token::Comment, rest.find('\n').unwrap_or(rest.len()))
        } else if first.is_ascii_digit() {
            (Token::Number, until(&|c| !is_word(c) && c != '.'))
        } else if is_word(first) {
            let n = until(&|c| !is_word(c));
            let word = &rest[..n];
            let kind = match word {
                _ if CONSTANTS.contains(&word) => Token::Constant,
                _ if word == "training" || is_keyword(word) => Token::Keyword,
                _ if known.contains(word) => Token::Known,
                _ => Token::Other,
            };
            (kind, n)
        } else {
            let n = until(&|c| is_word(c) || c == '/').max(first.len_utf8());
            (Token::Other, n)
        };
        list.push((kind, &rest[..n]));
        rest = &rest[n..];
    }
    list
}

/// Colours an entry while it is typed.
pub struct Colours(pub HashSet<String>);

impl Highlighter for Colours {
    fn highlight(&self, line: &str, _: usize) -> StyledText {
        let mut text = StyledText::new();
        for (kind, piece) in tokens(line, &self.0) {
            let style = match kind {
                Token::Command => Color::Cyan.bold(),
                Token::Comment => Color::DarkGray.normal(),
                Token::Number => Color::Yellow.normal(),
                Token::Keyword => Color::Purple.normal(),
                Token::Constant => Color::Cyan.normal(),
                Token::Known => Color::Blue.normal(),
                Token::Other => Color::Default.normal(),
            };
            text.push((style, piece.to_string()));
        }
        text
    }
}

/// The signature of the call that the cursor is in: the innermost open bracket after the name of something known.
pub fn signature_at(line: &str) -> Option<String> {
    let mut open: Vec<usize> = Vec::new();
    for (i, c) in line.char_indices() {
        match c {
            '(' | '[' | '{' => open.push(i),
            ')' | ']' | '}' => {
                open.pop();
            }
            _ => {}
        }
    }
    open.iter().rev().find_map(|i| snn_front::signature_of(last_word(&line[..*i], "")))
}

/// Shows the signature of the function whose arguments are being typed.
pub struct Signatures;

impl Hinter for Signatures {
    fn handle(&mut self, line: &str, pos: usize, _: &dyn History, colour: bool, _: &str) -> String {
        // In the middle of a line the hint would stand between its parts.
        let hint = if pos == line.len() { signature_at(line).map(|s| format!("    {s}")) } else { None };
        let hint = hint.unwrap_or_default();
        if colour && !hint.is_empty() { Color::DarkGray.paint(hint).to_string() } else { hint }
    }

    /// A signature is to be read, not taken over.
    fn complete_hint(&self) -> String {
        String::new()
    }

    fn next_hint_token(&self) -> String {
        String::new()
    }
}

/// Completes names; after a command that takes a file, files.
pub struct Names(pub Vec<String>);

impl Completer for Names {
    fn complete(&mut self, line: &str, pos: usize) -> CompletionResult {
        let found = |start: usize, names: Vec<String>| {
            let suggestion = |value| Suggestion { value, span: Span::new(start, pos), append_whitespace: false, ..Suggestion::default() };
            CompletionResult::fresh(names.into_iter().map(suggestion).collect::<Vec<_>>())
        };
        let before = &line[..pos];
        let takes_file = [":load ", ":save ", ":dot ", ":plot "].iter().any(|c| before.starts_with(c));
        if takes_file {
            let begun = before.rsplit(char::is_whitespace).next().unwrap_or_default();
            return found(pos - begun.len(), files(begun));
        }
        let word = last_word(before, ":.");
        // Settings of the call first.
        let signature = signature_at(before).unwrap_or_default();
        let settings = arguments(&signature).into_iter().map(|(n, _)| format!("{n} = "));
        let all = settings.chain(self.0.iter().cloned());
        found(pos - word.len(), all.filter(|n| !word.is_empty() && n.starts_with(word)).collect())
    }
}

/// The files and folders whose path begins so.
fn files(begun: &str) -> Vec<String> {
    let (folder, name) = begun.rsplit_once('/').map_or(("", begun), |(f, n)| (&begun[..f.len() + 1], n));
    let Ok(entries) = std::fs::read_dir(if folder.is_empty() { "." } else { folder }) else { return Vec::new() };
    let mut list: Vec<String> = entries
        .flatten()
        .filter_map(|e| {
            let own = e.file_name().into_string().ok()?;
            let slash = if e.path().is_dir() { "/" } else { "" };
            (own.starts_with(name) && (name.starts_with('.') || !own.starts_with('.'))).then(|| format!("{folder}{own}{slash}"))
        })
        .collect();
    list.sort();
    list
}

/// An entry goes on while a bracket is open.
pub struct Brackets;

impl Validator for Brackets {
    fn validate(&self, line: &str) -> ValidationResult {
        if is_unfinished(line) { ValidationResult::Incomplete } else { ValidationResult::Complete }
    }
}

/// `snnc>`
pub struct Arrow;

impl Prompt for Arrow {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        "snnc".into()
    }
    fn render_prompt_right(&self) -> Cow<'_, str> {
        "".into()
    }
    fn render_prompt_indicator(&self, _: PromptEditMode) -> Cow<'_, str> {
        "> ".into()
    }
    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        "...   ".into()
    }
    fn render_prompt_history_search_indicator(&self, _: PromptHistorySearch) -> Cow<'_, str> {
        "search: ".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_coloured_whole() {
        let known = HashSet::from(["lif".to_string()]);
        let line = "let s = lif(x, tau = 2.0e1) |> é // a ü";
        let pieces = tokens(line, &known);
        assert_eq!(pieces.iter().map(|(_, p)| *p).collect::<String>(), line);
        for expected in [(Token::Keyword, "let"), (Token::Known, "lif"), (Token::Number, "2.0e1"), (Token::Comment, "// a ü")] {
            assert!(pieces.contains(&expected), "{pieces:?}");
        }
        assert_eq!(tokens(" :doc lif", &known)[0], (Token::Command, " :doc"));
        let division = tokens("a / b /", &known);
        assert_eq!(division.iter().map(|(_, p)| *p).collect::<String>(), "a / b /");
    }

    #[test]
    fn a_call_shows_its_signature() {
        assert_eq!(signature_at("x |> delay(").unwrap(), "delay(x, steps)");
        assert_eq!(signature_at("delay(shape(x)[0], ").unwrap(), "delay(x, steps)");
        assert!(signature_at("lif(x, surrogate = atan(").unwrap().starts_with("surrogate atan(u"));
        assert_eq!(signature_at("delay(x, 1)"), None);
        assert_eq!(signature_at("unknown("), None);
    }

    #[test]
    fn names_settings_and_files_are_completed() {
        let mut names = Names(vec!["lif".into()]);
        let values = |r: CompletionResult| r.suggestions().iter().map(|s| s.value.clone()).collect::<Vec<_>>();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("weights.npz"), "").unwrap();
        let line = format!(":load {}/wei", folder.path().display());
        assert!(values(names.complete(&line, line.len()))[0].ends_with("/weights.npz"));
        assert_eq!(values(names.complete("x |> li", 7)), ["lif"]);
        assert_eq!(values(names.complete("x |> lif(ta", 11)), ["tau = "]);
        assert_eq!(values(names.complete("lif(x, surrogate = atan(al", 26)), ["alpha = "]);
        assert_eq!(values(names.complete("lif(x, v_t", 10)), ["v_threshold = "]);
        // What no program has is typed too.
        let line = "x \u{2192} \u{201c}li";
        assert_eq!(values(names.complete(line, line.len())), ["lif"]);
        assert!(signature_at("\u{201c}lif(").is_some());
        let line = ":load \u{a0}no-such-folder/x";
        assert_eq!(values(names.complete(line, line.len())), Vec::<String>::new());
    }
}

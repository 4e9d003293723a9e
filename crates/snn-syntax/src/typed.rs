//! What can be read from text that is being typed, and need not parse: for completion, hints and colours.

/// The words that begin statements and items, and those that are values.
pub const KEYWORDS: &[&str] = &[
    "net",
    "neuron",
    "surrogate",
    "fn",
    "use",
    "let",
    "let rec",
    "layer",
    "param",
    "buffer",
    "state",
    "emit",
    "assert",
    "if",
    "else",
    "for",
    "in",
    "true",
    "false",
    "none",
    "or",
    "div",
];

/// Is a word one of [`KEYWORDS`], or a part of one?
pub fn is_keyword(word: &str) -> bool {
    KEYWORDS.iter().any(|k| k.split(' ').any(|part| part == word))
}

/// The word that a text ends with: letters, digits, `_` and what is in `more`.
pub fn last_word<'a>(text: &'a str, more: &str) -> &'a str {
    let rest = text.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_' || more.contains(c));
    &text[rest.len()..]
}

/// What the lines of an item declare: `state`, `param`, `buffer` or `layer`, the name, and the line.
pub fn declarations(text: &str) -> impl Iterator<Item = (&'static str, String, &str)> {
    text.lines().map(str::trim).filter_map(|line| {
        let (word, rest) =
            ["state", "param", "buffer", "layer"].iter().find_map(|w| Some((*w, line.strip_prefix(w)?.strip_prefix(' ')?)))?;
        let name = rest.chars().take_while(|c| c.is_alphanumeric() || "_.".contains(*c)).collect();
        Some((word, name, line))
    })
}

/// The head of an item on one line, such as `neuron lif(x; tau = 2.0)` or `net main(x: f32[T]) -> f32[T]`: `text` begins with the item.
pub fn head(text: &str) -> String {
    let (mut depth, mut closed) = (0i32, false);
    let end = text.find(|c: char| {
        depth += i32::from("([".contains(c)) - i32::from(")]".contains(c));
        closed |= c == ')' && depth == 0;
        closed && depth == 0 && (c == '{' || c == '=')
    });
    // An item without a body is one that is being typed.
    let mut line = String::new();
    for part in text[..end.unwrap_or(text.len())].lines().map(|l| l.split("//").next().unwrap_or_default().trim()).filter(|l| !l.is_empty())
    {
        let joined = line.is_empty() || line.ends_with('(') || part.starts_with(')');
        let cut = if part.starts_with(')') { line.trim_end_matches(',').len() } else { line.len() };
        line.truncate(cut);
        line.push_str(if joined { "" } else { " " });
        line.push_str(part);
    }
    line
}

/// The names between the brackets of a head, each with the place of its text there: name, type and value.
pub fn arguments(head: &str) -> Vec<(String, std::ops::Range<usize>)> {
    let Some(open) = head.find('(') else { return vec![] };
    let mut found = Vec::new();
    let (mut depth, mut start) = (0i32, open + 1);
    for (i, c) in head.char_indices().skip_while(|(i, _)| *i <= open) {
        if depth == 0 && (c == ',' || c == ';' || c == ')') {
            let part = &head[start..i];
            let from = start + part.len() - part.trim_start().len();
            let name: String = part.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                found.push((name, from..from + part.trim().len()));
            }
            start = i + 1;
            if c == ')' {
                break;
            }
        }
        depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_one_line() {
        assert_eq!(head("neuron n(x; tau = 2.0) {\n    emit x\n}"), "neuron n(x; tau = 2.0)");
        assert_eq!(head("neuron n(\n    x; // an input\n    a = f(1), b = none,\n) {\n"), "neuron n(x; a = f(1), b = none)");
        assert_eq!(head("net m(x: f32[T, 2]) -> (a: f32[], b: f32[T]) {"), "net m(x: f32[T, 2]) -> (a: f32[], b: f32[T])");
        assert_eq!(head("fn twice(y; k = 2.0) = y * k"), "fn twice(y; k = 2.0)");
        assert_eq!(head("net m("), "net m(");
    }

    #[test]
    fn arguments_have_places() {
        let head = "neuron n(x; a = f(1, 2), b = none) -> f32[T]";
        let found: Vec<_> = arguments(head).into_iter().map(|(name, at)| (name, &head[at])).collect();
        assert_eq!(found, [("x".to_string(), "x"), ("a".into(), "a = f(1, 2)"), ("b".into(), "b = none")]);
        assert_eq!(arguments("n"), []);
    }

    #[test]
    fn the_last_word_is_whole_characters() {
        assert_eq!(last_word("x |> li", ""), "li");
        assert_eq!(last_word("\u{201c}τ_m.v", "."), "τ_m.v");
        assert_eq!(last_word("x →", ""), "");
    }

    #[test]
    fn lines_declare_names() {
        let text = "neuron n(x) {\n    state v: f32[] = 0.0\n    layer 0 = linear(1, 1)\n    let s = v\n}";
        let found: Vec<_> = declarations(text).map(|(word, name, _)| (word, name)).collect();
        assert_eq!(found, [("state", "v".to_string()), ("layer", "0".into())]);
    }
}

//! The text of everything that can be named: built-in functions from `grammar/operations.md`, the library from its own text.

use crate::STANDARD_LIBRARY;

/// The documentation of the built-in functions, a section for each.
pub const OPERATIONS: &str = include_str!("../../../grammar/operations.md");

/// The text about a name in Markdown: what it computes, its source, an example.
pub fn documentation(name: &str) -> Option<String> {
    match (section(name), library(name)) {
        (Some(a), Some(b)) => Some(format!("{a}\n\n{b}")),
        (a, b) => a.or(b),
    }
}

/// How a name is used: the heading of its documentation, or the head of its declaration.
pub fn signature_of(name: &str) -> Option<String> {
    if let Some(heading) = heading(name) {
        return Some(heading.to_string());
    }
    Some(snn_syntax::head(&STANDARD_LIBRARY[declaration(name)?..]))
}

/// Where the library declares a name, in bytes of [`STANDARD_LIBRARY`].
pub fn declaration(name: &str) -> Option<usize> {
    let mut from = 0;
    STANDARD_LIBRARY.split_inclusive('\n').find_map(|line| {
        from += line.len();
        declares(line, name).then(|| from - line.len())
    })
}

/// The parts of the library, each with a title and the names that it declares.
pub fn library_parts() -> Vec<(String, Vec<String>)> {
    let mut parts: Vec<(String, Vec<String>)> = Vec::new();
    for line in STANDARD_LIBRARY.lines() {
        if let Some(title) = line.strip_prefix("// --") {
            parts.push((title.trim_start_matches('-').trim().to_string(), Vec::new()));
        } else if let (Some(name), Some(part)) = (declared(line), parts.last_mut()) {
            part.1.push(name.to_string());
        }
    }
    parts
}

/// The names of all built-in functions and of the library.
pub fn known_names() -> impl Iterator<Item = String> {
    let library = STANDARD_LIBRARY.lines().filter_map(declared).map(str::to_string);
    crate::builtins::names().map(str::to_string).chain(library)
}

fn heading(name: &str) -> Option<&'static str> {
    let headings = OPERATIONS.lines().filter_map(|l| l.strip_prefix("## "));
    headings.into_iter().find(|h| h.split('(').next() == Some(name))
}

fn section(name: &str) -> Option<String> {
    let heading = heading(name)?;
    let start = OPERATIONS.find(&format!("## {heading}\n"))?;
    let rest = &OPERATIONS[start + 3..];
    let end = rest.find("\n## ").unwrap_or(rest.len());
    Some(rest[..end].trim_end().to_string())
}

/// The name that a line of the library declares.
fn declared(line: &str) -> Option<&str> {
    let rest = ["neuron ", "surrogate ", "net ", "fn "].iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split('(').next()
}

fn declares(line: &str, name: &str) -> bool {
    declared(line) == Some(name)
}

/// What the library says: the comment before each declaration of the name, and its text.
fn library(name: &str) -> Option<String> {
    let lines: Vec<&str> = STANDARD_LIBRARY.lines().collect();
    let mut texts = Vec::new();
    for at in (0..lines.len()).filter(|i| declares(lines[*i], name)) {
        let is_comment = |l: &str| l.starts_with("//") && !l.starts_with("// --");
        let first = (0..at).rev().take_while(|i| is_comment(lines[*i])).last().unwrap_or(at);
        // A long head goes on to the line that closes its bracket.
        let head = if lines[at].ends_with('(') { (at..lines.len()).find(|i| lines[*i].starts_with(')')).unwrap_or(at) } else { at };
        let last = if lines[head].ends_with('{') { (head..lines.len()).find(|i| lines[*i] == "}").unwrap_or(head) } else { head };
        let comment: Vec<&str> = lines[first..at].iter().map(|l| l.trim_start_matches('/').trim()).collect();
        // Lines that begin with `>` are entries for the REPL that show it at work.
        let (examples, words): (Vec<&str>, Vec<&str>) = comment.into_iter().partition(|l| l.starts_with("> "));
        let mut text = words.join("\n");
        text.push_str(&format!("\n\n```snn\n{}\n```", lines[at..=last].join("\n")));
        if !examples.is_empty() {
            text.push_str(&format!("\n\n```repl\n{}\n```", examples.join("\n")));
        }
        texts.push(text.trim_start().to_string());
    }
    (!texts.is_empty()).then(|| texts.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_documented() {
        for name in known_names() {
            let text = documentation(&name).unwrap_or_default();
            assert!(text.len() > 20, "{name}");
            assert_eq!(text.matches('{').count(), text.matches('}').count(), "{name} is cut off");
            assert!(signature_of(&name).is_some_and(|s| s.contains('(') && s.contains(')')), "{name}");
        }
        for heading in OPERATIONS.lines().filter_map(|l| l.strip_prefix("## ")) {
            let name = heading.split('(').next().unwrap_or_default();
            assert!(crate::builtins::names().any(|n| n == name), "{name} is documented and does not exist");
        }
    }
}

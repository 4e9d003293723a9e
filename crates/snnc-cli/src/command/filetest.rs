//! The text form of file tests: programs with what is expected of them in comments.
//!
//! ```text
//! net main(x: f32[T, N]) -> f32[T, N] { x |> lif() }
//!
//! // test: run --input x=[[2.5],[0.0]]
//! // f32[2, 1]
//! // [[1],
//! //  [0]]
//! ```
//!
//! A line `// test: COMMAND` begins a test; the comment lines right below it are what the command is expected to say.

/// What begins the line of a test.
const MARK: &str = "// test:";

/// A test of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The line of the command, from 0.
    pub line: usize,
    /// The command.
    pub command: String,
    /// What it is expected to say; `None` where no line is below.
    pub expected: Option<String>,
    /// The line after the expected text.
    end: usize,
}

/// The tests of a file, in order.
pub fn cases(text: &str) -> Vec<Case> {
    let lines: Vec<&str> = text.lines().collect();
    let mut cases = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some(command) = lines[at].strip_prefix(MARK) else {
            at += 1;
            continue;
        };
        let line = at;
        at += 1;
        let is_expected = |l: &str| l.starts_with("//") && !l.starts_with(MARK);
        let end = at + lines[at..].iter().take_while(|l| is_expected(l)).count();
        let expected = lines[at..end].iter().map(|l| l[2..].strip_prefix(' ').unwrap_or(&l[2..])).collect::<Vec<_>>().join("\n");
        cases.push(Case { line, command: command.trim().to_string(), expected: (end > at).then_some(expected), end });
        at = end;
    }
    cases
}

/// The file with what the commands say in the place of what is expected; `said` is one text for each case.
pub fn blessed(text: &str, cases: &[Case], said: &[String]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    let mut at = 0;
    let mut copy = |out: &mut String, upto: usize| {
        for line in &lines[at..upto] {
            out.push_str(line);
            out.push('\n');
        }
        at = upto;
    };
    for (case, said) in cases.iter().zip(said) {
        copy(&mut out, case.line + 1);
        for line in normal(said).lines() {
            let line = format!("// {line}");
            out.push_str(line.trim_end());
            out.push('\n');
        }
        // Lines of the old text are left out.
        copy(&mut String::new(), case.end);
    }
    copy(&mut out, lines.len());
    out
}

/// Without spaces at the ends of lines and empty lines at the end, which no comment keeps.
fn normal(text: &str) -> String {
    text.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Are both the same, but for numbers that differ by at most `tolerance`?
pub fn agrees(expected: &str, found: &str, tolerance: f64) -> bool {
    let (expected, found) = (normal(expected), normal(found));
    if expected == found {
        return true;
    }
    if tolerance == 0.0 {
        return false;
    }
    let (a, b) = (tokens(&expected), tokens(&found));
    a.len() == b.len()
        && a.iter().zip(&b).all(|(a, b)| {
            let near = |x: f64, y: f64| (x - y).abs() <= tolerance;
            a == b || matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(x), Ok(y)) if near(x, y))
        })
}

/// Numbers and what is between them; how many spaces there are does not matter, because they follow from the numbers.
fn tokens(text: &str) -> Vec<&str> {
    let is_number = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    let mut tokens = Vec::new();
    for word in text.split_whitespace() {
        let mut rest = word;
        while let Some(first) = rest.chars().next() {
            let end = match is_number(first) {
                true => rest.find(|c| !is_number(c)).unwrap_or(rest.len()),
                false => first.len_utf8(),
            };
            tokens.push(&rest[..end]);
            rest = &rest[end..];
        }
    }
    tokens
}

/// How the two differ, line by line.
pub fn difference(expected: &str, found: &str) -> String {
    let (expected, found) = (normal(expected) + "\n", normal(found) + "\n");
    similar::TextDiff::from_lines(&expected, &found).unified_diff().context_radius(3).header("expected", "found").to_string()
}

/// The words of a command, as a shell would take them: quotes keep spaces.
pub fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut open) = (String::new(), None, false);
    for c in command.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => (quote, open) = (Some(c), true),
            (None, c) if c.is_whitespace() => {
                if open {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            (None, c) => {
                word.push(c);
                open = true;
            }
        }
    }
    if quote.is_some() {
        return Err(format!("a quote of `{command}` is not closed"));
    }
    if open {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "net a(x: f32[T]) { x }\n\n// test: run --input x=1\n// one\n//\n//   two\n\n// test: check\n// test: emit\n// three\n";

    #[test]
    fn tests_are_found_with_what_they_expect() {
        let found: Vec<_> = cases(FILE).into_iter().map(|c| (c.line, c.command, c.expected)).collect();
        let expected = [
            (2, "run --input x=1".to_string(), Some("one\n\n  two".to_string())),
            (7, "check".to_string(), None),
            (8, "emit".to_string(), Some("three".to_string())),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn blessing_changes_what_is_expected_alone() {
        let said = ["new\n\n  text \n", "no errors", "three\n"].map(str::to_string);
        let blessed = blessed(FILE, &cases(FILE), &said);
        let expected = "net a(x: f32[T]) { x }\n\n// test: run --input x=1\n// new\n//\n//   text\n\n// test: check\n// no errors\n// test: emit\n// three\n";
        assert_eq!(blessed, expected);
        assert!(cases(&blessed).iter().zip(&said).all(|(c, s)| agrees(c.expected.as_deref().unwrap_or(""), s, 0.0)));
    }

    #[test]
    fn a_tolerance_is_for_numbers_alone() {
        assert!(agrees("out: 0.120 spikes", "out:  0.125 spikes", 0.01));
        assert!(!agrees("out: 0.120 spikes", "out: 0.125 spikes", 0.0));
        assert!(!agrees("out: 0.120 spikes", "out: 0.135 spikes", 0.01));
        assert!(!agrees("out: 0.120 spikes", "in: 0.120 spikes", 0.01));
        assert!(!agrees("f32[2, 1] [1, 0]", "f32[2, 1] [1]", 0.01));
    }

    #[test]
    fn quotes_keep_spaces() {
        assert_eq!(words("run --input 'x = [1, 2]' --seed 3").unwrap(), ["run", "--input", "x = [1, 2]", "--seed", "3"]);
        assert!(words("run 'x").is_err());
    }
}

//! What the compiler says to a person: what is wrong, where, why, and what to do.

use ariadne::{CharSet, Color, Config, IndexType, Label as AriadneLabel, Report, ReportKind, Source};

use crate::ast::Span;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The program compiles, and probably does not do what was meant.
    Warning,
    /// The program does not compile.
    Error,
}

/// A message with places in the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where, the main place first, each with what is to be seen there.
    pub labels: Vec<(Span, String)>,
    /// Why, or what else to know.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error.
    pub fn error(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, message: message.into(), labels: vec![], notes: vec![], help: None }
    }

    /// A warning.
    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(message) }
    }

    /// Adds a place.
    #[must_use]
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.labels.push((span, text.into()));
        self
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.notes.push(text.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.help = Some(text.into());
        self
    }
}

/// The files of a program, for printing.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<(String, String)>,
}

impl Sources {
    /// Adds a file and returns its number.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> u16 {
        self.files.push((name.into(), text.into()));
        (self.files.len() - 1) as u16
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Are there no files?
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What a file is called.
    pub fn name(&self, file: u16) -> &str {
        self.files.get(file as usize).map_or("", |(n, _)| n)
    }

    /// The text of a file.
    pub fn whole(&self, file: u16) -> &str {
        self.files.get(file as usize).map_or("", |(_, t)| t)
    }

    /// The text of a place.
    pub fn text(&self, span: Span) -> &str {
        self.files.get(span.file as usize).and_then(|(_, t)| t.get(span.start..span.end)).unwrap_or("")
    }

    /// The diagnostics as text with source lines, with or without colours.
    pub fn render(&self, diagnostics: &[Diagnostic], colour: bool) -> String {
        let mut out = Vec::new();
        let mut cache = ariadne::FnCache::new(|id: &String| Err(format!("there is no file {id}")))
            .with_sources(self.files.iter().map(|(n, t)| (n.clone(), Source::from(t.clone()))).collect());
        for d in diagnostics {
            let kind = match d.severity {
                Severity::Error => ReportKind::Error,
                Severity::Warning => ReportKind::Warning,
            };
            let place = |span: &Span| {
                let (name, text) = &self.files[(span.file as usize).min(self.files.len() - 1)];
                let range = whole_characters(text, span.start, span.end);
                (name.clone(), range)
            };
            let main = d.labels.first().map_or_else(Span::default, |(s, _)| *s);
            if d.labels.is_empty() || self.files.is_empty() {
                let word = if d.severity == Severity::Error { "Error" } else { "Warning" };
                out.extend_from_slice(format!("{word}: {}\n", d.message).as_bytes());
                let notes = d.notes.iter().map(|n| ("Note", n)).chain(d.help.iter().map(|h| ("Help", h)));
                notes.for_each(|(word, text)| out.extend_from_slice(format!("  {word}: {text}\n").as_bytes()));
                continue;
            }
            let config = Config::default().with_color(colour).with_index_type(IndexType::Byte).with_char_set(CharSet::Unicode);
            let mut report = Report::build(kind, place(&main)).with_config(config).with_message(&d.message);
            for (i, (span, text)) in d.labels.iter().enumerate() {
                let colour = if i == 0 { Color::Red } else { Color::Blue };
                report = report.with_label(AriadneLabel::new(place(span)).with_message(text).with_color(colour));
            }
            for note in &d.notes {
                report = report.with_note(note);
            }
            if let Some(help) = &d.help {
                report = report.with_help(help);
            }
            // Writing into memory does not fail.
            let _ = report.finish().write(&mut cache, &mut out);
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// The bytes `start .. end` of a text, grown to whole characters that are in it.
pub fn whole_characters(text: &str, start: usize, end: usize) -> std::ops::Range<usize> {
    let end = text.ceil_char_boundary(end.min(text.len()));
    text.floor_char_boundary(start.min(end))..end
}

/// Longer names are not compared: the comparison takes their product of steps.
const LONGEST_COMPARED: usize = 64;

/// The known name that is most like `name`, if one is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > LONGEST_COMPARED {
        return None;
    }
    let known = known.into_iter().filter(|k| k.len() <= 2 * LONGEST_COMPARED);
    let best = known.map(|k| (strsim::damerau_levenshtein(&name.to_lowercase(), &k.to_lowercase()), k)).min()?;
    (best.0 <= 1 + name.len() / 4 && best.0 < name.len()).then_some(best.1)
}

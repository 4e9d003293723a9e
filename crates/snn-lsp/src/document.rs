//! An open file: its text, what is wrong with it, and what its names are.

use snn_front::{Mode, Module};
use snn_syntax::ast::ItemKind;
use snn_syntax::{Diagnostic, Span};
use tower_lsp_server::ls_types::{Position, Range};

use crate::names::{Kind, Occurrence, occurrences};

/// A file as it is in the editor.
pub struct Document {
    text: String,
    /// The last text that parsed, for completion while something is being typed.
    module: Option<Module>,
    /// Is the module that of the text?
    current: bool,
    diagnostics: Vec<Diagnostic>,
    occurrences: Vec<Occurrence>,
    /// What names are bound to: a type, or a description.
    bindings: Vec<(Span, String)>,
}

impl Document {
    /// Analyses a text; `before` is the document that it replaces.
    pub fn new(name: &str, text: String, before: Option<Document>) -> Document {
        match Module::parse(name, &text) {
            Ok(module) => {
                let diagnostics = module.check(Mode::Eval);
                let occurrences = occurrences(&module.ast);
                let mut bindings = Vec::new();
                for item in module.ast.items.iter().filter(|i| i.kind == ItemKind::Net && i.settings.iter().all(|s| s.default.is_some())) {
                    bindings.extend(module.bindings(&item.name.text, Mode::Eval));
                }
                Document { text, module: Some(module), current: true, diagnostics, occurrences, bindings }
            }
            Err((_, diagnostics)) => {
                let module = before.and_then(|b| b.module);
                Document { text, module, current: false, diagnostics, occurrences: vec![], bindings: vec![] }
            }
        }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file, or the last text of it that parsed.
    pub fn module(&self) -> Option<&Module> {
        self.module.as_ref()
    }

    /// Every name of the file, in order; nothing where it does not parse.
    pub fn occurrences(&self) -> &[Occurrence] {
        &self.occurrences
    }

    /// What is known of the type of a declared name, where it is one.
    pub fn type_of(&self, declaration: Span) -> Option<String> {
        let mut types: Vec<&str> = self.bindings.iter().filter(|(s, _)| *s == declaration).map(|(_, t)| t.as_str()).collect();
        types.sort_unstable();
        types.dedup();
        (!types.is_empty()).then(|| types.join(" or "))
    }

    /// An item up to its body.
    pub fn head(&self, item: &snn_syntax::ast::Item) -> String {
        // The text may be another one by now.
        snn_syntax::head(self.text.get(item.span.start..item.span.end).unwrap_or_default())
    }

    /// What a layer of this name is an instance of.
    pub fn called_by(&self, layer: &str) -> Option<String> {
        let line = self
            .text
            .lines()
            .find_map(|l| l.trim_start().strip_prefix("layer ")?.trim_start().strip_prefix(layer)?.trim_start().strip_prefix('='))?;
        let name: String = line.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        (!name.is_empty()).then_some(name)
    }

    /// The fields of a layer, by name, each with the line that declares it: parameters, states and layers of what it is an instance of.
    pub fn fields(&self, path: &str) -> Vec<(String, String)> {
        let Some(called) = self.called_by(path) else { return vec![] };
        let own = self.module.as_ref().and_then(|m| m.ast.items.iter().find(|i| i.name.text == called));
        let text = match own {
            Some(item) => self.text.get(item.span.start..item.span.end).unwrap_or_default().to_string(),
            None => snn_front::documentation(&called).unwrap_or_default(),
        };
        snn_syntax::declarations(&text).map(|(_, name, line)| (name, line.to_string())).collect()
    }

    /// What is wrong, with where.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The text in its canonical layout, if it parses.
    pub fn formatted(&self) -> Option<String> {
        self.module.as_ref().filter(|_| self.current).map(|m| snn_syntax::print(&m.ast, &self.text))
    }

    /// The name at a place.
    pub fn at(&self, position: Position) -> Option<&Occurrence> {
        let offset = self.offset(position);
        self.occurrences.iter().find(|o| o.span.start <= offset && offset <= o.span.end)
    }

    /// All places of what stands at a place, if it is declared in the file.
    pub fn same(&self, occurrence: &Occurrence) -> Vec<Span> {
        let all = self.occurrences.iter().filter(|o| o.declaration.is_some() && o.declaration == occurrence.declaration);
        let mut spans: Vec<Span> = all.map(|o| o.span).collect();
        spans.dedup();
        spans
    }

    /// Why a name cannot get another one: it would mean something else somewhere.
    pub fn clash(&self, occurrence: &Occurrence, new: &str) -> Option<String> {
        let declaration = occurrence.declaration?;
        let items = &self.module.as_ref()?.ast.items;
        let item_of = |span: Span| items.iter().find(|i| i.span.start <= span.start && span.end <= i.span.end);
        let is_item = items.iter().any(|i| i.name.span == declaration);
        let own = item_of(declaration)?;
        let others = self.occurrences.iter().filter(|o| o.text == new && o.declaration != Some(declaration));
        // The name of an item is known everywhere, others in their item.
        let clash = others.into_iter().find(|o| {
            let inside = own.span.start <= o.span.start && o.span.end <= own.span.end;
            is_item || inside || items.iter().any(|i| i.name.span == o.span)
        })?;
        let line = self.position(clash.span.start).line + 1;
        Some(format!("`{new}` has a meaning here already, in line {line}"))
    }

    /// What is known about a name, in Markdown.
    pub fn hover(&self, occurrence: &Occurrence) -> Option<String> {
        let module = self.module.as_ref()?;
        let name = &occurrence.text;
        if occurrence.kind == Kind::Known {
            return snn_front::documentation(name);
        }
        let declaration = occurrence.declaration?;
        if let Some(item) = module.ast.items.iter().find(|i| i.name.span == declaration) {
            let end = match &item.body {
                snn_syntax::ast::Body::Block(b) => b.span.start,
                snn_syntax::ast::Body::Expression(_) => item.span.end,
            };
            let comments = self.comments_before(item.span.start);
            return Some(format!("{comments}```snn\n{}\n```", self.text[item.span.start..end].trim_end()));
        }
        let line = self.line_at(declaration.start).trim().to_string();
        let mut types: Vec<&str> = self.bindings.iter().filter(|(s, _)| *s == declaration).map(|(_, t)| t.as_str()).collect();
        types.sort_unstable();
        types.dedup();
        let word = match occurrence.kind {
            Kind::Input => "input",
            Kind::Setting => "setting",
            Kind::Layer => "layer",
            Kind::Parameter => "parameter",
            Kind::State => "state",
            Kind::Dimension => return Some(format!("`{name}`: a dimension")),
            _ => "let",
        };
        if types.is_empty() || matches!(occurrence.kind, Kind::Layer | Kind::State) {
            return Some(format!("{word} `{name}`\n```snn\n{line}\n```"));
        }
        Some(format!("{word} `{name}`: `{}`\n```snn\n{line}\n```", types.join("` or `")))
    }

    fn comments_before(&self, start: usize) -> String {
        let mut lines: Vec<&str> = self.text[..start].lines().rev().take_while(|l| l.starts_with("//")).collect();
        lines.reverse();
        lines.iter().map(|l| format!("{}\n", l.trim_start_matches('/').trim_start())).collect::<String>()
    }

    fn line_at(&self, offset: usize) -> &str {
        let start = self.text[..offset].rfind('\n').map_or(0, |i| i + 1);
        let end = self.text[offset..].find('\n').map_or(self.text.len(), |i| offset + i);
        &self.text[start..end]
    }

    /// The names that may be typed at a place, with what they are.
    pub fn completions(&self, position: Position) -> Vec<(String, Kind)> {
        let offset = self.offset(position);
        let mut list: Vec<(String, Kind)> = Vec::new();
        if let Some(module) = &self.module {
            let inside = module.ast.items.iter().rev().find(|i| i.span.start <= offset && (offset <= i.span.end || !self.current));
            if let Some(item) = inside {
                let all = occurrences(&module.ast);
                let own =
                    all.iter().filter(|o| o.declaration == Some(o.span) && item.span.start <= o.span.start && o.span.end <= item.span.end);
                let before = own.filter(|o| o.span.end <= offset && o.span != item.name.span);
                list.extend(before.map(|o| (o.text.clone(), o.kind)));
            }
            list.extend(occurrences(&module.ast).into_iter().filter_map(|o| {
                let item = module.ast.items.iter().any(|i| i.name.span == o.span);
                item.then_some((o.text, o.kind))
            }));
        }
        list.extend(snn_front::known_names().map(|n| (n, Kind::Known)));
        let mut seen = std::collections::HashSet::new();
        list.retain(|(n, _)| seen.insert(n.clone()));
        list
    }

    /// The byte of a place; the end of the line where the line is shorter.
    pub fn offset(&self, position: Position) -> usize {
        let mut start = 0;
        for _ in 0..position.line {
            match self.text[start..].find('\n') {
                Some(i) => start += i + 1,
                None => return self.text.len(),
            }
        }
        let mut units = 0;
        for (i, c) in self.text[start..].char_indices() {
            if units >= position.character || c == '\n' {
                return start + i;
            }
            units += c.len_utf16() as u32;
        }
        self.text.len()
    }

    /// The place of a byte.
    pub fn position(&self, offset: usize) -> Position {
        let before = &self.text[..self.text.floor_char_boundary(offset.min(self.text.len()))];
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() as u32;
        Position { line, character: before[start..].encode_utf16().count() as u32 }
    }

    /// The range of a span of this file.
    pub fn range(&self, span: Span) -> Range {
        Range { start: self.position(span.start), end: self.position(span.end) }
    }
}

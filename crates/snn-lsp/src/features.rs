//! What an editor shows and does beside errors: symbols, signatures, colours, hints of shapes, fixes, folding.

use std::path::PathBuf;

use snn_syntax::ast::ItemKind;
use snn_syntax::{Diagnostic, Span, arguments, is_keyword, last_word};
use tower_lsp_server::ls_types::*;

use crate::document::Document;
use crate::names::{Kind, Occurrence};

/// What tokens can be, in the order of their numbers.
pub const TOKENS: [SemanticTokenType; 9] = [
    SemanticTokenType::CLASS,
    SemanticTokenType::FUNCTION,
    SemanticTokenType::PARAMETER,
    SemanticTokenType::PROPERTY,
    SemanticTokenType::VARIABLE,
    SemanticTokenType::TYPE_PARAMETER,
    SemanticTokenType::KEYWORD,
    SemanticTokenType::COMMENT,
    SemanticTokenType::STRING,
];

fn token_of(kind: Kind) -> u32 {
    match kind {
        Kind::Net | Kind::Neuron => 0,
        Kind::Surrogate | Kind::Function | Kind::Known => 1,
        Kind::Input | Kind::Setting => 2,
        Kind::Layer | Kind::Parameter | Kind::State => 3,
        Kind::Value => 4,
        Kind::Dimension => 5,
    }
}

fn symbol_of(kind: Kind) -> SymbolKind {
    match kind {
        Kind::Net | Kind::Neuron => SymbolKind::CLASS,
        Kind::Surrogate | Kind::Function | Kind::Known => SymbolKind::FUNCTION,
        Kind::Layer => SymbolKind::OBJECT,
        Kind::Parameter | Kind::State => SymbolKind::FIELD,
        Kind::Input | Kind::Setting | Kind::Value => SymbolKind::VARIABLE,
        Kind::Dimension => SymbolKind::TYPE_PARAMETER,
    }
}

/// A word, comment or text of a file.
struct Lexeme {
    span: Span,
    kind: LexemeKind,
}

#[derive(Clone, Copy, PartialEq)]
enum LexemeKind {
    Word,
    Comment,
    Text,
    Bracket(char),
}

/// The words, comments, texts and brackets of a file, also of one that does not parse.
fn lexemes(text: &str) -> Vec<Lexeme> {
    let mut found = Vec::new();
    let mut at = 0;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (len, kind) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), Some(LexemeKind::Comment))
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |i| i + 2), Some(LexemeKind::Comment))
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = !escaped && (c == '"' || c == '\n');
                escaped = !escaped && c == '\\';
                ends
            });
            (end.map_or(rest.len(), |i| i + 2).min(rest.len()), Some(LexemeKind::Text))
        } else if is_word(c) {
            (rest.find(|c| !is_word(c)).unwrap_or(rest.len()), Some(LexemeKind::Word))
        } else if "()[]{}".contains(c) {
            (1, Some(LexemeKind::Bracket(c)))
        } else {
            (c.len_utf8(), None)
        };
        // A text that is cut inside of a character goes on to its end.
        let end = text.ceil_char_boundary(at + len.max(1));
        if let Some(kind) = kind {
            found.push(Lexeme { span: Span { file: 0, start: at, end }, kind });
        }
        at = end;
    }
    found
}

/// Nets, neurons, surrogates and functions, with what they declare.
pub fn symbols(d: &Document) -> Vec<DocumentSymbol> {
    let Some(module) = d.module() else { return vec![] };
    let symbol = |o: &Occurrence, range: Span, detail: Option<String>, children: Option<Vec<DocumentSymbol>>| {
        #[allow(deprecated, reason = "the struct has no other constructor")]
        DocumentSymbol {
            name: o.text.clone(),
            detail,
            kind: symbol_of(o.kind),
            tags: None,
            deprecated: None,
            range: d.range(range),
            selection_range: d.range(o.span),
            children,
        }
    };
    let declared = |span: Span| d.occurrences().iter().find(|o| o.span == span);
    let of_item = |item: &snn_syntax::ast::Item| {
        let own = declared(item.name.span)?;
        let inside = d
            .occurrences()
            .iter()
            .filter(|o| o.declaration == Some(o.span) && item.span.start <= o.span.start && o.span.end <= item.span.end);
        let children: Vec<DocumentSymbol> = inside
            .filter(|o| o.span != item.name.span && o.kind != Kind::Dimension)
            .map(|o| symbol(o, o.span, d.type_of(o.span), None))
            .collect();
        Some(symbol(own, item.span, Some(d.head(item)), (!children.is_empty()).then_some(children)))
    };
    module.ast.items.iter().filter(|i| i.kind != ItemKind::Use).filter_map(of_item).collect()
}

/// The call that a place is in: what is called, and which argument, by place or by name.
fn call_at(text: &str, offset: usize) -> Option<(String, usize, Option<String>)> {
    let before: Vec<Lexeme> = lexemes(&text[..offset]).into_iter().filter(|l| l.kind != LexemeKind::Comment).collect();
    let mut depth = 0;
    for (i, l) in before.iter().enumerate().rev() {
        match l.kind {
            LexemeKind::Bracket(')' | ']' | '}') => depth += 1,
            LexemeKind::Bracket('(') if depth == 0 => {
                let callee = before[..i].last().filter(|w| w.kind == LexemeKind::Word && w.span.end == l.span.start)?;
                // Commas between brackets that are closed are not of this call.
                let (mut inner, mut commas, mut begins) = (0i32, 0, l.span.end);
                for (k, c) in text[l.span.end..offset].char_indices() {
                    inner += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
                    if c == ',' && inner == 0 {
                        (commas, begins) = (commas + 1, l.span.end + k + 1);
                    }
                }
                let own = text[begins..offset].split_once('=').map(|(n, _)| n.trim().to_string());
                return Some((text[callee.span.start..callee.span.end].to_string(), commas, own));
            }
            LexemeKind::Bracket('{') if depth == 0 => return None,
            LexemeKind::Bracket('(' | '[' | '{') => depth -= 1,
            _ => {}
        }
    }
    None
}

/// How something that is called is used: an item of the file, or of the library.
fn signature(d: &Document, name: &str) -> Option<String> {
    let own = d.module().and_then(|m| m.ast.items.iter().find(|i| i.name.text == name)).map(|i| d.head(i));
    own.or_else(|| d.called_by(name).and_then(|called| signature(d, &called).filter(|_| called != name)))
        .or_else(|| snn_front::signature_of(name))
}

/// The signature of the call that a place is in, and which argument is typed.
pub fn signature_help(d: &Document, position: Position) -> Option<SignatureHelp> {
    let (callee, place, named) = call_at(d.text(), d.offset(position))?;
    let label = signature(d, &callee)?;
    let all = arguments(&label);
    let active = named.and_then(|n| all.iter().position(|(a, ..)| *a == n)).unwrap_or(place);
    let units = |end: usize| label[..end].encode_utf16().count() as u32;
    let parameters = all
        .iter()
        .map(|(_, at)| ParameterInformation { label: ParameterLabel::LabelOffsets([units(at.start), units(at.end)]), documentation: None });
    let information = SignatureInformation {
        parameters: Some(parameters.collect()),
        active_parameter: Some(active as u32),
        documentation: snn_front::documentation(&callee)
            .map(|value| Documentation::MarkupContent(MarkupContent { kind: MarkupKind::Markdown, value })),
        label,
    };
    Some(SignatureHelp { signatures: vec![information], active_signature: Some(0), active_parameter: Some(active as u32) })
}

/// The colour of every name, keyword, comment and text.
pub fn tokens(d: &Document) -> Vec<SemanticToken> {
    let names = d.occurrences();
    let mut all: Vec<(Span, u32)> = names.iter().map(|o| (o.span, token_of(o.kind))).collect();
    for l in lexemes(d.text()) {
        match l.kind {
            LexemeKind::Comment => all.push((l.span, 7)),
            LexemeKind::Text => all.push((l.span, 8)),
            LexemeKind::Word if is_keyword(&d.text()[l.span.start..l.span.end]) => all.push((l.span, 6)),
            LexemeKind::Word | LexemeKind::Bracket(_) => {}
        }
    }
    all.sort_by_key(|(s, _)| (s.start, s.end));
    let mut tokens = Vec::new();
    let (mut line, mut start, mut end) = (0, 0, 0);
    for (span, token_type) in all {
        if span.start < end {
            continue;
        }
        end = span.end;
        // A token is in one line: a comment over several is several.
        let mut from = span.start;
        for part in d.text()[span.start..span.end].split_inclusive('\n') {
            let own = part.trim_end_matches('\n');
            let at = d.position(from);
            from += part.len();
            if own.is_empty() {
                continue;
            }
            let delta_start = if at.line == line { at.character - start } else { at.character };
            let length = own.encode_utf16().count() as u32;
            tokens.push(SemanticToken { delta_line: at.line - line, delta_start, length, token_type, token_modifiers_bitset: 0 });
            (line, start) = (at.line, at.character);
        }
    }
    tokens
}

/// The types of values behind their names, where they are not written.
pub fn hints(d: &Document, range: Range) -> Vec<InlayHint> {
    let declared = d.occurrences().iter().filter(|o| o.declaration == Some(o.span) && o.kind == Kind::Value);
    declared
        .filter_map(|o| {
            let ty = d.type_of(o.span).filter(|t| t.contains('['))?;
            let position = d.position(o.span.end);
            let written = d.text()[o.span.end..].trim_start().starts_with(':');
            (!written && range.start.line <= position.line && position.line <= range.end.line).then(|| InlayHint {
                position,
                label: InlayHintLabel::String(format!(": {ty}")),
                kind: Some(InlayHintKind::TYPE),
                text_edits: None,
                tooltip: None,
                padding_left: None,
                padding_right: None,
                data: None,
            })
        })
        .collect()
}

/// What the text of a diagnostic says to write instead of what stands at its first place.
pub fn fix(diagnostic: &Diagnostic, text: &str) -> Option<(Span, String)> {
    let (span, _) = diagnostic.labels.iter().find(|(s, _)| s.file == 0)?;
    let stands = text.get(span.start..span.end)?;
    let quoted = |t: &str| t.split('`').nth(1).map(str::to_string);
    if let Some((_, after)) = diagnostic.help.as_deref().and_then(|h| h.split_once("did you mean ")) {
        let better = quoted(after)?;
        // Of `tua = 2.0` only the name is wrong.
        let wrong = quoted(&diagnostic.message).filter(|w| stands.contains(w.as_str())).or_else(|| {
            let messages = diagnostic.message.split('`').skip(1).step_by(2);
            messages.map(str::to_string).find(|w| stands.starts_with(w.as_str()))
        });
        let wrong = wrong.unwrap_or_else(|| stands.to_string());
        let at = span.start + stands.find(&wrong).unwrap_or(0);
        return Some((Span { file: 0, start: at, end: at + wrong.len() }, better));
    }
    // "`and` is written `&&`"
    let (wrong, rest) = diagnostic.message.strip_prefix('`')?.split_once("` is written `")?;
    let better = rest.split('`').next()?;
    (wrong == stands).then(|| (*span, better.to_string()))
}

/// Fixes for what is wrong in a range.
pub fn actions(d: &Document, uri: &Uri, range: Range) -> Vec<CodeActionOrCommand> {
    let wrong = d.diagnostics().iter().filter_map(|diagnostic| {
        let (span, new_text) = fix(diagnostic, d.text())?;
        let own = d.range(diagnostic.labels.iter().find(|(s, _)| s.file == 0)?.0);
        if own.end < range.start || own.start > range.end {
            return None;
        }
        let title = format!("write `{new_text}`");
        let edit = TextEdit { range: d.range(span), new_text };
        let changes = [(uri.clone(), vec![edit])].into_iter().collect();
        Some(CodeActionOrCommand::CodeAction(CodeAction {
            title,
            kind: Some(CodeActionKind::QUICKFIX),
            diagnostics: Some(vec![crate::to_lsp(d, uri, diagnostic)]),
            edit: Some(WorkspaceEdit { changes: Some(changes), ..WorkspaceEdit::default() }),
            is_preferred: Some(true),
            ..CodeAction::default()
        }))
    });
    wrong.collect()
}

/// Blocks, calls and comments of several lines.
pub fn folds(d: &Document) -> Vec<FoldingRange> {
    let fold = |start: usize, end: usize, kind: Option<FoldingRangeKind>| {
        let (from, to) = (d.position(start).line, d.position(end).line);
        (to > from).then(|| FoldingRange { start_line: from, end_line: to, kind, ..FoldingRange::default() })
    };
    let mut open = Vec::new();
    let mut folds = Vec::new();
    let mut comment: Option<(usize, usize)> = None;
    for l in lexemes(d.text()) {
        match l.kind {
            LexemeKind::Bracket(c) if "([{".contains(c) => open.push(l.span.start),
            LexemeKind::Bracket(_) => folds.extend(open.pop().and_then(|start| fold(start, l.span.start, None))),
            LexemeKind::Comment => {
                // Comments of whole lines that follow each other.
                let follows = comment.filter(|(_, end)| {
                    d.text()[*end..l.span.start].trim().is_empty() && d.text()[*end..l.span.start].matches('\n').count() == 1
                });
                if follows.is_none()
                    && let Some((start, end)) = comment
                {
                    folds.extend(fold(start, end, Some(FoldingRangeKind::Comment)));
                }
                comment = Some((follows.map_or(l.span.start, |(start, _)| start), l.span.end));
            }
            LexemeKind::Word | LexemeKind::Text => {}
        }
    }
    if let Some((start, end)) = comment {
        folds.extend(fold(start, end, Some(FoldingRangeKind::Comment)));
    }
    folds.sort_by_key(|f| (f.start_line, std::cmp::Reverse(f.end_line)));
    folds.dedup_by_key(|f| f.start_line);
    folds
}

/// What may be typed at a place because of what is around it: the fields of a layer after a dot, the settings of a call; `None` elsewhere.
pub fn in_context(d: &Document, position: Position) -> Option<Vec<CompletionItem>> {
    let offset = d.offset(position);
    let before = &d.text()[..offset];
    let word = offset - last_word(before, "").len();
    if let Some(rest) = before[..word].strip_suffix('.') {
        let fields = d.fields(last_word(rest, "."));
        let item = |(label, detail): (String, String)| CompletionItem {
            label,
            detail: Some(detail),
            kind: Some(CompletionItemKind::FIELD),
            ..CompletionItem::default()
        };
        return Some(fields.into_iter().map(item).collect());
    }
    let (callee, ..) = call_at(d.text(), word)?;
    let label = signature(d, &callee)?;
    let settings = label.split_once(';').map(|_| arguments(&label)).unwrap_or_default();
    let after = label.find(';').unwrap_or(label.len());
    let item = |(name, at): (String, std::ops::Range<usize>)| CompletionItem {
        detail: Some(label[at].to_string()),
        insert_text: Some(format!("{name} = ")),
        // Settings of the call come before everything else.
        sort_text: Some(format!("0{name}")),
        label: name,
        kind: Some(CompletionItemKind::FIELD),
        ..CompletionItem::default()
    };
    Some(settings.into_iter().filter(|(_, at)| at.start > after).map(item).collect())
}

/// Is a place behind a name and a dot?
pub fn is_after_dot(d: &Document, position: Position) -> bool {
    let before = &d.text()[..d.offset(position)];
    before[..before.len() - last_word(before, "").len()].ends_with('.')
}

/// The library as a file that an editor can open, with the place of a name in it.
pub fn in_library(name: &str) -> Option<Location> {
    let before = &snn_front::STANDARD_LIBRARY[..snn_front::declaration(name)?];
    let line = before.matches('\n').count() as u32;
    let path = library_file()?;
    let range = Range { start: Position { line, character: 0 }, end: Position { line, character: 0 } };
    Some(Location { uri: Uri::from_file_path(path)?, range })
}

/// Written once for each version, where temporary files are.
fn library_file() -> Option<PathBuf> {
    let folder = std::env::temp_dir().join(format!("snnc-{}", env!("CARGO_PKG_VERSION")));
    let path = folder.join(snn_front::STANDARD_LIBRARY_NAME);
    if std::fs::read(&path).is_ok_and(|bytes| bytes == snn_front::STANDARD_LIBRARY.as_bytes()) {
        return Some(path);
    }
    std::fs::create_dir_all(&folder).ok()?;
    write_whole(&path).then_some(path)
}

/// Another server may write it at the same time: it is whole or not there.
fn write_whole(path: &std::path::Path) -> bool {
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    std::fs::write(&partial, snn_front::STANDARD_LIBRARY).is_ok() && std::fs::rename(&partial, path).is_ok()
}

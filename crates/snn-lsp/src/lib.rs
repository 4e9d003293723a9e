//! The language server: diagnostics while typing with their fixes, hover, definition, references, highlights, completion, signatures,
//! symbols, colours, hints of shapes, rename, folding and formatting, over standard input and output.

mod document;
mod features;
mod names;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use document::Document;
use names::Kind;
use snn_syntax::Severity;
use tower_lsp_server::jsonrpc::{Error, Result};
use tower_lsp_server::ls_types::*;
use tower_lsp_server::{Client, LanguageServer, LspService, Server};

/// Serves one editor until it says good-bye.
///
/// # Errors
/// If standard input or output cannot be used.
pub fn serve() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let (service, socket) = LspService::new(|client| Language { client, documents: Mutex::default() });
        Server::new(tokio::io::stdin(), tokio::io::stdout(), socket).serve(service).await;
    });
    // A read of standard input may still wait for a line that never comes.
    runtime.shutdown_background();
    Ok(())
}

struct Language {
    client: Client,
    documents: Mutex<HashMap<String, Document>>,
}

impl Language {
    fn documents(&self) -> MutexGuard<'_, HashMap<String, Document>> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn update(&self, uri: Uri, text: String, version: i32) {
        let key = uri.as_str().to_string();
        let diagnostics = {
            let mut documents = self.documents();
            let before = documents.remove(&key);
            let name = key.rsplit('/').next().unwrap_or(&key);
            let document = Document::new(name, text, before);
            let diagnostics = document.diagnostics().iter().map(|d| to_lsp(&document, &uri, d)).collect();
            documents.insert(key, document);
            diagnostics
        };
        self.client.publish_diagnostics(uri, diagnostics, Some(version)).await;
    }

    fn with<T>(&self, uri: &Uri, f: impl FnOnce(&Document) -> Option<T>) -> Option<T> {
        self.documents().get(uri.as_str()).and_then(f)
    }
}

/// A diagnostic of ours: its first place in the file is its range, the others are related; notes and help follow the message.
fn to_lsp(document: &Document, uri: &Uri, d: &snn_syntax::Diagnostic) -> Diagnostic {
    let mut own = d.labels.iter().filter(|(s, _)| s.file == 0);
    let range = own.next().map_or_else(Range::default, |(s, _)| document.range(*s));
    let related = own.map(|(s, text)| DiagnosticRelatedInformation {
        location: Location { uri: uri.clone(), range: document.range(*s) },
        message: text.clone(),
    });
    let related: Vec<_> = related.collect();
    let mut message = d.message.clone();
    if let Some((_, label)) = d.labels.iter().find(|(s, _)| s.file == 0) {
        message.push_str(&format!("\n{label}"));
    }
    d.notes.iter().for_each(|n| message.push_str(&format!("\nnote: {n}")));
    d.help.iter().for_each(|h| message.push_str(&format!("\nhelp: {h}")));
    Diagnostic {
        range,
        severity: Some(if d.severity == Severity::Error { DiagnosticSeverity::ERROR } else { DiagnosticSeverity::WARNING }),
        source: Some("snnc".into()),
        message,
        related_information: (!related.is_empty()).then_some(related),
        ..Diagnostic::default()
    }
}

fn completion_kind(kind: Kind) -> CompletionItemKind {
    match kind {
        Kind::Net | Kind::Neuron | Kind::Layer => CompletionItemKind::CLASS,
        Kind::Surrogate | Kind::Function | Kind::Known => CompletionItemKind::FUNCTION,
        Kind::Setting | Kind::Parameter | Kind::State => CompletionItemKind::FIELD,
        Kind::Dimension => CompletionItemKind::TYPE_PARAMETER,
        Kind::Input | Kind::Value => CompletionItemKind::VARIABLE,
    }
}

/// Is it a name of the language that is not reserved?
fn is_name(text: &str) -> bool {
    let reserved = ["or", "net", "let", "if", "else", "true", "false", "none", "f32", "i64", "bool", "u8"];
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !reserved.contains(&text)
}

impl LanguageServer for Language {
    async fn initialize(&self, _: InitializeParams) -> Result<InitializeResult> {
        Ok(InitializeResult {
            server_info: Some(ServerInfo { name: "snnc".into(), version: Some(env!("CARGO_PKG_VERSION").into()) }),
            capabilities: ServerCapabilities {
                text_document_sync: Some(TextDocumentSyncCapability::Kind(TextDocumentSyncKind::FULL)),
                hover_provider: Some(HoverProviderCapability::Simple(true)),
                definition_provider: Some(OneOf::Left(true)),
                references_provider: Some(OneOf::Left(true)),
                completion_provider: Some(CompletionOptions {
                    trigger_characters: Some(vec![".".into(), "(".into(), ",".into()]),
                    ..CompletionOptions::default()
                }),
                signature_help_provider: Some(SignatureHelpOptions {
                    trigger_characters: Some(vec!["(".into(), ",".into()]),
                    ..SignatureHelpOptions::default()
                }),
                rename_provider: Some(OneOf::Right(RenameOptions {
                    prepare_provider: Some(true),
                    work_done_progress_options: WorkDoneProgressOptions::default(),
                })),
                document_symbol_provider: Some(OneOf::Left(true)),
                workspace_symbol_provider: Some(OneOf::Left(true)),
                document_highlight_provider: Some(OneOf::Left(true)),
                folding_range_provider: Some(FoldingRangeProviderCapability::Simple(true)),
                inlay_hint_provider: Some(OneOf::Left(true)),
                code_action_provider: Some(CodeActionProviderCapability::Simple(true)),
                semantic_tokens_provider: Some(SemanticTokensServerCapabilities::SemanticTokensOptions(SemanticTokensOptions {
                    legend: SemanticTokensLegend { token_types: features::TOKENS.to_vec(), token_modifiers: vec![] },
                    full: Some(SemanticTokensFullOptions::Bool(true)),
                    ..SemanticTokensOptions::default()
                })),
                document_formatting_provider: Some(OneOf::Left(true)),
                ..ServerCapabilities::default()
            },
            ..InitializeResult::default()
        })
    }

    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }

    async fn did_open(&self, p: DidOpenTextDocumentParams) {
        self.update(p.text_document.uri, p.text_document.text, p.text_document.version).await;
    }

    async fn did_change(&self, p: DidChangeTextDocumentParams) {
        if let Some(change) = p.content_changes.into_iter().next_back() {
            self.update(p.text_document.uri, change.text, p.text_document.version).await;
        }
    }

    async fn did_close(&self, p: DidCloseTextDocumentParams) {
        self.documents().remove(p.text_document.uri.as_str());
        self.client.publish_diagnostics(p.text_document.uri, vec![], None).await;
    }

    async fn hover(&self, p: HoverParams) -> Result<Option<Hover>> {
        let at = p.text_document_position_params;
        Ok(self.with(&at.text_document.uri, |d| {
            let occurrence = d.at(at.position)?;
            let value = d.hover(occurrence)?;
            let contents = HoverContents::Markup(MarkupContent { kind: MarkupKind::Markdown, value });
            Some(Hover { contents, range: Some(d.range(occurrence.span)) })
        }))
    }

    async fn goto_definition(&self, p: GotoDefinitionParams) -> Result<Option<GotoDefinitionResponse>> {
        let at = p.text_document_position_params;
        let uri = at.text_document.uri;
        Ok(self.with(&uri, |d| {
            let occurrence = d.at(at.position)?;
            let location = match occurrence.declaration {
                Some(declaration) => Location { uri: uri.clone(), range: d.range(declaration) },
                None => features::in_library(&occurrence.text)?,
            };
            Some(GotoDefinitionResponse::Scalar(location))
        }))
    }

    async fn references(&self, p: ReferenceParams) -> Result<Option<Vec<Location>>> {
        let at = p.text_document_position;
        let uri = at.text_document.uri;
        Ok(self.with(&uri, |d| {
            let spans = d.same(d.at(at.position)?);
            Some(spans.into_iter().map(|s| Location { uri: uri.clone(), range: d.range(s) }).collect())
        }))
    }

    async fn completion(&self, p: CompletionParams) -> Result<Option<CompletionResponse>> {
        let at = p.text_document_position;
        Ok(self.with(&at.text_document.uri, |d| {
            let item = |(label, kind): (String, Kind)| CompletionItem {
                detail: if kind == Kind::Known { snn_front::signature_of(&label) } else { None },
                kind: Some(completion_kind(kind)),
                label,
                ..CompletionItem::default()
            };
            let context = features::in_context(d, at.position);
            // After a dot there is nothing else; in a call settings come first.
            if let Some(fields) = context.as_ref().filter(|_| features::is_after_dot(d, at.position)) {
                return Some(CompletionResponse::Array(fields.clone()));
            }
            let keyword = |word: &&str| CompletionItem {
                label: (*word).to_string(),
                kind: Some(CompletionItemKind::KEYWORD),
                ..CompletionItem::default()
            };
            let all = context.into_iter().flatten().chain(d.completions(at.position).into_iter().map(item));
            Some(CompletionResponse::Array(all.chain(snn_syntax::KEYWORDS.iter().map(keyword)).collect()))
        }))
    }

    async fn rename(&self, p: RenameParams) -> Result<Option<WorkspaceEdit>> {
        if !is_name(&p.new_name) {
            return Err(Error::invalid_params(format!("`{}` is not a name", p.new_name)));
        }
        let at = p.text_document_position;
        let uri = at.text_document.uri;
        if let Some(clash) = self.with(&uri, |d| d.clash(d.at(at.position)?, &p.new_name)) {
            return Err(Error::invalid_params(clash));
        }
        let edits = self.with(&uri, |d| {
            let spans = d.same(d.at(at.position)?);
            let edit = |s| TextEdit { range: d.range(s), new_text: p.new_name.clone() };
            (!spans.is_empty()).then(|| spans.into_iter().map(edit).collect::<Vec<_>>())
        });
        match edits {
            Some(edits) => Ok(Some(WorkspaceEdit { changes: Some(HashMap::from([(uri, edits)])), ..WorkspaceEdit::default() })),
            None => Err(Error::invalid_params("what stands here is not declared in this file")),
        }
    }

    async fn prepare_rename(&self, p: TextDocumentPositionParams) -> Result<Option<PrepareRenameResponse>> {
        let range = self.with(&p.text_document.uri, |d| {
            let occurrence = d.at(p.position)?;
            occurrence.declaration.map(|_| PrepareRenameResponse::RangeWithPlaceholder {
                range: d.range(occurrence.span),
                placeholder: occurrence.text.clone(),
            })
        });
        match range {
            Some(range) => Ok(Some(range)),
            None => Err(Error::invalid_params("what stands here is not declared in this file")),
        }
    }

    async fn document_symbol(&self, p: DocumentSymbolParams) -> Result<Option<DocumentSymbolResponse>> {
        Ok(self.with(&p.text_document.uri, |d| Some(DocumentSymbolResponse::Nested(features::symbols(d)))))
    }

    async fn symbol(&self, p: WorkspaceSymbolParams) -> Result<Option<WorkspaceSymbolResponse>> {
        let query = p.query.to_lowercase();
        let mut found = Vec::new();
        for (key, d) in self.documents().iter() {
            let Ok(uri) = key.parse::<Uri>() else { continue };
            for s in features::symbols(d).into_iter().filter(|s| s.name.to_lowercase().contains(&query)) {
                #[allow(deprecated, reason = "the struct has no other constructor")]
                found.push(SymbolInformation {
                    name: s.name,
                    kind: s.kind,
                    tags: None,
                    deprecated: None,
                    location: Location { uri: uri.clone(), range: s.selection_range },
                    container_name: None,
                });
            }
        }
        found.sort_by(|a, b| (&a.name, a.location.uri.as_str()).cmp(&(&b.name, b.location.uri.as_str())));
        Ok(Some(WorkspaceSymbolResponse::Flat(found)))
    }

    async fn signature_help(&self, p: SignatureHelpParams) -> Result<Option<SignatureHelp>> {
        let at = p.text_document_position_params;
        Ok(self.with(&at.text_document.uri, |d| features::signature_help(d, at.position)))
    }

    async fn document_highlight(&self, p: DocumentHighlightParams) -> Result<Option<Vec<DocumentHighlight>>> {
        let at = p.text_document_position_params;
        Ok(self.with(&at.text_document.uri, |d| {
            let own = d.at(at.position)?;
            let mark = |s: snn_syntax::Span| DocumentHighlight {
                range: d.range(s),
                kind: Some(if own.declaration == Some(s) { DocumentHighlightKind::WRITE } else { DocumentHighlightKind::READ }),
            };
            Some(d.same(own).into_iter().map(mark).collect())
        }))
    }

    async fn folding_range(&self, p: FoldingRangeParams) -> Result<Option<Vec<FoldingRange>>> {
        Ok(self.with(&p.text_document.uri, |d| Some(features::folds(d))))
    }

    async fn semantic_tokens_full(&self, p: SemanticTokensParams) -> Result<Option<SemanticTokensResult>> {
        Ok(self.with(&p.text_document.uri, |d| {
            Some(SemanticTokensResult::Tokens(SemanticTokens { result_id: None, data: features::tokens(d) }))
        }))
    }

    async fn inlay_hint(&self, p: InlayHintParams) -> Result<Option<Vec<InlayHint>>> {
        Ok(self.with(&p.text_document.uri, |d| Some(features::hints(d, p.range))))
    }

    async fn code_action(&self, p: CodeActionParams) -> Result<Option<CodeActionResponse>> {
        let uri = p.text_document.uri;
        Ok(self.with(&uri, |d| Some(features::actions(d, &uri, p.range))))
    }

    async fn formatting(&self, p: DocumentFormattingParams) -> Result<Option<Vec<TextEdit>>> {
        Ok(self.with(&p.text_document.uri, |d| {
            let new_text = d.formatted()?;
            let range = Range { start: Position::default(), end: d.position(d.text().len()) };
            Some(vec![TextEdit { range, new_text }])
        }))
    }
}

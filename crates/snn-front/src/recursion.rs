//! `let rec`: values that mention themselves under a delay.

use snn_ir::recurrence::{RecurrenceError, Recursion};
use snn_ir::{Op, SourceSpan, Type};
use snn_syntax::ast::{Statement, StatementKind};
use snn_syntax::{Diagnostic, Span};

use crate::context::{Lowerer, Result};
use crate::lower::bound_names;
use crate::value::Val;

impl Lowerer<'_> {
    /// `let rec`: first its type is found with the value unknown, then the value is built on a placeholder.
    pub fn recursive(&mut self, statements: &[Statement]) -> Result<()> {
        let mut known: Vec<Option<Type>> = vec![None; statements.len()];
        let part = |s: &Statement| match &s.kind {
            StatementKind::Let { names, ty, value, .. } => (names[0].clone(), ty.clone(), *value),
            _ => unreachable!("only recursive bindings are grouped"),
        };
        for (i, s) in statements.iter().enumerate() {
            if let (_, Some(ty), _) = part(s) {
                known[i] = Some(self.declared_type(&ty, true)?);
            }
        }
        if self.frames.last().is_some_and(|f| f.declaring) {
            statements.iter().for_each(|s| self.bind(&part(s).0.text, Val::Unknown));
            return Ok(());
        }
        for _ in 0..statements.len() {
            if known.iter().all(Option::is_some) {
                break;
            }
            for i in 0..statements.len() {
                if known[i].is_none() {
                    known[i] = self.first_look(statements, &known, i)?;
                }
            }
        }
        let mut placeholders = Vec::new();
        for (s, ty) in statements.iter().zip(&known) {
            let (name, _, _) = part(s);
            let Some(ty) = ty else {
                let help = format!("write its type: `let rec {}: f32[T, B, 10] = ...`", name.text);
                return self.fail_help(
                    name.span,
                    format!("the type of the recursive value `{}` cannot be found", name.text),
                    "this one",
                    help,
                );
            };
            let value = self.graph().add(Op::Input(name.text.clone()), &[], Some(ty.clone()));
            self.graph().node_mut(value.node).span = Some(SourceSpan { file: 0, start: s.span.start as u32, end: s.span.end as u32 });
            let bound = self.tensor(value);
            self.note(name.span, &bound);
            self.bind(&name.text, bound);
            placeholders.push(value);
        }
        for ((s, ty), placeholder) in statements.iter().zip(&known).zip(placeholders) {
            let (name, _, e) = part(s);
            let value = self.eval(e)?;
            let definition = self.lift(value, ty.as_ref().map(|t| t.dtype), s.span)?;
            let actual = self.ty(definition);
            if Some(&actual) != ty.as_ref() {
                let expected = ty.as_ref().map_or(String::new(), ToString::to_string);
                let message = format!("the recursive value `{}` is used as {expected} and is {actual}", name.text);
                return self.fail(s.span, message, "here");
            }
            self.context().recursions.push(Recursion { name: name.text.clone(), placeholder, definition });
            let bound = self.tensor(definition);
            self.bind(&name.text, bound);
        }
        Ok(())
    }

    /// The type of a recursive value whose own uses are unknown, if it has one then. Leaves no trace.
    fn first_look(&mut self, statements: &[Statement], known: &[Option<Type>], at: usize) -> Result<Option<Type>> {
        let saved = (
            self.contexts.clone(),
            self.frames.clone(),
            self.layers.clone(),
            self.diagnostics.len(),
            self.parameters.len(),
            self.updates.clone(),
        );
        // A look copies everything that is there.
        self.evaluated += self.contexts.iter().map(|c| c.graph.len()).sum::<usize>() + 10 * (self.layers.len() + self.frames.len());
        self.dry += 1;
        for (s, ty) in statements.iter().zip(known) {
            for name in bound_names(s) {
                let value = match ty {
                    Some(ty) => {
                        let v = self.graph().add(Op::Input(name.clone()), &[], Some(ty.clone()));
                        self.tensor(v)
                    }
                    None => Val::Unknown,
                };
                self.bind(&name, value);
            }
        }
        let StatementKind::Let { value, .. } = &statements[at].kind else { return Ok(None) };
        let result = self.eval(*value);
        let ty = match &result {
            Ok(Val::Tensor { value, .. }) => Some(self.ty(*value)),
            _ => None,
        };
        self.dry -= 1;
        (self.contexts, self.frames, self.layers, self.updates) = (saved.0, saved.1, saved.2, saved.5);
        self.diagnostics.truncate(saved.3);
        self.parameters.truncate(saved.4);
        match result {
            Err(stop) => Err(stop),
            Ok(_) => Ok(ty),
        }
    }
}

/// Why a recursion cannot run, for people.
pub(crate) fn diagnostic(error: RecurrenceError) -> Diagnostic {
    let place =
        |span: &Option<SourceSpan>| span.map_or(Span::default(), |s| Span { file: s.file, start: s.start as usize, end: s.end as usize });
    match error {
        RecurrenceError::NoDelay { cycle } => {
            let names: Vec<&str> = cycle.iter().map(|(n, _)| n.as_str()).collect();
            let mut shown = names.clone();
            shown.push(names[0]);
            let mut d = Diagnostic::error("a recursive value depends on itself within the same time step")
                .note(format!("the cycle: {}", shown.join(" -> ")));
            let mut seen = Vec::new();
            for (name, span) in &cycle {
                if span.is_some() && !seen.contains(span) {
                    seen.push(*span);
                    d = d.label(place(span), format!("`{name}` is on the cycle"));
                }
            }
            d.help("put a `delay(..., 1)` on it: `let rec h = lif(fc(x) + back(delay(h, 1)))`")
        }
        RecurrenceError::MixesSteps { what, span } => {
            Diagnostic::error(format!("`{what}` needs more than one time step, and is part of a recursive value"))
                .label(place(&span), "this cannot run step by step")
                .help("use it outside of the `let rec`")
        }
    }
}

//! `let rec`: values that mention themselves under a delay.

use snn_ir::recurrence::{RecurrenceError, Recursion};
use snn_ir::{SourceSpan, Type};
use snn_syntax::ast::{Statement, StatementKind};
use snn_syntax::{Diagnostic, Span};

use crate::context::{Lowerer, Result};
use crate::lower::bound_names;
use crate::value::Val;

impl Lowerer<'_> {
    /// `let rec`: first its type is found with the value unknown, then the value is built on a placeholder.
    pub fn recursive(&mut self, statements: &[Statement]) -> Result<()> {
        let mut known: Vec<Option<Vec<Type>>> = vec![None; statements.len()];
        let part = |s: &Statement| match &s.kind {
            StatementKind::Let { names, ty, value, .. } => (names.clone(), ty.clone(), *value),
            _ => unreachable!("only recursive bindings are grouped"),
        };
        for (i, s) in statements.iter().enumerate() {
            if let (_, Some(ty), _) = part(s) {
                known[i] = Some(vec![self.declared_type(&ty, true)?]);
            }
        }
        if self.frames.last().is_some_and(|f| f.declaring) {
            statements.iter().flat_map(bound_names).for_each(|n| self.bind(&n, Val::Unknown));
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
        for (s, types) in statements.iter().zip(&known) {
            let (names, _, _) = part(s);
            let Some(types) = types else {
                let (name, place) = (&names[0].text, names[0].span);
                let help = format!("write its type: `let rec {name}: f32[T, B, 10] = ...`");
                return self.fail_help(place, format!("the type of the recursive value `{name}` cannot be found"), "this one", help);
            };
            if types.len() != names.len() {
                return self.fail(s.span, format!("{} names for {} values", names.len(), types.len()), "here");
            }
            let mut own = Vec::new();
            for (name, ty) in names.iter().zip(types) {
                let value = self.graph().input(name.text.clone(), ty.clone());
                let span = SourceSpan { file: s.span.file, start: s.span.start as u32, end: s.span.end as u32 };
                self.graph().node_mut(value.node).span = Some(span);
                let bound = self.tensor(value);
                self.note(name.span, &bound);
                self.bind(&name.text, bound);
                own.push(value);
            }
            placeholders.push(own);
        }
        for ((s, types), placeholders) in statements.iter().zip(&known).zip(placeholders) {
            let (names, _, e) = part(s);
            let values = match self.eval(e)? {
                Val::Tuple(items) | Val::List(items) if names.len() > 1 => items,
                other => vec![other],
            };
            if values.len() != names.len() {
                return self.fail(s.span, format!("{} names for {} values", names.len(), values.len()), "here");
            }
            let types = types.clone().unwrap_or_default();
            for (((name, value), ty), placeholder) in names.iter().zip(values).zip(types).zip(placeholders) {
                let definition = self.lift(value, Some(ty.dtype), s.span)?;
                let actual = self.ty(definition);
                if actual != ty {
                    let message = format!("the recursive value `{}` is used as {ty} and is {actual}", name.text);
                    return self.fail(s.span, message, "here");
                }
                self.context().recursions.push(Recursion { name: name.text.clone(), placeholder, definition });
                let bound = self.tensor(definition);
                self.bind(&name.text, bound);
            }
        }
        Ok(())
    }

    /// The types of a recursive value whose own uses are unknown, if it has them then. Leaves no trace.
    fn first_look(&mut self, statements: &[Statement], known: &[Option<Vec<Type>>], at: usize) -> Result<Option<Vec<Type>>> {
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
        for (s, types) in statements.iter().zip(known) {
            for (i, name) in bound_names(s).into_iter().enumerate() {
                let value = match types.as_ref().and_then(|t| t.get(i)) {
                    Some(ty) => {
                        let v = self.graph().input(name.clone(), ty.clone());
                        self.tensor(v)
                    }
                    None => Val::Unknown,
                };
                self.bind(&name, value);
            }
        }
        let StatementKind::Let { value, names, .. } = &statements[at].kind else { return Ok(None) };
        let result = self.eval(*value);
        let types = match &result {
            Ok(Val::Tensor { value, .. }) if names.len() == 1 => Some(vec![self.ty(*value)]),
            Ok(Val::Tuple(items)) if names.len() > 1 => items
                .iter()
                .map(|v| match v {
                    Val::Tensor { value, .. } => Some(self.ty(*value)),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        self.dry -= 1;
        (self.contexts, self.frames, self.layers, self.updates) = (saved.0, saved.1, saved.2, saved.5);
        self.diagnostics.truncate(saved.3);
        self.parameters.truncate(saved.4);
        match result {
            Err(stop) => Err(stop),
            Ok(_) => Ok(types),
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

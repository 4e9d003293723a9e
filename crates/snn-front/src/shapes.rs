//! Declared types: evaluating them, and matching them with the types of values.

use snn_ir::{DType, Dim, Type};
use snn_syntax::ast::{Dimension, ExprId, ExprKind, ItemKind, TypeExpr};
use snn_syntax::{Diagnostic, Span};

use crate::context::{Lowerer, Result, Stop};
use crate::value::Val;

impl Lowerer<'_> {
    /// A declared type whose names are all known. `bind_new` makes dimensions of names that are not.
    pub fn declared_type(&mut self, ty: &TypeExpr, bind_new: bool) -> Result<Type> {
        let dtype: DType = match ty.dtype.parse() {
            Ok(t) => t,
            Err(e) => return self.fail(ty.span, e, "here"),
        };
        let mut shape = Vec::new();
        for d in &ty.dimensions {
            match d {
                Dimension::Rest(span) => match self.frame().rest.clone() {
                    Some(rest) => shape.extend(rest),
                    None => return self.fail(*span, "`...` stands for nothing here", "no input has a `...`"),
                },
                Dimension::Expression(e) => shape.push(self.dimension(*e, bind_new)?),
            }
        }
        Ok(Type::new(dtype, shape))
    }

    /// A dimension of a declared type; `/` rounds down in it.
    pub fn dimension(&mut self, e: ExprId, bind_new: bool) -> Result<Dim> {
        use snn_syntax::ast::BinaryOperator::{Add, Div, Mul, Sub};
        let file = self.frame().file;
        let expr = self.ast(file).expr(e);
        if let ExprKind::Binary(op @ (Add | Sub | Mul | Div), a, b) = &expr.kind {
            let (a, b) = (self.dimension(*a, bind_new)?, self.dimension(*b, bind_new)?);
            return Ok(match op {
                Add => a.plus(&b),
                Sub => a.minus(&b),
                Mul => a.times(&b),
                _ if b.as_constant() == Some(0) => return self.fail(expr.span, "a dimension is divided by zero", "here"),
                _ => a.floor_div(&b),
            });
        }
        if let ExprKind::Name(name) = &expr.kind
            && bind_new
            && self.frame().scopes.iter().all(|s| !s.contains_key(name))
            && self.resolve_item(name, &[ItemKind::Constant]).is_none()
        {
            let dim = self.options.dims.get(name).map_or_else(|| Dim::name(name), |n| Dim::constant(*n));
            self.bind(name, Val::Int(dim));
        }
        let value = self.eval(e)?;
        match value {
            Val::Int(d) => match d.as_constant() {
                Some(n) if n < 0 => self.fail(expr.span, format!("a dimension of {n}"), "a dimension is not negative"),
                _ => Ok(d),
            },
            Val::Unknown => self.fail_help(
                expr.span,
                "the type of a parameter depends on an input",
                "this is not known when the layer is declared",
                "make it a setting: `net f(x: f32[B, C]; C)`",
            ),
            Val::Poison => Err(Stop::Said),
            other => self.fail(expr.span, format!("a dimension is an integer, not {}", other.describe()), "here"),
        }
    }

    /// Matches the type of an argument with a declared one: binds names, checks what is bound.
    pub fn match_type(&mut self, declared: &TypeExpr, name: &str, actual: &Type, place: Span) -> Result<()> {
        let dtype: DType = declared.dtype.parse().unwrap_or(DType::F32);
        let rests = declared.dimensions.iter().filter(|d| matches!(d, Dimension::Rest(_))).count();
        let fixed = declared.dimensions.len() - rests;
        let rank_fits = if rests > 0 { actual.rank() >= fixed } else { actual.rank() == fixed };
        let item = self.frame().item_name.clone();
        let written = self.module.sources.text(declared.span).to_string();
        if dtype != actual.dtype {
            let d = Diagnostic::error(format!("`{item}` takes {written} as `{name}`, not {actual}"));
            return Err(Stop::Say(Box::new(
                self.caller_label(d, place, format!("this is {actual}")).help(format!("convert it: `{dtype}(...)`")),
            )));
        }
        if !rank_fits || rests > 1 {
            let d = Diagnostic::error(format!("`{item}` takes {written} as `{name}`, not {actual}"));
            let d = self.caller_label(d, place, format!("this has {} dimensions", actual.rank()));
            let d = if declared.span.file == 0 { d.label(declared.span, format!("declared with {fixed} here")) } else { d };
            return Err(Stop::Say(Box::new(d)));
        }
        let rest = actual.rank() - fixed;
        let mut at = 0;
        for d in &declared.dimensions {
            match d {
                Dimension::Rest(_) => {
                    let dims = actual.shape[at..at + rest].to_vec();
                    match &self.frame().rest {
                        Some(known) if *known != dims => {
                            let known = snn_ir::types::shape_text(known);
                            let d = Diagnostic::error(format!("`...` is {known} and {} at once", snn_ir::types::shape_text(&dims)));
                            return Err(Stop::Say(Box::new(self.caller_label(d, place, format!("this is {actual}")))));
                        }
                        _ => self.frame().rest = Some(dims),
                    }
                    at += rest;
                }
                Dimension::Expression(e) => {
                    let actual_dim = actual.shape[at].clone();
                    at += 1;
                    let file = self.frame().file;
                    let expr = self.ast(file).expr(*e);
                    if let ExprKind::Name(n) = &expr.kind
                        && self.frame().scopes.iter().all(|s| !s.contains_key(n))
                        && self.resolve_item(n, &[ItemKind::Constant]).is_none()
                    {
                        self.bind(n, Val::Int(actual_dim));
                        continue;
                    }
                    let expected = self.dimension(*e, true)?;
                    if expected != actual_dim {
                        let text = self.module.sources.text(expr.span).to_string();
                        let value = if text == expected.to_string() { String::new() } else { format!(" (`{text}`)") };
                        let d = Diagnostic::error(format!(
                            "`{item}` takes {written} as `{name}`, not {actual}: {actual_dim} is not {expected}{value}"
                        ));
                        let d = self.caller_label(d, place, format!("this is {actual}"));
                        let d = if declared.span.file == 0 {
                            d.label(declared.span, format!("{expected} is declared here"))
                        } else if let Some(layer) =
                            self.layers.iter().rev().find(|l| l.span.file == 0 && l.prefix == self.frames[self.frames.len() - 1].prefix)
                        {
                            d.label(layer.span, format!("declared with {text} = {expected} here"))
                        } else {
                            d
                        };
                        return Err(Stop::Say(Box::new(d)));
                    }
                }
            }
        }
        Ok(())
    }

    /// A label at an argument, which the caller wrote.
    fn caller_label(&mut self, d: Diagnostic, place: Span, text: String) -> Diagnostic {
        let frame = self.frames.pop();
        let d = self.at(d, place, text);
        self.frames.extend(frame);
        d
    }
}

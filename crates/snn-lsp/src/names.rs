//! What every name of a file stands for.

use std::collections::HashMap;

use snn_syntax::Span;
use snn_syntax::ast::{Ast, Block, Body, Dimension, ExprId, ExprKind, Item, ItemKind, Name, Statement, StatementKind, Subscript, TypeExpr};

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Net,
    Neuron,
    Surrogate,
    Function,
    Input,
    Setting,
    Layer,
    Parameter,
    State,
    Value,
    Dimension,
    /// Of the library or built in.
    Known,
}

/// A name at a place of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Where it is written.
    pub span: Span,
    /// Where it is declared; nowhere in the file, if it is known without.
    pub declaration: Option<Span>,
    /// The name.
    pub text: String,
    /// What it is.
    pub kind: Kind,
}

/// Every name of a file, in order of its place.
pub fn occurrences(ast: &Ast) -> Vec<Occurrence> {
    let mut walk = Walk { ast, found: Vec::new(), scopes: Vec::new(), dimensions: HashMap::new() };
    for item in &ast.items {
        walk.item(item);
    }
    walk.found.sort_by_key(|o| o.span.start);
    walk.found
}

fn kind_of(item: &Item) -> Kind {
    match item.kind {
        ItemKind::Net => Kind::Net,
        ItemKind::Neuron => Kind::Neuron,
        ItemKind::Surrogate => Kind::Surrogate,
        ItemKind::Function => Kind::Function,
        ItemKind::Constant => Kind::Value,
        ItemKind::Use => Kind::Known,
    }
}

struct Walk<'a> {
    ast: &'a Ast,
    found: Vec<Occurrence>,
    scopes: Vec<HashMap<String, (Span, Kind)>>,
    /// The first place of each dimension of the item.
    dimensions: HashMap<String, Span>,
}

impl Walk<'_> {
    fn add(&mut self, span: Span, declaration: Option<Span>, text: &str, kind: Kind) {
        self.found.push(Occurrence { span, declaration, text: text.to_string(), kind });
    }

    fn declare(&mut self, name: &Name, kind: Kind) {
        self.add(name.span, Some(name.span), &name.text, kind);
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.text.clone(), (name.span, kind));
        }
    }

    fn name(&mut self, text: &str, span: Span) {
        let local = self.scopes.iter().rev().find_map(|s| s.get(text).copied());
        let item = || self.ast.items.iter().find(|i| i.name.text == text).map(|i| (i.name.span, kind_of(i)));
        let dimension = || self.dimensions.get(text).map(|s| (*s, Kind::Dimension));
        match local.or_else(item).or_else(dimension) {
            Some((declaration, kind)) => self.add(span, Some(declaration), text, kind),
            None => self.add(span, None, text, Kind::Known),
        }
    }

    fn item(&mut self, item: &Item) {
        self.add(item.name.span, Some(item.name.span), &item.name.text, kind_of(item));
        self.scopes.push(HashMap::new());
        self.dimensions.clear();
        // Settings may be sizes of inputs, and so are known first.
        for setting in &item.settings {
            if let Some(e) = setting.default {
                self.expression(e);
            }
            self.declare(&setting.name, Kind::Setting);
        }
        for input in &item.inputs {
            if let Some(ty) = &input.ty {
                self.ty(ty);
            }
            self.declare(&input.name, Kind::Input);
        }
        for result in &item.results {
            if let Some(ty) = &result.ty {
                self.ty(ty);
            }
        }
        match &item.body {
            Body::Expression(e) => self.expression(*e),
            Body::Block(b) => self.block(b),
        }
        self.scopes.pop();
    }

    fn ty(&mut self, ty: &TypeExpr) {
        for d in &ty.dimensions {
            if let Dimension::Expression(e) = d {
                let expr = self.ast.expr(*e);
                if let ExprKind::Name(text) = &expr.kind
                    && !self.scopes.iter().any(|s| s.contains_key(text))
                {
                    let first = *self.dimensions.entry(text.clone()).or_insert(expr.span);
                    self.add(expr.span, Some(first), text, Kind::Dimension);
                } else {
                    self.expression(*e);
                }
            }
        }
    }

    fn block(&mut self, block: &Block) {
        self.scopes.push(HashMap::new());
        for (i, statement) in block.statements.iter().enumerate() {
            // Recursive bindings that follow each other know each other.
            let recursive = |s: &Statement| matches!(s.kind, StatementKind::Let { recursive: true, .. });
            if recursive(statement) && !(i > 0 && recursive(&block.statements[i - 1])) {
                for s in block.statements[i..].iter().take_while(|s| recursive(s)) {
                    if let StatementKind::Let { names, .. } = &s.kind {
                        names.iter().for_each(|n| self.declare(n, Kind::Value));
                    }
                }
            }
            self.statement(statement);
        }
        self.scopes.pop();
    }

    fn statement(&mut self, statement: &Statement) {
        match &statement.kind {
            StatementKind::Layer { name, value } => {
                self.expression(*value);
                self.declare(name, Kind::Layer);
            }
            StatementKind::Parameter { name, ty, value, .. } => {
                ty.iter().for_each(|t| self.ty(t));
                self.expression(*value);
                self.declare(name, Kind::Parameter);
            }
            StatementKind::State { name, value } => {
                self.expression(*value);
                self.declare(name, Kind::State);
            }
            StatementKind::Let { names, recursive, ty, value } => {
                ty.iter().for_each(|t| self.ty(t));
                self.expression(*value);
                if !*recursive {
                    names.iter().for_each(|n| self.declare(n, Kind::Value));
                }
            }
            StatementKind::Assign { name, value } => {
                self.expression(*value);
                self.name(&name.text, name.span);
            }
            StatementKind::Emit(e) | StatementKind::Expression(e) | StatementKind::Assert { condition: e, .. } => self.expression(*e),
        }
    }

    fn expression(&mut self, start: ExprId) {
        // A long chain of operators is deep on its left: the walk keeps a list of its own.
        let mut rest = vec![start];
        while let Some(id) = rest.pop() {
            let expr = self.ast.expr(id);
            match &expr.kind {
                ExprKind::Name(text) => self.name(text, expr.span),
                ExprKind::List(items) | ExprKind::Tuple(items) => rest.extend(items),
                ExprKind::Unary(_, e) | ExprKind::Field { base: e, .. } => rest.push(*e),
                ExprKind::Binary(_, a, b) => rest.extend([*a, *b]),
                ExprKind::Call { callee, arguments } => {
                    rest.push(*callee);
                    for argument in arguments {
                        if let Some(name) = &argument.name {
                            self.argument(*callee, name);
                        }
                        rest.push(argument.value);
                    }
                }
                ExprKind::Index { base, subscripts } => {
                    rest.push(*base);
                    for s in subscripts {
                        match s {
                            Subscript::At(e) => rest.push(*e),
                            Subscript::Span { low, high, step } => rest.extend([low, high, step].into_iter().flatten()),
                            Subscript::Rest => {}
                        }
                    }
                }
                ExprKind::If { condition, then, otherwise } => {
                    rest.push(*condition);
                    self.block(then);
                    self.block(otherwise);
                }
                ExprKind::Comprehension { element, name, items } => {
                    self.expression(*items);
                    self.scopes.push(HashMap::new());
                    self.declare(name, Kind::Value);
                    self.expression(*element);
                    self.scopes.pop();
                }
                ExprKind::Text(_) | ExprKind::Int(_) | ExprKind::Float(_) | ExprKind::Bool(_) | ExprKind::Nothing | ExprKind::ThisNet => {}
            }
        }
    }

    /// The name of an argument is a setting or an input of what is called.
    fn argument(&mut self, callee: ExprId, name: &Name) {
        let ExprKind::Name(called) = &self.ast.expr(callee).kind else { return };
        let Some(item) = self.ast.items.iter().find(|i| i.name.text == *called) else { return };
        let setting = item.settings.iter().find(|s| s.name.text == name.text).map(|s| (s.name.span, Kind::Setting));
        let input = item.inputs.iter().find(|i| i.name.text == name.text).map(|i| (i.name.span, Kind::Input));
        if let Some((span, kind)) = setting.or(input) {
            self.add(name.span, Some(span), &name.text, kind);
        }
    }
}

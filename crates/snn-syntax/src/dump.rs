//! The syntax tree as text, one item a line group, for `emit --stage ast` and tests.

use std::fmt::Write;

use crate::ast::*;

/// The whole tree in prefix form.
pub fn dump(ast: &Ast) -> String {
    let mut out = String::new();
    for item in &ast.items {
        let kind = match item.kind {
            ItemKind::Net => "net",
            ItemKind::Neuron => "neuron",
            ItemKind::Surrogate => "surrogate",
            ItemKind::Function => "fn",
            ItemKind::Constant => "let",
            ItemKind::Use => "use",
        };
        let _ = writeln!(out, "({kind} {}", item.name.text);
        for input in &item.inputs {
            let ty = input.ty.as_ref().map(|t| format!(" {}", type_expr(ast, t))).unwrap_or_default();
            let _ = writeln!(out, "  (input {}{ty})", input.name.text);
        }
        for setting in &item.settings {
            let default = setting.default.map(|d| format!(" {}", expression(ast, d))).unwrap_or_default();
            let _ = writeln!(out, "  (setting {}{default})", setting.name.text);
        }
        for result in &item.results {
            let name = result.name.as_ref().map(|n| format!(" {}", n.text)).unwrap_or_default();
            let ty = result.ty.as_ref().map(|t| format!(" {}", type_expr(ast, t))).unwrap_or_default();
            let _ = writeln!(out, "  (result{name}{ty})");
        }
        match &item.body {
            Body::Expression(e) => {
                let _ = writeln!(out, "  {}", expression(ast, *e));
            }
            Body::Block(b) => b.statements.iter().for_each(|s| {
                let _ = writeln!(out, "  {}", statement(ast, s));
            }),
        }
        out.truncate(out.trim_end().len());
        out.push_str(")\n");
    }
    out
}

pub(crate) fn type_expr(ast: &Ast, ty: &TypeExpr) -> String {
    let dims: Vec<String> = ty
        .dimensions
        .iter()
        .map(|d| match d {
            Dimension::Expression(e) => expression(ast, *e),
            Dimension::Rest(_) => "...".into(),
        })
        .collect();
    format!("{}[{}]", ty.dtype, dims.join(", "))
}

fn statement(ast: &Ast, s: &Statement) -> String {
    let typed = |name: &str, ty: &Option<TypeExpr>| match ty {
        Some(t) => format!("{name}: {}", type_expr(ast, t)),
        None => name.to_string(),
    };
    let (head, value) = match &s.kind {
        StatementKind::Layer { name, value } => (format!("layer {}", name.text), value),
        StatementKind::Parameter { name, ty, value, learnable } => {
            (format!("{} {}", if *learnable { "param" } else { "buffer" }, typed(&name.text, ty)), value)
        }
        StatementKind::State { name, value } => (format!("state {}", name.text), value),
        StatementKind::Let { names, recursive, ty, value } => {
            let names: Vec<&str> = names.iter().map(|n| n.text.as_str()).collect();
            (typed(&format!("let{} {}", if *recursive { " rec" } else { "" }, names.join(", ")), ty), value)
        }
        StatementKind::Assign { name, value } => (format!("set {}", name.text), value),
        StatementKind::Emit(value) => ("emit".to_string(), value),
        StatementKind::Assert { condition, message } => match message {
            Some(m) => return format!("(assert {} {m:?})", expression(ast, *condition)),
            None => ("assert".to_string(), condition),
        },
        StatementKind::Expression(value) => return expression(ast, *value),
    };
    format!("({head} {})", expression(ast, *value))
}

fn block(ast: &Ast, b: &Block) -> String {
    let parts: Vec<String> = b.statements.iter().map(|s| statement(ast, s)).collect();
    format!("{{{}}}", parts.join("; "))
}

pub(crate) fn expression(ast: &Ast, id: ExprId) -> String {
    stacker::maybe_grow(64 << 10, 4 << 20, || plain(ast, id))
}

fn plain(ast: &Ast, id: ExprId) -> String {
    let list = |items: &[ExprId]| items.iter().map(|e| expression(ast, *e)).collect::<Vec<_>>().join(" ");
    match &ast.expr(id).kind {
        ExprKind::Int(n) => n.to_string(),
        ExprKind::Float(x) => format!("{x:?}"),
        ExprKind::Bool(b) => b.to_string(),
        ExprKind::Nothing => "none".into(),
        ExprKind::ThisNet => "net".into(),
        ExprKind::Name(n) => n.clone(),
        ExprKind::Text(t) => format!("{t:?}"),
        ExprKind::Comprehension { element, name, items } => {
            format!("(for {} {} {})", name.text, expression(ast, *items), expression(ast, *element))
        }
        ExprKind::List(items) => format!("[{}]", list(items)),
        ExprKind::Tuple(items) => format!("(tuple {})", list(items)),
        ExprKind::Unary(op, e) => format!("({} {})", if *op == UnaryOperator::Minus { "-" } else { "!" }, expression(ast, *e)),
        ExprKind::Binary(op, a, b) => format!("({} {} {})", op.symbol(), expression(ast, *a), expression(ast, *b)),
        ExprKind::Call { callee, arguments } => {
            let mut parts = vec![expression(ast, *callee)];
            parts.extend(arguments.iter().map(|a| {
                let name = a.name.as_ref().map(|n| format!("{}=", n.text)).unwrap_or_default();
                name + &expression(ast, a.value)
            }));
            format!("(call {})", parts.join(" "))
        }
        ExprKind::Index { base, subscripts } => {
            let mut parts = vec![expression(ast, *base)];
            parts.extend(subscripts.iter().map(|s| subscript(ast, s, &|e| expression(ast, e))));
            format!("(index {})", parts.join(" "))
        }
        ExprKind::Field { base, name } => format!("(. {} {})", expression(ast, *base), name.text),
        ExprKind::If { condition, then, otherwise } => {
            format!("(if {} {} {})", expression(ast, *condition), block(ast, then), block(ast, otherwise))
        }
    }
}

/// A subscript, its expressions written by `write`.
pub(crate) fn subscript(_: &Ast, s: &Subscript, write: &dyn Fn(ExprId) -> String) -> String {
    match s {
        Subscript::Rest => "...".into(),
        Subscript::At(e) => write(*e),
        Subscript::Span { low, high, step } => {
            let part = |e: &Option<ExprId>| e.map(write).unwrap_or_default();
            let step = step.map(|s| format!(":{}", write(s))).unwrap_or_default();
            format!("{}:{}{step}", part(low), part(high))
        }
    }
}

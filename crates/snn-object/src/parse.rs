//! Text to syntax tree.

use std::iter::Peekable;
use std::sync::LazyLock;

use pest::Parser;
use pest::iterators::Pair;
use pest::pratt_parser::{Assoc, Op, PrattParser};

/// A scalar of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// `bool`, one byte that is 0 or 1.
    Bool,
    /// An integer of 8 to 64 bits.
    Integer {
        /// Its width.
        bits: u16,
        /// Whether it has a sign.
        signed: bool,
    },
    /// `float`.
    Float,
    /// `double`.
    Double,
}

/// `int`.
pub const INT: Scalar = Scalar::Integer { bits: 32, signed: true };
/// `size_t` and `unsigned_wide`.
pub const SIZE: Scalar = Scalar::Integer { bits: 64, signed: false };

impl Scalar {
    /// Bytes in memory.
    pub fn bytes(self) -> u32 {
        match self {
            Scalar::Bool => 1,
            Scalar::Integer { bits, .. } => u32::from(bits) / 8,
            Scalar::Float => 4,
            Scalar::Double => 8,
        }
    }

    /// A type by the name that [`crate`]'s C uses.
    pub fn named(name: &str) -> Option<Scalar> {
        let integer = |bits, signed| Some(Scalar::Integer { bits, signed });
        match name {
            "bool" => Some(Scalar::Bool),
            "unsigned char" | "uint8_t" => integer(8, false),
            "int8_t" => integer(8, true),
            "int16_t" => integer(16, true),
            "int" | "int32_t" => integer(32, true),
            "unsigned int" | "uint32_t" => integer(32, false),
            "wide" | "int64_t" => integer(64, true),
            "unsigned_wide" | "uint64_t" | "size_t" => integer(64, false),
            "float" => Some(Scalar::Float),
            "double" => Some(Scalar::Double),
            _ => None,
        }
    }
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// No value.
    Void,
    /// A scalar.
    Scalar(Scalar),
    /// A pointer to scalars.
    Pointer(Scalar),
    /// A structure by name, or a pointer to one: neither is ever copied.
    Structure(String),
}

/// A structure: fields with the number of their elements, where they are arrays.
pub struct Structure {
    /// Its name.
    pub name: String,
    /// Its fields, in order.
    pub fields: Vec<(String, Scalar, Option<u32>)>,
}

/// A function.
pub struct Function {
    /// Its name.
    pub name: String,
    /// Whether other files do not see it.
    pub is_local: bool,
    /// What it gives.
    pub result: Type,
    /// What it takes.
    pub parameters: Vec<(String, Type)>,
    /// What it does.
    pub body: Vec<Statement>,
}

/// A file.
pub struct Unit {
    /// Its structures.
    pub structures: Vec<Structure>,
    /// Its functions, each defined before it is called.
    pub functions: Vec<Function>,
}

/// A statement.
pub enum Statement {
    /// Statements with names of their own.
    Block(Vec<Statement>),
    /// `if`.
    If(Expression, Box<Statement>, Option<Box<Statement>>),
    /// `for`, and `while` without first and last.
    For {
        /// What comes before.
        first: Option<Box<Statement>>,
        /// While it holds.
        condition: Expression,
        /// After each turn.
        last: Option<Expression>,
        /// A turn.
        body: Box<Statement>,
    },
    /// `switch` whose cases return.
    Switch {
        /// What is compared.
        value: Expression,
        /// Numbers with what is returned.
        cases: Vec<(i64, Statement)>,
        /// What is returned for all others.
        otherwise: Box<Statement>,
    },
    /// `return`.
    Return(Option<Expression>),
    /// `continue`.
    Continue,
    /// A scalar variable or a pointer.
    Declare(String, Type, Option<Expression>),
    /// An array on the stack.
    Array(String, Scalar, Vec<Expression>),
    /// A structure that lives as long as the program.
    Static(String, String),
    /// An expression for its effect.
    Evaluate(Expression),
    /// Declarations in one statement.
    Several(Vec<Statement>),
    /// Nothing.
    Empty,
}

/// An operator between two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Or,
    And,
    BitOr,
    BitXor,
    BitAnd,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    ShiftLeft,
    ShiftRight,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// An expression.
pub enum Expression {
    /// An integer of a type.
    Integer(i64, Scalar),
    /// A float or double.
    Float(f64, Scalar),
    /// A variable, an array or a constant of the headers.
    Name(String),
    /// Bytes of a type.
    SizeOfType(Scalar),
    /// Bytes of an array.
    SizeOfArray(String),
    /// A function of the file or of the headers.
    Call(String, Vec<Expression>),
    /// `p[i]`.
    Index(Box<Expression>, Box<Expression>),
    /// `p->field`.
    Field(Box<Expression>, String),
    /// `&x` of a structure.
    Address(Box<Expression>),
    /// `-x`.
    Negate(Box<Expression>),
    /// `!x`.
    Not(Box<Expression>),
    /// A conversion.
    Cast(Type, Box<Expression>),
    /// `++x`, `x--` and so on: the place, what is added, whether the value is that before.
    Step(Box<Expression>, i64, bool),
    /// Two operands.
    Binary(Binary, Box<Expression>, Box<Expression>),
    /// `c ? a : b`.
    Choose(Box<Expression>, Box<Expression>, Box<Expression>),
    /// `place = value`, with an operator for `+=` and its like.
    Assign(Box<Expression>, Option<Binary>, Box<Expression>),
}

type Result<T> = std::result::Result<T, String>;

mod grammar {
    //! The grammar, which `pest` reads.
    #![allow(missing_docs)]

    #[derive(pest_derive::Parser)]
    #[grammar = "../../grammar/c.pest"]
    pub struct Grammar;
}
use grammar::{Grammar, Rule};

/// Precedence of operators between two values, the loosest first.
static OPERATORS: LazyLock<PrattParser<Rule>> = LazyLock::new(|| {
    let left = |rule| Op::infix(rule, Assoc::Left);
    PrattParser::new()
        .op(left(Rule::or))
        .op(left(Rule::and))
        .op(left(Rule::bit_or))
        .op(left(Rule::bit_xor))
        .op(left(Rule::bit_and))
        .op(left(Rule::equal) | left(Rule::not_equal))
        .op(left(Rule::less) | left(Rule::at_most) | left(Rule::greater) | left(Rule::at_least))
        .op(left(Rule::shift_left) | left(Rule::shift_right))
        .op(left(Rule::add) | left(Rule::subtract))
        .op(left(Rule::multiply) | left(Rule::divide) | left(Rule::remainder))
});

/// Parses a file.
pub fn parse(text: &str) -> Result<Unit> {
    let mut parsed = Grammar::parse(Rule::unit, text).map_err(|e| e.to_string())?;
    let mut unit = Unit { structures: vec![], functions: vec![] };
    for item in parsed.next().map(Pair::into_inner).into_iter().flatten() {
        match item.as_rule() {
            Rule::structure => unit.structures.push(structure(item)?),
            Rule::function => unit.functions.push(function(item)?),
            _ => {}
        }
    }
    Ok(unit)
}

/// The parts of a node, without `const`, which changes nothing here.
struct Parts<'a>(Peekable<Box<dyn Iterator<Item = Pair<'a, Rule>> + 'a>>);

impl<'a> Parts<'a> {
    fn of(node: Pair<'a, Rule>) -> Parts<'a> {
        let parts: Box<dyn Iterator<Item = _>> = Box::new(node.into_inner().filter(|p| p.as_rule() != Rule::constant));
        Parts(parts.peekable())
    }

    fn next(&mut self) -> Result<Pair<'a, Rule>> {
        self.0.next().ok_or_else(|| "a part of a statement is not there".to_string())
    }

    /// The next part, where it is of this rule.
    fn take(&mut self, rule: Rule) -> Option<Pair<'a, Rule>> {
        self.0.next_if(|p| p.as_rule() == rule)
    }
}

fn unexpected<T>(p: &Pair<'_, Rule>) -> Result<T> {
    Err(format!("{:?} `{}` is not expected here", p.as_rule(), p.as_str()))
}

fn structure(node: Pair<'_, Rule>) -> Result<Structure> {
    let (mut fields, mut name) = (vec![], String::new());
    for part in node.into_inner() {
        if part.as_rule() != Rule::field {
            name = part.as_str().to_string();
            continue;
        }
        let mut parts = Parts::of(part);
        let ty = scalar(&parts.next()?)?;
        let field = parts.next()?.as_str().to_string();
        fields.push((field, ty, parts.take(Rule::number).map(|n| length(&n)).transpose()?));
    }
    Ok(Structure { name, fields })
}

fn function(node: Pair<'_, Rule>) -> Result<Function> {
    let mut parts = Parts::of(node);
    let is_local = parts.take(Rule::local).is_some();
    let result = specified(parts.next()?)?;
    let name = parts.next()?.as_str().to_string();
    parts.take(Rule::nothing);
    let mut parameters = vec![];
    while let Some(p) = parts.take(Rule::parameter) {
        let mut parts = Parts::of(p);
        let mut ty = specified(parts.next()?)?;
        let is_pointer = parts.take(Rule::star).is_some();
        let name = parts.next()?.as_str().to_string();
        if is_pointer || parts.take(Rule::extent).is_some() {
            ty = pointer(ty);
        }
        parameters.push((name, ty));
    }
    let Statement::Block(body) = statement(parts.next()?)? else { return Err(format!("`{name}` has no body")) };
    Ok(Function { name, is_local, result, parameters, body })
}

fn scalar(p: &Pair<'_, Rule>) -> Result<Scalar> {
    Scalar::named(p.as_str()).map_or_else(|| unexpected(p), Ok)
}

fn specified(p: Pair<'_, Rule>) -> Result<Type> {
    let mut inside = p.clone().into_inner();
    let part = if p.as_rule() == Rule::specifier { inside.next().unwrap_or(p) } else { p };
    Ok(match part.as_rule() {
        Rule::nothing => Type::Void,
        Rule::scalar => Type::Scalar(scalar(&part)?),
        _ => Type::Structure(part.as_str().to_string()),
    })
}

fn pointer(ty: Type) -> Type {
    match ty {
        Type::Scalar(s) => Type::Pointer(s),
        other => other,
    }
}

fn length(p: &Pair<'_, Rule>) -> Result<u32> {
    p.as_str().parse().map_err(|_| format!("`{}` is no length", p.as_str()))
}

fn statement(node: Pair<'_, Rule>) -> Result<Statement> {
    let rule = node.as_rule();
    let shown = node.clone();
    let mut parts = Parts::of(node);
    Ok(match rule {
        Rule::block => Statement::Block(parts.0.map(statement).collect::<Result<_>>()?),
        Rule::branch => {
            let condition = expression(parts.next()?)?;
            let then = Box::new(statement(parts.next()?)?);
            Statement::If(condition, then, parts.0.next().map(|s| statement(s).map(Box::new)).transpose()?)
        }
        Rule::counting => {
            let first = Parts::of(parts.next()?).0.next().map(|s| statement(s).map(Box::new)).transpose()?;
            let condition = expression(parts.next()?)?;
            let last = Some(expression(parts.next()?)?);
            Statement::For { first, condition, last, body: Box::new(statement(parts.next()?)?) }
        }
        Rule::repeat => {
            let condition = expression(parts.next()?)?;
            Statement::For { first: None, condition, last: None, body: Box::new(statement(parts.next()?)?) }
        }
        Rule::switch => {
            let value = expression(parts.next()?)?;
            let mut cases = vec![];
            while let Some(case) = parts.take(Rule::case) {
                let mut parts = Parts::of(case);
                cases.push((length(&parts.next()?)?.into(), statement(parts.next()?)?));
            }
            let otherwise = Box::new(statement(Parts::of(parts.next()?).next()?)?);
            Statement::Switch { value, cases, otherwise }
        }
        Rule::give => {
            parts.next()?;
            Statement::Return(parts.0.next().map(expression).transpose()?)
        }
        Rule::again => Statement::Continue,
        Rule::declare => declaration(parts)?,
        Rule::ignore => Statement::Empty,
        Rule::evaluate => Statement::Evaluate(expression(parts.next()?)?),
        _ => return unexpected(&shown),
    })
}

fn declaration(mut parts: Parts<'_>) -> Result<Statement> {
    let is_static = parts.take(Rule::fixed).is_some();
    let ty = specified(parts.next()?)?;
    let mut all = vec![];
    for declarator in parts.0 {
        let mut parts = Parts::of(declarator);
        let is_pointer = parts.take(Rule::star).is_some();
        let name = parts.next()?.as_str().to_string();
        let extent = parts.take(Rule::extent).is_some();
        let value = parts.0.next();
        all.push(match (&ty, value) {
            (Type::Structure(of), None) if is_static => Statement::Static(name, of.clone()),
            (Type::Scalar(s), Some(list)) if extent => {
                Statement::Array(name, *s, list.into_inner().map(expression).collect::<Result<_>>()?)
            }
            (ty, value) => {
                let ty = if is_pointer { pointer(ty.clone()) } else { ty.clone() };
                Statement::Declare(name, ty, value.map(expression).transpose()?)
            }
        });
    }
    // Names stay in the block around the declaration.
    Ok(if all.len() == 1 { all.remove(0) } else { Statement::Several(all) })
}

fn expression(node: Pair<'_, Rule>) -> Result<Expression> {
    let mut parts = Parts::of(node);
    let left = Box::new(binary(parts.next()?)?);
    let Some(next) = parts.0.next() else { return Ok(*left) };
    if next.as_rule() != Rule::assignment {
        return Ok(Expression::Choose(left, Box::new(expression(next)?), Box::new(expression(parts.next()?)?)));
    }
    let operator = match next.as_str() {
        "+=" => Some(Binary::Add),
        "-=" => Some(Binary::Subtract),
        "*=" => Some(Binary::Multiply),
        _ => None,
    };
    Ok(Expression::Assign(left, operator, Box::new(expression(parts.next()?)?)))
}

fn binary(node: Pair<'_, Rule>) -> Result<Expression> {
    let infix = |a: Result<Expression>, o: Pair<'_, Rule>, b: Result<Expression>| {
        let operator = match o.as_rule() {
            Rule::or => Binary::Or,
            Rule::and => Binary::And,
            Rule::bit_or => Binary::BitOr,
            Rule::bit_xor => Binary::BitXor,
            Rule::bit_and => Binary::BitAnd,
            Rule::equal => Binary::Equal,
            Rule::not_equal => Binary::NotEqual,
            Rule::less => Binary::Less,
            Rule::at_most => Binary::LessEqual,
            Rule::greater => Binary::Greater,
            Rule::at_least => Binary::GreaterEqual,
            Rule::shift_left => Binary::ShiftLeft,
            Rule::shift_right => Binary::ShiftRight,
            Rule::add => Binary::Add,
            Rule::subtract => Binary::Subtract,
            Rule::multiply => Binary::Multiply,
            Rule::divide => Binary::Divide,
            Rule::remainder => Binary::Remainder,
            _ => return unexpected(&o),
        };
        Ok(Expression::Binary(operator, Box::new(a?), Box::new(b?)))
    };
    OPERATORS.map_primary(unary).map_infix(infix).parse(node.into_inner())
}

fn unary(node: Pair<'_, Rule>) -> Result<Expression> {
    let (mut prefixes, mut value) = (vec![], None);
    for part in node.into_inner() {
        match part.as_rule() {
            Rule::prefix => prefixes.push(part),
            Rule::primary => value = Some(primary(part)?),
            _ => {
                let Some(of) = value.take().map(Box::new) else { return unexpected(&part) };
                value = Some(match (part.as_str(), part.clone().into_inner().next()) {
                    ("++", _) => Expression::Step(of, 1, true),
                    ("--", _) => Expression::Step(of, -1, true),
                    (_, Some(p)) if p.as_rule() == Rule::index => Expression::Index(of, Box::new(expression(Parts::of(p).next()?)?)),
                    (_, Some(p)) => Expression::Field(of, Parts::of(p).next()?.as_str().to_string()),
                    _ => return unexpected(&part),
                });
            }
        }
    }
    let mut value = value.ok_or("an operator without an operand")?;
    for prefix in prefixes.into_iter().rev() {
        let of = Box::new(value);
        value = match prefix.as_str() {
            "++" => Expression::Step(of, 1, false),
            "--" => Expression::Step(of, -1, false),
            "-" => Expression::Negate(of),
            "!" => Expression::Not(of),
            "&" => Expression::Address(of),
            _ => {
                let mut parts = Parts::of(Parts::of(prefix).next()?);
                let ty = specified(parts.next()?)?;
                Expression::Cast(if parts.take(Rule::star).is_some() { pointer(ty) } else { ty }, of)
            }
        };
    }
    Ok(value)
}

fn primary(node: Pair<'_, Rule>) -> Result<Expression> {
    let part = Parts::of(node).next()?;
    Ok(match part.as_rule() {
        Rule::expression => expression(part)?,
        Rule::name => Expression::Name(part.as_str().to_string()),
        Rule::number => number(part.as_str())?,
        Rule::size => {
            let of = Parts::of(part).next()?;
            match of.as_rule() {
                Rule::scalar => Expression::SizeOfType(scalar(&of)?),
                _ => Expression::SizeOfArray(of.as_str().to_string()),
            }
        }
        Rule::call => {
            let mut parts = Parts::of(part);
            let callee = parts.next()?;
            let name = match callee.as_rule() {
                Rule::library => format!("{}f", Parts::of(callee).next()?.as_str()),
                _ => callee.as_str().to_string(),
            };
            Expression::Call(name, parts.0.map(expression).collect::<Result<_>>()?)
        }
        _ => return unexpected(&part),
    })
}

/// A number as C types it.
fn number(text: &str) -> Result<Expression> {
    let wrong = || format!("`{text}` is no number");
    let (digits, is_unsigned) = text.strip_suffix('u').map_or((text, false), |d| (d, true));
    if let Some(hex) = digits.strip_prefix("0x") {
        let x = u32::from_str_radix(hex, 16).map_err(|_| wrong())?;
        let signed = !is_unsigned && i32::try_from(x).is_ok();
        return Ok(Expression::Integer(x.into(), Scalar::Integer { bits: 32, signed }));
    }
    if let Some(digits) = text.strip_suffix('f') {
        let x: f32 = digits.parse().map_err(|_| wrong())?;
        return Ok(Expression::Float(x.into(), Scalar::Float));
    }
    if text.contains(['.', 'e']) {
        return Ok(Expression::Float(text.parse().map_err(|_| wrong())?, Scalar::Double));
    }
    // Longer integers stand in `INT64_C` and `UINT64_C`, which give them their type.
    let x: u64 = digits.parse().map_err(|_| wrong())?;
    let bits = if x <= u64::from(u32::MAX) { 32 } else { 64 };
    Ok(Expression::Integer(x as i64, Scalar::Integer { bits, signed: !is_unsigned }))
}

//! The syntax tree. Expressions live in an arena and are addressed by ids, so that long chains need no recursion to drop.

/// Bytes `start .. end` of a file; file 0 is the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// Which of the [`crate::Sources`].
    pub file: u16,
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// The id of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExprId(pub u32);

/// A file.
#[derive(Clone, Debug, Default)]
pub struct Ast {
    /// Its items, in order.
    pub items: Vec<Item>,
    pub(crate) exprs: Vec<Expr>,
    /// Its comments, in order, with `//`.
    pub comments: Vec<Comment>,
}

impl Ast {
    /// An expression.
    pub fn expr(&self, id: ExprId) -> &Expr {
        &self.exprs[id.0 as usize]
    }

    /// Adds an expression.
    pub fn add(&mut self, kind: ExprKind, span: Span) -> ExprId {
        self.exprs.push(Expr { kind, span });
        ExprId(self.exprs.len() as u32 - 1)
    }

    /// The item called `name`.
    pub fn item(&self, name: &str) -> Option<&Item> {
        self.items.iter().find(|i| i.name.text == name)
    }
}

/// A comment.
#[derive(Clone, Debug)]
pub struct Comment {
    /// Where it is.
    pub span: Span,
    /// Does code stand before it on its line?
    pub trailing: bool,
}

/// A name with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub text: String,
    /// Where it is written.
    pub span: Span,
}

/// What an item declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ItemKind {
    Net,
    Neuron,
    Surrogate,
    Function,
    /// `let NAME = expression` at the top of a file; the expression is the body.
    Constant,
    /// `use "file.snn"`; see [`Use`].
    Use,
}

/// What a `use` names.
#[derive(Clone, Debug, Default)]
pub struct Use {
    /// The path as written, and where.
    pub path: (String, Span),
    /// The names that are taken without a prefix; where there are none, the item's name is the prefix.
    pub chosen: Vec<Name>,
}

/// A declaration.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it declares.
    pub kind: ItemKind,
    /// Its name.
    pub name: Name,
    /// What it is applied to.
    pub inputs: Vec<Input>,
    /// What stands after `;` in its signature.
    pub settings: Vec<Setting>,
    /// The results that are declared.
    pub results: Vec<ResultType>,
    /// What it does.
    pub body: Body,
    /// Of a `use`: the file and what of it.
    pub uses: Option<Use>,
    /// The whole of it.
    pub span: Span,
}

/// The body of an item.
#[derive(Clone, Debug)]
pub enum Body {
    /// `= expression`
    Expression(ExprId),
    /// `{ ... }`
    Block(Block),
}

/// An input of an item.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: Name,
    /// Its type, always given in nets.
    pub ty: Option<TypeExpr>,
}

/// A setting of an item.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its name.
    pub name: Name,
    /// Its value where a use gives none.
    pub default: Option<ExprId>,
}

/// A declared result.
#[derive(Clone, Debug)]
pub struct ResultType {
    /// Its name; `None` for the only, unnamed one.
    pub name: Option<Name>,
    /// Its type, unless only a name is given.
    pub ty: Option<TypeExpr>,
}

/// A type as written.
#[derive(Clone, Debug)]
pub struct TypeExpr {
    /// `f32`, `i64`, `bool` or `u8`.
    pub dtype: String,
    /// The dimensions.
    pub dimensions: Vec<Dimension>,
    /// Where it is written.
    pub span: Span,
}

/// A dimension as written.
#[derive(Clone, Debug)]
pub enum Dimension {
    /// An integer, name, or arithmetic on both.
    Expression(ExprId),
    /// `...`
    Rest(Span),
}

/// Statements in braces.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// The statements; the last expression is the value.
    pub statements: Vec<Statement>,
    /// With the braces.
    pub span: Span,
}

/// A statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// What it does.
    pub kind: StatementKind,
    /// The whole of it.
    pub span: Span,
}

/// What a statement does.
#[derive(Clone, Debug)]
pub enum StatementKind {
    /// `layer name = value`
    Layer {
        /// The layer.
        name: Name,
        /// A call that makes it.
        value: ExprId,
    },
    /// `param name: type = value`, or `buffer`.
    Parameter {
        /// The parameter.
        name: Name,
        /// Its type; a scalar where it is not given.
        ty: Option<TypeExpr>,
        /// What it starts as.
        value: ExprId,
        /// Does training change it by its gradient? `buffer`s are not learnable.
        learnable: bool,
    },
    /// `state name = value`
    State {
        /// The state.
        name: Name,
        /// Its value before the first step.
        value: ExprId,
    },
    /// `let name = value`, `let rec name = value`, `let (a, b) = value`
    Let {
        /// The name, or several for a tuple.
        names: Vec<Name>,
        /// May the value mention the name?
        recursive: bool,
        /// The type, where it is given.
        ty: Option<TypeExpr>,
        /// The value.
        value: ExprId,
    },
    /// `name = value`
    Assign {
        /// A state or buffer.
        name: Name,
        /// Its next value.
        value: ExprId,
    },
    /// `emit value`
    Emit(ExprId),
    /// `assert condition, "message"`
    Assert {
        /// What must hold.
        condition: ExprId,
        /// What is said where it does not; names in braces stand for their values.
        message: Option<String>,
    },
    /// An expression: the value of its block if it is last.
    Expression(ExprId),
}

/// An expression with its place.
#[derive(Clone, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it is written.
    pub span: Span,
}

/// What an expression is.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum ExprKind {
    Int(i64),
    Float(f64),
    Bool(bool),
    Nothing,
    /// `net`: the net that is being written.
    ThisNet,
    Name(String),
    Text(String),
    List(Vec<ExprId>),
    /// `[element for name in items]`
    Comprehension {
        element: ExprId,
        name: Name,
        items: ExprId,
    },
    Tuple(Vec<ExprId>),
    Unary(UnaryOperator, ExprId),
    Binary(BinaryOperator, ExprId, ExprId),
    Call {
        callee: ExprId,
        arguments: Vec<Argument>,
    },
    Index {
        base: ExprId,
        subscripts: Vec<Subscript>,
    },
    Field {
        base: ExprId,
        name: Name,
    },
    If {
        condition: ExprId,
        then: Block,
        otherwise: Block,
    },
}

/// An argument of a call.
#[derive(Clone, Debug)]
pub struct Argument {
    /// Its name, where it is given.
    pub name: Option<Name>,
    /// Its value.
    pub value: ExprId,
}

/// One index of several.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Subscript {
    At(ExprId),
    Span { low: Option<ExprId>, high: Option<ExprId>, step: Option<ExprId> },
    Rest,
}

/// Operators of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UnaryOperator {
    Minus,
    Not,
}

/// Operators of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BinaryOperator {
    Pipe,
    /// `a or b`: `b` where `a` is `none`.
    OrElse,
    Or,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Add,
    Sub,
    Mul,
    Div,
    /// `a div b`: rounded down.
    FloorDiv,
    Rem,
    MatMul,
    Pow,
}

impl BinaryOperator {
    /// All, with how they are written.
    pub const ALL: [(BinaryOperator, &'static str); 18] = {
        use BinaryOperator::*;
        [
            (Pipe, "|>"),
            (OrElse, "or"),
            (Or, "||"),
            (And, "&&"),
            (Eq, "=="),
            (Ne, "!="),
            (Le, "<="),
            (Ge, ">="),
            (Lt, "<"),
            (Gt, ">"),
            (Add, "+"),
            (Sub, "-"),
            (Mul, "*"),
            (Div, "/"),
            (FloorDiv, "div"),
            (Rem, "%"),
            (MatMul, "@"),
            (Pow, "^"),
        ]
    };

    /// How it is written.
    pub fn symbol(self) -> &'static str {
        Self::ALL.iter().find(|(o, _)| *o == self).map_or("", |(_, s)| s)
    }

    /// How tightly it binds.
    pub fn precedence(self) -> u8 {
        use BinaryOperator::*;
        match self {
            Pipe => 1,
            OrElse => 2,
            Or => 3,
            And => 4,
            Eq | Ne | Lt | Le | Gt | Ge => 5,
            Add | Sub => 6,
            Mul | Div | FloorDiv | Rem | MatMul => 7,
            Pow => 9,
        }
    }

    /// Does `a op b op c` mean `a op (b op c)`?
    pub fn is_right_associative(self) -> bool {
        self == BinaryOperator::Pow
    }
}

/// How tightly a unary operator binds: less than `^`, more than `*`.
pub const UNARY_PRECEDENCE: u8 = 8;

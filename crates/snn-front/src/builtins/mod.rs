//! Built-in functions: the operations of the IR, and what the library needs at compile time.
//!
//! [`BUILTINS`] is the registry: name, arguments, handler, and what the handler bears. `grammar/operations.md` documents each.

mod compile_time;
mod elementwise;
mod helpers;
mod made;
mod movement;
mod sums;

use snn_ir::{BinaryOp, DType, Dim, Distribution, Reduction, Type, UnaryOp, Value};
use snn_syntax::Span;

use crate::call::{Given, sort_arguments};
use crate::context::{Lowerer, Result, Stop};
use crate::value::Val;

/// What a call does.
#[derive(Clone, Copy)]
enum Handler {
    /// A function of elements, also of numbers.
    Unary(UnaryOp),
    /// Gives any value.
    Value(fn(&mut Lowerer<'_>, &Arguments) -> Result<Val>),
    /// Gives a tensor.
    Tensor(fn(&mut Lowerer<'_>, &Arguments) -> Result<Value>),
    /// Is no call: its argument is evaluated where the call is taken apart.
    Syntax,
}

/// A built-in function.
struct Builtin {
    name: &'static str,
    /// The names of its arguments; those after `;` may be left out and are `none` then.
    arguments: &'static str,
    handler: Handler,
    /// Can it be used on the elements that the step of a neuron sees?
    in_step: bool,
    /// Does it look at values that are not known yet?
    of_unknown: bool,
}

impl Builtin {
    const fn in_step(mut self) -> Builtin {
        self.in_step = true;
        self
    }

    const fn of_unknown(mut self) -> Builtin {
        self.of_unknown = true;
        self
    }
}

const fn builtin(name: &'static str, arguments: &'static str, handler: Handler) -> Builtin {
    Builtin { name, arguments, handler, in_step: false, of_unknown: false }
}

/// All built-in functions.
const BUILTINS: &[Builtin] = &[
    builtin("abs", "x", Handler::Unary(UnaryOp::Abs)).in_step(),
    builtin("arange", "n", Handler::Tensor(|l, a| l.counted(a))),
    builtin("argmax", "x;axis", Handler::Tensor(|l, a| l.largest_index(a))),
    builtin("axis_of", "x,axis", Handler::Value(|l, a| l.axis_of(a))),
    builtin("bool", "x", Handler::Value(|l, a| l.converted(DType::Bool, a))).in_step(),
    builtin("broadcast_to", "x,shape", Handler::Tensor(|l, a| l.broadcast_to(a))),
    builtin("concat", "parts;axis", Handler::Tensor(|l, a| l.joined(a))),
    builtin("conv", "x,weight;stride,padding,dilation,groups", Handler::Tensor(|l, a| l.convolution(a))),
    builtin(
        "conv_transpose",
        "x,weight;stride,padding,output_padding,dilation,groups",
        Handler::Tensor(|l, a| l.transposed_convolution(a)),
    ),
    builtin("cos", "x", Handler::Unary(UnaryOp::Cos)).in_step(),
    builtin("count", "x;axis", Handler::Value(|l, a| l.count_of(a))),
    builtin("cumsum", "x;axis", Handler::Tensor(|l, a| l.running_sum(a))),
    builtin("delay", "x,steps;init", Handler::Tensor(|l, a| l.delay(a))),
    builtin("detach", "x", Handler::Unary(UnaryOp::Detach)).in_step(),
    builtin("einsum", "equation,a;b", Handler::Tensor(|l, a| l.einsum(a))),
    builtin("erf", "x", Handler::Unary(UnaryOp::Erf)).in_step(),
    builtin("exact_div", "a,b", Handler::Value(|l, a| l.exactly_divided(a))),
    builtin("exp", "x", Handler::Unary(UnaryOp::Exp)).in_step(),
    builtin("f32", "x", Handler::Value(|l, a| l.converted(DType::F32, a))).in_step(),
    builtin("fill", "n,value", Handler::Value(|l, a| l.filled_list(a))),
    builtin("first_spike_index", "spikes;axis", Handler::Tensor(|l, a| l.first_spike(a))),
    builtin("floor", "x", Handler::Unary(UnaryOp::Floor)).in_step(),
    builtin("fold", "n,k,e", Handler::Syntax),
    builtin("full", "shape,value", Handler::Tensor(|l, a| l.filled_tensor(None, a))),
    builtin("i64", "x", Handler::Value(|l, a| l.converted(DType::I64, a))),
    builtin("kaiming_normal_conv_linear_weight", "net", Handler::Value(|l, a| l.kaiming(a))).of_unknown(),
    builtin("known", "x", Handler::Value(|_, a| Ok(Val::Bool(a.get(0).number().is_some())))).in_step().of_unknown(),
    builtin("len", "list", Handler::Value(|l, a| l.length_of(a))),
    builtin("log", "x", Handler::Unary(UnaryOp::Log)).in_step(),
    builtin("matmul", "a,b", Handler::Value(|l, a| l.matmul(a.get(0), a.get(1), (a.span(0), a.span(1))))),
    builtin("max", "x;axis,keep", Handler::Tensor(|l, a| l.reduced(Reduction::Max, a))),
    builtin("maximum", "a,b", Handler::Value(|l, a| l.larger_or_smaller(BinaryOp::Max, a))).in_step(),
    builtin("min", "x;axis,keep", Handler::Tensor(|l, a| l.reduced(Reduction::Min, a))),
    builtin("minimum", "a,b", Handler::Value(|l, a| l.larger_or_smaller(BinaryOp::Min, a))).in_step(),
    builtin("ones", "shape", Handler::Tensor(|l, a| l.filled_tensor(Some(1.0), a))),
    builtin("pad", "x,pad;value", Handler::Tensor(|l, a| l.padded(a))),
    builtin("pair", "x;n", Handler::Value(|l, a| l.paired(a))),
    builtin("permute", "x,order", Handler::Tensor(|l, a| l.permuted(a))),
    builtin("print", "x", Handler::Value(|l, a| l.print(a))),
    builtin("product", "items", Handler::Value(|l, a| l.product_of(a))),
    builtin("rand", "shape", Handler::Tensor(|l, a| l.drawn(Distribution::Uniform, a))),
    builtin("randn", "shape", Handler::Tensor(|l, a| l.drawn(Distribution::Normal, a))),
    builtin("range", "from,to", Handler::Value(|l, a| l.range_of(a))),
    builtin("rank", "x", Handler::Value(|l, a| l.rank_of(a))),
    builtin("redundant_one_hot", "labels,num_classes,n", Handler::Tensor(|l, a| l.one_hot(a))),
    builtin("reshape", "x,shape", Handler::Tensor(|l, a| l.reshaped(a))),
    builtin("round", "x", Handler::Unary(UnaryOp::Round)).in_step(),
    builtin("scatter_add", "target,indices,updates;axis", Handler::Tensor(|l, a| l.scattered(a))),
    builtin(
        "set_threshold_margin",
        "layer,label_one_hot;eval_threshold,threshold0,threshold1",
        Handler::Value(|l, a| l.threshold_margin(a)),
    )
    .of_unknown(),
    builtin("same_shape", "a,b", Handler::Value(|l, a| l.are_of_one_shape(a))),
    builtin("shape", "x", Handler::Value(|l, a| l.shape_of(a))),
    builtin("sin", "x", Handler::Unary(UnaryOp::Sin)).in_step(),
    builtin("spike", "u;surrogate,strict,derivative", Handler::Value(|l, a| l.spike(a))).in_step(),
    builtin("sqrt", "x", Handler::Unary(UnaryOp::Sqrt)).in_step(),
    builtin("squeeze", "x,axis", Handler::Tensor(|l, a| l.without_axis(a))),
    builtin("stack", "parts;axis", Handler::Tensor(|l, a| l.stacked(a))),
    builtin("sum", "x;axis,keep", Handler::Tensor(|l, a| l.reduced(Reduction::Sum, a))),
    builtin("take", "x,indices;axis", Handler::Tensor(|l, a| l.taken(a))),
    builtin("tanh", "x", Handler::Unary(UnaryOp::Tanh)).in_step(),
    builtin("transpose", "x;a,b", Handler::Tensor(|l, a| l.transposed(a))),
    builtin("unsqueeze", "x,axis", Handler::Tensor(|l, a| l.with_axis(a))),
    builtin("where", "condition,a,b", Handler::Value(|l, a| l.select(a.get(0), a.get(1), a.get(2), a.span))).in_step(),
    builtin("window", "x;axis,size,stride,dilation", Handler::Tensor(|l, a| l.windows(a))),
    builtin("zeros", "shape", Handler::Tensor(|l, a| l.filled_tensor(Some(0.0), a))),
];

/// The names of all built-in functions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BUILTINS.iter().map(|b| b.name)
}

/// The arguments of a call, by place.
pub(crate) struct Arguments {
    values: Vec<Option<Given>>,
    /// Where the call is written.
    pub(crate) span: Span,
}

impl Arguments {
    /// Where an argument is written; where the call is, if it is not given.
    pub(crate) fn span(&self, i: usize) -> Span {
        self.values[i].as_ref().map_or(self.span, |g| g.span)
    }

    /// An argument; nothing where it is not given.
    pub(crate) fn get(&self, i: usize) -> Val {
        self.values[i].as_ref().map_or(Val::Nothing, |g| g.value.clone())
    }
}

impl Lowerer<'_> {
    pub fn call_builtin(&mut self, name: &'static str, given: Vec<Given>, span: Span) -> Result<Val> {
        let Some(builtin) = BUILTINS.iter().find(|b| b.name == name) else {
            return self.fail(span, format!("`{name}` is no built-in function"), "here");
        };
        let (needed, optional) = builtin.arguments.split_once(';').unwrap_or((builtin.arguments, ""));
        let needed: Vec<&str> = needed.split(',').filter(|s| !s.is_empty()).collect();
        let mut names = needed.clone();
        names.extend(optional.split(',').filter(|s| !s.is_empty()));
        // A shape may be written as several numbers: `zeros(2, 3)`.
        let given = match names.as_slice() {
            ["shape"] if given.len() > 1 => {
                let place = given[0].span;
                vec![Given { name: None, value: Val::List(given.into_iter().map(|g| g.value).collect()), span: place }]
            }
            _ => given,
        };
        let values = sort_arguments(self, name, &names, given)?;
        for (i, n) in needed.iter().enumerate() {
            if values[i].is_none() {
                return self.fail_help(span, format!("`{name}` needs `{n}`"), "not given here", format!("it takes: {}", names.join(", ")));
            }
        }
        let a = Arguments { values, span };
        if a.values.iter().flatten().any(|g| matches!(g.value, Val::Poison)) {
            return Err(Stop::Said);
        }
        let any_unknown = a.values.iter().flatten().any(|g| g.value.is_unknown());
        if any_unknown && !builtin.of_unknown {
            return Ok(Val::Unknown);
        }
        let on_tensors = a.values.iter().flatten().any(|g| g.value.is_tensor());
        if self.in_step() && on_tensors && !builtin.in_step {
            return self.fail(span, format!("`{name}` inside the step of a neuron"), "a step sees one element, so this cannot be used");
        }
        let called = match builtin.handler {
            Handler::Unary(op) => self.unary_function(op, a.get(0), span),
            Handler::Value(run) => run(self, &a),
            Handler::Tensor(run) => run(self, &a).map(|v| self.tensor(v)),
            Handler::Syntax => self.fail(span, format!("`{name}` cannot be called here"), "here"),
        };
        match called {
            Err(Stop::Undecided) => Ok(Val::Unknown),
            other => other,
        }
    }

    /// An integer argument that is known.
    fn known(&mut self, a: &Arguments, i: usize, what: &str) -> Result<i64> {
        match a.get(i) {
            Val::Int(d) => match d.as_constant() {
                Some(n) => Ok(n),
                None => self.undecided(a.span(i), format!("`{what}` must be known when the program is compiled, and is {d}")),
            },
            other => self.fail_help(
                a.span(i),
                format!("`{what}` is an integer known when the program is compiled, not {}", other.describe()),
                "here",
                "write an integer",
            ),
        }
    }

    fn integers(&mut self, v: Val, span: Span) -> Result<Vec<Dim>> {
        match v {
            Val::Int(d) => Ok(vec![d]),
            Val::List(items) | Val::Tuple(items) => items
                .into_iter()
                .map(|i| match i {
                    Val::Int(d) => Ok(d),
                    other => self.fail(span, format!("a list of integers is needed, and holds {}", other.describe()), "here"),
                })
                .collect(),
            other => self.fail(span, format!("integers are needed, not {}", other.describe()), "here"),
        }
    }

    fn known_integers(&mut self, v: Val, span: Span) -> Result<Vec<i64>> {
        let dims = self.integers(v, span)?;
        dims.into_iter()
            .map(|d| match d.as_constant() {
                Some(n) => Ok(n),
                None => self.undecided(span, format!("{d} must be known when the program is compiled")),
            })
            .collect()
    }

    fn axis(&mut self, v: Val, default: i64, ty: &Type, span: Span) -> Result<usize> {
        let i = match v {
            Val::Nothing => default,
            v => self.known_integers(v, span)?.first().copied().unwrap_or(default),
        };
        let at = if i < 0 { i + ty.rank() as i64 } else { i };
        if ty.rank() == 0 {
            return self.fail(span, "a scalar has no axes", "here");
        }
        if at < 0 || at >= ty.rank() as i64 {
            return self.fail(span, format!("{ty} has no axis {i}"), format!("its axes are 0 ... {}", ty.rank() as i64 - 1));
        }
        Ok(at as usize)
    }

    fn axes(&mut self, v: Val, ty: &Type, span: Span) -> Result<Vec<usize>> {
        if matches!(v, Val::Nothing) {
            return Ok((0..ty.rank()).collect());
        }
        let mut axes = Vec::new();
        for d in self.integers(v, span)? {
            axes.push(self.axis(Val::Int(d), 0, ty, span)?);
        }
        axes.sort_unstable();
        if axes.windows(2).any(|w| w[0] == w[1]) {
            return self.fail(span, "an axis is named twice", "here");
        }
        Ok(axes)
    }
}

//! Built-in functions: the operations of the IR, and what the library needs at compile time.

use snn_ir::{BinaryOp, Contraction, Convolution, DType, Dim, Distribution, Op, Reduction, Tensor, Type, UnaryOp, Value};
use snn_syntax::{Diagnostic, Span};

use crate::call::{Given, sort_arguments};
use crate::context::{Lowerer, Result, Stop};
use crate::value::Val;

/// Name, arguments; those after `;` may be left out and are `none` then.
const TABLE: &[(&str, &str)] = &[
    ("abs", "x"),
    ("arange", "n"),
    ("argmax", "x;axis"),
    ("axis_of", "x,axis"),
    ("bool", "x"),
    ("broadcast_to", "x,shape"),
    ("concat", "parts;axis"),
    ("conv", "x,weight;stride,padding,dilation,groups"),
    ("cos", "x"),
    ("count", "x;axis"),
    ("cumsum", "x;axis"),
    ("delay", "x,steps;init"),
    ("detach", "x"),
    ("einsum", "equation,a;b"),
    ("erf", "x"),
    ("exact_div", "a,b"),
    ("exp", "x"),
    ("f32", "x"),
    ("fill", "n,value"),
    ("first_spike_index", "spikes;axis"),
    ("floor", "x"),
    ("fold", "n,k,e"),
    ("full", "shape,value"),
    ("i64", "x"),
    ("kaiming_normal_conv_linear_weight", "net"),
    ("known", "x"),
    ("len", "list"),
    ("log", "x"),
    ("matmul", "a,b"),
    ("max", "x;axis,keep"),
    ("maximum", "a,b"),
    ("min", "x;axis,keep"),
    ("minimum", "a,b"),
    ("ones", "shape"),
    ("pad", "x,pad;value"),
    ("pair", "x;n"),
    ("permute", "x,order"),
    ("product", "items"),
    ("rand", "shape"),
    ("randn", "shape"),
    ("range", "from,to"),
    ("rank", "x"),
    ("redundant_one_hot", "labels,num_classes,n"),
    ("reshape", "x,shape"),
    ("round", "x"),
    ("scatter_add", "target,indices,updates;axis"),
    ("set_threshold_margin", "layer,label_one_hot;eval_threshold,threshold0,threshold1"),
    ("same_shape", "a,b"),
    ("shape", "x"),
    ("sin", "x"),
    ("spike", "u;surrogate,strict,derivative"),
    ("sqrt", "x"),
    ("squeeze", "x,axis"),
    ("stack", "parts;axis"),
    ("sum", "x;axis,keep"),
    ("take", "x,indices;axis"),
    ("tanh", "x"),
    ("transpose", "x;a,b"),
    ("unsqueeze", "x,axis"),
    ("where", "condition,a,b"),
    ("window", "x;axis,size,stride,dilation"),
    ("zeros", "shape"),
];

/// The names of all built-in functions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(n, _)| *n)
}

/// The arguments of a call, by place.
struct Arguments {
    values: Vec<Option<Given>>,
    span: Span,
}

impl Arguments {
    fn span(&self, i: usize) -> Span {
        self.values[i].as_ref().map_or(self.span, |g| g.span)
    }

    fn get(&self, i: usize) -> Val {
        self.values[i].as_ref().map_or(Val::Nothing, |g| g.value.clone())
    }
}

impl Lowerer<'_> {
    pub fn call_builtin(&mut self, name: &'static str, given: Vec<Given>, span: Span) -> Result<Val> {
        let signature = TABLE.iter().find(|(n, _)| *n == name).map_or("", |(_, s)| s);
        let (needed, optional) = signature.split_once(';').unwrap_or((signature, ""));
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
        if any_unknown && !matches!(name, "known" | "kaiming_normal_conv_linear_weight" | "set_threshold_margin") {
            return Ok(Val::Unknown);
        }
        let scalar_only = matches!(
            name,
            "abs"
                | "bool"
                | "cos"
                | "detach"
                | "erf"
                | "exp"
                | "f32"
                | "floor"
                | "log"
                | "maximum"
                | "minimum"
                | "round"
                | "sin"
                | "spike"
                | "sqrt"
                | "tanh"
                | "where"
        );
        let on_tensors = a.values.iter().flatten().any(|g| g.value.is_tensor());
        if self.in_step() && on_tensors && !scalar_only && name != "known" {
            return self.fail(span, format!("`{name}` inside the step of a neuron"), "a step sees one element, so this cannot be used");
        }
        match self.builtin(name, &a) {
            Err(Stop::Undecided) => Ok(Val::Unknown),
            other => other,
        }
    }

    fn builtin(&mut self, name: &'static str, a: &Arguments) -> Result<Val> {
        let span = a.span;
        let unary = match name {
            "abs" => Some(UnaryOp::Abs),
            "cos" => Some(UnaryOp::Cos),
            "detach" => Some(UnaryOp::Detach),
            "erf" => Some(UnaryOp::Erf),
            "exp" => Some(UnaryOp::Exp),
            "floor" => Some(UnaryOp::Floor),
            "log" => Some(UnaryOp::Log),
            "round" => Some(UnaryOp::Round),
            "sin" => Some(UnaryOp::Sin),
            "sqrt" => Some(UnaryOp::Sqrt),
            "tanh" => Some(UnaryOp::Tanh),
            _ => None,
        };
        if let Some(op) = unary {
            return self.unary_function(op, a.get(0), span);
        }
        let value = match name {
            "f32" | "i64" | "bool" => {
                let to: DType = name.parse().unwrap_or(DType::F32);
                if let (Val::Int(d), DType::F32) = (a.get(0), to)
                    && let Some(n) = d.as_constant()
                {
                    return Ok(Val::Float(n as f64));
                }
                if let (Val::Float(x), DType::I64) = (a.get(0), to) {
                    return match x.is_finite() && x.abs() < 9.2e18 {
                        true => Ok(Val::int(x.trunc() as i64)),
                        false => self.fail(span, format!("{x} is no integer"), "here"),
                    };
                }
                let v = self.lift(a.get(0), None, a.span(0))?;
                self.cast(v, to, span)?
            }
            "einsum" => self.einsum(a)?,
            "scatter_add" => {
                let target = self.lift(a.get(0), None, a.span(0))?;
                let ty = self.ty(target);
                let indices = self.lift(a.get(1), Some(DType::I64), a.span(1))?;
                let updates = self.lift(a.get(2), Some(ty.dtype), a.span(2))?;
                let axis = self.axis(a.get(3), 0, &ty, a.span(3))?;
                self.emit(Op::ScatterAdd { axis }, &[target, indices, updates], None, span)?
            }
            "maximum" | "minimum" => {
                let op = if name == "maximum" { BinaryOp::Max } else { BinaryOp::Min };
                if let (Some(x), Some(y)) = (a.get(0).number(), a.get(1).number()) {
                    let larger = (x >= y) == (op == BinaryOp::Max);
                    return Ok(if larger { a.get(0) } else { a.get(1) });
                }
                return self.elementwise(op, a.get(0), a.get(1), span, (a.span(0), a.span(1)));
            }
            "where" => return self.select(a.get(0), a.get(1), a.get(2), span),
            "spike" => return self.spike(a),
            "matmul" => return self.matmul(a.get(0), a.get(1), (a.span(0), a.span(1))),
            "len" => {
                return match a.get(0) {
                    Val::List(items) | Val::Tuple(items) => Ok(Val::int(items.len() as i64)),
                    v => {
                        let v = self.lift(v, None, a.span(0))?;
                        match self.ty(v).shape.first() {
                            Some(d) => Ok(Val::Int(d.clone())),
                            None => self.fail(a.span(0), "a scalar has no length", "here"),
                        }
                    }
                };
            }
            "known" => return Ok(Val::Bool(a.get(0).number().is_some())),
            "same_shape" => {
                let [x, y] = [0, 1].map(|i| match a.get(i) {
                    Val::List(_) | Val::Tuple(_) | Val::Int(_) => self.integers(a.get(i), a.span(i)),
                    v => self.lift(v, None, a.span(i)).map(|v| self.ty(v).shape),
                });
                return Ok(Val::Bool(x? == y?));
            }
            "shape" | "rank" | "axis_of" | "count" | "product" | "range" | "fill" | "pair" | "exact_div" => {
                return self.compile_time(name, a);
            }
            "kaiming_normal_conv_linear_weight" => return self.kaiming(a),
            "set_threshold_margin" => return self.threshold_margin(a),
            "zeros" | "ones" | "full" | "rand" | "randn" | "arange" => self.made(name, a)?,
            "reshape" | "broadcast_to" | "transpose" | "permute" | "unsqueeze" | "squeeze" | "concat" | "stack" | "pad" | "take"
            | "window" => self.moved(name, a)?,
            "sum" | "max" | "min" | "argmax" | "cumsum" => self.reduced(name, a)?,
            "delay" => self.delay(a)?,
            "first_spike_index" => self.first_spike(a)?,
            "redundant_one_hot" => {
                let labels = self.lift(a.get(0), Some(DType::I64), a.span(0))?;
                let ty = self.ty(labels);
                let labels = if ty.dtype == DType::U8 { self.cast(labels, DType::I64, span)? } else { labels };
                let (classes, repeat) = (self.known(a, 1, "num_classes")?, self.known(a, 2, "n")?);
                if classes < 1 || repeat < 1 {
                    let (i, what, n) = if classes < 1 { (1, "num_classes", classes) } else { (2, "n", repeat) };
                    return self.fail(a.span(i), format!("`{what}` is {n}, and must be at least 1"), "here");
                }
                self.emit(Op::RedundantOneHot { classes, repeat }, &[labels], None, a.span(0))?
            }
            "conv" => self.convolution(a)?,
            _ => return self.fail(span, format!("`{name}` cannot be called here"), "here"),
        };
        Ok(self.tensor(value))
    }

    fn unary_function(&mut self, op: UnaryOp, v: Val, span: Span) -> Result<Val> {
        if let Some(x) = v.number() {
            let y = match op {
                UnaryOp::Abs => x.abs(),
                UnaryOp::Cos => x.cos(),
                UnaryOp::Exp => x.exp(),
                UnaryOp::Floor => x.floor(),
                UnaryOp::Log => x.ln(),
                UnaryOp::Round => x.round_ties_even(),
                UnaryOp::Sin => x.sin(),
                UnaryOp::Sqrt => x.sqrt(),
                UnaryOp::Tanh => x.tanh(),
                UnaryOp::Detach => return Ok(v),
                // As the compiled function has it.
                UnaryOp::Erf => f64::from(snn_ir::interpret::elementwise::unary_f32(UnaryOp::Erf, x as f32)),
                UnaryOp::Neg | UnaryOp::Not => f64::NAN,
            };
            if !y.is_nan() {
                return Ok(Val::Float(y));
            }
            if !x.is_nan() {
                return self.fail(span, format!("{} of {x} is not a number", format!("{op:?}").to_lowercase()), "here");
            }
        }
        let wanted = (!matches!(op, UnaryOp::Abs | UnaryOp::Detach)).then_some(DType::F32);
        let mut x = self.lift(v, wanted, span)?;
        if wanted.is_some() {
            x = self.cast(x, DType::F32, span)?;
        }
        let x = self.emit(Op::Unary(op), &[x], None, span)?;
        Ok(self.tensor(x))
    }

    fn spike(&mut self, a: &Arguments) -> Result<Val> {
        let surrogate = match a.get(1) {
            Val::Surrogate(s) => s,
            Val::Nothing => match self.call_name("sigmoid", vec![], a.span, a.span)? {
                Val::Surrogate(s) => s,
                _ => return Err(Stop::Said),
            },
            other => {
                return self.fail_help(
                    a.span(1),
                    format!("a surrogate is needed, not {}", other.describe()),
                    "here",
                    "for instance `surrogate = atan()`",
                );
            }
        };
        let strict = match a.get(2) {
            Val::Nothing => false,
            Val::Bool(b) => b,
            other => return self.fail(a.span(2), format!("`strict` is true or false, not {}", other.describe()), "here"),
        };
        let u = self.lift(a.get(0), Some(DType::F32), a.span(0))?;
        let u = self.cast(u, DType::F32, a.span)?;
        if !matches!(a.get(3), Val::Nothing) {
            return self.spike_with(u, a.get(3), strict, a);
        }
        let graph = self.surrogate_graph(&surrogate, a.span)?;
        let v = self.emit(Op::Spike { strict, surrogate: Box::new(graph) }, &[u], None, a.span)?;
        Ok(self.tensor(v))
    }

    /// A spike whose derivative is a value: `s` with the derivative `d` with respect to `u`, written as `s + d (u - detach(u))`.
    fn spike_with(&mut self, u: Value, derivative: Val, strict: bool, a: &Arguments) -> Result<Val> {
        let span = a.span;
        let ty = self.ty(u);
        let zero = self.constant(Tensor::scalar(0.0), span)?;
        let zero = self.broadcast(zero, &ty.shape, span)?;
        let op = if strict { BinaryOp::Gt } else { BinaryOp::Ge };
        let fires = self.emit(Op::Binary(op), &[u, zero], None, span)?;
        let s = self.cast(fires, DType::F32, span)?;
        let d = self.lift(derivative, Some(DType::F32), a.span(3))?;
        let d = self.broadcast(d, &ty.shape, a.span(3))?;
        let d = self.emit(Op::Unary(UnaryOp::Detach), &[d], None, span)?;
        let still = self.emit(Op::Unary(UnaryOp::Detach), &[u], None, span)?;
        let change = self.emit(Op::Binary(BinaryOp::Sub), &[u, still], None, span)?;
        let change = self.emit(Op::Binary(BinaryOp::Mul), &[d, change], None, span)?;
        let v = self.emit(Op::Binary(BinaryOp::Add), &[s, change], None, span)?;
        Ok(self.tensor(v))
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

    fn compile_time(&mut self, name: &str, a: &Arguments) -> Result<Val> {
        let type_of = |l: &mut Self, i: usize| -> Result<Type> {
            let v = l.lift(a.get(i), None, a.span(i))?;
            Ok(l.ty(v))
        };
        Ok(match name {
            "shape" => Val::List(type_of(self, 0)?.shape.into_iter().map(Val::Int).collect()),
            "rank" => Val::int(type_of(self, 0)?.rank() as i64),
            "axis_of" => {
                let ty = type_of(self, 0)?;
                Val::int(self.axis(a.get(1), 0, &ty, a.span(1))? as i64)
            }
            "count" => {
                let ty = type_of(self, 0)?;
                let axes = self.axes(a.get(1), &ty, a.span(1))?;
                Val::Int(Dim::product(axes.iter().map(|i| &ty.shape[*i])))
            }
            "product" => Val::Int(Dim::product(&self.integers(a.get(0), a.span(0))?)),
            "range" => {
                let (from, to) = (self.known(a, 0, "from")?, self.known(a, 1, "to")?);
                let n = to.saturating_sub(from).max(0);
                self.check_length(n, a.span)?;
                Val::List((from..to).map(Val::int).collect())
            }
            "fill" => {
                let n = self.known(a, 0, "n")?;
                self.check_length(n, a.span(0))?;
                Val::List(vec![a.get(1); n as usize])
            }
            "pair" => {
                let n = if matches!(a.get(1), Val::Nothing) { 2 } else { self.known(a, 1, "n")? };
                self.check_length(n, a.span(1))?;
                let mut items = self.integers(a.get(0), a.span(0))?;
                if items.len() == 1 {
                    items = vec![items[0].clone(); n as usize];
                }
                if items.len() != n as usize {
                    return self.fail(a.span(0), format!("one number or {n} are needed, not {}", items.len()), "here");
                }
                Val::List(items.into_iter().map(Val::Int).collect())
            }
            _ => {
                let (x, y) = (self.integers(a.get(0), a.span(0))?, self.integers(a.get(1), a.span(1))?);
                let (Some(x), Some(y)) = (x.first(), y.first()) else { return Err(Stop::Said) };
                match x.divided_exactly(y) {
                    Some(d) => Val::Int(d),
                    None if x.as_constant().is_none() => Val::Int(x.floor_div(y)),
                    None => return self.fail(a.span, format!("{x} is not a multiple of {y}"), "here"),
                }
            }
        })
    }

    /// A list of that many elements can be made.
    fn check_length(&self, n: i64, span: Span) -> Result<()> {
        let most = crate::lower::MAX_LIST as i64;
        match n {
            _ if n < 0 => self.fail(span, format!("a list of {n} elements"), "this is negative"),
            _ if n > most => self.fail_help(
                span,
                format!("a list of {n} elements: at most {most} are made"),
                "here",
                "a tensor can be longer: `arange(n)`",
            ),
            _ => Ok(()),
        }
    }

    fn made(&mut self, name: &str, a: &Arguments) -> Result<Value> {
        let span = a.span;
        if name == "arange" {
            let n = self.integers(a.get(0), a.span(0))?;
            let [n] = n.as_slice() else { return self.fail(span, "`arange` takes one number", "here") };
            if n.as_constant().is_some_and(|n| n < 0) {
                return self.fail(a.span(0), format!("a range of {n} numbers"), "this is negative");
            }
            return self.emit(Op::Iota, &[], Some(Type::new(DType::I64, [n.clone()])), span);
        }
        let shape = self.integers(a.get(0), a.span(0))?;
        if let Some(d) = shape.iter().find(|d| d.as_constant().is_some_and(|n| n < 0)) {
            return self.fail(a.span(0), format!("a dimension of {d}"), "a dimension is not negative");
        }
        let distribution = match name {
            "rand" => Distribution::Uniform,
            "randn" => Distribution::Normal,
            _ => {
                let value = match name {
                    "zeros" => Val::Float(0.0),
                    "ones" => Val::Float(1.0),
                    _ => a.get(1),
                };
                let v = self.lift(value, None, span)?;
                return self.broadcast(v, &shape, span);
            }
        };
        self.streams += 1;
        let stream = self.streams;
        if self.in_step() {
            return self.noise(Op::Random { distribution, stream }, &shape, a.span(0));
        }
        self.emit(Op::Random { distribution, stream }, &[], Some(Type::new(DType::F32, shape)), span)
    }

    /// A random number in the step of a neuron: another one for each element and step, so a sequence of the net around it.
    fn noise(&mut self, op: Op, shape: &[Dim], span: Span) -> Result<Value> {
        let Some(sequence) = self.context().sequence.clone() else {
            return self.fail(span, "a surrogate draws no random numbers", "here");
        };
        if !shape.is_empty() {
            return self.fail_help(span, "a step sees one element, and draws one number for it", "this is a shape", "write `randn([])`");
        }
        let step = self.close();
        let drawn = self.emit(op, &[], Some(sequence), span);
        self.contexts.push(step);
        let drawn = drawn?;
        let n = self.context().noise.len();
        let inner = self.graph().add(Op::Input(format!("noise{n}")), &[], Some(Type::scalar(DType::F32)));
        self.context().noise.push((drawn, inner));
        Ok(inner)
    }

    fn moved(&mut self, name: &str, a: &Arguments) -> Result<Value> {
        let span = a.span;
        if matches!(name, "concat" | "stack") {
            let (Val::List(items) | Val::Tuple(items)) = a.get(0) else {
                return self.fail_help(
                    a.span(0),
                    format!("`{name}` takes a list of tensors"),
                    "here",
                    format!("write `{name}([a, b], axis = 0)`"),
                );
            };
            let mut parts = Vec::new();
            for item in items {
                parts.push(self.lift(item, None, a.span(0))?);
            }
            let Some(first) = parts.first().copied() else { return self.fail(a.span(0), format!("`{name}` of nothing"), "here") };
            if name == "stack" {
                let mut ty = self.ty(first);
                ty.shape.push(1.into());
                let axis = self.axis(a.get(1), 0, &ty, a.span(1))?;
                for p in &mut parts {
                    *p = self.unsqueeze(*p, axis, span)?;
                }
                return self.emit(Op::Concat { axis }, &parts, None, span);
            }
            let ty = self.ty(first);
            let axis = self.axis(a.get(1), 0, &ty, a.span(1))?;
            return self.emit(Op::Concat { axis }, &parts, None, span);
        }
        let x = self.lift(a.get(0), None, a.span(0))?;
        let ty = self.ty(x);
        match name {
            "reshape" => {
                let mut shape = self.integers(a.get(1), a.span(1))?;
                // One -1 stands for what is left.
                let open: Vec<usize> = (0..shape.len()).filter(|i| shape[*i].as_constant() == Some(-1)).collect();
                if let [at] = open.as_slice() {
                    shape[*at] = 1.into();
                    let rest = Dim::product(&shape);
                    match Dim::product(&ty.shape).divided_exactly(&rest) {
                        Some(d) => shape[*at] = d,
                        None => {
                            return self.fail(
                                a.span(1),
                                format!("{ty} does not divide into {}", snn_ir::types::shape_text(&shape)),
                                "here",
                            );
                        }
                    }
                }
                self.emit(Op::Reshape, &[x], Some(Type::new(ty.dtype, shape)), span)
            }
            "broadcast_to" => {
                let shape = self.integers(a.get(1), a.span(1))?;
                if !snn_ir::infer::broadcasts(&ty.shape, &shape) {
                    return self.fail(span, format!("{ty} does not broadcast to {}", snn_ir::types::shape_text(&shape)), "here");
                }
                self.broadcast(x, &shape, span)
            }
            "transpose" => {
                let i = self.axis(a.get(1), -2, &ty, span)?;
                let j = self.axis(a.get(2), -1, &ty, span)?;
                let mut permutation: Vec<usize> = (0..ty.rank()).collect();
                permutation.swap(i, j);
                self.emit(Op::Transpose { permutation }, &[x], None, span)
            }
            "permute" => {
                let mut permutation = Vec::new();
                for d in self.integers(a.get(1), a.span(1))? {
                    permutation.push(self.axis(Val::Int(d), 0, &ty, a.span(1))?);
                }
                self.emit(Op::Transpose { permutation }, &[x], None, span)
            }
            "unsqueeze" => {
                let mut longer = ty;
                longer.shape.push(1.into());
                let axis = self.axis(a.get(1), 0, &longer, a.span(1))?;
                self.unsqueeze(x, axis, span)
            }
            "squeeze" => {
                let axis = self.axis(a.get(1), 0, &ty, a.span(1))?;
                let mut shorter = ty;
                shorter.shape.remove(axis);
                self.emit(Op::Reshape, &[x], Some(shorter), span)
            }
            "take" => {
                let indices = self.lift(a.get(1), Some(DType::I64), a.span(1))?;
                let axis = self.axis(a.get(2), 0, &ty, a.span(2))?;
                self.emit(Op::Gather { axis }, &[x, indices], None, span)
            }
            "window" => {
                let axis = self.axis(a.get(1), -1, &ty, a.span(1))?;
                let size = self.known(a, 2, "size")?;
                let stride = if matches!(a.get(3), Val::Nothing) { size } else { self.known(a, 3, "stride")? };
                let dilation = if matches!(a.get(4), Val::Nothing) { 1 } else { self.known(a, 4, "dilation")? };
                self.emit(Op::Window { axis, size, stride, dilation }, &[x], None, span)
            }
            _ => {
                // As PyTorch's `pad`: pairs for the last axis first.
                let pads = self.integers(a.get(1), a.span(1))?;
                let value = match a.get(2) {
                    Val::Nothing => 0.0,
                    v => match v.number() {
                        Some(x) => self.fill_value(x, ty.dtype, a.span(2))?,
                        None => return self.fail(a.span(2), "padding is done with a number", "here"),
                    },
                };
                if pads.len() % 2 != 0 || pads.len() / 2 > ty.rank() {
                    return self.fail(
                        a.span(1),
                        format!("{} numbers do not pad {ty}: a pair for each axis, the last first", pads.len()),
                        "here",
                    );
                }
                let mut v = x;
                for (i, pair) in pads.chunks_exact(2).enumerate() {
                    if pair.iter().all(|d| d.as_constant() == Some(0)) {
                        continue;
                    }
                    let op = Op::Pad { axis: ty.rank() - 1 - i, low: pair[0].clone(), high: pair[1].clone(), value };
                    v = self.emit(op, &[v], None, span)?;
                }
                Ok(v)
            }
        }
    }

    /// A number that elements of a type can be.
    fn fill_value(&self, x: f64, dtype: DType, span: Span) -> Result<f32> {
        let y = x as f32;
        let whole = |low: f64, high: f64| f64::from(y) == x && x.fract() == 0.0 && (low..=high).contains(&x);
        let fits = match dtype {
            DType::F32 => true,
            DType::I64 => whole(-9.2e18, 9.2e18),
            DType::Bool => whole(0.0, 1.0),
            DType::U8 => whole(0.0, 255.0),
        };
        if fits { Ok(y) } else { self.fail(span, format!("{x} is no value of a {dtype} tensor"), "padded with this") }
    }

    fn reduced(&mut self, name: &str, a: &Arguments) -> Result<Value> {
        let span = a.span;
        let x = self.lift(a.get(0), None, a.span(0))?;
        let ty = self.ty(x);
        let x = if matches!(ty.dtype, DType::Bool | DType::U8) { self.cast(x, DType::I64, span)? } else { x };
        match name {
            "argmax" => {
                let axis = self.axis(a.get(1), -1, &ty, a.span(1))?;
                return self.emit(Op::ArgMax { axis }, &[x], None, span);
            }
            "cumsum" => {
                let axis = self.axis(a.get(1), -1, &ty, a.span(1))?;
                return self.emit(Op::CumSum { axis }, &[x], None, span);
            }
            _ => {}
        }
        let axes = self.axes(a.get(1), &ty, a.span(1))?;
        let kind = match name {
            "sum" => Reduction::Sum,
            "max" => Reduction::Max,
            _ => Reduction::Min,
        };
        let v = self.emit(Op::Reduce { kind, axes: axes.clone() }, &[x], None, span)?;
        if !matches!(a.get(2), Val::Bool(true)) {
            return Ok(v);
        }
        let mut kept = self.ty(v);
        axes.iter().for_each(|i| kept.shape.insert(*i, 1.into()));
        self.emit(Op::Reshape, &[v], Some(kept), span)
    }

    /// `einsum("bij,bjk->bik", a, b)`: sums of products over the letters that the result lacks, as `torch.einsum` of one or two tensors.
    fn einsum(&mut self, a: &Arguments) -> Result<Value> {
        let span = a.span;
        let Val::Text(equation) = a.get(0) else {
            return self.fail_help(
                a.span(0),
                "`einsum` begins with its equation",
                "this is no text",
                "write `einsum(\"ij,jk->ik\", a, b)`",
            );
        };
        let (left, right) = match equation.split_once("->") {
            Some((l, r)) => (l.to_string(), r.trim().to_string()),
            None => return self.fail(a.span(0), "the equation says what the result has: `ij,jk->ik`", "there is no `->`"),
        };
        let parts: Vec<Vec<char>> = left.split(',').map(|p| p.trim().chars().collect()).collect();
        let result: Vec<char> = right.chars().collect();
        let given = if matches!(a.get(2), Val::Nothing) { 1 } else { 2 };
        if parts.len() != given {
            return self.fail(a.span(0), format!("the equation has {} operands, and {given} are given", parts.len()), "here");
        }
        let mut operands = Vec::new();
        for (i, letters) in parts.iter().enumerate() {
            let v = self.lift(a.get(i + 1), Some(DType::F32), a.span(i + 1))?;
            let v = self.cast(v, DType::F32, a.span(i + 1))?;
            let ty = self.ty(v);
            let twice = letters.iter().enumerate().any(|(k, c)| letters[..k].contains(c));
            if letters.len() != ty.rank() || twice || letters.iter().any(|c| !c.is_ascii_alphabetic()) {
                let text: String = letters.iter().collect();
                return self.fail(a.span(i + 1), format!("`{text}` does not name the axes of {ty}, each by a letter of its own"), "here");
            }
            operands.push((v, letters.clone()));
        }
        if let Some(c) = result.iter().enumerate().find(|(i, c)| result[..*i].contains(c) || !parts.iter().any(|p| p.contains(c))) {
            return self.fail(a.span(0), format!("the result has `{}` once, as an axis of an operand", c.1), "here");
        }
        // Letters that only one operand has and the result lacks are summed first.
        for i in 0..operands.len() {
            let other = operands.get(1 - i.min(1)).map(|o| o.1.clone()).filter(|_| operands.len() > 1).unwrap_or_default();
            let (v, letters) = operands[i].clone();
            let axes: Vec<usize> = (0..letters.len()).filter(|k| !other.contains(&letters[*k]) && !result.contains(&letters[*k])).collect();
            if !axes.is_empty() {
                let kept = letters.iter().enumerate().filter(|(k, _)| !axes.contains(k)).map(|(_, c)| *c).collect();
                operands[i] = (self.emit(Op::Reduce { kind: Reduction::Sum, axes }, &[v], None, span)?, kept);
            }
        }
        let (v, letters) = match operands.as_slice() {
            [(x, p), (y, q)] => {
                let shared: Vec<char> = p.iter().copied().filter(|c| q.contains(c)).collect();
                let place = |list: &[char], c: &char| list.iter().position(|k| k == c).unwrap_or(0);
                let (batch, sum): (Vec<char>, Vec<char>) = shared.iter().partition(|c| result.contains(c));
                let c = Contraction {
                    lhs_batch: batch.iter().map(|c| place(p, c)).collect(),
                    rhs_batch: batch.iter().map(|c| place(q, c)).collect(),
                    lhs_sum: sum.iter().map(|c| place(p, c)).collect(),
                    rhs_sum: sum.iter().map(|c| place(q, c)).collect(),
                };
                let free = p.iter().chain(q).copied().filter(|c| !shared.contains(c));
                let letters: Vec<char> = batch.iter().copied().chain(free).collect();
                (self.emit(Op::Contract(c), &[*x, *y], None, span)?, letters)
            }
            [(x, p)] => (*x, p.clone()),
            _ => return Err(Stop::Said),
        };
        let permutation: Vec<usize> = result.iter().filter_map(|c| letters.iter().position(|k| k == c)).collect();
        self.emit(Op::Transpose { permutation }, &[v], None, span)
    }

    fn delay(&mut self, a: &Arguments) -> Result<Value> {
        let x = self.lift(a.get(0), None, a.span(0))?;
        let ty = self.ty(x);
        let steps = self.known(a, 1, "steps")?;
        if steps < 0 {
            return self.fail_help(
                a.span(1),
                format!("a delay of {steps} steps would look into the future"),
                "this is negative",
                "a delay is 0 or more steps",
            );
        }
        let at = ty.shape.iter().position(|d| d.as_name() == Some("T"));
        if let Some(at) = at.filter(|at| *at > 0) {
            let mut order: Vec<usize> = (0..ty.rank()).collect();
            order.swap(0, at);
            let d = Diagnostic::warning(format!("`delay` goes along the first dimension, and `T` is dimension {at} of {ty}"))
                .help(format!("bring time to the front and back: `x |> permute({order:?}) |> delay({steps}) |> permute({order:?})`"));
            self.warn(a.span(0), d, format!("the first dimension of this is {}", ty.shape[0]));
        }
        let delayed = self.emit(Op::Delay { steps }, &[x], None, a.span)?;
        if matches!(a.get(2), Val::Nothing) || steps == 0 {
            return Ok(delayed);
        }
        // What came before the first step stands where the delay gives zeros.
        let mut before = self.lift(a.get(2), Some(ty.dtype), a.span(2))?;
        let mut wanted = ty.clone();
        wanted.shape[0] = steps.into();
        let actual = self.ty(before);
        if actual != wanted {
            let message = format!("`init` of a delay of {steps} steps is {wanted}, the last steps before the first, not {actual}");
            return self.fail(a.span(2), message, format!("this is {actual}"));
        }
        let rest = ty.shape[0].minus(&steps.into());
        if rest.as_constant().is_some_and(|n| n < 0) {
            before = self.emit(Op::Slice { axis: 0, start: 0.into(), step: 1 }, &[before], Some(ty), a.span)?;
        } else {
            before = self.emit(Op::Pad { axis: 0, low: 0.into(), high: rest, value: 0.0 }, &[before], None, a.span)?;
        }
        self.emit(Op::Binary(BinaryOp::Add), &[delayed, before], None, a.span)
    }

    fn first_spike(&mut self, a: &Arguments) -> Result<Value> {
        let x = self.lift(a.get(0), None, a.span(0))?;
        let ty = self.ty(x);
        let axis = self.axis(a.get(1), -1, &ty, a.span(1))?;
        let at = ty.shape.iter().position(|d| d.as_name() == Some("T"));
        if let Some(at) = at.filter(|at| *at != axis && matches!(a.get(1), Val::Nothing)) {
            let d = Diagnostic::warning(format!("`first_spike_index` looks along the last dimension, and `T` is dimension {at} of {ty}"))
                .help(format!("write `first_spike_index(x, axis = {at})`"));
            self.warn(a.span(0), d, format!("the last dimension of this is {}", ty.shape[ty.rank() - 1]));
        }
        self.emit(Op::FirstSpike { axis }, &[x], None, a.span)
    }

    fn convolution(&mut self, a: &Arguments) -> Result<Value> {
        let x = self.lift(a.get(0), Some(DType::F32), a.span(0))?;
        let w = self.lift(a.get(1), Some(DType::F32), a.span(1))?;
        let n = self.ty(w).rank().saturating_sub(2);
        let list = |l: &mut Self, i: usize, default: i64| -> Result<Vec<i64>> {
            let v = if matches!(a.get(i), Val::Nothing) { vec![default] } else { l.known_integers(a.get(i), a.span(i))? };
            match v.as_slice() {
                [one] => Ok(vec![*one; n]),
                v if v.len() == n => Ok(v.to_vec()),
                v => l.fail(a.span(i), format!("one number or {n} are needed, not {}", v.len()), "here"),
            }
        };
        let c = Convolution {
            stride: list(self, 2, 1)?,
            padding: list(self, 3, 0)?,
            dilation: list(self, 4, 1)?,
            groups: if matches!(a.get(5), Val::Nothing) { 1 } else { self.known(a, 5, "groups")? },
        };
        self.emit(Op::Conv(c), &[x, w], None, a.span)
    }

    fn kaiming(&mut self, a: &Arguments) -> Result<Val> {
        let prefix = match a.get(0) {
            Val::ThisNet => self.frame().prefix.clone(),
            Val::Layer(i) => self.layers[i].prefix.clone(),
            other => {
                return self.fail_help(
                    a.span(0),
                    format!("a net or layer is needed, not {}", other.describe()),
                    "here",
                    "write `kaiming_normal_conv_linear_weight(net)`",
                );
            }
        };
        let span = a.span;
        self.frame().kaiming.push((prefix, span));
        Ok(Val::Nothing)
    }

    fn threshold_margin(&mut self, a: &Arguments) -> Result<Val> {
        let Val::Layer(index) = a.get(0) else {
            let help = "declare the neurons: `layer out = lif()`";
            return self.fail_help(a.span(0), format!("`set_threshold_margin` changes a layer, not {}", a.get(0).describe()), "here", help);
        };
        let number = |l: &mut Self, i: usize, default: f64| match a.get(i) {
            Val::Nothing => Ok(default as f32),
            v => match v.number() {
                Some(x) => Ok(x as f32),
                None => l.fail(a.span(i), format!("a threshold is a number, not {}", v.describe()), "here"),
            },
        };
        let (evaluation, off, on) = (number(self, 2, 1.0)?, number(self, 3, 0.9)?, number(self, 4, 1.1)?);
        let layer = self.layers[index].clone();
        let item = self.item(layer.item);
        if item.kind != snn_syntax::ast::ItemKind::Neuron {
            return self.fail(a.span(0), format!("`{}` is not a neuron", layer.name), format!("this is a `{}`", item.name.text));
        }
        let Some(slot) = layer.settings.iter().position(|s| s.name == "v_threshold") else {
            return self.fail(a.span(0), format!("`{}` has no `v_threshold`", item.name.text), "so its threshold cannot be set");
        };
        if layer.used {
            self.warn(
                a.span,
                Diagnostic::warning(format!("`{}` is applied before its threshold is set", layer.name)).help("move this line up"),
                "has no effect on that",
            );
        }
        let training = self.options.mode == crate::Mode::Train;
        // The label is looked at in both modes, so that its shape is checked.
        let label = self.lift(a.get(1), Some(DType::F32), a.span(1))?;
        let ty = self.ty(label);
        if ty.rank() != 2 {
            return self.fail_help(a.span(1), format!("a one-hot label is [B, C], not {ty}"), "here", "write `one_hot(label, 10)`");
        }
        let label = self.cast(label, DType::F32, a.span(1))?;
        let op = Op::ThresholdMargin { training, evaluation, off, on };
        let operands: &[Value] = if training { &[label] } else { &[] };
        let value = self.emit(op, operands, None, a.span)?;
        let value = self.tensor(value);
        let layer = &mut self.layers[index];
        layer.settings[slot].value = value;
        layer.settings[slot].span = a.span(1);
        layer.margin = Some((a.span(1), ty));
        Ok(Val::Nothing)
    }
}

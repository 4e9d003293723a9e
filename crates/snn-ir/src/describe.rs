//! What an operation is called and what its attributes are: the one place that knows it.
//!
//! The printer and the parser of the [text form](crate::text), the terms of the optimiser and every message read
//! [`Op::name`], [`Op::attributes`] and [`Op::from_parts`]. Names are those of the language where the language has the operation.

use crate::dim::Dim;
use crate::graph::{Graph, Node, Value};
use crate::op::{
    BinaryOp, Contraction, ConvGradient, Convolution, Distribution, Loop, MaxPool, Op, PoolAxis, Reduction, Roles, Scan, UnaryOp,
};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, Type};

/// The value of an attribute. Floats are compared by their bits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// Yes or no; `false` is left out of the text.
    Bool(bool),
    /// The bits of an `f32`.
    Float(u32),
    /// An integer or a dimension.
    Dim(Dim),
    /// Integers, one for each axis or so; the empty list is left out of the text.
    List(Vec<i64>),
    /// A name of the user.
    Name(String),
    /// The elements of a constant.
    Elements(Elements),
}

/// The elements of a tensor, as integers or as the bits of floats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Elements {
    /// What they are.
    pub dtype: DType,
    /// The sizes of the axes.
    pub shape: Vec<usize>,
    /// One number for each.
    pub bits: Vec<i64>,
}

impl Elements {
    fn of(tensor: &Tensor) -> Elements {
        let bits = match tensor.data() {
            Data::F32(v) => v.iter().map(|x| i64::from(x.to_bits())).collect(),
            Data::I64(v) => v.to_vec(),
            Data::Bool(v) | Data::U8(v) => v.iter().map(|x| i64::from(*x)).collect(),
        };
        Elements { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), bits }
    }

    /// The tensor; `None` where a number does not fit its type, or there are more or fewer than the shape has.
    pub fn tensor(&self) -> Option<Tensor> {
        if crate::tensor::element_count(&self.shape) != Some(self.bits.len()) {
            return None;
        }
        let bytes = |most: i64| self.bits.iter().map(|x| u8::try_from(*x).ok().filter(|x| i64::from(*x) <= most)).collect::<Option<_>>();
        Some(match self.dtype {
            DType::F32 => {
                let numbers = self.bits.iter().map(|x| u32::try_from(*x).ok().map(f32::from_bits));
                Tensor::f32(self.shape.clone(), numbers.collect::<Option<_>>()?)
            }
            DType::I64 => Tensor::i64(self.shape.clone(), self.bits.clone()),
            DType::Bool => Tensor::bool(self.shape.clone(), bytes(1)?),
            DType::U8 => Tensor::u8(self.shape.clone(), bytes(255)?),
        })
    }
}

/// The attributes of an operation by name, in order of the text.
pub type Attributes = Vec<(&'static str, Attribute)>;

/// What makes two operations the same: their names, their attributes and the graphs inside, to the bit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Structure {
    name: &'static str,
    attributes: Attributes,
    /// What it says of the type of its result.
    result: (Option<DType>, Vec<Dim>),
    bodies: Vec<GraphStructure>,
}

/// A graph inside an operation, as [`Structure`] compares it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct GraphStructure {
    name: String,
    nodes: Vec<NodeStructure>,
    inputs: Vec<Value>,
    outputs: Vec<(String, Value)>,
}

/// A node of a graph inside an operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct NodeStructure {
    op: Structure,
    operands: Vec<Value>,
    types: Vec<Type>,
    name: Option<String>,
}

impl GraphStructure {
    fn of(graph: &Graph) -> GraphStructure {
        let node =
            |n: &Node| NodeStructure { op: n.op.structure(), operands: n.operands.clone(), types: n.types.clone(), name: n.name.clone() };
        let nodes = graph.nodes().map(|(_, n)| node(n)).collect();
        GraphStructure { name: graph.name.clone(), nodes, inputs: graph.inputs.clone(), outputs: graph.outputs.clone() }
    }
}

/// Writes the name of each variant once, for both directions.
macro_rules! names {
    ($ty:ident { $($variant:ident => $name:literal),* $(,)? }) => {
        impl $ty {
            /// All of them.
            pub const ALL: &[$ty] = &[$($ty::$variant),*];

            /// The name in the text form.
            pub const fn name(self) -> &'static str {
                match self { $($ty::$variant => $name),* }
            }

            /// The one of that name.
            pub fn named(name: &str) -> Option<$ty> {
                Self::ALL.iter().copied().find(|v| v.name() == name)
            }
        }
    };
}

names!(UnaryOp {
    Neg => "neg", Abs => "abs", Exp => "exp", Log => "log", Sqrt => "sqrt", Sin => "sin", Cos => "cos", Tanh => "tanh",
    Erf => "erf", Floor => "floor", Round => "round", Not => "not", Detach => "detach",
});
names!(BinaryOp {
    Add => "add", Sub => "sub", Mul => "mul", Div => "div", Rem => "rem", Pow => "pow", Max => "maximum", Min => "minimum",
    Eq => "eq", Ne => "ne", Lt => "lt", Le => "le", Gt => "gt", Ge => "ge", And => "and", Or => "or",
});
names!(Reduction { Sum => "sum", Max => "max", Min => "min" });
names!(Distribution { Uniform => "rand", Normal => "randn" });

fn int(n: i64) -> Attribute {
    Attribute::Dim(n.into())
}

fn axis(n: usize) -> Attribute {
    int(n as i64)
}

fn axes(list: &[usize]) -> Attribute {
    Attribute::List(list.iter().map(|a| *a as i64).collect())
}

fn float(x: f32) -> Attribute {
    Attribute::Float(x.to_bits())
}

/// What kind of thing an operation does. A pass that treats all of a kind alike matches this instead of naming each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// What has no operands.
    Given,
    /// A function of the elements at one place.
    Elementwise,
    /// The elements of its operands at other places; sums where places meet.
    Movement,
    /// Axes are summed up, or looked along.
    Reduction,
    /// A sum of products of two tensors.
    Product,
    /// Steps of time are looked at.
    Time,
    /// Made of labels.
    Label,
    /// A body over time.
    Recurrence,
}

impl Op {
    /// What kind of thing it does.
    pub fn class(&self) -> Class {
        match self {
            Op::Input { .. } | Op::Parameter { .. } | Op::Constant(_) | Op::Size(_) | Op::Iota { .. } | Op::Random { .. } => Class::Given,
            Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast { .. } | Op::Spike { .. } => Class::Elementwise,
            Op::Broadcast { .. } | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } | Op::Pad { .. } => Class::Movement,
            Op::Concat { .. } | Op::Gather { .. } | Op::ScatterAdd { .. } | Op::Window { .. } => Class::Movement,
            Op::MaxPoolGradient(_) | Op::Reduce { .. } | Op::ArgMax { .. } | Op::CumSum { .. } => Class::Reduction,
            Op::Contract(_) | Op::Conv(_) | Op::ConvInputGradient(_) | Op::ConvWeightGradient(_) => Class::Product,
            Op::Delay { .. } | Op::FirstSpike { .. } => Class::Time,
            Op::RedundantOneHot { .. } | Op::ThresholdMargin { .. } => Class::Label,
            Op::Scan(_) | Op::Loop(_) => Class::Recurrence,
        }
    }

    /// What attributes say of the type of the result: its elements, and its shape or the length along an axis. In the text form the
    /// type after the operation says them.
    pub(crate) fn declared(&self) -> (Option<DType>, Vec<Dim>) {
        match self {
            Op::Input { ty, .. } | Op::Parameter { ty, .. } => (Some(ty.dtype), ty.shape.clone()),
            Op::Cast { dtype } => (Some(*dtype), vec![]),
            Op::Iota { length } | Op::Slice { length, .. } => (None, vec![length.clone()]),
            Op::Random { shape, .. } | Op::Broadcast { shape, .. } | Op::Reshape { shape } => (None, shape.clone()),
            Op::ConvInputGradient(c) | Op::ConvWeightGradient(c) => (None, c.shape.clone()),
            Op::Constant(_) | Op::Size(_) | Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Spike { .. } => (None, vec![]),
            Op::Transpose { .. } | Op::Pad { .. } | Op::Concat { .. } | Op::Gather { .. } | Op::ScatterAdd { .. } => (None, vec![]),
            Op::Window { .. } | Op::MaxPoolGradient(_) | Op::Reduce { .. } | Op::ArgMax { .. } | Op::CumSum { .. } => (None, vec![]),
            Op::Contract(_) | Op::Conv(_) | Op::Delay { .. } | Op::FirstSpike { .. } | Op::RedundantOneHot { .. } => (None, vec![]),
            Op::ThresholdMargin { .. } | Op::Scan(_) | Op::Loop(_) => (None, vec![]),
        }
    }

    /// The name in the text form, and in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input { .. } => "input",
            Op::Parameter { .. } => "parameter",
            Op::Constant(_) => "const",
            Op::Size(_) => "size",
            Op::Iota { .. } => "arange",
            Op::Random { distribution, .. } => distribution.name(),
            Op::Unary(u) => u.name(),
            Op::Binary(b) => b.name(),
            Op::Select => "where",
            Op::Cast { .. } => "cast",
            Op::Spike { .. } => "spike",
            Op::Broadcast { .. } => "broadcast_to",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "permute",
            Op::Slice { .. } => "slice",
            Op::Pad { .. } => "pad",
            Op::Concat { .. } => "concat",
            Op::Gather { .. } => "take",
            Op::ScatterAdd { .. } => "scatter_add",
            Op::Window { .. } => "window",
            Op::MaxPoolGradient(_) => "max_pool_gradient",
            Op::Reduce { kind, .. } => kind.name(),
            Op::ArgMax { .. } => "argmax",
            Op::CumSum { .. } => "cumsum",
            Op::Contract(_) => "contract",
            Op::Conv(_) => "conv",
            Op::ConvInputGradient(_) => "conv_input_gradient",
            Op::ConvWeightGradient(_) => "conv_weight_gradient",
            Op::Delay { .. } => "delay",
            Op::FirstSpike { .. } => "first_spike_index",
            Op::RedundantOneHot { .. } => "redundant_one_hot",
            Op::ThresholdMargin { .. } => "set_threshold_margin",
            Op::Scan(_) => "scan",
            Op::Loop(_) => "loop",
        }
    }

    /// The attributes. How many operands of a scan or a loop are sequences, invariants and states is among them.
    pub fn attributes(&self) -> Attributes {
        match self {
            Op::Input { name, .. } | Op::Parameter { name, .. } => vec![("name", Attribute::Name(name.clone()))],
            Op::Constant(t) => vec![("value", Attribute::Elements(Elements::of(t)))],
            Op::Size(d) => vec![("of", Attribute::Dim(d.clone()))],
            Op::Iota { .. } | Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast { .. } | Op::Reshape { .. } => vec![],
            Op::Random { distribution: _, stream, .. } => vec![("stream", int(i64::from(*stream)))],
            Op::Spike { strict, surrogate: _ } => vec![("strict", Attribute::Bool(*strict))],
            Op::Broadcast { axes: list, .. } => vec![("axes", axes(list))],
            Op::Transpose { permutation } => vec![("order", axes(permutation))],
            Op::Slice { axis: along, start, step, .. } => {
                vec![("axis", axis(*along)), ("start", Attribute::Dim(start.clone())), ("step", int(*step))]
            }
            Op::Pad { axis: along, low, high, value } => vec![
                ("axis", axis(*along)),
                ("low", Attribute::Dim(low.clone())),
                ("high", Attribute::Dim(high.clone())),
                ("value", float(*value)),
            ],
            Op::Concat { axis: along }
            | Op::Gather { axis: along }
            | Op::ScatterAdd { axis: along }
            | Op::ArgMax { axis: along }
            | Op::CumSum { axis: along }
            | Op::FirstSpike { axis: along } => vec![("axis", axis(*along))],
            Op::Window { axis: along, size, stride, dilation } => {
                vec![("axis", axis(*along)), ("size", int(*size)), ("stride", int(*stride)), ("dilation", int(*dilation))]
            }
            Op::MaxPoolGradient(MaxPool { axes }) => {
                let each = |of: fn(&PoolAxis) -> i64| Attribute::List(axes.iter().map(of).collect());
                vec![
                    ("size", each(|a| a.size)),
                    ("stride", each(|a| a.stride)),
                    ("dilation", each(|a| a.dilation)),
                    ("padding", each(|a| a.padding)),
                ]
            }
            Op::Reduce { kind: _, axes: list } => vec![("axes", axes(list))],
            Op::Contract(c) => vec![
                ("lhs_batch", axes(&c.lhs_batch)),
                ("rhs_batch", axes(&c.rhs_batch)),
                ("lhs_sum", axes(&c.lhs_sum)),
                ("rhs_sum", axes(&c.rhs_sum)),
            ],
            Op::Conv(c) => convolution(c),
            Op::ConvInputGradient(c) | Op::ConvWeightGradient(c) => convolution(c),
            Op::Delay { steps } => vec![("steps", int(*steps))],
            Op::RedundantOneHot { classes, repeat } => vec![("classes", int(*classes)), ("repeat", int(*repeat))],
            Op::ThresholdMargin { off, on } => vec![("off", float(*off)), ("on", float(*on))],
            Op::Scan(s) => recurrence(s.roles.sequences, s.roles.invariants, s.roles.states, s.roles.outputs, s.reverse),
            Op::Loop(l) => {
                let mut all = recurrence(l.roles.sequences, l.roles.invariants, l.roles.states, l.roles.outputs, l.reverse);
                all.push(("steps", Attribute::Dim(l.steps.clone())));
                all
            }
        }
    }

    /// The operation of a name with attributes, the type of its (first) result and, for scans, loops and spikes, the graph inside.
    ///
    /// # Errors
    /// An unknown name, an attribute that is missing, unknown or of the wrong kind, a graph that is missing or too many.
    pub fn from_parts(name: &str, attributes: Vec<(String, Attribute)>, result: &Type, body: Option<Graph>) -> Result<Op, String> {
        let mut given = Given { name, attributes, body };
        let op = given.op()?.with_result(result);
        if let Some((unknown, _)) = given.attributes.first() {
            return Err(format!("`{name}` has no attribute `{unknown}`"));
        }
        if given.body.is_some() {
            return Err(format!("`{name}` has no graph inside"));
        }
        Ok(op)
    }

    /// What is equal for two operations that do the same.
    pub fn structure(&self) -> Structure {
        let bodies = self.bodies().into_iter().map(GraphStructure::of).collect();
        Structure { name: self.name(), attributes: self.attributes(), result: self.declared(), bodies }
    }
}

fn convolution(c: &Convolution) -> Attributes {
    vec![
        ("stride", Attribute::List(c.stride.clone())),
        ("padding", Attribute::List(c.padding.clone())),
        ("dilation", Attribute::List(c.dilation.clone())),
        ("groups", int(c.groups)),
    ]
}

fn recurrence(sequences: usize, invariants: usize, states: usize, outputs: usize, reverse: bool) -> Attributes {
    vec![
        ("sequences", axis(sequences)),
        ("invariants", axis(invariants)),
        ("states", axis(states)),
        ("outputs", axis(outputs)),
        ("reverse", Attribute::Bool(reverse)),
    ]
}

/// The parts of an operation that are not used yet.
struct Given<'a> {
    name: &'a str,
    attributes: Vec<(String, Attribute)>,
    body: Option<Graph>,
}

impl Given<'_> {
    fn op(&mut self) -> Result<Op, String> {
        if let Some(u) = UnaryOp::named(self.name) {
            return Ok(Op::Unary(u));
        }
        if let Some(b) = BinaryOp::named(self.name) {
            return Ok(Op::Binary(b));
        }
        if let Some(kind) = Reduction::named(self.name) {
            return Ok(Op::Reduce { kind, axes: self.axes("axes")? });
        }
        if let Some(distribution) = Distribution::named(self.name) {
            let stream = self.int("stream")?;
            let stream = u32::try_from(stream).map_err(|_| format!("`stream` is 0 to {}, not {stream}", u32::MAX))?;
            return Ok(Op::Random { distribution, stream, shape: vec![] });
        }
        Ok(match self.name {
            "input" => Op::Input { name: self.text("name")?, ty: Type::scalar(DType::F32) },
            "parameter" => Op::Parameter { name: self.text("name")?, ty: Type::scalar(DType::F32) },
            "const" => match self.take("value") {
                Some(Attribute::Elements(e)) => Op::Constant(e.tensor().ok_or("the elements do not fit the type of the constant")?),
                _ => return Err("a constant lacks its value".into()),
            },
            "size" => Op::Size(self.dim("of")?),
            "arange" => Op::Iota { length: Dim::default() },
            "where" => Op::Select,
            "cast" => Op::Cast { dtype: DType::F32 },
            "spike" => Op::Spike { strict: self.bool("strict")?, surrogate: Box::new(self.body()?) },
            "broadcast_to" => Op::Broadcast { axes: self.axes("axes")?, shape: vec![] },
            "reshape" => Op::Reshape { shape: vec![] },
            "permute" => Op::Transpose { permutation: self.axes("order")? },
            "slice" => Op::Slice { axis: self.axis("axis")?, start: self.dim("start")?, length: Dim::default(), step: self.int("step")? },
            "pad" => Op::Pad { axis: self.axis("axis")?, low: self.dim("low")?, high: self.dim("high")?, value: self.float("value")? },
            "concat" => Op::Concat { axis: self.axis("axis")? },
            "take" => Op::Gather { axis: self.axis("axis")? },
            "scatter_add" => Op::ScatterAdd { axis: self.axis("axis")? },
            "window" => Op::Window {
                axis: self.axis("axis")?,
                size: self.int("size")?,
                stride: self.int("stride")?,
                dilation: self.int("dilation")?,
            },
            "max_pool_gradient" => {
                let [size, stride, dilation, padding] = ["size", "stride", "dilation", "padding"].map(|name| self.list(name));
                let (size, stride, dilation, padding) = (size?, stride?, dilation?, padding?);
                if [&stride, &dilation, &padding].iter().any(|list| list.len() != size.len()) {
                    return Err("size, stride, dilation and padding of a pool have a number for each axis".into());
                }
                let of = |i: usize| PoolAxis { size: size[i], stride: stride[i], dilation: dilation[i], padding: padding[i] };
                Op::MaxPoolGradient(MaxPool { axes: (0..size.len()).map(of).collect() })
            }
            "argmax" => Op::ArgMax { axis: self.axis("axis")? },
            "cumsum" => Op::CumSum { axis: self.axis("axis")? },
            "contract" => Op::Contract(Contraction {
                lhs_batch: self.axes("lhs_batch")?,
                rhs_batch: self.axes("rhs_batch")?,
                lhs_sum: self.axes("lhs_sum")?,
                rhs_sum: self.axes("rhs_sum")?,
            }),
            "conv" => Op::Conv(self.convolution()?),
            "conv_input_gradient" => Op::ConvInputGradient(ConvGradient { convolution: self.convolution()?, shape: vec![] }),
            "conv_weight_gradient" => Op::ConvWeightGradient(ConvGradient { convolution: self.convolution()?, shape: vec![] }),
            "delay" => Op::Delay { steps: self.int("steps")? },
            "first_spike_index" => Op::FirstSpike { axis: self.axis("axis")? },
            "redundant_one_hot" => Op::RedundantOneHot { classes: self.int("classes")?, repeat: self.int("repeat")? },
            "set_threshold_margin" => Op::ThresholdMargin { off: self.float("off")?, on: self.float("on")? },
            "scan" => Op::Scan(std::sync::Arc::new(Scan { roles: self.roles()?, reverse: self.bool("reverse")?, body: self.body()? })),
            "loop" => Op::Loop(Box::new(Loop {
                roles: self.roles()?,
                reverse: self.bool("reverse")?,
                steps: self.dim("steps")?,
                body: self.body()?,
            })),
            other => return Err(format!("there is no operation `{other}`")),
        })
    }

    fn roles(&mut self) -> Result<Roles, String> {
        Ok(Roles {
            sequences: self.axis("sequences")?,
            invariants: self.axis("invariants")?,
            states: self.axis("states")?,
            outputs: self.axis("outputs")?,
        })
    }

    fn convolution(&mut self) -> Result<Convolution, String> {
        Ok(Convolution {
            stride: self.list("stride")?,
            padding: self.list("padding")?,
            dilation: self.list("dilation")?,
            groups: self.int("groups")?,
        })
    }

    fn take(&mut self, name: &str) -> Option<Attribute> {
        let at = self.attributes.iter().position(|(n, _)| n == name)?;
        Some(self.attributes.remove(at).1)
    }

    /// The attribute is there and of another kind, or is not there.
    fn wrong<T>(&self, name: &str, kind: &str, found: bool) -> Result<T, String> {
        Err(if found {
            format!("the attribute `{name}` of `{}` is {kind}", self.name)
        } else {
            format!("`{}` lacks the attribute `{name}`", self.name)
        })
    }

    fn bool(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name) {
            None => Ok(false),
            Some(Attribute::Bool(b)) => Ok(b),
            other => self.wrong(name, "true or false", other.is_some()),
        }
    }

    fn float(&mut self, name: &str) -> Result<f32, String> {
        match self.take(name) {
            Some(Attribute::Float(bits)) => Ok(f32::from_bits(bits)),
            other => self.wrong(name, "a number with a point", other.is_some()),
        }
    }

    fn dim(&mut self, name: &str) -> Result<Dim, String> {
        match self.take(name) {
            Some(Attribute::Dim(d)) => Ok(d),
            other => self.wrong(name, "an integer or a dimension", other.is_some()),
        }
    }

    fn int(&mut self, name: &str) -> Result<i64, String> {
        match self.dim(name)?.as_constant() {
            Some(n) => Ok(n),
            None => self.wrong(name, "an integer", true),
        }
    }

    fn axis(&mut self, name: &str) -> Result<usize, String> {
        let n = self.int(name)?;
        usize::try_from(n).map_err(|_| format!("the attribute `{name}` of `{}` is not negative", self.name))
    }

    fn list(&mut self, name: &str) -> Result<Vec<i64>, String> {
        match self.take(name) {
            None => Ok(vec![]),
            Some(Attribute::List(list)) => Ok(list),
            other => self.wrong(name, "a list of integers", other.is_some()),
        }
    }

    fn axes(&mut self, name: &str) -> Result<Vec<usize>, String> {
        let list = self.list(name)?;
        let fits = list.into_iter().map(|n| usize::try_from(n).ok()).collect::<Option<_>>();
        fits.ok_or_else(|| format!("the attribute `{name}` of `{}` holds no negative numbers", self.name))
    }

    fn text(&mut self, name: &str) -> Result<String, String> {
        match self.take(name) {
            Some(Attribute::Name(text)) => Ok(text),
            other => self.wrong(name, "a name", other.is_some()),
        }
    }

    fn body(&mut self) -> Result<Graph, String> {
        self.body.take().ok_or_else(|| format!("`{}` lacks its graph", self.name))
    }
}

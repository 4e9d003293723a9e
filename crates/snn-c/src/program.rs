//! A net as a file of C.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use snn_ir::interpret::{Randomness, evaluate};
use snn_ir::{DType, Data, Graph, Node, Op, Tensor, Type, Value};
use snn_plan::step::Initial;
use snn_plan::{Kernel, LoopPlan, Plan, Task, operations, plan};

use crate::kernels::{C_HEAD, COMMON, Dialect, Fixed, c_type, contiguous, function, integer_type, literal, name as kernel_name};
use crate::memory::Memory;
use crate::{CError, operations as ops};

/// What is written.
pub struct Request<'a> {
    /// The stem of the files and of all names.
    pub name: &'a str,
    /// What it is made from, for the first line.
    pub origin: &'a str,
    /// One step of the net, where it can be computed step by step.
    pub step: Option<Step<'a>>,
    /// The whole net, where it is not run by steps.
    pub whole: Option<&'a Graph>,
    /// The seed of random numbers.
    pub seed: u64,
    /// Weights that are integers of up to so many bits (8 or 16) times a power of two for each output are stored as integers.
    pub integers: Option<u32>,
    /// The fixed point that neurons keep their states in: they are stored as integers.
    pub states: Option<Fixed>,
    /// Parameters and constants by name.
    pub tensors: &'a HashMap<String, Tensor>,
}

/// A net step by step.
pub struct Step<'a> {
    /// One step, as [`snn_ir::step`] makes it.
    pub graph: &'a Graph,
    /// The state before the first step, by name.
    pub first: &'a [(String, Tensor)],
    /// How many steps a sequence has, where the whole is to be run too.
    pub steps: Option<usize>,
    /// Random numbers of a step, which are drawn in it.
    pub random: &'a [snn_ir::step::RandomInput],
    /// The inputs of the net that have time.
    pub sequences: Vec<String>,
    /// Which outputs have time.
    pub each: Vec<bool>,
}

/// An argument of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name in C.
    pub name: String,
    /// Its elements.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The arguments of a function, in order: first what it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// What it reads.
    pub inputs: Vec<Argument>,
    /// What it writes.
    pub outputs: Vec<Argument>,
}

/// What a part of the net takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is.
    pub what: String,
    /// Bytes of its weights.
    pub weights: usize,
    /// Bytes of what it gives.
    pub gives: usize,
    /// Operations.
    pub operations: usize,
}

/// The files.
#[derive(Clone, Debug)]
pub struct Source {
    /// `NAME.h`.
    pub header: String,
    /// `NAME.c`.
    pub source: String,
    /// The types and functions of `NAME.c` alone, in the part of C that an object file is made from.
    pub code: String,
    /// The constant arrays of `NAME.c`.
    pub arrays: Vec<Array>,
    /// The stem of all names.
    pub name: String,
    /// What `NAME_step` takes behind the state, where there is such a function.
    pub step: Option<Arguments>,
    /// What each part takes, in order.
    pub rows: Vec<Row>,
    /// Bytes of constants: they can stay in flash.
    pub constants: usize,
    /// Bytes of the state with its buffers, or of the buffers of a net that is run as a whole.
    pub memory: usize,
}

/// Writes a net.
///
/// # Errors
/// Operations that C does not have here.
pub fn write(r: &Request<'_>) -> Result<Source, CError> {
    let name = r.name;
    let mut w = Writer {
        tensors: r.tensors,
        seed: r.seed,
        integers: r.integers,
        states: r.states,
        fixed: HashMap::new(),
        constants: BTreeMap::new(),
        arrays: vec![],
        functions: String::new(),
        rows: vec![],
    };
    let (mut declared, mut defined) = (String::new(), String::new());
    let mut memory = 0;
    let (mut state, mut arguments) = (String::new(), None);
    if let Some(step) = &r.step {
        let own = w.step(name, step)?;
        memory = own.bytes;
        state = format!("typedef struct {{\n{}}} {name}_state;\n", own.fields);
        declared.push_str(&own.declared);
        defined.push_str(&own.defined);
        arguments = Some(own.arguments);
    }
    if let Some(graph) = r.whole {
        let (declaration, definition, bytes) = w.whole(name, graph)?;
        memory += bytes;
        declared.push_str(&declaration);
        defined.push_str(&definition);
    }
    // What optimising has made superfluous.
    let body = format!("{}{defined}", w.functions);
    let words: std::collections::HashSet<&str> = body.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    w.arrays.retain(|a| words.contains(&a.name[..]));
    let constants = w.arrays.iter().map(|a| a.element_bytes() * a.tensor.len()).sum();
    let guard = format!("{}_H", name.to_uppercase());
    let mut header = format!(
        "/* Made by snnc from {}. {constants} bytes of constants, {memory} bytes of memory. */\n#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n",
        r.origin
    );
    if r.step.is_some() {
        let _ = write!(header, "\n/* Everything that a step needs of those before, and its buffers: {memory} bytes. */\n{state}");
    }
    let _ = write!(header, "{declared}\n#ifdef __cplusplus\n}}\n#endif\n\n#endif\n");
    let helpers = format!("{COMMON}{}", ops::HELPERS);
    let mut source = format!(
        "/* Made by snnc from {}. C99; compile without contraction of products and sums (`-std=c99` of gcc and clang, else `-ffp-contract=off`). */\n#include \"{name}.h\"\n\n#include <math.h>\n#include <stdbool.h>\n#include <stdint.h>\n#include <string.h>\n\n{C_HEAD}{helpers}",
        r.origin
    );
    for array in &w.arrays {
        array_text(&mut source, array);
    }
    source.push_str(&body);
    let code = format!("{helpers}{state}{body}");
    let (name, arrays) = (name.to_string(), w.arrays);
    Ok(Source { header, source, code, arrays, name, step: arguments, rows: w.rows, constants, memory })
}

/// A constant array.
fn array_text(text: &mut String, array: &Array) {
    let (name, what, t) = (&array.name, &array.what, &array.tensor);
    let ty = array.element_type();
    let _ = write!(text, "\n/* {what} {:?} */\nstatic const {ty} {name}[{}] = {{", t.shape(), t.len().max(1));
    let mut put = |i: usize, x: String| {
        text.push_str(if i.is_multiple_of(12) { "\n  " } else { " " });
        text.push_str(&x);
        text.push(',');
    };
    match t.data() {
        Data::F32(v) => v.iter().enumerate().for_each(|(i, x)| {
            put(
                i,
                match x {
                    x if x.is_nan() => "NAN".into(),
                    x if x.is_infinite() => (if *x > 0.0 { "INFINITY" } else { "-INFINITY" }).into(),
                    x => literal(*x),
                },
            );
        }),
        Data::I64(v) => v.iter().enumerate().for_each(|(i, x)| put(i, integer(*x))),
        Data::Bool(v) | Data::U8(v) => v.iter().enumerate().for_each(|(i, x)| put(i, x.to_string())),
    }
    if t.is_empty() {
        text.push_str(" 0");
    }
    text.push_str("\n};\n");
}

/// An integer of 64 bits in C.
pub fn integer(x: i64) -> String {
    match i32::try_from(x) {
        Ok(i32::MIN) => "(-2147483647 - 1)".into(),
        Ok(x) => x.to_string(),
        Err(_) if x == i64::MIN => "INT64_MIN".into(),
        Err(_) => format!("INT64_C({x})"),
    }
}

/// A name that C takes.
fn clean(name: &str) -> String {
    let text: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if text.starts_with(|c: char| c.is_ascii_digit()) { format!("n{text}") } else { text }
}

/// Names of arguments, distinct and none of C's or ours.
pub fn argument_names(names: impl IntoIterator<Item = String>) -> Vec<String> {
    const TAKEN: &[&str] = &[
        "s", "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float", "for",
        "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed", "sizeof", "static", "struct", "switch",
        "typedef", "union", "unsigned", "void", "volatile", "while", "bool", "true", "false", "wide", "whole", "largest", "smallest",
    ];
    let mut own: Vec<String> = vec![];
    for name in names {
        let base = clean(&name);
        let mut text = if TAKEN.contains(&&base[..]) { format!("{base}_") } else { base };
        while own.contains(&text) {
            text.push('_');
        }
        own.push(text);
    }
    own
}

fn sizes(ty: &Type) -> Result<Vec<usize>, CError> {
    Ok(ty.sizes().map_err(snn_ir::RuntimeError::from)?)
}

fn count(ty: &Type) -> Result<usize, CError> {
    Ok(sizes(ty)?.iter().product())
}

/// A constant that is read as weights only, in the form that they are read in.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The array.
    pub array: String,
    /// The array of scales, one for each output, where the weights are stored as integers.
    pub scales: Option<String>,
    /// Whether a matrix `[outputs, inputs]` lies as `[inputs, outputs]`: a product adds the weights of one input after the other.
    pub transposed: bool,
}

/// A constant array.
#[derive(Clone, Debug)]
pub struct Array {
    /// Its name in C.
    pub name: String,
    /// What it is in the net.
    pub what: String,
    /// Its elements.
    pub tensor: Tensor,
    /// The type of its elements in C, where that is not the tensor's, and their bytes.
    narrow: Option<(&'static str, usize)>,
}

impl Array {
    /// The type of its elements in C.
    pub fn element_type(&self) -> &'static str {
        self.narrow.map_or(c_type(self.tensor.dtype()), |(ty, _)| ty)
    }

    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        self.narrow.map_or(self.tensor.dtype().bytes(), |(_, bytes)| bytes)
    }

    /// Its elements as little-endian bytes.
    pub fn contents(&self) -> Vec<u8> {
        let width = self.element_bytes();
        match self.tensor.data() {
            Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            // Integers of fewer bytes keep their lowest.
            Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes().into_iter().take(width)).collect(),
            Data::Bool(v) | Data::U8(v) => v.to_vec(),
        }
    }
}

struct Writer<'a> {
    tensors: &'a HashMap<String, Tensor>,
    seed: u64,
    integers: Option<u32>,
    states: Option<Fixed>,
    /// The next states of a step that are stored as integers.
    fixed: HashMap<Value, Fixed>,
    /// Arrays by what they hold: type, shape and bits, so that equal constants are one.
    constants: BTreeMap<Vec<u8>, String>,
    arrays: Vec<Array>,
    functions: String,
    rows: Vec<Row>,
}

/// A declaration and a definition.
type Written = (String, String);

/// A net step by step, as text.
struct StepText {
    declared: String,
    defined: String,
    /// Of the structure of the state, with the buffers.
    fields: String,
    bytes: usize,
    arguments: Arguments,
}

impl Writer<'_> {
    /// The array of a constant.
    fn array(&mut self, what: &str, t: &Tensor) -> String {
        let mut key = format!("{} {:?}", t.dtype(), t.shape()).into_bytes();
        match t.data() {
            Data::F32(v) => v.iter().for_each(|x| key.extend(x.to_bits().to_le_bytes())),
            Data::I64(v) => v.iter().for_each(|x| key.extend(x.to_le_bytes())),
            Data::Bool(v) | Data::U8(v) => key.extend(v.iter()),
        }
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let mut name = format!("constant_{}", clean(what));
        while self.arrays.iter().any(|a| a.name == name) {
            name = format!("{name}_");
        }
        self.constants.insert(key, name.clone());
        self.arrays.push(Array { name: name.clone(), what: what.to_string(), tensor: t.clone(), narrow: None });
        name
    }

    /// The arrays of a constant `[outputs, ...]` that is read as weights only.
    fn weights(&mut self, what: &str, t: &Tensor, transposed: bool) -> Result<Weights, CError> {
        let what = if transposed { format!("{what} transposed") } else { what.to_string() };
        let stored = |t: &Tensor| if transposed { transpose(t) } else { Ok(t.clone()) };
        if let Some((integers, scales, narrow)) = self.integer_weights(t) {
            let array = self.array(&format!("{what} integers"), &stored(&integers)?);
            if let Some(a) = self.arrays.iter_mut().find(|a| a.name == array) {
                a.narrow = Some(narrow);
            }
            let scales = Some(self.array(&format!("{what} scales"), &scales));
            return Ok(Weights { array, scales, transposed });
        }
        Ok(Weights { array: self.array(&what, &stored(t)?), scales: None, transposed })
    }

    /// Weights as integers times a power of two for each output, and the type that holds the integers.
    fn integer_weights(&self, t: &Tensor) -> Option<(Tensor, Tensor, (&'static str, usize))> {
        let bits = self.integers?;
        let largest = f64::from((1u32 << (bits - 1)) - 1);
        let channels = t.shape().first().copied().filter(|n| *n > 0 && t.dtype() == DType::F32 && t.shape().len() >= 2)?;
        let (mut integers, mut scales) = (Vec::with_capacity(t.len()), vec![]);
        for row in t.as_f32().chunks(t.len() / channels) {
            let most = row.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
            let scale = if most == 0.0 { 1.0 } else { (most / largest).log2().ceil().exp2() };
            for x in row {
                let q = f64::from(*x) / scale;
                if q.fract() != 0.0 || q.abs() > largest {
                    return None;
                }
                integers.push(q as i64);
            }
            scales.push(scale as f32);
        }
        Some((Tensor::i64(t.shape().to_vec(), integers), Tensor::f32([channels], scales), integer_type(bits)?))
    }

    /// Parameters and what follows from them alone as constants.
    fn folded(&self, graph: &Graph) -> Result<Graph, CError> {
        let mut failed = None;
        let mut graph = graph.clone();
        let known: Vec<Value> = graph.inputs.iter().copied().filter(|v| self.tensors.contains_key(graph.input_name(*v))).collect();
        graph.inputs.retain(|v| !known.contains(v));
        let folded = graph.rebuild(|new, _, mut node| {
            if let Op::Parameter { name, .. } | Op::Input { name, .. } = &node.op
                && let Some(t) = self.tensors.get(name)
            {
                node.name = Some(name.clone());
                node.op = Op::Constant(t.clone());
            }
            // A repeated constant stays one, and is written out for what is computed from it, where that is not much larger.
            let mut held = 0;
            let mut known = |v: &Value| match new.op(*v) {
                Op::Constant(t) => {
                    held += t.len();
                    Some(t.clone())
                }
                Op::Broadcast { .. } => {
                    let from = new.node(new.node(v.node).operands[0].node);
                    let Op::Constant(t) = &from.op else { return None };
                    held += t.len();
                    evaluate(new.op(*v), &[t], &new.node(v.node).types, &mut Randomness::Counter { seed: 0 }).ok()?.pop()
                }
                _ => None,
            };
            let is_free = matches!(node.op, Op::Broadcast { .. } | Op::Constant(_) | Op::Input { .. } | Op::Random { .. });
            let operands: Option<Vec<Tensor>> = if is_free { None } else { node.operands.iter().map(&mut known).collect() };
            let size: usize = node.types.iter().map(|t| count(t).unwrap_or(usize::MAX)).fold(0, usize::saturating_add);
            let folds = size <= 4 * held.max(16);
            if let (true, Some(operands)) = (folds, operands) {
                let refs: Vec<&Tensor> = operands.iter().collect();
                match evaluate(&node.op, &refs, &node.types, &mut Randomness::Counter { seed: 0 }) {
                    Ok(values) => {
                        let name = node.operands.iter().find_map(|v| new.node(v.node).name.clone()).or_else(|| node.name.clone());
                        return values
                            .into_iter()
                            .zip(&node.types)
                            .map(|(t, ty)| {
                                let op = Op::Constant(t);
                                let id =
                                    new.push(Node { op, operands: vec![], types: vec![ty.clone()], name: name.clone(), span: node.span });
                                Value { node: id, result: 0 }
                            })
                            .collect();
                    }
                    Err(e) => {
                        failed.get_or_insert(e);
                    }
                }
            }
            let id = new.push(node);
            new.results(id).collect()
        });
        match failed {
            Some(e) => Err(e.into()),
            None => Ok(folded.pruned()),
        }
    }

    fn step(&mut self, name: &str, step: &Step<'_>) -> Result<StepText, CError> {
        let graph = self.folded(step.graph)?;
        let outputs = step.each.len();
        let is_state = |n: &str| n.strip_prefix("state.").filter(|s| step.first.iter().any(|(k, _)| k == s)).map(str::to_string);
        let plan = plan(&graph)?;
        let mut fields = String::new();
        let field_names = argument_names(step.first.iter().map(|(n, _)| format!("state_{n}")));
        let mut init = String::new();
        let mut bytes = 0;
        let mut in_place = vec![];
        for (i, ((state, t), field)) in step.first.iter().zip(&field_names).enumerate() {
            let next = graph.outputs[outputs + i].1;
            let input = graph.inputs.iter().copied().find(|v| is_state(graph.input_name(*v)).as_deref() == Some(state));
            let own = input.filter(|v| updates_in_place(&graph, &plan, *v, next));
            in_place.push(own.is_some());
            let fixed = self.states.filter(|f| own.is_some() && !is_read(&graph, &plan, next) && holds(*f, t));
            let element = fixed.and_then(Fixed::element);
            let (ty, size) = element.unwrap_or((header_type(t.dtype()), t.dtype().bytes()));
            let _ = write!(fields, "  {ty} {field}[{}]; /* {state} {:?}", t.len().max(1), t.shape());
            if let (Some(f), Some(_)) = (fixed, element) {
                self.fixed.insert(next, f);
                let _ = write!(fields, ", times {}", f.step);
                let integers = Tensor::i64(t.shape(), t.as_f32().iter().map(|x| (x / f.step) as i64).collect());
                init.push_str(&self.initial(field, state, &integers));
            } else {
                init.push_str(&self.initial(field, state, t));
            }
            fields.push_str(" */\n");
            bytes += t.len() * size;
        }
        let mut pointers = HashMap::new();
        let mut arguments = vec![];
        let drawn = |n: &str| step.random.iter().find(|r| r.name == n);
        let is_given = |v: &Value| is_state(graph.input_name(*v)).is_none() && drawn(graph.input_name(*v)).is_none();
        let given: Vec<Value> = graph.inputs.iter().copied().filter(is_given).collect();
        let given_names = argument_names(
            given.iter().map(|v| graph.input_name(*v).to_string()).chain(graph.outputs[..outputs].iter().map(|(n, _)| n.clone())),
        );
        for (v, own) in given.iter().zip(&given_names) {
            let ty = graph.ty(*v);
            arguments.push((false, Argument { name: own.clone(), dtype: ty.dtype, shape: sizes(ty)? }));
            pointers.insert(*v, own.clone());
        }
        for v in &graph.inputs {
            if let Some(state) = is_state(graph.input_name(*v))
                && let Some(i) = step.first.iter().position(|(n, _)| *n == state)
            {
                pointers.insert(*v, format!("s->{}", field_names[i]));
            }
        }
        let mut targets: Vec<(Value, String)> = vec![];
        for ((_, v), own) in graph.outputs[..outputs].iter().zip(&given_names[given.len()..]) {
            let ty = graph.ty(*v);
            arguments.push((true, Argument { name: own.clone(), dtype: ty.dtype, shape: sizes(ty)? }));
            targets.push((*v, own.clone()));
        }
        // Other next states are written beside the old ones, which are read until the end of the step.
        let mut moves = vec![];
        for (((_, v), field), in_place) in graph.outputs[outputs..].iter().zip(&field_names).zip(in_place) {
            if in_place { &mut targets } else { &mut moves }.push((*v, format!("s->{field}")));
        }
        let mut body = Body::new(self.seed);
        let mut memory = Memory::default();
        for v in &graph.inputs {
            let Some(r) = drawn(graph.input_name(*v)) else { continue };
            if r.distribution != snn_ir::Distribution::Uniform {
                let why = "normal random numbers are drawn at each step; `rand` can be written".into();
                return Err(CError::Operation { what: "randn".into(), span: None, why });
            }
            let n = count(&r.ty)?;
            let place = format!("(s->{} + {})", Memory::name(DType::F32), memory.allocate(DType::F32, n.max(1)));
            body.line(&format!("uniform({place}, s->steps * {n}u, {n}, UINT64_C({}), {}u);", self.seed, r.stream));
            pointers.insert(*v, place);
        }
        self.body(&graph, &plan, pointers, &targets, &moves, &mut memory, &mut body)?;
        self.fixed.clear();
        if !step.random.is_empty() {
            fields.push_str("  uint64_t steps; /* how many were taken, for random numbers */\n");
            init.push_str("  s->steps = 0;\n");
            body.line("s->steps += 1;");
            bytes += 8;
        }
        let arrays = memory.arrays();
        for (array, dtype, n) in &arrays {
            let _ = writeln!(fields, "  {} {array}[{n}]; /* buffers of a step */", header_type(*dtype));
        }
        bytes += memory.bytes();
        if fields.is_empty() {
            fields.push_str("  uint8_t nothing; /* the net has no state */\n");
            bytes += 1;
        }
        let used = body.text.contains("s->");
        let unused: String =
            arguments.iter().filter(|(_, a)| !mentions(&body.text, &a.name)).map(|(_, a)| format!("  (void){};\n", a.name)).collect();
        let quiet = if used { "" } else { "  (void)s;\n" };
        let list = parameter_list(&arguments);
        let about = describe(&arguments);
        let step_written = (
            format!("\n/* One step.\n{about} */\nvoid {name}_step({name}_state *s{}{list});\n", if list.is_empty() { "" } else { ", " }),
            format!(
                "\nvoid {name}_step({name}_state *s{}{list}) {{\n{quiet}{unused}{}}}\n",
                if list.is_empty() { "" } else { ", " },
                body.text
            ),
        );
        let quiet = if init.is_empty() { "  (void)s;\n" } else { "" };
        let init_written = (
            format!("\n/* The state before the first step. */\nvoid {name}_init({name}_state *s);\n"),
            format!("\nvoid {name}_init({name}_state *s) {{\n{quiet}{init}}}\n"),
        );
        let run = step.steps.map(|steps| self.run_by_steps(name, steps, step, &arguments)).unwrap_or_default();
        let (outputs, inputs): (Vec<_>, Vec<_>) = arguments.into_iter().partition(|(written, _)| *written);
        let plain = |list: Vec<(bool, Argument)>| list.into_iter().map(|(_, a)| a).collect();
        Ok(StepText {
            declared: init_written.0 + &step_written.0 + &run.0,
            defined: init_written.1 + &step_written.1 + &run.1,
            fields,
            bytes,
            arguments: Arguments { inputs: plain(inputs), outputs: plain(outputs) },
        })
    }

    /// The whole sequence, step by step.
    fn run_by_steps(&self, name: &str, steps: usize, step: &Step<'_>, arguments: &[(bool, Argument)]) -> Written {
        let mut whole = arguments.to_vec();
        let mut calls = vec![];
        let mut output = 0;
        let inputs: Vec<String> = argument_names(step.sequences.iter().cloned());
        for (written, a) in &mut whole {
            let has_time = if *written {
                output += 1;
                step.each[output - 1]
            } else {
                inputs.contains(&a.name)
            };
            let n: usize = a.shape.iter().product();
            calls.push(if has_time { format!("{} + (size_t)t * {n}", a.name) } else { a.name.clone() });
            if has_time && !a.shape.is_empty() {
                a.shape[0] = steps;
            }
        }
        let list = parameter_list(&whole);
        let about = describe(&whole);
        (
            format!("\n/* The whole sequence of {steps} steps, from the beginning.\n{about} */\nvoid {name}_run({list});\n"),
            format!(
                "\nvoid {name}_run({list}) {{\n  static {name}_state state;\n  {name}_init(&state);\n  for (int t = 0; t < {steps}; ++t) {{\n    {name}_step(&state, {});\n  }}\n}}\n",
                calls.join(", ")
            ),
        )
    }

    /// The first value of a state.
    fn initial(&mut self, field: &str, state: &str, t: &Tensor) -> String {
        let n = t.len();
        let element = match t.data() {
            Data::F32(v) => {
                v.first().map(|x| (v.iter().all(|y| y.to_bits() == x.to_bits()), if x.is_finite() { literal(*x) } else { float_text(*x) }))
            }
            Data::I64(v) => v.first().map(|x| (v.iter().all(|y| y == x), integer(*x))),
            Data::Bool(v) | Data::U8(v) => v.first().map(|x| (v.iter().all(|y| y == x), x.to_string())),
        };
        match element {
            None => String::new(),
            Some((true, x)) => format!("  for (int i = 0; i < {n}; ++i) s->{field}[i] = {x};\n"),
            Some((false, _)) => {
                let array = self.array(&format!("first {state}"), t);
                format!("  memcpy(s->{field}, {array}, sizeof {array});\n")
            }
        }
    }

    fn whole(&mut self, name: &str, graph: &Graph) -> Result<(String, String, usize), CError> {
        let graph = self.folded(graph)?;
        let names = argument_names(
            graph.inputs.iter().map(|v| graph.input_name(*v).to_string()).chain(graph.outputs.iter().map(|(n, _)| n.clone())),
        );
        let mut arguments = vec![];
        let mut pointers = HashMap::new();
        for (v, own) in graph.inputs.iter().zip(&names) {
            let ty = graph.ty(*v);
            arguments.push((false, Argument { name: own.clone(), dtype: ty.dtype, shape: sizes(ty)? }));
            pointers.insert(*v, own.clone());
        }
        let mut targets = vec![];
        for ((_, v), own) in graph.outputs.iter().zip(&names[graph.inputs.len()..]) {
            let ty = graph.ty(*v);
            arguments.push((true, Argument { name: own.clone(), dtype: ty.dtype, shape: sizes(ty)? }));
            targets.push((*v, own.clone()));
        }
        let mut body = Body::new(self.seed);
        let mut memory = Memory::default();
        self.body(&graph, &plan(&graph)?, pointers, &targets, &[], &mut memory, &mut body)?;
        let mut fields = String::new();
        for (array, dtype, n) in memory.arrays() {
            let _ = writeln!(fields, "  {} {array}[{n}];", header_type(dtype));
        }
        let (mut buffers, mut own) = (String::new(), String::new());
        if !fields.is_empty() {
            buffers = format!("\ntypedef struct {{\n{fields}}} {name}_buffers;\n");
            own = format!("  static {name}_buffers buffers;\n  static {name}_buffers *const s = &buffers;\n");
        }
        let unused: String =
            arguments.iter().filter(|(_, a)| !mentions(&body.text, &a.name)).map(|(_, a)| format!("  (void){};\n", a.name)).collect();
        let list = parameter_list(&arguments);
        let about = describe(&arguments);
        Ok((
            format!("\n/* The whole net.\n{about} */\nvoid {name}_run({list});\n"),
            format!("{buffers}\nvoid {name}_run({list}) {{\n{own}{unused}{}}}\n", body.text),
            memory.bytes(),
        ))
    }

    /// The kernels of a graph in order. `targets` are places that outputs are written to, `moves` places that values are copied to at the end.
    #[allow(clippy::too_many_arguments)]
    fn body(
        &mut self,
        graph: &Graph,
        plan: &Plan,
        mut pointers: HashMap<Value, String>,
        targets: &[(Value, String)],
        moves: &[(Value, String)],
        memory: &mut Memory,
        body: &mut Body,
    ) -> Result<(), CError> {
        // Where each value is, what owns its memory, and how many names that has.
        let mut held: HashMap<Value, (DType, usize, usize)> = HashMap::new();
        let mut owner: HashMap<Value, Value> = HashMap::new();
        let mut names: HashMap<Value, usize> = HashMap::new();
        let mut weights: HashMap<Value, Weights> = HashMap::new();
        for (id, node) in graph.nodes() {
            if let Op::Constant(t) = &node.op {
                let v = Value { node: id, result: 0 };
                let what = node.name.clone().unwrap_or_else(|| format!("c{}", id.0));
                if let Some(kind) = weighs_only(graph, plan, v) {
                    let own = self.weights(&what, t, kind == WeighsIn::Products && t.shape().len() == 2)?;
                    pointers.insert(v, own.array.clone());
                    weights.insert(v, own);
                    continue;
                }
                let is_root = targets.iter().chain(moves).any(|(o, _)| *o == v);
                if is_root || is_read(graph, plan, v) {
                    let array = self.array(&what, t);
                    pointers.insert(v, array);
                }
            }
        }
        let mut written: Vec<Value> = vec![];
        for task in &plan.tasks {
            let node = graph.node(task.node);
            let what = snn_plan::describe_task(graph, task);
            let mut gives = 0;
            if let Kernel::Alias = task.kernel {
                let (v, of) = (task.gives[0], node.operands[0]);
                let Some(p) = pointers.get(&of).cloned() else { return Err(lost(node)) };
                pointers.insert(v, p);
                let o = owner.get(&of).copied().unwrap_or(of);
                owner.insert(v, o);
                *names.entry(o).or_insert(1) += 1;
            } else {
                for v in &task.gives {
                    let ty = graph.ty(*v);
                    let n = count(ty)?.max(1);
                    gives += n * ty.dtype.bytes();
                    let target = targets.iter().find(|(t, _)| t == v);
                    let place = match target {
                        Some((_, place)) => {
                            written.push(*v);
                            place.clone()
                        }
                        None => {
                            let start = memory.allocate(ty.dtype, n);
                            held.insert(*v, (ty.dtype, start, n));
                            format!("(s->{} + {start})", Memory::name(ty.dtype))
                        }
                    };
                    pointers.insert(*v, place);
                }
                body.comment(&what);
                self.task(graph, task, &pointers, &weights, memory, body)?;
            }
            // As they are stored.
            let stored = |v: &Value| match (graph.op(*v), weights.get(v)) {
                (Op::Constant(t), None) => t.byte_len(),
                (Op::Constant(_), Some(w)) => {
                    let own = |a: &&Array| a.name == w.array || Some(&a.name) == w.scales.as_ref();
                    self.arrays.iter().filter(own).map(|a| a.element_bytes() * a.tensor.len()).sum()
                }
                _ => 0,
            };
            let row_weights = task.needs.iter().map(stored).sum();
            self.rows.push(Row { what, weights: row_weights, gives, operations: operations(graph, task) });
            for v in &task.frees {
                let o = owner.get(v).copied().unwrap_or(*v);
                let left = names.entry(o).or_insert(1);
                *left = left.saturating_sub(1);
                if *left == 0
                    && let Some((dtype, start, n)) = held.remove(&o)
                {
                    memory.release(dtype, start, n);
                }
            }
        }
        let mut copied = std::collections::HashSet::new();
        for (v, place) in targets {
            // The first place of a value that a kernel gave was written by it.
            if written.contains(v) && copied.insert(*v) {
                continue;
            }
            let Some(p) = pointers.get(v) else { return Err(lost(graph.node(v.node))) };
            let ty = graph.ty(*v);
            body.line(&format!("memcpy({place}, {p}, {} * sizeof({}));", count(ty)?, c_type(ty.dtype)));
        }
        // A next state that is another state's old value is read before that is overwritten.
        let (from_states, others): (Vec<_>, Vec<_>) =
            moves.iter().partition(|(v, _)| pointers.get(v).is_some_and(|p| p.starts_with("s->state_")));
        let mut temporary = vec![];
        for (v, place) in &from_states {
            let p = &pointers[v];
            if p == place {
                continue;
            }
            let ty = graph.ty(*v);
            let n = count(ty)?;
            let start = memory.allocate(ty.dtype, n);
            temporary.push((ty.dtype, start, n));
            body.line(&format!("memcpy(s->{} + {start}, {p}, {n} * sizeof({}));", Memory::name(ty.dtype), c_type(ty.dtype)));
        }
        let mut kept = temporary.iter();
        for (v, place) in &others {
            let Some(p) = pointers.get(v) else { return Err(lost(graph.node(v.node))) };
            let ty = graph.ty(*v);
            body.line(&format!("memcpy({place}, {p}, {} * sizeof({}));", count(ty)?, c_type(ty.dtype)));
        }
        for (v, place) in &from_states {
            if &pointers[v] == place {
                continue;
            }
            if let Some((dtype, start, n)) = kept.next() {
                body.line(&format!("memcpy({place}, s->{} + {start}, {n} * sizeof({}));", Memory::name(*dtype), c_type(*dtype)));
            }
        }
        for (dtype, start, n) in temporary {
            memory.release(dtype, start, n);
        }
        for (_, (dtype, start, n)) in held {
            memory.release(dtype, start, n);
        }
        Ok(())
    }

    fn task(
        &mut self,
        graph: &Graph,
        task: &Task,
        pointers: &HashMap<Value, String>,
        weights: &HashMap<Value, Weights>,
        memory: &mut Memory,
        body: &mut Body,
    ) -> Result<(), CError> {
        let node = graph.node(task.node);
        let at = |v: &Value| pointers.get(v).cloned().ok_or_else(|| lost(node));
        match &task.kernel {
            Kernel::Step(k) => {
                let mut k = k.clone();
                // A number of its own in the file.
                k.function = self.functions.matches("\nstatic void kernel").count();
                let fixed = k.finals.iter().filter_map(|(i, v)| Some((*i, *self.fixed.get(v)?))).collect();
                self.functions.push_str(&function(graph, &k, Dialect::C, &fixed));
                let mut arguments = vec![];
                for l in &k.loads {
                    arguments.push(at(&l.source)?);
                }
                for initial in &k.initial {
                    if let Initial::Load(l) = initial {
                        arguments.push(at(&l.source)?);
                    }
                }
                for v in k.stores.iter().map(|(v, _)| v).chain(k.finals.iter().map(|(_, v)| v)) {
                    arguments.push(at(v)?);
                }
                body.line(&format!("{}({});", kernel_name(&k), arguments.join(", ")));
                Ok(())
            }
            Kernel::Loop(l) => self.looped(node, l, task, pointers, memory, body),
            Kernel::Reduction(f) if f.windows().is_some() => {
                let (output, size, stride) = f.windows().unwrap_or_default();
                let source = graph.ty(f.source);
                let dims = sizes(source)?;
                let input = [dims[dims.len() - 2], dims[dims.len() - 1]];
                let planes: usize = dims[..dims.len() - 2].iter().product();
                ops::windows(body, &at(&f.source)?, &at(&task.gives[0])?, f.kind, planes, input, output, size, stride);
                Ok(())
            }
            _ => {
                let operands = ops::reads(graph, task.node);
                let places = operands.iter().map(&at).collect::<Result<Vec<_>, _>>()?;
                let results = task.gives.iter().map(at).collect::<Result<Vec<_>, _>>()?;
                let weights = operands.get(1).and_then(|v| weights.get(v));
                ops::operation(body, graph, task.node, &places, &results, weights)
            }
        }
    }

    /// A loop over time: its states in buffers, its body once.
    fn looped(
        &mut self,
        node: &Node,
        plan: &LoopPlan,
        task: &Task,
        outside: &HashMap<Value, String>,
        memory: &mut Memory,
        body: &mut Body,
    ) -> Result<(), CError> {
        let Op::Loop(l) = &node.op else { return Err(lost(node)) };
        let steps = l.steps.evaluate(&snn_ir::Dims::new()).map_err(snn_ir::RuntimeError::from)?;
        let first_state = l.roles.first_state();
        let graph = &plan.body;
        let mut pointers = HashMap::new();
        let mut states = vec![];
        let time = body.fresh("t");
        let at = |v: &Value| outside.get(v).cloned().ok_or_else(|| lost(node));
        for (i, (v, input)) in node.operands.iter().zip(&graph.inputs).enumerate() {
            let (p, ty) = (at(v)?, graph.ty(*input));
            let n = count(ty)?;
            if i < l.roles.sequences {
                pointers.insert(*input, format!("({p} + (size_t){time} * {n})"));
            } else if i < first_state {
                pointers.insert(*input, p);
            } else {
                let start = memory.allocate(ty.dtype, n.max(1));
                states.push((ty.dtype, start, n));
                let place = format!("(s->{} + {start})", Memory::name(ty.dtype));
                body.line(&format!("memcpy({place}, {p}, {n} * sizeof({}));", c_type(ty.dtype)));
                pointers.insert(*input, place);
            }
        }
        let mut targets = vec![];
        for (i, (_, v)) in graph.outputs[..l.roles.outputs].iter().enumerate() {
            let n = count(graph.ty(*v))?;
            targets.push((*v, format!("({} + (size_t){time} * {n})", at(&task.gives[i])?)));
        }
        let place = |(dtype, start, _): &(DType, usize, usize)| format!("(s->{} + {start})", Memory::name(*dtype));
        let moves: Vec<(Value, String)> = graph.outputs[l.roles.outputs..].iter().map(|(_, v)| *v).zip(states.iter().map(place)).collect();
        let header = match l.reverse {
            true => format!("for (int {time} = {steps} - 1; {time} >= 0; --{time}) {{"),
            false => format!("for (int {time} = 0; {time} < {steps}; ++{time}) {{"),
        };
        body.line(&header);
        body.depth += 1;
        // All next states are there before one is overwritten.
        let mut inner = Body { depth: body.depth, seed: body.seed, names: body.names, text: String::new() };
        let mut ends = vec![];
        for (v, to) in &moves {
            let ty = graph.ty(*v);
            let n = count(ty)?;
            let start = memory.allocate(ty.dtype, n.max(1));
            ends.push((ty.dtype, start, n, to.clone()));
        }
        let kept: Vec<(Value, String)> =
            moves.iter().zip(&ends).map(|((v, _), (t, start, _, _))| (*v, format!("(s->{} + {start})", Memory::name(*t)))).collect();
        let all: Vec<(Value, String)> = targets.into_iter().chain(kept).collect();
        // The values of the body are others.
        let outer = std::mem::take(&mut self.fixed);
        self.body(graph, &plan.plan, pointers, &all, &[], memory, &mut inner)?;
        self.fixed = outer;
        for (dtype, start, n, to) in &ends {
            inner.line(&format!("memcpy({to}, s->{} + {start}, {n} * sizeof({}));", Memory::name(*dtype), c_type(*dtype)));
        }
        body.names = inner.names;
        body.text.push_str(&inner.text);
        body.depth -= 1;
        body.line("}");
        for (i, state) in states.iter().enumerate() {
            if let Some(v) = task.gives.get(l.roles.outputs + i) {
                body.line(&format!("memcpy({}, {}, {} * sizeof({}));", at(v)?, place(state), state.2, c_type(state.0)));
            }
        }
        for (dtype, start, n, _) in ends {
            memory.release(dtype, start, n.max(1));
        }
        for (dtype, start, n) in states {
            memory.release(dtype, start, n.max(1));
        }
        Ok(())
    }
}

/// A matrix with rows and columns exchanged.
fn transpose(t: &Tensor) -> Result<Tensor, CError> {
    let ty = Type::sized(t.dtype(), &[t.shape()[1], t.shape()[0]]);
    let op = Op::Transpose { permutation: vec![1, 0] };
    Ok(evaluate(&op, &[t], &[ty], &mut Randomness::Counter { seed: 0 })?.remove(0))
}

/// What reads a constant as weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WeighsIn {
    Products,
    Convolutions,
}

/// The kind of operations that read a constant as weights with outputs along its first axis, where only such read it.
fn weighs_only(graph: &Graph, plan: &Plan, v: Value) -> Option<WeighsIn> {
    let mut weighs = None;
    for task in readers(graph, plan, v) {
        let read = reads(graph, task);
        let kind = match (&task.kernel, &graph.node(task.node).op) {
            (Kernel::Product(_), Op::Contract(_)) if ops::outputs_first(graph, task.node) => WeighsIn::Products,
            (Kernel::Convolution(_) | Kernel::Reference, Op::Conv(_)) => WeighsIn::Convolutions,
            _ => return None,
        };
        if read.get(1) != Some(&v) || read[0] == v || weighs.is_some_and(|w| w != kind) {
            return None;
        }
        weighs = Some(kind);
    }
    weighs.filter(|_| !graph.outputs.iter().any(|(_, o)| *o == v))
}

/// Is a state read by the kernel that gives the next one and by nothing else, element by element? Then it is written where it was read.
fn updates_in_place(graph: &Graph, plan: &Plan, state: Value, next: Value) -> bool {
    let is_own = |task: &Task| {
        let Kernel::Step(k) = &task.kernel else { return false };
        let own = k.finals.iter().find(|(_, v)| *v == next).map(|(i, _)| &k.initial[*i]);
        matches!(own, Some(Initial::Load(l)) if l.source == state && contiguous(l, k))
    };
    let readers: Vec<&Task> = readers(graph, plan, state).collect();
    let once = |v: Value| graph.outputs.iter().filter(|(_, o)| *o == v).count();
    matches!(readers[..], [task] if is_own(task) && reads(graph, task).iter().filter(|v| **v == state).count() == 1)
        && once(next) == 1
        && once(state) == 0
}

/// The tasks that read a value.
fn readers<'p>(graph: &Graph, plan: &'p Plan, v: Value) -> impl Iterator<Item = &'p Task> {
    plan.tasks.iter().filter(move |t| t.needs.contains(&v) || reads(graph, t).contains(&v))
}

fn is_read(graph: &Graph, plan: &Plan, v: Value) -> bool {
    readers(graph, plan, v).next().is_some()
}

/// Does fixed point hold these numbers?
fn holds(f: Fixed, t: &Tensor) -> bool {
    let end = ((f.bits - 1) as f32).exp2();
    t.dtype() == DType::F32 && t.as_f32().iter().map(|x| x / f.step).all(|q| q.fract() == 0.0 && (-end..end).contains(&q))
}

fn reads(graph: &Graph, task: &Task) -> Vec<Value> {
    match &task.kernel {
        Kernel::Step(k) => k.sources().collect(),
        _ => ops::reads(graph, task.node),
    }
}

fn lost(node: &Node) -> CError {
    ops::refuse(node, "a value that it reads is not there")
}

fn float_text(x: f32) -> String {
    match x {
        x if x.is_nan() => "NAN".into(),
        x if x > 0.0 => "INFINITY".into(),
        _ => "-INFINITY".into(),
    }
}

/// Types of the header, which has no names of ours.
fn header_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::I64 => "int64_t",
        DType::Bool | DType::U8 => "uint8_t",
    }
}

fn parameter_list(arguments: &[(bool, Argument)]) -> String {
    let list: Vec<String> = arguments
        .iter()
        .map(|(written, a)| format!("{}{} *{}", if *written { "" } else { "const " }, header_type(a.dtype), a.name))
        .collect();
    list.join(", ")
}

fn describe(arguments: &[(bool, Argument)]) -> String {
    let lines: Vec<String> = arguments
        .iter()
        .map(|(written, a)| format!("   {} {}: {}{:?}", if *written { "out" } else { "in " }, a.name, a.dtype, a.shape))
        .collect();
    lines.join("\n")
}

fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|w| w == name)
}

/// Statements of a function.
pub struct Body {
    /// How deep they stand.
    pub depth: usize,
    /// The seed of random numbers.
    pub seed: u64,
    names: usize,
    /// So far.
    pub text: String,
}

impl Body {
    fn new(seed: u64) -> Body {
        Body { depth: 1, seed, names: 0, text: String::new() }
    }

    /// A statement.
    pub fn line(&mut self, text: &str) {
        self.text.push_str(&"  ".repeat(self.depth));
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn comment(&mut self, text: &str) {
        self.line(&format!("/* {} */", text.replace("*/", "* /")));
    }

    /// A name that no other variable has.
    pub fn fresh(&mut self, base: &str) -> String {
        self.names += 1;
        format!("{base}{}", self.names)
    }

    /// Opens a loop over `n` indices; gives its variable.
    pub fn open(&mut self, n: usize) -> String {
        let i = self.fresh("i");
        self.line(&format!("for (int {i} = 0; {i} < {n}; ++{i}) {{"));
        self.depth += 1;
        i
    }

    /// Closes loops.
    pub fn close(&mut self, n: usize) {
        for _ in 0..n {
            self.depth -= 1;
            self.line("}");
        }
    }
}

//! Graphs as programs of the language, and their weights.
//!
//! One layer a node under its name; a graph inside a graph is its nodes under `outer.inner`. A cycle takes one step: what a neuron of it sends back
//! arrives in the next step.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use snn_ir::Tensor;

use crate::cycles::plan;
use crate::shape::{flatten, padding, sizes};
use crate::{Discretisation, Emit, Graph, Kind, Model, NirError, Node, Options, shapes};

/// A program, its weights, and what a user should know.
#[derive(Debug)]
pub struct Imported {
    /// The text of the program.
    pub source: String,
    /// Parameters and buffers by name.
    pub weights: Vec<(String, Tensor)>,
    /// What is odd in the file, or looks like another convention.
    pub warnings: Vec<String>,
    /// How it was made into steps.
    pub discretisation: Discretisation,
}

/// Makes a program of a model. `file` is what its first line says that it was made from.
///
/// # Errors
/// Something is open that no option says, or a node is wrong.
pub fn import(model: &Model, options: &Options, file: &str) -> Result<Imported, NirError> {
    let discretisation = options.of(&model.graph)?;
    let graph = flat(&model.graph);
    let (shapes, more) = shapes(&graph)?;
    let mut warnings = model.warnings.clone();
    warnings.extend(more);
    conventions(&graph, &discretisation, &mut warnings);
    let mut writer = Writer { graph: &graph, shapes, d: discretisation, weights: vec![], declared: String::new(), names: HashMap::new() };
    let source = writer.program(model, options, file, &mut warnings)?;
    Ok(Imported { source, weights: writer.weights, warnings, discretisation })
}

/// The graph without graphs inside: their inputs and outputs pass on what they get.
fn flat(graph: &Graph) -> Graph {
    fn go(graph: &Graph, prefix: &str, out: &mut Graph) {
        let by_name: HashMap<&str, &Node> = graph.nodes.iter().map(|(n, node)| (&n[..], node)).collect();
        let inside = |name: &str, kind: Kind, full: &str| -> String {
            let node = by_name.get(name).and_then(|n| n.graph.as_ref());
            match node.and_then(|g| g.nodes.iter().find(|(_, n)| n.kind == kind)) {
                Some((port, _)) => format!("{full}.{port}"),
                None => full.to_string(),
            }
        };
        for (name, node) in &graph.nodes {
            let full = format!("{prefix}{name}");
            match &node.graph {
                Some(g) => go(g, &format!("{full}."), out),
                None => {
                    let mut node = node.clone();
                    if !prefix.is_empty() && matches!(node.kind, Kind::Input | Kind::Output) {
                        node = Node { kind: Kind::Identity, fields: vec![], graph: None };
                    }
                    out.nodes.push((full, node));
                }
            }
        }
        for (a, b) in &graph.edges {
            out.edges.push((inside(a, Kind::Output, &format!("{prefix}{a}")), inside(b, Kind::Input, &format!("{prefix}{b}"))));
        }
    }
    let mut out = Graph::default();
    go(graph, "", &mut out);
    // Names that a layer can have: others are changed, so that no two are the same.
    let mut taken: HashSet<String> = out.nodes.iter().map(|(n, _)| n.clone()).collect();
    let mut renamed = HashMap::new();
    for (name, _) in &mut out.nodes {
        let mut own: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '.' { c } else { '_' }).collect();
        if own.split('.').any(str::is_empty) || CALLED.contains(&&own[..]) {
            own = format!("{}_", own.replace('.', "_"));
        }
        if own != *name {
            while !taken.insert(own.clone()) {
                own.push('_');
            }
            renamed.insert(std::mem::replace(name, own.clone()), own);
        }
    }
    for name in out.edges.iter_mut().flat_map(|(a, b)| [a, b]) {
        if let Some(new) = renamed.get(name) {
            name.clone_from(new);
        }
    }
    out
}

/// Functions that the body of a program calls, which no layer hides.
const CALLED: [&str; 8] = ["delay", "flatten", "avg_pool2d", "sum_pool2d", "nir_delay", "nir_spike", "atan", "T"];

/// Words that begin something in the language.
fn is_keyword(word: &str) -> bool {
    matches!(
        word,
        "net"
            | "let"
            | "rec"
            | "layer"
            | "param"
            | "buffer"
            | "neuron"
            | "surrogate"
            | "fn"
            | "if"
            | "else"
            | "true"
            | "false"
            | "none"
            | "emit"
            | "state"
            | "init"
            | "for"
            | "in"
            | "use"
            | "or"
            | "div"
            | "assert"
            | "f32"
            | "i64"
            | "bool"
            | "u8"
    )
}

/// Numbers that look like another convention than the one that was said.
fn conventions(graph: &Graph, d: &Discretisation, warnings: &mut Vec<String>) {
    for (name, node) in &graph.nodes {
        let one = |field: &str| node.numbers(field).and_then(|(_, v)| v.first().copied());
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-3 * b.abs();
        let Some(r) = one("r") else { continue };
        match node.kind {
            Kind::If if near(r, 1.0) && !d.unit_if && !near(d.dt, 1.0) => warnings.push(format!(
                "`{name}` is an IF with r = 1, as Sinabs, Norse and snnTorch write one that adds its input at each step; here a step adds {} of it (`--preset sinabs`, or `--dt 1`)",
                d.dt
            )),
            Kind::If if d.unit_if && !near(r, 1.0) => {
                warnings.push(format!("`{name}` is an IF with r = {r}; this preset adds r times the input at each step, and SpikingJelly writes r = 1 / dt"))
            }
            Kind::Lif => {
                if let Some(tau) = one("tau")
                    && !near(r, 1.0)
                    && !near(r, tau / d.dt)
                    && near(r, tau / 1e-4)
                {
                    warnings.push(format!("`{name}` has r = tau / 1e-4, as snnTorch writes for steps of 1e-4 s, and the step is {} s", d.dt));
                }
            }
            _ => {}
        }
    }
}

/// A number as the language writes it, to the bit of an f32 where it is one.
fn number(x: f64) -> String {
    let text = if f64::from(x as f32) == x { format!("{:?}", x as f32) } else { format!("{x:?}") };
    if text.contains(['.', 'e', 'n', 'i']) { text } else { format!("{text}.0") }
}

fn list(v: &[usize]) -> String {
    if v.windows(2).all(|w| w[0] == w[1]) && !v.is_empty() {
        return v[0].to_string();
    }
    format!("[{}]", v.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
}

struct Writer<'a> {
    graph: &'a Graph,
    shapes: Vec<Vec<usize>>,
    d: Discretisation,
    weights: Vec<(String, Tensor)>,
    declared: String,
    /// Values by node.
    names: HashMap<usize, String>,
}

impl Writer<'_> {
    fn program(&mut self, model: &Model, options: &Options, file: &str, warnings: &mut Vec<String>) -> Result<String, NirError> {
        let index: HashMap<&str, usize> = self.graph.nodes.iter().enumerate().map(|(i, (n, _))| (&n[..], i)).collect();
        let edges: Vec<(usize, usize)> = self.graph.edges.iter().map(|(a, b)| (index[&a[..]], index[&b[..]])).collect();
        let plan = plan(self.graph, &edges);
        for (a, b) in &plan.late {
            warnings.push(format!("the cycle through `{}` -> `{}` takes one step", self.graph.nodes[*a].0, self.graph.nodes[*b].0));
        }
        let mut incoming = vec![Vec::new(); self.graph.nodes.len()];
        edges.iter().for_each(|(a, b)| incoming[*b].push(*a));
        self.name_values();
        let mut body = String::new();
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        for i in plan.order.iter().copied() {
            let (name, node) = &self.graph.nodes[i];
            let shape = self.typed(&self.shapes[i]);
            if node.kind == Kind::Input {
                inputs.push(format!("{}: f32{shape}", self.names[&i]));
                if self.d.input_scale != 1.0 {
                    let scaled = format!("{}_scaled", self.names[&i]);
                    let _ = writeln!(body, "    let {scaled} = {} * {}", number(self.d.input_scale), self.names[&i]);
                    self.names.insert(i, scaled);
                }
                continue;
            }
            let x: Vec<String> = incoming[i]
                .iter()
                .map(|a| match plan.late.contains(&(*a, i)) {
                    true => format!("delay({}, 1)", self.names[a]),
                    false => self.names[a].clone(),
                })
                .collect();
            let x = x.join(" + ");
            if node.kind == Kind::Output {
                outputs.push((clean(name), shape, x));
                continue;
            }
            let rank = incoming[i].first().map_or(0, |a| self.shapes[*a].len());
            let value = self.node(name, node, &x, rank)?;
            let own = &self.names[&i];
            if plan.recursive.contains(&i) {
                let _ = writeln!(body, "    let rec {own}: f32{shape} = {value}");
            } else {
                let _ = writeln!(body, "    let {own} = {value}");
            }
        }
        if outputs.is_empty() {
            return Err(NirError::Graph("the graph has no Output node".into()));
        }
        let d = &self.d;
        let mut text = format!(
            "// Made by snnc from {file}, a graph in continuous time{}.\n",
            if model.version.is_empty() { String::new() } else { format!(" (NIR {})", model.version) }
        );
        let has = |f: &dyn Fn(Kind) -> bool| self.graph.nodes.iter().any(|(_, n)| f(n.kind));
        let mut steps = vec![];
        if has(&|k| k == Kind::Delay || k.is_neuron() && !(k == Kind::If && d.unit_if)) {
            steps.push(format!("dt = {} s", number(d.dt)));
        }
        if has(&|k| k == Kind::If) && d.unit_if {
            steps.push("an IF adds r times its input at each step".into());
        }
        if has(&|k| matches!(k, Kind::Li | Kind::Lif | Kind::CubaLi | Kind::CubaLif)) {
            steps.push(format!("integrator {}", d.integrator));
        }
        if has(&|k| matches!(k, Kind::CubaLi | Kind::CubaLif)) {
            steps.push(format!("order {}", d.order));
        }
        if has(&Kind::is_spiking) {
            steps.push(format!("reset {}, compare {}", d.reset, d.compare));
        }
        if has(&Kind::is_neuron) {
            steps.push(format!("emit {}", d.emit));
        }
        if !steps.is_empty() {
            let preset = options.preset.map(|p| format!(" (preset {p})")).unwrap_or_default();
            let _ = writeln!(text, "// Its steps: {}{preset}.", steps.join(", "));
        }
        let results = outputs.iter().map(|o| format!("{}: f32{}", o.0, o.1)).collect::<Vec<_>>().join(", ");
        let values: Vec<&str> = outputs.iter().map(|o| &o.2[..]).collect();
        let value = if values.len() == 1 { values[0].to_string() } else { format!("({})", values.join(", ")) };
        let _ = write!(text, "net main({}) -> ({results}) {{\n{}{body}    {value}\n}}\n", inputs.join(", "), self.declared);
        Ok(text)
    }

    fn typed(&self, shape: &[usize]) -> String {
        let dims: Vec<String> = ["T".to_string(), "B".to_string()].into_iter().chain(shape.iter().map(usize::to_string)).collect();
        format!("[{}]", dims.join(", "))
    }

    /// Names of values: those of nodes, as far as the language takes them and no layer has them.
    fn name_values(&mut self) {
        let mut taken: HashSet<String> =
            self.graph.nodes.iter().filter(|(_, n)| !matches!(n.kind, Kind::Input | Kind::Output)).map(|(n, _)| n.clone()).collect();
        for (i, (name, node)) in self.graph.nodes.iter().enumerate() {
            let base = match node.kind {
                Kind::Input | Kind::Output => clean(name),
                _ => format!("{}_out", clean(name)),
            };
            let mut own = base.clone();
            let mut k = 2;
            while !taken.insert(own.clone()) {
                own = format!("{base}{k}");
                k += 1;
            }
            self.names.insert(i, own);
        }
    }

    /// How the body says a layer's or a parameter's path.
    fn path(name: &str) -> String {
        let first = name.split('.').next().unwrap_or_default();
        if first.starts_with(|c: char| c.is_ascii_digit()) || is_keyword(first) { format!("net.{name}") } else { name.to_string() }
    }

    fn layer(&mut self, name: &str, call: &str) -> String {
        let _ = writeln!(self.declared, "    layer {name} = {call}");
        Self::path(name)
    }

    /// Takes a tensor along as a weight.
    fn take(&mut self, name: &str, node: &Node, field: &str) -> Result<Vec<usize>, NirError> {
        let (shape, data) = node.numbers(field).ok_or_else(|| NirError::node(name, node, format!("`{field}` is no tensor")))?;
        let data: Vec<f32> = data.iter().map(|x| *x as f32).collect();
        if let Some(x) = data.iter().find(|x| !x.is_finite()) {
            return Err(NirError::node(name, node, format!("`{field}` has an element that is {x} as f32")));
        }
        self.weights.push((format!("{name}.{field}"), Tensor::f32(shape.to_vec(), data)));
        Ok(shape.to_vec())
    }

    /// A parameter of a neuron: a number where all neurons have one, else a buffer.
    fn parameter(&mut self, name: &str, node: &Node, field: &str) -> Result<Option<String>, NirError> {
        let Some((shape, data)) = node.numbers(field) else { return Ok(None) };
        let Some(first) = data.first() else { return Err(NirError::node(name, node, format!("`{field}` is empty"))) };
        if field.starts_with("tau")
            && let Some(tau) = data.iter().find(|t| **t <= 0.0)
        {
            return Err(NirError::node(name, node, format!("a time constant is positive, and `{field}` has the element {tau}")));
        }
        if data.iter().all(|x| x == first) {
            return Ok(Some(number(*first)));
        }
        let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
        let _ = writeln!(self.declared, "    buffer {name}.{field}: f32[{}] = 1.0", dims.join(", "));
        self.take(name, node, field)?;
        Ok(Some(Self::path(&format!("{name}.{field}"))))
    }

    fn node(&mut self, name: &str, node: &Node, x: &str, rank: usize) -> Result<String, NirError> {
        let d = self.d;
        let value = match node.kind {
            Kind::Input | Kind::Output | Kind::Identity | Kind::NirGraph => x.to_string(),
            Kind::Affine | Kind::Linear => {
                let w = self.take(name, node, "weight")?;
                let has = node.kind == Kind::Affine;
                if has {
                    self.vector(name, node, "bias")?;
                }
                let layer = self.layer(name, &format!("linear({}, {}{})", w[1], w[0], if has { "" } else { ", bias = false" }));
                format!("{layer}({x})")
            }
            Kind::Conv1d | Kind::Conv2d => {
                let n = if node.kind == Kind::Conv1d { 1 } else { 2 };
                let w = self.take(name, node, "weight")?;
                let groups = sizes(name, node, "groups", 1)?[0].max(1);
                let has = node.numbers("bias").is_some();
                if has {
                    self.vector(name, node, "bias")?;
                }
                let mut call = format!("conv{n}d({}, {}, {}", w[1] * groups, w[0], list(&w[2..]));
                for (field, v, usual) in [
                    ("stride", sizes(name, node, "stride", n)?, 1),
                    ("padding", padding(name, node, &w[2..])?, 0),
                    ("dilation", sizes(name, node, "dilation", n)?, 1),
                    ("groups", vec![groups], 1),
                ] {
                    if v.iter().any(|k| *k != usual) {
                        let _ = write!(call, ", {field} = {}", list(&v));
                    }
                }
                call.push_str(if has { ")" } else { ", bias = false)" });
                format!("{}({x})", self.layer(name, &call))
            }
            Kind::SumPool2d | Kind::AvgPool2d => {
                let (k, s, p) = (sizes(name, node, "kernel_size", 2)?, sizes(name, node, "stride", 2)?, sizes(name, node, "padding", 2)?);
                let mut call = format!("{}_pool2d({x}, {}", if node.kind == Kind::SumPool2d { "sum" } else { "avg" }, list(&k));
                if s != k {
                    let _ = write!(call, ", stride = {}", list(&s));
                }
                if p.iter().any(|p| *p > 0) {
                    let _ = write!(call, ", padding = {}", list(&p));
                }
                call + ")"
            }
            Kind::Flatten => {
                let (a, b) = flatten(name, node, rank)?;
                if a == b { x.to_string() } else { format!("flatten({x}, start = {}, end = {})", a + 2, b + 2) }
            }
            Kind::Scale => {
                let scale = self.parameter(name, node, "scale")?.unwrap_or_default();
                format!("{} * {scale}", bracketed(x))
            }
            Kind::Threshold => {
                let threshold = self.parameter(name, node, "threshold")?.unwrap_or_default();
                format!("nir_spike({x} - {threshold}, \"{}\", atan())", d.compare)
            }
            Kind::Delay => return self.delay(name, node, x),
            Kind::I | Kind::If | Kind::Li | Kind::Lif | Kind::CubaLi | Kind::CubaLif => {
                let mut settings = Vec::new();
                let (required, optional) = node.kind.fields();
                for field in required.iter().chain(optional) {
                    if let Some(value) = self.parameter(name, node, field)? {
                        settings.push(format!("{field} = {value}"));
                    }
                }
                let own = match node.kind {
                    Kind::I => "nir_i",
                    Kind::If => "nir_if",
                    Kind::Li => "nir_li",
                    Kind::Lif => "nir_lif",
                    Kind::CubaLi => "nir_cuba_li",
                    _ => "nir_cuba_lif",
                };
                let dt = if node.kind == Kind::If && d.unit_if { 1.0 } else { d.dt };
                settings.push(format!("dt = {}", number(dt)));
                if matches!(node.kind, Kind::Li | Kind::Lif | Kind::CubaLi | Kind::CubaLif) {
                    settings.push(format!("integrator = \"{}\"", d.integrator));
                }
                if matches!(node.kind, Kind::CubaLi | Kind::CubaLif) {
                    settings.push(format!("order = \"{}\"", d.order));
                }
                if node.kind.is_spiking() {
                    settings.push(format!("reset = \"{}\", compare = \"{}\"", d.reset, d.compare));
                }
                let layer = self.layer(name, &format!("{own}({})", settings.join(", ")));
                let value = format!("{layer}({x})");
                if d.emit == Emit::Next { format!("delay({value}, 1)") } else { value }
            }
        };
        Ok(value)
    }

    /// A vector, whatever its shape in the file.
    fn vector(&mut self, name: &str, node: &Node, field: &str) -> Result<(), NirError> {
        self.take(name, node, field)?;
        if let Some((_, t)) = self.weights.last_mut() {
            *t = t.reshaped(vec![t.len()]);
        }
        Ok(())
    }

    /// Delays in whole steps.
    fn delay(&mut self, name: &str, node: &Node, x: &str) -> Result<String, NirError> {
        let (shape, data) = node.numbers("delay").ok_or_else(|| NirError::node(name, node, "`delay` is no tensor"))?;
        let mut steps = Vec::new();
        for seconds in data {
            let k = seconds / self.d.dt;
            if k < 0.0 || (k - k.round()).abs() > 1e-3 || k > 1e6 {
                return Err(NirError::node(
                    name,
                    node,
                    format!("a delay of {seconds} s is not an integer number of steps of {} s", self.d.dt),
                ));
            }
            steps.push(k.round() as i64);
        }
        let most = steps.iter().copied().max().unwrap_or(0);
        if steps.iter().all(|k| *k == most) {
            return Ok(format!("delay({x}, {most})"));
        }
        if most > 4096 {
            return Err(NirError::node(
                name,
                node,
                format!("its longest delay is {most} steps, and delays of their own for each element go up to 4,096"),
            ));
        }
        let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
        let _ = writeln!(self.declared, "    buffer {name}.steps: i64[{}] = 0", dims.join(", "));
        self.weights.push((format!("{name}.steps"), Tensor::i64(shape.to_vec(), steps)));
        Ok(format!("nir_delay({x}, {}, {most})", Self::path(&format!("{name}.steps"))))
    }
}

fn bracketed(x: &str) -> String {
    if x.contains(" + ") { format!("({x})") } else { x.to_string() }
}

/// A name that the language takes.
fn clean(name: &str) -> String {
    let text: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if is_keyword(&text) || text.starts_with(|c: char| c.is_ascii_digit()) || text.is_empty() || text == "T" || text == "B" {
        format!("n{text}")
    } else {
        text
    }
}

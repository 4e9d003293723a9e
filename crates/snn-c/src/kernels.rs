//! Step kernels as text, in C99, in CUDA C++ or in the Metal shading language.
//!
//! In C a loop goes over the elements; on a device a thread computes one element through all time steps, with its states in registers. Text is one more instance of
//! [`Lanes`], so it computes what machine code and the interpreter compute, to the bit: compilers are told not to contract
//! products and sums, and where the languages leave NaNs and zeros open, small functions of ours close them.

use std::collections::HashMap;
use std::fmt::Write;

use snn_ir::lanes::Lane;
use snn_ir::math::Lanes;
use snn_ir::{DType, Graph};
use snn_plan::step::{Initial, Load, StepKernel};
use snn_plan::{Kernel, Plan};

/// In which language kernels are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// C99 with `math.h`.
    C,
    /// CUDA C++, for NVRTC.
    Cuda,
    /// The Metal shading language.
    Metal,
}

const CUDA_HEAD: &str = "\
#define BITS(x) __float_as_int(x)
#define FLOAT(x) __int_as_float(x)
#define LIBRARY(name) name##f
#define INLINE static __device__ __forceinline__
typedef long long wide;
typedef unsigned long long unsigned_wide;
";

pub(crate) const C_HEAD: &str = "\
#define BITS(x) bits_of(x)
#define FLOAT(x) float_of(x)
#define LIBRARY(name) name##f
#define INLINE static inline
typedef int64_t wide;
typedef uint64_t unsigned_wide;
INLINE int bits_of(float x) {
  union { float f; int32_t i; } u;
  u.f = x;
  return u.i;
}
INLINE float float_of(int32_t x) {
  union { float f; int32_t i; } u;
  u.i = x;
  return u.f;
}
";

const METAL_HEAD: &str = "\
#include <metal_stdlib>
#pragma METAL fp contract(off)
#define BITS(x) as_type<int>(x)
#define FLOAT(x) as_type<float>(x)
#define LIBRARY(name) metal::name
#define INLINE static inline
typedef long wide;
typedef ulong unsigned_wide;
";

/// What both languages leave open: the order of zeros, NaNs, conversions out of range, exact remainders and large angles
/// ([`snn_ir::math::far_angle`]).
pub(crate) const COMMON: &str = "\
INLINE float largest(float a, float b) {
  if (a != a || b != b) return FLOAT(0x7fc00000);
  if (a == b) return FLOAT(BITS(a) & BITS(b));
  return a > b ? a : b;
}
INLINE float smallest(float a, float b) {
  if (a != a || b != b) return FLOAT(0x7fc00000);
  if (a == b) return FLOAT(BITS(a) | BITS(b));
  return a < b ? a : b;
}
INLINE int whole(float x) {
  if (x != x) return 0;
  if (x >= 2147483648.0f) return 2147483647;
  if (x < -2147483648.0f) return -2147483647 - 1;
  return (int)x;
}
INLINE float remainder_of(float a, float b) {
  const unsigned int sign = (unsigned int)BITS(a) & 0x80000000u;
  unsigned int x = (unsigned int)BITS(a) & 0x7fffffffu, y = (unsigned int)BITS(b) & 0x7fffffffu;
  if (y == 0u || x >= 0x7f800000u || y > 0x7f800000u) return FLOAT(0x7fc00000);
  if (x < y) return a;
  int ex = (int)(x >> 23), ey = (int)(y >> 23);
  x = x & 0x7fffffu;
  y = y & 0x7fffffu;
  if (ex == 0) ex = 1; else x = x | 0x800000u;
  if (ey == 0) ey = 1; else y = y | 0x800000u;
  for (; ex > ey; --ex) {
    if (x >= y) x -= y;
    x = x << 1;
    if (x == 0u) return FLOAT((int)sign);
  }
  if (x >= y) x -= y;
  if (x == 0u) return FLOAT((int)sign);
  while (x < 0x800000u && ex > 1) {
    x = x << 1;
    --ex;
  }
  x = x >= 0x800000u ? (x & 0x7fffffu) | ((unsigned int)ex << 23) : x;
  return FLOAT((int)(x | sign));
}
INLINE unsigned int half_over_pi(int i) {
  switch (i) {
    case 1: return 0x28be60dbu;
    case 2: return 0x9391054au;
    case 3: return 0x7f09d5f4u;
    case 4: return 0x7d4d3770u;
    case 5: return 0x36d8a566u;
    case 6: return 0x4f10e410u;
    default: return 0u;
  }
}
INLINE unsigned int half_over_pi_from(int i, int shift) {
  if (shift == 0) return half_over_pi(i);
  return (half_over_pi(i) << shift) | (half_over_pi(i + 1) >> (32 - shift));
}
INLINE wide far_angle(float x, float r, int k) {
  if (LIBRARY(fabs)(x) > 100000.0f) {
    const unsigned int bits = (unsigned int)BITS(x);
    const int exponent = (int)((bits >> 23) & 0xffu) - 126;
    if (exponent > 128) {
      r = FLOAT(0x7fc00000);
      k = 0;
    } else {
      const unsigned int mantissa = (bits << 8) | 0x80000000u;
      const int word = exponent >> 5, shift = exponent & 31;
      unsigned_wide p = (unsigned_wide)mantissa * half_over_pi_from(word + 2, shift);
      p = (unsigned_wide)mantissa * half_over_pi_from(word + 1, shift) + (p >> 32);
      p = ((unsigned_wide)(mantissa * half_over_pi_from(word, shift)) << 32) + p;
      k = (int)((p >> 62) + ((p >> 61) & 1));
      r = (float)(wide)(p << 2) * 8.515304e-20f;
      if (x < 0.0f) {
        r = -r;
        k = -k;
      }
    }
  }
  return (wide)(((unsigned_wide)(unsigned int)k << 32) | (unsigned int)BITS(r));
}
";

/// The text of all step kernels of a plan, or nothing where it has none.
pub fn module(graph: &Graph, plan: &Plan, dialect: Dialect) -> Option<String> {
    let mut kernels = String::new();
    collect(graph, plan, dialect, &mut kernels);
    let head = match dialect {
        Dialect::C => C_HEAD,
        Dialect::Cuda => CUDA_HEAD,
        Dialect::Metal => METAL_HEAD,
    };
    (!kernels.is_empty()).then(|| format!("{head}{COMMON}{kernels}"))
}

fn collect(graph: &Graph, plan: &Plan, dialect: Dialect, text: &mut String) {
    for task in &plan.tasks {
        match &task.kernel {
            Kernel::Step(k) => text.push_str(&function(graph, k, dialect, &HashMap::new())),
            Kernel::Loop(l) => collect(&l.body, &l.plan, dialect, text),
            _ => {}
        }
    }
}

/// A compiler's message with the lines of the text that it names, as `(12)` or `:12:`.
pub fn with_lines(message: &str, source: &str) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let mut said = String::from("a generated kernel does not compile; this is a defect of snnc\n");
    for line in message.lines() {
        let _ = writeln!(said, "{line}");
        let number = line.split(['(', ')', ':']).find_map(|part| part.parse::<usize>().ok());
        if let Some(text) = number.and_then(|n| lines.get(n.wrapping_sub(1))) {
            let _ = writeln!(said, "    {text}");
        }
    }
    said
}

/// The name of a kernel's function.
pub fn name(kernel: &StepKernel) -> String {
    format!("kernel{}", kernel.function)
}

pub(crate) fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::I64 => "wide",
        DType::Bool | DType::U8 => "unsigned char",
    }
}

/// Numbers of a state as integers: a number is the integer times a power of two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fixed {
    /// Bits of an integer, its sign counted.
    pub bits: u32,
    /// The power of two.
    pub step: f32,
}

impl Fixed {
    /// The type of the integers in C and their bytes, where they take less than a float.
    pub fn element(self) -> Option<(&'static str, usize)> {
        integer_type(self.bits)
    }
}

/// The type of integers of so many bits in C and their bytes, where they take less than a float.
pub(crate) fn integer_type(bits: u32) -> Option<(&'static str, usize)> {
    match bits {
        0..=8 => Some(("int8_t", 1)),
        9..=16 => Some(("int16_t", 2)),
        _ => None,
    }
}

/// One kernel. Its arguments are what it loads, what states start with, what it stores, and last states; `fixed` are the states that start
/// and end as integers.
pub fn function(graph: &Graph, kernel: &StepKernel, dialect: Dialect, fixed: &HashMap<usize, Fixed>) -> String {
    let elements = kernel.elements();
    let furthest = kernel.loads.iter().map(|l| l.time).max().unwrap_or(0).max(elements).saturating_mul(kernel.steps.max(1));
    let index = if furthest < 1 << 30 { "int" } else { "wide" };
    let state_type = |i: usize| fixed.get(&i).and_then(|f| f.element()).map_or(c_type(DType::F32), |(ty, _)| ty);
    let mut arguments: Vec<(bool, &str, String)> = Vec::new();
    arguments.extend(kernel.loads.iter().enumerate().map(|(i, l)| (false, c_type(l.dtype), format!("load{i}"))));
    for (i, initial) in kernel.initial.iter().enumerate() {
        if let Initial::Load(_) = initial {
            arguments.push((false, state_type(i), format!("start{i}")));
        }
    }
    arguments.extend(kernel.stores.iter().enumerate().map(|(i, (_, dtype))| (true, c_type(*dtype), format!("store{i}"))));
    arguments.extend(kernel.finals.iter().map(|(i, _)| (true, state_type(*i), format!("final{i}"))));

    let mut text = String::new();
    let _ = writeln!(text, "\n// {}: {} operations, {} steps of {elements} elements", kernel.name, kernel.operations, kernel.steps);
    let list: Vec<String> = arguments
        .iter()
        .enumerate()
        .map(|(i, (written, ty, name))| {
            let constant = if *written { "" } else { "const " };
            match dialect {
                Dialect::C => format!("{constant}{ty} *{name}"),
                Dialect::Cuda => format!("{constant}{ty} *__restrict__ {name}"),
                Dialect::Metal => format!("device {constant}{ty} *{name} [[buffer({i})]]"),
            }
        })
        .collect();
    match dialect {
        Dialect::C => {
            let _ = writeln!(text, "static void {}({}) {{", name(kernel), list.join(", "));
            let _ = writeln!(text, "  for ({index} e = 0; e < {elements}; ++e) {{");
        }
        Dialect::Cuda => {
            let _ = writeln!(text, "extern \"C\" __global__ void {}({}) {{", name(kernel), list.join(", "));
            let _ = writeln!(text, "  const {index} e = ({index})blockIdx.x * blockDim.x + threadIdx.x;");
        }
        Dialect::Metal => {
            let _ = writeln!(text, "kernel void {}({}, uint thread [[thread_position_in_grid]]) {{", name(kernel), list.join(", "));
            let _ = writeln!(text, "  const {index} e = thread;");
        }
    }
    if dialect != Dialect::C {
        let _ = writeln!(text, "  if (e >= {elements}) return;");
    }

    // The place of the element along each outer axis and in the run.
    let mut behind = kernel.run;
    let mut places = vec![String::new(); kernel.outer.len()];
    for (axis, size) in kernel.outer.iter().enumerate().rev() {
        places[axis] = if axis == 0 { format!("e / {behind}") } else { format!("e / {behind} % {size}") };
        behind *= size;
    }
    let place = |l: &Load| {
        let mut terms: Vec<String> = l
            .outer
            .iter()
            .zip(&places)
            .filter(|(s, _)| **s != 0)
            .map(|(s, p)| if *s == 1 { p.clone() } else { format!("{p} * {s}") })
            .collect();
        if !l.uniform {
            terms.push(if kernel.outer.is_empty() { "e".into() } else { format!("e % {}", kernel.run) });
        }
        if contiguous(l, kernel) {
            return "e".to_string();
        }
        if terms.is_empty() { "0".into() } else { terms.join(" + ") }
    };
    for (i, l) in kernel.loads.iter().enumerate() {
        let _ = writeln!(text, "  const {index} at{i} = {};", place(l));
    }
    for (i, initial) in kernel.initial.iter().enumerate() {
        let start = match initial {
            Initial::Constant(x) => literal(*x),
            Initial::Load(l) => match fixed.get(&i) {
                Some(f) => format!("(float)start{i}[{}] * {}", place(l), literal(f.step)),
                None => format!("start{i}[{}]", place(l)),
            },
        };
        let _ = writeln!(text, "  float state{i} = {start};");
    }
    let looped = kernel.steps != 1;
    if looped {
        if dialect == Dialect::Cuda {
            text.push_str("#pragma unroll 4\n");
        }
        let _ = writeln!(text, "  for (int step = 0; step < {}; ++step) {{", kernel.steps);
        let t = if kernel.reverse { format!("{} - step", kernel.steps as i64 - 1) } else { "step".into() };
        let _ = writeln!(text, "    const {index} t = {t};");
    } else {
        let _ = writeln!(text, "  const {index} t = 0;");
    }
    let pad = if looped { "    " } else { "  " };
    let mut l = Text { pad, lines: String::new(), names: Vec::new() };
    let loads: Vec<_> = kernel.loads.iter().enumerate().map(|(i, load)| l.load(i, load)).collect();
    let states: Vec<_> = (0..kernel.initial.len()).map(|i| Lane::Float(l.name(format!("state{i}")))).collect();
    let (next, stores) = kernel.step(graph, &mut l, &loads, &states);
    for (i, (lane, (_, dtype))) in stores.iter().zip(&kernel.stores).enumerate() {
        let value = match lane {
            Lane::Float(v) | Lane::Int(v) => l.text(*v),
            Lane::Mask(v) => format!("{} ? 1 : 0", l.text(*v)),
        };
        let cast = if *dtype == DType::F32 { "" } else { "(unsigned char)" };
        let value = if cast.is_empty() { value } else { format!("{cast}({value})") };
        let _ = writeln!(l.lines, "{pad}store{i}[t * {elements} + e] = {value};");
    }
    // A state may be the old value of another: all are read before any is written.
    let named: Vec<String> = next.iter().map(|lane| if let Lane::Float(v) = lane { l.text(*v) } else { String::new() }).collect();
    for (i, value) in named.iter().enumerate() {
        if value.starts_with("state") && *value != format!("state{i}") {
            let _ = writeln!(l.lines, "{pad}const float next{i} = {value};");
        }
    }
    for (i, value) in named.iter().enumerate().filter(|(i, value)| **value != format!("state{i}")) {
        let value = if value.starts_with("state") { format!("next{i}") } else { value.clone() };
        let _ = writeln!(l.lines, "{pad}state{i} = {value};");
    }
    text.push_str(&l.lines);
    if looped {
        text.push_str("  }\n");
    }
    for (i, _) in &kernel.finals {
        let _ = match fixed.get(i) {
            // No integer is a NaN: it becomes 0.
            Some(f) => writeln!(text, "  final{i}[e] = ({})whole(state{i} * {});", state_type(*i), literal(1.0 / f.step)),
            None => writeln!(text, "  final{i}[e] = state{i};"),
        };
    }
    if dialect == Dialect::C {
        text.push_str("  }\n");
        text = without_unread(&text);
        // Arguments that nobody reads any more.
        let body = text.split_once("{\n").map_or("", |(_, body)| body);
        let words: std::collections::HashSet<&str> = body.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        let unread: String =
            arguments.iter().filter(|(_, _, n)| !words.contains(&n[..])).map(|(_, _, n)| format!("  (void){n};\n")).collect();
        text.push_str(&unread);
    }
    text.push_str("}\n");
    text
}

/// Without declarations that nobody reads: in C they are warnings.
fn without_unread(text: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut read: std::collections::HashSet<&str> = std::collections::HashSet::new();
    for line in text.lines().rev() {
        let declared =
            line.trim_start().strip_prefix("const ").and_then(|d| d.split_once(" = ")).and_then(|(d, _)| d.split(' ').next_back());
        if declared.is_some_and(|name| !read.contains(name)) {
            continue;
        }
        let value = if declared.is_some() { line.split_once(" = ").map_or(line, |(_, value)| value) } else { line };
        read.extend(value.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !w.is_empty()));
        kept.push(line);
    }
    kept.reverse();
    kept.join("\n") + "\n"
}

/// Does a load walk over memory exactly as the elements are counted?
pub(crate) fn contiguous(l: &Load, kernel: &StepKernel) -> bool {
    let mut behind = kernel.run;
    !l.uniform
        && l.outer.iter().zip(&kernel.outer).rev().all(|(stride, size)| {
            let fits = *stride == behind;
            behind *= size;
            fits
        })
}

/// A float as both languages read it, to the bit.
pub(crate) fn literal(x: f32) -> String {
    if x.is_finite() { format!("{x:?}f") } else { format!("FLOAT(0x{:08x})", x.to_bits()) }
}

/// A value in the text: an expression without side effects that needs no brackets.
#[derive(Clone, Copy, Debug)]
struct Name(usize);

/// Writes one declaration for each operation.
struct Text {
    pad: &'static str,
    lines: String,
    names: Vec<String>,
}

impl Text {
    fn name(&mut self, text: String) -> Name {
        self.names.push(text);
        Name(self.names.len() - 1)
    }

    fn text(&self, name: Name) -> String {
        self.names[name.0].clone()
    }

    fn define(&mut self, ty: &str, expression: String) -> Name {
        let name = format!("v{}", self.names.len());
        let _ = writeln!(self.lines, "{}const {ty} {name} = {expression};", self.pad);
        self.name(name)
    }

    fn infix(&mut self, ty: &str, a: Name, operator: &str, b: Name) -> Name {
        let expression = format!("{} {operator} {}", self.text(a), self.text(b));
        self.define(ty, expression)
    }

    fn call(&mut self, ty: &str, function: &str, arguments: &[Name]) -> Name {
        let list: Vec<String> = arguments.iter().map(|a| self.text(*a)).collect();
        self.define(ty, format!("{function}({})", list.join(", ")))
    }

    fn load(&mut self, i: usize, load: &Load) -> Lane<Name, Name, Name> {
        let zero = if load.dtype == DType::F32 { "0.0f" } else { "0" };
        let time = match (load.time, load.delay) {
            (0, _) => String::new(),
            (stride, 0) => format!(" + t * {stride}"),
            (stride, delay) => format!(" + (t - {delay}) * {stride}"),
        };
        let mut value = format!("load{i}[at{i}{time}]");
        if load.delay > 0 {
            value = format!("t < {} ? {zero} : {value}", load.delay);
        }
        match load.dtype {
            DType::F32 => Lane::Float(self.define("float", value)),
            DType::Bool => Lane::Mask(self.define("bool", format!("({value}) != 0"))),
            DType::U8 | DType::I64 => Lane::Int(self.define("int", value)),
        }
    }
}

impl Lanes for Text {
    type F = Name;
    type I = Name;
    type M = Name;

    fn float(&mut self, x: f32) -> Name {
        // A negative number in brackets, so that it can follow any operator.
        let text = literal(x);
        self.name(if text.starts_with('-') { format!("({text})") } else { text })
    }
    fn int(&mut self, x: i32) -> Name {
        self.name(if x == i32::MIN {
            "(-2147483647 - 1)".into()
        } else if x < 0 {
            format!("({x})")
        } else {
            x.to_string()
        })
    }
    fn add(&mut self, a: Name, b: Name) -> Name {
        self.infix("float", a, "+", b)
    }
    fn sub(&mut self, a: Name, b: Name) -> Name {
        self.infix("float", a, "-", b)
    }
    fn mul(&mut self, a: Name, b: Name) -> Name {
        self.infix("float", a, "*", b)
    }
    fn div(&mut self, a: Name, b: Name) -> Name {
        self.infix("float", a, "/", b)
    }
    fn neg(&mut self, a: Name) -> Name {
        let expression = format!("-{}", self.text(a));
        self.define("float", expression)
    }
    fn abs(&mut self, a: Name) -> Name {
        self.call("float", "LIBRARY(fabs)", &[a])
    }
    fn sqrt(&mut self, a: Name) -> Name {
        self.call("float", "LIBRARY(sqrt)", &[a])
    }
    fn floor(&mut self, a: Name) -> Name {
        self.call("float", "LIBRARY(floor)", &[a])
    }
    fn round(&mut self, a: Name) -> Name {
        self.call("float", "LIBRARY(rint)", &[a])
    }
    fn max(&mut self, a: Name, b: Name) -> Name {
        self.call("float", "largest", &[a, b])
    }
    fn min(&mut self, a: Name, b: Name) -> Name {
        self.call("float", "smallest", &[a, b])
    }
    fn lt(&mut self, a: Name, b: Name) -> Name {
        self.infix("bool", a, "<", b)
    }
    fn le(&mut self, a: Name, b: Name) -> Name {
        self.infix("bool", a, "<=", b)
    }
    fn eq(&mut self, a: Name, b: Name) -> Name {
        self.infix("bool", a, "==", b)
    }
    fn int_eq(&mut self, a: Name, b: Name) -> Name {
        self.infix("bool", a, "==", b)
    }
    fn and(&mut self, a: Name, b: Name) -> Name {
        self.infix("bool", a, "&&", b)
    }
    fn or(&mut self, a: Name, b: Name) -> Name {
        self.infix("bool", a, "||", b)
    }
    fn not(&mut self, a: Name) -> Name {
        let expression = format!("!{}", self.text(a));
        self.define("bool", expression)
    }
    fn select(&mut self, m: Name, a: Name, b: Name) -> Name {
        let expression = format!("{} ? {} : {}", self.text(m), self.text(a), self.text(b));
        self.define("float", expression)
    }
    fn to_int(&mut self, a: Name) -> Name {
        self.call("int", "whole", &[a])
    }
    fn to_float(&mut self, a: Name) -> Name {
        let expression = format!("(float){}", self.text(a));
        self.define("float", expression)
    }
    fn bits(&mut self, a: Name) -> Name {
        self.call("int", "BITS", &[a])
    }
    fn bits_to_float(&mut self, a: Name) -> Name {
        self.call("float", "FLOAT", &[a])
    }
    fn int_add(&mut self, a: Name, b: Name) -> Name {
        self.infix("int", a, "+", b)
    }
    fn int_sub(&mut self, a: Name, b: Name) -> Name {
        self.infix("int", a, "-", b)
    }
    fn int_and(&mut self, a: Name, b: Name) -> Name {
        self.infix("int", a, "&", b)
    }
    fn shift_left(&mut self, a: Name, n: u8) -> Name {
        let expression = format!("{} << {n}", self.text(a));
        self.define("int", expression)
    }
    fn shift_right(&mut self, a: Name, n: u8) -> Name {
        let expression = format!("{} >> {n}", self.text(a));
        self.define("int", expression)
    }
    fn fmod(&mut self, a: Name, b: Name) -> Name {
        self.call("float", "remainder_of", &[a, b])
    }
    fn far_angles(&mut self, x: Name, r: Name, k: Name) -> (Name, Name) {
        let both = self.call("wide", "far_angle", &[x, r, k]);
        let text = self.text(both);
        (self.define("float", format!("FLOAT((int){text})")), self.define("int", format!("(int)({text} >> 32)")))
    }
}

//! States of neurons in fixed point: after each step they are rounded to a grid, and saturate at its ends.
//!
//! A number of the format Qm.n has a sign, `m` bits before and `n` bits after the point: it is `k 2^-n` with an integer
//! `-2^(m + n) <= k < 2^(m + n)`. As `m + n` is at most 23, f32 holds every such number, so that every back end computes the same bits,
//! and hardware of integers can: a state is `k`, and a step ends with a rounding to nearest, ties to even, and a saturation.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use snn_ir::{BinaryOp, Build, Graph, Op, Type, UnaryOp, Value};

/// A format of fixed point, Qm.n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FixedPoint {
    integer: u32,
    fraction: u32,
}

/// Bits of a number beside its sign that f32 holds exactly.
const MOST_BITS: u32 = 23;

impl FixedPoint {
    /// The format with so many bits before and after the point; `None` where f32 does not hold all of its numbers.
    pub fn new(integer: u32, fraction: u32) -> Option<FixedPoint> {
        let bits = integer.checked_add(fraction)?;
        (1..=MOST_BITS).contains(&bits).then_some(FixedPoint { integer, fraction })
    }

    /// The format of `bits` bits, the sign counted, that holds numbers up to `largest` with the most bits after the point.
    pub fn holding(largest: f32, bits: u32) -> Option<FixedPoint> {
        let own = bits.checked_sub(1)?;
        let integer = (0..=own).find(|m| largest < (*m as f32).exp2())?;
        FixedPoint::new(integer, own - integer)
    }

    /// The distance of two numbers.
    pub fn step(self) -> f32 {
        (-(self.fraction as f32)).exp2()
    }

    /// Bits of a number, its sign counted.
    pub fn bits(self) -> u32 {
        self.integer + self.fraction + 1
    }

    /// The largest number.
    pub fn largest(self) -> f32 {
        (self.integer as f32).exp2() - self.step()
    }

    /// A value on the grid. Where it is `trained`, its derivative is that of the value as it was (straight-through).
    fn rounded(self, build: &mut Build<'_>, x: Value, trained: bool) -> Value {
        let (scale, step) = (build.like(1.0 / self.step(), x), build.like(self.step(), x));
        let scaled = build.mul(x, scale);
        let whole = build.unary(UnaryOp::Round, scaled);
        let end = ((self.integer + self.fraction) as f32).exp2();
        let (low, high) = (build.like(-end, x), build.like(end - 1.0, x));
        let above = build.binary(BinaryOp::Max, whole, low);
        let inside = build.binary(BinaryOp::Min, above, high);
        // Integers have one zero: a negative one becomes the other.
        let fixed = build.mul(inside, step);
        let zero = build.like(0.0, x);
        let fixed = build.add(fixed, zero);
        if !trained {
            return fixed;
        }
        // Zero, with the derivative of the value.
        let (fixed, detached) = (build.unary(UnaryOp::Detach, fixed), build.unary(UnaryOp::Detach, x));
        let zero = build.sub(x, detached);
        build.add(fixed, zero)
    }
}

impl fmt::Display for FixedPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Q{}.{}", self.integer, self.fraction)
    }
}

impl FromStr for FixedPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<FixedPoint, String> {
        let numbers = text.strip_prefix(['Q', 'q']).and_then(|t| t.split_once('.'));
        let numbers = numbers.and_then(|(m, n)| Some((m.parse::<u32>().ok()?, n.parse::<u32>().ok()?)));
        let wanted = format!("`Qm.n`, with m bits before the point and n after it, together 1 to {MOST_BITS}: `Q7.8`");
        let (integer, fraction) = numbers.ok_or_else(|| format!("a format of fixed point is {wanted}"))?;
        FixedPoint::new(integer, fraction).ok_or_else(|| format!("`{text}` is not {wanted}"))
    }
}

/// A graph whose neurons keep their states in fixed point, the first ones too.
pub(crate) fn with_fixed_states(graph: &Graph, format: FixedPoint, trained: bool) -> Graph {
    graph.rebuild(|new, _, mut node| {
        if let Op::Loop(l) = &mut node.op {
            l.body = with_fixed_states(&l.body, format, trained);
        } else if let Op::Scan(s) = &mut node.op {
            let s = Arc::make_mut(s);
            for k in 0..s.roles.states {
                // A state that is a result too is what the next step begins with.
                let next = s.body.outputs[s.roles.outputs + k].1;
                let rounded = format.rounded(&mut Build(&mut s.body), next, trained);
                s.body.outputs.iter_mut().filter(|(_, v)| *v == next).for_each(|(_, v)| *v = rounded);
                let first = &mut node.operands[s.roles.first_state() + k];
                *first = format.rounded(&mut Build(new), *first, trained);
            }
        }
        let id = new.push(node);
        new.results(id).collect()
    })
}

/// A graph whose outputs are the largest sizes of the states of its neurons, by layer and state.
pub fn largest_states(graph: &Graph) -> Graph {
    let (mut found, mut own_names) = (Vec::new(), Vec::new());
    let mut new = graph.rebuild(|new, _, mut node| {
        let mut names = Vec::new();
        if let Op::Scan(s) = &mut node.op {
            let s = Arc::make_mut(s);
            let layer = node.name.clone().unwrap_or_else(|| s.body.name.clone());
            // Each state after each step, as further outputs.
            let states = s.body.outputs[s.roles.outputs..].to_vec();
            names = states.iter().map(|(n, _)| format!("{layer}.{n}")).collect();
            let ty = new.ty(node.operands[0]).clone();
            let outputs = states.into_iter().map(|(n, v)| (format!("each.{n}"), v));
            s.body.outputs.splice(s.roles.outputs..s.roles.outputs, outputs);
            node.types.splice(s.roles.outputs..s.roles.outputs, names.iter().map(|_| Type::new(snn_ir::DType::F32, ty.shape.clone())));
            s.roles.outputs += names.len();
        }
        let (count, added) = (node.types.len(), names.len());
        let id = new.push(node);
        let first = count - 2 * added;
        for (k, name) in names.into_iter().enumerate() {
            let states = Value { node: id, result: (first + k) as u16 };
            let mut build = Build(new);
            let size = build.unary(UnaryOp::Abs, states);
            let axes = (0..build.0.ty(size).rank()).collect();
            found.push((own_name(&mut own_names, name), build.0.add(Op::Reduce { kind: snn_ir::Reduction::Max, axes }, &[size])));
        }
        let results: Vec<Value> = new.results(id).collect();
        results.iter().enumerate().filter(|(i, _)| *i < first || *i >= first + added).map(|(_, v)| *v).collect()
    });
    new.outputs = found;
    new.updates.clear();
    new
}

/// A name that none before has: `lif`, `lif#2`, `lif#3`.
pub fn own_name(names: &mut Vec<String>, wanted: String) -> String {
    let others = (2..).map(|k| format!("{wanted}#{k}"));
    let name = std::iter::once(wanted.clone()).chain(others).find(|n| !names.contains(n)).unwrap_or(wanted);
    names.push(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_and_hold_what_they_say() {
        let q: FixedPoint = "Q7.8".parse().unwrap();
        assert_eq!((q.step(), q.largest(), q.to_string()), (1.0 / 256.0, 128.0 - 1.0 / 256.0, "Q7.8".to_string()));
        for wrong in ["7.8", "Q", "Q-1.3", "Q20.8", "Q0.0", "Q1", "Q4294967295.1"] {
            assert!(wrong.parse::<FixedPoint>().is_err(), "{wrong}");
        }
        assert_eq!(FixedPoint::holding(3.2, 16), FixedPoint::new(2, 13));
        assert_eq!(FixedPoint::holding(0.5, 8), FixedPoint::new(0, 7));
        assert_eq!(FixedPoint::holding(1e9, 16), None);
    }
}

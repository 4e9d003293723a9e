//! Tensors that are made: of one number, of random numbers, of counting.

use snn_ir::{DType, Dim, Distribution, Op, Type, Value};
use snn_syntax::Span;

use crate::builtins::Arguments;
use crate::context::{Lowerer, Result};
use crate::value::Val;

impl Lowerer<'_> {
    /// `arange(n)`.
    pub(super) fn counted(&mut self, a: &Arguments) -> Result<Value> {
        let n = self.integers(a.get(0), a.span(0))?;
        let [n] = n.as_slice() else { return self.fail(a.span, "`arange` takes one number", "here") };
        if n.as_constant().is_some_and(|n| n < 0) {
            return self.fail(a.span(0), format!("a range of {n} numbers"), "this is negative");
        }
        self.emit(Op::Iota { length: n.clone() }, &[], a.span)
    }

    /// `zeros(shape)` and `ones(shape)`, or `full(shape, value)`, whose value is the second argument.
    pub(super) fn filled_tensor(&mut self, value: Option<f64>, a: &Arguments) -> Result<Value> {
        let shape = self.new_shape(a)?;
        let v = self.lift(value.map_or_else(|| a.get(1), Val::Float), None, a.span)?;
        self.broadcast(v, &shape, a.span)
    }

    /// `rand(shape)` and `randn(shape)`.
    pub(super) fn drawn(&mut self, distribution: Distribution, a: &Arguments) -> Result<Value> {
        let shape = self.new_shape(a)?;
        self.streams += 1;
        let stream = self.streams;
        if self.in_step() {
            return self.noise(distribution, stream, &shape, a.span(0));
        }
        self.emit(Op::Random { distribution, stream, shape }, &[], a.span)
    }

    fn new_shape(&mut self, a: &Arguments) -> Result<Vec<Dim>> {
        let shape = self.integers(a.get(0), a.span(0))?;
        match shape.iter().find(|d| d.as_constant().is_some_and(|n| n < 0)) {
            Some(d) => self.fail(a.span(0), format!("a dimension of {d}"), "a dimension is not negative"),
            None => Ok(shape),
        }
    }

    /// A random number in the step of a neuron: another one for each element and step, so a sequence of the net around it.
    fn noise(&mut self, distribution: Distribution, stream: u32, shape: &[Dim], span: Span) -> Result<Value> {
        let Some(sequence) = self.context().sequence.clone() else {
            return self.fail(span, "a surrogate draws no random numbers", "here");
        };
        if !shape.is_empty() {
            return self.fail_help(span, "a step sees one element, and draws one number for it", "this is a shape", "write `randn([])`");
        }
        let step = self.close();
        let drawn = self.emit(Op::Random { distribution, stream, shape: sequence.shape }, &[], span);
        self.contexts.push(step);
        let drawn = drawn?;
        let n = self.context().noise.len();
        let inner = self.graph().input(format!("noise{n}"), Type::scalar(DType::F32));
        self.context().noise.push((drawn, inner));
        Ok(inner)
    }
}

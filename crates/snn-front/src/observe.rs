//! What a program says while it runs: `print(x)`, and `assert` about data.
//!
//! Both are outputs of the graph, called `print.0`, `assert.0` and so on, which whoever runs it takes off the results. An assertion's
//! is the number of elements for which it does not hold.

use snn_ir::{DType, Op, Reduction, UnaryOp, Value};
use snn_syntax::Span;
use snn_syntax::ast::ExprId;

use crate::builtins::Arguments;
use crate::context::{Lowerer, Purpose, Result};
use crate::value::Val;

/// An output of a graph that is said and not given.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What the output is called.
    pub output: String,
    /// What is said.
    pub kind: Observed,
    /// Where it is written.
    pub span: Span,
}

/// What is said of an output.
#[derive(Clone, Debug)]
pub enum Observed {
    /// Its value, by the text of the expression.
    Print(String),
    /// If it is not 0, that an assertion does not hold, with its message.
    Assert(String),
}

/// Is an output one that is said and not given?
pub fn is_observation(output: &str) -> bool {
    output.starts_with("print.") || output.starts_with("assert.")
}

impl Lowerer<'_> {
    /// `print(x)`: gives `x`, and says it when the program runs.
    pub(crate) fn print(&mut self, a: &Arguments) -> Result<Val> {
        let value = a.get(0);
        let span = a.span(0);
        if matches!(value, Val::Unknown) {
            return Ok(value);
        }
        let tensor = self.lift(value.clone(), None, span)?;
        let text = self.module.sources.text(span).split_whitespace().collect::<Vec<_>>().join(" ");
        let label = if text.is_empty() { "value".to_string() } else { text };
        self.observe(tensor, Observed::Print(label), a.span)?;
        Ok(value)
    }

    /// `assert condition` about data: no element of the condition may be false.
    pub(crate) fn assert_data(&mut self, condition: Val, message: String, span: Span, e: ExprId) -> Result<()> {
        let place = self.ast(self.frames.last().map_or(0, |f| f.file)).expr(e).span;
        let condition = self.lift(condition, None, place)?;
        let ty = self.ty(condition);
        if ty.dtype != DType::Bool {
            return self.fail_help(place, format!("an assertion is true or false, not {ty}"), "here", "compare it: `x >= 0`");
        }
        let fails = self.emit(Op::Unary(UnaryOp::Not), &[condition], span)?;
        let ones = self.emit(Op::Cast { dtype: DType::F32 }, &[fails], span)?;
        let axes: Vec<usize> = (0..ty.rank()).collect();
        let count = if axes.is_empty() { ones } else { self.emit(Op::Reduce { kind: Reduction::Sum, axes }, &[ones], span)? };
        self.observe(count, Observed::Assert(message), span)
    }

    fn observe(&mut self, value: Value, kind: Observed, span: Span) -> Result<()> {
        if self.contexts.last().is_none_or(|c| c.purpose != Purpose::Net) {
            let help = "look at the layer's fields in a net: `print(n.v)`";
            return self.fail_help(span, "a neuron, a surrogate or an initial value says nothing while it runs", "here", help);
        }
        // A first look at a recursive value is no run.
        if self.dry == 0 {
            let word = match kind {
                Observed::Print(_) => "print",
                Observed::Assert(_) => "assert",
            };
            let (span, _) = self.user_span(span);
            let output = format!("{word}.{}", self.observations.len());
            self.observations.push((Observation { output, kind, span }, value));
        }
        Ok(())
    }
}

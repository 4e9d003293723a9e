//! What a program says while it runs: `print(x)`, and assertions about data that do not hold.

use std::sync::Arc;

use snn_front::{Observation, Observed};
use snn_ir::{Tensor, tensor::Data};

use crate::{Diagnostic, Error, Program};

/// Where the lines of `print` go.
#[derive(Clone)]
pub struct Printer(pub Arc<dyn Fn(&str) + Send + Sync>);

impl Default for Printer {
    /// Standard error.
    fn default() -> Printer {
        Printer(Arc::new(|line| {
            use std::io::Write;
            // Whoever closes standard error wants no lines.
            let _ = writeln!(std::io::stderr(), "{line}");
        }))
    }
}

impl std::fmt::Debug for Printer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Printer")
    }
}

/// Takes what is said off the results of runs, and says it.
pub(crate) struct Observer {
    program: Program,
    observations: Vec<Observation>,
    printer: Printer,
}

impl Observer {
    pub(crate) fn new(program: &Program, observations: Vec<Observation>, printer: &Printer) -> Observer {
        Observer { program: program.clone(), observations, printer: printer.clone() }
    }

    /// Prints in order, up to the first assertion that does not hold.
    ///
    /// # Errors
    /// That one.
    pub(crate) fn observe(&self, outputs: &mut Vec<(String, Tensor)>) -> Result<(), Error> {
        for o in &self.observations {
            let Some(at) = outputs.iter().position(|(name, _)| *name == o.output) else { continue };
            let (_, value) = outputs.remove(at);
            match &o.kind {
                Observed::Print(label) => (self.printer.0)(&format!("{label} ({}): {}", self.place(o), described(&value))),
                Observed::Assert(message) => {
                    let fails: f64 = numbers(&value).iter().sum();
                    if fails > 0.0 {
                        let label = if fails == 1.0 { "false for one element".into() } else { format!("false for {fails} elements") };
                        return Err(self.program.error(vec![Diagnostic::error(message.clone()).label(o.span, label)]));
                    }
                }
            }
        }
        Ok(())
    }

    /// `file:line`
    fn place(&self, o: &Observation) -> String {
        let sources = &self.program.module().sources;
        let line = sources.whole(o.span.file).get(..o.span.start).map_or(1, |before| before.matches('\n').count() + 1);
        format!("{}:{line}", sources.name(o.span.file))
    }
}

fn numbers(t: &Tensor) -> Vec<f64> {
    match t.data() {
        Data::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
        Data::I64(v) => v.iter().map(|x| *x as f64).collect(),
        Data::Bool(v) | Data::U8(v) => v.iter().map(|x| f64::from(*x)).collect(),
    }
}

/// The longest tensor that is printed by its elements.
const SHORT: usize = 8;

/// Type and values of a short tensor, type and statistics of a long one.
fn described(t: &Tensor) -> String {
    let ty = t.ty();
    let number = |x: f64| {
        let text = format!("{x:.4}");
        let short = text.trim_end_matches('0').trim_end_matches('.');
        if x != 0.0 && x.abs() < 1e-3 { format!("{x:.2e}") } else { short.to_string() }
    };
    let all = numbers(t);
    if all.len() <= SHORT {
        let values: Vec<String> = all.into_iter().map(number).collect();
        return format!("{ty} [{}]", values.join(", "));
    }
    let (mut count, mut zeros, mut nan, mut infinite) = (0usize, 0usize, 0usize, 0usize);
    let (mut least, mut largest, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    for x in all.iter().copied() {
        if x.is_nan() {
            nan += 1;
        } else if x.is_infinite() {
            infinite += 1;
        } else {
            count += 1;
            zeros += usize::from(x == 0.0);
            (least, largest, sum) = (least.min(x), largest.max(x), sum + x);
        }
    }
    let mut text = ty.to_string();
    if count > 0 {
        let share = zeros as f64 / all.len() as f64 * 100.0;
        text += &format!(", min {}, mean {}, max {}, {share:.1}% zeros", number(least), number(sum / count as f64), number(largest));
    }
    for (k, what) in [(nan, "NaN"), (infinite, "infinite")] {
        if k > 0 {
            text += &format!(", {k} {what}");
        }
    }
    text
}

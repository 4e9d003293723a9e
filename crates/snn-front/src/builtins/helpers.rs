//! SpikingJelly's helpers, and what looks along time.

use snn_ir::{BinaryOp, DType, Op, Tensor, Value};
use snn_syntax::Diagnostic;

use crate::builtins::Arguments;
use crate::context::{Lowerer, Result};
use crate::value::Val;

impl Lowerer<'_> {
    pub(super) fn delay(&mut self, a: &Arguments) -> Result<Value> {
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
        let delayed = self.emit(Op::Delay { steps }, &[x], a.span)?;
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
            before = self.emit(Op::Slice { axis: 0, start: 0.into(), length: ty.shape[0].clone(), step: 1 }, &[before], a.span)?;
        } else {
            before = self.emit(Op::Pad { axis: 0, low: 0.into(), high: rest, value: 0.0 }, &[before], a.span)?;
        }
        self.emit(Op::Binary(BinaryOp::Add), &[delayed, before], a.span)
    }

    pub(super) fn first_spike(&mut self, a: &Arguments) -> Result<Value> {
        let x = self.lift(a.get(0), None, a.span(0))?;
        let ty = self.ty(x);
        let axis = self.axis(a.get(1), -1, &ty, a.span(1))?;
        let at = ty.shape.iter().position(|d| d.as_name() == Some("T"));
        if let Some(at) = at.filter(|at| *at != axis && matches!(a.get(1), Val::Nothing)) {
            let d = Diagnostic::warning(format!("`first_spike_index` looks along the last dimension, and `T` is dimension {at} of {ty}"))
                .help(format!("write `first_spike_index(x, axis = {at})`"));
            self.warn(a.span(0), d, format!("the last dimension of this is {}", ty.shape[ty.rank() - 1]));
        }
        self.emit(Op::FirstSpike { axis }, &[x], a.span)
    }

    /// `redundant_one_hot(labels, num_classes, n)`.
    pub(super) fn one_hot(&mut self, a: &Arguments) -> Result<Value> {
        let labels = self.lift(a.get(0), Some(DType::I64), a.span(0))?;
        let ty = self.ty(labels);
        let labels = if ty.dtype == DType::U8 { self.cast(labels, DType::I64, a.span)? } else { labels };
        let (classes, repeat) = (self.known(a, 1, "num_classes")?, self.known(a, 2, "n")?);
        if classes < 1 || repeat < 1 {
            let (i, what, n) = if classes < 1 { (1, "num_classes", classes) } else { (2, "n", repeat) };
            return self.fail(a.span(i), format!("`{what}` is {n}, and must be at least 1"), "here");
        }
        self.emit(Op::RedundantOneHot { classes, repeat }, &[labels], a.span(0))
    }

    pub(super) fn kaiming(&mut self, a: &Arguments) -> Result<Val> {
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

    pub(super) fn threshold_margin(&mut self, a: &Arguments) -> Result<Val> {
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
        let value = match training {
            true => self.emit(Op::ThresholdMargin { off, on }, &[label], a.span)?,
            false => self.constant(Tensor::scalar(evaluation), a.span)?,
        };
        let value = self.tensor(value);
        let layer = &mut self.layers[index];
        layer.settings[slot].value = value;
        layer.settings[slot].span = a.span(1);
        layer.margin = Some((a.span(1), ty));
        Ok(Val::Nothing)
    }
}

//! The optimisers' equations as a part of the graph: PyTorch's (`torch.optim`), with its defaults and its order of operations.

use std::collections::BTreeMap;

use snn_ir::{BinaryOp, Build, DType, Graph, Op, ParameterInfo, Tensor, Type, UnaryOp, Value};

use crate::TrainError;

/// Names of the optimiser's tensors begin with this. No layer is called so.
pub const PREFIX: &str = "optimizer.";

/// How parameters follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// `torch.optim.SGD`: `b = momentum b + g`, `p = p - lr b`.
    Sgd {
        /// How much of the last step is kept.
        momentum: f32,
    },
    /// `torch.optim.Adam` (Kingma and Ba, 2015): weight decay is added to the gradient.
    Adam {
        /// How slowly both averages forget.
        betas: (f64, f64),
        /// Added to the denominator.
        eps: f64,
    },
    /// `torch.optim.AdamW` (Loshchilov and Hutter, 2019): weight decay shrinks the parameter.
    AdamW {
        /// How slowly both averages forget.
        betas: (f64, f64),
        /// Added to the denominator.
        eps: f64,
    },
}

impl Optimizer {
    /// Adam with PyTorch's defaults.
    pub const ADAM: Optimizer = Optimizer::Adam { betas: (0.9, 0.999), eps: 1e-8 };
    /// AdamW with PyTorch's defaults, but for weight decay, which is [`Update::weight_decay`].
    pub const ADAM_W: Optimizer = Optimizer::AdamW { betas: (0.9, 0.999), eps: 1e-8 };

    /// A number that tells optimisers apart in checkpoints.
    pub fn code(&self) -> i64 {
        match self {
            Optimizer::Sgd { .. } => 0,
            Optimizer::Adam { .. } => 1,
            Optimizer::AdamW { .. } => 2,
        }
    }
}

/// What happens to parameters in a step. Patterns are those of [`snn_ir::pattern`]; where several fit a parameter, the last counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The equations.
    pub optimizer: Optimizer,
    /// PyTorch's `weight_decay`.
    pub weight_decay: f64,
    /// The largest norm that all gradients together may have, as `clip_grad_norm_`.
    pub clip_norm: Option<f64>,
    /// Learning rates of parameters by pattern, in the place of the common one.
    pub learning_rates: Vec<(String, f64)>,
    /// Weight decays of parameters by pattern, in the place of the common one.
    pub weight_decays: Vec<(String, f64)>,
    /// Patterns of parameters that stay as they are, as with `requires_grad_(False)`: no gradient of theirs is computed or clipped.
    pub frozen: Vec<String>,
    /// Over how many batches gradients are averaged before parameters move, each by its number of samples; 0 and 1 are every batch.
    pub accumulate: usize,
}

/// Which part of a group of batches a step is.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The samples of its batch as a part of those of the group.
    pub share: f64,
    /// Do parameters move after it?
    pub is_last: bool,
}

impl Part {
    /// A batch that is its own group.
    pub const WHOLE: Part = Part { share: 1.0, is_last: true };
}

impl From<Optimizer> for Update {
    /// The optimiser for all parameters alike, without weight decay and clipping.
    fn from(optimizer: Optimizer) -> Update {
        Update {
            optimizer,
            weight_decay: 0.0,
            clip_norm: None,
            learning_rates: vec![],
            weight_decays: vec![],
            frozen: vec![],
            accumulate: 1,
        }
    }
}

/// The last of the patterns that fits a name.
fn last_fit(patterns: &[(String, f64)], name: &str) -> Option<usize> {
    patterns.iter().rposition(|(p, _)| snn_ir::pattern::matched(p, name).is_some())
}

/// What tells the numbers of parameters apart whose learning rate, or learning rate and weight decay, have patterns.
fn suffix(groups: &[Option<usize>]) -> String {
    let written = |g: &Option<usize>| g.map_or_else(|| "common".to_string(), |i| i.to_string());
    if groups.iter().all(Option::is_none) {
        String::new()
    } else {
        format!(".{}", groups.iter().map(written).collect::<Vec<_>>().join("."))
    }
}

/// No group, and then each of `n`.
fn choices(n: usize) -> impl Iterator<Item = Option<usize>> + Clone {
    std::iter::once(None).chain((0..n).map(Some))
}

/// A tensor of the optimiser's own, which starts at zero.
fn state(b: &mut Build<'_>, name: String, ty: &Type) -> Value {
    let mut initial = Graph::new(name.clone());
    let zero = Build(&mut initial).full(0.0, ty);
    initial.outputs.push(("out".into(), zero));
    b.0.parameters.push(ParameterInfo {
        name: name.clone(),
        ty: ty.clone(),
        initial: initial.into(),
        drawn_first: false,
        learnable: false,
    });
    b.0.add(Op::Parameter { name, ty: ty.clone() }, &[])
}

/// A scalar in the shape of a type.
fn broadcast(b: &mut Build<'_>, scalar: Value, ty: &Type) -> Value {
    b.broadcast(scalar, vec![], ty.shape.clone())
}

impl Update {
    /// Numbers that change from step to step, by the names under which the graph reads them: all that it may read. `schedule`
    /// gives the learning rate of the step from the one that was asked for, and `step` counts from 1 how often parameters move.
    pub fn numbers(&self, learning_rate: f64, schedule: impl Fn(f64) -> f64, step: u64, part: Part) -> Vec<(String, Tensor)> {
        let power = |beta: f64| 1.0 - beta.powf(step as f64);
        let mut all = Vec::new();
        let mut named = |name: String, x: f64| all.push((format!("{PREFIX}{name}"), Tensor::scalar(x as f32)));
        for group in choices(self.learning_rates.len()) {
            let rate = schedule(group.map_or(learning_rate, |i| self.learning_rates[i].1));
            let step_size = match self.optimizer {
                Optimizer::Sgd { .. } => rate,
                Optimizer::Adam { betas, .. } | Optimizer::AdamW { betas, .. } => rate / power(betas.0),
            };
            named(format!("step_size{}", suffix(&[group])), step_size);
            if let Optimizer::AdamW { .. } = self.optimizer {
                for decay_group in choices(self.weight_decays.len()) {
                    let decay = decay_group.map_or(self.weight_decay, |i| self.weight_decays[i].1);
                    named(format!("decay{}", suffix(&[group, decay_group])), 1.0 - rate * decay);
                }
            }
        }
        if self.accumulate > 1 {
            named("share".into(), part.share);
            named("is_last".into(), f64::from(u8::from(part.is_last)));
        }
        match self.optimizer {
            Optimizer::Sgd { .. } => {}
            Optimizer::Adam { betas, .. } | Optimizer::AdamW { betas, .. } => named("correction".into(), power(betas.1).sqrt()),
        }
        all
    }

    /// Does a pattern say that a parameter stays?
    fn is_frozen(&self, name: &str) -> bool {
        self.frozen.iter().any(|p| snn_ir::pattern::matched(p, name).is_some())
    }

    /// Every pattern must be there for something.
    fn check_patterns(&self, graph: &Graph) -> Result<(), TrainError> {
        let names: Vec<&str> = graph.parameters.iter().filter(|p| p.learnable).map(|p| p.name.as_str()).collect();
        let patterns = self.learning_rates.iter().chain(&self.weight_decays).map(|(p, _)| p).chain(&self.frozen);
        for pattern in patterns {
            if !names.iter().any(|n| snn_ir::pattern::matched(pattern, n).is_some()) {
                let (pattern, names) = (pattern.clone(), names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "));
                return Err(TrainError::NoSuchParameter { pattern, names });
            }
        }
        if !names.is_empty() && names.iter().all(|n| self.is_frozen(n)) {
            return Err(TrainError::AllFrozen);
        }
        Ok(())
    }

    /// Puts the equations in the place of the outputs `grad.<name>`: new values of parameters and of the optimiser's state
    /// become updates of the graph.
    ///
    /// # Errors
    /// If a pattern fits no parameter, or nothing is left to learn.
    pub fn extend(&self, graph: &Graph) -> Result<Graph, TrainError> {
        self.check_patterns(graph)?;
        let mut graph = graph.clone();
        let mut gradients: Vec<(String, Value)> =
            graph.outputs.iter().filter_map(|(n, v)| Some((n.strip_prefix("grad.")?.to_string(), *v))).collect();
        gradients.retain(|(n, _)| !self.is_frozen(n));
        graph.outputs.retain(|(n, _)| !n.starts_with("grad."));
        let scalar = Type::scalar(DType::F32);
        let mut b = Build(&mut graph);
        let correction = (!matches!(self.optimizer, Optimizer::Sgd { .. })).then(|| state(&mut b, format!("{PREFIX}correction"), &scalar));
        // Each number once, however many parameters follow it.
        let mut numbers: BTreeMap<String, Value> = BTreeMap::new();
        let mut number =
            |b: &mut Build<'_>, name: String| *numbers.entry(name.clone()).or_insert_with(|| state(b, format!("{PREFIX}{name}"), &scalar));
        let group = (self.accumulate > 1).then(|| Group::new(&mut b));
        if let Some(group) = &group {
            for (name, g) in &mut gradients {
                *g = group.summed(&mut b, name, *g);
            }
        }
        let first_update = b.0.updates.len();
        let clip = self.clip_norm.map(|most| clipping(&mut b, &gradients, most));
        for (name, gradient) in gradients {
            let ty = b.0.ty(gradient).clone();
            let mut g = gradient;
            if let Some(clip) = clip {
                let factor = broadcast(&mut b, clip, &ty);
                g = b.mul(g, factor);
            }
            let parameter = b.0.add(Op::Parameter { name: name.clone(), ty: ty.clone() }, &[]);
            let own = |kind: &str| format!("{PREFIX}{kind}.{name}");
            let (rate_group, decay_group) = (last_fit(&self.learning_rates, &name), last_fit(&self.weight_decays, &name));
            let step_size = number(&mut b, format!("step_size{}", suffix(&[rate_group])));
            let step_size = broadcast(&mut b, step_size, &ty);
            let weight_decay = decay_group.map_or(self.weight_decay, |i| self.weight_decays[i].1);
            let decay = matches!(self.optimizer, Optimizer::AdamW { .. })
                .then(|| number(&mut b, format!("decay{}", suffix(&[rate_group, decay_group]))));
            if weight_decay != 0.0 && decay.is_none() {
                let rate = b.full(weight_decay as f32, &ty);
                let pull = b.mul(parameter, rate);
                g = b.add(g, pull);
            }
            let next = match self.optimizer {
                Optimizer::Sgd { momentum } => {
                    if momentum != 0.0 {
                        let kept = state(&mut b, own("momentum"), &ty);
                        let rate = b.full(momentum, &ty);
                        let slowed = b.mul(kept, rate);
                        g = b.add(slowed, g);
                        b.0.updates.push((own("momentum"), g));
                    }
                    let move_by = b.mul(step_size, g);
                    b.sub(parameter, move_by)
                }
                Optimizer::Adam { betas, eps } | Optimizer::AdamW { betas, eps } => {
                    let mut parameter = parameter;
                    if let Some(decay) = decay {
                        let decay = broadcast(&mut b, decay, &ty);
                        parameter = b.mul(parameter, decay);
                    }
                    let (m, v) = (state(&mut b, own("exp_avg"), &ty), state(&mut b, own("exp_avg_sq"), &ty));
                    // lerp: m + (1 - beta1) (g - m)
                    let (away, rate) = (b.sub(g, m), b.full((1.0 - betas.0) as f32, &ty));
                    let change = b.mul(rate, away);
                    let m = b.add(m, change);
                    // addcmul: beta2 v + (1 - beta2) g g
                    let (keep, rate) = (b.full(betas.1 as f32, &ty), b.full((1.0 - betas.1) as f32, &ty));
                    let (kept, scaled) = (b.mul(v, keep), b.mul(rate, g));
                    let square = b.mul(scaled, g);
                    let v = b.add(kept, square);
                    let root = b.unary(UnaryOp::Sqrt, v);
                    let denominator = match correction {
                        Some(c) => {
                            let c = broadcast(&mut b, c, &ty);
                            b.div(root, c)
                        }
                        None => root,
                    };
                    let eps = b.full(eps as f32, &ty);
                    let denominator = b.add(denominator, eps);
                    b.0.updates.push((own("exp_avg"), m));
                    b.0.updates.push((own("exp_avg_sq"), v));
                    // addcdiv: p - step_size m / denominator
                    let scaled = b.mul(step_size, m);
                    let move_by = b.div(scaled, denominator);
                    b.sub(parameter, move_by)
                }
            };
            b.0.updates.push((name, next));
        }
        if let Some(group) = group {
            group.move_at_its_end(&mut b, first_update);
        }
        Ok(graph)
    }
}

/// Batches whose gradients are summed before parameters move.
struct Group {
    share: Value,
    is_last: Value,
}

impl Group {
    fn new(b: &mut Build<'_>) -> Group {
        let scalar = Type::scalar(DType::F32);
        let (share, flag) = (state(b, format!("{PREFIX}share"), &scalar), state(b, format!("{PREFIX}is_last"), &scalar));
        let half = b.full(0.5, &scalar);
        Group { share, is_last: b.binary(BinaryOp::Gt, flag, half) }
    }

    /// The gradient of the group so far, which is kept until its end.
    fn summed(&self, b: &mut Build<'_>, name: &str, gradient: Value) -> Value {
        let ty = b.0.ty(gradient).clone();
        let own = format!("{PREFIX}sum.{name}");
        let before = state(b, own.clone(), &ty);
        let share = broadcast(b, self.share, &ty);
        let part = b.mul(gradient, share);
        let sum = b.add(before, part);
        let zero = b.full(0.0, &ty);
        let kept = self.choose(b, zero, sum);
        b.0.updates.push((own, kept));
        sum
    }

    /// `at_end` after the last batch of the group, else `before`.
    fn choose(&self, b: &mut Build<'_>, at_end: Value, before: Value) -> Value {
        let ty = b.0.ty(at_end).clone();
        let condition = b.broadcast(self.is_last, vec![], ty.shape.clone());
        b.0.add(Op::Select, &[condition, at_end, before])
    }

    /// Updates from `first` on happen after the last batch only.
    fn move_at_its_end(&self, b: &mut Build<'_>, first: usize) {
        for i in first..b.0.updates.len() {
            let (name, next) = b.0.updates[i].clone();
            let ty = b.0.ty(next).clone();
            let old = b.0.add(Op::Parameter { name, ty }, &[]);
            b.0.updates[i].1 = self.choose(b, next, old);
        }
    }
}

/// What all gradients are multiplied by, so that their common norm is at most `most`.
fn clipping(b: &mut Build<'_>, gradients: &[(String, Value)], most: f64) -> Value {
    let scalar = Type::scalar(DType::F32);
    let mut total = b.full(0.0, &scalar);
    for (_, g) in gradients {
        let square = b.mul(*g, *g);
        let axes: Vec<usize> = (0..b.0.ty(square).rank()).collect();
        let sum = b.sum(square, axes);
        total = b.add(total, sum);
    }
    let norm = b.unary(UnaryOp::Sqrt, total);
    let (little, most, one) = (b.full(1e-6, &scalar), b.full(most as f32, &scalar), b.full(1.0, &scalar));
    let norm = b.add(norm, little);
    let factor = b.div(most, norm);
    b.binary(BinaryOp::Min, factor, one)
}

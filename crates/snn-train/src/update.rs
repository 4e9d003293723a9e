//! The optimisers' equations as a part of the graph: PyTorch's (`torch.optim`), with its defaults and its order of operations.

use snn_ir::{BinaryOp, DType, Graph, Op, ParameterInfo, Reduction, Tensor, Type, UnaryOp, Value};

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

/// What happens to parameters in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The equations.
    pub optimizer: Optimizer,
    /// PyTorch's `weight_decay`.
    pub weight_decay: f64,
    /// The largest norm that all gradients together may have, as `clip_grad_norm_`.
    pub clip_norm: Option<f64>,
}

struct Build<'a>(&'a mut Graph);

impl Build<'_> {
    fn spread(&mut self, scalar: Value, ty: &Type) -> Value {
        if ty.rank() == 0 { scalar } else { self.0.add(Op::Broadcast { axes: vec![] }, &[scalar], Some(ty.clone())) }
    }

    fn number(&mut self, x: f64, ty: &Type) -> Value {
        let scalar = self.0.add_f32(x as f32);
        self.spread(scalar, ty)
    }

    fn op(&mut self, op: BinaryOp, a: Value, b: Value) -> Value {
        self.0.add(Op::Binary(op), &[a, b], None)
    }

    fn mul(&mut self, a: Value, b: Value) -> Value {
        self.op(BinaryOp::Mul, a, b)
    }

    fn plus(&mut self, a: Value, b: Value) -> Value {
        self.op(BinaryOp::Add, a, b)
    }

    fn sqrt(&mut self, a: Value) -> Value {
        self.0.add(Op::Unary(UnaryOp::Sqrt), &[a], None)
    }

    /// A tensor of the optimiser's own, which starts at zero.
    fn state(&mut self, name: String, ty: &Type) -> Value {
        let mut initial = Graph::new(name.clone());
        let zero = Build(&mut initial).number(0.0, ty);
        initial.outputs.push(("out".into(), zero));
        self.0.parameters.push(ParameterInfo { name: name.clone(), ty: ty.clone(), initial, drawn_first: false, learnable: false });
        self.0.add(Op::Parameter(name), &[], Some(ty.clone()))
    }
}

impl Update {
    /// Numbers that change from step to step, by the names under which the graph reads them. `step` counts from 1.
    pub fn numbers(&self, learning_rate: f64, step: u64) -> Vec<(String, Tensor)> {
        let named = |name: &str, x: f64| (format!("{PREFIX}{name}"), Tensor::scalar(x as f32));
        let power = |beta: f64| 1.0 - beta.powf(step as f64);
        match self.optimizer {
            Optimizer::Sgd { .. } => vec![named("step_size", learning_rate)],
            Optimizer::Adam { betas, .. } => {
                vec![named("step_size", learning_rate / power(betas.0)), named("correction", power(betas.1).sqrt())]
            }
            Optimizer::AdamW { betas, .. } => vec![
                named("step_size", learning_rate / power(betas.0)),
                named("correction", power(betas.1).sqrt()),
                named("decay", 1.0 - learning_rate * self.weight_decay),
            ],
        }
    }

    /// Puts the equations in the place of the outputs `grad.<name>`: new values of parameters and of the optimiser's state
    /// become updates of the graph.
    pub fn extend(&self, graph: &Graph) -> Graph {
        let mut graph = graph.clone();
        let gradients: Vec<(String, Value)> =
            graph.outputs.iter().filter_map(|(n, v)| Some((n.strip_prefix("grad.")?.to_string(), *v))).collect();
        graph.outputs.retain(|(n, _)| !n.starts_with("grad."));
        let scalar = Type::scalar(DType::F32);
        let mut b = Build(&mut graph);
        let step_size = b.state(format!("{PREFIX}step_size"), &scalar);
        let correction = (!matches!(self.optimizer, Optimizer::Sgd { .. })).then(|| b.state(format!("{PREFIX}correction"), &scalar));
        let decay = matches!(self.optimizer, Optimizer::AdamW { .. }).then(|| b.state(format!("{PREFIX}decay"), &scalar));
        let clip = self.clip_norm.map(|most| clipping(&mut b, &gradients, most));
        for (name, gradient) in gradients {
            let ty = b.0.ty(gradient).clone();
            let mut g = gradient;
            if let Some(clip) = clip {
                let factor = b.spread(clip, &ty);
                g = b.mul(g, factor);
            }
            let parameter = b.0.add(Op::Parameter(name.clone()), &[], Some(ty.clone()));
            let own = |kind: &str| format!("{PREFIX}{kind}.{name}");
            let step_size = b.spread(step_size, &ty);
            let decays_gradient = self.weight_decay != 0.0 && !matches!(self.optimizer, Optimizer::AdamW { .. });
            if decays_gradient {
                let rate = b.number(self.weight_decay, &ty);
                let pull = b.mul(parameter, rate);
                g = b.plus(g, pull);
            }
            let next = match self.optimizer {
                Optimizer::Sgd { momentum } => {
                    if momentum != 0.0 {
                        let kept = b.state(own("momentum"), &ty);
                        let rate = b.number(f64::from(momentum), &ty);
                        let slowed = b.mul(kept, rate);
                        g = b.plus(slowed, g);
                        b.0.updates.push((own("momentum"), g));
                    }
                    let move_by = b.mul(step_size, g);
                    b.op(BinaryOp::Sub, parameter, move_by)
                }
                Optimizer::Adam { betas, eps } | Optimizer::AdamW { betas, eps } => {
                    let mut parameter = parameter;
                    if let Some(decay) = decay {
                        let decay = b.spread(decay, &ty);
                        parameter = b.mul(parameter, decay);
                    }
                    let (m, v) = (b.state(own("exp_avg"), &ty), b.state(own("exp_avg_sq"), &ty));
                    // lerp: m + (1 - beta1) (g - m)
                    let (away, rate) = (b.op(BinaryOp::Sub, g, m), b.number(1.0 - betas.0, &ty));
                    let change = b.mul(rate, away);
                    let m = b.plus(m, change);
                    // addcmul: beta2 v + (1 - beta2) g g
                    let (keep, rate) = (b.number(betas.1, &ty), b.number(1.0 - betas.1, &ty));
                    let (kept, scaled) = (b.mul(v, keep), b.mul(rate, g));
                    let square = b.mul(scaled, g);
                    let v = b.plus(kept, square);
                    let root = b.sqrt(v);
                    let denominator = match correction {
                        Some(c) => {
                            let c = b.spread(c, &ty);
                            b.op(BinaryOp::Div, root, c)
                        }
                        None => root,
                    };
                    let eps = b.number(eps, &ty);
                    let denominator = b.plus(denominator, eps);
                    b.0.updates.push((own("exp_avg"), m));
                    b.0.updates.push((own("exp_avg_sq"), v));
                    // addcdiv: p - step_size m / denominator
                    let scaled = b.mul(step_size, m);
                    let move_by = b.op(BinaryOp::Div, scaled, denominator);
                    b.op(BinaryOp::Sub, parameter, move_by)
                }
            };
            b.0.updates.push((name, next));
        }
        graph
    }
}

/// What all gradients are multiplied by, so that their common norm is at most `most`.
fn clipping(b: &mut Build<'_>, gradients: &[(String, Value)], most: f64) -> Value {
    let scalar = Type::scalar(DType::F32);
    let mut total = b.number(0.0, &scalar);
    for (_, g) in gradients {
        let square = b.mul(*g, *g);
        let axes: Vec<usize> = (0..b.0.ty(square).rank()).collect();
        let sum = if axes.is_empty() { square } else { b.0.add(Op::Reduce { kind: Reduction::Sum, axes }, &[square], None) };
        total = b.plus(total, sum);
    }
    let norm = b.sqrt(total);
    let (little, most, one) = (b.number(1e-6, &scalar), b.number(most, &scalar), b.number(1.0, &scalar));
    let norm = b.plus(norm, little);
    let factor = b.op(BinaryOp::Div, most, norm);
    b.op(BinaryOp::Min, factor, one)
}

//! The equation of a neuron, found in its step function.
//!
//! A step that NIR can say moves its states by linear forms of the states and the input, fires where a linear form passes a threshold, and resets
//! the membrane. The step is evaluated with forms in place of numbers: `p + s q`, where `p` and `q` are linear in the states and the input and `s`
//! is the spike. What leaves this shape is not an equation of NIR.

use snn_ir::{BinaryOp, Data, Graph, Op, Scan, Tensor, UnaryOp, Value};

use crate::{Compare, Integrator, Order, Reset};

/// One number, or one for each neuron.
pub type Coefficient = Vec<f64>;

/// A neuron as NIR says it, but for the time step: `v` goes `part` of the way to rest in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Equation {
    /// The synaptic current, of neurons that have one.
    pub synapse: Option<Synapse>,
    /// How much of the membrane a step keeps; 1 where there is no leak.
    pub keep: Coefficient,
    /// What a step adds of the current.
    pub gain: Coefficient,
    /// What a step adds in any case.
    pub offset: Coefficient,
    /// Where the membrane begins.
    pub initial: Coefficient,
    /// What it fires at, of neurons that fire.
    pub spike: Option<Firing>,
}

/// A current that decays and is driven by the input.
#[derive(Clone, Debug, PartialEq)]
pub struct Synapse {
    /// How much a step keeps.
    pub keep: Coefficient,
    /// What it adds of the input.
    pub gain: Coefficient,
    /// Which current the membrane takes.
    pub order: Order,
}

/// How a neuron fires.
#[derive(Clone, Debug, PartialEq)]
pub struct Firing {
    /// The threshold.
    pub threshold: Coefficient,
    /// Is it met at the threshold?
    pub compare: Compare,
    /// What a spike does.
    pub reset: Reset,
    /// Where it goes, with [`Reset::Zero`].
    pub v_reset: Coefficient,
}

/// How much of the way to rest, `dt / tau`, as a time constant.
pub fn time_constant(keep: &[f64], dt: f64, integrator: Integrator) -> Option<Coefficient> {
    keep.iter()
        .map(|a| match integrator {
            Integrator::Euler if *a < 1.0 => Some(dt / (1.0 - a)),
            Integrator::Exponential if *a < 1.0 && *a > 0.0 => Some(-dt / a.ln()),
            _ => None,
        })
        .collect()
}

/// Element by element; one number goes with all.
pub fn zip(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> Coefficient {
    let n = if a.len() == 1 { b.len() } else { a.len() };
    (0..n).map(|i| f(a[if a.len() == 1 { 0 } else { i }], b[if b.len() == 1 { 0 } else { i }])).collect()
}

fn all(a: &[f64], f: impl Fn(f64) -> bool) -> bool {
    a.iter().all(|x| f(*x))
}

/// Equal but for the rounding of f32.
fn same(a: &[f64], b: &[f64]) -> bool {
    let scale = a.iter().chain(b).fold(0.0f64, |m, x| m.max(x.abs()));
    all(&zip(a, b, |x, y| x - y), |d| d.abs() <= 1e-6 * scale.max(1e-30))
}

/// `constant + sum of terms[i] * variable i`: the states, then the input.
#[derive(Clone, Debug)]
struct Linear {
    terms: Vec<Coefficient>,
    constant: Coefficient,
}

impl Linear {
    fn constant(n: usize, constant: Coefficient) -> Linear {
        Linear { terms: vec![vec![0.0]; n], constant }
    }

    fn zip(&self, other: &Linear, f: impl Fn(f64, f64) -> f64 + Copy) -> Linear {
        let terms = self.terms.iter().zip(&other.terms).map(|(a, b)| zip(a, b, f)).collect();
        Linear { terms, constant: zip(&self.constant, &other.constant, f) }
    }

    fn scaled(&self, k: &[f64]) -> Linear {
        let by = |a: &Coefficient| zip(a, k, |x, y| if x == 0.0 { 0.0 } else { x * y });
        Linear { terms: self.terms.iter().map(by).collect(), constant: by(&self.constant) }
    }

    /// Its constant, where it has no other term.
    fn number(&self) -> Option<&Coefficient> {
        let scale = self.constant.iter().fold(1.0f64, |m, x| m.max(x.abs()));
        self.terms.iter().all(|t| all(t, |x| x.abs() <= 1e-7 * scale)).then_some(&self.constant)
    }
}

#[derive(Clone, Debug)]
enum Form {
    Linear(Linear),
    /// 1 where the form is at (`strict`: above) zero, else 0.
    Spike {
        argument: Linear,
        strict: bool,
    },
    /// `p + s q` with the only spike.
    Mixed(Linear, Linear),
}

/// The equation of a scan whose settings and initial states are known: `invariants`, and one tensor for each state. `fires` says that the output
/// which is asked for is the first, of the step, and not the sequence of a state.
///
/// # Errors
/// What NIR has no word for.
pub fn equation(scan: &Scan, invariants: &[Coefficient], initial: &[Coefficient]) -> Result<Equation, String> {
    if scan.roles.sequences != 1 || scan.reverse {
        return Err(format!("it has {} inputs, and neurons of NIR have one", scan.roles.sequences));
    }
    let n = scan.roles.states + 1;
    if scan.roles.states == 0 || scan.roles.states > 2 {
        return Err(format!("it has {} states, and neurons of NIR have a membrane and at most one current", scan.roles.states));
    }
    let spikes: Vec<&[Value]> = scan.body.nodes().filter(|(_, n)| matches!(n.op, Op::Spike { .. })).map(|(_, n)| &n.operands[..]).collect();
    if spikes.windows(2).any(|w| w[0] != w[1]) {
        let why =
            "it compares its membrane twice in a step, as snnTorch's neurons do, whose resets look at the membrane of the step before";
        return Err(why.into());
    }
    let forms = forms(scan, invariants)?;
    let at = |v: Value| forms[v.node.index()].clone().ok_or("its step is not linear in its states and its input".to_string());
    let outputs: Vec<Value> = scan.body.outputs.iter().map(|(_, v)| *v).collect();
    let emitted = at(outputs[0])?;
    let next: Vec<Form> = outputs[scan.roles.outputs..].iter().map(|v| at(*v)).collect::<Result<_, _>>()?;
    let x = n - 1;
    // The current depends on itself and the input only.
    let is_current = |i: usize| match &next[i] {
        Form::Linear(f) => f.terms.iter().enumerate().all(|(k, t)| k == i || k == x || all(t, |c| c == 0.0)),
        Form::Spike { .. } | Form::Mixed(..) => false,
    };
    let current = match scan.roles.states {
        1 => None,
        _ => Some((0..2).find(|i| is_current(*i)).ok_or("none of its states is a current that decays")?),
    };
    let v = (0..scan.roles.states).find(|i| Some(*i) != current).unwrap_or(0);
    let (h, spike) = match &emitted {
        Form::Spike { argument, strict } => {
            let Form::Mixed(p, q) = &next[v] else { return Err("a spike does not reset its membrane in the same step".into()) };
            // The argument is the membrane before the reset, less the threshold.
            let difference = p.zip(argument, |a, b| a - b);
            let threshold = difference.number().ok_or("it does not compare its membrane with a threshold")?.clone();
            let (reset, v_reset) = match (q.number(), p.zip(q, |a, b| a + b).number()) {
                (Some(down), _) if same(&zip(down, &[-1.0], |a, b| a * b), &threshold) => (Reset::Subtract, vec![0.0]),
                (_, Some(to)) => (Reset::Zero, to.clone()),
                _ => return Err("a spike takes its membrane neither to a value nor down by the threshold".into()),
            };
            let compare = if *strict { Compare::Gt } else { Compare::Ge };
            (p.clone(), Some(Firing { threshold, compare, reset, v_reset }))
        }
        Form::Linear(out) => {
            let Form::Linear(h) = &next[v] else { return Err("its output is no spike, and it resets".into()) };
            let difference = h.zip(out, |a, b| a - b);
            if !difference.number().is_some_and(|d| all(d, |x| x == 0.0)) {
                return Err("its output is not its membrane after the step".into());
            }
            (h.clone(), None)
        }
        Form::Mixed(..) => return Err("its output is neither a spike nor its membrane".into()),
    };
    let (keep, offset) = (h.terms[v].clone(), h.constant.clone());
    let (synapse, gain) = match current {
        None => (None, h.terms[x].clone()),
        Some(i) => {
            let Form::Linear(f) = &next[i] else { return Err("its current resets".into()) };
            if !all(&f.constant, |c| c == 0.0) || !all(&initial[i], |c| c == 0.0) {
                return Err("its current does not begin and rest at 0".into());
            }
            let (decay, drive) = (&f.terms[i], &f.terms[x]);
            let (order, gain) = if all(&h.terms[x], |c| c == 0.0) {
                (Order::VoltageFirst, h.terms[i].clone())
            } else if same(&zip(&h.terms[x], decay, |a, b| a * b), &zip(&h.terms[i], drive, |a, b| a * b)) {
                // `gain * (keep i + drive x)`, whichever of both terms says it.
                let gain =
                    if all(drive, |d| d != 0.0) { zip(&h.terms[x], drive, |a, b| a / b) } else { zip(&h.terms[i], decay, |a, b| a / b) };
                (Order::CurrentFirst, gain)
            } else {
                return Err("its membrane takes its current neither before nor after the step".into());
            };
            (Some(Synapse { keep: decay.clone(), gain: drive.clone(), order }), gain)
        }
    };
    if all(&gain, |g| g == 0.0) {
        return Err("its membrane does not depend on its input".into());
    }
    Ok(Equation { synapse, keep, gain, offset, initial: initial[v].clone(), spike })
}

/// The form of each node of a step; none where it has another.
fn forms(scan: &Scan, invariants: &[Coefficient]) -> Result<Vec<Option<Form>>, String> {
    let body: &Graph = &scan.body;
    let n = scan.roles.states + 1;
    let variable = |i: usize| {
        let mut f = Linear::constant(n, vec![0.0]);
        f.terms[i] = vec![1.0];
        Form::Linear(f)
    };
    let mut forms: Vec<Option<Form>> = Vec::with_capacity(body.len());
    for (id, node) in body.nodes() {
        let operand = |i: usize| forms[node.operands[i].node.index()].clone();
        let form = if let Op::Input { .. } = &node.op {
            match body.inputs.iter().position(|v| v.node == id) {
                Some(0) => Some(variable(n - 1)),
                Some(i) if i <= scan.roles.invariants => Some(Form::Linear(Linear::constant(n, invariants[i - 1].clone()))),
                Some(i) => Some(variable(i - 1 - scan.roles.invariants)),
                None => None,
            }
        } else if let Op::Constant(t) = &node.op {
            Some(Form::Linear(Linear::constant(n, numbers(t))))
        } else if let Op::Spike { strict, .. } = &node.op {
            match operand(0) {
                Some(Form::Linear(argument)) => Some(Form::Spike { argument, strict: *strict }),
                _ => None,
            }
        } else if let Op::Cast { .. } = &node.op {
            operand(0)
        } else if let Op::Unary(op) = &node.op {
            operand(0).and_then(|a| unary(*op, a))
        } else if let Op::Binary(op) = &node.op {
            operand(0).zip(operand(1)).and_then(|(a, b)| binary(*op, a, b))
        } else if let Op::Select = &node.op {
            match (operand(0), operand(1), operand(2)) {
                (Some(Form::Spike { .. }), Some(Form::Linear(a)), Some(Form::Linear(b))) => {
                    let q = a.zip(&b, |x, y| x - y);
                    Some(Form::Mixed(b, q))
                }
                (Some(Form::Linear(c)), Some(Form::Linear(a)), Some(Form::Linear(b))) => match (c.number(), a.number(), b.number()) {
                    (Some(c), Some(a), Some(b)) => {
                        let chosen = zip(&zip(c, a, |c, a| if c != 0.0 { a } else { f64::NAN }), b, |a, b| if a.is_nan() { b } else { a });
                        Some(Form::Linear(Linear::constant(n, chosen)))
                    }
                    _ => None,
                },
                _ => None,
            }
        } else {
            // An operation that no equation of NIR has: who asks for the form says so.
            None
        };
        forms.push(form);
    }
    Ok(forms)
}

/// The elements of a tensor.
pub fn numbers(t: &Tensor) -> Coefficient {
    match t.data() {
        Data::I64(v) => v.iter().map(|x| *x as f64).collect(),
        Data::F32(_) | Data::Bool(_) | Data::U8(_) => t.to_f32().iter().map(|x| f64::from(*x)).collect(),
    }
}

fn unary(op: UnaryOp, a: Form) -> Option<Form> {
    let linear = |f: Linear| Some(Form::Linear(f));
    match (op, a) {
        (UnaryOp::Detach, a) => Some(a),
        (UnaryOp::Neg, Form::Linear(f)) => linear(f.scaled(&[-1.0])),
        (UnaryOp::Neg, Form::Mixed(p, q)) => Some(Form::Mixed(p.scaled(&[-1.0]), q.scaled(&[-1.0]))),
        (UnaryOp::Neg, Form::Spike { argument, .. }) => {
            let n = argument.terms.len();
            Some(Form::Mixed(Linear::constant(n, vec![0.0]), Linear::constant(n, vec![-1.0])))
        }
        // Functions of settings, by the arithmetic of a run.
        (op, Form::Linear(f)) => {
            let n = f.terms.len();
            let values = f.number()?.iter().map(|x| f64::from(snn_ir::interpret::elementwise::unary_f32(op, *x as f32))).collect();
            linear(Linear::constant(n, values))
        }
        (_, Form::Spike { .. } | Form::Mixed(..)) => None,
    }
}

fn binary(op: BinaryOp, a: Form, b: Form) -> Option<Form> {
    // A spike in arithmetic is `0 + s 1`.
    let mixed = |f: Form| match f {
        Form::Spike { argument, .. } => {
            let n = argument.terms.len();
            Form::Mixed(Linear::constant(n, vec![0.0]), Linear::constant(n, vec![1.0]))
        }
        other => other,
    };
    let (a, b) = (mixed(a), mixed(b));
    let zero = |f: &Linear| Linear::constant(f.terms.len(), vec![0.0]);
    match (op, a, b) {
        (BinaryOp::Add, Form::Linear(a), Form::Linear(b)) => Some(Form::Linear(a.zip(&b, |x, y| x + y))),
        (BinaryOp::Sub, Form::Linear(a), Form::Linear(b)) => Some(Form::Linear(a.zip(&b, |x, y| x - y))),
        (BinaryOp::Add | BinaryOp::Sub, a, b) => {
            let parts = |f: Form| match f {
                Form::Mixed(p, q) => (p, q),
                Form::Linear(p) | Form::Spike { argument: p, .. } => {
                    let q = zero(&p);
                    (p, q)
                }
            };
            let ((pa, qa), (pb, qb)) = (parts(a), parts(b));
            let f = |x: f64, y: f64| if op == BinaryOp::Add { x + y } else { x - y };
            Some(Form::Mixed(pa.zip(&pb, f), qa.zip(&qb, f)))
        }
        (BinaryOp::Mul, Form::Linear(a), Form::Linear(b)) => match (a.number(), b.number()) {
            (_, Some(k)) => Some(Form::Linear(a.scaled(k))),
            (Some(k), None) => Some(Form::Linear(b.scaled(k))),
            (None, None) => None,
        },
        (BinaryOp::Mul, Form::Mixed(p, q), Form::Linear(f)) | (BinaryOp::Mul, Form::Linear(f), Form::Mixed(p, q)) => {
            match (f.number(), p.number(), q.number()) {
                (Some(k), _, _) => Some(Form::Mixed(p.scaled(k), q.scaled(k))),
                (None, Some(a), Some(b)) => Some(Form::Mixed(f.scaled(a), f.scaled(b))),
                _ => None,
            }
        }
        // A spike times itself is itself: `(a + s b)(c + s d) = a c + s (a d + b c + b d)`.
        (BinaryOp::Mul, Form::Mixed(p, q), Form::Mixed(r, t)) => {
            let (a, b, c, d) = (p.number()?, q.number()?, r.number()?, t.number()?);
            let product = |x: &Coefficient, y: &Coefficient| zip(x, y, |x, y| x * y);
            let add = |x: Coefficient, y: Coefficient| zip(&x, &y, |x, y| x + y);
            let q2 = add(add(product(a, d), product(b, c)), product(b, d));
            let n = p.terms.len();
            Some(Form::Mixed(Linear::constant(n, product(a, c)), Linear::constant(n, q2)))
        }
        (BinaryOp::Div, Form::Linear(a), Form::Linear(b)) => {
            Some(Form::Linear(a.scaled(&b.number()?.iter().map(|x| 1.0 / x).collect::<Vec<_>>())))
        }
        (op, Form::Linear(a), Form::Linear(b)) => {
            let n = a.terms.len();
            let values =
                zip(a.number()?, b.number()?, |x, y| f64::from(snn_ir::interpret::elementwise::binary_f32(op, x as f32, y as f32)));
            Some(Form::Linear(Linear::constant(n, values)))
        }
        _ => None,
    }
}

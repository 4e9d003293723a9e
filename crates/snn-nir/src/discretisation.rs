//! What a file leaves open, who says it, and what the frameworks do.

use std::fmt;

use crate::{Graph, Kind, NirError};

/// How a step follows the equation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrator {
    /// By `dt / tau` of the way to rest.
    Euler,
    /// By `1 - exp(-dt / tau)` of the way to rest: exact for an input that is constant during the step.
    Exponential,
}

/// What a spike does to the membrane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// To `v_reset`.
    Zero,
    /// Down by the threshold.
    Subtract,
}

/// Where a neuron fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Above the threshold.
    Gt,
    /// At the threshold as well.
    Ge,
}

/// Which current the membrane of a `CubaLIF` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// That after the step.
    CurrentFirst,
    /// That before the step.
    VoltageFirst,
}

/// When the spikes of a step reach the next node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// In the same step.
    Now,
    /// One step later.
    Next,
}

macro_rules! names {
    ($type:ident { $($case:ident = $name:literal),* }) => {
        impl $type {
            /// All of them.
            pub const ALL: &[$type] = &[$($type::$case),*];
            /// What it is called in options and programs.
            pub fn name(self) -> &'static str {
                match self { $($type::$case => $name),* }
            }
        }
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<$type, String> {
                $type::ALL.iter().copied().find(|c| c.name() == text).ok_or_else(|| {
                    let known: Vec<&str> = $type::ALL.iter().map(|c| c.name()).collect();
                    format!("`{text}` is none of {}", known.join(", "))
                })
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

names!(Integrator { Euler = "euler", Exponential = "exponential" });
names!(Reset { Zero = "zero", Subtract = "subtract" });
names!(Compare { Gt = "gt", Ge = "ge" });
names!(Order { CurrentFirst = "current-first", VoltageFirst = "voltage-first" });
names!(Emit { Now = "now", Next = "next" });
names!(Preset { Norse = "norse", SnnTorch = "snntorch", SpikingJelly = "spikingjelly", Nengo = "nengo", Lava = "lava", Sinabs = "sinabs", Spyx = "spyx" });

/// A framework, whose importer fills in what files leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Norse 1.1.
    Norse,
    /// snnTorch 1.0.
    SnnTorch,
    /// SpikingJelly 2.0.
    SpikingJelly,
    /// Nengo.
    Nengo,
    /// Lava's floating-point neurons.
    Lava,
    /// Sinabs with at most one spike in a step.
    Sinabs,
    /// Spyx.
    Spyx,
}

/// How a graph in continuous time is run in steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Discretisation {
    /// Seconds of a step.
    pub dt: f64,
    /// How a step follows the equation.
    pub integrator: Integrator,
    /// What a spike does to the membrane.
    pub reset: Reset,
    /// Where a neuron fires.
    pub compare: Compare,
    /// Which current a membrane takes.
    pub order: Order,
    /// When spikes reach the next node.
    pub emit: Emit,
    /// Does an `IF` add `r x` at each step, whatever `dt` is?
    pub unit_if: bool,
    /// What inputs are multiplied by.
    pub input_scale: f64,
}

impl Preset {
    /// What the framework does. Sinabs has no time step that its files agree on.
    pub fn options(self) -> Options {
        use Compare::{Ge, Gt};
        use Integrator::{Euler, Exponential};
        let said = |integrator, compare, unit_if| Options {
            preset: Some(self),
            dt: Some(1e-4),
            integrator: Some(integrator),
            reset: Some(Reset::Zero),
            compare: Some(compare),
            order: Some(Order::CurrentFirst),
            emit: Some(Emit::Now),
            unit_if,
            input_scale: None,
        };
        match self {
            Preset::Norse | Preset::SnnTorch | Preset::Spyx => said(Euler, Gt, true),
            Preset::SpikingJelly => said(Euler, Ge, false),
            Preset::Nengo => said(Exponential, Gt, false),
            Preset::Lava => Options { emit: Some(Emit::Next), ..said(Euler, Gt, false) },
            Preset::Sinabs => Options { dt: None, reset: Some(Reset::Subtract), ..said(Exponential, Ge, true) },
        }
    }
}

/// What a user says; what is not said is the preset's, and where there is none, it is asked for.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Options {
    pub preset: Option<Preset>,
    pub dt: Option<f64>,
    pub integrator: Option<Integrator>,
    pub reset: Option<Reset>,
    pub compare: Option<Compare>,
    pub order: Option<Order>,
    pub emit: Option<Emit>,
    /// Does an `IF` add `r x` at each step, whatever `dt` is?
    pub unit_if: bool,
    pub input_scale: Option<f64>,
}

impl Options {
    /// The discretisation of a graph. What the graph has no use for need not be said.
    ///
    /// # Errors
    /// Something is open: the error lists what, and what each choice does.
    pub fn of(&self, graph: &Graph) -> Result<Discretisation, NirError> {
        let preset = self.preset.map(Preset::options).unwrap_or_default();
        let unit_if = self.unit_if || preset.unit_if;
        let any = |f: &dyn Fn(Kind, &crate::Node) -> bool| any_node(graph, f);
        let mut open = Vec::new();
        let dt = self.dt.or(preset.dt);
        let needs_dt = any(&|k, _| match k {
            Kind::If => !unit_if,
            Kind::Delay => true,
            _ => k.is_neuron(),
        });
        if let Some(dt) = dt
            && (!dt.is_finite() || dt <= 0.0)
        {
            return Err(NirError::Open(format!("the time step is positive, not {dt}")));
        }
        if dt.is_none() && needs_dt {
            open.push(
                "  --dt SECONDS: the time step, which files do not say; snnTorch, SpikingJelly and the NIR paper take 1e-4, Norse 1e-3"
                    .to_string(),
            );
        }
        let integrator = self.integrator.or(preset.integrator);
        if integrator.is_none() && any(&|k, _| matches!(k, Kind::Li | Kind::Lif | Kind::CubaLi | Kind::CubaLif)) {
            open.push("  --integrator euler: a step goes dt / tau of the way to rest (Norse, snnTorch, SpikingJelly, Lava)\n  --integrator exponential: it goes 1 - exp(-dt / tau) of the way (Nengo, Sinabs)".to_string());
        }
        let reset = self.reset.or(preset.reset);
        if reset.is_none() && any(&|k, n| k.is_spiking() && n.numbers("v_reset").is_none()) {
            open.push("  --reset zero: a spike sets the membrane to v_reset, 0 where the file says none (Norse, snnTorch, SpikingJelly)\n  --reset subtract: a spike takes the threshold off; exporters of soft resets write nothing (Sinabs)".to_string());
        }
        let order = self.order.or(preset.order);
        if order.is_none() && any(&|k, _| matches!(k, Kind::CubaLi | Kind::CubaLif)) {
            open.push("  --order current-first: the membrane takes the current after its step (Norse, snnTorch)\n  --order voltage-first: it takes the current before".to_string());
        }
        if !open.is_empty() {
            let presets: Vec<&str> = Preset::ALL.iter().map(|p| p.name()).collect();
            return Err(NirError::Open(format!(
                "the file leaves open how its graph in continuous time is run in steps; say it:\n{}\nor `--preset` with what a framework does: {}",
                open.join("\n"),
                presets.join(", ")
            )));
        }
        Ok(Discretisation {
            dt: dt.unwrap_or(1.0),
            integrator: integrator.unwrap_or(Integrator::Euler),
            reset: reset.unwrap_or(Reset::Zero),
            // The equation of NIR says `v > v_threshold`.
            compare: self.compare.or(preset.compare).unwrap_or(Compare::Gt),
            order: order.unwrap_or(Order::CurrentFirst),
            emit: self.emit.or(preset.emit).unwrap_or(Emit::Now),
            unit_if,
            input_scale: self.input_scale.unwrap_or(1.0),
        })
    }
}

fn any_node(graph: &Graph, f: &dyn Fn(Kind, &crate::Node) -> bool) -> bool {
    graph.nodes.iter().any(|(_, n)| f(n.kind, n) || n.graph.as_ref().is_some_and(|g| any_node(g, f)))
}

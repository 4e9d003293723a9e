//! Signals over time: spikes as points, membranes as lines.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Canvas, FONT, failed, on, write};
use snn_ir::Tensor;

use crate::PlotError;

/// How a picture of signals looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Style {
    /// Above the picture; panels have titles of their own.
    pub title: Option<String>,
    /// Milliseconds of a step: the time axis is in milliseconds. Else it is in steps.
    pub dt: Option<f64>,
    /// The width of the picture and the height of a panel, in pixels.
    pub size: (u32, u32),
    /// The size of the axes' labels, in pixels; titles are larger.
    pub font: u32,
}

impl Default for Style {
    fn default() -> Style {
        Style { title: None, dt: None, size: (900, 260), font: 13 }
    }
}

impl Style {
    /// The place of a step on the time axis.
    fn time(&self, step: f64) -> f64 {
        step * self.dt.unwrap_or(1.0)
    }

    /// What a tick on the time axis says.
    fn tick(&self, time: f64) -> String {
        if self.dt.is_some() { short(time) } else { whole(time) }
    }

    fn time_label(&self) -> &'static str {
        if self.dt.is_some() { "time (ms)" } else { "time step" }
    }

    /// The size of a title, and the space that labels need.
    fn title_font(&self) -> u32 {
        self.font + 3
    }
}

/// Steps and neurons are whole: ticks between them would say one twice.
fn whole(x: f64) -> String {
    if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() }
}

/// A number on the time axis, without what it does not need.
fn short(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A signal `[T, N]`: steps of neurons.
#[derive(Clone, Debug)]
pub struct Signal {
    /// What it is called.
    pub name: String,
    /// How many time steps.
    pub steps: usize,
    /// How many neurons.
    pub neurons: usize,
    values: Vec<f32>,
}

impl Signal {
    /// One sample of a tensor `[T]`, `[T, N]` or `[T, B, N...]`, its other axes as one.
    ///
    /// # Errors
    /// If the tensor has no time, or not that many samples.
    pub fn new(name: &str, tensor: &Tensor, sample: usize) -> Result<Signal, PlotError> {
        let shape = tensor.shape();
        let Some(steps) = shape.first().copied() else {
            return Err(PlotError(format!("`{name}` is a scalar; a signal has its time steps on the first axis")));
        };
        let batch = if shape.len() > 2 { shape[1] } else { 1 };
        if sample >= batch {
            return Err(PlotError(format!(
                "`{name}` has {batch} sample{}; there is no sample {sample}",
                if batch == 1 { "" } else { "s" }
            )));
        }
        let row: usize = shape[1..].iter().product();
        let neurons = row / batch;
        let all = tensor.to_f32();
        let values = (0..steps).flat_map(|t| &all[t * row + sample * neurons..t * row + (sample + 1) * neurons]).copied().collect();
        Ok(Signal { name: name.to_string(), steps, neurons, values })
    }

    fn at(&self, t: usize, neuron: usize) -> f32 {
        self.values[t * self.neurons + neuron]
    }

    /// How often something fires: the part of all values that is not 0.
    pub fn rate(&self) -> f64 {
        self.values.iter().filter(|x| **x != 0.0).count() as f64 / self.values.len().max(1) as f64
    }
}

/// A membrane with its threshold and its spikes.
#[derive(Clone, Debug)]
pub struct Membrane {
    /// The potential.
    pub potential: Signal,
    /// The spikes, of the same size.
    pub spikes: Option<Signal>,
    /// The threshold.
    pub threshold: Option<f32>,
    /// The potential before the reset, of the same size: drawn where it is another one, at steps that fire.
    pub before_reset: Option<Signal>,
    /// Which neurons are drawn.
    pub neurons: Vec<usize>,
}

impl Membrane {
    /// A potential without anything else, of its first neurons.
    pub fn alone(potential: Signal) -> Membrane {
        let neurons = (0..potential.neurons.min(4)).collect();
        Membrane { potential, spikes: None, threshold: None, before_reset: None, neurons }
    }
}

fn panels<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, n: usize, style: &Style) -> Result<Vec<DrawingArea<DB, Shift>>, PlotError> {
    area.fill(&WHITE).map_err(failed)?;
    let rest = match &style.title {
        Some(title) => area.titled(title, (FONT, style.title_font() + 3)).map_err(failed)?,
        None => area.clone(),
    };
    Ok(rest.split_evenly((n.max(1), 1)))
}

/// The size of a picture of some panels, with room for a title.
fn picture_size(panels: usize, style: &Style) -> (u32, u32) {
    let title = if style.title.is_some() { 2 * style.title_font() } else { 0 };
    (style.size.0, style.size.1 * panels.max(1) as u32 + title)
}

/// Spikes of layers, a panel each: time to the right, neurons upwards.
///
/// # Errors
/// If the file cannot be written.
pub fn raster(path: &Path, layers: &[Signal], style: &Style) -> Result<(), PlotError> {
    write(path, picture_size(layers.len(), style), |canvas: &Canvas<'_>| {
        on!(canvas, area => {
            for (panel, layer) in panels(area, layers.len(), style)?.iter().zip(layers) {
                draw_raster(panel, layer, style)?;
            }
            area.present().map_err(failed)
        })
    })
}

fn draw_raster<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, layer: &Signal, style: &Style) -> Result<(), PlotError> {
    let many = if layer.neurons == 1 { "neuron" } else { "neurons" };
    let rate = match style.dt {
        // A rate in Hz where the length of a step is known.
        Some(dt) => format!("{:.1} Hz", layer.rate() * 1000.0 / dt),
        None => format!("firing rate {:.4}", layer.rate()),
    };
    let title = format!("{}: {} {many}, {rate}", layer.name, layer.neurons);
    let (right, top) = (layer.steps as f64 - 0.5, layer.neurons as f64 - 0.5);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, style.title_font()))
        .margin(8)
        .x_label_area_size(style.font * 5 / 2)
        .y_label_area_size(style.font * 4)
        .build_cartesian_2d(style.time(-0.5)..style.time(right.max(0.5)), -0.5..top.max(0.5))
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_desc(style.time_label())
        .y_desc("neuron")
        .x_label_formatter(&|x| style.tick(*x))
        .y_label_formatter(&|y| whole(*y))
        .y_labels(layer.neurons.clamp(1, 8) + usize::from(layer.neurons < 8))
        .label_style((FONT, style.font))
        .draw()
        .map_err(failed)?;
    let spikes = (0..layer.steps).flat_map(|t| (0..layer.neurons).map(move |n| (t, n))).filter(|(t, n)| layer.at(*t, *n) != 0.0);
    // A mark is as high as a neuron's row, but never less than a line.
    let half = 0.4;
    chart
        .draw_series(spikes.map(|(t, n)| {
            let (x, y) = (style.time(t as f64), n as f64);
            let colour = if layer.at(t, n) > 0.0 { BLACK } else { RED };
            PathElement::new(vec![(x, y - half), (x, y + half)], colour.stroke_width(1))
        }))
        .map_err(failed)?;
    Ok(())
}

/// Membrane potentials over time, a panel for each neuron, with threshold and spikes.
///
/// # Errors
/// If a neuron does not exist, the spikes are of another size, or the file cannot be written.
pub fn traces(path: &Path, m: &Membrane, style: &Style) -> Result<(), PlotError> {
    if let Some(n) = m.neurons.iter().find(|n| **n >= m.potential.neurons) {
        let (name, count) = (&m.potential.name, m.potential.neurons);
        return Err(PlotError(format!("`{name}` has {count} neurons, 0 to {}; there is no neuron {n}", count.saturating_sub(1))));
    }
    if let Some(s) = m.spikes.iter().chain(&m.before_reset).find(|s| (s.steps, s.neurons) != (m.potential.steps, m.potential.neurons)) {
        let sizes = format!("{} steps of {} neurons, and {} of {}", s.steps, s.neurons, m.potential.steps, m.potential.neurons);
        return Err(PlotError(format!("`{}` and `{}` differ in size: {sizes}", s.name, m.potential.name)));
    }
    write(path, picture_size(m.neurons.len(), style), |canvas: &Canvas<'_>| {
        on!(canvas, area => {
            for (panel, neuron) in panels(area, m.neurons.len(), style)?.iter().zip(&m.neurons) {
                draw_trace(panel, m, *neuron, style)?;
            }
            area.present().map_err(failed)
        })
    })
}

fn draw_trace<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, m: &Membrane, neuron: usize, style: &Style) -> Result<(), PlotError> {
    let v = &m.potential;
    let point = |signal: &Signal, t: usize| (style.time(t as f64), f64::from(signal.at(t, neuron)));
    let points: Vec<(f64, f64)> = (0..v.steps).map(|t| point(v, t)).filter(|(_, y)| y.is_finite()).collect();
    // Where a step fires, the potential before its reset.
    let resets: Vec<(f64, f64)> = match &m.before_reset {
        Some(before) => (0..v.steps).map(|t| point(before, t)).filter(|p| p.1.is_finite() && !points.contains(p)).collect(),
        None => vec![],
    };
    let ys = points.iter().chain(&resets).map(|(_, y)| *y).chain(m.threshold.map(f64::from));
    let (low, high) = ys.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), y| (l.min(y), h.max(y)));
    let (low, high) = if low < high {
        (low, high)
    } else if low.is_finite() {
        (low - 1.0, low + 1.0)
    } else {
        (0.0, 1.0)
    };
    let room = (high - low) * 0.12;
    let end = style.time((v.steps as f64 - 1.0).max(1.0));
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}, neuron {neuron}", v.name), (FONT, style.title_font()))
        .margin(8)
        .x_label_area_size(style.font * 5 / 2)
        .y_label_area_size(style.font * 4)
        .build_cartesian_2d(0.0..end, low - room..high + 2.0 * room)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(style.time_label())
        .y_desc("membrane")
        .x_label_formatter(&|x| style.tick(*x))
        .y_label_formatter(&|y| short(*y))
        .label_style((FONT, style.font))
        .draw()
        .map_err(failed)?;
    let mut legend = Vec::new();
    if let Some(threshold) = m.threshold.map(f64::from) {
        let dashes = DashedLineSeries::new([(0.0, threshold), (end, threshold)], 6, 4, RED.mix(0.7).stroke_width(1));
        chart.draw_series(dashes).map_err(failed)?;
        legend.push(("threshold", Mark::Line(RED)));
    }
    chart.draw_series(LineSeries::new(points, BLUE.stroke_width(2))).map_err(failed)?;
    legend.push((v.name.as_str(), Mark::Line(BLUE)));
    if !resets.is_empty() {
        chart.draw_series(resets.into_iter().map(|p| Circle::new(p, 3, GREY.stroke_width(1)))).map_err(failed)?;
        legend.push(("before the reset", Mark::Circle));
    }
    if let Some(spikes) = &m.spikes {
        let fired = (0..v.steps).filter(|t| spikes.at(*t, neuron) != 0.0);
        let top = high + room;
        let mark = |t: usize| {
            let x = style.time(t as f64);
            PathElement::new(vec![(x, top - room * 0.5), (x, top + room * 0.5)], BLACK.stroke_width(2))
        };
        chart.draw_series(fired.map(mark)).map_err(failed)?;
        legend.push(("spike", Mark::Spike));
    }
    if legend.len() > 1 { draw_legend(area, &legend, style) } else { Ok(()) }
}

const GREY: RGBColor = RGBColor(110, 110, 110);

/// How a part of a trace is drawn.
#[derive(Clone, Copy)]
enum Mark {
    Line(RGBColor),
    Circle,
    Spike,
}

/// The legend in the line of the title, from the right: no data are below it.
fn draw_legend<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, parts: &[(&str, Mark)], style: &Style) -> Result<(), PlotError> {
    let font = style.font as i32;
    let (width, y) = (area.dim_in_pixel().0 as i32, 8 + style.title_font() as i32 / 2);
    let mut right = width - 12;
    for (label, mark) in parts.iter().rev() {
        let text = right - (label.chars().count() as i32 * font * 3 / 5).max(font);
        let (from, to) = (text - 22, text - 6);
        let at = (from + to) / 2;
        match mark {
            Mark::Line(colour) => area.draw(&PathElement::new(vec![(from, y), (to, y)], colour.stroke_width(2))),
            Mark::Circle => area.draw(&Circle::new((at, y), 3, GREY.stroke_width(1))),
            Mark::Spike => area.draw(&PathElement::new(vec![(at, y - 5), (at, y + 5)], BLACK.stroke_width(2))),
        }
        .map_err(failed)?;
        area.draw(&Text::new((*label).to_string(), (text, y - font * 2 / 3), (FONT, font))).map_err(failed)?;
        right = from - font;
    }
    Ok(())
}

//! Signals over time: spikes as points, membranes as lines.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Canvas, FONT, failed, on, write};
use snn_ir::Tensor;

use crate::PlotError;

/// The height of a panel, and the width of the picture, in pixels.
const PANEL: u32 = 260;
const WIDTH: u32 = 900;

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

    /// The mean of all values.
    pub fn rate(&self) -> f64 {
        self.values.iter().map(|x| f64::from(*x)).sum::<f64>() / self.values.len().max(1) as f64
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
    /// Which neurons are drawn.
    pub neurons: Vec<usize>,
}

fn panels<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, n: usize) -> Result<Vec<DrawingArea<DB, Shift>>, PlotError> {
    area.fill(&WHITE).map_err(failed)?;
    Ok(area.split_evenly((n.max(1), 1)))
}

/// Spikes of layers, a panel each: time to the right, neurons upwards.
///
/// # Errors
/// If the file cannot be written.
pub fn raster(path: &Path, layers: &[Signal]) -> Result<(), PlotError> {
    let size = (WIDTH, PANEL * layers.len().max(1) as u32);
    write(path, size, |canvas: &Canvas<'_>| {
        on!(canvas, area => {
            for (panel, layer) in panels(area, layers.len())?.iter().zip(layers) {
                draw_raster(panel, layer)?;
            }
            area.present().map_err(failed)
        })
    })
}

fn draw_raster<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, layer: &Signal) -> Result<(), PlotError> {
    let title = format!("{}: {} neurons, firing rate {:.4}", layer.name, layer.neurons, layer.rate());
    let (right, top) = (layer.steps as f64 - 0.5, layer.neurons as f64 - 0.5);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(52)
        .build_cartesian_2d(-0.5..right.max(0.5), -0.5..top.max(0.5))
        .map_err(failed)?;
    let whole = |x: &f64| format!("{x:.0}");
    chart
        .configure_mesh()
        .disable_mesh()
        .x_desc("time step")
        .y_desc("neuron")
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .label_style((FONT, 12))
        .draw()
        .map_err(failed)?;
    let spikes = (0..layer.steps).flat_map(|t| (0..layer.neurons).map(move |n| (t, n))).filter(|(t, n)| layer.at(*t, *n) != 0.0);
    // A mark is as high as a neuron's row, but never less than a line.
    let half = 0.4;
    chart
        .draw_series(spikes.map(|(t, n)| {
            let (x, y) = (t as f64, n as f64);
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
pub fn traces(path: &Path, m: &Membrane) -> Result<(), PlotError> {
    if let Some(n) = m.neurons.iter().find(|n| **n >= m.potential.neurons) {
        let (name, count) = (&m.potential.name, m.potential.neurons);
        return Err(PlotError(format!("`{name}` has {count} neurons, 0 to {}; there is no neuron {n}", count.saturating_sub(1))));
    }
    if let Some(s) = &m.spikes
        && (s.steps, s.neurons) != (m.potential.steps, m.potential.neurons)
    {
        let sizes = format!("{} steps of {} neurons, and {} of {}", s.steps, s.neurons, m.potential.steps, m.potential.neurons);
        return Err(PlotError(format!("`{}` and `{}` differ in size: {sizes}", s.name, m.potential.name)));
    }
    let size = (WIDTH, PANEL * m.neurons.len().max(1) as u32);
    write(path, size, |canvas: &Canvas<'_>| {
        on!(canvas, area => {
            for (panel, neuron) in panels(area, m.neurons.len())?.iter().zip(&m.neurons) {
                draw_trace(panel, m, *neuron)?;
            }
            area.present().map_err(failed)
        })
    })
}

fn draw_trace<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, m: &Membrane, neuron: usize) -> Result<(), PlotError> {
    let v = &m.potential;
    let points: Vec<(f64, f64)> = (0..v.steps).map(|t| (t as f64, f64::from(v.at(t, neuron)))).filter(|(_, y)| y.is_finite()).collect();
    let ys = points.iter().map(|(_, y)| *y).chain(m.threshold.map(f64::from));
    let (low, high) = ys.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), y| (l.min(y), h.max(y)));
    let (low, high) = if low < high {
        (low, high)
    } else if low.is_finite() {
        (low - 1.0, low + 1.0)
    } else {
        (0.0, 1.0)
    };
    let room = (high - low) * 0.12;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}, neuron {neuron}", v.name), (FONT, 16))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..(v.steps as f64 - 1.0).max(1.0), low - room..high + 2.0 * room)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("time step")
        .y_desc("membrane")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style((FONT, 12))
        .draw()
        .map_err(failed)?;
    if let Some(threshold) = m.threshold.map(f64::from) {
        let line = [(0.0, threshold), (v.steps as f64, threshold)];
        chart.draw_series(LineSeries::new(line, RED.mix(0.7))).map_err(failed)?;
    }
    chart.draw_series(LineSeries::new(points, BLUE.stroke_width(2))).map_err(failed)?;
    if let Some(spikes) = &m.spikes {
        let fired = (0..v.steps).filter(|t| spikes.at(*t, neuron) != 0.0);
        let top = high + room;
        chart
            .draw_series(
                fired.map(|t| PathElement::new(vec![(t as f64, top - room * 0.5), (t as f64, top + room * 0.5)], BLACK.stroke_width(2))),
            )
            .map_err(failed)?;
    }
    Ok(())
}

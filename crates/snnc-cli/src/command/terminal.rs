//! Pictures in a terminal: an image where it can show one, else marks.

use std::io::IsTerminal;
use std::path::Path;

use base64::Engine;
use snn_plot::{Membrane, PlotError, Signal, Style};
use snnc::Tensor;

/// The most neurons whose traces are drawn.
const TRACES: usize = 10;
const COLUMNS: usize = 72;

/// How a terminal takes an image.
#[derive(Clone, Copy)]
enum Images {
    /// iTerm2 and WezTerm: `OSC 1337`.
    Inline,
    /// Kitty and Ghostty: its graphics protocol.
    Kitty,
}

fn images() -> Option<Images> {
    let is = |name: &str, values: &[&str]| std::env::var(name).is_ok_and(|v| values.contains(&v.as_str()));
    if !std::io::stdout().is_terminal() {
        None
    } else if is("TERM_PROGRAM", &["iTerm.app", "WezTerm"]) {
        Some(Images::Inline)
    } else if std::env::var_os("KITTY_WINDOW_ID").is_some() || is("TERM_PROGRAM", &["ghostty"]) {
        Some(Images::Kitty)
    } else {
        None
    }
}

/// Spikes as a raster, other values over time as traces.
pub fn drawn(t: &Tensor) -> String {
    if let Some(picture) = images().and_then(|how| Some(shown(how, &png(t).ok()?))) {
        return picture;
    }
    let raster = if is_raster(t) { snnc::session::raster(t) } else { None };
    raster.unwrap_or_else(|| traces(t))
}

fn is_raster(t: &Tensor) -> bool {
    t.to_f32().iter().all(|x| *x == 0.0 || *x == 1.0)
}

/// The same picture as `snnc plot` draws.
fn png(t: &Tensor) -> Result<Vec<u8>, PlotError> {
    snn_plot::as_png(|path| picture(path, &[("value".to_string(), t.clone())]))
}

/// A file with the rasters of some tensors; if one is none, with the traces of the first.
pub fn picture(path: &Path, values: &[(String, Tensor)]) -> Result<(), PlotError> {
    let signals = values.iter().map(|(n, t)| Signal::new(n, t, 0)).collect::<Result<Vec<_>, _>>()?;
    let style = Style::default();
    if values.iter().all(|(_, t)| is_raster(t)) {
        return snn_plot::raster(path, &signals, &style);
    }
    signals.into_iter().next().map_or(Ok(()), |first| snn_plot::traces(path, &Membrane::alone(first), &style))
}

fn shown(how: Images, png: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(png);
    match how {
        Images::Inline => format!("\x1b]1337;File=inline=1;size={}:{text}\x07", png.len()),
        Images::Kitty => {
            let parts: Vec<&[u8]> = text.as_bytes().chunks(4096).collect();
            let part = |(i, part): (usize, &&[u8])| {
                let first = if i == 0 { "f=100,a=T," } else { "" };
                let more = u8::from(i + 1 < parts.len());
                format!("\x1b_G{first}m={more};{}\x1b\\", String::from_utf8_lossy(part))
            };
            parts.iter().enumerate().map(part).collect()
        }
    }
}

/// A line of bars for each neuron of `[T]` or `[T, N...]`, between its smallest and its largest value.
fn traces(t: &Tensor) -> String {
    let Some(steps) = t.shape().first().copied().filter(|s| *s > 0) else { return snnc::session::show(t) };
    let values = t.to_f32();
    let n = (values.len() / steps).max(1);
    let each = steps.div_ceil(COLUMNS);
    let bars = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let line = |neuron: usize| {
        let own: Vec<f32> = (0..steps).map(|s| values[s * n + neuron]).collect();
        let finite = own.iter().copied().filter(|x| x.is_finite());
        let (low, high) = finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        let bar = |part: &[f32]| {
            let mean = part.iter().sum::<f32>() / part.len() as f32;
            let height = if high > low { (mean - low) / (high - low) * 7.0 } else { 0.0 };
            if mean.is_finite() { bars[height.round().clamp(0.0, 7.0) as usize] } else { '?' }
        };
        format!("{neuron:>3} {} {low:.3} to {high:.3}", own.chunks(each).map(bar).collect::<String>())
    };
    let mut lines: Vec<String> = (0..n.min(TRACES)).map(line).collect();
    if n > TRACES {
        lines.push(format!("    and {} more", n - TRACES));
    }
    lines.join("\n")
}

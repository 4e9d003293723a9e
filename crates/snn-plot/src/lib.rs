//! Pictures: rasters of spikes, traces of membranes, graphs. SVG or PNG, by the ending of the file.

mod graph;
mod layers;
mod signals;

use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

pub use graph::graphs;
pub use layers::layers;
pub use signals::{Membrane, Signal, Style, raster, traces};

/// Why a picture cannot be drawn or written, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlotError(String);

/// The family under which the font is known to the drawing library.
const FONT: &str = "sans-serif";

fn failed(e: impl std::fmt::Display) -> PlotError {
    PlotError(format!("the picture cannot be drawn: {e}"))
}

/// Draws a picture of a size and writes it, whole or not at all.
fn write(path: &Path, size: (u32, u32), draw: impl FnOnce(&Canvas<'_>) -> Result<(), PlotError>) -> Result<(), PlotError> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        // A font that the crate ships is a font.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    });
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let cannot = |e: std::io::Error| PlotError(format!("cannot write `{}`: {e}", path.display()));
    let folder = tempfile::tempdir().map_err(cannot)?;
    let partial = folder.path().join(format!("picture.{ending}"));
    match ending {
        "svg" => draw(&Canvas::Svg(SVGBackend::new(&partial, size).into_drawing_area()))?,
        "png" => draw(&Canvas::Png(BitMapBackend::new(&partial, size).into_drawing_area()))?,
        _ => return Err(PlotError(format!("`{}` is no picture that can be written: its name must end in .svg or .png", path.display()))),
    }
    let bytes = std::fs::read(&partial).map_err(cannot)?;
    snn_data::replace(path, &bytes).map_err(cannot)
}

/// What a drawing writes into a file, as the text of an SVG.
///
/// # Errors
/// As the drawing.
pub fn as_svg(draw: impl FnOnce(&Path) -> Result<(), PlotError>) -> Result<String, PlotError> {
    let folder = tempfile::tempdir().map_err(failed)?;
    let path = folder.path().join("picture.svg");
    draw(&path)?;
    std::fs::read_to_string(&path).map_err(failed)
}

/// What a drawing writes into a file, as the bytes of a PNG.
///
/// # Errors
/// As the drawing.
pub fn as_png(draw: impl FnOnce(&Path) -> Result<(), PlotError>) -> Result<Vec<u8>, PlotError> {
    let folder = tempfile::tempdir().map_err(failed)?;
    let path = folder.path().join("picture.png");
    draw(&path)?;
    std::fs::read(&path).map_err(failed)
}

/// Where a picture is drawn.
enum Canvas<'a> {
    Svg(DrawingArea<SVGBackend<'a>, Shift>),
    Png(DrawingArea<BitMapBackend<'a>, Shift>),
}

/// The same drawing on either kind of canvas.
macro_rules! on {
    ($canvas:expr, $area:ident => $body:expr) => {
        match $canvas {
            $crate::Canvas::Svg($area) => $body,
            $crate::Canvas::Png($area) => $body,
        }
    };
}
pub(crate) use on;

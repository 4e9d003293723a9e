//! A graph, or two side by side: operations as boxes, each below what it reads.

use std::collections::HashMap;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use snn_ir::text::op_name;
use snn_ir::{Graph, NodeId, Op};

use super::{Canvas, FONT, failed, on, write};
use crate::PlotError;

/// The size of a box with its surroundings, in pixels.
const CELL: (i32, i32) = (190, 66);
const BOX: (i32, i32) = (174, 40);
const TITLE: i32 = 34;
/// More boxes than this are a picture that nobody can read.
const MOST: usize = 2000;

/// A box: its row and column, its two lines of text, what it reads.
struct Drawn {
    row: usize,
    column: usize,
    title: String,
    ty: String,
    reads: Vec<usize>,
    given: bool,
}

/// A graph with places for its operations.
struct Layout {
    title: String,
    boxes: Vec<Drawn>,
    rows: usize,
    columns: usize,
}

impl Layout {
    /// An operation stands one row below the lowest that it reads, in the order of the graph. Constants are left out.
    fn new(title: String, graph: &Graph) -> Layout {
        let live = graph.live_nodes();
        let mut index: HashMap<NodeId, usize> = HashMap::new();
        let mut boxes: Vec<Drawn> = Vec::new();
        let mut widths: Vec<usize> = Vec::new();
        let mut place = |boxes: &mut Vec<Drawn>, title: String, ty: String, reads: Vec<usize>, given: bool| {
            let row = reads.iter().map(|i| boxes[*i].row + 1).max().unwrap_or(0);
            if widths.len() <= row {
                widths.resize(row + 1, 0);
            }
            boxes.push(Drawn { row, column: widths[row], title, ty, reads, given });
            widths[row] += 1;
        };
        for (id, node) in graph.nodes() {
            if !live[id.index()] || matches!(node.op, Op::Constant(_)) {
                continue;
            }
            let title = match (&node.op, &node.name) {
                (Op::Input { name, .. } | Op::Parameter { name, .. }, _) => name.clone(),
                (op, Some(name)) if op_name(op) != *name => format!("{name}: {}", op_name(op)),
                (op, _) => op_name(op),
            };
            let mut reads: Vec<usize> = node.operands.iter().filter_map(|v| index.get(&v.node).copied()).collect();
            reads.dedup();
            index.insert(id, boxes.len());
            place(&mut boxes, title, node.types[0].to_string(), reads, matches!(node.op, Op::Input { .. } | Op::Parameter { .. }));
        }
        for (name, v) in graph.outputs.iter().chain(&graph.updates) {
            let reads = index.get(&v.node).copied().into_iter().collect();
            place(&mut boxes, name.clone(), String::new(), reads, true);
        }
        let (rows, columns) = (widths.len(), widths.iter().copied().max().unwrap_or(0));
        Layout { title: format!("{title}: {} operations", boxes.iter().filter(|b| !b.given).count()), boxes, rows, columns }
    }

    fn size(&self) -> (u32, u32) {
        let width = (self.columns.max(2) as i32 * CELL.0) as u32;
        (width, (self.rows as i32 * CELL.1 + TITLE) as u32)
    }

    /// The middle of a box.
    fn centre(&self, b: &Drawn) -> (i32, i32) {
        let in_row = self.boxes.iter().filter(|o| o.row == b.row).count() as i32;
        let left = (self.columns.max(2) as i32 - in_row) * CELL.0 / 2;
        (left + b.column as i32 * CELL.0 + CELL.0 / 2, TITLE + b.row as i32 * CELL.1 + CELL.1 / 2)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<(), PlotError> {
        let text = |size: i32| (FONT, size).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Center));
        let width = self.size().0 as i32;
        area.draw(&Text::new(self.title.clone(), (width / 2, TITLE / 2), text(16))).map_err(failed)?;
        for b in &self.boxes {
            let to = self.centre(b);
            for i in &b.reads {
                let from = self.centre(&self.boxes[*i]);
                let line = vec![(from.0, from.1 + BOX.1 / 2), (to.0, to.1 - BOX.1 / 2)];
                area.draw(&PathElement::new(line, RGBColor(120, 120, 120).stroke_width(1))).map_err(failed)?;
            }
        }
        for b in &self.boxes {
            let (x, y) = self.centre(b);
            let corners = [(x - BOX.0 / 2, y - BOX.1 / 2), (x + BOX.0 / 2, y + BOX.1 / 2)];
            let fill = if b.given { RGBColor(226, 236, 248) } else { RGBColor(248, 240, 222) };
            area.draw(&Rectangle::new(corners, fill.filled())).map_err(failed)?;
            area.draw(&Rectangle::new(corners, BLACK.stroke_width(1))).map_err(failed)?;
            let fits =
                |t: &str, n: usize| if t.chars().count() > n { t.chars().take(n - 1).chain(['…']).collect() } else { t.to_string() };
            let lines = if b.ty.is_empty() {
                vec![(b.title.as_str(), 0, 13, 24)]
            } else {
                vec![(b.title.as_str(), -9, 13, 24), (b.ty.as_str(), 9, 11, 28)]
            };
            for (line, dy, size, most) in lines {
                area.draw(&Text::new(fits(line, most), (x, y + dy), text(size))).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Graphs side by side, each with its title.
///
/// # Errors
/// If they are too large to look at, or the file cannot be written.
pub fn graphs(path: &Path, graphs: &[(&str, &Graph)]) -> Result<(), PlotError> {
    let layouts: Vec<Layout> = graphs.iter().map(|(title, g)| Layout::new((*title).to_string(), g)).collect();
    if let Some(large) = layouts.iter().find(|l| l.boxes.len() > MOST || l.columns > 100) {
        let n = large.boxes.len();
        return Err(PlotError(format!("a picture of {n} operations cannot be read; `snnc emit --stage dot` writes them for Graphviz")));
    }
    let width = layouts.iter().map(|l| l.size().0).sum::<u32>().max(1);
    let height = layouts.iter().map(|l| l.size().1).max().unwrap_or(1);
    write(path, (width, height), |canvas: &Canvas<'_>| {
        on!(canvas, area => {
            area.fill(&WHITE).map_err(failed)?;
            let mut rest = area.clone();
            for layout in &layouts {
                let (own, after) = rest.split_horizontally(layout.size().0 as i32);
                layout.draw(&own)?;
                rest = after;
            }
            area.present().map_err(failed)
        })
    })
}

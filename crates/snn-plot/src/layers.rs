//! A net as its layers: a box for each, grouped by the nets that they belong to, with arrows for what flows between them.
//!
//! Layers are found by their parameters: what reads `block.conv.weight` is the layer `block.conv`. Movement, conversions and
//! arithmetic with constants belong to what they work on. Nets below a depth are one box.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use snn_ir::text::op_name;
use snn_ir::{Class, Graph, Node, NodeId, Op, Type};

use super::{Canvas, FONT, failed, on, write};
use crate::PlotError;

/// The most boxes of a picture where nobody says how deep it goes.
const READABLE: usize = 32;
/// More boxes than this are a picture that nobody can read.
const MOST: usize = 400;
const BOX: (i32, i32) = (190, 44);
const ROW: i32 = 74;
const GAP: i32 = 22;
const MARGIN: i32 = 28;
const TITLE: i32 = 26;

/// A layer, an operation between layers, an input or an output.
#[derive(Clone, Debug, Default)]
struct Part {
    /// The net that it belongs to, and for a layer its own name.
    path: Vec<String>,
    is_layer: bool,
    title: String,
    ty: Option<Type>,
    parameters: u64,
    reads: BTreeSet<usize>,
    given: bool,
}

/// The layers of a net.
#[derive(Clone, Debug)]
pub struct Layers {
    name: String,
    parts: Vec<Part>,
}

impl Layers {
    /// Finds the layers of a graph as it was written.
    pub fn of(graph: &Graph) -> Layers {
        let mut found = Found {
            graph,
            parts: vec![],
            part_of: HashMap::new(),
            owner: HashMap::new(),
            layers: HashMap::new(),
            windows: BTreeSet::new(),
        };
        let live = graph.live_nodes();
        for (id, node) in graph.nodes() {
            if live[id.index()] {
                found.visit(id, node);
            }
        }
        for (name, v) in &graph.outputs {
            let reads = found.part_of.get(&v.node).copied().into_iter().collect();
            found.parts.push(Part { title: name.clone(), ty: Some(graph.ty(*v).clone()), reads, given: true, ..Part::default() });
        }
        Layers { name: graph.name.clone(), parts: found.parts }
    }

    /// The layers with nets below a depth as one box each.
    fn folded(&self, depth: usize) -> Layers {
        let mut parts: Vec<Part> = Vec::new();
        let mut groups: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        let mut new: Vec<usize> = Vec::new();
        for part in &self.parts {
            let inside = part.path.len() - usize::from(part.is_layer && !part.path.is_empty());
            if part.given || inside < depth || depth == 0 && part.path.is_empty() {
                new.push(parts.len());
                parts.push(Part { reads: BTreeSet::new(), ..part.clone() });
                continue;
            }
            let path = part.path[..depth.max(1).min(part.path.len())].to_vec();
            let at = *groups.entry(path.clone()).or_insert_with(|| {
                parts.push(Part { title: path.last().cloned().unwrap_or_default(), path, is_layer: true, ..Part::default() });
                parts.len() - 1
            });
            parts[at].parameters += part.parameters;
            parts[at].ty.clone_from(&part.ty);
            new.push(at);
        }
        for (old, part) in self.parts.iter().enumerate() {
            let own = new[old];
            parts[own].reads.extend(part.reads.iter().map(|r| new[*r]).filter(|r| *r != own));
        }
        Layers { name: self.name.clone(), parts }
    }

    fn depth(&self) -> usize {
        self.parts.iter().map(|p| p.path.len()).max().unwrap_or(0)
    }
}

struct Found<'a> {
    graph: &'a Graph,
    parts: Vec<Part>,
    part_of: HashMap<NodeId, usize>,
    /// What is made of parameters alone, by the layer that they are of.
    owner: HashMap<NodeId, Vec<String>>,
    layers: HashMap<Vec<String>, usize>,
    /// Windows of pools.
    windows: BTreeSet<NodeId>,
}

impl Found<'_> {
    fn visit(&mut self, id: NodeId, node: &Node) {
        if let Op::Parameter { name, .. } = &node.op {
            let mut path: Vec<String> = name.split('.').map(str::to_string).collect();
            if path.len() > 1 {
                path.pop();
            }
            self.owner.insert(id, path);
        } else if let Op::Input { name, .. } = &node.op {
            self.add(id, node, vec![], name.clone(), BTreeSet::new(), true);
        }
        if node.op.class() == Class::Given {
            return;
        }
        let reads: BTreeSet<usize> = node.operands.iter().filter_map(|v| self.part_of.get(&v.node).copied()).collect();
        let owner = node.operands.iter().find_map(|v| self.owner.get(&v.node).cloned());
        // Of parameters and constants alone.
        if let (true, Some(owner)) = (reads.is_empty(), &owner) {
            self.owner.insert(id, owner.clone());
            return;
        }
        if let Some(path) = owner {
            self.layer(id, node, path, reads);
            return;
        }
        let moved = node.operands.iter().any(|v| self.windows.contains(&v.node));
        let works = match node.op.class() {
            Class::Reduction | Class::Product | Class::Recurrence => true,
            Class::Time => matches!(node.op, Op::Delay { .. }),
            Class::Given | Class::Elementwise | Class::Movement | Class::Label => false,
        };
        let joins = reads.len() == 1 && !works;
        if joins {
            let own = reads.iter().next().copied().unwrap_or_default();
            self.part_of.insert(id, own);
            if moved || matches!(node.op, Op::Window { .. }) {
                self.windows.insert(id);
            } else if !self.parts[own].given && !matches!(node.op, Op::Pad { .. }) {
                self.parts[own].ty = Some(node.types[0].clone());
            }
            return;
        }
        if reads.is_empty() {
            return;
        }
        // A neuron and a sum belong to the net of the last that they read.
        let path = reads.iter().next_back().map(|r| self.group(*r)).unwrap_or_default();
        let title = match &node.op {
            Op::Reduce { .. } if moved => "pool".to_string(),
            Op::Reduce { .. } => node.name.clone().unwrap_or_else(|| op_name(&node.op)),
            op => match &node.name {
                Some(name) if matches!(op, Op::Scan(_) | Op::Loop(_)) => name.clone(),
                _ => op_name(op),
            },
        };
        self.add(id, node, path, title, reads, false);
    }

    /// The net that a part belongs to.
    fn group(&self, part: usize) -> Vec<String> {
        let p = &self.parts[part];
        let mut path = p.path.clone();
        if p.is_layer {
            path.pop();
        }
        path
    }

    fn add(&mut self, id: NodeId, node: &Node, path: Vec<String>, title: String, reads: BTreeSet<usize>, given: bool) {
        self.part_of.insert(id, self.parts.len());
        self.parts.push(Part { path, title, ty: Some(node.types[0].clone()), reads, given, ..Part::default() });
    }

    fn layer(&mut self, id: NodeId, node: &Node, path: Vec<String>, reads: BTreeSet<usize>) {
        let kind = match node.op.class() {
            Class::Product => Some(if matches!(node.op, Op::Contract(_)) { "linear" } else { "conv" }),
            Class::Recurrence => Some(if matches!(node.op, Op::Scan(_)) { "neurons" } else { "recurrent" }),
            Class::Movement => matches!(node.op, Op::Gather { .. }).then_some("embedding"),
            Class::Given | Class::Elementwise | Class::Reduction | Class::Time | Class::Label => None,
        };
        let known = self.layers.get(&path).copied();
        // A layer that is applied again, behind others, is another box.
        let at = match known.filter(|at| reads.contains(at) || self.parts[*at].reads.is_superset(&reads)) {
            Some(at) => at,
            None => {
                let prefix = path.join(".");
                let owned = self
                    .graph
                    .parameters
                    .iter()
                    .filter(|p| p.name.strip_prefix(&prefix).is_some_and(|r| r.is_empty() || r.starts_with('.')));
                let count = owned.filter_map(|p| p.ty.sizes().ok()).map(|s| s.iter().product::<usize>() as u64).sum();
                let title = path.last().cloned().unwrap_or_default();
                self.parts.push(Part { path: path.clone(), is_layer: true, title, parameters: count, ..Part::default() });
                self.layers.insert(path, self.parts.len() - 1);
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[at];
        part.reads.extend(reads.iter().filter(|r| **r != at));
        part.ty = Some(node.types[0].clone());
        if let Some(kind) = kind.filter(|k| !part.title.contains(k)) {
            part.title = format!("{}: {kind}", part.title);
        }
        self.part_of.insert(id, at);
    }
}

/// A place in a row: a part, or where an arrow passes.
#[derive(Clone, Copy, PartialEq)]
enum Slot {
    Part(usize),
    Passing,
}

/// An arrow on its way: from and to which part, the slots so far, and its last column.
type Passing = (usize, usize, Vec<(usize, usize)>, f64);
/// A net by its path, with two corners of the rectangle around it.
type Group = (Vec<String>, (i32, i32), (i32, i32));

/// Boxes with places.
struct Placed<'a> {
    layers: &'a Layers,
    rows: Vec<Vec<Slot>>,
    /// The middle of each slot, by row and column.
    at: Vec<Vec<(i32, i32)>>,
    /// Arrows as the slots that they pass, from the first to the last.
    arrows: Vec<Vec<(usize, usize)>>,
    size: (u32, u32),
}

impl Placed<'_> {
    fn new(layers: &Layers) -> Placed<'_> {
        let parts = &layers.parts;
        // Parts come after what they read, but for nets as one box, which others can stand between.
        let mut row = vec![0usize; parts.len()];
        for _ in 0..parts.len().min(64) {
            let mut changed = false;
            for (i, p) in parts.iter().enumerate() {
                let lowest = p.reads.iter().filter(|r| **r < i).map(|r| row[*r] + 1).max().unwrap_or(0);
                changed |= row[i] < lowest;
                row[i] = row[i].max(lowest);
            }
            if !changed {
                break;
            }
        }
        let mut rows: Vec<Vec<Slot>> = vec![vec![]; row.iter().max().map_or(0, |r| r + 1)];
        let mut column = vec![0usize; parts.len()];
        let mut arrows = Vec::new();
        // Row by row: parts stand below the mean of what they read, and long arrows have places on their way.
        let mut passing: Vec<Passing> = Vec::new();
        for (r, own_row) in rows.iter_mut().enumerate() {
            let mean = |p: &Part| {
                let above: Vec<f64> = p.reads.iter().filter(|s| row[**s] < r).map(|s| column[*s] as f64).collect();
                if above.is_empty() { 0.0 } else { above.iter().sum::<f64>() / above.len() as f64 }
            };
            let mut slots: Vec<(f64, Slot, Option<usize>)> =
                parts.iter().enumerate().filter(|(i, _)| row[*i] == r).map(|(i, p)| (mean(p), Slot::Part(i), None)).collect();
            slots.extend(passing.iter().enumerate().filter(|(_, p)| row[p.1] > r).map(|(k, p)| (p.3 + 0.6, Slot::Passing, Some(k))));
            slots.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (c, (_, slot, arrow)) in slots.iter().enumerate() {
                own_row.push(*slot);
                match (slot, arrow) {
                    (Slot::Part(i), _) => column[*i] = c,
                    (Slot::Passing, Some(k)) => {
                        passing[*k].2.push((r, c));
                        passing[*k].3 = c as f64;
                    }
                    (Slot::Passing, None) => {}
                }
            }
            // Arrows that end here, and those that begin.
            passing.retain(|(from, to, way, _)| {
                let ends = row[*to] <= r;
                if ends {
                    let mut way = way.clone();
                    way.push((row[*to], column[*to]));
                    arrows.push((*from, way));
                }
                !ends
            });
            for (to, p) in parts.iter().enumerate() {
                for from in p.reads.iter().filter(|f| row[**f] == r && row[to] > r) {
                    passing.push((*from, to, vec![(r, column[*from])], column[*from] as f64));
                }
            }
        }
        let width_of = |s: &Slot| if *s == Slot::Passing { 2 * GAP } else { BOX.0 + GAP };
        let widest = rows.iter().map(|r| r.iter().map(width_of).sum::<i32>()).max().unwrap_or(0).max(2 * BOX.0);
        let place = |(r, slots): (usize, &Vec<Slot>)| {
            let mut x = MARGIN + (widest - slots.iter().map(width_of).sum::<i32>()) / 2;
            let y = TITLE + MARGIN + r as i32 * ROW + BOX.1 / 2;
            let middle = |s: &Slot| {
                let at = (x + width_of(s) / 2, y);
                x += width_of(s);
                at
            };
            slots.iter().map(middle).collect::<Vec<_>>()
        };
        let at: Vec<Vec<(i32, i32)>> = rows.iter().enumerate().map(place).collect();
        let size = ((widest + 2 * MARGIN) as u32, (TITLE + 2 * MARGIN + rows.len() as i32 * ROW) as u32);
        Placed { layers, rows, at, arrows: arrows.into_iter().map(|(_, way)| way).collect(), size }
    }

    /// The middle of each part.
    fn centres(&self) -> BTreeMap<usize, (i32, i32)> {
        let slots = self.rows.iter().zip(&self.at).flat_map(|(row, at)| row.iter().zip(at));
        slots.filter_map(|(slot, at)| if let Slot::Part(i) = slot { Some((*i, *at)) } else { None }).collect()
    }

    /// The nets whose parts are drawn one by one, outer ones first, with the rectangle around them.
    fn groups(&self) -> Vec<Group> {
        let centres = self.centres();
        let mut groups: BTreeMap<Vec<String>, Vec<(i32, i32)>> = BTreeMap::new();
        for (i, p) in self.layers.parts.iter().enumerate() {
            let inside = p.path.len() - usize::from(p.is_layer && !p.path.is_empty());
            for depth in 1..=inside {
                groups.entry(p.path[..depth].to_vec()).or_default().push(centres[&i]);
            }
        }
        let mut all: Vec<_> = groups
            .into_iter()
            .filter(|(_, at)| at.len() > 1)
            .map(|(path, at)| {
                let grow = (14 - 4 * path.len().min(3) as i32).max(2);
                let left = at.iter().map(|a| a.0).min().unwrap_or(0) - BOX.0 / 2 - grow;
                let right = at.iter().map(|a| a.0).max().unwrap_or(0) + BOX.0 / 2 + grow;
                let top = at.iter().map(|a| a.1).min().unwrap_or(0) - BOX.1 / 2 - grow - 10;
                let bottom = at.iter().map(|a| a.1).max().unwrap_or(0) + BOX.1 / 2 + grow - 4;
                (path, (left, top), (right, bottom))
            })
            .collect();
        all.sort_by_key(|(path, ..)| path.len());
        all
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<(), PlotError> {
        area.fill(&WHITE).map_err(failed)?;
        let text = |size: i32, h: HPos| (FONT, size).into_font().color(&BLACK).pos(Pos::new(h, VPos::Center));
        let total: u64 = self.layers.parts.iter().map(|p| p.parameters).sum();
        let title = format!("{}: {} parameters", self.layers.name, counted(total));
        area.draw(&Text::new(title, (self.size.0 as i32 / 2, TITLE / 2 + 4), text(18, HPos::Center))).map_err(failed)?;
        for (path, from, to) in self.groups() {
            let shade = 250 - 5 * path.len().min(4) as u8;
            area.draw(&Rectangle::new([from, to], RGBColor(shade, shade, shade).filled())).map_err(failed)?;
            area.draw(&Rectangle::new([from, to], RGBColor(190, 190, 190).stroke_width(1))).map_err(failed)?;
            let name = path.last().cloned().unwrap_or_default();
            let label = (FONT, 11).into_font().color(&RGBColor(110, 110, 110)).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(name, (from.0 + 4, from.1 + 7), label)).map_err(failed)?;
        }
        for way in &self.arrows {
            self.arrow(area, way)?;
        }
        for (i, (x, y)) in self.centres() {
            let p = &self.layers.parts[i];
            let corners = [(x - BOX.0 / 2, y - BOX.1 / 2), (x + BOX.0 / 2, y + BOX.1 / 2)];
            let fill = match (p.given, p.is_layer) {
                (true, _) => RGBColor(226, 236, 248),
                (false, true) => RGBColor(248, 240, 222),
                (false, false) => RGBColor(232, 246, 232),
            };
            area.draw(&Rectangle::new(corners, fill.filled())).map_err(failed)?;
            area.draw(&Rectangle::new(corners, BLACK.stroke_width(1))).map_err(failed)?;
            let mut second = p.ty.as_ref().map(short_type).unwrap_or_default();
            if p.parameters > 0 {
                second = format!("{second}  {}", counted(p.parameters));
            }
            area.draw(&Text::new(fitting(&p.title, 25), (x, y - 9), text(13, HPos::Center))).map_err(failed)?;
            area.draw(&Text::new(fitting(&second, 32), (x, y + 10), text(10, HPos::Center))).map_err(failed)?;
        }
        Ok(())
    }

    fn arrow<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, way: &[(usize, usize)]) -> Result<(), PlotError> {
        let grey = RGBColor(90, 90, 90);
        let mut points = Vec::new();
        for (k, (row, column)) in way.iter().enumerate() {
            let (x, y) = self.at[*row][*column];
            if k == 0 {
                points.push((x, y + BOX.1 / 2));
            } else if k + 1 == way.len() {
                points.push((x, y - BOX.1 / 2));
            } else {
                points.extend([(x, y - BOX.1 / 2), (x, y + BOX.1 / 2)]);
            }
        }
        area.draw(&PathElement::new(points.clone(), grey.stroke_width(1))).map_err(failed)?;
        let (Some(end), Some(before)) = (points.last(), points.iter().rev().nth(1)) else { return Ok(()) };
        let (dx, dy) = (f64::from(end.0 - before.0), f64::from(end.1 - before.1));
        let length = (dx * dx + dy * dy).sqrt().max(1.0);
        let (ux, uy) = (dx / length, dy / length);
        let corner =
            |side: f64| ((f64::from(end.0) - 8.0 * ux - side * 4.0 * uy) as i32, (f64::from(end.1) - 8.0 * uy + side * 4.0 * ux) as i32);
        area.draw(&Polygon::new(vec![*end, corner(1.0), corner(-1.0)], grey.filled())).map_err(failed)?;
        Ok(())
    }
}

/// A type whose dimensions that are long expressions of others are left open.
fn short_type(ty: &Type) -> String {
    let dims = ty.shape.iter().map(|d| d.to_string()).map(|d| if d.len() > 6 { "_".to_string() } else { d });
    format!("{}[{}]", ty.dtype, dims.collect::<Vec<_>>().join(", "))
}

/// A number of parameters, short.
fn counted(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1}k", n as f64 / 1e3),
        _ => format!("{:.1}M", n as f64 / 1e6),
    }
}

fn fitting(text: &str, most: usize) -> String {
    if text.chars().count() > most { text.chars().take(most - 1).chain(['…']).collect() } else { text.to_string() }
}

/// The layers of a net. Nets below `depth` are one box each; without it as many levels are drawn as can be read.
///
/// # Errors
/// If there are too many boxes to look at, or the file cannot be written.
pub fn layers(path: &Path, graph: &Graph, depth: Option<usize>) -> Result<(), PlotError> {
    let all = Layers::of(graph);
    let shown = match depth {
        Some(depth) => all.folded(depth.max(1)),
        None => {
            let mut levels = (1..=all.depth()).rev().map(|d| all.folded(d));
            levels.find(|folded| folded.parts.len() <= READABLE).unwrap_or_else(|| all.folded(1))
        }
    };
    if shown.parts.len() > MOST {
        let n = shown.parts.len();
        return Err(PlotError(format!("a picture of {n} layers cannot be read: draw fewer with `--depth`")));
    }
    let placed = Placed::new(&shown);
    write(path, placed.size, |canvas: &Canvas<'_>| {
        on!(canvas, area => {
            placed.draw(area)?;
            area.present().map_err(failed)
        })
    })
}

//! Reductions and pools.

use snn_ir::{CompileError, Graph, NodeId, Op, Reduction, Value};

/// A reduction over one block of axes, or over windows.
#[derive(Clone, Debug)]
pub struct ReductionPlan {
    /// With what.
    pub kind: Reduction,
    /// What is read.
    pub source: Value,
    /// Over what.
    pub shape: ReductionShape,
}

/// What is reduced.
#[derive(Clone, Debug)]
pub enum ReductionShape {
    /// The middle one of three axes.
    Block {
        /// How many are reduced.
        reduced: usize,
        /// After it.
        inner: usize,
    },
    /// Any axes: size and stride of those that are kept, and of those that are reduced, in order.
    Axes {
        /// Kept axes.
        kept: Vec<(usize, usize)>,
        /// Reduced axes.
        reduced: Vec<(usize, usize)>,
    },
    /// Windows over the last two axes.
    Windows {
        /// Height and width before.
        input: [usize; 2],
        /// Height and width after.
        output: [usize; 2],
        /// Of a window.
        size: [usize; 2],
        /// Of neighbouring windows.
        stride: [usize; 2],
    },
}

impl ReductionShape {
    /// Is a reduction one of two windows over the last two axes? What is read, and how.
    pub fn windows(graph: &Graph, id: NodeId) -> Option<(Value, ReductionShape)> {
        let node = graph.node(id);
        let Op::Reduce { axes, .. } = &node.op else { return None };
        let inner = node.operands[0];
        let Op::Window { axis: second, size: kx, stride: sx, dilation: 1 } = graph.op(inner) else { return None };
        let outer = graph.node(inner.node).operands[0];
        let Op::Window { axis: first, size: ky, stride: sy, dilation: 1 } = graph.op(outer) else { return None };
        let source = graph.node(outer.node).operands[0];
        let shape = graph.ty(source).sizes().ok()?;
        let rank = shape.len();
        let fits = *first + 2 == rank && *second + 1 == rank && axes.as_slice() == [rank, rank + 1];
        let out = node.types[0].sizes().ok()?;
        fits.then(|| {
            let windows = ReductionShape::Windows {
                input: [shape[rank - 2], shape[rank - 1]],
                output: [out[rank - 2], out[rank - 1]],
                size: [*ky as usize, *kx as usize],
                stride: [*sy as usize, *sx as usize],
            };
            (source, windows)
        })
    }

    /// The plan of a reduction, if loops here serve it.
    pub fn plan(graph: &Graph, id: NodeId, kind: Reduction, axes: &[usize]) -> Result<Option<ReductionPlan>, CompileError> {
        if let Some((source, shape)) = ReductionShape::windows(graph, id) {
            return Ok(Some(ReductionPlan { kind, source, shape }));
        }
        let source = graph.node(id).operands[0];
        let sizes = graph.ty(source).sizes()?;
        let block = axes.windows(2).all(|w| w[0] + 1 == w[1]);
        let (Some(first), Some(last), true) = (axes.first(), axes.last(), block) else {
            let strides = snn_ir::tensor::row_major_strides(&sizes);
            let of = |wanted: bool| (0..sizes.len()).filter(|a| axes.contains(a) == wanted).map(|a| (sizes[a], strides[a])).collect();
            let (kept, reduced): (Vec<_>, Vec<_>) = (of(false), joined(of(true)));
            let none = reduced.is_empty() || reduced.iter().any(|(n, _)| *n == 0);
            return Ok((!none).then_some(ReductionPlan { kind, source, shape: ReductionShape::Axes { kept, reduced } }));
        };
        let product = |r: &[usize]| r.iter().product::<usize>();
        let (reduced, inner) = (product(&sizes[*first..=*last]), product(&sizes[*last + 1..]));
        if reduced == 0 && kind != Reduction::Sum {
            return Ok(None);
        }
        Ok(Some(ReductionPlan { kind, source, shape: ReductionShape::Block { reduced, inner } }))
    }
}

/// Axes that lie behind each other as one.
fn joined(axes: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> = Vec::new();
    for (n, stride) in axes.into_iter().filter(|(n, _)| *n != 1) {
        match all.last_mut() {
            Some(before) if before.1 == stride * n => *before = (before.0 * n, stride),
            _ => all.push((n, stride)),
        }
    }
    if all.is_empty() { vec![(1, 1)] } else { all }
}

impl ReductionPlan {
    /// Output, size and stride of the windows over the last two axes, where it is a pool.
    pub fn windows(&self) -> Option<([usize; 2], [usize; 2], [usize; 2])> {
        match &self.shape {
            ReductionShape::Windows { output, size, stride, .. } => Some((*output, *size, *stride)),
            ReductionShape::Block { .. } | ReductionShape::Axes { .. } => None,
        }
    }
}

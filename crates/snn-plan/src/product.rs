//! Contractions as products of matrices.

use snn_ir::tensor::row_major_strides;
use snn_ir::{CompileError, Contraction, Graph, Node, Op, Value};

use crate::plan::number;

/// One operand of a product: a matrix for each batch, read where it is.
#[derive(Clone, Debug)]
pub struct Side {
    /// The tensor.
    pub source: Value,
    /// The order of axes to copy it into, where strides cannot describe it.
    pub permutation: Option<Vec<usize>>,
    /// The stride of each batch axis.
    pub batch: Vec<usize>,
    /// The stride of the axes that are kept, as one.
    pub free: usize,
    /// The stride of the axes that are summed, as one.
    pub sum: usize,
}

/// A product `[batch, m, k] x [batch, k, n]`.
#[derive(Clone, Debug)]
pub struct ProductPlan {
    /// The left operand.
    pub lhs: Side,
    /// The right operand.
    pub rhs: Side,
    /// The sizes of the batch axes.
    pub batch: Vec<usize>,
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Summed.
    pub k: usize,
    /// Is the right operand weights, which are packed where spikes meet them?
    pub spikes: bool,
    /// Where these stay the same from run to run: the number of the packed weights that are kept.
    pub packed: Option<usize>,
}

/// Smaller products than this are dense.
const SMALLEST_FOR_SPIKES: usize = 1 << 12;

/// The single stride that walks over several axes in row-major order, if there is one.
fn one_stride(sizes: &[usize], strides: &[usize], axes: &[usize]) -> Option<usize> {
    let long: Vec<usize> = axes.iter().copied().filter(|a| sizes[*a] != 1).collect();
    let fits = long.windows(2).all(|w| strides[w[0]] == strides[w[1]] * sizes[w[1]]);
    fits.then(|| long.last().map_or(0, |a| strides[*a]))
}

/// `sum_first` says how an operand lies that must be copied: `[batch, sum, free]`, or `[batch, free, sum]`.
fn side(graph: &Graph, value: Value, batch: &[usize], free: &[usize], sum: &[usize], sum_first: bool) -> Result<Side, CompileError> {
    let sizes = graph.ty(value).sizes()?;
    // A transposed operand is read where it is.
    let permutation = if let Op::Transpose { permutation } = graph.op(value) { Some(permutation) } else { None };
    let (source, strides) = match permutation {
        Some(permutation) => {
            let source = graph.node(value.node).operands[0];
            let own = row_major_strides(&graph.ty(source).sizes()?);
            (source, permutation.iter().map(|a| own[*a]).collect())
        }
        None => (value, row_major_strides(&sizes)),
    };
    if let (Some(f), Some(s)) = (one_stride(&sizes, &strides, free), one_stride(&sizes, &strides, sum)) {
        return Ok(Side { source, permutation: None, batch: batch.iter().map(|a| strides[*a]).collect(), free: f, sum: s });
    }
    let (first, second) = if sum_first { (sum, free) } else { (free, sum) };
    let order: Vec<usize> = batch.iter().chain(first).chain(second).copied().collect();
    let full = match permutation {
        Some(permutation) => order.iter().map(|a| permutation[*a]).collect(),
        None => order.clone(),
    };
    let shape: Vec<usize> = order.iter().map(|a| sizes[*a]).collect();
    let own = row_major_strides(&shape);
    let row: usize = second.iter().map(|a| sizes[*a]).product();
    let (free, sum) = if sum_first { (1, row) } else { (row, 1) };
    Ok(Side { source, permutation: Some(full), batch: own[..batch.len()].to_vec(), free, sum })
}

/// What is given, also in another shape: weights.
fn given(graph: &Graph, v: Value) -> Option<&Op> {
    let op = graph.op(v);
    if let Op::Reshape { .. } = op {
        return given(graph, graph.node(v.node).operands[0]);
    }
    matches!(op, Op::Parameter { .. } | Op::Input { .. }).then_some(op)
}

/// Does a value last from run to run, or from step to step, and is no parameter that the run changes?
pub(crate) fn lasts(graph: &Graph, v: Value) -> bool {
    let is_updated = |op: &Op| matches!(op, Op::Parameter { name, .. } if graph.updates.iter().any(|(updated, _)| updated == name));
    given(graph, v).is_some_and(|op| !is_updated(op))
}

impl ProductPlan {
    /// Plans a contraction; `packed` counts the packed weights so far.
    pub(crate) fn new(graph: &Graph, node: &Node, c: &Contraction, packed: &mut usize) -> Result<ProductPlan, CompileError> {
        let (a, b) = (graph.ty(node.operands[0]).sizes()?, graph.ty(node.operands[1]).sizes()?);
        let (free_a, free_b) = c.free_axes(a.len(), b.len());
        let size = |s: &[usize], axes: &[usize]| axes.iter().map(|i| s[*i]).product::<usize>();
        let lhs = side(graph, node.operands[0], &c.lhs_batch, &free_a, &c.lhs_sum, false)?;
        let rhs = side(graph, node.operands[1], &c.rhs_batch, &free_b, &c.rhs_sum, true)?;
        let (m, n, k) = (size(&a, &free_a), size(&b, &free_b), size(&a, &c.lhs_sum));
        let rows = lhs.sum == 1 && (lhs.free == k || m == 1) && lhs.permutation.is_none() && rhs.permutation.is_none();
        let spikes = c.lhs_batch.is_empty() && rows && given(graph, rhs.source).is_some() && n * k >= SMALLEST_FOR_SPIKES;
        let packed = (spikes && lasts(graph, rhs.source)).then(|| number(packed));
        let batch = c.lhs_batch.iter().map(|i| a[*i]).collect();
        Ok(ProductPlan { lhs, rhs, batch, m, n, k, spikes, packed })
    }
}

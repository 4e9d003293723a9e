//! The gradient of a max pool.

use snn_ir::{CompileError, Graph, MaxPool, Node, Value};

/// What is read, and the windows.
#[derive(Clone, Debug)]
pub struct MaxPoolGradient {
    /// What was pooled, `[..., sizes]`.
    pub x: Value,
    /// The results, `[..., windows]`.
    pub y: Value,
    /// What they got.
    pub gradient: Value,
    /// The windows.
    pub pool: MaxPool,
    /// The sizes of the pooled axes.
    pub space: Vec<usize>,
    /// How many windows they have.
    pub windows: Vec<usize>,
}

impl MaxPoolGradient {
    /// Plans one.
    ///
    /// # Errors
    /// If a size is not known.
    pub(crate) fn new(graph: &Graph, node: &Node, pool: &MaxPool) -> Result<MaxPoolGradient, CompileError> {
        let [x, y, gradient] = [0, 1, 2].map(|i| node.operands[i]);
        let lead = graph.ty(x).rank() - pool.axes.len();
        let (space, windows) = (graph.ty(x).sizes()?[lead..].to_vec(), graph.ty(y).sizes()?[lead..].to_vec());
        Ok(MaxPoolGradient { x, y, gradient, pool: pool.clone(), space, windows })
    }

    /// Do windows of two axes tile them, without padding?
    pub fn tile(&self) -> Option<[usize; 2]> {
        let [a, b] = self.pool.axes.as_slice() else { return None };
        let tiles = |i: usize, p: &snn_ir::PoolAxis| {
            p.size == p.stride && p.dilation == 1 && p.padding == 0 && self.windows[i] * p.size as usize == self.space[i]
        };
        (tiles(0, a) && tiles(1, b)).then_some([a.size as usize, b.size as usize])
    }
}

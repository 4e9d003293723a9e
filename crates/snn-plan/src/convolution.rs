//! Convolutions over one or two axes.

use snn_ir::{CompileError, Convolution, Graph, Node};

/// A convolution over one or two axes.
#[derive(Clone, Debug)]
pub struct ConvolutionPlan {
    /// Which inputs each output meets.
    pub windows: Windows,
    /// The number of the packed weights that are kept of the first group; those of the others follow.
    pub packed: usize,
}

/// Which inputs each output meets.
#[derive(Clone, Debug)]
pub struct Windows {
    /// Into how many groups channels are divided.
    pub groups: usize,
    /// Of all groups.
    pub channels: usize,
    /// Of all groups.
    pub out_channels: usize,
    /// Height and width of an image.
    pub input: [usize; 2],
    /// Height and width of a result.
    pub output: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// The distance of two windows.
    pub stride: [usize; 2],
    /// Zeros before and after.
    pub padding: [usize; 2],
    /// The distance of two elements of a window.
    pub dilation: [usize; 2],
}

impl ConvolutionPlan {
    /// Plans a convolution; over one axis it is one over two with a height of one.
    pub(crate) fn new(graph: &Graph, node: &Node, c: &Convolution, packed: &mut usize) -> Result<ConvolutionPlan, CompileError> {
        let (x, w) = (graph.ty(node.operands[0]).sizes()?, graph.ty(node.operands[1]).sizes()?);
        let out = node.types[0].sizes()?;
        let n = c.stride.len();
        let two = |v: &[usize], one: usize| if n == 1 { [one, v[0]] } else { [v[0], v[1]] };
        let numbers = |v: &[i64]| v.iter().map(|x| *x as usize).collect::<Vec<_>>();
        let windows = Windows {
            groups: c.groups as usize,
            channels: x[x.len() - n - 1],
            out_channels: w[0],
            input: two(&x[x.len() - n..], 1),
            output: two(&out[out.len() - n..], 1),
            kernel: two(&w[2..], 1),
            stride: two(&numbers(&c.stride), 1),
            padding: two(&numbers(&c.padding), 0),
            dilation: two(&numbers(&c.dilation), 1),
        };
        let first = *packed;
        *packed += windows.groups;
        Ok(ConvolutionPlan { windows, packed: first })
    }
}

impl Windows {
    /// Channels of a group, before and after.
    pub fn per_group(&self) -> (usize, usize) {
        (self.channels / self.groups, self.out_channels / self.groups)
    }
}

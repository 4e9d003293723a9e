//! Convolutions over one or two axes, and their gradients.

use snn_ir::{CompileError, Convolution, Graph, Node, Type};

/// A convolution over one or two axes.
#[derive(Clone, Debug)]
pub struct ConvolutionPlan {
    /// What is computed.
    pub direction: Direction,
    /// Which inputs each output meets.
    pub windows: Windows,
    /// Where the weights last from run to run: the number of the packed weights that are kept of the first group; those of the others follow.
    pub packed: Option<usize>,
}

/// The convolution, or the gradient of one of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The operands are the input and the weights.
    Forward,
    /// The operands are the gradient of the result, and the weights.
    InputGradient,
    /// The operands are the input, and the gradient of the result.
    WeightGradient,
}

/// Which inputs each output of a convolution meets.
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
    /// Plans a convolution or a gradient; over one axis it is one over two with a height of one.
    pub(crate) fn new(
        graph: &Graph,
        node: &Node,
        direction: Direction,
        c: &Convolution,
        packed: &mut usize,
    ) -> Result<ConvolutionPlan, CompileError> {
        let operand = |i: usize| -> &Type { graph.ty(node.operands[i]) };
        let result = &node.types[0];
        let (x, w, out) = match direction {
            Direction::Forward => (operand(0), operand(1), result),
            Direction::InputGradient => (result, operand(1), operand(0)),
            Direction::WeightGradient => (operand(0), result, operand(1)),
        };
        let windows = Windows::new(c, &x.sizes()?, &w.sizes()?, &out.sizes()?);
        let lasts = direction == Direction::Forward && crate::product::lasts(graph, node.operands[1]);
        let first = lasts.then(|| {
            *packed += windows.groups;
            *packed - windows.groups
        });
        Ok(ConvolutionPlan { direction, windows, packed: first })
    }
}

impl Windows {
    /// The windows of a convolution of an input of shape `x` by weights of shape `w`, which gives `out`.
    pub fn new(c: &Convolution, x: &[usize], w: &[usize], out: &[usize]) -> Windows {
        let n = c.stride.len();
        let two = |v: &[usize], one: usize| if n == 1 { [one, v[0]] } else { [v[0], v[1]] };
        let numbers = |v: &[i64]| v.iter().map(|x| *x as usize).collect::<Vec<_>>();
        Windows {
            groups: c.groups as usize,
            channels: x[x.len() - n - 1],
            out_channels: w[0],
            input: two(&x[x.len() - n..], 1),
            output: two(&out[out.len() - n..], 1),
            kernel: two(&w[2..], 1),
            stride: two(&numbers(&c.stride), 1),
            padding: two(&numbers(&c.padding), 0),
            dilation: two(&numbers(&c.dilation), 1),
        }
    }

    /// Elements of an image of one channel.
    pub fn plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Elements of a result of one channel.
    pub fn out_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Elements of the kernel of one channel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// How many images so many inputs are.
    pub fn images(&self, inputs: usize) -> usize {
        inputs / (self.channels * self.plane()).max(1)
    }

    /// Height and width of an image with the zeros around it.
    #[inline]
    pub fn padded_input(&self) -> [usize; 2] {
        [0, 1].map(|a| self.input[a] + 2 * self.padding[a])
    }

    /// How far an element of the kernel is from the first, where lines are so many elements apart.
    #[inline]
    pub fn tap(&self, tap: usize, line: usize) -> usize {
        tap / self.kernel[1] * self.dilation[0] * line + tap % self.kernel[1] * self.dilation[1]
    }

    /// Channels of a group, before and after.
    pub fn per_group(&self) -> (usize, usize) {
        (self.channels / self.groups, self.out_channels / self.groups)
    }
}

//! How the elements of a step kernel are divided into tiles.

use snn_plan::step::StepKernel;

/// Elements of a run that are handled at once, at least and at most: states of this length stay in the L2 cache, and rows are
/// long enough for the processor to see that they are read in order.
const TILE: [usize; 2] = [1024, 8192];
/// Elements of a tile of several runs at least.
const SHORTEST_CALL: usize = 256;
/// Into how many tiles at least a row is divided whose elements are summed.
const PARTS_OF_SUMS: usize = 8;

/// How the elements of a step are divided into tiles: parts of a run, or several runs of the joined axes.
pub struct Division<'a> {
    kernel: &'a StepKernel,
    /// The elements of a part of a run.
    size: usize,
    /// The parts of a run; one where a tile has several runs.
    pub parts: usize,
    /// The runs of a tile, and of all joined axes.
    runs: [usize; 2],
}

impl<'a> Division<'a> {
    /// For so many threads.
    pub fn new(kernel: &'a StepKernel, threads: usize) -> Division<'a> {
        let plane = kernel.plane();
        let size = |parts: usize, least: usize| {
            let size = (kernel.elements() / parts).next_multiple_of(64).clamp(least, TILE[1]).min(kernel.longest_tile());
            (size / plane).max(1) * plane
        };
        let joined = kernel.joined_runs();
        if joined <= 1 {
            // Tiles that depended on the number of threads would change the order of sums, which are of parts of runs.
            let parts = if kernel.sums.is_empty() { threads * 4 } else { PARTS_OF_SUMS };
            let size = size(parts, TILE[0]).min(kernel.run);
            return Division { kernel, size, parts: kernel.run.div_ceil(size.max(1)), runs: [1, 1] };
        }
        let runs = (size(threads * 2, SHORTEST_CALL) / kernel.run.max(1)).clamp(1, joined);
        Division { kernel, size: kernel.run, parts: 1, runs: [runs, joined] }
    }

    /// The elements of a tile at most.
    pub fn longest(&self) -> usize {
        self.size * self.runs[0]
    }

    /// The tiles of a block, of all joined axes.
    fn of_block(&self) -> usize {
        (self.parts * self.runs[1].div_ceil(self.runs[0])).max(1)
    }

    /// How many tiles there are.
    pub fn tiles(&self) -> usize {
        self.kernel.outer.iter().product::<usize>() / self.runs[1] * self.of_block()
    }

    /// The partial sums of the tiles before this one: there is one for each part of a run.
    pub fn sums_before(&self, tile: usize) -> usize {
        let (block, within) = (tile / self.of_block(), tile % self.of_block());
        if self.runs[1] == 1 { tile } else { block * self.runs[1] + within * self.runs[0] }
    }

    /// A tile by its number.
    pub fn tile(&self, i: usize) -> Tile {
        let (block, within) = (i / self.of_block(), i % self.of_block());
        let (kernel, size, row) = (self.kernel, self.longest(), self.kernel.elements());
        if self.runs[1] == 1 {
            let first = within * self.size;
            return Tile { outer: block, first, runs: 1, elements: self.size.min(kernel.run - first), size, row };
        }
        let first = within * self.runs[0];
        let runs = self.runs[0].min(self.runs[1] - first);
        Tile { outer: block * self.runs[1] + first, first: 0, runs, elements: runs * kernel.run, size, row }
    }
}

/// What is handled at once: a part of a run, or several runs.
#[derive(Clone, Copy)]
pub struct Tile {
    /// The place of its first run along the outer axes.
    pub outer: usize,
    /// Its first element in the run.
    pub first: usize,
    /// How many runs it has.
    pub runs: usize,
    /// Its elements.
    pub elements: usize,
    /// The elements of the longest tile.
    pub size: usize,
    /// Elements of a time step.
    pub row: usize,
}

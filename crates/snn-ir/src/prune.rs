//! Removing what nobody uses: nodes, outputs of scans and loops, and states that only feed themselves or never change.

use crate::graph::{Graph, Node, Value};
use crate::op::{Loop, Op};

/// See [`Graph::pruned`].
pub(crate) fn prune(graph: &Graph) -> Graph {
    let mut current = graph.clone();
    loop {
        let uses = current.use_counts();
        let mut changed = false;
        let next = current.rebuild(|new, id, node| {
            let counts = &uses[id.index()];
            match node.op {
                Op::Scan(ref s) if counts.contains(&0) => {
                    let layout = Layout { sequences: s.sequences, invariants: s.invariants, states: s.states, outputs: s.outputs };
                    let Some(kept) = layout.kept(&s.body, counts) else { return copy(new, node) };
                    changed = true;
                    let mut scan = (**s).clone();
                    (scan.invariants, scan.states, scan.outputs) = kept.counts(&layout);
                    scan.body = kept.body(&s.body);
                    kept.replace(new, node, Op::Scan(Box::new(scan)))
                }
                // A state that never changes ends as it began.
                Op::Loop(ref l) if (l.outputs..counts.len()).any(|i| counts[i] > 0 && stays(l, i)) => {
                    changed = true;
                    let begins = |i: usize| node.operands[l.sequences + l.invariants + i - l.outputs];
                    let ends: Vec<Option<Value>> = (0..counts.len()).map(|i| (i >= l.outputs && stays(l, i)).then(|| begins(i))).collect();
                    copy(new, node).into_iter().zip(ends).map(|(v, end)| end.unwrap_or(v)).collect()
                }
                Op::Loop(ref l) if counts.contains(&0) => {
                    let layout = Layout { sequences: l.sequences, invariants: l.invariants, states: l.states, outputs: l.outputs };
                    let Some(kept) = layout.kept(&l.body, counts) else { return copy(new, node) };
                    changed = true;
                    let mut l2 = (**l).clone();
                    (l2.invariants, l2.states, l2.outputs) = kept.counts(&layout);
                    l2.body = kept.body(&l.body);
                    kept.replace(new, node, Op::Loop(Box::new(l2)))
                }
                Op::Input(_) | Op::Parameter(_) | Op::Constant(_) | Op::Size(_) | Op::Iota => copy(new, node),
                Op::Random { .. } | Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast | Op::Spike { .. } => copy(new, node),
                Op::Broadcast { .. } | Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } => copy(new, node),
                Op::Pad { .. } | Op::Concat { .. } | Op::Gather { .. } | Op::ScatterAdd { .. } => copy(new, node),
                Op::Window { .. } | Op::MaxPoolGradient(_) | Op::Reduce { .. } | Op::ArgMax { .. } => copy(new, node),
                Op::CumSum { .. } | Op::Contract(_) | Op::Conv(_) | Op::Delay { .. } | Op::FirstSpike { .. } => copy(new, node),
                Op::RedundantOneHot { .. } | Op::ThresholdMargin { .. } | Op::Scan(_) | Op::Loop(_) => copy(new, node),
            }
        });
        current = next;
        if !changed {
            break;
        }
    }
    current
}

fn copy(graph: &mut Graph, node: Node) -> Vec<Value> {
    let id = graph.push(node);
    graph.results(id).collect()
}

/// Is result `i` of a loop a state that each step leaves as it is?
fn stays(l: &Loop, i: usize) -> bool {
    l.body.outputs[i].1 == l.body.inputs[l.sequences + l.invariants + i - l.outputs]
}

struct Layout {
    sequences: usize,
    invariants: usize,
    states: usize,
    outputs: usize,
}

/// Which results and operands of a scan or loop stay.
struct Kept {
    results: Vec<bool>,
    operands: Vec<bool>,
}

impl Layout {
    /// `None` where everything stays.
    fn kept(&self, body: &Graph, counts: &[usize]) -> Option<Kept> {
        let mut results: Vec<bool> = counts.iter().map(|c| *c > 0).collect();
        let first_state = self.sequences + self.invariants;
        let mut operands;
        loop {
            // What the kept results need inside the body.
            let mut needed = vec![false; body.len()];
            for (i, (_, v)) in body.outputs.iter().enumerate() {
                needed[v.node.index()] |= results[i];
            }
            for (id, node) in body.nodes().rev() {
                if needed[id.index()] {
                    for v in &node.operands {
                        needed[v.node.index()] = true;
                    }
                }
            }
            operands = body.inputs.iter().map(|v| needed[v.node.index()]).collect::<Vec<bool>>();
            let mut grown = false;
            for state in 0..self.states {
                let (operand, result) = (first_state + state, self.outputs + state);
                if operands[operand] && !results[result] {
                    results[result] = true;
                    grown = true;
                }
                operands[operand] |= results[result];
            }
            if !grown {
                break;
            }
        }
        // Sequences stay: the first gives the shape.
        operands[..self.sequences].fill(true);
        (results.contains(&false) || operands.contains(&false)).then_some(Kept { results, operands })
    }
}

impl Kept {
    fn counts(&self, layout: &Layout) -> (usize, usize, usize) {
        let count = |flags: &[bool]| flags.iter().filter(|k| **k).count();
        let first_state = layout.sequences + layout.invariants;
        (count(&self.operands[layout.sequences..first_state]), count(&self.operands[first_state..]), count(&self.results[..layout.outputs]))
    }

    fn body(&self, body: &Graph) -> Graph {
        let mut body = body.clone();
        let mut flags = self.operands.iter();
        body.inputs.retain(|_| *flags.next().unwrap_or(&false));
        let mut flags = self.results.iter();
        body.outputs.retain(|_| *flags.next().unwrap_or(&false));
        body.rebuild(|new, _, node| copy(new, node))
    }

    fn replace(&self, new: &mut Graph, mut node: Node, op: Op) -> Vec<Value> {
        let mut flags = self.operands.iter();
        node.operands.retain(|_| *flags.next().unwrap_or(&false));
        let mut flags = self.results.iter();
        node.types.retain(|_| *flags.next().unwrap_or(&false));
        node.op = op;
        let id = new.push(node);
        let mut next = 0;
        self.results
            .iter()
            .map(|kept| {
                // A result that went has no user: its value is never asked for.
                let value = Value { node: id, result: next };
                next += u16::from(*kept);
                value
            })
            .collect()
    }
}

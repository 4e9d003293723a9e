//! Removing what nobody uses: nodes, outputs of scans and loops, and states that only feed themselves or never change.

use crate::graph::{Graph, Node, Value};
use crate::op::{Loop, Op, Roles};

/// See [`Graph::pruned`].
pub(crate) fn prune(graph: &Graph) -> Graph {
    let mut current = std::borrow::Cow::Borrowed(graph);
    loop {
        let uses = current.use_counts();
        let mut changed = false;
        let next = current.rebuild(|new, id, node| {
            let counts = &uses[id.index()];
            let Some((roles, body)) = node.op.recurrence() else { return copy(new, node) };
            // A state of a loop that never changes ends as it began.
            if let Op::Loop(l) = &node.op
                && (l.roles.outputs..counts.len()).any(|i| counts[i] > 0 && stays(l, i))
            {
                changed = true;
                let begins = |i: usize| node.operands[roles.first_state() + i - l.roles.outputs];
                let ends: Vec<Option<Value>> =
                    (0..counts.len()).map(|i| (i >= l.roles.outputs && stays(l, i)).then(|| begins(i))).collect();
                return copy(new, node).into_iter().zip(ends).map(|(v, end)| end.unwrap_or(v)).collect();
            }
            let Some(kept) = kept(&node.op, &roles, body, counts) else { return copy(new, node) };
            changed = true;
            let [sequences, invariants, states, outputs] = kept.counts(&roles);
            let body = kept.body(body);
            let mut op = node.op.clone();
            if let Op::Scan(s) = &mut op {
                let s = std::sync::Arc::make_mut(s);
                (s.roles, s.body) = (Roles { sequences, invariants, states, outputs }, body);
            } else if let Op::Loop(l) = &mut op {
                (l.roles, l.body) = (Roles { sequences, invariants, states, outputs }, body);
            }
            kept.replace(new, node, op)
        });
        if !changed {
            return next;
        }
        current = std::borrow::Cow::Owned(next);
    }
}

fn copy(graph: &mut Graph, node: Node) -> Vec<Value> {
    let id = graph.push(node);
    graph.results(id).collect()
}

/// Is result `i` of a loop a state that each step leaves as it is?
fn stays(l: &Loop, i: usize) -> bool {
    l.body.outputs[i].1 == l.body.inputs[l.roles.first_state() + i - l.roles.outputs]
}

/// Which results and operands of a scan or loop stay.
struct Kept {
    results: Vec<bool>,
    operands: Vec<bool>,
}

/// What of a scan or loop stays; `None` where everything does.
fn kept(op: &Op, roles: &Roles, body: &Graph, counts: &[usize]) -> Option<Kept> {
    let mut results: Vec<bool> = counts.iter().map(|c| *c > 0).collect();
    let first_state = roles.first_state();
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
        for state in 0..roles.states {
            let (operand, result) = (first_state + state, roles.outputs + state);
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
    // The first sequence of a scan gives the shape; a loop has one at least.
    let sequences = &mut operands[..roles.sequences];
    if matches!(op, Op::Scan(_)) || !sequences.contains(&true) {
        sequences.iter_mut().take(1).for_each(|kept| *kept = true);
    }
    (results.contains(&false) || operands.contains(&false)).then_some(Kept { results, operands })
}

impl Kept {
    /// Sequences, invariants, states and outputs.
    fn counts(&self, roles: &Roles) -> [usize; 4] {
        let (sequences, others) = self.operands.split_at(roles.sequences);
        let (invariants, states) = others.split_at(roles.invariants);
        [sequences, invariants, states, &self.results[..roles.outputs]].map(|flags| flags.iter().filter(|k| **k).count())
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

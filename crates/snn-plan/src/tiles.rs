//! What step kernels do tile by tile beside their own elements: sums of what they compute, what they compute again first, and gradients of pools. Only those of the CPU
//! run so.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use snn_ir::{DType, Op, Reduction, Value};

use crate::max_pool::MaxPoolGradient;
use crate::plan::{Planner, is_view};
use crate::step::{can_compute_before, can_pool_before, can_sum};

impl Planner<'_> {
    /// Gives sums of what a kernel computes to that kernel, so that what is only summed is never written.
    pub(crate) fn attach_sums(&mut self) {
        if !self.divides {
            return;
        }
        for (id, node) in self.graph.nodes() {
            let is_sum = matches!(node.op, Op::Reduce { kind: Reduction::Sum, .. }) && node.types[0].dtype == DType::F32;
            if !is_sum || !self.live[id.index()] {
                continue;
            }
            let summed = node.operands[0];
            if let Some(g) = self.group_of.get(&summed.node).copied()
                && can_sum(self.graph, &self.groups[g], id)
            {
                self.groups[g].sums.push(id);
                self.group_of.insert(id, g);
            }
        }
    }

    /// Lets a kernel that runs backwards in time begin with one that runs forwards, if nobody else reads what that computes: both go through the time
    /// steps of one tile after the other.
    pub(crate) fn join_in_tiles(&mut self) {
        if !self.divides {
            return;
        }
        let behind_views = |mut v: Value| {
            while is_view(self.graph, v.node) {
                v = self.graph.node(v.node).operands[0];
            }
            v
        };
        let roots: HashSet<Value> = self.graph.roots().map(behind_views).collect();
        // What is read of each group, and by whom.
        let mut read: BTreeMap<usize, (BTreeSet<Value>, BTreeSet<Option<usize>>)> = BTreeMap::new();
        for (id, node) in self.graph.nodes().filter(|(id, _)| self.live[id.index()]) {
            let reader = self.group_of.get(&id).copied();
            for (i, v) in node.operands.iter().enumerate() {
                let source = match reader {
                    Some(g) => self.step_source(&node.op, i, *v, &self.groups[g].shape).unwrap_or(*v),
                    None if is_view(self.graph, id) => continue,
                    None => behind_views(*v),
                };
                if let Some(g) = self.group_of.get(&source.node)
                    && reader != Some(*g)
                {
                    let (values, readers) = read.entry(*g).or_default();
                    values.insert(source);
                    readers.insert(reader);
                }
            }
        }
        for (first, (values, readers)) in read {
            let [Some(second)] = readers.iter().copied().collect::<Vec<_>>()[..] else { continue };
            let (before, group) = (&self.groups[first], &self.groups[second]);
            let directions = before.reverse == Some(false) && group.reverse == Some(true);
            let alone = before.sums.is_empty() && before.before.is_empty() && group.before.is_empty();
            let results = before.members.iter().flat_map(|m| self.graph.results(*m));
            let values: Vec<Value> = values.into_iter().collect();
            if directions
                && alone
                && !results.into_iter().any(|v| roots.contains(&v))
                && can_compute_before(self.graph, group, before, &values)
            {
                let members = std::mem::take(&mut self.groups[first].members);
                members.iter().for_each(|m| {
                    self.group_of.insert(*m, second);
                });
                self.groups[second].before = members;
            }
        }
    }

    /// Gives the gradient of a max pool to the kernel that reads it, if nobody else does, so that it is never in memory: a tile of whole planes has
    /// that of each step before it goes on.
    pub(crate) fn attach_pools(&mut self) {
        if !self.divides {
            return;
        }
        let mut readers: BTreeMap<Value, BTreeSet<Option<usize>>> = BTreeMap::new();
        for (id, node) in self.graph.nodes().filter(|(id, _)| self.live[id.index()]) {
            let group = self.group_of.get(&id).copied();
            node.operands.iter().for_each(|v| {
                readers.entry(*v).or_default().insert(group);
            });
        }
        let roots: HashSet<Value> = self.graph.roots().collect();
        for (id, node) in self.graph.nodes().filter(|(id, _)| self.live[id.index()]) {
            let v = Value { node: id, result: 0 };
            let Op::MaxPoolGradient(pool) = &node.op else { continue };
            let groups: Vec<Option<usize>> = readers.get(&v).into_iter().flatten().copied().collect();
            if let [Some(g)] = groups[..]
                && !roots.contains(&v)
                && self.groups[g].pool.is_none()
                && let Ok(pool) = MaxPoolGradient::new(self.graph, node, pool)
                && can_pool_before(self.graph, &self.groups[g], v, &pool)
            {
                self.groups[g].pool = Some(id);
                self.group_of.insert(id, g);
            }
        }
    }
}

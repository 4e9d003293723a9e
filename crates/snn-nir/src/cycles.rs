//! Cycles of graphs: each takes one step, which an import puts in and an export takes out.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{Graph, Kind, NirError, Value as Field};

/// Nodes in an order of definition, in which what is recursive stands together, and edges that take a step.
pub struct Plan {
    /// The order.
    pub order: Vec<usize>,
    /// Edges whose values arrive a step later.
    pub late: HashSet<(usize, usize)>,
    /// Nodes of cycles.
    pub recursive: HashSet<usize>,
}

/// Strongly connected components in an order in which each comes after what it needs (Kosaraju, without recursion).
fn components(n: usize, edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let (mut out, mut back) = (vec![Vec::new(); n], vec![Vec::new(); n]);
    for (a, b) in edges {
        out[*a].push(*b);
        back[*b].push(*a);
    }
    let (mut seen, mut finished) = (vec![false; n], Vec::new());
    for root in 0..n {
        let mut stack = vec![(root, 0)];
        while let Some((v, k)) = stack.pop() {
            if k == 0 && std::mem::replace(&mut seen[v], true) {
                continue;
            }
            match out[v].get(k) {
                Some(w) => {
                    stack.push((v, k + 1));
                    if !seen[*w] {
                        stack.push((*w, 0));
                    }
                }
                None => finished.push(v),
            }
        }
    }
    let (mut seen, mut all) = (vec![false; n], Vec::new());
    for root in finished.into_iter().rev() {
        let (mut stack, mut group) = (vec![root], Vec::new());
        while let Some(v) = stack.pop() {
            if !std::mem::replace(&mut seen[v], true) {
                group.push(v);
                stack.extend(&back[v]);
            }
        }
        if !group.is_empty() {
            all.push(group);
        }
    }
    all
}

/// The edges of a flat graph whose values arrive a step later.
fn late_edges(graph: &Graph) -> Vec<(String, String)> {
    let index: HashMap<&str, usize> = graph.nodes.iter().enumerate().map(|(i, (n, _))| (&n[..], i)).collect();
    let edges: Vec<(usize, usize)> = graph.edges.iter().map(|(a, b)| (index[&a[..]], index[&b[..]])).collect();
    let mut late: Vec<(usize, usize)> = plan(graph, &edges).late.into_iter().collect();
    late.sort_unstable();
    late.into_iter().map(|(a, b)| (graph.nodes[a].0.clone(), graph.nodes[b].0.clone())).collect()
}

/// The order of a flat graph, and the steps of its cycles.
pub fn plan(graph: &Graph, edges: &[(usize, usize)]) -> Plan {
    let n = graph.nodes.len();
    let kind = |i: usize| graph.nodes[i].1.kind;
    // How far each node is from the inputs.
    let mut rank = vec![usize::MAX; n];
    let mut queue: std::collections::VecDeque<usize> = (0..n).filter(|i| kind(*i) == Kind::Input).collect();
    queue.iter().for_each(|i| rank[*i] = 0);
    let mut out = vec![Vec::new(); n];
    edges.iter().for_each(|(a, b)| out[*a].push(*b));
    while let Some(v) = queue.pop_front() {
        for w in &out[v] {
            if rank[*w] == usize::MAX {
                rank[*w] = rank[v] + 1;
                queue.push_back(*w);
            }
        }
    }
    let mut plan = Plan { order: vec![], late: HashSet::new(), recursive: HashSet::new() };
    let groups = components(n, edges);
    let mut component = vec![0; n];
    groups.iter().enumerate().for_each(|(g, nodes)| nodes.iter().for_each(|v| component[*v] = g));
    let mut inner = vec![Vec::new(); groups.len()];
    for (a, b) in edges.iter().filter(|(a, b)| component[*a] == component[*b]) {
        inner[component[*a]].push((*a, *b));
    }
    for (g, (group, own)) in groups.into_iter().zip(inner).enumerate() {
        if !own.is_empty() {
            plan.recursive.extend(&group);
        }
        // What a neuron sends back to itself or to one before it arrives a step later.
        for (a, b) in own.iter().copied().filter(|(a, _)| kind(*a).is_neuron()) {
            let (mut stack, mut seen) = (vec![b], HashSet::new());
            while let Some(v) = stack.pop() {
                if !seen.insert(v) {
                    continue;
                }
                if !kind(v).is_neuron() {
                    stack.extend(out[v].iter().filter(|w| component[**w] == g));
                } else if rank[v] <= rank[a] {
                    plan.late.insert((a, b));
                }
            }
        }
        let mut left: Vec<usize> = group;
        left.sort_by_key(|v| (rank[*v], *v));
        let mut placed = HashSet::new();
        while !left.is_empty() {
            let ready = left.iter().position(|v| own.iter().all(|e| e.1 != *v || placed.contains(&e.0) || plan.late.contains(e)));
            let at = ready.unwrap_or(0);
            let v = left.remove(at);
            if ready.is_none() {
                // A cycle without a neuron: what comes back to its first node takes a step.
                plan.late.extend(own.iter().filter(|e| e.1 == v && !placed.contains(&e.0)));
            }
            placed.insert(v);
            plan.order.push(v);
        }
    }
    plan
}

/// A cycle of NIR takes one step. Here its delays have all of theirs, so that one step is taken from a delay on each edge that an import delays.
pub fn without_steps_of_cycles(mut graph: Graph, dt: f64) -> Result<Graph, NirError> {
    let late = late_edges(&graph);
    let mut wanted = BTreeSet::new();
    for (from, to) in late {
        // The first delay after the edge, before the next neuron.
        let mut at = to.clone();
        let found = loop {
            let Some(node) = graph.nodes.iter().find(|(n, _)| *n == at).map(|(_, n)| n) else { break None };
            match node.kind {
                Kind::Delay => break Some(at),
                k if k.is_neuron() => break None,
                _ => {}
            }
            let mut next = graph.edges.iter().filter(|e| e.0 == at).map(|e| e.1.clone());
            match (next.next(), next.next()) {
                (Some(only), None) => at = only,
                _ => break None,
            }
        };
        let Some(delay) = found else {
            return Err(NirError::Graph(format!(
                "NIR gives the cycle through `{from}` -> `{to}` one step, and the program's delay stands elsewhere; write `delay({from}, 1)`"
            )));
        };
        let node = graph.nodes.iter_mut().find(|(n, _)| *n == delay).map(|(_, n)| n);
        let mut rest = 0.0f64;
        if let Some((_, Field::Numbers { data, .. })) = node.and_then(|n| n.fields.first_mut()) {
            for seconds in data.iter_mut() {
                *seconds = ((*seconds / dt).round() - 1.0) * dt;
                rest = rest.max(seconds.abs());
                if *seconds < 0.0 {
                    return Err(NirError::Graph(format!("NIR gives the cycle through `{delay}` one step, and its delay is shorter")));
                }
            }
        }
        if rest > 0.0 {
            wanted.insert((from, to));
            continue;
        }
        let into: Vec<String> = graph.edges.iter().filter(|e| e.1 == delay).map(|e| e.0.clone()).collect();
        let out: Vec<String> = graph.edges.iter().filter(|e| e.0 == delay).map(|e| e.1.clone()).collect();
        let place = graph.edges.iter().position(|e| e.1 == delay).unwrap_or(0);
        graph.edges.retain(|e| e.0 != delay && e.1 != delay);
        for (k, (a, b)) in into.iter().flat_map(|a| out.iter().map(move |b| (a, b))).enumerate() {
            graph.edges.insert((place + k).min(graph.edges.len()), (a.clone(), b.clone()));
            if to == delay && *a == from {
                wanted.insert((a.clone(), b.clone()));
            }
        }
        if to != delay {
            wanted.insert((from, to));
        }
        graph.nodes.retain(|(n, _)| *n != delay);
    }
    let again: BTreeSet<(String, String)> = late_edges(&graph).into_iter().collect();
    if again != wanted {
        let odd: Vec<String> = again.symmetric_difference(&wanted).map(|(a, b)| format!("`{a}` -> `{b}`")).collect();
        return Err(NirError::Graph(format!(
            "NIR gives each cycle one step where it closes, and the program's delays stand elsewhere: {}",
            odd.join(", ")
        )));
    }
    Ok(graph)
}

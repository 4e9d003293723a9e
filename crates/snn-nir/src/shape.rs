//! Shapes of a flat graph, without steps and samples.

use crate::{Graph, Kind, NirError, Node};

/// The shape that each node gives, and warnings.
///
/// # Errors
/// A node cannot take what it is given, or no shape reaches it.
pub fn shapes(graph: &Graph) -> Result<(Vec<Vec<usize>>, Vec<String>), NirError> {
    let mut incoming = vec![Vec::new(); graph.nodes.len()];
    let index: std::collections::HashMap<&str, usize> = graph.nodes.iter().enumerate().map(|(i, (n, _))| (&n[..], i)).collect();
    let mut outgoing = vec![Vec::new(); graph.nodes.len()];
    for (a, b) in &graph.edges {
        let (Some(&a), Some(&b)) = (index.get(&a[..]), index.get(&b[..])) else {
            let missing = if index.contains_key(&a[..]) { b } else { a };
            return Err(NirError::Graph(format!("an edge names `{missing}`, and there is no such node")));
        };
        incoming[b].push(a);
        outgoing[a].push(b);
    }
    let mut known: Vec<Option<Vec<usize>>> = vec![None; graph.nodes.len()];
    let mut queue: Vec<usize> = (0..graph.nodes.len()).filter(|i| graph.nodes[*i].1.kind == Kind::Input).collect();
    if queue.is_empty() {
        return Err(NirError::Graph("the graph has no Input node".into()));
    }
    let mut warnings = Vec::new();
    while let Some(i) = queue.pop() {
        let (name, node) = &graph.nodes[i];
        let given: Option<&Vec<usize>> = incoming[i].iter().find_map(|j| known[*j].as_ref());
        let shape = output(name, node, given.map(|v| &v[..]))?;
        if known[i].is_none() {
            known[i] = Some(shape);
            queue.extend(outgoing[i].iter().filter(|j| known[**j].is_none()));
        }
    }
    let mut all = Vec::new();
    for (i, (name, node)) in graph.nodes.iter().enumerate() {
        let Some(own) = known[i].clone() else {
            return Err(NirError::node(name, node, "no input reaches it"));
        };
        // All that arrives has one shape, those of cycles too.
        let mut first: Option<(usize, &Vec<usize>)> = None;
        for j in &incoming[i] {
            let Some(s) = known[*j].as_ref() else { continue };
            match first {
                None => first = Some((*j, s)),
                Some((k, f)) if f != s => {
                    let reason = format!("it adds `{}`, {f:?}, and `{}`, {s:?}, which differ", graph.nodes[k].0, graph.nodes[*j].0);
                    return Err(NirError::node(name, node, reason));
                }
                Some(_) => {}
            }
        }
        if node.kind == Kind::Output
            && let Some(said) = node.whole("shape")
            && said != own.iter().map(|d| *d as i64).collect::<Vec<_>>()
        {
            warnings.push(format!("the node `{name}` says the shape {said:?}, and what reaches it is {own:?}"));
        }
        all.push(own);
    }
    if index.contains_key("") {
        return Err(NirError::Graph("a node has no name".into()));
    }
    Ok((all, warnings))
}

/// Sizes that a field says, one for all of `n` axes or each.
pub fn sizes(name: &str, node: &Node, field: &str, n: usize) -> Result<Vec<usize>, NirError> {
    let bad = |r: String| NirError::node(name, node, r);
    let v = node.whole(field).ok_or_else(|| bad(format!("`{field}` is no number")))?;
    if let Some(x) = v.iter().find(|x| **x < 0 || **x > 1 << 40) {
        return Err(bad(format!("`{field}` has the element {x}")));
    }
    let v: Vec<usize> = v.into_iter().map(|x| x as usize).collect();
    match v.len() {
        1 => Ok(vec![v[0]; n]),
        k if k == n => Ok(v),
        k => Err(bad(format!("`{field}` has {k} elements, not 1 or {n}"))),
    }
}

/// Paddings before and after each axis.
pub fn padding(name: &str, node: &Node, kernel: &[usize]) -> Result<Vec<usize>, NirError> {
    let dilation = sizes(name, node, "dilation", kernel.len())?;
    match node.text("padding") {
        None => sizes(name, node, "padding", kernel.len()),
        Some("valid") => Ok(vec![0; kernel.len()]),
        Some("same") => kernel
            .iter()
            .zip(&dilation)
            .map(|(k, d)| {
                let all = d * (k - 1);
                match all % 2 {
                    0 => Ok(all / 2),
                    _ => Err(NirError::node(
                        name,
                        node,
                        format!("a padding of `same` around a kernel of {k} is not even; pad by hand in the program"),
                    )),
                }
            })
            .collect(),
        Some(other) => Err(NirError::node(name, node, format!("its padding is `{other}`, which is not `same` or `valid`"))),
    }
}

fn output(name: &str, node: &Node, given: Option<&[usize]>) -> Result<Vec<usize>, NirError> {
    let bad = |r: String| NirError::node(name, node, r);
    if node.kind == Kind::Input {
        return match given {
            // An input of a graph inside is what reaches it.
            Some(g) => Ok(g.to_vec()),
            None => {
                let shape = node.whole("shape").ok_or_else(|| bad("its shape is no list of numbers".into()))?;
                shape
                    .iter()
                    .map(|d| usize::try_from(*d).ok().filter(|d| *d < 1 << 40).ok_or_else(|| bad(format!("its shape is {shape:?}"))))
                    .collect()
            }
        };
    }
    let Some(x) = given else { return Err(bad("no input reaches it".into())) };
    let tensor = |field: &str, rank: usize| -> Result<Vec<usize>, NirError> {
        let (shape, data) = node.numbers(field).ok_or_else(|| bad(format!("`{field}` is no tensor")))?;
        if shape.len() != rank || data.is_empty() {
            return Err(bad(format!("`{field}` has the shape {shape:?}, where {rank} axes are wanted")));
        }
        Ok(shape.to_vec())
    };
    let bias = |n: usize| match node.numbers("bias") {
        Some((s, d)) if d.len() != n => Err(bad(format!("`bias` has the shape {s:?}, not [{n}]"))),
        _ => Ok(()),
    };
    match node.kind {
        Kind::Input | Kind::Output | Kind::Identity | Kind::NirGraph => Ok(x.to_vec()),
        Kind::Affine | Kind::Linear => {
            let w = tensor("weight", 2)?;
            if x.last() != Some(&w[1]) {
                return Err(bad(format!("it is given {x:?}, and its weight {w:?} takes {}", w[1])));
            }
            bias(w[0])?;
            let mut y = x.to_vec();
            *y.last_mut().unwrap_or(&mut 0) = w[0];
            Ok(y)
        }
        Kind::Conv1d | Kind::Conv2d => {
            let n = if node.kind == Kind::Conv1d { 1 } else { 2 };
            let w = tensor("weight", n + 2)?;
            let groups = sizes(name, node, "groups", 1)?[0].max(1);
            if x.len() != n + 1 || x[0] != w[1].saturating_mul(groups) {
                return Err(bad(format!("it is given {x:?}, and its weight {w:?} takes {} channels", w[1].saturating_mul(groups))));
            }
            bias(w[0])?;
            let (stride, dilation) = (sizes(name, node, "stride", n)?, sizes(name, node, "dilation", n)?);
            let padding = padding(name, node, &w[2..])?;
            let mut y = vec![w[0]];
            for a in 0..n {
                let wide = dilation[a].saturating_mul(w[a + 2] - 1) + 1;
                let room = x[a + 1] + 2 * padding[a];
                if stride[a] == 0 || room < wide {
                    return Err(bad(format!("a kernel of {wide} with stride {} does not fit {room}", stride[a])));
                }
                y.push((room - wide) / stride[a] + 1);
            }
            Ok(y)
        }
        Kind::SumPool2d | Kind::AvgPool2d => {
            let (k, s, p) = (sizes(name, node, "kernel_size", 2)?, sizes(name, node, "stride", 2)?, sizes(name, node, "padding", 2)?);
            if x.len() < 2 {
                return Err(bad(format!("it is given {x:?}, which has no two axes")));
            }
            let mut y = x.to_vec();
            let first = x.len() - 2;
            for a in 0..2 {
                let room = x[first + a] + 2 * p[a];
                if s[a] == 0 || k[a] == 0 || room < k[a] {
                    return Err(bad(format!("a window of {} with stride {} does not fit {room}", k[a], s[a])));
                }
                y[first + a] = (room - k[a]) / s[a] + 1;
            }
            Ok(y)
        }
        Kind::Flatten => {
            let (a, b) = flatten(name, node, x.len())?;
            let mut y = x[..a].to_vec();
            let all = x[a..=b].iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            y.push(all.ok_or_else(|| bad(format!("it flattens {x:?}, which is too large")))?);
            y.extend(&x[b + 1..]);
            Ok(y)
        }
        Kind::Scale | Kind::Delay | Kind::Threshold | Kind::I | Kind::If | Kind::Li | Kind::Lif | Kind::CubaLi | Kind::CubaLif => {
            for (field, _) in &node.fields {
                if let Some((shape, data)) = node.numbers(field)
                    && data.len() != 1
                    && shape != x
                {
                    return Err(bad(format!("it is given {x:?}, and its `{field}` has the shape {shape:?}")));
                }
            }
            Ok(x.to_vec())
        }
    }
}

/// The first and the last axis that become one.
pub fn flatten(name: &str, node: &Node, rank: usize) -> Result<(usize, usize), NirError> {
    let axis = |field: &str| {
        let d = node.whole(field).and_then(|v| v.first().copied()).unwrap_or(0);
        let own = if d < 0 { d + rank as i64 } else { d };
        if own < 0 || own >= rank as i64 {
            Err(NirError::node(name, node, format!("`{field}` is {d}, and it is given {rank} axes")))
        } else {
            Ok(own as usize)
        }
    };
    let (a, b) = (axis("start_dim")?, axis("end_dim")?);
    if a > b { Err(NirError::node(name, node, format!("it goes from axis {a} to axis {b}"))) } else { Ok((a, b)) }
}

//! A graph as Graphviz DOT text.

use std::fmt::Write;

use crate::graph::Graph;
use crate::op::Op;
use crate::text::op_name;

/// The graph in DOT, with a cluster for each loop. Constants are left out.
pub fn dot(graph: &Graph) -> String {
    let mut out = format!("digraph \"{}\" {{\n  rankdir = TB\n  node [shape = box, fontname = \"monospace\"]\n", graph.name);
    write_nodes(graph, "n", 1, &mut out);
    for (name, v) in graph.outputs.iter().chain(&graph.updates) {
        let _ = writeln!(out, "  \"out_{name}\" [label = \"{name}\", shape = ellipse]");
        let _ = writeln!(out, "  n{} -> \"out_{name}\"", v.node.index());
    }
    out.push_str("}\n");
    out
}

fn write_nodes(graph: &Graph, prefix: &str, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let live = graph.live_nodes();
    for (id, node) in graph.nodes() {
        if !live[id.index()] || matches!(node.op, Op::Constant(_)) {
            continue;
        }
        let title = match (&node.op, &node.name) {
            (Op::Input { name, .. } | Op::Parameter { name, .. }, _) => name.clone(),
            (op, Some(name)) => format!("{name}: {}", op_name(op)),
            (op, None) => op_name(op),
        };
        let shape = if matches!(node.op, Op::Input { .. }) { ", shape = ellipse" } else { "" };
        let _ = writeln!(out, "{indent}{prefix}{} [label = \"{title}\\n{}\"{shape}]", id.index(), node.types[0]);
        for v in &node.operands {
            if !matches!(graph.op(*v), Op::Constant(_)) {
                let _ = writeln!(out, "{indent}{prefix}{} -> {prefix}{}", v.node.index(), id.index());
            }
        }
        if let Op::Loop(l) = &node.op {
            let inner = format!("{prefix}{}_", id.index());
            let _ = writeln!(out, "{indent}subgraph \"cluster_{inner}\" {{\n{indent}  label = \"{title}, step by step\"");
            write_nodes(&l.body, &inner, depth + 1, out);
            let _ = writeln!(out, "{indent}}}");
        }
    }
}

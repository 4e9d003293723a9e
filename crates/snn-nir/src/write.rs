//! Graphs as files.

use std::path::Path;

use hdf5_pure::FileBuilder;

use crate::{Element, Graph, Kind, NirError, Node, VERSION, Value};

/// Writes a graph as the Python package reads it, whole or not at all.
pub fn write(path: &Path, graph: &Graph) -> Result<(), NirError> {
    let mut file = FileBuilder::new();
    file.create_dataset("version").with_vlen_strings(&[VERSION]).with_shape(&[]);
    let mut root = file.create_group("node");
    put_graph(&mut root, graph)?;
    file.add_group(root.finish());
    let bytes = file.finish().map_err(|e| NirError::Graph(format!("the graph cannot be written: {e}")))?;
    snn_data::replace(path, &bytes).map_err(|source| NirError::Write { path: path.into(), source })
}

fn put_graph(group: &mut hdf5_pure::GroupBuilder, graph: &Graph) -> Result<(), NirError> {
    group.create_dataset("type").with_vlen_strings(&[Kind::NirGraph.name()]).with_shape(&[]);
    let edges: Vec<&str> = graph.edges.iter().flat_map(|(a, b)| [&a[..], &b[..]]).collect();
    group.create_dataset("edges").with_vlen_strings(&edges).with_shape(&[graph.edges.len() as u64, 2]);
    let mut nodes = group.create_group("nodes");
    for (name, node) in &graph.nodes {
        if name.is_empty() || name.contains('/') {
            return Err(NirError::Graph(format!("a node cannot be called `{name}` in a file")));
        }
        let mut own = nodes.create_group(name);
        put_node(&mut own, node)?;
        nodes.add_group(own.finish());
    }
    group.add_group(nodes.finish());
    Ok(())
}

fn put_node(group: &mut hdf5_pure::GroupBuilder, node: &Node) -> Result<(), NirError> {
    if let Some(graph) = &node.graph {
        return put_graph(group, graph);
    }
    group.create_dataset("type").with_vlen_strings(&[node.kind.name()]).with_shape(&[]);
    for (name, value) in &node.fields {
        let data = group.create_dataset(name);
        match value {
            Value::Text(text) => data.with_vlen_strings(&[text]).with_shape(&[]),
            Value::Numbers { shape, data: v, element } => {
                let shape: Vec<u64> = shape.iter().map(|d| *d as u64).collect();
                match element {
                    Element::F32 => data.with_f32_data(&v.iter().map(|x| *x as f32).collect::<Vec<_>>()),
                    Element::F64 => data.with_f64_data(v),
                    Element::I64 => data.with_i64_data(&v.iter().map(|x| *x as i64).collect::<Vec<_>>()),
                }
                .with_shape(&shape)
            }
        };
    }
    Ok(())
}

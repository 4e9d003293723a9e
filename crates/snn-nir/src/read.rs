//! Files as graphs. Every size is compared with the file before it is believed.

use std::path::Path;

use hdf5_pure::{DType, Dataset, File, Group, VlenStringReadOptions};

use crate::{Element, Graph, Kind, Model, NirError, Node, Value};

/// A deflated byte says at most about a thousand; more than that is no data.
const MOST_PER_BYTE: u64 = 1100;
/// Nodes and edges that a file may have, and graphs in graphs.
const MOST_NODES: usize = 100_000;
const DEEPEST: usize = 32;

/// Reads a file.
pub fn read(path: &Path) -> Result<Model, NirError> {
    let bytes = std::fs::read(path).map_err(|source| NirError::Read { path: path.into(), source })?;
    read_bytes(bytes)
}

/// Reads the bytes of a file.
pub fn read_bytes(bytes: Vec<u8>) -> Result<Model, NirError> {
    let size = bytes.len() as u64;
    let format = |e: hdf5_pure::Error| NirError::Format(e.to_string());
    let file = File::from_bytes(bytes).map_err(format)?;
    let mut reader = Reader { size, nodes: 0, warnings: vec![] };
    let version = match file.dataset("version") {
        Ok(d) => reader.text("version", &d)?,
        Err(_) => {
            reader.warnings.push("the file says no version".into());
            String::new()
        }
    };
    let root = file.group("node").map_err(|_| NirError::Format("it has no group `/node`".into()))?;
    let graph = reader.graph("", &root, 0)?;
    Ok(Model { version, graph, warnings: reader.warnings })
}

struct Reader {
    size: u64,
    nodes: usize,
    warnings: Vec<String>,
}

impl Reader {
    fn bad(place: &str, e: impl std::fmt::Display) -> NirError {
        NirError::Format(format!("`{place}`: {e}"))
    }

    /// The number of elements of a dataset, where the file can hold them.
    fn count(&self, place: &str, data: &Dataset) -> Result<(Vec<usize>, usize), NirError> {
        let shape = data.shape().map_err(|e| Self::bad(place, e))?;
        let count = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n <= self.size.saturating_mul(MOST_PER_BYTE));
        let Some(count) = count else {
            return Err(Self::bad(
                place,
                format!("it says that it has the shape {shape:?}, which a file of {} bytes cannot hold", self.size),
            ));
        };
        Ok((shape.iter().map(|d| *d as usize).collect(), count as usize))
    }

    fn strings(&self, place: &str, data: &Dataset) -> Result<Vec<String>, NirError> {
        let (_, count) = self.count(place, data)?;
        let most = self.size as usize;
        let options = VlenStringReadOptions::new().with_max_elements(count).with_max_payload_bytes(most);
        match data.dtype().map_err(|e| Self::bad(place, e))? {
            DType::VariableLengthString => data.read_vlen_strings(options).map_err(|e| Self::bad(place, e)),
            DType::String => data.read_string().map_err(|e| Self::bad(place, e)),
            other => Err(Self::bad(place, format!("it is {other}, not a text"))),
        }
    }

    fn text(&self, place: &str, data: &Dataset) -> Result<String, NirError> {
        let list = self.strings(place, data)?;
        list.into_iter().next().ok_or_else(|| Self::bad(place, "it is empty"))
    }

    fn graph(&mut self, prefix: &str, group: &Group, depth: usize) -> Result<Graph, NirError> {
        let place = |name: &str| {
            format!("/node{}{name}", prefix.split('.').filter(|p| !p.is_empty()).map(|p| format!("/nodes/{p}/")).collect::<String>())
        };
        if depth > DEEPEST {
            return Err(NirError::Format(format!("graphs are in graphs more than {DEEPEST} deep")));
        }
        let kind = group.dataset("type").map_err(|_| Self::bad(&place("/type"), "it is missing"))?;
        let kind = self.text(&place("/type"), &kind)?;
        if kind != Kind::NirGraph.name() {
            return Err(Self::bad(&place("/type"), format!("it is `{kind}`, not `NIRGraph`")));
        }
        let mut nodes = Vec::new();
        let inside = group.group("nodes").map_err(|_| Self::bad(&place("/nodes"), "it is missing"))?;
        for name in inside.groups().map_err(|e| Self::bad(&place("/nodes"), e))? {
            self.nodes += 1;
            if self.nodes > MOST_NODES {
                return Err(NirError::Format(format!("it has more than {MOST_NODES} nodes")));
            }
            let full = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let node = inside.group(&name).map_err(|e| Self::bad(&full, e))?;
            nodes.push((name, self.node(&full, &node, depth)?));
        }
        let edges = match group.dataset("edges") {
            Ok(data) => {
                let (shape, count) = self.count(&place("/edges"), &data)?;
                if count > 0 && shape.get(1) != Some(&2) {
                    return Err(Self::bad(&place("/edges"), format!("its shape is {shape:?}, not [E, 2]")));
                }
                if count == 0 { vec![] } else { self.strings(&place("/edges"), &data)? }
            }
            Err(_) => return Err(Self::bad(&place("/edges"), "it is missing")),
        };
        let edges: Vec<(String, String)> = edges.chunks_exact(2).map(|e| (e[0].clone(), e[1].clone())).collect();
        let names: std::collections::HashSet<&str> = nodes.iter().map(|(n, _)| &n[..]).collect();
        for (a, b) in &edges {
            if let Some(missing) = [a, b].into_iter().find(|n| !names.contains(&n[..])) {
                return Err(NirError::Graph(format!("the edge `{a}` -> `{b}` is between nodes, and there is no node `{missing}`")));
            }
        }
        Ok(Graph { nodes, edges })
    }

    fn node(&mut self, name: &str, group: &Group, depth: usize) -> Result<Node, NirError> {
        let fail = |kind, reason: String| NirError::Node { node: name.into(), kind, reason };
        let kind = group.dataset("type").map_err(|_| fail(None, "it has no type".into()))?;
        let kind = self.text(name, &kind)?;
        let Some(kind) = Kind::ALL.into_iter().find(|k| k.name() == kind) else {
            let known: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
            return Err(fail(None, format!("it is a `{kind}`, which is not known; known are {}", known.join(", "))));
        };
        if kind == Kind::NirGraph {
            let graph = self.graph(name, group, depth + 1)?;
            return Ok(Node { kind, fields: vec![], graph: Some(graph) });
        }
        let (required, optional) = kind.fields();
        let mut fields = Vec::new();
        for field in group.datasets().map_err(|e| fail(Some(kind), e.to_string()))? {
            if field == "type" {
                continue;
            }
            if !required.contains(&&field[..]) && !optional.contains(&&field[..]) {
                self.warnings.push(format!("the node `{name}` ({}) has a field `{field}`, which is not looked at", kind.name()));
                continue;
            }
            let data = group.dataset(&field).map_err(|e| fail(Some(kind), format!("`{field}`: {e}")))?;
            let value = self.value(&format!("{name}.{field}"), &data)?;
            if let Value::Numbers { data, .. } = &value
                && let Some(x) = data.iter().find(|x| !x.is_finite())
            {
                return Err(fail(Some(kind), format!("`{field}` has an element that is {x}")));
            }
            fields.push((field, value));
        }
        if let Some(missing) = required.iter().find(|r| fields.iter().all(|(f, _)| f != *r)) {
            return Err(fail(Some(kind), format!("it has no `{missing}`")));
        }
        Ok(Node { kind, fields, graph: None })
    }

    fn value(&self, place: &str, data: &Dataset) -> Result<Value, NirError> {
        let (shape, count) = self.count(place, data)?;
        let bad = |e: hdf5_pure::Error| Self::bad(place, e);
        let whole = |v: Vec<i64>| (v.into_iter().map(|x| x as f64).collect(), Element::I64);
        let (data, element): (Vec<f64>, Element) = match data.dtype().map_err(bad)? {
            DType::F32 => (data.read_f32().map_err(bad)?.into_iter().map(f64::from).collect(), Element::F32),
            DType::F64 => (data.read_f64().map_err(bad)?, Element::F64),
            DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
                whole(data.read_i64().map_err(bad)?)
            }
            DType::String | DType::VariableLengthString => return Ok(Value::Text(self.text(place, data)?)),
            other => return Err(Self::bad(place, format!("elements of type {other} are not numbers"))),
        };
        if data.len() != count {
            return Err(Self::bad(place, format!("it has {} elements, not {count}", data.len())));
        }
        Ok(Value::Numbers { shape, data, element })
    }
}

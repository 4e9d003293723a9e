//! The plan of a graph on candle, as text: each call, each generated kernel, the bytes of each buffer.

use std::fmt::Write;

use snn_ir::backend::check_sizes;
use snn_ir::{BinaryOp, CompileError, DType, Graph, Op, Reduction};
use snn_plan::{Kernel, Plan, plan};

use crate::DeviceName;
use snn_c::kernels::{self as text, Dialect};

/// The plan of a graph with known dimensions for a device, and the source of its kernels where they are compiled from text.
///
/// # Errors
/// If a size is unknown or too large.
pub fn describe(graph: &Graph, device: DeviceName) -> Result<String, CompileError> {
    check_sizes(graph)?;
    let graph = crate::lower::lower(&graph.pruned(), device == DeviceName::Cpu);
    let plan = plan(&graph)?;
    let mut out = String::new();
    let kind = match device {
        DeviceName::Cpu => "cpu",
        DeviceName::Cuda(_) => "cuda",
        DeviceName::Metal(_) => "metal",
    };
    let given: usize = graph.inputs.iter().map(|v| graph.ty(*v).byte_len()).sum();
    let held: usize = graph.parameters.iter().map(|p| p.ty.byte_len()).sum();
    let _ = writeln!(out, "// plan of {} on {kind}: {} kernels, {} bytes at most", graph.name, plan.tasks.len(), plan.peak);
    let _ = writeln!(out, "// beside {given} bytes of inputs and {held} bytes of parameters");
    tasks(&graph, &plan, kind, 0, &mut out);
    let dialect = match device {
        DeviceName::Cpu => None,
        DeviceName::Cuda(_) => Some(Dialect::Cuda),
        DeviceName::Metal(_) => Some(Dialect::Metal),
    };
    if let Some(source) = dialect.and_then(|d| text::module(&graph, &plan, d)) {
        let _ = write!(out, "\n{source}");
    }
    Ok(out)
}

fn tasks(graph: &Graph, plan: &Plan, device: &str, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    for task in &plan.tasks {
        let node = graph.node(task.node);
        let what = match &task.kernel {
            Kernel::Step(k) => format!("generated {}", text::name(k)),
            Kernel::Alias => "reshape".into(),
            Kernel::Product(_) if device == "cpu" => "sum of rows by spikes, else matmul".into(),
            Kernel::Product(_) => "matmul".into(),
            Kernel::Convolution(_) => "convolution".into(),
            Kernel::Reduction(_) if device == "cpu" => "plain loops".into(),
            Kernel::Reduction(f) => if f.kind == Reduction::Sum { "sum" } else { "max, min" }.into(),
            Kernel::MaxPoolGradient(_) => "max-pool backward".into(),
            Kernel::FirstSpike(_) if device == "cpu" => "first spike".into(),
            // Only plans for threads have the next two.
            Kernel::Selection(_) => "selection".into(),
            Kernel::Ring(_) => "ring buffer".into(),
            Kernel::Loop(_) => "a loop of".into(),
            Kernel::Delay(_) | Kernel::Move | Kernel::FirstSpike(_) | Kernel::Reference => {
                let dtypes: Vec<DType> = node.operands.iter().map(|v| graph.ty(*v).dtype).collect();
                call(&node.op, &dtypes, device).into()
            }
        };
        let buffers: Vec<String> = task.gives.iter().map(|v| format!("{} bytes", graph.ty(*v).byte_len())).collect();
        let name = node.name.clone().unwrap_or_else(|| snn_ir::text::op_name(&node.op));
        let _ = writeln!(out, "// {pad}{name} -> {}: {what}, {}", node.types[0], buffers.join(" + "));
        if let Kernel::Loop(l) = &task.kernel {
            tasks(&l.body, &l.plan, device, depth + 1, out);
        }
    }
}

/// The candle call that an operation becomes.
fn call(op: &Op, operands: &[DType], device: &str) -> &'static str {
    match op {
        Op::Iota { .. } => "arange",
        Op::Unary(_) => "elementwise",
        Op::Binary(BinaryOp::Rem | BinaryOp::Div | BinaryOp::Pow) => "on the host",
        Op::Binary(_) => "elementwise",
        Op::Select => "where_cond",
        Op::Cast { .. } if operands == [DType::F32] && device != "cpu" => "on the host",
        Op::Cast { .. } => "to_dtype",
        Op::Broadcast { .. } => "broadcast_as",
        Op::Reshape { .. } => "reshape",
        Op::Transpose { .. } => "permute",
        Op::Slice { step: 1, .. } => "narrow",
        Op::Slice { .. } | Op::Gather { .. } | Op::Window { .. } => "index_select",
        Op::Pad { .. } | Op::Concat { .. } | Op::Delay { .. } => "cat",
        Op::ScatterAdd { .. } => "index_add",
        Op::Reduce { .. } | Op::ArgMax { .. } if operands == [DType::F32] => "sum, max, min",
        Op::RedundantOneHot { .. } => "eq",
        Op::ThresholdMargin { .. } => "where_cond",
        _ => "on the host",
    }
}

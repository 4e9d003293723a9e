//! The text form of the IR: what is printed is read back, and whatever is read is verified without a panic.

use snn_tests::Dice;
use snnc::{Dims, Mode, Options, Program};

const MODEL: &str = "\
// Every helper in one net.
net main(x: f32[T, B, 4], label: i64[B]) -> (s: f32[T, B, 6], first: bool[T, B, 6]) {
    layer fc = linear(4, 6, bias = false)
    layer out = lif(surrogate = atan())
    kaiming_normal_conv_linear_weight(net)
    set_threshold_margin(out, redundant_one_hot(label, 3, 2))
    let s = x |> fc |> delay(2) |> out
    (s, first_spike_index(s, axis = 0))
}
";

const RECURRENT: &str = "\
net main(x: f32[T, B, 4]) -> f32[T, B, 4] {
    layer back = linear(4, 4, bias = false)
    let rec h = lif(x + back(delay(h, 1)), surrogate = atan())
    h
}
";

fn graph(text: &str, mode: Mode, dims: &[(&str, i64)]) -> snnc::Graph {
    let dims: Dims = dims.iter().map(|(n, v)| (n.to_string(), *v)).collect();
    let program = Program::parse("model.snn", text).unwrap();
    program
        .lower(None, &Options { mode, dims: dims.clone(), rest: None, ..Default::default() })
        .unwrap_or_else(|e| panic!("{e}"))
        .bind(&dims)
}

#[test]
fn graphs_read_back_from_their_text() {
    for text in [MODEL, RECURRENT] {
        for mode in [Mode::Eval, Mode::Train] {
            let graph = graph(text, mode, &[]);
            let printed = graph.to_string();
            let back = snn_ir::text::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
            snn_ir::verify(&back).unwrap();
            assert_eq!(back.to_string(), printed);
            // Everything but positions, which are those of the text.
            let [bare, back] = [graph, back].map(|mut graph| {
                let ids: Vec<snn_ir::NodeId> = graph.nodes().map(|(id, _)| id).collect();
                ids.into_iter().for_each(|id| without_spans(graph.node_mut(id)));
                graph
            });
            assert_eq!(bare.outputs, back.outputs);
            assert!(bare.nodes().zip(back.nodes()).all(|((_, a), (_, b))| a == b), "{printed}");
        }
    }
}

/// Texts of graphs: those of the file tests.
fn graphs() -> Vec<String> {
    let mut texts = Vec::new();
    for folder in ["verify", "rules"] {
        for entry in std::fs::read_dir(format!("filetests/{folder}")).expect("the folder is there") {
            let path = entry.expect("it can be read").path();
            if path.extension().is_some_and(|e| e == "ir") {
                texts.push(std::fs::read_to_string(path).expect("it is text"));
            }
        }
    }
    texts.sort();
    texts.extend([MODEL, RECURRENT].iter().flat_map(|m| [Mode::Eval, Mode::Train].map(|mode| graph(m, mode, &[]).to_string())));
    texts
}

/// Words, numbers and single characters.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || "_.%".contains(c);
        let end = if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        tokens.push(&rest[..end]);
        rest = &rest[end..];
    }
    tokens
}

fn mutated(text: &str, dice: &mut Dice) -> String {
    const WORDS: [&str; 26] = [
        "0",
        "1",
        "-1",
        "2",
        "7",
        "4294967296",
        "9223372036854775807",
        "1.5",
        "+nan",
        "%0",
        "%1",
        "%9",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        "T",
        "f32",
        "i64",
        "bool",
        "add",
        "contract",
        "scan",
        "\"",
    ];
    let mut tokens: Vec<String> = tokens(text).into_iter().map(str::to_string).collect();
    for _ in 0..1 + dice.roll(3) {
        let (i, j) = (dice.roll(tokens.len()), dice.roll(tokens.len()));
        match dice.roll(5) {
            0 => tokens[i] = String::new(),
            1 => tokens[i] = dice.pick(&WORDS).to_string(),
            2 => tokens.swap(i, j),
            3 => tokens[i] = tokens[j].clone(),
            _ => tokens.insert(i, dice.pick(&WORDS).to_string()),
        }
    }
    tokens.concat()
}

/// Whatever is read is printed, read again, and refused or accepted; what is accepted is optimised.
#[test]
fn the_verifier_is_total() {
    let texts = graphs();
    let mut dice = Dice(7);
    let (mut read, mut right) = (0, 0);
    for round in 0..if cfg!(debug_assertions) { 4000 } else { 40_000 } {
        let text = mutated(&texts[round % texts.len()], &mut dice);
        let Ok(graph) = snn_ir::text::parse(&text) else { continue };
        read += 1;
        let printed = graph.to_string();
        let again = snn_ir::text::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{text}\n{printed}"));
        assert_eq!(again.to_string(), printed);
        if snn_ir::verify(&graph).is_err() {
            continue;
        }
        right += 1;
        let optimised = snn_opt::optimise(&graph, &snn_opt::Options::default()).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        snn_ir::verify(&optimised.graph).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        let dims: Dims = [("T", 3), ("B", 2)].map(|(n, size)| (n.to_string(), size)).into();
        for graph in [graph.bind(&dims), optimised.graph.bind(&dims)] {
            let is_small = |t: &snn_ir::Type| t.sizes().ok().and_then(|s| snn_ir::tensor::element_count(&s)).is_some_and(|n| n < 1 << 20);
            if graph.nodes().flat_map(|(_, n)| &n.types).all(is_small) {
                // What is refused is refused with words.
                if snn_ir::backend::check_sizes(&graph).is_ok() {
                    let _ = snn_plan::plan_for_threads(&graph.pruned());
                }
            }
        }
    }
    // Or the test has nothing to say.
    assert!(read > 500 && right > 100, "{read} of the texts were read, {right} were right");
}

/// `docs/ir.md` has a row for each operation and for each pass.
#[test]
fn the_reference_is_whole() {
    let page = std::fs::read_to_string("../docs/ir.md").expect("the page is there");
    let rows: Vec<&str> = page.lines().filter(|l| l.starts_with("| `")).filter_map(|l| l.split('|').nth(1)).collect();
    let named = |name: &str| rows.iter().any(|r| r.contains(&format!("`{name}`")));
    let every = std::fs::read_to_string("filetests/verify/every_operation.ir").expect("the file is there");
    let graph = snn_ir::text::parse(&every).expect("it is a graph");
    snn_ir::verify(&graph).expect("it is right");
    let own = graph.nodes().map(|(_, n)| n.op.name());
    let functions = snn_ir::UnaryOp::ALL.iter().map(|u| u.name()).chain(snn_ir::BinaryOp::ALL.iter().map(|b| b.name()));
    for name in own.chain(functions).chain(snnc::PASSES.iter().map(|p| p.name)) {
        assert!(named(name), "docs/ir.md lacks `{name}`");
    }
}

fn without_spans(node: &mut snn_ir::Node) {
    node.span = None;
    for body in node.op.bodies_mut() {
        let ids: Vec<snn_ir::NodeId> = body.nodes().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| without_spans(body.node_mut(id)));
    }
}

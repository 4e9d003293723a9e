//! Every rule of the optimiser: both sides on random numbers, a program where it must not fire, and what it makes.

use std::collections::HashMap;

use snn_ir::interpret::Randomness;
use snn_ir::{Data, Dims, Graph, Tensor, interpret};
use snn_opt::{Find, Options, Replace, Rule, Set, optimise_with, rules};
use snn_tests::Dice;
use snnc::{Mode, Program};

/// Where the programs of the rules are, `RULE.snn` or, for what the language does not write, `RULE.ir`: a net in which the rule
/// fires, and nets in which it must not. They are file tests too, with what the rule makes of each.
const FOLDER: &str = "filetests/rules";

/// A program of a rule.
enum Case {
    Net(Program, String),
    Graph(Graph),
}

impl Case {
    fn graph(&self, steps: i64, batch: i64) -> Graph {
        let dims = Dims::from([("T".to_string(), steps), ("B".to_string(), batch)]);
        match self {
            Case::Graph(graph) => graph.bind(&dims),
            Case::Net(program, net) => {
                let options = snnc::Options { mode: Mode::Eval, dims: dims.clone(), rest: None, ..Default::default() };
                program.lower(Some(net), &options).unwrap_or_else(|e| panic!("{net}\n{e}")).bind(&dims)
            }
        }
    }
}

/// The net in which a rule fires and those in which it must not.
fn cases(rule: &str) -> (Case, Vec<Case>) {
    let read = |name: &str| std::fs::read_to_string(format!("{FOLDER}/{name}")).ok();
    let graph = |text: String| Case::Graph(snn_ir::text::parse(&text).unwrap_or_else(|e| panic!("{rule}: {e}")));
    let mut fires = read(&format!("{rule}.ir")).map(graph);
    let mut never: Vec<Case> = read(&format!("{rule}.never.ir")).map(graph).into_iter().collect();
    if let Some(text) = read(&format!("{rule}.snn")) {
        let program = Program::parse(rule, &text).unwrap_or_else(|e| panic!("{rule}\n{e}"));
        for net in program.module().nets() {
            let case = Case::Net(program.clone(), net.to_string());
            match net {
                "fires" => fires = Some(case),
                net if net.starts_with("never") => never.push(case),
                _ => {}
            }
        }
    }
    (fires.unwrap_or_else(|| panic!("{FOLDER}/{rule}.snn or .ir lacks the net `fires`")), never)
}

fn program(body: &str) -> Program {
    let text = format!(
        "fn heaviside(x) = spike(x, sigmoid())\n\
         net linear_of(x: f32[..., 6]) -> f32[..., 4] {{\n    layer fc = linear(6, 4, bias = false)\n    fc(x)\n}}\n\
         net second_of(x: f32[..., 4]) -> f32[..., 3] {{\n    layer two = linear(4, 3, bias = false)\n    two(x)\n}}\n\
         net main(x: f32[T, B, 6], y: f32[T, B, 6], s: f32[T, B, 6], b: bool[T, B, 6], k: f32[6], label: i64[B]) {{\n    {body}\n}}\n"
    );
    Program::parse("rule.snn", &text).unwrap_or_else(|e| panic!("{body}\n{e}"))
}

/// A net of a body over all inputs, for rules that are wrong.
fn case(body: &str) -> Case {
    Case::Net(program(body), "main".into())
}

/// Any number in exact rules, tame ones in fast rules.
fn float(dice: &mut Dice, set: Set) -> f32 {
    if set == Set::Exact { dice.wild() } else { dice.tame() * 4.0 }
}

fn inputs(graph: &Graph, set: Set, seed: u64) -> HashMap<String, Tensor> {
    let mut n = Dice(seed);
    let given = graph.inputs.iter().map(|v| (graph.input_name(*v).to_string(), graph.ty(*v)));
    let all: Vec<(String, snn_ir::Type)> =
        given.map(|(n, t)| (n, t.clone())).chain(graph.parameters.iter().map(|p| (p.name.clone(), p.ty.clone()))).collect();
    let mut tensors = HashMap::new();
    for (name, ty) in all {
        let shape = ty.sizes().expect("all sizes are bound");
        let len = shape.iter().product();
        let data = match (name.as_str(), ty.dtype) {
            ("s", _) => Data::F32((0..len).map(|_| (n.next_number() % 2) as f32).collect::<Vec<_>>().into()),
            ("label", _) => Data::I64((0..len).map(|_| (n.next_number() % 4) as i64).collect::<Vec<_>>().into()),
            (_, snn_ir::DType::Bool) => Data::Bool((0..len).map(|_| (n.next_number() % 2) as u8).collect::<Vec<_>>().into()),
            // Parameters are finite: that is what rules may take them to be.
            (name, _) if name.contains('.') => Data::F32((0..len).map(|_| float(&mut n, Set::Fast)).collect::<Vec<_>>().into()),
            _ => Data::F32((0..len).map(|_| float(&mut n, set)).collect::<Vec<_>>().into()),
        };
        tensors.insert(name, Tensor::new(shape, data));
    }
    tensors
}

fn same(set: Set, a: &Tensor, b: &Tensor) -> bool {
    if a.dtype() != snn_ir::DType::F32 || a.shape() != b.shape() {
        return a.same_bits(b);
    }
    // Sums cancel: the error is one of the largest number.
    let largest = a.as_f32().iter().fold(1.0f32, |m, x| m.max(x.abs()));
    let near = |x: f32, y: f32| (x - y).abs() <= 1e-6 * largest;
    let equal = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()) || (set == Set::Fast && near(*x, *y));
    a.as_f32().iter().zip(b.as_f32()).all(equal)
}

/// Holds a rule to what it promises, on one program: how often it fired, or how the results differ.
fn hold(rule: &Rule, case: &Case) -> Result<usize, String> {
    let options = Options { fast_math: true, prefer_new: true, ..Options::default() };
    let mut fired = 0;
    for (steps, batch) in [(1, 1), (2, 3), (5, 2), (9, 1), (0, 2)] {
        let before = case.graph(steps, batch);
        let after = optimise_with(&before, &options, &[*rule]).map_err(|e| e.to_string())?;
        snn_ir::verify(&after.graph).map_err(|e| e.to_string())?;
        fired += after.report.fired.iter().map(|f| f.count).sum::<usize>();
        for seed in 0..8 {
            let tensors = inputs(&before, rule.set, seed);
            let run = |g: &Graph| interpret(g, &tensors, &mut Randomness::Counter { seed: 0 });
            match (run(&before), run(&after.graph)) {
                (Ok(a), Ok(b)) => {
                    for ((name, x), (_, y)) in a.outputs.iter().zip(&b.outputs) {
                        if !same(rule.set, x, y) {
                            return Err(format!("`{}` changes `{name}`, T = {steps}:\n{x:?}\n{y:?}", rule.name));
                        }
                    }
                }
                (Err(_), Err(_)) => {}
                (a, b) => return Err(format!("`{}` changes whether it fails: {a:?}, {b:?}", rule.name)),
            }
        }
    }
    Ok(fired)
}

#[test]
fn every_rule_keeps_its_promise() {
    let mut broken = Vec::new();
    for rule in rules::all() {
        match hold(rule, &cases(rule.name).0) {
            Ok(0) => broken.push(format!("`{}` does not fire", rule.name)),
            Ok(_) => {}
            Err(e) => broken.push(e),
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    for entry in std::fs::read_dir(FOLDER).expect("the folder is there") {
        let name = entry.expect("it can be read").file_name().to_string_lossy().to_string();
        let name = name.split('.').next().unwrap_or_default();
        assert!(rules::all().any(|r| r.name == name), "`{name}` is not a rule");
    }
}

#[test]
fn rules_do_not_fire_where_they_are_wrong() {
    let mut wrong = Vec::new();
    for rule in rules::all() {
        let never = cases(rule.name).1;
        assert!(!never.is_empty(), "`{}` has no net in which it must not fire", rule.name);
        for (i, case) in never.iter().enumerate() {
            // Sizes at which nothing is past the end or empty.
            let options = Options { fast_math: true, prefer_new: true, ..Options::default() };
            let after = optimise_with(&case.graph(5, 2), &options, &[*rule]).expect("rules are right");
            if !after.report.fired.is_empty() {
                wrong.push(format!("`{}` fires in net {} in which it must not", rule.name, i + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn wrong_rules_are_caught() {
    let wrong = |name, find, replace| Rule {
        name,
        set: Set::Exact,
        why: "it is not",
        find: Find::Pattern(find),
        replace: Replace::Pattern(replace),
    };
    for (rule, body) in [
        (wrong("sub-turned", "(sub ?a ?b)", "(sub ?b ?a)"), "x - y"),
        (wrong("sub-self", "(sub ?a ?a)", "(sub ?a (abs ?a))"), "x - x"),
        (wrong("sum-turned", "(add (add ?a ?b) ?c)", "(add ?a (add ?b ?c))"), "x + y + k"),
        (wrong("not-less", "(not (lt ?a ?b))", "(ge ?a ?b)"), "!(x < y)"),
        (wrong("neg-sub", "(neg (sub ?a ?b))", "(sub ?b ?a)"), "-(x - x)"),
        (wrong("delay-lost", "(delay ?d ?x)", "?x"), "delay(x, 1)"),
        (wrong("fast-as-exact", "(mul (div ?x ?a) ?b)", "(mul ?x (div ?b ?a))"), "x / 3.0 * 0.7"),
    ] {
        assert!(hold(&rule, &case(body)).is_err(), "`{}` was not caught", rule.name);
    }
    // Ill-typed ones are named before anything runs.
    for (rule, body) in [
        (wrong("less-is-max", "(lt ?a ?b)", "(maximum ?a ?b)"), "x < y"),
        (wrong("sum-of-nothing", "(sum ?a)", "?a"), "x"),
        (wrong("and-of-numbers", "(maximum ?a ?b)", "(and ?a ?b)"), "maximum(x, y)"),
    ] {
        let result = optimise_with(&case(body).graph(2, 2), &Options::default(), &[rule]);
        if rule.name == "sum-of-nothing" {
            assert!(result.is_ok());
        } else {
            insta::assert_snapshot!(rule.name, result.expect_err("it is ill-typed").to_string());
        }
    }
}

#[test]
fn helpers_written_by_hand_are_recognised() {
    for (body, op) in [
        ("cumsum(cumsum(s, axis = 0), axis = 0) == 1.0", "= first_spike_index %"),
        ("reshape(broadcast_to(unsqueeze(one_hot(label, 4), 2), [B, 4, 3]), [B, 12])", "{classes = 4, repeat = 3}"),
        ("one_hot(label * 2, 8) + one_hot(label * 2 + 1, 8)", "{classes = 4, repeat = 2}"),
        ("first_spike_index(delay(s, 1), axis = 0)", "{steps = 1}"),
    ] {
        let after = snn_opt::optimise(&case(body).graph(5, 2), &Options::default()).expect("rules are right");
        let text = after.graph.to_string();
        assert!(text.contains(op) && !text.contains("cumsum"), "{text}");
    }
}

#[test]
fn an_infinite_weight_keeps_its_delay() {
    let text = "net main(x: f32[T, 2]) -> f32[T, 1] {\n    param w: f32[2, 1] = ones([2, 1])\n    delay(x, 1) @ w\n}\n";
    let program = Program::parse("w.snn", text).expect("it is right");
    let run = |w: f32, optimise| {
        let options = snnc::CompileOptions::default().optimise(optimise);
        let x = ("x".to_string(), Tensor::f32([3, 2], vec![1.0; 6]));
        let w = ("w".to_string(), Tensor::f32([2, 1], vec![w, 1.0]));
        let run = program.compile(None, &options).and_then(|c| c.run(&[x], &[w])).expect("it runs");
        run.outputs[0].1.as_f32().to_vec()
    };
    assert_eq!(run(2.0, snnc::Optimise::Exact), vec![0.0, 3.0, 3.0]);
    let infinite = run(f32::INFINITY, snnc::Optimise::Exact);
    assert!(infinite[0].is_nan() && infinite[1] == f32::INFINITY);
}

#[test]
fn large_graphs_are_fast() {
    use snn_ir::{BinaryOp, DType, Dim, Op, Type, UnaryOp};
    let ty = Type::new(DType::F32, [Dim::name("T"), 8.into()]);
    // Time limits are for a release build; a build for tests gets more.
    let slack = if cfg!(debug_assertions) { 40 } else { 1 };
    let timed = |graph: &Graph, limit: u64| {
        snn_opt::optimise(&Graph::new("warm"), &Options::default()).expect("rules are right");
        let started = std::time::Instant::now();
        let after = snn_opt::optimise(graph, &Options::default()).expect("rules are right");
        let took = started.elapsed();
        assert!(took.as_millis() < u128::from(limit * slack), "{took:?} for {} nodes", graph.len());
        after
    };
    let mut chain = Graph::new("chain");
    let mut v = chain.add_input("x", ty.clone());
    for _ in 0..1000 {
        v = chain.add(Op::Delay { steps: 1 }, &[v]);
    }
    chain.outputs.push(("out".into(), v));
    let after = timed(&chain, 50);
    assert_eq!(after.graph.len(), 2);
    assert_eq!(after.graph.op(after.graph.outputs[0].1), &Op::Delay { steps: 1000 });

    let mut long = Graph::new("long");
    let mut v = long.add_input("x", ty.clone());
    let y = long.add_input("y", ty.clone());
    for i in 0..10_000 {
        v = match i % 4 {
            0 => long.add(Op::Unary(UnaryOp::Tanh), &[v]),
            1 => long.add(Op::Binary(BinaryOp::Add), &[v, y]),
            2 => long.add(Op::Unary(UnaryOp::Abs), &[v]),
            _ => long.add(Op::Binary(BinaryOp::Mul), &[v, v]),
        };
    }
    long.outputs.push(("out".into(), v));
    let after = timed(&long, 1000);
    assert_eq!(after.graph.len(), 10_002);

    let mut wide = Graph::new("wide");
    let terms: Vec<_> = (0..500).map(|i| wide.add_input(format!("x{i}"), ty.clone())).collect();
    let sum = terms[1..].iter().fold(terms[0], |sum, t| wide.add(Op::Binary(BinaryOp::Add), &[sum, *t]));
    wide.outputs.push(("out".into(), sum));
    let after = timed(&wide, 100);
    assert!(after.report.terms < 4000 && after.report.limits.is_empty());
}

#[test]
fn limits_end_what_would_go_on_for_ever() {
    let grows = Rule {
        name: "grows",
        set: Set::Exact,
        why: "x is -(-x)",
        find: Find::Pattern("(abs ?x)"),
        replace: Replace::Pattern("(abs (abs (neg ?x)))"),
    };
    let options = Options { terms: 200, iterations: 500, ..Options::default() };
    let after = optimise_with(&case("abs(x)").graph(2, 2), &options, &[grows]).expect("the rule is right");
    assert_eq!(after.report.limits.len(), 1, "{}", after.report);
    assert!(after.report.to_string().contains("the result is the best until then"));
}

#[test]
fn the_documentation_lists_every_rule() {
    let page = std::fs::read_to_string(format!("{}/../docs/optimiser.md", env!("CARGO_MANIFEST_DIR"))).expect("the page exists");
    for rule in rules::all() {
        let line = format!("| `{}` | {} | {} |", rule.name, format!("{:?}", rule.set).to_lowercase(), rule.why.replace('|', "/"));
        assert!(page.contains(&line), "docs/optimiser.md lacks {line}");
    }
}

/// Two ways to a value cost once what they share: a delay that could move before a neuron stays, where the neuron is needed anyway.
#[test]
fn what_is_needed_anyway_is_shared() {
    let text = "net main(x: f32[T, N]) -> (s: f32[T, N], v: f32[T, N], d: f32[T, N]) {
        layer out = lif()
        let s = x |> delay(1) |> delay(2) |> out
        (s, out.v, s |> delay(1))
    }";
    let program = Program::parse("t", text).unwrap();
    let graph = program.lower(None, &snnc::Options::default()).unwrap();
    let optimised = snn_opt::optimise(&graph, &snn_opt::Options::default()).unwrap().graph;
    let count = |wanted: fn(&snn_ir::Op) -> bool| optimised.pruned().nodes().filter(|(_, n)| wanted(&n.op)).count();
    assert_eq!(count(|op| matches!(op, snn_ir::Op::Scan(_))), 1, "{optimised}");
    assert_eq!(count(|op| matches!(op, snn_ir::Op::Delay { .. })), 2, "{optimised}");
}

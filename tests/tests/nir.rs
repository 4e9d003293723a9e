//! NIR files: traces of the frameworks, round trips, and files that are wrong. The files are those of the NIR paper; see `tests/nir/README.md`.

use std::path::PathBuf;

use snn_ir::Tensor;
use snn_nir::{
    Compare, Element, ExportOptions, Exported, Graph, Kind, Node, Options, Order, Preset, Reset, Value, import, read, read_bytes, write,
};
use snnc::{CompileOptions, Program};

fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("{}/nir/{name}", env!("CARGO_MANIFEST_DIR")))
}

fn run(graph: &snn_nir::Model, options: &Options, x: Tensor) -> Vec<f32> {
    let made = import(graph, options, "test.nir").unwrap();
    let program = Program::parse("test.snn", &made.source).unwrap_or_else(|e| panic!("{e}\n{}", made.source));
    let name = program.inputs("main").unwrap()[0].clone();
    let compiled = program.compile(None, &CompileOptions::default()).unwrap();
    compiled.run(&[(name, x)], &made.weights).unwrap_or_else(|e| panic!("{e}\n{}", made.source)).outputs[0].1.to_f32()
}

fn preset(p: Preset) -> Options {
    Options { preset: Some(p), ..Options::default() }
}

#[test]
fn presets_give_the_spikes_of_the_frameworks() {
    let model = read(&path("lif_norse.nir")).unwrap();
    for (file, p) in [("norse", Preset::Norse), ("snntorch", Preset::SnnTorch), ("nengo", Preset::Nengo), ("lava_cpu_float", Preset::Lava)]
    {
        let text = std::fs::read_to_string(path(&format!("lif_{file}.csv"))).unwrap();
        let rows: Vec<Vec<f32>> = text.lines().map(|l| l.split(',').map(|v| v.trim().parse().unwrap()).collect()).collect();
        let x = Tensor::f32(vec![rows.len(), 1, 1], rows.iter().map(|r| r[0]).collect::<Vec<_>>());
        let want: Vec<f32> = rows.iter().map(|r| r[2]).collect();
        assert_eq!(want.iter().sum::<f32>(), 4.0);
        assert_eq!(run(&model, &preset(p), x), want, "{file}");
    }
}

#[test]
fn every_file_becomes_a_program_that_runs() {
    for (file, p, shape) in [
        ("braille_noDelay_bias_zero", Preset::SnnTorch, vec![12]),
        ("cnn_sinabs", Preset::Sinabs, vec![2, 34, 34]),
        ("lif_rockpool", Preset::Norse, vec![1]),
        ("two_lif_neurons", Preset::Norse, vec![1]),
    ] {
        let model = read(&path(&format!("{file}.nir"))).unwrap();
        let n: usize = 20 * 2 * shape.iter().product::<usize>();
        let x: Vec<f32> = (0..n).map(|i| (i * 7919 % 13) as f32 / 6.0).collect();
        let y = run(&model, &preset(p), Tensor::f32([vec![20, 2], shape].concat(), x));
        assert!(y.iter().all(|v| *v == 0.0 || *v == 1.0), "{file}");
        if file == "cnn_sinabs" {
            assert!(y.contains(&1.0));
        }
    }
}

/// What a cycle and a soft reset do, by hand.
#[test]
fn a_cycle_takes_one_step() {
    let f = |name: &str, v: &[f64], shape: &[usize]| {
        (name.to_string(), Value::Numbers { shape: shape.to_vec(), data: v.to_vec(), element: Element::F32 })
    };
    let node = |kind, fields| Node { kind, fields, graph: None };
    let graph = Graph {
        nodes: vec![
            ("input".into(), node(Kind::Input, vec![f("shape", &[2.0], &[1])])),
            ("if".into(), node(Kind::If, vec![f("r", &[1.0, 1.0], &[2]), f("v_threshold", &[1.0, 2.0], &[2])])),
            ("back".into(), node(Kind::Affine, vec![f("weight", &[0.0, 0.0, 0.5, 0.0], &[2, 2]), f("bias", &[0.0, 0.25], &[2])])),
            ("output".into(), node(Kind::Output, vec![f("shape", &[2.0], &[1])])),
        ],
        edges: [("input", "if"), ("if", "back"), ("back", "if"), ("if", "output")].map(|(a, b)| (a.to_string(), b.to_string())).to_vec(),
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cycle.nir");
    write(&file, &graph).unwrap();
    let model = read(&file).unwrap();
    let mut sorted = graph.clone();
    sorted.nodes.sort_by(|a, b| a.0.cmp(&b.0));
    let mut back = model.graph.clone();
    back.nodes.sort_by(|a, b| a.0.cmp(&b.0));
    back.nodes.iter_mut().for_each(|(_, n)| n.fields.sort_by(|a, b| a.0.cmp(&b.0)));
    sorted.nodes.iter_mut().for_each(|(_, n)| n.fields.sort_by(|a, b| a.0.cmp(&b.0)));
    assert_eq!(back, sorted);
    let options = Options { preset: Some(Preset::Sinabs), ..Options::default() };
    let got = run(&model, &options, Tensor::f32(vec![8, 1, 2], vec![0.75; 16]));
    let (mut v, mut s, mut want) = ([0.0f32; 2], [0.0f32; 2], vec![]);
    for _ in 0..8 {
        let input = [0.75, 0.75 + 0.5 * s[0] + 0.25];
        for k in 0..2 {
            let threshold = [1.0, 2.0][k];
            v[k] += input[k];
            s[k] = f32::from(v[k] >= threshold);
            v[k] -= s[k] * threshold;
        }
        want.extend(s);
    }
    assert_eq!(got, want);
}

#[test]
fn what_is_open_is_asked_for_and_what_is_wrong_is_named() {
    let model = read(&path("braille_noDelay_bias_zero.nir")).unwrap();
    let open = import(&model, &Options { dt: Some(1e-4), ..Options::default() }, "f").unwrap_err().to_string();
    assert!(open.contains("--integrator") && open.contains("--reset") && open.contains("--order") && !open.contains("--dt"), "{open}");
    let change = |f: &dyn Fn(&mut Graph)| {
        let mut m = model.clone();
        f(&mut m.graph);
        import(&m, &preset(Preset::Norse), "f").unwrap_err().to_string()
    };
    fn field<'a>(g: &'a mut Graph, node: &str, name: &str) -> &'a mut Value {
        let n = g.nodes.iter_mut().find(|(n, _)| n == node).unwrap();
        &mut n.1.fields.iter_mut().find(|(f, _)| f == name).unwrap().1
    }
    let zero = change(&|g| *field(g, "lif2", "tau_mem") = Value::Numbers { shape: vec![], data: vec![0.0], element: Element::F64 });
    assert!(zero.contains("`lif2` (CubaLIF)") && zero.contains("tau_mem"), "{zero}");
    let shape = change(&|g| *field(g, "fc2", "weight") = Value::Numbers { shape: vec![7, 3], data: vec![0.0; 21], element: Element::F32 });
    assert!(shape.contains("`fc2` (Affine)") && shape.contains("[7, 3]"), "{shape}");
    let edge = change(&|g| g.edges.push(("fc1".into(), "nobody".into())));
    assert!(edge.contains("`nobody`"), "{edge}");
    let alone = change(&|g| g.edges.retain(|e| e.0 != "input"));
    assert!(alone.contains("no input reaches it"), "{alone}");
}

/// Files that are cut or changed give errors or other graphs: no panic, no hang, and no more memory than the file can fill.
#[test]
fn broken_files_are_errors() {
    for name in ["lif_norse.nir", "two_lif_neurons.nir"] {
        let bytes = std::fs::read(path(name)).unwrap();
        for n in (0..bytes.len()).step_by(97) {
            assert!(read_bytes(bytes[..n].to_vec()).is_err(), "{name} cut at {n}");
        }
        for i in (0..bytes.len()).step_by(3) {
            for value in [0u8, 0xff, bytes[i] ^ 0x10] {
                let mut broken = bytes.clone();
                broken[i] = value;
                if let Ok(model) = read_bytes(broken) {
                    let _ = import(&model, &preset(Preset::Norse), name);
                }
            }
        }
    }
}

fn load(name: &str) -> Vec<(String, Tensor)> {
    snnc::load(path(name).to_str().unwrap()).unwrap()
}

/// What three frameworks wrote by their own exporters, run as their own importers run it, and why that is not always what the net was.
#[test]
fn files_of_frameworks_run_as_in_the_frameworks() {
    for (name, p, dt) in
        [("spikingjelly", Preset::SpikingJelly, None), ("snntorch", Preset::SnnTorch, None), ("norse", Preset::Norse, Some(1e-3))]
    {
        let model = read(&path(&format!("golden/{name}.nir"))).unwrap();
        let arrays = load(&format!("golden/{name}.npz"));
        let array = |n: &str| arrays.iter().find(|(k, _)| k == n).unwrap().1.clone();
        let options = Options { dt, ..preset(p) };
        let (imported, original) = (array("imported").to_f32(), array("original").to_f32());
        assert!(imported.contains(&1.0) && imported.contains(&0.0), "{name}");
        assert_eq!(run(&model, &options, array("x")), imported, "{name}");
        let differ = imported.iter().zip(&original).filter(|(a, b)| a != b).count();
        let cause = |change: &dyn Fn(&mut Node)| {
            let mut model = model.clone();
            model.graph.nodes.iter_mut().for_each(|(_, n)| change(n));
            run(&model, &options, array("x"))
        };
        match name {
            "spikingjelly" => assert_eq!(differ, 0),
            // The file says `v_reset = 0`: that snnTorch's neurons subtract the threshold, a step after the spike, is lost.
            "snntorch" => {
                assert_eq!(differ, 57);
                let text = "net main(x: f32[T, B, 6]) {
                    layer 0 = linear(6, 5)
                    layer 2 = linear(5, 4)
                    let s = leaky(net.0(x), beta = 0.8, threshold = 0.6)
                    synaptic(net.2(s), alpha = 0.5, beta = 0.7, threshold = 0.9)
                }";
                let made = import(&model, &options, name).unwrap();
                let weights: Vec<(String, Tensor)> =
                    made.weights.into_iter().filter(|(n, _)| n.starts_with("0.") || n.starts_with("2.")).collect();
                let net = Program::parse("snntorch.snn", text).unwrap().compile(None, &CompileOptions::default()).unwrap();
                let x = array("x");
                assert_eq!(net.run(&[("x".into(), x)], &weights).unwrap().outputs[0].1.to_f32(), original);
            }
            // The exporter of Norse 1.1 writes `dt tau_inv` where a time constant is `1 / tau_inv`, and drops that a `LIFCell` adds its input to
            // the current whole.
            _ => {
                assert_eq!(differ, 425);
                let fixed = cause(&|n: &mut Node| {
                    let (kind, mut syn) = (n.kind, 0.0);
                    for (field, value) in &mut n.fields {
                        let Value::Numbers { data, .. } = value else { continue };
                        if field.starts_with("tau") {
                            // `dt / tau_inv`, as the file says it, is `dt` times too small.
                            data.iter_mut().for_each(|t| *t /= 1e-3);
                        }
                        if field == "tau_syn" {
                            syn = data[0];
                        }
                    }
                    if kind == Kind::CubaLif {
                        for (field, value) in &mut n.fields {
                            if let (true, Value::Numbers { data, .. }) = (field == "w_in", value) {
                                data.iter_mut().for_each(|w| *w = syn / 1e-3);
                            }
                        }
                    }
                });
                assert_eq!(fixed, original);
            }
        }
    }
}

fn exported(text: &str, weights: &[(String, Tensor)], dt: Option<f64>) -> Result<Exported, String> {
    let net = Program::parse("net.snn", text).unwrap().compile(None, &CompileOptions::default().seed(3)).unwrap();
    net.export_nir(weights, &ExportOptions { dt, ..ExportOptions::default() }).map_err(|e| e.to_string())
}

/// The options that an export says.
fn reading(e: &Exported) -> Options {
    let mut o = Options::default();
    for (name, value) in &e.options {
        match *name {
            "dt" => o.dt = Some(value.parse().unwrap()),
            "integrator" => o.integrator = Some(value.parse().unwrap()),
            "reset" => o.reset = Some(value.parse::<Reset>().unwrap()),
            "compare" => o.compare = Some(value.parse::<Compare>().unwrap()),
            "order" => o.order = Some(value.parse::<Order>().unwrap()),
            "unit-if" => o.unit_if = true,
            other => panic!("{other}"),
        }
    }
    o
}

/// Through a file.
fn written(graph: &Graph) -> snn_nir::Model {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.nir");
    write(&file, graph).unwrap();
    read(&file).unwrap()
}

/// A node and its fields.
type Said = (Kind, Vec<(String, Vec<f32>)>);

/// A node's fields as f32, one value for each neuron, without what says the same as its absence.
fn said(node: &Node) -> Vec<(String, Vec<f32>)> {
    let n = node.fields.iter().filter_map(|(f, _)| node.numbers(f)).map(|(_, d)| d.len()).max().unwrap_or(1);
    let mut all = vec![];
    for (field, _) in &node.fields {
        let Some((_, data)) = node.numbers(field) else { continue };
        let data: Vec<f32> = data.iter().map(|x| *x as f32).collect();
        let is_usual =
            field == "v_reset" && data.iter().all(|x| *x == 0.0) || field == "input_shape" || field == "input_type" || field == "end_dim";
        if !is_usual {
            all.push((field.clone(), if data.len() == 1 && node.kind.is_neuron() { vec![data[0]; n] } else { data }));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn a_file_becomes_a_program_and_the_same_file() {
    for (file, p, shape) in [
        ("braille_noDelay_bias_zero", Preset::SnnTorch, vec![12]),
        ("cnn_sinabs", Preset::Sinabs, vec![2, 34, 34]),
        ("lif_rockpool", Preset::Norse, vec![1]),
        ("two_lif_neurons", Preset::Norse, vec![1]),
        ("lif_norse", Preset::Nengo, vec![1]),
        ("golden/spikingjelly", Preset::SpikingJelly, vec![6]),
        ("golden/snntorch", Preset::SnnTorch, vec![6]),
        ("golden/norse", Preset::Norse, vec![6]),
    ] {
        let model = read(&path(&format!("{file}.nir"))).unwrap();
        let made = import(&model, &preset(p), file).unwrap();
        let again = exported(&made.source, &made.weights, None).unwrap_or_else(|e| panic!("{file}: {e}"));
        let back = written(&again.graph);
        // Nodes of graphs inside of graphs stand beside the others.
        fn all(graph: &Graph, kinds: &mut Vec<Said>) {
            for (_, n) in &graph.nodes {
                match &n.graph {
                    Some(g) => all(g, kinds),
                    None if matches!(n.kind, Kind::Input | Kind::Output) => {}
                    None => kinds.push((n.kind, said(n))),
                }
            }
        }
        let nodes = |g: &Graph| {
            let mut v = vec![];
            all(g, &mut v);
            v.sort_by(|a, b| format!("{a:?}").cmp(&format!("{b:?}")));
            v
        };
        assert_eq!(nodes(&back.graph), nodes(&model.graph), "{file}");
        let n: usize = 20 * 2 * shape.iter().product::<usize>();
        let x = Tensor::f32([vec![20, 2], shape].concat(), (0..n).map(|i| (i * 7919 % 13) as f32 / 6.0).collect());
        assert_eq!(run(&back, &reading(&again), x.clone()), run(&model, &preset(p), x), "{file}");
    }
}

#[test]
fn nets_are_the_same_after_a_file() {
    let example =
        |name: &str| std::fs::read_to_string(format!("{}/../examples/benchmarks/{name}.snn", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let cases = [
        (example("mlp"), vec![784], 6.0),
        (example("recurrent"), vec![700], 4.0),
        // A delay on a cycle gives one step to the cycle; another one stays a node. A learned time constant is a number.
        (
            "net main(x: f32[T, B, 6]) -> f32[T, B, 3] {
                layer fc = linear(6, 4)
                layer rec = linear(4, 4, bias = false)
                layer sn1 = plif(init_tau = 3.0, v_threshold = 0.4)
                layer fc2 = linear(4, 3)
                layer sn2 = lif(tau = 2.5, decay_input = false, v_threshold = 0.3)
                let rec s: f32[T, B, 4] = sn1(2.0 * fc(x) + rec(delay(s, 3)))
                s |> delay(2) |> fc2 |> sn2
            }"
            .to_string(),
            vec![6],
            1.0,
        ),
        // A neuron of one's own with a soft reset, pools, flatten, a difference.
        (
            "neuron mine(x; leak = 0.25) {
                state v = 0.0
                let h = v * (1 - leak) + x * 0.5
                let s = spike(h - 0.125, atan())
                v = h - 0.125 * s
                emit s
            }
            net main(x: f32[T, B, 1, 4, 4]) -> f32[T, B, 8] {
                layer conv = conv2d(1, 2, 3, padding = 1)
                let y = conv(x) |> mine() |> avg_pool2d(2) |> flatten(start = 2)
                mine(y * 4.0 - y)
            }"
            .to_string(),
            vec![1, 4, 4],
            1.0,
        ),
        // Norse's order of updates, and an integrator at the end.
        (
            "net main(x: f32[T, B, 6]) -> f32[T, B, 6] {
                layer fc = linear(6, 6)
                x |> fc |> lif_cell(v_th = 0.05)
            }"
            .to_string(),
            vec![6],
            1.0,
        ),
    ];
    for (text, shape, scale) in cases {
        let n: usize = 40 * 2 * shape.iter().product::<usize>();
        let x = Tensor::f32([vec![40, 2], shape].concat(), (0..n).map(|i| (i * 7919 % 13) as f32 / 6.0).collect());
        let net = Program::parse("net.snn", &text).unwrap().compile(Some("main"), &CompileOptions::default().seed(3)).unwrap();
        // Weights that let every layer fire.
        let mut weights = net.run(&[("x".into(), x.clone())], &[]).unwrap().parameters;
        for (_, t) in weights.iter_mut().filter(|(n, _)| n.ends_with(".weight")) {
            *t = Tensor::f32(t.shape().to_vec(), t.as_f32().iter().map(|w| w * scale).collect());
        }
        let e = exported(&text, &weights, Some(1e-3)).unwrap_or_else(|e| panic!("{e}"));
        let want = net.run(&[("x".into(), x.clone())], &weights).unwrap().outputs[0].1.to_f32();
        assert!(want.contains(&1.0) && want.contains(&0.0), "{text}");
        assert_eq!(run(&written(&e.graph), &reading(&e), x), want, "{text}");
    }
}

#[test]
fn what_nir_cannot_say_is_an_error_with_its_line() {
    for (body, want) in [
        ("x |> max_pool2d(2)", "`max_pool2d` cannot be said in NIR"),
        ("softmax(x, axis = -1)", "`softmax` cannot be said in NIR"),
        ("leaky(x)", "the membrane of the step before"),
        ("x * x", "a product or quotient of values that depend on the input"),
        ("lif(x, v_reset = none) + if_node(x)", "some neurons reset to a value and some by their threshold"),
        ("lif(x) + leaky(x, reset = \"none\")", "none of NIR's"),
        ("izhikevich(x)", "none of NIR's"),
        ("mean(x, axis = 0)", "other axes of time and samples"),
        ("x + 1.0", "a constant is added"),
        ("concat([x, x], axis = -1)", "`concat` cannot be said in NIR"),
    ] {
        let text = format!("net main(x: f32[T, B, 4, 4]) {{\n    {body}\n}}");
        let error = exported(&text, &[], Some(1e-3)).unwrap_err();
        assert!(error.contains(want) && error.contains("net.snn:2:"), "{body}: {error}");
    }
    let error = exported("net main(x: f32[T, B, 4]) {\n    lif(x)\n}", &[], None).unwrap_err();
    assert!(error.contains("--dt"), "{error}");
    // A cycle whose delay is not where NIR puts one.
    let text = "net main(x: f32[T, B, 4]) {
        layer a = linear(4, 4)
        let rec s: f32[T, B, 4] = delay(lif(x + a(s)), 1)
        s
    }";
    if let Ok(e) = exported(text, &[], Some(1e-3)) {
        let x = Tensor::f32(vec![20, 1, 4], (0..80).map(|i| (i % 7) as f32).collect());
        let net = Program::parse("net.snn", text).unwrap().compile(None, &CompileOptions::default().seed(3)).unwrap();
        let want = net.run(&[("x".into(), x.clone())], &[]).unwrap().outputs[0].1.to_f32();
        assert_eq!(run(&written(&e.graph), &reading(&e), x), want);
    }
}

//! NIR files: traces of the frameworks, round trips, and files that are wrong. The files are those of the NIR paper; see `tests/nir/README.md`.

use std::path::PathBuf;

use snn_ir::Tensor;
use snn_nir::{Element, Graph, Kind, Node, Options, Preset, Value, import, read, read_bytes, write};
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

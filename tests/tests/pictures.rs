//! What pictures look like: boxes do not overlap, nothing is outside, ticks are told apart.

use snn_ir::Tensor;
use snn_plot::{Membrane, Signal, Style};
use snnc::{Options, Program};

/// The attributes of each element of a kind, of an SVG.
fn elements<'a>(svg: &'a str, kind: &str) -> Vec<(impl Fn(&str) -> Option<&'a str> + use<'a>, &'a str)> {
    let open = format!("<{kind} ");
    let parts = svg.split(open.as_str()).skip(1).map(|part| {
        let head = part.split('>').next().unwrap_or_default();
        let inside = part.split_once('>').map_or("", |(_, rest)| rest.split("</").next().unwrap_or_default().trim());
        let get = move |name: &str| head.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
        (get, inside)
    });
    parts.collect()
}

fn number(text: Option<&str>) -> f64 {
    text.and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("{text:?} is no number"))
}

fn size(svg: &str) -> (f64, f64) {
    let (get, _) = &elements(svg, "svg")[0];
    (number(get("width")), number(get("height")))
}

/// All texts with their places; none is outside.
fn texts(svg: &str) -> Vec<(f64, f64, String)> {
    let (width, height) = size(svg);
    let all = elements(svg, "text").into_iter().map(|(get, text)| (number(get("x")), number(get("y")), text.to_string()));
    let all: Vec<_> = all.collect();
    for (x, y, text) in &all {
        assert!((0.0..=width).contains(x) && (0.0..=height).contains(y), "`{text}` at {x}, {y} of {width} x {height}");
    }
    all
}

#[test]
fn layers_stand_apart_and_have_names() {
    for (model, depth, wanted) in [
        ("sew_resnet18", None, &["layer1", "b0", "conv1", "fc: linear", "main: 11.2M parameters"][..]),
        ("sew_resnet18", Some(9), &["conv2", "bn2", "down: conv", "add", "lif"]),
        ("unet", None, &["down1", "up2: conv", "concat", "join2"]),
        ("spikformer", Some(2), &["stage3", "blocks", "head: linear"]),
    ] {
        let path = format!("{}/../examples/benchmarks/peers/{model}.snn", env!("CARGO_MANIFEST_DIR"));
        let program = Program::parse(model, &std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))).unwrap();
        let graph = program.lower(Some("main"), &Options::default()).unwrap();
        let svg = snn_plot::as_svg(|to| snn_plot::layers(to, &graph, depth)).unwrap();
        let all: Vec<String> = texts(&svg).into_iter().map(|(_, _, t)| t).collect();
        for name in wanted {
            assert!(all.iter().any(|t| t == name), "{model} at {depth:?} has no `{name}`: {all:?}");
        }
        // Boxes are filled with one of three colours.
        let boxes: Vec<[f64; 4]> = elements(&svg, "rect")
            .into_iter()
            .filter(|(get, _)| ["#E2ECF8", "#F8F0DE", "#E8F6E8"].contains(&get("fill").unwrap_or_default()))
            .map(|(get, _)| [number(get("x")), number(get("y")), number(get("width")), number(get("height"))])
            .collect();
        assert!(boxes.len() > 8, "{model}: {} boxes", boxes.len());
        let (width, height) = size(&svg);
        for (i, a) in boxes.iter().enumerate() {
            assert!(a[0] >= 0.0 && a[1] >= 0.0 && a[0] + a[2] <= width && a[1] + a[3] <= height);
            for b in &boxes[i + 1..] {
                let apart = a[0] + a[2] <= b[0] || b[0] + b[2] <= a[0] || a[1] + a[3] <= b[1] || b[1] + b[3] <= a[1];
                assert!(apart, "{model}: {a:?} and {b:?}");
            }
        }
        // As many arrow heads as there are boxes that read something, at least.
        assert!(elements(&svg, "polygon").len() + 1 >= boxes.len(), "{model}");
    }
}

fn signal(name: &str, steps: usize, neurons: usize, f: impl Fn(usize) -> f32) -> Signal {
    Signal::new(name, &Tensor::f32([steps, neurons], (0..steps * neurons).map(f).collect()), 0).unwrap()
}

#[test]
fn ticks_are_whole_and_told_apart() {
    for (steps, neurons) in [(4, 1), (10, 2), (10, 3), (60, 5), (200, 7), (30, 100)] {
        let svg = snn_plot::as_svg(|to| {
            snn_plot::raster(to, &[signal("s", steps, neurons, |i| f32::from(u8::from(i % 3 == 0)))], &Style::default())
        });
        let all = texts(&svg.unwrap());
        // Ticks of neurons stand left of the axis, one above the other.
        let ticks: Vec<&str> = all.iter().filter(|(x, _, t)| *x < 60.0 && t.parse::<f64>().is_ok()).map(|(_, _, t)| t.as_str()).collect();
        let mut apart = ticks.clone();
        apart.sort_unstable();
        apart.dedup();
        assert_eq!(apart.len(), ticks.len(), "{neurons} neurons: {ticks:?}");
        assert!(!ticks.is_empty() && ticks.iter().all(|t| !t.contains('.')), "{neurons} neurons: {ticks:?}");
    }
}

#[test]
fn traces_have_a_legend_and_time_in_milliseconds() {
    let (steps, neurons) = (20, 2);
    let v = signal("v", steps, neurons, |i| (i % 7) as f32 * 0.2);
    let membrane = Membrane {
        spikes: Some(signal("s", steps, neurons, |i| f32::from(u8::from(i % 7 == 0)))),
        before_reset: Some(signal("h", steps, neurons, |i| if i % 7 == 0 { 1.3 } else { (i % 7) as f32 * 0.2 })),
        threshold: Some(1.0),
        ..Membrane::alone(v)
    };
    let style = Style { title: Some("Two neurons".into()), dt: Some(0.5), ..Style::default() };
    let svg = snn_plot::as_svg(|to| snn_plot::traces(to, &membrane, &style)).unwrap();
    let all: Vec<String> = texts(&svg).into_iter().map(|(_, _, t)| t).collect();
    for wanted in ["Two neurons", "v, neuron 0", "v, neuron 1", "threshold", "spike", "before the reset", "time (ms)"] {
        assert!(all.iter().any(|t| t == wanted), "no `{wanted}`: {all:?}");
    }
    let other = Membrane { before_reset: Some(signal("h", 3, 2, |_| 0.0)), ..membrane };
    assert!(snn_plot::as_svg(|to| snn_plot::traces(to, &other, &style)).unwrap_err().to_string().contains("differ in size"));
}

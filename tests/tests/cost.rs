//! Counts of operations against those by hand, and where two versions part.

use snnc::quantise::{WeightBits, quantised};
use snnc::{CompileOptions, Program, Tensor};

fn cost(text: &str, x: Tensor, weights: &[(&str, Tensor)]) -> snnc::Cost {
    let weights: Vec<(String, Tensor)> = weights.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
    let net = Program::parse("net.snn", text).unwrap().compile(None, &CompileOptions::default()).unwrap();
    net.cost(&[("x".into(), x)], &weights).unwrap()
}

#[test]
fn a_linear_layer_by_hand() {
    let text = "net main(x: f32[T, B, 3]) { layer fc = linear(3, 2)\n x |> fc |> lif() }";
    let w = Tensor::f32([2, 3], vec![1.0, 0.0, 2.0, 3.0, 0.0, 0.0]);
    let weights = [("fc.weight", w), ("fc.bias", Tensor::f32([2], vec![0.0, 0.0]))];
    // Columns of the weight have 2, 0 and 1 elements that are not zero.
    let spikes = Tensor::f32([2, 2, 3], vec![1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    let c = cost(text, spikes, &weights);
    assert_eq!((c.samples, c.layers.len(), c.layers[0].name.as_str()), (2, 1, "fc"));
    assert_eq!((c.layers[0].dense_macs, c.layers[0].effective_macs, c.layers[0].effective_acs), (12.0, 0.0, (2.0 + 1.0 + 2.0 + 1.0) / 2.0));
    assert_eq!(c.layers[0].input_rate, 5.0 / 12.0);
    assert_eq!((c.neurons[0].neurons, c.neurons[0].updates), (2, 4.0));
    assert_eq!(c.layers[0].energy_pj, 3.0 * 0.9);
    // Another value than -1, 0 and 1 makes products of all.
    let graded = Tensor::f32([1, 1, 3], vec![0.5, 1.0, 1.0]);
    let c = cost(text, graded, &weights);
    assert_eq!((c.layers[0].dense_macs, c.layers[0].effective_macs, c.layers[0].effective_acs), (6.0, 3.0, 0.0));
    assert_eq!((c.energy_pj, c.dense_energy_pj), (3.0 * 4.6, 6.0 * 4.6));
}

#[test]
fn a_convolution_by_hand() {
    let text = "net main(x: f32[T, B, 1, 3, 3]) { layer c = conv2d(1, 2, 3, padding = 1, bias = false)\n x |> c |> if_node() }";
    let weights = [("c.weight", Tensor::f32([2, 1, 3, 3], vec![1.0; 18]))];
    // Corners reach 4 places, sides 6, the centre 9: zeros of padding do not count.
    let mut x = vec![0.0; 9];
    (x[0], x[1], x[4]) = (1.0, 1.0, 1.0);
    let c = cost(text, Tensor::f32([1, 1, 1, 3, 3], x), &weights);
    assert_eq!((c.layers[0].dense_macs, c.layers[0].effective_acs), (2.0 * (4.0 * 4.0 + 4.0 * 6.0 + 9.0), 2.0 * (4.0 + 6.0 + 9.0)));
}

#[test]
fn a_transposed_convolution_by_hand() {
    let text = "net main(x: f32[T, B, 1, 3]) { layer c = conv_transpose1d(1, 2, 3, padding = 1, bias = false)\n x |> c |> if_node() }";
    let weights = [("c.weight", Tensor::f32([1, 2, 3], vec![1.0, 1.0, 1.0, 0.0, 1.0, 1.0]))];
    // The ends lead to two places each, the middle to three; the second channel's first weight is zero.
    let c = cost(text, Tensor::f32([1, 1, 1, 3], vec![1.0, 1.0, 0.0]), &weights);
    assert_eq!((c.layers[0].dense_macs, c.layers[0].effective_acs), (2.0 * 7.0, 4.0 + 5.0));
}

#[test]
fn recurrent_weights_count_at_each_step() {
    let text = "net main(x: f32[T, B, 2]) {
        layer rec = linear(2, 2, bias = false)
        let rec s: f32[T, B, 2] = if_node(x + rec(delay(s, 1)))
        s
    }";
    let weights = [("rec.weight", Tensor::f32([2, 2], vec![0.0; 4]))];
    let x = Tensor::f32([3, 1, 2], vec![1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    let c = cost(text, x.clone(), &weights);
    let rec = c.layers.iter().find(|l| l.name == "rec").unwrap();
    assert_eq!((rec.dense_macs, rec.effective_acs), (12.0, 0.0));
    let c = cost(text, x, &[("rec.weight", Tensor::f32([2, 2], vec![1e-3; 4]))]);
    let rec = c.layers.iter().find(|l| l.name == "rec").unwrap();
    // One spike after the first step, two after the second.
    assert_eq!((rec.dense_macs, rec.effective_acs), (12.0, 6.0));
    assert_eq!(c.neurons[0].firing_rate, 0.5);
}

#[test]
fn integers_are_integers() {
    let w = Tensor::f32([3, 4], vec![0.1, -0.3, 0.02, 0.0, 100.0, -50.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    for (bits, largest) in [(WeightBits::I8, 127.0), (WeightBits::I16, 32767.0)] {
        let q = quantised(&w, bits);
        for (row, (before, after)) in w.as_f32().chunks(4).zip(q.as_f32().chunks(4)).enumerate() {
            let most = before.iter().fold(0f32, |m, x| m.max(x.abs()));
            let step = if most == 0.0 { 1.0 } else { (most / largest).log2().ceil().exp2() / 2.0 };
            for (x, y) in before.iter().zip(after) {
                assert!((y / step).fract() == 0.0, "row {row}: {y} is no multiple of {step}");
                assert!((x - y).abs() <= 2.0 * step, "row {row}: {x} became {y}");
            }
        }
    }
}

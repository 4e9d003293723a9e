//! States of neurons in fixed point: on the grid after every step, the same on all back ends, and with slope 1 in training.

use snn_tests::Dice;
use snnc::{Backends, CompileOptions, FixedPoint, Program, Tensor, Tensors};

const NET: &str = "net main(x: f32[T, B, 6]) -> (s: f32[T, B, 6], h: f32[T, B, 6], z: f32[T, B, 6], v: f32[T, B, 6]) {
    layer back = linear(6, 6, bias = false)
    let rec h = lif(x + back(delay(h, 1)), tau = 3.0)
    layer n = lif(tau = 1.5)
    let s = n(x)
    (izhikevich(10 * x, a = 0.3, b = 0.2), h, cuba_lif(x) + 0 * s, n.v)
}";

fn input(steps: usize) -> Tensors {
    let mut n = Dice(3);
    Tensors::from([("x", Tensor::f32([steps, 2, 6], (0..steps * 12).map(|_| 2.0 * n.tame()).collect()))])
}

fn format(text: &str) -> FixedPoint {
    text.parse().unwrap()
}

#[test]
fn back_ends_agree_to_the_bit_and_steps_are_the_whole() {
    let program = Program::parse("fixed.snn", NET).unwrap();
    let x = input(40);
    for states in ["Q7.8", "Q0.3", "Q12.11"].map(format) {
        let run = |backend| {
            let options = CompileOptions::default().backend(backend).states(states).seed(1);
            program.compile(None, &options).unwrap().run(&x, &[]).unwrap().outputs
        };
        let plain = run(Backends::Interpreter);
        for backend in [Backends::Cranelift, Backends::CandleOperations] {
            for ((name, a), (_, b)) in plain.iter().zip(&run(backend)) {
                assert!(a.same_bits(b), "{states}, {backend:?}, {name}");
            }
        }
        let net = program.compile(None, &CompileOptions::default().states(states).seed(1)).unwrap();
        let stepper = net.stepper(&x, &[]).unwrap();
        let mut state = stepper.start();
        for ((name, a), (_, b)) in plain.iter().zip(&stepper.run(&mut state, &x).unwrap()) {
            assert!(a.same_bits(b), "{states}, {name}");
        }
        let mut states_seen = state.to_tensors();
        assert!(!states_seen.is_empty());
        // A state is the same where it is a result.
        states_seen.extend(plain.iter().filter(|(n, _)| n == "v").cloned());
        for (name, t) in states_seen.iter().filter(|(n, _)| n != "steps") {
            let is_fixed =
                |x: &f32| (x / states.step()).fract() == 0.0 && *x >= -states.largest() - states.step() && *x <= states.largest();
            assert!(t.to_f32().iter().all(is_fixed), "{states}, {name}: {t}");
        }
    }
}

/// A sum that leaks has a gradient that does not depend on its values: rounding changes the values and nothing else.
#[test]
fn rounding_has_slope_one() {
    let text = "neuron leak(x) {
    state v = 0.3
    v = 0.75 * v + x
    emit v
}
net main(x: f32[T, B, 6]) -> f32[] { sum(leak(x) * leak(x)[0]) }
net other(x: f32[T, B, 6]) -> f32[] { sum(leak(x)) }";
    let program = Program::parse("leak.snn", text).unwrap();
    let x = input(8);
    let run = |net, states: Option<FixedPoint>| {
        let options = CompileOptions::default().gradients(vec!["x".into()]).states(states);
        program.compile(Some(net), &options).unwrap().run(&x, &[]).unwrap().outputs
    };
    let (float, fixed) = (run("other", None), run("other", Some(format("Q4.4"))));
    assert_ne!(float.get("loss"), fixed.get("loss"));
    assert_eq!(float.get("grad.x"), fixed.get("grad.x"));
    let (float, fixed) = (run("main", None), run("main", Some(format("Q4.4"))));
    assert_ne!(float.get("grad.x"), fixed.get("grad.x"), "the values are those that were rounded");
}

#[test]
fn states_are_measured() {
    let program = Program::parse("fixed.snn", NET).unwrap();
    let net = program.compile(None, &CompileOptions::default().seed(1)).unwrap();
    let found = net.largest_states(&input(40), &[]).unwrap();
    let names: Vec<&str> = found.iter().map(|(n, _)| n.as_str()).collect();
    assert!(names.contains(&"izhikevich.v") && names.contains(&"cuba_lif.v"), "{names:?}");
    assert!(found.iter().all(|(_, x)| x.is_finite() && *x > 0.0), "{found:?}");
}

//! Training: PyTorch's numbers for each optimiser, resuming bit for bit, and what stops it.

use snn_train::checkpoint::Identity;
use snn_train::{DataSet, Epoch, Optimizer, Outcome, Part, Schedule, Settings, State, Step, TrainError, Update, Watcher, train};
use snnc::{Backends, CompileOptions, DeviceName, Error, Precision, Program, Tensor, Trainer, load};

const CANDLE: Backends = Backends::Candle(DeviceName::Cpu, Precision::F32);

const REGRESSION: &str = "net loss(x: f32[B, 5], y: f32[B, 3]) -> f32[] {
    layer fc = linear(5, 3)
    mse_loss(tanh(fc(x)), y)
}";

/// Runs until a number of steps is done.
struct Until(u64, Vec<f64>);

impl Watcher<Error> for Until {
    fn step(&mut self, _: usize, _: (usize, usize), _: usize, _: f64) -> bool {
        self.0 -= 1;
        self.0 > 0
    }

    fn epoch(&mut self, epoch: &Epoch, _: &mut State) -> Result<bool, Error> {
        self.1.push(epoch.loss);
        Ok(true)
    }
}

fn settings(update: Update, learning_rate: f64) -> Settings {
    Settings { epochs: 5, batch: 3, learning_rate, schedule: Schedule::Constant, shuffle: false, seed: 0, update, clock: vec![], during: 0 }
}

fn trainer(text: &str, update: Update, backend: Backends) -> Trainer {
    let program = Program::parse("train.snn", text).unwrap_or_else(|e| panic!("{e}"));
    let options = CompileOptions::default().update(update).backend(backend);
    Trainer::new(&program, "loss", &options).unwrap_or_else(|e| panic!("{e}"))
}

fn golden() -> Vec<(String, Tensor)> {
    load(&format!("{}/golden/optimizers.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn get(all: &[(String, Tensor)], name: &str) -> Tensor {
    all.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1.clone()
}

fn regression() -> (DataSet, Vec<(String, Tensor)>) {
    let golden = golden();
    let data = ["x", "y"].map(|n| (n.to_string(), get(&golden, n))).to_vec();
    let weights = ["fc.weight", "fc.bias"].map(|n| (n.to_string(), get(&golden, &format!("start.{n}")))).to_vec();
    (DataSet::new(data).unwrap(), weights)
}

#[test]
fn twenty_steps_are_pytorchs() {
    let golden = golden();
    let plain = |optimizer, weight_decay| Update { weight_decay, ..Update::from(optimizer) };
    let groups = |optimizer, weight_decay, rates: &[(&str, f64)], decays: &[(&str, f64)]| {
        let owned = |all: &[(&str, f64)]| all.iter().map(|(p, x)| (p.to_string(), *x)).collect();
        Update { weight_decay, learning_rates: owned(rates), weight_decays: owned(decays), ..Update::from(optimizer) }
    };
    let cases = [
        ("adam", plain(Optimizer::ADAM, 0.0), 0.02, Schedule::Constant),
        ("adam_decay", plain(Optimizer::ADAM, 0.1), 0.02, Schedule::Constant),
        ("adamw", plain(Optimizer::ADAM_W, 0.01), 0.02, Schedule::Constant),
        ("sgd", plain(Optimizer::Sgd { momentum: 0.0 }, 0.0), 0.1, Schedule::Constant),
        ("sgd_momentum", plain(Optimizer::Sgd { momentum: 0.9 }, 0.01), 0.05, Schedule::Constant),
        ("sgd_clip", Update { clip_norm: Some(0.3), ..plain(Optimizer::Sgd { momentum: 0.0 }, 0.0) }, 0.5, Schedule::Constant),
        ("adam_cosine", plain(Optimizer::ADAM, 0.0), 0.05, Schedule::Cosine),
        ("adamw_groups", groups(Optimizer::ADAM_W, 0.05, &[("*.bias", 0.1)], &[("*.bias", 0.0)]), 0.02, Schedule::Constant),
        (
            "adamw_groups_cosine",
            groups(Optimizer::ADAM_W, 0.05, &[("fc.*", 9.0), ("fc.b*", 0.1), ("fc.weight", 0.02)], &[]),
            7.0,
            Schedule::Cosine,
        ),
        ("sgd_groups", groups(Optimizer::Sgd { momentum: 0.9 }, 0.1, &[], &[("fc.bias", 0.0)]), 0.05, Schedule::Constant),
        ("adam_frozen", Update { frozen: vec!["*.weight".into()], ..Update::from(Optimizer::ADAM) }, 0.02, Schedule::Constant),
        (
            "sgd_frozen_clip",
            Update { clip_norm: Some(0.3), frozen: vec!["*.weight".into()], ..Update::from(Optimizer::Sgd { momentum: 0.0 }) },
            0.5,
            Schedule::Constant,
        ),
    ];
    for (name, update, rate, schedule) in cases {
        for backend in [Backends::Interpreter, Backends::Cranelift, CANDLE] {
            let (data, weights) = regression();
            let mut trainer = trainer(REGRESSION, update.clone(), backend);
            let (mut state, _) = trainer.start(&data.batch(&[0, 1, 2]), &weights).unwrap();
            let settings = Settings { schedule, ..settings(update.clone(), rate) };
            let mut watcher = Until(u64::MAX, vec![]);
            assert_eq!(train(&mut trainer, &data, &settings, &mut state, &mut watcher).unwrap(), Outcome::Finished);
            for parameter in ["fc.weight", "fc.bias"] {
                let (got, want) = (get(&state.tensors, parameter), get(&golden, &format!("{name}.{parameter}")));
                for (a, b) in got.as_f32().iter().zip(want.as_f32()) {
                    assert!((a - b).abs() < 2e-6 * (1.0 + b.abs()), "{name}, {parameter}, {backend:?}:\n{got}\n{want}");
                }
            }
            let losses = get(&golden, &format!("{name}.losses"));
            let last = losses.as_f32()[16..].iter().sum::<f32>() / 4.0;
            assert!((watcher.1[4] - f64::from(last)).abs() < 1e-5, "{name}");
        }
    }
}

#[test]
fn a_pattern_is_there_for_something() {
    let (data, _) = regression();
    let error = |update: Update| trainer(REGRESSION, update, Backends::Interpreter).start(&data.batch(&[0]), &[]).unwrap_err().to_string();
    let plain = || Update::from(Optimizer::ADAM);
    insta::assert_snapshot!(
        [
            error(Update { frozen: vec!["fc.*".into(), "encoder.*".into()], ..plain() }),
            error(Update { learning_rates: vec![("weight".into(), 0.1)], ..plain() }),
            error(Update { weight_decays: vec![("*norm*".into(), 0.0)], ..plain() }),
            error(Update { frozen: vec!["*".into()], ..plain() }),
        ]
        .join("\n")
    );
}

/// Spikes, random numbers, batch norm's buffers and a smaller last batch.
const SPIKING: &str = "net loss(x: f32[B, 5], y: f32[B, 3]) -> f32[] {
    layer a = linear(5, 8)
    layer n = batch_norm1d(8)
    layer fc = linear(8, 3)
    let h = n(a(x)) |> repeat(4) |> lif(surrogate = atan())
    mse_loss(mean(fc(dropout(h, 0.25)), axis = 0), y)
}";

#[test]
fn a_resumed_training_is_the_uninterrupted_one() {
    resume(Backends::Cranelift, 1);
    // What moves is held by the backend between steps, and must be fetched in time.
    resume(CANDLE, 1);
}

#[test]
fn a_resumed_run_goes_on_within_a_group_of_batches() {
    resume(Backends::Cranelift, 2);
}

fn resume(backend: Backends, accumulate: usize) {
    let update = Update { clip_norm: Some(1.0), accumulate, ..Update::from(Optimizer::ADAM) };
    let settings = Settings { batch: 5, shuffle: true, seed: 7, ..settings(update.clone(), 0.01) };
    let identity = Identity { numbers: vec![("seed", 7)], ..Identity::default() };
    let (data, _) = regression();
    let start = || {
        let trainer = trainer(SPIKING, update.clone(), backend);
        let state = trainer.start(&data.batch(&[0, 1, 2]), &[]).unwrap().0;
        (trainer, state)
    };
    let (mut whole, mut expected) = start();
    let mut watcher = Until(u64::MAX, vec![]);
    train(&mut whole, &data, &settings, &mut expected, &mut watcher).unwrap();
    // Stopped in the middle of an epoch, and at its end.
    for steps in [1, 3, 7, 14] {
        let (mut first, mut state) = start();
        assert_eq!(train(&mut first, &data, &settings, &mut state, &mut Until(steps, vec![])).unwrap(), Outcome::Stopped);
        assert_eq!(state.progress.step, steps);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        snnc::save(&path, &state.to_tensors(&identity)).unwrap();
        let (mut second, fresh) = start();
        let mut state = State::from_tensors(load(&path.display().to_string()).unwrap(), &fresh, &identity, 3, false).unwrap_or(state);
        let mut rest = Until(u64::MAX, vec![]);
        train(&mut second, &data, &settings, &mut state, &mut rest).unwrap();
        for (name, want) in &expected.tensors {
            assert!(get(&state.tensors, name).same_bits(want), "{name} after {steps} steps");
        }
        assert_eq!(rest.1.last(), watcher.1.last());
    }
}

#[test]
fn checkpoints_of_other_trainings_are_refused() {
    let update = Update::from(Optimizer::ADAM);
    let (data, _) = regression();
    let state = |text| trainer(text, update.clone(), Backends::Interpreter).start(&data.batch(&[0, 1]), &[]).unwrap().0;
    let (a, b) = (state(REGRESSION), state(SPIKING));
    let seed = |n| Identity { numbers: vec![("seed", n)], floats: vec![("learning_rate", 0.1)], ..Identity::default() };
    let kept = a.to_tensors(&seed(1));
    let error = |kept: Vec<_>, fresh: &State, identity| State::from_tensors(kept, fresh, &identity, 3, false).unwrap_err().to_string();
    let mut broken = kept.clone();
    broken.retain(|(n, _)| n != "checkpoint.step");
    let with = |name: &str, value: i64| {
        let mut kept = kept.clone();
        kept.iter_mut().filter(|(n, _)| n == name).for_each(|(_, t)| *t = Tensor::i64([], vec![value]));
        kept
    };
    let mut integers = kept.clone();
    integers.iter_mut().filter(|(n, _)| !n.starts_with("checkpoint.")).for_each(|(_, t)| *t = Tensor::i64(t.shape(), vec![0; t.len()]));
    let faster = Identity { floats: vec![("learning_rate", 0.2)], ..seed(1) };
    let report = [
        error(kept.clone(), &a, seed(2)),
        error(kept.clone(), &a, faster),
        error(kept.clone(), &b, seed(1)),
        error(broken, &a, seed(1)),
        error(with("checkpoint.epoch", -1), &a, seed(1)),
        error(with("checkpoint.batch", 4), &a, seed(1)),
        error(integers, &a, seed(1)),
    ];
    insta::assert_snapshot!(report.join("\n"));
}

#[test]
fn accumulated_gradients_are_those_of_a_larger_batch() {
    let optimizers = [Optimizer::ADAM, Optimizer::ADAM_W, Optimizer::Sgd { momentum: 0.9 }];
    for optimizer in optimizers {
        let update = |accumulate| Update { accumulate, clip_norm: Some(0.5), weight_decay: 0.1, ..Update::from(optimizer) };
        let (data, weights) = regression();
        // 12 samples: batches of 2 in groups of 3, and of 5 in a group of 3 whose last batch has 2.
        for (batch, accumulate, whole) in [(2, 3, 6), (5, 3, 12)] {
            let run = |batch, accumulate| {
                let mut step = trainer(REGRESSION, update(accumulate), Backends::Cranelift);
                let (mut state, _) = step.start(&data.batch(&[0, 1]), &weights).unwrap();
                let settings = Settings { batch, ..settings(update(accumulate), 0.05) };
                train(&mut step, &data, &settings, &mut state, &mut Until(u64::MAX, vec![])).unwrap();
                state
            };
            let (small, large) = (run(batch, accumulate), run(whole, 1));
            assert_eq!(small.progress.updates, large.progress.updates);
            for name in ["fc.weight", "fc.bias"] {
                let (a, b) = (get(&small.tensors, name), get(&large.tensors, name));
                let off = a.as_f32().iter().zip(b.as_f32()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(off < 1e-5, "{optimizer:?} {batch} {name}: {off}");
                assert_ne!(a, get(&weights, name), "it moves");
            }
        }
    }
}

#[test]
fn the_loss_knows_the_epoch() {
    let text = "net loss(x: f32[B, 5], y: f32[B, 3], epoch: i64[], epochs: f32[]) -> (loss: f32[], at: f32[]) {
        layer fc = linear(5, 3)
        (mse_loss(fc(x), y), f32(epoch) / epochs)
    }";
    let program = Program::parse("train.snn", text).unwrap();
    let clock = snn_train::clock_inputs(program.signature("loss").unwrap(), |_| false);
    assert_eq!(clock.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["epoch", "epochs"]);
    let update = Update::from(Optimizer::ADAM);
    let (data, weights) = regression();
    let mut step = trainer(text, update.clone(), Backends::Cranelift);
    let first: Vec<_> = data.batch(&[0]).into_iter().chain(snn_train::clock(&clock, 0, 5)).collect();
    let (mut state, _) = step.start(&first, &weights).unwrap();
    struct Seen(Vec<f64>, Vec<usize>);
    impl Watcher<Error> for Seen {
        fn step(&mut self, _: usize, _: (usize, usize), _: usize, _: f64) -> bool {
            true
        }
        fn during(&mut self, _: usize, (done, _): (usize, usize), _: &mut State) -> Result<bool, Error> {
            self.1.push(done);
            Ok(true)
        }
        fn epoch(&mut self, epoch: &Epoch, _: &mut State) -> Result<bool, Error> {
            self.0.push(epoch.metrics[0].1);
            Ok(true)
        }
    }
    let mut seen = Seen(vec![], vec![]);
    let settings = Settings { clock, during: 3, epochs: 2, ..settings(update, 0.1) };
    train(&mut step, &data, &settings, &mut state, &mut seen).unwrap();
    assert_eq!(seen.0, [0.0, 0.5]);
    // Four batches: after three of them, in each epoch.
    assert_eq!(seen.1, [3, 3]);
}

#[test]
fn what_does_not_fit_is_said_before_anything_moves() {
    let update = Update::from(Optimizer::ADAM);
    let (data, _) = regression();
    let mut step = trainer(REGRESSION, update.clone(), Backends::Interpreter);
    let (mut state, _) = step.start(&data.batch(&[0]), &[]).unwrap();
    let mut run = |batch| {
        let settings = Settings { batch, ..settings(update.clone(), 0.1) };
        train(&mut step, &data, &settings, &mut state, &mut Until(9, vec![])).unwrap_err().to_string()
    };
    assert_eq!(run(13), TrainError::BatchTooLarge { batch: 13, samples: 12 }.to_string());
    assert_eq!(run(0), TrainError::BatchOfNothing.to_string());
}

#[test]
fn a_loss_that_is_no_number_stops_and_names_the_place() {
    let text = "net loss(x: f32[B, 5], y: f32[B, 3]) -> f32[] {
    layer fc = linear(5, 3)
    layer out = lif()
    let h = log(fc(x) - 100.0)
    mean(h) + mean(out(repeat(y, 2)))
}";
    let update = Update::from(Optimizer::ADAM);
    let (data, _) = regression();
    let mut step = trainer(text, update.clone(), Backends::Cranelift);
    let (mut state, _) = step.start(&data.batch(&[0]), &[]).unwrap();
    let before = get(&state.tensors, "fc.weight");
    let outcome = train(&mut step, &data, &settings(update, 0.1), &mut state, &mut Until(99, vec![])).unwrap();
    let Outcome::NotFinite { step: 1, samples, seed, .. } = outcome else { panic!("{outcome:?}") };
    assert!(get(&state.tensors, "fc.weight").same_bits(&before));
    let place = step.diagnose(&data.batch(&samples), &state.tensors, seed).unwrap().unwrap();
    assert_eq!(place, "`log`, at or after the layer `fc`");
}

/// The trainer is a step like any other.
#[test]
fn a_step_moves_every_parameter_but_those_without_gradient() {
    let text = "net loss(x: f32[B, 5], y: f32[B, 3]) -> (loss: f32[], error: f32[]) {
    layer fc = linear(5, 3)
    layer unused = linear(5, 3)
    let e = mse_loss(fc(x), y)
    (e + 0.0 * sum(detach(unused(x))), e)
}";
    let update = Update { weight_decay: 0.5, ..Update::from(Optimizer::ADAM_W) };
    let (data, _) = regression();
    let mut step = trainer(text, update.clone(), Backends::Cranelift);
    let (mut state, independent) = step.start(&data.batch(&[0]), &[]).unwrap();
    assert_eq!(independent, ["unused.weight", "unused.bias"]);
    let before = state.tensors.clone();
    state.tensors.retain(|(n, _)| !["optimizer.step_size", "optimizer.correction", "optimizer.decay"].contains(&n.as_str()));
    state.tensors.extend(update.numbers(0.1, |rate| rate, 1, Part::WHOLE));
    let result = step.step(&data.batch(&[0, 1]), &mut state.tensors, 0).unwrap();
    assert_eq!(result.metrics.len(), 1);
    assert!((result.metrics[0].1 - result.loss).abs() < 1e-6);
    assert_ne!(get(&before, "fc.weight"), get(&state.tensors, "fc.weight"));
    assert_eq!(get(&before, "unused.weight"), get(&state.tensors, "unused.weight"));
}

/// Straight-through: the loss and its gradient are those of the rounded weights, and the gradient moves the weights that were rounded.
#[test]
fn training_with_rounded_weights_is_straight_through() {
    use snnc::quantise::{WeightBits, quantised};
    let update = || Update::from(Optimizer::Sgd { momentum: 0.0 });
    let (data, start) = regression();
    let batch = data.batch(&[0, 1, 2]);
    let one = |weights_dtype, weights: &[(String, Tensor)], backend| {
        let program = Program::parse("train.snn", REGRESSION).unwrap();
        let options = CompileOptions::default().update(update()).backend(backend).weights_dtype(weights_dtype);
        let mut step = Trainer::new(&program, "loss", &options).unwrap();
        let (mut state, independent) = step.start(&batch, weights).unwrap();
        assert!(independent.is_empty());
        assert_eq!(get(&state.tensors, "fc.weight"), get(weights, "fc.weight"), "what training moves is not rounded");
        state.tensors.extend(update().numbers(0.1, |rate| rate, 1, Part::WHOLE));
        let loss = step.step(&batch, &mut state.tensors, 0).unwrap().loss;
        (loss, state.tensors)
    };
    for bits in [WeightBits::I8, WeightBits::I16] {
        let rounded = quantised(&get(&start, "fc.weight"), bits);
        assert_ne!(rounded, get(&start, "fc.weight"));
        let weights = vec![("fc.weight".to_string(), rounded.clone()), start[1].clone()];
        let (loss, expected) = one(None, &weights, Backends::Cranelift);
        for backend in [Backends::Cranelift, Backends::Interpreter] {
            let (found_loss, found) = one(Some(bits), &start, backend);
            assert!((loss - found_loss).abs() < 1e-6, "{loss} {found_loss}");
            assert_close(&get(&expected, "fc.bias"), &get(&found, "fc.bias"));
            let moved = |to: &Tensor, from: &Tensor| -> Vec<f32> { to.as_f32().iter().zip(from.as_f32()).map(|(t, f)| t - f).collect() };
            let should = moved(&get(&expected, "fc.weight"), &rounded);
            let does = moved(&get(&found, "fc.weight"), &get(&start, "fc.weight"));
            assert!(should.iter().any(|d| d.abs() > 1e-4), "it moves");
            assert!(should.iter().zip(&does).all(|(a, b)| (a - b).abs() < 1e-6), "{should:?} {does:?}");
        }
    }
}

fn assert_close(a: &Tensor, b: &Tensor) {
    assert!(a.as_f32().iter().zip(b.as_f32()).all(|(x, y)| (x - y).abs() < 1e-6), "{a:?} {b:?}");
}

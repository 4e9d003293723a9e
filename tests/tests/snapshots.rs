//! Every stage of the compiler and every diagnostic, as text.

use insta::{assert_snapshot, with_settings};
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
fn stages() {
    let program = Program::parse("model.snn", MODEL).unwrap();
    assert_snapshot!("ast_of_every_helper", snn_syntax::dump(&program.module().ast));
    assert_snapshot!("ir_of_every_helper_in_training", graph(MODEL, Mode::Train, &[]));
    assert_snapshot!("ir_of_every_helper_in_evaluation", graph(MODEL, Mode::Eval, &[]));
    assert_snapshot!("ir_of_a_recurrent_net", graph(RECURRENT, Mode::Eval, &[]));
    assert_snapshot!("dot_of_a_recurrent_net", snn_ir::dot::dot(&graph(RECURRENT, Mode::Eval, &[])));
    let bound = graph(RECURRENT, Mode::Eval, &[("T", 3), ("B", 2)]);
    assert_snapshot!("ir_with_sizes", bound);
}

#[test]
fn optimised() {
    let options = |explain| snn_opt::Options { explain, ..snn_opt::Options::default() };
    let graph = graph(MODEL, Mode::Eval, &[("T", 6)]);
    assert_snapshot!("opt_of_every_helper", snn_opt::optimise(&graph, &options(false)).unwrap().graph);
    assert_snapshot!("opt_explained", snn_opt::optimise(&graph, &options(true)).unwrap().report);
    let small = "net main(x: f32[T]) -> f32[T] { x |> delay(1) |> delay(2) }";
    let program = Program::parse("small.snn", small).unwrap();
    let graph = program.lower(None, &Options { mode: Mode::Eval, dims: Dims::new(), rest: None, ..Default::default() }).unwrap();
    assert_snapshot!("e_graph_of_two_delays", snn_opt::e_graph_dot(&graph, &options(false)).unwrap());
}

#[test]
fn graphs_read_back_from_their_text() {
    for text in [MODEL, RECURRENT] {
        for mode in [Mode::Eval, Mode::Train] {
            let printed = graph(text, mode, &[]).to_string();
            let back = snn_ir::text::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
            snn_ir::verify(&back).unwrap();
            assert_eq!(back.to_string(), printed);
        }
    }
    assert!(snn_ir::text::parse("graph a {\n  %0: f32[T] = nonsense\n}").unwrap_err().to_string().contains("line 2"));
}

/// Code for x86-64 and AArch64 starts from the same CLIF, so one machine's is as good as another's.
#[test]
fn clif() {
    let lif = "net main(x: f32[T, N]) -> f32[T, N] { x |> lif(surrogate = atan()) }";
    let listing = snn_cpu::listing(&graph(lif, Mode::Eval, &[("T", 4), ("N", 64)]), snn_cpu::Listing::Clif).unwrap();
    // The calling convention is the machine's.
    let listing = listing.replace(" system_v ", " ").replace(" apple_aarch64 ", " ").replace(" windows_fastcall ", " ");
    assert_snapshot!("clif_of_a_lif_neuron", listing);
}

fn diagnostics(text: &str) -> String {
    match Program::parse("model.snn", text) {
        Ok(program) => {
            let found = program.check(Mode::Eval);
            assert!(!found.is_empty(), "nothing is wrong with\n{text}");
            program.render(&found, false)
        }
        Err(e) => e.to_string(),
    }
}

#[test]
fn every_diagnostic() {
    let net = |body: &str| format!("net main(x: f32[T, B, 4], label: i64[B]) -> f32[T, B, 4] {{\n    {body}\n}}\n");
    let cases: Vec<(&str, String)> = vec![
        ("syntax_error", "net main(x: f32[T]) -> f32[T] {\n    let y = (x +\n}\n".into()),
        ("unknown_name", net("lif(y)")),
        ("unknown_function_with_the_nearest", net("x |> lfi()")),
        ("unknown_setting", net("label\n    x |> lif(taau = 3.0)")),
        ("missing_setting", net("layer fc = linear(4)\n    x |> fc")),
        ("setting_at_the_application", net("layer n = lif()\n    n(x, tau = 3.0)")),
        ("setting_given_twice", net("x |> lif(2.0, tau = 3.0)")),
        ("too_many_arguments", net("x |> delay(1, 2)")),
        ("shape_of_a_layer", net("layer fc = linear(5, 4)\n    x |> fc")),
        ("shapes_of_a_sum", net("x + zeros([3])")),
        ("shape_of_the_result", net("sum(x, axis = -1)")),
        ("type_of_the_result", net("x > 0")),
        ("shapes_of_a_product", net("x @ zeros([3, 4])")),
        ("cycle_without_a_delay", net("let rec h = lif(x + h)\n    h")),
        ("recursion_that_mixes_steps", net("let rec h = lif(x + mean(delay(h, 1), axis = 0))\n    h")),
        ("negative_delay", net("x |> delay(-1)")),
        ("delay_that_is_not_known", net("x |> delay(0.5)")),
        ("layer_without_a_layer_line", net("x |> linear(4, 4)")),
        ("two_parameters_of_one_name", "net a(x: f32[B, 2]) -> f32[B, 2] {\n    layer f = linear(2, 2)\n    f(x)\n}\nnet b(x: f32[B, 2]) -> f32[B, 2] {\n    layer f = linear(2, 2)\n    f(a(x))\n}\n".into()),
        ("margin_of_something_else", net("set_threshold_margin(x, one_hot(label, 4))\n    x")),
        ("margin_of_a_layer_without_a_threshold", net("layer n = non_spiking_lif()\n    set_threshold_margin(n, one_hot(label, 4))\n    x |> n")),
        ("margin_of_another_shape", "net main(x: f32[T, B, 4], label: i64[B]) -> f32[T, B, 4] {\n    layer n = lif()\n    set_threshold_margin(n, one_hot(label, 3))\n    x |> n\n}\n".into()),
        ("kaiming_without_layers", net("kaiming_normal_conv_linear_weight(net)\n    x |> lif()")),
        ("no_classes", net("redundant_one_hot(label, 0, 1)")),
        ("state_before_it_is_known", net("layer n = lif()\n    n.v")),
        ("unknown_field", net("layer n = lif()\n    let y = n(x)\n    n.u")),
        ("assignment_to_no_state", net("let y = x\n    y = lif(x)\n    y")),
        ("emit_outside_of_a_neuron", net("emit x\n    x")),
        ("neuron_that_emits_nothing", "neuron n(x) {\n    state v = 0.0\n    v = v + x\n}\n".into()),
        ("sum_inside_of_a_neuron", "neuron n(x) {\n    emit sum(x)\n}\n".into()),
        ("unused_layer_and_input", net("layer fc = linear(4, 4)\n    x |> lif()")),
        ("unused_setting", "neuron n(x; tau = 2.0) {\n    emit x\n}\n".into()),
        ("first_spike_along_the_wrong_dimension", "net main(x: f32[T, B]) -> bool[T, B] {\n    first_spike_index(x)\n}\n".into()),
        ("delay_along_the_wrong_dimension", "net main(x: f32[B, T]) -> f32[B, T] {\n    delay(x, 1)\n}\n".into()),
        ("errors_that_do_not_depend_on_each_other", net("let a = y\n    let b = z\n    a + b")),
        ("error_inside_of_the_library", net("mse_loss(x, zeros([3]))")),
        ("condition_that_is_no_condition", net("if [1, 2] { x } else { x }")),
        ("index_out_of_range", net("x[..., 4]")),
        ("division_by_zero", net("x * (1 / 0)")),
    ];
    for (name, text) in cases {
        let shown = diagnostics(&text);
        with_settings!({ description => text, omit_expression => true }, {
            assert_snapshot!(format!("diagnostic_{name}"), shown);
        });
    }
}

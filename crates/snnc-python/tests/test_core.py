"""The core with NumPy alone: compile, run, gradients, files, errors."""

import pathlib
import warnings
import sys
import threading

import numpy as np
import pytest

import snnc

FC = """
net main(x: f32[T, B, 4]) -> (spikes: f32[T, B, 3], rate: f32[B, 3]) {
    layer fc1 = linear(4, 8)
    layer fc2 = linear(8, 3)
    let s = x |> fc1() |> lif(tau = 2.0) |> fc2() |> lif()
    (s, mean(s, axis = 0))
}
net loss(x: f32[T, B, 4], label: i64[B]) -> f32[] {
    let (s, rate) = main(x)
    cross_entropy(rate, label)
}
"""


def numpy_lif(x, tau=2.0):
    v, out = np.zeros_like(x[0]), []
    for row in x:
        v = v + (row - v) / np.float32(tau)
        s = (v >= 1).astype(np.float32)
        v = np.where(s > 0, np.float32(0), v)
        out.append(s)
    return np.stack(out)


def test_a_neuron_is_its_equation():
    x = np.random.default_rng(0).random((20, 3, 5), dtype=np.float32) * 3
    net = snnc.compile("net main(x: f32[T, B, N]) -> f32[T, B, N] { x |> lif() }")
    assert (net(x) == numpy_lif(x)).all()


def test_several_outputs_are_a_named_tuple_and_inputs_go_by_name():
    net = snnc.compile(FC, net="main", seed=3)
    x = np.random.default_rng(1).random((6, 2, 4), dtype=np.float32) * 4
    out = net(x=x)
    assert out._fields == ("spikes", "rate") and out.spikes.shape == (6, 2, 3)
    assert np.allclose(out.rate, out.spikes.mean(0))
    assert [(d.name, d.dtype, list(d.shape)) for d in net.inputs] == [("x", "f32", ["T", "B", "4"])]
    assert {d.name for d in net.parameters} == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


def test_gradients_are_differences():
    text = "net main(x: f32[B, 3]) -> f32[] { layer fc = linear(3, 2)\n sum(tanh(fc(x)) ^ 2) }"
    rng = np.random.default_rng(2)
    w = {"fc.weight": rng.standard_normal((2, 3)).astype("f"), "fc.bias": rng.standard_normal(2).astype("f")}
    net = snnc.compile(text, weights=w)
    x = rng.standard_normal((4, 3)).astype("f")
    loss, grads = net.value_and_grad(wrt=["fc.weight", "x"])(x)
    assert np.isclose(loss, net(x)) and set(grads) == {"fc.weight", "x"}
    for i in range(4):
        for j in range(3):
            up, down = x.copy(), x.copy()
            up[i, j] += 1e-2
            down[i, j] -= 1e-2
            assert abs((net(up) - net(down)) / 2e-2 - grads["x"][i, j]) < 2e-2


def test_element_types_are_converted_or_refused():
    net = snnc.compile("net main(x: f32[N]) -> f32[N] { x * 2.0 }")
    for dtype in ("f8", "f4", "f2", "i4", "u1", "?"):
        assert np.allclose(net(np.array([0, 1, 1]).astype(dtype)), [0, 2, 2])
    assert (net(np.arange(8, dtype="f")[::2]) == [0, 4, 8, 12]).all()
    with pytest.raises((TypeError, ValueError)):
        net(np.array(["a", "b"]))
    with pytest.raises((TypeError, ValueError)):
        net(np.array([1j]))


def test_bad_input_is_said():
    net = snnc.compile(FC, net="main")
    with pytest.raises(ValueError, match="x"):
        net(np.zeros((3, 2, 5), "f"))
    with pytest.raises((TypeError, ValueError), match="x"):
        net()
    with pytest.raises(TypeError, match="no input `y`"):
        net(y=np.zeros((3, 2, 4), "f"))
    with pytest.raises(TypeError, match="takes 1 inputs, not 2"):
        net(np.zeros((3, 2, 4), "f"), np.zeros(1))


def test_errors_of_programs_have_their_line():
    with pytest.raises(snnc.ProgramError) as e:
        snnc.compile("net main(x: f32[N]) -> f32[N] {\n    x + y\n}", file="mine.snn")
    assert "mine.snn:2" in str(e.value) and "x + y" in str(e.value) and "`y`" in str(e.value)
    assert isinstance(e.value, ValueError)
    with pytest.raises(FileNotFoundError):
        snnc.load("no-such-file.snn")


def test_files_and_weights_go_around(tmp_path):
    net = snnc.compile(FC, net="main", seed=1)
    x = np.random.default_rng(4).random((5, 2, 4), dtype=np.float32) * 4
    first = net(x)
    net.save(tmp_path / "m.snn", tmp_path / "m.safetensors")
    again = snnc.load(tmp_path / "m.snn", weights=tmp_path / "m.safetensors", net="main")
    assert (again(x).spikes == first.spikes).all()
    other = snnc.compile(FC, net="main", seed=2)
    other.weights = net.weights
    assert (other(x).spikes == first.spikes).all()
    with pytest.raises(ValueError, match="fc1.weight"):
        snnc.compile(FC, net="main", weights={"fc1.bias": np.zeros(8, "f")})(x)
    snnc.save_tensors(tmp_path / "x.npz", {"x": x})
    assert (snnc.load_tensors(tmp_path / "x.npz")["x"] == x).all()


def test_training_gives_the_new_buffers():
    net = snnc.compile("net main(x: f32[B, 3]) -> f32[B, 3] { layer bn = batch_norm(3)\n bn(x) }")
    x = np.random.default_rng(5).standard_normal((16, 3)).astype("f")
    y, updates = net.train(x)
    assert np.allclose(y.mean(0), 0, atol=1e-5)
    assert np.allclose(updates["bn.running_mean"], 0.1 * x.mean(0), atol=1e-6)


def test_settings_threads_and_stages():
    text = "net main(x: f32[T, N]; tau = 2.0) -> f32[T, N] { x |> lif(tau = tau) }"
    x = np.random.default_rng(6).random((9, 5), dtype=np.float32) * 3
    assert (snnc.compile(text, settings={"tau": 4.0})(x) == numpy_lif(x, 4.0)).all()
    net = snnc.compile(text)
    for stage in ("ast", "ir", "opt", "clif", "candle", "dot"):
        assert net.emit(stage, T=9, N=5).strip(), stage
    assert net.explain(T=9, N=5)
    assert "<svg" in net.graph(T=9, N=5)._repr_svg_()
    assert "<svg" in snnc.raster(net(x)).svg and "<svg" in snnc.trace(x, threshold=1.0).svg
    rows = net.profile(x)
    assert len(rows) >= 1 and "kernel" in repr(rows)


def test_many_threads_run_one_net():
    net = snnc.compile(FC, net="main", seed=1)
    xs = [np.random.default_rng(i).random((8, 3, 4), dtype=np.float32) * 4 for i in range(8)]
    want = [net(x).spikes for x in xs]
    got = [None] * 8

    def work(i):
        for _ in range(20):
            got[i] = net(xs[i]).spikes

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all((g == w).all() for g, w in zip(got, want))


def test_import_needs_no_torch():
    import subprocess

    code = "import sys, snnc; assert 'torch' not in sys.modules; snnc.compile('net main(x: f32[N]) -> f32[N] { x }')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_docstring_example():
    import doctest

    assert doctest.testmod(snnc).failed == 0


def test_nir_files(tmp_path):
    folder = pathlib.Path(__file__).parents[3] / "tests" / "nir"
    rows = np.loadtxt(folder / "lif_norse.csv", delimiter=",", dtype="f4")
    net = snnc.load(folder / "lif_norse.nir", preset="norse")
    assert (net(rows[:, :1, None]).ravel() == rows[:, 2]).all()
    with pytest.raises(ValueError, match="--integrator"):
        snnc.load(folder / "lif_norse.nir", dt=1e-4)
    with pytest.raises(ValueError, match="preset"):
        snnc.load(folder / "lif_norse.nir", preset="nobody")


def test_nir_graphs():
    nir = pytest.importorskip("nir")
    lif = nir.LIF(tau=np.array([2e-4, 3e-4]), r=np.ones(2), v_leak=np.zeros(2), v_threshold=np.ones(2))
    net = snnc.from_nir(nir.NIRGraph.from_list(nir.Affine(np.eye(2), np.zeros(2)), lif), preset="norse")
    x = np.full((6, 1, 2), 1.9, "f4")
    v, want = np.zeros(2), []
    for row in x[:, 0]:
        v = v + 1e-4 / lif.tau * (row - v)
        want.append(v > 1)
        v = np.where(v > 1, 0, v)
    assert (net(x)[:, 0] == np.array(want)).all() and np.sum(want) > 0


def test_nets_as_nir_graphs():
    nir = pytest.importorskip("nir")
    text = """net main(x: f32[T, B, 6]) -> f32[T, B, 3] {
        layer fc = linear(6, 3)
        layer rec = linear(3, 3)
        layer sn = lif(v_threshold = 0.1)
        let rec s: f32[T, B, 3] = sn(fc(x) + rec(delay(s, 1)))
        s
    }"""
    net = snnc.compile(text)
    graph = net.to_nir(dt=1e-3)
    assert isinstance(graph, nir.NIRGraph) and isinstance(graph.nodes["sn"], nir.LIF)
    with pytest.warns(UserWarning, match="takes one step"):
        again = snnc.from_nir(graph, **graph.metadata["snnc"])
    x = np.random.default_rng(0).random((30, 2, 6), dtype="f4")
    assert (net(x) == again(x)).all() and 0 < net(x).mean() < 1
    with pytest.raises(ValueError, match="dt"):
        net.to_nir()
    with pytest.raises(snnc.ProgramError, match="softmax"):
        snnc.compile("net main(x: f32[T, B, 6]) -> f32[T, B, 6] { softmax(x, axis = -1) }").to_nir(dt=1e-3)


def test_every_file_of_ours_is_read_by_the_package(tmp_path):
    nir = pytest.importorskip("nir")
    folder = pathlib.Path(__file__).parents[3] / "tests" / "nir"
    for name, preset in [("cnn_sinabs", "sinabs"), ("braille_noDelay_bias_zero", "snntorch"), ("two_lif_neurons", "norse")]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = snnc.load(folder / f"{name}.nir", preset=preset)
            graph = net.to_nir()
        nir.write(tmp_path / "again.nir", graph)
        assert set(nir.read(tmp_path / "again.nir").nodes) == set(graph.nodes)


def test_streams_are_the_whole():
    net = snnc.compile(FC.split("net loss")[0], seed=3)
    x = np.random.default_rng(0).random((12, 2, 4), dtype="f4") * 4
    whole = net(x)
    s = net.stream(batch=2)
    assert s.running == ["rate"] and [d.shape for d in s.inputs] == [["2", "4"]]
    for t in range(6):
        y = s(x[t])
        assert (y.spikes == whole.spikes[t]).all()
    kept = s.state
    rest = [s(x=x[t]) for t in range(6, 12)]
    assert (rest[-1].rate == whole.rate).all() and kept["steps"] == 6
    s.state = kept
    assert (np.stack([s(x[t]).spikes for t in range(6, 12)]) == whole.spikes[6:]).all()
    s.reset()
    assert (s(x[0]).spikes == whole.spikes[0]).all()
    with pytest.raises(ValueError, match=r"f32\[2, 4\]"):
        s(x[0, 0])
    with pytest.raises(TypeError, match="no input `y`"):
        s(y=x[0])
    with pytest.raises(ValueError, match="lacks `state"):
        s.state = {"steps": np.array(3)}
    with pytest.raises(snnc.ProgramError, match="step by step"):
        snnc.compile("net main(x: f32[T, 4]) { x[0] }").stream()


def test_a_net_is_built(tmp_path):
    net = snnc.compile("net main(x: f32[T, B, 4]) { layer fc = linear(4, 3) \n x |> fc |> lif() }", weights_dtype="i8", states="Q2.5")
    header, source = net.build(tmp_path / "c", name="toy", B=1)
    assert "void toy_step(" in header.read_text() and "int8_t state_lif_v[3]" in header.read_text() and "int8_t" in source.read_text()
    header, code = net.build(tmp_path / "o", target="object", triple="aarch64-unknown-linux-gnu", B=1, T=3)
    assert "void net_run(" in header.read_text() and code.read_bytes().startswith(b"\x7fELF")
    for options, said in [(dict(target="wasm"), "c and object are"), (dict(triple="x"), "is for target"), (dict(target="object", triple="sparc", B=1), "sparc")]:
        with pytest.raises(ValueError, match=said):
            net.build(tmp_path, **options)
    with pytest.raises(ValueError, match="--dims B="):
        net.build(tmp_path)
    # States on a grid of 1/32, and weights of 8 bits, as the command computes them.
    v = snnc.compile("net main(x: f32[T, B, 4]) { layer n = lif() \n n(x) \n n.v }", states="Q2.5")(np.full((3, 1, 4), 0.7, "f4"))
    assert (v * 32 == np.round(v * 32)).all()
    with pytest.raises(ValueError, match="Qm.n"):
        snnc.compile("net main(x: f32[T]) { lif(x) }", states="8")


def test_costs():
    net = snnc.compile("net main(x: f32[T, B, 4]) { layer fc = linear(4, 3, bias = false)\n x |> fc |> lif() }", {"fc.weight": np.ones((3, 4), "f4")})
    x = np.zeros((2, 2, 4), "f4")
    x[0, 0, :3] = 1
    cost = net.cost(x)
    assert cost["samples"] == 2 and cost["layers"][0]["name"] == "fc"
    assert cost["layers"][0]["dense_macs"] == 24 and cost["layers"][0]["effective_acs"] == 4.5 and cost["effective_macs"] == 0


RECORDED = sorted((pathlib.Path(__file__).parent / "recorded").glob("*.snn"))


@pytest.mark.parametrize("path", RECORDED, ids=[p.stem for p in RECORDED])
def test_recorded_imports(path):
    """Programs that `from_torch` made of live modules, with what the modules gave: `python tests/test_torch.py record` writes them."""
    arrays = dict(np.load(path.with_suffix(".npz")))
    part = lambda kind: {n[len(kind) + 1 :]: a for n, a in arrays.items() if n.startswith(kind + ".")}
    net = snnc.compile(path.read_text(), part("weight"), file=path.name)
    got = net(*[a for _, a in sorted(part("input").items())])
    got = list(got) if isinstance(got, tuple) else [got]
    want = [a for _, a in sorted(part("output").items())]
    assert len(got) == len(want)
    for g, w in zip(got, want):
        spikes = ((w == 0) | (w == 1) | (w == -1)).all()
        assert g.shape == w.shape and np.abs(np.asarray(g, "f4") - w).max() <= (0 if spikes else 1e-4 * max(1, np.abs(w).max()))


def test_there_are_recorded_imports():
    assert len(RECORDED) >= 20


def test_the_reference_is_true():
    """`python tests/reference.py` writes the page anew."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("reference", pathlib.Path(__file__).parent / "reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert reference.PAGE.read_text(encoding="utf-8") == reference.text()


def test_the_examples_of_docstrings():
    import doctest

    from snnc import _net

    found = doctest.testmod(_net)
    assert found.failed == 0 and found.attempted >= 10


def test_products_exact_and_bf16():
    text = "net main(x: f32[T, B, 64]) { layer fc = linear(64, 32) \n fc(x) }"
    x = np.random.default_rng(0).standard_normal((4, 8, 64)).astype("f4")
    plain = snnc.compile(text)
    weights = plain.weights
    exact = snnc.compile(text, weights, exact=True)(x)
    assert np.array_equal(exact, snnc.compile(text, weights, backend="interpreter")(x))
    assert np.allclose(exact, snnc.compile(text, weights)(x), atol=1e-5)
    for wrong in ({"dtype": "f16"}, {"dtype": "f8"}, {"exact": True, "backend": "candle"}, {"exact": True, "dtype": "bf16"}):
        with pytest.raises(ValueError):
            snnc.compile(text, weights, **wrong)
    try:
        near = snnc.compile(text, weights, dtype="bf16")(x)
    except Exception as error:
        assert "AVX512_BF16" in str(error)
    else:
        assert 0 < np.abs(near - exact).max() < 0.05

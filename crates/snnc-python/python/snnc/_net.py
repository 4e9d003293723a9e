"""Nets: compiled programs that are called like functions."""

import keyword
import json
import os
import pathlib
import tempfile
import warnings
from collections import namedtuple


from . import _native
from ._arrays import like, to_numpy

Described = namedtuple("Described", "name dtype shape")


class Picture:
    """An SVG, which notebooks show."""

    def __init__(self, svg):
        self.svg = svg

    def _repr_svg_(self):
        return self.svg

    def save(self, path):
        """Writes the SVG into a file."""
        pathlib.Path(path).write_text(self.svg)


def _as_weights(weights):
    if weights is None:
        return {}
    if isinstance(weights, (str, os.PathLike)):
        return _native.load_tensors(os.fspath(weights))
    return {name: to_numpy(name, w) for name, w in weights.items()}


def _field(name, taken):
    clean = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    if not clean.isidentifier() or keyword.iskeyword(clean) or clean.startswith("_") or clean in taken:
        clean = f"f_{clean}"
    return clean


class Net:
    """A compiled net.

    Call it with its inputs, by position or by name; NumPy arrays, torch tensors or anything with DLPack go in, and the same kind comes out. One
    output is an array, several are a named tuple.
    """

    def __init__(self, native, module=None):
        self._native = native
        self._inputs = [Described(*i) for i in native.inputs]
        self._tuples = {}
        self._variants = {}
        # Layers of the module that it was made from, and their inputs' layout.
        self._module = module

    def __repr__(self):
        inputs = ", ".join(f"{i.name}: {i.dtype}[{', '.join(i.shape)}]" for i in self._inputs)
        return f"<snnc net {self._native.name}({inputs})>"

    @property
    def name(self):
        """The name of the net in its program."""
        return self._native.name

    @property
    def source(self):
        """The text of the program."""
        return self._native.source

    @property
    def inputs(self):
        """Names, element types and shapes of the inputs, in order; sizes that data give are names."""
        return list(self._inputs)

    @property
    def outputs(self):
        """Names, element types and shapes of the outputs."""
        return [Described(*o) for o in self._native.described()[0]]

    @property
    def parameters(self):
        """Names, element types and shapes of parameters and buffers."""
        return [Described(*p[:3]) for p in self._native.described()[1]]

    @property
    def weights(self):
        """Parameters and buffers by name; those that were not given are drawn by the first run."""
        return self._native.weights

    @weights.setter
    def weights(self, new):
        self._native.set_weights(_as_weights(new))
        self._variants.clear()

    def _gather(self, args, kwargs):
        """Inputs by name as arrays, and one of them as it was given."""
        if len(args) > len(self._inputs):
            raise TypeError(f"`{self.name}` takes {len(self._inputs)} inputs, not {len(args)}")
        given = {d.name: a for d, a in zip(self._inputs, args)}
        for name, value in kwargs.items():
            if name in given:
                raise TypeError(f"the input `{name}` is given twice")
            if all(d.name != name for d in self._inputs):
                names = ", ".join(d.name for d in self._inputs)
                raise TypeError(f"`{self.name}` has no input `{name}`; it has: {names}")
            given[name] = value
        example = next(iter(given.values()), None)
        return {d.name: to_numpy(d.name, given[d.name], d.dtype) for d in self._inputs if d.name in given}, example

    def _give(self, outputs, example):
        values = {name: like(example, a) for name, a in outputs.items()}
        if len(values) == 1:
            return next(iter(values.values()))
        names = tuple(values)
        if names not in self._tuples:
            fields = []
            for n in names:
                fields.append(_field(n, fields))
            self._tuples[names] = namedtuple("Outputs", fields)
        return self._tuples[names](*values.values())

    def __call__(self, *args, seed=None, **kwargs):
        """Runs the net: inputs in order or by name, NumPy, torch or DLPack; outputs of the same kind, several as a named tuple."""
        arrays, example = self._gather(args, kwargs)
        outputs, _ = self._native.run(arrays, seed)
        return self._give(outputs, example)

    def _variant(self, net=None, **options):
        key = (net, repr(sorted(options.items())))
        if key not in self._variants:
            self._variants[key] = self._native.variant(net, options)
        return self._variants[key]

    def train(self, *args, seed=0, **kwargs):
        """Runs the net in training: outputs, and the new values of buffers by name."""
        arrays, example = self._gather(args, kwargs)
        outputs, updates = self._variant(training=True).run(arrays, seed)
        return self._give(outputs, example), updates

    def value_and_grad(self, wrt=None, net=None, training=False):
        """A function of the inputs that gives the net's scalar and its gradients by name.

        `wrt` are inputs and parameters, all learnable parameters where it is not given; `net` is another net of the program, such as its loss.

        >>> import numpy as np, snnc
        >>> net = snnc.compile("net main(x: f32[2]) -> f32[] { param w: f32[2] = 3.0 * ones([2]) \\n sum(w * x * x) }")
        >>> value, grads = net.value_and_grad()(np.array([1.0, 2.0], "f4"))
        >>> float(value), grads["w"].tolist()
        (15.0, [1.0, 4.0])
        """
        native = self._variant(net, gradients=list(wrt or []), training=training)
        other = Net(native)

        def function(*args, seed=None, **kwargs):
            arrays, example = other._gather(args, kwargs)
            outputs, _ = native.run(arrays, seed)
            grads = {n[5:]: like(example, a) for n, a in outputs.items() if n.startswith("grad.")}
            return like(example, outputs["loss"]), grads

        return function

    def emit(self, stage="opt", **dims):
        """A stage of the compiler as text: ast, ir, grad, opt, plan, clif, asm, candle, dot or egraph. Sizes are given by name: `emit("clif", T=4, B=1)`."""
        return self._native.emit(stage, dims)

    def explain(self, **dims):
        """What the optimiser did, rule by rule."""
        return self._native.emit("explain", dims)

    def profile(self, *args, **kwargs):
        """What each kernel takes: a table, the longest first."""
        arrays, _ = self._gather(args, kwargs)
        return Profile(self._native.profile(arrays))

    def cost(self, *args, **kwargs):
        """Operations of each layer on some inputs, dense and effective, for one sample, with firing rates and energy: a dict as `snnc cost --json` prints it.

        >>> import numpy as np, snnc
        >>> net = snnc.compile("net main(x: f32[T, B, 4]) { layer fc = linear(4, 3) \\n x |> fc |> lif() }")
        >>> net.cost(np.ones((2, 1, 4), "f4"))["dense_macs"]
        24.0
        """
        arrays, _ = self._gather(args, kwargs)
        return json.loads(self._native.cost(arrays))

    def graph(self, **dims):
        """The graph as a picture."""
        return Picture(_native.graph_svg(self._native, dims))

    def _repr_svg_(self):
        return self.graph().svg

    def save(self, path, weights=None):
        """Writes the program, and the weights where a second path is given."""
        pathlib.Path(path).write_text(self.source)
        if weights is not None:
            _native.save_tensors(os.fspath(weights), self.weights)

    def stream(self, batch=1, inputs=None, **dims):
        """The net step by step: `s = net.stream(); y = s(x_t); s.state; s.reset()`. `batch` is the size of `B`, `inputs` are those without time, `dims` other sizes.

        A step takes and gives what a sequence has at one time, and any cut of a sequence gives the bits of the whole. What needs later steps raises
        `ProgramError` with its line; a reduction over time gives its value so far.

        >>> import numpy as np, snnc
        >>> s = snnc.compile("net main(x: f32[T, B, 2]) { x |> lif() |> delay(1) }").stream()
        >>> [s(np.full((1, 2), 2.5, "f4")).tolist() for _ in range(2)]
        [[[0.0, 0.0]], [[1.0, 1.0]]]
        """
        given, _ = self._gather((), inputs or {})
        return Stream(self, self._native.stream(given, {"B": batch, **dims}))

    def build(self, folder, target="c", triple=None, name="net", **dims):
        """Writes the net as C99, or with `target="object"` as an object file for this machine or for `triple`, with its header: `name` is the stem of
        files and functions. `dims` are all sizes, `B=1`; with `T` there is a function for whole sequences too. Gives the paths.

        >>> import snnc, tempfile
        >>> net = snnc.compile("net main(x: f32[T, B, 2]) { lif(x) }")
        >>> [p.name for p in net.build(tempfile.mkdtemp(), B=1)]
        ['net.h', 'net.c']
        """
        folder = pathlib.Path(folder)
        files = self._native.build(name, target, triple, dims)
        folder.mkdir(parents=True, exist_ok=True)
        for file, contents in files:
            (folder / file).write_bytes(contents)
        return [folder / file for file, _ in files]

    def to_nir(self, dt=None, integrator=None):
        """A graph of the Python package `nir`. `dt` is how many seconds a step is, which a net from a NIR file says itself.

        `graph.metadata["snnc"]` holds the options with which `snnc.from_nir` makes the same net of it. What NIR cannot say raises `ProgramError` with its line.
        """
        import nir

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "net.nir")
            options = self._native.export_nir(path, dt, integrator)
            graph = nir.read(path)
        graph.metadata["snnc"] = dict(options)
        return graph

    def as_module(self):
        """A `torch.nn.Module` with the weights as parameters and buffers under their names, and gradients from the compiled backward."""
        from ._module import as_module

        return as_module(self)


class Stream:
    """A net step by step, made by `Net.stream`."""

    def __init__(self, net, native):
        self._net, self._native = net, native
        self._inputs = [Described(*d) for d in native.inputs]

    @property
    def inputs(self):
        """Names, element types and shapes of the inputs of a step."""
        return list(self._inputs)

    @property
    def running(self):
        """The outputs that are values so far of something over the whole sequence."""
        return self._native.running

    def __call__(self, *args, **kwargs):
        """One step: inputs without the axis of time, in order or by name; outputs of the step."""
        if len(args) > len(self._inputs):
            raise TypeError(f"a step of `{self._net.name}` takes {len(self._inputs)} inputs, not {len(args)}")
        given = {**{d.name: a for d, a in zip(self._inputs, args)}, **kwargs}
        for name in given:
            if all(d.name != name for d in self._inputs):
                raise TypeError(f"a step of `{self._net.name}` has no input `{name}`; it has: {', '.join(d.name for d in self._inputs)}")
        arrays = {d.name: to_numpy(d.name, given[d.name], d.dtype) for d in self._inputs if d.name in given}
        return self._net._give(self._native.step(arrays), next(iter(given.values()), None))

    @property
    def state(self):
        """The state as arrays by name, and `steps`, how many were taken; it can be kept, and set again."""
        return self._native.get_state()

    @state.setter
    def state(self, state):
        self._native.set_state(_as_weights(state))

    def reset(self):
        """Back to before the first step."""
        self._native.reset()


class Profile(list):
    """Kernels with milliseconds, bytes, operations and firing rates."""

    def __init__(self, rows):
        super().__init__(sorted(rows, key=lambda r: -r[1]))

    def __repr__(self):
        lines = [f"{'ms':>10} {'GB/s':>8} {'firing':>8}  kernel"]
        for name, ms, size, _, firing in self:
            rate = size / max(ms, 1e-9) / 1e6
            lines.append(f"{ms:>10.4f} {rate:>8.2f} {'' if firing is None else format(firing, '.4f'):>8}  {name}")
        return "\n".join(lines)


def compile(
    text: str, weights=None, net: str | None = None, seed: int = 0, threads: int = 0, fast_math: bool = False, backend: str = "cranelift", device: str = "cpu",
    settings: dict | None = None, dims: dict | None = None, partial: bool = False, file: str = "program.snn",
    weights_dtype: str | None = None, states: str | None = None, dtype: str = "f32", exact: bool = False,
) -> Net:
    """Compiles a program.

    `weights` is a path or a dict of arrays or tensors (a state_dict); `net` is which of its nets, the only one or `main` where it is not given;
    `settings` are settings of that net, `dims` sizes of dimensions that no input gives. `weights_dtype` ("i8" or "i16") rounds the weights of products and
    convolutions to integers times a power of two for each output, and `states` ("Q7.8") keeps the states of neurons in fixed point.
    `dtype` ("bf16", and "f16" with candle) is the type of the operands of dense products, and `exact` adds in the interpreter's order. Raises `ProgramError` with the source line where the program is wrong.

    >>> import numpy as np, snnc
    >>> net = snnc.compile("net main(x: f32[T, B, 2]) -> f32[T, B, 2] { x |> lif(tau = 2.0) |> delay(1) }")
    >>> net(np.full((3, 1, 2), 2.5, "f4"))[:, 0, 0].tolist()
    [0.0, 1.0, 1.0]
    """
    options = dict(seed=seed, threads=threads, fast_math=fast_math, backend=backend, device=str(device), settings=dict(settings or {}), dims=dict(dims or {}), partial=partial,
                   weights_dtype=weights_dtype, states=states, dtype=dtype, exact=exact)
    return Net(_native.Net(text, file, net, _as_weights(weights), options))


_NIR = ("preset", "dt", "integrator", "reset", "compare", "order", "emit", "unit_if", "input_scale")


def load(path: str | os.PathLike, weights=None, **options) -> Net:
    """Compiles a program of a file, or a `.nir` file with its weights; see `compile`.

    What a NIR file leaves open is said with `preset` (norse, snntorch, spikingjelly, nengo, lava, sinabs, spyx) or with `dt`, `integrator`, `reset`, `compare`,
    `order`, `emit`, `unit_if` and `input_scale`; `ValueError` lists what is open.
    """
    path = os.fspath(path)
    if path.lower().endswith(".nir"):
        said = {k: str(options.pop(k)) for k in _NIR if k in options}
        text, own, notes = _native.import_nir(path, said)
        for note in notes:
            warnings.warn(f"{path}: {note}", stacklevel=2)
        return compile(text, own if weights is None else weights, file=path, **options)
    return compile(pathlib.Path(path).read_text(encoding="utf-8"), weights, file=path, **options)


def from_nir(graph, **options) -> Net:
    """Compiles a graph of the Python package `nir`; options are those of `load` for NIR files."""
    import nir

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "graph.nir")
        nir.write(path, graph)
        return load(path, **options)


def load_tensors(path):
    """The tensors of a `.safetensors` or `.npz` file, by name."""
    return _native.load_tensors(os.fspath(path))


def save_tensors(path, tensors):
    """Writes tensors by name into a `.safetensors` or `.npz` file, whole or not at all."""
    _native.save_tensors(os.fspath(path), _as_weights(tensors))


def raster(spikes, sample=0):
    """A raster of spikes `[T, N]` or `[T, B, N]`: one array, or several by name."""
    named = spikes if isinstance(spikes, dict) else {"spikes": spikes}
    arrays = {n: to_numpy(n, s, "f32") for n, s in named.items()}
    return Picture(_native.raster_svg(list(arrays), arrays, sample))


def trace(v, spikes=None, threshold=None, neurons=(0,), sample=0):
    """Membranes over time `[T, N]` or `[T, B, N]`, with their spikes and the threshold."""
    spikes = None if spikes is None else to_numpy("spikes", spikes, "f32")
    return Picture(_native.trace_svg(to_numpy("v", v, "f32"), spikes, threshold, list(neurons), sample))

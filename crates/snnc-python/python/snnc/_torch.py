"""From an `nn.Module` to a program: `from_torch`.

The module is run on example inputs while its calls are recorded: modules of the frameworks are leaves, everything else is what PyTorch
functions it calls. It runs twice more with other numbers of steps and samples, so that sizes that depend on them are found, and what the program
computes is compared with what the module does. Nothing is approximated in silence: what has no counterpart is an `ImportProblem`.
"""

import contextlib
import sys
import traceback

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from . import _emit
from ._net import compile
from ._text import Ref, found_in, is_sequence


class ImportProblem(ValueError):
    """A module cannot be said in the language; the text names its path and class, and what to do."""


class _Whole(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        out = self.module(*inputs)
        # Cells of snnTorch and Norse give their state as well.
        return out[0] if isinstance(out, tuple) and not type(self.module).__module__.startswith("torch.") else out


class Op:
    """A recorded call: a leaf module or a function, its arguments with `Ref`s for recorded tensors, and the shapes of its results."""

    def __init__(self, kind, target, args, kwargs, results, where):
        self.kind, self.target, self.args, self.kwargs, self.where = kind, target, args, kwargs, where
        self.shapes = [tuple(r.shape) for r in results]
        self.dtypes = [r.dtype for r in results]
        self.inside = ""


def tensors_in(value):
    """The tensors in nested lists, tuples and dicts, in order."""
    return found_in(value, torch.Tensor)


def mapped(value, change):
    """The same structure with its tensors changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: mapped(v, change) for k, v in value.items()}
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(v, change) for v in value) if type(value) in (list, tuple) else tuple(mapped(v, change) for v in value)
    return value


_READS = {"item", "tolist", "__bool__", "__int__", "__float__", "numpy", "__index__", "__len__", "nonzero"}
_ARITHMETIC = {"add", "sub", "mul"}
_SHAPES = {"__get__", "size", "dim", "ndimension", "numel", "is_floating_point", "stride", "is_contiguous", "get_device", "storage_offset", "__hash__", "__repr__", "__format__", "requires_grad_", "retain_grad", "data_ptr", "__len__", "type", "__set__", "is_complex"}


def user_line():
    """The line of the user's code that is running."""
    for frame in reversed(traceback.extract_stack()):
        name = frame.filename
        if "/torch/" not in name and "/snnc/" not in name and "/spikingjelly/" not in name and "/snntorch/" not in name and "/norse/" not in name:
            return f"{name}:{frame.lineno}: {frame.line}"
    return "?"


class Recorder(TorchFunctionMode):
    def __init__(self, module, inputs):
        super().__init__()
        self.ops = []
        self.keep = []
        self.refs = {}
        self.constants = {}
        named = list(module.named_parameters(remove_duplicate=False)) + list(module.named_buffers(remove_duplicate=False))
        # States are buffers that a call replaces: they are kept, so that no new tensor gets their id.
        self.keep += [p for _, p in named]
        self.names = {id(p): n for n, p in named}
        # What is computed of a parameter stays computed, so that it is trained; what is computed of buffers is a constant.
        self.trained = {id(p) for p in module.parameters() if p.requires_grad}
        self.paths = {id(m): n for n, m in module.named_modules(remove_duplicate=False)}
        self.inside = 0
        # Modules whose `forward` is running, the innermost last.
        self.callers = []
        for i, t in enumerate(inputs):
            self.remember(t, Ref(-1, i))

    def remember(self, tensor, ref):
        self.keep.append(tensor)
        self.refs[id(tensor)] = ref

    def ref(self, tensor):
        if id(tensor) in self.refs:
            return self.refs[id(tensor)]
        if id(tensor) in self.names:
            return Ref(self.names[id(tensor)], 0)
        # A constant of the program, by its value.
        self.keep.append(tensor)
        self.constants[id(tensor)] = tensor
        return Ref("constant", id(tensor))

    def record(self, kind, target, args, kwargs, out):
        results = tensors_in(out)
        # `a += b` and `2 + b` are the same call as `a + b`, so that the steps of a loop are alike.
        plain = target.strip("_") if kind == "function" else ""
        if plain in _ARITHMETIC and len(args) == 2 and not kwargs:
            target = plain
        elif plain[:1] == "i" and plain[1:] in _ARITHMETIC and len(args) == 2 and not kwargs:
            target = plain[1:]
        elif plain[:1] == "r" and plain[1:] in _ARITHMETIC and len(args) == 2 and not kwargs:
            target, args = plain[1:], (args[1], args[0])
        if kind == "function" and target != "einsum":
            # PyTorch takes NumPy's names as well.
            kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(k, k): v for k, v in kwargs.items()}
        op = Op(kind, target, mapped(args, self.ref), mapped(kwargs, self.ref), results, user_line())
        if self.callers and self.paths.get(id(self.callers[-1])):
            op.inside = f", in `{self.paths[id(self.callers[-1])]}` ({type(self.callers[-1]).__module__}.{type(self.callers[-1]).__name__})"
        # A tensor that is given twice (Norse's LI gives its potential and a state with it) is its first place.
        for i, r in reversed(list(enumerate(results))):
            self.remember(r, Ref(len(self.ops), i))
        self.ops.append(op)

    def is_known(self, value):
        return any(id(t) in self.refs or id(t) in self.trained for t in tensors_in(value))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if self.inside:
            return func(*args, **kwargs)
        known = self.is_known(args) or self.is_known(kwargs)
        if known and name in _READS and name != "__len__":
            raise ImportProblem(f"the module looks at the values of a tensor (`{name}`): which way it goes depends on data\n  {user_line()}")
        out = func(*args, **kwargs)
        # Zeros that the code makes may have sizes of the input, so that they are calls as well.
        made = name in ("zeros", "ones", "full") and isinstance(out, torch.Tensor) and out.is_floating_point() and out.numel() > 0
        if (known or made) and name not in _SHAPES and tensors_in(out):
            self.record("function", name, args, kwargs, out)
        elif known and name == "__get__" and isinstance(out, torch.Tensor):
            self.record("function", _property(func), args, kwargs, out)
        return out


def _property(func):
    owner = getattr(func, "__self__", None)
    return "property_" + getattr(owner, "__name__", "?")


@contextlib.contextmanager
def leaves(recorder, is_leaf):
    """Calls of leaf modules are recorded as one call."""
    original = nn.Module.__call__

    def call(module, *args, **kwargs):
        if recorder.inside:
            return original(module, *args, **kwargs)
        if not is_leaf(module):
            recorder.callers.append(module)
            try:
                return original(module, *args, **kwargs)
            finally:
                recorder.callers.pop()
        recorder.inside += 1
        try:
            out = original(module, *args, **kwargs)
        finally:
            recorder.inside -= 1
        # A module that gives what it got is no call.
        if isinstance(out, torch.Tensor) and any(out is t for t in tensors_in(args)):
            out = out.view_as(out)
        path = recorder.paths.get(id(module))
        if path is None:
            raise ImportProblem(f"a {type(module).__name__} is called that is no part of the module\n  {user_line()}")
        recorder.record("module", path, args, kwargs, out)
        return out

    nn.Module.__call__ = call
    try:
        yield
    finally:
        nn.Module.__call__ = original


def reset(module):
    """States of spiking modules as at the beginning."""
    if "spikingjelly" in sys.modules:
        for m in module.modules():
            if hasattr(m, "reset") and type(m).__module__.startswith("spikingjelly"):
                m.reset()
    if "snntorch" in sys.modules:
        for m in module.modules():
            if type(m).__module__.startswith("snntorch"):
                for method in ("reset_mem", "reset_hidden"):
                    if hasattr(m, method) and getattr(m, "init_hidden", False):
                        getattr(m, method)()


def record(module, inputs):
    """The calls of a module on some inputs, and the refs of its outputs."""
    reset(module)
    inputs = [t.detach().clone() for t in inputs]
    recorder = Recorder(module, inputs)
    with torch.no_grad(), leaves(recorder, _emit.is_leaf), recorder:
        out = module(*inputs)
    reset(module)
    outputs = tensors_in(out)
    if not outputs:
        raise ImportProblem("the module gives no tensor")
    refs = [recorder.ref(t) for t in outputs]
    names = out._fields if hasattr(out, "_fields") else list(out) if isinstance(out, dict) else None
    return recorder, refs, outputs, names


def other_sizes(inputs, axes):
    """The inputs with one more index along some axes, the first ones again."""
    changed = []
    for t, axis in zip(inputs, axes):
        if axis is not None and t.dim() > axis:
            t = torch.cat([t, t.narrow(axis, 0, 1)], axis)
        changed.append(t)
    return changed


def same_calls(a, b):
    return len(a) == len(b) and all((x.kind, x.target) == (y.kind, y.target) for x, y in zip(a, b))


def from_torch(module, example_inputs, verify=True, name="main", time="first", **options):
    """A compiled net that computes what `module` does, with its weights under their names.

    `example_inputs` is a tensor or a tuple of tensors; sizes of steps and samples stay open where the module lets them. With `verify` both run on the
    example, and a difference is an error that names the first layer whose spikes differ. `time="outside"` imports one step of a net that is called once a
    step: its program takes the whole sequence, time first. Options are those of `snnc.compile`.

    Raises `ImportProblem` for what has no counterpart: it names the module's path and class, or the line of the code.
    """
    inputs = list(example_inputs) if isinstance(example_inputs, (tuple, list)) else [example_inputs]
    if _emit.is_leaf(module):
        # A module that is one layer has no name of its own in it: its weights are `module.weight` and so on.
        module = _Whole(module)
    mode = module.training
    module.eval()
    try:
        program, weights, recorded = _translate(module, inputs, name, time)
        net = compile(program, weights, net=name, **options)
        net._imported = recorded
        if verify:
            _verify(net, module, inputs, time)
    finally:
        module.train(mode)
    return net


def _translate(module, inputs, name, time):
    recorder, refs, outputs, names = record(module, inputs)
    multi = any(getattr(m, "step_mode", "s") == "m" for m in module.modules()) or any(is_sequence(m) for m in module.modules())
    layouts = []
    # A neuron with a parameter for each step has as many steps as it has.
    fixed = any(type(m).__name__ == "GatedLIFNode" for m in module.modules())
    if multi and not fixed and all(t.dim() >= 2 for t in inputs):
        layouts.append({"T": [0] * len(inputs), "B": [1] * len(inputs)})
    if not fixed:
        layouts.append({"B": [0] * len(inputs)})
    layouts.append({"B": [1] * len(inputs)})
    chosen, variants = {}, {}
    for layout in layouts:
        try:
            variants = {}
            for symbol, axes in layout.items():
                again, more, _, _ = record(module, other_sizes(inputs, axes))
                if not same_calls(recorder.ops, again.ops):
                    raise ImportProblem("the calls depend on the size")
                variants[symbol] = again
            chosen = layout
            break
        except Exception:
            variants = {}
    emitter = _emit.Emitter(module, recorder, inputs, refs, outputs, names, chosen, variants, name, time, ImportProblem)
    program = emitter.program()
    weights = {k: v.cpu().numpy() for k, v in emitter.weights.items()}
    return program, weights, recorder


def _expected(module, inputs, time):
    reset(module)
    with torch.no_grad():
        if time == "outside":
            steps = []
            for t in range(inputs[0].shape[0]):
                steps.append(tensors_in(module(*[x[t] for x in inputs])))
            out = [torch.stack(s) for s in zip(*steps)]
        else:
            out = tensors_in(module(*inputs))
    reset(module)
    return out


def _first_difference(net, module, inputs, time):
    """In words, the first step and in it the first layer of neurons whose values differ; nothing where none is known."""
    seen, hooks = {}, []
    for path, m in module.named_modules():
        if _emit.is_leaf(m):
            hooks.append(m.register_forward_hook(lambda _m, _i, y, path=path: seen.setdefault(path, []).append(tensors_in(y)[0].detach().float())))
    try:
        _expected(module, inputs, time)
    finally:
        for h in hooks:
            h.remove()
    arrays, _ = net._gather(inputs, {})
    found = []
    for order, (name, got) in enumerate(net._native.activity(arrays)):
        calls = seen.get(name)
        if calls is None:
            continue
        want = (calls[0] if len(calls) == 1 else torch.stack(calls)).numpy()
        if want.size != got.size:
            continue
        # A layer over steps and samples together has the same elements in the same order.
        want = want.reshape(got.shape)
        differ = np.argwhere(np.abs(want - got) > 1e-4 * max(1.0, float(np.abs(want).max())))
        if len(differ):
            place = [int(i) for i in differ[0]]
            found.append((place[0], order, f"; first in the layer `{name}` at step {place[0]}, element {place[1:]}, which is {want[tuple(place)]:g} and becomes {got[tuple(place)]:g}"))
    return min(found)[2] if found else ""


def _verify(net, module, inputs, time):
    """Runs both on the example and compares."""
    if time == "outside":
        inputs = [torch.stack([x, x * 0.5, x * 1.5]) for x in inputs]
    want = _expected(module, inputs, time)
    got = net(*inputs)
    got = list(got) if isinstance(got, tuple) else [got]
    for d, g, w in zip(net.outputs, got, want):
        w = w.float()
        g = torch.as_tensor(np.asarray(g)).float()
        if g.shape != w.shape:
            raise ImportProblem(f"the program gives {d.name} as {list(g.shape)}, and the module {list(w.shape)}: please report this")
        spikes = bool(((w == 0) | (w == 1) | (w == -1)).all())
        limit = 0.0 if spikes else 1e-4 * max(1.0, float(w.abs().max()))
        off = (g - w).abs()
        if not bool((off <= limit).all()):
            place = [int(i) for i in np.unravel_index(int(off.argmax()), tuple(off.shape))]
            try:
                first = _first_difference(net, module, inputs, time)
            except Exception:  # what explains an error must not hide it
                first = ""
            raise ImportProblem(
                f"the program differs from the module in `{d.name}` by {float(off.max()):.2e}, at {place}{first}: "
                "values near a threshold can round to either side (look at `net.source`), or please report this; `verify=False` skips the comparison"
            )


def optimise(module, example_inputs, **options):
    """`module` compiled, as a module: `from_torch(...).as_module()`."""
    return from_torch(module, example_inputs, **options).as_module()

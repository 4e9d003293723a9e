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

from . import _emit, _roll, _surrogates
from ._frameworks import spikingjelly_surrogate
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
_WRITES = {"index_put_", "masked_fill_", "scatter_", "scatter_add_", "index_add_", "index_copy_", "copy_", "fill_", "zero_"}
# What is recorded on constants inside of a neuron.
_CALCULATES = {n for w in ("add", "sub", "mul", "div", "truediv", "pow") for n in (w, f"__{w}__", f"__r{w}__")} | {"neg", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "abs", "clamp", "square", "linear", "conv2d", "matmul", "__matmul__", "rsub"}
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
        # A tensor with two names has the first one, as in `named_parameters`.
        self.names = {id(p): n for n, p in reversed(named)}
        # What is computed of a parameter stays computed, so that it is trained; what is computed of buffers is a constant.
        self.trained = {id(p) for p in module.parameters() if p.requires_grad}
        self.paths = {id(m): n for n, m in module.named_modules(remove_duplicate=False)}
        self.inside = 0
        # Modules whose `forward` is running, the innermost last.
        self.callers = []
        # Declarations of surrogates that the program needs, by name.
        self.declared = {}
        self.constants_by_value = {}
        # Inside of a neuron that is recorded call by call, also calls on constants are: the first step, on what the state begins with, makes the same ones
        # as the others. Their results are fixed: the module may look at their values.
        self.in_neuron, self.fixed = 0, set()
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
        if tensor.requires_grad and tensor.grad_fn is not None:
            raise ImportProblem(f"a tensor was computed from parameters before the module ran, so that its gradient is not seen\n  {user_line()}")
        # A constant of the program, by its value: what each step of a loop makes anew is one.
        self.keep.append(tensor)
        key = (tensor.dtype, tuple(tensor.shape), tensor.detach().cpu().numpy().tobytes()) if tensor.numel() <= 4096 and tensor.dtype != torch.bfloat16 else id(tensor)
        known = self.constants_by_value.setdefault(key, id(tensor))
        self.constants.setdefault(known, tensor)
        return Ref("constant", known)

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
        if target == "select" and kind == "function" and len(args) == 3 and args[1] >= 0:
            target, args = "__getitem__", (args[0], (slice(None),) * args[1] + (args[2],))
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

    def declare(self, name, declaration):
        """A name for a surrogate of the program, without the one that a step before has declared already."""
        n, own = 1, name
        while self.declared.get(own, declaration.replace(name, own, 1)) != declaration.replace(name, own, 1):
            n += 1
            own = f"{name}{n}"
        self.declared[own] = declaration.replace(name, own, 1)
        return f"{own}()"

    def without_gradient(self, out, before=None):
        """Inside of `torch.no_grad()`: what a call gives has no gradient, and what it writes into a tensor leaves the gradient of that as it was."""
        for t in tensors_in(out):
            if before is not None:
                self.record("function", "with_gradient_of", (self.refs[id(t)], before), {}, t)
            elif t.is_floating_point():
                self.record("function", "detach", (t,), {}, t)

    def write(self, target, index, value):
        """`x[k] = v` and `x[:, k] = v`: from here on the tensor is what that makes of it. Other places to write to are an error."""
        index = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in [k for k in index if not isinstance(k, torch.Tensor)]:
            k = index.index(Ellipsis)
            index[k : k + 1] = [slice(None)] * (target.dim() - len(index) + 1)
        axes = [a for a, k in enumerate(index) if type(k) is int]
        plain = len(axes) == 1 and all(a in axes or isinstance(k, slice) and k == slice(None) for a, k in enumerate(index))
        if not plain or not isinstance(value, torch.Tensor) or value.shape != target.shape[: axes[0]] + target.shape[axes[0] + 1 :]:
            raise ImportProblem(f"the module writes into a part of a tensor: say it with `torch.where`, `torch.cat` or `torch.stack`\n  {user_line()}")
        self.record("function", "setitem", (target, axes[0], index[axes[0]] % target.shape[axes[0]], value), {}, target)

    def is_known(self, value):
        return any(id(t) in self.refs and id(t) not in self.fixed or id(t) in self.trained for t in tensors_in(value))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if self.inside:
            return func(*args, **kwargs)
        known = self.is_known(args) or self.is_known(kwargs)
        if known and name in _READS and name != "__len__":
            raise ImportProblem(f"the module looks at the values of a tensor (`{name}`): which way it goes depends on data\n  {user_line()}")
        before = self.refs.get(id(args[0])) if args else None
        out = func(*args, **kwargs)
        # Zeros that the code makes may have sizes of the input, so that they are calls as well.
        made = name in ("zeros", "ones", "full", "empty") and isinstance(out, torch.Tensor) and out.is_floating_point() and out.numel() > 0
        if name == "__setitem__" and (known or self.is_known([args[0]])):
            self.write(*args)
            return out
        if known and name in _WRITES:
            raise ImportProblem(f"the module writes into a part of a tensor (`{name}`): say it with `torch.where`, `torch.cat` or `torch.stack`\n  {user_line()}")
        fixed = self.in_neuron > 0 and not known and not made and bool(tensors_in(args)) and name in _CALCULATES
        if (known or made or fixed) and name not in _SHAPES and tensors_in(out):
            self.record("function", name, args, kwargs, out)
            if fixed:
                self.fixed |= {id(t) for t in tensors_in(out)}
            elif not torch.is_grad_enabled():
                self.without_gradient(out, before if args and out is args[0] else None)
        elif known and name == "__get__" and isinstance(out, torch.Tensor):
            self.record("function", _property(func), args, kwargs, out)
        return out


def _property(func):
    owner = getattr(func, "__self__", None)
    return "property_" + getattr(owner, "__name__", "?")


@contextlib.contextmanager
def own_derivatives(recorder):
    """Calls of functions with a derivative of their own are recorded as spikes; without that, only their value would be seen."""
    original = torch.autograd.Function.__dict__["apply"]

    def apply(function, *args, **kwargs):
        if recorder.inside or not (recorder.is_known(args) or recorder.is_known(kwargs)):
            return original.__get__(None, function)(*args, **kwargs)
        recorder.inside += 1
        try:
            surrogate, strict, declaration = _surrogates.spike(function, args, ImportProblem)
            if declaration is not None:
                surrogate = recorder.declare(surrogate, declaration)
            out = original.__get__(None, function)(*args, **kwargs)
        finally:
            recorder.inside -= 1
        recorder.record("function", "spike", (args[0],), {"surrogate": surrogate, "strict": strict}, out)
        return out

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


@contextlib.contextmanager
def leaves(recorder, root, is_leaf):
    """Calls of leaf modules are recorded as one call."""
    original = nn.Module.__call__
    whole = {id(m) for m in root.modules() if is_leaf(m)}

    def call(module, *args, **kwargs):
        if recorder.inside:
            return original(module, *args, **kwargs)
        if id(module) not in whole:
            surrogate = spikingjelly_surrogate(module)
            if surrogate is not None and recorder.is_known(args):
                recorder.inside += 1
                try:
                    out = original(module, *args, **kwargs)
                finally:
                    recorder.inside -= 1
                recorder.record("function", "spike", (args[0],), {"surrogate": surrogate, "strict": False}, out)
                return out
            neuron = _roll.is_stateful(module)
            # Where a neuron is said call by call, its calls show the steps all the same.
            if neuron:
                recorder.record("mark", recorder.paths.get(id(module), ""), (), {}, ())
            recorder.in_neuron += neuron
            recorder.callers.append(module)
            try:
                return original(module, *args, **kwargs)
            finally:
                recorder.callers.pop()
                recorder.in_neuron -= neuron
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
        if not torch.is_grad_enabled():
            recorder.without_gradient(out)
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
    # With gradients, so that a `torch.no_grad()` of the module's own shows.
    with torch.enable_grad(), leaves(recorder, module, _emit.is_leaf), own_derivatives(recorder), recorder:
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
    example, and a difference is an error that names the first layer whose spikes differ; `verify="gradients"` compares gradients of inputs and parameters too,
    to 1e-3 of the largest element of each. `time="outside"` imports one step of a net that is called once a
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
        if verify == "gradients":
            _verify_gradients(net, module, inputs, time)
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

    def emitter():
        return _emit.Emitter(module, recorder, inputs, list(refs), outputs, names, chosen, variants, name, time, ImportProblem)

    own = emitter()
    try:
        program = own.program()
    except ImportProblem:
        if not getattr(own, "plan", None) or not own.plan.by_index:
            raise
        own = emitter()
        program = own.program(unrolled=True)
    weights = {k: v.cpu().numpy() for k, v in own.weights.items()}
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


def _verify_gradients(net, module, inputs, time):
    """Compares the gradients of a random combination of the outputs."""
    if time == "outside":
        raise ValueError('`verify="gradients"` compares whole sequences: import the module without `time="outside"`')
    ours, theirs = ([x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs] for _ in range(2))
    kept = {n: p.grad for n, p in module.named_parameters()}
    compiled = net.as_module().eval()
    reset(module)
    try:
        for p in module.parameters():
            p.grad = None
        want, got = tensors_in(module(*theirs)), tensors_in(compiled(*ours))
        probes = [torch.randn(w.shape, generator=torch.Generator().manual_seed(k)).to(w) for k, w in enumerate(want)]
        sum((w * p).sum() for w, p in zip(want, probes)).backward()
        sum((g * p).sum() for g, p in zip(got, probes)).backward()
        named = dict(compiled.named_parameters())
        pairs = [(n, p.grad, named[n].grad if n in named else None) for n, p in module.named_parameters()]
        pairs += [(d.name, a.grad, b.grad) for d, a, b in zip(net.inputs, theirs, ours)]
        for name, a, b in pairs:
            size = float(a.abs().max()) if a is not None else 0.0
            off = float((a - b).abs().max()) if b is not None and a is not None else size
            if not off <= 1e-3 * max(size, 1e-6):
                raise ImportProblem(f"the gradient of `{name}` differs from the module's by {off:.2e} of {size:.2e}: please report this; `verify=True` compares outputs only")
    finally:
        reset(module)
        for n, p in module.named_parameters():
            p.grad = kept[n]


def optimise(module, example_inputs, **options):
    """`module` compiled, as a module: `from_torch(...).as_module()`."""
    return from_torch(module, example_inputs, **options).as_module()

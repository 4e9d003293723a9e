"""The text of a program from recorded calls."""

import re
import sys

import torch
from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_KEYWORDS = {"or", "div", "net", "let", "if", "else", "true", "false", "none", "f32", "i64", "bool", "u8"}


def framework(module):
    return type(module).__module__.split(".")[0]


def is_leaf(module):
    """Is a module said as a whole?"""
    if isinstance(module, _CONTAINERS):
        return False
    where, name = type(module).__module__, type(module).__name__
    if where.startswith("torch.nn.modules"):
        return name in _MODULES
    if where.startswith("spikingjelly"):
        return ".neuron" in where or name in _SPIKINGJELLY_LAYERS or any(c.__name__ == name and isinstance(module, c) for c in _PLAIN)
    if where.startswith("snntorch"):
        return "_neurons" in where
    if where.startswith("norse"):
        return name in _NORSE
    return False


def is_sequence(module):
    """Does a module take a whole sequence, time first?"""
    return framework(module) == "norse" and type(module).__name__ in ("LIF", "LI", "IAF", "LIFRecurrent") or framework(module) == "spikingjelly" and getattr(module, "step_mode", "s") == "m"


def number(x):
    """A number as the language writes it, to the bit of an f32 where it was one."""
    if isinstance(x, torch.Tensor):
        x = x.item()
    if isinstance(x, bool):
        return "true" if x else "false"
    if isinstance(x, int):
        return str(x)
    if x is None:
        return "none"
    if x in (float("inf"), float("-inf")):
        return "inf" if x > 0 else "-inf"
    # What was an f32 tensor is written with the digits of an f32.
    short = float(torch.tensor(x, dtype=torch.float32))
    text = repr(x)
    for digits in range(1, 9):
        candidate = f"{short:.{digits}g}"
        if float(torch.tensor(float(candidate), dtype=torch.float32)) == short and len(text) > 12:
            text = repr(float(candidate))
            break
    return text


def commas(parts):
    return ", ".join(parts)


def sizes(v, n):
    """One size for all of n axes, or a list."""
    v = [v] * n if isinstance(v, int) else list(v)
    return str(v[0]) if all(x == v[0] for x in v) else str(v)


class Emitter:
    def __init__(self, module, recorder, inputs, refs, outputs, output_names, layout, variants, name, time, problem):
        self.module, self.recorder, self.inputs, self.layout, self.variants, self.name, self.problem = module, recorder, inputs, layout, variants, name, problem
        self.refs, self.outputs, self.output_names, self.time = refs, outputs, output_names, time
        self.modules = dict(module.named_modules(remove_duplicate=False))
        self.state = dict(module.state_dict())
        self.layers, self.params, self.lines, self.weights = {}, {}, [], {}
        self.env, self.constants, self.used, self.op = {}, {}, set(), None
        self.lead = 1 if time == "outside" else 0
        self.steps, self.time_axes = "T", {}

    # ------------------------------------------------------------ sizes

    def base(self, symbol):
        return self.inputs[0].shape[self.layout[symbol][0]]

    def size(self, v0, values):
        """A size as text: `values` are what it is with one more of each symbol."""
        moved = [s for s, v in values.items() if v != v0]
        if not moved:
            return str(v0)
        if len(moved) == 1:
            s = moved[0]
            slope = values[s] - v0
            rest = v0 - slope * self.base(s)
            text = s if slope == 1 else f"{slope} * {s}"
            return text if rest == 0 else f"{text} + {rest}" if rest > 0 else f"{text} - {-rest}"
        product = 1
        for s in moved:
            product *= self.base(s)
        if v0 % product:
            raise self.problem(f"the size {v0} depends on the input in a way that cannot be said")
        k = v0 // product
        return " * ".join(moved + ([str(k)] if k != 1 else []))

    def shape(self, index, result):
        if index == -1:
            own = [list(t.shape) for t in self.inputs][result]
            return [self.size(v, {s: v + (1 if self.layout[s][result] == a else 0) for s in self.layout}) for a, v in enumerate(own)]
        own = self.recorder.ops[index].shapes[result]
        other = {s: r.ops[index].shapes[result] for s, r in self.variants.items()}
        return [self.size(v, {s: other[s][a] for s in other}) for a, v in enumerate(own)]

    def shape_of(self, ref):
        if isinstance(ref.op, int):
            return self.shape(ref.op, ref.index)
        return [str(n) for n in self.tensor_of(ref).shape]

    def rank(self, ref):
        if isinstance(ref.op, int):
            return len(self.inputs[ref.index].shape) if ref.op == -1 else len(self.recorder.ops[ref.op].shapes[ref.index])
        return self.tensor_of(ref).dim()

    def tensor_of(self, ref):
        return self.recorder.constants[ref.index] if ref.op == "constant" else self.state[ref.op]

    def whole(self, dims):
        """A shape with the time in front, where the call is one step of many."""
        return "[" + commas((["T"] if self.lead else []) + dims) + "]"

    def axis(self, dim, rank):
        """An axis of a step as one of the sequence."""
        return dim if dim < 0 or not self.lead else dim + 1

    # ------------------------------------------------------------ names

    def path(self, path):
        """How a layer or parameter is named in an expression."""
        first = path.split(".")[0]
        return f"net.{path}" if not first.isidentifier() or first in _KEYWORDS or first in self.used else path

    def fresh(self, hint):
        base = "".join(c if c.isalnum() or c == "_" else "_" for c in str(hint)).strip("_") or "h"
        base = base if base[0].isalpha() else f"h{base}"
        base = f"{base}_" if base in _KEYWORDS else base
        taken = self.used | {p.split(".")[0] for p in self.modules} | {"T", "B"}
        name, n = base, 1
        while name in taken:
            n += 1
            name = f"{base}{n}"
        self.used.add(name)
        return name

    def fail(self, message):
        raise self.problem(message)

    def value(self, ref):
        """A recorded tensor as an expression."""
        if ref in self.env:
            return self.env[ref]
        if isinstance(ref.op, str) and ref.op != "constant":
            return self.parameter(ref.op)
        if ref.op == "constant":
            t = self.recorder.constants[ref.index]
            if t.dim() == 0:
                return number(t.item())
            if ref.index not in self.constants:
                self.constants[ref.index] = self.constant(t)
            return self.constants[ref.index]
        self.fail(f"a value that is not recorded is used\n  {self.op.where if self.op else ''}")

    def constant(self, tensor):
        """A tensor of the program that no run changes."""
        name = f"constant{len(self.constants)}"
        self.constants[name] = name
        self.params[name] = tensor
        self.weights[name] = (tensor.float() if tensor.is_floating_point() else tensor).detach()
        return name

    def parameter(self, path):
        self.params[path] = self.state.get(path, None) if path in self.state else dict(self.module.named_buffers())[path]
        self.weights[path] = self.params[path].detach()
        return self.path(path)

    def text(self, value):
        """An argument of a call as an expression."""
        if type(value).__name__ == "Ref":
            return self.value(value)
        if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
            value = value.item()
        if isinstance(value, (int, float, bool)) or value is None:
            return number(value)
        if isinstance(value, (list, tuple)):
            return "[" + commas(self.text(v) for v in value) + "]"
        if isinstance(value, torch.dtype):
            return str(value)
        self.fail(f"the argument {value!r} cannot be said\n  {self.op.where}")

    def layer(self, path, call):
        """Declares a layer once, and takes its weights along."""
        known = self.layers.get(path)
        if known is not None and known != call:
            self.fail(f"`{path}` is used as {known} and as {call}")
        self.layers[path] = call
        for key, t in self.state.items():
            if key.startswith(f"{path}.") and not key.endswith("num_batches_tracked"):
                self.weights[key] = t.detach().float() if t.is_floating_point() else t.detach()
        return self.path(path)

    # ------------------------------------------------------------ the program

    def program(self):
        from . import _roll

        ops = self.recorder.ops
        plan = _roll.find(self)
        names = ["x"] if len(self.inputs) == 1 else [f"x{i}" for i in range(len(self.inputs))]
        self.used |= set(names)
        if plan is not None:
            _roll.emit(self, plan)
        else:
            for i, n in enumerate(names):
                self.env[self.ref(-1, i)] = n
            for i in range(len(ops)):
                self.call(i)
        results = []
        for k, ref in enumerate(self.refs):
            results.append(self.value(ref))
        signature = []
        for i, n in enumerate(names):
            dtype = "f32" if self.inputs[i].is_floating_point() else "i64"
            dims = self.shape(-1, i)
            if i in self.time_axes:
                dims[self.time_axes[i]] = "T"
            signature.append(f"{n}: {dtype}{self.whole(dims)}")
        declared = []
        said = "\n".join(self.lines + results + list(self.layers.values()))
        for path, t in self.params.items():
            if path.startswith("constant") and path not in re.findall(r"[\w.]+", said):
                self.weights.pop(path, None)
                continue
            dtype = "f32" if t.is_floating_point() else "bool" if t.dtype == torch.bool else "i64"
            dims = commas(str(n) for n in t.shape)
            word = "param" if dtype == "f32" and path in dict(self.module.named_parameters(remove_duplicate=False)) else "buffer"
            zero = {"f32": "0.0", "i64": "0", "bool": "false"}[dtype]
            declared.append(f"    {word} {path}: {dtype}[{dims}] = {zero}")
        declared += [f"    layer {path} = {call}" for path, call in self.layers.items()]
        body = declared + [f"    {line}" for line in self.lines]
        value = results[0] if len(results) == 1 else "(" + commas(results) + ")"
        outputs = ""
        if len(results) > 1:
            labels = self.output_names or [f"out{i}" for i in range(len(results))]
            clean = ["".join(c if c.isalnum() or c == "_" else "_" for c in str(n)) for n in labels]
            parts = []
            for n, ref, t in zip(clean, self.refs, self.outputs):
                dtype = "f32" if t.is_floating_point() else "bool" if t.dtype == torch.bool else "i64"
                parts.append(f"{n}: {dtype}{self.result_shape(ref)}")
            outputs = " -> (" + commas(parts) + ")"
        text = f"// Made by snnc from {type(self.module).__module__}.{type(self.module).__qualname__}.\n"
        text += f"net {self.name}({commas(signature)}){outputs} {{\n" + "\n".join(body + [f"    {value}"]) + "\n}\n"
        from . import _native

        try:
            return _native.format_source(text)
        except _native.ProgramError:
            return text

    def result_shape(self, ref):
        return self.whole(self.shape_of(ref))

    def ref(self, op, index):
        from ._torch import Ref

        return Ref(op, index)

    def let(self, index, hint, expressions):
        """Names the results of a call."""
        if len(expressions) == 1:
            name = self.fresh(hint)
            self.lines.append(f"let {name} = {expressions[0]}")
            self.env[self.ref(index, 0)] = name
            return
        for k, e in enumerate(expressions):
            if e is None:
                continue
            name = self.fresh(f"{hint}_{k}")
            self.lines.append(f"let {name} = {e}")
            self.env[self.ref(index, k)] = name

    def call(self, index):
        """Emits one recorded call."""
        op = self.op = self.recorder.ops[index]
        if op.kind == "module":
            module = self.modules[op.target]
            try:
                made = self.module_call(index, op, module)
            except self.problem:
                raise
            except Exception as e:
                raise self.problem(f"`{op.target}` ({type(module).__module__}.{type(module).__name__}) cannot be said: {e}\n  {op.where}") from e
            self.let(index, op.target.split(".")[-1] if not op.target.split(".")[-1].isdigit() else "h", made)
            return
        handler = _FUNCTIONS.get(op.target) or _FUNCTIONS.get(op.target.rstrip("_")) or _FUNCTIONS.get(op.target.strip("_"))
        if handler is None:
            self.fail(
                f"the function `{op.target}` has no counterpart{op.inside}\n  {op.where}\n  write that part by hand: import what is around it, or put it into the program with the language's own functions (docs/operations.md)"
            )
        made = handler(self, op, index)
        made = made if isinstance(made, list) else [made]
        # What only says the same value again needs no line.
        if len(made) == 1 and made[0] is not None and made[0].replace(".", "_").isidentifier():
            self.env[self.ref(index, 0)] = made[0]
            return
        self.let(index, "h", made)

    def module_call(self, index, op, module):
        name = type(module).__name__
        arguments = [self.text(a) for a in op.args if type(a).__name__ == "Ref"]
        first = next((a for a in op.args if type(a).__name__ == "Ref"), None)
        where = framework(module)
        if where == "spikingjelly" and (".neuron" in type(module).__module__ or name in _SPIKINGJELLY_LAYERS):
            return self.spikingjelly(index, op, module, name, arguments[0], first)
        if where == "snntorch":
            return self.snntorch(index, op, module, name, arguments, first)
        if where == "norse":
            return self.norse(index, op, module, name, arguments, first)
        for cls in type(module).__mro__:
            if cls.__module__.startswith("torch.nn.modules") and cls.__name__ in _MODULES:
                multi = 1 if getattr(module, "step_mode", "s") == "m" else 0
                return [_MODULES[cls.__name__](self, op, module, arguments, self.rank(first) - multi)]
        self.fail(f"`{op.target}` is a {type(module).__module__}.{name}, which is not known; write it by hand\n  {op.where}")

    def over_time(self, module, x, neuron):
        """A neuron on a sequence; a single step gets a time of one step."""
        if self.lead or is_sequence(module):
            return neuron(x)
        return f"squeeze({neuron(f'unsqueeze({x}, 0)')}, 0)"

    def surrogate(self, s):
        name = type(s).__name__
        if name not in _SURROGATES:
            self.fail(f"the surrogate {name} is not known; write it as `surrogate` in the program")
        own, fields = _SURROGATES[name]
        settings = [f"{ours} = {number(getattr(s, theirs))}" for theirs, ours in fields]
        return f"{own}({commas(settings)})"

    def spikingjelly(self, index, op, module, name, x, first):
        path = op.target
        if name in _SPIKINGJELLY_LAYERS:
            return [_SPIKINGJELLY_LAYERS[name](self, op, module, x, first)]
        if name not in _SPIKINGJELLY_NEURONS:
            self.fail(f"`{path}` is a {type(module).__module__}.{name}, which has no counterpart; write it as a `neuron` in the program\n  {op.where}")
        own, fields, learned = _SPIKINGJELLY_NEURONS[name]
        settings = []
        for theirs, ours in fields:
            v = getattr(module, theirs)
            settings.append(f"{ours} = {number(v)}")
        if hasattr(module, "surrogate_function") and own not in ("non_spiking_if", "non_spiking_lif", "ilif"):
            settings.append(f"surrogate = {self.surrogate(module.surrogate_function)}")
        if getattr(module, "detach_reset", False) and own not in ("non_spiking_if", "non_spiking_lif"):
            settings.append("detach_reset = true")
        layer = self.layer(path, f"{own}({commas(settings)})")
        return [self.over_time(module, x, lambda s: f"{layer}({s})")]

    def snntorch(self, index, op, module, name, arguments, first):
        if name not in ("Leaky", "Synaptic", "Alpha", "Lapicque", "RLeaky", "RSynaptic"):
            self.fail(f"`{op.target}` is snnTorch's {name}, which has no counterpart; write it as a `neuron` in the program\n  {op.where}")
        if module.inhibition or module.state_quant:
            self.fail(f"`{op.target}` has inhibition or quantised states, which have no counterpart")
        if float(torch.as_tensor(module.graded_spikes_factor).max()) != 1.0:
            self.fail(f"`{op.target}` scales its spikes (graded_spikes_factor), which has no counterpart")
        settings = [f"threshold = {number(module.threshold)}"] if module.threshold.numel() == 1 else []
        learned = {n for n, _ in module.named_parameters(recurse=False)}
        for n in ("beta", "alpha"):
            if hasattr(module, n) and name != "Lapicque":
                t = torch.as_tensor(getattr(module, n))
                if t.numel() == 1:
                    settings.append(f"{n} = {number(float(t.clamp(0, 1)))}")
                elif n not in learned:
                    settings.append(f"{n} = {self.parameter(f'{op.target}.{n}')}")
        if name == "Lapicque":
            settings += [f"R = {number(module.R)}", f"C = {number(module.C)}", f"dt = {number(module.time_step)}"]
        if module.reset_mechanism != ("zero" if name == "Alpha" else "subtract"):
            settings.append(f'reset = "{module.reset_mechanism}"')
        if not getattr(module, "reset_delay", True):
            settings.append("reset_delay = false")
        settings.append(f"surrogate = {self.snn_surrogate(module.spike_grad)}")
        own = {"Leaky": "leaky", "Synaptic": "synaptic", "Alpha": "alpha_neuron", "Lapicque": "lapicque", "RLeaky": "rleaky", "RSynaptic": "rsynaptic"}[name]
        if name in ("RLeaky", "RSynaptic"):
            if not module.all_to_all or not isinstance(getattr(module, "recurrent", None), nn.Linear):
                self.fail(f"`{op.target}` is a {name} without a matrix, which is written by hand")
            settings.insert(0, str(module.recurrent.in_features))
        if learned & {"beta", "threshold"}:
            if name != "Leaky":
                self.fail(f"`{op.target}` learns {commas(sorted(learned))}: of snnTorch's neurons only Leaky does that here")
            own = "learned_leaky"
            settings += [f"learn_{n} = {'true' if n in learned else 'false'}" for n in ("beta", "threshold")]
            settings += [f"{n}_size = {getattr(module, n).numel()}" for n in ("beta", "threshold") if getattr(module, n).dim() > 0]
        layer = self.layer(op.target, f"{own}({commas(settings)})")
        if own != "learned_leaky":
            for key in [k for k in self.weights if k.startswith(f"{op.target}.") and "recurrent" not in k and k not in self.params]:
                del self.weights[key]
        else:
            for key in [k for k in self.weights if k.startswith(f"{op.target}.") and k.split(".")[-1] not in learned]:
                del self.weights[key]
        spikes = self.over_time(module, arguments[0], lambda s: f"{layer}({s})")
        # The states after the spikes are fields of the layer.
        states = {"Leaky": ["v"], "RLeaky": None, "Synaptic": ["i", "v"], "Alpha": ["e", "i", "v"], "Lapicque": ["v"], "RSynaptic": None}[name]
        made = [spikes]
        results = len(op.shapes)
        used = self.uses(index)
        for k in range(1, results):
            if k not in used:
                made.append(None)
            elif states is None or own == "learned_leaky" or results != len(states) + 1:
                self.fail(f"the state that `{op.target}` gives is used, which is not possible for {name} here\n  {op.where}")
            else:
                field = f"{layer}.{states[k - 1]}"
                made.append(field if self.lead else f"squeeze({field}, 0)")
        return made

    def uses(self, index):
        """Which results of a call anybody reads, states passed back to the same module apart."""
        read = {r.index for r in self.refs if r.op == index}
        own = self.recorder.ops[index].target
        for op in self.recorder.ops:
            if op.kind == "module" and op.target == own:
                continue
            for r in refs_in(op.args) + refs_in(op.kwargs):
                if r.op == index:
                    read.add(r.index)
        return read

    def snn_surrogate(self, f):
        name = getattr(f, "__qualname__", type(f).__qualname__).split(".")[0]
        values = dict(zip(f.__code__.co_freevars, [c.cell_contents for c in f.__closure__])) if getattr(f, "__closure__", None) else {}
        known = {"atan": ("atan", "alpha", 2.0), "ATan": ("atan", "alpha", 2.0), "fast_sigmoid": ("fast_sigmoid", "slope", 25), "sigmoid": ("scaled_sigmoid", "slope", 25)}
        if name == "straight_through_estimator":
            return "straight_through()"
        if name not in known:
            self.fail(f"snnTorch's surrogate {name} is not known; write it as `surrogate` in the program")
        own, field, default = known[name]
        return f"{own}({field} = {number(values.get(field, default))})"

    def norse(self, index, op, module, name, arguments, first):
        p = module.p
        own = "li_cell" if name in ("LICell", "LI") else "lif_recurrent" if "Recurrent" in name else "lif_cell"
        fields = ["tau_syn_inv", "tau_mem_inv", "v_leak"] + ([] if own == "li_cell" else ["v_th", "v_reset"])
        settings = []
        for f in fields:
            t = torch.as_tensor(getattr(p, f))
            if t.numel() != 1:
                self.fail(f"`{op.target}` has one {f} for each neuron: give it as a tensor by hand")
            settings.append(f"{f} = {number(float(t))}")
        settings.append(f"dt = {number(float(module.dt))}")
        if own != "li_cell":
            known = {"super": "superspike", "triangle": "triangle", "tanh": "heavi_tanh", "heavi_erfc": "heavi_erfc", "circ": "heavi_circ"}
            if p.method not in known:
                self.fail(f"`{op.target}` has the surrogate `{p.method}`, which is not known")
            alpha = "" if p.method == "super" else f"alpha = {number(float(torch.as_tensor(p.alpha)))}"
            settings.append(f"surrogate = {known[p.method]}({alpha})")
        if own == "lif_recurrent":
            settings.insert(0, f"{int(module.input_size)}, {int(module.hidden_size)}, autapses = {str(bool(module.autapses)).lower()}")
        layer = self.layer(op.target, f"{own}({commas(settings)})")
        return [self.over_time(module, arguments[0], lambda s: f"{layer}({s})")] + [None] * (len(op.shapes) - 1)


def refs_in(value):
    if type(value).__name__ == "Ref":
        return [value]
    if isinstance(value, dict):
        return [r for v in value.values() for r in refs_in(v)]
    if isinstance(value, (list, tuple)):
        return [r for v in value for r in refs_in(v)]
    return []


# ---------------------------------------------------------------- modules of PyTorch


def _linear(e, op, m, x, rank):
    layer = e.layer(op.target, f"linear({m.in_features}, {m.out_features}{'' if m.bias is not None else ', bias = false'})")
    return f"{layer}({x[0]})"


def _conv(n, transposed=False):
    def make(e, op, m, x, rank):
        if m.padding_mode != "zeros":
            e.fail(f"`{op.target}` pads with {m.padding_mode}; pad by hand with `concat`")
        padding = m.padding
        if isinstance(padding, str):
            if padding == "valid":
                padding = 0
            else:
                total = [d * (k - 1) for d, k in zip(m.dilation, m.kernel_size)]
                if any(t % 2 for t in total):
                    e.fail(f"`{op.target}` pads one side more than the other")
                padding = [t // 2 for t in total]
        settings = [str(m.in_channels), str(m.out_channels), sizes(m.kernel_size, n)]
        for name, v, usual in (("stride", m.stride, "1"), ("padding", padding, "0"), ("dilation", m.dilation, "1")):
            if sizes(v, n) != usual:
                settings.append(f"{name} = {sizes(v, n)}")
        if transposed and sizes(m.output_padding, n) != "0":
            settings.append(f"output_padding = {sizes(m.output_padding, n)}")
        if m.groups != 1:
            settings.append(f"groups = {m.groups}")
        if m.bias is None:
            settings.append("bias = false")
        layer = e.layer(op.target, f"conv{'_transpose' if transposed else ''}{n}d({commas(settings)})")
        return f"{layer}({x[0]})"

    return make


def _batch_norm(spatial):
    def make(e, op, m, x, rank):
        k = rank - 2 if spatial is None else spatial
        if not m.track_running_stats:
            e.fail(f"`{op.target}` keeps no running statistics")
        settings = [str(m.num_features)]
        if m.eps != 1e-5:
            settings.append(f"eps = {number(m.eps)}")
        if m.momentum is None:
            e.fail(f"`{op.target}` averages over all batches (momentum=None)")
        if m.momentum != 0.1:
            settings.append(f"momentum = {number(m.momentum)}")
        own = {0: "batch_norm1d", 2: "batch_norm2d"}.get(k)
        if not m.affine or own is None:
            own = "batch_norm"
            settings.insert(1, f"spatial = {k}")
            if not m.affine:
                settings.append("affine = false")
        return f"{e.layer(op.target, f'{own}({commas(settings)})')}({x[0]})"

    return make


def _layer_norm(e, op, m, x, rank):
    if len(m.normalized_shape) != 1:
        e.fail(f"`{op.target}` is a layer norm over {len(m.normalized_shape)} axes; one is known")
    settings = [str(m.normalized_shape[0])]
    if m.eps != 1e-5:
        settings.append(f"eps = {number(m.eps)}")
    if not m.elementwise_affine:
        settings.append("affine = false")
    elif m.bias is None:
        settings.append("bias = false")
    return f"{e.layer(op.target, f'layer_norm({commas(settings)})')}({x[0]})"


def _rms_norm(e, op, m, x, rank):
    settings = [str(m.normalized_shape[0])] + ([f"eps = {number(m.eps)}"] if m.eps is not None else []) + ([] if m.elementwise_affine else ["affine = false"])
    return f"{e.layer(op.target, f'rms_norm({commas(settings)})')}({x[0]})"


def _group_norm(e, op, m, x, rank):
    settings = [str(m.num_groups), str(m.num_channels), f"spatial = {rank - 2}", f"eps = {number(m.eps)}"] + ([] if m.affine else ["affine = false"])
    return f"{e.layer(op.target, f'group_norm({commas(settings)})')}({x[0]})"


def _instance_norm(e, op, m, x, rank):
    if m.track_running_stats:
        e.fail(f"`{op.target}` keeps running statistics, which is not known")
    settings = [str(m.num_features), f"spatial = {rank - 2}", f"eps = {number(m.eps)}"] + (["affine = true"] if m.affine else [])
    return f"{e.layer(op.target, f'instance_norm({commas(settings)})')}({x[0]})"


def _pool(kind, n):
    def make(e, op, m, x, rank):
        return pool(e, op, kind, n, x[0], m.kernel_size, m.stride, m.padding, getattr(m, "dilation", 1), m.ceil_mode, getattr(m, "count_include_pad", True), getattr(m, "divisor_override", None))

    return make


def pool(e, op, kind, n, x, kernel, stride, padding, dilation=1, ceil=False, include=True, divisor=None):
    if ceil or sizes(dilation, n) != "1" or divisor or (kind == "avg" and not include and sizes(padding, n) != "0"):
        e.fail(f"a pool with ceil_mode, dilation, or without padding in its count is not known\n  {op.where}")
    if n == 3:
        return pool3d(e, op, kind, x, kernel, stride, padding)
    more = ""
    if stride is not None and sizes(stride, n) != sizes(kernel, n):
        more += f", stride = {sizes(stride, n)}"
    if sizes(padding, n) != "0":
        more += f", padding = {sizes(padding, n)}"
    return f"{kind}_pool{n}d({x}, {sizes(kernel, n)}{more})"


def pool3d(e, op, kind, x, kernel, stride, padding):
    """A pool over three axes: over the last two, then over the first with the others as one."""
    shape = e.shape_of(next(a for a in op.args if type(a).__name__ == "Ref"))
    after = e.shape(e.recorder.ops.index(op), 0)
    each = [[v] * 3 if isinstance(v, int) else list(v) for v in (kernel, stride or kernel, padding)]
    plane, deep = [v[1:] for v in each], [[v[0], w] for v, w in zip(each, (1, 1, 0))]
    lead = ["T"] if e.lead else []
    flat = commas(lead + shape[:-3] + [shape[-3], f"({after[-2]}) * ({after[-1]})"])
    text = f"reshape({kind}_pool2d({x}, {plane[0]}, stride = {plane[1]}, padding = {plane[2]}), [{flat}])"
    return f"reshape({kind}_pool2d({text}, {deep[0]}, stride = {deep[1]}, padding = {deep[2]}), {e.whole(after)})"


def adaptive(e, op, x, size, n):
    size = [size] * n if isinstance(size, int) else list(size)
    if all(s == 1 for s in size):
        return f"mean({x}, axis = {list(range(-n, 0))}, keep = true)"
    if n != 2 or None in size:
        e.fail(f"an adaptive pool to {size} is not known\n  {op.where}")
    return f"adaptive_avg_pool2d({x}, {size})"


def _flatten(e, op, m, x, rank):
    return reshaped(e, op, x[0])


def reshaped(e, op, x, result=0):
    index = e.recorder.ops.index(op)
    return f"reshape({x}, {e.whole(e.shape(index, result))})"


def _dropout(e, op, m, x, rank):
    each = "" if framework(m) == "spikingjelly" else ", each = true"
    return f"{e.layer(op.target, f'dropout(p = {number(m.p)}{each})')}({x[0]})"


def _embedding(e, op, m, x, rank):
    if m.max_norm is not None:
        e.fail(f"`{op.target}` renormalises its rows")
    return f"{e.layer(op.target, f'embedding({m.num_embeddings}, {m.embedding_dim})')}({x[0]})"


def _upsample(e, op, m, x, rank):
    return interpolated(e, op, x[0], m.scale_factor, m.size, m.mode, m.align_corners, rank)


def interpolated(e, op, x, scale, size, mode, corners, rank):
    index = e.recorder.ops.index(op)
    source = next(r for r in refs_in(op.args))
    old = e.recorder.ops[source.op].shapes[source.index] if source.op != -1 else tuple(e.inputs[source.index].shape)
    new = e.recorder.ops[index].shapes[0]
    if mode not in ("nearest", "bilinear") or corners or rank < 4 or any(b % a for a, b in zip(old[-2:], new[-2:])):
        e.fail(f"interpolation `{mode}` to {list(new)} is not known: whole factors of the last two axes are\n  {op.where}")
    k = [b // a for a, b in zip(old[-2:], new[-2:])]
    return f"upsample({x}, scale = {sizes(k, 2)}" + ("" if mode == "nearest" else ', mode = "bilinear"') + ")"


def _attention(e, op, m, x, rank):
    if m.bias_k is not None or not m._qkv_same_embed_dim or m.in_proj_bias is None or op.kwargs.get("attn_mask") is not None:
        e.fail(f"`{op.target}` has keys and values of other sizes, no biases, or a mask")
    layer = e.layer(op.target, f"multihead_attention({m.embed_dim}, {m.num_heads})")
    if m.batch_first:
        return f"{layer}({commas(x[:3])})"
    swap = [1, 0, 2] if not e.lead else [0, 2, 1, 3]
    inside = commas(f"permute({a}, {swap})" for a in x[:3])
    return f"permute({layer}({inside}), {swap})"


def _call(name, *settings):
    def make(e, op, m, x, rank):
        more = "".join(f", {ours} = {number(getattr(m, theirs))}" for theirs, ours in settings)
        return f"{name}({x[0]}{more})"

    return make


def _softmax(name):
    def make(e, op, m, x, rank):
        if m.dim is None:
            e.fail(f"`{op.target}` does not say its dim")
        return f"{name}({x[0]}, axis = {e.axis(m.dim, rank)})"

    return make


_MODULES = {
    "Linear": _linear, "NonDynamicallyQuantizableLinear": _linear, "Conv1d": _conv(1), "Conv2d": _conv(2), "Conv3d": _conv(3), "ConvTranspose1d": _conv(1, True), "ConvTranspose2d": _conv(2, True),
    "ConvTranspose3d": _conv(3, True), "BatchNorm1d": _batch_norm(None), "BatchNorm2d": _batch_norm(2), "BatchNorm3d": _batch_norm(3), "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm, "GroupNorm": _group_norm, "InstanceNorm1d": _instance_norm, "InstanceNorm2d": _instance_norm, "MaxPool1d": _pool("max", 1), "MaxPool2d": _pool("max", 2),
    "MaxPool3d": _pool("max", 3), "AvgPool1d": _pool("avg", 1), "AvgPool2d": _pool("avg", 2), "AvgPool3d": _pool("avg", 3),
    "AdaptiveAvgPool1d": lambda e, op, m, x, r: adaptive(e, op, x[0], m.output_size, 1), "AdaptiveAvgPool2d": lambda e, op, m, x, r: adaptive(e, op, x[0], m.output_size, 2),
    "AdaptiveAvgPool3d": lambda e, op, m, x, r: adaptive(e, op, x[0], m.output_size, 3), "Flatten": _flatten, "Unflatten": _flatten, "Identity": lambda e, op, m, x, r: x[0],
    "Dropout": _dropout, "Embedding": _embedding, "Upsample": _upsample, "MultiheadAttention": _attention, "ReLU": _call("relu"), "Sigmoid": _call("sigmoid"), "Tanh": _call("tanh"),
    "GELU": lambda e, op, m, x, r: f"gelu({x[0]})" if m.approximate == "none" else e.fail("GELU's tanh approximation is not known"), "SiLU": _call("silu"), "Softplus": _call("softplus", ("beta", "beta"), ("threshold", "threshold")),
    "LeakyReLU": _call("leaky_relu", ("negative_slope", "slope")), "ELU": _call("elu", ("alpha", "alpha")), "Softmax": _softmax("softmax"), "LogSoftmax": _softmax("log_softmax"),
    "ReLU6": lambda e, op, m, x, r: f"clamp({x[0]}, low = 0.0, high = 6.0)", "Hardtanh": lambda e, op, m, x, r: f"clamp({x[0]}, low = {number(m.min_val)}, high = {number(m.max_val)})",
}
_PLAIN = tuple(getattr(nn, n) for n in _MODULES if hasattr(nn, n))

# ---------------------------------------------------------------- SpikingJelly

_RESET = [("v_threshold", "v_threshold"), ("v_reset", "v_reset")]
_LIF = [("tau", "tau"), ("decay_input", "decay_input")] + _RESET
_SPIKINGJELLY_NEURONS = {
    "IFNode": ("if_node", _RESET, ()), "SimpleIFNode": ("if_node", _RESET, ()), "LIFNode": ("lif", _LIF, ()), "SimpleLIFNode": ("lif", _LIF, ()),
    "ParametricLIFNode": ("plif", [("decay_input", "decay_input")] + _RESET, ("w",)), "QIFNode": ("qif", [("tau", "tau"), ("v_c", "v_c"), ("a0", "a0"), ("v_threshold", "v_threshold"), ("v_rest", "v_rest"), ("v_reset", "v_reset")], ()),
    "EIFNode": ("eif", [("tau", "tau"), ("delta_T", "delta_T"), ("theta_rh", "theta_rh"), ("v_threshold", "v_threshold"), ("v_rest", "v_rest"), ("v_reset", "v_reset")], ()),
    "IzhikevichNode": ("izhikevich", [(n, n) for n in ("tau", "v_c", "a0", "v_threshold", "v_reset", "v_rest", "w_rest", "tau_w", "a", "b")], ()),
    "KLIFNode": ("klif", [("scale_reset", "scale_reset")] + _LIF, ("k",)), "CUBALIFNode": ("cuba_lif", [("c_decay", "c_decay"), ("v_decay", "v_decay")] + _RESET, ()),
    "RAFNode": ("resonate_and_fire", [("b", "b"), ("omega", "omega"), ("dt", "dt")] + _RESET, ()), "TernaryIFNode": ("ternary_if", _RESET, ()), "TernaryLIFNode": ("ternary_lif", _LIF, ()),
    "NonSpikingIFNode": ("non_spiking_if", [], ()), "NonSpikingLIFNode": ("non_spiking_lif", [("tau", "tau")], ()), "ComplementaryLIFNode": ("complementary_lif", [("tau", "tau"), ("v_threshold", "v_threshold")], ()),
}
_SURROGATES = {
    "Sigmoid": ("sigmoid", [("alpha", "alpha")]), "ATan": ("atan", [("alpha", "alpha")]), "PiecewiseQuadratic": ("piecewise_quadratic", [("alpha", "alpha")]), "PiecewiseExp": ("piecewise_exp", [("alpha", "alpha")]),
    "SoftSign": ("soft_sign", [("alpha", "alpha")]), "SuperSpike": ("super_spike", [("alpha", "alpha")]), "Erf": ("erf", [("alpha", "alpha")]), "NonzeroSignLogAbs": ("nonzero_sign_log_abs", [("alpha", "alpha")]),
    "PiecewiseLeakyReLU": ("piecewise_leaky_relu", [("w", "w"), ("c", "c")]), "S2NN": ("s2nn", [("alpha", "alpha"), ("beta", "beta")]), "QPseudoSpike": ("q_pseudo_spike", [("alpha", "alpha")]),
    "LeakyKReLU": ("leaky_k_relu", [("leak", "leak"), ("k", "k")]), "LogTailedReLU": ("log_tailed_relu", [("alpha", "alpha")]), "SquarewaveFourierSeries": ("squarewave_fourier_series", [("n", "n"), ("T_period", "T_period")]),
    "Rect": ("rect", [("alpha", "alpha")]), "DeterministicPass": ("deterministic_pass", []),
}


def _delay(e, op, m, x, first):
    if not (e.lead or is_sequence(m)):
        e.fail(f"`{op.target}` is a delay of a single step")
    return f"delay({x}, {m.delay_steps})"


def _synapse(e, op, m, x, first):
    if getattr(m, "learnable", False):
        e.fail(f"`{op.target}` learns its time constant, which is written by hand")
    return e.over_time(m, x, lambda s: f"synapse_filter({s}, tau = {number(float(m.tau))})")


def _voting(e, op, m, x, first):
    return f"avg_pool1d({x}, {m.voting_size})"


def _psn(e, op, m, x, first):
    weight, bias = e.parameter(f"{op.target}.weight"), e.parameter(f"{op.target}.bias")
    if type(m).__name__ == "MaskedPSN":
        weight = f"{weight} * {e.constant(torch.where(m.mask0 > 0, m.mask0, float(1 - m.lambda_) * m.mask1) if m.lambda_ < 1 else m.mask0)}"
    surrogate = e.surrogate(m.surrogate_function)
    if type(m).__name__ == "SlidingPSN":
        return f"spike(causal_conv({x}, flip({weight}, 0)) + {bias}, {surrogate})"
    return f"psn({x}, {weight}, {bias}, surrogate = {surrogate})"


def _ilif(e, op, m, x, first):
    s = m.surrogate_function
    if s.grad_min != 0.0 or s.grad_max != s.max_spike_count:
        e.fail(f"`{op.target}` has a gradient between other bounds than its counts; write it by hand")
    more = ", detach_reset = true" if m.detach_reset else ""
    layer = e.layer(op.target, f"ilif(tau = {number(m.tau)}, v_threshold = {number(m.v_threshold)}, max_spikes = {s.max_spike_count}{more})")
    return e.over_time(m, x, lambda y: f"{layer}({y})")


def _gated_lif(e, op, m, x, first):
    one = m.alpha.dim() == 0
    layer = e.layer(op.target, f"gated_lif(steps = {m.T}{'' if one else f', inplane = {m.alpha.shape[0]}'}, surrogate = {e.surrogate(m.surrogate_function)})")
    if one:
        # Where there is one for all, the library's parameters have an axis of one channel.
        for key in e.weights:
            if key.startswith(f"{op.target}."):
                e.weights[key] = e.weights[key].reshape((m.T, 1) if key.endswith(".conduct") else (1,))
    return f"{layer}({x})"


_SPIKINGJELLY_LAYERS = {
    "Delay": _delay, "SynapseFilter": _synapse, "VotingLayer": _voting, "PSN": _psn, "MaskedPSN": _psn, "SlidingPSN": _psn, "ILIFNode": _ilif, "GatedLIFNode": _gated_lif,
}
_NORSE = {"LIFCell", "LICell", "LIF", "LI", "LIFRecurrent", "LIFRecurrentCell"}

# ---------------------------------------------------------------- functions of PyTorch


def _binary(operator, swapped=False):
    def make(e, op, i):
        a, b = e.text(op.args[0]), e.text(op.args[1] if len(op.args) > 1 else op.kwargs["other"])
        alpha = op.kwargs.get("alpha", 1)
        if alpha != 1:
            b = f"{b} * {number(alpha)}"
        return f"({b}) {operator} ({a})" if swapped else f"({a}) {operator} ({b})"

    return make


def _unary(name):
    return lambda e, op, i: f"{name}({e.text(op.args[0])})"


def _arg(op, place, name, default=None):
    return op.args[place] if len(op.args) > place else op.kwargs.get(name, default)


def _reduce(name):
    def make(e, op, i):
        x, dim, keep = op.args[0], _arg(op, 1, "dim"), _arg(op, 2, "keepdim", False)
        rank = e.rank(x)
        if dim is None:
            if e.lead:
                dim = list(range(-rank, 0)) if rank else None
            return f"{name}({e.text(x)})" if dim is None else f"{name}({e.text(x)}, axis = {dim})"
        dims = [dim] if isinstance(dim, int) else list(dim)
        axes = [e.axis(d, rank) for d in dims]
        text = f"{name}({e.text(x)}, axis = {axes[0] if len(axes) == 1 else axes}{', keep = true' if keep else ''})"
        return [text, f"argmax({e.text(x)}, axis = {axes[0]})"] if len(e.recorder.ops[i].shapes) == 2 else text

    return make


def _reshape(e, op, i):
    return f"reshape({e.text(op.args[0])}, {e.whole(e.shape(i, 0))})"


def _same(e, op, i):
    return e.text(op.args[0])


def _permute(e, op, i):
    dims = op.args[1:] if len(op.args) > 1 and isinstance(op.args[1], int) else _arg(op, 1, "dims")
    rank = e.rank(op.args[0])
    dims = [d % rank for d in dims]
    order = [0] + [d + 1 for d in dims] if e.lead else dims
    return f"permute({e.text(op.args[0])}, {order})"


def _transpose(e, op, i):
    rank = e.rank(op.args[0])
    a, b = _arg(op, 1, "dim0"), _arg(op, 2, "dim1")
    return f"transpose({e.text(op.args[0])}, {e.axis(a, rank)}, {e.axis(b, rank)})"


def _getitem(e, op, i):
    x, index = op.args
    index = list(index) if isinstance(index, tuple) else [index]
    parts, new_axes, position = ([":"] if e.lead else []), [], 0
    if e.lead and index and index[0] is Ellipsis:
        parts = []
    for k in index:
        if k is None:
            new_axes.append(len([p for p in parts if p == ":" or ":" in p or p == "..."]))
        elif k is Ellipsis:
            parts.append("...")
        elif isinstance(k, slice):
            if any(type(v).__name__ == "Ref" for v in (k.start, k.stop, k.step)):
                e.fail(f"a slice whose bounds are tensors\n  {op.where}")
            f = lambda v: "" if v is None or v == sys.maxsize else str(v)
            parts.append(f"{f(k.start)}:{f(k.stop)}" + (f":{k.step}" if k.step not in (None, 1) else ""))
        elif isinstance(k, bool):
            e.fail(f"an index by truth values\n  {op.where}")
        else:
            parts.append(e.text(k))
    text = f"{e.text(x)}[{commas(parts)}]" if any(p != ":" for p in parts) else e.text(x)
    if new_axes and any(p == "..." for p in parts):
        return f"reshape({text}, {e.whole(e.shape(i, 0))})"
    for a in new_axes:
        text = f"unsqueeze({text}, {a})"
    return text


def _concat(name):
    def make(e, op, i):
        parts, dim = op.args[0], _arg(op, 1, "dim", 0)
        rank = e.rank(parts[0]) + (1 if name == "stack" else 0)
        return f"{name}({e.text(list(parts))}, axis = {e.axis(dim, rank)})"

    return make


def _split(e, op, i):
    dim = _arg(op, 2, "dim", 0)
    x = op.args[0]
    rank = e.rank(x)
    dim = dim % rank
    made, start = [], 0
    lead = ":, " * (dim + (1 if e.lead else 0))
    for k in range(len(op.shapes)):
        n = op.shapes[k][dim]
        made.append(f"{e.text(x)}[{lead}{start}:{start + n}]")
        start += n
    return made


def _unbind(e, op, i):
    dim = _arg(op, 1, "dim", 0) % e.rank(op.args[0])
    lead = ":, " * (dim + (1 if e.lead else 0))
    return [f"{e.text(op.args[0])}[{lead}{k}]" for k in range(len(op.shapes))]


def _unsqueeze(e, op, i):
    dim = _arg(op, 1, "dim")
    return f"unsqueeze({e.text(op.args[0])}, {e.axis(dim, e.rank(op.args[0]) + 1)})"


def _expand(e, op, i):
    return f"broadcast_to({e.text(op.args[0])}, {e.whole(e.shape(i, 0))})"


def _repeat(e, op, i):
    times = op.args[1:] if len(op.args) > 1 and isinstance(op.args[1], int) else op.args[1]
    x = op.args[0]
    old = [1] * (len(times) - e.rank(x)) + list(e.recorder.ops[x.op].shapes[x.index] if x.op != -1 else e.inputs[x.index].shape)
    if all(o == 1 or t == 1 for o, t in zip(old, times)):
        return f"broadcast_to({e.text(x)}, {e.whole(e.shape(i, 0))})"
    text = e.text(x)
    if len(times) != e.rank(x):
        e.fail(f"a repetition that adds axes to what is repeated\n  {op.where}")
    for a, t in enumerate(times):
        if t > 1:
            text = f"concat([{commas([text] * t)}], axis = {e.axis(a, len(times))})"
    return text


def _clamp(e, op, i):
    low, high = _arg(op, 1, "min"), _arg(op, 2, "max")
    more = (f", low = {e.text(low)}" if low is not None else "") + (f", high = {e.text(high)}" if high is not None else "")
    return f"clamp({e.text(op.args[0])}{more})"


def _linear_function(e, op, i):
    x, w, b = op.args[0], _arg(op, 1, "weight"), _arg(op, 2, "bias")
    y = f"matmul({e.text(x)}, transpose({e.text(w)}))"
    return y if b is None else f"{y} + {e.text(b)}"


def _conv_function(n):
    def make(e, op, i):
        x, w, b = op.args[0], _arg(op, 1, "weight"), _arg(op, 2, "bias")
        more = f", stride = {sizes(_arg(op, 3, 'stride', 1), n)}, padding = {sizes(_arg(op, 4, 'padding', 0), n)}, dilation = {sizes(_arg(op, 5, 'dilation', 1), n)}, groups = {_arg(op, 6, 'groups', 1)}"
        y = f"conv({e.text(x)}, {e.text(w)}{more})"
        return y if b is None else f"{y} + reshape({e.text(b)}, {[int(e.shape_of(b)[0])] + [1] * n})"

    return make


def _pool_function(kind, n):
    def make(e, op, i):
        return pool(e, op, kind, n, e.text(op.args[0]), _arg(op, 1, "kernel_size"), _arg(op, 2, "stride"), _arg(op, 3, "padding", 0))

    return make


def _softmax_function(name):
    return lambda e, op, i: f"{name}({e.text(op.args[0])}, axis = {e.axis(_arg(op, 1, 'dim', -1), e.rank(op.args[0]))})"


def _full(value):
    def make(e, op, i):
        v = e.text(value if value is not None else _arg(op, 1, "fill_value"))
        return f"full({e.whole(e.shape(i, 0))}, {v + '.0' if v.lstrip('-').isdigit() else v})"

    return make


def _batch_norm_function(e, op, i):
    x, m, v, w, b = (_arg(op, k, n) for k, n in enumerate(("input", "running_mean", "running_var", "weight", "bias")))
    if _arg(op, 5, "training", False):
        e.fail(f"`batch_norm` as a function in training is not known; use the module\n  {op.where}")
    size = "[" + commas(["-1"] + ["1"] * (e.rank(x) - 2)) + "]"
    parts = [f"reshape({e.text(t)}, {size})" if t is not None else None for t in (m, v, w, b)]
    text = f"({e.text(x)} - {parts[0]}) / sqrt({parts[1]} + {number(_arg(op, 7, 'eps', 1e-5))})"
    return text + (f" * {parts[2]}" if parts[2] else "") + (f" + {parts[3]}" if parts[3] else "")


def _variance(root):
    def make(e, op, i):
        x, dim = op.args[0], _arg(op, 1, "dim")
        rank = e.rank(x)
        unbiased = op.kwargs.get("unbiased", op.kwargs.get("correction", 1) != 0)
        dims = list(range(rank)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
        axes = [e.axis(d, rank) for d in dims]
        keep = ", keep = true" if op.kwargs.get("keepdim", False) else ""
        text = f"variance({e.text(x)}, axis = {axes}{keep})"
        if unbiased:
            shape = e.shape_of(x)
            count = " * ".join(f"({shape[d]})" for d in dims)
            text = f"{text} * f32({count}) / f32({count} - 1)"
        return f"sqrt({text})" if root else text

    return make


def _cast(e, op, i):
    dtype = op.dtypes[0]
    to = "f32" if dtype.is_floating_point else "bool" if dtype == torch.bool else "i64"
    source = op.args[0]
    old = e.recorder.ops[source.op].dtypes[source.index] if isinstance(source.op, int) and source.op >= 0 else e.inputs[source.index].dtype if source.op == -1 else None
    if old is not None and (old == dtype or old.is_floating_point and dtype.is_floating_point):
        return e.text(source)
    return f"{to}({e.text(source)})"


def _einsum(e, op, i):
    equation, operands = op.args[0], op.args[1:]
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
    equation = equation.replace(" ", "")
    if "." in equation or "->" not in equation or len(operands) > 2:
        e.fail(f"the einsum {equation!r} of {len(operands)} tensors is not known\n  {op.where}")
    if e.lead:
        letter = next(c for c in "tuvwxyz" if c not in equation)
        left, right = equation.split("->")
        equation = ",".join(letter + p if isinstance(r.op, int) else p for p, r in zip(left.split(","), operands)) + "->" + letter + right
    return f'einsum("{equation}", {commas(e.text(o) for o in operands)})'


def _pad(e, op, i):
    if op.kwargs.get("mode", "constant") != "constant":
        e.fail(f"padding with {op.kwargs['mode']} is not known\n  {op.where}")
    value = op.kwargs.get("value") or 0.0
    return f"pad({e.text(op.args[0])}, {list(_arg(op, 1, 'pad'))}{'' if not value else f', value = {number(value)}'})"


def _attention_function(e, op, i):
    if op.kwargs.get("attn_mask") is not None or op.kwargs.get("is_causal"):
        e.fail(f"attention with a mask is not known\n  {op.where}")
    scale = op.kwargs.get("scale")
    return f"attention({commas(e.text(a) for a in op.args[:3])}{'' if scale is None else f', scale = {number(scale)}'})"


def _where(e, op, i):
    return f"where({commas(e.text(a) for a in op.args)})"


def _inplace_or(make):
    return make


_FUNCTIONS = {
    "add": _binary("+"), "radd": _binary("+", True), "iadd": _binary("+"), "sub": _binary("-"), "rsub": _binary("-", True), "isub": _binary("-"), "mul": _binary("*"), "rmul": _binary("*", True), "imul": _binary("*"),
    "div": _binary("/"), "truediv": _binary("/"), "rtruediv": _binary("/", True), "itruediv": _binary("/"), "pow": _binary("^"), "rpow": _binary("^", True), "matmul": _binary("@"), "bmm": _binary("@"), "mm": _binary("@"), "rmatmul": _binary("@", True),
    "remainder": _binary("%"), "mod": _binary("%"), "eq": _binary("=="), "ne": _binary("!="), "lt": _binary("<"), "le": _binary("<="), "gt": _binary(">"), "ge": _binary(">="), "logical_and": _binary("&&"), "logical_or": _binary("||"), "and": _binary("&&"), "or": _binary("||"),
    "neg": lambda e, op, i: f"-({e.text(op.args[0])})", "logical_not": lambda e, op, i: f"!({e.text(op.args[0])})", "invert": lambda e, op, i: f"!({e.text(op.args[0])})",
    "abs": _unary("abs"), "exp": _unary("exp"), "log": _unary("log"), "sqrt": _unary("sqrt"), "sin": _unary("sin"), "cos": _unary("cos"), "tanh": _unary("tanh"), "sigmoid": _unary("sigmoid"), "relu": _unary("relu"), "floor": _unary("floor"),
    "round": _unary("round"), "erf": _unary("erf"), "gelu": _unary("gelu"), "silu": _unary("silu"), "softplus": _unary("softplus"), "square": lambda e, op, i: f"({e.text(op.args[0])}) ^ 2", "rsqrt": lambda e, op, i: f"1 / sqrt({e.text(op.args[0])})", "reciprocal": lambda e, op, i: f"1 / ({e.text(op.args[0])})",
    "leaky_relu": lambda e, op, i: f"leaky_relu({e.text(op.args[0])}, slope = {number(_arg(op, 1, 'negative_slope', 0.01))})", "elu": lambda e, op, i: f"elu({e.text(op.args[0])}, alpha = {number(_arg(op, 1, 'alpha', 1.0))})",
    "maximum": lambda e, op, i: f"maximum({e.text(op.args[0])}, {e.text(op.args[1])})", "minimum": lambda e, op, i: f"minimum({e.text(op.args[0])}, {e.text(op.args[1])})",
    "mean": _reduce("mean"), "sum": _reduce("sum"), "amax": _reduce("max"), "amin": _reduce("min"), "max": _reduce("max"), "min": _reduce("min"), "argmax": _reduce("argmax"), "logsumexp": _reduce("logsumexp"),
    "cumsum": lambda e, op, i: f"cumsum({e.text(op.args[0])}, axis = {e.axis(_arg(op, 1, 'dim'), e.rank(op.args[0]))})", "softmax": _softmax_function("softmax"), "log_softmax": _softmax_function("log_softmax"),
    "view": _reshape, "reshape": _reshape, "flatten": _reshape, "unflatten": _reshape, "squeeze": _reshape, "view_as": _reshape, "reshape_as": _reshape, "ravel": _reshape, "permute": _permute, "transpose": _transpose, "swapaxes": _transpose, "swapdims": _transpose,
    "t": lambda e, op, i: f"transpose({e.text(op.args[0])})", "property_T": lambda e, op, i: f"transpose({e.text(op.args[0])})", "property_mT": lambda e, op, i: f"transpose({e.text(op.args[0])})",
    "property_data": _same, "unsqueeze": _unsqueeze, "expand": _expand, "expand_as": _expand, "broadcast_to": _expand, "repeat": _repeat, "contiguous": _same, "clone": _same, "detach": _same, "to": _cast, "float": _cast, "type_as": _cast, "long": _cast, "bool": _cast, "int": _cast, "double": _cast, "half": _cast, "cpu": _same, "dropout": _same, "requires_grad": _same, "alias": _same,
    "getitem": _getitem, "cat": _concat("concat"), "concat": _concat("concat"), "stack": _concat("stack"), "chunk": _split, "split": _split, "unbind": _unbind, "clamp": _clamp, "clip": _clamp, "clamp_min": lambda e, op, i: f"clamp({e.text(op.args[0])}, low = {e.text(op.args[1])})",
    "linear": _linear_function, "conv1d": _conv_function(1), "conv2d": _conv_function(2), "conv3d": _conv_function(3), "max_pool1d": _pool_function("max", 1), "max_pool2d": _pool_function("max", 2), "boolean_dispatch": _pool_function("max", 2), "fn": _pool_function("max", 2), "avg_pool1d": _pool_function("avg", 1), "avg_pool2d": _pool_function("avg", 2),
    "adaptive_avg_pool2d": lambda e, op, i: adaptive(e, op, e.text(op.args[0]), op.args[1], 2), "adaptive_avg_pool1d": lambda e, op, i: adaptive(e, op, e.text(op.args[0]), op.args[1], 1), "where": _where, "einsum": _einsum, "pad": _pad, "scaled_dot_product_attention": _attention_function,
    "interpolate": lambda e, op, i: interpolated(e, op, e.text(op.args[0]), _arg(op, 2, "scale_factor"), _arg(op, 1, "size"), op.kwargs.get("mode", "nearest"), op.kwargs.get("align_corners"), e.rank(op.args[0])),
    "batch_norm": _batch_norm_function, "var": _variance(False), "std": _variance(True), "zeros": _full(0.0), "ones": _full(1.0), "full": _full(None), "zeros_like": _full(0.0), "ones_like": _full(1.0), "full_like": _full(None), "new_zeros": _full(0.0), "new_ones": _full(1.0), "flip": lambda e, op, i: f"flip({e.text(op.args[0])}, {e.axis((op.args[1] if isinstance(op.args[1], int) else op.args[1][0]), e.rank(op.args[0]))})",
    "roll": lambda e, op, i: f"roll({e.text(op.args[0])}, {_arg(op, 1, 'shifts') if isinstance(_arg(op, 1, 'shifts'), int) else _arg(op, 1, 'shifts')[0]}, axis = {e.axis(_arg(op, 2, 'dims') if isinstance(_arg(op, 2, 'dims'), int) else _arg(op, 2, 'dims')[0], e.rank(op.args[0]))})",
    "tril": _unary("tril"), "triu": _unary("triu"), "cumprod": lambda e, op, i: f"cumprod({e.text(op.args[0])}, axis = {e.axis(_arg(op, 1, 'dim'), e.rank(op.args[0]))})",
}

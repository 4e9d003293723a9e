"""The text of a program from recorded calls."""

import re

import torch
from torch import nn

from ._frameworks import NORSE, NORSE_SURROGATES, SPIKINGJELLY_LAYERS, SPIKINGJELLY_NEURONS, norse_is_whole, snntorch_is_whole, snntorch_surrogate, spikingjelly_is_whole, spikingjelly_surrogate
from ._functions import FUNCTIONS
from ._modules import MODULES, PLAIN
from ._text import Ref, commas, framework, is_sequence, number, refs_in

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_KEYWORDS = {"or", "div", "net", "let", "if", "else", "true", "false", "none", "f32", "i64", "bool", "u8"}


def is_leaf(module):
    """Is a module said as a whole?"""
    if isinstance(module, _CONTAINERS):
        return False
    where, name = type(module).__module__, type(module).__name__
    if where.startswith("torch.nn.modules"):
        return name in MODULES
    if where.startswith("spikingjelly"):
        return spikingjelly_is_whole(module) or any(c.__name__ == name and isinstance(module, c) for c in PLAIN)
    if where.startswith("snntorch"):
        return snntorch_is_whole(module)
    if where.startswith("norse"):
        return norse_is_whole(module)
    return False


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
        self.input_names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]

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
        return self.masked(path)

    def masked(self, path):
        """A parameter; where a hook masks its gradient (Norse's recurrent weights without autapses), times that mask."""
        parameter = dict(self.module.named_parameters(remove_duplicate=False)).get(path)
        hooks = list((getattr(parameter, "_backward_hooks", None) or {}).values())
        if not hooks:
            return self.path(path)

        def hooked(g):
            for hook in hooks:
                seen = hook(g.clone())
                g = g if seen is None else seen
            return g

        with torch.no_grad():
            mask, probe = hooked(torch.ones_like(parameter)), torch.randn_like(parameter)
            plain = bool(((mask == 0) | (mask == 1)).all()) and torch.equal(hooked(probe), probe * mask)
            if not plain or not torch.equal(parameter * mask, parameter.detach()):
                self.fail(f"`{path}` has a hook on its gradient that is no mask of what is zero anyway; train it in PyTorch, or write that part by hand")
        return self.path(path) if bool((mask == 1).all()) else f"{self.path(path)} * {self.constant(mask)}"

    def text(self, value):
        """An argument of a call as an expression."""
        if isinstance(value, Ref):
            return self.value(value)
        if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
            value = value.item()
        if isinstance(value, (int, float, bool)) or value is None:
            return number(value)
        if isinstance(value, (list, tuple)):
            return "[" + commas(self.text(v) for v in value) + "]"
        if isinstance(value, torch.dtype):
            return str(value)
        if isinstance(value, complex):
            self.fail(f"complex numbers have no counterpart: write real and imaginary parts\n  {self.op.where}")
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

    def program(self, unrolled=False):
        """The text; `unrolled` leaves a loop that was found by its indices as calls of every step."""
        from . import _roll

        ops = self.recorder.ops
        plan = self.plan = _roll.find(self)
        if unrolled and plan is not None and plan.by_index:
            plan = None
        names = self.input_names
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
        self.drop_unused(results)
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
                # How many steps a loop has is open in the program, and a number in its record.
                parts.append(f"{n}: {dtype}{self.result_shape(ref)}" if plan is None else n)
            outputs = " -> (" + commas(parts) + ")"
        text = f"// Made by snnc from {type(self.module).__module__}.{type(self.module).__qualname__}.\n"
        text += "".join(self.recorder.declared.values())
        text += f"net {self.name}({commas(signature)}){outputs} {{\n" + "\n".join(body + [f"    {value}"]) + "\n}\n"
        from . import _native

        try:
            return _native.format_source(text)
        except _native.ProgramError:
            return text

    def drop_unused(self, results):
        """Forgets the zeros that a loop begins with, where the program says them as `delay` does."""
        kept, text = [], " ".join(results)
        for line in reversed(self.lines):
            name = line.removeprefix("let ").split(" ", 1)[0]
            if " = full([" not in line or re.search(rf"\b{name}\b", text):
                kept.append(line)
                text += f" {line}"
        self.lines = kept[::-1]

    def result_shape(self, ref):
        return self.whole(self.shape_of(ref))

    def ref(self, op, index):
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
        if op.kind == "mark":
            return
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
        handler = FUNCTIONS.get(op.target) or FUNCTIONS.get(op.target.rstrip("_")) or FUNCTIONS.get(op.target.strip("_"))
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
        arguments = [self.text(a) for a in op.args if isinstance(a, Ref)]
        first = next((a for a in op.args if isinstance(a, Ref)), None)
        where = framework(module)
        if where == "spikingjelly" and (".neuron" in type(module).__module__ or name in SPIKINGJELLY_LAYERS):
            return self.spikingjelly(index, op, module, name, arguments[0], first)
        if where == "snntorch":
            return self.snntorch(index, op, module, name, arguments, first)
        if where == "norse":
            return self.norse(index, op, module, name, arguments, first)
        for cls in type(module).__mro__:
            if cls.__module__.startswith("torch.nn.modules") and cls.__name__ in MODULES:
                multi = 1 if getattr(module, "step_mode", "s") == "m" else 0
                return [MODULES[cls.__name__](self, op, module, arguments, self.rank(first) - multi)]
        self.fail(f"`{op.target}` is a {type(module).__module__}.{name}, which is not known; write it by hand\n  {op.where}")

    def over_time(self, module, x, neuron):
        """A neuron on a sequence; a single step gets a time of one step."""
        if self.lead or is_sequence(module):
            return neuron(x)
        return f"squeeze({neuron(f'unsqueeze({x}, 0)')}, 0)"

    def surrogate(self, s):
        own = spikingjelly_surrogate(s)
        if own is None:
            self.fail(f"the surrogate {type(s).__name__} is not known; write it as `surrogate` in the program")
        return own

    def spikingjelly(self, index, op, module, name, x, first):
        path = op.target
        if name in SPIKINGJELLY_LAYERS:
            made = SPIKINGJELLY_LAYERS[name](self, op, module, x, first)
            return made if isinstance(made, list) else [made]
        if name not in SPIKINGJELLY_NEURONS:
            self.fail(f"`{path}` is a {type(module).__module__}.{name}, which has no counterpart; write it as a `neuron` in the program\n  {op.where}")
        own, fields, learned = SPIKINGJELLY_NEURONS[name]
        settings = []
        for theirs, ours in fields:
            v = getattr(module, theirs)
            settings.append(f"{ours} = {number(v)}")
        if hasattr(module, "surrogate_function"):
            settings.append(f"surrogate = {self.surrogate(module.surrogate_function)}")
        if getattr(module, "detach_reset", False):
            settings.append("detach_reset = true")
        layer = self.layer(path, f"{own}({commas(settings)})")
        return [self.over_time(module, x, lambda s: f"{layer}({s})")]

    def snntorch(self, index, op, module, name, arguments, first):
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
        if name == "SLSTM":
            cell = module.lstm_cell
            settings = [f"{cell.input_size}, {cell.hidden_size}"] + ([] if cell.bias else ["bias = false"]) + settings
            # Its states begin anew at each step where their shape is not that of its input.
            if cell.input_size != cell.hidden_size:
                settings.append("recurrent = false")
        if module.reset_mechanism != {"Alpha": "zero", "SLSTM": "none"}.get(name, "subtract"):
            settings.append(f'reset = "{module.reset_mechanism}"')
        if name != "SLSTM" and not getattr(module, "reset_delay", True):
            settings.append("reset_delay = false")
        settings.append(f"surrogate = {self.snn_surrogate(module.spike_grad)}")
        own = {"Leaky": "leaky", "Synaptic": "synaptic", "Alpha": "alpha_neuron", "Lapicque": "lapicque", "RLeaky": "rleaky", "RSynaptic": "rsynaptic", "SLSTM": "slstm"}[name]
        if name in ("RLeaky", "RSynaptic"):
            settings.insert(0, str(module.recurrent.in_features))
        if learned & {"beta", "threshold"}:
            own = "learned_leaky"
            settings += [f"learn_{n} = {'true' if n in learned else 'false'}" for n in ("beta", "threshold")]
            settings += [f"{n}_size = {getattr(module, n).numel()}" for n in ("beta", "threshold") if getattr(module, n).dim() > 0]
        layer = self.layer(op.target, f"{own}({commas(settings)})")
        if own != "learned_leaky":
            for key in [k for k in self.weights if k.startswith(f"{op.target}.") and "recurrent" not in k and "lstm_cell" not in k and k not in self.params]:
                del self.weights[key]
        else:
            for key in [k for k in self.weights if k.startswith(f"{op.target}.") and k.split(".")[-1] not in learned]:
                del self.weights[key]
        spikes = self.over_time(module, arguments[0], lambda s: f"{layer}({s})")
        # The states after the spikes are fields of the layer.
        states = {"Leaky": ["v"], "RLeaky": None, "Synaptic": ["i", "v"], "Alpha": ["e", "i", "v"], "Lapicque": ["v"], "RSynaptic": None, "SLSTM": None}[name]
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
        own, fields, values = snntorch_surrogate(f)
        return f"{own}({commas(f'{ours} = {number(values[theirs])}' for theirs, ours in fields)})"

    def norse(self, index, op, module, name, arguments, first):
        p = module.p
        own, more = NORSE[name]
        fields = ["tau_syn_inv", "tau_mem_inv", "v_leak", *more]
        settings = []
        for f in fields:
            settings.append(f"{f} = {number(float(torch.as_tensor(getattr(p, f))))}")
        settings.append(f"dt = {number(float(module.dt))}")
        if own != "li_cell":
            alpha = "" if p.method == "super" else f"alpha = {number(float(torch.as_tensor(p.alpha)))}"
            settings.append(f"surrogate = {NORSE_SURROGATES[p.method]}({alpha})")
        if own == "lif_recurrent":
            settings.insert(0, f"{int(module.input_size)}, {int(module.hidden_size)}, autapses = {str(bool(module.autapses)).lower()}")
        layer = self.layer(op.target, f"{own}({commas(settings)})")
        return [self.over_time(module, arguments[0], lambda s: f"{layer}({s})")] + [None] * (len(op.shapes) - 1)

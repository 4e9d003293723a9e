"""Functions with a derivative of their own (`torch.autograd.Function`) as `spike(x, surrogate)`.

Those of the frameworks are surrogates of the library. Of any other one the derivative is recorded: its `backward` is run on one number, and becomes a
`surrogate` of the program. What is no step at zero, or looks at values, is an error: a derivative is never dropped.
"""

import torch

from ._text import number

# By module and class: the surrogate, its settings as (name here, place among the arguments), and whether 0 does not fire.
_NORSE = "norse.torch.functional."
_KNOWN = {
    (_NORSE + "superspike", "SuperSpike"): ("superspike", ()), (_NORSE + "threshold", "HeaviErfc"): ("heavi_erfc", (("alpha", 1),)), (_NORSE + "threshold", "HeaviTanh"): ("heavi_tanh", (("alpha", 1),)),
    (_NORSE + "threshold", "HeaviCirc"): ("heavi_circ", (("alpha", 1),)), (_NORSE + "threshold", "Triangle"): ("triangle", (("alpha", 1),)),
    ("snntorch.surrogate", "ATan"): ("atan", (("alpha", 1),)), ("snntorch.surrogate", "FastSigmoid"): ("fast_sigmoid", (("slope", 1),)), ("snntorch.surrogate", "Sigmoid"): ("scaled_sigmoid", (("slope", 1),)),
    ("snntorch.surrogate", "StraightThroughEstimator"): ("straight_through", ()), ("snntorch.surrogate", "Triangular"): ("triangular", (("threshold", 1),)),
    ("snntorch.surrogate", "SpikeRateEscape"): ("spike_rate_escape", (("beta", 1), ("slope", 2))), ("snntorch.surrogate", "SparseFastSigmoid"): ("sparse_fast_sigmoid", (("slope", 1), ("bound", 2))),
    ("snntorch.surrogate", "Heaviside"): ("fired", ()),
}


class _Context:
    """What a function keeps for its derivative."""

    saved_tensors, needs_input_grad = (), (True,) * 16

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors):
        pass

    def set_materialize_grads(self, value):
        pass


def spike(function, args, problem):
    """The surrogate of a function with a derivative of its own, as (expression, strict, declaration or None)."""
    where = f"`{function.__module__}.{function.__qualname__}`"
    key = (function.__module__, function.__name__)
    if key in _KNOWN:
        own, fields = _KNOWN[key]
        return f"{own}({', '.join(f'{n} = {number(torch.as_tensor(args[k]))}' for n, k in fields)})", True, None
    others = tuple(args[1:])
    if any(isinstance(a, torch.Tensor) and a.numel() != 1 for a in others):
        raise problem(f"{where} has a derivative of its own and takes more than one tensor")
    try:
        steps = [_forward(function, torch.tensor(v), others)[1] for v in (-0.5, 0.0, 0.5)]
    except Exception:  # what takes no single number is no step
        steps = [None]
    if not all(isinstance(s, torch.Tensor) and s.numel() == 1 for s in steps) or float(steps[0]) != 0 or float(steps[2]) != 1:
        raise problem(f"{where} has a derivative of its own and is no step at zero, which fires above it: write that part by hand")
    text, declaration = _derivative(function, others, where, problem)
    return text, float(steps[1]) == 0, declaration


def _forward(function, u, others):
    context = _Context()
    if "setup_context" in function.__dict__:
        out = function.forward(u, *others)
        function.setup_context(context, (u, *others), out)
    else:
        out = function.forward(context, u, *others)
    return context, out


def _derivative(function, others, where, problem):
    """The derivative of a function at one number, as an expression of `u`."""
    from . import _emit, _torch

    u, one = torch.tensor(0.3), torch.ones(())
    empty = torch.nn.Module()
    recorder = _torch.Recorder(empty, [u])
    try:
        with torch.enable_grad():
            context, _ = _forward(function, u, others)
            # What the value computes is of no interest, unless it is kept.
            kept = all(t is u for t in context.saved_tensors) and not any(isinstance(v, torch.Tensor) and v is not u for v in vars(context).values())
            with recorder:
                if not kept:
                    context, _ = _forward(function, u, others)
                gradients = function.backward(context, one)
    except problem:
        raise
    except Exception as e:
        raise problem(f"the derivative of {where} cannot be recorded: {e}") from e
    gradient = gradients[0] if isinstance(gradients, tuple) else gradients
    if gradient is None:
        raise problem(f"{where} has no derivative")
    if any(op.target in ("__setitem__", "setitem", "masked_fill_", "index_put_") for op in recorder.ops):
        raise problem(f"the derivative of {where} writes into parts of a tensor: say it with `torch.where`")
    ref = recorder.ref(gradient)
    emitter = _emit.Emitter(empty, recorder, [u], [ref], [gradient], None, {}, {}, "surrogate", "first", problem)
    emitter.env[emitter.ref(-1, 0)] = "u"
    emitter.used.add("u")
    needed = _needed(recorder, ref)
    for i in sorted(needed):
        emitter.call(i)
    value = emitter.value(ref)
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in function.__name__).strip("_") + "_derivative"
    body = "".join(f"    {line}\n" for line in emitter.lines)
    return name, f"surrogate {name}(u) {{\n{body}    {value}\n}}\n"


def _needed(recorder, ref):
    """The calls that a value is made from."""
    from ._text import refs_in

    needed, open_ = set(), [ref]
    while open_:
        r = open_.pop()
        if isinstance(r.op, int) and r.op >= 0 and r.op not in needed:
            needed.add(r.op)
            open_ += refs_in(recorder.ops[r.op].args) + refs_in(recorder.ops[r.op].kwargs)
    return needed

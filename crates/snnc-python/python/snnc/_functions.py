"""Functions of PyTorch as expressions of the language."""

import sys

import torch

from ._modules import adaptive, interpolated, pool
from ._text import Ref, commas, number, sizes


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
    parts, new_axes = ([":"] if e.lead else []), []
    if e.lead and index and index[0] is Ellipsis:
        parts = []
    for k in index:
        if k is None:
            new_axes.append(len([p for p in parts if p == ":" or ":" in p or p == "..."]))
        elif k is Ellipsis:
            parts.append("...")
        elif isinstance(k, slice):
            if any(isinstance(v, Ref) for v in (k.start, k.stop, k.step)):
                e.fail(f"a slice whose bounds are tensors\n  {op.where}")
            f = lambda v: "" if v is None or v == sys.maxsize else str(v)
            parts.append(f"{f(k.start)}:{f(k.stop)}" + (f":{k.step}" if k.step not in (None, 1) else ""))
        elif isinstance(k, bool):
            e.fail(f"an index by booleans\n  {op.where}")
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
        kernel, stride, padding = _arg(op, 1, "kernel_size"), _arg(op, 2, "stride"), _arg(op, 3, "padding", 0)
        # max_pool: dilation, ceil_mode; avg_pool: ceil_mode, count_include_pad, divisor_override.
        if kind == "max":
            more = {"dilation": _arg(op, 4, "dilation", 1), "ceil": _arg(op, 5, "ceil_mode", False)}
        else:
            more = {"ceil": _arg(op, 4, "ceil_mode", False), "include": _arg(op, 5, "count_include_pad", True), "divisor": _arg(op, 6, "divisor_override")}
        return pool(e, op, kind, n, e.text(op.args[0]), kernel, stride, padding, **more)

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


def _spike(e, op, i):
    return f"spike({e.text(op.args[0])}, {op.kwargs['surrogate']}{', strict = true' if op.kwargs['strict'] else ''})"


def _setitem(e, op, i):
    x, axis, k, v = op.args
    text, size = e.text(x), e.recorder.ops[i].shapes[0][axis]
    axis += 1 if e.lead else 0
    lead = ":, " * axis
    parts = [f"{text}[{lead}:{k}]"] * (k > 0) + [f"unsqueeze({e.text(v)}, {axis})"] + [f"{text}[{lead}{k + 1}:]"] * (k + 1 < size)
    return f"concat([{commas(parts)}], axis = {axis})"


def _bincount(e, op, i):
    indices = e.text(op.args[0])
    return f"i64(segment_sum(ones(shape({indices})), {indices}, {e.shape(i, 0)[0]}))"


def _index_add(e, op, i):
    x, dim, index, source = op.args[0], _arg(op, 1, "dim"), _arg(op, 2, "index"), _arg(op, 3, "source")
    if op.kwargs.get("alpha", 1) != 1:
        e.fail(f"`index_add` with alpha is not known\n  {op.where}")
    return f"scatter_add({e.text(x)}, {e.text(index)}, {e.text(source)}, axis = {e.axis(dim, e.rank(x))})"


def _with_gradient_of(e, op, i):
    new, old = (e.text(a) for a in op.args)
    return f"detach({new}) + ({old} - detach({old}))"


FUNCTIONS = {
    "with_gradient_of": _with_gradient_of, "bincount": _bincount, "index_add": _index_add, "index_select": lambda e, op, i: f"take({e.text(op.args[0])}, {e.text(_arg(op, 2, 'index'))}, axis = {e.axis(_arg(op, 1, 'dim'), e.rank(op.args[0]))})",
    "setitem": _setitem, "spike": _spike,
    "add": _binary("+"), "radd": _binary("+", True), "iadd": _binary("+"), "sub": _binary("-"), "rsub": _binary("-", True), "isub": _binary("-"), "mul": _binary("*"), "rmul": _binary("*", True), "imul": _binary("*"),
    "div": _binary("/"), "truediv": _binary("/"), "rtruediv": _binary("/", True), "rdiv": _binary("/", True), "itruediv": _binary("/"), "pow": _binary("^"), "rpow": _binary("^", True), "matmul": _binary("@"), "bmm": _binary("@"), "mm": _binary("@"), "rmatmul": _binary("@", True),
    "remainder": _binary("%"), "mod": _binary("%"), "eq": _binary("=="), "ne": _binary("!="), "lt": _binary("<"), "le": _binary("<="), "gt": _binary(">"), "ge": _binary(">="), "logical_and": _binary("&&"), "logical_or": _binary("||"), "and": _binary("&&"), "or": _binary("||"),
    "neg": lambda e, op, i: f"-({e.text(op.args[0])})", "logical_not": lambda e, op, i: f"!({e.text(op.args[0])})", "invert": lambda e, op, i: f"!({e.text(op.args[0])})",
    "abs": _unary("abs"), "exp": _unary("exp"), "log": _unary("log"), "sqrt": _unary("sqrt"), "sin": _unary("sin"), "cos": _unary("cos"), "tanh": _unary("tanh"), "sigmoid": _unary("sigmoid"), "relu": _unary("relu"), "floor": _unary("floor"),
    "round": _unary("round"), "erf": _unary("erf"), "gelu": _unary("gelu"), "silu": _unary("silu"), "softplus": _unary("softplus"), "expm1": _unary("expm1"), "log1p": _unary("log1p"), "square": lambda e, op, i: f"({e.text(op.args[0])}) ^ 2", "rsqrt": lambda e, op, i: f"1 / sqrt({e.text(op.args[0])})", "reciprocal": lambda e, op, i: f"1 / ({e.text(op.args[0])})",
    "leaky_relu": lambda e, op, i: f"leaky_relu({e.text(op.args[0])}, slope = {number(_arg(op, 1, 'negative_slope', 0.01))})", "elu": lambda e, op, i: f"elu({e.text(op.args[0])}, alpha = {number(_arg(op, 1, 'alpha', 1.0))})",
    "maximum": lambda e, op, i: f"maximum({e.text(op.args[0])}, {e.text(op.args[1])})", "minimum": lambda e, op, i: f"minimum({e.text(op.args[0])}, {e.text(op.args[1])})",
    "mean": _reduce("mean"), "sum": _reduce("sum"), "amax": _reduce("max"), "amin": _reduce("min"), "max": _reduce("max"), "min": _reduce("min"), "argmax": _reduce("argmax"), "logsumexp": _reduce("logsumexp"),
    "cumsum": lambda e, op, i: f"cumsum({e.text(op.args[0])}, axis = {e.axis(_arg(op, 1, 'dim'), e.rank(op.args[0]))})", "softmax": _softmax_function("softmax"), "log_softmax": _softmax_function("log_softmax"),
    "view": _reshape, "reshape": _reshape, "flatten": _reshape, "unflatten": _reshape, "squeeze": _reshape, "view_as": _reshape, "reshape_as": _reshape, "ravel": _reshape, "permute": _permute, "transpose": _transpose, "swapaxes": _transpose, "swapdims": _transpose,
    "t": lambda e, op, i: f"transpose({e.text(op.args[0])})", "property_T": lambda e, op, i: f"transpose({e.text(op.args[0])})", "property_mT": lambda e, op, i: f"transpose({e.text(op.args[0])})",
    "property_data": _unary("detach"), "unsqueeze": _unsqueeze, "expand": _expand, "expand_as": _expand, "broadcast_to": _expand, "repeat": _repeat, "contiguous": _same, "clone": _same, "detach": _unary("detach"), "to": _cast, "float": _cast, "type_as": _cast, "long": _cast, "bool": _cast, "int": _cast, "double": _cast, "half": _cast, "cpu": _same, "dropout": _same, "requires_grad": _same, "alias": _same,
    "getitem": _getitem, "cat": _concat("concat"), "concat": _concat("concat"), "stack": _concat("stack"), "chunk": _split, "split": _split, "unbind": _unbind, "clamp": _clamp, "clip": _clamp, "clamp_max": lambda e, op, i: f"clamp({e.text(op.args[0])}, high = {e.text(op.args[1])})", "clamp_min": lambda e, op, i: f"clamp({e.text(op.args[0])}, low = {e.text(op.args[1])})",
    "linear": _linear_function, "conv1d": _conv_function(1), "conv2d": _conv_function(2), "conv3d": _conv_function(3), "max_pool1d": _pool_function("max", 1), "max_pool2d": _pool_function("max", 2), "boolean_dispatch": _pool_function("max", 2), "fn": _pool_function("max", 2), "avg_pool1d": _pool_function("avg", 1), "avg_pool2d": _pool_function("avg", 2), "max_pool3d": _pool_function("max", 3), "avg_pool3d": _pool_function("avg", 3),
    "adaptive_avg_pool2d": lambda e, op, i: adaptive(e, op, e.text(op.args[0]), op.args[1], 2), "adaptive_avg_pool1d": lambda e, op, i: adaptive(e, op, e.text(op.args[0]), op.args[1], 1), "where": _where, "einsum": _einsum, "pad": _pad, "scaled_dot_product_attention": _attention_function,
    "interpolate": lambda e, op, i: interpolated(e, op, e.text(op.args[0]), _arg(op, 2, "scale_factor"), _arg(op, 1, "size"), op.kwargs.get("mode", "nearest"), op.kwargs.get("align_corners"), e.rank(op.args[0])),
    "batch_norm": _batch_norm_function, "var": _variance(False), "std": _variance(True), "zeros": _full(0.0), "empty": _full(0.0), "empty_like": _full(0.0), "ones": _full(1.0), "full": _full(None), "zeros_like": _full(0.0), "ones_like": _full(1.0), "full_like": _full(None), "new_zeros": _full(0.0), "new_ones": _full(1.0), "flip": lambda e, op, i: f"flip({e.text(op.args[0])}, {e.axis((op.args[1] if isinstance(op.args[1], int) else op.args[1][0]), e.rank(op.args[0]))})",
    "roll": lambda e, op, i: f"roll({e.text(op.args[0])}, {_arg(op, 1, 'shifts') if isinstance(_arg(op, 1, 'shifts'), int) else _arg(op, 1, 'shifts')[0]}, axis = {e.axis(_arg(op, 2, 'dims') if isinstance(_arg(op, 2, 'dims'), int) else _arg(op, 2, 'dims')[0], e.rank(op.args[0]))})",
    "tril": _unary("tril"), "triu": _unary("triu"), "cumprod": lambda e, op, i: f"cumprod({e.text(op.args[0])}, axis = {e.axis(_arg(op, 1, 'dim'), e.rank(op.args[0]))})",
}

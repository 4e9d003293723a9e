"""Modules of PyTorch as layers and functions of the language: each handler gives an expression."""

from torch import nn

from ._text import Ref, commas, framework, number, refs_in, sizes


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
        bias = not m.affine or m.bias is not None
        if not m.affine or not bias or own is None:
            own = "batch_norm"
            settings.insert(1, f"spatial = {k}")
            if not m.affine:
                settings.append("affine = false")
            if not bias:
                settings.append("bias = false")
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
    more = ""
    if stride is not None and sizes(stride, n) != sizes(kernel, n):
        more += f", stride = {sizes(stride, n)}"
    if sizes(padding, n) != "0":
        more += f", padding = {sizes(padding, n)}"
    if sizes(dilation, n) != "1":
        more += f", dilation = {sizes(dilation, n)}"
    if ceil:
        more += ", ceil_mode = true"
    if kind == "avg" and not include:
        more += ", count_include_pad = false"
    if divisor:
        more += f", divisor_override = {divisor}"
    return f"{kind}_pool{n}d({x}, {sizes(kernel, n)}{more})"


def adaptive(e, op, x, size, n, kind="avg"):
    """A pool to `size`: over all, or over windows of one size where that divides the input's."""
    source = next(r for r in refs_in(op.args))
    old = (e.recorder.ops[source.op].shapes[source.index] if source.op != -1 else tuple(e.inputs[source.index].shape))[-n:]
    size = [size] * n if isinstance(size, int) else [o if s is None else s for s, o in zip(size, old)]
    if all(s == 1 for s in size):
        return f"{'mean' if kind == 'avg' else 'max'}({x}, axis = {list(range(-n, 0))}, keep = true)"
    if all(o % s == 0 for s, o in zip(size, old)):
        return f"{kind}_pool{n}d({x}, {sizes([o // s for s, o in zip(size, old)], n)})"
    if n != 2 or kind != "avg":
        e.fail(f"an adaptive pool of {list(old)} to {size} is not known\n  {op.where}")
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


MODULES = {
    "Linear": _linear, "NonDynamicallyQuantizableLinear": _linear, "Conv1d": _conv(1), "Conv2d": _conv(2), "Conv3d": _conv(3), "ConvTranspose1d": _conv(1, True), "ConvTranspose2d": _conv(2, True),
    "ConvTranspose3d": _conv(3, True), "BatchNorm1d": _batch_norm(None), "BatchNorm2d": _batch_norm(2), "BatchNorm3d": _batch_norm(3), "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm, "GroupNorm": _group_norm, "InstanceNorm1d": _instance_norm, "InstanceNorm2d": _instance_norm, "MaxPool1d": _pool("max", 1), "MaxPool2d": _pool("max", 2),
    "MaxPool3d": _pool("max", 3), "AvgPool1d": _pool("avg", 1), "AvgPool2d": _pool("avg", 2), "AvgPool3d": _pool("avg", 3),
    "AdaptiveAvgPool1d": lambda e, op, m, x, r: adaptive(e, op, x[0], m.output_size, 1), "AdaptiveAvgPool2d": lambda e, op, m, x, r: adaptive(e, op, x[0], m.output_size, 2),
    "AdaptiveAvgPool3d": lambda e, op, m, x, r: adaptive(e, op, x[0], m.output_size, 3), "AdaptiveMaxPool1d": lambda e, op, m, x, r: adaptive(e, op, x[0], m.output_size, 1, "max"),
    "AdaptiveMaxPool2d": lambda e, op, m, x, r: adaptive(e, op, x[0], m.output_size, 2, "max"), "AdaptiveMaxPool3d": lambda e, op, m, x, r: adaptive(e, op, x[0], m.output_size, 3, "max"), "Flatten": _flatten, "Unflatten": _flatten, "Identity": lambda e, op, m, x, r: x[0],
    "Dropout": _dropout, "Embedding": _embedding, "Upsample": _upsample, "MultiheadAttention": _attention, "ReLU": _call("relu"), "Sigmoid": _call("sigmoid"), "Tanh": _call("tanh"),
    "GELU": lambda e, op, m, x, r: f"gelu({x[0]})" if m.approximate == "none" else e.fail("GELU's tanh approximation is not known"), "SiLU": _call("silu"), "Softplus": _call("softplus", ("beta", "beta"), ("threshold", "threshold")),
    "LeakyReLU": _call("leaky_relu", ("negative_slope", "slope")), "ELU": _call("elu", ("alpha", "alpha")), "Softmax": _softmax("softmax"), "LogSoftmax": _softmax("log_softmax"),
    "ReLU6": lambda e, op, m, x, r: f"clamp({x[0]}, low = 0.0, high = 6.0)", "Hardtanh": lambda e, op, m, x, r: f"clamp({x[0]}, low = {number(m.min_val)}, high = {number(m.max_val)})",
}
PLAIN = tuple(getattr(nn, n) for n in MODULES if hasattr(nn, n))

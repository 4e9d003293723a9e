"""Writes ranges.safetensors: every function and surrogate of the library over the whole range of f32, and its gradient, as
PyTorch 2, SpikingJelly 2.0, snnTorch and Norse compute them. Run in this folder."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from norse.torch.functional import threshold as norse
from safetensors.numpy import save_file
from snntorch import surrogate as snntorch
from spikingjelly.activation_based import neuron
from spikingjelly.activation_based import surrogate as jelly

magnitudes = [0.0, 1e-45, 1e-40, 1.1754944e-38, 1e-30, 1e-20, 1e-10, 1e-6, 1e-4, 1e-3, 0.01, 0.1, 0.25, 0.3, 0.49999997, 0.5, 0.50000006, 0.75, 0.9999999, 1.0,
              1.0000001, 1.5, 2.0, 2.5, 3.0, 3.1415927, 4.0, 5.0, 7.5, 9.0, 10.0, 15.0, 16.5, 20.0, 20.5, 30.0, 44.0, 50.0, 80.0, 87.0, 88.5, 88.9,
              90.0, 100.0, 103.5, 104.5, 150.0, 1e3, 12345.678, 1e5, 8388607.5, 1e7, 1e9, 1e15, 1.8e19, 2e19, 1e25, 1e30, 1.7e38, 3.4028235e38, math.inf]
x = np.array([s * m for m in magnitudes for s in (1, -1)] + [math.nan], dtype=np.float32)
some = np.array([s * m for m in [0.0, 1e-40, 1e-20, 1e-3, 0.5, 1.0, 1.5, 2.0, 3.0, 10.0, 88.5, 1e5, 1e20, 3e38, math.inf] for s in (1, -1)] + [math.nan],
                dtype=np.float32)
a, b = (g.reshape(-1).copy() for g in np.meshgrid(some, some, indexing="ij"))
few = np.array([0.0, 1e-20, 1.0, -2.0, 88.5, -104.0, 1e4, -1e20, 3e38, -3e38], dtype=np.float32)
rows = np.stack([g.reshape(-1) for g in np.meshgrid(few, few, few, indexing="ij")], axis=-1)

# name: (text in snnc, PyTorch)
unary = {
    "abs": ("abs(x)", torch.abs), "exp": ("exp(x)", torch.exp), "log": ("log(x)", torch.log), "sqrt": ("sqrt(x)", torch.sqrt),
    "sin": ("sin(x)", torch.sin), "cos": ("cos(x)", torch.cos), "tanh": ("tanh(x)", torch.tanh), "erf": ("erf(x)", torch.erf),
    "floor": ("floor(x)", torch.floor), "round": ("round(x)", torch.round), "negative": ("-x", torch.neg), "relu": ("relu(x)", torch.relu),
    "sigmoid": ("sigmoid(x)", torch.sigmoid), "leaky_relu": ("leaky_relu(x)", F.leaky_relu), "elu": ("elu(x)", F.elu), "gelu": ("gelu(x)", F.gelu),
    "silu": ("silu(x)", F.silu), "softplus": ("softplus(x)", F.softplus), "softplus_beta": ("softplus(x, beta = 3.0, threshold = 5.0)", lambda x: F.softplus(x, 3.0, 5.0)),
    "clamp": ("clamp(x, low = -1.0, high = 2.0)", lambda x: torch.clamp(x, -1.0, 2.0)), "clamp_low": ("clamp(x, low = 0.5)", lambda x: torch.clamp(x, min=0.5)),
    "square": ("x ^ 2", lambda x: x ** 2), "cube": ("x ^ 3", lambda x: x ** 3), "reciprocal": ("1 / x", lambda x: 1 / x),
    "power_minus_2": ("x ^ -2", lambda x: x ** -2), "power_half": ("x ^ 0.5", lambda x: x ** 0.5), "power_2_5": ("x ^ 2.5", lambda x: x ** 2.5),
    "expm1": ("expm1(x)", torch.expm1), "log1p": ("log1p(x)", torch.log1p), "two_to_the": ("2.0 ^ x", lambda x: 2.0 ** x),
}
binary = {
    "add": ("a + b", torch.add), "sub": ("a - b", torch.sub), "mul": ("a * b", torch.mul), "div": ("a / b", torch.div), "rem": ("a % b", torch.remainder),
    "pow": ("a ^ b", torch.pow), "maximum": ("maximum(a, b)", torch.maximum), "minimum": ("minimum(a, b)", torch.minimum),
}
row = {
    "sum": ("sum(r, axis = -1)", lambda r: r.sum(-1)), "mean": ("mean(r, axis = -1)", lambda r: r.mean(-1)), "max": ("max(r, axis = -1)", lambda r: r.max(-1).values),
    "min": ("min(r, axis = -1)", lambda r: r.min(-1).values),
    "variance": ("variance(r, axis = -1)", lambda r: r.var(-1, unbiased=False)), "softmax": ("softmax(r)[..., 0]", lambda r: r.softmax(-1)[:, 0]),
    "log_softmax": ("log_softmax(r)[..., 1]", lambda r: r.log_softmax(-1)[:, 1]), "logsumexp": ("logsumexp(r)", lambda r: r.logsumexp(-1)),
    "cumsum": ("cumsum(r, axis = -1)[..., 2]", lambda r: r.cumsum(-1)[:, 2]), "cumprod": ("cumprod(r)[..., 2]", lambda r: r.cumprod(-1)[:, 2]),
}
surrogate = {
    "sigmoid": jelly.Sigmoid(), "atan": jelly.ATan(), "piecewise_quadratic": jelly.PiecewiseQuadratic(), "piecewise_exp": jelly.PiecewiseExp(),
    "soft_sign": jelly.SoftSign(), "super_spike": jelly.SuperSpike(), "erf": jelly.Erf(), "nonzero_sign_log_abs": jelly.NonzeroSignLogAbs(),
    "piecewise_leaky_relu": jelly.PiecewiseLeakyReLU(), "s2nn": jelly.S2NN(), "q_pseudo_spike": jelly.QPseudoSpike(), "leaky_k_relu": jelly.LeakyKReLU(),
    "log_tailed_relu": jelly.LogTailedReLU(), "squarewave_fourier_series": jelly.SquarewaveFourierSeries(), "rect": jelly.Rect(),
    "deterministic_pass": jelly.DeterministicPass(), "fast_sigmoid": snntorch.fast_sigmoid(), "straight_through": snntorch.straight_through_estimator(),
    "superspike": lambda x: norse.superspike_fn(x, torch.tensor(100.0)), "triangle": lambda x: norse.triangle_fn(x, torch.tensor(100.0)),
}

# Three steps: one from the whole range, and two on which it works.
steps = np.stack([x, np.full_like(x, 0.4), np.full_like(x, 1.3)])
neurons = {
    "if_node()": neuron.IFNode(), "if_node(v_reset = none)": neuron.IFNode(v_reset=None), "lif()": neuron.LIFNode(), "lif(v_reset = none)": neuron.LIFNode(v_reset=None),
    "lif(decay_input = false, detach_reset = true)": neuron.LIFNode(decay_input=False, detach_reset=True), "lif(surrogate = atan())": neuron.LIFNode(surrogate_function=jelly.ATan()),
    "qif()": neuron.QIFNode(), "eif()": neuron.EIFNode(), "izhikevich()": neuron.IzhikevichNode(), "klif()": neuron.KLIFNode(), "plif()": neuron.ParametricLIFNode(),
    "cuba_lif()": neuron.CUBALIFNode(), "complementary_lif()": neuron.ComplementaryLIFNode(),
}

out = {"x": x, "a": a, "b": b, "r": rows, "s": steps}
program = ["// Written by generate.py."]


def keep(name, inputs, function, text):
    given = [torch.tensor(v, requires_grad=True) for v in inputs.values()]
    y = function(*given)
    y.sum().backward()
    out[f"{name}.out"] = y.detach().float().numpy().copy()
    for n, g in zip(inputs, given):
        out[f"{name}.grad.{n}"] = torch.zeros_like(g).numpy() if g.grad is None else g.grad.numpy().copy()
    types = ", ".join(f"{n}: f32[N, 3]" if n == "r" else f"{n}: f32[T, N]" if n == "s" else f"{n}: f32[N]" for n in inputs)
    program.append(f"net {name}({types}) -> f32[{'T, N' if 's' in inputs else 'N'}] {{ {text} }}")
    body, value = text.rsplit("; ", 1) if "layer" in text else ("", text)
    program[-1] = program[-1].replace(";", "\n   ")
    program.append(f"net {name}_sum({types}) -> f32[] {{ {body + chr(10) if body else ''}    sum({value}) }}".replace("{     ", "{ "))


for name, (text, function) in unary.items():
    keep(f"unary_{name}", {"x": x}, function, text)
for name, (text, function) in binary.items():
    keep(f"binary_{name}", {"a": a, "b": b}, function, text)
for name, (text, function) in row.items():
    keep(f"row_{name}", {"r": rows}, function, text)
for name, function in surrogate.items():
    settings = "alpha = 100.0" if name == "triangle" else ""
    keep(f"surrogate_{name}", {"x": x}, function, f"spike(x, {name}({settings}))")
for number, (text, module) in enumerate(neurons.items()):
    module.step_mode = "m"
    keep(f"neuron_{number}_{text[:text.index('(')]}", {"s": steps}, module, f"layer n = {text}; s |> n")
save_file(out, "ranges.safetensors")
open("ranges.snn", "w").write("\n".join(program) + "\n")

"""Makes steps.safetensors for steps.snn from PyTorch, SpikingJelly and Norse (BSD 3-clause, Open-Intelligence and LGPL 3; nothing of theirs is copied).

python steps.py writes it beside itself; needs torch, spikingjelly, norse and safetensors."""
import pathlib

import norse.torch as norse
import torch
from safetensors.torch import save_file
from spikingjelly.activation_based import functional, layer, neuron, surrogate

torch.manual_seed(0)
T, B = 6, 4
leaf = lambda *shape: (torch.rand(*shape) * 3).requires_grad_()
x, image, probe = leaf(T, B, 5), leaf(T, B, 3, 4, 4), torch.randn(T, B, 5)
out = {"x": x, "image": image, "probe": probe}
a = layer.BatchNormThroughTime1d(T, 5)
b = neuron.MPBNLIFNode(out_features=5, surrogate_function=surrogate.ATan(), step_mode="m")
c = layer.ThresholdDependentBatchNorm2d(1.0, 0.5, 3)
for name, m in (("a", a), ("b", b), ("c", c)):
    functional.set_step_mode(m, "m")
    for p in m.parameters():
        p.data.add_(torch.randn_like(p) * 0.2)
    for k, v in m.state_dict().items():
        if "running_mean" in k:
            v.copy_(torch.randn_like(v) * 0.3)
        if "running_var" in k:
            v.copy_(torch.rand_like(v) + 0.5)
    out.update({f"{name}.{k}": v.clone() for k, v in m.state_dict().items() if "num_batches" not in k and v is not None})
for mode in ("eval", "train"):
    for m in (a, b, c):
        m.train(mode == "train")
        m.reset() if hasattr(m, "reset") else None
    ya, yb, yc = a(x), b(x), c(image)
    loss = ((ya + yb) * probe).sum() + (yc**3).sum()
    named = {"x": x, "image": image, **{f"{n}.{k}": p for n, m in (("a", a), ("b", b), ("c", c)) for k, p in m.named_parameters()}}
    grads = torch.autograd.grad(loss, list(named.values()))
    out.update({f"norms {mode}.{k}": v for k, v in zip(("bntt", "mpbn", "tdbn"), (ya, yb, yc))})
    out.update({f"norms_loss {mode}.loss": loss, **{f"norms_loss {mode}.grad.{k}": g for k, g in zip(named, grads)}})
out.update({f"norms train.update.{n}.{k}": v.clone() for n, m in (("a", a), ("b", b), ("c", c)) for k, v in m.state_dict().items() if "running" in k})

T = 20
y, p4, p3 = leaf(T, 2, 4), torch.randn(T, 2, 4), torch.randn(T, 2, 3)
y.data.mul_(8)
cell = norse.LIFRefracCell(norse.LIFRefracParameters(rho_reset=torch.tensor(3.0)))
recurrent = norse.LSNNRecurrent(4, 3, p=norse.LSNNParameters(v_th=torch.tensor(0.3), beta=torch.tensor(0.4), tau_adapt_inv=torch.tensor(20.0)))
state, spikes = None, []
for v in y:
    z, state = cell(v, state)
    spikes.append(z)
s1, (s2, _) = torch.stack(spikes), recurrent(y)
weights = {"r.input_weights": recurrent.input_weights, "r.recurrent_weights": recurrent.recurrent_weights}
loss = (s1 * p4).sum() + (s2 * p3).sum()
grads = torch.autograd.grad(loss, [y, *weights.values()])
out.update({"y": y, "probe4": p4, "probe3": p3, **weights, "norse eval.refractory": s1, "norse eval.adaptive": s2, "norse_loss eval.loss": loss})
out.update({f"norse_loss eval.grad.{k}": g for k, g in zip(("x", *weights), grads)})

rows, columns, delays = torch.randint(4, (12,)), torch.randint(5, (12,)), torch.randint(4, (12,))
values = torch.randn(12, requires_grad=True)
dense = torch.zeros(4, 5).index_put((rows, columns), values, accumulate=True)
plain = x @ dense.T
late = 0
for k in range(4):
    w = torch.zeros(4, 5).index_put((rows, columns), torch.where(delays == k, values, 0.0), accumulate=True)
    late = late + torch.cat([torch.zeros(k, 4, 4), (x @ w.T)[: 6 - k]])
loss = (plain**2).sum() + (late**3).sum()
grads = torch.autograd.grad(loss, [x, values])
out.update({"rows": rows, "columns": columns, "delays": delays, "values": values, "sparse eval.plain": plain, "sparse eval.late": late, "sparse_loss eval.loss": loss})
out.update({"sparse_loss eval.grad.x": grads[0], "sparse_loss eval.grad.values": grads[1]})
save_file({k: v.detach().clone().contiguous() for k, v in out.items()}, pathlib.Path(__file__).parent / "steps.safetensors")

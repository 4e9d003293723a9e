"""Makes plasticity.safetensors for plasticity.snn: what SpikingJelly's learners compute (Open-Intelligence licence; nothing of theirs is copied).

python plasticity.py writes it beside itself; needs torch, spikingjelly and safetensors."""
import pathlib

import torch
from safetensors.torch import save_file
from spikingjelly.activation_based import layer, learning, neuron

torch.manual_seed(0)
T, B = 12, 2
x = (torch.rand(T, B, 6) < 0.5).float()
reward = torch.randn(T, B)
w = torch.rand(4, 6) * 0.4


def net():
    fc = layer.Linear(6, 4, bias=False)
    fc.weight.data.copy_(w)
    return fc, neuron.IFNode()


all_ = {"x": x, "reward": reward, "w": w, "learner.weight": w}
with torch.no_grad():
    for name, f in (("plain", lambda v: torch.ones_like(v)), ("by_weight", lambda v: v)):
        fc, sn = net()
        rule = learning.STDPLearner("s", fc, sn, 2.0, 3.0, f_pre=f, f_post=f)
        s = torch.stack([sn(fc(v)) for v in x])
        all_["s"], all_[f"rules.{name}"] = s, rule.step(on_grad=False)
    fc, sn = net()
    rule = learning.MSTDPLearner("s", fc, sn, 2.0, 3.0)
    total = torch.zeros(4, 6)
    for v, r in zip(x, reward):
        sn(fc(v))
        total += rule.step(r, on_grad=False)
    all_["rules.rewarded"] = total
    fc, sn = net()
    rule = learning.MSTDPETLearner("s", fc, sn, 2.0, 3.0, 4.0)
    total, spikes = torch.zeros(4, 6), []
    for v, r in zip(x[:, 0], reward[:, 0]):
        spikes.append(sn(fc(v)))
        total += rule.step(r, on_grad=False)
    all_.update({"x1": x[:, 0].clone(), "s1": torch.stack(spikes), "reward1": reward[:, 0].clone(), "traced.change": total})
    fc, sn = net()
    rule = learning.STDPLearner("s", fc, sn, 2.0, 3.0)
    spikes = []
    for v in x:
        spikes.append(sn(fc(v)))
        fc.weight += 0.05 * rule.step(on_grad=False)
    all_.update({"online.spikes": torch.stack(spikes), "online.weight": fc.weight.detach().clone()})
save_file({k: v.clone().contiguous() for k, v in all_.items()}, pathlib.Path(__file__).parent / "plasticity.safetensors")

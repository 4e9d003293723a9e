"""Programs of live modules beside the modules: outputs (spikes are equal) and gradients (1e-4 of the largest element). Needs PyTorch; see `.ci/python`.

With a framework missing its models are skipped by name. `python tests/test_torch.py` prints the table of the book.
"""

import pathlib
import sys
import time
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import snnc
from snnc._torch import reset, tensors_in

warnings.filterwarnings("ignore")


class Convolutional(nn.Module):
    """Conv, batch norm, pools, a parameter in arithmetic, chunk and cat."""

    def __init__(self):
        super().__init__()
        self.c, self.bn, self.f = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.w = nn.Parameter(torch.rand(8))
        self.bn.running_mean.uniform_()
        self.bn.running_var.uniform_(1, 2)

    def forward(self, x):
        y = F.relu(self.bn(self.c(x))) * self.w.view(1, -1, 1, 1)
        y = F.avg_pool2d(y, 2) + F.max_pool2d(y, 2).clamp(0, 1)
        a, b = y.mean((2, 3)).chunk(2, dim=1)
        return F.log_softmax(self.f(torch.cat([b, a], 1)).exp().sqrt(), -1)


class Pools(nn.Module):
    """Every setting of pools, as modules and as functions."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
        self.c, self.d = nn.AvgPool2d((2, 3), 2, (1, 0), divisor_override=5), nn.AvgPool2d(3, 2, 1, ceil_mode=True)
        self.e, self.f = nn.MaxPool3d((2, 1, 3), dilation=(1, 1, 2), ceil_mode=True), nn.AvgPool3d(2, 1, 1, ceil_mode=True, count_include_pad=False)

    def forward(self, x):
        y = x.flatten(2)
        line = F.max_pool1d(y, 3, 2, 1, 2, True).mean(-1) + F.avg_pool1d(y, 4, 3, 2, True, False).mean(-1)
        z = x.unflatten(2, (4, 2))
        deep = F.max_pool3d(z, 2, ceil_mode=True).mean((2, 3, 4)) + F.avg_pool3d(z, 2, divisor_override=3).mean((2, 3, 4)) + self.e(z).mean((2, 3, 4)) + self.f(z).mean((2, 3, 4))
        return deep + sum(p(x).mean((2, 3)) for p in (self.a, self.b, self.c, self.d)) + F.max_pool2d(x, 2, ceil_mode=True).mean((2, 3)) + line


class Attention(nn.Module):
    """Attention written with matmul and softmax, layer norm, GELU, a residual."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(12, 36), nn.Linear(12, 12), nn.LayerNorm(12)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        a = torch.softmax(q @ k.transpose(-2, -1) * (c // 2) ** -0.5, dim=-1)
        return x + F.gelu(self.out((a @ v).transpose(1, 2).reshape(b, n, c)))


class FastSigmoidStep(torch.autograd.Function):
    """A step with a derivative of its own, as people write it by hand."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        out = torch.zeros_like(u)
        out[u > 0] = 1.0
        return out

    @staticmethod
    def backward(ctx, g):
        (u,) = ctx.saved_tensors
        return g.clone() / (10.0 * torch.abs(u) + 1.0) ** 2


class BoxStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, width):
        ctx.save_for_backward(u)
        ctx.width = width
        return (u >= 0).float()

    @staticmethod
    def backward(ctx, g):
        (u,) = ctx.saved_tensors
        return g * (u.abs() < ctx.width).float() / ctx.width, None


class HandWritten(nn.Module):
    """Neurons without a framework: two loops over time, states of its own, the steps in the second axis."""

    def __init__(self):
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(6, 9)), nn.Parameter(torch.randn(9, 3))

    def forward(self, x):
        n, steps = x.shape[0], x.shape[1]
        h = torch.einsum("abc,cd->abd", (x, self.w1))
        syn, mem, spikes = torch.zeros(n, 9), torch.zeros(n, 9), []
        for t in range(steps):
            out = FastSigmoidStep.apply(mem - 1.0)
            new_syn, mem = 0.8 * syn + h[:, t], (0.9 * mem + syn) * (1.0 - out.detach())
            syn = new_syn
            spikes.append(out)
        spikes = torch.stack(spikes, dim=1)
        h = torch.einsum("abc,cd->abd", (spikes, self.w2))
        flt, out, trace = torch.zeros(n, 3), torch.zeros(n, 3), []
        for t in range(steps):
            flt, out = 0.8 * flt + h[:, t], 0.9 * out + flt
            trace.append(out)
        return torch.stack(trace, dim=1), spikes


class HandWrittenInto(nn.Module):
    """A learned decay, and what each step gives written into a tensor."""

    def __init__(self):
        super().__init__()
        self.fc, self.out, self.beta = nn.Linear(6, 8), nn.Linear(8, 3), nn.Parameter(torch.tensor(0.9))

    def forward(self, x):
        mem, out = torch.zeros(x.shape[1], 8), torch.zeros(x.shape[0], x.shape[1], 3)
        for t in range(x.shape[0]):
            mem = self.beta * mem + self.fc(x[t])
            spikes = BoxStep.apply(mem - 1.0, 0.5)
            mem = mem - spikes
            out[t] = self.out(spikes)
        return out


class Graph(nn.Module):
    """Messages along edges, which are given as indices."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x, source, target):
        degree = torch.bincount(target, minlength=x.shape[0]).float().clamp_min(1)
        norm = degree.rsqrt()
        messages = self.fc(x).index_select(0, source) * (norm[source] * norm[target])[:, None]
        return torch.zeros(x.shape[0], 4).index_add(0, target, messages)


def plain():
    yield "messages along edges", Graph(), (torch.rand(10, 6), torch.randint(10, (40,)), torch.randint(10, (40,)))
    yield "neurons by hand, SpyTorch's way", HandWritten(), (torch.rand(4, 12, 6) * 3,)
    yield "neurons by hand, a learned decay", HandWrittenInto(), (torch.rand(10, 4, 6) * 3,)
    yield "plain conv, pools, arithmetic", Convolutional(), (torch.rand(4, 3, 8, 8),)
    yield "plain pools with every setting", Pools(), (torch.randn(2, 3, 8, 7),)
    yield "plain attention", Attention(), (torch.rand(2, 5, 12),)
    yield "plain layers", nn.Sequential(nn.Conv1d(3, 6, 3, stride=2), nn.BatchNorm1d(6), nn.SiLU(), nn.ConvTranspose1d(6, 4, 4, stride=2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 16, 5), nn.Softmax(-1)), (torch.randn(3, 3, 16),)


def over_steps(T, cell):
    """Loops over time in Python."""

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.n1, self.fc2, self.n2 = nn.Linear(6, 9), cell(), nn.Linear(9, 3), cell()

        def forward(self, x):
            total = 0
            for t in range(T):
                total = total + self.n2(self.fc2(self.n1(self.fc1(x[t]))))
            return total / T

    return Loop()


def spikingjelly():
    from spikingjelly.activation_based import functional, layer, neuron, rnn, surrogate
    from spikingjelly.activation_based.model import maxformer, ms_resnet, parametric_lif_net, qkformer, sew_resnet, spike_driven_transformer, spikformer, spiking_resnet, spiking_vgg

    torch.manual_seed(1)
    x = (torch.rand(7, 4, 6) * 5,)
    for v_reset in (0.0, None):
        for name, make in {
            "IFNode": lambda **k: neuron.IFNode(**k),
            "LIFNode": lambda **k: neuron.LIFNode(tau=3.0, **k),
            "LIFNode decay_input=False": lambda **k: neuron.LIFNode(tau=3.0, decay_input=False, **k),
            "ParametricLIFNode": lambda **k: neuron.ParametricLIFNode(init_tau=1.7, **k),
            "QIFNode": lambda **k: neuron.QIFNode(v_threshold=1.0, v_rest=0.0, v_c=0.8, a0=1.0, **k),
            "EIFNode": lambda **k: neuron.EIFNode(v_threshold=1.0, v_rest=0.0, theta_rh=0.8, delta_T=1.0, **k),
        }.items():
            if v_reset is None and name[:3] in ("QIF", "EIF"):
                continue
            yield f"{name} v_reset={v_reset}", nn.Sequential(layer.Linear(6, 9, step_mode="m"), make(v_reset=v_reset, step_mode="m", detach_reset=True)), x
    for related in (False, True):
        liaf = neuron.LIAFNode(torch.relu, related, tau=2.5, step_mode="m")
        yield f"LIAFNode threshold_related={related}, a sequence", nn.Sequential(layer.Linear(6, 9, step_mode="m"), liaf), x
        yield f"LIAFNode threshold_related={related}", over_steps(5, lambda related=related: neuron.LIAFNode(torch.relu, related, tau=2.5)), (torch.rand(5, 4, 6) * 5,)
    for s in (surrogate.ATan(), surrogate.Sigmoid(2.0), surrogate.PiecewiseQuadratic(), surrogate.SoftSign(), surrogate.Erf(), surrogate.PiecewiseLeakyReLU(), surrogate.NonzeroSignLogAbs(), surrogate.Rect() if hasattr(surrogate, "Rect") else surrogate.ATan(3.0)):
        yield f"surrogate {type(s).__name__}", nn.Sequential(layer.Linear(6, 9, step_mode="m"), neuron.LIFNode(surrogate_function=s, step_mode="m"), layer.Linear(9, 4, step_mode="m")), x
    sequence = (torch.rand(7, 4, 6) * 5,)

    def after_linear(n, multi=True):
        net = nn.Sequential(layer.Linear(6, 9), n)
        if multi:
            functional.set_step_mode(net, "m")
        return net

    yield "SlidingPSN", after_linear(neuron.SlidingPSN(3)), sequence
    yield "MPBNLIFNode", after_linear(neuron.MPBNLIFNode(out_features=9)), sequence
    yield "SynapseFilter, learned", after_linear(nn.Sequential(neuron.IFNode(), layer.SynapseFilter(tau=3.0, learnable=True))), sequence
    yield "MultiStepContainer", layer.MultiStepContainer(nn.Linear(6, 9), neuron.LIFNode(tau=3.0)), sequence
    table = neuron.few_spike.FewSpikeTable(torch.rand(4) * 2, torch.rand(4), torch.rand(4))
    yield "FewSpikeNode", nn.Sequential(nn.Linear(6, 9), neuron.FewSpikeNode(table)), (torch.rand(4, 6) * 5,)

    class Potential(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.fc, self.n = nn.Linear(6, 9), n

        def forward(self, x):
            v = self.n(self.fc(x))
            return torch.stack(v) if isinstance(v, list) else v

    yield "NonSpikingLIFNode", Potential(neuron.NonSpikingLIFNode(tau=3.0)), sequence
    yield "NonSpikingIFNode, the last potential", Potential(neuron.NonSpikingIFNode(decode="last_mem")), sequence
    images = (torch.rand(4, 2, 4, 8, 8) * 3,)
    for norm in (layer.BatchNormThroughTime2d(4, 4), layer.ThresholdDependentBatchNorm2d(1.0, 1.0, 4), layer.TemporalEffectiveBatchNorm2d(4, 4)):
        n = nn.Sequential(layer.Conv2d(4, 4, 3, padding=1), norm, neuron.IFNode())
        functional.set_step_mode(n, "m")
        yield type(norm).__name__, n, images
    n = nn.Sequential(layer.MultiDimensionalAttention(4, 4, reduction_t=2, reduction_c=2, kernel_size=3), neuron.IFNode())
    functional.set_step_mode(n, "m")
    yield "MultiDimensionalAttention", n, images

    class Recurrent(nn.Module):
        def __init__(self, cell):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            return self.cell(x)[0]

    for cell in (rnn.SpikingLSTM, rnn.SpikingGRU, rnn.SpikingVanillaRNN):
        yield cell.__name__, Recurrent(cell(6, 8, 1)), (torch.rand(12, 3, 6) * 3,)
    yield "single-step loop", over_steps(5, lambda: neuron.LIFNode(surrogate_function=surrogate.ATan())), (torch.rand(5, 4, 6) * 5,)
    c = nn.Sequential(layer.Conv2d(2, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8), neuron.LIFNode(surrogate_function=surrogate.ATan()), layer.MaxPool2d(2), layer.Flatten(), layer.Linear(128, 10), neuron.IFNode())
    functional.set_step_mode(c, "m")
    yield "convolutional net", c, (torch.rand(5, 3, 2, 8, 8) * 3,)
    kw = dict(surrogate_function=surrogate.ATan(), detach_reset=True)
    lif = dict(spiking_neuron=neuron.LIFNode, **kw)
    image = (torch.rand(4, 2, 3, 32, 32) * 2,)
    for name, make, inputs in (
        ("sew_resnet18", lambda: sew_resnet.sew_resnet18(pretrained=False, cnf="ADD", spiking_neuron=neuron.IFNode, **kw), image),
        ("spiking_resnet18", lambda: spiking_resnet.spiking_resnet18(pretrained=False, spiking_neuron=neuron.IFNode, **kw), image),
        ("ms_resnet18", lambda: ms_resnet.ms_resnet18(spiking_neuron=neuron.IFNode, **kw), image),
        ("spiking_vgg11_bn", lambda: spiking_vgg.spiking_vgg11_bn(pretrained=False, spiking_neuron=neuron.IFNode, **kw), (torch.rand(2, 1, 3, 64, 64) * 2,)),
        ("MNISTNet", lambda: parametric_lif_net.MNISTNet(channels=8, **lif), (torch.rand(4, 2, 1, 28, 28) * 2,)),
        ("CIFAR10Net", lambda: parametric_lif_net.CIFAR10Net(channels=8, **lif), image),
        ("NMNISTNet", lambda: parametric_lif_net.NMNISTNet(channels=8, **lif), (torch.rand(3, 2, 2, 34, 34) * 2,)),
        ("spikformer_cifar10", lambda: spikformer.spikformer_cifar10(T=4), (torch.rand(2, 3, 32, 32) * 2,)),
        ("SpikeDrivenTransformer", lambda: spike_driven_transformer.SpikeDrivenTransformer(T=2, num_classes=10, embed_dims=64, num_heads=4, depths=2), (torch.rand(1, 3, 32, 32) * 2,)),
        ("maxformer_cifar", lambda: maxformer.maxformer_cifar(T=2, num_classes=10), (torch.rand(1, 3, 32, 32) * 2,)),
        ("qkformer_10_384", lambda: qkformer.qkformer_10_384(T=2, num_classes=10), (torch.rand(1, 3, 64, 64) * 2,)),
    ):
        m = make()
        functional.set_step_mode(m, "m")
        yield name, m, inputs


def snntorch():
    import snntorch as snn
    from snntorch import surrogate, utils

    torch.manual_seed(2)

    class Tutorial(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.lif1, self.fc2, self.lif2 = nn.Linear(20, 30), snn.Leaky(beta=0.95), nn.Linear(30, 10), snn.Leaky(beta=0.95)

        def forward(self, x):
            mem1, mem2, spikes, membranes = self.lif1.init_leaky(), self.lif2.init_leaky(), [], []
            for _ in range(25):
                spk1, mem1 = self.lif1(self.fc1(x), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                spikes.append(spk2)
                membranes.append(mem2)
            return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)

    class Steps(nn.Module):
        def __init__(self, cell, states, recurrent=False):
            super().__init__()
            self.fc, self.cell, self.states, self.recurrent = nn.Linear(6, 8), cell, states, recurrent

        def forward(self, x):
            state, spk, out = [torch.zeros(4, 8) for _ in range(self.states)], torch.zeros(4, 8), []
            for t in range(x.size(0)):
                given = [spk] + state if self.recurrent else state
                spk, *state = self.cell(self.fc(x[t]), *given)
                out.append(spk)
            return torch.stack(out)

    class HandMade(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.rec, self.lif, self.out = nn.Linear(6, 8), nn.Linear(8, 8), snn.Synaptic(alpha=0.5, beta=0.8), nn.Linear(8, 3)

        def forward(self, x):
            (syn, mem), spk, acc = self.lif.init_synaptic(), torch.zeros(x.shape[1], 8), torch.zeros(x.shape[1], 3)
            for t in range(x.shape[0]):
                spk, syn, mem = self.lif(self.fc(x[t]) + self.rec(spk), syn, mem)
                acc = acc * 0.9 + self.out(spk)
            return acc

    yield "tutorial 5", Tutorial(), (torch.rand(7, 20) * 2,)
    x = (torch.rand(9, 4, 6) * 3,)
    for reset_mechanism in ("subtract", "zero", "none"):
        yield f"Leaky {reset_mechanism}", Steps(snn.Leaky(beta=0.9, reset_mechanism=reset_mechanism), 1), x
    yield "Leaky without delay of the reset", Steps(snn.Leaky(beta=0.9, reset_delay=False), 1), x
    yield "Leaky, learned", Steps(snn.Leaky(beta=torch.rand(8), learn_beta=True, learn_threshold=True, spike_grad=surrogate.fast_sigmoid(25)), 1), x
    yield "Synaptic", Steps(snn.Synaptic(alpha=0.8, beta=0.9), 2), x
    yield "Alpha", Steps(snn.Alpha(alpha=0.9, beta=0.8), 3), x
    yield "Lapicque", Steps(snn.Lapicque(R=5.0, C=2.0), 1), x
    for reset_mechanism in ("none", "subtract", "zero"):
        yield f"SLSTM {reset_mechanism}", Steps(snn.SLSTM(8, 8, threshold=0.05, reset_mechanism=reset_mechanism), 2), x
    yield "SLSTM with other inputs than states", nn.Sequential(nn.Linear(6, 5), snn.SLSTM(5, 8, threshold=0.05, init_hidden=True)), (torch.rand(4, 6) * 3,)
    for name in ("fast_sigmoid", "straight_through_estimator", "triangular", "spike_rate_escape", "SFS", "heaviside"):
        yield f"surrogate {name}", Steps(snn.Leaky(beta=0.9, spike_grad=getattr(surrogate, name)()), 1), x
    for reset_mechanism in ("subtract", "zero"):
        yield f"RLeaky {reset_mechanism}, reset at once", Steps(snn.RLeaky(beta=0.9, linear_features=8, reset_mechanism=reset_mechanism, reset_delay=False), 1, True), x
        yield f"RSynaptic {reset_mechanism}, reset at once", Steps(snn.RSynaptic(alpha=0.8, beta=0.9, linear_features=8, reset_mechanism=reset_mechanism, reset_delay=False), 2, True), x
    yield "RLeaky to zero", Steps(snn.RLeaky(beta=0.9, linear_features=8, reset_mechanism="zero"), 1, True), x
    yield "RLeaky, one to one", Steps(snn.RLeaky(beta=0.9, all_to_all=False, V=0.5), 1, True), x
    yield "Synaptic, learned", Steps(snn.Synaptic(alpha=torch.rand(8), beta=torch.rand(8), learn_alpha=True, learn_beta=True, learn_threshold=True), 2), x
    yield "Alpha, reset by subtraction", Steps(snn.Alpha(alpha=0.9, beta=0.8, reset_mechanism="subtract"), 3), x
    yield "Leaky, a threshold for each neuron", Steps(snn.Leaky(beta=0.9, threshold=torch.rand(8)), 1), x
    yield "Leaky, graded spikes", Steps(snn.Leaky(beta=0.9, graded_spikes_factor=2.0), 1), x

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), snn.Leaky(beta=0.9, init_hidden=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5), snn.Leaky(beta=0.9, init_hidden=True, output=True))

        def forward(self, x):
            utils.reset(self.net)
            return tuple(torch.stack(v) for v in zip(*[self.net(x[t]) for t in range(x.shape[0])]))

    class ConvLSTM(nn.Module):
        def __init__(self, **settings):
            super().__init__()
            self.cell = snn.SConv2dLSTM(1, 4, 3, threshold=0.05, **settings)

        def forward(self, x):
            syn, mem = self.cell.init_sconv2dlstm()
            out = []
            for t in range(x.shape[0]):
                spk, syn, mem = self.cell(x[t], syn, mem)
                out.append(spk)
            return torch.stack(out)

    small = (torch.rand(5, 2, 1, 8, 8) * 3,)
    yield "hidden states, a convolutional net", Hidden(), small
    for settings in ({}, {"max_pool": 2}, {"avg_pool": 2, "bias": False}, {"reset_mechanism": "zero"}, {"reset_mechanism": "subtract"}):
        yield f"SConv2dLSTM {settings or ''}".strip(), ConvLSTM(**settings), small
    yield "RLeaky", Steps(snn.RLeaky(beta=0.9, linear_features=8), 1, True), x
    yield "recurrent connection by hand", HandMade(), x


def norse():
    import norse.torch as norse

    torch.manual_seed(3)

    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif, self.out, self.li = nn.Linear(6, 9), norse.LIFCell(), nn.Linear(9, 3), norse.LICell()

        def forward(self, x):
            s, l, v = None, None, []
            for t in range(x.shape[0]):
                z, s = self.lif(self.fc(x[t]) * 10, s)
                y, l = self.li(self.out(z), l)
                v.append(y)
            return torch.stack(v)

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = norse.SequentialState(nn.Linear(6, 9), norse.LIF(), nn.Linear(9, 3), norse.LI())

        def forward(self, x):
            return self.net(x * 20)[0]

    class Adaptive(nn.Module):
        def __init__(self, cell):
            super().__init__()
            self.fc, self.cell = nn.Linear(6, 9), cell

        def forward(self, x):
            s, out = None, []
            for t in range(x.shape[0]):
                z, s = self.cell(self.fc(x[t]) * 10, s)
                out.append(z)
            return torch.stack(out)

    yield "LSNNCell", Adaptive(norse.LSNNCell(norse.LSNNParameters(v_th=torch.tensor(0.2), beta=torch.tensor(0.3), tau_adapt_inv=torch.tensor(20.0)))), (torch.rand(20, 4, 6) * 4,)
    yield "LIFAdExCell", Adaptive(norse.LIFAdExCell(norse.LIFAdExParameters(v_th=torch.tensor(0.5)))), (torch.rand(20, 4, 6) * 4,)
    class Layer(nn.Module):
        def __init__(self, cell):
            super().__init__()
            self.fc, self.cell = nn.Linear(6, 9), cell

        def forward(self, x):
            return self.cell(self.fc(x) * 10)[0]

    x = (torch.rand(12, 4, 6) * 4,)
    for name in ("IAFCell", "LIBoxCell", "LIFBoxCell", "LIFExCell", "LIFRefracCell", "LIFAdExRefracCell"):
        yield name, Adaptive(getattr(norse, name)()), x
    yield "IzhikevichCell", Adaptive(norse.IzhikevichCell(norse.functional.izhikevich.tonic_spiking)), x
    for name in ("LSNNRecurrentCell", "LIFAdExRecurrentCell", "LIFExRecurrentCell", "LIFRefracRecurrentCell", "LIFAdExRefracRecurrentCell"):
        yield name, Adaptive(getattr(norse, name)(9, 7)), x
    for name in ("IAF", "LIFEx"):
        yield name, Layer(getattr(norse, name)()), x
    for name in ("LSNNRecurrent", "LIFAdExRecurrent", "LIFExRecurrent", "LIFRecurrent"):
        yield name, Layer(getattr(norse, name)(9, 7)), x
    yield "LIFCell, a time constant for each neuron", Adaptive(norse.LIFCell(norse.LIFParameters(tau_mem_inv=torch.rand(9) * 100))), x
    for method in ("triangle", "tanh", "circ", "heavi_erfc"):
        yield f"LIFExCell, surrogate {method}", Adaptive(norse.LIFExCell(norse.LIFExParameters(method=method, alpha=2.0))), x
    yield "LIFCell, LICell", Cells(), (torch.rand(12, 4, 6) * 4,)
    yield "SequentialState", Sequence(), (torch.rand(12, 4, 6),)


def models():
    for framework in (plain, spikingjelly, snntorch, norse):
        torch.manual_seed(0)
        try:
            for name, module, inputs in framework():
                yield framework.__name__, name, module, inputs
        except ImportError as e:
            warnings.warn(f"{framework.__name__} is not installed ({e}): its models are SKIPPED")


def difference(module, inputs):
    """The largest differences of outputs, and of gradients as a part of the largest element of each; and the seconds of the import."""
    module.eval()
    start = time.time()
    net = snnc.from_torch(module, inputs)
    seconds = time.time() - start
    compiled = net.as_module().eval()
    for p in module.parameters():
        p.grad = None
    ours, theirs = [[t.clone().requires_grad_(t.is_floating_point()) for t in inputs] for _ in range(2)]
    reset(module)
    want = module(*theirs)
    got = compiled(*ours)
    want, got = (list(v) if isinstance(v, tuple) else [v] for v in (want, got))
    outputs = max(float((w - g).abs().max()) for w, g in zip(want, got))
    torch.manual_seed(0)
    probes = [torch.randn_like(w) for w in want]
    sum((w * p).sum() for w, p in zip(want, probes)).backward()
    sum((g * p).sum() for g, p in zip(got, probes)).backward()
    reset(module)
    named = dict(compiled.named_parameters())
    pairs = list(zip((t.grad for t in theirs if t.requires_grad), (t.grad for t in ours if t.requires_grad)))
    for name, p in module.named_parameters():
        if p.grad is not None and float(p.grad.abs().max()) > 0:
            pairs.append((p.grad, named[name].grad))
    gradients = max(float((a - b).abs().max()) / max(float(a.abs().max()), 1e-6) for a, b in pairs if a is not None)
    return net, outputs, gradients, seconds


CASES = list(models())


@pytest.mark.parametrize("case", CASES, ids=[f"{f}: {n}" for f, n, *_ in CASES])
def test_model(case):
    _, _, module, inputs = case
    net, outputs, gradients, _ = difference(module, inputs)
    assert outputs <= 1e-5 and gradients <= 1e-4, (outputs, gradients, net.source)


def test_gradients_are_verified():
    from snnc import _torch

    torch.manual_seed(0)
    module = HandWrittenInto().eval()
    x = torch.rand(10, 4, 6) * 3
    module.fc.weight.grad = kept = torch.ones_like(module.fc.weight)
    right = snnc.from_torch(module, x, verify="gradients")
    assert module.fc.weight.grad is kept
    wrong = snnc.compile(right.source.replace("< 0.5", "< 0.25"), right.weights)
    assert wrong.source != right.source
    with pytest.raises(_torch.ImportProblem, match="the gradient of `beta` differs|the gradient of `fc.weight` differs"):
        _torch._verify_gradients(wrong, module, [x], "first")


def test_training_goes_as_the_original():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))
    x, label = torch.randn(32, 6), torch.randint(0, 3, (32,))
    compiled = snnc.optimise(module, x)
    losses = []
    for m in (module.train(), compiled.train()):
        torch.manual_seed(1)
        opt = torch.optim.Adam(m.parameters(), lr=0.01)
        for _ in range(20):
            opt.zero_grad()
            loss = F.cross_entropy(m(x), label)
            loss.backward()
            opt.step()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-4 and losses[0] < 1.0
    want = module.state_dict()
    for name, value in compiled.state_dict().items():
        assert torch.allclose(value, want[name], atol=1e-4), name
    compiled.load_state_dict({k: v for k, v in want.items() if "num_batches" not in k})


def test_new_weights_hold_for_every_shape_and_mode():
    """A shape that comes first after a step (the last batch, evaluation) sees the weights of then."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    compiled = snnc.optimise(module, torch.rand(4, 3)).eval()
    with torch.no_grad():
        for a, b in zip(compiled.parameters(), module.parameters()):
            a.add_(0.5)
            b.add_(0.5)
    for mode in (False, True, False):
        module.train(mode), compiled.train(mode)
        for n in (4, 7, 9):
            x = torch.rand(n, 3).requires_grad_()
            want = module(x)
            (g,) = torch.autograd.grad((want**2).sum(), x)
            y = x.detach().clone().requires_grad_()
            got = compiled(y)
            (h,) = torch.autograd.grad((got**2).sum(), y)
            assert torch.allclose(got, want, atol=1e-5) and torch.allclose(g, h, atol=1e-4), (mode, n)


def test_what_cannot_be_said_is_an_error_with_its_line():
    class Branches(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x * 2
            return x

    class Tripled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            return u * 2

        @staticmethod
        def backward(ctx, g):
            return g * 3

    class Straight(nn.Module):
        def forward(self, x):
            return Tripled.apply(x)

    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))
            self.w.register_hook(lambda g: g * 2)

        def forward(self, x):
            return x * self.w

    class Writes(nn.Module):
        def forward(self, x):
            y = x.clone()
            y[y > 0] = 0.0
            return y

    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.FractionalMaxPool2d(2, output_size=2)

        def forward(self, x):
            return self.inner(x)

    with pytest.raises(snnc.ImportProblem, match="x.sum"):
        snnc.from_torch(Branches(), torch.rand(3))
    with pytest.raises(snnc.ImportProblem, match="Tripled.*derivative of its own"):
        snnc.from_torch(Straight(), torch.rand(3))
    with pytest.raises(snnc.ImportProblem, match="`w` has a hook on its gradient"):
        snnc.from_torch(Hooked(), torch.rand(3))
    with pytest.raises(snnc.ImportProblem, match="writes into a part of a tensor(.|\n)*test_torch.py"):
        snnc.from_torch(Writes(), torch.rand(3))
    with pytest.raises(snnc.ImportProblem, match="fractional_max_pool2d.*`inner`.*FractionalMaxPool2d"):
        snnc.from_torch(Strange(), torch.rand(2, 3, 4, 4))


def test_command_line(tmp_path):
    import subprocess

    (tmp_path / "mine.py").write_text("import torch\ndef make():\n    torch.manual_seed(0)\n    return torch.nn.Linear(3, 2), torch.ones(4, 3)\n")
    subprocess.run([sys.executable, "-m", "snnc.import_torch", "mine:make", "-o", "out"], cwd=tmp_path, check=True)
    net = snnc.load(tmp_path / "out/model.snn", weights=tmp_path / "out/model.safetensors")
    torch.manual_seed(0)
    assert np.allclose(net(np.ones((4, 3), "f")), torch.nn.Linear(3, 2)(torch.ones(4, 3)).detach(), atol=1e-6)


def test_a_failed_verification_names_layer_and_step():
    """A program that was changed after the import stands for an import that is wrong."""
    from snnc import _torch

    spikingjelly = pytest.importorskip("spikingjelly.activation_based")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), spikingjelly.neuron.LIFNode(step_mode="m", v_threshold=0.2), nn.Linear(5, 4), spikingjelly.neuron.IFNode(step_mode="m", v_threshold=0.2)).eval()
    x = torch.rand(8, 2, 6)
    right = snnc.from_torch(net, x)
    wrong = snnc.compile(right.source.replace("if_node(v_threshold = 0.2", "if_node(v_threshold = 0.3"), right.weights)
    assert wrong.source != right.source
    with pytest.raises(snnc._torch.ImportProblem, match=r"first in the layer `3` at step \d+, element \[\d, \d\], which is 1 and becomes 0"):
        _torch._verify(wrong, net, [x], "first")


def keep_recorded(folder):
    """Writes what the smaller models import to, with inputs and what the modules give, for the tests that have no PyTorch."""
    folder.mkdir(exist_ok=True)
    for framework, name, module, inputs in CASES:
        if sum(p.numel() for p in module.parameters()) > 20_000 or sum(x.numel() for x in inputs) > 20_000:
            continue
        net = snnc.from_torch(module.eval(), inputs, verify=False)
        reset(module)
        with torch.no_grad():
            outputs = tensors_in(module(*inputs))
        reset(module)
        arrays = {f"weight.{k}": v for k, v in net.weights.items()}
        arrays.update({f"input.{i}": x.numpy() for i, x in enumerate(inputs)})
        arrays.update({f"output.{i}": y.numpy() for i, y in enumerate(outputs)})
        file = "".join(c if c.isalnum() else "_" for c in f"{framework} {name}")
        (folder / f"{file}.snn").write_text(net.source)
        np.savez_compressed(folder / f"{file}.npz", **arrays)


if __name__ == "__main__" and sys.argv[1:] == ["record"]:
    keep_recorded(pathlib.Path(__file__).parent / "recorded")
elif __name__ == "__main__":
    print("| Framework | Model | Largest difference of outputs | of gradients (part of the largest) | Import |\n|---|---|---|---|---|")
    for framework, name, module, inputs in CASES:
        _, outputs, gradients, seconds = difference(module, inputs)
        print(f"| {framework} | {name} | {outputs:.1e} | {gradients:.1e} | {seconds:.2f} s |", flush=True)

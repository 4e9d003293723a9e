"""The published networks of the benchmarks as PyTorch has them: SpikingJelly's own classes where it has them, else written from the
papers. Each function of `ALL` gives a module, its inputs by name (those of the loss too), its loss, and, where they differ, what the program
calls a weight of the module. Weights are scaled so that every layer fires: silent layers
would flatter sparse code. Licence: MIT or Apache-2.0, as the project's.
"""
import math
import re
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate

LIF = partial(neuron.LIFNode, surrogate_function=surrogate.ATan(), detach_reset=True)


def randomise(module, scale, shift):
    """Batch norms with statistics and weights that are not 0 and 1."""
    g = torch.Generator().manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=g) * 0.2)
            m.running_var.copy_(torch.rand(m.running_var.shape, generator=g) + 0.5)
            m.weight.data.copy_((torch.rand(m.weight.shape, generator=g) + 0.7) * scale)
            m.bias.data.copy_(torch.randn(m.bias.shape, generator=g) * 0.3 + shift)


def spikes(*shape, density):
    return (torch.rand(*shape) < density).float()


def prepared(module):
    functional.set_step_mode(module, "m")
    module.eval()
    randomise(module, 2.0, 0.5)
    return module


def probed(module, inputs):
    """Inputs and a loss that every output has a part in: a product with fixed random numbers."""
    functional.reset_net(module)
    with torch.no_grad():
        y = module(*inputs.values())
    probe = torch.randn_like(y)
    return {**inputs, "probe": probe}, lambda y: (y * probe).sum()


# ------------------------------------------------------------------ SpikingJelly's networks
def sew_resnet18():
    """SEW-ResNet-18, Fang et al. 2021: T 4, B 4, 64 x 64, ten classes."""
    from spikingjelly.activation_based.model.sew_resnet import sew_resnet18 as build
    m = build(cnf="ADD", spiking_neuron=LIF)
    m.fc = type(m.fc)(512, 10)
    m = prepared(m)
    name = lambda k: "model." + re.sub(r"\.(\d)\.", r".b\1.", k.replace("downsample.0", "down").replace("downsample.1", "down_bn"))
    return m, *probed(m, {"x": torch.rand(4, 4, 3, 64, 64)}), name


def spikformer():
    """Spikformer-4-256, Zhou et al. 2023: B 2, 32 x 32."""
    from spikingjelly.activation_based.model.spikformer import Spikformer
    m = Spikformer(T=4, img_size_h=32, img_size_w=32, patch_size=4, num_classes=10, embed_dims=256, num_heads=8, depths=4)
    m.eval()
    randomise(m, 2.0, 0.5)

    def name(k):
        for old, new in (("qkv_conv_bn.0", "qkv.conv"), ("qkv_conv_bn.1", "qkv.bn"), ("proj_conv_bn.0", "proj.conv"), ("proj_conv_bn.1", "proj.bn")):
            k = k.replace(old, new)
        k = re.sub(r"(fc\d)\.(\d)", lambda g: g[1] + (".conv", ".bn")[int(g[2])], k.replace("mlp.", ""))
        k = re.sub(r"blocks\.(\d)", lambda g: "blocks." + "rest." * int(g[1]) + "first", k)
        k = k.replace("patch_embed.positional_encoding", "position").replace("patch_embed.stages.", "stage")
        return "model." + k.replace("conv_bn.block.0", "conv").replace("conv_bn.block.1", "bn")

    return m, *probed(m, {"x": torch.rand(2, 3, 32, 32)}), name


def dvs_gesture():
    """The PLIF network for DVS128 Gesture, Fang et al. 2021: 64 channels, 64 x 64, T 16, B 2."""
    from spikingjelly.activation_based.model.parametric_lif_net import DVSGestureNet
    m = DVSGestureNet(64, spiking_neuron=neuron.ParametricLIFNode, surrogate_function=surrogate.ATan(), detach_reset=True)
    m.conv_fc[22], m.conv_fc[25] = layer.Linear(64 * 4, 512), layer.Linear(512, 110)
    m = prepared(m)
    with torch.no_grad():
        m.conv_fc[22].weight.abs_().mul_(1.5)
        m.conv_fc[25].weight.mul_(8)
    names = {str(4 * i + j): f"stages.{'rest.' * i}first.{n}" for i in range(5) for j, n in enumerate(("conv", "bn", "sn"))}
    names |= {"22": "fc1", "23": "sn1", "25": "fc2", "26": "sn2"}

    def name(k):
        _, i, rest = k.split(".", 2)
        return names[i] + "." + rest

    label = torch.randint(11, (2,))
    target = F.one_hot(label, 11).float()
    return m, {"x": spikes(16, 2, 2, 64, 64, density=0.1), "label": label}, lambda y: F.mse_loss(y.mean(0), target), name


# ------------------------------------------------------------------ from papers
class Sharp(torch.autograd.Function):
    """The surrogate of SuperSpike, Zenke and Ganguli 2018, with slope 10."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx, g):
        (u,) = ctx.saved_tensors
        return g / (10 * u.abs() + 1) ** 2


class Heterogeneous(nn.Module):
    """A recurrent net with time constants of its own for each neuron, Perez-Nieves et al. 2021, on the shape of Spiking Heidelberg Digits."""

    def __init__(self, inputs=700, hidden=256, classes=20):
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden, bias=False)
        self.back = nn.Linear(hidden, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, classes, bias=False)
        self.alpha = nn.Parameter(torch.exp(-1 / (5 + 10 * torch.rand(hidden))))
        self.beta = nn.Parameter(torch.exp(-1 / (10 + 20 * torch.rand(hidden))))

    def forward(self, x):
        i = v = out = torch.zeros(x.shape[1], self.alpha.shape[0])
        y, ys = torch.zeros(x.shape[1], self.fc2.out_features), []
        alpha, beta = self.alpha.clamp(0.36, 0.995), self.beta.clamp(0.36, 0.995)
        for t in range(len(x)):
            s = Sharp.apply(v - 1)
            following = (beta * v + (1 - beta) * i) * (1 - s.detach())
            i = alpha * i + self.fc1(x[t]) + self.back(out)
            v, out = following, s
            y = y + (self.fc2(s) - y) / 10
            ys.append(y)
        return torch.stack(ys).max(0)[0]


def shd():
    m = Heterogeneous()
    with torch.no_grad():
        m.fc1.weight.mul_(12).add_(0.35)
        m.back.weight.mul_(2)
        m.fc2.weight.mul_(4)
    label = torch.randint(20, (32,))
    return m, {"x": spikes(100, 32, 700, density=0.02), "label": label}, lambda y: F.cross_entropy(y, label)


class Dcls(nn.Module):
    """A delay for each synapse, a Gaussian over time, Hammouamri et al. 2024; time first."""

    def __init__(self, inputs, outputs, max_delay=24, sigma=2.5):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-1, 1) / inputs**0.5)
        self.delay = nn.Parameter(torch.rand(outputs, inputs) * max_delay)
        self.max_delay, self.sigma = max_delay, sigma

    def forward(self, x):
        k = torch.arange(self.max_delay + 1.0).reshape(-1, 1, 1)
        g = torch.exp(-(((k - self.delay) / self.sigma) ** 2) / 2)
        kernel = (self.weight * g / g.sum(0)).flip(0).permute(1, 2, 0)
        return F.conv1d(F.pad(x.permute(1, 2, 0), (self.max_delay, 0)), kernel).permute(2, 0, 1)


class DelayedLayer(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.dcls, self.bn = Dcls(inputs, outputs), nn.BatchNorm1d(outputs)
        self.lif = neuron.LIFNode(tau=1.05, surrogate_function=surrogate.ATan(5.0), detach_reset=True, step_mode="m")

    def forward(self, x):
        return self.lif(self.bn(self.dcls(x).flatten(0, 1)).unflatten(0, x.shape[:2]))


class Delayed(nn.Module):
    def __init__(self):
        super().__init__()
        self.h1, self.h2, self.out = DelayedLayer(140, 256), DelayedLayer(256, 256), Dcls(256, 20)

    def forward(self, x):
        return self.out(self.h2(self.h1(x))).softmax(-1).sum(0)


def delays():
    m = Delayed().eval()
    randomise(m, 2.0, 0.5)
    label = torch.randint(20, (16,))
    return m, {"x": spikes(100, 16, 140, density=0.05), "label": label}, lambda y: F.cross_entropy(y, label)


class S4D(nn.Module):
    """A diagonal state space, Gu et al. 2022, by its kernel and an FFT; time first."""

    def __init__(self, H, N):
        super().__init__()
        self.log_dt = nn.Parameter(torch.rand(H) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.C = nn.Parameter(torch.randn(H, N, 2) * 0.5**0.5)
        self.log_A_real = nn.Parameter(torch.full((H, N), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(N).expand(H, N).float().clone())
        self.D = nn.Parameter(torch.randn(H))

    def forward(self, x):
        L = len(x)
        A = -torch.exp(self.log_A_real) + 1j * self.A_imag
        dtA = A * torch.exp(self.log_dt)[:, None]
        C = torch.view_as_complex(self.C) * (torch.exp(dtA) - 1) / A
        k = 2 * torch.einsum("hn,hnl->hl", C, torch.exp(dtA[..., None] * torch.arange(L))).real
        u = x.permute(1, 2, 0)
        y = torch.fft.irfft(torch.fft.rfft(k, n=2 * L) * torch.fft.rfft(u, n=2 * L), n=2 * L)[..., :L]
        return (y + u * self.D[:, None]).permute(2, 0, 1)


class SpikingS4D(nn.Module):
    def __init__(self, H=64, N=16):
        super().__init__()
        self.s4d, self.mix = S4D(H, N), nn.Linear(H, H)
        self.lif1 = neuron.LIFNode(2.0, False, v_reset=None, surrogate_function=surrogate.ATan(), step_mode="m")
        self.lif2 = neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="m")

    def forward(self, x):
        return self.lif2(self.mix(self.lif1(self.s4d(x))))


def s4d():
    m = SpikingS4D()
    with torch.no_grad():
        m.mix.weight.mul_(8)
        m.s4d.log_dt.add_(1.0)
    return m, *probed(m, {"x": torch.randn(512, 4, 64)})


class Double(nn.Module):
    def __init__(self, C, out):
        super().__init__()
        self.conv1, self.bn1, self.sn1 = layer.Conv2d(C, out, 3, padding=1, bias=False), layer.BatchNorm2d(out), LIF()
        self.conv2, self.bn2, self.sn2 = layer.Conv2d(out, out, 3, padding=1, bias=False), layer.BatchNorm2d(out), LIF()

    def forward(self, x):
        return self.sn2(self.bn2(self.conv2(self.sn1(self.bn1(self.conv1(x))))))


class UNet(nn.Module):
    """A spiking U-Net, Kim et al. 2022, with a transposed convolution and an upsampling."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.bottom = Double(1, 4), Double(4, 8), Double(8, 16)
        self.up2, self.join2, self.join1 = layer.ConvTranspose2d(16, 8, 2, stride=2), Double(16, 8), Double(12, 4)
        self.up1 = layer.SeqToANNContainer(nn.Upsample(scale_factor=2, mode="bilinear"))
        self.head, self.pool = layer.Conv2d(4, 2, 1), layer.MaxPool2d(2)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(self.pool(a))
        d = self.join2(torch.cat([b, self.up2(self.bottom(self.pool(b)))], 2))
        return self.head(self.join1(torch.cat([a, self.up1(d)], 2))).mean(0)


def unet():
    mask = torch.randint(2, (4, 64, 64))
    return prepared(UNet()), {"x": torch.rand(4, 4, 1, 64, 64), "mask": mask}, lambda y: F.cross_entropy(y, mask)


def shifted(x, mix):
    return x * mix + torch.cat([torch.zeros_like(x[:1]), x[:-1]]) * (1 - mix)


class TimeMix(nn.Module):
    def __init__(self, C):
        super().__init__()
        for k in ("time_decay", "time_first"):
            setattr(self, k, nn.Parameter(torch.randn(C)))
        for k in ("mix_k", "mix_v", "mix_r"):
            setattr(self, k, nn.Parameter(torch.rand(C)))
        for k in ("key", "value", "receptance", "output"):
            setattr(self, k, nn.Linear(C, C, bias=False))

    def forward(self, x):
        r = torch.sigmoid(self.receptance(shifted(x, self.mix_r)))
        k, v = self.key(shifted(x, self.mix_k)), self.value(shifted(x, self.mix_v))
        w, u = -torch.exp(self.time_decay), self.time_first
        ys = []
        for t in range(len(x)):
            e = torch.stack([torch.exp((t - 1 - i) * w + k[i]) for i in range(t)] + [torch.exp(u + k[t])])
            ys.append((e * v[: t + 1]).sum(0) / e.sum(0))
        return self.output(r * torch.stack(ys))


class ChannelMix(nn.Module):
    def __init__(self, C):
        super().__init__()
        for k in ("mix_k", "mix_r"):
            setattr(self, k, nn.Parameter(torch.rand(C)))
        self.key, self.value = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)
        self.receptance = nn.Linear(C, C, bias=False)

    def forward(self, x):
        return torch.sigmoid(self.receptance(shifted(x, self.mix_r))) * self.value(torch.relu(self.key(shifted(x, self.mix_k))) ** 2)


class GPT(nn.Module):
    """A block of SpikeGPT, Zhu et al. 2023."""

    def __init__(self, C=128, words=20):
        super().__init__()
        self.emb = nn.Parameter(torch.randn(words, C))
        self.ln1, self.ln2, self.ln_out = nn.LayerNorm(C), nn.LayerNorm(C), nn.LayerNorm(C)
        self.att, self.ffn, self.head = TimeMix(C), ChannelMix(C), nn.Linear(C, words, bias=False)
        self.sn1 = neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="m")
        self.sn2 = neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="m")

    def forward(self, tokens):
        x = self.emb[tokens]
        x = x + self.sn1(self.att(self.ln1(x)))
        x = x + self.sn2(self.ffn(self.ln2(x)))
        return self.head(self.ln_out(x))


def gpt():
    m, tokens = GPT(), torch.randint(20, (64, 8))
    with torch.no_grad():
        for f in (m.att.output, m.ffn.value):
            f.weight.mul_(8)
    return m, {"tokens": tokens}, lambda y: F.cross_entropy(y[:-1].flatten(0, 1), tokens[1:].flatten())


class GraphConvolution(nn.Module):
    def __init__(self, C, out):
        super().__init__()
        self.lin = nn.Linear(C, out, bias=False)
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x, source, target, norm):
        messages = self.lin(x)[:, source] * norm[:, None]
        return torch.zeros(*x.shape[:2], messages.shape[-1]).index_add(1, target, messages) + self.bias


class SpikingGCN(nn.Module):
    """A spiking graph convolution, Zhu et al. 2022."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GraphConvolution(64, 64), GraphConvolution(64, 7)
        self.lif = neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="m")

    def forward(self, x, source, target):
        k = torch.bincount(target, minlength=x.shape[1]).float().rsqrt()
        norm = k[source] * k[target]
        return self.conv2(self.lif(self.conv1(x, source, target, norm)), source, target, norm).mean(0)


def gcn():
    m, N, E = SpikingGCN(), 1000, 5000
    with torch.no_grad():
        m.conv1.lin.weight.mul_(6)
    ends = lambda: torch.cat([torch.randint(N, (E,)), torch.arange(N)])
    label = torch.randint(7, (N,))
    return m, {"x": spikes(8, N, 64, density=0.2), "source": ends(), "target": ends(), "label": label}, lambda y: F.cross_entropy(y, label)


# ------------------------------------------------------------------ the small workloads
def linear(inputs, outputs, scale):
    fc = layer.Linear(inputs, outputs, bias=False, step_mode="m")
    fc.weight.data *= scale
    return fc


def plain(node):
    return node(surrogate_function=surrogate.ATan(), step_mode="m")


class Lif(nn.Module):
    def __init__(self):
        super().__init__()
        self.node = plain(neuron.LIFNode)

    def forward(self, x):
        return self.node(x)


def lif():
    """A LIF layer alone: 16 steps of 1,048,576 neurons. Its gradient is that of the input."""
    return Lif(), {"x": torch.rand(16, 1 << 20) * 2}, lambda y: y.sum()


class Mlp(nn.Module):
    """784-1024-1024-10, LIF after every layer; T 16, B 64."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = linear(784, 1024, 8.0), linear(1024, 1024, 8.0), linear(1024, 10, 8.0)
        self.n1, self.n2, self.n3 = (plain(neuron.LIFNode) for _ in range(3))

    def forward(self, x):
        return self.n3(self.fc3(self.n2(self.fc2(self.n1(self.fc1(x))))))


def spread(classes, label):
    target = F.one_hot(label, classes).float()
    return lambda y: F.mse_loss(y.mean(0), target)


def mlp(density=0.1):
    label = torch.arange(64) % 10
    return Mlp(), {"x": spikes(16, 64, 784, density=density), "label": label}, spread(10, label)


class Csnn(nn.Module):
    """SpikingJelly's CSNN for Fashion-MNIST: two blocks of 64 channels, two linear layers; T 4, B 16."""

    def __init__(self, c=64):
        super().__init__()
        conv = partial(layer.Conv2d, kernel_size=3, padding=1, bias=False, step_mode="m")
        norm, pool = partial(layer.BatchNorm2d, step_mode="m"), partial(layer.MaxPool2d, 2, 2, step_mode="m")
        self.c1, self.bn1, self.n1, self.p1 = conv(1, c), norm(c), plain(neuron.IFNode), pool()
        self.c2, self.bn2, self.n2, self.p2 = conv(c, c), norm(c), plain(neuron.IFNode), pool()
        self.fc1, self.n3, self.fc2, self.n4 = linear(c * 49, 1024, 2.0), plain(neuron.IFNode), linear(1024, 10, 2.0), plain(neuron.IFNode)

    def forward(self, x):
        y = self.p2(self.n2(self.bn2(self.c2(self.p1(self.n1(self.bn1(self.c1(x))))))))
        return self.n4(self.fc2(self.n3(self.fc1(y.flatten(2)))))


def csnn():
    m, x, label = Csnn(), torch.rand(4, 16, 1, 28, 28), torch.arange(16) % 10
    for norm in (m.bn1, m.bn2):
        norm.momentum = 1.0
    with torch.no_grad():
        m.train()(x)  # the running statistics
    return m.eval(), {"x": x, "label": label}, spread(10, label)


class Recurrent(nn.Module):
    """700-256 recurrent-20, LIF; T 100, B 64."""

    def __init__(self):
        super().__init__()
        self.fc1, self.back, self.fc2 = linear(700, 256, 16.0), linear(256, 256, 2.0), linear(256, 20, 6.0)
        self.back.step_mode = self.fc2.step_mode = "s"
        self.n1, self.n2 = (neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="s") for _ in range(2))

    def forward(self, x):
        current = self.fc1(x)
        s, out = torch.zeros_like(current[0]), []
        for t in range(len(x)):
            s = self.n1(current[t] + self.back(s))
            out.append(self.n2(self.fc2(s)))
        return torch.stack(out)


def recurrent():
    label = torch.arange(64) % 20
    return Recurrent(), {"x": spikes(100, 64, 700, density=0.02), "label": label}, spread(20, label)


ALL = {f.__name__: f for f in (sew_resnet18, spikformer, dvs_gesture, shd, delays, s4d, unet, gpt, gcn, csnn, mlp, recurrent, lif)}

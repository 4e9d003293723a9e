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


def plain():
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
    from spikingjelly.activation_based import functional, layer, neuron, surrogate
    from spikingjelly.activation_based.model import ms_resnet, parametric_lif_net, qkformer, sew_resnet, spikformer, spiking_resnet, spiking_vgg

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
        ("qkformer_10_384", lambda: qkformer.qkformer_10_384(T=2, num_classes=10), (torch.rand(1, 3, 64, 64) * 2,)),
    ):
        m = make()
        functional.set_step_mode(m, "m")
        yield name, m, inputs


def snntorch():
    import snntorch as snn
    from snntorch import surrogate

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
    ours, theirs = [t.clone().requires_grad_() for t in inputs], [t.clone().requires_grad_() for t in inputs]
    reset(module)
    want = module(*theirs)
    got = compiled(*ours)
    want, got = (list(v) if isinstance(v, tuple) else [v] for v in (want, got))
    outputs = max(float((w - g).abs().max()) for w, g in zip(want, got))
    probes = [torch.randn_like(w) for w in want]
    sum((w * p).sum() for w, p in zip(want, probes)).backward()
    sum((g * p).sum() for g, p in zip(got, probes)).backward()
    reset(module)
    named = dict(compiled.named_parameters())
    pairs = list(zip((t.grad for t in theirs), (t.grad for t in ours)))
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

    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.FractionalMaxPool2d(2, output_size=2)

        def forward(self, x):
            return self.inner(x)

    with pytest.raises(snnc.ImportProblem, match="x.sum"):
        snnc.from_torch(Branches(), torch.rand(3))
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

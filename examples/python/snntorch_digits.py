"""Two layers of leaky neurons over a time loop, as snnTorch's fifth tutorial trains them."""

import argparse

import snntorch as snn
import torch
from torch import nn

from digits import train

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--compiled", action="store_true", help="train the compiled module")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--steps", type=int, default=25)
options = parser.parse_args()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(784, 256), snn.Leaky(beta=0.95)
        self.fc2, self.lif2 = nn.Linear(256, 10), snn.Leaky(beta=0.95)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for _ in range(options.steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


torch.manual_seed(0)
module = Net()
if options.compiled:
    import snnc

    module = snnc.optimise(module, torch.rand(2, 784))

train(
    module,
    encode=lambda x: x,
    score=lambda out: out[0].sum(0),
    loss=lambda out, label: sum(nn.functional.cross_entropy(m, label) for m in out[1]),
    epochs=options.epochs,
    lr=5e-4,
)

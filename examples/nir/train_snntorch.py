"""Trains a small net of snnTorch on the digits and writes it with snnTorch's own exporter: `digits.nir`.

    pip install torch snntorch nir nirtorch numpy
    python examples/nir/train_snntorch.py

Prints how many of the 1,000 test digits the net recognises as it is, and after snnTorch has read its own file: the two differ, because a NIR file does not say
that snnTorch's neurons subtract their threshold, a step after the spike. `snnc run digits.nir --preset snntorch` equals the second, spike for spike; the chapter
"NIR" of the book goes on from here.
"""

import pathlib

import nir
import numpy as np
import snntorch as snn
import torch
from snntorch import surrogate
from snntorch.export_nir import export_to_nir
from snntorch.import_nir import import_from_nir
from torch import nn

HERE = pathlib.Path(__file__).parent
STEPS = 20


def digits(name):
    data = np.load(HERE.parent / "digits" / name if name == "test.npz" else HERE.parent / "train_digits" / name)
    pixels = torch.tensor(data["x"]).float() / 255
    return nn.functional.avg_pool2d(pixels, 2).flatten(1), torch.tensor(data["label"])


def neuron(n):
    return snn.Leaky(
        beta=torch.full((n,), 0.9), threshold=torch.ones(n), reset_mechanism="subtract", init_hidden=True, spike_grad=surrogate.fast_sigmoid(),
    )


def run(net, x):
    for m in net.modules():
        if isinstance(m, snn.Leaky):
            m.reset_mem()
    return torch.stack([net(x) for _ in range(STEPS)])


def main():
    torch.manual_seed(0)
    x, label = digits("train.npz")
    test, wanted = digits("test.npz")
    net = nn.Sequential(nn.Linear(196, 32), neuron(32), nn.Linear(32, 10), neuron(10))
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for epoch in range(5):
        order = torch.randperm(len(x))
        for batch in order.split(100):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(run(net, x[batch]).mean(0) * 10, label[batch])
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        spikes = run(net, test)
        print(f"the net: {(spikes.sum(0).argmax(1) == wanted).float().mean():.3f}")
        for m in net.modules():
            if isinstance(m, snn.Leaky):
                m.reset_mem()
        nir.write(str(HERE / "digits.nir"), export_to_nir(net, test[0]))
        back = import_from_nir(nir.read(str(HERE / "digits.nir")))
        state, rows = None, []
        for _ in range(STEPS):
            y = back(test) if state is None else back(test, state)
            y, state = y if isinstance(y, tuple) else (y, None)
            rows.append(y)
        read = torch.stack(rows)
        print(f"its file, read by snnTorch: {(read.sum(0).argmax(1) == wanted).float().mean():.3f}, {int(read.sum())} spikes")


if __name__ == "__main__":
    main()

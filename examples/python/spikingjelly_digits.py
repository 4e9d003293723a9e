"""A fully connected net of LIF neurons on Poisson spikes, as SpikingJelly's first tutorial trains one."""

import argparse

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate

from digits import train

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--compiled", action="store_true", help="train the compiled module")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--steps", type=int, default=20)
options = parser.parse_args()

torch.manual_seed(0)
module = torch.nn.Sequential(layer.Linear(784, 10, bias=False), neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()))
functional.set_step_mode(module, "m")


def encode(x):
    return (torch.rand(options.steps, *x.shape) <= x).float()


def reset():
    functional.reset_net(original)


original = module
if options.compiled:
    import snnc

    module = snnc.optimise(module, encode(torch.rand(2, 784)))

train(
    module,
    encode,
    score=lambda spikes: spikes.mean(0),
    loss=lambda spikes, label: torch.nn.functional.mse_loss(spikes.mean(0), torch.nn.functional.one_hot(label, 10).float()),
    epochs=options.epochs,
    reset=reset,
)

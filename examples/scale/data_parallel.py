"""Data-parallel training of a compiled net with torch.distributed (gloo, two processes): gradients and weights are those of one process.

    pip install ./crates/snnc-python torch
    python examples/scale/data_parallel.py
"""

import os
import pathlib
import tempfile

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

import snnc

DIGITS = pathlib.Path(__file__).resolve().parent.parent / "train_digits" / "train.npz"
STEPS = 3
NET = """
net main(x: f32[T, B, 784]) -> f32[B, 10] {
    layer fc1 = linear(784, 64)
    layer fc2 = linear(64, 10)
    let s = x |> fc1 |> lif(surrogate = atan()) |> fc2 |> lif(surrogate = atan())
    mean(s, axis = 0)
}
"""


def batch(step):
    data = np.load(DIGITS)
    part = slice(step * 64, step * 64 + 64)
    x = torch.tensor(data["x"][part]).float().reshape(64, 784) / 64
    return x.expand(8, 64, 784).contiguous(), torch.tensor(data["label"][part].astype("int64"))


def weights():
    g = torch.Generator().manual_seed(0)
    shapes = {"fc1.weight": (64, 784), "fc1.bias": (64,), "fc2.weight": (10, 64), "fc2.bias": (10,)}
    return {n: (torch.rand(s, generator=g) - 0.4) * 0.3 for n, s in shapes.items()}


def train(module, rank, size):
    """The parameters after some steps, and the gradients of the last: each process takes its part of a batch."""
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(STEPS):
        x, label = batch(step)
        own = slice(rank * 64 // size, (rank + 1) * 64 // size)
        optimiser.zero_grad()
        F.mse_loss(module(x[:, own].contiguous()), F.one_hot(label[own], 10).float()).backward()
        optimiser.step()
    return [p.detach().clone() for p in module.parameters()], [p.grad.clone() for p in module.parameters()]


def worker(rank, size, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    net = snnc.compile(NET, weights(), threads=1)
    module = torch.nn.parallel.DistributedDataParallel(net.as_module())
    found = train(module, rank, size)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def main():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(2, folder), nprocs=2)
        one, two = (torch.load(f"{folder}/{rank}.pt") for rank in range(2))
    alone = train(snnc.compile(NET, weights(), threads=1).as_module(), 0, 1)
    for a, b, c in zip(one[0] + one[1], two[0] + two[1], alone[0] + alone[1]):
        assert torch.equal(a, b), "the processes differ"
        assert c.abs().max() > 0 and (a - c).abs().max() <= 1e-5 * c.abs().max(), "two processes differ from one"
    print(f"{STEPS} steps in two processes: gradients and weights equal those of one process")


if __name__ == "__main__":
    main()

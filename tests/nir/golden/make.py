"""Makes the NIR files of this folder with the frameworks' own exporters, and what their own importers compute from them.

    pip install torch spikingjelly snntorch norse nir nirtorch
    python make.py

Each framework writes `NAME.nir` from a small net with fixed weights, and `NAME.npz`: the input `x [T, B, 6]`, what the framework's importer computes from the
file (`imported [T, B, 4]`), and what the net computed before (`original`). Versions are in `NAME.npz` too. Licence: as the project's; the frameworks' code is
only run.
"""

import importlib.metadata
import pathlib

import numpy as np
import torch
from torch import nn

HERE = pathlib.Path(__file__).parent
T, B = 60, 3


def weights(net, scale):
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Linear):
                m.weight.copy_((torch.rand(m.weight.shape, generator=g) - 0.2) * scale)
                m.bias.copy_(torch.rand(m.bias.shape, generator=g) * 0.05)
    return net


def data():
    return (torch.rand(T, B, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def save(name, x, imported, original, packages):
    versions = np.array([f"{p} {importlib.metadata.version(p)}" for p in packages])
    arrays = {k: v.detach().numpy().astype(np.float32) for k, v in dict(x=x, imported=imported, original=original).items()}
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
    same = np.array_equal(arrays["imported"], arrays["original"])
    print(name, ", ".join(versions), "rate", arrays["imported"].mean(), "importer equals net:", same)


def spikingjelly():
    from spikingjelly.activation_based import functional, layer, neuron, nir_exchange

    net = nn.Sequential(
        layer.Linear(6, 5), neuron.LIFNode(tau=3.0, v_threshold=0.6), layer.Linear(5, 4), neuron.IFNode(v_threshold=0.8),
    )
    weights(net, 1.2)
    x = data()
    functional.set_step_mode(net, "s")
    with torch.no_grad():
        original = torch.stack([net(x[t]) for t in range(T)])
        functional.reset_net(net)
        nir_exchange.export_to_nir(net, x[0], save_path=str(HERE / "spikingjelly.nir"), dt=1e-4)
        back = nir_exchange.import_from_nir(str(HERE / "spikingjelly.nir"), dt=1e-4)
        functional.set_step_mode(back, "s")
        imported = steps(back, x)
    save("spikingjelly", x, imported, original, ["spikingjelly", "nir", "nirtorch", "torch"])


def steps(module, x):
    """A module over time that takes and gives its state."""
    state, rows = None, []
    for row in x:
        y = module(row) if state is None else module(row, state)
        y, state = y if isinstance(y, tuple) else (y, None)
        rows.append(y)
    return torch.stack(rows)


def snntorch():
    import nir
    import snntorch as snn
    from snntorch.export_nir import export_to_nir
    from snntorch.import_nir import import_from_nir

    net = nn.Sequential(
        nn.Linear(6, 5), snn.Leaky(beta=torch.full((5,), 0.8), threshold=torch.full((5,), 0.6), init_hidden=True),
        nn.Linear(5, 4), snn.Synaptic(alpha=torch.full((4,), 0.5), beta=torch.full((4,), 0.7), threshold=torch.full((4,), 0.9), init_hidden=True),
    )
    weights(net, 0.9)
    x = data()
    with torch.no_grad():
        original = torch.stack([net(x[t]) for t in range(T)])
        for m in net.modules():
            if isinstance(m, (snn.Leaky, snn.Synaptic)):
                m.reset_mem()
        graph = export_to_nir(net, x[0, 0])
        nir.write(str(HERE / "snntorch.nir"), graph)
        back = import_from_nir(nir.read(str(HERE / "snntorch.nir")))
        imported = steps(back, x)
    save("snntorch", x, imported, original, ["snntorch", "nir", "nirtorch", "torch"])


def norse():
    import nir
    import norse.torch as norse
    from norse.torch.utils.import_nir import from_nir

    p = norse.LIFBoxParameters(tau_mem_inv=torch.full((5,), 300.0), v_th=torch.full((5,), 0.3), v_leak=torch.zeros(5))
    q = norse.LIFParameters(
        tau_syn_inv=torch.full((4,), 400.0), tau_mem_inv=torch.full((4,), 200.0), v_th=torch.full((4,), 0.4), v_leak=torch.zeros(4),
    )
    net = norse.SequentialState(nn.Linear(6, 5), norse.LIFBoxCell(p), nn.Linear(5, 4), norse.LIFCell(q))
    weights(net, 1.0)
    x = data()

    with torch.no_grad():
        original = steps(net, x)
        graph = norse.to_nir(net, x[0, 0])
        nir.write(str(HERE / "norse.nir"), graph)
        back = from_nir(nir.read(str(HERE / "norse.nir")))
        imported = steps(back, x)
    save("norse", x, imported, original, ["norse", "nir", "nirtorch", "torch"])


if __name__ == "__main__":
    for make in (spikingjelly, snntorch, norse):
        make()

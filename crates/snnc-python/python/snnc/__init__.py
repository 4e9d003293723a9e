"""A compiler for spiking neural networks.

>>> import numpy, snnc
>>> net = snnc.compile("net main(x: f32[T, N]) -> f32[T, N] { x |> lif() |> delay(1) }")
>>> net(numpy.array([[2.5], [0.0], [2.5]], dtype="float32")).ravel().tolist()
[0.0, 1.0, 0.0]
"""

from ._native import ProgramError, __version__
from ._net import Net, compile, from_nir, load, load_tensors, raster, save_tensors, trace

__all__ = [
    "Net", "ProgramError", "__version__", "compile", "from_nir", "from_torch", "load", "load_tensors", "optimise", "raster", "save_tensors", "trace",
]


def __getattr__(name):
    # PyTorch is imported only by those who ask for it.
    if name in ("from_torch", "optimise", "ImportProblem"):
        from . import _torch

        return getattr(_torch, name)
    raise AttributeError(f"module 'snnc' has no attribute {name!r}")

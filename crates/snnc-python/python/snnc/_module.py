"""A compiled net as a `torch.nn.Module`."""

import numpy as np
import torch

from ._arrays import to_numpy


def _put(root, path, value, learnable):
    """Sets `a.b.c` of a module, making the modules on the way."""
    *folders, last = path.split(".")
    for name in folders:
        if name not in root._modules:
            root.add_module(name, torch.nn.Module())
        root = root._modules[name]
    if learnable:
        root.register_parameter(last, torch.nn.Parameter(value))
    else:
        root.register_buffer(last, value)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx, net, training, wanted, seed, names, *tensors):
        arrays = {n: to_numpy(n, t, d) for (n, d), t in zip(names, tensors)}
        needs = [n for (n, d), t in zip(names, tensors) if wanted and d == "f32" and t.requires_grad]
        if needs:
            # What the gradients need of this run is kept, so that nothing is computed twice.
            outputs, updates, ctx.tape = net._variant(cotangents=needs, training=training).forward(arrays, seed)
        else:
            native = net._training if training else net._native
            outputs, updates = native.run(arrays, seed)
        ctx.names, ctx.outputs, ctx.devices = names, list(outputs), [t.device for t in tensors]
        net._updates = updates
        values = [torch.from_numpy(a) for a in outputs.values()]
        ctx.mark_non_differentiable(*[v for v in values if not v.is_floating_point()])
        return tuple(values)

    @staticmethod
    def backward(ctx, *cotangents):
        given = zip(ctx.outputs, cotangents)
        arrays = {f"cotangent.{n}": to_numpy(n, c, "f32") for n, c in given if c is not None and c.is_floating_point()}
        found = ctx.tape.backward(arrays)
        grads = []
        for (name, _), device in zip(ctx.names, ctx.devices):
            g = found.get(f"grad.{name}")
            grads.append(None if g is None else torch.from_numpy(g).to(device))
        return (None, None, None, None, None, *grads)


class CompiledModule(torch.nn.Module):
    """What `Net.as_module` gives: parameters and buffers under their names, train and eval modes, `state_dict` both ways."""

    def __init__(self, net):
        super().__init__()
        self._net = net
        net._training = net._variant(training=True)
        weights = net.weights
        described = net._native.described()[1]
        missing = [name for name, *_ in described if name not in weights]
        if missing:
            raise ValueError(f"the net's weights are not known yet: give them, or run it once (missing: {', '.join(missing[:5])})")
        self._names = []
        for name, dtype, _, learnable in described:
            value = torch.from_numpy(np.array(weights[name]))
            _put(self, name, value, learnable and dtype == "f32")
            self._names.append((name, dtype))
        self._inputs = [(d.name, d.dtype) for d in net.inputs]

    def _tensor(self, name):
        module = self
        *folders, last = name.split(".")
        for f in folders:
            module = module._modules[f]
        return module._parameters.get(last, module._buffers.get(last))

    def forward(self, *args, **kwargs):
        given = dict(zip((n for n, _ in self._inputs), args)) | kwargs
        inputs = [(n, d) for n, d in self._inputs if n in given]
        seed = int(torch.randint(0, 2**31 - 1, ()).item()) if self.training else 0
        names = tuple(inputs + self._names)
        tensors = [given[n] for n, _ in inputs] + [self._tensor(n) for n, _ in self._names]
        values = _Run.apply(self._net, self.training, torch.is_grad_enabled(), seed, names, *tensors)
        if self.training:
            with torch.no_grad():
                for name, new in self._net._updates.items():
                    self._tensor(name).copy_(torch.from_numpy(new))
        return values[0] if len(values) == 1 else values

    def extra_repr(self):
        return repr(self._net)


def as_module(net):
    """See `Net.as_module`."""
    return CompiledModule(net)

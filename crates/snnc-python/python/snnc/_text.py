"""How the language writes numbers, lists and sizes, and small questions about modules and records."""

import torch


def framework(module):
    return type(module).__module__.split(".")[0]


def is_sequence(module):
    """Does a module take a whole sequence, time first?"""
    return framework(module) == "norse" and type(module).__name__ in ("LIF", "LI", "IAF", "LIFRecurrent", "LSNN", "LIFAdEx") or framework(module) == "spikingjelly" and getattr(module, "step_mode", "s") == "m"


def number(x):
    """A number as the language writes it, to the bit of an f32 where it was one."""
    if isinstance(x, torch.Tensor):
        x = x.item()
    if isinstance(x, bool):
        return "true" if x else "false"
    if isinstance(x, int):
        return str(x)
    if x is None:
        return "none"
    if x in (float("inf"), float("-inf")):
        return "inf" if x > 0 else "-inf"
    # What was an f32 tensor is written with the digits of an f32.
    short = float(torch.tensor(x, dtype=torch.float32))
    text = repr(x)
    for digits in range(1, 9):
        candidate = f"{short:.{digits}g}"
        if float(torch.tensor(float(candidate), dtype=torch.float32)) == short and len(text) > 12:
            text = repr(float(candidate))
            break
    return text


def commas(parts):
    return ", ".join(parts)


def sizes(v, n):
    """One size for all of n axes, or a list."""
    v = [v] * n if isinstance(v, int) else list(v)
    return str(v[0]) if all(x == v[0] for x in v) else str(v)


class Ref:
    """Result `index` of the recorded call `op`; call -1 are the inputs, a name is a parameter of the module."""

    def __init__(self, op, index):
        self.op, self.index = op, index

    def __eq__(self, other):
        return isinstance(other, Ref) and (self.op, self.index) == (other.op, other.index)

    def __hash__(self):
        return hash((self.op, self.index))

    def __repr__(self):
        return f"%{self.op}.{self.index}"


def found_in(value, kind):
    """The values of a class in nested lists, tuples and dicts, in order."""
    if isinstance(value, kind):
        return [value]
    if isinstance(value, dict):
        return [f for v in value.values() for f in found_in(v, kind)]
    if isinstance(value, (list, tuple)):
        return [f for v in value for f in found_in(v, kind)]
    return []


def refs_in(value):
    """The recorded tensors among arguments, in order."""
    return found_in(value, Ref)

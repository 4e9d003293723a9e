"""How the language writes numbers, lists and sizes, and small questions about modules and records."""

import torch


def framework(module):
    return type(module).__module__.split(".")[0]


def is_sequence(module):
    """Does a module take a whole sequence, time first?"""
    return framework(module) == "norse" and type(module).__name__ in ("LIF", "LI", "IAF", "LIFRecurrent") or framework(module) == "spikingjelly" and getattr(module, "step_mode", "s") == "m"


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


def refs_in(value):
    if type(value).__name__ == "Ref":
        return [value]
    if isinstance(value, dict):
        return [r for v in value.values() for r in refs_in(v)]
    if isinstance(value, (list, tuple)):
        return [r for v in value for r in refs_in(v)]
    return []

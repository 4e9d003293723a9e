"""Makes pools.snn and pools.safetensors: every setting of pools, with what PyTorch (BSD 3-clause; nothing of it is copied) computes.

python pools.py writes both beside itself; needs torch and safetensors."""
import itertools, pathlib, torch, torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(0)
here = pathlib.Path(__file__).parent
image = torch.randn(2, 3, 7, 6, requires_grad=True)
volume = torch.randn(2, 5, 6, 4, requires_grad=True)
lines, outputs = [], []

def add(kind, n, k, s, p, **more):
    x = {1: image.flatten(0, 1), 2: image, 3: volume}[n]
    try:
        y = getattr(F, f"{kind}_pool{n}d")(x, k, s, p, **more)
    except RuntimeError:  # PyTorch has no such pool.
        return
    word = lambda v: str(v).lower().replace("(", "[").replace(")", "]")
    settings = "".join(f", {name} = {word(v)}" for name, v in dict(stride=s, padding=p, **more).items() if v is not None)
    of = {1: "flatten(image, start = 0, end = 1)", 2: "image", 3: "volume"}[n]
    lines.append(f"    let p{len(outputs)} = {kind}_pool{n}d({of}, {word(k)}{settings})")
    outputs.append(y)

for n, k, s, p, ceil in itertools.product([1, 2], [2, 3], [1, 2, 3], [0, 1], [False, True]):
    for d in [1, 2]:
        add("max", n, k, s, p, dilation=d, ceil_mode=ceil)
    for include in [False, True]:
        add("avg", n, k, s, p, ceil_mode=ceil, count_include_pad=include)
for ceil in [False, True]:
    add("max", 2, (2, 3), (3, 2), (1, 0), dilation=(2, 1), ceil_mode=ceil)
    add("avg", 2, (2, 3), (3, 2), (1, 0), ceil_mode=ceil, count_include_pad=False)
    add("avg", 2, 3, 2, 1, ceil_mode=ceil, divisor_override=4)
for k, s, p, ceil in itertools.product([2, (3, 2, 1)], [None, (1, 2, 3)], [0, (1, 1, 0)], [False, True]):
    add("max", 3, k, s, p, dilation=(1, 2, 2), ceil_mode=ceil)
    for include, divisor in [(False, None), (True, None), (True, 5)]:
        add("avg", 3, k, s, p, ceil_mode=ceil, count_include_pad=include, divisor_override=divisor)

names = [f"p{i}" for i in range(len(outputs))]
result = ", ".join(f"{n}: f32[{', '.join(map(str, y.shape))}]" for n, y in zip(names, outputs))
loss = " + ".join(f"sum({n} * {n})" for n in names)
body = "\n".join(lines)
(here / "pools.snn").write_text(f"// Made by pools.py.\nnet pools(image: f32[2, 3, 7, 6], volume: f32[2, 5, 6, 4]) -> ({result}) {{\n{body}\n    ({', '.join(names)})\n}}\n\nnet pools_loss(image: f32[2, 3, 7, 6], volume: f32[2, 5, 6, 4]) -> f32[] {{\n{body}\n    {loss}\n}}\n")
total = sum((y * y).sum() for y in outputs)
of_image, of_volume = torch.autograd.grad(total, [image, volume])
want = {f"pools.{n}": y.detach().contiguous() for n, y in zip(names, outputs)}
save_file({"image": image.detach(), "volume": volume.detach(), **want, "pools_loss.loss": total.detach(), "pools_loss.grad.image": of_image, "pools_loss.grad.volume": of_volume}, here / "pools.safetensors")
print(len(outputs), "pools")

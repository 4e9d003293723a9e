"""Times the networks of `networks.py` in PyTorch with SpikingJelly and in snnc: in turn, on the same data and weights, with as many
threads, and only after both computed the same.

    python bench.py [NAME ...] [--threads N] [--rounds R] [--compile] [--write FILE]

A round is PyTorch and then snnc, for each network. The figures are medians over the rounds of the best of some calls after a first
one, in milliseconds, with the spread of the rounds. `--compile` times `torch.compile` of the forward pass too. `--write` puts the
table between the marks of a Markdown file. The command is `SNNC`, else `snnc`.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")
import torch
from safetensors.torch import load_file, save_file
from spikingjelly.activation_based import functional

from networks import ALL

HERE = pathlib.Path(__file__).resolve().parent
BEGIN, END = "<!-- peers -->", "<!-- /peers -->"


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("names", nargs="*", choices=[*ALL, []], metavar="NAME", help=", ".join(ALL))
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--compile", action="store_true")
    ap.add_argument("--write", type=pathlib.Path)
    return ap.parse_args()


class Network:
    """One network in both."""

    def __init__(self, name, threads, scratch):
        torch.manual_seed(0)
        self.name, self.threads = name, threads
        self.module, self.inputs, self.loss, *rename = ALL[name]()
        rename = rename[0] if rename else lambda k: k
        program = HERE / f"{name}.snn"
        self.program = program if program.exists() else HERE.parent / f"{name}.snn"
        self.data, self.weights, self.out = (scratch / f"{name}.{kind}.safetensors" for kind in ("data", "weights", "out"))
        keep = lambda tensors: {k: v.detach().contiguous().clone() for k, v in tensors.items()}
        save_file(keep(self.inputs), self.data)
        state = {rename(k): v for k, v in self.module.state_dict().items() if "num_batches" not in k}
        save_file(keep(state), self.weights)
        # What the module is called with: the first inputs, as many as its forward takes.
        count = self.module.forward.__code__.co_argcount - 1
        self.given = list(self.inputs.values())[:count]
        self.own = ["--data", str(self.data)] + (["--weights", str(self.weights)] if state else [])
        self.wrt = [] if state else ["--wrt", next(iter(self.inputs))]

    def forward(self):
        functional.reset_net(self.module)
        with torch.no_grad():
            return self.module(*self.given)

    def backward(self):
        functional.reset_net(self.module)
        for p in self.module.parameters():
            p.grad = None
        given = [x.requires_grad_() if self.wrt and x.is_floating_point() else x for x in self.given]
        self.loss(self.module(*given)).backward()

    def command(self, *extra):
        snnc = os.environ.get("SNNC", "snnc")
        run = subprocess.run([snnc, extra[0], str(self.program), *self.own, "--threads", str(self.threads), *extra[1:]], capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"{self.name}: {run.stderr.strip()}")
        return run.stdout

    def difference(self):
        """How far the outputs are apart, of the largest; nothing is timed that differs."""
        self.command("run", "--net", "main", "--out", str(self.out))
        want, found = self.forward(), load_file(self.out)
        # Where there are several outputs, the last is the module's.
        found = found.get("out", list(found.values())[-1])
        off = ((found - want).abs().max() / want.abs().max()).item()
        if off > 1e-4:
            raise SystemExit(f"{self.name}: outputs differ by {off:.1e} of the largest")
        return off

    def snnc(self, gradients):
        extra = ["--net", "loss", "--grad", *self.wrt] if gradients else ["--net", "main"]
        # PyTorch's threads wait for more work for a while, on the processors that are measured next.
        time.sleep(0.5)
        result = json.loads(self.command("bench", "--json", "--repeats", "7", *extra))
        return result["min_ms"], result["compile_ms"]


def best(call, repeats=5):
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def machine():
    try:
        model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
        flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags"))
        vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    except (OSError, StopIteration):
        model, vectors = platform.processor() or platform.machine(), "vectors unknown"
    return f"{model} ({vectors})"


def spread(values):
    middle = statistics.median(values)
    return f"{middle:.3g} ±{max(abs(v - middle) for v in values) / middle * 100:.0f}%"


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    names = args.names or list(ALL)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            network = Network(name, args.threads, pathlib.Path(scratch))
            off = network.difference()
            compiled = None
            if args.compile:
                module = torch.compile(network.module)
                def run():
                    functional.reset_net(network.module)
                    with torch.no_grad():
                        return module(*network.given)
                compiled = run
            times = {k: [] for k in ("torch", "snnc", "torch+", "snnc+", "compiled")}
            for _ in range(args.rounds):
                times["torch"].append(best(network.forward))
                ms, compile_ms = network.snnc(False)
                times["snnc"].append(ms)
                if compiled:
                    try:
                        times["compiled"].append(best(compiled))
                    except Exception as error:
                        print(f"{name}: torch.compile failed: {type(error).__name__}")
                        compiled = None
                times["torch+"].append(best(network.backward, 3))
                ms, grad_compile_ms = network.snnc(True)
                times["snnc+"].append(ms)
            middle = {k: statistics.median(v) for k, v in times.items() if v}
            peer = min(middle["torch"], middle.get("compiled", float("inf")))
            row = [
                name, spread(times["torch"]), spread(times["compiled"]) if times["compiled"] else "", spread(times["snnc"]), f"{peer / middle['snnc']:.1f}",
                spread(times["torch+"]), spread(times["snnc+"]), f"{middle['torch+'] / middle['snnc+']:.1f}", f"{compile_ms:.0f} / {grad_compile_ms:.0f}", f"{off:.0e}",
            ]
            rows.append(row)
            print(" | ".join(row), flush=True)
    head = ["network", "PyTorch", "torch.compile", "snnc", "times", "with gradients: PyTorch", "snnc", "times", "compiled in", "outputs differ by"]
    lines = ["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows]]
    version = torch.__version__.split("+")[0]
    note = (
        f"{datetime.date.today()}, {machine()}, threads: {args.threads}, rounds: {args.rounds}, PyTorch {version}. "
        "Milliseconds; `times` is against the faster of PyTorch's two."
    )
    table = "\n".join([note, "", *lines])
    if args.write:
        text = args.write.read_text()
        before, rest = text.split(BEGIN)
        args.write.write_text(before + BEGIN + "\n" + table + "\n" + END + rest.split(END)[1])
    else:
        print("\n" + table)


main()

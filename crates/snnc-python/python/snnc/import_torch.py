"""python -m snnc.import_torch package.module:factory -o DIR [--input 4,8,3,32,32]

Writes DIR/model.snn and DIR/model.safetensors of the module that `factory()` makes; the factory may give a pair, the module and its example inputs.
"""

import argparse
import importlib
import pathlib
import sys


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m snnc.import_torch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("factory", help="package.module:function that makes the module")
    parser.add_argument("-o", "--out", required=True, help="the folder to write")
    parser.add_argument("--input", action="append", default=[], help="the shape of an example input, such as 4,8,3,32,32; may be given several times")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the program with the module")
    a = parser.parse_args(argv)
    import torch

    from ._torch import ImportProblem, from_torch

    sys.path.insert(0, "")
    where, _, name = a.factory.partition(":")
    if not name:
        parser.error(f"`{a.factory}` is not package.module:function")
    made = getattr(importlib.import_module(where), name)()
    module, inputs = made if isinstance(made, tuple) else (made, None)
    if a.input:
        inputs = tuple(torch.rand(*map(int, s.split(","))) for s in a.input)
    if inputs is None:
        parser.error("give `--input`, or let the factory return the module and its example inputs")
    try:
        net = from_torch(module, inputs, verify=not a.no_verify)
    except ImportProblem as e:
        print(f"Error: {e}", file=sys.stderr)
        return 1
    folder = pathlib.Path(a.out)
    folder.mkdir(parents=True, exist_ok=True)
    net.save(folder / "model.snn", folder / "model.safetensors")
    print(f"{folder / 'model.snn'}, {folder / 'model.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

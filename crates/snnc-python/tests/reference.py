"""The page `docs/python-api.md`, made from docstrings: `python tests/reference.py` writes it, and `test_core.py` checks that it is true and runs its examples."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[3]
SOURCE = pathlib.Path(__file__).parents[1] / "python" / "snnc"
PAGE = ROOT / "docs" / "python-api.md"
# What is public, in the order of the page: file, class or function, and the members of a class.
PUBLIC = [
    ("_net.py", "compile", None),
    ("_net.py", "load", None),
    ("_net.py", "from_nir", None),
    ("_torch.py", "from_torch", None),
    ("_torch.py", "optimise", None),
    ("_net.py", "Net", [
        "name", "source", "inputs", "outputs", "parameters", "weights", "__call__", "train", "value_and_grad", "stream", "as_module", "to_nir", "emit", "explain", "profile", "cost", "graph", "save",
    ]),
    ("_net.py", "Stream", ["inputs", "running", "__call__", "state", "reset"]),
    ("_net.py", "raster", None),
    ("_net.py", "trace", None),
    ("_net.py", "load_tensors", None),
    ("_net.py", "save_tensors", None),
]


def documented(name, node, prefix):
    doc = ast.get_docstring(node)
    assert doc, f"{prefix}{name} has no docstring"
    decorators = {ast.unparse(d) for d in getattr(node, "decorator_list", [])}
    if "property" in decorators:
        head = f"{prefix}{name}"
    else:
        arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
        head = f"{prefix}{'' if name == '__call__' else name}({arguments})"
    return head, doc


def text():
    out = ["# The Python package", "", "Made from the docstrings of the package; the examples are run by its tests. [From Python](python.md) is the guide.", ""]
    for file, name, members in PUBLIC:
        tree = ast.parse((SOURCE / file).read_text(encoding="utf-8"))
        node = next(n for n in tree.body if getattr(n, "name", None) == name)
        if members is None:
            head, doc = documented(name, node, "snnc.")
            out += [f"## {name}", "", "```text", head, "```", "", *body(doc), ""]
            continue
        out += [f"## {name}", "", *body(ast.get_docstring(node)), ""]
        for member in members:
            own = next(n for n in node.body if getattr(n, "name", None) == member)
            head, doc = documented(member, own, "s" if name == "Stream" and member == "__call__" else "net" if member == "__call__" else f"{name.lower()}.")
            out += [f"### {name}.{member}", "", "```text", head, "```", "", *body(doc), ""]
    return "\n".join(out)


def body(doc):
    """Paragraphs, with examples in fences."""
    lines, inside = [], False
    for line in doc.splitlines():
        if line.startswith(">>>") and not inside:
            lines.append("```text")
            inside = True
        if inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return lines + (["```"] if inside else [])


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")

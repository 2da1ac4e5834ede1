"""The layers of the package: what may import what, and what each part holds.

The import test enforces this list, and CONTRIBUTING's table is generated from it:

    python tests/support/layout.py
"""

from __future__ import annotations

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "jaxconv"

# From the bottom up: a module imports only from its own layer and from those above it in this list.
LAYERS = (
    ("_src/compat.py", "_src/caching.py", "_src/keywords.py", "_src/pytrees.py"),
    ("_src/geometry",),
    ("_src/kernels",),
    ("_src/dispatch",),
    ("_src/primitives",),
    ("_src/spmd",),
    ("_src/functions",),
    ("_src/interop",),
    ("_src/analysis",),
    ("causal_conv1d.py", "checkpoint_policies.py", "filters.py", "sharding.py", "viz"),
    ("_src/flax",),
    ("nnx.py", "linen.py"),
    ("models",),
    ("train",),
)

BEGIN, END = "<!-- layout: begin -->\n", "<!-- layout: end -->\n"


def summary_of(part: str) -> str:
    """The first sentence of a module's or folder's docstring."""
    path = PACKAGE / part
    source = path if path.suffix == ".py" else path / "__init__.py"
    docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def table() -> str:
    """CONTRIBUTING's table of folders."""
    rows = [f"| `jaxconv/{part}` | {summary_of(part)} |" for layer in LAYERS for part in layer]
    return "\n".join(["| part | what it holds |", "| --- | --- |", *rows, ""])


def write() -> None:
    path = ROOT / "CONTRIBUTING.md"
    before, rest = path.read_text().split(BEGIN)
    path.write_text(before + BEGIN + table() + END + rest.split(END)[1])


if __name__ == "__main__":
    write()

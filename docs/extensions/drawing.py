"""The figures of pages, drawn from the code that the pages show."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

BLOCK = re.compile(
    r"^```\{picture\} [^\n]+\n(?::playground: (\S+)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL
)


def codes(page: str) -> list[str]:
    """The code of every picture of a Markdown page."""
    return [code.strip() for _, code in BLOCK.findall(page)]


def cases(page: str) -> list[str]:
    """The case in the playground of every picture; empty for those without one."""
    return [case for case, _ in BLOCK.findall(page)]


def draw(code: str) -> Any:
    """The value of the last line: a matplotlib figure, or the path of a file that it wrote."""
    import jax
    import numpy as np

    import jaxconv
    from jaxconv import viz

    scope = {"jax": jax, "jnp": jax.numpy, "np": np, "jaxconv": jaxconv, "viz": viz}
    *before, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        raise ValueError(f"the last line of a picture must be its figure, but got:\n{code}")
    exec(compile(ast.Module(before, []), "picture", "exec"), scope)
    return eval(compile(ast.Expression(last.value), "picture", "eval"), scope)


def write(code: str, folder: Path) -> str:
    """Draws a figure unless it is there, and returns the name of its file in the folder."""
    import matplotlib

    from jaxconv import viz

    stem = f"picture-{hashlib.sha256(code.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.chdir(scratch),
        matplotlib.rc_context({"svg.hashsalt": stem}),
    ):
        drawn = draw(code)
        if not isinstance(drawn, str | Path):
            drawn = viz.save(drawn, Path(scratch) / "figure.svg")
        name = f"{stem}{Path(drawn).suffix}"
        shutil.move(drawn, folder / name)
    return name

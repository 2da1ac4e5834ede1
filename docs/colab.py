"""Links from the notebooks to Google Colab, for the address that the repository is cloned from.

    python docs/colab.py https://github.com/OWNER/NAME

Without an address, that of the remote ``origin``. Each notebook gets a link under its title, and
its first cell of code then installs jaxconv from there. Running it again replaces the address.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
ADDRESS = re.compile(r"(?:https://github\.com/|git@github\.com:)([\w.-]+/[\w.-]+?)(?:\.git)?/?")
LINK = re.compile(r"\n\n\[Open in Colab\]\(\S+\)")
INSTALL = re.compile(r'"jaxconv\[notebooks\][^"]*"')


def repository(address: str) -> str:
    """``OWNER/NAME`` of a repository on GitHub, from which Colab opens notebooks."""
    found = ADDRESS.fullmatch(address.strip())
    if found is None:
        raise ValueError(
            f"the address must be https://github.com/OWNER/NAME, because Colab opens notebooks of "
            f"GitHub, but got {address!r}"
        )
    return found[1]


def linked(notebook: dict[str, Any], name: str, repository: str) -> dict[str, Any]:
    """The notebook with the link and the installation of this repository."""
    first, *rest = notebook["cells"]
    text = LINK.sub("", "".join(first["source"]))
    title, _, prose = text.partition("\n")
    target = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}"
    cells = [{**first, "source": _lines(f"{title}\n\n[Open in Colab]({target})\n{prose}")}]
    package = f'"jaxconv[notebooks] @ git+https://github.com/{repository}"'
    for cell in rest:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "%pip install" in source:
            cell = {**cell, "source": _lines(INSTALL.sub(package, source))}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def write(folder: Path, address: str) -> None:
    for path in sorted(folder.glob("*.ipynb")):
        notebook = linked(json.loads(path.read_text()), path.name, repository(address))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def origin() -> str:
    command = ["git", "-C", str(NOTEBOOKS), "remote", "get-url", "origin"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    write(NOTEBOOKS, sys.argv[1] if len(sys.argv) > 1 else origin())

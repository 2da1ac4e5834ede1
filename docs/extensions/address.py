"""The repository's public address: ``[project.urls]``, the citation and links to Google Colab.

    python docs/extensions/address.py https://github.com/OWNER/NAME

writes it wherever it is needed; without an address, that of the remote ``origin``. Each notebook
gets a link under its title, and its first cell of code then installs jaxconv from there. Running it
again replaces the address. The site's copies of the notebooks always have the links of ``origin``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOST = r"(?:https://github\.com/|(?:ssh://)?git@github\.com[:/])"
ADDRESS = re.compile(HOST + r"([\w.-]+/[\w.-]+?)(?:\.git)?/?")
URLS = re.compile(r"(?:^#.*\n)*^\[project\.urls\]\n(?:.+\n)+", re.MULTILINE)
CODE = re.compile(r"^repository-code: .*\n", re.MULTILINE)
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


def origin(root: Path = ROOT) -> str:
    """The address that this repository was cloned from; empty if it was not."""
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git, as in a source distribution
        return ""


def of_clone(root: Path = ROOT) -> str | None:
    """``OWNER/NAME`` of the repository cloned from, if that is on GitHub."""
    return repository(origin(root)) if ADDRESS.fullmatch(origin(root)) else None


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


def with_urls(project: str, repository: str) -> str:
    """The text of ``pyproject.toml`` with the links that package indexes show."""
    home = f"https://github.com/{repository}"
    urls = {
        "Repository": home,
        "Documentation": f"{home}/tree/main/docs",
        "Changelog": f"{home}/blob/main/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    section = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return URLS.sub(f"[project.urls]\n{section}", project)


def with_code(citation: str, repository: str) -> str:
    """The text of ``CITATION.cff`` with the address of the code."""
    return f"{CODE.sub('', citation)}repository-code: https://github.com/{repository}\n"


def write(root: Path, address: str) -> None:
    """Writes the address into every file below ``root`` that states it."""
    name = repository(address)
    for path, changed in ((root / "pyproject.toml", with_urls), (root / "CITATION.cff", with_code)):
        path.write_text(changed(path.read_text(), name))
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = linked(json.loads(path.read_text()), path.name, name)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write(ROOT, sys.argv[1] if len(sys.argv) > 1 else origin())

"""Makes the README's links absolute, for package indexes, which show it apart from the repository.

    python packaging/absolute_links.py

rewrites ``README.md`` in place: a release does so in its own checkout, before anything is built.
The address is that of ``[project.urls]``.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)(\[[^]]*\])\((?!https?:|mailto:|#)([^)\s]+)\)")


def absolute(text: str, repository: str) -> str:
    """The text with its links to files of the repository as addresses on the web.

    >>> absolute("![a](a.png) [b](b.md#c) [d](#d)", "https://example.org/x")
    '![a](https://example.org/x/raw/main/a.png) [b](https://example.org/x/blob/main/b.md#c) [d](#d)'
    """
    return LINK.sub(
        lambda link: (
            f"{link[1]}{link[2]}({repository}/{'raw' if link[1] else 'blob'}/main/{link[3]})"
        ),
        text,
    )


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = ROOT / project["readme"]
    readme.write_text(absolute(readme.read_text(), project["urls"]["Repository"]))


if __name__ == "__main__":
    main()

"""Pages from outside docs/: notebooks and the Markdown files in the root of the repository.

They are copied into docs/ before each build, and git ignores the copies. Links between files of the
repository, which work where the repository is browsed, become links between the pages of the site.
Notebooks get a link to Google Colab if the repository was cloned from GitHub.
"""

from __future__ import annotations

import json
import os.path
import re
from pathlib import Path
from typing import Any

import address

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
# Folders of docs/ that a build writes.
PICTURES = "pictures"
GENERATED = (
    "_build",
    "playground/node_modules",
    "jupyter_execute",
    "notebooks",
    "project",
    "reference/api",
    PICTURES,
)
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
# The playground is no page but a file that the build copies; Markdown links would not find it.
PLAYGROUND = re.compile(r'(?<=href="|.src=")[./]*jaxconv/viz/playground\.html')


def copied() -> dict[str, str]:
    """The page of each copied file, both as paths: ``CHANGELOG.md`` is ``project/changelog.md``."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    root = ("CHANGELOG", "CONTRIBUTING", "DEPRECATIONS", "SECURITY")
    return {
        **{f"{name}.md": f"project/{name.lower()}.md" for name in root},
        **{f"notebooks/{path.name}": f"notebooks/{path.name}" for path in notebooks},
    }


def committed() -> list[Path]:
    """The Markdown pages that are committed in docs/."""
    generated = tuple(f"{folder}/" for folder in GENERATED)
    pages = sorted(DOCS.rglob("*.md"))
    return [page for page in pages if not page.relative_to(DOCS).as_posix().startswith(generated)]


def with_site_links(text: str, source: str, page: str) -> str:
    """The text of a file of the repository, with links from its page of the site.

    ``source`` is the path of the file in the repository, ``page`` that of its page in docs/.
    """

    def link(found: re.Match[str]) -> str:
        target = found[2]
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        inside = path.removeprefix("docs/") if path.startswith("docs/") else copied().get(path)
        if inside is None:
            raise ValueError(f"{source} links to {target}, which is not a page of the site")
        relative = os.path.relpath(inside, os.path.dirname(page) or ".")
        return f"{found[1]}{Path(relative).as_posix()}{found[3]}"

    playground = os.path.relpath("playground.html", os.path.dirname(page) or ".")
    return PLAYGROUND.sub(Path(playground).as_posix(), LINK.sub(link, text))


def page_of(source: str, page: str) -> str:
    """The text of a copied file's page."""
    text = (ROOT / source).read_text()
    if not source.endswith(".ipynb"):
        return with_site_links(text, source, page)
    notebook = json.loads(text)
    if repository := address.of_clone():
        notebook = address.linked(notebook, Path(source).name, repository)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = with_site_links("".join(cell["source"]), source, page)
        elif alt := alternative_text(cell):
            cell["metadata"] = {"mystnb": {"image": {"alt": alt}}}
    return json.dumps(notebook)


def alternative_text(cell: dict[str, Any]) -> str | None:
    """That of the cell's picture: given in the cell's metadata, or by the figure itself."""
    if given := cell["metadata"].get("mystnb"):
        return given["image"]["alt"]
    metadata = [output.get("metadata", {}) for output in cell["outputs"]]
    return next((m["image/png"]["alt"] for m in metadata if "alt" in m.get("image/png", {})), None)


def copy(*_: Any) -> None:
    """Writes the pages that changed, so that a build reads only those again."""
    for source, page in copied().items():
        path, text = DOCS / page, page_of(source, page)
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def relink(app: Any, docname: str, source: list[str]) -> None:
    """Links of committed pages to files of the repository lead to the pages of these files."""
    page = f"{docname}.md"
    if (DOCS / page) in committed():
        source[0] = with_site_links(source[0], f"docs/{page}", page)


def setup(app: Any) -> dict[str, bool]:
    app.connect("config-inited", copy)
    app.connect("source-read", relink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

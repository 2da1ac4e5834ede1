"""The documentation site: every public name has a page, every page is reachable, links resolve.

The site itself is built by ``sphinx-build -W docs docs/_build``; these tests do without Sphinx.
"""

import ast
import json
import re
import types

import pytest

import drawing
import jaxconv
import sources

INDEX = (sources.DOCS / "reference" / "index.md").read_text()
ENTRIES = re.findall(r"^   (jaxconv\.[\w.]+)$", INDEX, re.MULTILINE)
PAGES = {
    path.relative_to(sources.ROOT).as_posix(): path.read_text() for path in sources.committed()
}
SOURCES = [*PAGES, *sources.copied()]


def public_names() -> set[str]:
    """Every public name of jaxconv and of its public modules."""
    names = {f"jaxconv.{name}" for name in jaxconv.__all__}
    modules = {
        name: getattr(jaxconv, name)
        for name in jaxconv.__all__
        if isinstance(getattr(jaxconv, name), types.ModuleType) and name != "train"
    }
    for name, module in modules.items():
        inside = getattr(module, "__all__", None) or exported(module)
        names |= {f"jaxconv.{name}.{entry}" for entry in inside}
    return names


def exported(module) -> set[str]:
    """What a module imports under the same name, ``from .x import f as f``: what it re-exports."""
    with open(module.__file__) as file:
        statements = ast.parse(file.read()).body
    aliases = [a for s in statements if isinstance(s, ast.ImportFrom) for a in s.names]
    return {alias.name for alias in aliases if alias.asname == alias.name}


def test_every_public_name_has_a_page():
    assert len(ENTRIES) == len(set(ENTRIES))
    # nnx.Options describes the keywords that the modules share.
    listed = set(ENTRIES) - {"jaxconv.nnx.Options"}
    assert listed == public_names(), "docs/reference/index.md lists the public names"


def test_no_two_pages_differ_by_case_alone():
    """Some file systems do not distinguish them. docs/conf.py renames the page of one class."""
    assert {e for e in ENTRIES if e.lower() != e and e.lower() in ENTRIES} == {"jaxconv.Cost"}
    assert 'autosummary_filename_map = {"jaxconv.Cost": ' in (sources.DOCS / "conf.py").read_text()


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for name, page in PAGES.items():
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
            entries = [line for line in block.splitlines() if line and line[0] != ":"]
            folder = (sources.ROOT / name).parent
            listed |= {(folder / entry).resolve().relative_to(sources.DOCS) for entry in entries}
    expected = {name.removeprefix("docs/").removesuffix(".md") for name in PAGES} - {"index"}
    expected |= {page.rpartition(".")[0] for page in sources.copied().values()}
    assert {path.as_posix() for path in listed} == expected, "list each page in a toctree"


def headings(path) -> set[str]:
    """The anchors of a Markdown page: its headings in GitHub's spelling, and explicit targets."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return anchors | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def links(name: str):
    """The targets of a file's links, and the files and anchors that they lead to."""
    path = sources.ROOT / name
    text = json.dumps(path.read_text()) if path.suffix == ".ipynb" else path.read_text()
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            file, _, anchor = target.partition("#")
            yield target, (path.parent / file if file else path), anchor


@pytest.mark.parametrize("name", SOURCES)
def test_links_resolve(name):
    """On the site, and where the repository is browsed."""
    sources.page_of(name, sources.copied().get(name, name.removeprefix("docs/")))
    for target, file, anchor in links(name):
        assert file.exists(), target
        assert not anchor or file.suffix == ".html" or anchor in headings(file), target


def test_a_link_to_a_file_that_is_no_page_is_an_error():
    with pytest.raises(ValueError, match=r"docs/a\.md links to \.\./pyproject\.toml, which is not"):
        sources.with_site_links("[x](../pyproject.toml)", "docs/a.md", "a.md")


def test_links_lead_to_the_copies():
    page = "[a](../../CHANGELOG.md#added) [b](../../notebooks/02_dilated.ipynb) [c](https://d.org)"
    assert sources.with_site_links(page, "docs/start/tour.md", "start/tour.md") == (
        "[a](../project/changelog.md#added) [b](../notebooks/02_dilated.ipynb) [c](https://d.org)"
    )


CODES = [
    pytest.param(code, id=f"{name}-{at}")
    for name, page in PAGES.items()
    for at, code in enumerate(drawing.codes(page))
]


@pytest.mark.sample(15)
@pytest.mark.parametrize("code", CODES)
def test_pictures_are_drawn(code, tmp_path):
    assert (tmp_path / drawing.write(code, tmp_path)).stat().st_size > 1000


def test_every_picture_has_a_case_in_the_playground():
    cases = {name: drawing.cases(page) for name, page in PAGES.items() if drawing.codes(page)}
    assert sum(map(len, cases.values())) == len(CODES)
    assert not [name for name, each in cases.items() if not all(each)], "add :playground: KEY=VALUE"


def test_the_gallery_has_every_function_of_viz():
    shown = re.findall(r"^## `viz\.(\w+)`$", PAGES["docs/learn/gallery.md"], re.MULTILINE)
    assert sorted(shown) == sorted(exported(jaxconv.viz))


NOTEBOOKS = sorted((sources.ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_picture_of_a_notebook_has_an_alternative_text(path):
    for cell in json.loads(path.read_text())["cells"]:
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        if any(kind.startswith("image/") for kind in kinds):
            assert len(sources.alternative_text(cell)) > 20

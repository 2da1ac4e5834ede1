"""docs/extensions/address.py states the repository's address everywhere, for any of GitHub."""

import json
import pathlib
import shutil
import subprocess
import tomllib

import pytest

import address
import sources as pages

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path):
    """The files that state the address, with two of the notebooks."""
    (tmp_path / "notebooks").mkdir()
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))[:2]
    for path in [ROOT / "pyproject.toml", ROOT / "CITATION.cff", *notebooks]:
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    return tmp_path


def sources(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


def texts(root):
    return {path.name: path.read_text() for path in root.rglob("*.*") if path.is_file()}


def test_every_notebook_gets_a_link_and_its_installation(root):
    before = {path: sources(path) for path in (root / "notebooks").iterdir()}
    address.write(root, "https://github.com/an-owner/a.fork")
    for path, earlier in before.items():
        title, install, *rest = sources(path)
        link = f"github/an-owner/a.fork/blob/main/notebooks/{path.name}"
        assert f"[Open in Colab](https://colab.research.google.com/{link})" in title
        assert '"jaxconv[notebooks] @ git+https://github.com/an-owner/a.fork"' in install
        assert rest == earlier[2:]
        assert title.splitlines()[0] == earlier[0].splitlines()[0]


def test_the_package_and_the_citation_get_it(root):
    before = tomllib.loads((root / "pyproject.toml").read_text())
    address.write(root, "https://github.com/an-owner/a.fork")
    after = tomllib.loads((root / "pyproject.toml").read_text())
    urls = after["project"].pop("urls")
    assert urls.keys() == before["project"].pop("urls").keys()
    assert all(f"{url}/".startswith("https://github.com/an-owner/a.fork/") for url in urls.values())
    assert after == before
    assert "placeholder" not in (root / "pyproject.toml").read_text()
    lines = (root / "CITATION.cff").read_text().splitlines()
    assert lines.count("repository-code: https://github.com/an-owner/a.fork") == 1


def test_another_address_replaces_the_first(root):
    address.write(root, "git@github.com:one/jaxconv.git")
    assert any("one/jaxconv" in text for text in texts(root).values())
    address.write(root, "https://github.com/two/jaxconv")
    once = texts(root)
    address.write(root, "https://github.com/two/jaxconv/")
    assert once == texts(root)
    assert not any("one/jaxconv" in text for text in once.values())
    assert {text.count("Open in Colab") for name, text in once.items() if "ipynb" in name} == {1}


@pytest.mark.parametrize("given", ["https://example.org/a/b", "jaxconv", "https://github.com/a"])
def test_other_addresses_are_an_error(root, given):
    with pytest.raises(ValueError, match=r"must be https://github.com/OWNER/NAME.* but got"):
        address.write(root, given)


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://github.com/an-owner/jaxconv.git", "an-owner/jaxconv"),
        ("ssh://git@github.com/an-owner/jaxconv", "an-owner/jaxconv"),
        ("/srv/git/jaxconv", None),
        (None, None),
    ],
)
def test_a_clone_knows_its_address(tmp_path, remote, expected):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    if remote:
        subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", remote], check=True)
    assert address.of_clone(tmp_path) == expected


def test_the_sites_notebooks_link_to_the_clone(monkeypatch):
    monkeypatch.setattr(address, "of_clone", lambda: "an-owner/jaxconv")
    page = pages.page_of("notebooks/02_dilated.ipynb", "notebooks/02_dilated.ipynb")
    assert "colab.research.google.com/github/an-owner/jaxconv/blob/main/notebooks/02" in page
    assert "git+https://github.com/an-owner/jaxconv" in page


def test_the_placeholder_is_in_one_file():
    """Until the address is known nothing else states one; later, every file states the same."""
    project = (ROOT / "pyproject.toml").read_text()
    urls = tomllib.loads(project)["project"]["urls"]
    name = address.repository(urls["Repository"])
    committed = [ROOT / "CITATION.cff", *sorted((ROOT / "notebooks").glob("*.ipynb"))]
    if "placeholder" in project:
        assert not [path for path in committed if f"github.com/{name}" in path.read_text()]
        assert all("Open in Colab" not in path.read_text() for path in committed)
    else:
        assert address.with_urls(project, name) == project
        assert not [path for path in committed if name not in path.read_text()]

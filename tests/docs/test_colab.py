"""docs/colab.py links the notebooks to Colab, for any address on GitHub."""

import importlib.util
import json
import pathlib
import shutil

import pytest

ROOT = pathlib.Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("docs_colab", ROOT / "docs" / "colab.py")
colab = importlib.util.module_from_spec(spec)
spec.loader.exec_module(colab)


@pytest.fixture
def folder(tmp_path):
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))[:2]:
        shutil.copy(path, tmp_path)
    return tmp_path


def sources(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


def test_every_notebook_gets_a_link_and_its_installation(folder):
    before = {path.name: sources(path) for path in folder.iterdir()}
    colab.write(folder, "https://github.com/an-owner/a.fork")
    for name, earlier in before.items():
        title, install, *rest = sources(folder / name)
        link = f"github/an-owner/a.fork/blob/main/notebooks/{name}"
        assert f"[Open in Colab](https://colab.research.google.com/{link})" in title
        assert '"jaxconv[notebooks] @ git+https://github.com/an-owner/a.fork"' in install
        assert rest == earlier[2:]
        assert title.splitlines()[0] == earlier[0].splitlines()[0]


def test_another_address_replaces_the_first(folder):
    colab.write(folder, "git@github.com:one/jaxconv.git")
    colab.write(folder, "https://github.com/two/jaxconv")
    once = {path.name: path.read_text() for path in folder.iterdir()}
    colab.write(folder, "https://github.com/two/jaxconv/")
    assert once == {path.name: path.read_text() for path in folder.iterdir()}
    assert not any("one/jaxconv" in text for text in once.values())
    assert all(text.count("Open in Colab") == 1 for text in once.values())


@pytest.mark.parametrize("address", ["https://example.org/a/b", "jaxconv", "https://github.com/a"])
def test_other_addresses_are_an_error(folder, address):
    with pytest.raises(ValueError, match=r"must be https://github.com/OWNER/NAME.* but got"):
        colab.write(folder, address)

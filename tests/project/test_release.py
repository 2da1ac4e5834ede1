"""What a release needs: one version, and links for a package index."""

import importlib.util
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def script(monkeypatch):
    """Loads a script of packaging/, which is not a package."""
    monkeypatch.syspath_prepend(ROOT / "packaging")

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, ROOT / "packaging" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_the_citation_has_the_version_of_the_project():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [PROJECT["version"]]


def test_links_of_the_index_page_are_absolute(script):
    module = script("absolute_links")
    text = module.absolute((ROOT / "README.md").read_text(), "https://example.org/x")
    assert not module.LINK.search(text)
    targets = re.findall(r"https://example\.org/x/(?:raw|blob)/main/([^)#]+)", text)
    assert len(targets) > 10
    assert all((ROOT / target).exists() for target in targets)

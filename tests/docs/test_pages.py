"""The documentation's code runs, its links lead somewhere, and the README stays short."""

import doctest
import re
from pathlib import Path

import pytest

import jaxconv
import sources

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sources.committed()]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def with_code() -> list:
    """The pages with code: those of docs/learn are slow, and test_migrate.py runs its own."""
    pages = [page for page in PAGES if page.parent.name != "migrate" and blocks_of(page)]
    slow = [pytest.mark.slow]
    return [
        pytest.param(page, id=page.stem, marks=slow if page.parent.name == "learn" else [])
        for page in pages
    ]


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", with_code())
def test_code_runs(page):
    blocks = blocks_of(page)
    session = "".join(block for block in blocks if block.startswith(">>>"))
    try:
        for block in blocks:
            if not block.startswith(">>>"):
                exec(block, {})
        if session:
            run_examples(session, page)
    finally:
        jaxconv.uninstall()


def run_examples(block: str, page: Path) -> None:
    examples = doctest.DocTestParser().get_doctest(block, {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(examples)
    assert (runner.summarize().failed, runner.tries > 0) == (0, True)


@by_page
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    files = [target for target in targets if "://" not in target]
    assert not [target for target in files if not (page.parent / target).exists()]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200

"""The pages of the documentation site in a browser, if it was built and a browser is installed.

    sphinx-build -W docs docs/_build && pytest tests/docs/test_browser.py

``JAXCONV_SITE`` is the folder of a site that was built elsewhere.
"""

import os
import pathlib
import re

import pytest

import sources
from support.browser import chromium, needs_browser, opened, violations

SITE = pathlib.Path(os.environ.get("JAXCONV_SITE", sources.DOCS / "_build"))
PAGES = (
    "index.html",
    "start/tour.html",
    "learn/separable.html",
    "learn/gallery.html",
    "migrate/pytorch.html",
    "notebooks/03_depthwise_separable.html",
    "notebooks/08_any_order_autodiff.html",  # with formulas
    "performance/cpu.html",
    "reference/index.html",
    "reference/api/jaxconv.conv.html",
)

pytestmark = [
    needs_browser,
    pytest.mark.skipif(
        not (SITE / "index.html").exists(),
        reason="no site: sphinx-build -W docs docs/_build, or its folder as JAXCONV_SITE",
    ),
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_nothing_else_and_is_accessible(browser, page, scheme):
    """``opened`` fails at external requests and errors; axe-core finds nothing serious."""
    with opened(browser, (SITE / page).as_uri(), color_scheme=scheme) as tab:
        assert tab.title().endswith("jaxconv")
        assert not violations(tab)


def test_every_page_fits_a_phone(browser):
    phone = {"width": 390, "height": 844}
    for page in PAGES:
        with opened(browser, (SITE / page).as_uri(), viewport=phone) as tab:
            width = tab.evaluate("document.documentElement.scrollWidth")
            assert width <= phone["width"], page


def test_the_search_finds_a_function(browser):
    address = f"{(SITE / 'search.html').as_uri()}?q=depthwise_conv"
    with opened(browser, address) as tab:
        tab.wait_for_selector("#search-results li")
        assert "depthwise_conv" in tab.inner_text("#search-results")


@pytest.mark.parametrize(
    "path", sorted((sources.ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_the_playground_accepts_the_link_of_a_notebook(browser, path):
    link = re.search(r'href=\\"\.\./jaxconv/viz/playground\.html(#[^"\\]+)', path.read_text())
    with opened(browser, f"{(SITE / 'playground.html').as_uri()}{link[1]}") as tab:
        assert tab.evaluate("document.getElementById('fault').hidden")

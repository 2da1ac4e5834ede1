"""The pages of the documentation site in a browser, if it was built and a browser is installed.

    sphinx-build -W docs docs/_build && pytest tests/docs/test_browser.py

``JAXCONV_SITE`` is the folder of a site that was built elsewhere.
"""

import pytest

from support.browser import chromium, needs_browser, opened, violations
from support.site import SITE, needs_site

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

BACKGROUND = "getComputedStyle(document.body).backgroundColor"
pytestmark = [needs_browser, needs_site]


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_nothing_else_and_is_accessible(browser, page):
    """``opened`` fails at external requests and errors; axe-core finds nothing serious."""
    with opened(browser, (SITE / page).as_uri(), color_scheme="light") as tab:
        assert tab.title().endswith("jaxconv")
        assert not violations(tab)
        light = tab.evaluate(BACKGROUND)
        tab.emulate_media(color_scheme="dark")
        assert tab.evaluate(BACKGROUND) != light
        assert not violations(tab, rules=["color-contrast"])
        tab.set_viewport_size({"width": 390, "height": 844})  # a phone
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_search_finds_a_function(browser):
    address = f"{(SITE / 'search.html').as_uri()}?q=depthwise_conv"
    with opened(browser, address) as tab:
        tab.wait_for_selector("#search-results li")
        assert "depthwise_conv" in tab.inner_text("#search-results")


def test_a_picture_leads_to_its_case_in_the_playground(browser):
    with opened(browser, (SITE / "learn" / "strided.html").as_uri()) as tab:
        tab.get_by_role("link", name="Change it in the playground").click()
        tab.wait_for_url("**/playground.html#kind=strided&n=7x7*")
        assert tab.evaluate("document.getElementById('fault').hidden")

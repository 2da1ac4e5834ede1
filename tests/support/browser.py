"""A headless Chromium for tests of web pages, driven by Playwright.

Playwright comes with ``pip install "jaxconv[browser]"``, the browser with the system's packages
(``apt-get install chromium``). ``JAXCONV_BROWSER`` is the path of another Chromium.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Quiet: no first-run pages, no sandbox (tests run in containers) and nothing sent over the network.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def program() -> str | None:
    """The path of the browser."""
    named = os.environ.get("JAXCONV_BROWSER")
    return named or next(filter(None, map(shutil.which, PROGRAMS)), None)


FINISH_TRANSITIONS = """document.getAnimations()
  .filter(each => each.effect.getComputedTiming().endTime < Infinity)
  .forEach(each => each.finish())"""


def missing() -> str:
    """What tests in a browser lack here, as the reason to skip them; empty if nothing."""
    if importlib.util.find_spec("playwright") is None:
        return 'no Playwright: pip install "jaxconv[browser]"'
    if program() is None:
        return "no Chromium: apt-get install chromium, or give its path as JAXCONV_BROWSER"
    return ""


needs_browser = pytest.mark.skipif(bool(missing()), reason=missing())


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser with an empty profile; its ``new_page()`` opens a tab."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page that must not report an error, nor request anything beside itself."""
    context = browser.new_context(**options)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: _check_local(request.url, faults))
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert not faults


def _check_local(url: str, faults: list[str]) -> None:
    if not url.startswith(("file:", "data:", "blob:", "about:")):
        faults.append(f"an external request: {url}")


def violations(page: Any, least: str = "serious", rules: Sequence[str] = ()) -> list[str]:
    """What axe-core finds on a page, of this impact or a worse one: by these rules, or by all."""
    from axe_playwright_python.sync_playwright import Axe

    impacts = ("minor", "moderate", "serious", "critical")
    wanted = impacts[impacts.index(least) :]
    # Without `preload`, which requests style sheets again: a browser refuses that in files.
    page.evaluate(FINISH_TRANSITIONS)  # colors that fade would have another contrast
    options = {"preload": False, **({"runOnly": list(rules)} if rules else {})}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {[node['html'] for node in each['nodes']]}"
        for each in found
        if each["impact"] in wanted
    ]

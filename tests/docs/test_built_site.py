"""The built site as files: links lead to pages and anchors, and nothing comes from elsewhere."""

import functools
import html.parser
import os.path
import urllib.parse

import jaxconv
from support.site import SITE, needs_site

pytestmark = needs_site
# What a browser loads while it shows a page, by tag; pages are followed by links alone.
LOADED = {"img": "src", "script": "src", "iframe": "src", "link": "href", "source": "src"}


class Page(html.parser.HTMLParser):
    """The anchors of a page, its links, and the files that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if target := given.get(LOADED.get(tag, "")):
            self.loaded.add(target)


@functools.cache
def pages() -> dict[str, Page]:
    found = sorted(SITE.rglob("*.html"))
    return {path.relative_to(SITE).as_posix(): Page(path.read_text()) for path in found}


def target_of(page: str, link: str) -> tuple[str, str]:
    """The path in the site and the anchor that a link of a page leads to."""
    parts = urllib.parse.urlsplit(link)
    path = urllib.parse.unquote(parts.path)
    joined = os.path.join(os.path.dirname(page), path) if path else page
    return os.path.normpath(joined), urllib.parse.unquote(parts.fragment)


def is_broken(target: tuple[str, str], site: dict[str, Page]) -> bool:
    path, anchor = target
    if not (SITE / path).is_file():
        return True
    state = path == "playground.html"  # what follows # is no anchor there
    return bool(anchor) and not state and path in site and anchor not in site[path].anchors


def test_every_link_leads_to_a_page_and_an_anchor_of_the_site():
    site = pages()
    broken = {
        (page, link)
        for page, parsed in site.items()
        for link in parsed.links | parsed.loaded
        if not urllib.parse.urlsplit(link).scheme and is_broken(target_of(page, link), site)
    }
    assert not broken
    assert len(site) > 100


def test_pages_load_nothing_from_elsewhere():
    outside = {
        (page, link)
        for page, parsed in pages().items()
        for link in parsed.loaded
        if urllib.parse.urlsplit(link).scheme not in ("", "data") or link.startswith("//")
    }
    assert not outside


def test_every_public_name_has_a_page_with_its_docstring():
    for name in set(jaxconv.__all__) - {"Cost"}:  # docs/conf.py renames the page of this class
        text = (SITE / "reference" / "api" / f"jaxconv.{name}.html").read_text()
        assert f"jaxconv.{name}" in text

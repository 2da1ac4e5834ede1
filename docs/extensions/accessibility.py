"""What the theme and Sphinx leave out for readers who use a keyboard or a screen reader.

axe-core checks the result, in ``tests/docs/test_browser.py``.
"""

from __future__ import annotations

import re
from typing import Any

# Sphinx writes the parameters of a long signature as a list of descriptions without terms.
PARAMETERS = re.compile(r"<dl>\n<dd>.*?</dl>", re.DOTALL)


def accessible(body: str) -> str:
    """The HTML of a page: code can be scrolled by the keyboard, and signatures are no lists."""
    body = body.replace("<pre>", '<pre tabindex="0">')
    return PARAMETERS.sub(lambda found: re.sub("<(dl|dd)>", r'<\1 role="none">', found[0]), body)


def finish(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        context["body"] = accessible(context["body"])
    captions = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = captions.replace(
        'role="heading">', 'role="heading" aria-level="2">'
    )


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", finish, priority=900)  # after the theme
    return {"parallel_read_safe": True, "parallel_write_safe": True}

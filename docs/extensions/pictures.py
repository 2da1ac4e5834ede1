"""The ``picture`` directive: Python code, and the figure that its last line evaluates to.

    ```{picture} What the figure shows, for readers who cannot see it
    :playground: kind=dilated&n=9x9&k=3x3&d=2
    viz.dilations(3, (1, 2, 4))
    ```

The code has ``jax``, ``jnp``, ``np``, ``jaxconv`` and ``viz``. A link below leads to a case in the
playground with the same geometry.
"""

from __future__ import annotations

import html
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives

from drawing import write
from sources import DOCS, PICTURES


class Picture(Directive):
    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"playground": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        code = "\n".join(self.content)
        name = write(code, DOCS / PICTURES)
        image = nodes.image(uri=f"/{PICTURES}/{name}", alt=self.arguments[0])
        shown = [nodes.literal_block(code, code, language="python"), image]
        if "playground" in self.options:
            page = self.state.document.settings.env.docname
            shown.append(playground_link(self.options["playground"], page))
        return shown


def playground_link(state: str, page: str) -> nodes.Node:
    """A paragraph that leads to a case, from a page of the site."""
    address = html.escape(f"{'../' * page.count('/')}playground.html#{state}")
    link = f'<p class="playground"><a href="{address}">Change it in the playground</a></p>'
    return nodes.raw("", link, format="html")


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The ``picture`` directive: Python code, and the figure that its last line evaluates to.

    ```{picture} What the figure shows, for readers who cannot see it
    viz.dilations(3, (1, 2, 4))
    ```

The code has ``jax``, ``jnp``, ``np``, ``jaxconv`` and ``viz``. With ``:hidden:`` only the figure is
shown.
"""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives

from drawing import write
from sources import DOCS, PICTURES


class Picture(Directive):
    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"hidden": directives.flag}

    def run(self) -> list[nodes.Node]:
        code = "\n".join(self.content)
        name = write(code, DOCS / PICTURES)
        image = nodes.image(uri=f"/{PICTURES}/{name}", alt=self.arguments[0])
        if "hidden" in self.options:
            return [image]
        return [nodes.literal_block(code, code, language="python"), image]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

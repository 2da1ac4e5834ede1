"""The figure class that notebooks display; the only file that imports matplotlib at the top."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

DPI = 100


class Card(Figure):
    """A figure made without pyplot; notebooks would show a plain one as a line of text."""

    # Not ``_repr_png_``: once pyplot has drawn, its own display of figures would come first.
    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
        """The picture, and as metadata its alternative text for readers who cannot see it."""
        drawn = io.BytesIO()
        self.savefig(drawn, format="png", dpi=DPI)
        return {"image/png": drawn.getvalue()}, {"image/png": {"alt": self.alternative_text()}}

    def alternative_text(self) -> str:
        """The title, the captions of the panels and the line below them."""
        captions = ", ".join(filter(None, (axes.get_title() for axes in self.axes)))
        parts = (self.get_suptitle(), captions, self.get_supxlabel())
        return ". ".join(" ".join(part.split()) for part in parts if part)

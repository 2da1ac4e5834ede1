"""The figure that a notebook shows. The one file that needs matplotlib to be imported."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

DPI = 100


class Card(Figure):
    """A figure made without pyplot, which notebooks would otherwise show as a line of text."""

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.savefig(drawn, format="png", dpi=DPI)
        return drawn.getvalue()

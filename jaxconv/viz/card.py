"""The figure class that notebooks display; the only file that imports matplotlib at the top."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

DPI = 100


class Card(Figure):
    """A figure made without pyplot; notebooks would show a plain one as a line of text."""

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.savefig(drawn, format="png", dpi=DPI)
        return drawn.getvalue()

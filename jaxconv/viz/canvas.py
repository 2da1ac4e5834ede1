"""What all pictures share: figures, the palette, captions, cells with numbers, and saving.

Figures are made without pyplot: there is no window and no global state, and notebooks display the
figure that a function returns. Every color is explicit, because a user's dark style would
otherwise draw white text on the light card.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CARD, INK, FAINT, EDGE = "#fbfaf6", "#22303c", "#8d99a6", "#c9ced3"
INPUT, KERNEL, OUTPUT, PAD = "#d6e6f2", "#f6c65b", "#bfe0c2", "#eceae4"
CHANNELS = ("#d1495b", "#3d8b5f", "#3f72af", "#9a5fb4", "#d98032", "#2a9d9d", "#8a6d3b", "#6b7a8f")


def figure(title: str, width: float, height: float, background: str = CARD) -> Figure:
    """An empty figure of this size in inches, with a title."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            'jaxconv.viz needs matplotlib, which is not installed; run pip install "jaxconv[demo]"'
        )
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from .card import Card

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    drawn = Card(figsize=(width, height), layout=layout, facecolor=background)
    drawn.suptitle(title, fontsize=13, color=INK, fontweight="bold")
    return drawn


def panels(drawn: Figure, widths: Sequence[float]) -> list[Axes]:
    """Panels side by side, without frames, and with y pointing down, as rows do."""
    axes = drawn.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for panel in axes:
        panel.set_axis_off()
        panel.set_aspect("equal")
        panel.invert_yaxis()
    return list(axes)


def caption(axes: Axes, text: str, align: str = "center") -> None:
    """The title of one part of a figure."""
    axes.set_title(text, fontsize=10.5, color=INK, loc=align)  # pyright: ignore[reportArgumentType]


def cell(axes: Axes, at: Sequence[float], color: str, **style: Any) -> None:
    """A unit square at a row and column."""
    from matplotlib.patches import Rectangle

    options = {"edgecolor": EDGE, "linewidth": 1.0} | style
    row, column = at
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=color, **options))


def number(axes: Axes, at: Sequence[float], value: float, **style: Any) -> None:
    """A number in the middle of a cell."""
    options = {"ha": "center", "va": "center", "fontsize": 11, "color": INK} | style
    row, column = at
    axes.text(column + 0.5, row + 0.5, format_number(value), **options)


def frame(axes: Axes, at: Sequence[int], height: int, width: int) -> None:
    """A thick outline over ``height`` by ``width`` cells."""
    from matplotlib.patches import Rectangle

    row, column = at
    box = Rectangle((column, row), width, height, fill=False, edgecolor=CHANNELS[0], linewidth=2.5)
    axes.add_patch(box)


def fit(
    axes: Axes, height: float, width: float, *, tallest: float = 0, margin: float = 0.15
) -> None:
    """Shows ``height`` by ``width`` cells.

    They are centerd in the height of the ``tallest`` panel beside them, so that cells have the same
    size in all panels.
    """
    spare = (max(tallest, height) - height) / 2 + margin
    axes.set_xlim(-margin, width + margin)
    axes.set_ylim(height + spare, -spare)


def format_number(value: float) -> str:
    """At most three digits, with a real minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def factor(value: float) -> str:
    """A number as a factor of a product: negative ones are in parentheses."""
    text = format_number(value)
    return f"({text})" if value < 0 else text


def save(drawn: Figure, path: str | os.PathLike) -> Path:
    """Writes a figure as a PNG file, all at once, so that readers never see half of it.

    Args:
        drawn: A figure of this package.
        path: The file to write; an existing one is replaced.

    Returns:
        ``path`` as a ``pathlib.Path``.

    Raises:
        OSError: ``path`` cannot be written.

    >>> import tempfile, numpy as np, jaxconv.viz
    >>> drawn = jaxconv.viz.sliding(np.arange(16).reshape(4, 4), np.ones((3, 3)), padding="VALID")
    >>> save(drawn, tempfile.mkdtemp() + "/sliding.png").name
    'sliding.png'
    """
    return write(path, lambda partial: drawn.savefig(partial, format="png", dpi=130))


def write(path: str | os.PathLike, writer: Any) -> Path:
    """Calls ``writer`` with a temporary path beside ``path``, and then renames that file.

    Raises:
        OSError: ``path`` cannot be written; the error names it, not the temporary path.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".tmp")
    try:
        writer(partial)
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def pixels(drawn: Figure) -> np.ndarray:
    """The pixels of a figure, ``[height, width, 3]`` bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

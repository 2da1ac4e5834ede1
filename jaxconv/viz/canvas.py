"""What all pictures share: figures, the palette, captions and cells with numbers.

Figures are made without pyplot: there is no window and no global state, and notebooks display the
figure that a function returns. Every color is explicit, because a user's dark style would
otherwise draw white text on the light card.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def tint(hue: str, amount: float) -> str:
    """This much of a color ``#rrggbb`` on white."""
    shares = [int(hue[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(255 + (share - 255) * amount):02x}" for share in shares)


# Hues after M. Okabe, K. Ito, "Color universal design" (2002), which people with any color vision
# can tell apart; the playground has the same. Cells are light tints of them. Text has a contrast of
# at least 4.5.
HUES = {"input": "#56b4e9", "kernel": "#e69f00", "output": "#009e73", "products": "#cc79a7"}
CARD, INK, FAINT, EDGE, PAD = "#fbfaf6", "#22303c", "#5a6672", "#c9ced3", "#eceae4"
INPUT = tint(HUES["input"], 0.3)
KERNEL = tint(HUES["kernel"], 0.55)
OUTPUT = tint(HUES["output"], 0.35)
FRAME, WEIGHT, COVERED = "#b34700", "#8a3600", "#4f4a3a"  # outlines, weights and padding under taps
CHANNELS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d", "#f0e442")


def require_matplotlib() -> None:
    """Raises an error that says how to install matplotlib if it is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            'jaxconv.viz needs matplotlib, which is not installed; run pip install "jaxconv[demo]"'
        )


def figure(title: str, width: float, height: float, background: str = CARD) -> Figure:
    """An empty figure of this size in inches, with a title."""
    require_matplotlib()
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
    box = Rectangle((column, row), width, height, fill=False, edgecolor=FRAME, linewidth=2.5)
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


def pixels(drawn: Figure) -> np.ndarray:
    """The pixels of a figure, ``[height, width, 3]`` bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

"""Bar charts of parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .._src.analysis.cost import Cost
from .canvas import CARD, CHANNELS, EDGE, INK, caption, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def costs(counted: Mapping[str, Cost]) -> Figure:
    """Bars of parameters and multiply-accumulates, to compare layers of the same shape.

    Args:
        counted: Results of ``jaxconv.cost`` by name; the others are compared with the first.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        ValueError: ``counted`` is empty, or a value is not a result of ``jaxconv.cost``.
        ImportError: matplotlib is not installed.

    >>> import jax.numpy as jnp, jaxconv
    >>> x, kernel = jnp.ones((1, 20, 20, 8)), jnp.ones((3, 3, 8, 32))
    >>> dense = jaxconv.cost(jaxconv.conv, x, kernel)
    >>> costs({"dense": dense}).axes[0].get_title()
    'parameters'

    Source: A. Howard et al., "MobileNets" (2017), section 3.1.
    """
    if not isinstance(counted, Mapping) or not counted:
        raise ValueError("costs: counted must map at least one name to a result of jaxconv.cost")
    for name, cost in counted.items():
        if not isinstance(cost, Cost):
            raise ValueError(
                f"costs: counted[{name!r}] must be a result of jaxconv.cost, but got "
                f"{type(cost).__name__}"
            )
    drawn = figure("What it costs", 10, 1.5 + 0.5 * len(counted))
    measures = {
        "parameters": [cost.parameters for cost in counted.values()],
        "multiply-accumulates": [cost.macs for cost in counted.values()],
    }
    names = list(counted)
    panels = drawn.subplots(1, 2, sharey=True)
    for axes, (measure, values) in zip(panels, measures.items(), strict=True):
        axes.set_facecolor(CARD)
        colors = [CHANNELS[i % len(CHANNELS)] for i in range(len(names))]
        axes.barh(names, values, color=colors, height=0.6)
        axes.invert_yaxis() if axes is panels[0] else None
        for row, value in enumerate(values):
            ratio = f"  1/{values[0] / value:.2g}" if row and value else ""
            axes.text(value, row, f" {value:,}{ratio}", va="center", fontsize=10, color=INK)
        axes.set_xlim(0, max(values) * 1.45 or 1)
        caption(axes, measure)
        axes.tick_params(colors=INK, length=0, labelsize=10)
        axes.xaxis.set_visible(False)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "left")
            spine.set_color(EDGE)
    return drawn

"""Dilation: where the taps of a kernel are, and how a stack of layers sees further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._src.analysis.receptive_field import receptive_field
from .._src.geometry.spec import ConvSpec, effective_extent
from .canvas import CARD, CHANNELS, EDGE, FAINT, INK, INPUT, KERNEL, caption, cell, figure, fit
from .canvas import panels as panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_WIDTH = 64  # cells of a grid, and inputs of a tree, that can still be told apart


def dilations(kernel_size: int = 3, rates: Sequence[int] = (1, 2, 4)) -> Figure:
    """One kernel at several dilations: the number of taps stays, the receptive field grows.

    Args:
        kernel_size: Taps on each axis.
        rates: The dilations. Each is the distance between neighboring taps; 1 leaves no gap.

    Returns:
        A matplotlib ``Figure`` with one panel per rate.

    Raises:
        ValueError: There is no rate, a rate is below 1, or a grid is wider than 64 cells.
        ImportError: matplotlib is not installed.

    >>> dilations(3, (1, 2)).get_suptitle()
    'The same 9 taps, dilated: a wider view for as much work'

    Source: F. Yu, V. Koltun, "Multi-scale context aggregation by dilated convolutions" (2016).
    """
    _check("dilations", kernel_size, rates)
    extents = [effective_extent(kernel_size, rate) for rate in rates]
    _check_width("dilations", "cells on each axis", max(extents))
    title = f"The same {kernel_size**2} taps, dilated: a wider view for as much work"
    drawn = figure(title, max(3.0 * len(rates), 6.0), 3.9)
    widest = max(extents)
    for axes, rate, extent in zip(panels_of(drawn, [1] * len(rates)), rates, extents, strict=True):
        at = (widest - extent) / 2
        for row in range(extent):
            for column in range(extent):
                tap = row % rate == 0 and column % rate == 0
                cell(axes, (row + at, column + at), KERNEL if tap else INPUT)
        caption(axes, f"dilation {rate}: sees {extent}×{extent}")
        fit(axes, widest, widest)
    return drawn


def dilation_tree(
    rates: Sequence[int] = (1, 2, 4, 8), kernel_size: int = 2, length: int | None = None
) -> Figure:
    """A stack of dilated causal convolutions, and the inputs that its last output depends on.

    Args:
        rates: The dilation of each layer, from the bottom up.
        kernel_size: Taps of each layer.
        length: Time steps to draw; by default a few more than the receptive field.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        ValueError: There is no rate, a rate is below 1, or there are more than 64 time steps.
        ImportError: matplotlib is not installed.

    >>> dilation_tree((1, 2, 4, 8)).get_suptitle()
    'Causal layers with dilations 1, 2, 4, 8: the last output sees 16 inputs'

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016), figure 3.
    """
    _check("dilation_tree", kernel_size, rates)
    field = receptive_field([_causal(rate, kernel_size) for rate in rates]).size[0]
    length = field + 4 if length is None else length
    _check_width("dilation_tree", "time steps", length)
    names = ", ".join(map(str, rates))
    title = f"Causal layers with dilations {names}: the last output sees {field} inputs"
    drawn = figure(title, max(0.42 * length + 1.6, 7.0), 0.85 * len(rates) + 1.6)
    axes = panels_of(drawn, [1])[0]
    axes.set_aspect("auto")
    layers = _seen(rates, kernel_size, length)
    for height, (seen, rate) in enumerate(zip(layers[1:], rates, strict=True)):
        for now in range(length):
            used = now in seen
            for tap in range(kernel_size):
                then = now - tap * rate
                if then >= 0:
                    style = (
                        {"color": CHANNELS[1], "lw": 1.8} if used else {"color": EDGE, "lw": 0.6}
                    )
                    axes.plot([then, now], [height, height + 1], zorder=1 + used, **style)
    for height, seen in enumerate(layers):
        colors = [KERNEL if now in seen else CARD for now in range(length)]
        lines = [INK if now in seen else FAINT for now in range(length)]
        axes.scatter(
            range(length),
            [height] * length,
            s=70,
            c=colors,
            edgecolors=lines,
            linewidths=1,
            zorder=3,
        )
        name = "input" if height == 0 else f"dilation {rates[height - 1]}"
        axes.text(-0.9, height, name, ha="right", va="center", fontsize=10, color=INK)
    axes.set_xlim(-4.2, length - 0.3)
    axes.set_ylim(-0.4, len(rates) + 0.4)
    caption(axes, "time →")
    return drawn


def _seen(rates: Sequence[int], kernel_size: int, length: int) -> list[set[int]]:
    """The time steps of the input and of each layer that the last output depends on."""
    layers = [{length - 1}]
    for rate in reversed(rates):
        steps = {now - tap * rate for now in layers[0] for tap in range(kernel_size)}
        layers.insert(0, {step for step in steps if step >= 0})
    return layers


def _causal(rate: int, kernel_size: int) -> ConvSpec:
    return ConvSpec(
        batch=1,
        in_features=1,
        out_features=1,
        input_spatial=(1 << 20,),
        kernel_spatial=(kernel_size,),
        strides=(1,),
        padding=((rate * (kernel_size - 1), 0),),
        dilation=(rate,),
        groups=1,
    )


def _check(function: str, kernel_size: int, rates: Sequence[int]) -> None:
    if kernel_size < 1 or not rates or min(rates) < 1:
        raise ValueError(
            f"{function}: kernel_size and every rate must be at least 1, and at least one rate is "
            f"needed, but got kernel_size {kernel_size} and rates {tuple(rates)}; a rate of 1 "
            f"leaves no gap between taps"
        )


def _check_width(function: str, what: str, width: int) -> None:
    if not 1 <= width <= MAX_WIDTH:
        raise ValueError(
            f"{function}: a picture has 1 to {MAX_WIDTH} {what}, but this one would have {width}; "
            f"use smaller or fewer rates"
        )

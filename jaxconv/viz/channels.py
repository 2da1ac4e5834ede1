"""How channels are combined: the depthwise separable convolution, and the 1×1 convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._src.analysis.tables import format_shape
from .._src.geometry import resolve
from .._src.geometry.checks import Call
from .canvas import (
    CARD,
    CHANNELS,
    INK,
    KERNEL,
    OUTPUT,
    caption,
    cell,
    factor,
    figure,
    fit,
    format_number,
    number,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CHANNELS = len(CHANNELS)  # one color each
SIDE = 3.0  # side of one sheet of a stack
SHIFT = 0.35  # distance between two sheets of a stack
SPAN = SIDE + SHIFT * (MAX_CHANNELS - 1)  # side of the largest stack


def separable(
    image: tuple[int, int] = (20, 20),
    channels: int = 3,
    features: int = 4,
    kernel_size: int | tuple[int, int] = 3,
    *,
    strides: Any = 1,
    padding: Any = "VALID",
    dilation: Any = 1,
) -> Figure:
    """A depthwise separable convolution: each channel is filtered, then all of them are merged.

    Args:
        image: Height and width of the input in pixels.
        channels: Channels of the input, 1 to 8.
        features: Features of the output, 1 to 8.
        kernel_size: Size of the depthwise filters on each axis.
        strides, padding, dilation: As in ``jaxconv.depthwise_conv``.

    Returns:
        A matplotlib ``Figure`` with the shapes and the numbers of parameters of both steps.

    Raises:
        ValueError: There are more than 8 channels or features, or the kernel does not fit.
        ImportError: matplotlib is not installed.

    >>> separable((20, 20), 8, 8).get_suptitle()
    'Depthwise separable: 136 parameters, where one dense 3×3 has 576'

    Source: A. Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision
    applications" (2017).
    """
    _check_count("separable", channels=channels, features=features)
    extents = (kernel_size,) * 2 if isinstance(kernel_size, int) else tuple(kernel_size)
    shapes = {"x": (1, *image, channels), "kernel": (*extents, 1, channels)}
    call = Call("separable", **shapes)
    spec = resolve.conv(call, *shapes.values(), strides, padding, dilation, channels).spec
    merge = channels * features
    small, dense = spec.parameters + merge, spec.taps * merge
    taps = format_shape(extents, "×")
    title = f"Depthwise separable: {small:,} parameters, where one dense {taps} has {dense:,}"
    drawn = figure(title, 12, 3.9)
    height, width = spec.output_spatial
    axes = panels(drawn, [1] * 5)
    _stack(axes[0], CHANNELS[:channels])
    _filters(axes[1], extents, channels)
    _stack(axes[2], CHANNELS[:channels])
    _mixers(axes[3], channels, features)
    _stack(axes[4], [OUTPUT] * features)
    titles = (
        f"input {image[0]}×{image[1]}×{channels}",
        f"{channels} filters {taps}, one per channel",
        f"depthwise {height}×{width}×{channels}",
        f"{features} filters 1×1×{channels}",
        f"output {height}×{width}×{features}",
    )
    for panel, text in zip(axes, titles, strict=True):
        caption(panel, text)
        fit(panel, SPAN, SPAN)
    counts = f"{spec.parameters:,} parameters to filter + {merge:,} to merge = {small:,}"
    drawn.supxlabel(counts, fontsize=11, color=INK)
    return drawn


def pointwise(pixel: Any, kernel: Any) -> Figure:
    """A 1×1 convolution at one pixel: each feature is a weighted sum of the pixel's channels.

    Args:
        pixel: The channels of one pixel, ``[C]`` with ``C`` from 1 to 8.
        kernel: The weights, ``[C, F]`` with ``F`` from 1 to 8.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        ValueError: The shapes do not fit, or there are more than 8 channels or features.
        ImportError: matplotlib is not installed.

    >>> pointwise([1, 2, 3], [[1, 0], [0, 1], [1, -1]]).get_suptitle()
    '1×1 convolution: 3 channels merged into 2 features, pixel by pixel'

    Source: M. Lin, Q. Chen, S. Yan, "Network in network" (2014).
    """
    pixel, kernel = np.asarray(pixel, np.float32), np.asarray(kernel, np.float32)
    if pixel.ndim != 1 or kernel.ndim != 2 or len(kernel) != len(pixel):
        raise ValueError(
            f"pointwise: pixel must be [C] and kernel [C, F] with the same C, but got shapes "
            f"{pixel.shape} and {kernel.shape}"
        )
    count, features = kernel.shape
    _check_count("pointwise", channels=count, features=features)
    title = f"1×1 convolution: {count} channels merged into {features} features, pixel by pixel"
    drawn = figure(title, 9, 1.7 + 0.45 * max(count, features))
    left, middle, right = panels(drawn, [1, max(features, 1), 1])
    for row, value in enumerate(pixel):
        cell(left, (row, 0), CHANNELS[row], alpha=0.35)
        number(left, (row, 0), value)
    for at in np.ndindex(*kernel.shape):
        cell(middle, at, KERNEL)
        number(middle, at, kernel[at])
    for row, value in enumerate(pixel @ kernel):
        cell(right, (row, 0), OUTPUT)
        number(right, (row, 0), value)
    titles = ("channels of a pixel", "weights: one column per feature", "features of the pixel")
    for axes, text, shape in zip(
        (left, middle, right), titles, ((count, 1), kernel.shape, (features, 1)), strict=True
    ):
        caption(axes, text)
        fit(axes, *shape, tallest=max(count, features))
    first = " + ".join(
        f"{factor(value)}·{factor(weight)}"
        for value, weight in zip(pixel, kernel[:, 0], strict=True)
    )
    total = format_number(float(pixel @ kernel[:, 0]))
    drawn.supxlabel(f"first feature: {first} = {total}", fontsize=10.5, color=INK)
    return drawn


def _stack(axes: Axes, colors: Sequence[str]) -> None:
    """Channels as a stack of sheets, with the first one in front."""
    from matplotlib.patches import Rectangle

    count = len(colors)
    margin = (SPAN - SIDE - SHIFT * (count - 1)) / 2  # centers the stack
    for index in reversed(range(count)):
        corner = (margin + SHIFT * index, margin + SHIFT * (count - 1 - index))
        sheet = Rectangle(corner, SIDE, SIDE, facecolor=colors[index], edgecolor=CARD, lw=1.2)
        axes.add_patch(sheet)


def _filters(axes: Axes, extents: tuple[int, ...], channels: int) -> None:
    """One small grid per channel, in the channel's color."""
    columns = 1 if channels <= 4 else 2
    rows = -(-channels // columns)
    size = min(SPAN / (rows * 1.25), SPAN / (columns * 1.3))
    size = min(size, 1.2)
    unit = size / max(extents)
    top = (SPAN - rows * size * 1.25) / 2
    left = (SPAN - columns * size * 1.3) / 2
    for index in range(channels):
        row, column = divmod(index, columns)
        corner = (top + row * size * 1.25, left + column * size * 1.3)
        _grid(axes, *corner, extents, unit, CHANNELS[index])


def _mixers(axes: Axes, channels: int, features: int) -> None:
    """One column of weights per feature; each weight has the color of its channel."""
    from matplotlib.patches import Rectangle

    unit = min(SPAN / channels, SPAN / (features * 1.4), 0.7)
    left, top = (SPAN - features * unit * 1.4) / 2, (SPAN - channels * unit) / 2
    for feature in range(features):
        for channel in range(channels):
            corner = (left + feature * unit * 1.4, top + channel * unit)
            square = Rectangle(corner, unit, unit, facecolor=CHANNELS[channel], edgecolor=CARD)
            axes.add_patch(square)


def _grid(
    axes: Axes, top: float, left: float, extents: tuple[int, ...], unit: float, color: str
) -> None:
    from matplotlib.patches import Rectangle

    for row in range(extents[0]):
        for column in range(extents[1]):
            corner = (left + column * unit, top + row * unit)
            axes.add_patch(
                Rectangle(corner, unit, unit, facecolor=color, edgecolor=CARD, lw=0.8, alpha=0.85)
            )


def _check_count(function: str, **counts: int) -> None:
    for name, count in counts.items():
        if not 1 <= count <= MAX_CHANNELS:
            raise ValueError(
                f"{function}: {name} must be 1 to {MAX_CHANNELS}, the number of distinct colors, "
                f"but got {count}"
            )

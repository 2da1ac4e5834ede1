"""A kernel sliding over its padded input, with the numbers in the cells."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._src.analysis.tables import format_shape
from .._src.functions.conv import conv
from .._src.geometry import resolve
from .._src.geometry.checks import Call
from .._src.geometry.spec import ConvSpec
from .canvas import (
    CARD,
    COVERED,
    FAINT,
    INK,
    INPUT,
    KERNEL,
    OUTPUT,
    PAD,
    WEIGHT,
    caption,
    cell,
    factor,
    figure,
    fit,
    format_number,
    frame,
    number,
    panels,
    pixels,
)
from .files import animation_suffix, save_animation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CELLS = 400  # of one grid, so that numbers can be read
MAX_FRAMES = 200
MAX_TERMS = 25  # of the equation below the picture
CELL_INCHES = 0.52


@dataclasses.dataclass(frozen=True)
class Scene:
    """One convolution of a single channel, with all that a picture of it shows."""

    padded: np.ndarray
    inside: np.ndarray  # which cells of ``padded`` are the input's, not padding
    kernel: np.ndarray
    result: np.ndarray
    spec: ConvSpec

    @property
    def height(self) -> int:
        """Rows of the tallest of the three grids."""
        return max(len(self.padded), len(self.kernel), len(self.result))

    def window(self, position: tuple[int, int]) -> list[tuple[int, int, float]]:
        """``(row, column, weight)`` of the padded cells that one output reads."""
        taps = itertools.product(*map(range, self.kernel.shape))
        return [
            (
                position[0] * self.spec.strides[0] + i * self.spec.dilation[0],
                position[1] * self.spec.strides[1] + j * self.spec.dilation[1],
                float(self.kernel[i, j]),
            )
            for i, j in taps
        ]


def sliding(
    x: Any,
    kernel: Any,
    *,
    position: tuple[int, int] | None = None,
    strides: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
) -> Figure:
    """A kernel at one position over its padded input: what it multiplies, and the sum it writes.

    Padding is grey. Cells under a tap of the kernel are yellow, with the tap's weight in the
    corner. Outputs up to this position are filled in.

    Args:
        x: One channel, ``[H, W]`` or ``[W]``; at most 400 cells with its padding.
        kernel: ``[KH, KW]`` or ``[K]``.
        position: Row and column of the output to compute; by default the last one.
        strides, padding, dilation: As in ``jaxconv.conv``.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        ValueError: The shapes are too large to draw, or are invalid for ``jaxconv.conv``.
        ImportError: matplotlib is not installed.

    >>> import numpy as np
    >>> drawn = sliding(np.arange(16).reshape(4, 4), np.ones((3, 3)), padding="VALID")
    >>> drawn.get_suptitle()
    '3×3 kernel over 4×4 → 2×2'

    Source: after V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning"
    (2016).
    """
    scene = _scene(x, kernel, strides, padding, dilation)
    last = tuple(extent - 1 for extent in scene.result.shape)
    at = last if position is None else tuple(np.atleast_1d(position).tolist())
    if len(at) != 2 or not all(0 <= i <= end for i, end in zip(at, last, strict=True)):
        raise ValueError(
            f"sliding: position must be a row and column of the {_by(scene.result.shape)} output, "
            f"but got {position!r}"
        )
    return _draw(scene, at)


def animate(
    x: Any,
    kernel: Any,
    path: str | os.PathLike,
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    seconds: float = 0.6,
) -> Path:
    """Writes an animation of a kernel that slides over its padded input, one output per frame.

    Args:
        x: One channel, ``[H, W]`` or ``[W]``; at most 400 cells with its padding.
        kernel: ``[KH, KW]`` or ``[K]``.
        path: The file to write; an existing one is replaced. Its suffix is the format: ``.gif``,
            ``.png`` or ``.apng``, ``.webp``, ``.html`` with buttons, or ``.mp4`` if ffmpeg is
            installed.
        strides, padding, dilation: As in ``jaxconv.conv``.
        seconds: The duration of a frame.

    Returns:
        ``path`` as a ``pathlib.Path``.

    Raises:
        ValueError: As for ``sliding``; or the suffix of ``path`` is missing or not supported, the
            output has more than 200 pixels, or ``seconds`` is not positive.
        OSError: ``path`` cannot be written.
        ImportError: matplotlib is not installed.

    >>> import tempfile, numpy as np
    >>> where = tempfile.mkdtemp() + "/sliding.gif"
    >>> animate(np.eye(3), np.ones((2, 2)), where, padding="VALID").name
    'sliding.gif'

    Source: after V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning"
    (2016).
    """
    if not seconds > 0:
        raise ValueError(f"animate: seconds must be positive, but got {seconds}")
    animation_suffix(path)  # before anything is drawn
    scene = _scene(x, kernel, strides, padding, dilation)
    if scene.result.size > MAX_FRAMES:
        raise ValueError(
            f"animate: the output must have at most {MAX_FRAMES} pixels, one per frame, but it is "
            f"{_by(scene.result.shape)}; use a smaller input or larger strides"
        )
    frames = [pixels(_draw(scene, at)) for at in np.ndindex(*scene.result.shape)]
    return save_animation(frames, path, seconds)


def _scene(x: Any, kernel: Any, strides: Any, padding: Any, dilation: Any) -> Scene:
    x, kernel = np.asarray(x, np.float32), np.asarray(kernel, np.float32)
    if x.ndim != kernel.ndim or x.ndim not in (1, 2):
        raise ValueError(
            f"sliding: x and kernel must be [H, W] and [KH, KW], or [W] and [K], but got shapes "
            f"{x.shape} and {kernel.shape}"
        )
    batched, weights = x[None, ..., None], kernel[..., None, None]
    call = Call("sliding", x=batched.shape, kernel=weights.shape)
    planned = resolve.conv(call, batched.shape, weights.shape, strides, padding, dilation, 1)
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    result = np.asarray(conv(batched, weights, **options))[0, ..., 0]
    padded, inside = _padded(x, planned)
    if not 0 < padded.size <= MAX_CELLS or not result.size:
        raise ValueError(
            f"sliding: the padded input must have 1 to {MAX_CELLS} cells and the output at least "
            f"1, but they are {_by(padded.shape)} and {_by(result.shape)}"
        )
    spec = planned.spec
    if x.ndim == 1:
        padded, inside, kernel, result = (a[None] for a in (padded, inside, kernel, result))
        spec = spec.replace(strides=(1, *spec.strides), dilation=(1, *spec.dilation))
    return Scene(padded, inside, kernel, result, spec)


def _padded(x: np.ndarray, planned: resolve.ResolvedConv) -> tuple[np.ndarray, np.ndarray]:
    """The padded and cropped input, and which of its cells are the input's, not padding."""
    inside = np.ones(x.shape, bool)
    for axis, border in enumerate(planned.borders):
        if border is not None:
            widths = [(0, 0)] * x.ndim
            widths[axis] = (border.low, border.high)
            x = np.pad(x, widths, mode=border.mode)  # pyright: ignore[reportCallIssue, reportArgumentType]
            inside = np.pad(inside, widths)
    zeros = [(max(low, 0), max(high, 0)) for low, high in planned.spec.padding]
    cropped = tuple(
        slice(max(-low, 0), n - max(-high, 0))
        for n, (low, high) in zip(x.shape, planned.spec.padding, strict=True)
    )
    return np.pad(x[cropped], zeros), np.pad(inside[cropped], zeros)


def _draw(scene: Scene, position: tuple[int, int]) -> Figure:
    rows, columns = scene.padded.shape
    extents = tuple(int(scene.inside.any(axis).sum()) for axis in (1, 0))
    flat = rows == 1
    shapes = [_by(shape, flat) for shape in (scene.kernel.shape, extents, scene.result.shape)]
    name = "{} taps over {} → {}" if flat else "{} kernel over {} → {}"
    title = name.format(*shapes) + _options(scene.spec, flat)
    widths = [columns, scene.kernel.shape[1], scene.result.shape[1]]
    equation = _equation(scene, position)
    drawn = figure(
        title,
        max(CELL_INCHES * (sum(widths) + 3), 7.0),
        CELL_INCHES * scene.height + 1.1 + 0.22 * (equation.count("\n") + 1),
    )
    drawn.supxlabel(equation, fontsize=10.5, color=INK)
    left, middle, right = panels(drawn, widths)
    _draw_input(left, scene, position)
    _draw_kernel(middle, scene)
    _draw_output(right, scene, position)
    return drawn


def _draw_input(axes: Axes, scene: Scene, position: tuple[int, int]) -> None:
    for at in np.ndindex(*scene.padded.shape):
        inside = scene.inside[at]
        cell(axes, at, INPUT if inside else PAD)
        number(axes, at, scene.padded.item(*at), color=INK if inside else FAINT)
    taps = scene.window(position)
    for row, column, weight in taps:
        cell(axes, (row, column), KERNEL, alpha=0.75)
        inside = scene.inside[row, column]
        number(axes, (row, column), scene.padded[row, column], color=INK if inside else COVERED)
        corner = {"ha": "right", "va": "bottom", "fontsize": 7, "color": WEIGHT}
        axes.text(column + 0.95, row + 0.95, f"×{format_number(weight)}", **corner)
    (top, left, _), (bottom, right, _) = taps[0], taps[-1]
    frame(axes, (top, left), bottom - top + 1, right - left + 1)
    caption(axes, "input" if scene.inside.all() else "input, padding in grey")
    fit(axes, *scene.padded.shape, tallest=scene.height)


def _draw_kernel(axes: Axes, scene: Scene) -> None:
    for at in np.ndindex(*scene.kernel.shape):
        cell(axes, at, KERNEL)
        number(axes, at, scene.kernel.item(*at))
    caption(axes, "kernel")
    fit(axes, *scene.kernel.shape, tallest=scene.height)


def _draw_output(axes: Axes, scene: Scene, position: tuple[int, int]) -> None:
    for at in np.ndindex(*scene.result.shape):
        written = at <= position
        cell(axes, at, OUTPUT if written else CARD)
        if written:
            number(axes, at, scene.result.item(*at))
    frame(axes, position, 1, 1)
    caption(axes, "output")
    fit(axes, *scene.result.shape, tallest=scene.height)


def _equation(scene: Scene, position: tuple[int, int]) -> str:
    """The sum that the picture shows, one row of the kernel per line; of a long one the result."""
    taps = scene.window(position)
    if len(taps) > MAX_TERMS:
        return f"the sum of {len(taps)} products: {format_number(scene.result[position])}"
    terms = [f"{factor(scene.padded[row, column])}·{factor(w)}" for row, column, w in taps]
    per_line = scene.kernel.shape[1]
    lines = [" + ".join(terms[i : i + per_line]) for i in range(0, len(terms), per_line)]
    return " +\n".join(lines) + f" = {format_number(scene.result[position])}"


def _by(shape: Any, flat: bool = False) -> str:
    """``3×3``; without the first axis of what is flat."""
    return format_shape(tuple(shape)[1 if flat else 0 :], "×")


def _options(spec: ConvSpec, flat: bool) -> str:
    words = [
        f"{name} {_by(values, flat)}"
        for name, values in (("stride", spec.strides), ("dilation", spec.dilation))
        if any(value > 1 for value in values)
    ]
    return ", " + ", ".join(words) if words else ""

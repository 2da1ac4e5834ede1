"""Recognizes arrays laid out as in other libraries, for the hints of errors and for warnings.

Arrays of activations are channels-first in PyTorch (``NCHW``). Kernels are ``OIHW`` in PyTorch
(``IOHW`` for its transposed convolution), ``OHWI`` in MLX and TensorFlow Lite, and ``HWOI`` for
TensorFlow's transposed convolution.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

from ..spec import Shape
from .call import SPATIAL, Call

# Kernels of other libraries have at most this extent, or that of the image.
MAX_PLAUSIBLE_EXTENT = 16

# A kernel (F, C, C, C) with fewer features may well be what it is read as, of extents F and C.
MIN_SURPRISING_FEATURES = 8


class LayoutWarning(UserWarning):
    """An array whose numbers fit, but whose layout is almost surely that of another library.

    jaxconv warns about a kernel that fits by coincidence, such as one of PyTorch's layout ``OIHW``
    and shape ``(8, 3, 3, 3)`` for an image of 3 channels; and about modules with an int as
    ``kernel_size``, which convolve one axis, if their input looks like square images.

    To silence it: ``warnings.simplefilter("ignore", jaxconv.LayoutWarning)``.
    """


def warn(message: str) -> None:
    """Warns of a layout, at the line outside of jaxconv, Flax and jax that made the call."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _package(frame) in ("jaxconv", "flax", "jax"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, LayoutWarning, stacklevel=level)


def _package(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]


def warn_of_kernel(call: Call) -> None:
    """Warns of a kernel ``(F, C/G, *K)`` or ``(F, *K, C/G)`` that also fits as ``[*K, C/G, F]``.

    All its axes but the first are then equal: ``K = C/G``.
    """
    shape = dict(call[1:])["kernel"]
    first, size = shape[0], shape[-1]
    if (
        len(shape) < 4
        or call.last_axes("kernel") != ("C/G", "F")
        or not all(isinstance(each, int) for each in shape)
        or len({*shape[1:]}) > 1
        or size < 2
        or first < MIN_SURPRISING_FEATURES
        or first == size
    ):
        return
    fixes = [
        f"{layout}: use {fix}"
        for layout, fix, reordered in _kernels(call, "kernel", shape)
        if layout and reordered[-1] == first
    ]
    rank = len(shape) - 2
    warn(
        f"{call.function}: kernel {shape} is read as [*K, C/G, F], with extents {shape[:rank]} and "
        f"{size} features, but looks like {first} features in another layout: "
        f"{', or '.join(fixes)}; if it is right, ignore jaxconv.LayoutWarning"
    )


def warn_of_images(module: str, x_shape: Shape, kernel_size: int) -> None:
    """Warns of square images or cubes that a module with ``kernel_size=3`` convolves in 1-D."""
    spatial = x_shape[1:-1]
    if 2 <= len(spatial) <= 3 and len({*spatial}) == 1 and spatial[0] > max(3, kernel_size):
        every = (kernel_size,) * len(spatial)
        warn(
            f"{module}: kernel_size={kernel_size} convolves the last spatial axis only, but the "
            f"input {tuple(x_shape)} looks like images; use kernel_size={every}, or "
            f"kernel_size=({kernel_size},) if one axis is meant"
        )


class _Reading(NamedTuple):
    """What an array's shape would be in jaxconv's layout, if it is laid out as ``layout``."""

    layout: str  # empty for jaxconv's own
    fix: str  # the expression that converts it
    shape: Shape


def layout_hint(call: Call, groups: int = 1, x: str = "x", kernel: str = "kernel") -> str:
    """``"; x looks like NCHW: use …"`` if the arrays fit together in another library's layout.

    Empty if they do not, or if a size is symbolic.
    """
    shapes = dict(call[1:])
    if not all(isinstance(size, int) for name in (x, kernel) for size in shapes.get(name, (None,))):
        return ""
    rank = len(shapes[kernel]) - 2
    found = [
        (pixels, weights)
        for pixels in _activations(x, shapes[x], rank)
        for weights in _kernels(call, kernel, shapes[kernel])
        if _fits(call, x, kernel, pixels.shape, weights.shape, groups)
    ]
    if not found:
        return ""
    pixels, weights = min(found, key=_strangeness)
    changed = [
        f"{name} looks like {reading.layout}: use {reading.fix}"
        for name, reading in ((x, pixels), (kernel, weights))
        if reading.layout
    ]
    return "; " + ", and ".join(changed) if changed else ""


def _activations(name: str, shape: Shape, rank: int) -> Iterator[_Reading]:
    yield _Reading("", "", shape)
    batched = len(shape) == rank + 2 if rank else len(shape) > 2
    channels = 1 if batched else 0
    if len(shape) < 2 + batched:
        return
    moved = (*shape[:channels], *shape[channels + 1 :], shape[channels])
    layout = "N" * batched + "C" + "".join(SPATIAL.get(len(shape) - 1 - batched, ("…",)))
    yield _Reading(layout, f"jnp.moveaxis({name}, {channels}, -1)", moved)


def _kernels(call: Call, name: str, shape: Shape) -> Iterator[_Reading]:
    yield _Reading("", "", shape)
    rank = len(shape) - 2
    # The names of the last two axes in jaxconv's layout.
    before, last = "OI" if call.last_axes(name)[1] == "C" else "IO"
    spatial = "".join(SPATIAL.get(rank, ()))
    orders = {
        f"{last}{before}{spatial}": (*range(2, rank + 2), 1, 0),
        f"{last}{spatial}{before}": (*range(1, rank + 2), 0),
        f"{spatial}{last}{before}": (*range(rank), rank + 1, rank),
    }
    for layout, order in orders.items():
        fix = f"{name}.transpose({', '.join(map(str, order))})"
        reordered = tuple(shape[axis] for axis in order)
        if square(reordered):  # or else the numbers are more likely wrong than the layout
            yield _Reading(layout, fix, reordered)


def _fits(
    call: Call, x: str, kernel: str, x_shape: Shape, kernel_shape: Shape, groups: int
) -> bool:
    """Whether the channels fit, and the kernel's extents are plausible for this input."""
    before, last = kernel_shape[-2:]
    channels = x_shape[-1]
    match call.last_axes(kernel):
        case ("1", _):
            fit = before == 1 and channels > 0 and last % channels == 0
        case (_, features) if features == call.axes[x].split()[-1]:
            fit = channels == last
        case _:
            fit = channels == before * groups and last % groups == 0
    rank = len(kernel_shape) - 2
    extents = zip(kernel_shape[:-2], x_shape[-1 - rank : -1], strict=False)
    return fit and all(0 < k <= max(MAX_PLAUSIBLE_EXTENT, n) for k, n in extents)


def _strangeness(readings: tuple[_Reading, _Reading]) -> tuple[bool, int]:
    """Square kernels are more likely than others, and one foreign layout more likely than two."""
    return not square(readings[1].shape), sum(bool(each.layout) for each in readings)


def square(kernel_shape: Shape) -> bool:
    return len(set(kernel_shape[:-2])) <= 1

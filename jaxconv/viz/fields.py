"""What one output pixel depends on, drawn over the input photograph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .._src.analysis.receptive_field import receptive_field
from .._src.analysis.tables import format_shape
from .canvas import CHANNELS, KERNEL, caption, figure, fit, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def influence(fn: Callable, image: Any, position: tuple[int, int] | None = None) -> Figure:
    """How much each pixel of a photograph influences one output pixel, and the receptive field.

    The heat map is ``|d fn(image)[position] / d image|``, summed over channels, of the sum of the
    output's features. The box is the field that ``jaxconv.receptive_field`` derives without running
    ``fn``.

    Args:
        fn: A JAX function from ``[1, H, W, C]`` to ``[1, H', W', F]``, such as a network.
        image: ``[H, W]`` or ``[H, W, C]``, floating-point, with values from 0 to 1.
        position: Row and column of the output pixel; by default the one in the middle.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        ValueError: ``image`` or the output of ``fn`` has another shape, or ``position`` is not in
            the output.
        ImportError: matplotlib is not installed.

    >>> import jax.numpy as jnp, jaxconv
    >>> blur = lambda x: jaxconv.conv(x, jnp.ones((3, 3, 1, 1)) / 9, dilation=4)
    >>> influence(blur, jnp.zeros((32, 48))).get_suptitle()
    'One output pixel sees 9×9 pixels of 32×48'

    Source: W. Luo et al., "Understanding the effective receptive field in deep convolutional neural
    networks" (2016).
    """
    image = jnp.asarray(image, jnp.float32)
    if image.ndim not in (2, 3):
        raise ValueError(
            f"influence: image must be [H, W] or [H, W, C], but got shape {image.shape}"
        )
    x = image.reshape(1, *image.shape[:2], -1)
    shape = jax.eval_shape(fn, x).shape
    if len(shape) != 4:
        raise ValueError(
            f"influence: fn must return [1, H', W', F], but returned the shape {shape}"
        )
    at = tuple(extent // 2 for extent in shape[1:3]) if position is None else tuple(position)
    if len(at) != 2 or not all(0 <= i < extent for i, extent in zip(at, shape[1:3], strict=True)):
        raise ValueError(
            f"influence: position must be a row and column of the {shape[1]}×{shape[2]} output, "
            f"but got {position!r}"
        )
    field = receptive_field(fn, x)
    gradient = jax.grad(lambda x: fn(x)[0, at[0], at[1]].sum())(x)[0]
    return _draw(np.asarray(x[0]), np.abs(np.asarray(gradient)).sum(-1), field, at)


def _draw(photo: np.ndarray, heat: np.ndarray, field: Any, at: tuple[int, ...]) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
    from matplotlib.patches import Rectangle

    rows, columns = heat.shape
    title = f"One output pixel sees {format_shape(field.size, '×')} pixels of {rows}×{columns}"
    drawn = figure(title, 6.4, 6.4 * rows / columns + 0.9)
    (axes,) = panels(drawn, [1])
    grey = photo.mean(-1)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, alpha=0.85, extent=(0, columns, rows, 0))
    # The root makes weak influence visible.
    strength = np.sqrt(heat / heat.max()) if heat.max() > 0 else heat
    color = CHANNELS[0]
    glow = LinearSegmentedColormap.from_list("glow", [to_rgba(color, 0), to_rgba(color, 0.95)])
    axes.imshow(strength, cmap=glow, norm=Normalize(0, 1), extent=(0, columns, rows, 0))
    low = [float(axis.offset + axis.stride * i) for axis, i in zip(field.axes, at, strict=True)]
    box = Rectangle(
        (low[1], low[0]), field.size[1], field.size[0], fill=False, edgecolor=KERNEL, lw=2
    )
    axes.add_patch(box)
    shown = "orange: influence of each pixel"
    if not heat.any():
        shown = "the gradient is zero here: no small change of a pixel changes the output"
    caption(axes, f"{shown}; box: the analytic receptive field")
    fit(axes, rows, columns, margin=0)
    return drawn

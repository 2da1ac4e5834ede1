"""The playground: a page that computes convolutions while its reader changes them."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any

from .._src.analysis.tables import format_shape
from .._src.geometry.spec import ConvSpec
from .files import check_suffix, write_file

HEIGHT = 980  # of the frame in a notebook, in CSS pixels
# The parts that a link may have, in the page's order; docs/learn/playground.md describes them.
SIZES = ("n", "c", "f", "m", "k", "s", "d", "p", "op", "g")
KEYS = ("kind", *SIZES, "view", "at", "ch", "ft", "stage", "seed")


class Playground:
    """The page with one convolution to start with; notebooks display it."""

    def __init__(self, state: str):
        self.state = state

    @property
    def html(self) -> str:
        """The whole page, with its script and style; it requests nothing else."""
        page = Path(__file__).with_name("playground.html").read_text("utf-8")
        return page.replace('data-state=""', f'data-state="{html.escape(self.state)}"', 1)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the page to a file whose suffix is ``.html``; an existing one is replaced."""
        check_suffix("playground", path, [".html", ".htm"])
        return write_file(path, lambda part: part.write_text(self.html, "utf-8"))

    def _repr_html_(self) -> str:
        style = f"width: 100%; height: {HEIGHT}px; border: 0; border-radius: 12px"
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" style="{style}" '
            f'allow="clipboard-write" title="jaxconv playground"></iframe>'
        )

    def __repr__(self) -> str:
        return f"Playground({self.state!r})"


def playground(spec: ConvSpec | str | None = None) -> Playground:
    """A page that computes convolutions while its reader changes them, for notebooks and classes.

    The reader picks the kind, the sizes and the padding, drags the kernel over the input or plays
    it, and sees input, taps, products and sum with their numbers; the output's shape with its
    formula filled in; parameters, multiply-accumulates and the receptive field; both gradients; and
    the line of Python that computes it. The page is one file of plain JavaScript that requests
    nothing, so it works offline.

    Args:
        spec: What to start with: a ``ConvSpec`` with one or two spatial axes, such as
            ``jaxconv.explain(fn, *args).convs[0].spec``; or the part after ``#`` of a link to the
            page, such as ``"kind=depthwise&n=7x7&c=3&k=3x3"``; or None for a standard convolution.
            The page shows the nearest setting that it can draw, and says which.

    Returns:
        An object that notebooks display. ``.save(path)`` writes the page to an ``.html`` file,
        ``.html`` is its text.

    Raises:
        TypeError: ``spec`` is neither a ``ConvSpec``, nor a string, nor None.
        ValueError: ``spec`` has three spatial axes or symbolic extents, or is not part of a link.

    >>> import tempfile
    >>> page = playground("kind=dilated&n=9x9&k=3x3&d=2")
    >>> page
    Playground('#kind=dilated&n=9x9&k=3x3&d=2')
    >>> page.save(tempfile.mkdtemp() + "/dilated.html").name
    'dilated.html'

    Source: after V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning"
    (2016).
    """
    if spec is None:
        return Playground("")
    if isinstance(spec, ConvSpec):
        return Playground(_link(spec))
    if isinstance(spec, str):
        return Playground(_checked(spec))
    raise TypeError(
        f"playground: spec must be a ConvSpec, such as explain(fn, *args).convs[0].spec, the part "
        f"of a link after #, or None, but got {type(spec).__module__}.{type(spec).__qualname__}"
    )


def _checked(link: str) -> str:
    """A link's state, if all of its parts have names that the page knows."""
    state = link.rpartition("#")[2]
    for part in state.split("&"):
        match = re.fullmatch(r"(\w+)=[\w:,.+-]+", part)
        if match is None or match[1] not in KEYS:
            raise ValueError(
                f'playground: spec must be parts KEY=VALUE joined by "&", with KEY one of '
                f"{', '.join(KEYS)}, but got {part!r}"
            )
    return f"#{state}"


def _link(spec: ConvSpec) -> str:
    sizes: tuple[Any, ...] = (*spec.input_shape, *spec.kernel_shape)
    if spec.rank > 2 or not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            f"playground: spec must have one or two spatial axes of known extents, but its input "
            f"is {spec.input_shape} and its kernel {spec.kernel_shape}"
        )
    depthwise = spec.depthwise and spec.in_features > 1
    parts = {
        "kind": "depthwise" if depthwise else "standard",
        "n": format_shape(spec.input_spatial),
        "c": spec.in_features,
        "f": spec.out_features,
        "m": spec.group_out,
        "k": format_shape(spec.kernel_spatial),
        "s": format_shape(spec.strides),
        "d": format_shape(spec.dilation),
        "p": format_shape([f"{low}:{high}" for low, high in spec.padding]),
        "g": spec.groups,
    }
    unused = ("f", "g") if depthwise else ("m",)
    return "#" + "&".join(f"{key}={value}" for key, value in parts.items() if key not in unused)

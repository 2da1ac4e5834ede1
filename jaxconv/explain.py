"""Which kernel runs each convolution of a function, and the reason against each of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from . import dispatch
from .spec import ConvSpec, Operator
from .table import format_shape, format_table
from .walk import Found, convolutions, trace


@dataclasses.dataclass(frozen=True)
class ExplainedConv:
    """One convolution of the function, on one platform.

    ``kernel`` is the kernel chosen and ``reason`` why; ``reasons`` maps every other kernel to what
    speaks against it. A convolution outside the family runs on ``"lax"``; where the family has no
    such member ``operator`` and ``spec`` are None.
    """

    operator: Operator | None
    spec: ConvSpec | None
    dtype: Any
    platform: str
    kernel: str
    reason: str
    reasons: dict[str, str]
    count: int
    shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The convolutions of a function in program order; prints as a table."""

    convs: tuple[ExplainedConv, ...]

    def __str__(self) -> str:
        header = ("operator", "operands", "result", "dtype", "platform", "kernel", "why")
        return format_table(header, [_row(conv) for conv in self.convs])


def _row(conv: ExplainedConv) -> tuple[object, ...]:
    operator = "lax convolution" if conv.operator is None else conv.operator.value
    a, b, result = map(format_shape, conv.shapes)
    dtype = np.dtype(conv.dtype).name
    return operator, f"{a} {b}", result, dtype, conv.platform, conv.kernel, conv.reason


def explain(
    fn: Callable, *args: Any, platforms: Sequence[str] | None = None, **kwargs: Any
) -> Explanation:
    """Lists the convolutions of ``fn(*args)`` and the kernel that each one runs on.

    The function is traced, not run. Convolutions inside jit, scan, cond and the like are found,
    and so are those of gradients, if ``fn`` takes them.

    Args:
        fn: Any JAX function or module.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        platforms: ``"cpu"``, ``"cuda"``, ``"rocm"``, ``"tpu"``; by default the one in use.
        **kwargs: Its keyword arguments.

    Returns:
        An ``Explanation`` with one entry in ``convs`` for each convolution and platform.

    Raises:
        TypeError: ``fn`` is not callable.

    >>> import jax.numpy as jnp, jaxconv
    >>> conv = lambda x, kernel: jaxconv.conv(x, kernel)
    >>> explained = explain(conv, jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)))
    >>> explained.convs[0].spec.macs
    6912

    Source: none; this is the project's own.
    """
    found = list(convolutions(trace(fn, *args, **kwargs)))
    chosen = (jax.default_backend(),) if platforms is None else tuple(platforms)
    return Explanation(
        tuple(_explain(conv, _named(platform)) for conv in found for platform in chosen)
    )


def kernel_of(found: Found) -> str:
    """The name of the kernel that runs a convolution on the platform in use."""
    return _choice(found, _named(jax.default_backend())).kernel


def _named(platform: str) -> str:
    return {"gpu": "cuda"}.get(platform, platform)


def _choice(found: Found, platform: str) -> dispatch.Choice:
    if found.family and found.operator is not None and found.spec is not None:
        return dispatch.choose(
            found.operator, platform, found.spec, found.dtype, found.implementation
        )
    return dispatch.Choice("lax", found.reason or "called through lax itself", {})


def _explain(found: Found, platform: str) -> ExplainedConv:
    choice = _choice(found, platform)
    return ExplainedConv(
        operator=found.operator,
        spec=found.spec,
        dtype=found.dtype,
        platform=platform,
        kernel=choice.kernel,
        reason=choice.reason,
        reasons=choice.against,
        count=found.count,
        shapes=found.shapes,
    )

"""Which kernel runs each convolution of a function, and the reason against each of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ..dispatch.choose import Choice, choose_implementation
from ..dispatch.registry import check_platforms
from ..geometry.spec import ConvSpec, Operator
from ..interop.accelerate import UNTRACEABLE, is_accelerated
from .jaxprs import Found, convolutions, trace
from .tables import format_shape, format_table
from .tracing import check_function


@dataclasses.dataclass(frozen=True)
class ExplainedConv:
    """One convolution of the function, on one platform.

    ``kernel`` is the kernel chosen, ``blocks`` how it cuts its work, None where it has no block
    sizes, and ``reason`` why it was chosen: a rule, or that it was measured by ``autotune``.
    ``reasons`` maps every other kernel to what speaks against it. A convolution outside the family
    runs on ``"lax"``; where the family has no such member ``operator`` and ``spec`` are None.
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
    blocks: Any = None


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The convolutions of a function in program order; prints as two tables.

    The first says what runs each convolution, the second what speaks against the other kernels.
    ``left`` is the reason why ``accelerate`` left a function as it was, which has no convolutions
    that could be found, or None.
    """

    convs: tuple[ExplainedConv, ...]
    left: str | None = None

    def __str__(self) -> str:
        if self.left is not None:
            return self.left
        header = ("#", "operator", "operands", "result", "dtype", "platform", "kernel", "why")
        chosen = format_table(header, [(at, *_row(conv)) for at, conv in enumerate(self.convs, 1)])
        against = format_table(("platform", "not", "#", "because"), list(_against(self.convs)))
        return f"{chosen}\n\n{against}" if any(conv.reasons for conv in self.convs) else chosen


def _row(conv: ExplainedConv) -> tuple[object, ...]:
    operator = "lax convolution" if conv.operator is None else conv.operator.value
    a, b, result = map(format_shape, conv.shapes)
    dtype = np.dtype(conv.dtype).name
    kernel = conv.kernel if conv.blocks is None else f"{conv.kernel} {conv.blocks}"
    return operator, f"{a} {b}", result, dtype, conv.platform, kernel, conv.reason


def _against(convs: Sequence[ExplainedConv]) -> Iterator[tuple[str, str, str, str]]:
    """Each reason once, with the numbers of the convolutions that it holds for."""
    numbers: dict[tuple[str, str, str], list[str]] = {}
    for at, conv in enumerate(convs, 1):
        for kernel, reason in conv.reasons.items():
            numbers.setdefault((conv.platform, kernel, reason), []).append(str(at))
    for (platform, kernel, reason), held in numbers.items():
        yield platform, kernel, " ".join(held), reason


def explain(
    fn: Callable, *args: Any, platforms: str | Sequence[str] | None = None, **kwargs: Any
) -> Explanation:
    """Lists the convolutions of ``fn(*args)``, the kernel that runs each and why no other does.

    The function is traced, not run. Convolutions inside jit, scan, cond and the like are found,
    and so are those of gradients, if ``fn`` takes them. What is said holds for a program on one
    device or inside ``shard_map``; a ``jit`` over several devices and an exported program hold
    plain XLA alone. Only this process's own device has measured choices.

    Args:
        fn: Any JAX function or module.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        platforms: Any of ``"cpu"``, ``"cuda"``, ``"rocm"`` and ``"tpu"``; by default the one in
            use.
        **kwargs: Its keyword arguments.

    Returns:
        An ``Explanation`` with one entry in ``convs`` for each convolution and platform. Of what
        ``accelerate`` was given that is no JAX function it says so in ``left``.

    Raises:
        TypeError: ``fn`` is not callable.
        ValueError: A platform is none of these, or has no kernel that is forced.

    >>> import jax.numpy as jnp, jaxconv
    >>> conv = lambda x, kernel: jaxconv.conv(x, kernel)
    >>> explained = explain(conv, jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)))
    >>> explained.convs[0].spec.macs
    6912

    Source: none; this is the project's own.
    """
    check_function("explain", fn)
    asked = jax.default_backend() if platforms is None else platforms
    chosen = check_platforms("explain", asked)
    try:
        found = list(convolutions(trace(fn, *args, **kwargs)))
    except UNTRACEABLE as error:
        if not is_accelerated(fn):
            raise
        return Explanation((), _left(fn, error))
    return Explanation(tuple(_explain(conv, platform) for conv in found for platform in chosen))


def _left(fn: Any, error: Exception) -> str:
    why = str(error).partition("\n")[0].rstrip(".")
    return (
        f"{getattr(fn, '__name__', 'the function')} was left as it was: it is no JAX function, for "
        f"it cannot be traced ({type(error).__name__}: {why})"
    )


def kernel_of(found: Found) -> str:
    """The name of the kernel that runs a convolution on the platform in use."""
    (platform,) = check_platforms("explain", jax.default_backend())
    return _choice(found, platform).implementation


def _choice(found: Found, platform: str) -> Choice:
    if found.family and found.operator is not None and found.spec is not None:
        return choose_implementation(
            found.operator, platform, found.spec, found.dtype, found.implementation
        )
    return Choice("lax", found.reason or "called through lax itself", {})


def _explain(found: Found, platform: str) -> ExplainedConv:
    choice = _choice(found, platform)
    return ExplainedConv(
        operator=found.operator,
        spec=found.spec,
        dtype=found.dtype,
        platform=platform,
        kernel=choice.implementation,
        reason=choice.reason,
        reasons=choice.reasons_against,
        count=found.count,
        shapes=found.shapes,
        blocks=choice.tile,
    )

"""Which implementation runs each convolution of a function, and why none of the others does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from ..dispatch.choose import Choice, choose_implementation
from ..dispatch.registry import check_platforms
from ..interop.accelerate import UNTRACEABLE, is_accelerated
from ..interop.install import choose_lowering
from .deprecated import Renamed
from .equations import ConvEquation, ConvResult
from .jaxprs import convolutions, trace
from .tables import Table, Tabled, format_shape
from .tracing import check_function

HEADER = ("#", "operator", "operands", "result", "dtype", "platform", "implementation", "reason")
OTHERS = ("platform", "not chosen", "#", "reason")
FUSIONS = ("#", "fused with", "reason against fusion")

_Entry = TypeVar("_Entry", bound=tuple[str, ...])


@dataclasses.dataclass(frozen=True)
class ExplainedConv(ConvResult):
    """One convolution of a function, on one platform.

    ``implementation`` computes it, with the tuned sizes ``tile`` (None if it has none), and
    ``reason`` says why: a rule, or a measurement by ``autotune``. ``reasons`` maps each of the
    other implementations to the reason why it is not used. A convolution of lax's runs on
    ``"lax"``, unless ``install`` applies to the platform; if jaxconv cannot express it,
    ``operator`` and ``spec`` are None.
    """

    platform: str
    implementation: str
    reason: str
    reasons: dict[str, str]
    tile: Any = None

    @property
    def unfused_reason(self) -> str | None:
        """Why ``accelerate`` does not fuse a forward convolution with what follows it.

        None if it is fused with its ``epilogue``, and for gradients.
        """
        return self.equation.unfused_reason

    kernel = Renamed("implementation")
    blocks = Renamed("tile")


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation(Tabled):
    """The convolutions of a function in program order.

    Prints as tables: the implementation of each convolution, the reasons against the others, and
    if ``accelerated``, what each convolution is fused with, or the reason why not. If
    ``accelerate`` could not trace the function, there are no ``convs``, ``unconverted`` says so in
    a sentence, and ``fallback_reason`` says why; otherwise both are None.
    """

    convs: tuple[ExplainedConv, ...]
    unconverted: str | None = None
    fallback_reason: str | None = None
    accelerated: bool = False

    left = Renamed("unconverted")

    def parts(self) -> list[Table | str]:
        if self.unconverted is not None:
            return [self.unconverted]
        chosen = Table(HEADER, [(at, *_row(conv)) for at, conv in enumerate(self.convs, 1)])
        others = Table(OTHERS, list(_others(self.convs)))
        fused = Table(FUSIONS, list(_fusions(self.convs)) if self.accelerated else ())
        return [chosen, *(table for table in (others, fused) if table.rows)]


def _row(conv: ExplainedConv) -> tuple[object, ...]:
    operator = "lax convolution" if conv.operator is None else conv.operator.value
    if not conv.epilogue.trivial:
        operator = f"{operator} + {conv.epilogue}"
    a, b, result = map(format_shape, (*conv.shapes[:2], conv.shapes[-1]))
    dtype = np.dtype(conv.dtype).name
    tile = "" if conv.tile is None else f" {conv.tile}"
    implementation = f"{conv.implementation}{tile}"
    return operator, f"{a} {b}", result, dtype, conv.platform, implementation, conv.reason


def _others(convs: Sequence[ExplainedConv]) -> Iterator[tuple[str, str, str, str]]:
    """Each reason once, with the numbers of the convolutions that it applies to."""
    reasons = (
        (at, (conv.platform, implementation, reason))
        for at, conv in enumerate(convs, 1)
        for implementation, reason in conv.reasons.items()
    )
    for (platform, implementation, reason), numbers in _numbered(reasons):
        yield platform, implementation, numbers, reason


def _fusions(convs: Sequence[ExplainedConv]) -> Iterator[tuple[str, str, str]]:
    """Each epilogue and each reason once, with the numbers of the convolutions."""
    found = (
        (at, (str(conv.epilogue), conv.unfused_reason or ""))
        for at, conv in enumerate(convs, 1)
        if conv.unfused_reason is not None or not conv.epilogue.trivial
    )
    for (epilogue, reason), numbers in _numbered(found):
        yield numbers, epilogue, reason


def _numbered(entries: Iterable[tuple[int, _Entry]]) -> Iterator[tuple[_Entry, str]]:
    """Each distinct entry, with all numbers that it was given."""
    numbers: dict[_Entry, list[str]] = {}
    for at, entry in entries:
        numbers.setdefault(entry, []).append(str(at))
    for entry, applies_to in numbers.items():
        yield entry, " ".join(applies_to)


def explain(
    fn: Callable[..., Any], *args: Any, platforms: str | Sequence[str] | None = None, **kwargs: Any
) -> Explanation:
    """Lists the convolutions of ``fn(*args)``, what runs each of them, and why nothing else does.

    The function is traced, not run. Convolutions inside jit, scan, cond and the like are found, and
    so are those of gradients, if ``fn`` takes them. Choices measured by ``autotune`` apply on this
    process's own device alone. Convolutions that ``fn`` calls through lax are reported as they
    would be lowered now: by jaxconv on the platforms of ``install``, and of ``installed`` inside
    its block, and otherwise by lax.

    The choices are those for whole arrays on one device. A ``jit`` over several CPUs or GPUs makes
    them for the shard of each device; over several TPUs it runs plain XLA (``lax``, ``taps`` or
    ``dots``), because XLA cannot partition a Mosaic kernel. So do, on any platform, convolutions of
    lax's that ``install`` lowers in such a ``jit``. Inside a ``shard_map`` over all axes of
    the mesh every implementation runs, on any platform. Exported programs hold plain XLA only.

    Args:
        fn: Any JAX function or module.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        platforms: One or several of ``"cpu"``, ``"cuda"``, ``"rocm"`` and ``"tpu"``; by default the
            one in use.
        **kwargs: Its keyword arguments.

    Returns:
        An ``Explanation`` with one entry in ``convs`` per convolution and platform. If
        ``accelerate`` could not trace the function, ``fallback_reason`` says why.

    Raises:
        TypeError: ``fn`` is not callable.
        ValueError: A platform is none of these, or does not have a forced implementation.

    >>> import jax.numpy as jnp, jaxconv
    >>> conv = lambda x, kernel: jaxconv.conv(x, kernel)
    >>> explained = explain(conv, jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4)))
    >>> explained.convs[0].operator.value, explained.convs[0].spec.macs
    ('conv', 6912)

    Source: none; this is the project's own.
    """
    check_function("explain", fn)
    asked = jax.default_backend() if platforms is None else platforms
    names = check_platforms("explain", asked)
    try:
        found = list(convolutions(trace(fn, *args, **kwargs), find_fusions=True))
    except UNTRACEABLE as error:
        if not is_accelerated(fn):
            raise
        return _not_converted(fn, error)
    convs = tuple(_explain(conv, platform) for conv in found for platform in names)
    return Explanation(convs, accelerated=is_accelerated(fn))


def _not_converted(fn: Any, error: Exception) -> Explanation:
    """For a function that ``accelerate`` could not trace, and calls as it is."""
    message = str(error).partition("\n")[0].rstrip(".")
    reason = f"JAX cannot trace it ({type(error).__name__}: {message})"
    name = getattr(fn, "__name__", "the function")
    return Explanation((), f"{name} was not converted and runs unchanged: {reason}", reason)


def implementation_of(conv: ConvEquation) -> str:
    """The name of the implementation that runs a convolution on the platform in use."""
    (platform,) = check_platforms("explain", jax.default_backend())
    return _choice(conv, platform).implementation


def _choice(conv: ConvEquation, platform: str) -> Choice:
    if conv.recognized is not None:
        return choose_lowering(platform, conv.recognized, conv.dtype)[1]
    assert conv.operator is not None
    assert conv.spec is not None
    return choose_implementation(
        conv.operator, platform, conv.spec, conv.dtype, conv.forced, packed=conv.packed
    )


def _explain(conv: ConvEquation, platform: str) -> ExplainedConv:
    choice = _choice(conv, platform)
    return ExplainedConv(
        equation=conv,
        platform=platform,
        implementation=choice.implementation,
        reason=choice.reason,
        reasons=choice.reasons_against,
        tile=choice.tile,
    )

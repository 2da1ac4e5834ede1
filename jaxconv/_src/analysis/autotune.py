"""Measured choices: the implementations and tiles that are fastest on this device."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..dispatch import tuning_cache
from ..dispatch.choose import candidate_trials, default_trial
from ..dispatch.registry import computed_spec
from ..dispatch.tuning_cache import Trial, Tuned
from ..geometry.checks import shown
from ..geometry.spec import ConvSpec, Operator
from ..primitives import rules
from .deprecated import Renamed
from .equations import ConvEquation, ConvResult
from .jaxprs import convolutions, trace
from .tables import Table, Tabled, format_shape
from .timing import interleaved, median_ms, seconds_of
from .tracing import check_function

# The default choice is replaced only by one that takes less than this share of its time.
MAX_WINNING_SHARE = 0.97

# A candidate whose first call takes more than this many times the fastest one's is not timed again.
MAX_SLOWDOWN = 4

# What is timed is several calls in a row that take about this long together, up to MAX_TURN_CALLS.
TURN_SECONDS = 2e-3
MAX_TURN_CALLS = 64

# The largest difference from lax at full precision, relative to the largest entry: matrix units
# round to about 1/256, and the error of a wrong result is as large as the result.
MAX_RELATIVE_ERROR = 0.05


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An implementation with one of its tiles, and the time of a call.

    If it was not timed, ``milliseconds`` is None and ``note`` says why.
    """

    implementation: str
    tile: Any
    milliseconds: float | None
    note: str = ""

    kernel = Renamed("implementation")
    blocks = Renamed("tile")


class Compiled(NamedTuple):
    """A compiled candidate, and the seconds of one call."""

    call: Callable[[], Any]
    seconds: float


@dataclasses.dataclass(frozen=True)
class TunedConv(ConvResult):
    """One convolution, all that was measured for it, and the winner."""

    candidates: tuple[Candidate, ...]
    winner: Candidate


@dataclasses.dataclass(frozen=True, repr=False)
class Tuning(Tabled):
    """The distinct convolutions of a function and their winners; prints as a table.

    ``path`` is the file that stores the winners, or None if it could not be written.
    """

    convs: tuple[TunedConv, ...]
    device: str
    path: pathlib.Path | None

    def parts(self) -> list[Table | str]:
        rows = [row for conv in self.convs for row in _rows(conv)]
        stored = "not stored" if self.path is None else f"stored in {self.path}"
        return [Table(HEADER, rows), f"{self.device}; {stored}"]


HEADER = ("operator", "operands", "dtype", "implementation", "tile", "ms", "note")


def _rows(conv: TunedConv) -> Iterator[tuple[object, ...]]:
    operator, spec, dtype = _case(conv.equation)
    operands = " ".join(map(format_shape, spec.operand_shapes(operator)))
    for candidate in conv.candidates:
        ms = "" if candidate.milliseconds is None else f"{candidate.milliseconds:.3g}"
        note = "winner" if candidate is conv.winner else candidate.note
        tile = "" if candidate.tile is None else str(candidate.tile)
        name = np.dtype(dtype).name
        yield operator.value, operands, name, candidate.implementation, tile, ms, note


def autotune(
    fn: Callable[..., Any],
    *args: Any,
    path: str | os.PathLike[str] | None = None,
    seconds: float = 0.2,
    **kwargs: Any,
) -> Tuning:
    """Times every implementation of the convolutions in ``fn(*args)`` and stores the fastest.

    ``fn`` is traced, not run; if it takes gradients, their convolutions are tuned too. Each
    distinct convolution is run by itself, on random operands and this process's default device,
    with every implementation that supports it and each tile worth trying. From then on jaxconv uses
    the winners on this kind of device and with these versions of jax. Functions that were jitted or
    called before keep their implementations.

    Times include the call from Python. On a GPU, implementations that take less than that (some
    tens of microseconds) tie, and the default choice stays.

    Args:
        fn: Any JAX function, such as a training step.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        path: The table to add to, which this process reads from now on; other processes read it if
            the environment variable ``JAXCONV_TUNING`` names it. The default is ``tuning.json`` in
            the user's cache directory, which is always read. With several processes, the table must
            be named.
        seconds: The time to spend on each candidate, in addition to its compilation.
        **kwargs: Its keyword arguments.

    Returns:
        A ``Tuning`` with one entry in ``convs`` per distinct convolution.

    Raises:
        TypeError: ``fn`` is not callable, or ``path`` is not a path.
        ValueError: There are several processes and no named table, or ``seconds`` is not a finite
            number of at least 0.

    >>> import tempfile, jax.numpy as jnp, jaxconv
    >>> conv = lambda x, kernel: jaxconv.conv(x, kernel)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     tuned = autotune(conv, jnp.ones((1, 8, 2)), jnp.ones((3, 2, 4)), seconds=0.01,
    ...                      path=f"{directory}/tuning.json")
    >>> tuned.convs[0].winner.implementation in ("lax", "dots", "native")
    True

    Source: none; this is the project's own.
    """
    check_function("autotune", fn)
    if not (path is None or isinstance(path, str | os.PathLike)):
        raise TypeError(f"autotune: path must be the path of a file or None, but got {shown(path)}")
    if not isinstance(seconds, numbers.Real) or not 0 <= seconds < math.inf:
        raise ValueError(
            f"autotune: seconds must be a number of at least 0, but got {shown(seconds)}"
        )
    found = list(convolutions(trace(fn, *args, **kwargs)))
    table = (
        tuning_cache.table_path() if path is None else pathlib.Path(path).expanduser().absolute()
    )
    if table is None and jax.process_count() > 1:
        raise ValueError(
            f"autotune: with {jax.process_count()} processes all must read the same table; name a "
            f"file that all can read, with path or the environment variable {tuning_cache.VARIABLE}"
        )
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    device = tuning_cache.device_of(platform) or platform
    tunable = [_as_computed(conv, platform) for conv in found if _tunable(conv)]
    cases = {tuning_cache.key(*_case(conv)): conv for conv in tunable}
    convs = {key: _tuned(platform, conv, seconds) for key, conv in cases.items()}
    winners = {
        key: Tuned(conv.winner.implementation, tuning_cache.text_of(conv.winner.tile))
        for key, conv in convs.items()
    }
    stored = table if table and winners and _written(table, device, winners) else None
    if stored is not None and path is not None:
        tuning_cache.name(stored)
    return Tuning(tuple(convs.values()), device, stored)


def _case(found: ConvEquation) -> tuple[Operator, ConvSpec, Any]:
    assert found.operator is not None
    assert found.spec is not None
    return found.operator, found.spec, found.dtype


def _tunable(found: ConvEquation) -> bool:
    """Whether dispatch chooses for it; lax's own convolutions count, for ``install``."""
    return found.spec is not None and not found.spec.empty and found.forced is None


def _as_computed(found: ConvEquation, platform: str) -> ConvEquation:
    """With the spec of what runs on ``platform`` for a convolution of examples."""
    assert found.spec is not None
    return dataclasses.replace(found, spec=computed_spec(found.spec, platform))


def _written(table: pathlib.Path, device: str, winners: dict[str, Tuned]) -> bool:
    if jax.process_index() != 0:
        return True
    try:
        tuning_cache.write(table, device, winners)
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(
            f"autotune cannot write {table}: {reason}; the winners are not stored", stacklevel=3
        )
        return False
    return True


def _tuned(platform: str, found: ConvEquation, seconds: float) -> TunedConv:
    operator, spec, dtype = _case(found)
    default = default_trial(operator, platform, spec, dtype)
    trials = list(dict.fromkeys([default, *candidate_trials(operator, platform, spec, dtype)]))
    compiled, notes = _compiled_trials(trials, found)
    medians = _medians(compiled, seconds)
    candidates = {
        trial: Candidate(*trial, medians.get(trial), notes.get(trial, "")) for trial in trials
    }
    winner = candidates[_winner(default, medians)]
    return TunedConv(found, tuple(candidates.values()), winner)


def _winner(default: Trial, medians: dict[Trial, float]) -> Trial:
    best = min(medians, key=lambda trial: medians[trial], default=default)
    close = default in medians and medians[best] >= MAX_WINNING_SHARE * medians[default]
    return default if close else best


def _compiled_trials(
    trials: list[Trial], found: ConvEquation
) -> tuple[dict[Trial, Compiled], dict[Trial, str]]:
    """The candidates that are worth timing, and for the others the reason why they are not."""
    operator, spec, dtype = _case(found)
    operands = _operands(operator, spec, found.dtypes[:2])
    reference = _reference(operator, spec, dtype, operands)
    compiled: dict[Trial, Compiled] = {}
    notes: dict[Trial, str] = {}
    for trial in trials:
        try:
            call = _compile(operator, spec, dtype, operands, trial)
            wrong = _wrong(call(), reference)
        except Exception as error:  # compilers and devices raise errors of any type
            first_line, *_ = str(error).splitlines() or [type(error).__name__]
            notes[trial] = f"failed: {first_line[:80]}"
            continue
        seconds = seconds_of(_turn(call, 1))
        fastest = min((other.seconds for other in compiled.values()), default=seconds)
        if wrong:
            notes[trial] = "its result is wrong"
        elif seconds > MAX_SLOWDOWN * fastest:
            notes[trial] = f"slow: {1e3 * seconds:.3g} ms"
        else:
            compiled[trial] = Compiled(call, seconds)
    return compiled, notes


def _operands(operator: Operator, spec: ConvSpec, dtypes) -> tuple[jax.Array, ...]:
    """Random operands, scaled so that results are of order 1."""
    rng = np.random.default_rng(0)
    terms = spec.macs / math.prod(spec.result_shape(operator))
    shapes = zip(spec.operand_shapes(operator), dtypes, (1.0, terms**-0.5), strict=True)
    return tuple(
        jnp.asarray(rng.standard_normal(shape) * scale).astype(dtype)
        for shape, dtype, scale in shapes
    )


def _bind(operator: Operator, spec: ConvSpec, dtype, **options) -> Callable:
    def convolution(a, b):
        return rules.bind(operator, a, b, spec, dtype=dtype, **options)

    return convolution


def _reference(operator: Operator, spec: ConvSpec, dtype, operands) -> np.ndarray:
    precision = (jax.lax.Precision.HIGHEST,) * 2
    exact = _bind(operator, spec, dtype, implementation="lax", precision=precision)
    return _wide(jax.jit(exact)(*operands))


def _wide(array) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _wrong(result, reference: np.ndarray) -> bool:
    error = np.max(np.abs(_wide(result) - reference))
    return not error <= MAX_RELATIVE_ERROR * np.max(np.abs(reference))


def _compile(operator: Operator, spec: ConvSpec, dtype, operands, trial: Trial) -> Callable:
    with tuning_cache.trial(*trial):
        compiled = jax.jit(_bind(operator, spec, dtype)).lower(*operands).compile()
    return lambda: compiled(*operands)


def _turn(call: Callable[[], Any], calls: int) -> Callable[[], Any]:
    """Several calls in a row, which blocks until all results are available."""
    return lambda: jax.block_until_ready([call() for _ in range(calls)])


def _medians(compiled: dict[Trial, Compiled], seconds: float) -> dict[Trial, float]:
    """The median milliseconds of a call of each candidate."""
    calls = {
        trial: max(1, min(MAX_TURN_CALLS, round(TURN_SECONDS / one.seconds)))
        for trial, one in compiled.items()
    }
    turns = {trial: _turn(one.call, calls[trial]) for trial, one in compiled.items()}
    samples = interleaved(turns, seconds)
    return {trial: median_ms(times) / calls[trial] for trial, times in samples.items()}

"""Measured choices: the implementations and tiles that are fastest on this device."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import pathlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..dispatch import choose, tuning_cache
from ..geometry.spec import ConvSpec, Operator
from ..primitives import rules
from .deprecated import Renamed
from .equations import ConvEquation, ConvResult
from .jaxprs import convolutions, trace
from .tables import Table, Tabled, format_shape
from .tracing import check_function

# What dispatch's rules choose stays, unless the best takes less than this share of its time.
MAX_WINNER_SHARE = 0.97

# A candidate whose first call takes more than this many times the best one's is timed no further.
MAX_SLOWDOWN = 4

# Calls are repeated so that one timing takes at least this long.
MIN_TIMING_SECONDS = 2e-3

# The error allowed beside lax at full precision, relative to the largest entry: a matrix unit
# rounds to about 1/256, and a wrong result is off by its own size.
MAX_RELATIVE_ERROR = 0.05


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An implementation with one tile.

    ``milliseconds`` is its median time, or None if it was not timed; then ``note`` says why.
    """

    implementation: str
    tile: Any
    milliseconds: float | None
    note: str = ""

    kernel = Renamed("implementation")
    blocks = Renamed("tile")


class Running(NamedTuple):
    """A compiled candidate, and the seconds that one call took."""

    call: Callable[[], Any]
    once: float


@dataclasses.dataclass(frozen=True)
class TunedConv(ConvResult):
    """One convolution, all that was measured for it, and the winner."""

    candidates: tuple[Candidate, ...]
    winner: Candidate


@dataclasses.dataclass(frozen=True, repr=False)
class Tuning(Tabled):
    """The distinct convolutions of a function, each with its candidates. Prints as a table.

    ``path`` is the table in which the winners are kept, or None if they could not be written.
    """

    convs: tuple[TunedConv, ...]
    device: str
    path: pathlib.Path | None

    def parts(self) -> list[Table | str]:
        rows = [row for conv in self.convs for row in _rows(conv)]
        kept = "not kept" if self.path is None else f"kept in {self.path}"
        return [Table(HEADER, rows), f"{self.device}; {kept}"]


HEADER = ("operator", "operands", "dtype", "implementation", "tile", "ms", "")


def _rows(conv: TunedConv) -> Iterator[tuple[object, ...]]:
    operator, spec, dtype = _case(conv.equation)
    operands = " ".join(map(format_shape, spec.operand_shapes(operator)))
    head = (operator.value, operands, np.dtype(dtype).name)
    for candidate in conv.candidates:
        ms = "" if candidate.milliseconds is None else f"{candidate.milliseconds:.3g}"
        note = "winner" if candidate is conv.winner else candidate.note
        tile = "" if candidate.tile is None else str(candidate.tile)
        yield *head, candidate.implementation, tile, ms, note


def autotune(
    fn: Callable,
    *args: Any,
    path: str | os.PathLike | None = None,
    seconds: float = 0.2,
    **kwargs: Any,
) -> Tuning:
    """Times every implementation of each convolution in ``fn(*args)``, and keeps the winners.

    ``fn`` is traced, not run; gradients are tuned if it takes them. Each distinct convolution runs
    on its own, on random operands and this process's default device, with every implementation that
    supports it and every tile worth trying. From then on these choices apply on this kind of device
    and with these versions of jax. Functions that were compiled before keep their implementations.

    Times include the call from Python. On a GPU, implementations that take less than that, some
    tens of microseconds, cannot be told apart, and the default choice stays.

    Args:
        fn: Any JAX function, such as a training step.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        path: The file to add the winners to; this process reads it from now on. In others, set the
            environment variable ``JAXCONV_TUNING`` to its path. By default ``tuning.json`` in the
            user's cache directory, which every process reads. Programs of several processes need
            an explicit path.
        seconds: Time to spend on each candidate, in addition to its compilation.
        **kwargs: Its keyword arguments.

    Returns:
        A ``Tuning`` with one entry in ``convs`` per distinct convolution.

    Raises:
        TypeError: ``fn`` is not callable, or ``path`` is not a path.
        ValueError: There are several processes and no explicit path, or ``seconds`` is negative or
            not a finite number.

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
        raise TypeError(f"autotune: path must be that of a file, or None, but got {path!r}")
    if not isinstance(seconds, numbers.Real) or not 0 <= seconds < math.inf:
        raise ValueError(f"autotune: seconds must be a number of at least 0, but got {seconds!r}")
    found = list(convolutions(trace(fn, *args, **kwargs)))
    table = (
        tuning_cache.table_path() if path is None else pathlib.Path(path).expanduser().absolute()
    )
    if table is None and jax.process_count() > 1:
        raise ValueError(
            f"autotune: with {jax.process_count()} processes all must read the same table, so "
            f"name one that all can read, by path or by the variable {tuning_cache.VARIABLE}"
        )
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    device = tuning_cache.device_of(platform) or platform
    cases = {tuning_cache.key(*_case(conv)): conv for conv in found if _tunable(conv)}
    convs = {key: _tuned(platform, conv, seconds) for key, conv in cases.items()}
    winners = {
        key: tuning_cache.Tuned(conv.winner.implementation, _text(conv.winner.tile))
        for key, conv in convs.items()
    }
    kept = table if table and winners and _written(table, device, winners) else None
    if kept is not None and path is not None:
        tuning_cache.name(kept)
    return Tuning(tuple(convs.values()), device, kept)


def _case(conv: ConvEquation) -> tuple[Operator, ConvSpec, Any]:
    assert conv.operator is not None
    assert conv.spec is not None
    return conv.operator, conv.spec, conv.dtype


def _tunable(conv: ConvEquation) -> bool:
    """Whether dispatch chooses for it; after ``install`` it does for lax's convolutions too."""
    return conv.spec is not None and not conv.spec.empty and conv.forced is None


def _text(tile: Any) -> str | None:
    return None if tile is None else repr(tile)


def _written(table: pathlib.Path, device: str, winners: dict[str, tuning_cache.Tuned]) -> bool:
    if jax.process_index() != 0:
        return True
    try:
        tuning_cache.write(table, device, winners)
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(
            f"autotune cannot write {table}: {reason}; the winners are not kept", stacklevel=3
        )
        return False
    return True


def _tuned(platform: str, conv: ConvEquation, seconds: float) -> TunedConv:
    operator, spec, dtype = _case(conv)
    usual = choose.usual(operator, platform, spec, dtype)
    trials = list(dict.fromkeys([usual, *choose.candidates(operator, platform, spec, dtype)]))
    running, notes = _tried(trials, conv)
    medians = _medians(running, seconds)
    candidates = {
        trial: Candidate(*trial, medians.get(trial), notes.get(trial, "")) for trial in trials
    }
    winner = candidates[_winner(usual, medians)]
    return TunedConv(conv, tuple(candidates.values()), winner)


def _winner(
    usual: tuning_cache.Trial, medians: dict[tuning_cache.Trial, float]
) -> tuning_cache.Trial:
    best = min(medians, key=lambda trial: medians[trial], default=usual)
    close = usual in medians and medians[best] >= MAX_WINNER_SHARE * medians[usual]
    return usual if close else best


def _tried(
    trials, conv: ConvEquation
) -> tuple[dict[tuning_cache.Trial, Running], dict[tuning_cache.Trial, str]]:
    """The candidates that are worth timing, and notes on why the others are not."""
    operator, spec, dtype = _case(conv)
    operands = _operands(operator, spec, conv.dtypes[:2])
    reference = _reference(operator, spec, dtype, operands)
    running: dict[tuning_cache.Trial, Running] = {}
    notes: dict[tuning_cache.Trial, str] = {}
    for trial in trials:
        try:
            call = _compiled(operator, spec, dtype, operands, trial)
            wrong = _wrong(call(), reference)
        except Exception as error:  # compilers and devices fail each in their own way
            first_line, *_ = str(error).splitlines() or [type(error).__name__]
            notes[trial] = f"failed: {first_line[:80]}"
            continue
        once = _timed(call, 1)
        if wrong:
            notes[trial] = "its result is wrong"
        elif once > MAX_SLOWDOWN * min((other.once for other in running.values()), default=once):
            notes[trial] = f"slow: {1e3 * once:.3g} ms"
        else:
            running[trial] = Running(call, once)
    return running, notes


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


def _compiled(
    operator: Operator, spec: ConvSpec, dtype, operands, trial: tuning_cache.Trial
) -> Callable:
    with tuning_cache.trial(*trial):
        compiled = jax.jit(_bind(operator, spec, dtype)).lower(*operands).compile()
    return lambda: compiled(*operands)


def _timed(call: Callable[[], Any], calls: int) -> float:
    """Seconds per call, of several calls in a row."""
    begin = time.perf_counter()
    results = [call() for _ in range(calls)]
    jax.block_until_ready(results)
    return (time.perf_counter() - begin) / calls


def _medians(
    running: dict[tuning_cache.Trial, Running], seconds: float
) -> dict[tuning_cache.Trial, float]:
    """Median milliseconds, from rounds in which every candidate takes a turn."""
    samples: dict[tuning_cache.Trial, list[float]] = {trial: [] for trial in running}
    spent = dict.fromkeys(running, 0.0)
    while unfinished := [
        trial for trial in running if spent[trial] < seconds or len(samples[trial]) < 3
    ]:
        for trial in unfinished:
            call, once = running[trial]
            calls = max(1, min(64, round(MIN_TIMING_SECONDS / once)))
            samples[trial].append(_timed(call, calls))
            spent[trial] += samples[trial][-1] * calls
    return {trial: 1e3 * statistics.median(each) for trial, each in samples.items()}

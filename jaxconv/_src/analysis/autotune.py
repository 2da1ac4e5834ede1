"""Measured choices: the kernels and block sizes that are fastest on this very device."""

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

# The rules' own choice stays unless another takes less than this share of its time.
MARGIN = 0.97

# A candidate whose first call takes so many times the best one's is not timed any further.
HOPELESS = 4

# Calls of one timing take at least this long together, in seconds.
BATCH = 2e-3

# How far a result may be from lax's at full precision, in shares of its largest entry: a matrix
# unit rounds to about 1/256, a wrong kernel is off by the size of the result.
WRONG = 0.05


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
    """Times every kernel that can run the convolutions of ``fn(*args)``, and keeps the winners.

    ``fn`` is traced, not run; gradients are tuned where it takes them. Each distinct convolution
    runs alone, on random operands, on this process's default device, with every candidate of
    ``dispatch`` and each of its block sizes. From then on dispatch follows the table on this kind
    of device and with these versions of jax. What was jitted or called before keeps its kernels.
    Calls are timed as Python makes them: on a GPU kernels that take less than a call, some tens of
    microseconds, tie, and what dispatch would choose anyway stays.

    Args:
        fn: Any JAX function, such as a training step.
        *args: Its arguments: arrays, ``jax.ShapeDtypeStruct`` or pytrees of them.
        path: The table to read and add to, from now on in this process; later ones name it in the
            environment variable ``JAXCONV_TUNING``. By default ``tuning.json`` in the user's cache
            directory, which is read without being named. Several processes need one that is.
        seconds: Spent on each candidate, beside its compilation.
        **kwargs: Its keyword arguments.

    Returns:
        A ``Tuning`` with one entry in ``convs`` for each distinct convolution.

    Raises:
        TypeError: ``fn`` is not callable, or ``path`` no path.
        ValueError: There are several processes and no named table, or ``seconds`` is no time.

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


def _case(found: ConvEquation) -> tuple[Operator, ConvSpec, Any]:
    assert found.operator is not None
    assert found.spec is not None
    return found.operator, found.spec, found.dtype


def _tunable(found: ConvEquation) -> bool:
    """Whether dispatch chooses for it; lax's own convolutions count, for ``install``."""
    return found.spec is not None and not found.spec.empty and found.forced is None


def _text(blocks: Any) -> str | None:
    return None if blocks is None else repr(blocks)


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


def _tuned(platform: str, found: ConvEquation, seconds: float) -> TunedConv:
    operator, spec, dtype = _case(found)
    usual = choose.usual(operator, platform, spec, dtype)
    trials = list(dict.fromkeys([usual, *choose.candidates(operator, platform, spec, dtype)]))
    running, notes = _tried(trials, found)
    medians = _medians(running, seconds)
    candidates = {
        trial: Candidate(*trial, medians.get(trial), notes.get(trial, "")) for trial in trials
    }
    winner = candidates[_winner(usual, medians)]
    return TunedConv(found, tuple(candidates.values()), winner)


def _winner(
    usual: tuning_cache.Trial, medians: dict[tuning_cache.Trial, float]
) -> tuning_cache.Trial:
    best = min(medians, key=lambda trial: medians[trial], default=usual)
    close = usual in medians and medians[best] >= MARGIN * medians[usual]
    return usual if close else best


def _tried(
    trials, found: ConvEquation
) -> tuple[dict[tuning_cache.Trial, Running], dict[tuning_cache.Trial, str]]:
    """The candidates that are worth timing, and what is to be said of the others."""
    operator, spec, dtype = _case(found)
    operands = _operands(operator, spec, found.dtypes[:2])
    reference = _reference(operator, spec, dtype, operands)
    running: dict[tuning_cache.Trial, Running] = {}
    notes: dict[tuning_cache.Trial, str] = {}
    for trial in trials:
        try:
            call = _compiled(operator, spec, dtype, operands, trial)
            wrong = _wrong(call(), reference)
        except Exception as error:  # a compiler or a device refuses, each in its own way
            first_line, *_ = str(error).splitlines() or [type(error).__name__]
            notes[trial] = f"failed: {first_line[:80]}"
            continue
        taken = _timed(call, 1)
        if wrong:
            notes[trial] = "its result is wrong"
        elif taken > HOPELESS * min((other.once for other in running.values()), default=taken):
            notes[trial] = f"slow: {1e3 * taken:.3g} ms"
        else:
            running[trial] = Running(call, taken)
    return running, notes


def _operands(operator: Operator, spec: ConvSpec, dtypes) -> tuple[jax.Array, ...]:
    """Random ones, scaled so that results are of order 1."""
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
    return not error <= WRONG * np.max(np.abs(reference))


def _compiled(
    operator: Operator, spec: ConvSpec, dtype, operands, trial: tuning_cache.Trial
) -> Callable:
    with tuning_cache.trial(*trial):
        compiled = jax.jit(_bind(operator, spec, dtype)).lower(*operands).compile()
    return lambda: compiled(*operands)


def _timed(call: Callable[[], Any], calls: int) -> float:
    """Seconds a call, of several one after another."""
    begin = time.perf_counter()
    results = [call() for _ in range(calls)]
    jax.block_until_ready(results)
    return (time.perf_counter() - begin) / calls


def _medians(
    running: dict[tuning_cache.Trial, Running], seconds: float
) -> dict[tuning_cache.Trial, float]:
    """Median milliseconds, from rounds in which every candidate has its turn."""
    samples: dict[tuning_cache.Trial, list[float]] = {trial: [] for trial in running}
    spent = dict.fromkeys(running, 0.0)
    while unfinished := [
        trial for trial in running if spent[trial] < seconds or len(samples[trial]) < 3
    ]:
        for trial in unfinished:
            call, once = running[trial]
            calls = max(1, min(64, round(BATCH / once)))
            samples[trial].append(_timed(call, calls))
            spent[trial] += samples[trial][-1] * calls
    return {trial: 1e3 * statistics.median(taken) for trial, taken in samples.items()}

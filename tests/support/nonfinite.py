"""Which results NaN and infinity must reach, and which they may reach through zero padding.

Nothing that reads a non-finite entry is finite: ``0 * nan`` and ``inf - inf`` are NaN. The converse
needs care. Padding is zeros in place of one array: the input in ``conv`` and ``filter_grad``, the
cotangent in ``input_grad``. A non-finite entry of that array reaches what reads it and nothing
else. One of the other array may also meet padding, and then an implementation that multiplies the
zeros returns NaN where one that skips them does not. It never leaves its feature, or in the input
gradient its channel, with one exception: ``lax``'s filter gradient of a grouped convolution, for
which XLA multiplies all pairs of groups.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from jaxconv._src.geometry.spec import Operator
from jaxconv._src.primitives.rules import RESULT, ROLES
from support import oracle
from support.cases import operands
from support.oracle import Case

VALUES = (np.nan, np.inf, -np.inf)
PADDED = {Operator.CONV: "x", Operator.INPUT_GRAD: "g", Operator.FILTER_GRAD: "x"}


def assert_confined(
    operator: Operator, case: Case, compute: Callable, dtype=np.float32, mixes_groups: bool = False
) -> None:
    """``compute`` maps arrays by role to the result of ``operator``."""
    for role, values in with_nonfinite(operator, case, dtype):
        found = ~np.isfinite(np.asarray(compute(values)).astype(np.float64))
        required = reads(operator, case, role, values[role])
        assert found[required].all(), (operator, role, "a result that reads it is finite")
        if role == PADDED[operator]:
            allowed = required
        elif mixes_groups:
            continue
        else:
            allowed = may_reach(operator, case, values[role])
        assert not found[~allowed].any(), (operator, role, "it reaches what does not read it")


def with_nonfinite(operator: Operator, case: Case, dtype) -> Iterator[tuple[str, dict]]:
    """Arrays with each of ``VALUES`` in one of them, and the role of that one."""
    arrays = dict(zip("xkg", operands(case, dtype), strict=True))
    for at, value in enumerate(VALUES):
        for role in ROLES[operator]:
            array = arrays[role].copy()
            array.flat[_entry(operator, case, role, at)] = value
            yield role, {other: arrays[other] for other in ROLES[operator]} | {role: array}


@functools.cache
def _entry(operator: Operator, case: Case, role: str, at: int) -> int:
    """The index of an entry that some results read and others do not."""
    size = math.prod(case.shape(role))
    for index in np.random.default_rng(at).permutation(size):
        entries = np.zeros(case.shape(role))
        entries.flat[index] = np.nan
        if 0 < reads(operator, case, role, entries).mean() < 1:
            return index
    raise AssertionError(f"every entry of {role} is read by all results, or by none")


def reads(operator: Operator, case: Case, role: str, array: np.ndarray) -> np.ndarray:
    """The results with a product of a non-finite entry and an entry of the other array."""
    ones = {each: np.ones(case.shape(each), np.float32) for each in ROLES[operator]}
    ones[role] = ~np.isfinite(array.astype(np.float64)) * np.float32(1)
    return oracle.compute(RESULT[operator], case, **ones) != 0


def may_reach(operator: Operator, case: Case, array: np.ndarray) -> np.ndarray:
    """The results of the same feature or channel, which may meet the entry in zero padding."""
    nonfinite = ~np.isfinite(array.astype(np.float64))
    last = nonfinite.reshape(-1, *nonfinite.shape[-2:]).any(0)  # [C/G, F], or [O, F] of a cotangent
    if operator is Operator.INPUT_GRAD:
        by_group = last.reshape(last.shape[0], case.groups, -1).any(-1)  # [C/G, G]
        allowed = by_group.T.reshape(-1)
    else:
        allowed = last.any(0)
    return np.broadcast_to(allowed, case.shape(RESULT[operator]))

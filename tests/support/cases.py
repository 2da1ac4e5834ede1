"""Convolutions to try: random ones with unequal extents, named ones, hypothesis strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from support.oracle import Case

DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
KINDS = ("dense", "grouped", "depthwise", "pointwise", "patches")

# One case of each rank, with unequal, coprime extents and no default values.
BASIC = {
    1: Case(2, 6, 9, (11,), (4,), (2,), ((3, 1),), (2,), 3),
    2: Case(2, 6, 9, (7, 10), (3, 2), (2, 1), ((1, 2), (0, 3)), (1, 2), 3),
    3: Case(2, 2, 6, (4, 5, 3), (2, 3, 1), (1, 2, 1), ((1, 0), (-1, 2), (0, 1)), (2, 1, 1), 2),
}
RANKS = tuple(BASIC)


def by_rank(test):
    """Runs a test with the basic case of each rank."""
    ids = [f"{rank}d" for rank in BASIC]
    return pytest.mark.parametrize("case", BASIC.values(), ids=ids)(test)


def build(pick: Callable[[Sequence], Any], rank: int | None = None, kind=None) -> Case:
    """A case whose sizes are picked by ``pick``, each from a sequence."""
    rank = rank or pick(RANKS)
    kind = kind or pick(KINDS)
    groups, group_in, group_out = _features(pick, kind)
    axes = [_axis(pick, kind, n) for n in _extents(pick, rank)]
    n, k, s, padding, d = zip(*axes, strict=True)
    return Case(pick((1, 2, 3)), groups * group_in, groups * group_out, n, k, s, padding, d, groups)


def _features(pick, kind: str) -> tuple[int, int, int]:
    match kind:
        case "grouped":
            return pick((2, 3, 5)), pick((2, 3)), pick((1, 2, 3))
        case "depthwise":
            return pick((2, 3, 5, 7)), 1, pick((1, 2, 3))
        case _:
            return 1, pick((1, 2, 3, 5)), pick((1, 2, 4, 7))


def _extents(pick, rank: int) -> tuple[int, ...]:
    """Unequal extents; smaller in three dimensions, to keep the oracle's loops short."""
    return {
        1: pick(((13,), (8,), (5,), (1,))),
        2: pick(((7, 4), (5, 8), (9, 6), (3, 10))),
        3: pick(((4, 3, 5), (2, 5, 3), (5, 4, 3))),
    }[rank]


def _axis(pick, kind: str, n: int) -> tuple:
    if kind == "pointwise":
        return n, 1, pick((1, 2, 3)), (0, 0), 1
    k = pick((1, 2, 3, 4))
    if kind == "patches":
        s, d, padding = k, 1, (0, pick((0, 1)))
    else:
        s, d, padding = pick((1, 2, 3)), pick((1, 1, 2, 3)), (pick(_PADS), pick(_PADS))
    lacking = max(d * (k - 1) + 1 - n - sum(padding), 0)
    return n, k, s, (padding[0], padding[1] + lacking), d


_PADS = (0, 1, 2, 3, -1)


def random_cases(seed: int, count: int, **fixed) -> list[Case]:
    """The same ``count`` cases for the same ``seed``."""
    rng = np.random.default_rng(seed)
    return [
        build(lambda options: options[rng.integers(len(options))], **fixed) for _ in range(count)
    ]


@st.composite
def cases(draw, rank: int | None = None, kind: str | None = None) -> Case:
    return build(lambda options: draw(st.sampled_from(options)), rank, kind)


def operand(shape: tuple[int, ...], dtype, seed: int = 0) -> np.ndarray:
    """Random normal numbers of a floating or complex dtype."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return np.asarray(values, dtype)


def operands(case: Case, dtype=np.float32, roles: str = "xkg") -> list[np.ndarray]:
    """Random ``x``, ``k`` and ``g`` of a case, or some of them."""
    return [operand(case.shape(role), dtype, ord(role)) for role in roles]

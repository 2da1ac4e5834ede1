"""The independent oracle: the three operators as NumPy loops in float64, from the index formulas.

Operands in longdouble are summed in longdouble, to check float64 itself.

    T(x, k, g) = sum over n, o, f, t, c of  g[n,o,f] * x[n, s*o + d*t - low, c] * k[t,c,f]

It shares no code with the library: extents are counted, not computed, and loops visit every output
and tap; only batch, channels and features are left to NumPy.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import ml_dtypes
import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One convolution. ``borders`` has the mode of each axis's padding; None means zeros."""

    batch: int
    in_features: int
    out_features: int
    input_spatial: tuple[int, ...]
    kernel_spatial: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    borders: tuple[str | None, ...] | None = None

    @property
    def axes(self) -> list[tuple]:
        """``(n, k, s, (low, high), d)`` of each spatial axis."""
        sizes = (self.input_spatial, self.kernel_spatial, self.strides, self.padding, self.dilation)
        return list(zip(*sizes, strict=True))

    @property
    def rank(self) -> int:
        return len(self.kernel_spatial)

    def shape(self, role: str) -> tuple[int, ...]:
        """The shape of ``x``, ``k`` or ``g``."""
        if role == "x":
            return (self.batch, *self.input_spatial, self.in_features)
        if role == "k":
            return (*self.kernel_spatial, self.in_features // self.groups, self.out_features)
        return (self.batch, *(windows(*axis) for axis in self.axes), self.out_features)

    def terms(self, role: str) -> int:
        """The maximum number of products summed into one entry of a result in this role."""
        if role == "k":
            return max(math.prod(self.shape("g")[:-1]), 1)
        features = self.in_features if role == "g" else self.out_features
        return max(math.prod(self.kernel_spatial) * features // self.groups, 1)

    def options(self, *, padding=True) -> dict:
        """The keywords of the public functions."""
        keywords = {"strides": self.strides, "dilation": self.dilation, "groups": self.groups}
        return keywords | ({"padding": self.padding} if padding else {})

    def replace(self, **changes) -> Case:
        return dataclasses.replace(self, **changes)


def windows(n: int, k: int, s: int, padding: tuple[int, int], d: int) -> int:
    """How many windows of ``k`` taps fit into the padded axis, counted one by one."""
    if n == 0 or k == 0:
        return 0
    count, last = 0, d * (k - 1)
    while last < n + padding[0] + padding[1]:
        count, last = count + 1, last + s
    return count


def padding_of(name: str, n: int, k: int, s: int, d: int) -> tuple[int, int]:
    """The ``(low, high)`` of a padding name; for SAME, tries totals until enough windows fit."""
    reach = d * (k - 1)
    if name in ("SAME", "SAME_LOWER"):
        total = next(p for p in itertools.count() if windows(n, k, s, (0, p), d) >= -(-n // s))
        halves = (total // 2, total - total // 2)
        return halves if name == "SAME" else halves[::-1]
    around = (reach // 2, reach - reach // 2)
    return {"VALID": (0, 0), "FULL": (reach, reach), "CAUSAL": (reach, 0)}.get(name, around)


def _source(i: int, n: int, border: str | None) -> int | None:
    """The pixel read at position ``i`` of an axis of ``n`` pixels; None means a zero."""
    if 0 <= i < n:
        return i
    match border:
        case "CIRCULAR":
            return i % n
        case "REFLECT":
            return -i if i < 0 else 2 * (n - 1) - i
        case "REPLICATE":
            return 0 if i < 0 else n - 1
        case _:
            return None


def _visits(axis: tuple, border: str | None) -> list[tuple[int, int, int]]:
    """Every ``(output, tap, input)`` of one axis that forms a product."""
    n, k, s, (low, _), d = axis
    pairs = itertools.product(range(windows(*axis)), range(k))
    visits = ((o, t, _source(s * o + d * t - low, n, border)) for o, t in pairs)
    return [(o, t, i) for o, t, i in visits if i is not None]


def _products(case: Case):
    borders = case.borders or (None,) * case.rank
    axes = [_visits(*both) for both in zip(case.axes, borders, strict=True)]
    for visit in itertools.product(*axes):
        o, t, i = zip(*visit, strict=True)
        yield (slice(None), *o), t, (slice(None), *i)


def exact(array) -> np.ndarray:
    """The same numbers in float64, or complex128; longdouble stays as it is."""
    array = np.asarray(array)
    if array.dtype == np.longdouble:
        return array
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def compute(role: str, case: Case, **operands) -> np.ndarray:
    """The derivative of T in ``role`` at the other two operands: exact to float64."""
    values = {name: exact(array) for name, array in operands.items()}
    values[role] = np.zeros(case.shape(role), np.result_type(*values.values()))
    shapes = {name: case.shape(name) for name in "xkg"}
    assert {name: value.shape for name, value in values.items()} == shapes
    x, k, g = (_by_group(name, values[name], case) for name in "xkg")
    for o, t, i in _products(case):
        match role:
            case "g":
                g[o] += np.einsum("njc,cjf->njf", x[i], k[t])
            case "x":
                x[i] += np.einsum("njf,cjf->njc", g[o], k[t])
            case "k":
                k[t] += np.einsum("njc,njf->cjf", x[i], g[o])
    return values[role]


def _by_group(role: str, array: np.ndarray, case: Case) -> np.ndarray:
    """A view in which features are ``[group, feature of the group]``."""
    features = case.in_features if role == "x" else case.out_features
    return array.reshape(*array.shape[:-1], case.groups, features // case.groups)


def epsilon(dtype) -> float:
    return float(ml_dtypes.finfo(np.dtype(dtype)).eps)


def tolerance(role: str, case: Case, dtype, **operands) -> float:
    """How far a correct result may be from the oracle's.

    A sum of ``terms`` random products has the scale ``rms(a) * rms(b) * sqrt(terms)``. Adding one
    by one, a partial sum of m terms rounds by about ``eps * rms(a) * rms(b) * sqrt(m)``, and the
    independent roundings add up to ``eps * scale * sqrt(terms / 2)``; other orders are better. The
    result is rounded once more, to its own dtype. Narrow dtypes accumulate in float32. The factor
    4 makes the bound over ten times that standard error, so the largest of many errors is below.
    """
    wide = max(epsilon(operand.dtype) for operand in operands.values())
    terms = case.terms(role)
    scale = math.prod(_rms(operand) for operand in operands.values()) * math.sqrt(terms)
    rounding = min(wide, epsilon(np.float32)) * math.sqrt(terms) + epsilon(dtype)
    return 4 * rounding * scale


def _rms(array) -> float:
    values = np.abs(exact(array))
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def assert_right(got, role: str, case: Case, **operands) -> None:
    """``got`` is the derivative of T in ``role`` within the tolerance."""
    wanted = compute(role, case, **operands)
    assert got.shape == wanted.shape, (got.shape, wanted.shape, case)
    allowed = tolerance(role, case, got.dtype, **operands)
    error = np.max(np.abs(exact(got) - wanted), initial=0.0)
    assert error <= allowed, f"error {error:.3g} > {allowed:.3g} in {role} of {case}"

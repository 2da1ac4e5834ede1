"""Settings of the playground, as links, and what jaxconv computes for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv
from jaxconv._src.kernels.cpu.library import unavailable_reason

KINDS = (
    "standard",
    "strided",
    "dilated",
    "grouped",
    "depthwise",
    "separable",
    "pointwise",
    "transposed",
    "causal",
)
NAMES = ("SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL", "CIRCULAR", "REFLECT", "REPLICATE")
# The formulas of the page's numbers: factors, shift per seed, prime, count, scale and least.
FORMULAS = {
    "x": (31, 17, 13, 97, 10, 1, 0),
    "k": (23, 19, 11, 89, 4, 2, -3),
    "w": (29, 37, 5, 79, 4, 2, -3),
    "g": (41, 7, 3, 83, 4, 2, -3),
}


def numbers(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The page's small ints, in float32."""
    a, b, shift, prime, count, scale, least = FORMULAS[name]
    i = np.arange(np.prod(shape, dtype=int))
    values = (a * i * i + b * i + shift * seed) % prime % count * scale + least
    return values.astype(np.float32).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One link, and the call of jaxconv that it stands for."""

    link: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]  # of x and the kernels
    options: dict[str, Any]
    seed: int

    def call(self, *arrays: Any) -> Any:
        return self.function(*arrays, **self.options)

    def arrays(self) -> list[np.ndarray]:
        return [numbers(*pair, self.seed) for pair in zip("xkw", self.shapes, strict=False)]

    def structs(self) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes]

    def error(self) -> str:
        """jaxconv's sentence about the call; empty if it accepts it."""
        try:
            jax.eval_shape(self.call, *self.structs())
        except ValueError as error:
            return str(error)
        return ""

    def everything(self, arrays: list[Any], g: Any) -> tuple[Any, ...]:
        """The output, and the gradients of x and of each kernel."""
        y, pullback = jax.vjp(self.call, *arrays)
        return y, *pullback(g)


class _Picker:
    """Random choices, the same for the same seed."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def axes(self, rank: int, *options: int) -> tuple[int, ...]:
        return tuple(self(*options) for _ in range(rank))


def settings(seed: int, count: int) -> list[Setting]:
    """Random settings of all kinds in one and two dimensions; some of them are impossible."""
    pick = _Picker(seed)
    return [_setting(pick, KINDS[at % len(KINDS)]) for at in range(count)]


def _setting(pick: _Picker, kind: str) -> Setting:
    rank = pick(1, 2)
    n = pick.axes(rank, *((4, 7, 11, 15) if rank == 1 else (3, 5, 6, 8)))
    k = (1,) * rank if kind == "pointwise" else pick.axes(rank, 1, 2, 3, 3, 4)
    strided = ("standard", "strided", "depthwise", "separable", "pointwise", "transposed", "causal")
    s = pick.axes(rank, 1, 2, 3) if kind in strided else (1,) * rank
    d = (1,) * rank if kind == "pointwise" else pick.axes(rank, 1, 1, 2, 3)
    groups = pick(1, 2, 3) if kind in ("grouped", "transposed", "causal", "standard") else 1
    c, f = groups * pick(1, 2, 2), groups * pick(1, 2, 3)
    if pick(*range(12)) == 0:
        # Perhaps not divisible; a transposed kernel [*K, F/G, C] always has whole groups of F.
        c, f = c + pick(0, 1), f + (0 if kind == "transposed" else pick(0, 1))
    parts = {"kind": kind, "n": _by(n), "c": c}
    options: dict[str, Any] = {"strides": s}
    function, shapes = _call(pick, parts, kind, n, k, c, f, groups, options)
    if kind != "pointwise":
        parts |= {"k": _by(k), "d": _by(d)}
        options["dilation"] = d
    parts["s"] = _by(s)
    if kind == "causal" and rank == 2:
        options["padding"] = ("CAUSAL", "SAME")
    elif kind not in ("causal", "pointwise"):
        options["padding"], parts["p"] = _padding(pick, rank, kind)
    if kind == "transposed":
        extra = pick.axes(rank, 0, 0, 0, 1)
        options["output_padding"], parts["op"] = extra, _by(extra)
    seed = pick(0, 0, 1, 7)
    link = "#" + "&".join(f"{key}={value}" for key, value in (parts | {"seed": seed}).items())
    return Setting(link, function, shapes, options, seed)


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def _call(pick, parts, kind, n, k, c, f, groups, options):
    """The function and its arrays; what else its link holds goes into ``parts``."""
    x, share = (1, *n, c), lambda features: max(features // groups, 1)
    if kind in ("depthwise", "separable"):
        parts["m"] = multiplier = pick(1, 1, 2)
        depthwise = (*k, 1, c * multiplier)
        if kind == "depthwise":
            return jaxconv.depthwise_conv, (x, depthwise)
        parts["f"] = f
        return jaxconv.separable_conv, (x, depthwise, (c * multiplier, f))
    parts["f"] = f
    if kind == "pointwise":
        return jaxconv.pointwise_conv, (x, (*k, c, f))
    parts["g"] = options["groups"] = groups
    if kind == "transposed":
        return jaxconv.conv_transpose, (x, (*k, share(f), c))
    function = jaxconv.causal_conv if kind == "causal" and len(n) == 1 else jaxconv.conv
    return function, (x, (*k, share(c), f))


def _padding(pick: _Picker, rank: int, kind: str) -> tuple[Any, str]:
    """jaxconv's padding and the link's."""
    names = NAMES[:5] if kind == "transposed" and pick(0, 1, 1, 1) else NAMES
    match pick("name", "name", "int", "pairs", "mixed"):
        case "name":
            name = pick(*names)
            return name, pick(name, name.lower()) if name != "CAUSAL" else name
        case "int":
            return (number := pick(0, 1, 2, 4 if kind == "transposed" else 1)), str(number)
        case "pairs":
            pairs = tuple((pick(0, 1, 2, -1), pick(0, 1, 3, -1)) for _ in range(rank))
            return pairs, "x".join(f"{low}:{high}" for low, high in pairs)
        case _:
            entries = tuple(pick(*names) for _ in range(rank))
            return entries, "x".join(entries)


def expected(chosen: list[Setting], chunk: int = 50) -> list[tuple[np.ndarray, ...]]:
    """What jaxconv computes, ``chunk`` settings per compiled program.

    By the engine where there is one: XLA takes four times as long to compile its own convolutions.
    """
    results: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(chosen), chunk):
        part = chosen[start : start + chunk]
        arrays = [setting.arrays() for setting in part]
        shapes = [jax.eval_shape(setting.call, *setting.structs()).shape for setting in part]
        gs = [
            numbers("g", shape, setting.seed) for shape, setting in zip(shapes, part, strict=True)
        ]

        def compute(arrays, gs, part=part):
            return [
                setting.everything(operands, g)
                for setting, operands, g in zip(part, arrays, gs, strict=True)
            ]

        with jaxconv.use_implementation("native" if unavailable_reason() is None else "lax"):
            results += jax.device_get(jax.jit(compute)(arrays, gs))
    return results

"""Times the short depthwise causal convolution with SiLU, packed or not, beside a copy.

    python -m benchmarks.cpu.causal
    python -m benchmarks.cpu.causal --only "k4 8x2048x1024" --seconds 2
    python -m benchmarks.cpu.causal --json benchmarks/results/cpu_causal.json

Peers: ``lax`` and PyTorch (``conv1d`` and ``silu``), which know no segments; for packed sequences
jaxconv's plain XLA form, ``taps``; and a copy of the input by XLA, which moves the same bytes. All
results are checked before anything is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxconv
from benchmarks.common import arguments, results
from benchmarks.common.machine import machine, versions
from benchmarks.common.timing import interleaved, median_ms
from benchmarks.cpu import tables

SEGMENT_STEPS = 300  # the mean length of a packed sequence


@dataclasses.dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int]
    width: int
    dtype: str
    packed: bool

    @property
    def name(self) -> str:
        packed = " packed" if self.packed else ""
        return f"k{self.width} {'x'.join(map(str, self.shape))} {self.dtype}{packed}"


CASES = [
    Case(shape, width, dtype, packed)
    for shape in ((8, 2048, 1024), (1, 4096, 2048))
    for dtype in ("float32", "bfloat16")
    for width in (2, 4, 8)
    for packed in (False, True)
]


def main() -> None:
    parser = arguments.parser(__doc__)
    arguments.add_only(parser, "cases")
    arguments.add_seconds(parser, 1.0, "peer of a row")
    arguments.add_json(parser)
    args = parser.parse_args()
    rows = []
    for case in CASES:
        if args.only in case.name:
            print(case.name, file=sys.stderr)
            rows.append(measure(case, args.seconds))
    report = results.report(rows, machine(), versions("jax", "torch"))
    if args.json:
        results.write(args.json, report)
    print(tables.causal(rows), report.source, sep="\n\n")


def measure(case: Case, seconds: float) -> dict[str, Any]:
    """One row: all peers, checked, then timed."""
    arrays = operands(case)
    peers = {"jaxconv": _ours(case)}
    if case.packed:
        peers["taps"] = _ours(case, "taps")
    else:
        peers["lax"] = _lax
    calls = {name: _jitted(function, arrays) for name, function in peers.items()}
    if not case.packed and importlib.util.find_spec("torch") is not None:
        calls["torch"] = _torch(arrays, case.dtype)
    outputs = {name: np.asarray(call(), np.float32) for name, call in calls.items()}
    for name, output in outputs.items():
        _check(f"{case.name} {name}", output, outputs["jaxconv"], case.dtype)
    calls[tables.COPY] = _jitted(lambda x, kernel, ids: jnp.copy(x), arrays)
    milliseconds = {name: median_ms(times) for name, times in interleaved(calls, seconds).items()}
    ours = milliseconds["jaxconv"]
    return {
        "workload": case.name,
        "milliseconds": milliseconds,
        "speedup": {name: milliseconds[name] / ours for name in outputs if name != "jaxconv"},
        "of_copy": milliseconds[tables.COPY] / ours,
    }


def operands(case: Case) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``x``, a kernel whose sums are of order 1, and ids of segments of random lengths."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(case.shape, np.float32)
    kernel = rng.standard_normal((case.width, 1, case.shape[2]), np.float32)
    starts = rng.random(case.shape[:2]) < 1 / SEGMENT_STEPS
    kernel = jnp.asarray(kernel / case.width**0.5, case.dtype)
    return jnp.asarray(x, case.dtype), kernel, jnp.asarray(np.cumsum(starts, axis=1), jnp.int32)


def _ours(case: Case, implementation: Any = None) -> Callable[..., jax.Array]:
    def conv(x: jax.Array, kernel: jax.Array, ids: jax.Array) -> jax.Array:
        return jaxconv.causal_conv(
            x,
            kernel,
            groups=case.shape[2],
            activation="silu",
            segment_ids=ids if case.packed else None,
            implementation=implementation,
        )

    return conv


def _lax(x: jax.Array, kernel: jax.Array, ids: jax.Array) -> jax.Array:
    padding = [(kernel.shape[0] - 1, 0)]
    layout = ("NWC", "WIO", "NWC")
    y = lax.conv_general_dilated(
        x, kernel, (1,), padding, dimension_numbers=layout, feature_group_count=x.shape[2]
    )
    return jax.nn.silu(y)


def _jitted(function: Callable[..., jax.Array], arrays: tuple[jax.Array, ...]) -> Callable[[], Any]:
    program = jax.jit(function).lower(*arrays).compile()
    return lambda: jax.block_until_ready(program(*arrays))


def _torch(arrays: tuple[jax.Array, ...], dtype: str) -> Callable[[], Any]:
    """``conv1d`` padded on both sides, without the last outputs, and ``silu``."""
    import torch

    x, kernel = (torch.from_numpy(np.array(a, np.float32)) for a in arrays[:2])
    x, kernel = x.mT.contiguous(), kernel.permute(2, 1, 0).contiguous()
    x, kernel = (a.to(getattr(torch, dtype)) for a in (x, kernel))
    width, steps = kernel.shape[2], x.shape[2]
    convolve = functools.partial(
        torch.nn.functional.conv1d, x, kernel, padding=width - 1, groups=len(kernel)
    )

    class Result:
        """What PyTorch computed, channels-last once it is read."""

        def __init__(self, value: Any):
            self.value = value

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return self.value.mT.float().numpy().astype(dtype)

    def call() -> Result:
        with torch.no_grad():
            return Result(torch.nn.functional.silu(convolve()[..., :steps]))

    return call


def _check(what: str, output: np.ndarray, reference: np.ndarray, dtype: str) -> None:
    """Exits unless results of order 1 are equal up to rounding.

    A peer that rounds the sum to ``dtype`` before the activation is off by another half unit.
    """
    tolerance = 16 * float(jnp.finfo(dtype).eps)
    error = float(np.abs(output - reference).max())
    if output.shape != reference.shape or not error <= tolerance:
        raise SystemExit(f"{what}: differs by {error:.3g}, more than {tolerance:.3g}")


if __name__ == "__main__":
    main()

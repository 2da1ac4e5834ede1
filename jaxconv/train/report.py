"""What a finished run says about its convolutions: their ledger, their kernels, their speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from rich import box
from rich.table import Table

from ..analysis import cost
from ..explain import explain
from ..functional import conv, separable_conv
from ..implementation import use_implementation
from ..spec import ConvSpec, Operator
from .loop import Training

OPERATORS = {
    Operator.CONV: "forward",
    Operator.INPUT_GRAD: "input grad",
    Operator.FILTER_GRAD: "filter grad",
}

LAYER = ("layer", "features", "input")
BLOCKS, DROPPED, KEPT = 3, 2, 4


def ledger(spatial: tuple[int, int], kernel: tuple[int, int], features: tuple[int, int]) -> Table:
    """What a dense and a separable convolution of the same shapes cost, counted from both."""
    size, filters = (*spatial, features[0]), (*kernel, *features)
    x = jnp.ones((1, *size))
    forms = {
        "dense": (conv, jnp.ones(filters)),
        "separable": (separable_conv, jnp.ones((*kernel, 1, features[0])), jnp.ones(features)),
    }
    title = f"{_times(size)}, {features[1]} filters of {_times(kernel)}, no padding"
    table = _table(title, "", "parameters", "multiply-adds", "output")
    for name, (function, *kernels) in forms.items():

        def valid(x, *kernels, function=function):
            return function(x, *kernels, padding="VALID")

        spent, output = cost(valid, x, *kernels), jax.eval_shape(valid, x, *kernels)
        figures = (f"{spent.parameters:,}", f"{spent.macs:,}", _times(output.shape[1:]))
        table.add_row(name, *figures)
    return table


def kernels(training: Training) -> Table:
    """Which kernel ran each operator of each convolution of a training step."""
    chosen: dict[ConvSpec, dict[Operator, str]] = {}
    for found in explain(training.step, *training.arguments(0)).convs:
        if found.operator is not None and found.spec is not None:
            chosen.setdefault(found.spec, {})[found.operator] = found.kernel
    table = _table("The kernel each layer ran on", *LAYER, *OPERATORS.values())
    for spec, by_operator in chosen.items():
        table.add_row(*_layer(spec), *(by_operator.get(operator, "–") for operator in OPERATORS))
    return table


def speed(training: Training) -> str:
    """The time of a training step, beside that of the same network on ``lax`` throughout."""
    ours, lax = step_seconds(training)
    return (
        f"A step of {training.recipe.batch_size} {training.recipe.unit}: {1e3 * ours:.1f} ms; on "
        f"plain lax {1e3 * lax:.1f} ms, [bold]{lax / ours:.1f}×[/bold] as long"
    )


def step_seconds(training: Training) -> tuple[float, float]:
    """Median seconds of a training step: with the kernels chosen, and with ``lax`` throughout.

    The two take turns in blocks, and each block's first steps, which warm caches, are dropped.
    """
    samples: dict[str | None, list[float]] = {None: [], "lax": []}
    for _ in range(BLOCKS):
        for implementation, seconds in samples.items():
            with use_implementation(implementation):
                seconds += [_timed(training) for _ in range(DROPPED + KEPT)][DROPPED:]
    ours, lax = (statistics.median(seconds) for seconds in samples.values())
    return ours, lax


def _timed(training: Training) -> float:
    arguments = training.arguments(0)
    began = time.perf_counter()
    jax.block_until_ready(training.step(*arguments))
    return time.perf_counter() - began


def _layer(spec: ConvSpec) -> tuple[str, str, str]:
    form = "depthwise " if spec.depthwise and spec.groups > 1 else ""
    strides = spec.strides[:1] if len(set(spec.strides)) == 1 else spec.strides
    stride = "" if spec.unstrided else f" stride {_times(strides)}"
    return (
        f"{form}{_times(spec.kernel_spatial)}{stride}",
        f"{spec.in_features} → {spec.out_features}",
        _times(spec.input_spatial),
    )


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    first, *rest = columns
    table.add_column(first)
    for column in rest:
        table.add_column(column, justify="right")
    return table

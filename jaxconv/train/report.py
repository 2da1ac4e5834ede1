"""What a finished run says about its convolutions: their ledger, their kernels, their speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from rich import box
from rich.table import Table

from .._src.analysis.cost import cost
from .._src.analysis.explain import explain
from .._src.dispatch.implementation import use_implementation
from .._src.functions.conv import conv, separable_conv
from .._src.geometry.spec import ConvSpec, Operator
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
    table = empty_table(title, "", "parameters", "multiply-adds", "output")
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
            chosen.setdefault(found.spec, {})[found.operator] = found.implementation
    table = empty_table("The kernel each layer ran on", *LAYER, *OPERATORS.values())
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
    """Median seconds of a training step: with the kernels chosen, and with ``lax`` throughout."""

    def on(implementation: str | None) -> Callable[[], object]:
        def step() -> object:
            with use_implementation(implementation):
                return training.step(*training.arguments(0))

        return step

    ours, lax = medians({"ours": on(None), "lax": on("lax")}).values()
    return ours, lax


def medians(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call, until its result is there.

    They take turns in blocks, and each block's first calls, which warm caches, are dropped.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(BLOCKS):
        for name, call in calls.items():
            samples[name] += [_timed(call) for _ in range(DROPPED + KEPT)][DROPPED:]
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def _layer(spec: ConvSpec) -> tuple[str, str, str]:
    form = "depthwise " if spec.depthwise and spec.groups > 1 else ""
    strides = spec.strides[:1] if len(set(spec.strides)) == 1 else spec.strides
    stride = "" if spec.unstrided else f" stride {_times(strides)}"
    dilated = max(spec.dilation) > 1 and max(spec.kernel_spatial) > 1
    dilation = f" dilation {spec.dilation[0]}" if dilated else ""
    return (
        f"{form}{_times(spec.kernel_spatial)}{stride}{dilation}",
        f"{spec.in_features} → {spec.out_features}",
        _times(spec.input_spatial),
    )


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def empty_table(title: str, *columns: str) -> Table:
    """An empty table: the first column names the rows, the others hold figures."""
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

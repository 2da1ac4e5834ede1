"""Tables of a run's report: what its convolutions cost, and which implementations computed them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from rich import box
from rich.table import Table

from .._src.analysis.cost import cost
from .._src.analysis.explain import explain
from .._src.functions.conv import conv
from .._src.functions.separable import separable_conv
from .._src.geometry.spec import ConvSpec, Operator
from .training import Training

OPERATORS = {
    Operator.CONV: "forward",
    Operator.INPUT_GRAD: "input grad",
    Operator.FILTER_GRAD: "filter grad",
}
LAYER_COLUMNS = ("layer", "features", "input")


def empty_table(title: str, *columns: str) -> Table:
    """An empty table whose first column names the rows; the others are right-aligned figures."""
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


def dense_and_separable(
    spatial: tuple[int, int], kernel: tuple[int, int], features: tuple[int, int]
) -> Table:
    """The cost of a dense and of a separable convolution of the same shapes."""
    size, dense_shape = (*spatial, features[0]), (*kernel, *features)
    x = jnp.ones((1, *size))
    convolutions = {
        "dense": (conv, jnp.ones(dense_shape)),
        "separable": (separable_conv, jnp.ones((*kernel, 1, features[0])), jnp.ones(features)),
    }
    title = f"{_times(size)} input, {features[1]} filters of {_times(kernel)}, no padding"
    table = empty_table(title, "", "parameters", "multiply-adds", "output")
    for name, (function, *kernels) in convolutions.items():

        def valid(x, *kernels, function=function):
            return function(x, *kernels, padding="VALID")

        total, output = cost(valid, x, *kernels), jax.eval_shape(valid, x, *kernels)
        table.add_row(name, f"{total.parameters:,}", f"{total.macs:,}", _times(output.shape[1:]))
    return table


def implementations(training: Training) -> Table:
    """The implementation of each operator of each convolution of a training step."""
    by_spec: dict[ConvSpec, dict[Operator, str]] = {}
    for found in explain(training.step, *training.arguments(0)).convs:
        if found.operator is not None and found.spec is not None:
            by_spec.setdefault(found.spec, {})[found.operator] = found.implementation
    title = "Implementation of each convolution in a training step"
    table = empty_table(title, *LAYER_COLUMNS, *OPERATORS.values())
    for spec, by_operator in by_spec.items():
        names = (by_operator.get(operator, "–") for operator in OPERATORS)
        table.add_row(*_layer_cells(spec), *names)
    return table


def _layer_cells(spec: ConvSpec) -> tuple[str, str, str]:
    kind = "depthwise " if spec.depthwise and spec.groups > 1 else ""
    strides = spec.strides[:1] if len(set(spec.strides)) == 1 else spec.strides
    stride = "" if spec.unstrided else f" stride {_times(strides)}"
    dilated = max(spec.dilation) > 1 and max(spec.kernel_spatial) > 1
    dilation = f" dilation {spec.dilation[0]}" if dilated else ""
    return (
        f"{kind}{_times(spec.kernel_spatial)}{stride}{dilation}",
        f"{spec.in_features} → {spec.out_features}",
        _times(spec.input_spatial),
    )


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))

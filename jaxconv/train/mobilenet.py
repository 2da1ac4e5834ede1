"""MobileNetV1 on handwritten digits, compared with the same layers as dense convolutions."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from flax import nnx

from .._src.analysis.cost import cost
from ..models.mobilenet_v1 import MobileNetV1
from . import digits, plots, tables, timing, twins
from .recipe import Recipe, Score
from .run import Run
from .twins import LOSS_LABEL, Twins, of_first, summed

# The paper's first blocks at half their width, with strides for images of 28×28 pixels.
BLOCKS = ((64, 2), (128, 1), (128, 2), (256, 1), (256, 1))
WIDTH = 0.5

PARTS = {"separable": "network", "dense": "twin"}
UNITS = {
    "parameters": "{:,}",
    "multiply-adds": "{:,}",
    "ms per step": "{:.1f}",
    "accuracy": "{:.1%}",
}


def network(rngs: nnx.Rngs) -> Twins:
    """MobileNetV1 and the same layers with dense convolutions."""
    options = {"in_features": 1, "width": WIDTH, "blocks": BLOCKS, "stem_strides": 1}
    separable, dense = (
        MobileNetV1(digits.CLASSES, separable=separable, rngs=rngs, **options)
        for separable in (True, False)
    )
    return Twins(separable, dense)


def report(run: Run) -> None:
    """Prints the cost and accuracy of both networks, and saves the figure."""
    rows = compare(run)
    separable, dense = rows.values()
    table = tables.empty_table("The same layers, separable and dense", "", *UNITS)
    for name, figures in rows.items():
        table.add_row(name, *(UNITS[unit].format(value) for unit, value in figures.items()))
    run.console.print(tables.implementations(run.training), "", table, "")
    fewer = dense["multiply-adds"] / separable["multiply-adds"]
    faster = dense["ms per step"] / separable["ms per step"]
    points = 100 * (separable["accuracy"] - dense["accuracy"])
    run.console.print(
        f"The separable network has [bold]{fewer:.1f}×[/bold] fewer multiply-adds and "
        f"{faster:.1f}× faster steps than the dense one; its accuracy is "
        f"[bold]{abs(points):.1f}[/bold] points {'higher' if points > 0 else 'lower'}"
    )
    plots.save(figure(run, rows), run.folder / "mobilenet.png")


def compare(run: Run) -> dict[str, dict[str, float]]:
    """The parameters, multiply-adds per image, step time and accuracy of each network."""
    held_out = run.training.data.held_out
    alone = {name: twins.alone(run, part, digits.loss) for name, part in PARTS.items()}
    seconds = timing.medians(
        {name: functools.partial(one.step, *one.arguments(0)) for name, one in alone.items()}
    )
    rows = {}
    for at, (name, one) in enumerate(alone.items()):
        figures = (
            one.parameters,
            cost(one.apply, one.state, {"image": held_out["image"][:1]}).macs,
            1e3 * seconds[name],
            float(digits.accuracy(jnp.asarray(run.outputs[:, at]), held_out)),
        )
        rows[name] = dict(zip(UNITS, figures, strict=True))
    return rows


def figure(run: Run, rows: dict[str, dict[str, float]]):
    """The training curve, the confusion matrix, and both networks' cost and accuracy."""
    held_out = run.training.data.held_out
    drawn = plots.figure("MobileNetV1 on handwritten digits, separable and dense", 12, 9.5)
    upper, lower = plots.rows(drawn, 1, 1)
    curve, confusion = upper.subplots(1, 2)
    plots.training_curve(curve, run.training, run.history)
    predicted = run.outputs[:, 0].argmax(-1)
    plots.confusion(confusion, predicted, held_out["label"], digits.CLASSES)
    for axes, (unit, format) in zip(lower.subplots(2, 2).flat, UNITS.items(), strict=True):
        dense_first = list(reversed(rows))
        values = [rows[name][unit] for name in dense_first]
        plots.bars(axes, dense_first, values, unit, format)
    return drawn


RECIPE = Recipe(
    name="mobilenet",
    unit="images",
    data=digits.data,
    network=network,
    outputs=lambda network, batch: network(batch["image"]),
    loss=summed(digits.loss),
    loss_label=LOSS_LABEL,
    score=of_first(Score("accuracy", digits.accuracy, "{:.1%}")),
    batch_size=64,
    epochs=12,
    learning_rate=1e-2,
    short_epochs=1,
    augment=digits.augment,
)

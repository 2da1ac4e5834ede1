"""MobileNetV1 on handwritten digits, beside its dense twin: what the saved computation costs."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from flax import nnx

from .._src.analysis.cost import cost
from ..models.mobilenet_v1 import MobileNetV1
from . import digits, plots, report, twins
from .recipe import Recipe, Run, Score
from .twins import LOSS_LABEL, Twins, added, of_first

# The first of the paper's blocks at half their width, with strides for images of 28×28.
BLOCKS = ((64, 2), (128, 1), (128, 2), (256, 1), (256, 1))
WIDTH = 0.5

PARTS = {"separable": "network", "dense": "twin"}
UNITS = {
    "parameters": "{:,}",
    "multiply-adds": "{:,}",
    "ms a step": "{:.1f}",
    "accuracy": "{:.1%}",
}


def network(rngs: nnx.Rngs) -> Twins:
    """MobileNetV1 and the same layers with dense convolutions."""
    options = {"in_features": 1, "width": WIDTH, "blocks": BLOCKS, "stem_strides": 1}
    separable, dense = (
        MobileNetV1(digits.CLASSES, separable=form, rngs=rngs, **options) for form in (True, False)
    )
    return Twins(separable, dense)


def finish(run: Run) -> None:
    """Prints what either network costs and reaches, and the kernels; draws the picture."""
    rows = compared(run)
    (name, ours), (other, theirs) = rows.items()
    table = report.empty_table("The same layers, separable and dense", "", *UNITS)
    for form, figures in rows.items():
        table.add_row(form, *(UNITS[unit].format(value) for unit, value in figures.items()))
    run.console.print(report.kernels(run.training), "", table, "")
    fewer = theirs["multiply-adds"] / ours["multiply-adds"]
    faster = theirs["ms a step"] / ours["ms a step"]
    lost = 100 * (theirs["accuracy"] - ours["accuracy"])
    run.console.print(
        f"[bold]{fewer:.1f}×[/bold] fewer multiply-adds, {faster:.1f}× faster steps, "
        f"[bold]{abs(lost):.1f}[/bold] points of accuracy {'lost' if lost >= 0 else 'gained'}: "
        f"{name} against {other}"
    )
    plots.save(picture(run, rows), run.folder / "mobilenet.png")


def compared(run: Run) -> dict[str, dict[str, float]]:
    """What each network has, does for one image, takes for a step, and reaches."""
    held_out = run.training.data.held_out
    alone = {name: twins.alone(run, part, digits.loss) for name, part in PARTS.items()}
    seconds = report.medians(
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


def picture(run: Run, rows: dict[str, dict[str, float]]):
    """The training curve, what is saved, what it costs in accuracy, the confusion matrix."""
    held_out = run.training.data.held_out
    drawn = plots.figure("MobileNetV1 on handwritten digits, beside its dense twin", 12, 9.5)
    upper, lower = plots.rows(drawn, 1, 1)
    curve, confusion = upper.subplots(1, 2)
    plots.training_curve(curve, run.training, run.history)
    predicted = run.outputs[:, 0].argmax(-1)
    plots.confusion(confusion, predicted, held_out["label"], digits.CLASSES)
    for axes, (unit, form) in zip(lower.subplots(2, 2).flat, UNITS.items(), strict=True):
        dense_first = list(reversed(rows))
        values = [rows[name][unit] for name in dense_first]
        plots.bars(axes, dense_first, values, unit, form)
    return drawn


RECIPE = Recipe(
    name="mobilenet",
    unit="images",
    data=digits.data,
    network=network,
    outputs=lambda network, batch: network(batch["image"]),
    loss=added(digits.loss),
    loss_label=LOSS_LABEL,
    score=of_first(Score("accuracy", digits.accuracy, "{:.1%}")),
    report=finish,
    batch_size=64,
    epochs=12,
    learning_rate=1e-2,
    short_epochs=1,
    augment=digits.augment,
)

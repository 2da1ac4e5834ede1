"""Scenes of handwritten digits, segmented: the context network, with and without its dilation."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from .. import nnx as layers
from .._src.analysis.cost import cost
from .._src.analysis.receptive_field import receptive_field
from ..models.context import DILATIONS, ContextNetwork
from . import digits, plots, report
from .recipe import Batch, Data, Recipe, Run, Score
from .twins import LOSS_LABEL, Twins, added, of_first

SIDE = 40  # pixels of a scene
DIGITS = 3  # of 28×28 pixels, in each
INK = 0.35  # brightness from which a pixel is labelled as its digit
CLASSES = 1 + digits.CLASSES  # 0 is the background
FEATURES = 24
NAMES, COLOURS = ("dilated", "undilated"), (plots.ACCENT, plots.FAINT)
UNITS = ("sees", "parameters", "multiply-adds", "mean IoU")
PICTURED = 8
SCENES = {"train": 2_000, "held_out": 200}


def data() -> Data:
    """Scenes composed of real digits; those of held-out scenes are held out themselves."""
    both = zip(digits.data(), SCENES.values(), range(2), strict=True)
    return Data(*(compose(part, count, seed) for part, count, seed in both))


def compose(part: Batch, count: int, seed: int) -> Batch:
    """``count`` scenes of random digits at random places; the brighter of two hides the other."""
    random = np.random.default_rng(seed)
    images, labels = part["image"][..., 0], part["label"]
    size = images.shape[1]
    scenes = np.zeros((count, SIDE, SIDE), np.float32)
    classes = np.zeros((count, SIDE, SIDE), np.int32)
    for scene, classed in zip(scenes, classes, strict=True):
        for digit in random.integers(len(images), size=DIGITS):
            top, left = random.integers(SIDE - size + 1, size=2)
            window = (slice(top, top + size), slice(left, left + size))
            ink = images[digit] > np.maximum(scene[window], INK)
            classed[window][ink] = 1 + labels[digit]
            scene[window] = np.maximum(scene[window], images[digit])
    return {"image": scenes[..., None], "class": classes}


class Segmentation(nnx.Module):
    """A 3×3 layer to features, the context network on them, a 1×1 layer to classes."""

    def __init__(self, dilations: tuple[int, ...], rngs: nnx.Rngs):
        self.stem = layers.Conv(1, FEATURES, (3, 3), rngs=rngs)
        self.context = ContextNetwork(FEATURES, dilations=dilations, rngs=rngs)
        self.classify = layers.PointwiseConv(FEATURES, CLASSES, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.classify(self.context(jax.nn.relu(self.stem(image))))


def loss(logits: jax.Array, batch: Batch) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["class"]).mean()


def intersections(predicted: jax.Array, true: jax.Array) -> jax.Array:
    """Each class's intersection over union, over all pixels of all scenes."""
    classes = jnp.arange(CLASSES)
    here, there = (pixels[..., None] == classes for pixels in (predicted, true))
    axes = tuple(range(true.ndim))
    return (here & there).sum(axes) / jnp.maximum((here | there).sum(axes), 1)


def mean_iou(logits: jax.Array, batch: Batch) -> jax.Array:
    return intersections(logits.argmax(-1), batch["class"]).mean()


def finish(run: Run) -> None:
    """Prints what either network sees, costs and reaches, and the kernels; draws the picture."""
    held_out = run.training.data.held_out
    network = cast(Twins, run.training.network)
    reached = np.array(
        [intersections(run.outputs[:, at].argmax(-1), held_out["class"]) for at in (0, 1)]
    )
    table = report.empty_table("The same layers with and without dilation", "", *UNITS)
    for name, each, part in zip(NAMES, reached, (network.network, network.twin), strict=True):
        image = held_out["image"][:1]
        spent = cost(part, image)
        (side, _) = receptive_field(part, jnp.zeros((1, 150, 150, 1))).size
        row = (f"{side}×{side} pixels", f"{spent.parameters:,}", f"{spent.macs:,}")
        table.add_row(name, *row, f"{each.mean():.1%}")
    run.console.print(report.kernels(run.training), "", table, "")
    gained = 100 * (reached[0].mean() - reached[1].mean())
    run.console.print(
        f"Dilation gained [bold]{gained:.1f} points[/bold] of mean IoU, at no multiply-add more"
    )
    plots.save(picture(run, reached), run.folder / "context.png")


def picture(run: Run, reached: np.ndarray):
    """The training curve, the classes' scores, and some scenes as both networks label them."""
    drawn = plots.figure("Scenes of handwritten digits, segmented", 12, 11)
    upper, lower = plots.rows(drawn, 1, 1.9)
    curve, scores = upper.subplots(1, 2)
    plots.training_curve(curve, run.training, run.history)
    names = ["–", *map(str, range(digits.CLASSES))]
    for name, each, colour, side in zip(NAMES, reached, COLOURS, (-0.2, 0.2), strict=True):
        label = f"{name}, mean {each.mean():.1%}"
        scores.bar(np.arange(CLASSES) + side, each, width=0.4, color=colour, label=label)
    scores.set_xticks(range(CLASSES), names)
    scores.set(ylim=(0, 1.25), yticks=(0, 0.5, 1), xlabel="background, and each digit")
    scores.spines[["top", "right"]].set_visible(False)
    scores.legend(frameon=False, loc="upper right")
    plots.caption(scores, "Intersection over union, held out")
    _scenes(lower, run.training.data.held_out, run.outputs.argmax(-1))
    return drawn


def _scenes(part, held_out: Batch, predicted: np.ndarray) -> None:
    """Some scenes, what each pixel is, and what both networks take it for; a colour a digit."""
    from matplotlib.patches import Patch

    filled = np.flatnonzero(held_out["image"][:PICTURED].any((0, 3)).any(0))
    window = (slice(None), *(slice(filled[0], filled[-1] + 1),) * 2)
    columns = (held_out["image"][..., 0], held_out["class"], predicted[:, 0], predicted[:, 1])
    panels = part.subplots(len(columns), PICTURED)
    for row, (each, title) in enumerate(zip(columns, ("scene", "true", *NAMES), strict=True)):
        for axes, scene in zip(panels[row], each[window], strict=False):
            style = {"cmap": "gray_r"} if row == 0 else {"cmap": palette(), "vmin": 0, "vmax": 10}
            axes.imshow(scene, interpolation="nearest", **style)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(plots.FAINT)
        panels[row, 0].set_ylabel(title, color=plots.INK, fontsize=11)
    names = [Patch(color=palette()(1 + digit), label=str(digit)) for digit in range(digits.CLASSES)]
    part.legend(handles=names, ncols=digits.CLASSES, loc="outside lower center", frameon=False)


def palette():
    """White for the background, and matplotlib's ten colours for the digits."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(np.vstack([np.ones(4), colormaps["tab10"](range(digits.CLASSES))]))


def network(rngs: nnx.Rngs) -> Twins:
    """The same network with the paper's dilations and with none."""
    return Twins(Segmentation(DILATIONS, rngs), Segmentation((1,) * len(DILATIONS), rngs))


RECIPE = Recipe(
    name="context",
    unit="scenes",
    data=data,
    network=network,
    outputs=lambda network, batch: network(batch["image"]),
    loss=added(loss),
    loss_label=LOSS_LABEL,
    score=of_first(Score("mean IoU", mean_iou, "{:.1%}")),
    report=finish,
    batch_size=8,
    epochs=12,
    learning_rate=6e-3,
    short_epochs=1,
)

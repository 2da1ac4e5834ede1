"""Segmenting scenes of handwritten digits by the context network, with and without dilation."""

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
from . import digits, plots, tables
from .recipe import Batch, Data, Recipe, Score
from .run import Run
from .twins import LOSS_LABEL, Twins, of_first, summed

SIDE = 40  # pixels of a scene
DIGITS = 3  # in each scene, of 28×28 pixels
INK = 0.35  # minimum brightness of a pixel that is labeled as its digit
CLASSES = 1 + digits.CLASSES  # 0 is the background
FEATURES = 24
NAMES, COLORS = ("dilated", "undilated"), (plots.ACCENT, plots.FAINT)
COLUMNS = ("receptive field", "parameters", "multiply-adds", "mean IoU")
SCENES_SHOWN = 8
SCENES = {"train": 2_000, "held_out": 200}


def data() -> Data:
    """Scenes composed of real digits; held-out scenes consist of held-out digits."""
    parts = zip(digits.data(), SCENES.values(), range(2), strict=True)
    return Data(*(compose(part, count, seed) for part, count, seed in parts))


def compose(part: Batch, count: int, seed: int) -> Batch:
    """``count`` scenes of random digits at random positions; the brighter of two pixels wins."""
    random = np.random.default_rng(seed)
    images, labels = part["image"][..., 0], part["label"]
    size = images.shape[1]
    scenes = np.zeros((count, SIDE, SIDE), np.float32)
    classes = np.zeros((count, SIDE, SIDE), np.int32)
    for scene, labeled in zip(scenes, classes, strict=True):
        for digit in random.integers(len(images), size=DIGITS):
            top, left = random.integers(SIDE - size + 1, size=2)
            window = (slice(top, top + size), slice(left, left + size))
            ink = images[digit] > np.maximum(scene[window], INK)
            labeled[window][ink] = 1 + labels[digit]
            scene[window] = np.maximum(scene[window], images[digit])
    return {"image": scenes[..., None], "class": classes}


class Segmentation(nnx.Module):
    """A 3×3 convolution to features, the context network, and a 1×1 convolution to classes."""

    def __init__(self, dilations: tuple[int, ...], rngs: nnx.Rngs):
        self.stem = layers.Conv(1, FEATURES, (3, 3), rngs=rngs)
        self.context = ContextNetwork(FEATURES, dilations=dilations, rngs=rngs)
        self.classify = layers.PointwiseConv(FEATURES, CLASSES, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.classify(self.context(jax.nn.relu(self.stem(image))))


def loss(logits: jax.Array, batch: Batch) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["class"]).mean()


def intersections(predicted: jax.Array, true: jax.Array) -> jax.Array:
    """The intersection over union of each class, over all pixels of all scenes."""
    classes = jnp.arange(CLASSES)
    predicted_as, is_class = (pixels[..., None] == classes for pixels in (predicted, true))
    axes = tuple(range(true.ndim))
    union = (predicted_as | is_class).sum(axes)
    return (predicted_as & is_class).sum(axes) / jnp.maximum(union, 1)


def mean_iou(logits: jax.Array, batch: Batch) -> jax.Array:
    return intersections(logits.argmax(-1), batch["class"]).mean()


def report(run: Run) -> None:
    """Prints the receptive field, cost and score of both networks, and saves the figure."""
    held_out = run.training.data.held_out
    network = cast(Twins, run.training.network)
    scores = np.array(
        [intersections(run.outputs[:, at].argmax(-1), held_out["class"]) for at in (0, 1)]
    )
    table = tables.empty_table("The same layers with and without dilation", "", *COLUMNS)
    for name, score, part in zip(NAMES, scores, (network.network, network.twin), strict=True):
        image = held_out["image"][:1]
        total = cost(part, image)
        (side, _) = receptive_field(part, jnp.zeros((1, 150, 150, 1))).size
        row = (f"{side}×{side} pixels", f"{total.parameters:,}", f"{total.macs:,}")
        table.add_row(name, *row, f"{score.mean():.1%}")
    run.console.print(tables.implementations(run.training), "", table, "")
    gain = 100 * (scores[0].mean() - scores[1].mean())
    run.console.print(
        f"Dilation changes mean IoU by [bold]{gain:+.1f} points[/bold] at the same number of "
        "multiply-adds"
    )
    plots.save(figure(run, scores), run.folder / "context.png")


def figure(run: Run, scores: np.ndarray):
    """The training curve, the classes' scores, and some scenes as both networks label them."""
    drawn = plots.figure("Scenes of handwritten digits, segmented", 12, 11)
    upper, lower = plots.rows(drawn, 1, 1.9)
    curve, bars = upper.subplots(1, 2)
    plots.training_curve(curve, run.training, run.history)
    names = ["–", *map(str, range(digits.CLASSES))]
    for name, score, color, side in zip(NAMES, scores, COLORS, (-0.2, 0.2), strict=True):
        label = f"{name}, mean {score.mean():.1%}"
        bars.bar(np.arange(CLASSES) + side, score, width=0.4, color=color, label=label)
    bars.set_xticks(range(CLASSES), names)
    bars.set(ylim=(0, 1.25), yticks=(0, 0.5, 1), xlabel="background and digits")
    bars.spines[["top", "right"]].set_visible(False)
    bars.legend(frameon=False, loc="upper right")
    plots.caption(bars, "Intersection over union, held-out scenes")
    _scenes(lower, run.training.data.held_out, run.outputs.argmax(-1))
    return drawn


def _scenes(part, held_out: Batch, predicted: np.ndarray) -> None:
    """Some scenes, the true class of each pixel and both networks' predictions, by color."""
    from matplotlib.patches import Patch

    filled = np.flatnonzero(held_out["image"][:SCENES_SHOWN].any((0, 3)).any(0))
    window = (slice(None), *(slice(filled[0], filled[-1] + 1),) * 2)
    rows = (held_out["image"][..., 0], held_out["class"], predicted[:, 0], predicted[:, 1])
    panels = part.subplots(len(rows), SCENES_SHOWN)
    for row, (each, title) in enumerate(zip(rows, ("scene", "true", *NAMES), strict=True)):
        for axes, scene in zip(panels[row], each[window], strict=False):
            style = {"cmap": "gray_r"} if row == 0 else {"cmap": palette(), "vmin": 0, "vmax": 10}
            axes.imshow(scene, interpolation="nearest", **style)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(plots.FAINT)
        panels[row, 0].set_ylabel(title, color=plots.INK, fontsize=11)
    names = [Patch(color=palette()(1 + digit), label=str(digit)) for digit in range(digits.CLASSES)]
    part.legend(handles=names, ncols=digits.CLASSES, loc="outside lower center", frameon=False)


def palette():
    """White for the background, and matplotlib's ten colors for the digits."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(np.vstack([np.ones(4), colormaps["tab10"](range(digits.CLASSES))]))


def network(rngs: nnx.Rngs) -> Twins:
    """The same network with the paper's dilations and without dilation."""
    return Twins(Segmentation(DILATIONS, rngs), Segmentation((1,) * len(DILATIONS), rngs))


RECIPE = Recipe(
    name="context",
    unit="scenes",
    data=data,
    network=network,
    outputs=lambda network, batch: network(batch["image"]),
    loss=summed(loss),
    loss_label=LOSS_LABEL,
    score=of_first(Score("mean IoU", mean_iou, "{:.1%}")),
    batch_size=8,
    epochs=12,
    learning_rate=6e-3,
    short_epochs=1,
)

"""Pictures of a run, drawn as those of ``jaxconv.viz`` are, but on white."""

from __future__ import annotations

import numpy as np

from ..viz import canvas
from ..viz.canvas import FAINT, INK
from ..viz.files import save as save
from .training import History, Training

ACCENT = canvas.CHANNELS[0]


def figure(title: str, width: float, height: float):
    """An empty figure with a title."""
    return canvas.figure(title, width, height, background="white")


def caption(axes, text: str) -> None:
    """The title of one part of a figure."""
    canvas.caption(axes, text, align="left")


def rows(drawn, *heights: float) -> list:
    """Parts of a figure one below the other, of these relative heights."""
    return list(np.ravel(drawn.subfigures(len(heights), 1, height_ratios=heights)))


def training_curve(axes, training: Training, history: History) -> None:
    """Training and held-out loss by epoch; the title gives the held-out score."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    epochs = np.arange(1, len(history.held_out_loss) + 1)
    steps = np.arange(1, history.step + 1) / training.batches
    axes.plot(steps, history.loss, color=FAINT, alpha=0.35, linewidth=0.8)
    axes.plot(
        *_smooth(steps, history.loss, training.batches // 4), color=INK, label="training loss"
    )
    axes.plot(epochs, history.held_out_loss, "o-", color=ACCENT, ms=3, label="held-out loss")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, training.epochs)
    axes.legend(frameon=False, loc="upper right")
    score = training.recipe.score
    caption(axes, f"Training: held-out {score.name} {score.text(history.held_out_score[-1])}")
    axes.set(xlabel="epoch", ylabel=training.recipe.loss_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)


def confusion(axes, predicted: np.ndarray, label: np.ndarray, classes: int) -> None:
    """The confusion matrix, as counts; the diagonal holds the correct predictions."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (label, predicted), 1)
    axes.imshow(counts, cmap="Blues")
    for row, column in zip(*np.nonzero(counts), strict=True):
        correct = row == column
        axes.text(
            column,
            row,
            counts[row, column],
            ha="center",
            va="center",
            color="white" if correct else ACCENT,
            fontweight="normal" if correct else "bold",
        )
    axes.set(xticks=range(classes), yticks=range(classes), xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    caption(axes, f"Confusion matrix: {np.trace(counts):,} of {counts.sum():,} correct")


def filters(axes, kernel: np.ndarray, title: str, columns: int) -> None:
    """The spatial filters of ``kernel [*K, 1, F]``, each scaled by its largest magnitude."""
    each = np.moveaxis(kernel[:, :, 0], -1, 0)
    each = each / np.abs(each).max(axis=(1, 2), keepdims=True)
    axes.imshow(_mosaic(each, columns), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_axis_off()
    caption(axes, title)


def examples(axes, images: np.ndarray, captions: list[str], title: str, columns: int) -> None:
    """A grid of images ``[N, H, W]``, each with a caption."""
    axes.set_axis_off()
    caption(axes, title)
    if not len(images):
        return
    room = images.shape[1] // 4
    images = np.pad(images, ((0, 0), (room, 0), (0, 0)))
    height, width = (extent + 1 for extent in images.shape[1:])
    axes.imshow(_mosaic(images, columns), cmap="gray_r")
    for index, text in enumerate(captions):
        row, column = divmod(index, columns)
        where = ((column + 0.5) * width, row * height + room / 2)
        axes.text(*where, text, color=ACCENT, fontsize=9, ha="center", va="center")


def bars(axes, names: list[str], values: list[float], title: str, format: str) -> None:
    """A labeled horizontal bar per name, the last one accented."""
    colors = [FAINT] * (len(names) - 1) + [ACCENT]
    drawn = axes.barh(names, values, color=colors, height=0.6)
    axes.bar_label(drawn, [format.format(value) for value in values], padding=4, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(values))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    caption(axes, title)


def _mosaic(images: np.ndarray, columns: int) -> np.ndarray:
    """Images ``[N, H, W]`` in rows of ``columns``, one pixel apart."""
    rows = -(-len(images) // columns)
    height, width = (extent + 1 for extent in images.shape[1:])
    canvas = np.full((rows * height - 1, columns * width - 1), np.nan)
    for index, image in enumerate(images):
        top, left = height * (index // columns), width * (index % columns)
        canvas[top : top + height - 1, left : left + width - 1] = image
    return canvas


def _smooth(x: np.ndarray, y: list[float], window: int) -> tuple[np.ndarray, np.ndarray]:
    window = max(1, min(window, len(y)))
    return x[window - 1 :], np.convolve(y, np.ones(window) / window, mode="valid")

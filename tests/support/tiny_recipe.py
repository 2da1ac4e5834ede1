"""A recipe that is small enough to train many times, on sequences rather than images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxconv.nnx import Conv
from jaxconv.train.recipe import Data, Recipe, Score


class TinyNetwork(nnx.Module):
    def __init__(self, rngs, features=3):
        self.conv = Conv(2, features, (3,), rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.dense = nnx.Linear(features, 1, rngs=rngs)

    def __call__(self, x):
        return self.dense(jax.nn.relu(self.norm(self.conv(x))).mean(1))[:, 0]


def data():
    random = np.random.default_rng(0)
    parts = []
    for count in (22, 7):
        x = random.normal(size=(count, 5, 2)).astype(np.float32)
        parts.append({"x": x, "y": x[:, :, 0].sum(1)})
    return Data(*parts)


def squared_error(outputs, batch):
    return jnp.mean((outputs - batch["y"]) ** 2)


TINY = Recipe(
    name="tiny",
    unit="sequences",
    data=data,
    network=TinyNetwork,
    outputs=lambda network, batch: network(batch["x"]),
    loss=squared_error,
    score=Score("error", squared_error, "{:.3f}"),
    batch_size=4,
    epochs=3,
    learning_rate=1e-2,
    short_epochs=1,
    augment=lambda key, batch: {**batch, "x": batch["x"] + 0.1 * jax.random.normal(key, (4, 5, 2))},
)

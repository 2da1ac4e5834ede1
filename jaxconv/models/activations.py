"""Activations of ``jax.nn`` as plain functions: networks that hold jax's own cannot be pickled."""

from __future__ import annotations

import jax

Array = jax.Array


def relu(x: Array) -> Array:
    return jax.nn.relu(x)


def relu6(x: Array) -> Array:
    return jax.nn.relu6(x)


def silu(x: Array) -> Array:
    return jax.nn.silu(x)


def sigmoid(x: Array) -> Array:
    return jax.nn.sigmoid(x)


def hard_swish(x: Array) -> Array:
    return jax.nn.hard_swish(x)


def hard_sigmoid(x: Array) -> Array:
    return jax.nn.hard_sigmoid(x)

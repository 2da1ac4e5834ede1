"""Causal convolution of packed sequences as NumPy loops in float64, one product at a time."""

from __future__ import annotations

import itertools

import numpy as np

from support.oracle import exact


def causal(x, kernel, *, strides=1, dilation=1, groups=1, ids=None, state=None) -> np.ndarray:
    """``ids [N, P+L]`` are those of the state's steps, if there is a state, and of ``x``."""
    x, kernel = exact(x), exact(kernel)
    past = np.zeros((x.shape[0], 0, x.shape[2])) if state is None else exact(state)
    steps, before = np.concatenate([past, x], axis=1), past.shape[1]
    taps, group_in, features = kernel.shape
    starts = range(0, x.shape[1], strides)
    y = np.zeros((x.shape[0], len(starts), features), np.result_type(x, kernel))
    visits = itertools.product(range(x.shape[0]), enumerate(starts), range(taps))
    for n, (i, start), tap in visits:
        present = before + start
        read = present - dilation * (taps - 1 - tap)
        if read < 0 or (ids is not None and ids[n, read] != ids[n, present]):
            continue
        for f, c in itertools.product(range(features), range(group_in)):
            channel = f // (features // groups) * group_in + c
            y[n, i, f] += steps[n, read, channel] * kernel[tap, c, f]
    return y

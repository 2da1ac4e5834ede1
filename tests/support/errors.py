"""Arrays for invalid calls, and the assertion that the library itself raises their error."""

import pathlib
import traceback

import numpy as np
import pytest

import jaxconv

PACKAGE = pathlib.Path(jaxconv.__file__).parent


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


X = ones(2, 7, 5, 6)  # [N, H, W, C]
K = ones(3, 2, 2, 9)  # [KH, KW, C/G, F] of 3 groups
G3 = {"groups": 3}
LINE, TAPS = ones(2, 7, 6), ones(3, 6, 4)


def assert_raises(call, error, *parts):
    """``call`` raises ``error`` from inside the package, with all ``parts`` in its message."""
    with pytest.raises(error) as raised:
        call()
    assert raised.type is error
    frames = traceback.extract_tb(raised.value.__traceback__)
    assert PACKAGE in pathlib.Path(frames[-1].filename).parents, frames[-1]
    missing = [part for part in parts if part not in str(raised.value)]
    assert not missing, (missing, str(raised.value))

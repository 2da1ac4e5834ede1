"""Marks that several test modules share."""

import pytest

from jaxconv._src.kernels.cpu import library

needs_engine = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason="the CPU engine is not built"
)

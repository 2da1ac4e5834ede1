"""Invalid calls of the engine's handlers raise an error and never crash."""

from __future__ import annotations

import pytest

from jaxconv._src.kernels.cpu import library
from support.engine import run_python

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason="the CPU engine is not built"
)


def test_random_mistakes_raise_errors():
    """Shapes, ranks, dtypes, numbers of arrays, and missing, mistyped or extreme attributes."""
    assert "150 calls" in run_python("from support import engine_fuzz; engine_fuzz.main(0, 150)")

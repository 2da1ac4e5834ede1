"""Invalid calls of the engine's handlers raise an error and never crash."""

from __future__ import annotations

from support.engine import run_python
from support.marks import needs_engine

pytestmark = needs_engine


def test_random_mistakes_raise_errors():
    """Shapes, ranks, dtypes, numbers of arrays, and missing, mistyped or extreme attributes."""
    assert "150 calls" in run_python("from support import engine_fuzz; engine_fuzz.main(0, 150)")

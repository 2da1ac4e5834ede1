"""Invalid calls of the engine's handlers raise an error and never crash."""

from __future__ import annotations

import pytest

from support.engine import run_python
from support.marks import needs_engine

pytestmark = needs_engine


@pytest.mark.parametrize("calls", [30, pytest.param(150, marks=pytest.mark.slow)])
def test_random_mistakes_raise_errors(calls):
    """Shapes, ranks, dtypes, numbers of arrays, and missing, mistyped or extreme attributes."""
    code = f"from support import engine_fuzz; engine_fuzz.main(0, {calls})"
    assert f"{calls} calls" in run_python(code)

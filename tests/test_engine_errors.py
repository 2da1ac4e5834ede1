"""Calls that the engine's handlers do not know end in a sentence, never in a crash."""

from __future__ import annotations

import pytest
from test_native import native, run_python

pytestmark = pytest.mark.skipif(
    isinstance(native._library(), str), reason="the CPU engine is not built"
)


@pytest.mark.parametrize("seed", range(2))
def test_random_mistakes_are_refused_in_words(seed):
    """Shapes, ranks, dtypes, numbers of arrays, and attributes missing, mistyped or extreme."""
    assert "240 calls" in run_python(f"import engine_fuzz; engine_fuzz.main({seed}, 240)")

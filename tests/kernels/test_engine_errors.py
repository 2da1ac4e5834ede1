"""Calls that the engine's handlers do not know end in a sentence, never in a crash."""

from __future__ import annotations

import pytest

from jaxconv._src.kernels.cpu import native
from support.engine import run_python

pytestmark = pytest.mark.skipif(
    isinstance(native._library(), str), reason="the CPU engine is not built"
)


def test_random_mistakes_are_refused_in_words():
    """Shapes, ranks, dtypes, numbers of arrays, and attributes missing, mistyped or extreme."""
    assert "150 calls" in run_python("from support import engine_fuzz; engine_fuzz.main(0, 150)")

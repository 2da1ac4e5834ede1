"""Fixtures of the tests of the CPU engine."""

import pytest

from support.engine import ISAS, instruction_sets, using_instruction_set


@pytest.fixture(params=ISAS)
def instruction_set(request):
    """Every instruction set of the engine, in turn."""
    if request.param not in instruction_sets():
        pytest.skip(f"this machine does not support {request.param}")
    with using_instruction_set(request.param):
        yield request.param

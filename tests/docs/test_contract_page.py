"""Every test that the page of the contract names exists."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def test_the_tests_of_the_contract_exist():
    page = (ROOT / "docs/design/contract.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 30
    assert len(named) == page.count("::")
    for path, test in named:
        assert f"def {test}(" in (ROOT / "tests" / path).read_text(), (path, test)

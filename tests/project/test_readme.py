"""The README is true: its code runs, and its commands are the ones that the project has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import jaxconv

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    (python3 .*)$", README, re.MULTILINE)


def test_the_readme_has_code():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_of_the_readme_runs(block):
    try:
        exec(block, {})
    finally:
        jaxconv.uninstall()


def test_the_readme_has_exactly_two_set_up_commands():
    assert len(COMMANDS) == 2
    demo, tests = COMMANDS
    assert '".[demo]"' in demo
    assert demo.endswith("-m jaxconv.train digits")
    assert '".[test]"' in tests
    assert tests.endswith("pytest")


def test_every_public_name_stands_in_the_readme():
    results = {"Cost", "Explanation", "ReceptiveField", "Summary", "Tuning"}
    classes = {"ConvSpec", "Operator", *results}
    modules = {"batching", "lowering"}
    public = {name for name in dir(jaxconv) if not name.startswith("_")}
    functions = {name for name in public if callable(getattr(jaxconv, name))} - classes - modules
    missing = {name for name in functions if f"`{name}`" not in README}
    assert not missing

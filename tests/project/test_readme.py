"""The README has the project's commands and every public name."""

from __future__ import annotations

import re
from pathlib import Path

import jaxconv

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS = re.findall(r"^    (python3 .*)$", README, re.MULTILINE)


def test_the_readme_has_exactly_two_set_up_commands():
    assert len(COMMANDS) == 2
    demo, tests = COMMANDS
    assert '".[demo]"' in demo
    assert demo.endswith("-m jaxconv.train digits")
    assert '".[test]"' in tests
    assert tests.endswith("pytest")


def test_every_public_name_stands_in_the_readme():
    classes = {name for name in jaxconv.__all__ if isinstance(getattr(jaxconv, name), type)}
    missing = {name for name in set(jaxconv.__all__) - classes if f"`{name}`" not in README}
    assert not missing

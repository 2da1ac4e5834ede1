"""Docstrings and signatures as they are written: equations set apart, types by their names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from sphinx.util.inspect import stringify_signature

SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes):$")
# autodoc runs this before napoleon, whose priority is 500.
BEFORE_NAPOLEON = 400


def literal_equations(lines: list[str]) -> list[str]:
    """Indented paragraphs outside of sections become code blocks; they are equations."""
    result: list[str] = []
    in_section = in_block = False
    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            in_section, in_block = bool(SECTION.match(line)), False
        elif indented and not in_section and not in_block and not (result and result[-1]):
            result += [".. code-block:: text", ""]
            in_block = True
        result.append(line)
    return result


def process_docstring(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = literal_equations(lines)


class Written:
    """A default value as a reader would write it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def written_default(value: Any) -> Any:
    """Functions and classes by their names, ``{}`` for an empty mapping; others as they are."""
    if isinstance(value, Mapping) and not value:
        return Written("{}")
    name = getattr(value, "__qualname__", None)
    if name is None or value is inspect.Parameter.empty:
        return value
    if "<locals>" in name:  # what another function made, such as an initializer
        return Written(f"{name.partition('.')[0]}(…)")
    module = "jnp." if value.__module__ == "jax.numpy" else ""
    return Written(f"{module}{name}")


def signature_of(obj: Any) -> str | None:
    """``(x: ArrayLike, …)`` with annotations as in the source, or None if there is no signature."""
    try:
        signature = inspect.signature(obj)
        if [*signature.parameters] == ["args", "kwargs"]:  # that of Flax's metaclass
            _, *rest = inspect.signature(obj.__init__).parameters.values()
            signature = inspect.Signature(rest)
    except (TypeError, ValueError):
        return None
    parameters = [
        parameter.replace(default=written_default(parameter.default))
        for parameter in signature.parameters.values()
        if parameter.name != "parent"  # linen's own, which users never pass
    ]
    written = signature.replace(parameters=parameters)
    return stringify_signature(written, unqualified_typehints=True)


def process_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str, None] | None:
    """Without this, autodoc would write out every alias: eight lines for a padding."""
    if what not in ("function", "class") or signature is None:
        return None
    written = signature_of(obj)
    if written is None:
        return None
    written = re.sub(r" -> None$", "", written) if what == "class" else written
    return written, None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process_docstring, priority=BEFORE_NAPOLEON)
    app.connect("autodoc-process-signature", process_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

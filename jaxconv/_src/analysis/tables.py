"""Tables as plain text, HTML and Markdown, and the results that print as tables."""

from __future__ import annotations

import abc
import html
import re
from collections.abc import Sequence
from typing import NamedTuple

Rows = Sequence[Sequence[object]]


class Table(NamedTuple):
    """A header, and rows with a cell for each of its columns."""

    header: Sequence[str]
    rows: Rows


class Tabled(abc.ABC):
    """A result that prints as a table, also at the Python prompt and, as HTML, in notebooks."""

    @abc.abstractmethod
    def parts(self) -> Sequence[Table | str]:
        """Tables, and lines of text between them."""

    def __repr__(self) -> str:
        return "\n\n".join(
            part if isinstance(part, str) else format_table(*part) for part in self.parts()
        )

    def _repr_html_(self) -> str:
        return "".join(
            f"<p>{html.escape(part)}</p>" if isinstance(part, str) else format_html(*part)
            for part in self.parts()
        )


def format_table(header: Sequence[str], rows: Rows) -> str:
    """Plain text, with numbers aligned on the right and thousands separated.

    >>> print(format_table(("name", "MACs"), [("a", 1234), ("bc", 5)]))
    name   MACs
    a     1,234
    bc        5
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [all(map(_is_number, column)) for column in zip(*cells, strict=True)]
    right = right or [False] * len(header)
    lines = []
    for row in (header, *cells):
        aligned = [
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def format_html(header: Sequence[str], rows: Rows) -> str:
    """The same as an HTML table.

    >>> format_html(("name", "MACs"), [("<a>", 1234)])
    '<table><thead><tr><th>name</th><th>MACs</th>...<td>&lt;a&gt;</td><td ...>1,234</td>...'
    """

    def line(cells: Sequence[object], tag: str) -> str:
        return f"<tr>{''.join(_html(cell, tag) for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"


def format_markdown(header: Sequence[str], rows: Rows) -> str:
    """The same as a Markdown table.

    >>> print(format_markdown(("name", "MACs"), [("a|b", 1234)]))
    | name | MACs |
    | --- | --- |
    | a\\|b | 1,234 |
    """
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join(f"| {' | '.join(map(_markdown, line))} |" for line in lines)


def _markdown(cell: object) -> str:
    return _text(cell).replace("|", "\\|")


def _html(cell: object, tag: str) -> str:
    align = ' style="text-align: right"' if _text(cell) and _is_number(_text(cell)) else ""
    return f"<{tag}{align}>{html.escape(_text(cell))}</{tag}>"


def _is_number(text: str) -> bool:
    """An empty cell counts, so that a column of numbers may have gaps."""
    return re.fullmatch(r"(-?\d[\d,.]*(/\d+)?)?", text) is not None


def _text(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def format_shape(shape: Sequence[object], times: str = "x") -> str:
    """The extents with ``times`` between them.

    >>> format_shape((8, 56, 56, 128))
    '8x56x56x128'
    """
    return times.join(map(str, shape))

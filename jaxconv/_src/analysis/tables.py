"""Tables for what the analysis functions print: plain text, and HTML for notebooks."""

from __future__ import annotations

import abc
import html
from collections.abc import Sequence

Rows = Sequence[Sequence[object]]


class Tabled(abc.ABC):
    """What prints as a table, in notebooks as HTML."""

    @abc.abstractmethod
    def table(self) -> tuple[Sequence[str], Rows]:
        """The header and the rows."""

    def __str__(self) -> str:
        return format_table(*self.table())

    def _repr_html_(self) -> str:
        return format_html(*self.table())


def format_table(header: Sequence[str], rows: Rows) -> str:
    """Columns as wide as their widest cell; numbers flush right, with thousands separated.

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
    """Digits, thousands and decimals; or nothing, in a column of numbers."""
    return not text.strip("0123456789,.")


def _text(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def format_shape(shape: Sequence[int]) -> str:
    """``8x56x56x128``"""
    return "x".join(map(str, shape))

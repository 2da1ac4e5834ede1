"""Plain-text tables for what the analysis functions print."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; numbers flush right, with thousands separated.

    >>> print(format_table(("name", "MACs"), [("a", 1234), ("bc", 5)]))
    name   MACs
    a     1,234
    bc        5
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(header))
    ]
    lines = []
    for row in (header, *cells):
        aligned = [
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def _text(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def format_shape(shape: Sequence[int]) -> str:
    """``8x56x56x128``"""
    return "x".join(map(str, shape))

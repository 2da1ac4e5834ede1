"""Cells of the scripts' tables; ``format_markdown`` puts them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.common.timing import geometric_mean


def number(value: float | None) -> str:
    """Three significant digits, whole numbers in full; empty if there is no value.

    >>> number(0.08), number(16611.2), number(None)
    ('0.0800', '16,611', '')
    """
    if value is None:
        return ""
    return f"{value:#.3g}".removesuffix(".") if value < 999.5 else f"{value:,.0f}"


def percent(share: float) -> str:
    return f"{share:.0%}"


def mean_and_minimum(values: list[float], cell: Callable[[float], str] = number) -> str:
    """The geometric mean, and the minimum in parentheses.

    >>> mean_and_minimum([2.0, 8.0])
    '4.00 (2.00)'
    """
    return f"{cell(geometric_mean(values))} ({cell(min(values))})" if values else ""


def groups(rows: Iterable[dict[str, Any]], *keys: str) -> dict[tuple[str, ...], list]:
    """The rows by their values of ``keys``, in order of appearance."""
    found: dict[tuple[str, ...], list] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found

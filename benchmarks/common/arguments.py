"""Command-line options that several scripts share. Imports nothing that loads jax."""

from __future__ import annotations

import argparse
from pathlib import Path

OPERATORS = ("conv", "input_grad", "filter_grad")


def parser(documentation: str | None) -> argparse.ArgumentParser:
    """A parser that is described by the first line of the script's documentation."""
    return argparse.ArgumentParser(description=(documentation or "").splitlines()[0])


def add_only(parser: argparse.ArgumentParser, what: str = "workloads") -> None:
    parser.add_argument("--only", default="", help=f"{what} whose name contains this")


def add_operators(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--operators", nargs="+", default=OPERATORS, choices=OPERATORS, help="default: all three"
    )


def add_seconds(parser: argparse.ArgumentParser, default: float, what: str) -> None:
    parser.add_argument("--seconds", type=float, default=default, help=f"time spent on each {what}")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="also write the results to this file")

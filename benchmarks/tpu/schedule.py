"""Reads the schedule that the TPU compiler writes of a kernel: how many bundles run, doing what.

A bundle is one instruction word of a TPU core, issued in one cycle where nothing stalls. The
compiler writes one line for each, marked with the depth of the loop that it is in. Loops here run a
constant number of times, which stands at their exit test; so the bundles of a whole kernel can be
counted, and so can the slots that they fill. Time spent waiting for copies is not in these counts.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

_BUNDLE = re.compile(r"^\s*(0x[0-9a-f]+|0)\s+(LH|LB|LE|PB|PF|CT)?\s*:\s*>*\s*\{")
_COMPARED = r"%(\w+) = scmp\.{}\.s32\.totalorder (?:\(!?%\w+\), )?%\w+, (\d+)\b"
_TRIPS = re.compile(_COMPARED.format("ge"))
_TESTED = re.compile(_COMPARED.format("ne"))
_BRANCH = re.compile(r"sbr\.rel \(!?%(\w+)\) target = \$region(\d+)")
_STARTS = re.compile(r"Start(?:/End empty)? region (\d+)")
_DELAY = 4  # bundles after a branch that run in any case


@dataclasses.dataclass(frozen=True)
class Schedule:
    """``bundles`` is the number that run; ``slots`` how many operations of each kind they hold."""

    bundles: float
    slots: dict[str, float]
    capacity: dict[str, int]
    spills: int

    def occupancy(self, slot: str) -> float:
        return self.slots[slot] / (self.capacity[slot] * self.bundles)


@dataclasses.dataclass
class _Line:
    label: str | None
    text: str
    weight: float = 1.0


def read(
    directory: Path, kernel: str, grid_steps: int, shares: list[tuple[int, float]], cores: int = 1
) -> Schedule:
    """The schedule of the kernel whose name starts with ``kernel``: what all cores run that share
    the grid, if any do.

    ``shares`` lists the bodies that run where a sum of grid indices equals a number, in the order
    of the program: the number, and the share of grid steps in which it is so; shares of 1 left out.
    """
    lines = _lines(_one(directory, kernel, "*-final_bundles.txt", ("schedule", "static")))
    _weigh(lines, grid_steps, shares, cores)
    capacity, used = _utilization(
        _one(directory, kernel, "*-final_hlo-static-per-bundle-utilization.txt", ())
    )
    if len(used) != len(lines):
        raise ValueError(f"{kernel}: {len(lines)} bundles, but {len(used)} lines of utilization")
    slots = {
        name: sum(line.weight * row[i] for line, row in zip(lines, used, strict=True))
        for i, name in enumerate(capacity)
    }
    spills = [i for i, name in enumerate(capacity) if name in ("VLOAD:FILL", "VSTORE:SPILL")]
    return Schedule(
        bundles=sum(line.weight for line in lines),
        slots=slots,
        capacity=capacity,
        spills=sum(row[i] for row in used for i in spills),
    )


def _one(directory: Path, kernel: str, pattern: str, without: tuple[str, ...]) -> str:
    found = [
        path
        for path in directory.glob(pattern)
        if re.search(rf"-{kernel}[.\d]*-\d+-", path.name)
        and not any(word in path.name for word in without)
    ]
    if len(found) != 1:
        raise ValueError(f"{kernel}: {len(found)} files {pattern} in {directory}")
    return found[0].read_text()


def _lines(text: str) -> list[_Line]:
    """One entry a bundle; other lines continue the comment of the one before."""
    lines: list[_Line] = []
    for row in text.splitlines():
        match = _BUNDLE.match(row)
        if match:
            lines.append(_Line(match.group(2), row))
        elif lines:
            lines[-1].text += row
    return lines


def _weigh(
    lines: list[_Line], grid_steps: int, shares: list[tuple[int, float]], cores: int
) -> None:
    """How often each bundle runs: a branch back repeats what lies between, one ahead skips it."""
    starts: dict[str, int] = {}
    for i, line in enumerate(lines):
        for region in _STARTS.findall(line.text):
            starts.setdefault(region, i)
    text = "\n".join(line.text for line in lines)
    trips = dict(_TRIPS.findall(text))
    tests = dict(_TESTED.findall(text))
    # The loop over the grid runs one prologue and one epilogue more.
    grids = (grid_steps + 2, grid_steps // cores + 2, -(-grid_steps // cores) + 2)
    tested: list[tuple[int, range]] = []
    loops: list[tuple[int, range]] = []
    for i, line in enumerate(lines):
        for predicate, region in _BRANCH.findall(line.text):
            to = starts.get(region, len(lines))  # what follows the last bundle has no start
            if to <= i:
                if predicate not in trips:
                    raise ValueError(f"a loop that is not counted: {line.text[:80]!r}")
                loops.append((int(trips[predicate]), range(to, i + 1 + _DELAY)))
            elif predicate in tests:
                tested.append((int(tests[predicate]), range(i + 1 + _DELAY, to)))
    outermost = max((len(body) for _, body in loops), default=0)
    gridded = False
    for number, body in loops:
        of_grid = number in grids and len(body) == outermost
        gridded |= of_grid
        _multiply(lines[body.start : body.stop], grid_steps if of_grid else number)
    if not gridded:  # each core has one step, and no loop
        _multiply(lines, grid_steps)
    # What encloses another test is the pipeline's own: whether there is a block, or a core, at all.
    own = [
        (key, body)
        for key, body in tested
        if not any(body.start < other.start and other.stop <= body.stop for _, other in tested)
    ]
    for n, (key, body) in enumerate(own):
        if len(own) == len(shares):
            share = shares[n][1]
        else:  # some were merged; the largest share is a bound
            share = max((share for k, share in shares if k == key), default=1.0)
        _multiply(lines[body.start : body.stop], share)


def _multiply(lines: list[_Line], factor: float) -> None:
    for line in lines:
        line.weight *= factor


def _utilization(text: str) -> tuple[dict[str, int], list[list[int]]]:
    head, body = text.split("== UTILIZATION:")
    names, numbers = head.strip().split("\n")[1:3]
    capacity = dict(zip(names.split(", "), map(int, numbers.split()), strict=True))
    return capacity, [list(map(int, row.split())) for row in body.strip().splitlines()]

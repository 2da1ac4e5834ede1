"""Reads the TPU compiler's schedule of a kernel: how many bundles run, and which slots they fill.

A bundle is one instruction word of a TPU core, issued in one cycle unless something stalls. The
compiler writes one line per bundle, marked with the depth of its loop. Loops in these kernels run a
constant number of times, which their exit test states, so the bundles of a whole kernel can be
counted, and so can the slots that they fill. Time spent waiting for copies is not counted.
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
_DELAY_BUNDLES = 4  # after a branch; they run whether or not it is taken


@dataclasses.dataclass(frozen=True)
class Schedule:
    """``bundles`` is the number that run; ``slots`` counts their operations of each kind."""

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
    """The schedule of the kernel whose name starts with ``kernel``, over all cores of the grid.

    ``shares`` lists the bodies that run only if a sum of grid indices equals a number, in program
    order: the number, and the share of grid steps in which it does. Shares of 1 are left out.
    """
    lines = _lines(_one(directory, kernel, "*-final_bundles.txt", ("schedule", "static")))
    _weigh(lines, grid_steps, shares, cores)
    capacity, used = _utilization(
        _one(directory, kernel, "*-final_hlo-static-per-bundle-utilization.txt", ())
    )
    if len(used) != len(lines):
        raise ValueError(f"{kernel}: {len(lines)} bundles but {len(used)} lines of utilization")
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
        raise ValueError(
            f"{kernel}: expected one file {pattern} in {directory}, found {len(found)}"
        )
    return found[0].read_text()


def _lines(text: str) -> list[_Line]:
    """One entry per bundle; other lines continue the comment of the bundle before."""
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
    """Sets how often each bundle runs: a branch back repeats bundles, a branch ahead skips them."""
    starts: dict[str, int] = {}
    for i, line in enumerate(lines):
        for region in _STARTS.findall(line.text):
            starts.setdefault(region, i)
    text = "\n".join(line.text for line in lines)
    trips = dict(_TRIPS.findall(text))
    tests = dict(_TESTED.findall(text))
    # The loop over the grid also runs a prologue and an epilogue.
    grids = (grid_steps + 2, grid_steps // cores + 2, -(-grid_steps // cores) + 2)
    tested: list[tuple[int, range]] = []
    loops: list[tuple[int, range]] = []
    for i, line in enumerate(lines):
        for predicate, region in _BRANCH.findall(line.text):
            to = starts.get(region, len(lines))  # the end of the program has no start
            if to <= i:
                if predicate not in trips:
                    raise ValueError(
                        f"cannot find the trip count of the loop at {line.text[:80]!r}"
                    )
                loops.append((int(trips[predicate]), range(to, i + 1 + _DELAY_BUNDLES)))
            elif predicate in tests:
                tested.append((int(tests[predicate]), range(i + 1 + _DELAY_BUNDLES, to)))
    outermost = max((len(body) for _, body in loops), default=0)
    found_grid = False
    for number, body in loops:
        over_grid = number in grids and len(body) == outermost
        found_grid |= over_grid
        _multiply(lines[body.start : body.stop], grid_steps if over_grid else number)
    if not found_grid:  # each core has one step and no loop
        _multiply(lines, grid_steps)
    # A test around another test is the pipeline's: whether there is a block, or a core, at all.
    innermost = [
        (key, body)
        for key, body in tested
        if not any(body.start < other.start and other.stop <= body.stop for _, other in tested)
    ]
    for n, (key, body) in enumerate(innermost):
        if len(innermost) == len(shares):
            share = shares[n][1]
        else:  # some were merged: the largest share is an upper bound
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

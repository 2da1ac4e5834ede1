"""Tests on eight host devices: meshes, cases to shard, and the collectives of compiled programs."""

from __future__ import annotations

import collections

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.common import traffic
from support.cases import operands
from support.operators import training
from support.oracle import Case

on_eight_devices = [
    pytest.mark.usefixtures("x64"),
    pytest.mark.skipif(jax.device_count() < 8, reason="needs eight (host) devices"),
]

CASES = {
    "dense": Case(8, 3, 4, (6,), (3,), (1,), ((1, 1),), (1,)),
    "grouped": Case(8, 6, 4, (5, 4), (3, 2), (2, 1), ((1, 2), (0, 1)), (1, 2), 2),
    "depthwise": Case(8, 6, 12, (6,), (3,), (1,), ((2, 0),), (1,), 6),
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

KINDS = {
    "depthwise": (8, 8, 8),
    "multiplied": (4, 8, 4),
    "grouped": (8, 12, 4),
    "even groups": (8, 8, 4),
    "dense": (6, 4, 1),
}
BATCH, HEIGHT = P("b"), P(None, "b")


def mesh_of(shape, names, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def case_of(kind: str, **changes) -> Case:
    """A 3x3 kernel on eight images of 16x8 pixels, padded unevenly on the second axis."""
    c, f, groups = KINDS[kind]
    case = Case(8, c, f, (16, 8), (3, 3), (1, 1), ((1, 1), (2, 0)), (1, 1), groups)
    return case.replace(**changes)


def compiled(case: Case, specs, dtype=np.float64, mesh=None):
    """The training step compiled for sharded operands; the sharded and the unsharded operands."""
    mesh = mesh or mesh_of((4, 2), ("b", "f"))
    arrays = operands(case, dtype)
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays, specs, strict=True)
    ]
    return jax.jit(training(case)).lower(*placed).compile(), placed, arrays


def collectives(program) -> dict[str, list[int]]:
    """The sizes of the results of all collectives, in elements per device, by kind."""
    found = collections.defaultdict(list)
    for kind, arrays in traffic.collectives(program.as_text()):
        found[kind] += [array.size for array in arrays]
    return {name: sorted(sizes) for name, sizes in found.items()}

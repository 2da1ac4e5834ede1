"""One compiled program of ``static.py``: what it moves, allocates and executes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.extend.core import jaxpr_as_fun

from benchmarks.common.workloads import DEPTHWISE, Workload
from benchmarks.tpu import schedule, traffic
from jaxconv._src.geometry.spec import Operator
from jaxconv._src.kernels.target import compile_for
from jaxconv._src.kernels.tpu import entry, tile_config
from jaxconv._src.kernels.tpu.generations import GENERATIONS
from jaxconv._src.kernels.tpu.job import job_of
from jaxconv._src.kernels.tpu.layout import ends, padded, plan
from jaxconv._src.kernels.tpu.tiling import LANES, SUBLANES
from jaxconv._src.kernels.xla import lax


class Case(NamedTuple):
    generation: str
    dtype: np.dtype
    workload: Workload
    operator: Operator

    @property
    def words(self) -> tuple[str, ...]:
        return self.generation, self.dtype.name, self.workload.name, self.operator.value


def cases(args) -> Iterator[Case]:
    for generation in args.generations:
        for dtype in map(jnp.dtype, args.dtypes):
            for workload in DEPTHWISE:
                if any(part in workload.name for part in args.only):
                    for operator in map(Operator, args.operators):
                        yield Case(generation, dtype, workload, operator)


def measure_lax(case: Case, topology: tuple[str, str]) -> dict[str, Any]:
    operator, spec = case.operator, case.workload.spec

    def reference(a, b):
        return getattr(lax, operator.value)(a, b, spec, dtype=case.dtype)

    compiled = _compiled(reference, case, topology)
    moved = compiled.cost_analysis()["bytes accessed"]
    return _memory(compiled) | {"moved": moved / _floor(compiled)}


def measure(case: Case, topology: tuple[str, str], dump: Path) -> dict[str, Any]:
    """jaxconv's program; ``dump`` is the directory where libtpu writes schedules."""
    operator, spec = case.operator, case.workload.spec

    def kernel(a, b):
        return getattr(entry, operator.value)(a, b, spec, dtype=case.dtype)

    with compile_for(case.generation):
        reason = entry.unsupported_reason(operator, spec, case.dtype)
        if reason is not None:
            return {"unsupported": reason}
        _clear(dump)
        ours = _compiled(kernel, case, topology)
        moved = _moved(kernel, ours, case)
    schedule = _schedule(case, dump)
    bundles = schedule.bundles / _registers(operator, spec)
    # A multiplication and an addition per tap.
    floor = 2 * spec.taps / schedule.capacity["VALU"]
    return _memory(ours) | {
        "kernel_calls": ours.as_text().count('custom_call_target="tpu_custom_call"'),
        "moved": moved / _floor(ours),
        "bundles": bundles,
        "bundles_over_floor": bundles / floor,
        "vector": schedule.occupancy("VALU"),
        "spills": schedule.spills,
    }


def _floor(compiled) -> int:
    """Bytes of operands and result, as the compiled program lays them out."""
    memory = compiled.memory_analysis()
    return memory.argument_size_in_bytes + memory.output_size_in_bytes


def _clear(dump: Path) -> None:
    for path in dump.glob("*"):
        path.unlink()


def _compiled(call, case: Case, topology: tuple[str, str]) -> Any:
    name, kind = topology
    device = topologies.get_topology_desc(platform="tpu", topology_name=name).devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    shapes = case.workload.spec.operand_shapes(case.operator)
    operands = [jax.ShapeDtypeStruct(s, case.dtype, sharding=sharding) for s in shapes]
    cores = GENERATIONS[case.generation].cores
    described = jax.sharding.AbstractDevice(kind, cores, "tpu")
    with jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((), (), abstract_device=described)
    ):
        return jax.jit(call).lower(*operands).compile()


def _memory(compiled) -> dict[str, float]:
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return {"temporaries": temporaries / _floor(compiled)}


def _registers(operator: Operator, spec) -> int:
    """8x128 registers that the result, or the cotangent, fills in the kernel's layout."""
    p = plan(operator, spec)
    gradient = operator is Operator.INPUT_GRAD
    pixels = [line.source if gradient else line.result for line in p.lines]
    lanes = ends(operator, p, p.whole)[0 if gradient else 1]
    return p.images * math.prod(pixels[:3]) * -(-pixels[3] // SUBLANES) * -(-lanes // LANES)


def _schedule(case: Case, dump: Path) -> schedule.Schedule:
    operator, spec = case.operator, case.workload.spec
    p = plan(operator, spec)
    tile = entry.tile_config(operator, spec, case.dtype, case.generation)
    job = job_of(operator, p, tile, GENERATIONS[case.generation])
    grid = tile_config.grid_of(p, tile)
    steps, images = math.prod(grid), grid[4] * grid[5]
    inner = math.prod(grid[1:])
    first = [(0, 1 / (steps if job.one_core else images))]
    if job.one_core and not job.whole_axes:
        first.append((0, 1 / images))
    if operator is Operator.FILTER_GRAD:
        shares = [(0, 1 / inner), *first, (sum(n - 1 for n in grid[1:]), 1 / inner)]
    else:
        shares = [(0, 1 / (inner if job.one_core else images)), *first]
    return schedule.read(
        dump,
        f"depthwise_{operator.value}",
        steps,
        [share for share in shares if share[1] < 1],
        GENERATIONS[case.generation].cores,
    )


def _moved(call, compiled, case: Case) -> int:
    """Bytes that the kernel copies from and to HBM, and that the rest of the program moves."""
    operator, spec = case.operator, case.workload.spec
    shapes = spec.operand_shapes(operator)
    jaxpr = jax.make_jaxpr(call)(*[jax.ShapeDtypeStruct(s, case.dtype) for s in shapes])
    (kernel,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "pallas_call"]
    mapping = kernel.params["grid_mapping"]
    copied = [_copied(block, mapping.grid) for block in mapping.block_mappings]
    return traffic.moved(compiled.as_text(), copied)


def _copied(block, grid: tuple[int, ...]) -> int:
    """A block is copied whenever its index differs from the last step's."""
    points = np.stack(np.unravel_index(np.arange(math.prod(grid)), grid), 1).astype(np.int32)
    index_map = jaxpr_as_fun(block.index_map_jaxpr)
    indices = np.stack(jax.vmap(lambda point: index_map(*point))(points), 1)
    changes = 1 + int(np.any(indices[1:] != indices[:-1], 1).sum())
    array = block.array_aval
    extents = [
        min(getattr(extent, "block_size", 1), whole)  # a squeezed axis has no block size
        for extent, whole in zip(block.block_shape, array.shape, strict=True)
    ]
    return changes * padded(extents, array.dtype.itemsize)

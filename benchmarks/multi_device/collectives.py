"""What a training step sends between devices for each sharding, with jaxconv and with lax.

    python -m benchmarks.multi_device.collectives
    python -m benchmarks.multi_device.collectives --time

A step is a convolution and both of its gradients, compiled for operands that are sharded over a
mesh of 4 x 2 devices. Bytes are those of each collective's result on one device.

``--time`` times depthwise convolutions and steps on two and four devices of one machine instead,
relative to the unsharded ones on the same images. Results are donated, as in a training loop:
otherwise the times are mostly malloc's, which differ between one thread and several.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv
from benchmarks.common import arguments, peers, results
from benchmarks.common.machine import machine, versions
from benchmarks.common.timing import interleaved, median_ms
from benchmarks.common.traffic import traffic
from benchmarks.multi_device import tables

KINDS = {"depthwise": (32, (3, 3, 1, 32), 32), "dense": (32, (3, 3, 32, 64), 1)}
FEATURES = P(None, None, None, "b")
SHARDINGS = {
    "batch": (P("b"), P(), P("b")),
    "height": (P(None, "b"), P(), P(None, "b")),
    "height and width": (P(None, "b", "f"), P(), P(None, "b", "f")),
    "batch and width": (P("b", None, "f"), P(), P("b", None, "f")),
}
OF_KIND = {
    "depthwise": {"features": (FEATURES, FEATURES, FEATURES)},
    "dense": {
        "out-features": (P(), FEATURES, FEATURES),
        "in-features": (FEATURES, P(None, None, "b"), P()),
    },
}
# Images, their extent, features, the kernel's extent; the last two workloads exceed any cache.
SIZES = (32, 56, 32, 3), (8, 112, 32, 7), (16, 112, 64, 3), (16, 112, 64, 7)
UNSHARDED = "unsharded"
# What is timed: the mesh and the sharding of the operands.
PARTITIONS = {
    UNSHARDED: ((1, 1), "batch"),
    "batch over 2": ((2, 1), "batch"),
    "height over 2": ((2, 1), "height"),
    "height and width over 2x2": ((2, 2), "height and width"),
}
UNUSED_HALOS = "height over 2, halos unused"
RUNS = 3
BLOCKS = 8


def plain(x, kernel, groups: int):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def ours(x, kernel, groups: int):
    return jaxconv.conv(x, kernel, groups=groups)


def step(conv: Callable, groups: int) -> Callable:
    def run(x, kernel, g):
        y, pull = jax.vjp(lambda x, kernel: conv(x, kernel, groups), x, kernel)
        return y, *pull(g)

    return run


def operands(kind: str):
    features, kernel, groups = KINDS[kind]
    x = 8, 32, 32, features
    return drawn(x, kernel, (*x[:-1], kernel[-1])), groups


def drawn(*shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def place(arrays, specs, mesh) -> list[jax.Array]:
    return [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays, specs, strict=True)
    ]


def compiled(conv: Callable, kind: str, specs, mesh):
    arrays, groups = operands(kind)
    placed = place(arrays, specs, mesh)
    return peers.compiled(step(conv, groups), *placed), placed


def count_collectives() -> list[results.Row]:
    mesh = jax.make_mesh((4, 2), ("b", "f"), axis_types=(AxisType.Auto,) * 2)
    rows = []
    for kind in KINDS:
        arrays, groups = operands(kind)
        expected = jax.jit(step(plain, groups))(*arrays)
        for name, specs in (SHARDINGS | OF_KIND[kind]).items():
            sent, correct = {}, {}
            for peer, conv in (("jaxconv", ours), ("lax", plain)):
                program, placed = compiled(conv, kind, specs, mesh)
                sent[peer] = {
                    collective: {"count": found.count, "kib": found.payload / 1024}
                    for collective, found in traffic(program.as_text(), mesh.size).items()
                }
                correct[peer] = all(map(close, program(*placed), expected))
            if not correct["jaxconv"]:
                raise SystemExit(f"{kind}, {name}: differs from the unsharded step")
            rows.append({"kind": kind, "sharded": name, **sent, "lax_correct": correct["lax"]})
    return rows


def close(a, b) -> bool:
    return np.allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.abs(b).max()))


def forward(x, kernel, g):
    return ours(x, kernel, x.shape[-1])


def exchanged(rows: int, x):
    """The halos of the height: each of two shards has one edge that the other one reads."""
    edge = jnp.where(jax.lax.axis_index("b") == 0, x[:, -rows:], x[:, :rows])
    return jax.lax.ppermute(edge, "b", [(0, 1), (1, 0)])


def forward_and_halos(rows: int, x, kernel, g):
    """The convolution of each shard alone; the halos are sent but not used."""
    return forward(x, kernel, g), exchanged(rows, x)


def step_and_halos(rows: int, x, kernel, g):
    """The step of each shard alone; the halos are sent but not used."""
    y, dx, dk = step(ours, x.shape[-1])(x, kernel, g)
    # -x: XLA would merge two equal exchanges.
    halos = exchanged(rows, x), exchanged(rows, g), exchanged(rows, -x)
    return y, dx, jax.lax.psum(dk, "b"), *halos


def with_unused_halos(mesh, halo: int) -> dict[str, Callable]:
    rows = SHARDINGS["height"][0]
    programs = {
        "forward": (forward_and_halos, (rows, rows)),
        "step": (step_and_halos, (rows, rows, P(), rows, rows, rows)),
    }
    return {
        name: jax.shard_map(
            functools.partial(program, halo),
            mesh=mesh,
            in_specs=(rows, P(), rows),
            out_specs=out_specs,
            check_vma=False,
        )
        for name, (program, out_specs) in programs.items()
    }


def repeated(call: Callable, operands) -> Callable[[], None]:
    """Runs the call, which writes its results to the memory of the previous run's."""
    outputs = [jax.jit(call)(*operands)]
    again = jax.jit(lambda operands, _: call(*operands), donate_argnums=1, keep_unused=True)

    def run() -> None:
        outputs[0] = jax.block_until_ready(again(operands, outputs[0]))

    run()
    return run


def meshes() -> dict[tuple[int, int], Any]:
    shapes = (1, 1), (2, 1), (2, 2)
    devices = jax.devices()
    auto = (AxisType.Auto,) * 2
    return {s: jax.make_mesh(s, ("b", "f"), auto, devices=devices[: s[0] * s[1]]) for s in shapes}


def programs(images: int, extent: int, features: int, taps: int) -> dict[str, dict[str, Callable]]:
    """The convolution and its step, unsharded and partitioned in each way."""
    x = images, extent, extent, features
    arrays = drawn(x, (taps, taps, 1, features), x)
    grids = meshes()
    placed = {
        name: place(arrays, SHARDINGS[specs], grids[shape])
        for name, (shape, specs) in PARTITIONS.items()
    }
    calls = {
        "forward": {name: repeated(forward, each) for name, each in placed.items()},
        "step": {name: repeated(step(ours, features), each) for name, each in placed.items()},
    }
    for name, program in with_unused_halos(grids[2, 1], taps // 2).items():
        calls[name][UNUSED_HALOS] = repeated(program, placed["height over 2"])
    return calls


def time_partitions(sizes, seconds: float) -> list[results.Row]:
    """Times relative to the unsharded program, medians of several runs.

    Devices share the machine's cores; a single device has them all.
    """
    rows = []
    for images, extent, features, taps in sizes:
        for name, calls in programs(images, extent, features, taps).items():
            runs = [relative_times(calls, seconds) for _ in range(RUNS)]
            relative = {each: statistics.median(run[each] for run in runs) for each in runs[0]}
            workload = f"depthwise {taps}x{taps} {images}x{extent}x{extent}x{features}"
            rows.append({"workload": workload, "program": name, "relative_time": relative})
    return rows


def relative_times(calls: dict[str, Callable], seconds: float) -> dict[str, float]:
    samples = interleaved(calls, seconds, blocks=BLOCKS)
    medians = {name: median_ms(times) for name, times in samples.items()}
    unsharded = medians.pop(UNSHARDED)
    return {name: median / unsharded for name, median in medians.items()}


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--time", action="store_true", help="time depthwise convolutions instead")
    parser.add_argument(
        "--sizes", type=int, default=len(SIZES), help="time only the first of the four sizes"
    )
    arguments.add_seconds(parser, 2.0, "program")
    arguments.add_json(parser)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    if args.time:
        rows = time_partitions(SIZES[: args.sizes], args.seconds)
        report = results.report(rows, machine(), versions("jax"))
        table = tables.sharded_times(rows)
    else:
        rows = count_collectives()
        report = results.report(rows, {}, versions("jax"))
        table = tables.collectives(rows)
    if args.json:
        results.write(args.json, report)
    print(table, report.source, sep="\n\n")


if __name__ == "__main__":
    main()

"""What a training step sends between devices for each sharding: ours beside plain lax.

    python -m benchmarks.multi_device.collectives
    python -m benchmarks.multi_device.collectives --time

A step is a convolution and both of its gradients, compiled for operands that are sharded over a
mesh of 4 x 2 devices. Bytes are those of each collective's result on one device. ``--time`` times
depthwise convolutions and steps on two and four devices of one machine instead, beside unsharded
ones on equal images. Results go where those of the last run were (donated, as a training loop's):
else what is timed is how malloc hands out pages, which differs between one thread and several.
"""

from __future__ import annotations

import argparse
import collections
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv
from benchmarks.common.timing import interleaved, median_ms

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
# images, their extents, features, the kernel's extents; the last two exceed any cache
SIZES = (32, 56, 32, 3), (8, 112, 32, 7), (16, 112, 64, 3), (16, 112, 64, 7)
# What is timed: the mesh, and how the operands are cut over it.
CUTS = {
    "unsharded": ((1, 1), "batch"),
    "batch over 2": ((2, 1), "batch"),
    "height over 2": ((2, 1), "height"),
    "height and width over 2x2": ((2, 2), "height and width"),
}
NAMES = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter"


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
    return jax.jit(step(conv, groups)).lower(*placed).compile(), placed


def sent(program) -> str:
    """The collectives of a compiled program: how many, and their bytes."""
    counts, sizes = collections.Counter(), collections.Counter()
    # A result is one array, or a tuple of several.
    for results, name in re.findall(rf"= (.*?) ({NAMES})(?:-start)?\(", program.as_text()):
        counts[name] += 1
        for width, shape in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", results):
            sizes[name] += int(width) // 8 * math.prod(int(n) for n in shape.split(",") if n)
    return ", ".join(f"{counts[n]} {n} {sizes[n] / 1024:.0f} KiB" for n in counts) or "none"


def table() -> None:
    mesh = jax.make_mesh((4, 2), ("b", "f"), axis_types=(AxisType.Auto,) * 2)
    print("| kind | sharded | jaxconv | lax |\n| --- | --- | --- | --- |")
    for kind in KINDS:
        arrays, groups = operands(kind)
        wanted = jax.jit(step(plain, groups))(*arrays)
        for name, specs in (SHARDINGS | OF_KIND[kind]).items():
            cells = []
            for conv in (ours, plain):
                program, placed = compiled(conv, kind, specs, mesh)
                right = all(
                    np.allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.abs(b).max()))
                    for a, b in zip(program(*placed), wanted, strict=True)
                )
                cells.append(sent(program) + ("" if right else " (wrong values)"))
            print(f"| {kind} | {name} | {' | '.join(cells)} |")


def forward(x, kernel, g):
    return ours(x, kernel, x.shape[-1])


def swapped(rows: int, x):
    """The halos of the height: of two shards each has one edge that the other reads."""
    edge = jnp.where(jax.lax.axis_index("b") == 0, x[:, -rows:], x[:, :rows])
    return jax.lax.ppermute(edge, "b", [(0, 1), (1, 0)])


def forward_and_halos(rows: int, x, kernel, g):
    """The kernel on each shard, and the halos sent, but not used."""
    return forward(x, kernel, g), swapped(rows, x)


def step_and_halos(rows: int, x, kernel, g):
    """The same of a step."""
    y, dx, dk = step(ours, x.shape[-1])(x, kernel, g)
    halos = swapped(rows, x), swapped(rows, g), swapped(rows, -x)  # -x: no two are one
    return y, dx, jax.lax.psum(dk, "b"), *halos


def bare(mesh, halo: int) -> dict[str, Callable]:
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
            out_specs=results,
            check_vma=False,
        )
        for name, (program, results) in programs.items()
    }


def repeated(call: Callable, operands) -> Callable[[], None]:
    """Runs the call, its results in the memory of the run before."""
    results = [jax.jit(call)(*operands)]
    again = jax.jit(lambda operands, _: call(*operands), donate_argnums=1, keep_unused=True)

    def run() -> None:
        results[0] = jax.block_until_ready(again(operands, results[0]))

    run()
    return run


def meshes() -> dict[tuple[int, int], Any]:
    shapes = (1, 1), (2, 1), (2, 2)
    devices = jax.devices()
    auto = (AxisType.Auto,) * 2
    return {s: jax.make_mesh(s, ("b", "f"), auto, devices=devices[: s[0] * s[1]]) for s in shapes}


def timed(images: int, extent: int, features: int, taps: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the convolution and of its step, whole and cut in each way."""
    x = images, extent, extent, features
    arrays = drawn(x, (taps, taps, 1, features), x)
    grids = meshes()
    placed = {
        cut: place(arrays, SHARDINGS[specs], grids[shape]) for cut, (shape, specs) in CUTS.items()
    }
    calls = {
        "forward": {cut: repeated(forward, each) for cut, each in placed.items()},
        "step": {cut: repeated(step(ours, features), each) for cut, each in placed.items()},
    }
    halved = placed["height over 2"]
    for name, program in bare(grids[2, 1], taps // 2).items():
        calls[name]["kernels and bare halos over 2"] = repeated(program, halved)
    return {
        name: {cut: median_ms(each) for cut, each in interleaved(cuts, 2.0, blocks=8).items()}
        for name, cuts in calls.items()
    }


def time() -> None:
    """Devices share the machine's cores; one device has them all."""
    for images, extent, features, taps in SIZES:
        for name, medians in timed(images, extent, features, taps).items():
            print(f"{name}, {taps}x{taps}, {images}x{extent}x{extent}x{features}")
            for cut, milliseconds in medians.items():
                ratio = milliseconds / medians["unsharded"]
                print(f"  {cut:30} {milliseconds:7.3f} ms  {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", action="store_true", help="time depthwise convolutions instead")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    (time if args.time else table)()


if __name__ == "__main__":
    main()

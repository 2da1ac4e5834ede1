"""What a training step sends for each chip, on 4, 16 and 256 TPU chips and on 8 GPUs, none there.

    pip install libtpu                  and / or  pip install "jax[cuda13]"
    python -m benchmarks.multi_device.static                       all that can be compiled here
    python -m benchmarks.multi_device.static --targets v5e-4 v5e-16 --cuts height --json table.json

The step trains MobileNetV1 (4.2 million parameters, bfloat16, batch normalisation over the whole
batch, momentum) and is compiled by the real compilers for all devices as one program. The work of a
chip stays the same while their number grows: ``batch`` has 8 images of 96x96 for each chip,
``height`` 32 rows for each of 8 images 96 wide, 8,192 rows for 256 chips. So should what a chip
sends: the exit code is 1 where a collective's payload differs by more than 1 %, and where one is
neither a sum nor a halo.

These are static figures, read from compiled programs; nothing is run or timed. ``payload`` is the
arrays that collectives sum or move, ``sent`` what leaves a chip where all form a ring: twice the
share of the others in the payload for an all-reduce, which grows from 1.5 to 2 times the payload.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.tpu.static import prepare

TPU, CUDA = ("libtpu", "pip install libtpu"), ("jax_cuda13_plugin", 'pip install "jax[cuda13]"')
TARGETS = {
    "v5e-4": (TPU, 4, "v5e:2x2"),
    "v5e-16": (TPU, 16, "v5e:4x4"),
    "v5e-256": (TPU, 256, "v5e:16x16"),
    "H100-8": (CUDA, 8, "H100"),
}
CUTS = ("batch", "height")
IMAGES, SIDE, ROWS = 8, 96, 32
FLAT = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--cuts", nargs="+", choices=CUTS, default=list(CUTS))
    parser.add_argument("--width", type=float, default=1.0, help="of the network's features")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    args = parser.parse_args()
    prepare()
    os.environ["JAXCONV_TUNING"] = "off"
    rows = []
    for cut in args.cuts:
        for target in args.targets:
            (module, install), devices, _ = TARGETS[target]
            if importlib.util.find_spec(module) is None:
                print(f"{target} needs its compiler, but no device: {install}", file=sys.stderr)
                continue
            print(target, cut, file=sys.stderr)
            sent = measure(topology(target), cut, args.width)
            rows.append({"target": target, "devices": devices, "cut": cut, "sent": sent})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    print(markdown(rows))
    grown = list(growth(rows))
    print("\n".join(grown), file=sys.stderr)
    return 1 if grown else 0


def topology(target: str) -> tuple[list, Any]:
    """The devices, and the kind that kernels are chosen for."""
    import jax
    from jax.experimental import topologies

    from benchmarks.gpu import targets

    _, count, name = TARGETS[target]
    if name in targets.TARGETS:
        kind, _, cores, *_ = targets.TARGETS[name]
        described = targets.describe(name, count)
        return described.devices, jax.sharding.AbstractDevice(kind, cores, "gpu")
    described = topologies.get_topology_desc(platform="tpu", topology_name=name)
    return described.devices, jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")


def measure(target: tuple[list, Any], cut: str, width: float) -> dict[str, dict[str, float]]:
    """The step's collectives, by kind."""
    import jax

    from benchmarks.common.traffic import traffic

    devices, kind = target
    step, args = training(devices, cut, width)
    abstract = jax.sharding.AbstractMesh((), (), abstract_device=kind)
    with jax.sharding.use_abstract_mesh(abstract):
        text = step.lower(*args).compile().as_text()
    return {name: found._asdict() for name, found in traffic(text, len(devices)).items()}


def training(devices: list, cut: str, width: float) -> tuple[Any, tuple]:
    """The jitted step, and the types of its arguments with where they are."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import nnx
    from jax.sharding import AxisType, Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from jaxconv.models import MobileNetV1

    mesh = Mesh(np.asarray(devices), (cut,), axis_types=(AxisType.Auto,))
    graph, parameters, rest = nnx.split(
        nnx.eval_shape(lambda: MobileNetV1(width=width, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))),
        nnx.Param,
        ...,
    )
    optimizer = optax.sgd(0.1, momentum=0.9)

    def step(parameters, rest, momenta, image, label):
        def loss(parameters):
            network = nnx.merge(graph, parameters, rest, copy=True)
            network.train()
            logits = network(image).astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return losses.mean(), nnx.split(network, nnx.Param, ...)[2]

        (value, rest_after), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        updates, momenta = optimizer.update(gradient, momenta, parameters)
        return optax.apply_updates(parameters, updates), rest_after, momenta, value

    def placed(tree, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    batches = IMAGES * len(devices), SIDE, SIDE, 3
    strips = IMAGES, ROWS * len(devices), SIDE, 3
    shape, images, labels = {
        "batch": (batches, P("batch"), P("batch")),
        "height": (strips, P(None, "height"), P()),
    }[cut]
    image = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    label = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    state = (parameters, rest, jax.eval_shape(optimizer.init, parameters))
    jitted = jax.jit(step, out_shardings=NamedSharding(mesh, P()), donate_argnums=(0, 1, 2))
    return jitted, (*placed(state, P()), placed(image, images), placed(label, labels))


def growth(rows: list[dict[str, Any]]):
    """What does not stay flat, or should not be there, in words."""
    for row in rows:
        for name in row["sent"].keys() - {"all-reduce", "collective-permute"}:
            yield f"{row['target']}, {row['cut']}: there is an {name}"
    for cut in CUTS:
        of_tpus = [row["sent"] for row in rows if row["cut"] == cut and "v5e" in row["target"]]
        for name in {name for sent in of_tpus for name in sent}:
            payloads = [sent[name]["payload"] if name in sent else 0 for sent in of_tpus]
            if max(payloads) > (1 + FLAT) * min(payloads):
                yield f"{cut}: the payload of {name} is not flat: {payloads} bytes"


def markdown(rows: list[dict[str, Any]]) -> str:
    header = ("cut", "chips", "collective", "how many", "payload KiB a chip", "sent KiB a chip")
    lines = [header, ["---"] * len(header)]
    for row in rows:
        for name, found in row["sent"].items():
            figures = [f"{found[key] / 1024:,.1f}" for key in ("payload", "sent")]
            lines.append([row["cut"], row["target"], name, str(found["count"]), *figures])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\nStatic figures of compiled programs, not times. {_versions()}."


def _versions() -> str:
    from importlib import metadata

    names = [name for name in ("jax", "libtpu") if importlib.util.find_spec(name)]
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


if __name__ == "__main__":
    sys.exit(main())

"""What each chip sends in a training step on 4 to 256 TPU chips and on 8 GPUs, without needing any.

    pip install libtpu                  and / or  pip install "jax[cuda13]"
    python -m benchmarks.multi_device.static                       all that can be compiled here
    python -m benchmarks.multi_device.static --targets v5e-4 v5e-16 --axes height
    python -m benchmarks.multi_device.static --json benchmarks/results/scaling_static.json

The step trains MobileNetV1 (4.2 million parameters, bfloat16, batch normalization over the whole
batch, momentum) and is compiled by the real compilers for all devices as one program. The work per
chip stays the same as their number grows: sharded over ``batch``, each chip has 8 images of 96x96;
sharded over ``height``, it has 32 rows of each of 8 images, which are 96 wide. What a chip sends
should stay the same too: the exit code is 1 if a collective's payload grows by more than 1 %, or if
one is neither a sum nor a halo exchange.

These figures are static, read from compiled programs; nothing is run or timed. ``payload`` counts
the arrays that collectives sum or move, ``sent`` what leaves a chip if all chips form a ring: for
an all-reduce 1.5 times the payload on 4 chips, and close to twice the payload on many.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.common import arguments
from benchmarks.tpu.targets import prepare

TPU, CUDA = ("libtpu", "pip install libtpu"), ("jax_cuda13_plugin", 'pip install "jax[cuda13]"')
TARGETS = {
    "v5e-4": (TPU, 4, "v5e:2x2"),
    "v5e-16": (TPU, 16, "v5e:4x4"),
    "v5e-256": (TPU, 256, "v5e:16x16"),
    "H100-8": (CUDA, 8, "H100"),
}
AXES = ("batch", "height")
IMAGES, SIDE, ROWS = 8, 96, 32  # per chip
MAX_GROWTH = 0.01


def main() -> int:
    parser = arguments.parser(__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), help="to shard over")
    parser.add_argument(
        "--width", type=float, default=1.0, help="multiplies the network's features"
    )
    arguments.add_json(parser)
    args = parser.parse_args()
    prepare()
    os.environ["JAXCONV_TUNING"] = "off"
    # Imported only now: jax and libtpu read the environment when they are loaded.
    from benchmarks.common import results
    from benchmarks.common.machine import versions
    from benchmarks.multi_device import tables

    rows = []
    for axis in args.axes:
        for target in args.targets:
            (module, install), devices, _ = TARGETS[target]
            if importlib.util.find_spec(module) is None:
                print(f"{target} needs its compiler but no device: {install}", file=sys.stderr)
                continue
            print(target, axis, file=sys.stderr)
            sent = measure(topology(target), axis, args.width)
            rows.append({"axis": axis, "target": target, "devices": devices, "collectives": sent})
    report = results.report(rows, {}, versions("jax", "libtpu"))
    if args.json:
        results.write(args.json, report)
    print(tables.scaling(rows), report.source, sep="\n\n")
    failures = list(unexpected(rows))
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


def topology(target: str) -> tuple[list, Any]:
    """The devices, and the kind that dispatch chooses implementations for."""
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


def measure(target: tuple[list, Any], axis: str, width: float) -> dict[str, dict[str, float]]:
    """The step's collectives, by kind."""
    import jax

    from benchmarks.common.traffic import traffic

    devices, kind = target
    step, args = training(devices, axis, width)
    abstract = jax.sharding.AbstractMesh((), (), abstract_device=kind)
    with jax.sharding.use_abstract_mesh(abstract):
        text = step.lower(*args).compile().as_text()
    return {
        kind: {
            "count": found.count,
            "payload_kib": found.payload / 1024,
            "sent_kib": found.sent / 1024,
        }
        for kind, found in traffic(text, len(devices)).items()
    }


def training(devices: list, axis: str, width: float) -> tuple[Any, tuple]:
    """The jitted step, and its arguments' shapes, dtypes and shardings."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import nnx
    from jax.sharding import AxisType, Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from jaxconv.models import MobileNetV1

    mesh = Mesh(np.asarray(devices), (axis,), axis_types=(AxisType.Auto,))
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
    }[axis]
    image = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    label = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    state = (parameters, rest, jax.eval_shape(optimizer.init, parameters))
    jitted = jax.jit(step, out_shardings=NamedSharding(mesh, P()), donate_argnums=(0, 1, 2))
    return jitted, (*placed(state, P()), placed(image, images), placed(label, labels))


def unexpected(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Collectives that should not be there, and payloads that grow with the number of chips."""
    for row in rows:
        for kind in row["collectives"].keys() - {"all-reduce", "collective-permute"}:
            yield f"{row['target']}, {row['axis']}: there is an {kind}"
    for axis in AXES:
        on_tpus = [
            row["collectives"] for row in rows if row["axis"] == axis and "v5e" in row["target"]
        ]
        for kind in {kind for sent in on_tpus for kind in sent}:
            payloads = [sent[kind]["payload_kib"] if kind in sent else 0 for sent in on_tpus]
            if max(payloads) > (1 + MAX_GROWTH) * min(payloads):
                yield f"{axis}: the payload of {kind} grows with the chips: {payloads} KiB"


if __name__ == "__main__":
    sys.exit(main())

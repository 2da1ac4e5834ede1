"""Times training steps and inference of whole networks.

    python -m benchmarks.networks.run                          all networks, training and inference
    python -m benchmarks.networks.run --only MobileNet
    python -m benchmarks.networks.run --json benchmarks/results/networks.json

All peers compute the same network with the same weights:

    flax         Flax's own convolutions and batch normalization
    installed    the same, compiled after ``jaxconv.install()``
    imported     jaxconv's convolutions in place of Flax's
    jaxconv      jaxconv's convolutions and batch normalization
    torch        PyTorch on channels-last memory
    onnxruntime  ONNX Runtime, for inference only

Outputs, or the losses of two steps, are checked against plain Flax's before anything is timed. A
training step is forward, backward and plain gradient descent on the mean square of the outputs. A
speedup is the peer's median time divided by that of ``jaxconv``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxconv
from benchmarks.common import arguments, results
from benchmarks.common.machine import machine, versions
from benchmarks.common.timing import interleaved, median_ms
from benchmarks.networks import tables
from benchmarks.networks.cases import CASES, Case
from jaxconv.models.batch_norm import BatchNorm
from jaxconv.nnx import Conv

RATE = 0.01
TOLERANCE = 2e-3  # relative to the largest output or the first loss: float32 through 28 layers
Layers = tuple[Any, Any]  # the classes of convolutions and of batch normalizations
STOCK, IMPORTED, OURS = (nnx.Conv, nnx.BatchNorm), (Conv, nnx.BatchNorm), (Conv, BatchNorm)
Peer = tuple[Callable[[], Any], np.ndarray]  # a call that blocks, and its first result


def main() -> None:
    parser = arguments.parser(__doc__)
    arguments.add_only(parser, "networks")
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=list(MODES), help="what to time"
    )
    parser.add_argument("--without", nargs="*", default=[], help="peers to leave out")
    arguments.add_seconds(parser, 2.0, "peer of a row")
    arguments.add_json(parser)
    args = parser.parse_args()
    rows = []
    for case in CASES:
        if args.only in case.name:
            for mode in args.modes:
                print(f"{case.name} {mode}", file=sys.stderr)
                rows.append(measure(case, mode, set(args.without), args.seconds))
    report = results.report(rows, machine(), versions("jax", "flax", "torch", "onnxruntime"))
    if args.json:
        results.write(args.json, report)
    print(tables.networks(rows), report.source, sep="\n\n")


def measure(case: Case, mode: str, without: set[str], seconds: float) -> dict[str, Any]:
    """One row: all peers, checked, then timed."""
    x = np.random.default_rng(0).standard_normal(case.shape).astype(np.float32)
    calls, reference = {}, None
    for name, peer in MODES[mode].items():
        if name in without:
            continue
        calls[name], result = peer(case, x)
        reference = result if reference is None else reference
        error = np.abs(result - reference).max() / np.abs(reference).max()
        if result.shape != reference.shape or not error <= TOLERANCE:
            raise SystemExit(f"{case.name} {mode} {name}: differs by {error:.3g}")
    times = {name: median_ms(times) for name, times in interleaved(calls, seconds).items()}
    ours = times.get("jaxconv")
    speedup = {name: times[name] / ours for name in times if ours and name != "jaxconv"}
    return {"network": case.name, "mode": mode, "milliseconds": times, "speedup": speedup}


def _jax_training(layers: Layers, context: Callable = contextlib.nullcontext):
    def peer(case: Case, x: np.ndarray) -> Peer:
        network = case.make(*layers, nnx.Rngs(0))
        network.train()
        graph, parameters, rest = nnx.split(network, nnx.Param, ...)
        state, tree = jax.tree.flatten((parameters, rest))

        def step(state, x):
            parameters, rest = jax.tree.unflatten(tree, state)

            def loss_of(parameters):
                network = nnx.merge(graph, parameters, rest, copy=True)
                loss = jnp.mean(network(x) ** 2)
                return loss, nnx.split(network, nnx.Param, ...)[2]

            (loss, after), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters)
            parameters = jax.tree.map(lambda p, g: p - RATE * g, parameters, gradient)
            return jax.tree.leaves((parameters, after)), loss

        x = jax.device_put(x)
        with context():
            compiled = jax.jit(step, donate_argnums=0).lower(state, x).compile()

        def call():
            nonlocal state
            state, loss = compiled(state, x)
            return jax.block_until_ready((state, loss))[1]

        return call, np.array([call().item(), call().item()])

    return peer


def _jax_inference(layers: Layers, context: Callable = contextlib.nullcontext):
    def peer(case: Case, x: np.ndarray) -> Peer:
        network = case.make(*layers, nnx.Rngs(0))
        network.eval()
        state, tree = jax.tree.flatten(network)
        x = jax.device_put(x)
        with context():
            apply = jax.jit(lambda state, x: jax.tree.unflatten(tree, state)(x))
            compiled = apply.lower(state, x).compile()
        return lambda: jax.block_until_ready(compiled(state, x)), np.asarray(compiled(state, x))

    return peer


def _twin(case: Case, x: np.ndarray) -> tuple[Any, Any]:
    """The PyTorch network with the same weights, and its input."""
    import torch

    network = case.make(*STOCK, nnx.Rngs(0))
    twin, tensor = case.twin(), torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    case.copy(network, twin)
    if x.ndim == 4:
        twin = twin.to(memory_format=torch.channels_last)
        tensor = tensor.to(memory_format=torch.channels_last)
    return twin, tensor


def _torch_training(case: Case, x: np.ndarray) -> Peer:
    import torch

    twin, tensor = _twin(case, x)
    twin.train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=RATE)

    def call():
        optimizer.zero_grad()
        loss = (twin(tensor) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return call, np.array([call().item(), call().item()])


def _torch_inference(case: Case, x: np.ndarray) -> Peer:
    import torch

    twin, tensor = _twin(case, x)
    twin.eval()

    def call():
        with torch.inference_mode():
            return twin(tensor)

    return call, _channels_last(call().numpy())


def _onnxruntime(case: Case, x: np.ndarray) -> Peer:
    """The PyTorch network exported to ONNX, which computes channels-first."""
    import io
    import warnings

    import onnxruntime  # pyright: ignore[reportMissingImports]
    import torch

    twin, tensor = _twin(case, x)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no extra package is deprecated
        export: Any = torch.onnx.export  # its annotations omit files in memory
        export(twin.eval(), (tensor,), file, dynamo=False, input_names=["x"])
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    feed = {"x": np.ascontiguousarray(tensor.numpy())}
    return lambda: session.run(None, feed)[0], _channels_last(session.run(None, feed)[0])


def _channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


MODES: dict[str, dict[str, Callable[[Case, np.ndarray], Peer]]] = {
    "training": {
        "flax": _jax_training(STOCK),
        "installed": _jax_training(STOCK, jaxconv.installed),
        "imported": _jax_training(IMPORTED),
        "jaxconv": _jax_training(OURS),
        "torch": _torch_training,
    },
    "inference": {
        "flax": _jax_inference(STOCK),
        "installed": _jax_inference(STOCK, jaxconv.installed),
        "imported": _jax_inference(IMPORTED),
        "jaxconv": _jax_inference(OURS),
        "torch": _torch_inference,
        "onnxruntime": _onnxruntime,
    },
}


if __name__ == "__main__":
    main()

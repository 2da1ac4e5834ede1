"""One network in each library: how to compile it, and a call that computes it.

    flax            Flax's own convolutions and batch normalization
    installed       the same, compiled after ``jaxconv.install()``
    imported        jaxconv's convolutions in place of Flax's
    jaxconv         jaxconv's convolutions and batch normalization
    fused           the same through ``jaxconv.accelerate``, which fuses convolutions
    optimized       the same through ``jaxconv.optimize_for_inference``
    optimized_flax  plain Flax through ``jaxconv.optimize_for_inference``
    torch           PyTorch on channels-last memory
    torch_compile   the same through ``torch.compile``
    onnxruntime     ONNX Runtime
    openvino        OpenVINO

Those of a library, or of a function of jaxconv, that is not there are left out. All use as many
threads as the process has processors, and float32.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxconv
from benchmarks.networks.cases import Case
from jaxconv.models.batch_norm import BatchNorm
from jaxconv.nnx import Conv

RATE = 0.01
THREADS = len(os.sched_getaffinity(0))
Layers = tuple[Any, Any]  # the classes of convolutions and of batch normalizations
STOCK, IMPORTED, OURS = (nnx.Conv, nnx.BatchNorm), (Conv, nnx.BatchNorm), (Conv, BatchNorm)


class Program(NamedTuple):
    """A call that blocks until its result is available, and the result as a channels-last array."""

    call: Callable[[], Any]
    read: Callable[[Any], np.ndarray] = np.asarray


Build = Callable[[], Program]  # compiles the network, whose parameters and input are in memory
Peer = Callable[[Case], Build]


# --- jax ------------------------------------------------------------------------------------------


def _jax_training(
    layers: Layers,
    *,
    context: Callable[[], Any] = contextlib.nullcontext,
    transform: Callable[[Callable], Callable] = lambda step: step,
) -> Peer:
    def peer(case: Case) -> Build:
        network = case.network(*layers)
        network.train()
        graph, parameters, rest = nnx.split(network, nnx.Param, ...)
        state, tree = jax.tree.flatten((parameters, rest))
        x = jax.device_put(case.input())

        def step(state, x):
            parameters, rest = jax.tree.unflatten(tree, state)

            def loss_of(parameters):
                network = nnx.merge(graph, parameters, rest, copy=True)
                loss = jnp.mean(network(x) ** 2)
                return loss, nnx.split(network, nnx.Param, ...)[2]

            (loss, after), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters)
            parameters = jax.tree.map(lambda p, g: p - RATE * g, parameters, gradient)
            return jax.tree.leaves((parameters, after)), loss

        def build() -> Program:
            with context():
                compiled = jax.jit(transform(step), donate_argnums=0).lower(state, x).compile()

            def call():
                nonlocal state
                state, loss = compiled(state, x)
                return jax.block_until_ready((state, loss))[1]

            return Program(call)

        return build

    return peer


def _jax_inference(
    layers: Layers,
    *,
    context: Callable[[], Any] = contextlib.nullcontext,
    transform: Callable[[Callable], Callable] = lambda apply: apply,
) -> Peer:
    def peer(case: Case) -> Build:
        network = case.network(*layers)
        network.eval()
        state, tree = jax.tree.flatten(network)
        x = jax.device_put(case.input())

        def build() -> Program:
            apply = transform(lambda state, x: jax.tree.unflatten(tree, state)(x))
            with context():
                compiled = jax.jit(apply).lower(state, x).compile()
            return Program(lambda: jax.block_until_ready(compiled(state, x)))

        return build

    return peer


def _optimized(layers: Layers) -> Peer:
    def peer(case: Case) -> Build:
        network = case.network(*layers)
        network.eval()
        x = jax.device_put(case.input())

        def build() -> Program:
            optimized = jaxconv.optimize_for_inference(network, x)
            return Program(lambda: jax.block_until_ready(optimized(x)))

        return build

    return peer


# --- PyTorch --------------------------------------------------------------------------------------


def _twin(case: Case) -> tuple[Any, Any]:
    """The PyTorch network with the same weights, without dropout, and its input."""
    import torch

    torch.set_num_threads(THREADS)
    twin, x = case.twin(), case.input()
    case.copy(case.network(*STOCK), twin)
    for module in twin.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    tensor = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    if x.ndim == 4:
        twin = twin.to(memory_format=torch.channels_last)
        tensor = tensor.to(memory_format=torch.channels_last)
    return twin, tensor


def _channels_last(result: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(result), 1, -1)


def _torch_training(case: Case, compiles: bool = False) -> Build:
    import torch

    twin, tensor = _twin(case)
    twin.train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=RATE)

    def build() -> Program:
        network = torch.compile(twin) if compiles else twin

        def call():
            optimizer.zero_grad()
            loss = (network(tensor) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return Program(call)

    return build


def _torch_inference(case: Case, compiles: bool = False) -> Build:
    import torch

    twin, tensor = _twin(case)
    twin.eval()

    def build() -> Program:
        network = torch.compile(twin) if compiles else twin

        def call():
            with torch.inference_mode():
                return network(tensor)

        return Program(call, _channels_last)

    return build


# --- ONNX -----------------------------------------------------------------------------------------


def _exported(case: Case) -> tuple[bytes, np.ndarray]:
    """The PyTorch network as an ONNX model, which computes channels-first, and its input."""
    import torch

    twin, tensor = _twin(case)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that does not need onnxscript is deprecated
        export: Any = torch.onnx.export  # its annotations omit files in memory
        export(twin.eval(), (tensor,), file, dynamo=False, input_names=["x"])
    return file.getvalue(), np.ascontiguousarray(tensor.numpy())


def _onnxruntime(case: Case) -> Build:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    model, x = _exported(case)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS

    def build() -> Program:
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(model, options, providers=providers)
        return Program(lambda: session.run(None, {"x": x})[0], _channels_last)

    return build


def _openvino(case: Case) -> Build:
    # Optional: it would report every model over the network, from a fork of this process.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    import openvino  # pyright: ignore[reportMissingImports]

    model, x = _exported(case)
    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",  # AMX would compute in bfloat16
        "PERFORMANCE_HINT": "LATENCY",
    }

    def build() -> Program:
        compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", options)
        request = compiled.create_infer_request()

        def call():
            return request.infer([x], share_inputs=True, share_outputs=True)[compiled.output(0)]

        return Program(call, _channels_last)

    return build


def _compiled(peer: Callable[[Case, bool], Build]) -> Peer:
    """With ``torch.compile``, which compiles in the first call."""

    def compiling(case: Case) -> Build:
        build = peer(case, True)

        def built() -> Program:
            program = build()
            program.call()
            return program

        return built

    return compiling


# --- all of them ----------------------------------------------------------------------------------

PEERS: dict[str, dict[str, Peer]] = {
    "training": {
        "flax": _jax_training(STOCK),
        "installed": _jax_training(STOCK, context=jaxconv.installed),
        "imported": _jax_training(IMPORTED),
        "jaxconv": _jax_training(OURS),
        "fused": _jax_training(OURS, transform=jaxconv.accelerate),
        "torch": _torch_training,
        "torch_compile": _compiled(_torch_training),
    },
    "inference": {
        "flax": _jax_inference(STOCK),
        "installed": _jax_inference(STOCK, context=jaxconv.installed),
        "imported": _jax_inference(IMPORTED),
        "jaxconv": _jax_inference(OURS),
        "fused": _jax_inference(OURS, transform=jaxconv.accelerate),
        "optimized": _optimized(OURS),
        "optimized_flax": _optimized(STOCK),
        "torch": _torch_inference,
        "torch_compile": _compiled(_torch_inference),
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
    },
}
NAMES = tuple(PEERS["inference"])

# The packages that a peer needs, and the functions of jaxconv.
PACKAGES = {
    "torch": ("torch",),
    "torch_compile": ("torch",),
    "onnxruntime": ("torch", "onnx", "onnxruntime"),
    "openvino": ("torch", "onnx", "openvino"),
}
FUNCTIONS = {
    "fused": "fused_conv",
    "optimized": "optimize_for_inference",
    "optimized_flax": "optimize_for_inference",
}


def available(name: str) -> bool:
    """Whether everything that the peer needs is there."""
    installed = all(importlib.util.find_spec(package) for package in PACKAGES.get(name, ()))
    return installed and hasattr(jaxconv, FUNCTIONS.get(name, "conv"))

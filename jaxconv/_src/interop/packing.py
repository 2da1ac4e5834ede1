"""Rewrites convolutions of constant kernels: scales are folded into them, and they are packed.

    conv(x, kernel) * scale + bias = conv(x, kernel * scale) + bias

The product is computed in float32 at least; in programs of narrower types the engine scales its
results, which are wider, instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from ..dispatch.choose import choose_implementation
from ..geometry.epilogue import NO_EPILOGUE, Epilogue
from ..geometry.spec import ConvSpec, Operator
from ..kernels.cpu import native
from ..kernels.xla.epilogue import per_feature
from ..primitives.fused import bind_fused, fused_conv_p
from ..primitives.packed import bind_packed
from ..primitives.rules import PRIMITIVES
from .edit import inlined_equations
from .fusion.dense import Reshaping, dense

Array = jax.Array


class Layer(NamedTuple):
    """A convolution that was rewritten: its kernel and its result, as variables of the program."""

    kernel: Any
    result: Any
    spec: ConvSpec


class Packed(NamedTuple):
    """A program, and the layers that were rewritten."""

    jaxpr: Jaxpr
    layers: list[Layer]


class _Conv(NamedTuple):
    """A convolution: its operands, of which the first two are x and the kernel, and parameters."""

    operands: list[Any]
    spec: ConvSpec
    epilogue: Epilogue
    dtype: Any
    precision: Any
    implementation: str | None
    reshapings: tuple[Reshaping, ...] = ()


def with_packed_kernels(jaxpr: Jaxpr, constants: Mapping[Any, Any], platform: str) -> Packed:
    """The program with every convolution of a constant kernel rewritten for ``platform``."""
    layers: list[Layer] = []
    eqns: list[JaxprEqn] = []
    for eqn in jaxpr.eqns:
        conv = _convolution(eqn)
        rewritten = None
        if conv is not None and conv.operands[1] in constants:
            rewritten = _rewritten(conv, constants, platform)
        if conv is None or rewritten is None:
            eqns.append(eqn)
            continue
        with eqn.ctx.manager:
            program = jax.make_jaxpr(rewritten)(*[atom.aval for atom in conv.operands]).jaxpr
        eqns += inlined_equations(program, conv.operands, eqn.outvars, eqn)
        layers.append(Layer(conv.operands[1], eqn.outvars[0], conv.spec))
    return Packed(jaxpr.replace(eqns=eqns), layers)


def _convolution(eqn: JaxprEqn) -> _Conv | None:
    """The convolution or dense layer that an equation is; None if it is neither."""
    params: Any = eqn.params
    if any(isinstance(atom, Literal) for atom in eqn.invars):
        return None
    if eqn.primitive is fused_conv_p:
        names = ("spec", "epilogue", "dtype", "precision", "implementation")
        return _Conv(eqn.invars, *(params[name] for name in names))
    if eqn.primitive is PRIMITIVES[Operator.CONV] and params["out_sharding"] is None:
        names = ("dtype", "precision", "implementation")
        return _Conv(eqn.invars, params["spec"], NO_EPILOGUE, *(params[name] for name in names))
    layer = dense(eqn) if eqn.primitive.name == "dot_general" else None
    if layer is None:
        return None
    dtype = eqn.outvars[0].aval.dtype  # pyright: ignore[reportAttributeAccessIssue]
    reshapings = (layer.lhs, layer.rhs, layer.result)
    return _Conv(eqn.invars, layer.spec, NO_EPILOGUE, dtype, params["precision"], None, reshapings)


def _rewritten(
    conv: _Conv, constants: Mapping[Any, Any], platform: str
) -> Callable[..., Array] | None:
    """The function of the operands that replaces a convolution; None if it stays as it is."""
    names = ("x", "kernel", *conv.epilogue.operands)
    dtypes = {name: a.aval.dtype for name, a in zip(names, conv.operands, strict=True)}
    scale = dict(zip(names, conv.operands, strict=True)).get("scale")
    plain = {name: dtype for name, dtype in dtypes.items() if name not in ("kernel", "scale")}
    wide = functools.reduce(jnp.promote_types, plain.values(), conv.dtype)
    folds = scale in constants and wide.itemsize >= 4
    if scale is not None and not folds:
        wide = jnp.promote_types(wide, dtypes["scale"])
    if _can_pack(conv, wide, dtypes["kernel"], platform):
        return functools.partial(_packed, conv, folds, wide)
    if folds and not conv.reshapings:
        return functools.partial(_folded, conv, wide)
    return None


def _can_pack(conv: _Conv, wide: Any, kernel_dtype: Any, platform: str) -> bool:
    """Whether the engine would compute this in the dtype ``wide``, with a packed kernel."""
    spec = conv.spec
    known = all(isinstance(n, int) for n in (*spec.input_shape, *spec.kernel_shape))
    if platform != "cpu" or not known or spec.empty:
        return False
    if conv.implementation not in (None, "native"):
        return False
    if jnp.promote_types(wide, kernel_dtype) != wide or jnp.dtype(wide).name not in native.ELEMENTS:
        return False
    choice = choose_implementation(Operator.CONV, platform, spec, conv.dtype, packed=True)
    return choice.implementation == "native" and native.packed_size(spec, wide) is not None


def _packed(conv: _Conv, folds: bool, wide: Any, *operands: Array) -> Array:
    x, kernel, *rest = _reshaped(conv, operands)
    whole = _scaled(conv.epilogue, kernel, rest, wide) if folds else kernel
    packed = native.pack_kernel(whole, conv.spec, wide)
    assert packed is not None
    result = bind_packed(
        x,
        kernel,
        rest,
        packed,
        conv.spec,
        conv.epilogue,
        scaled=folds,
        dtype=conv.dtype,
        precision=conv.precision,
    )
    return conv.reshapings[2].apply_to_result(result, ()) if conv.reshapings else result


def _folded(conv: _Conv, wide: Any, *operands: Array) -> Array:
    x, kernel, *rest = operands
    named = zip(conv.epilogue.operands, rest, strict=True)
    return bind_fused(
        x,
        _scaled(conv.epilogue, kernel, rest, wide),
        [array for name, array in named if name != "scale"],
        conv.spec,
        conv.epilogue.replace(scale=False),
        dtype=conv.dtype,
        precision=conv.precision,
        implementation=conv.implementation,
    )


def _reshaped(conv: _Conv, operands: tuple[Array, ...]) -> Iterator[Array]:
    for at, array in enumerate(operands):
        yield conv.reshapings[at].apply(array, ()) if conv.reshapings else array


def _scaled(epilogue: Epilogue, kernel: Array, operands: list[Array], wide: Any) -> Array:
    scale = operands[epilogue.operands.index("scale")]
    kernel = kernel.astype(wide)
    return kernel * per_feature(scale, kernel)

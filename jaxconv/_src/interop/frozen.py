"""A function or a module of any library as a function of the arrays that it holds.

The libraries need not be installed, so their modules are told by what is imported already. Modules
in training mode are refused: they would compute statistics of the batch, or drop values at random.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..pytrees import is_array, path_text, split

NAME = "optimize_for_inference"

Call = Callable[..., Any]  # of the arrays, then of the function's own arguments


@dataclasses.dataclass
class Frozen:
    """``call(arrays, *args)`` is ``fn(*args)`` with these arrays; ``paths`` names each of them."""

    fn: Any
    call: Call
    arrays: list[Any]
    paths: list[str]

    def __reduce__(self) -> tuple[Any, ...]:
        """The arrays are kept apart: the module may have been trained since."""
        return _restored, (self.fn, self.arrays)


def _restored(fn: Any, arrays: list[Any]) -> Frozen:
    return dataclasses.replace(freeze(fn), arrays=arrays)


def freeze(fn: Any) -> Frozen:
    """``fn`` with its arrays; an error in words if it is not a function in inference mode."""
    if isinstance(fn, type) or not callable(fn):
        got = (
            f"the class {fn.__qualname__}" if isinstance(fn, type) else f"a {type(fn).__qualname__}"
        )
        raise TypeError(
            f"{NAME}: fn must be a function or a module, such as a model or "
            f"lambda x: model.apply(variables, x), but got {got}"
        )
    method = isinstance(fn, types.MethodType)
    function, owner = (fn.__func__, fn.__self__) if method else (_call, fn)
    for library, kind, freeze_module in _LIBRARIES:
        module_class = _class_of(library, kind)
        if module_class is not None and isinstance(owner, module_class):
            return _copied(freeze_module(fn, function, owner))
    if jax.tree_util.all_leaves([owner]):
        return Frozen(fn, lambda _, *args: fn(*args), [], [])
    return _copied(_pytree(fn, function, owner))


def _copied(frozen: Frozen) -> Frozen:
    """With copies of NumPy's arrays, which may change later."""
    arrays = [jnp.array(a) if isinstance(a, np.ndarray) else a for a in frozen.arrays]
    return dataclasses.replace(frozen, arrays=arrays)


def _call(module: Callable, *args: Any) -> Any:
    return module(*args)


def _class_of(library: str, kind: str) -> Any:
    return functools.reduce(
        lambda found, name: getattr(found, name, None), kind.split("."), sys.modules.get(library)
    )


# --- libraries ------------------------------------------------------------------------------------


def _pytree(fn: Any, function: Callable, module: Any) -> Frozen:
    """Equinox, and every other module that is a pytree."""
    _check_mode(_in_training(module), "use equinox.nn.inference_mode(module)")
    structure, arrays = split(module)

    def call(arrays: list[Any], *args: Any) -> Any:
        return function(structure.with_arrays(arrays), *args)

    return Frozen(fn, call, arrays, _paths(module))


def _nnx(fn: Any, function: Callable, module: Any) -> Frozen:
    nnx: Any = sys.modules["flax.nnx"]
    _check_mode(_nnx_in_training(nnx, module), "call module.eval()")
    graph, state = nnx.split(module)
    structure, arrays = split(state)

    def call(arrays: list[Any], *args: Any) -> Any:
        own = nnx.merge(graph, structure.with_arrays(arrays))
        before = jax.tree.leaves(nnx.state(own))
        result = function(own, *args)
        after = jax.tree.leaves(nnx.state(own))
        if len(before) != len(after) or any(map(_differ, before, after)):
            raise ValueError(
                f"{NAME}: the module changes its own state, which is frozen here, in a call; "
                "call module.eval(), or use a method that leaves the state as it is"
            )
        return result

    return Frozen(fn, call, arrays, _paths(state))


def _differ(a: Any, b: Any) -> bool:
    return a is not b


def _linen(fn: Any, function: Callable, module: Any) -> Frozen:
    if module.scope is None:
        raise ValueError(
            f"{NAME}: the module {type(module).__qualname__} has no parameters; pass "
            "lambda x: module.apply(variables, x), or module.bind(variables)"
        )
    unbound, variables = module.unbind()
    structure, arrays = split(variables)

    def call(arrays: list[Any], *args: Any) -> Any:
        return unbound.apply(structure.with_arrays(arrays), *args, method=function)

    return Frozen(fn, call, arrays, _paths(variables))


def _keras(fn: Any, function: Callable, module: Any) -> Frozen:
    keras: Any = sys.modules["keras"]
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"{NAME}: Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax before it is "
            "imported"
        )
    if function is not _call:
        return Frozen(fn, lambda _, *args: fn(*args), [], [])
    if not module.built:
        raise ValueError(
            f"{NAME}: the Keras model has no parameters yet; call it or build it first"
        )
    variables = [module.trainable_variables, module.non_trainable_variables]
    structure, arrays = split([[variable.value for variable in each] for each in variables])

    def call(arrays: list[Any], *args: Any) -> Any:
        return module.stateless_call(*structure.with_arrays(arrays), *args, training=False)[0]

    return Frozen(fn, call, arrays, [variable.path for each in variables for variable in each])


_LIBRARIES: tuple[tuple[str, str, Callable[..., Frozen]], ...] = (
    ("flax.nnx", "Module", _nnx),
    ("flax.linen", "Module", _linen),
    ("keras", "layers.Layer", _keras),
)


def _paths(tree: Any) -> list[str]:
    leaves = jax.tree.leaves_with_path(tree)
    return [path_text(path).removesuffix(".value") for path, leaf in leaves if is_array(leaf)]


# --- modes ----------------------------------------------------------------------------------------


def _check_mode(training: Sequence[str], advice: str) -> None:
    if training:
        others = f" and {len(training) - 1} more" if len(training) > 1 else ""
        raise ValueError(
            f"{NAME}: {training[0]}{others} is in training mode, in which results depend on the "
            f"batch or on chance; {advice} first"
        )


def _nnx_in_training(nnx: Any, module: Any) -> list[str]:
    modules = [(path, each) for path, each in nnx.iter_modules(module) if _trains(each)]
    return [_layer_text(".".join(map(str, path)), each) for path, each in modules]


def _in_training(node: Any, path: str = "") -> list[str]:
    """The nodes of a pytree that are layers in training mode."""
    if _trains(node):
        return [_layer_text(path, node)]
    children = jax.tree.leaves_with_path(node, is_leaf=lambda child: child is not node)
    return [
        found
        for where, child in children
        if child is not node
        for found in _in_training(child, f"{path}{jax.tree_util.keystr(where)}")
    ]


def _layer_text(path: str, layer: Any) -> str:
    name = type(layer).__qualname__
    return f"layer {path.removeprefix('.')} ({name})" if path else f"the module ({name})"


def _trains(layer: Any) -> bool:
    """Whether this is a layer of Flax nnx or of Equinox that is in training mode."""
    flags = ("use_running_average", "deterministic", "inference")
    random = getattr(layer, "rate", None) != 0 and getattr(layer, "p", None) != 0
    return random and any(getattr(layer, flag, None) is False for flag in flags)

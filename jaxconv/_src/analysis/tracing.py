"""Traces functions and modules to programs whose arguments have names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from numbers import Number
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr

from ..pytrees import is_array_like, path_text, split


class Argument(NamedTuple):
    """One array that a program is called with.

    ``path`` is its place in its module or argument, such as ``layers[0].conv.kernel``, and empty
    for an argument that is an array itself. ``parameter`` is whether it is trained.
    """

    path: str
    parameter: bool


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced function; ``arguments`` has one entry per variable of ``jaxpr.invars``."""

    jaxpr: Jaxpr
    arguments: tuple[Argument, ...]


def check_function(name: str, fn: Any) -> None:
    """Raises a ``TypeError`` that names the public function ``name`` if ``fn`` cannot be called."""
    if not callable(fn):
        raise TypeError(
            f"{name}: fn must be callable, a JAX function or a module, but got "
            f"{type(fn).__qualname__}; call {name}(fn, *args) with the function and its arguments, "
            f"not with its result"
        )


def program(fn: Callable, *args: Any, **kwargs: Any) -> Program:
    """The program of a function or module on these arguments; nothing is computed.

    A module that is a pytree, as in Flax nnx and Equinox, is traced as a function of its arrays
    too, so that it may change them; a Flax linen module is traced with the variables that its
    ``init`` would make. These arrays come after those of the arguments. Leaves that are not arrays
    are constants.
    """
    held: Any = fn
    call: Callable = lambda fn, args, kwargs: fn(*args, **kwargs)  # noqa: E731
    if hasattr(fn, "init_with_output"):
        module: Any = fn
        held = _initialized(module, args, kwargs)
        call = lambda variables, args, kwargs: module.apply(variables, *args, **kwargs)  # noqa: E731
    structure, arrays = split((args, kwargs, held), is_array_like)

    def of_arrays(arrays):
        args, kwargs, held = structure.with_arrays(arrays)
        results = jax.tree.leaves(call(held, args, kwargs))
        return [each for each in results if is_array_like(each) or isinstance(each, Number)]

    jaxpr = jax.make_jaxpr(of_arrays)(arrays).jaxpr
    values = (*args, *_sorted(kwargs))
    arguments = [argument for value in values for argument in _arguments(value)]
    return Program(jaxpr, (*_with_input(arguments), *_arguments(held)))


def _sorted(kwargs: dict[str, Any]) -> list[Any]:
    return [kwargs[name] for name in sorted(kwargs)]


def _initialized(module: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The variables of a linen module, as shapes."""
    structure, arrays = split((args, kwargs), is_array_like)

    def init(arrays):
        args, kwargs = structure.with_arrays(arrays)
        return module.init(jax.random.key(0), *args, **kwargs)

    return jax.eval_shape(init, arrays)


def _arguments(value: Any) -> Iterator[Argument]:
    """The arrays of one argument; in Flax a collection or a class says which ones are trained."""
    collections = isinstance(value, dict) and "params" in value
    for path, leaf in jax.tree.leaves_with_path(value, is_leaf=_is_variable):
        for inner in filter(is_array_like, jax.tree.leaves(leaf)):
            if _is_variable(leaf):
                trained = any(kind.__name__ == "Param" for kind in type(leaf).__mro__)
            elif collections:
                trained = path[0] == jax.tree_util.DictKey("params")
            else:
                trained = jax.numpy.issubdtype(inner.dtype, np.inexact)
            yield Argument(path_text(path[1:] if collections else path), trained)


def _is_variable(value: Any) -> bool:
    """Whether this is a variable of Flax nnx; told by its name, because Flax may be absent."""
    return any(
        kind.__name__ == "Variable" and kind.__module__.startswith("flax.")
        for kind in type(value).__mro__
    )


def _with_input(arguments: list[Argument]) -> Iterator[Argument]:
    """The first argument that is an array itself is the input, not a parameter."""
    first = next((at for at, (path, _) in enumerate(arguments) if not path), None)
    for at, argument in enumerate(arguments):
        yield argument._replace(parameter=False) if at == first else argument

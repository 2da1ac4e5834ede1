"""``accelerate``: one function with all of its convolutions computed by jaxconv."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax

from ..dispatch import implementation
from ..keywords import checks_keywords
from .edit import evaluate
from .trace import UNTRACEABLE, call_on_arrays, trace

_accelerated: weakref.WeakSet = weakref.WeakSet()


@checks_keywords("accelerate")
def accelerate(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``fn`` with all of its convolutions computed by jaxconv.

    This includes the convolutions of Flax, Haiku, Equinox, Keras and other libraries that call lax,
    forward and in gradients, under any transformation. ``use_implementation`` and
    ``checkpoint_policies`` apply to them. The returned function can be jitted, mapped by
    ``jax.vmap`` and differentiated to any order, as ``fn`` can. Convolutions that jaxconv does not
    support, such as those of integers, are left to lax; ``explain(accelerate(fn), ...)`` lists the
    implementation of each convolution, and the reason for each that is left to lax.

    A convolution is computed in one pass with what follows it: scales and biases per feature, such
    as a normalization with fixed statistics, the addition of a residual, and an activation. For
    this, no other operation may read the values in between. ``explain`` lists what was fused, and
    for each other convolution the reason why it was not.

    ``fn`` is traced once per combination of argument types, as by ``jax.jit``. If ``fn`` is jitted
    it stays jitted, with its name, static arguments and donated arguments. Arrays are traced; all
    other leaves of the arguments and results are passed through unchanged. If ``fn`` is a module
    that is a pytree (of Flax nnx or Equinox, for example) or a method of one, the module counts as
    an argument: every call uses the arrays that it holds at that time. If ``fn`` cannot be traced,
    for example because it calls NumPy, it runs unchanged, and ``explain`` says so.

    Args:
        fn: A function, module or method that ``jax.jit`` can trace.

    Returns:
        A function with the same arguments and results.

    Raises:
        TypeError: If ``fn`` is not a function. The returned function raises it if an argument is
            neither an array nor hashable, or if an implementation is forced and ``fn`` cannot be
            traced.
        ValueError: The returned function raises it if ``fn`` changes an object among its arguments
            in place, as stateful modules do, or if a forced implementation does not support a
            convolution.

    >>> import jax, jax.numpy as jnp, jaxconv
    >>> def apply(kernel, x):
    ...     return jax.lax.conv(x, kernel, (1,), "SAME").sum()
    >>> kernel, x = jnp.ones((3, 2, 4)), jnp.ones((1, 2, 16))
    >>> step = jax.jit(jax.grad(accelerate(apply)))
    >>> step(kernel, x).shape
    (3, 2, 4)
    >>> [conv.operator.value for conv in jaxconv.explain(accelerate(apply), kernel, x).convs]
    ['conv']

    Source: none; this is the project's own.
    """
    if isinstance(fn, type) or not callable(fn):
        got = f"the class {fn.__qualname__}" if isinstance(fn, type) else type(fn).__qualname__
        raise TypeError(
            f"accelerate: fn must be a function of arrays, such as a model's apply, but got {got}"
        )
    function, module = _with_module(fn)
    # This jit never runs; its cache keeps the traced program.
    fn_on_arrays = jax.jit(functools.partial(call_on_arrays, function))

    @functools.wraps(fn, updated=())
    def accelerated(*args, **kwargs):
        try:
            program, result, arrays = trace(fn_on_arrays, (*module, *args), kwargs)
        except UNTRACEABLE:
            if implementation.resolve(None) is not None:
                raise
        else:
            return result.with_arrays(evaluate(program, arrays))
        return fn(*args, **kwargs)

    _accelerated.add(accelerated)
    return accelerated


def is_accelerated(fn: Any) -> bool:
    """Whether ``fn`` was returned by ``accelerate``."""
    return isinstance(fn, types.FunctionType) and fn in _accelerated


def _with_module(fn: Callable) -> tuple[Callable, tuple]:
    """A function, and its first argument if ``fn`` is a module or a method of one."""
    method = isinstance(fn, types.MethodType)
    function, module = (fn.__func__, fn.__self__) if method else (_call, fn)
    return (fn, ()) if jax.tree_util.all_leaves([module]) else (function, (module,))


def _call(module: Callable, /, *args, **kwargs) -> Any:
    return module(*args, **kwargs)

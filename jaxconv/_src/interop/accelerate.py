"""One function with every convolution in it run by the family; nothing else of it changes.

The function is traced, as ``jax.jit`` traces it, and its program is edited: an equation of lax's
convolution makes room for equations of the operator that it is. All other equations stay as they
are, but for the programs inside them, which are edited in the same way: of a jit with its name and
donations, of loops and branches, of remat with its policy, of shard_map with its types. The rules
of ``custom_jvp``, ``custom_vjp`` and ``custom_vmap`` are edited when they are asked for. So it does
not matter what stands inside and what outside: a gradient inside leaves convolutions that
``recognise.py`` knows, and a gradient outside differentiates the family.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import linear_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from .. import compat
from ..dispatch import implementation
from . import conv_general_dilated
from .lax_params import Layout, recognise_equation


def accelerate(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` with every convolution in it run by the family.

    Convolutions of lax, whoever calls it: Flax, Haiku, Equinox, Keras or plain lax, in whatever
    transformation, forward or as a gradient. Forced kernels and the checkpoint policies of this
    library apply to them. It can be differentiated, mapped and jitted as ``fn`` can, to any order.
    What the family does not have, such as convolutions of integers, stays with lax;
    ``explain(accelerate(fn), ...)`` lists what runs on which kernel, and what was left and why.

    ``fn`` is traced once for each type of its arguments, as by ``jax.jit``; where it has been
    jitted it stays so, with its name, static and donated arguments. Arrays are traced, all other
    leaves of the arguments and of the results are kept as they are. A module that is a pytree, as
    Flax nnx's and Equinox's are, or whose method ``fn`` is, counts as an argument: each call reads
    the arrays that it then has. What cannot be traced, such as a function of NumPy, is no JAX
    function: it runs as it is, and ``explain`` says so.

    Args:
        fn: A function, module or method, to be served one that ``jax.jit`` can trace.

    Returns:
        A function of the same arguments and results.

    Raises:
        TypeError: ``fn`` is not a function. The function returned raises it where an argument is
            neither an array nor hashable, or where a kernel is forced and ``fn`` cannot be traced.
        ValueError: The function returned raises it where ``fn`` changes an object among its
            arguments in place, as stateful modules do, or where a forced kernel cannot serve.

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
        given = f"the class {fn.__qualname__}" if isinstance(fn, type) else type(fn).__qualname__
        raise TypeError(
            f"accelerate: fn must be a function of arrays, such as a model's apply, but got {given}"
        )
    function, module = _with_module(fn)
    traced = jax.jit(functools.partial(_call, function))  # never run: its cache keeps the program

    @functools.wraps(fn, updated=())
    def accelerated(*args, **kwargs):
        try:
            program, result, arrays = _traced(traced, (*module, *args), kwargs)
        except UNTRACEABLE:
            if implementation.resolve(None) is not None:
                raise
        else:
            return result.filled(_evaluate(program, arrays))
        return fn(*args, **kwargs)

    _accelerated.add(accelerated)
    return accelerated


# What jax raises where a function wants the values of what it is given, and not only its type.
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_accelerated: weakref.WeakSet = weakref.WeakSet()


def _with_module(fn: Callable) -> tuple[Callable, tuple]:
    """A function, and the module that it is to be given first, if ``fn`` is or belongs to one."""
    method = isinstance(fn, types.MethodType)
    function, module = (fn.__func__, fn.__self__) if method else (_apply, fn)
    return (fn, ()) if jax.tree_util.all_leaves([module]) else (function, (module,))


def _apply(module: Callable, /, *args, **kwargs) -> Any:
    return module(*args, **kwargs)


def is_accelerated(fn: Any) -> bool:
    """Whether ``accelerate`` returned ``fn``."""
    return isinstance(fn, types.FunctionType) and fn in _accelerated


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Frame:
    """A pytree without its arrays: for every other leaf its type and value, as 1 equals True."""

    tree: Any
    others: tuple

    def filled(self, arrays) -> Any:
        remaining = iter(arrays)
        leaves = (next(remaining) if other is None else other[1] for other in self.others)
        return jax.tree.unflatten(self.tree, leaves)


def _framed(value: Any) -> tuple[_Frame, list]:
    leaves, tree = jax.tree.flatten(value)
    others = (None if _is_array(leaf) else (type(leaf), leaf) for leaf in leaves)
    return _Frame(tree, tuple(others)), [leaf for leaf in leaves if _is_array(leaf)]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.Ref)


def _call(fn: Callable, frame: _Frame, arrays: list) -> tuple[_Frame, list]:
    """``fn`` as a function of arrays to arrays; what else it takes and returns is in the frames."""
    args, kwargs = frame.filled(arrays)
    objects = jax.tree.leaves((args, kwargs), is_leaf=_is_object)
    # Some objects are flattened to new arrays every time: only what is the same twice can change.
    before, again = jax.tree.leaves(objects), jax.tree.leaves(objects)
    result = fn(*args, **kwargs)
    after = jax.tree.leaves(objects)
    if len(before) != len(after) or any(
        a is b and b is not c for a, b, c in zip(before, again, after, strict=True)
    ):
        raise ValueError(
            "accelerate: fn changes an object among its arguments in place, and that would be "
            "lost; let it take the state as arrays and return the new state (for flax.nnx: split "
            "the module outside of fn and merge it inside)"
        )
    return _framed(result)


def _is_object(node: Any) -> bool:
    """Not a plain container, of which jit and we give ``fn`` a copy."""
    return not isinstance(node, dict | list | tuple | None)


def _traced(fn: Callable, args: tuple, kwargs: dict) -> tuple[ClosedJaxpr, _Frame, list]:
    """The program of ``_call`` of a function, the frame of its result, and its array arguments."""
    frame, arrays = _framed((args, kwargs))
    for other in filter(None, frame.others):
        _check_hashable(other[1])
    program, (result, _) = jax.make_jaxpr(fn, return_shape=True)(frame, arrays)
    return program, result, arrays


def _check_hashable(leaf: Any) -> None:
    try:
        hash(leaf)
    except TypeError:
        raise TypeError(
            f"accelerate: every leaf of the arguments must be an array or hashable, but got a "
            f"{type(leaf).__qualname__}; fn would not be traced again when it changes"
        ) from None


def _evaluate(program: ClosedJaxpr, arrays: list) -> list:
    """The edited program's results: of the jit that cached it only the inside is run."""
    jaxpr = program.jaxpr
    if [eqn.primitive.name for eqn in jaxpr.eqns] != ["jit"]:
        return jaxpr_as_fun(edited(program))(*arrays)
    (eqn,) = jaxpr.eqns
    values = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values |= zip(jaxpr.invars, arrays, strict=True)
    operands = [_value(atom, values) for atom in eqn.invars]
    results = jaxpr_as_fun(edited(eqn.params["jaxpr"]))(*operands)
    values |= zip(eqn.outvars, results, strict=True)
    return [_value(atom, values) for atom in jaxpr.outvars]


def _value(atom: Any, values: dict) -> Any:
    return atom.val if isinstance(atom, Literal) else values[atom]


# By program and forced kernel: jax's own caches know programs by identity, so a jit that is called
# twelve times, or again and again, must find the same edited program each time.
_edited: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def edited(program: Any) -> Any:
    """A Jaxpr or ClosedJaxpr with the family's operators; itself where nothing is to be changed."""
    results = _edited.setdefault(program, {})
    forced = implementation.resolve(None)
    if forced not in results:
        result = _edit(program)
        # Kept as None, or the program would keep itself alive.
        results[forced] = None if result is program else result
    return program if results[forced] is None else results[forced]


def _edit(program: Any) -> Any:
    if not isinstance(program, Jaxpr):
        jaxpr = edited(program.jaxpr)
        return program if jaxpr is program.jaxpr else program.replace(jaxpr=jaxpr)
    eqns = [new for eqn in program.eqns for new in _equations(eqn)]
    if len(eqns) == len(program.eqns) and all(map(_same, eqns, program.eqns)):
        return program
    return program.replace(eqns=eqns)


def _same(a: Any, b: Any) -> bool:
    return a is b


def _equations(eqn: JaxprEqn) -> Iterator[JaxprEqn]:
    if eqn.primitive is lax.conv_general_dilated_p:
        yield from _convolution(eqn)
        return
    rules = _RULES.get(eqn.primitive.name, {})
    params = {
        name: rules[name](value) if name in rules else _parameter(value)
        for name, value in eqn.params.items()
    }
    changed = any(params[name] is not value for name, value in eqn.params.items())
    yield eqn.replace(params=params) if changed else eqn


def _parameter(value: Any) -> Any:
    """A parameter with the programs in it edited, the same object where there is none."""
    if isinstance(value, Jaxpr | ClosedJaxpr):
        return edited(value)
    if not isinstance(value, tuple | list):
        return value
    entries = [_parameter(entry) for entry in value]
    if all(map(_same, entries, value)):
        return value
    return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)


def _convolution(eqn: JaxprEqn) -> Iterator[JaxprEqn]:
    """The equations of the family's operator, under the convolution's name and place."""
    found = recognise_equation(eqn)
    result: Any = eqn.outvars[0].aval
    if isinstance(found, str):
        yield eqn
        return
    run = functools.partial(
        conv_general_dilated.rearranged,
        found=found,
        dtype=result.dtype,
        precision=eqn.params["precision"],
        implementation=implementation.resolve(None),
        out_sharding=_sharding(result, found.result),
    )
    with eqn.ctx.manager:
        program = jax.make_jaxpr(run)(*[atom.aval for atom in eqn.invars]).jaxpr
    names: dict[Any, Any] = dict(zip(program.invars, eqn.invars, strict=True))
    names |= zip(program.outvars, eqn.outvars, strict=True)
    for new in program.eqns:
        outvars = [names.setdefault(variable, Var(variable.aval)) for variable in new.outvars]
        invars = [atom if isinstance(atom, Literal) else names[atom] for atom in new.invars]
        yield new.replace(invars=invars, outvars=outvars, source_info=eqn.source_info)


def _sharding(aval: Any, layout: Layout) -> Any:
    """The sharding in the convolution's type, for the family's result; None where there is none."""
    mesh, partitions = aval.sharding.mesh, aval.sharding.spec
    if mesh.empty:
        return None
    return compat.named_sharding(mesh, [partitions[axis] for axis in layout.permutation])


# The rules of custom derivatives and maps are no programs yet: they are traced when they are asked
# for. Those of a jvp and of the forward pass answer with a program and more.


def _traced_rule(rule: Any) -> Any:
    def answer(*args):
        program, *rest = rule.call_wrapped(*args)
        return edited(program), *rest

    return linear_util.wrap_init(answer, debug_info=rule.debug_info)


def _linear_rule(rule: Any) -> Any:
    return linear_util.wrap_init(_function_rule(rule.call_wrapped), debug_info=rule.debug_info)


def _function_rule(rule: Callable) -> Callable:
    def run(*args):
        program, result, arrays = _traced(functools.partial(_call, rule), args, {})
        return result.filled(_evaluate(program, arrays))

    return run


_RULES: dict[str, dict[str, Callable]] = {
    "custom_jvp_call": {"jvp_jaxpr_fun": _traced_rule},
    "custom_vjp_call": {"fwd_jaxpr_thunk": _traced_rule, "bwd": _linear_rule},
    "custom_vmap_call": {"rule": _function_rule},
}

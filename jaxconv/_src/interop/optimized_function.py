"""A frozen function and the programs that it is optimized to, one per combination of shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from ..dispatch import implementation
from ..pytrees import Structure, split
from .comparison import check_equal
from .constants import divide, same_computation
from .frozen import NAME, Frozen
from .fusion.links import VIEWS
from .optimized_program import OptimizedProgram, optimize
from .trace import UNTRACEABLE, call_on_arrays


class _Compiled(NamedTuple):
    """A compiled program, its constants, and the structure of its result."""

    run: Callable[..., list[Any]]
    constants: list[Any]
    result: Structure


class OptimizedFunction:
    """The function that ``optimize_for_inference`` returns."""

    def __init__(self, frozen: Frozen, structure: Structure, dtypes: list[str]):
        self._frozen, self._structure, self._dtypes = frozen, structure, dtypes
        self._programs: dict[Any, _Compiled] = {}
        self._computed: list[tuple[Jaxpr, list[Any], list[Any]]] = []
        self._copies: dict[int, tuple[Any, Any]] = {}
        functools.update_wrapper(self, frozen.fn, ("__doc__", "__name__", "__qualname__"), ())

    def __reduce__(self) -> tuple[Any, ...]:
        return OptimizedFunction, (self._frozen, self._structure, self._dtypes)

    def __repr__(self) -> str:
        return f"<{NAME} of {self._frozen.fn!r}>"

    def __call__(self, *args: Any) -> Any:
        structure, arrays = split((args, {}))
        self._check_arguments(structure, arrays)
        compiled = self._compiled(arrays)
        return compiled.result.with_arrays(compiled.run(compiled.constants, arrays))

    def _check_arguments(self, structure: Structure, arrays: Sequence[Any]) -> None:
        if structure != self._structure:
            raise ValueError(
                f"the function of {NAME} takes arguments like its examples, {self._structure.tree} "
                "with arrays in the same places and the same values in all others, but got "
                f"{structure.tree}; optimize fn again with an example of this structure"
            )
        dtypes = dtypes_of(arrays)
        if dtypes != self._dtypes:
            raise TypeError(
                f"the function of {NAME} takes arrays of the examples' dtypes, "
                f"{', '.join(self._dtypes)}, but got {', '.join(dtypes)}; convert them, or "
                "optimize fn again with an example of these dtypes"
            )

    # --- programs ---------------------------------------------------------------------------------

    def _compiled(self, arrays: Sequence[Any]) -> _Compiled:
        key = _key(arrays)
        found = self._programs.get(key)
        if found is None:
            found = self._programs[key] = self._compile(*self._optimize(arrays))
        return found

    def _optimize(self, arrays: Sequence[Any]) -> tuple[OptimizedProgram, Structure]:
        program, result = self._trace(arrays)
        if program.effects:
            raise ValueError(
                f"{NAME}: fn has effects, such as printing or writing to mutable arrays: "
                f"{', '.join(map(str, program.effects))}; remove them"
            )
        optimized = optimize(program, self._frozen.arrays, jax.default_backend())
        _check_no_integers(optimized)
        values = [self._copy(value) for value in optimized.values]
        return optimized._replace(values=values), result

    def _trace(self, arrays: Sequence[Any]) -> tuple[ClosedJaxpr, Structure]:
        make = jax.make_jaxpr(self._call, return_shape=True)
        try:
            program, (result, _) = make(self._frozen.arrays, arrays)
        except UNTRACEABLE as error:
            raise TypeError(f"{NAME}: JAX cannot trace fn: {error}") from error
        except Exception as error:
            raise _in_words(error, arrays) from error
        return program, result

    def _call(self, held: list[Any], arrays: list[Any]) -> tuple[Structure, list[Any]]:
        fn = functools.partial(self._frozen.call, held)
        return call_on_arrays(fn, self._structure, arrays, function=NAME)

    def _copy(self, array: Any) -> Any:
        """The same for the same array: NumPy's may change later, so they are copied."""
        known = self._copies.get(id(array))
        if known is None:
            copy = jnp.array(array) if isinstance(array, np.ndarray) else array
            known = self._copies[id(array)] = (array, copy)
        return known[1]

    def _compile(self, program: OptimizedProgram, result: Structure) -> _Compiled:
        divided = divide(program.optimized, program.parameters)
        values = dict(zip(program.parameters, program.values, strict=True))
        read = [values[variable] for variable in divided.parameters]
        constants = [values[variable] for variable in divided.kept]
        constants += self._constants(divided.constant, read)
        run = jaxpr_as_fun(ClosedJaxpr(divided.rest, ()))

        def optimized(constants: list[Any], arrays: list[Any]) -> list[Any]:
            return run(*constants, *arrays)

        return _Compiled(jax.jit(optimized), constants, result)

    def _constants(self, jaxpr: Jaxpr, read: list[Any]) -> list[Any]:
        """The constants, computed once for all shapes of the arguments that need the same."""
        for known, known_read, computed in self._computed:
            same = len(read) == len(known_read) and all(map(_is, read, known_read))
            if same and same_computation(jaxpr, known):
                return computed
        with jax.ensure_compile_time_eval():
            computed = jax.jit(jaxpr_as_fun(ClosedJaxpr(jaxpr, ())))(*read)
        self._computed.append((jaxpr, read, computed))
        return computed

    def check(self, arrays: Sequence[Any]) -> None:
        """Compares the results on the examples with those of the original."""
        program, result = self._optimize(arrays)
        compiled = self._programs[_key(arrays)] = self._compile(program, result)
        try:
            structure, theirs = jax.jit(self._call)(self._frozen.arrays, arrays)
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(f"{NAME}: {_STATEFUL}") from error
        ours = compiled.run(compiled.constants, arrays)
        if structure != result:
            raise ValueError(f"{NAME}: {_STATEFUL}")
        paths = [""] * (len(program.parameters) - len(self._frozen.paths)) + self._frozen.paths
        names = dict(zip(program.parameters, paths, strict=True))
        check_equal(ours, theirs, program, arrays, names)


_STATEFUL = (
    "fn keeps values from one call to the next, which cannot be frozen; pass the state as arrays, "
    "or use a module's inference mode"
)


def _key(arrays: Sequence[Any]) -> Any:
    """What a program depends on, beside the frozen function."""
    return (*map(jax.typeof, arrays), implementation.resolve(None))


def _is(a: Any, b: Any) -> bool:
    return a is b


def dtypes_of(arrays: Sequence[Any]) -> list[str]:
    """Their names: those of typed random keys are not NumPy's."""
    return [str(jax.typeof(array).dtype) for array in arrays]


def _in_words(error: Exception, arrays: Sequence[Any]) -> Exception:
    message = str(error)
    if message.startswith(NAME):
        return error
    if type(error).__name__ == "TraceContextError":  # of Flax nnx
        return ValueError(
            f"{NAME}: fn changes the state of a module that it closes over ({message}); call "
            "module.eval() first, or pass the module itself"
        )
    kind = TypeError if isinstance(error, TypeError) else ValueError
    types = ", ".join(jax.typeof(array).str_short() for array in arrays)
    return kind(f"{NAME}: fn fails on the example arguments ({types}): {message}")


def _check_no_integers(program: OptimizedProgram) -> None:
    """Raises a TypeError if an argument of integers reaches a convolution as it is."""
    parameters = set(program.parameters)
    integers = {
        variable
        for variable in program.original.invars
        if variable not in parameters and not _is_inexact(variable.aval)
    }
    for eqn in program.original.eqns:
        if not any(atom in integers for atom in eqn.invars if not isinstance(atom, Literal)):
            continue
        if _multiplies(eqn):
            raise TypeError(
                f"{NAME}: an example of integers is convolved; convert it to a floating dtype "
                "first, such as x.astype(jnp.float32)"
            )
        if eqn.primitive.name in (*VIEWS, "convert_element_type", "copy"):
            integers.update(eqn.outvars)


def _is_inexact(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)


def _multiplies(eqn: JaxprEqn) -> bool:
    name = eqn.primitive.name
    return name in ("dot_general", "conv_general_dilated", "conv", "fused_conv")

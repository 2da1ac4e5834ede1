"""``optimize_for_inference``: a network with frozen parameters, prepared once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from ..dispatch import implementation
from ..pytrees import Structure, split
from .comparison import check_equal
from .constants import divide, same_computation
from .frozen import NAME, Frozen, freeze
from .fusion.flat import dtype_of
from .fusion.links import VIEWS
from .optimized_program import OptimizedProgram, optimize
from .trace import UNTRACEABLE, call_on_arrays

Array = jax.Array


def optimize_for_inference(fn: Callable[..., Any], *example_args: Any) -> Callable[..., Any]:
    """Returns ``fn`` with its parameters frozen and everything prepared that depends on them alone.

        conv(x, kernel) * scale + bias = conv(x, kernel * scale) + bias

    Every value that is computed from parameters is computed once, now. Normalizations with fixed
    statistics are folded into the kernel and the bias before them, and what follows a convolution
    is fused with it as by ``accelerate``. On CPU, the kernels of convolutions and dense layers are
    packed once for the CPU engine, and dense layers run on it, too.

    The function is compiled for the examples' shapes, and again at the first call with others,
    which share constants where they are the same. It can be called inside ``jax.jit``, ``jax.vmap``
    and ``jax.grad``, exported (as plain XLA) and pickled (if ``fn`` can be); ``explain``,
    ``summarize`` and ``cost`` describe what it runs.

    Args:
        fn: A model in inference mode: a module of Flax (nnx, or linen bound to its variables),
            Equinox or Keras, or a method of one; or a function of arrays, such as
            ``lambda x: model.apply(variables, x)``. The arrays that it holds are frozen: what it
            computes does not change if they are assigned later. A function that closes over arrays
            is traced once per shape, and uses those that it finds then.
        *example_args: Arguments like those of later calls: arrays or pytrees of them. Their
            structure and dtypes are fixed, their shapes are not.

    Returns:
        A function with the arguments and results of ``fn``. On the examples, each output has been
        compared with that of ``fn``: they differ by at most 1e-3 of the output's largest value
        (1e-9 in programs of float64, 3e-2 in those with float16, 1e-1 in those with bfloat16);
        integers do not differ.

    Raises:
        TypeError: ``fn`` is not callable or cannot be traced, an example is not an array, or an
            array of integers is convolved.
        ValueError: ``fn`` does not accept the examples, is in training mode, changes its own state,
            or has effects; or the outputs differ by more than the bound, in which case the error
            names the layer. The returned function raises it if the structure of its arguments is
            not that of the examples, and a TypeError if their dtypes are not.

    >>> import jax, jax.numpy as jnp, jaxconv
    >>> kernel, scale = jnp.ones((3, 3, 2, 4)), jnp.arange(4.0)
    >>> network = lambda x: jax.nn.relu(jaxconv.conv(x, kernel) * jnp.sqrt(scale) - 1)
    >>> optimized = optimize_for_inference(network, jnp.ones((1, 8, 8, 2)))
    >>> optimized(jnp.ones((5, 8, 8, 2))).shape
    (5, 8, 8, 4)
    >>> str(jaxconv.explain(optimized, jnp.ones((5, 8, 8, 2))).convs[0].epilogue)
    'scale + bias + relu'

    Source: B. Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference" (2018), section 3.2, for the folding.
    """
    frozen = freeze(fn)
    structure, arrays = _examples(example_args)
    optimized = _Optimized(frozen, structure, [np.dtype(array.dtype) for array in arrays])
    optimized.check(arrays)
    return optimized


def _examples(args: tuple[Any, ...]) -> tuple[Structure, list[Any]]:
    if not args:
        raise ValueError(
            f"{NAME}: give an example of each argument of fn, such as an array of the shape and "
            "dtype of its input; without one it cannot be traced and compared"
        )
    structure, arrays = split((args, {}))
    for leaf in (other[1] for other in structure.others if other is not None):
        if hasattr(leaf, "shape") and not isinstance(leaf, np.generic):
            raise TypeError(
                f"{NAME}: examples must be arrays with values, on which fn is compared, but got a "
                f"{type(leaf).__qualname__}; pass for example jnp.zeros(shape, dtype)"
            )
    if any(isinstance(array, Tracer) for array in arrays):
        raise TypeError(
            f"{NAME}: examples must be arrays with values, but got tracers; call it outside of "
            "jax.jit and other transformations, and call its result inside"
        )
    return structure, arrays


class _Compiled(NamedTuple):
    """A compiled program, its constants, and the structure of its result."""

    run: Callable[..., list[Any]]
    constants: list[Any]
    result: Structure


class _Optimized:
    """The function that ``optimize_for_inference`` returns."""

    def __init__(self, frozen: Frozen, structure: Structure, dtypes: list[np.dtype]):
        self._frozen, self._structure, self._dtypes = frozen, structure, dtypes
        self._programs: dict[Any, _Compiled] = {}
        self._computed: list[tuple[Jaxpr, list[Any], list[Any]]] = []
        self._copies: dict[int, tuple[Any, Any]] = {}
        functools.update_wrapper(self, frozen.fn, ("__doc__", "__name__", "__qualname__"), ())

    def __reduce__(self) -> tuple[Any, ...]:
        return _Optimized, (self._frozen, self._structure, self._dtypes)

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
                f"with arrays in the same places, but got {structure.tree}; optimize fn again with "
                "an example of this structure"
            )
        dtypes = [np.dtype(array.dtype) for array in arrays]
        if dtypes != self._dtypes:
            raise TypeError(
                f"the function of {NAME} takes arrays of the examples' dtypes, "
                f"{_names(self._dtypes)}, but got {_names(dtypes)}; convert them, or optimize fn "
                "again with an example of these dtypes"
            )

    # --- programs ---------------------------------------------------------------------------------

    def _compiled(self, arrays: Sequence[Any]) -> _Compiled:
        key = (*map(jax.typeof, arrays), implementation.resolve(None))
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
            copy = jax.numpy.array(array) if isinstance(array, np.ndarray) else array
            known = self._copies[id(array)] = (array, copy)
        return known[1]

    def _compile(self, program: OptimizedProgram, result: Structure) -> _Compiled:
        divided = divide(program.optimized, program.parameters)
        values = dict(zip(program.parameters, program.values, strict=True))
        read = [values[variable] for variable in divided.parameters]
        constants = [values[variable] for variable in divided.kept]
        constants += self._constants(divided.constant, read)
        run = jaxpr_as_fun(ClosedJaxpr(divided.rest, ()))
        return _Compiled(jax.jit(lambda c, arrays: run(*c, *arrays)), constants, result)

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
        compiled = self._compile(program, result)
        key = (*map(jax.typeof, arrays), implementation.resolve(None))
        self._programs[key] = compiled
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


def _is(a: Any, b: Any) -> bool:
    return a is b


def _names(dtypes: Sequence[np.dtype]) -> str:
    return ", ".join(dtype.name for dtype in dtypes) or "none"


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
        if variable not in parameters and not jax.numpy.issubdtype(dtype_of(variable), np.inexact)
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


def _multiplies(eqn: JaxprEqn) -> bool:
    name = eqn.primitive.name
    return name in ("dot_general", "conv_general_dilated", "conv", "fused_conv")

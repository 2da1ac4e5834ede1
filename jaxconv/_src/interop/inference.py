"""``optimize_for_inference``: a network with frozen parameters, prepared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.core import Tracer

from ..keywords import checks_keywords
from ..pytrees import Structure, split
from .frozen import NAME, freeze
from .optimized_function import OptimizedFunction, dtypes_of


@checks_keywords("optimize_for_inference")
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
    optimized = OptimizedFunction(frozen, structure, dtypes_of(arrays))
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

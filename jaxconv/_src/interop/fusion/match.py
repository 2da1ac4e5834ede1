"""Matches a convolution and the equations that follow it with a fused convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jax.extend.core import Var

from ...geometry.epilogue import NO_EPILOGUE, Epilogue
from .activations import recognize_activation, same_comparison
from .chain import Chain
from .convolution import Convolution, convolution
from .flat import FlatProgram, dtype_of, variables
from .links import Affine, Link


class Match(NamedTuple):
    """A convolution and the equations that can be fused with it.

    ``eqns`` are the equations after the convolution, as indices of flat equations. The fused
    operation computes ``epilogue``, whose operands ``affine`` describes, and then the views of
    ``link``. If ``same_derivative`` is false, it needs the derivative of these equations. The
    equations in ``masks`` compare the value before the activation with numbers, for a gradient
    inside the program, and may read the result instead.
    """

    at: int
    conv: Convolution
    eqns: tuple[int, ...]
    result: Var
    link: Link
    affine: Affine
    epilogue: Epilogue
    same_derivative: bool
    masks: tuple[int, ...]


def matches(program: FlatProgram) -> Iterator[tuple[int, Match | str]]:
    """Each convolution's index among the program's own equations, with its match or a reason.

    The last convolution comes first: of two that are added, the second one adds the first.
    """
    taken: set[int] = set()
    for at in reversed(range(len(program.eqns))):
        eqn, outer = program.eqns[at]
        conv = convolution(eqn)
        if conv is None:
            continue
        match = conv if isinstance(conv, str) else _match(at, Chain(program, at, conv, taken))
        if isinstance(match, Match):
            taken.update(match.eqns)
        yield outer, match


def _match(at: int, chain: Chain) -> Match | str:
    """The match with the longest epilogue, or the reason why there is none."""
    unmatched: list[int] | None = None
    kept: list[str] = []
    for variable, link in reversed(chain.links.items()):
        if variable is chain.start:
            break
        eqns = chain.between(chain.start, variable)
        masks = _masks(chain, eqns, variable)
        reason = _kept_value(chain, eqns, variable, masks)
        if reason is not None:
            kept.append(reason)
            continue
        match = _epilogue(at, chain, eqns, variable, masks)
        if match is not None:
            return match
        if link.affine is None:
            unmatched = unmatched or eqns
    return _reason(chain, unmatched, kept)


def _reason(chain: Chain, unmatched: list[int] | None, kept: list[str]) -> str:
    """The reason why nothing can be fused.

    ``unmatched`` is the longest function that is not an activation, and ``kept`` says which values
    must be kept.
    """
    program = chain.program
    if chain.start in program.results:
        return "its result is also a result of the program"
    readers = program.readers[chain.start]
    if not readers:
        return "nothing reads its result"
    failed = [at for at in readers if at in chain.failures]
    if failed and len(readers) > 1:
        return f"another equation ({program.name(failed[0])}) reads its result"
    if failed:
        return chain.failures[failed[0]]
    if unmatched is not None:
        names = dict.fromkeys(map(program.name, unmatched))
        return f"no activation has the values of what follows: {', '.join(names)}"
    return [*chain.failures.values(), *kept, "no epilogue follows"][0]


def _masks(chain: Chain, eqns: list[int], result: Any) -> list[int]:
    """The comparisons of values before ``result`` with numbers, after all of these equations."""
    program = chain.program
    values = [program.eqns[at].eqn.outvars[0] for at in eqns]
    return [
        reader
        for variable in (chain.start, *values)
        if variable is not result
        for reader in program.readers[variable]
        if reader > eqns[-1] and _is_mask(chain, reader)
    ]


def _is_mask(chain: Chain, at: int) -> bool:
    eqn = chain.program.eqns[at].eqn
    compares = eqn.primitive.name in ("gt", "ge", "lt", "le")
    return compares and eqn.outvars[0] in chain.links and chain.program.is_own(eqn.outvars[0])


def _kept_value(chain: Chain, eqns: list[int], result: Any, masks: list[int]) -> str | None:
    """The reason why a value other than ``result`` must be kept; None if there is none."""
    program = chain.program
    if any(len(program.jaxpr.eqns[program.eqns[at].outer].outvars) != 1 for at in eqns):
        return "a call that reads its result has several results"
    for variable in (chain.start, *(program.eqns[at].eqn.outvars[0] for at in eqns)):
        if variable is result:
            continue
        if variable in program.results:
            return "a value before the end of the epilogue is also a result of the program"
        others = [at for at in program.readers[variable] if at not in eqns and at not in masks]
        if others:
            what = "its result" if variable is chain.start else "a value of the epilogue"
            return f"another equation ({program.name(others[0])}) reads {what}"
    return None if program.is_own(result) else "the epilogue ends inside a call"


def _epilogue(
    at: int, chain: Chain, eqns: list[int], result: Any, masks: list[int]
) -> Match | None:
    """The match of these equations, if they are an epilogue."""
    conv, link = chain.conv, chain.links[result]
    if dtype_of(result) != conv.dtype:
        return None
    if link.affine is not None:
        found = _Activation(result, link.affine, NO_EPILOGUE, True)
    else:
        found = _activation(chain, result)
    if found is None or not all(_same_mask(chain, mask, found.argument, result) for mask in masks):
        return None
    _, affine, activation, same_derivative = found
    epilogue = affine.epilogue(activation)
    if epilogue.trivial:
        return None
    # Gradients of float32 arithmetic after a narrower convolution are float32, too.
    dtypes = {dtype_of(chain.program.eqns[at].eqn.outvars[0]) for at in eqns}
    wide = conv.wide_dtype != conv.dtype and conv.wide_dtype in dtypes
    same_derivative = same_derivative and not wide
    return Match(
        at, conv, tuple(eqns), result, link, affine, epilogue, same_derivative, tuple(masks)
    )


class _Activation(NamedTuple):
    """An activation of an affine value, and whether jaxconv's has the same derivative."""

    argument: Any
    affine: Affine
    epilogue: Epilogue
    same_derivative: bool


def _activation(chain: Chain, result: Any) -> _Activation | None:
    """The activation that ends with ``result``.

    It may start at any affine value: ``x + 3`` may be a bias, or the start of hard swish.
    """
    program = chain.program
    for argument, link in reversed(chain.links.items()):
        if link.affine is None:
            continue
        eqns = chain.between(argument, result)
        if not eqns or not all(_reads_only(chain, at, argument, eqns) for at in eqns):
            continue
        eqns = sorted({*eqns, *_constants(program, eqns)})
        found = recognize_activation(
            [program.eqns[at].eqn for at in eqns],
            argument,
            result,
            _single(program.function(eqns, [argument], [result])),
        )
        if found is not None:
            return _Activation(argument, link.affine, found.epilogue, found.same_derivative)
    return None


def _same_mask(chain: Chain, mask: int, argument: Any, result: Any) -> bool:
    """Whether a comparison of the argument gives the same if it reads the result instead."""
    program = chain.program
    eqn = program.eqns[mask].eqn
    if argument not in variables(eqn.invars):
        return False
    if chain.links[argument].views != chain.links[result].views:
        return False
    activation, comparison = (
        [program.eqns[at].eqn for at in sorted({*eqns, *_constants(program, eqns)})]
        for eqns in (chain.between(argument, result), [mask])
    )
    return same_comparison(activation, argument, result, comparison, eqn.outvars[0])


def _single(function: Callable[..., list[Any]]) -> Callable[..., Any]:
    return lambda *args: function(*args)[0]


def _reads_only(chain: Chain, at: int, argument: Any, eqns: list[int]) -> bool:
    """Whether an equation reads constants, the argument, and results of these equations alone."""
    program = chain.program
    return all(
        atom is argument
        or (program.producers[atom] in eqns if chain.is_link(atom) else program.is_constant(atom))
        for atom in variables(program.eqns[at].eqn.invars)
    )


def _constants(program: FlatProgram, eqns: list[int]) -> set[int]:
    """The equations that compute the constants which these read."""
    found: set[int] = set()
    pending = [atom for at in eqns for atom in variables(program.eqns[at].eqn.invars)]
    while pending:
        atom = pending.pop()
        if program.is_constant(atom):
            at = program.producers[atom]
            found.add(at)
            pending += variables(program.eqns[at].eqn.invars)
    return found

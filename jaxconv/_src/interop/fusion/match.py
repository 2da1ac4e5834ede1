"""Matches the equations that follow a convolution with an epilogue."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from ...geometry.epilogue import Epilogue
from .activations import recognize_activation
from .convolution import Convolution, convolution
from .elementwise import is_elementwise
from .flat import FlatProgram, variables

MAX_LINKS = 48  # values that are followed from one convolution; an epilogue has about 20


class View(NamedTuple):
    """A change of shape that keeps the values: a transpose, or else a reshape."""

    shape: tuple[Any, ...]
    new_shape: tuple[Any, ...]
    permutation: tuple[int, ...] | None = None


class Step(NamedTuple):
    """One operation with a value per feature or a single value: ``operation(value, vector)``.

    ``vector`` is an atom of the program or a float; ``operation`` is ``"mul"``, ``"div"``, ``"add"`` or ``"sub"``, or ``"rsub"`` for the vector
    minus the value.
    """

    operation: str
    vector: Any


@dataclasses.dataclass(frozen=True)
class Affine:
    """The steps since the convolution, and the array that is added last."""

    steps: tuple[Step, ...] = ()
    residual: Any = None
    residual_views: tuple[View, ...] = ()

    def then(self, operation: str, vector: Any) -> Affine:
        return dataclasses.replace(self, steps=(*self.steps, Step(operation, vector)))

    def epilogue(self) -> Epilogue:
        operations = {step.operation for step in self.steps}
        return Epilogue(
            scale=bool(operations & {"mul", "div", "rsub"}),
            bias=bool(operations & {"add", "sub", "rsub"}),
            residual=self.residual is not None,
        )


@dataclasses.dataclass(frozen=True)
class Link:
    """A value computed from the convolution's result alone, and its layout.

    ``affine`` is None if it is not an affine function of the result.
    """

    views: tuple[View, ...]
    feature_axis: int
    affine: Affine | None


@dataclasses.dataclass(frozen=True)
class Match:
    """A convolution and the equations that can be fused with it.

    ``eqns`` are the equations after the convolution, as indices of flat equations. If
    ``same_derivative`` is false, the fused operation needs the derivative of these equations.
    """

    at: int
    conv: Convolution
    eqns: tuple[int, ...]
    result: Var
    link: Link
    epilogue: Epilogue
    affine: Affine
    same_derivative: bool


class NotFusible(Exception):
    """Its argument is the reason, which completes "the convolution is not fused: …"."""


def matches(program: FlatProgram) -> Iterator[tuple[int, Match | str]]:
    """Each convolution's index among the program's own equations with its match or a reason.

    The last convolution comes first: of two that are added, the second one adds the first.
    """
    taken: set[int] = set()
    for at in reversed(range(len(program.eqns))):
        eqn, outer = program.eqns[at]
        conv = convolution(eqn)
        if conv is None:
            continue
        match = conv if isinstance(conv, str) else _Matcher(program, at, conv, taken).match()
        if isinstance(match, Match):
            taken |= set(match.eqns)
        yield outer, match


class _Matcher:
    """Follows the result of one convolution."""

    def __init__(self, program: FlatProgram, at: int, conv: Convolution, taken: set[int]):
        self.program, self.at, self.conv, self.taken = program, at, conv, taken
        (self.start,) = program.eqns[at].eqn.outvars
        self.links: dict[Any, Link] = {self.start: Link((), conv.feature_axis, Affine())}
        self.failures: dict[int, str] = {}  # of equations that read a link, with the reasons
        self.unmatched: list[int] | None = None  # the longest epilogue that no activation ends
        self.open_values: list[str] = []

    def match(self) -> Match | str:
        self._follow()
        for variable in reversed(list(self.links)):
            if variable is self.start:
                break
            eqns = self._between(self.start, variable)
            open_value = self._open_value(eqns, variable)
            if open_value is not None:
                self.open_values.append(open_value)
                continue
            match = self._match(eqns, variable)
            if match is not None:
                return match
            if self.links[variable].affine is None:
                self.unmatched = self.unmatched or eqns
        return self._reason()

    def _reason(self) -> str:
        """The reason why nothing can be fused."""
        if self.start in self.program.results:
            return "its result is also a result of the program"
        readers = self.program.readers[self.start]
        if not readers:
            return "nothing reads its result"
        failed = [at for at in readers if at in self.failures]
        if failed and len(readers) > 1:
            return f"another equation ({self._name(failed[0])}) reads its result"
        if failed:
            return self.failures[failed[0]]
        if self.unmatched is not None:
            names = dict.fromkeys(map(self._name, self.unmatched))
            return f"no activation has the values of what follows: {', '.join(names)}"
        return [*self.failures.values(), *self.open_values, "no epilogue follows"][0]

    def _name(self, at: int) -> str:
        eqn = self.program.eqns[at].eqn
        return eqn.params.get("name") or eqn.primitive.name

    # --- following the result ---------------------------------------------------------------------

    def _follow(self) -> None:
        """Extends the links equation by equation, in program order."""
        pending = list(self.program.readers[self.start])
        seen: set[int] = set()
        while pending and len(self.links) < MAX_LINKS:
            at = heapq.heappop(pending)
            if at in seen:
                continue
            seen.add(at)
            eqn = self.program.eqns[at].eqn
            try:
                self.links[eqn.outvars[0]] = self._extend(at, eqn)
            except NotFusible as reason:
                self.failures[at] = str(reason)
                continue
            for reader in self.program.readers[eqn.outvars[0]]:
                heapq.heappush(pending, reader)

    def _extend(self, at: int, eqn: JaxprEqn) -> Link:
        """The value of an equation that reads a link."""
        name = eqn.primitive.name
        if at in self.taken:
            raise NotFusible("the next operation is fused with another convolution")
        if not is_elementwise(eqn):
            raise NotFusible(f"{self._name(at)} reads its result")
        self._check_dtype(eqn.outvars[0].aval.dtype)
        links = [self.links[atom] for atom in eqn.invars if self._is_link(atom)]
        if name in ("reshape", "squeeze", "transpose", "broadcast_in_dim"):
            return self._viewed(eqn, links[0])
        link = links[0]
        if any(other.views != link.views for other in links):
            raise NotFusible("two layouts of its result are combined")
        if tuple(eqn.outvars[0].aval.shape) != tuple(self._link_shape(eqn)):
            raise NotFusible(f"{name} changes the shape of its result")
        if name in ("convert_element_type", "copy"):
            return link if len(links) == 1 else dataclasses.replace(link, affine=None)
        try:
            affine = self._affine(eqn, link, len(links))
        except NotFusible:
            if not self._elementwise_of_constants(eqn):
                raise
            affine = None
        return dataclasses.replace(link, affine=affine)

    def _is_link(self, atom: Any) -> bool:
        return not isinstance(atom, Literal) and atom in self.links

    def _link_shape(self, eqn: JaxprEqn) -> tuple[Any, ...]:
        return next(tuple(atom.aval.shape) for atom in eqn.invars if self._is_link(atom))

    def _check_dtype(self, dtype: Any) -> None:
        """Wider arithmetic is exact; narrower would round values that the fused operation keeps."""
        if jnp.dtype(dtype) not in (self.conv.dtype, self.conv.wide_dtype, jnp.dtype(bool)):
            raise NotFusible(f"its result is converted to {jnp.dtype(dtype).name}")

    def _viewed(self, eqn: JaxprEqn, link: Link) -> Link:
        shape, new_shape = (tuple(v.aval.shape) for v in (eqn.invars[0], eqn.outvars[0]))
        if eqn.primitive.name == "transpose":
            permutation = tuple(int(axis) for axis in eqn.params["permutation"])
            view, axis = View(shape, new_shape, permutation), permutation.index(link.feature_axis)
        else:
            found = _axis_after_reshape(shape, new_shape, link.feature_axis)
            plain = eqn.params.get("dimensions") is None or eqn.primitive.name == "squeeze"
            if found is None or not plain or len(variables(eqn.invars)) != 1:
                raise NotFusible(f"{eqn.primitive.name} changes the axis of features")
            view, axis = View(shape, new_shape), found
        return Link((*link.views, view), axis, link.affine)

    def _elementwise_of_constants(self, eqn: JaxprEqn) -> bool:
        return all(self._is_link(atom) or self.program.is_constant(atom) for atom in eqn.invars)

    # --- scale, bias and residual -----------------------------------------------------------------

    def _affine(self, eqn: JaxprEqn, link: Link, links: int) -> Affine | None:
        """The affine function after this equation; None if it is another function."""
        name, affine = eqn.primitive.name, link.affine
        if affine is None or links > 1 or not _is_floating(eqn):
            return self._only_of_constants(eqn)
        if name == "neg":
            return self._scaled(affine, "mul", -1.0)
        if name not in ("add", "add_any", "sub", "mul", "div"):
            return self._only_of_constants(eqn)
        first = self._is_link(eqn.invars[0])
        other = eqn.invars[1 if first else 0]
        vector = self._per_feature(other, link)
        if name == "mul" or (name == "div" and first):
            if vector is None:
                raise NotFusible(f"the {_OTHER[name]} is not per feature")
            return self._scaled(affine, name, vector)
        if name == "div":
            return self._only_of_constants(eqn)
        if vector is not None and name == "sub":
            return affine.then("sub", vector) if first else self._scaled(affine, "rsub", vector)
        if vector is not None:
            return affine.then("add", vector)
        if name == "sub" and first:
            raise NotFusible("the subtrahend is not per feature")
        if name == "sub":
            affine = self._scaled(affine, "mul", -1.0)
        return self._plus_residual(affine, other, link)

    def _only_of_constants(self, eqn: JaxprEqn) -> None:
        if not self._elementwise_of_constants(eqn):
            raise NotFusible(f"{eqn.primitive.name} combines its result with another array")

    def _scaled(self, affine: Affine, operation: str, vector: Any) -> Affine:
        if affine.residual is not None:
            raise NotFusible("the sum with the residual is scaled")
        return affine.then(operation, vector)

    def _plus_residual(self, affine: Affine, other: Any, link: Link) -> Affine:
        if affine.residual is not None:
            raise NotFusible("a second array is added")
        shape = link.views[-1].new_shape if link.views else self.start.aval.shape
        if isinstance(other, Literal) or tuple(other.aval.shape) != tuple(shape):
            raise NotFusible("the addend is neither per feature nor of the shape of the result")
        residual = self._of_dtype(other)
        if residual is None:
            raise NotFusible(
                f"the residual is {other.aval.dtype.name} and the result {self.conv.dtype.name}"
            )
        return dataclasses.replace(affine, residual=residual, residual_views=link.views)

    def _of_dtype(self, variable: Any) -> Any:
        """The variable itself or what it was converted from, in the dtype of the convolution."""
        if variable.aval.dtype == self.conv.dtype:
            return variable
        eqn = self.program.producer(variable)
        if eqn is None or eqn.primitive.name != "convert_element_type":
            return None
        (source,) = eqn.invars
        return source if source.aval.dtype == self.conv.dtype else None  # pyright: ignore[reportAttributeAccessIssue]

    def _per_feature(self, atom: Any, link: Link) -> Any:
        """What holds one value per feature, or a single value; None if there is no such array."""
        shape = tuple(atom.aval.shape)
        rank = len(link.views[-1].new_shape if link.views else self.start.aval.shape)
        if all(_is_one(n) for n in shape):
            return atom
        if len(shape) == rank and _only_axis(shape, link.feature_axis):
            return atom
        eqn = self.program.producer(atom)
        if eqn is None or eqn.primitive.name != "broadcast_in_dim" or len(eqn.invars) != 1:
            return None
        source: Any = eqn.invars[0]
        axes = [int(axis) for axis in eqn.params["broadcast_dimensions"]]
        sizes = zip(axes, source.aval.shape, strict=True)
        if all(_is_one(n) or axis == link.feature_axis for axis, n in sizes):
            return source
        return None

    # --- choosing what is fused -------------------------------------------------------------------

    def _between(self, start: Any, end: Any) -> list[int]:
        """The equations on all paths from one link to another, in program order."""
        found: set[int] = set()
        pending = [end]
        while pending:
            variable = pending.pop()
            if variable is start:
                continue
            at = self.program.producers[variable]
            if variable is self.start:
                found.add(at)
            elif at not in found:
                found.add(at)
                pending += [v for v in self.program.eqns[at].eqn.invars if self._is_link(v)]
        return sorted(found)

    def _open_value(self, eqns: list[int], result: Any) -> str | None:
        """The reason why a value other than ``result`` must be kept; None if there is none."""
        program = self.program
        outers = {program.eqns[at].outer for at in eqns}
        for outer in outers:
            if len(program.jaxpr.eqns[outer].outvars) != 1:
                return "a call that reads its result has several results"
        for variable in (self.start, *(program.eqns[at].eqn.outvars[0] for at in eqns)):
            if variable is result:
                continue
            if variable in program.results:
                return "a value before the end of the epilogue is also a result of the program"
            others = [at for at in program.readers[variable] if at not in eqns]
            if others:
                what = "its result" if variable is self.start else "a value of the epilogue"
                return f"another equation ({self._name(others[0])}) reads {what}"
        return None if program.is_own(result) else "the epilogue ends inside a call"

    def _match(self, eqns: list[int], result: Any) -> Match | None:
        link = self.links[result]
        if result.aval.dtype != self.conv.dtype:
            return None
        affine, epilogue, same_derivative = link.affine, Epilogue(), True
        if affine is None:
            found = self._activation(result)
            if found is None:
                return None
            affine, epilogue, same_derivative = found
        parts = affine.epilogue()
        epilogue = dataclasses.replace(
            epilogue, scale=parts.scale, bias=parts.bias, residual=parts.residual
        )
        if epilogue.trivial:
            return None
        return Match(
            at=self.at,
            conv=self.conv,
            eqns=tuple(eqns),
            result=result,
            link=link,
            epilogue=epilogue,
            affine=affine,
            same_derivative=same_derivative and not self._is_wide(eqns),
        )

    def _is_wide(self, eqns: list[int]) -> bool:
        """Whether float32 arithmetic follows a narrower convolution; then gradients are wide too."""
        dtypes = {self.program.eqns[at].eqn.outvars[0].aval.dtype for at in eqns}  # pyright: ignore[reportAttributeAccessIssue]
        return self.conv.wide_dtype in dtypes - {self.conv.dtype}

    def _activation(self, result: Any) -> tuple[Affine, Epilogue, bool] | None:
        """The affine function before the activation, the activation, and whether derivatives agree.

        The activation may start at any affine value: ``x + 3`` may be a bias, or the start of
        hard swish.
        """
        for argument, link in reversed(list(self.links.items())):
            if link.affine is None:
                continue
            eqns = self._between(argument, result)
            if not eqns or not all(self._reads_only(at, argument, eqns) for at in eqns):
                continue
            eqns = sorted({*eqns, *self._constants(eqns)})
            function = self.program.function(eqns, [argument], [result])
            found = recognize_activation(
                [self.program.eqns[at].eqn for at in eqns],
                argument,
                result,
                lambda z: function(z)[0],
            )
            if found is not None:
                return link.affine, found.epilogue, found.same_derivative
        return None

    def _reads_only(self, at: int, argument: Any, eqns: list[int]) -> bool:
        return all(
            atom is argument
            or (self.program.producers.get(atom) in eqns if self._is_link(atom) else False)
            or (not self._is_link(atom) and self.program.is_constant(atom))
            for atom in self.program.eqns[at].eqn.invars
        )

    def _constants(self, eqns: list[int]) -> set[int]:
        """The equations that compute the constants which these read."""
        found: set[int] = set()
        pending = [atom for at in eqns for atom in variables(self.program.eqns[at].eqn.invars)]
        while pending:
            atom = pending.pop()
            if not self._is_link(atom) and atom in self.program.producers:
                at = self.program.producers[atom]
                found.add(at)
                pending += variables(self.program.eqns[at].eqn.invars)
        return found


_OTHER = {"mul": "multiplier", "div": "divisor"}


def _is_floating(eqn: JaxprEqn) -> bool:
    return all(
        jnp.issubdtype(atom.aval.dtype, jnp.floating) for atom in (*eqn.invars, *eqn.outvars)
    )


def _is_one(n: Any) -> bool:
    return isinstance(n, int) and n == 1


def _only_axis(shape: tuple[Any, ...], axis: int) -> bool:
    return all(_is_one(n) for at, n in enumerate(shape) if at != axis)


def _axis_after_reshape(
    shape: tuple[Any, ...], new_shape: tuple[Any, ...], axis: int
) -> int | None:
    """Where a reshape leaves an axis; None if it does not keep it."""
    before = math.prod(shape[:axis])
    if math.prod(shape) != math.prod(new_shape):
        return None
    for at, n in enumerate(new_shape):
        if n == shape[axis] and math.prod(new_shape[:at]) == before:
            return at
    return None

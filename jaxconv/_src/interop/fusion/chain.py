"""Follows the result of a convolution through the equations that an epilogue may consist of."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal

from .affine import OPERATIONS, affine_after
from .convolution import Convolution
from .elementwise import is_elementwise
from .flat import FlatProgram, dtype_of, shape_of
from .links import VIEWS, Affine, Link, NotFusibleError, viewed

MAX_LINKS = 48  # values that are followed from one convolution; an epilogue has about 20


class Chain:
    """The values that are computed from the result of one convolution alone.

    ``links`` has them in program order, starting with the result. ``failures`` has the equations
    that read one of them but cannot be part of an epilogue, with the reasons. Equations in
    ``taken`` are fused with another convolution.
    """

    def __init__(self, program: FlatProgram, at: int, conv: Convolution, taken: Collection[int]):
        self.program, self.conv, self.taken = program, conv, taken
        (self.start,) = program.eqns[at].eqn.outvars
        self.links: dict[Any, Link] = {
            self.start: Link(shape_of(self.start), conv.feature_axis, (), Affine())
        }
        self.failures: dict[int, str] = {}
        self._follow()

    def _follow(self) -> None:
        pending = list(self.program.readers[self.start])
        seen: set[int] = set()
        while pending and len(self.links) < MAX_LINKS:
            at = heapq.heappop(pending)  # in program order, so that all operands are known
            if at in seen:
                continue
            seen.add(at)
            eqn = self.program.eqns[at].eqn
            try:
                self.links[eqn.outvars[0]] = self._extended(at, eqn)
            except NotFusibleError as reason:
                self.failures[at] = str(reason)
                continue
            for reader in self.program.readers[eqn.outvars[0]]:
                heapq.heappush(pending, reader)

    def _extended(self, at: int, eqn: JaxprEqn) -> Link:
        """The value of an equation that reads a link."""
        if at in self.taken:
            raise NotFusibleError("the operation that follows is fused with another convolution")
        if not is_elementwise(eqn):
            raise NotFusibleError(f"{self.program.name(at)} reads its result")
        self._check_dtype(dtype_of(eqn.outvars[0]))
        positions = [i for i, atom in enumerate(eqn.invars) if self.is_link(atom)]
        links = [self.links[eqn.invars[i]] for i in positions]
        link = links[0]
        if eqn.primitive.name in VIEWS:
            return viewed(eqn, link)
        if any(other.views != link.views for other in links):
            raise NotFusibleError("two layouts of its result are combined")
        if shape_of(eqn.outvars[0]) != link.shape:
            raise NotFusibleError(f"{self.program.name(at)} changes the shape of its result")
        if eqn.primitive.name in ("convert_element_type", "copy"):
            return link
        return dataclasses.replace(link, affine=self._affine(at, eqn, positions, link))

    def _affine(self, at: int, eqn: JaxprEqn, positions: list[int], link: Link) -> Affine | None:
        """The affine function after an equation; None if it is another function of the result."""
        if link.affine is not None and len(positions) == 1 and eqn.primitive.name in OPERATIONS:
            try:
                (position,) = positions
                return affine_after(self.program, eqn, position, link, link.affine, self.conv.dtype)
            except NotFusibleError:
                if not self._reads_only_constants(eqn):
                    raise
        if not self._reads_only_constants(eqn):
            raise NotFusibleError(f"{self.program.name(at)} combines its result with another array")
        return None

    def _reads_only_constants(self, eqn: JaxprEqn) -> bool:
        return all(self.is_link(atom) or self.program.is_constant(atom) for atom in eqn.invars)

    def _check_dtype(self, dtype: Any) -> None:
        """Wider arithmetic is exact; narrower would round what the fused operation does not."""
        if dtype not in (self.conv.dtype, self.conv.wide_dtype, jnp.dtype(bool)):
            raise NotFusibleError(f"its result is converted to {dtype.name}")

    def is_link(self, atom: Any) -> bool:
        return not isinstance(atom, Literal) and atom in self.links

    def between(self, start: Any, end: Any) -> list[int]:
        """The equations on all paths from one link to another, in program order.

        The convolution is one of them if a path does not lead through ``start``.
        """
        found: set[int] = set()
        pending = [end]
        while pending:
            variable = pending.pop()
            if variable is start:
                continue
            at = self.program.producers[variable]
            if at not in found:
                found.add(at)
                pending += filter(self.is_link, self.program.eqns[at].eqn.invars)
        return sorted(found)

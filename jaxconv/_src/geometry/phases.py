"""Which taps reach which inputs in a strided input gradient.

On one spatial axis, output ``o`` reads through tap ``t`` the input ``q`` with

    q + low = s*o + d*t                 (stride s, dilation d, padding low before the first input)

The input gradient goes the other way: it needs, for each input ``q``, all pairs ``(t, o)``. Write
``q = r + s*j`` with ``0 <= r < s``. Modulo ``s`` the equation is ``d*t = r + low``, which depends
only on the residue ``r``, so the inputs of one residue, a *phase*, are reached by the same taps.

With ``c = gcd(s, d)`` there is no such tap if ``c`` does not divide ``r + low``. Otherwise the
equation divided by ``c`` is ``(d/c)*t = (r + low)/c  (mod s/c)``, and ``d/c`` is invertible in it.
So the taps are

    t_i = first + (s/c)*i               first = (r + low)/c * (d/c)^-1  mod s/c

and the output that input ``r + s*j`` contributes to through tap ``t_i`` is

    o = (r + s*j + low - d*t_i) / s = j + (r + low - d*first)/s - (d/c)*i

Each phase is therefore a convolution of the cotangent without stride, by every ``s/c``-th tap in
reverse order, with dilation ``d/c``.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Phase(NamedTuple):
    """The inputs ``r + s*j`` of one residue ``r``: which taps reach them, and from which outputs.

    They are the taps ``first + tap_step*i`` for ``0 <= i < number``; tap ``i`` connects input ``j``
    of the phase with output ``j + output - output_step*i``. With ``number`` 0 no tap reaches them.
    """

    first: int
    tap_step: int
    number: int
    output: int
    output_step: int


def steps(stride: int, dilation: int) -> tuple[int, int]:
    """``s/c`` and ``d/c``: how far apart neighboring taps of a phase and their outputs are."""
    common = math.gcd(stride, dilation)
    return stride // common, dilation // common


def phase(residue: int, taps: int, stride: int, dilation: int, low: int) -> Phase:
    """The phase of one residue, of a kernel with this many taps along the axis.

    >>> phase(1, taps=3, stride=2, dilation=1, low=1)
    Phase(first=0, tap_step=2, number=2, output=1, output_step=1)
    """
    tap_step, output_step = steps(stride, dilation)
    scaled, remainder = divmod(residue + low, stride // tap_step)
    # Where no tap fits, one past the kernel.
    first = taps if remainder else scaled * pow(output_step, -1, tap_step) % tap_step
    number = len(range(first, taps, tap_step))
    output = (residue + low - dilation * first) // stride
    return Phase(first, tap_step, number, output, output_step)

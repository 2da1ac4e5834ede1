"""One convolution on several devices: which factors are cut, what is exchanged, what is summed.

The trilinear form ``T(x, k, g)`` of ``primitives.py`` has these factors, each in two or three of
its arrays: the batch in x and g; every spatial axis in x and g; the in-features in x and k, and the
out-features in k and g, or where features are grouped the groups in all three. A factor may be cut
over mesh axes, and then every device computes the same operator of a smaller spec:

    a factor of the result     each device computes its part; for a spatial axis it needs a halo
    a factor that is summed    each device computes a part of the sum, and one all-reduce adds them

so no activation is ever gathered. XLA asks for the partition through jax's custom partitioning, by
a rule in Shardy's words, and gets the operator of one shard, from whichever kernel dispatch chooses
for it: also one that XLA itself could not partition.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning

from . import compat, halo
from .primitives import RESULT, ROLES, bind
from .spec import ConvSpec, Operator, effective_extent

Axes = tuple[str, ...]


def partitioned(operator: Operator, platform: str, spec: ConvSpec, dtype, compute: Callable):
    """``operator`` as a function of its operands that XLA may cut along every factor.

    ``compute(spec, dtype, a, b)`` is the operator of a smaller spec, on one device.
    """
    settings = _settings(compat.no_mesh(platform))

    def whole(a, b):
        return bind(operator, a, b, spec, dtype=dtype)  # for its type; never lowered

    def partition(mesh, operands, result):
        roles = (*ROLES[operator], RESULT[operator])
        partitions = [_partitions(array) for array in (*operands, result)]
        cut = plan(spec, dict(mesh.shape), dict(zip(roles, partitions, strict=True)))
        shardings = [compat.named_sharding(mesh, cut.partitions(role)) for role in roles]

        def on_shard(a, b):
            with settings():
                return run(operator, cut, a, b, dtype, compute)

        return mesh, on_shard, shardings[2], tuple(shardings[:2])

    function = custom_partitioning(whole)
    function.def_partition(partition, sharding_rule=rule(operator, spec), **special(operator, spec))
    return function


def _settings(mesh: Any) -> Callable[[], contextlib.AbstractContextManager]:
    """This thread's settings, for XLA's threads, which have none; but ``mesh`` for the caller's,
    which is about whole arrays."""
    config: Any = jax.config
    x64, precision = config.jax_enable_x64, config.jax_default_matmul_precision

    @contextlib.contextmanager
    def settings():
        with (
            jax.sharding.use_abstract_mesh(mesh),
            jax.enable_x64(x64),
            jax.default_matmul_precision(precision),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            yield

    return settings


# --- the rule -------------------------------------------------------------------------------------


def factors(spec: ConvSpec) -> dict[str, str]:
    """The letters of every factor, and the roles that carry it."""
    spatial = {f"s{axis}": "xg" for axis in range(spec.rank)}
    features = {"c": "xk", "f": "kg"} if spec.groups == 1 else {"j": "xkg"}
    return {"n": "xg", **spatial, **features}


def _letters(role: str, spec: ConvSpec) -> tuple:
    """The factor that each axis of ``role`` is cut along, or None."""
    spatial = tuple(f"s{axis}" for axis in range(spec.rank))
    one = spec.groups == 1
    match role:
        case "x":
            return ("n", *spatial, "c" if one else "j")
        case "g":
            return ("n", *spatial, "f" if one else "j")
        case _:
            return (*(None,) * spec.rank, "c" if one else None, "f" if one else "j")


def rule(operator: Operator, spec: ConvSpec) -> str:
    """Shardy's rule, such as ``n s0 c, t0 c f -> n s0 f``."""
    a, b = (_axes_rule(role, spec) for role in ROLES[operator])
    return f"{a}, {b} -> {_axes_rule(RESULT[operator], spec)}"


def _axes_rule(role: str, spec: ConvSpec) -> str:
    """Groups of features stand before the features of a group, which are never cut."""
    within = "u" if role == "x" else "v"
    words = []
    for at, letter in enumerate(_letters(role, spec)):
        if letter == "j" and within in _within(spec):
            words.append(f"(j {within})")
        else:
            words.append(letter or (f"t{at}" if at < spec.rank else "i"))
    return " ".join(words)


def _within(spec: ConvSpec) -> dict[str, int]:
    """The factors beside the groups within an axis of features; Shardy takes none of size 1."""
    sizes = {"u": spec.group_in, "v": spec.group_out} if spec.groups > 1 else {}
    return {name: size for name, size in sizes.items() if size > 1}


def special(operator: Operator, spec: ConvSpec) -> dict[str, Any]:
    """Which factors are summed, exchanged or never cut, and the sizes of those within an axis."""
    summed = [name for name, roles in factors(spec).items() if RESULT[operator] not in roles]
    kept = [f"t{axis}" for axis in range(spec.rank)]
    kept += [*(["i"] if spec.groups > 1 else []), *_within(spec)]
    sizes = _within(spec)
    if len(sizes) == 2:  # else the groups are an axis of their own, whose size Shardy knows
        sizes["j"] = spec.groups
    # In the order of the rule, as Shardy demands.
    kept.sort(key=re.findall(r"\w+", rule(operator, spec)).index)
    exchanged = [f"s{axis}" for axis in range(spec.rank) if f"s{axis}" not in summed]
    return {
        "reduction_factors": tuple(summed),
        "need_replication_factors": tuple(kept),
        "permutation_factors": tuple(exchanged),
        **sizes,
    }


# --- the plan -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cut:
    """The mesh axes that each factor is cut over, and into how many parts."""

    spec: ConvSpec
    axes: dict[str, Axes]
    parts: dict[str, int]

    def partitions(self, role: str) -> tuple:
        return tuple(self.axes.get(letter) for letter in _letters(role, self.spec))

    def summed(self, operator: Operator) -> Axes:
        """The mesh axes whose devices hold parts of one sum."""
        absent = (n for n, roles in factors(self.spec).items() if RESULT[operator] not in roles)
        return tuple(axis for name in absent for axis in self.axes.get(name, ()))

    def spatial(self) -> Iterator[tuple[int, Axes, int]]:
        """The spatial axes that are cut, their mesh axes, and into how many parts."""
        for axis in range(self.spec.rank):
            name = f"s{axis}"
            if name in self.axes:
                yield axis, self.axes[name], self.parts[name]


def plan(spec: ConvSpec, mesh: dict[str, int], partitions: dict[str, tuple]) -> Cut:
    """Cuts each factor as the first array that cuts it, operands first, where that comes out even.

    A mesh axis cuts one factor; what is left of an array's partition is gathered.
    """
    axes, parts, used = {}, {}, set()
    for name, roles in factors(spec).items():
        for role in (role for role in partitions if role in roles):
            entry = partitions[role][_letters(role, spec).index(name)]
            chosen, count = _even(entry, mesh, used, _sizes(name, spec))
            if chosen:
                axes[name], parts[name] = chosen, count
                used |= set(chosen)
                break
    return Cut(spec, axes, parts)


def _sizes(name: str, spec: ConvSpec) -> tuple[int, ...]:
    """The extents that the parts of a factor must divide."""
    if name.startswith("s"):
        axis = int(name[1:])
        return spec.input_spatial[axis], spec.output_spatial[axis]
    sizes = {"n": spec.batch, "c": spec.in_features, "f": spec.out_features, "j": spec.groups}
    return (sizes[name],)


def _even(entry, mesh, used, sizes) -> tuple[Axes, int]:
    """The leading mesh axes of a partition's entry that are free and cut all sizes evenly."""
    chosen, count = [], 1
    for axis in (entry,) if isinstance(entry, str) else entry or ():
        if axis in used or any(size % (count * mesh[axis]) for size in sizes):
            break
        chosen.append(axis)
        count *= mesh[axis]
    return tuple(chosen), count


def _partitions(array) -> tuple:
    spec = tuple(array.sharding.spec) if array.sharding is not None else ()
    return spec + (None,) * (len(array.shape) - len(spec))


# --- one shard ------------------------------------------------------------------------------------


def run(operator: Operator, cut: Cut, a, b, dtype, compute: Callable):
    """The operator's result on one device, from its parts of the operands."""
    summed = cut.summed(operator)
    # Partial sums of half precision are not rounded before they are added.
    wide = jnp.promote_types(dtype, jnp.float32) if summed else dtype
    inverse = operator is Operator.INPUT_GRAD
    window = inverse_window if inverse else forward_window
    windows = {axis: window(cut.spec, axis, parts) for axis, _, parts in cut.spatial()}
    for axis, names, _ in cut.spatial():
        a = halo.window(a, axis + 1, names, windows[axis].starts, windows[axis].size)
    result = compute(local_spec(cut, windows), wide, a, b)
    if inverse:
        for axis, names, n in cut.spatial():
            result = _part(
                result, axis + 1, names, windows[axis].firsts, cut.spec.input_spatial[axis] // n
            )
    return (lax.psum(result, summed) if summed else result).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Window:
    """One cut spatial axis: what each device reads of its activation, and the spec's sizes there.

    Device ``p`` reads ``size`` entries from ``starts[p]`` on; of an input gradient it keeps what
    it has from ``firsts[p]`` on.
    """

    starts: tuple[int, ...]
    size: int
    input_extent: int
    padding: tuple[int, int]
    firsts: tuple[int, ...] = ()


def forward_window(spec: ConvSpec, axis: int, parts: int) -> Window:
    """The inputs ``s*o + d*t - low`` of the outputs of a device, over all taps."""
    outputs, s, low = spec.output_spatial[axis] // parts, spec.strides[axis], spec.padding[axis][0]
    size = s * (outputs - 1) + spec.effective_kernel[axis]
    starts = tuple(s * outputs * p - low for p in range(parts))
    return Window(starts, size, size, (0, 0))


def inverse_window(spec: ConvSpec, axis: int, parts: int) -> Window:
    """The outputs that read a device's inputs: those with ``s*o + d*t - low = i`` for a tap t.

    The first that may is ``floor((i0 + low - reach) / s)`` with i0 the device's first input and
    reach the last tap's distance. From that output, all inputs after the reach of its first tap are
    complete, so the device's own begin up to s - 1 places into what is computed.
    """
    inputs, s, low = spec.input_spatial[axis] // parts, spec.strides[axis], spec.padding[axis][0]
    reach = spec.effective_kernel[axis] - 1
    starts = tuple((inputs * p + low - reach) // s for p in range(parts))
    firsts = tuple((inputs * p + low - reach) % s for p in range(parts))
    extent = inputs + max(firsts)
    size = (extent - 1 + reach) // s + 1
    return Window(starts, size, extent, (reach, effective_extent(size, s) - extent), firsts)


def local_spec(cut: Cut, windows: dict[int, Window]) -> ConvSpec:
    spec, parts = cut.spec, cut.parts
    groups = parts.get("j", 1)
    spatial, padding = list(spec.input_spatial), list(spec.padding)
    for axis, window in windows.items():
        spatial[axis], padding[axis] = window.input_extent, window.padding
    return spec.replace(
        batch=spec.batch // parts.get("n", 1),
        in_features=spec.in_features // parts.get("c", groups),
        out_features=spec.out_features // parts.get("f", groups),
        groups=spec.groups // groups,
        input_spatial=tuple(spatial),
        padding=tuple(padding),
    )


def _part(x, axis: int, names: Axes, firsts: tuple[int, ...], size: int):
    if len(set(firsts)) == 1:
        return lax.slice_in_dim(x, firsts[0], firsts[0] + size, axis=axis)
    return lax.dynamic_slice_in_dim(x, jnp.asarray(firsts)[lax.axis_index(names)], size, axis)

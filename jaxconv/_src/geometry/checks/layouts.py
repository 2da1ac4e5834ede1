"""Checks of the arrays of single functions: how kernels are laid out."""

from __future__ import annotations

from typing import Any

from ..spec import Shape
from .call import Call, shown
from .foreign_layouts import layout_hint
from .sizes import batched, integer, known, sequence, spatial_rank


def bias(call: Call, value: Any, out_features: int) -> None:
    if value is not None:
        per_feature(call, "bias", value, out_features)


def per_feature(call: Call, name: str, value: Any, out_features: int) -> None:
    if tuple(value.shape) != (out_features,):
        raise call.error(f"{name} must have shape [F] = ({out_features},)")


def depthwise_kernel(call: Call, name: str, x_shape: Shape, kernel_shape: Shape) -> None:
    """A depthwise kernel is ``[*K, 1, C*M]``; Keras and TensorFlow use ``[*K, C, M]``."""
    batched(call, "x", x_shape, spatial_rank(call, len(kernel_shape), name))
    channels, (group_in, out_features) = x_shape[-1], kernel_shape[-2:]
    if not known(channels, group_in, out_features):
        return
    if group_in != 1:
        fix = f"; reshape Keras's [*K, C, M] with {name}.reshape(*{name}.shape[:-2], 1, -1)"
        raise call.error(
            f"{name} must be [*K, 1, C*M], but its second-to-last axis has size {group_in}"
            f"{fix if group_in == channels else layout_hint(call, kernel=name)}"
        )
    if out_features % channels if channels else out_features:
        raise call.error(
            f"{name}'s last axis must be a multiple of x's {channels} channels, with one or more "
            f"filters per channel, but got {out_features}{layout_hint(call, kernel=name)}"
        )


def pointwise_kernel(call: Call, x_shape: Shape, kernel_shape: Shape, strides: Any) -> None:
    """A pointwise kernel is ``[1, …, 1, C, F]``, or ``[C, F]`` when the stride is 1."""
    if len(kernel_shape) == 2:
        if not x_shape:
            raise call.error("x must have a channel axis, but it is a scalar")
        entries = sequence(strides)
        entries = (strides,) if entries is None else entries
        if any(integer(call, "strides", entry) != 1 for entry in entries):
            raise call.error(
                f"a kernel [C, F] has no spatial axes to stride over, but got strides "
                f"{shown(strides)}; "
                f"reshape the kernel to [1, …, 1, C, F]"
            )
    elif any(k != 1 for k in kernel_shape[: spatial_rank(call, len(kernel_shape))]):
        raise call.error(
            f"kernel must be [1, …, 1, C, F] or [C, F]"
            f"{layout_hint(call) or '; for larger kernels use jaxconv.conv'}"
        )


def separable_kernel(call: Call, depthwise_shape: Shape, pointwise_shape: Shape) -> None:
    """The pointwise kernel of a separable convolution reads what the depthwise one returns."""
    ranks = (2, len(depthwise_shape))
    if len(pointwise_shape) not in ranks or any(extent != 1 for extent in pointwise_shape[:-2]):
        raise call.error("pointwise_kernel must be [1, …, 1, C*M, F] or [C*M, F]")
    if known(pointwise_shape[-2], depthwise_shape[-1]) and (
        pointwise_shape[-2] != depthwise_shape[-1]
    ):
        raise call.error(
            f"pointwise_kernel must read the C*M features that depthwise_kernel returns, but "
            f"{pointwise_shape[-2]} != {depthwise_shape[-1]}"
        )


def causal_kernel(call: Call, kernel_shape: Shape) -> None:
    if len(kernel_shape) != 3:
        raise call.error(
            f"a causal convolution has one spatial axis, so kernel must be [K, C/G, F], but it has "
            f'{len(kernel_shape)} axes; in more dimensions use conv with padding=("CAUSAL", "SAME")'
        )


def filter_bank(call: Call, x_shape: Shape, bank_shape: Shape) -> None:
    """A bank ``[*K, 1, M]`` has as many spatial axes as ``x``."""
    if len(bank_shape) < 3 or bank_shape[-2] != 1 or len(x_shape) - len(bank_shape) not in (0, -1):
        raise call.error("bank must be [*K, 1, M], with as many spatial axes as x")

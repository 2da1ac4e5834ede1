"""An unknown keyword argument is an error that names the right one."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

# Names of one meaning: in lax, Flax, Keras, PyTorch, TensorFlow, Haiku, Equinox, SciPy and here.
SYNONYMS = (
    "strides stride window_strides window_stride subsample step steps output_stride",
    "dilation dilations kernel_dilation kernel_dilations rhs_dilation dilation_rate rate "
    "atrous_rate",
    "groups group num_groups n_groups group_count feature_group_count",
    "padding pad pads paddings pad_mode padding_mode border_mode boundary",
    "output_padding out_padding",
    "input_dilation lhs_dilation",
    "x input inputs image images lhs data operand",
    "kernel kernels weight weights w filter filters k rhs bank",
    "bias biases b",
    "g cotangent grad gradient grad_output out_backprop dy",
    "iterations n_power_iterations num_iterations n_steps",
    "epsilon eps",
    "scale magnitude gain",
    "factor upscale_factor downscale_factor scale_factor block_size",
    "input_spatial output_size input_size input_shape input_sizes",
    "kernel_spatial kernel_size kernel_shape weight_size filter_sizes",
    "in_features in_channels input_channels",
    "features out_features out_channels output_channels channels_out",
    "multiplier depth_multiplier channel_multiplier",
    "use_bias with_bias bias",
    "batch_size batch n",
    "preferred_element_type out_dtype result_dtype dtype",
    "implementation impl method backend algorithm",
    "activation act nonlinearity activation_fn",
    "residual add shortcut skip",
    "axis_name axis_names mesh_axis",
    "kernel_init weight_init w_init kernel_initializer",
    "bias_init b_init bias_initializer",
    "platforms platform backend",
    "fn function f func",
    "rngs rng key",
    "segment_ids seq_idx segment_id segments",
    "initial_state initial_states init_state state conv_state",
    "return_final_state return_final_states return_state",
    "lengths seq_lens sequence_lengths cache_seqlens",
)


def checks_keywords(name: str, also: Iterable[str] = ()) -> Callable[[Function], Function]:
    """A decorator: keyword arguments that the function does not have are an error in words.

    ``name`` is what users call it; ``also`` are the keywords that its ``**keywords`` may be.
    """

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        own = [each.name for each in parameters if each.kind in _BY_NAME and each.name != "self"]
        arguments = (*own, *also)

        @functools.wraps(function)
        def checked(*args: Any, **keywords: Any) -> Any:
            try:
                return function(*args, **keywords)
            except TypeError:  # only now, so that valid calls do not pay for the check
                if keywords.keys() <= set(arguments):
                    raise
            raise unknown(name, keywords, arguments)

        return checked  # pyright: ignore[reportReturnType] (it has the signature of ``function``)

    return decorate


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def unknown(function: str, keywords: Iterable[str], arguments: Sequence[str]) -> TypeError:
    """The error for the first of ``keywords`` that is not among ``arguments``."""
    keyword = next(each for each in keywords if each not in arguments)
    meant = _meant(keyword, arguments)
    hint = f"did you mean {meant!r}?" if meant else f"its arguments are {', '.join(arguments)}"
    return TypeError(f"{function}() has no argument {keyword!r}; {hint}")


def _meant(keyword: str, arguments: Sequence[str]) -> str | None:
    """The argument that has the same meaning, or else nearly the same name."""
    for names in map(str.split, SYNONYMS):
        if keyword.lower() in names:
            same = [name for name in arguments if name in names]
            if same:
                return same[0]
    close = difflib.get_close_matches(keyword.lower(), arguments, 1, 0.6)
    return close[0] if close else None

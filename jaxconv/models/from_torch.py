"""Loading PyTorch weights in torchvision's layout into the networks of this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from .convnext import ConvNeXtBlock, ConvNeXtT
from .efficientnet import EfficientNetB0
from .mobilenet_v2 import MobileNetV2
from .mobilenet_v3 import MobileNetV3Large, MobileNetV3Small
from .resnet import ResNet50

# By torchvision's name: the network, and the entry whose length is the number of classes.
NETWORKS: dict[str, tuple[type[Any], str]] = {
    "convnext_tiny": (ConvNeXtT, "classifier.2.bias"),
    "efficientnet_b0": (EfficientNetB0, "classifier.1.bias"),
    "mobilenet_v2": (MobileNetV2, "classifier.1.bias"),
    "mobilenet_v3_large": (MobileNetV3Large, "classifier.3.bias"),
    "mobilenet_v3_small": (MobileNetV3Small, "classifier.3.bias"),
    "resnet50": (ResNet50, "fc.bias"),
}
SUPPORTED = ", ".join(make.__name__ for make, _ in NETWORKS.values())
MAX_NAMES_LISTED = 5  # of each kind, in an error message


class Place(NamedTuple):
    """A variable, and PyTorch's axis for each of its axes."""

    variable: Any
    axes: tuple[int, ...]

    @property
    def torch_shape(self) -> tuple[int, ...]:
        own = (*self.variable.shape, *(1,) * len(self.axes))
        return tuple(own[self.axes.index(axis)] for axis in range(len(self.axes)))

    def put(self, array: np.ndarray) -> None:
        own = array.transpose(self.axes).reshape(self.variable.shape)
        self.variable[...] = jnp.asarray(own, self.variable.dtype)

    def get(self) -> np.ndarray:
        """The variable's values in PyTorch's layout."""
        own = (*self.variable.shape, *(1,) * len(self.axes))[: len(self.axes)]
        return np.asarray(self.variable[...]).reshape(own).transpose(np.argsort(self.axes))


def from_torch(network: Any, state_dict: Mapping[str, Any]) -> Any:
    """Loads a PyTorch ``state_dict`` in torchvision's layout into a network.

    ``ConvNeXtT``, ``EfficientNetB0``, ``MobileNetV2``, ``MobileNetV3Large``, ``MobileNetV3Small``
    and ``ResNet50`` are supported. torchvision has no MobileNetV1, and its AlexNet is another
    network, with one group and other widths. PyTorch is not required. ``layer_from_torch`` converts
    single layers.

    Args:
        network: A network of this package, whose parameters and statistics are replaced; or one of
            torchvision's names ``"convnext_tiny"``, ``"efficientnet_b0"``, ``"mobilenet_v2"``,
            ``"mobilenet_v3_large"``, ``"mobilenet_v3_small"`` and ``"resnet50"``, which creates
            the network with the classifier's number of classes.
        state_dict: A mapping from names to tensors or NumPy arrays.

    Returns:
        The network.

    Raises:
        ValueError: Names are missing or unknown, or shapes differ; then nothing is loaded.
        TypeError: ``network`` is not supported, or ``state_dict`` is not a mapping.

    >>> from flax import nnx
    >>> from jaxconv.models import ResNet50
    >>> network = ResNet50(3, width=4, depths=(1,), rngs=nnx.Rngs(0))
    >>> from_torch(network, {"fc.bias": [0.0, 1.0]})
    Traceback (most recent call last):
    ...
    ValueError: from_torch: the state_dict does not fit ResNet50: missing bn1.bias,
    bn1.running_mean, bn1.running_var, bn1.weight, conv1.weight and 21 more;
    fc.bias must be (3,), but is (2,)

    Source: the documentation of ``torch.nn.Module.load_state_dict`` and of ``torchvision.models``.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"from_torch: state_dict must map names to arrays, but got {type(state_dict).__name__}"
        )
    if isinstance(network, str):
        network = _make(network, state_dict)
    if not isinstance(network, tuple(make for make, _ in NETWORKS.values())):
        raise TypeError(
            f"from_torch: network must be one of {SUPPORTED}, or one of the names "
            f"{', '.join(NETWORKS)}, but got {type(network).__name__}; torchvision has no "
            "MobileNetV1, and its AlexNet is another network (one group, other widths)"
        )
    places = dict(places_of(network.torch_layers()))
    arrays = {
        name: as_array(value)
        for name, value in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    _check(type(network).__name__, places, arrays)
    for name, place in places.items():
        place.put(arrays[name])
    return network


def _make(name: str, state_dict: Mapping[str, Any]) -> Any:
    if name not in NETWORKS:
        raise ValueError(
            f"from_torch: network must be one of {', '.join(NETWORKS)}, but got {name!r}; "
            "torchvision has no MobileNetV1, and its AlexNet is another network (one group, other "
            "widths)"
        )
    make, last = NETWORKS[name]
    shape = np.shape(state_dict[last]) if last in state_dict else ()
    return make(*shape[:1], rngs=nnx.Rngs(0))


def places_of(layers: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Place]]:
    """The variables of named layers, by PyTorch's names."""
    for prefix, layer in layers:
        for entry, place in entries_of(layer).items():
            if place.variable is not None:
                yield f"{prefix}.{entry}", place


def entries_of(layer: Any) -> dict[str, Place]:
    """The variables of one layer, by PyTorch's names."""
    if isinstance(layer, ConvNeXtBlock):
        return {"layer_scale": Place(layer.scale, (0, 1, 2))}
    bias = {"bias": Place(layer.bias, (0,))}
    if (kernel := getattr(layer, "kernel", None)) is not None:  # [*K, C, F], in PyTorch [F, C, *K]
        return {"weight": Place(kernel, (*range(2, len(kernel.shape)), 1, 0)), **bias}
    normalized = {"weight": Place(layer.scale, (0,)), **bias}
    if isinstance(layer, nnx.BatchNorm):
        running = {"running_mean": layer.mean, "running_var": layer.var}
        normalized |= {name: Place(variable, (0,)) for name, variable in running.items()}
    return normalized


def as_array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor; float64 represents bfloat16, which NumPy lacks
        value = value.detach().cpu().double().numpy()
    return np.asarray(value)


def _check(network: str, places: Mapping[str, Place], arrays: Mapping[str, np.ndarray]) -> None:
    problems = []
    if missing := places.keys() - arrays.keys():
        problems.append(f"missing {_listed(sorted(missing))}")
    if unknown := arrays.keys() - places.keys():
        problems.append(f"unknown {_listed(sorted(unknown))}")
    shapes = {
        name: (places[name].torch_shape, arrays[name].shape) for name in places if name in arrays
    }
    if differ := [f"{n} must be {a}, but is {b}" for n, (a, b) in shapes.items() if a != b]:
        problems.append(_listed(differ))
    if problems:
        raise ValueError(
            f"from_torch: the state_dict does not fit {network}: {'; '.join(problems)}"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_LISTED} more" if len(names) > MAX_NAMES_LISTED else ""
    return ", ".join(names[:MAX_NAMES_LISTED]) + more

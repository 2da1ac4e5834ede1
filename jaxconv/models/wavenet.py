"""WaveNet: dilated causal convolutions that predict a waveform's next sample from all before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._src.flax.semantics import positive
from ..nnx import CausalConv, PointwiseConv
from .tokens import check_tokens

Array = jax.Array
States = tuple[Array, ...]

# One stack: each layer doubles the receptive field, which ends at 1,024 samples.
STACK = tuple(2**layer for layer in range(10))


class Layer(nnx.Module):
    """A gated dilated convolution, whose result goes on twice: into the sum and out of the stack.

        z = tanh(filter * x) · sigmoid(gate * x);   x + residual z, skip z

    Args:
        features, skip: Features of the layers' sum and of what each gives to the output.
        dilation: Samples between the two taps.
        dtypes: ``dtype``, ``param_dtype`` and ``rngs``, as in Flax.
    """

    def __init__(self, features: int, skip: int, dilation: int, dtypes: dict[str, Any]):
        self.conv = CausalConv(features, 2 * features, 2, kernel_dilation=dilation, **dtypes)
        self.residual = PointwiseConv(features, features, **dtypes)
        self.skip = PointwiseConv(features, skip, **dtypes)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        return self._gated(x, self.conv(x))

    def step(self, state: Array, x: Array) -> tuple[Array, Array, Array]:
        y, state = self.conv.step(state, x)
        return *self._gated(x, y), state

    def _gated(self, x: Array, y: Array) -> tuple[Array, Array]:
        features = x.shape[-1]
        z = jnp.tanh(y[..., :features]) * jax.nn.sigmoid(y[..., features:])
        return x + self.residual(z), self.skip(z)


class WaveNet(nnx.Module):
    """WaveNet: the distribution of every sample given those before it.

    Samples are token ids, such as the 256 levels of µ-law. Each is embedded; layers of causal
    convolutions with two taps and growing dilation follow, whose outputs are summed and turned into
    logits. A stack of dilations 1, 2, 4, …, 512 sees 1,024 samples for 10 layers' work.

    Args:
        classes: Levels of a sample.
        features: Features of every layer.
        skip: Features of the sum of the layers' outputs.
        dilations: Of each layer; the paper repeats the stack of ten three times or more.
        dtype, param_dtype: Of the computation and of the parameters, as in Flax.
        rngs: The stream ``params`` gives the initial values.

    Called with ``tokens [N, L]``, integers, it returns ``logits [N, L, classes]``: those at ``i``
    are of sample ``i + 1``, and depend on no later sample.

    Raises:
        ValueError: A size is not positive, ``tokens`` do not have two axes, or an id is out of
            range.
        TypeError: ``tokens`` are not integers.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> network = WaveNet(16, features=4, skip=8, dilations=(1, 2, 4), rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((2, 9), int)).shape
    (2, 9, 16)

    Source: A. van den Oord et al., "WaveNet: a generative model for raw audio" (2016); the
    streaming of T. Paine et al., "Fast WaveNet generation algorithm" (2016).
    """

    def __init__(
        self,
        classes: int = 256,
        *,
        features: int = 32,
        skip: int = 256,
        dilations: Sequence[int] = STACK,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        positive("WaveNet", classes=classes, features=features, skip=skip)
        if not dilations:
            raise ValueError("WaveNet: dilations must name one layer or more, but are empty")
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.classes = classes
        self.embed = nnx.Embed(classes, features, **dtypes)
        self.layers = nnx.List([Layer(features, skip, dilation, dtypes) for dilation in dilations])
        self.merge = PointwiseConv(skip, skip, **dtypes)
        self.classify = PointwiseConv(skip, classes, **dtypes)

    def __call__(self, tokens: Array) -> Array:
        check_tokens("WaveNet", "tokens", tokens, self.classes)
        return self.predict(self.embed(tokens))

    def predict(self, x: Array) -> Array:
        """The logits of embedded samples ``[N, L, features]``."""
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self._logits(skips)

    def init_state(self, batch_size: int) -> States:
        """The stream's state before the first sample: for each layer its last ``dilation`` inputs.

        Its size is the receptive field's, however many samples have gone through.
        """
        return tuple(layer.conv.init_state(batch_size) for layer in self.layers)

    def step(self, states: States, tokens: Array) -> tuple[Array, States]:
        """The logits ``[N, L, classes]`` for the stream's next samples, and the state after them.

        Feeding a sequence in chunks of any lengths gives what the network gives for the whole.
        """
        check_tokens("WaveNet.step", "tokens", tokens, self.classes)
        x, skips, after = self.embed(tokens), [], []
        for layer, state in zip(self.layers, states, strict=True):
            x, skip, state = layer.step(state, x)
            skips.append(skip)
            after.append(state)
        return self._logits(skips), tuple(after)

    def generate(self, prompt: Array, count: int, key: Array, temperature: float = 1.0) -> Array:
        """Draws samples after a prompt, one at a time, each fed back through the stream.

        Args:
            prompt: ``[N, L]`` token ids, L at least 1.
            count: Number of samples to draw.
            key: A key of ``jax.random``.
            temperature: Divides the logits; below 1 the likely become likelier.

        Returns:
            ``[N, count]`` token ids, without the prompt.

        Raises:
            ValueError: The prompt is empty, ``count`` is below 1 or ``temperature`` not above 0.
        """
        if jnp.shape(prompt)[1:] == (0,) or count < 1 or not temperature > 0:
            raise ValueError(
                "WaveNet.generate: needs a prompt of at least one sample, a count of at least 1 "
                f"and a temperature above 0, but got a prompt of shape {jnp.shape(prompt)}, count "
                f"{count} and temperature {temperature}"
            )
        logits, states = self.step(self.init_state(len(prompt)), prompt)

        def draw(carry: tuple[Array, States], key: Array) -> tuple[tuple[Array, States], Array]:
            logits, states = carry
            token = jax.random.categorical(key, logits / temperature)
            logits, states = self.step(states, token[:, None])
            return (logits[:, -1], states), token

        _, drawn = jax.lax.scan(draw, (logits[:, -1], states), jax.random.split(key, count))
        return drawn.T

    def _logits(self, skips: list[Array]) -> Array:
        x = jax.nn.relu(self.merge(jax.nn.relu(sum(skips[1:], skips[0]))))
        return self.classify(x)

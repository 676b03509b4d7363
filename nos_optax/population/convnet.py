"""The child network of the paper (section 4.2), written for populations.

Two 3x3 convolutions with 32 filters, batch normalisation and ReLU after each. The paper says no
more of it. Here 2x2 max pooling follows each convolution, a linear layer stands on top, and the
convolutions start with He's variances.

Parameters are one flat vector, so that an update rule is one elementwise expression per child.
"""

import dataclasses
import math
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.population.convolution import convolve, convolve_and_pool, image_moments, pool

DECAY, EPSILON = 0.9, 1e-5  # of the batch normalisation


class Statistics(NamedTuple):
    """Moving averages of the batch moments; divided by their weight they are without bias.

    A sweep may take ten steps: flax's averages, which start at 0 and 1, would still be a third of
    that start.
    """

    moments: jax.Array  # [2, 2, filters]: mean and variance of both layers
    weight: jax.Array  # []


@dataclasses.dataclass(frozen=True)
class ConvNet:
    """A small ConvNet for images of any size from 4x4 up.

    Attributes:
        image_shape: (height, width, channels).
        num_classes: how many classes.
        filters: width of both convolutions.
        cache_bytes: see `convolve`; a few megabytes on CPU, None elsewhere.

    Raises:
        ValueError: the images are smaller than 4x4, or a number is not positive.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    filters: int = 32
    cache_bytes: int | None = None

    def __post_init__(self):
        height, width, channels = self.image_shape
        if min(height, width) < 4:
            raise ValueError(
                f"images must be at least 4x4 for two poolings, got {height}x{width}; enlarge them"
            )
        if min(channels, self.num_classes, self.filters) < 1:
            raise ValueError(f"channels, classes and filters must be positive, got {self}")

    @cached_property
    def _layers(self) -> tuple[tuple[str, tuple[int, ...], float, float], ...]:
        """Name, shape, initial mean and initial deviation (He) of each array in the flat vector."""
        height, width, channels = self.image_shape
        f, features = self.filters, -(-height // 4) * -(-width // 4) * self.filters
        return (
            ("conv1", (9 * channels, f), 0.0, math.sqrt(2 / (9 * channels))),
            ("scale1", (f,), 1.0, 0.0),
            ("shift1", (f,), 0.0, 0.0),
            ("conv2", (9 * f, f), 0.0, math.sqrt(2 / (9 * f))),
            ("scale2", (f,), 1.0, 0.0),
            ("shift2", (f,), 0.0, 0.0),
            ("linear", (features, self.num_classes), 0.0, math.sqrt(1 / features)),
            ("bias", (self.num_classes,), 0.0, 0.0),
        )

    @cached_property
    def num_params(self) -> int:
        """D, the length of the flat parameter vector."""
        return sum(math.prod(shape) for _, shape, _, _ in self._layers)

    def init(self, key: jax.Array) -> tuple[jax.Array, Statistics]:
        """Return parameters `[D]` and empty batch statistics; the key is consumed.

        One draw for the whole vector: a draw per layer costs seconds of compiling.
        """
        sizes = [math.prod(shape) for _, shape, _, _ in self._layers]
        mean = np.repeat([layer[2] for layer in self._layers], sizes).astype(np.float32)
        deviation = np.repeat([layer[3] for layer in self._layers], sizes).astype(np.float32)
        params = mean + deviation * jax.random.normal(key, (self.num_params,))
        return jnp.asarray(params), Statistics(jnp.zeros((2, 2, self.filters)), jnp.zeros([]))

    def unflatten(self, params: jax.Array) -> dict[str, jax.Array]:
        """Return the named arrays of a flat parameter vector."""
        arrays, start = {}, 0
        for name, shape, _, _ in self._layers:
            size = math.prod(shape)
            arrays[name] = params[start : start + size].reshape(shape)
            start += size
        return arrays

    def loss(
        self, params: jax.Array, statistics: Statistics, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Statistics]:
        """Return the mean cross-entropy of a minibatch, and the statistics with its moments.

        Args:
            params: `[D]`.
            statistics: of the steps before.
            images: standardised, `[B, H, W, C]`.
            labels: `int32[B]`.
        """
        p = self.unflatten(params)
        # Pooling comes before the batch normalisation's affine map, which is then done on a quarter
        # of the numbers. That commutes where the map rises, so the kernel turns with its sign.
        turn1, turn2 = _sign(p["scale1"]), _sign(p["scale2"])
        kernel1, kernel2 = p["conv1"] * turn1, p["conv2"] * turn2

        x = _even(images)
        mean1, variance1 = image_moments(x, kernel1)
        x = convolve_and_pool(x, kernel1, self.cache_bytes)
        x = _normalise(x, p["scale1"] * turn1, p["shift1"], mean1, variance1)

        x, mean2, variance2 = pool(convolve(_even(x), kernel2, self.cache_bytes))
        x = _normalise(x, p["scale2"] * turn2, p["shift2"], mean2, variance2)

        logits = x.reshape(len(x), -1) @ p["linear"] + p["bias"]
        moments = jnp.array([[mean1 * turn1, variance1], [mean2 * turn2, variance2]])
        log_likelihood = jnp.sum(
            jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, self.num_classes), axis=1
        )
        new = Statistics(jax.lax.stop_gradient(moments), jnp.ones([]))
        statistics = jax.tree.map(lambda old, new: DECAY * old + (1 - DECAY) * new, statistics, new)
        return -jnp.mean(log_likelihood), statistics

    def logits(self, params: jax.Array, statistics: Statistics, images: jax.Array) -> jax.Array:
        """Return class scores `[B, num_classes]` of standardised images, by the statistics."""
        p = self.unflatten(params)
        mean, variance = jnp.unstack(statistics.moments / statistics.weight, axis=1)
        # A fixed affine map per channel folds into the convolution's matrix.
        scale = jnp.stack([p["scale1"], p["scale2"]]) * jax.lax.rsqrt(variance + EPSILON)
        shift = jnp.stack([p["shift1"], p["shift2"]]) - mean * scale
        x = convolve_and_pool(_even(images), p["conv1"] * scale[0], self.cache_bytes)
        x = _even(jax.nn.relu(x + shift[0]))
        x = convolve(x, p["conv2"] * scale[1], self.cache_bytes).max(0)
        x = jax.nn.relu(x + shift[1])
        return x.reshape(len(x), -1) @ p["linear"] + p["bias"]


def _even(images: jax.Array) -> jax.Array:
    """Add a row or a column of zeros where their number is odd."""
    height, width = images.shape[1:3]
    return jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))


def _sign(scale: jax.Array) -> jax.Array:
    return jnp.where(scale < 0, -1.0, 1.0)


def _normalise(x, scale, shift, mean, variance) -> jax.Array:
    """Normalise by the batch's moments, and rectify."""
    slope = scale * jax.lax.rsqrt(variance + EPSILON)
    return jax.nn.relu(x * slope + (shift - mean * slope))

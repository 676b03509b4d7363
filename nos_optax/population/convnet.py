"""The child network of the paper (section 4.2), written for populations.

Two 3x3 convolutions with 32 filters, batch normalisation and ReLU after each, and a linear layer
on top. The paper does not state the pooling; here it is 2x2 max pooling after each convolution.

Parameters are one flat vector, so that an update rule is one elementwise expression per child.
Convolutions are patches and a matrix product: a vmapped `lax.conv` is a grouped convolution, slow
on every accelerator.
"""

import dataclasses
import math
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BATCH_NORM_DECAY = 0.9
BATCH_NORM_EPSILON = 1e-5


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

    Raises:
        ValueError: the images are smaller than 4x4, or a number is not positive.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    filters: int = 32

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
        f, features = self.filters, (height // 4) * (width // 4) * self.filters
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
        x, moments = images, []
        for layer in "12":
            x, batch = _block(x, p["conv" + layer], p["scale" + layer], p["shift" + layer])
            moments.append(batch)
        logits = x.reshape(len(x), -1) @ p["linear"] + p["bias"]
        log_likelihood = jnp.sum(
            jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, self.num_classes), axis=1
        )
        new = Statistics(jax.lax.stop_gradient(jnp.stack(moments)), jnp.ones([]))
        statistics = jax.tree.map(
            lambda old, new: BATCH_NORM_DECAY * old + (1 - BATCH_NORM_DECAY) * new, statistics, new
        )
        return -jnp.mean(log_likelihood), statistics

    def logits(self, params: jax.Array, statistics: Statistics, images: jax.Array) -> jax.Array:
        """Return class scores `[B, num_classes]` of standardised images, by the statistics."""
        p = self.unflatten(params)
        x = images
        moments = statistics.moments / statistics.weight
        for layer, (mean, variance) in zip("12", moments, strict=True):
            # A fixed affine map per channel folds into the convolution's matrix.
            scale = p["scale" + layer] * jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)
            x = _convolve(x, p["conv" + layer] * scale)
            x = jax.nn.relu(_max_pool(x) + (p["shift" + layer] - mean * scale))
        return x.reshape(len(x), -1) @ p["linear"] + p["bias"]


def _patches(x: jax.Array) -> jax.Array:
    """Return the 3x3 neighbourhoods of a zero-padded image: `[B, H, W, C] -> [B, H, W, 9 C]`."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, axis=-1)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve `[B, H, W, C]` with a 3x3 kernel `[9 C, F]`, padded to the same size."""
    patches = _patches(x)
    return (patches.reshape(-1, patches.shape[-1]) @ kernel).reshape(*x.shape[:3], -1)


def _block(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, shift: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Convolve, normalise over the batch, pool and rectify; also return mean and variance `[2, F]`.

    Pooling comes before the normalisation's affine map, which is then done on a quarter of the
    numbers. That commutes where the map rises, so a falling one is turned around in the kernel.
    """
    turn = jnp.where(scale < 0, -1.0, 1.0)
    x = _convolve(x, kernel * turn)
    mean = x.mean((0, 1, 2))
    variance = jnp.maximum(jnp.square(x).mean((0, 1, 2)) - jnp.square(mean), 0)
    slope = scale * turn * jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)
    normal = _max_pool(x) * slope + (shift - mean * slope)
    return jax.nn.relu(normal), jnp.stack([mean * turn, variance])


@jax.custom_vjp
def _max_pool(x: jax.Array) -> jax.Array:
    """Take the maximum of each 2x2 block; an odd last row or column is left out."""
    return _blocks(x).max((2, 4))


def _blocks(x: jax.Array) -> jax.Array:
    """Return the 2x2 blocks of an image, `[B, H // 2, 2, W // 2, 2, C]`."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _max_pool_forward(x):
    maxima = _max_pool(x)
    return maxima, (x, maxima)


def _max_pool_backward(residuals, gradient):
    """Share the gradient among equal maxima, which the flat background of images has many of."""
    x, maxima = residuals
    largest = _blocks(x) == maxima[:, :, None, :, None]
    share = gradient / largest.sum((2, 4))
    blocks = jnp.where(largest, share[:, :, None, :, None], 0)
    height, width = x.shape[1:3]
    even = blocks.reshape(len(x), height // 2 * 2, width // 2 * 2, -1)
    return (jnp.pad(even, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)

"""Wide residual networks, WRN-depth-width.

References:
    Zagoruyko and Komodakis, `Wide Residual Networks <https://arxiv.org/abs/1605.07146>`_, 2016
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

MOMENTUM, EPSILON = 0.9, 1e-5  # of the batch normalisation


class WideResNet(nn.Module):
    """Three groups of pre-activation blocks; the second and the third halve the image.

    Attributes:
        depth: layers, 6 n + 4 for n blocks in each group.
        width: k of the paper; the groups have 16 k, 32 k and 64 k filters.
        num_classes: how many classes.
        dropout: share of a block's activations that is dropped between its convolutions.
        conv: in the place of `jax.lax.conv_general_dilated`; `patches_convolution` is faster in
            loops on CPU.
    """

    depth: int = 40
    width: int = 4
    num_classes: int = 10
    dropout: float = 0.0
    conv: Callable[..., jax.Array] = jax.lax.conv_general_dilated

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Return class scores `[B, num_classes]`.

        Args:
            images: `[B, H, W, C]`.
            train: normalise by the batch's moments, whose averages are in the mutable collection
                `batch_stats`, and drop out by the key `dropout`; else by the averages.

        Raises:
            ValueError: the depth is not 6 n + 4.
        """
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 4: 10, 16, 22, 28, 34, 40..., got {self.depth}")
        x = _convolution(16, conv_general_dilated=self.conv)(images)
        for filters, stride in ((16, 1), (32, 2), (64, 2)):
            for block in range(blocks):
                x = Block(
                    filters=filters * self.width,
                    stride=stride if block == 0 else 1,
                    dropout=self.dropout,
                    conv=self.conv,
                )(x, train)
        x = _activate(x, train).mean((1, 2))
        return nn.Dense(self.num_classes)(x)


class Block(nn.Module):
    """BN-ReLU-convolution twice, and a shortcut, which is projected where the shape changes."""

    filters: int
    stride: int
    dropout: float
    conv: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        convolution = functools.partial(_convolution, self.filters, conv_general_dilated=self.conv)
        activated = _activate(x, train)
        if self.stride > 1 or x.shape[-1] != self.filters:
            x = convolution((1, 1), self.stride)(activated)
        h = convolution(strides=self.stride)(activated)
        h = nn.Dropout(self.dropout, deterministic=not train)(_activate(h, train))
        return x + convolution()(h)


def _convolution(filters: int, window=(3, 3), strides: int = 1, **settings) -> nn.Conv:
    he = nn.initializers.variance_scaling(2, "fan_out", "normal")
    return nn.Conv(filters, window, strides, use_bias=False, kernel_init=he, **settings)


def _activate(x: jax.Array, train: bool) -> jax.Array:
    return nn.relu(nn.BatchNorm(not train, momentum=MOMENTUM, epsilon=EPSILON)(x))

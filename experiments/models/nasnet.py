"""NASNet-A Mobile: NASNet-A (4 @ 1056), the cells that architecture search found.

The paper of its authors draws the cells (figure 4) and counts 5.3 million parameters; it leaves the
details of the glue open, which follow their TensorFlow code: what is done to a cell's inputs, the
stem, the auxiliary head, and the settings of normalisation, initialisation and dropout.

References:
    Zoph, Vasudevan, Shlens and Le, `Learning Transferable Architectures for Scalable Image
    Recognition <https://arxiv.org/abs/1707.07012>`_, 2018
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-3  # of the batch normalisation
AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's loss
SMALLEST = {"imagenet": 19, "cifar": 3}  # images for which each reduction halves something

_he = nn.initializers.variance_scaling(2, "fan_out", "truncated_normal")
# A depthwise kernel [h, w, 1, C] sends each of its C inputs to h w outputs, as many as come in.
_he_depthwise = nn.initializers.variance_scaling(2, "fan_in", "truncated_normal")
_pointwise = functools.partial(nn.Conv, kernel_size=(1, 1), use_bias=False, kernel_init=_he)


class Scores(NamedTuple):
    """Class scores `[B, num_classes]`, and those of the auxiliary head, None outside training."""

    logits: jax.Array
    auxiliary: jax.Array | None


class NASNetA(nn.Module):
    """Three stacks of normal cells with a reduction cell before the second and the third.

    The defaults are NASNet-A Mobile, of 5,289,978 parameters without the auxiliary head. They do
    not depend on the image size; those of the head do, because its last convolution covers all
    that its pooling leaves: 4x4 positions at 224x224.

    Initialise with `lazy_init`: XLA compiles hundreds of draws in one program for minutes.

    Attributes:
        num_classes: how many classes.
        filters: of the first stack; twice as many in the second, and again in the third. The last
            features are 24 times as many.
        cells: in each stack.
        stem: "imagenet" shrinks images eightfold with two reduction cells; "cifar" keeps their
            size.
        stem_filters: of the stem's convolution; 96 in their networks for CIFAR-10.
        auxiliary: whether there is an auxiliary head, at the end of the second stack.
        dropout: share of the last features that is dropped.
        keep_path: probability that an operation's result is kept, in the last cell at the end of
            training; it falls to this from 1 along the depth and along the training.
        momentum: of the batch normalisation's averages; take 0.9 for less than 10,000 steps.
    """

    num_classes: int = 1000
    filters: int = 44
    cells: int = 4
    stem: Literal["imagenet", "cifar"] = "imagenet"
    stem_filters: int = 32
    auxiliary: bool = True
    dropout: float = 0.5
    keep_path: float = 1.0
    momentum: float = 0.9997

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, progress: float | jax.Array = 1.0) -> Scores:
        """Return class scores.

        Args:
            images: `[B, H, W, C]`.
            train: normalise by the batch's moments, whose averages are in the mutable collection
                `batch_stats`, and drop by the key `dropout`; else by the averages.
            progress: share of the training that is over, for `keep_path`.

        Raises:
            ValueError: the images are too small for the stem.
        """
        if min(images.shape[1:3]) < SMALLEST[self.stem]:
            raise ValueError(
                f"images must be at least {SMALLEST[self.stem]} pixels high and wide for the stem "
                f"{self.stem!r}, got {images.shape[1]}x{images.shape[2]}; enlarge them"
            )
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=self.momentum, epsilon=EPSILON
        )
        layout = self._layout()
        end_of_second_stack = len(layout) - self.cells - 2
        auxiliary = None

        current = self._convolve_stem(images, norm)
        previous = current if self.stem == "cifar" else None
        for i, (filters, stride) in enumerate(layout):
            # Both the depth and the time take their share of the dropping.
            keep = 1 - progress * (i + 1) / len(layout) * (1 - self.keep_path)
            cell = Cell(filters, stride, norm)
            cell_output = cell(current, previous, keep if train and self.keep_path < 1 else None)
            previous, current = current, cell_output
            if i == end_of_second_stack and self.auxiliary and (train or self.is_initializing()):
                auxiliary = AuxiliaryHead(self.num_classes, norm)(current)

        x = nn.relu(current).mean((1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Scores(nn.Dense(self.num_classes, kernel_init=_he)(x), auxiliary)

    def _layout(self) -> list[tuple[int, int]]:
        """Return filters and stride of each cell; a stride of 2 is a reduction cell."""
        f = self.filters
        first, second, third = ([(width, 1)] * self.cells for width in (f, 2 * f, 4 * f))
        stem = [(f // 4, 2), (f // 2, 2)] if self.stem == "imagenet" else []
        return [*stem, *first, (2 * f, 2), *second, (4 * f, 2), *third]

    def _convolve_stem(self, images: jax.Array, norm: Callable[[], nn.Module]) -> jax.Array:
        strides, padding = (2, "VALID") if self.stem == "imagenet" else (1, "SAME")
        convolution = nn.Conv(
            self.stem_filters, (3, 3), strides, padding=padding, use_bias=False, kernel_init=_he
        )
        return norm()(convolution(images))


class Cell(nn.Module):
    """Five blocks, each the sum of two operations on the cell's inputs or on earlier blocks.

    Attributes:
        filters: of each block.
        stride: 1 for the normal cell, 2 for the reduction cell.
        norm: makes a batch normalisation.
    """

    filters: int
    stride: int
    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(
        self, current: jax.Array, previous: jax.Array | None, keep: float | jax.Array | None
    ) -> jax.Array:
        """Return the blocks' results side by side.

        Args:
            current: the result of the cell before, `[B, H, W, C]`.
            previous: that of the cell before it, of this size or twice as large. None, in the very
                first cell, stands for `current`.
            keep: probability that an operation's result is kept; None is always.
        """
        h = self.norm()(_pointwise(self.filters)(nn.relu(current)))
        p = current if previous is None else self._fit(previous, h)
        return self._normal(h, p, keep) if self.stride == 1 else self._reduction(h, p, keep)

    def _fit(self, x: jax.Array, target: jax.Array) -> jax.Array:
        """Bring the result of an earlier cell to the target's shape."""
        if x.shape == target.shape:
            return x
        if x.shape[1:3] == target.shape[1:3]:
            return self.norm()(_pointwise(self.filters)(nn.relu(x)))
        return HalveSize(self.filters, self.norm)(nn.relu(x))

    def _normal(self, h: jax.Array, p: jax.Array, keep) -> jax.Array:
        blocks = [
            self._separable(h, 5, keep) + self._separable(p, 3, keep),
            self._separable(p, 5, keep) + self._separable(p, 3, keep),
            self._average(h, keep) + p,
            self._average(p, keep) + self._average(p, keep),
            self._separable(h, 3, keep) + h,
        ]
        return jnp.concatenate([p, *blocks], axis=-1)

    def _reduction(self, h: jax.Array, p: jax.Array, keep) -> jax.Array:
        first = self._separable(h, 5, keep) + self._separable(p, 7, keep)
        second = self._maximum(h, keep) + self._separable(p, 7, keep)
        third = self._average(h, keep) + self._separable(p, 5, keep)
        fourth = self._average(first, keep, stride=1) + second
        fifth = self._separable(first, 3, keep, stride=1) + self._maximum(h, keep)
        return jnp.concatenate([second, third, fourth, fifth], axis=-1)

    def _separable(self, x, window: int, keep, stride: int | None = None) -> jax.Array:
        module = SeparableTwice(self.filters, window, stride or self.stride, self.norm)
        return self._drop_path(module(x), keep)

    def _average(self, x, keep, stride: int | None = None) -> jax.Array:
        strides = (stride or self.stride,) * 2
        x = nn.avg_pool(x, (3, 3), strides, "SAME", count_include_pad=False)
        return self._drop_path(x, keep)

    def _maximum(self, x, keep) -> jax.Array:
        return self._drop_path(nn.max_pool(x, (3, 3), (self.stride,) * 2, "SAME"), keep)

    def _drop_path(self, x: jax.Array, keep: float | jax.Array | None) -> jax.Array:
        return x if keep is None else _drop_path(x, keep, self.make_rng("dropout"))


def _drop_path(x: jax.Array, keep: float | jax.Array, key: jax.Array) -> jax.Array:
    """Drop whole images of `[B, H, W, C]`, and scale the others up; the key is consumed."""
    kept = jax.random.bernoulli(key, keep, (len(x), 1, 1, 1))
    return jnp.where(kept, x / keep, 0)


class SeparableTwice(nn.Module):
    """ReLU, depthwise and pointwise convolution and normalisation, twice; the first strides."""

    filters: int
    window: int
    stride: int
    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for stride in (self.stride, 1):
            x = nn.Conv(
                x.shape[-1],
                (self.window, self.window),
                stride,
                feature_group_count=x.shape[-1],
                use_bias=False,
                kernel_init=_he_depthwise,
            )(nn.relu(x))
            x = self.norm()(_pointwise(self.filters)(x))
        return x


class HalveSize(nn.Module):
    """Every second pixel, and the ones below to the right of them, each to half of the filters."""

    filters: int
    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        half = self.filters // 2
        shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        halves = [
            _pointwise(half)(x[:, ::2, ::2]),
            _pointwise(self.filters - half)(shifted[:, ::2, ::2]),
        ]
        return self.norm()(jnp.concatenate(halves, axis=-1))


class AuxiliaryHead(nn.Module):
    """A second classifier, whose loss helps the lower cells to learn."""

    num_classes: int
    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return class scores `[B, num_classes]` of features `[B, H, W, C]`."""
        window = min(5, x.shape[1]), min(5, x.shape[2])
        x = nn.avg_pool(nn.relu(x), window, strides=(3, 3))
        x = nn.relu(self.norm()(_pointwise(128)(x)))
        whole = nn.Conv(768, x.shape[1:3], padding="VALID", use_bias=False, kernel_init=_he)
        x = nn.relu(self.norm()(whole(x)))
        return nn.Dense(self.num_classes, kernel_init=_he)(x.reshape(len(x), -1))

"""What a child is: any pure JAX model, with its loss, its metric and its data."""

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nos_optax._arguments import plain_number
from nos_optax.population.convnet import ConvNet
from nos_optax.population.data import Dataset

CPU_CACHE_BYTES = 2**20  # of a core's second level

Params = Any
"""A pytree of arrays that the update rule trains."""
State = Any
"""A pytree of arrays that goes from step to step without a gradient, such as batch statistics or
the state of a recurrent network; () where there is none."""
Batch = Any
"""A pytree of arrays with a leading axis of examples."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Hold what the population trainer needs to know of a model and its data.

    The functions are pure, for one child: `jit`, `grad` and `vmap` are the trainer's.

    Attributes:
        name: what reports call it.
        init: `key -> (params, state)`.
        loss: `(params, state, batch, key) -> (loss, state)`: the mean over a minibatch, to be
            minimised, and the next state. The key is for dropout and the like; all children of a
            population get the same.
        metric: `(params, state, batch) -> [B]`: each example's score; higher is better. The mean
            over `validation` is the reward.
        train: examples to train on, a pytree of arrays `[N, ...]`.
        validation: examples for the reward, arrays `[M, ...]`.
        test: examples of the same form, to report on; None where there are none.
        chance: reward of a child that never learns.
        baseline: the best score of a constant prediction; `chance` where None.
        baseline_error: standard error of `baseline`: the trainer takes a child for dead unless its
            sweep is better than the baseline by a margin of so many of these.
        perfect: the best score there is.
        shuffle: whether minibatches are drawn at random; otherwise the order of `train` is kept, as
            a recurrent state that goes from minibatch to minibatch needs it.
        max_grad_norm: clip a gradient to this norm over all parameters; None does not.
        evaluation_batch: examples that the metric takes at a time.

    Raises:
        ValueError: the arrays of a set differ in length, or are none; the sets differ in structure;
            a number is out of range.

    Example:
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)
        >>> line = Task(
        ...     "line",
        ...     init=lambda key: ({"slope": jnp.zeros([])}, ()),
        ...     loss=lambda p, state, b, key: (jnp.mean((p["slope"] * b[0] - b[1]) ** 2), state),
        ...     metric=lambda p, state, b: -jnp.abs(p["slope"] * b[0] - b[1]),
        ...     train=(x, 3 * x),
        ...     validation=(x[::4], 3 * x[::4]),
        ...     chance=-2.0,
        ... )
        >>> line.num_params, line.num_examples(line.validation)
        (1, 16)
    """

    name: str
    init: Callable[[jax.Array], tuple[Params, State]]
    loss: Callable[[Params, State, Batch, jax.Array], tuple[jax.Array, State]]
    metric: Callable[[Params, State, Batch], jax.Array]
    train: Batch
    validation: Batch
    test: Batch | None = None
    chance: float = 0.0
    baseline: float | None = None
    baseline_error: float = 0.0
    perfect: float = math.inf
    shuffle: bool = True
    max_grad_norm: float | None = None
    evaluation_batch: int = 250

    def __post_init__(self):
        object.__setattr__(self, "name", str(self.name))
        self._take_numbers()
        for part in ("train", "validation", "test"):
            if part != "test" or self.test is not None:
                self._take_arrays(part)
                self._check_set(part)
        self._check_scores()
        for name in ("evaluation_batch", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{self.name}: {name} must be positive, got {value}")

    def _take_numbers(self) -> None:
        """Turn the numbers of NumPy and JAX into Python's, which JSON holds, or refuse them."""
        for name, kind in _NUMBERS.items():
            value = getattr(self, name)
            if value is None and name in ("baseline", "max_grad_norm"):
                continue
            number = plain_number(value, kind)
            if number is None:
                raise ValueError(f"{self.name}: {name} is {value!r:.100}; give {_KINDS[kind]}")
            object.__setattr__(self, name, number)

    def _take_arrays(self, part: str) -> None:
        """Bring the arrays of a set, with the same values, into a form that a device can hold.

        Raises:
            ValueError: an array is of a kind that no device holds.
        """
        leaves, structure = jax.tree.flatten(getattr(self, part))
        paths = [
            jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(getattr(self, part))
        ]
        taken = [self._take_array(part + path, x) for path, x in zip(paths, leaves, strict=True)]
        object.__setattr__(self, part, jax.tree.unflatten(structure, taken))

    def _take_array(self, where: str, x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        if isinstance(x, np.ma.MaskedArray):
            raise ValueError(
                f"{self.name}: {where} is a masked array, and no model sees its mask: fill it, or "
                "give the mask as an array of its own"
            )
        if x.dtype.kind in "mMSUO" or x.dtype.fields is not None:
            raise ValueError(
                f"{self.name}: {where} is an array of {x.dtype}, {x.shape}; give NumPy or JAX "
                "arrays of numbers with a leading axis of examples"
            )
        if x.dtype.kind in "fc" and x.dtype.itemsize > (8 if x.dtype.kind == "f" else 16):
            raise ValueError(
                f"{self.name}: {where} is of {x.dtype}, which JAX does not have: convert it by "
                f"x.astype(np.{'float32' if x.dtype.kind == 'f' else 'complex64'})"
            )
        native = x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
        return native if type(native) in (np.ndarray, np.memmap) else np.asarray(native)

    def _check_set(self, part: str) -> None:
        batch, structure = getattr(self, part), jax.tree.structure(self.train)
        for path, x in jax.tree.leaves_with_path(batch):
            array = isinstance(x, np.ndarray | jax.Array) and x.ndim > 0
            if not array or not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
                kind = f"an array of {x.dtype}, {x.shape}" if array else f"a {type(x).__name__}"
                raise ValueError(
                    f"{self.name}: {part}{jax.tree_util.keystr(path)} is {kind}; give NumPy or JAX "
                    "arrays of numbers with a leading axis of examples"
                )
        lengths = {len(x) for x in jax.tree.leaves(batch)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"{self.name}: the arrays of {part} have the lengths {sorted(lengths)}; give "
                "arrays with one leading axis of examples, all of the same length"
            )
        if jax.tree.structure(batch) != structure:
            raise ValueError(
                f"{self.name}: {part} is {jax.tree.structure(batch)}, but train is {structure};"
                " give the same structure"
            )

    def _check_scores(self) -> None:
        for name in ("chance", "baseline"):
            score = getattr(self, name)
            if score is not None and not -math.inf < score < self.perfect:
                raise ValueError(
                    f"{self.name}: {name} is {score}; it must be finite and less than the perfect "
                    f"score, {self.perfect}, or no child could be told from a dead one"
                )
        if not 0 <= self.baseline_error < math.inf:
            raise ValueError(
                f"{self.name}: baseline_error is {self.baseline_error}; a standard error is finite "
                "and not negative"
            )

    def __repr__(self) -> str:
        counts = self.num_examples(self.train), self.num_examples(self.validation)
        return f"<Task {self.name!r}: {counts[0]} training, {counts[1]} validation examples>"

    @staticmethod
    def num_examples(batch: Batch) -> int:
        """Return the length of the leading axis."""
        return len(jax.tree.leaves(batch)[0])

    def threshold(self, margin: float) -> float:
        """Return the score that blind guessing does not reach but by luck.

        Args:
            margin: standard errors above the baseline; at most half of the way to a perfect score,
                so that a few validation examples do not condemn every child.
        """
        baseline = self.chance if self.baseline is None else self.baseline
        return min(baseline + margin * self.baseline_error, (baseline + self.perfect) / 2)

    @cached_property
    def _flat(self) -> tuple[int, Callable[[jax.Array], Params]]:
        shapes, _ = jax.eval_shape(self.init, jax.random.key(0))
        flat, unflatten = ravel_pytree(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
        return len(flat), unflatten

    @property
    def num_params(self) -> int:
        """D, the length of the flat parameter vector."""
        return self._flat[0]

    @property
    def unflatten(self) -> Callable[[jax.Array], Params]:
        """Return the parameters of a flat vector `[D]`, on which update rules work."""
        return self._flat[1]

    def init_flat(self, key: jax.Array) -> tuple[jax.Array, State]:
        """Return a flat parameter vector `[D]` and a state."""
        params, state = self.init(key)
        return ravel_pytree(params)[0], state


_NUMBERS = {
    "chance": float,
    "baseline": float,
    "baseline_error": float,
    "perfect": float,
    "max_grad_norm": float,
    "shuffle": bool,
    "evaluation_batch": int,
}
_KINDS = {float: "a single real number", bool: "True or False", int: "a whole number"}


def paper_child(dataset: Dataset, device: jax.Device | None = None) -> ConvNet:
    """Return the paper's ConvNet for a data set's images, as fast as a device can run it.

    Args:
        dataset: images and labels.
        device: where it will train; the default device where None.
    """
    on_cpu = (device or jax.devices()[0]).platform == "cpu"
    return ConvNet(
        dataset.train_images.shape[1:],
        dataset.num_classes,
        cache_bytes=CPU_CACHE_BYTES if on_cpu else None,
    )


def image_task(dataset: Dataset, net: ConvNet) -> Task:
    """Return the paper's task: classify images by a small ConvNet; the reward is the accuracy.

    Args:
        dataset: images and labels; they stay uint8 until a minibatch is used.
        net: the child.
    """

    def standardise(images):
        return (images.astype(jnp.float32) - dataset.mean) / dataset.std

    def loss(params, statistics, batch, key):
        images, labels = batch
        return net.loss(params, statistics, standardise(images), labels)

    def correct(params, statistics, batch):
        images, labels = batch
        return net.logits(params, statistics, standardise(images)).argmax(axis=-1) == labels

    counts = np.bincount(dataset.validation_labels, minlength=dataset.num_classes)
    commonest = counts.max() / counts.sum()
    return Task(
        dataset.name,
        net.init,
        loss,
        correct,
        train=(dataset.train_images, dataset.train_labels),
        validation=(dataset.validation_images, dataset.validation_labels),
        chance=1 / dataset.num_classes,
        baseline=float(commonest),
        baseline_error=float(np.sqrt(commonest * (1 - commonest) / counts.sum())),
        perfect=1.0,
    )

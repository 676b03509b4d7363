"""Training a network on images, for `table3_imagenet.py`: loss, optimizers, compiled programs."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from data import imagenet
from harness.vision import kernels
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from models.nasnet import AUXILIARY_WEIGHT

import nos_optax

BASELINE = "RMSProp"
OPTIMIZERS = (BASELINE, "PowerSign-cd", "AddSign-ld")
LABEL_SMOOTHING = 0.1
WEIGHT_DECAY = 4e-5


class Data(NamedTuple):
    """To train on and to evaluate on."""

    train: imagenet.Examples
    validation: imagenet.Examples


class Setup(NamedTuple):
    """What a training is, but for its optimizer, rate and seed."""

    image_size: int
    smallest_crop: float
    minibatch: int
    accumulated: int  # minibatches of an update
    steps: int  # updates


class State(NamedTuple):
    """All that a training changes, but for its rate."""

    params: Any
    averages: Any  # of the batch normalisation
    optimizer: optax.OptState
    rate: jax.Array  # the learning rate at the start; as data, so that no rate compiles anew
    key: jax.Array  # raw, of the dropout
    count: jax.Array  # minibatches so far


def optimizer(name: str, rate: jax.Array, steps: int, accumulated: int = 1) -> Any:
    """Return an optimizer of the table, whose decays end after `steps` updates."""
    cosine = optax.cosine_decay_schedule(1.0, steps)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        return rate * cosine(count)

    tx = {
        "RMSProp": lambda: optax.rmsprop(
            schedule, decay=0.9, eps=1.0, initial_scale=1.0, momentum=0.9
        ),
        "PowerSign-cd": lambda: nos_optax.powersign(
            schedule, sign_decay=nos_optax.cyclical_cosine(1.0, steps)
        ),
        "AddSign-ld": lambda: nos_optax.addsign(
            schedule, sign_decay=optax.linear_schedule(1.0, 0.0, steps)
        ),
    }[name]()
    # The L2 term's gradient, in front of the optimizer.
    tx = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY, mask=kernels), tx)
    return optax.MultiSteps(tx, accumulated) if accumulated > 1 else tx


def to_floats(images: jax.Array) -> jax.Array:
    """Return pixels in -1..1."""
    return images / 127.5 - 1


def training_loss(
    model: nn.Module, params: Any, averages: Any, images: jax.Array, labels: jax.Array, key
) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
    """Return the loss with its auxiliary part; the new averages; and the metrics."""
    scores, changed = model.apply(
        {"params": params, "batch_stats": averages},
        to_floats(images),
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    one_hot = jax.nn.one_hot(labels, scores.logits.shape[-1])
    targets = optax.smooth_labels(one_hot, LABEL_SMOOTHING)
    loss = optax.softmax_cross_entropy(scores.logits, targets).mean()
    auxiliary = optax.softmax_cross_entropy(scores.auxiliary, targets).mean()
    metrics = {"loss": loss, "accuracy": (scores.logits.argmax(-1) == labels).mean()}
    return loss + AUXILIARY_WEIGHT * auxiliary, (changed["batch_stats"], metrics)


def count_correct(model: nn.Module, params: Any, averages: Any, images, labels) -> jax.Array:
    """Return how many labels have the best score, and how many are among the best five."""
    variables = {"params": params, "batch_stats": averages}
    scores: Any = model.apply(variables, to_floats(images), train=False)
    logits = scores.logits
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    # A comparison with nan is false: it must not look as if nothing were better.
    better = jnp.where(jnp.isfinite(logits).all(-1), (logits > own).sum(-1), 5)
    return jnp.array([((better < best) & (labels >= 0)).sum() for best in (1, 5)])


class Trainer:
    """The compiled programs of one setup: the network's, and each optimizer's.

    The network's, which takes long to compile, is the same for all optimizers and rates.

    Args:
        model: takes images and `train`; returns scores.
        setup: the same for all trainings.
        data: to train on and to evaluate on.
        devices: share each minibatch.
    """

    def __init__(self, model: nn.Module, setup: Setup, data: Data, devices: list[jax.Device]):
        self.model, self.setup, self.data = model, setup, data
        if setup.minibatch % len(devices):
            devices = devices[:1]
        mesh = Mesh(np.array(devices), ("images",))
        self.shared = NamedSharding(mesh, PartitionSpec("images"))
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        jit = functools.partial(jax.jit, out_shardings=self.everywhere)
        loss = functools.partial(training_loss, model)
        self.gradient = jit(jax.grad(loss, has_aux=True))
        self.count_correct = jit(functools.partial(count_correct, model))
        self.update = {
            name: jit(functools.partial(self._update, name), donate_argnums=1)
            for name in OPTIMIZERS
        }
        self.variables = functools.cache(self._variables)

    def _variables(self, seed: int) -> Any:
        size = self.setup.image_size
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        # This generator's programs compile in a fraction of the time; there are hundreds.
        key = jax.random.key(seed, impl="unsafe_rbg")
        return self.model.lazy_init({"params": key}, images, train=False)

    def optimizer(self, name: str, rate: jax.Array) -> Any:
        """Return the optimizer with decays of this length."""
        return optimizer(name, rate, self.setup.steps, self.setup.accumulated)

    def start(self, name: str, rate: float, seed: int) -> State:
        """Return the state before the first minibatch."""
        # Copies, because a training consumes its state.
        params, averages = (
            jax.tree.map(jnp.array, self.variables(seed)[part])
            for part in ("params", "batch_stats")
        )
        state = State(
            params,
            averages,
            self.optimizer(name, jnp.float32(rate)).init(params),
            jnp.float32(rate),
            jax.random.PRNGKey(seed),
            jnp.int32(0),
        )
        return jax.device_put(state, self.everywhere)

    def step(self, name: str, state: State, batch: tuple[jax.Array, jax.Array]):
        """Return the state after a minibatch, and the metrics of before."""
        key = jax.random.fold_in(state.key, state.count)
        gradient, (averages, metrics) = self.gradient(state.params, state.averages, *batch, key)
        return self.update[name](gradient, state._replace(averages=averages)), metrics

    def _update(self, name: str, gradient: Any, state: State) -> State:
        """Return the state after a minibatch's gradient."""
        tx = self.optimizer(name, state.rate)
        updates, new = tx.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, optimizer=new, count=state.count + 1)

    def batches(self, seed: int, first: int) -> Iterator[Any]:
        """Yield minibatches on the devices, from a certain one on."""
        s = self.setup
        stream = imagenet.training_batches(
            self.data.train, s.minibatch, s.image_size, s.smallest_crop, seed, first
        )
        with contextlib.closing(stream):
            for batch in stream:
                yield jax.device_put(batch, self.shared)

    def evaluate(self, state: State) -> dict[str, float]:
        """Return top-1 and top-5 accuracy on all validation images."""
        s, examples = self.setup, self.data.validation
        correct = np.zeros(2)
        for batch in imagenet.evaluation_batches(examples, s.minibatch, s.image_size):
            images, labels = jax.device_put(batch, self.shared)
            found = self.count_correct(state.params, state.averages, images, labels)
            correct += np.asarray(found)
        return dict(zip(("top1", "top5"), correct / examples.count, strict=True))

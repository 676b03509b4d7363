"""Training of children side by side: the inner loop of every search."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nos_optax.grammar import ProgramState, apply_program, init_program_state
from nos_optax.population.convnet import ConvNet, Statistics


class Candidate(NamedTuple):
    """What distinguishes one child from another. Several have a leading axis."""

    program: jax.Array  # int32[G, 5]
    streams: jax.Array  # uint32[G, 2], of the program's random numbers
    learning_rate: jax.Array  # float32[]


class Minibatches(NamedTuple):
    """The part of a sequence of minibatches that a child trains on; all children see the same."""

    order: jax.Array  # int32[S, B]: rows of the training images
    first: jax.Array  # int32[]
    steps: jax.Array  # int32[]


class Arrays(NamedTuple):
    """The data, on every device."""

    train_images: jax.Array  # uint8[N, H, W, C]
    train_labels: jax.Array  # int32[N]
    validation_images: jax.Array  # uint8[K, M, H, W, C], in K chunks
    validation_labels: jax.Array  # int32[K, M]; -1 pads the last chunk
    mean: jax.Array  # float32[C]
    std: jax.Array  # float32[C]

    def standardise(self, images: jax.Array) -> jax.Array:
        """Return uint8 images as the network takes them."""
        return (images.astype(jnp.float32) - self.mean) / self.std


class _Child(NamedTuple):
    params: jax.Array  # [D]
    statistics: Statistics
    rule: ProgramState
    finite: jax.Array  # bool[]


def train(
    net: ConvNet,
    candidate: Candidate,
    minibatches: Minibatches,
    arrays: Arrays,
    key: jax.Array,
    lanes: int | None,
) -> jax.Array:
    """Train children from the same initial weights; return how many validation images they know.

    Args:
        net: the network.
        candidate: one candidate, or `lanes` of them along a leading axis.
        minibatches: what to train on.
        arrays: the data.
        key: of the initial weights and the rules' random numbers; consumed.
        lanes: None for one child without any `vmap`, so that the rule's switches are real branches.

    Returns:
        float32[] or [lanes]: the count; nan where the child diverged.
    """
    init_key, rule_key = jax.random.split(key)

    def side_by_side(function, axes):
        return function if lanes is None else jax.vmap(function, axes)

    def new_child(candidate):
        params, statistics = net.init(init_key)
        return _Child(params, statistics, init_program_state(params), jnp.array(True))

    def step(child, candidate, images, labels):
        loss = jax.value_and_grad(net.loss, has_aux=True)
        (value, statistics), g = loss(child.params, child.statistics, images, labels)
        update, rule = apply_program(
            candidate.program,
            candidate.streams,
            child.rule,
            g,
            child.params,
            minibatches.steps,
            rule_key,
        )
        params = child.params - candidate.learning_rate * update
        finite = child.finite & jnp.isfinite(value) & jnp.all(jnp.isfinite(params))
        return _Child(params, statistics, rule, finite)

    def going(state):
        i, child = state
        return (i < minibatches.steps) & jnp.any(child.finite)

    def train_step(state):
        i, child = state
        rows = minibatches.order[minibatches.first + i]
        images, labels = arrays.standardise(arrays.train_images[rows]), arrays.train_labels[rows]
        return i + 1, side_by_side(step, (0, 0, None, None))(child, candidate, images, labels)

    def correct(child, images, labels):
        predicted = net.logits(child.params, child.statistics, images).argmax(axis=-1)
        return jnp.sum(predicted == labels)

    def validate(i, total):
        images, labels = arrays.validation_images[i], arrays.validation_labels[i]
        count = side_by_side(correct, (0, None, None))
        return total + count(child, arrays.standardise(images), labels)

    start = side_by_side(new_child, 0)(candidate)
    _, child = jax.lax.while_loop(going, train_step, (0, start))
    chunks = jnp.where(jnp.any(child.finite), len(arrays.validation_labels), 0)
    total = jax.lax.fori_loop(0, chunks, validate, jnp.zeros_like(child.finite, jnp.int32))
    return jnp.where(child.finite, total, jnp.nan)

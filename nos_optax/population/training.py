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
    ends: jax.Array  # int32[R]: steps until the validation that ends each round
    hurdles: jax.Array  # float32[R]: images that a child must know then to go on
    rounds: jax.Array  # int32[], at most R


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
    running: jax.Array  # bool[]: finite, and over all hurdles so far


def train(
    net: ConvNet,
    candidate: Candidate,
    minibatches: Minibatches,
    arrays: Arrays,
    key: jax.Array,
    lanes: int | None,
) -> jax.Array:
    """Train children from the same initial weights; return how many validation images they know.

    A child stops once it isn't finite, and after a round in which it fails the hurdle.

    Args:
        net: the network.
        candidate: one candidate, or `lanes` of them along a leading axis.
        minibatches: what to train on.
        arrays: the data.
        key: of the initial weights and the rules' random numbers; consumed.
        lanes: None for one child without any `vmap`, so that the rule's switches are real branches.

    Returns:
        float32[R] or [R, lanes]: the count after each round; nan where the child diverged or had
        stopped before.
    """
    init_key, rule_key = jax.random.split(key)
    steps = minibatches.ends[minibatches.rounds - 1]

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
            steps,
            rule_key,
        )
        params = child.params - candidate.learning_rate * update
        running = child.running & jnp.isfinite(value) & jnp.all(jnp.isfinite(params))
        return _Child(params, statistics, rule, running)

    def train_step(state):
        i, child = state
        rows = minibatches.order[minibatches.first + i]
        images, labels = arrays.standardise(arrays.train_images[rows]), arrays.train_labels[rows]
        return i + 1, side_by_side(step, (0, 0, None, None))(child, candidate, images, labels)

    def correct(child, images, labels):
        predicted = net.logits(child.params, child.statistics, images).argmax(axis=-1)
        return jnp.sum(predicted == labels)

    def validate(child):
        def chunk(i, total):
            images, labels = arrays.validation_images[i], arrays.validation_labels[i]
            count = side_by_side(correct, (0, None, None))
            return total + count(child, arrays.standardise(images), labels)

        chunks = jnp.where(jnp.any(child.running), len(arrays.validation_labels), 0)
        return jax.lax.fori_loop(0, chunks, chunk, jnp.zeros_like(child.running, jnp.int32))

    def unfinished(state):
        r, _, child, _ = state
        return (r < minibatches.rounds) & jnp.any(child.running)

    def train_round(state):
        r, i, child, counts = state
        going = lambda state: (state[0] < minibatches.ends[r]) & jnp.any(state[1].running)  # noqa: E731
        i, child = jax.lax.while_loop(going, train_step, (i, child))
        total = validate(child)
        counts = counts.at[r].set(jnp.where(child.running, total, jnp.nan))
        running = child.running & (total >= minibatches.hurdles[r])
        return r + 1, i, child._replace(running=running), counts

    start = side_by_side(new_child, 0)(candidate)
    counts = jnp.full((len(minibatches.ends), *start.running.shape), jnp.nan)
    return jax.lax.while_loop(unfinished, train_round, (0, 0, start, counts))[-1]

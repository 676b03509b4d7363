"""Training of children side by side: the inner loop of every search."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nos_optax.grammar import ProgramState, apply_program, init_program_state
from nos_optax.population.task import Batch, Params, State, Task


class Candidate(NamedTuple):
    """What distinguishes one child from another. Several have a leading axis."""

    program: jax.Array  # int32[G, 5]
    streams: jax.Array  # uint32[G, 2], of the program's random numbers
    learning_rate: jax.Array  # float32[]


class Minibatches(NamedTuple):
    """The part of a sequence of minibatches that a child trains on; all children see the same."""

    order: jax.Array  # int32[S, B]: rows of the training examples
    first: jax.Array  # int32[]
    steps: jax.Array  # int32[]


class Chunks(NamedTuple):
    """A set of examples, cut into equal parts for the metric."""

    batch: Batch  # arrays [K, M, ...]
    real: jax.Array | np.ndarray  # bool[K, M]: not the padding of the last chunk


class Arrays(NamedTuple):
    """The data, on every device."""

    train: Batch  # arrays [N, ...]
    validation: Chunks


class Child(NamedTuple):
    """A network in training. Several have a leading axis."""

    params: jax.Array  # [D]
    state: State
    rule: ProgramState
    running: jax.Array  # bool[]: all was finite so far


def cut(batch: Batch, size: int) -> Chunks:
    """Cut examples, on the host, into chunks of at most `size`; the first ones pad the last."""
    length = Task.num_examples(batch)
    chunks = -(-length // size)
    rows = np.arange(chunks * -(-length // chunks))
    shape = (chunks, -1)
    return Chunks(
        jax.tree.map(lambda x: x[rows % length].reshape(*shape, *x.shape[1:]), batch),
        (rows < length).reshape(shape),
    )


def new_child(task: Task, key: jax.Array) -> Child:
    """Return a child before its first step; the key is consumed."""
    params, state = task.init_flat(key)
    return Child(params, state, init_program_state(params), jnp.array(True))


def clip(gradient: Params, max_norm: float | None) -> Params:
    """Scale a gradient down to a norm over all parameters; None leaves it as it is."""
    if max_norm is None:
        return gradient
    scale = max_norm / jnp.maximum(optax.tree.norm(gradient), max_norm)
    return jax.tree.map(lambda g: g * scale, gradient)


def gradient(
    task: Task,
    child: Child,
    batch: Batch,
    key: jax.Array,
    weight_decay: jax.Array | None = None,
) -> tuple[jax.Array, State, jax.Array]:
    """Return a child's loss on a minibatch `[]`, its next state and its gradient `[D]`.

    Args:
        task: the model.
        child: its parameters and its state.
        batch: the minibatch.
        key: of the loss's random numbers.
        weight_decay: c of the L2 penalty c / 2 * sum(params^2), `[]`, or one for each parameter,
            `[D]`. The gradient has that of the penalty in it; the loss is without.
    """

    def loss(params):
        return task.loss(task.unflatten(params), child.state, batch, key)

    (value, state), g = jax.value_and_grad(loss, has_aux=True)(child.params)
    if weight_decay is not None:
        g += weight_decay * child.params
    return value, state, clip(g, task.max_grad_norm)


def step(
    task: Task,
    child: Child,
    candidate: Candidate,
    batch: Batch,
    total_steps: jax.Array,
    rule_key: jax.Array,
    loss_key: jax.Array,
) -> tuple[Child, jax.Array]:
    """Return the child after a step of gradient descent by its rule, and the loss before it."""
    value, state, g = gradient(task, child, batch, loss_key)
    update, rule = apply_program(
        candidate.program, candidate.streams, child.rule, g, child.params, total_steps, rule_key
    )
    params = child.params - candidate.learning_rate * update
    running = child.running & jnp.isfinite(value) & jnp.all(jnp.isfinite(params))
    return Child(params, state, rule, running), value


def fused_step(
    task: Task,
    children: Child,
    candidates: Candidate,
    batch: Batch,
    total_steps: jax.Array,
    rule_key: jax.Array,
    loss_key: jax.Array,
) -> Child:
    """Return children, side by side, after the same step as `step`'s, by the kernel for rules."""
    from nos_optax.grammar.fused import fused_update  # Pallas is not everywhere

    program, streams, rate = candidates
    value, state, g = jax.vmap(partial(gradient, task), (0, None, None))(children, batch, loss_key)
    keys = jnp.broadcast_to(rule_key, rate.shape)
    params, rule = fused_update(
        program, streams, children.rule, g, children.params, rate, total_steps, keys
    )
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(params), axis=1)
    return Child(params, state, rule, children.running & finite)


def total_score(task: Task, child: Child, batch: Batch, real: jax.Array) -> jax.Array:
    """Return the sum of a chunk's scores `[]`."""
    scores = task.metric(task.unflatten(child.params), child.state, batch)
    return jnp.sum(jnp.where(real, scores, 0.0), dtype=jnp.float32)


def mean_score(task: Task, child: Child, chunks: Chunks) -> jax.Array:
    """Return the mean score on a set of examples, `[]`."""
    total = jax.lax.map(lambda chunk: total_score(task, child, *chunk), chunks)
    return total.sum() / chunks.real.sum()


def train(
    task: Task,
    start: Child,
    candidate: Candidate,
    minibatches: Minibatches,
    arrays: Arrays,
    rule_key: jax.Array,
    loss_key: jax.Array,
    lanes: int | None,
    fused: bool = False,
) -> jax.Array:
    """Train children from the same initial weights; return their scores on the validation set.

    A child stops once it isn't finite.

    Args:
        task: the model.
        start: one child, as all begin.
        candidate: one candidate, or `lanes` of them along a leading axis.
        minibatches: what to train on.
        arrays: the data.
        rule_key: of the rules' random numbers.
        loss_key: of the losses' random numbers.
        lanes: None for one child without any `vmap`, so that the rule's switches are real branches.
        fused: whether the rules of several lanes are applied by one kernel.

    Returns:
        float32[] or [lanes]: the sum of the scores; nan where the child diverged.
    """

    def side_by_side(function, axes):
        return function if lanes is None else jax.vmap(function, axes)

    def train_step(state):
        i, child = state
        rows = minibatches.order[minibatches.first + i]
        batch = jax.tree.map(lambda x: x[rows], arrays.train)

        key = jax.random.fold_in(loss_key, i)
        if fused:
            stepped = fused_step(task, child, candidate, batch, minibatches.steps, rule_key, key)
            return i + 1, stepped

        def one(child, candidate, batch):
            return step(task, child, candidate, batch, minibatches.steps, rule_key, key)[0]

        return i + 1, side_by_side(one, (0, 0, None))(child, candidate, batch)

    def validate(child):
        batches, real = arrays.validation

        def chunk(i, total):
            batch = jax.tree.map(lambda x: x[i], batches)
            score = side_by_side(partial(total_score, task), (0, None, None))
            return total + score(child, batch, real[i])

        chunks = jnp.where(jnp.any(child.running), len(real), 0)
        return jax.lax.fori_loop(0, chunks, chunk, jnp.zeros_like(child.running, jnp.float32))

    def unfinished(state):
        i, child = state
        return (i < minibatches.steps) & jnp.any(child.running)

    child = side_by_side(lambda _: start, 0)(candidate.learning_rate)
    _, child = jax.lax.while_loop(unfinished, train_step, (0, child))
    return jnp.where(child.running, validate(child), jnp.nan)

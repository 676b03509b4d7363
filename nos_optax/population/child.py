"""A child: a network in training, its gradient on a minibatch, its score on a set of examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nos_optax.grammar import ProgramState, init_program_state
from nos_optax.population.task import Batch, Params, State, Task


class Chunks(NamedTuple):
    """A set of examples, cut into equal parts for the metric."""

    batch: Batch  # arrays [K, M, ...]
    real: jax.Array | np.ndarray  # bool[K, M]: not the padding of the last chunk


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


def total_score(task: Task, child: Child, batch: Batch, real: jax.Array) -> jax.Array:
    """Return the sum of a chunk's scores `[]`."""
    scores = task.metric(task.unflatten(child.params), child.state, batch)
    return jnp.sum(jnp.where(real, scores, 0.0), dtype=jnp.float32)


def mean_score(task: Task, child: Child, chunks: Chunks) -> jax.Array:
    """Return the mean score on a set of examples, `[]`."""
    total = jax.lax.map(lambda chunk: total_score(task, child, *chunk), chunks)
    return total.sum() / chunks.real.sum()

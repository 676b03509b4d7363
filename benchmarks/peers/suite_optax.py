"""Peer: the suite's protocol in plain Optax, one child after another.

The loops here are spared what a search does beside training: the losses before and after one.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.grammar import UpdateRule, scale_by_rule
from nos_optax.population import Workload
from nos_optax.population.reference import SWEEP, steps_of
from nos_optax.population.suite import KEPT, SEEDS

Train = Callable[[float, int, int], float]  # of a rate, a seed and steps: the late loss


def candidate(trains: Sequence[Train], workloads: Sequence[Workload], rates: np.ndarray) -> None:
    """Give a rule all trainings of the suite: the sweep, and the best rates to the end."""
    for train, workload, tried in zip(trains, workloads, rates, strict=True):
        steps = steps_of(SWEEP, workload.horizon)
        late = [train(float(rate), 0, steps) for rate in tried]
        for rate in tried[np.argsort(late, kind="stable")[:KEPT]]:
            for seed in range(SEEDS * workload.children):
                train(float(rate), seed, workload.horizon)


def optax_loop(workload: Workload, rule: UpdateRule) -> Train:
    """Return a loop with one `jax.jit` step; the rate is an argument, so that it compiles once."""
    task, size = workload.task, workload.minibatch_size

    @jax.jit
    def step(params, state, moments, rate, total_steps, batch, key):
        (loss, state), grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, state, batch, key
        )
        updates, moments = scale_by_rule(rule, total_steps=total_steps).update(
            grads, moments, params
        )
        params = jax.tree.map(lambda w, u: w - rate * u, params, updates)
        return params, state, moments, loss

    init, key = jax.jit(task.init), jax.random.key(0)
    train_data = jax.tree.map(jnp.asarray, task.train)
    take = jax.jit(lambda rows: jax.tree.map(lambda x: x[rows], train_data))

    def train(rate: float, seed: int, steps: int) -> float:
        params, state = init(jax.random.key(seed))
        moments = scale_by_rule(rule, total_steps=steps).init(params)
        losses = []
        for rows in order_of(len(jax.tree.leaves(task.train)[0]), size, steps, seed):
            params, state, moments, loss = step(
                params, state, moments, rate, steps, take(rows), key
            )
            losses.append(loss)
        return late_loss([float(x) for x in losses])

    return train


def order_of(examples: int, size: int, steps: int, seed: int) -> np.ndarray:
    """Return the rows of each minibatch, `[steps, size]`; each epoch has an order of its own."""
    rng, each = np.random.default_rng(seed), examples // size
    epochs = [rng.permutation(examples)[: each * size] for _ in range(-(-steps // each))]
    return np.concatenate(epochs).reshape(-1, size)[:steps]


def late_loss(losses: list[float]) -> float:
    """Return the mean loss of the second half; infinite where it is not finite."""
    late = float(np.mean(losses[len(losses) // 2 :]))
    return late if math.isfinite(late) else math.inf

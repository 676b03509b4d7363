"""How well a rule trains the paper's child, over the learning rate."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nos_optax
from nos_optax.grammar import UpdateRule
from nos_optax.population import Task
from nos_optax.population.task import Batch
from nos_optax.population.task_check import check_task
from nos_optax.population.training import Chunks, clip, cut

RATES = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-8, 3))


class Sweep(NamedTuple):
    """Validation scores after training."""

    rates: tuple[float, ...]
    scores: np.ndarray  # float32[rates, seeds]; the level of chance where it diverged

    @property
    def mean(self) -> np.ndarray:
        """Mean over the seeds, `[rates]`."""
        return self.scores.mean(axis=1)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation over the seeds, `[rates]`; nan of a single seed."""
        if self.scores.shape[1] == 1:
            return np.full(len(self.rates), np.nan)
        return self.scores.std(axis=1, ddof=1)

    @property
    def best(self) -> int:
        """The index of the rate with the best mean."""
        return int(self.mean.argmax())


def sweep(
    rule: UpdateRule,
    task: Task,
    rates: Sequence[float] = RATES,
    seeds: int = 3,
    epochs: int = 3,
    batch_size: int = 50,
) -> Sweep:
    """Train a task's model with a rule, at each rate with each seed, in one compiled program.

    Any rule can be swept, also one that is longer than the search's programs: it runs as
    `nos_optax.from_rule` gives it, while `TaskLoop` trains what the search can write.

    Args:
        rule: any.
        task: the model and its data.
        rates: learning rates.
        seeds: of the initial weights, the order of the examples and the random numbers.
        epochs: length of each training.
        batch_size: examples in a minibatch; the incomplete last one of an epoch is left out.

    Raises:
        ValueError: a number is less than 1, or the task has fewer examples than a minibatch.
    """
    examples = task.num_examples(task.train)
    if min(seeds, epochs) < 1 or not 1 <= batch_size <= examples:
        raise ValueError(
            f"seeds and epochs must be at least 1 and batch_size from 1 to the {examples} "
            f"training examples, got {seeds}, {epochs} and {batch_size}"
        )
    per_epoch = examples // batch_size
    check_task(task, batch_size)
    data = jax.device_put((task.train, cut(task.validation, task.evaluation_batch)))

    def order(key: jax.Array) -> jax.Array:
        rows = jax.random.permutation(key, examples) if task.shuffle else jnp.arange(examples)
        return rows[: per_epoch * batch_size].reshape(per_epoch, batch_size)

    def one(job: tuple[jax.Array, jax.Array], train: Batch, validation: Chunks) -> jax.Array:
        rate, seed = job
        init, orders, losses, draws = jax.random.split(jax.random.key(seed), 4)
        tx = nos_optax.from_rule(rule, rate, total_steps=epochs * per_epoch, key=draws)
        params, state = task.init(init)

        def step(carry, inputs):
            params, state, optimizer = carry
            rows, key = inputs
            batch = jax.tree.map(lambda x: x[rows], train)
            loss = lambda p: task.loss(p, state, batch, key)  # noqa: E731
            grads, state = jax.grad(loss, has_aux=True)(params)
            grads = clip(grads, task.max_grad_norm)
            updates, optimizer = tx.update(grads, optimizer, params)
            return (optax.apply_updates(params, updates), state, optimizer), None

        rows = jax.vmap(order)(jax.random.split(orders, epochs)).reshape(-1, batch_size)
        keys = jax.random.split(losses, len(rows))
        (params, state, _), _ = jax.lax.scan(step, (params, state, tx.init(params)), (rows, keys))

        def part(chunk):
            return jnp.sum(jnp.where(chunk.real, task.metric(params, state, chunk.batch), 0.0))

        score = jax.lax.map(part, validation).sum() / task.num_examples(task.validation)
        finite = jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]).all()
        # As in a search, nothing is worse than chance.
        return jnp.where(finite & (score > task.chance), score, task.chance)

    # One after another: on CPU a vmapped convolution is many times slower.
    jobs = (
        jnp.repeat(jnp.array(rates), seeds),
        jnp.tile(jnp.arange(seeds, dtype=jnp.uint32), len(rates)),
    )
    run = jax.jit(lambda jobs, data: jax.lax.map(lambda job: one(job, *data), jobs))
    scores = np.asarray(run(jobs, data))
    return Sweep(tuple(rates), scores.reshape(len(rates), seeds))

"""How well a rule trains the paper's child, over the learning rate."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

import nos_optax
from nos_optax.grammar import UpdateRule
from nos_optax.population import Task, TaskLoop

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
    devices: list[jax.Device] | None = None,
) -> Sweep:
    """Train a task's model with a rule, at each rate with each seed.

    Any rule can be swept, also one that is longer than the search's programs: it runs as
    `nos_optax.from_rule` gives it.

    Args:
        rule: any.
        task: the model and its data.
        rates: learning rates.
        seeds: of the initial weights, the order of the examples and the random numbers.
        epochs: length of each training.
        batch_size: examples in a minibatch; the incomplete last one of an epoch is left out.
        devices: the devices to use; all local ones where None.

    Raises:
        ValueError: a number is less than 1, or the task has fewer examples than a minibatch.
    """
    if min(seeds, epochs) < 1:
        raise ValueError(f"seeds and epochs must be at least 1, got {seeds} and {epochs}")
    steps = max(1, epochs * (task.num_examples(task.train) // max(1, batch_size)))
    loop = TaskLoop(
        task, batch_size, steps, iterations=1, devices=devices, scores=True, losses=False
    )

    def optimizer(rate, key):
        return nos_optax.from_rule(rule, rate, total_steps=steps, key=key)

    losses = loop.train_seeds(optimizer, np.array(rates), range(seeds), steps)
    # As in a search, nothing is worse than chance, and one that diverged is no better.
    return Sweep(tuple(rates), np.fmax(losses.validation_score, np.float32(task.chance)))

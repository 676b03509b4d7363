"""A test task on a table: Friedman's first function of ten columns, five of which say nothing."""

from pathlib import Path

import jax
import numpy as np

from nos_optax.population import Task, Workload
from nos_optax.population.tasks.layers import dense, init_dense

NOISE = 1.0  # standard deviation; the function's own is about 4.9
ROWS, VALIDATION_ROWS = 2_000, 1_000


def friedman(data: Path) -> Workload:
    """Return a perceptron 10-64-64-1 that predicts a noisy number; scored by squared error.

    References:
        Friedman, Multivariate Adaptive Regression Splines, Annals of Statistics, 1991
    """
    del data  # made here
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(ROWS + VALIDATION_ROWS, 10)).astype(np.float32)
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y += 10 * x[:, 3] + 5 * x[:, 4] + NOISE * rng.normal(size=len(x))
    mean, deviation = y[:ROWS].mean(), y[:ROWS].std()
    y = ((y - mean) / deviation).astype(np.float32)

    def errors(params, batch):
        x, y = batch
        hidden = jax.nn.tanh(dense(params, 1, 2 * x - 1))
        return (dense(params, 3, jax.nn.tanh(dense(params, 2, hidden)))[:, 0] - y) ** 2

    task = Task(
        "friedman-table",
        init=lambda key: (init_dense(key, (10, 64, 64, 1)), ()),
        loss=lambda params, state, batch, key: (errors(params, batch).mean(), state),
        metric=lambda params, state, batch: -errors(params, batch),
        train=(x[:ROWS], y[:ROWS]),
        validation=(x[ROWS:], y[ROWS:]),
        chance=-float(np.mean(y[ROWS:] ** 2)),
        perfect=0.0,
    )
    return Workload(task, 100, 600)

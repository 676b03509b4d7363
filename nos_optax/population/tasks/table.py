"""A table: the 569 tumours of the breast cancer data inside scikit-learn, 30 measurements each."""

import jax
import numpy as np

from nos_optax.population.task import Task
from nos_optax.population.tasks.layers import dense, init_dense, log_likelihood

TRAIN_EXAMPLES = 400


def table() -> Task:
    """Return a perceptron 30-32-2 that tells malignant tumours from benign ones."""
    from sklearn.datasets import load_breast_cancer  # takes a second to import

    data = load_breast_cancer()
    rows = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[rows], data.target[rows].astype(np.int32)
    mean, deviation = x[:TRAIN_EXAMPLES].mean(axis=0), x[:TRAIN_EXAMPLES].std(axis=0)
    x = ((x - mean) / deviation).astype(np.float32)

    def scores(params, batch):
        x, y = batch
        return log_likelihood(dense(params, 2, jax.nn.relu(dense(params, 1, x))), y)

    return Task(
        "table",
        init=lambda key: (init_dense(key, (30, 32, 2)), ()),
        loss=lambda params, state, batch, key: (-scores(params, batch).mean(), state),
        metric=lambda params, state, batch: scores(params, batch),
        train=(x[:TRAIN_EXAMPLES], y[:TRAIN_EXAMPLES]),
        validation=(x[TRAIN_EXAMPLES:], y[TRAIN_EXAMPLES:]),
        chance=-float(np.log(2)),
        perfect=0.0,
    )

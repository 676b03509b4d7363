"""A table: the 569 tumours of the breast cancer data inside scikit-learn, 30 noisy measurements."""

import jax
import numpy as np

from nos_optax.population.task import Task
from nos_optax.population.tasks.layers import dense, init_dense, log_likelihood
from nos_optax.population.tasks.noise import noisy_copies

TRAIN_EXAMPLES = 400
NOISE = 2.0  # of each measurement, in its standard deviations
COPIES, VALIDATION_COPIES = 16, 4  # of each example


def table() -> Task:
    """Return a perceptron 30-32-2 that tells malignant tumours from benign ones.

    Each comes in copies with noise of their own (`noise`).
    """
    from sklearn.datasets import load_breast_cancer  # takes a second to import

    data = load_breast_cancer()
    random = np.random.default_rng(0)
    rows = random.permutation(len(data.target))
    x, y = data.data[rows], data.target[rows].astype(np.int32)
    mean, deviation = x[:TRAIN_EXAMPLES].mean(axis=0), x[:TRAIN_EXAMPLES].std(axis=0)
    x = (x - mean) / deviation
    train = noisy_copies((x[:TRAIN_EXAMPLES], y[:TRAIN_EXAMPLES]), NOISE, COPIES, random)
    rest = (x[TRAIN_EXAMPLES:], y[TRAIN_EXAMPLES:])
    validation = noisy_copies(rest, NOISE, VALIDATION_COPIES, random)

    def scores(params, batch):
        x, y = batch
        return log_likelihood(dense(params, 2, jax.nn.relu(dense(params, 1, x))), y)

    return Task(
        "table",
        init=lambda key: (init_dense(key, (30, 32, 2)), ()),
        loss=lambda params, state, batch, key: (-scores(params, batch).mean(), state),
        metric=lambda params, state, batch: scores(params, batch),
        train=train,
        validation=validation,
        chance=-float(np.log(2)),
        perfect=0.0,
        evaluation_batch=len(validation[1]),
    )

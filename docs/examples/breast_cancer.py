"""A task of your own: a small MLP in flax.linen on a table from scikit-learn.

Search for its update rules, from this folder (a minute on 2 cores; prints the best rules):
    python -m nos_optax.search --protocol paper --task breast_cancer:task \
        --minibatch-size 20 --samples 96
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer

from nos_optax.population import Task


class MLP(nn.Module):
    """Two hidden layers; one logit."""

    @nn.compact
    def __call__(self, x):
        """Return logits `[B]` of rows `[B, 30]`."""
        for width in (32, 32):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(1)(x)[:, 0]


def task() -> Task:
    """Return the task: tell malignant from benign; the reward is the validation accuracy."""
    net = MLP()
    x, y = load_breast_cancer(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))
    x, y = x[rows].astype(np.float32), y[rows].astype(np.float32)
    x = (x - x[:400].mean(axis=0)) / x[:400].std(axis=0)

    def init(key):
        return net.init(key, x[:1]), ()

    def loss(params, state, batch, key):
        x, y = batch
        return jnp.mean(optax.sigmoid_binary_cross_entropy(net.apply(params, x), y)), state

    def correct(params, state, batch):
        x, y = batch
        return (net.apply(params, x) > 0) == (y > 0.5)

    commonest = max(y[400:].mean(), 1 - y[400:].mean())
    return Task(
        "breast cancer",
        init,
        loss,
        correct,
        train=(x[:400], y[:400]),
        validation=(x[400:], y[400:]),
        chance=0.5,
        baseline=float(commonest),
        baseline_error=float(np.sqrt(commonest * (1 - commonest) / 169)),
        perfect=1.0,
    )

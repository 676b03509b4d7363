"""A task of your own: a flax.nnx network with batch norm and dropout, on scikit-learn's digits.

`nnx.split` takes the model apart into its graph, its parameters and the rest (the batch statistics
and the state of the dropout); `nnx.merge` puts it together again inside the pure functions.
`copy=True` makes new variables there: batch norm changes its own, and those of an outer trace, as
the trainer's gradient inside a loop has them, it must not change (TraceContextError).

Search for its update rules, from this folder (under a minute on 2 cores; prints the best rules):
    python -m nos_optax.search --protocol paper --task nnx_digits:task \
        --minibatch-size 50 --samples 64
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from nos_optax.population import Task


class Net(nnx.Module):
    """A hidden layer with batch norm, ReLU and dropout; ten logits."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        """Return logits `[B, 10]` of images `[B, 64]`."""
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def task() -> Task:
    """Return the task: classify handwritten digits; the reward is the validation accuracy."""
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))
    x, y = (x[rows] / 16).astype(np.float32), y[rows].astype(np.int32)
    graph = nnx.graphdef(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))

    def init(key):
        _, params, rest = nnx.split(Net(nnx.Rngs(key)), nnx.Param, ...)
        return params, rest

    def loss(params, rest, batch, key):
        x, y = batch
        net = nnx.merge(graph, params, rest, copy=True)
        net.train()
        losses = optax.softmax_cross_entropy_with_integer_labels(net(x), y)
        return jnp.mean(losses), nnx.split(net, nnx.Param, ...)[2]

    def correct(params, rest, batch):
        x, y = batch
        net = nnx.merge(graph, params, rest, copy=True)
        net.eval()
        return net(x).argmax(axis=-1) == y

    commonest = float(np.bincount(y[1000:]).max() / len(y[1000:]))
    return Task(
        "digits, nnx",
        init,
        loss,
        correct,
        train=(x[:1000], y[:1000]),
        validation=(x[1000:], y[1000:]),
        chance=0.1,
        baseline=commonest,
        baseline_error=float(np.sqrt(commonest * (1 - commonest) / len(y[1000:]))),
        perfect=1.0,
    )

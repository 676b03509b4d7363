"""Models of the text that comes with every Python: the language reference's topics."""

from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.population.task import Task
from nos_optax.population.tasks.layers import dense, init_dense, log_likelihood

EMBEDDING = 8


def topics_text() -> str:
    """Return the topics in order of their names, in small letters, with single spaces.

    Python's version decides the text, so rewards of one version compare with each other alone.
    """
    return " ".join(" ".join(topics[name] for name in sorted(topics)).lower().split())


def disjoint_windows(symbols: np.ndarray, length: int, count: int) -> np.ndarray:
    """Return windows `int32[count, length]` at random places of some symbols; none overlap.

    Overlapping ones would give what is guessed in validation away in training.
    """
    windows = symbols[: len(symbols) // length * length].reshape(-1, length)
    return windows[np.random.default_rng(0).permutation(len(windows))[:count]]


def guess_next(name: str, windows: np.ndarray, symbols: int, width: int, validation: int) -> Task:
    """Return a perceptron that guesses the last symbol of a window from those before it.

    Args:
        name: of the task.
        windows: `int32[N, L]`.
        symbols: how many there are.
        width: of the hidden layer.
        validation: windows, the last ones, that it does not train on.
    """
    widths = ((windows.shape[1] - 1) * EMBEDDING, width, symbols)

    def init(key):
        embedding_key, key = jax.random.split(key)
        embedding = 0.3 * jax.random.normal(embedding_key, (symbols, EMBEDDING))
        return init_dense(key, widths) | {"embedding": embedding}, ()

    def scores(params, batch):
        before, following = batch
        # A product with one-hot rows: its gradient is one too, in place of a scatter, whose rows a
        # GPU adds in any order.
        embedded = jax.nn.one_hot(before, symbols) @ params["embedding"]
        hidden = jnp.tanh(dense(params, 1, embedded.reshape(len(before), -1)))
        return log_likelihood(dense(params, 2, hidden), following)

    return Task(
        name,
        init,
        loss=lambda params, state, batch, key: (-scores(params, batch).mean(), state),
        metric=lambda params, state, batch: scores(params, batch),
        train=(windows[:-validation, :-1], windows[:-validation, -1]),
        validation=(windows[-validation:, :-1], windows[-validation:, -1]),
        chance=-float(np.log(symbols)),
        perfect=0.0,
        evaluation_batch=validation,
    )

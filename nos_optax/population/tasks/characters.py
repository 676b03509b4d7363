"""A character model of the text that comes with every Python: the language reference's topics."""

import functools
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.population.task import Task
from nos_optax.population.tasks.layers import dense, init_dense, log_likelihood

ALPHABET = "abcdefghijklmnopqrstuvwxyz .,'()"
OTHER = ALPHABET.index(" ")  # of capitals' lower case, all else is a space
EMBEDDING = 8
WINDOWS = 8192
VALIDATION_WINDOWS = 1024


def characters(context: int = 8, width: int = 32, examples: int = WINDOWS) -> Task:
    """Return a perceptron that guesses a character, one of 32, from those before it.

    Python's version decides the text, so rewards of one version compare with each other alone.
    """
    count, widths = len(ALPHABET), (context * EMBEDDING, width, len(ALPHABET))

    def init(key):
        embedding_key, key = jax.random.split(key)
        embedding = 0.3 * jax.random.normal(embedding_key, (count, EMBEDDING))
        return init_dense(key, widths) | {"embedding": embedding}, ()

    def scores(params, batch):
        before, following = batch
        # A product with one-hot rows: its gradient is one too, in place of a scatter.
        embedded = jax.nn.one_hot(before, count) @ params["embedding"]
        hidden = jnp.tanh(dense(params, 1, embedded.reshape(len(before), -1)))
        return log_likelihood(dense(params, 2, hidden), following)

    windows = text_windows(context + 1, examples + VALIDATION_WINDOWS)
    return Task(
        "characters",
        init,
        loss=lambda params, state, batch, key: (-scores(params, batch).mean(), state),
        metric=lambda params, state, batch: scores(params, batch),
        train=(windows[:examples, :-1], windows[:examples, -1]),
        validation=(windows[examples:, :-1], windows[examples:, -1]),
        chance=-float(np.log(count)),
        perfect=0.0,
        evaluation_batch=VALIDATION_WINDOWS,
    )


@functools.cache
def text_windows(length: int, count: int) -> np.ndarray:
    """Return symbols `int32[count, length]` of random places in the text; no two windows overlap.

    Overlapping ones would give the characters that are guessed in validation away in training.
    """
    text = " ".join(" ".join(topics[name] for name in sorted(topics)).lower().split())
    symbols = np.array([ALPHABET.find(c) for c in text], np.int32)
    symbols = np.where(symbols < 0, OTHER, symbols)
    windows = symbols[: len(symbols) // length * length].reshape(-1, length)
    return windows[np.random.default_rng(0).permutation(len(windows))[:count]]

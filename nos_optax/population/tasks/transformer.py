"""A small transformer that models characters: another kind of network on the same text."""

import jax
import numpy as np

from nos_optax.population.task import Task
from nos_optax.population.tasks.characters import ALPHABET, text_windows
from nos_optax.population.tasks.layers import (
    causal_attention,
    dense,
    init_dense,
    log_likelihood,
    normalise,
)

CONTEXT = 16
WIDTH, HEADS = 32, 2
WINDOWS, VALIDATION_WINDOWS = 8192, 512


def transformer() -> Task:
    """Return a decoder of one block that guesses each of 16 characters from those before it.

    Pre-normalised, with learned positions; its loss is the mean over all characters of a window.
    """
    count = len(ALPHABET)

    def init(key):
        keys = jax.random.split(key, 5)
        tables = 0.1 * jax.random.normal(keys[0], (count + CONTEXT, WIDTH))
        return {
            "tables": tables,
            "mixing": init_dense(keys[1], (WIDTH, 3 * WIDTH)),
            "mixed": init_dense(keys[2], (WIDTH, WIDTH)),
            "block": init_dense(keys[3], (WIDTH, 2 * WIDTH, WIDTH)),
            "out": init_dense(keys[4], (WIDTH, count)),
        }, ()

    def scores(params, windows):
        return log_likelihood(logits(params, windows[:, :-1]), windows[:, 1:]).mean(axis=1)

    windows = text_windows(CONTEXT + 1, WINDOWS + VALIDATION_WINDOWS)
    return Task(
        "transformer",
        init,
        loss=lambda params, state, batch, key: (-scores(params, batch).mean(), state),
        metric=lambda params, state, batch: scores(params, batch),
        train=windows[:WINDOWS],
        validation=windows[WINDOWS:],
        chance=-float(np.log(count)),
        perfect=0.0,
        evaluation_batch=VALIDATION_WINDOWS,
    )


def logits(params: dict, symbols: jax.Array) -> jax.Array:
    """Return the scores of what follows each of some symbols `int32[B, 16]`: `[B, 16, 32]`."""
    count = len(ALPHABET)
    x = jax.nn.one_hot(symbols, count) @ params["tables"][:count] + params["tables"][count:]
    mixed = causal_attention(dense(params["mixing"], 1, normalise(x)), HEADS)
    x += dense(params["mixed"], 1, mixed)
    hidden = jax.nn.relu(dense(params["block"], 1, normalise(x)))
    x += dense(params["block"], 2, hidden)
    return dense(params["out"], 1, normalise(x))

"""A small transformer that models characters: another kind of network on the same text."""

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.population.task import Task
from nos_optax.population.tasks.characters import ALPHABET, text_windows
from nos_optax.population.tasks.layers import dense, init_dense, log_likelihood

CONTEXT = 16
CAUSAL = np.tril(np.ones((CONTEXT, CONTEXT), bool))
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
    heads = dense(params["mixing"], 1, _normalise(x)).reshape(len(x), CONTEXT, 3, HEADS, -1)
    query, key, value = jnp.moveaxis(heads, 2, 0)
    weights = jnp.einsum("bthd,bshd->bhts", query, key) / np.sqrt(WIDTH / HEADS)
    weights = jax.nn.softmax(jnp.where(CAUSAL, weights, -1e9))
    mixed = jnp.einsum("bhts,bshd->bthd", weights, value).reshape(x.shape)
    x += dense(params["mixed"], 1, mixed)
    hidden = jax.nn.relu(dense(params["block"], 1, _normalise(x)))
    x += dense(params["block"], 2, hidden)
    return dense(params["out"], 1, _normalise(x))


def _normalise(x: jax.Array) -> jax.Array:
    """Return `[..., D]` with mean 0 and variance 1 over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)

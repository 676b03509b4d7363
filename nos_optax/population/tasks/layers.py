"""Dense layers over plain dictionaries of arrays: all that the embedded tasks need of a network."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def init_dense(key: jax.Array, widths: Sequence[int]) -> dict[str, jax.Array]:
    """Return weights `w1 [n0, n1], b1 [n1], w2, ...`; those of variance 1 / inputs, biases of 0.

    One draw for all weights, which is cut: a draw a layer would cost seconds of compiling.

    Args:
        key: it is consumed.
        widths: of the input and of each layer's output.
    """
    shapes = list(itertools.pairwise(widths))
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    draws = jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
    params = {}
    for i, (draw, shape) in enumerate(zip(draws, shapes, strict=True), start=1):
        params[f"w{i}"] = draw.reshape(shape) / np.sqrt(shape[0]).astype(np.float32)
        params[f"b{i}"] = jnp.zeros(shape[1])
    return params


def dense(params: dict[str, jax.Array], i: int, x: jax.Array) -> jax.Array:
    """Return layer i of `init_dense` before its activation function: `[..., n_i]`."""
    return x @ params[f"w{i}"] + params[f"b{i}"]


def log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the log-probability of each label, `[B]` of logits `[B, K]` and `int32[B]`.

    A product with the labels' one-hot rows: on accelerators a gather is the slower.
    """
    hot = jax.nn.one_hot(labels, logits.shape[-1])
    return jnp.sum(jax.nn.log_softmax(logits) * hot, axis=-1)


def causal_attention(parts: jax.Array, heads: int) -> jax.Array:
    """Return what each place takes from itself and those before it.

    Args:
        parts: queries, keys and values side by side, `[B, T, 3 D]`.
        heads: that share D.

    Returns:
        `[B, T, D]`.
    """
    batch, length, width = parts.shape[0], parts.shape[1], parts.shape[2] // 3
    split = parts.reshape(batch, length, 3, heads, -1)
    query, key, value = jnp.moveaxis(split, 2, 0)
    weights = jnp.einsum("bthd,bshd->bhts", query, key) / np.sqrt(width / heads)
    causal = np.tril(np.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(causal, weights, -1e9))
    return jnp.einsum("bhts,bshd->bthd", weights, value).reshape(batch, length, width)


def normalise(x: jax.Array) -> jax.Array:
    """Return `[..., D]` with mean 0 and variance 1 over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)

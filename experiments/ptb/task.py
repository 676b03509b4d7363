"""The text of `table5_ptb.py` in minibatches, and the task of predicting its next word."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from data.ptb import Corpus, batchify
from models.ptb_lstm import Params, State, WordLSTM

from nos_optax.population import Task

MAX_GRAD_NORM = 5.0
BLOCK = 5  # words of a row whose scores of all words are in memory at once
CACHED = 2**20  # numbers: as many scores stay in a core's cache, so need no blocks
ROWS = 20  # parts of the validation and the test text


def generated(vocabulary: int, train_words: int | None, evaluation_words: int | None) -> Corpus:
    """Return a text in which three words, all equally likely, can follow each word."""
    rng = np.random.default_rng(0)
    followers = rng.integers(vocabulary, size=(vocabulary, 3))

    def stream(length: int) -> np.ndarray:
        words = [0]
        for choice in rng.integers(3, size=length - 1):
            words.append(followers[words[-1], choice])
        return np.array(words, np.int32)

    few = evaluation_words or 1000
    words = tuple(map(str, range(vocabulary)))
    return Corpus(stream(train_words or 10_000), stream(few), stream(few), words)


def minibatches(ids: np.ndarray, batch: int, bptt: int) -> tuple[np.ndarray, ...]:
    """Lay out a text so that `batch` rows in succession are a minibatch, and go on in the next.

    Returns:
        Inputs and targets `int32[S batch, bptt]`, and `bool[S batch]`: the text begins here.
    """
    inputs, targets = batchify(ids, batch, bptt)
    first = np.arange(len(inputs) * batch) < batch
    return inputs.reshape(-1, bptt), targets.reshape(-1, bptt), first


def long_rows(ids: np.ndarray) -> tuple[np.ndarray, ...]:
    """Cut a text into a few long rows, of whole blocks: targets beyond a row's end are -1."""
    (inputs,), (targets,) = batchify(ids, ROWS, (len(ids) - 1) // ROWS)
    padding = (0, 0), (0, -inputs.shape[1] % BLOCK)
    targets = np.pad(targets, padding, constant_values=-1)
    return np.pad(inputs, padding), targets, np.ones(ROWS, bool)


def score(
    model: WordLSTM,
    params: Params,
    carry: State,
    inputs: jax.Array,
    targets: jax.Array,
    key: jax.Array | None = None,
) -> tuple[jax.Array, State]:
    """Return the model's `log_likelihoods`, block by block where `[B, T, V]` would be large.

    The gradient computes a block's probabilities of all words again. The key is the same in all
    blocks, and so are the masks.
    """
    if targets.size * model.vocabulary <= CACHED:
        return model.log_likelihoods(params, carry, inputs, targets, key)

    def block(carry, words):
        scores, carry = model.log_likelihoods(params, carry, *words, key)
        return carry, scores

    def cut(x: jax.Array) -> jax.Array:
        return x.reshape(len(x), -1, BLOCK).swapaxes(0, 1)

    step = jax.checkpoint(block, prevent_cse=False)
    carry, scores = jax.lax.scan(step, carry, (cut(inputs), cut(targets)))
    return scores.swapaxes(0, 1).reshape(inputs.shape), carry


def language_task(
    model: WordLSTM, corpus: Corpus, batch: int, bptt: int, state_reset: float
) -> Task:
    """Return the task: predict the next word; the score is its mean log-likelihood in nats."""

    def init(key):
        return model.init(key), model.zero_carry(batch)

    def loss(params, carry, rows, key):
        inputs, targets, first = rows
        reset_key, dropout_key = jax.random.split(key)
        anew = first | jax.random.bernoulli(reset_key, state_reset, first.shape)
        carry = jax.tree.map(lambda x: jnp.where(anew[:, None], 0.0, x), carry)
        scores, carry = score(model, params, carry, inputs, targets, dropout_key)
        return -scores.sum(axis=1).mean(), carry

    def metric(params, carry, rows):
        inputs, targets, _ = rows
        scores, _ = score(model, params, model.zero_carry(len(inputs)), inputs, targets)
        return jnp.mean(scores, axis=1, where=targets >= 0)

    return Task(
        "words",
        init,
        loss,
        metric,
        train=minibatches(corpus.train, batch, bptt),
        validation=long_rows(corpus.validation),
        test=long_rows(corpus.test),
        chance=-math.log(model.vocabulary),
        perfect=0.0,
        shuffle=False,
        max_grad_norm=MAX_GRAD_NORM,
        evaluation_batch=ROWS,
    )

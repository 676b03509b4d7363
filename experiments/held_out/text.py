"""Three test tasks on text: an LSTM, a transformer and a translator."""

import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from data import PAD
from data.ptb import load_ptb
from data.subwords import bucket_pairs, train_subwords
from data.translation import load_multi30k
from models.gnmt import GNMT
from models.ptb_lstm import WordLSTM

from nos_optax.population import Task, Workload
from nos_optax.population.tasks.layers import (
    causal_attention,
    dense,
    init_dense,
    log_likelihood,
    normalise,
)

PTB, MULTI30K = "ptb", "multi30k"  # folders in that of the data sets


def lstm(data: Path) -> Workload:
    """Return an LSTM of 96 units that guesses one of 2,000 words, each row of 20 on its own."""
    vocabulary, length = 2_000, 20
    corpus = load_ptb(data / PTB, vocabulary)
    model = WordLSTM(vocabulary, 96, 1.0, 0.1, 0.1, 0.1, init_scale=0.1)

    def scores(params, rows, key=None):
        carry = model.zero_carry(len(rows))
        found, _ = model.log_likelihoods(params, carry, rows[:, :-1], rows[:, 1:], key)
        return found.mean(axis=1)

    task = Task(
        "ptb-lstm",
        init=lambda key: (model.init(key), ()),
        loss=lambda params, state, rows, key: (-scores(params, rows, key).mean(), state),
        metric=lambda params, state, rows: scores(params, rows),
        train=_rows(corpus.train, length, 8_192),
        validation=_rows(corpus.validation, length, 512),
        chance=-math.log(vocabulary),
        perfect=0.0,
        max_grad_norm=5.0,
        evaluation_batch=128,
    )
    return Workload(task, 16, 640)


def transformer(data: Path) -> Workload:
    """Return a decoder of two blocks, 96 wide, that guesses each of 32 characters of Penn Treebank.

    Pre-normalised, with learned positions: 0.23 million parameters.
    """
    width, heads, blocks, context = 96, 4, 2, 32
    words = load_ptb(data / PTB)
    train, validation = (
        " ".join(words.words[i] for i in stream)
        for stream in (words.train[:200_000], words.validation[:20_000])
    )
    alphabet = sorted(set(train))
    count, symbols = len(alphabet), {c: i for i, c in enumerate(alphabet)}
    train, validation = (
        np.array([symbols.get(c, symbols[" "]) for c in text], np.int32)
        for text in (train, validation)
    )

    def init(key):
        keys = jax.random.split(key, 3 * blocks + 2)
        params: dict[str, Any] = {
            "tables": 0.1 * jax.random.normal(keys[0], (count + context, width)),
            "out": init_dense(keys[1], (width, count)),
        }
        for block in range(blocks):
            mixing, mixed_key, hidden = keys[2 + 3 * block : 5 + 3 * block]
            params[f"mixing{block}"] = init_dense(mixing, (width, 3 * width))
            params[f"mixed{block}"] = init_dense(mixed_key, (width, width))
            params[f"hidden{block}"] = init_dense(hidden, (width, 4 * width, width))
        return params, ()

    def scores(params, rows):
        x = jax.nn.one_hot(rows[:, :-1], count) @ params["tables"][:count]
        x += params["tables"][count:]
        for block in range(blocks):
            parts = dense(params[f"mixing{block}"], 1, normalise(x))
            taken = causal_attention(parts, heads)
            x += dense(params[f"mixed{block}"], 1, taken)
            hidden = jax.nn.gelu(dense(params[f"hidden{block}"], 1, normalise(x)))
            x += dense(params[f"hidden{block}"], 2, hidden)
        return log_likelihood(dense(params["out"], 1, normalise(x)), rows[:, 1:]).mean(axis=1)

    task = Task(
        "ptb-transformer",
        init,
        loss=lambda params, state, rows, key: (-scores(params, rows).mean(), state),
        metric=lambda params, state, rows: scores(params, rows),
        train=_rows(train, context, 16_384),
        validation=_rows(validation, context, 512),
        chance=-math.log(count),
        perfect=0.0,
        max_grad_norm=1.0,
        evaluation_batch=128,
    )
    return Workload(task, 8, 800)


def gnmt(data: Path) -> Workload:
    """Return a translator from English to German of two layers of 48 units, 1,500 subwords.

    Pairs of up to 16 subwords each; scored by the log-likelihood of a token, which is the loss too.
    """
    vocabulary, length = 1_500, 16
    corpus = load_multi30k(data / MULTI30K)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_subwords(corpus.train.source + corpus.train.target, vocabulary, folder)
    train, validation = (
        bucket_pairs(tokenizer, pairs, [length])[0] for pairs in (corpus.train, corpus.validation)
    )
    model = GNMT(vocabulary, 48, layers=2, dropout=0.1, init_scale=0.1)

    def scores(params, batch, key=None):
        source, target = batch
        rngs = None if key is None else {"dropout": key}
        found: Any = model.apply(
            {"params": params}, source, target, train=key is not None, rngs=rngs
        )
        return found.sum(axis=1) / jnp.sum(target[:, 1:] != PAD, axis=1)

    task = Task(
        "multi30k-gnmt",
        init=lambda key: (model.init(key, *_first(train), train=False)["params"], ()),
        loss=lambda params, state, batch, key: (-scores(params, batch, key).mean(), state),
        metric=lambda params, state, batch: scores(params, batch),
        train=tuple(train),
        validation=tuple(validation),
        chance=-math.log(vocabulary),
        perfect=0.0,
        max_grad_norm=5.0,
        evaluation_batch=32,
    )
    return Workload(task, 24, 640)


def _first(pairs) -> tuple[np.ndarray, np.ndarray]:
    return pairs.source[:1], pairs.target[:1]


def _rows(stream: np.ndarray, length: int, most: int) -> np.ndarray:
    """Cut a text into rows of length + 1 that do not overlap, `int32[N, length + 1]`."""
    rows = stream[: len(stream) // (length + 1) * (length + 1)].reshape(-1, length + 1)
    return rows[:most].astype(np.int32)

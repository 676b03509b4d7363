"""A task of your own: a small causal transformer language model, in flax.linen, on characters.

The text is Penn Treebank's where the environment variable NOS_OPTAX_PTB names a folder with
ptb.train.txt and ptb.valid.txt; else sentences that a small stochastic grammar writes. The reward
is the fraction of the next characters that are predicted rightly.

Search for its update rules, from this folder (a minute or two on 2 cores; prints the best rules):
    python -m nos_optax.search --protocol paper --task transformer:task \
        --minibatch-size 20 --samples 64
"""

import os
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from nos_optax.population import Task

WIDTH, HEADS, BLOCKS = 32, 2, 1
LENGTH = 32  # characters that the model sees
TRAIN, VALIDATION = 700, 250  # windows of text


class Transformer(nn.Module):
    """A decoder: token and place embeddings, blocks of attention and a hidden layer, logits."""

    characters: int

    @nn.compact
    def __call__(self, tokens):
        """Return logits `[B, T, characters]` of the next token for each token of `[B, T]`."""
        places = self.param("places", nn.initializers.normal(0.1), (LENGTH, WIDTH))
        x = nn.Embed(self.characters, WIDTH)(tokens) + places
        causal = nn.make_causal_mask(tokens)
        for _ in range(BLOCKS):
            x += nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x), mask=causal)
            x += nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(self.characters)(nn.LayerNorm()(x))


def generated_text(sentences: int, seed: int) -> str:
    """Return sentences of a small stochastic grammar, a line each."""
    rng = np.random.default_rng(seed)
    words = {
        "determiner": "the a every no some".split(),
        "adjective": "small old quick silent bright heavy".split(),
        "noun": "market trader river engine letter garden captain window".split(),
        "verb": "sees follows buys forgets paints carries opens".split(),
        "adverb": "slowly again today never gladly".split(),
    }

    def word(kind):
        return rng.choice(words[kind])

    def noun_phrase():
        adjectives = [word("adjective") for _ in range(rng.geometric(0.6) - 1)]
        relative = ["that", *verb_phrase()] if rng.random() < 0.15 else []
        return [word("determiner"), *adjectives, word("noun"), *relative]

    def verb_phrase():
        adverb = [word("adverb")] if rng.random() < 0.3 else []
        return [word("verb"), *noun_phrase(), *adverb]

    lines = (" ".join([*noun_phrase(), *verb_phrase()]) for _ in range(sentences))
    return "\n".join(lines)


def read_texts() -> tuple[str, str, str]:
    """Return the name of the text, and its parts for training and validation."""
    folder = os.environ.get("NOS_OPTAX_PTB")
    if not folder:
        return "generated text", generated_text(2500, seed=0), generated_text(500, seed=1)
    files = [Path(folder) / f"ptb.{part}.txt" for part in ("train", "valid")]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"NOS_OPTAX_PTB is {folder}, but {' and '.join(missing)} is not there; name the folder "
            "with Penn Treebank's text, or unset it for generated text"
        )
    train, validation = (file.read_text(encoding="utf-8") for file in files)
    return "Penn Treebank", train, validation


def windows(text: str, alphabet: str, count: int) -> np.ndarray:
    """Return the first `count` windows of a text, `int32[count, LENGTH + 1]`."""
    size = count * (LENGTH + 1)
    if len(text) < size:
        raise ValueError(f"a text has {len(text)} characters, but {count} windows need {size}")
    tokens = [max(alphabet.find(c), 0) for c in text[:size]]  # an unknown character becomes 0
    return np.array(tokens, np.int32).reshape(count, LENGTH + 1)


def task() -> Task:
    """Return the task: predict the next character; the reward is the validation accuracy."""
    name, train, validation = read_texts()
    alphabet = "".join(sorted(set(train[: TRAIN * (LENGTH + 1)])))
    train, validation = windows(train, alphabet, TRAIN), windows(validation, alphabet, VALIDATION)
    net = Transformer(len(alphabet))

    def init(key):
        return net.init(key, train[:1, :-1]), ()

    def loss(params, state, tokens, key):
        logits = net.apply(params, tokens[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return jnp.mean(losses), state

    def accuracy(params, state, tokens):
        guesses = net.apply(params, tokens[:, :-1]).argmax(axis=-1)
        return jnp.mean(guesses == tokens[:, 1:], axis=1)

    # The best constant guess, by windows, as the metric scores them.
    commonest = np.bincount(train[:, 1:].ravel()).argmax()
    guessed = (validation[:, 1:] == commonest).mean(axis=1)
    return Task(
        f"transformer, {name}",
        init,
        loss,
        accuracy,
        train=train,
        validation=validation,
        chance=1 / len(alphabet),
        baseline=float(guessed.mean()),
        baseline_error=float(guessed.std() / np.sqrt(VALIDATION)),
        perfect=1.0,
    )

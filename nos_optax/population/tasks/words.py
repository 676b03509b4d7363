"""A model of words: most are rare, so most rows of its tables rarely have a gradient."""

import collections
import functools
import re

import numpy as np

from nos_optax.population.task import Task
from nos_optax.population.tasks.text import disjoint_windows, guess_next, topics_text

WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")  # words, numbers, and each other sign by itself
VOCABULARY = 256  # the most frequent words, four fifths of the text, and one that is all others
CONTEXT = 2
WINDOWS = 20_480
VALIDATION_WINDOWS = 2048


def words(width: int = 16, examples: int = WINDOWS) -> Task:
    """Return a perceptron that guesses a word, one of 256, from the two before it.

    A rule that goes on where a gradient was long ago, as `sign(m)` does, spoils what is rare. The
    next word is uncertain, too: gradients are noise for the most part, and steps must become small.
    """
    windows = disjoint_windows(text_words(), CONTEXT + 1, examples + VALIDATION_WINDOWS)
    return guess_next("words", windows, VOCABULARY, width, VALIDATION_WINDOWS)


@functools.cache
def text_words() -> np.ndarray:
    """Return the text's words by their ranks, `int32[N]`: 1 is the most frequent, 0 any other."""
    text = WORD.findall(topics_text())
    frequent = collections.Counter(text).most_common(VOCABULARY - 1)
    ranks = {word: rank for rank, (word, _) in enumerate(frequent, 1)}
    return np.array([ranks.get(word, 0) for word in text], np.int32)

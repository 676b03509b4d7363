"""A character model of Python's own text."""

import functools

import numpy as np

from nos_optax.population.task import Task
from nos_optax.population.tasks.text import disjoint_windows, guess_next, topics_text

ALPHABET = "abcdefghijklmnopqrstuvwxyz .,'()"
OTHER = ALPHABET.index(" ")  # of capitals' lower case, all else is a space
WINDOWS = 8192
VALIDATION_WINDOWS = 1024


def characters(context: int = 8, width: int = 32, examples: int = WINDOWS) -> Task:
    """Return a perceptron that guesses a character, one of 32, from those before it."""
    windows = text_windows(context + 1, examples + VALIDATION_WINDOWS)
    return guess_next("characters", windows, len(ALPHABET), width, VALIDATION_WINDOWS)


@functools.cache
def text_windows(length: int, count: int) -> np.ndarray:
    """Return symbols `int32[count, length]` of windows in the text."""
    symbols = np.array([ALPHABET.find(c) for c in topics_text()], np.int32)
    return disjoint_windows(np.where(symbols < 0, OTHER, symbols), length, count)

"""A space that is small enough to be evaluated whole, and what each of its programs earns."""

import functools
import itertools
import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nos_optax.grammar import SearchSpace
from nos_optax.grammar.vocabulary import BINARY, UNARY
from nos_optax.population.suite import LEAST

SPACE = SearchSpace(
    2,
    operands=("g", "m", "sign(g)", "sign(m)", "adam", "rmsprop", "ld"),
    unary=("x", "exp", "sign"),
    binary=("+", "*"),
    live_results=True,
)
TASKS = ("digits-mlp", "digits-autoencoder")
TABLE = Path(__file__).parents[1] / "results" / "strategy_table.npz.xz"
REJECTED = -1  # the number of a program that is not worth training


@functools.cache
def _iterations() -> tuple[np.ndarray, ...]:
    """Return the tokens `[N_k, 5]` that each iteration may have."""
    unary, binary = map(UNARY.index, SPACE.unary), map(BINARY.index, SPACE.binary)
    functions = list(itertools.product(*itertools.tee(unary, 2), binary))
    return tuple(
        np.array([(*pair, *rest) for pair in pairs for rest in functions], np.int32)
        for pairs in SPACE._pairs
    )


@functools.cache
def programs() -> np.ndarray:
    """Return all programs of the space, `int32[P, 10]`."""
    first, second = _iterations()
    rows = np.concatenate(
        [np.repeat(first, len(second), axis=0), np.tile(second, (len(first), 1))], axis=1
    )
    return rows[SPACE.allows(rows)]


class Table(NamedTuple):
    """What each program earns.

    Attributes:
        numbers: `int32[P]`, of the update that each of `programs()` makes; REJECTED where it is
            not worth training.
        rewards: `float32[D, tasks, seeds]`, of each update, in doublings of tuned Adam's training.
        index: where each program is, by its tokens.
    """

    numbers: np.ndarray
    rewards: np.ndarray
    index: dict[bytes, int]

    @property
    def means(self) -> np.ndarray:
        """`float32[D]`, over tasks and seeds."""
        return np.maximum(self.rewards.mean(axis=(1, 2)), LEAST)

    def look_up(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers `[B]` and rewards `[B]` of programs `int32[B, 10]`."""
        rows = [self.index[row.tobytes()] for row in np.ascontiguousarray(tokens, np.int32)]
        numbers = self.numbers[rows]
        return numbers, np.where(numbers == REJECTED, LEAST, self.means[numbers])


def make_table(numbers: np.ndarray, rewards: np.ndarray) -> Table:
    """Return the table of these numbers and rewards."""
    return Table(numbers, rewards, {row.tobytes(): i for i, row in enumerate(programs())})


def read_table(path: Path = TABLE) -> Table:
    """Return the table that was measured."""
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}: python benchmarks/strategy_table.py --measure"
        )
    with lzma.open(path) as file, np.load(file) as arrays:
        return make_table(arrays["numbers"], arrays["rewards"])


def write_table(numbers: np.ndarray, rewards: np.ndarray, path: Path = TABLE) -> None:
    """Write what was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wb") as file:
        np.savez(file, numbers=numbers, rewards=rewards.astype(np.float32))

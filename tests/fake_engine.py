"""An engine that trains nothing: a program's result is drawn from a hash of it."""

import zlib
from collections.abc import Iterator

import numpy as np

from nos_optax.grammar.program import pad_programs
from nos_optax.population import STATUSES, Evaluation
from nos_optax.population.protocol import DIVERGED, TRAINED

SWEEP = 7  # learning rates


class FakeEngine:
    """Evaluates at once, in parts whose order is never the same.

    Args:
        parts_until_death: the parts after which it dies, counted over all populations.

    Attributes:
        evaluated: a hash of every program and its number of epochs, in order.
    """

    chance = 0.1

    def __init__(self, parts_until_death: int | None = None):
        self.facts = {"dataset": "fake"}
        self.evaluated: list[tuple[int, int | None]] = []
        self.parts_until_death = parts_until_death
        self._order = np.random.default_rng()

    def evaluate(
        self,
        programs: np.ndarray,
        seed: int,
        epochs: int | None = None,
        rates: np.ndarray | None = None,
    ) -> Iterator[tuple[np.ndarray, Evaluation]]:
        programs = np.asarray(programs, np.int32).reshape(len(programs), -1, 5)
        hashes = [zlib.crc32(p.tobytes(), seed) for p in pad_programs(programs, 4)]
        for rows in np.array_split(self._order.permutation(len(programs)), 3):
            if len(rows):
                if self.parts_until_death == 0:
                    raise RuntimeError("the engine died")
                if self.parts_until_death is not None:
                    self.parts_until_death -= 1
                self.evaluated += [(hashes[row], epochs) for row in rows]
                results = [self._result(hashes[row]) for row in rows]
                yield rows, Evaluation(*map(np.stack, zip(*results, strict=True)))

    def close(self) -> None:
        pass

    def _result(self, number: int) -> Evaluation:
        """Return a row: 1 in 3 trained, the rest dead or diverged."""
        rng = np.random.default_rng(number)
        status = int(rng.choice(3, p=[0.5, 0.3, 0.2]))
        rate = np.nan if status == DIVERGED else 10.0 ** rng.integers(-5, 2)
        sweep, curve, reward = rng.random(SWEEP), np.full(1, np.nan), self.chance
        if status == TRAINED:
            curve = rng.uniform(self.chance, 1, 1)
            reward = curve[0]
        assert 0 <= status < len(STATUSES)
        return Evaluation(
            np.float32(reward),
            np.float32(rate),
            np.int32(status),
            sweep.astype(np.float32),
            curve.astype(np.float32),
        )

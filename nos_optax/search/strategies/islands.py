"""Islands: evolutions beside one another, so that not all of them end with one rule's relatives."""

from typing import NamedTuple

import jax
import numpy as np

from nos_optax.grammar import SearchSpace
from nos_optax.search.strategies.evolution import Evolution, EvolutionState
from nos_optax.search.strategies.strategy import KeyStream, check_answer

MIGRATION = 0.02  # how often an island takes up another's best, in each answer


class IslandsState(NamedTuple):
    """What the islands' next asks depend on."""

    keys: KeyStream
    islands: tuple[EvolutionState, ...]
    best: np.ndarray  # float32[K], of each island since it began
    idle: np.ndarray  # int32[K], answers since then that did not raise it


class Islands:
    """Evolutions that share the programs asked for, and begin again where they stand still.

    Each island has its own population. Now and then it takes up the best program of another one.
    An island whose best program has not become better for some answers begins again from uniform
    samples, unless it has the best of all.

    Args:
        space: what to search.
        key: PRNG key of all choices.
        islands: how many.
        population_size: of each, as for `Evolution`.
        tournament_size: of each.
        patience: answers without a better program after which an island begins again.

    Raises:
        ValueError: a number is less than 1.

    References:
        Tanese, `Distributed Genetic Algorithms for Function Optimization
        <https://hdl.handle.net/2027.42/162372>`_, 1989
    """

    def __init__(
        self,
        space: SearchSpace,
        key: jax.Array,
        islands: int = 4,
        population_size: int = 32,
        tournament_size: int = 8,
        patience: int = 40,
    ):
        if islands < 1 or patience < 1:
            raise ValueError(f"islands={islands}, patience={patience}: give at least 1 of each.")
        self.space, self.patience, self._asked = space, patience, None
        self._sizes = population_size, tournament_size
        self._keys = KeyStream.start(key)
        self._islands = [self._island(jax.random.fold_in(key, i)) for i in range(islands)]
        self._best = np.full(islands, -np.inf, np.float32)
        self._idle = np.zeros(islands, np.int32)

    def _island(self, key: jax.Array) -> Evolution:
        return Evolution(self.space, key, *self._sizes)

    @property
    def state(self) -> IslandsState:
        """All that later asks depend on."""
        islands = tuple(island.state for island in self._islands)
        return IslandsState(self._keys, islands, self._best, self._idle)

    @state.setter
    def state(self, state: IslandsState) -> None:
        self._keys, islands, self._best, self._idle = state
        for island, its in zip(self._islands, islands, strict=True):
            island.state = EvolutionState(*its)

    def ask(self, count: int) -> np.ndarray:
        """Return programs of all islands, one island's after another's."""
        self._keys = self._keys.next()
        self._parts = np.array_split(np.arange(count), len(self._islands))
        self._asked = np.concatenate(
            [
                island.ask(len(part))
                for island, part in zip(self._islands, self._parts, strict=True)
                if len(part)
            ]
        )
        return self._asked

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Let the newest live on their islands, and let islands that stand still begin again."""
        tokens, rewards = check_answer(self._asked, tokens, rewards)
        self._asked = None
        best, idle = self._best.copy(), self._idle.copy()
        for k, (island, part) in enumerate(zip(self._islands, self._parts, strict=True)):
            rows = part[part < len(tokens)]
            if len(rows):
                island.add(tokens[rows], rewards[rows])
                highest = rewards[rows].max()
                idle[k] = 0 if highest > best[k] else idle[k] + 1
                best[k] = max(best[k], highest)
        self._best, self._idle = best, idle
        rng = np.random.default_rng(np.asarray(jax.random.key_data(self._keys.key())))
        self._migrate(rng)
        self._begin_again()

    def _migrate(self, rng: np.random.Generator) -> None:
        """Let the best of another island live on some."""
        for k in np.flatnonzero(rng.random(len(self._islands)) < MIGRATION):
            other = self._islands[
                (k + rng.integers(1, max(len(self._islands), 2))) % len(self._islands)
            ]
            if int(other.state.size):
                program, reward = other.best()
                self._islands[k].add(program[None], np.array([reward], np.float32))

    def _begin_again(self) -> None:
        """Empty the islands that stand still, all but the best."""
        for k in np.flatnonzero(self._idle >= self.patience):
            if k != self._best.argmax():
                key = jax.random.fold_in(self._keys.key(), k + 1)
                self._islands[k] = self._island(key)
                self._best[k], self._idle[k] = -np.inf, 0

    def revise(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Take up what the rewards of earlier programs are now, after more seeds."""
        for island in self._islands:
            island.revise(tokens, rewards)

"""Evolution on islands: populations that seldom meet, tried beside the one of the package."""

import jax
import numpy as np

from nos_optax.grammar import SearchSpace
from nos_optax.search.strategies.evolution import Evolution

ISLANDS = 4
EVERY = 8  # populations between two migrations
MIGRANTS = 2  # of each island, its best, to the next


class Islands:
    """Four evolutions with a quarter of the population each; their best migrate now and then."""

    def __init__(self, space: SearchSpace, key: jax.Array):
        keys = jax.random.split(key, ISLANDS)
        self._islands = [Evolution(space, k, population_size=32, founders=8) for k in keys]
        self._told = 0

    def ask(self, count: int) -> np.ndarray:
        """Return an equal share of each island's programs."""
        shares = np.diff(np.linspace(0, count, ISLANDS + 1).astype(int))
        self._ends = np.cumsum(shares)[:-1]
        asked = [x.ask(int(n)) for x, n in zip(self._islands, shares, strict=True)]
        return np.concatenate(asked)

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Tell each island of its own."""
        parts = zip(np.split(tokens, self._ends), np.split(rewards, self._ends), strict=True)
        for island, part in zip(self._islands, parts, strict=True):
            island.tell(*part)
        self._told += 1
        if self._told % EVERY == 0:
            self._migrate()

    def revise(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Tell all islands what earlier rewards are now."""
        for island in self._islands:
            island.revise(tokens, rewards)

    def _migrate(self) -> None:
        """Put the best of each island in the place of the worst of the next."""
        states = [island.state for island in self._islands]
        for island, state, source in zip(
            self._islands, states, [states[-1], *states[:-1]], strict=True
        ):
            living = np.arange(len(state.rewards)) >= len(state.rewards) - state.size
            known = {row.tobytes() for row in state.tokens[living]}
            best = np.argsort(-source.rewards, kind="stable")[: min(MIGRANTS, source.size)]
            new = [i for i in best if source.tokens[i].tobytes() not in known]
            worst = np.argsort(np.where(living, state.rewards, np.inf), kind="stable")[: len(new)]
            tokens, rewards = state.tokens.copy(), state.rewards.copy()
            tokens[worst], rewards[worst] = source.tokens[new], source.rewards[new]
            island.state = state._replace(tokens=tokens, rewards=rewards)

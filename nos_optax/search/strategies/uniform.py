"""Random search, which every other strategy has to beat."""

import jax
import numpy as np

from nos_optax.grammar import SearchSpace
from nos_optax.search.strategies.strategy import KeyStream, check_answer


class RandomSearch:
    """Uniform samples of the space.

    Args:
        space: what to sample.
        key: PRNG key of all samples.
    """

    def __init__(self, space: SearchSpace, key: jax.Array):
        self.space, self.state, self._asked = space, KeyStream.start(key), None

    def ask(self, count: int) -> np.ndarray:
        """Return uniform samples."""
        self.state = self.state.next()
        self._asked = np.asarray(self.space.sample(self.state.key(), count))
        return self._asked

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Learn nothing."""
        check_answer(self._asked, tokens, rewards)
        self._asked = None

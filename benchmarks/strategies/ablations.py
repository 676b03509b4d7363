"""Evolution without one of its parts: what is each of them worth?"""

import jax

from nos_optax.grammar import SearchSpace
from nos_optax.search.strategies.evolution import Evolution


class NoNiches(Evolution):
    """Rules that go in the same direction may be the whole population."""

    def __init__(self, space: SearchSpace, key: jax.Array):
        super().__init__(space, key, population_size=128, niche_size=128)


class NoTrees(Evolution):
    """Children have other tokens than their parents, and no other trees."""

    def __init__(self, space: SearchSpace, key: jax.Array):
        super().__init__(space, key, restructured=0.0)

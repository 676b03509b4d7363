"""How a search chooses what to evaluate next, a file for each way.

To add one, write its class in a file here and name it in `STRATEGIES`.
"""

from collections.abc import Callable

import jax

from nos_optax.controller import PRESETS
from nos_optax.controller.ppo import REINFORCE_PRESETS
from nos_optax.grammar import SearchSpace
from nos_optax.population.own import import_own
from nos_optax.search.strategies.controller import PPO as PPO
from nos_optax.search.strategies.evolution import Evolution as Evolution
from nos_optax.search.strategies.strategy import Strategy as Strategy
from nos_optax.search.strategies.uniform import RandomSearch as RandomSearch

Factory = Callable[[SearchSpace, jax.Array, str], Strategy]  # of a space, a key and a preset


def find_strategy(name: str) -> Factory:
    """Return what makes a strategy.

    Args:
        name: one of `STRATEGIES`, or `module:Class` for a class of the user's own, which is called
            with a space and a key.

    Raises:
        ValueError: there is no such strategy, or it cannot ask and tell.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    own = import_own("strategy", name, tuple(STRATEGIES))
    for method in ("ask", "tell"):
        if not callable(getattr(own, method, None)):
            raise ValueError(
                f"strategy {name!r} has no method {method}; see nos_optax.search.Strategy"
            )
    return lambda space, key, preset: own(space, key)


def make_strategy(name: str, space: SearchSpace, seed: int, preset: str = "default") -> Strategy:
    """Return a strategy by its name on the command line.

    Args:
        name: as in `find_strategy`.
        space: what to search.
        seed: of all its choices.
        preset: of the controllers, `default` or `paper`; the others have none.

    Raises:
        ValueError: there is no such strategy, or it cannot ask and tell.
    """
    return find_strategy(name)(space, jax.random.key(seed), preset)


STRATEGIES: dict[str, Factory] = {
    "ppo": lambda space, key, preset: PPO(space, key, PRESETS[preset]),
    "reinforce": lambda space, key, preset: PPO(space, key, REINFORCE_PRESETS[preset]),
    "random": lambda space, key, preset: RandomSearch(space, key),
    "evolution": lambda space, key, preset: Evolution(space, key),
}

"""How a search chooses what to evaluate next, a file for each way.

To add one, write its class in a file here and name it in `STRATEGIES`.
"""

import contextlib
from collections.abc import Callable

import jax
import numpy as np

from nos_optax.controller import PRESETS
from nos_optax.controller.ppo import REINFORCE_PRESETS
from nos_optax.grammar import SearchSpace, encode, rules
from nos_optax.grammar.errors import RuleError
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


def make_strategy(
    name: str,
    space: SearchSpace,
    seed: int,
    preset: str = "default",
    start: str = "random",
) -> Strategy:
    """Return a strategy by its name on the command line.

    Args:
        name: as in `find_strategy`.
        space: what to search.
        seed: of all its choices.
        preset: of the controllers, `default` or `paper`; the others have none.
        start: of evolution, `random` or `catalogue`: with the rules of the paper that are in the
            space.

    Raises:
        ValueError: there is no such strategy, or it cannot ask and tell; another than evolution is
            to start from the catalogue, or no rule of that is in the space.
    """
    key = jax.random.key(seed)
    if start == "random":
        return find_strategy(name)(space, key, preset)
    if name != "evolution":
        raise ValueError(f"--start {start} is for --strategy evolution, got {name}")
    return Evolution(space, key, start=catalogue_programs(space))


def catalogue_programs(space: SearchSpace) -> np.ndarray:
    """Return the rules of the catalogue that a space has, `int32[N, 5 G]`.

    Raises:
        ValueError: it has none.
    """
    programs = []
    for row in rules.values():
        with contextlib.suppress(RuleError):  # it takes more iterations, or other numbers
            programs.append(encode(row.rule, space.iterations).array.ravel())
    written = np.unique(np.array(programs, np.int32).reshape(len(programs), -1), axis=0)
    allowed = written[space.allows(written)] if programs else written
    if not len(allowed):
        raise ValueError(
            "--start catalogue: no rule of the paper is in this space; give more iterations, "
            "operands or functions, or --start random"
        )
    return allowed


STRATEGIES: dict[str, Factory] = {
    "ppo": lambda space, key, preset: PPO(space, key, PRESETS[preset]),
    "reinforce": lambda space, key, preset: PPO(space, key, REINFORCE_PRESETS[preset]),
    "random": lambda space, key, preset: RandomSearch(space, key),
    "evolution": lambda space, key, preset: Evolution(space, key),
}

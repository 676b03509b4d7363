"""Controllers that look for the best, tried beside the strategies of the package.

Command:  python benchmarks/strategy_table.py --strategy random evolution ppo \
          strategies.controllers:NewPrograms strategies.controllers:RiskSeeking \
          strategies.controllers:MaxSeeking strategies.controllers:Ranks \
          strategies.controllers:Hybrid
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.controller import PRESETS
from nos_optax.grammar import SearchSpace
from nos_optax.search.strategies.controller import PPO
from nos_optax.search.strategies.evolution import Evolution

DEFAULT = PRESETS["default"]
TRIES = 10  # samples for each program that was asked for before


class NewPrograms(PPO):
    """A controller that samples again what it has asked for before."""

    config = DEFAULT

    def __init__(self, space: SearchSpace, key: jax.Array):
        super().__init__(space, key, self.config)
        self._known: set[bytes] = set()

    def ask(self, count: int) -> np.ndarray:
        """Sample programs that are new, and repeats only where none is found."""
        keys = self.state.keys.next()
        self.state = self.state._replace(keys=keys)
        new, repeats = {}, []
        for i in range(TRIES):
            key = jax.random.fold_in(jax.random.fold_in(keys.key(), 0), i)
            samples = self.controller.sample(self.state.learner.params, key, batch_size=count)
            tokens, log_prob = np.asarray(samples.tokens), np.asarray(samples.log_prob)
            for row, value in zip(tokens, log_prob, strict=True):
                if row.tobytes() in self._known:
                    repeats.append((row, value))
                else:
                    new.setdefault(row.tobytes(), (row, value))
            if len(new) >= count:
                break
        chosen = [*new.values(), *repeats][:count]
        self._known.update(new)
        self._asked = np.stack([row for row, _ in chosen])
        self._log_prob = jnp.array([value for _, value in chosen])
        return self._asked


class RiskSeeking(NewPrograms):
    """It climbs the mean of a batch's best tenth."""

    config = dataclasses.replace(DEFAULT, objective="quantile")


class MaxSeeking(NewPrograms):
    """It climbs the expected maximum of a quarter of a batch."""

    config = dataclasses.replace(DEFAULT, objective="max")


class Ranks(NewPrograms):
    """It climbs the ranks within a batch."""

    config = dataclasses.replace(DEFAULT, objective="rank")


class Hybrid:
    """Half of a population are a risk-seeking controller's, half evolution's, which sees all."""

    def __init__(self, space: SearchSpace, key: jax.Array):
        first, second = jax.random.split(key)
        self._controller, self._evolution = RiskSeeking(space, first), Evolution(space, second)

    def ask(self, count: int) -> np.ndarray:
        """Ask both."""
        self._half = count // 2
        written, bred = self._controller.ask(self._half), self._evolution.ask(count - self._half)
        return np.concatenate([written, bred])

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Tell the controller of its own, and evolution of all."""
        self._controller.tell(tokens[: self._half], rewards[: self._half])
        self._evolution._asked = tokens
        self._evolution.tell(tokens, rewards)

"""How a search chooses what to evaluate next: ask for programs, tell their rewards."""

from typing import Protocol

import jax
import numpy as np

from nos_optax.controller import PRESETS, PolicyConfig, lstm_policy, ppo_controller
from nos_optax.grammar import SearchSpace


class Strategy(Protocol):
    """Chooses programs. `tell` answers the last `ask`, row for row."""

    def ask(self, count: int) -> np.ndarray:
        """Return the next programs to evaluate, tokens `int32[count, 5 G]`."""
        ...

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Learn from the rewards `[count]`."""
        ...


class RandomSearch:
    """Uniform samples of the space."""

    def __init__(self, space: SearchSpace, key: jax.Array):
        self.space, self.key, self.asked = space, key, 0

    def ask(self, count: int) -> np.ndarray:
        """Return uniform samples."""
        self.asked += 1
        return np.asarray(self.space.sample(jax.random.fold_in(self.key, self.asked), count))

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Learn nothing."""


class PPO:
    """The paper's controller: an LSTM policy trained by proximal policy optimization.

    Args:
        space: what the policy may write.
        key: PRNG key of its weights and of all its samples.
        preset: `default` or `paper`; see `nos_optax.controller.PRESETS`.
    """

    def __init__(self, space: SearchSpace, key: jax.Array, preset: str = "default"):
        policy = lstm_policy(PolicyConfig(space.num_choices), space.mask)
        self.controller = ppo_controller(policy, PRESETS[preset])
        init_key, self.key = jax.random.split(key)
        self.state = self.controller.init(init_key)
        self.asked = 0

    def _key(self, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(self.key, self.asked), purpose)

    def ask(self, count: int) -> np.ndarray:
        """Sample the policy."""
        self.asked += 1
        self.samples = self.controller.sample(self.state.params, self._key(0), batch_size=count)
        return np.asarray(self.samples.tokens)

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Update the policy."""
        self.state, self.metrics = self.controller.update(
            self.state, self._key(1), tokens, self.samples.log_prob, rewards
        )


def make_strategy(name: str, space: SearchSpace, seed: int, preset: str = "default") -> Strategy:
    """Return a strategy by its name on the command line.

    Raises:
        ValueError: the name is unknown.
    """
    key = jax.random.key(seed)
    match name:
        case "ppo":
            return PPO(space, key, preset)
        case "random":
            return RandomSearch(space, key)
        case _:
            raise ValueError(f"strategy must be ppo or random, got {name!r}")

"""The paper's strategy: a recurrent policy that learns from rewards."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.controller import PRESETS, PolicyConfig, PPOConfig, lstm_policy, ppo_controller
from nos_optax.controller.ppo import Controller, PPOState
from nos_optax.grammar import SearchSpace
from nos_optax.search.strategies.strategy import KeyStream, check_answer


class PPOSearchState(NamedTuple):
    """What a controller's next asks depend on."""

    keys: KeyStream
    learner: PPOState


class PPO:
    """The paper's controller: an LSTM policy trained by policy gradients.

    `ask` and `tell` are compiled once for each number of programs.

    Args:
        space: what the policy may write.
        key: PRNG key of its weights and of all its samples.
        config: how it learns; `REINFORCE_PRESETS` holds the plain policy gradient.
    """

    def __init__(self, space: SearchSpace, key: jax.Array, config: PPOConfig = PRESETS["default"]):
        self.controller = _controller(space, config)
        init_key, key = jax.random.split(key)
        self.state = PPOSearchState(KeyStream.start(key), self.controller.init(init_key))
        self._asked, self._log_prob = None, jnp.zeros(0)

    def ask(self, count: int) -> np.ndarray:
        """Sample the policy."""
        keys = self.state.keys.next()
        self.state = self.state._replace(keys=keys)
        sample_key = jax.random.fold_in(keys.key(), 0)
        samples = self.controller.sample(self.state.learner.params, sample_key, batch_size=count)
        self._asked, self._log_prob = np.asarray(samples.tokens), samples.log_prob
        return self._asked

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Update the policy."""
        tokens, rewards = check_answer(self._asked, tokens, rewards)
        keys, learner = self.state
        update_key, log_prob = jax.random.fold_in(keys.key(), 1), self._log_prob[: len(tokens)]
        learner, self.metrics = self.controller.update(
            learner, update_key, tokens, log_prob, rewards
        )
        self.state, self._asked = PPOSearchState(keys, learner), None


@functools.cache  # compiling takes seconds: searches of one process share what they can
def _controller(space: SearchSpace, config: PPOConfig) -> Controller:
    return ppo_controller(lstm_policy(PolicyConfig(space.num_choices), space.mask), config)

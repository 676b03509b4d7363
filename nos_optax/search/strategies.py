"""How a search chooses what to evaluate next: ask for programs, tell their rewards.

To add a strategy, write its class here and name it in `STRATEGIES`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax._arguments import as_key
from nos_optax.controller import PRESETS, PolicyConfig, PPOConfig, lstm_policy, ppo_controller
from nos_optax.controller.ppo import REINFORCE_PRESETS, Controller, PPOState
from nos_optax.grammar import SearchSpace
from nos_optax.population.own import import_own


class Strategy(Protocol):
    """Chooses programs. `tell` answers the last `ask`: all of it, or its first rows.

    Attributes:
        state: all that later asks depend on, a pytree of arrays. Set right after a `tell` to one
            that was read right after a `tell`, it makes the strategy go on from there. A search
            does without, where a strategy of the user's own has none: to resume, it asks and tells
            all of the history again.
    """

    state: Any

    def ask(self, count: int) -> np.ndarray:
        """Return the next programs to evaluate, tokens `int32[count, 5 G]`."""
        ...

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Learn from the rewards `[n]` of the first n programs of the last `ask`.

        Raises:
            ValueError: the tokens are not those, or a reward is missing or not finite.
        """
        ...

    # A strategy may have a method `revise(tokens, rewards)`, as Evolution's: a search calls it
    # after `tell` with earlier programs whose rewards more seeds have changed.


class KeyStream(NamedTuple):
    """A PRNG key for every ask, as arrays that a history can hold."""

    data: jax.Array  # uint32[2]
    asks: jax.Array  # int32[], so far

    @classmethod
    def start(cls, key: jax.Array) -> "KeyStream":
        """Return the stream of a key, before the first ask."""
        return cls(jax.random.key_data(as_key(key)), jnp.zeros([], jnp.int32))

    def next(self) -> "KeyStream":
        """Return the stream at the next ask."""
        return self._replace(asks=jnp.add(self.asks, 1))

    def key(self) -> jax.Array:
        """Return the key of this ask."""
        return jax.random.fold_in(jax.random.wrap_key_data(self.data), self.asks)


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
        _check_answer(self._asked, tokens, rewards)
        self._asked = None


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
        tokens, rewards = _check_answer(self._asked, tokens, rewards)
        keys, learner = self.state
        update_key, log_prob = jax.random.fold_in(keys.key(), 1), self._log_prob[: len(tokens)]
        learner, self.metrics = self.controller.update(
            learner, update_key, tokens, log_prob, rewards
        )
        self.state, self._asked = PPOSearchState(keys, learner), None


@functools.cache  # compiling takes seconds: searches of one process share what they can
def _controller(space: SearchSpace, config: PPOConfig) -> Controller:
    return ppo_controller(lstm_policy(PolicyConfig(space.num_choices), space.mask), config)


CHANGES = (0.6, 0.25, 0.15)  # shares of children with one, two and three other tokens
CROSSED = 0.15  # share of children of two parents
MOST_TRIES = 10  # changes of a child that is there already


class EvolutionState(NamedTuple):
    """What evolution's next asks depend on; the oldest program comes first."""

    keys: KeyStream
    tokens: np.ndarray  # int32[P, 5 G]
    rewards: np.ndarray  # float32[P]
    size: np.ndarray  # int32[], how many rows are programs: the last ones


class Evolution:
    """Regularized evolution: the best of a random few has a child, and the oldest program dies.

    The first programs are uniform samples. Once the population is full, each program asked for
    is a child of the winner of its own tournament among the population of the last `tell`, in which
    one program stands for all that have the same reward. Some children have iterations of a second
    winner, all have one to three other tokens, and in place of one that equals a program of the
    population or an earlier child its parent has another.

    Args:
        space: what to search.
        key: PRNG key of all choices.
        population_size: how many of the last programs may have children.
        tournament_size: how many of them, drawn with replacement, compete for each child.

    Raises:
        ValueError: a size is less than 1.

    References:
        Real et al., `Regularized Evolution for Image Classifier Architecture Search
        <https://arxiv.org/abs/1802.01548>`_, 2019, algorithm 1
    """

    def __init__(
        self,
        space: SearchSpace,
        key: jax.Array,
        population_size: int = 128,
        tournament_size: int = 16,
    ):
        if population_size < 1 or tournament_size < 1:
            raise ValueError(
                f"population_size={population_size}, tournament_size={tournament_size}: "
                "give at least 1 of each."
            )
        self.space, self.tournament_size, self._asked = space, tournament_size, None
        self.state = EvolutionState(
            KeyStream.start(key),
            np.zeros((population_size, len(space.num_choices)), np.int32),
            np.zeros(population_size, np.float32),
            np.zeros([], np.int32),
        )

    def ask(self, count: int) -> np.ndarray:
        """Return children of the population, or uniform samples until it is full."""
        self.state = self.state._replace(keys=self.state.keys.next())
        keys, tokens, rewards, size = self.state
        self._asked = np.asarray(self.space.sample(keys.key(), count))
        if size == len(rewards):
            rng = np.random.default_rng(np.asarray(jax.random.key_data(keys.key())))
            self._asked = self._children(rng, np.asarray(tokens), np.asarray(rewards), self._asked)
        return self._asked

    def _children(self, rng, tokens, rewards, strays):
        """Return as many children as there are strays, `int32[B, 5 G]`."""
        first, second = (self._winners(rng, tokens, rewards, len(strays)) for _ in range(2))
        children = _cross(self.space, rng, first, second)
        changes = rng.choice(len(CHANGES), size=len(strays), p=CHANGES) + 1
        for number in range(len(CHANGES)):
            chosen = changes > number
            children[chosen] = _mutate(self.space, rng, children[chosen], strays[chosen])
        population = {row.tobytes() for row in tokens}
        for _ in range(MOST_TRIES):
            known = set(population)
            twins = np.array([_seen(known, row) for row in children])
            if not twins.any():
                break
            # From the parent again: from a twin, a small space would be left at random.
            children[twins] = _mutate(self.space, rng, first[twins], strays[twins])
        return children

    def _winners(self, rng, tokens, rewards, count):
        # Equal rewards are of one training: of twins the youngest alone competes, or those of one
        # good rule, which are easy to write, would soon be the whole population.
        distinct = len(rewards) - 1 - np.unique(rewards[::-1], return_index=True)[1]
        entrants = distinct[rng.integers(len(distinct), size=(count, self.tournament_size))]
        winners = np.argmax(rewards[entrants], axis=1)
        return tokens[entrants[np.arange(count), winners]]

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Let the newest live and the oldest die."""
        tokens, rewards = _check_answer(self._asked, tokens, rewards)
        keys, old_tokens, old_rewards, size = self.state
        most = len(old_rewards)
        self.state = EvolutionState(
            keys,
            np.concatenate([old_tokens, tokens])[-most:],
            np.concatenate([old_rewards, rewards])[-most:],
            np.asarray(min(int(size) + len(tokens), most), np.int32),
        )
        self._asked = None

    def revise(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Take up what the rewards of earlier programs are now, after more seeds."""
        now = {row.tobytes(): reward for row, reward in zip(tokens, rewards, strict=True)}
        old = zip(self.state.tokens, self.state.rewards, strict=True)
        revised = [now.get(np.asarray(row, np.int32).tobytes(), reward) for row, reward in old]
        self.state = self.state._replace(rewards=np.array(revised, np.float32))


def _cross(space, rng, first, second):
    """Return the first parents, some with the last iterations of the second, `int32[B, 5 G]`."""
    iterations = first.shape[1] // 5
    crossed = rng.random(len(first)) < CROSSED
    cuts = 5 * rng.integers(1, max(iterations, 2), size=len(first))
    tail = np.arange(first.shape[1]) >= cuts[:, None]
    mixed = np.where(tail & crossed[:, None], second, first)
    return np.where(space.allows(mixed)[:, None], mixed, first)


def _seen(known: set[bytes], row: np.ndarray) -> bool:
    """Return whether a program is known, and count it as known from here on."""
    there = row.tobytes() in known
    known.add(row.tobytes())
    return there


def _mutate(space, rng, parents, strays):
    """Change one token of each parent, within the space.

    The place is uniform among those where another token is allowed, and the token uniform among
    these. A parent that can change nowhere leaves its row to the stray. All are int32[B, 5 G].
    """
    batch, length = parents.shape
    rows, places = np.arange(batch), np.arange(length)
    words = np.arange(max(space.num_choices))
    neighbours = np.tile(parents[:, None, None], (1, length, len(words), 1))
    neighbours[:, places, :, places] = words
    allowed = space.allows(neighbours.reshape(-1, length)).reshape(batch, length, len(words))
    allowed &= words != parents[:, :, None]
    place = _choose(rng, allowed.any(axis=2))
    word = _choose(rng, allowed[rows, place])
    born = allowed[rows, place, word]
    return np.where(born[:, None], neighbours[rows, place, word], strays)


def _choose(rng, allowed):
    """Return the index of a uniformly chosen True of each row, int[B] of bool[B, K]."""
    return np.argmax(np.where(allowed, rng.random(allowed.shape), -1.0), axis=1)


def _check_answer(asked, tokens, rewards) -> tuple[np.ndarray, np.ndarray]:
    """Return what `tell` was given as int32[n, 5 G] and float32[n], if it answers the last ask."""
    tokens, rewards = np.asarray(tokens), np.asarray(rewards, np.float32)
    if asked is None:
        raise ValueError("tell answers one ask: ask for programs first")
    if not 1 <= len(tokens) <= len(asked) or not np.array_equal(tokens, asked[: len(tokens)]):
        raise ValueError(
            f"tell got tokens {tokens.shape} that are not the first rows of the last ask, "
            f"{asked.shape}: tell the programs that were asked, in their order"
        )
    if rewards.shape != tokens.shape[:1] or not np.isfinite(rewards).all():
        raise ValueError(
            f"tell got {len(tokens)} programs and the rewards {rewards}: give each program one "
            "finite reward, the chance level where training failed"
        )
    return asked[: len(tokens)], rewards


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

"""What a strategy is: it asks for programs, and is told their rewards."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax._arguments import as_key


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
    # before `tell` with earlier programs whose rewards more seeds have changed.


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


def check_answer(asked, tokens, rewards) -> tuple[np.ndarray, np.ndarray]:
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

"""The programs in which every iteration matters, as an automaton over their tokens.

A result is live if the program's value depends on it: a later live iteration reads it, other than
as the second operand of `left`, which throws that one away. What may come next then depends on
all tokens before it, through three things only: which results nobody reads yet, which are sums,
and what the present iteration holds so far. These are the automaton's memory. Memories that allow
the same continuations become one state, so that the tables stay small.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.grammar.program import IDENTITY, LEFT, TOKENS_PER_ITERATION
from nos_optax.grammar.vocabulary import BINARY, OPERANDS

_PLUS = BINARY.index("+")

Pairs = tuple[frozenset[tuple[int, int]], ...]


class Memory(NamedTuple):
    """What the tokens so far leave to those to come."""

    unread: frozenset[int] = frozenset()  # iterations whose result no later one reads yet
    sums: frozenset[int] = frozenset()  # iterations whose result is a sum
    chosen: tuple = ()  # of the present iteration, as far as it matters


@dataclasses.dataclass(frozen=True, eq=False)
class Automaton:
    """Some programs of L tokens, at most K words each, as at most S states a token.

    The state before the first token is 0.

    Attributes:
        size: how many programs there are, exactly.
        following: `int32[L, S, K]`, the state after each word; 0 where it may not come.
        share: `float32[L, S, K]`, the part of the programs from a state on that go on with each
            word; 0 where it may not come.
    """

    size: int
    following: np.ndarray
    share: np.ndarray

    def mask(self, tokens: jax.typing.ArrayLike, step: jax.Array | int) -> jax.Array:
        """Return which words may come next, `bool[K]`; see `SearchSpace.mask`."""
        following, tokens = jnp.asarray(self.following), jnp.asarray(tokens)
        start = jnp.zeros([], jnp.int32)
        state = jax.lax.fori_loop(0, step, lambda i, state: following[i, state, tokens[i]], start)
        return jnp.asarray(self.share)[step, state] > 0

    def sample(self, key: jax.Array, count: int) -> jax.Array:
        """Draw programs uniformly, `int32[count, L]`: each word by its share."""
        return _draw(self.following, self.share, key, count)

    def allows(self, tokens: np.ndarray) -> np.ndarray:
        """Return which programs are among them, `bool[B]` of `int[B, L]`; words are below K."""
        state, allowed = np.zeros(len(tokens), np.int32), np.ones(len(tokens), bool)
        for step, word in enumerate(tokens.T):
            allowed &= self.share[step, state, word] > 0
            state = self.following[step, state, word]
        return allowed


@partial(jax.jit, static_argnames="count")  # word by word it would be most of a strategy's ask
def _draw(following: jax.Array, share: jax.Array, key: jax.Array, count: int) -> jax.Array:
    """Return programs `int32[count, L]` of an automaton's tables, each word drawn by its share."""

    def next_word(state, place):
        step, following, share = place
        word = jax.random.categorical(jax.random.fold_in(key, step), jnp.log(share)[state])
        return following[state, word], word

    places = jnp.arange(len(share)), following, share
    _, tokens = jax.lax.scan(next_word, jnp.zeros(count, jnp.int32), places)
    return tokens.T.astype(jnp.int32)


@cache  # a search asks for the same space many times
def live_programs(
    pairs: Pairs, unary: tuple[int, ...], binary: tuple[int, ...], final_addition: bool, most: int
) -> Automaton:
    """Return the programs whose every result is live.

    Args:
        pairs: the operand tokens that each iteration may have.
        unary: the unary tokens.
        binary: the binary tokens.
        final_addition: whether the program's value may be a sum. If not, it may not be one through
            `left` either: neither the last iteration nor one that it copies has `+`.
        most: K, the size of the largest table of words.
    """
    length = len(pairs) * TOKENS_PER_ITERATION
    rows: list[dict[tuple, int]] = [{} for _ in range(length)]  # of each token: states' numbers

    @cache
    def state(step: int, memory: Memory) -> tuple[int, int]:
        """Return a state's number, and how many programs go on from it."""
        if step == length:
            return 0, 1
        row = []
        for word, after in _continuations(step, memory):
            following, count = state(step + 1, after)
            if count:
                row.append((word, following, count))
        number = rows[step].setdefault(tuple(row), len(rows[step])) if row else 0
        return number, sum(count for *_, count in row)

    def _continuations(step: int, memory: Memory) -> Iterator[tuple[int, Memory]]:
        """Yield the words that may come next, and the memory after each."""
        iteration, place = divmod(step, TOKENS_PER_ITERATION)
        unread, sums, chosen = memory
        if place == 0:
            for first in sorted({first for first, _ in pairs[iteration]}):
                yield first, memory._replace(chosen=(first,))
        elif place == 1:
            for first, second in sorted(pairs[iteration]):
                if first == chosen[0]:
                    yield second, memory._replace(chosen=(_result(first), _result(second)))
        elif place == 2:
            for word in unary:
                yield word, memory._replace(chosen=(*chosen, word == IDENTITY))
        elif place == 3:
            for word in unary:
                yield word, memory
        else:
            left, right, unchanged = chosen
            for word in binary:
                read = {left} if word == LEFT else {left, right}
                is_sum = word == _PLUS or (word == LEFT and unchanged and left in sums)
                after = Memory(
                    (unread - read) | {iteration}, sums | {iteration} if is_sum else sums
                )
                if iteration < len(pairs) - 1:
                    yield word, after
                elif after.unread == {iteration} and (final_addition or not is_sum):
                    yield word, after

    _, size = state(0, Memory())
    shape = length, max(len(states) for states in rows) or 1, most
    following, share = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for step, states in enumerate(rows):
        for row, number in states.items():
            total = sum(count for *_, count in row)
            for word, after, count in row:
                following[step, number, word] = after
                share[step, number, word] = count / total
    return Automaton(size, following, share)


def _result(operand: int) -> int | None:
    """Return the iteration whose result an operand token is, None if it is none's."""
    return operand - len(OPERANDS) if operand >= len(OPERANDS) else None

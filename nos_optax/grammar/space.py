"""The search space: which programs a search may write."""

import dataclasses
import math
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.grammar.encoding import encode
from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.liveness import Automaton, live_programs
from nos_optax.grammar.program import (
    MAX_ITERATIONS,
    TOKENS_PER_ITERATION,
    Program,
    bank,
)
from nos_optax.grammar.rule import UpdateRule
from nos_optax.grammar.vocabulary import BINARY, OPERANDS, UNARY


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """All programs of some iterations over a part of the vocabulary, under constraints.

    The first three constraints are the paper's. The fourth, `live_results`, is not: the paper's
    asks an iteration to read one of the results before it, and leaves programs in which a result
    is never read, or is thrown away by `left`.

    Attributes:
        iterations: 1 to 4; a program has 5 tokens for each.
        operands: A subset of `OPERANDS`.
        unary: A subset of `UNARY`.
        binary: A subset of `BINARY`.
        distinct_operands: Whether the two operands of an iteration must differ.
        final_addition: Whether the last binary function may be `+`.
        reuse_results: Whether every iteration after the first must use an earlier result.
        live_results: Whether the program's value must depend on the result of every iteration.
            Then `final_addition` holds through `left` too: a last iteration that only copies a sum
            is one.

    Raises:
        RuleError: If a word is unknown, repeated or missing, or if no program satisfies the
            constraints.

    Examples:
        >>> import jax
        >>> from nos_optax.grammar import SearchSpace, parse
        >>> space = SearchSpace(1, operands=("g", "m"), unary=("x", "exp"), binary=("+", "*"))
        >>> space.size
        8
        >>> parse("exp(g) * m") in space
        True
        >>> space.sample(jax.random.key(0), 3).shape
        (3, 5)

        How many programs of the whole vocabulary have only live results:

        >>> for n in (1, 2, 3, 4):
        ...     plain, live = SearchSpace(n).size, SearchSpace(n, live_results=True).size
        ...     print(f"{plain:.3g} {live:.3g} {live / plain:.2f}")
        3.33e+05 3.33e+05 1.00
        1.26e+10 1.14e+10 0.90
        9.83e+14 4.15e+14 0.42
        1.17e+20 1.66e+19 0.14

    References:
        Bello et al., `Neural Optimizer Search with Reinforcement Learning
        <https://arxiv.org/abs/1709.07417>`_, 2017, sections 3.1 and 4.1
    """

    iterations: int = 2
    operands: tuple[str, ...] = OPERANDS
    unary: tuple[str, ...] = tuple(word for word in UNARY if word != "sigmoid")
    binary: tuple[str, ...] = BINARY
    distinct_operands: bool = True
    final_addition: bool = False
    reuse_results: bool = True
    live_results: bool = False

    def __post_init__(self):
        whole = isinstance(self.iterations, int | np.integer)
        if not (whole and 1 <= self.iterations <= MAX_ITERATIONS):
            raise RuleError(f"iterations must be 1 to {MAX_ITERATIONS}, got {self.iterations!r}")
        object.__setattr__(self, "iterations", int(self.iterations))
        for field, table in (("operands", OPERANDS), ("unary", UNARY), ("binary", BINARY)):
            if isinstance(getattr(self, field), str):
                raise RuleError(f"{field} must be several words, got {getattr(self, field)!r}")
            words = tuple(getattr(self, field))
            object.__setattr__(self, field, words)
            for word in words:
                if word not in table:
                    raise RuleError(
                        f"unknown word {word!r} in {field}; expected one of {' '.join(table)}"
                    )
            if not words or len(set(words)) < len(words):
                raise RuleError(f"{field} must be distinct words, at least one, got {words}")
        if self.size == 0:
            raise RuleError("no program satisfies the constraints: add operands or functions")

    @property
    def num_choices(self) -> tuple[int, ...]:
        """The size of each token's table, `[5 G]`: what the controller's softmaxes cover."""
        return tuple(
            n
            for k in range(self.iterations)
            for n in (len(bank(k)), len(bank(k)), len(UNARY), len(UNARY), len(BINARY))
        )

    @cached_property
    def size(self) -> int:
        """How many programs the space holds, exactly. Many of them compute the same rule."""
        if self.live_results:
            return self._live.size
        return math.prod(
            len(pairs) * len(self.unary) ** 2 * len(self._binary(k))
            for k, pairs in enumerate(self._pairs)
        )

    def _binary(self, iteration: int) -> tuple[str, ...]:
        """Return the binary functions of an iteration."""
        final = iteration == self.iterations - 1
        return tuple(b for b in self.binary if b != "+" or self.final_addition or not final)

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, ...]:
        """The operand pairs `[N_k, 2]` that each iteration allows; they depend on k alone."""
        base = [OPERANDS.index(word) for word in self.operands]
        pairs = []
        for k in range(self.iterations):
            tokens = np.array([*base, *range(len(OPERANDS), len(OPERANDS) + k)])
            left, right = (x.ravel() for x in np.meshgrid(tokens, tokens, indexing="ij"))
            allowed = np.ones(left.shape, bool)
            if self.distinct_operands:
                allowed &= left != right
            if self.reuse_results and k > 0:
                allowed &= (left >= len(OPERANDS)) | (right >= len(OPERANDS))
            pairs.append(np.stack([left, right], axis=1)[allowed].astype(np.int32))
        return tuple(pairs)

    @cached_property
    def _live(self) -> Automaton:
        """The programs with `live_results`."""
        pairs = tuple(frozenset(map(tuple, pairs.tolist())) for pairs in self._pairs)
        unary = tuple(UNARY.index(word) for word in self.unary)
        binary = tuple(BINARY.index(word) for word in self.binary)
        return live_programs(pairs, unary, binary, self.final_addition, max(self.num_choices))

    def sample(self, key: jax.Array, count: int) -> jax.Array:
        """Draw programs uniformly.

        Args:
            key: PRNG key; it is consumed.
            count: How many programs.

        Returns:
            Tokens `int32[count, 5 G]`.
        """
        if self.live_results:
            return self._live.sample(key, count)
        unary = jnp.array([UNARY.index(word) for word in self.unary], jnp.int32)
        columns = []
        for k, pairs in enumerate(self._pairs):
            binary = jnp.array([BINARY.index(word) for word in self._binary(k)], jnp.int32)
            keys = jax.random.split(jax.random.fold_in(key, k), 4)
            columns.append(jax.random.choice(keys[0], jnp.asarray(pairs), (count,)))
            columns.append(jax.random.choice(keys[1], unary, (count, 1)))
            columns.append(jax.random.choice(keys[2], unary, (count, 1)))
            columns.append(jax.random.choice(keys[3], binary, (count, 1)))
        return jnp.concatenate(columns, axis=1)

    def mask(self, tokens: jax.typing.ArrayLike, step: jax.Array | int) -> jax.Array:
        """Return which words may come next.

        Args:
            tokens: `int32[5 G]`, the tokens so far; those from `step` on are not read.
            step: Which token comes next, `[]`.

        Returns:
            `bool[max(num_choices)]`; at least one is True.
        """
        if self.live_results:
            return self._live.mask(tokens, step)
        allowed, partners = self._mask_tables
        iteration, place = jnp.divmod(step, TOKENS_PER_ITERATION)
        previous = jnp.asarray(tokens)[step - 1]
        return jnp.where(
            place == 1, jnp.asarray(partners)[iteration, previous], jnp.asarray(allowed)[step]
        )

    @cached_property
    def _mask_tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Words allowed at a step, `[5 G, K]`; second operands beside a first, `[G, K, K]`."""
        most = max(self.num_choices)
        allowed = np.zeros((self.iterations, TOKENS_PER_ITERATION, most), bool)
        partners = np.zeros((self.iterations, most, most), bool)
        unary = [UNARY.index(word) for word in self.unary]
        for k, pairs in enumerate(self._pairs):
            allowed[k, 0, pairs[:, 0]] = True
            partners[k, pairs[:, 0], pairs[:, 1]] = True
            allowed[k, 2:4, unary] = True
            allowed[k, 4, [BINARY.index(word) for word in self._binary(k)]] = True
        return allowed.reshape(-1, most), partners

    def allows(self, tokens: np.typing.ArrayLike) -> np.ndarray:
        """Return which programs are in the space, many at once and without JAX.

        Args:
            tokens: `int[B, 5 G]`.

        Returns:
            `bool[B]`.

        Raises:
            ValueError: the tokens have another shape.
        """
        allowed, partners = self._mask_tables
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.shape[1] != len(allowed):
            raise ValueError(f"tokens must be int[B, {len(allowed)}], got the shape {tokens.shape}")
        in_table = (tokens >= 0) & (tokens < allowed.shape[1])
        tokens = np.where(in_table, tokens, 0)
        if self.live_results:
            return in_table.all(axis=1) & self._live.allows(tokens)
        fits = allowed[np.arange(len(allowed)), tokens]
        first, second = tokens[:, 0::TOKENS_PER_ITERATION], tokens[:, 1::TOKENS_PER_ITERATION]
        fits[:, 1::TOKENS_PER_ITERATION] = partners[np.arange(self.iterations), first, second]
        return (in_table & fits).all(axis=1)

    def __contains__(self, item: Program | UpdateRule | str) -> bool:
        """Whether a program is in the space; a rule is if its encoding is."""
        if not isinstance(item, Program):
            try:
                item = encode(item, self.iterations)
            except RuleError:
                return False
        same_length = len(item.iterations) == self.iterations
        return same_length and bool(self.allows(item.array.reshape(1, -1))[0])

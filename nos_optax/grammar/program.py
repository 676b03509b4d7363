"""Programs: rules as the controller writes them, five tokens an iteration.

An iteration is `op1 op2 u1 u2 b` and means `b(u1(op1), u2(op2))`. Its result joins the operand
bank: token `len(OPERANDS) + k` is the result of iteration k, counted from 0, and is written `r1`,
`r2`, ... The program's value is the result of its last iteration (Bello et al., 2017, section 3.1;
figure 3 shows the five tokens).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.vocabulary import BINARY, OPERANDS, UNARY

MAX_ITERATIONS = 4
TOKENS_PER_ITERATION = 5
IDENTITY = UNARY.index("x")
LEFT = BINARY.index("left")

Iteration = tuple[int, int, int, int, int]


def bank(iteration: int) -> tuple[str, ...]:
    """Return the words of the operand bank at an iteration, counted from 0."""
    return OPERANDS + tuple(f"r{k + 1}" for k in range(iteration))


def tables(iteration: int) -> tuple[tuple[str, ...], ...]:
    """Return the words that each of an iteration's five tokens indexes."""
    operands = bank(iteration)
    return operands, operands, UNARY, UNARY, BINARY


@dataclasses.dataclass(frozen=True)
class Program:
    """A rule as integers.

    Attributes:
        iterations: One to four times `(op1, op2, u1, u2, b)`.

    Raises:
        RuleError: If a token is outside its table, or one is missing.

    Examples:
        >>> from nos_optax.grammar import Program, decode
        >>> program = Program.from_words("g m sign sign *  r1 g exp x *")
        >>> decode(program)
        UpdateRule('exp(sign(g) * sign(m)) * g')
        >>> program.array.shape
        (2, 5)
    """

    iterations: tuple[Iteration, ...]

    def __post_init__(self):
        if not 1 <= len(self.iterations) <= MAX_ITERATIONS:
            raise RuleError(
                f"a program has 1 to {MAX_ITERATIONS} iterations, got {len(self.iterations)}"
            )
        checked = []
        for k, iteration in enumerate(self.iterations):
            if len(iteration) != TOKENS_PER_ITERATION:
                raise RuleError(f"iteration {k + 1} has {len(iteration)} tokens, expected 5")
            for token, table in zip(iteration, tables(k), strict=True):
                if token not in range(len(table)):
                    raise RuleError(
                        f"token {token!r} in iteration {k + 1} is not one of 0..{len(table) - 1}"
                    )
            checked.append(tuple(int(token) for token in iteration))
        object.__setattr__(self, "iterations", tuple(checked))

    @classmethod
    def from_array(cls, array: np.typing.ArrayLike) -> "Program":
        """Read tokens: `int[G, 5]`, or the controller's flat `int[5 G]`."""
        flat = np.asarray(array)
        if flat.ndim == 2 and flat.shape[1] == TOKENS_PER_ITERATION:
            flat = flat.reshape(-1)
        if flat.ndim != 1:
            raise RuleError(f"give one program, of shape [G, 5] or [5 G], got {flat.shape}")
        if flat.size == 0 or flat.size % TOKENS_PER_ITERATION:
            raise RuleError(f"a program has 5 tokens an iteration, got {flat.size} tokens")
        rows = flat.reshape(-1, TOKENS_PER_ITERATION).tolist()
        return cls(tuple(tuple(row) for row in rows))

    @classmethod
    def from_words(cls, words: str | Sequence[str]) -> "Program":
        """Read the vocabulary's own words, separated by spaces or as a sequence."""
        words = words.split() if isinstance(words, str) else list(words)
        if not words or len(words) % TOKENS_PER_ITERATION:
            raise RuleError(f"a program has 5 words an iteration, got {len(words)}: {words}")
        tokens = []
        for i, word in enumerate(words):
            table = tables(i // TOKENS_PER_ITERATION)[i % TOKENS_PER_ITERATION]
            if word not in table:
                raise RuleError(
                    f"unknown word {word!r} at place {i + 1}; expected one of {' '.join(table)}",
                    " ".join(words),
                    len(" ".join([*words[:i], ""])),
                )
            tokens.append(table.index(word))
        return cls.from_array(tokens)

    @property
    def array(self) -> np.ndarray:
        """The program as `int32[G, 5]`, what the traced evaluator takes."""
        return np.array(self.iterations, np.int32)

    @property
    def words(self) -> tuple[str, ...]:
        """The program in the vocabulary's words, 5 an iteration."""
        return tuple(
            table[token]
            for k, iteration in enumerate(self.iterations)
            for token, table in zip(iteration, tables(k), strict=True)
        )

    def __str__(self) -> str:
        return " ".join(self.words)


def pad_programs(programs: np.ndarray, iterations: int) -> np.ndarray:
    """Lengthen programs by iterations that copy the last result, which changes no value.

    Args:
        programs: `int32[..., G, 5]`.
        iterations: the new G.

    Returns:
        `int32[..., iterations, 5]`.

    Raises:
        RuleError: the programs are longer than `iterations`.
    """
    length = programs.shape[-2]
    if length > iterations:
        raise RuleError(f"programs of {length} iterations do not fit in {iterations}")
    copies = [
        (len(OPERANDS) + k - 1, 0, IDENTITY, IDENTITY, LEFT) for k in range(length, iterations)
    ]
    tail = np.array(copies, np.int32).reshape(-1, TOKENS_PER_ITERATION)
    tail = np.broadcast_to(tail, (*programs.shape[:-2], *tail.shape))
    return np.concatenate([programs, tail], axis=-2)


def as_population(programs: np.typing.ArrayLike) -> np.ndarray:
    """Return programs as `int32[P, G, 5]`, once checked.

    Args:
        programs: `int[P, G, 5]`, or the controller's flat `int[P, 5 G]`.

    Raises:
        RuleError: there is none, they have another shape, or a token is outside its table.
    """
    array = np.asarray(programs)
    if not array.size:
        raise RuleError("the population is empty: give at least one program")
    if array.ndim == 2 and array.shape[1] % TOKENS_PER_ITERATION == 0:
        array = array.reshape(len(array), -1, TOKENS_PER_ITERATION)
    if array.ndim != 3 or array.shape[2] != TOKENS_PER_ITERATION:
        raise RuleError(f"give programs in an array [P, G, 5] or [P, 5 G], got {array.shape}")
    if array.shape[1] > MAX_ITERATIONS:
        raise RuleError(f"a program has 1 to {MAX_ITERATIONS} iterations, got {array.shape[1]}")
    sizes = np.array([[len(t) for t in tables(k)] for k in range(array.shape[1])])
    wrong = ~((array >= 0) & (array < sizes) & (array == np.trunc(array))).all(axis=(1, 2))
    if wrong.any():
        Program.from_array(array[wrong.argmax()])  # raises, naming the token
    return array.astype(np.int32)

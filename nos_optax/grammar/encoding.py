"""Rules as the controller's tokens, and back."""

from functools import cache

import numpy as np

from nos_optax.grammar.catalogue import PaperRule
from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.expression import Binary, Constant, Expression, Operand, Unary, infix
from nos_optax.grammar.program import (
    IDENTITY,
    LEFT,
    MAX_ITERATIONS,
    Iteration,
    Program,
    pad_programs,
)
from nos_optax.grammar.rule import UpdateRule, parse
from nos_optax.grammar.vocabulary import BINARY, OPERANDS, UNARY, UNARY_TOKENS

RuleLike = UpdateRule | PaperRule | Program | str
"""What stands for a rule: itself, one of the paper's, a program, or its text."""


def as_rule(rule: RuleLike) -> UpdateRule:
    """Return `rule` as an `UpdateRule`: parse text, decode a program, unwrap a catalogue entry."""
    match rule:
        case UpdateRule():
            return rule
        case str():
            return parse(rule)
        case Program():
            return decode(rule)
        case PaperRule():
            return rule.rule
        case _:
            raise RuleError(f"expected a rule or its text, got {type(rule).__name__}: {rule!r}")


def decode(program: Program | np.typing.ArrayLike) -> UpdateRule:
    """Return the rule that a program computes.

    Args:
        program: A `Program`, or its tokens: `int[G, 5]` or `int[5 G]`.

    Returns:
        The rule; parts that do not reach the last result are gone.

    Raises:
        RuleError: If the tokens are not those of a program.

    Examples:
        >>> from nos_optax.grammar import decode
        >>> decode([0, 3, 0, 2, 2])
        UpdateRule('g * exp(m)')
    """
    program = program if isinstance(program, Program) else Program.from_array(program)
    results: list[Expression] = []
    for op1, op2, u1, u2, b in program.iterations:
        operands = (*operand_expressions(), *results)
        left, right = apply_unary(u1, operands[op1]), apply_unary(u2, operands[op2])
        results.append(left if b == LEFT else Binary(BINARY[b], left, right))
    return UpdateRule(results[-1])


def apply_unary(unary: int, argument: Expression) -> Expression:
    """Return what a unary token makes of an argument."""
    function, parameter = UNARY_TOKENS[UNARY[unary]]
    return argument if function == "identity" else Unary(function, argument, parameter)


def encode(rule: RuleLike, iterations: int | None = None) -> Program:
    """Return a rule as tokens: `decode(encode(rule)) == rule`.

    Args:
        rule: The rule, or its text.
        iterations: Pad to this many iterations, with copies of the result; None for the fewest.

    Returns:
        The program.

    Raises:
        RuleError: If a number of the rule is not in the vocabulary, or if the rule needs more
            iterations.

    Examples:
        >>> from nos_optax.grammar import encode
        >>> print(encode("exp(sign(g) * sign(m)) * g"))
        sign(g) sign(m) x x * r1 g exp x *
    """
    rule = as_rule(rule)
    encoder = _Encoder()
    encoder.result(rule.expression)
    steps = encoder.iterations
    limit = MAX_ITERATIONS if iterations is None else iterations
    if len(steps) > limit:
        raise RuleError(f"{rule} needs {len(steps)} iterations, more than the {limit} allowed")
    program = Program(tuple(steps))
    return Program.from_array(pad_programs(program.array, iterations)) if iterations else program


@cache
def operand_expressions() -> tuple[Expression, ...]:
    """Return the tree of each operand token."""
    return tuple(parse(word).expression for word in OPERANDS)


class _Encoder:
    """Writes iterations bottom-up; a subtree met twice is computed once."""

    def __init__(self):
        self.iterations: list[Iteration] = []
        self.known = {e: token for token, e in enumerate(operand_expressions())}

    def operand(self, e: Expression) -> int:
        """Return the token that holds `e`, writing the iterations that compute it."""
        if e not in self.known:
            self.known[e] = self.result(e)
        return self.known[e]

    def result(self, e: Expression) -> int:
        """Write the iteration whose result is `e` and return its token."""
        match e:
            case Binary(function, left, right) if e not in self.known:
                (u1, op1), (u2, op2) = self.argument(left), self.argument(right)
                return self.append((op1, op2, u1, u2, BINARY.index(function)))
            case _:
                u1, op1 = self.argument(e)
                return self.copy(op1, u1)

    def argument(self, e: Expression) -> tuple[int, int]:
        """Return `(unary, operand)` tokens for one side of an iteration."""
        match e:
            case Unary(function, argument, parameter) if e not in self.known:
                for unary, (name, value) in enumerate(UNARY_TOKENS.values()):
                    if (name, value) == (function, parameter):
                        return unary, self.operand(argument)
                raise RuleError(f"{infix(e)} is not in the vocabulary: {' '.join(UNARY)}")
            case Constant() | Operand() if e not in self.known:
                raise RuleError(f"{infix(e)} is not in the vocabulary: {' '.join(OPERANDS)}")
            case _:
                return IDENTITY, self.operand(e)

    def copy(self, operand: int, unary: int) -> int:
        # The second operand is thrown away: it must only differ from the first, and it reuses a
        # result if there is another.
        filler = len(OPERANDS) + len(self.iterations) - 1 if self.iterations else 0
        if filler == operand:
            filler = 0 if operand else 1
        return self.append((operand, filler, unary, IDENTITY, LEFT))

    def append(self, iteration: Iteration) -> int:
        self.iterations.append(iteration)
        return len(OPERANDS) + len(self.iterations) - 1

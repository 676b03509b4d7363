"""Whether every iteration of a program matters, told without the search space's own code."""

import numpy as np

from nos_optax.grammar import OPERANDS, Program, decode
from nos_optax.grammar.expression import Binary

LEFT = "left"


def live_iterations(program: Program) -> set[int]:
    """Return the iterations on which the program's value depends, walking back from the last."""
    found, ahead = set(), [len(program.iterations) - 1]
    while ahead:
        k = ahead.pop()
        found.add(k)
        first, second, *_ = program.iterations[k]
        operands = [first] if program.words[5 * k + 4] == LEFT else [first, second]
        ahead += [operand - len(OPERANDS) for operand in operands if operand >= len(OPERANDS)]
    return found


def all_live(program: Program) -> bool:
    """Whether the value depends on the result of every iteration."""
    return live_iterations(program) == set(range(len(program.iterations)))


def is_sum(program: Program) -> bool:
    """Whether the value is a sum: decoding leaves out copies by `left` and by the identity."""
    match decode(program).expression:
        case Binary("+"):
            return True
        case _:
            return False


def all_matter(tokens: np.ndarray) -> bool:
    """Whether all of many programs are live and no sums, `int[B, 5 G]`; equal ones once."""
    programs = map(Program.from_array, np.unique(np.asarray(tokens), axis=0))
    return all(all_live(program) and not is_sum(program) for program in programs)

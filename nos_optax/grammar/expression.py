"""The expression tree of an update rule, its infix and LaTeX forms, and its structural hash.

A tree is built from four frozen nodes. Numbers are not negative: `-2` is the negation of `2`, so
that a tree has one text and a text has one tree.
"""

import dataclasses
import math
import zlib
from collections.abc import Iterator

from nos_optax.grammar import vocabulary
from nos_optax.grammar.errors import RuleError

MAX_DEPTH = 48
MAX_NODES = 512
MAX_DRAWS = 32


@dataclasses.dataclass(frozen=True)
class Constant:
    """A number, finite and not negative."""

    value: float

    def __post_init__(self):
        if not (math.isfinite(self.value) and self.value >= 0):
            raise RuleError(
                f"a constant must be finite and not negative, got {self.value!r}; "
                "a negative number is a negation"
            )
        object.__setattr__(self, "value", float(self.value))


@dataclasses.dataclass(frozen=True)
class Operand:
    """A leaf: one of `vocabulary.LEAVES`; `n` is the number of periods of `cd(n)` and `rd(n)`."""

    name: str
    n: float | None = None

    def __post_init__(self):
        if self.name not in vocabulary.LEAVES:
            raise RuleError(
                f"unknown operand {self.name!r}; expected one of {', '.join(vocabulary.LEAVES)}"
            )
        if (self.name in ("cd", "rd")) != (self.n is not None):
            raise RuleError(f"{self.name} got n={self.n!r}; cd and rd take a number, no other does")
        if self.n is not None:
            if not (math.isfinite(self.n) and self.n > 0):
                raise RuleError(f"{self.name}(n) needs a finite n > 0, got {self.n!r}")
            object.__setattr__(self, "n", float(self.n))


@dataclasses.dataclass(frozen=True)
class Unary:
    """A function of one argument: `neg`, or one of `vocabulary.FUNCTIONS`.

    `parameter` is the threshold of `clip` (> 0) or the probability of `drop` (in [0, 1)).
    """

    function: str
    argument: "Expression"
    parameter: float | None = None

    def __post_init__(self):
        if self.function not in ("neg", *vocabulary.FUNCTIONS):
            raise RuleError(
                f"unknown function {self.function!r}; "
                f"expected one of neg, {', '.join(vocabulary.FUNCTIONS)}"
            )
        p = self.parameter
        if (self.function in ("clip", "drop")) != (p is not None):
            raise RuleError(
                f"{self.function} got parameter {p!r}; clip and drop take one, no other does"
            )
        if p is None:
            return
        if self.function == "clip" and not (math.isfinite(p) and p > 0):
            raise RuleError(f"clip(x, c) needs a finite c > 0, got {p!r}")
        if self.function == "drop" and not 0 <= p < 1:
            raise RuleError(f"drop(x, p) needs a probability 0 <= p < 1, got {p!r}")
        object.__setattr__(self, "parameter", float(p))


@dataclasses.dataclass(frozen=True)
class Binary:
    """`left function right`, with function one of `+ - * / ^`."""

    function: str
    left: "Expression"
    right: "Expression"

    def __post_init__(self):
        if self.function not in vocabulary.BINARY or self.function == "left":
            raise RuleError(f"unknown binary function {self.function!r}; expected one of + - * / ^")


Expression = Constant | Operand | Unary | Binary


def children(e: Expression) -> tuple[Expression, ...]:
    """Return the direct subexpressions of `e`."""
    match e:
        case Unary(_, argument):
            return (argument,)
        case Binary(_, left, right):
            return (left, right)
        case _:
            return ()


def levels(e: Expression) -> Iterator[list[Expression]]:
    """Yield the nodes of the tree level by level, the root's level first."""
    level = [e]
    while level:
        yield level
        level = [child for node in level for child in children(node)]


def walk(e: Expression) -> Iterator[Expression]:
    """Yield `e` and every subexpression, parents first."""
    for level in levels(e):
        yield from level


def depth(e: Expression) -> int:
    """Return the number of nodes on the longest path from the root to a leaf."""
    return sum(1 for _ in levels(e))


def check_tree(e: Expression) -> None:
    """Raise `RuleError` unless `e` is a tree of expressions that recursion can handle."""
    nodes, draws = 0, set()
    for height, level in enumerate(levels(e), start=1):
        nodes += len(level)
        for node in level:
            if not isinstance(node, Expression):
                raise RuleError(
                    f"expected an expression tree, got {node!r}; use nos_optax.parse for text"
                )
        if height > MAX_DEPTH or nodes > MAX_NODES:
            raise RuleError(
                f"the rule is more than {MAX_DEPTH} levels deep or has more than {MAX_NODES} "
                "operands and functions; split it or drop a part"
            )
        draws |= {node for node in level if draws_numbers(node)}
    if len(draws) > MAX_DRAWS:
        raise RuleError(
            f"the rule has {len(draws)} different random parts (noise, annealed_noise, drop), each "
            f"of the size of the parameters, and at most {MAX_DRAWS} are allowed; drop a part, or "
            "write the same one again, which is the same draw"
        )


def draws_numbers(e: Expression) -> bool:
    """Whether this node, not its parts, draws random numbers: `drop`, `noise`, `annealed_noise`."""
    match e:
        case Unary("drop") | Operand("noise" | "annealed_noise"):
            return True
        case _:
            return False


def number(value: float) -> str:
    """Write a number in its shortest exact form: `1e-4`, `0.1`, `2`."""
    if value == int(value) and value < 1e6:
        return str(int(value))
    plain = repr(value)
    # repr of 1e-05 has a padded exponent, and repr of 0.0001 is longer than 1e-4.
    for precision in range(17):
        digits, _, exponent = f"{value:.{precision}e}".partition("e")
        short = f"{digits}e{int(exponent)}"
        if float(short) == value:
            return short if len(short) < len(plain) else plain
    return plain


SUM, PRODUCT, NEGATION, POWER, ATOM = range(1, 6)
# function -> (its level, the least level of its left and its right side that needs no parentheses)
LEVELS = {
    "+": (SUM, SUM, PRODUCT),
    "-": (SUM, SUM, PRODUCT),
    "*": (PRODUCT, PRODUCT, POWER),
    "/": (PRODUCT, PRODUCT, POWER),
    "^": (POWER, ATOM, ATOM),
}


def infix(e: Expression, level: int = SUM) -> str:
    """Write `e` as text that parses back to `e`, with no more parentheses than that takes."""
    match e:
        case Constant(value):
            return number(value)
        case Operand("cd", 0.5):
            return "cd"
        case Operand(name, n):
            return name if n is None else f"{name}({number(n)})"
        case Unary("neg", argument):
            own, text = NEGATION, f"-{infix(argument, NEGATION)}"
        case Unary(function, argument, parameter):
            tail = "" if parameter is None else f", {number(parameter)}"
            return f"{function}({infix(argument)}{tail})"
        case Binary(function, left, right):
            own, left_level, right_level = LEVELS[function]
            space = "" if function == "^" else " "
            text = f"{infix(left, left_level)}{space}{function}{space}{infix(right, right_level)}"
    return f"({text})" if own < level else text


_LATEX_LEAVES = {
    "m": r"\hat{m}",
    "v": r"\hat{v}",
    "gamma": r"\hat{\gamma}",
    "noise": r"\epsilon",
    "annealed_noise": r"\epsilon_t",
    "adam": r"\mathrm{Adam}",
    "rmsprop": r"\mathrm{RMSProp}",
    "ld": r"\mathrm{ld}",
}


def latex(e: Expression, level: int = SUM) -> str:
    r"""Write `e` as LaTeX mathematics, in the paper's symbols (no surrounding `$`)."""
    match e:
        case Constant(value):
            mantissa, _, exponent = number(value).partition("e")
            if not exponent:
                return mantissa
            own, text = POWER, f"10^{{{exponent}}}"
            if mantissa != "1":
                own, text = PRODUCT, rf"{mantissa} \cdot {text}"
        case Operand("cd", 0.5):
            return r"\mathrm{cd}"
        case Operand(name, n):
            return (
                _LATEX_LEAVES.get(name, name)
                if n is None
                else rf"\mathrm{{{name}}}_{{{number(n)}}}"
            )
        case Unary("neg", argument):
            own, text = NEGATION, f"-{latex(argument, NEGATION)}"
        case Unary("exp", argument):
            own, text = POWER, f"e^{{{latex(argument)}}}"
        case Unary("sqrt", argument):
            return rf"\sqrt{{\left|{latex(argument)}\right|}}"
        case Unary("log", argument):
            return rf"\log\left|{latex(argument)}\right|"
        case Unary("sigmoid", argument):
            return rf"\sigma\left({latex(argument)}\right)"
        case Unary(function, argument, parameter):
            tail = "" if parameter is None else f", {latex(Constant(parameter))}"
            return rf"\operatorname{{{function}}}\left({latex(argument)}{tail}\right)"
        case Binary("/", left, right):
            own, text = POWER, rf"\frac{{{latex(left)}}}{{{latex(right)} + \delta}}"
        case Binary("^", left, right):
            own, text = POWER, f"{{{latex(left, ATOM)}}}^{{{latex(right)}}}"
        case Binary(function, left, right):
            own, left_level, right_level = LEVELS[function]
            x, y = latex(left, left_level), latex(right, right_level)
            if function == "*":  # 2 times 3 is not 2 3
                function = r"\cdot" if y[0].isdigit() else r"\,"
            text = f"{x} {function} {y}"
    return rf"\left({text}\right)" if own < level else text


# The structural hash names the random stream of a random subexpression: the same subexpression,
# written twice or reached through a program, is the same draw. Both evaluators use the functions
# below, on Python integers and on traced uint32 alike: 31 bits, and constants that fit in an int32.
_MASK = 0x7FFFFFFF


def word_hash(word: str) -> int:
    """Return the 31-bit hash of a leaf or function name."""
    return zlib.crc32(word.encode()) & _MASK


def mix(x, y):
    """Combine two 31-bit hashes (Python ints, or uint32 arrays)."""
    h = ((x ^ y) * 0x1E3779B1 + y) & _MASK
    return (h ^ (h >> 15)) * 0x65EBCA6B & _MASK


def mix_binary(left, right, function, commutative):
    """Combine the hashes of a binary node's parts; 0/1 `commutative` forgets the order."""
    return mix((left + right * (3 - 2 * commutative)) & _MASK, function)


COMMUTATIVE = frozenset({"+", "*"})


def structural_hash(e: Expression) -> int:
    """Return a 31-bit hash of the tree, blind only to the order of the sides of `+` and `*`."""
    match e:
        case Unary(function, argument, parameter):
            return mix(structural_hash(argument), unary_hash(function, parameter))
        case Binary(function, left, right):
            return mix_binary(
                structural_hash(left),
                structural_hash(right),
                word_hash(function),
                int(function in COMMUTATIVE),
            )
        case _:
            return word_hash(infix(e))


def unary_hash(function: str, parameter: float | None) -> int:
    """Return the hash of a unary function with its parameter."""
    return word_hash(function if parameter is None else f"{function} {number(parameter)}")

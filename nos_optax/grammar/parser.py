"""Text to expression tree: a scanner and a recursive-descent parser, no `eval`.

::

    sum      = product (("+" | "-") product)*
    product  = negation (("*" | "/") negation)*
    negation = "-" negation | power
    power    = atom ("^" negation)?
    atom     = number | operand | function "(" arguments ")" | "(" sum ")"
"""

import difflib
import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from nos_optax.grammar import paper, vocabulary
from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.expression import (
    MAX_DEPTH,
    MAX_NODES,
    Binary,
    Constant,
    Expression,
    Operand,
    Unary,
    check_tree,
)

# Whatever `infix` writes of a tree within bounds is within these: at most 32 characters a node, and
# two steps of nesting an edge, as in g^(...) and -(...).
MAX_LENGTH = 32 * MAX_NODES
MAX_NESTING = 2 * MAX_DEPTH

_SCANNER = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<symbol>[-+*/^(),]))"
)
_CALLS_ONLY = {"clip": "clip(x, c)", "drop": "drop(x, p)", "rd": "rd(n)"}


class _Token(NamedTuple):
    kind: str  # number, name, symbol or end
    text: str
    position: int

    def __str__(self):
        return "the end of the rule" if self.kind == "end" else repr(self.text)


def parse_expression(source: str) -> Expression:
    """Read an infix rule.

    Args:
        source: The text, at most `MAX_LENGTH` characters. Its tree has at most `MAX_DEPTH` levels
            and `MAX_NODES` nodes.

    Returns:
        The expression tree, as written: nothing is simplified.

    Raises:
        RuleError: With a caret under the fault and what was expected there.
    """
    if not isinstance(source, str):
        raise RuleError(f"a rule is text, got {type(source).__name__}: {source!r}")
    if len(source) > MAX_LENGTH:
        raise RuleError(
            f"the rule has {len(source)} characters, more than {MAX_LENGTH}", source, MAX_LENGTH
        )
    parser = _Parser(source, _scan(source))
    expression = parser.sum()
    if parser.next.kind != "end":
        parser.fail(f"expected an operator or the end of the rule, got {parser.next}")
    try:
        check_tree(expression)
    except RuleError as error:
        raise RuleError(str(error), source, 0) from None
    return expression


def _scan(source: str) -> list[_Token]:
    tokens, position, end = [], 0, len(source.rstrip())
    while position < end:
        match = _SCANNER.match(source, position)
        if match is None:
            position += len(source[position:]) - len(source[position:].lstrip())
            raise RuleError(
                f"unexpected {_word_at(source, position)!r}; expected a number, an operand, "
                "a function or one of + - * / ^ ( )",
                source,
                position,
            )
        kind = match.lastgroup or ""
        tokens.append(_Token(kind, match[kind], match.start(kind)))
        position = match.end()
    return [*tokens, _Token("end", "", end)]


def _word_at(source: str, position: int) -> str:
    match = re.compile(r"[\w.]+").match(source, position)
    return match[0] if match else source[position]


class _Parser:
    """The state of one parse: the tokens that are left, and how deep the parser stands."""

    def __init__(self, source: str, tokens: list[_Token]):
        self.source = source
        self.tokens = iter(tokens)
        self.next = next(self.tokens)
        self.nesting = 0

    def fail(self, message: str, at: _Token | None = None) -> NoReturn:
        raise RuleError(message, self.source, (at or self.next).position)

    def advance(self) -> _Token:
        token = self.next
        self.next = next(self.tokens, token)
        return token

    def accept(self, *symbols: str) -> _Token | None:
        if self.next.kind == "symbol" and self.next.text in symbols:
            return self.advance()
        return None

    def expect(self, symbol: str, why: str) -> None:
        if not self.accept(symbol):
            self.fail(f"expected {symbol!r} {why}, got {self.next}")

    def deeper(self, read: Callable[[], Expression]) -> Expression:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            self.fail(f"the rule is nested more than {MAX_NESTING} deep; split it or drop a part")
        result = read()
        self.nesting -= 1
        return result

    def sum(self) -> Expression:
        left = self.product()
        while token := self.accept("+", "-"):
            left = Binary(token.text, left, self.product())
        return left

    def product(self) -> Expression:
        left = self.negation()
        while token := self.accept("*", "/"):
            left = Binary(token.text, left, self.negation())
        return left

    def negation(self) -> Expression:
        if self.accept("-"):
            return Unary("neg", self.deeper(self.negation))
        return self.power()

    def power(self) -> Expression:
        base = self.atom()
        if self.accept("^"):
            return Binary("^", base, self.deeper(self.negation))
        return base

    def atom(self) -> Expression:
        token = self.advance()
        if token.kind == "number":
            return Constant(self.finite(token))
        if token.kind == "name":
            return self.named(token)
        if token.text == "(":
            inside = self.deeper(self.sum)
            self.expect(")", "to close the parenthesis")
            return inside
        hint = "; write ^ for a power" if token.text == "*" else ""
        self.fail(f"expected a number, an operand, a function or '(', got {token}{hint}", token)

    def named(self, token: _Token) -> Expression:
        name = token.text
        if name in vocabulary.FUNCTIONS:
            return self.call(token)
        if name in ("cd", "rd"):
            return self.decay(token)
        if name not in vocabulary.LEAVES:
            known = (*vocabulary.LEAVES, *vocabulary.FUNCTIONS)
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            if name in paper.NAMES:
                hint = f"for the paper's rule write nos_optax.rules[{name!r}]; "
            self.fail(f"unknown operand {name!r}; {hint}expected one of {', '.join(known)}", token)
        if self.next.text == "(":
            self.fail(f"{name!r} is an operand, not a function; expected an operator")
        return Operand(name)

    def call(self, token: _Token) -> Expression:
        name = token.text
        form = _CALLS_ONLY.get(name, f"{name}(x)")
        self.expect("(", f"after {name!r}: {form}")
        argument = self.deeper(self.sum)
        parameter = None
        if name in ("clip", "drop"):
            self.expect(",", f"and a number: {form}")
            parameter = self.literal(form)
        self.expect(")", f"to close {name!r}: {form}")
        return self.checked(token, lambda: Unary(name, argument, parameter))

    def decay(self, token: _Token) -> Expression:
        if not self.accept("("):
            if token.text == "rd":
                self.fail("expected the number of restarts after 'rd', as in rd(10)")
            return Operand("cd", 0.5)
        n = self.literal(f"{token.text}(n)")
        self.expect(")", f"to close {token.text!r}")
        return self.checked(token, lambda: Operand(token.text, n))

    def literal(self, form: str) -> float:
        if self.next.kind != "number":
            self.fail(f"expected a number in {form}, got {self.next}")
        return self.finite(self.advance())

    def finite(self, token: _Token) -> float:
        value = float(token.text)
        if value == float("inf"):
            self.fail(f"the number {token.text} is too large for a float", token)
        return value

    def checked(self, token: _Token, build) -> Expression:
        try:
            return build()
        except RuleError as error:
            raise RuleError(str(error), self.source, token.position) from None

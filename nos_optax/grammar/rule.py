"""`UpdateRule`: an update equation as a value that can be compared, printed, stored and run."""

import dataclasses
import hashlib
import json
from functools import cached_property

from nos_optax.grammar import vocabulary
from nos_optax.grammar.canonical import canonical
from nos_optax.grammar.errors import RuleError
from nos_optax.grammar.expression import (
    MAX_DEPTH,
    Binary,
    Constant,
    Expression,
    Operand,
    Unary,
    depth,
    infix,
    latex,
    walk,
)
from nos_optax.grammar.parser import parse_expression
from nos_optax.grammar.program import Program, encode_expression


@dataclasses.dataclass(frozen=True, repr=False)
class UpdateRule:
    """An update rule: the step of `w <- w - learning_rate * rule`.

    Rules are equal when their trees are; `a.canonical() == b.canonical()` asks whether algebra makes them equal.

    Attributes:
      expression: the tree.

    Raises:
      RuleError: the tree is more than `MAX_DEPTH` levels deep.

    Example:
      >>> import nos_optax
      >>> rule = nos_optax.parse("g * exp(sign(m) * sign(g))")
      >>> str(rule.canonical())
      'exp(sign(g) * sign(m)) * g'
      >>> rule.state_slots, rule.needs_params, rule.needs_total_steps, rule.needs_key
      (1, False, False, False)
      >>> rule.latex()
      'g \\\\, e^{\\\\operatorname{sign}\\\\left(m\\\\right) \\\\, \\\\operatorname{sign}\\\\left(g\\\\right)}'
    """

    expression: Expression

    def __post_init__(self):
        if not isinstance(self.expression, Expression):
            raise RuleError(
                f"UpdateRule takes an expression tree, got {self.expression!r}; "
                "use nos_optax.parse for text"
            )
        if (levels := depth(self.expression)) > MAX_DEPTH:
            raise RuleError(f"the rule is {levels} levels deep, more than {MAX_DEPTH}")

    def __str__(self) -> str:
        return infix(self.expression)

    def __repr__(self) -> str:
        return f"UpdateRule({str(self)!r})"

    def _repr_latex_(self) -> str:
        return f"${self.latex()}$"

    def latex(self) -> str:
        """Return the rule as LaTeX mathematics in the paper's symbols."""
        return latex(self.expression)

    def canonical(self) -> "UpdateRule":
        """Return the one rule that stands for all that are equal to this by algebra."""
        return UpdateRule(canonical(self.expression))

    @cached_property
    def digest(self) -> str:
        """The hash of the canonical form, 16 hexadecimal digits, the same in every process."""
        return hashlib.sha256(str(self.canonical()).encode()).hexdigest()[:16]

    def encode(self, iterations: int | None = None) -> Program:
        """Return the rule as the controller's tokens; see `encode`."""
        return encode_expression(self.expression, iterations)

    def to_json(self) -> str:
        """Return the tree as JSON: `["*", ["exp", "m"], ["clip", "g", 0.001]]`."""
        return json.dumps(_to_lists(self.expression))

    @classmethod
    def from_json(cls, text: str) -> "UpdateRule":
        """Read what `to_json` wrote.

        Raises:
          RuleError: the text is not JSON, or not a rule.
        """
        try:
            lists = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise RuleError(f"not JSON: {error}") from None
        return cls(_from_lists(lists))

    def to_python(self, name: str = "scale_by_found_rule") -> str:
        """Return a Python module with the rule as an Optax transformation; it imports jax and optax only."""
        from nos_optax.grammar.export import to_python

        return to_python(self, name)

    @cached_property
    def leaves(self) -> frozenset[str]:
        """The names of the operands that the rule reads."""
        return frozenset(e.name for e in walk(self.expression) if isinstance(e, Operand))

    @property
    def moments(self) -> frozenset[str]:
        """The moving averages that the rule keeps, of `{"m", "v", "gamma"}`."""
        return frozenset().union(*(vocabulary.MOMENTS_OF.get(leaf, ()) for leaf in self.leaves))

    @property
    def state_slots(self) -> int:
        """How many parameter-sized arrays the state holds: PowerSign 1, Adam 2."""
        return len(self.moments)

    @property
    def needs_params(self) -> bool:
        """Whether the rule reads the weights."""
        return "w" in self.leaves

    @property
    def needs_total_steps(self) -> bool:
        """Whether the rule reads a decay, and so must be told T."""
        return bool(self.leaves & vocabulary.DECAYS)

    @property
    def needs_key(self) -> bool:
        """Whether the rule draws random numbers."""
        drops = (isinstance(e, Unary) and e.function == "drop" for e in walk(self.expression))
        return bool(self.leaves & vocabulary.NOISES) or any(drops)


def parse(text: str) -> UpdateRule:
    """Read an update rule in infix form.

    Operands: `g m v gamma w` (gradient, bias-corrected moving averages of g, g^2, g^3, weights), `adam rmsprop`,
    `noise annealed_noise`, `ld cd cd(n) rd(n)`, numbers. Functions: `exp log sqrt sign sigmoid clip(x, c)
    drop(x, p)`, with `log` and `sqrt` of |x|. Operators: `+ - * / ^`, with x / y meaning x / (y + 1e-8).

    Args:
      text: the rule, for example `"(1 + ld * sign(g) * sign(m)) * g"`.

    Returns:
      The rule, as written; `parse(str(rule)) == rule`.

    Raises:
      RuleError: with a caret under the fault and what was expected.

    Example:
      >>> import nos_optax
      >>> nos_optax.parse("clip(m, 0.0001)*exp(v)")
      UpdateRule('clip(m, 1e-4) * exp(v)')

    References:
      Bello et al., 2017, section 3.1.
    """
    return UpdateRule(parse_expression(text))


def decode(program: Program) -> UpdateRule:
    """Return the rule that a program computes.

    Args:
      program: a `Program`, or what `Program.from_array` takes: `int[G, 5]` or `int[5 G]`.
    """
    program = program if isinstance(program, Program) else Program.from_array(program)
    return UpdateRule(program.decode())


def encode(rule: UpdateRule | str, iterations: int | None = None) -> Program:
    """Return a rule as tokens: `decode(encode(rule)) == rule`.

    Args:
      rule: the rule, or its text.
      iterations: pad to this many iterations, with copies of the result; None for the fewest.

    Raises:
      RuleError: a number of the rule is not in the vocabulary, or the rule needs more iterations.
    """
    return as_rule(rule).encode(iterations)


def as_rule(rule: "UpdateRule | str | Program") -> UpdateRule:
    """Return `rule` as an `UpdateRule`: text is parsed, programs and catalogue entries are unwrapped."""
    match rule:
        case UpdateRule():
            return rule
        case str():
            return parse(rule)
        case Program():
            return decode(rule)
        case _ if isinstance(getattr(rule, "rule", None), UpdateRule):
            return rule.rule
        case _:
            raise RuleError(f"expected a rule or its text, got {type(rule).__name__}: {rule!r}")


def _to_lists(e: Expression):
    match e:
        case Constant(value):
            return value
        case Operand(name, n):
            return name if n is None else [name, n]
        case Unary(function, argument, parameter):
            tail = [] if parameter is None else [parameter]
            return [function, _to_lists(argument), *tail]
        case Binary(function, left, right):
            return [function, _to_lists(left), _to_lists(right)]


def _from_lists(node, level: int = 1) -> Expression:
    if level > MAX_DEPTH:
        raise RuleError(f"the rule is more than {MAX_DEPTH} levels deep")
    match node:
        case bool():
            pass
        case int() | float():
            return Constant(node)
        case str():
            return Operand(node)
        case ["cd" | "rd" as name, (int() | float()) as n]:
            return Operand(name, n)
        case ["+" | "-" | "*" | "/" | "^" as function, left, right]:
            return Binary(function, _from_lists(left, level + 1), _from_lists(right, level + 1))
        case [str() as function, argument]:
            return Unary(function, _from_lists(argument, level + 1))
        case [str() as function, argument, (int() | float()) as parameter]:
            return Unary(function, _from_lists(argument, level + 1), parameter)
    raise RuleError(f"not a rule in JSON: {node!r}")

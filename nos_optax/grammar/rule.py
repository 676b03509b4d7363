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
    check_tree,
    infix,
    latex,
    walk,
)
from nos_optax.grammar.parser import parse_expression


@dataclasses.dataclass(frozen=True, repr=False)
class UpdateRule:
    r"""An update rule: the step of `w <- w - learning_rate * rule`.

    Rules are equal when their trees are; `a.canonical() == b.canonical()` asks whether algebra
    makes them equal.

    Attributes:
        expression: The tree.

    Raises:
        RuleError: If this is not a tree of expressions, or one larger than a rule can be: 48 levels
            and 512 nodes.

    Examples:
        >>> import nos_optax
        >>> rule = nos_optax.parse("g * exp(sign(m) * sign(g))")
        >>> print(rule.canonical())
        exp(sign(g) * sign(m)) * g
        >>> rule.state_slots, rule.needs_params, rule.needs_total_steps, rule.needs_key
        (1, False, False, False)
        >>> print(nos_optax.parse("adam * exp(m)").latex())
        \mathrm{Adam} \, e^{\hat{m}}
    """

    expression: Expression

    def __post_init__(self):
        check_tree(self.expression)

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
        return self._canonical

    @cached_property
    def _canonical(self) -> "UpdateRule":
        return UpdateRule(canonical(self.expression))

    @property
    def shortest(self) -> str:
        """The rule in infix form, as it is written or canonically, whichever is shorter."""
        return min(str(self), str(self._canonical), key=len)

    @cached_property
    def digest(self) -> str:
        """The hash of the canonical form, 16 hexadecimal digits, the same in every process."""
        return hashlib.sha256(str(self._canonical).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the tree as JSON, such as `["*", ["exp", "m"], ["clip", "g", 0.001]]`."""
        return json.dumps(_to_lists(self.expression))

    @classmethod
    def from_json(cls, text: str) -> "UpdateRule":
        """Read what `to_json` wrote.

        Args:
            text: The JSON.

        Returns:
            The rule.

        Raises:
            RuleError: If the text is not JSON, or not a rule.
        """
        try:
            lists = json.loads(text, parse_int=float)
        except (ValueError, TypeError, RecursionError) as error:
            raise RuleError(f"not JSON: {error}") from None
        return cls(_from_lists(lists))

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

    Operands are `g m v gamma` (the gradient and the bias-corrected moving averages of g, g^2 and
    g^3), `w` (the weights), `adam rmsprop`, `noise annealed_noise`, the decays `ld cd cd(n) rd(n)`,
    and numbers. Functions are `exp log sqrt sign sigmoid clip(x, c) drop(x, p)`, of which `log` and
    `sqrt` take the absolute value. Operators are `+ - * / ^`, and x / y is x / (y + 1e-8).

    Args:
        text: The rule, such as `(1 + ld * sign(g) * sign(m)) * g`.

    Returns:
        The rule as written, so that `parse(str(rule)) == rule`.

    Raises:
        RuleError: With a caret under the fault and what was expected there.

    Examples:
        >>> import nos_optax
        >>> nos_optax.parse("clip(m, 0.0001)*exp(v)")
        UpdateRule('clip(m, 1e-4) * exp(v)')

    References:
        Bello et al., `Neural Optimizer Search with Reinforcement Learning
        <https://arxiv.org/abs/1709.07417>`_, 2017, section 3.1 for the language, 4.1 for its words
    """
    return UpdateRule(parse_expression(text))


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
        case float():
            return Constant(node)
        case str():
            return Operand(node)
        case ["cd" | "rd" as name, float() as n]:
            return Operand(name, n)
        case ["+" | "-" | "*" | "/" | "^" as function, left, right]:
            return Binary(function, _from_lists(left, level + 1), _from_lists(right, level + 1))
        case [str() as function, argument]:
            return Unary(function, _from_lists(argument, level + 1))
        case [str() as function, argument, float() as parameter]:
            return Unary(function, _from_lists(argument, level + 1), parameter)
    raise RuleError(f"not a rule in JSON: {node!r}")

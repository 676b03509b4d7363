"""The canonical form: one tree for rules that are equal by algebra.

Every rewriting keeps the value, to rounding, at every finite input. A chain of sums or products is
reordered, so one whose *partial* results overflow may overflow elsewhere. The sign of a zero may
change, and with it that of `0 ^ -1`. Inside `drop` only the sides of `+` and `*` are reordered,
because the mask belongs to the structural hash of what is dropped.
"""

import math
import sys

from nos_optax.grammar.expression import (
    COMMUTATIVE,
    MAX_DEPTH,
    Binary,
    Constant,
    Expression,
    Operand,
    Unary,
    depth,
    infix,
    levels,
)
from nos_optax.grammar.semantics import DELTA


def canonical(e: Expression) -> Expression:
    """Return the canonical tree of `e`, which is its own canonical tree."""
    # A sum of sums becomes one long sum, which may be deeper than a rule can be.
    while (simpler := _rewrite(e)) != e and depth(simpler) <= MAX_DEPTH:
        e = simpler
    return e


def _rewrite(e: Expression) -> Expression:
    """Rewrite every node once, leaves first."""
    match e:
        case Unary("drop", argument, p):
            return _zero_drop(Unary("drop", _sort(argument), p))
        case Unary(function, argument, parameter):
            return _unary(Unary(function, _rewrite(argument), parameter))
        case Binary(function, left, right):
            return _binary(Binary(function, _rewrite(left), _rewrite(right)))
        case _:
            return e


def _sort(e: Expression) -> Expression:
    """Order the sides of every `+` and `*`, and change nothing else."""
    match e:
        case Unary(function, argument, parameter):
            return Unary(function, _sort(argument), parameter)
        case Binary(function, left, right):
            return _ordered(Binary(function, _sort(left), _sort(right)))
        case _:
            return e


def _order(e: Expression) -> tuple[bool, str]:
    # Numbers stand first, as people write them: 2 * g.
    return not isinstance(e, Constant), infix(e)


def _zero_drop(e: Unary) -> Expression:
    return e.argument if e.parameter == 0 else e


def _number(e: Expression) -> float | None:
    """Return the value of a constant or a negated constant."""
    match e:
        case Constant(value):
            return value
        case Unary("neg", Constant(value)):
            return -value
        case _:
            return None


def _constant(value: float, otherwise: Expression) -> Expression:
    if not math.isfinite(value):
        return otherwise
    return Constant(value) if value >= 0 else Unary("neg", Constant(-value))


_FOLD = {
    "exp": math.exp,
    "log": lambda x: math.log(abs(x)),
    "sqrt": lambda x: math.sqrt(abs(x)),
    "sign": lambda x: float((x > 0) - (x < 0)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}


def _unary(e: Unary) -> Expression:
    value = _number(e.argument)
    if value is not None and e.function in _FOLD:
        try:
            return _constant(_FOLD[e.function](value), e)
        except (ValueError, OverflowError):
            return e
    match e:
        case Unary("clip", _, float() as c) if value is not None:
            return _constant(max(-c, min(c, value)), e)
        case Unary("neg", Unary("neg", x)):
            return x
        case Unary("neg", Constant(0.0) as zero):
            return zero
        case Unary("neg", Binary("+" | "-")):
            return _sum(e)
        case Unary("sqrt" | "log" as f, x) if (y := _even(x)) != x:  # both take |x|
            return Unary(f, y)
        case Unary("sign" | "clip" as f, x, c) if y := _negative(x):  # both are odd
            return Unary("neg", Unary(f, y, c))
        case Unary("sign", Unary("sign" | "clip", x)):
            return Unary("sign", x)
        case Unary("clip", Unary("clip", x, float() as inner), float() as c):
            return Unary("clip", x, min(inner, c))
        case Unary("clip", Unary("sign", x), float() as c) if c >= 1:
            return Unary("sign", x)
        case _:
            return e


def _binary(e: Binary) -> Expression:
    left, right = _number(e.left), _number(e.right)
    if left is not None and right is not None:
        return _fold(e, left, right)
    match e:
        case Binary("+" | "-"):
            return _sum(e)
        case Binary("*"):
            return _product(e)
        case Binary("/", Operand("m"), Unary("sqrt", Operand("v"))):
            return Operand("adam")
        case Binary("/", Operand("g"), Unary("sqrt", Operand("v"))):
            return Operand("rmsprop")
        case Binary("/", x, y) if z := _negative(x):
            return Unary("neg", Binary("/", z, y))
        case Binary("^", x, Constant(1.0)):
            return x
        case Binary("^", _, Constant(0.0)) | Binary(
            "^", Constant(1.0), _
        ):  # also of nan, as in IEEE
            return Constant(1)
        case Binary("^", Binary("^", x, Constant(a)), Constant(b)) if _whole(a) and _whole(b):
            return Binary("^", x, Constant(a * b))
        case Binary("^", x, Constant(k)) if _whole(k) and k % 2 == 0 and (y := _even(x)) != x:
            return Binary("^", y, Constant(k))
        case Binary("^", x, Constant(k)) if _whole(k) and k % 2 == 1 and (y := _negative(x)):
            return Unary("neg", Binary("^", y, Constant(k)))
        case _:
            return e


def _negative(e: Expression) -> Expression | None:
    """Return x where `e` is better written -x: `-g - m` is -(g + m)."""
    match e:
        case Unary("neg", x):
            return x
        case Binary("+" | "-"):
            x = _sum(Unary("neg", e))
            return x if _size(x) < _size(e) else None
        case _:
            return None


def _even(e: Expression) -> Expression:
    """Return `e` or -`e`, for functions that give the same for both."""
    match e:
        case Unary("neg", x):
            return x
        case Binary("+" | "-"):
            return min(e, _sum(Unary("neg", e)), key=lambda x: (_size(x), infix(x)))
        case _:
            return e


def _size(e: Expression) -> int:
    return sum(map(len, levels(e)))


def _whole(x: float) -> bool:
    return x == int(x) and 1 <= x <= 16


def _fold(e: Binary, x: float, y: float) -> Expression:
    try:
        match e.function:
            case "+":
                value = x + y
            case "-":
                value = x - y
            case "*":
                value = x * y
            case "/":
                value = x / (y + DELTA)
            case _:
                value = x**y
    except (OverflowError, ZeroDivisionError):
        return e
    return e if isinstance(value, complex) else _constant(value, e)


def _sum(e: Expression) -> Expression:
    """Flatten a sum into signed terms, gather its numbers and its equal terms, order the rest."""
    plus: dict[Expression, float] = {}
    minus: dict[Expression, float] = {}
    _terms(e, plus, minus)
    # Only numbers cancel: inf - inf is not 0.
    total = plus.pop(_ONE, 0.0) - minus.pop(_ONE, 0.0)
    if not all(map(math.isfinite, (total, *plus.values(), *minus.values()))):
        return _ordered(e)
    if total:
        (plus if total > 0 else minus)[_ONE] = abs(total)
    added, subtracted = (
        sorted((_multiple(k, x) for x, k in terms.items()), key=_order) for terms in (plus, minus)
    )
    if not added and not subtracted:
        return Constant(0)
    result = added.pop(0) if added else Unary("neg", subtracted.pop(0))
    for term in added:
        result = Binary("+", result, term)
    for term in subtracted:
        result = Binary("-", result, term)
    return result


_ONE = Constant(1)


def _terms(e: Expression, plus: dict[Expression, float], minus: dict[Expression, float]) -> None:
    """Count the terms of `e` into `plus` and `minus`; a number counts as so many ones."""
    match e:
        case Binary("+", left, right):
            _terms(left, plus, minus)
            _terms(right, plus, minus)
        case Binary("-", left, right):
            _terms(left, plus, minus)
            _terms(right, minus, plus)
        case Unary("neg", x):
            _terms(x, minus, plus)
        case _:
            k, x = _coefficient(e)
            plus[x] = plus.get(x, 0.0) + k


def _coefficient(e: Expression) -> tuple[float, Expression]:
    """Split `k * x * y` into k and `x * y`."""
    match e:
        case Constant(value):
            return value, _ONE
        case Binary("*", Constant(0.0), _):  # not 0 where the other factor is not finite
            return 1.0, e
        case Binary("*", Constant(value), x):
            return value, x
        case Binary("*", x, y):
            k, rest = _coefficient(x)
            return k, Binary("*", rest, y)
        case _:
            return 1.0, e


def _multiple(k: float, x: Expression) -> Expression:
    if x == _ONE:
        return Constant(k)
    return x if k == 1 else _product(Binary("*", Constant(k), x))


def _ordered(e: Expression) -> Expression:
    """Order the two sides of a node and leave it at that."""
    match e:
        case Binary(function, left, right) if function in COMMUTATIVE:
            left, right = sorted((left, right), key=_order)
            return Binary(function, left, right)
        case _:
            return e


def _product(e: Binary) -> Expression:
    """Flatten a product into factors, gather its sign, numbers and whole powers, order the rest."""
    powers: dict[Expression, int] = {}
    coefficient = _factors(e, powers)
    # 0 * x is not 0 where x is not finite, and a subnormal coefficient has lost its digits.
    if not sys.float_info.min <= abs(coefficient) < math.inf:
        return _ordered(e)
    factors = [
        x if k == 1 else Binary("^", x, Constant(k))
        for x, k in sorted(powers.items(), key=lambda item: _order(item[0]))
    ]
    if abs(coefficient) != 1 or not factors:
        factors.insert(0, Constant(abs(coefficient)))
    result = factors[0]
    for factor in factors[1:]:
        result = Binary("*", result, factor)
    return Unary("neg", result) if coefficient < 0 else result


def _factors(e: Expression, powers: dict[Expression, int]) -> float:
    """Count the factors of `e` into `powers` and return its numeric coefficient."""
    match e:
        case Binary("*", left, right):
            return _factors(left, powers) * _factors(right, powers)
        case _ if x := _negative(e):
            return -_factors(x, powers)
        case Constant(value):
            return value
        case Binary("^", x, Constant(k)) if _whole(k) and not isinstance(x, Constant):
            powers[x] = powers.get(x, 0) + int(k)
            return 1.0
        case _:
            powers[e] = powers.get(e, 0) + 1
            return 1.0

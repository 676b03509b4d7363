"""The canonical form: one tree for rules that are equal by algebra.

Every rewriting keeps the value, to rounding, at every finite input (a chain of sums or products is reordered, so
one whose *partial* results overflow may overflow elsewhere). Inside `drop` only the sides of `+` and `*` are
reordered, because the mask belongs to the structural hash of what is dropped.
"""

import math

from nos_optax.grammar.expression import (
    COMMUTATIVE,
    Binary,
    Constant,
    Expression,
    Operand,
    Unary,
    infix,
)

DELTA = 1e-8  # x / y means x / (y + DELTA)


def canonical(e: Expression) -> Expression:
    """Return the canonical tree of `e`; `canonical(canonical(e)) == canonical(e)`."""
    while (simpler := _rewrite(e)) != e:
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
    match e:
        case Unary(function, argument, parameter):
            return Unary(function, _sort(argument), parameter)
        case Binary(function, left, right):
            left, right = _sort(left), _sort(right)
            if function in COMMUTATIVE:
                left, right = sorted((left, right), key=_order)
            return Binary(function, left, right)
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
        case Unary("clip", _, c) if value is not None:
            return _constant(max(-c, min(c, value)), e)
        case Unary("neg", Unary("neg", x)):
            return x
        case Unary("neg", Constant(0.0) as zero):
            return zero
        case Unary("neg", Binary("-", x, y)):
            return Binary("-", y, x)
        case Unary("sqrt" | "log" as f, Unary("neg", x)):  # both take |x|
            return Unary(f, x)
        case Unary("sign" | "clip" as f, Unary("neg", x), p):  # both are odd
            return Unary("neg", Unary(f, x, p))
        case Unary("sign", Unary("sign" | "clip", x)):
            return Unary("sign", x)
        case Unary("clip", Unary("clip", x, inner), c):
            return Unary("clip", x, min(inner, c))
        case Unary("clip", Unary("sign", x), c) if c >= 1:
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
        case Binary("/", Unary("neg", x), y):
            return Unary("neg", Binary("/", x, y))
        case Binary("^", x, Constant(1.0)):
            return x
        case Binary("^", _, Constant(0.0)) | Binary("^", Constant(1.0), _):  # also of nan, as in IEEE
            return Constant(1)
        case Binary("^", Binary("^", x, Constant(a)), Constant(b)) if _whole(a) and _whole(b):
            return Binary("^", x, Constant(a * b))
        case Binary("^", Unary("neg", x), Constant(k)) if _whole(k):
            power = Binary("^", x, Constant(k))
            return power if k % 2 == 0 else Unary("neg", power)
        case _:
            return e


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


def _sum(e: Binary) -> Expression:
    """Flatten a sum into signed terms, gather its numbers, order the rest."""
    plus: list[Expression] = []
    minus: list[Expression] = []
    _terms(e, plus, minus)
    total = 0.0
    for terms, sign in ((plus, 1), (minus, -1)):
        for term in [t for t in terms if isinstance(t, Constant)]:
            terms.remove(term)
            total += sign * term.value
    if not math.isfinite(total):
        return e
    if total:
        (plus if total > 0 else minus).append(Constant(abs(total)))
    plus.sort(key=_order)
    minus.sort(key=_order)
    if not plus and not minus:
        return Constant(0)
    result = plus[0] if plus else Unary("neg", minus[0])
    for term in plus[1:]:
        result = Binary("+", result, term)
    for term in minus if plus else minus[1:]:
        result = Binary("-", result, term)
    # x + x is 2 x; anything subtler is left alone.
    if isinstance(result, Binary) and result.function == "+" and result.left == result.right:
        return Binary("*", Constant(2), result.left)
    return result


def _terms(e: Expression, plus: list[Expression], minus: list[Expression]) -> None:
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
            plus.append(e)


def _product(e: Binary) -> Expression:
    """Flatten a product into factors, gather its sign, its numbers and its whole powers, order the rest."""
    powers: dict[Expression, int] = {}
    coefficient = _factors(e, powers)
    if not math.isfinite(coefficient) or coefficient == 0:
        return e  # 0 * x is not 0 where x is not finite
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
        case Unary("neg", x):
            return -_factors(x, powers)
        case Constant(value):
            return value
        case Binary("^", x, Constant(k)) if _whole(k) and not isinstance(x, Constant):
            powers[x] = powers.get(x, 0) + int(k)
            return 1.0
        case _:
            powers[e] = powers.get(e, 0) + 1
            return 1.0

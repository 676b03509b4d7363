"""A second evaluator of rules: float64 NumPy, with a bound on the rounding error of each entry.

It is written from the design's table of meanings, not from the package, and shares no arithmetic
with it. Beside each value stands how far two correct float64 programs may be apart (running error
analysis: an operation adds the rounding of its result and hands on that of its arguments). Where a
rule asks for the sign of a rounding error, or for its logarithm, the bound is infinite.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from nos_optax.grammar.expression import Binary, Constant, Expression, Operand, Unary

DELTA = 1e-8
PI = np.longdouble("3.14159265358979323846264338327950288")
ULPS = (
    8 * np.finfo(np.float64).eps
)  # of one operation: XLA's exp, log and pow are not the last word
LOST = np.finfo(np.float64).eps / 4  # beside 1
SMALLEST = np.finfo(np.float64).tiny  # XLA flushes what is below to zero, NumPy does not


@dataclasses.dataclass(frozen=True)
class Approximate:
    """Values and how far from them another evaluator may be, `[D]` each."""

    value: np.ndarray
    error: np.ndarray

    @classmethod
    def of(cls, value, error, *arguments: "Approximate") -> "Approximate":
        """Settle a bound that is not finite, or of such a value: 0 if the arguments are known."""
        known = np.asarray(True)
        for x in arguments:
            small = np.isfinite(x.error) & (x.error <= 1e-3 * abs(x.value))
            known = known & ((x.error == 0) | small)
        finite = np.isfinite(value) & ~np.isnan(error)
        return cls(value, np.where(finite, error, np.where(known, 0.0, np.inf)))


def rounding(value, *arguments: Approximate):
    """Bound the rounding of one operation; whole numbers and zeros are exact."""
    exact = np.full(np.shape(value), bool(arguments))
    for argument in arguments:
        whole = (argument.value == np.round(argument.value)) & (abs(argument.value) < 2.0**20)
        exact = exact & whole & (argument.error == 0)
    subnormal = (value != 0) & (abs(value) < SMALLEST)
    return np.where(exact, 0.0, ULPS * abs(value) + np.where(subnormal, SMALLEST, 0.0))


@dataclasses.dataclass
class Inputs:
    """What a rule reads at one step."""

    g: Approximate
    m: Approximate
    v: Approximate
    gamma: Approximate
    w: Approximate
    t: int  # steps before this one
    total_steps: int
    normal: Callable[[Expression], np.ndarray]  # the standard normal draws of a subexpression
    uniform: Callable[[Expression], np.ndarray]


def exact(x) -> Approximate:
    x = np.asarray(x, float)
    return Approximate(x, np.zeros_like(x))


def averages(gradients, rates=(0.9, 0.999, 0.999)):
    """Yield `(m, v, gamma)` after each of the gradients: bias-corrected, the gradient included."""
    means = [np.zeros_like(gradients[0]) for _ in rates]
    sizes = [np.zeros_like(gradients[0]) for _ in rates]
    for step, g in enumerate(gradients, start=1):
        result = []
        for i, rate in enumerate(rates):
            means[i] = rate * means[i] + (1 - rate) * g ** (i + 1)
            sizes[i] = rate * sizes[i] + (1 - rate) * abs(g) ** (i + 1)
            correction = -np.expm1(step * np.log(rate))
            bound = (step + 3) * ULPS * sizes[i] / correction
            result.append(Approximate(means[i] / correction, bound))
        yield result


def evaluate(e: Expression, inputs: Inputs) -> Approximate:
    """Return the value of a rule, `[D]`, with its bound."""
    with np.errstate(all="ignore"):
        result = _evaluate(e, inputs)
        shape = inputs.g.value.shape
        return Approximate(
            np.broadcast_to(result.value, shape), np.broadcast_to(result.error, shape)
        )


def _evaluate(e: Expression, inputs: Inputs) -> Approximate:
    match e:
        case Constant(value):
            return exact(value)
        case Operand("g" | "m" | "v" | "gamma" | "w" as name):
            return getattr(inputs, name)
        case Operand("adam"):
            return _divide(inputs.m, _sqrt(inputs.v))
        case Operand("rmsprop"):
            return _divide(inputs.g, _sqrt(inputs.v))
        case Operand("noise"):
            x = np.sqrt(0.01) * inputs.normal(e)
            return Approximate(x, ULPS * abs(x))
        case Operand("annealed_noise"):
            x = np.sqrt(1 / (1 + inputs.t) ** 0.55) * inputs.normal(e)
            return Approximate(x, ULPS * abs(x))
        case Operand(name, n):
            return _decay(name, n, min(inputs.t, inputs.total_steps), inputs.total_steps)
        case Unary("drop", x, p):
            x, kept = _evaluate(x, inputs), inputs.uniform(e) >= p
            return Approximate(np.where(kept, x.value, 0.0), np.where(kept, x.error, 0.0))
        case Unary("clip", x, c):
            x = _evaluate(x, inputs)
            inside = ~(abs(x.value) - x.error >= c)
            return Approximate(np.clip(x.value, -c, c), np.where(inside, x.error, 0.0))
        case Unary(function, x):
            return _UNARY[function](_evaluate(x, inputs))
        case Binary(function, x, y):
            return _BINARY[function](_evaluate(x, inputs), _evaluate(y, inputs))


def _decay(name: str, n: float, t: int, T: int) -> Approximate:
    match name:
        case "ld":
            value = 1 - t / T
        case "cd":
            value = (1 + np.cos(2 * PI * n * t / T)) / 2
        case "rd":
            value = (1 + np.cos(PI * ((t * n) % T) / T)) / 2
    # The package has cos^2, which leaves the square of a rounding error where this leaves 0.
    residue = 0.0 if name == "ld" else ULPS**2
    error = 0.0 if value == 1 else ULPS * float(value) + residue
    return Approximate(np.asarray(value, float), np.asarray(error))


def _neg(x: Approximate) -> Approximate:
    return Approximate(-x.value, x.error)


def _exp(x: Approximate) -> Approximate:
    value = np.exp(x.value)
    error = value * np.expm1(x.error) + rounding(value)
    return Approximate.of(value, np.where(abs(x.value) + x.error < LOST, 0.0, error), x)


def _sigmoid(x: Approximate) -> Approximate:
    value = 1 / (1 + np.exp(-x.value))
    error = np.minimum(value * np.expm1(x.error), 1.0) + rounding(value)
    return Approximate.of(value, error, x)


def _log(x: Approximate) -> Approximate:
    value = np.log(abs(x.value))
    relative = x.error / abs(x.value)
    moved = np.where(relative < 1, -np.log1p(-np.minimum(relative, 1.0)), np.inf)
    error = np.where(x.error == 0, 0.0, moved) + ULPS * (1 + abs(value))
    return Approximate.of(value, np.where((x.error == 0) & (value == 0), 0.0, error), x)


def _sqrt(x: Approximate) -> Approximate:
    value = np.sqrt(abs(x.value))
    below = value - np.sqrt(np.maximum(abs(x.value) - x.error, 0.0))
    above = np.sqrt(abs(x.value) + x.error) - value
    square = (x.error == 0) & (value * value == abs(x.value))
    error = np.where(square, 0.0, np.maximum(below, above) + rounding(value))
    return Approximate.of(value, error, x)


def _sign(x: Approximate) -> Approximate:
    sure = (x.error == 0) | (abs(x.value) > x.error) | np.isnan(x.value)
    value = np.where(x.value == 0, x.value, np.sign(x.value))  # XLA's keeps the sign of a zero
    return Approximate(value, np.where(sure & np.isfinite(x.error), 0.0, np.inf))


def _add(x: Approximate, y: Approximate) -> Approximate:
    value = x.value + y.value
    lost = (abs(y.value) + y.error < LOST * abs(x.value)) & (x.error == 0)
    lost |= (abs(x.value) + x.error < LOST * abs(y.value)) & (y.error == 0)
    error = np.where(lost, 0.0, x.error + y.error + rounding(value, x, y))
    return Approximate.of(value, error, x, y)


def _subtract(x: Approximate, y: Approximate) -> Approximate:
    return _add(x, _neg(y))


def _multiply(x: Approximate, y: Approximate) -> Approximate:
    value = x.value * y.value
    moved = abs(x.value) * y.error + abs(y.value) * x.error + x.error * y.error
    flushed = np.where((value == 0) & (x.value != 0) & (y.value != 0), SMALLEST, 0.0)
    return Approximate.of(value, moved + rounding(value, x, y) + flushed, x, y)


def _divide(x: Approximate, y: Approximate) -> Approximate:
    below = y.value + DELTA
    error = y.error + ULPS * abs(below)
    value = x.value / below
    moved = (x.error + abs(value) * error) / (abs(below) - error)
    moved = np.where(error < abs(below), moved, np.inf)
    moved = np.where(np.isinf(below) & (y.error == 0), 0.0, moved)
    return Approximate.of(value, moved + rounding(value), x, y)


def _power(x: Approximate, y: Approximate) -> Approximate:
    value = np.power(x.value, y.value)
    relative = -np.log1p(-x.error / abs(x.value))
    log = np.log(abs(x.value))
    moved = abs(y.value) * relative + abs(log) * y.error + relative * y.error
    error = abs(value) * (np.expm1(moved) + ULPS * (1 + abs(y.value * log))) + rounding(value)
    fraction = abs(y.value - np.round(y.value))
    certain = (x.error == 0) & (y.error == 0)
    # A base of either sign may give anything; so may a negative one if the exponent may be whole.
    either = (x.error >= abs(x.value)) | ((x.value < 0) & (fraction <= y.error) & (y.error > 0))
    error = np.where(either & ~certain, np.inf, error)
    error = np.where((x.value < 0) & ~either & (fraction > 0), 0.0, error)  # nan
    plain = certain & ((y.value == 0) | (abs(x.value) == 1))
    plain |= (x.value == 0) & (x.error == 0) & (abs(y.value) >= y.error)  # 0, or infinite
    return Approximate.of(value, np.where(plain, 0.0, error), x, y)


_UNARY = {"neg": _neg, "exp": _exp, "sigmoid": _sigmoid, "log": _log, "sqrt": _sqrt, "sign": _sign}
_BINARY = {"+": _add, "-": _subtract, "*": _multiply, "/": _divide, "^": _power}

"""Where a rule goes on functions of two variables."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nos_optax
from nos_optax.grammar import UpdateRule

RATES = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-10, 1))
STEPS = 1000


class TestFunction(NamedTuple):
    """A function to be minimised."""

    name: str
    value: Callable[[jax.Array], jax.Array]  # of a point [2]
    start: tuple[float, float]
    minimum: tuple[float, float]
    noise: float = 0.0  # standard deviation of the gradient's entries
    view: tuple[float, float, float, float] = (-2.0, 2.0, -2.0, 2.0)

    __test__ = False  # for pytest, which takes it for tests


def rosenbrock(p: jax.Array) -> jax.Array:
    """Return a curved valley's height; minimum 0 at (1, 1)."""
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def bowl(p: jax.Array) -> jax.Array:
    """Return a quadratic of condition number 100; minimum 0 at the origin."""
    return 0.5 * (p[0] ** 2 + 100 * p[1] ** 2)


def saddle(p: jax.Array) -> jax.Array:
    """Return a function with a saddle at the origin; minima 0 at (-1, 0) and (1, 0)."""
    return (p[0] ** 2 - 1) ** 2 + p[1] ** 2


FUNCTIONS = (
    TestFunction("Rosenbrock", rosenbrock, (-1.2, 1.0), (1.0, 1.0), view=(-2.0, 2.0, -1.0, 3.0)),
    TestFunction("bowl, condition 100", bowl, (-1.5, 1.0), (0.0, 0.0)),
    TestFunction("bowl with noise", bowl, (-1.5, 1.0), (0.0, 0.0), noise=1.0),
    TestFunction("saddle", saddle, (0.01, 1.5), (1.0, 0.0)),
)


class Trajectory(NamedTuple):
    """The way of a rule at the learning rate with which it ended lowest."""

    rate: float | None  # None where every rate left the finite numbers
    points: np.ndarray  # float32[STEPS + 1, 2]
    values: np.ndarray  # float32[STEPS + 1]
    final: float  # mean of the last tenth of the values: with noise there is no last point


def best_trajectory(
    rule: UpdateRule, function: TestFunction, rates: Sequence[float] = RATES, steps: int = STEPS
) -> Trajectory:
    """Follow a rule from the function's start at each rate; return the way that ends lowest.

    Args:
        rule: any.
        function: where.
        rates: learning rates to try.
        steps: how many.
    """

    def way(rate: jax.Array) -> jax.Array:
        tx = nos_optax.from_rule(rule, rate, total_steps=steps)
        start = jnp.array(function.start)

        def step(carry, key):
            point, state = carry
            g = jax.grad(function.value)(point)
            g += function.noise * jax.random.normal(key, g.shape)
            updates, state = tx.update(g, state, point)
            return (point + updates, state), point

        keys = jax.random.split(jax.random.key(0), steps)
        (last, _), points = jax.lax.scan(step, (start, tx.init(start)), keys)
        return jnp.concatenate([points, last[None]])

    ways = jax.jit(jax.vmap(way))(jnp.array(rates))
    values = np.asarray(jax.vmap(jax.vmap(function.value))(ways))
    tail = values[:, -max(1, steps // 10) :].mean(axis=1)
    finals = np.where(np.isfinite(values).all(axis=1), tail, np.inf)
    best = int(finals.argmin())
    rate = rates[best] if np.isfinite(finals[best]) else None
    return Trajectory(rate, np.asarray(ways[best]), values[best], float(finals[best]))

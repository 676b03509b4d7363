"""Rosenbrock's function, the optimizers of `rosenbrock.py`, and their ways down it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import nos_optax

Make = Callable[[jax.Array, jax.Array], optax.GradientTransformation]  # of rate and epsilon

BASELINE = "Adam"
TUNED = "Adam, epsilon tuned"


def rosenbrock(point: jax.Array) -> jax.Array:
    """Return f of a point (x, y)."""
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def optimizers(steps: int) -> dict[str, Make]:
    """Return the rivals by name: first the usual ones, then the paper's with every sign decay."""
    decays: dict[str, optax.ScalarOrSchedule] = {
        "": 1.0,
        "-ld": optax.linear_schedule(1.0, 0.0, steps),
        "-cd": nos_optax.cyclical_cosine(1.0, steps),
        "-rd10": nos_optax.restart_cosine(1.0, steps, num_periods=10),
        "-rd20": nos_optax.restart_cosine(1.0, steps, num_periods=20),
    }
    usual: dict[str, Make] = {
        "SGD": lambda rate, _: optax.sgd(rate),
        "Momentum": lambda rate, _: optax.sgd(rate, momentum=0.9),
        "RMSProp": lambda rate, _: optax.rmsprop(rate),
        BASELINE: lambda rate, epsilon: optax.adam(rate, eps=epsilon),
        TUNED: lambda rate, epsilon: optax.adam(rate, eps=epsilon),
        "Adam, as in TensorFlow": tensorflow_adam,
    }
    # The decay is bound as a default: a closure would see the last one.
    powersign: dict[str, Make] = {
        f"PowerSign{name}": lambda rate, _, f=f: nos_optax.powersign(rate, sign_decay=f)
        for name, f in decays.items()
    }
    addsign: dict[str, Make] = {
        f"AddSign{name}": lambda rate, _, f=f: nos_optax.addsign(rate, sign_decay=f)
        for name, f in decays.items()
    }
    return usual | powersign | addsign


def tensorflow_adam(rate: jax.Array, epsilon: jax.Array) -> optax.GradientTransformation:
    """Return Adam whose epsilon is added before the bias correction, so divided by it too."""
    return optax.chain(
        optax.inject_hyperparams(optax.scale_by_adam)(
            eps=lambda count: epsilon / jnp.sqrt(1 - 0.999 ** (count + 1))
        ),
        optax.scale_by_learning_rate(rate),
    )


@functools.partial(jax.jit, static_argnames=("make", "steps"))
def descend(
    make: Make, steps: int, rates: jax.Array, epsilons: jax.Array, starts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Run every setting from every start.

    Args:
        make: The optimizer.
        steps: Updates T.
        rates: The settings' learning rates, ``[K]``.
        epsilons: Their epsilons, ``[K]``.
        starts: The points to start from, ``[S, 2]``.

    Returns:
        The points ``[K, S, T + 1, 2]``, the start included, and f there, ``[K, S, T + 1]``.
    """

    def one(rate, epsilon, start):
        tx = make(rate, epsilon)

        def step(carry, _):
            point, state = carry
            updates, state = tx.update(jax.grad(rosenbrock)(point), state, point)
            return (optax.apply_updates(point, updates), state), point

        (last, _), points = jax.lax.scan(step, (start, tx.init(start)), length=steps)
        points = jnp.concatenate([points, last[None]])
        return points, jax.vmap(rosenbrock)(points)

    from_all = jax.vmap(one, (None, None, 0))
    return jax.vmap(from_all, (0, 0, None))(rates, epsilons, starts)

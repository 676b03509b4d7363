"""Rosenbrock's function, the optimizers of `rosenbrock.py`, and their ways down it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import nos_optax

Make = Callable[[jax.Array, jax.Array], optax.GradientTransformation]  # of rate and epsilon

SUBJECT = "PowerSign"  # of the paper's claim
TUNED = "Adam, epsilon tuned"  # the only one that has epsilons to choose from
NOT_THE_PAPERS = "AddSign (not in the paper's figure)"


def rosenbrock(point: jax.Array) -> jax.Array:
    """Return f of a point (x, y)."""
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


OPTIMIZERS: dict[str, Make] = {
    SUBJECT: lambda rate, _: nos_optax.powersign(rate),
    "Momentum": lambda rate, _: optax.sgd(rate, momentum=0.9),  # the sum 0.9 a + g, as TensorFlow's
    TUNED: lambda rate, epsilon: tensorflow_adam(rate, epsilon),
    "Adam": lambda rate, epsilon: tensorflow_adam(rate, epsilon),
    "RMSProp": lambda rate, _: tensorflow_rmsprop(rate),
    "SGD": lambda rate, _: optax.sgd(rate),
    NOT_THE_PAPERS: lambda rate, _: nos_optax.addsign(rate),
}


def tensorflow_rmsprop(rate: jax.Array) -> optax.GradientTransformation:
    """Return `tf.train.RMSPropOptimizer` with its defaults.

    The average of g^2 starts at 1, so the first steps are those of SGD; epsilon is in the root.
    """
    return optax.rmsprop(rate, decay=0.9, eps=1e-10, initial_scale=1.0, eps_in_sqrt=True)


def tensorflow_adam(rate: jax.Array, epsilon: jax.Array) -> optax.GradientTransformation:
    """Return `tf.train.AdamOptimizer`: epsilon is Kingma and Ba's "epsilon hat".

    It is added before the bias correction, and so divided by it too.
    """
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

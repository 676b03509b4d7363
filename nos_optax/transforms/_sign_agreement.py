"""What PowerSign and AddSign share: an average of the gradient, and whether its sign agrees.

``sign(g) * sign(m)`` is -1, 0 or 1, so a method of this family has three multipliers per step. They
are computed once, as scalars, and each entry of the gradient selects its own.
"""

import jax
import jax.numpy as jnp
import optax

from nos_optax import _arguments


def init_average(params: optax.Params, mu_dtype: jax.typing.DTypeLike | None) -> optax.Updates:
    """Return zeros like the parameters, of type ``mu_dtype`` if given."""
    jax.tree.map(_arguments.wide_dtype, params)  # raises if one is complex
    return optax.tree.zeros_like(params, dtype=mu_dtype)


def update_average(
    updates: optax.Updates, mu: optax.Updates, b1: jax.typing.ArrayLike
) -> optax.Updates:
    """Return the moving average with the gradient in it, in float32 or wider.

    The methods use its sign, and in half precision ``(1 - b1) * g`` may round to 0, which has none.
    Where there is no gradient (None), the average stays as it is.
    """
    _arguments.check_trees(updates, mu=mu)

    def average(g, m):
        if g is None:
            return m
        dtype = jnp.promote_types(_arguments.wide_dtype(g), _arguments.wide_dtype(m))
        return b1 * jnp.asarray(m, dtype) + (1 - b1) * jnp.asarray(g, dtype)

    return jax.tree.map(average, updates, mu, is_leaf=lambda x: x is None)


def scale_by_agreement(
    updates: optax.Updates,
    mu: optax.Updates,
    *,
    agree: jax.typing.ArrayLike,
    neutral: jax.typing.ArrayLike,
    disagree: jax.typing.ArrayLike,
) -> optax.Updates:
    """Multiply each entry of the gradient by the multiplier that sign(g) sign(m) selects.

    Args:
        updates: The gradient g, any shapes.
        mu: The moving average m that includes g, the same shapes.
        agree: The multiplier where the product is 1, shape ``()``.
        neutral: The multiplier where it is 0, shape ``()``.
        disagree: The multiplier where it is -1, shape ``()``.

    Returns:
        The scaled gradient, in the gradient's dtype; NaN where g or m is.
    """

    def scale(g, m):
        if g is None:
            return None
        dtype = jnp.result_type(g)
        g = jnp.asarray(g, _arguments.wide_dtype(g))
        product = jnp.sign(g) * jnp.sign(m)
        up, same, down = (jnp.asarray(x, product.dtype) for x in (agree, neutral, disagree))
        # The last case is 0 or NaN: adding the product keeps the one and hands on the other.
        multiplier = jnp.where(product > 0, up, jnp.where(product < 0, down, same + product))
        return (multiplier * g).astype(dtype)

    return jax.tree.map(scale, updates, mu, is_leaf=lambda x: x is None)


def value_at(value_or_schedule: optax.ScalarOrSchedule, count: jax.typing.ArrayLike) -> jax.Array:
    """Return the number, or the schedule's value at the count, in float32 or wider."""
    value = value_or_schedule(count) if callable(value_or_schedule) else value_or_schedule
    return jnp.asarray(value, _arguments.wide_dtype(value))

"""What the words mean, in JAX: one definition for the static and the traced evaluator.

Choices the paper leaves open, settled here: `log` and `sqrt` take |x|; `x / y` is `x / (y + DELTA)`;
`adam = m / (sqrt(v) + DELTA)`, `rmsprop = g / (sqrt(v) + DELTA)`; `sign(0) = 0`; `drop` does not rescale; moving averages
are bias-corrected and include the current gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax import schedules
from nos_optax.grammar.canonical import DELTA

NOISE_VARIANCE = 0.01
ANNEALING = 0.55  # annealed noise has variance 1 / (1 + t)^0.55


def divide(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return x / (y + DELTA)."""
    return x / (y + DELTA)


UNARY_FUNCTIONS: dict[str, Callable] = {
    "identity": lambda x: x,
    "neg": jnp.negative,
    "exp": jnp.exp,
    "log": lambda x: jnp.log(jnp.abs(x)),
    "sqrt": lambda x: jnp.sqrt(jnp.abs(x)),
    "sign": jnp.sign,
    "sigmoid": jax.nn.sigmoid,
}

BINARY_FUNCTIONS: dict[str, Callable] = {
    "+": jnp.add,
    "-": jnp.subtract,
    "*": jnp.multiply,
    "/": divide,
    "^": jnp.power,
}


def clip(x: jax.Array, c: jax.Array | float) -> jax.Array:
    """Limit x to [-c, c]; nan stays nan."""
    return jnp.clip(x, -c, c)


def drop(key: jax.Array, x: jax.Array, p: jax.Array | float) -> jax.Array:
    """Set entries of x to 0 with probability p."""
    return jnp.where(jax.random.uniform(key, x.shape, x.dtype) >= p, x, 0)


def noise(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Draw N(0, NOISE_VARIANCE)."""
    return jax.random.normal(key, shape, dtype) * np.sqrt(NOISE_VARIANCE).astype(dtype)


def annealed_noise(key: jax.Array, shape: tuple[int, ...], dtype, t: jax.Array) -> jax.Array:
    """Draw N(0, variance 1 / (1 + t)^0.55), with t the steps before this one."""
    deviation = (1 + t.astype(dtype)) ** (-ANNEALING / 2)
    return jax.random.normal(key, shape, dtype) * deviation


def decay(name: str, n: float | None, t: jax.Array, total_steps, dtype) -> jax.Array:
    """Return ld, cd_n or rd_n at step t of `total_steps`, as a scalar."""
    match name:
        case "ld":
            value = schedules.linear_decay(t, total_steps)
        case "cd":
            value = schedules.cyclical_decay(t, total_steps, n)
        case _:
            value = schedules.restart_decay(t, total_steps, n)
    return value.astype(dtype)


def moving_average(average: jax.Array, x: jax.Array, rate) -> jax.Array:
    """Return rate * average + (1 - rate) * x."""
    return rate * average + (1 - rate) * x


def bias_correction(rate, steps: jax.Array, dtype) -> jax.Array:
    """Return 1 - rate^steps, without the cancellation that costs float32 four digits at rate 0.999."""
    with np.errstate(divide="ignore"):
        log_rate = jnp.log(rate) if isinstance(rate, jax.Array) else np.log(float(rate))
    return -jnp.expm1(steps.astype(dtype) * jnp.asarray(log_rate, dtype))


def stream_key(key: jax.Array, count: jax.Array, leaf: int) -> jax.Array:
    """Return the key of one parameter at one step; fold in a structural hash for one random subexpression."""
    return jax.random.fold_in(jax.random.fold_in(key, count), leaf)


def as_key(key: jax.Array | int | None) -> jax.Array:
    """Return a PRNG key: of a key, typed or legacy, of an integer seed, or of seed 0 where None."""
    if key is None:
        return jax.random.key(0)
    key = jnp.asarray(key)
    if jnp.issubdtype(key.dtype, jnp.integer) and key.ndim == 0:
        return jax.random.key(key)
    return key

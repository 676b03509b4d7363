"""What the words mean, in JAX: one definition for the static and the traced evaluator.

Bello et al. (2017) settle most of it. Section 4.1 says that `log` and `sqrt` take |x|, that `x / y`
is `x / (y + DELTA)`, that `clip(x, c)` limits x to [-c, c], that `drop(x, p)` sets entries to 0
with probability p, and what the decays and both noises are. Section 4.2 sets DELTA to 1e-8 and the
decay rates of the moving averages to 0.9, 0.999 and 0.999. By the caption of figure 2, these
averages are bias-corrected.

The paper leaves these to us: DELTA stands outside the root, so `adam` is `m / (sqrt(v) + DELTA)`
and `rmsprop` is `g / (sqrt(v) + DELTA)`, as its division would write them; `sign(0)` is 0; `drop`
does not rescale what it keeps; the 0.01 of N(0, 0.01) is a variance; the averages include the
current gradient; a decay's t is 0 at the first step and at most T; a power of a negative number is
nan unless the exponent is whole.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nos_optax import schedules
from nos_optax.grammar.canonical import DELTA


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
    """Draw from a normal distribution with variance 0.01."""
    return 0.1 * jax.random.normal(key, shape, dtype)


def annealed_noise(key: jax.Array, shape: tuple[int, ...], dtype, t: jax.Array) -> jax.Array:
    """Draw from a normal distribution with variance (1 + t)^-0.55, t steps before this one."""
    return (1 + t.astype(dtype)) ** (-0.55 / 2) * jax.random.normal(key, shape, dtype)


def decay(name: str, n: float | None, t: jax.Array, total_steps, dtype) -> jax.Array:
    """Return ld, cd_n or rd_n at step t of `total_steps`, as a scalar."""
    match name, n:
        case "cd", float():
            value = schedules.cyclical_decay(t, total_steps, n)
        case "rd", float():
            value = schedules.restart_decay(t, total_steps, n)
        case _:
            value = schedules.linear_decay(t, total_steps)
    return value.astype(dtype)


def moving_average(average: jax.Array, x: jax.Array, rate) -> jax.Array:
    """Return rate * average + (1 - rate) * x."""
    return rate * average + (1 - rate) * x


def bias_correction(rate, steps: jax.Array, dtype) -> jax.Array:
    """Return 1 - rate^steps, without the cancellation that costs float32 four digits at 0.999."""
    return -jnp.expm1(steps.astype(dtype) * jnp.log1p(jnp.asarray(rate - 1, dtype)))


def stream_key(key: jax.Array, count: jax.Array, leaf: int) -> jax.Array:
    """Return the key of one parameter array at one step, to be folded with a structural hash."""
    return jax.random.fold_in(jax.random.fold_in(key, count), leaf)

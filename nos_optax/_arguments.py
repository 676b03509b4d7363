"""Checks of what users pass: at once, by name. Arrays, which may be traced, pass unchecked."""

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# Up to this horizon the integers of `schedules._cycle_fraction` fit in 32 bits.
MAX_STEPS = 2**30


def check_number(
    name: str,
    value: object,
    must: str = "a finite number",
    holds: Callable[[float], bool] = math.isfinite,
) -> None:
    """Raise if the value is no number, or one for which `holds` is false.

    Args:
        name: of the argument.
        value: a number, or an array.
        must: what it must be, in words.
        holds: whether a number is that.

    Raises:
        TypeError: It is something else than a number.
        ValueError: It is another number.
    """
    if isinstance(value, jax.Array | np.ndarray):
        return
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}, but must be {must}.")
    try:
        fine = holds(float(value))
    except OverflowError:  # an integer beyond all floats
        fine = False
    if not fine:
        raise ValueError(f"{name} is {value}, but must be {must}.")


def check_numbers(**values: object) -> None:
    """Raise if one of the values is no number, or not finite."""
    for name, value in values.items():
        check_number(name, value)


def check_numbers_or_schedules(**values: object) -> None:
    """Raise if one of the values is neither a finite number nor a schedule."""
    for name, value in values.items():
        if not callable(value):
            check_number(name, value, "a finite number, or a schedule of the count")


def check_decay_rate(name: str, value: object) -> None:
    """Raise if the value is a number, and not the decay rate of a moving average."""
    must = "in [0, 1): it is the weight of the past in a moving average"
    check_number(name, value, must, lambda x: 0 <= x < 1)


def whole_steps(name: str, value: int | jax.Array) -> int | jax.Array:
    """Return a number of steps as an int, once checked; an array as it is.

    Raises:
        TypeError: It is no number.
        ValueError: It is not a whole number between 1 and 2**30.
    """
    must = "a whole number between 1 and 2**30: pass the number of optimizer updates"
    check_number(name, value, must, lambda x: 1 <= x <= MAX_STEPS and x == int(x))
    return value if isinstance(value, jax.Array | np.ndarray) else int(value)


def as_key(key: jax.Array | int | None) -> jax.Array:
    """Return the key of a seed, of seed 0 if None; and of a key, typed or legacy, a copy."""
    key = 0 if key is None else key
    if jnp.ndim(key) > 0 or jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        return jnp.array(key)  # a copy: a state may be donated, the caller's key may not
    if not jnp.issubdtype(jnp.result_type(key), jnp.integer):
        raise TypeError(f"key is {key!r}, but must be a key of jax.random or an integer seed.")
    return jax.random.key(key)

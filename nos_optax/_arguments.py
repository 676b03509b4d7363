"""What functions and settings do with their arguments: check them at once, by name, and use them.

What is a number is checked, in whatever array it comes; only a tracer, which has no value yet,
passes unchecked. True and False are no numbers.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

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
        value: a number, or an array, of which each entry is checked; a tracer passes.
        must: what it must be, in words.
        holds: whether a number is that.

    Raises:
        TypeError: It is something else than a number.
        ValueError: It is another number.
    """
    if not _has_value(value):
        return
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.integer, jnp.floating)):
            raise TypeError(f"{name} is {value!r}, but must be {must}.")
        entries = np.asarray(value).astype(float).ravel().tolist()
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        entries = [value]
    else:
        raise TypeError(f"{name} is {value!r}, but must be {must}.")
    try:
        fine = all(holds(float(x)) for x in entries)
    except OverflowError:  # an integer beyond all floats
        fine = False
    if not fine:
        raise ValueError(f"{name} is {value}, but must be {must}.")


def check_positive(**values: object) -> None:
    """Raise if one of the values is no number, or not positive and finite."""
    for name, value in values.items():
        check_number(name, value, "a positive number", lambda x: 0 < x < math.inf)


def check_integers(must: str = "a whole number", **values: object) -> None:
    """Raise if one of the values is no integer of Python's or NumPy's.

    Raises:
        TypeError: It is something else.
    """
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}, but must be {must}.")


def check_counts(**values: object) -> None:
    """Raise if one of the values is no whole number, or less than 1.

    Raises:
        TypeError: It is no integer.
        ValueError: It is less than 1.
    """
    must = "a whole number, at least 1"
    check_integers(must, **values)
    for name, value in values.items():
        check_number(name, value, must, lambda x: x >= 1)


def plain_number(value: Any, kind: type) -> float | int | bool | None:
    """Return a number of Python's, NumPy's or JAX's as Python's; None of anything else."""
    scalar = isinstance(value, np.ndarray | jax.Array) and value.shape == ()
    if scalar or isinstance(value, np.generic):
        item = np.asarray(value).item()
        value = float(item) if isinstance(item, np.longdouble) else item
    if isinstance(value, bool) or kind is bool:
        return value if isinstance(value, bool) and kind is bool else None
    if not isinstance(value, int | float) or (kind is int and value % 1 != 0):
        return None
    try:
        return kind(value)
    except OverflowError:  # a whole number beyond all floats
        return None


def _has_value(value: object) -> bool:
    """Whether this process knows the value: not of a tracer, nor of an array on other machines."""
    if isinstance(value, Tracer):
        return False
    return not isinstance(value, jax.Array) or (
        value.is_fully_addressable or value.is_fully_replicated
    )


def check_numbers(**values: object) -> None:
    """Raise if one of the values is no number, or not finite."""
    for name, value in values.items():
        check_number(name, value)


def check_numbers_or_schedules(**values: object) -> None:
    """Raise if one of the values is neither a finite number nor a schedule."""
    for name, value in values.items():
        if not callable(value):
            check_number(name, value, "a finite number, or a schedule of the count")


def decay_rate(name: str, value: Any, usual: float) -> Any:
    """Return the decay rate of a moving average, checked; one in half precision as float32.

    `optax.inject_hyperparams` casts every number to the dtype of the parameters. In bfloat16 the
    rates from 0.998 to 1 all become 1, which is no rate. A rate that is what the usual one becomes
    is therefore the usual one, and a tracer is at most the greatest number below 1.

    Args:
        name: of the argument.
        value: the rate: a number, or an array of any dtype.
        usual: the default of the argument.

    Raises:
        TypeError: It is no number.
        ValueError: It is a number outside [0, 1).
    """
    must = "in [0, 1): it is the weight of the past in a moving average"
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits >= 32:
        check_number(name, value, must, lambda x: 0 <= x < 1)
        return value
    must += f"; {dtype} rounds rates near 1, pass inject_hyperparams a hyperparam_dtype of float32"
    rounded = float(np.asarray(usual, dtype))
    check_number(name, value, must, lambda x: 0 <= x < 1 or x == rounded)
    wide = value.astype(np.float32)
    if not isinstance(wide, jax.Array):
        return np.where(wide == rounded, np.float32(usual), wide)
    below = float(1 - jnp.finfo(dtype).epsneg)
    return jnp.where(wide == rounded, jnp.float32(usual), jnp.minimum(wide, below))


def whole_steps(name: str, value: int | jax.Array) -> int | jax.Array:
    """Return a number of steps, once checked: as an int, unless it is a tracer or has axes.

    Raises:
        TypeError: It is no number.
        ValueError: It is not a whole number between 1 and 2**30.
    """
    must = "a whole number between 1 and 2**30: pass the number of optimizer updates"
    check_number(name, value, must, lambda x: 1 <= x <= MAX_STEPS and x == int(x))
    return int(value) if _has_value(value) and np.ndim(value) == 0 else value


def check_trees(updates: Any, **others: Any) -> None:
    """Raise if the gradients do not have the structure and shapes of the trees beside them.

    Args:
        updates: The gradients; None where a parameter has none.
        others: By name, trees of as many arrays of the same shapes; None for one that is not there.

    Raises:
        ValueError: With both outlines.
    """
    leaves, treedef = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
    for name, tree in others.items():
        if tree is None:
            continue
        try:
            beside = treedef.flatten_up_to(tree)
            fit = all(
                g is None or (jax.tree.structure(x).num_nodes == 1 and jnp.shape(g) == jnp.shape(x))
                for g, x in zip(leaves, beside, strict=True)
            )
        except (ValueError, TypeError):
            fit = False
        if not fit:
            raise ValueError(
                f"The gradients are {_outline(updates)}, but {name} is {_outline(tree)}: pass "
                "gradients, parameters and a state that belong to one another."
            )


def _outline(tree: Any) -> str:
    """Describe a tree in a line: its type, and the path and shape of its first leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if jax.tree.structure(tree).num_nodes == 1 and leaves:
        return f"an array of shape {jnp.shape(tree)}"
    first = ", ".join(f"{jax.tree_util.keystr(path)} {jnp.shape(x)}" for path, x in leaves[:4])
    more = f" and {len(leaves) - 4} more" if len(leaves) > 4 else ""
    return f"a {type(tree).__name__} of {first or 'no arrays'}{more}"


def wide_dtype(x):
    """Return the dtype in which to compute with an array: float32, or its own where that is wider.

    Raises:
        ValueError: It is complex.
    """
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"A parameter is {dtype}, and the optimizers here are for real numbers, which have a "
            "sign and an order: wrap the optimizer in optax.contrib.split_real_and_imaginary."
        )
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        return jnp.dtype("float32")  # JAX promotes no float8 by itself
    return jnp.promote_types(dtype, jnp.float32)


def descend(
    scale_by: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule,
    mask: Any | Callable[[optax.Params], Any] | None,
) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer w <- w - learning_rate (scale_by + weight_decay w).

    It computes in float32 or wider, and its updates have the dtypes of the gradients: Optax's own
    links of a chain hand on the dtype of a rate that is an array or comes from a schedule.

    Args:
        scale_by: What replaces the gradient.
        learning_rate: A number, or a schedule of the count.
        weight_decay: A number, or a schedule of the count. For the number 0, `update` does not need
            the parameters.
        mask: Which parameters decay: a tree of booleans, or a function of the parameters.

    Raises:
        TypeError: A rate is no number, or the mask seems to be the value of a mask function.
        ValueError: A rate is not finite.
    """
    check_numbers_or_schedules(learning_rate=learning_rate, weight_decay=weight_decay)
    _check_mask(mask, learning_rate, weight_decay)
    without_decay = isinstance(weight_decay, int | float) and weight_decay == 0
    learning_rate, weight_decay = widen(learning_rate), widen(weight_decay)
    chain = optax.chain(
        scale_by,
        # The identity has the same empty state, but does not ask for the parameters.
        optax.identity() if without_decay else optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )

    def init_fn(params):
        if mask is not None and not without_decay:
            _check_fit(mask(params) if callable(mask) else mask, params)
        return chain.init(params)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if not without_decay:
            check_trees(updates, params=params)
        steps, state = chain.update(widen(updates), state, widen(params))
        steps = jax.tree.map(lambda step, g: step.astype(jnp.result_type(g)), steps, updates)
        return steps, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def widen(tree: Any) -> Any:
    """Return half-precision arrays of a tree as float32, and everything else as it is."""

    def wide(x):
        half = jnp.issubdtype(getattr(x, "dtype", bool), jnp.floating) and x.dtype.itemsize < 4
        return x.astype(jnp.float32) if half else x

    return jax.tree.map(wide, tree)


def _check_mask(mask: object, learning_rate: object, weight_decay: object) -> None:
    """Raise if the mask is what `inject_hyperparams` makes of a function: its value at a count.

    It makes an array of every number beside it, too. Without that, a single boolean is a mask.
    """
    injected = isinstance(learning_rate, jax.Array) or isinstance(weight_decay, jax.Array)
    single = isinstance(mask, jax.Array) or (injected and isinstance(mask, bool | np.bool_))
    if single and np.ndim(mask) == 0:
        raise TypeError(
            f"mask is {mask}, but must be a tree of booleans or a function of the parameters. "
            "optax.inject_hyperparams takes a function for a schedule and passes its value at the "
            'count: name it there, inject_hyperparams(..., static_args="mask").'
        )


def _check_fit(mask: object, params: Any) -> None:
    """Raise if a mask is no tree of booleans, one for each parameter or for each of its subtrees.

    Raises:
        TypeError: A leaf is no boolean.
        ValueError: It has another structure than the parameters.
    """
    leaves, structure = jax.tree.flatten(mask)
    for leaf in leaves:
        single = isinstance(leaf, bool | np.bool_) or (
            isinstance(leaf, jax.Array | np.ndarray) and leaf.dtype == bool and leaf.ndim == 0
        )
        if not single:
            raise TypeError(
                f"mask holds {leaf!r:.100}, but must be a tree of booleans, one for each parameter."
            )
    try:
        structure.flatten_up_to(params)
    except (ValueError, TypeError):
        raise ValueError(
            f"mask is {_outline(mask)}, but the parameters are {_outline(params)}: pass a tree of "
            "booleans like the parameters."
        ) from None


def key_data(key: jax.Array | int) -> jax.Array:
    """Return the numbers of a key or a seed, uint32: a state of numbers can be saved anywhere."""
    return jax.random.key_data(as_key(key))


def typed_key(data: jax.Array, like: jax.Array | int) -> jax.Array:
    """Return the key of these numbers, for the generator of the key or seed `like`."""
    if jnp.issubdtype(data.dtype, jax.dtypes.prng_key):
        return data  # of a state that was saved when states had typed keys
    typed = jnp.issubdtype(getattr(like, "dtype", bool), jax.dtypes.prng_key)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(like) if typed else None)


def check_key(key: object) -> None:
    """Raise if this is neither one key of `jax.random`, typed or legacy, nor a seed, nor None.

    Raises:
        TypeError: It is something else.
        ValueError: It is a seed that no 64 bits hold, or several keys.
    """
    must = "a key of jax.random or an integer seed"
    if key is None or (isinstance(key, int | np.integer) and not isinstance(key, bool)):
        if key is not None and not -(2**63) <= int(key) < 2**63:
            raise ValueError(f"key is {key}, but must be {must}, which 64 bits hold.")
        return
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"key is {key!r}, but must be {must}.")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    seed = jnp.issubdtype(key.dtype, jnp.integer) and key.ndim == 0
    legacy = key.dtype == jnp.uint32 and key.shape[-1:] in ((2,), (4,))
    if not (typed or seed or legacy):
        raise TypeError(f"key is {key.dtype}{list(key.shape)}, but must be {must}.")
    if key.ndim > (0 if typed or seed else 1):
        raise ValueError(f"key holds several keys, {list(key.shape)}, but must be {must}: one.")


def check_float_dtype(name: str, dtype: object) -> None:
    """Raise if this is neither a dtype of real numbers nor None.

    Raises:
        TypeError: It is something else.
    """
    must = f"{name} is {dtype!r}, but must be a floating dtype, or None"
    if isinstance(dtype, jax.Array | np.ndarray | np.generic):
        raise TypeError(
            f"{must}. optax.inject_hyperparams takes a class for a schedule and passes its value "
            f'at the count: name it there, inject_hyperparams(..., static_args="{name}").'
        )
    try:
        real = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        real = False
    if not real:
        raise TypeError(f"{must}.")


def check_state(state: object, **averages: bool) -> None:
    """Raise if a state is not one that the same transformation made.

    Args:
        state: of a transformation.
        averages: by the name of a field, whether the state must have a tree there.

    Raises:
        ValueError: A field is missing, or empty where it must not be.
    """
    for name, needed in averages.items():
        if not hasattr(state, name) or (needed and getattr(state, name) is None):
            raise ValueError(
                f"The state is {_outline(state)}, without the {name} that is needed here: pass the "
                "state that `init` of the same transformation returned."
            )


def as_key(key: jax.Array | int | None) -> jax.Array:
    """Return the key of a seed, of seed 0 if None; and of a key, typed or legacy, a copy."""
    key = 0 if key is None else key
    if jnp.ndim(key) > 0 or jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        return jnp.array(key)  # a copy: a state may be donated, the caller's key may not
    if not jnp.issubdtype(jnp.result_type(key), jnp.integer):
        raise TypeError(f"key is {key!r}, but must be a key of jax.random or an integer seed.")
    return jax.random.key(key)

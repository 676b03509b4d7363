"""What the words mean, in JAX: one definition for the static and the traced evaluator.

Bello et al. (2017) settle most of it. Section 4.1 says that `log` and `sqrt` take |x|, that `x / y`
is `x / (y + DELTA)`, that `clip(x, c)` limits x to [-c, c], that `drop(x, p)` sets entries to 0
with probability p, and what the decays and both noises are. Section 4.2 sets DELTA and the decay
rates of the moving averages. By the caption of figure 2, those of g and g^2 are bias-corrected.

The paper leaves these to us: the average of g^3 is bias-corrected too; DELTA stands outside the
root, so `adam` is `m / (sqrt(v) + DELTA)` and `rmsprop` is `g / (sqrt(v) + DELTA)`, as its division
would write them; `sign(0)` is 0; `drop` does not rescale what it keeps; the second number of both
noises is a variance, and they are drawn for each entry; the averages include the current gradient;
a decay's t is 0 at the first step and at most T; a power of a negative number is nan unless the
exponent is whole.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nos_optax import _arguments, schedules

DELTA = 1e-8
B1, B2, B3 = 0.9, 0.999, 0.999  # of m, v and gamma


def divide(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return x / (y + DELTA)."""
    return x / (y + DELTA)


# Some slopes are infinite where the value is not, or is not any more after an `exp`. A derivative
# through the optimizer, of a gradient that is always 0, would be 0 times infinity: nan. There, the
# slope is 0 by definition, as the value does not move.


@jax.custom_jvp
def root(x: jax.Array) -> jax.Array:
    """Return the square root of |x|; where it is 0, so is the derivative."""
    return jnp.sqrt(jnp.abs(x))


@root.defjvp
def _root_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    y = root(x)
    return y, jnp.where(y == 0, 0, jnp.sign(x) * dx / (2 * jnp.where(y == 0, 1, y)))


@jax.custom_jvp
def log(x: jax.Array) -> jax.Array:
    """Return the logarithm of |x|; where x is 0, so is the derivative."""
    return jnp.log(jnp.abs(x))


@log.defjvp
def _log_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return log(x), jnp.where(x == 0, 0, dx / jnp.where(x == 0, 1, x))


@jax.custom_jvp
def power(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return x^y; where x is 0 and the slope infinite, as of a root, the derivative by x is 0."""
    return jnp.power(x, y)


@power.defjvp
def _power_jvp(primals, tangents):
    x, y, dx, dy = jnp.broadcast_arrays(*primals, *tangents)
    singular = (x == 0) & (y < 1)
    value, derivative = jax.jvp(jnp.power, (jnp.where(singular, 1, x), y), (dx, dy))
    return jnp.where(singular, jnp.power(x, y), value), jnp.where(singular, 0, derivative)


UNARY_FUNCTIONS: dict[str, Callable] = {
    "identity": lambda x: x,
    "neg": jnp.negative,
    "exp": jnp.exp,
    "log": log,
    "sqrt": root,
    "sign": jnp.sign,
    "sigmoid": jax.nn.sigmoid,
}

BINARY_FUNCTIONS: dict[str, Callable] = {
    "+": jnp.add,
    "-": jnp.subtract,
    "*": jnp.multiply,
    "/": divide,
    "^": power,
}


def clip(x: jax.Array, c: jax.Array | float) -> jax.Array:
    """Limit x to [-c, c]; nan stays nan."""
    return jnp.clip(x, -c, c)


def drop(key: jax.Array, x: jax.Array, p: jax.Array | float) -> jax.Array:
    """Set entries of x to 0 with probability p."""
    return drop_by(jax.random.uniform(key, x.shape, x.dtype), x, p)


def drop_by(uniform: jax.Array, x: jax.Array, p: jax.Array | float) -> jax.Array:
    """Set entries of x to 0 where numbers drawn from [0, 1) are below p."""
    return jnp.where(uniform >= p, x, 0)


def noise(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Draw from a normal distribution with variance 0.01."""
    return noise_of(jax.random.normal(key, shape, dtype))


def noise_of(normal: jax.Array) -> jax.Array:
    """Return standard normal numbers with variance 0.01."""
    return 0.1 * normal


def annealed_noise(key: jax.Array, shape: tuple[int, ...], dtype, t: jax.Array) -> jax.Array:
    """Draw from a normal distribution with variance (1 + t)^-0.55, t steps before this one."""
    return annealed_noise_of(jax.random.normal(key, shape, dtype), t)


def annealed_noise_of(normal: jax.Array, t: jax.Array) -> jax.Array:
    """Return standard normal numbers with variance (1 + t)^-0.55, t steps before this one."""
    return (1 + t.astype(normal.dtype)) ** (-0.55 / 2) * normal


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
    steps = steps.astype(dtype)
    if isinstance(rate, float):
        return -jnp.expm1(steps * jnp.log1p(jnp.asarray(rate - 1, dtype)))
    # Somebody may take the derivative by the rate: the logarithm of 0 has none.
    rate = jnp.asarray(rate, dtype)
    far = 1 - jnp.power(rate, steps)
    near = -jnp.expm1(steps * jnp.log1p(jnp.where(rate < 0.1, 0.1, rate) - 1))
    return jnp.where(rate < 0.1, far, near)


def stream_key(key: jax.Array, count: jax.Array, leaf: int) -> jax.Array:
    """Return the key of one parameter array at one step, to be folded with a structural hash."""
    return jax.random.fold_in(jax.random.fold_in(key, count), leaf)


def draw_all(updates, key: jax.Array, count: jax.Array, uniform: list[int], normal: list[int]):
    """Draw the random numbers of one step for all arrays of a tree.

    Each array draws with its own key (`stream_key`, by its position) folded with a stream. A draw
    takes longer to compile than the rest of a rule does, so arrays draw together where they can:
    the same numbers, compiled once.

    Args:
        updates: The gradients.
        key: A typed key.
        count: `[]`, steps before this one.
        uniform: The streams, 31-bit hashes, of numbers in [0, 1).
        normal: The streams of standard normal numbers.

    Returns:
        The tree, in place of each array a dict from stream to numbers of its shape.
    """
    arrays, treedef = jax.tree.flatten(updates)
    nothing = [g if jnp.size(g) == 0 else None for g in arrays]  # an empty array draws itself
    draws = [{} if g is None else dict.fromkeys(uniform + normal, g) for g in nothing]
    for draw, streams in ((jax.random.uniform, uniform), (jax.random.normal, normal)):
        if not streams or not arrays:
            continue
        pairs = [(leaf, stream) for leaf in range(len(arrays)) for stream in streams]
        keys = stream_keys(key, count, jnp.array(pairs, jnp.uint32)).reshape(
            len(arrays), len(streams)
        )
        for shape, dtype, leaves in draw_groups(arrays, key):
            rows = draw_rows(keys[jnp.array(leaves)], draw, shape, dtype)
            for i, leaf in enumerate(leaves):
                numbers = pick_row(rows, i, jnp.shape(arrays[leaf]))
                draws[leaf].update(zip(streams, numbers, strict=True))
    return treedef.unflatten(draws)


def draw_groups(arrays: list, key: jax.Array) -> list[tuple]:
    """Return of each draw the shape, the dtype, and the places of the arrays that it serves.

    Arrays of one shape draw together. Small ones of other shapes do so too, with numbers left over:
    the numbers of a threefry key are counted, so a longer draw begins with those of a shorter one.
    """
    counted = getattr(jax.config, "jax_threefry_partitionable", True)
    counted = counted and threefry(key)
    large, small, used, left_over = {}, [], 0, 0
    kinds = {leaf: (str(_arguments.wide_dtype(g)), -jnp.size(g)) for leaf, g in enumerate(arrays)}
    for leaf in sorted(kinds, key=kinds.__getitem__):
        shape, size = jnp.shape(arrays[leaf]), jnp.size(arrays[leaf])
        if size == 0:
            continue
        dtype = _arguments.wide_dtype(arrays[leaf])
        if not counted or size > 2**18:  # a large array may be sharded, so it keeps its axes
            large.setdefault((shape, dtype), []).append(leaf)
            continue
        used += size
        left_over += small[-1][0][0] - size if small else 0
        if not small or small[-1][1] != dtype or left_over > max(used, 2**16):
            small.append(((size,), dtype, []))
            used, left_over = size, 0
        small[-1][2].append(leaf)
    return [(*alike, leaves) for alike, leaves in large.items()] + small


@jax.jit
def stream_keys(key, count, pairs):
    """Return the keys of pairs `[rows, 2]` of an array and a stream: count, pair folded into one.

    The three folds are turns of a loop: one takes longer to compile than most rules do.
    """
    rows = len(pairs)
    folds = jnp.stack([jnp.full(rows, count, jnp.uint32), *pairs.T])

    def fold(keys, data):
        if threefry(key):
            return jax.vmap(jax.random.fold_in)(keys, data), None
        return jax.lax.map(lambda x: jax.random.fold_in(*x), (keys, data)), None

    return jax.lax.scan(fold, jnp.broadcast_to(key, rows), folds)[0]


@jax.jit(static_argnames=("draw", "shape", "dtype"))
def draw_rows(keys, draw, shape, dtype):
    """Draw `[*keys.shape, *shape]` numbers with keys `[rows, streams]`."""

    def one(key):
        return draw(key, shape, dtype)

    # A loop, also where a few turns do: XLA would compile what `draw` computes of each number anew
    # for each array that reads it. Large draws take one turn each, as a draw takes several times
    # the memory of its numbers.
    rows, size = keys.size, jax.ShapeDtypeStruct(shape, dtype).size
    if threefry(keys) and rows * size <= 2**22:
        batch = -(-rows // 4)
        batches = keys.ravel()[jnp.minimum(jnp.arange(-(-rows // batch) * batch), rows - 1)]
        numbers = jax.lax.map(jax.vmap(one), batches.reshape(-1, batch))
        numbers = numbers.reshape(-1, *shape)[:rows]
    else:
        numbers = jax.lax.map(one, keys.ravel())
    return numbers.reshape(*keys.shape, *shape)


def threefry(key):
    """Whether the key is of JAX's default generator; others draw other numbers under `vmap`."""
    return jax.random.key_impl(key) == "threefry2x32"


@jax.jit(static_argnames="shape")
def pick_row(rows, i, shape):
    """Return the first numbers of each stream in row i, in a shape: `[streams, *shape]`."""
    # XLA compiles one kernel for all picks of a size, unless it sees that they are at other places:
    # it sees through a number, and not through this.
    index, _ = jax.lax.optimization_barrier(jnp.stack([i, 0]).astype(jnp.uint32))
    row = jax.lax.dynamic_index_in_dim(rows, index, keepdims=False)
    size = jax.ShapeDtypeStruct(shape, rows.dtype).size
    return row if row.shape[1:] == shape else row[:, :size].reshape(len(row), *shape)

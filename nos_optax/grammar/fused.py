"""The traced evaluator as one GPU kernel: the whole step of many children, by rules of their own.

Under `vmap`, the switches of `apply_program` are selects, and each child computes the whole
vocabulary. Here an instance of a Pallas kernel has one child and one block of its parameters: a
token is a scalar and a switch a real branch, and each array is read and written once.

The kernel is for Pallas' Triton backend. A meaning is written anew where Triton has none, and where
its own differs in nan or in the sign of zero.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from nos_optax.grammar import semantics
from nos_optax.grammar.expression import word_hash
from nos_optax.grammar.semantics import B1, B2, B3
from nos_optax.grammar.traced import (
    _BINARY_BRANCHES,
    _DECAYS,
    _OPERAND_BRANCH,
    _OPERAND_PARAMETER,
    _UNARY_PARAMETER,
    ProgramState,
)
from nos_optax.grammar.vocabulary import OPERANDS, UNARY_TOKENS

BLOCK = 512
# Four warps have 4 parameters a thread at a block of 512. There is no loop of loads to pipeline.
COMPILER_PARAMS = triton.CompilerParams(num_warps=4, num_stages=1)


def fused_update(
    programs: jax.Array,
    streams: jax.Array,
    state: ProgramState,
    g: jax.Array,
    w: jax.Array,
    learning_rate: jax.Array,
    total_steps: jax.Array,
    keys: jax.Array,
    *,
    block: int = BLOCK,
    interpret: bool = False,
) -> tuple[jax.Array, ProgramState]:
    """Return N children's parameters and states after a step, as `vmap(apply_program)` gives them.

    The random numbers are the same too, given `jax_threefry_partitionable`, JAX's default. Under
    `jit`, parameters and averages are updated in place where nothing else reads the old ones.

    Args:
        programs: `int32[N, G, 5]`.
        streams: `uint32[N, G, 2]`, of `program_streams`.
        state: The states before the step: averages `float32[N, D]`, count `int32[]` or `int32[N]`.
        g: Gradients `float32[N, D]`.
        w: Parameters `float32[N, D]`.
        learning_rate: `float32[N]`.
        total_steps: T of the decays, `[]`.
        keys: PRNG keys of the runs, `[N]`, of threefry.
        block: How many parameters an instance of the kernel takes; a power of two.
        interpret: Run without a GPU, slowly.

    Returns:
        The parameters `w - learning_rate * update`, `float32[N, D]`, and the next states.
    """
    children, size = g.shape
    count_axis = 0 if state.count.ndim else None
    instructions = jax.vmap(_instructions, (0, 0, count_axis, None, 0, 0))(
        programs, streams, state.count, total_steps, keys, learning_rate
    )

    def of_child(x):
        return pl.BlockSpec((None, *x.shape[1:]), lambda n, _: (n, *[0] * (x.ndim - 1)))

    old = _Arrays(w, state.mu, state.nu, state.gamma)
    blocks = pl.BlockSpec((None, block), lambda n, i: (n, i))
    (new,) = pl.pallas_call(
        partial(_kernel, iterations=programs.shape[1], size=size),
        grid=(children, pl.cdiv(size, block)),
        in_specs=[
            jax.tree.map(of_child, instructions),
            blocks,
            jax.tree.map(lambda _: blocks, old),
        ],
        out_specs=[jax.tree.map(lambda _: blocks, old)],
        out_shape=[jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), old)],
        # The places of an array among all inputs and among all outputs.
        input_output_aliases={len(instructions) + 1 + i: i for i in range(len(old))},
        compiler_params=COMPILER_PARAMS,
        interpret=interpret,
        name="fused_update",
    )(instructions, g, old)
    return new.w, ProgramState(state.count + 1, new.mu, new.nu, new.gamma)


class _Arrays(NamedTuple):
    """What a step changes of a child, `[D]` each; in the kernel, references to a block."""

    w: Any
    mu: Any
    nu: Any
    gamma: Any


class _Instructions(NamedTuple):
    """A child's program at one step, every table looked up; in the kernel, references to it.

    The first four of an iteration's five tokens, op1 op2 u1 u2, may have a parameter and draw.
    """

    branches: Any  # int32[G, 5]: one of each token's switch
    parameters: Any  # float32[G, 4]
    keys: Any  # uint32[G, 4, 2]
    corrections: Any  # float32[3], of the biases of mu, nu and gamma
    learning_rate: Any  # float32[1]


def _instructions(
    program: jax.Array,
    streams: jax.Array,
    t: jax.Array,
    total_steps: jax.Array,
    key: jax.Array,
    learning_rate: jax.Array,
) -> _Instructions:
    """Return what all instances of the kernel of one child need at step t."""
    operands, unaries, binary = program[:, :2], program[:, 2:4], program[:, 4:]
    row = jnp.minimum(operands, len(OPERANDS))
    # The results of earlier iterations are the last branches, one each.
    operand_branches = jnp.array(_OPERAND_INDEX)[row] + operands - row
    unary_branches = jnp.array(_UNARY_INDEX)[unaries]
    unary_parameters = jnp.array(_UNARY_PARAMETER, jnp.float32)[unaries]
    hashes = jnp.array([word_hash(name) for name in _OPERAND_BRANCH], jnp.uint32)[row]
    step_key = semantics.stream_key(key, t, 0)
    fold_in = jax.vmap(jax.vmap(lambda x: jax.random.key_data(jax.random.fold_in(step_key, x))))
    corrections = [semantics.bias_correction(b, t + 1, jnp.float32) for b in (B1, B2, B3)]
    return _Instructions(
        jnp.concatenate([operand_branches, unary_branches, binary], axis=1),
        jnp.concatenate([_operand_parameters(t, total_steps)[row], unary_parameters], axis=1),
        fold_in(jnp.concatenate([hashes, streams], axis=1)),
        jnp.stack(corrections),
        learning_rate[None],
    )


def _operand_parameters(t: jax.Array, total_steps: jax.Array) -> jax.Array:
    """Return each operand token's parameter at step t: a decay is a number, noise a deviation."""

    def value(branch, parameter):
        match branch:
            case "decay":
                e = _DECAYS[int(parameter)]
                return semantics.decay(e.name, e.n, t, total_steps, jnp.float32)
            case "noise":  # the deviations of `semantics.noise` and `semantics.annealed_noise`
                return 0.1
            case "annealed_noise":
                return (1 + t.astype(jnp.float32)) ** (-0.55 / 2)
            case _:
                return parameter

    rows = zip(_OPERAND_BRANCH, _OPERAND_PARAMETER, strict=True)
    return jnp.stack([jnp.asarray(value(*row), jnp.float32) for row in rows])


class _Inputs(NamedTuple):
    """What operands are made of, `[block]` each."""

    index: jax.Array  # int32, of the entries in the whole array
    g: jax.Array
    m: jax.Array
    v: jax.Array
    gamma: jax.Array
    w: jax.Array


def _kernel(
    program: _Instructions, g_ref: Any, old: _Arrays, new: _Arrays, *, iterations: int, size: int
) -> None:
    """Update a block of one child's arrays, which have `size` entries."""
    (block,) = g_ref.shape
    index = pl.program_id(1) * block + jax.lax.iota(jnp.int32, block)
    load = partial(triton.load, mask=index < size, other=0.0)
    store = partial(triton.store, mask=index < size)

    g, w = load(g_ref), load(old.w)
    mu = semantics.moving_average(load(old.mu), g, B1)
    nu = semantics.moving_average(load(old.nu), jax.lax.integer_pow(g, 2), B2)
    gamma = semantics.moving_average(load(old.gamma), jax.lax.integer_pow(g, 3), B3)
    store(new.mu, mu)
    store(new.nu, nu)
    store(new.gamma, gamma)
    m, v, gamma = (x / program.corrections[i] for i, x in enumerate((mu, nu, gamma)))
    inputs = _Inputs(index, g, m, v, gamma, w)

    def iteration(k, results):
        def token(i):
            # The key is a function: only the branches that draw load it.
            key = lambda: (program.keys[k, i, 0], program.keys[k, i, 1])  # noqa: E731
            return program.branches[k, i], program.parameters[k, i], key

        x = _unary(*token(2), index, _operand(*token(0), inputs, results))
        y = _unary(*token(3), index, _operand(*token(1), inputs, results))
        value = jax.lax.switch(program.branches[k, 4], _BINARY_BRANCHES, x, y)
        # Registers have no address: the k-th is written by selects.
        return tuple(jnp.where(k == i, value, result) for i, result in enumerate(results))

    # A loop, not unrolled: the branches are compiled once for all iterations.
    results = jax.lax.fori_loop(0, iterations, iteration, (jnp.zeros_like(g),) * iterations)
    store(new.w, w - program.learning_rate[0] * results[-1])


_Key = Callable[[], tuple[jax.Array, jax.Array]]


def _operand(
    branch: jax.Array,
    parameter: jax.Array,
    key: _Key,
    inputs: _Inputs,
    results: tuple[jax.Array, ...],
) -> jax.Array:
    """Return the value of an operand: `[block]`."""
    functions = [partial(f, inputs, parameter, key) for f in _OPERAND_FUNCTIONS.values()]
    return jax.lax.switch(branch, [*functions, *(lambda r=r: r for r in results)])


_OPERAND_FUNCTIONS: dict[str, Callable[[_Inputs, jax.Array, _Key], jax.Array]] = {
    "g": lambda x, parameter, key: x.g,
    "g^2": lambda x, parameter, key: jax.lax.integer_pow(x.g, 2),
    "g^3": lambda x, parameter, key: jax.lax.integer_pow(x.g, 3),
    "m": lambda x, parameter, key: x.m,
    "v": lambda x, parameter, key: x.v,
    "gamma": lambda x, parameter, key: x.gamma,
    "sign(g)": lambda x, parameter, key: _sign(x.g),
    "sign(m)": lambda x, parameter, key: _sign(x.m),
    "constant": lambda x, parameter, key: jnp.full_like(x.g, parameter),
    "noise": lambda x, parameter, key: parameter * _normal(*key(), x.index),
    "scaled w": lambda x, parameter, key: parameter * x.w,
    "adam": lambda x, parameter, key: semantics.divide(x.m, jnp.sqrt(x.v)),
    "rmsprop": lambda x, parameter, key: semantics.divide(x.g, jnp.sqrt(x.v)),
}

# Operands that `_operand_parameters` makes the same but for the parameter.
_SAME = {"decay": "constant", "annealed_noise": "noise"}
_OPERAND_INDEX = tuple(
    [*_OPERAND_FUNCTIONS, "result"].index(_SAME.get(name, name)) for name in _OPERAND_BRANCH
)


def _unary(
    branch: jax.Array, parameter: jax.Array, key: _Key, index: jax.Array, x: jax.Array
) -> jax.Array:
    """Return a unary function of x: `[block]`."""
    functions = _UNARY_FUNCTIONS | {
        "clip": lambda x: _clip(x, parameter),
        "drop": lambda x: jnp.where(_uniform(*key(), index) >= parameter, x, 0),
    }
    return jax.lax.switch(branch, [functions[name] for name in _UNARY_ORDER], x)


def _sign(x: jax.Array) -> jax.Array:
    """Return the sign of x; Triton's has no -0, whose reciprocal would be another infinity."""
    return jnp.where(x > 0, 1.0, jnp.where(x < 0, -1.0, x))


def _clip(x: jax.Array, c: jax.Array) -> jax.Array:
    """Limit x to [-c, c]; nan stays nan, which Triton's minimum and maximum would drop."""
    return jnp.where(x > c, c, jnp.where(x < -c, -c, x))


_UNARY_FUNCTIONS: dict[str, Callable] = semantics.UNARY_FUNCTIONS | {
    "neg": lambda x: x * -1.0,  # Triton's is 0 - x, which makes no -0
    "sign": _sign,
}
_UNARY_ORDER = (*_UNARY_FUNCTIONS, "clip", "drop")
_UNARY_INDEX = tuple(_UNARY_ORDER.index(name) for name, _ in UNARY_TOKENS.values())


def _uniform(key0: jax.Array, key1: jax.Array, index: jax.Array) -> jax.Array:
    """Return the entries at an index of `jax.random.uniform` of shape `[D]`."""
    high, low = _threefry(key0, key1, index.astype(jnp.uint32))
    mantissa = jax.lax.shift_right_logical(high ^ low, np.uint32(9))
    one = np.float32(1).view(np.uint32)
    return jax.lax.bitcast_convert_type(mantissa | one, jnp.float32) - 1.0


def _normal(key0: jax.Array, key1: jax.Array, index: jax.Array) -> jax.Array:
    """Return the entries at an index of `jax.random.normal` of shape `[D]`."""
    least = np.nextafter(np.float32(-1), np.float32(0))
    u = _uniform(key0, key1, index) * (np.float32(1) - least) + least
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(jnp.maximum(u, least))


def _threefry(key0: jax.Array, key1: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return threefry2x32 of the counter (0, low), with a key of two scalars.

    JAX has it as a primitive that Pallas does not lower (Salmon et al., 2011, "Parallel random
    numbers: as easy as 1, 2, 3").
    """
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    x, y = jnp.full_like(low, key0), low + key1
    for group in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            left = jax.lax.shift_left(y, np.uint32(rotation))
            y = x ^ (left | jax.lax.shift_right_logical(y, np.uint32(32 - rotation)))
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y

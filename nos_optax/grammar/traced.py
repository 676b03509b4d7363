"""The traced evaluator: a program as data, so that one compiled step serves every rule.

A token picks a branch of `lax.switch` and a parameter out of a table. Outside `vmap` the switch is
a real branch, and only what the program uses is computed; inside, it is a select over the whole
vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.grammar import semantics
from nos_optax.grammar.encoding import operand_expressions
from nos_optax.grammar.expression import (
    COMMUTATIVE,
    Binary,
    Constant,
    Expression,
    Operand,
    mix,
    mix_binary,
    structural_hash,
    unary_hash,
    word_hash,
)
from nos_optax.grammar.semantics import B1, B2, B3
from nos_optax.grammar.vocabulary import BINARY, OPERANDS, UNARY, UNARY_TOKENS


class ProgramState(NamedTuple):
    """State of a traced rule: all three moving averages, because any program may come."""

    count: jax.Array  # int32 []
    mu: jax.Array  # [D], moving average of g
    nu: jax.Array  # [D], of g^2
    gamma: jax.Array  # [D], of g^3


def init_program_state(params: jax.Array) -> ProgramState:
    """Return the state before the first step of parameters `[D]`."""
    zeros = jnp.zeros_like(params)
    return ProgramState(jnp.zeros([], jnp.int32), zeros, zeros, zeros)


def apply_program(
    program: jax.Array,
    streams: jax.Array,
    state: ProgramState,
    g: jax.Array,
    w: jax.Array,
    total_steps: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, ProgramState]:
    """Return the rule's value at one step, as `scale_by_rule` would for a single parameter array.

    Args:
        program: `int32[G, 5]`.
        streams: `uint32[G, 2]`, `program_streams(program)`: computed once, as a program stays the
            same.
        state: The state before the step.
        g: Gradient `[D]`, float32 or float64.
        w: Parameters `[D]`.
        total_steps: T of the decays, `[]`.
        key: PRNG key of the run.

    Returns:
        The update `[D]`, before the learning rate, and the next state.
    """
    count = state.count + 1
    mu = semantics.moving_average(state.mu, g, B1)
    nu = semantics.moving_average(state.nu, jax.lax.integer_pow(g, 2), B2)
    gamma = semantics.moving_average(state.gamma, jax.lax.integer_pow(g, 3), B3)
    operands = _Operands(
        g=g,
        m=mu / semantics.bias_correction(B1, count, g.dtype),
        v=nu / semantics.bias_correction(B2, count, g.dtype),
        gamma=gamma / semantics.bias_correction(B3, count, g.dtype),
        w=w,
        t=state.count,
        total_steps=total_steps,
        key=semantics.stream_key(key, state.count, 0),
    )
    return _evaluate(program, streams, operands), ProgramState(count, mu, nu, gamma)


class _Operands(NamedTuple):
    g: jax.Array
    m: jax.Array
    v: jax.Array
    gamma: jax.Array
    w: jax.Array
    t: jax.Array
    total_steps: jax.Array
    key: jax.Array


def _evaluate(program: jax.Array, streams: jax.Array, operands: _Operands) -> jax.Array:
    def iteration(results, step):
        k, (op1, op2, u1, u2, b), stream = step
        x = _unary(u1, _operand(op1, operands, results), stream[0], operands.key)
        y = _unary(u2, _operand(op2, operands, results), stream[1], operands.key)
        value = jax.lax.switch(b, _BINARY_BRANCHES, x, y)
        return results.at[k].set(value), None

    iterations = program.shape[0]
    results = jnp.zeros((iterations, *operands.g.shape), operands.g.dtype)
    # A scan, not an unrolled loop: the branches are compiled once for all iterations.
    results, _ = jax.lax.scan(
        iteration, results, (jnp.arange(iterations), tuple(program.T), streams)
    )
    return results[-1]


def _operand(token: jax.Array, operands: _Operands, results: jax.Array) -> jax.Array:
    """Return the value of an operand token: `[D]`."""
    g, m, v, gamma, w, t, total_steps, key = operands
    row = jnp.minimum(token, len(OPERANDS))
    parameter = jnp.asarray(_OPERAND_PARAMETER, g.dtype)[row]

    def decay():
        values = [semantics.decay(e.name, e.n, t, total_steps, g.dtype) for e in _DECAYS]
        return jnp.full_like(g, jnp.stack(values)[parameter.astype(int)])

    def draw(name):
        return jax.random.fold_in(key, np.uint32(word_hash(name))), g.shape, g.dtype

    branches: dict[str, Callable[[], jax.Array]] = {
        "g": lambda: g,
        "g^2": lambda: jax.lax.integer_pow(g, 2),
        "g^3": lambda: jax.lax.integer_pow(g, 3),
        "m": lambda: m,
        "v": lambda: v,
        "gamma": lambda: gamma,
        "sign(g)": lambda: jnp.sign(g),
        "sign(m)": lambda: jnp.sign(m),
        "constant": lambda: jnp.full_like(g, parameter),
        "noise": lambda: semantics.noise(*draw("noise")),
        "scaled w": lambda: parameter * w,
        "adam": lambda: semantics.divide(m, jnp.sqrt(v)),
        "rmsprop": lambda: semantics.divide(g, jnp.sqrt(v)),
        "decay": decay,
        "annealed_noise": lambda: semantics.annealed_noise(*draw("annealed_noise"), t),
        "result": lambda: results[token - len(OPERANDS)],
    }
    order = list(branches)
    index = jnp.array([order.index(name) for name in _OPERAND_BRANCH])[row]
    return jax.lax.switch(index, list(branches.values()))


_DECAYS = tuple(
    e for e in operand_expressions() if isinstance(e, Operand) and e.name in ("ld", "cd", "rd")
)


def _operand_row(word: str, e: Expression) -> tuple[str, float]:
    """Return the branch and the parameter of an operand token."""
    match e:
        case Constant(value):
            return "constant", value
        case Binary("*", Constant(c), Operand("w")):
            return "scaled w", c
        case Operand() if e in _DECAYS:
            return "decay", _DECAYS.index(e)
        case _:
            return word, 0.0


# One row a token, and a last one for the results of earlier iterations.
_OPERAND_BRANCH, _OPERAND_PARAMETER = zip(
    *map(_operand_row, OPERANDS, operand_expressions()), ("result", 0.0), strict=True
)


def _unary(token: jax.Array, x: jax.Array, stream: jax.Array, key: jax.Array) -> jax.Array:
    """Return a unary token's function of x: `[D]`."""
    parameter = jnp.asarray(_UNARY_PARAMETER, x.dtype)[token]
    branches = semantics.UNARY_FUNCTIONS | {
        "clip": lambda x: semantics.clip(x, parameter),
        "drop": lambda x: semantics.drop(jax.random.fold_in(key, stream), x, parameter),
    }
    order = list(branches)
    index = jnp.array([order.index(name) for name, _ in UNARY_TOKENS.values()])[token]
    return jax.lax.switch(index, list(branches.values()), x)


_UNARY_PARAMETER = tuple(parameter or 0.0 for _, parameter in UNARY_TOKENS.values())

_BINARY_BRANCHES = [
    (lambda x, y: x) if word == "left" else semantics.BINARY_FUNCTIONS[word] for word in BINARY
]


def program_streams(program: jax.Array) -> jax.Array:
    """Return the structural hash after each unary function of a program.

    It equals `structural_hash` of the tree that the program decodes to, so that both evaluators
    draw the same numbers.

    Args:
        program: `int32[G, 5]`.

    Returns:
        `uint32[G, 2]`.
    """
    operand_hash = jnp.array([structural_hash(e) for e in operand_expressions()], jnp.uint32)
    unary_table = jnp.array([unary_hash(*row) for row in UNARY_TOKENS.values()], jnp.uint32)
    binary_table = jnp.array([word_hash(word) for word in BINARY], jnp.uint32)
    commutative = jnp.array([word in COMMUTATIVE for word in BINARY], jnp.uint32)

    bank, streams = operand_hash, []
    for op1, op2, u1, u2, b in program:
        x, y = (
            jnp.where(u == UNARY.index("x"), bank[op], mix(bank[op], unary_table[u]))
            for op, u in ((op1, u1), (op2, u2))
        )
        value = mix_binary(x, y, binary_table[b], commutative[b])
        bank = jnp.append(bank, jnp.where(b == BINARY.index("left"), x, value))
        streams.append(jnp.stack([x, y]))
    return jnp.stack(streams)

"""One meaning, three evaluators: static, traced, and float64 NumPy written apart from them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_rules
import optax
import pytest

import nos_optax
from nos_optax.grammar import (
    BINARY,
    OPERANDS,
    UNARY,
    Program,
    apply_program,
    decode,
    init_program_state,
    program_streams,
    scale_by_rule,
)
from nos_optax.grammar.expression import structural_hash
from nos_optax.grammar.program import tables

TOTAL_STEPS = STEPS = 3
SIZE = 24
KEY = 7


def random_programs(count, iterations, seed=0):
    """Return `int32[count, iterations, 5]`, tokens uniform over the whole vocabulary."""
    rng = np.random.default_rng(seed + iterations)
    columns = [
        rng.integers(len(table), size=count) for k in range(iterations) for table in tables(k)
    ]
    return np.stack(columns, axis=1).reshape(count, iterations, 5).astype(np.int32)


@functools.cache
def trajectory():
    """Return gradients and weights `[STEPS, SIZE]` with zeros, tiny and large numbers."""
    rng = np.random.default_rng(0)
    sizes = [0.0, 0.0, 1e-30, 1e-12, 1e-8, 1e-5, 1e-3, 0.1, 1.0, 2.0, 30.0, 1e5]
    scale = np.array(sizes + sizes)
    gradients = scale * rng.normal(size=(STEPS, SIZE))
    gradients[1, 8:12] = 0.0  # a zero beside averages that are not
    weights = rng.normal(size=(STEPS, SIZE)) * rng.permutation(scale)
    return gradients, weights


def static_updates(rule, dtype):
    """Return the updates `[STEPS, SIZE]` of `scale_by_rule`, without jit."""
    gradients, weights = (x.astype(dtype) for x in trajectory())
    tx = scale_by_rule(rule, total_steps=TOTAL_STEPS, key=KEY)
    state, updates = tx.init(jnp.asarray(gradients[0])), []
    for g, w in zip(gradients, weights, strict=True):
        update, state = tx.update(jnp.asarray(g), state, jnp.asarray(w))
        updates.append(np.asarray(update))
    return np.stack(updates)


@jax.jit
def _traced_updates(program, gradients, weights):
    streams = program_streams(program)

    def step(state, inputs):
        g, w = inputs
        update, state = apply_program(
            program, streams, state, g, w, jnp.int32(TOTAL_STEPS), jax.random.key(KEY)
        )
        return state, update

    return jax.lax.scan(step, init_program_state(gradients[0]), (gradients, weights))[1]


def traced_updates(program, dtype):
    gradients, weights = (jnp.asarray(x.astype(dtype)) for x in trajectory())
    return np.asarray(_traced_updates(jnp.asarray(program), gradients, weights))


@functools.cache
def _draw(kind, step, stream):
    """Draw what a random subexpression sees: the key is folded with count, array and subexpression."""
    key = jax.random.key(KEY)
    for number in (step, 0, stream):
        key = jax.random.fold_in(key, number)
    return np.asarray(kind(key, (SIZE,), jnp.float64))


def numpy_updates(rule):
    """Return the updates and their bounds, `[STEPS, SIZE]` each."""
    gradients, weights = trajectory()
    results = []
    for t, moments in enumerate(numpy_rules.averages(gradients)):
        inputs = numpy_rules.Inputs(
            numpy_rules.exact(gradients[t]),
            *moments,
            w=numpy_rules.exact(weights[t]),
            t=t,
            total_steps=TOTAL_STEPS,
            normal=lambda e, t=t: _draw(jax.random.normal, t, structural_hash(e)),
            uniform=lambda e, t=t: _draw(jax.random.uniform, t, structural_hash(e)),
        )
        results.append(numpy_rules.evaluate(rule.expression, inputs))
    return np.stack([r.value for r in results]), np.stack([r.error for r in results])


def agree(a, b, bound):
    """Whether entries are equal, nan and infinities too, or within the bound."""
    with np.errstate(invalid="ignore"):
        return (a == b) | (np.isnan(a) & np.isnan(b)) | (abs(a - b) <= bound) | np.isinf(bound)


def assert_evaluators_agree(count):
    entries = excused = 0
    with jax.enable_x64(True):
        for iterations in (1, 2, 3, 4):
            for program in random_programs(count // 4, iterations):
                rule = decode(program)
                static = static_updates(rule, np.float64)
                traced = traced_updates(program, np.float64)
                value, bound = numpy_updates(rule)
                for name, other in (("static", static), ("traced", traced)):
                    wrong = ~agree(other, value, bound)
                    assert not wrong.any(), (
                        f"{name} {Program.from_array(program)}: {rule} at {np.argwhere(wrong)[0]}: "
                        f"{other[wrong][0]} is not {value[wrong][0]} within {bound[wrong][0]}"
                    )
                with np.errstate(invalid="ignore"):
                    loose = ~(bound <= 1e-6 * (1 + abs(value))) & ~np.isnan(value)
                    loose &= bound > 0
                entries += value.size
                excused += loose.sum()
    print(f"excused {excused} of {entries} entries, {excused / entries:.3%}")
    assert excused < 0.005 * entries


def test_static_traced_and_numpy_agree():
    assert_evaluators_agree(200)


@pytest.mark.slow
def test_static_traced_and_numpy_agree_on_2000_programs():
    assert_evaluators_agree(2000)

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
    """Draw as documented: the key is folded with the count, the array and the subexpression."""
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
    assert_evaluators_agree(100)


@pytest.mark.slow
def test_static_traced_and_numpy_agree_on_many_programs():
    assert_evaluators_agree(800)


@pytest.mark.slow
def test_static_and_traced_agree_in_float32():
    wrong = entries = 0
    for iterations in (1, 2, 3, 4):
        for program in random_programs(15, iterations, seed=100):
            static = static_updates(decode(program), np.float32)
            traced = traced_updates(program, np.float32)
            with np.errstate(invalid="ignore"):
                wrong += (~agree(static, traced, 1e-4 * abs(static) + 1e-30)).sum()
            entries += static.size
    # Some rules ask for the sign of a rounding error, which jit makes another.
    assert wrong < 0.01 * entries


# Numbers by hand


def updates_of(tx, gradients, params=None):
    state = tx.init(jnp.zeros_like(jnp.asarray(gradients[0])) if params is None else params)
    results = []
    for g in gradients:
        update, state = tx.update(jnp.asarray(g), state, params)
        results.append(np.asarray(update))
    return np.stack(results)


GRADIENTS = np.array([[1.0, -2.0, 0.0], [0.5, 3.0, 0.0], [-1.0, 0.25, 4.0]], np.float32)


def test_adam_is_optax_adam():
    ours = updates_of(scale_by_rule("adam"), GRADIENTS)
    theirs = updates_of(optax.scale_by_adam(eps=1e-8, eps_root=0.0), GRADIENTS)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    spelled_out = updates_of(scale_by_rule("m / sqrt(v)"), GRADIENTS)
    np.testing.assert_allclose(spelled_out, ours, rtol=1e-6)


def test_rmsprop_with_bias_correction():
    ours = updates_of(scale_by_rule("rmsprop", b2=0.5), GRADIENTS)[:, 0]
    # v: 0.5 1, 0.5 0.5 + 0.5 0.25, 0.5 0.375 + 0.5 1; corrected by 1/2, 3/4, 7/8.
    v = np.array([0.5 / 0.5, 0.375 / 0.75, 0.6875 / 0.875])
    np.testing.assert_allclose(ours, GRADIENTS[:, 0] / np.sqrt(v), rtol=1e-6)


def test_third_moment():
    ours = updates_of(scale_by_rule("gamma", b3=0.5), GRADIENTS)[:, 1]
    third = [-8 * 0.5 / 0.5, (-4 * 0.5 + 27 * 0.5) / 0.75, (11.5 * 0.5 + 0.5 / 64) / 0.875]
    np.testing.assert_allclose(ours, third, rtol=1e-6)


def test_powersign_is_powersign():
    ours = updates_of(scale_by_rule("exp(sign(g) * sign(m)) * g"), GRADIENTS)
    e = np.e
    by_hand = [[e, -2 * e, 0], [0.5 * e, 3 * e, 0], [-1 / e, 0.25 * e, 4 * e]]
    np.testing.assert_allclose(ours, by_hand, rtol=1e-6)
    theirs = updates_of(nos_optax.scale_by_powersign(), GRADIENTS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_decays_over_a_run():
    ones = np.ones((6, 1), np.float32)
    values = {
        "ld * g": [1, 0.75, 0.5, 0.25, 0, 0],
        "cd * g": [1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2, 0, 0],
        "cd(1) * g": [1, 0.5, 0, 0.5, 1, 1],
        "rd(2) * g": [1, 0.5, 1, 0.5, 1, 1],
        "rd(1) * g": [1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2, 1, 1],
    }
    for text, expected in values.items():
        ours = updates_of(scale_by_rule(text, total_steps=4), ones)[:, 0]
        np.testing.assert_allclose(ours, expected, atol=1e-6, err_msg=text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sign(g)", [1, -1, 0]),
        ("1 / g", [1 / (2 + 1e-8), 1 / (-2 + 1e-8), 1e8]),
        ("log(g)", [np.log(2), np.log(2), -np.inf]),
        ("sqrt(g)", [np.sqrt(2), np.sqrt(2), 0]),
        ("g^3", [8, -8, 0]),
        ("g^(-1)", [0.5, -0.5, np.inf]),
        ("g^0.5", [np.sqrt(2), np.nan, 0]),
        ("2^g", [4, 0.25, 1]),
        ("clip(g, 1.5)", [1.5, -1.5, 0]),
        ("sigmoid(g)", [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2)), 0.5]),
        ("drop(g, 0)", [2, -2, 0]),
        ("0.1 * w - g", [-1.9, 2.1, 0.1]),
        ("3", [3, 3, 3]),
    ],
)
def test_functions(text, expected):
    g = np.array([[2.0, -2.0, 0.0]], np.float32)
    ours = updates_of(scale_by_rule(text), g, params=jnp.ones(3))[0]
    np.testing.assert_allclose(ours, np.array(expected, np.float32), rtol=1e-6, atol=1e-7)


# Randomness

MANY = 200_000


def draws(text, steps=1, **kwargs):
    """Return `[steps, MANY]` values of a rule at gradients of ones."""
    return updates_of(scale_by_rule(text, **kwargs), np.ones((steps, MANY), np.float32))


def test_noise_has_variance_one_hundredth():
    x = draws("noise")[0]
    assert abs(x.mean()) < 1e-3
    np.testing.assert_allclose(x.var(), 0.01, rtol=0.02)


def test_annealed_noise_has_variance_that_falls():
    x = draws("annealed_noise", steps=4)
    np.testing.assert_allclose(x.var(axis=1), 1 / np.arange(1.0, 5.0) ** 0.55, rtol=0.02)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_drop_sets_to_zero_and_does_not_rescale(rate):
    x = draws(f"drop(3 * g, {rate})")[0]
    assert set(np.unique(x)) == {0.0, 3.0}
    np.testing.assert_allclose((x == 0).mean(), rate, atol=0.005)


def test_the_same_subexpression_is_the_same_draw():
    assert not draws("noise - noise").any()
    assert not draws("drop(g * m, 0.5) - drop(m * g, 0.5)").any()
    assert not (draws("drop(g, 0.5) * (1 - drop(g, 0.5))")).any()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("noise", "annealed_noise"),
        ("drop(g, 0.5)", "drop(m, 0.5)"),
        ("drop(g, 0.5)", "drop(g, 0.3)"),
        ("drop(2 * g - m, 0.5)", "drop(m - 2 * g, 0.5)"),
        ("noise", "drop(g, 0.5)"),
    ],
)
def test_different_subexpressions_are_independent(one, other):
    assert abs(np.corrcoef(draws(one)[0], draws(other)[0])[0, 1]) < 0.01


def test_nested_drops_are_independent():
    np.testing.assert_allclose(draws("drop(drop(g, 0.5), 0.5)").mean(), 0.25, atol=0.005)


def test_steps_arrays_and_keys_have_independent_draws():
    first, second = draws("noise", steps=2)
    other = draws("noise", key=1)[0]
    tx = scale_by_rule("noise")
    pair = (jnp.ones(MANY), jnp.ones(MANY))
    a, b = tx.update(pair, tx.init(pair))[0]
    np.testing.assert_array_equal(a, first)
    for x in (second, other, np.asarray(b)):
        assert abs(np.corrcoef(first, x)[0, 1]) < 0.01

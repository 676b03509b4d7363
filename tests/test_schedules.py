"""The schedules against their formulas, in exact arithmetic where they could round."""

import json
import math
import pathlib
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nos_optax.schedules import (
    cyclical_cosine,
    cyclical_decay,
    linear_cosine,
    linear_decay,
    noisy_linear_cosine,
    restart_cosine,
    restart_decay,
)

GOLDEN = pathlib.Path(__file__).parents[2] / "shared" / "golden" / "schedules.json"
FACTORIES = [linear_cosine, noisy_linear_cosine, cyclical_cosine, restart_cosine]

each_factory = pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)


def exact_decays(t, T, n):
    """Return ld, cd_n and rd_n with exact phases."""
    t = min(int(t), T)
    cycles = Fraction(n) * t / T
    cd = (1 + math.cos(2 * math.pi * float(cycles % 1))) / 2
    rd = (1 + math.cos(math.pi * float(cycles % 1))) / 2
    return float(1 - Fraction(t, T)), cd, rd


@jax.jit
def decays(t, T, n):
    return linear_decay(t, T), cyclical_decay(t, T, n), restart_decay(t, T, n)


@pytest.mark.parametrize("T", [1, 23, 1000, 49_999, 10_000_000, 2**24 + 1, 2**30])
@pytest.mark.parametrize("n", [0.5, 1, 3, 7, 20, 2.5, 11.25, 4097])
def test_decays_have_exact_phases(T, n):
    restarts = [T * k // math.ceil(n) for k in range(min(math.ceil(n), 50))]
    counts = [0, 1, T // 3, T // 2, T - 1, T, T + 5, *restarts, *(r + 1 for r in restarts)]
    counts = np.resize(np.array(counts, np.int32), 128)  # one shape: one compile
    expected = np.transpose([exact_decays(t, T, n) for t in counts])
    np.testing.assert_allclose(decays(counts, T, n), expected, rtol=0, atol=5e-7)


def test_the_last_steps_do_not_cancel():
    t, T = 9_999_999, 10_000_000
    assert linear_decay(t, T) == np.float32(1e-7)
    # Of the size of the true 2.5e-14: half a cosine plus a half would have an error of 6e-8 here.
    assert 0 < cyclical_decay(t, T, 0.5) < 1e-13


@pytest.mark.parametrize("n", [1, 2, 3, 10, 20, 1000])
def test_whole_numbers_of_restarts_end_at_one(n):
    for T in (1, 7, 1000, 10_000_000, 2**30):
        assert decays(T, T, n)[2] == decays(T + 9, T, n)[2] == 1


def test_horizons_may_be_floats():
    np.testing.assert_allclose(decays(25, 100.0, 0.5), exact_decays(25, 100, 0.5), rtol=1e-6)


def test_values():
    """Hand-computed: (1 + cos(pi/4))/2 = 0.8535534 and its mirror image 0.1464466."""
    counts = jnp.array([0, 25, 50, 75, 100, 250])
    linear = linear_cosine(2.0, 100, alpha=0.5, beta=0.25)
    expected = [3.5, 2 * (1.25 * 0.8535534 + 0.25), 1.5, 2 * (0.75 * 0.1464466 + 0.25), 0.5, 0.5]
    np.testing.assert_allclose(linear(counts), expected, rtol=1e-6)
    np.testing.assert_allclose(cyclical_cosine(2.0, 100, 2)(counts), [2, 0, 2, 0, 2, 2], atol=1e-6)
    np.testing.assert_allclose(restart_cosine(2.0, 100, 2)(counts), [2, 1, 2, 1, 2, 2], atol=1e-6)


# zero_after: the decays of the sign term that TensorFlow 1 had in contrib/opt.


def tensorflow_decay(factory, counts, T, n, zero_after):
    """Return get_cosine_decay_fn or get_restart_decay_fn, by its formulas, and where it is cut.

    In double precision, and the comparison in exact fractions of the decimal numbers: TensorFlow
    compares in float32, which may miss a boundary by a rounding.
    """
    t = np.minimum(counts, T)
    phase = 2 * n * (t / T) if factory is cyclical_cosine else n * t % T / T
    over = [Fraction(str(n)) * int(t) / T >= Fraction(str(zero_after)) for t in t]
    return np.where(over, 0.0, 0.5 * (1 + np.cos(np.pi * phase))), np.array(over)


each_cut = pytest.mark.parametrize("factory", [cyclical_cosine, restart_cosine])
each_boundary = pytest.mark.parametrize(
    ("T", "n", "zero_after"),
    [
        (1000, 0.5, 0.25),  # at count 500
        (1000, 5, 2),  # at 400, as in TensorFlow's own test
        (1000, 0.1, 0.05),  # at 500; in binary, neither number is what it says
        (1000, 0.3, 0.09),  # at 300; 0.09 / 0.3 * 1000 is 300.00000000000006 in double precision
        (100, 20, 7),  # at 35
        (7, 3, 3),  # at the horizon
        (7, 3, 1.5),  # between 3 and 4
        (7, 2.5, 0.7),  # between 1 and 2
        (50, 4, 4.01),  # beyond the horizon: never
        (50, 0.5, 0),  # from the first count on
        (50, 0, 1),  # never, as no period passes
    ],
)


COUNTS = np.arange(1006)  # one shape: one compile


@partial(jax.jit, static_argnames="factory")
def traced_cut(factory, counts, T, n, zero_after):
    return factory(2.0, T, n, zero_after=zero_after)(counts)


@each_cut
@each_boundary
def test_zero_after_counts_periods_as_tensorflow_does(factory, T, n, zero_after):
    expected, over = tensorflow_decay(factory, COUNTS, T, n, zero_after)
    for values in (
        factory(2.0, T, n, zero_after=zero_after)(COUNTS),
        traced_cut(factory, COUNTS, T, float(n), float(zero_after)),
    ):
        np.testing.assert_allclose(values, 2 * expected, atol=2e-6)
        assert (values[over] == 0).all()


@each_cut
def test_zero_after_under_vmap(factory):
    after = jnp.array([0, 0.25, 2, jnp.inf])
    values = jax.vmap(lambda x: factory(2.0, 1000, 5, zero_after=x)(COUNTS))(after)
    for row, x in zip(values, after, strict=True):
        np.testing.assert_array_equal(row, factory(2.0, 1000, 5, zero_after=float(x))(COUNTS))


@each_cut
@pytest.mark.parametrize(("T", "n"), [(7, 3), (49, 0.1), (999, 17.7), (12_345, 0.5), (12_345, 3)])
def test_no_boundary_is_missed_by_a_rounding(factory, T, n):
    """Zero from the count on at which the periods are over, and not one count before."""
    whole = factory(2.0, T, n)
    for t in np.unique(np.linspace(1, T, 12).astype(int)):
        periods = float(Fraction(str(n)) * int(t) / T)
        counts = np.array([t - 1, t])
        expected = [whole(counts)[0], 0]
        np.testing.assert_array_equal(factory(2.0, T, n, zero_after=periods)(counts), expected)
        traced = traced_cut(factory, counts, T, float(n), periods)
        np.testing.assert_allclose(traced, expected, atol=2e-6)
        assert traced[1] == 0


@each_cut
def test_zero_after_is_exact_for_long_horizons(factory):
    T = 2**30
    cut, whole = factory(1.0, T, 3, zero_after=1 / 3), factory(1.0, T, 3)
    boundary = math.ceil(T / 9)  # float32 has steps of 8 there
    assert cut(boundary) == 0 != cut(boundary - 1) == whole(boundary - 1)


@each_cut
@pytest.mark.parametrize("zero_after", [-1, -0.5, float("nan"), np.float32("nan")])
def test_other_numbers_of_periods_are_refused(factory, zero_after):
    with pytest.raises(
        ValueError, match=r"zero_after is .* a number of periods, .* not count steps"
    ):
        factory(0.5, 10, zero_after=zero_after)


@each_cut
@pytest.mark.parametrize("zero_after", [True, np.bool_(False), jnp.array(True), "2"])
def test_other_things_than_periods_are_refused(factory, zero_after):
    with pytest.raises(
        TypeError, match=r"zero_after is .* a number of periods, .* not count steps"
    ):
        factory(0.5, 10, zero_after=zero_after)


@each_factory
@pytest.mark.parametrize("x64", [False, True])
def test_counts_of_every_type(factory, x64):
    with jax.enable_x64(x64):
        schedule = factory(0.5, 10)
        values = [schedule(count) for count in (3, np.int64(3), np.array(3), jnp.uint32(3))]
        values += [jax.jit(schedule)(count) for count in (jnp.int32(3), jnp.float32(3))]
        for value in values:
            assert isinstance(value, jax.Array)
            assert value.shape == ()
            assert value.dtype == (jnp.float64 if x64 else jnp.float32)
            np.testing.assert_allclose(value, values[0], atol=1e-7)


@each_factory
def test_vectors_of_counts(factory):
    schedule = factory(0.5, 10)
    expected = jnp.stack([schedule(count) for count in range(12)])
    np.testing.assert_allclose(schedule(jnp.arange(12)), expected, atol=1e-7)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(12)), expected, atol=1e-7)


@each_factory
def test_traced_hyperparameters(factory):
    traced = jax.jit(lambda init, steps, n: factory(init, steps, num_periods=n)(3))
    np.testing.assert_allclose(traced(0.5, 10, 2.0), factory(0.5, 10, 2.0)(3), atol=1e-7)


@each_factory
def test_whole_floats_are_steps(factory):
    assert factory(0.5, 1e4)(9_999) == factory(0.5, 10_000)(9_999)


@each_factory
@pytest.mark.parametrize("steps", [0, -3, 2.5, float("nan"), np.int64(0), 2**30 + 1])
def test_other_steps_are_refused(factory, steps):
    with pytest.raises(ValueError, match=r"decay_steps is .* pass the number of optimizer updates"):
        factory(0.5, steps)


@each_factory
def test_building_a_schedule_starts_no_backend(factory, monkeypatch):
    monkeypatch.setattr(jax.random, "key", lambda seed: pytest.fail("made a key too early"))
    factory(0.5, 10)


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@each_factory
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("x64", [False, True])
def test_any_integer_is_a_count(factory, dtype, x64):
    """Below 0 it is 0. A narrow integer does not wrap around, a wide one does not lose digits."""
    kinds = np.iinfo(dtype)
    counts = [c for c in (kinds.min, -1, 0, 100, kinds.max) if kinds.min <= c <= kinds.max]
    with jax.enable_x64(x64):
        schedule = factory(0.5, 1000)
        for count in counts:
            expected = float(schedule(max(0, min(count, 2**30))))
            assert math.isfinite(expected)
            assert float(schedule(np.dtype(dtype).type(count))) == expected
            assert float(schedule(np.array(count, dtype))) == expected
            assert float(schedule(count)) == expected
            if x64 or kinds.bits < 64:
                assert float(schedule(jnp.array(count, dtype))) == expected


@each_factory
@pytest.mark.parametrize("wrap", ["join", "where", "cond"])
@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_derivatives_are_finite_in_branches_that_are_not_taken(factory, wrap, dtype):
    def value(init_value, num_periods, count):
        schedule = factory(init_value, 100, num_periods=num_periods)
        if wrap == "join":
            return optax.join_schedules([optax.constant_schedule(init_value), schedule], [7])(count)
        if wrap == "where":
            return jnp.where(count < 7, init_value, schedule(count - 7))
        return jax.lax.cond(count < 7, lambda _: init_value, schedule, count - 7)

    counts = jnp.array([-128, -1, 0, 6, 7, 8, 107, 127], dtype)
    slopes = jax.vmap(jax.grad(value, (0, 1)), (None, None, 0))(0.5, 0.5, counts)
    assert all(jnp.isfinite(x).all() for x in slopes)


@pytest.mark.parametrize("initial_variance", [0.0, 1e-30, 1.0])
@pytest.mark.parametrize("variance_decay", [0.0, 0.55, 50.0])
def test_derivatives_by_the_variance_are_finite(initial_variance, variance_decay):
    def value(variance, decay, count):
        return noisy_linear_cosine(0.5, 100, initial_variance=variance, variance_decay=decay)(count)

    counts = jnp.array([-5, 0, 1, 99, 500])
    slopes = jax.vmap(jax.grad(value, (0, 1)), (None, None, 0))(
        initial_variance, variance_decay, counts
    )
    assert all(jnp.isfinite(x).all() for x in slopes)
    quiet = noisy_linear_cosine(0.5, 100, initial_variance=0.0)
    np.testing.assert_allclose(quiet(counts), linear_cosine(0.5, 100, beta=0.001)(counts))


@each_factory
@pytest.mark.parametrize("kind", [np.array, np.int16, np.float32, jnp.asarray, jnp.bfloat16])
@pytest.mark.parametrize("steps", [0, -5, 2.5])
def test_concrete_arrays_are_checked_like_numbers(factory, kind, steps):
    with pytest.raises(ValueError, match=r"decay_steps is .*, but must be a whole number"):
        factory(0.5, kind(steps) if kind is not np.int16 else np.int16(-abs(int(steps))))
    with pytest.raises(ValueError, match="init_value is nan"):
        factory(np.asarray(np.nan) if kind is np.int16 else kind(np.nan), 10)
    assert factory(0.5, kind(10))(3) == factory(0.5, 10)(3)


@pytest.mark.parametrize("variance", [-1.0, np.array(-1e-9), jnp.float32(-2)])
def test_a_variance_is_not_negative(variance):
    with pytest.raises(ValueError, match=r"initial_variance is .*, but must be .* 0 or more"):
        noisy_linear_cosine(0.5, 10, initial_variance=variance)


def test_tensorflow_golden_values():
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is absent")
    for case in json.loads(GOLDEN.read_text())["deterministic"]:
        schedule = linear_cosine(case["learning_rate"], **case["kwargs"])
        values = schedule(jnp.array(case["steps"]))
        np.testing.assert_allclose(values, case["values_f32"], rtol=2e-7, atol=2e-7)


# The noise: eps_t is read off a schedule without decay, whose cosine has no periods.


def noise(count, **kwargs):
    schedule = noisy_linear_cosine(1.0, 1000, num_periods=0, beta=0.0, **kwargs)
    return schedule(count) - linear_decay(count, 1000)


def test_noise_composes_as_in_tensorflow():
    count, T, n = 300, 1000, 2.5
    schedule = noisy_linear_cosine(2.0, T, n, alpha=0.1, beta=0.01)
    ld, cd, _ = exact_decays(count, T, n)
    expected = 2.0 * ((0.1 + ld + float(noise(count))) * cd + 0.01)
    np.testing.assert_allclose(schedule(count), expected, rtol=1e-5)


def test_noise_is_a_pure_function_of_key_and_count():
    schedule = noisy_linear_cosine(0.5, 1000)
    unbroken = [float(schedule(count)) for count in range(6)]
    resumed = noisy_linear_cosine(0.5, 1000, key=jax.random.key(0))
    assert [float(resumed(count)) for count in (3, 4, 5)] == unbroken[3:]
    assert len(set(unbroken)) == 6


def test_keys():
    typed, legacy = jax.random.key(7), jax.random.PRNGKey(7)
    assert noise(5, key=typed) == noise(5, key=legacy)
    assert noise(5, key=typed) != noise(5)


@jax.jit
def noise_of_keys(keys, count):
    return jax.vmap(lambda key: noise(count, initial_variance=2.0, key=key))(keys)


@pytest.mark.parametrize(("count", "at"), [(0, 0), (99, 99), (1000, 1000), (50_000, 1000)])
def test_variance_of_the_noise(count, at):
    """Of 4,000 draws, the sample variance is within 10% (4.5 deviations) of the true one."""
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = noise_of_keys(keys, count)
    variance = 2.0 / (1 + at) ** 0.55
    assert abs(draws.var() / variance - 1) < 0.1
    assert abs(draws.mean()) < 4.5 * math.sqrt(variance / 4000)


def test_noise_is_white_over_counts():
    draws = noise(jnp.arange(4000), variance_decay=0.0)
    assert abs(draws.var() - 1) < 0.1
    assert abs((draws[1:] * draws[:-1]).mean()) < 4.5 / math.sqrt(4000)


@each_factory
def test_in_an_optax_pipeline(factory):
    tx = optax.chain(optax.sgd(1.0), optax.scale_by_schedule(factory(0.1, 10)))
    w = jnp.array([1.0, -2.0])
    updates, state = jax.jit(tx.update)(w, tx.init(w))
    np.testing.assert_allclose(updates, -factory(0.1, 10)(0) * w, rtol=1e-6)
    updates, _ = jax.jit(tx.update)(w, state)
    np.testing.assert_allclose(updates, -factory(0.1, 10)(1) * w, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("periods", [0.5, 3.7])
def test_counts_in_half_precision_beside_a_long_horizon(dtype, periods):
    horizon, count = 2**30, dtype(60000)
    for schedule in (
        linear_cosine(0.1, horizon, num_periods=periods),
        noisy_linear_cosine(0.1, horizon, num_periods=periods),
        cyclical_cosine(0.1, horizon, num_periods=periods),
    ):
        value = schedule(count)
        assert jnp.isfinite(value)
        np.testing.assert_allclose(value, schedule(jnp.float32(count)), rtol=1e-6)

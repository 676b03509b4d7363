"""The tuning of rivals: equal budgets, fresh seeds, nothing trained twice, killed and resumed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import tuning
from harness.tuning import (
    HALF_DECADES,
    SCHEDULES,
    Rival,
    Settings,
    Training,
    best_setting,
    compare,
    next_rates,
)
from rich.progress import Progress

from nos_optax.compare.records import Records
from nos_optax.population import PartLoop, Task, TaskLoop

RIVALS = (Rival("SGD", "g"), Rival("SGD, linear", "g", "linear"), Rival("bad", "exp(1 / (g - g))"))
RATES = (0.01, 0.1, 1e20)
SEEDS = (1, 2)


def make_loop(devices=None, lanes=1):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32)
    task = Task(
        "line",
        init=lambda key: ({"w": jax.random.normal(key, (3,))}, ()),
        loss=lambda p, s, batch, key: (jnp.mean((batch[0] @ p["w"] - batch[1]) ** 2), s),
        metric=lambda p, s, batch: -jnp.abs(batch[0] @ p["w"] - batch[1]),
        train=(x[:20], y[:20]),
        validation=(x[20:], y[20:]),
    )
    loop = TaskLoop(task, 5, 12, 3, devices, lanes, scores=True)
    return PartLoop(loop)


@pytest.fixture(scope="module")
def loop():
    return make_loop()


def run(loop, folder):
    with Progress(disable=True) as progress:
        records = Records(folder / "records.jsonl", {"of": "the test"})
        return compare(loop, RIVALS, RATES, 3, SEEDS, records, progress)


@pytest.fixture(scope="module")
def outcomes(loop, tmp_path_factory):
    return run(loop, tmp_path_factory.mktemp("unbroken"))


@pytest.mark.slow
def test_every_rival_has_the_same_budget(outcomes):
    assert [o.rival for o in outcomes] == list(RIVALS)
    for outcome in outcomes:
        assert [(t.rate, t.seed) for t in outcome.tuning] == [(rate, 0) for rate in RATES]
        assert [(t.rate, t.seed) for t in outcome.runs] == [(outcome.rate, seed) for seed in SEEDS]


@pytest.mark.slow
def test_the_best_rate_is_that_of_the_best_last_epoch(outcomes):
    sgd, _, bad = outcomes
    finals = [t.validation[-1] for t in sgd.tuning]
    assert np.isnan(finals[2]) and sgd.rate == RATES[np.nanargmax(finals)]
    assert np.isnan(bad.runs[0].validation).all(), "a rival that always diverges is reported so"


@pytest.mark.slow
def test_schedules_reach_the_children(outcomes):
    sgd, linear, _ = outcomes
    assert sgd.tuning[0].validation[0] != linear.tuning[0].validation[0]


@pytest.mark.slow
def test_nothing_is_trained_twice(loop, outcomes, tmp_path, monkeypatch):
    first = run(loop, tmp_path)
    monkeypatch.setattr(PartLoop, "advance", None)
    again = run(loop, tmp_path)
    assert str(first) == str(again) == str(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 8])
def test_killed_and_resumed_it_is_the_same(loop, outcomes, tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr("harness.checkpoints.SHARE", 1e9)  # after every epoch
    advance, calls = PartLoop.advance, 0

    def dying(self, *args):
        nonlocal calls
        calls += 1
        if calls > killed_at:
            raise KeyboardInterrupt
        return advance(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PartLoop, "advance", dying)
        with pytest.raises(KeyboardInterrupt):
            run(loop, tmp_path)
    left = []
    with monkeypatch.context() as patch:
        patch.setattr(PartLoop, "advance", lambda self, *a: left.append(a[4]) or advance(self, *a))
        assert str(run(loop, tmp_path)) == str(outcomes)
    assert left[0] == 4 * (killed_at % 3), "it goes on with the epoch in which it was killed"
    assert len(left) + killed_at == 24


@pytest.mark.slow
def test_it_goes_on_with_other_devices(outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.checkpoints.SHARE", 1e9)
    advance = PartLoop.advance

    def dying(self, children, programs, rates, seeds, first, *rest):
        if first == 8:
            raise KeyboardInterrupt
        return advance(self, children, programs, rates, seeds, first, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(PartLoop, "advance", dying)
        with pytest.raises(KeyboardInterrupt):
            run(make_loop(jax.devices()[:1]), tmp_path)  # its neighbours sit in another order
    resumed = run(make_loop(jax.devices()[:2], lanes=2), tmp_path)
    for one, other in zip(resumed, outcomes, strict=True):
        assert one.rate == other.rate
        for mine, yours in zip(one.tuning + one.runs, other.tuning + other.runs, strict=True):
            np.testing.assert_allclose(mine.validation, yours.validation, rtol=1e-5)


@pytest.mark.slow
def test_checkpoints_outlive_their_results(loop, outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.checkpoints.SHARE", 1e9)

    def full(self, measured):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Records, "extend", full)
        with pytest.raises(OSError, match="no space"):
            run(loop, tmp_path)
    calls = []
    advance = PartLoop.advance
    monkeypatch.setattr(
        PartLoop, "advance", lambda self, *a: calls.append(a[4]) or advance(self, *a)
    )
    assert str(run(loop, tmp_path)) == str(outcomes)
    assert len(calls) == 21, "the first part was trained already"
    assert not (tmp_path / "records").exists()


@pytest.mark.slow
def test_the_rate_has_the_best_mean_over_the_tuning_seeds(loop, tmp_path):
    with Progress(disable=True) as progress:
        records = Records(tmp_path / "records.jsonl", {})
        of_sgd = compare(loop, RIVALS[:1], RATES, 1, SEEDS, records, progress, (0, 3, 4))[0]
    assert [(t.rate, t.seed) for t in of_sgd.tuning] == [(r, s) for r in RATES for s in (0, 3, 4)]
    means = [np.mean([t.final for t in of_sgd.tuning if t.rate == rate]) for rate in RATES]
    assert of_sgd.rate == RATES[np.argmax(means)]


# What is tried.

LADDER = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def tried(finals, decay=0.0):
    """Return trainings of one rival, by rate: their last validation scores."""
    return [
        Training("x", rate, seed, [1.0], [final], [final], decay)
        for rate, scores in finals.items()
        for seed, final in enumerate(np.atleast_1d(scores))
    ]


@pytest.mark.parametrize(
    ("finals", "more"),
    [
        ({0.01: 0.3, 0.03: 0.2, 0.1: 0.1}, [0.003]),
        ({0.01: 0.1, 0.03: 0.2, 0.1: 0.3}, [0.3]),
        ({0.01: 0.1, 0.03: 0.3, 0.1: 0.2}, []),
        ({1.0: 0.1, 3.0: 0.3}, []),  # nothing is beyond
        ({0.02: 0.1}, [0.01, 0.03]),  # one rate is both ends
        ({0.01: np.nan, 0.03: np.nan}, [0.003]),  # all diverged: the least is the first
        ({0.01: [0.3, 0.1], 0.03: [0.1, 0.4], 0.1: [0.6, np.nan]}, []),  # by the mean
    ],
)
def test_what_is_tried_beyond_an_end(finals, more):
    assert next_rates(finals, best_setting(tried(finals))[0], LADDER) == more


def test_the_best_setting_is_of_rate_and_weight_decay():
    trainings = tried({0.1: 0.4, 1.0: 0.5}) + tried({0.1: 0.7, 1.0: 0.6}, decay=0.01)
    assert best_setting(trainings) == (0.1, 0.01)
    assert next_rates({t.rate for t in trainings}, 0.1, LADDER) == [0.03]


def test_half_decades():
    steps = np.diff(np.log10(HALF_DECADES))
    assert (HALF_DECADES[0], HALF_DECADES[-1]) == (1e-6, 1e3) and len(HALF_DECADES) == 19
    assert set(np.round(steps, 2)) == {0.48, 0.52}


def adapt(loop, folder, start, decays=(0.0,), seeds=SEEDS):
    with Progress(disable=True) as progress:
        records = Records(folder / "records.jsonl", {})
        settings = {RIVALS[0].name: Settings(start, decays, LADDER)}
        return compare(loop, RIVALS[:1], settings, 3, seeds, records, progress)[0]


@pytest.mark.slow
def test_the_best_rate_ends_inside(loop, tmp_path, monkeypatch):
    found = adapt(loop, tmp_path, (0.001, 0.003))
    rates = [t.rate for t in found.tuning]
    assert rates == sorted(rates) and set(rates) <= set(LADDER) and len(rates) > 3
    assert rates[0] < found.rate < rates[-1], "the score rises, then falls: its top is inside"
    assert found.rate == max(found.tuning, key=lambda t: t.final).rate
    monkeypatch.setattr(PartLoop, "advance", None)  # all is in the records
    assert str(adapt(loop, tmp_path, (0.001, 0.003))) == str(found)


@pytest.mark.slow
def test_more_seeds_are_added_to_the_records(loop, tmp_path, monkeypatch):
    adapt(loop, tmp_path, (0.03, 0.1))
    starts, start = [], PartLoop.start

    def counted(self, seeds, *rest):
        starts.append(seeds)
        return start(self, seeds, *rest)

    monkeypatch.setattr(PartLoop, "start", counted)
    more = adapt(loop, tmp_path, (0.03, 0.1), seeds=(*SEEDS, 3))
    assert starts == [[3]] and [t.seed for t in more.runs] == [1, 2, 3]


@pytest.mark.slow
def test_every_weight_decay_is_tried_with_every_rate(loop, tmp_path):
    found = adapt(loop, tmp_path, (0.03, 0.1, 0.3), decays=(0.0, 5.0))
    assert found.rate == 0.1 or len({t.rate for t in found.tuning}) > 3
    rates = sorted({t.rate for t in found.tuning})
    expected = [(rate, decay) for rate in rates for decay in (0.0, 5.0)]
    assert [(t.rate, t.weight_decay) for t in found.tuning] == expected
    assert found.weight_decay == 0, "weights of 1 and -2 are not shrunk for nothing"
    assert all(t.weight_decay == 0 for t in found.runs)


def test_stepwise_is_the_wide_residual_networks_schedule():
    values = jax.vmap(SCHEDULES["stepwise"](200, 0))(jnp.arange(200))
    expected = np.repeat([1.0, 0.2, 0.04, 0.008], (60, 60, 40, 40))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_begin_at_1_and_are_finite(name):
    values = jax.vmap(SCHEDULES[name](100, 0))(jnp.arange(100))
    noisy = name.startswith("noisy")
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[0], 1, atol=4 if noisy else 1e-6)


def test_mistakes_are_named(loop, tmp_path):
    records = Records(tmp_path / "records.jsonl", {})
    with Progress(disable=True) as progress:
        with pytest.raises(ValueError, match="different names"):
            compare(loop, RIVALS[:1] * 2, RATES, 1, SEEDS, records, progress)
        with pytest.raises(ValueError, match=r"tuning seeds \[0\] are among"):
            compare(loop, RIVALS, RATES, 1, (0, 1), records, progress)
    assert tuning.SCHEDULES.keys() >= {"constant", "cosine", "linear cosine"}

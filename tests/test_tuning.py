"""The tuning of rivals: equal budgets, fresh seeds, nothing trained twice, killed and resumed."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.progress import Progress

from nos_optax.population import Task, TrainingGrid

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from harness import tuning
from harness.records import Records
from harness.tuning import SCHEDULES, Rival, compare

RIVALS = (Rival("SGD", "g"), Rival("SGD, linear", "g", "linear"), Rival("bad", "exp(1 / (g - g))"))
RATES = (0.01, 0.1, 1e20)
SEEDS = (1, 2)


def make_grid(devices=None, lanes=1):
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
    return TrainingGrid(task, 5, capacity=4, iterations=3, lanes=lanes, devices=devices)


@pytest.fixture(scope="module")
def grid():
    return make_grid()


def run(grid, folder):
    with Progress(disable=True) as progress:
        records = Records(folder / "records.jsonl", {"of": "the test"})
        return compare(grid, RIVALS, RATES, 3, SEEDS, records, progress)


@pytest.fixture(scope="module")
def outcomes(grid, tmp_path_factory):
    return run(grid, tmp_path_factory.mktemp("unbroken"))


def test_every_rival_has_the_same_budget(outcomes):
    assert [o.rival for o in outcomes] == list(RIVALS)
    for outcome in outcomes:
        assert [(t.rate, t.seed) for t in outcome.tuning] == [(rate, 0) for rate in RATES]
        assert [(t.rate, t.seed) for t in outcome.runs] == [(outcome.rate, seed) for seed in SEEDS]


def test_the_best_rate_is_that_of_the_best_last_epoch(outcomes):
    sgd, _, bad = outcomes
    finals = [t.validation[-1] for t in sgd.tuning]
    assert np.isnan(finals[2]) and sgd.rate == RATES[np.nanargmax(finals)]
    assert np.isnan(bad.runs[0].validation).all(), "a rival that always diverges is reported so"


def test_schedules_reach_the_children(outcomes):
    sgd, linear, _ = outcomes
    assert sgd.tuning[0].validation[0] != linear.tuning[0].validation[0]


def test_nothing_is_trained_twice(grid, outcomes, tmp_path, monkeypatch):
    first = run(grid, tmp_path)
    monkeypatch.setattr(TrainingGrid, "advance", None)
    again = run(grid, tmp_path)
    assert str(first) == str(again) == str(outcomes)


@pytest.mark.parametrize("killed_at", [2, 8])
def test_killed_and_resumed_it_is_the_same(grid, outcomes, tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr("nos_optax.search.checkpoints.SHARE", 1e9)  # after every epoch
    advance, calls = TrainingGrid.advance, 0

    def dying(self, *args):
        nonlocal calls
        calls += 1
        if calls > killed_at:
            raise KeyboardInterrupt
        return advance(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingGrid, "advance", dying)
        with pytest.raises(KeyboardInterrupt):
            run(grid, tmp_path)
    left = []
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainingGrid, "advance", lambda self, *a: left.append(a[2]) or advance(self, *a)
        )
        assert str(run(grid, tmp_path)) == str(outcomes)
    assert left[0] == killed_at % 3, "it goes on with the epoch in which it was killed"
    assert len(left) + killed_at == 15


@pytest.mark.slow
def test_it_goes_on_with_other_devices(outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr("nos_optax.search.checkpoints.SHARE", 1e9)
    advance = TrainingGrid.advance

    def dying(self, children, rates, epoch, total_steps):
        if epoch == 2:
            raise KeyboardInterrupt
        return advance(self, children, rates, epoch, total_steps)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingGrid, "advance", dying)
        with pytest.raises(KeyboardInterrupt):
            run(make_grid(jax.devices()[:1]), tmp_path)  # its neighbours sit in another order
    resumed = run(make_grid(jax.devices()[:2], lanes=2), tmp_path)
    for one, other in zip(resumed, outcomes, strict=True):
        assert one.rate == other.rate
        for mine, yours in zip(one.tuning + one.runs, other.tuning + other.runs, strict=True):
            np.testing.assert_allclose(mine.validation, yours.validation, rtol=1e-5)


def test_checkpoints_outlive_their_results(grid, outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr("nos_optax.search.checkpoints.SHARE", 1e9)

    def full(self, measured):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Records, "extend", full)
        with pytest.raises(OSError, match="no space"):
            run(grid, tmp_path)
    calls = []
    advance = TrainingGrid.advance
    monkeypatch.setattr(
        TrainingGrid, "advance", lambda self, *a: calls.append(a[2]) or advance(self, *a)
    )
    assert str(run(grid, tmp_path)) == str(outcomes)
    assert len(calls) == 12, "the first part was trained already"
    assert not list((tmp_path / "records").iterdir())


def test_the_rate_has_the_best_mean_over_the_tuning_seeds(grid, tmp_path):
    with Progress(disable=True) as progress:
        records = Records(tmp_path / "records.jsonl", {})
        of_sgd = compare(grid, RIVALS[:1], RATES, 1, SEEDS, records, progress, (0, 3, 4))[0]
    assert [(t.rate, t.seed) for t in of_sgd.tuning] == [(r, s) for r in RATES for s in (0, 3, 4)]
    means = [np.mean([t.final for t in of_sgd.tuning if t.rate == rate]) for rate in RATES]
    assert of_sgd.rate == RATES[np.argmax(means)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_begin_at_1_and_are_finite(name):
    values = jax.vmap(SCHEDULES[name](100, 0))(jnp.arange(100))
    noisy = name.startswith("noisy")
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[0], 1, atol=4 if noisy else 1e-6)


def test_mistakes_are_named(grid, tmp_path):
    records = Records(tmp_path / "records.jsonl", {})
    with Progress(disable=True) as progress:
        with pytest.raises(ValueError, match="different names"):
            compare(grid, RIVALS[:1] * 2, RATES, 1, SEEDS, records, progress)
        with pytest.raises(ValueError, match=r"tuning seeds \[0\] are among"):
            compare(grid, RIVALS, RATES, 1, (0, 1), records, progress)
    assert tuning.SCHEDULES.keys() >= {"constant", "cosine", "linear cosine"}

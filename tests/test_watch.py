"""The watch tasks: looked at now and then, and never selected by."""

from typing import ClassVar

import numpy as np
import pytest
from fake_engine import FakeEngine

from nos_optax.population import Evaluation
from nos_optax.search import History, SearchConfig, run_search, watch
from nos_optax.search.history import FILE


class ManyTrain(FakeEngine):
    """Nearly every program learns, so that there are many trainings."""

    def _result(self, number):
        found = super()._result(number)
        reward = np.float32(number % 1000 / 1000)
        return Evaluation(reward, found.learning_rate, np.int32(0), found.sweep, found.curve)


class FewTrain(FakeEngine):
    """Nothing learns before the fortieth program, and then each third."""

    def _result(self, number):
        found = super()._result(number)
        dead = len(self.evaluated) < 40 or number % 3
        return found._replace(status=np.int32(1 if dead else 0), reward=np.float32(0.5))


class WatchEngine(FakeEngine):
    """Two tasks of two weights each."""

    tried: ClassVar[list[int]] = []

    def evaluate(self, programs, seed, epochs=None, rates=None):
        self.tried.append(len(programs))
        for rows, found in super().evaluate(programs, seed, epochs):
            curve = np.tile(np.float32([0.1, 0.3, 0.5, 0.7]), (len(rows), 1))
            yield rows, found._replace(curve=curve)


@pytest.fixture
def watching(monkeypatch):
    asked = []

    def make(config, iterations, tasks=()):
        asked.append(config)
        return WatchEngine()

    WatchEngine.tried.clear()
    monkeypatch.setattr(watch, "make_engine", make)
    return asked


def config(out, **changes):
    settings = {"samples": 320, "batch_size": 32, "finalists": 0, "iterations": 2, "out": out}
    return SearchConfig(**{**settings, "strategy": "random", "race": 2, "watch": (), **changes})


def test_the_best_rule_is_tried_now_and_then_and_nothing_is_chosen_by_it(tmp_path, watching):
    plain = run_search(config(tmp_path / "plain"), engine=ManyTrain()).candidates
    assert not watching
    watched = ("table", "transformer")
    found = run_search(config(tmp_path / "run", watch=watched), engine=ManyTrain()).candidates
    assert found == plain
    history = History(tmp_path / "run" / FILE)
    rows = history.watched()
    history.close()
    trained = sum(c.is_training for c in plain)
    assert trained > 100
    assert list(rows) == sorted({25, 50} | set(range(100, trained + 1, 100))) or 25 not in rows
    assert max(rows) == trained // 100 * 100
    for number, row in rows.items():
        assert row.number == number <= row.trained and row.rewards == pytest.approx((0.2, 0.6))
        assert row.low <= row.reward
    assert len(watching) == 1 and watching[0].task == watched, "one engine, for the watch tasks"
    assert set(WatchEngine.tried) == {1}
    assert len(WatchEngine.tried) == len({row.rule for row in rows.values()})


def test_trainings_are_counted_that_came_to_nothing_too(tmp_path, watching):
    run_search(config(tmp_path / "run", watch=("table",), samples=320), engine=FewTrain())
    history = History(tmp_path / "run" / FILE)
    rows, candidates = history.watched(), history.candidates()
    history.close()
    trained = sum(c.is_training for c in candidates)
    assert sum(c.status == "trained" for c in candidates) < 100 < trained
    assert max(rows) == trained // 100 * 100
    assert rows[25].trained > 40, "there was nothing to try before"


def test_a_search_that_goes_on_tries_nothing_twice(tmp_path, watching):
    whole = config(tmp_path / "whole", watch=("table",))
    run_search(whole, engine=ManyTrain())
    once = list(WatchEngine.tried)
    WatchEngine.tried.clear()
    out = tmp_path / "parts"
    run_search(config(out, watch=("table",), samples=160), engine=ManyTrain())
    run_search(config(out, watch=("table",), resume=True), engine=ManyTrain())
    assert WatchEngine.tried == once
    # One that resumed would take its Adam from the run's folder, where it is of other tasks.
    assert watching and not any(each.resume for each in watching)
    histories = [History(folder / FILE) for folder in (whole.out, out)]
    assert histories[0].watched() == histories[1].watched()
    for history in histories:
        history.close()

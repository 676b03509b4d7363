"""What a program's reward is: rejected on sight, an earlier one's, or trained, and never twice."""

import contextlib
import dataclasses

import numpy as np
import pytest
from fake_engine import FakeEngine

from nos_optax.grammar import encode, parse
from nos_optax.search import History, SearchConfig
from nos_optax.search.export import rows as exported
from nos_optax.search.history import FILE
from nos_optax.search.judge import Judge, trainings

CONFIG = SearchConfig(protocol="paper", iterations=2, batch_size=4)


def tokens(*rules):
    return np.stack([encode(rule, 2).array.reshape(-1) for rule in rules])


@pytest.fixture
def history(tmp_path):
    history = History(tmp_path / "history.sqlite")
    yield history
    history.close()


def rewards_of(court, population):
    court(population)
    return np.array([c.reward for c in court.candidates[-len(population) :]], np.float32)


def judge(history, engine=None, **changes):
    return Judge(dataclasses.replace(CONFIG, **changes), history, engine or FakeEngine())


def test_repeats_share_the_reward_of_the_first(history):
    court = judge(history)
    rewards = rewards_of(court, tokens("g * m", "m * g", "g", "clip(g, 1e-3)"))
    assert rewards.dtype == np.float32 and rewards[0] == rewards[1]
    later = rewards_of(court, tokens("m", "-(-g)", "g * m", "m"))
    assert later[1] == rewards[2] and later[2] == rewards[0] and later[0] == later[3]
    assert [c.origin for c in court.candidates] == [0, 0, 2, 3, 4, 2, 0, 4]
    assert [c.id for c in court.candidates] == list(range(8))
    assert len(court.engine.evaluated) == len(set(court.engine.evaluated)) == 4


def test_rules_that_only_the_probes_make_equal_share_too(history):
    court = judge(history)
    court(tokens("sign(g^3)", "sign(g)"))
    first, second = court.candidates
    assert first.digest != second.digest and first.fingerprint == second.fingerprint
    assert (first.origin, second.origin) == (0, 0) and first.reward == second.reward


def test_the_reward_is_what_the_engine_says(history):
    rules = tokens("g", "m", "adam", "rmsprop", "g * m * m", "m * ld", "clip(g, 1e-4)")
    court = judge(history)
    rewards = rewards_of(court, rules)
    by_row = {}
    for rows, evaluation in FakeEngine().evaluate(rules, seed=CONFIG.seed):
        by_row |= dict(zip(rows.tolist(), trainings(evaluation), strict=True))
    for i, candidate in enumerate(court.candidates):
        expected = by_row[i]
        assert rewards[i] == np.float32(expected.reward)
        assert candidate.reward == expected.reward and candidate.status == expected.status
        assert candidate.learning_rate == expected.learning_rate
        assert history.training(candidate.fingerprint).sweep == expected.sweep
    assert history.candidates() == court.candidates


def test_without_reuse_every_one_is_trained(history):
    court = judge(history, reuse=False)
    court(tokens("g * m", "m * g", "g * m", "g"))
    assert [c.origin for c in court.candidates] == [0, 1, 2, 3]
    assert len(court.engine.evaluated) == 4
    assert len({c.fingerprint for c in court.candidates}) == 2


HOPELESS = {"-g": "points uphill", "ld": "constant", "w": "ignores the gradient"}


def test_the_hopeless_have_the_reward_of_chance_untrained(history):
    court = judge(history)
    rewards = rewards_of(court, tokens(*(rule.replace("w", "0.1 * w") for rule in HOPELESS), "g"))
    np.testing.assert_array_equal(rewards[:3], np.float32([0.1, 0.1, 0.1]))
    for candidate, reason in zip(court.candidates, HOPELESS.values(), strict=False):
        assert (candidate.status, candidate.reason, candidate.origin) == ("rejected", reason, None)
        assert not history.has_training(candidate.fingerprint)
    assert court.candidates[3].reason is None
    assert len(court.engine.evaluated) == 1


def test_without_reject_the_hopeless_are_trained(history):
    court = judge(history, reject=False)
    court(tokens("-g", "ld", "g"))
    assert [c.origin for c in court.candidates] == [0, 1, 2]
    assert all(c.reason is None and c.status != "rejected" for c in court.candidates)
    assert len(court.engine.evaluated) == 3


def test_equal_digests_share_the_first_fingerprint(history, monkeypatch):
    """Whatever the probes say: algebra knows better."""
    court = judge(history)
    court(tokens("g * m"))
    probes = court.probes
    monkeypatch.setattr(
        court, "probes", lambda rows: [p._replace(fingerprint="other") for p in probes(rows)]
    )
    court(tokens("m * g"))
    again = judge(history)
    again(tokens("g * m"))
    assert len({c.fingerprint for c in again.candidates}) == 1
    assert parse("g * m").digest == again.candidates[0].digest
    assert [c.origin for c in again.candidates] == [0, 0, 0]


@pytest.mark.parametrize("changes", [{}, {"reuse": False}, {"reject": False}])
def test_a_new_judge_of_an_old_history_judges_alike(history, tmp_path, changes):
    populations = [
        tokens("g", "m * g", "-g", "adam"),
        tokens("g * m", "rmsprop", "clip(adam, 1e-3)", "-g"),
        tokens("m", "adam", "g * m", "rmsprop"),
    ]
    other = History(tmp_path / "other.sqlite")
    unbroken = judge(other, **changes)
    for population in populations:
        unbroken(population)
        judge(history, **changes)(population)  # a new one each time, as after a restart
    assert history.candidates() == other.candidates() == unbroken.candidates
    other.close()


def test_a_death_within_a_population_costs_no_training_twice(history, tmp_path):
    population = tokens("g", "m", "adam", "rmsprop", "g * m", "m * ld", "clip(g, 1e-4)")
    evaluated, parts = [], 0
    for parts in (1, 1, None):
        engine = FakeEngine(parts_until_death=parts)
        court = judge(history, engine)
        if parts is not None:
            with pytest.raises(RuntimeError, match="the engine died"):
                court(population)
            assert history.candidates() == []
        else:
            court(population)
        assert engine.evaluated
        evaluated += engine.evaluated
    assert len(evaluated) == len(set(evaluated)) == len(population)
    other = History(tmp_path / "other.sqlite")
    unbroken = judge(other)
    unbroken(population)
    assert history.candidates() == unbroken.candidates
    other.close()


def test_a_rule_that_does_nearly_the_same_shares_a_training(tmp_path):
    rules = ["adam", "adam + 1e-4 * w", "rmsprop", "2 * adam", "adam - 1e-4 * w"]
    programs = np.stack([encode(rule, 3).array.ravel() for rule in rules])
    config = SearchConfig(out=tmp_path, watch=())
    history = History(tmp_path / FILE)
    engine = FakeEngine()
    Judge(config, history, engine)(programs[:3])
    judge = Judge(config, history, engine)  # as a search that goes on
    judge(programs[3:])
    assert [c.origin for c in judge.candidates] == [0, 0, 2, 0, 0]
    assert len({c.fingerprint for c in judge.candidates}) == 5 and judge.trained == 2
    assert len(engine.evaluated) == 2
    exact = dataclasses.replace(config, tolerance=0.0, out=tmp_path / "exact")
    exact.out.mkdir()
    with contextlib.closing(History(exact.out / FILE)) as other:
        one_by_one = Judge(exact, other, engine)
        one_by_one(programs)
        assert [c.origin for c in one_by_one.candidates] == [0, 1, 2, 3, 4]
    history.close()
    table = list(exported(tmp_path))
    assert table[1]["sweep"] == table[0]["sweep"] == table[4]["sweep"] != table[2]["sweep"]

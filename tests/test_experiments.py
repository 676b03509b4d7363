"""The experiments: what they measure on numbers made by hand, and each of them at its smallest."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import compare_strategies as compare
import pytest
from fake_engine import FakeEngine
from rich.console import Console
from strategies import measures as strategy_measures

from nos_optax.search.history import Candidate

FOLDER = Path(__file__).parents[1] / "experiments"

# What is measured of a search.


def test_samples_to_reach_a_level():
    rewards = [0, 0, 1, 0, 1, 1, 1]
    assert strategy_measures.moving_mean(rewards, 2).tolist() == [0, 0.5, 0.5, 0.5, 1, 1]
    assert strategy_measures.samples_to_reach(rewards, 0.5, 2) == 3
    assert strategy_measures.samples_to_reach(rewards, 1.0, 2) == 6
    assert strategy_measures.samples_to_reach(rewards, 1.1, 2) is None
    assert strategy_measures.median_reached([10, None, 30]) == (30, 2)
    assert strategy_measures.median_reached([None, None, 30]) == (None, 1)


def candidate(i, reward, status="trained", rule="", origin=None):
    own = status != "rejected"
    return Candidate(
        id=i,
        rule=rule,
        tokens="",
        digest=rule,
        fingerprint=rule[:1],
        origin=(i if origin is None else origin) if own else None,
        reward=reward,
        learning_rate=None,
        status=status,
        reason=None,
    )


SEARCH = [
    candidate(0, 0.1, "rejected", "x"),
    candidate(1, 0.8, rule="a1"),
    candidate(2, 0.9, rule="b1"),
    candidate(3, 0.8, rule="a1", origin=1),  # a repeat
    candidate(4, 0.8, rule="a2", origin=1),  # another rule with the same updates
    candidate(5, 0.1, "dead", "c1"),
    candidate(6, 0.5, rule="d1"),
    candidate(7, 0.9, rule="e1"),
]


def test_different_rules_are_counted_once():
    assert strategy_measures.good_so_far(SEARCH, 0.8, "digest").tolist() == [0, 1, 2, 2, 3, 3, 3, 4]
    assert strategy_measures.good_so_far(SEARCH, 0.8, "fingerprint").tolist() == [
        0,
        1,
        2,
        2,
        2,
        2,
        2,
        3,
    ]
    # What has the chance level is not good, however bad Adam is.
    assert strategy_measures.good_so_far(SEARCH, 0.0, "digest")[-1] == 5


def test_repeats_do_not_count_among_the_best():
    best = strategy_measures.mean_of_best(SEARCH, 2, chance=0.1)
    assert best == pytest.approx([0.1, 0.45, 0.85, 0.85, 0.85, 0.85, 0.85, 0.9])
    assert [c.id for c in strategy_measures.best_rules(SEARCH, 3)] == [2, 7, 1]
    assert strategy_measures.best_rules(SEARCH[:1], 3) == []


def test_what_a_search_is_judged_by():
    one = strategy_measures.Run("ppo", 0, SEARCH, adam=0.905)
    measures = one.measure(chance=0.1)
    assert measures["quarters"] == pytest.approx([0.45, 0.85, 0.45, 0.7])
    counts = [measures[k] for k in ("evaluated", "trained", "repeated", "rejected")]
    assert counts == [5, 4, 2, 1]
    assert (measures["good_rules"], measures["good_updates"]) == (2, 2)
    # Means of two: 0.45 0.85 0.85 0.8 0.45 0.3 0.7. Levels: 0.30 0.50 0.70 0.82.
    assert measures["samples_to_reach"] == [2, 3, 3, 3]


def measures(quarter, best):
    counts = dict.fromkeys(("evaluated", "trained", "repeated", "rejected"), 1)
    goods = {"good_rules": 3, "good_updates": 2}
    levels = [None] * len(strategy_measures.LEVELS)
    row = {"quarters": [0.1, 0.2, 0.3, quarter], "mean": 0.25, "best": best}
    return row | counts | goods | {"samples_to_reach": levels}


def test_summary_sets_the_seeds_beside_each_other():
    summary = strategy_measures.summarise(
        {
            "ppo": [measures(0.5, 0.9), measures(0.7, 0.8)],
            "random": [measures(0.2, 0.8), measures(0.4, 0.7)],
        }
    )
    ppo = summary["ppo"]
    assert ppo["quarters"][3] == pytest.approx((0.6, 0.1))
    assert ppo["minus_random"]["last_quarter"][:3] == pytest.approx((0.3, 0.3, 0.3))
    assert ppo["minus_random"]["best"][:3] == pytest.approx((0.1, 0.1, 0.1))
    assert summary["random"]["minus_random"]["mean"][:3] == pytest.approx((0, 0, 0))
    assert ppo["samples_to_reach"][0] == (None, 0)


# Whole experiments.


def read_strict(path):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


class Broken(FakeEngine):
    """Dies in the middle of the second search."""

    def __init__(self):
        super().__init__(parts_until_death=20)


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_stopped(tmp_path, monkeypatch):
    arguments = dataclasses.replace(
        compare.PRESETS["digits", "small"],
        samples=24,
        seeds=2,
        batch_size=4,
        strategies=("evolution", "random"),
        final_seeds=2,
        out=tmp_path / "runs",
        results=tmp_path / "whole",
    )
    quiet = Console(quiet=True)
    monkeypatch.setattr(compare, "make_engine", lambda arguments: Broken())
    with pytest.raises(RuntimeError, match="the engine died"):
        compare.run(arguments, quiet)
    begun = {path.name for path in (tmp_path / "runs").iterdir()}
    assert begun and not (tmp_path / "whole").exists()

    engines = [FakeEngine(), FakeEngine()]
    monkeypatch.setattr(compare, "make_engine", lambda arguments: engines[-1])
    compare.run(arguments, quiet)
    monkeypatch.setattr(compare, "make_engine", lambda arguments: engines[0])
    changes = {"out": tmp_path / "unbroken", "results": tmp_path / "again"}
    compare.run(dataclasses.replace(arguments, **changes), quiet)
    assert len(engines[1].evaluated) < len(engines[0].evaluated)

    name = "compare_strategies_digits_small_24"
    first, second = (read_strict(tmp_path / x / f"{name}.json") for x in ("whole", "again"))
    first.pop("seconds"), second.pop("seconds")
    assert first == second
    rows = (tmp_path / "whole" / f"{name}.jsonl").read_text().splitlines()
    assert [len(json.loads(row)["rewards"]) for row in rows] == [24] * 4
    assert (tmp_path / "whole" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| evolution |" in (tmp_path / "whole" / f"{name}.md").read_text()


def test_other_numbers_of_samples_have_names_of_their_own():
    preset = compare.PRESETS["cifar10", "small"]
    other = dataclasses.replace(preset, samples=320)
    assert other.name == f"{preset.name}_320" != preset.name
    # A search of more samples goes on from the one of fewer.
    assert other.search_config("ppo", 0).out == preset.search_config("ppo", 0).out


def test_the_best_rule_is_measured_with_seeds_that_did_not_choose_it(tmp_path):
    arguments = dataclasses.replace(
        compare.PRESETS["digits", "small"],
        samples=24,
        seeds=2,
        batch_size=4,
        strategies=("random",),
        final_seeds=3,
        out=tmp_path,
    )
    asked = []

    class Spy(FakeEngine):
        def evaluate(self, programs, seed, epochs=None):
            asked.append(seed)
            return super().evaluate(programs, seed, epochs)

    engine = Spy()
    runs = compare.run_searches(arguments, engine, Console(quiet=True))
    asked.clear()
    best, standard = compare.train_finalists(arguments, engine, runs)
    first = compare.FRESH_SEEDS
    assert asked == list(range(first, first + 6))
    assert all(len(r.rewards) == 3 for r in (*best, *standard) if r is not None)
    nothing = strategy_measures.Run("random", 0, runs[0].candidates[:0], 0.9)
    assert compare.train_finalists(arguments, engine, [nothing])[0] == [None]


def test_every_preset_is_of_its_name():
    for (dataset, scale), preset in compare.PRESETS.items():
        assert (preset.dataset, preset.scale) == (dataset, scale)
        assert preset.search_config("random", 0).resume
        assert preset.name == f"compare_strategies_{dataset}_{scale}"
    assert compare.Arguments() == compare.PRESETS["cifar10", "paper"]
    assert next(iter(compare.PRESETS)) == ("digits", "small")


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (compare.Arguments, {"seeds": 1}, "--seeds must be at least 2, got 1"),
        (compare.Arguments, {"final_seeds": 1}, "--final-seeds must be at least 2"),
        (compare.Arguments, {"strategies": ("ppo",)}, "must include random"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def run_smoke(experiment, tmp_path, *arguments):
    command = [sys.executable, str(FOLDER / experiment), "--scale", "smoke", "--accelerator", "cpu"]
    command += ["--results", str(tmp_path / "results"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_smoke_of_the_comparison(tmp_path):
    out = run_smoke("compare_strategies.py", tmp_path)
    assert "PowerSign" in out
    name = "compare_strategies_digits_smoke"
    content = read_strict(tmp_path / "results" / f"{name}.json")
    assert set(content["summary"]) == {"ppo", "reinforce", "evolution", "random"}
    assert all(adam > content["threshold"] for adam in content["adam"])
    assert len(list((tmp_path / "runs" / name).iterdir())) == 8

"""The experiment on environments: numbers made by hand, runs without training, and the smallest."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import environments
import numpy as np
import pytest
from fake_engine import FakeEngine
from harness.statistics import t_interval
from rich.console import Console
from scipy import stats

from nos_optax.population import Task
from nos_optax.search import FRESH_SEEDS, SearchConfig, load_task
from nos_optax.search.results import STANDARD, Result

FOLDER = Path(__file__).parents[1] / "experiments"

QUIET = Console(quiet=True)
SMALL = environments.Arguments(
    samples=24, batch_size=4, searches=2, finalists=3, choosing_seeds=2, final_seeds=3
)


def result(name, rewards):
    statuses = tuple("dead" if r == 0.1 else "trained" for r in rewards)
    return Result(name, f"rule of {name}", name, tuple(rewards), (0.1,) * len(rewards), statuses)


RESULTS = {
    "three_bits": {
        "Adam": result("Adam", [0.5, 0.6, 0.7]),
        "SGD": result("SGD", [0.1, 0.1, 0.1]),
        "found in three_bits, search 0": result("a", [0.6, 0.71, 0.8]),
        "found in plain, search 0": result("b", [0.5, 0.5, 0.5]),
        "found in plain, search 1": result("c", [0.3, 0.3, 0.3]),
    },
    "plain": {
        "Adam": result("Adam", [0.9, 0.9, 0.9]),
        "SGD": result("SGD", [0.95, 0.96, 0.97]),
        "found in three_bits, search 0": result("a", [0.9, 0.9, 0.9]),
        "found in plain, search 0": result("b", [0.9, 0.9, 0.9]),
        "found in plain, search 1": result("c", [0.9, 0.9, 0.9]),
    },
}
CHOSEN = {"three_bits": "Adam", "plain": "SGD"}
FOUND = [
    environments.Found("three_bits", 0, SimpleNamespace(tokens="a")),
    environments.Found("three_bits", 1, None),
    environments.Found("plain", 0, SimpleNamespace(tokens="b")),
    environments.Found("plain", 1, SimpleNamespace(tokens="c"), ahead="Adam"),
]


def test_differences_are_to_the_standard_chosen_for_the_task():
    rows = environments.compare(RESULTS, CHOSEN)
    found = rows["found in three_bits, search 0"]
    mean, low, high = found["three_bits"]["difference"][:3]
    assert mean == pytest.approx(0.31 / 3) and 0 < low < mean < high
    assert found["plain"]["difference"][0] == pytest.approx(-0.06)
    assert rows["Adam"]["three_bits"]["difference"] is None
    assert rows["Adam"]["plain"]["difference"] is not None
    assert rows["SGD"]["three_bits"]["failed"] == 3 and rows["SGD"]["plain"]["failed"] == 0
    assert rows["SGD"]["three_bits"]["score"][:3] == pytest.approx((0.1, 0.1, 0.1))


def test_a_search_is_one_value_and_may_have_found_nothing():
    rows = environments.compare(RESULTS, CHOSEN)
    chances = {"three_bits": 0.1, "plain": 0.1}
    summary = environments.over_searches(rows, FOUND, CHOSEN, chances)
    mean = (0.5 + 0.6 + 0.7) / 3
    of_environment = summary["three_bits"]["rules of three_bits less Adam"]
    assert of_environment[0] == pytest.approx((2.11 / 3 + 0.1) / 2 - mean)
    between = summary["three_bits"]["rules of three_bits less rules of plain"]
    assert between[0] == pytest.approx(((2.11 / 3 - 0.5) + (0.1 - 0.3)) / 2)
    # The rules' scores do not vary, SGD's do.
    expected = t_interval([-0.05, -0.06, -0.07])[:3]
    assert summary["plain"]["rules of plain less SGD"] == pytest.approx(expected)
    text = environments.verdict(rows, summary, FOUND, CHOSEN)
    assert "against Adam" in text and "better: found in three_bits, search 0; worse: none" in text
    assert "rules of plain less SGD -0.060 [-0.085, -0.035] (below 0)" in text
    assert "1 of 4 searches found no rule that learns" in text
    assert (
        "In 1 of 4 searches a standard optimizer had a higher reward than every other rule: "
        in text
    )
    assert "Adam in plain, search 1." in text


def test_an_interval_over_searches_counts_the_seeds_too():
    one_way = np.array([0.3, 0.5, 0.9])
    for values in (np.tile(one_way, (4, 1)), np.tile(one_way[:, None], (1, 4))):
        assert environments.crossed_interval(values) == pytest.approx(t_interval(one_way)[:3])
    both = one_way[:, None] + np.array([-0.2, 0.0, 0.2])
    mean, _, high = environments.crossed_interval(both)
    assert mean == pytest.approx(one_way.mean())
    of_searches, of_seeds = one_way.var(ddof=1) / 3, 0.04 / 3
    total = of_searches + of_seeds
    freedom = total**2 / (of_searches**2 / 2 + of_seeds**2 / 2)
    assert high - mean == pytest.approx(stats.t.ppf(0.975, freedom) * total**0.5)


def test_an_interval_over_searches_covers():
    rng, covered, naive = np.random.default_rng(0), 0, 0
    for _ in range(400):
        values = rng.normal(size=(5, 1)) + 2 * rng.normal(size=20) + rng.normal(size=(5, 20))
        _, low, high = environments.crossed_interval(values)
        covered += low < 0 < high
        _, low, high, _ = t_interval(values.mean(axis=1).tolist())
        naive += low < 0 < high
    assert covered >= 0.93 * 400 > naive


@pytest.mark.slow
def test_a_standard_optimizer_ahead_of_the_rules_is_named():
    names = environments.standard_fingerprints()
    assert set(names.values()) == set(STANDARD)
    fingerprint_of = {name: fingerprint for fingerprint, name in names.items()}

    def candidate(fingerprint, reward, status="trained"):
        return SimpleNamespace(fingerprint=fingerprint, reward=reward, status=status)

    adam, sgd = candidate(fingerprint_of["Adam"], 0.8), candidate(fingerprint_of["SGD"], 0.7)
    dead = candidate(fingerprint_of["RMSProp"], 0.9, "dead")
    rule = candidate("other", 0.75)
    assert environments.standard_ahead([rule, sgd, adam, dead], [rule]) == "Adam"
    assert environments.standard_ahead([rule, sgd], [rule]) is None
    assert environments.standard_ahead([rule], [rule]) is None


def test_the_verdict_may_be_contrary():
    worse = {k: dict(v) for k, v in RESULTS.items()}
    worse["three_bits"]["found in three_bits, search 0"] = result("a", [0.3, 0.4, 0.51])
    rows = environments.compare(worse, CHOSEN)
    text = environments.verdict(rows, {}, FOUND[:1], CHOSEN)
    assert "better: none; worse: found in three_bits, search 0; undecided: 0." in text
    table = environments.results_table(rows, CHOSEN)
    assert [cell for cell in table.columns[0].cells][:2] == ["Adam", "found in plain, search 0"]


class Spy(FakeEngine):
    """Remembers with which seeds programs are trained."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked: list[tuple[int, int]] = []

    def evaluate(self, programs, seed, epochs=None):
        self.asked.append((seed, len(programs)))
        return super().evaluate(programs, seed, epochs)


@pytest.mark.slow
def test_no_final_seed_chooses(tmp_path):
    arguments = dataclasses.replace(SMALL, out=tmp_path)
    engine = Spy()
    runs = environments.run_searches(arguments, "three_bits", engine, QUIET)
    assert {seed for seed, _ in engine.asked} == {0, 1} and [len(r) for r in runs] == [24, 24]
    engine.asked.clear()
    found, standard = environments.choose(arguments, "three_bits", engine, runs)
    assert [seed for seed, _ in engine.asked] == [FRESH_SEEDS, FRESH_SEEDS + 1]
    assert standard in STANDARD and [f.seed for f in found] == [0, 1]
    for one, run in zip(found, runs, strict=True):
        others = [c for c in run if c.fingerprint not in environments.standard_fingerprints()]
        best = sorted({c.reward for c in others if c.status == "trained"}, reverse=True)[:3]
        assert one.candidate in others and one.candidate.reward in best
    engine.asked.clear()
    results = environments.measure(arguments, {"three_bits": engine, "plain": engine}, found)
    seeds = [FRESH_SEEDS + 2 + i for i in range(3)]
    assert [seed for seed, _ in engine.asked] == seeds * 2
    assert set(results["plain"]) == {*STANDARD, *(f.name for f in found)}


def test_searches_that_found_nothing_are_chance():
    engine = FakeEngine()
    dead = [SimpleNamespace(status="dead", origin=0, id=0, reward=0.1)]
    found, _ = environments.choose(SMALL, "plain", engine, [dead, []])
    assert [f.candidate for f in found] == [None, None]
    results = environments.measure(SMALL, {"three_bits": engine, "plain": engine}, found)
    rows = environments.compare(results, {"three_bits": "Adam", "plain": "Adam"})
    assert set(rows) == set(STANDARD)


def read_strict(path):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_killed_experiment_goes_on(tmp_path, monkeypatch):
    arguments = dataclasses.replace(SMALL, out=tmp_path / "runs", results=tmp_path / "results")
    broken = FakeEngine(parts_until_death=20)
    monkeypatch.setattr(environments, "make_engine", lambda *args: broken)
    with pytest.raises(RuntimeError, match="the engine died"):
        environments.run(arguments, QUIET)
    assert list((tmp_path / "runs").iterdir()) and not (tmp_path / "results").exists()
    engines = [FakeEngine(), FakeEngine()]
    monkeypatch.setattr(environments, "make_engine", lambda *args: engines[0])
    environments.run(arguments, QUIET)
    monkeypatch.setattr(environments, "make_engine", lambda *args: engines[1])
    changes = {"out": tmp_path / "unbroken", "results": tmp_path / "again"}
    environments.run(dataclasses.replace(arguments, **changes), QUIET)
    assert len(engines[0].evaluated) < len(engines[1].evaluated)

    name = "environments_three_bits_small"
    first, second = (read_strict(tmp_path / x / f"{name}.json") for x in ("results", "again"))
    first.pop("seconds"), second.pop("seconds")
    assert first == second
    assert {len(run) for run in first["rewards"]["plain"]} == {24}
    assert (tmp_path / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "results" / f"{name}.md").read_text()
    assert "| Adam |" in text and "mean over searches" in text


@pytest.mark.parametrize("name", ["three_bits", "four_bits", "one_bit"])
def test_an_environment_can_be_searched_by_its_name(name):
    config = SearchConfig(protocol="paper", task=(f"environments:{name}",), train_examples=300)
    task = load_task(config, None)
    assert isinstance(task, Task) and Task.num_examples(task.train) == 300
    assert task.name != "digits" and np.isfinite(task.threshold(6.0))
    assert environments.in_environment("plain", 300).name == "digits"


def test_presets():
    assert environments.Arguments() == environments.PRESETS["small"]
    for scale, preset in environments.PRESETS.items():
        assert preset.scale == scale and preset.final_seeds >= (2 if scale == "smoke" else 10)
        config = preset.search_config(preset.environment, 1)
        assert config.resume and config.task == (f"environments:{preset.environment}",)
        assert preset.search_config("plain", 1).task == ("digits",)


@pytest.mark.parametrize("name", ["searches", "finalists", "choosing_seeds", "final_seeds"])
def test_too_few_are_refused(name):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must be at least"):
        environments.Arguments(**{name: 0})


@pytest.mark.slow
def test_smoke(tmp_path):
    command = [sys.executable, str(FOLDER / "environments.py"), "--scale", "smoke"]
    command += ["--accelerator", "cpu", "--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    environment = "three_bits"
    name = f"environments_{environment}_smoke"
    content = read_strict(tmp_path / "results" / f"{name}.json")
    assert set(STANDARD) <= set(content["rules"]) and len(content["found"]) == 4
    for row in content["rules"].values():
        assert len(row[environment]["rewards"]) == len(row["plain"]["rewards"]) == 2
    assert len(list((tmp_path / "runs" / name).iterdir())) == 4

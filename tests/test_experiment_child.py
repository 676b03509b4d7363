"""The experiments on the child: numbers made by hand, runs without training, and the smallest."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from fake_engine import FakeEngine
from rich.console import Console

from nos_optax import rules
from nos_optax.grammar import encode
from nos_optax.grammar.program import MAX_ITERATIONS

FOLDER = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(FOLDER))

import decays  # noqa: E402
import figure4_child as figure4  # noqa: E402
from harness import image_rivals  # noqa: E402
from harness.records import Records  # noqa: E402
from harness.tuning import SCHEDULES, Outcome, Rival, Training  # noqa: E402
from strategy_measures import Run  # noqa: E402

pytestmark = pytest.mark.slow  # experiments take seconds to compile

QUIET = Console(quiet=True)


def outcome(rival, test, rate=0.1, rates=(0.01, 0.1, 1.0)):
    """Return what became of a rival whose test score is worse than the validation score by 0.1."""
    test = np.asarray(test, float)

    def training(rate, seed, final):
        scores = [final / 2, final]
        validation = [score + 0.1 for score in scores]
        return Training(rival.name, rate, seed, [1.0, 0.5], validation, scores)

    tuning = [training(rate, 0, 0.3) for rate in rates]
    runs = [training(rate, seed, final) for seed, final in enumerate(test, 1)]
    return Outcome(rival, rate, tuning, runs)


def without_training(monkeypatch, experiment, score):
    """Let an experiment take its scores from a function of rival and seed."""
    asked = []

    def compare(grid, rivals, rates, epochs, seeds, records, progress, tuning_seeds=(0,)):
        del tuning_seeds
        asked.append((rivals, rates, epochs, list(seeds), records.path))
        return [outcome(r, [score(r, seed) for seed in seeds], rates[0], rates) for r in rivals]

    monkeypatch.setattr(experiment, "select_devices", lambda kind: jax.devices())
    monkeypatch.setattr(experiment, "TrainingGrid", lambda *args, **options: None)
    monkeypatch.setattr(experiment, "compare", compare)
    return asked


def read_strict(path):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# Figure 4: what is measured.


def test_rules_are_ranked_by_their_test_accuracy():
    adam, sgd, bad = (figure4.RIVALS[name] for name in ("adam", "sgd", "rmsprop"))
    failed = outcome(bad, [np.nan, np.nan])
    results = figure4.rank([failed, outcome(adam, [0.5, 0.7]), outcome(sgd, [0.7, 0.9])])
    assert [r.name for r in results] == ["SGD", "Adam", "RMSProp"]
    assert results[0].difference == pytest.approx((20, 20, 20))
    assert results[1].difference is None
    assert results[2].diverged == 2 and results[2].values["final_test"] == [10, 10]


def test_searches_are_kept_by_strategy_in_the_order_of_their_seeds():
    def candidate(i, reward):
        names = {"id": i, "origin": i, "digest": f"{i}", "fingerprint": f"{i}"}
        return SimpleNamespace(reward=reward, status="trained", **names)

    rewards = {("ppo", 0): 0.2, ("random", 0): 0.4, ("ppo", 1): 0.6, ("random", 1): 0.8}
    runs = [
        Run(*key, [candidate(0, 0.1), *(candidate(i, reward) for i in range(1, 8))], 0.9)
        for key, reward in rewards.items()
    ]
    measures = figure4.measure_searches(runs, chance=0.1)
    found = {(s, row["seed"]): row["best"] for s, rows in measures.items() for row in rows}
    assert found == rewards and list(measures) == ["ppo", "random"]
    assert measures["random"][1]["quarters"] == pytest.approx([0.45, 0.8, 0.8, 0.8])


def summary(interval):
    return {"ppo": {"minus_random": {"last_quarter": interval}}}


def test_the_verdict_says_what_was_found():
    adam, sgd = (figure4.RIVALS[name] for name in ("adam", "sgd"))
    results = figure4.rank([outcome(adam, [0.5, 0.7]), outcome(sgd, [0.7, 0.91], rate=1.0)])

    def say(interval):
        return figure4.verdict(summary(interval), results, (0.01, 0.1, 1.0))

    assert "reward is above random search's: +0.200 [+0.100, +0.300]" in say((0.2, 0.1, 0.3))
    assert "not told apart from" in say((0.2, -0.1, 0.5))
    assert "reward is below" in say((-0.2, -0.3, -0.1))
    assert "better: SGD; worse: none" in say((0.2, 0.1, 0.3))
    assert say((0.2, 0.1, 0.3)).endswith("Best at the least or the greatest rate: SGD.")


def test_table_6_is_represented_by_its_best():
    rows = {name: rule.accuracy for name, rule in rules.items() if rule.accuracy}
    ranked = sorted(rows, key=lambda name: -rows[name].final_validation)
    assert set(figure4.TABLE_6) == set(ranked[:5])
    for rival in figure4.RIVALS.values():
        assert len(encode(rival.rule).array) <= MAX_ITERATIONS
    assert len({rival.name for rival in figure4.RIVALS.values()}) == len(figure4.RIVALS)


def test_the_figure_has_the_curves_it_claims(tmp_path):
    from matplotlib.figure import Figure

    candidates = [SimpleNamespace(reward=r) for r in (0.1, 0.5, 0.3, 0.7)]
    runs = [Run(s, seed, candidates, 0.9) for s in figure4.STRATEGIES for seed in (0, 1)]
    axes = Figure().subplots()
    figure4.draw_rewards(axes, runs, lambda run: np.maximum.accumulate(run.rewards))
    for line in axes.lines:
        assert line.get_xdata().tolist() == [1, 2, 3, 4]
        assert line.get_ydata() == pytest.approx([0.1, 0.5, 0.5, 0.7])


# Decays: what is measured.

TWO = ("Momentum", "Adam")


def decay_outcomes(scores):
    return [
        outcome(Rival(decays.rival_name(name, schedule), "g", schedule), values)
        for name in TWO
        for schedule, values in scores[name].items()
    ]


SCORES = {
    "Momentum": {"constant": [0.5, 0.6], "cosine": [0.6, 0.8]},
    "Adam": {"constant": [0.7, 0.7], "cosine": [0.8, 0.6]},
}


def test_each_optimizer_is_compared_with_its_own_constant_rate():
    groups = decays.by_optimizer(decay_outcomes(SCORES))
    assert [o.rival.name for o in groups["Adam"]] == ["Adam + constant", "Adam + cosine"]
    results = decays.measure(groups)
    assert [results[name][0].difference for name in TWO] == [None, None]
    assert results["Momentum"][1].difference[0] == pytest.approx(15)
    assert results["Adam"][1].difference[0] == pytest.approx(0)


def test_the_mean_difference_is_over_seeds_or_over_optimizers():
    results = decays.measure(decays.by_optimizer(decay_outcomes(SCORES)))
    means = {over: decays.mean_differences(results, over) for over in ("seeds", "optimizers")}
    # Seeds: (10 + 10) / 2 and (20 - 10) / 2. Optimizers: (10 + 20) / 2 and (10 - 10) / 2.
    for over, error in {"seeds": 2.5, "optimizers": 7.5}.items():
        assert list(means[over]) == ["cosine"]
        mean, low, high = means[over]["cosine"]
        assert mean == pytest.approx(7.5)
        assert high - mean == pytest.approx(12.706 * error, rel=1e-3) == mean - low
    table = decays.differences_table(results, means)
    headers = [*TWO, "mean, over seeds", "mean, over optimizers"]
    assert [column.header for column in table.columns][1:] == headers
    assert next(iter(table.columns[3].cells)).startswith("+7.5 [-24.3,")
    assert next(iter(table.columns[4].cells)).startswith("+7.5 [-87.8,")


def test_the_curves_axis_begins_with_the_second_half():
    curve = [0.1, 0.5, 0.4, 0.7]
    runs = [Training("A", 0.1, seed, curve, curve, curve) for seed in (1, 2)]
    groups = {"A": [Outcome(Rival("A", "g"), 0.1, [], runs)]}
    assert decays.range_shown(groups) == pytest.approx((40 - 3, 70 + 3))


def test_every_optimizer_has_every_schedule():
    assert len({rival.name for rival in decays.RIVALS}) == 4 * len(SCHEDULES)
    assert Rival("Adam + cosine", "adam", "cosine") in decays.RIVALS


# Whole experiments, without training.


def test_figure4_writes_everything(tmp_path, monkeypatch):
    asked = without_training(monkeypatch, figure4, lambda rival, seed: 0.5 + 0.01 * seed)
    engine = FakeEngine()
    engine.trainer = SimpleNamespace(lanes=1)
    monkeypatch.setattr(figure4, "LocalEngine", lambda *args: engine)
    arguments = dataclasses.replace(figure4.SMOKE, out=tmp_path / "runs", results=tmp_path)
    figure4.run(arguments, QUIET)
    ((rivals, rates, epochs, seeds, records),) = asked
    assert [rival.name for rival in rivals] == ["Adam", "PowerSign", "g + drop(m, 0.3)"]
    assert (rates, epochs, seeds) == ((1e-3, 1e-1), 2, [1, 2])
    assert records == tmp_path / "runs" / "records.jsonl"

    name = "figure4_child_digits_smoke"
    content = read_strict(tmp_path / f"{name}.json")
    assert set(content["searches"]["summary"]) == {"ppo", "random"}
    assert [row["name"] for row in content["rules"]] == [rival.name for rival in rivals]
    assert content["rules"][1]["difference"] == pytest.approx([0, 0, 0])
    assert not {"out", "results", "data_dir"} & set(content["arguments"])
    lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["rewards"]) for line in lines] == [8] * 4
    assert "| 93.4 |" in (tmp_path / f"{name}.md").read_text()
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_decays_writes_everything(tmp_path, monkeypatch):
    bonus = {"linear cosine": 0.1}

    def score(rival, seed):
        return 0.5 + 0.01 * seed + bonus.get(rival.schedule, 0)

    asked = without_training(monkeypatch, image_rivals, score)
    grid = SimpleNamespace(epoch_steps=2)
    monkeypatch.setattr(image_rivals, "TrainingGrid", lambda *args, **options: grid)
    arguments = dataclasses.replace(decays.SMOKE, out=tmp_path / "runs", results=tmp_path)
    decays.run(arguments, QUIET)
    ((rivals, rates, epochs, seeds, _),) = asked
    assert (rivals, rates, epochs, seeds) == (decays.RIVALS, (1e-2, 1e-1), 2, [1, 2])
    name = "decays_digits_child_smoke"
    content = read_strict(tmp_path / f"{name}.json")
    assert content["mean_differences"]["linear cosine"] == pytest.approx([10, 10, 10])
    assert content["mean_differences"]["cosine"] == pytest.approx([0, 0, 0])
    assert list(content["optimizers"]) == ["Momentum", "Adam", "PowerSign", "AddSign"]
    text = (tmp_path / f"{name}.md").read_text()
    better = ", ".join(f"{name} + linear cosine" for name in decays.OPTIMIZERS)
    assert f"20 paired t-tests by Holm's procedure at 5 %: better: {better}; worse: none" in text
    assert "Best at the least or the greatest rate: Momentum + constant, " in text
    assert content["mean_differences_over_optimizers"]["cosine"] == pytest.approx([0, 0, 0])
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_more_of_the_same_goes_on_and_another_training_is_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    Records(path, figure4.SMOKE.training()).append({"seed": 1}, {"test": [0.5]})
    more = dataclasses.replace(figure4.SMOKE, rule_seeds=3, rates=(1.0,), samples=9)
    assert Records(path, more.training()).get({"seed": 1}) == {"test": [0.5]}
    with pytest.raises(ValueError, match="another configuration"):
        Records(path, dataclasses.replace(figure4.SMOKE, rule_epochs=3).training())


def test_a_check_reads_no_data(tmp_path):
    output = io.StringIO()
    arguments = decays.PRESETS["child", "cifar10", "smoke"]
    decays.run(dataclasses.replace(arguments, check=True, data_dir=tmp_path), Console(file=output))
    assert "parameters" in output.getvalue() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("experiment", [figure4, decays])
def test_missing_data_is_one_clear_message(experiment, tmp_path, monkeypatch):
    trains = image_rivals if experiment is decays else figure4
    monkeypatch.setattr(trains, "select_devices", lambda kind: jax.devices())
    arguments = dataclasses.replace(
        experiment.SMOKE, dataset="cifar10", data_dir=tmp_path, out=tmp_path / "runs"
    )
    with pytest.raises(ValueError, match="no prepared CIFAR-10 in ") as caught:
        experiment.run(arguments, QUIET)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_every_preset_is_of_its_name():
    for (dataset, scale), preset in figure4.PRESETS.items():
        assert (preset.dataset, preset.scale) == (dataset, scale)
        assert preset.searching().samples == preset.samples
    assert len(figure4.PRESETS) == 6 and next(iter(figure4.PRESETS)) == ("digits", "small")
    assert figure4.Arguments() == figure4.PRESETS["cifar10", "paper"]
    assert set(decays.PRESETS) == {
        (model, dataset, scale)
        for model in ("child", "wrn")
        for dataset in ("digits", "cifar10")
        for scale in ("paper", "small", "smoke")
    }
    for preset in (*figure4.PRESETS.values(), *decays.PRESETS.values()):
        if preset.scale == "paper":
            assert preset.rates == (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (figure4.Arguments, {"searches": 1}, "--searches must be at least 2, got 1"),
        (figure4.Arguments, {"rule_seeds": 1}, "--rule-seeds must be at least 2"),
        (figure4.Arguments, {"rules": ("sgd",)}, "--rules must be adam and others"),
        (figure4.Arguments, {"rules": ("adam", "adm")}, "got adam, adm"),
        (figure4.Arguments, {"rates": ()}, "--rates is empty"),
        (decays.Arguments, {"seeds": 1}, "--seeds must be at least 2"),
        (decays.Arguments, {"rates": ()}, "--rates is empty"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


# The smallest runs.


def run_smoke(experiment, tmp_path, *arguments):
    command = [sys.executable, str(FOLDER / experiment), "--scale", "smoke", "--accelerator", "cpu"]
    command += ["--results", str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_smoke_of_figure4(tmp_path):
    assert "g + drop(m, 0.3)" in run_smoke("figure4_child.py", tmp_path)
    content = read_strict(tmp_path / "figure4_child_digits_smoke.json")
    finals = [row["values"]["final_test"] for row in content["rules"]]
    assert min(map(min, finals)) > 0 and max(map(max, finals)) > 15, "all guess blindly"


@pytest.mark.parametrize(("model", "suffix"), [("child", "_child"), ("wrn", "")])
def test_smoke_of_the_decays(tmp_path, model, suffix):
    run_smoke("decays.py", tmp_path, "--model", model)
    content = read_strict(tmp_path / f"decays_digits{suffix}_smoke.json")
    rows = [row for group in content["optimizers"].values() for row in group]
    assert len(rows) == 24
    # Another schedule is another training.
    losses = {str(row["tuning"][0]["loss"]) for row in content["optimizers"]["Momentum"]}
    assert len(losses) == 6

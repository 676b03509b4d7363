"""The experiments on the child: numbers made by hand, runs without training, and the smallest."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import decays
import figure4_child as figure4
import jax
import numpy as np
import pytest
from fake_engine import FakeEngine
from figure4 import hyperparameters as child
from harness import image_rivals
from harness.rival_tables import accuracy
from harness.tables import markdown
from harness.tuning import HALF_DECADES, Outcome, Rival, Settings, Training, compare, make_loop
from rich.console import Console
from rich.progress import Progress
from strategies.measures import Run

from nos_optax import rules
from nos_optax.compare.records import Records
from nos_optax.compare.statistics import Difference
from nos_optax.grammar import encode
from nos_optax.grammar.program import MAX_ITERATIONS

FOLDER = Path(__file__).parents[1] / "experiments"

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

    def compare(loop, rivals, rates, parts, seeds, records, progress, tuning_seeds=(0,)):
        del loop, progress, tuning_seeds
        asked.append((rivals, rates, parts, list(seeds), records.path))
        tried = rates[rivals[0].name].rates if isinstance(rates, dict) else rates
        return [outcome(r, [score(r, seed) for seed in seeds], tried[0], tried) for r in rivals]

    monkeypatch.setattr(experiment, "select_devices", lambda kind: jax.devices())
    loop = SimpleNamespace(loop=SimpleNamespace(max_steps=4))
    monkeypatch.setattr(experiment, "make_loop", lambda *args, **options: loop)
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
    assert results[0].difference[:3] == pytest.approx((20, 20, 20))
    assert results[1].difference is None
    assert results[2].diverged == 2 and results[2].values["final_test"] == [10, 10]


def test_searches_are_kept_by_strategy_in_the_order_of_their_seeds():
    def candidate(i, reward):
        names = {"id": i, "origin": i, "digest": f"{i}", "fingerprint": f"{i}"}
        return SimpleNamespace(reward=reward, status="trained", is_training=True, **names)

    rewards = {("ppo", 0): 0.2, ("random", 0): 0.4, ("ppo", 1): 0.6, ("random", 1): 0.8}
    runs = [
        Run(*key, [candidate(0, 0.1), *(candidate(i, reward) for i in range(1, 8))], 0.9)
        for key, reward in rewards.items()
    ]
    measures = figure4.measure_searches(runs, chance=0.1)
    found = {(s, row["seed"]): row["best"] for s, rows in measures.items() for row in rows}
    assert found == rewards and list(measures) == ["ppo", "random"]
    assert measures["random"][1]["quarters"] == pytest.approx([0.45, 0.8, 0.8, 0.8])


def test_different_rules_are_told_by_algebra_and_updates_by_what_they_do():
    candidates = [
        SimpleNamespace(status="trained", digest="a", fingerprint="1"),
        SimpleNamespace(status="trained", digest="b", fingerprint="1"),
        SimpleNamespace(status="trained", digest="a", fingerprint="1"),
        SimpleNamespace(status="rejected", digest="c", fingerprint=None),
    ]
    found = figure4.count_different(Run("ppo", 0, candidates, 0.9))
    assert found == {"different_rules": 3, "different_updates": 1}


def test_the_verdict_says_whether_the_controller_learns():
    intervals = {1: (0.2, 0.1, 0.3), 2: (0.2, -0.1, 0.5), 3: (-0.2, -0.3, -0.1)}  # p is not said
    said = figure4.searches_verdict(
        {d: {"ppo": {"minus_random": {"last_quarter": i}}} for d, i in intervals.items()}
    )
    assert "Depth 1: in the last quarter, PPO's mean reward is above random search's: " in said
    assert "is above random search's: +0.200 [+0.100, +0.300]. Depth 2: " in said
    assert said.count("not told apart from") == 1 and "mean reward is below" in said


def test_the_verdict_says_which_rules_are_better():
    adam, sgd = (figure4.RIVALS[name] for name in ("adam", "sgd"))
    results = figure4.rank([outcome(adam, [0.5, 0.7]), outcome(sgd, [0.7, 0.91], rate=1.0)])
    said = figure4.rules_verdict(results)
    assert "better: SGD; worse: none" in said
    assert said.endswith("Best at the least or the greatest rate: SGD.")


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
    searches = {1: runs, 3: runs}
    figure4.draw_rewards(axes, searches, lambda run: np.maximum.accumulate(run.rewards))
    labels = [f"{s}, depth {d}, 2 searches" for d in searches for s in figure4.STRATEGIES]
    assert [line.get_label() for line in axes.lines] == labels
    for line in axes.lines:
        assert line.get_xdata().tolist() == [1, 2, 3, 4]
        assert line.get_ydata() == pytest.approx([0.1, 0.5, 0.5, 0.7])


# Bases and averages.


@pytest.fixture(scope="module")
def small_task():
    images = figure4.read(figure4.SMOKE)
    return figure4.make_task(figure4.SMOKE, images)


def train_variants(task, folder, names, epochs=2, rates=(0.03,)):
    rivals = [child.rival(name) for name in names]
    loop = make_loop(task, 50, epochs, rivals, jax.devices())
    parts = epochs * child.evaluations(loop.loop.max_steps // epochs)
    with Progress(disable=True) as progress:
        records = Records(folder / "hyperparameters.jsonl", {})
        return compare(loop, rivals, rates, parts, (5,), records, progress)


def test_variants_with_the_defaults_train_as_rules(small_task, tmp_path):
    names = [child.POWERSIGN, child.ADDSIGN]
    variants = train_variants(small_task, tmp_path, names)
    rivals = [outcome.rival._replace(factory=None) for outcome in variants]
    loop = make_loop(small_task, 50, 2, rivals, jax.devices())
    with Progress(disable=True) as progress:
        records = Records(tmp_path / "rules.jsonl", {})
        found = compare(loop, rivals, (0.03,), 8, (5,), records, progress)
    for variant, rule in zip(variants, found, strict=True):
        (mine,), (theirs,) = variant.runs, rule.runs
        assert len(mine.loss) == 8
        np.testing.assert_allclose(mine.loss, theirs.loss, rtol=1e-3)
        np.testing.assert_allclose(mine.test, theirs.test, atol=0.03)


def test_every_variant_is_another_training(small_task, tmp_path):
    outcomes = train_variants(small_task, tmp_path, child.VARIANTS, epochs=4)
    assert len({str(outcome.runs[0].loss) for outcome in outcomes}) == len(child.VARIANTS)


def test_a_variant_that_diverges_is_nan_from_then_on(small_task, tmp_path):
    (outcome,) = train_variants(small_task, tmp_path, ["PowerSign"], rates=(1e30,))
    (training,) = outcome.runs
    assert np.isnan(training.validation[1:]).all() and training.final == -np.inf


def test_an_epoch_is_looked_at_as_often_as_its_steps_divide():
    assert [child.evaluations(steps) for steps in (8, 9, 10, 11)] == [4, 3, 2, 1]


def test_the_rules_of_the_variants():
    rules_of = {rival.name: rival.rule for rival in child.RIVALS}
    assert rules_of["PowerSign, base 4"] == "4^(sign(g) * sign(m)) * g"
    assert rules_of["PowerSign, b1 0.99"] == rules_of["PowerSign"] == str(rules["powersign"].rule)
    assert rules_of["AddSign, b1 0.8"] == str(rules["addsign"].rule)
    assert child.VARIANTS["PowerSign, base 10"].base == 10


def test_steps_to_the_level_by_hand():
    def made(name, *curves):
        runs = [Training(name, 0.1, s, [], curve, curve) for s, curve in enumerate(curves, 1)]
        return Outcome(Rival(name, "g"), 0.1, runs[:1], runs)

    outcomes = [
        made("PowerSign", [0.5, 1.0], [0.1, 0.9]),  # mean 0.95: the level is 0.1 + 0.9 * 0.85
        made("PowerSign, base 4", [0.9, 0.9], [0.865, 0.8]),
        made("PowerSign, b1 0.8", [0.1, 0.2], [0.9, 0.9]),
        made("AddSign", [0.5, 0.5], [0.5, 0.7]),
    ]
    rows = child.measure(outcomes, accuracy(10), steps_between=5)
    found = {row.result.name: row for row in rows}
    expected = [5 * (1 + 0.365 / 0.5), 5 * (1 + 0.765 / 0.8)]
    assert found["PowerSign"].steps == pytest.approx(expected)
    four = [5 * 0.765 / 0.8, 5.0]
    assert found["PowerSign, base 4"].steps == pytest.approx(four)
    assert found["PowerSign, base 4"].fewer.mean == pytest.approx(np.mean(four) - np.mean(expected))
    assert found["PowerSign, b1 0.8"].steps[0] == np.inf
    assert found["PowerSign, b1 0.8"].fewer is None
    text = markdown(child.table(rows, accuracy(10)))
    assert text.count("not reached by all") == 3  # steps and difference; AddSign's 0.5
    said = child.verdict(rows)
    assert said.startswith("Other bases, fewer steps to the level, 1 paired t-tests")
    assert "Other averages, final test against b1 0.9, 1 paired" in said


# Decays: what is measured.


def decay_outcome(name, schedule, curves, tuning):
    """Return what became of a rival, from validation curves and tuning scores by seed and rate."""
    rival = Rival(decays.rival_name(name, schedule), "g", schedule)
    runs = [Training(rival.name, 0.1, s, [], curve, curve) for s, curve in enumerate(curves, 9)]
    tried = [
        Training(rival.name, rate, seed, [], [score], [score])
        for seed, scores in enumerate(tuning)
        for rate, score in scores.items()
    ]
    return Outcome(rival, 0.1, tried, runs)


FLAT = {0.01: 0.3, 0.1: 0.5, 1.0: 0.3}
TILTED = {0.01: 0.3, 0.1: 0.5, 1.0: 0.4}
CURVES = {
    "constant": [[0.4, 0.6], [0.5, 0.7]],  # the level is 0.65
    "cosine": [[0.4, 0.9], [0.5, 0.8]],
    "linear cosine": [[0.65, 0.9], [0.8, 0.8]],
}


def decay_outcomes(names=("SGD", "AddSign-ld")):
    return [
        decay_outcome(name, schedule, curves, [TILTED if "linear" in schedule else FLAT, FLAT])
        for name in names
        for schedule, curves in CURVES.items()
    ]


def test_each_optimizer_is_compared_with_its_own_constant_rate():
    groups = decays.by_optimizer(decay_outcomes())
    assert list(groups) == ["SGD", "AddSign-ld"]
    results = decays.measure(groups)["AddSign-ld"]
    assert [r.name for r in results][:2] == ["AddSign-ld (constant)", "AddSign-ld (cosine)"]
    assert results[0].difference is None and results[1].difference[0] == pytest.approx(20)


def test_speed_by_hand():
    speeds = decays.measure_speed(decay_outcomes(["SGD"]))
    assert [speed.level for speed in speeds.values()] == pytest.approx([0.65] * 3)
    assert speeds["constant"].epochs == [np.inf, pytest.approx(1.75)]
    assert speeds["cosine"].epochs == pytest.approx([1.5, 1.5])
    assert speeds["linear cosine"].epochs == pytest.approx([1.0, 0.55 / 0.7])
    # A parabola through 0.3, 0.5 and 0.4 has its top a sixth of a decade to the right.
    assert speeds["linear cosine"].rates == pytest.approx([0.1 * 10 ** (1 / 6), 0.1])
    assert speeds["cosine"].rates == pytest.approx([0.1, 0.1])


def test_a_found_decay_is_compared_with_cosine_by_seed():
    groups = decays.by_optimizer(decay_outcomes())
    results = decays.measure(groups)
    speeds = {name: decays.measure_speed(group) for name, group in groups.items()}
    found = decays.compare_with_cosine(results, speeds)
    assert list(found) == [f"{n} (linear cosine)" for n in ("SGD", "AddSign-ld", "mean")]
    for row in found.values():
        assert row.log_rate[0] == pytest.approx(np.log(10) / 12)
        assert row.epochs[0] == pytest.approx((1.0 + 0.55 / 0.7) / 2 - 1.5)
        assert row.accuracy[:3] == pytest.approx((0, 0, 0))
    _, ratios, epochs, _ = (list(c.cells) for c in decays.comparison_table(found).columns)
    assert ratios[0].startswith("1.21 [") and epochs[0].startswith("-0.61 [")


def test_what_is_never_reached_has_no_difference():
    outcomes = decay_outcomes(["SGD"])
    low = [Training("SGD (cosine)", 0.1, s, [], [0.2, 0.3], [0.2, 0.3]) for s in (9, 10)]
    outcomes[1] = outcomes[1]._replace(runs=low)
    groups = decays.by_optimizer(outcomes)
    speeds = {"SGD": decays.measure_speed(groups["SGD"])}
    found = decays.compare_with_cosine(decays.measure(groups), speeds)
    assert found["SGD (linear cosine)"].epochs is None
    assert found["SGD (linear cosine)"].accuracy[0] == pytest.approx(55)
    assert decays.epochs_text(speeds["SGD"]["cosine"].epochs) == "never in 2 of 2"
    assert decays.epochs_text([1.0, 2.0, np.inf]) == "1.50 ± 0.50, never in 1 of 3"


def test_one_tuning_seed_gives_no_interval_of_the_rates():
    assert decays.ratio_text(None) == "one seed"
    assert decays.ratio_text(Difference(0.0, np.log(0.5), np.log(2), 1.0)) == "1.00 [0.50, 2.00]"


def test_the_curves_axis_begins_with_the_second_half():
    curve = [0.1, 0.5, 0.4, 0.7]
    runs = [Training("A", 0.1, seed, curve, curve, curve) for seed in (1, 2)]
    groups = {"A": [Outcome(Rival("A", "g"), 0.1, [], runs)]}
    assert decays.range_shown(groups) == pytest.approx((40 - 3, 70 + 3))


def test_every_optimizer_has_every_schedule_that_is_asked_for():
    small = decays.PRESETS["small"]
    rivals = small.rivals()
    assert len({rival.name for rival in rivals}) == 3 * 4
    cosine = Rival("PowerSign-cd (cosine)", str(rules["powersign_cd"].rule), "cosine")
    assert cosine in rivals
    more = dataclasses.replace(small, schedules=(*small.schedules, "noisy linear cosine"))
    assert set(rivals) < set(more.rivals()) and more.training() == small.training()


# Whole experiments, without training.


def test_figure4_writes_everything(tmp_path, monkeypatch):
    asked = without_training(monkeypatch, figure4, lambda rival, seed: 0.5 + 0.01 * seed)
    engine = FakeEngine()
    engine.trainer = SimpleNamespace(lanes=1)
    monkeypatch.setattr(figure4, "LocalEngine", lambda *args: engine)
    folders = {"out": tmp_path / "runs", "results": tmp_path}
    arguments = dataclasses.replace(figure4.SMOKE, depths=(1, 2), **folders)
    figure4.run(arguments, QUIET)
    (rivals, rates, epochs, seeds, records), (variants, settings, parts, again, _) = asked
    assert [rival.name for rival in rivals] == ["Adam", "PowerSign", "g + drop(m, 0.3)"]
    assert (rates, epochs, seeds) == ((1e-3, 1e-1), 2, [1, 2])
    assert (variants, parts, again) == (child.RIVALS, 4, [1, 2])
    assert set(settings.values()) == {Settings(child.START, beyond=HALF_DECADES)}
    assert records == tmp_path / "runs" / "records.jsonl"

    name = "figure4_child_digits_smoke"
    content = read_strict(tmp_path / f"{name}.json")
    assert list(content["searches"]) == ["1", "2"]
    assert set(content["searches"]["2"]["summary"]) == {"ppo", "random"}
    assert [row["result"]["name"] for row in content["hyperparameters"]] == list(child.VARIANTS)
    assert [row["name"] for row in content["rules"]] == [rival.name for rival in rivals]
    assert content["rules"][1]["difference"][:3] == pytest.approx([0, 0, 0])
    assert not {"out", "results", "data_dir"} & set(content["arguments"])
    lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["rewards"]) for line in lines] == [8] * 8
    assert "| 93.4 |" in (tmp_path / f"{name}.md").read_text()
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_decays_writes_everything(tmp_path, monkeypatch):
    bonus = {"linear cosine": 0.1}

    def score(rival, seed):  # two seeds that agree exactly would decide nothing
        return 0.5 + 0.01 * seed + bonus.get(rival.schedule, 0) * (1 + 1e-4 * seed)

    asked = without_training(monkeypatch, image_rivals, score)
    smoke = decays.PRESETS["smoke"]
    decays.run(dataclasses.replace(smoke, out=tmp_path / "runs", results=tmp_path), QUIET)
    ((rivals, settings, epochs, seeds, _),) = asked
    assert (rivals, epochs, seeds) == (smoke.rivals(), 2, [2, 3])
    assert set(settings.values()) == {Settings((1e-2, 10.0))}
    content = read_strict(tmp_path / "decays_digits_smoke.json")
    assert list(content["optimizers"]) == list(decays.OPTIMIZERS)
    compared = content["against_cosine"]
    assert compared["SGD (linear cosine)"]["accuracy"][:3] == pytest.approx([10] * 3, abs=0.02)
    assert compared["mean (noisy linear cosine)"]["accuracy"][:3] == pytest.approx([0, 0, 0])
    text = (tmp_path / "decays_digits_smoke.md").read_text()
    better = ", ".join(f"{name} (linear cosine)" for name in decays.OPTIMIZERS)
    assert f"12 paired t-tests by Holm's procedure at 5 %: better: {better}; worse: none" in text
    assert "Best at the least or the greatest rate: SGD (constant), " in text
    assert "| 95.4 / 95.3 |" in text
    assert (tmp_path / "decays_digits_smoke.png").read_bytes().startswith(b"\x89PNG")


def test_more_of_the_same_goes_on_and_another_training_is_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    Records(path, figure4.SMOKE.training()).append({"seed": 1}, {"test": [0.5]})
    more = dataclasses.replace(figure4.SMOKE, rule_seeds=3, rates=(1.0,), samples=9)
    assert Records(path, more.training()).get({"seed": 1}) == {"test": [0.5]}
    with pytest.raises(ValueError, match="another configuration"):
        Records(path, dataclasses.replace(figure4.SMOKE, rule_epochs=3).training())


def test_a_check_reads_no_data(tmp_path):
    output = io.StringIO()
    arguments = dataclasses.replace(decays.PRESETS["smoke"], model="child", check=True)
    decays.run(dataclasses.replace(arguments, data_dir=tmp_path), Console(file=output))
    assert "parameters" in output.getvalue() and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("experiment", "preset"), [(figure4, figure4.SMOKE), (decays, decays.PRESETS["small"])]
)
def test_missing_data_is_one_clear_message(experiment, preset, tmp_path, monkeypatch):
    trains = image_rivals if experiment is decays else figure4
    monkeypatch.setattr(trains, "select_devices", lambda kind: jax.devices())
    arguments = dataclasses.replace(
        preset, dataset="cifar10", data_dir=tmp_path, out=tmp_path / "runs"
    )
    with pytest.raises(ValueError, match="no prepared CIFAR-10 in ") as caught:
        experiment.run(arguments, QUIET)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_every_preset_is_of_its_name():
    for (dataset, scale), preset in figure4.PRESETS.items():
        assert (preset.dataset, preset.scale) == (dataset, scale)
        for depth in preset.depths:
            searching = preset.searching(depth)
            assert (searching.samples, searching.iterations) == (preset.samples, depth)
        assert len({preset.searching(depth).out for depth in (1, 2)}) == 2
    assert len(figure4.PRESETS) == 6 and next(iter(figure4.PRESETS)) == ("digits", "small")
    assert figure4.Arguments() == figure4.PRESETS["cifar10", "paper"]
    assert list(decays.PRESETS) == ["small", "paper", "smoke"]
    for scale, preset in decays.PRESETS.items():
        assert preset.scale == scale and preset.weight_decays == (0.0,)


def test_the_papers_scale_is_the_papers():
    paper = figure4.PRESETS["cifar10", "paper"]
    assert paper.depths == (1, 2, 3, 4) and paper.samples >= 14_400 and paper.preset == "paper"
    assert paper.rates == (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    small = figure4.PRESETS["digits", "small"]
    assert (small.preset, small.samples) == ("paper", 20_000)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (figure4.Arguments, {"searches": 1}, "--searches must be at least 2, got 1"),
        (figure4.Arguments, {"rule_seeds": 1}, "--rule-seeds must be at least 2"),
        (figure4.Arguments, {"rules": ("sgd",)}, "--rules must be adam and others"),
        (figure4.Arguments, {"rules": ("adam", "adm")}, "got adam, adm"),
        (figure4.Arguments, {"rates": ()}, "--rates is empty"),
        (figure4.Arguments, {"depths": (1, 5)}, "--depths must be of 1, 2, 3 and 4"),
        (decays.Arguments, {"schedules": ("constant",)}, "--schedules must be constant, cosine"),
        (decays.Arguments, {"optimizers": ("Adam",)}, "--optimizers must be of SGD"),
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


def test_smoke_of_the_decays(tmp_path):
    run_smoke("decays.py", tmp_path)
    content = read_strict(tmp_path / "decays_digits_smoke.json")
    rows = [row for group in content["optimizers"].values() for row in group]
    assert len(rows) == 15
    # Another schedule is another training.
    losses = {str(row["tuning"][0]["loss"]) for row in content["optimizers"]["SGD"]}
    assert len(losses) == 5

"""Comparisons: the same budget for every rival, fresh seeds, paired differences, Holm."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import nos_optax
from nos_optax._command import protect_minus
from nos_optax.compare import Budget, Comparison, Rival, as_rival, compare
from nos_optax.compare.results import interval, rows_of
from nos_optax.compare.statistics import Difference, difference, holm
from nos_optax.compare.trials import EXTENSIONS, Outcome, Training
from nos_optax.population import Reference, Task, TaskLoop, Workload
from nos_optax.population.reference import LENGTHS, training_digest
from nos_optax.population.tasks import digits_mlp, table
from nos_optax.population.workloads import load_workload

SOURCE = """
import jax, jax.numpy as jnp, numpy as np, optax
from nos_optax.population import Task, Workload

rng = np.random.default_rng(0)
x = rng.normal(size=(64, 3)).astype(np.float32)
y = (x @ np.array([1.0, -2.0, 3.0]) + 0.1 * rng.normal(size=64)).astype(np.float32)

def loss(params, state, batch, key):
    return jnp.mean((batch[0] @ params["w"] + params["b"] - batch[1]) ** 2), state

def line(**changes):
    return Task(
        "line", lambda key: ({"w": 0.1 * jax.random.normal(key, (3,)), "b": jnp.zeros([])}, ()),
        loss, lambda p, state, b: -jnp.abs(b[0] @ p["w"] + p["b"] - b[1]),
        **({"train": (x[:48], y[:48]), "validation": (x[48:], y[48:]), "chance": -9.0} | changes))

def short():
    return Workload(line(), 8, 12)

task = line()
number = 3

def heavy_ball(rate):
    return optax.sgd(rate, momentum=0.9)

def two(rate, decay):
    return optax.sgd(rate)

def not_one(rate):
    return rate

def branches(rate):
    return optax.sgd(rate) if rate > 0.1 else optax.adam(rate)

def odd_state(rate):
    def update(g, state, params=None):
        return jax.tree.map(lambda x: -rate * x, g), state + 0.5
    return optax.GradientTransformation(lambda params: jnp.zeros([], int), update)

def odd_update(rate):
    return optax.GradientTransformation(
        lambda params: (), lambda g, state, params=None: (jnp.zeros([]), state))

def raises():
    return {}["nothing"]
"""
RIVALS = ("adam", "optax.lion", "2.5 * g", "my_line:heavy_ball")
BUDGET = Budget(rates=(0.01, 0.1, 0.5), seeds=3)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The module of a user, importable here."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_line.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield __import__("my_line")


@pytest.fixture(scope="module")
def found(own, tmp_path_factory):
    """A comparison, and its folder."""
    out = tmp_path_factory.mktemp("compared")
    return compare(RIVALS, "my_line:short", budget=BUDGET, out=out), out


@pytest.mark.slow
def test_every_rival_has_the_same_seeds_and_a_rate_inside_its_own(found):
    comparison, _ = found
    assert comparison.tasks == ["line"] and comparison.baseline == "adam"
    for row in comparison.rows:
        assert row.n == len(row.scores) == 3 and set(BUDGET.rates) <= set(row.rates)
        assert row.inside == (min(row.rates) < row.rate < max(row.rates))
        assert row.mean == pytest.approx(np.mean(row.scores))
        assert row.deviation == pytest.approx(np.std(row.scores, ddof=1))
    means = [row.mean for row in comparison.rows]
    assert means == sorted(means, reverse=True)


def test_scores_are_those_of_a_plain_optax_loop(found, own):
    row = next(row for row in found[0].rows if row.name == "my_line:heavy_ball")
    task, loop = own.task, TaskLoop(own.task, 8, 12, 1)
    for seed, score in zip((1, 2, 3), row.scores, strict=True):  # 0 chose the rate
        init_key, _, loss_key = jax.random.split(jax.random.key(seed), 3)
        params, _ = task.init(init_key)
        optimizer = own.heavy_ball(row.rate)
        state = optimizer.init(params)
        for rows in loop.order(seed):
            batch = jax.tree.map(lambda x: x[rows], task.train)  # noqa: B023
            g = jax.grad(lambda p: task.loss(p, (), batch, loss_key)[0])(params)  # noqa: B023
            update, state = optimizer.update(g, state, params)
            params = optax.apply_updates(params, update)
        assert score == pytest.approx(float(task.metric(params, (), task.validation).mean()), 1e-4)


def test_a_rule_without_tokens_trains_like_one_with_them(own, tmp_path):
    """2.5 g at a rate is g at 2.5 times that rate."""
    budget = Budget(rates=(0.02,), seeds=2)
    one = compare(["2.5 * g", "g"], own.short(), budget=budget, out=tmp_path / "a")
    budget = dataclasses.replace(budget, rates=(0.05,))
    two = compare(["g", "2.5 * g"], own.short(), budget=budget, out=tmp_path / "b")
    scores = [
        next(row.scores for row in rows if row.name == name)
        for rows, name in ((one.rows, "2.5 * g"), (two.rows, "g"))
    ]
    np.testing.assert_allclose(*scores, rtol=1e-5)


@pytest.mark.parametrize(
    "line",
    ["3", "{}", '{"key": 3, "values": {}}', '{"key": {}, "values": 3}', "{", "null"],
)
def test_a_damaged_line_is_named_with_the_remedy(found, tmp_path, line):
    out = shutil.copytree(found[1], tmp_path / "copy")
    (file,) = (out / "trainings").glob("*.jsonl")
    first, second, *rest = file.read_text().splitlines()
    file.write_text("\n".join([first, line, *rest]) + "\n")
    with pytest.raises(ValueError, match=r"line_.*jsonl is damaged in line 2; delete that line"):
        compare(RIVALS, "my_line:short", budget=BUDGET, out=out)
    values = json.dumps(json.loads(second) | {"values": {"loss": "low"}})
    file.write_text("\n".join([first, values, *rest]) + "\n")
    with pytest.raises(ValueError, match=r"is damaged: the training .*delete that line"):
        compare(RIVALS, "my_line:short", budget=BUDGET, out=out)
    file.write_text("\n".join([first, *rest]) + "\n")  # the remedy
    assert compare(RIVALS, "my_line:short", budget=BUDGET, out=out).rows == found[0].rows


def test_a_folder_of_something_else_is_refused(own, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "results.json").write_text("{}")
    for out, kind, message in (
        (tmp_path / "file", NotADirectoryError, "is a file; name a folder"),
        (tmp_path, FileExistsError, "is of something else; name another folder"),
    ):
        with pytest.raises(kind, match=message):
            compare(["g", "m"], own.short(), budget=BUDGET, out=out)
    assert (tmp_path / "results.json").read_text() == "{}"


def test_the_same_call_again_trains_nothing_and_writes_the_same(found):
    comparison, out = found
    names = ("results.json", "results.md")
    before = [(out / name).read_text() for name in names]
    with mock.patch.object(TaskLoop, "train_seeds", side_effect=AssertionError):
        assert compare(RIVALS, "my_line:short", budget=BUDGET, out=out) == comparison
    assert [(out / name).read_text() for name in names] == before


def test_a_killed_comparison_goes_on_to_the_same_end(found, tmp_path):
    train, calls = TaskLoop.train_seeds, []

    def killed(self, *args):
        calls.append(args)
        if len(calls) in (2, 5):
            raise KeyboardInterrupt
        return train(self, *args)

    with mock.patch.object(TaskLoop, "train_seeds", killed):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                compare(RIVALS, "my_line:short", budget=BUDGET, out=tmp_path)
        again = compare(RIVALS, "my_line:short", budget=BUDGET, out=tmp_path)
    assert again.rows == found[0].rows


def test_another_rival_trains_only_itself(found, tmp_path):
    out = shutil.copytree(found[1], tmp_path / "copy")
    train, optimizers = TaskLoop.train_seeds, set()

    def watched(self, optimizer, *args):
        optimizers.add(optimizer)
        return train(self, optimizer, *args)

    with mock.patch.object(TaskLoop, "train_seeds", watched):
        more = compare(["adam", "optax.lion", "optax.sgd"], "my_line:short", budget=BUDGET, out=out)
    assert optimizers == {optax.sgd} and len(more.rows) == 3
    before = {row.name: row.scores for row in found[0].rows}
    for row in more.rows:
        assert row.scores == before.get(row.name, row.scores)


def test_rates_go_on_beyond_an_end_that_is_best(own, tmp_path):
    budget = Budget(rates=(1e-4, 2e-4), seeds=2)
    far = compare(["g", "m"], own.short(), budget=budget, out=tmp_path)
    for row in far.rows:
        assert len(row.rates) == 2 + EXTENSIONS and row.rate == max(row.rates)
        np.testing.assert_allclose(row.rates, 1e-4 * 2.0 ** np.arange(6), rtol=1e-6)
        assert not row.inside
    (note,) = far.notes()
    assert "at an end of those tried" in note and "m on line" in note
    assert "Give more --rates" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_the_test_set_judges_and_never_chooses(own, tmp_path):
    """Where test scores are the negative of validation's, the worst test score is reported."""
    task = own.line(test=(own.x[48:], own.y[48:] + 100))
    row = compare(["g", "m"], Workload(task, 8, 12), budget=BUDGET, out=tmp_path).rows[0]
    assert row.mean < -90 and row.rate > 0.01


def test_a_rival_that_diverges_is_named_and_scores_by_chance(own, tmp_path):
    budget = Budget(rates=(1e4, 1e5, 1e6), seeds=2)
    rows = compare(["g^3", "adam"], own.short(), budget=budget, out=tmp_path)
    lost = next(row for row in rows.rows if row.name == "g^3")
    assert lost.scores == (-9.0, -9.0) and lost.learned == 0
    assert "g^3 on line (2 of 2)" in " ".join(rows.notes())


REFERENCE = Reference(0.01, *[tuple(10.0 - np.log2(LENGTHS))] * 3)


@pytest.mark.slow
def test_speed_is_in_doublings_of_adams_training(own, tmp_path):
    def of_adam(loop, horizon, store):
        assert horizon == 12 and loop.max_steps == 36
        return REFERENCE

    with mock.patch("nos_optax.population.suite.cached_reference", of_adam):
        budget = dataclasses.replace(BUDGET, measure="speed")
        fast = compare(["adam", "g"], own.short(), budget=budget, out=tmp_path)
    for row in fast.rows:  # every loss is below the reference's least
        assert row.scores == pytest.approx([np.log2(3)] * 3)
    (note,) = [note for note in fast.notes() if "doublings can be told" in note]
    assert "On line no more than 1.58" in note and "adam (3 of 3), g (3 of 3)" in note


@pytest.mark.slow
def test_centred_rates_follow_a_rivals_scale_and_all_tasks_have_rows(tmp_path):
    budget = Budget((0.3, 1.0, 3.0), 1, 2, "speed", centred=True, first_seed=10**6)
    small = [Workload(digits_mlp(), 16, 16), Workload(table(), 16, 16)]
    found = compare(["adam", "64 * adam", "g"], small, budget=budget, out=tmp_path)
    assert found.tasks == ["all tasks", "digits-mlp", "table"]
    for task in found.tasks:
        rows = {row.name: row for row in found.of(task)}
        # Six digits of the rate are kept.
        np.testing.assert_allclose(rows["64 * adam"].rate * 64, rows["adam"].rate, rtol=1e-5)
        np.testing.assert_allclose(rows["64 * adam"].scores, rows["adam"].scores, atol=1e-3)
    for name in ("adam", "g"):
        each = [next(r for r in found.of(task) if r.name == name) for task in found.tasks]
        np.testing.assert_allclose(
            each[0].scores, np.mean([row.scores for row in each[1:]], axis=0), rtol=1e-12
        )
    assert "Each score is the mean over the tasks" in (tmp_path / "results.md").read_text()
    seeds = {
        json.loads(line)["key"]["seed"]
        for file in (tmp_path / "trainings").glob("*.jsonl")
        for line in file.read_text().splitlines()[1:]
    }
    assert seeds == {10**6, 10**6 + 1, 10**6 + 2}


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["loss", "training-loss"])
def test_of_losses_the_lower_is_better(own, tmp_path, measure):
    budget = dataclasses.replace(BUDGET, measure=measure)
    comparison = compare(["1e-4 * w", "g"], own.short(), budget=budget, out=tmp_path)
    best, worst = comparison.rows
    assert best.name == "g" and best.mean < worst.mean and best.verdict == "better"
    assert best.difference is not None and best.difference.mean < 0


def test_what_is_written(found):
    comparison, out = found
    content = json.loads((out / "results.json").read_text())
    rivals = content["tasks"]["line"]["rivals"]
    assert {rival["name"]: rival["what"] for rival in rivals} == {
        "adam": "adam",
        "optax.lion": "optax.lion",
        "2.5 * g": "2.5 * g",
        "my_line:heavy_ball": "my_line:heavy_ball",
    }
    for rival, row in zip(rivals, comparison.rows, strict=True):
        assert rival["n"] == 3 and rival["verdict"] == row.verdict
        if row.difference:
            low, high = rival["interval"]
            assert low <= rival["difference"] <= high and 0 <= rival["p"] <= rival["p_holm"] <= 1
    text = (out / "results.md").read_text()
    for said in (comparison.sentence("line"), comparison.leaders("line")):
        assert said in re.sub(r"\\(.)", r"\1", text)
    assert "| `2.5 * g` |" in text and r"heavy\_ball" in text  # no emphasis there
    picture = ElementTree.parse(out / "results.svg").getroot()
    assert picture.tag.endswith("svg") and picture.get("viewBox")


def outcome(name: str, values) -> Outcome:
    run = Training(1.0, 1.0, 2.0, 0.5, np.nan)
    return Outcome(Rival(name, name, optax.sgd), 0.1, (0.01, 0.1, 1.0), (run,) * 4, tuple(values))


def test_the_same_scores_stand_against_any_rival():
    outcomes = [
        outcome("base", [1.0, 2.0, 3.0, 4.0]),
        outcome("best", [2.0, 3.01, 4.0, 5.01]),
        outcome("near", [2.3, 2.6, 4.2, 4.8]),
    ]
    rows = rows_of("x", outcomes, "base", "score")
    found = Comparison("score", "base", tuple(rows), {})
    turned = found.against("best")
    assert turned.baseline == "best" and turned.against("base") == found
    there, back = ({row.name: row.difference for row in each.of("x")} for each in (found, turned))
    assert back["best"] is None and back["base"].mean == pytest.approx(-there["best"].mean)
    assert {row.name: row.verdict for row in turned.of("x")} == {
        "best": "baseline",
        "near": "undecided",
        "base": "worse",
    }
    assert found.leaders("x").startswith("x: the best mean is that of best; not told apart from")
    assert "near (-0.0" in found.leaders("x") and "base" not in found.leaders("x")
    pair = Comparison("score", "base", tuple(rows_of("x", outcomes[:2], "base", "score")), {})
    assert pair.leaders("x").endswith("all others are worse.")
    with pytest.raises(ValueError, match="'none' is none of the rivals best, near, base"):
        found.against("none")


def test_verdicts_are_holms_and_keep_the_sign_of_the_measure():
    outcomes = [
        outcome("base", [1.0, 2.0, 3.0, 4.0]),
        outcome("up", [2.0, 3.01, 4.0, 5.01]),
        outcome("down", [0.0, 1.01, 2.0, 3.01]),
        outcome("same", [1.1, 1.9, 3.1, 3.9]),
    ]
    for measure, up in (("score", "better"), ("loss", "worse")):
        rows = {row.name: row for row in rows_of("t", outcomes, "base", measure)}
        assert rows["up"].verdict == up and rows["same"].verdict == "undecided"
        assert rows["down"].verdict == {"better": "worse", "worse": "better"}[up]
        assert rows["base"].verdict == "baseline" and rows["base"].difference is None
    with pytest.raises(ValueError, match="'gone' is none of the rivals base, up"):
        rows_of("t", outcomes, "gone", "score")


def test_holm_corrects_what_one_test_alone_would_claim():
    """Of twenty rivals, each at p = 0.02, none is better."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=8)
    noise -= noise.mean()
    base = outcome("base", np.zeros(8))
    shift = stats.t.isf(0.01, 7) * stats.sem(noise)
    others = [outcome(f"r{i}", noise + shift) for i in range(20)]
    alone = rows_of("t", [base, others[0]], "base", "score")
    assert [row.verdict for row in alone] == ["better", "baseline"]
    rows = rows_of("t", [base, *others], "base", "score")
    assert {row.verdict for row in rows} == {"undecided", "baseline"}


def test_differences_are_those_of_the_paired_t_test():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 9))
    found = difference(x, y)
    test = stats.ttest_rel(x, y)
    assert found.mean == pytest.approx(np.mean(x - y)) and found.p == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert difference([1.0, 2.0], [1.0, 2.0]) == Difference(0.0, 0.0, 0.0, 1.0)
    # All on one side, by chance once in 2^(n - 1) times; float32 does not hide that they agree.
    assert difference([2.0, 3.0], [1.0, 2.0]).p == 0.5
    ties = np.float32([0.9, 0.8, 0.7]), np.float32([0.8, 0.7, 0.6])
    assert difference(*ties).p == 0.25
    for value in (np.nan, np.inf):
        assert difference([value, 1.0], [value, 1.0]).p == 1.0
    for wrong in (([1.0], [2.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="same seeds of both, at least 2"):
            difference(*wrong)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Difference(0.1234, 0.1, 0.15, 0.1), "+0.123 [+0.100, +0.150]"),
        (Difference(-12.3, -20.0, -4.0, 0.1), "-12.30 [-20.00, -4.00]"),
        (Difference(1.5e-5, 1e-5, 2e-5, 0.1), "+0.0000150 [+0.0000100, +0.0000200]"),
        (None, ""),
    ],
)
def test_intervals_have_the_digits_that_they_carry(change, text):
    assert interval(change) == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("optax.lionn", "optax has no 'lionn'; did you mean lion"),
        ("optax.contrib.nothing_at_all", "optax.contrib has no"),
        ("optax.__version__", "is a str; give a function"),
        ("optax.scale_by_adam", "takes b1 first, where an optimizer takes its learning_rate"),
        ("optax.add_noise", "takes eta first"),
        ("optax.contrib.schedule_free_adamw", "judged at other parameters"),
        ("my_line:two", "nothing else, fails"),
        ("my_line:not_one", "returns a float for a learning rate"),
        ("my_line:gone", "my_line has no 'gone'"),
        ("no_such_module:x", "cannot be imported"),
        ("addsing", "Or one of the paper's rules: .*addsign"),
        ("g +", "expected"),
        (3, "a rival is a rule.*got 3"),
    ],
)
def test_what_is_no_rival_is_refused(own, given, message):
    with pytest.raises(ValueError, match=message):
        as_rival(given)


def test_rivals_by_every_kind_of_name(own):
    assert as_rival("powersign").what == str(nos_optax.rules["powersign"].rule)
    assert as_rival(nos_optax.parse("g * 2")).name == str(nos_optax.parse("g * 2"))
    assert as_rival("my_line:heavy_ball").optimizer is own.heavy_ball
    assert as_rival("optax.contrib.muon").optimizer is optax.contrib.muon
    given = Rival("mine", "what it is", optax.sgd)
    assert as_rival(given) is given


def momentum(decay):
    return lambda rate: optax.sgd(rate, momentum=decay)


def test_optimizers_that_compute_something_else_are_other_rivals(own, tmp_path):
    """Closures, partials and changed functions of one name do not take each other's trainings."""
    task = own.task
    pairs = [
        (momentum(0.9), momentum(0.5)),
        (partial(optax.sgd, momentum=0.9), partial(optax.sgd, momentum=0.5)),
        (optax.sgd, lambda rate: optax.sgd(2 * rate)),
    ]
    for one, other in pairs:
        assert Rival("a", "m:f", one).key(task, 5) == Rival("b", "m:f", one).key(task, 5)
        assert Rival("a", "m:f", one).key(task, 5) != Rival("a", "m:f", other).key(task, 5)
    budget = Budget(rates=(0.1,), seeds=2)
    rivals = [Rival("fast", "m:f", momentum(0.9)), Rival("slow", "m:f", momentum(0.0))]
    fast, slow = compare(rivals, own.short(), budget=budget, out=tmp_path).rows
    assert fast.scores != slow.scores


def test_tasks_of_other_data_are_other_tasks(own):
    """Where one set ends and the next begins counts, and what a diverged training scores."""
    x = np.arange(64, dtype=np.float32).reshape(32, 2)
    cuts = [(x[:16], x[16:32]), (x[:20], x[20:32])]
    sets = [{"train": (a, a[:, 0]), "validation": (b, b[:, 0])} for a, b in cuts]
    changes = [*sets, {"chance": -8.0}, {"test": (own.x[:3], own.y[:3])}, {}]
    digests = set()
    for change in changes:
        if "train" in change:  # of two columns
            change = change | {"init": lambda key: ({"w": jnp.zeros(2), "b": jnp.zeros([])}, ())}
        task = dataclasses.replace(own.task, **change)
        digests.add(training_digest(TaskLoop(task, 8, 5, 1), 5))
    assert len(digests) == len(changes)


@pytest.mark.slow
def test_random_optimizers_have_the_seeds_of_their_trainings(own):
    """A factory with an argument `key` is given the training's; a rule without tokens too."""
    loop = TaskLoop(own.task, 8, 12, 1)
    rule = as_rival("2.5 * noise").factory(12)
    noisy = lambda rate, key: optax.chain(optax.add_noise(1.0, 0.5, key), optax.sgd(rate))  # noqa: E731
    for factory in (rule, noisy):
        losses = loop.train_seeds(factory, np.array([0.1]), (1, 2, 3), 5).train[0]
        again = loop.train(factory, np.array([0.1]), 2, 5).train[0]
        assert len(set(losses.tolist())) == 3 and again == losses[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rivals": ["adam"]}, "at least two rivals"),
        ({"rivals": []}, "no rivals"),
        ({"rivals": ["adam", "g"], "tasks": []}, "no tasks"),
        ({"rivals": ["adam", "adam"]}, "given more than once: adam"),
        ({"rivals": ["adam", "g"], "baseline": "m"}, "the baseline m"),
        ({"rivals": ["adam", "g"], "tasks": "nowhere"}, "task must be one of characters"),
        ({"rivals": ["adam", "g"], "tasks": "my_line:number"}, "is a int; give a nos_optax"),
        ({"rivals": ["adam", "g"], "minibatch_size": 49}, "from 1 to the 48 .*got 49"),
        ({"rivals": ["adam", "g"], "epochs": 0}, "epochs must be at least 1, got 0"),
        ({"rivals": ["adam", "optax.lbfgs"]}, "optax.lbfgs cannot train line: .*more than grad"),
        (
            {"rivals": ["g", "my_line:branches"]},
            "branches cannot train line: it looks at the value",
        ),
        ({"rivals": ["g", "my_line:odd_state"]}, "state has other shapes or types after a step"),
        ({"rivals": ["g", "my_line:odd_update"]}, "updates are not of the shapes"),
        ({"tasks": "my_line:raises"}, "task 'my_line:raises' failed at .*KeyError"),
        ({"epochs": 10**9}, "more than 1,073,741,824 examples a training: give fewer epochs"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_trains(
    own, tmp_path, arguments, message
):
    defaults = {"rivals": ["adam", "g"], "tasks": "my_line:short", "out": tmp_path / "out"}
    given = defaults | arguments
    with mock.patch.object(TaskLoop, "train_seeds", side_effect=AssertionError):
        with pytest.raises(ValueError, match=message):
            compare(given.pop("rivals"), given.pop("tasks"), **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rates": ()}, "positive numbers that float32 holds, got"),
        ({"rates": (0.1, -1.0)}, "positive numbers that float32 holds, got"),
        ({"rates": (0.1, float("nan"))}, "positive numbers that float32 holds, got"),
        ({"rates": (1e-300, 0.1)}, "positive numbers that float32 holds, got"),
        ({"rates": (0.1, 1e300)}, "positive numbers that float32 holds, got"),
        ({"seeds": 10**9}, "at most 10,000 together, got 1 and 1000000000"),
        ({"rates": (0.1, 0.1)}, "must rise"),
        ({"seeds": 1}, "at least 2, to have an interval, got 1"),
        ({"tuning_seeds": 0}, "at least 1, got 0"),
        ({"measure": "luck"}, "one of score, loss, training-loss, speed, got 'luck'"),
    ],
)
def test_budgets_that_are_none_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Budget(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"rates": 0.1},
        {"rates": ("a", "b")},
        {"rates": (0.1, True)},
        {"seeds": 2.5},
        {"seeds": "2"},
        {"tuning_seeds": True},
        {"first_seed": None},
    ],
)
def test_budgets_of_what_is_no_number_are_refused_by_name(fields):
    with pytest.raises(TypeError, match=f"^{next(iter(fields))} is .*must be"):
        Budget(**fields)


def test_numbers_of_numpy_and_jax_become_pythons():
    budget = Budget(
        rates=np.array([0.01, 0.1], np.float32), tuning_seeds=np.int32(1), seeds=jnp.int32(3)
    )
    assert type(budget.rates) is tuple and {type(rate) for rate in budget.rates} == {float}
    assert type(budget.tuning_seeds) is type(budget.seeds) is int
    workload = Workload(digits_mlp(), np.int64(16), np.float32(10), children=jnp.int32(2))
    assert (workload.minibatch_size, workload.horizon, workload.children) == (16, 10, 2)
    assert {type(x) for x in (workload.minibatch_size, workload.horizon)} == {int}


@pytest.mark.parametrize("value", ["10", 0, -1, 2.5, True, None, [3]])
@pytest.mark.parametrize("name", ["minibatch_size", "horizon", "children"])
def test_workloads_of_what_is_no_count_are_refused_by_name(name, value):
    fields = {"minibatch_size": 16, "horizon": 10, "children": 1} | {name: value}
    with pytest.raises(ValueError, match=f"digits-mlp: {name} is .*; give a whole number"):
        Workload(digits_mlp(), **fields)


def test_workloads_by_name_and_given(own):
    assert load_workload("digits-mlp").horizon == 480
    given = load_workload(own.task)
    assert (given.minibatch_size, given.horizon) == (32, 5)
    given = load_workload("my_line:line", minibatch_size=8, epochs=2)
    assert (given.minibatch_size, given.horizon) == (8, 12)
    assert load_workload(own.short(), minibatch_size=4).horizon == 12
    assert isinstance(load_workload("digits").task, Task)


def test_rules_that_begin_with_a_minus_are_no_options():
    given = ["-sign(m) * g", "--seeds", "-3", "-h", "-m", "-1e-3", "adam"]
    expected = ["(-sign(m) * g)", "--seeds", "-3", "-h", "(-m)", "-1e-3", "adam"]
    assert protect_minus(given) == expected
    # What follows an option is its value, unless that takes words of rules.
    assert protect_minus(["-g", "--out", "-x.jsonl", "-m"]) == ["(-g)", "--out", "-x.jsonl", "(-m)"]
    assert protect_minus(["--unary", "x", "-x", "--out=a", "-g"]) == [
        "--unary",
        "x",
        "(-x)",
        "--out=a",
        "(-g)",
    ]
    assert protect_minus(["--seeds", "3", "--", "--g", "-1 * g", "m"]) == [
        "--seeds",
        "3",
        "(--g)",
        "(-1 * g)",
        "m",
    ]


@pytest.mark.slow
def test_the_command(own, tmp_path):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "nos_optax.compare", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(own.__file__).parent)},
        )

    rates = ["--rates", "0.01", "0.1", "--seeds", "2"]
    done = command("adam", "-sign(m) * -1", "--task", "my_line:short", *rates)
    assert done.returncode == 0, done.stderr
    assert "line: against adam" in done.stdout and "verdict" in done.stdout
    assert (tmp_path / "runs" / "compare" / "results.svg").exists()
    for arguments, message in (
        (["adam", "g"], "error: --task is missing: name one of characters"),
        (["adam", "optax.gone", "--task", "digits-mlp"], "error: rival 'optax.gone'"),
        (["adam", "g", "--task", "gone"], "error: task must be one of"),
    ):
        wrong = command(*arguments)
        assert wrong.returncode == 1 and message in wrong.stderr, wrong.stderr
        assert "Traceback" not in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize("output", ["full", "closed"])
def test_results_are_written_where_nobody_reads_the_output(output, tmp_path):
    command = [sys.executable, "-m", "nos_optax.compare", "adam", "m", "--task", "table"]
    command += ["--seeds", "2", "--rates", "0.1", "--epochs", "1", "--out", str(tmp_path / "out")]
    with contextlib.ExitStack() as stack:
        if output == "full":
            if not os.path.exists("/dev/full"):
                pytest.skip("there is no full device here")
            out = stack.enter_context(open("/dev/full", "w"))
        else:
            read, out = os.pipe()
            os.close(read)
            stack.callback(os.close, out)
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode in (0, 1) and done.stderr.count("\n") <= 3, done.stderr
    names = ("results.json", "results.md", "results.svg")
    assert all((tmp_path / "out" / name).stat().st_size for name in names)

"""Table 4: one training by hand, who is chosen, what is said, and the whole at its smallest."""

import dataclasses
import functools
import itertools
import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import table4_translation as table4
from data import BOS, EOS, PAD
from data.subwords import Padded
from data.translation import Pairs
from harness.tables import markdown
from models.gnmt import GNMT
from rich.console import Console
from translation import check as translation_check
from translation import training as translation_training
from translation.check import size
from translation.measures import best_rate, differences, last_loss, measure, near_peak
from translation.tables import best_of, make_table, samples, verdict
from translation.text import Text, prepare
from translation.training import (
    OPTIMIZERS,
    TUNING_SEED,
    Batch,
    Job,
    Optimizer,
    Trainer,
    minibatches,
    start,
    step,
    total,
)

import nos_optax
from nos_optax.population import DatasetError

pytestmark = pytest.mark.slow  # experiments take seconds to compile

QUIET = Console(quiet=True)
SMOKE = table4.PRESETS["smoke"]


def read_strict(path):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# The minibatches.


def numbered(*sizes):
    """Return buckets of pairs, each of which is one number."""
    first = itertools.accumulate((100, *sizes))
    return [
        Padded(np.arange(i, i + n)[:, None], np.arange(i, i + n)[:, None] * np.ones((1, 2), int))
        for i, n in zip(first, sizes, strict=False)
    ]


def some(job, count, first=0, replicas=1):
    stream = minibatches(numbered(7, 5), job, 2, replicas, first)
    return [
        (batch.source.ravel().tolist(), float(batch.rate), int(batch.number))
        for batch in itertools.islice(stream, count)
    ]


def test_minibatches_go_on_from_any_step():
    job = Job("Adam", 0.5, 3, 12)
    whole = some(job, 12)
    for first in (1, 4, 5, 6, 11):  # an epoch has 5
        assert some(job, 12 - first, first) == whole[first:]
    epochs = [[row for rows, _, _ in whole[i : i + 5] for row in rows] for i in (0, 5)]
    assert epochs[0] != epochs[1] and all(len(set(epoch)) == 10 for epoch in epochs)


def test_both_optimizers_see_the_same_pairs_and_other_seeds_see_others():
    def pairs(job):
        return [rows for rows, _, _ in some(job, 12)]

    adam = pairs(Job("Adam", 0.5, 3, 12))
    assert pairs(Job("PowerSign", 0.1, 3, 12)) == adam
    assert pairs(Job("Adam", 0.5, 4, 12)) != adam


@pytest.mark.parametrize("replicas", [1, 3])
def test_rates_follow_a_cosine_of_the_updates(replicas):
    t = np.arange(12) // replicas / (12 / replicas)
    expected = 0.5 * (1 + np.cos(np.pi * t)) / 2
    job = Job("Adam", 0.5, 3, 12 // replicas)
    rates = [rate for _, rate, _ in some(job, 12, replicas=replicas)]
    np.testing.assert_allclose(rates, expected, atol=1e-7)


# A step.

MODEL = GNMT(vocabulary=9, units=4, layers=2, dropout=0.0, init_scale=0.3)


def batch(rate=0.1, padding=0):
    source = np.array([[3, 4, 5, EOS], [6, 7, EOS, PAD]])
    target = np.array([[BOS, 5, 4, 3, EOS], [BOS, 7, 6, EOS, PAD]])
    empty = [(0, padding), (0, 0)]
    return Batch(
        np.pad(source, empty), np.pad(target, empty), np.float32(rate), np.int32(0), np.int32(0)
    )


@jax.jit
def gradient(params):
    def loss(params):
        scores = MODEL.apply({"params": params}, batch().source, batch().target, train=False)
        return -scores.sum() / 7  # EOS counts, padding does not

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(("name", "norm"), [("Adam", 100.0), ("PowerSign", 0.01)])
def test_first_step_by_hand(name, norm):
    optimizer = Optimizer(name, norm)
    state = start(MODEL, optimizer, jax.random.key(1))
    value, g = gradient(state.params)
    length = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(g)))
    assert 0.01 < length < 100
    clipped = jax.tree.map(lambda x: x * min(1, norm / length), g)
    if name == "Adam":
        expected = jax.tree.map(lambda w, x: w - 0.1 * x / (abs(x) + 1e-8), state.params, clipped)
    else:  # at first, the average has the gradient's sign
        expected = jax.tree.map(lambda w, x: w - 0.1 * math.e * x, state.params, clipped)
    after, metrics = step(MODEL, optimizer, state, batch())
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    # Near 0, Adam's first step is all rounding.
    jax.tree.map(
        lambda x, y, w: np.testing.assert_allclose(
            np.where(abs(w) > 1e-5, x, 0), np.where(abs(w) > 1e-5, y, 0), atol=1e-3, rtol=1e-3
        ),
        after.params,
        expected,
        clipped,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replicas_are_one_update_of_their_mean(name):
    alone, both = Optimizer(name, 0.01), Optimizer(name, 0.01, replicas=2)
    expected, _ = step(MODEL, alone, start(MODEL, alone, jax.random.key(1)), batch())
    before = start(MODEL, both, jax.random.key(1)).params
    waiting, _ = step(MODEL, both, start(MODEL, both, jax.random.key(1)), batch())
    jax.tree.map(np.testing.assert_array_equal, waiting.params, before)
    # The same minibatch twice has its own gradient as the mean.
    after, _ = step(MODEL, both, waiting, batch())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), after.params, expected.params
    )


def test_rows_of_padding_change_no_loss():
    params = start(MODEL, Optimizer("Adam", 1.0), jax.random.key(0)).params
    few, more = batch(), batch(padding=2)
    expected = total(MODEL, params, few.source, few.target)
    found = total(MODEL, params, more.source, more.target)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert int(expected[1]) == 7


# Who is chosen, and what is said.


def training(optimizer="Adam", rate=0.1, seed=1, loss=1.0, score=20.0, points=(18.0, 19.0)):
    status = "finished" if math.isfinite(loss) else "diverged"
    curve = [{"step": 5 + i, "loss": 1.0, "validation_bleu": p} for i, p in enumerate(points)]
    return {
        "optimizer": optimizer,
        "rate": rate,
        "seed": seed,
        "steps": 4 + len(points),
        "status": status,
        "validation": loss,
        "bleu": score,
        "curve": curve,
        "translations": [f"by {optimizer} {seed} | x"],
    }


TUNING = [
    training(rate=0.1, loss=math.inf),
    training(rate=0.3, loss=2.0),
    training(rate=0.2, loss=2.0),
    training("PowerSign", rate=1.0, loss=1.1),
    training("PowerSign", rate=3.0, loss=1.0),
]


def test_the_rate_with_the_lowest_validation_loss_is_chosen():
    assert best_rate(TUNING, "Adam") == 0.2
    assert best_rate(TUNING, "PowerSign") == 3.0


class Valley:
    """Trains nothing: the loss is the distance of the rate from 30, in decades."""

    def __init__(self):
        self.jobs = []

    def train(self, jobs):
        self.jobs += jobs
        return [
            training(j.optimizer, j.rate, j.seed, abs(math.log10(j.rate / 30))) | {"steps": j.steps}
            for j in jobs
        ]


def test_tuning_goes_on_until_the_best_rate_is_inside():
    trainer = Valley()
    arguments = dataclasses.replace(
        SMOKE, adam_rates=(1.0, 3.0), powersign_rates=(10.0, 100.0), adaptive=True
    )
    tuning, runs = table4.train_all(arguments, trainer)
    tried = {name: [t["rate"] for t in tuning if t["optimizer"] == name] for name in OPTIMIZERS}
    assert tried["Adam"] == [1.0, 3.0, 10.0, 30.0, 100.0]
    assert tried["PowerSign"] == [10.0, 100.0, 3.0], "10 was the least, and then lies inside"
    assert {t["steps"] for t in (*tuning, *runs)} == {arguments.steps}, "at full length"
    assert {r["rate"] for r in runs if r["optimizer"] == "Adam"} == {30.0}


RUNS = [
    training("Adam", 0.2, 1, 1.0, 20.0),
    training("PowerSign", 3.0, 1, 0.5, 21.0),
    training("Adam", 0.2, 2, 1.2, 22.0),
    training("PowerSign", 3.0, 2, 0.6, 23.5),
]


def test_train_loss_is_of_the_last_tenth_and_bleu_of_five_points_near_the_peak():
    curve = [{"step": i, "loss": float(i), "validation_bleu": b} for i, b in POINTS]
    run = training() | {"curve": [*curve, {"step": 20, "loss": 9.0}], "steps": 20}
    assert last_loss(run) == pytest.approx((19 + 9) / 2)
    assert near_peak(run) == pytest.approx((6 + 8 + 7 + 9 + 5) / 5)
    assert near_peak(training(points=(18.0, 20.0))) == 19.0, "of fewer points, all"
    diverged = training(loss=math.inf)
    assert last_loss(diverged) == math.inf and near_peak(diverged) == 0


POINTS = [(15, 30.0), (16, -20.0), (12, 6.0), (14, 8.0), (17, 7.0), (18, 9.0), (19, 5.0)]


def test_differences_are_seed_by_seed():
    rows = measure(TUNING, RUNS)
    found = differences(rows)
    assert found["bleu"][0] == pytest.approx(1.25)
    half = 12.7062 * np.std([1.0, 1.5], ddof=1) / 2**0.5
    assert found["bleu"][1:3] == pytest.approx((1.25 - half, 1.25 + half), abs=1e-4)
    assert found["validation"][0] == pytest.approx(-0.55)
    assert rows["Adam"]["tried"] == [0.1, 0.2, 0.3]
    text = verdict(rows)
    assert "test BLEU: +1.250" in text and "undecided" in text and "2 seeds" in text
    assert "PowerSign's best rate, 3, is at an end" in text and "Adam's best rate" not in text
    assert "Too short" not in text and "0.5 more test BLEU" in text
    table = markdown(make_table(rows))
    assert "| 2.72 ± 0.00 | 3.02 ± 0.30 | 18.50 ± 0.00 | 21.00 ± 1.00 | 1.49 | 24.5 |" in table
    assert "| 1.39 | 25.0 |" in table


def test_nothing_is_concluded_before_both_translate():
    short = [run | {"bleu": run["bleu"] - 8} for run in RUNS]
    text = verdict(measure(TUNING, short))
    assert text.startswith("Too short to say: mean test BLEU is 13.0 by Adam, 14.2 by PowerSign")
    assert "undecided" not in text and ", more" not in text and ", less" not in text
    assert "test BLEU: +1.250 [" in text


def test_no_interval_where_none_is_possible():
    one = measure(TUNING, RUNS[:2])
    assert differences(one) == {} and "No interval" in verdict(one)
    markdown(make_table(one))
    runs = [*RUNS[:3], training("PowerSign", 3.0, 2, math.inf, 0.0)]
    diverged = measure(TUNING, runs)
    assert differences(diverged) == {}
    assert "1 of 2 trainings by PowerSign diverged" in verdict(diverged)
    assert "| 1.65, inf |" in markdown(make_table(diverged))


def test_translations_are_of_the_best_model():
    few = np.zeros((1, 2)), Pairs(["a"], ["b"])
    text = Text(None, [], [], *few, *few)
    best = best_of(RUNS)
    assert (best["optimizer"], best["seed"]) == ("PowerSign", 1)
    assert r"| a | b | by PowerSign 1 \| x |" in markdown(samples(text, best))


# Data and arguments.


def test_missing_data_is_one_message(tmp_path):
    arguments = dataclasses.replace(
        table4.PRESETS["small"], data_dir=tmp_path / "none", out=tmp_path / "out"
    )
    with pytest.raises(DatasetError, match=f"no Multi30k in {tmp_path / 'none'}.*Copy them"):
        table4.run(arguments, QUIET)
    paper = dataclasses.replace(table4.PRESETS["paper"], data_dir=tmp_path, out=tmp_path / "out")
    with pytest.raises(DatasetError, match="no prepared WMT14"):
        table4.run(paper, QUIET)


@pytest.mark.parametrize("module", ["tokenizers", "sacrebleu"])
def test_a_missing_package_is_named_before_training(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(table4, "Trainer", None)
    arguments = dataclasses.replace(SMOKE, out=tmp_path / "out", results=tmp_path)
    with pytest.raises(ImportError, match=rf"{module} is missing: .*nos_optax\[experiments\]"):
        table4.run(arguments, QUIET)


def test_pairs_that_fill_no_minibatch_are_refused(tmp_path):
    with pytest.raises(ValueError, match="400 pairs fill no minibatch of 500"):
        prepare(table4.read(SMOKE), SMOKE.vocabulary, SMOKE.lengths, batch=500, folder=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 1}, "--layers must be at least 2, got 1"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"replicas": 0}, "--replicas must be at least 1"),
        ({"lengths": (8, 4)}, "--lengths must increase"),
        ({"adam_rates": (0.1,)}, "same number of rates"),
        ({"adam_rates": (), "powersign_rates": ()}, "same number of rates"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **changes)


def test_presets():
    assert all(preset.scale == scale for scale, preset in table4.PRESETS.items())
    assert next(iter(table4.PRESETS)) == "small"
    paper = table4.PRESETS["paper"]
    assert table4.Arguments() == paper
    assert (paper.layers, paper.replicas, paper.batch) == (8, 12 * 8, 128)
    paths = {field: Path("x") for field in ("data_dir", "out", "results")}
    moved = dataclasses.replace(SMOKE, **paths, accelerator="gpu", check=True)
    assert moved.measured() == SMOKE.measured()


# The full model.


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("replicas", [1, 96])
def test_shapes_of_the_full_model(name, replicas):
    paper = table4.PRESETS["paper"]
    optimizer = Optimizer(name, paper.max_grad_norm, replicas)
    which = table4.make_model(paper, paper.vocabulary), optimizer
    state = jax.eval_shape(functools.partial(start, *which), jax.random.key(0))
    slots = {"Adam": 2, "PowerSign": 1}[name]
    assert size(state.params) == 4 * 248_090_880
    if replicas == 1:
        assert size(state.optimizer) == slots * size(state.params) + 4  # and the count
    else:  # and the replicas' mean, and two more counts
        assert size(state.optimizer) == (slots + 1) * size(state.params) + 12
    example = translation_check.example(which[0], paper.lengths[-1], paper.batch)
    after, metrics = jax.eval_shape(functools.partial(step, *which), state, example)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics["loss"].shape == ()


def test_check_takes_a_step_where_the_memory_suffices(monkeypatch):
    alone = dataclasses.replace(SMOKE, replicas=1)
    facts = table4.check(alone, QUIET)
    for name, slots in (("Adam", 2), ("PowerSign", 1)):
        found = facts[name]
        assert found["optimizer_bytes"] == slots * found["parameters_bytes"] + 4
        assert found["scratch_bytes"] > found["parameters_bytes"]  # the gradients are among it
        assert found["loss"] == pytest.approx(math.log(SMOKE.vocabulary), rel=0.05)
    monkeypatch.setattr(translation_check, "free_memory", lambda: 1000)
    assert "loss" not in table4.check(alone, QUIET)["Adam"]


# The whole.


TEST_SENTENCES = 20  # generated


def test_a_killed_experiment_goes_on(tmp_path, monkeypatch):
    whole = dataclasses.replace(SMOKE, out=tmp_path / "whole", results=tmp_path / "whole")
    table4.run(whole, QUIET)
    broken = dataclasses.replace(SMOKE, out=tmp_path / "broken", results=tmp_path / "broken")
    kept, steps, calls = Trainer._translate, [], []
    devices = jax.local_devices()[:1]  # one training at a time
    monkeypatch.setattr(table4, "select_devices", lambda accelerator: devices)

    def dies(self, params, sources):
        calls.append(len(sources))
        if calls.count(TEST_SENTENCES) == 2:
            raise RuntimeError("killed")
        return kept(self, params, sources)

    monkeypatch.setattr(Trainer, "_translate", dies)
    with pytest.raises(RuntimeError, match="killed"):
        table4.run(broken, QUIET)
    monkeypatch.setattr(Trainer, "_translate", kept)
    done = len((tmp_path / "broken" / "records.jsonl").read_text().splitlines())
    assert done == 1 + 4 + 1  # the configuration, the tuning and one of the fresh seeds

    def spied(model, optimizer, state, batch, step=step):
        steps.append(optimizer.name)
        return step(model, optimizer, state, batch)

    monkeypatch.setattr(translation_training, "step", spied)
    table4.run(broken, QUIET)
    assert len(steps) == 2 * SMOKE.steps * SMOKE.replicas  # not those that were trained before
    first, second = (
        read_strict(tmp_path / x / "table4_translation_smoke.json") for x in ("whole", "broken")
    )
    for content in (first, second):
        del content["seconds"]
        for trained in (*content["tuning"], *content["runs"]):
            del trained["seconds"]
    assert first == second

    losses = {name: first["optimizers"][name]["validation"] for name in OPTIMIZERS}
    assert all(max(some) < math.log(SMOKE.vocabulary) - 1 for some in losses.values())
    assert {run["seed"] for run in first["runs"]} == {1, 2}
    assert {run["seed"] for run in first["tuning"]} == {TUNING_SEED}
    text = (tmp_path / "broken" / "table4_translation_smoke.md").read_text()
    assert "| PowerSign |" in text and "| 1.39 | 25.0 |" in text and "| source |" in text
    assert "Too short to say" in text or max(first["optimizers"]["Adam"]["bleu"]) > 15
    assert all("validation_bleu" in run["curve"][-1] for run in first["runs"])
    assert first["runs"][0]["curve"][-1]["step"] == SMOKE.steps, "updates, not minibatches"
    picture = tmp_path / "broken" / "table4_translation_smoke.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "broken" / "checkpoints").iterdir())


def test_powersign_is_the_library_s():
    """A chain as in the README descends as the experiment does."""
    params, g = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([0.5, 0.25])}
    ours = Optimizer("PowerSign", 1e9).transformation()
    theirs = nos_optax.powersign(0.3)
    mine, _ = ours.update(g, ours.init(params), params)
    expected, _ = theirs.update(g, theirs.init(params), params)
    np.testing.assert_allclose(0.3 * mine["w"], expected["w"], rtol=1e-6)

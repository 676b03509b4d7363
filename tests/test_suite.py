"""The suite of small tasks: what Adam does on them, and what a rule earns."""

import dataclasses
import json
import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nos_optax.grammar import encode, parse
from nos_optax.population import reference as references
from nos_optax.population import suite, update_size
from nos_optax.population.loop import Losses, TaskLoop
from nos_optax.population.protocol import DEAD, DIVERGED, SLOW, TRAINED
from nos_optax.population.reference import (
    LENGTHS,
    SWEEP,
    Reference,
    cached_reference,
    measure_reference,
)
from nos_optax.population.suite import (
    LEAST,
    RATES,
    SEEDS,
    SuiteTrainer,
    Workload,
    joint_speed,
    load_suite,
)
from nos_optax.population.task_check import check_task
from nos_optax.population.tasks import (
    characters,
    digits_autoencoder,
    digits_convnet,
    digits_mlp,
    table,
    transformer,
    words,
)
from nos_optax.population.tasks.characters import ALPHABET, text_windows
from nos_optax.population.tasks.noise import noisy_copies
from nos_optax.population.tasks.text import topics_text
from nos_optax.population.tasks.transformer import logits
from nos_optax.population.tasks.words import VOCABULARY, text_words
from nos_optax.search import FRESH_SEEDS, SearchConfig, search
from nos_optax.search.engines import trainers
from nos_optax.search.finals import verdict

CURVE = tuple(2.0**-k for k in range(len(LENGTHS)))  # a loss that halves from length to length
REFERENCE = Reference(0.01, train=CURVE, validation=CURVE, late=CURVE)


def losses(value, initial=4.0) -> Losses:
    x = np.asarray(value, np.float32)
    return Losses(x, x, x, np.full_like(x, initial))


def population(*rules: str, iterations: int = 3) -> np.ndarray:
    return np.stack([encode(rule, iterations).array for rule in rules])


# The yardstick.


@pytest.mark.parametrize("k", range(len(LENGTHS)))
def test_adams_own_losses_are_as_fast_as_their_length_says(k):
    np.testing.assert_allclose(REFERENCE.speed(losses(CURVE[k])), np.log2(LENGTHS[k]), atol=1e-6)


def test_a_loss_between_two_lengths_is_between_their_speeds():
    middle = (CURVE[5] + CURVE[6]) / 2
    expected = (np.log2(LENGTHS[5]) + np.log2(LENGTHS[6])) / 2
    np.testing.assert_allclose(REFERENCE.speed(losses(middle)), expected, rtol=1e-6)


def test_speeds_end_where_adams_curve_does():
    found = REFERENCE.speed(losses([1e9, 4.0, 1e-9, -1.0]))
    np.testing.assert_allclose(found, [LEAST, LEAST, np.log2(3), np.log2(3)])


def test_a_quarter_of_the_loss_is_on_the_way_and_the_rest_at_the_end():
    way, end, x = CURVE[3], CURVE[5], np.array(0.0)
    found = REFERENCE.speed(Losses(np.array(way), x, np.array(end), x))
    assert found == REFERENCE.speed(losses((way + 3 * end) / 4))
    assert found > REFERENCE.speed(Losses(np.array(end), x, np.array(way), x))


def test_where_adams_validation_loss_is_flat_its_losses_on_the_way_decide():
    flat = Reference(0.01, train=CURVE, validation=(0.5,) * len(LENGTHS), late=CURVE)
    way, end = np.array(CURVE[3]), np.array([0.5, 0.5 + 1e-3])
    found = flat.speed(Losses(way, way, end, way))
    np.testing.assert_allclose(found[0], np.log2(LENGTHS[3]), atol=1e-6)
    assert found[0] - 0.1 < found[1] < found[0], "a little noise there is little"


def test_a_longer_training_that_is_no_better_does_not_count():
    overfits = (*CURVE[:6], *[CURVE[5] + 1.0] * (len(LENGTHS) - 6))
    reference = Reference(0.01, overfits, overfits, overfits)
    np.testing.assert_allclose(reference.speed(losses([CURVE[5], 0.0])), 0.0, atol=1e-6)


def test_learning_is_a_twentieth_of_adams_progress():
    adam = CURVE[LENGTHS.index(SWEEP)]
    bar = 4.0 - (4.0 - adam) / 20
    np.testing.assert_array_equal(
        REFERENCE.learned(losses([bar - 1e-3, bar + 1e-3, 4.0])), [True, False, False]
    )


def test_negative_losses_are_measured_alike():
    shifted = tuple(x - 10 for x in CURVE)
    reference = Reference(0.01, shifted, shifted, shifted)
    x = np.array([0.3, 0.02])
    np.testing.assert_allclose(
        reference.speed(losses(x - 10)), REFERENCE.speed(losses(x)), atol=1e-4
    )


class FakeLoop:
    """Losses of a rule whose best rate is 0.02, without training."""

    iterations, task = 3, digits_mlp()

    def __init__(self, best=0.02):
        self.best, self.calls = best, []

    def train_seeds(self, programs, rates, seeds, steps):
        self.calls += [(len(rates), seed, steps) for seed in seeds]
        distance = np.abs(np.log10(np.asarray(rates) / self.best)) + 1
        value = np.tile((distance * 10 / (10 + steps)).astype(np.float32)[:, None], len(seeds))
        return Losses(value, value, value, np.full_like(value, 9.0))


def test_adam_is_tuned_by_other_seeds_than_those_that_judge_it():
    loop = FakeLoop()
    found = measure_reference(loop, 100)
    assert found.learning_rate == pytest.approx(0.01 * 10**0.25)  # a quarter decade, near 0.02
    tuned = {seed for count, seed, _ in loop.calls if count > 1}
    judged = {seed for count, seed, _ in loop.calls if count == 1}
    assert tuned and judged and not tuned & judged
    assert {steps for _, _, steps in loop.calls} == {round(100 * x) for x in LENGTHS}
    assert list(found.validation) == sorted(found.validation, reverse=True)


@pytest.mark.parametrize("best", [1e-7, 1e3])
def test_a_best_rate_at_the_end_of_the_grid_is_refused(best):
    with pytest.raises(ValueError, match=r"digits-mlp: Adam is best at the learning rate .* end"):
        measure_reference(FakeLoop(best), 100)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload(digits_mlp(), 16, 128)


@pytest.fixture(scope="module")
def loop(workload) -> TaskLoop:
    return TaskLoop(workload.task, 16, 72, 3)


def test_a_reference_is_measured_once(tmp_path, loop):
    calls = []

    def measure(loop, horizon):
        calls.append(horizon)
        return REFERENCE

    store = tmp_path / "references"
    for _ in range(2):
        assert cached_reference(loop, 24, store, measure) == REFERENCE
    assert calls == [24]
    assert cached_reference(loop, 25, store, measure) == REFERENCE  # another horizon
    assert calls == [24, 25]
    for file in store.iterdir():
        file.write_text(json.dumps({"learning_rate": "fast"}))  # damaged: measured again
    assert cached_reference(loop, 24, store, measure) == REFERENCE
    assert calls == [24, 25, 24]
    assert cached_reference(loop, 24, None, measure) == REFERENCE
    assert cached_reference(loop, 24, tmp_path / "references" / "none", measure) == REFERENCE
    file = tmp_path / "file"
    file.write_text("")
    assert cached_reference(loop, 24, file / "under a file", measure) == REFERENCE


def test_another_task_has_another_reference(loop, workload):
    digest = references._digest
    assert digest(loop, 24) == digest(TaskLoop(digits_mlp(), 16, 72, 3), 24)
    fewer = jax.tree.map(lambda x: x[:900], workload.task.train)
    for change in ({"train": fewer}, {"max_grad_norm": 1e-3}, {"shuffle": False}):
        other = dataclasses.replace(workload.task, **change)
        assert digest(loop, 24) != digest(TaskLoop(other, 16, 72, 3), 24), change


def test_no_search_and_no_fresh_training_has_the_seeds_that_measured_adam():
    most = SEEDS * (FRESH_SEEDS + 10**6)
    measured = {*references.TUNING_SEEDS, *references.CURVE_SEEDS, update_size.SEED}
    assert len(measured) == 13 and most < min(measured) and max(measured) < 2**31


def test_a_run_goes_on_with_the_adam_that_it_was_begun_with(tmp_path):
    fields = dataclasses.asdict(REFERENCE)
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "adam": [fields, fields]}))
    config = SearchConfig(out=tmp_path, resume=True)
    assert trainers.begun_references(config) == [REFERENCE, REFERENCE]
    assert trainers.begun_references(dataclasses.replace(config, resume=False)) is None
    (tmp_path / "config.json").write_text('{"config": {}}')
    assert trainers.begun_references(config) is None


def test_another_length_is_refused(trainer):
    with pytest.raises(ValueError, match="leave it out"):
        trainer.evaluate(population("g"), epochs=3)


# The reward.


@pytest.fixture(scope="module")
def trainer(workload) -> SuiteTrainer:
    made = SuiteTrainer([workload, dataclasses.replace(workload, horizon=96)], iterations=3)
    with pytest.MonkeyPatch.context() as patch:  # fewer seeds measure Adam in seconds
        patch.setattr(references, "TUNING_SEEDS", range(1))
        patch.setattr(references, "CURVE_SEEDS", range(1, 3))
        made.compile()
    return made


RULES = ("adam", "g", "g - g", "log(g - g)", "(1 + sign(g) * sign(m)) * adam", "-g")


@pytest.fixture(scope="module")
def evaluation(trainer):
    return trainer.evaluate(population(*RULES), seed=1)


def test_adam_is_at_zero(evaluation):
    assert evaluation.reward[0] == 0
    np.testing.assert_array_equal(evaluation.curve[0], 0)


def test_a_reward_is_the_joint_speed_on_the_tasks(evaluation):
    assert evaluation.curve.shape == (len(RULES), 2 * SEEDS)
    for i in (0, 1, 4):
        assert evaluation.status[i] == TRAINED
        times = [2.0 ** (-(a + b) / 2) for a, b in evaluation.curve[i].reshape(-1, SEEDS)]
        reward = -math.log2(math.fsum(times) / 2)
        np.testing.assert_allclose(evaluation.reward[i], reward, rtol=1e-5)


def test_a_joint_speed_is_that_of_the_mean_time():
    np.testing.assert_allclose(joint_speed(np.full((3, 5), 0.7)), 0.7)
    speeds = np.random.default_rng(0).normal(size=(50, 4))
    joint = joint_speed(speeds)
    assert (joint < speeds.mean(axis=1)).all() and (joint > speeds.min(axis=1)).all()
    assert (joint_speed(speeds + np.eye(4)[0]) > joint).all()  # to gain on one task is a gain
    # Half of the time on one task and twice the time on another are longer than twice Adam's.
    np.testing.assert_allclose(joint_speed(np.array([1.0, -1.0])), -math.log2(1.25))


def test_a_joint_speed_is_of_the_tasks_with_a_training():
    np.testing.assert_allclose(joint_speed(np.array([-0.4, np.nan, -0.4])), -0.4)
    assert np.isnan(joint_speed(np.full(3, np.nan)))


def test_rules_that_learn_nothing_have_the_least_reward(evaluation):
    for i, status in ((2, DEAD), (3, DIVERGED), (5, DEAD)):
        assert evaluation.reward[i] == LEAST and evaluation.status[i] == status
        assert np.isnan(evaluation.curve[i]).all() and np.isnan(evaluation.learning_rate[i])
    assert SuiteTrainer.chance == LEAST


def test_gradient_descent_is_slower_than_adam(evaluation):
    assert LEAST < evaluation.reward[1] < -0.2


def test_where_adam_does_not_learn_every_rule_that_does_is_ahead(trainer, evaluation):
    stubborn = lambda self, losses: np.arange(losses.late.size).reshape(losses.late.shape) < 0  # noqa: E731
    with mock.patch.object(references.Reference, "learned", stubborn):
        np.testing.assert_array_equal(trainer._adam_speeds(5), LEAST)
    assert np.isfinite(trainer._adam_speeds(5)).all()


def test_a_rule_that_is_hopelessly_slow_leaves_the_other_tasks_out(trainer, evaluation):
    slower = -float(evaluation.curve[1, :SEEDS].mean())
    assert slower > 0.2
    with mock.patch.object(trainer, "slack", 0.5):
        found = trainer.evaluate(population(*RULES), seed=1)
    assert found.status[1] == SLOW and found.reward[1] == pytest.approx(-slower, rel=1e-5)
    others = np.arange(len(RULES)) != 1
    np.testing.assert_array_equal(found.reward[others], evaluation.reward[others])
    joint = lambda s: joint_speed(1e-6 * s) / 1e-6  # noqa: E731 - the mean: the bound is plain
    for slack, slow in ((slower - 0.1, True), (slower + 0.1, False)):
        with (
            mock.patch.object(trainer, "slack", slack),
            mock.patch.object(suite, "joint_speed", joint),
        ):
            found = trainer.evaluate(population(*RULES), seed=1)
        others = np.arange(len(RULES)) != 1 if slow else slice(None)
        for field in ("learning_rate", "status", "sweep", "curve"):
            a, b = getattr(found, field), getattr(evaluation, field)
            np.testing.assert_array_equal(a[others], b[others])
        if slow:
            assert found.status[1] == SLOW
            np.testing.assert_array_equal(found.curve[1, :SEEDS], evaluation.curve[1, :SEEDS])
            assert np.isnan(found.curve[1, SEEDS:]).all() and np.isnan(found.sweep[1, 1])
            np.testing.assert_allclose(found.reward[1], -slower, rtol=1e-5)
            np.testing.assert_allclose(found.learning_rate[1], evaluation.sweep[1, 0], rtol=1e-5)


def test_a_rule_depends_on_nothing_but_itself(trainer, evaluation):
    for i in (1, 4):
        alone = trainer.evaluate(population(RULES[i]), seed=1)
        for a, b in zip(alone, evaluation, strict=True):
            np.testing.assert_array_equal(a[0], b[i])


@pytest.mark.slow
def test_optimizers_that_are_no_rules_are_rewarded_like_rules(trainer, evaluation):
    for factory, rule in ((optax.adam, "adam"), (optax.sgd, "g")):
        found = trainer.evaluate_optimizer(factory, seed=1)
        row = RULES.index(rule)
        np.testing.assert_allclose(found.reward, evaluation.reward[row], atol=1e-3)
        np.testing.assert_allclose(found.curve[0], evaluation.curve[row], atol=1e-3)
        np.testing.assert_allclose(found.sweep[0], evaluation.sweep[row], rtol=1e-4)
    idle = trainer.evaluate_optimizer(lambda rate: optax.set_to_zero(), seed=1)
    assert idle.reward[0] == LEAST and idle.status[0] == DEAD


@pytest.mark.slow
def test_a_population_of_the_dead_is_evaluated(trainer):
    found = trainer.evaluate(population("g - g", "-g"))
    np.testing.assert_array_equal(found.reward, LEAST)


@pytest.mark.slow
def test_flat_and_shorter_programs_are_programs_too(trainer, evaluation):
    flat = encode("g", 1).array.reshape(1, -1)
    np.testing.assert_array_equal(trainer.evaluate(flat, seed=1).reward, evaluation.reward[1])


def test_the_best_rate_is_one_of_those_tried(trainer, evaluation):
    rates = trainer.rates(population(*RULES))
    for task in range(2):
        assert evaluation.sweep[1, task] in rates[1, task]
    mean = np.exp(np.log(evaluation.sweep[1]).mean())
    np.testing.assert_allclose(evaluation.learning_rate[1], mean, rtol=1e-5)


@pytest.mark.slow
def test_a_rules_scale_is_no_matter(trainer):
    adam, doubled = trainer.rates(population("adam", "2 * adam"))
    np.testing.assert_allclose(adam, 2 * doubled, rtol=1e-5)
    found = trainer.evaluate(population("adam", "2 * adam"))
    np.testing.assert_allclose(found.reward[1], found.reward[0], atol=1e-4)


def test_rates_are_half_a_decade_apart_around_adams(trainer):
    rates = trainer.rates(population("adam"))[0]
    np.testing.assert_allclose(rates[:, 1:] / rates[:, :-1], 10**0.5, rtol=1e-5)
    tuned = [reference.learning_rate for reference in trainer.references]
    np.testing.assert_allclose(rates[:, len(RATES) // 2], tuned, rtol=1e-5)


def test_rates_of_what_does_not_move_are_none(trainer):
    assert np.isnan(trainer.rates(population("g - g", "log(g - g)"))).all()


@pytest.mark.parametrize(
    ("names", "got"), [(["digits"], "digits"), (["characters"] * 2, "characters, characters")]
)
def test_unknown_workloads_are_refused(names, got):
    with pytest.raises(ValueError, match=f"digits-mlp, .* got {got}"):
        load_suite(names)


# The tasks.

TASKS = (digits_mlp, digits_autoencoder, digits_convnet, characters, transformer, table, words)


@pytest.mark.parametrize("make", TASKS)
def test_tasks_are_whole_and_untrained_weights_are_about_chance(make):
    task = make()
    check_task(task, 16)
    params, state = task.init(jax.random.key(0))
    batch = jax.tree.map(lambda x: jnp.asarray(x[:200]), task.train)
    loss, _ = task.loss(params, state, batch, jax.random.key(1))
    assert 0.5 * abs(task.chance) < loss < 8 * abs(task.chance)
    assert task.num_params < 12_000


def test_loss_and_metric_are_the_same_where_there_is_no_normalisation():
    for make in (digits_mlp, digits_autoencoder, characters, transformer, table, words):
        task = make()
        params, state = task.init(jax.random.key(0))
        batch = jax.tree.map(jnp.asarray, task.validation)
        loss, _ = task.loss(params, state, batch, jax.random.key(1))
        np.testing.assert_allclose(loss, -task.metric(params, state, batch).mean(), rtol=1e-5)


def test_scales_change_the_gradient_and_not_the_network():
    task = digits_mlp()
    batch = jax.tree.map(lambda x: jnp.asarray(x[:50]), task.train)
    params, scales = task.init(jax.random.key(0))
    ones = jax.tree.map(jnp.ones_like, scales)
    plain = jax.tree.map(jnp.multiply, params, scales)
    key = jax.random.key(1)
    value, g = jax.value_and_grad(lambda p: task.loss(p, scales, batch, key)[0])(params)
    same, h = jax.value_and_grad(lambda p: task.loss(p, ones, batch, key)[0])(plain)
    np.testing.assert_allclose(value, same, rtol=1e-5)
    for name, scale in scales.items():
        np.testing.assert_allclose(g[name], scale * h[name], rtol=1e-4, atol=1e-6)
        assert 0.09 < scale < 11
    assert math.isclose(np.prod([float(s) for s in scales.values()]), 1, rel_tol=1e-4)


def test_noisy_copies_are_all_examples_with_noise_of_their_own_in_whole_256ths():
    inputs = np.linspace(0, 1, 600, dtype=np.float32).reshape(200, 3)
    found, labels = noisy_copies((inputs, np.arange(200)), 0.5, 8, np.random.default_rng(0))
    assert found.shape == (1600, 3) and found.dtype == np.float32
    np.testing.assert_array_equal(labels, np.tile(np.arange(200), 8))
    np.testing.assert_array_equal(found, np.round(found * 256) / 256)
    noise = found.reshape(8, 200, 3) - inputs
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 0.5) < 0.02
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.15


def test_windows_of_text_do_not_overlap_and_are_of_the_alphabet():
    windows = text_windows(9, 9216)
    assert windows.min() >= 0 and windows.max() == len(ALPHABET) - 1
    whole = text_windows(1, 10**6)  # one symbol each, in some order: all of the text
    assert len(whole) >= windows.size
    counts = [np.bincount(x.ravel(), minlength=len(ALPHABET)) for x in (windows, whole)]
    assert (counts[0] <= counts[1]).all()  # no symbol is in two windows
    # English: the space and the e are the commonest.
    commonest = np.bincount(windows.ravel()).argsort()[-2:]
    assert {ALPHABET[i] for i in commonest} <= {" ", "e", "t"}


def test_words_are_numbered_by_how_often_they_stand_in_the_text():
    found = text_words()
    counts = np.bincount(found, minlength=VOCABULARY)
    assert len(counts) == VOCABULARY and (np.diff(counts[1:]) <= 0).all() and counts[-1] > 10
    assert counts[0] < 0.25 * len(found)  # all rare words together
    frequent = re.findall(r"(?<![a-z])the(?![a-z])", topics_text())
    assert len(frequent) in counts[1:10]


@pytest.mark.parametrize("name", [*suite.SUITE, *suite.WATCH])
def test_what_adam_does_on_embedded_tasks_comes_with_the_package(name):
    (workload,) = load_suite([name])
    loop = TaskLoop(workload.task, workload.minibatch_size, 3 * workload.horizon, 1)

    def measure(loop, horizon):
        raise AssertionError("it is measured again: run benchmarks/adam_references.py")

    found = cached_reference(loop, workload.horizon, None, measure)
    assert 1e-4 < found.learning_rate < 0.5
    assert np.argmin(found.late) == len(found.late) - 1, "longer trainings fit better"


@pytest.mark.slow
def test_what_comes_with_the_package_is_what_is_measured():
    (workload,) = load_suite(["digits-mlp"])
    loop = TaskLoop(workload.task, workload.minibatch_size, 3 * workload.horizon, 1)
    shipped = cached_reference(loop, workload.horizon, None)
    measured = measure_reference(loop, workload.horizon)
    assert measured.learning_rate == pytest.approx(shipped.learning_rate)
    for curve in ("train", "validation", "late"):  # another machine rounds otherwise
        np.testing.assert_allclose(getattr(measured, curve), getattr(shipped, curve), rtol=0.03)


# The search.


@pytest.mark.slow
def test_a_search_on_the_suite_ends_in_a_table_and_resumes(tmp_path, monkeypatch):
    settings = {
        "watch": (),
        "iterations": 1,
        "batch_size": 6,
        "strategy": "random",
        "finalists": 1,
        "final_seeds": 2,
        "progress": False,
    }
    task = Workload(digits_mlp(), 16, 16)
    whole = search(task, samples=12, out=tmp_path / "whole", **settings)
    search(task, samples=6, out=tmp_path / "parts", **settings)
    parts = search(task, samples=12, out=tmp_path / "parts", resume=True, progress=False)
    assert parts.candidates == whole.candidates
    assert parts.comparison == whole.comparison and whole.comparison is not None
    assert "tuned Adam" in verdict(whole.comparison)
    assert {r.name for r in whole.results} >= {"Adam", "NAdam", "Lion", "PowerSign"}
    assert whole.facts["tasks"] == ["digits-mlp"] and whole.facts["chance"] == LEAST
    page = whole.report.read_text()
    assert "speed against tuned Adam, in doublings" in page
    assert "validation score" not in page.lower()
    assert parse(whole.best.rule)


@pytest.mark.parametrize(("setting", "value"), [("sweep_examples", 3), ("final_epochs", 10)])
def test_what_the_suite_decides_is_refused(setting, value):
    flag = "--" + setting.replace("_", "-")
    with pytest.raises(ValueError, match=f"{flag} is .*: leave {flag} out"):
        SearchConfig(**{setting: value})


def test_every_workload_is_a_task_of_its_name():
    assert not set(suite.SUITE) & set(suite.WATCH)
    for name, make in (suite.SUITE | suite.WATCH).items():
        assert name.startswith(make().task.name)


@pytest.mark.parametrize("place", [0, 7, 15])
def test_a_transformer_does_not_see_what_it_guesses(place):
    task = transformer()
    params, _ = task.init(jax.random.key(0))
    symbols = np.array(task.validation[:3, :-1])
    before = logits(params, symbols)
    symbols[:, place] = (symbols[:, place] + 1) % len(ALPHABET)
    changed = (np.abs(logits(params, symbols) - before) > 1e-6).any(axis=(0, 2))
    np.testing.assert_array_equal(changed, np.arange(16) >= place)

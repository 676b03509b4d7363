"""The experiment on Penn Treebank: its text, its task, and the whole of it at its smallest."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import table5_ptb as table5
from data.ptb import Corpus
from harness.tuning import Outcome, Rival, Training
from models.ptb_lstm import State, WordLSTM
from ptb import task as text_task
from rich.console import Console

from nos_optax.population import DatasetError, PartLoop

pytestmark = pytest.mark.slow  # experiments take seconds to compile

QUIET = Console(quiet=True)
BATCH, BPTT = 3, 10
MODEL = WordLSTM(vocabulary=7, units=5, init_scale=0.8)
TEXT = np.random.default_rng(0).integers(7, size=203).astype(np.int32)
WITHOUT_DROPOUT = dict.fromkeys(("embedding_dropout", "state_dropout", "output_dropout"), 0.0)
CORPUS = Corpus(TEXT, TEXT[:150], TEXT[:90], tuple("abcdefg"))


@pytest.fixture(scope="module")
def task():
    return text_task.language_task(MODEL, CORPUS, BATCH, BPTT, state_reset=0.0)


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0))


@pytest.fixture
def in_blocks(monkeypatch):
    monkeypatch.setattr(text_task, "CACHED", 0)


def assert_close(actual, expected, rtol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, 1e-5), actual, expected)


def minibatch(task, i):
    return jax.tree.map(lambda x: x[i * BATCH : (i + 1) * BATCH], task.train)


# The text.


def test_rows_of_a_minibatch_go_on_in_the_next(task):
    inputs, targets, first = (x.reshape(-1, BATCH, *x.shape[1:]) for x in task.train)
    assert len(inputs) == 6 and not task.shuffle
    np.testing.assert_array_equal(inputs[:, :, 1:], targets[:, :, :-1])
    np.testing.assert_array_equal(inputs[1:, :, 0], targets[:-1, :, -1])
    np.testing.assert_array_equal(first, [[True] * BATCH] + 5 * [[False] * BATCH])


@pytest.mark.parametrize("length", [150, 101, 91])
def test_long_rows_hold_the_whole_text(length):
    inputs, targets, _ = text_task.long_rows(TEXT[:length])
    assert inputs.shape[0] == text_task.ROWS and inputs.shape[1] % text_task.BLOCK == 0
    real = targets >= 0
    assert (real == real[0]).all(), "or a mean over rows is not a mean over words"
    words = real.sum()
    assert length - 1 - text_task.ROWS < words <= length - 1
    np.testing.assert_array_equal(targets[real], TEXT[1 : words + 1])
    np.testing.assert_array_equal(inputs[real], TEXT[:words])


# The task.


def test_blocks_change_nothing(params, in_blocks):
    inputs, targets = jnp.array(TEXT[:60].reshape(3, 20)), jnp.array(TEXT[1:61].reshape(3, 20))
    carry, key = State(*jnp.full((2, 3, 5), 0.3)), jax.random.key(1)

    def total(scorer):
        def function(params):
            scores, after = scorer(params)
            return scores.sum(), (scores, after)

        return jax.jit(jax.value_and_grad(function, has_aux=True))(params)

    blocks = total(lambda p: text_task.score(MODEL, p, carry, inputs, targets, key))
    whole = total(lambda p: MODEL.log_likelihoods(p, carry, inputs, targets, key))
    assert_close(blocks, whole)


def test_the_state_goes_on_until_the_text_begins_anew(params):
    still = dataclasses.replace(MODEL, **WITHOUT_DROPOUT)
    task = text_task.language_task(still, CORPUS, BATCH, BPTT, state_reset=0.0)
    loss, key = jax.jit(task.loss), jax.random.key(0)
    state, losses = still.zero_carry(BATCH), []
    for i in range(3):
        value, state = loss(params, state, minibatch(task, i), key)
        losses.append(value)
    rows = [np.concatenate([minibatch(task, i)[part] for i in range(3)], 1) for part in (0, 1)]
    scores, end = jax.jit(still.log_likelihoods)(params, still.zero_carry(BATCH), *rows)
    # The loss is summed over the words of a row, and averaged over the rows.
    assert_close(losses, list(-scores.reshape(BATCH, 3, BPTT).sum(2).mean(0)))
    assert_close(state, end)
    again, _ = loss(params, state, minibatch(task, 0), key)
    assert_close(again, losses[0])
    other, _ = loss(params, still.zero_carry(BATCH), minibatch(task, 2), key)
    assert abs(other - losses[2]) > 1e-3


def test_rows_are_reset_at_random(params):
    still = dataclasses.replace(MODEL, **WITHOUT_DROPOUT)
    rows = BATCH * 200
    inputs, targets = (jnp.full((rows, BPTT), word) for word in (1, 2))
    task = text_task.language_task(still, CORPUS, BATCH, BPTT, state_reset=0.3)
    elsewhere = State(*jnp.full((2, rows, 5), 0.5))
    batch = inputs, targets, jnp.zeros(rows, bool)
    _, after = jax.jit(task.loss)(params, elsewhere, batch, jax.random.key(0))
    ends = [
        still.log_likelihoods(params, start, inputs[:1], targets[:1])[1].cell
        for start in (still.zero_carry(1), State(*jnp.full((2, 1, 5), 0.5)))
    ]
    reset, gone_on = (np.isclose(after.cell, end, rtol=1e-4).all(1) for end in ends)
    assert (reset ^ gone_on).all()
    assert reset.mean() == pytest.approx(0.3, abs=0.08)


def test_dropout_is_for_training_only(task, params):
    loss, state = jax.jit(task.loss), MODEL.zero_carry(BATCH)
    losses = [loss(params, state, minibatch(task, 0), jax.random.key(i))[0] for i in (1, 2)]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_metric_is_the_mean_over_the_words(task, params, part, in_blocks):
    rows = getattr(task, part)
    length = (rows[1] >= 0).sum(1)[0]
    assert length < rows[1].shape[1], "there is padding"
    elsewhere = State(*jnp.full((2, BATCH, 5), 0.5))  # training's state has no part in it
    scores = jax.jit(task.metric)(params, elsewhere, rows)
    inputs, targets = rows[0][:, :length], rows[1][:, :length]
    start = MODEL.zero_carry(len(inputs))
    words, _ = jax.jit(MODEL.log_likelihoods)(params, start, inputs, targets)
    assert_close(scores, words.mean(1))


def test_gradients_are_clipped_and_guessing_is_chance(task):
    assert task.max_grad_norm == 5.0
    blind = jax.tree.map(jnp.zeros_like, MODEL.init(jax.random.key(0)))
    assert_close(jax.jit(task.metric)(blind, (), task.test), np.full(text_task.ROWS, task.chance))
    assert task.chance == pytest.approx(-math.log(7))


# What is shown.


def outcome(name, tests, rate=0.1):
    def training(test, seed):
        scores = [-3.0, -math.log(test) if test else math.nan]
        return Training(name, rate, seed, scores, scores, scores)

    runs = [training(test, i) for i, test in enumerate(tests)]
    return Outcome(Rival(name, "g"), rate, runs[:1], runs)


def test_differences_are_of_logarithms_seed_by_seed():
    outcomes = [outcome("Adam", [100, 120, 80]), outcome("PowerSign", [110, 132, 88])]
    differences = table5.log_differences(outcomes, vocabulary=1000)
    assert list(differences) == ["Adam"], "only baselines that were trained"
    assert differences["Adam"]["Adam"] is None
    assert differences["Adam"]["PowerSign"][:3] == pytest.approx([math.log(1.1)] * 3)
    # The paper's: log(64.8 / 63.3).
    cells = [list(column.cells) for column in table5.differences_table(differences).columns]
    assert cells[2] == ["", "+0.023"]


def test_the_verdict_has_each_pair_of_the_claim_once():
    outcomes = [
        outcome("Adam", [100, 101, 100]),
        outcome("SGD", [120, 122, 121]),
        outcome("PowerSign", [110, 112, 111]),
        outcome("AddSign", [119, 124, 120]),
    ]
    text = table5.verdict(table5.log_differences(outcomes, 1000))
    assert "5 paired t-tests" in text and "better: PowerSign than SGD;" in text
    assert "worse: SGD than Adam, PowerSign than Adam, AddSign than Adam;" in text
    assert "undecided: 1." in text and "Adam than SGD" not in text


def test_a_diverged_run_is_a_blind_guess():
    outcomes = [outcome("Adam", [100, 100]), outcome("SGD", [100, None])]
    mean, *_ = table5.log_differences(outcomes, vocabulary=1000)["Adam"]["SGD"]
    assert mean == pytest.approx(math.log(10) / 2)
    scores = -np.log([250, 5000])
    assert table5.display(1000).of(scores) == pytest.approx([250, 5000])
    shown = table5.display_in_picture(1000).of(scores)
    assert shown == pytest.approx(np.log([250, 1000]))


# The whole.


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptb")
    return dataclasses.replace(
        table5.PRESETS["smoke"],
        out=folder / "runs",
        results=folder / "results",
    )


def results_of(arguments):
    table5.run(arguments, QUIET)
    return json.loads((arguments.results / "table5_ptb_smoke.json").read_text())


@pytest.fixture(scope="module")
def written(smoke):
    return results_of(smoke)


def test_it_runs_and_learns(smoke, written):
    assert [row["name"] for row in written["rivals"]] == list(smoke.rivals)
    adam = written["rivals"][0]
    assert max(adam["values"]["final_test"]) < 0.7 * smoke.vocabulary
    scores = [run["test"][-1] for run in adam["runs"]]
    np.testing.assert_allclose(adam["values"]["final_test"], np.exp(-np.array(scores)), rtol=1e-5)
    assert len(adam["tuning"]) == len(smoke.adam_rates) and len(adam["runs"]) == smoke.seeds
    assert {row["schedule"] for row in written["rivals"]} == {"cosine"}
    assert {row["weight_decay"] for row in written["rivals"]} == set(smoke.weight_decays)
    assert "data_dir" not in written["arguments"]
    text = (smoke.results / "table5_ptb_smoke.md").read_text()
    assert all(f"| {name} |" in text for name in smoke.rivals)
    assert "| 68.5, 64.8 |" in text and "worse than Adam." in text
    assert (smoke.results / "table5_ptb_smoke.png").stat().st_size > 10_000


def test_nothing_is_trained_twice(smoke, written, monkeypatch):
    monkeypatch.setattr(PartLoop, "advance", None)
    assert results_of(smoke)["rivals"] == written["rivals"]


def test_missing_data_is_one_message(tmp_path):
    arguments = dataclasses.replace(table5.PRESETS["small"], data_dir=tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no Penn Treebank in .*nowhere.*Download"):
        table5.run(arguments, QUIET)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"bptt": 12}, "--bptt must be a multiple of 5, got 12"),
        ({"seeds": 1}, "--seeds must be at least 2, got 1"),
        ({"sgd_rates": ()}, "--sgd-rates is empty"),
        ({"weight_decays": ()}, "--weight-decays is empty"),
        ({"state_reset": 1.0}, "--state-reset must be from 0 to less than 1, got 1.0"),
        ({"rivals": ("Adam", "Adagrad")}, "--rivals must be .* got Adam Adagrad"),
        ({"rivals": ("SGD",)}, "--rivals must be Adam and others"),
    ],
)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(table5.PRESETS["smoke"], **mistake)


# The paper's size.


def test_the_paper_s_settings():
    paper = table5.PRESETS["paper"]
    assert paper == table5.Arguments() and next(iter(table5.PRESETS)) == "small"
    assert (paper.batch, paper.bptt, paper.steps) == (64, 35, 150_000)
    assert paper.rivals == ("Adam", "SGD", "PowerSign", "AddSign")
    assert {table5.RIVALS[name].schedule for name in paper.rivals} == {"cosine"}
    text = np.arange(64 * 35 + 1, dtype=np.int32)
    corpus = Corpus(text, text, text, tuple(map(str, range(10_000))))
    task = table5.make_task(paper, corpus)
    assert task.num_params == 9_892_600
    loss, state = jax.eval_shape(
        task.loss, *jax.eval_shape(task.init, jax.random.key(0)), task.train, jax.random.key(0)
    )
    assert loss.shape == () and [x.shape for x in jax.tree.leaves(state)] == [(64, 650)] * 2
    scores = jax.eval_shape(task.metric, *jax.eval_shape(task.init, jax.random.key(0)), task.test)
    assert scores.shape == (text_task.ROWS,)


def test_a_step_of_the_paper_s_size():
    sizes = table5.check(table5.PRESETS["paper"], QUIET)
    assert sizes.training_bytes > 4 * 4 * 9_892_600  # weights and three averages
    # All scores of a minibatch, of which a gradient needs several, are 85 MiB.
    assert sizes.step_bytes < 512 * 2**20
    # The loss of a row is a sum over its 35 words, each about a guess among 10,000.
    assert sizes.loss_before == pytest.approx(35 * math.log(10_000), rel=0.01)
    assert sizes.loss_after < sizes.loss_before

"""The experiments on image classification: the task, the tables by hand, and each small."""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_data
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from nos_optax import rules
from nos_optax.grammar import encode, program_streams
from nos_optax.population import TrainingGrid, load_digits
from nos_optax.population.cifar10 import load_cifar10, prepare_cifar10
from nos_optax.population.data import Dataset, DatasetError
from nos_optax.population.training import Candidate, new_child, step

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import table1_constant_rate as table1
import table2_decayed_rate as table2
import table6_all_rules as table6
from harness import image_rivals, vision
from harness.image_rivals import PAPER, SMOKE
from harness.rival_tables import (
    Display,
    accuracy,
    claims,
    draw,
    draw_differences,
    edge_note,
    measure,
    results_table,
    tuned,
    verdict,
)
from harness.tables import markdown
from harness.tuning import Outcome, Rival, Training

pytestmark = pytest.mark.slow  # experiments take seconds to compile

QUIET = Console(quiet=True)


def random_images(count, size=8, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, size, size, channels)).astype(np.uint8)
    return pixels, (np.arange(count) % 10).astype(np.int32)


def random_data(count=20, size=8, channels=1):
    images, labels = random_images(count, size, channels)
    dataset = Dataset.from_images("random", images, labels, images, labels, 10)
    return vision.Images(dataset, *random_images(count, size, channels, seed=1))


# Data.


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    archive = test_data.write_archive(root / "archive.tar.gz", test_data.official_members())
    prepare_cifar10(archive, root / "data", **test_data.COUNTS)
    return root / "data"


def test_cifar10_has_the_official_test_images(cifar10):
    images, labels = test_data.random_records(6 * test_data.PER_BATCH)
    official = {(x.tobytes(), int(y)) for x, y in zip(images[200:], labels[200:], strict=True)}
    whole = vision.read_cifar10(cifar10, 100, 50)
    read = zip(whole.test_images, whole.test_labels, strict=True)
    assert {(x.tobytes(), int(y)) for x, y in read} == official
    same = load_cifar10(cifar10, 100, 50)
    np.testing.assert_array_equal(whole.dataset.train_images, same.train_images)
    assert whole.dataset.name == "CIFAR-10"
    part = vision.read_cifar10(cifar10, 100, 50, test_examples=30)
    np.testing.assert_array_equal(part.test_images, whole.test_images[:30])
    with pytest.raises(DatasetError, match="test_examples is 41; it must be from 1 to 40"):
        vision.read_cifar10(cifar10, 100, 50, test_examples=41)


def test_absent_cifar10_is_named(tmp_path):
    config = dataclasses.replace(table1.PRESETS["small"], data_dir=tmp_path, out=tmp_path)
    with pytest.raises(DatasetError, match=r"no prepared CIFAR-10 in .*Prepare it") as error:
        table1.run(config, QUIET)
    assert str(tmp_path / "cifar10") in str(error.value)


def test_halved_images_are_means_of_pixels():
    images = random_data(6, channels=3)
    halved = vision.halve(images)
    assert halved.test_images.shape == (6, 4, 4, 3)
    block = images.dataset.train_images[2, 4:6, 2:4, 1].astype(float)
    assert abs(halved.dataset.train_images[2, 2, 1, 1] - block.mean()) <= 0.5
    assert (halved.dataset.std < images.dataset.std).all()
    np.testing.assert_array_equal(halved.test_labels, images.test_labels)
    with pytest.raises(DatasetError, match="1x1 pixels cannot be halved"):
        functools.reduce(lambda x, _: vision.halve(x), range(4), images)


def test_digits_are_apart():
    images = vision.read_digits(100, 40, 30)
    same = load_digits(train_examples=100, validation_examples=70)
    together = np.concatenate([images.dataset.validation_images, images.test_images])
    np.testing.assert_array_equal(together, same.validation_images)
    np.testing.assert_array_equal(images.dataset.train_images, same.train_images)
    assert len(images.test_labels) == 30


# Augmentation.


def variants(image, shift):
    padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
    height, width, _ = image.shape
    for i in range(2 * shift + 1):
        for j in range(2 * shift + 1):
            part = padded[i : i + height, j : j + width]
            yield part.tobytes()
            yield part[:, ::-1].tobytes()


def test_shifted_images_are_crops_of_reflected_ones_and_all_occur():
    images = np.random.default_rng(0).integers(0, 256, (1, 5, 4, 3)).astype(np.uint8)
    many = np.asarray(vision.shift_and_mirror(jax.random.key(0), images.repeat(2000, 0), 1))
    assert many.dtype == np.uint8
    seen = [x.tobytes() for x in many]
    expected = list(variants(images[0], 1))
    assert set(seen) == set(expected) and len(set(expected)) == 18
    counts = np.array([seen.count(x) for x in expected])
    assert stats.chisquare(counts).pvalue > 1e-4


def test_every_image_is_moved_by_itself_alone():
    images, _ = random_images(50)
    moved = np.asarray(vision.shift_and_mirror(jax.random.key(1), images, 2))
    for image, of_it in zip(images, moved, strict=True):
        assert of_it.tobytes() in set(variants(image, 2))


# The task.


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        x = nn.BatchNorm(not train, momentum=0.9, epsilon=0.0)(images.mean((1, 2)))
        return nn.Dense(10)(x)


def test_loss_by_hand():
    images = random_data(channels=3)
    task = vision.classification(images, Linear(), weight_decay=0.3)
    params, state = task.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.5, params)  # biases too
    pixels, labels = task.train
    value, new = task.loss(params, state, (pixels, labels), jax.random.key(1))
    params, new = jax.tree.map(np.asarray, (params, new))

    x = ((pixels - images.dataset.mean) / images.dataset.std).mean((1, 2))
    norm, dense = params["BatchNorm_0"], params["Dense_0"]
    scores = (x - x.mean(0)) / x.std(0) * norm["scale"] + norm["bias"]
    scores = scores @ dense["kernel"] + dense["bias"]
    entropies = np.log(np.exp(scores).sum(1)) - scores[np.arange(20), labels]
    expected = entropies.mean() + 0.15 * (dense["kernel"] ** 2).sum()
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(new["BatchNorm_0"]["mean"], 0.1 * x.mean(0), atol=1e-6)

    average = (x - new["BatchNorm_0"]["mean"]) / np.sqrt(new["BatchNorm_0"]["var"])
    scores = (average * norm["scale"] + norm["bias"]) @ dense["kernel"] + dense["bias"]
    right = task.metric(params, new, (pixels, labels))
    np.testing.assert_array_equal(right, scores.argmax(1) == labels)


def test_the_key_only_augments():
    images = random_data()
    state_and_losses = []
    for shift in (0, 2):
        task = vision.classification(images, Linear(), shift)
        params, state = task.init(jax.random.key(0))
        state_and_losses.append([task.loss(params, state, task.train, jax.random.key(k))[0]
                                 for k in (1, 2)])  # fmt: skip
    (same, again), (one, other) = state_and_losses
    assert same == again and len({float(x) for x in (same, one, other)}) == 3


def test_initial_weights_depend_on_the_key():
    task = vision.classification(random_data(), Linear())
    first, again, other = (task.init_flat(jax.random.key(k))[0] for k in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


# Tables.


def training(seed, validation, test, rate=0.1):
    return Training("x", rate, seed, [1.0] * len(test), validation, test)


def outcome(name, *runs):
    return Outcome(Rival(name, "g"), 0.1, [training(0, *runs[0])], [
        training(seed, *curves) for seed, curves in enumerate(runs, 1)
    ])  # fmt: skip


NAN = float("nan")
OUTCOMES = [
    outcome("base", ([0.5, 0.4], [0.45, 0.42]), ([0.3, 0.6], [0.2, 0.5])),
    outcome("better", ([0.5, 0.7], [0.5, 0.72]), ([0.6, 0.8], [0.5, 0.82])),
    outcome("gone", ([0.5, NAN], [0.4, NAN]), ([NAN, NAN], [NAN, NAN])),
]


def test_numbers_of_rivals_by_hand():
    base, better, gone = measure(OUTCOMES, "base", accuracy(10))
    assert base.values["final_validation"] == pytest.approx([40, 60])
    assert base.values["final_test"] == pytest.approx([42, 50])
    assert base.values["best_validation"] == pytest.approx([50, 60])
    assert base.values["best_test"] == pytest.approx([45, 50]), "after the best validation"
    assert base.difference is None
    mean, low, high = better.difference
    half = stats.t.ppf(0.975, 1) * stats.sem([30, 32])
    assert (mean, high - mean, mean - low) == pytest.approx((31, half, half))
    assert gone.diverged == 2 and gone.values["final_test"] == pytest.approx([10, 10])
    assert gone.values["best_test"] == pytest.approx([40, 10]), "before it diverged"


def test_table_and_verdict():
    results = measure(OUTCOMES, "base", accuracy(10))
    text = markdown(results_table(results, "base", accuracy(10), {"better": "93.1"}))
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert "46.0 ± 4.0" in rows["base"] and "baseline" in rows["base"]
    assert "+31.0 [+18.3, +43.7]" in rows["better"] and "93.1" in rows["better"]
    assert "2, 2 diverged" in rows["gone"] and "not at hand" in rows["gone"]
    said = verdict(results, "base", accuracy(10))
    assert "better: better; worse: none; undecided: 1" in said


def test_a_claim_survives_the_number_of_comparisons():
    # Of three values: p = 0.0097 and 0.032 (t = 10.1 and 5.5).
    clear, unclear = (-1.0, -1.426, -0.574), (1.0, 0.218, 1.782)
    assert claims({"a": clear, "b": unclear}, 3) == (
        "2 paired t-tests by Holm's procedure at 5 %: better: b; worse: a; undecided: 0."
    )
    many = {"a": clear, "b": unclear, "c": (0.0, -1.0, 1.0)}
    assert "better: none; worse: a; undecided: 2." in claims(many, 3)
    assert "better: a; worse: none; undecided: 2." in claims(many, 3, lower=True)
    many |= {name: (0.0, -1.0, 1.0) for name in "def"}
    assert "better: none; worse: none; undecided: 6." in claims(many, 3)


def test_rates_at_an_edge_are_named():
    results = measure(OUTCOMES, "base", accuracy(10))
    assert edge_note(results, (0.01, 0.1, 1.0)).endswith("greatest rate: none.")
    assert edge_note(results, (0.01, 0.1)).endswith("greatest rate: base, better, gone.")


def test_what_tuning_shows_is_the_mean_over_its_seeds():
    trainings = [
        training(seed, [0.0, last], [0.0, 0.0], rate)
        for rate, finals in {0.1: (0.4, 0.6), 1.0: (0.2, NAN)}.items()
        for seed, last in enumerate(finals)
    ]
    found = tuned(OUTCOMES[0]._replace(tuning=trainings), accuracy(10))
    assert found == pytest.approx({0.1: 50, 1.0: 15})


def test_what_is_shown_may_be_better_when_lower():
    perplexity = Display("perplexity", -np.log(100), lambda s: np.exp(-s), lower=True, scale="log")
    worst = outcome("base", *[(np.log(x), np.log(x)) for x in ([0.02, 0.021], [0.03, 0.023])])
    lower = outcome("better", *[(np.log(x), np.log(x)) for x in ([0.4, 0.2], [0.4, 0.21])])
    base, better = measure([worst, lower], "base", perplexity)
    assert base.values["best_test"] == pytest.approx([1 / 0.021, 1 / 0.03])
    assert better.values["final_test"] == pytest.approx([1 / 0.2, 1 / 0.21])
    assert better.difference[0] < 0
    assert "better: better; worse: none" in verdict([base, better], "base", perplexity)


def test_mistakes_in_tables_are_named():
    with pytest.raises(ValueError, match="baseline none is not among the rivals"):
        measure(OUTCOMES, "none", accuracy(10))
    untested = [outcome("base", *[([0.5], [NAN])] * 2)]
    with pytest.raises(ValueError, match="no test scores"):
        measure(untested, "base", accuracy(10))


def test_picture(tmp_path):
    draw(OUTCOMES, accuracy(10), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    drawn = []
    draw(OUTCOMES, accuracy(10), tmp_path / "picture.png", drawn.append)
    assert len(drawn) == 1


def test_the_picture_has_the_difference_of_every_rival():
    results = measure(OUTCOMES, "base", accuracy(10))
    axes = Figure().subplots()
    draw_differences(axes, results, "base", accuracy(10))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["better", "gone"]
    ((points, _, (bars,)),) = axes.containers
    assert points.get_xdata() == pytest.approx([31, -36])
    ends = [segment[:, 0] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [result.difference[1:] for result in results[1:]])


# Table 6's order.


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 30, 12))  # with ties
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(table6.correlation(x, y), expected, atol=1e-12)
    assert table6.correlation(np.ones(5), np.arange(5)) == 0


def test_bootstrap_tells_an_order_from_none():
    rng = np.random.default_rng(0)
    paper = np.arange(20.0)
    noisy = paper + rng.normal(size=20)
    low, high = table6.bootstrap(noisy, paper, 500)
    assert 0.7 < low < high <= 1
    low, high = table6.bootstrap(-noisy, paper, 500)
    assert -1 <= low < high < -0.7
    # Without an order, 95 of 100 intervals should have 0.
    found = [table6.bootstrap(rng.normal(size=20), paper, 200) for _ in range(100)]
    assert sum(low <= 0 <= high for low, high in found) >= 85


def test_the_same_order_is_certain():
    assert table6.bootstrap(np.arange(20.0), np.arange(20.0) ** 3, 100) == pytest.approx((1, 1))


def test_the_interval_is_around_the_correlation_of_the_means():
    names = list(table6.TABLE_6)
    paper = np.array([table6.TABLE_6[name].accuracy.final_test for name in names])
    means = np.random.default_rng(0).permutation(paper)
    outcomes = [
        outcome(name, *[([0.5], [mean / 100 + noise]) for noise in (-0.02, 0.0, 0.02)])
        for name, mean in zip(names, means, strict=True)
    ]
    found = table6.agreements(measure(outcomes, "momentum", accuracy(10)))["final_test"]
    assert found.with_paper == pytest.approx(stats.spearmanr(means, paper).statistic)
    assert (found.low, found.high) == pytest.approx(table6.bootstrap(means, paper))
    assert found.between_our_seeds == pytest.approx(1)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.5, "it agrees"), (-0.5, -0.1, "it is contrary"), (-0.1, 0.5, "undecided")],
)
def test_what_an_order_shows(low, high, said):
    text = table6.order(table6.Agreement((low + high) / 2, low, high, 0.17))
    assert f"the paper's: {said}, rank correlation" in text and "seeds it is +0.17" in text


def test_the_picture_has_every_rule_in_our_order():
    results = [
        result._replace(name=name)
        for name, result in zip(
            ("adam", "sgd", "rmsprop"), measure(OUTCOMES, "base", accuracy(10)), strict=True
        )
    ]
    axes = Figure().subplots()
    table6.draw_orders(axes, results)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["rmsprop 10.0", "adam 46.0", "sgd 77.0"]
    (points,) = axes.lines
    assert points.get_xdata() == pytest.approx([90.3, 90.1, 91.8])


# The experiments.


def test_rows():
    assert [rival.name for rival in table1.RIVALS][:6] == [
        "SGD", "Momentum", "Adam", "RMSProp", "PowerSign", "PowerSign-ld",
    ]  # fmt: skip
    assert len(table1.RIVALS) == 14 and len(table2.RIVALS) == 16 and len(table6.RIVALS) == 20
    by_name = {rival.name: rival for rival in table1.RIVALS + table2.RIVALS}
    assert by_name["AddSign-rd20"].rule == "(1 + rd(20) * sign(g) * sign(m)) * g"
    assert by_name["Adam + linear cosine"] == Rival("Adam + linear cosine", "adam", "linear cosine")
    for experiment in (table1, table2, table6):
        names = {rival.name for rival in experiment.RIVALS}
        assert experiment.BASELINE in names and names.issuperset(experiment.DRAWN)
        for preset, config in experiment.PRESETS.items():
            assert preset in (config.scale, (config.scale, config.model))
        first, *_ = experiment.PRESETS.values()
        assert (first.scale, first.model) == ("small", "wrn")


def test_the_defaults_are_the_papers():
    assert image_rivals.ImageConfig() == PAPER
    settings = ("scale", "model", "dataset", "image_size", "depth", "width", "epochs", "seeds")
    assert [getattr(PAPER, name) for name in settings] == [
        *("paper", "wrn", "cifar10", 32, 40, 4, 300, 5)
    ]
    assert PAPER.train_examples is None and PAPER.test_examples is None
    assert len(PAPER.rates) == 7


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of each experiment's results, by its module and the network."""
    presets = {
        (table1, "wrn"): table1.PRESETS["smoke"],
        (table2, "wrn"): table2.PRESETS["smoke"],
        (table6, "wrn"): table6.PRESETS["smoke", "wrn"],
        (table6, "child"): table6.PRESETS["smoke", "child"],
    }

    @functools.cache
    def run(experiment, model="wrn"):
        folder = tmp_path_factory.mktemp(experiment.NAME)
        config = presets[experiment, model]
        config = dataclasses.replace(config, out=folder / "runs", results=folder)
        experiment.run(config, QUIET)
        return config

    return run


@pytest.mark.parametrize(
    ("experiment", "model"),
    [(table1, "wrn"), (table2, "wrn"), (table6, "wrn"), (table6, "child")],
    ids=["table1", "table2", "table6", "table6_child"],
)
def test_smoke(runs, experiment, model):
    config = runs(experiment, model)
    path = config.results / f"{config.name(experiment.NAME)}.json"

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    written = json.loads(path.read_text(), parse_constant=refuse)
    assert [row["name"] for row in written["rivals"]] == [r.name for r in experiment.RIVALS]
    for row in written["rivals"]:
        assert [t["rate"] for t in row["tuning"]] == list(config.rates)
        assert [t["seed"] for t in row["runs"]] == [1, 2]
        assert all(len(t["test"]) == config.epochs for t in row["runs"])
        best = max(
            row["tuning"], key=lambda t: -1 if None in t["validation"] else t["validation"][-1]
        )
        assert row["rate"] == best["rate"]
    text = path.with_suffix(".md").read_text()
    assert all(f"| {rival.name} |" in text for rival in experiment.RIVALS)
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_the_figures_of_the_paper_are_those_of_this_repository(runs):
    config = runs(table1)
    text = (config.results / f"{table1.NAME}_smoke.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert rows["Adam"].endswith("| 90.1 |") and rows["PowerSign"].endswith("| 92.8 |")
    assert rows["AddSign"].endswith("| not at hand |")


def test_what_is_recorded_is_not_trained_again(runs, monkeypatch):
    config = runs(table6, "child")
    monkeypatch.setattr(TrainingGrid, "advance", None)
    path = config.results / f"{config.name(table6.NAME)}.md"
    before = path.read_text()
    path.unlink()
    table6.run(config, QUIET)
    assert path.read_text() == before
    with pytest.raises(ValueError, match="epochs is 2 there and 3 here"):
        table6.run(dataclasses.replace(config, epochs=3), QUIET)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 12}, "--depth must be 10, 16"),
        ({"seeds": 1}, "--seeds must be at least 2, got 1"),
        ({"rates": ()}, "--rates is empty"),
        ({"shift": 8}, "--shift must be less than 8"),
        ({"image_size": 16}, "give --image-size 8"),
    ],
)
def test_mistakes_in_the_configuration_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **changes)


# The paper's scale.


def paper_task():
    """Return the task of the paper's scale, on blank images."""
    pixels, labels = random_images(PAPER.batch_size, PAPER.image_size, 3)
    data = Dataset.from_images("random", pixels, labels, pixels, labels, 10)
    return image_rivals.make_task(PAPER, vision.Images(data, pixels, labels), jax.devices()[0])


def test_a_step_at_the_papers_scale_has_its_shapes():
    task = paper_task()
    assert task.num_params == 8_949_210  # WRN-40-4
    key = jax.random.key(0)
    child = jax.eval_shape(functools.partial(new_child, task), key)
    program = encode(rules["powersign_ld"].rule).array

    def one_step(child, batch):
        candidate = Candidate(program, program_streams(program), jnp.float32(0.1))
        return step(task, child, candidate, batch, jnp.int32(1), key, key)

    after, loss = jax.eval_shape(one_step, child, task.train)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), child
    )
    assert loss.shape == ()


def test_check_reports_sizes():
    sizes = image_rivals.check(dataclasses.replace(SMOKE, model="child"), QUIET)
    assert sizes["training_bytes"] > 4 * 4 * sizes["parameters"]  # weights and three averages
    assert sizes["step_bytes"] > 4 * SMOKE.batch_size * 64
    assert 1 < sizes["loss"] < 5 and sizes["step_seconds"] > 0


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda before, after: after._replace(running=jnp.array(False)), "unchanged: False"),
        (lambda before, after: before, "unchanged: True"),
    ],
)
def test_check_fails_where_the_step_does(monkeypatch, broken, message):
    def broken_step(task, child, *arguments):
        after, loss = step(task, child, *arguments)
        return broken(child, after), loss

    monkeypatch.setattr(image_rivals, "step", broken_step)
    with pytest.raises(RuntimeError, match=message):
        image_rivals.check(dataclasses.replace(SMOKE, model="child"), QUIET)


@pytest.mark.slow
def test_check_at_the_papers_scale():
    """But for the minibatch, of which eight images need a sixteenth of the memory."""
    sizes = image_rivals.check(dataclasses.replace(PAPER, batch_size=8), QUIET)
    assert sizes["parameters"] == 8_949_210
    assert 2**27 < sizes["training_bytes"] < 2**28
    assert 2**27 < sizes["step_bytes"] < 2**32
    assert 2 < sizes["loss"] < 10

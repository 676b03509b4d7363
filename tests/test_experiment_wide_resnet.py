"""The experiments on image classification: the task, the tables by hand, and each small."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import table1_constant_rate as table1
import table2_decayed_rate as table2
import table6_all_rules as table6
import test_data
from harness import image_rivals, one_step, vision
from harness.image_rivals import PAPER, SMALL, SMOKE
from harness.one_step import step
from harness.paper import TABLE_1, TABLE_2
from harness.rival_tables import (
    Display,
    accuracy,
    draw,
    draw_differences,
    edge_note,
    measure,
    results_table,
    tuned,
    verdict,
)
from harness.statistics import between_halves, claims, rank_correlation
from harness.tables import markdown, rates_text
from harness.tuning import HALF_DECADES, Outcome, Rival, Settings, Training
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from nos_optax import rules
from nos_optax.compare.statistics import Difference
from nos_optax.grammar import encode
from nos_optax.population import PartLoop, load_digits
from nos_optax.population.child import new_child
from nos_optax.population.cifar10 import load_cifar10, prepare_cifar10
from nos_optax.population.data import Dataset, DatasetError

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
    task = vision.classification(images, Linear())
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
    assert value == pytest.approx(entropies.mean(), rel=1e-5), "weight decay is the loop's"
    np.testing.assert_allclose(new["BatchNorm_0"]["mean"], 0.1 * x.mean(0), atol=1e-6)

    average = (x - new["BatchNorm_0"]["mean"]) / np.sqrt(new["BatchNorm_0"]["var"])
    scores = (average * norm["scale"] + norm["bias"]) @ dense["kernel"] + dense["bias"]
    right = task.metric(params, new, (pixels, labels))
    np.testing.assert_array_equal(right, scores.argmax(1) == labels)


def test_weight_decay_is_of_the_kernels():
    task = vision.classification(random_data(), Linear())
    params, _ = task.init(jax.random.key(0))
    assert vision.kernels(params) == {
        "BatchNorm_0": {"scale": False, "bias": False},
        "Dense_0": {"kernel": True, "bias": False},
    }


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
    mean, low, high, _ = better.difference
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
    assert "2, 2 diverged" in rows["gone"] and "no such row" in rows["gone"]
    said = verdict(results, "base", accuracy(10))
    assert "better: better; worse: none; undecided: 1" in said


def test_what_differs_between_rivals_has_a_column():
    decayed = OUTCOMES[1]._replace(
        weight_decay=5e-4, tuning=[training(0, [0.5], [0.5], rate) for rate in (0.3, 0.03)]
    )
    results = measure([OUTCOMES[0], decayed], "base", accuracy(10))
    assert results[1].tried == [0.03, 0.3] and rates_text(results[1].tried) == "2, 0.03 to 0.3"
    headers = markdown(results_table(results, "base", accuracy(10), {})).splitlines()[0]
    assert "| weight decay | rates tried |" in headers and "schedule" not in headers
    same = markdown(results_table(results[:1] * 2, "base", accuracy(10), {}))
    assert "weight decay" not in same and "rates tried" not in same


def test_a_claim_survives_the_number_of_comparisons():
    clear, unclear = (-1.0, -1.426, -0.574, 0.0097), (1.0, 0.218, 1.782, 0.032)
    changes = {"a": Difference(*clear), "b": Difference(*unclear)}
    assert claims(changes) == (
        "2 paired t-tests by Holm's procedure at 5 %: better: b; worse: a; undecided: 0."
    )
    nothing = Difference(0.0, -1.0, 1.0, 1.0)
    many = {**changes, "c": nothing}
    assert "better: none; worse: a; undecided: 2." in claims(many)
    assert "better: a; worse: none; undecided: 2." in claims(many, lower=True)
    many |= {name: nothing for name in "def"}
    assert "better: none; worse: none; undecided: 6." in claims(many)


def test_rates_at_an_edge_are_named():
    results = measure(OUTCOMES, "base", accuracy(10))
    inside = [result._replace(tried=[0.01, 0.1, 1.0]) for result in results[1:]]
    assert edge_note(inside).endswith("greatest rate: none.")
    assert edge_note([results[0], *inside]).endswith("greatest rate: base."), "of each its own"


def test_what_tuning_shows_is_the_mean_over_its_seeds():
    trainings = [
        training(seed, [0.0, last], [0.0, 0.0], rate)
        for rate, finals in {0.1: (0.4, 0.6), 1.0: (0.2, NAN)}.items()
        for seed, last in enumerate(finals)
    ]
    found = tuned(OUTCOMES[0]._replace(tuning=trainings), accuracy(10))
    assert found == pytest.approx({0.1: 50, 1.0: 15})


def test_what_tuning_shows_is_of_the_best_weight_decay():
    trainings = [
        training(0, [score], [0.0])._replace(weight_decay=decay)
        for decay, score in {0.0: 0.4, 5e-4: 0.6}.items()
    ]
    shown = OUTCOMES[0]._replace(tuning=trainings, weight_decay=5e-4)
    assert tuned(shown, accuracy(10)) == pytest.approx({0.1: 60})


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
    np.testing.assert_allclose(ends, [result.difference[1:3] for result in results[1:]])


# Table 6's order.


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 30, 12))  # with ties
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(rank_correlation(x, y), expected, atol=1e-12)
    assert rank_correlation(np.ones(5), np.arange(5)) == 0


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
    assert found.between_our_halves == pytest.approx(1)


def test_the_correlation_of_halves_by_hand():
    ours = np.array([[1, 2, 3], [2, 3, 1], [3, 1, 2]])  # rules by seeds
    # One seed against the mean of two others: [1, 2, 3] and [2.5, 2, 1.5], and so on.
    assert between_halves(ours) == pytest.approx(-1)
    four = np.array([[1, 1, 5, 5], [2, 2, 6, 6], [3, 3, 7, 7]])
    assert between_halves(four) == pytest.approx(1)


def test_twelve_rules_span_the_papers_accuracies():
    paper = {name: row.accuracy.final_test for name, row in table6.TABLE_6.items()}
    chosen = table6.spanning(12)
    assert len(set(chosen)) == 12 and table6.BASELINE in chosen
    ends = {paper[name] for name in chosen}
    assert (min(ends), max(ends)) == (min(paper.values()), max(paper.values()))
    gaps = np.diff(sorted(paper[name] for name in chosen))
    assert gaps.max() <= 0.5, "no large part of the range is without a rule"
    assert [rival.name for rival in table6.SHORT.rivals()] == chosen
    assert len(dataclasses.replace(table6.SHORT, all=True).rivals()) == len(paper)


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


def rivals_of(experiment):
    """Return the rivals of an experiment at its smallest."""
    return table6.SHORT.rivals() if experiment is table6 else experiment.RIVALS


def test_rows():
    assert [rival.name for rival in table1.RIVALS] == [*TABLE_1, "Momentum (cosine)"]
    assert [rival.name for rival in table2.RIVALS] == list(TABLE_2)
    by_name = {rival.name: rival for rival in table1.RIVALS + table2.RIVALS}
    assert by_name["AddSign-rd20"].rule == "(1 + rd(20) * sign(g) * sign(m)) * g"
    noisy = "AddSign-ld (noisy linear cosine)"
    assert by_name[noisy] == Rival(noisy, "(1 + ld * sign(g) * sign(m)) * g", "noisy linear cosine")
    assert by_name["RMSProp"] == Rival("RMSProp", "rmsprop", "constant")
    for experiment in (table1, table2, table6):
        assert experiment.BASELINE in {rival.name for rival in rivals_of(experiment)}
        for preset, config in experiment.PRESETS.items():
            assert preset in (config.scale, (config.scale, config.model))
        first, *_ = experiment.PRESETS.values()
        assert (first.scale, first.model) == ("small", "wrn")
    assert set(table1.DRAWN) <= {rival.name for rival in table1.RIVALS}
    assert set(table2.FIGURE_7) <= set(TABLE_2)


def test_the_control_is_compared_with_the_sign_terms_that_decay():
    names = ["PowerSign", "PowerSign-cd", "AddSign-rd10", table1.CONTROL]
    finals = [(0.5, 0.6), (0.7, 0.8), (0.4, 0.6), (0.6, 0.6)]
    outcomes = [
        outcome(name, *[([final], [final]) for final in both])
        for name, both in zip(names, finals, strict=True)
    ]
    found = table1.against_control(measure(outcomes, "PowerSign", accuracy(10)))
    assert list(found) == ["PowerSign-cd", "AddSign-rd10"]
    assert found["PowerSign-cd"][0] == pytest.approx(15)
    assert found["AddSign-rd10"][0] == pytest.approx(-10)


def test_the_papers_rules_are_compared_with_every_common_one():
    finals = dict(zip(table2.COMMON, [(0.5, 0.6), (0.4, 0.4), (0.3, 0.3), (0.2, 0.3)], strict=True))
    finals |= {"AddSign-ld (cosine)": (0.6, 0.8), "PowerSign (cosine)": (0.4, 0.6)}
    outcomes = [
        outcome(name, *[([final], [final]) for final in both]) for name, both in finals.items()
    ]
    found = table2.against_common(measure(outcomes, table2.BASELINE, accuracy(10)))
    assert list(found) == ["AddSign-ld (cosine)", "PowerSign (cosine)", table2.MEAN]
    assert found["AddSign-ld (cosine)"]["SGD (cosine)"][0] == pytest.approx(15)
    # Means of both, seed by seed: 50 and 70.
    mean, low, high, _ = found[table2.MEAN]["SGD (cosine)"]
    half = stats.t.ppf(0.975, 1) * stats.sem([0, 10])
    assert (mean, high - mean, mean - low) == pytest.approx((5, half, half))


def test_the_defaults_are_the_papers():
    assert image_rivals.ImageConfig() == PAPER
    settings = ("scale", "model", "dataset", "image_size", "depth", "width", "epochs", "seeds")
    assert [getattr(PAPER, name) for name in settings] == [
        *("paper", "wrn", "cifar10", 32, 40, 4, 300, 5)
    ]
    assert PAPER.train_examples is None and PAPER.test_examples is None
    assert not PAPER.adaptive


def test_what_the_paper_tries_of_each():
    powersign, adam = (image_rivals.named_rival(name) for name in ("PowerSign-cd", "Adam (cosine)"))
    common, found = PAPER.settings(adam), PAPER.settings(powersign)
    assert len(common.rates) == 7 and len(common.weight_decays) > 1
    assert len(found.rates) == 3 and found.weight_decays == (0.0,)
    same = dataclasses.replace(PAPER, found_rates=None, found_weight_decays=(0.0, 1e-4))
    assert same.settings(powersign) == Settings(PAPER.rates, (0.0, 1e-4))
    # At the small scale all have one rule of tuning, but for weight decay.
    common, found = SMALL.settings(adam), SMALL.settings(powersign)
    assert common.rates == found.rates and common.beyond == found.beyond == HALF_DECADES
    assert found.weight_decays == (0.0,)
    # Of table 6 the paper says only that there are seven rates.
    table = table6.PRESETS["paper", "wrn"]
    assert table.settings(powersign) == table.settings(adam) == Settings(PAPER.rates)


def test_records_are_of_all_that_decides_a_training():
    more = dataclasses.replace(SMALL, seeds=5, rates=(1.0,), adaptive=False, lanes=2)
    assert more.training() == SMALL.training()
    changes = {"epochs": 3, "depth": 16, "shift": 1, "batch_size": 10, "test_examples": 100}
    for name, value in changes.items():
        assert dataclasses.replace(SMALL, **{name: value}).training() != SMALL.training()


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
        folder = tmp_path_factory.mktemp(experiment.Arguments.experiment)
        config = presets[experiment, model]
        config = dataclasses.replace(config, out=folder / "runs", results=folder)
        experiment.run(config, QUIET)
        return config

    return run


PAPERS_FIGURES = {
    table1: {"Adam": "92.6 / 92.3", "Momentum (cosine)": "95.2 / 95.1"},
    table2: {"AddSign-ld (noisy linear cosine)": "95.5 / 95.4"},
    table6: {"adam": "90.7 / 90.1"},
}


@pytest.mark.parametrize(
    ("experiment", "model"),
    [(table1, "wrn"), (table2, "wrn"), (table6, "wrn"), (table6, "child")],
    ids=["table1", "table2", "table6", "table6_child"],
)
def test_smoke(runs, experiment, model):
    config = runs(experiment, model)
    path = config.results / f"{config.name}.json"

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    written = json.loads(path.read_text(), parse_constant=refuse)
    rivals = rivals_of(experiment)
    assert [row["name"] for row in written["rivals"]] == [rival.name for rival in rivals]
    for row, rival in zip(written["rivals"], rivals, strict=True):
        rates, decays, _ = config.settings(rival)
        expected = [(rate, decay) for rate in rates for decay in decays]
        assert [(t["rate"], t["weight_decay"]) for t in row["tuning"]] == expected
        assert [t["seed"] for t in row["runs"]] == [1, 2]
        assert all(len(t["test"]) == config.epochs for t in row["runs"])
        best = max(
            row["tuning"], key=lambda t: -1 if None in t["validation"] else t["validation"][-1]
        )
        assert (row["rate"], row["weight_decay"]) == (best["rate"], best["weight_decay"])
    text = path.with_suffix(".md").read_text()
    assert all(f"| {rival.name} |" in text for rival in rivals)
    assert path.with_suffix(".png").stat().st_size > 10_000
    # The paper's figures stand beside ours.
    rows: dict[str, str] = {}
    for line in text.splitlines():
        rows.setdefault(line.split(" | ")[0].strip("| "), line)
    assert "no such row" not in text
    for name, figures in PAPERS_FIGURES[experiment].items() if model == "wrn" else ():
        assert rows[name].endswith(f"| {figures} |")


def test_what_is_recorded_is_not_trained_again(runs, monkeypatch):
    config = runs(table6, "child")
    monkeypatch.setattr(PartLoop, "advance", None)
    path = config.results / f"{config.name}.md"
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
        ({"found_rates": ()}, "--found-rates is empty"),
        ({"weight_decays": ()}, "--weight-decays is empty"),
        ({"model": "child"}, "the search's child has no weight decay: .* got .0.0, 0.0005."),
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
    child = jax.eval_shape(functools.partial(new_child, task), jax.random.key(0))
    program = encode(rules["powersign_ld"].rule).array

    after, loss = jax.eval_shape(
        lambda child, batch: step(task, child, program, 0.1, batch, 1), child, task.train
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), child
    )
    assert loss.shape == ()


def test_check_reports_sizes():
    sizes = image_rivals.check(table6.PRESETS["smoke", "child"], QUIET)
    assert sizes.training_bytes > 4 * 4 * sizes.parameters  # weights and three averages
    assert sizes.step_bytes > 4 * SMOKE.batch_size * 64
    assert 1 < sizes.loss_before < 5 and sizes.step_seconds > 0
    assert sizes.loss_after != sizes.loss_before


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda before, after: after._replace(params=jnp.nan * after.params), "unchanged: False"),
        (lambda before, after: before, "unchanged: True"),
    ],
)
def test_check_fails_where_the_step_does(monkeypatch, broken, message):
    def broken_step(task, child, *arguments):
        after, loss = step(task, child, *arguments)
        return broken(child, after), loss

    monkeypatch.setattr(one_step, "step", broken_step)
    with pytest.raises(RuntimeError, match=message):
        image_rivals.check(table6.PRESETS["smoke", "child"], QUIET)


@pytest.mark.slow
def test_check_at_the_papers_scale():
    """But for the minibatch, of which two images need little memory."""
    sizes = image_rivals.check(dataclasses.replace(PAPER, batch_size=2), QUIET)
    assert sizes.parameters == 8_949_210
    assert 2**27 < sizes.training_bytes < 2**28
    assert 2**27 < sizes.step_bytes < 2**32
    assert 2 < sizes.loss_before < 10

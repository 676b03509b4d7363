"""ImageNet's readers, crops and streams, and the training of table 3 on a small network."""

import dataclasses
import functools
import itertools
import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import table3_imagenet as table3
from data import imagenet
from imagenet import tables as imagenet_tables
from imagenet import training as imagenet_training
from imagenet.training import Data, Setup, Trainer
from models.nasnet import NASNetA, Scores
from PIL import Image
from rich.console import Console

from nos_optax.population.data import DatasetError

FOLDER = Path(__file__).parents[1] / "experiments"

pytestmark = pytest.mark.slow  # networks that take seconds to compile

# The readers.


def picture(number: int) -> Image.Image:
    """Return an image of its own size and colour."""
    return Image.new("RGB", (40 + number, 30), (10 * number, 100, 200))


def write_tfds(root: Path, file_format: str = "array_record") -> None:
    """Write ImageNet as TFDS does, 5 + 3 images of them."""
    import tensorflow_datasets as tfds

    folder = root / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name="imagenet2012",
        version=tfds.core.Version("5.1.0"),
        data_dir=str(folder),
        module_name=__name__,
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=1000),
                "file_name": tfds.features.Text(),
            }
        ),
        supervised_keys=("image", "label"),
    )
    writer = tfds.core.SequentialWriter(info, 100, file_format=file_format)
    splits = {"train": 5, "validation": 3}
    writer.initialize_splits(list(splits))
    for split, count in splits.items():
        examples = [
            {"image": picture(i), "label": 100 * i, "file_name": f"{split}_{i}.JPEG"}
            for i in range(count)
        ]
        writer.add_examples({split: examples})
    writer.close_all()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    write_tfds(root)
    return root


def assert_pictures(examples, labels):
    assert examples.count == len(labels)
    for i, label in enumerate(labels):
        image, found = examples.read(i)
        assert (image.size, image.mode, found) == ((40 + i, 30), "RGB", label)
        colour = np.asarray(image).mean((0, 1))
        np.testing.assert_allclose(colour, [10 * i, 100, 200], atol=3)  # JPEG


def test_tfds_is_read_by_index(prepared):
    train = imagenet.tfds_examples(prepared, "train")
    assert train.num_classes == 1000
    assert_pictures(train, [0, 100, 200, 300, 400])
    assert_pictures(imagenet.tfds_examples(prepared, "validation"), [0, 100, 200])


def test_missing_imagenet_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    message = rf"no prepared ImageNet in {tmp_path}/imagenet2012. Put ILSVRC2012_img_train.tar"
    with pytest.raises(DatasetError, match=message) as told:
        imagenet.tfds_examples(None, "train")
    assert "--dataset imagenet-folder" in str(told.value)


def test_damaged_imagenet_is_told(tmp_path):
    write_tfds(tmp_path)
    (info,) = tmp_path.glob("imagenet2012/*/dataset_info.json")
    info.write_text("{")
    with pytest.raises(DatasetError, match=r"cannot read ImageNet in .*imagenet2012"):
        imagenet.tfds_examples(tmp_path, "train")


def test_imagenet_without_random_access_is_told(tmp_path):
    write_tfds(tmp_path)
    (file,) = tmp_path.glob("imagenet2012/*/dataset_info.json")
    info = json.loads(file.read_text())
    info["fileFormat"] = "tfrecord"
    file.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r'(?s)tfrecord.*file_format="array_record"'):
        imagenet.tfds_examples(tmp_path, "train")


def write_folders(root):
    for split, classes in {"train": ("n2", "n1", "n3"), "val": ("n3", "n1")}.items():
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            picture(number).save(root / split / name / "1.JPEG")
    (root / "train" / "n1" / "notes.txt").write_text("no image")


def test_folders_are_classes(tmp_path):
    write_folders(tmp_path)
    train, val = (imagenet.folder_examples(tmp_path, split) for split in ("train", "val"))
    assert (train.num_classes, train.count, val.num_classes, val.count) == (3, 3, 3, 2)
    found = [train.read(i) for i in range(3)]
    assert [label for _, label in found] == [0, 1, 2]
    assert [image.width for image, _ in found] == [41, 40, 42]
    assert [val.read(i)[1] for i in range(2)] == [0, 2]


def test_folders_that_do_not_fit_are_told(tmp_path):
    with pytest.raises(DatasetError, match=r"no ImageNet in .*train: no images\. .*image-net\.org"):
        imagenet.folder_examples(tmp_path, "train")
    write_folders(tmp_path)
    (tmp_path / "val" / "n4").mkdir()
    picture(0).save(tmp_path / "val" / "n4" / "1.png")
    with pytest.raises(DatasetError, match="val: n4 is not among its training classes"):
        imagenet.folder_examples(tmp_path, "val")
    (tmp_path / "train" / "n1" / "1.JPEG").write_bytes(b"\xff\xd8")
    with pytest.raises(DatasetError, match=r"n1/1.JPEG is no readable image .*; remove it"):
        imagenet.folder_examples(tmp_path, "train").read(0)


# What a network is shown.


def gradient_image(width, height):
    """Return an image whose red is x and whose green is y, so that a crop tells where it was."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 7)], -1).astype(np.uint8))


def test_random_crops_keep_to_their_area_and_aspect():
    image = gradient_image(200, 100)
    areas, aspects, mirrored = [], [], []
    for seed in range(300):
        crop = imagenet.random_crop(image, 50, 0.1, np.random.default_rng(seed)).astype(float)
        assert crop.shape == (50, 50, 3) and (crop[..., 2] == 7).all()
        red, green = np.diff(crop[25, [10, 40], 0]) / 30, np.diff(crop[[10, 40], 25, 1]) / 30
        width, height = 50 * abs(red[0]), 50 * green[0]  # of what is shown
        mirrored.append(red[0] < 0)
        if width < 195:  # after ten that do not fit, it is the whole image
            areas.append(width * height / image.width / image.height)
            aspects.append(width / height)
    assert 0.4 < np.mean(mirrored) < 0.6
    # Pixels are rounded, and crops higher than the image are drawn again.
    assert 0.08 < min(areas) < 0.15 and 0.6 < max(areas) < 0.8
    assert 0.7 < min(aspects) < 0.8 and 1.25 < max(aspects) < 1.4


def test_a_crop_that_does_not_fit_is_the_whole_image():
    strip = gradient_image(250, 4)
    crop = imagenet.random_crop(strip, 10, 0.9, np.random.default_rng(0))
    ends = sorted(crop[0, [0, -1], 0])
    assert ends[0] < 20 and ends[1] > 230


def test_the_centre_is_seven_eighths():
    crop = imagenet.centre_crop(gradient_image(160, 80), 20).astype(float)
    width = np.diff(crop[10, [5, 15], 0])[0] * 2
    height = np.diff(crop[[5, 15], 10, 1])[0] * 2
    assert (width, height) == (pytest.approx(140, abs=4), pytest.approx(70, abs=4))
    assert crop[..., 0].mean() == pytest.approx(79.5, abs=1)


def numbered(count):
    """Return images whose pixels and label are their number."""
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    return imagenet.array_examples(pixels, np.arange(count), count)


def test_the_stream_shows_each_image_once_an_epoch():
    stream = imagenet.training_batches(numbered(10), 4, 6, 0.5, seed=3)
    batches = list(itertools.islice(stream, 10))
    stream.close()
    for images, labels in batches:
        assert (images.shape, images.dtype, labels.dtype) == ((4, 6, 6, 3), np.uint8, np.int32)
        np.testing.assert_array_equal(images[:, 3, 3, 0], labels)
    epochs = np.concatenate([labels for _, labels in batches]).reshape(4, 10)
    assert (np.sort(epochs) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_stream_goes_on_from_any_batch():
    examples = imagenet.array_examples(
        np.random.default_rng(0).integers(0, 256, (10, 9, 9, 3), np.uint8), np.arange(10), 10
    )

    def take(count, **options):
        stream = imagenet.training_batches(examples, 4, 6, 0.3, **options)
        batches = list(itertools.islice(stream, count))
        stream.close()
        return batches

    whole = take(7, seed=1)
    for a, b in zip(take(3, seed=1, first=4), whole[4:], strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    assert (take(1, seed=2)[0][0] != whole[0][0]).any()


def test_an_unreadable_image_ends_the_stream():
    def read(index):
        raise DatasetError("image 3 is broken")

    with pytest.raises(DatasetError, match="image 3 is broken"):
        next(imagenet.training_batches(imagenet.Examples(4, 2, read), 2, 6, 0.5, seed=0))


def test_the_evaluation_shows_each_image_once_in_order():
    batches = list(imagenet.evaluation_batches(numbered(10), 4, 6))
    assert [images.shape for images, _ in batches] == [(4, 6, 6, 3)] * 3
    labels = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(labels, [*range(10), -1, -1])


def test_the_first_images_of_each_class(monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 2, 2, 3), np.uint8), rng.integers(0, 10, 60)
    some = imagenet._first_of_each(images, labels, 3, 6)
    assert [some.read(i)[1] for i in range(6)] == [0, 0, 1, 1, 2, 2]
    second = np.flatnonzero(labels == 1)[1]
    np.testing.assert_array_equal(np.asarray(some.read(3)[0]), images[second])
    with pytest.raises(DatasetError, match="90 images of 3 classes asked for, there are"):
        imagenet._first_of_each(images, labels, 3, 90)


# The training, of a network that compiles at once.


class Small(nn.Module):
    """A convolution and a normalisation, with the auxiliary scores of NASNet."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(4, (3, 3), strides=4)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)).mean((1, 2))
        main, auxiliary = nn.Dense(self.num_classes)(x), nn.Dense(self.num_classes)(x)
        return Scores(main, auxiliary if train else None)


def make_trainer(minibatch=8, accumulated=1, steps=6, devices=1):
    images = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3), np.uint8)
    examples = imagenet.array_examples(images, np.arange(32) % 4, 4)
    setup = Setup(12, 0.5, minibatch, accumulated, steps)
    return Trainer(Small(), setup, Data(examples, examples), jax.devices()[:devices])


def steps_of(trainer, name, rate=0.1, count=6):
    state, metrics = trainer.start(name, rate, 0), []
    for batch in itertools.islice(trainer.batches(0, 0), count):
        state, measured = trainer.step(name, state, batch)
        metrics.append(measured)
    return state, metrics


def test_the_loss_is_smoothed_and_has_an_auxiliary_part():
    trainer = make_trainer()
    variables, (images, labels) = trainer.variables(0), next(trainer.batches(0, 0))
    params, averages = variables["params"], variables["batch_stats"]
    total, (changed, metrics) = imagenet_training.training_loss(
        trainer.model, params, averages, images, labels, jax.random.PRNGKey(0)
    )
    scores, mutated = trainer.model.apply(
        variables, images / 127.5 - 1, train=True, mutable=["batch_stats"]
    )
    logs = [np.asarray(jax.nn.log_softmax(part)) for part in scores]
    targets = np.full((8, 4), 0.1 / 4)
    targets[np.arange(8), labels] += 0.9
    main, auxiliary = (-(targets * log).sum(-1).mean() for log in logs)
    assert float(metrics["loss"]) == pytest.approx(main, rel=1e-5)
    assert float(total) == pytest.approx(main + 0.4 * auxiliary, rel=1e-5)
    accuracy = (logs[0].argmax(-1) == np.asarray(labels)).mean()
    assert float(metrics["accuracy"]) == pytest.approx(accuracy)
    jax.tree.map(np.testing.assert_array_equal, changed, mutated["batch_stats"])


@pytest.mark.parametrize("name", imagenet_training.OPTIMIZERS)
def test_every_optimizer_decays_kernels_and_its_rate(name):
    params = {"a": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}}
    tx = imagenet_training.optimizer(name, jnp.float32(0.5), steps=4)
    state = tx.init(params)
    nothing = jax.tree.map(jnp.zeros_like, params)
    sizes = []
    for _ in range(6):
        updates, state = tx.update(nothing, state, params)
        assert (updates["a"]["bias"] == 0).all()
        sizes.append(-float(updates["a"]["kernel"][0]))
    assert min(sizes[:4]) > 0
    # RMSProp's momentum goes on when the rate is 0.
    assert sizes[5] == (pytest.approx(0.9 * sizes[4]) if name == "RMSProp" else 0)


def test_what_powersign_and_addsign_do_by_hand():
    params, gradient = {"kernel": jnp.zeros(2)}, {"kernel": jnp.array([1.0, -2.0])}
    cosine, agree = np.array([1, 0.5]), {"PowerSign-cd": np.exp([1, 0.5]), "AddSign-ld": [2, 1.5]}
    for name, factors in agree.items():
        tx = imagenet_training.optimizer(name, jnp.float32(0.3), steps=2)
        state = tx.init(params)
        for step in range(2):
            updates, state = tx.update(gradient, state, params)
            expected = -0.3 * cosine[step] * factors[step] * gradient["kernel"]
            np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)


def test_accumulated_minibatches_are_one_update_of_their_mean():
    trainer = make_trainer(minibatch=4, accumulated=2, steps=3)
    name = "PowerSign-cd"
    state = trainer.start(name, 0.1, 0)
    gradients = []
    for batch in itertools.islice(trainer.batches(0, 0), 2):
        params = jax.tree.map(jnp.array, state.params)  # a step consumes its state
        gradients.append(trainer.gradient(params, state.averages, *batch, state.key)[0])
        state, _ = trainer.step(name, state, batch)
        if len(gradients) == 1:
            jax.tree.map(np.testing.assert_array_equal, state.params, params)
    tx = imagenet_training.optimizer(name, jnp.float32(0.1), steps=3)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    updates, _ = tx.update(mean, tx.init(params), params)
    expected = optax.apply_updates(params, updates)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state.params, expected)
    assert int(state.count) == 2


def test_the_network_compiles_once_for_all_optimizers_and_rates():
    trainer = make_trainer()
    for name in imagenet_training.OPTIMIZERS:
        for rate in (0.1, 0.3):
            steps_of(trainer, name, rate, 2)
    assert trainer.gradient._cache_size() == 1
    assert [trainer.update[name]._cache_size() for name in imagenet_training.OPTIMIZERS] == [1] * 3


@pytest.mark.parametrize("name", imagenet_training.OPTIMIZERS)
def test_devices_share_a_minibatch(name):
    if len(jax.devices()) < 2:
        pytest.skip("one device")
    alone, shared = (steps_of(make_trainer(devices=d), name)[0] for d in (1, 2))
    assert len(shared.params["Dense_0"]["kernel"].sharding.device_set) == 2
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, alone.params, shared.params)
    # A minibatch that cannot be shared stays on one.
    assert len(make_trainer(minibatch=3, devices=2).shared.device_set) == 1


def test_the_evaluation_counts_the_right_ones():
    class Wise(nn.Module):
        """Scores class k highest where the pixels are 20 k, and class 9 second."""

        @nn.compact
        def __call__(self, images, train):
            self.param("kernel", nn.initializers.zeros, ())
            self.variable("batch_stats", "mean", jnp.zeros, ())
            own = jnp.round((images[:, 0, 0, 0] + 1) * 127.5 / 20)
            distance = jnp.abs(jnp.arange(10) - own[:, None])
            return Scores(jnp.where(jnp.arange(10) == 9, -0.5, -distance), None)

    pixels = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 3), 20, np.uint8)
    labels = np.array([0, 1, 2, 3, 9, 9, 0, 0, 8])  # four right, two second, two far, one right
    examples = imagenet.array_examples(pixels, labels, 10)
    setup = Setup(8, 0.5, 4, 1, 1)
    trainer = Trainer(Wise(), setup, Data(examples, examples), jax.devices()[:1])
    found = trainer.evaluate(trainer.start("RMSProp", 0.1, 0))
    assert found == {"top1": pytest.approx(5 / 9), "top5": pytest.approx(7 / 9)}


def test_scores_that_are_not_finite_are_not_right():
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, images, train):
            return Scores(jnp.full((len(images), 4), jnp.nan), None)

    labels = jnp.zeros(3, jnp.int32)
    found = imagenet_training.count_correct(Broken(), {}, {}, jnp.zeros((3, 2, 2, 3)), labels)
    assert found.tolist() == [0, 0]


# The experiment.


def make_run(seed, loss, top1, status="finished"):
    return imagenet_tables.Run(seed, 0.1, [1], [loss], [0.5], top1, 1.0, status, 1.0)


def test_differences_are_paired_by_seed():
    outcomes = {
        name: imagenet_tables.Outcome(
            0.1, [make_run(0, 1, 0)], [make_run(1, 1, a), make_run(2, 1, b)]
        )
        for name, a, b in [
            ("RMSProp", 0.2, 0.4),
            ("PowerSign-cd", 0.3, 0.5),
            ("AddSign-ld", 0.2, 0.2),
        ]
    }
    table = imagenet_tables.results_table(outcomes, top5=False)
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[1][-3] == "+10.0 [+10.0, +10.0]"
    assert rows[2][-3].startswith("-10.0 [")
    # The paper's Table 3.
    assert [row[-2:] for row in rows] == [
        ("73.5", "91.5"),
        ("73.9", "91.9"),
        ("73.8", "91.6"),
    ]
    assert rows[0][5] == "30.0 ± 10.0"


def test_the_note_names_rates_at_an_end_of_the_grid():
    runs = {rate: make_run(0, 1.0, 0.5)._replace(rate=rate) for rate in (0.01, 0.1, 1.0)}
    outcomes = {
        name: imagenet_tables.Outcome(rate, list(runs.values()), [])
        for name, rate in {"RMSProp": 0.1, "PowerSign-cd": 0.01, "AddSign-ld": 1.0}.items()
    }
    assert imagenet_tables.edge_note(outcomes).endswith("rate: PowerSign-cd, AddSign-ld.")


def small_arguments(tmp_path, **changes):
    return dataclasses.replace(
        table3.PRESETS["smoke"],
        data_dir=tmp_path / "data",
        out=tmp_path / "runs",
        results=tmp_path / "results",
        **changes,
    )


class Killed(Exception):
    pass


@pytest.fixture
def small_network(monkeypatch):
    def make(num_classes, filters, cells, momentum):
        return Small(num_classes)

    monkeypatch.setattr(table3, "NASNetA", make)
    monkeypatch.setattr(table3, "select_devices", lambda kind: jax.devices()[:1])


def test_a_killed_experiment_goes_on(tmp_path, monkeypatch, small_network):
    quiet = Console(quiet=True)
    step, done = Trainer.step, []

    def killed_step(self, name, state, batch):
        done.append(name)
        if len(done) == 11:
            raise Killed
        return step(self, name, state, batch)

    arguments = small_arguments(tmp_path, steps=4)
    monkeypatch.setattr(Trainer, "step", killed_step)
    with pytest.raises(Killed):
        table3.run(arguments, quiet)
    table3.run(arguments, quiet)
    # The first two of 12 trainings are not repeated.
    assert len(done) == 11 + 4 * 10
    done.clear()
    whole = dataclasses.replace(arguments, out=tmp_path / "o", results=tmp_path / "r")
    monkeypatch.setattr(Trainer, "step", step)
    table3.run(whole, quiet)

    def outcomes(folder):
        content = json.loads((folder / "table3_imagenet_smoke.json").read_text())
        for outcome in content["outcomes"].values():
            for run in (*outcome["tuning"], *outcome["runs"]):
                run.pop("seconds")
        return content["outcomes"]

    found = outcomes(tmp_path / "results")
    assert found == outcomes(tmp_path / "r")
    assert set(found) == {"RMSProp", "PowerSign-cd", "AddSign-ld"}
    for name, outcome in found.items():
        assert [run["rate"] for run in outcome["tuning"]] == list(arguments.rates[name])
        last = {run["rate"]: run["loss"][-1] for run in outcome["tuning"]}
        assert last[outcome["rate"]] == min(last.values())
        assert [run["seed"] for run in outcome["runs"]] == [1, 2]
    text = (tmp_path / "results" / "table3_imagenet_smoke.md").read_text()
    assert "| PowerSign-cd |" in text and "| 73.9 | 91.9 |" in text
    # Of two rates, each is at an end.
    assert "greatest rate: RMSProp, PowerSign-cd, AddSign-ld." in text
    assert (tmp_path / "results" / "table3_imagenet_smoke.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "runs" / "records").iterdir())


def test_a_rate_that_diverges_is_not_chosen(tmp_path, small_network):
    arguments = small_arguments(
        tmp_path, steps=8, rmsprop_rates=(1e30, 0.01), sign_rates=(1e30, 0.01)
    )
    table3.run(arguments, Console(quiet=True))
    content = json.loads((tmp_path / "results" / "table3_imagenet_smoke.json").read_text())
    for outcome in content["outcomes"].values():
        assert [run["status"] for run in outcome["tuning"]] == ["diverged", "finished"]
        assert outcome["rate"] == 0.01


def test_presets_are_of_their_names_and_the_paper_s():
    for scale, preset in table3.PRESETS.items():
        assert preset.scale == scale
    assert next(iter(table3.PRESETS)) == "small"
    paper = table3.PRESETS["paper"]
    assert paper == table3.Arguments()
    assert (paper.batch, paper.minibatch, paper.steps) == (50 * 32, 32, 250_000)
    assert paper.rates["PowerSign-cd"] == paper.rates["AddSign-ld"] == (1.0, 2.5, 4.0)
    assert len(paper.rates["RMSProp"]) == 3
    small = table3.PRESETS["small"]
    assert (small.filters, small.cells) == (paper.filters, paper.cells) == (44, 4)


def test_a_network_with_too_few_outputs_is_refused(tmp_path, small_network):
    with pytest.raises(ValueError, match=r"--outputs must be at least 4, the classes .* got 3"):
        table3.run(small_arguments(tmp_path, classes=4), Console(quiet=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "--seeds must be at least 2, got 1"),
        ({"minibatch": 7}, "--minibatch must divide --batch 1600, got 7"),
        ({"rmsprop_rates": ()}, "--rmsprop-rates is empty"),
        ({"sign_rates": ()}, "--sign-rates is empty"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        table3.Arguments(**changes)


def test_missing_data_is_one_message(tmp_path):
    command = [sys.executable, str(FOLDER / "table3_imagenet.py"), "--scale", "paper"]
    command += ["--accelerator", "cpu", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: no prepared ImageNet in {tmp_path}/imagenet2012")


def test_nasnet_fits_every_program_of_an_experiment(tmp_path):
    """Traced, not compiled, which takes minutes; the next test trains it."""
    arguments = small_arguments(tmp_path)
    trainer = table3.make_trainer(arguments, table3.load(arguments), jax.devices()[:1])
    images, labels = jax.ShapeDtypeStruct((4, 20, 20, 3), jnp.uint8), jnp.arange(4) % 2
    key = jax.random.PRNGKey(0)
    init = functools.partial(trainer.model.init, train=False)
    variables = jax.eval_shape(init, {"params": key}, images)
    params, averages = variables["params"], variables["batch_stats"]
    found = jax.eval_shape(trainer.count_correct, params, averages, images, labels)
    assert found.shape == (2,)
    gradient, _ = jax.eval_shape(trainer.gradient, params, averages, images, labels, key)
    for name in imagenet_training.OPTIMIZERS:
        state = jax.eval_shape(trainer.optimizer(name, jnp.float32(0.1)).init, params)
        before = imagenet_training.State(params, averages, state, jnp.float32(0.1), key, 0)
        after = jax.eval_shape(trainer.update[name], gradient, before)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)


def test_the_check_counts_parameters_and_makes_a_step(tmp_path):
    command = [sys.executable, str(FOLDER / "table3_imagenet.py"), "--scale", "smoke", "--check"]
    command += ["--accelerator", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    thin = NASNetA(3, filters=8, cells=1)
    images = jax.ShapeDtypeStruct((1, 20, 20, 3), jnp.float32)
    init = functools.partial(thin.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    head = params.pop("AuxiliaryHead_0")
    own, auxiliary = (sum(x.size for x in jax.tree.leaves(part)) for part in (params, head))
    assert f"parameters: {own:,}, and {auxiliary:,} of the auxiliary head" in done.stdout
    assert "second step: loss " in done.stdout and not (tmp_path / "runs").exists()

"""Data sets: splits, statistics, and CIFAR-10 from the official archive's layout."""

import io
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nos_optax.population.cifar10 import load_cifar10, prepare_cifar10
from nos_optax.population.data import Dataset, DatasetError, load_digits, split_indices

CLASS_NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
FOLDER = "cifar-10-batches-bin"
BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
PER_BATCH = 40
COUNTS = {"train_examples": 5 * PER_BATCH, "test_examples": PER_BATCH}
REAL_DATA = Path(__file__).parents[2] / "shared" / "data" / "tensorflow_datasets"


def random_records(num_records: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8[N, 32, 32, 3], and labels that count 0 to 9."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_records, 32, 32, 3), dtype=np.uint8)
    return images, np.arange(num_records, dtype=np.uint8) % 10


def official_members() -> dict[str, bytes]:
    """Return the members of a small archive in the official layout, byte by byte."""
    images, labels = random_records(len(BATCHES) * PER_BATCH)
    members = {"batches.meta.txt": "\n".join([*CLASS_NAMES, "", ""]).encode()}
    for i, name in enumerate(BATCHES):
        rows = slice(i * PER_BATCH, (i + 1) * PER_BATCH)
        records = zip(labels[rows], images[rows], strict=True)
        members[name] = b"".join(
            bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
            for label, image in records
        )
    return members


def write_archive(path: Path, members: dict[str, bytes], folder: str = FOLDER) -> Path:
    # Not in numerical order, as in the official archive.
    with tarfile.open(path, "w:gz") as tar:
        for name in sorted(members, reverse=True):
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(members[name])
            tar.addfile(info, io.BytesIO(members[name]))
    return path


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a TFDS folder prepared from a small official archive."""
    root = tmp_path_factory.mktemp("tfds")
    archive = write_archive(root / "cifar-10-binary.tar.gz", official_members())
    assert prepare_cifar10(archive, root / "data", **COUNTS) == root / "data/cifar10/3.0.2"
    return root / "data"


@pytest.fixture
def damaged(data_dir: Path, tmp_path: Path) -> Path:
    """Return a copy of the prepared folder, to damage."""
    for file in (data_dir / "cifar10/3.0.2").iterdir():
        target = tmp_path / "cifar10/3.0.2" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return tmp_path


# The container and the split.


def test_statistics_are_those_of_the_training_images() -> None:
    images, labels = random_records(1500)
    data = Dataset.from_images("random", images, labels, images[:7] // 2, labels[:7], 10)
    np.testing.assert_allclose(data.mean, images.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, images.std(axis=(0, 1, 2)), rtol=1e-6)
    assert data.mean.dtype == data.std.dtype == np.float32
    assert data.train_labels.dtype == data.validation_labels.dtype == np.int32


def test_standardised_training_images_have_mean_0_and_std_1() -> None:
    data = load_digits()
    x = (data.train_images - data.mean) / data.std
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((4, 8, 8, 1))}, r"training images are float64\[4, 8, 8, 1\]"),
        ({"validation_images": np.zeros((4, 8, 8), np.uint8)}, r"validation images are uint8\[4"),
        ({"train_labels": np.arange(3)}, r"shape \(3,\) for 4 images"),
        ({"train_labels": np.arange(4.0)}, "float64; expected integers"),
        ({"validation_labels": np.array([0, 1, 2, 9])}, "from 0 to 9; expected 0 to 3"),
        ({"validation_images": np.zeros((4, 6, 6, 1), np.uint8)}, r"\(8, 8, 1\).*\(6, 6, 1\)"),
    ],
)
def test_from_images_names_what_is_wrong(change: dict[str, np.ndarray], message: str) -> None:
    arrays = {
        "train_images": np.zeros((4, 8, 8, 1), np.uint8),
        "train_labels": np.arange(4),
        "validation_images": np.zeros((4, 8, 8, 1), np.uint8),
        "validation_labels": np.arange(4),
    }
    with pytest.raises(DatasetError, match=message):
        Dataset.from_images("bad", **{**arrays, **change}, num_classes=4)


def test_split_is_disjoint_and_whole_and_nested() -> None:
    train, validation = split_indices(100, None, 30, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(100))
    fewer, same = split_indices(100, 20, 30, seed=3)
    np.testing.assert_array_equal(same, validation)
    np.testing.assert_array_equal(fewer, train[:20])
    assert (split_indices(100, None, 30, seed=4)[1] != validation).any()


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (71, 30, "train_examples is 71; .* from 1 to 70"),
        (0, 30, "train_examples is 0"),
        (None, 0, "validation_examples is 0; .* from 1 to 99"),
        (None, 100, "validation_examples is 100"),
    ],
)
def test_split_refuses_parts_that_do_not_fit(
    train: int | None, validation: int, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        split_indices(100, train, validation, seed=0)


# Digits.


def test_digits_are_scikit_learns() -> None:
    data = load_digits()
    assert data.train_images.shape == (1000, 8, 8, 1)
    assert data.validation_images.shape == (797, 8, 8, 1)
    assert data.train_images.dtype == np.uint8
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)
    assert data.num_classes == 10

    from sklearn.datasets import load_digits as load_reference

    pixels, labels = load_reference(return_X_y=True)
    expected = {
        (*np.rint(x * 255 / 16).astype(int), y) for x, y in zip(pixels, labels, strict=True)
    }
    images = np.concatenate([data.train_images, data.validation_images]).reshape(-1, 64)
    ours = np.concatenate([data.train_labels, data.validation_labels])
    assert {(*x, y) for x, y in zip(images, ours, strict=True)} == expected


def test_digits_depend_on_the_seed_alone() -> None:
    first, second, other = (load_digits(noise=0.5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train_images, second.train_images)
    np.testing.assert_array_equal(first.validation_labels, second.validation_labels)
    assert (first.train_images != other.train_images).any()


def test_noise_keeps_the_split_and_has_the_deviation_asked_for() -> None:
    clean, noisy = load_digits(), load_digits(noise=0.1)
    np.testing.assert_array_equal(clean.train_labels, noisy.train_labels)
    middle = (clean.train_images > 100) & (clean.train_images < 155)  # Where nothing is clipped.
    difference = noisy.train_images[middle].astype(float) - clean.train_images[middle]
    np.testing.assert_allclose(difference.std(), 25.5, rtol=0.05)


def test_size_repeats_pixels() -> None:
    small, large = load_digits(noise=0.5), load_digits(noise=0.5, size=24)
    assert large.train_images.shape == (1000, 24, 24, 1)
    for i in range(3):
        np.testing.assert_array_equal(large.train_images[:, i::3, i::3], small.train_images)
    np.testing.assert_array_equal(large.mean, small.mean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": -0.5}, "noise is -0.5"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"size": 20}, "size is 20; it must be a multiple of 8"),
        ({"size": 0}, "size is 0"),
        ({"train_examples": 1001}, "train_examples is 1001; .* from 1 to 1000"),
    ],
)
def test_digits_refuse_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_digits(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"noise": "a"}, {"noise": True}, {"size": 8.0}, {"size": "8"}]
)
def test_digits_refuse_what_is_no_number(arguments):
    (name,) = arguments
    with pytest.raises(TypeError, match=f"{name} is .*must be"):
        load_digits(**arguments)


# CIFAR-10: the round trip.


def test_cifar10_round_trip_is_exact(data_dir: Path) -> None:
    images, labels = random_records(5 * PER_BATCH)
    data = load_cifar10(data_dir, validation_examples=50, seed=7)
    train, validation = split_indices(len(labels), None, 50, seed=7)
    np.testing.assert_array_equal(data.train_images, images[train])
    np.testing.assert_array_equal(data.train_labels, labels[train])
    np.testing.assert_array_equal(data.validation_images, images[validation])
    np.testing.assert_array_equal(data.validation_labels, labels[validation])
    assert data.num_classes == 10


def test_cifar10_takes_the_first_training_examples(data_dir: Path) -> None:
    whole = load_cifar10(data_dir, validation_examples=50)
    part = load_cifar10(data_dir, train_examples=30, validation_examples=50)
    np.testing.assert_array_equal(part.train_images, whole.train_images[:30])
    np.testing.assert_array_equal(part.validation_images, whole.validation_images)


def test_tfds_reads_the_prepared_data_by_name(data_dir: Path) -> None:
    import tensorflow_datasets as tfds

    splits = tfds.data_source("cifar10", data_dir=data_dir, download=False)
    assert {name: len(split) for name, split in splits.items()} == {"train": 200, "test": 40}
    images, labels = random_records(6 * PER_BATCH)
    builder = tfds.builder_from_directory(data_dir / "cifar10/3.0.2")
    raw = builder.as_data_source("test", decoders={"image": tfds.decode.SkipDecoding()})
    assert raw[3]["id"] == b"test_00003"
    assert raw[3]["label"] == labels[203]
    assert raw[3]["image"].startswith(b"\x89PNG")
    assert builder.info.features["label"].names == CLASS_NAMES
    assert builder.info.features["image"].shape == images.shape[1:]


# CIFAR-10: missing and damaged data.


@pytest.mark.parametrize("exists", [True, False])
def test_unprepared_data_fails_at_once_with_both_remedies(tmp_path: Path, exists: bool) -> None:
    root = tmp_path if exists else tmp_path / "nowhere"
    start = time.perf_counter()
    with pytest.raises(DatasetError) as error:
        load_cifar10(root)
    assert time.perf_counter() - start < 1
    assert str(root / "cifar10/3.0.2") in str(error.value)
    command = (
        f"python -m nos_optax.search --prepare-data cifar-10-binary.tar.gz --data-dir {root}\n"
    )
    assert command in str(error.value)
    assert f'tfds.data_source("cifar10", data_dir="{root}")' in str(error.value)


def test_default_folder_is_that_of_tfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match=str(tmp_path)):
        load_cifar10()
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(DatasetError, match=str(tmp_path / "home/tensorflow_datasets")):
        load_cifar10()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("cifar10-train.array_record-00000", lambda old: old[: len(old) // 2]),
        ("cifar10-train.array_record-00000", lambda old: b""),
        ("cifar10-train.array_record-00000", lambda old: bytes(len(old))),
        ("cifar10-train.array_record-00000", None),
        ("dataset_info.json", lambda old: old[:100]),
        ("dataset_info.json", lambda old: old.replace(b'"array_record"', b'"tfrecord"')),
        ("features.json", lambda old: b""),
    ],
    ids=["truncated", "empty", "zeros", "missing", "bad info", "tfrecord", "bad features"],
)
def test_damaged_data_is_named(
    damaged: Path, file: str, content: Callable[[bytes], bytes] | None
) -> None:
    path = damaged / "cifar10/3.0.2" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content(path.read_bytes()))
    with pytest.raises(DatasetError, match="cannot read CIFAR-10") as error:
        load_cifar10(damaged, validation_examples=50)
    assert str(path.parent) in str(error.value)
    assert "--prepare-data" in str(error.value)


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("sklearn", "data.load_digits()", "search"),
        ("tensorflow_datasets", "cifar10.load_cifar10({!r})", "data"),
    ],
)
def test_missing_package_names_its_extra(
    data_dir: Path, module: str, call: str, extra: str
) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from nos_optax.population import cifar10, data\n" + call.format(str(data_dir))
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError" in run.stderr
    assert f"pip install 'nos_optax[{extra}]'" in run.stderr


# CIFAR-10: archives that are not the official one.


def test_prepared_data_is_left_alone(data_dir: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.tar.gz", official_members())
    before = {path.name: path.stat() for path in (data_dir / "cifar10/3.0.2").iterdir()}
    with pytest.raises(DatasetError, match=r"3\.0\.2 exists already; remove it"):
        prepare_cifar10(archive, data_dir, **COUNTS)
    assert before == {path.name: path.stat() for path in (data_dir / "cifar10/3.0.2").iterdir()}


def without(name: str) -> dict[str, bytes]:
    members = official_members()
    del members[name]
    return members


def with_label(value: int) -> dict[str, bytes]:
    members = official_members()
    batch = bytearray(members["data_batch_2.bin"])
    batch[5 * 3073] = value
    return {**members, "data_batch_2.bin": bytes(batch)}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (without("data_batch_4.bin"), "it has no file cifar-10-batches-bin/data_batch_4.bin"),
        (without("batches.meta.txt"), "it has no file cifar-10-batches-bin/batches.meta.txt"),
        (
            official_members() | {"data_batch_3.bin": bytes(3073 * PER_BATCH - 1)},
            "data_batch_3.bin has 122919 bytes; expected a multiple of 3073",
        ),
        (official_members() | {"test_batch.bin": b""}, "it has 0 test records; expected 40"),
        (with_label(11), "record 5 of .*data_batch_2.bin has the label 11; expected 0 to 9"),
        (official_members() | {"batches.meta.txt": b"cat\ndog\n"}, r"\['cat', 'dog'\]"),
    ],
    ids=["no batch", "no names", "record size", "count", "label", "class names"],
)
def test_wrong_archive_is_named_and_nothing_is_written(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    archive = write_archive(tmp_path / "wrong.tar.gz", members)
    with pytest.raises(DatasetError, match=f"wrong.tar.gz is not a usable .*{message}"):
        prepare_cifar10(archive, tmp_path / "data", **COUNTS)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != archive]


def test_full_size_is_expected_by_default(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "small.tar.gz", official_members())
    with pytest.raises(DatasetError, match="it has 200 train records; expected 50000"):
        prepare_cifar10(archive, tmp_path / "data")


def test_not_an_archive(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no file .*absent\.tar\.gz"):
        prepare_cifar10(tmp_path / "absent.tar.gz", tmp_path)
    (tmp_path / "text.tar.gz").write_text("<html>404</html>")
    with pytest.raises(DatasetError, match=r"text\.tar\.gz is not a usable .*not a gzip file"):
        prepare_cifar10(tmp_path / "text.tar.gz", tmp_path)
    whole = write_archive(tmp_path / "whole.tar.gz", official_members()).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"cut\.tar\.gz is not a usable"):
        prepare_cifar10(tmp_path / "cut.tar.gz", tmp_path, **COUNTS)


def test_members_with_escaping_paths_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    members = official_members()
    archive = write_archive(tmp_path / "evil.tar.gz", members, folder=f"../{FOLDER}")
    with pytest.raises(DatasetError, match="it has no file cifar-10-batches-bin/"):
        prepare_cifar10(archive, tmp_path / "inner", **COUNTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar.gz", "inner"]


# The real images, where they are at hand (JPEG-75, not the official pixels).


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="CIFAR-10 is not beside the project")
def test_real_cifar10() -> None:
    data = load_cifar10(REAL_DATA, train_examples=4000)
    assert data.train_images.shape == (4000, 32, 32, 3)
    assert data.validation_images.shape == (5000, 32, 32, 3)
    np.testing.assert_allclose(data.mean, [125.3, 123.0, 113.9], atol=4)
    np.testing.assert_allclose(data.std, [63.0, 62.1, 66.7], atol=3)
    assert np.bincount(data.validation_labels).min() > 420
    assert np.bincount(data.train_labels).min() > 320

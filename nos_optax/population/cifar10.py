"""CIFAR-10, read and prepared through TensorFlow Datasets (TFDS) without TensorFlow.

TFDS keeps prepared data in ``<data_dir>/cifar10/3.0.2``. Reading from that folder by its path
never touches the network; looking the data set up by name, offline and unprepared, hangs for
minutes.
"""

import contextlib
import io
import os
import tarfile
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nos_optax.population import cifar10_archive
from nos_optax.population.data import Dataset, DatasetError, split_indices

_VERSION = "3.0.2"
_IMAGE_SHAPE = (32, 32, 3)


def load_cifar10(
    data_dir: str | os.PathLike[str] | None = None,
    train_examples: int | None = None,
    validation_examples: int = 5000,
    seed: int = 0,
) -> Dataset:
    """Load CIFAR-10's official training images, some of them held out for validation.

    The defaults hold out 5,000 images, as the paper does, and leave 45,000 to train on, which it
    does not state. The official test images are left alone. The split depends on the images' ids
    and the seed, not on the order in which TFDS stored them. Nothing is downloaded: prepare the
    data once with :func:`prepare_cifar10` or with TFDS itself.

    Args:
      data_dir: The TFDS folder, which holds ``cifar10/3.0.2``; None is TFDS's own default,
        ``$TFDS_DATA_DIR`` or else ``~/tensorflow_datasets``.
      train_examples: Training images; None takes all that validation leaves.
      validation_examples: Held-out images.
      seed: Fixes the split.

    Returns:
      Colour images, uint8[N, 32, 32, 3], in 10 classes.

    Raises:
      DatasetError: If the data is missing or damaged, or a part does not fit.
      ImportError: If TFDS is missing.

    References:
      Krizhevsky, `Learning Multiple Layers of Features from Tiny Images
      <https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf>`_, 2009
    """
    root = _data_root(data_dir)
    folder = _prepared_folder(root)
    if not all((folder / name).is_file() for name in ("dataset_info.json", "features.json")):
        raise DatasetError(f"no prepared CIFAR-10 in {folder}. {_how_to_prepare(root)}")
    with _reading(folder):
        records = _read_training_records(folder)
    train, validation = split_indices(len(records), train_examples, validation_examples, seed)
    with _reading(folder):
        train_images, train_labels = _decode([records[i] for i in train])
        validation_images, validation_labels = _decode([records[i] for i in validation])
    return Dataset.from_images(
        "cifar10", train_images, train_labels, validation_images, validation_labels, 10
    )


def prepare_cifar10(
    archive: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    train_examples: int = 50_000,
    test_examples: int = 10_000,
) -> Path:
    """Turn the official binary archive into a prepared TFDS folder, without TensorFlow.

    The result has the features, ids and splits of TFDS's own CIFAR-10, so that
    ``tfds.data_source("cifar10", data_dir=data_dir)`` reads it too. It is written beside its
    final place and moved there when complete; an error leaves no partial data.

    Args:
      archive: ``cifar-10-binary.tar.gz`` from https://www.cs.toronto.edu/~kriz/cifar.html.
      data_dir: The TFDS folder to add ``cifar10/3.0.2`` to, as in :func:`load_cifar10`.
      train_examples: Training records the archive must hold.
      test_examples: Test records the archive must hold.

    Returns:
      The prepared folder.

    Raises:
      DatasetError: If the folder exists, or the archive is not what its name says.
      ImportError: If TFDS is missing.
    """
    root = _data_root(data_dir)
    folder = _prepared_folder(root)
    if folder.exists():
        raise DatasetError(f"{folder} exists already; remove it first to prepare it again")
    expected = {"train": train_examples, "test": test_examples}
    with cifar10_archive.open_archive(Path(archive), expected) as tar:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=folder.parent) as scratch:
            prepared = Path(scratch) / _VERSION
            prepared.mkdir()
            _write_prepared(tar, prepared)
            prepared.rename(folder)
    return folder


def _data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(data_dir).expanduser()


def _prepared_folder(root: Path) -> Path:
    return root / "cifar10" / _VERSION


def _how_to_prepare(root: Path) -> str:
    return (
        "Prepare it from the official archive (no TensorFlow needed):\n"
        f"  python -m nos_optax.search --prepare-data cifar-10-binary.tar.gz --data-dir {root}\n"
        "or let TFDS download and prepare it (needs TensorFlow and a network):\n"
        f'  tfds.data_source("cifar10", data_dir="{root}")'
    )


def _import_readers() -> tuple[Any, Any]:
    """Return the TFDS and ``PIL.Image`` modules."""
    try:
        import tensorflow_datasets
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "CIFAR-10 is read with TensorFlow Datasets: pip install 'nos_optax[data]'"
        ) from error
    return tensorflow_datasets, Image


@contextlib.contextmanager
def _reading(folder: Path) -> Generator[None]:
    """Report any failure to read the prepared files as one error that names the folder."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # Bad JSON, records and pixels raise half a dozen types.
        raise DatasetError(
            f"cannot read CIFAR-10 in {folder}: {error}\n"
            f"Remove that folder. {_how_to_prepare(folder.parent.parent)}"
        ) from error


def _read_training_records(folder: Path) -> list[Mapping[str, Any]]:
    """Return the training records by id, images still encoded."""
    tfds, _ = _import_readers()
    builder = tfds.builder_from_directory(folder)
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    return sorted(source.__getitems__(range(len(source))), key=lambda record: record["id"])


def _decode(records: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8[N, 32, 32, 3], and labels, int32[N]."""
    _, pil_image = _import_readers()
    images = np.empty((len(records), *_IMAGE_SHAPE), np.uint8)
    for image, record in zip(images, records, strict=True):
        image[...] = pil_image.open(io.BytesIO(record["image"]))
    return images, np.array([record["label"] for record in records], np.int32)


def _write_prepared(tar: tarfile.TarFile, folder: Path) -> None:
    """Write both splits and their metadata, one batch file in memory at a time."""
    _, pil_image = _import_readers()
    writer = _open_writer(folder, cifar10_archive.read_class_names(tar))
    writer.initialize_splits(list(cifar10_archive.BATCHES))
    for split, names in cifar10_archive.BATCHES.items():
        written = 0
        for name in names:
            images, labels = cifar10_archive.read_batch(tar, name)
            examples = [
                {
                    "id": f"{split}_{i:05d}",
                    # A PIL image, because TFDS encodes an array with TensorFlow.
                    "image": pil_image.fromarray(image),
                    "label": int(label),
                }
                for i, (image, label) in enumerate(zip(images, labels, strict=True), written)
            ]
            writer.add_examples({split: examples})
            written += len(examples)
    writer.close_all()


def _open_writer(folder: Path, class_names: list[str]) -> Any:
    """Return a writer that needs no builder, whose constructor would ask the network."""
    tfds, _ = _import_readers()
    identity = tfds.core.DatasetIdentity(
        name="cifar10",
        version=tfds.core.Version(_VERSION),
        data_dir=os.fspath(folder),
        module_name=__name__,
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="CIFAR-10, prepared from cifar-10-binary.tar.gz.",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        features=tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=_IMAGE_SHAPE),
                "label": tfds.features.ClassLabel(names=class_names),
            }
        ),
        supervised_keys=("image", "label"),
        disable_shuffling=True,
    )
    return tfds.core.SequentialWriter(
        info, max_examples_per_shard=50_000, file_format="array_record"
    )

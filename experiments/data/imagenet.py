"""Labelled images of any size: ImageNet from TensorFlow Datasets or from folders, and CIFAR-10.

Nothing is held in memory or downloaded: images are decoded, cropped and mirrored by threads where
a batch needs them. A training stream is a pure function of the seed and the step.
"""

import collections
import contextlib
import functools
import io
import itertools
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from nos_optax.population.cifar10 import load_cifar10
from nos_optax.population.data import DatasetError

AHEAD = 2  # batches that are prepared while another is trained on
ASPECT = (3 / 4, 4 / 3)  # of a random crop, width to height
CENTRE = 0.875  # of each side, shown in the evaluation
SUFFIXES = (".jpeg", ".jpg", ".png")

Batch = tuple[np.ndarray, np.ndarray]  # images uint8[B, S, S, 3], labels int32[B]


class Examples(NamedTuple):
    """Labelled images, each decoded when it is read."""

    count: int
    num_classes: int
    read: Callable[[int], tuple[Image.Image, int]]  # RGB, label; from any thread


# Where they are.


def tfds_examples(data_dir: Path | None, split: str) -> Examples:
    """Read ImageNet as TFDS prepared it, without TensorFlow.

    Args:
        data_dir: holds `imagenet2012/VERSION`; None is TFDS's own default.
        split: `train` or `validation`.

    Raises:
        DatasetError: there is none, it has no random access, or it is damaged.
        ImportError: TFDS is missing.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    root = root.expanduser()
    folders = sorted(file.parent for file in root.glob("imagenet2012/*/dataset_info.json"))
    if not folders:
        raise DatasetError(f"no prepared ImageNet in {root / 'imagenet2012'}. {_how(root)}")
    tfds = _import_tfds()
    with _reading(folders[-1], root):
        builder = tfds.builder_from_directory(folders[-1])
        if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            kind = builder.info.file_format.value
            raise ValueError(f"it is stored as {kind}, which has no random access")
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        count, classes = len(source), builder.info.features["label"].num_classes

    def read(index: int) -> tuple[Image.Image, int]:
        with _reading(folders[-1], root):
            record = source[index]
            return Image.open(io.BytesIO(record["image"])).convert("RGB"), int(record["label"])

    return Examples(count, classes, read)


def folder_examples(root: Path, split: str) -> Examples:
    """Read images from `root/split/CLASS/*.jpeg`; classes are numbered by name.

    Args:
        root: with a folder for each split.
        split: `train` or `val`.

    Raises:
        DatasetError: there are no such folders, or an image cannot be read.
    """
    classes = sorted(folder.name for folder in (root / "train").glob("*/"))
    numbers = {name: number for number, name in enumerate(classes)}
    found = sorted((root / split).glob("*/*"))
    files = [file for file in found if file.suffix.lower() in SUFFIXES]
    unknown = sorted({file.parent.name for file in files} - set(classes))
    if not files or unknown:
        trouble = f"{unknown[0]} is not among its training classes" if unknown else "no images"
        raise DatasetError(
            f"no ImageNet in folders in {root / split}: {trouble}. Expected one folder a class, "
            f"such as {root}/{split}/n01440764/1.JPEG, with the same classes in train and val: "
            "unpack ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org "
            "to such folders"
        )

    def read(index: int) -> tuple[Image.Image, int]:
        try:
            return Image.open(files[index]).convert("RGB"), numbers[files[index].parent.name]
        except OSError as error:
            raise DatasetError(
                f"{files[index]} is no readable image ({error}); remove it"
            ) from None

    return Examples(len(files), len(classes), read)


def cifar10_examples(
    data_dir: Path | None, classes: int, train: int, validation: int
) -> tuple[Examples, Examples]:
    """Return training and validation images of CIFAR-10's first classes, the same of each class.

    Args:
        data_dir: holds `cifar10/3.0.2`; None is TFDS's own default.
        classes: how many, from 2 to 10.
        train: training images, a multiple of the classes.
        validation: validation images, a multiple of the classes.

    Raises:
        DatasetError: the data is missing, or has fewer images.
    """
    data = load_cifar10(data_dir)
    return (
        _first_of_each(data.train_images, data.train_labels, classes, train),
        _first_of_each(data.validation_images, data.validation_labels, classes, validation),
    )


def _first_of_each(images: np.ndarray, labels: np.ndarray, classes: int, count: int) -> Examples:
    """Return the first `count / classes` images of each class."""
    each = count // classes
    rows = np.concatenate([np.flatnonzero(labels == label)[:each] for label in range(classes)])
    if len(rows) != count:
        raise DatasetError(f"{count} images of {classes} classes asked for, there are {len(rows)}")
    return array_examples(images[rows], labels[rows], classes)


def array_examples(images: np.ndarray, labels: np.ndarray, classes: int) -> Examples:
    """Return images that are in memory: uint8[N, H, W, 3] and integers[N]."""
    return Examples(
        len(labels), classes, lambda index: (Image.fromarray(images[index]), int(labels[index]))
    )


def _how(root: Path) -> str:
    return (
        "Put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org into "
        f"{root}/downloads/manual, and let TFDS prepare it (needs TensorFlow):\n"
        f'  tfds.builder("imagenet2012", data_dir="{root}", file_format="array_record")'
        ".download_and_prepare()\n"
        "or unpack the images to DIR/train/CLASS and DIR/val/CLASS: "
        "--dataset imagenet-folder --data-dir DIR"
    )


def _import_tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "ImageNet is read with TensorFlow Datasets: pip install 'nos_optax[data]'"
        ) from error
    return tensorflow_datasets


@contextlib.contextmanager
def _reading(folder: Path, root: Path) -> Generator[None]:
    """Report any failure to read the prepared files as one error that names the folder."""
    try:
        yield
    except Exception as error:  # bad JSON, records and pixels raise half a dozen types
        raise DatasetError(f"cannot read ImageNet in {folder}: {error}. {_how(root)}") from error


# What a network is shown.


def training_batches(
    examples: Examples, batch: int, size: int, smallest: float, seed: int, first: int = 0
) -> Generator[Batch]:
    """Yield batches for ever: every epoch in another order, with random crops, half mirrored.

    Args:
        examples: to train on.
        batch: images in a batch B, which may begin in one epoch and end in the next.
        size: side S of the images, in pixels.
        smallest: share of an image's area that a crop has at least.
        seed: of everything.
        first: the number of the first batch; the stream goes on as if it had begun with 0.

    Yields:
        Images uint8[B, S, S, 3] and labels int32[B].
    """

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(examples.count)

    def prepare(index: int, epoch: int) -> tuple[np.ndarray, int]:
        rng = np.random.default_rng((seed, epoch, index))
        image, label = examples.read(index)
        return random_crop(image, size, smallest, rng), label

    def start(number: int) -> list:
        places = [divmod(i, examples.count) for i in range(number * batch, (number + 1) * batch)]
        return [pool.submit(prepare, int(order(epoch)[i]), epoch) for epoch, i in places]

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        ahead = collections.deque(map(start, range(first, first + AHEAD)))
        for number in itertools.count(first + AHEAD):
            ahead.append(start(number))
            yield _stack([future.result() for future in ahead.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)


def evaluation_batches(examples: Examples, batch: int, size: int) -> Generator[Batch]:
    """Yield the centre of every image once; the last batch is filled up with labels of -1.

    Args:
        examples: to evaluate on.
        batch: images in a batch B.
        size: side S of the images, in pixels.

    Yields:
        Images uint8[B, S, S, 3] and labels int32[B].
    """

    def prepare(index: int) -> tuple[np.ndarray, int]:
        if index >= examples.count:
            return np.zeros((size, size, 3), np.uint8), -1
        image, label = examples.read(index)
        return centre_crop(image, size), label

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, examples.count, batch):
            yield _stack(list(pool.map(prepare, range(start, start + batch))))


def _stack(pairs: list[tuple[np.ndarray, int]]) -> Batch:
    images, labels = zip(*pairs, strict=True)
    return np.stack(images), np.array(labels, np.int32)


def random_crop(
    image: Image.Image, size: int, smallest: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a random part of an image, half of the time mirrored: uint8[S, S, 3].

    Its area and aspect are random, as in Inception's training; where ten of them do not fit in
    the image, it is the whole image.

    Args:
        image: RGB.
        size: side S, in pixels.
        smallest: share of the area that is shown at least.
        rng: consumed.
    """
    box = 0, 0, image.width, image.height
    for _ in range(10):
        area = rng.uniform(smallest, 1) * image.width * image.height
        aspect = np.exp(rng.uniform(*np.log(ASPECT)))
        width, height = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = rng.integers(image.width - width + 1)
            top = rng.integers(image.height - height + 1)
            box = left, top, left + width, top + height
            break
    shown = _resize(image, size, box)
    return shown[:, ::-1] if rng.random() < 0.5 else shown


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """Return the centre of an image, 87.5 % of each side: uint8[S, S, 3]."""
    x, y = image.width * (1 - CENTRE) / 2, image.height * (1 - CENTRE) / 2
    return _resize(image, size, (x, y, image.width - x, image.height - y))


def _resize(image: Image.Image, size: int, box: tuple[float, float, float, float]) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))

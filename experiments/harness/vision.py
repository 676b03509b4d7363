"""Image classification by any flax network: the data, and the task."""

import dataclasses
import io
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from nos_optax.population import (
    Dataset,
    DatasetError,
    Task,
    image_task,
    load_digits,
    paper_child,
)
from nos_optax.population.cifar10 import load_cifar10

PNG = b"\x89PNG"  # as TFDS keeps images, without loss


class Images(NamedTuple):
    """Labelled images, with a test set."""

    dataset: Dataset  # training and validation
    test_images: np.ndarray  # uint8[M, H, W, C]
    test_labels: np.ndarray  # int32[M]


def read_cifar10(
    data_dir: Path | None,
    train_examples: int | None = None,
    validation_examples: int = 5000,
    test_examples: int | None = None,
) -> Images:
    """Read CIFAR-10: the official training images, some held out for validation, and test images.

    Args:
        data_dir: the TFDS folder; None is TFDS's own default.
        train_examples: None takes all that validation leaves.
        validation_examples: held out.
        test_examples: drawn at random; None takes all 10,000.

    Raises:
        DatasetError: the data is missing or damaged, or a part does not fit.
        ImportError: TFDS is missing.
    """
    # First, as it says what is wrong with the data: TFDS would look for it on the network.
    dataset = load_cifar10(data_dir, train_examples, validation_examples)
    import tensorflow_datasets as tfds
    from PIL import Image

    encoded: Any = {"image": tfds.decode.SkipDecoding()}
    source: Any = tfds.data_source(
        "cifar10", split="test", data_dir=data_dir, download=False, decoders=encoded
    )
    count = len(source) if test_examples is None else test_examples
    if not 1 <= count <= len(source):
        raise DatasetError(f"test_examples is {count}; it must be from 1 to {len(source)}")
    records = sorted(source.__getitems__(range(len(source))), key=lambda record: record["id"])
    chosen = [records[i] for i in np.random.default_rng(0).permutation(len(records))[:count]]
    official = chosen[0]["image"].startswith(PNG)
    name = "CIFAR-10" if official else "CIFAR-10 (re-encoded, not the official pixels)"
    return Images(
        dataclasses.replace(dataset, name=name),
        np.stack([np.asarray(Image.open(io.BytesIO(record["image"]))) for record in chosen]),
        np.array([record["label"] for record in chosen], np.int32),
    )


def read_digits(train_examples: int | None, validation_examples: int, test_examples: int) -> Images:
    """Read scikit-learn's 8x8 digits.

    Args:
        train_examples: None takes all that the others leave.
        validation_examples: held out.
        test_examples: held out too.

    Raises:
        DatasetError: there are not so many.
        ImportError: scikit-learn is missing.
    """
    data = load_digits(
        train_examples=train_examples, validation_examples=validation_examples + test_examples
    )
    dataset = Dataset.from_images(
        data.name,
        data.train_images,
        data.train_labels,
        data.validation_images[:validation_examples],
        data.validation_labels[:validation_examples],
        data.num_classes,
    )
    return Images(
        dataset,
        data.validation_images[validation_examples:],
        data.validation_labels[validation_examples:],
    )


def halve(images: Images) -> Images:
    """Return the images at half their height and width: the means of 2x2 pixels.

    Raises:
        DatasetError: the height or the width is odd.
    """
    data = images.dataset
    dataset = Dataset.from_images(
        data.name,
        _halve(data.train_images),
        data.train_labels,
        _halve(data.validation_images),
        data.validation_labels,
        data.num_classes,
    )
    return Images(dataset, _halve(images.test_images), images.test_labels)


def _halve(pixels: np.ndarray) -> np.ndarray:
    count, height, width, channels = pixels.shape
    if height % 2 or width % 2:
        raise DatasetError(f"images of {height}x{width} pixels cannot be halved")
    blocks = pixels.reshape(count, height // 2, 2, width // 2, 2, channels)
    return np.rint(blocks.mean((2, 4))).astype(np.uint8)


def classification(images: Images, net: nn.Module, shift: int = 0) -> Task:
    """Return a task: classify images by a network with batch normalisation; reward, the accuracy.

    The loss is the mean cross-entropy. Weight decay, if any, is the loop's, of the `kernels`.

    Args:
        images: they stay uint8 until a minibatch is used.
        net: a flax module, called with standardised images and `train`, that returns class
            scores; its state is the collection `batch_stats`, dropout has the key `dropout`.
        shift: augment training images: move each by up to so many pixels in each direction,
            and mirror every other one; 0 does neither.
    """
    data = images.dataset

    def standardise(pixels):
        return (pixels.astype(jnp.float32) - data.mean) / data.std

    def init(key):
        key = jax.random.key(jax.random.bits(key), impl="rbg")  # compiles in a third of the time
        variables = net.init(key, standardise(data.train_images[:1]), train=False)
        return variables["params"], variables["batch_stats"]

    def loss(params, statistics, batch, key):
        pixels, labels = batch
        augment_key, dropout_key = jax.random.split(key)
        if shift:
            pixels = shift_and_mirror(augment_key, pixels, shift)
        scores, new = net.apply(
            {"params": params, "batch_stats": statistics},
            standardise(pixels),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        entropies = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return entropies.mean(), new["batch_stats"]

    def correct(params, statistics, batch):
        pixels, labels = batch
        variables = {"params": params, "batch_stats": statistics}
        scores: Any = net.apply(variables, standardise(pixels), train=False)
        return scores.argmax(axis=-1) == labels

    return Task(
        data.name,
        init,
        loss,
        correct,
        train=(data.train_images, data.train_labels),
        validation=(data.validation_images, data.validation_labels),
        test=(images.test_images, images.test_labels),
        chance=1 / data.num_classes,
        perfect=1.0,
    )


def child_task(images: Images, device: jax.Device) -> Task:
    """Return the task of the search's child, with the test images."""
    task = image_task(images.dataset, paper_child(images.dataset, device))
    return dataclasses.replace(task, test=(images.test_images, images.test_labels))


def kernels(params: Any) -> Any:
    """Return the mask of weight decay: True for the kernels of convolutions and dense layers.

    Not for biases, nor for the scales and shifts of the batch normalisation.
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def shift_and_mirror(key: jax.Array, images: jax.Array, shift: int) -> jax.Array:
    """Move each image at random, and mirror half of them; what is missing is reflected.

    Args:
        key: of the random numbers.
        images: `[B, H, W, C]`.
        shift: the most pixels up, down, left and right; less than H and W.
    """
    # One gather does it all: nothing is padded or copied.
    count, height, width, _ = images.shape
    row_key, column_key, mirror_key = jax.random.split(key, 3)
    rows = _shifted(row_key, count, height, shift)
    columns = _shifted(column_key, count, width, shift)
    mirrored = jax.random.bernoulli(mirror_key, shape=(count, 1))
    columns = jnp.where(mirrored, columns[:, ::-1], columns)
    return images[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _shifted(key: jax.Array, count: int, length: int, shift: int) -> jax.Array:
    """Return which pixels of a line are seen, `int32[count, length]`, reflected at its ends."""
    start = jax.random.randint(key, (count, 1), -shift, shift + 1)
    last = length - 1
    return last - jnp.abs(last - jnp.abs(start + jnp.arange(length)))

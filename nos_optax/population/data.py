"""Image classification data for child networks: the container and the embedded digits.

Images stay uint8 from the file to the device, an eighth of the memory of standardised float64
and a quarter of float32. The population trainer standardises each minibatch where it is used,
``(x - mean) / std``, with statistics of the training images alone.
"""

import dataclasses
import math

import numpy as np

from nos_optax._arguments import check_integers, check_number

_DIGITS_SIDE = 8
_DIGITS_MAX = 16


class DatasetError(ValueError):
    """Report data that is missing, unreadable or not what was asked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Hold a training and a validation set of labelled images, on the host.

    Build one with :meth:`from_images`, which checks the arrays and measures the statistics.

    Attributes:
      name: What reports and run folders call the data.
      train_images: uint8[N, H, W, C].
      train_labels: int32[N], each in ``[0, num_classes)``.
      validation_images: uint8[M, H, W, C].
      validation_labels: int32[M].
      mean: float32[C], channel means of the training images, in grey levels (0 to 255).
      std: float32[C], channel standard deviations, in grey levels; 1 where a channel is constant.
      num_classes: The number of classes.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    num_classes: int

    @classmethod
    def from_images(
        cls,
        name: str,
        train_images: np.ndarray,
        train_labels: np.ndarray,
        validation_images: np.ndarray,
        validation_labels: np.ndarray,
        num_classes: int,
    ) -> "Dataset":
        """Check the arrays and measure the training images' channel statistics.

        Args:
          name: What reports and run folders call the data.
          train_images: uint8[N, H, W, C].
          train_labels: integers[N], each in ``[0, num_classes)``.
          validation_images: uint8[M, H, W, C].
          validation_labels: integers[M].
          num_classes: The number of classes.

        Returns:
          The data set.

        Raises:
          DatasetError: If an array has another type or shape, or a label is out of range.

        Examples:
          >>> images = np.full((4, 8, 8, 1), 51, np.uint8)
          >>> labels = np.arange(4)
          >>> data = Dataset.from_images("grey", images, labels, images, labels, num_classes=4)
          >>> data.mean, data.std
          (array([51.], dtype=float32), array([1.], dtype=float32))
        """
        _check_images("training", train_images, train_labels, num_classes)
        _check_images("validation", validation_images, validation_labels, num_classes)
        if train_images.shape[1:] != validation_images.shape[1:]:
            raise DatasetError(
                f"training images are {train_images.shape[1:]} but validation images are "
                f"{validation_images.shape[1:]}; resize one of them"
            )
        mean, std = _channel_statistics(train_images)
        return cls(
            name=name,
            train_images=train_images,
            train_labels=train_labels.astype(np.int32),
            validation_images=validation_images,
            validation_labels=validation_labels.astype(np.int32),
            mean=mean,
            std=std,
            num_classes=num_classes,
        )


def split_indices(
    num_examples: int, train_examples: int | None, validation_examples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw disjoint training and validation rows from one shuffle.

    The validation rows do not depend on ``train_examples``, and a smaller training set is a
    prefix of a larger one, so accuracies at different sizes compare.

    Args:
      num_examples: Rows to draw from.
      train_examples: Rows for training; None takes all that validation leaves.
      validation_examples: Rows held out.
      seed: Fixes the shuffle.

    Returns:
      Training and validation rows, int64[N] and int64[M].

    Raises:
      DatasetError: If a part is empty or the two do not fit in ``num_examples``.

    Examples:
      >>> train, validation = split_indices(10, None, 4, seed=0)
      >>> len(train), len(validation), sorted({*train, *validation}) == list(range(10))
      (6, 4, True)
    """
    if validation_examples < 1 or validation_examples >= num_examples:
        raise DatasetError(
            f"validation_examples is {validation_examples}; with {num_examples} examples "
            f"it must be from 1 to {num_examples - 1}"
        )
    available = num_examples - validation_examples
    wanted = available if train_examples is None else train_examples
    if wanted < 1 or wanted > available:
        raise DatasetError(
            f"train_examples is {wanted}; with {num_examples} examples, {validation_examples} of "
            f"them held out, it must be from 1 to {available}"
        )
    rows = np.random.default_rng(seed).permutation(num_examples)
    return rows[validation_examples:][:wanted], rows[:validation_examples]


def load_digits(
    noise: float = 0.0,
    train_examples: int | None = 1000,
    validation_examples: int = 797,
    seed: int = 0,
    size: int = _DIGITS_SIDE,
) -> Dataset:
    """Load the 1,797 handwritten digits inside scikit-learn; no file or network is needed.

    Args:
      noise: Standard deviation of Gaussian noise on the 0 to 1 scale, drawn once per 8x8 pixel,
        then clipped. It makes the task harder, which spreads optimizers further apart.
      train_examples: Training images; None takes all that validation leaves.
      validation_examples: Held-out images.
      seed: Fixes the split and the noise.
      size: Height and width in pixels, a multiple of 8; pixels are repeated.

    Returns:
      Grey images, uint8[N, size, size, 1], in 10 classes.

    Raises:
      DatasetError: If an argument is out of range.
      ImportError: If scikit-learn is missing.
      TypeError: If an argument is no number.

    References:
      Alpaydin and Kaynak, `Optical Recognition of Handwritten Digits
      <https://doi.org/10.24432/C50P49>`_, 1998
    """
    check_number("noise", noise, "0 or a positive number", holds=lambda x: True)
    check_integers(
        train_examples=train_examples, validation_examples=validation_examples, size=size
    )
    if not 0 <= noise < math.inf:
        raise DatasetError(f"noise is {noise}; it must be a finite number, 0 or larger")
    if size < _DIGITS_SIDE or size % _DIGITS_SIDE:
        raise DatasetError(f"size is {size}; it must be a multiple of {_DIGITS_SIDE}, such as 16")
    pixels, labels = _read_digits()
    train, validation = split_indices(len(labels), train_examples, validation_examples, seed)

    levels = pixels / _DIGITS_MAX
    if noise:
        # A stream of its own, so that the split is the same with and without noise.
        rng = np.random.default_rng([seed, 1])
        levels = np.clip(levels + noise * rng.standard_normal(levels.shape), 0, 1)
    repeats = size // _DIGITS_SIDE
    images = np.rint(255 * levels).astype(np.uint8)[..., None]
    images = images.repeat(repeats, axis=1).repeat(repeats, axis=2)
    return Dataset.from_images(
        "digits", images[train], labels[train], images[validation], labels[validation], 10
    )


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, float64[1797, 8, 8] from 0 to 16, and their labels."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "the digits are read from scikit-learn: pip install 'nos_optax[search]'"
        ) from error
    digits = datasets.load_digits()
    return digits.images, digits.target


def _check_images(part: str, images: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DatasetError(
            f"{part} images are {images.dtype}{list(images.shape)}; expected uint8[N, H, W, C]"
        )
    if not len(images) or labels.shape != images.shape[:1]:
        raise DatasetError(
            f"{part} labels have shape {labels.shape} for {len(images)} images; "
            "expected at least one image and one label for each"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DatasetError(f"{part} labels are {labels.dtype}; expected integers")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DatasetError(
            f"{part} labels run from {labels.min()} to {labels.max()}; "
            f"expected 0 to {num_classes - 1}"
        )


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return channel means and standard deviations, float32[C] each.

    Sums of grey levels and of their squares are exact in integers and are taken in chunks:
    ``images.std`` would hold a float64 copy, 1.1 GB for CIFAR-10.
    """
    channels = images.shape[-1]
    total = np.zeros(channels, np.int64)
    total_squares = np.zeros(channels, np.int64)
    for start in range(0, len(images), 1000):
        pixels = images[start : start + 1000].reshape(-1, channels).astype(np.int64)
        total += pixels.sum(axis=0)
        total_squares += np.square(pixels).sum(axis=0)
    count = images.size // channels
    mean = total / count
    std = np.sqrt(total_squares / count - mean**2)
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)

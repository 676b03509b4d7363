"""Pack CIFAR-10 into one small file, for a machine that has neither TFDS nor a network.

Question: how do CIFAR-10's images reach a machine that takes a small upload and nothing else?
Method:   the prepared training split is packed as it is stored, still encoded, ordered by the
          examples' ids: one .npz of `images` (uint8, one image after another), `sizes` (uint32,
          bytes of each) and `labels` (uint8), as one xz stream. The headers of JPEGs repeat, so
          44 MB become 15. Pillow decodes them, into what `load_cifar10` returns.
Command:  python benchmarks/gpu/pack_cifar10.py DATA_DIR cifar10.xz       (20 seconds)
          python benchmarks/gpu/pack_cifar10.py cifar10.xz cifar10.npz    (10 seconds)
          The second decodes once for many processes: theirs then takes a second.
Needs:    TensorFlow Datasets to pack; pillow to read.
"""

import argparse
import io
import lzma
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nos_optax.population import Dataset
from nos_optax.population.data import split_indices

IMAGE_SHAPE = (32, 32, 3)
ARRAYS = ("train_images", "train_labels", "validation_images", "validation_labels")


def pack(data_dir: Path, archive: Path) -> None:
    """Pack the training split of a prepared TFDS folder."""
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(data_dir / "cifar10" / "3.0.2")
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    records = sorted(source.__getitems__(range(len(source))), key=lambda record: record["id"])
    images = [record["image"] for record in records]
    with lzma.open(archive, "wb") as file:
        np.savez(
            file,
            images=np.frombuffer(b"".join(images), np.uint8),
            sizes=np.array([len(image) for image in images], np.uint32),
            labels=np.array([record["label"] for record in records], np.uint8),
        )


def load_packed(
    archive: Path, validation_examples: int = 5000, train_examples: int | None = None
) -> Dataset:
    """Return what `load_cifar10` returns for the folder that was packed."""
    with lzma.open(archive) as file, np.load(io.BytesIO(file.read())) as arrays:
        images, sizes, labels = arrays["images"], arrays["sizes"], arrays["labels"]
    ends = np.cumsum(sizes)
    train, validation = split_indices(len(labels), train_examples, validation_examples, seed=0)

    def decode(rows: np.ndarray) -> np.ndarray:
        decoded = np.empty((len(rows), *IMAGE_SHAPE), np.uint8)
        for image, row in zip(decoded, rows, strict=True):
            encoded = images[ends[row] - sizes[row] : ends[row]].tobytes()
            # Threads would not help: most of the time is Python's own.
            image[...] = Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG"))
        return decoded

    return Dataset.from_images(
        "cifar10", decode(train), labels[train], decode(validation), labels[validation], 10
    )


def unpack(
    archive: Path, file: Path, validation_examples: int = 5000, train_examples: int | None = None
) -> None:
    """Decode an archive, or its first training examples, once for all."""
    dataset = load_packed(archive, validation_examples, train_examples)
    new = file.with_suffix(".new.npz")
    np.savez(new, **{name: getattr(dataset, name) for name in ARRAYS})
    new.replace(file)


def load_unpacked(file: Path) -> Dataset:
    """Return what `load_packed` returns for the archive."""
    with np.load(file) as arrays:
        return Dataset.from_images("cifar10", *(arrays[name] for name in ARRAYS), 10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", type=Path, help="the TFDS folder that holds cifar10/3.0.2, or an archive"
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("--train-examples", type=int, help="to unpack (default: all)")
    args = parser.parse_args()
    if args.source.is_dir():
        pack(args.source, args.target)
    else:
        unpack(args.source, args.target, train_examples=args.train_examples)
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB")

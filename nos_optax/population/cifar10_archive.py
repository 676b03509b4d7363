"""The format of CIFAR-10's official archive, ``cifar-10-binary.tar.gz``.

Each batch file is a sequence of 3,073-byte records: a label, then the red, green and blue planes
of a 32x32 image, row by row. Members are read by name into memory and never extracted, so no
path inside the archive can reach the file system.
"""

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Generator, Mapping
from pathlib import Path

import numpy as np

from nos_optax.population.data import DatasetError

_FOLDER = "cifar-10-batches-bin"
_CLASS_NAMES = f"{_FOLDER}/batches.meta.txt"
_NUM_CLASSES = 10
_RECORD_BYTES = 1 + 3 * 32 * 32

BATCHES = {
    "train": [f"{_FOLDER}/data_batch_{i}.bin" for i in range(1, 6)],
    "test": [f"{_FOLDER}/test_batch.bin"],
}


@contextlib.contextmanager
def open_archive(path: Path, examples: Mapping[str, int]) -> Generator[tarfile.TarFile]:
    """Open the archive and name it in any error that its content causes.

    Args:
      path: The archive.
      examples: Split name to the number of records it must hold.

    Yields:
      The archive, checked by the names and sizes of its members.

    Raises:
      DatasetError: If the archive, here or while it is open, is not what its name says.
    """
    if not path.is_file():
        raise DatasetError(f"there is no file {path}; expected cifar-10-binary.tar.gz")
    try:
        with tarfile.open(path, "r:gz") as tar:
            _check_members(tar, examples)
            yield tar
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, DatasetError) as error:
        raise DatasetError(f"{path} is not a usable cifar-10-binary.tar.gz: {error}") from error


def read_class_names(tar: tarfile.TarFile) -> list[str]:
    """Return the ten class names, in the order of the labels."""
    names = _read_member(tar, _CLASS_NAMES).decode("ascii", "replace").split()
    if len(names) != _NUM_CLASSES or len(set(names)) != _NUM_CLASSES:
        raise DatasetError(f"{_CLASS_NAMES} holds the class names {names}; expected 10 of them")
    return names


def read_batch(tar: tarfile.TarFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one batch file's images, uint8[N, 32, 32, 3], and labels, uint8[N]."""
    records = np.frombuffer(_read_member(tar, name), np.uint8).reshape(-1, _RECORD_BYTES)
    labels, planes = records[:, 0], records[:, 1:].reshape(-1, 3, 32, 32)
    if labels.max(initial=0) >= _NUM_CLASSES:
        row = labels.argmax()
        raise DatasetError(f"record {row} of {name} has the label {labels[row]}; expected 0 to 9")
    return planes.transpose(0, 2, 3, 1), labels


def _check_members(tar: tarfile.TarFile, examples: Mapping[str, int]) -> None:
    sizes = {member.name: member.size for member in tar if member.isfile()}
    names = [_CLASS_NAMES, *(name for batches in BATCHES.values() for name in batches)]
    if missing := [name for name in names if name not in sizes]:
        raise DatasetError(f"it has no file {', '.join(missing)}")
    for split, batches in BATCHES.items():
        for name in batches:
            if sizes[name] % _RECORD_BYTES:
                raise DatasetError(
                    f"{name} has {sizes[name]} bytes; expected a multiple of {_RECORD_BYTES}, "
                    "a label and 32x32x3 pixels"
                )
        count = sum(sizes[name] for name in batches) // _RECORD_BYTES
        if count != examples[split]:
            raise DatasetError(f"it has {count} {split} records; expected {examples[split]}")


def _read_member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    if member is None:  # Only for what is no regular file, which _check_members has refused.
        raise DatasetError(f"{name} is not a regular file")
    return member.read()

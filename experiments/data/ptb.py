"""Penn Treebank, the word-level version of Mikolov: 10,000 words, the rest <unk>.

References:
    Mikolov et al., `Recurrent neural network based language model
    <https://www.isca-archive.org/interspeech_2010/mikolov10_interspeech.pdf>`_, 2010
"""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nos_optax.population import DatasetError

END, UNKNOWN = "<eos>", "<unk>"
_HOW_TO_PREPARE = (
    "Download http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz and copy "
    "ptb.train.txt, ptb.valid.txt and ptb.test.txt from its folder simple-examples/data to {}"
)


class Corpus(NamedTuple):
    """Three streams of word ids, `int32[N]`, and the word of each id."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    words: tuple[str, ...]


def load_ptb(folder: str | os.PathLike[str], vocabulary: int = 10_000) -> Corpus:
    """Read `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt`.

    Every line ends in the word <eos>. Ids go from the most frequent training word to the rarest,
    equally frequent ones by the alphabet.

    Args:
        folder: holds the three files.
        vocabulary: words to tell apart; the rarer ones become <unk>.

    Raises:
        DatasetError: a file is missing or unreadable, or has words that are not in the vocabulary
            and training text without <unk>.
    """
    root = Path(folder).expanduser()
    paths = {name: root / f"ptb.{name}.txt" for name in ("train", "valid", "test")}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise DatasetError(
            f"no Penn Treebank in {root}: {', '.join(missing)} missing. "
            + _HOW_TO_PREPARE.format(root)
        )
    texts = {name: _read_words(path) for name, path in paths.items()}
    counts = Counter(texts["train"])
    words = tuple(sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary])
    ids = {word: i for i, word in enumerate(words)}
    streams = (_encode(text, ids, paths[name]) for name, text in texts.items())
    return Corpus(*streams, words=words)


def batchify(ids: np.ndarray, batch: int, bptt: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a stream into segments for truncated backpropagation through time.

    The stream is cut into `batch` equal parts, which are read side by side: row b of a segment goes
    on where row b of the segment before ended, so the state of the network can be passed on. Less
    than `batch * (bptt + 1)` words at the ends of the parts are left out.

    Args:
        ids: `int32[N]`.
        batch: rows of a segment.
        bptt: words in a row.

    Returns:
        Inputs and targets, both `int32[segments, batch, bptt]`; a target is the word after its
        input.

    Raises:
        ValueError: the stream is too short for one segment, or a number is not positive.
    """
    if min(batch, bptt) < 1:
        raise ValueError(f"batch and bptt must be positive, got {batch} and {bptt}")
    segments = (len(ids) - 1) // batch // bptt
    if segments < 1:
        raise ValueError(
            f"{len(ids)} words are too few for one segment of {batch} x {bptt} and its targets; "
            f"choose a smaller batch or bptt"
        )
    part = (len(ids) - 1) // batch

    def cut(stream: np.ndarray) -> np.ndarray:
        rows = stream[: batch * part].reshape(batch, part)[:, : segments * bptt]
        return rows.reshape(batch, segments, bptt).swapaxes(0, 1).astype(np.int32)

    return cut(ids[:-1]), cut(ids[1:])


def _read_words(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"cannot read {path}: {error}. {_HOW_TO_PREPARE.format(path.parent)}"
        ) from error
    return [word for line in text.splitlines() for word in (*line.split(), END)]


def _encode(words: list[str], ids: dict[str, int], path: Path) -> np.ndarray:
    unknown = next((word for word in words if word not in ids), None)
    if unknown is not None and UNKNOWN not in ids:
        raise DatasetError(
            f"{path} has the word {unknown!r}, which is not in the vocabulary, and the training "
            f"text has no {UNKNOWN} to take its place. {_HOW_TO_PREPARE.format(path.parent)}"
        )
    return np.array([ids[word if word in ids else UNKNOWN] for word in words], np.int32)

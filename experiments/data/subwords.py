"""From sentences to arrays and back: byte-pair encoding, buckets by length, batches."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data import BOS, EOS, PAD
from data.translation import Pairs, import_optional

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# PAD, BOS and EOS, by names that no text should have: they would be taken for the real ones.
_SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>"]
_CHUNK = 10_000  # sentences encoded at once


class Padded(NamedTuple):
    """Token ids of sentence pairs, padded to the same lengths.

    Attributes:
        source: `int32[N, L]`, sentences and EOS, then PAD.
        target: `int32[N, L + 1]`, BOS, translations and EOS, then PAD.
    """

    source: np.ndarray
    target: np.ndarray


def train_subwords(texts: Sequence[str], size: int, folder: str | os.PathLike[str]) -> "Tokenizer":
    """Learn a byte-pair encoding, or read the one learned before from the same texts.

    It works on bytes: every text can be written, and comes back unchanged.

    Args:
        texts: sentences of both languages, which share the vocabulary.
        size: subwords to learn, with PAD, BOS, EOS and the 256 bytes; few texts give fewer.
        folder: keeps the encoding, in a file named by the texts and the size.

    Raises:
        ImportError: tokenizers is missing.

    References:
        Sennrich et al., `Neural Machine Translation of Rare Words with Subword Units
        <https://arxiv.org/abs/1508.07909>`_, 2016
    """
    import_optional("tokenizers", "experiments")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    path = Path(folder) / f"subwords_{size}_{_digest(texts)}.json"
    if path.is_file():
        return Tokenizer.from_file(os.fspath(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    tokenizer.save(os.fspath(unfinished))
    unfinished.replace(path)
    return tokenizer


def bucket_pairs(tokenizer: "Tokenizer", pairs: Pairs, lengths: Sequence[int]) -> list[Padded]:
    """Sort sentence pairs into buckets by their length.

    Args:
        tokenizer: by `train_subwords`.
        pairs: sentences and translations.
        lengths: L of every bucket, increasing. A pair is in the first one in which both sentences
            fit with their EOS; one that fits in none is left out.
    """
    source, target = _encode(tokenizer, pairs.source), _encode(tokenizer, pairs.target)
    needed = [1 + max(len(s), len(t)) for s, t in zip(source, target, strict=True)]
    bucket = np.searchsorted(lengths, needed)
    filled = []
    for i, length in enumerate(lengths):
        rows = np.flatnonzero(bucket == i)
        filled.append(
            Padded(
                _pad([[*source[row], EOS] for row in rows], length),
                _pad([[BOS, *target[row], EOS] for row in rows], length + 1),
            )
        )
    return filled


def pad_sources(tokenizer: "Tokenizer", sentences: Sequence[str], length: int) -> np.ndarray:
    """Return `int32[N, length]` for decoding: in order, longer sentences cut."""
    encoded = _encode(tokenizer, sentences)
    return _pad([[*ids[: length - 1], EOS] for ids in encoded], length)


def batches(buckets: Sequence[Padded], batch: int, seed: int | None = None) -> Iterator[Padded]:
    """Yield batches of `batch` pairs, each from one bucket.

    Args:
        buckets: by `bucket_pairs`.
        batch: rows.
        seed: fixes the order of the pairs and of the batches; what does not fill a batch is left
            out. None keeps the order and every pair: rows of PAD fill the last batch of a bucket.
    """
    if seed is None:
        for bucket in buckets:
            for start in range(0, len(bucket.source), batch):
                yield Padded(*(_fill(ids[start : start + batch], batch) for ids in bucket))
        return
    rng = np.random.default_rng(seed)
    cut: list[tuple[Padded, np.ndarray]] = []
    for bucket in buckets:
        full = len(bucket.source) // batch
        rows = rng.permutation(len(bucket.source))[: full * batch].reshape(full, batch)
        cut.extend((bucket, row) for row in rows)
    for i in rng.permutation(len(cut)):
        bucket, rows = cut[i]
        yield Padded(bucket.source[rows], bucket.target[rows])


def to_text(tokenizer: "Tokenizer", tokens: np.ndarray) -> list[str]:
    """Return the sentences of `int[N, T]`, each up to its EOS."""
    kept = [[int(id) for id in _before_end(row) if id not in (PAD, BOS)] for row in tokens]
    return tokenizer.decode_batch(kept)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()[:16]


def _encode(tokenizer: "Tokenizer", sentences: Sequence[str]) -> list[np.ndarray]:
    ids: list[np.ndarray] = []
    for start in range(0, len(sentences), _CHUNK):
        chunk = tokenizer.encode_batch_fast(list(sentences[start : start + _CHUNK]))
        ids.extend(np.array(encoding.ids, np.int32) for encoding in chunk)
    return ids


def _pad(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    padded = np.full((len(rows), length), PAD, np.int32)
    for ids, row in zip(padded, rows, strict=True):
        ids[: len(row)] = row
    return padded


def _fill(ids: np.ndarray, batch: int) -> np.ndarray:
    return np.pad(ids, ((0, batch - len(ids)), (0, 0)), constant_values=PAD)


def _before_end(row: np.ndarray) -> np.ndarray:
    ends = np.flatnonzero(row == EOS)
    return row[: ends[0]] if len(ends) else row

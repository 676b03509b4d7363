"""The sentences of `table4_translation.py`, cut into subwords."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from data.subwords import Padded, bucket_pairs, pad_sources, train_subwords
from data.translation import Corpus, Pairs

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Text(NamedTuple):
    """What the model reads and writes.

    Attributes:
        tokenizer: of both languages.
        train: pairs, by length.
        validation: pairs, by length.
        valid_sources: of the validation sentences, `int32[M, L]`, to be translated.
        valid_pairs: what stands for them in both languages.
        test_sources: of the test sentences, `int32[N, L]`.
        test_pairs: what stands for them in both languages.
    """

    tokenizer: "Tokenizer"
    train: list[Padded]
    validation: list[Padded]
    valid_sources: np.ndarray
    valid_pairs: Pairs
    test_sources: np.ndarray
    test_pairs: Pairs


def generated() -> Corpus:
    """Return sentences of letters, to be written backwards."""
    rng = np.random.default_rng(0)
    return Corpus(*(backwards(rng, count) for count in (400, 40, 20)))


def backwards(rng: np.random.Generator, count: int) -> Pairs:
    """Return lines of three to six letters, and the same letters from the last to the first."""
    lines = [rng.choice(list("abcdefgh"), rng.integers(3, 7)) for _ in range(count)]
    return Pairs([" ".join(line) for line in lines], [" ".join(line[::-1]) for line in lines])


def prepare(
    corpus: Corpus, vocabulary: int, lengths: Sequence[int], batch: int, folder: Path
) -> Text:
    """Cut the sentences into subwords; a folder keeps what was learnt for it.

    Raises:
        ValueError: the sentences are too few for a minibatch, or all too long.
    """
    texts = corpus.train.source + corpus.train.target
    tokenizer = train_subwords(texts, vocabulary, folder)
    train = bucket_pairs(tokenizer, corpus.train, lengths)
    if not epoch_steps(train, batch):
        raise ValueError(
            f"{len(corpus.train.source)} pairs fill no minibatch of {batch} within "
            f"--lengths {lengths}; choose a smaller --batch or longer --lengths"
        )
    validation = bucket_pairs(tokenizer, corpus.validation, lengths)
    valid_sources, test_sources = (
        pad_sources(tokenizer, pairs.source, lengths[-1])
        for pairs in (corpus.validation, corpus.test)
    )
    return Text(
        tokenizer, train, validation, valid_sources, corpus.validation, test_sources, corpus.test
    )


def epoch_steps(buckets: Sequence[Padded], batch: int) -> int:
    """Return the full minibatches of the pairs."""
    return sum(len(bucket.source) // batch for bucket in buckets)

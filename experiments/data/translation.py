"""Sentence pairs: Multi30k from its own files, WMT 2014 German-English from TFDS; and BLEU."""

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nos_optax.population import DatasetError

_MULTI30K = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
_WMT14 = Path("wmt14_translate", "de-en", "1.0.0")
_CHUNK = 10_000  # records read at once


class Pairs(NamedTuple):
    """Sentences and their translations, in the same order."""

    source: list[str]
    target: list[str]


class Corpus(NamedTuple):
    """The official parts of a data set."""

    train: Pairs
    validation: Pairs
    test: Pairs


def load_multi30k(folder: str | os.PathLike[str], source: str = "en", target: str = "de") -> Corpus:
    """Read Multi30k: descriptions of pictures, 29,000 pairs to train on.

    Args:
        folder: holds `{train,val,test_2016_flickr}.{en,de}.gz`.
        source: language to translate from.
        target: language to translate into.

    Raises:
        DatasetError: a file is missing or damaged, or two languages differ in their lines.

    References:
        Elliott et al., `Multi30K: Multilingual English-German Image Descriptions
        <https://arxiv.org/abs/1605.00459>`_, 2016
    """
    root = Path(folder).expanduser()
    names = [
        f"{part}.{language}.gz" for part in _MULTI30K.values() for language in (source, target)
    ]
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DatasetError(
            f"no Multi30k in {root}: {', '.join(missing)} missing. Copy them from the folder "
            "data/task1/raw of https://github.com/multi30k/dataset"
        )
    return Corpus(
        **{
            name: _aligned(
                *(_read_lines(root / f"{part}.{language}.gz") for language in (source, target)),
                root / part,
            )
            for name, part in _MULTI30K.items()
        }
    )


def load_wmt14(
    data_dir: str | os.PathLike[str] | None = None,
    source: str = "en",
    target: str = "de",
    train_pairs: int | None = None,
) -> Corpus:
    """Read WMT 2014 German-English, which TFDS has prepared: 4.5 million pairs to train on.

    Validation is newstest2013, test is newstest2014. Nothing is downloaded.

    Args:
        data_dir: the TFDS folder, which holds `wmt14_translate/de-en/1.0.0`; None is TFDS's own
            default, `$TFDS_DATA_DIR` or else `~/tensorflow_datasets`.
        source: language to translate from, en or de.
        target: language to translate into.
        train_pairs: read only so many training pairs, the first ones in TFDS's shuffled order.

    Raises:
        DatasetError: the data is missing or damaged.
        ImportError: TFDS is missing.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = root / _WMT14
    # Asked for by name, unprepared data make TFDS try the network for minutes.
    if not all((folder / name).is_file() for name in ("dataset_info.json", "features.json")):
        raise DatasetError(f"no prepared WMT14 German-English in {folder}. {_how_to_prepare(root)}")
    tfds = import_optional("tensorflow_datasets", "data")
    try:
        builder = tfds.builder_from_directory(folder)
        return Corpus(
            train=_read_pairs(builder, "train", source, target, train_pairs),
            validation=_read_pairs(builder, "validation", source, target),
            test=_read_pairs(builder, "test", source, target),
        )
    except ImportError:
        raise
    except Exception as error:  # Bad JSON, records and file formats raise half a dozen types.
        raise DatasetError(
            f"cannot read WMT14 German-English in {folder}: {error}\n"
            f"Remove that folder. {_how_to_prepare(root)}"
        ) from error


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Return the corpus BLEU of sacreBLEU's defaults (13a tokens, mixed case), 0 to 100.

    Args:
        hypotheses: detokenized translations.
        references: one for each.

    Raises:
        ImportError: sacrebleu is missing.
    """
    sacrebleu = import_optional("sacrebleu", "experiments")
    return sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score


def _read_lines(path: Path) -> list[str]:
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}. Copy the file again") from error
    return text.removesuffix("\n").split("\n")  # splitlines would cut at other signs too


def _aligned(source: list[str], target: list[str], path: Path) -> Pairs:
    if len(source) != len(target):
        raise DatasetError(
            f"{path}: {len(source)} lines in one language, {len(target)} in the other. "
            "Copy the files again, from one place"
        )
    return Pairs(source, target)


def _read_pairs(
    builder: Any, split: str, source: str, target: str, pairs: int | None = None
) -> Pairs:
    records = builder.as_data_source(split)
    number = min(len(records), pairs or len(records))
    read = Pairs([], [])
    for start in range(0, number, _CHUNK):
        chunk = records.__getitems__(range(start, min(start + _CHUNK, number)))
        read.source.extend(record[source].decode() for record in chunk)
        read.target.extend(record[target].decode() for record in chunk)
    return read


def _how_to_prepare(root: Path) -> str:
    return (
        "Let TFDS download and prepare it (needs TensorFlow, a network and some 5 GB):\n"
        f'  tfds.data_source("wmt14_translate/de-en", data_dir="{root}")'
    )


def import_optional(module: str, extra: str) -> Any:
    """Return a module that an extra of this package installs.

    Raises:
        ImportError: it is missing; the message names the extra.
    """
    try:
        return __import__(module)
    except ImportError as error:
        raise ImportError(f"{module} is missing: pip install 'nos_optax[{extra}]'") from error

"""Text data: Penn Treebank, Multi30k, WMT 2014, subwords, batches and BLEU."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data import BOS, EOS, PAD
from data.ptb import batchify, load_ptb
from data.subwords import Padded, batches, bucket_pairs, pad_sources, to_text, train_subwords
from data.translation import Pairs, bleu, load_multi30k, load_wmt14

from nos_optax.population import DatasetError

DATA = Path(__file__).parents[2] / "shared" / "data"

# Penn Treebank.

PTB = {"train": " b a b \n <unk> b c \n", "valid": " a d \n", "test": "\n c \n"}


def write_ptb(folder: Path, texts: dict[str, str] = PTB) -> Path:
    for name, text in texts.items():
        (folder / f"ptb.{name}.txt").write_text(text)
    return folder


def test_ptb_ids_go_by_frequency_then_by_the_alphabet(tmp_path):
    data = load_ptb(write_ptb(tmp_path))
    assert data.words == ("b", "<eos>", "<unk>", "a", "c")
    np.testing.assert_array_equal(data.train, [0, 3, 0, 1, 2, 0, 4, 1])
    np.testing.assert_array_equal(data.validation, [3, 2, 1])
    np.testing.assert_array_equal(data.test, [1, 4, 1])
    assert data.train.dtype == np.int32


def test_ptb_vocabulary_is_cut_to_the_most_frequent_words(tmp_path):
    data = load_ptb(write_ptb(tmp_path), vocabulary=3)
    assert data.words == ("b", "<eos>", "<unk>")
    np.testing.assert_array_equal(data.train, [0, 2, 0, 1, 2, 0, 2, 1])


def test_missing_ptb_is_named_with_a_remedy(tmp_path):
    with pytest.raises(DatasetError) as error:
        load_ptb(tmp_path / "nowhere")
    for part in ("Penn Treebank", str(tmp_path / "nowhere"), "ptb.valid.txt", "simple-examples"):
        assert part in str(error.value)
    write_ptb(tmp_path)
    (tmp_path / "ptb.test.txt").unlink()
    with pytest.raises(DatasetError, match=r": ptb\.test\.txt missing"):
        load_ptb(tmp_path)


def test_ptb_that_is_not_text_or_not_ptb(tmp_path):
    write_ptb(tmp_path, {**PTB, "train": "a b\n"})
    with pytest.raises(DatasetError, match=r"ptb\.valid\.txt has the word 'd'"):
        load_ptb(tmp_path)
    (tmp_path / "ptb.train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"cannot read .*ptb\.train\.txt"):
        load_ptb(tmp_path)


def test_batchify_by_hand():
    inputs, targets = batchify(np.arange(18), batch=2, bptt=3)
    # Two parts of 8; the segments take 6 of each.
    np.testing.assert_array_equal(inputs, [[[0, 1, 2], [8, 9, 10]], [[3, 4, 5], [11, 12, 13]]])
    np.testing.assert_array_equal(targets, inputs + 1)
    assert inputs.dtype == targets.dtype == np.int32


@pytest.mark.parametrize(("length", "batch", "bptt"), [(7, 2, 3), (8, 1, 7), (101, 4, 5)])
def test_batchify_rows_are_contiguous_and_use_what_fits(length, batch, bptt):
    inputs, targets = batchify(np.arange(length), batch, bptt)
    segments = (length - 1) // batch // bptt
    assert inputs.shape == targets.shape == (segments, batch, bptt)
    rows = inputs.swapaxes(0, 1).reshape(batch, -1)
    np.testing.assert_array_equal(np.diff(rows), 1)
    np.testing.assert_array_equal(targets, inputs + 1)
    assert len(np.unique(rows)) == rows.size and targets.max() < length


def test_batchify_refuses_a_stream_that_is_too_short():
    with pytest.raises(ValueError, match="6 words are too few for one segment of 2 x 3"):
        batchify(np.arange(6), batch=2, bptt=3)
    with pytest.raises(ValueError, match="must be positive, got 0 and 3"):
        batchify(np.arange(6), batch=0, bptt=3)


@pytest.mark.skipif(not (DATA / "ptb").is_dir(), reason="no Penn Treebank beside the project")
def test_real_ptb():
    data = load_ptb(DATA / "ptb")
    assert len(data.words) == 10_000
    assert [len(stream) for stream in data[:3]] == [929_589, 73_760, 82_430]
    assert data.words[:3] == ("the", "<unk>", "<eos>")
    text = [data.words[i] for i in data.test[:6]]
    assert text == "no it was n't black monday".split()
    assert batchify(data.train, 64, 35)[0].shape == (414, 64, 35)


# Sentence pairs.

ENGLISH = [
    f"{who} {does} a {thing}."
    for who in ("A girl", "The man", "My dog")
    for does in ("sees", "wants")
    for thing in ("house", "tree", "big red ball")
]
GERMAN = [
    f"{who} {does} {thing}."
    for who in ("Ein Mädchen", "Der Mann", "Mein Hund")
    for does in ("sieht", "möchte")
    for thing in ("ein Haus", "einen Baum", "große rote Bälle")
]
PARTS = ("train", "val", "test_2016_flickr")


def write_multi30k(folder: Path) -> Path:
    for i, part in enumerate(PARTS):
        for language, lines in (("en", ENGLISH), ("de", GERMAN)):
            text = "".join(line + "\n" for line in lines[i:])
            (folder / f"{part}.{language}.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def test_multi30k_has_its_parts_and_both_directions(tmp_path):
    data = load_multi30k(write_multi30k(tmp_path))
    assert data.train == Pairs(ENGLISH, GERMAN)
    assert data.validation == Pairs(ENGLISH[1:], GERMAN[1:])
    assert data.test == Pairs(ENGLISH[2:], GERMAN[2:])
    assert load_multi30k(tmp_path, "de", "en").test == Pairs(GERMAN[2:], ENGLISH[2:])


def test_missing_multi30k_is_named_with_a_remedy(tmp_path):
    write_multi30k(tmp_path)
    (tmp_path / "val.de.gz").unlink()
    with pytest.raises(DatasetError) as error:
        load_multi30k(tmp_path)
    for part in ("no Multi30k", str(tmp_path), ": val.de.gz missing", "github.com/multi30k"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [b"", b"no gzip", gzip.compress(b"text")[:-9]],
    ids=["empty", "no gzip", "cut short"],
)
def test_damaged_multi30k(tmp_path, damage):
    write_multi30k(tmp_path)
    (tmp_path / "val.de.gz").write_bytes(damage)
    with pytest.raises(DatasetError, match=r"val"):
        load_multi30k(tmp_path)


def test_multi30k_of_unequal_lengths(tmp_path):
    write_multi30k(tmp_path)
    (tmp_path / "val.de.gz").write_bytes(gzip.compress(b"eins\nzwei\n"))
    with pytest.raises(DatasetError, match="17 lines in one language, 2 in the other"):
        load_multi30k(tmp_path)


@pytest.mark.skipif(not (DATA / "multi30k").is_dir(), reason="no Multi30k beside the project")
def test_real_multi30k(tmp_path):
    data = load_multi30k(DATA / "multi30k")
    assert [len(pairs.source) for pairs in data] == [29_000, 1014, 1000]
    few = Pairs(data.train.source[:3000], data.train.target[:3000])
    tokenizer = train_subwords([*few.source, *few.target], 2000, tmp_path)
    assert tokenizer.get_vocab_size() == 2000
    buckets = bucket_pairs(tokenizer, few, (16, 24, 48))
    assert sum(len(bucket.source) for bucket in buckets) > 2950
    sources = pad_sources(tokenizer, data.test.source, 64)
    assert to_text(tokenizer, sources) == data.test.source


# WMT 2014, in the layout of TFDS.


def write_wmt14(root: Path, file_format: str = "array_record") -> Path:
    """Write a small prepared data set; the constructor of TFDS's own would ask the network."""
    folder = root / "wmt14_translate" / "de-en" / "1.0.0"
    folder.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name="wmt14_translate",
        version=tfds.core.Version("1.0.0"),
        data_dir=os.fspath(folder),
        module_name="wmt14",
        config_name="de-en",
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=tfds.features.Translation(languages=("de", "en")),
        supervised_keys=("de", "en"),
        disable_shuffling=True,
    )
    writer = tfds.core.SequentialWriter(info, 100, file_format=file_format)
    splits = ("train", "validation", "test")
    writer.initialize_splits(list(splits))
    for i, split in enumerate(splits):
        lines = zip(GERMAN[i:], ENGLISH[i:], strict=True)
        writer.add_examples({split: [{"de": de, "en": en} for de, en in lines]})
    writer.close_all()
    return folder


@pytest.fixture(scope="module")
def wmt14(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tfds")
    write_wmt14(root)
    return root


def test_wmt14_has_its_parts_and_both_directions(wmt14):
    data = load_wmt14(wmt14)
    assert data.train == Pairs(ENGLISH, GERMAN)
    assert data.validation == Pairs(ENGLISH[1:], GERMAN[1:])
    assert data.test == Pairs(ENGLISH[2:], GERMAN[2:])
    assert load_wmt14(wmt14, "de", "en").test == Pairs(GERMAN[2:], ENGLISH[2:])


def test_wmt14_reads_as_much_as_it_is_asked_for(wmt14, monkeypatch):
    monkeypatch.setattr("data.translation._CHUNK", 4)
    data = load_wmt14(wmt14, train_pairs=6)
    assert data.train == Pairs(ENGLISH[:6], GERMAN[:6])
    assert data.validation == Pairs(ENGLISH[1:], GERMAN[1:])
    monkeypatch.setenv("TFDS_DATA_DIR", str(wmt14))
    assert load_wmt14(train_pairs=100) == load_wmt14(wmt14)


def test_missing_wmt14_is_named_with_a_remedy(tmp_path):
    with pytest.raises(DatasetError) as error:
        load_wmt14(tmp_path)
    folder = str(tmp_path / "wmt14_translate" / "de-en" / "1.0.0")
    for part in ("WMT14 German-English", folder, 'tfds.data_source("wmt14_translate/de-en"'):
        assert part in str(error.value)


def test_damaged_wmt14_is_named_with_a_remedy(tmp_path):
    folder = write_wmt14(tmp_path)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"cannot read WMT14.*\nRemove that folder"):
        load_wmt14(tmp_path)


# Subwords.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_subwords(ENGLISH + GERMAN, 320, tmp_path_factory.mktemp("subwords"))


def test_subwords_write_every_text_and_read_it_back(tokenizer):
    texts = [*GERMAN, "", " two  spaces ", "naïve 漢字 🙂 <unk> </s>\t"]
    length = 64
    assert to_text(tokenizer, pad_sources(tokenizer, texts, length)) == texts
    assert [tokenizer.token_to_id(f"<|{name}|>") for name in ("pad", "begin", "end")] == [
        PAD, BOS, EOS,
    ]  # fmt: skip
    assert len(tokenizer.encode("Der Mann").ids) < len("Der Mann")


def test_subwords_are_the_same_again_and_kept(tmp_path):
    texts = ENGLISH + GERMAN
    first = train_subwords(texts, 320, tmp_path / "a").to_str()
    assert train_subwords(texts, 320, tmp_path / "b").to_str() == first
    (file,) = (tmp_path / "a").iterdir()
    kept = file.read_text().replace("<|end|>", "<|fin|>")
    file.write_text(kept)
    assert train_subwords(texts, 320, tmp_path / "a").token_to_id("<|fin|>") == EOS
    # Other texts and sizes are not taken for these.
    assert train_subwords(texts[1:], 320, tmp_path / "a").token_to_id("<|fin|>") is None
    assert train_subwords(texts, 300, tmp_path / "a").get_vocab_size() == 300


def test_text_ends_at_the_first_end(tokenizer):
    a, b = tokenizer.encode("A").ids[0], tokenizer.encode("b").ids[0]
    tokens = np.array([[BOS, a, EOS, b], [a, b, a, b], [EOS, a, PAD, PAD]])
    assert to_text(tokenizer, tokens) == ["A", "AbAb", ""]


# Buckets and batches.


def test_pairs_go_to_the_first_bucket_that_holds_them(tokenizer):
    number = {text: len(tokenizer.encode(text).ids) for text in ENGLISH + GERMAN}
    needed = [1 + max(number[e], number[g]) for e, g in zip(ENGLISH, GERMAN, strict=True)]
    middle, longest = sorted(needed)[len(needed) // 2], max(needed)
    assert middle < longest
    lengths = (middle, longest - 1)  # the longest pairs fit nowhere
    buckets = bucket_pairs(tokenizer, Pairs(ENGLISH, GERMAN), lengths)
    for length, low, bucket in zip(lengths, (0, middle), buckets, strict=True):
        rows = [i for i, n in enumerate(needed) if low < n <= length]
        assert bucket.source.shape == (len(rows), length)
        assert bucket.target.shape == (len(rows), length + 1)
        assert bucket.source.dtype == bucket.target.dtype == np.int32
        assert to_text(tokenizer, bucket.source) == [ENGLISH[i] for i in rows]
        assert to_text(tokenizer, bucket.target) == [GERMAN[i] for i in rows]
        assert (bucket.target[:, 0] == BOS).all() and (bucket.source[:, 0] > EOS).all()
        for ids in bucket:
            assert ((ids == EOS).sum(1) == 1).all()
            after = np.cumsum(ids == EOS, 1) - (ids == EOS)
            np.testing.assert_array_equal(ids == PAD, after > 0)


def test_sources_are_cut_to_the_length(tokenizer):
    (ids,) = pad_sources(tokenizer, [GERMAN[0]], 4)
    np.testing.assert_array_equal(ids, [*tokenizer.encode(GERMAN[0]).ids[:3], EOS])


def numbered(*sizes: int) -> list[Padded]:
    """Return buckets of lengths 2, 3..., each pair with a number of its own."""
    starts = np.cumsum((10, *sizes))
    return [
        Padded(*(np.full((n, i + e), start) + np.arange(n)[:, None] for e in (2, 3)))
        for i, (n, start) in enumerate(zip(sizes, starts, strict=False))
    ]


def test_training_batches_are_full_and_fixed_by_the_seed():
    buckets = numbered(11, 7)
    drawn = list(batches(buckets, 3, seed=1))
    assert sorted(batch.source.shape for batch in drawn) == [(3, 2)] * 3 + [(3, 3)] * 2
    ids = np.concatenate([batch.source[:, 0] for batch in drawn])
    assert len(np.unique(ids)) == 15
    assert all((batch.source[:, 0] == batch.target[:, 0]).all() for batch in drawn)

    def order(seed):
        return [batch.source[:, 0].tolist() for batch in batches(buckets, 3, seed)]

    assert order(1) == order(1) != order(2)
    widths = {tuple(batch.source.shape[1] for batch in batches(buckets, 3, s)) for s in range(9)}
    assert len(widths) > 1  # buckets are mixed


def test_batches_in_order_have_every_pair_once():
    drawn = list(batches(numbered(4, 3), 3))
    assert [batch.source[:, 0].tolist() for batch in drawn] == [
        [10, 11, 12], [13, PAD, PAD], [14, 15, 16],
    ]  # fmt: skip
    assert drawn[1].target.shape == (3, 3)
    np.testing.assert_array_equal(drawn[1].target[1:], PAD)


# BLEU.


def test_bleu():
    references = ["the cat sat on the mat today", "it is a nice day"]
    assert bleu(references, references) == pytest.approx(100)
    assert bleu(["nothing at all", "of this"], references) < 5
    # By hand: 5 of 6 words, 4 of 5, 3 of 4 and 2 of 3 phrases are right; one word is missing.
    expected = 100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25 * np.exp(1 - 7 / 6)
    assert bleu(["cat sat on the mat now"], references[:1]) == pytest.approx(expected)

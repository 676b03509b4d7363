"""The history file: whole populations or nothing, what is damaged is found, and the exports."""

import dataclasses
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from nos_optax.search import History, SearchConfig, Training, run_search
from nos_optax.search.export import FIELDS, export, main
from nos_optax.search.history import Candidate
from nos_optax.search.run_folder import RunFolder, read_candidates

TRAINING = Training(0.9, 0.1, "trained", (0.1, None, 0.3), (0.5, 0.9), 1.5)
CANDIDATE = Candidate(0, "g", "g m x x left", "d", "f", 0, 0.9, 0.1, "trained", None)
CONFIG = SearchConfig(
    protocol="paper",
    samples=24,
    batch_size=8,
    iterations=1,
    strategy="random",
    finalists=0,
    final_seeds=1,
)


def candidate(number):
    return dataclasses.replace(CANDIDATE, id=number)


@pytest.fixture
def history(tmp_path):
    history = History(tmp_path / "history.sqlite")
    yield history
    history.close()


@pytest.fixture(scope="module", params=[True, False], ids=["reuse", "no reuse"])
def run(request, tmp_path_factory):
    """A run folder with repeats and rejections."""
    path = tmp_path_factory.mktemp("runs") / "run"
    config = dataclasses.replace(CONFIG, samples=160, batch_size=32, reuse=request.param, out=path)
    run_search(config, engine=FakeEngine())
    return path


# What is stored.


def test_what_is_stored_comes_back_after_a_restart(history):
    hopeless = Training(0.1, None, "diverged", (None, None), (None, None), 0.0)
    history.add_trainings(["a", "b"], [TRAINING, hopeless])
    history.add_candidates([candidate(0), candidate(1)])
    history.close()
    again = History(history.path)
    assert again.candidates() == [candidate(0), candidate(1)]
    assert again.training("a") == TRAINING and again.training("b") == hopeless
    assert again.has_training("a") and not again.has_training("c")
    again.close()


def test_a_number_is_given_once_and_a_population_is_whole_or_absent(history):
    history.add_candidates([candidate(0)])
    with pytest.raises(OSError, match="UNIQUE"):
        history.add_candidates([candidate(1), candidate(0)])
    assert history.candidates() == [candidate(0)]
    history.add_trainings(["a"], [TRAINING])
    with pytest.raises(OSError, match="UNIQUE"):
        history.add_trainings(["b", "a"], [TRAINING, TRAINING])
    assert not history.has_training("b")
    history.add_candidates([candidate(1)])  # the file is still in order


def test_one_reads_while_another_writes(history):
    history.add_candidates([candidate(0)])
    reader = History(history.path)
    history.add_candidates([candidate(1)])
    assert len(reader.candidates()) == 2
    history.add_candidates([candidate(2)])
    reader.close()


# What is damaged.


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_history_is_one_message(tmp_path, content):
    path = tmp_path / "history.sqlite"
    path.write_bytes(content)
    if not content:  # as a kill right after it was made leaves it
        History(path).close()
        return
    with pytest.raises(OSError, match=r"history\.sqlite: .*start a new run"):
        History(path)


def test_a_folder_in_place_of_the_file_is_one_message(tmp_path):
    with pytest.raises(OSError, match="unable to open"):
        History(tmp_path)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE candidates SET reward = 0.8 WHERE id = 1", "candidate 1 is not what was written"),
        ("UPDATE candidates SET rule = x'ff' WHERE id = 1", "candidate 1 is not what was written"),
        ("UPDATE candidates SET rule = CAST(x'ff' AS TEXT)", "Could not decode"),
        ("DELETE FROM candidates WHERE id = 1", "candidates are missing"),
        ("UPDATE trainings SET sweep = 'x'", "training 'a' is not what was written"),
        ("DELETE FROM trainings", "no training a"),
        ("DROP TABLE trainings", "no such table"),
    ],
)
def test_rows_that_are_not_what_was_written_are_found(history, statement, message):
    history.add_trainings(["a"], [TRAINING])
    history.add_candidates([candidate(i) for i in range(3)])
    with sqlite3.connect(history.path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(OSError, match=message) as error:
        history.candidates()
        history.training("a")
    assert str(history.path) in str(error.value)


def test_a_full_disk_is_one_message_and_the_history_goes_on_when_there_is_room(history):
    history.add_candidates([candidate(0)])
    pages = history._connection.execute("PRAGMA page_count").fetchone()[0]
    history._connection.execute(f"PRAGMA max_page_count = {pages}")
    many = [candidate(i) for i in range(1, 200)]
    with pytest.raises(OSError, match=r"history\.sqlite: database or disk is full; make room"):
        history.add_candidates(many)
    assert history.candidates() == [candidate(0)]
    history._connection.execute("PRAGMA max_page_count = 100000")
    history.add_candidates(many)
    assert len(history.candidates()) == 200


# Exports.


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_jsonl_has_every_candidate_and_its_training(run):
    rows = read_jsonl(export(run))
    assert [tuple(row) for row in rows] == [FIELDS] * 160
    candidates = read_candidates(run)
    for row, candidate in zip(rows, candidates, strict=True):
        assert dataclasses.asdict(candidate).items() <= row.items()
        if candidate.status == "rejected":
            assert row["sweep"] is row["curve"] is row["seconds"] is None
        else:
            assert len(row["sweep"]) == 7 and row["seconds"] >= 0
        if candidate.status == "trained":
            assert row["curve"][-1] == candidate.reward
        if candidate.origin is not None:
            assert row["curve"] == rows[candidate.origin]["curve"]
    assert {"rejected", "trained", "dead", "diverged"} == {row["status"] for row in rows}


def test_parquet_holds_the_same(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = export(run, "parquet", tmp_path / "history.parquet")
    assert parquet.read_table(out).to_pylist() == read_jsonl(export(run))


def test_a_run_without_candidates_is_exported_too(tmp_path):
    with RunFolder(dataclasses.replace(CONFIG, out=tmp_path / "run")):  # it is being written
        assert export(tmp_path / "run").read_bytes() == b""
        if importlib.util.find_spec("pyarrow"):
            export(tmp_path / "run", "parquet")


def test_a_folder_that_cannot_be_written_is_exported_elsewhere(run, tmp_path, monkeypatch):
    expected = len(read_candidates(run))
    before = {file: file.stat().st_mtime_ns for file in (run, *run.rglob("*"))}
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(run))
    assert len(read_jsonl(export(run, "jsonl", tmp_path / "all.jsonl"))) == expected
    assert len(read_candidates(run)) == expected
    assert {file: file.stat().st_mtime_ns for file in (run, *run.rglob("*"))} == before


def test_parquet_without_pyarrow_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'nos_optax\[parquet\]'"):
        export(run, "parquet", tmp_path / "history.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "nowhere holds no run"), (["RUN", "--out", "no/such/folder"], "no/such")],
)
def test_the_command_line_says_what_is_wrong(run, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    words = [str(run) if word == "RUN" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["export", *words])
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        main()


@pytest.mark.slow
def test_the_module_runs(run, tmp_path):
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "nos_optax.search.export", run]
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(out), "")
    assert len(out.read_text().splitlines()) == 160

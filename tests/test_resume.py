"""However a search ends, resumed it is the same search; and what cannot be resumed says why.

The engine is a fake, so a search takes a fraction of a second. Rewards do not depend on where they
come from, so what holds here holds for real ones; `benchmarks/kills.py` kills those.
"""

import dataclasses
import gc
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from nos_optax.search import Candidate, RunFolder, SearchConfig, loop, read_candidates, run_search
from nos_optax.search.history import History

CONFIG = SearchConfig(
    protocol="paper",
    race=4,
    samples=90,
    batch_size=8,
    iterations=1,
    finalists=1,
    final_seeds=1,
    resume=True,
)
STRATEGIES = ("random", "evolution", "ppo")  # evolution breeds from candidate 64 on
HERE = Path(__file__).parent


def begin(path, strategy="random", engine=None, on_batch=lambda candidates: None, **changes):
    """Search, or go on with the search in a folder; return its candidates."""
    config = dataclasses.replace(CONFIG, out=path, strategy=strategy, **changes)
    return run_search(config, on_batch, engine=engine or FakeEngine()).candidates


def stop_at(count):
    """Return a callback that stops a search when it has so many candidates."""

    def on_batch(candidates: list[Candidate]) -> None:
        if len(candidates) >= count:
            raise KeyboardInterrupt

    return on_batch


@pytest.fixture(autouse=True)
def states_after_every_population(monkeypatch):
    monkeypatch.setattr(loop, "A_WHILE", 0)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The candidates of unbroken runs, by strategy."""
    root = tmp_path_factory.mktemp("unbroken")
    return {name: begin(root / name, name) for name in STRATEGIES}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Run folders that were left after 72 candidates, by strategy."""
    root = tmp_path_factory.mktemp("broken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "A_WHILE", 0)
        for name in STRATEGIES:
            with pytest.raises(KeyboardInterrupt):
                begin(root / name, name, on_batch=stop_at(72))
            assert query(root / name, "SELECT populations FROM states") == [(9,)]
    return root


@pytest.fixture
def left(broken, tmp_path):
    """A copy of the PPO folder, to damage."""
    return shutil.copytree(broken / "ppo", tmp_path / "left")


# Deaths.


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_deaths_of_the_engine_change_nothing_and_no_program_trains_twice(
    strategy, unbroken, tmp_path
):
    rng, evaluated, deaths = random.Random(0), [], 0
    while True:
        engine = FakeEngine(parts_until_death=rng.choice([0, 1, 3, 6]))
        try:
            candidates = begin(tmp_path / "run", strategy, engine)
        except RuntimeError:
            deaths += 1
            evaluated += engine.evaluated
        else:
            break
        if deaths > 200:
            pytest.fail("it does not come to an end")
    assert deaths > 3
    assert candidates == unbroken[strategy]
    assert len(evaluated) == len(set(evaluated))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_interruptions_between_populations_change_nothing(strategy, unbroken, tmp_path):
    for count in (8, 40, 72, 90):
        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path / "run", strategy, on_batch=stop_at(count))
        assert read_candidates(tmp_path / "run") == unbroken[strategy][:count]
    assert begin(tmp_path / "run", strategy) == unbroken[strategy]
    lines = (tmp_path / "run" / "candidates.jsonl").read_text().splitlines()
    exported = [json.loads(line) for line in lines]
    assert exported == [dataclasses.asdict(c) for c in unbroken[strategy]]


def interrupt_at_line(number):
    """Raise KeyboardInterrupt at the line of the search package that is executed as this one."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if f"nos_optax{os.sep}search{os.sep}" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        if lines == number:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_interruptions_at_any_line_change_nothing(strategy, unbroken, tmp_path):
    rng, interruptions = random.Random(STRATEGIES.index(strategy)), 0
    for number in (rng.randrange(1, 2000) for _ in range(8)):
        try:
            interrupt_at_line(number)
            begin(tmp_path / "run", strategy)
        except KeyboardInterrupt:
            interruptions += 1
        finally:
            sys.settrace(None)
        gc.collect()  # a dead process would let go of the lock, whichever line it died at
        history = tmp_path / "run" / "history.sqlite"
        if history.exists():
            found = read_candidates(tmp_path / "run")
            assert found == unbroken[strategy][: len(found)]
    assert interruptions > 3
    assert begin(tmp_path / "run", strategy) == unbroken[strategy]


def test_a_run_that_was_complete_is_the_same_again(unbroken, tmp_path):
    for _ in range(2):
        assert begin(tmp_path / "run") == unbroken["random"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("parts", [(64,), (37, 43), (8, 8, 9, 80)])
def test_extended_runs_equal_longer_ones(strategy, parts, unbroken, tmp_path):
    """Whether their last population was complete or not, and broken after that or not."""
    for samples in parts:
        found = begin(tmp_path / "run", strategy, samples=samples)
        assert found == unbroken[strategy][:samples]
    if len(parts) > 1:
        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path / "run", strategy, on_batch=stop_at(parts[-1] + 1))
    assert begin(tmp_path / "run", strategy) == unbroken[strategy]


def test_fewer_samples_than_there_are_take_none_away(unbroken, tmp_path):
    begin(tmp_path / "run")
    assert begin(tmp_path / "run", samples=16) == unbroken["random"]


# The strategy's state.


def query(folder, statement, *values):
    """Run SQL on a history; return the rows."""
    with sqlite3.connect(folder / "history.sqlite") as connection:
        rows = connection.execute(statement, values).fetchall()
    connection.close()
    return rows


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def empty(content):
    return b""


@pytest.mark.parametrize("damage", [cut, flip, empty], ids=lambda f: f.__name__)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_damaged_state_warns_and_changes_nothing(damage, strategy, broken, unbroken, tmp_path):
    folder = shutil.copytree(broken / strategy, tmp_path / "run")
    ((content,),) = query(folder, "SELECT content FROM states")
    query(folder, "UPDATE states SET content = ?", damage(content))
    with pytest.warns(UserWarning, match="cannot be read") as caught:
        assert begin(folder, strategy) == unbroken[strategy]
    (message,) = {str(w.message) for w in caught}
    assert "worked out again from the history" in message and "\n" not in message


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_a_state_the_history_is_enough(strategy, broken, unbroken, tmp_path):
    folder = shutil.copytree(broken / strategy, tmp_path / "run")
    query(folder, "DROP TABLE states")
    assert begin(folder, strategy) == unbroken[strategy]


def test_a_state_of_another_strategy_is_not_believed(left, broken, unbroken):
    (row,) = query(broken / "evolution", "SELECT * FROM states")
    query(left, "REPLACE INTO states VALUES (?, ?, ?, ?)", *row)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert begin(left, "ppo") == unbroken["ppo"]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 8, 27, 56])
def test_a_state_newer_than_the_history_is_not_used(left, unbroken, kept):
    query(left, "DELETE FROM candidates WHERE id >= ?", kept)
    assert begin(left, "ppo") == unbroken["ppo"]


# A full disk.


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_full_history_is_one_message_and_goes_on(strategy, unbroken, tmp_path, monkeypatch):
    prepare = History._prepare

    def prepare_small(history):
        prepare(history)
        history._connection.execute("PRAGMA max_page_count = 7")

    monkeypatch.setattr(History, "_prepare", prepare_small)
    for _ in range(2):
        with pytest.raises(OSError, match=r"history\.sqlite: .* full; make room") as error:
            begin(tmp_path / "run", strategy)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(History, "_prepare", prepare)
    assert 0 < len(read_candidates(tmp_path / "run")) < 90
    assert begin(tmp_path / "run", strategy) == unbroken[strategy]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a given number of KiB, which can be changed; where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int, options: str = "") -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k{options}", "none", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.mark.parametrize("strategy", ["random", "ppo"])
def test_a_full_disk_is_one_message_and_goes_on(strategy, unbroken, small_disk, caplog):
    """From one that holds nothing to one that holds all, with a resume at each size."""
    failed, sizes = 0, (4, 40, 100, 160, 500, 1000, 1400, 2000, 3000, 50_000)
    for i, size in enumerate(sizes):
        disk = small_disk(size, ",remount" if i else "")
        try:
            candidates = begin(disk / "run", strategy)
        except OSError as error:
            assert "\n" not in str(error)
            failed += 1
        else:
            break
    assert failed >= 3 and candidates == unbroken[strategy]
    assert not caplog.records, "a library said more"


# What cannot be resumed.


def edit_config(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["config"] |= changes.pop("config", {})
    path.write_text(json.dumps(content | changes))


def assert_refused(folder, kind, *words, strategy="ppo", **changes):
    """One line with these words, and the folder stays as it was."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(kind) as error:
        begin(folder, strategy, **changes)
    assert not isinstance(error.value, UnicodeError) and "\n" not in str(error.value)
    for word in (str(folder), *words):
        assert word in str(error.value)
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {p: c for p, c in after.items() if "sqlite-" not in p.name} == before


def test_another_configuration_is_refused_with_the_difference(left):
    words = ("--seed was 0, is 4", "--batch-size was 8, is 9", "another configuration")
    assert_refused(left, ValueError, *words, seed=4, batch_size=9)
    assert_refused(left, ValueError, "--strategy was ppo, is random", strategy="random")


def test_what_decides_how_long_and_where_may_differ(left, unbroken):
    found = begin(left, "ppo", samples=80, lanes=4, finalists=2, final_seeds=2, accelerator="cpu")
    assert found == unbroken["ppo"][:80]


def test_another_version_is_refused(left):
    edit_config(left, version="0.0.1")
    assert_refused(left, ValueError, "written by nos_optax 0.0.1", "start a new run")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"version": 3}', b"\xff\xfe", b"[" * 100_000],
    ids=lambda content: repr(content[:10]),
)
def test_a_damaged_configuration_is_refused(left, content):
    (left / "config.json").write_bytes(content)
    assert_refused(left, ValueError, "config.json is damaged", "start a new run")


@pytest.mark.parametrize(
    "config",
    [
        {"samples": "90"},
        {"seed": True},
        {"lanes": 1.5},
        {"task": ["mnist"]},
        {"data_dir": 3},
        {"unary": [1.5]},
        {"strategy": None},
        {"engine": []},
        {"batch_size": 0},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_configuration_with_a_wrong_value_is_refused(left, config):
    edit_config(left, config=config)
    assert_refused(left, ValueError, "config.json is damaged", "start a new run")


def test_a_lost_configuration_is_missed(left):
    (left / "config.json").unlink()
    assert_refused(left, FileNotFoundError, "has lost its config.json", "start a new run")


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_history_is_refused(left, content):
    for extra in left.glob("history.sqlite-*"):
        extra.unlink()
    (left / "history.sqlite").write_bytes(content)
    assert_refused(left, OSError, "history.sqlite", "start a new run")


def test_a_history_that_the_strategy_did_not_ask_for_is_refused(left):
    query(left, "DELETE FROM states")
    edit_config(left, config={"seed": 1})
    with pytest.raises(ValueError, match="cannot be resumed: from candidate 0 on"):
        begin(left, "ppo", seed=1)


def test_without_resume_a_run_is_refused(left):
    assert_refused(left, FileExistsError, "--resume", resume=False)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    "files", [(), ("lock",), ("lock", "history.sqlite", "config.json.partial")]
)
def test_a_folder_of_a_run_that_died_at_once_is_begun(resume, files, unbroken, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in files:
        (folder / name).touch()
    assert begin(folder, resume=resume) == unbroken["random"]


@pytest.mark.parametrize("resume", [True, False])
def test_somebody_elses_folder_is_refused(resume, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="holds other files"):
        begin(tmp_path, resume=resume)
    with pytest.raises(NotADirectoryError, match="is a file"):
        begin(tmp_path / "thesis.tex", resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_process_is_refused_until_the_first_ends(left, unbroken):
    with RunFolder(dataclasses.replace(CONFIG, out=left, strategy="ppo")):
        with pytest.raises(BlockingIOError, match="another process is searching"):
            begin(left, "ppo")
    assert begin(left, "ppo") == unbroken["ppo"]


# Real processes.

SCRIPT = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
limit = int(sys.argv[4])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
import test_resume
from nos_optax.search import enable_compilation_cache, loop
loop.A_WHILE = 0
enable_compilation_cache()
try:
    test_resume.begin(Path(sys.argv[2]), sys.argv[3], on_batch=lambda c: print(len(c), flush=True))
except OSError as error:
    sys.exit(f"error: {error}")
"""


def start(folder, strategy="random", limit=0):
    """Begin the fake search in a process; `limit` is the size in bytes that a file may have."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, HERE, folder, strategy, str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_process_changes_nothing(strategy, unbroken, tmp_path):
    rng, folder = random.Random(0), tmp_path / "run"
    for _ in range(3):
        process = start(folder, strategy)
        process.stdout.readline()  # it searches
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = read_candidates(folder)
        assert found == unbroken[strategy][: len(found)]
    assert begin(folder, strategy) == unbroken[strategy]


@pytest.mark.slow
def test_a_second_process_is_refused(unbroken, tmp_path):
    folder = tmp_path / "run"
    with RunFolder(dataclasses.replace(CONFIG, out=folder, strategy="random")):
        _, said = start(folder).communicate()
    assert said.strip() == f"error: another process is searching in {folder}"
    assert begin(folder) == unbroken["random"]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2_000, 60_000, 300_000])
def test_files_that_cannot_grow_are_one_message(limit, unbroken, tmp_path):
    process = start(tmp_path / "run", "ppo", limit)
    _, said = process.communicate()
    assert process.returncode == 1
    assert len(said.strip().splitlines()) == 1 and said.startswith("error: ")
    assert begin(tmp_path / "run", "ppo") == unbroken["ppo"]


# Fuzz.


@pytest.mark.slow
def test_a_few_hundred_malformed_inputs(monkeypatch):
    """Those of `benchmarks/fuzz.py`, which has thousands."""
    monkeypatch.syspath_prepend(HERE.parent / "benchmarks")
    import fuzz

    report = fuzz.fuzz(200, seed=12)
    assert report["bugs"] == []
    assert all("ran" in outcomes and len(outcomes) > 1 for outcomes in report["outcomes"].values())

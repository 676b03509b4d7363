"""Is a search that is killed at any moment, and resumed, the same search?

Claim:    `kill -9` at a random moment, Ctrl-C and SIGTERM lose nothing: after `--resume` the
          history equals, row for row and byte for byte, that of an unbroken run.
Method:   a small search runs unbroken for each strategy: by default one with all that a search has,
          two tasks of the suite, a race and a watch task; with --search digits or cifar10 one with
          the paper's protocol. Then it is begun again, killed, resumed, killed again and resumed,
          at most --in-a-row times, until it ends by itself; and so on until --kills kills were
          survived. Half of the moments are uniform in time, from the start of the process to the
          unbroken run's end; half are up to a second after a uniform number of candidates is in
          the history. Of every run that ends, candidates.jsonl and the tables of candidates,
          trainings (but for their seconds) and watch tasks are compared with the unbroken run's.
          The strategy's state is stored after every population, far more often than by default, so
          that kills fall into that too. Then the same with --signals of each other signal, which
          must not leave a traceback.
Command:  python benchmarks/kills.py [--search digits]
          python benchmarks/kills.py --search cifar10 --data-dir DIR --strategies ppo --kills 4
          --signals 1
Time:     about 15 minutes on one core; on CIFAR-10, 8 minutes.
Writes:   benchmarks/results/kills_SEARCH.json
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SEARCH = Path(__file__).parents[1] / "experiments" / "search.py"
FLAGS = "--batch-size 16 --finalists 1 --accelerator cpu".split()
PAPER = "--protocol paper --epochs 1 --final-seeds 1".split()
SEARCHES = {
    "suite": (
        "--samples 160 --task digits-convnet characters --watch table --race 4 --final-seeds 2"
    ).split(),
    "digits": ["--samples", "96", "--train-examples", "200", *PAPER],
    "cifar10": [
        *"--samples 48 --task cifar10 --train-examples 500 --sweep-examples 200".split(),
        *("--minibatch-size", "20", *PAPER),
    ],
}
STRATEGIES = ("ppo", "random", "evolution")
# The search as its users run it, but for the strategy's states.
CHILD = (
    "import runpy, sys; import nos_optax.search.loop as loop; "
    f"loop.A_WHILE = 0; sys.argv[0] = {str(SEARCH)!r}; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


class Search(NamedTuple):
    """What is run, but for its folder."""

    strategy: str
    samples: int
    flags: list[str]


class History(NamedTuple):
    """All that must not depend on kills."""

    exported: bytes
    candidates: list[tuple]
    trainings: list[tuple]
    watched: list[tuple]


def main() -> None:
    """Run, kill, resume, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--in-a-row", type=int, default=4)
    parser.add_argument("--signals", type=int, default=6, help="of each of SIGINT and SIGTERM")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--search", default="suite", choices=SEARCHES)
    parser.add_argument("--data-dir", help="of CIFAR-10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if (args.search == "cifar10") != bool(args.data_dir):
        parser.error("--search cifar10 needs --data-dir, and no other search has a use for it")
    rng = random.Random(args.seed)
    # In the background of a shell SIGINT is ignored, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    flags = SEARCHES[args.search] + (["--data-dir", args.data_dir] if args.data_dir else [])
    searches = [Search(name, int(flags[1]), [*flags, *FLAGS]) for name in args.strategies]

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        unbroken = {s.strategy: run_unbroken(root / s.strategy, s) for s in searches}
        report = {
            "flags": [flag for flag in (*flags, *FLAGS) if flag != args.data_dir],
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            "unbroken_seconds": {name: seconds for name, (_, seconds) in unbroken.items()},
        }
        for kind, count in (
            (signal.SIGKILL, args.kills),
            (signal.SIGTERM, args.signals),
            (signal.SIGINT, args.signals),
        ):
            folder = root / kind.name
            report[kind.name] = survive(folder, searches, kind, count, args.in_a_row, unbroken, rng)

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"kills_{args.search}.json").write_text(json.dumps(report, indent=2) + "\n")


def run_unbroken(folder: Path, search: Search) -> tuple[History, float]:
    """Return the history of an unbroken run and its seconds, with everything compiled before."""
    for path in (folder / "first", folder / "second"):
        process, start = begin(path, search), time.perf_counter()
        said, _ = process.communicate()
        assert process.returncode == 0, said
    seconds = round(time.perf_counter() - start, 1)
    assert read(folder / "first") == read(folder / "second"), "not even two unbroken runs agree"
    print(f"{search.strategy}: unbroken {seconds} s", flush=True)
    return read(folder / "second"), seconds


def survive(
    folder: Path,
    searches: list[Search],
    kind: signal.Signals,
    count: int,
    in_a_row: int,
    unbroken: dict[str, tuple[History, float]],
    rng: random.Random,
) -> dict:
    """Interrupt runs until there were enough interruptions; return what was counted."""
    stages: Counter[str] = Counter()
    runs = equal = 0
    last_words: Counter[str] = Counter()
    while (missing := count - stages.total()) > 0:
        search = searches[runs % len(searches)]
        history, seconds = unbroken[search.strategy]
        path = folder / str(runs)
        for said in interrupted(path, search, kind, seconds, min(missing, in_a_row), rng):
            stages[stage_of(path, search.samples)] += 1
            last_words[summary(said)] += 1
        runs += 1
        same = read(path) == history
        equal += same
        print(
            f"{kind.name}: {stages.total()} survived, {search.strategy} equal: {same}", flush=True
        )
        if same:
            shutil.rmtree(path)
    return {
        "interruptions": stages.total(),
        "stages": dict(stages),
        "runs": runs,
        "runs_with_equal_history": equal,
        "last_words": dict(last_words),
    }


def interrupted(
    path: Path, search: Search, kind: signal.Signals, seconds: float, most: int, rng: random.Random
) -> Iterator[str]:
    """Run a search to its end; yield what it said at each of at most so many interruptions."""
    for _ in range(most):
        process, start = begin(path, search), time.perf_counter()
        if rng.random() < 0.5:
            until = start + rng.uniform(0, seconds)
        else:
            goal = rng.randrange(search.samples + 1)
            while process.poll() is None and count_rows(path, "candidates") < goal:
                time.sleep(0.01)
            until = time.perf_counter() + rng.uniform(0, 1)
        while process.poll() is None and time.perf_counter() < until:
            time.sleep(0.002)
        process.send_signal(kind)
        said, _ = process.communicate()
        if process.returncode == 0:
            return
        yield said
    process = begin(path, search)
    said, _ = process.communicate()
    assert process.returncode == 0, f"it cannot go on:\n{said}"


def begin(path: Path, search: Search) -> subprocess.Popen[str]:
    """Run the search in a folder, or the rest of it."""
    command = [sys.executable, "-c", CHILD, *search.flags, "--strategy", search.strategy]
    command += ["--out", str(path), "--resume"]
    path.mkdir(parents=True, exist_ok=True)  # what is not there cannot be gone on with
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )


def count_rows(path: Path, table: str) -> int:
    """Return how many rows a table of the history has; 0 if there is none."""
    try:
        connection = sqlite3.connect(f"file:{path / 'history.sqlite'}?mode=ro", uri=True)
        with contextlib.closing(connection):
            return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    except sqlite3.Error:
        return 0


def stage_of(path: Path, samples: int) -> str:
    """Return how far a dead run had come."""
    if not (path / "config.json").exists():
        return "before the run folder was complete"
    with tempfile.TemporaryDirectory() as folder:  # a look at the original would tidy it up
        copy = Path(folder) / "copy"
        shutil.copytree(path, copy)
        candidates = count_rows(copy, "candidates")
        ahead = "trainings WHERE substr(key, 1, 16) NOT IN (SELECT fingerprint FROM candidates)"
        trainings = count_rows(copy, ahead)
    if candidates == samples:
        return "after the last population"
    if trainings:
        return "between the trainings and the candidates of a population"
    return "within a population" if candidates else "before the first population was done"


def summary(said: str) -> str:
    """Return how a process ended that was told to."""
    if "Traceback" in said:
        return f"TRACEBACK: {said[-2000:]}"
    last = said.strip().splitlines()[-1:]
    if last and last[0].startswith("interrupted"):
        return "interrupted"
    return "done, and told so" if last else "nothing"


def read(path: Path) -> History:
    """Return what a run that has ended leaves."""
    connection = sqlite3.connect(path / "history.sqlite")
    candidates = connection.execute("SELECT * FROM candidates ORDER BY id").fetchall()
    columns = "key, reward, learning_rate, status, sweep, curve"
    trainings = connection.execute(f"SELECT {columns} FROM trainings ORDER BY key").fetchall()
    watched = connection.execute("SELECT * FROM watched ORDER BY number").fetchall()
    connection.close()
    return History((path / "candidates.jsonl").read_bytes(), candidates, trainings, watched)


if __name__ == "__main__":
    main()

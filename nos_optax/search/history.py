"""What a search has seen: every candidate and every training, in one sqlite file.

A training is stored the moment it is done, under what it was a training of, so that a search that
dies in the middle of a population repeats none. Candidates are stored a population at a time, in
one transaction: they are the search's history. The strategy's newest state is beside them; asked
again and told the stored rewards, a strategy comes to the same state, so it only saves that work.
Every row ends with a checksum, so that a damaged file is found, not believed.
"""

import contextlib
import dataclasses
import json
import sqlite3
import time
import warnings
import zlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax
import numpy as np

from nos_optax._command import printable

FILE = "history.sqlite"
REJECTED = "rejected"  # a status beside those of trainings


class Training(NamedTuple):
    """What became of a program that was trained."""

    reward: float  # validation score; the chance level for the dead and the diverged
    learning_rate: float | None  # None where every rate of the sweep diverged
    status: str  # trained, dead, diverged or slow
    sweep: tuple[float | None, ...]  # score of each learning rate; None where it diverged
    # The reward on each task with each seed, task by task; of the paper's protocol, the accuracy.
    curve: tuple[float | None, ...]
    seconds: float  # its share of the time that its population took


@dataclasses.dataclass(frozen=True, slots=True)  # a search holds tens of thousands
class Candidate:
    """One sample of the search. It depends on the configuration alone, not on time or machine."""

    id: int
    rule: str  # infix, the shorter of what was written and its canonical form
    tokens: str  # the vocabulary's words
    digest: str  # of the canonical form: the same for rules that algebra makes equal
    fingerprint: str  # the same for rules whose updates agree on the probes
    origin: int | None  # the candidate whose training this is, itself or an earlier; None: rejected
    reward: float
    learning_rate: float | None
    status: str
    reason: str | None  # why it was rejected untrained

    @property
    def is_training(self) -> bool:
        """Whether it was trained itself: the others repeat an earlier one or were rejected."""
        return self.origin == self.id


class Watched(NamedTuple):
    """What the best rule of a search comes to on tasks that the search does not select by."""

    number: int  # trainings after which it was due
    trained: int  # those that there were
    rule: str  # the best one, infix
    reward: float  # the estimate of its mean reward
    low: float  # and the bound of that from below
    rewards: tuple[float, ...]  # on each watch task


class History:
    """The history of one run.

    Args:
        path: the sqlite file, made here if need be.
        read_only: whether to leave the file and its folder as they are.
        shown: what messages call the file, where `path` is a copy.

    Raises:
        OSError: it cannot be read or written, or is no history.
    """

    def __init__(self, path: Path, read_only: bool = False, shown: Path | None = None):
        self.path = shown or path
        self._timed: dict[str, float] = {}  # seconds that are not stored yet
        with self._errors():
            self._connection = _connect(path, read_only)
            try:
                if not read_only:
                    self._prepare()
                elif not self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    self.close()  # a kill right after it was made leaves it empty
                    self._connection = sqlite3.connect(":memory:", isolation_level=None)
                    self._prepare()
            except BaseException:
                self.close()
                raise

    def _prepare(self) -> None:
        """Make the tables if need be."""
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._transaction() as connection:
            for table, columns in _TABLES.items():
                kind = "TEXT" if table == "trainings" else "INTEGER"
                first, *others = columns
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} "
                    f"({first} {kind} PRIMARY KEY, {', '.join(others)}, checksum)"
                )
            connection.execute(
                "CREATE TABLE IF NOT EXISTS stages (stage TEXT PRIMARY KEY, seconds)"
            )

    @contextlib.contextmanager
    def timed(self, stage: str, start: float | None = None) -> Generator[None]:
        """Add the seconds that this takes to a stage's; they are stored with what comes next.

        Args:
            stage: its name.
            start: since when, on `time.perf_counter`; now where None.
        """
        start = time.perf_counter() if start is None else start
        try:
            yield
        finally:
            self._timed[stage] = self._timed.get(stage, 0.0) + time.perf_counter() - start

    def store_seconds(self) -> None:
        """Store what was timed."""
        with self._errors(), self._transaction():
            self._add_seconds()

    def _add_seconds(self) -> None:
        self._connection.executemany(
            "INSERT INTO stages VALUES (?, ?) "
            "ON CONFLICT (stage) DO UPDATE SET seconds = seconds + excluded.seconds",
            list(self._timed.items()),
        )
        self._timed.clear()

    def seconds(self) -> dict[str, float]:
        """Return the seconds that each stage took, over all starts of the search.

        A value that is no time comes as it is: a report says so and shows the others.
        """
        with self._errors():
            return dict(self._connection.execute("SELECT stage, seconds FROM stages"))

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._connection.close()

    def add_trainings(self, keys: Sequence[str], trainings: Sequence[Training]) -> None:
        """Store finished trainings, under keys that are new; they are on the disk on return."""
        rows = []
        for key, t in zip(keys, trainings, strict=True):
            sweep, curve = json.dumps(t.sweep), json.dumps(t.curve)
            rows.append((key, t.reward, t.learning_rate, t.status, sweep, curve, t.seconds))
        self._insert("trainings", rows)

    def has_training(self, key: str) -> bool:
        """Return whether something is stored under a key."""
        with self._errors():
            row = self._connection.execute("SELECT 1 FROM trainings WHERE key = ?", (key,))
            return row.fetchone() is not None

    def training(self, key: str) -> Training:
        """Return what is stored under a key.

        Raises:
            OSError: nothing is, or it is damaged.
        """
        rows = self._select("trainings", "WHERE key = ?", key)
        if not rows:
            raise self._damaged(f"it has no training {key}")
        return self._as_training(rows[0])

    def _as_training(self, row: Sequence) -> Training:
        key, reward, rate, status, sweep, curve, seconds = row
        try:
            lists = tuple(json.loads(sweep)), tuple(json.loads(curve))
            training = Training(reward, rate, status, *lists, seconds)
        except (TypeError, ValueError, RecursionError):
            training = None
        if training is None or not _is_training(training):
            raise self._damaged(f"training {key!r:.100} is not what was written")
        return training

    def trainings(self) -> dict[str, Training]:
        """Return all that is stored, by key, in the order in which it was."""
        rows = self._select("trainings", "ORDER BY rowid")
        return {row[0]: self._as_training(row) for row in rows}

    def save_state(self, populations: int, state: Any) -> None:
        """Store a strategy's state in place of the one before.

        Args:
            populations: how many the strategy was told.
            state: a pytree of arrays.
        """
        content = flax.serialization.to_bytes(jax.tree.map(np.asarray, state))
        self._insert("states", [(0, populations, content)], "REPLACE")

    def state(self, template: Any, most: int) -> tuple[int, Any] | None:
        """Return the stored state of a strategy, and the populations that it was told.

        Args:
            template: a state of the same structure.
            most: the populations that the history holds; a later state is of no use.

        Returns:
            None where there is none. One that is damaged, or another strategy's, gives a warning.
        """
        template = jax.tree.map(np.asarray, template)
        try:
            rows = self._select("states", "")
            if not rows or rows[0][1] > most:
                return None
            ((_, populations, content),) = rows
            state = flax.serialization.from_bytes(template, content)
            if _shapes(state) != _shapes(template):
                raise ValueError("it is of another strategy")
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"{self.path}: the strategy's state cannot be read ({printable(error):.200}); it "
                "is worked out again from the history",
                stacklevel=2,
            )
            return None
        return populations, state

    def add_watched(self, row: Watched) -> None:
        """Store what the best rule comes to on the watch tasks."""
        self._insert("watched", [(*row[:-1], json.dumps(row.rewards))])

    def watched(self) -> dict[int, Watched]:
        """Return what was stored of the watch tasks, by number.

        Raises:
            OSError: it is damaged.
        """
        found = {}
        for *values, text in self._select("watched", "ORDER BY number"):
            try:
                row = Watched(*values, tuple(json.loads(text)))
            except (TypeError, ValueError, RecursionError):
                row = None
            if row is None or not _is_watched(row):
                raise self._damaged(f"watched {values[0]!r:.100} is not what was written")
            found[row.number] = row
        return found

    def add_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Store a population, all of it or nothing."""
        self._insert("candidates", [dataclasses.astuple(candidate) for candidate in candidates])

    def candidates(self) -> list[Candidate]:
        """Return all candidates in order.

        Raises:
            OSError: they cannot be read, or are damaged.
        """
        rows = self._select("candidates", "ORDER BY id")
        if [row[0] for row in rows] != list(range(len(rows))):
            raise self._damaged("candidates are missing")
        found = [Candidate(*row) for row in rows]
        for candidate in found:
            if not _is_candidate(candidate):
                raise self._damaged(f"candidate {candidate.id} is not what was written")
        return found

    def _insert(self, table: str, rows: Sequence[tuple], verb: str = "INSERT") -> None:
        """Append rows, or replace those of the same key; all of them or none."""
        marks = ", ".join("?" * (len(_TABLES[table]) + 1))
        checked = [(*row, _checksum(row)) for row in rows]
        with self._errors(), self._transaction() as connection:
            connection.executemany(f"{verb} INTO {table} VALUES ({marks})", checked)
            self._add_seconds()

    def _select(self, table: str, which: str, *values: str) -> list[tuple]:
        """Return rows that are as they were written."""
        query = f"SELECT {', '.join(_TABLES[table])}, checksum FROM {table} {which}"
        with self._errors():
            rows = self._connection.execute(query, values).fetchall()
        for *row, checksum in rows:
            if checksum != _checksum(row):
                raise self._damaged(
                    f"{table.removesuffix('s')} {row[0]!r:.100} is not what was written"
                )
        return [row[:-1] for row in rows]

    def _damaged(self, what: str) -> OSError:
        return OSError(f"{self.path} is damaged: {what}; {_NEW_RUN}")

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back by itself
                self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        """Raise what went wrong as an OSError that names the file, and the remedy if one is known.

        The remedies are under SQLite's primary result codes, the low byte of the extended ones.
        """
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            remedy = f"; {_REMEDIES[code]}" if code in _REMEDIES else ""
            raise OSError(f"{self.path}: {printable(error)}{remedy}") from error


_TABLES = {
    "watched": Watched._fields,
    "candidates": tuple(field.name for field in dataclasses.fields(Candidate)),
    "trainings": ("key", *Training._fields),
    "states": ("number", "populations", "content"),
}


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open a file; for reading so that SQLite makes, changes and deletes nothing beside it."""
    if not read_only:
        return sqlite3.connect(path, isolation_level=None)
    # The index beside a file in use is only read; after a kill SQLite makes another in memory.
    index = "&readonly_shm=1" if path.with_name(f"{path.name}-shm").exists() else ""
    uri = f"{path.absolute().as_uri()}?mode=ro{index}"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def is_number(value: object) -> bool:
    """Whether a value from a file is a number; True is none."""
    return type(value) in (int, float)


def _is_candidate(candidate: Candidate) -> bool:
    """Whether the values are of the kinds that a search writes: a checksum can be made anew."""
    words = (candidate.rule, candidate.tokens, candidate.digest, candidate.fingerprint)
    return (
        all(isinstance(word, str) for word in (*words, candidate.status))
        and isinstance(candidate.reason, str | None)
        and isinstance(candidate.origin, int | None)
        and (candidate.origin is None or 0 <= candidate.origin <= candidate.id)
        and is_number(candidate.reward)
        and (candidate.learning_rate is None or is_number(candidate.learning_rate))
    )


def _is_watched(row: Watched) -> bool:
    """Whether the values are of the kinds that a search writes."""
    counts = (row.number, row.trained)
    return (
        all(type(count) is int for count in counts)
        and isinstance(row.rule, str)
        and all(map(is_number, (row.reward, row.low, *row.rewards)))
    )


def _is_training(training: Training) -> bool:
    """Whether the values are of the kinds that a search writes."""
    numbers = (training.learning_rate, *training.sweep, *training.curve)
    return (
        isinstance(training.status, str)
        and is_number(training.reward)
        and is_number(training.seconds)
        and all(number is None or is_number(number) for number in numbers)
    )


_NEW_RUN = "restore it from a copy, or start a new run"
_SPACE = "make room on the disk, then go on by --resume"
_REMEDIES = {
    sqlite3.SQLITE_FULL: _SPACE,
    sqlite3.SQLITE_IOERR: _SPACE,
    sqlite3.SQLITE_CORRUPT: _NEW_RUN,
    sqlite3.SQLITE_NOTADB: _NEW_RUN,
}


def _checksum(row: Sequence) -> int:
    """Return a checksum of a row, in which bytes count by a checksum of their own."""
    return zlib.crc32(json.dumps(row, default=_of_bytes).encode())


def _of_bytes(value: object) -> object:
    return zlib.crc32(value) if isinstance(value, bytes) else repr(value)


def _shapes(state: Any) -> tuple:
    """Return a state's structure, and its arrays' shapes and types."""
    leaves, structure = jax.tree.flatten(state)
    return structure, [(np.shape(x), np.asarray(x).dtype) for x in leaves]

"""What a search has seen: every candidate and every training, in one sqlite file.

Two tables. A training is stored the moment it is done, under what it was a training of, so that a
search that dies in the middle of a population repeats none. Candidates are stored a population at a
time, in one transaction: they are the search's history.
"""

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

FILE = "history.sqlite"
REJECTED = "rejected"  # a status beside those of trainings


class Training(NamedTuple):
    """What became of a program that was trained."""

    reward: float  # validation accuracy; the chance level for the dead and the diverged
    learning_rate: float | None  # None where every rate of the sweep diverged
    status: str  # trained, dead, diverged or stopped
    sweep: tuple[float | None, ...]  # accuracy of each learning rate; None where it diverged
    curve: tuple[float | None, ...]  # accuracy at the hurdles and the end; None where not met
    seconds: float  # its share of the time that its population took


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One sample of the search. It depends on the configuration alone, not on time or machine."""

    id: int
    rule: str  # infix
    tokens: str  # the vocabulary's words
    digest: str  # of the canonical form: the same for rules that algebra makes equal
    fingerprint: str  # the same for rules whose updates agree on the probes
    origin: int | None  # the candidate whose training this is, itself or an earlier; None: rejected
    reward: float
    learning_rate: float | None
    status: str
    reason: str | None  # why it was rejected untrained


class History:
    """The history of one run.

    Args:
        path: the sqlite file, made here if need be.

    Raises:
        OSError: it cannot be read or written, or is no history.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._errors():
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._transaction() as connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS candidates "
                    f"(id INTEGER PRIMARY KEY, {', '.join(_COLUMNS[1:])})"
                )
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS trainings "
                    f"(key TEXT PRIMARY KEY, {', '.join(Training._fields)})"
                )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._connection.close()

    def add_trainings(self, keys: Sequence[str], trainings: Sequence[Training]) -> None:
        """Store finished trainings, under keys that are new; they are on the disk on return."""
        rows = []
        for key, t in zip(keys, trainings, strict=True):
            sweep, curve = json.dumps(t.sweep), json.dumps(t.curve)
            rows.append((key, t.reward, t.learning_rate, t.status, sweep, curve, t.seconds))
        with self._errors(), self._transaction() as connection:
            connection.executemany(f"INSERT INTO trainings VALUES ({_marks(7)})", rows)

    def has_training(self, key: str) -> bool:
        """Return whether something is stored under a key."""
        with self._errors():
            row = self._connection.execute("SELECT 1 FROM trainings WHERE key = ?", (key,))
            return row.fetchone() is not None

    def training(self, key: str) -> Training:
        """Return what is stored under a key, which must be there."""
        with self._errors():
            row = self._connection.execute(
                f"SELECT {', '.join(Training._fields)} FROM trainings WHERE key = ?", (key,)
            ).fetchone()
        reward, rate, status, sweep, curve, seconds = row
        return Training(
            reward, rate, status, tuple(json.loads(sweep)), tuple(json.loads(curve)), seconds
        )

    def add_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Store a population, all of it or nothing."""
        rows = [dataclasses.astuple(candidate) for candidate in candidates]
        with self._errors(), self._transaction() as connection:
            connection.executemany(f"INSERT INTO candidates VALUES ({_marks(len(_COLUMNS))})", rows)

    def candidates(self) -> list[Candidate]:
        """Return all candidates in order."""
        with self._errors():
            rows = self._connection.execute("SELECT * FROM candidates ORDER BY id").fetchall()
        return [Candidate(*row) for row in rows]

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
        """Raise what went wrong as an OSError that names the file."""
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: {error}") from error


_COLUMNS = [field.name for field in dataclasses.fields(Candidate)]


def _marks(count: int) -> str:
    return ", ".join("?" * count)
